//! What a record costs at the boundary of a plugin, against native Rust that does the same with the same batch.
//!
//! Thread CPU time; nothing waits here. The identity and the route are the call alone, the check of its answer included;
//! the JSON work is decode, call and encode.

use std::hint::black_box;
use std::path::Path;
use std::sync::Arc;

use pelton::config::{Format, Limits, Tombstones};
use pelton::pipeline::decode::Extractor;
use pelton::pipeline::encode::{self, Encoder, Origins, OutputEncoder, Stage};
use pelton::pipeline::{Transform as _, TransformInput, TransformOutput, Wants};
use pelton::plugin::{Runtime, WasmTransform};
use pelton::record::WriteTime;

use crate::measure::{Pair, in_turns, thread_cpu};
use crate::report::{Better, Figure};
use crate::{Plan, plugin, work};

/// The aim of the identity and the route at large batches, ns a record.
const AIM_NS: f64 = 25.0;

/// One row for each kind of work and size of batch.
pub(crate) fn measure(plan: &Plan) -> Vec<Figure> {
    let runtime = Runtime::new(None, 1).expect("an engine");
    let mut figures = Vec::new();
    for name in ["identity", "route", "cents"] {
        let guest = load(&runtime, &plugin(name));
        for rows in [1, 16, 128, 1024] {
            let pair = compare(plan, name, &guest, rows);
            let mut figure = Figure::new("boundary", &format!("{name}, batch {rows}"), "ns/record", Better::Less)
                .pair(&pair)
                .with("work", name)
                .with("batch", &rows.to_string());
            if rows >= 128 && name != "cents" {
                figure = figure.aim(AIM_NS, pair.ours.median, "ns a record at most");
            }
            figures.push(figure);
        }
    }
    figures
}

/// Loads a plugin without cache.
pub(crate) fn load(runtime: &Arc<Runtime>, path: &Path) -> WasmTransform {
    let limits = Limits::default();
    WasmTransform::load(runtime, "measured", path, &serde_json::Value::Null, &[].into(), limits)
        .unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

fn compare(plan: &Plan, name: &str, guest: &WasmTransform, rows: usize) -> Pair {
    let batch = work::batch(rows);
    let mut stage = Stage { step: Some(0), batch: Arc::new(batch.clone()), output: TransformOutput::default() };
    let json = Json::new(guest);
    let calls = (plan.records_a_turn / rows).max(1);
    let ours = || {
        let began = thread_cpu();
        for _ in 0..calls {
            if name == "cents" {
                json.run(guest, &mut stage);
            } else {
                let input = TransformInput { batch: &batch, value_fields: &[] };
                black_box(guest.apply(&input).expect("a good batch"));
            }
        }
        thread_cpu() - began
    };
    let theirs = || {
        let began = thread_cpu();
        for _ in 0..calls {
            match name {
                "identity" => drop(black_box(work::identity(black_box(&batch)))),
                "route" => drop(black_box(work::route(black_box(&batch)))),
                _ => drop(black_box(work::add_cents_to_all(black_box(&batch)))),
            }
        }
        thread_cpu() - began
    };
    let rounds = in_turns(plan.turns, ours, theirs, |took| took.as_nanos() as f64 / (calls * rows) as f64);
    Pair::of(&rounds)
}

/// Decode, call, encode: as the line does it.
struct Json {
    extractor: Extractor,
    encoder: Encoder,
    output: OutputEncoder,
}

impl Json {
    fn new(guest: &WasmTransform) -> Self {
        let subscription = guest.subscription();
        let set_fields = vec![subscription.set_fields.clone()];
        Self {
            extractor: Extractor::json(&subscription.value_fields),
            output: OutputEncoder::new("default", &Wants::Records, &Tombstones::Reject, &set_fields),
            encoder: Encoder { format: Format::Json, set_fields },
        }
    }

    fn run(&self, guest: &WasmTransform, stage: &mut Stage) {
        let extracted = self.extractor.extract(&stage.batch);
        assert!(extracted.rows.is_none(), "every record of ours fits");
        let input = TransformInput { batch: &stage.batch, value_fields: &extracted.columns };
        stage.output = guest.apply(&input).expect("a good batch");
        let rows = stage.batch.len();
        let write_times = vec![WriteTime(0); rows];
        let routed = encode::route(std::slice::from_ref(stage), rows, 1, |_, _| Some(0));
        let origins = Origins { source: &stage.batch, write_times: &write_times, generation: 0 };
        let mut failures = Vec::new();
        let stages = std::slice::from_ref(stage);
        let batch = self.encoder.sink_batch(&self.output, stages, &routed[0], origins, &mut failures);
        assert!(failures.is_empty(), "{failures:?}");
        black_box(batch);
    }
}
