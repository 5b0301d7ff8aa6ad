//! Edited JSON documents: `pipeline/json_patch.rs`.

use serde_json::{Map, Value as Json};

use super::Bytes;
use crate::pipeline::json_patch::{Edit, patch};
use crate::record::{SetCell, Value};

/// No path lies within another: subscriptions see to that.
const PATHS: [&[&str]; 5] = [&["a"], &["b", "c"], &["b", "d", "e"], &["n"], &["é\"\\"]];

/// A patched document is JSON, and the same as a tree that was edited.
pub fn patches(bytes: &[u8]) {
    let mut bytes = Bytes(bytes);
    let paths: Vec<Vec<String>> =
        PATHS.iter().map(|path| path.iter().map(|segment| (*segment).to_owned()).collect()).collect();
    let texts: Vec<(u8, String, i64)> = (0..PATHS.len()).map(|_| (bytes.byte(), bytes.text(), bytes.long())).collect();
    let cells = texts.iter().map(|(kind, text, number)| match kind % 9 {
        0 => SetCell::Leave,
        1 => SetCell::Null,
        2 => SetCell::Remove,
        3 => SetCell::Set(Value::Boolean(*number > 0)),
        4 => SetCell::Set(Value::S64(*number)),
        5 => SetCell::Set(Value::F64(f64::from_bits(number.cast_unsigned()))),
        6 => SetCell::Set(Value::Text(text)),
        7 => SetCell::Set(Value::Bytes(text.as_bytes())),
        _ => SetCell::Set(Value::Json(text)),
    });
    let edits: Vec<Edit<'_>> = paths.iter().map(Vec::as_slice).zip(cells).collect();
    let Ok(document) = std::str::from_utf8(bytes.rest()) else { return };
    let mut patched = Vec::new();
    if patch(Some(document), &edits, &mut patched).is_err() {
        return;
    }
    let patched = String::from_utf8(patched).expect("what comes out is text");
    let raw: &serde_json::value::RawValue = serde_json::from_str(&patched).expect("what comes out is JSON");
    assert!(raw.get().starts_with('{'), "what comes out is an object");
    // A document that is too deep for a tree, or holds what no tree can, has no tree to compare with.
    let (Ok(Json::Object(mut expected)), Ok(patched)) =
        (serde_json::from_str(document), serde_json::from_str::<Json>(&patched))
    else {
        return;
    };
    for (path, cell) in &edits {
        if !apply(&mut expected, path, *cell) {
            return;
        }
    }
    assert_eq!(patched, Json::Object(expected), "{document} with {edits:?}");
}

/// Edits a tree; false where the edit has no tree to compare with.
fn apply(object: &mut Map<String, Json>, path: &[String], cell: SetCell<'_>) -> bool {
    let [key, below @ ..] = path else { return true };
    if cell == SetCell::Leave {
        return true;
    }
    if below.is_empty() {
        let value = match cell {
            SetCell::Leave => return true,
            SetCell::Remove => {
                object.remove(key);
                return true;
            }
            SetCell::Null => Json::Null,
            SetCell::Set(value) => match json(value) {
                Some(value) => value,
                None => return false,
            },
        };
        object.insert(key.clone(), value);
        return true;
    }
    match object.get_mut(key) {
        Some(Json::Object(inner)) => apply(inner, below, cell),
        // Nothing is below what is not there, and nothing to remove.
        None | Some(Json::Null) if cell == SetCell::Remove => true,
        None | Some(Json::Null) => {
            let mut inner = Map::new();
            let done = apply(&mut inner, below, cell);
            object.insert(key.clone(), Json::Object(inner));
            done
        }
        Some(other) => panic!("an edit went through {other}"),
    }
}

fn json(value: Value<'_>) -> Option<Json> {
    use base64::Engine as _;
    Some(match value {
        Value::Boolean(value) => value.into(),
        Value::S64(value) => value.into(),
        Value::F64(value) => serde_json::from_str(&serde_json::to_string(&value).ok()?).ok()?,
        Value::Text(text) => text.into(),
        Value::Bytes(bytes) => base64::engine::general_purpose::STANDARD.encode(bytes).into(),
        Value::Json(text) => serde_json::from_str(text).ok()?,
    })
}
