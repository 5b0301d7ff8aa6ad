//! Cases: what is known of each record that could not be handled.
//!
//! In: letters and marks, in any order, repeats among them. Out: for each record one case: its newest letter, how often
//! it was redriven, and whether it is still open. A record is known by its id and its time on the write clock together:
//! a topic that was made anew gives the same offsets again, to other records.
//!
//! ```text
//!  letter ──► Open ──── mark: done ───► Redriven
//!              ▲                           │ asked for again
//!              └── letter of a redrive ◄───┘
//!                  (FailedAgain)
//! ```

use std::collections::{BTreeMap, BTreeSet};

use serde::Serialize;

use super::{Entry, Found, Mark, Place, Reached};
use crate::pipeline::checkpoint::H_MAX;
use crate::pipeline::{DeadLetter, SourceError};
use crate::record::WriteTime;

/// Records in memory at once, bytes; a larger one goes alone.
const SLICE_BYTES: usize = 64 << 20;
/// The id of a letter ends with this.
const ID_END: &str = "/dead-letter";

/// Which record: its letter's id, and its time on the write clock.
pub type CaseKey = (String, i64);

/// A record's time on the write clock: its write time without the epoch.
#[must_use]
pub fn h_of(write_time: WriteTime) -> i64 {
    write_time.0.saturating_sub(write_time.0.rem_euclid(10))
}

/// Whether a write clock gives such times: from 1970 to the end of the year 9999.
#[must_use]
pub fn is_write_time(at: i64) -> bool {
    (0..=H_MAX).contains(&at)
}

/// Whether a letter can be one of ours: anybody may write to where letters lie, and what we count on from here on is what
/// our own clock, a topic and a redrive give.
#[must_use]
pub fn is_letter(letter: &DeadLetter) -> bool {
    is_write_time(letter.write_time.0)
        && (0..i64::MAX).contains(&letter.offset.0)
        && letter.source.partition >= 0
        && letter.timestamp_ms.is_none_or(|ms| ms >= 0)
        && letter.redrives < u32::MAX
}

/// Whether a mark can be one of ours.
#[must_use]
pub fn is_mark(mark: &Mark) -> bool {
    is_write_time(mark.write_time) && mark.h == h_of(WriteTime(mark.write_time)) && mark.redrive > 0
}

/// One record that could not be handled.
#[derive(Debug, Clone, PartialEq)]
pub struct Case {
    /// Its newest letter; whether with the record's own bytes is up to whoever read it.
    pub letter: DeadLetter,
    /// Where that stands.
    pub at: String,
    /// Why the record itself is not to be had.
    pub missing: Option<String>,
    /// Bytes of key, value and headers.
    pub bytes: usize,
    /// Marks of the record's redrives: those that have begun, and those that are done; also those that led to the letter.
    pub marks: Vec<Mark>,
}

/// What is to be done about a case.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum State {
    /// Nobody has redriven it.
    Open,
    /// It was redriven, and could not be handled again.
    FailedAgain,
    /// It was redriven: its outputs are durable, or a plugin let it go.
    Redriven,
}

impl Case {
    /// Which record.
    #[must_use]
    pub fn key(&self) -> CaseKey {
        (self.letter.id.clone(), h_of(self.letter.write_time))
    }

    /// Where it stands with it.
    #[must_use]
    pub fn state(&self) -> State {
        if self.marks.iter().any(|mark| mark.done && self.follows(mark)) {
            State::Redriven
        } else if self.letter.redrives > 0 {
            State::FailedAgain
        } else {
            State::Open
        }
    }

    /// Whether a mark speaks of what came after the letter: a redrive of it, or one beside that which led to it.
    fn follows(&self, mark: &Mark) -> bool {
        mark.redrive > self.letter.redrives || mark.write_time > self.letter.write_time.0
    }

    /// Marks of what may stand at the outputs at the letter's write time or above. A redrive that led to the letter has
    /// left what the letter says; one that is done has left all of it.
    pub fn standing(&self) -> impl Iterator<Item = &Mark> {
        let at = self.letter.write_time.0;
        self.marks.iter().filter(move |mark| self.follows(mark) || mark.done && mark.write_time >= at)
    }

    /// When it became a dead letter, as far as known; else the record's own time.
    #[must_use]
    pub fn at_ms(&self) -> Option<i64> {
        self.letter.at_ms.or(self.letter.timestamp_ms)
    }

    /// Whether an operator means it: by its id, or by topic, partition and offset.
    #[must_use]
    pub fn is_named(&self, id: &str) -> bool {
        let own = self.letter.id.as_str();
        own == id || own.strip_suffix(ID_END) == Some(id) || self.at == id
    }

    /// The plugin that failed it; none where it was something else.
    #[must_use]
    pub fn plugin(&self) -> Option<&str> {
        self.letter.stage.strip_prefix("transform:")
    }
}

/// Which cases are meant; all where nothing is asked for.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Filter {
    /// By id.
    pub ids: Vec<String>,
    /// By code.
    pub code: Option<String>,
    /// By the plugin that failed them.
    pub plugin: Option<String>,
    /// That became dead letters at or after this, milliseconds since the Unix epoch.
    pub since_ms: Option<i64>,
}

impl Filter {
    /// Whether a case is meant.
    #[must_use]
    pub fn takes(&self, case: &Case) -> bool {
        (self.ids.is_empty() || self.ids.iter().any(|id| case.is_named(id)))
            && self.code.as_ref().is_none_or(|code| *code == case.letter.code)
            && self.plugin.as_deref().is_none_or(|plugin| case.plugin() == Some(plugin))
            && self.since_ms.is_none_or(|since| case.at_ms().is_none_or(|at| at >= since))
    }
}

impl Filter {
    /// Why it takes nothing: no letter has its code, though there are letters; says which codes there are.
    #[must_use]
    pub fn unknown_code<'c>(&self, codes: impl IntoIterator<Item = &'c str>) -> Option<String> {
        let wanted = self.code.as_deref()?;
        let codes: BTreeSet<&str> = codes.into_iter().collect();
        if codes.is_empty() || codes.contains(wanted) {
            return None;
        }
        let known: Vec<&str> = codes.into_iter().collect();
        Some(format!("no dead letter has the code {wanted}; there is {}", known.join(", ")))
    }
}

/// What lies in a place for one pipeline.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Cases {
    /// By record.
    pub cases: BTreeMap<CaseKey, Case>,
    /// What is no letter of ours: how much, and where the first stands.
    pub foreign: (u64, Option<String>),
    /// How far the place was read.
    pub reached: Reached,
}

impl Cases {
    /// Reads the letters of a pipeline. The records' own bytes are kept of those that `keep` says.
    ///
    /// # Errors
    /// Where the place cannot be read.
    pub async fn read(
        place: &dyn Place,
        pipeline: &str,
        keep: impl Fn(&CaseKey) -> bool + Send + Sync,
    ) -> Result<Self, SourceError> {
        let (mut cases, mut marks) = (Self::default(), Vec::new());
        let reached = place
            .read(&Reached::default(), &mut |entry| match entry {
                Entry::Letter(found) if found.letter.pipeline == pipeline => cases.letter(*found, &keep),
                Entry::Letter(_) => {}
                Entry::Marks(found) => marks.extend(found.into_iter().filter(|mark| mark.pipeline == pipeline)),
                Entry::Foreign(at) => {
                    cases.foreign.0 += 1;
                    cases.foreign.1.get_or_insert(at);
                }
            })
            .await?;
        for mark in marks {
            cases.mark(mark);
        }
        cases.reached = reached;
        Ok(cases)
    }

    /// The codes of its letters.
    pub fn codes(&self) -> impl Iterator<Item = &str> {
        self.cases.values().map(|case| case.letter.code.as_str())
    }

    fn letter(&mut self, found: Found, keep: &impl Fn(&CaseKey) -> bool) {
        let Found { mut letter, at, missing } = found;
        let key = (letter.id.clone(), h_of(letter.write_time));
        if let Some(known) = self.cases.get(&key)
            // Of several redrives at once the highest write time counts. A repeat says the same; one that is whole says more.
            && (known.letter.redrives, known.letter.write_time, known.missing.is_none())
                > (letter.redrives, letter.write_time, missing.is_none())
        {
            return;
        }
        let part = |part: &Option<Vec<u8>>| part.as_ref().map_or(0, Vec::len);
        let bytes = part(&letter.key) + part(&letter.value) + letter.headers.len();
        if !keep(&key) {
            (letter.key, letter.value, letter.headers) = (None, None, Vec::new());
        }
        self.cases.insert(key, Case { letter, at, missing, bytes, marks: Vec::new() });
    }

    fn mark(&mut self, mark: Mark) {
        if let Some(case) = self.cases.get_mut(&(mark.id.clone(), mark.h)) {
            case.marks.push(mark);
        }
    }
}

/// Records, each with its size in bytes, in parts of which each may be in memory as a whole.
#[must_use]
pub fn slices(chosen: &[(CaseKey, usize)]) -> Vec<BTreeSet<CaseKey>> {
    let mut slices: Vec<BTreeSet<CaseKey>> = Vec::new();
    let mut room = 0;
    for (key, bytes) in chosen {
        match slices.last_mut() {
            Some(slice) if *bytes <= room => drop(slice.insert(key.clone())),
            _ => {
                slices.push(BTreeSet::from([key.clone()]));
                room = SLICE_BYTES;
            }
        }
        room = room.saturating_sub(*bytes);
    }
    slices
}

#[cfg(test)]
pub(super) mod tests {
    use super::super::file::FilePlace;
    use super::*;
    use crate::pipeline::DeadLetters as _;
    use crate::pipeline::dead_letter_file::FileDeadLetters;
    use crate::record::{Offset, TopicPartition};

    pub(in crate::dead_letters) fn letter(offset: i64, value: &str) -> DeadLetter {
        DeadLetter {
            pipeline: "orders".to_owned(),
            source: TopicPartition::new("in", 2),
            offset: Offset(offset),
            timestamp_ms: Some(1_000 + offset),
            key: Some(b"k".to_vec()),
            value: Some(value.as_bytes().to_vec()),
            headers: Vec::new(),
            stage: "transform:shop".to_owned(),
            code: "negative_amount".to_owned(),
            message: "must not be negative".to_owned(),
            backtrace: None,
            logs: Vec::new(),
            digests: vec!["00ff".to_owned()],
            attempts: 1,
            write_time: WriteTime(1_000_000 + offset * 10),
            partial: false,
            id: format!("in/2/{offset}/dead-letter"),
            redrives: 0,
            at_ms: Some(5_000 + offset),
        }
    }

    pub(in crate::dead_letters) fn mark(letter: &DeadLetter, done: bool, content: &str) -> Mark {
        Mark {
            id: letter.id.clone(),
            pipeline: letter.pipeline.clone(),
            h: h_of(letter.write_time),
            redrive: letter.redrives + 1,
            write_time: letter.write_time.0,
            content: content.to_owned(),
            done,
            at_ms: 9_000,
        }
    }

    async fn read(place: &FilePlace) -> Vec<(i64, State)> {
        let cases = Cases::read(place, "orders", |_| true).await.expect("a place");
        cases.cases.values().map(|case| (case.letter.offset.0, case.state())).collect()
    }

    #[tokio::test]
    async fn a_case_is_open_until_its_redrive_is_durable_and_again_where_that_failed() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("orders.jsonl");
        let place = FilePlace::at(&path);
        assert_eq!(read(&place).await, [], "no file is no letters");
        let file = FileDeadLetters::open(&path).expect("it opens");
        let [one, two] = [letter(1, "a"), letter(2, "b")];
        let other = DeadLetter { pipeline: "clicks".to_owned(), ..letter(3, "c") };
        file.write(vec![one.clone(), two.clone(), one.clone(), other]).await;
        assert_eq!(read(&place).await, [(1, State::Open), (2, State::Open)], "a repeat is the same record");

        place.mark(&[mark(&one, false, "x"), mark(&two, false, "x")]).await.expect("marked");
        assert_eq!(read(&place).await, [(1, State::Open), (2, State::Open)], "what has begun is not done");
        place.mark(&[mark(&one, true, "x")]).await.expect("marked");
        let again = DeadLetter { redrives: 1, ..two.clone() };
        file.write(vec![again.clone()]).await;
        assert_eq!(read(&place).await, [(1, State::Redriven), (2, State::FailedAgain)]);
        place.mark(&[mark(&again, true, "y")]).await.expect("marked");
        assert_eq!(read(&place).await, [(1, State::Redriven), (2, State::Redriven)]);

        // The topic was made anew: another record has the offset.
        file.write(vec![DeadLetter { write_time: WriteTime(7_000_000), ..one }]).await;
        let states = read(&place).await;
        assert_eq!(states, [(1, State::Redriven), (1, State::Open), (2, State::Redriven)]);
    }

    #[tokio::test]
    async fn what_is_no_letter_is_counted_and_named() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("orders.jsonl");
        FileDeadLetters::open(&path).expect("it opens").write(vec![letter(1, "a")]).await;
        let mut text = std::fs::read_to_string(&path).expect("a file");
        text.push_str("{\"some\": \"thing\"}\nhalf a li");
        std::fs::write(&path, text).expect("written");
        let cases = Cases::read(&FilePlace::at(&path), "orders", |_| false).await.expect("a place");
        assert_eq!((cases.cases.len(), cases.foreign), (1, (1, Some(format!("{}:2", path.display())))));
        let case = cases.cases.values().next().expect("one");
        assert_eq!((case.letter.value.as_ref(), case.bytes), (None, 2), "the record's own bytes were not asked for");
    }

    /// Letters and marks that nobody of us can have written, each with numbers that lead out of their types.
    pub(in crate::dead_letters) fn forged() -> (Vec<DeadLetter>, Vec<Mark>) {
        let one = letter(1, "a");
        let at = |write_time| DeadLetter { write_time: WriteTime(write_time), ..one.clone() };
        let letters = vec![
            at(i64::MIN),
            at(-1),
            at(i64::MAX),
            at(H_MAX + 1),
            DeadLetter { offset: Offset(-1), ..one.clone() },
            DeadLetter { offset: Offset(i64::MAX), ..one.clone() },
            DeadLetter { source: TopicPartition::new("in", -1), ..one.clone() },
            DeadLetter { timestamp_ms: Some(i64::MIN), ..one.clone() },
            DeadLetter { redrives: u32::MAX, ..one.clone() },
        ];
        let own = mark(&one, true, "x");
        let marks = vec![
            Mark { write_time: i64::MAX, h: h_of(WriteTime(i64::MAX)), ..own.clone() },
            Mark { write_time: i64::MIN, h: i64::MIN, ..own.clone() },
            Mark { h: own.h + 10, ..own.clone() },
            Mark { redrive: 0, ..own },
        ];
        (letters, marks)
    }

    #[test]
    fn a_code_that_no_letter_has_is_told_with_those_that_there_are() {
        let filter = |code: &str| Filter { code: Some(code.to_owned()), ..Filter::default() };
        let codes = ["plugin.trap", "bad_items", "plugin.trap"];
        let told = filter("bad_item").unknown_code(codes);
        assert_eq!(told.as_deref(), Some("no dead letter has the code bad_item; there is bad_items, plugin.trap"));
        assert_eq!(filter("bad_items").unknown_code(codes), None);
        assert_eq!(filter("bad_item").unknown_code([]), None, "where there are no letters, any code has none");
        assert_eq!(Filter::default().unknown_code(codes), None);
    }

    #[tokio::test]
    async fn a_forged_letter_or_mark_is_none_of_ours() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("orders.jsonl");
        let place = FilePlace::at(&path);
        let (letters, marks) = forged();
        let file = FileDeadLetters::open(&path).expect("it opens");
        file.write(vec![letter(1, "a")]).await;
        file.write(letters.clone()).await;
        place.mark(&marks).await.expect("marked");
        let cases = Cases::read(&place, "orders", |_| true).await.expect("a place");
        let foreign = (letters.len() + marks.len()) as u64;
        assert_eq!((cases.cases.len(), cases.foreign), (1, (foreign, Some(format!("{}:2", path.display())))));
        assert_eq!(read(&place).await, [(1, State::Open)]);
        // The last moment that a clock gives is one.
        file.write(vec![DeadLetter { write_time: WriteTime(H_MAX), ..letter(1, "a") }]).await;
        assert_eq!(read(&place).await, [(1, State::Open), (1, State::Open)]);
    }

    #[tokio::test]
    async fn cases_are_chosen_by_id_code_plugin_and_time() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("orders.jsonl");
        let sent = [
            letter(1, "a"),
            DeadLetter { code: "decode.json".to_owned(), stage: "decode".to_owned(), ..letter(2, "b") },
            letter(3, "c"),
        ];
        FileDeadLetters::open(&path).expect("it opens").write(sent.to_vec()).await;
        let cases = Cases::read(&FilePlace::at(&path), "orders", |_| true).await.expect("a place");
        let chosen = |filter: Filter| {
            let taken = cases.cases.values().filter(|case| filter.takes(case));
            taken.map(|case| case.letter.offset.0).collect::<Vec<_>>()
        };
        let all = Filter::default;
        assert_eq!(chosen(all()), [1, 2, 3]);
        assert_eq!(chosen(Filter { code: Some("decode.json".to_owned()), ..all() }), [2]);
        assert_eq!(chosen(Filter { plugin: Some("shop".to_owned()), ..all() }), [1, 3]);
        assert_eq!(chosen(Filter { since_ms: Some(5_002), ..all() }), [2, 3]);
        let ids = ["in/2/3".to_owned(), "in/2/1/dead-letter".to_owned(), "in/2".to_owned()];
        assert_eq!(chosen(Filter { ids: ids.to_vec(), ..all() }), [1, 3]);
    }
}
