//! Topics in memory, read beside all groups.

use async_trait::async_trait;

use super::MemoryLog;
use crate::pipeline::ranges::{Extent, RangeReader, Ranges};
use crate::pipeline::{BatchLimits, SourceError};
use crate::record::{Batch, Offset, TopicPartition};

/// Reads a [`MemoryLog`].
#[derive(Debug, Clone)]
pub struct MemoryRanges {
    log: MemoryLog,
    /// Whether the topics say that they are compacted.
    pub is_compacted: bool,
}

impl MemoryRanges {
    /// Reads this log.
    #[must_use]
    pub fn of(log: &MemoryLog) -> Self {
        Self { log: log.clone(), is_compacted: false }
    }
}

#[async_trait]
impl Ranges for MemoryRanges {
    async fn partitions(&self, topic: &str) -> Result<Vec<TopicPartition>, SourceError> {
        Ok(self.log.partitions(topic))
    }

    async fn extent(&self, partition: &TopicPartition) -> Result<Extent, SourceError> {
        Ok(Extent {
            low: self.log.start(partition),
            end: self.log.end(partition),
            topic_id: Some(self.log.topic_id(partition)),
            is_compacted: self.is_compacted,
        })
    }

    async fn first_at(&self, partition: &TopicPartition, time_ms: i64) -> Result<Option<Offset>, SourceError> {
        let (low, end) = (self.log.start(partition), self.log.end(partition));
        let is_there = |offset: &Offset| {
            self.log.get(partition, *offset).and_then(|record| record.timestamp_ms).is_some_and(|ms| ms >= time_ms)
        };
        Ok((low.0..end.0).map(Offset).find(is_there))
    }

    async fn read(
        &self,
        partition: &TopicPartition,
        from: Offset,
        until: Offset,
    ) -> Result<Box<dyn RangeReader>, SourceError> {
        Ok(Box::new(MemoryRange { log: self.log.clone(), partition: partition.clone(), next: from, until }))
    }
}

struct MemoryRange {
    log: MemoryLog,
    partition: TopicPartition,
    next: Offset,
    until: Offset,
}

#[async_trait]
impl RangeReader for MemoryRange {
    async fn next_batch(&mut self, limits: BatchLimits) -> Result<Option<Batch>, SourceError> {
        let (batch, _) = self.log.read(&self.partition, self.next, limits);
        let within = batch.offsets.iter().take_while(|offset| **offset < self.until.0).count();
        let Some(last) = batch.offsets.get(..within).and_then(<[i64]>::last) else { return Ok(None) };
        self.next = Offset(last + 1);
        // Origins are rows of the batch as it is given.
        Ok(Some(batch.select(0..within)))
    }
}
