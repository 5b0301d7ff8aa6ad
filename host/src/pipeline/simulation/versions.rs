//! Versions of a pipeline that follow each other on the same records: which write times they use.

use super::*;
use crate::status::PipelineStatus;

const DRAIN: Duration = Duration::from_secs(5);
/// The drain of one whose sink never answers.
const FORCED: Duration = Duration::from_millis(10);

fn version(number: u8) -> MemoryTransform {
    doubler().with_digest(Digest::of(&[number]))
}

/// Traps on all of them.
fn broken(number: u8) -> MemoryTransform {
    version(number).trap_on(b"n", TrapKind::Trap)
}

fn status(daemon: &Daemon) -> Option<PipelineStatus> {
    daemon.board.read().pipelines.first().cloned()
}

async fn until_it_is(state: PipelineState, daemon: &Daemon) -> String {
    eventually("its state", || status(daemon).is_some_and(|pipeline| pipeline.state == state)).await;
    status(daemon).and_then(|pipeline| pipeline.cause).unwrap_or_default()
}

/// Runs a version that hands its rows to a table that does not answer, and is stopped.
async fn wrote_who_knows_what(world: &World, transform: MemoryTransform) {
    let before = world.table.accepted();
    let daemon = world.start(vec![transform], FORCED);
    eventually("rows are on their way", || world.table.accepted() > before).await;
    assert!(!daemon.stop().await, "the table does not answer");
}

async fn finish(world: &World, transform: MemoryTransform) {
    let daemon = world.start(vec![transform], DRAIN);
    eventually("the end is committed", || world.is_done()).await;
    assert!(daemon.stop().await);
}

fn epochs(world: &World) -> Vec<i64> {
    world.written().values().map(|(_, at)| at % 10).collect()
}

fn three_records() -> World {
    let mut world = World::new(1);
    world.errors.poison = Poison::Stop;
    for n in 1..=3 {
        world.append(0, NOW_MS, "k", &format!(r#"{{"id":"k{n}","n":{n}}}"#));
    }
    world
}

#[tokio::test]
async fn versions_that_wrote_nothing_use_up_no_write_times() {
    let world = three_records();
    for number in 0..12 {
        let daemon = world.start(vec![broken(number)], DRAIN);
        until_it_is(PipelineState::Paused, &daemon).await;
        assert!(daemon.stop().await);
    }
    finish(&world, version(12)).await;
    assert_eq!(epochs(&world), [0, 0, 0]);
    assert_eq!(world.written(), world.expected());
    assert_eq!(world.group.violations(), Vec::<String>::new());
}

#[tokio::test]
async fn versions_that_wrote_nothing_do_not_hide_one_before_them_that_may_have() {
    let world = three_records();
    world.table.block("nothing is answered");
    wrote_who_knows_what(&world, version(0)).await;
    world.table.unblock();
    for number in 1..12 {
        let daemon = world.start(vec![broken(number)], DRAIN);
        until_it_is(PipelineState::Paused, &daemon).await;
        assert!(daemon.stop().await);
    }
    finish(&world, version(12)).await;
    assert_eq!(epochs(&world), [1, 1, 1]);
}

#[tokio::test]
async fn an_eleventh_version_on_the_same_records_is_refused_and_the_tenth_finishes_them() {
    let world = three_records();
    world.table.block("nothing is answered");
    for number in 0..10 {
        wrote_who_knows_what(&world, version(number)).await;
    }
    let daemon = world.start(vec![version(10)], DRAIN);
    let cause = until_it_is(PipelineState::Stopped, &daemon).await;
    assert!(cause.contains("records 0 to 3") && cause.contains("go back to the version that ran last"), "{cause}");
    assert!(daemon.stop().await);
    world.table.unblock();
    finish(&world, version(9)).await;
    assert_eq!(epochs(&world), [9, 9, 9]);
}

#[tokio::test]
async fn another_version_writes_what_may_have_been_written_at_the_next_epoch() {
    let world = World::new(1);
    for n in 1..=3 {
        world.append(0, NOW_MS, "k", &format!(r#"{{"id":"k{n}","n":{n}}}"#));
    }
    world.table.block("nothing is answered");
    let daemon = world.start(vec![doubler()], Duration::from_millis(10));
    eventually("rows are on their way", || world.table.accepted() > 0).await;
    daemon.stop().await;
    world.table.unblock();
    let daemon = world.start(vec![doubler().with_digest(Digest::of(b"second"))], Duration::from_secs(5));
    eventually("the end is committed", || world.is_done()).await;
    world.append(0, NOW_MS, "k", r#"{"id":"k4","n":4}"#);
    eventually("the new record is committed", || world.is_done()).await;
    daemon.stop().await;
    let epochs: Vec<i64> = world.written().values().map(|(_, at)| at % 10).collect();
    assert_eq!(epochs, [1, 1, 1, 0]);
}

#[tokio::test]
async fn a_new_partition_begins_at_the_topics_highest_time_however_long_it_was_idle() {
    let world = World::new(1);
    let run = async || {
        let daemon = world.start(vec![doubler()], DRAIN);
        eventually("the end is committed", || world.is_done()).await;
        assert!(daemon.stop().await);
    };
    let ahead_ms = NOW_MS + 240_000;
    world.append(0, ahead_ms, "k", r#"{"id":"moved","n":1}"#);
    run().await;
    world.log.create_topic(TOPIC, 2);
    for n in 2..4 {
        run().await;
        world.append(0, NOW_MS, "k", &format!(r#"{{"id":"stayed","n":{n}}}"#));
        run().await;
    }
    // From now on the key's records go to the new partition.
    world.append(1, NOW_MS, "k", r#"{"id":"moved","n":4}"#);
    run().await;
    let (n, at) = world.written()["moved"];
    assert_eq!(n, 4);
    assert!(at > ahead_ms * 1000, "{at}");
}
