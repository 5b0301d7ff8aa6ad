//! One pipeline on one partition. Reads in the order in which a batch travels:
//!
//! ```text
//!  Reader::next_batch ─► stamp ─► Line::process ─► Sink::write ─► Tracker::acknowledge ─► Committer::commit
//!        read              transform (compute threads)                    acknowledge
//!                                      └──► DeadLetters::write ──────────────┘
//! ```
//!
//! Three loops joined by bounded queues, so that the waits of one overlap the work of another. The order of records is
//! kept up to the sinks' doors; from there on write times keep it. What is not acknowledged is not committed: a task may
//! be dropped anywhere, and whoever goes on repeats what was under way with the very same write times.
//!
//! Here are the assembly, the first loop and the last. `transforming` is the middle one, `parts` how it cuts a batch,
//! `writing` a part's way to being durable, `shared` what all of them know.

use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Mutex};

use futures::StreamExt as _;
use futures::future::BoxFuture;
use futures::stream::FuturesUnordered;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use super::checkpoint::{Checkpoint, CheckpointError, EpochPlan, EpochsUsedUp, KEPT_START};
use super::compute::Panicked;
use super::line::Line;
use super::shared::{Shared, State};
use super::tracker::Tracker;
use super::transforming::Transforming;
use super::write_clock::WriteClock;
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
    clock: WriteClock,
    shared: Arc<Shared>,
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
    /// A fault of Pelton's own.
    #[error(transparent)]
    Internal(#[from] Panicked),
}

/// A part on its way to being durable: resolves when it is acknowledged, or the task is stopped while it is held.
pub(super) type Write = BoxFuture<'static, ()>;

impl Task {
    /// A task for an assignment. Commits where it starts, so that whoever goes on starts the clock where this one did.
    ///
    /// # Errors
    /// Where ten versions of the pipeline began the same records.
    pub fn new(line: &Arc<Line>, assignment: Assignment, stop: CancellationToken) -> Result<Self, TaskError> {
        let Assignment { partition, generation, start, end_at_start, .. } = assignment;
        let siblings: Vec<Checkpoint> =
            assignment.sibling_metadata.iter().filter_map(|text| Checkpoint::parse(text).ok()).collect();
        let (committed, start_h) = match assignment.metadata.as_deref() {
            None | Some(KEPT_START) => (None, Checkpoint::start_h(partition.partition, &siblings)),
            Some(text) => match Checkpoint::parse(text) {
                Ok(checkpoint) => {
                    let h = checkpoint.h;
                    (Some(checkpoint), h)
                }
                Err(error) => (None, without_clock(&line.name, &partition, &error, &siblings)),
            },
        };
        let commits = assignment.sibling_metadata.len() + 1;
        let partitions_total =
            Checkpoint::partitions_known(assignment.partitions_total, committed.as_ref(), &siblings, commits);
        let epoch =
            EpochPlan::at_assignment(committed.as_ref(), &line.digests, &line.configuration, start.0, end_at_start.0)?;
        let clock = WriteClock::after(start_h.max(line.timestamp_floor));
        let shared = Arc::new(Shared {
            line: Arc::clone(line),
            partition,
            generation,
            epoch,
            partitions_total,
            topic_id: assignment.topic_id,
            committer: assignment.committer,
            found: assignment.metadata,
            has_written: AtomicBool::new(false),
            stop,
            state: Mutex::new(State::new()),
            tracker: Mutex::new(Tracker::new(generation)),
        });
        shared.commit(start, clock.previous());
        Ok(Self { line: Arc::clone(line), reader: assignment.reader, start, clock, shared })
    }

    /// What the supervisor may read while the task runs.
    #[must_use]
    pub fn shared(&self) -> Arc<Shared> {
        Arc::clone(&self.shared)
    }

    /// Runs until it is stopped, and everything that it began is durable and handed over for commit.
    ///
    /// # Errors
    /// Where the partition cannot be read on, or Pelton itself is at fault.
    pub async fn run(self) -> Result<(), TaskError> {
        let (to_transform, batches) = mpsc::channel(1);
        let (to_await, writes) = mpsc::channel(WRITES_QUEUED_MAX);
        let reading = read(Arc::clone(&self.line), self.reader, Arc::clone(&self.shared), to_transform);
        let transforming = Transforming { line: self.line, shared: Arc::clone(&self.shared), to_await };
        let transform = async { Ok(transforming.run(batches, self.clock).await?) };
        tokio::try_join!(reading, transform, acknowledge(writes))?;
        self.shared.leave_as_found(self.start);
        Ok(())
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
