//! Where in a document is a field? The raw text of some paths, behind one trait.

use std::fmt;

use serde::de::{DeserializeSeed, Deserializer, Error as _, IgnoredAny, MapAccess, Visitor};
use serde_json::value::RawValue;

/// Finds the raw text of some paths in a document.
pub trait Scanner: Send + Sync {
    /// Sets `found[i]` to the raw JSON text of path i, none where it is absent; of a key that stands twice the last
    /// wins. Clears what `found` held before.
    ///
    /// # Errors
    /// Where the value is not exactly one JSON object in UTF-8.
    fn scan<'v>(&self, value: &'v [u8], found: &mut Vec<Option<&'v str>>) -> Result<(), Malformed>;
}

/// A value that is not one JSON object.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct Malformed {
    /// `decode.empty`, `decode.invalid_utf8`, `decode.not_object` or `decode.malformed_json`
    pub code: &'static str,
    /// For people: where, not what.
    pub message: String,
}

impl Malformed {
    fn new(code: &'static str, message: impl Into<String>) -> Self {
        Self { code, message: message.into() }
    }
}

/// The scanner over `serde_json`: checks the whole document.
#[derive(Debug)]
pub struct SerdeScanner {
    root: Node,
    paths: usize,
}

/// What is wanted below one place of a document.
#[derive(Debug, Default)]
struct Node {
    /// The paths that end here.
    wanted: Vec<usize>,
    /// Few, so that looking at each is quicker than any hash.
    below: Vec<(String, Node)>,
}

impl SerdeScanner {
    /// A scanner for these paths, in this order.
    pub fn new<'p>(paths: impl IntoIterator<Item = &'p [String]>) -> Self {
        let mut scanner = Self { root: Node::default(), paths: 0 };
        for path in paths {
            let mut node = &mut scanner.root;
            for segment in path {
                node = node.below_mut(segment);
            }
            node.wanted.push(scanner.paths);
            scanner.paths += 1;
        }
        scanner
    }
}

impl Scanner for SerdeScanner {
    fn scan<'v>(&self, value: &'v [u8], found: &mut Vec<Option<&'v str>>) -> Result<(), Malformed> {
        found.clear();
        found.resize(self.paths, None);
        let text = std::str::from_utf8(value).map_err(|error| {
            Malformed::new(
                "decode.invalid_utf8",
                format!("the value is not UTF-8 from byte {} on", error.valid_up_to()),
            )
        })?;
        match text.trim_ascii_start().bytes().next() {
            None => return Err(Malformed::new("decode.empty", "the value is empty, not a JSON object")),
            Some(b'{') => {}
            Some(_) => return Err(Malformed::new("decode.not_object", "the value is not a JSON object")),
        }
        let mut deserializer = serde_json::Deserializer::from_str(text);
        let read = ObjectSeed { node: &self.root, found }.deserialize(&mut deserializer);
        read.and_then(|()| deserializer.end()).map_err(|error| {
            let place = format!("line {}, column {}", error.line(), error.column());
            let what = match error.classify() {
                serde_json::error::Category::Eof => "ends too early",
                _ => "is broken",
            };
            Malformed::new("decode.malformed_json", format!("the JSON {what} at {place}"))
        })
    }
}

/// Reads one object, and below it only what is wanted.
struct ObjectSeed<'n, 'f, 'v> {
    node: &'n Node,
    found: &'f mut Vec<Option<&'v str>>,
}

impl<'v> DeserializeSeed<'v> for ObjectSeed<'_, '_, 'v> {
    type Value = ();

    fn deserialize<D: Deserializer<'v>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_map(self)
    }
}

impl<'v> Visitor<'v> for ObjectSeed<'_, '_, 'v> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a JSON object")
    }

    fn visit_map<A: MapAccess<'v>>(self, mut map: A) -> Result<(), A::Error> {
        while let Some(below) = map.next_key_seed(KeySeed(self.node))? {
            let Some(node) = below else {
                map.next_value::<IgnoredAny>()?;
                continue;
            };
            let raw = map.next_value::<&'v RawValue>()?.get();
            node.set(raw, self.found).map_err(A::Error::custom)?;
        }
        Ok(())
    }
}

impl Node {
    /// Notes `raw` as the value that stands here, and looks below where that is wanted.
    fn set<'v>(&self, raw: &'v str, found: &mut Vec<Option<&'v str>>) -> Result<(), serde_json::Error> {
        self.forget(found);
        for wanted in &self.wanted {
            found[*wanted] = Some(raw);
        }
        if !self.below.is_empty() && raw.starts_with('{') {
            ObjectSeed { node: self, found }.deserialize(&mut serde_json::Deserializer::from_str(raw))?;
        }
        Ok(())
    }

    /// A key that stands twice: the last wins, with all that is below it.
    fn forget(&self, found: &mut Vec<Option<&str>>) {
        for wanted in &self.wanted {
            found[*wanted] = None;
        }
        for (_, node) in &self.below {
            node.forget(found);
        }
    }

    fn below(&self, key: &str) -> Option<&Self> {
        self.below.iter().find(|(name, _)| name == key).map(|(_, node)| node)
    }

    fn below_mut(&mut self, key: &str) -> &mut Self {
        let at = self.below.iter().position(|(name, _)| name == key).unwrap_or_else(|| {
            self.below.push((key.to_owned(), Self::default()));
            self.below.len() - 1
        });
        &mut self.below[at].1
    }
}

/// Reads a key, escapes resolved, and looks it up.
struct KeySeed<'n>(&'n Node);

impl<'n, 'v> DeserializeSeed<'v> for KeySeed<'n> {
    type Value = Option<&'n Node>;

    fn deserialize<D: Deserializer<'v>>(self, deserializer: D) -> Result<Self::Value, D::Error> {
        deserializer.deserialize_str(self)
    }
}

impl<'n> Visitor<'_> for KeySeed<'n> {
    type Value = Option<&'n Node>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a key")
    }

    fn visit_str<E>(self, key: &str) -> Result<Self::Value, E> {
        Ok(self.0.below(key))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn scan(paths: &[&[&str]], value: &str) -> Vec<Option<String>> {
        let paths: Vec<Vec<String>> = paths.iter().map(|p| p.iter().map(ToString::to_string).collect()).collect();
        let mut found = Vec::new();
        SerdeScanner::new(paths.iter().map(Vec::as_slice)).scan(value.as_bytes(), &mut found).unwrap();
        found.into_iter().map(|raw| raw.map(str::to_owned)).collect()
    }

    #[test]
    fn finds_raw_text_by_path() {
        let found = scan(&[&["a"], &["b", "c"], &["b"], &["x.y"]], r#"{"a": 1.50, "b": {"c": [1, 2]}, "x.y": "z"}"#);
        let found: Vec<_> = found.iter().map(Option::as_deref).collect();
        assert_eq!(found, [Some("1.50"), Some("[1, 2]"), Some(r#"{"c": [1, 2]}"#), Some(r#""z""#)]);
    }

    #[test]
    fn the_last_of_duplicate_keys_wins_with_all_below_it() {
        assert_eq!(scan(&[&["a"]], r#"{"a":1,"\u0061":2}"#), [Some("2".to_owned())]);
        assert_eq!(scan(&[&["a", "b"]], r#"{"a":{"b":1},"a":{}}"#), [None]);
        assert_eq!(scan(&[&["a", "b"]], r#"{"a":{"b":1},"a":3}"#), [None]);
    }

    #[test]
    fn broken_documents_have_their_own_codes() {
        let code = |value: &[u8]| {
            let mut found = Vec::new();
            SerdeScanner::new([]).scan(value, &mut found).unwrap_err().code
        };
        assert_eq!(code(b""), "decode.empty");
        assert_eq!(code(b"  "), "decode.empty");
        assert_eq!(code(b"[1]"), "decode.not_object");
        assert_eq!(code(b"{\"a\":1"), "decode.malformed_json");
        assert_eq!(code(b"{\"a\":1} x"), "decode.malformed_json");
        assert_eq!(code(b"{\"a\":\"\xff\"}"), "decode.invalid_utf8");
    }
}
