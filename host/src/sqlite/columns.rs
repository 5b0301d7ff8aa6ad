//! Types of columns: which values fit, how they are stored, and which of two is the larger.

use std::cmp::Ordering;

use chrono::{DateTime, SecondsFormat};
use rusqlite::types::{ToSql, ToSqlOutput, ValueRef};
use serde::de::IgnoredAny;

use crate::record::{FieldType, Value};

/// The type of a column of an embedded table.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ColumnType {
    /// Text.
    Text,
    /// A whole number of 64 bits.
    Integer,
    /// A number; not NaN, which SQLite cannot hold.
    Real,
    /// true or false, stored as 1 and 0.
    Boolean,
    /// Bytes; from text as `0x` and hexadecimal digits.
    Blob,
    /// Any JSON, stored as its text.
    Json,
    /// A time: milliseconds since 1970 or RFC 3339 text, in the years 0 to 9999.
    Timestamp,
}

impl ColumnType {
    const ALL: [(&'static str, Self); 7] = [
        ("text", Self::Text),
        ("integer", Self::Integer),
        ("real", Self::Real),
        ("boolean", Self::Boolean),
        ("blob", Self::Blob),
        ("json", Self::Json),
        ("timestamp", Self::Timestamp),
    ];

    /// The type of that name.
    #[must_use]
    pub fn by_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|(known, _)| *known == name).map(|(_, column_type)| column_type)
    }

    /// Its name in `create:`.
    #[must_use]
    pub fn name(self) -> &'static str {
        Self::ALL.into_iter().find(|(_, known)| *known == self).map_or("", |(name, _)| name)
    }

    /// All names, for messages.
    #[must_use]
    pub fn names() -> String {
        Self::ALL.map(|(name, _)| name).join(", ")
    }

    /// Whether some value of a field's type fits.
    #[must_use]
    pub fn takes(self, field: FieldType) -> bool {
        match self {
            Self::Text => matches!(field, FieldType::Text | FieldType::Symbol),
            Self::Integer => matches!(field, FieldType::S64),
            Self::Boolean => matches!(field, FieldType::Boolean),
            Self::Real => matches!(field, FieldType::S64 | FieldType::F64 | FieldType::Json),
            Self::Blob => matches!(field, FieldType::Bytes | FieldType::Text | FieldType::Symbol),
            Self::Timestamp => matches!(field, FieldType::S64 | FieldType::Text | FieldType::Symbol),
            Self::Json => field != FieldType::Bytes,
        }
    }

    /// A number, true or false as text says them; none for other types, and for other texts.
    pub(super) fn read(self, text: &str) -> Option<Stored> {
        let value = match self {
            Self::Integer | Self::Timestamp => Value::S64(text.parse().ok()?),
            Self::Real => Value::F64(text.parse().ok()?),
            Self::Boolean => Value::Boolean(text.parse().ok()?),
            Self::Text | Self::Blob | Self::Json => return None,
        };
        self.store(value).ok()
    }

    /// SQLite's own type for the storage.
    pub(super) fn sql(self) -> &'static str {
        match self {
            Self::Text | Self::Json => "TEXT",
            Self::Integer | Self::Boolean | Self::Timestamp => "INTEGER",
            Self::Real => "REAL",
            Self::Blob => "BLOB",
        }
    }

    /// The value as this column stores it.
    ///
    /// # Errors
    /// What was found and what is wanted, where it does not fit.
    pub(super) fn store(self, value: Value<'_>) -> Result<Stored, String> {
        let unfit = || Err(format!("{} is no {}", excerpt(value), self.name()));
        match (self, value) {
            (Self::Text, Value::Text(text)) => Ok(Stored::Text(text.to_owned())),
            (Self::Integer, Value::S64(number)) => Ok(Stored::Integer(number)),
            (Self::Boolean, Value::Boolean(flag)) => Ok(Stored::Integer(i64::from(flag))),
            // Beyond 2^53 the column could not hold the number itself; the JSON number below says the same.
            (Self::Real, Value::S64(number)) => Ok(Stored::Real(number as f64)),
            (Self::Real, Value::F64(number)) if !number.is_nan() => Ok(Stored::Real(positive_zero(number))),
            (Self::Real, Value::Json(text)) => match text.parse::<f64>() {
                Ok(number) if number.is_finite() => Ok(Stored::Real(positive_zero(number))),
                _ => unfit(),
            },
            (Self::Blob, Value::Bytes(bytes)) => Ok(Stored::Blob(bytes.to_vec())),
            (Self::Blob, Value::Text(text)) => match text.strip_prefix("0x").map(hex::decode) {
                Some(Ok(bytes)) => Ok(Stored::Blob(bytes)),
                _ => unfit(),
            },
            (Self::Json, value) => json_text(value).map_or_else(unfit, |text| Ok(Stored::Text(text))),
            (Self::Timestamp, Value::S64(ms)) if in_range(ms) => Ok(Stored::Integer(ms)),
            (Self::Timestamp, Value::Text(text)) => match DateTime::parse_from_rfc3339(text) {
                Ok(time) if in_range(time.timestamp_millis()) => Ok(Stored::Integer(time.timestamp_millis())),
                _ => unfit(),
            },
            _ => unfit(),
        }
    }
}

/// 0000-01-01 to 9999-12-31: what ISO 8601 text and SQLite's own functions can say.
fn in_range(ms: i64) -> bool {
    (-62_167_219_200_000..=253_402_300_799_999).contains(&ms)
}

/// SQLite does not keep the sign of zero; neither do we, before anything is compared.
fn positive_zero(number: f64) -> f64 {
    if number == 0.0 { 0.0 } else { number }
}

fn json_text(value: Value<'_>) -> Option<String> {
    match value {
        Value::Json(text) => serde_json::from_str::<IgnoredAny>(text).is_ok().then(|| text.to_owned()),
        Value::Text(text) => serde_json::to_string(text).ok(),
        Value::Boolean(flag) => Some(flag.to_string()),
        Value::S64(number) => Some(number.to_string()),
        Value::F64(number) => serde_json::Number::from_f64(number).map(|number| number.to_string()),
        Value::Bytes(_) => None,
    }
}

/// What was found, for a message: its kind, and at most the first 40 characters.
fn excerpt(value: Value<'_>) -> String {
    let cut = |text: &str| match text.char_indices().nth(40) {
        None => text.to_owned(),
        Some((end, _)) => format!("{}…", &text[..end]),
    };
    match value {
        Value::Boolean(flag) => format!("{flag}"),
        Value::S64(number) => format!("{number}"),
        Value::F64(number) => format!("{number}"),
        Value::Text(text) => format!("the text {:?}", cut(text)),
        Value::Bytes(bytes) => format!("a value of {} bytes", bytes.len()),
        Value::Json(text) => format!("the JSON {}", cut(text)),
    }
}

/// A value as the storage holds it.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Stored {
    Integer(i64),
    Real(f64),
    Text(String),
    Blob(Vec<u8>),
}

impl Stored {
    /// A column of the storage.
    pub(super) fn read(value: ValueRef<'_>) -> Option<Self> {
        match value {
            ValueRef::Null => None,
            ValueRef::Integer(number) => Some(Self::Integer(number)),
            ValueRef::Real(number) => Some(Self::Real(number)),
            ValueRef::Text(text) => Some(Self::Text(String::from_utf8_lossy(text).into_owned())),
            ValueRef::Blob(bytes) => Some(Self::Blob(bytes.to_vec())),
        }
    }

    /// The order that decides ties: as Cassandra compares what it has serialised.
    pub(super) fn order(&self, other: &Self) -> Ordering {
        match (self, other) {
            (Self::Integer(one), Self::Integer(two)) => one.cast_unsigned().cmp(&two.cast_unsigned()),
            (Self::Real(one), Self::Real(two)) => one.to_bits().cmp(&two.to_bits()),
            _ => self.bytes().cmp(other.bytes()),
        }
    }

    fn bytes(&self) -> &[u8] {
        match self {
            Self::Text(text) => text.as_bytes(),
            Self::Blob(bytes) => bytes,
            Self::Integer(_) | Self::Real(_) => &[],
        }
    }

    /// Size, roughly.
    pub(super) fn size(&self) -> usize {
        match self {
            Self::Integer(_) | Self::Real(_) => 8,
            Self::Text(_) | Self::Blob(_) => self.bytes().len(),
        }
    }

    /// What tells one key from another.
    pub(super) fn key_bytes(&self, key: &mut Vec<u8>) {
        match self {
            Self::Integer(number) => key.extend(number.to_le_bytes()),
            Self::Real(number) => key.extend(number.to_bits().to_le_bytes()),
            Self::Text(_) | Self::Blob(_) => {
                key.extend((self.bytes().len() as u64).to_le_bytes());
                key.extend_from_slice(self.bytes());
            }
        }
    }

    /// For a reader: as the view shows it, but JSON and booleans as themselves.
    pub(super) fn to_json(&self, column_type: ColumnType) -> serde_json::Value {
        match (self, column_type) {
            (Self::Integer(number), ColumnType::Boolean) => (*number != 0).into(),
            (Self::Integer(ms), ColumnType::Timestamp) => DateTime::from_timestamp_millis(*ms)
                .map_or(serde_json::Value::Null, |time| time.to_rfc3339_opts(SecondsFormat::Millis, true).into()),
            (Self::Integer(number), _) => (*number).into(),
            (Self::Real(number), _) => (*number).into(),
            (Self::Text(text), ColumnType::Json) => {
                serde_json::from_str(text).unwrap_or_else(|_| serde_json::Value::String(text.clone()))
            }
            (Self::Text(text), _) => text.clone().into(),
            (Self::Blob(bytes), _) => format!("0x{}", hex::encode(bytes)).into(),
        }
    }
}

impl ToSql for Stored {
    fn to_sql(&self) -> rusqlite::Result<ToSqlOutput<'_>> {
        Ok(ToSqlOutput::Borrowed(match self {
            Self::Integer(number) => ValueRef::Integer(*number),
            Self::Real(number) => ValueRef::Real(*number),
            Self::Text(text) => ValueRef::Text(text.as_bytes()),
            Self::Blob(bytes) => ValueRef::Blob(bytes),
        }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_fit_their_types_or_say_why_not() {
        let cases = [
            (ColumnType::Text, Value::Text("ü"), Ok(Stored::Text("ü".into()))),
            (ColumnType::Text, Value::S64(7), Err("7 is no text")),
            (ColumnType::Integer, Value::S64(-7), Ok(Stored::Integer(-7))),
            (ColumnType::Integer, Value::Text("7"), Err("the text \"7\" is no integer")),
            (
                ColumnType::Integer,
                Value::Json("9223372036854775808"),
                Err("the JSON 9223372036854775808 is no integer"),
            ),
            (ColumnType::Real, Value::S64(2), Ok(Stored::Real(2.0))),
            (ColumnType::Real, Value::Json("1e300"), Ok(Stored::Real(1e300))),
            (ColumnType::Real, Value::Json("1e999"), Err("the JSON 1e999 is no real")),
            (ColumnType::Real, Value::F64(f64::NAN), Err("NaN is no real")),
            (ColumnType::Boolean, Value::Boolean(true), Ok(Stored::Integer(1))),
            (ColumnType::Blob, Value::Text("0x00ff"), Ok(Stored::Blob(vec![0, 255]))),
            (ColumnType::Blob, Value::Text("0x0"), Err("the text \"0x0\" is no blob")),
            (ColumnType::Json, Value::Text("a\"b"), Ok(Stored::Text("\"a\\\"b\"".into()))),
            (ColumnType::Json, Value::Json("{\"a\":"), Err("the JSON {\"a\": is no json")),
            (ColumnType::Timestamp, Value::Text("2026-01-01T01:00:00+01:00"), Ok(Stored::Integer(1_767_225_600_000))),
            (ColumnType::Timestamp, Value::Text("yesterday"), Err("the text \"yesterday\" is no timestamp")),
            (ColumnType::Timestamp, Value::S64(i64::MAX), Err("9223372036854775807 is no timestamp")),
        ];
        for (column_type, value, wanted) in cases {
            assert_eq!(column_type.store(value), wanted.map_err(str::to_owned), "{column_type:?} {value:?}");
        }
    }

    #[test]
    fn a_type_takes_the_fields_of_which_some_value_fits() {
        let samples = [
            (FieldType::Boolean, vec![Value::Boolean(true)]),
            (FieldType::S64, vec![Value::S64(5)]),
            (FieldType::F64, vec![Value::F64(1.5)]),
            (FieldType::Text, vec![Value::Text("0x00"), Value::Text("2026-01-01T00:00:00Z")]),
            (FieldType::Symbol, vec![Value::Text("0x00"), Value::Text("2026-01-01T00:00:00Z")]),
            (FieldType::Bytes, vec![Value::Bytes(b"x")]),
            (FieldType::Json, vec![Value::Json("1.5"), Value::Json("{}")]),
        ];
        for (name, column_type) in ColumnType::ALL {
            for (field, values) in &samples {
                let fits = values.iter().any(|value| column_type.store(*value).is_ok());
                assert_eq!(column_type.takes(*field), fits, "{name} {}", field.name());
            }
        }
    }

    #[test]
    fn messages_carry_only_a_short_excerpt() {
        let text = "é".repeat(5000);
        let message = ColumnType::Integer.store(Value::Text(&text)).expect_err("text is no integer");
        assert!(message.len() < 120, "{message}");
    }
}
