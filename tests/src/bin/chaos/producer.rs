//! Sends records at a steady rate, and what it is told to on top of that.
//!
//! In: orders. Out: records in the topic, each in the ledger before. Shares no code with the product, and goes around the
//! proxies: what it sends is not what is under test.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::sync::{Arc, OnceLock};
use std::thread::JoinHandle;
use std::time::Duration;

use rdkafka::message::{DeliveryResult, Header, Message as _, OwnedHeaders};
use rdkafka::producer::{BaseRecord, Producer as _, ProducerContext, ThreadedProducer};
use rdkafka::types::RDKafkaErrorCode;
use rdkafka::{ClientConfig, ClientContext};
use tokio::time::Instant;

use super::ledger::Ledger;
use super::records::{Maker, NUMBER, PARTITIONS, Poison, Record, TRAP};
use super::{Failure, now_ms};

/// How often it sends.
const TICK: Duration = Duration::from_millis(50);
/// How long brokers may be away before a record is given up: longer than any fault.
const GIVE_UP: Duration = Duration::from_secs(600);

/// What the producer is told to do.
pub(super) enum Order {
    /// So many records with one timestamp, to hot keys.
    Burst(usize),
    /// These, one after another.
    Poison(Vec<Poison>),
    /// A dead letter for each partition that does not fit into its topic.
    Large,
    /// Send what is missing, wait for the brokers, end.
    Finish,
}

/// What it has done by now.
#[derive(Default)]
pub(super) struct Sent {
    /// Records handed to the client.
    pub(super) records: AtomicU64,
    /// Updates of the rarest key of all groups.
    pub(super) updates_min: AtomicU64,
    /// Set once the brokers have answered for everything.
    pub(super) is_done: AtomicBool,
    /// Why it could not go on.
    failure: OnceLock<String>,
}

/// A producer at work.
pub(super) struct Producing {
    orders: Sender<Order>,
    thread: JoinHandle<()>,
    sent: Arc<Sent>,
}

struct Deliveries {
    ledger: Arc<Ledger>,
}

impl ClientContext for Deliveries {}

impl ProducerContext for Deliveries {
    type DeliveryOpaque = usize;

    fn delivery(&self, result: &DeliveryResult<'_>, n: usize) {
        let answer = match result {
            Ok(message) => Ok(message.offset()),
            Err((error, _)) => Err(error.to_string()),
        };
        self.ledger.told(n as u64, answer);
    }
}

impl Producing {
    /// Begins to send.
    pub(super) fn start(
        brokers: &str,
        topic: &str,
        rate: u64,
        seed: u64,
        ledger: &Arc<Ledger>,
    ) -> Result<Self, Failure> {
        let context = Deliveries { ledger: Arc::clone(ledger) };
        let client: ThreadedProducer<Deliveries> = ClientConfig::new()
            .set("bootstrap.servers", brokers)
            .set("client.id", "chaos-producer")
            .set("enable.idempotence", "true")
            .set("linger.ms", "10")
            .set("message.timeout.ms", GIVE_UP.as_millis().to_string())
            .set("topic.metadata.refresh.interval.ms", "5000")
            .create_with_context(context)?;
        let (orders, received) = channel();
        let sent = Arc::new(Sent::default());
        let sending = Sending {
            client,
            topic: topic.to_owned(),
            ledger: Arc::clone(ledger),
            maker: Maker::new(seed),
            sent: Arc::clone(&sent),
        };
        let failed = Arc::clone(&sent);
        let thread = std::thread::Builder::new().name("producer".to_owned()).spawn(move || {
            if let Err(error) = sending.run(&received, rate) {
                failed.failure.set(error.to_string()).ok();
            }
        })?;
        Ok(Self { orders, thread, sent })
    }

    /// How many records it has sent.
    pub(super) fn sent(&self) -> u64 {
        self.sent.records.load(Ordering::Relaxed)
    }

    /// How often the rarest key of all groups was updated.
    pub(super) fn updates_min(&self) -> u64 {
        self.sent.updates_min.load(Ordering::Relaxed)
    }

    /// Tells it to do something.
    pub(super) fn tell(&self, order: Order) -> Result<(), Failure> {
        self.orders.send(order).map_err(|_| "the producer has ended by itself".into())
    }

    /// Why it has ended before its time.
    pub(super) fn failure(&self) -> Option<String> {
        let ended = self.thread.is_finished() && !self.is_done();
        ended.then(|| self.sent.failure.get().cloned().unwrap_or_else(|| "it panicked".to_owned()))
    }

    /// Tells it to send what is missing, to wait for the brokers, and to end.
    pub(super) fn finish_soon(&self) -> Result<(), Failure> {
        self.tell(Order::Finish)
    }

    /// Whether the brokers have answered for everything after that.
    pub(super) fn is_done(&self) -> bool {
        self.sent.is_done.load(Ordering::Acquire)
    }
}

struct Sending {
    client: ThreadedProducer<Deliveries>,
    topic: String,
    ledger: Arc<Ledger>,
    maker: Maker,
    sent: Arc<Sent>,
}

impl Sending {
    fn run(mut self, orders: &Receiver<Order>, rate: u64) -> Result<(), Failure> {
        let began = Instant::now();
        let mut ordinary = 0;
        loop {
            let order = match orders.recv_timeout(TICK) {
                Ok(order) => Some(order),
                Err(RecvTimeoutError::Timeout) => None,
                Err(RecvTimeoutError::Disconnected) => Some(Order::Finish),
            };
            let now_ms = now_ms();
            let due = began.elapsed().as_millis() as u64 * rate / 1000;
            // After a stop of the whole machine it does not send all at once what it has missed.
            let count = due.saturating_sub(ordinary).min(rate);
            ordinary = due;
            let mut records: Vec<Record> = (0..count).map(|_| self.maker.ordinary(now_ms)).collect();
            match order {
                None => {}
                Some(Order::Burst(count)) => records.extend((0..count).map(|_| self.maker.hot(now_ms))),
                Some(Order::Poison(all)) => {
                    records.extend(all.into_iter().map(|poison| self.maker.poison(poison, now_ms, None)));
                }
                Some(Order::Large) => {
                    records.extend((0..PARTITIONS).map(|at| self.maker.poison(Poison::Large, now_ms, Some(at))));
                }
                Some(Order::Finish) => {
                    records.extend(self.maker.finish_group(now_ms));
                    self.send(&records)?;
                    self.sent.updates_min.store(self.maker.updates_min(), Ordering::Relaxed);
                    self.client.flush(GIVE_UP)?;
                    self.sent.is_done.store(true, Ordering::Release);
                    return Ok(());
                }
            }
            self.send(&records)?;
        }
    }

    fn send(&self, records: &[Record]) -> Result<(), Failure> {
        self.ledger.intend(records)?;
        for record in records {
            let number = record.n.to_string();
            let mut headers = OwnedHeaders::new().insert(Header { key: NUMBER, value: Some(&number) });
            if record.traps {
                headers = headers.insert(Header { key: TRAP, value: Some("") });
            }
            let mut message = BaseRecord::with_opaque_to(&self.topic, record.n as usize)
                .partition(record.partition)
                .key(&record.key)
                .timestamp(record.timestamp_ms)
                .headers(headers);
            if let Some(value) = &record.value {
                message = message.payload(value);
            }
            while let Err((error, back)) = self.client.send(message) {
                if error.rdkafka_error_code() != Some(RDKafkaErrorCode::QueueFull) {
                    return Err(format!("record {} cannot be sent: {error}", record.n).into());
                }
                self.client.poll(Duration::from_millis(20));
                message = back;
            }
            self.sent.records.fetch_add(1, Ordering::Relaxed);
        }
        Ok(())
    }
}
