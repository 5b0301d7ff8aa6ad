//! What a task writes to the journal, and when.
//!
//! In: where the task begins, batches as they are stamped. Out: entries, durable before the first write that depends on
//! them. Nothing is written for most batches. Never passes over an entry: where the journal takes none, the task waits,
//! and says so.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use super::journal::{Author, Entry, Journal, Mark, Pages, Reason, Timeline, WallRange};
use super::shared::{Flow, Hand, Shared, WATCHDOG_TOLD_EVERY};
use super::stamping::NewWall;
use crate::record::Offset;

/// A task says where its clock stands after so many records, or so long after it last did.
const EVERY_RECORDS: usize = 1_000_000;
const EVERY: Duration = Duration::from_secs(600);
/// Entries that may wait for a write that depends on them.
const PENDING_MAX: usize = 256;
/// How soon a journal that cannot be read is asked again.
const READ_AGAIN_AFTER: Duration = Duration::from_secs(1);

/// What a task writes to its journal.
pub(super) struct Journaling {
    journal: Arc<dyn Journal>,
    author: Author,
    /// To be written before the next write that may depend on it.
    pending: Vec<Entry>,
    /// What was decided about the batch that was stamped last.
    walls: Vec<NewWall>,
    /// What it took over, or had decided before it went over to others, reaches up to here, and stands before all that it
    /// writes later.
    carried_until: Offset,
    /// Records since it was last said where the clock stands, and when that was.
    records: usize,
    said_at: Instant,
}

/// What the journal says about the task's partition; empty where the pipeline keeps none. None where the task is stopped
/// before it could be read.
pub(super) async fn timeline(shared: &Shared, from: Option<Mark>) -> Option<Timeline> {
    let Some(journal) = &shared.line.journal else { return Some(Timeline::default()) };
    loop {
        let read = tokio::select! {
            biased;
            () = shared.stop.cancelled() => return None,
            read = journal.read(&shared.partition, from) => read,
        };
        match read {
            Ok(Pages { entries, unreadable }) => {
                for reason in &unreadable {
                    tracing::warn!(pipeline = %shared.line.name, reason, "an entry of the journal was passed over");
                }
                return Some(Timeline::of(entries, shared.topic_id.as_deref()));
            }
            Err(error) => {
                tracing::warn!(pipeline = %shared.line.name, partition = %shared.partition, "waiting: {error}");
            }
        }
        tokio::select! {
            () = shared.stop.cancelled() => return None,
            () = tokio::time::sleep(READ_AGAIN_AFTER) => {}
        }
    }
}

impl Journaling {
    /// For a task that begins at an offset with its clock at `h`; none where the pipeline keeps no journal.
    pub(super) fn begin(shared: &Shared, (start, h): (Offset, i64), walls: &[WallRange]) -> Option<Self> {
        let journal = Arc::clone(shared.line.journal.as_ref()?);
        let Hand { generation, epochs, .. } = shared.hand();
        let author = Author {
            partition: shared.partition.clone(),
            topic_id: shared.topic_id.clone(),
            digests: generation.digests.clone(),
            configuration: generation.configuration.clone(),
            plan: epochs,
            term: shared.begun().term,
        };
        let assigned = Entry::new(&author, start.0, h, Reason::Assigned);
        let carried = walls.iter().map(|wall| {
            Entry::new(&author, wall.from, h, Reason::Carried { until: wall.until, wall_ms: wall.wall_ms })
        });
        let pending = std::iter::once(assigned).chain(carried).collect();
        let carried_until = walls.iter().map(|wall| Offset(wall.until)).max().unwrap_or(start);
        let (walls, said_at) = (Vec::new(), Instant::now());
        Some(Self { journal, author, pending, walls, carried_until, records: 0, said_at })
    }

    /// A batch of so many records was stamped. `at` is its first offset, and the write time of the last record below.
    pub(super) fn stamped(&mut self, (offset, below): (Offset, i64), records: usize, walls: &[NewWall]) {
        if self.pending.is_empty() && (self.records >= EVERY_RECORDS || self.said_at.elapsed() >= EVERY) {
            self.pending.push(Entry::new(&self.author, offset.0, below, Reason::Periodic));
        }
        self.records += records;
        self.walls = walls.to_vec();
        self.note_walls();
    }

    fn note_walls(&mut self) {
        self.pending.extend(self.walls.iter().map(|NewWall { wall, h }| {
            Entry::new(&self.author, wall.from, *h, Reason::Wall { until: wall.until, wall_ms: wall.wall_ms })
        }));
    }

    /// Others handle what stands from an offset on. `h` is the write time of the last record below.
    pub(super) fn handed_over(&mut self, (offset, h): (Offset, i64), to: &Hand) {
        self.author.digests.clone_from(&to.generation.digests);
        self.author.configuration.clone_from(&to.generation.configuration);
        self.author.plan = to.epochs;
        // What was decided about records beyond is said anew: an entry also says who handles what follows it.
        self.pending.retain(|entry| entry.offset <= offset.0 || matches!(entry.reason, Reason::Carried { .. }));
        self.pending.push(Entry::new(&self.author, offset.0, h, Reason::Reloaded));
        // Who goes on behind this still has to find what was decided before it and reaches beyond.
        let reaches = self.walls.iter().filter(|NewWall { wall, .. }| wall.from <= offset.0).map(|new| new.wall.until);
        self.carried_until = self.carried_until.max(Offset(reaches.max().unwrap_or_default()));
        self.walls.retain(|NewWall { wall, .. }| wall.from > offset.0);
        self.note_walls();
    }

    /// Something of what was stamped is about to be written: returns when the journal has all that it depends on. What
    /// is never written needs no entry, but for many of them.
    pub(super) async fn before_writes(&mut self, shared: &Shared, is_written: bool) -> Flow {
        let Some(first) = self.pending.first() else { return Flow::GoOn };
        // From here on nothing of what stands before these entries matters any more.
        let settled = if first.reason == Reason::Assigned {
            Offset(first.offset)
        } else {
            Offset(first.offset).max(self.carried_until)
        };
        if !is_written && self.pending.len() < PENDING_MAX {
            return Flow::GoOn;
        }
        let mut writing = self.journal.append(self.pending.clone());
        let mark = loop {
            tokio::select! {
                biased;
                () = shared.stop.cancelled() => return Flow::Stop,
                mark = &mut writing => break mark,
                // It tries without end, and its own word says why it takes nothing.
                () = tokio::time::sleep(WATCHDOG_TOLD_EVERY) => shared.note_moved(),
            }
        };
        drop(writing);
        self.pending.clear();
        (self.records, self.said_at) = (0, Instant::now());
        shared.journaled(settled, mark);
        Flow::GoOn
    }
}
