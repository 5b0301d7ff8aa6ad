//! The reloader with generations that need no plugin: who is live, and what the history says of it.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use super::History;
use super::reloader::{Parts, Reloader};
use crate::clock::ManualClock;
use crate::config::{Environment, Format, Mask, Poison, ProcessEnvironment};
use crate::memory::MemoryDeadLetters;
use crate::pipeline::BatchLimits;
use crate::pipeline::compute::Compute;
use crate::pipeline::excess::Excess;
use crate::pipeline::gate::{Gate, PausedBy};
use crate::pipeline::generation::{Generation, Live, Spec};
use crate::pipeline::line::Line;
use crate::pipeline::meters::Meters;
use crate::pipeline::probation::Made;
use crate::pipeline::shadow::Shadowing;
use crate::pipeline::tap::Tap;
use crate::plugin::Runtime;
use crate::startup::PreparedPipeline;
use crate::status::StatusBoard;
use crate::status::reloads::{ReloadRequest, Stage};
use crate::telemetry::Telemetry;

const NAME: &str = "orders";

fn generation(number: u64) -> Generation {
    let (mask, tap) = (Mask::default(), Tap::default());
    let configuration = String::new();
    Generation::new(&[], Spec { number, format: Format::Json, outputs: Vec::new(), configuration, mask, tap })
}

fn line() -> Arc<Line> {
    Arc::new(Line {
        name: NAME.into(),
        topics: Vec::new(),
        live: Live::begin(generation(1)),
        tap: Tap::default(),
        shadowing: Shadowing::default(),
        outputs: Vec::new(),
        dead_letters: Arc::new(MemoryDeadLetters::new()),
        compute: Compute::start(1).expect("a thread"),
        batch: BatchLimits { records: 1, bytes: 1, linger: Duration::ZERO },
        errors: crate::config::ErrorSettings { poison: Poison::DeadLetter, retry_attempts: 1, breaker: None },
        clock: Arc::new(ManualClock::at(0)),
        gate: Gate::default(),
        breaker: None,
        mask: Mask::default(),
        meters: Meters::new(NAME, &Telemetry::new()),
        timestamp_floor: 0,
        excess: Excess::default(),
        journal: None,
    })
}

/// A project whose only pipeline passes everything on to nobody.
fn project() -> tempfile::TempDir {
    let dir = tempfile::tempdir().expect("a directory");
    std::fs::create_dir(dir.path().join("pipelines")).expect("made");
    std::fs::write(dir.path().join("pelton.yaml"), "kafka: { brokers: localhost }\n").expect("written");
    let pipeline = "source: { kafka: { topics: [a] } }\nsteps: []\noutputs: { default: { discard: true } }\n\
                    dead_letters: { file: letters.jsonl }\n";
    std::fs::write(dir.path().join(format!("pipelines/{NAME}.yaml")), pipeline).expect("written");
    dir
}

fn reloader(dir: &std::path::Path) -> (Reloader, PreparedPipeline) {
    let read = crate::config::load(dir, &ProcessEnvironment).unwrap_or_else(|errors| panic!("{errors}"));
    let prepared = PreparedPipeline { pipeline: read.pipelines[0].clone(), transforms: Vec::new() };
    let reloader = Reloader::new(Parts {
        beginnings: std::collections::BTreeMap::new(),
        dir: dir.to_owned(),
        settings: read.settings.clone(),
        environment: Arc::new(ProcessEnvironment),
        runtime: Runtime::isolated(None, 1).expect("an engine"),
        pipelines: vec![(prepared.clone(), line())],
        fit: Arc::new(|number, _, _, _| Ok(generation(number))),
        history: History::open(&dir.join("history")).expect("it is made"),
        board: StatusBoard::new(0),
        telemetry: Telemetry::new(),
        clock: Arc::new(ManualClock::at(1_000)),
    });
    (reloader, prepared)
}

/// What was told of each generation last.
fn told(reloader: &Reloader) -> Vec<(u64, Stage)> {
    reloader.parts.history.of(NAME).iter().map(|generation| (generation.number, generation.stage)).collect()
}

/// A task finds it not good enough, and goes back by itself.
fn breach(line: &Line) {
    let live = line.live.get();
    let probation = live.probation.as_ref().expect("it is new");
    let cause = probation.compare(&Made::trapped(3), &Made::default());
    assert!(cause.is_some());
    line.live.put_back(&live, &probation.before().expect("it is kept"));
}

#[tokio::test]
async fn what_comes_right_after_a_breach_follows_the_generation_that_the_line_went_back_to() {
    let dir = project();
    let (mut reloader, prepared) = reloader(dir.path());
    let line = Arc::clone(&reloader.running[NAME].line);
    reloader.go_live(NAME, generation(2), prepared.clone(), (false, "reload", None));
    breach(&line);
    reloader.go_live(NAME, generation(3), prepared, (false, "reload", None));
    let expected = [(1, Stage::Settled), (2, Stage::RolledBack), (3, Stage::Live)];
    assert_eq!(told(&reloader), expected);
    reloader.rollback(NAME).expect("there is one before");
    assert_eq!(line.live.get().number, 1);
    assert_eq!(told(&reloader), [(1, Stage::Settled), (2, Stage::RolledBack), (3, Stage::RolledBack)]);
    assert_eq!(reloader.parts.history.last_live(NAME).map(|last| last.number), Some(1));
}

#[tokio::test]
async fn one_that_another_replaces_before_it_has_settled_is_no_longer_new() {
    let dir = project();
    let (mut reloader, prepared) = reloader(dir.path());
    reloader.go_live(NAME, generation(2), prepared.clone(), (false, "reload", None));
    reloader.go_live(NAME, generation(3), prepared, (false, "reload", None));
    assert_eq!(told(&reloader), [(1, Stage::Settled), (2, Stage::Replaced), (3, Stage::Live)]);
    assert_eq!(reloader.parts.history.last_live(NAME).map(|last| last.number), Some(3));
}

#[tokio::test]
async fn a_file_that_changes_while_a_reload_is_under_way_is_taken_over_next() {
    let dir = project();
    let (mut reloader, _) = reloader(dir.path());
    let file = dir.path().join(format!("pipelines/{NAME}.yaml"));
    // The new one is written as soon as the old one has been read.
    reloader.parts.environment = Arc::new(Writes(file));
    std::fs::write(dir.path().join("pelton.yaml"), "kafka: { brokers: \"${BROKERS}\" }\n").expect("written");
    reloader.reload(&ReloadRequest::default(), "watch").await;
    let files = reloader.files();
    assert!(reloader.watch.has_changed(files));
}

/// A generation that has handled nothing, as its pipeline was paused, has not done as well as the one before.
#[tokio::test(start_paused = true)]
async fn the_time_of_a_pause_settles_nothing() {
    let dir = project();
    let (mut reloader, prepared) = reloader(dir.path());
    let line = Arc::clone(&reloader.running[NAME].line);
    line.gate.pause(PausedBy::Operator, "asked to");
    reloader.go_live(NAME, generation(2), prepared, (false, "reload", None));
    let settle = reloader.parts.settings.reload.settle;
    let soon = tokio::time::timeout(10 * settle, reloader.probations.join_next()).await;
    assert!(soon.is_err(), "it is paused");
    line.gate.resume();
    breach(&line);
    let ended = reloader.probations.join_next().await.expect("one").expect("it ends");
    assert!(ended.breach.is_some());
}

/// Adds to a file when it is asked for a variable.
struct Writes(PathBuf);

impl Environment for Writes {
    fn variable(&self, _: &str) -> Option<String> {
        let text = std::fs::read_to_string(&self.0).expect("it is there");
        std::fs::write(&self.0, text + "# more\n").expect("written");
        Some("localhost".into())
    }

    fn file(&self, path: &std::path::Path) -> std::io::Result<String> {
        std::fs::read_to_string(path)
    }
}
