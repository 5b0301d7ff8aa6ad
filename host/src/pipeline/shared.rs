//! What the loops of a task share, and the supervisor reads: how far the partition is, and what holds it.
//!
//! In: acknowledgements, and failures. Out: positions to commit, and pauses of the pipeline. Knows no sink and no plugin.

use std::collections::{BTreeMap, VecDeque};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;

use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::chain::RecordFailure;
use super::checkpoint::{Checkpoint, EpochPlan, KEPT_START};
use super::gate::{Hold, PausedBy};
use super::generation::Generation;
use super::journal::{GoneTopic, Mark, Timeline};
use super::line::Line;
use super::tracker::Tracker;
use super::{Committer, Position};
use crate::config::Poison;
use crate::record::{Batch, Offset, TopicPartition};

/// How often the watchdog is told of a wait that is meant.
pub(super) const WATCHDOG_TOLD_EVERY: Duration = Duration::from_secs(10);

/// What the loops of a task share.
pub struct Shared {
    pub(super) line: Arc<Line>,
    pub(super) partition: TopicPartition,
    /// The generation of its assignment.
    pub(super) assignment: u64,
    /// How it began; none until it has.
    pub(super) begun: OnceLock<Begun>,
    /// Below here others may have written before this task.
    pub(super) end_at_start: Offset,
    /// Who handles its records: whoever handles the first that is not committed, and whoever comes after.
    pub(super) hands: Mutex<VecDeque<Hand>>,
    pub(super) partitions_total: i32,
    pub(super) topic_id: Option<String>,
    pub(super) committer: Arc<dyn Committer>,
    /// What stood beside the committed offset before this task.
    pub(super) found: Option<String>,
    /// A sink was given something: it may be written, whatever comes.
    pub(super) has_written: AtomicBool,
    pub(super) stop: CancellationToken,
    pub(super) state: Mutex<State>,
    pub(super) tracker: Mutex<Tracker>,
}

/// Who handles the records of a partition from an offset on.
#[derive(Clone)]
pub(super) struct Hand {
    pub(super) from: Offset,
    pub(super) generation: Arc<Generation>,
    pub(super) epochs: EpochPlan,
}

/// How a task began: as which task of its partition.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Begun {
    pub(super) term: u64,
    /// Where the journal is to be read from, for whoever goes on before this task has written to it.
    pub(super) journal: Option<Mark>,
}

/// What changes while a task runs.
#[derive(Debug)]
pub(super) struct State {
    committed: Option<Offset>,
    /// When something last moved: for the watchdog.
    moved: Instant,
    waiting: Option<Waiting>,
    /// Records that were read and that the tracker does not know yet.
    on_the_way: usize,
    /// The reader stands before the closed gate.
    stands: bool,
    /// From which place on the journal tells of records from the committed position on.
    journal: Option<Mark>,
    /// The same, once records below an offset are committed.
    journal_next: Option<(Offset, Mark)>,
}

/// How far a task is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Progress {
    /// The position handed over for commit last.
    pub committed: Option<Offset>,
    /// Records read and not yet done.
    pub in_flight: usize,
    /// The pipeline is paused, and nothing more is read until it is resumed.
    pub stands: bool,
    /// What is done is committed.
    pub is_committed: bool,
    /// How long nothing has moved.
    pub still_for: Duration,
    /// The record that holds the partition, if one does.
    pub waiting: Option<Waiting>,
}

/// A record that is tried again, and holds its partition until then.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Waiting {
    /// Where it stands.
    pub offset: Offset,
    /// When it is tried again.
    pub until: Instant,
    /// Why, for people.
    pub cause: String,
}

/// Whether a loop goes on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Flow {
    GoOn,
    Stop,
}

impl State {
    pub(super) fn new() -> Self {
        Self {
            committed: None,
            moved: Instant::now(),
            waiting: None,
            on_the_way: 0,
            stands: false,
            journal: None,
            journal_next: None,
        }
    }
}

impl Shared {
    /// Which partition.
    #[must_use]
    pub fn partition(&self) -> &TopicPartition {
        &self.partition
    }

    /// How far the task is.
    #[must_use]
    pub fn progress(&self) -> Progress {
        // In the order in which a record travels: none is missed on its way from one to the next.
        let state = self.state();
        let (committed, waiting, stands) = (state.committed, state.waiting.clone(), state.stands);
        let (on_the_way, still_for) = (state.on_the_way, state.moved.elapsed());
        drop(state);
        let (tracked, done) = {
            let tracker = self.tracker();
            (tracker.in_flight(), tracker.done())
        };
        let in_flight = on_the_way + tracked;
        let is_handed_over = done.is_none_or(|done| committed >= Some(done.next));
        let is_committed = is_handed_over && self.committer.is_settled();
        Progress { committed, in_flight, stands, is_committed, still_for, waiting }
    }

    pub(super) fn tracker(&self) -> MutexGuard<'_, Tracker> {
        self.tracker.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Tells the watchdog that all is as it should be.
    pub fn note_moved(&self) {
        self.state().moved = Instant::now();
    }

    // ------------------------------------------------------------------------------------------------ the way forward

    /// Records were read; the tracker learns of them when they get their write times.
    pub(super) fn note_read(&self, records: usize) {
        self.state().on_the_way += records;
    }

    /// The tracker knows records that were noted as read.
    pub(super) fn note_tracked(&self, records: usize) {
        self.state().on_the_way -= records;
    }

    /// The reader stands before the closed gate, or goes on.
    pub(super) fn note_standing(&self, stands: bool) {
        self.state().stands = stands;
    }

    /// Some outputs are durable or decided.
    pub(super) fn acknowledge(&self, outputs: impl IntoIterator<Item = (Offset, u32)>) {
        {
            let mut tracker = self.tracker();
            for (offset, outputs) in outputs {
                tracker.acknowledge(self.assignment, offset, outputs);
            }
        }
        self.commit_done();
    }

    /// Hands over the position below which everything is done, if it moved.
    pub(super) fn commit_done(&self) {
        self.note_moved();
        let done = self.tracker().done();
        if let Some(done) = done
            && self.state().committed < Some(done.next)
        {
            self.commit(done.next, done.h);
        }
    }

    pub(super) fn commit(&self, next: Offset, h: i64) {
        let Hand { generation, epochs, .. } = self.hand_at(next);
        let mut checkpoint = Checkpoint::new(h, generation.digests.clone(), generation.configuration.clone());
        checkpoint.partitions_total = self.partitions_total;
        checkpoint.topic_id.clone_from(&self.topic_id);
        let begun = self.begun();
        epochs.note(next.0, &mut checkpoint);
        checkpoint.term = begun.term;
        checkpoint.journal = self.mark_below(next).or(begun.journal);
        self.committer.commit(Position { next, metadata: checkpoint.encode() });
        self.state().committed = Some(next);
    }

    /// A task that ends without having given anything to a sink leaves beside `start` what it found there: nobody who
    /// goes on has to write above what it never wrote.
    pub(super) fn leave_as_found(&self, start: Offset) {
        if !self.has_written.load(Ordering::SeqCst) && self.state().committed == Some(start) {
            let metadata = self.found.clone().unwrap_or_else(|| KEPT_START.to_owned());
            self.committer.leave(metadata);
        }
    }

    /// The topic that the journal tells of, where it tells of none but others of the name, and nobody has committed
    /// anything: the broker drops a group's offsets with their topic, so nothing else tells that it was made anew.
    pub(super) fn made_anew<'t>(&self, timeline: &'t Timeline) -> Option<&'t GoneTopic> {
        let is_committed = self.found.as_deref().is_some_and(|found| found != KEPT_START);
        timeline.gone.last().filter(|_| !is_committed && timeline.entries().is_empty())
    }

    // -------------------------------------------------------------------------------------------------- who handles it

    fn hands(&self) -> MutexGuard<'_, VecDeque<Hand>> {
        self.hands.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Who handles what comes next.
    pub(super) fn hand(&self) -> Hand {
        self.hands().back().cloned().expect("somebody handles what a task reads")
    }

    /// Who handles the records from a committed offset on. Whoever handled what lies below is forgotten.
    fn hand_at(&self, next: Offset) -> Hand {
        let mut hands = self.hands();
        while hands.get(1).is_some_and(|hand| hand.from <= next) {
            hands.pop_front();
        }
        hands.front().cloned().expect("somebody handles what a task reads")
    }

    /// Somebody else handles the records from an offset on.
    pub(super) fn hand_over(&self, hand: Hand) {
        let mut hands = self.hands();
        if hands.back().is_some_and(|last| last.from == hand.from) {
            hands.pop_back();
        }
        hands.push_back(hand);
    }

    /// The generation of the plugins that handles what comes next.
    #[must_use]
    pub fn generation(&self) -> Arc<Generation> {
        self.hand().generation
    }

    /// Everything below a record is done, and the broker has all that was handed over.
    pub(super) fn is_committed_below(&self, offset: Offset) -> bool {
        self.tracker().first_open().is_none_or(|open| open >= offset) && self.committer.is_settled()
    }

    /// How the task began. Nothing is stamped or committed before.
    pub(super) fn begun(&self) -> Begun {
        self.begun.get().copied().unwrap_or_default()
    }

    /// Whoever goes on at `offset` or later finds all that the journal says about what lies ahead at `mark` or later.
    pub(super) fn journaled(&self, offset: Offset, mark: Mark) {
        self.state().journal_next.get_or_insert((offset, mark));
    }

    fn mark_below(&self, next: Offset) -> Option<Mark> {
        let mut state = self.state();
        if let Some((_, mark)) = state.journal_next.take_if(|(offset, _)| *offset <= next) {
            state.journal = Some(mark);
        }
        state.journal
    }

    // --------------------------------------------------------------------------------------------------- what holds it

    /// Waits before a record is tried again, unless the task is stopped; the watchdog knows that it is meant.
    pub(super) async fn wait(&self, offset: Offset, delay: Duration, cause: &str) -> Flow {
        let until = Instant::now() + delay;
        self.state().waiting = Some(Waiting { offset, until, cause: cause.to_owned() });
        loop {
            self.note_moved();
            let slice = (Instant::now() + WATCHDOG_TOLD_EVERY).min(until);
            tokio::select! {
                () = self.stop.cancelled() => return Flow::Stop,
                () = tokio::time::sleep_until(slice) => if slice == until { return Flow::GoOn },
            }
        }
    }

    /// Nothing holds the partition any more.
    pub(super) fn goes_on(&self) {
        self.state().waiting = None;
    }

    /// Notes how many of so many records failed, and pauses the pipeline before them where that is too much, or where
    /// no record may be passed over.
    pub(super) fn hold(&self, source: &Batch, records: usize, failures: &BTreeMap<u32, RecordFailure>) -> Option<Hold> {
        let (by, cause) = match (failures.first_key_value(), self.line.errors.poison) {
            (Some((origin, failure)), Poison::Stop) => {
                let offset = source.offsets[*origin as usize];
                let RecordFailure { code, message, stage, .. } = failure;
                let cause = format!("record {}/{offset} failed at {stage}: {code}: {message}", self.partition);
                (PausedBy::Poison, cause)
            }
            (example, _) => {
                let tripped = self.line.observe(records, failures.len())?;
                let example = example.map(|(_, f)| format!("; for example {}: {}", f.code, f.message));
                (PausedBy::Breaker, format!("{tripped}{}", example.unwrap_or_default()))
            }
        };
        let hold = self.line.gate.hold(by, &cause);
        // One pause is told once; other partitions that run into it have little to add.
        if hold.is_new {
            self.line.meters.paused(by.name());
            tracing::error!(pipeline = %self.line.name, partition = %self.partition, "paused: {cause}");
        } else {
            tracing::debug!(pipeline = %self.line.name, partition = %self.partition, "held by the same pause: {cause}");
        }
        Some(hold)
    }

    /// Waits until the operator has resumed the pipeline, unless the task is stopped.
    pub(super) async fn resumed(&self, hold: &Hold) -> Flow {
        tokio::select! {
            () = self.stop.cancelled() => Flow::Stop,
            () = self.line.gate.resumed(hold) => {
                if hold.by == PausedBy::Breaker {
                    self.line.reset_breaker();
                }
                Flow::GoOn
            }
        }
    }
}
