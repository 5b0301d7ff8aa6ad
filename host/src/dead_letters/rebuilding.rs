//! What redrives have written that reading the records again does not bring back.
//!
//! In: a place, which records are read again, and by what line. Out: the records whose rows would be missing, or would be
//! others. A redrive leaves its digest, not its content: what was edited stands in the tables, and nowhere else. What was
//! redriven as it was, by the plugins and the configuration that read it again now, comes by itself.

use serde::Serialize;

use super::Place;
use super::cases::{Case, CaseKey, Cases, slices};
use super::plan::content;
use crate::pipeline::SourceError;
use crate::record::{Offset, TopicPartition};

/// Records that a redrive has written otherwise than a reading does, by the ids of their letters.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Redriven {
    /// Whose redrive is done: its rows stand in the tables.
    pub done: Vec<String>,
    /// Whose redrive has begun and did not come to its end: some rows may.
    pub in_part: Vec<String>,
}

/// What a redrive has left at the outputs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Left {
    Nothing,
    InPart,
    All,
}

impl Redriven {
    /// Looks through a place. `line` stands for what reads again; where it `may_differ` from what read first, its write
    /// times may too.
    ///
    /// # Errors
    /// Where the place cannot be read.
    pub async fn read(
        place: &dyn Place,
        pipeline: &str,
        is_read: impl Fn(&TopicPartition, Offset) -> bool,
        (line, may_differ): (&str, bool),
    ) -> Result<Self, SourceError> {
        let cases = Cases::read(place, pipeline, |_| false).await?;
        let is_meant = |case: &Case| is_read(&case.letter.source, case.letter.offset) && left(case) != Left::Nothing;
        let meant = cases.cases.iter().filter(|(_, case)| is_meant(case));
        let meant: Vec<(CaseKey, usize)> = meant.map(|(key, case)| (key.clone(), case.bytes)).collect();
        let mut redriven = Self::default();
        for slice in slices(&meant) {
            let cases = Cases::read(place, pipeline, |key| slice.contains(key)).await?;
            for case in slice.iter().filter_map(|key| cases.cases.get(key)) {
                redriven.note(case, line, may_differ);
            }
        }
        Ok(redriven)
    }

    fn note(&mut self, case: &Case, line: &str, may_differ: bool) {
        match left(case) {
            Left::Nothing => {}
            Left::All if comes_by_itself(case, line, may_differ) => {}
            Left::All => self.done.push(case.letter.id.clone()),
            Left::InPart => self.in_part.push(case.letter.id.clone()),
        }
    }

    /// How many.
    #[must_use]
    pub fn len(&self) -> usize {
        self.done.len() + self.in_part.len()
    }

    /// Whether a reading brings back everything.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// All their ids.
    pub fn ids(&self) -> impl Iterator<Item = &str> {
        self.done.iter().chain(&self.in_part).map(String::as_str)
    }
}

fn left(case: &Case) -> Left {
    let letter = &case.letter;
    // It led to the letter, which says that nothing was written.
    let was_in_vain =
        |redrive: u32, at: i64| redrive <= letter.redrives && at == letter.write_time.0 && !letter.partial;
    if case.marks.iter().any(|mark| mark.done) {
        Left::All
    } else if letter.redrives > 0 && letter.partial
        || case.marks.iter().any(|mark| !was_in_vain(mark.redrive, mark.write_time))
    {
        Left::InPart
    } else {
        Left::Nothing
    }
}

/// Whether all that was redriven is the record as it was, by this very line, at the time at which it is read again.
fn comes_by_itself(case: &Case, line: &str, may_differ: bool) -> bool {
    let own = content(&case.letter, line);
    let at = case.letter.write_time.0;
    case.missing.is_none()
        && !case.letter.partial
        && case.marks.iter().all(|mark| mark.content == own && (may_differ || mark.write_time == at))
}

#[cfg(test)]
mod tests {
    use super::super::Mark;
    use super::super::cases::tests::{letter, mark};
    use super::super::file::FilePlace;
    use super::super::lines::Edit;
    use super::super::plan::plan;
    use super::*;
    use crate::pipeline::dead_letter_file::FileDeadLetters;
    use crate::pipeline::{DeadLetter, DeadLetters as _};

    const LINE: &str = "plugin one";

    async fn found(letters: &[DeadLetter], marks: &[Mark], may_differ: bool) -> (Vec<String>, Vec<String>) {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("orders.jsonl");
        let place = FilePlace::at(&path);
        FileDeadLetters::open(&path).expect("it opens").write(letters.to_vec()).await;
        place.mark(marks).await.expect("marked");
        let is_read = |partition: &TopicPartition, offset: Offset| partition.partition == 2 && offset.0 < 9;
        let redriven = Redriven::read(&place, "orders", is_read, (LINE, may_differ)).await.expect("a place");
        assert_eq!(redriven.ids().count(), redriven.len());
        (redriven.done, redriven.in_part)
    }

    fn ids(offsets: &[i64]) -> Vec<String> {
        offsets.iter().map(|offset| format!("in/2/{offset}/dead-letter")).collect()
    }

    #[tokio::test]
    async fn what_was_redriven_within_the_range_is_missing() {
        let all = [letter(1, "a"), letter(2, "b"), letter(3, "c"), letter(9, "d")];
        let marks = [mark(&all[0], true, "x"), mark(&all[1], false, "x"), mark(&all[3], true, "x")];
        assert_eq!(found(&all, &marks, false).await, (ids(&[1]), ids(&[2])));
        assert_eq!(found(&all, &[], false).await, (vec![], vec![]));
    }

    #[tokio::test]
    async fn a_redrive_that_failed_leaves_something_only_where_it_failed_in_part() {
        let first = letter(1, "a");
        let begun = mark(&first, false, "x");
        let whole = DeadLetter { redrives: 1, ..first.clone() };
        assert_eq!(found(&[first.clone(), whole], std::slice::from_ref(&begun), false).await, (vec![], vec![]));
        let in_part = DeadLetter { redrives: 1, partial: true, ..first.clone() };
        assert_eq!(found(&[first.clone(), in_part], std::slice::from_ref(&begun), false).await, (vec![], ids(&[1])));
        // A redrive before that was killed, and nobody knows how far it came.
        let above =
            DeadLetter { redrives: 1, write_time: crate::record::WriteTime(first.write_time.0 + 1), ..first.clone() };
        let second = Mark { write_time: above.write_time.0, ..begun.clone() };
        assert_eq!(found(&[first, above], &[begun, second], false).await, (vec![], ids(&[1])));
    }

    #[tokio::test]
    async fn what_was_redriven_as_it_was_by_the_line_that_reads_again_comes_by_itself() {
        let one = letter(1, "a");
        let case = Case { letter: one.clone(), at: String::new(), missing: None, bytes: 2, marks: Vec::new() };
        let redriven = |edit: Edit, line: &str| plan(&case, edit, line).expect("room").mark(true, 0);
        let as_it_was = redriven(Edit::default(), LINE);
        assert_eq!(found(std::slice::from_ref(&one), std::slice::from_ref(&as_it_was), false).await, (vec![], vec![]));
        let other_line = redriven(Edit::default(), "plugin two");
        assert_eq!(found(std::slice::from_ref(&one), &[other_line], true).await, (ids(&[1]), vec![]));
        let edited = redriven(Edit { value: Some(None), ..Edit::default() }, LINE);
        assert_eq!(found(std::slice::from_ref(&one), &[edited], true).await, (ids(&[1]), vec![]));
        let above = Mark { write_time: as_it_was.write_time + 1, ..as_it_was };
        assert_eq!(
            found(std::slice::from_ref(&one), std::slice::from_ref(&above), false).await,
            (ids(&[1]), vec![]),
            "at another time"
        );
        assert_eq!(found(std::slice::from_ref(&one), &[above], true).await, (vec![], vec![]));
    }
}
