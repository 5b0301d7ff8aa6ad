//! The way back: a generation that is new settles, or the one before it is live again.
//!
//! In: the end of a probation, or an operator's word. Out: which generation is live, and which records the one that was
//! rolled back had handled. Where a task has seen a breach the line has gone back already: here it is told.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use super::candidate::Stages;
use super::reloader::{Before, Reloader};
use crate::pipeline::gate::Gate;
use crate::pipeline::generation::Generation;
use crate::pipeline::probation::Probation;
use crate::status::reloads::{GenerationStatus, PipelineReload, ReloadError, Stage};

/// A probation has ended: with the cause of a breach, or well.
pub(super) struct Ended {
    pipeline: String,
    number: u64,
    pub(super) breach: Option<String>,
}

impl Reloader {
    /// Waits for the end of a probation beside the loop.
    pub(super) fn watch_over(&mut self, name: &str, generation: Arc<Generation>) {
        let (pipeline, settle) = (name.to_owned(), self.parts.settings.reload.settle);
        let gate = self.running[name].line.gate.clone();
        self.probations.spawn(async move {
            let number = generation.number;
            let Some(probation) = &generation.probation else { return Ended { pipeline, number, breach: None } };
            let breach = loop {
                tokio::select! {
                    biased;
                    cause = probation.breached() => break Some(cause),
                    () = has_been_open(&gate, settle) => {
                        // Nothing settles without a record.
                        if probation.records() > 0 || !probation.is_open() {
                            break None;
                        }
                    }
                }
            };
            probation.close();
            Ended { pipeline, number, breach }
        });
    }

    pub(super) fn ended(&mut self, ended: Ended) {
        let Ended { pipeline, number, breach } = ended;
        let Some(running) = self.running.get_mut(&pipeline).filter(|running| running.status.number == number) else {
            // Another has taken its place meanwhile.
            return;
        };
        if let Some(cause) = breach {
            self.back(&pipeline, cause);
            return;
        }
        running.status.stage = Stage::Settled;
        running.status.at_ms = self.parts.clock.now_ms();
        tracing::info!(pipeline, generation = number, "settled");
        self.count(&pipeline, "settled");
        self.tell(&pipeline);
    }

    /// Where the generation that was put live last has come to a breach, the line has gone back by itself, and this loop may
    /// not have heard of it yet.
    pub(super) fn take_back(&mut self, name: &str, breach: impl Fn(&Probation) -> Option<String>) {
        let breach = self.running[name].generation.probation.as_ref().and_then(breach);
        if let Some(cause) = breach {
            self.back(name, cause);
        }
    }

    pub(super) fn rollback(&mut self, name: &str) -> Result<PipelineReload, ReloadError> {
        let Some(running) = self.running.get(name) else { return Err(self.no_such(name)) };
        if running.before.is_none() {
            return Err(ReloadError::NothingBefore(name.to_owned()));
        }
        let breach = running.generation.probation.as_ref().and_then(Probation::breach);
        self.back(name, breach.unwrap_or_else(|| "rolled back by an operator".to_owned()));
        let mut stages = Stages::after(Vec::new());
        stages.reach(Stage::RolledBack, "");
        let live = self.running[name].line.live.get().number;
        Ok(PipelineReload::of(name, live, stages.into_reached()))
    }

    /// The one before is live again.
    pub(super) fn back(&mut self, name: &str, cause: String) {
        let now_ms = self.parts.clock.now_ms();
        let running = self.running.get_mut(name).expect("it runs");
        let now_ms = now_ms.max(running.status.at_ms);
        let Some(before) = running.before.take() else { return };
        let Before { generation, prepared, status } = *before;
        // Where it was a breach, the line has gone back already.
        if !Arc::ptr_eq(&running.line.live.get(), &generation) {
            running.line.live.put(Arc::clone(&generation));
        }
        // What it has on its way to be written now is the last.
        let handled = running.generation.revoke();
        let handled: Vec<String> = handled
            .into_iter()
            .map(|(partition, (from, until))| format!("{partition}:{from}-{}", until.0 - 1))
            .collect();
        let gone = std::mem::replace(&mut running.status, status);
        (running.prepared, running.generation) = (prepared, Arc::clone(&generation));
        running.status.at_ms = now_ms + 1;
        running.status.stage = Stage::Settled;
        "rollback".clone_into(&mut running.status.trigger);
        tracing::warn!(
            pipeline = name,
            generation = gone.number,
            live = generation.number,
            ?handled,
            "rolled back: {cause}"
        );
        let gone = GenerationStatus { stage: Stage::RolledBack, at_ms: now_ms, cause: Some(cause), handled, ..gone };
        self.count(name, "rolled_back");
        let why = format!("generation {} was rolled back: {}", gone.number, gone.cause.as_deref().unwrap_or_default());
        self.parts.board.note_refused(name, &why);
        self.note(name, gone);
        self.tell(name);
    }
}

/// Waits until a pipeline has run for so long. One that is paused handles nothing, and shows nothing of its generation.
async fn has_been_open(gate: &Gate, mut left: Duration) {
    loop {
        gate.opened().await;
        let since = Instant::now();
        tokio::select! {
            () = tokio::time::sleep(left) => return,
            () = gate.closed() => left = left.saturating_sub(since.elapsed()),
        }
    }
}
