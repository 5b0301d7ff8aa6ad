//! What operators ask and are told: pauses, and pipelines that wait for their group.

use super::*;
use crate::pipeline::SourceError;
use crate::status::{CommandAnswer, CommandError, PipelineStatus};

fn status(daemon: &Daemon) -> Option<PipelineStatus> {
    daemon.board.read().pipelines.first().cloned()
}

fn state(daemon: &Daemon) -> Option<PipelineState> {
    status(daemon).map(|pipeline| pipeline.state)
}

fn append_numbers(world: &World, numbers: std::ops::Range<i64>) {
    for n in numbers {
        world.append(0, NOW_MS, "k", &format!(r#"{{"id":"k{n}","n":{n}}}"#));
    }
}

#[tokio::test]
async fn a_pause_is_answered_when_what_was_done_is_committed_and_the_status_says_so() {
    let world = World::new(1);
    let partition = &world.partitions()[0];
    append_numbers(&world, 1..4);
    let daemon = world.start(vec![doubler()], Duration::from_secs(60));
    eventually("the end is committed", || world.is_done()).await;
    world.group.hold_commits(true);
    append_numbers(&world, 4..7);
    let is_handed_over = || world.group.under_way(partition).is_some_and(|position| position.next.0 == 6);
    eventually("all is written, and on its way to being committed", is_handed_over).await;

    let commands = daemon.commands.clone();
    let mut pausing = tokio::spawn(async move { commands.pause("events").await });
    eventually("the status says paused at once", || state(&daemon) == Some(PipelineState::Paused)).await;
    let early = tokio::time::timeout(Duration::from_millis(300), &mut pausing).await;
    assert!(early.is_err(), "nothing is committed yet: {early:?}");
    world.group.flush_commits();
    let answer = pausing.await.expect("no panic").expect("it pauses");
    assert_eq!(answer, CommandAnswer { state: PipelineState::Paused, failed: None, in_flight: 0, committed: true });
    assert!(world.is_done(), "what the answer says is so");
    assert_eq!(state(&daemon), Some(PipelineState::Paused));

    append_numbers(&world, 7..9);
    let again = daemon.commands.pause("events").await.expect("it is paused already");
    assert_eq!((again.state, again.in_flight), (PipelineState::Paused, 0), "nothing more is read");
    world.group.hold_commits(false);
    let resumed = daemon.commands.resume("events").await.expect("it resumes");
    assert_eq!(resumed.state, PipelineState::Running);
    assert_eq!(state(&daemon), Some(PipelineState::Running), "the status says so before the answer comes");
    eventually("the rest is committed", || world.is_done()).await;
    assert!(daemon.stop().await);
}

#[tokio::test]
async fn a_pause_that_is_not_finished_in_time_says_how_much_is_still_under_way() {
    let world = World::new(1);
    append_numbers(&world, 1..4);
    world.table.block("the table is away");
    let daemon = world.start(vec![doubler()], Duration::from_millis(300));
    let in_flight = || status(&daemon).map_or(0, |status| status.partitions.iter().map(|p| p.in_flight).sum());
    eventually("all three are on their way", || in_flight() == 3).await;
    let answer = daemon.commands.pause("events").await.expect("it pauses");
    assert_eq!((answer.state, answer.in_flight), (PipelineState::Paused, 3));
    world.table.unblock();
    eventually("it goes on by itself", || world.is_done()).await;
    daemon.stop().await;
}

#[tokio::test]
async fn a_pause_of_a_pipeline_that_fails_meanwhile_says_so() {
    let world = World::new(1);
    append_numbers(&world, 1..2);
    world.table.block("the table is away");
    let daemon = world.start(vec![doubler()], Duration::from_secs(60));
    let in_flight = || status(&daemon).is_some_and(|status| status.partitions.iter().any(|p| p.in_flight > 0));
    eventually("a write is on its way", in_flight).await;
    let commands = daemon.commands.clone();
    let pausing = tokio::spawn(async move { commands.pause("events").await });
    eventually("it is paused", || state(&daemon) == Some(PipelineState::Paused)).await;
    world.group.fail(&SourceError::Refused("the group is forbidden".into())).await;
    let refused = tokio::time::timeout(Duration::from_secs(20), pausing).await.expect("it is answered").unwrap();
    assert!(
        matches!(&refused, Err(CommandError::Refused { message, .. }) if message.contains("forbidden")),
        "{refused:?}"
    );
    world.table.unblock();
    daemon.stop().await;
}

#[tokio::test]
async fn a_pause_between_two_restarts_holds_when_the_pipeline_is_opened_again() {
    let world = World::new(1);
    append_numbers(&world, 1..4);
    let daemon = world.start(vec![doubler()], Duration::from_secs(5));
    eventually("all is committed", || world.is_done()).await;
    let away = || SourceError::Unreachable { system: "the log".into(), message: "it is away".into() };
    world.group.fail(&away()).await;
    let has_failed = || status(&daemon).is_some_and(|s| s.state == PipelineState::Starting && s.cause.is_some());
    eventually("it waits before it is opened again", has_failed).await;
    let answer = daemon.commands.pause("events").await.expect("it can be paused");
    assert_eq!((answer.state, answer.in_flight, answer.committed), (PipelineState::Paused, 0, true));
    assert!(
        answer.failed.is_some_and(|failed| failed.contains("it is away")),
        "the answer says that it is opened again"
    );
    let told = status(&daemon).expect("a status");
    assert!(told.state == PipelineState::Paused && told.cause.is_some_and(|cause| cause.contains("opened again")));

    append_numbers(&world, 4..6);
    let is_open = || status(&daemon).is_some_and(|status| !status.partitions.is_empty());
    eventually("it is opened again", is_open).await;
    let answer = daemon.commands.pause("events").await.expect("it is paused");
    let still = CommandAnswer { state: PipelineState::Paused, failed: None, in_flight: 0, committed: true };
    assert_eq!(answer, still, "and stands still");
    assert!(!world.is_done(), "nothing more is read");
    daemon.commands.resume("events").await.expect("it resumes");
    eventually("the rest is committed", || world.is_done()).await;
    assert!(daemon.stop().await);
}

#[tokio::test]
async fn a_pause_under_which_the_pipeline_fails_and_is_opened_again_is_answered_all_the_same() {
    let world = World::new(1);
    append_numbers(&world, 1..2);
    world.table.block("the table is away");
    let daemon = world.start(vec![doubler()], Duration::from_millis(300));
    let in_flight = || status(&daemon).is_some_and(|status| status.partitions.iter().any(|p| p.in_flight > 0));
    eventually("a write is on its way", in_flight).await;
    let commands = daemon.commands.clone();
    let pausing = tokio::spawn(async move { commands.pause("events").await });
    eventually("it is paused", || state(&daemon) == Some(PipelineState::Paused)).await;
    world.group.fail(&SourceError::Broken("the client failed".into())).await;
    let answer = tokio::time::timeout(Duration::from_secs(20), pausing).await.expect("it is answered").unwrap();
    assert_eq!(answer.expect("the pause holds").state, PipelineState::Paused);
    world.table.unblock();
    daemon.stop().await;
}

#[tokio::test]
async fn a_pipeline_that_its_group_has_not_let_in_is_starting_and_says_for_what_it_waits() {
    let world = World::new(1);
    let held = world.group.hold_rebalances().await;
    let daemon = world.start(vec![doubler()], Duration::from_secs(5));
    let cause = || status(&daemon).and_then(|status| status.cause);
    eventually("it says that it waits", || cause().is_some()).await;
    assert_eq!(state(&daemon), Some(PipelineState::Starting));
    assert_eq!(cause().as_deref(), Some("waiting for its partitions"));
    assert_eq!(daemon.board.read().unready_causes(), ["pipeline events: starting: waiting for its partitions"]);
    drop(held);
    eventually("it runs", || state(&daemon) == Some(PipelineState::Running)).await;
    assert_eq!(daemon.board.read().unready_causes(), Vec::<String>::new());
    daemon.stop().await;
}

#[tokio::test]
async fn a_daemon_for_which_no_partition_is_left_is_ready() {
    let world = World::new(1);
    let first = world.start(vec![doubler()], Duration::from_secs(5));
    eventually("the first reads", || status(&first).is_some_and(|status| !status.partitions.is_empty())).await;
    let second = world.start(vec![doubler()], Duration::from_secs(5));
    eventually("the second has joined", || state(&second) == Some(PipelineState::Running)).await;
    assert_eq!(second.board.read().unready_causes(), Vec::<String>::new());
    assert_eq!(status(&second).map(|status| status.partitions.len()), Some(0));
    second.stop().await;
    first.stop().await;
}
