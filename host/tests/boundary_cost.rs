//! What a record costs at a plugin: decoded into columns before it, the call of the plugin with the check of its answer,
//! and encoded after it, in instructions: counted by valgrind, and held against the figures that stand in
//! `boundary_cost.json`. The plugin is the demo's, as it lies in the binary.
//!
//! Time depends on the machine and on its other work; instructions do not. Counted is this very test, run again under
//! callgrind, within [`measured`] alone: the build is the tests' own, without optimisation, so the figures say nothing of
//! speed, but nobody can add work to every record without moving them. Another compiler makes other instructions of the
//! same code: its figures may differ more. `PELTON_ACCEPT=1` writes what was counted.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test that cannot go on has failed")]

use std::collections::BTreeMap;
use std::hint::black_box;
use std::path::{Path, PathBuf};
use std::process::Command;

use pelton::config::{Format, Limits, Tombstones};
use pelton::demo::PLUGIN;
use pelton::pipeline::decode::Extractor;
use pelton::pipeline::encode::{self, Encoder, Origins, OutputEncoder, Stage};
use pelton::pipeline::{OutOp, OutRow, Transform as _, TransformInput, TransformOutput, Wants};
use pelton::plugin::{Capability, Runtime, WasmTransform};
use pelton::record::{Batch, Field, FieldType, Offset, OutputField, Policy, SetColumn, TopicPartition, WriteTime};

/// Says to this test, run again, what to run, and where the compiled plugin is kept: a compiler under valgrind takes
/// minutes.
const WORK: &str = "PELTON_MEASURED";
const CACHE: &str = "PELTON_MEASURED_CACHE";
/// Records of a batch, and batches: enough that what a call costs once shows in its share.
const RECORDS: usize = 128;
const BATCHES: usize = 10;
/// How far a count may rise under the compiler that the figures are of, and under another.
const TOLERANCE: (f64, f64) = (0.03, 0.25);

#[derive(Debug, serde::Serialize, serde::Deserialize)]
struct Figures {
    compiler: String,
    /// By work: instructions a record.
    instructions: BTreeMap<String, f64>,
}

#[test]
fn a_record_at_the_boundary_costs_no_more_than_it_did() {
    if let Ok(work) = std::env::var(WORK) {
        return run(&work);
    }
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/boundary_cost.json");
    let figures: Figures = serde_json::from_slice(&std::fs::read(&file).unwrap()).unwrap();
    let cache = tempfile::tempdir().unwrap();
    plugin(cache.path());
    let works = ["decode", "call", "encode"];
    let found: BTreeMap<String, f64> = std::thread::scope(|scope| {
        let count = |work: &'static str| (work.to_owned(), count(work, cache.path()));
        works.map(|work| scope.spawn(move || count(work))).map(|t| t.join().unwrap())
    })
    .into();
    let found = Figures { compiler: compiler(), instructions: found };
    if std::env::var("PELTON_ACCEPT").is_ok() {
        std::fs::write(&file, serde_json::to_string_pretty(&found).unwrap() + "\n").unwrap();
        return;
    }
    let tolerance = if figures.compiler == found.compiler { TOLERANCE.0 } else { TOLERANCE.1 };
    let names = |figures: &Figures| figures.instructions.keys().cloned().collect::<Vec<_>>();
    assert_eq!(names(&figures), names(&found));
    let mut breaches = Vec::new();
    for (work, count) in &found.instructions {
        let before = figures.instructions[work];
        let change = count / before - 1.0;
        eprintln!("{work}: {count:.0} instructions a record, {before:.0} before ({:+.1} %)", change * 100.0);
        if change > tolerance {
            breaches.push(format!("{work}: {count:.0} instructions a record, {before:.0} before"));
        }
        // A figure that was left behind by an improvement guards nothing.
        if change < -2.0 * TOLERANCE.1 {
            breaches.push(format!("{work}: {count:.0} instructions a record, and {before:.0} stands in the file"));
        }
    }
    assert!(
        breaches.is_empty(),
        "a record costs more than {:.0} % more at the boundary:\n{}\n(where that is worth it, PELTON_ACCEPT=1 accepts it; \
         `make bench` says what it means in time)",
        tolerance * 100.0,
        breaches.join("\n")
    );
}

fn compiler() -> String {
    let output = Command::new("rustc").arg("--version").output().unwrap();
    let version = String::from_utf8(output.stdout).unwrap();
    format!("{} on {}", version.trim(), std::env::consts::ARCH)
}

/// Runs this test again under callgrind; instructions a record.
fn count(work: &str, cache: &Path) -> f64 {
    let dir = tempfile::tempdir().unwrap();
    let out: PathBuf = dir.path().join("callgrind");
    let output = Command::new("valgrind")
        .args(["--tool=callgrind", "--collect-atstart=no", "--toggle-collect=*boundary_cost::measured*"])
        .arg(format!("--callgrind-out-file={}", out.display()))
        .arg(std::env::current_exe().unwrap())
        .args(["--exact", "a_record_at_the_boundary_costs_no_more_than_it_did", "--nocapture"])
        .env(WORK, work)
        .env(CACHE, cache)
        .output()
        .unwrap_or_else(|error| panic!("no valgrind: {error}; tests/harness/setup.sh installs it"));
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let text = std::fs::read_to_string(&out).unwrap();
    let total = text.lines().find_map(|line| line.strip_prefix("totals: ")).expect("callgrind says its total");
    let total: f64 = total.trim().parse().unwrap();
    assert!(total > 0.0, "nothing was counted: is `measured` a function of its own?");
    total / (RECORDS * BATCHES) as f64
}

/// What is counted, and nothing else.
#[inline(never)]
fn measured(work: &mut dyn FnMut()) {
    for _ in 0..BATCHES {
        work();
    }
}

fn run(work: &str) {
    let batch = batch();
    match work {
        "decode" => {
            let field = |name: &str, field_type| Field {
                path: vec![name.to_owned()],
                field_type,
                on_missing: Policy::Reject,
                on_mismatch: Policy::Reject,
            };
            let fields = [field("kind", FieldType::Symbol), field("amount", FieldType::F64)];
            let extractor = Extractor::json(&fields);
            let mut work = || assert!(black_box(extractor.extract(&batch)).rejects.is_empty());
            work();
            measured(&mut work);
        }
        "call" => {
            let plugin = plugin(&PathBuf::from(std::env::var_os(CACHE).unwrap()));
            let batch = orders();
            let extracted = Extractor::json(&plugin.subscription().value_fields).extract(&batch);
            assert!(extracted.rejects.is_empty(), "{:?}", extracted.rejects);
            let input = TransformInput { batch: &batch, value_fields: &extracted.columns };
            let mut work = || {
                let output = black_box(plugin.apply(&input)).unwrap();
                assert_eq!((output.rows.len(), output.failures.len()), (RECORDS, 0));
            };
            work();
            measured(&mut work);
        }
        "encode" => {
            let field = OutputField { path: vec!["cents".to_owned()], field_type: FieldType::S64 };
            let set_fields = vec![vec![field]];
            let output = OutputEncoder::new("default", &Wants::Records, &Tombstones::Reject, &set_fields);
            let encoder = Encoder { format: Format::Json, set_fields };
            let values = (0..RECORDS as i64).flat_map(i64::to_le_bytes).collect();
            let said = TransformOutput {
                rows: (0..RECORDS as u32).map(|row| OutRow { row, op: OutOp::Keep, route: 0 }).collect(),
                set_fields: vec![SetColumn { values, ..SetColumn::default() }],
                ..TransformOutput::default()
            };
            let stages = [Stage { step: Some(0), batch: std::sync::Arc::new(batch.clone()), output: said }];
            let write_times = vec![WriteTime(0); RECORDS];
            let mut work = || {
                let routed = encode::route(&stages, RECORDS, 1, |_, _| Some(0));
                let origins = Origins { source: &batch, write_times: &write_times, generation: 0 };
                let mut failures = Vec::new();
                black_box(encoder.sink_batch(&output, &stages, &routed[0], origins, &mut failures));
                assert!(failures.is_empty());
            };
            work();
            measured(&mut work);
        }
        other => panic!("no work {other}"),
    }
}

/// The demo's plugin, compiled before where `cache` has it.
fn plugin(cache: &Path) -> WasmTransform {
    let runtime = Runtime::new(Some(cache), 1).unwrap();
    let config = serde_json::json!({ "vat_percent": 19, "alert_above_eur": 5000 });
    let grants = [Capability::Log, Capability::Metrics, Capability::Clock].into();
    WasmTransform::from_bytes(&runtime, "shop-orders", PLUGIN, &config, &grants, Limits::default()).unwrap()
}

/// What the demo's plugin reads: each record leaves as one row.
fn orders() -> Batch {
    let mut batch = Batch::new(TopicPartition::new("shop.orders", 0));
    for row in 0..RECORDS {
        let value = format!(
            r#"{{"order_id":"o-{row}","kind":"created","ts":1700000000000,"customer":{{"id":"c-{row}","country":"DE"}},"currency":"EUR","amount_cents":1250,"items":[{{"sku":"A-1","quantity":1,"price_cents":1250}}]}}"#
        );
        batch.push(Offset(row as i64), Some(1_700_000_000_000), Some(b"key"), Some(value.as_bytes()), []);
    }
    batch
}

fn batch() -> Batch {
    let mut batch = Batch::new(TopicPartition::new("shop.orders", 0));
    for row in 0..RECORDS {
        let value = format!(
            r#"{{"kind":"purchase","user":"user-{row:06}","amount":62.00,"geo":{{"country":"DE","city":"Berlin"}},"items":[{{"sku":"A-1","n":2}}]}}"#
        );
        let headers = [("trace", Some(&b"0123456789abcdef"[..])), ("type", Some(&b"order"[..]))];
        batch.push(Offset(row as i64), Some(1_700_000_000_000), Some(b"key"), Some(value.as_bytes()), headers);
    }
    batch
}
