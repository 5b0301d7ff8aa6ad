//! Consumer groups in memory: members that come, go and die, assignments with generations, commits with metadata.
//!
//! ```text
//! open ─► member ─► rebalance: Revoked ─► (drained, done) ─► commits kept ─► Assigned, generation + 1
//! close ─► commits kept ─► rebalance          kill ─► commits under way lost ─► rebalance, redelivery
//! ```

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex};

use async_trait::async_trait;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use tokio::runtime::Handle;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::Instant;

use super::{MemoryLog, lock};
use crate::pipeline::{Assignment, BatchLimits, Committer, Position, Reader, Source, SourceError, SourceEvent};
use crate::record::{Batch, Offset, TopicPartition};

/// A group that reads topics of a [`MemoryLog`]. Clones share the same group.
#[derive(Clone)]
pub struct MemoryGroup(Arc<Inner>);

struct Inner {
    log: MemoryLog,
    topics: Vec<String>,
    state: Mutex<State>,
    /// Wakes readers: a failure was injected, or an assignment ended.
    changes: watch::Sender<u64>,
    /// One rebalance at a time.
    rebalancing: tokio::sync::Mutex<()>,
    /// Where rebalances run: they outlive the runtime of a member that is killed.
    runtime: Option<Handle>,
}

#[derive(Default)]
struct State {
    members: BTreeMap<u64, mpsc::Sender<SourceEvent>>,
    next_member: u64,
    generation: u64,
    owners: BTreeMap<TopicPartition, Owner>,
    committed: BTreeMap<TopicPartition, Position>,
    /// Handed over, not yet committed.
    pending: BTreeMap<TopicPartition, Position>,
    /// Assignments whose first position stands: their readers give.
    begun: BTreeSet<u64>,
    hold_commits: bool,
    history: Vec<(TopicPartition, Position)>,
    stale_commits: u64,
    failures: BTreeMap<TopicPartition, SourceError>,
    readers: BTreeMap<TopicPartition, BTreeSet<u64>>,
    violations: Vec<String>,
    cut: Option<StdRng>,
    hang_close: bool,
}

#[derive(Clone, Copy, PartialEq, Eq)]
struct Owner {
    member: u64,
    generation: u64,
}

impl MemoryGroup {
    /// A group without members or commits.
    #[must_use]
    pub fn new(log: &MemoryLog, topics: &[&str]) -> Self {
        Self(Arc::new(Inner {
            log: log.clone(),
            topics: topics.iter().map(|topic| (*topic).to_owned()).collect(),
            state: Mutex::default(),
            changes: watch::Sender::new(0),
            rebalancing: tokio::sync::Mutex::default(),
            runtime: Handle::try_current().ok(),
        }))
    }

    /// A new member, which joins when it is opened.
    #[must_use]
    pub fn source(&self) -> MemorySource {
        let mut state = lock(&self.0.state);
        state.next_member += 1;
        MemorySource { group: self.clone(), member: state.next_member }
    }

    /// The committed position.
    #[must_use]
    pub fn committed(&self, partition: &TopicPartition) -> Option<Position> {
        lock(&self.0.state).committed.get(partition).cloned()
    }

    /// Every position that was committed, in order.
    #[must_use]
    pub fn history(&self) -> Vec<(TopicPartition, Position)> {
        lock(&self.0.state).history.clone()
    }

    /// Positions that came after their assignment had ended, and so were discarded.
    #[must_use]
    pub fn stale_commits(&self) -> u64 {
        lock(&self.0.state).stale_commits
    }

    /// Where the line broke the contract of the seam: positions that fell, revocations answered while a reader lived,
    /// metadata that are too long. Empty in every good run.
    #[must_use]
    pub fn violations(&self) -> Vec<String> {
        lock(&self.0.state).violations.clone()
    }

    /// The position that is handed over and not committed yet.
    #[must_use]
    pub fn under_way(&self, partition: &TopicPartition) -> Option<Position> {
        lock(&self.0.state).pending.get(partition).cloned()
    }

    /// Sets the committed position, as an earlier life of the group left it.
    pub fn commit_as_before(&self, partition: &TopicPartition, position: Position) {
        lock(&self.0.state).committed.insert(partition.clone(), position);
    }

    /// With true, positions stay under way until [`Self::flush_commits`], a revocation or a close; a kill loses them.
    pub fn hold_commits(&self, hold: bool) {
        lock(&self.0.state).hold_commits = hold;
        if !hold {
            self.flush_commits();
        }
    }

    /// Commits what is under way.
    pub fn flush_commits(&self) {
        let mut state = lock(&self.0.state);
        let pending: Vec<_> = state.pending.keys().cloned().collect();
        for partition in pending {
            state.keep(&partition);
        }
        drop(state);
        self.wake();
    }

    /// Cuts batches at random lengths from now on, below the limits that readers are given.
    pub fn cut_batches(&self, seed: u64) {
        lock(&self.0.state).cut = Some(StdRng::seed_from_u64(seed));
    }

    /// With true, a close that begins from now on never returns, whatever its deadline: a client that hangs.
    pub fn hang_close(&self, hang: bool) {
        lock(&self.0.state).hang_close = hang;
    }

    /// The partition's reader fails once with this error.
    pub fn fail_reader(&self, partition: &TopicPartition, error: SourceError) {
        lock(&self.0.state).failures.insert(partition.clone(), error);
        self.wake();
    }

    /// Tells every member that the source cannot go on.
    pub async fn fail(&self, error: &SourceError) {
        let members: Vec<_> = lock(&self.0.state).members.values().cloned().collect();
        for events in members {
            // A member that is gone need not be told.
            let _ = events.send(SourceEvent::Failed(error.clone())).await;
        }
    }

    /// Takes a partition from its owner at once (`lost`): its commits are discarded from now on, and it is assigned
    /// anew from the committed offset, so that what was under way is redelivered.
    pub async fn lose(&self, partition: &TopicPartition) {
        let no_rebalance = self.0.rebalancing.lock().await;
        let owner = {
            let mut state = lock(&self.0.state);
            state.pending.remove(partition);
            let owner = state.owners.remove(partition);
            owner.and_then(|owner| state.members.get(&owner.member).cloned())
        };
        self.wake();
        if let Some(events) = owner {
            let (done, answered) = oneshot::channel();
            let event = SourceEvent::Revoked { partitions: vec![partition.clone()], lost: true, done };
            if events.send(event).await.is_ok() {
                let _ = answered.await;
            }
        }
        drop(no_rebalance);
        self.rebalance().await;
    }

    /// Revokes and assigns until every member has its share. Runs by itself after joins, closes and kills.
    pub async fn rebalance(&self) {
        let _one_at_a_time = self.0.rebalancing.lock().await;
        let target = self.target();
        self.revoke_what_moves(&target).await;
        self.assign_what_is_free(&target).await;
    }

    /// Who should own what: every owner keeps what it has up to its share.
    fn target(&self) -> BTreeMap<TopicPartition, u64> {
        let partitions: Vec<_> = self.0.topics.iter().flat_map(|topic| self.0.log.partitions(topic)).collect();
        let state = lock(&self.0.state);
        let mut room: BTreeMap<u64, usize> = BTreeMap::new();
        for (index, member) in state.members.keys().enumerate() {
            let extra = usize::from(index < partitions.len() % state.members.len());
            room.insert(*member, partitions.len() / state.members.len() + extra);
        }
        let mut target = BTreeMap::new();
        let mut free = Vec::new();
        for partition in partitions {
            let owner = state.owners.get(&partition).map(|owner| owner.member);
            match owner.and_then(|member| room.get_mut(&member).map(|left| (member, left))) {
                Some((member, left)) if *left > 0 => {
                    *left -= 1;
                    target.insert(partition, member);
                }
                _ => free.push(partition),
            }
        }
        for partition in free {
            if let Some((member, left)) = room.iter_mut().find(|(_, left)| **left > 0) {
                *left -= 1;
                target.insert(partition, *member);
            }
        }
        target
    }

    async fn revoke_what_moves(&self, target: &BTreeMap<TopicPartition, u64>) {
        let mut moving: BTreeMap<u64, Vec<TopicPartition>> = BTreeMap::new();
        {
            let state = lock(&self.0.state);
            for (partition, owner) in &state.owners {
                if target.get(partition) != Some(&owner.member) {
                    moving.entry(owner.member).or_default().push(partition.clone());
                }
            }
        }
        for (member, partitions) in moving {
            let events = lock(&self.0.state).members.get(&member).cloned();
            let mut is_answered = false;
            if let Some(events) = events {
                let (done, answered) = oneshot::channel();
                let event = SourceEvent::Revoked { partitions: partitions.clone(), lost: false, done };
                is_answered = events.send(event).await.is_ok() && answered.await.is_ok();
            }
            let mut state = lock(&self.0.state);
            for partition in partitions {
                if is_answered {
                    state.release(&partition, "a revocation was answered");
                } else {
                    // The member died without an answer: what it held is as lost as in a kill.
                    state.pending.remove(&partition);
                    state.owners.remove(&partition);
                }
            }
        }
        self.wake();
    }

    async fn assign_what_is_free(&self, target: &BTreeMap<TopicPartition, u64>) {
        let mut coming: BTreeMap<u64, Vec<Assignment>> = BTreeMap::new();
        for (partition, member) in target {
            let mut state = lock(&self.0.state);
            if state.owners.contains_key(partition) || !state.members.contains_key(member) {
                continue;
            }
            state.generation += 1;
            let owner = Owner { member: *member, generation: state.generation };
            state.owners.insert(partition.clone(), owner);
            state.readers.entry(partition.clone()).or_default().insert(owner.generation);
            coming.entry(*member).or_default().push(self.assignment(&state, partition, owner));
        }
        for (member, assignments) in coming {
            let events = lock(&self.0.state).members.get(&member).cloned();
            if let Some(events) = events {
                let _ = events.send(SourceEvent::Assigned(assignments)).await;
            }
        }
    }

    fn assignment(&self, state: &State, partition: &TopicPartition, owner: Owner) -> Assignment {
        let committed = state.committed.get(partition);
        let siblings = state
            .committed
            .iter()
            .filter(|(other, _)| other.topic == partition.topic && *other != partition)
            .map(|(_, position)| position.metadata.clone());
        let start = committed.map_or_else(|| self.0.log.start(partition), |position| position.next);
        Assignment {
            partition: partition.clone(),
            generation: owner.generation,
            start,
            metadata: committed.map(|position| position.metadata.clone()),
            sibling_metadata: siblings.collect(),
            end_at_start: self.0.log.end(partition),
            partitions_total: self.0.log.partitions(&partition.topic).len() as i32,
            topic_id: Some(format!("memory-{}", partition.topic)),
            reader: Box::new(MemoryReader {
                group: self.clone(),
                partition: partition.clone(),
                owner,
                next: start,
                first_seen: None,
                cut: None,
            }),
            committer: Arc::new(MemoryCommitter { group: self.clone(), partition: partition.clone(), owner }),
        }
    }

    /// Ends a membership, if it has not ended before.
    fn leave(&self, member: u64, keep_commits: bool) {
        let mut state = lock(&self.0.state);
        if state.members.remove(&member).is_none() {
            return;
        }
        let owned: Vec<_> =
            state.owners.iter().filter(|(_, owner)| owner.member == member).map(|(p, _)| p.clone()).collect();
        for partition in owned {
            if keep_commits {
                state.release(&partition, "the source was closed");
            } else {
                state.pending.remove(&partition);
                state.owners.remove(&partition);
            }
        }
        drop(state);
        self.wake();
        self.rebalance_beside();
    }

    fn rebalance_beside(&self) {
        let group = self.clone();
        let rebalance = async move { group.rebalance().await };
        match self.0.runtime.clone().or_else(|| Handle::try_current().ok()) {
            Some(runtime) => drop(runtime.spawn(rebalance)),
            // Whoever comes next rebalances.
            None => drop(rebalance),
        }
    }

    fn wake(&self) {
        self.0.changes.send_modify(|version| *version += 1);
    }
}

impl State {
    /// Commits what is under way for a partition.
    fn keep(&mut self, partition: &TopicPartition) {
        if let Some(position) = self.pending.remove(partition) {
            self.history.push((partition.clone(), position.clone()));
            self.committed.insert(partition.clone(), position);
            self.begun.extend(self.owners.get(partition).map(|owner| owner.generation));
        }
    }

    /// Ends an assignment in good order.
    fn release(&mut self, partition: &TopicPartition, when: &str) {
        self.keep(partition);
        if let Some(owner) = self.owners.remove(partition)
            && self.readers.get(partition).is_some_and(|readers| readers.contains(&owner.generation))
        {
            self.violations.push(format!("{when} while the reader of {partition} was still alive"));
        }
    }
}

/// One member of a [`MemoryGroup`].
pub struct MemorySource {
    group: MemoryGroup,
    member: u64,
}

impl MemorySource {
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

struct MemoryReader {
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

struct MemoryCommitter {
    group: MemoryGroup,
    partition: TopicPartition,
    owner: Owner,
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
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::super::MemoryRecord;
    use super::*;

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
