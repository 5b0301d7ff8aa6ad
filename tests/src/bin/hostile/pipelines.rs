//! A good pipeline, and one with the guest beside it.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use pelton::clock::{Clock, SystemClock};
use pelton::config::{ErrorSettings, Format, Limits, Poison, Tombstones};
use pelton::memory::{MemoryDeadLetters, MemoryGroup, MemoryLog, MemoryRanges, MemoryRecord, MemorySink};
use pelton::pipeline::compute::Compute;
use pelton::pipeline::excess::Excess;
use pelton::pipeline::gate::Gate;
use pelton::pipeline::generation::{Generation, Live, Outlet, Spec};
use pelton::pipeline::line::{Line, LineOutput};
use pelton::pipeline::meters::Meters;
use pelton::pipeline::shadow::Shadowing;
use pelton::pipeline::tap::Tap;
use pelton::pipeline::{BatchLimits, Sink, Source, Transform};
use pelton::plugin::cases::{self, Problem};
use pelton::plugin::{Capability, LoadError, Runtime, WasmTransform};
use pelton::record::TopicPartition;
use pelton::status::{Commands, StatusBoard};
use pelton::supervisor::{Supervised, Supervisor};
use pelton::telemetry::Telemetry;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::expected::Expected;
use super::outcome::Outcome;
use super::report::Report;
use super::{Failure, cost, encode};

/// Compute threads, shared by both pipelines.
const THREADS: usize = 2;
/// Records that the guest gets, where nothing else is said.
const RECORDS: usize = 2;
/// Time between two records of the good pipeline.
const PACE: Duration = Duration::from_millis(4);
/// How long the guest's pipeline may take for its records: each is tried a few times, up to its limits.
const PATIENCE: Duration = Duration::from_secs(120);

/// Runs a guest, and says what came of it.
pub(super) fn run(guest: &str, artifact: &Path) -> Result<Report, Failure> {
    let expected = Expected::of(guest)?;
    let io = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    let runtime = Runtime::isolated(None, THREADS)?;
    let compute = Compute::start(THREADS)?;
    let good = WasmTransform::from_bytes(
        &runtime,
        "chokes",
        &encode::component("chokes"),
        &serde_json::Value::Null,
        &Capability::ALL.into(),
        Limits::default(),
    )?;
    let report = io.block_on(async {
        let good = Good::start(good, &compute);
        good.wait_for(100).await?;
        let (before_bytes, cpu_before_ms, began) = (cost::memory_bytes()?, cost::cpu_ms()?, Instant::now());
        let (records_before, ()) = (good.forget_stillness(), cost::forget_peak()?);
        let outcome = suffer(guest, artifact, &expected, &runtime, &compute).await;
        let wall_ms = ms(began.elapsed());
        // At least a few more, so that one that goes on slowly is told from one that does not go on.
        let goes_on = good.wait_for(records_before + 10).await;
        let (good_records, good_stood_still_ms) = (good.done() - records_before, good.stood_still_ms());
        let peak_bytes = cost::peak_bytes()?;
        let cpu_ms = cost::cpu_ms()? - cpu_before_ms;
        let after_bytes = settled(before_bytes).await?;
        let mut faults: Vec<String> = goes_on.err().iter().map(ToString::to_string).collect();
        faults.extend(good.end().await);
        let outcome = match outcome {
            Ok(outcome) => {
                faults.extend(expected.differs(&outcome));
                outcome.to_string()
            }
            Err(fault) => {
                faults.push(fault.to_string());
                String::new()
            }
        };
        let guest = guest.to_owned();
        Ok::<_, Failure>(Report {
            guest,
            outcome,
            wall_ms,
            cpu_ms,
            before_bytes,
            peak_bytes,
            after_bytes,
            good_records,
            good_stood_still_ms,
            faults,
        })
    })?;
    io.shutdown_background();
    Ok(report.judged(&expected.limits))
}

fn ms(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

/// Memory when it no longer falls: the threads that ended with the guest's pipeline give theirs back a moment later.
async fn settled(before_bytes: u64) -> Result<u64, Failure> {
    let mut least = cost::memory_bytes()?;
    let deadline = Instant::now() + Duration::from_secs(2);
    while least > before_bytes && Instant::now() < deadline {
        tokio::time::sleep(Duration::from_millis(50)).await;
        least = least.min(cost::memory_bytes()?);
    }
    Ok(least)
}

/// A running pipeline over memory.
struct Pipeline {
    log: MemoryLog,
    group: MemoryGroup,
    sinks: BTreeMap<String, MemorySink>,
    letters: MemoryDeadLetters,
    partition: TopicPartition,
    shutdown: CancellationToken,
    running: tokio::task::JoinHandle<bool>,
    _commands: Commands,
}

impl Pipeline {
    fn start(name: &str, transform: WasmTransform, compute: &Compute) -> Self {
        let log = MemoryLog::new();
        log.create_topic(name, 1);
        let group = MemoryGroup::new(&log, &[name]);
        let letters = MemoryDeadLetters::new();
        let mut sinks = BTreeMap::from([("default".to_owned(), MemorySink::records())]);
        sinks.extend(transform.subscription().routes.iter().map(|route| (route.clone(), MemorySink::records())));
        let steps: Vec<Arc<dyn Transform>> = vec![Arc::new(transform)];
        let clock: Arc<dyn Clock> = Arc::new(SystemClock);
        let outlets = sinks.iter().map(|(name, sink)| {
            let wants = sink.wants();
            Outlet { name, wants, tombstones: &Tombstones::Reject }
        });
        let spec = Spec {
            number: 1,
            format: Format::Json,
            outputs: outlets.collect(),
            configuration: "0".to_owned(),
            mask: pelton::config::Mask::default(),
            tap: Tap::default(),
        };
        let live = Live::begin(Generation::new(&steps, spec));
        let output =
            |(name, sink): (&String, &MemorySink)| LineOutput { name: name.clone(), sink: Arc::new(sink.clone()) };
        let line = Line {
            name: name.to_owned(),
            topics: vec![name.to_owned()],
            live,
            tap: Tap::default(),
            shadowing: Shadowing::default(),
            outputs: sinks.iter().map(output).collect(),
            dead_letters: Arc::new(letters.clone()),
            compute: compute.clone(),
            batch: BatchLimits { records: 64, bytes: 1 << 20, linger: Duration::from_millis(2) },
            errors: ErrorSettings { poison: Poison::DeadLetter, retry_attempts: 2, breaker: None },
            clock,
            gate: Gate::default(),
            mask: pelton::config::Mask::default(),
            breaker: None,
            meters: Meters::new(name, &Telemetry::new()),
            timestamp_floor: 0,
            excess: Excess::default(),
            journal: None,
        };
        let (commands, received) = Commands::channel();
        let shutdown = CancellationToken::new();
        let source: Arc<dyn Source> = Arc::new(group.source());
        let supervised = vec![Supervised { line: Arc::new(line), source, ranges: Arc::new(MemoryRanges::of(&log)) }];
        let (drain, board) = (Duration::from_secs(5), StatusBoard::new(0));
        let running = tokio::spawn(Supervisor::run(supervised, board, drain, received, shutdown.clone()));
        let partition = TopicPartition::new(name, 0);
        Self { log, group, sinks, letters, partition, shutdown, running, _commands: commands }
    }

    /// Records that are done.
    fn done(&self) -> u64 {
        self.group.committed(&self.partition).map_or(0, |position| position.next.0.unsigned_abs())
    }

    fn append(&self, number: u64) {
        let value = format!(r#"{{"n":{number},"name":"ann"}}"#);
        self.log.append(&self.partition, MemoryRecord::new(SystemClock.now_ms(), format!("k{number}"), value));
    }

    fn is_done(&self) -> bool {
        self.done() == self.log.end(&self.partition).0.unsigned_abs()
    }

    async fn stop(self) -> bool {
        self.shutdown.cancel();
        self.running.await.unwrap_or(false)
    }
}

/// Loads the guest, gives it its records, and runs its cases where it has any. What came of it.
async fn suffer(
    guest: &str,
    artifact: &Path,
    expected: &Expected,
    runtime: &Arc<Runtime>,
    compute: &Compute,
) -> Result<Outcome, Failure> {
    let transform = match load(guest, artifact, expected, runtime).await? {
        Ok(transform) => transform,
        Err(refused) => return Ok(Outcome { refused: Some(refused.to_string()), ..Outcome::default() }),
    };
    let pipeline = Pipeline::start(guest, transform, compute);
    let (records, in_turn) = expected.in_turn.map_or((RECORDS, false), |records| (records, true));
    let mut in_time = true;
    for number in 0..records as u64 {
        pipeline.append(number);
        if in_turn || number + 1 == records as u64 {
            in_time = in_time && eventually(PATIENCE, || pipeline.is_done()).await;
        }
    }
    let rows = pipeline.sinks.values().map(|sink| sink.stored().len()).sum();
    let mut outcome = Outcome { rows, ..Outcome::default() };
    for letter in pipeline.letters.letters() {
        *outcome.letters.entry(letter.code).or_default() += 1;
        if outcome.message.is_empty() {
            outcome.message = letter.message;
        }
    }
    let (done, clean) = (pipeline.done(), pipeline.stop().await);
    if !in_time {
        return Err(format!("its pipeline stands at record {done} of {records}: {outcome}").into());
    }
    if !clean {
        return Err(format!("its pipeline could not be stopped: {outcome}").into());
    }
    let dir = encode::guests_dir().join(guest);
    if dir.join("cases").is_dir() {
        let transform = load(guest, artifact, expected, runtime).await??;
        outcome.cases = Some(tokio::task::spawn_blocking(move || tested(&dir, &transform)).await??);
    }
    Ok(outcome)
}

async fn load(
    guest: &str,
    artifact: &Path,
    expected: &Expected,
    runtime: &Arc<Runtime>,
) -> Result<Result<WasmTransform, LoadError>, Failure> {
    let (name, artifact, runtime) = (guest.to_owned(), artifact.to_owned(), Arc::clone(runtime));
    let (grants, limits) = (expected.grants.clone(), expected.limits);
    let loaded = tokio::task::spawn_blocking(move || {
        let config = serde_json::json!({ "greeting": "hello" });
        WasmTransform::load(&runtime, &name, &artifact, &config, &grants, limits)
    });
    Ok(loaded.await?)
}

/// What `pelton plugin test` finds, in a few words.
fn tested(dir: &Path, transform: &WasmTransform) -> Result<String, Failure> {
    let mut found = Vec::new();
    for case in cases::read_all(dir)? {
        let problems = case.run(transform, false)?.problems;
        found.extend(problems.iter().map(|problem| match problem {
            Problem::HiddenState { first, others, .. } => {
                format!("hidden state: other output at {} than at {first}", cases::ways_text(others))
            }
            Problem::Unexpected { way, .. } => format!("not as expected at {way}"),
            Problem::NothingExpected => "nothing is expected".to_owned(),
            Problem::Failed { message, .. } => format!("failed: {message}"),
        }));
    }
    Ok(if found.is_empty() { "passed".to_owned() } else { found.join("; ") })
}

/// Waits for a condition, as long as the limit says.
async fn eventually(limit: Duration, mut condition: impl FnMut() -> bool) -> bool {
    let deadline = Instant::now() + limit;
    while !condition() {
        if Instant::now() >= deadline {
            return false;
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    true
}

/// The good pipeline, fed at a steady pace and watched.
struct Good {
    pipeline: Arc<Pipeline>,
    feeding: tokio::task::JoinHandle<u64>,
    enough: CancellationToken,
    stillness: Arc<Mutex<Stillness>>,
}

/// How long it had records and did not move.
struct Stillness {
    done: u64,
    moved: Instant,
    longest: Duration,
}

impl Good {
    fn start(transform: WasmTransform, compute: &Compute) -> Self {
        let pipeline = Arc::new(Pipeline::start("good", transform, compute));
        let enough = CancellationToken::new();
        let stillness = Arc::new(Mutex::new(Stillness { done: 0, moved: Instant::now(), longest: Duration::ZERO }));
        let feeding = tokio::spawn({
            let (pipeline, enough, stillness) = (Arc::clone(&pipeline), enough.clone(), Arc::clone(&stillness));
            async move {
                let mut pace = tokio::time::interval(PACE);
                let mut fed = 0;
                while !enough.is_cancelled() {
                    pace.tick().await;
                    pipeline.append(fed);
                    fed += 1;
                    let mut stillness = stillness.lock().unwrap_or_else(PoisonError::into_inner);
                    let (done, now) = (pipeline.done(), Instant::now());
                    if done > stillness.done {
                        (stillness.done, stillness.moved) = (done, now);
                    }
                    stillness.longest = stillness.longest.max(now - stillness.moved);
                }
                fed
            }
        });
        Self { pipeline, feeding, enough, stillness }
    }

    fn done(&self) -> u64 {
        self.pipeline.done()
    }

    fn stillness(&self) -> std::sync::MutexGuard<'_, Stillness> {
        self.stillness.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Begins anew to look for the longest stand-still; says how many records are done.
    fn forget_stillness(&self) -> u64 {
        self.stillness().longest = Duration::ZERO;
        self.done()
    }

    fn stood_still_ms(&self) -> u64 {
        ms(self.stillness().longest)
    }

    async fn wait_for(&self, records: u64) -> Result<(), Failure> {
        let moved = eventually(Duration::from_secs(60), || self.done() >= records).await;
        if moved { Ok(()) } else { Err("the good pipeline does not move".into()) }
    }

    /// Feeds no more, and holds what came out against what went in.
    async fn end(self) -> Vec<String> {
        self.enough.cancel();
        let fed = self.feeding.await.unwrap_or(0);
        let mut faults = Vec::new();
        if !eventually(Duration::from_secs(60), || self.pipeline.is_done()).await {
            faults.push(format!("the good pipeline stands at record {} of {fed}", self.pipeline.done()));
        }
        let stored: Vec<_> = self.pipeline.sinks.values().flat_map(MemorySink::stored).collect();
        let keys: Vec<Vec<u8>> = stored.into_iter().filter_map(|record| record.key).collect();
        let expected: Vec<Vec<u8>> = (0..fed).map(|number| format!("k{number}").into_bytes()).collect();
        if keys != expected {
            faults.push(format!("the good pipeline wrote {} records of {fed}, or not in their order", keys.len()));
        }
        let letters = self.pipeline.letters.letters();
        if let Some(first) = letters.first() {
            faults.push(format!("{} good records became dead letters: {}", letters.len(), first.message));
        }
        if let Some(pipeline) = Arc::into_inner(self.pipeline)
            && !pipeline.stop().await
        {
            faults.push("the good pipeline could not be stopped".to_owned());
        }
        faults
    }
}
