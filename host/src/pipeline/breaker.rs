//! The breaker: pauses a pipeline before it floods the dead letters.
//!
//! In: how many records a part of a batch had, and how many of them failed. Out: whether that is too much. Pure; the
//! clock is an argument.
//!
//! It looks back over a time, and over as many records as it needs to judge, whichever is longer. A time alone would
//! never show enough records where each costs a lot of it: a plugin that never ends fails a few records a second.

use std::collections::VecDeque;
use std::time::Duration;

use crate::config::Breaker as Settings;

/// What is seen within this part of the time is kept as one.
const GRAIN: u32 = 100;

/// Counts records and failures over a sliding window.
#[derive(Debug)]
pub struct Breaker {
    settings: Settings,
    /// Oldest first; no more than [`GRAIN`] of them within the time.
    seen: VecDeque<Seen>,
    all: Seen,
}

/// What was seen from a moment on.
#[derive(Debug, Clone, Copy, Default)]
struct Seen {
    at: Duration,
    records: u64,
    failures: u64,
}

/// Too many records failed.
#[derive(Debug, Clone, PartialEq)]
pub struct Tripped {
    /// Failures ...
    pub failures: u64,
    /// ... of so many records ...
    pub records: u64,
    /// ... within this time.
    pub within: Duration,
}

impl std::fmt::Display for Tripped {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { failures, records, within } = self;
        let percent = *failures as f64 * 100.0 / (*records).max(1) as f64;
        let seconds = within.as_secs_f64().ceil().max(1.0);
        write!(f, "{failures} of {records} records ({percent:.1} %) failed within {seconds} s")
    }
}

impl Breaker {
    /// A breaker that has seen nothing.
    #[must_use]
    pub fn new(settings: Settings) -> Self {
        Self { settings, seen: VecDeque::new(), all: Seen::default() }
    }

    /// Notes a part of a batch at `now` (since any fixed moment), unless it trips the breaker: then nothing is noted, as
    /// the part will come again.
    pub fn observe(&mut self, now: Duration, records: u64, failures: u64) -> Option<Tripped> {
        self.forget(now, records);
        let Settings { percent, records: records_min, .. } = self.settings;
        let all = Seen { at: now, records: self.all.records + records, failures: self.all.failures + failures };
        if failures > 0 && all.records >= records_min && all.failures as f64 * 100.0 > percent * all.records as f64 {
            let since = self.seen.front().map_or(now, |seen| seen.at);
            return Some(Tripped { failures: all.failures, records: all.records, within: now.saturating_sub(since) });
        }
        self.all = all;
        match self.seen.back_mut() {
            Some(last) if last.at + self.settings.within / GRAIN > now => {
                last.records += records;
                last.failures += failures;
            }
            _ => self.seen.push_back(Seen { at: now, records, failures }),
        }
        None
    }

    /// Forgets what is older than its time, as long as enough records are left to judge by, with those that come.
    fn forget(&mut self, now: Duration, coming: u64) {
        while let Some(oldest) = self.seen.front()
            && oldest.at + self.settings.within < now
            && self.all.records - oldest.records + coming >= self.settings.records
        {
            self.all.records -= oldest.records;
            self.all.failures -= oldest.failures;
            self.seen.pop_front();
        }
    }

    /// Forgets what was seen: the operator resumed the pipeline.
    pub fn reset(&mut self) {
        *self = Self::new(self.settings);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn breaker() -> Breaker {
        Breaker::new(Settings { percent: 10.0, records: 100, within: Duration::from_secs(60) })
    }

    #[test]
    fn trips_above_the_share_of_enough_records() {
        let mut breaker = breaker();
        assert_eq!(breaker.observe(Duration::ZERO, 50, 50), None, "too few records");
        let tripped = breaker.observe(Duration::from_secs(1), 50, 1).unwrap();
        assert_eq!(tripped.to_string(), "51 of 100 records (51.0 %) failed within 1 s");
        assert!(breaker.observe(Duration::from_secs(2), 50, 0).is_none(), "a batch without failures never trips");
    }

    #[test]
    fn forgets_what_is_older_than_its_time() {
        let mut breaker = breaker();
        assert_eq!(breaker.observe(Duration::ZERO, 90, 50), None);
        assert_eq!(breaker.observe(Duration::from_secs(61), 100, 10), None);
    }

    #[test]
    fn looks_back_over_enough_records_however_long_they_take() {
        let mut breaker = breaker();
        let trips = (1..=200).find(|second| breaker.observe(Duration::from_secs(*second), 1, 1).is_some());
        assert_eq!(trips, Some(100));
    }

    #[test]
    fn what_came_slowly_is_forgotten_once_enough_came_fast() {
        let mut breaker = breaker();
        for second in 0..99 {
            assert_eq!(breaker.observe(Duration::from_secs(second), 1, 1), None);
        }
        assert_eq!(breaker.observe(Duration::from_secs(200), 2000, 0), None);
        assert_eq!(breaker.observe(Duration::from_secs(201), 1, 1), None);
        assert_eq!((breaker.all.records, breaker.all.failures), (2001, 1));
    }

    #[test]
    fn many_small_parts_take_little_room() {
        let mut breaker = breaker();
        for part in 0..100_000 {
            assert_eq!(breaker.observe(Duration::from_millis(part), 1, 0), None);
        }
        assert!(breaker.seen.len() <= GRAIN as usize + 2, "{}", breaker.seen.len());
    }

    #[test]
    fn failures_that_are_known_later_than_their_records_count() {
        let mut breaker = breaker();
        assert_eq!(breaker.observe(Duration::ZERO, 100, 0), None);
        assert_eq!(breaker.observe(Duration::from_secs(1), 0, 10), None);
        assert!(breaker.observe(Duration::from_secs(1), 0, 1).is_some());
    }
}
