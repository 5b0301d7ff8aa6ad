//! What Kafka and Cassandra say about a project.

use std::collections::BTreeMap;

use super::fit::{feeders, fields_set, subscriptions};
use super::tables::TableFacts;
use super::{Loaded, masked};
use crate::cassandra::check::{self as cassandra, TableCheck};
use crate::config::{Output, Pipeline, Problem, Project, Reading};
use crate::kafka;

/// Asks whether topics are there and large enough, whether tables fit what plugins set, and whether updates of one row
/// keep their order. Pipelines with a mistake in their file are passed over. Writes nothing.
pub async fn ask(reading: &Reading, loaded: &Loaded) -> Vec<Problem> {
    let project = reading.valid_part();
    let kafka = kafka::check(&project).await;
    let mut problems = kafka.problems;
    problems.extend(tables(&project, loaded, &kafka.partitions).await);
    let problems: Vec<Problem> = problems.into_iter().map(|problem| project.place(problem)).collect();
    let is_wrong = |warning: &Problem| {
        let same = |problem: &Problem| (&problem.file, &problem.key) == (&warning.file, &warning.key);
        problems.iter().any(|problem| problem.is_error() && same(problem))
    };
    // The size of a topic that is not there, say.
    problems.iter().filter(|problem| problem.is_error() || !is_wrong(problem)).cloned().collect()
}

async fn tables(project: &Project, loaded: &Loaded, partitions: &BTreeMap<String, usize>) -> Vec<Problem> {
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
    if let Some(connection) = project.settings.cassandra.as_ref().filter(|_| !asked.is_empty()) {
        let checked = cassandra::check(connection, &asked).await;
        problems.extend(checked.problems);
        let asked = facts.iter_mut().filter(|(_, output, _)| matches!(output, Output::Cassandra(_)));
        for ((.., table), known) in asked.zip(checked.tables) {
            if let Some(known) = known {
                (table.columns, table.key) = (known.columns, Some(known.key));
            }
        }
    }
    for (pipeline, _, table) in &facts {
        let told = table_problems(pipeline, table, loaded, partitions);
        problems.extend(told.into_iter().map(|problem| masked(problem, &project.mask)));
    }
    problems
}

fn table_problems(
    pipeline: &Pipeline,
    table: &TableFacts<'_>,
    loaded: &Loaded,
    partitions: &BTreeMap<String, usize>,
) -> Vec<Problem> {
    let topics = &pipeline.source.topics;
    let partitions = topics.iter().map(|topic| partitions.get(topic).copied().unwrap_or(1)).sum();
    let mut problems: Vec<Problem> = table.rows_of_several_partitions(topics, partitions).into_iter().collect();
    let steps = loaded.get(&pipeline.name).map(Vec::as_slice).unwrap_or_default();
    if steps.len() == pipeline.steps.len() {
        problems.extend(table.fit(&feeders(table.output, &subscriptions(steps)), Some(pipeline.source.format)));
    }
    problems
}
