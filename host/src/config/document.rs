//! One file on its way from text to valid types.
//!
//! In: a tree of values with places. Out: typed values, asked for key by key, and a [`Problem`] for each that does not
//! fit; whoever reads goes on with the next key. A table closes itself: keys that nobody asked for are mistakes too.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use super::files::FILE_BYTES_MAX;
use super::suggest::nearest;
use super::yaml::{self, Data, Entry, Flaw, Node, Place, Scalar};
use super::{Environment, Mask, Positions, Problem, Severity, substitute};

/// Characters of a wrong value that an error repeats.
const SHOWN_MAX: usize = 60;

/// What is found while a project is read.
#[derive(Debug, Default)]
pub(super) struct Findings {
    pub(super) problems: RefCell<Vec<Problem>>,
    pub(super) positions: RefCell<Positions>,
    pub(super) mask: RefCell<Mask>,
    /// Every key that was asked for: what the commented default files must explain.
    pub(super) known: RefCell<BTreeSet<String>>,
}

/// A file that was read.
pub(super) struct Document<'f> {
    /// Relative to the project directory.
    pub(super) file: String,
    /// The pipeline that it describes.
    pub(super) pipeline: Option<String>,
    /// Some of it could not be read: that a key is absent means nothing.
    pub(super) partial: bool,
    pub(super) findings: &'f Findings,
    root: Node,
}

impl<'f> Document<'f> {
    /// Parses a file and fills in its substitutions.
    pub(super) fn parse(
        file: &str,
        pipeline: Option<&str>,
        text: &[u8],
        dir: &Path,
        environment: &dyn Environment,
        findings: &'f Findings,
    ) -> Self {
        let mut document = Self {
            file: file.to_owned(),
            pipeline: pipeline.map(str::to_owned),
            partial: true,
            findings,
            root: Node { place: Place { line: 1, column: 1 }, data: Data::Null },
        };
        let top = Place { line: 1, column: 1 };
        if text.len() > FILE_BYTES_MAX {
            document.problem(top, "", "the file is larger than 4 MiB", "keep data out of configuration files");
            return document;
        }
        let text = match std::str::from_utf8(text) {
            Ok(text) => text,
            Err(error) => {
                let before = text.get(..error.valid_up_to()).unwrap_or_default();
                let line = 1 + before.iter().filter(|byte| **byte == b'\n').count();
                let in_line = before.rsplit(|byte| *byte == b'\n').next().unwrap_or_default();
                let column = 1 + String::from_utf8_lossy(in_line).chars().count();
                let found = "the file is not UTF-8 text";
                document.problem(Place { line, column }, "", found, "save it as UTF-8");
                return document;
            }
        };
        let parsed = yaml::parse(text);
        document.root = parsed.root;
        document.partial = parsed.partial;
        for Flaw { place, key, found, remedy } in parsed.flaws {
            document.problem(place, &key, found, remedy);
        }
        let mut root = std::mem::replace(&mut document.root, Node { place: top, data: Data::Null });
        document.fill(&mut root, "", dir, environment);
        document.root = root;
        document
    }

    /// The whole file.
    pub(super) fn root(&self) -> Value<'_> {
        Value { document: self, path: String::new(), key_place: self.root.place, node: &self.root }
    }

    /// Notes a mistake.
    pub(super) fn problem(&self, place: Place, key: &str, found: impl Into<String>, remedy: impl Into<String>) {
        self.findings.problems.borrow_mut().push(Problem {
            severity: Severity::Error,
            file: self.file.clone(),
            line: place.line,
            column: place.column,
            pipeline: self.pipeline.clone(),
            key: key.to_owned(),
            found: found.into(),
            remedy: remedy.into(),
        });
    }

    /// Substitutes in every value below a node, and notes where its keys stand.
    fn fill(&self, node: &mut Node, path: &str, dir: &Path, environment: &dyn Environment) {
        match &mut node.data {
            Data::Scalar(scalar) => {
                if let Some(data) = self.fill_scalar(scalar, node.place, path, dir, environment) {
                    node.data = data;
                }
            }
            Data::List(items) => {
                for (index, item) in items.iter_mut().enumerate() {
                    let path = format!("{path}[{index}]");
                    self.note(&path, item.place);
                    self.fill(item, &path, dir, environment);
                }
            }
            Data::Map(entries) => {
                for entry in entries {
                    let path = yaml::join(path, &entry.key);
                    self.note(&path, entry.place);
                    self.fill(&mut entry.value, &path, dir, environment);
                }
            }
            Data::Null | Data::Absent | Data::Broken => {}
        }
    }

    fn note(&self, path: &str, place: Place) {
        self.findings.positions.borrow_mut().insert(&self.file, path.to_owned(), place.line, place.column);
    }

    fn fill_scalar(
        &self,
        scalar: &mut Scalar,
        place: Place,
        path: &str,
        dir: &Path,
        environment: &dyn Environment,
    ) -> Option<Data> {
        match substitute::substitute(&scalar.text, dir, environment) {
            Ok(None) => None,
            Ok(Some(text)) if text.is_empty() => Some(Data::Absent),
            Ok(Some(text)) => {
                self.findings.mask.borrow_mut().add(&text);
                scalar.shown = Some(std::mem::replace(&mut scalar.text, text));
                None
            }
            Err(missing) => {
                for missing in missing {
                    let before = scalar.text.get(..missing.at).unwrap_or_default();
                    let quote = usize::from(!scalar.plain);
                    // In text of several lines the place within it is anybody's guess.
                    let column = if before.contains('\n') { 0 } else { before.chars().count() + quote };
                    let place = Place { column: place.column + column, ..place };
                    self.problem(place, path, missing.found, missing.remedy);
                }
                Some(Data::Broken)
            }
        }
    }
}

/// A value on its way to a type.
#[derive(Clone)]
pub(super) struct Value<'a> {
    pub(super) document: &'a Document<'a>,
    /// The key path.
    pub(super) path: String,
    /// Where its key stands; where it stands itself, in a list.
    pub(super) key_place: Place,
    node: &'a Node,
}

impl<'a> Value<'a> {
    /// Notes that this value is a mistake.
    pub(super) fn problem(&self, found: impl Into<String>, remedy: impl Into<String>) {
        self.document.problem(self.node.place, &self.path, found, remedy);
    }

    /// Notes a warning.
    pub(super) fn warning(&self, found: impl Into<String>, remedy: impl Into<String>) {
        self.problem(found, remedy);
        if let Some(problem) = self.document.findings.problems.borrow_mut().last_mut() {
            problem.severity = Severity::Warning;
        }
    }

    /// Notes that something else belongs here.
    pub(super) fn expected(&self, what: &str) {
        let here = self.describe();
        self.problem(format!("found {here}"), format!("write {what}"));
    }

    /// Notes that a key has no value. In a file that could only be read in part, it may have had one.
    fn nothing(&self, what: &str) {
        if !self.document.partial {
            let remedy = format!("write {what}");
            self.document.problem(self.key_place, &self.path, "the key has no value", remedy);
        }
    }

    /// The value in words; never what a substitution gave.
    pub(super) fn describe(&self) -> String {
        match &self.node.data {
            Data::Null | Data::Absent | Data::Broken => "nothing".to_owned(),
            Data::List(_) => "a list".to_owned(),
            Data::Map(_) => "a mapping".to_owned(),
            Data::Scalar(Scalar { shown: Some(shown), .. }) => format!("the value of `{}`", shorten(shown)),
            Data::Scalar(scalar) => {
                let kind = match scalar_json(scalar) {
                    Some(serde_json::Value::Bool(_)) => "",
                    Some(serde_json::Value::Number(_)) => "the number ",
                    _ => "the text ",
                };
                format!("{kind}`{}`", shorten(&scalar.text))
            }
        }
    }

    /// The scalar in backticks, for a sentence; never what a substitution gave.
    pub(super) fn quoted(&self) -> String {
        match &self.node.data {
            Data::Scalar(Scalar { shown: None, text, .. }) => format!("`{}`", shorten(text)),
            _ => self.describe(),
        }
    }

    /// The value at a path of keys below this one.
    pub(super) fn below(&self, keys: &[&str]) -> Option<Value<'a>> {
        let Some((key, rest)) = keys.split_first() else { return Some(self.clone()) };
        let Data::Map(entries) = &self.node.data else { return None };
        let entry = entries.iter().find(|entry| entry.key == *key)?;
        self.child(entry).below(rest)
    }

    /// Whether the value came out of a substitution.
    pub(super) fn is_substituted(&self) -> bool {
        matches!(&self.node.data, Data::Scalar(Scalar { shown: Some(_), .. }))
    }

    /// Whether it, or an item of it, came out of a substitution.
    pub(super) fn is_substituted_below(&self) -> bool {
        match &self.node.data {
            Data::List(_) => self.items("").unwrap_or_default().iter().any(Value::is_substituted_below),
            _ => self.is_substituted(),
        }
    }

    /// Whether the value was already reported.
    pub(super) fn is_broken(&self) -> bool {
        matches!(self.node.data, Data::Broken)
    }

    /// Whether it is a mapping.
    pub(super) fn is_map(&self) -> bool {
        matches!(self.node.data, Data::Map(_))
    }

    /// Whether it is a list.
    pub(super) fn is_list(&self) -> bool {
        matches!(self.node.data, Data::List(_))
    }

    /// Whether nothing stands here.
    pub(super) fn is_null(&self) -> bool {
        matches!(self.node.data, Data::Null)
    }

    /// The scalar's text, whatever it looks like.
    pub(super) fn scalar(&self) -> Option<&'a str> {
        match &self.node.data {
            Data::Scalar(scalar) => Some(scalar.text.as_str()),
            _ => None,
        }
    }

    /// A scalar that may be a number, true or false: plain, or filled in.
    pub(super) fn bare(&self) -> Option<&'a str> {
        match &self.node.data {
            Data::Scalar(scalar) if scalar.plain || scalar.shown.is_some() => Some(scalar.text.trim()),
            _ => None,
        }
    }

    /// Text that is not empty; `what` says what belongs here, with an example.
    pub(super) fn text(&self, what: &str) -> Option<String> {
        match &self.node.data {
            Data::Broken => None,
            Data::Scalar(scalar) => {
                let is_text =
                    scalar.shown.is_some() || matches!(scalar_json(scalar), Some(serde_json::Value::String(_)));
                if !is_text {
                    let here = self.describe();
                    self.problem(
                        format!("found {here}"),
                        format!("write {what}; text that looks like a number needs quotes"),
                    );
                    return None;
                }
                if scalar.text.trim().is_empty() {
                    self.problem("found empty text", format!("write {what}"));
                    return None;
                }
                Some(scalar.text.clone())
            }
            _ => {
                self.expected(what);
                None
            }
        }
    }

    /// Each item of a list.
    pub(super) fn items(&self, what: &str) -> Option<Vec<Value<'a>>> {
        match &self.node.data {
            Data::Broken => None,
            Data::List(items) => Some(
                items
                    .iter()
                    .enumerate()
                    .map(|(index, node)| Value {
                        document: self.document,
                        path: format!("{}[{index}]", self.path),
                        key_place: node.place,
                        node,
                    })
                    .collect(),
            ),
            _ => {
                self.expected(what);
                None
            }
        }
    }

    /// Each key of a mapping whose keys are free.
    pub(super) fn entries(&self, what: &str) -> Option<Vec<(&'a str, Value<'a>)>> {
        match &self.node.data {
            Data::Broken => None,
            Data::Map(entries) => Some(entries.iter().map(|entry| (entry.key.as_str(), self.child(entry))).collect()),
            _ => {
                self.expected(what);
                None
            }
        }
    }

    /// A mapping whose keys are known. Keys that `read` did not ask for are mistakes.
    pub(super) fn table<T>(&self, what: &str, read: impl FnOnce(&mut Table<'a>) -> Option<T>) -> Option<T> {
        let entries: &'a [Entry] = match &self.node.data {
            Data::Broken => return None,
            Data::Map(entries) => entries,
            _ => {
                self.expected(what);
                return None;
            }
        };
        let mut table = Table { value: self.clone(), entries, known: Vec::new(), missing: Vec::new() };
        let result = read(&mut table);
        table.close();
        result
    }

    fn child(&self, entry: &'a Entry) -> Value<'a> {
        Value {
            document: self.document,
            path: yaml::join(&self.path, &entry.key),
            key_place: entry.place,
            node: &entry.value,
        }
    }

    /// Any JSON: a plugin's own configuration.
    pub(super) fn json(&self) -> Option<serde_json::Value> {
        match &self.node.data {
            Data::Broken => None,
            Data::Null | Data::Absent => Some(serde_json::Value::Null),
            Data::Scalar(scalar) => {
                let json = scalar_json(scalar);
                if json.is_none() {
                    let here = self.describe();
                    self.problem(
                        format!("{here} is no number that JSON knows"),
                        "write a finite number that fits 64 bits, or quote it as text",
                    );
                }
                json
            }
            Data::List(_) => {
                let items: Vec<_> = self.items("")?.iter().map(Value::json).collect();
                items.into_iter().collect::<Option<Vec<_>>>().map(serde_json::Value::Array)
            }
            Data::Map(_) => {
                let entries: Vec<_> =
                    self.entries("")?.iter().map(|(key, value)| Some(((*key).to_owned(), value.json()?))).collect();
                entries.into_iter().collect::<Option<serde_json::Map<_, _>>>().map(serde_json::Value::Object)
            }
        }
    }
}

/// A mapping, while its keys are asked for.
pub(super) struct Table<'a> {
    pub(super) value: Value<'a>,
    entries: &'a [Entry],
    known: Vec<&'static str>,
    /// Required keys that are absent, with what belongs there.
    missing: Vec<(&'static str, String)>,
}

impl<'a> Table<'a> {
    /// The value of a key; none where it is absent, broken, or filled in with nothing.
    pub(super) fn get(&mut self, key: &'static str) -> Option<Value<'a>> {
        if !self.known.contains(&key) {
            self.known.push(key);
        }
        self.value.document.findings.known.borrow_mut().insert(yaml::join(&self.value.path, key));
        let entry = self.entries.iter().find(|entry| entry.key == key)?;
        match entry.value.data {
            Data::Absent | Data::Broken => None,
            _ => Some(self.value.child(entry)),
        }
    }

    /// Whether the key stands there, whatever its value.
    pub(super) fn has(&self, key: &str) -> bool {
        self.entries.iter().any(|entry| entry.key == key)
    }

    /// Whether the value of a key is not known: it could not be filled in, or the key was most likely misspelt. What is
    /// absent then is no mistake, and what follows from its default none either. Asked after all keys.
    pub(super) fn is_unknown(&self, key: &str) -> bool {
        let is_slip = |entry: &Entry| {
            !self.known.contains(&entry.key.as_str()) && nearest(&entry.key, self.known.iter().copied()) == Some(key)
        };
        self.entries.iter().any(|entry| {
            (entry.key == key && matches!(entry.value.data, Data::Broken)) || (!self.has(key) && is_slip(entry))
        })
    }

    /// The keys as they stand.
    pub(super) fn keys(&self) -> impl Iterator<Item = &'a str> + use<'a> {
        self.entries.iter().map(|entry| entry.key.as_str())
    }

    /// A key that must be there; `what` says what belongs there, with an example.
    pub(super) fn required<T>(
        &mut self,
        key: &'static str,
        what: &str,
        read: impl FnOnce(&Value<'a>) -> Option<T>,
    ) -> Option<T> {
        match self.get(key) {
            Some(value) if value.is_null() => {
                value.nothing(what);
                None
            }
            Some(value) => read(&value),
            None => {
                let is_broken =
                    self.entries.iter().any(|entry| entry.key == key && matches!(entry.value.data, Data::Broken));
                if !is_broken {
                    self.missing.push((key, what.to_owned()));
                }
                None
            }
        }
    }

    /// A key that may be absent. None where it is, or where its value is a mistake.
    pub(super) fn optional<T>(&mut self, key: &'static str, read: impl FnOnce(&Value<'a>) -> Option<T>) -> Option<T> {
        let value = self.get(key)?;
        if value.is_null() {
            value.nothing("a value, or remove the key");
            return None;
        }
        read(&value)
    }

    /// Reports the keys that nobody asked for, and those that are missing.
    fn close(mut self) {
        let document = self.value.document;
        for entry in self.entries {
            // An empty key stands for one that was already reported.
            if entry.key.is_empty() || self.known.contains(&entry.key.as_str()) {
                continue;
            }
            let path = yaml::join(&self.value.path, &entry.key);
            let remedy = match nearest(&entry.key, self.known.iter().copied()) {
                Some(near) => {
                    // One slip of the pen is one mistake.
                    self.missing.retain(|(key, _)| *key != near);
                    if self.entries.iter().any(|entry| entry.key == near) {
                        format!("remove it; `{near}` stands here already")
                    } else {
                        format!("did you mean `{near}`?")
                    }
                }
                None => format!("the keys here are {}", list(self.known.iter().copied())),
            };
            document.problem(entry.place, &path, format!("unknown key `{}`", entry.key), remedy);
        }
        if document.partial {
            return;
        }
        for (key, what) in self.missing {
            let path = yaml::join(&self.value.path, key);
            let found = format!("the key `{key}` is missing");
            document.problem(self.value.key_place, &path, found, format!("write `{key}:` with {what}"));
        }
    }
}

/// Words, each in backticks, with commas.
pub(super) fn list<'w>(words: impl IntoIterator<Item = &'w str>) -> String {
    words.into_iter().map(|word| format!("`{word}`")).collect::<Vec<_>>().join(", ")
}

fn shorten(text: &str) -> String {
    let mut short: String = text.chars().take(SHOWN_MAX).collect();
    if short.len() < text.len() {
        short.push('…');
    }
    short.replace(['\n', '\r'], " ")
}

/// A scalar as JSON, by YAML's core schema; none where JSON has no such number.
fn scalar_json(scalar: &Scalar) -> Option<serde_json::Value> {
    use serde_json::Value as Json;
    let text = scalar.text.as_str();
    if !scalar.plain {
        return Some(Json::String(text.to_owned()));
    }
    match text {
        "true" | "True" | "TRUE" => return Some(Json::Bool(true)),
        "false" | "False" | "FALSE" => return Some(Json::Bool(false)),
        ".inf" | ".Inf" | ".INF" | "+.inf" | "-.inf" | "-.Inf" | "-.INF" | ".nan" | ".NaN" | ".NAN" => return None,
        _ => {}
    }
    let radix = |prefix, radix| text.strip_prefix(prefix).and_then(|digits| u64::from_str_radix(digits, radix).ok());
    if let Some(number) = radix("0x", 16).or_else(|| radix("0o", 8)) {
        return Some(Json::from(number));
    }
    let digits = text.strip_prefix(['+', '-']).unwrap_or(text);
    if !digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_digit()) {
        let unsigned = text.strip_prefix('+').unwrap_or(text);
        return unsigned.parse::<i64>().map(Json::from).or_else(|_| unsigned.parse::<u64>().map(Json::from)).ok();
    }
    if digits.starts_with(|c: char| c.is_ascii_digit() || c == '.')
        && digits.bytes().all(|byte| byte.is_ascii_digit() || matches!(byte, b'.' | b'e' | b'E' | b'+' | b'-'))
        && let Ok(number) = text.parse::<f64>()
    {
        return serde_json::Number::from_f64(number).map(Json::Number);
    }
    Some(Json::String(text.to_owned()))
}

/// Free keys with text for values, whatever the text looks like; nothing of it shows.
pub(super) fn text_entries<'a>(value: &Value<'a>, what: &str) -> BTreeMap<String, (String, Value<'a>)> {
    let mut texts = BTreeMap::new();
    for (key, value) in value.entries(what).unwrap_or_default() {
        match value.scalar() {
            Some(text) => {
                texts.insert(key.to_owned(), (text.to_owned(), value));
            }
            None if value.is_broken() => {}
            None => value.expected("text, a number, true or false"),
        }
    }
    texts
}
