//! The demo's project directory: written once, read like any other.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use super::DemoError;
use super::rules::Rules;
use crate::config::{self, DeadLetterSettings, Output, ProcessEnvironment, Project};
use crate::daemon::Ready;

/// The plugin that every demo starts with.
pub const PLUGIN: &[u8] = include_bytes!("../../../plugins/shop-orders/shop-orders.wasm");

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
    /// Rows that a pipeline routes to a topic.
    Alerts,
    /// Records that could not be handled.
    DeadLetters,
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
        let reason = "it is not empty; name a new one, or run what is there with `pelton demo DIR`";
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
    let ready = tokio::task::spawn_blocking(move || Ready::read(&of, &ProcessEnvironment));
    let ready = ready.await.map_err(|error| unusable(dir, error))??;
    if ready.project.settings.kafka.is_none() {
        let reason = "pelton.yaml has no `kafka:`, and the demo has only a Kafka broker to offer";
        return Err(unusable(dir, reason));
    }
    Ok(ready)
}

/// Every topic that a project names, and what for.
#[must_use]
pub(super) fn topics(project: &Project) -> BTreeMap<String, Role> {
    let mut topics = BTreeMap::new();
    for pipeline in &project.pipelines {
        for output in pipeline.outputs.values() {
            if let Output::Kafka(kafka) = output {
                topics.insert(kafka.topic.clone(), Role::Alerts);
            }
        }
        if let DeadLetterSettings::Kafka { topic } = &pipeline.dead_letters {
            topics.insert(topic.clone(), Role::DeadLetters);
        }
    }
    // A topic that a pipeline also reads holds events.
    for topic in project.pipelines.iter().flat_map(|pipeline| &pipeline.source.topics) {
        topics.insert(topic.clone(), Role::Events);
    }
    topics
}

/// What is known of a project's outcome beforehand.
#[derive(Debug, Clone)]
pub struct Known {
    /// The topic that the shop writes to.
    pub topic: String,
    /// The table of orders, where it is an embedded one.
    pub table: Option<String>,
    /// The plugin's rules; or why nobody knows what should become of an event.
    pub rules: Result<Rules, String>,
}

/// Looks whether the pipeline is still the demo's own, but for its configuration.
#[must_use]
pub(super) fn known(project: &Project) -> Option<Known> {
    let pipeline = project.pipelines.first()?;
    let table = match pipeline.outputs.get("default") {
        Some(Output::Sqlite(table)) => Some(table.table.clone()),
        _ => None,
    };
    let rules = rules(project, table.is_some());
    Some(Known { topic: pipeline.source.topics.first()?.clone(), table, rules })
}

fn rules(project: &Project, has_table: bool) -> Result<Rules, String> {
    let ([pipeline], true) = (project.pipelines.as_slice(), has_table) else {
        return Err("it is not one pipeline whose default output is an embedded table".into());
    };
    let [step] = pipeline.steps.as_slice() else {
        return Err("it does not have exactly one step".into());
    };
    if fs::read(&step.artifact).ok().as_deref() != Some(PLUGIN) {
        return Err(format!("its plugin {} is not the one that this demo was made with", step.plugin));
    }
    if matches!(pipeline.outputs.get("default"), Some(Output::Sqlite(table)) if table.ttl.is_some()) {
        return Err("the rows of its table expire".into());
    }
    let alerts = matches!(pipeline.outputs.get("alerts"), Some(Output::Kafka(_)));
    if !alerts || !matches!(pipeline.dead_letters, DeadLetterSettings::Kafka { .. }) {
        return Err("alerts or dead letters do not go to a topic".into());
    }
    if pipeline.errors.poison != config::Poison::DeadLetter {
        return Err("its poison records do not become dead letters".into());
    }
    Rules::from_config(&step.config).ok_or_else(|| "its step's configuration is not the plugin's".into())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn load(dir: &Path) -> Project {
        config::load(dir, &ProcessEnvironment).expect("it has no mistakes")
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
        assert_eq!(topics(&project), roles.into());
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
}
