//! One table: its columns, the statements that make, read and write it.

use std::collections::BTreeSet;
use std::path::Path;

use rusqlite::types::Null;
use rusqlite::{Connection, OptionalExtension, Row, ToSql, Transaction};

use super::SqliteError;
use super::columns::{ColumnType, Stored};
use super::merge::{Inserted, StoredCell, StoredRow};
use crate::config::CreateTable;

/// Milliseconds since 1970, in SQL.
const NOW_MS: &str = "CAST(unixepoch('subsec') * 1000 AS INTEGER)";

/// A column.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct ColumnSpec {
    pub(super) name: String,
    pub(super) column_type: ColumnType,
}

/// A table as it stands in the file.
#[derive(Debug)]
pub(super) struct Table {
    pub(super) name: String,
    pub(super) key: Vec<ColumnSpec>,
    pub(super) columns: Vec<ColumnSpec>,
    select: String,
    replace: String,
}

/// Writes an identifier.
fn quoted(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}

impl Table {
    fn new(name: &str, key: Vec<ColumnSpec>, columns: Vec<ColumnSpec>) -> Self {
        let mut stored = vec!["__inserted_at".to_owned(), "__inserted_until".to_owned(), "__deleted_at".to_owned()];
        for column in &columns {
            stored.extend([column.name.clone(), format!("{}__at", column.name), format!("{}__until", column.name)]);
        }
        let storage = quoted(&format!("{name}__cells"));
        let list = |names: &[String]| names.iter().map(|name| quoted(name)).collect::<Vec<_>>().join(", ");
        let key_names: Vec<_> = key.iter().map(|column| column.name.clone()).collect();
        let is_key: Vec<_> =
            key_names.iter().enumerate().map(|(at, name)| format!("{} = ?{}", quoted(name), at + 1)).collect();
        let select = format!("SELECT {} FROM {storage} WHERE {}", list(&stored), is_key.join(" AND "));
        let all: Vec<_> = key_names.iter().chain(&stored).cloned().collect();
        let marks = vec!["?"; all.len()].join(", ");
        let replace = format!("INSERT OR REPLACE INTO {storage} ({}) VALUES ({marks})", list(&all));
        Self { name: name.to_owned(), key, columns, select, replace }
    }

    /// Finds the table, or makes it as described; adds columns that are new.
    pub(super) fn open(
        connection: &mut Connection,
        path: &Path,
        name: &str,
        create: Option<&CreateTable>,
    ) -> Result<Self, SqliteError> {
        let transaction = connection.transaction_with_behavior(rusqlite::TransactionBehavior::Immediate)?;
        transaction.execute_batch(
            "CREATE TABLE IF NOT EXISTS pelton__tables (name TEXT PRIMARY KEY, columns TEXT NOT NULL, key TEXT NOT NULL) STRICT",
        )?;
        let found = Self::find(&transaction, name)?;
        let wanted = create.map(|create| Self::described(name, create)).transpose()?;
        let table = match (found, wanted) {
            (Some(found), None) => found,
            (Some(found), Some(wanted)) => found.extended(&transaction, wanted)?,
            (None, Some(wanted)) => {
                wanted.make(&transaction)?;
                wanted
            }
            (None, None) => return Err(SqliteError::Absent { path: path.to_owned(), table: name.to_owned() }),
        };
        transaction.commit()?;
        Ok(table)
    }

    /// The table as `pelton__tables` knows it.
    pub(super) fn find(connection: &Connection, name: &str) -> Result<Option<Self>, SqliteError> {
        let row: Option<(String, String)> = connection
            .query_row("SELECT columns, key FROM pelton__tables WHERE name = ?1", [name], |row| {
                Ok((row.get(0)?, row.get(1)?))
            })
            .optional()?;
        let Some((columns, key)) = row else { return Ok(None) };
        let broken = |reason: String| SqliteError::Table {
            table: name.to_owned(),
            reason: format!("its entry in pelton__tables cannot be read: {reason}"),
        };
        let columns: Vec<(String, String)> =
            serde_json::from_str(&columns).map_err(|error| broken(error.to_string()))?;
        let key: Vec<String> = serde_json::from_str(&key).map_err(|error| broken(error.to_string()))?;
        Self::described(name, &CreateTable { columns, key }).map(Some)
    }

    /// The table that `create:` describes.
    pub(super) fn described(name: &str, create: &CreateTable) -> Result<Self, SqliteError> {
        let wrong = |reason: String| SqliteError::Table { table: name.to_owned(), reason };
        let plain = |name: &str| {
            name.starts_with(|first: char| first.is_ascii_alphabetic() || first == '_')
                && name.chars().all(|character| character.is_ascii_alphanumeric() || character == '_')
        };
        if !plain(name) || name.contains("__") || name.to_ascii_lowercase().starts_with("sqlite_") {
            return Err(wrong("a name has letters, digits and single underscores, and begins with a letter".into()));
        }
        let mut specs = Vec::new();
        let mut taken: BTreeSet<String> = BTreeSet::new();
        for (column, type_name) in &create.columns {
            let Some(column_type) = ColumnType::by_name(type_name) else {
                let names = ColumnType::names();
                return Err(wrong(format!("column {column} has the unknown type {type_name}; the types are {names}")));
            };
            if column.is_empty() || column.contains("__") || column.contains('\0') {
                return Err(wrong(format!("the column name {column:?} is empty, or has two underscores in a row")));
            }
            // SQLite does not tell columns apart by case.
            if !taken.insert(column.to_lowercase()) {
                return Err(wrong(format!("column {column} stands there twice")));
            }
            specs.push(ColumnSpec { name: column.clone(), column_type });
        }
        if create.key.is_empty() {
            return Err(wrong("a table needs a key: name its columns under `key:`".into()));
        }
        let mut key = Vec::new();
        for column in &create.key {
            let Some(at) = specs.iter().position(|spec| spec.name == *column) else {
                return Err(wrong(format!("the key names {column}, which is no column, or twice")));
            };
            key.push(specs.remove(at));
        }
        Ok(Self::new(name, key, specs))
    }

    /// The table with the columns that `wanted` has beyond it.
    fn extended(self, transaction: &Transaction<'_>, wanted: Self) -> Result<Self, SqliteError> {
        let wrong = |reason: String| SqliteError::Table { table: self.name.clone(), reason };
        if self.key != wanted.key {
            let key: Vec<_> = self.key.iter().map(|column| column.name.as_str()).collect();
            let reason =
                format!("its key in the file is ({}), and `create:` says otherwise: use another table", key.join(", "));
            return Err(wrong(reason));
        }
        let mut columns = self.columns.clone();
        for column in &wanted.columns {
            match self.columns.iter().find(|known| known.name == column.name) {
                None => columns.push(column.clone()),
                Some(known) if known == column => {}
                Some(known) => {
                    return Err(wrong(format!(
                        "column {} is {} in the file and {} in `create:`: use another column or table",
                        column.name,
                        known.column_type.name(),
                        column.column_type.name()
                    )));
                }
            }
        }
        if columns.len() == self.columns.len() {
            return Ok(self);
        }
        for column in columns.iter().skip(self.columns.len()) {
            for definition in storage_columns(column) {
                let storage = quoted(&format!("{}__cells", self.name));
                transaction.execute_batch(&format!("ALTER TABLE {storage} ADD COLUMN {definition}"))?;
            }
        }
        let extended = Self::new(&self.name, self.key.clone(), columns);
        transaction.execute_batch(&format!("DROP VIEW {}", quoted(&self.name)))?;
        extended.make_view(transaction)?;
        Ok(extended)
    }

    fn make(&self, transaction: &Transaction<'_>) -> Result<(), SqliteError> {
        let taken: bool = transaction.query_row(
            "SELECT EXISTS (SELECT 1 FROM sqlite_schema WHERE lower(name) IN (lower(?1), lower(?2)))",
            [self.name.clone(), format!("{}__cells", self.name)],
            |row| row.get(0),
        )?;
        if taken {
            let reason = "the file has something of that name that Pelton did not make: use another name".into();
            return Err(SqliteError::Table { table: self.name.clone(), reason });
        }
        let keys =
            self.key.iter().map(|column| format!("{} {} NOT NULL", quoted(&column.name), column.column_type.sql()));
        let hidden = ["__inserted_at", "__inserted_until", "__deleted_at"].map(|name| format!("{name} INTEGER"));
        let definitions: Vec<_> = keys.chain(hidden).chain(self.columns.iter().flat_map(storage_columns)).collect();
        let key: Vec<_> = self.key.iter().map(|column| quoted(&column.name)).collect();
        transaction.execute_batch(&format!(
            "CREATE TABLE {} ({}, PRIMARY KEY ({})) STRICT, WITHOUT ROWID",
            quoted(&format!("{}__cells", self.name)),
            definitions.join(", "),
            key.join(", ")
        ))?;
        self.make_view(transaction)
    }

    fn make_view(&self, transaction: &Transaction<'_>) -> Result<(), SqliteError> {
        let shown = |column: &ColumnSpec| {
            let name = quoted(&column.name);
            match column.column_type {
                ColumnType::Timestamp => format!("strftime('%Y-%m-%dT%H:%M:%fZ', {name} / 1000.0, 'unixepoch')"),
                _ => name,
            }
        };
        let keys = self.key.iter().map(|column| format!("{} AS {}", shown(column), quoted(&column.name)));
        let cells = self.columns.iter().map(|column| {
            format!("CASE WHEN {} THEN {} END AS {}", is_fresh(&column.name), shown(column), quoted(&column.name))
        });
        let list: Vec<_> = keys.chain(cells).collect();
        let view = quoted(&self.name);
        transaction.execute_batch(&format!(
            "CREATE VIEW {view} AS SELECT {} FROM {} WHERE {}",
            list.join(", "),
            quoted(&format!("{}__cells", self.name)),
            self.is_visible()
        ))?;
        let specs: Vec<_> = self
            .key
            .iter()
            .chain(&self.columns)
            .map(|column| (column.name.as_str(), column.column_type.name()))
            .collect();
        let key: Vec<_> = self.key.iter().map(|column| column.name.as_str()).collect();
        transaction.execute(
            "INSERT OR REPLACE INTO pelton__tables (name, columns, key) VALUES (?1, ?2, ?3)",
            [self.name.clone(), serde_json::json!(specs).to_string(), serde_json::json!(key).to_string()],
        )?;
        Ok(())
    }

    /// Whether a row of the storage is there for readers.
    fn is_visible(&self) -> String {
        let inserted =
            format!("(__inserted_at IS NOT NULL AND (__inserted_until IS NULL OR __inserted_until > {NOW_MS}))");
        let cells = self
            .columns
            .iter()
            .map(|column| format!("({} IS NOT NULL AND {})", quoted(&column.name), is_fresh(&column.name)));
        std::iter::once(inserted).chain(cells).collect::<Vec<_>>().join(" OR ")
    }

    /// Every visible row of the storage: keys, then value and write time of each other column.
    pub(super) fn select_visible(&self) -> String {
        let keys = self.key.iter().map(|column| quoted(&column.name));
        let cells = self.columns.iter().flat_map(|column| {
            let (name, at) = (quoted(&column.name), quoted(&format!("{}__at", column.name)));
            [format!("CASE WHEN {} THEN {name} END", is_fresh(&column.name)), at]
        });
        let list: Vec<_> = keys.chain(cells).collect();
        let order: Vec<_> = self.key.iter().map(|column| quoted(&column.name)).collect();
        format!(
            "SELECT {} FROM {} WHERE {} ORDER BY {}",
            list.join(", "),
            quoted(&format!("{}__cells", self.name)),
            self.is_visible(),
            order.join(", ")
        )
    }

    /// A row of the storage.
    pub(super) fn load(&self, connection: &Connection, key: &[Stored]) -> rusqlite::Result<Option<StoredRow>> {
        let mut statement = connection.prepare_cached(&self.select)?;
        statement.query_row(rusqlite::params_from_iter(key), |row| self.read(row)).optional()
    }

    fn read(&self, row: &Row<'_>) -> rusqlite::Result<StoredRow> {
        let inserted: Option<i64> = row.get(0)?;
        let until_ms = row.get(1)?;
        let mut stored = StoredRow {
            inserted: inserted.map(|at| Inserted { at, until_ms }),
            deleted_at: row.get(2)?,
            cells: Vec::with_capacity(self.columns.len()),
        };
        for at in 0..self.columns.len() {
            let base = 3 + at * 3;
            let written: Option<i64> = row.get(base + 1)?;
            let (value, until_ms) = (Stored::read(row.get_ref(base)?), row.get(base + 2)?);
            stored.cells.push(written.map(|at| StoredCell { value, at, until_ms }));
        }
        Ok(stored)
    }

    /// Writes a row of the storage.
    pub(super) fn save(&self, connection: &Connection, key: &[Stored], row: &StoredRow) -> rusqlite::Result<()> {
        let mut values: Vec<&dyn ToSql> = Vec::with_capacity(key.len() + 3 + row.cells.len() * 3);
        values.extend(key.iter().map(|value| value as &dyn ToSql));
        match &row.inserted {
            Some(inserted) => values.extend([&inserted.at as &dyn ToSql, &inserted.until_ms]),
            None => values.extend([&Null as &dyn ToSql, &Null]),
        }
        values.push(&row.deleted_at);
        for cell in &row.cells {
            match cell {
                Some(cell) => values.extend([&cell.value as &dyn ToSql, &cell.at, &cell.until_ms]),
                None => values.extend([&Null as &dyn ToSql, &Null, &Null]),
            }
        }
        connection.prepare_cached(&self.replace)?.execute(values.as_slice())?;
        Ok(())
    }
}

/// Whether a cell has not expired.
fn is_fresh(column: &str) -> String {
    let until = quoted(&format!("{column}__until"));
    format!("({until} IS NULL OR {until} > {NOW_MS})")
}

fn storage_columns(column: &ColumnSpec) -> [String; 3] {
    let hidden = |suffix: &str| format!("{} INTEGER", quoted(&format!("{}{suffix}", column.name)));
    [format!("{} {}", quoted(&column.name), column.column_type.sql()), hidden("__at"), hidden("__until")]
}
