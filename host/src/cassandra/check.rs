//! What is asked of Cassandra before anything is written, by `pelton check --online` and by a start.
//!
//! In: a session, and each output that is a table, with the typed fields that feed it where they are known. Out:
//! [`Problem`]s by pipeline and key, and what the tables are made of. Writes nothing.

use scylla::cluster::metadata::{ColumnType, NativeType};

use super::errors::CassandraError;
use super::session::Cassandra;
use super::table::{ColumnRole, Table, TableColumn};
use crate::config::{Problem, TableOutput};
use crate::pipeline::CellSpec;
use crate::record::{FieldType, OutputField};

/// A table of a pipeline.
#[derive(Debug, Clone)]
pub struct TableCheck<'a> {
    /// The pipeline's name.
    pub pipeline: &'a str,
    /// The output's name.
    pub output_name: &'a str,
    /// The output.
    pub output: &'a TableOutput,
    /// The typed fields that the last step sets; empty where they are not known.
    pub fields: &'a [OutputField],
}

/// What was found.
#[derive(Debug, Default)]
pub struct Checked {
    /// What is wrong.
    pub problems: Vec<Problem>,
    /// What Cassandra did not answer: waiting may help.
    pub unreachable: Vec<Problem>,
    /// One a table that was asked for; none where it will not do.
    pub tables: Vec<Option<KnownTable>>,
}

/// A table as the cluster knows it.
#[derive(Debug)]
pub struct KnownTable {
    /// Its columns, and what fills them.
    pub columns: Vec<CellSpec>,
    /// The primary key.
    pub key: Vec<String>,
}

/// Looks at every table.
pub async fn check(cassandra: &Cassandra, tables: &[TableCheck<'_>]) -> Checked {
    let mut checked = Checked::default();
    for table in tables {
        let known = check_table(cassandra, table, &mut checked).await;
        checked.tables.push(known);
    }
    checked
}

async fn check_table(cassandra: &Cassandra, check: &TableCheck<'_>, checked: &mut Checked) -> Option<KnownTable> {
    let Checked { problems, unreachable, .. } = checked;
    let key = |below: &str| format!("outputs.{}.cassandra.{below}", check.output_name);
    let problem =
        |below: &str, found: String, remedy: &str| Problem::by_key(Some(check.pipeline), key(below), found, remedy);
    let table = match Table::describe(cassandra, check.output).await {
        Ok(table) => table,
        Err(CassandraError::Table { problems: found, .. }) => {
            problems.extend(found.into_iter().map(|found| problem(&found.key, found.found, &found.remedy)));
            return None;
        }
        Err(error) => {
            let what_is = if error.is_transient() { unreachable } else { problems };
            what_is.push(problem("table", error.to_string(), ""));
            return None;
        }
    };
    let columns = table.specs(&check.output.columns);
    for (spec, column) in columns.iter().zip(&table.columns) {
        let Some(field) = check.fields.iter().find(|field| field.path == spec.path) else { continue };
        if !fits(field.field_type, &column.column_type) {
            let below = if check.output.columns.contains_key(&column.name) {
                format!("columns.{}", column.name)
            } else {
                "table".to_owned()
            };
            let found = format!(
                "the plugin sets `{}` as {}, which never fits into the column {} of {}, of type {}",
                spec.path.join("."),
                field.field_type.name(),
                column.name,
                table.name,
                column.type_text
            );
            problems.push(problem(&below, found, "let the plugin set another type, or change the column"));
        }
    }
    let is_key = |column: &&TableColumn| column.role <= ColumnRole::Clustering;
    let key = table.columns.iter().filter(is_key).map(|column| column.name.clone()).collect();
    Some(KnownTable { columns, key })
}

/// Whether any value of a field's type can fit a column.
fn fits(field: FieldType, column: &ColumnType<'_>) -> bool {
    let ColumnType::Native(native) = column else {
        return matches!(field, FieldType::Json | FieldType::Text | FieldType::Symbol);
    };
    match field {
        // Nearly everything has a text form.
        FieldType::Text | FieldType::Symbol => true,
        FieldType::Json => !matches!(native, NativeType::Counter),
        FieldType::Boolean => matches!(native, NativeType::Boolean),
        FieldType::S64 => matches!(
            native,
            NativeType::BigInt
                | NativeType::Int
                | NativeType::SmallInt
                | NativeType::TinyInt
                | NativeType::Varint
                | NativeType::Decimal
                | NativeType::Float
                | NativeType::Double
                | NativeType::Timestamp
        ),
        FieldType::F64 => matches!(native, NativeType::Float | NativeType::Double | NativeType::Decimal),
        FieldType::Bytes => {
            matches!(native, NativeType::Blob | NativeType::Uuid | NativeType::Timeuuid | NativeType::Inet)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_fit_or_do_not() {
        let native = |of: NativeType| ColumnType::Native(of);
        assert!(fits(FieldType::S64, &native(NativeType::Timestamp)));
        assert!(!fits(FieldType::S64, &native(NativeType::Text)));
        assert!(!fits(FieldType::F64, &native(NativeType::Int)));
        assert!(fits(FieldType::Json, &ColumnType::Tuple(vec![native(NativeType::Int)])));
        assert!(!fits(FieldType::S64, &ColumnType::Tuple(vec![native(NativeType::Int)])));
    }
}
