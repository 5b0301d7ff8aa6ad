//! What may become the next generation of a pipeline, stage by stage.
//!
//! In: the project's files, read anew. Out: for each pipeline that has changed its steps ready to go live, or every reason
//! why not. Runs guests, so it belongs on no thread that records wait for.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use tokio::time::Instant;

use crate::config::{self, Environment, Problem, Project};
use crate::plugin::{Runtime, WasmTransform, cases};
use crate::startup::{self, PreparedPipeline};
use crate::status::reloads::{Reached, Stage};

/// Difference lines of a case that a refusal repeats.
const DIFFERENCES_TOLD: usize = 4;

/// A project, read anew, with all its plugins loaded.
pub(super) struct Anew {
    pub(super) project: Project,
    pub(super) pipelines: BTreeMap<String, PreparedPipeline>,
    /// What does not keep it from going live, and should be known.
    pub(super) warnings: Vec<Problem>,
    /// The stages until here.
    pub(super) stages: Vec<Reached>,
}

/// Notes stages as they are reached.
pub(super) struct Stages {
    reached: Vec<Reached>,
    since: Instant,
}

impl Stages {
    pub(super) fn after(reached: Vec<Reached>) -> Self {
        Self { reached, since: Instant::now() }
    }

    pub(super) fn reach(&mut self, stage: Stage, note: impl Into<String>) {
        let took_ms = self.since.elapsed().as_millis() as u64;
        self.reached.push(Reached { stage, took_ms, note: note.into() });
        self.since = Instant::now();
    }

    pub(super) fn into_reached(self) -> Vec<Reached> {
        self.reached
    }
}

/// Reads the project, compiles and links what it names.
///
/// # Errors
/// Every mistake in the files and the plugins, and the stages that were reached.
pub(super) fn read(
    dir: &Path,
    environment: &dyn Environment,
    runtime: &Arc<Runtime>,
) -> Result<Anew, (Vec<Problem>, Vec<Reached>)> {
    let mut stages = Stages::after(Vec::new());
    let reading = config::read(dir, environment);
    stages.reach(Stage::Fetched, "");
    for (_, step) in reading.drafts.iter().flat_map(|draft| &draft.steps) {
        // What does not compile is told, at its place, when it is linked.
        let _ = WasmTransform::compile(runtime, &step.plugin, &step.artifact, step.limits);
    }
    stages.reach(Stage::Compiled, "");
    let mut examined = startup::examine(&reading, runtime);
    let problems = std::mem::take(&mut examined.problems);
    let (errors, warnings): (Vec<Problem>, Vec<Problem>) = problems.into_iter().partition(Problem::is_error);
    if !errors.is_empty() {
        return Err((errors, stages.into_reached()));
    }
    let project = match reading.into_project() {
        Ok(project) => project,
        Err(errors) => return Err((errors.0, stages.into_reached())),
    };
    let pipelines = project.pipelines.iter().map(|pipeline| {
        let loaded = examined.transforms.remove(&pipeline.name).unwrap_or_default();
        let transforms = loaded.into_iter().map(|(_, transform)| transform).collect();
        (pipeline.name.clone(), PreparedPipeline { pipeline: pipeline.clone(), transforms })
    });
    let pipelines = pipelines.collect();
    stages.reach(Stage::Linked, "");
    Ok(Anew { project, pipelines, warnings, stages: stages.into_reached() })
}

/// Runs the cases of the plugins that lie beside them, and calls each plugin once.
///
/// # Errors
/// What went otherwise than it should.
pub(super) fn try_out(
    prepared: &PreparedPipeline,
    runtime: &Arc<Runtime>,
    stages: &mut Stages,
) -> Result<(), Vec<String>> {
    let mut problems = Vec::new();
    let mut passed = 0;
    for step in &prepared.pipeline.steps {
        match run_cases(&step.artifact, runtime) {
            Ok(count) => passed += count,
            Err(message) => problems.push(message),
        }
    }
    if !problems.is_empty() {
        return Err(problems);
    }
    let note = match passed {
        0 => "there are none beside the artifacts".to_owned(),
        1 => "1 case".to_owned(),
        count => format!("{count} cases"),
    };
    stages.reach(Stage::CasesPassed, note);
    for transform in &prepared.transforms {
        transform.smoke().map_err(|error| vec![format!("plugin {transform:?} does not answer a call: {error}")])?;
    }
    stages.reach(Stage::SmokeCalled, "");
    Ok(())
}

/// Runs the cases beside an artifact: how many there are.
fn run_cases(artifact: &Path, runtime: &Arc<Runtime>) -> Result<usize, String> {
    let Some(dir) = artifact.parent().filter(|dir| dir.join("cases").is_dir()) else { return Ok(0) };
    let reports = cases::run_all(runtime, dir, artifact, |_| true, false).map_err(|error| error.to_string())?;
    let failed: Vec<_> = reports.iter().filter(|report| !report.passed).collect();
    let Some(first) = failed.first() else { return Ok(reports.len()) };
    let lines = first.problems.iter().flat_map(cases::Problem::lines);
    let differences = lines.filter(|line| line.trim_start().starts_with(['-', '+'])).take(DIFFERENCES_TOLD);
    let differences: String = differences.map(|line| format!("; {}", line.trim())).collect();
    let dir = crate::shell::argument(dir);
    Err(format!(
        "{} of {} cases of {} fail, the first of them {}{differences}; see them all with: pelton plugin test {dir}",
        failed.len(),
        reports.len(),
        artifact.display(),
        first.name
    ))
}
