//! The tracker: how far a partition is done, without a gap.
//!
//! In: records as they are read, how many outputs each has, and acknowledgements in any order. Out: the position below
//! which everything is durable or decided, with the `h` of the last record below it. Pure; knows no clock, no sink, no
//! broker. Fenced: an acknowledgement of another assignment's generation is discarded.

use std::collections::VecDeque;

use crate::record::Offset;

/// The records of one partition under one assignment that are not yet done, and the position below them.
#[derive(Debug)]
pub struct Tracker {
    generation: u64,
    pending: VecDeque<PendingRecord>,
    /// Where the record after the one that was asked for last stands: records are mostly asked for in order.
    likely: usize,
    /// The resume position: one past the last record of the done prefix, and that record's `h`.
    done: Option<Done>,
}

#[derive(Debug, Clone, Copy)]
struct PendingRecord {
    offset: i64,
    h: i64,
    /// Outputs that are not durable yet; one more while it is not known how many there are.
    open: u32,
}

/// Everything below `next` is done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Done {
    /// The offset to resume at.
    pub next: Offset,
    /// `h` of the last record below it.
    pub h: i64,
}

impl Tracker {
    /// A tracker for one assignment.
    #[must_use]
    pub fn new(generation: u64) -> Self {
        Self { generation, pending: VecDeque::new(), likely: 0, done: None }
    }

    /// A record was read. It stays open until [`Self::decided`] and as many [`Self::acknowledge`] as that said.
    ///
    /// # Panics
    /// Where offsets do not rise: that would be a fault of the reader.
    pub fn read(&mut self, offset: Offset, h: i64) {
        if let Some(last) = self.pending.back() {
            assert!(last.offset < offset.0, "offset {offset} was read after {}", last.offset);
        }
        self.pending.push_back(PendingRecord { offset: offset.0, h, open: 1 });
    }

    /// It is known that a record has `outputs` outputs (rows, dead letters); none means filtered.
    pub fn decided(&mut self, offset: Offset, outputs: u32) {
        if let Some(record) = self.record(offset) {
            record.open = record.open - 1 + outputs;
        }
        self.advance();
    }

    /// Some outputs of a record are durable. An acknowledgement of another generation is discarded, and false is given.
    pub fn acknowledge(&mut self, generation: u64, offset: Offset, outputs: u32) -> bool {
        if generation != self.generation {
            return false;
        }
        if let Some(record) = self.record(offset) {
            record.open = record.open.checked_sub(outputs).expect("no output is acknowledged twice");
        }
        self.advance();
        true
    }

    /// The position below which everything is done; none while nothing is.
    #[must_use]
    pub fn done(&self) -> Option<Done> {
        self.done
    }

    /// The lowest offset that was read and is not done.
    #[must_use]
    pub fn first_open(&self) -> Option<Offset> {
        self.pending.front().map(|record| Offset(record.offset))
    }

    /// Records read and not yet done, including those done beyond a gap.
    #[must_use]
    pub fn in_flight(&self) -> usize {
        self.pending.len()
    }

    fn record(&mut self, offset: Offset) -> Option<&mut PendingRecord> {
        let is_likely = self.pending.get(self.likely).is_some_and(|record| record.offset == offset.0);
        let at = if is_likely {
            self.likely
        } else {
            self.pending.binary_search_by_key(&offset.0, |record| record.offset).ok()?
        };
        self.likely = at + 1;
        self.pending.get_mut(at)
    }

    fn advance(&mut self) {
        while let Some(record) = self.pending.front().filter(|record| record.open == 0) {
            self.done = Some(Done { next: Offset(record.offset).next(), h: record.h });
            self.pending.pop_front();
            self.likely = self.likely.saturating_sub(1);
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_gap_holds_the_position() {
        let mut tracker = Tracker::new(1);
        for offset in [3, 4, 9] {
            tracker.read(Offset(offset), offset * 10);
            tracker.decided(Offset(offset), 1);
        }
        tracker.acknowledge(1, Offset(4), 1);
        tracker.acknowledge(1, Offset(9), 1);
        assert_eq!((tracker.done(), tracker.in_flight()), (None, 3));
        tracker.acknowledge(1, Offset(3), 1);
        assert_eq!((tracker.done(), tracker.in_flight()), (Some(Done { next: Offset(10), h: 90 }), 0));
    }

    #[test]
    fn all_outputs_of_a_record_count() {
        let mut tracker = Tracker::new(1);
        tracker.read(Offset(0), 10);
        tracker.decided(Offset(0), 3);
        tracker.acknowledge(1, Offset(0), 2);
        assert_eq!(tracker.done(), None);
        tracker.acknowledge(1, Offset(0), 1);
        assert!(tracker.done().is_some());
    }

    #[test]
    fn an_acknowledgement_of_an_older_assignment_is_discarded() {
        let mut tracker = Tracker::new(2);
        tracker.read(Offset(0), 10);
        tracker.decided(Offset(0), 1);
        assert!(!tracker.acknowledge(1, Offset(0), 1));
        assert_eq!(tracker.done(), None);
    }

    proptest! {
        /// Against the definition: the longest prefix in which every record is decided and all its outputs are durable.
        #[test]
        fn the_position_is_the_done_prefix(
            records in prop::collection::vec((1_i64..4, 0_u32..4), 1..60), order in any::<prop::sample::Index>(), seed in any::<u64>(),
        ) {
            let mut tracker = Tracker::new(7);
            let mut offset = 0;
            let mut events = Vec::new();
            let mut model = Vec::new();
            for (gap, outputs) in records {
                offset += gap;
                tracker.read(Offset(offset), offset * 100);
                tracker.decided(Offset(offset), outputs);
                model.push((offset, outputs));
                events.extend(std::iter::repeat_n(offset, outputs as usize));
            }
            // A deterministic shuffle of the acknowledgements.
            let mut state = seed | 1;
            for i in (1..events.len()).rev() {
                state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(order.index(97) as u64);
                events.swap(i, (state >> 33) as usize % (i + 1));
            }
            for offset in events {
                tracker.acknowledge(7, Offset(offset), 1);
                model.iter_mut().find(|(o, _)| *o == offset).unwrap().1 -= 1;
                let prefix = model.iter().take_while(|(_, open)| *open == 0).last();
                let expected = prefix.map(|(o, _)| Done { next: Offset(o + 1), h: o * 100 });
                prop_assert_eq!(tracker.done(), expected);
            }
            prop_assert_eq!(tracker.in_flight(), 0);
        }
    }
}
