//! Fields of JSON documents: `pipeline/decode.rs`.

use serde_json::Value;

use crate::pipeline::decode::{Extractor, Scanner as _, SerdeScanner};
use crate::record::{Batch, Field, FieldType, Offset, Policy, TopicPartition};

const PATHS: [&[&str]; 7] = [&["a"], &["a", "b"], &["b", "c", "d"], &["n"], &["s"], &["é\"\\"], &[""]];

/// The scanner finds what `serde_json` finds when it reads the whole document, and each type holds what the document says.
pub fn json(bytes: &[u8]) {
    let paths: Vec<Vec<String>> =
        PATHS.iter().map(|path| path.iter().map(|segment| (*segment).to_owned()).collect()).collect();
    let scanner = SerdeScanner::new(paths.iter().map(Vec::as_slice));
    let mut found = Vec::new();
    let scanned = scanner.scan(bytes, &mut found);
    match (serde_json::from_slice::<Value>(bytes), &scanned) {
        (Ok(Value::Object(whole)), Ok(())) => {
            let whole = Value::Object(whole);
            for (path, raw) in paths.iter().zip(&found) {
                let expected = path.iter().try_fold(&whole, |value, key| value.as_object()?.get(key));
                let raw = raw.map(|raw| serde_json::from_str::<Value>(raw).expect("raw text is JSON"));
                assert_eq!(raw.as_ref(), expected, "{path:?}");
            }
        }
        (Ok(Value::Object(_)), Err(malformed)) => panic!("a whole object is refused: {malformed}"),
        (Ok(_), Ok(())) => panic!("no object, and it is let through"),
        (Err(_), Ok(())) => {
            // Deeper than a tree may be, or a number or a text that no tree can hold, where nobody looks: still JSON.
            serde_json::from_slice::<&serde_json::value::RawValue>(bytes).expect("what is let through is JSON");
        }
        (_, Err(_)) => {}
    }
    for path in &paths {
        // Where nobody looks, a key that no text can hold is let through: so each is looked for alone, as it is extracted.
        let mut alone = Vec::new();
        let scanned = SerdeScanner::new(std::iter::once(path.as_slice())).scan(bytes, &mut alone);
        let raw = alone.first().copied().flatten().filter(|_| scanned.is_ok());
        for policy in [Policy::Reject, Policy::Null] {
            typed(bytes, path, policy, raw);
        }
    }
}

/// Extracts one path as every type.
fn typed(bytes: &[u8], path: &[String], policy: Policy, raw: Option<&str>) {
    let fields: Vec<Field> = FieldType::ALL
        .map(|field_type| Field { path: path.to_vec(), field_type, on_missing: policy, on_mismatch: policy })
        .to_vec();
    let mut batch = Batch::new(TopicPartition::new("t", 0));
    batch.push(Offset(0), None, None, Some(bytes), []);
    // Alone, so that one that does not fit rejects nothing else.
    for field in fields {
        let extracted = Extractor::json(std::slice::from_ref(&field)).extract(&batch);
        let rows = extracted.rows.map_or(1, |rows| rows.len());
        assert_eq!(rows + extracted.rejects.len(), 1, "a row is extracted or rejected");
        for reject in &extracted.rejects {
            assert!(reject.code.starts_with("decode."));
        }
        let column = &extracted.columns[0];
        if rows == 0 || column.validity.first() == Some(&0) {
            continue;
        }
        let raw = raw.expect("a cell comes from somewhere");
        let value: Option<Value> = serde_json::from_str(raw).ok();
        let text = || std::str::from_utf8(&column.data).expect("text is UTF-8");
        let eight = || -> [u8; 8] { column.values[..8].try_into().expect("eight bytes") };
        match field.field_type {
            FieldType::Boolean => assert_eq!(value, Some(Value::Bool(column.values[0] == 1))),
            FieldType::S64 => {
                let number = i64::from_le_bytes(eight());
                assert!(raw == "-0" || value == Some(number.into()), "{raw} became {number}");
            }
            FieldType::F64 => {
                let number = f64::from_le_bytes(eight());
                let expected = value.and_then(|value| value.as_f64()).expect("a number");
                assert!((number - expected).abs() <= expected.abs() * 1e-15, "{raw} became {number}");
            }
            FieldType::Text => assert_eq!(value.as_ref().and_then(Value::as_str), Some(text())),
            FieldType::Symbol => {
                // { n: 1, offsets 0 and length, bytes }
                let symbol = std::str::from_utf8(&column.data[12..]).expect("text is UTF-8");
                assert_eq!(value.as_ref().and_then(Value::as_str), Some(symbol));
            }
            FieldType::Bytes => assert!(value.is_some_and(|value| value.is_string())),
            FieldType::Json => assert_eq!(text(), raw),
        }
    }
}
