//! The supervisor: one loop over a closed [`Event`], so that assignments, failures, commands and the shutdown can never
//! interleave.
//!
//! In: what sources, tasks, operators and the clock say. Out: tasks that run or drain, and a snapshot for the status.
//! What takes long (a drain, an opening) runs beside the loop and comes back as an event. Never touches a record.
//!
//! The end has one deadline for everything: tasks, last commits, leaving the groups. What is not done by then is given
//! up, and repeated by whoever goes on.

mod commands;
mod drain;
mod seeking;
mod snapshot;
mod waiting;

use std::collections::HashMap;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::Duration;

use commands::{PAUSE_LOOKED_AT_EVERY, Pausing};
use drain::{Hurry, Running, drain};
use futures::FutureExt as _;
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinHandle;
use tokio::time::{Instant, MissedTickBehavior, interval, timeout_at};
use tokio_util::sync::CancellationToken;
use waiting::Waiting;

use crate::pipeline::compute::Panicked;
use crate::pipeline::line::Line;
use crate::pipeline::ranges::Ranges;
use crate::pipeline::task::{Task, TaskError};
use crate::pipeline::{Assignment, Source, SourceError, SourceEvent};
use crate::record::TopicPartition;
use crate::status::{Command, Phase, StatusBoard};
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
    /// Some tasks of a pipeline have ended: whether all came to their end.
    Drained(usize, bool),
    /// Its source is not listened to any more, and all that it had said was handled.
    Quiet(usize),
    /// A pipeline has been closed: whether all that was done is committed.
    Closed(usize, bool),
    /// The wait before a failed pipeline is opened again is over.
    Reopen(usize, u64),
    /// An operator asks.
    Command(Command),
    /// Time to look whether a pause has come to its end.
    LookAtPauses,
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
    /// Reads the same topics beside the group.
    pub ranges: Arc<dyn Ranges>,
}

/// ```text
///            open         first Assigned         Assigned, Revoked: tasks come and go
///  Starting ──────► Joining ──────────► Running ◄──┐
///     ▲                │                   │ ──────┘
///     │                └─────────┬─────────┘
///     │ wait, or                 ▼ source or task fails
///     │ resume               Closing ──► Stopped (remedy outside, or a wait)
///     └─────────────────────────────────────┘
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
enum State {
    Starting,
    /// The source is open, and waits for the others of its group.
    Joining,
    Running,
    Closing {
        cause: String,
        retry: Retry,
    },
    Stopped {
        cause: String,
        retry: Retry,
        /// What was done before is committed.
        is_committed: bool,
    },
}

struct Pipeline {
    line: Arc<Line>,
    source: Arc<dyn Source>,
    ranges: Arc<dyn Ranges>,
    state: State,
    /// Rises with each opening: what an older opening said is passed over.
    opening: u64,
    opened_at: Instant,
    restarts: u32,
    tasks: HashMap<TopicPartition, Running>,
    /// How many drains are under way: of revocations, and of all tasks.
    drains: usize,
    /// Brings the source's events.
    listening: Option<JoinHandle<()>>,
    /// Revocations to be answered when the tasks of a failed pipeline have ended.
    unanswered: Vec<oneshot::Sender<()>>,
    /// Operators who wait until it stands still.
    pausing: Vec<Pausing>,
    /// What it waits for, as the log tells it now and then.
    waiting: Waiting,
}

/// The loop's own data.
pub struct Supervisor {
    pipelines: Vec<Pipeline>,
    board: StatusBoard,
    drain: Duration,
    events: mpsc::Sender<Event>,
    hurry: Hurry,
    /// The process ends: nothing is opened any more. Whether all has come to its end so far.
    ending: Option<bool>,
}

impl Supervisor {
    /// Runs all pipelines until `shutdown`, and then until each has been drained and closed, at most for `drain`.
    /// True where every task came to its end, and what was done is committed.
    pub async fn run(
        pipelines: Vec<Supervised>,
        board: StatusBoard,
        drain: Duration,
        mut commands: mpsc::Receiver<Command>,
        shutdown: CancellationToken,
    ) -> bool {
        let (events, mut queue) = mpsc::channel(64);
        let pipeline = |Supervised { line, source, ranges }| Pipeline {
            line,
            source,
            ranges,
            state: State::Starting,
            opening: 0,
            opened_at: Instant::now(),
            restarts: 0,
            tasks: HashMap::new(),
            drains: 0,
            listening: None,
            unanswered: Vec::new(),
            pausing: Vec::new(),
            waiting: Waiting::default(),
        };
        let pipelines = pipelines.into_iter().map(pipeline).collect();
        let mut supervisor = Self { pipelines, board, drain, events, hurry: Hurry::default(), ending: None };
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
                () = tokio::time::sleep(PAUSE_LOOKED_AT_EVERY), if supervisor.is_pausing() => Event::LookAtPauses,
            };
            if matches!(event, Event::Shutdown) {
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
            Event::Drained(at, is_clean) => self.drained(at, is_clean),
            Event::Quiet(at) => self.close(at),
            Event::Closed(at, is_committed) => self.closed(at, is_committed),
            Event::Reopen(at, opening) => {
                let pipeline = &self.pipelines[at];
                let is_wanted = self.ending.is_none() && pipeline.opening == opening;
                if is_wanted && matches!(pipeline.state, State::Stopped { retry: Retry::Yes, .. }) {
                    self.open(at);
                }
            }
            Event::Command(command) => self.command(command),
            Event::LookAtPauses => self.look_at_pauses(),
            Event::Tick => {
                self.watch();
                self.look_at_pauses();
                self.tell_what_is_waited_for();
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
            pipeline.state = State::Joining;
        }
    }

    /// The source has joined: it knows which partitions are its own, even if none are.
    fn joined(&mut self, at: usize, partitions: usize) {
        let pipeline = &mut self.pipelines[at];
        if matches!(pipeline.state, State::Starting | State::Joining) {
            pipeline.state = State::Running;
            let none = if partitions == 0 { ": others read all partitions" } else { "" };
            tracing::info!(pipeline = %pipeline.line.name, partitions, "joined its group{none}");
        }
    }

    /// A pipeline cannot go on as it is: its tasks are drained and its source closed, then it waits or stands still.
    fn fail(&mut self, at: usize, cause: String, retry: Retry) {
        let pipeline = &mut self.pipelines[at];
        if matches!(pipeline.state, State::Closing { .. } | State::Stopped { .. }) {
            return;
        }
        tracing::error!(pipeline = %pipeline.line.name, "failed: {cause}");
        self.wind_up(at, cause, retry);
    }

    /// Ends a pipeline in order: its tasks, what its source still says, the source.
    fn wind_up(&mut self, at: usize, cause: String, retry: Retry) {
        let pipeline = &mut self.pipelines[at];
        pipeline.state = State::Closing { cause, retry };
        let going: Vec<Running> = pipeline.tasks.drain().map(|(_, task)| task).collect();
        let partitions: Vec<TopicPartition> = going.iter().map(|task| task.shared.partition().clone()).collect();
        self.forget_partitions(at, &partitions);
        self.drain_beside(at, going, self.drain, None);
    }

    /// Ends tasks beside the loop, which then learns of it; and so does the source, where it waits for them.
    fn drain_beside(&mut self, at: usize, going: Vec<Running>, within: Duration, done: Option<oneshot::Sender<()>>) {
        self.pipelines[at].drains += 1;
        let (events, hurry) = (self.events.clone(), self.hurry.clone());
        tokio::spawn(async move {
            let is_clean = drain(going, within, hurry).await;
            done.into_iter().for_each(answer);
            let _ = events.send(Event::Drained(at, is_clean)).await;
        });
    }

    fn drained(&mut self, at: usize, is_clean: bool) {
        self.ending = self.ending.map(|all_clean| all_clean && is_clean);
        let pipeline = &mut self.pipelines[at];
        pipeline.drains -= 1;
        if pipeline.drains > 0 || !matches!(pipeline.state, State::Closing { .. }) {
            return;
        }
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
        let deadline = self.hurry.deadline().unwrap_or_else(|| Instant::now() + self.drain);
        tokio::spawn(async move {
            let is_committed = source.close(deadline).await;
            let _ = events.send(Event::Closed(at, is_committed)).await;
        });
    }

    fn closed(&mut self, at: usize, is_committed: bool) {
        self.ending = self.ending.map(|all_clean| all_clean && is_committed);
        let pipeline = &mut self.pipelines[at];
        let State::Closing { cause, retry } = pipeline.state.clone() else { return };
        pipeline.state = State::Stopped { cause, retry, is_committed };
        if retry == Retry::No || self.ending.is_some() {
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
                if !assignments.is_empty() {
                    rebalanced("assigned");
                }
                self.joined(at, assignments.len());
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
                self.drain_beside(at, going, within, Some(done));
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
        let task = Task::new(&pipeline.line, assignment, stop.clone());
        let (shared, events, from) = (task.shared(), self.events.clone(), partition.clone());
        let handle = tokio::spawn(async move {
            let ended = AssertUnwindSafe(task.run()).catch_unwind().await;
            if let Err(error) = ended.unwrap_or_else(|panic| Err(Panicked::from(panic).into())) {
                let retry = match &error {
                    TaskError::Source(error) => retry_of(error),
                    TaskError::Epochs(_) | TaskError::Inexact(_) => Retry::No,
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

    fn forget_partitions(&self, at: usize, partitions: &[TopicPartition]) {
        let line = &self.pipelines[at].line;
        for TopicPartition { topic, partition } in partitions {
            let partition = partition.to_string();
            let labels = [("pipeline", line.name.as_str()), ("topic", topic), ("partition", &partition)];
            line.meters.telemetry().forget(Metric::Lag, &labels);
            line.meters.telemetry().forget(Metric::Committed, &labels);
        }
    }

    // ----------------------------------------------------------------------------------------------------- the end

    /// Winds up every pipeline by the way of a failed one, until all are closed or the deadline has come.
    async fn shut_down(mut self, mut queue: mpsc::Receiver<Event>) -> bool {
        let deadline = self.hurry.end_within(self.drain);
        self.ending = Some(true);
        for at in 0..self.pipelines.len() {
            if matches!(self.pipelines[at].state, State::Starting | State::Joining | State::Running) {
                self.wind_up(at, "the process ends".to_owned(), Retry::No);
            }
        }
        self.publish(Phase::Draining);
        while self.pipelines.iter().any(|pipeline| matches!(pipeline.state, State::Closing { .. })) {
            match timeout_at(deadline, queue.recv()).await {
                Ok(Some(event)) => self.handle(event),
                Ok(None) => break,
                Err(_) => {
                    let late = self.pipelines.iter().filter(|pipeline| matches!(pipeline.state, State::Closing { .. }));
                    let late: Vec<&str> = late.map(|pipeline| pipeline.line.name.as_str()).collect();
                    tracing::warn!(pipelines = ?late, "not closed within {:?}: given up", self.drain);
                    self.ending = Some(false);
                    break;
                }
            }
        }
        self.publish(Phase::Draining);
        self.ending.unwrap_or(false)
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

/// Faults of the other side are tried again; what needs a decision is not.
fn retry_of(error: &SourceError) -> Retry {
    match error {
        SourceError::Unreachable { .. } | SourceError::Forbidden { .. } | SourceError::Broken(_) => Retry::Yes,
        SourceError::Refused(_) | SourceError::Lost { .. } => Retry::No,
    }
}
