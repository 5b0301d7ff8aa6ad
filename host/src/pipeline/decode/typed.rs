//! What does the raw text of a field mean as a type? Decided here, once, for every scanner and every sink.

use std::borrow::Cow;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;

use crate::record::{Cell, FieldType, Value};

/// The text of a JSON string, escapes resolved; none where it is no string, or holds a lone surrogate.
#[must_use]
pub fn json_string(raw: &str) -> Option<Cow<'_, str>> {
    let inner = raw.strip_prefix('"')?.strip_suffix('"')?;
    if inner.contains('\\') {
        serde_json::from_str::<String>(raw).ok().map(Cow::Owned)
    } else {
        Some(Cow::Borrowed(inner))
    }
}

/// The raw text of a field as a cell of its natural type, for a sink that converts by its own column's type. Numbers that
/// are no `i64` stay text, so that nothing is rounded.
pub fn with_natural_cell<R>(raw: Option<&str>, then: impl FnOnce(Cell<'_>) -> R) -> R {
    let Some(raw) = raw else { return then(Cell::Unset) };
    match raw.as_bytes().first() {
        Some(b'n') => then(Cell::Null),
        Some(b't') => then(Cell::Value(Value::Boolean(true))),
        Some(b'f') => then(Cell::Value(Value::Boolean(false))),
        Some(b'"') => match json_string(raw) {
            Some(text) => then(Cell::Value(Value::Text(&text))),
            None => then(Cell::Value(Value::Json(raw))),
        },
        _ => match raw.parse() {
            Ok(number) => then(Cell::Value(Value::S64(number))),
            Err(_) => then(Cell::Value(Value::Json(raw))),
        },
    }
}

/// A field's value, read as the type that was asked for.
pub(super) enum Typed<'v> {
    Boolean(bool),
    S64(i64),
    F64(f64),
    Text(Cow<'v, str>),
    Bytes(Vec<u8>),
}

/// Reads the raw text of a field as a type; none where it does not fit. Nothing saturates, nothing is rounded to a
/// whole number.
pub(super) fn typed(raw: &str, field_type: FieldType) -> Option<Typed<'_>> {
    match field_type {
        FieldType::Boolean => match raw {
            "true" => Some(Typed::Boolean(true)),
            "false" => Some(Typed::Boolean(false)),
            _ => None,
        },
        FieldType::S64 => raw.parse().ok().map(Typed::S64),
        FieldType::F64 => {
            let is_number = raw.starts_with(|c: char| c == '-' || c.is_ascii_digit());
            let number: f64 = if is_number { raw.parse().ok()? } else { return None };
            number.is_finite().then_some(Typed::F64(number))
        }
        FieldType::Text | FieldType::Symbol => json_string(raw).map(Typed::Text),
        FieldType::Bytes => BASE64.decode(json_string(raw)?.as_bytes()).ok().map(Typed::Bytes),
        FieldType::Json => Some(Typed::Text(Cow::Borrowed(raw))),
    }
}

/// A type, as a message names it.
pub(super) fn wanted(field_type: FieldType) -> &'static str {
    match field_type {
        FieldType::Boolean => "true or false",
        FieldType::S64 => "a whole number of 64 bits",
        FieldType::F64 => "a number",
        FieldType::Text | FieldType::Symbol => "a string",
        FieldType::Bytes => "a string in base64",
        FieldType::Json => "any value",
    }
}

/// What stands there, as a message names it: no payload.
pub(super) fn kind(raw: &str) -> &'static str {
    match raw.as_bytes().first() {
        Some(b'"') => "a string that does not fit",
        Some(b'{') => "an object",
        Some(b'[') => "an array",
        Some(b't' | b'f') => "a boolean",
        Some(b'n') => "null",
        _ => "a number that does not fit",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_never_saturate_nor_round() {
        for (raw, s64, f64) in [
            ("7", Some(7), Some(7.0)),
            ("7.0", None, Some(7.0)),
            ("1e3", None, Some(1000.0)),
            ("9223372036854775808", None, Some(9.223_372_036_854_776e18)),
            ("1e400", None, None),
            ("\"7\"", None, None),
        ] {
            assert_eq!(
                typed(raw, FieldType::S64).map(|t| matches!(t, Typed::S64(v) if Some(v) == s64)),
                s64.map(|_| true)
            );
            let read = typed(raw, FieldType::F64).and_then(|t| if let Typed::F64(v) = t { Some(v) } else { None });
            assert_eq!(read, f64, "{raw}");
        }
    }
}
