//! Sources.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use pelton::memory::MemoryRecord;
use pelton::pipeline::{Assignment, BatchLimits, Position, Source, SourceEvent};
use pelton::record::{Batch, Offset, TopicPartition};
use tokio::sync::mpsc;

use super::within;

/// A topic of its own with two partitions, a group of its own that begins at the earliest record.
#[async_trait]
pub trait SourceBed: Send + Sync {
    /// The topic's name.
    fn topic(&self) -> String;

    /// Appends records to a partition, in order.
    async fn append(&self, partition: i32, records: Vec<MemoryRecord>);

    /// A new member of the group, not opened yet.
    fn member(&self) -> Arc<dyn Source>;

    /// What the group has committed for a partition: the offset and its metadata, as anybody else sees them.
    async fn committed(&self, partition: i32) -> Option<(i64, String)>;
}

const LIMITS: BatchLimits = BatchLimits { records: 1000, bytes: 1 << 20, linger: Duration::from_millis(20) };

/// An opened member.
struct Member {
    source: Arc<dyn Source>,
    events: mpsc::Receiver<SourceEvent>,
    assignments: BTreeMap<i32, Assignment>,
    /// It hands over where each assignment begins, as every task does.
    begins: bool,
}

impl Member {
    async fn open(bed: &dyn SourceBed) -> Self {
        let source = bed.member();
        let (send, events) = mpsc::channel(16);
        within("the source opens", source.open(send)).await.expect("it opens");
        Self { source, events, assignments: BTreeMap::new(), begins: true }
    }

    /// One that hands over nothing by itself.
    async fn open_silent(bed: &dyn SourceBed) -> Self {
        Self { begins: false, ..Self::open(bed).await }
    }

    /// Takes one event; what is revoked is dropped and answered.
    async fn take(&mut self) {
        match within("an event", self.events.recv()).await {
            Some(SourceEvent::Assigned(assignments)) => {
                for assignment in assignments {
                    if self.begins {
                        assignment.begin_as_it_stands();
                    }
                    self.assignments.insert(assignment.partition.partition, assignment);
                }
            }
            Some(SourceEvent::Revoked { partitions, done, .. }) => {
                for partition in partitions {
                    self.assignments.remove(&partition.partition);
                }
                let _ = done.send(());
            }
            Some(SourceEvent::Failed(error)) => panic!("the source failed: {error}"),
            None => panic!("the source said no more"),
        }
    }

    async fn until_it_has(&mut self, partitions: usize) {
        while self.assignments.len() != partitions {
            self.take().await;
        }
    }

    async fn read(&mut self, partition: i32, limits: BatchLimits) -> Batch {
        let assignment = self.assignments.get_mut(&partition).expect("the partition is assigned");
        within("a batch", assignment.reader.next_batch(limits)).await.expect("a batch")
    }

    /// Reads until it has so many records.
    async fn read_all(&mut self, partition: i32, records: usize) -> Vec<Batch> {
        let mut batches = Vec::new();
        while batches.iter().map(Batch::len).sum::<usize>() < records {
            batches.push(self.read(partition, LIMITS).await);
        }
        batches
    }

    fn commit(&self, partition: i32, next: i64, metadata: &str) {
        self.assignments[&partition].committer.commit(Position { next: Offset(next), metadata: metadata.to_owned() });
    }

    async fn close(mut self) {
        self.assignments.clear();
        // The source may want to revoke while it closes.
        let mut events = self.events;
        let answering = tokio::spawn(async move {
            while let Some(event) = events.recv().await {
                if let SourceEvent::Revoked { done, .. } = event {
                    let _ = done.send(());
                }
            }
        });
        let deadline = tokio::time::Instant::now() + Duration::from_secs(60);
        assert!(within("the source closes", self.source.close(deadline)).await, "all is committed");
        answering.abort();
    }
}

fn record(at: i64) -> MemoryRecord {
    MemoryRecord::new(1_767_225_600_000 + at, format!("k{at}"), format!("v{at}"))
}

fn records(from: i64, to: i64) -> Vec<MemoryRecord> {
    (from..to).map(record).collect()
}

fn offsets(batches: &[Batch]) -> Vec<i64> {
    batches.iter().flat_map(|batch| batch.offsets.clone()).collect()
}

/// Every part of every record arrives, in the order of offsets, null apart from empty.
pub async fn records_arrive_whole_and_in_order(bed: &dyn SourceBed) {
    let mut tombstone = record(1);
    tombstone.value = None;
    tombstone.headers = vec![("a".into(), Some(b"1".to_vec())), ("a".into(), Some(Vec::new())), ("b".into(), None)];
    let mut bare = record(2);
    (bare.key, bare.value) = (None, Some(Vec::new()));
    bed.append(0, vec![record(0), tombstone, bare]).await;
    bed.append(0, records(3, 50)).await;
    bed.append(1, records(0, 10)).await;
    let mut member = Member::open(bed).await;
    member.until_it_has(2).await;
    let batches = member.read_all(0, 50).await;
    assert_eq!(offsets(&batches), (0..50).collect::<Vec<_>>());
    let all = |pick: fn(&Batch, usize) -> Option<Vec<u8>>| {
        batches.iter().flat_map(move |batch| (0..batch.len()).map(move |row| pick(batch, row))).collect::<Vec<_>>()
    };
    let keys = all(|batch, row| batch.keys.get(row).map(<[u8]>::to_vec));
    let values = all(|batch, row| batch.values.get(row).map(<[u8]>::to_vec));
    assert_eq!((&keys[0], &keys[2], &keys[49]), (&Some(b"k0".to_vec()), &None, &Some(b"k49".to_vec())));
    assert_eq!((&values[1], &values[2], &values[49]), (&None, &Some(Vec::new()), &Some(b"v49".to_vec())));
    let timestamps: Vec<_> = batches.iter().flat_map(|batch| batch.timestamps.clone()).collect();
    assert_eq!(timestamps[..3], [1_767_225_600_000, 1_767_225_600_001, 1_767_225_600_002]);
    let headers: Vec<Vec<(String, Option<Vec<u8>>)>> = batches
        .iter()
        .flat_map(|batch| (0..batch.len()).map(move |row| batch.headers(row)))
        .map(|headers| headers.map(|(name, value)| (name.to_owned(), value.map(<[u8]>::to_vec))).collect())
        .collect();
    assert_eq!(headers[1], [("a".into(), Some(b"1".to_vec())), ("a".into(), Some(Vec::new())), ("b".into(), None)]);
    assert_eq!(offsets(&member.read_all(1, 10).await), (0..10).collect::<Vec<_>>());
    assert_eq!(member.assignments[&0].partition, TopicPartition::new(&bed.topic(), 0));
    member.close().await;
}

/// A batch closes at its number of records, or its bytes; a larger record is a batch of its own.
pub async fn batches_keep_their_limits(bed: &dyn SourceBed) {
    bed.append(0, records(0, 20)).await;
    let mut big = record(20);
    big.value = Some(vec![b'x'; 50_000]);
    bed.append(0, vec![big, record(21)]).await;
    let mut member = Member::open(bed).await;
    member.until_it_has(2).await;
    let few = BatchLimits { records: 7, bytes: 1 << 20, linger: Duration::from_millis(500) };
    assert_eq!(member.read(0, few).await.len(), 7);
    assert_eq!(member.read(0, few).await.offsets[0], 7);
    let small = BatchLimits { records: 1000, bytes: 4_000, linger: Duration::from_millis(500) };
    assert_eq!(member.read(0, small).await.offsets, (14..20).collect::<Vec<_>>(), "the big record does not fit");
    assert_eq!(member.read(0, small).await.offsets, [20]);
    assert_eq!(member.read(0, small).await.offsets, [21]);
    member.close().await;
}

/// A call that is dropped while it waits, or while it lingers, loses no record.
pub async fn a_dropped_call_loses_no_record(bed: &dyn SourceBed) {
    let mut member = Member::open(bed).await;
    member.until_it_has(2).await;
    let reader = &mut member.assignments.get_mut(&0).expect("it is assigned").reader;
    let early = tokio::time::timeout(Duration::from_millis(50), reader.next_batch(LIMITS)).await;
    assert!(early.is_err(), "there is nothing to read yet");
    bed.append(0, records(0, 3)).await;
    let patient = BatchLimits { linger: Duration::from_secs(600), ..LIMITS };
    for _ in 0..20 {
        let cut = tokio::time::timeout(Duration::from_millis(25), reader.next_batch(patient)).await;
        assert!(cut.is_err(), "it lingers for ten minutes");
    }
    bed.append(0, records(3, 5)).await;
    assert_eq!(offsets(&member.read_all(0, 5).await), [0, 1, 2, 3, 4]);
    member.close().await;
}

/// The next member begins at the committed position, and is given its metadata and those of its siblings.
pub async fn a_commit_comes_back_with_its_metadata(bed: &dyn SourceBed) {
    bed.append(0, records(0, 10)).await;
    bed.append(1, records(0, 4)).await;
    let mut first = Member::open(bed).await;
    first.until_it_has(2).await;
    assert_eq!((first.assignments[&0].start, first.assignments[&0].metadata.clone()), (Offset(0), None));
    first.read_all(0, 10).await;
    first.commit(0, 3, "older");
    first.commit(0, 6, "π=1;h=17");
    first.commit(1, 4, "sibling");
    first.close().await;
    let mut second = Member::open(bed).await;
    second.until_it_has(2).await;
    let assignment = &second.assignments[&0];
    assert_eq!((assignment.start, assignment.metadata.as_deref()), (Offset(6), Some("π=1;h=17")));
    assert_eq!((assignment.partitions_total, assignment.end_at_start), (2, Offset(10)));
    assert_eq!(assignment.sibling_metadata, ["sibling"]);
    assert_eq!(offsets(&second.read_all(0, 4).await), [6, 7, 8, 9]);
    assert_eq!(second.assignments[&1].start, Offset(4));
    second.close().await;
}

/// Without a commit, what was read is read again.
pub async fn what_was_not_committed_comes_again(bed: &dyn SourceBed) {
    bed.append(0, records(0, 10)).await;
    let mut first = Member::open(bed).await;
    first.until_it_has(2).await;
    first.read_all(0, 10).await;
    first.close().await;
    let mut second = Member::open(bed).await;
    second.until_it_has(2).await;
    assert_eq!(offsets(&second.read_all(0, 10).await), (0..10).collect::<Vec<_>>());
    second.close().await;
}

/// A second member takes its share from where the first has committed; the first keeps the rest.
pub async fn members_share_and_nothing_is_lost(bed: &dyn SourceBed) {
    bed.append(0, records(0, 10)).await;
    bed.append(1, records(0, 10)).await;
    let mut first = Member::open(bed).await;
    first.until_it_has(2).await;
    for partition in 0..2 {
        first.read_all(partition, 10).await;
        first.commit(partition, 7, "shared");
    }
    let mut second = Member::open(bed).await;
    within("the group settles", async {
        while first.assignments.len() != 1 || second.assignments.len() != 1 {
            tokio::select! {
                () = first.take() => {}
                () = second.take() => {}
            }
        }
    })
    .await;
    let owned: BTreeSet<_> = first.assignments.keys().chain(second.assignments.keys()).copied().collect();
    assert_eq!(owned, BTreeSet::from([0, 1]));
    let moved = *second.assignments.keys().next().expect("it has one");
    assert_eq!(second.assignments[&moved].start, Offset(7));
    assert_eq!(offsets(&second.read_all(moved, 3).await), [7, 8, 9]);
    let kept = 1 - moved;
    bed.append(kept, records(10, 12)).await;
    let next = first.read_all(kept, 2).await;
    let next = offsets(&next);
    assert!(next == [10, 11] || next[0] == 7, "it goes on where it was, or at its commit: {next:?}");
    let ends = first.source.ends();
    assert!(ends.iter().all(|(partition, _)| partition.partition == kept), "ends of its own partitions: {ends:?}");
    second.close().await;
    // Who stays gets everything; and no assignment is on its way to it when it closes.
    first.until_it_has(2).await;
    first.close().await;
}

/// Who gets no partition is told so: it has joined all the same.
pub async fn a_member_without_partitions_is_told_so(bed: &dyn SourceBed) {
    let mut first = Member::open(bed).await;
    first.until_it_has(2).await;
    let mut second = Member::open(bed).await;
    within("the group settles", async {
        while first.assignments.len() != 1 || second.assignments.len() != 1 {
            tokio::select! {
                () = first.take() => {}
                () = second.take() => {}
            }
        }
    })
    .await;
    let mut third = Member::open(bed).await;
    let told = within("the third is told", async {
        loop {
            tokio::select! {
                event = third.events.recv() => break event,
                () = first.take() => {}
                () = second.take() => {}
            }
        }
    })
    .await;
    assert!(matches!(told, Some(SourceEvent::Assigned(assignments)) if assignments.is_empty()), "it has joined");
    third.close().await;
    second.close().await;
    first.until_it_has(2).await;
    first.close().await;
}

/// Whoever is not known at the source's keeper cannot have read, and so cannot have written anything.
pub async fn nothing_is_given_before_the_first_position_stands(bed: &dyn SourceBed) {
    bed.append(0, records(0, 5)).await;
    let mut first = Member::open_silent(bed).await;
    first.until_it_has(2).await;
    let reader = &mut first.assignments.get_mut(&0).expect("it is assigned").reader;
    let early = tokio::time::timeout(Duration::from_millis(300), reader.next_batch(LIMITS)).await;
    assert!(early.is_err(), "nothing was handed over: {early:?}");
    first.commit(0, 0, "first version");
    let batch = first.read(0, LIMITS).await;
    assert_eq!(bed.committed(0).await, Some((0, "first version".to_owned())), "it stood before the batch was given");
    assert_eq!(batch.offsets.first(), Some(&0));
    first.close().await;

    // Another version says who it is before it reads, at the same offset.
    let mut second = Member::open_silent(bed).await;
    second.until_it_has(2).await;
    assert_eq!(second.assignments[&0].metadata.as_deref(), Some("first version"));
    second.commit(0, 0, "second version");
    assert_eq!(second.read(0, LIMITS).await.offsets.first(), Some(&0));
    assert_eq!(bed.committed(0).await, Some((0, "second version".to_owned())), "it stood before the batch was given");
    second.close().await;

    // What stands already need not be accepted again.
    let mut third = Member::open_silent(bed).await;
    third.until_it_has(2).await;
    third.commit(0, 0, "second version");
    assert_eq!(offsets(&third.read_all(0, 5).await), [0, 1, 2, 3, 4]);
    third.close().await;
}

/// A partition can be taken away while its first position is on its way, and from one who never handed over any.
pub async fn a_partition_can_go_before_its_first_position_stands(bed: &dyn SourceBed) {
    bed.append(0, records(0, 5)).await;
    bed.append(1, records(0, 5)).await;
    let mut first = Member::open_silent(bed).await;
    first.until_it_has(2).await;
    let mut second = Member::open_silent(bed).await;
    // In the very moment of the rebalance.
    first.commit(0, 0, "on its way");
    within("the group settles", async {
        while first.assignments.len() != 1 || second.assignments.len() != 1 {
            tokio::select! {
                () = first.take() => {}
                () = second.take() => {}
            }
        }
    })
    .await;
    for member in [&mut first, &mut second] {
        let partition = *member.assignments.keys().next().expect("it has one");
        member.commit(partition, 0, "after the rebalance");
        assert_eq!(offsets(&member.read_all(partition, 5).await), [0, 1, 2, 3, 4]);
    }
    second.close().await;
    first.until_it_has(2).await;
    first.close().await;
}

/// A source that is dropped and not closed leaves as a crash does: the next member gets all, from what is committed.
pub async fn a_dropped_source_leaves(bed: &dyn SourceBed) {
    bed.append(0, records(0, 5)).await;
    let mut first = Member::open(bed).await;
    first.until_it_has(2).await;
    first.read_all(0, 5).await;
    drop(first);
    let mut second = Member::open(bed).await;
    second.until_it_has(2).await;
    assert_eq!(offsets(&second.read_all(0, 5).await), [0, 1, 2, 3, 4]);
    second.close().await;
}

/// A position that comes after its assignment has ended is discarded.
pub async fn a_late_commit_is_discarded(bed: &dyn SourceBed) {
    bed.append(0, records(0, 10)).await;
    let mut first = Member::open(bed).await;
    first.until_it_has(2).await;
    first.read_all(0, 10).await;
    first.commit(0, 5, "in time");
    let late = Arc::clone(&first.assignments[&0].committer);
    first.close().await;
    late.commit(Position { next: Offset(9), metadata: "late".into() });
    let mut second = Member::open(bed).await;
    second.until_it_has(2).await;
    late.commit(Position { next: Offset(10), metadata: "later".into() });
    assert_eq!(second.assignments[&0].start, Offset(5));
    second.close().await;
    let mut third = Member::open(bed).await;
    third.until_it_has(2).await;
    assert_eq!(third.assignments[&0].start, Offset(5));
    third.close().await;
}

/// Every behaviour of [`source`](self) as a test; the argument makes a fresh bed.
#[macro_export]
macro_rules! source_suite {
    ($bed:expr) => {
        $crate::suite!($bed, source:
            records_arrive_whole_and_in_order, batches_keep_their_limits, a_dropped_call_loses_no_record,
            a_commit_comes_back_with_its_metadata, what_was_not_committed_comes_again,
            members_share_and_nothing_is_lost, a_late_commit_is_discarded, a_dropped_source_leaves,
            nothing_is_given_before_the_first_position_stands,
            a_partition_can_go_before_its_first_position_stands, a_member_without_partitions_is_told_so);
    };
}
