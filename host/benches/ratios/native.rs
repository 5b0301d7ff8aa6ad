//! The native programs: what a careful Rust programmer writes with the same clients, without Pelton.
//!
//! Each is this very binary started again, as a process of its own, so that CPU time and memory are counted for both
//! sides alike. Progress goes to standard output, one number a line.

use std::io::Write as _;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use rdkafka::ClientConfig;
use rdkafka::client::ClientContext;
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::message::{DeliveryResult, Header, Message as _, OwnedHeaders};
use rdkafka::producer::{BaseRecord, ProducerContext, ThreadedProducer};

use crate::topics::{Topic, brokers};
use crate::work;

/// Runs a native program, without end: whoever started it ends it.
pub(crate) fn run(program: &str, args: &[String]) {
    let progress = Arc::<AtomicU64>::default();
    tell(Arc::clone(&progress));
    match (program, args) {
        ("poll", [topic]) => poll(topic, &progress),
        ("cents", [from, to]) => cents(from, to, false, progress),
        ("cents-with-id", [from, to]) => cents(from, to, true, progress),
        _ => panic!("no native program {program} {args:?}"),
    }
}

/// Prints the progress whenever it has moved.
fn tell(progress: Arc<AtomicU64>) {
    std::thread::spawn(move || {
        let mut told = 0;
        loop {
            let now = progress.load(Ordering::Relaxed);
            if now != told {
                told = now;
                let mut out = std::io::stdout().lock();
                if writeln!(out, "{now}").and_then(|()| out.flush()).is_err() {
                    std::process::exit(0);
                }
            }
            std::thread::sleep(Duration::from_millis(10));
        }
    });
}

/// Polls and drops.
fn poll(topic: &str, progress: &AtomicU64) {
    let consumer = Topic::reader(topic);
    loop {
        if let Some(message) = consumer.poll(Duration::from_millis(100)) {
            let message = message.expect("a record");
            std::hint::black_box(message.payload());
            progress.fetch_add(1, Ordering::Relaxed);
        }
    }
}

/// Counts what the broker has.
struct Delivered(Arc<AtomicU64>);

impl ClientContext for Delivered {}

impl ProducerContext for Delivered {
    type DeliveryOpaque = ();

    fn delivery(&self, result: &DeliveryResult<'_>, (): ()) {
        result.as_ref().map_err(|(error, _)| error).expect("a delivery");
        self.0.fetch_add(1, Ordering::Relaxed);
    }
}

/// Reads JSON, drops heartbeats, adds the cents, writes JSON; with a header that names each record's origin, as Pelton's
/// records have it, or without.
fn cents(from: &str, to: &str, has_id: bool, progress: Arc<AtomicU64>) {
    let consumer = Topic::reader(from);
    let producer: ThreadedProducer<Delivered> = ClientConfig::new()
        .set("bootstrap.servers", brokers())
        .set("enable.idempotence", "true")
        .set("acks", "all")
        .set("queue.buffering.max.messages", "1000000")
        .create_with_context(Delivered(progress))
        .expect("a producer");
    let mut value = Vec::new();
    loop {
        let Some(message) = consumer.poll(Duration::from_millis(100)) else { continue };
        let message = message.expect("a record");
        value.clear();
        if !work::add_cents(message.payload().unwrap_or_default(), &mut value) {
            continue;
        }
        let mut record = BaseRecord::to(to).payload(&value).key(message.key().unwrap_or_default());
        if has_id {
            let id = format!("{from}/{}/{}/0", message.partition(), message.offset());
            record = record.headers(OwnedHeaders::new().insert(Header { key: "pelton-id", value: Some(&id) }));
        }
        while let Err((error, given_back)) = producer.send(record) {
            assert_eq!(error, KafkaError::MessageProduction(RDKafkaErrorCode::QueueFull), "{error}");
            std::thread::sleep(Duration::from_millis(1));
            record = given_back;
        }
    }
}
