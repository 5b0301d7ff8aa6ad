//! Runs a whole pipeline whose step makes much of little and whose sink stands still, and says how much memory that took.
//!
//! Arguments: brokers, topic, memory budget of the source in bytes, records in the topic, bytes that the step makes of
//! each. The sink holds what it is given until nothing comes any more, and takes what it would take itself; then it works,
//! and the line is waited for. Prints one line of JSON for each of the two.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use pelton::clock::SystemClock;
use pelton::config::{ErrorSettings, Format, KafkaConnection, Mask, Poison, SourceSettings, Tombstones};
use pelton::kafka::{KafkaSource, SourceOptions};
use pelton::memory::{MemoryLog, MemoryRanges, MemoryTransform, Step};
use pelton::pipeline::compute::Compute;
use pelton::pipeline::discard::DiscardLetters;
use pelton::pipeline::excess::Excess;
use pelton::pipeline::gate::Gate;
use pelton::pipeline::generation::{Generation, Live, Outlet, Spec};
use pelton::pipeline::line::{Line, LineOutput};
use pelton::pipeline::meters::Meters;
use pelton::pipeline::shadow::Shadowing;
use pelton::pipeline::tap::Tap;
use pelton::pipeline::{BatchLimits, Pending, Sink, SubscribedParts, Subscription, Transform, Wants, Written};
use pelton::record::SinkBatch;
use pelton::status::{Commands, StatusBoard};
use pelton::supervisor::{Supervised, Supervisor};
use pelton::telemetry::Telemetry;
use tokio::sync::watch;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

type Failure = Box<dyn std::error::Error + Send + Sync>;

/// Compute threads.
const THREADS: usize = 2;

/// Holds what it is given until it works.
struct StoppedSink {
    works: watch::Receiver<bool>,
    /// Rows that it was given, and that it has written.
    given: Arc<AtomicUsize>,
    written: Arc<AtomicUsize>,
}

#[async_trait]
impl Sink for StoppedSink {
    fn wants(&self) -> &Wants {
        &Wants::Records
    }

    async fn write(&self, batch: SinkBatch) -> Pending {
        let (mut works, written) = (self.works.clone(), Arc::clone(&self.written));
        self.given.fetch_add(batch.rows.len(), Ordering::SeqCst);
        Box::pin(async move {
            if works.wait_for(|works| *works).await.is_err() {
                std::future::pending::<()>().await;
            }
            written.fetch_add(batch.rows.len(), Ordering::SeqCst);
            drop(batch);
            Written::default()
        })
    }
}

#[tokio::main(worker_threads = 2)]
async fn main() -> Result<(), Failure> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [brokers, topic, memory_bytes, total, made_bytes] = arguments.as_slice() else {
        return Err("brokers, topic, memory budget, records, bytes made of each".into());
    };
    let (memory_bytes, total, made_bytes): (usize, usize, usize) =
        (memory_bytes.parse()?, total.parse()?, made_bytes.parse()?);
    let source = source(brokers, topic, memory_bytes);
    let (sink, works) = watch::channel(false);
    let (given, written) = (Arc::<AtomicUsize>::default(), Arc::<AtomicUsize>::default());
    let stopped = StoppedSink { works, given: Arc::clone(&given), written: Arc::clone(&written) };
    let line = line(topic, made_bytes, stopped)?;
    let supervised = Supervised {
        line: Arc::new(line),
        source: Arc::new(source),
        ranges: Arc::new(MemoryRanges::of(&MemoryLog::new())),
    };
    let (_commands, received) = Commands::channel();
    let (shutdown, drain) = (CancellationToken::new(), Duration::from_secs(10));
    let running =
        tokio::spawn(Supervisor::run(vec![supervised], StatusBoard::new(0), drain, received, shutdown.clone()));

    // Until nothing has come for a while.
    let limit = Instant::now() + Duration::from_secs(180);
    let (mut before, mut since) = (0, Instant::now());
    while (before == 0 || since.elapsed() < Duration::from_secs(4)) && Instant::now() < limit {
        tokio::time::sleep(Duration::from_millis(100)).await;
        let now = given.load(Ordering::SeqCst);
        if now != before {
            (before, since) = (now, Instant::now());
        }
    }
    report("stopped", before)?;
    sink.send(true)?;
    while written.load(Ordering::SeqCst) < total && Instant::now() < limit {
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    report("running", written.load(Ordering::SeqCst))?;
    shutdown.cancel();
    running.await?;
    Ok(())
}

fn source(brokers: &str, topic: &str, memory_bytes: usize) -> KafkaSource {
    let connection = KafkaConnection { brokers: brokers.to_owned(), properties: BTreeMap::new() };
    let settings = SourceSettings::from_beginning(&[topic], topic);
    KafkaSource::new(&connection, &settings, SourceOptions { memory_bytes, ..SourceOptions::default() })
}

fn line(topic: &str, made_bytes: usize, sink: StoppedSink) -> Result<Line, Failure> {
    let parts = SubscribedParts { value: true, ..SubscribedParts::default() };
    let subscription = Subscription { parts, ..Subscription::default() };
    let inflate = MemoryTransform::new("inflate", subscription, move |_| Step::Replace(vec![b'x'; made_bytes]));
    let steps: Vec<Arc<dyn Transform>> = vec![Arc::new(inflate)];
    let outlet = Outlet { name: "default", wants: sink.wants(), tombstones: &Tombstones::Skip };
    let spec = Spec {
        number: 1,
        format: Format::Bytes,
        outputs: vec![outlet],
        configuration: "0".to_owned(),
        mask: Mask::default(),
        tap: Tap::default(),
    };
    let live = Live::begin(Generation::new(&steps, spec));
    let output = LineOutput { name: "default".to_owned(), sink: Arc::new(sink) };
    Ok(Line {
        name: topic.to_owned(),
        topics: vec![topic.to_owned()],
        live,
        tap: Tap::default(),
        shadowing: Shadowing::default(),
        outputs: vec![output],
        dead_letters: Arc::new(DiscardLetters),
        compute: Compute::start(THREADS)?,
        batch: BatchLimits { records: 8, bytes: 1 << 20, linger: Duration::from_millis(5) },
        errors: ErrorSettings { poison: Poison::DeadLetter, retry_attempts: 2, breaker: None },
        clock: Arc::new(SystemClock),
        gate: Gate::default(),
        mask: Mask::default(),
        breaker: None,
        meters: Meters::new(topic, &Telemetry::new()),
        timestamp_floor: 0,
        excess: Excess::default(),
        journal: None,
    })
}

#[expect(clippy::print_stdout, reason = "the test reads it")]
fn report(phase: &str, rows: usize) -> Result<(), Failure> {
    let status = std::fs::read_to_string("/proc/self/status")?;
    let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:")?.trim().strip_suffix(" kB"));
    let peak_bytes = peak.ok_or("no VmHWM")?.trim().parse::<usize>()? * 1024;
    println!("{}", serde_json::json!({ "phase": phase, "records": rows, "peak_bytes": peak_bytes }));
    Ok(())
}
