//! The steps of a pipeline, over one batch.
//!
//! In: a batch. Out: what every step said about it, and what failed, each record once. Runs on a compute thread, calls
//! each plugin twice at most, and waits only where a plugin does. All or nothing: a [`Halt`] means that nothing of this run counts.
//!
//! A plugin that traps is tried once more on a fresh instance: what the old one had gathered may have been the cause.
//! Where it traps again over records of several origins, the run halts, and whoever called cuts the batch in two. The
//! parts need no second try of their own: a trap that does not come again costs a further cut, never a record. The
//! verdict on a record falls where it stands alone, on a fresh instance.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::OwnedSemaphorePermit;

use super::decode::Extractor;
use super::encode::{Encoder, Stage};
use super::tap::{self, Tap};
use super::{
    Effects, FailureKind, LogLine, OutOp, Transform, TransformError, TransformInput, TransformOutput, TrapKind, Usage,
};
use crate::record::Batch;

/// The steps, ready to run.
pub struct Chain {
    steps: Vec<ChainStep>,
    encoder: Arc<Encoder>,
    pub(super) tap: Tap,
}

struct ChainStep {
    transform: Arc<dyn Transform>,
    extractor: Extractor,
}

/// How a batch is run.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Run {
    /// Attempts at its records that have failed before.
    pub failed_attempts: u32,
    /// It was cut out of a batch that trapped twice.
    pub is_cut: bool,
    /// Nothing of it counts, whatever it gives: nobody sees it.
    pub is_aside: bool,
}

/// What a run of the chain gave.
#[derive(Default)]
pub struct ChainOutput {
    /// What each step said, in the order of steps.
    pub stages: Vec<Stage>,
    /// Records that failed for good, by origin.
    pub failures: BTreeMap<u32, RecordFailure>,
    /// Records passed over, by step and code.
    pub skipped: BTreeMap<(usize, String), u64>,
    /// What the plugins said, by step.
    pub effects: Vec<(usize, Effects)>,
    /// What they cost, by step.
    pub usage: Vec<(usize, Usage)>,
    /// What was lost on the way, where a second try went well.
    pub lost: Lost,
}

/// What attempts that failed leave behind.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Lost {
    /// How many attempts have failed, those before this run among them.
    pub attempts: u32,
    /// Traps of this run, by step and kind: counted whatever becomes of it.
    pub traps: Vec<(usize, TrapKind)>,
    /// What the plugins had logged in attempts of this run.
    pub lines: Vec<LostLine>,
    /// CPU time of calls in this run of which nothing came, by step, nanoseconds: counted whatever becomes of it.
    pub cpu_ns: Vec<(usize, u64)>,
}

/// A line of an attempt that failed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LostLine {
    /// Whose.
    pub step: usize,
    /// In which attempt, from 1.
    pub attempt: u32,
    /// What.
    pub line: LogLine,
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
    /// What was logged in the attempts at it.
    pub lines: Vec<LostLine>,
    /// How often it was tried.
    pub attempts: u32,
}

/// A run came to nothing, but for what was lost in it.
#[derive(Debug, Clone, PartialEq)]
pub struct Halt {
    /// What is to be done.
    pub reason: HaltReason,
    /// Why, for people.
    pub cause: String,
    /// What the failed attempts leave behind.
    pub lost: Lost,
}

/// What is to be done about a run that came to nothing.
#[derive(Debug, Clone, PartialEq)]
pub enum HaltReason {
    /// A plugin trapped over records of several origins: those below `at`, and those from it on, are to be run apart.
    Split {
        /// Above the first origin, and not above the last.
        at: u32,
    },
    /// A record wants to be tried again.
    Again {
        /// The first that does.
        origin: u32,
        /// When.
        delay: Duration,
        /// What it becomes once its attempts are used up; none where it is never its own fault.
        failure: Option<RecordFailure>,
    },
}

/// How long a batch waits that a plugin, or a busy machine, gave back.
const BATCH_RETRY: Duration = Duration::from_secs(1);

/// Why a run ends before its end.
type Stop = (HaltReason, String);

impl Chain {
    /// A chain of these steps.
    #[must_use]
    pub fn new(steps: &[Arc<dyn Transform>], encoder: Arc<Encoder>) -> Self {
        let step = |transform: &Arc<dyn Transform>| ChainStep {
            extractor: Extractor::json(&transform.subscription().value_fields),
            transform: Arc::clone(transform),
        };
        Self { steps: steps.iter().map(step).collect(), encoder, tap: Tap::default() }
    }

    /// The same chain, whose records can be looked at there.
    #[must_use]
    pub fn with_tap(self, tap: Tap) -> Self {
        Self { tap, ..self }
    }

    /// Tells the tap which steps there are from now on.
    pub(super) fn tell_tap(&self) {
        self.tap.steps_are(self.steps.iter().map(|step| step.transform.name().to_owned()).collect());
    }

    fn tap_of(&self, at: usize) -> tap::Of<'_> {
        tap::Of { at: Some(at), plugin: self.step_name(at), routes: self.routes(at), encoder: &self.encoder }
    }

    /// The name of a step's plugin.
    #[must_use]
    pub fn step_name(&self, step: usize) -> &str {
        self.steps[step].transform.name()
    }

    /// The first plugin that asks others, whose answers may differ each time: no reading gives the very same rows then.
    #[must_use]
    pub fn asks(&self) -> Option<&str> {
        self.steps.iter().map(|step| &step.transform).find(|transform| transform.slots().is_some()).map(|t| t.name())
    }

    /// How long a run may take on the clock: each plugin is called twice at most.
    #[must_use]
    pub fn wall_limit(&self) -> Duration {
        self.steps
            .iter()
            .fold(Duration::ZERO, |sum, step| sum.saturating_add(step.transform.wall_limit().saturating_mul(2)))
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

    /// Waits until there is room for one more batch in every step that waits itself; a batch needs that before it runs.
    /// All callers ask in the order of steps, so that no two of them wait for each other.
    pub async fn enter(&self) -> Vec<OwnedSemaphorePermit> {
        let mut entered = Vec::new();
        for step in &self.steps {
            if let Some(slots) = step.transform.slots() {
                entered.push(slots.acquire_owned().await.expect("nobody closes a step's slots"));
            }
        }
        entered
    }

    /// Runs a batch, which has [entered](Self::enter), through all steps.
    ///
    /// # Errors
    /// Where it has to be run again, whole or in parts.
    pub async fn run(&self, batch: Arc<Batch>, run: Run) -> Result<ChainOutput, Halt> {
        let mut output = ChainOutput::default();
        output.lost.attempts = run.failed_attempts;
        match self.all_steps(batch, run, &mut output).await {
            Ok(()) => {
                let attempts = output.lost.attempts + 1;
                output.failures.values_mut().for_each(|failure| failure.attempts = failure.attempts.max(attempts));
                Ok(output)
            }
            Err((reason, cause)) => {
                let ChainOutput { effects, usage, mut lost, .. } = output;
                lost.attempts += 1;
                lost.cpu_ns.extend(usage.into_iter().map(|(step, usage)| (step, usage.cpu_ns)));
                for (step, effects) in effects {
                    lost.note(step, lost.attempts, effects.logs);
                }
                Err(Halt { reason, cause, lost })
            }
        }
    }

    /// What the step at `at` gets of a batch, and what the steps before it said.
    ///
    /// # Errors
    /// Where they come to nothing; why, for people.
    pub async fn before(&self, at: usize, batch: Arc<Batch>) -> Result<(Arc<Batch>, ChainOutput), String> {
        let mut output = ChainOutput::default();
        let batch = self.first_steps(at.min(self.steps.len()), batch, Run::default(), &mut output).await;
        batch.map(|batch| (batch, output)).map_err(|(_, cause)| cause)
    }

    async fn all_steps(&self, batch: Arc<Batch>, run: Run, output: &mut ChainOutput) -> Result<(), Stop> {
        if self.steps.is_empty() && !batch.is_empty() {
            if self.tap.is_on() && !run.is_aside {
                self.tap.passed(tap::Of { at: None, plugin: "", routes: &[], encoder: &self.encoder }, &batch);
            }
            output.stages.push(Stage::pass(batch));
            return Ok(());
        }
        self.first_steps(self.steps.len(), batch, run, output).await.map(drop)
    }

    async fn first_steps(
        &self,
        count: usize,
        mut batch: Arc<Batch>,
        run: Run,
        output: &mut ChainOutput,
    ) -> Result<Arc<Batch>, Stop> {
        for at in 0..count {
            if batch.is_empty() {
                break;
            }
            batch = self.step(at, batch, run, output).await?;
        }
        Ok(batch)
    }

    /// One step: decode, apply, and the batch for the next step.
    async fn step(&self, at: usize, batch: Arc<Batch>, run: Run, output: &mut ChainOutput) -> Result<Arc<Batch>, Stop> {
        let mut extracted = self.steps[at].extractor.extract(&batch);
        let is_tapped = self.tap.is_on() && !run.is_aside;
        if is_tapped {
            self.tap.rejected(self.tap_of(at), &batch, &extracted.rejects);
        }
        for reject in &extracted.rejects {
            let failure = RecordFailure::new("decode", reject.code, &reject.message);
            output.failures.entry(batch.origins[reject.row]).or_insert(failure);
        }
        if !extracted.tombstones.is_empty() {
            // They have no fields to read, and leave by the default output as they came.
            let tombstones = batch.select(extracted.tombstones.iter().copied());
            if is_tapped {
                self.tap.passed(self.tap_of(at), &tombstones);
            }
            output.stages.push(Stage::pass(tombstones));
        }
        let batch = match extracted.rows.take() {
            Some(rows) => Arc::new(batch.select(rows)),
            None => batch,
        };
        if batch.is_empty() {
            return Ok(batch);
        }
        let input = TransformInput { batch: &batch, value_fields: &extracted.columns };
        match self.apply(at, &input, run, output).await? {
            Some(said) if is_tapped => {
                self.tap.spoke(self.tap_of(at), &batch, &said);
                self.go_on(at, Stage { step: Some(at), batch, output: said }, output)
            }
            Some(said) => self.go_on(at, Stage { step: Some(at), batch, output: said }, output),
            None => Ok(Arc::new(Batch::new(batch.source.clone()))),
        }
    }

    /// Calls a plugin; none where the only record of the batch is guilty.
    async fn apply(
        &self,
        at: usize,
        input: &TransformInput<'_>,
        run: Run,
        output: &mut ChainOutput,
    ) -> Result<Option<TransformOutput>, Stop> {
        let transform = &self.steps[at].transform;
        let origins = &input.batch.origins;
        let cut = cut(origins);
        let mut said = call(transform, input, cut.is_none() && run.is_cut).await;
        if !run.is_cut
            && let Err(TransformError::Trap { kind, logs, cpu_ns, .. }) = &mut said
        {
            output.lost.attempts += 1;
            output.lost.trap(at, *kind, std::mem::take(logs));
            output.lost.cpu_ns.push((at, *cpu_ns));
            said = call(transform, input, true).await;
        }
        output.lost.cpu_ns.extend(said.as_ref().err().map(|error| (at, error.cpu_ns())));
        let attempt = output.lost.attempts + 1;
        match (said, cut) {
            (Ok(said), _) => Ok(Some(said)),
            (Err(TransformError::Trap { kind, message, logs, .. }), Some(split_at)) => {
                output.lost.traps.push((at, kind));
                output.lost.note(at, attempt, logs);
                Err((HaltReason::Split { at: split_at }, format!("{}: {kind}: {message}", self.step_name(at))))
            }
            (Err(TransformError::Trap { kind, message, backtrace, logs, .. }), None) => {
                output.lost.traps.push((at, kind));
                output.lost.note(at, attempt, logs);
                let mut failure = RecordFailure::new(&self.stage_name(at), &kind.to_string(), &message);
                failure.backtrace = Some(backtrace).filter(|text| !text.is_empty());
                failure.lines = output.lost.take_lines_of(at);
                failure.attempts = attempt;
                if self.tap.is_on() {
                    self.tap.failed(self.tap_of(at), input.batch, &failure);
                }
                output.failures.entry(origins[0]).or_insert(failure);
                Ok(None)
            }
            (Err(TransformError::Retry { message, logs, .. }), _) => {
                output.lost.note(at, attempt, logs);
                let failure = RecordFailure::new(&self.stage_name(at), "plugin.retry", &message);
                Err(self.again(at, origins[0], BATCH_RETRY, Some(failure), &message))
            }
            (Err(TransformError::Busy { message, logs, .. }), _) => {
                output.lost.note(at, attempt, logs);
                Err(self.again(at, origins[0], BATCH_RETRY, None, &message))
            }
        }
    }

    fn again(&self, at: usize, origin: u32, delay: Duration, failure: Option<RecordFailure>, message: &str) -> Stop {
        (HaltReason::Again { origin, delay, failure }, format!("{}: {message}", self.step_name(at)))
    }

    /// A step has spoken: its failures are noted, and its rows are the next step's batch.
    fn go_on(&self, at: usize, mut stage: Stage, output: &mut ChainOutput) -> Result<Arc<Batch>, Stop> {
        output.effects.push((at, std::mem::take(&mut stage.output.effects)));
        output.usage.push((at, Usage { records: stage.batch.len() as u64, ..stage.output.usage }));
        for failure in std::mem::take(&mut stage.output.failures) {
            let origin = stage.batch.origins[failure.row as usize];
            let record = || RecordFailure::new(&self.stage_name(at), &failure.code, &failure.message);
            match failure.kind {
                FailureKind::Skip => *output.skipped.entry((at, failure.code)).or_default() += 1,
                FailureKind::Reject => {
                    output.failures.entry(origin).or_insert_with(record);
                }
                FailureKind::Retry(delay) => {
                    return Err(self.again(at, origin, delay, Some(record()), &failure.message));
                }
            }
        }
        let is_last = self.is_last(&stage);
        let mut failures = Vec::new();
        let next = if is_last {
            Batch::new(stage.batch.source.clone())
        } else {
            self.encoder.next_batch(&stage, &mut failures)
        };
        for failure in failures {
            let record = RecordFailure::new("encode", failure.code, &failure.message);
            output.failures.entry(failure.origin).or_insert(record);
        }
        // Elsewhere only what leaves for a named output, or is deleted, does not see the next step.
        if is_last || stage.output.rows.iter().any(|row| row.route != 0 || row.op == OutOp::Delete) {
            output.stages.push(stage);
        }
        Ok(Arc::new(next))
    }

    fn stage_name(&self, step: usize) -> String {
        format!("transform:{}", self.step_name(step))
    }
}

/// Calls a plugin, on a fresh instance or on any.
async fn call(
    transform: &Arc<dyn Transform>,
    input: &TransformInput<'_>,
    fresh: bool,
) -> Result<TransformOutput, TransformError> {
    match (transform.slots().is_some(), fresh) {
        (true, _) => transform.apply_waiting(*input, fresh).await,
        (false, true) => transform.apply_fresh(input),
        (false, false) => transform.apply(input),
    }
}

/// Where a batch is cut in two: at the first row of an origin, as near to its middle as that can be. None where all its
/// rows have one origin. Rows of one record stand together, in the order of origins.
fn cut(origins: &[u32]) -> Option<u32> {
    let middle = *origins.get(origins.len() / 2)?;
    let first = *origins.first()?;
    if middle > first { Some(middle) } else { origins.iter().copied().find(|origin| *origin > first) }
}

impl Lost {
    /// An attempt has trapped, and another follows in the same run.
    fn trap(&mut self, step: usize, kind: TrapKind, logs: Vec<LogLine>) {
        self.traps.push((step, kind));
        self.note(step, self.attempts, logs);
    }

    fn note(&mut self, step: usize, attempt: u32, logs: Vec<LogLine>) {
        self.lines.extend(logs.into_iter().map(|line| LostLine { step, attempt, line }));
    }

    fn take_lines_of(&mut self, step: usize) -> Vec<LostLine> {
        let (own, others) = std::mem::take(&mut self.lines).into_iter().partition(|line| line.step == step);
        self.lines = others;
        own
    }
}

impl LostLine {
    /// The line, marked for a place where lines of several attempts stand together.
    #[must_use]
    pub fn marked(&self, plugin: &str) -> LogLine {
        let LogLine { level, message } = &self.line;
        LogLine { level: *level, message: format!("attempt {}, {plugin}: {message}", self.attempt) }
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
            lines: Vec::new(),
            attempts: 1,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU64, Ordering};

    use futures::FutureExt as _;
    use futures::future::BoxFuture;
    use proptest::prelude::*;
    use tokio::sync::{Notify, Semaphore};

    use super::*;
    use crate::config::Format;
    use crate::memory::{MemoryTransform, Step};
    use crate::pipeline::Subscription;
    use crate::record::{Digest, Offset, TopicPartition};

    const CUT: Run = Run { failed_attempts: 3, is_cut: true, is_aside: false };

    fn batch(values: &[&str]) -> Arc<Batch> {
        let mut batch = Batch::new(TopicPartition::new("t", 0));
        for (offset, value) in values.iter().enumerate() {
            batch.push(Offset(offset as i64), Some(1), None, Some(value.as_bytes()), []);
        }
        Arc::new(batch)
    }

    fn chain(steps: &[&Arc<MemoryTransform>]) -> Chain {
        let steps: Vec<Arc<dyn Transform>> = steps.iter().map(|step| Arc::clone(step) as Arc<dyn Transform>).collect();
        let set_fields = vec![Vec::new(); steps.len()];
        Chain::new(&steps, Arc::new(Encoder { format: Format::Json, set_fields }))
    }

    /// None of these plugins waits.
    fn run(chain: &Chain, batch: Arc<Batch>, run: Run) -> Result<ChainOutput, Halt> {
        chain.run(batch, run).now_or_never().expect("it has ended")
    }

    fn lines(lost: &Lost) -> Vec<String> {
        lost.lines.iter().map(|line| line.marked("p").message).collect()
    }

    #[test]
    fn a_trap_that_does_not_come_again_is_counted_and_its_lines_are_kept() {
        let plugin = Arc::new(MemoryTransform::identity().talkative().trap_times(b"b", TrapKind::MemoryLimit, 1));
        let output = run(&chain(&[&plugin]), batch(&["a", "b"]), Run::default()).unwrap();
        assert_eq!((plugin.calls(), output.stages[0].output.rows.len()), (2, 2));
        assert_eq!(output.lost.traps, [(0, TrapKind::MemoryLimit)]);
        assert_eq!(lines(&output.lost), ["attempt 1, p: identity saw offset 1"]);
        assert_eq!(output.effects[0].1.logs.len(), 2);
    }

    #[test]
    fn a_run_calls_a_plugin_twice_at_most_and_a_cut_one_once() {
        let plugin = Arc::new(MemoryTransform::identity().trap_on(b"", TrapKind::CpuLimit));
        let chain = chain(&[&plugin]);
        let halt = run(&chain, batch(&["a", "b", "c", "d"]), Run::default()).map(|_| ()).unwrap_err();
        assert_eq!((plugin.calls(), &halt.reason), (2, &HaltReason::Split { at: 2 }));
        assert_eq!((halt.lost.attempts, halt.lost.traps.len()), (2, 2));
        let halt = run(&chain, batch(&["a", "b", "c", "d"]), CUT).map(|_| ()).unwrap_err();
        assert_eq!((plugin.calls(), halt.lost.attempts), (3, 4));
        let output = run(&chain, batch(&["a"]), CUT).unwrap();
        assert_eq!(plugin.calls(), 4);
        assert_eq!((output.failures[&0].code.as_str(), output.failures[&0].attempts), ("plugin.cpu_limit", 4));
    }

    #[test]
    fn what_a_call_costs_counts_although_nothing_comes_of_it() {
        let first = Arc::new(MemoryTransform::identity());
        let second = Arc::new(MemoryTransform::identity().trap_on(b"b", TrapKind::CpuLimit));
        let halt = run(&chain(&[&first, &second]), batch(&["a", "b"]), Run::default()).map(|_| ()).unwrap_err();
        assert_eq!(halt.lost.cpu_ns, [(1, 1_000), (1, 1_000), (0, 1_000)], "two tries, and the step before them");
        let again = Arc::new(MemoryTransform::identity().trap_times(b"b", TrapKind::Trap, 1));
        let output = run(&chain(&[&again]), batch(&["b"]), Run::default()).unwrap();
        assert_eq!((output.lost.cpu_ns, output.usage[0].1.cpu_ns), (vec![(0, 1_000)], 1_000));
    }

    #[test]
    fn rows_of_one_record_are_never_cut_apart_and_nothing_of_a_halted_run_counts() {
        let fan_out = Arc::new(
            MemoryTransform::new("fan-out", Subscription::default(), |_| Step::All(vec![Step::Keep(vec![]); 3]))
                .talkative(),
        );
        let traps = Arc::new(MemoryTransform::identity().trap_on(b"bad", TrapKind::Trap));
        let chain = chain(&[&fan_out, &traps]);
        let halt = run(&chain, batch(&["good", "bad"]), Run::default()).map(|_| ()).unwrap_err();
        assert_eq!(halt.reason, HaltReason::Split { at: 1 });
        assert_eq!(
            lines(&halt.lost),
            [
                "attempt 1, p: identity saw offset 1",
                "attempt 2, p: identity saw offset 1",
                "attempt 2, p: fan-out saw offset 0",
                "attempt 2, p: fan-out saw offset 1",
            ],
            "what the first step said in the failed attempt is kept as such"
        );
        let output = run(&chain, batch(&["bad"]), CUT).unwrap();
        assert_eq!((output.failures.len(), output.stages.len()), (1, 0), "all rows have one origin");
    }

    /// Waits for a word from outside before it answers as the step in it.
    struct Asks {
        step: MemoryTransform,
        slots: Arc<Semaphore>,
        word: Notify,
    }

    impl Transform for Asks {
        fn name(&self) -> &'static str {
            "asks"
        }

        fn digest(&self) -> Digest {
            self.step.digest()
        }

        fn subscription(&self) -> &Subscription {
            self.step.subscription()
        }

        fn apply(&self, _: &TransformInput<'_>) -> Result<TransformOutput, TransformError> {
            panic!("a step that waits is not called so")
        }

        fn apply_fresh(&self, input: &TransformInput<'_>) -> Result<TransformOutput, TransformError> {
            self.apply(input)
        }

        fn slots(&self) -> Option<Arc<Semaphore>> {
            Some(Arc::clone(&self.slots))
        }

        fn apply_waiting<'a>(
            &'a self,
            input: TransformInput<'a>,
            _: bool,
        ) -> BoxFuture<'a, Result<TransformOutput, TransformError>> {
            async move {
                self.word.notified().await;
                self.step.apply(&input)
            }
            .boxed()
        }
    }

    #[tokio::test]
    async fn a_step_that_asks_lets_in_as_many_batches_as_it_has_slots_and_waits_for_its_answer() {
        let asks = Asks { step: MemoryTransform::identity(), slots: Arc::new(Semaphore::new(1)), word: Notify::new() };
        let asks = Arc::new(asks);
        let encoder = Arc::new(Encoder { format: Format::Json, set_fields: vec![Vec::new()] });
        let chain = Chain::new(&[Arc::clone(&asks) as Arc<dyn Transform>], encoder);
        let entered = chain.enter().await;
        assert!(chain.enter().now_or_never().is_none(), "its only slot is taken");
        let mut running = std::pin::pin!(chain.run(batch(&["a"]), Run::default()));
        assert!(running.as_mut().now_or_never().is_none());
        asks.word.notify_one();
        assert_eq!(running.await.unwrap().stages[0].output.rows.len(), 1);
        drop(entered);
        assert_eq!(chain.enter().now_or_never().map(|entered| entered.len()), Some(1));
    }

    /// Traps on any instance that has seen a batch before, as one whose memory was spoilt does.
    struct Spoilt {
        subscription: Subscription,
        seen: AtomicU64,
    }

    impl Transform for Spoilt {
        fn name(&self) -> &'static str {
            "spoilt"
        }

        fn digest(&self) -> Digest {
            Digest::of(b"spoilt")
        }

        fn subscription(&self) -> &Subscription {
            &self.subscription
        }

        fn apply(&self, _: &TransformInput<'_>) -> Result<TransformOutput, TransformError> {
            if self.seen.fetch_add(1, Ordering::SeqCst) == 0 {
                return Ok(TransformOutput::default());
            }
            let (kind, message) = (TrapKind::Trap, "spoilt".to_owned());
            Err(TransformError::Trap { kind, message, backtrace: String::new(), logs: Vec::new(), cpu_ns: 7 })
        }

        fn apply_fresh(&self, input: &TransformInput<'_>) -> Result<TransformOutput, TransformError> {
            self.seen.store(0, Ordering::SeqCst);
            self.apply(input)
        }
    }

    #[test]
    fn no_record_is_found_guilty_on_an_instance_that_others_have_used() {
        let plugin: Arc<dyn Transform> =
            Arc::new(Spoilt { subscription: Subscription::default(), seen: AtomicU64::new(1) });
        let encoder = Arc::new(Encoder { format: Format::Json, set_fields: vec![Vec::new()] });
        let chain = Chain::new(&[plugin], encoder);
        for again in [Run::default(), CUT] {
            for _ in 0..3 {
                assert!(run(&chain, batch(&["a"]), again).unwrap().failures.is_empty());
            }
        }
    }

    proptest! {
        #[test]
        fn a_cut_stands_between_two_origins(rows in prop::collection::vec((0_u32..3, 1_usize..5), 1..20)) {
            let mut origins = Vec::new();
            let mut origin = 0;
            for (gap, count) in rows {
                origin += gap;
                origins.extend(std::iter::repeat_n(origin, count));
            }
            let (first, last) = (origins[0], origins[origins.len() - 1]);
            match cut(&origins) {
                None => prop_assert_eq!(first, last),
                Some(at) => prop_assert!(first < at && at <= last && origins.contains(&at)),
            }
        }
    }
}
