//! Topics that are read whole, with the client alone: for those who compare what stands there after a run.
//!
//! In: a topic that nobody writes to any more. Out: its records, partition by partition, in offset order. Joins nothing.

use std::time::Duration;

use rdkafka::consumer::{BaseConsumer, Consumer as _};
use rdkafka::message::{BorrowedMessage, Message as _};
use rdkafka::{ClientConfig, Offset, TopicPartitionList};

/// How long a broker may take to answer.
pub const ANSWER: Duration = Duration::from_secs(60);

/// What went wrong, for people.
pub type Failure = Box<dyn std::error::Error + Send + Sync>;

/// A consumer that joins nothing; `group` is whose commits it can look at.
///
/// # Errors
/// Where the client refuses its configuration.
pub fn looking(brokers: &str, group: &str) -> Result<BaseConsumer, Failure> {
    Ok(ClientConfig::new()
        .set("bootstrap.servers", brokers)
        .set("group.id", group)
        .set("client.id", "looking")
        .set("enable.auto.commit", "false")
        .set("auto.offset.reset", "error")
        .set("fetch.queue.backoff.ms", "10")
        .create()?)
}

/// Every record of a topic.
///
/// # Errors
/// Where the brokers do not answer in time, or a record does not come.
pub fn each(brokers: &str, topic: &str, mut visit: impl FnMut(&BorrowedMessage<'_>)) -> Result<(), Failure> {
    let consumer = looking(brokers, "nobody")?;
    let metadata = consumer.fetch_metadata(Some(topic), ANSWER)?;
    let partitions = metadata.topics().first().map(|topic| topic.partitions().len()).unwrap_or_default();
    for partition in 0..partitions as i32 {
        let (low, high) = consumer.fetch_watermarks(topic, partition, ANSWER)?;
        if low == high {
            continue;
        }
        let mut list = TopicPartitionList::new();
        list.add_partition_offset(topic, partition, Offset::Offset(low))?;
        consumer.assign(&list)?;
        loop {
            let message = consumer.poll(ANSWER).ok_or_else(|| format!("{topic}/{partition}: no record came"))??;
            visit(&message);
            if message.offset() + 1 >= high {
                break;
            }
        }
    }
    Ok(())
}
