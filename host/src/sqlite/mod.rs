//! The embedded tables: a sink that needs no server, as safe to replay into as Cassandra.
//!
//! In: rows as cells, with their write times. Out: tables in one SQLite file, readable with plain SQL. One write time
//! stands beside every cell, and the rules are Cassandra's (`merge`): the last write time wins cell by cell, so a
//! partial update that comes late changes only what is older. Never answers before the transaction is on the disk, and
//! never drops a row because the disk is full or somebody else holds the file: it waits and says so.
//!
//! # Layout
//! For a table `orders` with the key `order_id` and a column `status`, the file holds
//!
//! - `orders`, a view: what there is, for people and programs. Deleted and expired rows and cells do not show. Booleans
//!   are 0 and 1, timestamps ISO 8601 text in UTC, JSON is text, the others as they are.
//! - `orders__cells`, the storage behind it; only Pelton writes here:
//!
//!   | Column | Holds |
//!   |---|---|
//!   | `order_id` | the key; timestamps are milliseconds since 1970 here |
//!   | `__inserted_at`, `__inserted_until` | write time and expiry of the row's insertion |
//!   | `__deleted_at` | write time of the row's latest deletion: whatever was written then or before is gone |
//!   | `status`, `status__at`, `status__until` | a cell, its write time (microseconds; NULL: never written), its expiry (milliseconds; NULL: none). A NULL cell with a write time was deleted |
//!
//! - `pelton__tables`: the columns, types and keys of all tables.
//! - `pelton__journal`: what the write times of pipelines rest on, where the broker is the embedded one.
//!
//! Deletions and expired cells stay in the storage, so that a replay of any age finds them.

mod columns;
mod database;
mod journal;
mod merge;
mod reader;
mod sink;
mod table;
#[cfg(test)]
mod tests;

pub use columns::ColumnType;
pub use journal::SqliteJournal;
pub use reader::{ReadRow, SqliteReader};
pub use sink::SqliteSink;

use std::path::PathBuf;

/// Why a table cannot be opened or read.
#[derive(Debug, thiserror::Error)]
pub enum SqliteError {
    /// The file cannot be opened.
    #[error("the embedded tables in {path} cannot be opened: {reason}")]
    Open {
        /// The file.
        path: PathBuf,
        /// What SQLite said.
        reason: String,
    },
    /// The table is not there, and nobody said how to make it.
    #[error("{path} has no table {table}: say how to make it under `create:`")]
    Absent {
        /// The file.
        path: PathBuf,
        /// The table.
        table: String,
    },
    /// The table cannot be made or used as it is described.
    #[error("table {table}: {reason}")]
    Table {
        /// The table.
        table: String,
        /// What is wrong, and what to do.
        reason: String,
    },
    /// SQLite refused a statement.
    #[error("the embedded tables: {0}")]
    Sql(#[from] rusqlite::Error),
}
