//! A table of the cluster, as a sink needs it: its columns with their types, its key, and its statements.
//!
//! In: a session and `cassandra:` of an output. Out: a [`Table`], or every reason why the table will not do, each with
//! the key of the output that it belongs to. Asks the cluster itself, not the driver's memory, so that a change is seen
//! at once. Never changes the table.

use std::collections::BTreeMap;
use std::fmt;

use scylla::cluster::metadata::ColumnType;
use scylla::statement::prepared::PreparedStatement;

use super::errors::CassandraError;
use super::session::{Cassandra, driver_consistency};
use crate::config::TableOutput;
use crate::pipeline::CellSpec;

/// What Cassandra takes as a time to live at most: 20 years.
pub(crate) const TTL_S_MAX: u64 = 20 * 365 * 24 * 60 * 60;

/// Copies of a row that a keyspace is advised to have, where there are nodes for them.
const REPLICAS: usize = 3;

/// One reason why a table will not do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TableProblem {
    /// The key below the output: `table`, `columns.NAME`, `ttl`.
    pub key: String,
    /// What was found.
    pub found: String,
    /// What to write or do instead.
    pub remedy: String,
}

impl TableProblem {
    fn new(key: impl Into<String>, found: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self { key: key.into(), found: found.into(), remedy: remedy.into() }
    }
}

impl fmt::Display for TableProblem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.found)?;
        if !self.remedy.is_empty() {
            write!(f, " ({})", self.remedy)?;
        }
        Ok(())
    }
}

/// What a column is to its table.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum ColumnRole {
    /// Part of the partition key.
    Partition,
    /// A clustering column.
    Clustering,
    /// One value a partition.
    Static,
    /// One value a row.
    Regular,
}

/// A column.
#[derive(Debug, Clone, PartialEq)]
pub struct TableColumn {
    /// Its name.
    pub name: String,
    /// What it is to the table.
    pub role: ColumnRole,
    /// Its type as CQL writes it.
    pub type_text: String,
    pub(crate) column_type: ColumnType<'static>,
}

/// A table that rows can be written to.
#[derive(Debug, Clone)]
pub struct Table {
    /// `keyspace.table`
    pub name: String,
    /// Key columns first, in the key's order; then the others by name.
    pub columns: Vec<TableColumn>,
    /// The table's own time to live, which counts from the record's time too. None: rows stay.
    pub default_ttl_s: Option<u64>,
    pub(crate) insert: PreparedStatement,
    pub(crate) delete: PreparedStatement,
}

/// A column as the schema tables tell it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct RawColumn {
    pub(crate) name: String,
    pub(crate) role: ColumnRole,
    pub(crate) position: i32,
    pub(crate) type_text: String,
}

impl Table {
    /// Asks the cluster for the table of an output, and prepares its statements.
    ///
    /// # Errors
    /// [`CassandraError::Table`] with every reason where the table will not do; else where the cluster cannot be asked.
    pub async fn describe(cassandra: &Cassandra, output: &TableOutput) -> Result<Self, CassandraError> {
        Self::describe_known(cassandra, output, |_| true).await
    }

    /// The same, but of the columns outside the key only those that are `known`: what was added later is left alone.
    pub(crate) async fn describe_known(
        cassandra: &Cassandra,
        output: &TableOutput,
        known: impl Fn(&str) -> bool,
    ) -> Result<Self, CassandraError> {
        let because = |problems| CassandraError::Table { table: output.table.clone(), problems };
        let Some((keyspace, table)) = output.table.split_once('.').filter(|(_, table)| !table.contains('.')) else {
            let found = format!("{:?} names no keyspace", output.table);
            return Err(because(vec![TableProblem::new("table", found, "write `table: keyspace.table`")]));
        };
        let mut problems = ttl_problem(output).into_iter().collect::<Vec<_>>();
        let Some(default_ttl_s) = default_ttl(cassandra, keyspace, table).await? else {
            problems.insert(0, absent(cassandra, keyspace, table).await?);
            return Err(because(problems));
        };
        let mut raw = columns(cassandra, keyspace, table).await?;
        raw.sort_by(|a, b| (a.role, a.position, &a.name).cmp(&(b.role, b.position, &b.name)));
        problems.extend(refusals(&output.table, &raw, &output.columns));
        if !problems.is_empty() {
            return Err(because(problems));
        }
        raw.retain(|column| column.role <= ColumnRole::Clustering || known(&column.name));
        let prepare = async |text: String| {
            let doing = || format!("preparing statements for {}", output.table);
            let mut statement =
                cassandra.session().prepare(text).await.map_err(|error| CassandraError::request(doing(), &error))?;
            let consistency = output.consistency.unwrap_or(cassandra.consistency());
            statement.set_consistency(driver_consistency(consistency));
            statement.set_is_idempotent(true);
            Ok::<_, CassandraError>(statement)
        };
        let insert = prepare(insert_text(keyspace, table, &raw)).await?;
        let delete = prepare(delete_text(keyspace, table, &raw)).await?;
        let types = insert.get_variable_col_specs();
        let columns = raw
            .into_iter()
            .zip(types.iter())
            .map(|(raw, spec)| TableColumn {
                name: raw.name,
                role: raw.role,
                type_text: raw.type_text,
                column_type: spec.typ().clone(),
            })
            .collect();
        let default_ttl_s = u64::try_from(default_ttl_s).ok().filter(|ttl| *ttl > 0);
        Ok(Self { name: output.table.clone(), columns, default_ttl_s, insert, delete })
    }

    /// Where each column's cells come from: the path that the output maps it to, else the column's own name.
    #[must_use]
    pub fn specs(&self, mapped: &BTreeMap<String, Vec<String>>) -> Vec<CellSpec> {
        self.columns
            .iter()
            .map(|column| CellSpec {
                column: column.name.clone(),
                path: mapped.get(&column.name).cloned().unwrap_or_else(|| vec![column.name.clone()]),
            })
            .collect()
    }
}

fn ttl_problem(output: &TableOutput) -> Option<TableProblem> {
    let ttl = output.ttl?;
    if ttl.as_secs() > TTL_S_MAX {
        let found = format!("{} days are longer than Cassandra can keep count of", ttl.as_secs() / 86_400);
        return Some(TableProblem::new("ttl", found, "write at most 7300 d"));
    }
    (ttl.as_secs() == 0).then(|| TableProblem::new("ttl", "less than a second", "write at least 1 s, or leave it out"))
}

/// Why these columns cannot be written to, whatever comes.
pub(crate) fn refusals(
    table: &str,
    columns: &[RawColumn],
    mapped: &BTreeMap<String, Vec<String>>,
) -> Vec<TableProblem> {
    let mut problems = Vec::new();
    for column in columns {
        let kind = column.type_text.as_str();
        if kind == "counter" {
            problems.push(TableProblem::new(
                "table",
                format!("column {} of {table} is a counter: a write that is repeated would count twice", column.name),
                "keep the total as a bigint that the plugin sets",
            ));
        } else if kind.starts_with("list<") {
            problems.push(TableProblem::new(
                "table",
                format!(
                    "column {} of {table} is a list that is not frozen: its elements double where a write is repeated",
                    column.name
                ),
                format!("make it frozen<{kind}>, a set or a map"),
            ));
        }
    }
    for name in mapped.keys() {
        if !columns.iter().any(|column| column.name == *name) {
            let found = format!("{table} has no column {name}");
            let names = columns.iter().map(|column| column.name.as_str());
            problems.push(TableProblem::new(format!("columns.{name}"), found, suggestion(name, names)));
        }
    }
    problems
}

/// The statement that makes a keyspace, with as many replicas in each datacentre as its nodes allow, three at most.
fn keyspace_statement(keyspace: &str, datacentres: &BTreeMap<String, usize>) -> String {
    let replicas = |nodes: usize| nodes.clamp(1, REPLICAS);
    let replication = if datacentres.is_empty() {
        "'class': 'SimpleStrategy', 'replication_factor': 1".to_owned()
    } else {
        let each =
            datacentres.iter().map(|(name, nodes)| format!(", '{}': {}", name.replace('\'', "''"), replicas(*nodes)));
        format!("'class': 'NetworkTopologyStrategy'{}", each.collect::<String>())
    };
    // A name in capitals would be another one without quotes.
    let is_plain = keyspace.chars().all(|c| matches!(c, 'a'..='z' | '0'..='9' | '_'));
    let name = if is_plain { keyspace.to_owned() } else { quoted(keyspace) };
    format!("CREATE KEYSPACE {name} WITH replication = {{{replication}}};")
}

/// The name that was most likely meant.
fn near<'a>(name: &str, known: impl Iterator<Item = &'a str>) -> Option<&'a str> {
    known
        .map(|candidate| (strsim::damerau_levenshtein(&name.to_lowercase(), &candidate.to_lowercase()), candidate))
        .min()
        .filter(|(distance, candidate)| *distance <= 1 + name.len().max(candidate.len()) / 4)
        .map(|(_, candidate)| candidate)
}

/// "did you mean", or all there is where nothing is near.
pub(crate) fn suggestion<'a>(name: &str, known: impl Iterator<Item = &'a str>) -> String {
    let known: Vec<_> = known.collect();
    match near(name, known.iter().copied()) {
        Some(candidate) => format!("did you mean {candidate}?"),
        None if known.is_empty() => "there are none".to_owned(),
        None => {
            let more = if known.len() > 12 { ", …" } else { "" };
            format!("there are {}{more}", known[..known.len().min(12)].join(", "))
        }
    }
}

/// A name as CQL takes any.
pub(super) fn quoted(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}

fn insert_text(keyspace: &str, table: &str, columns: &[RawColumn]) -> String {
    let names: Vec<_> = columns.iter().map(|column| quoted(&column.name)).collect();
    let marks = vec!["?"; columns.len()].join(", ");
    let (keyspace, table, names) = (quoted(keyspace), quoted(table), names.join(", "));
    format!("INSERT INTO {keyspace}.{table} ({names}) VALUES ({marks}) USING TIMESTAMP ? AND TTL ?")
}

fn delete_text(keyspace: &str, table: &str, columns: &[RawColumn]) -> String {
    let key: Vec<_> = columns
        .iter()
        .filter(|column| matches!(column.role, ColumnRole::Partition | ColumnRole::Clustering))
        .map(|column| format!("{} = ?", quoted(&column.name)))
        .collect();
    format!("DELETE FROM {}.{} USING TIMESTAMP ? WHERE {}", quoted(keyspace), quoted(table), key.join(" AND "))
}

/// The table's own time to live in seconds, 0 where it has none; nothing where there is no such table.
async fn default_ttl(cassandra: &Cassandra, keyspace: &str, table: &str) -> Result<Option<i32>, CassandraError> {
    let text = "SELECT default_time_to_live FROM system_schema.tables WHERE keyspace_name = ? AND table_name = ?";
    let rows: Vec<(i32,)> = ask(cassandra, text, (keyspace, table)).await?;
    Ok(rows.first().map(|(ttl,)| *ttl))
}

async fn columns(cassandra: &Cassandra, keyspace: &str, table: &str) -> Result<Vec<RawColumn>, CassandraError> {
    let text = "SELECT column_name, kind, position, type FROM system_schema.columns \
                WHERE keyspace_name = ? AND table_name = ?";
    let rows: Vec<(String, String, i32, String)> = ask(cassandra, text, (keyspace, table)).await?;
    Ok(rows
        .into_iter()
        .map(|(name, kind, position, type_text)| {
            let role = match kind.as_str() {
                "partition_key" => ColumnRole::Partition,
                "clustering" => ColumnRole::Clustering,
                "static" => ColumnRole::Static,
                _ => ColumnRole::Regular,
            };
            RawColumn { name, role, position, type_text }
        })
        .collect())
}

/// Cassandra's default for the largest frame and the largest mutation.
const ROW_BYTES_MAX: usize = 16 << 20;
/// What a frame and a mutation hold beside the cells' values.
const ROW_OVERHEAD_BYTES: usize = 64 << 10;

/// The largest row that the cluster takes: a larger one would cost the connection, and with it everybody's rows.
pub(crate) async fn row_bytes_max(cassandra: &Cassandra) -> usize {
    let text = "SELECT name, value FROM system_views.settings \
                WHERE name IN ('native_transport_max_frame_size', 'max_mutation_size')";
    // Older versions have other names, and some logins may not read them: then the defaults hold.
    let settings: Vec<(String, Option<String>)> = ask(cassandra, text, ()).await.unwrap_or_default();
    let limits = settings.iter().filter_map(|(_, value)| bytes_of(value.as_deref()?));
    limits.fold(ROW_BYTES_MAX, usize::min).saturating_sub(ROW_OVERHEAD_BYTES)
}

/// `16MiB`, as Cassandra writes sizes.
fn bytes_of(text: &str) -> Option<usize> {
    let digits = text.bytes().take_while(u8::is_ascii_digit).count();
    let (number, unit) = text.split_at(digits);
    let unit = match unit {
        "B" | "" => 1,
        "KiB" => 1 << 10,
        "MiB" => 1 << 20,
        "GiB" => 1 << 30,
        _ => return None,
    };
    number.parse::<usize>().ok()?.checked_mul(unit).filter(|bytes| *bytes > 0)
}

/// Why there is no such table.
async fn absent(cassandra: &Cassandra, keyspace: &str, table: &str) -> Result<TableProblem, CassandraError> {
    let view = "SELECT view_name FROM system_schema.views WHERE keyspace_name = ? AND view_name = ?";
    if !ask::<(String,)>(cassandra, view, (keyspace, table)).await?.is_empty() {
        let found = format!("{keyspace}.{table} is a materialized view");
        return Ok(TableProblem::new("table", found, "write to the table that it is made from"));
    }
    let spaces: Vec<(String,)> = ask(cassandra, "SELECT keyspace_name FROM system_schema.keyspaces", ()).await?;
    let own = |name: &&str| !name.starts_with("system");
    let spaces: Vec<_> = spaces.iter().map(|(name,)| name.as_str()).filter(own).collect();
    if !spaces.contains(&keyspace) {
        let found = format!("there is no keyspace {keyspace}");
        let make = format!("make it: {}", keyspace_statement(keyspace, &cassandra.datacentres()));
        let remedy = match near(keyspace, spaces.into_iter()) {
            Some(near) => format!("did you mean {near}? Otherwise {make}"),
            None => make,
        };
        return Ok(TableProblem::new("table", found, remedy));
    }
    let tables = tables_of(cassandra, keyspace).await?;
    let found = format!("keyspace {keyspace} has no table {table}");
    Ok(TableProblem::new("table", found, suggestion(table, tables.iter().map(String::as_str))))
}

/// The tables of a keyspace.
pub(super) async fn tables_of(cassandra: &Cassandra, keyspace: &str) -> Result<Vec<String>, CassandraError> {
    let text = "SELECT table_name FROM system_schema.tables WHERE keyspace_name = ?";
    let tables: Vec<(String,)> = ask(cassandra, text, (keyspace,)).await?;
    Ok(tables.into_iter().map(|(name,)| name).collect())
}

pub(super) async fn ask<Row>(
    cassandra: &Cassandra,
    text: &str,
    values: impl scylla::serialize::row::SerializeRow,
) -> Result<Vec<Row>, CassandraError>
where
    Row: for<'frame, 'metadata> scylla::deserialize::row::DeserializeRow<'frame, 'metadata>,
{
    const DOING: &str = "reading the schema";
    let broken = |error: String| CassandraError::Request { doing: DOING.into(), message: error, transient: false };
    let mut statement = scylla::statement::unprepared::Statement::new(text);
    // The schema is everywhere: any node answers.
    statement.set_consistency(scylla::statement::Consistency::LocalOne);
    let answer = cassandra
        .session()
        .query_unpaged(statement, values)
        .await
        .map_err(|error| CassandraError::request(DOING, &error))?;
    let rows = answer.into_rows_result().map_err(|error| broken(error.to_string()))?;
    rows.rows::<Row>()
        .map_err(|error| broken(error.to_string()))?
        .collect::<Result<_, _>>()
        .map_err(|error| broken(error.to_string()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn column(name: &str, role: ColumnRole, type_text: &str) -> RawColumn {
        RawColumn { name: name.into(), role, position: 0, type_text: type_text.into() }
    }

    #[test]
    fn says_every_reason_at_once() {
        let columns = [
            column("id", ColumnRole::Partition, "text"),
            column("hits", ColumnRole::Regular, "counter"),
            column("tags", ColumnRole::Regular, "list<text>"),
            column("fine", ColumnRole::Regular, "frozen<list<text>>"),
        ];
        let mapped =
            BTreeMap::from([("tagz".to_owned(), vec!["a".to_owned()]), ("id".to_owned(), vec!["b".to_owned()])]);
        let problems = refusals("shop.orders", &columns, &mapped);
        let keys: Vec<_> = problems.iter().map(|problem| problem.key.as_str()).collect();
        assert_eq!(keys, ["table", "table", "columns.tagz"]);
        assert!(problems[0].found.contains("column hits of shop.orders is a counter"), "{problems:?}");
        assert_eq!(problems[1].remedy, "make it frozen<list<text>>, a set or a map");
        assert_eq!(problems[2].remedy, "did you mean tags?");
    }

    #[test]
    fn suggests_what_is_near_and_lists_what_is_not() {
        assert_eq!(suggestion("Orders", ["orders", "alerts"].into_iter()), "did you mean orders?");
        assert_eq!(suggestion("xyz", ["orders", "alerts"].into_iter()), "there are orders, alerts");
        assert_eq!(suggestion("xyz", std::iter::empty()), "there are none");
    }

    #[test]
    fn a_keyspace_that_is_not_there_is_told_with_the_statement_that_makes_it() {
        assert_eq!(
            keyspace_statement("shop", &[("dc1".to_owned(), 5), ("o'dc".to_owned(), 1)].into()),
            "CREATE KEYSPACE shop WITH replication = {'class': 'NetworkTopologyStrategy', 'dc1': 3, 'o''dc': 1};"
        );
        assert_eq!(
            keyspace_statement("Shop", &BTreeMap::new()),
            "CREATE KEYSPACE \"Shop\" WITH replication = {'class': 'SimpleStrategy', 'replication_factor': 1};"
        );
    }

    #[test]
    fn sizes_are_read_with_their_unit() {
        let read = ["16MiB", "16777216B", "1KiB", "null", "", "-1"].map(bytes_of);
        assert_eq!(read, [Some(16 << 20), Some(16 << 20), Some(1024), None, None, None]);
    }

    #[test]
    fn names_are_quoted() {
        let columns = [column("Id", ColumnRole::Partition, "text"), column("a\"b", ColumnRole::Regular, "int")];
        assert_eq!(
            insert_text("Shop", "t", &columns),
            r#"INSERT INTO "Shop"."t" ("Id", "a""b") VALUES (?, ?) USING TIMESTAMP ? AND TTL ?"#
        );
        assert_eq!(delete_text("Shop", "t", &columns), r#"DELETE FROM "Shop"."t" USING TIMESTAMP ? WHERE "Id" = ?"#);
    }
}
