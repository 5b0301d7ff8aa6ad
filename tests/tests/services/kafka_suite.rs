//! The suites that every source and every sink of records pass, on Kafka.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use pelton::kafka::{KafkaJournal, KafkaRanges, KafkaSink, KafkaSource};
use pelton::memory::MemoryRecord;
use pelton::pipeline::journal::Journal;
use pelton::pipeline::ranges::Ranges;
use pelton::pipeline::{Sink, Source};
use pelton_tests::conformance::journal::{self, JournalBed, RangeBed};
use pelton_tests::conformance::records::{RecordBed, Stored};
use pelton_tests::conformance::source::SourceBed;
use rdkafka::ClientConfig;
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::message::{Header, Headers, Message, OwnedHeaders};
use rdkafka::producer::FutureRecord;
use rdkafka::topic_partition_list::{Offset, TopicPartitionList};

use crate::kafka_sink::output;
use crate::kafka_support::{Topic, brokers, connection, options, producer, settings};

/// The header that a sink adds to a record's own.
const ID_HEADER: &str = "pelton-id";

struct RecordsInTopic(Topic);

impl RecordsInTopic {
    async fn new() -> Self {
        Self(Topic::new("suite-records", 1).await)
    }
}

#[async_trait]
impl RecordBed for RecordsInTopic {
    async fn open(&self) -> Arc<dyn Sink> {
        Arc::new(KafkaSink::open(&connection(), &output(&self.0.name)).await.unwrap())
    }

    async fn stored(&self) -> Vec<Stored> {
        let topic = self.0.name.clone();
        tokio::task::spawn_blocking(move || read_back(&topic)).await.unwrap()
    }
}

/// Everything in the topic's only partition, by a reader that shares no code with the product.
fn read_back(topic: &str) -> Vec<Stored> {
    let consumer: BaseConsumer =
        ClientConfig::new().set("bootstrap.servers", brokers()).set("group.id", "suite-reads-back").create().unwrap();
    let (_, end) = consumer.fetch_watermarks(topic, 0, Duration::from_secs(30)).unwrap();
    let mut list = TopicPartitionList::new();
    list.add_partition_offset(topic, 0, Offset::Beginning).unwrap();
    consumer.assign(&list).unwrap();
    let mut stored = Vec::new();
    while (stored.len() as i64) < end {
        let message = consumer.poll(Duration::from_secs(30)).expect("a record before the end").unwrap();
        let (mut headers, mut id) = (Vec::new(), String::new());
        for header in message.headers().into_iter().flat_map(Headers::iter) {
            match header.key {
                ID_HEADER => id = String::from_utf8(header.value.unwrap().to_vec()).unwrap(),
                name => headers.push((name.to_owned(), header.value.map(<[u8]>::to_vec))),
            }
        }
        stored.push(Stored {
            key: message.key().map(<[u8]>::to_vec),
            value: message.payload().map(<[u8]>::to_vec),
            headers,
            timestamp_ms: message.timestamp().to_millis().unwrap(),
            id,
        });
    }
    stored
}

mod sink {
    pelton_tests::record_sink_suite!(super::RecordsInTopic::new().await);
}

struct TopicToRead {
    topic: Topic,
    group: String,
}

impl TopicToRead {
    async fn new() -> Self {
        let topic = Topic::new("suite-source", 2).await;
        let group = format!("group-{}", topic.name);
        Self { topic, group }
    }
}

#[async_trait]
impl SourceBed for TopicToRead {
    fn topic(&self) -> String {
        self.topic.name.clone()
    }

    async fn append(&self, partition: i32, records: Vec<MemoryRecord>) {
        let producer = producer();
        let sent = records.iter().map(|record| {
            let headers = record.headers.iter().fold(OwnedHeaders::new(), |headers, (key, value)| {
                headers.insert(Header { key, value: value.as_deref() })
            });
            let mut outgoing = FutureRecord::<[u8], [u8]>::to(&self.topic.name).partition(partition).headers(headers);
            outgoing.timestamp = record.timestamp_ms;
            (outgoing.key, outgoing.payload) = (record.key.as_deref(), record.value.as_deref());
            producer.send_result(outgoing).map_err(|(error, _)| error).unwrap()
        });
        for delivery in sent.collect::<Vec<_>>() {
            delivery.await.unwrap().map_err(|(error, _)| error).unwrap();
        }
    }

    fn member(&self) -> Arc<dyn Source> {
        Arc::new(KafkaSource::new(&connection(), &settings(&[&self.topic.name], &self.group), options()))
    }

    async fn committed(&self, partition: i32) -> Option<(i64, String)> {
        let (topic, group) = (self.topic.name.clone(), self.group.clone());
        let look = move || {
            let consumer: BaseConsumer =
                ClientConfig::new().set("bootstrap.servers", brokers()).set("group.id", group).create().unwrap();
            let mut list = TopicPartitionList::new();
            list.add_partition(&topic, partition);
            let list = consumer.committed_offsets(list, Duration::from_secs(30)).unwrap();
            let found = list.find_partition(&topic, partition).unwrap();
            let Offset::Offset(offset) = found.offset() else { return None };
            Some((offset, found.metadata().to_owned()))
        };
        tokio::task::spawn_blocking(look).await.unwrap()
    }
}

mod source {
    pelton_tests::source_suite!(super::TopicToRead::new().await);
}

struct JournalInTopic(Topic);

#[async_trait]
impl JournalBed for JournalInTopic {
    async fn open(&self) -> Arc<dyn Journal> {
        Arc::new(KafkaJournal::open(&connection(), &self.0.name, "suite").await.unwrap())
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_journal_in_a_topic_keeps_its_promises() {
    let topic = || async { JournalInTopic(Topic::new("suite-journal", 1).await) };
    journal::what_is_answered_stays_in_order(&topic().await).await;
    journal::a_place_that_was_answered_misses_nothing_from_then_on(&topic().await).await;
}

struct RangesOfTopic(Topic);

#[async_trait]
impl RangeBed for RangesOfTopic {
    fn topic(&self) -> String {
        self.0.name.clone()
    }

    async fn append(&self, records: Vec<MemoryRecord>) {
        let producer = producer();
        for record in &records {
            let out = FutureRecord::to(&self.0.name).partition(0).timestamp(record.timestamp_ms.unwrap());
            let out = out.key(record.key.as_ref().unwrap()).payload(record.value.as_ref().unwrap());
            producer.send(out, Duration::from_secs(30)).await.unwrap();
        }
    }

    fn ranges(&self) -> Arc<dyn Ranges> {
        Arc::new(KafkaRanges::new(&connection(), "suite"))
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn ranges_of_a_topic_are_read_to_their_end() {
    let topic = Topic::with("suite-ranges", 1, &[("retention.ms", "-1")]).await;
    journal::a_range_is_read_to_its_end(&RangesOfTopic(topic)).await;
}
