//! From values to typed columns.
//!
//! In: the value column of a batch and the fields that a step subscribed to. Out: one column a field for the rows that
//! fit, and a rejection for each that does not. Finding the raw text of a field in a document stands behind one trait,
//! [`Scanner`]; what that text means as a type is decided here, once, for every scanner. Never looks at what nobody
//! subscribed to, beyond checking that the document is whole, and never quotes a payload in a message.

use std::borrow::Cow;
use std::collections::HashMap;
use std::fmt;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use serde::de::{DeserializeSeed, Deserializer, Error as _, IgnoredAny, MapAccess, Visitor};
use serde_json::value::RawValue;

use crate::record::{Batch, Cell, Field, FieldColumn, FieldType, Policy, Value};

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

// ------------------------------------------------------------------------------------------------ what a text means

/// The text of a JSON string, escapes resolved; none where it is no string, or holds a lone surrogate.
#[must_use]
pub fn json_string(raw: &str) -> Option<Cow<'_, str>> {
    let inner = raw.strip_prefix('"')?.strip_suffix('"')?;
    if inner.contains('\\') {
        serde_json::from_str::<String>(raw).ok().map(Cow::Owned)
    } else {
        Some(Cow::Borrowed(inner))
    }
}

/// The raw text of a field as a cell of its natural type, for a sink that converts by its own column's type. Numbers that
/// are no `i64` stay text, so that nothing is rounded.
pub fn with_natural_cell<R>(raw: Option<&str>, then: impl FnOnce(Cell<'_>) -> R) -> R {
    let Some(raw) = raw else { return then(Cell::Unset) };
    match raw.as_bytes().first() {
        Some(b'n') => then(Cell::Null),
        Some(b't') => then(Cell::Value(Value::Boolean(true))),
        Some(b'f') => then(Cell::Value(Value::Boolean(false))),
        Some(b'"') => match json_string(raw) {
            Some(text) => then(Cell::Value(Value::Text(&text))),
            None => then(Cell::Value(Value::Json(raw))),
        },
        _ => match raw.parse() {
            Ok(number) => then(Cell::Value(Value::S64(number))),
            Err(_) => then(Cell::Value(Value::Json(raw))),
        },
    }
}

/// A field's value, read as the type that was asked for.
enum Typed<'v> {
    Boolean(bool),
    S64(i64),
    F64(f64),
    Text(Cow<'v, str>),
    Bytes(Vec<u8>),
}

/// Reads the raw text of a field as a type; none where it does not fit. Nothing saturates, nothing is rounded to a
/// whole number.
fn typed(raw: &str, field_type: FieldType) -> Option<Typed<'_>> {
    match field_type {
        FieldType::Boolean => match raw {
            "true" => Some(Typed::Boolean(true)),
            "false" => Some(Typed::Boolean(false)),
            _ => None,
        },
        FieldType::S64 => raw.parse().ok().map(Typed::S64),
        FieldType::F64 => {
            let is_number = raw.starts_with(|c: char| c == '-' || c.is_ascii_digit());
            let number: f64 = if is_number { raw.parse().ok()? } else { return None };
            number.is_finite().then_some(Typed::F64(number))
        }
        FieldType::Text | FieldType::Symbol => json_string(raw).map(Typed::Text),
        FieldType::Bytes => BASE64.decode(json_string(raw)?.as_bytes()).ok().map(Typed::Bytes),
        FieldType::Json => Some(Typed::Text(Cow::Borrowed(raw))),
    }
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

fn kind(raw: &str) -> &'static str {
    match raw.as_bytes().first() {
        Some(b'"') => "a string that does not fit",
        Some(b'{') => "an object",
        Some(b'[') => "an array",
        Some(b't' | b'f') => "a boolean",
        Some(b'n') => "null",
        _ => "a number that does not fit",
    }
}

// ------------------------------------------------------------------------------------------------------- the columns

/// The columns of a step's subscription, for the rows that fit.
#[derive(Debug, Default)]
pub struct Extracted {
    /// One for each field, one cell for each row of `rows`.
    pub columns: Vec<FieldColumn>,
    /// The rows of the batch that fit; none where all do.
    pub rows: Option<Vec<usize>>,
    /// The rows that do not fit, rising.
    pub rejects: Vec<Reject>,
    /// Tombstones: they have no fields, and pass the step by. Rising.
    pub tombstones: Vec<usize>,
}

/// A row that does not fit.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reject {
    /// The row of the batch.
    pub row: usize,
    /// `decode.…`
    pub code: &'static str,
    /// For people: which field, what was wanted, what was found. No payload.
    pub message: String,
}

/// Extracts the fields of one step.
pub struct Extractor {
    fields: Vec<Field>,
    scanner: Box<dyn Scanner>,
}

impl Extractor {
    /// An extractor of these fields from JSON.
    #[must_use]
    pub fn json(fields: &[Field]) -> Self {
        let scanner = SerdeScanner::new(fields.iter().map(|field| field.path.as_slice()));
        Self { fields: fields.to_vec(), scanner: Box::new(scanner) }
    }

    /// Extracts the columns of a batch. Without fields nothing is looked at and every row fits.
    #[must_use]
    pub fn extract(&self, batch: &Batch) -> Extracted {
        if self.fields.is_empty() {
            return Extracted::default();
        }
        let mut builders: Vec<Builder> = self.fields.iter().map(|field| Builder::new(field.field_type)).collect();
        let mut extracted = Extracted::default();
        let mut fitting = Vec::with_capacity(batch.len());
        let mut found = Vec::new();
        let mut cells = Vec::with_capacity(self.fields.len());
        for row in 0..batch.len() {
            let Some(value) = batch.values.get(row) else {
                extracted.tombstones.push(row);
                continue;
            };
            match self.row(value, &mut found, &mut cells) {
                Ok(()) => {
                    for (builder, cell) in builders.iter_mut().zip(cells.drain(..)) {
                        builder.push(cell);
                    }
                    fitting.push(row);
                }
                Err((code, message)) => extracted.rejects.push(Reject { row, code, message }),
            }
        }
        extracted.columns = builders.into_iter().map(Builder::finish).collect();
        extracted.rows = (fitting.len() < batch.len()).then_some(fitting);
        extracted
    }

    fn row<'v>(
        &self,
        value: &'v [u8],
        found: &mut Vec<Option<&'v str>>,
        cells: &mut Vec<Option<Typed<'v>>>,
    ) -> Result<(), (&'static str, String)> {
        cells.clear();
        self.scanner.scan(value, found).map_err(|malformed| (malformed.code, malformed.message))?;
        for (field, raw) in self.fields.iter().zip(found.iter()) {
            let (cell, policy) = match raw {
                None | Some("null") => (None, field.on_missing),
                Some(raw) => match typed(raw, field.field_type) {
                    Some(cell) => {
                        cells.push(Some(cell));
                        continue;
                    }
                    None => (Some(*raw), field.on_mismatch),
                },
            };
            if policy == Policy::Reject {
                return Err(refusal(field, cell));
            }
            cells.push(None);
        }
        Ok(())
    }
}

fn refusal(field: &Field, found: Option<&str>) -> (&'static str, String) {
    let path = field.path.join(".");
    match found {
        None => ("decode.missing_field", format!("field {path} is missing or null")),
        Some(raw) => {
            let wanted = wanted(field.field_type);
            ("decode.wrong_type", format!("field {path}: {wanted} is wanted, {} was found", kind(raw)))
        }
    }
}

/// Symbols that are found without a hash.
const SYMBOLS_COMPARED: usize = 8;

/// Builds one column in the layout of `wit/types.wit`.
struct Builder {
    field_type: FieldType,
    rows: usize,
    column: FieldColumn,
    has_null: bool,
    /// Symbols seen beyond [`SYMBOLS_COMPARED`]: text to index. All texts stand in `column.data`, their ends in
    /// `symbol_ends`.
    symbols: HashMap<Box<str>, u32>,
    symbol_ends: Vec<u32>,
}

impl Builder {
    fn new(field_type: FieldType) -> Self {
        let mut column = FieldColumn::default();
        if matches!(field_type, FieldType::Text | FieldType::Bytes | FieldType::Json) {
            column.values.extend_from_slice(&0_u32.to_le_bytes());
        }
        Self { field_type, rows: 0, column, has_null: false, symbols: HashMap::new(), symbol_ends: Vec::new() }
    }

    fn push(&mut self, cell: Option<Typed<'_>>) {
        if self.rows.is_multiple_of(8) {
            self.column.validity.push(0);
        }
        if cell.is_some() {
            let last = self.column.validity.last_mut().expect("a byte was pushed for this row");
            *last |= 1 << (self.rows % 8);
        } else {
            self.has_null = true;
        }
        self.rows += 1;
        match (self.field_type, cell) {
            (FieldType::Boolean, Some(Typed::Boolean(value))) => self.column.values.push(u8::from(value)),
            (FieldType::Boolean, _) => self.column.values.push(0),
            (FieldType::S64, Some(Typed::S64(value))) => self.column.values.extend_from_slice(&value.to_le_bytes()),
            (FieldType::F64, Some(Typed::F64(value))) => self.column.values.extend_from_slice(&value.to_le_bytes()),
            (FieldType::S64 | FieldType::F64, _) => self.column.values.extend_from_slice(&[0; 8]),
            (FieldType::Symbol, Some(Typed::Text(text))) => self.push_symbol(&text),
            (FieldType::Symbol, _) => self.push_symbol(""),
            (_, Some(Typed::Text(text))) => self.push_bytes(text.as_bytes()),
            (_, Some(Typed::Bytes(bytes))) => self.push_bytes(&bytes),
            (_, _) => self.push_bytes(&[]),
        }
    }

    fn push_bytes(&mut self, bytes: &[u8]) {
        self.column.data.extend_from_slice(bytes);
        self.column.values.extend_from_slice(&(self.column.data.len() as u32).to_le_bytes());
    }

    fn push_symbol(&mut self, text: &str) {
        let index = self.symbol(text).unwrap_or_else(|| {
            let index = self.symbol_ends.len() as u32;
            if index as usize >= SYMBOLS_COMPARED {
                self.symbols.insert(text.into(), index);
            }
            self.column.data.extend_from_slice(text.as_bytes());
            self.symbol_ends.push(self.column.data.len() as u32);
            index
        });
        self.column.values.extend_from_slice(&index.to_le_bytes());
    }

    /// The index of a text that was seen: the first few are compared one by one, which is quicker than any hash.
    fn symbol(&self, text: &str) -> Option<u32> {
        let mut start = 0;
        for (index, end) in self.symbol_ends.iter().take(SYMBOLS_COMPARED).enumerate() {
            let end = *end as usize;
            if &self.column.data[start..end] == text.as_bytes() {
                return Some(index as u32);
            }
            start = end;
        }
        if self.symbols.is_empty() { None } else { self.symbols.get(text).copied() }
    }

    fn finish(mut self) -> FieldColumn {
        if !self.has_null {
            self.column.validity.clear();
        }
        if self.field_type == FieldType::Symbol {
            let mut dictionary = Vec::with_capacity(8 + self.symbol_ends.len() * 4 + self.column.data.len());
            dictionary.extend_from_slice(&(self.symbol_ends.len() as u32).to_le_bytes());
            dictionary.extend_from_slice(&0_u32.to_le_bytes());
            for end in &self.symbol_ends {
                dictionary.extend_from_slice(&end.to_le_bytes());
            }
            dictionary.extend_from_slice(&self.column.data);
            self.column.data = dictionary;
        }
        self.column
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::record::{Offset, TopicPartition};

    fn field(path: &[&str], field_type: FieldType, policy: Policy) -> Field {
        let path = path.iter().map(ToString::to_string).collect();
        Field { path, field_type, on_missing: policy, on_mismatch: policy }
    }

    fn batch(values: &[&[u8]]) -> Batch {
        let mut batch = Batch::new(TopicPartition::new("t", 0));
        for (offset, value) in values.iter().enumerate() {
            batch.push(Offset(offset as i64), None, None, Some(value), []);
        }
        batch
    }

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

    #[test]
    fn numbers_never_saturate_nor_round() {
        for (raw, s64, f64) in [
            ("7", Some(7), Some(7.0)),
            ("7.0", None, Some(7.0)),
            ("1e3", None, Some(1000.0)),
            ("9223372036854775808", None, Some(9.223_372_036_854_776e18)),
            ("1e400", None, None),
            ("\"7\"", None, None),
        ] {
            assert_eq!(
                typed(raw, FieldType::S64).map(|t| matches!(t, Typed::S64(v) if Some(v) == s64)),
                s64.map(|_| true)
            );
            let read = typed(raw, FieldType::F64).and_then(|t| if let Typed::F64(v) = t { Some(v) } else { None });
            assert_eq!(read, f64, "{raw}");
        }
    }

    #[test]
    fn policies_decide_and_rows_stay_aligned() {
        let fields = [field(&["n"], FieldType::S64, Policy::Reject), field(&["s"], FieldType::Text, Policy::Null)];
        let batch = batch(&[
            br#"{"n":1,"s":"a\u00e9"}"#,
            br#"{"s":"x"}"#,
            br#"{"n":"1"}"#,
            br#"{"n":2,"s":"\ud800"}"#,
            br#"{"n":3,"s":null}"#,
        ]);
        let extracted = Extractor::json(&fields).extract(&batch);
        assert_eq!(extracted.rows, Some(vec![0, 3, 4]));
        let codes: Vec<_> = extracted.rejects.iter().map(|reject| (reject.row, reject.code)).collect();
        assert_eq!(codes, [(1, "decode.missing_field"), (2, "decode.wrong_type")]);
        assert_eq!(extracted.columns[0].values, [1_i64, 2, 3].map(i64::to_le_bytes).concat());
        assert_eq!(extracted.columns[1].validity, [0b001]);
        assert_eq!(extracted.columns[1].data, "aé".as_bytes());
    }

    #[test]
    fn many_symbols_keep_their_places() {
        let values: Vec<_> = (0..100).map(|n| format!(r#"{{"c":"s{}"}}"#, n * 7 % 40)).collect();
        let batch = batch(&values.iter().map(String::as_bytes).collect::<Vec<_>>());
        let column = &Extractor::json(&[field(&["c"], FieldType::Symbol, Policy::Reject)]).extract(&batch).columns[0];
        let word = |table: &[u8], at: usize| u32::from_le_bytes(table[at * 4..at * 4 + 4].try_into().unwrap()) as usize;
        assert_eq!(word(&column.data, 0), 40);
        let bytes = &column.data[4 + 41 * 4..];
        for (row, value) in values.iter().enumerate() {
            let index = word(&column.values, row);
            let text = &bytes[word(&column.data, 1 + index)..word(&column.data, 2 + index)];
            assert!(value.contains(&format!("\"{}\"", std::str::from_utf8(text).unwrap())), "{row}: {value}");
        }
    }

    #[test]
    fn symbols_share_a_dictionary() {
        let batch = batch(&[br#"{"c":"de"}"#, br#"{"c":"fr"}"#, br#"{"c":"de"}"#]);
        let column = &Extractor::json(&[field(&["c"], FieldType::Symbol, Policy::Reject)]).extract(&batch).columns[0];
        assert_eq!(column.values, [0_u32, 1, 0].map(u32::to_le_bytes).concat());
        assert_eq!(column.data, [&[2_u32, 0, 2, 4].map(u32::to_le_bytes).concat()[..], b"defr"].concat());
    }
}
