//! Ending tasks within a time, and the one deadline of the end.
//!
//! In: running tasks, how long they may take. Out: whether all of them came to their end. What has not ended in time is
//! dropped where it waits: it stays uncommitted, and whoever goes on repeats it.

use std::sync::{Arc, OnceLock};
use std::time::Duration;

use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep_until};
use tokio_util::sync::CancellationToken;

use crate::pipeline::shared::Shared;

/// Of the time for the end, the part that is kept for the last commits and for leaving the groups: a quarter, but no
/// more than this. A rebalance may refuse a commit for a moment.
const COMMITS_TIME_MAX: Duration = Duration::from_secs(5);

/// A task that runs.
pub(super) struct Running {
    pub(super) generation: u64,
    pub(super) shared: Arc<Shared>,
    pub(super) stop: CancellationToken,
    pub(super) handle: JoinHandle<()>,
}

/// The one deadline of the end, once there is one: all drains obey it, those that began earlier too.
#[derive(Debug, Clone, Default)]
pub(super) struct Hurry {
    deadline: Arc<OnceLock<Instant>>,
    tasks: CancellationToken,
}

impl Hurry {
    /// From now on everything ends within `within`; tasks a little before, so that what they did can be committed.
    pub(super) fn end_within(&self, within: Duration) -> Instant {
        let deadline = *self.deadline.get_or_init(|| Instant::now() + within);
        let tasks = self.tasks.clone();
        tokio::spawn(async move {
            sleep_until(deadline - (within / 4).min(COMMITS_TIME_MAX)).await;
            tasks.cancel();
        });
        deadline
    }

    /// When everything ends, if the end has begun.
    pub(super) fn deadline(&self) -> Option<Instant> {
        self.deadline.get().copied()
    }
}

/// Stops tasks, lets them finish what they began, and drops what has not ended in time. True where all have ended.
pub(super) async fn drain(tasks: Vec<Running>, within: Duration, hurry: Hurry) -> bool {
    tasks.iter().for_each(|task| task.stop.cancel());
    let deadline = Instant::now() + within;
    let mut is_clean = true;
    for mut task in tasks {
        tokio::select! {
            biased;
            _ = &mut task.handle => continue,
            () = sleep_until(deadline) => {}
            () = hurry.tasks.cancelled() => {}
        }
        is_clean = false;
        task.handle.abort();
        // It ends at its next wait: what it read last is dropped with it.
        let _ = task.handle.await;
        let progress = task.shared.progress();
        tracing::warn!(
            partition = %task.shared.partition(), in_flight = progress.in_flight,
            "not drained in time; what was under way stays uncommitted and will be repeated"
        );
    }
    is_clean
}
