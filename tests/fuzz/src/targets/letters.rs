//! Dead letters and packed headers: `pipeline/dead_letter_file.rs`, `record/batch.rs`, and of `dead_letters` all that
//! reads: records of a topic, lines of a file, marks, edited lines, and what a redrive makes of them.

use async_trait::async_trait;
use futures::executor::block_on;

use super::Bytes;
use crate::dead_letters::cases::{Case, Cases, Filter, h_of, is_letter};
use crate::dead_letters::headers::{self, MARKS_HEADER, SPILL_HEADER, Standing};
use crate::dead_letters::lines::{self, Edit, SetField};
use crate::dead_letters::plan::{plan, rounds};
use crate::dead_letters::{Entry, Mark, Place, Reached, file};
use crate::pipeline::dead_letter_file::{DeadLetterLine, SpillPointer};
use crate::pipeline::{BatchLimits, DeadLetter, LogLevel, LogLine, SourceError};
use crate::record::{HeaderIter, ID_HEADER, Offset, TopicPartition, WriteTime, push_header};

/// Packed headers, and letters as lines: what we write comes back, and what others wrote does not harm.
pub fn letters(bytes: &[u8]) {
    packed(bytes);
    if let Ok(line) = serde_json::from_slice::<DeadLetterLine>(bytes)
        && let Ok((_, _, headers)) = line.record()
    {
        assert_eq!(HeaderIter::new(&headers).count(), line.headers.len());
    }
    if let Ok(pointer) = serde_json::from_slice::<SpillPointer>(bytes) {
        let text = serde_json::to_vec(&pointer).expect("texts and numbers always encode");
        assert_eq!(serde_json::from_slice::<SpillPointer>(&text).expect("it comes back"), pointer);
    }
    let mut rest = Bytes(bytes);
    let letter = letter(&mut rest);
    round_trip(&letter);
    places(bytes, &letter, &mut rest);
}

fn packed(packed: &[u8]) {
    let mut read = HeaderIter::new(packed);
    let mut again = Vec::new();
    for (name, value) in read.by_ref() {
        push_header(&mut again, name, value);
    }
    assert!(packed.starts_with(&again), "what was read is what stands there");
    assert_eq!(read.is_done(), again.len() == packed.len(), "the end is told from damage");
}

fn letter(bytes: &mut Bytes<'_>) -> DeadLetter {
    let mut packed = Vec::new();
    for _ in 0..bytes.byte() % 4 {
        let name = bytes.text();
        let value = (bytes.byte() > 99).then(|| bytes.chunk());
        push_header(&mut packed, &name, value);
    }
    let part = |bytes: &mut Bytes<'_>| (bytes.byte() > 99).then(|| bytes.chunk().to_vec());
    DeadLetter {
        pipeline: bytes.text(),
        source: TopicPartition::new(&bytes.text(), bytes.byte().into()),
        offset: Offset(bytes.long()),
        timestamp_ms: (bytes.byte() > 99).then(|| bytes.long()),
        key: part(bytes),
        value: part(bytes),
        headers: packed,
        stage: bytes.text(),
        code: bytes.text(),
        message: bytes.text(),
        backtrace: (bytes.byte() > 99).then(|| bytes.text()),
        logs: vec![LogLine { level: LogLevel::Warn, message: bytes.text() }],
        digests: vec![bytes.text()],
        attempts: bytes.number(),
        write_time: WriteTime(bytes.long()),
        partial: bytes.byte() > 127,
        id: bytes.text(),
        redrives: bytes.number(),
        at_ms: (bytes.byte() > 99).then(|| bytes.long()),
    }
}

fn round_trip(letter: &DeadLetter) {
    let line = DeadLetterLine::of(letter);
    let text = serde_json::to_string(&line).expect("texts and numbers always encode");
    assert!(!text.contains('\n'), "a letter is one line");
    let again: DeadLetterLine = serde_json::from_str(&text).expect("what was written is read");
    assert_eq!(again, line);
    assert_eq!(again.letter().expect("our own base64"), *letter);
}

// ------------------------------------------------------------------------------------------------------------ places

/// What stands in a place, wherever it came from.
struct Standings(Vec<Entry>);

#[async_trait]
impl Place for Standings {
    fn name(&self) -> String {
        "here".to_owned()
    }

    async fn read(&self, _since: &Reached, each: &mut (dyn FnMut(Entry) + Send)) -> Result<Reached, SourceError> {
        self.0.iter().cloned().for_each(each);
        Ok(Reached::default())
    }

    async fn mark(&self, _marks: &[Mark]) -> Result<(), SourceError> {
        Ok(())
    }
}

/// A letter as it stands in a topic, whole and forged; the bytes as lines of files and as marks; and all that is done
/// with what is read.
fn places(bytes: &[u8], letter: &DeadLetter, rest: &mut Bytes<'_>) {
    let whole = headers::of(letter, None);
    let mut told: Vec<(&str, Option<&[u8]>)> = HeaderIter::new(&letter.headers).collect();
    told.extend(whole.iter().map(|(name, value)| (*name, Some(value.as_bytes()))));
    let standing = Standing {
        at: "dlq/0/1".to_owned(),
        key: letter.key.as_deref(),
        value: letter.value.as_deref(),
        timestamp_ms: letter.timestamp_ms,
        headers: told,
    };
    let read = topic(&standing);
    match &read {
        Entry::Letter(found) => {
            let own = (&found.letter.id, found.letter.write_time, found.letter.offset);
            assert_eq!(own, (&letter.id, letter.write_time, letter.offset));
            let record = (&found.letter.key, &found.letter.value, &found.letter.headers);
            assert_eq!(record, (&letter.key, &letter.value, &letter.headers), "the record comes back as it was");
        }
        _ => assert!(!is_letter(letter), "a letter of ours is one"),
    }
    let mut forged = standing.clone();
    while let (false, Some(at)) = (rest.0.is_empty(), (rest.byte() as usize).checked_rem(forged.headers.len())) {
        let header = &mut forged.headers[at];
        match rest.byte() % 4 {
            0 => header.1 = None,
            1 => header.0 = [MARKS_HEADER, SPILL_HEADER, ID_HEADER][usize::from(rest.byte() % 3)],
            2 => drop(forged.headers.remove(at)),
            _ => header.1 = Some(rest.chunk()),
        }
    }
    let marks = Standing { value: Some(bytes), headers: vec![(MARKS_HEADER, Some(b"marks"))], ..standing.clone() };
    let at = || "letters.jsonl:1".to_owned();
    cases(vec![read, topic(&forged), topic(&marks), file::entry(at(), bytes), file::mark(at(), bytes)]);
    edited(bytes, letter);
}

fn topic(standing: &Standing<'_>) -> Entry {
    headers::entry(standing, |pointer| Err(format!("on host {}", pointer.host)))
}

/// What a redrive makes of what is read, step after step, until there is no write time left.
fn cases(mut entries: Vec<Entry>) {
    let pipelines: Vec<String> = entries
        .iter()
        .filter_map(|entry| match entry {
            Entry::Letter(found) => Some(found.letter.pipeline.clone()),
            _ => None,
        })
        .collect();
    for pipeline in pipelines {
        for step in 0..3_u8 {
            let place = Standings(entries.clone());
            let cases = block_on(Cases::read(&place, &pipeline, |_| true)).expect("it is there");
            let mut planned = Vec::new();
            for (key, case) in &cases.cases {
                assert!(Filter::default().takes(case) && case.key() == *key);
                as_a_line(case);
                let edit = Edit { value: Some(Some(vec![step])), ..Edit::default() };
                let Ok(one) = plan(case, edit, "line") else { continue };
                assert_eq!(h_of(one.write_time), key.1, "the next record's time is never reached");
                entries.push(Entry::Marks(vec![one.mark(false, 0)]));
                planned.push(one);
            }
            let count = planned.len();
            let limits = BatchLimits { records: 2, bytes: 64, linger: std::time::Duration::ZERO };
            assert_eq!(rounds(planned, limits).iter().map(|round| round.records.len()).sum::<usize>(), count);
        }
    }
}

/// A case as a line brings back its record, but for line ends between the tokens of a value.
fn as_a_line(case: &Case) {
    let line = lines::line(case);
    assert!(!line.contains('\n'), "{line}");
    let read = lines::read(&line).expect("our own line");
    let edit = read[0].edit(&case.letter).expect("nothing of it was changed");
    assert_eq!(edit.key, Some(case.letter.key.clone()));
    assert_eq!(edit.headers.as_ref().map(Vec::len), Some(case.letter.headers.len()));
}

/// Lines that came back in whatever state.
fn edited(bytes: &[u8], letter: &DeadLetter) {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    for line in lines::read(text).unwrap_or_default() {
        let key = (letter.id.clone(), h_of(letter.write_time));
        let _ = (line.is_of(&key), line.edit(letter));
    }
    if let Ok(field) = SetField::parse(text) {
        let _ = lines::set(letter.value.as_deref(), &[field]);
    }
}
