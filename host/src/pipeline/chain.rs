//! The steps of a pipeline, over one batch.
//!
//! In: a batch. Out: what every step said about it, and what failed, each record once. Runs on a compute thread and
//! never waits. A batch that traps is tried once more on a fresh instance, and then halved until the guilty record
//! stands alone. All or nothing: a [`Halt`] means that nothing of this run counts.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use super::decode::Extractor;
use super::encode::{Encoder, Stage};
use super::{Effects, FailureKind, LogLine, OutOp, Transform, TransformError, TransformInput, Usage};
use crate::record::Batch;

/// The steps, ready to run.
pub struct Chain {
    steps: Vec<ChainStep>,
    encoder: Arc<Encoder>,
}

struct ChainStep {
    transform: Arc<dyn Transform>,
    extractor: Extractor,
}

/// What a run of the chain gave.
#[derive(Default)]
pub struct ChainOutput {
    /// What each step said, in the order of steps; a batch that was halved appears in pieces.
    pub stages: Vec<Stage>,
    /// Records that failed for good, by origin.
    pub failures: BTreeMap<u32, RecordFailure>,
    /// Records passed over, by code.
    pub skipped: BTreeMap<String, u64>,
    /// What the plugins said, by step.
    pub effects: Vec<(usize, Effects)>,
    /// What they cost, by step.
    pub usage: Vec<(usize, Usage)>,
    /// Traps, by step and kind: counted even where the second try went well.
    pub traps: Vec<(usize, String)>,
}

/// A record that failed for good.
#[derive(Debug, Clone, PartialEq)]
pub struct RecordFailure {
    /// `decode`, `transform:<plugin>`, `encode` or `sink:<output>`
    pub stage: String,
    /// Short and stable.
    pub code: String,
    /// For people.
    pub message: String,
    /// The guest's backtrace.
    pub backtrace: Option<String>,
    /// The guest's last log lines.
    pub logs: Vec<LogLine>,
    /// How often it was tried.
    pub attempts: u32,
}

/// A record wants to be tried again: nothing of this run counts.
#[derive(Debug, Clone, PartialEq)]
pub struct Halt {
    /// The first record that does.
    pub origin: u32,
    /// When.
    pub delay: Duration,
    /// What it becomes once its attempts are used up; none where it is never its own fault.
    pub failure: Option<RecordFailure>,
    /// Why, for people.
    pub cause: String,
}

/// How long a batch waits that a plugin, or a busy machine, gave back.
const BATCH_RETRY: Duration = Duration::from_secs(1);

impl Chain {
    /// A chain of these steps.
    #[must_use]
    pub fn new(steps: &[Arc<dyn Transform>], encoder: Arc<Encoder>) -> Self {
        let step = |transform: &Arc<dyn Transform>| ChainStep {
            extractor: Extractor::json(&transform.subscription().value_fields),
            transform: Arc::clone(transform),
        };
        Self { steps: steps.iter().map(step).collect(), encoder }
    }

    /// The name of a step's plugin.
    #[must_use]
    pub fn step_name(&self, step: usize) -> &str {
        self.steps[step].transform.name()
    }

    /// The routes of a step.
    #[must_use]
    pub fn routes(&self, step: usize) -> &[String] {
        &self.steps[step].transform.subscription().routes
    }

    /// Whether a stage is the last of its rows' way: of the last step, or of no step at all.
    #[must_use]
    pub fn is_last(&self, stage: &Stage) -> bool {
        stage.step.is_none_or(|step| step + 1 == self.steps.len())
    }

    /// Runs a batch through all steps.
    ///
    /// # Errors
    /// Where a record wants to be tried again.
    pub fn run(&self, batch: Batch) -> Result<ChainOutput, Halt> {
        let mut output = ChainOutput::default();
        self.run_from(0, batch, &mut output)?;
        Ok(output)
    }

    fn run_from(&self, at: usize, batch: Batch, output: &mut ChainOutput) -> Result<(), Halt> {
        if batch.is_empty() {
            return Ok(());
        }
        let Some(step) = self.steps.get(at) else {
            output.stages.push(Stage::pass(batch));
            return Ok(());
        };
        let mut extracted = step.extractor.extract(&batch);
        for reject in &extracted.rejects {
            let failure = RecordFailure::new("decode", reject.code, &reject.message);
            output.failures.entry(batch.origins[reject.row]).or_insert(failure);
        }
        if !extracted.tombstones.is_empty() {
            // They have no fields to read, and leave by the default output as they came.
            output.stages.push(Stage::pass(batch.select(extracted.tombstones.iter().copied())));
        }
        let batch = match extracted.rows.take() {
            Some(rows) => batch.select(rows),
            None => batch,
        };
        if batch.is_empty() {
            return Ok(());
        }
        let input = TransformInput { batch: &batch, value_fields: &extracted.columns };
        let said = match step.transform.apply(&input) {
            Err(TransformError::Trap { kind, .. }) => {
                output.traps.push((at, kind.to_string()));
                step.transform.apply(&input)
            }
            said => said,
        };
        match said {
            Ok(said) => self.go_on(at, Stage { step: Some(at), batch, output: said }, output),
            Err(TransformError::Trap { kind, message, backtrace, logs }) => {
                output.traps.push((at, kind.to_string()));
                if batch.len() > 1 {
                    let half = batch.len() / 2;
                    self.run_from(at, batch.select(0..half), output)?;
                    return self.run_from(at, batch.select(half..batch.len()), output);
                }
                let mut failure = RecordFailure::new(&self.stage_name(at), &kind.to_string(), &message);
                failure.backtrace = Some(backtrace).filter(|text| !text.is_empty());
                failure.logs = logs;
                failure.attempts = 2;
                output.failures.entry(batch.origins[0]).or_insert(failure);
                Ok(())
            }
            Err(TransformError::Retry(message)) => Err(Halt {
                origin: batch.origins[0],
                delay: BATCH_RETRY,
                failure: Some(RecordFailure::new(&self.stage_name(at), "plugin.retry", &message)),
                cause: message,
            }),
            Err(TransformError::Busy(cause)) => {
                Err(Halt { origin: batch.origins[0], delay: BATCH_RETRY, failure: None, cause })
            }
        }
    }

    /// A step has spoken: its failures are noted, and its rows go to the next step.
    fn go_on(&self, at: usize, mut stage: Stage, output: &mut ChainOutput) -> Result<(), Halt> {
        for failure in std::mem::take(&mut stage.output.failures) {
            let origin = stage.batch.origins[failure.row as usize];
            match failure.kind {
                FailureKind::Skip => *output.skipped.entry(failure.code).or_default() += 1,
                FailureKind::Reject => {
                    let failure = RecordFailure::new(&self.stage_name(at), &failure.code, &failure.message);
                    output.failures.entry(origin).or_insert(failure);
                }
                FailureKind::Retry(delay) => {
                    let record = RecordFailure::new(&self.stage_name(at), &failure.code, &failure.message);
                    let cause = failure.message;
                    return Err(Halt { origin, delay, failure: Some(record), cause });
                }
            }
        }
        output.effects.push((at, std::mem::take(&mut stage.output.effects)));
        output.usage.push((at, stage.output.usage));
        if at + 1 == self.steps.len() {
            output.stages.push(stage);
            return Ok(());
        }
        let mut failures = Vec::new();
        let next = self.encoder.next_batch(&stage, &mut failures);
        for failure in failures {
            let record = RecordFailure::new("encode", failure.code, &failure.message);
            output.failures.entry(failure.origin).or_insert(record);
        }
        // What leaves for a named output here, or is deleted, does not see the next step.
        if stage.output.rows.iter().any(|row| row.route != 0 || row.op == OutOp::Delete) {
            output.stages.push(stage);
        }
        self.run_from(at + 1, next, output)
    }

    fn stage_name(&self, step: usize) -> String {
        format!("transform:{}", self.step_name(step))
    }
}

impl RecordFailure {
    /// A failure at the first try.
    #[must_use]
    pub fn new(stage: &str, code: &str, message: &str) -> Self {
        Self {
            stage: stage.to_owned(),
            code: code.to_owned(),
            message: message.to_owned(),
            backtrace: None,
            logs: Vec::new(),
            attempts: 1,
        }
    }
}
