//! One pipeline on one partition. Reads in the order in which a batch travels:
//!
//! ```text
//!  Reader::next_batch ─► stamp ─► Generation::process ─► Sink::write ─► Tracker::acknowledge ─► Committer::commit
//!        read              transform (compute threads)                          acknowledge
//!                                      └──► DeadLetters::write ────────────────────┘
//! ```
//!
//! Three loops joined by bounded queues, so that the waits of one overlap the work of another. The order of records is
//! kept up to the sinks' doors; from there on write times keep it. What is not acknowledged is not committed: a task may
//! be dropped anywhere, and whoever goes on repeats what was under way with the very same write times.
//!
//! Here are the assembly, the first loop and the last. `transforming` is the middle one, `stamping` its clock,
//! `journaling` what it writes down before its writes go out, `going_over` how it takes on other plugins, `beside` what
//! else runs a part, `parts` how it cuts a batch, `writing` a part's way to being durable, `shared` what all of them know.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, AtomicU64};
use std::sync::{Arc, Mutex, OnceLock};

use futures::StreamExt as _;
use futures::future::BoxFuture;
use futures::stream::FuturesUnordered;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use super::checkpoint::{Checkpoint, CheckpointError, EpochPlan, EpochsUsedUp, KEPT_START};
use super::compute::Panicked;
use super::journaling::{self, Journaling};
use super::line::Line;
use super::shared::{Begun, Flow, Hand, Shared, State};
use super::stamping::{Inexact, Stamper};
use super::tracker::Tracker;
use super::transforming::Transforming;
use super::{Assignment, Reader, SourceError};
use crate::record::{Batch, Offset, TopicPartition};

/// Batches whose rows are on their way to the sinks, per task: one at the door of the queue, those in it, and those that
/// are waited for.
const WRITES_IN_FLIGHT_MAX: usize = 1 + WRITES_QUEUED_MAX + WRITES_AWAITED_MAX;
const WRITES_QUEUED_MAX: usize = 1;
const WRITES_AWAITED_MAX: usize = 6;
const _: () = assert!(WRITES_IN_FLIGHT_MAX == 8, "what the manual and the memory budget speak of");

/// One pipeline on one partition, not yet running.
pub struct Task {
    line: Arc<Line>,
    reader: Box<dyn Reader>,
    start: Offset,
    begins: Begins,
    shared: Arc<Shared>,
}

/// What a task goes on from.
enum Begins {
    /// What stands beside the committed offset.
    Committed(Committed),
    /// What the journal said of a range that is read again.
    Again(Stamper),
}

/// What stands beside the committed offset, and what does not.
struct Committed {
    checkpoint: Option<Checkpoint>,
    h: i64,
}

/// Why a task ended early.
#[derive(Debug, thiserror::Error)]
pub enum TaskError {
    /// The partition cannot be read on.
    #[error(transparent)]
    Source(#[from] SourceError),
    /// Ten versions began the same records.
    #[error(transparent)]
    Epochs(#[from] EpochsUsedUp),
    /// Records cannot be stamped as they were.
    #[error(transparent)]
    Inexact(#[from] Inexact),
    /// A fault of Pelton's own.
    #[error(transparent)]
    Internal(#[from] Panicked),
}

/// A part on its way to being durable: resolves when it is acknowledged, or the task is stopped while it is held.
pub(super) type Write = BoxFuture<'static, ()>;

impl Task {
    /// A task for an assignment: it goes on from what is committed.
    #[must_use]
    pub fn new(line: &Arc<Line>, assignment: Assignment, stop: CancellationToken) -> Self {
        let partition = &assignment.partition;
        let siblings: Vec<Checkpoint> =
            assignment.sibling_metadata.iter().filter_map(|text| Checkpoint::parse(text).ok()).collect();
        let (checkpoint, h) = match assignment.metadata.as_deref() {
            None | Some(KEPT_START) => (None, Checkpoint::start_h(partition.partition, &siblings)),
            Some(text) => match Checkpoint::parse(text) {
                Ok(checkpoint) => {
                    let h = checkpoint.h;
                    (Some(checkpoint), h)
                }
                Err(error) => (None, without_clock(&line.name, partition, &error, &siblings)),
            },
        };
        // Those that keep a start for somebody else tell nothing of their own.
        let commits = siblings.len() + 1;
        let partitions_total =
            Checkpoint::partitions_known(assignment.partitions_total, checkpoint.as_ref(), &siblings, commits);
        let committed = Committed { checkpoint, h };
        Self::of(line, assignment, Begins::Committed(committed), partitions_total, stop)
    }

    /// A task that reads records again, and stamps them as they were.
    #[must_use]
    pub fn again(line: &Arc<Line>, assignment: Assignment, stamper: Stamper, stop: CancellationToken) -> Self {
        let partitions_total = assignment.partitions_total;
        Self::of(line, assignment, Begins::Again(stamper), partitions_total, stop)
    }

    fn of(
        line: &Arc<Line>,
        assignment: Assignment,
        begins: Begins,
        partitions_total: i32,
        stop: CancellationToken,
    ) -> Self {
        let hand = Hand { from: assignment.start, generation: line.live.get(), epochs: EpochPlan::default() };
        let shared = Arc::new(Shared {
            line: Arc::clone(line),
            partition: assignment.partition,
            assignment: assignment.generation,
            begun: OnceLock::new(),
            end_at_start: assignment.end_at_start,
            hands: Mutex::new(VecDeque::from([hand])),
            partitions_total,
            topic_id: assignment.topic_id,
            committer: assignment.committer,
            found: assignment.metadata,
            has_written: AtomicBool::new(false),
            stop,
            state: Mutex::new(State::new()),
            tracker: Mutex::new(Tracker::new(assignment.generation)),
        });
        Self { line: Arc::clone(line), reader: assignment.reader, start: assignment.start, begins, shared }
    }

    /// What the supervisor may read while the task runs.
    #[must_use]
    pub fn shared(&self) -> Arc<Shared> {
        Arc::clone(&self.shared)
    }

    /// Runs until it is stopped, and everything that it began is durable and handed over for commit. Commits first where
    /// it starts, so that whoever goes on starts the clock where this one did.
    ///
    /// # Errors
    /// Where ten versions of the pipeline began the same records, the partition cannot be read on, records that are read
    /// again cannot be stamped as they were, or Pelton itself is at fault.
    pub async fn run(self) -> Result<(), TaskError> {
        let Self { line, reader, start, begins, shared } = self;
        let (stamper, journaling) = match begins {
            Begins::Again(stamper) => (stamper, None),
            Begins::Committed(committed) => match committed.begin(&shared, start).await? {
                Some(begun) => begun,
                None => return Ok(()),
            },
        };
        shared.commit(start, stamper.previous());
        let (to_transform, batches) = mpsc::channel(1);
        let (to_await, writes) = mpsc::channel(WRITES_QUEUED_MAX);
        let reading = read(Arc::clone(&line), reader, Arc::clone(&shared), to_transform);
        let journaling = journaling.map(tokio::sync::Mutex::new);
        let (shared_too, went_over) = (Arc::clone(&shared), Mutex::default());
        let waits_behind = AtomicU64::default();
        let transforming = Transforming { line, shared: shared_too, to_await, journaling, went_over, waits_behind };
        let transform = transforming.run(batches, stamper);
        tokio::try_join!(reading, transform, acknowledge(writes))?;
        shared.leave_as_found(start);
        Ok(())
    }
}

impl Committed {
    /// Asks the journal what earlier tasks have decided, and settles epoch, clock and term. Where the topic was made anew,
    /// the journal learns at once that this was told: whoever goes on need not tell it again. None where the task is
    /// stopped meanwhile.
    async fn begin(
        self,
        shared: &Arc<Shared>,
        start: Offset,
    ) -> Result<Option<(Stamper, Option<Journaling>)>, TaskError> {
        let Self { checkpoint, h } = self;
        let (line, generation) = (&shared.line, shared.generation());
        let (digests, configuration) = (&generation.digests, &generation.configuration);
        let from = checkpoint.as_ref().and_then(|checkpoint| checkpoint.journal);
        let Some(timeline) = journaling::timeline(shared, from).await else { return Ok(None) };
        let anew = shared.made_anew(&timeline);
        if anew.is_some_and(|gone| shared.committer.made_anew(gone)) {
            // The source ends this assignment.
            shared.stop.cancelled().await;
            return Ok(None);
        }
        // Where nothing is committed, or not by us, the journal still knows who may have written, and up to where.
        let is_told = checkpoint.is_none() && !timeline.entries().is_empty();
        let told = is_told.then(|| timeline.checkpoint(start.0, h, digests, configuration));
        let exact = timeline.exactly_at(start.0).filter(|_| checkpoint.is_none()).map(|entry| entry.h);
        let end = shared.end_at_start.0;
        // And where the last task went over to others beyond what it had committed.
        let ahead = checkpoint.as_ref().and_then(|committed| {
            let ahead = timeline.others_ahead((start.0, committed.term), digests, configuration)?;
            Some(committed.plan().highest(ahead, start.0))
        });
        let before = checkpoint.as_ref().or(told.as_ref());
        let mut plan = match ahead {
            Some(ahead) => ahead.above(start.0, end)?,
            None => EpochPlan::at_assignment(before, digests, configuration, start.0, end)?,
        };
        if generation.chain.asks().is_some() {
            plan = plan.above_other_answers(before, start.0, end);
            let term = checkpoint.as_ref().map_or(0, |committed| committed.term);
            plan = plan.above_own_answers(timeline.plan_ahead((start.0, term)), start.0);
        }
        let term = timeline.term.max(checkpoint.as_ref().map_or(0, |checkpoint| checkpoint.term)) + 1;
        let walls = timeline.walls_from(start.0);
        let stamper = Stamper::first(exact.unwrap_or(h).max(line.timestamp_floor), plan, &walls);
        shared.begun.set(Begun { term, journal: from }).expect("a task begins once");
        shared.hand_over(Hand { from: start, generation, epochs: plan });
        let mut journaling = Journaling::begin(shared, (start, stamper.previous()), &walls);
        if let (Some(_), Some(journaling)) = (anew, &mut journaling)
            && journaling.before_writes(shared, true).await == Flow::Stop
        {
            return Ok(None);
        }
        Ok(Some((stamper, journaling)))
    }
}

/// Where the clock starts beside an offset that another tool has set: what was written below it is not known.
fn without_clock(pipeline: &str, partition: &TopicPartition, error: &CheckpointError, siblings: &[Checkpoint]) -> i64 {
    let h = Checkpoint::highest_h(siblings);
    let from = if siblings.is_empty() { "the records' own times" } else { "the highest write time of the topic" };
    tracing::warn!(
        pipeline, %partition, h,
        "{error}. The write time that this partition had reached is lost: write times go on from {from}. Where rows \
         were written with later ones, their next updates lose against them; `timestamp_floor` of the output sets a \
         time that is late enough"
    );
    h
}

/// Reads batches while the gate is open, until the task is stopped.
async fn read(
    line: Arc<Line>,
    mut reader: Box<dyn Reader>,
    shared: Arc<Shared>,
    to_transform: mpsc::Sender<Batch>,
) -> Result<(), TaskError> {
    loop {
        let batch = tokio::select! {
            biased;
            () = shared.stop.cancelled() => return Ok(()),
            () = line.gate.closed() => {
                shared.note_standing(true);
                tokio::select! {
                    () = shared.stop.cancelled() => return Ok(()),
                    _ = line.gate.opened() => {
                        shared.note_standing(false);
                        continue;
                    }
                }
            }
            batch = reader.next_batch(line.batch) => batch?,
        };
        shared.note_read(batch.len());
        if !batch.is_empty() && to_transform.send(batch).await.is_err() {
            return Ok(());
        }
    }
}

/// Waits for writes, in whatever order they end.
pub(super) async fn acknowledge(mut writes: mpsc::Receiver<Write>) -> Result<(), TaskError> {
    let mut under_way = FuturesUnordered::new();
    let mut is_open = true;
    while is_open || !under_way.is_empty() {
        tokio::select! {
            write = writes.recv(), if is_open && under_way.len() < WRITES_AWAITED_MAX => match write {
                Some(write) => under_way.push(write),
                None => is_open = false,
            },
            Some(()) = under_way.next() => {}
        }
    }
    Ok(())
}
