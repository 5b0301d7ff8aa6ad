//! A pipeline's journal in a topic of its own, with one partition.
//!
//! In: entries to keep. Out: the same, in order, for whoever begins, replays or seeks. Makes the topic where it is absent,
//! with settings that keep everything: a journal that was compacted, or that forgot, would make replays wrong or
//! impossible. Never takes a time-out for a delivery, and never passes over an entry.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::error::KafkaError;
use rdkafka::message::{Message, OwnedHeaders};
use rdkafka::topic_partition_list::{Offset as ListOffset, TopicPartitionList};
use tokio::time::Instant;

use super::admin::{self, Probe, TopicSpec};
use super::client::{self, ClientVoice, OWN_CONSUMER_PROPERTIES};
use super::producer::{Outgoing, Refusal, Rows, TopicWriter};
use super::sink::open_writer;
use super::slot::lock;
use super::stats::SinkStats;
use crate::config::KafkaConnection;
use crate::pipeline::SourceError;
use crate::pipeline::journal::{Entry, Journal, JournalError, Mark, Pages};
use crate::record::TopicPartition;

/// How long the brokers may take for one question, and how long a topic that was made may take to be seen.
const TIMEOUT: Duration = Duration::from_secs(10);
/// How long nothing may come while the journal is read.
const SILENCE_MAX: Duration = Duration::from_secs(20);
/// How old the known end of the journal may be.
const END_AGE_MAX: Duration = Duration::from_secs(60);
/// How soon entries that were refused are written again.
const AGAIN_AFTER: Duration = Duration::from_secs(5);
/// Where entries are kept for less, replays reach no further: that is said at the start.
const RETENTION_WARN_MS: i64 = 30 * 86_400_000;

/// Keeps entries in a topic.
pub struct KafkaJournal {
    writer: TopicWriter,
    scanner: Arc<Mutex<Scanner>>,
    /// The journal's end as it was once seen: it only grows.
    end: Mutex<Option<(Instant, i64)>>,
    problem: Mutex<Option<String>>,
}

/// How to make the topic of a journal by hand.
#[must_use]
pub fn journal_command(brokers: &str, topic: &str) -> String {
    format!(
        "kafka-topics.sh --bootstrap-server {brokers} --create --topic {topic} --partitions 1 --config \
         cleanup.policy=delete --config retention.ms=-1 --config retention.bytes=-1"
    )
}

impl KafkaJournal {
    /// Looks whether the topic is there and fit, and makes it where it is absent. `group` is the pipeline's own, which it
    /// neither joins nor commits for.
    ///
    /// # Errors
    /// Where the brokers cannot be reached or refuse, or the topic would forget or mix up entries.
    pub async fn open(connection: &KafkaConnection, topic: &str, group: &str) -> Result<Self, SourceError> {
        ensure_topic(connection, topic).await?;
        Self::open_existing(connection, topic, group).await
    }

    /// The same, of a topic that must be there: for whoever only reads.
    ///
    /// # Errors
    /// As [`Self::open`].
    pub async fn open_existing(connection: &KafkaConnection, topic: &str, group: &str) -> Result<Self, SourceError> {
        let (writer, _) = open_writer(connection, topic, "", Arc::<SinkStats>::default()).await?;
        let mut config =
            client::client_config(connection, "journal", OWN_CONSUMER_PROPERTIES).map_err(SourceError::Refused)?;
        config.set("group.id", group);
        config.set("enable.auto.commit", "false");
        config.set("enable.partition.eof", "true");
        config.set("auto.offset.reset", "error");
        config.set("allow.auto.create.topics", "false");
        config.set("fetch.queue.backoff.ms", "10");
        let consumer = config
            .create_with_context(ClientVoice::default())
            .map_err(|error| SourceError::Refused(format!("kafka: {error}")))?;
        let scanner = Scanner { consumer, topic: topic.to_owned() };
        Ok(Self { writer, scanner: Arc::new(Mutex::new(scanner)), end: Mutex::default(), problem: Mutex::default() })
    }

    /// A place at or before what is written from now on.
    async fn mark(&self) -> Mark {
        let known = *lock(&self.end);
        if let Some((seen_at, end)) = known
            && seen_at.elapsed() < END_AGE_MAX
        {
            return Mark(end);
        }
        let scanner = Arc::clone(&self.scanner);
        let looked = tokio::task::spawn_blocking(move || {
            // Somebody reads it: what is known is good enough.
            scanner.try_lock().ok().and_then(|scanner| scanner.extent().ok())
        });
        let end = looked.await.ok().flatten().map(|(_, end)| end);
        if let Some(end) = end {
            *lock(&self.end) = Some((Instant::now(), end));
        }
        Mark(end.or(known.map(|(_, end)| end)).unwrap_or(0))
    }
}

async fn ensure_topic(connection: &KafkaConnection, topic: &str) -> Result<(), SourceError> {
    let looked = look(connection, topic).await.map_err(|error| with_remedy(error, connection, topic))?;
    if let Found::Yes(partitions) = looked {
        return check(connection, topic, partitions).await;
    }
    let spec = TopicSpec::new(topic, 1)
        .with("cleanup.policy", "delete")
        .with("retention.ms", "-1")
        .with("retention.bytes", "-1");
    let made = admin::create_topics(connection, &[spec]).await;
    made.map_err(|error| with_remedy(error, connection, topic))?;
    tracing::info!(topic, "the pipeline's journal was made");
    let since = Instant::now();
    loop {
        match look(connection, topic).await? {
            Found::Yes(partitions) => return check(connection, topic, partitions).await,
            Found::No if since.elapsed() > TIMEOUT => {
                return Err(SourceError::Unreachable {
                    system: format!("Kafka at {}", connection.brokers),
                    message: format!("topic {topic:?} was made, and is not seen"),
                });
            }
            Found::No => tokio::time::sleep(Duration::from_millis(100)).await,
        }
    }
}

/// A journal that may not be seen or made: how it is made by hand, and what else there is.
fn with_remedy(error: SourceError, connection: &KafkaConnection, topic: &str) -> SourceError {
    match error {
        SourceError::Refused(message) | SourceError::Forbidden { message, .. } => SourceError::Refused(format!(
            "the pipeline's journal, which replays need, could not be made: {message}. Make it by hand: `{}`, and let the              user read and write it; or give the user the right to make it; name another topic as `journal: {{ kafka: {{              topic: … }} }}`; or do without: `journal: off`",
            journal_command(&connection.brokers, topic)
        )),
        other => other,
    }
}

/// What is wrong with the topic of a journal, where it is there; where it is absent it will be made.
pub(super) async fn fault(connection: &KafkaConnection, topic: &str) -> Option<SourceError> {
    let found = match look(connection, topic).await {
        Ok(Found::Yes(partitions)) => check(connection, topic, partitions).await,
        Ok(Found::No) => Ok(()),
        Err(error) => Err(with_remedy(error, connection, topic)),
    };
    // Whoever does not answer is named elsewhere, and waited for.
    found.err().filter(|error| !matches!(error, SourceError::Unreachable { .. }))
}

enum Found {
    Yes(usize),
    No,
}

async fn look(connection: &KafkaConnection, topic: &str) -> Result<Found, SourceError> {
    let (probed, name) = (connection.clone(), topic.to_owned());
    let looked = tokio::task::spawn_blocking(move || Probe::new(&probed, TIMEOUT)?.find(&name)).await;
    Ok(looked.map_err(|error| SourceError::Broken(error.to_string()))??.map_or(Found::No, Found::Yes))
}

/// Whether a topic that is there can be a journal.
async fn check(connection: &KafkaConnection, topic: &str, partitions: usize) -> Result<(), SourceError> {
    if partitions != 1 {
        return Err(SourceError::Refused(format!(
            "topic {topic:?} has {partitions} partitions, and a journal has one: name another topic as `journal: {{ kafka: \
             {{ topic: … }} }}`, which is made by itself"
        )));
    }
    // Where the brokers do not tell, nobody can.
    let Some(settings) = admin::topic_settings(connection, topic).await? else { return Ok(()) };
    if settings.get("cleanup.policy").is_some_and(|policy| policy.contains("compact")) {
        return Err(SourceError::Refused(format!(
            "topic {topic:?} is compacted, and a journal must keep every entry: `kafka-configs.sh --bootstrap-server {} \
             --alter --entity-type topics --entity-name {topic} --add-config cleanup.policy=delete,retention.ms=-1`",
            connection.brokers
        )));
    }
    let retention_ms = settings.get("retention.ms").and_then(|text| text.parse::<i64>().ok());
    if let Some(days) = retention_ms.filter(|ms| (0..RETENTION_WARN_MS).contains(ms)).map(|ms| ms / 86_400_000) {
        tracing::warn!(
            topic,
            days,
            "the journal forgets after so many days: replays reach no further; retention.ms=-1"
        );
    }
    Ok(())
}

/// Reads the topic from a place to its end.
struct Scanner {
    consumer: BaseConsumer<ClientVoice>,
    topic: String,
}

impl Scanner {
    fn extent(&self) -> Result<(i64, i64), String> {
        self.consumer.fetch_watermarks(&self.topic, 0, TIMEOUT).map_err(|error| self.failed(&error))
    }

    /// The entries of a partition from a place on, and where the journal ends.
    fn read(&self, of: &TopicPartition, from: Option<Mark>) -> Result<(Pages, i64), String> {
        let (low, high) = self.extent()?;
        // A place beyond the end is one of a journal that was made anew since.
        let from = from.map(|mark| mark.0).filter(|from| (low..=high).contains(from)).unwrap_or(low);
        let mut pages = Pages::default();
        if from < high {
            let mut list = TopicPartitionList::new();
            list.add_partition_offset(&self.topic, 0, ListOffset::Offset(from))
                .and_then(|()| self.consumer.assign(&list))
                .map_err(|error| self.failed(&error))?;
            let read = self.until(high, &key(of), &mut pages);
            self.consumer.unassign().map_err(|error| self.failed(&error))?;
            read?;
        }
        Ok((pages, high))
    }

    fn until(&self, high: i64, key: &str, pages: &mut Pages) -> Result<(), String> {
        let mut heard_at = Instant::now();
        loop {
            match self.consumer.poll(Duration::from_millis(100)) {
                Some(Ok(message)) => {
                    heard_at = Instant::now();
                    // Most are about other partitions.
                    if message.key().is_none_or(|found| found == key.as_bytes()) {
                        match Entry::parse(message.payload().unwrap_or_default()) {
                            Ok(entry) => pages.entries.push(entry),
                            Err(reason) => {
                                pages.unreadable.push(format!("{}/0/{}: {reason}", self.topic, message.offset()));
                            }
                        }
                    }
                    if message.offset() + 1 >= high {
                        return Ok(());
                    }
                }
                Some(Err(KafkaError::PartitionEOF(_))) => return Ok(()),
                Some(Err(error)) if error.rdkafka_error_code().is_some_and(client::is_authorisation) => {
                    return Err(self.failed(&error));
                }
                Some(Err(error)) => tracing::debug!(%error, "the journal cannot be read at the moment"),
                None => {}
            }
            if heard_at.elapsed() > SILENCE_MAX {
                return Err(format!("nothing came from {} for {} s", self.topic, SILENCE_MAX.as_secs()));
            }
        }
    }

    fn failed(&self, error: &KafkaError) -> String {
        let last = self.consumer.context().last().map(|last| format!(" ({})", last.text)).unwrap_or_default();
        format!("topic {}: {error}{last}", self.topic)
    }
}

/// The key of a partition's entries.
fn key(partition: &TopicPartition) -> String {
    partition.to_string()
}

/// Entries on their way out.
struct Lines(Vec<(String, String)>);

impl Rows for Lines {
    fn len(&self) -> usize {
        self.0.len()
    }

    fn bytes(&self) -> usize {
        self.0.iter().map(|(key, line)| key.len() + line.len()).sum()
    }

    fn record(&self, row: usize) -> Result<Outgoing<'_>, Refusal> {
        let line = self.0.get(row);
        Ok(Outgoing {
            partition: None,
            key: line.map(|(key, _)| key.as_bytes()),
            value: line.map(|(_, line)| line.as_bytes()),
            headers: OwnedHeaders::new(),
            timestamp_ms: None,
        })
    }
}

#[async_trait]
impl Journal for KafkaJournal {
    async fn append(&self, entries: Vec<Entry>) -> Mark {
        let mark = self.mark().await;
        let line = |entry: &Entry| (key(&TopicPartition::new(&entry.topic, entry.partition)), entry.encode());
        let lines = Arc::new(Lines(entries.iter().map(line).collect()));
        loop {
            match self.writer.write(Arc::clone(&lines) as Arc<dyn Rows>).await.await {
                Ok(refused) if refused.is_empty() => {
                    *lock(&self.problem) = None;
                    return mark;
                }
                // All of them again: an entry that stands twice says nothing new.
                Ok(refused) => {
                    let why = refused.first().map(|(_, refusal)| refusal.message.clone()).unwrap_or_default();
                    tracing::error!(why, "the journal refuses an entry; it is tried on");
                    *lock(&self.problem) = Some(format!("the journal refuses an entry: {why}"));
                    tokio::time::sleep(AGAIN_AFTER).await;
                }
                // The writer is gone, and nobody knows what was written: this is never success.
                Err(_) => std::future::pending().await,
            }
        }
    }

    async fn read(&self, partition: &TopicPartition, from: Option<Mark>) -> Result<Pages, JournalError> {
        let (scanner, of) = (Arc::clone(&self.scanner), partition.clone());
        let read = tokio::task::spawn_blocking(move || lock(&scanner).read(&of, from)).await;
        match read.unwrap_or_else(|error| Err(error.to_string())) {
            Ok((pages, end)) => {
                *lock(&self.end) = Some((Instant::now(), end));
                *lock(&self.problem) = None;
                Ok(pages)
            }
            Err(message) => {
                *lock(&self.problem) = Some(message.clone());
                Err(JournalError(message))
            }
        }
    }

    fn blocked(&self) -> Option<String> {
        lock(&self.problem).clone().or_else(|| self.writer.blocked())
    }
}
