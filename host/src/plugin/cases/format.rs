//! `input.jsonl` and `expected.jsonl`, as `plugins/README.md` describes them.

use std::path::{Path, PathBuf};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use serde_json::{Map, Value, json};

use crate::record::{HeaderIter, push_header};

/// The timestamp of the first record where none is given: 2026-01-01T00:00:00Z.
const FIRST_TIMESTAMP_MS: i64 = 1_767_225_600_000;

/// A line that is not as it should be.
#[derive(Debug, thiserror::Error)]
#[error("{}:{line}: {problem}", file.display())]
pub struct FormatError {
    /// Which file.
    pub file: PathBuf,
    /// Which line, from 1; 0 for the file as a whole.
    pub line: usize,
    /// What is wrong, and what to write.
    pub problem: String,
}

/// A record of `input.jsonl`, all defaults filled in.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct InputRecord {
    /// Its number in the file, from 0.
    pub(super) number: usize,
    pub(super) topic: String,
    pub(super) partition: i32,
    pub(super) offset: i64,
    pub(super) timestamp_ms: Option<i64>,
    pub(super) key: Option<Vec<u8>>,
    pub(super) value: Option<Vec<u8>>,
    /// Packed.
    pub(super) headers: Vec<u8>,
}

/// A line of `expected.jsonl`.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct ExpectedLine {
    /// Its line in the file, from 1.
    pub(super) line: usize,
    pub(super) value: Value,
}

/// Reads `input.jsonl`.
pub(super) fn read_input(file: &Path) -> Result<Vec<InputRecord>, FormatError> {
    let mut records: Vec<InputRecord> = Vec::new();
    for (line, value) in read_lines(file)? {
        let wrong = |problem: String| FormatError { file: file.to_owned(), line, problem };
        let record = RawRecord::read(&value).and_then(|raw| raw.place(&records)).map_err(wrong)?;
        records.push(record);
    }
    Ok(records)
}

/// Reads `expected.jsonl`.
pub(super) fn read_expected(file: &Path) -> Result<Vec<ExpectedLine>, FormatError> {
    let check = |(line, value): (usize, Value)| {
        let wrong = |problem: &str| FormatError { file: file.to_owned(), line, problem: problem.to_owned() };
        if value.get("record").and_then(Value::as_u64).is_none() {
            return Err(wrong("`record` is missing: the number of the input record, from 0"));
        }
        if !["output", "reject", "retry", "skip"].iter().any(|kind| value.get(kind).is_some_and(Value::is_string)) {
            return Err(wrong("one of `output`, `reject`, `retry` and `skip` is missing"));
        }
        Ok(ExpectedLine { line, value })
    };
    read_lines(file)?.into_iter().map(check).collect()
}

/// Writes `expected.jsonl`, whole or not at all.
pub(super) fn write_expected(file: &Path, lines: &[Value]) -> std::io::Result<()> {
    let text: String = lines.iter().map(|line| format!("{line}\n")).collect();
    let temporary = file.with_extension("jsonl.new");
    std::fs::write(&temporary, text)?;
    std::fs::rename(&temporary, file)
}

pub(super) fn read_lines(file: &Path) -> Result<Vec<(usize, Value)>, FormatError> {
    let wrong = |line: usize, problem: String| FormatError { file: file.to_owned(), line, problem };
    let text = std::fs::read_to_string(file).map_err(|error| wrong(0, error.to_string()))?;
    let is_content = |(_, line): &(usize, &str)| !line.trim().is_empty() && !line.starts_with("//");
    (1..)
        .zip(text.lines())
        .filter(is_content)
        .map(|(number, line)| {
            let value: Value = serde_json::from_str(line).map_err(|error| {
                wrong(number, format!("each line is a JSON object, at column {}: {error}", error.column()))
            })?;
            if value.is_object() { Ok((number, value)) } else { Err(wrong(number, "a line is a JSON object".into())) }
        })
        .collect()
}

/// A record as its line gives it.
#[derive(Debug, Default)]
struct RawRecord {
    value: Option<Vec<u8>>,
    key: Option<Vec<u8>>,
    headers: Vec<u8>,
    timestamp_ms: Option<Option<i64>>,
    offset: Option<i64>,
    topic: Option<String>,
    partition: i32,
}

impl RawRecord {
    fn read(line: &Value) -> Result<Self, String> {
        let mut record = Self::default();
        let object = line.as_object().ok_or("a record is an object")?;
        for (of, names) in [("value", &["value", "value_text", "value_base64"][..]), ("key", &["key", "key_base64"])] {
            let given: Vec<&str> = names.iter().copied().filter(|name| object.contains_key(*name)).collect();
            if given.len() > 1 {
                return Err(format!("the {of} is given more than once: {}", given.join(", ")));
            }
        }
        for (name, value) in object {
            match name.as_str() {
                "value" => record.value = (!value.is_null()).then(|| value.to_string().into_bytes()),
                "value_text" => record.value = Some(text(name, value)?.as_bytes().to_vec()),
                "value_base64" => record.value = Some(bytes(name, value)?),
                "key" => {
                    record.key = match value {
                        Value::Null => None,
                        Value::String(text) => Some(text.as_bytes().to_vec()),
                        json => Some(json.to_string().into_bytes()),
                    }
                }
                "key_base64" => record.key = Some(bytes(name, value)?),
                "headers" => record.headers = headers(value)?,
                "timestamp_ms" if value.is_null() => record.timestamp_ms = Some(None),
                "timestamp_ms" => {
                    let ms = value.as_i64().filter(|ms| *ms >= 0);
                    record.timestamp_ms = Some(Some(ms.ok_or("`timestamp_ms` is a whole number from 0, or null")?));
                }
                "offset" => {
                    let offset = value.as_i64().filter(|offset| *offset >= 0);
                    record.offset = Some(offset.ok_or("`offset` is a whole number from 0")?);
                }
                "topic" => record.topic = Some(text(name, value)?.to_owned()),
                "partition" => {
                    let partition = value.as_i64().and_then(|number| i32::try_from(number).ok());
                    record.partition = partition.filter(|n| *n >= 0).ok_or("`partition` is a whole number from 0")?;
                }
                unknown => {
                    return Err(format!(
                        "there is no key `{unknown}`; the keys of a record are value, value_text, value_base64, key, \
                         key_base64, headers, timestamp_ms, offset, topic and partition"
                    ));
                }
            }
        }
        Ok(record)
    }

    fn place(self, before: &[InputRecord]) -> Result<InputRecord, String> {
        let number = before.len();
        let topic = self.topic.unwrap_or_else(|| "case".to_owned());
        let last = before.iter().rev().find(|other| other.topic == topic && other.partition == self.partition);
        let offset = self.offset.unwrap_or_else(|| last.map_or(0, |other| other.offset + 1));
        if let Some(last) = last.filter(|last| last.offset >= offset) {
            return Err(format!("offset {offset} comes after {}: offsets rise within a partition", last.offset));
        }
        let default_ms = FIRST_TIMESTAMP_MS + 1000 * number as i64;
        Ok(InputRecord {
            number,
            topic,
            partition: self.partition,
            offset,
            timestamp_ms: self.timestamp_ms.unwrap_or(Some(default_ms)),
            key: self.key,
            value: self.value,
            headers: self.headers,
        })
    }
}

fn text<'v>(name: &str, value: &'v Value) -> Result<&'v str, String> {
    value.as_str().ok_or_else(|| format!("`{name}` is a text"))
}

fn bytes(name: &str, value: &Value) -> Result<Vec<u8>, String> {
    BASE64.decode(text(name, value)?).map_err(|error| format!("`{name}` is not base64: {error}"))
}

fn headers(value: &Value) -> Result<Vec<u8>, String> {
    let mut packed = Vec::new();
    let mut push = |name: &str, value: &Value| -> Result<(), String> {
        match value {
            Value::Null => push_header(&mut packed, name, None),
            Value::String(text) => push_header(&mut packed, name, Some(text.as_bytes())),
            Value::Object(object) if object.len() == 1 && object.contains_key("base64") => {
                let bytes = bytes("base64", object.get("base64").unwrap_or(&Value::Null))?;
                push_header(&mut packed, name, Some(&bytes));
            }
            _ => return Err(format!("header `{name}` is a text, null, or {{\"base64\": \"…\"}}")),
        }
        Ok(())
    };
    match value {
        Value::Object(object) => object.iter().try_for_each(|(name, value)| push(name, value))?,
        Value::Array(pairs) => {
            for pair in pairs {
                match pair.as_array().map(Vec::as_slice) {
                    Some([Value::String(name), value]) => push(name, value)?,
                    _ => return Err("each of `headers` is a pair: [name, text or null]".to_owned()),
                }
            }
        }
        _ => return Err("`headers` is an object of name to text, or an array of [name, text]".to_owned()),
    }
    Ok(packed)
}

// ------------------------------------------------------------------------------------------------- lines of output

/// `{"record": …, "reject": …}` and its kin.
pub(super) fn failure_line(record: usize, kind: &str, code: &str, delay_ms: Option<u64>, message: &str) -> Value {
    let mut line = Map::new();
    line.insert("record".to_owned(), json!(record));
    line.insert(kind.to_owned(), json!(code));
    if let Some(delay_ms) = delay_ms {
        line.insert("delay_ms".to_owned(), json!(delay_ms));
    }
    line.insert("message".to_owned(), json!(message));
    Value::Object(line)
}

/// A row that is deleted; `fields` is its set fields as a JSON object.
pub(super) fn delete_line(record: usize, output: &str, fields: &[u8]) -> Value {
    let fields: Value = serde_json::from_slice(fields).unwrap_or(Value::Null);
    json!({ "record": record, "output": output, "delete": fields })
}

/// A row that leaves as a record.
#[derive(Debug, Clone, Copy)]
pub(super) struct OutputRow<'a> {
    pub(super) key: Option<&'a [u8]>,
    pub(super) value: Option<&'a [u8]>,
    /// Packed.
    pub(super) headers: &'a [u8],
    pub(super) timestamp_ms: Option<i64>,
}

/// `{"record": …, "output": …, "value": …}`, with what differs from the input record.
pub(super) fn row_line(input: &InputRecord, output: &str, row: OutputRow<'_>) -> Value {
    let mut line = Map::new();
    line.insert("record".to_owned(), json!(input.number));
    line.insert("output".to_owned(), json!(output));
    insert_value(&mut line, row.value);
    if row.key != input.key.as_deref() {
        match row.key.map(|key| (key, std::str::from_utf8(key))) {
            None => line.insert("key".to_owned(), Value::Null),
            Some((_, Ok(text))) => line.insert("key".to_owned(), json!(text)),
            Some((bytes, Err(_))) => line.insert("key_base64".to_owned(), json!(BASE64.encode(bytes))),
        };
    }
    if row.headers != input.headers {
        let pairs = HeaderIter::new(row.headers).map(|(name, value)| {
            let value = match value.map(|bytes| (bytes, std::str::from_utf8(bytes))) {
                None => Value::Null,
                Some((_, Ok(text))) => json!(text),
                Some((bytes, Err(_))) => json!({ "base64": BASE64.encode(bytes) }),
            };
            json!([name, value])
        });
        line.insert("headers".to_owned(), pairs.collect());
    }
    if row.timestamp_ms != input.timestamp_ms {
        line.insert("timestamp_ms".to_owned(), json!(row.timestamp_ms));
    }
    Value::Object(line)
}

fn insert_value(line: &mut Map<String, Value>, value: Option<&[u8]>) {
    let Some(bytes) = value else {
        line.insert("value".to_owned(), Value::Null);
        return;
    };
    match serde_json::from_slice::<Value>(bytes) {
        // The JSON text `null` is no tombstone.
        Ok(value) if !value.is_null() => line.insert("value".to_owned(), value),
        _ => match std::str::from_utf8(bytes) {
            Ok(text) => line.insert("value_text".to_owned(), json!(text)),
            Err(_) => line.insert("value_base64".to_owned(), json!(BASE64.encode(bytes))),
        },
    };
}
