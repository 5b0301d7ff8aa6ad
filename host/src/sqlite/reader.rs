//! Reads the embedded tables: for the demo's reconciliation and for tests. Programs of others use the views.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use rusqlite::{Connection, OpenFlags};

use super::SqliteError;
use super::columns::Stored;
use super::table::Table;
use crate::config::CreateTable;

/// A visible row.
#[derive(Debug, Clone, PartialEq)]
pub struct ReadRow {
    /// Key columns and live cells; absent where there is none.
    pub values: BTreeMap<String, serde_json::Value>,
    /// The write time of each live cell.
    pub write_times: BTreeMap<String, i64>,
}

/// An open file, for reading.
pub struct SqliteReader {
    connection: Connection,
    path: PathBuf,
}

impl SqliteReader {
    /// Opens the file.
    ///
    /// # Errors
    /// Where it is not there, or is no SQLite file.
    pub fn open(path: &Path) -> Result<Self, SqliteError> {
        let connection = Connection::open_with_flags(path, OpenFlags::SQLITE_OPEN_READ_WRITE)
            .map_err(|error| SqliteError::Open { path: path.to_owned(), reason: error.to_string() })?;
        Ok(Self { connection, path: path.to_owned() })
    }

    /// The visible rows of a table, by key.
    ///
    /// # Errors
    /// Where the table is not there.
    pub fn rows(&self, table: &str) -> Result<Vec<ReadRow>, SqliteError> {
        let Some(table) = Table::find(&self.connection, table)? else {
            return Err(SqliteError::Absent { path: self.path.clone(), table: table.to_owned() });
        };
        let mut statement = self.connection.prepare(&table.select_visible())?;
        let mut rows = statement.query([])?;
        let mut found = Vec::new();
        while let Some(row) = rows.next()? {
            let mut read = ReadRow { values: BTreeMap::new(), write_times: BTreeMap::new() };
            for (at, column) in table.key.iter().enumerate() {
                if let Some(value) = Stored::read(row.get_ref(at)?) {
                    read.values.insert(column.name.clone(), value.to_json(column.column_type));
                }
            }
            for (at, column) in table.columns.iter().enumerate() {
                let place = table.key.len() + at * 2;
                if let Some(value) = Stored::read(row.get_ref(place)?) {
                    read.values.insert(column.name.clone(), value.to_json(column.column_type));
                    read.write_times.insert(column.name.clone(), row.get(place + 1)?);
                }
            }
            found.push(read);
        }
        Ok(found)
    }

    /// How a table was made, as `create:` says it; none where it is not there.
    ///
    /// # Errors
    /// Where the file cannot be read.
    pub fn made_as(&self, table: &str) -> Result<Option<CreateTable>, SqliteError> {
        let table = Table::find(&self.connection, table)?;
        Ok(table.map(|table| {
            let columns = table.key.iter().chain(&table.columns);
            CreateTable {
                columns: columns.map(|column| (column.name.clone(), column.column_type.name().to_owned())).collect(),
                key: table.key.iter().map(|column| column.name.clone()).collect(),
            }
        }))
    }

    /// The first column of every row that a statement gives, as text: for a look at the views.
    ///
    /// # Errors
    /// Where SQLite refuses the statement.
    pub fn texts(&self, sql: &str) -> Result<Vec<Option<String>>, SqliteError> {
        let mut statement = self.connection.prepare(sql)?;
        let texts = statement.query_map([], |row| row.get::<_, Option<String>>(0))?;
        Ok(texts.collect::<Result<_, _>>()?)
    }
}
