//! The breaker: pauses a pipeline before it floods the dead letters.
//!
//! In: how many records a batch had, and how many of them failed. Out: whether that is too much. Pure; the clock is an
//! argument.

use std::collections::VecDeque;
use std::time::Duration;

use crate::config::Breaker as Settings;

/// Counts records and failures over a sliding time.
#[derive(Debug)]
pub struct Breaker {
    settings: Settings,
    /// When, records, failures.
    seen: VecDeque<(Duration, u64, u64)>,
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
        write!(f, "{failures} of {records} records ({percent:.1} %) failed within {} s", within.as_secs_f64())
    }
}

impl Breaker {
    /// A breaker that has seen nothing.
    #[must_use]
    pub fn new(settings: Settings) -> Self {
        Self { settings, seen: VecDeque::new() }
    }

    /// Notes a batch at `now` (since any fixed moment), unless it trips the breaker: then nothing is noted, as the batch
    /// will come again.
    pub fn observe(&mut self, now: Duration, records: u64, failures: u64) -> Option<Tripped> {
        let Settings { percent, records: records_min, within } = self.settings;
        while self.seen.front().is_some_and(|(at, _, _)| *at + within < now) {
            self.seen.pop_front();
        }
        let all =
            self.seen.iter().fold((records, failures), |(r, f), (_, records, failures)| (r + records, f + failures));
        if failures > 0 && all.0 >= records_min && all.1 as f64 * 100.0 > percent * all.0 as f64 {
            return Some(Tripped { failures: all.1, records: all.0, within });
        }
        self.seen.push_back((now, records, failures));
        None
    }

    /// Forgets what was seen: the operator resumed the pipeline.
    pub fn reset(&mut self) {
        self.seen.clear();
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
        assert_eq!(tripped.to_string(), "51 of 100 records (51.0 %) failed within 60 s");
        assert!(breaker.observe(Duration::from_secs(2), 50, 0).is_none(), "a batch without failures never trips");
    }

    #[test]
    fn forgets_what_is_older_than_its_time() {
        let mut breaker = breaker();
        assert_eq!(breaker.observe(Duration::ZERO, 90, 50), None);
        assert_eq!(breaker.observe(Duration::from_secs(61), 100, 10), None);
    }
}
