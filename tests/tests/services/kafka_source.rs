//! The source on a real broker: rebalances, commits, and records that are gone.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use pelton::config::{OnLost, Start};
use pelton::kafka::{KafkaSource, delete_records};
use pelton::pipeline::{Source, SourceError};
use pelton::record::{Offset, TopicPartition};
use rdkafka::producer::FutureRecord;
use tokio::sync::mpsc;

use super::kafka_support::*;

const LIMIT: Duration = Duration::from_secs(60);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn members_join_and_leave_under_load_without_gap_or_repeat() {
    const PARTITIONS: i32 = 8;
    let topic = Topic::new("rebalance", PARTITIONS).await;
    let settings = settings(&[&topic.name], &topic.name);
    let seen = Seen::default();

    let is_over = Arc::new(AtomicBool::new(false));
    let written = Arc::new(AtomicU64::new(0));
    let load = tokio::spawn({
        let (name, is_over, written) = (topic.name.clone(), Arc::clone(&is_over), Arc::clone(&written));
        async move {
            let producer = producer();
            let mut number = 0u64;
            while !is_over.load(Ordering::SeqCst) {
                let sent: Vec<_> = (number..number + 400)
                    .map(|number| {
                        let value = number.to_string();
                        let partition = (number % PARTITIONS as u64) as i32;
                        let record = FutureRecord::<str, _>::to(&name).partition(partition).payload(&value);
                        producer.send_result(record).map_err(|(error, _)| error).unwrap()
                    })
                    .collect();
                for delivery in sent {
                    delivery.await.unwrap().map_err(|(error, _)| error).unwrap();
                }
                number += 400;
                written.store(number, Ordering::SeqCst);
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        }
    });

    let reads_on = |more: usize| {
        let (seen, from) = (Arc::clone(&seen), values_seen(&seen).len());
        wait_for("members read on", LIMIT, move || (values_seen(&seen).len() >= from + more).then_some(()))
    };
    let shared_by = |members: usize| {
        let seen = Arc::clone(&seen);
        wait_for("partitions are shared out", LIMIT, move || {
            let seen = seen.lock().unwrap();
            let owners: std::collections::BTreeSet<_> =
                seen.values().filter_map(|stretches| Some(stretches.last()?.member.clone())).collect();
            (owners.len() == members && seen.len() == PARTITIONS as usize).then_some(())
        })
    };
    let first = Member::join("first", &settings, options(), &seen).await;
    shared_by(1).await;
    reads_on(2_000).await;
    let second = Member::join("second", &settings, options(), &seen).await;
    shared_by(2).await;
    reads_on(2_000).await;
    let third = Member::join("third", &settings, options(), &seen).await;
    shared_by(3).await;
    let main_queue = first.stats.main_queue_records.get();
    first.leave().await;
    shared_by(2).await;
    reads_on(2_000).await;
    let fourth = Member::join("fourth", &settings, options(), &seen).await;
    second.leave().await;
    reads_on(2_000).await;

    is_over.store(true, Ordering::SeqCst);
    load.await.unwrap();
    let total = written.load(Ordering::SeqCst) as usize;
    wait_for("all is read", LIMIT, || (values_seen(&seen).len() >= total).then_some(())).await;
    assert_eq!(main_queue + third.stats.main_queue_records.get() + fourth.stats.main_queue_records.get(), 0);
    assert!(
        third.failures().is_empty() && fourth.failures().is_empty(),
        "{:?} {:?}",
        third.failures(),
        fourth.failures()
    );
    third.leave().await;
    fourth.leave().await;

    let seen = seen.lock().unwrap();
    assert_eq!(seen.len(), PARTITIONS as usize);
    let mut handovers = 0;
    for (partition, stretches) in &*seen {
        let mut next = 0;
        for stretch in stretches {
            assert_eq!(stretch.start, next, "{partition}: {} begins where the last owner ended", stretch.member);
            let expected: Vec<i64> = (next..next + stretch.offsets.len() as i64).collect();
            assert_eq!(stretch.offsets, expected, "{partition}: every offset once, in order");
            next += stretch.offsets.len() as i64;
            handovers += 1;
        }
        assert_eq!(next as usize, total / PARTITIONS as usize, "{partition}: all of it");
    }
    assert!(handovers > PARTITIONS as usize + 4, "partitions changed hands: {handovers}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn commit_metadata_come_back_to_the_next_owner_and_to_its_siblings() {
    let topic = Topic::new("metadata", 3).await;
    let settings = settings(&[&topic.name], &topic.name);
    for (partition, count) in [(0, 10), (1, 20), (2, 30)] {
        topic.fill(partition, 0, count).await;
    }
    let before = Seen::default();
    let member = Member::join("first", &settings, options(), &before).await;
    wait_for("all is read", LIMIT, || (values_seen(&before).len() == 60).then_some(())).await;
    member.leave().await;

    let after = Seen::default();
    let member = Member::join("second", &settings, options(), &after).await;
    wait_for("all is assigned", LIMIT, || (after.lock().unwrap().len() == 3).then_some(())).await;
    let ends: BTreeMap<_, _> = member.source.ends().into_iter().collect();
    member.leave().await;

    let (before, after) = (before.lock().unwrap(), after.lock().unwrap());
    for (partition, count) in [(0, 10), (1, 20), (2, 30)] {
        let of = TopicPartition::new(&topic.name, partition);
        let stretch = &after[&of][0];
        let id = before[&of][0].topic_id.as_deref();
        assert!(id.is_some(), "the broker tells the topic's id");
        assert_eq!(stretch.start, count);
        assert_eq!(stretch.metadata, Some(metadata(Offset(count), id)));
        let siblings = [10, 20, 30].into_iter().filter(|other| *other != count);
        assert_eq!(stretch.sibling_metadata, siblings.map(|at| metadata(Offset(at), id)).collect::<Vec<_>>());
        assert_eq!(ends[&of], Offset(count));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_member_that_vanishes_leaves_what_was_not_committed_to_the_next() {
    let topic = Topic::new("vanish", 2).await;
    let settings = settings(&[&topic.name], &topic.name);
    for partition in 0..2 {
        topic.fill(partition, 0, 1_000).await;
    }
    let seen = Seen::default();
    let member = Member::join("first", &settings, options(), &seen).await;
    wait_for("all is read", LIMIT, || (values_seen(&seen).len() == 2_000).then_some(())).await;
    wait_for("something is committed", LIMIT, || (member.stats.commits.get() > 0).then_some(())).await;
    for partition in 0..2 {
        topic.fill(partition, 1_000, 500).await;
    }
    member.vanish().await;
    let member = Member::join("second", &settings, options(), &seen).await;
    wait_for("the next owner reads on", LIMIT, || {
        let seen = seen.lock().unwrap();
        let ends = seen.values().filter_map(|stretches| stretches.iter().flat_map(|s| s.offsets.last()).max());
        (ends.filter(|end| **end == 1_499).count() == 2).then_some(())
    })
    .await;
    member.leave().await;
    for stretches in seen.lock().unwrap().values() {
        let offsets: std::collections::BTreeSet<i64> = stretches.iter().flat_map(|s| s.offsets.clone()).collect();
        assert_eq!(offsets.into_iter().collect::<Vec<_>>(), (0..1_500).collect::<Vec<_>>(), "no gap");
        for stretch in stretches {
            assert!(stretch.start <= 1_000 || stretch.offsets.is_empty(), "never committed ahead of what was read");
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn start_positions_are_kept_until_the_first_commit() {
    let topic = Topic::new("start", 1).await;
    topic.fill(0, 0, 10).await;
    let mut settings = settings(&[&topic.name], &topic.name);
    settings.start = Start::Latest;
    let seen = Seen::default();
    let member = Member::join("first", &settings, options(), &seen).await;
    wait_for("it is assigned", LIMIT, || (!seen.lock().unwrap().is_empty()).then_some(())).await;
    wait_for("the start is committed", LIMIT, || (member.stats.commits.get() > 0).then_some(())).await;
    member.leave().await;
    // What comes while nobody reads is not "before the latest".
    topic.fill(0, 10, 5).await;
    let member = Member::join("second", &settings, options(), &seen).await;
    wait_for("it reads on", LIMIT, || (values_seen(&seen).len() == 5).then_some(())).await;
    member.leave().await;
    assert_eq!(values_seen(&seen), ["10", "11", "12", "13", "14"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn start_committed_refuses_a_group_without_commits() {
    let topic = Topic::new("committed", 1).await;
    let mut settings = settings(&[&topic.name], &topic.name);
    settings.start = Start::Committed;
    let seen = Seen::default();
    let member = Member::join("first", &settings, options(), &seen).await;
    let failures = wait_for("it refuses", LIMIT, || Some(member.failures()).filter(|found| !found.is_empty())).await;
    assert!(matches!(&failures[0], SourceError::Refused(text) if text.contains("no committed offset")), "{failures:?}");
    member.leave().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn start_at_a_time_begins_with_the_first_record_at_or_after_it() {
    let topic = Topic::new("time", 1).await;
    let producer = producer();
    for (number, timestamp_ms) in [(0, 1_700_000_000_000), (1, 1_700_000_010_000), (2, 1_700_000_020_000)] {
        let value = number.to_string();
        let record = FutureRecord::<str, _>::to(&topic.name).payload(&value).timestamp(timestamp_ms);
        producer.send(record, LIMIT).await.unwrap();
    }
    let mut settings = settings(&[&topic.name], &topic.name);
    settings.start = Start::Timestamp(1_700_000_005_000);
    let seen = Seen::default();
    let member = Member::join("first", &settings, options(), &seen).await;
    wait_for("it reads", LIMIT, || (values_seen(&seen).len() == 2).then_some(())).await;
    member.leave().await;
    assert_eq!(values_seen(&seen), ["1", "2"]);
}

/// Writes records in one transaction, which is committed or aborted.
fn transaction(topic: &str, from: usize, count: usize, is_committed: bool) {
    use rdkafka::producer::{BaseProducer, BaseRecord, Producer as _};
    let id = format!("{topic}-{from}");
    let producer: BaseProducer =
        rdkafka::ClientConfig::new().set("bootstrap.servers", brokers()).set("transactional.id", id).create().unwrap();
    producer.init_transactions(LIMIT).unwrap();
    producer.begin_transaction().unwrap();
    for number in from..from + count {
        let value = number.to_string();
        producer
            .send(BaseRecord::<str, str>::to(topic).partition(0).payload(&value))
            .map_err(|(error, _)| error)
            .unwrap();
    }
    producer.flush(LIMIT).unwrap();
    if is_committed { producer.commit_transaction(LIMIT) } else { producer.abort_transaction(LIMIT) }.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_topic_with_transactions_that_was_read_has_nothing_left_to_read() {
    let topic = Topic::new("transactions", 1).await;
    let settings = settings(&[&topic.name], &topic.name);
    let write = |from, count, is_committed| {
        let topic = topic.name.clone();
        tokio::task::spawn_blocking(move || transaction(&topic, from, count, is_committed))
    };
    // A log ends with the mark of a transaction: a committed one, and an aborted one.
    write(0, 5, true).await.unwrap();
    write(5, 3, false).await.unwrap();
    write(8, 4, true).await.unwrap();
    let seen = Seen::default();
    let member = Member::join("first", &settings, options(), &seen).await;
    let partition = TopicPartition::new(&topic.name, 0);
    // All records are read; nothing lies between the last of them and the end; and whoever looks at the group from
    // outside sees no lag.
    let all_is_read = async |what: &str, values: usize| {
        wait_for(what, LIMIT, || {
            let read = seen.lock().unwrap().get(&partition)?.last()?.offsets.last()? + 1;
            let (committed, end) = crate::line_support::positions(&topic.name, &topic.name, 1)[0];
            let is_so = values_seen(&seen).len() == values
                && member.source.ends() == [(partition.clone(), Offset(read))]
                && end > read
                && committed == end;
            is_so.then_some(())
        })
        .await;
    };
    all_is_read("a committed transaction stands last", 9).await;
    write(12, 2, false).await.unwrap();
    all_is_read("an aborted one stands last", 9).await;
    write(14, 2, true).await.unwrap();
    all_is_read("it goes on", 11).await;
    member.leave().await;
    let member = Member::join("second", &settings, options(), &seen).await;
    topic.fill(0, 16, 1).await;
    wait_for("the next record", LIMIT, || (values_seen(&seen).len() == 12).then_some(())).await;
    member.leave().await;
    assert_eq!(values_seen(&seen), ["0", "1", "2", "3", "4", "8", "9", "10", "11", "14", "15", "16"]);
    let metadata = seen.lock().unwrap()[&partition].last().unwrap().metadata.clone().unwrap();
    assert_eq!(pelton::pipeline::checkpoint::Checkpoint::parse(&metadata).unwrap().h, 200, "of the last record");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn records_that_retention_took_stop_the_pipeline_by_name_or_are_counted() {
    let topic = Topic::new("retention", 1).await;
    let mut settings = settings(&[&topic.name], &topic.name);
    topic.fill(0, 0, 10).await;
    let seen = Seen::default();
    let member = Member::join("first", &settings, options(), &seen).await;
    wait_for("all is read", LIMIT, || (values_seen(&seen).len() == 10).then_some(())).await;
    member.leave().await;
    topic.fill(0, 10, 20).await;
    let partition = TopicPartition::new(&topic.name, 0);
    delete_records(&connection(), &partition, Offset(25)).await.unwrap();

    let member = Member::join("stops", &settings, options(), &seen).await;
    let failures = wait_for("it stops", LIMIT, || Some(member.failures()).filter(|found| !found.is_empty())).await;
    assert!(
        matches!(&failures[0], SourceError::Lost { partition: at, from: Offset(10), to: Offset(24), .. } if *at == partition),
        "{failures:?}"
    );
    member.leave().await;
    assert_eq!(values_seen(&seen).len(), 10, "nothing was passed over");

    settings.on_lost = OnLost::Continue;
    let member = Member::join("goes on", &settings, options(), &seen).await;
    wait_for("it goes on", LIMIT, || (values_seen(&seen).len() == 15).then_some(())).await;
    assert_eq!((member.stats.lost_ranges.get(), member.stats.lost_records.get()), (1, 15));
    member.leave().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_topic_made_anew_while_nobody_reads_is_noticed() {
    let topic = Topic::new("anew-away", 1).await;
    let mut settings = settings(&[&topic.name], &topic.name);
    topic.fill(0, 0, 10).await;
    let seen = Seen::default();
    let source = Arc::new(KafkaSource::new(&connection(), &settings, options()));
    drop(source);
    let member = Member::join("first", &settings, options(), &seen).await;
    wait_for("all is read", LIMIT, || (values_seen(&seen).len() == 10).then_some(())).await;
    let old_id = seen.lock().unwrap().values().next().unwrap()[0].topic_id.clone().unwrap();
    member.leave().await;

    topic.delete().await;
    topic.create(1, &[]).await;
    topic.fill(0, 100, 50).await;
    // The broker forgets commits with their topic; those of a group that committed late, or was set by hand, survive.
    commit(&topic.name, &topic.name, 10, &metadata(Offset(10), Some(&old_id)));

    let member = Member::join("stops", &settings, options(), &seen).await;
    let failures = wait_for("it stops", LIMIT, || Some(member.failures()).filter(|found| !found.is_empty())).await;
    assert!(
        matches!(&failures[0], SourceError::Lost { from: Offset(10), reason, .. } if reason.contains("made anew")),
        "{failures:?}"
    );
    member.leave().await;
    settings.on_lost = OnLost::Continue;
    let member = Member::join("goes on", &settings, options(), &seen).await;
    wait_for("it reads the new topic from its beginning", LIMIT, || (values_seen(&seen).len() == 60).then_some(()))
        .await;
    member.leave().await;
    assert_eq!(values_seen(&seen)[10], "100");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_topic_made_anew_while_it_is_read_is_noticed() {
    let topic = Topic::new("anew-here", 1).await;
    let mut settings = settings(&[&topic.name], &topic.name);
    settings.on_lost = OnLost::Continue;
    topic.fill(0, 0, 10).await;
    let seen = Seen::default();
    let member = Member::join("first", &settings, options(), &seen).await;
    wait_for("all is read", LIMIT, || (values_seen(&seen).len() == 10).then_some(())).await;
    topic.delete().await;
    topic.create(1, &[]).await;
    // Longer than the old one: the client would go on in silence.
    topic.fill(0, 100, 50).await;
    wait_for("it reads the new topic from its beginning", LIMIT, || {
        let values = values_seen(&seen);
        (100..150).all(|number| values.contains(&number.to_string())).then_some(())
    })
    .await;
    assert_eq!(member.failures().len(), 0);
    member.leave().await;
    let seen = seen.lock().unwrap();
    let stretches = seen.values().next().unwrap();
    assert_ne!(stretches.first().unwrap().topic_id, stretches.last().unwrap().topic_id);
    assert_eq!(stretches.last().unwrap().start, 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_unknown_topic_and_a_dead_broker_are_told_apart() {
    let (events, _received) = mpsc::channel(1);
    let settings = settings(&["test-no-such-topic"], "test-no-such-group");
    let error = KafkaSource::new(&connection(), &settings, options()).open(events.clone()).await.unwrap_err();
    assert!(
        matches!(&error, SourceError::Refused(text) if text.contains("no topic \"test-no-such-topic\"")),
        "{error}"
    );

    let mut nowhere = connection();
    nowhere.brokers = "127.0.0.1:1".to_owned();
    let quick = pelton::kafka::SourceOptions { open_timeout: Duration::from_secs(2), ..options() };
    let error = KafkaSource::new(&nowhere, &settings, quick).open(events).await.unwrap_err();
    assert!(matches!(&error, SourceError::Unreachable { system, .. } if system.contains("127.0.0.1:1")), "{error}");
}

/// Commits by hand, as another tool would.
fn commit(group: &str, topic: &str, next: i64, metadata: &str) {
    use rdkafka::consumer::{BaseConsumer, CommitMode, Consumer};
    use rdkafka::topic_partition_list::{Offset as ListOffset, TopicPartitionList};
    let consumer: BaseConsumer =
        rdkafka::ClientConfig::new().set("bootstrap.servers", brokers()).set("group.id", group).create().unwrap();
    let mut list = TopicPartitionList::new();
    {
        let mut element = list.add_partition(topic, 0);
        element.set_offset(ListOffset::Offset(next)).unwrap();
        element.set_metadata(metadata);
    }
    consumer.commit(&list, CommitMode::Sync).unwrap();
}
