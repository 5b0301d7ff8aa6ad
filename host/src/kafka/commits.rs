//! Commits of a membership: what tasks hand over, sent now and then, at once where a reader waits for it, and to the end
//! where partitions go.
//!
//! In: positions from the slots, answers from the broker. Out: commits; slots told what was accepted and what refused.
//! Never waits on the polling thread but at the end of an assignment, and then so long as it is told.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::topic_partition_list::{Offset as ListOffset, TopicPartitionList};
use tokio::time::Instant;

use super::consumer::{COMMIT_ATTEMPTS, Context};
use super::native::{CommitAnswer, CommitQueue};
use super::slot::{Slot, lock};
use crate::pipeline::{Position, SourceError};
use crate::record::TopicPartition;

/// How soon a first position that was refused is sent again: a rebalance refuses one or two.
const BEGIN_AGAIN_AFTER: Duration = Duration::from_millis(50);
/// After this an asynchronous commit that nobody answered counts as failed.
pub(super) const COMMIT_TIMEOUT: Duration = Duration::from_secs(10);
/// Refusals in a row after which the operator is told: a rebalance refuses one or two.
const REFUSALS_QUIET: u32 = 5;

impl Context {
    /// Sends what was handed over since the last time, without waiting.
    pub(super) fn commit_soon(&self, consumer: &BaseConsumer<Self>, queue: &CommitQueue) {
        let mut sent_at = lock(&self.commit_sent);
        if let Some((_, since)) = *sent_at {
            if since.elapsed() < COMMIT_TIMEOUT {
                return;
            }
            *sent_at = None;
            self.stats.commit_failures.bump();
            for slot in lock(&self.slots).values() {
                slot.refused();
            }
        }
        let slots: Vec<Arc<Slot>> = lock(&self.slots).values().cloned().collect();
        let positions: Vec<(Arc<Slot>, Position)> =
            slots.into_iter().filter_map(|slot| slot.send().map(|position| (slot, position))).collect();
        if positions.is_empty() {
            return;
        }
        let number = self.commits_sent.fetch_add(1, Ordering::Relaxed);
        match queue.send(consumer.client(), &commit_list(&positions), number) {
            Ok(()) => *sent_at = Some((number, Instant::now())),
            Err(error) => {
                self.stats.commit_failures.bump();
                tracing::warn!(%error, "a commit was not sent: it is tried again");
                for (slot, _) in &positions {
                    slot.refused();
                }
            }
        }
    }

    /// Whether a reader waits for its first position to stand.
    pub(super) fn is_beginning(&self) -> bool {
        lock(&self.slots).values().any(|slot| slot.is_beginning())
    }

    /// Whether a first position is to be sent now.
    pub(super) fn wants_to_begin(&self, since_last: Duration) -> bool {
        let slots = lock(&self.slots);
        let mut refusals = slots.values().filter_map(|slot| slot.wants_to_begin());
        refusals.any(|refusals| refusals == 0 || since_last >= BEGIN_AGAIN_AFTER)
    }

    /// Notes what became of a commit that was sent.
    pub(super) fn commit_answered(&self, answer: &CommitAnswer) {
        {
            let mut sent = lock(&self.commit_sent);
            if sent.is_none_or(|(number, _)| number != answer.number) {
                // It was given up, and what it held was sent again: this answer must not be taken for the newer one's.
                return;
            }
            *sent = None;
        }
        if answer.error.is_none() {
            self.allowed();
        }
        let slots = lock(&self.slots);
        for entry in &answer.entries {
            let Some(slot) = slots.get(&TopicPartition::new(&entry.topic, entry.partition)) else { continue };
            match answer.error.as_ref().or(entry.error.as_ref()) {
                None => {
                    self.stats.commits.bump();
                    slot.accepted(entry.offset);
                }
                Some(error) => {
                    self.stats.commit_failures.bump();
                    if slot.refused() >= REFUSALS_QUIET {
                        tracing::warn!(
                            partition = %slot.partition, offset = entry.offset, error,
                            "commits are refused again and again; they are tried on"
                        );
                    }
                }
            }
        }
    }

    /// Commits what is not accepted yet, and waits for the answer so long. True when nothing is left. The client's own
    /// synchronous commit would wait for a broker that is away, without end.
    pub(super) fn commit_now(&self, consumer: &BaseConsumer<Self>, slots: &[Arc<Slot>], within: Duration) -> bool {
        let positions: Vec<(Arc<Slot>, Position)> =
            slots.iter().filter_map(|slot| slot.unaccepted().map(|position| (Arc::clone(slot), position))).collect();
        if positions.is_empty() {
            return true;
        }
        // A queue of its own: nothing but this commit's answer comes on it.
        let queue = CommitQueue::new(consumer.client()).expect("the client has room for one more queue");
        let answer = queue.send(consumer.client(), &commit_list(&positions), 0).map(|()| queue.answer(within));
        let refusal = match answer {
            Ok(Some(answer)) => answer.error.or(answer.entries.into_iter().find_map(|entry| entry.error)),
            Ok(None) => Some(format!("no answer within {within:?}")),
            Err(error) => Some(error),
        };
        match refusal {
            None => {
                self.stats.commits.add(positions.len() as u64);
                positions.iter().for_each(|(slot, position)| slot.accepted_exactly(position));
                true
            }
            Some(error) => {
                self.stats.commit_failures.bump();
                tracing::warn!(%error, "a commit was refused: it is tried again while there is time");
                false
            }
        }
    }
}

impl Context {
    /// Commits positions of partitions that are not read at the moment, in the place of what stands there; a few tries,
    /// as a rebalance refuses one or two.
    pub(super) fn commit_positions(
        &self,
        consumer: &BaseConsumer<Self>,
        positions: &[(TopicPartition, Position)],
    ) -> Result<(), SourceError> {
        let list = list_of(positions.iter().map(|(partition, position)| (partition, position)));
        let mut refusal = String::new();
        for _ in 0..COMMIT_ATTEMPTS {
            // A queue of its own: nothing but this commit's answer comes on it.
            let queue = CommitQueue::new(consumer.client()).expect("the client has room for one more queue");
            let answer = queue.send(consumer.client(), &list, 0).map(|()| queue.answer(COMMIT_TIMEOUT));
            refusal = match answer {
                Ok(Some(answer)) => match answer.error.or(answer.entries.into_iter().find_map(|entry| entry.error)) {
                    None => return Ok(()),
                    Some(error) => error,
                },
                Ok(None) => format!("no answer within {COMMIT_TIMEOUT:?}"),
                Err(error) => error,
            };
        }
        self.stats.commit_failures.bump();
        Err(SourceError::Broken(format!("the new positions were not accepted: {refusal}")))
    }
}

fn commit_list(positions: &[(Arc<Slot>, Position)]) -> TopicPartitionList {
    list_of(positions.iter().map(|(slot, position)| (&slot.partition, position)))
}

fn list_of<'p>(positions: impl ExactSizeIterator<Item = (&'p TopicPartition, &'p Position)>) -> TopicPartitionList {
    let mut list = TopicPartitionList::with_capacity(positions.len());
    for (partition, position) in positions {
        let mut element = list.add_partition(&partition.topic, partition.partition);
        element.set_offset(ListOffset::Offset(position.next.0)).expect("offsets of a log are never odd");
        if !position.metadata.is_empty() {
            // Once for each element of a fresh list: a second time would leak the first.
            element.set_metadata(&position.metadata);
        }
    }
    list
}
