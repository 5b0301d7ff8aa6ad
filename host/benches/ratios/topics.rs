//! Topics of the benchmark's own: made, filled with known records, counted, and taken away again.

use std::time::Duration;

use futures::executor::block_on;
use rdkafka::ClientConfig;
use rdkafka::admin::{AdminClient, AdminOptions, NewTopic, TopicReplication};
use rdkafka::client::DefaultClientContext;
use rdkafka::consumer::{BaseConsumer, Consumer as _};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::producer::{BaseProducer, BaseRecord, Producer as _};
use rdkafka::{Offset, TopicPartitionList};

use crate::work;

/// How long a broker may take for anything.
const PATIENCE: Duration = Duration::from_secs(60);

/// Where Kafka is: as the tests look for it.
pub(crate) fn brokers() -> String {
    let variable = |name: &str, default: &str| std::env::var(name).unwrap_or_else(|_| default.to_owned());
    format!("{}:{}", variable("PELTON_KAFKA_HOST", "127.0.0.1"), variable("PELTON_KAFKA_PORT", "9092"))
}

/// A topic that is deleted when it is dropped.
pub(crate) struct Topic {
    pub(crate) name: String,
    pub(crate) partitions: i32,
}

impl Topic {
    pub(crate) fn create(purpose: &str, partitions: i32) -> Self {
        let name = format!("pelton_bench_{purpose}_{}", uuid::Uuid::new_v4().simple());
        let topic = NewTopic::new(&name, partitions, TopicReplication::Fixed(1));
        let made = block_on(admin().create_topics([&topic], &options())).unwrap_or_else(|error| {
            panic!("no Kafka at {}: {error}; `make services` starts one", brokers());
        });
        made.into_iter().next().expect("one answer a topic").expect("a new topic");
        let topic = Self { name, partitions };
        // Made is not yet led: whoever asks too early is told that there is no such topic.
        let consumer = topic.consumer();
        for partition in 0..partitions {
            while consumer.fetch_watermarks(&topic.name, partition, PATIENCE).is_err() {}
        }
        topic
    }

    /// A topic with records 0..`records` of [`work`], in turn over the partitions.
    pub(crate) fn filled(purpose: &str, partitions: i32, records: u64) -> Self {
        let topic = Self::create(purpose, partitions);
        topic.fill(0..records);
        topic
    }

    pub(crate) fn fill(&self, numbers: std::ops::Range<u64>) {
        let producer: BaseProducer = ClientConfig::new()
            .set("bootstrap.servers", brokers())
            .set("linger.ms", "50")
            .set("batch.size", "1000000")
            .set("queue.buffering.max.messages", "200000")
            .create()
            .expect("a producer");
        for number in numbers {
            let (key, value) = (work::key(number), work::value(number));
            let partition = (number % self.partitions.unsigned_abs() as u64) as i32;
            let mut record = BaseRecord::to(&self.name).partition(partition).key(&key).payload(&value);
            while let Err((error, given_back)) = producer.send(record) {
                assert_eq!(error, KafkaError::MessageProduction(RDKafkaErrorCode::QueueFull), "{error}");
                producer.poll(Duration::from_millis(10));
                record = given_back;
            }
            if number % 4096 == 0 {
                producer.poll(Duration::ZERO);
            }
        }
        producer.flush(PATIENCE).expect("everything is delivered");
    }

    /// Records that stand in the topic.
    pub(crate) fn count(&self) -> u64 {
        let consumer = self.consumer();
        (0..self.partitions)
            .map(|partition| {
                let (low, high) = consumer.fetch_watermarks(&self.name, partition, PATIENCE).expect("the topic's ends");
                (high - low).unsigned_abs()
            })
            .sum()
    }

    fn consumer(&self) -> BaseConsumer {
        ClientConfig::new().set("bootstrap.servers", brokers()).create().expect("a consumer")
    }

    /// A consumer of all partitions from their beginning, without a group.
    pub(crate) fn reader(name: &str) -> BaseConsumer {
        let consumer: BaseConsumer = ClientConfig::new()
            .set("bootstrap.servers", brokers())
            .set("group.id", "pelton_bench_reader")
            .set("enable.auto.commit", "false")
            .set("fetch.queue.backoff.ms", "10")
            .create()
            .expect("a consumer");
        let metadata = consumer.fetch_metadata(Some(name), PATIENCE).expect("the topic's partitions");
        let mut all = TopicPartitionList::new();
        for partition in metadata.topics().iter().flat_map(|topic| topic.partitions()) {
            all.add_partition_offset(name, partition.id(), Offset::Beginning).expect("a partition");
        }
        consumer.assign(&all).expect("an assignment");
        consumer
    }
}

impl Drop for Topic {
    fn drop(&mut self) {
        // Left behind, it costs disk alone; the next run does not meet it.
        let _ = block_on(admin().delete_topics(&[&self.name], &options()));
    }
}

fn admin() -> AdminClient<DefaultClientContext> {
    ClientConfig::new().set("bootstrap.servers", brokers()).create().expect("an admin client")
}

fn options() -> AdminOptions {
    AdminOptions::new().operation_timeout(Some(PATIENCE)).request_timeout(Some(PATIENCE))
}
