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
use super::sink::{ID_HEADER, open_writer};
use super::stats::SinkStats;
use crate::config::KafkaConnection;
use crate::pipeline::dead_letter_file::{LetterFile, SpillPointer};
use crate::pipeline::{DeadLetter, DeadLetters, LogLine, SourceError};
use crate::record::HeaderIter;

/// Texts in headers are cut to this, bytes.
const MESSAGE_BYTES_MAX: usize = 4 << 10;
const BACKTRACE_BYTES_MAX: usize = 16 << 10;
const LOGS_BYTES_MAX: usize = 16 << 10;
/// Framing of a record and its batch, bytes: no record is larger than its parts by more than this.
const FRAME_BYTES: usize = 512;
/// What the client adds for each header when it judges a record's size, bytes.
const HEADER_FRAME_BYTES: usize = 16;

/// The header of a letter whose record stands in a spill file: host, file, offset, length and digest of its line, as JSON.
pub const SPILL_HEADER: &str = "pelton.spill";

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
    let own = own_headers(letter, None);
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
        for (name, value) in own_headers(letter, spilled.as_ref()) {
            headers = with_header(headers, name, Some(value.as_bytes()));
        }
        Ok(Outgoing { key: letter.key.as_deref(), value: letter.value.as_deref(), headers, timestamp_ms: None })
    }
}

/// The headers that say what happened, after the record's own.
fn own_headers(letter: &DeadLetter, spilled: Option<&SpillPointer>) -> Vec<(&'static str, String)> {
    let (kind, name) = letter.stage.split_once(':').unwrap_or((&letter.stage, "decode"));
    let connect_stage = match kind {
        "transform" => "TRANSFORMATION",
        "sink" => "TASK_PUT",
        _ => "VALUE_CONVERTER",
    };
    let mut headers = vec![
        ("__connect.errors.topic", letter.source.topic.to_string()),
        ("__connect.errors.partition", letter.source.partition.to_string()),
        ("__connect.errors.offset", letter.offset.to_string()),
        ("__connect.errors.connector.name", letter.pipeline.clone()),
        ("__connect.errors.task.id", letter.source.partition.to_string()),
        ("__connect.errors.stage", connect_stage.to_owned()),
        ("__connect.errors.class.name", name.to_owned()),
        ("__connect.errors.exception.class.name", letter.code.clone()),
        ("__connect.errors.exception.message", cut(&letter.message, MESSAGE_BYTES_MAX)),
        (
            "__connect.errors.exception.stacktrace",
            cut(letter.backtrace.as_deref().unwrap_or_default(), BACKTRACE_BYTES_MAX),
        ),
        ("pelton.pipeline", letter.pipeline.clone()),
        ("pelton.stage", letter.stage.clone()),
        ("pelton.code", letter.code.clone()),
        ("pelton.digests", letter.digests.join(",")),
        ("pelton.attempts", letter.attempts.to_string()),
        ("pelton.write-time", letter.write_time.to_string()),
        ("pelton.partial", letter.partial.to_string()),
        // The first so many headers of the letter are the record's own.
        ("pelton.headers", HeaderIter::new(&letter.headers).count().to_string()),
    ];
    if let Some(timestamp_ms) = letter.timestamp_ms {
        headers.push(("pelton.timestamp", timestamp_ms.to_string()));
    }
    if let Some(at_ms) = letter.at_ms {
        headers.push(("pelton.at", at_ms.to_string()));
    }
    if letter.redrives > 0 {
        headers.push(("pelton.redrives", letter.redrives.to_string()));
    }
    if !letter.logs.is_empty() {
        headers.push(("pelton.logs", logs(&letter.logs)));
    }
    if let Some(pointer) = spilled {
        headers.push((SPILL_HEADER, serde_json::to_string(pointer).expect("texts and numbers always encode")));
    }
    headers.push((ID_HEADER, letter.id.clone()));
    headers
}

/// The last log lines that fit, as `level message`, one a line.
fn logs(lines: &[LogLine]) -> String {
    let mut kept = Vec::new();
    let mut bytes = 0;
    for line in lines.iter().rev() {
        let text = format!("{:?} {}", line.level, cut(&line.message, MESSAGE_BYTES_MAX)).replace('\n', " ");
        bytes += text.len() + 1;
        if bytes > LOGS_BYTES_MAX {
            break;
        }
        kept.push(text);
    }
    kept.reverse();
    kept.join("\n")
}

/// The beginning of a text, marked where something was cut off.
fn cut(text: &str, bytes_max: usize) -> String {
    if text.len() <= bytes_max {
        return text.to_owned();
    }
    const MARK: &str = " …";
    let end = text.floor_char_boundary(bytes_max - MARK.len());
    format!("{}{MARK}", text.get(..end).unwrap_or_default())
}

#[cfg(test)]
pub(super) mod tests {
    use rdkafka::Timestamp;
    use rdkafka::message::OwnedMessage;

    use super::*;
    use crate::pipeline::LogLevel;

    /// A letter as it stands in its topic.
    pub(in crate::kafka) fn as_message(letter: &DeadLetter, spilled: Option<&SpillPointer>) -> OwnedMessage {
        let parcels = Parcels(vec![Parcel { letter: letter.clone(), spilled: spilled.cloned() }]);
        let Outgoing { key, value, headers, .. } = parcels.record(0).expect("a record");
        let part = |part: Option<&[u8]>| part.map(<[u8]>::to_vec);
        let timestamp = Timestamp::CreateTime(1);
        OwnedMessage::new(part(value), part(key), "dlq".to_owned(), timestamp, 0, 0, Some(headers))
    }

    #[test]
    fn cuts_between_characters_and_says_so() {
        assert_eq!(cut("short", 10), "short");
        let text = cut(&"ü".repeat(10), 12);
        assert!(text.len() <= 12 && text.ends_with('…') && text.starts_with("üüü"), "{text}");
    }

    #[test]
    fn keeps_the_last_log_lines() {
        let lines: Vec<LogLine> =
            (0..10_000).map(|number| LogLine { level: LogLevel::Info, message: format!("line {number}") }).collect();
        let text = logs(&lines);
        assert!(text.len() <= LOGS_BYTES_MAX && text.ends_with("line 9999") && !text.contains("line 0\n"));
    }
}
