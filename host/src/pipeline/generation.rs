//! What a reload replaces: the steps of a pipeline, and how what they say becomes what sinks get.
//!
//! In: a batch with its write times. Out: a [`Processed`] batch, nothing of it written yet. Pure but for the guests. A
//! generation never changes. A pipeline has one that is [`Live`]; each of its tasks goes over to it at an edge of its own,
//! so that a record is handled by one generation from its first step to its last sink.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::watch;

use super::chain::{Chain, ChainOutput, Halt, RecordFailure, Run};
use super::encode::{self, Encoder, Origins, OutputEncoder, Stage};
use super::line::Stamped;
use super::masking::{mask_halt, mask_processed};
use super::probation::Probation;
use super::tap::Tap;
use super::{OutOp, OutRow, Transform, Wants};
use crate::config::{Format, Mask, Tombstones};
use crate::record::{Batch, Offset, OutputField, SinkBatch, TopicPartition};

/// The steps of a pipeline under one configuration.
pub struct Generation {
    /// Each generation of a pipeline has a higher one.
    pub number: u64,
    /// Its steps.
    pub chain: Chain,
    /// Short digests of its plugins, in order.
    pub digests: Vec<String>,
    /// Short digest of its configuration.
    pub configuration: String,
    /// Holds it against the one before, while it is new.
    pub probation: Option<Probation>,
    encoder: Arc<Encoder>,
    outputs: Vec<OutputEncoder>,
    mask: Mask,
    /// What it has handled, by partition: the first record, and one past the last.
    handled: Mutex<Handled>,
}

/// By partition: the first record, and one past the last.
pub type HandledRanges = BTreeMap<TopicPartition, (Offset, Offset)>;

#[derive(Debug, Default)]
struct Handled {
    ranges: HandledRanges,
    /// It was rolled back, and the ranges were told: it handles nothing more.
    is_revoked: bool,
}

/// What a generation is made of, beside its steps.
pub struct Spec<'s> {
    /// Each generation of a pipeline has a higher one.
    pub number: u64,
    /// How records are read.
    pub format: Format,
    /// The outputs, in the order of the line's.
    pub outputs: Vec<Outlet<'s>>,
    /// Short digest of the configuration.
    pub configuration: String,
    /// What must not show in anything that is said about records.
    pub mask: Mask,
    /// Where its records can be looked at.
    pub tap: Tap,
}

/// An output, as far as it decides how rows are encoded.
#[derive(Clone, Copy)]
pub struct Outlet<'s> {
    /// Its name.
    pub name: &'s str,
    /// What its sink takes.
    pub wants: &'s Wants,
    /// What becomes of records without a value.
    pub tombstones: &'s Tombstones,
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

impl Generation {
    /// Of these steps.
    #[must_use]
    pub fn new(steps: &[Arc<dyn Transform>], spec: Spec<'_>) -> Self {
        spec.tap.masks_too(&spec.mask);
        let set_fields: Vec<Vec<OutputField>> =
            steps.iter().map(|transform| transform.subscription().set_fields.clone()).collect();
        let output =
            |outlet: &Outlet<'_>| OutputEncoder::new(outlet.name, outlet.wants, outlet.tombstones, &set_fields);
        let outputs = spec.outputs.iter().map(output).collect();
        let encoder = Arc::new(Encoder { format: spec.format, set_fields });
        Self {
            number: spec.number,
            chain: Chain::new(steps, Arc::clone(&encoder)).with_tap(spec.tap),
            digests: steps.iter().map(|transform| transform.digest().short()).collect(),
            configuration: spec.configuration,
            probation: None,
            encoder,
            outputs,
            mask: spec.mask,
            handled: Mutex::default(),
        }
    }

    /// The same generation, held against the one before.
    #[must_use]
    pub fn on(self, probation: Probation) -> Self {
        Self { probation: Some(probation), ..self }
    }

    /// What it has handled in this process, by partition: the first record, and one past the last.
    #[must_use]
    pub fn handled(&self) -> HandledRanges {
        self.lock_handled().ranges.clone()
    }

    /// It is rolled back: what it has handled until now is all that it ever handles.
    pub fn revoke(&self) -> HandledRanges {
        let mut handled = self.lock_handled();
        handled.is_revoked = true;
        handled.ranges.clone()
    }

    /// Whether it was rolled back.
    #[must_use]
    pub fn is_revoked(&self) -> bool {
        self.lock_handled().is_revoked
    }

    /// It has handled these records; its rows are about to be written. Not so where false: it was rolled back meanwhile.
    pub(super) fn note_handled(&self, partition: &TopicPartition, (from, until): (Offset, Offset)) -> bool {
        let mut handled = self.lock_handled();
        if handled.is_revoked {
            return false;
        }
        match handled.ranges.get_mut(partition) {
            Some(range) => *range = (range.0.min(from), range.1.max(until)),
            None => drop(handled.ranges.insert(partition.clone(), (from, until))),
        }
        true
    }

    fn lock_handled(&self) -> MutexGuard<'_, Handled> {
        self.handled.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What must not show in anything that is said about its records.
    pub(super) fn mask(&self) -> &Mask {
        &self.mask
    }

    /// Whether it writes the same of the same records.
    #[must_use]
    pub fn is_same_version(&self, other: &Self) -> bool {
        self.digests == other.digests && self.configuration == other.configuration
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
        let Stamped { source, write_times, assignment, .. } = stamped;
        let origins = Origins { source, write_times, generation: *assignment };
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
            let output = &self.outputs[at];
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
        self.outputs.iter().position(|output| output.name == name)
    }
}

/// Which generation of a pipeline is live.
pub struct Live(watch::Sender<Arc<Generation>>);

impl Live {
    /// A pipeline begins with this one.
    #[must_use]
    pub fn begin(generation: Generation) -> Self {
        generation.chain.tell_tap();
        Self(watch::Sender::new(Arc::new(generation)))
    }

    /// The one that is live.
    #[must_use]
    pub fn get(&self) -> Arc<Generation> {
        Arc::clone(&self.0.borrow())
    }

    /// Puts another in its place. Tasks go over to it by themselves, each at its next edge.
    pub fn put(&self, generation: Arc<Generation>) {
        generation.chain.tell_tap();
        self.0.send_replace(generation);
    }

    /// Puts the one before back in the place of one that is not good enough, if that is still live.
    pub fn put_back(&self, from: &Arc<Generation>, to: &Arc<Generation>) {
        self.0.send_if_modified(|live| {
            let is_live = Arc::ptr_eq(live, from);
            if is_live {
                to.chain.tell_tap();
                *live = Arc::clone(to);
            }
            is_live
        });
    }
}
