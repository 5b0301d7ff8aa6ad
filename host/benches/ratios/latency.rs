//! What the line adds to the way of a record, at a rate that it carries with ease.
//!
//! Records carry the moment at which they were given to the producer as their key. Measured is when a reader has them:
//! of the topic itself (the broker alone), of what Pelton makes of it, and of what the native program makes of it.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use rdkafka::ClientConfig;
use rdkafka::message::Message as _;
use rdkafka::producer::{BaseRecord, DefaultProducerContext, Producer as _, ThreadedProducer};

use crate::measure::{Spread, monotonic_ns};
use crate::process::{Side, pipeline};
use crate::report::{Better, Figure};
use crate::topics::{Topic, brokers};
use crate::{Plan, work};

/// Records each second.
const RATE: u64 = 5_000;
/// What comes first is not counted: processes start, caches fill.
const WARM_UP: Duration = Duration::from_secs(3);
/// The aims, milliseconds, the broker's own time in them.
const AIMS_MS: [(usize, f64); 2] = [(0, 4.0), (1, 8.0)];

const PARTS: [(&str, f64); 3] = [("p50", 0.5), ("p99", 0.99), ("p99.9", 0.999)];

#[derive(Debug, Clone, Copy)]
enum Way {
    Broker,
    Pelton,
    Native,
}

/// Milliseconds at each of [`PARTS`].
type Quantiles = [f64; PARTS.len()];

/// Three rows for each way.
pub(crate) fn measure(plan: &Plan) -> Vec<Figure> {
    let rounds: Vec<[Quantiles; 3]> =
        (0..plan.latency_rounds).map(|_| [Way::Broker, Way::Pelton, Way::Native].map(|way| round(plan, way))).collect();
    let mut figures = Vec::new();
    for (at, (name, _)) in PARTS.iter().enumerate() {
        let spread = |of: &dyn Fn(&[Quantiles; 3]) -> f64| Spread::of(rounds.iter().map(of).collect());
        let ours = spread(&|round| round[1][at]);
        let label = |what: &str| format!("{what} at {RATE} records/s, {name}");
        let mut whole = Figure::new("latency", &label("Kafka → JSON → Kafka"), "ms", Better::Less).ours(ours);
        whole.native = Some(spread(&|round| round[2][at]));
        whole.ratio = Some(spread(&|round| round[1][at] / round[2][at]));
        if let Some((_, aim)) = AIMS_MS.iter().find(|(part, _)| *part == at) {
            whole = whole.aim(*aim, ours.median, "ms at most");
        }
        figures.push(whole);
        let mut added = Figure::new("latency", &label("added to the broker's own"), "ms", Better::Less)
            .ours(spread(&|round| round[1][at] - round[0][at]));
        added.native = Some(spread(&|round| round[2][at] - round[0][at]));
        figures.push(added);
    }
    figures
}

fn round(plan: &Plan, way: Way) -> Quantiles {
    let from = Topic::create("latency_in", 1);
    let to = Topic::create("latency_out", 1);
    let side = match way {
        Way::Broker => None,
        Way::Native => Some(Side::native("cents", &[&from.name, &to.name])),
        Way::Pelton => {
            let output = format!("{{ kafka: {{ topic: {} }} }}", to.name);
            let text = pipeline(&from.name, "json", &["cents"], &output, "");
            Some(Side::daemon(&plan.plugins, plan.cache.path(), &[("line".into(), text)]))
        }
    };
    let read = if side.is_some() { &to } else { &from };
    let stop = Arc::<AtomicBool>::default();
    let producer = {
        let (stop, topic) = (Arc::clone(&stop), from.name.clone());
        std::thread::spawn(move || produce(&topic, &stop))
    };
    let consumer = Topic::reader(&read.name);
    let mut taken = Vec::new();
    // From the first record on: a side that is still starting is not slow.
    let mut counted_from = None;
    loop {
        let Some(message) = consumer.poll(Duration::from_millis(100)) else { continue };
        let message = message.expect("a record");
        let now = monotonic_ns();
        let from = *counted_from.get_or_insert(now + WARM_UP.as_nanos() as u64);
        let sent = u64::from_le_bytes(message.key().expect("a key").try_into().expect("eight bytes"));
        if sent >= from {
            taken.push((now - sent) as f64 / 1e6);
        }
        if now > from + plan.latency.as_nanos() as u64 {
            break;
        }
    }
    stop.store(true, Ordering::Relaxed);
    producer.join().expect("the producer");
    taken.sort_by(f64::total_cmp);
    PARTS.map(|(_, part)| taken[((taken.len() - 1) as f64 * part) as usize])
}

/// Produces at the rate, five records every millisecond.
fn produce(topic: &str, stop: &AtomicBool) {
    let producer: ThreadedProducer<DefaultProducerContext> = ClientConfig::new()
        .set("bootstrap.servers", brokers())
        .set("linger.ms", "0")
        .set("acks", "all")
        .create()
        .expect("a producer");
    let began = monotonic_ns();
    let mut number = 0;
    while !stop.load(Ordering::Relaxed) {
        let due = (monotonic_ns() - began) * RATE / 1_000_000_000;
        while number < due {
            let (value, sent) = (work::value(number), monotonic_ns().to_le_bytes());
            producer.send(BaseRecord::to(topic).key(&sent).payload(&value)).map_err(|(error, _)| error).expect("room");
            number += 1;
        }
        std::thread::sleep(Duration::from_millis(1));
    }
    producer.flush(Duration::from_secs(10)).expect("delivered");
}
