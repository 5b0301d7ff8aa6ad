//! Sets fields of a JSON document and leaves the rest of its text as it was.
//!
//! In: a document and edits by path. Out: a document in which every value that no edit names has its own text: numbers
//! keep their digits, keys their order. White space between members is not kept. Never parses what it does not change.

use std::borrow::Cow;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use serde::de::{Deserializer as _, MapAccess, Visitor};
use serde_json::value::RawValue;

use crate::record::{SetCell, Value};

/// Why a document cannot be patched.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum PatchError {
    /// The document, or what stands where a path goes through, is no object.
    #[error("{0} is not a JSON object, so no field can be set in it")]
    NotAnObject(String),
    /// JSON has no NaN and no infinity.
    #[error("field {0}: {1} cannot be written as JSON")]
    NotFinite(String, f64),
    /// A `json` cell that is no JSON.
    #[error("field {0}: the JSON text that the plugin set is broken: {1}")]
    BrokenJson(String, String),
}

impl PatchError {
    /// The code of the dead letter.
    #[must_use]
    pub fn code(&self) -> &'static str {
        match self {
            Self::NotAnObject(_) => "encode.not_object",
            Self::NotFinite(..) => "encode.not_finite",
            Self::BrokenJson(..) => "encode.broken_json",
        }
    }
}

/// One edit: the path, and what becomes of the field.
pub type Edit<'a> = (&'a [String], SetCell<'a>);

/// Applies `edits` to `document`, or to an empty object where there is none.
///
/// # Errors
/// Where the document is no object, or a value has no JSON form.
pub fn patch(document: Option<&str>, edits: &[Edit<'_>]) -> Result<String, PatchError> {
    let mut out = String::with_capacity(document.map_or(0, str::len) + edits.len() * 24);
    object(document, edits, 0, &mut out)?;
    Ok(out)
}

/// Writes the object `document` with the edits, of whose paths the first `depth` segments lead here.
fn object(document: Option<&str>, edits: &[Edit<'_>], depth: usize, out: &mut String) -> Result<(), PatchError> {
    let members = match document {
        None => Vec::new(),
        Some(text) => members(text).ok_or_else(|| PatchError::NotAnObject(place(edits, depth)))?,
    };
    let mut names: Vec<&str> = Vec::new();
    for (path, cell) in edits {
        if !matches!(cell, SetCell::Leave) && !names.contains(&path[depth].as_str()) {
            names.push(&path[depth]);
        }
    }
    out.push('{');
    let mut is_first = true;
    for (at, (key, raw)) in members.iter().enumerate() {
        let is_edited = names.contains(&&**key);
        // Of a key that stands twice the last counts; the others would bring the old value back to some readers.
        if is_edited && members[at + 1..].iter().any(|(later, _)| later == key) {
            continue;
        }
        if is_edited {
            member(key, Some(raw.get()), edits, depth, &mut is_first, out)?;
        } else {
            begin(key, &mut is_first, out);
            out.push_str(raw.get());
        }
    }
    for name in names {
        if !members.iter().any(|(key, _)| key == name) {
            member(name, None, edits, depth, &mut is_first, out)?;
        }
    }
    out.push('}');
    Ok(())
}

/// Writes one edited member: replaced, removed, or patched below.
fn member(
    key: &str,
    raw: Option<&str>,
    edits: &[Edit<'_>],
    depth: usize,
    is_first: &mut bool,
    out: &mut String,
) -> Result<(), PatchError> {
    let here: Vec<Edit<'_>> = edits.iter().filter(|(path, _)| path[depth] == key).copied().collect();
    if let Some((path, cell)) = here.iter().rfind(|(path, cell)| path.len() == depth + 1 && *cell != SetCell::Leave) {
        match cell {
            SetCell::Remove | SetCell::Leave => {}
            SetCell::Null => {
                begin(key, is_first, out);
                out.push_str("null");
            }
            SetCell::Set(value) => {
                begin(key, is_first, out);
                write_value(path, *value, out)?;
            }
        }
        return Ok(());
    }
    // Removing below what is not there leaves it as it is.
    let removes = here.iter().all(|(_, cell)| matches!(cell, SetCell::Remove | SetCell::Leave));
    match raw {
        None if removes => return Ok(()),
        Some("null") if removes => {
            begin(key, is_first, out);
            out.push_str("null");
            return Ok(());
        }
        _ => {}
    }
    begin(key, is_first, out);
    object(raw.filter(|raw| *raw != "null"), &here, depth + 1, out)
}

fn begin(key: &str, is_first: &mut bool, out: &mut String) {
    if !std::mem::take(is_first) {
        out.push(',');
    }
    push_string(key, out);
    out.push(':');
}

fn push_string(text: &str, out: &mut String) {
    out.push_str(&serde_json::to_string(text).expect("text always encodes"));
}

fn write_value(path: &[String], value: Value<'_>, out: &mut String) -> Result<(), PatchError> {
    match value {
        Value::Boolean(value) => out.push_str(if value { "true" } else { "false" }),
        Value::S64(value) => out.push_str(&value.to_string()),
        Value::F64(value) if value.is_finite() => {
            out.push_str(&serde_json::to_string(&value).expect("a finite number always encodes"));
        }
        Value::F64(value) => return Err(PatchError::NotFinite(path.join("."), value)),
        Value::Text(text) => push_string(text, out),
        Value::Bytes(bytes) => push_string(&BASE64.encode(bytes), out),
        Value::Json(text) => {
            let raw: &RawValue = serde_json::from_str(text)
                .map_err(|error| PatchError::BrokenJson(path.join("."), error.to_string()))?;
            out.push_str(raw.get());
        }
    }
    Ok(())
}

fn place(edits: &[Edit<'_>], depth: usize) -> String {
    match edits.first() {
        Some((path, _)) if depth > 0 => format!("field {}", path[..depth].join(".")),
        _ => "the value".to_owned(),
    }
}

/// The members of an object, in order, with duplicates; none where the text is no object.
fn members(text: &str) -> Option<Vec<(Cow<'_, str>, &RawValue)>> {
    struct Members;
    impl<'v> Visitor<'v> for Members {
        type Value = Vec<(Cow<'v, str>, &'v RawValue)>;

        fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
            f.write_str("a JSON object")
        }

        fn visit_map<A: MapAccess<'v>>(self, mut map: A) -> Result<Self::Value, A::Error> {
            let mut members = Vec::new();
            while let Some(key) = map.next_key::<Cow<'v, str>>()? {
                members.push((key, map.next_value()?));
            }
            Ok(members)
        }
    }
    let mut deserializer = serde_json::Deserializer::from_str(text);
    let members = deserializer.deserialize_map(Members).ok()?;
    deserializer.end().ok().map(|()| members)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn path(text: &str) -> Vec<String> {
        text.split('.').map(str::to_owned).collect()
    }

    fn patched(document: &str, edits: &[(&str, SetCell<'_>)]) -> Result<String, PatchError> {
        let paths: Vec<_> = edits.iter().map(|(text, _)| path(text)).collect();
        let edits: Vec<Edit<'_>> = paths.iter().zip(edits).map(|(path, (_, cell))| (path.as_slice(), *cell)).collect();
        patch(Some(document), &edits)
    }

    #[test]
    fn what_is_not_named_keeps_its_text() {
        let cents = SetCell::Set(Value::S64(7));
        let document = r#"{"a": 62.00, "big": 12345678901234567890123, "cents": 1, "n": null}"#;
        assert_eq!(
            patched(document, &[("cents", cents), ("new", SetCell::Set(Value::Text("é\"")))]).unwrap(),
            r#"{"a":62.00,"big":12345678901234567890123,"cents":7,"n":null,"new":"é\""}"#
        );
        assert_eq!(patched("{}", &[("x", SetCell::Leave)]).unwrap(), "{}");
    }

    #[test]
    fn null_and_removal_are_two_things() {
        assert_eq!(
            patched(r#"{"a":1,"b":2}"#, &[("a", SetCell::Null), ("b", SetCell::Remove)]).unwrap(),
            r#"{"a":null}"#
        );
    }

    #[test]
    fn nested_fields_make_their_parents() {
        let one = SetCell::Set(Value::S64(1));
        assert_eq!(patched(r#"{"a":{"x":0}}"#, &[("a.b.c", one)]).unwrap(), r#"{"a":{"x":0,"b":{"c":1}}}"#);
        assert_eq!(patched(r#"{"a":null}"#, &[("a.b", one)]).unwrap(), r#"{"a":{"b":1}}"#);
        assert_eq!(patched("{}", &[("a.b", SetCell::Remove)]).unwrap(), "{}");
        assert_eq!(patched(r#"{"a":null}"#, &[("a.b", SetCell::Remove)]).unwrap(), r#"{"a":null}"#);
        assert_eq!(patched(r#"{"a":3}"#, &[("a.b", one)]), Err(PatchError::NotAnObject("field a".into())));
        assert_eq!(patched("[]", &[("a", one)]), Err(PatchError::NotAnObject("the value".into())));
    }

    #[test]
    fn a_duplicate_key_does_not_bring_the_old_value_back() {
        assert_eq!(
            patched(r#"{"a":1,"b":2,"a":3}"#, &[("a", SetCell::Set(Value::S64(9)))]).unwrap(),
            r#"{"b":2,"a":9}"#
        );
    }

    #[test]
    fn what_has_no_json_form_is_refused() {
        let code = |value| patched("{}", &[("a", SetCell::Set(value))]).unwrap_err().code();
        assert_eq!(code(Value::F64(f64::NAN)), "encode.not_finite");
        assert_eq!(code(Value::Json("{broken")), "encode.broken_json");
    }
}
