//! Tables that are written from two sides.
//!
//! In: the outputs of a pipeline, and the tables of those that were read before it. Out: a mistake where two outputs of a
//! pipeline lead to one table, a warning where two pipelines do. Never asks a database.

use std::collections::BTreeMap;

use super::Output;
use super::document::Value;
use super::outputs::Outputs;
use super::pipeline::Surroundings;

/// Two outputs onto one table: what one record writes to one row is merged within an output alone, and between two of
/// them nothing would tell which was the last.
pub(super) fn check_outputs(value: &Value<'_>, outputs: &Outputs) {
    let mut taken: BTreeMap<(&str, String), &str> = BTreeMap::new();
    for (name, kind, table, at) in tables(value, outputs) {
        match taken.get(&(kind, table.clone())) {
            Some(first) => {
                let found = format!("{} is also the table of the output `{first}`", at.quoted());
                let remedy = "let the plugins route to one output, which merges what a record writes to one row, or use two tables";
                at.problem(found, remedy);
            }
            None => {
                taken.insert((kind, table), name);
            }
        }
    }
}

/// The outputs that are tables: name, kind, the table as its database knows it, and where it is written down.
fn tables<'v>(value: &Value<'v>, outputs: &Outputs) -> Vec<(&'v str, &'static str, String, Value<'v>)> {
    let entries = value.entries("").unwrap_or_default().into_iter();
    let table = |(name, at): (&'v str, Value<'v>)| {
        let (kind, table) = match outputs.get(name) {
            Some(Some(Output::Cassandra(output))) => ("cassandra", output.table.clone()),
            // SQLite does not tell names apart by case.
            Some(Some(Output::Sqlite(output))) => ("sqlite", output.table.to_lowercase()),
            _ => return None,
        };
        Some((name, kind, table, at.below(&[kind, "table"])?))
    };
    entries.filter_map(table).collect()
}

/// Two pipelines onto one table: each has write clocks of its own, so between their updates of one row there is no order.
/// Where both say that none is needed, nobody is warned.
pub(super) fn check_pipelines(
    value: &Value<'_>,
    outputs: &Outputs,
    is_indifferent: bool,
    around: &mut Surroundings<'_>,
) {
    let pipeline = value.document.pipeline.clone().unwrap_or_default();
    for (_, kind, table, at) in tables(value, outputs) {
        // By kind: all that write to a table, and those of them that care.
        let (all, caring) = match kind {
            "cassandra" => ("table", "table in order"),
            _ => ("embedded table", "embedded table in order"),
        };
        let others = if is_indifferent { caring } else { all };
        let other = around.taken.get(&(others, table.clone())).filter(|(first, _)| *first != pipeline);
        if let Some((_, place)) = other {
            let found = format!(
                "{} is also a table of {place}: each pipeline has write clocks of its own, so between their updates of \
                 one row there is no defined order",
                at.quoted()
            );
            let remedy = "let one pipeline write it, or use two tables; where no row is written by both, or the order \
                          of a row's updates does not matter, say `keyed_by: anything` in `source:` of both";
            at.warning(found, remedy);
        }
        let owner = (pipeline.clone(), format!("{}:{}", value.document.file, at.key_place.line));
        around.taken.entry((all, table.clone())).or_insert_with(|| owner.clone());
        if !is_indifferent {
            around.taken.entry((caring, table)).or_insert(owner);
        }
    }
}
