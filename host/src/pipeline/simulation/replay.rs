//! The journal and replays over memory: what was clamped, had no time, was begun by several versions and lives, and is
//! read again from anywhere.

use super::super::journal::{Pages, Reason as Why};
use super::super::ranges::Ranges as _;
use super::super::replay::{Part, Reason, ReplayError, ReplayProgress, Wanted, plan};
use super::super::stamping::Inexact;
use super::super::write_clock::AHEAD_MAX_MS;
use super::*;
use crate::record::Offset;

fn ids(partition: &TopicPartition, offset: i64) -> String {
    format!("{}-{offset:05}", partition.partition)
}

impl World {
    /// A record whose row nobody else writes.
    fn append_own(&self, partition: i32, timestamp_ms: Option<i64>) {
        let partition = TopicPartition::new(TOPIC, partition);
        let offset = self.log.end(&partition).0;
        let value = format!(r#"{{"id":"{}","n":{}}}"#, ids(&partition, offset), offset + 1);
        let record = MemoryRecord { timestamp_ms, ..MemoryRecord::new(0, "k", value) };
        self.log.append(&partition, record);
    }

    fn line(&self, transforms: &[Arc<dyn Transform>]) -> Arc<Line> {
        self.supervised(transforms, Compute::start(2).unwrap()).0.line
    }

    /// The same world with an empty table.
    fn with_empty_table(&self) -> Self {
        let column = |name: &str| CellSpec { column: name.into(), path: vec![name.into()] };
        let table = MemorySink::table(vec![column("id"), column("n"), column("double")], &["id"]);
        Self { table, ..self.clone() }
    }

    async fn plan(&self, line: &Line, partition: &TopicPartition, from: i64, until: i64) -> Result<Part, Reason> {
        let ranges = MemoryRanges::of(&self.log);
        let live = line.live.get();
        let wanted = Wanted { digests: &live.digests, configuration: &live.configuration, may_differ: false };
        let entries = self.journal.entries().into_iter().filter(|entry| entry.is_of(partition)).collect();
        let pages = Pages { entries, unreadable: Vec::new() };
        let extent = ranges.extent(partition).await.unwrap();
        plan(partition, (Offset(from), Offset(until)), &extent, pages, wanted).map_err(|refusal| refusal.reason)
    }

    /// Replays a range into this world's table.
    async fn replay(
        &self,
        line: &Arc<Line>,
        partition: &TopicPartition,
        from: i64,
        until: i64,
    ) -> Result<(), ReplayError> {
        let part = self.plan(line, partition, from, until).await.expect("it can be read again");
        let progress = Arc::new(ReplayProgress::default());
        part.run(line, &MemoryRanges::of(&self.log), &progress).await
    }
}

fn transforms(version: &[u8]) -> Vec<Arc<dyn Transform>> {
    vec![Arc::new(doubler().with_digest(Digest::of(version)))]
}

/// Lives of a daemon that are killed, with a wall that moves, and producers that are ahead of it or tell no time.
async fn lives(seed: u64) {
    let mut rng = StdRng::seed_from_u64(seed);
    let world = World::new(2);
    world.group.cut_batches(seed);
    world.table.reorder(seed, Duration::from_millis(2));
    for round in 0..4 {
        for _ in 0..rng.random_range(10..80) {
            let time = match rng.random_range(0..8) {
                0 => Some(NOW_MS + AHEAD_MAX_MS + rng.random_range(0..10 * AHEAD_MAX_MS)),
                1 => None,
                _ => Some(NOW_MS - rng.random_range(0..50)),
            };
            world.append_own(rng.random_range(0..2), time);
        }
        let daemon = world.start_with(&transforms(b"one"), Duration::from_secs(5));
        let some = rng.random_range(0..40);
        let total = world.table.rows(NOW_MS).len() + some;
        for _ in 0..200 {
            if world.table.rows(NOW_MS).len() >= total || world.is_done() {
                break;
            }
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        world.table.crash(seed + round);
        daemon.kill().await;
        world.table.recover();
        // The next life has another wall.
        world.clock.set(NOW_MS + rng.random_range(0..3 * AHEAD_MAX_MS));
    }
    let daemons = [world.start_with(&transforms(b"one"), Duration::from_secs(5))];
    eventually_all(&world, &daemons, seed).await;
    for daemon in daemons {
        assert!(daemon.stop().await, "seed {seed}: drained");
    }
    // Long after: nothing lies ahead of the wall any more.
    world.clock.set(NOW_MS + 1_000 * AHEAD_MAX_MS);
    let live = world.written();
    for partition in world.partitions() {
        let end = world.log.end(&partition).0;
        let from = rng.random_range(0..end);
        let until = rng.random_range(from..end) + 1;
        let other = world.with_empty_table();
        let line = other.line(&transforms(b"one"));
        other.replay(&line, &partition, from, until).await.unwrap_or_else(|error| panic!("seed {seed}: {error}"));
        let wanted: BTreeMap<String, (i64, i64)> =
            (from..until).map(|offset| ids(&partition, offset)).map(|id| (id.clone(), live[&id])).collect();
        assert_eq!(other.written(), wanted, "seed {seed}: {partition} from {from} to {until}");
        world.replay(&world.line(&transforms(b"one")), &partition, from, until).await.unwrap();
        assert_eq!(world.written(), live, "seed {seed}: nothing changes in the live table");
    }
}

#[tokio::test]
async fn a_replay_from_anywhere_writes_identical_cells() {
    for seed in 0..12 {
        lives(seed).await;
    }
}

#[tokio::test]
async fn what_was_clamped_is_clamped_the_same_when_it_comes_again() {
    let world = World::new(1);
    world.append_own(0, Some(NOW_MS + 12 * AHEAD_MAX_MS));
    world.group.hold_commits(true);
    let daemon = world.start(vec![doubler()], Duration::from_secs(5));
    // The first position must stand, the one after the write must not.
    world.group.flush_commits();
    eventually("the start stands", || {
        world.group.flush_commits();
        world.group.committed(&world.partitions()[0]).is_some()
    })
    .await;
    eventually("the row is written", || !world.written().is_empty()).await;
    let first = world.written();
    assert_eq!(first["0-00000"].1, (NOW_MS + AHEAD_MAX_MS) * 1000);
    daemon.kill().await;
    world.group.hold_commits(false);
    world.clock.set(NOW_MS + 20 * AHEAD_MAX_MS);
    let daemon = world.start(vec![doubler()], Duration::from_secs(5));
    eventually("the end is committed", || world.is_done()).await;
    daemon.stop().await;
    assert_eq!(world.written(), first);
}

#[tokio::test]
async fn a_decision_that_was_taken_over_is_not_forgotten_by_newer_ones() {
    let world = World::new(1);
    let partition = &world.partitions()[0];
    for number in 0..40 {
        let ahead = match number {
            20 => AHEAD_MAX_MS + 60_000,
            35 => 100 * AHEAD_MAX_MS,
            _ => 0,
        };
        world.append_own(0, Some(NOW_MS + ahead));
    }
    let life = async |wall_ms| {
        world.clock.set(wall_ms);
        let daemon = world.start(vec![doubler()], Duration::from_secs(5));
        eventually("the end is committed", || world.is_done()).await;
        assert!(daemon.stop().await);
    };
    // The first decides about record 35, and dies at the beginning.
    life(NOW_MS + 10 * AHEAD_MAX_MS).await;
    let decided = world.written()["0-00035"].1;
    let (_, start) = world.group.history().remove(0);
    world.group.commit_as_before(partition, start);
    // The second takes that over, decides about record 20, and dies between the two.
    let before = world.group.history().len();
    life(NOW_MS).await;
    let positions = world.group.history().split_off(before);
    let (_, between) = positions.into_iter().find(|(_, at)| (21..35).contains(&at.next.0)).expect("batches of 16");
    world.group.commit_as_before(partition, between);
    world.table.forget();
    life(NOW_MS).await;
    assert_eq!(world.written()["0-00035"].1, decided);
}

#[tokio::test]
async fn nothing_is_written_before_the_journal_has_it() {
    let world = World::new(1);
    world.append_own(0, Some(NOW_MS));
    world.journal.fail_reads(1);
    world.journal.block("the journal is away");
    let daemon = world.start(vec![doubler()], Duration::from_secs(5));
    let is_blocked = || {
        let board = daemon.board.read();
        let blocked = board.pipelines.iter().flat_map(|pipeline| &pipeline.blocked);
        blocked.into_iter().any(|blocked| blocked.output == "journal" && blocked.cause == "the journal is away")
    };
    eventually("the status names the journal", is_blocked).await;
    let in_flight = || daemon.board.read().pipelines.iter().flat_map(|p| &p.partitions).any(|p| p.in_flight > 0);
    eventually("a record is under way", in_flight).await;
    assert_eq!((world.written(), world.journal.entries()), (BTreeMap::new(), Vec::new()));
    world.journal.unblock();
    eventually("the end is committed", || world.is_done()).await;
    daemon.stop().await;
    assert_eq!(world.journal.entries().iter().map(|entry| entry.reason).collect::<Vec<_>>(), [Why::Assigned]);
    assert_eq!(world.written().len(), 1);
}

#[tokio::test]
async fn a_stop_does_not_wait_for_a_journal_that_is_away() {
    let world = World::new(1);
    world.append_own(0, Some(NOW_MS));
    world.journal.block("the journal is away");
    let daemon = world.start(vec![doubler()], Duration::from_secs(20));
    let in_flight = || daemon.board.read().pipelines.iter().flat_map(|p| &p.partitions).any(|p| p.in_flight > 0);
    eventually("a record is under way", in_flight).await;
    assert!(daemon.stop().await, "the task ends at once");
    assert_eq!(world.written(), BTreeMap::new());
}

#[tokio::test]
async fn the_journal_knows_who_has_written_where_the_offsets_are_gone() {
    let world = World::new(1);
    (0..3).for_each(|_| world.append_own(0, Some(NOW_MS)));
    let daemon = world.start_with(&transforms(b"one"), Duration::from_secs(5));
    eventually("the end is committed", || world.is_done()).await;
    daemon.stop().await;
    world.group.forget_commits();
    let daemon = world.start_with(&transforms(b"two"), Duration::from_secs(5));
    eventually("the end is committed", || world.is_done()).await;
    daemon.stop().await;
    let epochs: Vec<i64> = world.written().values().map(|(_, at)| at % 10).collect();
    assert_eq!(epochs, [1, 1, 1], "no row mixes two versions on a tie");
    let terms: Vec<u64> = world.journal.entries().iter().map(|entry| entry.term).collect();
    assert!(terms.is_sorted() && terms.first() < terms.last(), "{terms:?}");

    // A replay of the second version's work is as exact, and the first version's is refused no more: all of it was
    // written again.
    let other = world.with_empty_table();
    other.replay(&other.line(&transforms(b"two")), &world.partitions()[0], 1, 3).await.unwrap();
    let wanted: BTreeMap<_, _> = world.written().into_iter().skip(1).collect();
    assert_eq!(other.written(), wanted);
}

#[tokio::test]
async fn a_replay_refuses_what_could_not_be_exact() {
    let world = World::new(1);
    let partition = &world.partitions()[0];
    (0..20).for_each(|_| world.append_own(0, Some(NOW_MS)));
    let daemon = world.start_with(&transforms(b"one"), Duration::from_secs(5));
    eventually("the end is committed", || world.is_done()).await;
    daemon.stop().await;
    (0..10).for_each(|_| world.append_own(0, Some(NOW_MS)));
    let daemon = world.start_with(&transforms(b"two"), Duration::from_secs(5));
    eventually("the end is committed", || world.is_done()).await;
    daemon.stop().await;

    let line = world.line(&transforms(b"two"));
    let refused = |from, until| world.plan(&line, partition, from, until);
    assert!(matches!(refused(10, 25).await, Err(Reason::OtherVersion { at: 10, .. })));
    assert!(refused(20, 30).await.is_ok());

    world.log.truncate(partition, Offset(5));
    let Err(Reason::Gone { from: 3, low: 5, remedy }) = refused(3, 30).await else { panic!("records are gone") };
    assert_eq!(remedy, "begin at 0:20");
    let Err(Reason::Gone { from: 0, low: 5, .. }) = refused(7, 9).await else { panic!("the clock needs what is gone") };

    let pages = Pages { entries: world.journal.entries(), unreadable: Vec::new() };
    let mut extent = MemoryRanges::of(&world.log).extent(partition).await.unwrap();
    let live = line.live.get();
    let wanted = Wanted { digests: &live.digests, configuration: &live.configuration, may_differ: false };
    let plan = |extent: &_, pages: &Pages| {
        plan(partition, (Offset(20), Offset(30)), extent, pages.clone(), wanted).map(drop).map_err(|no| no.reason)
    };
    assert_eq!(plan(&extent, &pages), Ok(()));
    extent.is_compacted = true;
    assert_eq!(plan(&extent, &pages), Err(Reason::Compacted));
    extent.is_compacted = false;
    let damaged = Pages { unreadable: vec!["odd".into()], ..pages.clone() };
    assert_eq!(plan(&extent, &damaged), Err(Reason::Unreadable("odd".into())));
    extent.topic_id = Some("another".into());
    assert!(matches!(plan(&extent, &pages), Err(Reason::OtherTopic { .. })));

    world.journal.clear();
    assert!(matches!(refused(20, 30).await, Err(Reason::NoEntry { from: 20, .. })));
}

#[tokio::test]
async fn a_replay_does_not_run_ahead_of_the_pipelines_decisions() {
    let world = World::new(1);
    let partition = &world.partitions()[0];
    world.append_own(0, Some(NOW_MS));
    let daemon = world.start(vec![doubler()], Duration::from_secs(5));
    eventually("the end is committed", || world.is_done()).await;
    daemon.stop().await;
    world.append_own(0, Some(NOW_MS + 2 * AHEAD_MAX_MS));
    let before = world.written();
    let line = world.line(&[Arc::new(doubler())]);
    let ended = world.replay(&line, partition, 0, 2).await;
    let Err(ReplayError::Task(_, super::super::task::TaskError::Inexact(inexact))) = ended else {
        panic!("it must not decide: {ended:?}");
    };
    assert_eq!(inexact, Inexact::Undecided { offset: 1 });
    assert_eq!(world.written(), before, "and has written nothing of it");
}

#[tokio::test]
async fn a_paused_pipeline_is_moved_back_and_writes_the_same_again() {
    let world = World::new(1);
    let partition = &world.partitions()[0];
    for number in 0..20 {
        let ahead = if number % 5 == 3 { 3 * AHEAD_MAX_MS } else { 0 };
        world.append_own(0, Some(NOW_MS + ahead));
    }
    let daemon = world.start(vec![doubler()], Duration::from_secs(5));
    eventually("the end is committed", || world.is_done()).await;
    let before = world.written();
    let seek = |to: &str, dry_run| daemon.commands.seek("events", vec![to.to_owned()], dry_run);

    let refused = seek("0:5", false).await;
    assert!(matches!(refused, Err(CommandError::Refused { state: PipelineState::Running, .. })), "{refused:?}");
    daemon.commands.pause("events").await.unwrap();
    assert!(matches!(seek("yesterday", false).await, Err(CommandError::Words(_))));
    assert!(matches!(seek("0:21", false).await, Err(CommandError::Words(_))), "the topic ends before");
    let answer = seek("0:5", true).await.unwrap();
    let moved = crate::status::SeekMove { topic: TOPIC.into(), partition: 0, from: Some(20), to: 5, exact: true };
    assert_eq!((answer.dry_run, answer.moves), (true, vec![moved.clone()]));
    assert_eq!(world.group.committed(partition).unwrap().next, Offset(20), "nothing was moved");

    assert_eq!(seek("0:5", false).await.unwrap().moves, [moved]);
    let committed = world.group.committed(partition).unwrap();
    assert_eq!(committed.next, Offset(5));
    let h = super::super::checkpoint::Checkpoint::parse(&committed.metadata).unwrap().h;
    assert_eq!(h, before["0-00004"].1, "the clock goes on after the record below");
    // Nothing lies ahead of this wall any more.
    world.clock.set(NOW_MS + 100 * AHEAD_MAX_MS);
    world.table.forget();
    daemon.commands.resume("events").await.unwrap();
    eventually("the end is committed again", || world.is_done()).await;
    let wanted: BTreeMap<_, _> = before.into_iter().skip(5).collect();
    assert_eq!(world.written(), wanted, "the same cells with the same write times");

    // Ahead: what lies between is passed over.
    daemon.commands.pause("events").await.unwrap();
    (0..10).for_each(|_| world.append_own(0, Some(NOW_MS)));
    let ahead = seek("0:25", false).await.unwrap();
    assert_eq!((ahead.moves[0].from, ahead.moves[0].to), (Some(20), 25));
    daemon.commands.resume("events").await.unwrap();
    eventually("the end is committed", || world.is_done()).await;
    daemon.stop().await;
    let ids: Vec<String> = world.written().into_keys().collect();
    assert_eq!(ids.len(), 15 + 5);
    assert!(!ids.contains(&"0-00024".to_owned()) && ids.contains(&"0-00025".to_owned()), "{ids:?}");
    assert_eq!(world.group.violations(), Vec::<String>::new());
}

#[tokio::test]
async fn a_seek_back_over_another_versions_work_is_written_at_the_next_epoch() {
    let world = World::new(1);
    for version in [b"one", b"two"] {
        (0..5).for_each(|_| world.append_own(0, Some(NOW_MS)));
        let daemon = world.start_with(&transforms(version), Duration::from_secs(5));
        eventually("the end is committed", || world.is_done()).await;
        daemon.stop().await;
    }
    let daemon = world.start_with(&transforms(b"two"), Duration::from_secs(5));
    eventually("it reads", || !daemon.board.read().pipelines.iter().all(|p| p.partitions.is_empty())).await;
    daemon.commands.pause("events").await.unwrap();
    daemon.commands.seek("events", vec!["earliest".into()], false).await.unwrap();
    daemon.commands.resume("events").await.unwrap();
    eventually("the end is committed", || world.is_done()).await;
    daemon.stop().await;
    // The second version began what was there at epoch 1, as the first might have written it.
    let epochs: Vec<i64> = world.written().values().map(|(_, at)| at % 10).collect();
    assert_eq!(epochs, [2; 10], "above everything that either has written");
}
