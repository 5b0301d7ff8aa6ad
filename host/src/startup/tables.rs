//! What tables say about the plugins and topics that feed them.
//!
//! In: the outputs that are tables, as far as their columns and keys are known (from the files alone; more of Cassandra's
//! once it was asked), and what plugins set. Out: a [`Problem`] for each column that would miss what a plugin has set
//! around it or within it, and for each type and key that no value will fit; a warning where fields that a plugin sets have
//! no column. Pure.

use std::collections::BTreeMap;

use super::fit::Feeder;
use crate::config::{Format, Ignored, Output, Problem, TableOutput, Tombstones, nearest};
use crate::pipeline::CellSpec;
use crate::record::OutputField;
use crate::sqlite::ColumnType;

/// A table of a pipeline, as far as it is known.
#[derive(Debug, Clone)]
pub(crate) struct TableFacts<'t> {
    pub(crate) pipeline: &'t str,
    /// The output's name.
    pub(crate) output: &'t str,
    /// `cassandra` or `sqlite`.
    kind: &'static str,
    pub(super) settings: &'t TableOutput,
    /// Every column that is known, and what fills it.
    pub(crate) columns: Vec<CellSpec>,
    /// The primary key, where it is known; then so are all columns.
    pub(crate) key: Option<Vec<String>>,
}

impl<'t> TableFacts<'t> {
    /// What the files say of an output; none where it is no table.
    pub(crate) fn of_files(pipeline: &'t str, name: &'t str, output: &'t Output) -> Option<Self> {
        let (kind, settings) = match output {
            Output::Cassandra(settings) => ("cassandra", settings),
            Output::Sqlite(settings) => ("sqlite", settings),
            Output::Kafka(_) | Output::Discard => return None,
        };
        let made = settings.create.iter().flat_map(|create| create.columns.iter().map(|(column, _)| column));
        let mut columns: BTreeMap<&String, Vec<String>> = made.map(|column| (column, vec![column.clone()])).collect();
        columns.extend(settings.columns.iter().map(|(column, path)| (column, path.clone())));
        let columns = columns.into_iter().map(|(column, path)| CellSpec { column: column.clone(), path }).collect();
        let key = settings.create.as_ref().map(|create| create.key.clone());
        Some(Self { pipeline, output: name, kind, settings, columns, key })
    }

    pub(super) fn problem(&self, below: &str, found: String, remedy: impl Into<String>) -> Problem {
        let key = format!("outputs.{}.{}.{below}", self.output, self.kind);
        Problem::by_key(Some(self.pipeline), key, found, remedy)
    }

    /// Where the files speak of a column.
    fn place(&self, column: &str) -> String {
        if self.settings.columns.contains_key(column) {
            format!("columns.{column}")
        } else if self.made_as(column).is_some() {
            format!("create.columns.{column}")
        } else {
            "table".to_owned()
        }
    }

    /// The type under `create:`.
    fn made_as(&self, column: &str) -> Option<ColumnType> {
        let create = self.settings.create.as_ref()?;
        create.columns.iter().find(|(name, _)| name == column).and_then(|(_, kind)| ColumnType::by_name(kind))
    }

    /// What does not fit between the table and the steps that feed it.
    pub(super) fn fit(&self, feeders: &[Feeder<'_>], format: Option<Format>) -> Vec<Problem> {
        let mut problems: Vec<Problem> = self.deletions_that_name_no_row().into_iter().collect();
        for feeder in feeders {
            problems.extend(self.columns_that_miss_what_is_set(feeder));
            problems.extend(self.types_that_do_not_fit(feeder));
            problems.extend(self.fields_without_column(feeder));
            if format == Some(Format::Bytes) && !feeder.gets_fields {
                problems.extend(self.key_columns_that_stay_empty(feeder));
            }
        }
        problems
    }

    /// Cells come from set fields of the very same path, else from the value before the step: a column that lies within
    /// a set field, or holds one, would get what was there before.
    pub(crate) fn columns_that_miss_what_is_set(&self, feeder: &Feeder<'_>) -> Vec<Problem> {
        let nests = |one: &[String], other: &[String]| one.starts_with(other) && one.len() > other.len();
        let mut problems = Vec::new();
        for spec in &self.columns {
            for field in &feeder.subscription.set_fields {
                let how = if nests(&spec.path, &field.path) {
                    "lies within"
                } else if nests(&field.path, &spec.path) {
                    "holds"
                } else {
                    continue;
                };
                let (column, path, plugin) = (&spec.column, spec.path.join("."), feeder.plugin);
                let found = format!(
                    "column {column} is filled from `{path}`, which {how} `{}`, which the plugin `{plugin}` sets: the \
                     column would get the value from before the plugin",
                    field.path.join(".")
                );
                let remedy = format!(
                    "use a plugin that sets `{path}` itself, or fill the column from another field: `columns: {{ \
                     {column}: … }}`"
                );
                problems.push(self.problem(&self.place(column), found, remedy));
            }
        }
        problems
    }

    /// What a plugin sets and no column takes is dropped: a slip of the pen, or a table that is not to have it.
    pub(crate) fn fields_without_column(&self, feeder: &Feeder<'_>) -> Option<Problem> {
        // Where the key is known, so are all columns.
        self.key.as_ref()?;
        let fields = &feeder.subscription.set_fields;
        let dropped: Vec<String> =
            fields.iter().filter(|field| self.drops(field)).map(|field| field.path.join(".")).collect();
        let (which, they) = match dropped.as_slice() {
            [] => return None,
            [only] => (format!("`{only}`"), "it is"),
            several => {
                let names: Vec<String> = several.iter().map(|field| format!("`{field}`")).collect();
                (format!("{} fields ({})", several.len(), names.join(", ")), "they are")
            }
        };
        let (plugin, table) = (feeder.plugin, &self.settings.table);
        let found =
            format!("the plugin `{plugin}` sets {which}, for which the table {table} has no column: {they} dropped");
        // A column that the plugin fills was not misspelt.
        let is_filled = |spec: &CellSpec| fields.iter().any(|field| field.path == spec.path);
        let free = || self.columns.iter().filter(|spec| !is_filled(spec)).map(|spec| spec.column.as_str());
        let meant: Vec<(&String, &str)> =
            dropped.iter().filter_map(|field| Some((field, nearest(field, free())?))).collect();
        let ignore = format!("`ignore: [{}]`", dropped.join(", "));
        let remedy = match meant.as_slice() {
            [] => format!(
                "give the table such a column, or say that it is not to have one: {ignore}, or `ignore: others`"
            ),
            [(field, column), ..] => {
                let slips: Vec<String> = match dropped.as_slice() {
                    [_] => vec![format!("`{column}`")],
                    _ => meant.iter().map(|(field, column)| format!("`{column}` for `{field}`")).collect(),
                };
                format!(
                    "did you mean the column {}? Give it the field's name, or map it: `columns: {{ {column}: {field} }}`; or \
                     say that the table is not to have what is dropped: {ignore}",
                    slips.join(", ")
                )
            }
        };
        let place = if self.settings.create.is_some() { "create.columns" } else { "table" };
        Some(self.problem(place, found, remedy).as_warning())
    }

    /// Whether no column takes a field, and nobody has said that none should.
    fn drops(&self, field: &OutputField) -> bool {
        // A column around the field, or within it, is a mistake that is told as such.
        let nest = |path: &[String]| path.starts_with(&field.path) || field.path.starts_with(path);
        let is_ignored = match &self.settings.ignore {
            Ignored::Fields(paths) => paths.contains(&field.path),
            Ignored::Others => true,
        };
        !is_ignored && !self.columns.iter().any(|spec| nest(&spec.path))
    }

    /// Only of tables that Pelton makes: what another database's types take is for its own room to say.
    fn types_that_do_not_fit(&self, feeder: &Feeder<'_>) -> Vec<Problem> {
        let mut problems = Vec::new();
        for spec in &self.columns {
            let Some(kind) = self.made_as(&spec.column) else { continue };
            let field = feeder.subscription.set_fields.iter().find(|field| field.path == spec.path);
            if let Some(field) = field.filter(|field| !kind.takes(field.field_type)) {
                let found = format!(
                    "the plugin `{}` sets `{}` as {}, which never fits into the column {} of type {}",
                    feeder.plugin,
                    spec.path.join("."),
                    field.field_type.name(),
                    spec.column,
                    kind.name()
                );
                let place = format!("create.columns.{}", spec.column);
                problems.push(self.problem(&place, found, "give the column another type, or another name"));
            }
        }
        problems
    }

    /// Values without fields leave the key to the plugin.
    fn key_columns_that_stay_empty(&self, feeder: &Feeder<'_>) -> Vec<Problem> {
        let set = |column: &str| {
            let spec = self.columns.iter().find(|spec| spec.column == column);
            spec.is_some_and(|spec| feeder.subscription.set_fields.iter().any(|field| field.path == spec.path))
        };
        let empty: Vec<&str> = self.key.iter().flatten().map(String::as_str).filter(|column| !set(column)).collect();
        // A plugin that sets nothing is told as a whole.
        if empty.is_empty() || feeder.subscription.set_fields.is_empty() {
            return Vec::new();
        }
        let found = format!(
            "nothing fills the key ({}): the plugin `{}` does not set it, and `format: bytes` has no fields",
            empty.join(", "),
            feeder.plugin
        );
        vec![self.problem("table", found, "use a plugin that sets it, or map it to a field that the plugin sets")]
    }

    /// Whether there is such a column, as far as all of them are known.
    pub(super) fn has(&self, column: &str) -> bool {
        self.columns.iter().any(|spec| spec.column == column)
    }

    /// `tombstones: delete` has to give every column of the key, and none that is not there.
    fn deletions_that_name_no_row(&self) -> Option<Problem> {
        let (Tombstones::Delete { key: given }, Some(key)) = (&self.settings.tombstones, &self.key) else {
            return None;
        };
        let table = &self.settings.table;
        let unknown: Vec<&str> = given.iter().map(String::as_str).filter(|column| !self.has(column)).collect();
        let missing: Vec<&str> = key.iter().filter(|column| !given.contains(column)).map(String::as_str).collect();
        let found = match (unknown.is_empty(), missing.is_empty()) {
            (false, _) => format!("{table} has no column {}", unknown.join(", ")),
            (true, false) => format!("the key of {table} has {} too: no row could be deleted", missing.join(", ")),
            (true, true) => return None,
        };
        let gives = match key.as_slice() {
            [_] => "the record's key is then its text, or a JSON object with it",
            _ => "the record's key is then a JSON object with these",
        };
        let remedy = format!("write `delete: [{}]`, the key of {table}; {gives}", key.join(", "));
        Some(self.problem("tombstones.delete", found, remedy))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::CreateTable;
    use crate::pipeline::Subscription;
    use crate::record::{FieldType, OutputField};

    fn table(columns: &[(&str, &str)], key: &[&str], tombstones: Tombstones) -> TableOutput {
        TableOutput {
            table: "t".to_owned(),
            columns: BTreeMap::new(),
            ttl: None,
            tombstones,
            ignore: Ignored::default(),
            timestamp_floor: None,
            consistency: None,
            create: Some(CreateTable {
                columns: columns.iter().map(|(name, kind)| ((*name).to_owned(), (*kind).to_owned())).collect(),
                key: key.iter().map(|name| (*name).to_owned()).collect(),
            }),
        }
    }

    fn sets(fields: &[(&str, FieldType)]) -> Subscription {
        let field = |(path, field_type): &(&str, FieldType)| OutputField {
            path: path.split('.').map(str::to_owned).collect(),
            field_type: *field_type,
        };
        Subscription { set_fields: fields.iter().map(field).collect(), ..Subscription::default() }
    }

    fn told(output: &Output, subscription: &Subscription, format: Format) -> Vec<(String, String)> {
        let facts = TableFacts::of_files("p", "default", output).expect("a table");
        let feeder = Feeder { plugin: "x", subscription, gets_fields: format == Format::Json };
        let mistakes = facts.fit(&[feeder], Some(format)).into_iter().filter(Problem::is_error);
        mistakes.map(|problem| (problem.key, problem.found)).collect()
    }

    #[test]
    fn a_column_around_or_within_a_set_field_is_refused() {
        let mut settings = table(&[("id", "text"), ("customer", "json"), ("a", "text")], &["id"], Tombstones::Skip);
        settings.columns.insert("a".to_owned(), vec!["x".to_owned(), "y".to_owned()]);
        let output = Output::Sqlite(settings);
        let set = sets(&[("customer.country", FieldType::Text), ("x", FieldType::Json), ("id", FieldType::Text)]);
        let told = told(&output, &set, Format::Json);
        let keys: Vec<_> = told.iter().map(|(key, _)| key.as_str()).collect();
        assert_eq!(keys, ["outputs.default.sqlite.columns.a", "outputs.default.sqlite.create.columns.customer"]);
        assert!(told[0].1.contains("`x.y`, which lies within `x`"), "{told:?}");
        assert!(told[1].1.contains("`customer`, which holds `customer.country`"), "{told:?}");
    }

    fn dropped(ignore: Ignored, columns: &[(&str, &str)], fields: &[&str]) -> Option<(String, String)> {
        let output = Output::Sqlite(TableOutput { ignore, ..table(columns, &["id"], Tombstones::Skip) });
        let facts = TableFacts::of_files("p", "default", &output).expect("a table");
        let set = sets(&fields.iter().map(|field| (*field, FieldType::Text)).collect::<Vec<_>>());
        let problem = facts.fields_without_column(&Feeder { plugin: "x", subscription: &set, gets_fields: true })?;
        assert!(!problem.is_error());
        assert_eq!(problem.key, "outputs.default.sqlite.create.columns");
        Some((problem.found, problem.remedy))
    }

    #[test]
    fn fields_without_a_column_are_told_together_with_the_column_that_was_meant() {
        let columns = [("id", "text"), ("siez", "text"), ("customer", "json")];
        let none = || Ignored::Fields(Vec::new());
        let (found, remedy) = dropped(none(), &columns, &["id", "size"]).expect("size is dropped");
        assert_eq!(found, "the plugin `x` sets `size`, for which the table t has no column: it is dropped");
        assert!(remedy.starts_with("did you mean the column `siez`? "), "{remedy}");
        assert!(remedy.contains("`columns: { siez: size }`") && remedy.contains("`ignore: [size]`"), "{remedy}");
        let (found, remedy) = dropped(none(), &columns, &["id", "a.b", "total", "siez"]).expect("two are dropped");
        assert!(found.contains("sets 2 fields (`a.b`, `total`), for which"), "{found}");
        assert!(remedy.contains("`ignore: [a.b, total]`, or `ignore: others`"), "{remedy}");
        assert_eq!(dropped(none(), &columns, &["customer.id"]), None, "that column misses it, which is a mistake");
    }

    #[test]
    fn what_a_table_is_not_to_have_can_be_said() {
        let columns = [("id", "text")];
        let path = |path: &str| path.split('.').map(str::to_owned).collect::<Vec<_>>();
        assert_eq!(dropped(Ignored::Fields(vec![path("a.b")]), &columns, &["id", "a.b"]), None);
        let left = dropped(Ignored::Fields(vec![path("a.b")]), &columns, &["a.b", "c"]).expect("c is dropped");
        assert!(left.0.contains("sets `c`, for which"), "{left:?}");
        assert_eq!(dropped(Ignored::Others, &columns, &["a.b", "c"]), None);
    }

    #[test]
    fn types_that_fit_no_value_are_refused() {
        let output = Output::Sqlite(table(&[("id", "text"), ("n", "integer")], &["id"], Tombstones::Skip));
        let keys = |set: &Subscription| told(&output, set, Format::Json).into_iter().map(|(key, _)| key).collect();
        let found: Vec<String> = keys(&sets(&[("id", FieldType::Symbol), ("n", FieldType::Text)]));
        assert_eq!(found, ["outputs.default.sqlite.create.columns.n"]);
        let found: Vec<String> = keys(&sets(&[("n", FieldType::S64), ("other", FieldType::Bytes)]));
        assert!(found.is_empty(), "{found:?}");
    }

    #[test]
    fn a_key_that_nothing_fills_is_refused() {
        let output = Output::Sqlite(table(&[("id", "text"), ("n", "integer")], &["id"], Tombstones::Skip));
        let set = sets(&[("n", FieldType::S64)]);
        assert_eq!(told(&output, &set, Format::Bytes)[0].0, "outputs.default.sqlite.table");
        assert!(told(&output, &set, Format::Json).is_empty(), "the value may have it");
    }

    #[test]
    fn a_deletion_by_a_column_that_is_not_there_is_told_as_that() {
        let told = |given: &[&str]| {
            let key = given.iter().map(|column| (*column).to_owned()).collect();
            let columns = [("order_id", "text"), ("n", "integer")];
            let output = Output::Sqlite(table(&columns, &["order_id"], Tombstones::Delete { key }));
            let facts = TableFacts::of_files("p", "default", &output).expect("a table");
            facts.fit(&[], Some(Format::Json)).pop().map(|problem| (problem.key, problem.found, problem.remedy))
        };
        let (key, found, remedy) = told(&["orderid"]).expect("there is no such column");
        assert_eq!(key, "outputs.default.sqlite.tombstones.delete");
        assert_eq!(found, "t has no column orderid");
        assert!(remedy.starts_with("write `delete: [order_id]`, the key of t; "), "{remedy}");
        let (_, found, _) = told(&["order_id", "shop"]).expect("there is no such column beside the key either");
        assert_eq!(found, "t has no column shop");
        assert_eq!(told(&["order_id"]), None);
        assert_eq!(told(&["order_id", "n"]), None, "a column beside the key says what a record's key has");
    }

    #[test]
    fn a_deletion_needs_the_whole_key() {
        let delete = |columns: &[&str]| Tombstones::Delete { key: columns.iter().map(|c| (*c).to_owned()).collect() };
        let columns = [("a", "text"), ("b", "text")];
        let keys = |given: &[&str]| {
            let output = Output::Sqlite(table(&columns, &["a", "b"], delete(given)));
            told(&output, &sets(&[]), Format::Json).len()
        };
        assert_eq!((keys(&["a"]), keys(&["b", "a"])), (1, 0));
    }
}
