//! Dead letters in a topic.
//!
//! In: letters. Out: records with the raw key, value and headers, and after the record's own headers those of Kafka
//! Connect and of Pelton, so that tools for either find what they need. The record's own timestamp stands in a header:
//! as the letter's timestamp it would let retention take the letter at once. What does not fit goes to a spill file on
//! the disk, and a small letter points at it.

use std::path::Path;
use std::sync::Arc;

use async_trait::async_trait;
use rdkafka::message::OwnedHeaders;

use super::producer::{Outgoing, Refusal, Rows, TopicWriter, with_header};
use super::sink::open_writer;
use super::stats::SinkStats;
use crate::config::KafkaConnection;
use crate::dead_letters::headers;
use crate::pipeline::dead_letter_file::{LetterFile, SpillPointer};
use crate::pipeline::{DeadLetter, DeadLetters, SourceError};
use crate::record::HeaderIter;

/// Framing of a record and its batch, bytes: no record is larger than its parts by more than this.
const FRAME_BYTES: usize = 512;
/// What the client adds for each header when it judges a record's size, bytes.
const HEADER_FRAME_BYTES: usize = 16;

/// Writes dead letters to a topic.
pub struct KafkaDeadLetters {
    writer: TopicWriter,
    spill: LetterFile,
    limit_bytes: usize,
    stats: Arc<SinkStats>,
}

impl KafkaDeadLetters {
    /// Looks whether the topic is there and the spill directory can be written.
    ///
    /// # Errors
    /// Where the brokers cannot be reached or refuse, the topic does not exist, or the directory cannot be written.
    pub async fn open(
        connection: &KafkaConnection,
        topic: &str,
        pipeline: &str,
        spill_dir: &Path,
    ) -> Result<Self, SourceError> {
        let stats = Arc::<SinkStats>::default();
        let (writer, limit_bytes) = open_writer(connection, topic, "", Arc::clone(&stats)).await?;
        let spill = LetterFile::at(spill_dir.join(format!("{pipeline}.jsonl")));
        let probed = spill.clone();
        let probe = tokio::task::spawn_blocking(move || probed.probe()).await;
        probe.map_err(std::io::Error::other).and_then(|probed| probed).map_err(|error| {
            SourceError::Refused(format!(
                "dead letters that do not fit into {topic} go to {}, which cannot be written: {error}; make it writable \
                 for this user, or name another directory as `spill_dir:` in pelton.yaml",
                spill.path().display()
            ))
        })?;
        Ok(Self { writer, spill, limit_bytes, stats })
    }

    /// What was written.
    #[must_use]
    pub fn stats(&self) -> Arc<SinkStats> {
        Arc::clone(&self.stats)
    }

    /// Writes letters whole; answers those that do not fit.
    async fn write_whole(&self, letters: Vec<DeadLetter>) -> Vec<DeadLetter> {
        let parcels = Arc::new(Parcels(letters.into_iter().map(|letter| Parcel { letter, spilled: None }).collect()));
        let refused = self.send(Arc::clone(&parcels)).await;
        refused.into_iter().filter_map(|(row, _)| Some(parcels.0.get(row)?.letter.clone())).collect()
    }

    async fn send(&self, parcels: Arc<Parcels>) -> Vec<(usize, Refusal)> {
        if parcels.0.is_empty() {
            return Vec::new();
        }
        match self.writer.write(parcels).await.await {
            Ok(refused) => refused,
            // The writer is gone, and nobody knows what was written: this is never success.
            Err(_) => std::future::pending().await,
        }
    }

    /// Spills letters, then writes pointers to them.
    async fn write_spilled(&self, letters: Vec<DeadLetter>) {
        let pointers = self.spill.write(&letters).await;
        let parcels = letters.into_iter().zip(pointers).map(|(mut letter, pointer)| {
            tracing::warn!(id = letter.id, file = pointer.file, "a dead letter does not fit into its topic: spilled");
            letter.key = None;
            letter.value = None;
            letter.headers = Vec::new();
            Parcel { letter, spilled: Some(pointer) }
        });
        for (row, refusal) in self.send(Arc::new(Parcels(parcels.collect()))).await {
            // The letter itself is on the disk.
            tracing::error!(row, message = refusal.message, "even the pointer to a spilled letter was refused");
        }
    }
}

#[async_trait]
impl DeadLetters for KafkaDeadLetters {
    async fn write(&self, letters: Vec<DeadLetter>) {
        let (fitting, mut large): (Vec<_>, Vec<_>) = letters.into_iter().partition(|letter| {
            let (bytes, count) = size(letter);
            bytes + count * HEADER_FRAME_BYTES + FRAME_BYTES <= self.limit_bytes
        });
        large.extend(self.write_whole(fitting).await);
        if !large.is_empty() {
            self.write_spilled(large).await;
        }
    }

    fn blocked(&self) -> Option<String> {
        self.spill.blocked().or_else(|| self.writer.blocked())
    }
}

/// Bytes of a letter's key, value and headers, and how many headers it has.
fn size(letter: &DeadLetter) -> (usize, usize) {
    let own = headers::of(letter, None);
    let record = letter.key.as_ref().map_or(0, Vec::len) + letter.value.as_ref().map_or(0, Vec::len);
    let headers: usize = own.iter().map(|(name, value)| name.len() + value.len()).sum();
    (record + letter.headers.len() + headers, own.len() + HeaderIter::new(&letter.headers).count())
}

/// Letters on their way.
struct Parcels(Vec<Parcel>);

/// A letter, whole or as a pointer.
struct Parcel {
    letter: DeadLetter,
    spilled: Option<SpillPointer>,
}

impl Rows for Parcels {
    fn len(&self) -> usize {
        self.0.len()
    }

    fn bytes(&self) -> usize {
        self.0.iter().map(|parcel| size(&parcel.letter).0).sum()
    }

    fn record(&self, row: usize) -> Result<Outgoing<'_>, Refusal> {
        let Parcel { letter, spilled } = self.0.get(row).expect("rows are asked for below the length");
        let mut headers = OwnedHeaders::new();
        for (name, value) in HeaderIter::new(&letter.headers) {
            headers = with_header(headers, name, value);
        }
        for (name, value) in headers::of(letter, spilled.as_ref()) {
            headers = with_header(headers, name, Some(value.as_bytes()));
        }
        let (key, value) = (letter.key.as_deref(), letter.value.as_deref());
        Ok(Outgoing { partition: None, key, value, headers, timestamp_ms: None })
    }
}

#[cfg(test)]
pub(super) mod tests {
    use rdkafka::Timestamp;
    use rdkafka::message::OwnedMessage;

    use super::*;

    /// A letter as it stands in its topic.
    pub(in crate::kafka) fn as_message(letter: &DeadLetter, spilled: Option<&SpillPointer>) -> OwnedMessage {
        let parcels = Parcels(vec![Parcel { letter: letter.clone(), spilled: spilled.cloned() }]);
        let Outgoing { key, value, headers, .. } = parcels.record(0).expect("a record");
        let part = |part: Option<&[u8]>| part.map(<[u8]>::to_vec);
        let timestamp = Timestamp::CreateTime(1);
        OwnedMessage::new(part(value), part(key), "dlq".to_owned(), timestamp, 0, 0, Some(headers))
    }
}
