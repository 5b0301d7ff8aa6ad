//! From a batch to rows that are ready to be bound.
//!
//! In: a [`SinkBatch`] and the table's [`Shape`]. Out: one [`Unit`] for each row of the table that each record writes
//! (several writes of one record to one row are merged, the last wins), encoded one after the other, and the rows that
//! can never be written. Pure: the clock, the session and the network stand elsewhere.
//!
//! Within a record, for one row of the table: later cells win; a delete wins over what came before it; an upsert after a
//! delete sets what it says and deletes every other regular cell, since both carry one write time, at which a row's
//! deletion would win over its cells.

use std::collections::HashMap;
use std::ops::Range;

use scylla::cluster::metadata::ColumnType;
use scylla::errors::SerializationError;
use scylla::serialize::row::{RowSerializationContext, SerializeRow};
use scylla::serialize::writers::RowWriter;

use super::cells::{self, Encoded};
use super::table::ColumnRole;
use crate::pipeline::RowFailure;
use crate::record::{Cell, RowOp, SinkBatch, Value};

/// Cassandra's limit for a partition key and for each clustering column.
const KEY_BYTES_MAX: usize = 65_535;

/// A column of the table, and which column of the batch feeds it.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct ShapeColumn {
    /// Its place among the batch's columns.
    pub(crate) source: usize,
    pub(crate) name: String,
    pub(crate) role: ColumnRole,
    pub(crate) column_type: ColumnType<'static>,
    pub(crate) type_text: String,
}

/// What a sink must know of its table to encode rows.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Shape {
    /// Key columns first, in the order of the prepared statements.
    pub(crate) columns: Vec<ShapeColumn>,
    /// Columns of the batch that the table no longer has.
    pub(crate) gone: Vec<(usize, String)>,
    /// A larger row is refused before it is sent.
    pub(crate) row_bytes_max: usize,
}

impl Shape {
    fn key(&self) -> &[ShapeColumn] {
        let end = self.columns.partition_point(|column| column.role <= ColumnRole::Clustering);
        &self.columns[..end]
    }

    /// The part of an upsert's values that a deletion of its row has.
    pub(crate) fn key_values<'v>(&self, values: &'v [u8]) -> &'v [u8] {
        let mut rest = values;
        for _ in self.key() {
            let Some((length, after)) = rest.split_first_chunk::<4>() else { break };
            // A key has no null and nothing unset in it.
            let length = usize::try_from(i32::from_be_bytes(*length)).unwrap_or_default();
            rest = after.get(length..).unwrap_or_default();
        }
        values.get(..values.len() - rest.len()).unwrap_or_default()
    }

    fn partition_columns(&self) -> usize {
        self.columns.partition_point(|column| column.role == ColumnRole::Partition)
    }

    fn has_statics(&self) -> bool {
        self.columns.iter().any(|column| column.role == ColumnRole::Static)
    }
}

/// One row of the table, as one record writes it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Unit {
    /// The batch's row that stands for it: the last that it is made of.
    pub(crate) last: usize,
    /// The rows before it that it is made of too, in order.
    earlier: Vec<usize>,
    pub(crate) op: RowOp,
    /// The record deleted the row before these rows.
    pub(crate) cleared: bool,
    /// Static columns that a later row of the record sets for the same partition.
    masked: Vec<usize>,
    /// Its values in [`EncodedBatch::bytes`].
    pub(crate) values: Range<usize>,
    /// How many bytes of these, the first, are the partition key.
    pub(crate) partition_bytes: usize,
}

impl Unit {
    pub(crate) fn of(row: usize, op: RowOp) -> Self {
        Self {
            last: row,
            earlier: Vec::new(),
            op,
            cleared: false,
            masked: Vec::new(),
            values: 0..0,
            partition_bytes: 0,
        }
    }

    /// The rows that it is made of, the last first.
    fn rows(&self) -> impl Iterator<Item = usize> {
        std::iter::once(self.last).chain(self.earlier.iter().rev().copied())
    }
}

/// What came of a batch.
#[derive(Debug, Default)]
pub(crate) struct EncodedBatch {
    pub(crate) units: Vec<Unit>,
    /// For each unit, its values as `[int]` length and content each; -1 is null, -2 unset.
    pub(crate) bytes: Vec<u8>,
    pub(crate) failures: Vec<RowFailure>,
}

/// Merges and encodes a whole batch.
pub(crate) fn encode_batch(batch: &SinkBatch, shape: &Shape) -> EncodedBatch {
    let mut encoded = EncodedBatch { units: Vec::with_capacity(batch.len()), ..EncodedBatch::default() };
    let mut start = 0;
    // Rows with one write time are one record's: only among them the order would not show in the data.
    for record in batch.rows.chunk_by(|a, b| a.write_time == b.write_time) {
        let rows = start..start + record.len();
        start = rows.end;
        if let [only] = record {
            encoded.push(batch, shape, Unit::of(rows.start, only.op));
        } else {
            for unit in merge(batch, shape, rows, &mut encoded.failures) {
                encoded.push(batch, shape, unit);
            }
        }
    }
    encoded
}

impl EncodedBatch {
    fn push(&mut self, batch: &SinkBatch, shape: &Shape, mut unit: Unit) {
        let start = self.bytes.len();
        match encode_unit(batch, shape, &unit, &mut self.bytes) {
            Ok(partition_bytes) => {
                unit.partition_bytes = partition_bytes;
                unit.values = start..self.bytes.len();
                self.units.push(unit);
            }
            Err(failure) => {
                self.bytes.truncate(start);
                self.failures.push(failure);
            }
        }
    }
}

/// One unit for each row of the table that a record writes, in the order of their last writes.
fn merge(batch: &SinkBatch, shape: &Shape, rows: Range<usize>, failures: &mut Vec<RowFailure>) -> Vec<Unit> {
    let mut units: Vec<Option<Unit>> = Vec::new();
    let mut by_key: HashMap<Vec<u8>, usize> = HashMap::new();
    let mut partitions = Vec::new();
    for row in rows {
        let mut key = Vec::new();
        let partition_bytes = match encode_key(batch, shape, row, &mut key) {
            Ok(bytes) => bytes,
            Err(failure) => {
                failures.push(failure);
                continue;
            }
        };
        let partition = key[..partition_bytes].to_vec();
        let before = by_key.insert(key, units.len()).and_then(|at| units[at].take());
        let op = batch.rows[row].op;
        let mut unit = Unit::of(row, op);
        if let Some(before) = before.filter(|_| op == RowOp::Upsert) {
            unit.cleared = before.cleared || before.op == RowOp::Delete;
            if before.op == RowOp::Upsert {
                unit.earlier = before.earlier;
                unit.earlier.push(before.last);
            }
        }
        units.push(Some(unit));
        partitions.push(partition);
    }
    if shape.has_statics() {
        mask_statics(batch, shape, &mut units, &partitions);
    }
    units.into_iter().flatten().collect()
}

/// A static cell that several rows of a record set is set by the last of them alone.
fn mask_statics(batch: &SinkBatch, shape: &Shape, units: &mut [Option<Unit>], partitions: &[Vec<u8>]) {
    let mut set: HashMap<(&[u8], usize), ()> = HashMap::new();
    for (unit, partition) in units.iter_mut().zip(partitions).rev() {
        let Some(unit) = unit.as_mut().filter(|unit| unit.op == RowOp::Upsert) else { continue };
        for (at, column) in shape.columns.iter().enumerate().filter(|(_, column)| column.role == ColumnRole::Static) {
            let sets = unit.rows().any(|row| batch.cells[column.source].get(row) != Cell::Unset);
            if sets && set.insert((partition.as_slice(), at), ()).is_some() {
                unit.masked.push(at);
            }
        }
    }
}

/// Appends a unit's values: all columns for an upsert, the key for a delete. Says how many bytes of it, the first, are
/// the partition key.
pub(crate) fn encode_unit(
    batch: &SinkBatch,
    shape: &Shape,
    unit: &Unit,
    out: &mut Vec<u8>,
) -> Result<usize, RowFailure> {
    let start = out.len();
    let partition_bytes = encode_key(batch, shape, unit.last, out)?;
    if unit.op == RowOp::Upsert {
        refuse_gone(batch, shape, unit)?;
        for (at, column) in shape.columns.iter().enumerate().skip(shape.key().len()) {
            if unit.masked.contains(&at) {
                out.extend_from_slice(&UNSET.to_be_bytes());
            } else {
                encode_cell(batch, column, unit, out)?;
            }
        }
    }
    let bytes = out.len() - start;
    if bytes > shape.row_bytes_max {
        return Err(RowFailure {
            row: unit.last,
            code: "sink.too_large".into(),
            message: format!("the row has {bytes} bytes; Cassandra takes {} at most", shape.row_bytes_max),
        });
    }
    Ok(partition_bytes)
}

const NULL: i32 = -1;
const UNSET: i32 = -2;

fn encode_cell(batch: &SinkBatch, column: &ShapeColumn, unit: &Unit, out: &mut Vec<u8>) -> Result<(), RowFailure> {
    let cells = &batch.cells[column.source];
    let last = unit.rows().map(|row| (row, cells.get(row))).find(|(_, cell)| *cell != Cell::Unset);
    let length = match last {
        None if unit.cleared && column.role == ColumnRole::Regular => NULL,
        None => UNSET,
        Some((_, Cell::Null | Cell::Unset)) => NULL,
        Some((row, Cell::Value(value))) => {
            return encode_value(value, column, out).map(|_| ()).map_err(|message| RowFailure {
                row,
                code: "sink.bad_value".into(),
                message,
            });
        }
    };
    out.extend_from_slice(&length.to_be_bytes());
    Ok(())
}

/// Appends a value with its length before it, or null.
fn encode_value(value: Value<'_>, column: &ShapeColumn, out: &mut Vec<u8>) -> Result<Encoded, String> {
    let start = out.len();
    out.extend_from_slice(&NULL.to_be_bytes());
    let encoded = cells::encode(value, &column.column_type, out).map_err(|bad| {
        format!("column {} ({}): found {}, wanted {}", column.name, column.type_text, bad.found, bad.wanted)
    })?;
    if encoded == Encoded::Value {
        let length = i32::try_from(out.len() - start - 4).map_err(|_| format!("column {}: over 2 GiB", column.name))?;
        out[start..start + 4].copy_from_slice(&length.to_be_bytes());
    }
    Ok(encoded)
}

/// Appends the primary key, and says how many bytes of it are the partition key.
fn encode_key(batch: &SinkBatch, shape: &Shape, row: usize, out: &mut Vec<u8>) -> Result<usize, RowFailure> {
    let failure = |message: String| RowFailure { row, code: "sink.bad_key".into(), message };
    let mut partition_bytes = 0;
    for column in shape.key() {
        let about = |what: &str| failure(format!("key column {} ({}) {what}", column.name, column.type_text));
        let cell_start = out.len();
        match batch.cells[column.source].get(row) {
            Cell::Unset => return Err(about("is missing")),
            Cell::Null => return Err(about("is null")),
            Cell::Value(value) => {
                if encode_value(value, column, out).map_err(&failure)? == Encoded::Null {
                    return Err(about("is null"));
                }
            }
        }
        let bytes = out.len() - cell_start - 4;
        // Cassandra refuses an empty partition key, but takes an empty part of a composite one.
        if bytes == 0 && column.role == ColumnRole::Partition && shape.partition_columns() == 1 {
            return Err(about("is empty"));
        }
        if column.role == ColumnRole::Partition {
            partition_bytes += bytes;
        }
        if bytes > KEY_BYTES_MAX || partition_bytes > KEY_BYTES_MAX {
            return Err(about(&format!("has {bytes} bytes; a key holds {KEY_BYTES_MAX} at most")));
        }
    }
    Ok(partition_bytes + 4 * shape.partition_columns())
}

fn refuse_gone(batch: &SinkBatch, shape: &Shape, unit: &Unit) -> Result<(), RowFailure> {
    for (source, name) in &shape.gone {
        for row in unit.rows() {
            if matches!(batch.cells[*source].get(row), Cell::Value(_)) {
                return Err(RowFailure {
                    row,
                    code: "sink.unknown_column".into(),
                    message: format!("the table no longer has column {name}"),
                });
            }
        }
    }
    Ok(())
}

/// A unit's values and what each attempt adds, as the driver binds them.
pub(crate) struct Bound<'a> {
    pub(crate) op: RowOp,
    /// As in [`EncodedBatch::bytes`].
    pub(crate) values: &'a [u8],
    pub(crate) write_time: i64,
    /// Seconds; none leaves the row for ever.
    pub(crate) ttl_s: Option<i32>,
}

impl SerializeRow for Bound<'_> {
    fn serialize(&self, _: &RowSerializationContext<'_>, writer: &mut RowWriter<'_>) -> Result<(), SerializationError> {
        let time = self.write_time.to_be_bytes();
        let too_long = SerializationError::new;
        if self.op == RowOp::Delete {
            writer.make_cell_writer().set_value(&time).map_err(too_long)?;
        }
        let mut rest = self.values;
        while let Some((length, after)) = rest.split_first_chunk::<4>() {
            let cell = writer.make_cell_writer();
            rest = match i32::from_be_bytes(*length) {
                NULL => {
                    cell.set_null();
                    after
                }
                UNSET => {
                    cell.set_unset();
                    after
                }
                length => {
                    let (content, after) = after.split_at(length as usize);
                    cell.set_value(content).map_err(too_long)?;
                    after
                }
            };
        }
        if self.op == RowOp::Upsert {
            writer.make_cell_writer().set_value(&time).map_err(too_long)?;
            let ttl = writer.make_cell_writer();
            if let Some(ttl_s) = self.ttl_s {
                ttl.set_value(&ttl_s.to_be_bytes()).map_err(too_long)?;
            } else {
                ttl.set_unset();
            }
        }
        Ok(())
    }

    fn is_empty(&self) -> bool {
        false
    }
}
