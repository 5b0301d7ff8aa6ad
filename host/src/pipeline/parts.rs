//! A batch on its way through the plugins, in parts.
//!
//! In: how many records it has, and what became of each part that was run. Out: the part to run next, in the order of
//! records. Pure: runs nothing and waits for nothing.
//!
//! ```text
//!  whole ──trap──► once more, on a fresh instance ──trap──► two parts ──trap──► two parts ... ──► one record: guilty
//!    └──a record asks to be tried again──► what stands before it, and a part that begins with it: held, run again
//! ```

use std::collections::VecDeque;
use std::ops::Range;

use super::chain::{Lost, LostLine, Run};

/// Lines that a part keeps of its failed attempts: the last ones.
const LINES_MAX: usize = 100;

/// The parts of a batch that are not done yet, in the order of their records.
#[derive(Debug)]
pub struct Parts(VecDeque<Part>);

/// Rows of a batch that are handled as one, and what became of them so far.
#[derive(Debug, Clone, PartialEq)]
pub struct Part {
    /// Which.
    pub rows: Range<usize>,
    /// How it is to be run.
    pub run: Run,
    /// How often its first record has asked to be tried again.
    pub asked: u32,
    /// What was logged in its failed attempts.
    pub lines: Vec<LostLine>,
}

impl Parts {
    /// A batch of so many records, in one part.
    #[must_use]
    pub fn of(records: usize) -> Self {
        Self(VecDeque::from([Part::new(0..records, Run::default())]))
    }

    /// Whether all is done.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The part to run next.
    pub fn pop(&mut self) -> Option<Part> {
        self.0.pop_front().filter(|part| !part.rows.is_empty())
    }

    /// A part is to be run again, as it is.
    pub fn again(&mut self, part: Part) {
        self.0.push_front(part);
    }

    /// A part is to be run as if it never had been.
    pub fn anew(&mut self, part: &Part) {
        self.0.push_front(Part::new(part.rows.clone(), Run::default()));
    }

    /// A part trapped, twice if it was whole: its rows below `at` and those from it on are run apart.
    pub fn halve(&mut self, part: &Part, at: usize) {
        let run = Run { is_cut: true, ..part.run };
        self.0.push_front(Part::new(at..part.rows.end, run));
        // It begins with the same record: what that has asked for still counts.
        self.0.push_front(Part { asked: part.asked, ..Part::new(part.rows.start..at, run) });
    }

    /// A record within a part wants to be tried again: what stands before it goes on alone, and it comes again at the
    /// head of its own part.
    pub fn before(&mut self, part: &Part, at: usize) {
        let run = Run { failed_attempts: 0, ..part.run };
        self.0.push_front(Part::new(at..part.rows.end, run));
        self.0.push_front(Part { asked: part.asked, ..Part::new(part.rows.start..at, run) });
    }

    /// The first record of a part is given up: that alone, and what stands behind it goes on.
    pub fn give_up_first(&mut self, part: Part) -> Part {
        let (first, next) = (part.rows.start, part.rows.start + 1);
        if next < part.rows.end {
            self.0.push_front(Part::new(next..part.rows.end, Run { failed_attempts: 0, ..part.run }));
        }
        Part { rows: first..next, ..part }
    }
}

impl Part {
    fn new(rows: Range<usize>, run: Run) -> Self {
        Self { rows, run, asked: 0, lines: Vec::new() }
    }

    /// An attempt at it has failed.
    pub fn failed(&mut self, lost: Lost) {
        self.run.failed_attempts = lost.attempts;
        self.lines.extend(lost.lines);
        self.lines.drain(..self.lines.len().saturating_sub(LINES_MAX));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rows(parts: &mut Parts) -> Vec<Range<usize>> {
        std::iter::from_fn(|| parts.pop()).map(|part| part.rows).collect()
    }

    #[test]
    fn parts_come_in_the_order_of_records_however_they_are_cut() {
        let mut parts = Parts::of(10);
        let whole = parts.pop().unwrap();
        parts.halve(&whole, 6);
        let first = parts.pop().unwrap();
        assert_eq!((first.rows.clone(), first.run.is_cut), (0..6, true));
        parts.before(&first, 2);
        assert_eq!(rows(&mut parts), [0..2, 2..6, 6..10]);
        assert!(parts.is_empty());
    }

    #[test]
    fn what_a_record_asked_for_counts_as_long_as_it_stands_at_the_head() {
        let mut parts = Parts::of(10);
        let mut part = parts.pop().unwrap();
        part.asked = 2;
        parts.before(&part, 4);
        let head = parts.pop().unwrap();
        assert_eq!((head.rows.clone(), head.asked), (0..4, 2));
        assert_eq!(parts.pop().map(|part| (part.rows, part.asked)), Some((4..10, 0)));
        let given_up = parts.give_up_first(head);
        assert_eq!((given_up.rows, given_up.asked), (0..1, 2));
        assert_eq!(parts.pop().map(|part| (part.rows, part.asked)), Some((1..4, 0)));
    }

    #[test]
    fn a_batch_of_nothing_has_no_part() {
        assert_eq!(Parts::of(0).pop(), None);
    }

    #[test]
    fn a_part_keeps_the_last_lines_of_its_attempts() {
        let line = |attempt| LostLine {
            step: 0,
            attempt,
            line: crate::pipeline::LogLine { level: crate::pipeline::LogLevel::Info, message: String::new() },
        };
        let mut part = Parts::of(1).pop().unwrap();
        for attempt in 1..=150 {
            part.failed(Lost { attempts: attempt, lines: vec![line(attempt)], ..Lost::default() });
        }
        assert_eq!(part.run.failed_attempts, 150);
        assert_eq!((part.lines.len(), part.lines[0].attempt), (LINES_MAX, 51));
    }
}
