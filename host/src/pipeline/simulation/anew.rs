//! A topic that is made anew while nobody reads it: the group's offsets go with it, and only the journal tells.

use super::*;
use crate::record::Offset;

fn append(world: &World, numbers: std::ops::Range<i64>) {
    for n in numbers {
        world.append(0, NOW_MS, "k", &format!(r#"{{"id":"k{n}","n":{n}}}"#));
    }
}

/// A world whose topic was read to its end, and made anew with other records since.
async fn made_anew() -> World {
    let world = World::new(1);
    append(&world, 1..8);
    for more in 8..10 {
        let daemon = world.start(vec![doubler()], Duration::from_secs(5));
        eventually("all is committed", || world.is_done()).await;
        append(&world, more..more + 1);
        eventually("and what comes", || world.is_done()).await;
        assert!(daemon.stop().await);
    }
    world.log.remake_topic(TOPIC);
    world.group.forget_commits();
    append(&world, 20..23);
    world
}

#[tokio::test]
async fn a_topic_made_anew_while_nobody_reads_is_told_once_and_read_on_where_that_is_wanted() {
    let world = made_anew().await;
    let daemon = world.start(vec![doubler()], Duration::from_secs(5));
    eventually("the new topic is read", || world.is_done()).await;
    let gone = world.group.gone();
    let [(partition, told)] = gone.as_slice() else { panic!("it is told once: {gone:?}") };
    assert_eq!((partition, told.read_until), (&world.partitions()[0], Offset(8)), "as far as the journal tells");
    assert!(daemon.stop().await);

    // The group's offsets expire too, and the topic is the same: nothing is lost by that.
    world.group.forget_commits();
    let daemon = world.start(vec![doubler()], Duration::from_secs(5));
    eventually("it is read again", || world.is_done()).await;
    assert!(daemon.stop().await);
    assert_eq!(world.group.gone(), gone);
    assert_eq!(world.group.violations(), Vec::<String>::new());
}

#[tokio::test]
async fn a_topic_made_anew_that_nothing_is_written_of_is_told_once_all_the_same() {
    let world = made_anew().await;
    world.log.remake_topic(TOPIC);
    for _ in 0..2 {
        let daemon = world.start(vec![doubler()], Duration::from_secs(5));
        eventually("it waits for records", || world.is_done()).await;
        assert!(daemon.stop().await);
    }
    assert_eq!(world.group.gone().len(), 1);
}

#[tokio::test]
async fn a_topic_made_anew_while_nobody_reads_stops_its_pipeline_where_that_is_wanted() {
    let world = made_anew().await;
    world.group.stop_on_lost(true);
    let rows = world.written();
    let daemon = world.start(vec![doubler()], Duration::from_secs(5));
    let cause = || daemon.board.read().pipelines.first().and_then(|pipeline| pipeline.cause.clone());
    eventually("it stops", || cause().is_some_and(|cause| cause.contains("made anew"))).await;
    assert_eq!((world.written(), world.group.committed(&world.partitions()[0])), (rows, None), "nothing is read");
    daemon.stop().await;
}

#[tokio::test]
async fn offsets_that_are_set_by_hand_are_obeyed_whatever_the_journal_tells() {
    let world = made_anew().await;
    world.group.stop_on_lost(true);
    let position = crate::pipeline::Position { next: Offset(1), metadata: String::new() };
    world.group.commit_as_before(&world.partitions()[0], position);
    let daemon = world.start(vec![doubler()], Duration::from_secs(5));
    eventually("it goes on from there", || world.is_done()).await;
    assert_eq!(world.group.gone(), []);
    assert!(daemon.stop().await);
}
