//! Letters as lines that people edit, and what they made of them.
//!
//! In: a case; a line that came back. Out: a line of JSON; the record's parts that differ. Key, value and headers stand
//! as in a plugin's cases (`value`, `value_text` or `value_base64`, and so on), so that a line reads like the record. A
//! value that is JSON keeps its text to the last digit. What tells which record it is, and when it was, is not to be
//! edited. Pure.

use std::collections::BTreeMap;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use serde_json::value::RawValue;
use serde_json::{Value, json};

use super::cases::{Case, CaseKey, h_of, is_write_time};
use crate::pipeline::DeadLetter;
use crate::pipeline::json_patch::{self, PatchError};
use crate::record::{self, HeaderIter, SetCell, WriteTime, push_header};

/// What tells which record a line is of: it comes back as it was.
const FIXED: [&str; 7] = ["id", "pipeline", "topic", "partition", "offset", "timestamp_ms", "write_time"];
/// What is said of the record, for whoever edits it.
const TOLD: [&str; 6] = ["stage", "code", "message", "attempts", "redrives", "state"];
/// The record.
pub const PARTS: [&str; 6] = ["key", "key_base64", "value", "value_text", "value_base64", "headers"];

/// What of a record is changed before it is redriven; what is none stays as it is.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Edit {
    /// Its key.
    pub key: Option<Option<Vec<u8>>>,
    /// Its value.
    pub value: Option<Option<Vec<u8>>>,
    /// Its headers, packed.
    pub headers: Option<Vec<u8>>,
}

impl Edit {
    /// The letter with these changes.
    #[must_use]
    pub fn apply(self, letter: &DeadLetter) -> DeadLetter {
        let mut edited = letter.clone();
        edited.key = self.key.unwrap_or(edited.key);
        edited.value = self.value.unwrap_or(edited.value);
        edited.headers = self.headers.unwrap_or(edited.headers);
        edited
    }
}

// --------------------------------------------------------------------------------------------------------- outwards

/// A case as a line, without its end.
#[must_use]
pub fn line(case: &Case) -> String {
    let letter = &case.letter;
    let head = json!({
        "id": letter.id,
        "pipeline": letter.pipeline,
        "topic": &*letter.source.topic,
        "partition": letter.source.partition,
        "offset": letter.offset.0,
        "timestamp_ms": letter.timestamp_ms,
        "write_time": letter.write_time.0,
        "stage": letter.stage,
        "code": letter.code,
        "message": letter.message,
        "attempts": letter.attempts,
        "redrives": letter.redrives,
        "state": case.state(),
    });
    let mut text = head.to_string();
    text.truncate(text.len() - 1);
    text.push(',');
    text.push_str(&record_members(letter, &value_member(letter.value.as_deref())));
    text.push('}');
    text
}

/// The record's key, value (as it is told) and headers as members of a JSON object, without its braces.
pub(super) fn record_members(letter: &DeadLetter, value: &str) -> String {
    let key = match letter.key.as_deref().map(|key| (key, std::str::from_utf8(key))) {
        None => "\"key\":null".to_owned(),
        Some((_, Ok(text))) => format!("\"key\":{}", Value::from(text)),
        Some((bytes, Err(_))) => format!("\"key_base64\":{}", Value::from(BASE64.encode(bytes))),
    };
    let headers: Vec<Value> = HeaderIter::new(&letter.headers)
        .map(|(name, value)| match value.map(|bytes| (bytes, std::str::from_utf8(bytes))) {
            None => json!([name, null]),
            Some((_, Ok(text))) => json!([name, text]),
            Some((bytes, Err(_))) => json!([name, { "base64": BASE64.encode(bytes) }]),
        })
        .collect();
    format!("{key},{value},\"headers\":{}", Value::from(headers))
}

pub(super) fn value_member(value: Option<&[u8]>) -> String {
    let Some(bytes) = value else { return "\"value\":null".to_owned() };
    let Ok(text) = std::str::from_utf8(bytes) else {
        return format!("\"value_base64\":{}", Value::from(BASE64.encode(bytes)));
    };
    match serde_json::from_str::<&RawValue>(text) {
        // The JSON text `null` is no tombstone.
        Ok(raw) if raw.get() != "null" => {
            // Between tokens only: within a text JSON has no line ends.
            format!("\"value\":{}", raw.get().replace(['\n', '\r'], " "))
        }
        _ => format!("\"value_text\":{}", Value::from(text)),
    }
}

// ---------------------------------------------------------------------------------------------------------- inwards

/// A line that came back.
#[derive(Debug, Clone, PartialEq)]
pub struct Edited {
    /// Its number in the file, from 1.
    pub number: usize,
    /// The letter's id.
    pub id: String,
    /// The record's write time, where the line has kept it.
    write_time: Option<i64>,
    fixed: BTreeMap<String, Value>,
    edit: Edit,
}

/// Reads edited lines; empty ones are passed over.
///
/// # Errors
/// The first that makes no sense: its number, what is wrong, and what to do.
pub fn read(text: &str) -> Result<Vec<Edited>, String> {
    let lines = (1..).zip(text.lines()).filter(|(_, line)| !line.trim().is_empty());
    lines.map(|(number, line)| read_line(number, line).map_err(|wrong| format!("line {number}: {wrong}"))).collect()
}

fn read_line(number: usize, line: &str) -> Result<Edited, String> {
    let members: BTreeMap<String, &RawValue> =
        serde_json::from_str(line).map_err(|error| format!("each line is one JSON object: {error}"))?;
    let known = |name: &str| FIXED.contains(&name) || TOLD.contains(&name) || PARTS.contains(&name);
    if let Some(unknown) = members.keys().find(|name| !known(name)) {
        return Err(format!("there is no key `{unknown}`; what can be edited is {}", PARTS.join(", ")));
    }
    let plain = |raw: &RawValue| serde_json::from_str::<Value>(raw.get()).unwrap_or(Value::Null);
    let fixed: BTreeMap<String, Value> =
        FIXED.iter().filter_map(|name| Some(((*name).to_owned(), plain(members.get(*name)?)))).collect();
    let id = fixed.get("id").and_then(Value::as_str).ok_or("`id` is missing: it says which letter it is")?.to_owned();
    let number_of = |name: &str, is_one: fn(i64) -> bool| match fixed.get(name) {
        None => Ok(None),
        Some(value) => value.as_i64().filter(|number| is_one(*number)).map(Some).ok_or_else(|| {
            format!("`{name}` is {value}, which no record has: leave it as `pelton dlq export` wrote it")
        }),
    };
    let write_time = number_of("write_time", is_write_time)?;
    number_of("offset", |offset| offset >= 0)?;
    let edit = Edit { key: key_of(&members)?, value: value_of(&members)?, headers: headers_of(&members)? };
    Ok(Edited { number, id, write_time, fixed, edit })
}

type Members<'l> = BTreeMap<String, &'l RawValue>;

fn one_of<'m>(members: &'m Members<'_>, names: &[&'static str]) -> Result<Option<(&'static str, &'m str)>, String> {
    let given: Vec<_> = names.iter().filter_map(|name| Some((*name, members.get(*name)?.get()))).collect();
    match given.as_slice() {
        [] => Ok(None),
        [one] => Ok(Some(*one)),
        several => {
            let names: Vec<_> = several.iter().map(|(name, _)| *name).collect();
            Err(format!("{} stand side by side: keep one", names.join(" and ")))
        }
    }
}

fn text(name: &str, raw: &str) -> Result<String, String> {
    serde_json::from_str(raw).map_err(|_| format!("`{name}` is a text"))
}

fn bytes(name: &str, raw: &str) -> Result<Vec<u8>, String> {
    BASE64.decode(text(name, raw)?).map_err(|error| format!("`{name}` is not base64: {error}"))
}

/// A part as it was edited: absent, null, or bytes.
type Part = Option<Option<Vec<u8>>>;

fn key_of(members: &Members<'_>) -> Result<Part, String> {
    Ok(match one_of(members, &["key", "key_base64"])? {
        None => None,
        Some((_, "null")) => Some(None),
        Some(("key", raw)) if raw.starts_with('"') => Some(Some(text("key", raw)?.into_bytes())),
        Some(("key", raw)) => Some(Some(raw.as_bytes().to_vec())),
        Some((name, raw)) => Some(Some(bytes(name, raw)?)),
    })
}

fn value_of(members: &Members<'_>) -> Result<Part, String> {
    Ok(match one_of(members, &["value", "value_text", "value_base64"])? {
        None => None,
        Some(("value", "null")) => Some(None),
        Some(("value", raw)) => Some(Some(raw.as_bytes().to_vec())),
        Some(("value_text", raw)) => Some(Some(text("value_text", raw)?.into_bytes())),
        Some((name, raw)) => Some(Some(bytes(name, raw)?)),
    })
}

fn headers_of(members: &Members<'_>) -> Result<Option<Vec<u8>>, String> {
    let Some(raw) = members.get("headers") else { return Ok(None) };
    let wrong = "`headers` is an array of pairs: [name, text], [name, null] or [name, {\"base64\": \"…\"}]";
    let pairs: Vec<(String, Value)> = serde_json::from_str(raw.get()).map_err(|_| wrong.to_owned())?;
    let mut packed = Vec::new();
    for (name, value) in pairs {
        match &value {
            Value::Null => push_header(&mut packed, &name, None),
            Value::String(text) => push_header(&mut packed, &name, Some(text.as_bytes())),
            Value::Object(object) if object.len() == 1 => {
                let encoded = object.get("base64").and_then(Value::as_str).ok_or(wrong)?;
                let decoded = BASE64.decode(encoded).map_err(|error| format!("header {name}: {error}"))?;
                push_header(&mut packed, &name, Some(&decoded));
            }
            _ => return Err(wrong.to_owned()),
        }
    }
    Ok(Some(packed))
}

impl Edited {
    /// Whether the line is of this record.
    #[must_use]
    pub fn is_of(&self, (id, h): &CaseKey) -> bool {
        self.id == *id && self.write_time.is_none_or(|at| h_of(WriteTime(at)) == *h)
    }

    /// What was changed of the record.
    ///
    /// # Errors
    /// Where what tells which record it is was changed.
    pub fn edit(&self, letter: &DeadLetter) -> Result<Edit, String> {
        let own = json!({
            "id": letter.id,
            "pipeline": letter.pipeline,
            "topic": &*letter.source.topic,
            "partition": letter.source.partition,
            "offset": letter.offset.0,
            "timestamp_ms": letter.timestamp_ms,
            "write_time": letter.write_time.0,
        });
        match self.fixed.iter().find(|(name, value)| own.get(name.as_str()) != Some(value)) {
            Some((name, value)) => Err(format!(
                "line {}: `{name}` is {value} here and {} in the letter: it tells which record it is, and when it was \
                 written; what can be edited is {}",
                self.number,
                own.get(name.as_str()).unwrap_or(&Value::Null),
                PARTS.join(", ")
            )),
            None => Ok(self.edit.clone()),
        }
    }
}

// ------------------------------------------------------------------------------------------------------ path = value

/// A field of the value to set: `customer.country=DE`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SetField {
    path: Vec<String>,
    /// JSON text.
    json: String,
}

impl SetField {
    /// Reads `path=value`; a value that is no JSON is a text.
    ///
    /// # Errors
    /// Where there is no path.
    pub fn parse(text: &str) -> Result<Self, String> {
        let (path, value) = text.split_once('=').ok_or_else(|| format!("`{text}`: write PATH=VALUE"))?;
        let path: Vec<String> = path.split('.').map(str::to_owned).collect();
        if path.iter().any(String::is_empty) {
            return Err(format!("`{text}`: a path is names with dots between them, such as customer.country"));
        }
        let is_json = serde_json::from_str::<&RawValue>(value).is_ok();
        let json = if is_json { value.trim().to_owned() } else { Value::from(value).to_string() };
        Ok(Self { path, json })
    }
}

/// A value with these fields set; all else keeps its text.
///
/// # Errors
/// Where the value is no JSON object.
pub fn set(value: Option<&[u8]>, fields: &[SetField]) -> Result<Vec<u8>, String> {
    let refused = |error: PatchError| match error {
        PatchError::NotAnObject(_) => format!("{error}: export it, and edit it there"),
        PatchError::NotFinite(..) | PatchError::BrokenJson(..) => error.to_string(),
    };
    let no_object = || refused(PatchError::NotAnObject("the value".to_owned()));
    let mut document = value.ok_or_else(no_object)?.to_vec();
    for SetField { path, json } in fields {
        let text = std::str::from_utf8(&document).map_err(|_| no_object())?;
        let cell = if json == "null" { SetCell::Null } else { SetCell::Set(record::Value::Json(json)) };
        let mut patched = Vec::new();
        json_patch::patch(Some(text), &[(path, cell)], &mut patched).map_err(refused)?;
        document = patched;
    }
    Ok(document)
}

#[cfg(test)]
mod tests {
    use super::super::cases::tests::letter;
    use super::*;

    fn case(key: Option<&[u8]>, value: Option<&[u8]>, headers: &[(&str, Option<&[u8]>)]) -> Case {
        let mut packed = Vec::new();
        headers.iter().for_each(|(name, value)| push_header(&mut packed, name, *value));
        let letter = DeadLetter {
            key: key.map(<[u8]>::to_vec),
            value: value.map(<[u8]>::to_vec),
            headers: packed,
            ..letter(7, "")
        };
        Case { letter, at: String::new(), missing: None, bytes: 0, marks: Vec::new() }
    }

    #[test]
    fn a_line_that_is_not_edited_brings_back_every_byte() {
        let binary: &[u8] = b"\xff\x00";
        for case in [
            case(Some(b"k"), Some(br#"{"n": 1.000, "big":18446744073709551616}"#), &[("a", Some(b"x")), ("a", None)]),
            case(None, None, &[]),
            case(Some(binary), Some(binary), &[("b", Some(binary))]),
            case(Some(b""), Some(b""), &[]),
            case(Some(b"\"q\""), Some(b"null"), &[]),
            case(Some(b"k"), Some("ü {".as_bytes()), &[]),
        ] {
            let text = line(&case);
            let read = read(&format!("\n{text}\n")).expect(&text);
            assert_eq!((read.len(), read[0].is_of(&case.key())), (1, true));
            assert_eq!(read[0].edit(&case.letter).expect("as it was").apply(&case.letter), case.letter, "{text}");
        }
    }

    #[test]
    fn a_value_over_several_lines_stands_on_one_and_means_the_same() {
        let text = line(&case(None, Some(b"{\n  \"a\": \"x\\ny\",\r\n  \"b\": 1 }"), &[]));
        assert!(!text.contains('\n') && text.contains(r#""a": "x\ny""#), "{text}");
    }

    #[test]
    fn what_tells_which_record_it_is_cannot_be_edited() {
        let case = case(Some(b"k"), Some(b"{}"), &[]);
        let edited = |from: &str, to: &str| {
            let text = line(&case);
            assert!(text.contains(from), "{text}");
            read(&text.replace(from, to)).and_then(|lines| lines[0].edit(&case.letter))
        };
        let offset = edited("\"offset\":7", "\"offset\":8").expect_err("another record");
        assert!(offset.contains("line 1: `offset` is 8 here and 7 in the letter"), "{offset}");
        assert!(edited("\"value\":{}", "\"valeu\":{}").expect_err("a slip").contains("no key `valeu`"));
        let twice = edited("\"value\":{}", "\"value\":{},\"value_text\":\"\"").expect_err("two values");
        assert!(twice.contains("value and value_text stand side by side"), "{twice}");
        for at in ["-9223372036854775808", "9223372036854775807", "18446744073709551616", "-1", "\"soon\"", "1.5"] {
            let forged = edited("\"write_time\":1000070", &format!("\"write_time\":{at}")).expect_err(at);
            assert!(forged.starts_with("line 1: `write_time` is ") && forged.contains("pelton dlq export"), "{forged}");
        }
        assert!(edited("\"offset\":7", "\"offset\":-7").expect_err("no offset").contains("line 1: `offset` is -7"));
        assert!(edited("\"id\"", "\"code\"").expect_err("no id").contains("`id` is missing"));
        assert_eq!(
            edited("\"value\":{}", "\"value\":{\"a\":1}").map(|edit| edit.value),
            Ok(Some(Some(b"{\"a\":1}".to_vec())))
        );
        assert_eq!(edited("\"value\":{}", "\"value\":null").map(|edit| edit.value), Ok(Some(None)));
    }

    #[test]
    fn fields_are_set_by_path_and_all_else_keeps_its_text() {
        let fields = ["amount_cents=500", "customer.country=DE", "coupon=null", "note=0 or 1"];
        let fields: Vec<SetField> = fields.iter().map(|text| SetField::parse(text).expect(text)).collect();
        let value = set(Some(br#"{"amount_cents": -1, "x": 1.00, "customer":{"id":7}}"#), &fields).expect("an object");
        assert_eq!(
            String::from_utf8(value).expect("text"),
            r#"{"amount_cents": 500, "x": 1.00, "customer":{"id":7,"country":"DE"},"coupon":null,"note":"0 or 1"}"#
        );
        assert!(
            set(Some(b"[1]"), &fields)
                == Err(
                    "the value is not a JSON object, so no field can be set in it: export it, and edit it there".into()
                )
                && set(None, &fields).is_err()
                && set(Some(b"\xff"), &fields).is_err()
        );
        assert!(SetField::parse("amount").is_err() && SetField::parse("a..b=1").is_err());
    }
}
