//! What the process is doing, as plain data.
//!
//! In: snapshots from the supervisor, several times a second. Out: the same to whoever asks (`/status`, `/readyz`,
//! `pelton status`), with rates. Also the commands that come back: they are sent to the supervisor as [`Command`]s, and
//! nothing here touches a task.

pub mod reloads;

use std::collections::{BTreeMap, VecDeque};
use std::path::Path;
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use serde::{Deserialize, Serialize};
use tokio::sync::{mpsc, oneshot};
use tokio::time::Instant;

use reloads::GenerationStatus;

/// The whole process.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ProcessStatus {
    /// The version of `pelton`.
    pub version: String,
    /// The process's id.
    pub pid: u32,
    /// The directory of its project, without links; none where it runs none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub project: Option<String>,
    /// Since when, milliseconds since the Unix epoch.
    pub started_ms: i64,
    /// What it is doing.
    pub phase: Phase,
    /// All pipelines, in the order of their names.
    pub pipelines: Vec<PipelineStatus>,
}

/// What the process is doing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Phase {
    /// It checks the project and reaches for its services.
    Starting,
    /// Its pipelines have been started.
    Running,
    /// It finishes what it began, and then ends.
    Draining,
}

/// One pipeline.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct PipelineStatus {
    /// Its name.
    pub name: String,
    /// What it is doing.
    pub state: PipelineState,
    /// Why it does not run, where it does not.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cause: Option<String>,
    /// The command that makes it run again, where there is one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub resume_command: Option<String>,
    /// The partitions that this process reads.
    pub partitions: Vec<PartitionStatus>,
    /// Outputs and dead letters to which nothing gets through at the moment.
    #[serde(default)]
    pub blocked: Vec<BlockedOutput>,
    /// Why nothing can be read at the moment, or not all, where permissions or credentials are missing.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub source_blocked: Option<String>,
    /// Records read since the start of the process.
    pub records_total: u64,
    /// Records read a second, over the last ten seconds or so. The [`StatusBoard`] fills it in.
    #[serde(default)]
    pub records_per_second: f64,
    /// Rows made durable since the start of the process, by output.
    #[serde(default)]
    pub rows_total: BTreeMap<String, u64>,
    /// Rows made durable a second, over all outputs. The [`StatusBoard`] fills it in.
    #[serde(default)]
    pub rows_per_second: f64,
    /// Dead letters since the start of the process, by code.
    #[serde(default)]
    pub dead_letters_total: BTreeMap<String, u64>,
    /// Records that a plugin let go.
    #[serde(default)]
    pub filtered_total: u64,
    /// Records that were passed over.
    #[serde(default)]
    pub skipped_total: u64,
    /// Rows whose time to live had passed before they were written.
    #[serde(default)]
    pub expired_total: u64,
    /// Tries after the first.
    #[serde(default)]
    pub retries_total: u64,
    /// The generation of its steps that is live. The [`StatusBoard`] fills it in.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub generation: Option<GenerationStatus>,
    /// Why the last reload did not stay, where it did not. The [`StatusBoard`] fills it in.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub refused: Option<String>,
}

impl PipelineStatus {
    /// A pipeline that has not begun.
    #[must_use]
    pub fn starting(name: &str) -> Self {
        Self {
            name: name.to_owned(),
            state: PipelineState::Starting,
            cause: None,
            resume_command: None,
            partitions: Vec::new(),
            blocked: Vec::new(),
            source_blocked: None,
            records_total: 0,
            records_per_second: 0.0,
            rows_total: BTreeMap::new(),
            rows_per_second: 0.0,
            dead_letters_total: BTreeMap::new(),
            filtered_total: 0,
            skipped_total: 0,
            expired_total: 0,
            retries_total: 0,
            generation: None,
            refused: None,
        }
    }

    /// The lag over all partitions, as far as it is known.
    #[must_use]
    pub fn lag(&self) -> Option<u64> {
        self.partitions.iter().filter_map(|partition| partition.lag).reduce(u64::saturating_add)
    }
}

/// What a pipeline is doing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum PipelineState {
    /// It has not joined its group yet.
    Starting,
    /// It reads, or waits for records or partitions.
    Running,
    /// It stands still until it is resumed: an operator or the breaker paused it.
    Paused,
    /// It cannot go on without a change outside.
    Stopped,
}

impl std::fmt::Display for PipelineState {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.pad(match self {
            Self::Starting => "starting",
            Self::Running => "running",
            Self::Paused => "paused",
            Self::Stopped => "stopped",
        })
    }
}

/// One partition that this process reads.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PartitionStatus {
    /// Its topic.
    pub topic: String,
    /// Its number.
    pub partition: i32,
    /// Everything below it is durable or decided; none where nothing was committed yet.
    pub committed: Option<i64>,
    /// One past its newest record, as far as known.
    pub end: Option<i64>,
    /// Records between the two.
    pub lag: Option<u64>,
    /// Records read but not yet durable or decided.
    pub in_flight: u64,
    /// The record that is tried again, and holds the partition until then.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub held: Option<HeldRecord>,
}

/// A record that holds its partition.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct HeldRecord {
    /// Where it stands.
    pub offset: i64,
    /// How long until it is tried again, milliseconds.
    pub again_in_ms: u64,
    /// Why: the plugin, and what it said.
    pub cause: String,
}

/// An output to which nothing gets through.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct BlockedOutput {
    /// The output's name, `dead letters` or `journal`.
    pub output: String,
    /// Why.
    pub cause: String,
}

impl ProcessStatus {
    /// Why this process is not ready to do all its work; empty where it is. A paused pipeline is no reason: someone, or
    /// the breaker, decided that, and a new start would not change it.
    #[must_use]
    pub fn unready_causes(&self) -> Vec<String> {
        let mut causes = Vec::new();
        match self.phase {
            Phase::Starting => causes.push("the process is starting".to_owned()),
            Phase::Draining => causes.push("the process is draining before it ends".to_owned()),
            Phase::Running => {}
        }
        for pipeline in &self.pipelines {
            let name = &pipeline.name;
            match (pipeline.state, &pipeline.cause) {
                (PipelineState::Starting, None) => {
                    causes.push(format!("pipeline {name}: has not joined its group yet"))
                }
                (PipelineState::Starting, Some(cause)) => causes.push(format!("pipeline {name}: starting: {cause}")),
                (PipelineState::Stopped, cause) => {
                    causes.push(format!("pipeline {name}: stopped: {}", cause.as_deref().unwrap_or("no cause given")));
                }
                (PipelineState::Running | PipelineState::Paused, _) => {}
            }
            if let Some(cause) = &pipeline.source_blocked {
                causes.push(format!("pipeline {name}: the source is blocked: {cause}"));
            }
            for blocked in &pipeline.blocked {
                causes.push(format!("pipeline {name}: output {} is blocked: {}", blocked.output, blocked.cause));
            }
        }
        causes
    }
}

/// Over how long rates are taken.
const RATE_WINDOW: Duration = Duration::from_secs(10);

/// Where the supervisor puts its snapshots and everybody else reads them. Cheap to clone.
#[derive(Debug, Clone)]
pub struct StatusBoard {
    inner: Arc<RwLock<Board>>,
    /// What leads a command of `pelton` to this process: its project's directory, or `--admin` with its address.
    reached_by: Option<Arc<str>>,
}

/// Records and rows by pipeline.
type Totals = BTreeMap<String, (u64, u64)>;

#[derive(Debug)]
struct Board {
    current: Arc<ProcessStatus>,
    /// The live generation by pipeline, and why the last reload did not stay.
    generations: BTreeMap<String, (GenerationStatus, Option<String>)>,
    /// Earlier totals by pipeline (records, rows), oldest first; the first is at most a little older than the window.
    history: VecDeque<(Instant, Totals)>,
}

impl StatusBoard {
    /// A board that says that the process is starting.
    #[must_use]
    pub fn new(started_ms: i64) -> Self {
        let current = ProcessStatus {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            pid: std::process::id(),
            project: None,
            started_ms,
            phase: Phase::Starting,
            pipelines: Vec::new(),
        };
        let board = Board { current: Arc::new(current), generations: BTreeMap::new(), history: VecDeque::new() };
        Self { inner: Arc::new(RwLock::new(board)), reached_by: None }
    }

    /// The same, of a process that runs this project.
    #[must_use]
    pub fn of_project(self, dir: &Path) -> Self {
        {
            let mut board = self.inner.write().unwrap_or_else(PoisonError::into_inner);
            board.current = Arc::new(ProcessStatus { project: Some(project_name(dir)), ..(*board.current).clone() });
        }
        self
    }

    /// The same, for commands that people are told: `arguments` lead them to this process, from wherever they are typed.
    #[must_use]
    pub fn reached_by(self, arguments: &str) -> Self {
        Self { reached_by: Some(arguments.into()), ..self }
    }

    /// A command about a pipeline as it can be typed: `pelton resume orders /srv/shop`.
    #[must_use]
    pub fn command(&self, verb: &str, pipeline: &str) -> String {
        let arguments = self.reached_by.iter().map(|arguments| format!(" {arguments}"));
        format!("pelton {verb} {pipeline}{}", arguments.collect::<String>())
    }

    /// Puts up a new snapshot. Rates are filled in here.
    pub fn publish(&self, phase: Phase, pipelines: Vec<PipelineStatus>) {
        self.publish_at(Instant::now(), phase, pipelines);
    }

    fn publish_at(&self, now: Instant, phase: Phase, mut pipelines: Vec<PipelineStatus>) {
        pipelines.sort_by(|a, b| a.name.cmp(&b.name));
        let mut board = self.inner.write().unwrap_or_else(PoisonError::into_inner);
        while board.history.get(1).is_some_and(|(at, _)| now.duration_since(*at) >= RATE_WINDOW) {
            board.history.pop_front();
        }
        if let Some((at, totals)) = board.history.front() {
            let seconds = now.duration_since(*at).as_secs_f64();
            for pipeline in &mut pipelines {
                if let Some((records, rows)) = totals.get(&pipeline.name)
                    && seconds > 0.0
                {
                    let (now_records, now_rows) = totals_of(pipeline);
                    pipeline.records_per_second = now_records.saturating_sub(*records) as f64 / seconds;
                    pipeline.rows_per_second = now_rows.saturating_sub(*rows) as f64 / seconds;
                }
            }
        }
        for pipeline in &mut pipelines {
            if let Some((generation, refused)) = board.generations.get(&pipeline.name) {
                pipeline.generation = Some(generation.clone());
                pipeline.refused.clone_from(refused);
            }
        }
        let totals = pipelines.iter().map(|pipeline| (pipeline.name.clone(), totals_of(pipeline))).collect();
        board.history.push_back((now, totals));
        let current = ProcessStatus { phase, pipelines, ..(*board.current).clone() };
        board.current = Arc::new(current);
    }

    /// This generation of a pipeline is live from now on, or has become this.
    pub fn note_generation(&self, pipeline: &str, generation: GenerationStatus) {
        let mut board = self.inner.write().unwrap_or_else(PoisonError::into_inner);
        let refused = board.generations.remove(pipeline).and_then(|(last, refused)| {
            // What has gone live since is another word.
            refused.filter(|_| last.number >= generation.number)
        });
        // Whoever looks before the next snapshot sees it too.
        let mut current = (*board.current).clone();
        if let Some(status) = current.pipelines.iter_mut().find(|status| status.name == pipeline) {
            (status.generation, status.refused) = (Some(generation.clone()), refused.clone());
        }
        board.current = Arc::new(current);
        board.generations.insert(pipeline.to_owned(), (generation, refused));
    }

    /// What a pipeline's files hold is what runs: an older reload's word is past.
    pub fn forget_refused(&self, pipeline: &str) {
        let mut board = self.inner.write().unwrap_or_else(PoisonError::into_inner);
        if let Some((_, refused)) = board.generations.get_mut(pipeline) {
            *refused = None;
        }
    }

    /// The last reload of a pipeline did not stay.
    pub fn note_refused(&self, pipeline: &str, why: &str) {
        let mut board = self.inner.write().unwrap_or_else(PoisonError::into_inner);
        if let Some((_, refused)) = board.generations.get_mut(pipeline) {
            *refused = Some(why.to_owned());
        }
    }

    /// The newest snapshot.
    #[must_use]
    pub fn read(&self) -> Arc<ProcessStatus> {
        Arc::clone(&self.inner.read().unwrap_or_else(PoisonError::into_inner).current)
    }
}

/// A project as processes tell it to each other: the text of its directory, without links.
#[must_use]
pub fn project_name(dir: &Path) -> String {
    dir.canonicalize().unwrap_or_else(|_| dir.to_owned()).to_string_lossy().into_owned()
}

fn totals_of(pipeline: &PipelineStatus) -> (u64, u64) {
    (pipeline.records_total, pipeline.rows_total.values().sum())
}

/// What an operator asks the supervisor for.
#[derive(Debug)]
pub enum Command {
    /// Stop reading, finish what is under way, commit, stand still. A paused pipeline stays paused.
    Pause {
        /// The pipeline.
        pipeline: String,
        /// Answered when the pipeline stands still and what was done is committed, or when the drain's time is over.
        reply: CommandReply,
    },
    /// Go on at other places. The pipeline must be paused, and stays it.
    Seek {
        /// The pipeline.
        pipeline: String,
        /// Where to, as people write it.
        to: Vec<String>,
        /// Only say what would be moved.
        dry_run: bool,
        /// Answered when the new positions are committed.
        reply: SeekReply,
    },
    /// Read on from the committed offsets. A running pipeline goes on running.
    Resume {
        /// The pipeline.
        pipeline: String,
        /// Answered when the pipeline has been told.
        reply: CommandReply,
    },
}

/// Where the answer to a [`Command`] goes.
pub type CommandReply = oneshot::Sender<Result<CommandAnswer, CommandError>>;

/// How a pipeline stands after a [`Command`]: as the newest snapshot says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CommandAnswer {
    /// What it is doing.
    pub state: PipelineState,
    /// Why it failed, where it is paused between two restarts: it stands still when it is opened again.
    pub failed: Option<String>,
    /// Records read and not yet durable or decided. After a pause: what was not finished in time.
    pub in_flight: u64,
    /// Whether what is done is committed.
    pub committed: bool,
}

/// Where the answer to a seek goes.
pub type SeekReply = oneshot::Sender<Result<SeekAnswer, CommandError>>;

/// What a seek has moved, or would move.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SeekAnswer {
    /// The pipeline.
    pub pipeline: String,
    /// Nothing was moved.
    pub dry_run: bool,
    /// Where each partition goes on.
    pub moves: Vec<SeekMove>,
    /// Partitions that were meant too, and that another process reads.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub elsewhere: Vec<String>,
}

/// Where a partition goes on.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SeekMove {
    /// Its topic.
    pub topic: String,
    /// Its number.
    pub partition: i32,
    /// Where it stood; none where nothing was committed.
    pub from: Option<i64>,
    /// Where it goes on.
    pub to: i64,
    /// Write times go on as if the records below had just been read; else at the highest that is known.
    pub exact: bool,
}

/// Why a command was not carried out.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CommandError {
    /// There is no such pipeline.
    #[error("there is no pipeline `{name}`; there is {}", known_names(.known))]
    UnknownPipeline {
        /// The name that was given.
        name: String,
        /// The names that there are.
        known: Vec<String>,
    },
    /// Not in the state that it is in.
    #[error("pipeline `{name}` is {state}: {message}")]
    Refused {
        /// The pipeline.
        name: String,
        /// Its state.
        state: PipelineState,
        /// Why not, and what to do.
        message: String,
    },
    /// What was asked for makes no sense.
    #[error("{0}")]
    Words(String),
    /// It was tried, and failed.
    #[error("{0}")]
    Failed(String),
    /// The process ends.
    #[error("the process is shutting down")]
    ShuttingDown,
}

fn known_names(names: &[String]) -> String {
    if names.is_empty() { "none".to_owned() } else { names.join(", ") }
}

/// Sends commands to the supervisor and waits for the answers.
#[derive(Debug, Clone)]
pub struct Commands(mpsc::Sender<Command>);

impl Commands {
    /// A pair: this end, and the supervisor's.
    #[must_use]
    pub fn channel() -> (Self, mpsc::Receiver<Command>) {
        let (sender, receiver) = mpsc::channel(16);
        (Self(sender), receiver)
    }

    /// Pauses a pipeline.
    ///
    /// # Errors
    /// Where the supervisor refuses, or ends.
    pub async fn pause(&self, pipeline: &str) -> Result<CommandAnswer, CommandError> {
        let (reply, answer) = oneshot::channel();
        self.send(Command::Pause { pipeline: pipeline.to_owned(), reply }, answer).await
    }

    /// Resumes a pipeline.
    ///
    /// # Errors
    /// Where the supervisor refuses, or ends.
    pub async fn resume(&self, pipeline: &str) -> Result<CommandAnswer, CommandError> {
        let (reply, answer) = oneshot::channel();
        self.send(Command::Resume { pipeline: pipeline.to_owned(), reply }, answer).await
    }

    /// Moves a paused pipeline.
    ///
    /// # Errors
    /// Where the supervisor refuses, or ends; where a place is none; where it fails.
    pub async fn seek(&self, pipeline: &str, to: Vec<String>, dry_run: bool) -> Result<SeekAnswer, CommandError> {
        let (reply, answer) = oneshot::channel();
        self.send(Command::Seek { pipeline: pipeline.to_owned(), to, dry_run, reply }, answer).await
    }

    async fn send<T>(
        &self,
        command: Command,
        answer: oneshot::Receiver<Result<T, CommandError>>,
    ) -> Result<T, CommandError> {
        self.0.send(command).await.map_err(|_| CommandError::ShuttingDown)?;
        answer.await.unwrap_or(Err(CommandError::ShuttingDown))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pipeline(name: &str, records: u64) -> PipelineStatus {
        PipelineStatus { state: PipelineState::Running, records_total: records, ..PipelineStatus::starting(name) }
    }

    #[test]
    fn rates_are_taken_over_the_window() {
        let board = StatusBoard::new(0);
        let start = Instant::now();
        let rate_at = |tick: u32, total: u64| {
            board.publish_at(start + Duration::from_millis(500) * tick, Phase::Running, vec![pipeline("a", total)]);
            board.read().pipelines[0].records_per_second
        };
        assert!(rate_at(0, 7).abs() < 0.01, "there is nothing to compare with yet");
        for tick in 1..60 {
            let rate = rate_at(tick, 7 + u64::from(tick) * 50);
            assert!((rate - 100.0).abs() < 0.01, "{rate} at tick {tick}");
        }
        for tick in 60..90 {
            rate_at(tick, 5000);
        }
        let rate = rate_at(90, 5000);
        assert!(rate.abs() < 0.01, "nothing came for longer than the window: {rate}");
    }

    #[test]
    fn says_why_it_is_not_ready() {
        let board = StatusBoard::new(0);
        assert_eq!(board.read().unready_causes(), ["the process is starting"]);
        let mut stopped = pipeline("b", 0);
        stopped.state = PipelineState::Stopped;
        stopped.cause = Some("topic b is gone".into());
        let mut blocked = pipeline("a", 0);
        blocked.blocked.push(BlockedOutput { output: "default".into(), cause: "no host answers".into() });
        let mut paused = pipeline("c", 0);
        paused.state = PipelineState::Paused;
        board.publish(Phase::Running, vec![stopped, paused, blocked, PipelineStatus::starting("d")]);
        assert_eq!(
            board.read().unready_causes(),
            [
                "pipeline a: output default is blocked: no host answers",
                "pipeline b: stopped: topic b is gone",
                "pipeline d: has not joined its group yet",
            ]
        );
    }

    #[test]
    fn lag_is_summed_as_far_as_known() {
        let mut status = pipeline("a", 0);
        assert_eq!(status.lag(), None);
        for (partition, lag) in [(0, Some(3)), (1, None), (2, Some(4))] {
            status.partitions.push(PartitionStatus {
                topic: "t".into(),
                partition,
                committed: None,
                end: None,
                lag,
                in_flight: 0,
                held: None,
            });
        }
        assert_eq!(status.lag(), Some(7));
    }

    #[test]
    fn a_command_can_be_pasted_as_it_is() {
        let board = StatusBoard::new(0);
        assert_eq!(board.command("resume", "orders"), "pelton resume orders");
        assert_eq!(
            board.reached_by("'/srv/my shop'").command("resume", "orders"),
            "pelton resume orders '/srv/my shop'"
        );
    }

    #[tokio::test]
    async fn a_command_is_answered_or_the_process_is_ending() {
        const PAUSED: CommandAnswer =
            CommandAnswer { state: PipelineState::Paused, failed: None, in_flight: 0, committed: true };
        let (commands, mut receiver) = Commands::channel();
        let supervisor = tokio::spawn(async move {
            let Some(Command::Pause { pipeline, reply }) = receiver.recv().await else { return false };
            reply.send(Ok(PAUSED)).is_ok() && pipeline == "orders"
        });
        assert_eq!(commands.pause("orders").await, Ok(PAUSED));
        assert!(supervisor.await.expect("the task ends"));
        assert_eq!(commands.resume("orders").await, Err(CommandError::ShuttingDown));
    }
}
