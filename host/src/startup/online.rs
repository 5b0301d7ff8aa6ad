//! What Kafka and Cassandra say about a project, for `pelton check --online` and a start alike.

use std::collections::BTreeMap;
use std::time::Duration;

use super::fit::{feeders, fields_set, subscriptions};
use super::services::{Absent, Services, kafka_problem, reach};
use super::tables::TableFacts;
use super::{Loaded, masked, rows};
use crate::cassandra::check::{self as cassandra, TableCheck};
use crate::config::{Output, Pipeline, Problem, Project, Reading};

/// What the services of a project say.
#[derive(Debug, Default)]
pub struct Asked {
    /// Services that do not answer: waiting may help.
    pub unreachable: Vec<Problem>,
    /// Everything else that is wrong, and warnings.
    pub problems: Vec<Problem>,
}

impl Asked {
    /// All of it.
    pub fn all(&self) -> impl Iterator<Item = &Problem> {
        self.unreachable.iter().chain(&self.problems)
    }
}

/// Asks whether the services answer, topics are there and large enough, tables fit what plugins set, and updates of one
/// row keep their order. Pipelines with a mistake in their file are passed over. Writes nothing.
pub async fn ask(reading: &Reading, loaded: &Loaded) -> Asked {
    let project = reading.valid_part();
    let (services, absent) = reach(&project, Duration::ZERO).await;
    look(&project, loaded, &services, absent).await
}

/// The same of a project, with the services that have been reached.
pub async fn look(project: &Project, loaded: &Loaded, services: &Services, absent: Absent) -> Asked {
    let Absent { mut unreachable, refused: mut problems } = absent;
    let mut partitions = None;
    if let Some(brokers) = &services.kafka {
        match brokers.check(project).await {
            Ok(checked) => {
                problems.extend(checked.problems);
                partitions = Some(checked.partitions);
            }
            Err(error) => {
                let (problem, is_transient) = kafka_problem(&error, project.settings.startup_wait);
                if is_transient { &mut unreachable } else { &mut problems }.push(problem);
            }
        }
    }
    problems.extend(tables(project, loaded, services, partitions.as_ref(), &mut unreachable).await);
    let place = |problems: Vec<Problem>| -> Vec<Problem> {
        problems.into_iter().map(|problem| project.place(problem)).collect()
    };
    let (unreachable, problems) = (place(unreachable), place(problems));
    let is_wrong = |warning: &Problem| {
        let same = |problem: &Problem| (&problem.file, &problem.key) == (&warning.file, &warning.key);
        problems.iter().any(|problem| problem.is_error() && same(problem))
    };
    // The size of a topic that is not there, say.
    let problems = problems.iter().filter(|problem| problem.is_error() || !is_wrong(problem)).cloned().collect();
    Asked { unreachable, problems }
}

async fn tables(
    project: &Project,
    loaded: &Loaded,
    services: &Services,
    partitions: Option<&BTreeMap<String, usize>>,
    unreachable: &mut Vec<Problem>,
) -> Vec<Problem> {
    let mut asked = Vec::new();
    let mut facts = Vec::new();
    for pipeline in &project.pipelines {
        let steps = loaded.get(&pipeline.name).map(Vec::as_slice).unwrap_or_default();
        for (name, output) in &pipeline.outputs {
            let Some(table) = TableFacts::of_files(&pipeline.name, name, output) else { continue };
            if let Output::Cassandra(output) = output {
                let fields = if steps.len() == pipeline.steps.len() { fields_set(name, steps) } else { &[] };
                asked.push(TableCheck { pipeline: &pipeline.name, output_name: name, output, fields });
            }
            facts.push((pipeline, output, table));
        }
    }
    let mut problems = Vec::new();
    if let Some(session) = &services.cassandra {
        let checked = cassandra::check(session, &asked).await;
        problems.extend(checked.problems);
        unreachable.extend(checked.unreachable);
        let asked = facts.iter_mut().filter(|(_, output, _)| matches!(output, Output::Cassandra(_)));
        for ((.., table), known) in asked.zip(checked.tables) {
            if let Some(known) = known {
                (table.columns, table.key) = (known.columns, Some(known.key));
            }
        }
    }
    let mut told = Vec::new();
    for (pipeline, _, table) in &facts {
        told.extend(fit(pipeline, table, loaded));
    }
    for pipeline in &project.pipelines {
        let tables = facts.iter().filter(|(of, ..)| of.name == pipeline.name).map(|(.., table)| table);
        told.extend(rows::fed_by_several_partitions(pipeline, tables, partitions));
    }
    problems.extend(told.into_iter().map(|problem| masked(problem, &project.mask)));
    problems
}

fn fit(pipeline: &Pipeline, table: &TableFacts<'_>, loaded: &Loaded) -> Vec<Problem> {
    let steps = loaded.get(&pipeline.name).map(Vec::as_slice).unwrap_or_default();
    if steps.len() < pipeline.steps.len() {
        return Vec::new();
    }
    table.fit(&feeders(table.output, &subscriptions(steps)), Some(pipeline.source.format))
}
