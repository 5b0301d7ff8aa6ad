//! What a plugin reads: from the columns of a batch to one value per record.
//!
//! In: a batch as the host delivers it. Out: for each row, the struct that the author declared. Each column is opened
//! once a batch (its text checked, its dictionary split), and each cell is read without allocation, unless its type owns
//! its content. Never looks at what was not subscribed.

mod cell;
pub mod part;
mod record;
mod table;

pub use cell::{Json, Plain, RawJson, ReadCell, Symbol};
pub use record::{Headers, Record};

use crate::Failure;
use crate::bindings::pelton::plugin::types;
use part::{BytesRows, HeaderRows, OffsetRows, PartitionRows, TimestampRows, TopicRows};

/// Something that can be read from each record of a batch. Derive it with [`Fields`](crate::Fields), or take
/// [`Record`], `()`, or a tuple of such things.
pub trait Input<'a>: Sized {
    /// The opened columns.
    type Rows;

    /// Says what has to cross.
    fn subscribe(subscriber: &mut Subscriber);

    /// Opens the columns, in the order in which they were subscribed.
    fn open(batch: &mut BatchReader<'a>) -> Self::Rows;

    /// Reads one row.
    ///
    /// # Errors
    /// Where a cell does not fit its type; the record is rejected.
    fn read(rows: &Self::Rows, row: usize) -> Result<Self, Failure>;
}

impl<'a> Input<'a> for () {
    type Rows = ();

    fn subscribe(_: &mut Subscriber) {}

    fn open(_: &mut BatchReader<'a>) -> Self::Rows {}

    fn read((): &Self::Rows, _: usize) -> Result<Self, Failure> {
        Ok(())
    }
}

impl<'a, A: Input<'a>, B: Input<'a>> Input<'a> for (A, B) {
    type Rows = (A::Rows, B::Rows);

    fn subscribe(subscriber: &mut Subscriber) {
        A::subscribe(subscriber);
        B::subscribe(subscriber);
    }

    fn open(batch: &mut BatchReader<'a>) -> Self::Rows {
        (A::open(batch), B::open(batch))
    }

    fn read((a, b): &Self::Rows, row: usize) -> Result<Self, Failure> {
        Ok((A::read(a, row)?, B::read(b, row)?))
    }
}

impl<'a, A: Input<'a>, B: Input<'a>, C: Input<'a>> Input<'a> for (A, B, C) {
    type Rows = (A::Rows, B::Rows, C::Rows);

    fn subscribe(subscriber: &mut Subscriber) {
        A::subscribe(subscriber);
        B::subscribe(subscriber);
        C::subscribe(subscriber);
    }

    fn open(batch: &mut BatchReader<'a>) -> Self::Rows {
        (A::open(batch), B::open(batch), C::open(batch))
    }

    fn read((a, b, c): &Self::Rows, row: usize) -> Result<Self, Failure> {
        Ok((A::read(a, row)?, B::read(b, row)?, C::read(c, row)?))
    }
}

/// The type of a typed field on its way across the boundary.
pub use types::FieldType;

/// Collects what a plugin reads and sets.
#[derive(Debug)]
pub struct Subscriber {
    subscription: types::Subscription,
}

impl Subscriber {
    pub(crate) fn new(outputs: &[&str]) -> Self {
        Self {
            subscription: types::Subscription {
                fields: types::Fields::empty(),
                headers: Vec::new(),
                routes: outputs.iter().map(|&name| name.to_owned()).collect(),
                value_fields: Vec::new(),
                set_fields: Vec::new(),
            },
        }
    }

    pub(crate) fn finish(self) -> types::Subscription {
        self.subscription
    }

    /// A typed field. Where it is missing it is null if `optional`, else the record is rejected; where it does not fit,
    /// the same holds for `mismatch_null`.
    pub fn field(&mut self, path: &[&str], field_type: FieldType, optional: bool, mismatch_null: bool) {
        let policy = |null: bool| if null { types::Policy::Null } else { types::Policy::Reject };
        self.subscription.value_fields.push(types::Field {
            path: owned(path),
            type_: field_type,
            on_missing: policy(optional),
            on_mismatch: policy(mismatch_null),
        });
    }

    /// A typed field that is set.
    pub fn output(&mut self, path: &[&str], field_type: FieldType) {
        self.subscription.set_fields.push(types::OutputField { path: owned(path), type_: field_type });
    }

    /// The raw key.
    pub fn key(&mut self) {
        self.subscription.fields |= types::Fields::KEY;
    }

    /// The raw value.
    pub fn value(&mut self) {
        self.subscription.fields |= types::Fields::VALUE;
    }

    /// One header.
    pub fn header(&mut self, name: &str) {
        self.subscription.headers.push(name.to_owned());
    }

    /// All headers.
    pub fn all_headers(&mut self) {
        self.subscription.fields |= types::Fields::ALL_HEADERS;
    }

    /// The offset.
    pub fn offset(&mut self) {
        self.subscription.fields |= types::Fields::OFFSET;
    }

    /// The timestamp.
    pub fn timestamp(&mut self) {
        self.subscription.fields |= types::Fields::TIMESTAMP;
    }
}

fn owned(path: &[&str]) -> Vec<String> {
    path.iter().map(|&segment| segment.to_owned()).collect()
}

/// A batch, whose columns are opened one after the other, in the order in which they were subscribed.
#[derive(Debug)]
pub struct BatchReader<'a> {
    batch: &'a types::Batch,
    fields: std::slice::Iter<'a, types::FieldColumn>,
    headers: std::slice::Iter<'a, types::Column>,
}

impl<'a> BatchReader<'a> {
    pub(crate) fn new(batch: &'a types::Batch) -> Self {
        Self { batch, fields: batch.value_fields.iter(), headers: batch.headers.iter() }
    }

    fn next_field(&mut self) -> &'a types::FieldColumn {
        self.fields.next().unwrap_or_else(|| table::malformed("a typed column is missing"))
    }

    /// Keys.
    pub fn keys(&self) -> BytesRows<'a> {
        BytesRows::open(self.batch.keys.as_ref())
    }

    /// Raw values.
    pub fn values(&self) -> BytesRows<'a> {
        BytesRows::open(self.batch.values.as_ref())
    }

    /// The next of the headers by name.
    pub fn header(&mut self) -> BytesRows<'a> {
        BytesRows::open(self.headers.next())
    }

    /// All headers.
    pub fn all_headers(&self) -> HeaderRows<'a> {
        HeaderRows::open(self.batch.all_headers.as_ref())
    }

    /// Offsets.
    pub fn offsets(&self) -> OffsetRows<'a> {
        OffsetRows::open(&self.batch.offsets)
    }

    /// Timestamps.
    pub fn timestamps(&self) -> TimestampRows<'a> {
        TimestampRows::open(&self.batch.timestamps)
    }

    /// The topic.
    pub fn topic(&self) -> TopicRows<'a> {
        TopicRows(&self.batch.source.topic)
    }

    /// The partition.
    pub fn partition(&self) -> PartitionRows {
        PartitionRows(self.batch.source.partition)
    }
}

/// An opened typed column, and which of its rows are null.
#[derive(Debug)]
pub struct FieldRows<'a, C> {
    validity: &'a [u8],
    cells: C,
}

impl<'a, C> FieldRows<'a, C> {
    /// Opens the next typed column.
    pub fn open(batch: &mut BatchReader<'a>, open: impl FnOnce(&'a types::FieldColumn) -> C) -> Self {
        let column = batch.next_field();
        Self { validity: &column.validity, cells: open(column) }
    }

    fn is_null(&self, row: usize) -> bool {
        !self.validity.is_empty() && self.validity.get(row / 8).is_none_or(|byte| byte >> (row % 8) & 1 == 0)
    }

    /// A cell of a field that is never null, since the host rejects records without it.
    ///
    /// # Errors
    /// Where the cell does not fit its Rust type.
    #[inline]
    pub fn required<T>(
        &self,
        row: usize,
        read: impl FnOnce(&C) -> Result<T, Mismatch>,
        path: &str,
    ) -> Result<T, Failure> {
        if self.is_null(row) {
            return Err(missing(path));
        }
        read(&self.cells).map_err(|mismatch| mismatch.reject(path))
    }

    /// A cell that may be null.
    ///
    /// # Errors
    /// Where the cell does not fit its Rust type.
    #[inline]
    pub fn optional<T>(
        &self,
        row: usize,
        read: impl FnOnce(&C) -> Result<T, Mismatch>,
        path: &str,
    ) -> Result<Option<T>, Failure> {
        if self.is_null(row) {
            return Ok(None);
        }
        read(&self.cells).map(Some).map_err(|mismatch| mismatch.reject(path))
    }

    /// A cell that may be null, and is where it does not fit its Rust type.
    #[inline]
    pub fn lenient<T>(&self, row: usize, read: impl FnOnce(&C) -> Result<T, Mismatch>) -> Option<T> {
        if self.is_null(row) { None } else { read(&self.cells).ok() }
    }
}

/// A cell that does not fit its Rust type, and why.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mismatch(pub(crate) String);

impl Mismatch {
    #[cold]
    fn reject(self, path: &str) -> Failure {
        Failure::reject(crate::WRONG_TYPE, format!("field {path}: {}", self.0))
    }
}

#[cold]
fn missing(path: &str) -> Failure {
    Failure::reject(crate::MISSING_FIELD, format!("field {path} is missing or null"))
}
