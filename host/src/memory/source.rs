//! A member of a group in memory: its partitions' readers, and where they hand over positions.
//!
//! In: records of the log, as the group assigns them. Out: batches, and positions kept by the group. Notes where the line
//! breaks the contract of the seam. Never gives anything once its assignment has ended.

use async_trait::async_trait;
use rand::Rng;
use tokio::sync::mpsc;
use tokio::time::Instant;

use super::group::{MemoryGroup, Owner};
use super::lock;
use crate::pipeline::journal::GoneTopic;
use crate::pipeline::{BatchLimits, Committer, Position, Reader, Source, SourceError, SourceEvent};
use crate::record::{Batch, Offset, TopicPartition};

/// One member of a [`MemoryGroup`].
pub struct MemorySource {
    group: MemoryGroup,
    member: u64,
}

impl MemorySource {
    pub(super) fn new(group: MemoryGroup, member: u64) -> Self {
        Self { group, member }
    }

    /// Dies: positions under way are lost, later ones are discarded, its readers give nothing more, and its partitions
    /// go to the others from the committed offsets.
    pub fn kill(&self) {
        self.group.leave(self.member, false);
    }

    /// The group.
    #[must_use]
    pub fn group(&self) -> &MemoryGroup {
        &self.group
    }
}

#[async_trait]
impl Source for MemorySource {
    async fn open(&self, events: mpsc::Sender<SourceEvent>) -> Result<(), SourceError> {
        lock(&self.group.0.state).members.insert(self.member, events);
        self.group.rebalance_beside();
        Ok(())
    }

    async fn close(&self, deadline: Instant) -> bool {
        if lock(&self.group.0.state).hang_close {
            std::future::pending::<()>().await;
        }
        // What a rebalance is about to hand over has arrived, or was dropped, when it is over.
        let no_rebalance = tokio::time::timeout_at(deadline, self.group.0.rebalancing.lock()).await;
        self.group.leave(self.member, no_rebalance.is_ok());
        no_rebalance.is_ok()
    }

    async fn seek(&self, to: Vec<(TopicPartition, Position)>) -> Result<(), SourceError> {
        self.group.move_partitions(self.member, to).await
    }

    fn ends(&self) -> Vec<(TopicPartition, Offset)> {
        let owned: Vec<_> = {
            let state = lock(&self.group.0.state);
            state.owners.iter().filter(|(_, owner)| owner.member == self.member).map(|(p, _)| p.clone()).collect()
        };
        owned.into_iter().map(|partition| (partition.clone(), self.group.0.log.end(&partition))).collect()
    }
}

impl Drop for MemorySource {
    /// A source that is dropped and not closed leaves without a last commit, as after a crash: nobody waits for a
    /// process that has given its end up.
    fn drop(&mut self) {
        self.kill();
    }
}

pub(super) struct MemoryReader {
    group: MemoryGroup,
    partition: TopicPartition,
    owner: Owner,
    next: Offset,
    /// When the first record of the batch to come was seen; kept here, so that a dropped call does not linger anew.
    first_seen: Option<Instant>,
    /// The length at which the batch to come is cut.
    cut: Option<usize>,
}

impl MemoryReader {
    pub(super) fn new(group: MemoryGroup, partition: TopicPartition, owner: Owner, start: Offset) -> Self {
        Self { group, partition, owner, next: start, first_seen: None, cut: None }
    }

    fn limits(&mut self, mut limits: BatchLimits) -> BatchLimits {
        if self.cut.is_none() {
            self.cut = lock(&self.group.0.state).cut.as_mut().map(|rng| rng.random_range(1..=limits.records.max(1)));
        }
        limits.records = self.cut.map_or(limits.records, |cut| cut.min(limits.records));
        limits
    }

    /// Whether this assignment still holds, and its first position stands; a failure that was asked for.
    fn check(&self) -> Result<bool, SourceError> {
        let mut state = lock(&self.group.0.state);
        if state.owners.get(&self.partition) != Some(&self.owner) || !state.begun.contains(&self.owner.generation) {
            return Ok(false);
        }
        if let Some(error) = state.failures.remove(&self.partition) {
            return Err(error);
        }
        let start = self.group.0.log.start(&self.partition);
        if self.next < start {
            return Err(SourceError::Lost {
                partition: self.partition.clone(),
                from: self.next,
                to: Offset(start.0 - 1),
                reason: "retention".into(),
                remedy: "commit a later position".into(),
            });
        }
        Ok(true)
    }
}

#[async_trait]
impl Reader for MemoryReader {
    async fn next_batch(&mut self, limits: BatchLimits) -> Result<Batch, SourceError> {
        let (mut appended, mut changed) = (self.group.0.log.watch(), self.group.0.changes.subscribe());
        let limits = self.limits(limits);
        loop {
            let mut wait_until = None;
            if self.check()? {
                let (batch, full) = self.group.0.log.read(&self.partition, self.next, limits);
                if let Some(last) = batch.offsets.last() {
                    let closes = *self.first_seen.get_or_insert_with(now) + limits.linger;
                    if full || now() >= closes {
                        self.next = Offset(*last).next();
                        (self.first_seen, self.cut) = (None, None);
                        return Ok(batch);
                    }
                    wait_until = Some(closes);
                }
            }
            let lingered = async {
                match wait_until {
                    Some(closes) => tokio::time::sleep_until(closes).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                _ = appended.changed() => {}
                _ = changed.changed() => {}
                () = lingered => {}
            }
        }
    }
}

impl Drop for MemoryReader {
    fn drop(&mut self) {
        if let Some(readers) = lock(&self.group.0.state).readers.get_mut(&self.partition) {
            readers.remove(&self.owner.generation);
        }
    }
}

/// Tokio's clock: a test can pause it.
fn now() -> Instant {
    Instant::now()
}

pub(super) struct MemoryCommitter {
    group: MemoryGroup,
    partition: TopicPartition,
    owner: Owner,
}

impl MemoryCommitter {
    pub(super) fn new(group: MemoryGroup, partition: TopicPartition, owner: Owner) -> Self {
        Self { group, partition, owner }
    }
}

impl Committer for MemoryCommitter {
    fn commit(&self, position: Position) {
        let end = self.group.0.log.end(&self.partition);
        let mut state = lock(&self.group.0.state);
        if state.owners.get(&self.partition) != Some(&self.owner) {
            state.stale_commits += 1;
            return;
        }
        let last = state.pending.get(&self.partition).or_else(|| state.committed.get(&self.partition));
        let wrong = if last.is_some_and(|last| last.next > position.next) {
            Some("fell")
        } else if position.next > end {
            Some("lies past the end")
        } else if position.metadata.chars().count() > 4000 {
            Some("has metadata of more than 4,000 characters")
        } else {
            None
        };
        if let Some(wrong) = wrong {
            state.violations.push(format!("the position {} of {} {wrong}", position.next, self.partition));
            return;
        }
        let has_begun = state.begun.contains(&self.owner.generation);
        if state.committed.get(&self.partition) == Some(&position) {
            state.begun.insert(self.owner.generation);
        }
        state.pending.insert(self.partition.clone(), position);
        if !state.hold_commits {
            state.keep(&self.partition);
        }
        let begins = !has_begun && state.begun.contains(&self.owner.generation);
        drop(state);
        if begins {
            self.group.wake();
        }
    }

    fn leave(&self, metadata: String) {
        let mut state = lock(&self.group.0.state);
        if state.owners.get(&self.partition) != Some(&self.owner) {
            state.stale_commits += 1;
            return;
        }
        let has_begun = state.begun.contains(&self.owner.generation);
        let accepted = state.committed.get(&self.partition).filter(|_| has_begun);
        let Some(last) = state.pending.get(&self.partition).or(accepted).cloned() else { return };
        state.pending.insert(self.partition.clone(), Position { metadata, ..last });
        if !state.hold_commits {
            state.keep(&self.partition);
        }
    }

    fn is_settled(&self) -> bool {
        let state = lock(&self.group.0.state);
        let is_ours = state.owners.get(&self.partition) == Some(&self.owner);
        !(is_ours && state.pending.contains_key(&self.partition))
    }

    fn made_anew(&self, gone: &GoneTopic) -> bool {
        let mut state = lock(&self.group.0.state);
        state.gone.push((self.partition.clone(), gone.clone()));
        let events = state.members.get(&self.owner.member).filter(|_| state.stops_on_lost).cloned();
        drop(state);
        let Some(events) = events else { return false };
        let lost = SourceError::Lost {
            partition: self.partition.clone(),
            from: gone.read_until,
            to: gone.read_until,
            reason: "the topic was made anew".into(),
            remedy: "go on with what it has".into(),
        };
        // Never waits: whoever is told is the supervisor, which has room for a few events.
        events.try_send(SourceEvent::Failed(lost)).is_ok()
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::super::{MemoryLog, MemoryRecord};
    use super::*;
    use crate::pipeline::Assignment;

    const LIMITS: BatchLimits = BatchLimits { records: 100, bytes: 1 << 20, linger: Duration::from_millis(1) };

    fn log_of(partitions: i32, records: i64) -> (MemoryLog, MemoryGroup) {
        let log = MemoryLog::new();
        log.create_topic("t", partitions);
        for partition in 0..partitions {
            for record in 0..records {
                log.append(&TopicPartition::new("t", partition), MemoryRecord::new(record, "k", "v"));
            }
        }
        let group = MemoryGroup::new(&log, &["t"]);
        (log, group)
    }

    async fn assigned(events: &mut mpsc::Receiver<SourceEvent>) -> Vec<Assignment> {
        match tokio::time::timeout(Duration::from_secs(10), events.recv()).await {
            Ok(Some(SourceEvent::Assigned(assignments))) => assignments,
            _ => panic!("an assignment was expected"),
        }
    }

    fn position(next: i64) -> Position {
        Position { next: Offset(next), metadata: String::new() }
    }

    #[tokio::test]
    async fn a_killed_member_is_redelivered_from_the_commit() {
        let (log, group) = log_of(1, 10);
        let partition = TopicPartition::new("t", 0);
        log.remove(&partition, Offset(3));
        let source = group.source();
        let (send, mut events) = mpsc::channel(4);
        source.open(send).await.expect("opens");
        let mut first = assigned(&mut events).await.remove(0);
        first.begin_as_it_stands();
        let batch = first.reader.next_batch(LIMITS).await.expect("a batch");
        assert_eq!(batch.offsets, [0, 1, 2, 4, 5, 6, 7, 8, 9], "a gap where a record was taken away");
        first.committer.commit(position(2));
        group.hold_commits(true);
        first.committer.commit(position(5));
        source.kill();

        let next = group.source();
        let (send, mut events) = mpsc::channel(4);
        next.open(send).await.expect("opens");
        let mut second = assigned(&mut events).await.remove(0);
        assert_eq!(second.start, Offset(2), "the position under way died with the member");
        assert!(second.generation > first.generation);
        second.begin_as_it_stands();
        assert_eq!(second.reader.next_batch(LIMITS).await.expect("a batch").offsets[0], 2);
        first.committer.commit(position(9));
        assert_eq!((group.committed(&partition), group.stale_commits()), (Some(position(2)), 1));
        assert_eq!(group.violations(), Vec::<String>::new());
    }

    #[tokio::test]
    async fn a_second_member_gets_its_share_after_the_first_has_drained() {
        let (_, group) = log_of(4, 5);
        let (one, two) = (group.source(), group.source());
        let (send, mut events) = mpsc::channel(4);
        one.open(send).await.expect("opens");
        let mut mine = assigned(&mut events).await;
        assert_eq!(mine.len(), 4);
        group.hold_commits(true);
        let (send, mut others) = mpsc::channel(4);
        two.open(send).await.expect("opens");
        let Some(SourceEvent::Revoked { partitions, lost: false, done }) = events.recv().await else {
            panic!("a revocation was expected")
        };
        assert_eq!(partitions.len(), 2);
        for assignment in mine.extract_if(.., |assignment| partitions.contains(&assignment.partition)) {
            assignment.committer.commit(position(3));
        }
        done.send(()).expect("the group waits");
        let theirs = assigned(&mut others).await;
        assert_eq!(theirs.iter().map(|assignment| assignment.start.0).collect::<Vec<_>>(), [3, 3]);
        assert_eq!(group.violations(), Vec::<String>::new());
    }

    #[tokio::test]
    async fn a_revocation_answered_while_a_reader_lives_is_noted() {
        let (_, group) = log_of(1, 1);
        let (one, two) = (group.source(), group.source());
        let (send, mut events) = mpsc::channel(4);
        one.open(send).await.expect("opens");
        let kept = assigned(&mut events).await;
        one.close(now() + Duration::from_secs(10)).await;
        let (send, mut others) = mpsc::channel(4);
        two.open(send).await.expect("opens");
        assigned(&mut others).await;
        assert_eq!(group.violations().len(), 1);
        drop(kept);
    }
}
