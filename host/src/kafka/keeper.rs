//! What is looked at now and then beside a membership: the ends of partitions, whose turn it is to fetch, and whether a
//! topic is still the same.
//!
//! In: the slots of a membership. Out: high watermarks, pauses and resumptions of fetching, partitions that must begin
//! anew, questions whether what was forbidden is allowed again. On a thread of its own, since it waits for answers; never keeps the consumer alive.

use std::collections::HashSet;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Weak, mpsc as std_mpsc};
use std::time::Duration;

use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::topic_partition_list::TopicPartitionList;
use tokio::time::Instant;

use super::consumer::Context;
use super::embedded::is_embedded;
use super::slot::{Slot, lock};
use super::{governor, native, start};
use crate::record::TopicPartition;

/// How often the ends of partitions are asked for.
const ENDS_EVERY: Duration = Duration::from_secs(1);
/// How often turns are taken, where not all partitions may fetch at once.
const TURNS_EVERY: Duration = Duration::from_millis(50);

/// Looks at the ends of partitions and at the topics' ids now and then, and says whose turn to fetch it is; on a thread
/// of its own, since it waits for answers.
pub(super) fn keep(consumer: &Weak<BaseConsumer<Context>>, stopped: &std_mpsc::Receiver<()>) {
    let (mut checked_at, mut asked_at, mut every) = (Instant::now(), Instant::now(), TURNS_EVERY);
    while matches!(stopped.recv_timeout(every), Err(std_mpsc::RecvTimeoutError::Timeout)) {
        let Some(consumer) = consumer.upgrade() else { return };
        let context = consumer.context();
        // A record larger than was known makes partitions take turns from then on.
        every = if context.budget.fetching_max().is_some() { TURNS_EVERY } else { ENDS_EVERY };
        let slots: Vec<Arc<Slot>> = lock(&context.slots).values().cloned().collect();
        if slots.is_empty() {
            continue;
        }
        let partitions: Vec<TopicPartition> = slots.iter().map(|slot| slot.partition.clone()).collect();
        match start::ends(&consumer, &partitions, Duration::from_secs(5)) {
            Ok(ends) => {
                context.voice.forget();
                for slot in &slots {
                    if let Some(end) = ends.get(&slot.partition) {
                        slot.high.store(*end, Ordering::Relaxed);
                    }
                }
            }
            Err(error) => tracing::debug!(%error, "the ends of the partitions are not known at the moment"),
        }
        if asked_at.elapsed() >= ENDS_EVERY {
            asked_at = Instant::now();
            ask_for_forbidden(&consumer, &slots);
        }
        if let Some(fetching_max) = context.budget.fetching_max() {
            take_turns(&consumer, &slots, fetching_max);
        }
        if checked_at.elapsed() >= context.settings.topic_check {
            checked_at = Instant::now();
            compare_ids(&consumer, context, &slots);
        }
    }
}

/// Pauses and resumes partitions, where not all may fetch at once.
fn take_turns(consumer: &BaseConsumer<Context>, slots: &[Arc<Slot>], fetching_max: usize) {
    let views: Vec<governor::View> = slots.iter().map(|slot| slot.view()).collect();
    let turns = governor::turns(&views, fetching_max);
    let list_of = |indices: &[usize]| {
        let mut list = TopicPartitionList::with_capacity(indices.len());
        for slot in indices.iter().filter_map(|index| slots.get(*index)) {
            list.add_partition(&slot.partition.topic, slot.partition.partition);
        }
        list
    };
    // A partition that was given back meanwhile is no error: its slot is gone too.
    for (indices, is_fetching) in [(turns.pause, false), (turns.resume, true)] {
        if indices.is_empty() {
            continue;
        }
        let list = list_of(&indices);
        let changed = if is_fetching { consumer.resume(&list) } else { consumer.pause(&list) };
        if let Err(error) = changed {
            tracing::debug!(%error, "a turn was not taken");
            continue;
        }
        let agreed = agreed(&list);
        for slot in indices.iter().filter_map(|index| slots.get(*index)) {
            if agreed.contains(&slot.partition) {
                slot.set_fetching(is_fetching);
            }
        }
    }
}

/// A partition that may not be read says so once, and nothing when it may be again. Resumed anew, it gives a record or
/// its end then.
fn ask_for_forbidden(consumer: &BaseConsumer<Context>, slots: &[Arc<Slot>]) {
    let mut list = TopicPartitionList::new();
    for slot in slots.iter().filter(|slot| slot.forbidden().is_some() && slot.view().is_fetching) {
        list.add_partition(&slot.partition.topic, slot.partition.partition);
    }
    if list.count() == 0 {
        return;
    }
    for asked in [consumer.pause(&list), consumer.resume(&list)] {
        if let Err(error) = asked {
            tracing::debug!(%error, "a partition that may not be read was not asked for");
        }
    }
}

/// The partitions of which the client says that it did what was asked.
fn agreed(list: &TopicPartitionList) -> HashSet<TopicPartition> {
    let entries = native::entries(list).into_iter().filter(|entry| entry.error.is_none());
    entries.map(|entry| TopicPartition::new(&entry.topic, entry.partition)).collect()
}

/// A topic that vanished and returned is read from its beginning, or stops the pipeline: the client itself is silent.
fn compare_ids(consumer: &BaseConsumer<Context>, context: &Context, slots: &[Arc<Slot>]) {
    if is_embedded(&context.settings.brokers) {
        return;
    }
    let topics: Vec<&str> = {
        let mut topics: Vec<&str> = slots.iter().map(|slot| &*slot.partition.topic).collect();
        topics.dedup();
        topics
    };
    let Ok(ids) = native::topic_ids(consumer.client(), &topics, Duration::from_secs(5)) else { return };
    for slot in slots {
        match (ids.get(&*slot.partition.topic), &slot.topic_id) {
            (Some(now), Some(before)) if now != before => {
                tracing::error!(partition = %slot.partition, before, now, "the topic was made anew");
                lock(&context.renewals).insert(slot.partition.clone());
            }
            (None, Some(before)) => tracing::warn!(partition = %slot.partition, before, "the topic is gone"),
            _ => {}
        }
    }
}
