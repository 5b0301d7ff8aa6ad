//! A topic of dead letters as a place: what stands in it, and the marks of what was redriven.
//!
//! In: the topic, and the directory where this host spills. Out: its letters from the beginning to the end as it was at
//! the start, those that were spilled from their files; marks as records of their own in the same topic, which no reader
//! of letters takes for one: they have the header `pelton.redrive` and none of a letter's. Reads with a consumer that
//! joins no group and commits nothing; it bears the pipeline's group, to whose rights it is bound.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use rdkafka::ClientConfig;
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::error::KafkaError;
use rdkafka::message::{Headers as _, Message, OwnedHeaders};
use rdkafka::topic_partition_list::{Offset as ListOffset, TopicPartitionList};
use tokio::sync::OnceCell;
use tokio::time::Instant;

use super::admin::Probe;
use super::client::{self, ClientVoice, OWN_CONSUMER_PROPERTIES};
use super::producer::{Outgoing, Refusal, Rows, TopicWriter, with_header};
use super::sink::open_writer;
use super::stats::SinkStats;
use crate::config::KafkaConnection;
use crate::dead_letters::headers::{self, MARKS_HEADER, Standing};
use crate::dead_letters::place::on_a_thread;
use crate::dead_letters::{Entry, Mark, Place, Reached, spill};
use crate::pipeline::SourceError;

/// How long the brokers may take for one question, and how long nothing may come.
const TIMEOUT: Duration = Duration::from_secs(10);
const SILENCE_MAX: Duration = Duration::from_secs(60);
/// The partition that has all marks, so that they have one order: every topic has it.
const MARKS_PARTITION: i32 = 0;
/// Marks in one record.
const MARKS_A_RECORD: usize = 32;

/// A topic of dead letters.
pub struct KafkaPlace {
    connection: KafkaConnection,
    topic: String,
    group: String,
    spill_dir: PathBuf,
    writer: OnceCell<TopicWriter>,
}

impl KafkaPlace {
    /// Where a pipeline's letters go to, read under the rights of its group. Opens nothing yet.
    #[must_use]
    pub fn new(connection: &KafkaConnection, topic: &str, group: &str, spill_dir: &Path) -> Self {
        Self {
            connection: connection.clone(),
            topic: topic.to_owned(),
            group: group.to_owned(),
            spill_dir: spill_dir.to_owned(),
            writer: OnceCell::new(),
        }
    }

    fn config(&self) -> Result<ClientConfig, SourceError> {
        let mut config = client::client_config(&self.connection, "letters", OWN_CONSUMER_PROPERTIES)
            .map_err(SourceError::Refused)?;
        config.set("group.id", &self.group);
        config.set("enable.auto.commit", "false");
        config.set("enable.auto.offset.store", "false");
        config.set("enable.partition.eof", "true");
        // Retention may take what stood at the beginning a moment ago.
        config.set("auto.offset.reset", "earliest");
        config.set("allow.auto.create.topics", "false");
        config.set("isolation.level", "read_committed");
        config.set("queued.max.messages.kbytes", "16384");
        config.set("receive.message.max.bytes", "1073741824");
        config.set("fetch.queue.backoff.ms", "10");
        Ok(config)
    }
}

#[async_trait]
impl Place for KafkaPlace {
    fn name(&self) -> String {
        format!("topic {}", self.topic)
    }

    async fn read(&self, since: &Reached, each: &mut (dyn FnMut(Entry) + Send)) -> Result<Reached, SourceError> {
        let (config, since) = (self.config()?, since.clone());
        let (connection, topic, spill_dir) = (self.connection.clone(), self.topic.clone(), self.spill_dir.clone());
        on_a_thread(move |each| read(&config, &connection, &topic, &spill_dir, &since, each), each).await
    }

    async fn mark(&self, marks: &[Mark]) -> Result<(), SourceError> {
        let open = || async {
            let stats = Arc::<SinkStats>::default();
            let (writer, _) = open_writer(&self.connection, &self.topic, "", stats).await?;
            Ok::<_, SourceError>(writer)
        };
        let writer = self.writer.get_or_try_init(open).await?;
        let records = marks
            .chunks(MARKS_A_RECORD)
            .map(|marks| serde_json::to_vec(marks).expect("texts and numbers always encode"));
        let written = writer.write(Arc::new(MarkRecords(records.collect()))).await.await;
        match written {
            Ok(refused) => refused.into_iter().next().map_or(Ok(()), |(_, Refusal { message, .. })| {
                Err(SourceError::Refused(format!(
                    "marks of what is redriven cannot be written to {}: {message}",
                    self.topic
                )))
            }),
            Err(_) => Err(SourceError::Broken("the writer of marks has ended".to_owned())),
        }
    }
}

/// Marks on their way.
struct MarkRecords(Vec<Vec<u8>>);

impl Rows for MarkRecords {
    fn len(&self) -> usize {
        self.0.len()
    }

    fn bytes(&self) -> usize {
        self.0.iter().map(Vec::len).sum()
    }

    fn record(&self, row: usize) -> Result<Outgoing<'_>, Refusal> {
        let value = self.0.get(row).map(Vec::as_slice);
        let headers = with_header(OwnedHeaders::new(), MARKS_HEADER, Some(b"marks"));
        Ok(Outgoing { partition: Some(MARKS_PARTITION), key: None, value, headers, timestamp_ms: None })
    }
}

/// Reads a topic, from where an earlier reading ended, to its end as it is now.
fn read(
    config: &ClientConfig,
    connection: &KafkaConnection,
    topic: &str,
    spill_dir: &Path,
    since: &Reached,
    each: &mut dyn FnMut(Entry),
) -> Result<Reached, SourceError> {
    let partitions = Probe::new(connection, TIMEOUT)?.partitions(topic)?;
    let refused = |error: KafkaError| SourceError::Refused(format!("kafka: {error}"));
    let consumer: BaseConsumer<ClientVoice> = config.create_with_context(ClientVoice::default()).map_err(refused)?;
    let (mut list, mut ends, mut reached) = (TopicPartitionList::new(), BTreeMap::new(), since.clone());
    for partition in (0..).take(partitions) {
        let (low, end) = consumer
            .fetch_watermarks(topic, partition, TIMEOUT)
            .map_err(|error| client::unreachable(connection, &error, consumer.context()))?;
        let part = u64::from(partition.unsigned_abs());
        let begin = i64::try_from(since.of(part)).unwrap_or(i64::MAX).max(low);
        reached.0.insert(part, end.max(begin).unsigned_abs());
        if begin < end {
            list.add_partition_offset(topic, partition, ListOffset::Offset(begin)).map_err(refused)?;
            ends.insert(partition, end);
        }
    }
    consumer.assign(&list).map_err(refused)?;
    let mut heard = Instant::now();
    while !ends.is_empty() {
        match consumer.poll(Duration::from_millis(100)) {
            Some(Ok(message)) => {
                heard = Instant::now();
                let (partition, offset) = (message.partition(), message.offset());
                let Some(end) = ends.get(&partition).copied() else { continue };
                if offset < end {
                    each(entry(&message, spill_dir));
                }
                if offset + 1 >= end {
                    ends.remove(&partition);
                }
            }
            // What stands before the end and cannot be read are marks of transactions.
            Some(Err(KafkaError::PartitionEOF(partition))) => drop(ends.remove(&partition)),
            Some(Err(error)) if error.rdkafka_error_code().is_some_and(client::is_authorisation) => {
                return Err(SourceError::Refused(format!("topic {topic}: {error}")));
            }
            Some(Err(error)) if heard.elapsed() > SILENCE_MAX => {
                return Err(client::unreachable(connection, &error, consumer.context()));
            }
            None if heard.elapsed() > SILENCE_MAX => {
                let message = format!("topic {topic}: nothing came for {} s", SILENCE_MAX.as_secs());
                return Err(SourceError::Unreachable { system: format!("Kafka at {}", connection.brokers), message });
            }
            Some(Err(_)) | None => {}
        }
    }
    Ok(reached)
}

/// What a record of the topic is.
fn entry<M: Message>(message: &M, spill_dir: &Path) -> Entry {
    let headers = message.headers().map(|headers| headers.iter().map(|header| (header.key, header.value)).collect());
    let standing = Standing {
        at: format!("{}/{}/{}", message.topic(), message.partition(), message.offset()),
        key: message.key(),
        value: message.payload(),
        timestamp_ms: message.timestamp().to_millis(),
        headers: headers.unwrap_or_default(),
    };
    headers::entry(&standing, |pointer| spill::follow(spill_dir, pointer))
}

#[cfg(test)]
mod tests {
    use rdkafka::Timestamp;
    use rdkafka::message::OwnedMessage;

    use super::super::dead_letters::tests::as_message;
    use super::*;
    use crate::dead_letters::Found;
    use crate::pipeline::{DeadLetter, LogLevel, LogLine};
    use crate::record::{ID_HEADER, Offset, TopicPartition, WriteTime, push_header};

    fn sample() -> DeadLetter {
        let mut headers = Vec::new();
        push_header(&mut headers, "trace", Some(b"\xff\x00"));
        push_header(&mut headers, "none", None);
        // A record that was a dead letter before.
        push_header(&mut headers, "pelton.code", Some(b"older"));
        push_header(&mut headers, ID_HEADER, Some(b"older"));
        push_header(&mut headers, "pelton.headers", Some(b"99"));
        DeadLetter {
            pipeline: "orders".to_owned(),
            source: TopicPartition::new("shop.orders", 4),
            offset: Offset(17),
            timestamp_ms: Some(1_600_000_000_000),
            key: Some(b"\x00key".to_vec()),
            value: None,
            headers,
            stage: "transform:shop-orders".to_owned(),
            code: "negative_amount".to_owned(),
            message: "amount must not be negative".to_owned(),
            backtrace: Some("0: here\n1: there".to_owned()),
            logs: vec![LogLine { level: LogLevel::Warn, message: "odd or not".to_owned() }],
            digests: vec!["00ff".to_owned(), "11ee".to_owned()],
            attempts: 3,
            write_time: WriteTime(1_600_000_000_000_003),
            partial: true,
            id: "shop.orders/4/17/dead-letter".to_owned(),
            redrives: 2,
            at_ms: Some(1_600_000_000_500),
        }
    }

    fn read(message: &OwnedMessage) -> Entry {
        entry(message, Path::new("/nowhere"))
    }

    #[test]
    fn a_letter_comes_back_as_it_was() {
        let letter = sample();
        let Entry::Letter(found) = read(&as_message(&letter, None)) else { panic!("a letter") };
        assert_eq!(*found, Found { letter, at: "dlq/0/0".to_owned(), missing: None });
        let plain = DeadLetter {
            timestamp_ms: None,
            backtrace: None,
            logs: Vec::new(),
            digests: Vec::new(),
            headers: Vec::new(),
            redrives: 0,
            ..sample()
        };
        let Entry::Letter(found) = read(&as_message(&plain, None)) else { panic!("a letter") };
        assert_eq!(found.letter, plain);
    }

    #[test]
    fn a_letter_whose_record_lies_elsewhere_says_where() {
        let pointer = crate::pipeline::dead_letter_file::SpillPointer {
            host: "kf-17".to_owned(),
            file: "orders.jsonl".to_owned(),
            inode: 7,
            offset: 0,
            length: 9,
            sha256: String::new(),
        };
        let Entry::Letter(found) = read(&as_message(&sample(), Some(&pointer))) else { panic!("a letter") };
        assert!(found.missing.as_ref().is_some_and(|missing| missing.contains("host kf-17")), "{found:?}");
    }

    #[test]
    fn a_forged_letter_or_mark_is_none_of_ours() {
        let at = |write_time| DeadLetter { write_time: WriteTime(write_time), ..sample() };
        let forged = [
            at(i64::MIN),
            at(i64::MAX),
            DeadLetter { offset: Offset(-1), ..sample() },
            DeadLetter { redrives: u32::MAX, ..sample() },
        ];
        for letter in forged {
            assert_eq!(read(&as_message(&letter, None)), Entry::Foreign("dlq/0/0".to_owned()), "{letter:?}");
        }
        let mark = |write_time| Mark {
            id: sample().id,
            pipeline: "orders".to_owned(),
            h: crate::dead_letters::cases::h_of(WriteTime(write_time)),
            redrive: 1,
            write_time,
            content: String::new(),
            done: true,
            at_ms: 0,
        };
        let marks = |marks: &[Mark]| {
            let headers = with_header(OwnedHeaders::new(), MARKS_HEADER, Some(b"marks"));
            let value = serde_json::to_vec(marks).expect("JSON");
            let message =
                OwnedMessage::new(Some(value), None, "dlq".to_owned(), Timestamp::NotAvailable, 1, 5, Some(headers));
            read(&message)
        };
        assert_eq!(marks(&[mark(3)]), Entry::Marks(vec![mark(3)]));
        assert_eq!(marks(&[mark(3), mark(i64::MAX)]), Entry::Foreign("dlq/1/5".to_owned()));
    }

    #[test]
    fn what_is_no_letter_is_told_apart() {
        let message = |name: &str, value: &[u8]| {
            let headers = with_header(OwnedHeaders::new(), name, Some(b"x"));
            let timestamp = Timestamp::NotAvailable;
            OwnedMessage::new(Some(value.to_vec()), None, "dlq".to_owned(), timestamp, 1, 5, Some(headers))
        };
        assert_eq!(read(&message("trace", b"x")), Entry::Foreign("dlq/1/5".to_owned()));
        assert_eq!(read(&message(MARKS_HEADER, b"[]")), Entry::Marks(Vec::new()));
        assert_eq!(read(&message(MARKS_HEADER, b"damaged")), Entry::Foreign("dlq/1/5".to_owned()));
        assert_eq!(read(&message(ID_HEADER, b"[]")), Entry::Foreign("dlq/1/5".to_owned()));
    }
}
