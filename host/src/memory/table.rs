//! What a table of Cassandra holds after some writes, by definition: every write is kept, and what is visible is worked
//! out when somebody looks. Slow and simple, so that the faster tables can be compared with it.
//!
//! The rules, as in Cassandra's `Cells.reconcile` and `DeletionTime.deletes`: the last write time wins, cell by cell.
//! On a tie a deleted cell beats an expiring one, which beats one without expiry; of two expiring ones the later expiry
//! wins; then the larger value in byte order. A row's deletion hides everything written at its time or before. A row is
//! there while it was inserted (and that has not expired) or any cell is alive.

use std::collections::{BTreeMap, BTreeSet};

use crate::record::{Cell, RowOp, Value, WriteTime};

/// A value that owns its bytes.
#[derive(Debug, Clone, PartialEq)]
pub enum OwnedValue {
    /// true or false
    Boolean(bool),
    /// a whole number
    S64(i64),
    /// a number
    F64(f64),
    /// text
    Text(String),
    /// bytes
    Bytes(Vec<u8>),
    /// raw JSON text
    Json(String),
}

impl OwnedValue {
    /// As Cassandra serialises it, which is the order that decides ties.
    fn order(&self) -> Vec<u8> {
        match self {
            Self::Boolean(value) => vec![u8::from(*value)],
            Self::S64(value) => value.to_be_bytes().to_vec(),
            Self::F64(value) => value.to_bits().to_be_bytes().to_vec(),
            Self::Text(text) | Self::Json(text) => text.as_bytes().to_vec(),
            Self::Bytes(bytes) => bytes.clone(),
        }
    }
}

impl Eq for OwnedValue {}

impl PartialOrd for OwnedValue {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for OwnedValue {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        self.order().cmp(&other.order())
    }
}

impl From<Value<'_>> for OwnedValue {
    fn from(value: Value<'_>) -> Self {
        match value {
            Value::Boolean(value) => Self::Boolean(value),
            Value::S64(value) => Self::S64(value),
            Value::F64(value) => Self::F64(value),
            Value::Text(text) => Self::Text(text.to_owned()),
            Value::Bytes(bytes) => Self::Bytes(bytes.to_vec()),
            Value::Json(text) => Self::Json(text.to_owned()),
        }
    }
}

impl From<&str> for OwnedValue {
    fn from(text: &str) -> Self {
        Self::Text(text.to_owned())
    }
}

impl From<i64> for OwnedValue {
    fn from(value: i64) -> Self {
        Self::S64(value)
    }
}

impl OwnedValue {
    /// Borrows.
    #[must_use]
    pub fn as_value(&self) -> Value<'_> {
        match self {
            Self::Boolean(value) => Value::Boolean(*value),
            Self::S64(value) => Value::S64(*value),
            Self::F64(value) => Value::F64(*value),
            Self::Text(text) => Value::Text(text),
            Self::Bytes(bytes) => Value::Bytes(bytes),
            Self::Json(text) => Value::Json(text),
        }
    }
}

/// A cell that owns its bytes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum OwnedCell {
    /// Stays as it is.
    Unset,
    /// Is deleted.
    Null,
    /// Gets this value.
    Value(OwnedValue),
}

impl From<Cell<'_>> for OwnedCell {
    fn from(cell: Cell<'_>) -> Self {
        match cell {
            Cell::Unset => Self::Unset,
            Cell::Null => Self::Null,
            Cell::Value(value) => Self::Value(value.into()),
        }
    }
}

impl OwnedCell {
    /// Borrows.
    #[must_use]
    pub fn as_cell(&self) -> Cell<'_> {
        match self {
            Self::Unset => Cell::Unset,
            Self::Null => Cell::Null,
            Self::Value(value) => Cell::Value(value.as_value()),
        }
    }
}

/// One write of one row, the writes of one record merged.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TableWrite {
    /// The values of the key columns.
    pub key: Vec<OwnedValue>,
    /// Upsert or delete.
    pub op: RowOp,
    /// The other columns.
    pub cells: BTreeMap<String, OwnedCell>,
    /// The write time.
    pub at: WriteTime,
    /// When it expires, milliseconds since the Unix epoch.
    pub until_ms: Option<i64>,
}

/// A visible row: the key, and each live cell with its write time.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TableRow {
    /// The values of the key columns.
    pub key: Vec<OwnedValue>,
    /// Live cells with their write times.
    pub cells: BTreeMap<String, (OwnedValue, WriteTime)>,
}

/// All writes of a table.
#[derive(Debug, Clone, Default)]
pub struct MemoryTable {
    rows: BTreeMap<Vec<OwnedValue>, Writes>,
}

#[derive(Debug, Clone, Default)]
struct Writes {
    deletes: BTreeSet<WriteTime>,
    inserts: BTreeSet<Version>,
    cells: BTreeMap<String, BTreeSet<Version>>,
}

/// The greatest of a cell's versions is the one that counts: the order of the fields is the rule.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
struct Version {
    at: WriteTime,
    /// 2 deleted, 1 expiring, 0 for good
    rank: u8,
    until_ms: Option<i64>,
    value: Option<OwnedValue>,
}

impl Version {
    fn is_alive(&self, deleted_at: Option<WriteTime>, now_ms: i64) -> bool {
        deleted_at.is_none_or(|deleted| self.at > deleted)
            && self.rank != 2
            && self.until_ms.is_none_or(|until| until > now_ms)
    }
}

impl MemoryTable {
    /// Takes a write.
    pub fn write(&mut self, write: &TableWrite) {
        let row = self.rows.entry(write.key.clone()).or_default();
        if write.op == RowOp::Delete {
            row.deletes.insert(write.at);
            return;
        }
        let rank = u8::from(write.until_ms.is_some());
        row.inserts.insert(Version { at: write.at, rank, until_ms: write.until_ms, value: None });
        for (column, cell) in &write.cells {
            let version = match cell {
                OwnedCell::Unset => continue,
                OwnedCell::Null => Version { at: write.at, rank: 2, until_ms: None, value: None },
                OwnedCell::Value(value) => {
                    Version { at: write.at, rank, until_ms: write.until_ms, value: Some(value.clone()) }
                }
            };
            row.cells.entry(column.clone()).or_default().insert(version);
        }
    }

    /// The visible rows, by key.
    #[must_use]
    pub fn rows(&self, now_ms: i64) -> Vec<TableRow> {
        self.rows.iter().filter_map(|(key, writes)| Self::visible(key, writes, now_ms)).collect()
    }

    fn visible(key: &[OwnedValue], writes: &Writes, now_ms: i64) -> Option<TableRow> {
        let deleted_at = writes.deletes.last().copied();
        let inserted = writes.inserts.last().is_some_and(|insert| insert.is_alive(deleted_at, now_ms));
        let cells: BTreeMap<_, _> = writes
            .cells
            .iter()
            .filter_map(|(column, versions)| {
                let winner = versions.last().filter(|winner| winner.is_alive(deleted_at, now_ms))?;
                Some((column.clone(), (winner.value.clone()?, winner.at)))
            })
            .collect();
        (inserted || !cells.is_empty()).then(|| TableRow { key: key.to_vec(), cells })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn write(at: i64, op: RowOp, cells: &[(&str, OwnedCell)], until_ms: Option<i64>) -> TableWrite {
        let cells = cells.iter().map(|(column, cell)| ((*column).to_owned(), cell.clone())).collect();
        TableWrite { key: vec!["k".into()], op, cells, at: WriteTime(at), until_ms }
    }

    fn set(value: i64) -> OwnedCell {
        OwnedCell::Value(value.into())
    }

    #[test]
    fn an_older_partial_update_changes_only_older_cells() {
        let mut table = MemoryTable::default();
        table.write(&write(20, RowOp::Upsert, &[("a", set(1))], None));
        table.write(&write(10, RowOp::Upsert, &[("a", set(9)), ("b", set(2))], None));
        let rows = table.rows(0);
        assert_eq!(rows[0].cells["a"], (1.into(), WriteTime(20)));
        assert_eq!(rows[0].cells["b"], (2.into(), WriteTime(10)));
    }

    #[test]
    fn a_deletion_wins_a_tie_and_hides_what_is_older() {
        let mut table = MemoryTable::default();
        table.write(&write(10, RowOp::Upsert, &[("a", set(1))], None));
        table.write(&write(10, RowOp::Delete, &[], None));
        assert!(table.rows(0).is_empty());
        table.write(&write(11, RowOp::Upsert, &[("b", OwnedCell::Null)], None));
        assert_eq!(table.rows(0)[0].cells, BTreeMap::new());
    }

    #[test]
    fn what_has_expired_still_hides_what_is_older() {
        let mut table = MemoryTable::default();
        table.write(&write(10, RowOp::Upsert, &[("a", set(1))], None));
        table.write(&write(20, RowOp::Upsert, &[("a", set(2))], Some(500)));
        assert_eq!(table.rows(499)[0].cells["a"].0, 2.into());
        assert!(table.rows(500).is_empty(), "the insert of the newer write expired with it");
    }
}
