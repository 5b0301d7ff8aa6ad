//! `outputs:` and `dead_letters:` of a pipeline.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;

use super::document::{Table, Value, list};
use super::settings::{CONSISTENCIES, properties};
use super::suggest::nearest;
use super::values::{choice, choice_by_meaning, duration, fields, path_within, timestamp_us, topic};
use super::{CreateTable, DeadLetterSettings, Ignored, KafkaOutput, Output, TableOutput, Tombstones};
use crate::sqlite::ColumnType;

/// Cassandra's own limit: 20 years.
const TTL_MAX: Duration = Duration::from_secs(20 * 365 * 86_400);
const PARTITIONERS: [&str; 7] =
    ["murmur2_random", "murmur2", "consistent_random", "consistent", "fnv1a_random", "fnv1a", "random"];
/// Where an output can lead.
const KINDS: [&str; 4] = ["cassandra", "kafka", "sqlite", "discard"];
/// The partitioner of Java's clients.
const PARTITIONER_DEFAULT: &str = "murmur2_random";

/// The outputs that are written down; none for one with a mistake in it.
pub(super) type Outputs = BTreeMap<String, Option<Output>>;

/// Reads `outputs:`.
pub(super) fn read(value: &Value<'_>) -> Option<Outputs> {
    let mut outputs = Outputs::new();
    for (name, value) in value.entries("named outputs, like `default: { kafka: { topic: clean } }`")? {
        let legal = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '-' | '.');
        if name.is_empty() || !name.chars().all(legal) {
            let found = format!("`{name}` is not an output's name");
            value.document.problem(value.key_place, &value.path, found, "use letters, digits, `_`, `-` and `.`");
        }
        let is_kind =
            KINDS.contains(&name) && value.is_map() && !value.entries("")?.iter().any(|(key, _)| KINDS.contains(key));
        if is_kind {
            let remedy = format!("write `default: {{ {name}: … }}`");
            value.document.problem(
                value.key_place,
                &value.path,
                format!("`{name}:` belongs below an output's name"),
                remedy,
            );
            outputs.insert("default".to_owned(), None);
            continue;
        }
        let output = output(&value);
        outputs.insert(name.to_owned(), output);
    }
    if !outputs.contains_key("default") && !value.document.partial {
        let remedy = match nearest("default", outputs.keys().map(String::as_str)) {
            Some(near) => format!("rename `{near}` to `default`"),
            None => "write `default:`; `default: { discard: true }` drops what no plugin routes elsewhere".to_owned(),
        };
        value.document.problem(value.key_place, &value.path, "the output `default` is missing", remedy);
    }
    Some(outputs)
}

fn output(value: &Value<'_>) -> Option<Output> {
    const WHAT: &str = "one of `cassandra:`, `kafka:`, `sqlite:`, `discard: true`";
    value.table(WHAT, |table| {
        let kafka = table.optional("kafka", |value| value.table("`topic:`", kafka)).map(Output::Kafka);
        let cassandra = table.optional("cassandra", |value| value.table("`table:`", cassandra)).map(Output::Cassandra);
        let sqlite = table.optional("sqlite", |value| value.table("`table:`", sqlite)).map(Output::Sqlite);
        let discard = table.optional("discard", |value| choice(value, &[("true", Output::Discard)]));
        exactly_one(table, &KINDS, WHAT)?;
        kafka.or(cassandra).or(sqlite).or(discard)
    })
}

/// Reports where none or several of the keys are written.
fn exactly_one(table: &Table<'_>, kinds: &[&'static str], what: &str) -> Option<()> {
    let present: Vec<&str> = kinds.iter().copied().filter(|kind| table.has(kind)).collect();
    let value = &table.value;
    match present.as_slice() {
        [_] => Some(()),
        [] => {
            // An unknown key that was probably meant to be one of them is reported as such.
            let is_slip = table.keys().any(|key| nearest(key, kinds.iter().copied()).is_some());
            if !is_slip && !value.document.partial {
                value.document.problem(
                    value.key_place,
                    &value.path,
                    "there is no destination",
                    format!("write {what}"),
                );
            }
            None
        }
        several => {
            let found = format!("{} stand side by side", list(several.iter().copied()));
            value.document.problem(value.key_place, &value.path, found, "keep one of them");
            None
        }
    }
}

fn kafka(table: &mut Table<'_>) -> Option<KafkaOutput> {
    let topic = table.required("topic", "the topic to write to, like `shop.alerts`", topic);
    let choices = PARTITIONERS.map(|name| (name, name.to_owned()));
    let partitioner = table.optional("partitioner", |value| choice(value, &choices));
    let properties = table.optional("properties", properties);
    Some(KafkaOutput {
        topic: topic?,
        partitioner: partitioner.unwrap_or_else(|| PARTITIONER_DEFAULT.to_owned()),
        properties: properties.unwrap_or_default(),
    })
}

fn cassandra(table: &mut Table<'_>) -> Option<TableOutput> {
    let name = table.required("table", "keyspace and table, like `shop.orders`", |value| {
        let text = value.text("keyspace and table, like `shop.orders`")?;
        match text.split_once('.') {
            Some((keyspace, table)) if is_identifier(keyspace) && is_identifier(table) => Some(text),
            Some(_) => {
                let here = value.describe();
                value.problem(
                    format!("{here} is not a table's name"),
                    "write keyspace.table with letters, digits and `_`",
                );
                None
            }
            None => {
                let here = value.describe();
                value.problem(format!("{here} names no keyspace"), "write keyspace.table, like `shop.orders`");
                None
            }
        }
    });
    let consistency = table.optional("consistency", |value| choice(value, &CONSISTENCIES));
    let rest = table_output(table);
    Some(TableOutput { table: name?, consistency, ..rest })
}

fn sqlite(table: &mut Table<'_>) -> Option<TableOutput> {
    let name = table.required("table", "a table's name, like `orders`", |value| {
        let text = value.text("a table's name, like `orders`")?;
        if is_identifier(&text) {
            return Some(text);
        }
        let here = value.describe();
        value.problem(
            format!("{here} is not a table's name"),
            "use letters, digits and `_`; the embedded tables have no keyspaces",
        );
        None
    });
    let create = table.optional("create", |value| value.table("`columns:` and `key:`", create));
    let rest = table_output(table);
    Some(TableOutput { table: name?, create, ..rest })
}

/// The keys that all tables share.
fn table_output(table: &mut Table<'_>) -> TableOutput {
    let columns = table.optional("columns", columns).unwrap_or_default();
    let mut ignored = table.optional("ignore", ignore).unwrap_or_default();
    let ttl = table.optional("ttl", |value| duration(value, "90 d", Duration::from_secs(1)..=TTL_MAX));
    if let Some(value) = table.get("ttl")
        && ttl.is_some_and(|ttl| ttl.subsec_nanos() > 0)
    {
        value.problem("a time-to-live counts in whole seconds", "write whole seconds, like `90 s`");
    }
    let tombstones = table.optional("tombstones", tombstones).unwrap_or(Tombstones::Reject);
    let timestamp_floor = table.optional("timestamp_floor", timestamp_us);
    if table.is_unknown("columns") || table.is_unknown("ignore") {
        // Nobody knows what it has no column for.
        ignored = Ignored::Others;
    }
    TableOutput {
        table: String::new(),
        columns,
        ignore: ignored,
        ttl,
        tombstones,
        timestamp_floor,
        consistency: None,
        create: None,
    }
}

/// Fields without a column, or `others`.
fn ignore(value: &Value<'_>) -> Option<Ignored> {
    if value.scalar() == Some("others") {
        return Some(Ignored::Others);
    }
    fields(value, "a list of fields that the table is not to have, like `[quarantine]`, or `others`")
        .map(Ignored::Fields)
}

/// Column to path: `total: total_eur`, `country: customer.country`, `odd: ["a.b"]`.
fn columns(value: &Value<'_>) -> Option<BTreeMap<String, Vec<String>>> {
    let mut columns = BTreeMap::new();
    for (column, value) in value.entries("columns with the fields that fill them, like `country: customer.country`")? {
        if column.is_empty() {
            continue;
        }
        let what = "a field, like `customer.country`, or its keys as a list";
        let path = if value.is_list() {
            value.items(what).and_then(|items| items.iter().map(|item| item.text("a key")).collect::<Option<Vec<_>>>())
        } else {
            value.text(what).map(|text| text.split('.').map(str::to_owned).collect())
        };
        match path {
            Some(path) if path.is_empty() || path.iter().any(String::is_empty) => {
                let here = value.describe();
                value.problem(format!("{here} is no path of keys"), format!("write {what}"));
            }
            Some(path) => {
                columns.insert(column.to_owned(), path);
            }
            None => {}
        }
    }
    Some(columns)
}

fn tombstones(value: &Value<'_>) -> Option<Tombstones> {
    if value.is_map() {
        return value
            .table("`delete:` with key columns", |table| {
                table.required("delete", "the key columns, like `[order_id]`", |value| {
                    names(value, "the key columns, like `[order_id]`")
                })
            })
            .map(|key| Tombstones::Delete { key });
    }
    if value.scalar() == Some("delete") {
        value.problem("which columns the record's key fills is missing", "write `tombstones: { delete: [order_id] }`");
        return None;
    }
    let choices = [("reject", Tombstones::Reject), ("skip", Tombstones::Skip)];
    let meanings = [("drop", "skip"), ("ignore", "skip"), ("dead-letter", "reject"), ("fail", "reject")];
    choice_by_meaning(value, &choices, &meanings)
}

/// Names, at least one, each once.
fn names(value: &Value<'_>, what: &str) -> Option<Vec<String>> {
    let mut names: Vec<String> = Vec::new();
    let items = value.items(what)?;
    let mut is_valid = true;
    for item in items {
        match item.text("a name") {
            Some(name) if names.contains(&name) => {
                item.problem(format!("{} is listed twice", item.quoted()), "remove it");
                is_valid = false;
            }
            Some(name) => names.push(name),
            None => is_valid = false,
        }
    }
    if names.is_empty() && is_valid {
        value.problem("found an empty list", format!("write {what}"));
    }
    (is_valid && !names.is_empty()).then_some(names)
}

fn create(table: &mut Table<'_>) -> Option<CreateTable> {
    let columns =
        table.required("columns", "columns and their types, like `{ order_id: text, total_eur: real }`", |value| {
            let names = ColumnType::names();
            let types: Vec<(&str, String)> = names.split(", ").map(|name| (name, name.to_owned())).collect();
            let mut columns = Vec::new();
            let entries = value.entries("columns and their types, like `{ order_id: text }`")?;
            if entries.is_empty() {
                value.problem("found no columns", "write columns and their types, like `{ order_id: text }`");
            }
            for (name, value) in entries {
                if !is_identifier(name) {
                    let found = format!("`{name}` is not a column's name");
                    value.document.problem(value.key_place, &value.path, found, "use letters, digits and `_`");
                } else if let Some(kind) = choice(&value, &types) {
                    columns.push((name.to_owned(), kind));
                }
            }
            Some(columns)
        });
    let key = table.required("key", "the primary key, like `[order_id]`", |value| {
        let key = names(value, "the primary key, like `[order_id]`")?;
        let mut is_known = true;
        if let Some(columns) = columns.as_ref().filter(|columns| !columns.is_empty()) {
            for name in &key {
                if !columns.iter().any(|(column, _)| column == name) {
                    is_known = false;
                    let remedy = match nearest(name, columns.iter().map(|(column, _)| column.as_str())) {
                        Some(near) => format!("did you mean `{near}`?"),
                        None => format!("the columns are {}", list(columns.iter().map(|(column, _)| column.as_str()))),
                    };
                    let which = if value.is_substituted_below() {
                        "a value of the environment".to_owned()
                    } else {
                        format!("`{name}`")
                    };
                    value.problem(format!("{which} is none of the columns"), remedy);
                }
            }
        }
        // A key that is none says nothing of deletions or of what fills it.
        is_known.then_some(key)
    });
    Some(CreateTable { columns: columns?, key: key? })
}

/// Reads `dead_letters:`.
pub(super) fn dead_letters(value: &Value<'_>, dir: &Path) -> Option<DeadLetterSettings> {
    const WHAT: &str = "`kafka: { topic: … }` or `file: …`";
    value.table(WHAT, |table| {
        let kafka = table.optional("kafka", |value| {
            value.table("`topic:`", |table| {
                table.required("topic", "the topic for dead letters, like `shop.orders.dlq`", topic)
            })
        });
        let file = table.optional("file", |value| path_within(value, dir, "a file, like `dead-letters/orders.jsonl`"));
        exactly_one(table, &["kafka", "file"], WHAT)?;
        kafka
            .map(|topic| DeadLetterSettings::Kafka { topic })
            .or_else(|| file.map(|path| DeadLetterSettings::File { path }))
    })
}

/// A name as CQL and SQL have them without quotes.
fn is_identifier(text: &str) -> bool {
    text.len() <= 48
        && text.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_')
        && text.chars().all(|c| c.is_ascii_alphanumeric() || c == '_')
}
