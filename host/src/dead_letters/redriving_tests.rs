//! Redrives over memory: a table, a plugin that refuses what is bad, letters in a file.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::Duration;

use async_trait::async_trait;
use tokio::sync::Barrier;

use super::cases::tests::{letter, mark};
use super::cases::{Cases, Filter, State};
use super::file::FilePlace;
use super::lines::SetField;
use super::redriving::{Choice, NotRedriven, Redriving, Report, Request, choose};
use super::{Entry, Mark, Place, Reached};
use crate::clock::ManualClock;
use crate::config::{ErrorSettings, Format, Mask, Poison, Tombstones};
use crate::memory::{MemorySink, MemoryTransform, OwnedValue, Step};
use crate::pipeline::compute::Compute;
use crate::pipeline::dead_letter_file::FileDeadLetters;
use crate::pipeline::excess::Excess;
use crate::pipeline::gate::Gate;
use crate::pipeline::generation::{Generation, Live, Outlet, Spec};
use crate::pipeline::line::{Line, LineOutput};
use crate::pipeline::meters::Meters;
use crate::pipeline::redrive::Redriver;
use crate::pipeline::shadow::Shadowing;
use crate::pipeline::tap::Tap;
use crate::pipeline::{
    BatchLimits, CellSpec, DeadLetter, DeadLetters as _, FailureKind, Sink as _, SourceError, Subscription, Transform,
};
use crate::record::{Digest, TopicPartition};
use crate::telemetry::Telemetry;

const NOW_MS: i64 = 1_800_000_000_000;

/// A row's cells: value and write time.
type Row = BTreeMap<String, (OwnedValue, i64)>;

struct World {
    dir: tempfile::TempDir,
    table: MemorySink,
    redriver: Redriver,
}

/// Fails what says that it is bad, and lets go what says nothing.
fn picky() -> MemoryTransform {
    MemoryTransform::new("shop", Subscription::default(), |record| {
        let value = String::from_utf8_lossy(record.value().unwrap_or_default()).into_owned();
        if value.contains("bad") {
            Step::Fail(FailureKind::Reject, "bad_b".into(), "b is bad".into())
        } else if value.contains("nothing") {
            Step::Drop
        } else {
            Step::Keep(Vec::new())
        }
    })
}

/// A line of its own to this table, with its letters in this directory.
fn redriver(dir: &Path, table: &MemorySink) -> Redriver {
    let transforms: Vec<Arc<dyn Transform>> = vec![Arc::new(picky())];
    let outlet = Outlet { name: "default", wants: table.wants(), tombstones: &Tombstones::Reject };
    let spec = Spec {
        number: 1,
        format: Format::Json,
        outputs: vec![outlet],
        configuration: Digest::of(b"").short(),
        mask: Mask::default(),
        tap: Tap::default(),
    };
    let line = Line {
        name: "orders".into(),
        topics: vec!["orders".into()],
        live: Live::begin(Generation::new(&transforms, spec)),
        tap: Tap::default(),
        shadowing: Shadowing::default(),
        outputs: vec![LineOutput { name: "default".to_owned(), sink: Arc::new(table.clone()) }],
        dead_letters: Arc::new(FileDeadLetters::open(letters_of(dir)).expect("a file")),
        compute: Compute::start(1).expect("a thread"),
        batch: BatchLimits { records: 4, bytes: 1 << 20, linger: Duration::from_millis(1) },
        // A pipeline that stops at what it cannot handle: a redrive does not.
        errors: ErrorSettings { poison: Poison::Stop, retry_attempts: 3, breaker: None },
        clock: Arc::new(ManualClock::at(NOW_MS)),
        gate: Gate::default(),
        breaker: None,
        mask: Mask::default(),
        meters: Meters::new("orders", &Telemetry::new()),
        timestamp_floor: 0,
        excess: Excess::default(),
        journal: None,
    };
    Redriver::new(line)
}

impl World {
    fn new() -> Self {
        let column = |name: &str| CellSpec { column: name.into(), path: vec![name.into()] };
        let table = MemorySink::table(vec![column("id"), column("a"), column("b")], &["id"]);
        let dir = tempfile::tempdir().expect("a directory");
        let redriver = redriver(dir.path(), &table);
        Self { table, redriver, dir }
    }

    fn place(&self) -> FilePlace {
        FilePlace::at(&letters_of(self.dir.path()))
    }

    async fn fail(&self, letters: &[DeadLetter]) {
        FileDeadLetters::open(letters_of(self.dir.path())).expect("a file").write(letters.to_vec()).await;
    }

    async fn cases(&self) -> Cases {
        Cases::read(&self.place(), "orders", |_| true).await.expect("a file")
    }

    async fn states(&self) -> Vec<(i64, State)> {
        self.cases().await.cases.values().map(|case| (case.letter.offset.0, case.state())).collect()
    }

    async fn redrive(&self, request: &Request) -> (Choice, Report) {
        let choice = choose(&self.cases().await, request).expect("letters that are there");
        let report = self.run(request, &choice).await;
        (choice, report)
    }

    async fn run(&self, request: &Request, choice: &Choice) -> Report {
        let (clock, done) = (ManualClock::at(NOW_MS), AtomicU64::new(0));
        let place = self.place();
        let redriver = &self.redriver;
        let redriving = Redriving { place: &place, pipeline: "orders", request, redriver, clock: &clock, done: &done };
        redriving.run(choice).await.expect("it comes to its end")
    }

    fn row(&self, id: &str) -> Row {
        let rows = self.table.rows(NOW_MS).into_iter().filter(|row| row.key == [OwnedValue::Text(id.to_owned())]);
        rows.flat_map(|row| row.cells).map(|(name, (value, at))| (name, (value, at.0))).collect()
    }
}

fn letters_of(dir: &Path) -> PathBuf {
    dir.join("orders.jsonl")
}

fn setting(field: &str) -> Request {
    Request { set: vec![SetField::parse(field).expect("a field")], ..Request::default() }
}

fn text(of: &str) -> OwnedValue {
    OwnedValue::Text(of.to_owned())
}

#[tokio::test]
async fn newer_cells_stay_and_missing_ones_appear() {
    let world = World::new();
    let poison = letter(1, r#"{"id":"k","a":1,"b":"bad"}"#);
    let newer = letter(2, r#"{"id":"k","a":2}"#);
    world.fail(std::slice::from_ref(&poison)).await;
    let partition = TopicPartition::new("in", 2);
    let written = world.redriver.redrive(&partition, &[(&newer, newer.write_time)]).await.expect("written");
    assert_eq!(written, BTreeMap::new());

    let (choice, report) = world.redrive(&setting("b=good")).await;
    assert_eq!((choice.chosen.len(), report), (1, Report { redriven: 1, ..Report::default() }));
    let row = world.row("k");
    assert_eq!(row.get("a"), Some(&(OwnedValue::S64(2), newer.write_time.0)), "the newer cell stays");
    assert_eq!(row.get("b"), Some(&(text("good"), poison.write_time.0)), "the missing one appears");
    assert_eq!(world.states().await, [(1, State::Redriven)]);

    let (choice, report) = world.redrive(&setting("b=other")).await;
    assert_eq!((choice.chosen.len(), choice.redriven, report), (0, 1, Report::default()), "once");
}

#[tokio::test]
async fn what_fails_again_is_a_dead_letter_once_more_and_goes_in_no_circle() {
    let world = World::new();
    world.fail(&[letter(1, r#"{"id":"k","b":"bad"}"#), letter(2, r#"{"id":"l","b":"nothing"}"#)]).await;
    let (_, report) = world.redrive(&Request::default()).await;
    let failed = NotRedriven {
        id: "in/2/1/dead-letter".into(),
        code: Some("bad_b".into()),
        message: "transform:shop: b is bad".into(),
    };
    assert_eq!(report, Report { redriven: 1, failed: vec![failed], refused: vec![] });
    assert_eq!(world.states().await, [(1, State::FailedAgain), (2, State::Redriven)]);
    let cases = world.cases().await;
    let again = &cases.cases.values().next().expect("a case").letter;
    assert_eq!((again.redrives, again.attempts, again.write_time), (1, 2, letter(1, "").write_time));

    let (choice, _) = world.redrive(&Request::default()).await;
    assert_eq!((choice.chosen.len(), choice.failed_again, choice.redriven), (0, 1, 1));
    let (choice, report) = world.redrive(&Request { again: true, ..setting("b=good") }).await;
    assert_eq!((choice.chosen.len(), report.redriven), (1, 1), "asked for, and without what went well");
    assert_eq!(world.row("k").get("b"), Some(&(text("good"), again.write_time.0)));

    // What went well is redriven only by its own name.
    let named = Filter { ids: vec!["in/2/1".into()], ..Filter::default() };
    let (choice, _) = world.redrive(&Request { filter: named.clone(), ..setting("b=x") }).await;
    assert_eq!(choice.chosen.len(), 0);
    world.redrive(&Request { filter: named, again: true, ..setting("b=better") }).await;
    assert_eq!(world.row("k").get("b"), Some(&(text("better"), again.write_time.0 + 1)), "above what stands there");
    let unknown = Filter { ids: vec!["in/2/9".into()], ..Filter::default() };
    let unknown = choose(&world.cases().await, &Request { filter: unknown, ..Request::default() });
    assert!(unknown.expect_err("nobody").contains("in/2/9"));
}

#[tokio::test]
async fn a_redrive_that_is_killed_is_repeated_with_the_very_same_cells() {
    let world = Arc::new(World::new());
    let all: Vec<DeadLetter> =
        (1..=9).map(|offset| letter(offset, &format!(r#"{{"id":"k{offset}","b":"bad"}}"#))).collect();
    world.fail(&all).await;
    world.table.block("nothing gets through");
    let running = tokio::spawn({
        let world = Arc::clone(&world);
        async move { world.redrive(&setting("b=good")).await }
    });
    for _ in 0..2_000 {
        if world.cases().await.cases.values().any(|case| !case.marks.is_empty()) {
            break;
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    running.abort();
    assert!(running.await.expect_err("it was killed").is_cancelled());
    world.table.unblock();
    assert_eq!(world.states().await.iter().filter(|(_, state)| *state == State::Open).count(), 9, "all are open still");

    // Another repair than that which has begun goes above it, where that has begun: nobody knows how far it came.
    let (_, report) = world.redrive(&setting("b=other")).await;
    assert_eq!(report.redriven, 9);
    for letter in &all {
        let begun = i64::from(letter.offset.0 <= 4);
        let row = world.row(&format!("k{}", letter.offset));
        assert_eq!(row.get("b"), Some(&(text("other"), letter.write_time.0 + begun)), "{}", letter.offset);
    }
}

#[tokio::test]
async fn the_same_repair_after_a_kill_is_written_at_the_same_time() {
    let world = World::new();
    let one = letter(1, r#"{"id":"k","b":"bad"}"#);
    world.fail(std::slice::from_ref(&one)).await;
    let request = setting("b=good");
    let choice = choose(&world.cases().await, &request).expect("a letter");
    world.run(&request, &choice).await;
    // The mark of its end is lost, as by a kill just before it.
    let marks = world.dir.path().join("orders.redriven.jsonl");
    let kept: String =
        std::fs::read_to_string(&marks).expect("marks").lines().take(1).map(|l| format!("{l}\n")).collect();
    std::fs::write(&marks, kept).expect("written");
    assert_eq!(world.states().await, [(1, State::Open)]);
    let (_, report) = world.redrive(&request).await;
    assert_eq!(report.redriven, 1);
    assert_eq!(world.row("k").get("b"), Some(&(text("good"), one.write_time.0)));
    assert_eq!(world.states().await, [(1, State::Redriven)]);
}

/// A place at which what begins waits until whoever holds it says so.
struct Held {
    place: FilePlace,
    before: Barrier,
    after: Barrier,
}

#[async_trait]
impl Place for Held {
    fn name(&self) -> String {
        self.place.name()
    }

    async fn read(&self, since: &Reached, each: &mut (dyn FnMut(Entry) + Send)) -> Result<Reached, SourceError> {
        self.place.read(since, each).await
    }

    async fn mark(&self, marks: &[Mark]) -> Result<(), SourceError> {
        if marks.iter().any(|mark| mark.done) {
            return self.place.mark(marks).await;
        }
        // It has come here; it may go on.
        self.before.wait().await;
        self.before.wait().await;
        self.place.mark(marks).await?;
        self.after.wait().await;
        Ok(())
    }
}

impl World {
    /// A redrive beside others, with a line of its own, from choice to end.
    async fn beside(&self, place: &dyn Place, request: &Request) -> Report {
        let redriver = redriver(self.dir.path(), &self.table);
        let (clock, done) = (ManualClock::at(NOW_MS), AtomicU64::new(0));
        let redriving =
            Redriving { place, pipeline: "orders", request, redriver: &redriver, clock: &clock, done: &done };
        let choice = choose(&self.cases().await, request).expect("letters that are there");
        redriving.run(&choice).await.expect("it comes to its end")
    }

    /// The row is one of these, whole.
    fn is_one_of(&self, id: &str, at: i64, contents: [(&str, i64); 2]) -> bool {
        let row = self.row(id);
        contents
            .iter()
            .any(|(b, a)| row.get("a") == Some(&(OwnedValue::S64(*a), at)) && row.get("b") == Some(&(text(b), at)))
    }
}

fn both(a: i64, b: &str) -> Request {
    let set = [format!("a={a}"), format!("b={b}")];
    Request { set: set.iter().map(|field| SetField::parse(field).expect("a field")).collect(), ..Request::default() }
}

#[tokio::test]
async fn of_two_redrives_that_begin_at_once_one_gives_way() {
    let world = World::new();
    let all: Vec<DeadLetter> =
        (1..=3).map(|offset| letter(offset, &format!(r#"{{"id":"k{offset}","b":"bad"}}"#))).collect();
    world.fail(&all).await;
    // Both have read the letters before either marks; both have marked before either looks who else has.
    let held = Held { place: world.place(), before: Barrier::new(2), after: Barrier::new(2) };
    let (low, high) = (both(1, "y"), both(2, "x"));
    let (first, second) = tokio::join!(world.beside(&held, &low), world.beside(&held, &high));
    assert_eq!((first.redriven + second.redriven, first.refused.len() + second.refused.len()), (3, 3));
    assert!(first.redriven == 3 || second.redriven == 3, "the marks of a round stand together");
    let refused = first.refused.iter().chain(&second.refused).next().expect("one gave way");
    assert!(refused.message.contains("another redrive"), "{refused:?}");
    let won = if first.redriven == 3 { ("y", 1) } else { ("x", 2) };
    for letter in &all {
        let id = format!("k{}", letter.offset);
        assert!(world.is_one_of(&id, letter.write_time.0, [won, won]), "{:?}", world.row(&id));
    }
    assert!(world.states().await.iter().all(|(_, state)| *state == State::Redriven));

    // What gave way and is still wanted goes above it, whichever it was.
    let lost = if first.redriven == 3 { high } else { low };
    let named = Filter { ids: vec!["in/2/1".into()], ..Filter::default() };
    let (_, report) = world.redrive(&Request { filter: named, again: true, ..lost }).await;
    assert_eq!(report.redriven, 1);
    let content = if won == ("y", 1) { ("x", 2) } else { ("y", 1) };
    assert!(world.is_one_of("k1", all[0].write_time.0 + 1, [content, content]), "{:?}", world.row("k1"));
}

#[tokio::test]
async fn a_redrive_that_has_read_the_letters_before_another_was_done_gives_way_to_it() {
    let world = World::new();
    let one = letter(1, r#"{"id":"k","b":"bad"}"#);
    world.fail(std::slice::from_ref(&one)).await;
    let held = Held { place: world.place(), before: Barrier::new(2), after: Barrier::new(1) };
    let (early, late) = (both(1, "y"), both(2, "x"));
    let (slow, ()) = tokio::join!(world.beside(&held, &late), async {
        held.before.wait().await;
        let done = world.beside(&world.place(), &early).await;
        assert_eq!(done, Report { redriven: 1, ..Report::default() });
        held.before.wait().await;
    });
    assert_eq!((slow.redriven, slow.refused.len()), (0, 1), "{slow:?}");
    assert!(world.is_one_of("k", one.write_time.0, [("y", 1), ("y", 1)]), "{:?}", world.row("k"));
}

#[tokio::test]
async fn of_a_place_only_what_is_new_is_read_on() {
    let world = World::new();
    let all = [letter(1, "a"), letter(2, "b")];
    world.fail(&all[..1]).await;
    let place = world.place();
    let marks: Vec<Mark> = all.iter().map(|letter| mark(letter, false, "x")).collect();
    place.mark(&marks[..1]).await.expect("marked");
    let mut reached = Reached::default();
    let mut found = Vec::new();
    for _ in 0..2 {
        reached = place.read(&reached, &mut |entry| found.push(entry)).await.expect("a file");
    }
    assert_eq!(found.len(), 2, "{found:?}");
    world.fail(&all[1..]).await;
    place.mark(&marks[1..]).await.expect("marked");
    place.read(&reached, &mut |entry| found.push(entry)).await.expect("a file");
    assert_eq!(found.get(3..), Some(&[Entry::Marks(marks[1..].to_vec())][..]));
    // A file that was rotated away is another one.
    std::fs::rename(world.dir.path().join("orders.redriven.jsonl"), world.dir.path().join("old")).expect("rotated");
    place.mark(&marks[1..]).await.expect("marked");
    place.read(&reached, &mut |entry| found.push(entry)).await.expect("a file");
    assert_eq!(found.last(), Some(&Entry::Marks(marks[1..].to_vec())));
}
