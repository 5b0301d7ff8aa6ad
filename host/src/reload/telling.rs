//! What is told of generations: in the log, the metrics, the status and the history.
//!
//! In: what a generation has become, or why a candidate is refused. Out: the same, wherever somebody may look. Decides
//! nothing.

use super::candidate::Stages;
use super::reloader::Reloader;
use crate::pipeline::Transform as _;
use crate::startup::PreparedPipeline;
use crate::status::reloads::{GenerationStatus, PipelineReload, PluginVersion, Stage};
use crate::telemetry::Metric;

impl Reloader {
    pub(super) fn refuse(&mut self, name: &str, mut stages: Stages, causes: Vec<String>) -> PipelineReload {
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

    pub(super) fn status(
        &self,
        number: u64,
        prepared: &PreparedPipeline,
        stage: Stage,
        trigger: &str,
    ) -> GenerationStatus {
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
            shadow: None,
            handled: Vec::new(),
        }
    }

    pub(super) fn keep_artifacts(&self, name: &str) {
        let prepared = &self.running[name].prepared;
        for (step, transform) in prepared.pipeline.steps.iter().zip(&prepared.transforms) {
            if let Err(error) = self.parts.history.keep(step, &transform.digest()) {
                tracing::warn!(pipeline = name, "{error}");
            }
        }
    }

    /// Tells what the pipeline's generation has become.
    pub(super) fn tell(&mut self, name: &str) {
        self.note(name, self.running[name].status.clone());
        self.show(name);
    }

    pub(super) fn show(&self, name: &str) {
        let status = &self.running[name].status;
        tracing::info!(pipeline = name, generation = status.number, stage = %status.stage, trigger = status.trigger, "generation");
        self.parts.telemetry.gauge(Metric::Generation, &[("pipeline", name)], status.number as f64);
        self.parts.board.note_generation(name, status.clone());
    }

    pub(super) fn note(&mut self, name: &str, status: GenerationStatus) {
        if let Err(error) = self.parts.history.note(name, status) {
            tracing::warn!(pipeline = name, "{error}");
        }
    }

    pub(super) fn count(&self, name: &str, outcome: &str) {
        self.parts.telemetry.count(Metric::Reloads, &[("pipeline", name), ("outcome", outcome)], 1);
    }
}
