//! Every guest of `tests/guests` is contained, and each in its own way.

#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "tests")]

mod support;

use std::collections::BTreeSet;
use std::sync::LazyLock;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use pelton::config::{Limits, Mask};
use pelton::pipeline::{
    LogLine, MetricUpdate, OutOp, OutRow, Span, Transform as _, TransformError, TransformInput, TrapKind,
};
use pelton::plugin::{Capability, Compiler, LoadError, Runtime, WasmTransform};
use pelton::record::{Batch, Field, FieldColumn, FieldType, Offset, Policy, TopicPartition};
use proptest::prelude::*;
use support::{apply, batch, load, load_with, refused};

/// Declares the tests, and with them the list that the folders are held against.
macro_rules! guests {
    ($($name:ident => $body:block)*) => {
        const TESTED: &[&str] = &[$(stringify!($name)),*];
        $(#[test] fn $name() $body)*
    };
}

#[test]
fn every_guest_has_a_test_and_every_test_a_guest() {
    let folders: BTreeSet<String> = support::guests().into_iter().collect();
    assert_eq!(folders, TESTED.iter().map(|name| (*name).to_owned()).collect());
}

/// What a trap leaves behind.
struct Trapped {
    kind: TrapKind,
    message: String,
    backtrace: String,
    logs: Vec<LogLine>,
}

fn trapped(guest: &str, limits: Limits) -> Trapped {
    let guest = load_with(guest, &Capability::ALL, limits).unwrap_or_else(|error| panic!("{guest}: {error}"));
    let first = trap_of(&guest, &batch(&["a"]));
    // A trap poisons the instance; the next batch meets another one, which fails in the same way.
    let second = trap_of(&guest, &batch(&["a"]));
    assert_eq!((first.kind, &first.backtrace), (second.kind, &second.backtrace));
    first
}

fn trap_of(guest: &pelton::plugin::WasmTransform, batch: &Batch) -> Trapped {
    match apply(guest, batch) {
        Err(TransformError::Trap { kind, message, backtrace, logs }) => Trapped { kind, message, backtrace, logs },
        other => panic!("{}: {other:?}", guest.name()),
    }
}

fn thread_cpu() -> Duration {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::ThreadCPUTime);
    Duration::new(time.tv_sec.unsigned_abs(), time.tv_nsec.unsigned_abs() as u32)
}

/// A guest that never ends is stopped within 100 ms of its limit, in the CPU time of its own thread: a busy machine does
/// not change the outcome.
fn stopped_in_time(guest: &str) -> Trapped {
    let limits = Limits {
        cpu_per_batch: Duration::from_millis(150),
        cpu_per_record: Duration::from_millis(150),
        ..Limits::default()
    };
    let loaded = load_with(guest, &Capability::ALL, limits).unwrap_or_else(|error| panic!("{guest}: {error}"));
    let before = thread_cpu();
    let trapped = trap_of(&loaded, &batch(&["a"]));
    let used = thread_cpu() - before;
    assert_eq!(trapped.kind, TrapKind::CpuLimit, "{}", trapped.message);
    assert!(used >= limits.cpu_per_batch, "stopped after {used:?}");
    assert!(used < limits.cpu_per_batch + Duration::from_millis(100), "stopped after {used:?}");
    trapped
}

/// Enough CPU time for what sins in another way.
fn patient() -> Limits {
    let seconds = Duration::from_secs(20);
    Limits { cpu_per_batch: seconds, cpu_per_record: seconds, ..Limits::default() }
}

fn with_output(output_bytes: usize) -> Limits {
    Limits { output_bytes, ..Limits::default() }
}

/// A column of text cells in the layout of `wit/types.wit`.
fn text_column(cells: &[&str]) -> FieldColumn {
    let mut column = FieldColumn { values: vec![0; 4], ..FieldColumn::default() };
    for cell in cells {
        column.data.extend_from_slice(cell.as_bytes());
        column.values.extend_from_slice(&(column.data.len() as u32).to_le_bytes());
    }
    column
}

fn s64s(values: &[i64]) -> Vec<u8> {
    values.iter().flat_map(|value| value.to_le_bytes()).collect()
}

guests! {
    mirrors => {
        let guest = load("mirrors");
        let subscription = guest.subscription();
        assert!(subscription.parts.key && subscription.parts.value && subscription.parts.all_headers);
        assert!(subscription.parts.offset && subscription.parts.timestamp);
        assert_eq!((subscription.headers[0].as_str(), subscription.routes[0].as_str()), ("trace", "other"));
        let name = Field {
            path: vec!["name".into()], field_type: FieldType::Text, on_missing: Policy::Null, on_mismatch: Policy::Reject,
        };
        assert_eq!(subscription.value_fields, [name]);

        let mut records = Batch::new(TopicPartition::new("shop.orders", 3));
        records.push(Offset(7), Some(1_000), Some(b"k1"), Some(b"v1"), [("trace", Some(&b"old"[..])), ("trace", Some(b"one"))]);
        records.push(Offset(9), None, None, None, [("other", Some(&b"x"[..]))]);
        records.push(Offset(12), Some(3_000), Some(b"k3"), Some("v\u{fc}".as_bytes()), [("trace", Some(&b""[..]))]);
        let names = text_column(&["Ann", "", "Zo\u{eb}"]);
        for _ in 0..3 {
            let input = TransformInput { batch: &records, value_fields: std::slice::from_ref(&names) };
            let output = guest.apply(&input).unwrap();
            assert_eq!(
                output.rows,
                [
                    OutRow { row: 0, op: OutOp::Replace(Span { offset: 0, length: 3 }), route: 1 },
                    OutRow { row: 1, op: OutOp::Tombstone, route: 1 },
                    OutRow { row: 2, op: OutOp::Replace(Span { offset: 3, length: 0 }), route: 1 },
                ]
            );
            assert_eq!(output.data, b"one");
            assert_eq!(output.set_fields[0].values, s64s(&[1_000, -1, 3_000]));
            assert_eq!(output.set_fields[1].values, s64s(&[7, 9, 12]));
            assert_eq!((&output.set_fields[2].values, &output.set_fields[2].data), (&names.values, &names.data));
            let lines: Vec<&str> = output.effects.logs.iter().map(|line| line.message.as_str()).collect();
            assert_eq!(lines[..3], ["shop.orders", "k1k3", "v1v\u{fc}"]);
            assert!(lines[3].contains("old") && lines[3].contains("other"));
        }
        // Any part of a batch is a batch, down to none of it.
        for rows in [vec![2], vec![0, 1], vec![]] {
            let part = records.select(rows.clone());
            let all = ["Ann", "", "Zo\u{eb}"];
            let names = text_column(&rows.iter().map(|row| all[*row]).collect::<Vec<_>>());
            let output = guest.apply(&TransformInput { batch: &part, value_fields: &[names] }).unwrap();
            assert_eq!(output.rows.len(), rows.len());
        }
    }

    asks_the_host => {
        let config = serde_json::json!({ "greeting": { "text": "hello" }, "other": 1 });
        let guest = support::load_on(support::runtime(), "asks_the_host", &config);
        let records = batch(&["a", "b"]);
        let output = apply(&guest, &records).unwrap();
        assert_eq!(output.set_fields[0].values, s64s(&records.timestamps));
        assert_ne!(output.set_fields[1].values[..8], output.set_fields[1].values[8..]);
        assert_eq!(output.effects.logs[0].message, r#"{"text":"hello"}"#);
        assert_eq!(
            output.effects.metrics,
            [
                MetricUpdate::Count("time".into(), 2),
                MetricUpdate::Observe("greeting".into(), 0.0),
                MetricUpdate::Observe("greeting".into(), 1.0),
                MetricUpdate::Gauge("seed".into(), 2.0),
            ]
        );
        // The same record sees the same chance in another batch, on another instance, after a restart.
        let again = support::load_on(support::runtime(), "asks_the_host", &serde_json::Value::Null);
        let second = apply(&again, &records.select([1])).unwrap();
        assert_eq!(second.set_fields[1].values, output.set_fields[1].values[8..]);
        assert!(second.effects.logs.is_empty(), "no such key");
    }

    well_behaved => {
        let guest = load("well_behaved");
        let output = apply(&guest, &batch(&["a", "b"])).unwrap();
        assert_eq!(output.rows.len(), 2);
        assert!(output.usage.cpu_ns > 1_000_000, "{:?}", output.usage);
        assert_eq!(output.usage.memory_bytes, 2 << 16);
    }

    spins => {
        let trapped = stopped_in_time("spins");
        assert!(trapped.message.contains("its limit is 150 ms"), "{}", trapped.message);
    }

    spins_in_configure => {
        let error = refused("spins_in_configure");
        assert!(matches!(error, LoadError::Start { kind: TrapKind::CpuLimit, .. }), "{error}");
    }

    fills_memory => {
        stopped_in_time("fills_memory");
    }

    floods_host_calls => {
        let trapped = stopped_in_time("floods_host_calls");
        assert_eq!(trapped.logs.len(), 20);
    }

    allocates => {
        let trapped = trapped("allocates", Limits::default());
        assert_eq!(trapped.kind, TrapKind::MemoryLimit, "{}", trapped.message);
        assert!(trapped.message.contains("its limit is 67108864"), "{}", trapped.message);
        assert!(trapped.backtrace.contains("out-of-memory"), "{}", trapped.backtrace);
    }

    born_too_big => {
        let error = refused("born_too_big");
        assert!(matches!(error, LoadError::Start { kind: TrapKind::MemoryLimit, .. }), "{error}");
    }

    panics => {
        let trapped = trapped("panics", Limits::default());
        assert_eq!(trapped.kind, TrapKind::Trap);
        assert!(trapped.message.contains("unreachable"), "{}", trapped.message);
        assert_eq!(trapped.backtrace.lines().take(2).collect::<Vec<_>>(), ["panic_handler", "apply_one_row"]);
        assert_eq!(trapped.logs[0].message, "called `Option::unwrap()` on a `None` value");
    }

    recurses => {
        let trapped = trapped("recurses", Limits::default());
        assert_eq!(trapped.kind, TrapKind::Trap);
        assert!(trapped.message.contains("stack"), "{}", trapped.message);
        assert!(trapped.backtrace.lines().count() <= 64);
    }

    floods_logs => {
        let output = apply(&load("floods_logs"), &batch(&["a"])).unwrap();
        let bytes: usize = output.effects.logs.iter().map(|line| line.message.len()).sum();
        assert!(bytes <= 256 << 10, "{bytes} bytes of lines");
        assert_eq!(output.effects.logs.len() as u64 + output.effects.logs_dropped, 1000);
        assert!(output.effects.logs[0].message.contains("cut"));
    }

    floods_metrics => {
        let output = apply(&load("floods_metrics"), &batch(&["a"])).unwrap();
        assert_eq!((output.effects.metrics.len(), output.effects.metrics_dropped), (64, 10_000 - 64));
    }

    floods_output => {
        let trapped = trapped("floods_output", with_output(1 << 20));
        assert_eq!(trapped.kind, TrapKind::OutputLimit, "{}", trapped.message);
        let checked = self::trapped("floods_output", with_output(8 << 20 >> 1));
        assert_eq!(checked.kind, TrapKind::OutputLimit, "{}", checked.message);
        assert!(apply(&load("floods_output"), &batch(&["a"])).is_ok(), "within its limit it may");
    }

    multiplies => {
        let large = "x".repeat(10_000);
        let guest = load_with("multiplies", &[], with_output(1 << 20)).unwrap();
        let trapped = trap_of(&guest, &batch(&[&large]));
        assert_eq!(trapped.kind, TrapKind::OutputLimit, "{}", trapped.message);
        assert_eq!(apply(&guest, &batch(&["x"])).unwrap().rows.len(), 1000);
    }

    lies_rows => { lies("lies_rows", "row 7"); }
    lies_spans => { lies("lies_spans", "4..12"); }
    lies_lengths => { lies("lies_lengths", "not a multiple of 4"); }
    lies_pointers => { lies("lies_pointers", "out of bounds"); }
    lies_text => { lies("lies_text", "utf-8"); }
    fails_and_keeps => { lies("fails_and_keeps", "both fails and leaves"); }

    traps_in_configure => {
        let LoadError::Start { kind: TrapKind::Trap, backtrace, .. } = refused("traps_in_configure") else { panic!("another error") };
        assert!(backtrace.starts_with("read_configuration"), "{backtrace}");
    }

    refuses_config => {
        let error = refused("refuses_config").to_string();
        assert_eq!(error, "it refuses its configuration: vat_percent: must be a number");
    }

    sets_twice => {
        let error = refused("sets_twice").to_string();
        assert_eq!(error, "its subscription is not valid: set-field `total` stands there twice");
    }

    gives_up => {
        let trapped = trapped("gives_up", Limits::default());
        assert_eq!((trapped.kind, trapped.message.as_str()), (TrapKind::Fatal, "no model loaded"));
    }

    procrastinates => {
        let answer = apply(&load("procrastinates"), &batch(&["a"]));
        assert!(matches!(&answer, Err(TransformError::Retry { message, .. }) if message == "not now"), "{answer:?}");
    }

    asks_too_much => {
        let error = load_with("asks_too_much", &[Capability::Log], Limits::default()).unwrap_err();
        insta::assert_snapshot!(error, @r"
        it asks for more than it is granted
          asks for: log, clock, random
          granted:  log
          missing:  clock, random; to grant it, write `grants: [log, clock, random]`
        ");
        assert!(apply(&load("asks_too_much"), &batch(&["a"])).is_ok(), "with its grants it may");
    }

    asks_for_other_rows => {
        let trapped = trapped("asks_for_other_rows", Limits::default());
        assert_eq!(trapped.kind, TrapKind::Trap);
        assert_eq!(trapped.message, "clock.time was asked for row 1, which is not in the current batch");
    }

    reallocs_outside => { lies("reallocs_outside", "beyond end of memory"); }
    reallocs_askew => { lies("reallocs_askew", "not aligned"); }

    reallocs_one_place => {
        // Its own input lies in ruins, and what it answers holds all the same.
        assert_eq!(apply(&load("reallocs_one_place"), &batch(&["a", "b"])).unwrap().rows.len(), 2);
    }

    spins_in_realloc => { stopped_in_time("spins_in_realloc"); }
    spins_in_post_return => { stopped_in_time("spins_in_post_return"); }

    grows_in_realloc => {
        let limits = Limits { memory_bytes: 24 << 20, ..Limits::default() };
        match load_with("grows_in_realloc", &[], limits) {
            Err(LoadError::Start { kind: TrapKind::MemoryLimit, .. }) => {}
            Ok(guest) => assert_eq!(trap_of(&guest, &batch(&["a"])).kind, TrapKind::MemoryLimit),
            Err(error) => panic!("{error}"),
        }
    }

    calls_out_of_realloc => {
        let trapped = trapped("calls_out_of_realloc", Limits::default());
        assert_eq!(trapped.kind, TrapKind::Trap);
        assert!(trapped.message.contains("cannot leave component instance"), "{}", trapped.message);
    }

    traps_in_post_return => {
        let trapped = trapped("traps_in_post_return", Limits::default());
        assert_eq!(trapped.kind, TrapKind::Trap);
        assert!(trapped.backtrace.starts_with("tidy_up"), "{}", trapped.backtrace);
    }

    spins_in_start => {
        let error = refused("spins_in_start");
        assert!(matches!(error, LoadError::Start { kind: TrapKind::CpuLimit, .. }), "{error}");
    }

    fills_its_table => {
        let trapped = trapped("fills_its_table", patient());
        assert_eq!(trapped.kind, TrapKind::MemoryLimit, "{}", trapped.message);
        assert!(trapped.backtrace.starts_with("out-of-table"), "{}", trapped.backtrace);
    }

    born_with_a_giant_table => {
        let error = refused("born_with_a_giant_table");
        assert!(matches!(error, LoadError::Compile { .. }), "{error}");
        assert!(error.to_string().contains("table"), "{error}");
    }

    creeps => {
        let guest = load_with("creeps", &[], patient()).unwrap();
        for _ in 0..40 {
            apply(&guest, &batch(&["a"])).expect("an instance that has grown is replaced in time");
        }
    }

    lies_later => {
        let guest = load("lies_later");
        assert!(apply(&guest, &batch(&["a"])).is_ok());
        assert!(apply(&guest, &batch(&["a"])).is_ok());
        assert_eq!(trap_of(&guest, &batch(&["a"])).kind, TrapKind::InvalidOutput);
        assert!(apply(&guest, &batch(&["a"])).is_ok(), "a fresh instance");
    }

    dawdles => {
        let unlimited = patient();
        let used = apply(&load_with("dawdles", &[], unlimited).unwrap(), &batch(&["a"])).unwrap().usage.cpu_ns;
        let twice = Duration::from_nanos(used * 2);
        let limits = Limits { cpu_per_batch: twice, cpu_per_record: twice, ..Limits::default() };
        let guest = load_with("dawdles", &[], limits).unwrap();
        for _ in 0..4 {
            apply(&guest, &batch(&["a"])).expect("each batch has the whole budget: nothing is carried over");
        }
    }

    speaks_from_the_deep => {
        let trapped = trapped("speaks_from_the_deep", patient());
        assert_eq!(trapped.kind, TrapKind::Trap);
        assert!(trapped.message.contains("stack"), "{}", trapped.message);
    }

    shouts => {
        let trapped = trapped("shouts", Limits::default());
        assert_eq!(trapped.kind, TrapKind::CpuLimit, "{}", trapped.message);
        assert!(trapped.logs.iter().all(|line| line.message.len() < 5_000));
    }

    floods_failures => {
        let trapped = trapped("floods_failures", patient());
        assert_eq!(trapped.kind, TrapKind::InvalidOutput, "{}", trapped.message);
        assert!(trapped.message.contains("failure code"), "{}", trapped.message);
    }

    refuses_at_length => {
        let error = refused("refuses_at_length");
        assert!(matches!(error, LoadError::Config { .. }), "another error");
        let error = error.to_string();
        assert!(error.len() < 5_000, "{} bytes", error.len());
        assert!(error.ends_with("(41943040 bytes, cut)"), "{}", &error[4_000..]);
    }

    gives_up_at_length => {
        let trapped = trapped("gives_up_at_length", patient());
        assert_eq!(trapped.kind, TrapKind::Fatal);
        assert!(trapped.message.len() < 5_000, "{} bytes", trapped.message.len());
    }

    names_itself_at_length => {
        let trapped = trapped("names_itself_at_length", patient());
        assert_eq!(trapped.kind, TrapKind::Trap);
        assert!(trapped.backtrace.starts_with("nnnn"));
        assert!(trapped.backtrace.len() < 64 * 600, "{} bytes", trapped.backtrace.len());
    }

    exports_without_end => {
        let error = refused("exports_without_end").to_string();
        assert_eq!(error, "it has more than 1000 exports, a plugin may have 1000");
    }

    compiles_for_ever => {
        let error = refused("compiles_for_ever");
        assert!(matches!(error, LoadError::TooCostly { .. }), "{error}");
    }

    weighs_100_mib => {
        let error = refused("weighs_100_mib");
        assert!(matches!(error, LoadError::TooLarge { max: 67_108_864, .. }), "{error}");
    }

    brings_much_code => {
        // Within what is set aside for its size, or not: in either case it costs this process no more than the image.
        match load_with("brings_much_code", &[], Limits::default()) {
            Ok(guest) => assert!(apply(&guest, &batch(&["a"])).is_ok()),
            Err(error) => assert!(matches!(error, LoadError::TooCostly { .. }), "{error}"),
        }
    }

    carries_ballast => {
        assert!(apply(&load("carries_ballast"), &batch(&["a"])).is_ok());
    }

    brings_giant_data => {
        assert!(apply(&load("brings_giant_data"), &batch(&["a"])).is_ok());
    }

    brings_many_modules => {
        let error = refused("brings_many_modules");
        assert!(matches!(error, LoadError::Start { kind: TrapKind::MemoryLimit, .. }), "{error}");
        assert!(error.to_string().contains("instance count too high"), "{error}");
    }

    hoards_handles => {
        let trapped = trapped("hoards_handles", patient());
        assert!(trapped.message.contains("handle limit"), "{}", trapped.message);
    }

    prints_in_knots => {
        let error = refused("prints_in_knots").to_string();
        assert!(error.contains("`wasi:io/streams#[method]output-stream.write` takes lists of more than numbers"), "{error}");
    }

    forges_handles => {
        let trapped = trapped("forges_handles", Limits::default());
        assert!(trapped.message.contains("unknown handle index"), "{}", trapped.message);
    }

    hides_state => {
        let guest = load("hides_state");
        let records = batch(&["a"]);
        let fresh = apply(&guest, &records).unwrap();
        let reused = apply(&guest, &records).unwrap();
        guest.drop_instances();
        let fresh_again = apply(&guest, &records).unwrap();
        assert_ne!(fresh.rows, reused.rows);
        assert_eq!(fresh.rows, fresh_again.rows);
    }

    hoards => {
        let guest = load("hoards");
        for _ in 0..3 {
            apply(&guest, &batch(&["a"])).expect("each batch meets an instance that has not grown yet");
        }
    }

    chokes => {
        let guest = load("chokes");
        let trapped = trap_of(&guest, &batch(&["good", "Poison", "good"]));
        assert!(trapped.backtrace.starts_with("choke_on_row"), "{}", trapped.backtrace);
        assert_eq!(apply(&guest, &batch(&["good", "", "good"])).unwrap().rows.len(), 3);
    }

    wrong_world => {
        let error = refused("wrong_world").to_string();
        assert_eq!(
            error,
            "it is no transform: it exports run, a transform exports `configure` and `process`; build it for the world \
             `pelton:plugin/transform`"
        );
    }

    wrong_types => {
        let error = refused("wrong_types");
        assert!(matches!(error, LoadError::Interface { .. }), "{error}");
        insta::assert_snapshot!(error, @"its functions have other types than `pelton:plugin@0.1.0` (type-checking export func `configure`: expected 1-tuple, found 0-tuple); build it anew against the interface of this host");
    }

    wants_the_unknown => {
        insta::assert_snapshot!(refused("wants_the_unknown"), @r"
        it asks for more than it is granted
          asks for: nothing
          granted:  log, metrics, config, clock, random
          unknown:  acme:hardware/gpu@1.0.0; this host offers log, metrics, config, clock, random of pelton:plugin
          version:  pelton:plugin/log@0.2.0; this host speaks 0.1.0, build it anew against that
        ");
    }

    prints => {
        let guest = load("prints");
        let output = apply(&guest, &batch(&["a"])).unwrap();
        let lines: Vec<&str> = output.effects.logs.iter().map(|line| line.message.as_str()).collect();
        assert_eq!(lines, ["one line", "another"]);
        let silent = load_with("prints", &[], Limits::default()).unwrap();
        assert!(apply(&silent, &batch(&["a"])).unwrap().effects.logs.is_empty(), "what is not granted is not given");
    }

    repeats_its_config => {
        let config = serde_json::json!({ "token": "abc123-and-more" });
        let guest = support::load_on(support::runtime(), "repeats_its_config", &config);
        let said = logged(|| guest.tell_first_words(&Mask::of(["abc123-and-more"])));
        assert!(said.contains(r#"{"token":"***"}"#) && !said.contains("abc123"), "{said}");
        // What it says about a batch is masked behind its door: `pipeline::masking`.
        let output = apply(&guest, &batch(&["a"])).unwrap();
        assert_eq!(output.effects.logs[0].message, config.to_string());
        assert_eq!((output.failures[0].code.as_str(), output.failures[0].message.as_str()), ("call_failed", config.to_string().as_str()));
    }

    looks_at_the_clock => {
        let trapped = trapped("looks_at_the_clock", Limits::default());
        assert_eq!(trapped.kind, TrapKind::Trap);
        assert!(trapped.message.contains("`wasi:clocks/wall-clock#now` was called"), "{}", trapped.message);
    }
}

/// What is logged meanwhile.
fn logged(work: impl FnOnce()) -> String {
    let (mut reader, writer) = std::io::pipe().unwrap();
    let subscriber =
        tracing_subscriber::fmt().with_ansi(false).with_writer(move || writer.try_clone().unwrap()).finish();
    tracing::subscriber::with_default(subscriber, work);
    let mut text = String::new();
    std::io::Read::read_to_string(&mut reader, &mut text).unwrap();
    text
}

fn lies(guest: &str, about: &str) {
    let trapped = trapped(guest, Limits::default());
    assert_eq!(trapped.kind, TrapKind::InvalidOutput, "{guest}: {}", trapped.message);
    assert!(trapped.message.contains(about), "{guest}: {}", trapped.message);
}

#[test]
fn a_good_guest_is_not_failed_by_a_machine_loaded_four_times_over() {
    let alone = apply(&load("well_behaved"), &batch(&["a"])).unwrap().usage.cpu_ns;
    // Less than the wall time of one batch under this load, more than its CPU time on a slow day.
    let limits = Limits { cpu_per_batch: Duration::from_nanos(alone * 5 / 2), ..Limits::default() };
    let guest = load_with("well_behaved", &[], limits).unwrap();
    let cores = std::thread::available_parallelism().unwrap().get();
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        for _ in 0..cores * 4 {
            scope.spawn(|| {
                while !done.load(Ordering::Relaxed) {
                    std::hint::spin_loop();
                }
            });
        }
        let results: Vec<_> = (0..10).map(|_| apply(&guest, &batch(&["a", "b"]))).collect();
        done.store(true, Ordering::Relaxed);
        for result in results {
            result.expect("good under load");
        }
    });
}

#[test]
fn a_batch_of_one_record_may_not_take_the_time_of_many() {
    let limits = Limits {
        cpu_per_batch: Duration::from_secs(60),
        cpu_per_record: Duration::from_millis(20),
        ..Limits::default()
    };
    let guest = load_with("spins", &[], limits).unwrap();
    for (records, limit) in [(&["a"][..], "its limit is 70 ms"), (&["a", "b", "c"], "its limit is 110 ms")] {
        let trapped = trap_of(&guest, &batch(records));
        assert_eq!(trapped.kind, TrapKind::CpuLimit, "{}", trapped.message);
        assert!(trapped.message.contains(limit), "{}", trapped.message);
    }
}

#[test]
fn a_guest_may_be_asked_for_on_an_instance_that_has_seen_nothing() {
    let guest = load("hides_state");
    let records = batch(&["a"]);
    let first = apply(&guest, &records).unwrap();
    let input = TransformInput { batch: &records, value_fields: &[] };
    for _ in 0..3 {
        assert_eq!(guest.apply_fresh(&input).unwrap().rows, first.rows);
    }
}

#[test]
fn a_machine_that_is_too_busy_is_not_the_records_fault() {
    let hour = Duration::from_secs(3600);
    let limits =
        Limits { wall_per_batch: Duration::ZERO, cpu_per_batch: hour, cpu_per_record: hour, ..Limits::default() };
    let guest = load_with("spins", &[], limits).unwrap();
    let answer = apply(&guest, &batch(&["a"]));
    assert!(matches!(answer, Err(TransformError::Busy { .. })), "{answer:?}");
}

#[test]
fn a_trusted_guest_runs_where_nothing_interrupts_it() {
    let limits = Limits { trusted: true, cpu_per_batch: Duration::ZERO, ..Limits::default() };
    let guest = load_with("well_behaved", &[], limits).unwrap();
    assert_eq!(apply(&guest, &batch(&["a"])).unwrap().rows.len(), 1);
}

#[test]
fn several_threads_run_one_plugin_side_by_side() {
    let guest = load("mirrors");
    let names = text_column(&["Ann", "Zoe"]);
    std::thread::scope(|scope| {
        for thread in 0..4_i64 {
            let (guest, names) = (&guest, &names);
            scope.spawn(move || {
                for round in 0..200 {
                    let mut records = Batch::new(TopicPartition::new("t", thread as i32));
                    let offset = thread * 10_000 + round;
                    for row in 0..2 {
                        records.push(Offset(offset + row), None, None, Some(b"v"), []);
                    }
                    let input = TransformInput { batch: &records, value_fields: std::slice::from_ref(names) };
                    let output = guest.apply(&input).unwrap();
                    assert_eq!(output.set_fields[1].values, s64s(&[offset, offset + 1]));
                }
            });
        }
    });
}

#[test]
fn a_compiled_plugin_is_kept_and_used_again() {
    let dir = tempfile::tempdir().unwrap();
    let cache = dir.path().join("cache");
    let start = || Runtime::new(Some(&cache), 1).unwrap();
    support::load_on(&start(), "chokes", &serde_json::Value::Null);
    let images = || -> Vec<_> { std::fs::read_dir(&cache).unwrap().map(|entry| entry.unwrap().path()).collect() };
    let kept = images();
    assert_eq!(kept.len(), 1);
    let written = |path: &std::path::Path| std::fs::metadata(path).unwrap().modified().unwrap();
    let first = written(&kept[0]);

    let guest = support::load_on(&start(), "chokes", &serde_json::Value::Null);
    assert!(apply(&guest, &batch(&["a"])).is_ok());
    assert_eq!((images(), written(&kept[0])), (kept.clone(), first), "it came from the cache");

    // Damage anywhere is found before a byte of it is run.
    let whole = std::fs::read(&kept[0]).unwrap();
    for at in [0, 31, 32, whole.len() / 2, whole.len() - 1] {
        let mut damaged = whole.clone();
        damaged[at] ^= 1;
        std::fs::write(&kept[0], damaged).unwrap();
        let guest = support::load_on(&start(), "chokes", &serde_json::Value::Null);
        assert!(apply(&guest, &batch(&["a"])).is_ok());
        assert_eq!(std::fs::read(&kept[0]).unwrap()[..32], whole[..32], "it was compiled anew");
    }
}

/// A plugin may be compiled for hours by its author, and in the daemon it is not: what the compiler's process makes is as
/// good as what this process makes.
#[test]
fn what_the_child_compiles_is_what_this_process_would() {
    let dir = tempfile::tempdir().unwrap();
    let image = |name: &str, compiler: Compiler| {
        let cache = dir.path().join(name);
        let runtime = Runtime::with_compiler(Some(&cache), 1, compiler).unwrap();
        support::load_on(&runtime, "mirrors", &serde_json::Value::Null);
        let file = std::fs::read_dir(&cache).unwrap().next().unwrap().unwrap();
        (file.file_name(), std::fs::metadata(file.path()).unwrap().len())
    };
    let child = Compiler::Child(env!("CARGO_BIN_EXE_pelton").into());
    assert_eq!(image("here", Compiler::Here), image("child", child));
}

#[test]
fn a_compiler_that_is_not_there_or_says_nothing_is_an_error_and_no_plugin() {
    for (program, said) in [
        ("/no/such/program", "no process to compile it in"),
        ("/bin/false", "does not compile"),
        ("/bin/true", "this engine does not run it"),
    ] {
        let runtime = Runtime::with_compiler(None, 1, Compiler::Child(program.into())).unwrap();
        let bytes = support::component("chokes");
        let (config, grants) = (serde_json::Value::Null, BTreeSet::new());
        let error = WasmTransform::from_bytes(&runtime, "x", &bytes, &config, &grants, Limits::default()).unwrap_err();
        assert!(error.to_string().contains(said), "{program}: {error}");
    }
}

#[test]
fn a_cache_that_cannot_be_written_costs_no_plugin() {
    let file = tempfile::NamedTempFile::new().unwrap();
    let runtime = Runtime::new(Some(&file.path().join("cache")), 1).unwrap();
    let guest = support::load_on(&runtime, "chokes", &serde_json::Value::Null);
    assert!(apply(&guest, &batch(&["a"])).is_ok());
}

#[test]
fn a_cache_that_vanishes_costs_no_plugin() {
    let dir = tempfile::tempdir().unwrap();
    let runtime = Runtime::new(Some(dir.path()), 1).unwrap();
    // Every write fails from now on, as it does where no room is left.
    std::fs::remove_dir(dir.path()).unwrap();
    let guest = support::load_on(&runtime, "chokes", &serde_json::Value::Null);
    assert!(apply(&guest, &batch(&["a"])).is_ok());
}

#[test]
fn what_is_no_component_is_named() {
    let load = |bytes: &[u8]| {
        WasmTransform::from_bytes(
            support::runtime(),
            "x",
            bytes,
            &serde_json::Value::Null,
            &BTreeSet::new(),
            Limits::default(),
        )
        .unwrap_err()
        .to_string()
    };
    assert!(load(b"").contains("an empty file"));
    assert!(load(b"fn main() {}").contains("a text file"));
    assert!(load(b"\0asm\x01\0\0\0").contains("a core WebAssembly module"));
    let whole = support::component("chokes");
    for cut in [9, whole.len() / 2, whole.len() - 1] {
        let error = load(&whole[..cut]);
        assert!(error.contains("damaged") || error.contains("no transform"), "{error}");
    }
    let missing = WasmTransform::load(
        support::runtime(),
        "x",
        "/no/such/plugin.wasm".as_ref(),
        &serde_json::Value::Null,
        &BTreeSet::new(),
        Limits::default(),
    );
    assert!(missing.unwrap_err().to_string().starts_with("cannot read /no/such/plugin.wasm"));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    /// A file with flipped, cut or repeated bytes is refused or runs; it never takes the host with it.
    #[test]
    fn a_mangled_component_is_refused_or_contained(
        flips in proptest::collection::vec((any::<proptest::sample::Index>(), any::<u8>()), 1..4),
        end in proptest::option::of(any::<proptest::sample::Index>()),
    ) {
        static WHOLE: LazyLock<Vec<u8>> = LazyLock::new(|| support::component("mirrors"));
        // Hundreds of compilations: without a process for each.
        static HERE: LazyLock<std::sync::Arc<Runtime>> = LazyLock::new(|| Runtime::new(None, 1).unwrap());
        let mut bytes = WHOLE.clone();
        for (at, value) in flips {
            let at = at.index(bytes.len());
            bytes[at] = value;
        }
        if let Some(end) = end {
            bytes.truncate(end.index(bytes.len()));
        }
        let limits = Limits { cpu_per_batch: Duration::from_millis(50), ..Limits::default() };
        let config = serde_json::Value::Null;
        let grants = Capability::ALL.into();
        if let Ok(guest) = WasmTransform::from_bytes(&HERE, "mangled", &bytes, &config, &grants, limits) {
            let names = vec![text_column(&["Ann"]); guest.subscription().value_fields.len()];
            let _ = guest.apply(&TransformInput { batch: &batch(&["a"]), value_fields: &names });
        }
    }
}

#[test]
fn more_plugins_than_there_is_room_for_are_refused_in_words() {
    let dir = tempfile::tempdir().unwrap();
    let runtime = Runtime::new(Some(dir.path()), 1).unwrap();
    let bytes = support::component("chokes");
    let load = || {
        let (config, grants) = (serde_json::Value::Null, BTreeSet::new());
        WasmTransform::from_bytes(&runtime, "chokes", &bytes, &config, &grants, Limits::default())
    };
    let mut loaded = Vec::new();
    let error = loop {
        match load() {
            Ok(guest) => loaded.push(guest),
            Err(error) => break error,
        }
        assert!(loaded.len() < 2_000, "there is no limit at all");
    };
    assert!(matches!(error, LoadError::Host { .. }), "{error}");
    assert!(error.to_string().contains("too many plugins run at once"), "{error}");
    loaded.pop();
    assert!(load().is_ok(), "room comes back with those that leave");
}
