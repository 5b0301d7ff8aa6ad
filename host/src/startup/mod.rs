//! What happens between reading a project and reading its first record, for `run` and `check` alike.
//!
//! In: a [`Reading`] or a [`Project`], and the engine that runs plugins. Out: every pipeline with its plugins loaded,
//! granted, configured and fitted to its outputs, or every mistake. Only [`reach`] (and [`ask`], which is it and [`look`])
//! opens connections; nothing here reads or writes a record.

mod blame;
mod budget;
mod fit;
mod online;
mod rows;
mod services;
mod tables;

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::Arc;

use crate::config::{
    self, ConfigErrors, Draft, Environment, Mask, Output, Pipeline, Positions, Problem, Project, Reading, Step,
};
use crate::pipeline::{CellSpec, Transform as _};
use crate::plugin::{LoadError, Refusal, Runtime, WasmTransform, build};
use crate::shell;
use fit::{Fit, feeders, subscriptions};
pub use online::{Asked, ask, look};
pub use services::{Absent, Services, reach};
use tables::TableFacts;

/// A pipeline that could run at once.
#[derive(Clone)]
pub struct PreparedPipeline {
    /// The pipeline.
    pub pipeline: Pipeline,
    /// Its steps, loaded, in order.
    pub transforms: Vec<Arc<WasmTransform>>,
}

/// What a project's plugins say: the mistakes, and those that could be loaded.
pub struct Examined {
    /// Everything that is wrong with the files, and with the plugins that could be found. Warnings are among them.
    pub problems: Vec<Problem>,
    /// The plugins.
    pub transforms: Loaded,
}

/// The steps that could be loaded, by pipeline, with their index.
pub type Loaded = BTreeMap<String, Vec<(usize, Arc<WasmTransform>)>>;

/// Reads a project and loads its plugins.
///
/// `runtime` makes the engine when the settings are known.
///
/// # Errors
/// Every mistake in the files and in the plugins.
pub fn start<E>(
    dir: &Path,
    environment: &dyn Environment,
    runtime: impl FnOnce(&config::Settings) -> Result<Arc<Runtime>, E>,
) -> Result<(Project, Vec<PreparedPipeline>), StartError<E>> {
    let reading = config::read(dir, environment);
    if !dir.join("pelton.yaml").is_file() {
        // The engine would make its cache there.
        return Err(StartError::Config(ConfigErrors::new(reading.problems)));
    }
    let runtime = runtime(&reading.settings).map_err(StartError::Runtime)?;
    let mut examined = examine(&reading, &runtime);
    if examined.problems.iter().any(Problem::is_error) {
        return Err(StartError::Config(ConfigErrors::new(examined.problems)));
    }
    let mut project = reading.into_project().map_err(StartError::Config)?;
    project.warnings = examined.problems;
    let prepared = project
        .pipelines
        .iter()
        .map(|pipeline| PreparedPipeline {
            pipeline: pipeline.clone(),
            transforms: loaded(examined.transforms.remove(&pipeline.name)),
        })
        .collect();
    Ok((project, prepared))
}

/// Why a project cannot start.
#[derive(Debug, thiserror::Error)]
pub enum StartError<E> {
    /// Mistakes in files and plugins.
    #[error("{0}")]
    Config(ConfigErrors),
    /// There is no engine to run plugins.
    #[error("{0}")]
    Runtime(E),
}

/// Loads the plugins of a valid project.
///
/// # Errors
/// Every mistake in them, over all pipelines.
pub fn prepare(project: &Project, runtime: &Arc<Runtime>) -> Result<Vec<PreparedPipeline>, ConfigErrors> {
    let mut problems = Vec::new();
    let mut prepared = Vec::new();
    for pipeline in &project.pipelines {
        let steps: Vec<(usize, Step)> = pipeline.steps.iter().cloned().enumerate().collect();
        let transforms = load(&pipeline.name, &steps, runtime, &project.mask, &mut problems);
        let outputs = pipeline.outputs.iter().map(|(name, output)| (name.clone(), Some(output.clone()))).collect();
        let fit = Fit {
            pipeline: &pipeline.name,
            steps: &subscriptions(&transforms),
            is_whole: transforms.len() == steps.len(),
            outputs: &outputs,
            format: Some(pipeline.source.format),
        };
        problems.extend(fit.problems());
        prepared.push(PreparedPipeline { pipeline: pipeline.clone(), transforms: loaded(Some(transforms)) });
    }
    place(&project.positions, &mut problems);
    if problems.iter().any(Problem::is_error) { Err(ConfigErrors::new(problems)) } else { Ok(prepared) }
}

/// Loads the plugins of a project as far as it is valid: what one mistake leaves standing is examined all the same.
#[must_use]
pub fn examine(reading: &Reading, runtime: &Arc<Runtime>) -> Examined {
    let mut problems = Vec::new();
    let mut transforms = BTreeMap::new();
    for draft in &reading.drafts {
        let loaded = load(&draft.name, &draft.steps, runtime, &reading.mask, &mut problems);
        problems.extend(fit(draft, &loaded).into_iter().map(|problem| masked(problem, &reading.mask)));
        transforms.insert(draft.name.clone(), loaded);
    }
    let steps = reading.drafts.iter().flat_map(|draft| draft.steps.iter().map(|(_, step)| (&*draft.name, step)));
    // A budget with a mistake in it is none.
    let has_budget = !reading.problems.iter().any(|problem| problem.pipeline.is_none() && problem.key == "memory");
    let over_budget = budget::of_plugins(steps, runtime.compute_threads(), reading.settings.memory_bytes);
    let over_budget = over_budget.filter(|_| has_budget);
    place(&reading.positions, &mut problems);
    problems.extend(over_budget.map(|problem| {
        let problem = reading.positions.place(problem);
        // Where the default holds, nothing of it is written.
        if problem.line == 0 { Problem { line: 1, column: 1, ..problem } } else { problem }
    }));
    problems.extend(reading.problems.iter().cloned());
    Examined { problems: ConfigErrors::new(problems).0, transforms }
}

/// Without what came out of substitutions, such as a table's name.
fn masked(problem: Problem, mask: &Mask) -> Problem {
    Problem { found: mask.apply(&problem.found), remedy: mask.apply(&problem.remedy), ..problem }
}

fn fit(draft: &Draft, loaded: &[(usize, Arc<WasmTransform>)]) -> Vec<Problem> {
    let Some(outputs) = &draft.outputs else { return Vec::new() };
    let is_whole = draft.steps_are_whole && loaded.len() == draft.steps.len();
    let steps = subscriptions(loaded);
    let mut problems = Fit { pipeline: &draft.name, steps: &steps, is_whole, outputs, format: draft.format }.problems();
    if let Some(pipeline) = &draft.pipeline {
        let tables =
            pipeline.outputs.iter().filter_map(|(name, output)| TableFacts::of_files(&draft.name, name, output));
        problems.extend(rows::fed_by_several_partitions(pipeline, tables.collect::<Vec<_>>(), None));
    }
    problems
}

/// Holds a table that is open against what plugins set: warns of fields for which it has no column, where that was not told
/// before (`is_told`: the files told its columns, or Cassandra was asked).
///
/// # Errors
/// The first column that would miss what a plugin sets.
pub(crate) fn check_opened_table(
    prepared: &PreparedPipeline,
    (name, output): (&str, &Output),
    columns: &[CellSpec],
    is_told: bool,
) -> Result<Vec<Problem>, Problem> {
    let transforms = prepared.transforms.iter().enumerate();
    let steps: Vec<_> =
        transforms.map(|(index, transform)| (index, transform.name(), transform.subscription())).collect();
    let Some(mut table) = TableFacts::of_files(&prepared.pipeline.name, name, output) else { return Ok(Vec::new()) };
    table.columns = columns.to_vec();
    let feeders = feeders(name, &steps);
    if let Some(missed) = feeders.iter().flat_map(|feeder| table.columns_that_miss_what_is_set(feeder)).next() {
        return Err(missed);
    }
    if is_told {
        return Ok(Vec::new());
    }
    table.key = Some(Vec::new());
    Ok(feeders.iter().filter_map(|feeder| table.fields_without_column(feeder)).collect())
}

fn loaded(transforms: Option<Vec<(usize, Arc<WasmTransform>)>>) -> Vec<Arc<WasmTransform>> {
    transforms.unwrap_or_default().into_iter().map(|(_, transform)| transform).collect()
}

fn place(positions: &Positions, problems: &mut Vec<Problem>) {
    *problems = std::mem::take(problems).into_iter().map(|problem| positions.place(problem)).collect();
}

fn load(
    pipeline: &str,
    steps: &[(usize, Step)],
    runtime: &Arc<Runtime>,
    mask: &Mask,
    problems: &mut Vec<Problem>,
) -> Vec<(usize, Arc<WasmTransform>)> {
    let mut loaded = Vec::new();
    for (index, step) in steps {
        problems.extend(stale(pipeline, *index, step));
        match WasmTransform::load(runtime, &step.plugin, &step.artifact, &step.config, &step.grants, step.limits) {
            Ok(transform) => {
                transform.tell_first_words(mask);
                loaded.push((*index, Arc::new(transform)));
            }
            Err(error) => {
                problems.extend(load_problems(pipeline, *index, step, &error, mask));
                if let LoadError::Refused(refusal) = &error
                    && refusal.unknown.is_empty()
                    && refusal.versions.is_empty()
                {
                    let (config, grants) = (&step.config, &step.grants);
                    let message =
                        WasmTransform::refused_configuration(runtime, &step.artifact, config, grants, step.limits);
                    problems
                        .extend(message.map(|message| refused_configuration(pipeline, *index, step, &message, mask)));
                }
            }
        }
    }
    loaded
}

/// A plugin whose source has changed since it was built: what runs is not what its author reads.
fn stale(pipeline: &str, index: usize, step: &Step) -> Option<Problem> {
    let stale = build::staleness(&step.artifact)?;
    let found = format!("the plugin `{}` was built from another source: {}", step.plugin, stale.found());
    let remedy = format!("build it anew: {}", stale.build_command());
    Some(Problem::by_key(Some(pipeline), format!("steps[{index}].plugin"), found, remedy).as_warning())
}

/// A plugin that cannot be loaded, at the key that is to blame.
fn load_problems(pipeline: &str, index: usize, step: &Step, error: &LoadError, mask: &Mask) -> Vec<Problem> {
    let name = &step.plugin;
    let problem = |key: &str, found: String, remedy: &str| {
        Problem::by_key(Some(pipeline), format!("steps[{index}].{key}"), mask.apply(&found), remedy)
    };
    match error {
        LoadError::Refused(refusal) => refused(name, refusal, problem),
        LoadError::Config { message } => vec![refused_configuration(pipeline, index, step, message, mask)],
        LoadError::Host { message } => vec![problem(
            "plugin",
            format!("the plugin `{name}` cannot be started on this machine: {message}"),
            "free memory or address space, or lower `limits: memory:`",
        )],
        _ => vec![problem(
            "plugin",
            format!("the plugin `{name}` cannot be loaded: {error}"),
            &format!("see what it is with: pelton plugin inspect {}", shell::argument(&step.artifact)),
        )],
    }
}

/// A plugin's word against its configuration, at the key that it is about.
fn refused_configuration(pipeline: &str, index: usize, step: &Step, message: &str, mask: &Mask) -> Problem {
    let below = blame::key(&step.config, message).unwrap_or_default();
    let found = mask.apply(&format!("the plugin `{}` refuses its configuration: {message}", step.plugin));
    let key = format!("steps[{index}].config{below}");
    Problem::by_key(Some(pipeline), key, found, documentation(&step.artifact))
}

/// Where a plugin's author says what its configuration is.
fn documentation(artifact: &Path) -> String {
    // Beside plugins that were copied into one directory, a README would be of them all.
    let own = artifact.parent().filter(|dir| dir.file_name() == artifact.file_stem());
    match own.map(|dir| dir.join("README.md")).filter(|file| file.is_file()) {
        Some(file) => format!("write what {} asks for", shell::shown(&file).display()),
        None => format!("write what its author asks for; no README.md came with {}", shell::shown(artifact).display()),
    }
}

fn refused(name: &str, refusal: &Refusal, problem: impl Fn(&str, String, &str) -> Problem) -> Vec<Problem> {
    let mut problems = Vec::new();
    let missing = refusal.missing();
    if !missing.is_empty() {
        let words: Vec<_> = missing.iter().map(|capability| format!("`{}`", capability.name())).collect();
        let all: BTreeSet<_> = refusal.asked.union(&refusal.granted).map(|capability| capability.written()).collect();
        let all: Vec<_> = all.into_iter().collect();
        problems.push(problem(
            "grants",
            format!("the plugin `{name}` asks for {}, which it is not granted", words.join(", ")),
            &format!("write `grants: [{}]`, or use a plugin that asks for less", all.join(", ")),
        ));
    }
    for import in &refusal.unknown {
        problems.push(problem(
            "plugin",
            format!("the plugin `{name}` asks for {import}, which nothing here offers"),
            "build it without that: a plugin has no files, no sockets and no environment",
        ));
    }
    for import in &refusal.versions {
        problems.push(problem(
            "plugin",
            format!("the plugin `{name}` speaks another version of the interface: {import}"),
            &format!("build it anew against {}", crate::plugin::artifact::INTERFACE_VERSION),
        ));
    }
    problems
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plugin::Capability;

    #[test]
    fn a_refused_plugin_is_told_what_to_write() {
        let step = Step {
            plugin: "shop-orders".to_owned(),
            artifact: "shop-orders.wasm".into(),
            config: serde_json::Value::Null,
            grants: [Capability::Log].into(),
            limits: crate::config::Limits::default(),
        };
        let refusal = Refusal {
            asked: BTreeSet::from([Capability::Log, Capability::Clock]),
            granted: step.grants.capabilities.clone(),
            unknown: vec!["wasi:sockets/tcp@0.2.0".to_owned()],
            versions: Vec::new(),
        };
        let problems = load_problems("orders", 0, &step, &LoadError::Refused(refusal), &Mask::default());
        assert_eq!(problems[0].key, "steps[0].grants");
        assert_eq!(problems[0].remedy, "write `grants: [clock, log]`, or use a plugin that asks for less");
        assert!(problems[1].found.contains("wasi:sockets/tcp"));
    }
}
