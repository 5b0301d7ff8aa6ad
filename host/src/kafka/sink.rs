//! A topic as the end of the line.
//!
//! In: rows as whole records. Out: records with key, value, headers and timestamp carried over, and a `pelton-id`
//! header by which a reader removes repeats: delivery is at least once. Order is kept for each key; a deletion is a
//! record with a null value.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use rdkafka::message::OwnedHeaders;

use super::admin::{self, Probe};
use super::client::{self, OWN_PRODUCER_PROPERTIES};
use super::producer::{Outgoing, Refusal, Rows, TopicWriter, with_header};
use super::stats::SinkStats;
use crate::config::{KafkaConnection, KafkaOutput};
use crate::pipeline::{Pending, RowFailure, Sink, SourceError, Wants, Written};
use crate::record::{HeaderIter, ID_HEADER, RowOp, SinkBatch};

/// Characters of an offset and an output index, and what stands between them, at most.
const ID_NUMBERS_CHARS: usize = 32;

/// How long the brokers may take when a writer is opened.
const OPEN_TIMEOUT: Duration = Duration::from_secs(10);

/// How long the client gathers records before it sends them, in milliseconds, where `properties` do not say: long enough
/// for the rows of a batch, which come together; while a request is under way the next gathers anyway.
const LINGER_MS: &str = "0.5";

/// Kafka's own default for `max.message.bytes`.
pub(super) const MESSAGE_BYTES_DEFAULT: usize = 1_048_588;

/// Writes records to a topic.
pub struct KafkaSink {
    wants: Wants,
    writer: TopicWriter,
    stats: Arc<SinkStats>,
}

impl KafkaSink {
    /// Looks whether the topic is there, and makes the producer.
    ///
    /// # Errors
    /// Where the brokers cannot be reached or refuse, or the topic does not exist.
    pub async fn open(connection: &KafkaConnection, output: &KafkaOutput) -> Result<Self, SourceError> {
        let mut connection = connection.clone();
        for (name, value) in &output.properties {
            connection.properties.insert(name.clone(), value.clone());
        }
        let stats = Arc::<SinkStats>::default();
        let (writer, _) = open_writer(&connection, &output.topic, &output.partitioner, Arc::clone(&stats)).await?;
        Ok(Self { wants: Wants::Records, writer, stats })
    }

    /// What this sink counts.
    #[must_use]
    pub fn stats(&self) -> Arc<SinkStats> {
        Arc::clone(&self.stats)
    }
}

/// Opens a writer of a topic that exists; answers with the largest record that the topic takes.
pub(super) async fn open_writer(
    connection: &KafkaConnection,
    topic: &str,
    partitioner: &str,
    stats: Arc<SinkStats>,
) -> Result<(TopicWriter, usize), SourceError> {
    let mut config =
        client::client_config(connection, "writer", OWN_PRODUCER_PROPERTIES).map_err(SourceError::Refused)?;
    let (probed, name) = (connection.clone(), topic.to_owned());
    tokio::task::spawn_blocking(move || Probe::new(&probed, OPEN_TIMEOUT)?.partitions(&name))
        .await
        .map_err(|error| SourceError::Broken(error.to_string()))??;
    let limit = message_bytes_max(connection, topic).await;
    config.set("partitioner", if partitioner.is_empty() { "murmur2_random" } else { partitioner });
    if config.get("linger.ms").is_none() {
        config.set("linger.ms", LINGER_MS);
    }
    config.set("message.max.bytes", limit.clamp(1_000, 1_000_000_000).to_string());
    let writer = TopicWriter::new(config, topic, stats)
        .map_err(|error| SourceError::Refused(format!("kafka, topic {topic:?}: {error}")))?;
    Ok((writer, limit))
}

/// The topic's `max.message.bytes`; Kafka's default where the broker does not tell.
pub(super) async fn message_bytes_max(connection: &KafkaConnection, topic: &str) -> usize {
    let settings = admin::topic_settings(connection, topic).await.ok().flatten();
    settings.and_then(|settings| settings.get("max.message.bytes")?.parse().ok()).unwrap_or(MESSAGE_BYTES_DEFAULT)
}

#[async_trait]
impl Sink for KafkaSink {
    fn wants(&self) -> &Wants {
        &self.wants
    }

    async fn write(&self, batch: SinkBatch) -> Pending {
        if batch.is_empty() {
            return Box::pin(std::future::ready(Written::default()));
        }
        let rows = Arc::new(SinkRows::new(batch));
        let bytes = rows.bytes() as u64;
        let answer = self.writer.write(rows).await;
        Box::pin(async move {
            let Ok(refused) = answer.await else {
                // The writer is gone, and nobody knows what was written: this is never success.
                return std::future::pending().await;
            };
            let failures = refused.into_iter().map(|(row, Refusal { code, message })| RowFailure {
                row,
                code: code.to_owned(),
                message,
            });
            Written { failures: failures.collect(), expired: 0, bytes }
        })
    }

    fn blocked(&self) -> Option<String> {
        self.writer.blocked()
    }
}

/// The rows of a batch as records.
struct SinkRows {
    batch: SinkBatch,
    /// What the ids of all rows begin with.
    id_prefix: String,
}

impl SinkRows {
    fn new(batch: SinkBatch) -> Self {
        let id_prefix = batch.id_prefix();
        Self { batch, id_prefix }
    }
}

impl Rows for SinkRows {
    fn len(&self) -> usize {
        self.batch.len()
    }

    fn bytes(&self) -> usize {
        let batch = &self.batch;
        batch.keys.data().len() + batch.values.data().len() + batch.headers.data().len() + 100 * batch.len()
    }

    fn record(&self, row: usize) -> Result<Outgoing<'_>, Refusal> {
        let batch = &self.batch;
        let meta = batch.rows.get(row).expect("rows are asked for below the length");
        let carried = batch.headers.get(row).unwrap_or_default();
        let mut headers = OwnedHeaders::new_with_capacity(if carried.is_empty() { 1 } else { 8 });
        for (name, value) in HeaderIter::new(carried) {
            // An id that came with the record names its way here; the one below names its way from here.
            if name != ID_HEADER {
                headers = with_header(headers, name, value);
            }
        }
        let mut id = String::with_capacity(self.id_prefix.len() + ID_NUMBERS_CHARS);
        id.push_str(&self.id_prefix);
        batch.push_id(row, &mut id);
        headers = with_header(headers, ID_HEADER, Some(id.as_bytes()));
        Ok(Outgoing {
            partition: None,
            key: batch.keys.get(row),
            value: if meta.op == RowOp::Delete { None } else { batch.values.get(row) },
            headers,
            timestamp_ms: (meta.timestamp_ms > 0).then_some(meta.timestamp_ms),
        })
    }
}
