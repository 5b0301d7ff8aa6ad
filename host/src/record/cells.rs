//! What leaves for a sink: rows with their write times, as whole records or as cells by column.

use std::fmt::Write as _;

use super::{Column, Offset, TopicPartition, WriteTime};

/// A value on its way into a table, borrowed from its column.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Value<'a> {
    /// true or false
    Boolean(bool),
    /// a whole number
    S64(i64),
    /// a number
    F64(f64),
    /// text, escapes resolved
    Text(&'a str),
    /// bytes
    Bytes(&'a [u8]),
    /// raw JSON text: an object, an array, or a number that is no `i64`
    Json(&'a str),
}

/// One cell of an outgoing row.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Cell<'a> {
    /// Nobody said anything about it: the table's cell stays as it is.
    Unset,
    /// The table's cell is deleted.
    Null,
    /// The table's cell gets this value.
    Value(Value<'a>),
}

/// The cells of one column; each cell knows its own type, since some come from a plugin and some from the record.
#[derive(Debug, Clone, Default)]
pub struct CellColumn {
    tags: Vec<Tag>,
    words: Vec<u64>,
    data: Vec<u8>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Tag {
    Unset,
    Null,
    Boolean,
    S64,
    F64,
    Text,
    Bytes,
    Json,
}

impl CellColumn {
    /// Appends a cell.
    pub fn push(&mut self, cell: Cell<'_>) {
        let (tag, word) = match cell {
            Cell::Unset => (Tag::Unset, 0),
            Cell::Null => (Tag::Null, 0),
            Cell::Value(Value::Boolean(value)) => (Tag::Boolean, u64::from(value)),
            Cell::Value(Value::S64(value)) => (Tag::S64, value.cast_unsigned()),
            Cell::Value(Value::F64(value)) => (Tag::F64, value.to_bits()),
            Cell::Value(Value::Text(text)) => (Tag::Text, self.append(text.as_bytes())),
            Cell::Value(Value::Bytes(bytes)) => (Tag::Bytes, self.append(bytes)),
            Cell::Value(Value::Json(text)) => (Tag::Json, self.append(text.as_bytes())),
        };
        self.tags.push(tag);
        self.words.push(word);
    }

    /// The cell of a row.
    ///
    /// # Panics
    /// Where `row` is not below [`Self::len`].
    #[must_use]
    pub fn get(&self, row: usize) -> Cell<'_> {
        let word = self.words[row];
        Cell::Value(match self.tags[row] {
            Tag::Unset => return Cell::Unset,
            Tag::Null => return Cell::Null,
            Tag::Boolean => Value::Boolean(word != 0),
            Tag::S64 => Value::S64(word.cast_signed()),
            Tag::F64 => Value::F64(f64::from_bits(word)),
            Tag::Text => Value::Text(self.text(word)),
            Tag::Bytes => Value::Bytes(self.bytes(word)),
            Tag::Json => Value::Json(self.text(word)),
        })
    }

    /// Number of cells.
    #[must_use]
    pub fn len(&self) -> usize {
        self.tags.len()
    }

    /// Whether there are no cells.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.tags.is_empty()
    }

    /// The memory that its cells take, bytes.
    #[must_use]
    pub fn size(&self) -> usize {
        self.data.len() + self.tags.len() * (size_of::<Tag>() + size_of::<u64>())
    }

    fn append(&mut self, bytes: &[u8]) -> u64 {
        let offset = self.data.len() as u64;
        self.data.extend_from_slice(bytes);
        offset << 32 | bytes.len() as u64
    }

    fn bytes(&self, word: u64) -> &[u8] {
        let (offset, length) = ((word >> 32) as usize, word as u32 as usize);
        &self.data[offset..offset + length]
    }

    fn text(&self, word: u64) -> &str {
        std::str::from_utf8(self.bytes(word)).expect("only text was appended under this tag")
    }
}

/// What a sink does with a row.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RowOp {
    /// Insert or update.
    Upsert,
    /// Delete the row (a table), or write a tombstone (a topic).
    Delete,
}

/// The identity of one outgoing row.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RowMeta {
    /// Its record's row in the source's batch.
    pub origin: u32,
    /// Its record's offset.
    pub offset: Offset,
    /// Its record's timestamp in milliseconds; -1 where it has none.
    pub timestamp_ms: i64,
    /// Write time for tables; the same for all rows of one record.
    pub write_time: WriteTime,
    /// Which of the record's outputs this is, over all steps: with topic, partition and offset the `pelton-id`,
    /// unique within the pipeline.
    pub index: u32,
    /// Upsert or delete.
    pub op: RowOp,
}

impl RowMeta {
    /// The moment from which a time to live counts, milliseconds: its record's time. Where the record has none, or one
    /// so far ahead of the wall that its write time was clamped, what the write time was made of.
    #[must_use]
    pub fn lives_from_ms(&self) -> i64 {
        let written_ms = self.write_time.0.div_euclid(1000);
        // A write time lies below its record's time only where it was clamped.
        if self.timestamp_ms >= 0 { self.timestamp_ms.min(written_ms) } else { written_ms }
    }
}

/// The rows of one batch that go to one sink, in order: rows of one record stand together, records in offset order.
#[derive(Debug, Clone)]
pub struct SinkBatch {
    /// Where the records come from.
    pub source: TopicPartition,
    /// The assignment of the partition under which they were read.
    pub generation: u64,
    /// One a row.
    pub rows: Vec<RowMeta>,
    /// Keys, for a sink that wants records; else empty.
    pub keys: Column,
    /// Values, for a sink that wants records; else empty.
    pub values: Column,
    /// Packed headers, for a sink that wants records; else empty.
    pub headers: Column,
    /// For a sink that wants cells: one column for each that it asked for, in its order; else empty.
    pub cells: Vec<CellColumn>,
}

impl SinkBatch {
    /// Number of rows.
    #[must_use]
    pub fn len(&self) -> usize {
        self.rows.len()
    }

    /// Whether there are no rows.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.rows.is_empty()
    }

    /// The memory that its rows take, bytes.
    #[must_use]
    pub fn bytes(&self) -> usize {
        let columns = [&self.keys, &self.values, &self.headers];
        let columns = columns.iter().map(|column| column.data().len() + column.spans_bytes().len()).sum::<usize>();
        let cells = self.cells.iter().map(CellColumn::size).sum::<usize>();
        self.rows.len() * size_of::<RowMeta>() + columns + cells
    }

    /// The `pelton-id` of a row: topic, partition, offset, output index.
    #[must_use]
    pub fn id(&self, row: usize) -> String {
        let mut id = self.id_prefix();
        self.push_id(row, &mut id);
        id
    }

    /// What the ids of all rows begin with.
    #[must_use]
    pub fn id_prefix(&self) -> String {
        format!("{}/{}/", self.source.topic, self.source.partition)
    }

    /// Appends what comes after [`Self::id_prefix`] in the id of a row.
    ///
    /// # Panics
    /// Where `row` is not below [`Self::len`].
    pub fn push_id(&self, row: usize, id: &mut String) {
        let meta = &self.rows[row];
        write!(id, "{}/{}", meta.offset, meta.index).expect("text takes everything");
    }
}
