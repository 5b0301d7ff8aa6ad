//! What happens between reading a project and reading its first record, for `run` and `check` alike.
//!
//! In: a [`Reading`] or a [`Project`], and the engine that runs plugins. Out: every pipeline with its plugins loaded,
//! granted, configured and fitted to its outputs, or every mistake. Never opens a connection, and never reads a record.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::Arc;

use crate::config::{
    self, ConfigErrors, Draft, Environment, Format, Mask, Output, Pipeline, Positions, Problem, Project, Reading, Step,
};
use crate::pipeline::{Subscription, Transform};
use crate::plugin::{LoadError, Refusal, Runtime, WasmTransform};
use crate::record::OutputField;

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
    /// By pipeline, the steps that could be loaded, with their index.
    pub transforms: BTreeMap<String, Vec<(usize, Arc<WasmTransform>)>>,
}

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
    let runtime = runtime(&reading.settings).map_err(StartError::Runtime)?;
    let mut examined = examine(&reading, &runtime);
    if examined.problems.iter().any(Problem::is_error) {
        return Err(StartError::Config(ConfigErrors::new(examined.problems)));
    }
    let project = reading.into_project().map_err(StartError::Config)?;
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
        problems.extend(fit(draft, &loaded));
        transforms.insert(draft.name.clone(), loaded);
    }
    place(&reading.positions, &mut problems);
    problems.extend(reading.problems.iter().cloned());
    Examined { problems: ConfigErrors::new(problems).0, transforms }
}

fn fit(draft: &Draft, loaded: &[(usize, Arc<WasmTransform>)]) -> Vec<Problem> {
    let Some(outputs) = &draft.outputs else { return Vec::new() };
    let is_whole = draft.steps_are_whole && loaded.len() == draft.steps.len();
    let steps = subscriptions(loaded);
    Fit { pipeline: &draft.name, steps: &steps, is_whole, outputs, format: draft.format }.problems()
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
        match WasmTransform::load(runtime, &step.plugin, &step.artifact, &step.config, &step.grants, step.limits) {
            Ok(transform) => loaded.push((*index, Arc::new(transform))),
            Err(error) => problems.extend(load_problems(pipeline, *index, step, &error, mask)),
        }
    }
    loaded
}

/// A plugin that cannot be loaded, at the key that is to blame.
fn load_problems(pipeline: &str, index: usize, step: &Step, error: &LoadError, mask: &Mask) -> Vec<Problem> {
    let name = &step.plugin;
    let problem = |key: &str, found: String, remedy: &str| {
        Problem::by_key(Some(pipeline), format!("steps[{index}].{key}"), mask.apply(&found), remedy)
    };
    match error {
        LoadError::Refused(refusal) => refused(name, refusal, problem),
        LoadError::Config { message } => vec![problem(
            "config",
            format!("the plugin `{name}` refuses its configuration: {message}"),
            "write what its README asks for",
        )],
        LoadError::Host { message } => vec![problem(
            "plugin",
            format!("the plugin `{name}` cannot be started on this machine: {message}"),
            "free memory or address space, or lower `limits: memory:`",
        )],
        _ => vec![problem(
            "plugin",
            format!("the plugin `{name}` cannot be loaded: {error}"),
            &format!("see what it is with: pelton plugin inspect {}", step.artifact.display()),
        )],
    }
}

fn refused(name: &str, refusal: &Refusal, problem: impl Fn(&str, String, &str) -> Problem) -> Vec<Problem> {
    let mut problems = Vec::new();
    let missing = refusal.missing();
    if !missing.is_empty() {
        let words: Vec<_> = missing.iter().map(|capability| format!("`{}`", capability.name())).collect();
        let all: BTreeSet<_> = refusal.asked.union(&refusal.granted).map(|capability| capability.name()).collect();
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

fn subscriptions(transforms: &[(usize, Arc<WasmTransform>)]) -> Vec<(usize, &str, &Subscription)> {
    transforms.iter().map(|(index, transform)| (*index, transform.name(), transform.subscription())).collect()
}

/// The typed fields that every row of an output has to offer: those of the one step that feeds it; none where several do,
/// and none are known.
#[must_use]
pub fn fields_set<'s>(output: &str, steps: &'s [(usize, Arc<WasmTransform>)]) -> &'s [OutputField] {
    let subscriptions = subscriptions(steps);
    match feeders(output, &subscriptions).as_slice() {
        [one] => &one.set_fields,
        _ => &[],
    }
}

/// The steps that feed an output.
fn feeders<'s>(output: &str, steps: &[(usize, &'s str, &'s Subscription)]) -> Vec<&'s Subscription> {
    let last = steps.last().map(|(index, ..)| *index);
    let feeds = |index: usize, subscription: &Subscription| {
        (output == "default" && Some(index) == last) || subscription.routes.iter().any(|route| route == output)
    };
    steps.iter().filter(|(index, _, step)| feeds(*index, step)).map(|(_, _, step)| *step).collect()
}

/// Whether what the plugins read, set and route to fits their pipeline.
struct Fit<'f> {
    pipeline: &'f str,
    /// Index, name and subscription of the steps that could be loaded.
    steps: &'f [(usize, &'f str, &'f Subscription)],
    /// Whether these are all the steps.
    is_whole: bool,
    outputs: &'f BTreeMap<String, Option<Output>>,
    format: Option<Format>,
}

impl Fit<'_> {
    fn problems(&self) -> Vec<Problem> {
        let mut problems = self.routes_without_output();
        if self.is_whole {
            problems.extend(self.outputs_without_route());
        }
        if self.format == Some(Format::Bytes) {
            problems.extend(self.fields_without_json());
            if self.is_whole {
                problems.extend(self.tables_without_columns());
            }
        }
        problems
    }

    fn problem(&self, key: String, found: String, remedy: String) -> Problem {
        Problem::by_key(Some(self.pipeline), key, found, remedy)
    }

    fn routes_without_output(&self) -> Vec<Problem> {
        let mut problems = Vec::new();
        for (index, name, subscription) in self.steps {
            for route in subscription.routes.iter().filter(|route| !self.outputs.contains_key(*route)) {
                problems.push(self.problem(
                    format!("steps[{index}].plugin"),
                    format!("the plugin `{name}` routes to `{route}`, and there is no such output"),
                    format!("write `{route}:` under `outputs:`; `{route}: {{ discard: true }}` drops what goes there"),
                ));
            }
        }
        problems
    }

    fn outputs_without_route(&self) -> Vec<Problem> {
        let routes: BTreeSet<&str> =
            self.steps.iter().flat_map(|(_, _, subscription)| &subscription.routes).map(String::as_str).collect();
        // Without steps, the files alone were enough to tell.
        let names = self.outputs.keys().filter(|name| *name != "default" && !self.steps.is_empty());
        names
            .filter(|name| !routes.contains(name.as_str()))
            .map(|name| {
                let remedy = if routes.is_empty() {
                    "remove it: the plugins write to `default` only".to_owned()
                } else {
                    let words: Vec<_> = routes.iter().map(|route| format!("`{route}`")).collect();
                    format!("remove it; the plugins route to {} and `default`", words.join(", "))
                };
                self.problem(format!("outputs.{name}"), format!("no step routes to `{name}`"), remedy)
            })
            .collect()
    }

    /// Only the first step is sure to get values as the source has them.
    fn fields_without_json(&self) -> Vec<Problem> {
        let Some((0, name, subscription)) = self.steps.first() else { return Vec::new() };
        if subscription.value_fields.is_empty() {
            return Vec::new();
        }
        let fields: Vec<_> =
            subscription.value_fields.iter().take(3).map(|field| format!("`{}`", field.path.join("."))).collect();
        let more = if subscription.value_fields.len() > fields.len() { ", …" } else { "" };
        vec![self.problem(
            "source.format".to_owned(),
            format!("the plugin `{name}` reads fields ({}{more}), and `format: bytes` has none", fields.join(", ")),
            "write `format: json`, or use a plugin that reads whole values".to_owned(),
        )]
    }

    fn tables_without_columns(&self) -> Vec<Problem> {
        if self.steps.is_empty() {
            return Vec::new();
        }
        let tables =
            self.outputs.iter().filter(|(_, output)| matches!(output, Some(Output::Cassandra(_) | Output::Sqlite(_))));
        tables
            .filter(|(name, _)| {
                let feeders = feeders(name, self.steps);
                !feeders.is_empty() && feeders.iter().all(|subscription| subscription.set_fields.is_empty())
            })
            .map(|(name, _)| {
                self.problem(
                    format!("outputs.{name}"),
                    "a table needs columns: the plugin sets none, and `format: bytes` has none".to_owned(),
                    "write `format: json` under `source:`, or use a plugin that sets columns".to_owned(),
                )
            })
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::KafkaOutput;
    use crate::record::{Field, FieldType, Policy};

    fn outputs(names: &[&str]) -> BTreeMap<String, Option<Output>> {
        names.iter().map(|name| ((*name).to_owned(), Some(Output::Discard))).collect()
    }

    fn routes(routes: &[&str]) -> Subscription {
        Subscription { routes: routes.iter().map(|route| (*route).to_owned()).collect(), ..Subscription::default() }
    }

    fn told(fit: &Fit<'_>) -> Vec<(String, String)> {
        fit.problems().into_iter().map(|problem| (problem.key, problem.found)).collect()
    }

    #[test]
    fn every_route_has_an_output_and_every_output_a_route() {
        let (first, second) = (routes(&["alerts"]), routes(&["audit"]));
        let steps = [(0, "one", &first), (1, "two", &second)];
        let outputs = outputs(&["default", "alerts", "archive"]);
        let mut fit =
            Fit { pipeline: "p", steps: &steps, is_whole: true, outputs: &outputs, format: Some(Format::Json) };
        let keys: Vec<_> = told(&fit).into_iter().map(|(key, _)| key).collect();
        assert_eq!(keys, ["steps[1].plugin", "outputs.archive"]);
        // A step that could not be loaded may be the one that routes there.
        fit.is_whole = false;
        assert_eq!(told(&fit).len(), 1);
    }

    #[test]
    fn bytes_have_no_fields_and_no_columns() {
        let reads = Subscription {
            value_fields: vec![Field {
                path: vec!["a".to_owned(), "b".to_owned()],
                field_type: FieldType::Text,
                on_missing: Policy::Reject,
                on_mismatch: Policy::Reject,
            }],
            ..Subscription::default()
        };
        let sets = Subscription {
            set_fields: vec![OutputField { path: vec!["a".to_owned()], field_type: FieldType::Text }],
            ..Subscription::default()
        };
        let mut outputs = outputs(&["default"]);
        let table = config_table();
        outputs.insert("default".to_owned(), Some(table));
        let check = |steps: &[(usize, &str, &Subscription)]| {
            told(&Fit { pipeline: "p", steps, is_whole: true, outputs: &outputs, format: Some(Format::Bytes) })
                .into_iter()
                .map(|(key, _)| key)
                .collect::<Vec<_>>()
        };
        assert_eq!(check(&[(0, "reads", &reads)]), ["source.format", "outputs.default"]);
        assert!(check(&[(0, "sets", &sets)]).is_empty());
        // Values that a step made are JSON again.
        assert_eq!(check(&[(0, "sets", &sets), (1, "reads", &reads)]), ["outputs.default"]);
    }

    fn config_table() -> Output {
        Output::Sqlite(crate::config::TableOutput {
            table: "t".to_owned(),
            columns: BTreeMap::new(),
            ttl: None,
            tombstones: crate::config::Tombstones::Reject,
            timestamp_floor: None,
            consistency: None,
            create: None,
        })
    }

    #[test]
    fn a_refused_plugin_is_told_what_to_write() {
        use crate::plugin::Capability;
        let step = Step {
            plugin: "shop-orders".to_owned(),
            artifact: "shop-orders.wasm".into(),
            config: serde_json::Value::Null,
            grants: BTreeSet::from([Capability::Log]),
            limits: crate::config::Limits::default(),
        };
        let refusal = Refusal {
            asked: BTreeSet::from([Capability::Log, Capability::Clock]),
            granted: step.grants.clone(),
            unknown: vec!["wasi:sockets/tcp@0.2.0".to_owned()],
            versions: Vec::new(),
        };
        let problems = load_problems("orders", 0, &step, &LoadError::Refused(refusal), &Mask::default());
        assert_eq!(problems[0].key, "steps[0].grants");
        assert_eq!(problems[0].remedy, "write `grants: [clock, log]`, or use a plugin that asks for less");
        assert!(problems[1].found.contains("wasi:sockets/tcp"));
    }

    #[test]
    fn topics_are_no_tables() {
        let keep = Subscription::default();
        let kafka = Output::Kafka(KafkaOutput {
            topic: "t".to_owned(),
            partitioner: String::new(),
            properties: BTreeMap::new(),
        });
        let outputs = BTreeMap::from([("default".to_owned(), Some(kafka))]);
        let steps = [(0, "identity", &keep)];
        let fit = Fit { pipeline: "p", steps: &steps, is_whole: true, outputs: &outputs, format: Some(Format::Bytes) };
        assert!(fit.problems().is_empty());
    }
}
