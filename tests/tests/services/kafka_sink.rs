//! Writing to topics of a real broker.

use std::collections::BTreeMap;
use std::time::Duration;

use pelton::config::KafkaOutput;
use pelton::kafka::KafkaSink;
use pelton::pipeline::Sink;
use pelton::record::{Column, Offset, RowMeta, RowOp, SinkBatch, TopicPartition, WriteTime, push_header};
use rdkafka::ClientConfig;
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::message::{Headers, Message, OwnedMessage};
use rdkafka::topic_partition_list::{Offset as ListOffset, TopicPartitionList};

use super::kafka_support::*;

const LIMIT: Duration = Duration::from_secs(60);

pub(crate) fn output(topic: &str) -> KafkaOutput {
    KafkaOutput { topic: topic.to_owned(), partitioner: "murmur2_random".to_owned(), properties: BTreeMap::new() }
}

/// A row: key, value, operation.
type Row<'r> = (Option<&'r [u8]>, Option<&'r [u8]>, RowOp);

fn batch(first: i64, rows: &[Row<'_>]) -> SinkBatch {
    let mut batch = SinkBatch {
        source: TopicPartition::new("in", 3),
        generation: 1,
        rows: Vec::new(),
        keys: Column::default(),
        values: Column::default(),
        headers: Column::default(),
        cells: Vec::new(),
    };
    for (index, (key, value, op)) in rows.iter().enumerate() {
        let offset = Offset(first + index as i64);
        batch.rows.push(RowMeta {
            origin: index as u32,
            offset,
            timestamp_ms: 1_700_000_000_000 + offset.0,
            write_time: WriteTime(0),
            index: 0,
            op: *op,
        });
        batch.keys.push(*key);
        batch.values.push(*value);
        batch.headers.push_with(|packed| {
            push_header(packed, "trace", Some(b"\xff\x00"));
            push_header(packed, "empty", Some(b""));
            push_header(packed, "none", None);
            push_header(packed, "pelton-id", Some(b"of the way here"));
        });
    }
    batch
}

/// Reads a topic from its beginning until it has `count` records.
pub(crate) async fn read_all(topic: &str, partitions: i32, count: usize) -> Vec<OwnedMessage> {
    let topic = topic.to_owned();
    tokio::task::spawn_blocking(move || {
        let consumer: BaseConsumer = ClientConfig::new()
            .set("bootstrap.servers", brokers())
            .set("group.id", format!("read-{topic}"))
            .set("enable.auto.commit", "false")
            .create()
            .unwrap();
        let mut list = TopicPartitionList::new();
        for partition in 0..partitions {
            list.add_partition_offset(&topic, partition, ListOffset::Beginning).unwrap();
        }
        consumer.assign(&list).unwrap();
        let began = tokio::time::Instant::now();
        let mut messages = Vec::new();
        while messages.len() < count {
            assert!(began.elapsed() < LIMIT, "{} of {count} records came", messages.len());
            if let Some(message) = consumer.poll(Duration::from_millis(100)) {
                messages.push(message.unwrap().detach());
            }
        }
        messages
    })
    .await
    .unwrap()
}

pub(crate) fn header(message: &OwnedMessage, name: &str) -> Option<Vec<u8>> {
    let headers = message.headers()?;
    headers.iter().filter(|header| header.key == name).last()?.value.map(<[u8]>::to_vec)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn carries_key_value_headers_and_timestamp_over() {
    let topic = Topic::new("sink", 1).await;
    let sink = KafkaSink::open(&connection(), &output(&topic.name)).await.unwrap();
    let rows: [Row<'_>; 4] = [
        (Some(b"a"), Some(b"one"), RowOp::Upsert),
        (Some(b"a"), Some(b"ignored"), RowOp::Delete),
        (None, Some(b""), RowOp::Upsert),
        (Some(b""), None, RowOp::Upsert),
    ];
    let written = sink.write(batch(7, &rows)).await.await;
    assert_eq!(written.failures, []);
    assert!(written.bytes > 0);
    let messages = read_all(&topic.name, 1, 4).await;
    let content: Vec<_> = messages.iter().map(|message| (message.key(), message.payload())).collect();
    assert_eq!(
        content,
        [(Some(&b"a"[..]), Some(&b"one"[..])), (Some(&b"a"[..]), None), (None, Some(&b""[..])), (Some(&b""[..]), None),]
    );
    for (index, message) in messages.iter().enumerate() {
        assert_eq!(message.timestamp().to_millis(), Some(1_700_000_000_007 + index as i64));
        assert_eq!(header(message, "pelton-id"), Some(format!("in/3/{}/0", 7 + index).into_bytes()));
        assert_eq!(header(message, "trace"), Some(b"\xff\x00".to_vec()));
        let names: Vec<_> = message.headers().unwrap().iter().map(|h| (h.key.to_owned(), h.value.is_some())).collect();
        let expected = [("trace", true), ("empty", true), ("none", false), ("pelton-id", true)];
        assert_eq!(names, expected.map(|(name, has)| (name.to_owned(), has)));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn partitions_as_the_java_producer_does() {
    // Values of org.apache.kafka.common.utils.Utils.murmur2 for these keys, positive, modulo 12.
    let topic = Topic::new("partitioner", 12).await;
    let sink = KafkaSink::open(&connection(), &output(&topic.name)).await.unwrap();
    let keys: [(&[u8], u32); 4] = [
        (b"21", murmur2(b"21")),
        (b"foobar", murmur2(b"foobar")),
        (b"a-little-bit-long-string", murmur2(b"a-little-bit-long-string")),
        (b"abc", murmur2(b"abc")),
    ];
    // Two of Kafka's own test vectors hold our copy of the hash.
    assert_eq!(
        (murmur2(b"21"), murmur2(b"foobar")),
        ((-973_932_308i32).cast_unsigned(), (-790_332_482i32).cast_unsigned())
    );
    let rows: Vec<Row<'_>> = keys.iter().map(|(key, _)| (Some(*key), Some(&b"v"[..]), RowOp::Upsert)).collect();
    assert_eq!(sink.write(batch(0, &rows)).await.await.failures, []);
    for message in read_all(&topic.name, 12, 4).await {
        let hash = keys.iter().find(|(key, _)| Some(*key) == message.key()).unwrap().1;
        assert_eq!(message.partition(), ((hash & 0x7fff_ffff) % 12) as i32);
    }
}

/// Kafka's murmur2, written from its description.
fn murmur2(data: &[u8]) -> u32 {
    const M: u32 = 0x5bd1_e995;
    let mut h = 0x9747_b28c ^ data.len() as u32;
    let chunks = data.chunks_exact(4);
    let rest = chunks.remainder();
    for chunk in chunks {
        let mut k = u32::from_le_bytes(chunk.try_into().unwrap()).wrapping_mul(M);
        k = (k ^ (k >> 24)).wrapping_mul(M);
        h = h.wrapping_mul(M) ^ k;
    }
    if !rest.is_empty() {
        for (index, byte) in rest.iter().enumerate() {
            h ^= u32::from(*byte) << (8 * index);
        }
        h = h.wrapping_mul(M);
    }
    h = (h ^ (h >> 13)).wrapping_mul(M);
    h ^ (h >> 15)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn keeps_order_over_many_batches() {
    let topic = Topic::new("order", 1).await;
    let sink = KafkaSink::open(&connection(), &output(&topic.name)).await.unwrap();
    let mut answers = Vec::new();
    for first in (0..20_000).step_by(500) {
        let values: Vec<String> = (first..first + 500).map(|number| number.to_string()).collect();
        let rows: Vec<Row<'_>> = values.iter().map(|v| (Some(&b"k"[..]), Some(v.as_bytes()), RowOp::Upsert)).collect();
        answers.push(sink.write(batch(first, &rows)).await);
    }
    for answer in answers {
        assert_eq!(answer.await.failures, []);
    }
    let values: Vec<String> = read_all(&topic.name, 1, 20_000)
        .await
        .iter()
        .map(|message| String::from_utf8(message.payload().unwrap().to_vec()).unwrap())
        .collect();
    assert_eq!(values, (0..20_000).map(|number| number.to_string()).collect::<Vec<_>>());
    assert_eq!(sink.stats().delivered.get(), 20_000);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_record_that_the_topic_never_takes_is_named_and_the_others_are_written() {
    let topic = Topic::with("large", 1, &[("max.message.bytes", "20000")]).await;
    let sink = KafkaSink::open(&connection(), &output(&topic.name)).await.unwrap();
    // Just at the limit: the client lets it pass, only the broker knows the size of the framed batch.
    let (large, edge) = (vec![b'x'; 30_000], vec![b'y'; 19_900]);
    let rows: [Row<'_>; 4] = [
        (Some(b"a"), Some(b"one"), RowOp::Upsert),
        (Some(b"b"), Some(&large), RowOp::Upsert),
        (Some(b"c"), Some(&edge), RowOp::Upsert),
        (Some(b"d"), Some(b"two"), RowOp::Upsert),
    ];
    let written = tokio::time::timeout(LIMIT, sink.write(batch(0, &rows)).await).await.expect("it ends");
    let refused: Vec<_> = written.failures.iter().map(|failure| (failure.row, failure.code.as_str())).collect();
    assert_eq!(refused, [(1, "sink.too_large"), (2, "sink.too_large")]);
    let messages = read_all(&topic.name, 1, 2).await;
    assert_eq!(messages.iter().map(|message| message.payload().unwrap()).collect::<Vec<_>>(), [b"one", b"two"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_unknown_topic_is_refused_at_open() {
    let error = KafkaSink::open(&connection(), &output("test-no-such-output")).await.err().expect("refused");
    assert!(error.to_string().contains("no topic \"test-no-such-output\""), "{error}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_topic_that_is_gone_blocks_and_what_was_accepted_comes_when_it_returns() {
    let topic = Topic::new("gone", 1).await;
    let mut output = output(&topic.name);
    // How long the client itself waits for a topic to appear.
    output.properties.insert("topic.metadata.propagation.max.ms".to_owned(), pelton::config::Secret::new("1000"));
    output.properties.insert("topic.metadata.refresh.interval.ms".to_owned(), pelton::config::Secret::new("500"));
    let sink = KafkaSink::open(&connection(), &output).await.unwrap();
    assert_eq!(sink.write(batch(0, &[(Some(b"k"), Some(b"before"), RowOp::Upsert)])).await.await.failures, []);
    topic.delete().await;
    let values: Vec<String> = (0..500).map(|number| number.to_string()).collect();
    let rows: Vec<Row<'_>> = values.iter().map(|v| (Some(&b"k"[..]), Some(v.as_bytes()), RowOp::Upsert)).collect();
    let mut answer = sink.write(batch(1, &rows)).await;
    let reason = tokio::select! {
        written = &mut answer => panic!("nothing can have been written: {written:?}"),
        reason = wait_for("it says that it is blocked", LIMIT, || sink.blocked()) => reason,
    };
    assert!(reason.contains(&topic.name), "{reason}");
    topic.create(1, &[]).await;
    let written = tokio::time::timeout(LIMIT, answer).await.expect("it goes on by itself");
    assert_eq!(written.failures, []);
    wait_for("it is no longer blocked", LIMIT, || sink.blocked().is_none().then_some(())).await;
    // At least once, and in order: the first time that each value comes.
    let mut seen = std::collections::BTreeSet::new();
    let messages = read_all(&topic.name, 1, 500).await;
    let text = |message: &OwnedMessage| String::from_utf8(message.payload().unwrap().to_vec()).unwrap();
    let first_times: Vec<String> = messages.iter().map(text).filter(|value| seen.insert(value.clone())).collect();
    assert_eq!(first_times, values);
}
