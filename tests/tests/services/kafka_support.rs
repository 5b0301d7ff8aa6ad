//! A topic of its own for each test, a producer that shares no code with the product, and a supervisor of a few lines
//! that reads, commits and writes down what it saw.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use pelton::config::{KafkaConnection, Secret, SourceSettings};
use pelton::kafka::{KafkaSource, SourceOptions, SourceStats, TopicSpec, create_topics, delete_topics};
use pelton::pipeline::{Assignment, BatchLimits, Position, Source, SourceError, SourceEvent};
use pelton::record::{Batch, Offset, TopicPartition};
use rdkafka::ClientConfig;
use rdkafka::producer::{FutureProducer, FutureRecord};
use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::JoinHandle;
use tokio::time::Instant;

/// Where the broker is.
pub(crate) fn brokers() -> String {
    let var = |name: &str, default: &str| std::env::var(name).unwrap_or_else(|_| default.to_owned());
    format!("{}:{}", var("PELTON_KAFKA_HOST", "127.0.0.1"), var("PELTON_KAFKA_PORT", "9092"))
}

/// A connection whose group members are given up after a few seconds.
pub(crate) fn connection() -> KafkaConnection {
    let properties = [("session.timeout.ms", "6000"), ("heartbeat.interval.ms", "500")];
    KafkaConnection {
        brokers: brokers(),
        properties: properties.iter().map(|(name, value)| ((*name).to_owned(), Secret::new(*value))).collect(),
    }
}

/// A topic that is deleted when the test ends, however it ends, and with it the journal of a group of its name.
pub(crate) struct Topic {
    pub(crate) name: String,
}

impl Topic {
    pub(crate) async fn new(about: &str, partitions: i32) -> Self {
        Self::with(about, partitions, &[]).await
    }

    pub(crate) async fn with(about: &str, partitions: i32, settings: &[(&str, &str)]) -> Self {
        let name = format!("test-{about}-{}", uuid::Uuid::new_v4().simple());
        let topic = Self { name };
        topic.create(partitions, settings).await;
        topic
    }

    /// Made so that the broker deletes nothing of it, whatever its records' timestamps, unless `settings` say otherwise.
    pub(crate) async fn create(&self, partitions: i32, settings: &[(&str, &str)]) {
        const RETENTION: (&str, &str) = ("retention.ms", "-1");
        let kept = (!settings.iter().any(|(name, _)| *name == RETENTION.0)).then_some(&RETENTION);
        let spec = TopicSpec::new(&self.name, partitions);
        let spec = kept.into_iter().chain(settings).fold(spec, |spec, (name, value)| spec.with(name, *value));
        create_topics(&connection(), &[spec]).await.expect("a real Kafka answers: `make services` starts one");
        let probe: rdkafka::consumer::BaseConsumer =
            ClientConfig::new().set("bootstrap.servers", brokers()).create().unwrap();
        wait_for("the topic has leaders", Duration::from_secs(30), || {
            use rdkafka::consumer::Consumer;
            let metadata = probe.fetch_metadata(Some(&self.name), Duration::from_secs(5)).ok()?;
            let topic = metadata.topics().first()?;
            let led = topic.partitions().iter().filter(|partition| partition.leader() >= 0).count();
            (led == partitions as usize).then_some(())
        })
        .await;
    }

    pub(crate) async fn delete(&self) {
        delete_topics(&connection(), &[&self.name, &self.journal()]).await.unwrap();
    }

    /// Deletes it, and makes another of its name. The journal stays, as it does with an operator.
    pub(crate) async fn make_anew(&self, partitions: i32) {
        delete_topics(&connection(), &[&self.name]).await.unwrap();
        self.create(partitions, &[]).await;
    }

    fn journal(&self) -> String {
        format!("{}.pelton-journal", self.name)
    }

    /// Writes `count` records `"{from + i}"` to a partition, keyed by their number.
    pub(crate) async fn fill(&self, partition: i32, from: usize, count: usize) {
        let producer = producer();
        let sent: Vec<_> = (from..from + count)
            .map(|number| {
                let (key, value) = (format!("k{number}"), number.to_string());
                let record = FutureRecord::to(&self.name).partition(partition).key(&key).payload(&value);
                producer.send_result(record).map_err(|(error, _)| error).unwrap()
            })
            .collect();
        for delivery in sent {
            delivery.await.unwrap().map_err(|(error, _)| error).unwrap();
        }
    }
}

impl Drop for Topic {
    fn drop(&mut self) {
        let (name, journal) = (self.name.clone(), self.journal());
        // A runtime of its own: the test's may be ending.
        let deleted = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(delete_topics(&connection(), &[&name, &journal])).ok();
        });
        deleted.join().ok();
    }
}

pub(crate) fn producer() -> FutureProducer {
    ClientConfig::new()
        .set("bootstrap.servers", brokers())
        .set("queue.buffering.max.messages", "1000000")
        .set("message.max.bytes", "20000000")
        .set("linger.ms", "5")
        .create()
        .unwrap()
}

pub(crate) fn settings(topics: &[&str], group: &str) -> SourceSettings {
    SourceSettings::from_beginning(topics, group)
}

pub(crate) fn options() -> SourceOptions {
    SourceOptions {
        drain: Duration::from_secs(10),
        topic_check: Duration::from_millis(500),
        ..SourceOptions::default()
    }
}

pub(crate) const LIMITS: BatchLimits = BatchLimits { records: 500, bytes: 1 << 20, linger: Duration::from_millis(5) };

/// Waits for a condition, with a limit.
pub(crate) async fn wait_for<T>(what: &str, limit: Duration, mut look: impl FnMut() -> Option<T>) -> T {
    let began = Instant::now();
    loop {
        if let Some(found) = look() {
            return found;
        }
        assert!(began.elapsed() < limit, "not in time: {what}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// What one assignment of a partition gave.
#[derive(Debug, Clone, Default)]
pub(crate) struct Stretch {
    pub(crate) member: String,
    pub(crate) start: i64,
    pub(crate) metadata: Option<String>,
    pub(crate) sibling_metadata: Vec<String>,
    pub(crate) topic_id: Option<String>,
    pub(crate) offsets: Vec<i64>,
    pub(crate) values: Vec<String>,
}

/// What all members saw: for each partition its assignments, in the order in which they came.
pub(crate) type Seen = Arc<Mutex<BTreeMap<TopicPartition, Vec<Stretch>>>>;

pub(crate) fn values_seen(seen: &Seen) -> Vec<String> {
    let seen = seen.lock().unwrap();
    seen.values().flatten().flat_map(|stretch| stretch.values.clone()).collect()
}

/// One running member.
pub(crate) struct Member {
    pub(crate) source: Arc<KafkaSource>,
    pub(crate) stats: Arc<SourceStats>,
    pub(crate) failures: Arc<Mutex<Vec<SourceError>>>,
    stop: Option<oneshot::Sender<Leave>>,
    supervisor: JoinHandle<()>,
}

enum Leave {
    Close,
    Vanish,
}

impl Member {
    /// Joins, reads, and commits after each batch, with `"<partition>:<next>"` as metadata in JSON.
    pub(crate) async fn join(name: &str, settings: &SourceSettings, options: SourceOptions, seen: &Seen) -> Self {
        // `RUST_LOG=pelton=info` shows what the source says.
        tracing_subscriber::fmt().with_env_filter(tracing_subscriber::EnvFilter::from_default_env()).try_init().ok();
        let source = Arc::new(KafkaSource::new(&connection(), settings, options));
        let stats = source.stats();
        let (events, received) = mpsc::channel(16);
        source.open(events).await.unwrap();
        let failures = Arc::<Mutex<Vec<SourceError>>>::default();
        let (stop, stopped) = oneshot::channel();
        let supervisor = tokio::spawn(supervise(
            name.to_owned(),
            Arc::clone(&source),
            received,
            stopped,
            (Arc::clone(seen), Arc::clone(&failures)),
        ));
        Self { source, stats, failures, stop: Some(stop), supervisor }
    }

    /// Drains, commits, leaves.
    pub(crate) async fn leave(mut self) {
        self.stop.take().unwrap().send(Leave::Close).ok();
        self.supervisor.await.unwrap();
    }

    /// Goes without a last commit, as after a crash.
    pub(crate) async fn vanish(mut self) {
        self.stop.take().unwrap().send(Leave::Vanish).ok();
        self.supervisor.await.unwrap();
    }

    pub(crate) fn failures(&self) -> Vec<SourceError> {
        self.failures.lock().unwrap().clone()
    }
}

type Tasks = BTreeMap<TopicPartition, (watch::Sender<bool>, JoinHandle<()>)>;

async fn supervise(
    name: String,
    source: Arc<KafkaSource>,
    mut events: mpsc::Receiver<SourceEvent>,
    mut stopped: oneshot::Receiver<Leave>,
    (seen, failures): (Seen, Arc<Mutex<Vec<SourceError>>>),
) {
    let mut tasks = Tasks::new();
    let leave = loop {
        tokio::select! {
            leave = &mut stopped => break leave.unwrap_or(Leave::Vanish),
            event = events.recv() => match event {
                None => panic!("the source let go of its events"),
                Some(SourceEvent::Failed(error)) => failures.lock().unwrap().push(error),
                Some(SourceEvent::Assigned(assignments)) => {
                    for assignment in assignments {
                        let (stop, stopping) = watch::channel(false);
                        let partition = assignment.partition.clone();
                        let task = tokio::spawn(read(name.clone(), assignment, stopping, Arc::clone(&seen)));
                        assert!(tasks.insert(partition, (stop, task)).is_none(), "assigned twice without a revocation");
                    }
                }
                Some(SourceEvent::Revoked { partitions, done, .. }) => {
                    for partition in partitions {
                        let (stop, task) = tasks.remove(&partition).expect("only what was assigned is revoked");
                        stop.send(true).ok();
                        task.await.unwrap();
                    }
                    done.send(()).ok();
                }
            }
        }
    };
    for (stop, task) in tasks.into_values() {
        stop.send(true).ok();
        task.await.unwrap();
    }
    match leave {
        Leave::Close => assert!(source.close(Instant::now() + Duration::from_secs(60)).await, "all is committed"),
        Leave::Vanish => drop(source),
    }
}

async fn read(member: String, mut assignment: Assignment, mut stop: watch::Receiver<bool>, seen: Seen) {
    let partition = assignment.partition.clone();
    let index = {
        let mut seen = seen.lock().unwrap();
        let stretches = seen.entry(partition.clone()).or_default();
        stretches.push(Stretch {
            member,
            start: assignment.start.0,
            metadata: assignment.metadata.clone(),
            sibling_metadata: assignment.sibling_metadata.clone(),
            topic_id: assignment.topic_id.clone(),
            ..Stretch::default()
        });
        stretches.len() - 1
    };
    let begins =
        Position { next: assignment.start, metadata: metadata(assignment.start, assignment.topic_id.as_deref()) };
    assignment.committer.commit(begins);
    loop {
        let batch: Batch = tokio::select! {
            biased;
            _ = stop.wait_for(|stop| *stop) => return,
            batch = assignment.reader.next_batch(LIMITS) => match batch {
                Ok(batch) => batch,
                Err(error) => panic!("{partition}: {error}"),
            },
        };
        let next = Offset(batch.offsets.last().unwrap() + 1);
        {
            let mut seen = seen.lock().unwrap();
            let stretch = &mut seen.get_mut(&partition).unwrap()[index];
            stretch.offsets.extend_from_slice(&batch.offsets);
            for row in 0..batch.len() {
                stretch.values.push(String::from_utf8_lossy(batch.values.get(row).unwrap_or(b"null")).into_owned());
            }
        }
        assignment.committer.commit(Position { next, metadata: metadata(next, assignment.topic_id.as_deref()) });
    }
}

/// Commit metadata as a pipeline writes them.
pub(crate) fn metadata(next: Offset, topic_id: Option<&str>) -> String {
    let mut checkpoint = pelton::pipeline::checkpoint::Checkpoint::new(next.0 * 10, Vec::new(), "test".to_owned());
    checkpoint.topic_id = topic_id.map(str::to_owned);
    checkpoint.encode()
}
