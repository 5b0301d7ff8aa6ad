//! Reading again what was read: the same line, over a range, beside the pipeline that runs.
//!
//! In: a range of a partition, and the journal. Out: the very cells that the pipeline wrote, or the reason why they would
//! not be. The clock starts at the nearest place at or below the range that the journal knows; the records between are
//! stamped and not written. Commits nothing, decides nothing, and writes to the journal nothing.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use async_trait::async_trait;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::compute::Panicked;
use super::journal::{Entry, GoneTopic, Pages, Timeline};
use super::line::Line;
use super::ranges::{Extent, RangeReader, Ranges};
use super::stamping::{Inexact, Stamper};
use super::task::{Task, TaskError};
use super::{Assignment, BatchLimits, Committer, Position, Reader, SourceError};
use crate::clock::Clock;
use crate::record::{Batch, Offset, TopicPartition};

/// What the records of a range should be handled by.
#[derive(Debug, Clone, Copy)]
pub struct Wanted<'w> {
    /// Short digests of the plugins.
    pub digests: &'w [String],
    /// Short digest of the configuration.
    pub configuration: &'w str,
    /// Other plugins or another configuration than then are meant.
    pub may_differ: bool,
}

/// A range that can be read again exactly.
#[derive(Debug, Clone)]
pub struct Part {
    /// Where.
    pub partition: TopicPartition,
    /// The first record that is written.
    pub from: Offset,
    /// One past the last.
    pub until: Offset,
    /// Where the clock starts.
    pub start: Offset,
    topic_id: Option<String>,
    stamper: Stamper,
}

/// Why a range cannot be read again exactly, and what to do.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{partition}: {reason}")]
pub struct Refusal {
    /// Where.
    pub partition: TopicPartition,
    /// Why.
    pub reason: Reason,
}

/// Why a range cannot be read again exactly, and what to do.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Reason {
    /// Retention.
    #[error("records {from} to {} are gone from the topic; {remedy}", .low - 1)]
    Gone {
        /// The first that was asked for.
        from: i64,
        /// The first that is there.
        low: i64,
        /// What to do.
        remedy: String,
    },
    /// The journal begins later.
    #[error("the journal does not say how the write times came about below offset {from}; {remedy}")]
    NoEntry {
        /// The first record that was asked for.
        from: i64,
        /// What to do.
        remedy: String,
    },
    /// The topic was made anew.
    #[error(
        "the topic was made anew: its id was {then} and is {}; what the pipeline read then is not in it",
        .now.as_deref().unwrap_or("not known")
    )]
    OtherTopic {
        /// Its id then.
        then: String,
        /// Its id now.
        now: Option<String>,
    },
    /// Compaction.
    #[error(
        "the topic is compacted: records on which write times rest may be gone. To read it anew, let a copy of the \
         pipeline's file with a group of its own and `start: earliest` fill an empty table"
    )]
    Compacted,
    /// The journal is damaged, or too new.
    #[error("the journal cannot be trusted: {0}")]
    Unreadable(String),
    /// Other plugins, or another configuration.
    #[error(
        "from offset {at} on the records were handled by {then}, and the project has {now}: put back what was there \
         then, or, with --into, ask for --with-current"
    )]
    OtherVersion {
        /// The first such record.
        at: i64,
        /// Plugins and configuration then.
        then: String,
        /// Plugins and configuration now.
        now: String,
    },
}

/// Why a replay ended before its end.
#[derive(Debug, thiserror::Error)]
pub enum ReplayError {
    /// The source cannot be read.
    #[error(transparent)]
    Source(#[from] SourceError),
    /// It would not be exact.
    #[error("{0}: {1}")]
    Inexact(TopicPartition, Inexact),
    /// The line failed.
    #[error("{0}: {1}")]
    Task(TopicPartition, TaskError),
}

/// How far a replay is, over all its parts.
#[derive(Debug, Default)]
pub struct ReplayProgress {
    /// Offsets done of those below the range.
    pub passed: AtomicU64,
    /// Offsets done of the range.
    pub done: AtomicU64,
}

/// Looks whether a range can be read again exactly.
///
/// # Errors
/// Where it cannot: why, and what to do.
pub fn plan(
    partition: &TopicPartition,
    (from, until): (Offset, Offset),
    extent: &Extent,
    pages: Pages,
    wanted: Wanted<'_>,
) -> Result<Part, Refusal> {
    let refused = |reason| Err(Refusal { partition: partition.clone(), reason });
    let from = from.min(extent.end);
    if extent.is_compacted {
        return refused(Reason::Compacted);
    }
    if let Some(unreadable) = pages.unreadable.into_iter().next() {
        return refused(Reason::Unreadable(unreadable));
    }
    let timeline = Timeline::of(pages.entries, extent.topic_id.as_deref());
    let nearest = |at: i64| match timeline.first_start_from(at) {
        Some(entry) if entry.offset < until.0 => format!("begin at {}:{}", partition.partition, entry.offset),
        _ => {
            "nothing of the range can be read again exactly: let a copy of the pipeline's file with a group of its own \
              and `start: earliest` fill an empty table"
                .to_owned()
        }
    };
    if timeline.entries().is_empty()
        && let Some(then) = timeline.gone.first()
    {
        return refused(Reason::OtherTopic { then: then.id.clone(), now: extent.topic_id.clone() });
    }
    if from < extent.low {
        let remedy = nearest(extent.low.0);
        return refused(Reason::Gone { from: from.0, low: extent.low.0, remedy });
    }
    let Some((stamper, start)) = Stamper::again(&timeline, from.0) else {
        return refused(Reason::NoEntry { from: from.0, remedy: nearest(from.0) });
    };
    if start < extent.low.0 {
        let remedy = format!("the clock cannot be brought up to {from}: {}", nearest(extent.low.0));
        return refused(Reason::Gone { from: start, low: extent.low.0, remedy });
    }
    let until = until.min(extent.end).max(from);
    let is_other = |entry: &Entry| entry.digests != wanted.digests || entry.configuration != wanted.configuration;
    if !wanted.may_differ
        && let Some((at, entry)) = timeline.versions(from.0, until.0).into_iter().find(|(_, entry)| is_other(entry))
    {
        let (then, now) =
            (version(&entry.digests, &entry.configuration), version(wanted.digests, wanted.configuration));
        return refused(Reason::OtherVersion { at, then, now });
    }
    let start = Offset(start);
    let topic_id = extent.topic_id.clone();
    Ok(Part { partition: partition.clone(), from, until, start, topic_id, stamper })
}

fn version(digests: &[String], configuration: &str) -> String {
    let plugins = if digests.is_empty() { "no plugin".to_owned() } else { digests.join(", ") };
    format!("plugins {plugins} under configuration {configuration}")
}

impl Part {
    /// Brings the clock up to the range: stamps the records before it, and writes nothing.
    ///
    /// # Errors
    /// Where they cannot be read, or do not give what the journal says.
    pub async fn warm_up(
        &mut self,
        ranges: &dyn Ranges,
        limits: BatchLimits,
        clock: &dyn Clock,
        progress: &ReplayProgress,
    ) -> Result<(), ReplayError> {
        if self.start >= self.from {
            return Ok(());
        }
        let inexact = |error| ReplayError::Inexact(self.partition.clone(), error);
        let mut reader = ranges.read(&self.partition, self.start, self.from).await?;
        let mut next = self.start;
        while let Some(batch) = reader.next_batch(limits).await? {
            self.stamper.batch(&batch, clock.now_ms(), |_, _| {}).map_err(inexact)?;
            if let Some(last) = batch.offsets.last() {
                progress.passed.fetch_add((last + 1 - next.0).cast_unsigned(), Ordering::Relaxed);
                next = Offset(last + 1);
            }
        }
        progress.passed.fetch_add((self.from.0 - next.0).cast_unsigned(), Ordering::Relaxed);
        Ok(())
    }

    /// Reads the range through the line, to its end: everything is durable or decided when it returns.
    ///
    /// # Errors
    /// Where it could not go on; what was written until then is as exact as the rest would have been.
    pub async fn run(
        mut self,
        line: &Arc<Line>,
        ranges: &dyn Ranges,
        progress: &Arc<ReplayProgress>,
    ) -> Result<(), ReplayError> {
        self.warm_up(ranges, line.batch, &*line.clock, progress).await?;
        if self.from >= self.until {
            return Ok(());
        }
        let Self { partition, from, until, topic_id, stamper, .. } = self;
        let reader = ranges.read(&partition, from, until).await?;
        let (ended, mut end) = watch::channel(None);
        let (committed, mut position) = watch::channel(from);
        let assignment = Assignment {
            partition: partition.clone(),
            generation: 1,
            start: from,
            metadata: None,
            sibling_metadata: Vec::new(),
            partitions_total: 0,
            end_at_start: until,
            topic_id,
            reader: Box::new(ToTheEnd { reader, last: from, ended }),
            committer: Arc::new(Done { committed, progress: Arc::clone(progress), from }),
        };
        let stop = CancellationToken::new();
        // Where nobody waits any more, the task ends too.
        let _ends_with_this = stop.clone().drop_guard();
        let task = Task::again(line, assignment, stamper, stop.clone());
        let all_done = async {
            // Both ends live in the task.
            let last = *end.wait_for(Option::is_some).await.ok()?;
            position.wait_for(|next| Some(*next) >= last).await.ok().map(drop)
        };
        let mut running = tokio::spawn(task.run());
        let ended = tokio::select! {
            biased;
            Some(()) = all_done => None,
            ended = &mut running => Some(ended),
        };
        stop.cancel();
        let ended = match ended {
            Some(ended) => ended,
            None => running.await,
        };
        ended
            .unwrap_or_else(|error| Err(Panicked(error.to_string()).into()))
            .map_err(|error| ReplayError::Task(partition, error))
    }
}

/// A reader that comes to an end, says so, and gives nothing more.
struct ToTheEnd {
    reader: Box<dyn RangeReader>,
    /// One past the last record that it gave.
    last: Offset,
    ended: watch::Sender<Option<Offset>>,
}

#[async_trait]
impl Reader for ToTheEnd {
    async fn next_batch(&mut self, limits: BatchLimits) -> Result<Batch, SourceError> {
        if self.ended.borrow().is_none() {
            if let Some(batch) = self.reader.next_batch(limits).await? {
                self.last = batch.offsets.last().map_or(self.last, |last| Offset(last + 1));
                return Ok(batch);
            }
            self.ended.send_replace(Some(self.last));
        }
        std::future::pending().await
    }
}

/// Takes positions, and commits none.
struct Done {
    committed: watch::Sender<Offset>,
    progress: Arc<ReplayProgress>,
    from: Offset,
}

impl Committer for Done {
    fn commit(&self, position: Position) {
        let before = self.committed.send_replace(position.next).max(self.from);
        let more = (position.next.0 - before.0).max(0).cast_unsigned();
        self.progress.done.fetch_add(more, Ordering::Relaxed);
    }

    /// Nothing is kept beside what is read again.
    fn leave(&self, _metadata: String) {}

    /// Nothing waits to be committed.
    fn is_settled(&self) -> bool {
        true
    }

    /// A replay of such a topic was refused before.
    fn made_anew(&self, _gone: &GoneTopic) -> bool {
        false
    }
}
