//! A pipeline's membership in the group that reads its topics.
//!
//! In: the connection, the topics, the group. Out: events with partitions and their readers. Opens and closes; what
//! happens in between stands in `consumer`.

use std::collections::HashMap;
use std::sync::atomic::AtomicU64;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use rdkafka::ClientConfig;
use rdkafka::consumer::{BaseConsumer, Consumer};
use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::{Instant, timeout_at};

use super::admin::{Probe, topic_settings};
use super::client::{self, OWN_CONSUMER_PROPERTIES};
use super::consumer::{Context, Phase, Seek, Settings};
use super::embedded::is_embedded;
use super::membership::{self, Left};
use super::memory::Budget;
use super::sink::MESSAGE_BYTES_DEFAULT;
use super::slot::lock;
use super::start::Known;
use super::stats::SourceStats;
use crate::config::{KafkaConnection, SourceSettings};
use crate::pipeline::{Position, Source, SourceError, SourceEvent};
use crate::record::{Offset, TopicPartition};

/// The client's own `session.timeout.ms`.
const SESSION_MS_DEFAULT: u64 = 45_000;

/// How a source uses the machine.
#[derive(Debug, Clone, Copy)]
pub struct SourceOptions {
    /// This source's share of the process's memory budget.
    pub memory_bytes: usize,
    /// How many outputs a record may leave by: each has a copy of it while it is under way.
    pub outputs: usize,
    /// How long a task may take to end when its partition goes.
    pub drain: Duration,
    /// How long to wait for the brokers when opening.
    pub open_timeout: Duration,
    /// How often the topics' ids are compared: a topic that vanishes and returns is noticed within this time.
    pub topic_check: Duration,
}

impl Default for SourceOptions {
    fn default() -> Self {
        Self {
            memory_bytes: 256 << 20,
            outputs: 1,
            drain: Duration::from_secs(30),
            open_timeout: Duration::from_secs(10),
            topic_check: Duration::from_secs(30),
        }
    }
}

/// Topics read as one member of a consumer group.
pub struct KafkaSource {
    inner: Arc<Inner>,
}

struct Inner {
    connection: KafkaConnection,
    topics: Vec<String>,
    settings: Settings,
    options: SourceOptions,
    stats: Arc<SourceStats>,
    known: Arc<Mutex<HashMap<TopicPartition, Known>>>,
    generation: Arc<AtomicU64>,
    member: Mutex<Option<Member>>,
}

/// An open membership.
#[derive(Clone)]
struct Member {
    context: Arc<Context>,
    left: watch::Receiver<Left>,
}

impl KafkaSource {
    /// A source that is not open yet.
    #[must_use]
    pub fn new(connection: &KafkaConnection, settings: &SourceSettings, options: SourceOptions) -> Self {
        let stats = Arc::new(SourceStats::default());
        // From the first look on, the operator sees that nothing is lost.
        settings.topics.iter().for_each(|topic| stats.lost(topic, 0));
        let inner = Inner {
            connection: connection.clone(),
            topics: settings.topics.clone(),
            settings: Settings {
                brokers: connection.brokers.clone(),
                group: settings.group.clone(),
                start: settings.start,
                on_lost: settings.on_lost,
                drain: options.drain,
                topic_check: options.topic_check,
            },
            options,
            stats,
            known: Arc::default(),
            generation: Arc::default(),
            member: Mutex::new(None),
        };
        Self { inner: Arc::new(inner) }
    }

    /// What this source counts.
    #[must_use]
    pub fn stats(&self) -> Arc<SourceStats> {
        Arc::clone(&self.inner.stats)
    }
}

impl Inner {
    fn config(&self, partitions: usize) -> Result<ClientConfig, SourceError> {
        let mut config =
            client::client_config(&self.connection, "source", OWN_CONSUMER_PROPERTIES).map_err(SourceError::Refused)?;
        for (name, value) in fetch_limits(self.options.memory_bytes, partitions) {
            if !self.connection.properties.contains_key(name) {
                config.set(name, value);
            }
        }
        config.set("group.id", &self.settings.group);
        // The poll thread stands still while revoked tasks drain: the group must not take that for a hang.
        let drain_ms = self.options.drain.as_millis() as u64;
        config.set("max.poll.interval.ms", (drain_ms + 180_000).max(300_000).to_string());
        config.set("enable.auto.commit", "false");
        config.set("enable.auto.offset.store", "false");
        config.set("enable.partition.eof", "true");
        config.set("auto.offset.reset", "error");
        config.set("partition.assignment.strategy", "cooperative-sticky");
        config.set("allow.auto.create.topics", "false");
        config.set("isolation.level", "read_committed");
        Ok(config)
    }

    /// Looks whether the topics are there; answers how many partitions they have.
    fn look_up_topics(&self) -> Result<usize, SourceError> {
        let probe = Probe::new(&self.connection, self.options.open_timeout)?;
        let mut partitions = 0;
        for topic in &self.topics {
            partitions += probe.partitions(topic)?;
        }
        Ok(partitions)
    }

    /// The largest record that any of the topics takes; Kafka's default where the broker does not tell.
    fn record_bytes_max(&self) -> usize {
        let runtime = tokio::runtime::Handle::current();
        let takes = |topic: &String| -> usize {
            let settings = runtime.block_on(topic_settings(&self.connection, topic)).ok().flatten();
            let told = settings.and_then(|settings| settings.get("max.message.bytes")?.parse().ok());
            if told.is_none() && !is_embedded(&self.connection.brokers) {
                tracing::warn!(
                    topic,
                    assumed_bytes = MESSAGE_BYTES_DEFAULT,
                    "the broker does not tell how large the topic's records may be (it asks for the right \
                     DESCRIBE_CONFIGS on the topic): Kafka's default is assumed. Where it takes larger ones, the memory \
                     that they need is reckoned with only once one has come, and `memory` may be passed before"
                );
            }
            told.unwrap_or(MESSAGE_BYTES_DEFAULT)
        };
        self.topics.iter().map(takes).max().unwrap_or(0)
    }

    fn join(&self, events: mpsc::Sender<SourceEvent>) -> Result<(), SourceError> {
        let partitions = self.look_up_topics()?;
        let budget = Budget::new(self.options.memory_bytes, self.options.outputs, partitions, self.record_bytes_max());
        if let Some(fetching) = budget.fetching_max() {
            tracing::info!(
                partitions,
                fetching,
                "the topics take records so large that not all partitions fit into the memory at once: they take turns"
            );
        }
        let context = Context::new(
            self.settings.clone(),
            events,
            Arc::clone(&self.stats),
            (Arc::clone(&self.known), Arc::clone(&self.generation)),
            budget,
        );
        let refused = |error: rdkafka::error::KafkaError| SourceError::Refused(format!("kafka: {error}"));
        let consumer: BaseConsumer<Context> = self.config(partitions)?.create_with_context(context).map_err(refused)?;
        let topics: Vec<&str> = self.topics.iter().map(String::as_str).collect();
        consumer.subscribe(&topics).map_err(refused)?;
        let context = Arc::clone(consumer.context());
        let left = membership::spawn(Arc::new(consumer))
            .map_err(|error| SourceError::Broken(format!("no thread for the Kafka client: {error}")))?;
        *lock(&self.member) = Some(Member { context, left });
        Ok(())
    }
}

/// Settings that keep what the client holds within `memory_bytes`, for so many partitions: the queue limits hold for
/// each partition by itself, count payload only (the cost is about 2.4 times that), and a fetch may overshoot them.
fn fetch_limits(memory_bytes: usize, partitions: usize) -> Vec<(&'static str, String)> {
    const KIB: usize = 1024;
    let share_kib = memory_bytes / 5 / partitions.max(1) / KIB;
    let queued_kib = share_kib.clamp(64, 16 * KIB);
    let fetch_bytes = (share_kib * KIB).clamp(64 * KIB, 1024 * KIB);
    let response_bytes = (memory_bytes / 8).clamp(1024 * KIB, 16 * KIB * KIB);
    vec![
        ("queued.min.messages", "100000".to_owned()),
        ("queued.max.messages.kbytes", queued_kib.to_string()),
        ("max.partition.fetch.bytes", fetch_bytes.to_string()),
        ("message.max.bytes", "1000000".to_owned()),
        ("fetch.max.bytes", response_bytes.to_string()),
        // One record may be larger than any limit on a fetch.
        ("receive.message.max.bytes", "1073741824".to_owned()),
        // The default of a second throttles a fast reader three times.
        ("fetch.queue.backoff.ms", "10".to_owned()),
        ("fetch.error.backoff.ms", "200".to_owned()),
    ]
}

#[async_trait]
impl Source for KafkaSource {
    async fn open(&self, events: mpsc::Sender<SourceEvent>) -> Result<(), SourceError> {
        if lock(&self.inner.member).is_some() {
            return Err(SourceError::Broken("the source is open already".to_owned()));
        }
        // The client waits for answers on the calling thread.
        let inner = Arc::clone(&self.inner);
        let joined = tokio::task::spawn_blocking(move || inner.join(events)).await;
        joined.unwrap_or_else(|error| Err(SourceError::Broken(format!("opening the source failed: {error}"))))
    }

    async fn close(&self, deadline: Instant) -> bool {
        let Some(Member { context, mut left }) = lock(&self.inner.member).clone() else { return true };
        context.leave_by(deadline);
        match timeout_at(deadline, left.wait_for(|left| left.is_over)).await {
            Ok(Ok(_)) => {}
            Ok(Err(_)) => tracing::error!("the thread of the Kafka client failed while it left the group"),
            // The thread ends by itself when the client lets it; nobody waits for it any more.
            Err(_) => tracing::warn!("the group was not left in time; the brokers notice when the session ends"),
        }
        lock(&self.inner.member).take_if(|member| Arc::ptr_eq(&member.context, &context));
        left.borrow().is_committed
    }

    async fn seek(&self, to: Vec<(TopicPartition, Position)>) -> Result<(), SourceError> {
        let closed = || SourceError::Refused("the source is not open".to_owned());
        let context = lock(&self.inner.member).as_ref().map(|member| Arc::clone(&member.context)).ok_or_else(closed)?;
        let (done, moved) = oneshot::channel();
        {
            let mut wanted = lock(&context.seek);
            if wanted.is_some() {
                return Err(SourceError::Refused("partitions are being moved already".to_owned()));
            }
            *wanted = Some(Seek { to, done });
        }
        moved.await.unwrap_or_else(|_| Err(closed()))
    }

    fn ends(&self) -> Vec<(TopicPartition, Offset)> {
        lock(&self.inner.member).as_ref().map(|member| member.context.ends()).unwrap_or_default()
    }

    fn blocked(&self) -> Option<String> {
        lock(&self.inner.member).as_ref().and_then(|member| member.context.blocked())
    }

    /// A new member is let in when every other has joined anew, or its session has ended. One that was killed joins no
    /// more. (A fixed `group.instance.id` would let its successor in at once, but every daemon would need one of its own,
    /// told from outside: two with the same one throw each other out.)
    fn waits_for(&self) -> String {
        let session = self.inner.connection.properties.get("session.timeout.ms");
        let session_ms = session.and_then(|text| text.expose().parse().ok()).unwrap_or(SESSION_MS_DEFAULT);
        format!(
            "its consumer group {:?} to let it in: where a member was killed, that one's session must end first (up to {} \
             s); others finish what they have under way",
            self.inner.settings.group,
            session_ms.div_ceil(1000)
        )
    }
}

impl Drop for KafkaSource {
    /// A source that is dropped and not closed leaves without a last commit, as after a crash.
    fn drop(&mut self) {
        if let Some(member) = lock(&self.inner.member).take() {
            member.context.enter(Phase::Abandoned);
        }
    }
}

#[cfg(test)]
mod tests {
    use rdkafka::producer::{BaseProducer, BaseRecord, Producer as _};

    use super::super::embedded::EmbeddedBroker;
    use super::*;
    use crate::pipeline::BatchLimits;

    const LIMIT: Duration = Duration::from_secs(30);

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn leaving_ends_at_its_deadline_where_the_brokers_are_gone() {
        let broker = EmbeddedBroker::start(&[("gone", 1)]).expect("it starts");
        let (source, mut assignments, _events) = broker.member("gone", SourceOptions::default()).await;
        let assignment = assignments.remove(0);
        drop(broker);
        assignment.committer.commit(Position { next: Offset(0), metadata: "never accepted".to_owned() });
        drop(assignment);
        let deadline = Instant::now() + Duration::from_secs(1);
        let both = futures::future::join(source.close(deadline), source.close(deadline));
        let both = tokio::time::timeout(Duration::from_secs(20), both).await;
        assert_eq!(both, Ok((false, false)), "neither waits longer, and neither says that all is committed");
    }

    fn send(broker: &EmbeddedBroker, partition: i32, bytes: usize) {
        let mut config = ClientConfig::new();
        config.set("bootstrap.servers", broker.bootstrap_servers()).set("message.max.bytes", "5000000");
        let producer: BaseProducer = config.create().expect("a producer");
        let value = vec![b'x'; bytes];
        let record = BaseRecord::<str, [u8]>::to("large").partition(partition).payload(&value);
        producer.send(record).map_err(|(error, _)| error).expect("there is room");
        producer.flush(LIMIT).expect("it is delivered");
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn a_record_larger_than_was_told_makes_partitions_take_turns_and_all_are_read() {
        let broker = EmbeddedBroker::start(&[("large", 4)]).expect("it starts");
        let options = SourceOptions { memory_bytes: 16 << 20, ..SourceOptions::default() };
        let (source, mut assignments, _events) = broker.member("large", options).await;
        let fetching_max = || lock(&source.inner.member).as_ref().map(|member| member.context.budget.fetching_max());
        assert_eq!(fetching_max(), Some(None), "as the broker tells of its records");
        for (round, bytes) in [(0, 3 << 20), (1, 10)] {
            for assignment in &mut assignments {
                let partition = assignment.partition.partition;
                send(&broker, partition, if partition == 0 { bytes } else { 10 });
            }
            let reads = assignments.iter_mut().map(|assignment| async move {
                if round == 0 {
                    assignment.begin_as_it_stands();
                }
                let limits = BatchLimits { records: 1, bytes: 1 << 20, linger: Duration::ZERO };
                let read = tokio::time::timeout(LIMIT, assignment.reader.next_batch(limits)).await;
                let batch = read.expect("a record comes").expect("it can be read");
                assert_eq!(batch.offsets, [round]);
                assignment.committer.commit(Position { next: Offset(round + 1), metadata: String::new() });
            });
            futures::future::join_all(reads).await;
            assert_eq!(fetching_max(), Some(Some(1)), "one at a time from then on");
        }
    }
}
