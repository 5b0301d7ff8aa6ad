//! What the line adds to the way of a record: at a rate that it carries with ease, and at half of what it carries.
//!
//! Records carry the moment at which they were given to the producer as their key. Measured is when a reader has them:
//! of the topic itself (the broker alone), of what Pelton makes of it, and of what the native program makes of it.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use rdkafka::ClientConfig;
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::message::Message as _;
use rdkafka::producer::{BaseRecord, DefaultProducerContext, Producer as _, ThreadedProducer};

use crate::measure::{Spread, monotonic_ns};
use crate::process::{Side, pipeline};
use crate::report::{Better, Figure};
use crate::topics::{Topic, brokers};
use crate::{Plan, work};

/// Records each second that are little for everybody, and for which there are aims.
const EASY_RATE: u64 = 5_000;
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

/// Three rows for each rate.
pub(crate) fn measure(plan: &Plan) -> Vec<Figure> {
    let half = half_load(plan);
    let mut figures = at_rate(plan, EASY_RATE, &format!("at {EASY_RATE} records/s"), true);
    figures.extend(at_rate(plan, half, "at half load", false));
    figures
}

/// Half of the records that come through Pelton each second while somebody produces as many as the machine takes.
fn half_load(plan: &Plan) -> u64 {
    let records = plan.records / 4;
    let kept = (0..records).filter(|number| work::is_kept(*number)).count() as u64;
    let (from, to) = (Topic::create("latency_load", 1), Topic::create("latency_load_out", 1));
    let side = pelton(plan, &from, &to);
    let run = std::thread::scope(|scope| {
        scope.spawn(|| from.fill(0..records));
        side.run(kept)
    });
    (run.per_second / 2.0) as u64
}

fn at_rate(plan: &Plan, rate: u64, load: &str, has_aims: bool) -> Vec<Figure> {
    let ways = [Way::Broker, Way::Pelton, Way::Native];
    let rounds: Vec<[Quantiles; 3]> =
        (0..plan.latency_rounds).map(|_| ways.map(|way| round(plan, way, rate))).collect();
    let mut figures = Vec::new();
    for (at, (name, _)) in PARTS.iter().enumerate() {
        let spread = |of: &dyn Fn(&[Quantiles; 3]) -> f64| Spread::of(rounds.iter().map(of).collect());
        let ours = spread(&|round| round[1][at]);
        let figure = |what: &str| {
            let name = format!("{what} {load}, {name}");
            Figure::new("latency", &name, "ms", Better::Less).with("records_per_second", &rate.to_string())
        };
        let mut whole = figure("Kafka → JSON → Kafka").ours(ours);
        whole.native = Some(spread(&|round| round[2][at]));
        whole.ratio = Some(spread(&|round| round[1][at] / round[2][at]));
        if let Some((_, aim)) = AIMS_MS.iter().find(|(part, _)| has_aims && *part == at) {
            whole = whole.aim(*aim, ours.median, "ms at most");
        }
        figures.push(whole);
        let mut added = figure("added to the broker's own").ours(spread(&|round| round[1][at] - round[0][at]));
        added.native = Some(spread(&|round| round[2][at] - round[0][at]));
        figures.push(added);
    }
    figures
}

fn pelton(plan: &Plan, from: &Topic, to: &Topic) -> Side {
    let output = format!("{{ kafka: {{ topic: {} }} }}", to.name);
    let text = pipeline(&from.name, "json", &["cents"], &output, "");
    Side::daemon(&plan.plugins, plan.cache.path(), &[("line".into(), text)])
}

fn round(plan: &Plan, way: Way, rate: u64) -> Quantiles {
    let from = Topic::create("latency_in", 1);
    let to = Topic::create("latency_out", 1);
    let side = match way {
        Way::Broker => None,
        Way::Native => Some(Side::native("cents", &[&from.name, &to.name])),
        Way::Pelton => Some(pelton(plan, &from, &to)),
    };
    let read = if side.is_some() { &to } else { &from };
    let stop = Arc::<AtomicBool>::default();
    let producer = {
        let (stop, topic) = (Arc::clone(&stop), from.name.clone());
        std::thread::spawn(move || produce(&topic, rate, &stop))
    };
    let consumer = Topic::reader(&read.name);
    let mut taken = Vec::new();
    // From the first record on: a side that is still starting is not slow.
    let mut counted_from = None;
    loop {
        let Some(message) = consumer.poll(Duration::from_millis(100)) else {
            assert!(!producer.is_finished(), "the producer ended by itself");
            continue;
        };
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

/// Produces at the rate, some records every millisecond.
fn produce(topic: &str, rate: u64, stop: &AtomicBool) {
    let producer: ThreadedProducer<DefaultProducerContext> = ClientConfig::new()
        .set("bootstrap.servers", brokers())
        .set("linger.ms", "0")
        .set("acks", "all")
        .create()
        .expect("a producer");
    let began = monotonic_ns();
    let mut number = 0;
    while !stop.load(Ordering::Relaxed) {
        let due = (monotonic_ns() - began) * rate / 1_000_000_000;
        while number < due {
            let (value, sent) = (work::value(number), monotonic_ns().to_le_bytes());
            let mut record = BaseRecord::to(topic).key(&sent).payload(&value);
            // A broker that stands still for a moment: the wait for room is part of the record's way.
            while let Err((error, given_back)) = producer.send(record) {
                assert_eq!(error, KafkaError::MessageProduction(RDKafkaErrorCode::QueueFull), "{error}");
                std::thread::sleep(Duration::from_millis(1));
                record = given_back;
            }
            number += 1;
        }
        std::thread::sleep(Duration::from_millis(1));
    }
    producer.flush(Duration::from_secs(10)).expect("delivered");
}
