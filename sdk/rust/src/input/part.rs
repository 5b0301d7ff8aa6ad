//! Parts of the record beside its typed fields: key, raw value, headers, offset, timestamp, topic, partition.

use super::record::Headers;
use super::table::{U32s, Words, malformed};
use crate::Failure;
use crate::bindings::pelton::plugin::types::Column;

const NULL: u32 = u32::MAX;

/// Bytes of every record, or null.
#[derive(Debug, Clone, Copy)]
pub struct BytesRows<'a> {
    spans: U32s<'a>,
    data: &'a [u8],
}

impl<'a> BytesRows<'a> {
    pub(super) fn open(column: Option<&'a Column>) -> Self {
        let column = column.unwrap_or_else(|| malformed("a subscribed part is missing"));
        Self { spans: U32s::open(&column.spans), data: &column.data }
    }

    /// The bytes of a row; none where they are null.
    #[must_use]
    pub fn get(&self, row: usize) -> Option<&'a [u8]> {
        let (offset, length) = (self.spans.get(2 * row), self.spans.get(2 * row + 1));
        (length != NULL).then(|| {
            let (start, end) = (offset as usize, offset as usize + length as usize);
            self.data.get(start..end).unwrap_or_else(|| malformed("a span lies outside of its column"))
        })
    }
}

/// All headers of every record.
#[derive(Debug, Clone, Copy)]
pub struct HeaderRows<'a>(BytesRows<'a>);

impl<'a> HeaderRows<'a> {
    pub(super) fn open(column: Option<&'a Column>) -> Self {
        Self(BytesRows::open(column))
    }

    /// The headers of a row.
    #[must_use]
    pub fn get(&self, row: usize) -> Option<Headers<'a>> {
        Some(Headers::new(self.0.get(row).unwrap_or_default()))
    }
}

/// The offset of every record.
#[derive(Debug, Clone, Copy)]
pub struct OffsetRows<'a>(Words<'a>);

impl<'a> OffsetRows<'a> {
    pub(super) fn open(table: &'a [u8]) -> Self {
        Self(Words::open(table))
    }

    /// The offset of a row.
    #[must_use]
    pub fn get(&self, row: usize) -> Option<i64> {
        Some(self.0.s64(row))
    }
}

/// The timestamp of every record.
#[derive(Debug, Clone, Copy)]
pub struct TimestampRows<'a>(Words<'a>);

impl<'a> TimestampRows<'a> {
    pub(super) fn open(table: &'a [u8]) -> Self {
        Self(Words::open(table))
    }

    /// The timestamp of a row in milliseconds; none where the record has none.
    #[must_use]
    pub fn get(&self, row: usize) -> Option<i64> {
        Some(self.0.s64(row)).filter(|&ms| ms >= 0)
    }
}

/// The topic.
#[derive(Debug, Clone, Copy)]
pub struct TopicRows<'a>(pub(super) &'a str);

impl<'a> TopicRows<'a> {
    /// The same for every row.
    #[must_use]
    pub fn get(&self, _: usize) -> Option<&'a str> {
        Some(self.0)
    }
}

/// The partition.
#[derive(Debug, Clone, Copy)]
pub struct PartitionRows(pub(super) u32);

impl PartitionRows {
    /// The same for every row.
    #[must_use]
    pub fn get(&self, _: usize) -> Option<u32> {
        Some(self.0)
    }
}

/// A type that a part of a record can be read as.
#[diagnostic::on_unimplemented(
    message = "a part of the record that is a `{P}` cannot be read as `{Self}`",
    note = "key, value and header are &[u8], Vec<u8>, &str or String; headers is `Headers`; offset and timestamp are i64; \
            topic is &str or String; partition is u32; each may be an `Option<…>`"
)]
pub trait FromPart<P>: Sized {
    /// Converts.
    ///
    /// # Errors
    /// Where the part does not fit; the message says why.
    fn from_part(part: P) -> Result<Self, String>;
}

macro_rules! same {
    ($($part:ty),*) => {$(
        impl<'a> FromPart<$part> for $part {
            fn from_part(part: $part) -> Result<Self, String> {
                Ok(part)
            }
        }
    )*};
}

same!(&'a [u8], &'a str, i64, Headers<'a>);

impl FromPart<u32> for u32 {
    fn from_part(part: u32) -> Result<Self, String> {
        Ok(part)
    }
}

impl FromPart<&[u8]> for Vec<u8> {
    fn from_part(part: &[u8]) -> Result<Self, String> {
        Ok(part.to_vec())
    }
}

impl<'a> FromPart<&'a [u8]> for &'a str {
    fn from_part(part: &'a [u8]) -> Result<Self, String> {
        std::str::from_utf8(part).map_err(|error| format!("not UTF-8 at byte {}", error.valid_up_to()))
    }
}

impl FromPart<&[u8]> for String {
    fn from_part(part: &[u8]) -> Result<Self, String> {
        <&str>::from_part(part).map(str::to_owned)
    }
}

impl FromPart<&str> for String {
    fn from_part(part: &str) -> Result<Self, String> {
        Ok(part.to_owned())
    }
}

/// A part that must be there.
///
/// # Errors
/// Where it is not, or does not fit.
pub fn required<P, T: FromPart<P>>(part: Option<P>, name: &str) -> Result<T, Failure> {
    match part {
        Some(part) => T::from_part(part).map_err(|why| wrong(name, &why)),
        None => Err(Failure::reject(crate::MISSING_FIELD, format!("the record has no {name}"))),
    }
}

/// A part that may be absent.
///
/// # Errors
/// Where it does not fit.
pub fn optional<P, T: FromPart<P>>(part: Option<P>, name: &str) -> Result<Option<T>, Failure> {
    part.map(T::from_part).transpose().map_err(|why| wrong(name, &why))
}

#[cold]
fn wrong(name: &str, why: &str) -> Failure {
    Failure::reject(crate::WRONG_TYPE, format!("{name}: {why}"))
}
