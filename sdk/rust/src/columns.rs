//! What a plugin sets: from one struct per row to the columns of the output.
//!
//! In: rows, in output order. Out: for each field of the struct one packed column with exactly one cell a row, as
//! `set-column` in `wit/types.wit` asks. A column in which every row sets the value carries no states.

use std::borrow::Cow;
use std::collections::HashMap;

use serde::Serialize;

use crate::input::{FieldType, Json, Plain, RawJson, Subscriber, Symbol};

pub use crate::bindings::pelton::plugin::types::SetColumn;

/// Something that sets fields of a row. Derive it with [`Columns`](derive@crate::Columns); `()` sets none.
#[diagnostic::on_unimplemented(
    message = "`{Self}` cannot be the output of a plugin",
    note = "write #[derive(Columns)] above its struct; `()` sets nothing"
)]
pub trait Columns {
    /// The columns under way.
    type Writer;

    /// Says what is set.
    fn subscribe(subscriber: &mut Subscriber);

    /// Empty columns with room for some rows.
    fn writer(rows: usize) -> Self::Writer;

    /// Appends a row.
    fn push(&self, writer: &mut Self::Writer);

    /// Appends a row that sets nothing.
    fn push_nothing(writer: &mut Self::Writer);

    /// The columns, in the order in which they were subscribed.
    fn finish(writer: Self::Writer) -> Vec<SetColumn>;
}

impl Columns for () {
    type Writer = ();

    fn subscribe(_: &mut Subscriber) {}

    fn writer(_: usize) -> Self::Writer {}

    fn push(&self, (): &mut Self::Writer) {}

    fn push_nothing((): &mut Self::Writer) {}

    fn finish((): Self::Writer) -> Vec<SetColumn> {
        Vec::new()
    }
}

/// What to do with one field of one row.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Set<T> {
    /// Leave it as it is. In a table the cell stays unset.
    #[default]
    Leave,
    /// Give it this value.
    Value(T),
    /// Make it null. In a table the cell is deleted.
    Null,
    /// Take it out of the value. In a table the cell is deleted.
    Remove,
}

impl<T> Set<T> {
    /// The value, or null where there is none.
    pub fn or_null(value: Option<T>) -> Self {
        value.map_or(Self::Null, Self::Value)
    }

    /// The value, or leave the field where there is none.
    pub fn or_leave(value: Option<T>) -> Self {
        value.map_or(Self::Leave, Self::Value)
    }

    /// The value, or remove the field where there is none.
    pub fn or_remove(value: Option<T>) -> Self {
        value.map_or(Self::Remove, Self::Value)
    }
}

impl<T> From<T> for Set<T> {
    fn from(value: T) -> Self {
        Self::Value(value)
    }
}

const LEAVE: u8 = 0;
const VALUE: u8 = 1;
const NULL: u8 = 2;
const REMOVE: u8 = 3;

/// One column under way.
#[derive(Debug)]
pub struct Writer<C> {
    /// Empty while every row has set the value.
    state: Vec<u8>,
    rows: usize,
    cells: C,
}

impl<C: Cells> Writer<C> {
    /// An empty column with room for some rows.
    #[must_use]
    pub fn with_capacity(rows: usize) -> Self {
        Self { state: Vec::new(), rows: 0, cells: C::with_capacity(rows) }
    }

    /// Sets the value: `write` appends one cell.
    #[inline]
    pub fn set(&mut self, write: impl FnOnce(&mut C)) {
        write(&mut self.cells);
        if !self.state.is_empty() {
            self.state.push(VALUE);
        }
        self.rows += 1;
    }

    /// Leaves the field of this row as it is.
    pub fn leave(&mut self) {
        self.blank(LEAVE);
    }

    /// Sets null.
    pub fn null(&mut self) {
        self.blank(NULL);
    }

    /// Removes the field.
    pub fn remove(&mut self) {
        self.blank(REMOVE);
    }

    fn blank(&mut self, state: u8) {
        if self.state.is_empty() {
            self.state.reserve(self.rows + 1);
            self.state.resize(self.rows, VALUE);
        }
        self.state.push(state);
        self.cells.push_blank();
        self.rows += 1;
    }

    /// The packed column.
    pub fn finish(self) -> SetColumn {
        let (values, data) = self.cells.finish();
        SetColumn { state: self.state, values, data }
    }
}

/// The cells of one column under way.
pub trait Cells {
    /// No cells, room for some.
    fn with_capacity(rows: usize) -> Self;
    /// A cell of a row that sets no value.
    fn push_blank(&mut self);
    /// The tables `values` and `data`.
    fn finish(self) -> (Vec<u8>, Vec<u8>);
}

/// Booleans.
#[derive(Debug)]
pub struct Bytes1(Vec<u8>);

impl Cells for Bytes1 {
    fn with_capacity(rows: usize) -> Self {
        Self(Vec::with_capacity(rows))
    }

    fn push_blank(&mut self) {
        self.0.push(0);
    }

    fn finish(self) -> (Vec<u8>, Vec<u8>) {
        (self.0, Vec::new())
    }
}

/// Numbers of eight bytes.
#[derive(Debug)]
pub struct Bytes8(Vec<u8>);

impl Cells for Bytes8 {
    fn with_capacity(rows: usize) -> Self {
        Self(Vec::with_capacity(8 * rows))
    }

    fn push_blank(&mut self) {
        self.0.extend_from_slice(&[0; 8]);
    }

    fn finish(self) -> (Vec<u8>, Vec<u8>) {
        (self.0, Vec::new())
    }
}

/// Text, bytes and JSON.
#[derive(Debug)]
pub struct Spans {
    offsets: Vec<u8>,
    data: Vec<u8>,
}

impl Spans {
    #[inline]
    fn push(&mut self, bytes: &[u8]) {
        self.data.extend_from_slice(bytes);
        self.end_cell();
    }

    #[inline]
    fn end_cell(&mut self) {
        self.offsets.extend_from_slice(&offset(self.data.len()));
    }
}

impl Cells for Spans {
    fn with_capacity(rows: usize) -> Self {
        let mut offsets = Vec::with_capacity(4 * (rows + 1));
        offsets.extend_from_slice(&offset(0));
        Self { offsets, data: Vec::with_capacity(16 * rows) }
    }

    fn push_blank(&mut self) {
        self.end_cell();
    }

    fn finish(self) -> (Vec<u8>, Vec<u8>) {
        (self.offsets, self.data)
    }
}

/// Text with few distinct values.
#[derive(Debug)]
pub struct Dictionary {
    indexes: Vec<u8>,
    /// End of each entry in `bytes`.
    ends: Vec<u32>,
    bytes: Vec<u8>,
    /// Only once there are more entries than are quickly looked through.
    index_of: HashMap<Box<str>, u32>,
}

/// Below so many entries looking through is quicker than hashing.
const FEW: usize = 16;

impl Dictionary {
    fn push(&mut self, text: &str) {
        let index = self.find(text).unwrap_or_else(|| self.insert(text));
        self.indexes.extend_from_slice(&index.to_le_bytes());
    }

    fn find(&self, text: &str) -> Option<u32> {
        if self.ends.len() > FEW {
            return self.index_of.get(text).copied();
        }
        let mut start = 0;
        for (index, &end) in (0..).zip(&self.ends) {
            if self.bytes.get(start..end as usize) == Some(text.as_bytes()) {
                return Some(index);
            }
            start = end as usize;
        }
        None
    }

    fn insert(&mut self, text: &str) -> u32 {
        let index = u32::from_le_bytes(offset(self.ends.len()));
        self.bytes.extend_from_slice(text.as_bytes());
        self.ends.push(u32::from_le_bytes(offset(self.bytes.len())));
        if self.ends.len() == FEW + 1 {
            let mut start = 0;
            for (entry, &end) in (0..).zip(&self.ends) {
                let bytes = self.bytes.get(start..end as usize).unwrap_or_default();
                self.index_of.insert(String::from_utf8_lossy(bytes).into(), entry);
                start = end as usize;
            }
        } else if self.ends.len() > FEW {
            self.index_of.insert(text.into(), index);
        }
        index
    }
}

impl Cells for Dictionary {
    fn with_capacity(rows: usize) -> Self {
        Self { indexes: Vec::with_capacity(4 * rows), ends: Vec::new(), bytes: Vec::new(), index_of: HashMap::new() }
    }

    fn push_blank(&mut self) {
        self.indexes.extend_from_slice(&offset(0));
    }

    fn finish(self) -> (Vec<u8>, Vec<u8>) {
        let mut data = Vec::with_capacity(4 * (self.ends.len() + 2) + self.bytes.len());
        data.extend_from_slice(&offset(self.ends.len()));
        data.extend_from_slice(&offset(0));
        for end in self.ends {
            data.extend_from_slice(&end.to_le_bytes());
        }
        data.extend_from_slice(&self.bytes);
        (self.indexes, data)
    }
}

fn offset(length: usize) -> [u8; 4] {
    u32::try_from(length).expect("a batch's output is capped far below 4 GiB").to_le_bytes()
}

/// How a `T` becomes a cell of a column. Implemented for the ways `Plain`, `Symbol`, `RawJson` and `Json`.
#[diagnostic::on_unimplemented(
    message = "a plugin cannot set a field from `{T}`",
    label = "not a type of a column",
    note = "columns are &str, String, Cow<str>, bool, i8 to i64, u8 to u32, f32, f64, &[u8], Vec<u8>, or an `Option<…>` \
            or `Set<…>` of one, written as such",
    note = "#[column(symbol)] goes with text; with #[column(json)] any type that implements `Serialize` can be set"
)]
pub trait WriteCell<T> {
    /// The type of the column.
    const TYPE: FieldType;
    /// Its cells.
    type Cells: Cells;

    /// Appends a cell.
    fn write(cells: &mut Self::Cells, value: &T);
}

macro_rules! write_text {
    ($way:ty, $field_type:ident, $cells:ident, $convert:ident, $($source:ty),*) => {$(
        impl<'a> WriteCell<$source> for $way {
            const TYPE: FieldType = FieldType::$field_type;
            type Cells = $cells;

            #[inline]
            fn write(cells: &mut $cells, value: &$source) {
                cells.push(value.$convert());
            }
        }
    )*};
}

trait AsText {
    fn text(&self) -> &str;
    fn text_bytes(&self) -> &[u8] {
        self.text().as_bytes()
    }
}

impl<T: AsRef<str> + ?Sized> AsText for T {
    fn text(&self) -> &str {
        self.as_ref()
    }
}

write_text!(Plain, Text, Spans, text_bytes, &'a str, String, Cow<'a, str>, Box<str>);
write_text!(Symbol, Symbol, Dictionary, text, &'a str, String, Cow<'a, str>, Box<str>);
write_text!(RawJson, Json, Spans, text_bytes, &'a str, String);
write_text!(Plain, Bytes, Spans, as_ref, &'a [u8], Vec<u8>, Cow<'a, [u8]>);

impl<T: Serialize> WriteCell<T> for Json {
    const TYPE: FieldType = FieldType::Json;
    type Cells = Spans;

    #[expect(clippy::panic, reason = "a type that serde cannot write is a mistake of the plugin's, not of a record's")]
    fn write(cells: &mut Spans, value: &T) {
        if let Err(error) = serde_json::to_writer(&mut cells.data, value) {
            panic!("a column cannot be written as JSON: {error}");
        }
        cells.end_cell();
    }
}

impl WriteCell<bool> for Plain {
    const TYPE: FieldType = FieldType::Boolean;
    type Cells = Bytes1;

    #[inline]
    fn write(cells: &mut Bytes1, value: &bool) {
        cells.0.push(u8::from(*value));
    }
}

macro_rules! write_number {
    ($field_type:ident, $wide:ty, $($source:ty),*) => {$(
        impl WriteCell<$source> for Plain {
            const TYPE: FieldType = FieldType::$field_type;
            type Cells = Bytes8;

            #[inline]
            fn write(cells: &mut Bytes8, value: &$source) {
                cells.0.extend_from_slice(&<$wide>::from(*value).to_le_bytes());
            }
        }
    )*};
}

write_number!(S64, i64, i8, i16, i32, i64, u8, u16, u32);
write_number!(F64, f64, f32, f64);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_column_that_is_always_set_has_no_states() {
        let mut writer = Writer::<Spans>::with_capacity(2);
        writer.set(|cells| cells.push(b"ab"));
        writer.set(|cells| cells.push(b""));
        let column = writer.finish();
        assert_eq!((column.state, column.data), (vec![], b"ab".to_vec()));
        assert_eq!(column.values, [0, 0, 0, 0, 2, 0, 0, 0, 2, 0, 0, 0]);
    }

    #[test]
    fn states_begin_with_the_first_row_that_sets_nothing() {
        let mut writer = Writer::<Bytes8>::with_capacity(4);
        writer.set(|cells| Plain::write(cells, &1_i64));
        writer.null();
        writer.leave();
        writer.remove();
        let column = writer.finish();
        assert_eq!(column.state, [VALUE, NULL, LEAVE, REMOVE]);
        assert_eq!(column.values.len(), 32);
    }

    #[test]
    fn a_dictionary_keeps_each_text_once_however_many_there_are() {
        let texts: Vec<String> = (0..100).map(|number| format!("t{}", number % 40)).collect();
        let mut cells = Dictionary::with_capacity(texts.len());
        for text in &texts {
            cells.push(text);
        }
        let (indexes, data) = cells.finish();
        assert_eq!(data[..4], 40_u32.to_le_bytes());
        let expected: Vec<u8> = (0..100_u32).flat_map(|number| (number % 40).to_le_bytes()).collect();
        assert_eq!(indexes, expected);
    }
}
