//! One demo from its start to its reckoning.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use futures::stream::{FuturesUnordered, StreamExt};
use serde::Serialize;
use tokio::time::{Instant, MissedTickBehavior, interval, sleep, timeout};
use tokio_util::sync::CancellationToken;

use super::events::{Event, Generator, ID_HEADER};
use super::pipelines::{Other, Pipelines};
use super::project::{self, Directory, Known, Role};
use super::reconcile::{Expected, Found, Reconciliation, reconcile};
use super::stores::{self, Tail, lock};
use super::{DemoError, Rules};
use crate::clock::{Clock, SystemClock};
use crate::config::{KafkaConnection, KafkaOutput};
use crate::daemon::Daemon;
use crate::kafka::{EmbeddedBroker, KafkaSink};
use crate::pipeline::{Pending, Sink};
use crate::record::{Column, Offset, RowMeta, RowOp, SinkBatch, TopicPartition, WriteTime, push_header};

/// Partitions of the topic of events.
const PARTITIONS: i32 = 4;
/// How often events are produced.
const TICK: Duration = Duration::from_millis(10);
/// How often progress is told.
const PROGRESS: Duration = Duration::from_millis(250);
/// Events that may be under way. The embedded broker drops in silence what is more than 5 MiB of a partition ahead of
/// its readers: even if all of these fell into one partition they would stay below.
const LEAD_MAX: u64 = 4_000;
/// How long the pipelines may take to get their partitions.
const JOIN_LIMIT: Duration = Duration::from_secs(60);
/// How long the line may stand still at the end before what is missing counts as lost.
const STANDSTILL_LIMIT: Duration = Duration::from_secs(30);
/// How long the pipelines beside the demo's own may take after it.
const OTHERS_LIMIT: Duration = Duration::from_secs(10);
/// How long nothing may move before somebody who watches is told that it does not.
const STANDSTILL_NOTED: Duration = Duration::from_secs(2);

/// What a demo should be.
#[derive(Debug, Clone)]
pub struct Options {
    /// The same events from the same seed, but for their times.
    pub seed: u64,
    /// How long events are produced; none: until stopped.
    pub length: Option<Duration>,
    /// Events a second.
    pub rate: u32,
    /// Where the project is.
    pub directory: Directory,
}

/// How a demo is going.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Progress {
    /// Since the first event.
    pub elapsed: Duration,
    /// Events that are durable or decided.
    pub events: u64,
    /// Of those, a second, lately.
    pub per_second: f64,
    /// From a record's birth until it was read back from a topic, milliseconds: the middle and the 99th of a hundred.
    pub latency_ms: Option<(i64, i64)>,
    /// Alerts of those events, read back.
    pub alerts: u64,
    /// Dead letters of those events, read back.
    pub dead_letters: u64,
    /// Events under way.
    pub lag: u64,
    /// Why nothing moves, if so; or what is being waited for.
    pub note: Option<String>,
}

/// What was seen in the stores.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Seen {
    /// Rows of each table, those of earlier runs too.
    pub tables: BTreeMap<String, u64>,
    /// Records in each topic that a pipeline writes to.
    pub topics: BTreeMap<String, u64>,
    /// Dead letters of the shop's pipeline, by code.
    pub dead_letters: BTreeMap<String, u64>,
}

/// How a demo went.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Summary {
    /// Whether everything is where it belongs; absent where nobody knows where that is, or there was nothing.
    pub matches: Option<bool>,
    /// The seed.
    pub seed: u64,
    /// How long events were produced.
    pub seconds: f64,
    /// Events that were produced.
    pub events: u64,
    /// Events a second.
    pub events_per_second: f64,
    /// From a record's birth until it was read back from a topic: the middle.
    pub latency_p50_ms: Option<i64>,
    /// The same: 99 of 100 are quicker.
    pub latency_p99_ms: Option<i64>,
    /// What was seen in the stores.
    pub seen: Seen,
    /// The comparison with what should be there.
    pub reconciliation: Option<Reconciliation>,
    /// Why there is none.
    pub not_compared_because: Option<String>,
    /// What the pipelines beside the demo's own did.
    pub others: Vec<Other>,
    /// The project, where it stays.
    pub directory: Option<PathBuf>,
    /// The file of its embedded tables, where that stays.
    pub tables_file: Option<PathBuf>,
}

/// Runs a demo. `stop` ends it early; it is reckoned all the same.
///
/// # Errors
/// Where it cannot start, or the line stands still for good.
pub async fn run(
    options: &Options,
    stop: &CancellationToken,
    mut tell: impl FnMut(&Progress),
) -> Result<Summary, DemoError> {
    // Gone when this function returns.
    let temporary = tempfile::Builder::new()
        .prefix("pelton-demo-")
        .tempdir()
        .map_err(|error| project::unusable(&std::env::temp_dir(), error))?;
    let (dir, kept) = match &options.directory {
        Directory::Temporary => (temporary.path().to_owned(), None),
        Directory::Keep(dir) | Directory::Existing(dir) => (dir.clone(), Some(dir.clone())),
    };
    if !matches!(options.directory, Directory::Existing(_)) {
        project::write(&dir)?;
    }
    tell(&Progress { note: Some("compiling the plugins".into()), ..Progress::default() });
    let mut ready = project::read(&dir).await?;
    tell(&Progress { note: Some("the plugins are compiled; starting the broker".into()), ..Progress::default() });
    let Some(known) = project::known(&ready.project) else {
        return Err(project::unusable(&dir, "it has no pipeline"));
    };
    let roles = project::topics(&ready.project, &known);
    let broker = start_broker(&roles)?;
    let connection = broker.connection();
    let settings = &mut ready.project.settings;
    settings.kafka = Some(connection.clone());
    settings.admin = free_or_any(settings.admin);
    let file = settings.sqlite.clone();
    let tables = project::tables(&ready.project);

    let clock: Arc<dyn Clock> = Arc::new(SystemClock);
    let seen = Arc::default();
    let mut tails = Vec::new();
    for (topic, role) in roles.iter().filter(|(_, role)| **role != Role::Events) {
        tails.push(Tail::open(&connection, topic, *role, &seen, &clock).await?);
    }
    let project = ready.project.clone();
    let daemon = Daemon::start(ready).await?;
    let pipelines = Pipelines::new(&project, &known, daemon.board().clone());
    let run = format!("{:x}", clock.now_ms() / 1000);
    let mut shop = Shop::open(&connection, &known, pipelines, options, &run, &seen).await?;
    let outcome = shop.trade(options.length, stop, &*clock, &mut tell).await;
    let others = shop.pipelines.others(shop.produced);
    daemon.shut_down().await;
    for tail in tails {
        tail.close().await;
    }
    outcome?;
    drop(broker);
    let found = shop.found(file.as_deref(), &run)?;
    let counts = match &file {
        Some(file) if !tables.is_empty() => stores::count_rows(file, &tables)?,
        _ => BTreeMap::new(),
    };
    let summary = shop.summary(options.seed, &found, counts);
    let tables_file = file.filter(|_| kept.is_some());
    Ok(Summary { others, directory: kept, tables_file, ..summary })
}

fn start_broker(roles: &BTreeMap<String, Role>) -> Result<EmbeddedBroker, DemoError> {
    let topics: Vec<_> = roles
        .iter()
        .map(|(topic, role)| (topic.as_str(), if *role == Role::Events { PARTITIONS } else { 1 }))
        .collect();
    Ok(EmbeddedBroker::start(&topics)?)
}

/// The address, or another port where somebody listens there already: two demos may run at once.
fn free_or_any(address: SocketAddr) -> SocketAddr {
    match std::net::TcpListener::bind(address) {
        Ok(_) => address,
        Err(_) => SocketAddr::new(address.ip(), 0),
    }
}

/// The producing end, and what it knows.
struct Shop {
    generator: Generator,
    expected: Expected,
    /// Why the expectation means nothing, if so.
    unknown: Option<String>,
    topic: String,
    pipelines: Pipelines,
    table: Option<String>,
    sink: KafkaSink,
    under_way: FuturesUnordered<Pending>,
    seen: Arc<Mutex<stores::Seen>>,
    rate: u32,
    produced: u64,
    traded: Duration,
    /// Earlier moments and how many events were done by then.
    history: std::collections::VecDeque<(Instant, u64)>,
}

impl Shop {
    async fn open(
        connection: &KafkaConnection,
        known: &Known,
        pipelines: Pipelines,
        options: &Options,
        run: &str,
        seen: &Arc<Mutex<stores::Seen>>,
    ) -> Result<Self, DemoError> {
        let output = KafkaOutput {
            topic: known.topic.clone(),
            partitioner: "murmur2_random".into(),
            properties: BTreeMap::new(),
        };
        let (rules, unknown) = match &known.rules {
            Ok(rules) => (rules.clone(), None),
            Err(reason) => (Rules::default(), Some(reason.clone())),
        };
        Ok(Self {
            generator: Generator::new(options.seed, run, rules),
            expected: Expected::default(),
            unknown,
            topic: known.topic.clone(),
            pipelines,
            table: known.table.clone(),
            sink: KafkaSink::open(connection, &output).await?,
            under_way: FuturesUnordered::new(),
            seen: Arc::clone(seen),
            rate: options.rate,
            produced: 0,
            traded: Duration::ZERO,
            history: std::collections::VecDeque::new(),
        })
    }

    /// From the first event until the last one is durable or decided, and what it left can be read back.
    async fn trade(
        &mut self,
        length: Option<Duration>,
        stop: &CancellationToken,
        clock: &dyn Clock,
        tell: &mut impl FnMut(&Progress),
    ) -> Result<(), DemoError> {
        self.until_joined(stop, tell).await?;
        self.produce(length, stop, clock, tell).await?;
        self.until_handled(tell).await?;
        self.until_read_back(tell).await;
        match lock(&self.seen).failed.take() {
            Some(reason) => Err(DemoError::Stuck(format!("a topic cannot be read back: {reason}"))),
            None => Ok(()),
        }
    }

    async fn until_joined(
        &mut self,
        stop: &CancellationToken,
        tell: &mut impl FnMut(&Progress),
    ) -> Result<(), DemoError> {
        let joined = async {
            while let Some((name, _)) = self.pipelines.partitions().filter(|(_, has)| *has < PARTITIONS as u64) {
                self.pipelines.check()?;
                tell(&Progress { note: Some(format!("pipeline {name} joins its group")), ..Progress::default() });
                sleep(PROGRESS).await;
            }
            Ok(())
        };
        tokio::select! {
            joined = timeout(JOIN_LIMIT, joined) => joined.unwrap_or_else(|_| {
                let name = self.pipelines.partitions().map_or_else(String::new, |(name, _)| name);
                let limit = JOIN_LIMIT.as_secs();
                Err(DemoError::Stuck(format!("pipeline {name} did not get its partitions within {limit} s")))
            }),
            () = stop.cancelled() => Ok(()),
        }
    }

    async fn produce(
        &mut self,
        length: Option<Duration>,
        stop: &CancellationToken,
        clock: &dyn Clock,
        tell: &mut impl FnMut(&Progress),
    ) -> Result<(), DemoError> {
        let began = Instant::now();
        let mut ticks = interval(TICK);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Skip);
        let (mut told, mut due) = (began, 0.0_f64);
        let mut last = began;
        while !stop.is_cancelled() && length.is_none_or(|length| began.elapsed() < length) {
            tokio::select! {
                _ = ticks.tick() => {}
                () = stop.cancelled() => break,
            }
            // What back-pressure held back is not caught up on: a shop has no more customers for it.
            due = (due + last.elapsed().as_secs_f64() * f64::from(self.rate)).min(f64::from(self.rate) / 4.0 + 1.0);
            last = Instant::now();
            let room = LEAD_MAX.saturating_sub(self.produced - self.pipelines.handled(self.produced));
            let count = (due as u64).min(room);
            due -= count as f64;
            if count > 0 {
                self.send(count, clock.now_ms()).await;
            }
            self.collect()?;
            if told.elapsed() >= PROGRESS {
                told = Instant::now();
                self.pipelines.check()?;
                let held_back = (room == 0).then(|| format!("waiting for {}", self.pipelines.waiting_for()));
                let progress = self.progress(began.elapsed(), held_back);
                tell(&progress);
            }
        }
        self.traded = began.elapsed();
        Ok(())
    }

    async fn send(&mut self, count: u64, now_ms: i64) {
        let events: Vec<_> = (0..count).map(|_| self.generator.next(now_ms)).collect();
        events.iter().for_each(|event| self.expected.add(event));
        self.produced += count;
        let answer = self.sink.write(batch(&self.topic, &events)).await;
        self.under_way.push(answer);
    }

    /// Takes the broker's answers that are there already.
    fn collect(&mut self) -> Result<(), DemoError> {
        while let Some(Some(written)) = futures::FutureExt::now_or_never(self.under_way.next()) {
            if let Some(failure) = written.failures.first() {
                return Err(DemoError::Stuck(format!("the broker refused an event: {}", failure.message)));
            }
        }
        Ok(())
    }

    async fn until_handled(&mut self, tell: &mut impl FnMut(&Progress)) -> Result<(), DemoError> {
        let (mut handled, mut moved) = (self.pipelines.handled(self.produced), Instant::now());
        let mut own_done = None;
        while handled < self.produced {
            sleep(TICK).await;
            self.collect()?;
            self.pipelines.check()?;
            let now = self.pipelines.handled(self.produced);
            if now > handled {
                (handled, moved) = (now, Instant::now());
            } else if moved.elapsed() > STANDSTILL_LIMIT {
                // The reckoning will name what is missing.
                return Ok(());
            }
            if self.pipelines.own_handled() >= self.produced
                && own_done.get_or_insert_with(Instant::now).elapsed() > OTHERS_LIMIT
            {
                // What the others have left undone is told of.
                return Ok(());
            }
            let mut note = format!("the last events are on their way; waiting for {}", self.pipelines.waiting_for());
            if moved.elapsed() > STANDSTILL_NOTED {
                let limit = STANDSTILL_LIMIT.as_secs();
                note.push_str(&format!("; nothing moves, and after {limit} s what is missing counts as lost"));
            }
            let progress = self.progress(self.traded, Some(note));
            tell(&progress);
        }
        Ok(())
    }

    /// Everything is durable; only the readers may be behind.
    async fn until_read_back(&mut self, tell: &mut impl FnMut(&Progress)) {
        let (mut records, mut moved) = (0, Instant::now());
        loop {
            let now = {
                let seen = lock(&self.seen);
                if seen.failed.is_some() || (self.unknown.is_none() && self.expected.topics_are_complete(&seen.found)) {
                    return;
                }
                seen.topics.values().sum::<u64>()
            };
            if now > records {
                (records, moved) = (now, Instant::now());
            }
            // Where nobody knows how much there should be, silence is the end.
            let silence = if self.unknown.is_none() { STANDSTILL_LIMIT } else { Duration::from_secs(2) };
            if moved.elapsed() > silence {
                return;
            }
            let mut note = "the stores are read back".to_owned();
            if moved.elapsed() > STANDSTILL_NOTED {
                note.push_str(&format!("; what does not come within {} s counts as lost", silence.as_secs()));
            }
            let progress = self.progress(self.traded, Some(note));
            tell(&progress);
            sleep(TICK).await;
        }
    }

    fn progress(&mut self, elapsed: Duration, note: Option<String>) -> Progress {
        // In this order: what is handled grows, and what is counted is never more than the events that are told.
        let positions = self.pipelines.positions();
        let handled = self.pipelines.handled(self.produced);
        self.history.push_back((Instant::now(), handled));
        while self.history.len() > 20 {
            self.history.pop_front();
        }
        let per_second = self.history.front().map_or(0.0, |(at, then)| {
            (handled.saturating_sub(*then)) as f64 / at.elapsed().as_secs_f64().max(f64::EPSILON)
        });
        let blocked = self.pipelines.blocked();
        let mut seen = lock(&self.seen);
        let (alerts, dead_letters) = (seen.alerts.below(&positions), seen.dead_letters.below(&positions));
        Progress {
            elapsed,
            events: handled,
            per_second: if self.history.len() > 1 { per_second } else { 0.0 },
            latency_ms: stores::percentiles(newest(&seen.latencies_ms)),
            alerts,
            dead_letters,
            lag: self.produced - handled,
            note: blocked.or(note),
        }
    }

    /// What was read back from the topics, and now from the table.
    fn found(&self, tables: Option<&Path>, run: &str) -> Result<Found, DemoError> {
        let mut found = lock(&self.seen).found.clone();
        if let (Some(table), Some(file)) = (&self.table, tables) {
            stores::read_table(file, table, run, &mut found)?;
        }
        Ok(found)
    }

    fn summary(&self, seed: u64, found: &Found, tables: BTreeMap<String, u64>) -> Summary {
        let latency = stores::percentiles(&lock(&self.seen).latencies_ms);
        let mut dead_letters = BTreeMap::new();
        for code in found.dead_letters.values().filter_map(|copies| copies.first()) {
            *dead_letters.entry(code.clone()).or_default() += 1;
        }
        let seen = Seen { tables, topics: lock(&self.seen).topics.clone(), dead_letters };
        // Where nothing was expected, nothing can be said to match.
        let not_compared_because = match &self.unknown {
            None if self.produced == 0 => Some("it was stopped before the first event".to_owned()),
            unknown => unknown.clone(),
        };
        let reconciliation = not_compared_because.is_none().then(|| reconcile(&self.expected, found));
        let seconds = self.traded.as_secs_f64();
        Summary {
            matches: reconciliation.as_ref().map(|result| result.matches),
            seed,
            seconds: crate::clock::seconds(self.traded),
            events: self.produced,
            events_per_second: if seconds > 0.0 { (self.produced as f64 / seconds).round() } else { 0.0 },
            latency_p50_ms: latency.map(|(middle, _)| middle),
            latency_p99_ms: latency.map(|(_, slowest)| slowest),
            seen,
            reconciliation,
            not_compared_because,
            others: Vec::new(),
            directory: None,
            tables_file: None,
        }
    }
}

/// The last few hundred: what a live line shows.
fn newest(latencies: &[i64]) -> &[i64] {
    latencies.get(latencies.len().saturating_sub(500)..).unwrap_or_default()
}

/// Events as records for the topic.
fn batch(topic: &str, events: &[Event]) -> SinkBatch {
    let (mut keys, mut values, mut headers) = (Column::default(), Column::default(), Column::default());
    let mut rows = Vec::with_capacity(events.len());
    for event in events {
        keys.push(event.key.as_deref());
        values.push(event.value.as_deref());
        headers.push_with(|packed| push_header(packed, ID_HEADER, Some(event.id.to_string().as_bytes())));
        rows.push(RowMeta {
            origin: rows.len() as u32,
            offset: Offset(event.id as i64),
            timestamp_ms: event.timestamp_ms,
            write_time: WriteTime(0),
            index: 0,
            op: if event.value.is_some() { RowOp::Upsert } else { RowOp::Delete },
        });
    }
    let source = TopicPartition::new(topic, 0);
    SinkBatch { source, generation: 0, rows, keys, values, headers, cells: Vec::new() }
}
