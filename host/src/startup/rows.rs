//! Whether updates of one row may come from several partitions, between which there is no order.
//!
//! In: a pipeline, its tables as far as they are known, and how many partitions its topics have, where the brokers were
//! asked. Out: one warning at most. What a record's key holds, only people know: they say it with `tombstones: { delete:
//! … }` or `source: keyed_by:`. Pure.

use std::borrow::Borrow;
use std::collections::BTreeMap;

use super::tables::TableFacts;
use crate::config::{KeyedBy, Pipeline, Problem, Tombstones};

/// Warns of the first table whose rows may be fed by several partitions.
pub(super) fn fed_by_several_partitions<'t, T: Borrow<TableFacts<'t>>>(
    pipeline: &Pipeline,
    tables: impl IntoIterator<Item = T>,
    partitions: Option<&BTreeMap<String, usize>>,
) -> Option<Problem> {
    let topics = &pipeline.source.topics;
    let count = |topic| partitions.and_then(|partitions| partitions.get(topic)).copied().unwrap_or(1);
    let partitions = topics.iter().map(count).sum::<usize>();
    if partitions < 2 || pipeline.keyed_by == KeyedBy::Anything {
        return None;
    }
    let feeding = Feeding { keyed_by: &pipeline.keyed_by, topics, partitions };
    tables.into_iter().find_map(|table| feeding.warning(table.borrow()))
}

/// What feeds a pipeline's tables.
struct Feeding<'f> {
    keyed_by: &'f KeyedBy,
    topics: &'f [String],
    /// At least two.
    partitions: usize,
}

impl Feeding<'_> {
    fn warning(&self, table: &TableFacts<'_>) -> Option<Problem> {
        // A table that nobody has looked at.
        let key = table.key.as_ref()?;
        let (found, remedy) = match self.outside(table, key) {
            None => self.nobody_knows(table, key),
            Some(outside) if !outside.is_empty() => beside(table, key, &outside.join(", ")),
            Some(_) if self.topics.len() > 1 => self.several_topics(table, key),
            Some(_) => return None,
        };
        Some(table.problem("table", found, remedy).as_warning())
    }

    /// What the record's key holds beside the table's; none where nobody has said what it holds.
    fn outside(&self, table: &TableFacts<'_>, key: &[String]) -> Option<Vec<String>> {
        let is_key = |path: &[String]| {
            key.iter().any(|column| match table.columns.iter().find(|spec| spec.column == *column) {
                Some(spec) => spec.path == path,
                None => path == std::slice::from_ref(column),
            })
        };
        match (self.keyed_by, &table.settings.tombstones) {
            (KeyedBy::Fields(fields), _) => {
                Some(fields.iter().filter(|path| !is_key(path)).map(|path| path.join(".")).collect())
            }
            (_, Tombstones::Delete { key: given }) => {
                // A column that is not there is a mistake of its own.
                Some(given.iter().filter(|column| !key.contains(column) && table.has(column)).cloned().collect())
            }
            _ => None,
        }
    }

    fn nobody_knows(&self, table: &TableFacts<'_>, key: &[String]) -> (String, String) {
        let (name, key) = (&table.settings.table, key.join(", "));
        let from = match self.topics {
            [topic] => format!("{topic} has {} partitions", self.partitions),
            topics => format!("{} topics are read", topics.len()),
        };
        let found = format!(
            "updates of one row of {name}, whose key is ({key}), may come from several partitions: {from}, and nothing \
             says that all records of a row have the same key. Only updates of one partition keep their order"
        );
        let remedy = format!(
            "say in `source:` which fields decide the records' key: `keyed_by: [{key}]`, or `keyed_by: anything` where \
             the order of a row's updates does not matter, or a row has but one"
        );
        (found, remedy)
    }

    fn several_topics(&self, table: &TableFacts<'_>, key: &[String]) -> (String, String) {
        let found = format!(
            "{} topics write to {}, whose key ({}) does not tell them apart: updates of one row keep their order only \
             where they come from one topic",
            self.topics.len(),
            table.settings.table,
            key.join(", ")
        );
        let remedy = "let no key stand in two of the topics, and write `keyed_by: anything` in `source:`, or give each a \
                      table of its own";
        (found, remedy.to_owned())
    }
}

fn beside(table: &TableFacts<'_>, key: &[String], outside: &str) -> (String, String) {
    let (name, key) = (&table.settings.table, key.join(", "));
    let found = format!(
        "the record's key has {outside} beside the key ({key}) of {name}: updates of one row may come from several \
         partitions, and only those of one partition keep their order"
    );
    (found, format!("let the topic's key be ({key}) alone, or put {outside} into the table's key"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{self, CreateTable, Output, TableOutput};

    /// What is said of a table with columns a and b.
    fn warned(
        source: &str,
        key: &[&str],
        tombstones: Option<&[&str]>,
        partitions: Option<usize>,
    ) -> Option<(String, String)> {
        let dir = tempfile::tempdir().expect("a directory");
        std::fs::create_dir(dir.path().join("pipelines")).expect("a fresh directory");
        let file = format!("source: {{ {source} }}\noutputs: {{ default: {{ discard: true }} }}\n");
        std::fs::write(dir.path().join("pelton.yaml"), "kafka: { brokers: a:1 }").expect("a fresh file");
        std::fs::write(dir.path().join("pipelines/p.yaml"), file).expect("a fresh file");
        let project = config::load(dir.path(), &BTreeMap::new()).expect("it is valid");
        let names = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>();
        let columns = names(&["a", "b"]).into_iter().map(|name| (name, "text".to_owned())).collect();
        let output = Output::Sqlite(TableOutput {
            table: "t".to_owned(),
            columns: [("a".to_owned(), names(&["x", "a"]))].into(),
            ttl: None,
            tombstones: tombstones.map_or(Tombstones::Skip, |key| Tombstones::Delete { key: names(key) }),
            ignore: crate::config::Ignored::default(),
            timestamp_floor: None,
            consistency: None,
            create: Some(CreateTable { columns, key: names(key) }),
        });
        let table = TableFacts::of_files("p", "default", &output).expect("a table");
        let partitions = partitions.map(|count| [("t".to_owned(), count)].into());
        let warning = fed_by_several_partitions(&project.pipelines[0], [&table, &table], partitions.as_ref())?;
        assert!(!warning.is_error());
        Some((warning.found, warning.remedy))
    }

    const ONE: &str = "kafka: { topics: [t] }";
    const TWO: &str = "kafka: { topics: [t, u] }";

    #[test]
    fn what_a_deletion_says_of_the_records_key_is_held_against_the_tables() {
        assert!(warned(ONE, &["a"], Some(&["a", "b"]), Some(2)).is_some(), "b spreads the rows of one a");
        assert!(warned(ONE, &["a"], Some(&["a", "b"]), Some(1)).is_none(), "one partition keeps all order");
        assert!(warned(ONE, &["a", "b"], Some(&["a", "b"]), Some(9)).is_none());
        assert!(warned(ONE, &["a", "b"], Some(&["a"]), Some(9)).is_none(), "all rows of one a stand in its partition");
        assert!(warned(TWO, &["a"], Some(&["a"]), None).is_some());
        assert!(warned(ONE, &["a"], Some(&["a", "c"]), Some(2)).is_none(), "there is no c, and that is told elsewhere");
    }

    #[test]
    fn where_nobody_has_said_what_the_key_holds_partitions_decide() {
        let (found, remedy) = warned(ONE, &["a"], None, Some(4)).expect("a row may come from four partitions");
        assert!(found.contains("t has 4 partitions") && remedy.contains("`keyed_by: [a]`"), "{found} {remedy}");
        assert!(warned(ONE, &["a"], None, Some(1)).is_none());
        assert!(warned(ONE, &["a"], None, None).is_none(), "the brokers were not asked: nobody cries wolf");
        assert!(warned(TWO, &["a"], None, None).is_some(), "two topics are two partitions at least");
    }

    #[test]
    fn a_pipeline_can_say_what_decides_its_records_key_or_that_order_does_not_matter() {
        let keyed = |keyed_by: &str, key: &[&str]| {
            let source = format!("{ONE}, keyed_by: {keyed_by}");
            warned(&source, key, None, Some(4)).map(|(found, _)| found)
        };
        assert_eq!(keyed("[x.a]", &["a"]), None, "the column a is filled by x.a");
        assert_eq!(keyed("[b]", &["a", "b"]), None);
        assert!(keyed("[b]", &["a"]).is_some_and(|found| found.contains("the record's key has b beside")));
        assert!(keyed("[a]", &["a"]).is_some(), "another field of that name");
        assert_eq!(keyed("anything", &["a"]), None);
        assert_eq!(warned(&format!("{TWO}, keyed_by: anything"), &["a"], Some(&["a"]), None), None);
    }
}
