//! Reads the plugin's answer, checks its tables as the host does, and writes it as lines.
//!
//! A table that lies is a bug of this crate, not of a plugin: the checks panic.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Map, Value, json};

use super::Placed;
use crate::Headers;
use crate::bindings::pelton::plugin::types::{FailureKind, FieldType, Output, Selection, SetColumn, Subscription};

/// One row of `edits`, taken apart.
struct Edit {
    row: usize,
    op: u32,
    route: usize,
    span: std::ops::Range<usize>,
}

/// What is to be done with a field of a row.
enum SetCell {
    Leave,
    Value(Value),
    Remove,
    Broken(&'static str, String),
}

/// The lines of a batch, each with the number of its record.
pub(super) fn lines(subscription: &Subscription, records: &[&Placed], output: Output) -> Vec<(usize, Value)> {
    let edits = edits(&output.rows, records.len());
    assert!(edits.is_sorted_by_key(|edit| edit.row), "rows never decrease");
    assert_eq!(output.set_fields.len(), subscription.set_fields.len(), "one column for each field that is set");
    let columns: Vec<Vec<SetCell>> = output
        .set_fields
        .iter()
        .zip(&subscription.set_fields)
        .map(|(column, field)| set_cells(column, field.type_, edits.len()))
        .collect();
    let mut lines = Vec::new();
    for (at, edit) in edits.iter().enumerate() {
        let record = records[edit.row];
        let route = match edit.route {
            0 => "default",
            route => &subscription.routes[route - 1],
        };
        let cells = subscription.set_fields.iter().zip(&columns).map(|(field, column)| (&*field.path, &column[at]));
        lines.push((record.number, line(record, edit, route, cells, &output.data)));
    }
    assert!(output.failures.is_sorted_by(|a, b| a.row < b.row), "rows of failures rise");
    for failure in output.failures {
        assert!(edits.iter().all(|edit| edit.row != failure.row as usize), "a failed record has no rows");
        assert!(
            is_code(&failure.code),
            "failure code {:?} is not of lower case letters, digits and underscores (at most 64)",
            failure.code
        );
        let number = records[failure.row as usize].number;
        let mut line = Map::new();
        line.insert("record".into(), json!(number));
        match failure.kind {
            FailureKind::Reject => line.insert("reject".into(), json!(failure.code)),
            FailureKind::Skip => line.insert("skip".into(), json!(failure.code)),
            FailureKind::Retry(delay_ms) => {
                line.insert("retry".into(), json!(failure.code));
                line.insert("delay_ms".into(), json!(delay_ms))
            }
        };
        line.insert("message".into(), json!(failure.message));
        lines.push((number, Value::Object(line)));
    }
    lines
}

fn is_code(code: &str) -> bool {
    (1..=64).contains(&code.len())
        && code.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'_')
}

fn edits(selection: &Selection, count: usize) -> Vec<Edit> {
    let keep = |row: usize| Edit { row, op: 0, route: 0, span: 0..0 };
    let words = |table: &[u8]| -> Vec<u32> {
        let (words, rest) = table.as_chunks::<4>();
        assert!(rest.is_empty(), "a table of u32");
        words.iter().map(|word| u32::from_le_bytes(*word)).collect()
    };
    let edits: Vec<Edit> = match selection {
        Selection::All => (0..count).map(keep).collect(),
        Selection::Kept(table) => words(table).into_iter().map(|row| keep(row as usize)).collect(),
        Selection::Edits(table) => {
            let words = words(table);
            let (edits, rest) = words.as_chunks::<4>();
            assert!(rest.is_empty(), "four u32 an edit");
            edits
                .iter()
                .map(|&[row, op, offset, length]| Edit {
                    row: row as usize,
                    op: op & 0xff,
                    route: (op >> 8) as usize,
                    span: offset as usize..offset as usize + length as usize,
                })
                .collect()
        }
    };
    assert!(edits.iter().all(|edit| edit.row < count), "every row exists");
    edits
}

fn set_cells(column: &SetColumn, field_type: FieldType, rows: usize) -> Vec<SetCell> {
    assert!(column.state.is_empty() || column.state.len() == rows, "one state a row, or none at all");
    let cells: Vec<Option<Value>> = match field_type {
        FieldType::Boolean => column.values.iter().map(|byte| Some(json!(*byte == 1))).collect(),
        FieldType::S64 => {
            column.values.as_chunks().0.iter().map(|bytes| Some(json!(i64::from_le_bytes(*bytes)))).collect()
        }
        FieldType::F64 => column
            .values
            .as_chunks()
            .0
            .iter()
            .map(|bytes| serde_json::Number::from_f64(f64::from_le_bytes(*bytes)).map(Value::Number))
            .collect(),
        FieldType::Text => {
            cut(&column.values, &column.data).into_iter().map(|bytes| Some(json!(text(bytes)))).collect()
        }
        FieldType::Bytes => {
            cut(&column.values, &column.data).into_iter().map(|bytes| Some(json!(STANDARD.encode(bytes)))).collect()
        }
        FieldType::Json => {
            cut(&column.values, &column.data).into_iter().map(|bytes| serde_json::from_slice(bytes).ok()).collect()
        }
        FieldType::Symbol => {
            let count = u32::from_le_bytes(column.data[..4].try_into().expect("four bytes")) as usize;
            let (offsets, bytes) = column.data[4..].split_at(4 * (count + 1));
            let entries = cut(offsets, bytes);
            let indexes = column.values.as_chunks().0.iter().map(|bytes| u32::from_le_bytes(*bytes) as usize);
            indexes.map(|index| entries.get(index).map(|bytes| json!(text(bytes)))).collect()
        }
    };
    assert_eq!(cells.len(), rows, "one cell for each output row");
    let state = |row: usize| column.state.get(row).copied().unwrap_or(1);
    let cell = |(row, cell): (usize, Option<Value>)| match (state(row), cell, field_type) {
        (0, _, _) => SetCell::Leave,
        (1, Some(value), _) => SetCell::Value(value),
        (1, None, FieldType::F64) => {
            SetCell::Broken("encode.not_finite", "not a finite number, so it cannot be written as JSON".to_owned())
        }
        (1, None, FieldType::Json) => {
            SetCell::Broken("encode.broken_json", "the JSON text that the plugin set is broken".to_owned())
        }
        (2, _, _) => SetCell::Value(Value::Null),
        (3, _, _) => SetCell::Remove,
        (state, _, _) => panic!("a cell of state {state} that does not exist"),
    };
    cells.into_iter().enumerate().map(cell).collect()
}

fn cut<'d>(offsets: &[u8], data: &'d [u8]) -> Vec<&'d [u8]> {
    let offsets: Vec<usize> = offsets.as_chunks().0.iter().map(|bytes| u32::from_le_bytes(*bytes) as usize).collect();
    assert_eq!(offsets.first(), Some(&0), "the first offset is 0");
    assert_eq!(offsets.last(), Some(&data.len()), "the last offset is the end of the data");
    offsets.windows(2).map(|pair| &data[pair[0]..pair[1]]).collect()
}

fn text(bytes: &[u8]) -> &str {
    std::str::from_utf8(bytes).expect("text is UTF-8")
}

fn line<'c>(
    record: &Placed,
    edit: &Edit,
    output: &str,
    cells: impl Iterator<Item = (&'c [String], &'c SetCell)>,
    data: &[u8],
) -> Value {
    let mut line = Map::new();
    line.insert("record".into(), json!(record.number));
    line.insert("output".into(), json!(output));
    let span = || &data[edit.span.clone()];
    let set = match edit.op {
        0 => set_fields(record.value.as_deref(), cells),
        1 => Ok(Some(span().to_vec())),
        2 => Ok(None),
        3 => Ok(unpack(span(), record, &mut line)),
        4 | 5 => set_fields(None, cells).map(|value| Some(value.unwrap_or_else(|| b"{}".to_vec()))),
        op => panic!("op {op} does not exist"),
    };
    match set {
        Err((code, message)) => return json!({"record": record.number, "reject": code, "message": message}),
        Ok(Some(value)) if edit.op == 4 => {
            line.insert("delete".into(), serde_json::from_slice(&value).expect("it was written as JSON"));
        }
        Ok(value) => insert_value(&mut line, value.as_deref()),
    }
    // The value stands before what differs of the rest.
    for key in ["key", "key_base64", "headers", "timestamp_ms"] {
        if let Some(value) = line.shift_remove(key) {
            line.insert(key.into(), value);
        }
    }
    Value::Object(line)
}

/// The value with the set fields; as it was where none is set.
fn set_fields<'c>(
    value: Option<&[u8]>,
    cells: impl Iterator<Item = (&'c [String], &'c SetCell)>,
) -> Result<Option<Vec<u8>>, (&'static str, String)> {
    let mut document = None;
    for (path, cell) in cells {
        let not_an_object = || ("encode.not_object", format!("no field {} can be set", path.join(".")));
        let new = match cell {
            SetCell::Leave => continue,
            SetCell::Broken(code, message) => return Err((code, format!("field {}: {message}", path.join(".")))),
            SetCell::Value(value) => Some(value.clone()),
            SetCell::Remove => None,
        };
        if document.is_none() {
            document = Some(match value {
                None => Value::Object(Map::new()),
                Some(bytes) => serde_json::from_slice(bytes).map_err(|_| not_an_object())?,
            });
        }
        let (last, parents) = path.split_last().expect("a path has a name");
        let mut parent = document.as_mut().expect("it was filled above").as_object_mut().ok_or_else(not_an_object)?;
        for name in parents {
            let below = parent.entry(name).or_insert_with(|| Value::Object(Map::new()));
            parent = below.as_object_mut().ok_or_else(not_an_object)?;
        }
        match new {
            Some(value) => parent.insert(last.clone(), value),
            None => parent.shift_remove(last),
        };
    }
    Ok(document.map(|document| document.to_string().into_bytes()).or_else(|| value.map(<[u8]>::to_vec)))
}

fn insert_value(line: &mut Map<String, Value>, value: Option<&[u8]>) {
    let Some(bytes) = value else {
        line.insert("value".into(), Value::Null);
        return;
    };
    match serde_json::from_slice::<Value>(bytes) {
        Ok(value) if !value.is_null() => line.insert("value".into(), value),
        _ => match std::str::from_utf8(bytes) {
            Ok(text) => line.insert("value_text".into(), json!(text)),
            Err(_) => line.insert("value_base64".into(), json!(STANDARD.encode(bytes))),
        },
    };
}

/// Takes a packed record apart; what differs from the input goes to the line, the value is the answer.
fn unpack(packed: &[u8], record: &Placed, line: &mut Map<String, Value>) -> Option<Vec<u8>> {
    let mut rest = packed;
    let mut take = |length: usize| {
        let (taken, after) = rest.split_at(length);
        rest = after;
        taken
    };
    let mut bytes = || match u32::from_le_bytes(take(4).try_into().expect("four bytes")) {
        u32::MAX => None,
        length => Some(take(length as usize).to_vec()),
    };
    let (key, value) = (bytes(), bytes());
    let timestamp = i64::from_le_bytes(take(8).try_into().expect("eight bytes"));
    let count = u32::from_le_bytes(take(4).try_into().expect("four bytes"));
    let headers: Vec<(String, Option<Vec<u8>>)> =
        Headers::new(rest).map(|(name, value)| (name.to_owned(), value.map(<[u8]>::to_vec))).collect();
    assert_eq!(headers.len(), count as usize, "as many headers as were announced");
    if key != record.key {
        match key.as_deref().map(|key| (key, std::str::from_utf8(key))) {
            None => line.insert("key".into(), Value::Null),
            Some((_, Ok(text))) => line.insert("key".into(), json!(text)),
            Some((bytes, Err(_))) => line.insert("key_base64".into(), json!(STANDARD.encode(bytes))),
        };
    }
    if headers != record.headers {
        let value = |value: &Option<Vec<u8>>| match value.as_deref().map(|bytes| (bytes, std::str::from_utf8(bytes))) {
            None => Value::Null,
            Some((_, Ok(text))) => json!(text),
            Some((bytes, Err(_))) => json!({"base64": STANDARD.encode(bytes)}),
        };
        line.insert("headers".into(), headers.iter().map(|(name, bytes)| json!([name, value(bytes)])).collect());
    }
    if timestamp >= 0 && Some(timestamp) != record.timestamp_ms {
        line.insert("timestamp_ms".into(), json!(timestamp));
    }
    value
}
