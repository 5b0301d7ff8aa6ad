//! The demo's project directory: written once, read like any other.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

use super::DemoError;
use super::rules::Rules;
use crate::config::{DeadLetterSettings, Output, Pipeline, Poison, ProcessEnvironment, Project};
use crate::daemon::Ready;
use crate::shell;

/// The plugin that every demo starts with: `plugins/shop-orders`, built and copied here by hand, so that the binary builds
/// without a compiler for plugins. The demo's own reckoning holds it to what the generator expects.
pub const PLUGIN: &[u8] = include_bytes!("shop-orders.wasm");

const FILES: [(&str, &[u8]); 3] = [
    ("pelton.yaml", include_bytes!("project/pelton.yaml")),
    ("pipelines/orders.yaml", include_bytes!("project/pipelines/orders.yaml")),
    ("plugins/shop-orders.wasm", PLUGIN),
];

/// What a topic of the demo is there for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// The shop's events.
    Events,
    /// The known pipeline's alerts.
    Alerts,
    /// The known pipeline's dead letters.
    DeadLetters,
    /// What other pipelines write: counted, not looked into.
    Other,
}

/// Where the demo's project is.
#[derive(Debug, Clone)]
pub enum Directory {
    /// In a directory that goes with the demo.
    Temporary,
    /// Written to this directory, which stays.
    Keep(PathBuf),
    /// In this directory already.
    Existing(PathBuf),
}

/// Why a directory cannot be used.
pub(super) fn unusable(dir: &Path, reason: impl std::fmt::Display) -> DemoError {
    DemoError::Directory { dir: dir.to_owned(), reason: reason.to_string() }
}

/// Writes the files of a new project.
///
/// # Errors
/// Where the directory is not empty, or cannot be written.
pub(super) fn write(dir: &Path) -> Result<(), DemoError> {
    let failed = |error: std::io::Error| unusable(dir, error);
    if dir.exists() && fs::read_dir(dir).map_err(failed)?.next().is_some() {
        let there = shell::argument(dir);
        let reason = format!("it is not empty; name a new one, or run what is there with `pelton demo {there}`");
        return Err(unusable(dir, reason));
    }
    for (name, content) in FILES {
        let path = dir.join(name);
        if let Some(parent) = path.parent() {
            fs::create_dir_all(parent).map_err(failed)?;
        }
        fs::write(path, content).map_err(failed)?;
    }
    Ok(())
}

/// Reads a project as `pelton run` does: checked whole, its plugins compiled.
///
/// # Errors
/// Every mistake in it; or that the demo has nothing for it, where it does not use Kafka.
pub(super) async fn read(dir: &Path) -> Result<Ready, DemoError> {
    let of = dir.to_owned();
    let ready = tokio::task::spawn_blocking(move || Ready::read(&of, &ProcessEnvironment, |_| Ok(())));
    let ready = ready.await.map_err(|error| unusable(dir, error))??;
    if ready.project.settings.kafka.is_none() {
        let reason = "pelton.yaml has no `kafka:`, and the demo has only a Kafka broker to offer";
        return Err(unusable(dir, reason));
    }
    // What it generates belongs into no table of anybody's.
    for pipeline in &ready.project.pipelines {
        for (name, output) in &pipeline.outputs {
            if let Output::Cassandra(table) = output {
                let file = pipeline.file.display();
                let reason = format!(
                    "{file}: outputs.{name}: the demo would write generated rows into the real table {}, and writes into \
                     embedded tables only; write `sqlite: {{ table: … }}`, or use `pelton run`",
                    table.table
                );
                return Err(unusable(dir, reason));
            }
        }
    }
    Ok(ready)
}

/// Every topic that a project names, and what for.
#[must_use]
pub(super) fn topics(project: &Project, known: &Known) -> BTreeMap<String, Role> {
    let mut topics = BTreeMap::new();
    for pipeline in &project.pipelines {
        let is_known = pipeline.name == known.pipeline;
        for (name, output) in &pipeline.outputs {
            if let Output::Kafka(kafka) = output {
                let role = if is_known && name == ALERTS { Role::Alerts } else { Role::Other };
                topics.insert(kafka.topic.clone(), role);
            }
        }
        if let DeadLetterSettings::Kafka { topic } = &pipeline.dead_letters {
            topics.insert(topic.clone(), if is_known { Role::DeadLetters } else { Role::Other });
        }
    }
    // A topic that a pipeline also reads holds events.
    for topic in project.pipelines.iter().flat_map(|pipeline| &pipeline.source.topics) {
        topics.insert(topic.clone(), Role::Events);
    }
    topics
}

/// Every embedded table that a project names.
#[must_use]
pub(super) fn tables(project: &Project) -> BTreeSet<String> {
    let outputs = project.pipelines.iter().flat_map(|pipeline| pipeline.outputs.values());
    let tables = outputs.filter_map(|output| match output {
        Output::Sqlite(table) => Some(table.table.clone()),
        _ => None,
    });
    tables.collect()
}

/// The output of alerts.
const ALERTS: &str = "alerts";

/// What is known of a project's outcome beforehand.
#[derive(Debug, Clone)]
pub struct Known {
    /// The pipeline.
    pub pipeline: String,
    /// The topic that the shop writes to.
    pub topic: String,
    /// The table of orders, where it is an embedded one.
    pub table: Option<String>,
    /// The plugin's rules; or why nobody knows what should become of an event.
    pub rules: Result<Rules, String>,
}

/// Looks for a pipeline that is still the demo's own, but for its configuration; others may stand beside it.
#[must_use]
pub(super) fn known(project: &Project) -> Option<Known> {
    let all: Vec<Known> = project
        .pipelines
        .iter()
        .filter_map(|pipeline| {
            let table = match pipeline.outputs.get("default") {
                Some(Output::Sqlite(table)) => Some(table.table.clone()),
                _ => None,
            };
            let topic = pipeline.source.topics.first()?.clone();
            Some(Known { pipeline: pipeline.name.clone(), topic, table, rules: rules(pipeline) })
        })
        .collect();
    all.iter().find(|known| known.rules.is_ok()).or_else(|| all.first()).cloned()
}

fn rules(pipeline: &Pipeline) -> Result<Rules, String> {
    let wrong = |what: &str| Err(format!("of pipeline {}, {what}", pipeline.name));
    let Some(Output::Sqlite(table)) = pipeline.outputs.get("default") else {
        return wrong("the default output is no embedded table");
    };
    if table.ttl.is_some() {
        return wrong("the rows expire");
    }
    let [step] = pipeline.steps.as_slice() else {
        return wrong("there is not exactly one step");
    };
    if fs::read(&step.artifact).ok().as_deref() != Some(PLUGIN) {
        return wrong(&format!("the plugin {} is not the one that this demo was made with", step.plugin));
    }
    let alerts = matches!(pipeline.outputs.get(ALERTS), Some(Output::Kafka(_)));
    if !alerts || !matches!(pipeline.dead_letters, DeadLetterSettings::Kafka { .. }) {
        return wrong("alerts or dead letters do not go to a topic");
    }
    if pipeline.errors.poison != Poison::DeadLetter {
        return wrong("poison records do not become dead letters");
    }
    match Rules::from_config(&step.config) {
        Some(rules) => Ok(rules),
        None => wrong("the step's configuration is not the plugin's"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn load(dir: &Path) -> Project {
        crate::config::load(dir, &ProcessEnvironment).expect("it has no mistakes")
    }

    #[test]
    fn what_is_written_is_a_project_whose_outcome_is_known() {
        let dir = tempfile::tempdir().expect("a directory");
        write(dir.path()).expect("writes");
        let project = load(dir.path());
        assert!(project.warnings.is_empty(), "{:?}", project.warnings);
        let known = known(&project).expect("there is a pipeline");
        assert_eq!((known.topic.as_str(), known.table.as_deref()), ("shop.orders", Some("orders")));
        assert_eq!(known.rules, Ok(Rules::default()));
        let roles = [
            ("shop.alerts".to_owned(), Role::Alerts),
            ("shop.orders".to_owned(), Role::Events),
            ("shop.orders.dlq".to_owned(), Role::DeadLetters),
        ];
        assert_eq!(topics(&project, &known), roles.into());
        assert_eq!(tables(&project), ["orders".to_owned()].into());
        let again = write(dir.path()).expect_err("it is not empty").to_string();
        assert!(again.contains("not empty"), "{again}");
    }

    #[test]
    fn nobody_claims_to_know_what_another_plugin_does() {
        let dir = tempfile::tempdir().expect("a directory");
        write(dir.path()).expect("writes");
        fs::write(dir.path().join("plugins/shop-orders.wasm"), b"another").expect("writes");
        let known = known(&load(dir.path())).expect("there is a pipeline");
        assert!(known.rules.expect_err("another plugin").contains("is not the one"));
    }

    #[test]
    fn another_pipeline_may_stand_beside_the_demos_own() {
        let dir = tempfile::tempdir().expect("a directory");
        write(dir.path()).expect("writes");
        let copy = "source: { kafka: { topics: [shop.orders] }, format: json }\nsteps: []\n\
                    outputs: { default: { kafka: { topic: shop.copy } } }\n";
        fs::write(dir.path().join("pipelines/copy.yaml"), copy).expect("writes");
        let project = load(dir.path());
        let known = known(&project).expect("there are pipelines");
        assert_eq!((known.pipeline.as_str(), known.rules.is_ok()), ("orders", true));
        assert_eq!(topics(&project, &known)["shop.copy"], Role::Other);
    }
}
