//! What operators ask of a pipeline: pause and resume.
//!
//! In: commands with a place for their answer. Out: the gate, closed or open; a stopped pipeline, opened again. Never
//! waits: a pause is answered beside the loop, once what is under way has ended.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use super::{State, Supervisor};
use crate::pipeline::gate::PausedBy;
use crate::pipeline::shared::Shared;
use crate::status::{Command, CommandError, PipelineState};

impl Supervisor {
    pub(super) fn command(&mut self, command: Command) {
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
}
