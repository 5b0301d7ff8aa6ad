//! What the watchdog takes for a task that hangs, and what it does not. The clock is paused: it leaps whenever all wait.

use tokio::time::Instant;

use super::*;
use crate::pipeline::{TransformError, TransformInput, TransformOutput};

/// A plugin that waits until it is let go, without a limit that would stop it.
struct Hangs {
    subscription: Subscription,
    permits: crossbeam_channel::Receiver<()>,
}

impl Transform for Hangs {
    fn name(&self) -> &'static str {
        "hangs"
    }

    fn digest(&self) -> Digest {
        Digest::of(b"hangs")
    }

    fn subscription(&self) -> &Subscription {
        &self.subscription
    }

    fn apply(&self, _: &TransformInput<'_>) -> Result<TransformOutput, TransformError> {
        let _ = self.permits.recv();
        Ok(TransformOutput::default())
    }

    fn apply_fresh(&self, input: &TransformInput<'_>) -> Result<TransformOutput, TransformError> {
        self.apply(input)
    }
}

/// As [`doubler`], and may take as long as a busy machine makes it.
struct Patient(MemoryTransform);

impl Transform for Patient {
    fn name(&self) -> &str {
        self.0.name()
    }

    fn digest(&self) -> Digest {
        self.0.digest()
    }

    fn subscription(&self) -> &Subscription {
        self.0.subscription()
    }

    fn wall_limit(&self) -> Duration {
        Duration::from_hours(1_000_000)
    }

    fn apply(&self, input: &TransformInput<'_>) -> Result<TransformOutput, TransformError> {
        self.0.apply(input)
    }

    fn apply_fresh(&self, input: &TransformInput<'_>) -> Result<TransformOutput, TransformError> {
        self.0.apply_fresh(input)
    }
}

/// Runs the pipeline until something is so, or so much time has passed; gives the causes of failures that showed.
async fn run(
    world: &World,
    transform: Arc<dyn Transform>,
    compute: Compute,
    most: Duration,
    until: impl Fn() -> bool,
) -> Vec<String> {
    let (supervised, _source) = world.supervised(&[transform], compute);
    let (_commands, receiver) = Commands::channel();
    let (shutdown, board) = (CancellationToken::new(), StatusBoard::new(0));
    let drain = Duration::from_secs(1);
    let running = tokio::spawn(Supervisor::run(vec![supervised], board.clone(), drain, receiver, shutdown.clone()));
    let end = Instant::now() + most;
    let mut causes = Vec::new();
    while Instant::now() < end && !until() && causes.is_empty() {
        tokio::time::sleep(Duration::from_secs(1)).await;
        causes.extend(board.read().pipelines.first().and_then(|pipeline| pipeline.cause.clone()));
    }
    running.abort();
    causes
}

#[tokio::test(start_paused = true)]
async fn a_compute_thread_that_hangs_is_noticed() {
    let world = World::new(1);
    world.append(0, NOW_MS, "k", r#"{"id":"k","n":1}"#);
    let (permit, permits) = crossbeam_channel::unbounded();
    let plugin = Arc::new(Hangs { subscription: Subscription::default(), permits });
    let causes = run(&world, plugin, Compute::start(1).unwrap(), Duration::from_hours(1), || false).await;
    drop(permit);
    assert!(causes.iter().any(|cause| cause.contains("nothing has moved for 300 s")), "{causes:?}");
}

#[tokio::test(start_paused = true)]
async fn a_task_whose_turn_on_the_compute_threads_has_not_come_does_not_hang() {
    let world = World::new(1);
    world.append(0, NOW_MS, "k", r#"{"id":"k","n":1}"#);
    let compute = Compute::start(1).unwrap();
    let (permit, permits) = crossbeam_channel::unbounded::<()>();
    let busy = compute.clone();
    let other = tokio::spawn(async move { busy.run(async move { permits.recv() }).await });
    tokio::task::yield_now().await;
    let causes = run(&world, Arc::new(Patient(doubler())), compute, Duration::from_hours(1), || false).await;
    drop(permit);
    other.abort();
    assert_eq!(causes, Vec::<String>::new());
}

#[tokio::test(start_paused = true)]
async fn a_slow_sink_that_answers_is_no_task_that_hangs() {
    let world = World::new(1);
    world.table.delay(Duration::from_secs(200));
    world.alerts.delay(Duration::from_secs(400));
    world.append(0, NOW_MS, "k", r#"{"id":"k","n":100}"#);
    let plugin = Arc::new(Patient(doubler()));
    let causes = run(&world, plugin, Compute::start(1).unwrap(), Duration::from_hours(2), || world.is_done()).await;
    assert_eq!(causes, Vec::<String>::new());
    assert!(world.is_done());
}
