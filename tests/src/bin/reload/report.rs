//! What a run came to, in numbers.

use std::fmt;

use serde::Serialize;

/// What a run came to.
#[derive(Debug, Clone, Default, Serialize)]
pub(super) struct Report {
    pub(super) reloads: u64,
    /// Reloads that were refused or rolled back.
    pub(super) not_live: u64,
    pub(super) records: u64,
    /// Records that plugins were given, as the daemon counts them at the boundary.
    pub(super) entered: u64,
    pub(super) rows: u64,
    /// Records without a row.
    pub(super) lost: u64,
    /// Rows of another version than the journal claims for their record.
    pub(super) wrong: u64,
    /// Rows by version.
    pub(super) rows_of: [u64; 2],
    /// Times that a partition went over.
    pub(super) went_over: u64,
    pub(super) pause_p50_us: u64,
    pub(super) pause_p99_us: u64,
    pub(super) pause_worst_us: u64,
    /// Assignments of partitions: the first alone.
    pub(super) assignments: u64,
    pub(super) seconds: f64,
    /// Memory of the daemon after a tenth of the reloads, and at the end.
    pub(super) memory_first_bytes: u64,
    pub(super) memory_last_bytes: u64,
}

/// Memory may grow by so much: caches and pools fill.
const GROWTH_MAX: f64 = 1.25;
const GROWTH_BYTES_MAX: f64 = 32.0 * 1024.0 * 1024.0;

impl Report {
    pub(super) fn is_well(&self) -> bool {
        self.lost == 0
            && self.wrong == 0
            && self.not_live == 0
            && self.entered == self.records
            && self.assignments == 1
            && self.rows_of.iter().all(|rows| *rows > 0)
            && self.memory_last_bytes as f64 <= self.memory_first_bytes as f64 * GROWTH_MAX + GROWTH_BYTES_MAX
    }

    /// Takes the pauses of partitions.
    pub(super) fn pauses(&mut self, mut us: Vec<u64>) {
        us.sort_unstable();
        let at = |share: f64| {
            let at = (us.len() as f64 * share).ceil() as usize;
            us.get(at.saturating_sub(1)).copied().unwrap_or_default()
        };
        self.went_over = us.len() as u64;
        (self.pause_p50_us, self.pause_p99_us, self.pause_worst_us) = (at(0.5), at(0.99), at(1.0));
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let ms = |us: u64| format!("{:.1} ms", us as f64 / 1000.0);
        let mib = |bytes: u64| format!("{:.0} MiB", bytes as f64 / f64::from(1 << 20));
        let lines = [
            (self.reloads.to_string(), format!("reloads in {:.0} s", self.seconds)),
            (self.not_live.to_string(), "of them refused or rolled back".to_owned()),
            (self.records.to_string(), "records sent".to_owned()),
            (self.entered.to_string(), "records entered a plugin".to_owned()),
            (
                self.rows.to_string(),
                format!("rows, {} of one version and {} of the other", self.rows_of[0], self.rows_of[1]),
            ),
            (self.lost.to_string(), "LOST".to_owned()),
            (self.wrong.to_string(), "WRONG: another version than the journal claims".to_owned()),
            (self.assignments.to_string(), "assignment of partitions: the first".to_owned()),
            (self.went_over.to_string(), "times a partition went over to another generation".to_owned()),
            (ms(self.pause_p50_us), "pause of a partition, p50".to_owned()),
            (ms(self.pause_p99_us), "p99".to_owned()),
            (ms(self.pause_worst_us), "the worst".to_owned()),
            (mib(self.memory_first_bytes), "of memory after a tenth of the reloads".to_owned()),
            (mib(self.memory_last_bytes), "at the end".to_owned()),
        ];
        for (figure, what) in lines {
            writeln!(f, "{figure:>12}  {what}")?;
        }
        f.write_str(if self.is_well() { "All is well." } else { "NOT WELL." })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_are_told_by_rank() {
        let mut report = Report::default();
        report.pauses((1..=200).rev().collect());
        assert_eq!((report.pause_p50_us, report.pause_p99_us, report.pause_worst_us), (100, 198, 200));
        report.pauses(Vec::new());
        assert_eq!((report.went_over, report.pause_worst_us), (0, 0));
    }
}
