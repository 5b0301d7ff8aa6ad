//! The life of one membership: the thread that polls the main queue from the first join to the last commit.
//!
//! In: a consumer, and the word to leave. Out: callbacks served, commits sent, how far it is with leaving. The last
//! handle of the consumer dies here, never in a reader.

use std::sync::{Arc, mpsc as std_mpsc};
use std::thread;
use std::time::Duration;

use rdkafka::consumer::{BaseConsumer, Consumer};
use tokio::sync::watch;
use tokio::time::Instant;

use super::commits::COMMIT_TIMEOUT;
use super::consumer::{Context, Phase};
use super::keeper::keep;
use super::native::CommitQueue;
use super::slot::{Slot, lock};

/// How long one poll of the main queue waits; and while a reader waits for its first position to stand.
const POLL: Duration = Duration::from_millis(50);
const POLL_BEGINNING: Duration = Duration::from_millis(2);
/// How often positions are committed.
const COMMIT_EVERY: Duration = Duration::from_millis(500);

/// How far a membership is with leaving. The thread that tells it ends with the last word.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Left {
    /// Everything that was handed over is committed.
    pub(super) is_committed: bool,
    /// The group is left.
    pub(super) is_over: bool,
}

/// Joins the group on a thread of its own, which says how far it is with leaving.
pub(super) fn spawn(consumer: Arc<BaseConsumer<Context>>) -> std::io::Result<watch::Receiver<Left>> {
    let context = Arc::clone(consumer.context());
    context.me.set(Arc::downgrade(&consumer)).ok();
    let (left, told) = watch::channel(Left::default());
    thread::Builder::new().name("kafka-poll".to_owned()).spawn(move || poll_until_left(consumer, &left))?;
    Ok(told)
}

/// The thread's whole life. The last handle of the consumer dies here, never in a reader.
fn poll_until_left(consumer: Arc<BaseConsumer<Context>>, left: &watch::Sender<Left>) {
    let context = Arc::clone(consumer.context());
    let (stop, stopped) = std_mpsc::channel();
    let keeper = {
        let consumer = Arc::downgrade(&consumer);
        thread::Builder::new().name("kafka-keeper".to_owned()).spawn(move || keep(&consumer, &stopped))
    };
    let commits = CommitQueue::new(consumer.client()).expect("the client has room for one more queue");
    let mut committed_at = Instant::now();
    while context.is_reading() {
        poll_once(&consumer, &context, if context.is_beginning() { POLL_BEGINNING } else { POLL });
        context.renew(&consumer);
        context.move_partitions(&consumer);
        while let Some(answer) = commits.answer(Duration::ZERO) {
            context.commit_answered(&answer);
        }
        let since_last = committed_at.elapsed();
        if since_last >= COMMIT_EVERY || context.wants_to_begin(since_last) {
            context.commit_soon(&consumer, &commits);
            committed_at = Instant::now();
        }
    }
    drop(commits);
    drop(stop);
    let is_committed = leave(&consumer, &context);
    left.send_replace(Left { is_committed, is_over: false });
    if let Ok(keeper) = keeper {
        keeper.join().ok();
    }
    // The last handle: dropping it leaves the group.
    drop(consumer);
    left.send_replace(Left { is_committed, is_over: true });
}

fn poll_once(consumer: &BaseConsumer<Context>, context: &Context, wait: Duration) {
    match consumer.poll(wait) {
        None => {}
        Some(Ok(message)) => context.stray_record(&message),
        Some(Err(error)) => context.main_queue_error(&error),
    }
}

/// Ends all that is read and commits while still a member, with polls between the tries: a rebalance refuses commits.
/// True where all of it is committed.
fn leave(consumer: &BaseConsumer<Context>, context: &Context) -> bool {
    let slots: Vec<Arc<Slot>> = lock(&context.slots).values().cloned().collect();
    for slot in &slots {
        slot.detach();
        slot.fence();
        context.remember(slot);
    }
    lock(&context.parked).clear();
    // Whoever wanted something moved learns that nobody does it any more.
    drop(lock(&context.seek).take());
    let deadline = lock(&context.leave_by).unwrap_or_else(Instant::now);
    let mut is_committed = false;
    while !context.is_abandoned() {
        let within = COMMIT_TIMEOUT.min(deadline.saturating_duration_since(Instant::now()));
        is_committed = context.commit_now(consumer, &slots, within);
        if is_committed || within.is_zero() {
            break;
        }
        poll_once(consumer, context, POLL);
    }
    if !is_committed {
        tracing::warn!("the last positions were not committed: what came since is read again by the next owner");
    }
    context.enter(Phase::Closing);
    lock(&context.slots).clear();
    lock(&context.parked).clear();
    is_committed
}
