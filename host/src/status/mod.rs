//! What the process is doing, as plain data.
//!
//! In: snapshots from the supervisor, several times a second. Out: the same to whoever asks (`/status`, `/readyz`,
//! `pelton status`), with rates. Also the commands that come back: they are sent to the supervisor as [`Command`]s, and
//! nothing here touches a task.

mod board;
mod commands;
pub mod reloads;

use std::collections::BTreeMap;
use std::path::Path;

use serde::{Deserialize, Serialize};

pub use board::StatusBoard;
pub use commands::{Command, CommandAnswer, CommandError, CommandReply, Commands, SeekAnswer, SeekMove, SeekReply};
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

/// A project as processes tell it to each other: the text of its directory, without links.
#[must_use]
pub fn project_name(dir: &Path) -> String {
    dir.canonicalize().unwrap_or_else(|_| dir.to_owned()).to_string_lossy().into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pipeline(name: &str, records: u64) -> PipelineStatus {
        PipelineStatus { state: PipelineState::Running, records_total: records, ..PipelineStatus::starting(name) }
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
}
