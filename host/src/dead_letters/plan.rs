//! What of a place is sent through the line again, and with which write times.
//!
//! In: cases, what was edited, and what stands for the line (plugins and configuration). Out: records with their write
//! times, in rounds. Pure.
//!
//! A record is written at its own write time, so that it never covers what came later. Where something of another content
//! may stand there already (some of its outputs were written when it failed, or a redrive began and nobody knows how far
//! it came), it is written one epoch later: no row mixes two versions on a tie. Nine times; then there is no room left.

use std::collections::BTreeMap;

use sha2::{Digest as _, Sha256};

use super::cases::{Case, h_of};
use super::{Mark, lines::Edit};
use crate::pipeline::write_clock::EPOCH_MAX;
use crate::pipeline::{BatchLimits, DeadLetter};
use crate::record::{Digest, TopicPartition, WriteTime};

/// A record on its way through the line.
#[derive(Debug, Clone, PartialEq)]
pub struct Planned {
    /// Its letter, edited.
    pub letter: DeadLetter,
    /// The write time of its rows.
    pub write_time: WriteTime,
    /// What is written.
    pub content: String,
    /// It has begun before, in the very same way.
    pub has_begun: bool,
}

/// Records of one partition in offset order, no offset twice.
#[derive(Debug, Clone, PartialEq)]
pub struct Round {
    /// Their partition.
    pub source: TopicPartition,
    /// The records.
    pub records: Vec<Planned>,
}

impl Planned {
    /// The mark that stands for it.
    #[must_use]
    pub fn mark(&self, done: bool, at_ms: i64) -> Mark {
        Mark {
            id: self.letter.id.clone(),
            pipeline: self.letter.pipeline.clone(),
            h: h_of(self.write_time),
            redrive: self.letter.redrives + 1,
            write_time: self.write_time.0,
            content: self.content.clone(),
            done,
            at_ms,
        }
    }

    fn bytes(&self) -> usize {
        let part = |part: &Option<Vec<u8>>| part.as_ref().map_or(0, Vec::len);
        part(&self.letter.key) + part(&self.letter.value) + self.letter.headers.len()
    }
}

/// Plans a redrive of a case. `line` stands for plugins and configuration.
///
/// # Errors
/// Where it cannot be redriven: why, in words for people.
pub fn plan(case: &Case, edit: Edit, line: &str) -> Result<Planned, String> {
    if let Some(missing) = &case.missing {
        return Err(missing.clone());
    }
    let letter = edit.apply(&case.letter);
    let content = content(&letter, line);
    let own = case.letter.write_time.0 + i64::from(case.letter.partial);
    let last = case.standing().map(|mark| mark.write_time).max().filter(|last| *last >= own);
    // Of several contents at one write time nobody knows here which was written.
    let is_same = |last| case.standing().filter(|mark| mark.write_time == last).all(|mark| mark.content == content);
    let (at, has_begun) = match last {
        Some(last) if is_same(last) => (last, true),
        Some(last) => (last + 1, false),
        None => (own, false),
    };
    let write_time = WriteTime(at);
    if h_of(write_time) != h_of(case.letter.write_time) {
        return Err(format!(
            "{} versions of it may have been written already, and there is no write time left before the next record's: \
             produce it anew to its topic",
            u32::from(EPOCH_MAX) + 1
        ));
    }
    Ok(Planned { letter, write_time, content, has_begun })
}

/// What stands for a line: its plugins and its configuration.
#[must_use]
pub fn line_of(digests: &[String], configuration: &str) -> String {
    format!("{} {configuration}", digests.join(","))
}

/// What is written: the record, and what makes rows of it.
pub(super) fn content(letter: &DeadLetter, line: &str) -> String {
    let mut hash = Sha256::new();
    let mut part = |bytes: Option<&[u8]>| {
        hash.update(bytes.map_or(u64::MAX, |bytes| bytes.len() as u64).to_le_bytes());
        hash.update(bytes.unwrap_or_default());
    };
    part(letter.key.as_deref());
    part(letter.value.as_deref());
    part(Some(&letter.headers));
    part(Some(line.as_bytes()));
    Digest(hash.finalize().into()).short()
}

/// Puts records into rounds that fit into a batch.
#[must_use]
pub fn rounds(records: Vec<Planned>, limits: BatchLimits) -> Vec<Round> {
    let mut partitions: BTreeMap<TopicPartition, Vec<Planned>> = BTreeMap::new();
    for record in records {
        partitions.entry(record.letter.source.clone()).or_default().push(record);
    }
    let mut rounds = Vec::new();
    for (source, mut records) in partitions {
        records.sort_by_key(|record| (record.letter.offset, record.write_time));
        let mut round: Vec<Planned> = Vec::new();
        let mut bytes = 0;
        for record in records {
            let is_full = round.len() >= limits.records || bytes + record.bytes() > limits.bytes;
            let is_again = round.last().is_some_and(|last| last.letter.offset == record.letter.offset);
            if !round.is_empty() && (is_full || is_again) {
                rounds.push(Round { source: source.clone(), records: std::mem::take(&mut round) });
                bytes = 0;
            }
            bytes += record.bytes();
            round.push(record);
        }
        if !round.is_empty() {
            rounds.push(Round { source, records: round });
        }
    }
    rounds
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::super::cases::tests::letter;
    use super::*;

    const LINE: &str = "plugin one";

    fn case(letter: DeadLetter, marks: &[Mark]) -> Case {
        Case { letter, at: String::new(), missing: None, bytes: 1, marks: marks.to_vec() }
    }

    fn edited(value: &str) -> Edit {
        Edit { value: Some(Some(value.as_bytes().to_vec())), ..Edit::default() }
    }

    fn at(case: &Case, edit: Edit) -> (i64, bool) {
        let planned = plan(case, edit, LINE).expect("there is room");
        (planned.write_time.0, planned.has_begun)
    }

    #[test]
    fn a_record_is_written_at_its_own_time_and_one_epoch_later_where_part_of_it_was_written() {
        let whole = letter(1, "a");
        let own = whole.write_time.0;
        assert_eq!(at(&case(whole.clone(), &[]), edited("b")), (own, false));
        let partial = DeadLetter { partial: true, ..whole };
        assert_eq!(at(&case(partial, &[]), edited("b")), (own + 1, false));
    }

    #[test]
    fn what_has_begun_is_repeated_as_it_was_and_something_else_goes_above_it() {
        let whole = letter(1, "a");
        let own = whole.write_time.0;
        let begun = plan(&case(whole.clone(), &[]), edited("b"), LINE).expect("room").mark(false, 0);
        let case = case(whole, &[begun]);
        assert_eq!(at(&case, edited("b")), (own, true));
        assert_eq!(at(&case, edited("c")), (own + 1, false));
        let other_plugin = plan(&case, edited("b"), "plugin two").expect("room");
        assert_eq!(other_plugin.write_time.0, own + 1);
    }

    #[test]
    fn a_redrive_that_failed_whole_leaves_no_trace_and_one_that_failed_in_part_does() {
        let first = letter(1, "a");
        let own = first.write_time.0;
        let failed = DeadLetter { redrives: 1, ..first };
        assert_eq!(at(&case(failed.clone(), &[]), edited("b")).0, own);
        let in_part = DeadLetter { partial: true, write_time: WriteTime(own + 1), ..failed };
        assert_eq!(at(&case(in_part, &[]), edited("b")).0, own + 2);
    }

    #[test]
    fn of_two_contents_at_one_write_time_neither_is_repeated_there() {
        let whole = letter(1, "a");
        let own = whole.write_time.0;
        let marks = [super::super::cases::tests::mark(&whole, false, "x"), {
            let content = plan(&case(whole.clone(), &[]), edited("b"), LINE).expect("room").content;
            super::super::cases::tests::mark(&whole, false, &content)
        }];
        assert_eq!(at(&case(whole.clone(), &marks), edited("b")), (own + 1, false));
        let [first, second] = marks;
        assert_eq!(at(&case(whole, &[second, first]), edited("b")), (own + 1, false), "in any order");
    }

    #[test]
    fn what_a_redrive_beside_the_one_that_failed_has_written_is_not_written_over() {
        // One redrive wrote above, and was done; the other failed in part, and its letter is the newest.
        let first = letter(1, "a");
        let own = first.write_time.0;
        let beside = Mark { write_time: own + 1, ..super::super::cases::tests::mark(&first, true, "x") };
        let failed = DeadLetter { redrives: 1, partial: true, ..first };
        let case = case(failed, &[beside]);
        assert_eq!(case.state(), super::super::cases::State::Redriven);
        assert_eq!(at(&case, edited("b")), (own + 2, false));
    }

    #[test]
    fn the_next_records_time_is_never_reached() {
        let last = DeadLetter { write_time: WriteTime(1_000_009), partial: true, ..letter(1, "a") };
        let refused = plan(&case(last, &[]), Edit::default(), LINE).expect_err("no room");
        assert!(refused.starts_with("10 versions"), "{refused}");
    }

    #[test]
    fn rounds_rise_within_a_partition_and_fit_into_a_batch() {
        let planned = |partition, offset| {
            let mut letter = letter(offset, "x");
            letter.source.partition = partition;
            plan(&case(letter, &[]), Edit::default(), LINE).expect("room")
        };
        let limits = BatchLimits { records: 2, bytes: 1 << 20, linger: Duration::ZERO };
        let records = vec![planned(1, 5), planned(0, 9), planned(0, 3), planned(0, 3), planned(1, 4), planned(1, 6)];
        let rounds = rounds(records, limits);
        let offsets: Vec<(i32, Vec<i64>)> = rounds
            .iter()
            .map(|round| (round.source.partition, round.records.iter().map(|one| one.letter.offset.0).collect()))
            .collect();
        assert_eq!(offsets, [(0, vec![3]), (0, vec![3, 9]), (1, vec![4, 5]), (1, vec![6])]);
    }
}
