//! The whole line over memory, with injected faults: supervisor, tasks, plugins that trap, sinks that fail, members that
//! die. The expectation comes from the log alone.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use rand::rngs::StdRng;
use rand::seq::IndexedRandom as _;
use rand::{Rng, SeedableRng};
use tokio::runtime::{Builder, Runtime};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use super::breaker::Breaker;
use super::compute::Compute;
use super::excess::Excess;
use super::gate::Gate;
use super::generation::{Generation, Live, Outlet, Spec};
use super::line::{Line, LineOutput};
use super::meters::Meters;
use super::shadow::Shadowing;
use super::tap::Tap;
use super::{BatchLimits, CellSpec, FailureKind, Sink, Subscription, Transform, TrapKind};
use crate::clock::ManualClock;
use crate::config::{self, ErrorSettings, Format, Mask, Poison, Tombstones};
use crate::memory::{
    MemoryDeadLetters, MemoryGroup, MemoryJournal, MemoryLog, MemoryRanges, MemoryRecord, MemorySink, MemorySource,
    MemoryTransform, OwnedValue, Step,
};
use crate::record::{Digest, Field, FieldType, OutputField, Policy, TopicPartition};
use crate::status::{CommandError, Commands, PipelineState, StatusBoard};
use crate::supervisor::{Supervised, Supervisor};
use crate::telemetry::Telemetry;

mod anew;
mod failures;
mod operators;
mod reload;
mod replay;
mod versions;
mod watchdog;

const TOPIC: &str = "events";
const NOW_MS: i64 = 1_800_000_000_000;

/// Where the rows of all members end up, and how their pipelines are set up.
#[derive(Clone)]
struct World {
    log: MemoryLog,
    group: MemoryGroup,
    table: MemorySink,
    alerts: MemorySink,
    letters: MemoryDeadLetters,
    journal: MemoryJournal,
    clock: ManualClock,
    errors: ErrorSettings,
    mask: Mask,
}

/// A daemon: one supervisor with one pipeline.
struct Daemon {
    line: Arc<Line>,
    source: Arc<MemorySource>,
    shutdown: CancellationToken,
    running: JoinHandle<bool>,
    runtime: Runtime,
    commands: Commands,
    board: StatusBoard,
}

impl World {
    fn new(partitions: i32) -> Self {
        let log = MemoryLog::new();
        log.create_topic(TOPIC, partitions);
        let column = |name: &str| CellSpec { column: name.into(), path: vec![name.into()] };
        Self {
            group: MemoryGroup::new(&log, &[TOPIC]),
            log,
            table: MemorySink::table(vec![column("id"), column("n"), column("double")], &["id"]),
            alerts: MemorySink::records(),
            letters: MemoryDeadLetters::new(),
            journal: MemoryJournal::new(),
            clock: ManualClock::at(NOW_MS),
            errors: ErrorSettings { poison: Poison::DeadLetter, retry_attempts: 3, breaker: None },
            mask: Mask::default(),
        }
    }

    fn append(&self, partition: i32, timestamp_ms: i64, id: &str, value: &str) {
        self.log.append(&TopicPartition::new(TOPIC, partition), MemoryRecord::new(timestamp_ms, id, value));
    }

    fn start(&self, transforms: Vec<MemoryTransform>, drain: Duration) -> Daemon {
        self.start_with(
            &transforms.into_iter().map(|transform| Arc::new(transform) as Arc<dyn Transform>).collect::<Vec<_>>(),
            drain,
        )
    }

    fn start_with(&self, transforms: &[Arc<dyn Transform>], drain: Duration) -> Daemon {
        let (supervised, source) = self.supervised(transforms, Compute::start(2).unwrap());
        self.run(supervised, source, drain)
    }

    fn run(&self, supervised: Supervised, source: Arc<MemorySource>, drain: Duration) -> Daemon {
        let line = Arc::clone(&supervised.line);
        let (commands, receiver) = Commands::channel();
        let (shutdown, board) = (CancellationToken::new(), StatusBoard::new(0));
        let runtime = Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        let running =
            runtime.spawn(Supervisor::run(vec![supervised], board.clone(), drain, receiver, shutdown.clone()));
        Daemon { line, source, shutdown, running, runtime, commands, board }
    }

    fn generation(&self, number: u64, transforms: &[Arc<dyn Transform>]) -> Generation {
        self.generation_with_tap(number, transforms, &Tap::default())
    }

    fn generation_with_tap(&self, number: u64, transforms: &[Arc<dyn Transform>], tap: &Tap) -> Generation {
        let outputs = [("default", &self.table), ("alerts", &self.alerts)];
        let outlets = outputs.map(|(name, sink)| Outlet { name, wants: sink.wants(), tombstones: &Tombstones::Reject });
        let outputs = outlets.to_vec();
        let configuration = Digest::of(b"").short();
        let (mask, tap) = (self.mask.clone(), tap.clone());
        Generation::new(transforms, Spec { number, format: Format::Json, outputs, configuration, mask, tap })
    }

    fn supervised(&self, transforms: &[Arc<dyn Transform>], compute: Compute) -> (Supervised, Arc<MemorySource>) {
        let output = |name: &str, sink: &MemorySink| LineOutput { name: name.to_owned(), sink: Arc::new(sink.clone()) };
        let generation = self.generation(1, transforms);
        let line = Line {
            name: "events".into(),
            topics: vec![TOPIC.into()],
            live: Live::begin(generation),
            tap: Tap::default(),
            shadowing: Shadowing::default(),
            outputs: vec![output("default", &self.table), output("alerts", &self.alerts)],
            dead_letters: Arc::new(self.letters.clone()),
            compute,
            batch: BatchLimits { records: 16, bytes: 1 << 20, linger: Duration::from_millis(1) },
            errors: self.errors.clone(),
            clock: Arc::new(self.clock.clone()),
            gate: Gate::default(),
            breaker: self.errors.breaker.map(|breaker| Mutex::new(Breaker::new(breaker))),
            mask: self.mask.clone(),
            meters: Meters::new("events", &Telemetry::new()),
            timestamp_floor: 0,
            excess: Excess::default(),
            journal: Some(Arc::new(self.journal.clone())),
        };
        let source = Arc::new(self.group.source());
        let supervised = Supervised {
            line: Arc::new(line),
            source: Arc::clone(&source) as Arc<dyn super::Source>,
            ranges: Arc::new(MemoryRanges::of(&self.log)),
        };
        (supervised, source)
    }

    fn partitions(&self) -> Vec<TopicPartition> {
        self.log.partitions(TOPIC)
    }

    fn is_done(&self) -> bool {
        self.partitions().iter().all(|partition| {
            self.group.committed(partition).is_some_and(|position| position.next == self.log.end(partition))
        })
    }

    /// By id: the value and write time of the last record that makes a row, from the log alone.
    fn expected(&self) -> BTreeMap<String, (i64, i64)> {
        let mut rows = BTreeMap::new();
        for partition in self.partitions() {
            let mut h = 0;
            for offset in 0..self.log.end(&partition).0 {
                let record = self.log.get(&partition, crate::record::Offset(offset)).unwrap();
                h = (record.timestamp_ms.unwrap() * 1000).max(h + 10);
                let value = String::from_utf8(record.value.unwrap()).unwrap();
                if let Ok(value) = serde_json::from_str::<serde_json::Value>(&value)
                    && let Some(n) = value["n"].as_i64().filter(|n| *n >= 0)
                    && value["poison"].is_null()
                {
                    rows.insert(value["id"].as_str().unwrap().to_owned(), (n, h));
                }
            }
        }
        rows
    }

    fn written(&self) -> BTreeMap<String, (i64, i64)> {
        let row = |row: crate::memory::TableRow| {
            let OwnedValue::Text(id) = &row.key[0] else { panic!("a key is text: {row:?}") };
            let (OwnedValue::S64(n), at) = &row.cells["n"] else { panic!("n is a number: {row:?}") };
            assert_eq!(row.cells["double"], (OwnedValue::S64(n * 2), *at), "both cells of {id} are of one write");
            (id.clone(), (*n, at.0))
        };
        self.table.rows(NOW_MS).into_iter().map(row).collect()
    }
}

impl Daemon {
    async fn stop(self) -> bool {
        self.shutdown.cancel();
        let is_clean = self.running.await.unwrap();
        self.runtime.shutdown_background();
        is_clean
    }

    /// Dies: what it holds is lost, what it wrote may or may not have been written.
    async fn kill(self) {
        let runtime = self.runtime;
        tokio::task::spawn_blocking(move || runtime.shutdown_timeout(Duration::from_secs(5))).await.unwrap();
        self.source.kill();
    }
}

/// Reads `id` and `n`, sets `double`; negative numbers are failed, odd hundreds alert, zero is dropped by value 0.
fn doubler() -> MemoryTransform {
    let field = |name: &str, field_type| Field {
        path: vec![name.into()],
        field_type,
        on_missing: Policy::Reject,
        on_mismatch: Policy::Reject,
    };
    let subscription = Subscription {
        routes: vec!["alerts".into()],
        value_fields: vec![field("id", FieldType::Text), field("n", FieldType::S64)],
        set_fields: vec![OutputField { path: vec!["double".into()], field_type: FieldType::S64 }],
        ..Subscription::default()
    };
    MemoryTransform::new("doubler", subscription, |record| {
        let Some(OwnedValue::S64(n)) = record.field(1) else { return Step::Drop };
        if n < 0 {
            return Step::Fail(FailureKind::Reject, "negative".into(), "n must not be negative".into());
        }
        let row = Step::Keep(vec![crate::memory::OwnedCell::Value(OwnedValue::S64(n * 2))]);
        if n % 100 == 0 { Step::All(vec![row.clone(), Step::To(1, Box::new(row))]) } else { row }
    })
    .trap_on(br#""poison":"trap""#, TrapKind::Trap)
}

/// As [`eventually`], and says what everybody is doing where it does not come true.
async fn eventually_all(world: &World, daemons: &[Daemon], seed: u64) {
    for _ in 0..2_000 {
        if world.is_done() {
            return;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    let boards: Vec<_> = daemons.iter().map(|daemon| daemon.board.read()).collect();
    let committed: Vec<_> =
        world.partitions().iter().map(|p| (world.group.committed(p).map(|c| c.next), world.log.end(p))).collect();
    panic!("seed {seed}: not everything is committed within 20 s: {committed:?} {boards:#?}");
}

async fn eventually(what: &str, mut is_so: impl FnMut() -> bool) {
    for _ in 0..2_000 {
        if is_so() {
            return;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    panic!("not within 20 s: {what}");
}

fn some_record(rng: &mut StdRng, number: i64) -> (String, String) {
    let id = format!("k{}", rng.random_range(0..20));
    let value = match rng.random_range(0..40) {
        0 => r#"{"id":"x","n":"#.to_owned(),
        1 => format!(r#"{{"id":"{id}","n":-1}}"#),
        2 => format!(r#"{{"id":"{id}","n":"{number}"}}"#),
        3 => format!(r#"{{"id":"{id}","n":{number},"poison":"trap"}}"#),
        _ => format!(r#"{{"id":"{id}","n":{number}}}"#),
    };
    (id, value)
}

/// Members join, are killed, lose partitions; the table fails, is slow and answers out of order. Every key is updated many
/// times, under shuffled timestamps and in bursts within a millisecond.
async fn storm(seed: u64) {
    let mut rng = StdRng::seed_from_u64(seed);
    let world = World::new(4);
    world.group.cut_batches(seed);
    world.table.reorder(seed, Duration::from_millis(3));
    let mut daemons = vec![world.start(vec![doubler()], Duration::from_secs(5))];
    let mut number = 0;
    for round in 0..30 {
        for _ in 0..rng.random_range(1..40) {
            number += 1;
            let (id, value) = some_record(&mut rng, number);
            // A key has one partition.
            let partition = id.bytes().map(i32::from).sum::<i32>() % 4;
            world.append(partition, NOW_MS - rng.random_range(0..50), &id, &value);
        }
        match rng.random_range(0..8) {
            0 if daemons.len() < 3 => daemons.push(world.start(vec![doubler()], Duration::from_secs(5))),
            1 => {
                // Everybody dies at once, in the middle of writes of which nobody knows whether they were stored.
                world.table.crash(seed + round);
                tokio::time::sleep(Duration::from_millis(2)).await;
                for daemon in daemons.drain(..) {
                    daemon.kill().await;
                }
                world.table.recover();
            }
            2 => world.table.fail_next(rng.random_range(1..5)),
            3 => {
                let partitions = world.partitions();
                world.group.lose(&partitions[rng.random_range(0..partitions.len())]).await;
            }
            4 if daemons.len() > 1 => {
                daemons.remove(0).stop().await;
            }
            5 if daemons.len() > 1 => daemons.remove(rng.random_range(0..daemons.len())).kill().await,
            _ => tokio::time::sleep(Duration::from_millis(rng.random_range(0..5))).await,
        }
        if daemons.is_empty() {
            daemons.push(world.start(vec![doubler()], Duration::from_secs(5)));
        }
    }
    // What a dead member's unanswered writes leave uncertain is written again by whoever took over.
    eventually_all(&world, &daemons, seed).await;
    for daemon in daemons {
        assert!(daemon.stop().await, "seed {seed}: drained");
    }
    assert_eq!(world.written(), world.expected(), "seed {seed}");
    assert_eq!(world.group.violations(), Vec::<String>::new(), "seed {seed}");
    let wrong = world.letters.letters().into_iter().find(|letter| {
        let value = String::from_utf8_lossy(letter.value.as_deref().unwrap_or_default()).into_owned();
        let code = match letter.code.as_str() {
            "negative" => value.contains("-1"),
            "plugin.trap" => value.contains("trap"),
            "decode.wrong_type" => value.contains(r#""n":""#),
            "decode.malformed_json" => value.ends_with(':'),
            _ => false,
        };
        !code
    });
    assert_eq!(wrong, None, "seed {seed}: every dead letter has its cause");
}

#[tokio::test]
async fn nothing_is_lost_and_nothing_is_wrong_in_a_storm() {
    for seed in 0..40 {
        storm(seed).await;
    }
}

#[tokio::test]
async fn a_poison_record_does_not_block_its_partition() {
    let world = World::new(1);
    for n in 1..=50 {
        let poison = if n == 25 { r#","poison":"trap""# } else { "" };
        world.append(0, NOW_MS, "k", &format!(r#"{{"id":"k{n}","n":{n}{poison}}}"#));
    }
    let daemon = world.start(vec![doubler()], Duration::from_secs(5));
    eventually("the end is committed", || world.is_done()).await;
    assert!(daemon.stop().await);
    assert_eq!(world.written().len(), 49);
    let letters = world.letters.letters();
    assert_eq!(letters.len(), 1);
    assert_eq!(
        (letters[0].offset.0, letters[0].code.as_str(), letters[0].stage.as_str()),
        (24, "plugin.trap", "transform:doubler")
    );
}

#[tokio::test]
async fn a_record_that_asks_for_it_is_tried_again_and_holds_its_partition() {
    let mut world = World::new(1);
    world.errors.retry_attempts = 3;
    for n in 1..=9 {
        world.append(0, NOW_MS, "k", &format!(r#"{{"id":"k{n}","n":{n}}}"#));
    }
    let transform = doubler().retry_on(br#""n":4}"#, 2, Duration::from_millis(1)).retry_on(
        br#""n":7}"#,
        9,
        Duration::from_millis(1),
    );
    let daemon = world.start(vec![transform], Duration::from_secs(5));
    eventually("the end is committed", || world.is_done()).await;
    daemon.stop().await;
    assert_eq!(world.written().len(), 8, "4 got through at the third try, 7 used its tries up");
    let letters = world.letters.letters();
    assert_eq!(letters.iter().map(|letter| (letter.offset.0, letter.attempts)).collect::<Vec<_>>(), [(6, 3)]);
}

#[tokio::test]
async fn the_breaker_pauses_before_the_failures_and_resume_lets_them_through() {
    let mut world = World::new(1);
    world.errors.breaker = Some(config::Breaker { percent: 50.0, records: 10, within: Duration::from_secs(60) });
    for n in 1..=10 {
        world.append(0, NOW_MS, "k", &format!(r#"{{"id":"k{n}","n":{n}}}"#));
    }
    let daemon = world.start(vec![doubler()], Duration::from_secs(5));
    eventually("the good ones are committed", || world.is_done()).await;
    let before = world.log.end(&world.partitions()[0]);
    for _ in 0..16 {
        world.append(0, NOW_MS, "k", r#"{"id":"bad","n":-1}"#);
    }
    let paused = || daemon.board.read().pipelines.first().map(|p| p.state) == Some(PipelineState::Paused);
    eventually("the pipeline is paused", paused).await;
    let status = daemon.board.read().pipelines[0].clone();
    assert!(status.cause.as_deref().unwrap_or_default().contains("negative"), "{:?}", status.cause);
    assert_eq!(status.resume_command.as_deref(), Some("pelton resume events"));
    assert!(world.group.committed(&world.partitions()[0]).unwrap().next >= before);
    let letters_before = world.letters.letters().len();
    assert!(letters_before < 16);

    daemon.commands.resume("events").await.unwrap();
    eventually("what was held came through", || world.letters.letters().len() > letters_before).await;
    daemon.stop().await;
}

#[tokio::test]
async fn stop_means_that_nothing_passes_the_record() {
    let mut world = World::new(1);
    world.errors.poison = Poison::Stop;
    for n in [1, -1, 2] {
        world.append(0, NOW_MS, "k", &format!(r#"{{"id":"k{n}","n":{n}}}"#));
    }
    let daemon = world.start(vec![doubler()], Duration::from_secs(5));
    let paused = || daemon.board.read().pipelines.first().map(|p| p.state) == Some(PipelineState::Paused);
    eventually("the pipeline is paused", paused).await;
    assert!(daemon.board.read().pipelines[0].cause.as_deref().unwrap().contains("events/0/1"));
    daemon.stop().await;
    assert!(world.group.committed(&world.partitions()[0]).unwrap().next.0 <= 1);
    assert_eq!(world.letters.letters(), []);
}

#[tokio::test]
async fn what_is_not_drained_in_time_stays_uncommitted_and_comes_again() {
    let world = World::new(1);
    world.append(0, NOW_MS, "k", r#"{"id":"a","n":1}"#);
    world.table.block("the table is away");
    let daemon = world.start(vec![doubler()], Duration::from_millis(50));
    eventually("the status names the block", || {
        daemon
            .board
            .read()
            .pipelines
            .first()
            .is_some_and(|p| !p.blocked.is_empty() && p.partitions.iter().any(|p| p.in_flight > 0))
    })
    .await;
    let stopped = tokio::time::timeout(Duration::from_secs(20), daemon.stop()).await;
    assert!(!stopped.expect("the deadline holds"), "the drain deadline was forced");
    assert_eq!(world.group.committed(&world.partitions()[0]).unwrap().next.0, 0);
    world.table.unblock();
    let daemon = world.start(vec![doubler()], Duration::from_secs(5));
    eventually("the end is committed", || world.is_done()).await;
    daemon.stop().await;
    assert_eq!(world.written(), world.expected());
}

#[tokio::test]
async fn what_a_process_held_that_gave_up_its_end_goes_to_the_next() {
    let world = World::new(1);
    world.append(0, NOW_MS, "k", r#"{"id":"a","n":1}"#);
    world.table.block("the table is away");
    // As on a machine so busy that the deadline comes before the source was told to close.
    world.group.hang_close(true);
    let daemon = world.start(vec![doubler()], Duration::from_millis(50));
    let in_flight = || daemon.board.read().pipelines.iter().flat_map(|p| &p.partitions).any(|p| p.in_flight > 0);
    eventually("a write is on its way", in_flight).await;
    assert!(!daemon.stop().await, "it gave up");
    world.group.hang_close(false);
    world.table.unblock();
    let daemon = world.start(vec![doubler()], Duration::from_secs(5));
    eventually("the end is committed", || world.is_done()).await;
    assert!(daemon.stop().await);
    assert_eq!(world.written(), world.expected());
    assert_eq!(world.group.violations(), Vec::<String>::new());
}

#[tokio::test]
async fn a_version_that_dies_before_its_first_position_stands_has_written_nothing() {
    let world = World::new(1);
    let partition = &world.partitions()[0];
    for n in 1..=3 {
        world.append(0, NOW_MS, "k", &format!(r#"{{"id":"k{n}","n":{n}}}"#));
    }
    world.group.hold_commits(true);
    let daemon = world.start(vec![doubler()], Duration::from_secs(5));
    eventually("the first position is on its way", || world.group.under_way(partition).is_some()).await;
    // Time enough for a task that does not wait to write all three.
    tokio::time::sleep(Duration::from_millis(200)).await;
    daemon.kill().await;
    assert_eq!(world.group.committed(partition), None, "nobody will know that it was there");
    assert_eq!(world.written(), BTreeMap::new(), "so it must not have written");
    world.group.hold_commits(false);
    let daemon = world.start(vec![doubler().with_digest(Digest::of(b"second"))], Duration::from_secs(5));
    eventually("the end is committed", || world.is_done()).await;
    daemon.stop().await;
    assert_eq!(world.written(), world.expected());
}

#[tokio::test]
async fn an_offset_that_another_tool_has_set_goes_on_at_the_highest_write_time_of_the_topic() {
    let world = World::new(2);
    let partition = &world.partitions()[0];
    world.append(0, NOW_MS, "a", r#"{"id":"a","n":1}"#);
    world.append(1, NOW_MS + 60_000, "b", r#"{"id":"b","n":2}"#);
    let daemon = world.start(vec![doubler()], Duration::from_secs(5));
    eventually("the end is committed", || world.is_done()).await;
    daemon.stop().await;
    let next = world.group.committed(partition).expect("it is committed").next;
    world.group.commit_as_before(partition, super::Position { next, metadata: String::new() });
    // Earlier than what stands in the table, by the record's own time.
    world.append(0, NOW_MS - 60_000, "a", r#"{"id":"a","n":3}"#);
    let daemon = world.start(vec![doubler()], Duration::from_secs(5));
    eventually("the end is committed", || world.is_done()).await;
    daemon.stop().await;
    assert_eq!(world.written()["a"], (3, (NOW_MS + 60_000) * 1000 + 10), "the update wins");
}

#[tokio::test]
async fn a_start_that_was_kept_before_anything_was_written_is_no_foreign_commit() {
    let world = World::new(2);
    world.append(1, NOW_MS + 60_000, "b", r#"{"id":"b","n":2}"#);
    let kept = super::Position { next: crate::record::Offset(0), metadata: super::checkpoint::KEPT_START.to_owned() };
    world.group.commit_as_before(&world.partitions()[0], kept);
    let daemon = world.start(vec![doubler()], Duration::from_secs(5));
    eventually("the end is committed", || world.is_done()).await;
    daemon.stop().await;
    world.append(0, NOW_MS, "a", r#"{"id":"a","n":1}"#);
    let daemon = world.start(vec![doubler()], Duration::from_secs(5));
    eventually("the end is committed", || world.is_done()).await;
    daemon.stop().await;
    assert_eq!(world.written(), world.expected(), "its clock follows its own records");
}

#[tokio::test]
async fn the_end_comes_at_its_deadline_whatever_hangs() {
    let world = World::new(1);
    world.append(0, NOW_MS, "k", r#"{"id":"a","n":1}"#);
    world.table.block("the table never answers");
    world.group.hang_close(true);
    let daemon = world.start(vec![doubler()], Duration::from_millis(400));
    let in_flight = || daemon.board.read().pipelines.iter().flat_map(|p| &p.partitions).any(|p| p.in_flight > 0);
    eventually("a write is on its way", in_flight).await;
    let stopped = tokio::time::timeout(Duration::from_secs(20), daemon.stop()).await;
    assert!(!stopped.expect("neither the sink nor the source is waited for"), "not all came to its end");
}

#[tokio::test]
async fn the_end_of_the_process_waits_for_a_pipeline_that_is_closing_already() {
    let world = World::new(1);
    world.append(0, NOW_MS, "k", r#"{"id":"a","n":1}"#);
    world.table.block("the table does not answer yet");
    let daemon = world.start(vec![doubler()], Duration::from_secs(10));
    let is_so = |wanted: fn(&crate::status::PipelineStatus) -> bool| daemon.board.read().pipelines.iter().any(wanted);
    eventually("a write is on its way", || is_so(|p| p.partitions.iter().any(|p| p.in_flight > 0))).await;
    world.group.fail(&super::SourceError::Refused("the group is forbidden".into())).await;
    eventually("the pipeline is closing", || is_so(|p| p.state == PipelineState::Stopped)).await;
    let table = world.table.clone();
    let stopping = tokio::spawn(daemon.stop());
    tokio::time::sleep(Duration::from_millis(50)).await;
    table.unblock();
    assert!(stopping.await.unwrap(), "its task came to its end, and what it did is committed");
    assert!(world.is_done());
    assert_eq!(world.group.violations(), Vec::<String>::new(), "the source was closed after its readers were gone");
}
