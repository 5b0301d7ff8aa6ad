//! One line a guest.

use std::fmt;

use serde::{Deserialize, Serialize};

/// Memory that may be there afterwards beyond what was there before: what the engine keeps ready for the next instance,
/// and what the allocator does not give back.
const LEFT_BYTES_MAX: u64 = 32 << 20;
/// Memory that a guest may cost at its worst: its own 64 MiB on each of two threads, what crosses of them at once (which
/// is capped), its file and its image.
const PEAK_BYTES_MAX: u64 = 640 << 20;

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

    /// Adds what the figures say.
    pub(super) fn judged(mut self) -> Self {
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
        self
    }
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
