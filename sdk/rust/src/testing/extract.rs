//! Typed fields out of JSON values, by the rules of `wit/types.wit`.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};

use super::Placed;
use crate::bindings::pelton::plugin::types::{Field, FieldType, Policy, Subscription};

/// What the plugin gets to see of a batch, and what became of the rest.
pub(super) struct Extracted {
    /// Rows that the plugin sees.
    pub(super) fitting: Vec<usize>,
    /// For each of them, one cell a subscribed field; null where it is null.
    pub(super) cells: Vec<Vec<Value>>,
    /// Lines of the records that it does not see.
    pub(super) lines: Vec<(usize, Value)>,
}

/// Extracts the subscribed fields of a batch.
pub(super) fn extract(subscription: &Subscription, records: &[Placed]) -> Extracted {
    let mut extracted = Extracted { fitting: Vec::new(), cells: Vec::new(), lines: Vec::new() };
    for (row, record) in records.iter().enumerate() {
        let cells = match &record.value {
            _ if subscription.value_fields.is_empty() => Ok(Vec::new()),
            // A tombstone has no fields, and passes by as it came.
            None => {
                let line = json!({"record": record.number, "output": "default", "value": null});
                extracted.lines.push((record.number, line));
                continue;
            }
            Some(value) => cells(&subscription.value_fields, value),
        };
        match cells {
            Ok(cells) => {
                extracted.fitting.push(row);
                extracted.cells.push(cells);
            }
            Err((code, message)) => {
                let line = json!({"record": record.number, "reject": code, "message": message});
                extracted.lines.push((record.number, line));
            }
        }
    }
    extracted
}

type Rejection = (&'static str, String);

fn cells(fields: &[Field], value: &[u8]) -> Result<Vec<Value>, Rejection> {
    let document = document(value)?;
    fields.iter().map(|field| cell(field, &document)).collect()
}

fn document(value: &[u8]) -> Result<Value, Rejection> {
    let text = std::str::from_utf8(value).map_err(|error| {
        ("decode.invalid_utf8", format!("the value is not UTF-8 from byte {} on", error.valid_up_to()))
    })?;
    match text.trim_ascii_start().chars().next() {
        None => return Err(("decode.empty", "the value is empty, not a JSON object".to_owned())),
        Some('{') => {}
        Some(_) => return Err(("decode.not_object", "the value is not a JSON object".to_owned())),
    }
    serde_json::from_str(text).map_err(|error| {
        let what = if error.is_eof() { "ends too early" } else { "is broken" };
        let place = format!("line {}, column {}", error.line(), error.column());
        ("decode.malformed_json", format!("the JSON {what} at {place}"))
    })
}

fn cell(field: &Field, document: &Value) -> Result<Value, Rejection> {
    let path = || field.path.join(".");
    let found = field.path.iter().try_fold(document, |value, segment| value.as_object()?.get(segment));
    let Some(found) = found.filter(|value| !value.is_null()) else {
        return match field.on_missing {
            Policy::Null => Ok(Value::Null),
            Policy::Reject => Err(("decode.missing_field", format!("field {} is missing or null", path()))),
        };
    };
    match (typed(field.type_, found), field.on_mismatch) {
        (Some(cell), _) => Ok(cell),
        (None, Policy::Null) => Ok(Value::Null),
        (None, Policy::Reject) => {
            let message = format!("field {}: {} is wanted, {} was found", path(), wanted(field.type_), kind(found));
            Err(("decode.wrong_type", message))
        }
    }
}

/// The value as a cell of this type; none where it does not fit.
fn typed(field_type: FieldType, value: &Value) -> Option<Value> {
    let fits = match field_type {
        FieldType::Boolean => value.is_boolean(),
        FieldType::S64 => value.is_i64(),
        FieldType::F64 => value.is_number(),
        FieldType::Text | FieldType::Symbol => value.is_string(),
        FieldType::Bytes => value.as_str().is_some_and(|text| STANDARD.decode(text).is_ok()),
        FieldType::Json => true,
    };
    fits.then(|| value.clone())
}

fn wanted(field_type: FieldType) -> &'static str {
    match field_type {
        FieldType::Boolean => "true or false",
        FieldType::S64 => "a whole number of 64 bits",
        FieldType::F64 => "a number",
        FieldType::Text | FieldType::Symbol => "a string",
        FieldType::Bytes => "a string in base64",
        FieldType::Json => "any value",
    }
}

fn kind(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "a boolean",
        Value::Number(_) => "a number that does not fit",
        Value::String(_) => "a string that does not fit",
        Value::Array(_) => "an array",
        Value::Object(_) => "an object",
    }
}
