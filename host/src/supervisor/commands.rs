//! What operators ask of a pipeline: pause, resume, seek.
//!
//! In: commands with a place for their answer. Out: the gate, closed or open; a stopped pipeline, opened again. Never
//! waits: a pause is looked at again by the loop, and answered once what was under way is finished and committed, or its
//! time is over. Every answer says what the newest snapshot says.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use super::seeking::{Seeking, stands};
use super::{Pipeline, Retry, State, Supervisor};
use crate::pipeline::gate::PausedBy;
use crate::status::{Command, CommandAnswer, CommandError, CommandReply, Phase, PipelineState, SeekReply};

/// How often a pause that is not answered yet is looked at.
pub(super) const PAUSE_LOOKED_AT_EVERY: Duration = Duration::from_millis(20);

/// Somebody waits until a pipeline stands still.
pub(super) struct Pausing {
    reply: CommandReply,
    asked_at: Instant,
    until: Instant,
}

impl Supervisor {
    pub(super) fn command(&mut self, command: Command) {
        match command {
            Command::Pause { pipeline, reply } => match self.find(&pipeline) {
                Ok(at) => self.pause(at, reply),
                Err(error) => drop(reply.send(Err(error))),
            },
            Command::Resume { pipeline, reply } => match self.find(&pipeline) {
                Ok(at) => self.resume(at, reply),
                Err(error) => drop(reply.send(Err(error))),
            },
            Command::Seek { pipeline, to, dry_run, reply } => match self.find(&pipeline) {
                Ok(at) => self.seek(at, (to, dry_run), reply),
                Err(error) => drop(reply.send(Err(error))),
            },
        }
    }

    fn find(&self, name: &str) -> Result<usize, CommandError> {
        self.pipelines.iter().position(|pipeline| pipeline.line.name == name).ok_or_else(|| {
            let known = self.pipelines.iter().map(|pipeline| pipeline.line.name.clone()).collect();
            CommandError::UnknownPipeline { name: name.to_owned(), known }
        })
    }

    /// Moves the partitions that this process reads, beside the loop: their tasks end, and begin anew, by the way of a
    /// rebalance.
    fn seek(&self, at: usize, (to, dry_run): (Vec<String>, bool), reply: SeekReply) {
        let pipeline = &self.pipelines[at];
        let name = pipeline.line.name.clone();
        let refused = |state, message: String| CommandError::Refused { name: name.clone(), state, message };
        match &pipeline.state {
            State::Running if pipeline.line.gate.paused().is_some() => {}
            State::Running => {
                let (pause, resume) = (self.board.command("pause", &name), self.board.command("resume", &name));
                let message = format!("`{pause}` first, and `{resume}` after");
                return drop(reply.send(Err(refused(PipelineState::Running, message))));
            }
            State::Starting | State::Joining => {
                let message = "it has not joined its group yet; try again".to_owned();
                return drop(reply.send(Err(refused(PipelineState::Starting, message))));
            }
            State::Closing { cause, .. } | State::Stopped { cause, .. } => {
                let message = format!("it cannot be moved while it does not read ({cause})");
                return drop(reply.send(Err(refused(PipelineState::Stopped, message))));
            }
        }
        let seeking = Seeking {
            line: Arc::clone(&pipeline.line),
            source: Arc::clone(&pipeline.source),
            ranges: Arc::clone(&pipeline.ranges),
            standing: pipeline.tasks.values().map(|task| stands(&task.shared)).collect(),
        };
        tokio::spawn(async move { drop(reply.send(seeking.seek(&to, dry_run).await)) });
    }

    fn pause(&mut self, at: usize, reply: CommandReply) {
        let drain = self.drain;
        let pipeline = &mut self.pipelines[at];
        if pipeline.stopped_because().is_none() && pipeline.line.gate.pause(PausedBy::Operator, "paused by an operator")
        {
            pipeline.line.meters.paused(PausedBy::Operator.name());
            tracing::info!(pipeline = %pipeline.line.name, "paused by an operator: what is under way is finished");
        }
        let asked_at = Instant::now();
        pipeline.pausing.push(Pausing { reply, asked_at, until: asked_at + drain });
        self.look_at_pauses();
        self.publish(Phase::Running);
    }

    /// Whether somebody waits for an answer.
    pub(super) fn is_pausing(&self) -> bool {
        self.pipelines.iter().any(|pipeline| !pipeline.pausing.is_empty())
    }

    /// Answers those whose pipeline stands still, or whose time is over.
    pub(super) fn look_at_pauses(&mut self) {
        let mut answers = Vec::new();
        for pipeline in &mut self.pipelines {
            if pipeline.pausing.is_empty() {
                continue;
            }
            if let Some(message) = pipeline.stopped_because() {
                for Pausing { reply, .. } in pipeline.pausing.drain(..) {
                    let (name, message) = (pipeline.line.name.clone(), message.clone());
                    answers.push((reply, Err(CommandError::Refused { name, state: PipelineState::Stopped, message })));
                }
                continue;
            }
            let is_resumed = pipeline.line.gate.paused().is_none();
            let answer = pipeline.answer();
            let is_over = pipeline.stands_still() || is_resumed;
            let now = Instant::now();
            for Pausing { reply, asked_at, .. } in pipeline.pausing.extract_if(.., |p| is_over || p.until <= now) {
                let (pipeline, waited_ms) = (&pipeline.line.name, asked_at.elapsed().as_millis() as u64);
                if answer.in_flight == 0 && answer.committed {
                    tracing::info!(%pipeline, waited_ms, "stands still: what was under way is finished and committed");
                } else if !is_resumed {
                    let (in_flight, committed) = (answer.in_flight, answer.committed);
                    tracing::warn!(%pipeline, waited_ms, in_flight, committed, "paused, but not finished in time");
                }
                answers.push((reply, Ok(answer.clone())));
            }
        }
        if !answers.is_empty() {
            // Whoever looks at the status after the answer sees what the answer says.
            self.publish(Phase::Running);
            for (reply, answer) in answers {
                let _ = reply.send(answer);
            }
        }
    }

    fn resume(&mut self, at: usize, reply: CommandReply) {
        let pipeline = &mut self.pipelines[at];
        if pipeline.line.gate.paused().is_some() {
            tracing::info!(pipeline = %pipeline.line.name, "resumed by an operator");
        }
        pipeline.line.gate.resume();
        let answer = match &pipeline.state {
            State::Stopped { .. } => {
                tracing::info!(pipeline = %pipeline.line.name, "opened again by an operator");
                pipeline.restarts = 0;
                self.open(at);
                Ok(self.pipelines[at].answer())
            }
            State::Closing { cause, .. } => {
                let (name, message) = (pipeline.line.name.clone(), format!("it is being closed ({cause}); try again"));
                Err(CommandError::Refused { name, state: PipelineState::Stopped, message })
            }
            State::Starting | State::Joining | State::Running => Ok(pipeline.answer()),
        };
        self.look_at_pauses();
        self.publish(Phase::Running);
        let _ = reply.send(answer);
    }
}

impl Pipeline {
    /// Why it cannot be paused: it does not run, and never does by itself again. One that is opened again after a wait
    /// can: it stands still then.
    fn stopped_because(&self) -> Option<String> {
        match &self.state {
            State::Closing { cause, retry: Retry::No } | State::Stopped { cause, retry: Retry::No, .. } => {
                Some(cause.clone())
            }
            _ => None,
        }
    }

    /// Why it failed, where it is opened again by itself.
    fn failed(&self) -> Option<String> {
        match &self.state {
            State::Closing { cause, retry: Retry::Yes } | State::Stopped { cause, retry: Retry::Yes, .. } => {
                Some(cause.clone())
            }
            _ => None,
        }
    }

    /// Nothing is read, nothing is under way, and what is done is committed, as far as it ever will be.
    fn stands_still(&self) -> bool {
        self.drains == 0
            && !matches!(self.state, State::Closing { .. })
            && self.tasks.values().all(|task| {
                let progress = task.shared.progress();
                progress.stands && progress.in_flight == 0 && progress.is_committed
            })
    }

    fn answer(&self) -> CommandAnswer {
        let progress: Vec<_> = self.tasks.values().map(|task| task.shared.progress()).collect();
        let is_closed = !matches!(self.state, State::Closing { .. } | State::Stopped { is_committed: false, .. });
        CommandAnswer {
            state: self.state_and_cause().0,
            failed: self.failed(),
            in_flight: progress.iter().map(|progress| progress.in_flight as u64).sum(),
            committed: is_closed && progress.iter().all(|progress| progress.is_committed),
        }
    }
}
