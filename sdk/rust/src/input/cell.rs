//! Typed cells: which Rust types can be read from which columns.

use std::borrow::Cow;

use serde::Deserialize;

use super::Mismatch;
use super::table::{Blobs, Symbols, Texts, Words};
use crate::bindings::pelton::plugin::types::{FieldColumn, FieldType};

/// By the Rust type alone.
#[derive(Debug)]
pub enum Plain {}

/// `symbol`: text with few distinct values.
#[derive(Debug)]
pub enum Symbol {}

/// `json` into a text type: the raw JSON text.
#[derive(Debug)]
pub enum RawJson {}

/// `json` into any other type: parsed or written by serde.
#[derive(Debug)]
pub enum Json {}

/// How a cell of a column becomes a `T`. Implemented for the ways `Plain`, `Symbol`, `RawJson` and `Json`.
#[diagnostic::on_unimplemented(
    message = "a plugin cannot read a field as `{T}`",
    label = "not a type of a field",
    note = "fields are &str, String, Cow<str>, bool, i8 to i64, u8 to u64, f32, f64, &[u8], Vec<u8>, or an `Option<…>` \
            of one, written as such",
    note = "#[field(symbol)] goes with text; with #[field(json)] any type that implements `Deserialize` can be read"
)]
pub trait ReadCell<'a, T> {
    /// The type of the column.
    const TYPE: FieldType;
    /// The opened column.
    type Cells;

    /// Opens the column.
    fn open(column: &'a FieldColumn) -> Self::Cells;

    /// Reads one cell that is not null.
    ///
    /// # Errors
    /// Where the cell does not fit.
    fn read(cells: &Self::Cells, row: usize) -> Result<T, Mismatch>;
}

macro_rules! read_text {
    ($way:ty, $field_type:ident, $cells:ident, $($target:ty),*) => {$(
        impl<'a> ReadCell<'a, $target> for $way {
            const TYPE: FieldType = FieldType::$field_type;
            type Cells = $cells<'a>;

            fn open(column: &'a FieldColumn) -> Self::Cells {
                $cells::open(&column.values, &column.data)
            }

            #[inline]
            fn read(cells: &Self::Cells, row: usize) -> Result<$target, Mismatch> {
                Ok(cells.get(row).into())
            }
        }
    )*};
}

read_text!(Plain, Text, Texts, &'a str, String, Cow<'a, str>, Box<str>);
read_text!(Symbol, Symbol, Symbols, &'a str, String, Cow<'a, str>, Box<str>);
read_text!(RawJson, Json, Texts, &'a str, String);
read_text!(Plain, Bytes, Blobs, &'a [u8], Vec<u8>, Cow<'a, [u8]>);

impl<'a, T: Deserialize<'a>> ReadCell<'a, T> for Json {
    const TYPE: FieldType = FieldType::Json;
    type Cells = Texts<'a>;

    fn open(column: &'a FieldColumn) -> Self::Cells {
        Texts::open(&column.values, &column.data)
    }

    fn read(cells: &Self::Cells, row: usize) -> Result<T, Mismatch> {
        serde_json::from_str(cells.get(row)).map_err(|error| Mismatch(error.to_string()))
    }
}

impl<'a> ReadCell<'a, bool> for Plain {
    const TYPE: FieldType = FieldType::Boolean;
    type Cells = &'a [u8];

    fn open(column: &'a FieldColumn) -> Self::Cells {
        &column.values
    }

    #[inline]
    fn read(cells: &Self::Cells, row: usize) -> Result<bool, Mismatch> {
        Ok(*cells.get(row).unwrap_or_else(|| super::table::malformed("a boolean column is too short")) != 0)
    }
}

macro_rules! read_integer {
    ($($target:ty),*) => {$(
        impl<'a> ReadCell<'a, $target> for Plain {
            const TYPE: FieldType = FieldType::S64;
            type Cells = Words<'a>;

            fn open(column: &'a FieldColumn) -> Self::Cells {
                Words::open(&column.values)
            }

            #[inline]
            fn read(cells: &Self::Cells, row: usize) -> Result<$target, Mismatch> {
                let number = cells.s64(row);
                <$target>::try_from(number).map_err(|_| {
                    Mismatch(format!("{number} does not lie in {} to {}", <$target>::MIN, <$target>::MAX))
                })
            }
        }
    )*};
}

read_integer!(i8, i16, i32, i64, u8, u16, u32, u64);

macro_rules! read_float {
    ($($target:ty),*) => {$(
        impl<'a> ReadCell<'a, $target> for Plain {
            const TYPE: FieldType = FieldType::F64;
            type Cells = Words<'a>;

            fn open(column: &'a FieldColumn) -> Self::Cells {
                Words::open(&column.values)
            }

            #[inline]
            #[allow(clippy::cast_possible_truncation, reason = "an f32 is asked for")]
            fn read(cells: &Self::Cells, row: usize) -> Result<$target, Mismatch> {
                Ok(cells.f64(row) as $target)
            }
        }
    )*};
}

read_float!(f32, f64);
