//! The write clock: gives every record of a partition its write time, from the record alone.
//!
//! In: records' timestamps, in offset order, whatever becomes of them later. Out: `h`, microseconds, strictly rising.
//! `h = max(record_ms * 1000, h_previous + 10)`, so a redelivery from a committed `h` gives the same times again, two
//! updates of a row always end in log order, and the last digit stays free for the epoch (0 to 9).
//! Never looks at the wall but to clamp a record that lies too far in the future.

use crate::record::WriteTime;

/// A record may be this far ahead of the wall; beyond it is clamped.
pub const AHEAD_MAX_MS: i64 = 5 * 60 * 1000;

/// The distance between two records, in microseconds: room for one epoch digit.
pub const STEP_US: i64 = 10;

/// The highest epoch: the last digit of a write time.
pub const EPOCH_MAX: u8 = 9;

/// One partition's clock.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct WriteClock {
    previous_us: i64,
}

/// What the clock said to a record.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Tick {
    /// The record's `h`, a multiple of ten.
    pub h: i64,
    /// What a later reader of the record alone could not know.
    pub decision: Option<Decision>,
}

/// A decision that does not follow from the record alone.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Decision {
    /// The record's time lies more than [`AHEAD_MAX_MS`] ahead of the wall, and was clamped.
    Clamped,
    /// The record has no time, and follows its predecessor.
    NoTimestamp,
    /// The record has no time and no predecessor: it got the wall's.
    FirstWithoutTimestamp,
}

impl Decision {
    /// Whether a later reader, with another wall, would decide otherwise.
    #[must_use]
    pub fn rests_on_the_wall(self) -> bool {
        matches!(self, Self::Clamped | Self::FirstWithoutTimestamp)
    }
}

impl WriteClock {
    /// A clock that goes on after `h`: that of the last record below the committed offset, of the topic's other
    /// partitions, or a floor. Zero where there is none.
    #[must_use]
    pub fn after(h: i64) -> Self {
        Self { previous_us: round_up(h) }
    }

    /// The next record's time. `record_ms` is its timestamp, `now_ms` the wall.
    pub fn tick(&mut self, record_ms: Option<i64>, now_ms: i64) -> Tick {
        let latest_ms = now_ms.saturating_add(AHEAD_MAX_MS);
        let (ms, decision) = match record_ms {
            Some(ms) if ms > latest_ms => (latest_ms, Some(Decision::Clamped)),
            Some(ms) => (ms, None),
            None if self.previous_us > 0 => (0, Some(Decision::NoTimestamp)),
            None => (now_ms, Some(Decision::FirstWithoutTimestamp)),
        };
        let h = ms.saturating_mul(1000).max(self.previous_us + STEP_US);
        self.previous_us = h;
        Tick { h, decision }
    }

    /// The last `h` given, or where the clock began.
    #[must_use]
    pub fn previous(self) -> i64 {
        self.previous_us
    }
}

/// The write time of a record: its `h`, lifted to the table's floor, in an epoch.
#[must_use]
pub fn write_time(h: i64, epoch: u8) -> WriteTime {
    WriteTime(h + i64::from(epoch.min(EPOCH_MAX)))
}

/// The `h` of a record that has this write time.
#[must_use]
pub fn h_of(write_time: WriteTime) -> i64 {
    write_time.0 - write_time.0.rem_euclid(STEP_US)
}

fn round_up(h: i64) -> i64 {
    let over = h.rem_euclid(STEP_US);
    if over == 0 { h } else { h.saturating_add(STEP_US - over) }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_burst_in_one_millisecond_stays_in_order() {
        let mut clock = WriteClock::after(0);
        let times: Vec<i64> = (0..3).map(|_| clock.tick(Some(1_000), 1_000).h).collect();
        assert_eq!(times, [1_000_000, 1_000_010, 1_000_020]);
    }

    #[test]
    fn a_record_too_far_ahead_is_clamped_and_said_so() {
        let mut clock = WriteClock::after(0);
        assert_eq!(clock.tick(Some(1_000 + AHEAD_MAX_MS), 1_000).decision, None);
        let tick = clock.tick(Some(2_000 + AHEAD_MAX_MS + 1), 2_000);
        assert_eq!(tick, Tick { h: (2_000 + AHEAD_MAX_MS) * 1000, decision: Some(Decision::Clamped) });
    }

    #[test]
    fn a_record_without_time_follows_its_predecessor() {
        let mut clock = WriteClock::after(7_000_003);
        assert_eq!(clock.tick(None, 99).h, 7_000_020);
        let first = WriteClock::after(0).tick(None, 99);
        assert_eq!((first.h, first.decision), (99_000, Some(Decision::FirstWithoutTimestamp)));
    }

    proptest! {
        #[test]
        fn rises_strictly_in_steps_that_leave_room_for_the_epoch(
            times in prop::collection::vec(prop::option::of(0_i64..2_000_000), 1..200), start in 0_i64..3_000_000_000,
        ) {
            let mut clock = WriteClock::after(start);
            let mut previous = start;
            for time in times {
                let h = clock.tick(time, 1_000_000).h;
                prop_assert!(h % STEP_US == 0 && h > previous);
                prop_assert!(write_time(h, EPOCH_MAX).0 < h + STEP_US);
                previous = h;
            }
        }

        #[test]
        fn a_redelivery_from_any_committed_h_gives_the_same_times(
            times in prop::collection::vec(0_i64..2_000, 2..200), cut in 0_usize..200,
        ) {
            let mut clock = WriteClock::after(0);
            let first: Vec<i64> = times.iter().map(|ms| clock.tick(Some(*ms), 10_000).h).collect();
            let cut = cut % times.len();
            let mut again = WriteClock::after(if cut == 0 { 0 } else { first[cut - 1] });
            let second: Vec<i64> = times[cut..].iter().map(|ms| again.tick(Some(*ms), 20_000).h).collect();
            prop_assert_eq!(&first[cut..], &second[..]);
        }
    }
}
