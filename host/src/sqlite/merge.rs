//! What a row holds after one more write: Cassandra's rules, as a pure function.
//!
//! Last write time wins, cell by cell. On a tie a deleted cell beats an expiring one, which beats one without expiry;
//! of two expiring ones the later expiry wins; then the larger value in byte order (`Cells.reconcile`). A row's
//! deletion takes away everything written at its time or before (`DeletionTime.deletes`), and what comes later with
//! such a time stays away. So writes may come in any order and as often as they like: the row ends the same.

use std::cmp::Ordering;

use super::columns::Stored;
use crate::record::RowOp;

/// A version of a cell, or (without a value) a deleted one.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct StoredCell {
    pub(super) value: Option<Stored>,
    pub(super) at: i64,
    pub(super) until_ms: Option<i64>,
}

/// The insertion of a row.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Inserted {
    pub(super) at: i64,
    pub(super) until_ms: Option<i64>,
}

/// A row of the storage.
#[derive(Debug, Clone, Default, PartialEq)]
pub(super) struct StoredRow {
    pub(super) inserted: Option<Inserted>,
    pub(super) deleted_at: Option<i64>,
    /// One a column that is no key; none where it was never written, or the row's deletion took it.
    pub(super) cells: Vec<Option<StoredCell>>,
}

/// What a write says about a cell.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum NewCell {
    Unset,
    Null,
    Value(Stored),
}

/// One write of one row.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct RowWrite {
    pub(super) key: Vec<Stored>,
    pub(super) op: RowOp,
    /// The record deleted the row before it set these cells.
    pub(super) cleared: bool,
    /// One a column that is no key.
    pub(super) cells: Vec<NewCell>,
    pub(super) at: i64,
    pub(super) until_ms: Option<i64>,
}

impl RowWrite {
    /// Takes a later write of the same record to the same row into this one: the last wins, though their write times
    /// are the same.
    pub(super) fn merge(&mut self, later: Self) {
        match (self.op, later.op) {
            (_, RowOp::Delete) => *self = later,
            (RowOp::Upsert, RowOp::Upsert) => {
                for (cell, later) in self.cells.iter_mut().zip(later.cells) {
                    if later != NewCell::Unset {
                        *cell = later;
                    }
                }
            }
            // On a tie the row's deletion would win: what the upsert leaves unset is deleted cell by cell instead.
            (RowOp::Delete, RowOp::Upsert) => {
                *self = Self { cleared: true, ..later };
                for cell in self.cells.iter_mut().filter(|cell| **cell == NewCell::Unset) {
                    *cell = NewCell::Null;
                }
            }
        }
    }

    /// Leaves of an upsert the deletion that its record made before it; false where there was none.
    pub(super) fn fall_back_to_deletion(&mut self) -> bool {
        if self.cleared {
            self.op = RowOp::Delete;
            self.cells.fill(NewCell::Unset);
        }
        self.cleared
    }
}

impl StoredRow {
    /// An unwritten row.
    pub(super) fn new(columns: usize) -> Self {
        Self { cells: vec![None; columns], ..Self::default() }
    }

    /// Takes a write; whether that changed anything.
    pub(super) fn apply(&mut self, write: &RowWrite) -> bool {
        if self.deleted_at.is_some_and(|deleted| write.at <= deleted) {
            return false;
        }
        if write.op == RowOp::Delete {
            self.delete(write.at);
            return true;
        }
        let inserted = Inserted { at: write.at, until_ms: write.until_ms };
        let mut changed = false;
        if self.inserted.is_none_or(|stored| stored.order(inserted) == Ordering::Less) {
            self.inserted = Some(inserted);
            changed = true;
        }
        for (stored, new) in self.cells.iter_mut().zip(&write.cells) {
            let new = match new {
                NewCell::Unset => continue,
                NewCell::Null => StoredCell { value: None, at: write.at, until_ms: None },
                NewCell::Value(value) => {
                    StoredCell { value: Some(value.clone()), at: write.at, until_ms: write.until_ms }
                }
            };
            if stored.as_ref().is_none_or(|stored| stored.order(&new) == Ordering::Less) {
                *stored = Some(new);
                changed = true;
            }
        }
        changed
    }

    fn delete(&mut self, at: i64) {
        self.deleted_at = Some(at);
        self.inserted = self.inserted.filter(|inserted| inserted.at > at);
        for cell in &mut self.cells {
            if cell.as_ref().is_some_and(|cell| cell.at <= at) {
                *cell = None;
            }
        }
    }
}

impl Inserted {
    fn order(self, other: Self) -> Ordering {
        // None is before any expiry: an expiring insertion beats one for good, the later expiry the earlier.
        (self.at, self.until_ms).cmp(&(other.at, other.until_ms))
    }
}

impl StoredCell {
    fn order(&self, other: &Self) -> Ordering {
        self.at.cmp(&other.at).then(self.rank().cmp(&other.rank())).then_with(|| match (&self.value, &other.value) {
            (Some(one), Some(two)) => self.until_ms.cmp(&other.until_ms).then_with(|| one.order(two)),
            _ => Ordering::Equal,
        })
    }

    fn rank(&self) -> u8 {
        match (&self.value, self.until_ms) {
            (None, _) => 2,
            (Some(_), Some(_)) => 1,
            (Some(_), None) => 0,
        }
    }
}
