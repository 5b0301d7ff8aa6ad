//! Batches as they come from a source: one column for keys, one for values, one for packed headers.

use super::{Offset, TopicPartition};

/// The span length that means null.
const NULL: u32 = u32::MAX;

/// One untyped field of every record of a batch: `spans` of `[offset, length]` into `data`; a length of
/// `0xffff_ffff` is null. The layout of `column` in `wit/types.wit`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Column {
    spans: Vec<[u32; 2]>,
    data: Vec<u8>,
}

impl Column {
    /// An empty column with room for `rows` cells of `bytes` in all.
    #[must_use]
    pub fn with_capacity(rows: usize, bytes: usize) -> Self {
        Self { spans: Vec::with_capacity(rows), data: Vec::with_capacity(bytes) }
    }

    /// Appends a cell.
    ///
    /// # Panics
    /// Where the column would pass 4 GiB; batches are capped far below that.
    pub fn push(&mut self, cell: Option<&[u8]>) {
        match cell {
            None => self.spans.push([0, NULL]),
            Some(bytes) => {
                let offset = u32::try_from(self.data.len()).expect("a batch is capped far below 4 GiB");
                self.data.extend_from_slice(bytes);
                self.spans.push([offset, bytes.len() as u32]);
            }
        }
    }

    /// Appends a cell that `write` appends to the column's bytes.
    pub fn push_with(&mut self, write: impl FnOnce(&mut Vec<u8>)) {
        let offset = self.data.len();
        write(&mut self.data);
        self.spans.push([offset as u32, (self.data.len() - offset) as u32]);
    }

    /// The cell of a row; none where it is null.
    ///
    /// # Panics
    /// Where `row` is not below [`Self::len`].
    #[must_use]
    pub fn get(&self, row: usize) -> Option<&[u8]> {
        let [offset, length] = self.spans[row];
        (length != NULL).then(|| &self.data[offset as usize..offset as usize + length as usize])
    }

    /// Number of cells.
    #[must_use]
    pub fn len(&self) -> usize {
        self.spans.len()
    }

    /// Whether there are no cells.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.spans.is_empty()
    }

    /// The packed table of spans, little-endian.
    #[must_use]
    pub fn spans_bytes(&self) -> &[u8] {
        bytemuck::cast_slice(&self.spans)
    }

    /// What the spans point into.
    #[must_use]
    pub fn data(&self) -> &[u8] {
        &self.data
    }
}

// The tables cross to guests as they stand in memory.
const _: () = assert!(cfg!(target_endian = "little"), "the packed tables are little-endian");

/// Some records of one partition, in offset order.
#[derive(Debug, Clone)]
pub struct Batch {
    /// Where they come from.
    pub source: TopicPartition,
    /// Offset of each record, rising.
    pub offsets: Vec<i64>,
    /// Timestamp of each record in milliseconds since the Unix epoch; -1 where it has none.
    pub timestamps: Vec<i64>,
    /// Keys.
    pub keys: Column,
    /// Values; null is a tombstone.
    pub values: Column,
    /// Headers of each record, packed as `all-headers` in `wit/types.wit`.
    pub headers: Column,
    /// For each record, its row in the batch that the source gave: what a step filters or fans out keeps its lineage.
    pub origins: Vec<u32>,
}

impl Batch {
    /// An empty batch.
    #[must_use]
    pub fn new(source: TopicPartition) -> Self {
        Self {
            source,
            offsets: Vec::new(),
            timestamps: Vec::new(),
            keys: Column::default(),
            values: Column::default(),
            headers: Column::default(),
            origins: Vec::new(),
        }
    }

    /// Appends a record as its source gives it; its origin is its own row.
    pub fn push<'h>(
        &mut self,
        offset: Offset,
        timestamp_ms: Option<i64>,
        key: Option<&[u8]>,
        value: Option<&[u8]>,
        headers: impl IntoIterator<Item = (&'h str, Option<&'h [u8]>)>,
    ) {
        self.origins.push(self.offsets.len() as u32);
        self.offsets.push(offset.0);
        self.timestamps.push(timestamp_ms.unwrap_or(-1));
        self.keys.push(key);
        self.values.push(value);
        self.headers.push_with(|packed| {
            for (name, value) in headers {
                push_header(packed, name, value);
            }
        });
    }

    /// Appends row `row` of `other`, its origin with it.
    pub fn push_from(&mut self, other: &Batch, row: usize) {
        self.origins.push(other.origins[row]);
        self.offsets.push(other.offsets[row]);
        self.timestamps.push(other.timestamps[row]);
        self.keys.push(other.keys.get(row));
        self.values.push(other.values.get(row));
        self.headers.push(other.headers.get(row));
    }

    /// The rows `rows` of this batch, in that order.
    #[must_use]
    pub fn select(&self, rows: impl IntoIterator<Item = usize>) -> Self {
        let mut selected = Self::new(self.source.clone());
        for row in rows {
            selected.push_from(self, row);
        }
        selected
    }

    /// Number of records.
    #[must_use]
    pub fn len(&self) -> usize {
        self.offsets.len()
    }

    /// Whether there are no records.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.offsets.is_empty()
    }

    /// Bytes of keys, values and headers.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.keys.data().len() + self.values.data().len() + self.headers.data().len()
    }

    /// The same, of some of its rows.
    #[must_use]
    pub fn bytes_of(&self, rows: std::ops::Range<usize>) -> usize {
        let bytes =
            |row: usize| [&self.keys, &self.values, &self.headers].map(|column| column.get(row).map_or(0, <[u8]>::len));
        rows.map(|row| bytes(row).into_iter().sum::<usize>()).sum()
    }

    /// The headers of a record, in order.
    #[must_use]
    pub fn headers(&self, row: usize) -> HeaderIter<'_> {
        HeaderIter::new(self.headers.get(row).unwrap_or_default())
    }

    /// The timestamp of a record, where it has one.
    #[must_use]
    pub fn timestamp_ms(&self, row: usize) -> Option<i64> {
        Some(self.timestamps[row]).filter(|ms| *ms >= 0)
    }
}

/// The header of a record that goes out which names its origin: topic, partition, offset, output.
pub const ID_HEADER: &str = "pelton-id";

/// Appends one header in packed form.
pub fn push_header(packed: &mut Vec<u8>, name: &str, value: Option<&[u8]>) {
    packed.extend_from_slice(&(name.len() as u32).to_le_bytes());
    packed.extend_from_slice(name.as_bytes());
    match value {
        None => packed.extend_from_slice(&NULL.to_le_bytes()),
        Some(value) => {
            packed.extend_from_slice(&(value.len() as u32).to_le_bytes());
            packed.extend_from_slice(value);
        }
    }
}

/// Reads packed headers. Ends early where the bytes are malformed: [`HeaderIter::is_done`] tells.
#[derive(Debug, Clone)]
pub struct HeaderIter<'a> {
    rest: &'a [u8],
}

impl<'a> HeaderIter<'a> {
    /// Headers packed as `all-headers` in `wit/types.wit`.
    #[must_use]
    pub fn new(packed: &'a [u8]) -> Self {
        Self { rest: packed }
    }

    /// Whether all bytes were read; false after the end means that they were malformed.
    #[must_use]
    pub fn is_done(&self) -> bool {
        self.rest.is_empty()
    }

    fn take(rest: &mut &'a [u8], length: usize) -> Option<&'a [u8]> {
        let (head, tail) = rest.split_at_checked(length)?;
        *rest = tail;
        Some(head)
    }

    fn take_u32(rest: &mut &'a [u8]) -> Option<u32> {
        Self::take(rest, 4)?.try_into().ok().map(u32::from_le_bytes)
    }
}

impl<'a> Iterator for HeaderIter<'a> {
    type Item = (&'a str, Option<&'a [u8]>);

    fn next(&mut self) -> Option<Self::Item> {
        let mut rest = self.rest;
        let name_length = Self::take_u32(&mut rest)?;
        let name = std::str::from_utf8(Self::take(&mut rest, name_length as usize)?).ok()?;
        let value_length = Self::take_u32(&mut rest)?;
        let value = if value_length == NULL { None } else { Some(Self::take(&mut rest, value_length as usize)?) };
        self.rest = rest;
        Some((name, value))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keeps_null_apart_from_empty() {
        let mut batch = Batch::new(TopicPartition::new("t", 0));
        batch.push(Offset(4), Some(7), None, Some(b""), [("a", None), ("a", Some(&b"x"[..]))]);
        batch.push(Offset(9), None, Some(b"k"), None, []);
        assert_eq!(batch.keys.get(0), None);
        assert_eq!(batch.values.get(0), Some(&b""[..]));
        assert_eq!(batch.values.get(1), None);
        assert_eq!(batch.headers(0).collect::<Vec<_>>(), [("a", None), ("a", Some(&b"x"[..]))]);
        assert_eq!(batch.timestamp_ms(1), None);
        let second = batch.select([1]);
        assert_eq!((second.origins.as_slice(), second.offsets.as_slice()), (&[1][..], &[9][..]));
    }

    #[test]
    fn malformed_headers_end_without_panic() {
        let mut packed = Vec::new();
        push_header(&mut packed, "name", Some(b"value"));
        for cut in 1..packed.len() {
            let mut headers = HeaderIter::new(&packed[..cut]);
            assert!(headers.next().is_none());
            assert!(!headers.is_done());
        }
    }
}
