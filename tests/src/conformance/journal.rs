//! What every journal promises, and every reader of ranges.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use pelton::memory::MemoryRecord;
use pelton::pipeline::BatchLimits;
use pelton::pipeline::checkpoint::EpochPlan;
use pelton::pipeline::journal::{Author, Entry, Journal, Reason};
use pelton::pipeline::ranges::Ranges;
use pelton::record::{Offset, TopicPartition};

use super::within;

/// A journal of its own for each test.
#[async_trait]
pub trait JournalBed: Send + Sync {
    /// Opens the journal, the same one each time.
    async fn open(&self) -> Arc<dyn Journal>;
}

/// An entry of a partition at an offset.
fn entry(partition: i32, offset: i64) -> Entry {
    let author = Author {
        partition: TopicPartition::new("suite", partition),
        topic_id: Some("id".to_owned()),
        digests: vec!["0123456789abcdef".to_owned()],
        configuration: "fedcba9876543210".to_owned(),
        plan: EpochPlan { epoch: 1, until: 10 },
        term: 3,
    };
    Entry::new(&author, offset, offset * 10, Reason::Wall { until: offset + 1, wall_ms: 7 })
}

async fn read(journal: &dyn Journal, partition: i32, from: Option<pelton::pipeline::journal::Mark>) -> Vec<Entry> {
    let partition = TopicPartition::new("suite", partition);
    let pages = within("the journal is read", journal.read(&partition, from)).await.expect("it can be read");
    assert_eq!(pages.unreadable, Vec::<String>::new());
    pages.entries
}

/// What is answered is there for whoever opens the journal next, by partition, in order.
pub async fn what_is_answered_stays_in_order(bed: &dyn JournalBed) {
    let journal = bed.open().await;
    assert_eq!(read(&*journal, 0, None).await, []);
    for offset in 0..20 {
        within("an entry", journal.append(vec![entry(0, offset), entry(1, offset)])).await;
    }
    assert_eq!(journal.blocked(), None);
    drop(journal);
    let journal = bed.open().await;
    assert_eq!(read(&*journal, 0, None).await, (0..20).map(|offset| entry(0, offset)).collect::<Vec<_>>());
    assert_eq!(read(&*journal, 1, None).await.len(), 20);
    assert_eq!(read(&*journal, 2, None).await, []);
}

/// A place that was answered stands at or before what was written then.
pub async fn a_place_that_was_answered_misses_nothing_from_then_on(bed: &dyn JournalBed) {
    let journal = bed.open().await;
    let mut marks = Vec::new();
    for offset in 0..10 {
        marks.push(within("an entry", journal.append(vec![entry(0, offset)])).await);
        read(&*journal, 0, marks.last().copied()).await;
    }
    assert!(marks.is_sorted(), "{marks:?}");
    for (at, mark) in (0..).zip(&marks) {
        let entries = read(&*journal, 0, Some(*mark)).await;
        let wanted: Vec<Entry> = (at..10).map(|offset| entry(0, offset)).collect();
        assert!(entries.ends_with(&wanted), "from {mark:?}: {entries:?}");
    }
    // A place beyond the end is that of another journal: all is read.
    let beyond = pelton::pipeline::journal::Mark(1_000_000);
    assert!(matches!(read(&*journal, 0, Some(beyond)).await.len(), 0 | 10));
}

/// A topic of its own for each test, with one partition.
#[async_trait]
pub trait RangeBed: Send + Sync {
    /// The topic.
    fn topic(&self) -> String;
    /// Writes records, in order.
    async fn append(&self, records: Vec<MemoryRecord>);
    /// Reads it.
    fn ranges(&self) -> Arc<dyn Ranges>;
}

/// A range is given whole, in order, and comes to an end, whether there is more behind it or not.
pub async fn a_range_is_read_to_its_end(bed: &dyn RangeBed) {
    const LIMITS: BatchLimits = BatchLimits { records: 7, bytes: 1 << 20, linger: Duration::from_millis(1) };
    let time = |number: i64| 1_700_000_000_000 + number * 1_000;
    bed.append(
        (0..50).map(|number| MemoryRecord::new(time(number), format!("k{number}"), format!("v{number}"))).collect(),
    )
    .await;
    let ranges = bed.ranges();
    let partitions = within("the partitions", ranges.partitions(&bed.topic())).await.expect("they are told");
    let [partition] = partitions.as_slice() else { panic!("one partition: {partitions:?}") };
    let extent = within("the extent", ranges.extent(partition)).await.expect("it is told");
    assert_eq!((extent.low, extent.end, extent.is_compacted), (Offset(0), Offset(50), false));
    for (ms, wanted) in [(time(0), Some(0)), (time(20) - 1, Some(20)), (time(20), Some(20)), (time(50), None)] {
        let at = within("a time", ranges.first_at(partition, ms)).await.expect("it is told");
        assert_eq!(at, wanted.map(Offset), "at {ms}");
    }
    for (from, until) in [(0, 50), (13, 27), (40, 50), (49, 50), (20, 20), (50, 50)] {
        let reader = within("a reader", ranges.read(partition, Offset(from), Offset(until))).await;
        let mut reader = reader.expect("it can be read");
        let mut read = Vec::new();
        while let Some(batch) = within("a batch", reader.next_batch(LIMITS)).await.expect("it is read") {
            assert!(!batch.is_empty());
            for row in 0..batch.len() {
                assert_eq!(batch.origins[row] as usize, row);
                assert_eq!(batch.timestamp_ms(row), Some(time(batch.offsets[row])));
                assert_eq!(batch.values.get(row), Some(format!("v{}", batch.offsets[row]).as_bytes()));
                read.push(batch.offsets[row]);
            }
        }
        assert_eq!(read, (from..until).collect::<Vec<_>>(), "{from} to {until}");
        assert!(reader.next_batch(LIMITS).await.expect("the end stays the end").is_none());
    }
}
