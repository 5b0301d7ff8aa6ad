//! Plugins that are replaced while records flow, by daemons that die in the middle of it.

use std::collections::BTreeSet;

use super::super::journal::{Reason, Timeline};
use super::super::probation::{Probation, Rules};
use super::super::shadow::Shadow;
use super::*;
use crate::memory::OwnedCell;

/// Reads `id`, and sets `a` and `b` so that a row which mixes two versions shows: one number rises and the other falls.
fn stamping(version: i64) -> Vec<Arc<dyn Transform>> {
    vec![Arc::new(stamping_alone(version))]
}

fn stamping_alone(version: i64) -> MemoryTransform {
    let id = Field {
        path: vec!["id".into()],
        field_type: FieldType::Text,
        on_missing: Policy::Reject,
        on_mismatch: Policy::Reject,
    };
    let sets = |name: &str| OutputField { path: vec![name.into()], field_type: FieldType::S64 };
    let subscription =
        Subscription { value_fields: vec![id], set_fields: vec![sets("a"), sets("b")], ..Subscription::default() };
    let number = |n| OwnedCell::Value(OwnedValue::S64(n));
    let transform =
        MemoryTransform::new("stamping", subscription, move |_| Step::Keep(vec![number(version), number(-version)]));
    transform.with_digest(digest_of(version))
}

fn digest_of(version: i64) -> Digest {
    Digest::of(&version.to_le_bytes())
}

fn world(partitions: i32) -> World {
    let column = |name: &str| CellSpec { column: name.into(), path: vec![name.into()] };
    let table = MemorySink::table(vec![column("id"), column("a"), column("b")], &["id"]);
    World { table, ..World::new(partitions) }
}

impl World {
    /// A record whose row names where it stands.
    fn append_placed(&self, partition: i32, timestamp_ms: i64) {
        let place = TopicPartition::new(TOPIC, partition);
        let id = format!("{partition}/{:05}", self.log.end(&place).0);
        self.append(partition, timestamp_ms, "k", &format!(r#"{{"id":"{id}","n":1}}"#));
    }

    /// By partition and offset: the version that wrote the row.
    fn versions(&self) -> BTreeMap<(i32, i64), i64> {
        let version = |row: crate::memory::TableRow| {
            let OwnedValue::Text(id) = &row.key[0] else { panic!("a key is text: {row:?}") };
            let (OwnedValue::S64(a), at) = row.cells["a"] else { panic!("a number: {row:?}") };
            assert_eq!(row.cells["b"], (OwnedValue::S64(-a), at), "{id} is of one version and one write");
            let (partition, offset) = id.split_once('/').expect("a place");
            ((partition.parse().expect("a number"), offset.parse().expect("a number")), a)
        };
        self.table.rows(NOW_MS).into_iter().map(version).collect()
    }

    fn timeline(&self, partition: &TopicPartition) -> Timeline {
        Timeline::of(self.journal.entries().into_iter().filter(|entry| entry.is_of(partition)), None)
    }

    /// Each row is of the version that the journal claims for its record; answers the versions that there are.
    fn assert_history_holds(&self, seed: u64) -> BTreeSet<i64> {
        let written = self.versions();
        for partition in self.partitions() {
            let end = self.log.end(&partition).0;
            let timeline = self.timeline(&partition);
            let claimed = timeline.versions(0, end);
            let ends = claimed.iter().skip(1).map(|(from, _)| *from).chain([end]);
            for ((from, entry), until) in claimed.iter().zip(ends) {
                for offset in *from..until {
                    let version = written[&(partition.partition, offset)];
                    assert_eq!(entry.digests, [digest_of(version).short()], "seed {seed}: {partition}/{offset}");
                }
            }
            assert_eq!(written.keys().filter(|(of, _)| *of == partition.partition).count() as i64, end, "seed {seed}");
        }
        written.into_values().collect()
    }
}

impl Daemon {
    /// Another version is live from now on.
    fn reload(&self, world: &World, version: i64) {
        let number = self.line.live.get().number + 1;
        self.line.live.put(Arc::new(world.generation(number, &stamping(version))));
    }
}

/// Versions follow each other, forward and back, on daemons that lose partitions and die while the table answers out of
/// order, and others start with whatever version is there then.
async fn storm(seed: u64) -> BTreeSet<i64> {
    let mut rng = StdRng::seed_from_u64(seed);
    let world = world(3);
    world.group.cut_batches(seed);
    world.table.reorder(seed, Duration::from_millis(3));
    let mut current = 0;
    let mut daemons = vec![world.start_with(&stamping(current), Duration::from_secs(5))];
    for round in 0..40 {
        for _ in 0..rng.random_range(1..30) {
            world.append_placed(rng.random_range(0..3), NOW_MS - rng.random_range(0..50));
        }
        match rng.random_range(0..8) {
            0 if daemons.len() < 3 => {
                daemons.push(world.start_with(&stamping(current), Duration::from_secs(5)));
            }
            1 => {
                world.table.crash(seed + round);
                tokio::time::sleep(Duration::from_millis(2)).await;
                for daemon in daemons.drain(..) {
                    daemon.kill().await;
                }
                world.table.recover();
            }
            2 => {
                let partitions = world.partitions();
                world.group.lose(&partitions[rng.random_range(0..partitions.len())]).await;
            }
            3 if daemons.len() > 1 => {
                daemons.remove(0).stop().await;
            }
            _ => {
                if rng.random_bool(0.5) {
                    current = rng.random_range(0..4);
                }
                daemons.choose(&mut rng).into_iter().for_each(|daemon| daemon.reload(&world, current));
                tokio::time::sleep(Duration::from_millis(rng.random_range(0..5))).await;
            }
        }
        if daemons.is_empty() {
            daemons.push(world.start_with(&stamping(current), Duration::from_secs(5)));
        }
    }
    eventually_all(&world, &daemons, seed).await;
    for daemon in daemons {
        assert!(daemon.stop().await, "seed {seed}: drained");
    }
    assert_eq!(world.group.violations(), Vec::<String>::new(), "seed {seed}");
    world.assert_history_holds(seed)
}

#[tokio::test]
async fn a_row_is_of_one_version_and_the_journal_names_it() {
    let mut mixed = 0;
    for seed in 0..20 {
        mixed += usize::from(storm(seed).await.len() > 1);
    }
    assert!(mixed > 10, "several versions had a share in most tables: {mixed} of 20");
}

#[tokio::test]
async fn tasks_go_over_without_an_assignment_and_without_a_new_epoch() {
    let world = world(1);
    (0..5).for_each(|_| world.append_placed(0, NOW_MS));
    let daemon = world.start_with(&stamping(0), Duration::from_secs(5));
    eventually("the first are done", || world.is_done()).await;
    for version in 1..30 {
        daemon.reload(&world, version);
        world.append_placed(0, NOW_MS);
        eventually("the next is done", || world.is_done()).await;
    }
    assert!(daemon.stop().await);
    let partition = &world.partitions()[0];
    assert_eq!(world.assert_history_holds(0), (0..30).collect());
    let entries = world.journal.entries();
    let assigned = entries.iter().filter(|entry| entry.reason == Reason::Assigned).count();
    let reloaded = entries.iter().filter(|entry| entry.reason == Reason::Reloaded).count();
    assert_eq!((assigned, reloaded), (1, 29), "{partition}: one task read it all");
    assert!(entries.iter().all(|entry| entry.epoch == 0));
}

/// The version that comes back is the one that is committed; the other one, which wrote beyond, is known from the journal.
#[tokio::test]
async fn who_wrote_beyond_the_committed_offset_is_beaten_even_by_the_version_that_was_committed() {
    let world = world(1);
    (0..3).for_each(|_| world.append_placed(0, NOW_MS));
    let daemon = world.start_with(&stamping(7), Duration::from_secs(5));
    eventually("the first are done", || world.is_done()).await;
    world.group.hold_commits(true);
    daemon.reload(&world, 9);
    (0..3).for_each(|_| world.append_placed(0, NOW_MS));
    eventually("the other has written", || world.versions().values().filter(|version| **version == 9).count() == 3)
        .await;
    daemon.kill().await;
    world.group.hold_commits(false);
    let daemon = world.start_with(&stamping(7), Duration::from_secs(5));
    eventually("the end is committed", || world.is_done()).await;
    assert!(daemon.stop().await);
    assert_eq!(world.assert_history_holds(0), BTreeSet::from([7]));
    let epochs: Vec<i64> = world.table.rows(NOW_MS).iter().map(|row| row.cells["a"].1.0 % 10).collect();
    assert_eq!(epochs, [0, 0, 0, 1, 1, 1]);
}

/// A version that traps on every record goes live while records flow: the one before is back at once, and handles what it
/// could not.
#[tokio::test]
async fn a_version_that_traps_is_rolled_back_by_itself() {
    let world = world(2);
    let daemon = world.start_with(&stamping(1), Duration::from_secs(5));
    (0..100).for_each(|n| world.append_placed(n % 2, NOW_MS));
    eventually("the first are done", || world.is_done()).await;
    let good = daemon.line.live.get();
    let traps: Vec<Arc<dyn Transform>> =
        vec![Arc::new(doubler().with_digest(digest_of(2)).trap_on(b"n", TrapKind::Trap))];
    let probation = Probation::after(Arc::clone(&good), Rules::default());
    let bad = Arc::new(world.generation(2, &traps).on(probation));
    daemon.line.live.put(Arc::clone(&bad));
    (0..200).for_each(|n| world.append_placed(n % 2, NOW_MS));
    eventually("the end is committed", || world.is_done()).await;
    assert!(Arc::ptr_eq(&daemon.line.live.get(), &good));
    let cause = bad.probation.as_ref().expect("it has one").breached().await;
    assert!(cause.contains("trapped or ran into a limit, which the generation before handled"), "{cause}");
    assert!(daemon.stop().await);
    // What had failed before it was too much: its dead letters say so, and the rollback names the range.
    let letters = world.letters.letters().len();
    assert!((1..=4).contains(&letters), "{letters}");
    assert!(!bad.handled().is_empty());
    assert_eq!(world.versions().len() + letters, 300);
    assert!(world.versions().values().all(|version| *version == 1));
}

/// What an earlier task of the same version may have written is redelivered, and another version takes over in its middle.
#[tokio::test]
async fn a_version_that_takes_over_among_redelivered_records_takes_the_next_epoch() {
    let world = world(1);
    let daemon = world.start_with(&stamping(5), Duration::from_secs(5));
    eventually("its start is committed", || world.group.committed(&world.partitions()[0]).is_some()).await;
    world.group.hold_commits(true);
    (0..400).for_each(|_| world.append_placed(0, NOW_MS));
    eventually("all are written", || world.versions().len() == 400).await;
    daemon.kill().await;
    world.group.hold_commits(false);
    world.table.block("nothing is answered");
    let daemon = world.start_with(&stamping(5), Duration::from_secs(5));
    let accepted = world.table.accepted();
    eventually("some are on their way", || world.table.accepted() > accepted).await;
    daemon.reload(&world, 3);
    world.table.unblock();
    eventually("the end is committed", || world.is_done()).await;
    world.append_placed(0, NOW_MS);
    eventually("the end is committed", || world.is_done()).await;
    assert!(daemon.stop().await);
    assert_eq!(world.assert_history_holds(0), BTreeSet::from([3, 5]));
    let epochs = world.table.rows(NOW_MS);
    let epoch = |row: &crate::memory::TableRow| (row.cells["a"].0.clone(), row.cells["a"].1.0 % 10);
    let told: BTreeSet<String> = epochs.iter().map(|row| format!("{:?}", epoch(row))).collect();
    assert_eq!(told, BTreeSet::from(["(S64(3), 0)".into(), "(S64(3), 1)".into(), "(S64(5), 0)".into()]));
}

/// A pipeline whose records may not be passed over stands before one that its plugin cannot handle; the plugin is mended,
/// and the record is handled without a restart.
#[tokio::test]
async fn a_held_record_goes_to_the_plugin_that_was_mended() {
    let mut world = world(1);
    world.errors.poison = Poison::Stop;
    (0..3).for_each(|_| world.append_placed(0, NOW_MS));
    let broken: Vec<Arc<dyn Transform>> =
        vec![Arc::new(doubler().with_digest(digest_of(0)).trap_on(b"n", TrapKind::Trap))];
    let daemon = world.start_with(&broken, Duration::from_secs(5));
    eventually("it is paused", || daemon.line.gate.paused().is_some()).await;
    daemon.reload(&world, 1);
    daemon.line.gate.resume();
    eventually("the end is committed", || world.is_done()).await;
    assert!(daemon.stop().await);
    assert_eq!(world.assert_history_holds(0), BTreeSet::from([1]));
    assert_eq!(world.letters.letters(), []);
}

/// Without a journal, what the old version has begun is committed before the new one begins.
#[tokio::test]
async fn without_a_journal_the_commit_tells_who_wrote() {
    let world = world(1);
    let (mut supervised, source) = world.supervised(&stamping(0), Compute::start(2).unwrap());
    let line = Arc::get_mut(&mut supervised.line).expect("nobody else has it");
    line.journal = None;
    let daemon = world.run(supervised, source, Duration::from_secs(5));
    for version in 1..10 {
        (0..20).for_each(|_| world.append_placed(0, NOW_MS));
        daemon.reload(&world, version);
    }
    eventually("the end is committed", || world.is_done()).await;
    let committed = world.group.committed(&world.partitions()[0]).expect("it is");
    assert!(committed.metadata.contains(&digest_of(9).short()), "{committed:?}");
    assert!(daemon.stop().await);
    assert_eq!(world.versions().len(), 180);
    assert_eq!(world.group.violations(), Vec::<String>::new());
}

/// A decision of the wall reaches over records of which a part has gone out, when another version takes over in the middle
/// of them; whoever goes on behind that, half an hour later, has to find it.
#[tokio::test]
async fn what_the_wall_decided_before_a_version_took_over_holds_for_whoever_goes_on_behind_it() {
    let mut world = world(1);
    world.errors.retry_attempts = u32::MAX;
    let partition = &world.partitions()[0];
    let held = |version: i64, at: &str, delay: Duration| -> Vec<Arc<dyn Transform>> {
        vec![Arc::new(stamping_alone(version).retry_on(at.as_bytes(), u64::MAX, delay))]
    };
    // An hour ahead: each is clamped.
    (0..16).for_each(|_| world.append_placed(0, NOW_MS + 3_600_000));
    let daemon = world.start_with(&held(1, "0/00004", Duration::from_millis(50)), Duration::from_secs(5));
    let next = || world.group.committed(partition).map_or(0, |position| position.next.0);
    eventually("four are committed", || next() == 4).await;
    daemon.line.live.put(Arc::new(world.generation(2, &held(2, "0/00008", Duration::from_hours(1)))));
    eventually("eight are committed", || next() == 8).await;
    daemon.kill().await;
    world.clock.set(NOW_MS + 1_800_000);
    let daemon = world.start_with(&stamping(2), Duration::from_secs(5));
    eventually("the end is committed", || world.is_done()).await;
    assert!(daemon.stop().await);
    let h: Vec<i64> = world.table.rows(NOW_MS).iter().map(|row| row.cells["a"].1.0 / 10).collect();
    assert_eq!(h, (0..16).map(|n| h[0] + n).collect::<Vec<_>>());
}

/// What a plugin has tried and logged is its own: the one that takes over has other steps, and all attempts.
#[tokio::test]
async fn a_held_record_begins_anew_with_the_steps_that_take_over() {
    let world = world(1);
    world.append_placed(0, NOW_MS);
    let asks = |version, times| {
        Arc::new(stamping_alone(version).retry_on(b"0/00000", times, Duration::from_millis(200)).talkative())
    };
    let first = asks(1, u64::MAX);
    let two: [Arc<dyn Transform>; 2] = [Arc::new(MemoryTransform::identity()), Arc::clone(&first) as _];
    let daemon = world.start_with(&two, Duration::from_secs(5));
    eventually("it is held", || first.calls() > 0).await;
    let second = asks(2, 2);
    daemon.line.live.put(Arc::new(world.generation(2, &[Arc::clone(&second) as _])));
    eventually("the end is committed", || world.is_done()).await;
    assert_eq!((first.calls(), second.calls()), (1, 3));
    let assigned = world.journal.entries().iter().filter(|entry| entry.reason == Reason::Assigned).count();
    assert_eq!(assigned, 1, "no task ended over it");
    assert!(daemon.stop().await);
    assert_eq!(world.letters.letters(), []);
    assert_eq!(world.assert_history_holds(0), BTreeSet::from([2]));
}

/// The breaker has paused a pipeline whose plugin fails; the plugin is mended before the pipeline is resumed.
#[tokio::test]
async fn what_the_breaker_held_goes_to_the_plugin_that_was_mended() {
    let mut world = world(1);
    world.errors.breaker = Some(config::Breaker { percent: 50.0, records: 10, within: Duration::from_secs(60) });
    (0..16).for_each(|_| world.append_placed(0, NOW_MS));
    let rejects = MemoryTransform::new("rejects", stamping_alone(0).subscription().clone(), |_| {
        Step::Fail(FailureKind::Reject, "broken".into(), "as it is".into())
    });
    let daemon = world.start_with(&[Arc::new(rejects) as Arc<dyn Transform>], Duration::from_secs(5));
    eventually("it is paused", || daemon.line.gate.paused().is_some()).await;
    daemon.reload(&world, 1);
    daemon.line.gate.resume();
    eventually("the end is committed", || world.is_done()).await;
    assert!(daemon.stop().await);
    assert_eq!(world.letters.letters(), []);
    assert_eq!(world.assert_history_holds(0), BTreeSet::from([1]));
}

/// A part that a generation has made, and not yet written, when it is rolled back: the ranges that were told then are all
/// that it has ever handled.
#[tokio::test]
async fn a_generation_that_was_rolled_back_writes_nothing_that_was_not_told() {
    let world = world(1);
    (0..3).for_each(|_| world.append_placed(0, NOW_MS));
    let daemon = world.start_with(&stamping(1), Duration::from_secs(5));
    eventually("the first are done", || world.is_done()).await;
    let good = daemon.line.live.get();
    let (let_go, held) = crossbeam_channel::unbounded::<()>();
    let slow = stamping_alone(2);
    let calls = Arc::new(std::sync::atomic::AtomicU64::new(0));
    let (subscription, seen) = (slow.subscription().clone(), Arc::clone(&calls));
    let slow = MemoryTransform::new("stamping", subscription, move |_| {
        seen.fetch_add(1, std::sync::atomic::Ordering::SeqCst);
        let _ = held.recv();
        let number = |n| OwnedCell::Value(OwnedValue::S64(n));
        Step::Keep(vec![number(2), number(-2)])
    });
    let bad = Arc::new(world.generation(2, &[Arc::new(slow.with_digest(digest_of(2))) as Arc<dyn Transform>]));
    daemon.line.live.put(Arc::clone(&bad));
    world.append_placed(0, NOW_MS);
    eventually("it is at work", || calls.load(std::sync::atomic::Ordering::SeqCst) > 0).await;
    daemon.line.live.put(Arc::clone(&good));
    let told = bad.revoke();
    drop(let_go);
    eventually("the end is committed", || world.is_done()).await;
    assert!(daemon.stop().await);
    assert_eq!((told, bad.handled()), (BTreeMap::new(), BTreeMap::new()));
    assert_eq!(world.assert_history_holds(0), BTreeSet::from([1]));
}

/// Nobody who looks at a pipeline sees what the generation before makes of the same records, to be held against the new, nor
/// what a candidate makes of them.
#[tokio::test]
async fn what_runs_beside_is_not_seen_in_the_tap() {
    let world = world(1);
    let daemon = world.start_with(&stamping(1), Duration::from_secs(5));
    let (held_against, shadow) = (Arc::new(stamping_alone(1)), Arc::new(stamping_alone(3)));
    let before = Arc::new(world.generation_with_tap(2, &[Arc::clone(&held_against) as _], &daemon.line.tap));
    let candidate = Arc::new(world.generation_with_tap(4, &[Arc::clone(&shadow) as _], &daemon.line.tap));
    daemon.line.shadowing.begin(Arc::new(Shadow::new(candidate, 100, &daemon.line.outputs, Mask::default())));
    let probation = Probation::after(before, Rules::default());
    let new = world.generation_with_tap(3, &stamping(2), &daemon.line.tap).on(probation);
    daemon.line.live.put(Arc::new(new));
    let wish = super::super::tap::Wish { step: None, sample: 1.0, payload: false };
    let mut sights = daemon.line.tap.listen(wish).expect("it shows something");
    for _ in 0..10 {
        world.append_placed(0, NOW_MS);
        eventually("it is done", || world.is_done()).await;
    }
    assert!(daemon.stop().await);
    assert!(held_against.calls() > 0, "some were held against each other");
    assert_eq!(shadow.calls(), 10);
    let mut seen = 0;
    while sights.try_recv().is_ok() {
        seen += 1;
    }
    assert_eq!(seen, 10);
}
