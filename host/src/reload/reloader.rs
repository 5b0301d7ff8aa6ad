//! The one who replaces generations: one loop, so that two reloads never interleave.
//!
//! In: words from the admin interface, files that have changed, the end of a probation. Out: generations that go live, are
//! settled or rolled back, each told in the log, the metrics, the status and the history. What it does with files and
//! guests runs beside the threads that records wait for.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::candidate::{self, Anew, Stages};
use super::history::History;
use super::start::Beginning;
use super::watch::{self, Watch};
use crate::clock::Clock;
use crate::config::{Environment, Mask, Pipeline, Poison, Problem, Settings};
use crate::pipeline::Transform as _;
use crate::pipeline::gate::Gate;
use crate::pipeline::generation::Generation;
use crate::pipeline::line::Line;
use crate::pipeline::probation::{Probation, Rules};
use crate::pipeline::shadow::{Differences, Shadow};
use crate::plugin::Runtime;
use crate::startup::PreparedPipeline;
use crate::status::StatusBoard;
use crate::status::reloads::{
    GenerationStatus, PipelineReload, PluginVersion, ReloadAnswer, ReloadError, ReloadRequest, Stage, Word,
};
use crate::telemetry::{Metric, Telemetry};

/// How long a rehearsal waits for as many records as it is to see.
const SHADOW_MAX: Duration = Duration::from_secs(60);
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
    parts: Parts,
    running: BTreeMap<String, Running>,
    watch: Watch,
    probations: JoinSet<Ended>,
}

/// A pipeline, and what is live of it.
struct Running {
    line: Arc<Line>,
    /// The generation that it put live last.
    generation: Arc<Generation>,
    prepared: PreparedPipeline,
    status: GenerationStatus,
    before: Option<Box<Before>>,
}

/// The generation before, kept warm.
struct Before {
    generation: Arc<Generation>,
    prepared: PreparedPipeline,
    status: GenerationStatus,
}

/// A probation has ended: with the cause of a breach, or well.
struct Ended {
    pipeline: String,
    number: u64,
    breach: Option<String>,
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
                let answer = if is_known { Ok(self.parts.history.of(&name)) } else { Err(self.unknown(&name)) };
                drop(reply.send(answer));
            }
        }
    }

    fn unknown(&self, name: &str) -> ReloadError {
        let steps = self.running.values().flat_map(|running| &running.prepared.pipeline.steps);
        let plugins = steps.map(|step| step.plugin.as_str());
        let mut known: Vec<&str> = self.running.keys().map(String::as_str).chain(plugins).collect();
        known.sort_unstable();
        known.dedup();
        ReloadError::Unknown { name: name.to_owned(), known: known.join(", ") }
    }

    /// The files whose change is a reason to reload.
    fn files(&self) -> Vec<PathBuf> {
        let pipelines = self.running.values().map(|running| &running.prepared.pipeline);
        let of = |pipeline: &Pipeline| {
            let artifacts = pipeline.steps.iter().map(|step| step.artifact.clone());
            artifacts.chain([self.parts.dir.join(&pipeline.file)]).collect::<Vec<_>>()
        };
        // Those of pipelines that do not run yet too: a mistake in one of them is a reason why nothing is reloaded.
        let others = std::fs::read_dir(self.parts.dir.join("pipelines")).into_iter().flatten().flatten();
        pipelines.flat_map(of).chain(others.map(|entry| entry.path())).collect()
    }

    // ------------------------------------------------------------------------------------------------------ the way in

    async fn reload(&mut self, request: &ReloadRequest, trigger: &str) -> ReloadAnswer {
        // What changes while it is read, compiled and tried is another change.
        let looked = watch::look(self.files());
        let (dir, environment) = (self.parts.dir.clone(), Arc::clone(&self.parts.environment));
        let runtime = Arc::clone(&self.parts.runtime);
        let read = tokio::task::spawn_blocking(move || candidate::read(&dir, &*environment, &runtime)).await;
        let names: Vec<String> = self
            .running
            .iter()
            .filter(|(_, r)| is_meant(request, &r.prepared.pipeline))
            .map(|(name, _)| name.clone())
            .collect();
        let mut answer = ReloadAnswer {
            settles_in_ms: self.parts.settings.reload.settle.as_millis() as u64,
            ..ReloadAnswer::default()
        };
        match read {
            Ok(Ok(mut anew)) => {
                answer.notes = self.notes(&anew);
                for name in names {
                    let prepared = anew.pipelines.remove(&name);
                    answer.pipelines.push(self.one(&name, prepared, &anew, (request, trigger)).await);
                }
            }
            Ok(Err((problems, stages))) => {
                let causes: Vec<String> = problems.iter().map(ToString::to_string).collect();
                for name in names {
                    answer.pipelines.push(self.refuse(&name, Stages::after(stages.clone()), causes.clone()));
                }
            }
            Err(error) => {
                for name in names {
                    let causes = vec![format!("an internal fault: {error}")];
                    answer.pipelines.push(self.refuse(&name, Stages::after(Vec::new()), causes));
                }
            }
        }
        let files = self.files();
        self.watch.take_as(&looked, files);
        answer
    }

    /// What is to be known of files that were read anew, beside what becomes of the steps.
    fn notes(&self, anew: &Anew) -> Vec<String> {
        let mut notes: Vec<String> = anew.warnings.iter().map(ToString::to_string).collect();
        if anew.project.settings != self.parts.settings {
            notes.push("pelton.yaml has changed: a restart takes it over".to_owned());
        }
        let others = anew.pipelines.keys().filter(|name| !self.running.contains_key(*name));
        notes.extend(others.map(|name| format!("pipeline {name} does not run: a restart takes it in")));
        notes
    }

    /// Takes one pipeline through the stages.
    async fn one(
        &mut self,
        name: &str,
        prepared: Option<PreparedPipeline>,
        anew: &Anew,
        (request, trigger): (&ReloadRequest, &str),
    ) -> PipelineReload {
        let mask = &anew.project.mask;
        // The files may still hold what has just been found not good enough.
        self.take_back(name, Probation::breach);
        let mut stages = Stages::after(anew.stages.clone());
        let Some(prepared) = prepared else {
            let cause = "its file is gone: a pipeline is removed by a restart".to_owned();
            return self.refuse(name, stages, vec![cause]);
        };
        let running = &self.running[name];
        if is_same(&prepared, &running.prepared) {
            let live = running.line.live.get().number;
            self.parts.board.forget_refused(name);
            return PipelineReload { unchanged: true, ..PipelineReload::of(name, live, Vec::new()) };
        }
        if let Some(what) = beyond_steps(&prepared.pipeline, &running.prepared.pipeline) {
            let cause =
                format!("its {what} has changed, which needs a restart: only steps are replaced while records flow");
            return self.refuse(name, stages, vec![cause]);
        }
        let version = self.status(0, &prepared, Stage::Live, trigger);
        let digests: Vec<String> = version.plugins.iter().map(|plugin| plugin.digest.clone()).collect();
        if let Some(last) = self.parts.history.rolled_back(name, &digests, &version.configuration)
            && !(request.force || request.trust)
        {
            let cause = last.cause.clone().unwrap_or_default();
            let command = self.parts.board.command("reload --force", name);
            let cause = format!("this version was rolled back before ({cause}); `{command}` tries it again");
            return self.refuse(name, stages, vec![cause]);
        }
        let (again, runtime) = (prepared.clone(), Arc::clone(&self.parts.runtime));
        let rehearsed = tokio::task::spawn_blocking(move || {
            let result = candidate::rehearse(&again, &runtime, &mut stages);
            (stages, result)
        });
        let (mut stages, result) = match rehearsed.await {
            Ok(rehearsed) => rehearsed,
            Err(error) => {
                return self.refuse(
                    name,
                    Stages::after(anew.stages.clone()),
                    vec![format!("an internal fault: {error}")],
                );
            }
        };
        if let Err(causes) = result {
            // A plugin may repeat its configuration.
            let causes = causes.iter().map(|cause| mask.apply(cause)).collect();
            return self.refuse(name, stages, causes);
        }
        let number = self.parts.history.next(name);
        let fit = || (self.parts.fit)(number, &prepared, &self.running[name].line, mask);
        let told = |problem: Problem| vec![anew.project.place(problem).to_string()];
        let mut differences = None;
        if let Some(records) = request.shadow {
            let found = match fit() {
                Ok(candidate) => self.shadow(name, candidate, records, &mut stages).await,
                Err(problem) => return self.refuse(name, stages, told(problem)),
            };
            match found {
                Ok(found) => differences = Some(found),
                Err((found, cause)) => {
                    let differences = Some(found);
                    return PipelineReload { differences, ..self.refuse(name, stages, vec![cause]) };
                }
            }
        }
        let generation = match fit() {
            Ok(generation) => generation,
            Err(problem) => return self.refuse(name, stages, told(problem)),
        };
        if !request.dry_run {
            stages.reach(Stage::Live, "");
            self.go_live(name, generation, prepared, (request.trust, trigger, differences.clone()));
        }
        let live = self.running[name].line.live.get().number;
        PipelineReload { differences, ..PipelineReload::of(name, live, stages.into_reached()) }
    }

    /// Lets a candidate run beside the live generation; what it would make otherwise, or also why that is too much.
    async fn shadow(
        &self,
        name: &str,
        candidate: Generation,
        records: u64,
        stages: &mut Stages,
    ) -> Result<Differences, (Differences, String)> {
        let line = &self.running[name].line;
        if let Some(plugin) = candidate.chain.asks().or(line.live.get().chain.asks()) {
            let cause = format!("the plugin `{plugin}` asks others over HTTP: a rehearsal would ask them twice");
            return Err((Differences::default(), cause));
        }
        let shadow = Arc::new(Shadow::new(Arc::new(candidate), records, &line.outputs, line.mask.clone()));
        line.rehearsal.begin(Arc::clone(&shadow));
        let is_enough = tokio::time::timeout(SHADOW_MAX, shadow.over()).await.is_ok();
        line.rehearsal.end();
        let found = shadow.found();
        let came = if is_enough { String::new() } else { format!(" in {} s, no more came", SHADOW_MAX.as_secs()) };
        stages.reach(Stage::Shadowed, format!("{} records{came}", found.records));
        let rules = Rules::default();
        let is_bad =
            found.failed >= rules.failures && found.failed as f64 > rules.failures_share * found.records as f64;
        if is_bad {
            let cause = format!("{} of {} records fail that the live generation handles", found.failed, found.records);
            return Err((found, cause));
        }
        Ok(found)
    }

    fn go_live(
        &mut self,
        name: &str,
        generation: Generation,
        prepared: PreparedPipeline,
        (trust, trigger, rehearsed): (bool, &str, Option<Differences>),
    ) {
        // The line may have gone back a moment ago: then that is what this one follows.
        self.take_back(name, Probation::end);
        let now_ms = self.parts.clock.now_ms();
        let running = &self.running[name];
        if running.status.stage == Stage::Live {
            let status = GenerationStatus { stage: Stage::Replaced, at_ms: now_ms, ..running.status.clone() };
            self.note(name, status);
        }
        let status = GenerationStatus {
            rehearsed: rehearsed.map(Differences::without_values),
            ..self.status(generation.number, &prepared, if trust { Stage::Settled } else { Stage::Live }, trigger)
        };
        let running = self.running.get_mut(name).expect("it runs");
        // It is the last, whatever the wall shows.
        let at_ms = status.at_ms.max(running.status.at_ms + 1);
        let status = GenerationStatus { at_ms, ..status };
        let before = running.line.live.get();
        // Two generations back is one too many.
        before.probation.iter().for_each(Probation::forget);
        let rules =
            if prepared.pipeline.errors.poison == Poison::Stop { Rules::default().strict() } else { Rules::default() };
        let probation = Probation::after(Arc::clone(&before), rules);
        if trust {
            probation.close();
        }
        let generation = Arc::new(generation.on(probation));
        let kept = Before {
            generation: before,
            prepared: std::mem::replace(&mut running.prepared, prepared),
            status: std::mem::replace(&mut running.status, status),
        };
        running.before = Some(Box::new(kept));
        running.generation = Arc::clone(&generation);
        self.keep_artifacts(name);
        // It is known before it writes.
        self.tell(name);
        self.running[name].line.live.put(Arc::clone(&generation));
        if !trust {
            self.watch_over(name, generation);
        }
    }

    /// Waits for the end of a probation beside the loop.
    fn watch_over(&mut self, name: &str, generation: Arc<Generation>) {
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

    fn refuse(&mut self, name: &str, mut stages: Stages, causes: Vec<String>) -> PipelineReload {
        stages.reach(Stage::Refused, "");
        for cause in &causes {
            tracing::error!(
                pipeline = name,
                "reload refused, the old version runs on: {}",
                cause.replace("\n    ", "; ")
            );
        }
        self.count(name, "refused");
        self.parts.board.note_refused(name, &causes.join("; ").replace("\n    ", "; "));
        let live = self.running[name].line.live.get().number;
        PipelineReload { refused: causes, ..PipelineReload::of(name, live, stages.into_reached()) }
    }

    // ----------------------------------------------------------------------------------------------------- and back out

    fn ended(&mut self, ended: Ended) {
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
    fn take_back(&mut self, name: &str, breach: impl Fn(&Probation) -> Option<String>) {
        let breach = self.running[name].generation.probation.as_ref().and_then(breach);
        if let Some(cause) = breach {
            self.back(name, cause);
        }
    }

    fn rollback(&mut self, name: &str) -> Result<PipelineReload, ReloadError> {
        let Some(running) = self.running.get(name) else { return Err(self.unknown(name)) };
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
    fn back(&mut self, name: &str, cause: String) {
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

    // ------------------------------------------------------------------------------------------------- what is told of it

    fn status(&self, number: u64, prepared: &PreparedPipeline, stage: Stage, trigger: &str) -> GenerationStatus {
        let plugins = prepared.transforms.iter().map(|transform| PluginVersion {
            name: transform.name().to_owned(),
            digest: transform.digest().to_string(),
        });
        GenerationStatus {
            number,
            plugins: plugins.collect(),
            configuration: prepared.pipeline.digest.short(),
            stage,
            at_ms: self.parts.clock.now_ms(),
            trigger: trigger.to_owned(),
            cause: None,
            rehearsed: None,
            handled: Vec::new(),
        }
    }

    fn keep_artifacts(&self, name: &str) {
        let prepared = &self.running[name].prepared;
        for (step, transform) in prepared.pipeline.steps.iter().zip(&prepared.transforms) {
            if let Err(error) = self.parts.history.keep(step, &transform.digest()) {
                tracing::warn!(pipeline = name, "{error}");
            }
        }
    }

    /// Tells what the pipeline's generation has become.
    fn tell(&mut self, name: &str) {
        self.note(name, self.running[name].status.clone());
        self.show(name);
    }

    fn show(&self, name: &str) {
        let status = &self.running[name].status;
        tracing::info!(pipeline = name, generation = status.number, stage = %status.stage, trigger = status.trigger, "generation");
        self.parts.telemetry.gauge(Metric::Generation, &[("pipeline", name)], status.number as f64);
        self.parts.board.note_generation(name, status.clone());
    }

    fn note(&mut self, name: &str, status: GenerationStatus) {
        if let Err(error) = self.parts.history.note(name, status) {
            tracing::warn!(pipeline = name, "{error}");
        }
    }

    fn count(&self, name: &str, outcome: &str) {
        self.parts.telemetry.count(Metric::Reloads, &[("pipeline", name), ("outcome", outcome)], 1);
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

/// Whether a request is about a pipeline.
fn is_meant(request: &ReloadRequest, pipeline: &Pipeline) -> bool {
    let is_its = |what: &String| *what == pipeline.name || pipeline.steps.iter().any(|step| step.plugin == *what);
    request.what.as_ref().is_none_or(is_its)
}

/// Whether nothing about the steps has changed, nor anything else.
fn is_same(one: &PreparedPipeline, other: &PreparedPipeline) -> bool {
    let digests = |prepared: &PreparedPipeline| prepared.transforms.iter().map(|t| t.digest()).collect::<Vec<_>>();
    one.pipeline == other.pipeline && digests(one) == digests(other)
}

/// What of a pipeline has changed beside its steps.
fn beyond_steps(one: &Pipeline, other: &Pipeline) -> Option<&'static str> {
    let Pipeline { source, keyed_by: _, outputs, dead_letters, journal, batch, errors, .. } = one;
    let changed = [
        ("source", *source != other.source),
        ("outputs", *outputs != other.outputs),
        ("dead_letters", *dead_letters != other.dead_letters),
        ("journal", *journal != other.journal),
        ("batch", *batch != other.batch),
        ("errors", *errors != other.errors),
    ];
    changed.into_iter().find(|(_, is_other)| *is_other).map(|(what, _)| what)
}

#[cfg(test)]
#[path = "tests.rs"]
mod tests;
