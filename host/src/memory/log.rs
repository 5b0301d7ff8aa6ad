//! Topics in memory: partitions of records, with gaps and lost beginnings on request.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use tokio::sync::watch;

use super::lock;
use crate::pipeline::BatchLimits;
use crate::record::{Batch, Offset, TopicPartition};

/// A record to append.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct MemoryRecord {
    /// Timestamp in milliseconds.
    pub timestamp_ms: Option<i64>,
    /// Key.
    pub key: Option<Vec<u8>>,
    /// Value; none is a tombstone.
    pub value: Option<Vec<u8>>,
    /// Headers, in order.
    pub headers: Vec<(String, Option<Vec<u8>>)>,
}

impl MemoryRecord {
    /// A record with key, value and timestamp.
    #[must_use]
    pub fn new(timestamp_ms: i64, key: impl Into<Vec<u8>>, value: impl Into<Vec<u8>>) -> Self {
        Self { timestamp_ms: Some(timestamp_ms), key: Some(key.into()), value: Some(value.into()), headers: Vec::new() }
    }

    fn bytes(&self) -> usize {
        let headers: usize =
            self.headers.iter().map(|(name, value)| 8 + name.len() + value.as_ref().map_or(0, Vec::len)).sum();
        self.key.as_ref().map_or(0, Vec::len) + self.value.as_ref().map_or(0, Vec::len) + headers
    }
}

/// Topics in memory. Clones share the same topics.
#[derive(Debug, Clone)]
pub struct MemoryLog(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    partitions: Mutex<BTreeMap<TopicPartition, Partition>>,
    changes: watch::Sender<u64>,
}

#[derive(Debug, Default)]
struct Partition {
    /// How often its topic was made anew.
    remade: u32,
    /// The first offset that is still there.
    start: i64,
    end: i64,
    records: BTreeMap<i64, MemoryRecord>,
}

impl Default for MemoryLog {
    fn default() -> Self {
        Self(Arc::new(Inner { partitions: Mutex::default(), changes: watch::Sender::new(0) }))
    }
}

impl MemoryLog {
    /// No topics.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Makes a topic, or adds partitions to it.
    pub fn create_topic(&self, topic: &str, partitions: i32) {
        let mut map = lock(&self.0.partitions);
        for partition in 0..partitions {
            map.entry(TopicPartition::new(topic, partition)).or_default();
        }
    }

    /// Takes a topic away, and makes another of its name with as many partitions.
    pub fn remake_topic(&self, topic: &str) {
        for (_, partition) in lock(&self.0.partitions).iter_mut().filter(|(of, _)| &*of.topic == topic) {
            *partition = Partition { remade: partition.remade + 1, ..Partition::default() };
        }
        self.changed();
    }

    /// The id of a partition's topic.
    pub(super) fn topic_id(&self, partition: &TopicPartition) -> String {
        let remade = lock(&self.0.partitions).get(partition).map_or(0, |partition| partition.remade);
        format!("memory-{}-{remade}", partition.topic)
    }

    /// Appends a record; makes the partition where it is absent.
    pub fn append(&self, partition: &TopicPartition, record: MemoryRecord) -> Offset {
        let offset = {
            let mut map = lock(&self.0.partitions);
            let partition = map.entry(partition.clone()).or_default();
            let offset = partition.end;
            partition.records.insert(offset, record);
            partition.end += 1;
            Offset(offset)
        };
        self.changed();
        offset
    }

    /// Takes one record away, as compaction does: its offset becomes a gap.
    pub fn remove(&self, partition: &TopicPartition, offset: Offset) {
        if let Some(partition) = lock(&self.0.partitions).get_mut(partition) {
            partition.records.remove(&offset.0);
        }
    }

    /// Takes away all records below `start`, as retention does.
    pub fn truncate(&self, partition: &TopicPartition, start: Offset) {
        if let Some(partition) = lock(&self.0.partitions).get_mut(partition) {
            partition.start = start.0.max(partition.start);
            partition.records = partition.records.split_off(&start.0);
        }
        self.changed();
    }

    /// All partitions of a topic.
    #[must_use]
    pub fn partitions(&self, topic: &str) -> Vec<TopicPartition> {
        lock(&self.0.partitions).keys().filter(|partition| &*partition.topic == topic).cloned().collect()
    }

    /// One past the newest record.
    #[must_use]
    pub fn end(&self, partition: &TopicPartition) -> Offset {
        Offset(lock(&self.0.partitions).get(partition).map_or(0, |partition| partition.end))
    }

    /// The first offset that retention has left.
    #[must_use]
    pub fn start(&self, partition: &TopicPartition) -> Offset {
        Offset(lock(&self.0.partitions).get(partition).map_or(0, |partition| partition.start))
    }

    /// The record at an offset.
    #[must_use]
    pub fn get(&self, partition: &TopicPartition, offset: Offset) -> Option<MemoryRecord> {
        lock(&self.0.partitions).get(partition)?.records.get(&offset.0).cloned()
    }

    /// Tells of every change from now on.
    pub(super) fn watch(&self) -> watch::Receiver<u64> {
        self.0.changes.subscribe()
    }

    /// The records from `next` on that fit into the limits; the flag says whether a limit closed the batch.
    pub(super) fn read(&self, partition: &TopicPartition, next: Offset, limits: BatchLimits) -> (Batch, bool) {
        let mut batch = Batch::new(partition.clone());
        let map = lock(&self.0.partitions);
        let Some(log) = map.get(partition) else { return (batch, false) };
        let mut bytes = 0;
        for (offset, record) in log.records.range(next.0..) {
            bytes += record.bytes();
            if !batch.is_empty() && bytes > limits.bytes {
                return (batch, true);
            }
            let headers = record.headers.iter().map(|(name, value)| (name.as_str(), value.as_deref()));
            batch.push(Offset(*offset), record.timestamp_ms, record.key.as_deref(), record.value.as_deref(), headers);
            if batch.len() >= limits.records.max(1) || bytes >= limits.bytes {
                return (batch, true);
            }
        }
        (batch, false)
    }

    fn changed(&self) {
        self.0.changes.send_modify(|version| *version += 1);
    }
}
