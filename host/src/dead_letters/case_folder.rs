//! A letter as a test case of a plugin.
//!
//! In: the record as the plugin gets it (several where an earlier step makes more of it), the plugin's directory, the step's
//! configuration. Out: a folder under `cases/` that `pelton plugin test` reads: `input.jsonl` and `config.yaml`. What is
//! expected of it is left to whoever knows. Never overwrites a case.

use std::io;
use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use super::lines::{record_members, value_member};
use crate::pipeline::DeadLetter;

/// A name for the case that says what it is: code, topic, partition, offset.
#[must_use]
pub fn name_of(letter: &DeadLetter) -> String {
    let name = format!("{}-{}-{}-{}", letter.code, letter.source.topic, letter.source.partition, letter.offset);
    let plain = |c: char| if c.is_ascii_alphanumeric() || c == '-' || c == '_' { c } else { '-' };
    name.chars().map(plain).collect()
}

/// Writes the case's folder.
///
/// # Errors
/// Where it is there already, or cannot be written.
pub fn write(plugin_dir: &Path, name: &str, records: &[DeadLetter], config: &Value) -> io::Result<PathBuf> {
    let folder = plugin_dir.join("cases").join(name);
    std::fs::create_dir_all(plugin_dir.join("cases"))?;
    std::fs::create_dir(&folder)?;
    std::fs::write(folder.join("input.jsonl"), records.iter().map(input).collect::<String>())?;
    if !config.is_null() {
        // JSON is YAML too.
        std::fs::write(folder.join("config.yaml"), format!("{config:#}\n"))?;
    }
    Ok(folder)
}

fn input(letter: &DeadLetter) -> String {
    let place = json!({
        "topic": &*letter.source.topic,
        "partition": letter.source.partition,
        "offset": letter.offset.0,
        "timestamp_ms": letter.timestamp_ms,
    });
    let place = place.to_string();
    format!("{},{}}}\n", place.trim_end_matches('}'), record_members(letter, &value(letter.value.as_deref())))
}

/// The value as JSON where a case's reader gives it back but for the blanks between its tokens; else as a text. A number
/// with more digits than a program's own is not given back.
fn value(bytes: Option<&[u8]>) -> String {
    let text = bytes.and_then(|bytes| std::str::from_utf8(bytes).ok());
    match text.and_then(|text| Some((text, serde_json::from_str::<Value>(text).ok()?.to_string()))) {
        Some((text, read)) if without_blanks(text) != read => format!("\"value_text\":{}", Value::from(text)),
        _ => value_member(bytes),
    }
}

/// JSON without what stands between its tokens.
fn without_blanks(json: &str) -> String {
    let (mut in_text, mut is_escaped) = (false, false);
    let mut keep = |c: &char| {
        if in_text {
            in_text = is_escaped || *c != '"';
            is_escaped = !is_escaped && *c == '\\';
            return true;
        }
        in_text = *c == '"';
        !c.is_ascii_whitespace()
    };
    json.chars().filter(|c| keep(c)).collect()
}

#[cfg(test)]
mod tests {
    use super::super::cases::tests::letter;
    use super::*;
    use crate::plugin::cases;
    use crate::record::push_header;

    #[test]
    fn the_case_is_read_as_the_record_was() {
        let dir = tempfile::tempdir().expect("a directory");
        let mut headers = Vec::new();
        push_header(&mut headers, "trace", Some(b"\xff"));
        let big = br#"{"a": 18446744073709551616, "b": "\" }"}"#;
        type Part<'a> = Option<&'a [u8]>;
        let all: [(Part<'_>, Part<'_>); 5] = [
            (Some(b"k"), Some(br#"{"a":1.0,"b":"x \" y"}"#)),
            (None, None),
            (Some(b"\xff"), Some(b"\xff")),
            (None, Some(b"{")),
            (Some(b"\"q\""), Some(big)),
        ];
        for (at, (key, value)) in all.into_iter().enumerate() {
            let letter = DeadLetter {
                key: key.map(<[u8]>::to_vec),
                value: value.map(<[u8]>::to_vec),
                headers: headers.clone(),
                ..letter(at as i64, "")
            };
            let name = name_of(&letter);
            assert_eq!(name, format!("negative_amount-in-2-{at}"));
            let folder =
                write(dir.path(), &name, std::slice::from_ref(&letter), &json!({ "vat": 19 })).expect("written");
            let text = std::fs::read_to_string(folder.join("input.jsonl")).expect("an input");
            let case = cases::Case::read_for_test(folder).expect(&text);
            assert_eq!(
                case,
                (letter.offset.0, letter.timestamp_ms, letter.key, letter.value, letter.headers),
                "{text}"
            );
        }
        let again = write(dir.path(), "negative_amount-in-2-0", &[letter(0, "")], &Value::Null);
        assert_eq!(again.map_err(|error| error.kind()), Err(io::ErrorKind::AlreadyExists));
    }
}
