//! What Kafka and Cassandra say about a project.

use super::Loaded;
use super::fit::fields_set;
use crate::cassandra::check::{self as cassandra, TableCheck};
use crate::config::{Output, Problem, Reading};
use crate::kafka;

/// Asks whether topics are there and large enough, and whether tables fit what plugins set. Pipelines with a mistake in
/// their file are passed over. Writes nothing.
pub async fn ask(reading: &Reading, loaded: &Loaded) -> Vec<Problem> {
    let project = reading.valid_part();
    let mut tables = Vec::new();
    for pipeline in &project.pipelines {
        let steps = loaded.get(&pipeline.name).map(Vec::as_slice).unwrap_or_default();
        for (name, output) in &pipeline.outputs {
            if let Output::Cassandra(table) = output {
                let fields = if steps.len() == pipeline.steps.len() { fields_set(name, steps) } else { &[] };
                tables.push(TableCheck { pipeline: &pipeline.name, output_name: name, output: table, fields });
            }
        }
    }
    let mut problems = kafka::check(&project).await;
    if let Some(connection) = project.settings.cassandra.as_ref().filter(|_| !tables.is_empty()) {
        problems.extend(cassandra::check(connection, &tables).await);
    }
    let problems: Vec<Problem> = problems.into_iter().map(|problem| project.place(problem)).collect();
    let is_wrong = |warning: &Problem| {
        let same = |problem: &Problem| (&problem.file, &problem.key) == (&warning.file, &warning.key);
        problems.iter().any(|problem| problem.is_error() && same(problem))
    };
    // The size of a topic that is not there, say.
    problems.iter().filter(|problem| problem.is_error() || !is_wrong(problem)).cloned().collect()
}
