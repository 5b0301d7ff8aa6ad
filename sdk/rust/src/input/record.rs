//! The whole record, for plugins that want more than typed fields.

use serde::Deserialize;

use super::part::{BytesRows, FromPart, HeaderRows, OffsetRows, PartitionRows, TimestampRows, TopicRows};
use super::{BatchReader, Input, Subscriber};
use crate::Failure;

/// A whole record. As an input it subscribes everything; where single parts are enough, name them in a struct with
/// [`Fields`](crate::Fields) (`#[field(key)]`, `#[field(value)]`, …), and only they cross.
#[derive(Debug, Clone, Copy)]
pub struct Record<'a> {
    /// The key; none where it is null.
    pub key: Option<&'a [u8]>,
    /// The value; none for a tombstone.
    pub value: Option<&'a [u8]>,
    /// The headers.
    pub headers: Headers<'a>,
    /// Milliseconds since 1970-01-01T00:00:00Z, where the record has a timestamp.
    pub timestamp_ms: Option<i64>,
    /// Its place in the partition.
    pub offset: i64,
    /// Its topic.
    pub topic: &'a str,
    /// Its partition.
    pub partition: u32,
}

impl<'a> Record<'a> {
    /// The value as text.
    ///
    /// # Errors
    /// Where it is null or not UTF-8.
    pub fn text(&self) -> Result<&'a str, Failure> {
        super::part::required(self.value, "value")
    }

    /// The key as text.
    ///
    /// # Errors
    /// Where it is null or not UTF-8.
    pub fn key_text(&self) -> Result<&'a str, Failure> {
        super::part::required(self.key, "key")
    }

    /// The value, parsed as JSON.
    ///
    /// # Errors
    /// Where it is null, no JSON, or does not fit.
    pub fn json<T: Deserialize<'a>>(&self) -> Result<T, Failure> {
        let value: &[u8] = super::part::required(self.value, "value")?;
        serde_json::from_slice(value).map_err(|error| {
            let code = if error.is_data() { crate::WRONG_TYPE } else { crate::MALFORMED_JSON };
            Failure::reject(code, error.to_string())
        })
    }
}

/// The opened columns of [`Record`].
#[derive(Debug)]
pub struct RecordRows<'a> {
    keys: BytesRows<'a>,
    values: BytesRows<'a>,
    headers: HeaderRows<'a>,
    timestamps: TimestampRows<'a>,
    offsets: OffsetRows<'a>,
    topic: TopicRows<'a>,
    partition: PartitionRows,
}

impl<'a> Input<'a> for Record<'a> {
    type Rows = RecordRows<'a>;

    fn subscribe(subscriber: &mut Subscriber) {
        subscriber.key();
        subscriber.value();
        subscriber.all_headers();
        subscriber.timestamp();
        subscriber.offset();
    }

    fn open(batch: &mut BatchReader<'a>) -> Self::Rows {
        RecordRows {
            keys: batch.keys(),
            values: batch.values(),
            headers: batch.all_headers(),
            timestamps: batch.timestamps(),
            offsets: batch.offsets(),
            topic: batch.topic(),
            partition: batch.partition(),
        }
    }

    fn read(rows: &Self::Rows, row: usize) -> Result<Self, Failure> {
        Ok(Self {
            key: rows.keys.get(row),
            value: rows.values.get(row),
            headers: rows.headers.get(row).unwrap_or_default(),
            timestamp_ms: rows.timestamps.get(row),
            offset: rows.offsets.get(row).unwrap_or_default(),
            topic: rows.topic.get(row).unwrap_or_default(),
            partition: rows.partition.get(row).unwrap_or_default(),
        })
    }
}

/// The headers of a record, in order; a name may come several times, and a value may be null.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Headers<'a> {
    packed: &'a [u8],
}

impl<'a> Headers<'a> {
    pub(crate) fn new(packed: &'a [u8]) -> Self {
        Self { packed }
    }

    /// The value of the last header of a name; none where there is none, or its value is null.
    #[must_use]
    pub fn get(&self, name: &str) -> Option<&'a [u8]> {
        self.filter(|(found, _)| *found == name).last().and_then(|(_, value)| value)
    }

    /// As [`Headers::get`], as text; none also where it is not UTF-8.
    #[must_use]
    pub fn text(&self, name: &str) -> Option<&'a str> {
        self.get(name).and_then(|value| <&str>::from_part(value).ok())
    }

    fn take(&mut self, length: usize) -> Option<&'a [u8]> {
        let (taken, rest) = self.packed.split_at_checked(length)?;
        self.packed = rest;
        Some(taken)
    }

    fn take_length(&mut self) -> Option<u32> {
        self.take(4)?.try_into().ok().map(u32::from_le_bytes)
    }
}

impl<'a> Iterator for Headers<'a> {
    type Item = (&'a str, Option<&'a [u8]>);

    fn next(&mut self) -> Option<Self::Item> {
        let length = self.take_length()?;
        let name = std::str::from_utf8(self.take(length as usize)?).ok()?;
        let value = match self.take_length()? {
            u32::MAX => None,
            length => Some(self.take(length as usize)?),
        };
        Some((name, value))
    }
}
