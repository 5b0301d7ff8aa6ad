//! What all tasks of a pipeline share: the chain, the outputs, and how a batch becomes what they get.
//!
//! In: a batch with its write times. Out: a [`Processed`] batch, nothing of it written yet. Pure but for the guests.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

use super::breaker::{Breaker, Tripped};
use super::chain::{Chain, ChainOutput, Halt, Lost, LostLine, RecordFailure, Run};
use super::compute::Compute;
use super::encode::{self, Encoder, Origins, OutputEncoder, Stage};
use super::excess::Excess;
use super::gate::Gate;
use super::journal::Journal;
use super::masking::{mask_halt, mask_processed};
use super::meters::Meters;
use super::{BatchLimits, DeadLetters, OutOp, OutRow, Sink};
use crate::clock::Clock;
use crate::config::{ErrorSettings, Mask};
use crate::record::{Batch, SinkBatch, WriteTime};

/// A pipeline, ready to run.
pub struct Line {
    /// Its name.
    pub name: String,
    /// The topics that it reads.
    pub topics: Vec<String>,
    /// Its steps.
    pub chain: Chain,
    /// How their rows become records and cells.
    pub encoder: Arc<Encoder>,
    /// Where rows go; `default` among them, unless nothing ever goes there.
    pub outputs: Vec<LineOutput>,
    /// Where failed records go.
    pub dead_letters: Arc<dyn DeadLetters>,
    /// Where guests run.
    pub compute: Compute,
    /// When a batch closes.
    pub batch: BatchLimits,
    /// What to do with failures.
    pub errors: ErrorSettings,
    /// The wall.
    pub clock: Arc<dyn Clock>,
    /// Whether tasks may read on.
    pub gate: Gate,
    /// Counts failures, where the pipeline has a breaker.
    pub breaker: Option<Mutex<Breaker>>,
    /// What must not show in anything that is said about its records.
    pub mask: Mask,
    /// What it counts.
    pub meters: Meters,
    /// Short digests of its plugins, in order.
    pub digests: Vec<String>,
    /// Short digest of its configuration.
    pub configuration: String,
    /// No write time lies at or below this, microseconds.
    pub timestamp_floor: i64,
    /// Room for rows that are larger than their records.
    pub excess: Excess,
    /// Keeps what its write times rest on; none where nothing that it writes has one.
    pub journal: Option<Arc<dyn Journal>>,
}

/// One output of a line.
pub struct LineOutput {
    /// How rows become what the sink wants.
    pub encoder: OutputEncoder,
    /// The sink.
    pub sink: Arc<dyn Sink>,
}

/// A batch with its write times, as the source gave it.
pub struct Stamped {
    /// The batch.
    pub source: Arc<Batch>,
    /// By row: the record's write time.
    pub write_times: Vec<WriteTime>,
    /// The assignment under which it was read.
    pub generation: u64,
    /// When.
    pub read_at: Instant,
}

/// A batch between its plugins and its sinks.
pub struct Processed {
    /// By output: its rows; outputs without rows are missing.
    pub sink_batches: Vec<(usize, SinkBatch)>,
    /// Records that failed for good, by origin.
    pub failures: BTreeMap<u32, RecordFailure>,
    /// What the chain said besides.
    pub chain: ChainOutput,
}

impl Processed {
    /// Nothing yet.
    #[must_use]
    pub fn empty() -> Self {
        Self { sink_batches: Vec::new(), failures: BTreeMap::new(), chain: ChainOutput::default() }
    }
}

impl Line {
    /// Notes a part of a batch with the breaker; says so if it trips.
    pub fn observe(&self, records: usize, failures: usize) -> Option<Tripped> {
        let now = Duration::from_millis(self.clock.now_ms().max(0).cast_unsigned());
        let mut breaker = self.breaker.as_ref()?.lock().unwrap_or_else(PoisonError::into_inner);
        breaker.observe(now, records as u64, failures as u64)
    }

    /// The operator resumed the pipeline after the breaker had tripped: what comes next is let through.
    pub fn reset_breaker(&self) {
        if let Some(breaker) = &self.breaker {
            breaker.lock().unwrap_or_else(PoisonError::into_inner).reset();
        }
    }

    /// A run of the chain counts: the plugins' own words are released. So many records were let go.
    pub fn account(&self, output: &ChainOutput, filtered: u64) {
        self.trapped(&output.lost);
        self.log_lost(&output.lost.lines);
        self.meters.chain(output, filtered, |step| self.chain.step_name(step));
    }

    /// Counts traps and the CPU time of calls of which nothing came, also of runs that came to nothing.
    pub fn trapped(&self, lost: &Lost) {
        for (step, kind) in &lost.traps {
            self.meters.trapped(self.chain.step_name(*step), &kind.to_string());
        }
        for (step, cpu_ns) in &lost.cpu_ns {
            self.meters.plugin_cpu(self.chain.step_name(*step), *cpu_ns);
        }
    }

    /// Hands what plugins logged in attempts that failed to the log.
    pub fn log_lost(&self, lines: &[LostLine]) {
        for lost in lines {
            self.meters.log(self.chain.step_name(lost.step), &lost.line, Some(lost.attempt));
        }
    }

    /// Runs a part of a batch, which has [entered](Chain::enter) the chain, and encodes what comes out. Called on a
    /// compute thread.
    ///
    /// # Errors
    /// Where it has to be run again, whole or in parts: then nothing of this run counts.
    pub async fn process(&self, part: Arc<Batch>, run: Run, stamped: &Stamped) -> Result<Processed, Halt> {
        let mut said = self.run(part, run, stamped).await;
        match &mut said {
            Ok(processed) => mask_processed(&self.mask, processed),
            Err(halt) => mask_halt(&self.mask, halt),
        }
        said
    }

    async fn run(&self, part: Arc<Batch>, run: Run, stamped: &Stamped) -> Result<Processed, Halt> {
        let mut chain = self.chain.run(part, run).await?;
        let mut failures = std::mem::take(&mut chain.failures);
        let stages = std::mem::take(&mut chain.stages);
        let Stamped { source, write_times, generation, .. } = stamped;
        let origins = Origins { source, write_times, generation: *generation };
        loop {
            let (sink_batches, failed) = self.encode(&stages, &failures, origins);
            if failed.is_empty() {
                return Ok(Processed { sink_batches, failures, chain });
            }
            // A record of which one output cannot be encoded has none: the others are encoded anew without it.
            failures.extend(failed);
        }
    }

    fn encode(
        &self,
        stages: &[Stage],
        failures: &BTreeMap<u32, RecordFailure>,
        origins: Origins<'_>,
    ) -> (Vec<(usize, SinkBatch)>, BTreeMap<u32, RecordFailure>) {
        let leaves = |stage: &Stage, row: &OutRow| {
            let origin = stage.batch.origins[row.row as usize];
            if failures.contains_key(&origin) { None } else { self.output_of(stage, row) }
        };
        let routed = encode::route(stages, origins.source.len(), self.outputs.len(), leaves);
        let mut failed = Vec::new();
        let mut batches = Vec::new();
        for (at, routed) in routed.iter().enumerate().filter(|(_, routed)| !routed.is_empty()) {
            let output = &self.outputs[at].encoder;
            let batch = self.encoder.sink_batch(output, stages, routed, origins, &mut failed);
            if !batch.is_empty() {
                batches.push((at, batch));
            }
        }
        let record = |failure: encode::EncodeFailure| {
            (failure.origin, RecordFailure::new("encode", failure.code, &failure.message))
        };
        (batches, encode::by_origin(failed).into_values().map(record).collect())
    }

    /// The output that a row leaves by; none where it goes to the next step, or where nothing is configured to take it.
    fn output_of(&self, stage: &Stage, row: &OutRow) -> Option<usize> {
        let name = match (row.route, stage.step) {
            (0, _) | (_, None) if self.chain.is_last(stage) || row.op == OutOp::Delete => "default",
            (0, _) | (_, None) => return None,
            (route, Some(step)) => self.chain.routes(step).get(route as usize - 1)?,
        };
        self.outputs.iter().position(|output| output.encoder.name == name)
    }
}
