//! The supervisor: one loop over a closed [`Event`], so that assignments, failures, commands and the shutdown can never
//! interleave.
//!
//! In: what sources, tasks, operators and the clock say. Out: tasks that run or drain, and a snapshot for the status.
//! What takes long (a drain, an opening) runs beside the loop and comes back as an event. Never touches a record.

use std::collections::HashMap;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::Duration;

use futures::FutureExt as _;
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinHandle;
use tokio::time::{Instant, MissedTickBehavior, interval, timeout_at};
use tokio_util::sync::CancellationToken;

use crate::pipeline::compute::Panicked;
use crate::pipeline::gate::PausedBy;
use crate::pipeline::line::Line;
use crate::pipeline::task::{Shared, Task, TaskError};
use crate::pipeline::{Assignment, Source, SourceError, SourceEvent};
use crate::record::TopicPartition;
use crate::status::{
    BlockedOutput, Command, CommandError, PartitionStatus, Phase, PipelineState, PipelineStatus, StatusBoard,
};
use crate::telemetry::Metric;

/// How often snapshots are taken.
const TICK: Duration = Duration::from_millis(250);
/// A task with work under way that has not moved for this long, while nothing is blocked, has failed.
const STALLED_AFTER: Duration = Duration::from_secs(300);
/// Waits before a failed pipeline is opened again: the first, and the longest.
const RESTART_AFTER: Duration = Duration::from_secs(1);
const RESTART_AFTER_MAX: Duration = Duration::from_secs(60);
/// A pipeline that ran this long starts its waits anew.
const RESTART_FORGIVEN_AFTER: Duration = Duration::from_secs(300);

/// Everything that can happen.
enum Event {
    /// A source has spoken.
    Source(usize, u64, SourceEvent),
    /// A source was opened, or was not.
    Opened(usize, Result<(), SourceError>),
    /// A task has ended without having been told to.
    TaskFailed(usize, TopicPartition, u64, String, Retry),
    /// The tasks of a failed pipeline have ended.
    Drained(usize),
    /// Its source is not listened to any more, and all that it had said was handled.
    Quiet(usize),
    /// A failed pipeline has been closed.
    Closed(usize),
    /// The wait before a failed pipeline is opened again is over.
    Reopen(usize, u64),
    /// An operator asks.
    Command(Command),
    /// Time for a snapshot.
    Tick,
    /// The process was told to end.
    Shutdown,
}

/// Whether a failed pipeline is opened again by itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Retry {
    Yes,
    No,
}

/// A pipeline that the supervisor runs.
pub struct Supervised {
    /// What its tasks share.
    pub line: Arc<Line>,
    /// Where its records come from.
    pub source: Arc<dyn Source>,
}

/// ```text
///            open            Assigned, Revoked: tasks come and go
///  Starting ──────► Running ◄──────────────────────┐
///     ▲                │ source or task fails       │
///     │ wait, or       ▼                            │
///     │ resume      Closing ──► Stopped (remedy outside, or a wait)
///     └──────────────────────────────┘
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
enum State {
    Starting,
    Running,
    Closing { cause: String, retry: Retry },
    Stopped { cause: String, retry: Retry },
}

struct Pipeline {
    line: Arc<Line>,
    source: Arc<dyn Source>,
    state: State,
    /// Rises with each opening: what an older opening said is passed over.
    opening: u64,
    opened_at: Instant,
    restarts: u32,
    tasks: HashMap<TopicPartition, Running>,
    /// Brings the source's events.
    listening: Option<JoinHandle<()>>,
    /// Revocations to be answered when the tasks of a failed pipeline have ended.
    unanswered: Vec<oneshot::Sender<()>>,
}

struct Running {
    generation: u64,
    shared: Arc<Shared>,
    stop: CancellationToken,
    handle: JoinHandle<()>,
}

/// The loop's own data.
pub struct Supervisor {
    pipelines: Vec<Pipeline>,
    board: StatusBoard,
    drain: Duration,
    events: mpsc::Sender<Event>,
}

impl Supervisor {
    /// Runs all pipelines until `shutdown`, and then until each has been drained, or its time is over.
    /// True where every task came to its end.
    pub async fn run(
        pipelines: Vec<Supervised>,
        board: StatusBoard,
        drain: Duration,
        mut commands: mpsc::Receiver<Command>,
        shutdown: CancellationToken,
    ) -> bool {
        let (events, mut queue) = mpsc::channel(64);
        let pipeline = |Supervised { line, source }| Pipeline {
            line,
            source,
            state: State::Starting,
            opening: 0,
            opened_at: Instant::now(),
            restarts: 0,
            tasks: HashMap::new(),
            listening: None,
            unanswered: Vec::new(),
        };
        let mut supervisor = Self { pipelines: pipelines.into_iter().map(pipeline).collect(), board, drain, events };
        (0..supervisor.pipelines.len()).for_each(|at| supervisor.open(at));
        let mut tick = interval(TICK);
        tick.set_missed_tick_behavior(MissedTickBehavior::Skip);
        loop {
            let event = tokio::select! {
                biased;
                () = shutdown.cancelled() => Event::Shutdown,
                Some(command) = commands.recv() => Event::Command(command),
                Some(event) = queue.recv() => event,
                _ = tick.tick() => Event::Tick,
            };
            if matches!(event, Event::Shutdown) {
                // The queue stays open: a revocation that was on its way is answered by being dropped.
                return supervisor.shut_down(queue).await;
            }
            supervisor.handle(event);
        }
    }

    fn handle(&mut self, event: Event) {
        match event {
            Event::Source(at, opening, event) if opening == self.pipelines[at].opening => self.source_event(at, event),
            // An older opening: dropping its event answers it.
            Event::Source(..) | Event::Shutdown => {}
            Event::Opened(at, Ok(())) => self.opened(at),
            Event::Opened(at, Err(error)) => self.fail(at, error.to_string(), retry_of(&error)),
            Event::TaskFailed(at, partition, generation, cause, retry) => {
                let is_current = self.pipelines[at].tasks.get(&partition).is_some_and(|t| t.generation == generation);
                if is_current {
                    self.fail(at, cause, retry);
                }
            }
            Event::Drained(at) => self.drained(at),
            Event::Quiet(at) => self.close(at),
            Event::Closed(at) => self.closed(at),
            Event::Reopen(at, opening) => {
                let pipeline = &self.pipelines[at];
                if pipeline.opening == opening && matches!(pipeline.state, State::Stopped { retry: Retry::Yes, .. }) {
                    self.open(at);
                }
            }
            Event::Command(command) => self.command(command),
            Event::Tick => {
                self.watch();
                self.publish(Phase::Running);
            }
        }
    }

    // ------------------------------------------------------------------------------------------- opening and closing

    fn open(&mut self, at: usize) {
        let pipeline = &mut self.pipelines[at];
        pipeline.state = State::Starting;
        pipeline.opening += 1;
        pipeline.opened_at = Instant::now();
        let (opening, source, events) = (pipeline.opening, Arc::clone(&pipeline.source), self.events.clone());
        pipeline.listening = Some(tokio::spawn(async move {
            let (sender, mut receiver) = mpsc::channel(16);
            let opened = source.open(sender).await;
            let is_open = opened.is_ok();
            let _ = events.send(Event::Opened(at, opened)).await;
            while is_open && let Some(event) = receiver.recv().await {
                if events.send(Event::Source(at, opening, event)).await.is_err() {
                    return;
                }
            }
        }));
    }

    fn opened(&mut self, at: usize) {
        let pipeline = &mut self.pipelines[at];
        if pipeline.state == State::Starting {
            pipeline.state = State::Running;
            tracing::info!(pipeline = %pipeline.line.name, "joined its group");
        }
    }

    /// A pipeline cannot go on as it is: its tasks are drained and its source closed, then it waits or stands still.
    fn fail(&mut self, at: usize, cause: String, retry: Retry) {
        let pipeline = &mut self.pipelines[at];
        if matches!(pipeline.state, State::Closing { .. } | State::Stopped { .. }) {
            return;
        }
        tracing::error!(pipeline = %pipeline.line.name, "failed: {cause}");
        pipeline.state = State::Closing { cause, retry };
        let (drained, events) = (self.stop_all(at), self.events.clone());
        tokio::spawn(async move {
            drained.await;
            let _ = events.send(Event::Drained(at)).await;
        });
    }

    fn drained(&mut self, at: usize) {
        let pipeline = &mut self.pipelines[at];
        pipeline.unanswered.drain(..).for_each(answer);
        let (listening, events) = (pipeline.listening.take(), self.events.clone());
        tokio::spawn(async move {
            stop_listening(listening).await;
            let _ = events.send(Event::Quiet(at)).await;
        });
    }

    /// Closes a source whose readers are all gone: those of tasks, and those of assignments that nobody took.
    fn close(&self, at: usize) {
        let (source, events) = (Arc::clone(&self.pipelines[at].source), self.events.clone());
        tokio::spawn(async move {
            source.close().await;
            let _ = events.send(Event::Closed(at)).await;
        });
    }

    fn closed(&mut self, at: usize) {
        let pipeline = &mut self.pipelines[at];
        let State::Closing { cause, retry } = pipeline.state.clone() else { return };
        pipeline.state = State::Stopped { cause, retry };
        if retry == Retry::No {
            return;
        }
        if pipeline.opened_at.elapsed() > RESTART_FORGIVEN_AFTER {
            pipeline.restarts = 0;
        }
        let wait = (RESTART_AFTER * 2_u32.saturating_pow(pipeline.restarts)).min(RESTART_AFTER_MAX);
        pipeline.restarts += 1;
        let telemetry = pipeline.line.meters.telemetry();
        telemetry.count(Metric::Restarts, &[("pipeline", &pipeline.line.name)], 1);
        let (events, opening) = (self.events.clone(), pipeline.opening);
        tokio::spawn(async move {
            tokio::time::sleep(wait).await;
            let _ = events.send(Event::Reopen(at, opening)).await;
        });
    }

    // ------------------------------------------------------------------------------------------------- assignments

    fn source_event(&mut self, at: usize, event: SourceEvent) {
        let telemetry = self.pipelines[at].line.meters.telemetry().clone();
        let name = self.pipelines[at].line.name.clone();
        let rebalanced = |change| telemetry.count(Metric::Rebalances, &[("pipeline", &name), ("change", change)], 1);
        match event {
            SourceEvent::Assigned(assignments) => {
                rebalanced("assigned");
                self.opened(at);
                assignments.into_iter().for_each(|assignment| self.start(at, assignment));
            }
            SourceEvent::Revoked { done, .. } if matches!(self.pipelines[at].state, State::Closing { .. }) => {
                self.pipelines[at].unanswered.push(done);
            }
            SourceEvent::Revoked { partitions, lost, done } => {
                rebalanced(if lost { "lost" } else { "revoked" });
                let tasks = &mut self.pipelines[at].tasks;
                let going: Vec<_> = partitions.iter().filter_map(|partition| tasks.remove(partition)).collect();
                // What is lost belongs to somebody else: nothing that is still under way can be committed.
                let within = if lost { Duration::ZERO } else { self.drain };
                self.forget_partitions(at, &partitions);
                tokio::spawn(async move {
                    drain(going, within).await;
                    answer(done);
                });
            }
            SourceEvent::Failed(error) => self.fail(at, error.to_string(), retry_of(&error)),
        }
    }

    fn start(&mut self, at: usize, assignment: Assignment) {
        let pipeline = &mut self.pipelines[at];
        if !matches!(pipeline.state, State::Running) {
            return;
        }
        let (partition, generation) = (assignment.partition.clone(), assignment.generation);
        let stop = CancellationToken::new();
        tracing::info!(pipeline = %pipeline.line.name, %partition, start = %assignment.start, "assigned");
        let task = match Task::new(&pipeline.line, assignment, stop.clone()) {
            Ok(task) => task,
            Err(error) => return self.fail(at, error.to_string(), Retry::No),
        };
        let (shared, events, from) = (task.shared(), self.events.clone(), partition.clone());
        let handle = tokio::spawn(async move {
            let ended = AssertUnwindSafe(task.run()).catch_unwind().await;
            if let Err(error) = ended.unwrap_or_else(|panic| Err(Panicked::from(panic).into())) {
                let retry = match &error {
                    TaskError::Source(error) => retry_of(error),
                    TaskError::Epochs(_) => Retry::No,
                    TaskError::Internal(_) => Retry::Yes,
                };
                let _ = events.send(Event::TaskFailed(at, from, generation, error.to_string(), retry)).await;
            }
        });
        if let Some(older) = pipeline.tasks.insert(partition, Running { generation, shared, stop, handle }) {
            // Its assignment has ended without a word: what it still does is not committed any more.
            older.stop.cancel();
            older.handle.abort();
        }
    }

    /// Stops all tasks of a pipeline; the answer resolves when they have ended.
    fn stop_all(&mut self, at: usize) -> impl Future<Output = bool> + Send + use<> {
        let going: Vec<Running> = self.pipelines[at].tasks.drain().map(|(_, task)| task).collect();
        let partitions: Vec<TopicPartition> = going.iter().map(|task| task.shared.partition().clone()).collect();
        self.forget_partitions(at, &partitions);
        drain(going, self.drain)
    }

    fn forget_partitions(&self, at: usize, partitions: &[TopicPartition]) {
        let line = &self.pipelines[at].line;
        for TopicPartition { topic, partition } in partitions {
            let partition = partition.to_string();
            let labels = [("pipeline", line.name.as_str()), ("topic", topic), ("partition", &partition)];
            line.meters.telemetry().forget(Metric::Lag, &labels);
            line.meters.telemetry().forget(Metric::Committed, &labels);
        }
    }

    // ---------------------------------------------------------------------------------------------------- commands

    fn command(&mut self, command: Command) {
        let (name, reply, is_pause) = match command {
            Command::Pause { pipeline, reply } => (pipeline, reply, true),
            Command::Resume { pipeline, reply } => (pipeline, reply, false),
        };
        let Some(at) = self.pipelines.iter().position(|pipeline| pipeline.line.name == name) else {
            let known = self.pipelines.iter().map(|pipeline| pipeline.line.name.clone()).collect();
            let _ = reply.send(Err(CommandError::UnknownPipeline { name, known }));
            return;
        };
        if is_pause {
            self.pause(at, reply);
        } else {
            self.resume(at, reply);
        }
    }

    fn pause(&mut self, at: usize, reply: crate::status::CommandReply) {
        let pipeline = &self.pipelines[at];
        if let State::Stopped { cause, .. } | State::Closing { cause, .. } = &pipeline.state {
            let (name, message) = (pipeline.line.name.clone(), cause.clone());
            let _ = reply.send(Err(CommandError::Refused { name, state: PipelineState::Stopped, message }));
            return;
        }
        if pipeline.line.gate.pause(PausedBy::Operator, "paused by an operator") {
            pipeline.line.meters.paused(PausedBy::Operator.name());
        }
        let tasks: Vec<Arc<Shared>> = pipeline.tasks.values().map(|task| Arc::clone(&task.shared)).collect();
        let deadline = Instant::now() + self.drain;
        tokio::spawn(async move {
            while tasks.iter().any(|task| task.progress().in_flight > 0) && Instant::now() < deadline {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
            let _ = reply.send(Ok(PipelineState::Paused));
        });
    }

    fn resume(&mut self, at: usize, reply: crate::status::CommandReply) {
        let pipeline = &mut self.pipelines[at];
        pipeline.line.gate.resume();
        match &pipeline.state {
            State::Stopped { .. } => {
                pipeline.restarts = 0;
                self.open(at);
                let _ = reply.send(Ok(PipelineState::Starting));
            }
            State::Closing { cause, .. } => {
                let (name, message) = (pipeline.line.name.clone(), format!("it is being closed ({cause}); try again"));
                let _ = reply.send(Err(CommandError::Refused { name, state: PipelineState::Stopped, message }));
            }
            State::Starting | State::Running => {
                let _ = reply.send(Ok(PipelineState::Running));
            }
        }
    }

    // ---------------------------------------------------------------------------------------- watching and telling

    /// The broker's client is content as long as anybody polls it, so a task that hangs is noticed only here.
    fn watch(&mut self) {
        for at in 0..self.pipelines.len() {
            let pipeline = &self.pipelines[at];
            if pipeline.line.gate.paused().is_some() || !blocked(&pipeline.line).is_empty() {
                pipeline.tasks.values().for_each(|task| task.shared.note_moved());
                continue;
            }
            let stalled = pipeline.tasks.values().find(|task| {
                let progress = task.shared.progress();
                progress.in_flight > 0 && progress.still_for > STALLED_AFTER
            });
            if let Some(task) = stalled {
                let cause = format!("{}: nothing has moved for {} s", task.shared.partition(), STALLED_AFTER.as_secs());
                self.fail(at, cause, Retry::Yes);
            }
        }
    }

    fn publish(&self, phase: Phase) {
        self.board.publish(phase, self.pipelines.iter().map(snapshot).collect());
    }

    async fn shut_down(mut self, mut queue: mpsc::Receiver<Event>) -> bool {
        self.publish(Phase::Draining);
        let draining = (0..self.pipelines.len()).map(|at| self.stop_all(at)).collect::<Vec<_>>();
        let mut draining = futures::future::join_all(draining);
        let mut unanswered = Vec::new();
        let drained = loop {
            tokio::select! {
                drained = &mut draining => break drained,
                Some(event) = queue.recv() => {
                    // What is revoked meanwhile is answered when its tasks have ended; all else has come too late.
                    if let Event::Source(_, _, SourceEvent::Revoked { done, .. }) = event {
                        unanswered.push(done);
                    }
                }
            }
        };
        unanswered.into_iter().for_each(answer);
        futures::future::join_all(self.pipelines.iter_mut().map(|pipeline| stop_listening(pipeline.listening.take())))
            .await;
        drop(queue);
        futures::future::join_all(self.pipelines.iter().map(|pipeline| pipeline.source.close())).await;
        self.publish(Phase::Draining);
        drained.into_iter().all(|is_clean| is_clean)
    }
}

/// The tasks of a revocation have ended. The source may be gone meanwhile.
fn answer(done: oneshot::Sender<()>) {
    let _ = done.send(());
}

/// An assignment that is on its way is dropped with it; nobody has read from it.
async fn stop_listening(listening: Option<JoinHandle<()>>) {
    if let Some(listening) = listening {
        listening.abort();
        let _ = listening.await;
    }
}

/// Stops tasks, lets them finish what they began, and drops what has not ended in time. True where all have ended.
async fn drain(tasks: Vec<Running>, within: Duration) -> bool {
    tasks.iter().for_each(|task| task.stop.cancel());
    let deadline = Instant::now() + within;
    let mut is_clean = true;
    for mut task in tasks {
        if timeout_at(deadline, &mut task.handle).await.is_err() {
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
    }
    is_clean
}

/// Faults of the other side are tried again; what needs a decision is not.
fn retry_of(error: &SourceError) -> Retry {
    match error {
        SourceError::Unreachable { .. } | SourceError::Broken(_) => Retry::Yes,
        SourceError::Refused(_) | SourceError::Lost { .. } => Retry::No,
    }
}

fn blocked(line: &Line) -> Vec<BlockedOutput> {
    let outputs = line.outputs.iter().filter_map(|output| {
        output.sink.blocked().map(|cause| BlockedOutput { output: output.encoder.name.clone(), cause })
    });
    let letters = line.dead_letters.blocked().map(|cause| BlockedOutput { output: "dead letters".to_owned(), cause });
    outputs.chain(letters).collect()
}

/// A pipeline as plain data, and its gauges.
fn snapshot(pipeline: &Pipeline) -> PipelineStatus {
    let line = &pipeline.line;
    let mut status = PipelineStatus::starting(&line.name);
    let paused = line.gate.paused();
    (status.state, status.cause) = match (&pipeline.state, &paused) {
        (State::Stopped { cause, retry: Retry::Yes }, _) => (PipelineState::Starting, Some(cause.clone())),
        (State::Closing { cause, .. } | State::Stopped { cause, .. }, _) => {
            (PipelineState::Stopped, Some(cause.clone()))
        }
        (_, Some(pause)) => (PipelineState::Paused, Some(pause.cause.clone())),
        (State::Starting, None) => (PipelineState::Starting, None),
        (State::Running, None) => (PipelineState::Running, None),
    };
    if matches!(status.state, PipelineState::Paused | PipelineState::Stopped) {
        status.resume_command = Some(format!("pelton resume {}", line.name));
    }
    let ends: HashMap<TopicPartition, i64> =
        pipeline.source.ends().into_iter().map(|(partition, end)| (partition, end.0)).collect();
    status.partitions = pipeline.tasks.values().map(|task| partition_status(task, &ends)).collect();
    status.partitions.sort_by(|a, b| (&a.topic, a.partition).cmp(&(&b.topic, b.partition)));
    status.blocked = blocked(line);
    let totals = line.meters.totals();
    status.records_total = totals.records;
    status.rows_total = totals.rows;
    status.dead_letters_total = totals.dead_letters;
    status.filtered_total = totals.filtered;
    status.skipped_total = totals.skipped;
    status.expired_total = totals.expired;
    status.retries_total = totals.retries;
    gauges(line, &status);
    status
}

fn partition_status(task: &Running, ends: &HashMap<TopicPartition, i64>) -> PartitionStatus {
    let partition = task.shared.partition();
    let progress = task.shared.progress();
    let (committed, end) = (progress.committed.map(|offset| offset.0), ends.get(partition).copied());
    let lag = committed.zip(end).map(|(committed, end)| (end - committed).max(0).cast_unsigned());
    PartitionStatus {
        topic: partition.topic.to_string(),
        partition: partition.partition,
        committed,
        end,
        lag,
        in_flight: progress.in_flight as u64,
    }
}

fn gauges(line: &Line, status: &PipelineStatus) {
    let telemetry = line.meters.telemetry();
    let pipeline = ("pipeline", line.name.as_str());
    let mut in_flight = 0;
    for partition in &status.partitions {
        let number = partition.partition.to_string();
        let labels = [pipeline, ("topic", &partition.topic), ("partition", &number)];
        if let Some(committed) = partition.committed {
            telemetry.gauge(Metric::Committed, &labels, committed as f64);
        }
        if let Some(lag) = partition.lag {
            telemetry.gauge(Metric::Lag, &labels, lag as f64);
        }
        in_flight += partition.in_flight;
    }
    telemetry.gauge(Metric::InFlight, &[pipeline], in_flight as f64);
    telemetry.gauge(Metric::Paused, &[pipeline], f64::from(status.state == PipelineState::Paused));
    for output in &line.outputs {
        let is_blocked = status.blocked.iter().any(|blocked| blocked.output == output.encoder.name);
        telemetry.gauge(Metric::SinkBlocked, &[pipeline, ("output", &output.encoder.name)], f64::from(is_blocked));
    }
}
