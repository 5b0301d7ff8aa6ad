//! The one who replaces generations: one loop, so that two reloads never interleave.
//!
//! In: words from the admin interface, files that have changed, the end of a probation. Out: what is to be done about
//! each: [`taking_over`](super::taking_over), [`going_back`](super::going_back). What takes long (files that are read,
//! plugins that are compiled and tried) runs beside the threads that wait for the network; the history's short lines are
//! written on them.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use super::going_back::Ended;
use super::history::History;
use super::start::Beginning;
use super::watch::{self, Watch};
use crate::clock::Clock;
use crate::config::{Environment, Mask, Pipeline, Problem, Settings};
use crate::pipeline::generation::Generation;
use crate::pipeline::line::Line;
use crate::plugin::Runtime;
use crate::startup::PreparedPipeline;
use crate::status::StatusBoard;
use crate::status::reloads::{GenerationStatus, ReloadError, ReloadRequest, Stage, Word};
use crate::telemetry::Telemetry;

/// How often files are looked at: one that stands still for as long is no longer written to.
const LOOK_EVERY: Duration = Duration::from_millis(500);

/// Makes a generation of prepared steps that fits a line's sinks, or says which column would miss what is set.
pub type Fit = Arc<dyn Fn(u64, &PreparedPipeline, &Line, &Mask) -> Result<Generation, Problem> + Send + Sync>;

/// What it is made of.
pub struct Parts {
    /// The project directory.
    pub dir: PathBuf,
    /// Its settings at start.
    pub settings: Settings,
    /// Where `${NAME}` comes from.
    pub environment: Arc<dyn Environment + Send + Sync>,
    /// The engine.
    pub runtime: Arc<Runtime>,
    /// The pipelines that run.
    pub pipelines: Vec<(PreparedPipeline, Arc<Line>)>,
    /// What they begin with.
    pub beginnings: BTreeMap<String, Beginning>,
    /// Makes generations.
    pub fit: Fit,
    /// What was before.
    pub history: History,
    /// Where the status is told.
    pub board: StatusBoard,
    /// Where it is counted.
    pub telemetry: Telemetry,
    /// The wall.
    pub clock: Arc<dyn Clock>,
}

/// Replaces generations.
pub struct Reloader {
    pub(super) parts: Parts,
    pub(super) running: BTreeMap<String, Running>,
    pub(super) watch: Watch,
    pub(super) probations: JoinSet<Ended>,
}

/// A pipeline, and what is live of it.
pub(super) struct Running {
    pub(super) line: Arc<Line>,
    /// The generation that it put live last.
    pub(super) generation: Arc<Generation>,
    pub(super) prepared: PreparedPipeline,
    pub(super) status: GenerationStatus,
    pub(super) before: Option<Box<Before>>,
}

/// The generation before, kept warm.
pub(super) struct Before {
    pub(super) generation: Arc<Generation>,
    pub(super) prepared: PreparedPipeline,
    pub(super) status: GenerationStatus,
}

impl Reloader {
    /// For pipelines that are about to run.
    #[must_use]
    pub fn new(mut parts: Parts) -> Self {
        let pipelines = std::mem::take(&mut parts.pipelines);
        let mut reloader =
            Self { parts, running: BTreeMap::new(), watch: Watch::default(), probations: JoinSet::new() };
        for (prepared, line) in pipelines {
            let name = prepared.pipeline.name.clone();
            let number = line.live.get().number;
            let status = reloader.status(number, &prepared, Stage::Settled, "start");
            let last = reloader.parts.history.last_live(&name);
            let is_known = last.is_some_and(|last| last.number == number && last.stage == Stage::Settled);
            let generation = line.live.get();
            let running = Running { line, generation, prepared, status, before: None };
            reloader.running.insert(name.clone(), running);
            reloader.keep_artifacts(&name);
            if is_known {
                reloader.show(&name);
            } else {
                reloader.tell(&name);
            }
            if let Some(caution) = reloader.parts.beginnings.get(&name).and_then(|beginning| beginning.caution.as_ref())
            {
                reloader.parts.board.note_refused(&name, caution);
            }
        }
        let look = watch::look(reloader.files());
        reloader.watch.take(look);
        reloader
    }

    /// Runs until `shutdown`.
    pub(crate) async fn run(mut self, mut words: mpsc::Receiver<Word>, shutdown: CancellationToken) {
        let mut look = tokio::time::interval(LOOK_EVERY);
        look.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                () = shutdown.cancelled() => return,
                Some(word) = words.recv() => self.word(word).await,
                Some(Ok(ended)) = self.probations.join_next() => self.ended(ended),
                _ = look.tick(), if self.parts.settings.reload.watch => {
                    let files = self.files();
                    if self.watch.has_changed(files) {
                        self.reload(&ReloadRequest::default(), "watch").await;
                    }
                }
            }
        }
    }

    async fn word(&mut self, word: Word) {
        match word {
            Word::Reload(request, reply) => {
                let known = |running: &Running| is_meant(&request, &running.prepared.pipeline);
                let answer = match &request.what {
                    Some(name) if !self.running.values().any(known) => Err(self.unknown(name)),
                    _ => Ok(self.reload(&request, "reload").await),
                };
                drop(reply.send(answer));
            }
            Word::Rollback(name, reply) => drop(reply.send(self.rollback(&name))),
            Word::Generations(name, reply) => {
                let is_known = self.running.contains_key(&name);
                let answer = if is_known { Ok(self.parts.history.of(&name)) } else { Err(self.no_such(&name)) };
                drop(reply.send(answer));
            }
        }
    }

    /// No pipeline has this name.
    pub(super) fn no_such(&self, name: &str) -> ReloadError {
        let known: Vec<&str> = self.running.keys().map(String::as_str).collect();
        ReloadError::Unknown { name: name.to_owned(), known: known.join(", ") }
    }

    /// Neither a pipeline nor a plugin has this name.
    fn unknown(&self, name: &str) -> ReloadError {
        let steps = self.running.values().flat_map(|running| &running.prepared.pipeline.steps);
        let plugins = steps.map(|step| step.plugin.as_str());
        let mut known: Vec<&str> = self.running.keys().map(String::as_str).chain(plugins).collect();
        known.sort_unstable();
        known.dedup();
        ReloadError::Unknown { name: name.to_owned(), known: known.join(", ") }
    }

    /// The files whose change is a reason to reload.
    pub(super) fn files(&self) -> Vec<PathBuf> {
        let pipelines = self.running.values().map(|running| &running.prepared.pipeline);
        let of = |pipeline: &Pipeline| {
            let artifacts = pipeline.steps.iter().map(|step| step.artifact.clone());
            artifacts.chain([self.parts.dir.join(&pipeline.file)]).collect::<Vec<_>>()
        };
        // Those of pipelines that do not run yet too: a mistake in one of them is a reason why nothing is reloaded.
        let others = std::fs::read_dir(self.parts.dir.join("pipelines")).into_iter().flatten().flatten();
        pipelines.flat_map(of).chain(others.map(|entry| entry.path())).collect()
    }
}

/// Whether a request is about a pipeline.
pub(super) fn is_meant(request: &ReloadRequest, pipeline: &Pipeline) -> bool {
    let is_its = |what: &String| *what == pipeline.name || pipeline.steps.iter().any(|step| step.plugin == *what);
    request.what.as_ref().is_none_or(is_its)
}
