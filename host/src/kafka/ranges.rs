//! Ranges of partitions, read beside all groups.
//!
//! In: a partition, two offsets. Out: its records between them, to an end. A consumer and a thread of its own for each
//! range, with explicit offsets. Bears the pipeline's group, to whose rights it is bound, but never joins it and never
//! commits: whoever runs under it does not notice.

use std::sync::Arc;
use std::thread;
use std::time::Duration;

use async_trait::async_trait;
use rdkafka::ClientConfig;
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::topic_partition_list::{Offset as ListOffset, TopicPartitionList};
use tokio::sync::mpsc;

use super::admin::{Probe, topic_settings};
use super::client::{self, ClientVoice, OWN_CONSUMER_PROPERTIES};
use super::embedded::is_embedded;
use super::native::{self, Message, PartitionQueue, Polled};
use crate::config::KafkaConnection;
use crate::pipeline::ranges::{Extent, RangeReader, Ranges};
use crate::pipeline::{BatchLimits, SourceError};
use crate::record::{Batch, HeaderIter, Offset, TopicPartition, push_header};

/// How long the brokers may take for one question.
const TIMEOUT: Duration = Duration::from_secs(10);
/// How long the client is listened to where nothing comes.
const POLL: Duration = Duration::from_millis(5);
/// Batches read ahead of whoever handles them.
const BATCHES_AHEAD: usize = 2;
/// A batch that is read ahead closes at these.
const BATCH_RECORDS: usize = 1024;
const BATCH_BYTES: usize = 1 << 20;

/// Reads topics beside all groups.
pub struct KafkaRanges {
    connection: KafkaConnection,
    group: String,
}

impl KafkaRanges {
    /// Under the rights of this group.
    #[must_use]
    pub fn new(connection: &KafkaConnection, group: &str) -> Self {
        Self { connection: connection.clone(), group: group.to_owned() }
    }

    /// Asks the brokers on a thread that may wait.
    async fn ask<T: Send + 'static>(
        &self,
        question: impl FnOnce(&Probe) -> Result<T, SourceError> + Send + 'static,
    ) -> Result<T, SourceError> {
        let connection = self.connection.clone();
        let asked = tokio::task::spawn_blocking(move || question(&Probe::new(&connection, TIMEOUT)?)).await;
        asked.map_err(|error| SourceError::Broken(error.to_string()))?
    }

    fn config(&self) -> Result<ClientConfig, SourceError> {
        let mut config =
            client::client_config(&self.connection, "range", OWN_CONSUMER_PROPERTIES).map_err(SourceError::Refused)?;
        config.set("group.id", &self.group);
        config.set("enable.auto.commit", "false");
        config.set("enable.auto.offset.store", "false");
        config.set("enable.partition.eof", "true");
        config.set("auto.offset.reset", "error");
        config.set("allow.auto.create.topics", "false");
        config.set("isolation.level", "read_committed");
        config.set("queued.max.messages.kbytes", "16384");
        config.set("receive.message.max.bytes", "1073741824");
        config.set("fetch.queue.backoff.ms", "10");
        Ok(config)
    }
}

/// One offset of one partition: a mark, or the first at or after a time.
fn offset_of(probe: &Probe, partition: &TopicPartition, at: ListOffset) -> Result<i64, SourceError> {
    let mut list = TopicPartitionList::new();
    let asked = list
        .add_partition_offset(&partition.topic, partition.partition, at)
        .and_then(|()| probe.consumer.offsets_for_times(list, TIMEOUT));
    let answer = asked.map_err(|error| probe.failed(&error))?;
    let entry = native::entries(&answer).into_iter().next();
    match entry {
        Some(native::Entry { error: None, offset, .. }) => Ok(offset),
        Some(native::Entry { error: Some(error), .. }) => Err(SourceError::Refused(format!("{partition}: {error}"))),
        None => Err(SourceError::Broken(format!("{partition}: no answer about its offsets"))),
    }
}

#[async_trait]
impl Ranges for KafkaRanges {
    async fn partitions(&self, topic: &str) -> Result<Vec<TopicPartition>, SourceError> {
        let name = topic.to_owned();
        let count = self.ask(move |probe| probe.partitions(&name)).await?;
        Ok((0..).take(count).map(|number| TopicPartition::new(topic, number)).collect())
    }

    async fn extent(&self, partition: &TopicPartition) -> Result<Extent, SourceError> {
        let has_ids = !is_embedded(&self.connection.brokers);
        let of = partition.clone();
        let (low, end, topic_id) = self
            .ask(move |probe| {
                let low = offset_of(probe, &of, ListOffset::Beginning)?;
                let end = offset_of(probe, &of, ListOffset::End)?;
                let ids = if has_ids {
                    native::topic_ids(probe.consumer.client(), &[&of.topic], TIMEOUT).map_err(SourceError::Broken)?
                } else {
                    std::collections::HashMap::new()
                };
                Ok((low, end, ids.get(&*of.topic).cloned()))
            })
            .await?;
        let settings = topic_settings(&self.connection, &partition.topic).await?;
        let policy = settings.and_then(|settings| settings.get("cleanup.policy").cloned());
        let is_compacted = policy.is_some_and(|policy| policy.contains("compact"));
        Ok(Extent { low: Offset(low), end: Offset(end), topic_id, is_compacted })
    }

    async fn first_at(&self, partition: &TopicPartition, time_ms: i64) -> Result<Option<Offset>, SourceError> {
        let of = partition.clone();
        let at = self.ask(move |probe| offset_of(probe, &of, ListOffset::Offset(time_ms.max(0)))).await?;
        Ok((at >= 0).then_some(Offset(at)))
    }

    async fn read(
        &self,
        partition: &TopicPartition,
        from: Offset,
        until: Offset,
    ) -> Result<Box<dyn RangeReader>, SourceError> {
        let (batches, received) = mpsc::channel(BATCHES_AHEAD);
        if from >= until {
            batches.try_send(Ok(None)).expect("it is empty");
        } else {
            let refused = |error: KafkaError| SourceError::Refused(format!("kafka: {error}"));
            let consumer: BaseConsumer<ClientVoice> =
                self.config()?.create_with_context(ClientVoice::default()).map_err(refused)?;
            let consumer = Arc::new(consumer);
            let broken = || SourceError::Broken(format!("{partition}: the Kafka client gives no queue"));
            // Before it is assigned: later, records would have gone elsewhere.
            let queue = PartitionQueue::split(&consumer, partition).ok_or_else(broken)?;
            let mut list = TopicPartitionList::new();
            list.add_partition_offset(&partition.topic, partition.partition, ListOffset::Offset(from.0))
                .and_then(|()| consumer.assign(&list))
                .map_err(refused)?;
            let range = Range { queue, consumer, partition: partition.clone(), until: until.0, batches };
            thread::Builder::new()
                .name("kafka-range".to_owned())
                .spawn(move || range.read())
                .map_err(|error| SourceError::Broken(format!("no thread for the Kafka client: {error}")))?;
        }
        Ok(Box::new(KafkaRange { received, ended: None }))
    }
}

/// A batch, or the end; or why neither comes.
type Part = Result<Option<Batch>, SourceError>;

/// The thread that reads a range.
struct Range {
    /// Before its consumer: it is freed first.
    queue: PartitionQueue<ClientVoice>,
    consumer: Arc<BaseConsumer<ClientVoice>>,
    partition: TopicPartition,
    until: i64,
    batches: mpsc::Sender<Part>,
}

impl Range {
    /// Ends at the end of the range, at an error, or where nobody listens any more.
    fn read(self) {
        let (mut batch, mut headers) = (Batch::new(self.partition.clone()), Vec::new());
        loop {
            let is_over = match self.queue.poll() {
                Some(Polled::Record(message)) => self.take(&message, &mut batch, &mut headers),
                Some(Polled::End(offset)) => offset >= self.until,
                Some(Polled::Error(code, text)) => match self.failure(code, &text) {
                    Some(error) => {
                        self.batches.blocking_send(Err(error)).ok();
                        return;
                    }
                    None => false,
                },
                None => {
                    if self.give(&mut batch) || self.batches.is_closed() {
                        return;
                    }
                    // What the client has to say comes here; records do not.
                    if let Some(Err(error)) = self.consumer.poll(POLL) {
                        tracing::debug!(%error, partition = %self.partition, "the Kafka client reports an error");
                    }
                    false
                }
            };
            if is_over {
                self.give(&mut batch);
                self.batches.blocking_send(Ok(None)).ok();
                return;
            }
            if (batch.len() >= BATCH_RECORDS || batch.bytes() >= BATCH_BYTES) && self.give(&mut batch) {
                return;
            }
        }
    }

    /// Takes a record; true where the range is over.
    fn take(&self, message: &Message<'_>, batch: &mut Batch, headers: &mut Vec<u8>) -> bool {
        let offset = message.offset();
        if offset < self.until {
            headers.clear();
            message.for_each_header(|name, value| push_header(headers, name, value));
            let headers = HeaderIter::new(headers);
            batch.push(Offset(offset), message.timestamp_ms(), message.key(), message.value(), headers);
        }
        offset + 1 >= self.until
    }

    /// Gives what there is; true where nobody takes it.
    fn give(&self, batch: &mut Batch) -> bool {
        if batch.is_empty() {
            return false;
        }
        let given = std::mem::replace(batch, Batch::new(self.partition.clone()));
        self.batches.blocking_send(Ok(Some(given))).is_err()
    }

    /// An error that ends the range; others pass.
    fn failure(&self, code: RDKafkaErrorCode, text: &str) -> Option<SourceError> {
        let message = format!("{}: {text}", self.partition);
        match code {
            RDKafkaErrorCode::AutoOffsetReset | RDKafkaErrorCode::LogTruncation => {
                Some(SourceError::Refused(format!("{message}: retention took records while they were to be read")))
            }
            code if client::is_authorisation(code) => Some(SourceError::Forbidden { message, setting: None }),
            _ => {
                tracing::debug!(text, partition = %self.partition, "the partition cannot be read at the moment");
                None
            }
        }
    }
}

/// The other end.
struct KafkaRange {
    received: mpsc::Receiver<Part>,
    /// The end, or an error: the last word.
    ended: Option<Part>,
}

#[async_trait]
impl RangeReader for KafkaRange {
    /// The limits of whoever asks do not hold: what was read ahead is given.
    async fn next_batch(&mut self, _limits: BatchLimits) -> Result<Option<Batch>, SourceError> {
        if let Some(ended) = &self.ended {
            return ended.clone();
        }
        let broken = || Err(SourceError::Broken("the thread that reads the range has ended".to_owned()));
        let part = self.received.recv().await.unwrap_or_else(broken);
        if !matches!(part, Ok(Some(_))) {
            self.ended = Some(part.clone());
        }
        part
    }
}
