//! Writing to a topic in order, until the broker has it.
//!
//! In: rows, accepted in order. Out: for each acceptance, which rows can never be written; all others are in the topic,
//! by the broker's own word. One task keeps the order: where a row was not delivered it lets everything that is under
//! way come to an end, then sends again, in order, what is missing. The client itself tries without end
//! (`message.timeout.ms` is 0), so what comes back here is what it cannot decide: permissions, a topic that is gone, a
//! producer that failed for good. A time-out is never a delivery.
//!
//! Where nobody waits for an answer any more, its rows are given up: what the client has not been given is not, and what
//! comes back undelivered is not sent again. What the client has it keeps in its order and will not part with; its room
//! (16 MiB at most, over all) comes back when the client has decided.

use std::sync::Arc;
use std::time::Duration;

use rdkafka::ClientConfig;
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::message::{Header, OwnedHeaders};
use rdkafka::producer::{BaseRecord, Producer, ThreadedProducer};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc, oneshot};
use tokio::time::{sleep, timeout};

use super::delivery::{Callbacks, Failed, Status, Tallies, Ticket};
use super::slot::lock;
use super::stats::SinkStats;

/// Bytes accepted and not answered, over all batches of one writer.
const IN_FLIGHT_BYTES: usize = 16 << 20;
/// The unit of the semaphore that counts them.
const PERMIT_BYTES: usize = 1024;
/// Waits between tries rise from the first to the second.
const BACKOFF: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(5));

/// Rows to write, kept until all are decided.
pub(super) trait Rows: Send + Sync + 'static {
    /// How many.
    fn len(&self) -> usize;

    /// Bytes, roughly.
    fn bytes(&self) -> usize;

    /// One row, or why it can never be written.
    fn record(&self, row: usize) -> Result<Outgoing<'_>, Refusal>;
}

/// A record on its way out.
pub(super) struct Outgoing<'r> {
    /// None: by its key, or any.
    pub(super) partition: Option<i32>,
    pub(super) key: Option<&'r [u8]>,
    pub(super) value: Option<&'r [u8]>,
    pub(super) headers: OwnedHeaders,
    pub(super) timestamp_ms: Option<i64>,
}

/// Why a row can never be written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Refusal {
    /// `sink.too_large`, `sink.refused`
    pub(super) code: &'static str,
    pub(super) message: String,
}

/// Appends a header.
pub(super) fn with_header(headers: OwnedHeaders, name: &str, value: Option<&[u8]>) -> OwnedHeaders {
    headers.insert(Header { key: name, value })
}

/// Rows that were refused, by row.
pub(super) type Refused = Vec<(usize, Refusal)>;

/// Writes to one topic.
pub(super) struct TopicWriter {
    jobs: mpsc::UnboundedSender<Job>,
    room: Arc<Semaphore>,
    status: Arc<Status>,
}

/// Rows that were accepted.
struct Job {
    rows: Arc<dyn Rows>,
    answer: oneshot::Sender<Refused>,
    room: OwnedSemaphorePermit,
}

impl TopicWriter {
    /// A writer of `topic`. `config` has all but what delivery rests on.
    ///
    /// # Errors
    /// Where the client refuses a setting.
    pub(super) fn new(mut config: ClientConfig, topic: &str, stats: Arc<SinkStats>) -> Result<Self, KafkaError> {
        config.set("enable.idempotence", "true");
        config.set("acks", "all");
        config.set("message.timeout.ms", "0");
        config.set("queue.buffering.max.kbytes", (4 * IN_FLIGHT_BYTES / 1024).to_string());
        config.set("queue.buffering.max.messages", "1000000");
        let status = Arc::new(Status::new(config.get("bootstrap.servers").unwrap_or_default(), topic));
        let tallies = Arc::<Tallies>::default();
        let producer = renew(&config, &status, &tallies)?;
        let (jobs, queue) = mpsc::unbounded_channel();
        let writer = Writer {
            topic: topic.to_owned(),
            config,
            producer: Some(producer),
            flights: Vec::new(),
            tallies,
            status: Arc::clone(&status),
            stats,
        };
        tokio::spawn(writer.run(queue));
        Ok(Self { jobs, room: Arc::new(Semaphore::new(IN_FLIGHT_BYTES / PERMIT_BYTES)), status })
    }

    /// Accepts rows; waits while too much is under way. The answer comes when every row is decided.
    pub(super) async fn write(&self, rows: Arc<dyn Rows>) -> oneshot::Receiver<Refused> {
        let (answer, answered) = oneshot::channel();
        // Something larger than all the room takes all of it.
        let permits = (rows.bytes() / PERMIT_BYTES + 1).min(IN_FLIGHT_BYTES / PERMIT_BYTES) as u32;
        let room = Arc::clone(&self.room).acquire_many_owned(permits).await.expect("the semaphore is never closed");
        // Where the task is gone, so is the runtime; then the answer never comes, which is never success.
        self.jobs.send(Job { rows, answer, room }).ok();
        answered
    }

    /// Why nothing gets through, if so.
    pub(super) fn blocked(&self) -> Option<String> {
        self.status.blocked()
    }
}

/// One job under way.
struct Flight {
    rows: Arc<dyn Rows>,
    /// Its number among the tallies.
    job: u32,
    refused: Refused,
    answer: oneshot::Sender<Refused>,
    _room: OwnedSemaphorePermit,
}

/// The task that keeps the order.
struct Writer {
    topic: String,
    config: ClientConfig,
    /// None only while it is made anew.
    producer: Option<ThreadedProducer<Callbacks>>,
    flights: Vec<Flight>,
    tallies: Arc<Tallies>,
    status: Arc<Status>,
    stats: Arc<SinkStats>,
}

fn renew(
    config: &ClientConfig,
    status: &Arc<Status>,
    tallies: &Arc<Tallies>,
) -> Result<ThreadedProducer<Callbacks>, KafkaError> {
    config.create_with_context(Callbacks { status: Arc::clone(status), tallies: Arc::clone(tallies) })
}

impl Writer {
    async fn run(mut self, mut queue: mpsc::UnboundedReceiver<Job>) {
        let tallies = Arc::clone(&self.tallies);
        let mut is_open = true;
        while is_open || !self.flights.is_empty() {
            tokio::select! {
                job = queue.recv(), if is_open => match job {
                    Some(job) => self.accept(job).await,
                    None => is_open = false,
                },
                () = tallies.wake.notified() => {}
            }
            if self.settle() {
                self.recover().await;
            }
        }
        let producer = self.producer.take();
        // The client's threads are joined: not on this one.
        tokio::task::spawn_blocking(move || drop(producer));
    }

    async fn accept(&mut self, job: Job) {
        let Job { rows, answer, room } = job;
        if answer.is_closed() {
            return;
        }
        let job = self.tallies.begin(rows.len());
        let mut refused = Refused::new();
        for row in 0..rows.len() {
            self.send(&*rows, row, job, &mut refused, false).await;
        }
        self.flights.push(Flight { rows, job, refused, answer, _room: room });
    }

    /// Gives one row, already counted as under way, to the client; waits while that has no room.
    async fn send(&self, rows: &dyn Rows, row: usize, job: u32, refused: &mut Refused, is_alone: bool) {
        loop {
            let refusal = match rows.record(row) {
                Err(refusal) => refusal,
                Ok(record) => match self.enqueue(record, row, job, is_alone) {
                    Ok(()) => return,
                    Err(RDKafkaErrorCode::QueueFull) => {
                        sleep(Duration::from_millis(5)).await;
                        continue;
                    }
                    Err(code) if is_about_record(code) => self.refusal(code),
                    Err(code) => {
                        self.tallies.of(job, |tally| {
                            tally.under_way -= 1;
                            tally.failed.push(Failed { row, code, is_alone });
                        });
                        return;
                    }
                },
            };
            self.stats.refused.bump();
            refused.push((row, refusal));
            self.tallies.of(job, |tally| tally.under_way -= 1);
            return;
        }
    }

    fn enqueue(&self, record: Outgoing<'_>, row: usize, job: u32, is_alone: bool) -> Result<(), RDKafkaErrorCode> {
        let Some(producer) = &self.producer else { return Err(RDKafkaErrorCode::Fatal) };
        let row = u32::try_from(row).expect("a batch has far fewer rows");
        let record = BaseRecord {
            topic: &self.topic,
            partition: record.partition,
            payload: record.value,
            key: record.key,
            timestamp: record.timestamp_ms,
            headers: Some(record.headers),
            delivery_opaque: Ticket { job, row, is_alone }.word(),
        };
        self.status.sent();
        producer.send(record).map_err(|(error, _)| {
            self.status.taken_back();
            error.rdkafka_error_code().unwrap_or(RDKafkaErrorCode::Unknown)
        })
    }

    /// Answers the jobs that are decided. True where a row of another must be sent again.
    fn settle(&mut self) -> bool {
        let mut needs_recovery = false;
        let mut index = 0;
        while let Some(flight) = self.flights.get(index) {
            let is_given_up = flight.answer.is_closed();
            let (is_decided, has_failed, delivered) = self.tallies.of(flight.job, |tally| {
                if is_given_up {
                    tally.failed.clear();
                }
                let has_failed = !tally.failed.is_empty();
                (tally.under_way == 0 && !has_failed, has_failed, std::mem::take(&mut tally.delivered))
            });
            self.stats.delivered.add(delivered);
            needs_recovery |= has_failed;
            if is_decided {
                let mut flight = self.flights.remove(index);
                self.tallies.end(flight.job);
                flight.refused.sort_unstable_by_key(|(row, _)| *row);
                // Whoever waited may have gone.
                flight.answer.send(flight.refused).ok();
            } else {
                index += 1;
            }
        }
        needs_recovery
    }

    /// Waits until the client has decided all that it was given.
    async fn quiesce(&self) {
        loop {
            if self.flights.iter().all(|flight| self.under_way(flight) == 0) {
                return;
            }
            // The signal may have been for another flight: look again now and then.
            timeout(Duration::from_millis(100), self.tallies.wake.notified()).await.ok();
        }
    }

    fn under_way(&self, flight: &Flight) -> usize {
        self.tallies.of(flight.job, |tally| tally.under_way)
    }

    /// Sends again, in order, what was not delivered, until nothing is left.
    async fn recover(&mut self) {
        let mut backoff = BACKOFF.0;
        loop {
            self.quiesce().await;
            if !self.settle() {
                *lock(&self.status.reason) = None;
                return;
            }
            self.report();
            sleep(backoff).await;
            backoff = (backoff * 2).min(BACKOFF.1);
            self.renew_if_failed().await;
            let mut flights = std::mem::take(&mut self.flights);
            for flight in &mut flights {
                self.send_again(flight).await;
            }
            self.flights = flights;
        }
    }

    async fn send_again(&self, flight: &mut Flight) {
        let mut failed = self.tallies.of(flight.job, |tally| std::mem::take(&mut tally.failed));
        failed.sort_unstable_by_key(|failed| failed.row);
        for Failed { row, code, is_alone } in failed {
            if is_alone && is_about_record(code) {
                self.stats.refused.bump();
                flight.refused.push((row, self.refusal(code)));
                continue;
            }
            self.stats.retries.bump();
            self.tallies.of(flight.job, |tally| tally.under_way += 1);
            let is_alone = is_about_record(code);
            self.send(&*flight.rows, row, flight.job, &mut flight.refused, is_alone).await;
            while is_alone && self.under_way(flight) > 0 {
                timeout(Duration::from_millis(100), self.tallies.wake.notified()).await.ok();
            }
        }
    }

    /// Says what is wrong, to the log and to whoever asks.
    fn report(&self) {
        let of = |flight: &Flight| self.tallies.of(flight.job, |tally| tally.failed.clone());
        let failed: Vec<Failed> = self.flights.iter().flat_map(of).collect();
        let Some(first) = failed.first() else { return };
        if failed.iter().all(|failed| is_about_record(failed.code)) {
            return;
        }
        let last = self.status.voice.last().map(|last| format!(" ({})", last.text)).unwrap_or_default();
        let reason = format!(
            "topic {} at {}: {}{last}; tried again until it works",
            self.topic, self.status.brokers, first.code
        );
        tracing::warn!(records = failed.len(), reason, "records were not delivered");
        *lock(&self.status.reason) = Some(reason);
    }

    /// A producer that failed for good takes nothing any more.
    async fn renew_if_failed(&mut self) {
        let is_failed = self.producer.as_ref().is_none_or(|producer| producer.client().fatal_error().is_some());
        if !is_failed {
            return;
        }
        let old = self.producer.take();
        tokio::task::spawn_blocking(move || drop(old)).await.ok();
        match renew(&self.config, &self.status, &self.tallies) {
            Ok(producer) => {
                self.stats.producers_renewed.bump();
                self.producer = Some(producer);
            }
            Err(error) => tracing::error!(%error, "no new producer: tried again"),
        }
    }

    fn refusal(&self, code: RDKafkaErrorCode) -> Refusal {
        let is_size = matches!(
            code,
            RDKafkaErrorCode::MessageSizeTooLarge
                | RDKafkaErrorCode::MessageBatchTooLarge
                | RDKafkaErrorCode::InvalidMessageSize
        );
        let limit = self.config.get("message.max.bytes").unwrap_or("1000000");
        if is_size {
            let message = format!("the record is larger than topic {} takes ({limit} bytes)", self.topic);
            Refusal { code: "sink.too_large", message }
        } else {
            Refusal { code: "sink.refused", message: format!("topic {} does not take the record: {code}", self.topic) }
        }
    }
}

/// Whether an error is about the content of a record, so that it will never be taken.
fn is_about_record(code: RDKafkaErrorCode) -> bool {
    use RDKafkaErrorCode as Code;
    matches!(
        code,
        Code::MessageSizeTooLarge
            | Code::MessageBatchTooLarge
            | Code::InvalidMessageSize
            | Code::InvalidTimestamp
            | Code::InvalidRecord
    )
}

#[cfg(test)]
mod tests {
    use rdkafka::consumer::{BaseConsumer, Consumer};
    use rdkafka::message::Message;
    use rdkafka::mocking::MockCluster;
    use rdkafka::topic_partition_list::{Offset, TopicPartitionList};
    use rdkafka::types::{RDKafkaApiKey, RDKafkaRespErr};
    use tokio::time::Instant;

    use super::*;

    /// Rows that are numbers.
    struct Numbers(std::ops::Range<usize>, Vec<Vec<u8>>);

    impl Numbers {
        fn new(range: std::ops::Range<usize>) -> Arc<Self> {
            let texts = range.clone().map(|number| number.to_string().into_bytes()).collect();
            Arc::new(Self(range, texts))
        }
    }

    impl Rows for Numbers {
        fn len(&self) -> usize {
            self.0.len()
        }

        fn bytes(&self) -> usize {
            self.0.len()
        }

        fn record(&self, row: usize) -> Result<Outgoing<'_>, Refusal> {
            let value = self.1.get(row).map(Vec::as_slice);
            Ok(Outgoing { partition: None, key: Some(b"k"), value, headers: OwnedHeaders::new(), timestamp_ms: None })
        }
    }

    fn writer(brokers: &str) -> (TopicWriter, Arc<SinkStats>) {
        let stats = Arc::<SinkStats>::default();
        let mut config = ClientConfig::new();
        config.set("bootstrap.servers", brokers).set("retry.backoff.ms", "10");
        (TopicWriter::new(config, "out", Arc::clone(&stats)).expect("it is made"), stats)
    }

    /// The first time that each value comes: at least once leaves repeats.
    async fn first_times(brokers: String, count: usize) -> Vec<usize> {
        let reading = tokio::task::spawn_blocking(move || {
            let mut config = ClientConfig::new();
            config.set("bootstrap.servers", &brokers).set("group.id", "read");
            let consumer: BaseConsumer = config.create().expect("it is made");
            let mut list = TopicPartitionList::new();
            list.add_partition_offset("out", 0, Offset::Beginning).expect("an offset");
            consumer.assign(&list).expect("assigned");
            let mut values = Vec::new();
            let began = Instant::now();
            while values.len() < count {
                assert!(began.elapsed() < Duration::from_secs(30), "{} of {count} values came", values.len());
                if let Some(Ok(message)) = consumer.poll(Duration::from_millis(100)) {
                    let text = std::str::from_utf8(message.payload().expect("a value")).expect("a number");
                    let number = text.parse().expect("a number");
                    if !values.contains(&number) {
                        values.push(number);
                    }
                }
            }
            values
        });
        reading.await.expect("it ends")
    }

    async fn write_through(code: RDKafkaRespErr, api: RDKafkaApiKey) -> Arc<SinkStats> {
        let cluster = MockCluster::new(1).expect("it starts");
        cluster.create_topic("out", 1, 1).expect("it is made");
        cluster.request_errors(api, &[code; 3]);
        let (writer, stats) = writer(&cluster.bootstrap_servers());
        let first = writer.write(Numbers::new(0..100)).await;
        let second = writer.write(Numbers::new(100..200)).await;
        for answer in [first, second] {
            let refused =
                tokio::time::timeout(Duration::from_secs(30), answer).await.expect("it ends").expect("answered");
            assert_eq!(refused, []);
        }
        assert_eq!(first_times(cluster.bootstrap_servers(), 200).await, (0..200).collect::<Vec<_>>());
        assert_eq!(stats.delivered.get(), 200);
        assert_eq!(writer.blocked(), None);
        stats
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn what_the_client_gives_up_is_sent_again_in_order() {
        let stats =
            write_through(RDKafkaRespErr::RD_KAFKA_RESP_ERR_TOPIC_AUTHORIZATION_FAILED, RDKafkaApiKey::Produce).await;
        assert!(stats.retries.get() > 0, "{stats:?}");
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn a_producer_that_failed_for_good_is_made_anew() {
        let code = RDKafkaRespErr::RD_KAFKA_RESP_ERR_CLUSTER_AUTHORIZATION_FAILED;
        let stats = write_through(code, RDKafkaApiKey::InitProducerId).await;
        assert!(stats.producers_renewed.get() > 0, "{stats:?}");
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn a_broker_that_answers_with_time_outs_is_no_delivery() {
        write_through(RDKafkaRespErr::RD_KAFKA_RESP_ERR_REQUEST_TIMED_OUT, RDKafkaApiKey::Produce).await;
    }
}
