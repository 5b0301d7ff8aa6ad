//! Consumer groups in memory: members that come, go and die, assignments with generations, commits with metadata.
//!
//! ```text
//! open ─► member ─► rebalance: Revoked ─► (drained, done) ─► commits kept ─► Assigned, generation + 1
//! close ─► commits kept ─► rebalance          kill ─► commits under way lost ─► rebalance, redelivery
//! ```

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex};

use rand::SeedableRng;
use rand::rngs::StdRng;
use tokio::runtime::Handle;
use tokio::sync::{mpsc, oneshot, watch};

use super::source::{MemoryCommitter, MemoryReader, MemorySource};
use super::{MemoryLog, lock};
use crate::pipeline::journal::GoneTopic;
use crate::pipeline::{Assignment, Position, SourceError, SourceEvent};
use crate::record::TopicPartition;

/// A group that reads topics of a [`MemoryLog`]. Clones share the same group.
#[derive(Clone)]
pub struct MemoryGroup(pub(super) Arc<Inner>);

pub(super) struct Inner {
    pub(super) log: MemoryLog,
    topics: Vec<String>,
    pub(super) state: Mutex<State>,
    /// Wakes readers: a failure was injected, or an assignment ended.
    pub(super) changes: watch::Sender<u64>,
    /// One rebalance at a time.
    pub(super) rebalancing: Arc<tokio::sync::Mutex<()>>,
    /// Where rebalances run: they outlive the runtime of a member that is killed.
    runtime: Option<Handle>,
}

#[derive(Default)]
pub(super) struct State {
    pub(super) members: BTreeMap<u64, mpsc::Sender<SourceEvent>>,
    /// Members that know whether they have partitions.
    welcomed: BTreeSet<u64>,
    next_member: u64,
    generation: u64,
    pub(super) owners: BTreeMap<TopicPartition, Owner>,
    pub(super) committed: BTreeMap<TopicPartition, Position>,
    /// Handed over, not yet committed.
    pub(super) pending: BTreeMap<TopicPartition, Position>,
    /// Assignments whose first position stands: their readers give.
    pub(super) begun: BTreeSet<u64>,
    pub(super) hold_commits: bool,
    history: Vec<(TopicPartition, Position)>,
    pub(super) stale_commits: u64,
    pub(super) failures: BTreeMap<TopicPartition, SourceError>,
    pub(super) readers: BTreeMap<TopicPartition, BTreeSet<u64>>,
    pub(super) violations: Vec<String>,
    pub(super) cut: Option<StdRng>,
    pub(super) hang_close: bool,
    pub(super) stops_on_lost: bool,
    pub(super) gone: Vec<(TopicPartition, GoneTopic)>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) struct Owner {
    pub(super) member: u64,
    pub(super) generation: u64,
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
            rebalancing: Arc::default(),
            runtime: Handle::try_current().ok(),
        }))
    }

    /// A new member, which joins when it is opened.
    #[must_use]
    pub fn source(&self) -> MemorySource {
        let mut state = lock(&self.0.state);
        state.next_member += 1;
        MemorySource::new(self.clone(), state.next_member)
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

    /// Forgets every committed offset, as the brokers do with a group that was not used for long. Nobody may be a member.
    pub fn forget_commits(&self) {
        lock(&self.0.state).committed.clear();
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

    /// Nobody is let in and nobody's partitions change hands while the guard lives: a group that waits for a member.
    pub async fn hold_rebalances(&self) -> tokio::sync::OwnedMutexGuard<()> {
        Arc::clone(&self.0.rebalancing).lock_owned().await
    }

    /// With true, a close that begins from now on never returns, whatever its deadline: a client that hangs.
    pub fn hang_close(&self, hang: bool) {
        lock(&self.0.state).hang_close = hang;
    }

    /// With true, a topic made anew while nobody read it fails its source; else its partitions go on, and
    /// [`Self::gone`] tells.
    pub fn stop_on_lost(&self, stops: bool) {
        lock(&self.0.state).stops_on_lost = stops;
    }

    /// Topics of which the members were told that others stand in their place.
    #[must_use]
    pub fn gone(&self) -> Vec<(TopicPartition, GoneTopic)> {
        lock(&self.0.state).gone.clone()
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
        {
            // Who gets nothing is told so, once.
            let mut state = lock(&self.0.state);
            let members: Vec<u64> = state.members.keys().copied().collect();
            coming.extend(members.into_iter().filter(|member| state.welcomed.insert(*member)).map(|m| (m, Vec::new())));
        }
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
            topic_id: Some(self.0.log.topic_id(partition)),
            reader: Box::new(MemoryReader::new(self.clone(), partition.clone(), owner, start)),
            committer: Arc::new(MemoryCommitter::new(self.clone(), partition.clone(), owner)),
        }
    }

    /// Revokes partitions of a member, commits these positions in the place of theirs, and assigns them anew.
    pub(super) async fn move_partitions(
        &self,
        member: u64,
        to: Vec<(TopicPartition, Position)>,
    ) -> Result<(), SourceError> {
        let no_rebalance = self.0.rebalancing.lock().await;
        let events = {
            let state = lock(&self.0.state);
            let is_own = |partition| state.owners.get(partition).is_some_and(|owner| owner.member == member);
            if let Some((partition, _)) = to.iter().find(|(partition, _)| !is_own(partition)) {
                return Err(SourceError::Refused(format!("{partition} is not read by this member")));
            }
            state.members.get(&member).cloned()
        };
        if let Some(events) = events {
            let (done, answered) = oneshot::channel();
            let partitions = to.iter().map(|(partition, _)| partition.clone()).collect();
            if events.send(SourceEvent::Revoked { partitions, lost: false, done }).await.is_ok() {
                let _ = answered.await;
            }
        }
        {
            let mut state = lock(&self.0.state);
            for (partition, position) in to {
                state.release(&partition, "a partition was moved");
                state.history.push((partition.clone(), position.clone()));
                state.committed.insert(partition, position);
            }
        }
        drop(no_rebalance);
        self.wake();
        self.rebalance().await;
        Ok(())
    }

    /// Ends a membership, if it has not ended before.
    pub(super) fn leave(&self, member: u64, keep_commits: bool) {
        let Some(events) = lock(&self.0.state).members.remove(&member) else { return };
        // Events that nobody took hold readers, which take the lock when they go; one may still stand in a channel whose
        // other end is gone.
        drop(events);
        let mut state = lock(&self.0.state);
        state.welcomed.remove(&member);
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

    pub(super) fn rebalance_beside(&self) {
        let group = self.clone();
        let rebalance = async move { group.rebalance().await };
        match self.0.runtime.clone().or_else(|| Handle::try_current().ok()) {
            Some(runtime) => drop(runtime.spawn(rebalance)),
            // Whoever comes next rebalances.
            None => drop(rebalance),
        }
    }

    pub(super) fn wake(&self) {
        self.0.changes.send_modify(|version| *version += 1);
    }
}

impl State {
    /// Commits what is under way for a partition.
    pub(super) fn keep(&mut self, partition: &TopicPartition) {
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
