//! The way in: what has changed in a project's files becomes the next generation of its pipelines.
//!
//! In: a request, and the files as they are now. Out: what became of each pipeline that was meant, stage by stage. A
//! candidate that comes to no good end leaves the one that runs untouched.

use std::sync::Arc;
use std::time::Duration;

use super::candidate::{self, Anew, Stages};
use super::reloader::{Before, Reloader, is_meant};
use super::watch;
use crate::config::{Pipeline, Poison, Problem};
use crate::pipeline::Transform as _;
use crate::pipeline::generation::Generation;
use crate::pipeline::probation::{Probation, Rules};
use crate::pipeline::shadow::{Differences, Shadow};
use crate::startup::PreparedPipeline;
use crate::status::reloads::{GenerationStatus, PipelineReload, ReloadAnswer, ReloadRequest, Stage};

/// How long a shadow run waits for as many records as it is to see.
const SHADOW_MAX: Duration = Duration::from_secs(60);

impl Reloader {
    pub(super) async fn reload(&mut self, request: &ReloadRequest, trigger: &str) -> ReloadAnswer {
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
        let tried = tokio::task::spawn_blocking(move || {
            let result = candidate::try_out(&again, &runtime, &mut stages);
            (stages, result)
        });
        let (mut stages, result) = match tried.await {
            Ok(tried) => tried,
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
            let cause = format!("the plugin `{plugin}` asks others over HTTP: a shadow run would ask them twice");
            return Err((Differences::default(), cause));
        }
        let shadow = Arc::new(Shadow::new(Arc::new(candidate), records, &line.outputs, line.mask.clone()));
        line.shadowing.begin(Arc::clone(&shadow));
        let is_enough = tokio::time::timeout(SHADOW_MAX, shadow.over()).await.is_ok();
        line.shadowing.end();
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

    pub(super) fn go_live(
        &mut self,
        name: &str,
        generation: Generation,
        prepared: PreparedPipeline,
        (trust, trigger, shadow): (bool, &str, Option<Differences>),
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
            shadow: shadow.map(Differences::without_values),
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
