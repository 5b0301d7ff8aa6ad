//! Sets fields of a JSON document and leaves the rest of its text as it was.
//!
//! In: a document and edits by path. Out: the document with new values in place of the old ones, and new fields at its
//! end: numbers keep their digits, keys their order and their blanks. Only where a field is removed, or a key that is
//! edited stands twice, its object is written anew, without blanks between members. Never parses what it does not change.

use std::borrow::Cow;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use serde::de::{DeserializeSeed, Deserializer, IgnoredAny, MapAccess, Visitor};
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

/// Appends `document`, or an empty object where there is none, with `edits` applied.
///
/// # Errors
/// Where the document is no object, or a value has no JSON form. What was appended until then stays.
pub fn patch(document: Option<&str>, edits: &[Edit<'_>], out: &mut Vec<u8>) -> Result<(), PatchError> {
    object(document, edits, 0, out)
}

/// Writes the object `document` with the edits, of whose paths the first `depth` segments lead here.
fn object(document: Option<&str>, edits: &[Edit<'_>], depth: usize, out: &mut Vec<u8>) -> Result<(), PatchError> {
    let mut names: Vec<&str> = Vec::with_capacity(edits.len());
    for (path, cell) in edits {
        if !matches!(cell, SetCell::Leave) && !names.contains(&path[depth].as_str()) {
            names.push(&path[depth]);
        }
    }
    let text = document.unwrap_or("{}").trim_ascii();
    let found = Found::in_object(text, &names).ok_or_else(|| PatchError::NotAnObject(place(edits, depth)))?;
    let is_removed = |(_, cell): &Edit<'_>| *cell == SetCell::Remove;
    if found.has_duplicates || edits.iter().any(is_removed) {
        return anew(text, &names, edits, depth, out);
    }
    let mut copied = 0;
    for (name, raw) in &found.values {
        // A raw value is a piece of the text that it was read from.
        let start = raw.as_ptr().addr() - text.as_ptr().addr();
        out.extend_from_slice(&text.as_bytes()[copied..start]);
        value(names[*name], Some(raw), edits, depth, out)?;
        copied = start + raw.len();
    }
    // An object that was read ends with its brace.
    out.extend_from_slice(&text.as_bytes()[copied..text.len() - 1]);
    let mut is_first = found.members == 0;
    for (at, name) in names.iter().enumerate() {
        if !found.values.iter().any(|(found, _)| *found == at) {
            begin(name, &mut is_first, out);
            value(name, None, edits, depth, out)?;
        }
    }
    out.push(b'}');
    Ok(())
}

/// Writes an object member by member.
fn anew(text: &str, names: &[&str], edits: &[Edit<'_>], depth: usize, out: &mut Vec<u8>) -> Result<(), PatchError> {
    let members = members(text).ok_or_else(|| PatchError::NotAnObject(place(edits, depth)))?;
    out.push(b'{');
    let mut is_first = true;
    for (at, (key, raw)) in members.iter().enumerate() {
        let is_edited = names.contains(&&**key);
        // Of a key that stands twice the last counts; the others would bring the old value back to some readers.
        if is_edited && members[at + 1..].iter().any(|(later, _)| later == key) {
            continue;
        }
        if !is_edited {
            begin(key, &mut is_first, out);
            out.extend_from_slice(raw.get().as_bytes());
        } else if stays(key, Some(raw.get()), edits, depth) {
            begin(key, &mut is_first, out);
            value(key, Some(raw.get()), edits, depth, out)?;
        }
    }
    for name in names {
        if !members.iter().any(|(key, _)| key == name) && stays(name, None, edits, depth) {
            begin(name, &mut is_first, out);
            value(name, None, edits, depth, out)?;
        }
    }
    out.push(b'}');
    Ok(())
}

/// The edits at and below a member.
fn here<'e>(key: &str, edits: &[Edit<'e>], depth: usize) -> impl Iterator<Item = Edit<'e>> {
    edits.iter().filter(move |(path, _)| path[depth] == key).copied()
}

/// The last edit of a member as a whole.
fn whole<'e>(key: &str, edits: &[Edit<'e>], depth: usize) -> Option<Edit<'e>> {
    here(key, edits, depth).filter(|(path, cell)| path.len() == depth + 1 && *cell != SetCell::Leave).last()
}

/// Whether the edits below a member only take away.
fn removes(key: &str, edits: &[Edit<'_>], depth: usize) -> bool {
    here(key, edits, depth).all(|(_, cell)| matches!(cell, SetCell::Remove | SetCell::Leave))
}

/// Whether an edited member is there afterwards. Removing below what is not there leaves nothing behind.
fn stays(key: &str, raw: Option<&str>, edits: &[Edit<'_>], depth: usize) -> bool {
    match whole(key, edits, depth) {
        Some((_, cell)) => cell != SetCell::Remove,
        None => raw.is_some() || !removes(key, edits, depth),
    }
}

/// Writes the value of an edited member that stays: replaced, or patched below.
fn value(key: &str, raw: Option<&str>, edits: &[Edit<'_>], depth: usize, out: &mut Vec<u8>) -> Result<(), PatchError> {
    match whole(key, edits, depth) {
        Some((path, SetCell::Set(value))) => write_value(path, value, out),
        Some(_) => {
            out.extend_from_slice(b"null");
            Ok(())
        }
        // Removing below what is not there leaves it as it is.
        None if raw == Some("null") && removes(key, edits, depth) => {
            out.extend_from_slice(b"null");
            Ok(())
        }
        None => {
            let below: Vec<Edit<'_>> = here(key, edits, depth).collect();
            object(raw.filter(|raw| *raw != "null"), &below, depth + 1, out)
        }
    }
}

fn begin(key: &str, is_first: &mut bool, out: &mut Vec<u8>) {
    if !std::mem::take(is_first) {
        out.push(b',');
    }
    write(key, out);
    out.push(b':');
}

/// Writes text or a number: memory takes everything, and these always have a JSON form.
fn write<T: serde::Serialize + ?Sized>(value: &T, out: &mut Vec<u8>) {
    serde_json::to_writer(out, value).expect("text and finite numbers always encode");
}

fn write_value(path: &[String], value: Value<'_>, out: &mut Vec<u8>) -> Result<(), PatchError> {
    match value {
        Value::Boolean(value) => write(&value, out),
        Value::S64(value) => write(&value, out),
        Value::F64(value) if value.is_finite() => write(&value, out),
        Value::F64(value) => return Err(PatchError::NotFinite(path.join("."), value)),
        Value::Text(text) => write(text, out),
        Value::Bytes(bytes) => write(&BASE64.encode(bytes), out),
        Value::Json(text) => {
            let raw: &RawValue = serde_json::from_str(text)
                .map_err(|error| PatchError::BrokenJson(path.join("."), error.to_string()))?;
            out.extend_from_slice(raw.get().as_bytes());
        }
    }
    Ok(())
}

/// What an object has of some names.
#[derive(Default)]
struct Found<'v> {
    /// Names by their place, with the text of their values, in the order of the document.
    values: Vec<(usize, &'v str)>,
    /// One of the names stands twice.
    has_duplicates: bool,
    /// Members in all.
    members: usize,
}

impl<'v> Found<'v> {
    /// None where the text is no object.
    fn in_object(text: &'v str, names: &[&str]) -> Option<Self> {
        let mut deserializer = serde_json::Deserializer::from_str(text);
        let found = deserializer.deserialize_map(FoundVisitor(names)).ok()?;
        deserializer.end().ok().map(|()| found)
    }
}

struct FoundVisitor<'n>(&'n [&'n str]);

impl<'v> Visitor<'v> for FoundVisitor<'_> {
    type Value = Found<'v>;

    fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("a JSON object")
    }

    fn visit_map<A: MapAccess<'v>>(self, mut map: A) -> Result<Self::Value, A::Error> {
        let mut found = Found::default();
        while let Some(name) = map.next_key_seed(NameSeed(self.0))? {
            found.members += 1;
            let Some(name) = name else {
                map.next_value::<IgnoredAny>()?;
                continue;
            };
            found.has_duplicates |= found.values.iter().any(|(before, _)| *before == name);
            found.values.push((name, map.next_value::<&'v RawValue>()?.get()));
        }
        Ok(found)
    }
}

/// Reads a key, escapes resolved, and finds its place among the names.
struct NameSeed<'n>(&'n [&'n str]);

impl<'v> DeserializeSeed<'v> for NameSeed<'_> {
    type Value = Option<usize>;

    fn deserialize<D: Deserializer<'v>>(self, deserializer: D) -> Result<Self::Value, D::Error> {
        deserializer.deserialize_str(self)
    }
}

impl Visitor<'_> for NameSeed<'_> {
    type Value = Option<usize>;

    fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("a key")
    }

    fn visit_str<E>(self, key: &str) -> Result<Self::Value, E> {
        Ok(self.0.iter().position(|name| *name == key))
    }
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
        let mut out = Vec::new();
        patch(Some(document), &edits, &mut out).map(|()| String::from_utf8(out).unwrap())
    }

    #[test]
    fn what_is_not_named_keeps_its_text() {
        let cents = SetCell::Set(Value::S64(7));
        let document = r#"{"a": 62.00, "big": 12345678901234567890123, "cents": 1, "n": null}"#;
        assert_eq!(
            patched(document, &[("cents", cents), ("new", SetCell::Set(Value::Text("é\"")))]).unwrap(),
            r#"{"a": 62.00, "big": 12345678901234567890123, "cents": 7, "n": null,"new":"é\""}"#
        );
        assert_eq!(patched(" { } ", &[("x", cents)]).unwrap(), r#"{ "x":7}"#);
        assert_eq!(patched(r#"{"\u0061" : 1 }"#, &[("a", cents), ("b", cents)]).unwrap(), r#"{"\u0061" : 7 ,"b":7}"#);
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
    fn a_document_that_is_cut_or_goes_on_is_refused() {
        let one = SetCell::Set(Value::S64(1));
        for document in ["", "{", r#"{"a":1"#, r#"{"a":1}}"#, r#"{"a":1} {}"#, "null", "3"] {
            assert!(patched(document, &[("a", one)]).is_err(), "{document}");
        }
    }

    proptest::proptest! {
        /// Against a parser that builds the whole document.
        #[test]
        fn equals_an_edit_of_the_parsed_document(
            members in proptest::collection::vec(("[a-c]", 0_i64..100), 0..6),
            edits in proptest::collection::vec(("[a-d]", proptest::option::of(0_i64..100), proptest::bool::ANY), 0..4),
            blank in "[ \n]{0,2}",
        ) {
            let text: Vec<_> = members.iter().map(|(k, v)| format!("{blank}\"{k}\"{blank}:{blank}{v}{blank}")).collect();
            let text = format!("{{{}}}", text.join(","));
            let mut expected: serde_json::Map<String, serde_json::Value> = serde_json::from_str(&text).unwrap();
            let mut cells = Vec::new();
            for (key, number, is_removed) in &edits {
                cells.push((key.as_str(), match number {
                    Some(number) => {
                        expected.insert(key.clone(), (*number).into());
                        SetCell::Set(Value::S64(*number))
                    }
                    None if *is_removed => {
                        expected.remove(key);
                        SetCell::Remove
                    }
                    None => {
                        expected.insert(key.clone(), serde_json::Value::Null);
                        SetCell::Null
                    }
                }));
            }
            let found: serde_json::Map<String, serde_json::Value> =
                serde_json::from_str(&patched(&text, &cells).unwrap()).unwrap();
            proptest::prop_assert!(found.len() == expected.len() && expected.iter().all(|(k, v)| found.get(k) == Some(v)));
        }
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
