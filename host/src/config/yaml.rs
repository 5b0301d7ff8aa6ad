//! YAML text to a tree in which every key and value knows its place.
//!
//! In: text. Out: a tree, and what is wrong with the text as YAML. A syntax error costs as little as possible: what is
//! on its line, and on those that are indented below it, is passed over, so that one slip does not hide the other
//! mistakes of its file. Duplicate keys, tags, further documents and aliases without anchor are found here. Never
//! looks at what the keys mean.

use std::collections::HashMap;

use saphyr_parser::{Event, Parser, ScalarStyle, Span};

/// Containers within containers.
const DEPTH_MAX: usize = 64;
/// Values in a file, aliases written out: bounds what a few nested aliases can grow to.
const NODES_MAX: usize = 50_000;
/// Syntax errors named in one file.
const SYNTAX_ERRORS_MAX: usize = 8;

/// A place in a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Place {
    /// From 1.
    pub(super) line: usize,
    /// From 1, in characters.
    pub(super) column: usize,
}

/// A value and its place.
#[derive(Debug, Clone)]
pub(super) struct Node {
    pub(super) place: Place,
    pub(super) data: Data,
}

/// What a value is.
#[derive(Debug, Clone)]
pub(super) enum Data {
    /// Nothing stands there.
    Null,
    /// A substitution gave nothing: as if the key were not there.
    Absent,
    /// Already reported.
    Broken,
    Scalar(Scalar),
    List(Vec<Node>),
    Map(Vec<Entry>),
}

/// Text, a number, true or false.
#[derive(Debug, Clone)]
pub(super) struct Scalar {
    pub(super) text: String,
    /// Without quotes: may be a number, true or false.
    pub(super) plain: bool,
    /// What the file says, where `text` came out of a substitution and must not show.
    pub(super) shown: Option<String>,
}

/// One key of a mapping.
#[derive(Debug, Clone)]
pub(super) struct Entry {
    pub(super) key: String,
    pub(super) place: Place,
    pub(super) value: Node,
}

/// Something wrong with the text itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Flaw {
    pub(super) place: Place,
    /// The key path around it, as far as known.
    pub(super) key: String,
    pub(super) found: String,
    pub(super) remedy: String,
}

/// A parsed file.
#[derive(Debug)]
pub(super) struct Parsed {
    pub(super) root: Node,
    pub(super) flaws: Vec<Flaw>,
    /// Some of the text could not be read: that a key is absent means nothing.
    pub(super) partial: bool,
}

/// Parses a file.
pub(super) fn parse(text: &str) -> Parsed {
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    let mut lines: Vec<&str> = text.split('\n').collect();
    let mut flaws = Vec::new();
    loop {
        let mut loader = Loader::new(&lines);
        let stopped = loader.run(&lines.join("\n"));
        let root = loader.root.take();
        let Some(stop) = stopped else {
            let partial = !flaws.is_empty();
            flaws.append(&mut loader.flaws);
            return Parsed { root: root.unwrap_or(NOTHING), flaws, partial };
        };
        flaws.push(stop.flaw);
        if flaws.len() >= SYNTAX_ERRORS_MAX || !blank(&mut lines, stop.line) {
            return Parsed { root: root.unwrap_or(NOTHING), flaws, partial: true };
        }
    }
}

const NOTHING: Node = Node { place: Place { line: 1, column: 1 }, data: Data::Null };

/// Blanks the line with a syntax error, and those that are indented below it, so that the rest can be read. False where
/// nothing is left to blank.
fn blank(lines: &mut [&str], line: usize) -> bool {
    let indent = |text: &str| text.len() - text.trim_start().len();
    let Some(at) = lines.iter().take(line).rposition(|text| !text.trim().is_empty()) else { return false };
    let Some((bad, below)) = lines.get_mut(at..).and_then(<[&str]>::split_first_mut) else { return false };
    let depth = indent(bad);
    *bad = "";
    for text in below {
        if !text.trim().is_empty() && indent(text) <= depth {
            break;
        }
        *text = "";
    }
    true
}

/// Where reading stopped.
struct Stop {
    flaw: Flaw,
    /// The line, from 1, that is to blame; 0 where reading cannot go on without it.
    line: usize,
}

/// Adds a key, unless it stands there already.
fn add_entry(entries: &mut Vec<Entry>, entry: Entry, path: &str, flaws: &mut Vec<Flaw>) {
    if entry.key.is_empty() {
        // Already reported.
        entries.push(entry);
    } else if let Some(first) = entries.iter().find(|known| known.key == entry.key) {
        flaws.push(Flaw {
            place: entry.place,
            key: join(path, &entry.key),
            found: format!("the key `{}` stands here a second time, after line {}", entry.key, first.place.line),
            remedy: "keep one of the two".to_owned(),
        });
    } else {
        entries.push(entry);
    }
}

/// A key below a path.
pub(super) fn join(path: &str, key: &str) -> String {
    match (path, key) {
        ("", key) => key.to_owned(),
        // A key that was already reported has no name.
        (path, "") => path.to_owned(),
        (path, key) => format!("{path}.{key}"),
    }
}

/// A container whose end has not come yet.
struct Open {
    place: Place,
    anchor: usize,
    path: String,
    flow: bool,
    data: OpenData,
}

enum OpenData {
    List(Vec<Node>),
    Map { entries: Vec<Entry>, key: Option<(String, Place)> },
}

struct Loader<'l> {
    lines: &'l [&'l str],
    stack: Vec<Open>,
    anchors: HashMap<usize, Node>,
    root: Option<Node>,
    documents: usize,
    nodes: usize,
    flaws: Vec<Flaw>,
}

impl<'l> Loader<'l> {
    fn new(lines: &'l [&'l str]) -> Self {
        Self {
            lines,
            stack: Vec::new(),
            anchors: HashMap::new(),
            root: None,
            documents: 0,
            nodes: 0,
            flaws: Vec::new(),
        }
    }

    /// Reads to the end, or to a syntax error.
    fn run(&mut self, text: &str) -> Option<Stop> {
        let mut parser = Parser::new_from_str(text);
        while let Some(event) = parser.next_event() {
            match event {
                Ok((event, span)) => self.take(event, span),
                Err(error) => {
                    let place = self.place(error.marker().line(), error.marker().col());
                    return Some(self.stop(place, error.info()));
                }
            }
            if self.nodes > NODES_MAX || self.stack.len() > DEPTH_MAX {
                let place = self.stack.last().map_or(NOTHING.place, |open| open.place);
                let mut stop = self.stop(place, "");
                stop.flaw.found = "too many values, or too deeply nested".to_owned();
                stop.flaw.remedy = format!(
                    "write at most {NODES_MAX} values, those of aliases counted where they are used, and {DEPTH_MAX} levels"
                );
                // What follows would be read without what stands here.
                stop.line = 0;
                return Some(stop);
            }
        }
        None
    }

    fn place(&self, line: usize, column: usize) -> Place {
        Place { line: line.clamp(1, self.lines.len().max(1)), column: column + 1 }
    }

    fn take(&mut self, event: Event<'_>, span: Span) {
        let place = self.place(span.start.line(), span.start.col());
        match event {
            Event::DocumentStart(_) => {
                self.documents += 1;
                if self.documents == 2 {
                    self.flaw(place, "a second document begins here", "remove the line `---`, and what follows it");
                }
            }
            Event::Scalar(text, style, anchor, tag) => {
                let mut plain = style == ScalarStyle::Plain;
                if let Some(tag) = tag {
                    plain &= tag.is_yaml_core_schema() && tag.suffix != "str";
                    self.refuse_tag(place, &tag);
                }
                self.scalar(place, text.into_owned(), plain, anchor);
            }
            Event::SequenceStart(anchor, tag) => {
                tag.iter().for_each(|tag| self.refuse_tag(place, tag));
                self.open(place, anchor, OpenData::List(Vec::new()));
            }
            Event::MappingStart(anchor, tag) => {
                tag.iter().for_each(|tag| self.refuse_tag(place, tag));
                self.open(place, anchor, OpenData::Map { entries: Vec::new(), key: None });
            }
            Event::SequenceEnd | Event::MappingEnd => {
                if let Some(open) = self.stack.pop() {
                    self.close(open);
                }
            }
            Event::Alias(anchor) => {
                let node = self.anchors.get(&anchor).map_or(Data::Broken, |node| node.data.clone());
                if matches!(node, Data::Broken) {
                    self.flaw(place, "this alias has no anchor before it", "write the value out");
                }
                self.nodes += count(&node);
                self.value(Node { place, data: node }, 0);
            }
            Event::Nothing | Event::StreamStart | Event::StreamEnd | Event::DocumentEnd => {}
        }
    }

    fn refuse_tag(&mut self, place: Place, tag: &saphyr_parser::Tag) {
        if !tag.is_yaml_core_schema() {
            self.flaw(place, &format!("the tag `{tag}` means nothing here"), "remove it");
        }
    }

    fn open(&mut self, place: Place, anchor: usize, data: OpenData) {
        let path = self.path_here();
        // A container in the place of a key: the mapping below it reports it when the key would be used.
        let flow = self
            .lines
            .get(place.line - 1)
            .and_then(|line| line.chars().nth(place.column - 1))
            .is_some_and(|first| matches!(first, '[' | '{'));
        self.stack.push(Open { place, anchor, path, flow, data });
    }

    /// The path of the value that comes next.
    fn path_here(&self) -> String {
        match self.stack.last() {
            None => String::new(),
            Some(open) => match &open.data {
                OpenData::List(items) => format!("{}[{}]", open.path, items.len()),
                OpenData::Map { key: Some((key, _)), .. } => join(&open.path, key),
                OpenData::Map { key: None, .. } => open.path.clone(),
            },
        }
    }

    fn close(&mut self, open: Open) {
        let data = match open.data {
            OpenData::List(items) => Data::List(items),
            OpenData::Map { entries, .. } => Data::Map(entries),
        };
        self.value(Node { place: open.place, data }, open.anchor);
    }

    fn scalar(&mut self, place: Place, text: String, plain: bool, anchor: usize) {
        let is_null = plain && matches!(text.as_str(), "" | "~" | "null" | "Null" | "NULL");
        if let Some(Open { data: OpenData::Map { key: key @ None, .. }, .. }) = self.stack.last_mut() {
            let is_merge = plain && text == "<<";
            let text = if is_merge { String::new() } else { text };
            let is_empty = text.is_empty();
            *key = Some((text, place));
            if is_merge {
                self.flaw(
                    place,
                    "merge keys (`<<`) are not read here",
                    "write the keys out; an alias may stand for a whole value",
                );
            } else if is_empty {
                self.flaw(place, "a key has no name", "write the key's name before the colon");
            }
            return;
        }
        let data = if is_null { Data::Null } else { Data::Scalar(Scalar { text, plain, shown: None }) };
        self.value(Node { place, data }, anchor);
    }

    fn value(&mut self, node: Node, anchor: usize) {
        self.nodes += 1;
        if anchor > 0 {
            self.anchors.insert(anchor, node.clone());
        }
        let Some(open) = self.stack.last_mut() else {
            if self.root.is_none() {
                self.root = Some(node);
            }
            return;
        };
        match &mut open.data {
            OpenData::List(items) => items.push(node),
            OpenData::Map { entries, key } => match key.take() {
                Some((key, place)) => {
                    let entry = Entry { key, place, value: node };
                    add_entry(entries, entry, &open.path, &mut self.flaws);
                }
                None => {
                    *key = Some((String::new(), node.place));
                    let place = node.place;
                    self.flaw(place, "a list or a mapping stands where a key belongs", "write the key as text");
                }
            },
        }
    }

    fn flaw(&mut self, place: Place, found: &str, remedy: &str) {
        self.flaws.push(Flaw { place, key: self.path_here(), found: found.to_owned(), remedy: remedy.to_owned() });
    }

    /// A syntax error; keeps what was complete before it.
    fn stop(&mut self, place: Place, info: &str) -> Stop {
        let unclosed = self.stack.iter().find(|open| open.flow).map(|open| open.place);
        let line = self.lines.get(place.line - 1).copied().unwrap_or_default();
        let remedy = match unclosed {
            Some(open) if open.line < place.line => {
                format!("the bracket that opens at {}:{} may not be closed", open.line, open.column)
            }
            _ => syntax_remedy(line, info).to_owned(),
        };
        let flaw = Flaw { place, key: self.path_here(), found: format!("this is not YAML: {info}"), remedy };
        while let Some(mut open) = self.stack.pop() {
            match &mut open.data {
                // Half a list would only give rise to mistakes that nobody made.
                OpenData::List(_) if open.flow => self.value(Node { place: open.place, data: Data::Broken }, 0),
                OpenData::Map { entries, key: Some((key, place)) } => {
                    let value = Node { place: *place, data: Data::Broken };
                    entries.push(Entry { key: std::mem::take(key), place: *place, value });
                    self.close(open);
                }
                _ => self.close(open),
            }
        }
        Stop { flaw, line: unclosed.map_or(place.line, |open| open.line) }
    }
}

fn count(data: &Data) -> usize {
    match data {
        Data::List(items) => items.iter().map(|item| 1 + count(&item.data)).sum(),
        Data::Map(entries) => entries.iter().map(|entry| 1 + count(&entry.value.data)).sum(),
        _ => 0,
    }
}

/// What usually stands behind a syntax error on this line.
fn syntax_remedy(line: &str, info: &str) -> &'static str {
    let content = line.trim_start();
    if line.contains("${") && line.contains(['[', '{']) {
        "put quotes around `${…}` inside of [ ] and { }: [\"${NAME}\"]"
    } else if line.get(..line.len() - content.len()).is_some_and(|indent| indent.contains('\t')) {
        "indent with spaces, not with tabs"
    } else if info.contains("unprintable") {
        "remove the control character here"
    } else if info.contains("anchor") {
        "write the value out; text that begins with `*` or `&` needs quotes"
    } else if content.starts_with(['@', '`', '%', '*', '&', '!']) || content.contains(": @") || content.contains(": `")
    {
        "put quotes around text that begins with a special character"
    } else if content.matches(": ").count() > 1 && !content.contains(['{', '"', '\'']) {
        "put quotes around text that contains `: `"
    } else {
        "look at the indentation, the brackets and the quotes here and on the line before"
    }
}
