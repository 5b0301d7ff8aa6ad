//! Moving a pipeline to another place of its topics.
//!
//! In: where it stands, where it should go on. Out: the position to commit, with metadata from which the next task goes
//! on as if it had come there by reading: the clock from the journal, and who may have written what lies ahead. Where the
//! journal does not reach, the clock goes on at the highest write time that is known. Commits nothing itself.

use super::bounds::Bound;
use super::journal::{JournalError, Timeline};
use super::line::Line;
use super::ranges::{Extent, Ranges};
use super::stamping::Stamper;
use super::{Position, SourceError};
use crate::record::{Offset, TopicPartition};

/// Where a partition goes on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Move {
    /// Which.
    pub partition: TopicPartition,
    /// Where it stands; none where nothing is committed yet.
    pub from: Option<Offset>,
    /// What to commit.
    pub position: Position,
    /// The clock goes on as if the records below had just been read.
    pub is_exact: bool,
}

/// Why a partition cannot be moved.
#[derive(Debug, thiserror::Error)]
pub enum SeekError {
    /// The place is not in the topic.
    #[error("{partition} holds offsets {low} to {end}: {to} is not among them")]
    Outside {
        /// Which.
        partition: TopicPartition,
        /// Where it should go on.
        to: Offset,
        /// The first offset.
        low: Offset,
        /// The end.
        end: Offset,
    },
    /// The topic cannot be read.
    #[error(transparent)]
    Source(#[from] SourceError),
    /// The journal cannot be read.
    #[error(transparent)]
    Journal(#[from] JournalError),
}

/// Works out the position for a partition that stands at `from`.
///
/// # Errors
/// Where the place is not in the topic, or topic or journal cannot be read.
pub async fn plan(
    line: &Line,
    ranges: &dyn Ranges,
    partition: &TopicPartition,
    from: Option<Offset>,
    to: &Bound,
) -> Result<Move, SeekError> {
    let extent = ranges.extent(partition).await?;
    let to = to.offset(ranges, partition, &extent).await?;
    if to < extent.low || to > extent.end {
        let (partition, low, end) = (partition.clone(), extent.low, extent.end);
        return Err(SeekError::Outside { partition, to, low, end });
    }
    let timeline = match &line.journal {
        Some(journal) => Timeline::of(journal.read(partition, None).await?.entries, extent.topic_id.as_deref()),
        None => Timeline::default(),
    };
    let clock = clock_at(line, ranges, partition, &extent, &timeline, to).await?;
    // Who goes on from metadata that say nothing takes the highest write time of the other partitions.
    let highest = timeline.entries().iter().map(|entry| entry.h).max();
    let metadata = match clock.or(highest) {
        Some(h) => {
            let live = line.live.get();
            let mut checkpoint = timeline.checkpoint(to.0, h, &live.digests, &live.configuration);
            checkpoint.topic_id = extent.topic_id;
            checkpoint.partitions_total = i32::try_from(ranges.partitions(&partition.topic).await?.len()).unwrap_or(0);
            checkpoint.encode()
        }
        None => String::new(),
    };
    let position = Position { next: to, metadata };
    Ok(Move { partition: partition.clone(), from, position, is_exact: clock.is_some() })
}

/// Where the clock would stand at `to`; none where the journal, or what is left of the records, does not tell.
async fn clock_at(
    line: &Line,
    ranges: &dyn Ranges,
    partition: &TopicPartition,
    extent: &Extent,
    timeline: &Timeline,
    to: Offset,
) -> Result<Option<i64>, SourceError> {
    let Some((mut stamper, start)) = Stamper::again(timeline, to.0) else { return Ok(None) };
    if start < extent.low.0 || extent.is_compacted {
        return Ok(None);
    }
    let mut reader = ranges.read(partition, Offset(start), to).await?;
    while let Some(batch) = reader.next_batch(line.batch).await? {
        if let Err(error) = stamper.batch(&batch, line.clock.now_ms(), |_, _| {}) {
            tracing::warn!(%partition, "the clock cannot be brought up to offset {to}: {error}");
            return Ok(None);
        }
    }
    Ok(stamper.stands_at(to.0).ok())
}
