//! Whether what plugins read, set and route to fits their pipeline.
//!
//! In: the subscriptions of the steps that could be loaded, the outputs and the format of a pipeline. Out: a problem for
//! each route without an output, output without a route, field without JSON, table without columns; what tables say in
//! detail stands in `tables`. Pure.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use super::tables::TableFacts;
use crate::config::{Format, Output, Problem};
use crate::pipeline::{Subscription, Transform as _};
use crate::plugin::WasmTransform;
use crate::record::OutputField;

/// Index, name and subscription of each step.
pub(super) fn subscriptions(steps: &[(usize, Arc<WasmTransform>)]) -> Vec<(usize, &str, &Subscription)> {
    steps.iter().map(|(index, transform)| (*index, transform.name(), transform.subscription())).collect()
}

/// The typed fields that every row of an output has to offer: those of the one step that feeds it; none where several do,
/// and none are known.
pub(super) fn fields_set<'s>(output: &str, steps: &'s [(usize, Arc<WasmTransform>)]) -> &'s [OutputField] {
    let subscriptions = subscriptions(steps);
    match feeders(output, &subscriptions).as_slice() {
        [one] => &one.subscription.set_fields,
        _ => &[],
    }
}

/// A step that feeds an output.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Feeder<'s> {
    /// The plugin's name.
    pub(crate) plugin: &'s str,
    pub(crate) subscription: &'s Subscription,
    /// A step before it has set fields: whatever the source's format is, what it gets has some.
    pub(crate) gets_fields: bool,
}

/// The steps that feed an output.
pub(crate) fn feeders<'s>(output: &str, steps: &[(usize, &'s str, &'s Subscription)]) -> Vec<Feeder<'s>> {
    let last = steps.last().map(|(index, ..)| *index);
    let feeds = |index: usize, subscription: &Subscription| {
        (output == "default" && Some(index) == last) || subscription.routes.iter().any(|route| route == output)
    };
    let mut gets_fields = false;
    let mut feeders = Vec::new();
    for (index, plugin, subscription) in steps {
        if feeds(*index, subscription) {
            feeders.push(Feeder { plugin, subscription, gets_fields });
        }
        gets_fields |= !subscription.set_fields.is_empty();
    }
    feeders
}

/// Whether what the plugins read, set and route to fits their pipeline.
pub(super) struct Fit<'f> {
    pub(super) pipeline: &'f str,
    /// Index, name and subscription of the steps that could be loaded.
    pub(super) steps: &'f [(usize, &'f str, &'f Subscription)],
    /// Whether these are all the steps.
    pub(super) is_whole: bool,
    pub(super) outputs: &'f BTreeMap<String, Option<Output>>,
    pub(super) format: Option<Format>,
}

impl Fit<'_> {
    pub(super) fn problems(&self) -> Vec<Problem> {
        let mut problems = self.routes_without_output();
        if self.is_whole {
            problems.extend(self.outputs_without_route());
            problems.extend(self.tables());
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

    fn tables(&self) -> Vec<Problem> {
        let tables = self.outputs.iter().filter_map(|(name, output)| {
            let facts = TableFacts::of_files(self.pipeline, name, output.as_ref()?)?;
            Some((name, facts))
        });
        tables.flat_map(|(name, table)| table.fit(&feeders(name, self.steps), self.format)).collect()
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
                !feeders.is_empty() && feeders.iter().all(|feeder| feeder.subscription.set_fields.is_empty())
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
            ignore: crate::config::Ignored::default(),
            timestamp_floor: None,
            consistency: None,
            create: None,
        })
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
