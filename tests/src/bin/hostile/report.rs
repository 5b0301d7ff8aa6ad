//! One line a guest.

use std::fmt;
use std::time::Duration;

use pelton::config::Limits;
use serde::{Deserialize, Serialize};

/// Memory that may be there afterwards beyond what was there before: what the engine keeps ready for the next instance,
/// and what the allocator does not give back.
const LEFT_BYTES_MAX: u64 = 32 << 20;
/// Memory that a guest may cost at its worst: its own 64 MiB on each of two threads, what crosses of them at once (which
/// is capped), its file and its image.
const PEAK_BYTES_MAX: u64 = 640 << 20;
/// By how much a guest may overrun its limit of CPU time.
const OVERRUN: Duration = Duration::from_millis(100);
/// How much longer CPU time may take on the clock of a machine on which others work.
const BUSY: u32 = 10;
/// What a busy machine takes for everything else.
const SLACK: Duration = Duration::from_secs(5);

/// What a guest did, and what it cost.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Report {
    /// The guest.
    pub(super) guest: String,
    /// What came of it, in the host's own words.
    pub(super) outcome: String,
    /// Wall time, compilation included.
    pub(super) wall_ms: u64,
    /// CPU time of the host and its compilers.
    pub(super) cpu_ms: u64,
    /// Memory before.
    pub(super) before_bytes: u64,
    /// The most in between.
    pub(super) peak_bytes: u64,
    /// Memory afterwards.
    pub(super) after_bytes: u64,
    /// Records of the good pipeline in that time.
    pub(super) good_records: u64,
    /// How long the good pipeline had records and did not move.
    pub(super) good_stood_still_ms: u64,
    /// What went wrong with the host, where anything did.
    pub(super) faults: Vec<String>,
}

impl Report {
    /// The line above all others.
    pub(super) const HEAD: &str = "                            wall ms    CPU ms   memory before/peak/after MiB   good records, still ms   outcome";

    /// A guest that took the host with it.
    pub(super) fn lost(guest: &str, fault: &str) -> Self {
        Self {
            guest: guest.to_owned(),
            outcome: String::new(),
            wall_ms: 0,
            cpu_ms: 0,
            before_bytes: 0,
            peak_bytes: 0,
            after_bytes: 0,
            good_records: 0,
            good_stood_still_ms: 0,
            faults: vec![fault.to_owned()],
        }
    }

    /// Whether nothing but the guest's own pipeline suffered.
    pub(super) fn is_contained(&self) -> bool {
        self.faults.is_empty()
    }

    /// Adds what the figures say of a guest of these limits.
    pub(super) fn judged(mut self, limits: &Limits) -> Self {
        let left = self.after_bytes.saturating_sub(self.before_bytes);
        if left > LEFT_BYTES_MAX {
            self.faults.push(format!("{} MiB of memory did not come back", left >> 20));
        }
        let peak = self.peak_bytes.saturating_sub(self.before_bytes);
        if peak > PEAK_BYTES_MAX {
            self.faults.push(format!("it took {} MiB of memory at its worst", peak >> 20));
        }
        if self.good_records == 0 {
            self.faults.push("the good pipeline did not go on".to_owned());
        }
        let still_ms_max = still_ms_max(limits);
        if self.good_stood_still_ms > still_ms_max {
            self.faults.push(format!(
                "the good pipeline stood still for {} ms; the guest's limits explain {still_ms_max} ms",
                self.good_stood_still_ms
            ));
        }
        self
    }
}

/// How long a good pipeline may have to wait for a guest of these limits: it stands behind one job of it, which calls the
/// guest twice at most.
fn still_ms_max(limits: &Limits) -> u64 {
    let job = (limits.cpu_per_batch + OVERRUN) * 2;
    u64::try_from((job * BUSY + SLACK).as_millis()).unwrap_or(u64::MAX)
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mib = |bytes: u64| bytes >> 20;
        write!(
            f,
            "{:<25} {:>9} {:>9}           {:>5} {:>6} {:>6}        {:>6} {:>13}   ",
            self.guest,
            self.wall_ms,
            self.cpu_ms,
            mib(self.before_bytes),
            mib(self.peak_bytes),
            mib(self.after_bytes),
            self.good_records,
            self.good_stood_still_ms
        )?;
        let outcome: String = self.outcome.lines().next().unwrap_or_default().chars().take(110).collect();
        f.write_str(&outcome)?;
        for fault in &self.faults {
            write!(f, "\n    NOT CONTAINED: {fault}")?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn report(good_records: u64, good_stood_still_ms: u64) -> Report {
        Report { good_records, good_stood_still_ms, faults: Vec::new(), ..Report::lost("spins", "") }
            .judged(&Limits::default())
    }

    #[test]
    fn a_good_pipeline_that_stands_still_longer_than_the_guest_s_limits_explain_is_a_fault() {
        assert!(report(100, 1_500).is_contained());
        assert!(report(100, 17_000).is_contained());
        let still = report(100, 17_001);
        assert_eq!(still.faults, ["the good pipeline stood still for 17001 ms; the guest's limits explain 17000 ms"]);
        assert!(!report(0, 0).is_contained());
    }
}
