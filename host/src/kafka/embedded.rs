//! The broker inside the binary, for `pelton demo`: librdkafka's mock cluster.
//!
//! In: topics by name. Out: a bootstrap address on loopback that any Kafka client can use. Groups, commits, watermarks
//! and idempotent writes work. It keeps everything in memory, drops a partition's oldest data in silence past 5 MiB or
//! 100,000 batches, knows no transactions, no compaction and no topic ids: whoever writes must never be that far ahead
//! of the readers. Never used by `pelton run`.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Mutex, PoisonError, mpsc};
use std::thread;

use rdkafka::mocking::MockCluster;

use crate::config::{KafkaConnection, Secret};

/// What a partition of the embedded broker holds before it drops its oldest records, bytes.
pub const EMBEDDED_PARTITION_BYTES_MAX: usize = 5 << 20;

/// How long a fetch waits for records, milliseconds. The embedded broker answers a waiting fetch only when its time is
/// over, whatever has come meanwhile: this, and not the client's half second, is what a record waits for its reader.
const FETCH_WAIT_MS: &str = "10";

/// The addresses of the embedded brokers that live in this process.
static LIVE: Mutex<BTreeSet<String>> = Mutex::new(BTreeSet::new());

/// Whether an embedded broker listens there. It leaves admin requests (settings of topics, their ids) unanswered:
/// nobody should wait for them.
pub fn is_embedded(brokers: &str) -> bool {
    LIVE.lock().unwrap_or_else(PoisonError::into_inner).contains(brokers)
}

/// A broker in this process. Gone with all its records when it is dropped.
pub struct EmbeddedBroker {
    connection: KafkaConnection,
    commands: Option<mpsc::Sender<Command>>,
    thread: Option<thread::JoinHandle<()>>,
}

/// A topic to make, and where to say what became of it.
struct Command {
    topic: String,
    partitions: i32,
    done: mpsc::Sender<Result<(), EmbeddedError>>,
}

/// The embedded broker does not start, or does not make a topic.
#[derive(Debug, Clone, thiserror::Error)]
#[error("the embedded broker failed: {0}")]
pub struct EmbeddedError(String);

impl EmbeddedBroker {
    /// Starts a broker with these topics and partition counts.
    ///
    /// # Errors
    /// Where no port on loopback can be had, or a topic cannot be made.
    pub fn start(topics: &[(&str, i32)]) -> Result<Self, EmbeddedError> {
        let (commands, received) = mpsc::channel::<Command>();
        let (started, address) = mpsc::channel();
        // The cluster belongs to the thread that made it.
        let thread = thread::Builder::new()
            .name("embedded-broker".to_owned())
            .spawn(move || serve(&started, &received))
            .map_err(|error| EmbeddedError(error.to_string()))?;
        let gone = |_| EmbeddedError("it ended before it began".to_owned());
        let brokers = address.recv().map_err(gone)??;
        LIVE.lock().unwrap_or_else(PoisonError::into_inner).insert(brokers.clone());
        let properties = BTreeMap::from([("fetch.wait.max.ms".to_owned(), Secret::new(FETCH_WAIT_MS))]);
        let broker = Self {
            connection: KafkaConnection { brokers, properties },
            commands: Some(commands),
            thread: Some(thread),
        };
        for (topic, partitions) in topics {
            broker.create_topic(topic, *partitions)?;
        }
        Ok(broker)
    }

    /// Makes a topic.
    ///
    /// # Errors
    /// Where the broker refuses: it exists already, or the name is no topic name.
    pub fn create_topic(&self, topic: &str, partitions: i32) -> Result<(), EmbeddedError> {
        let (done, answer) = mpsc::channel();
        let command = Command { topic: topic.to_owned(), partitions, done };
        let gone = || EmbeddedError("it has ended".to_owned());
        self.commands.as_ref().ok_or_else(gone)?.send(command).map_err(|_| gone())?;
        answer.recv().map_err(|_| gone())?
    }

    /// How to reach it.
    #[must_use]
    pub fn connection(&self) -> KafkaConnection {
        self.connection.clone()
    }

    /// Its address, as `bootstrap.servers` takes it.
    #[must_use]
    pub fn bootstrap_servers(&self) -> &str {
        &self.connection.brokers
    }
}

impl Drop for EmbeddedBroker {
    fn drop(&mut self) {
        LIVE.lock().unwrap_or_else(PoisonError::into_inner).remove(&self.connection.brokers);
        drop(self.commands.take());
        if let Some(thread) = self.thread.take() {
            thread.join().ok();
        }
    }
}

/// Keeps the cluster alive until nobody can send commands any more.
fn serve(started: &mpsc::Sender<Result<String, EmbeddedError>>, commands: &mpsc::Receiver<Command>) {
    let cluster = match MockCluster::new(1) {
        Ok(cluster) => cluster,
        Err(error) => {
            started.send(Err(EmbeddedError(error.to_string()))).ok();
            return;
        }
    };
    started.send(Ok(cluster.bootstrap_servers())).ok();
    while let Ok(Command { topic, partitions, done }) = commands.recv() {
        let made = cluster.create_topic(&topic, partitions, 1);
        done.send(made.map_err(|error| EmbeddedError(format!("topic {topic:?}: {error}")))).ok();
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::time::Duration;

    use tokio::sync::mpsc;

    use super::*;
    use crate::config::{KafkaOutput, SourceSettings};
    use crate::kafka::{KafkaSink, KafkaSource, SourceOptions};
    use crate::pipeline::{Assignment, BatchLimits, Position, Sink, Source, SourceEvent};
    use crate::record::{Column, Offset, RowMeta, RowOp, SinkBatch, TopicPartition, WriteTime};

    impl EmbeddedBroker {
        /// The only member of a group that reads a topic from its beginning, and what it was assigned.
        pub(in crate::kafka) async fn member(
            &self,
            topic: &str,
            options: SourceOptions,
        ) -> (Arc<KafkaSource>, Vec<Assignment>, mpsc::Receiver<SourceEvent>) {
            let settings = SourceSettings::from_beginning(&[topic], topic);
            let source = Arc::new(KafkaSource::new(&self.connection(), &settings, options));
            let (events, mut received) = mpsc::channel(8);
            source.open(events).await.expect("it opens");
            let event = tokio::time::timeout(Duration::from_secs(30), received.recv()).await.expect("it joins");
            let Some(SourceEvent::Assigned(assignments)) = event else { panic!("assigned first") };
            (source, assignments, received)
        }
    }

    /// One row a number, keyed by it.
    fn rows(count: i64) -> SinkBatch {
        let (mut keys, mut values, mut headers) = (Column::default(), Column::default(), Column::default());
        let metas = (0..count).map(|number| {
            keys.push(Some(number.to_string().as_bytes()));
            values.push(Some(b"value"));
            headers.push(Some(b""));
            RowMeta {
                origin: number as u32,
                offset: Offset(number),
                timestamp_ms: 1_700_000_000_000,
                write_time: WriteTime(0),
                index: 0,
                op: RowOp::Upsert,
            }
        });
        let rows = metas.collect();
        SinkBatch {
            source: TopicPartition::new("in", 0),
            generation: 1,
            rows,
            keys,
            values,
            headers,
            cells: Vec::new(),
        }
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn what_the_sink_writes_the_source_reads_and_commits() {
        let broker = EmbeddedBroker::start(&[("demo", 1)]).expect("it starts");
        assert!(broker.create_topic("demo", 1).is_err(), "a topic is made once");
        let properties = std::collections::BTreeMap::new();
        let output = KafkaOutput { topic: "demo".to_owned(), partitioner: String::new(), properties };
        let sink = KafkaSink::open(&broker.connection(), &output).await.expect("it opens");
        let written = sink.write(rows(100)).await.await;
        assert!(written.failures.is_empty());

        let (source, mut assignments, _events) = broker.member("demo", SourceOptions::default()).await;
        let mut assignment = assignments.remove(0);
        assert_eq!((assignment.start, assignment.end_at_start, assignment.topic_id), (Offset(0), Offset(100), None));
        assignment.committer.commit(Position { next: Offset(0), metadata: "begun".to_owned() });
        let limits = BatchLimits { records: 60, bytes: 1 << 20, linger: Duration::from_millis(5) };
        let mut offsets = Vec::new();
        while offsets.len() < 100 {
            let next = tokio::time::timeout(Duration::from_secs(30), assignment.reader.next_batch(limits));
            let batch = next.await.expect("records come").expect("they can be read");
            assert!(batch.len() <= 60);
            offsets.extend(batch.offsets);
        }
        assert_eq!(offsets, (0..100).collect::<Vec<_>>());
        assignment.committer.commit(Position { next: Offset(100), metadata: "{}".to_owned() });
        drop(assignment.reader);
        assert!(source.close(tokio::time::Instant::now() + Duration::from_secs(30)).await, "all is committed");
        assert_eq!(source.stats().commits.get(), 2);
    }
}
