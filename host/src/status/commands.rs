//! What operators ask of pipelines, and what they are answered.
//!
//! In: commands from the admin interface. Out: the same to the supervisor, each with a place for its answer. Touches no
//! task.

use serde::{Deserialize, Serialize};
use tokio::sync::{mpsc, oneshot};

use super::PipelineState;

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
