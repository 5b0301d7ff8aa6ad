//! Ranges of partitions, read beside the group: what a replay reads, and what a seek looks through.
//!
//! In: a partition, two offsets. Out: its records between them, in offset order, to an end. Joins no group, commits
//! nothing, and disturbs nobody.

use async_trait::async_trait;

use super::{BatchLimits, SourceError};
use crate::record::{Batch, Offset, TopicPartition};

/// Reads topics outside of any group.
#[async_trait]
pub trait Ranges: Send + Sync {
    /// The partitions of a topic.
    ///
    /// # Errors
    /// Where the topic is not there, or nobody answers.
    async fn partitions(&self, topic: &str) -> Result<Vec<TopicPartition>, SourceError>;

    /// What a partition holds now.
    ///
    /// # Errors
    /// Where nobody answers.
    async fn extent(&self, partition: &TopicPartition) -> Result<Extent, SourceError>;

    /// The first record at or after a time, milliseconds since the Unix epoch; none where there is none.
    ///
    /// # Errors
    /// Where nobody answers.
    async fn first_at(&self, partition: &TopicPartition, time_ms: i64) -> Result<Option<Offset>, SourceError>;

    /// Reads from one offset to below another, which is not beyond the end.
    ///
    /// # Errors
    /// Where the partition cannot be read.
    async fn read(
        &self,
        partition: &TopicPartition,
        from: Offset,
        until: Offset,
    ) -> Result<Box<dyn RangeReader>, SourceError>;
}

/// What a partition holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Extent {
    /// The first record that is still there.
    pub low: Offset,
    /// One past the last that can be read.
    pub end: Offset,
    /// The topic's own id, where it has one.
    pub topic_id: Option<String>,
    /// Records of the topic go where a later one has their key.
    pub is_compacted: bool,
}

/// Reads one range.
#[async_trait]
pub trait RangeReader: Send {
    /// The next batch; none at the end of the range.
    ///
    /// # Errors
    /// Where the partition cannot be read on.
    async fn next_batch(&mut self, limits: BatchLimits) -> Result<Option<Batch>, SourceError>;
}
