//! A generation that has just gone live, held against the one before it on the same records.
//!
//! In: what the new one made of a part, and what the one before makes of the same. Out: a breach with its cause, the moment
//! it is one. What the one before says here never leaves, and a part that shows a breach is run again by it. Only CPU time
//! counts, never the wall: a busy machine fails nobody.
//!
//! Which parts are held against the one before: those with failures, since only a failure that it did not have is the new
//! one's fault; and some of the others, for what they cost.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::watch;

use super::chain::RecordFailure;
use super::generation::{Generation, Processed};

/// Parts whose cost does not count: their instances are new.
const COLD: u64 = 2;
/// After so many parts, one of [`COST_EVERY`] is looked at.
const COST_ALWAYS: u64 = 16;
const COST_EVERY: u64 = 8;
/// The cost of fewer parts says nothing: of those that take a millisecond and more, and of those that take less, whose time
/// is the wall's and jumps.
const COSTS_MIN: usize = 6;
const SMALL_COSTS_MIN: usize = 32;
const SMALL_NS: u64 = 1_000_000;

/// When a generation is not good enough.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Rules {
    /// So many records that trap, run into a limit or lie, and did not before.
    pub traps: u64,
    /// So many records that fail in any way, and did not before; and at least this share of all.
    pub failures: u64,
    /// See above.
    pub failures_share: f64,
    /// So many times the CPU time.
    pub cpu: f64,
}

impl Rules {
    /// For a pipeline that passes over no record: one failure that was none before is too many.
    #[must_use]
    pub fn strict(self) -> Self {
        Self { traps: 1, failures: 1, failures_share: 0.0, ..self }
    }
}

impl Default for Rules {
    fn default() -> Self {
        Self { traps: 3, failures: 10, failures_share: 0.05, cpu: 1.6 }
    }
}

/// Holds a new generation against the one before.
pub struct Probation {
    before: Mutex<Option<Arc<Generation>>>,
    rules: Rules,
    is_open: AtomicBool,
    seen: Mutex<Seen>,
    breach: watch::Sender<Option<String>>,
}

#[derive(Debug, Default)]
struct Seen {
    parts: u64,
    records: u64,
    traps: u64,
    failures: u64,
    /// CPU time of the new one and of the one before, on the same part.
    costs: Vec<(u64, u64)>,
}

/// What the new one made of a part.
#[derive(Debug, Clone, Default)]
pub struct Made {
    records: usize,
    /// By origin: whether it trapped, ran into a limit or lied.
    failures: Vec<(u32, bool)>,
    cpu_ns: u64,
}

impl Made {
    /// Of so many records.
    #[must_use]
    pub fn of(processed: &Processed, records: usize) -> Self {
        let failures = processed.failures.iter().map(|(origin, failure)| (*origin, is_trap(failure))).collect();
        let lost: u64 = processed.chain.lost.cpu_ns.iter().map(|(_, ns)| ns).sum();
        let cpu_ns = processed.chain.usage.iter().map(|(_, usage)| usage.cpu_ns).sum::<u64>() + lost;
        Self { records, failures, cpu_ns }
    }

    /// Of so many records, all of which trapped.
    #[cfg(test)]
    pub(crate) fn trapped(records: u32) -> Self {
        Self { records: records as usize, failures: (0..records).map(|origin| (origin, true)).collect(), cpu_ns: 0 }
    }

    /// The same without what trapped, at the same cost: what one that cannot be asked might have made of the part.
    #[must_use]
    pub fn but_for_traps(&self) -> Self {
        let failures = self.failures.iter().filter(|(_, is_trap)| !is_trap).copied().collect();
        Self { failures, ..self.clone() }
    }
}

fn is_trap(failure: &RecordFailure) -> bool {
    failure.code.starts_with("plugin.") && failure.code != "plugin.retry"
}

impl Probation {
    /// For whoever comes after `before`.
    #[must_use]
    pub fn after(before: Arc<Generation>, rules: Rules) -> Self {
        let breach = watch::Sender::new(None);
        Self { before: Mutex::new(Some(before)), rules, is_open: AtomicBool::new(true), seen: Mutex::default(), breach }
    }

    /// The generation before, as long as it is kept.
    #[must_use]
    pub fn before(&self) -> Option<Arc<Generation>> {
        self.before.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Records that the new one has handled since.
    #[must_use]
    pub fn records(&self) -> u64 {
        self.seen().records
    }

    /// Whether it goes on.
    #[must_use]
    pub fn is_open(&self) -> bool {
        self.is_open.load(Ordering::Relaxed)
    }

    /// It is over: the generation stays.
    pub fn close(&self) {
        self.is_open.store(false, Ordering::Relaxed);
    }

    /// Ends it here and now. The cause, where it had come to a breach.
    pub fn end(&self) -> Option<String> {
        let _nobody_compares = self.seen();
        self.close();
        self.breach.borrow().clone()
    }

    /// The cause, where it has come to a breach.
    #[must_use]
    pub fn breach(&self) -> Option<String> {
        let _nobody_compares = self.seen();
        self.breach.borrow().clone()
    }

    /// Lets go of the generation before: nobody goes back to it any more.
    pub fn forget(&self) {
        self.close();
        self.before.lock().unwrap_or_else(PoisonError::into_inner).take();
    }

    /// Resolves with the cause of a breach.
    pub async fn breached(&self) -> String {
        let mut breach = self.breach.subscribe();
        let cause = breach.wait_for(Option::is_some).await.ok().and_then(|cause| cause.clone());
        // The sender lives as long as this does.
        cause.unwrap_or_default()
    }

    /// Whether the one before is to run a part too.
    #[must_use]
    pub fn wants(&self, made: &Made) -> bool {
        let mut seen = self.seen();
        let part = seen.parts;
        seen.parts += 1;
        seen.records += made.records as u64;
        let for_its_cost = part >= COLD && (part < COST_ALWAYS || part.is_multiple_of(COST_EVERY));
        !made.failures.is_empty() || for_its_cost
    }

    /// Takes what both made of a part. The cause, where it is a breach: the first who says so.
    pub fn compare(&self, made: &Made, before: &Made) -> Option<String> {
        let mut seen = self.seen();
        seen.note(made, before);
        let cause = seen.breach(self.rules)?;
        if !self.is_open.swap(false, Ordering::SeqCst) {
            return None;
        }
        self.breach.send_replace(Some(cause.clone()));
        Some(cause)
    }

    fn seen(&self) -> MutexGuard<'_, Seen> {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Seen {
    fn note(&mut self, made: &Made, before: &Made) {
        let failed_before: BTreeSet<u32> = before.failures.iter().map(|(origin, _)| *origin).collect();
        for (_, is_trap) in made.failures.iter().filter(|(origin, _)| !failed_before.contains(origin)) {
            self.failures += 1;
            self.traps += u64::from(*is_trap);
        }
        if made.failures.is_empty() && before.failures.is_empty() {
            self.costs.push((made.cpu_ns, before.cpu_ns));
        }
    }

    fn breach(&self, rules: Rules) -> Option<String> {
        let Self { records, traps, failures, .. } = *self;
        let of = |count: u64, what: &str| {
            format!("{count} of {records} records {what}, which the generation before handled")
        };
        if traps >= rules.traps {
            return Some(of(traps, "trapped or ran into a limit"));
        }
        if failures >= rules.failures && failures as f64 > rules.failures_share * records as f64 {
            return Some(of(failures, "failed"));
        }
        self.costs_too_much(rules.cpu)
    }

    /// The part in the middle decides: a few that were disturbed say nothing.
    fn costs_too_much(&self, factor: f64) -> Option<String> {
        let is_small = |cost: &&(u64, u64)| cost.1 < SMALL_NS;
        let smalls = self.costs.iter().filter(is_small).count();
        let needed = if smalls * 2 > self.costs.len() { SMALL_COSTS_MIN } else { COSTS_MIN };
        if self.costs.len() < needed {
            return None;
        }
        let mut ratios: Vec<f64> =
            self.costs.iter().map(|(now, before)| *now as f64 / (*before).max(1) as f64).collect();
        ratios.sort_by(f64::total_cmp);
        let (ratio, parts) = (ratios.get(ratios.len() / 2)?, ratios.len());
        (*ratio > factor).then(|| {
            format!(
                "it takes {ratio:.1} times the CPU time of the generation before on the same records ({parts} batches)"
            )
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn failing(records: usize, traps: u32, rejects: u32) -> Made {
        let failures = (0..traps).map(|origin| (origin, true));
        let failures = failures.chain((traps..traps + rejects).map(|origin| (origin, false))).collect();
        Made { records, failures, cpu_ns: 0 }
    }

    fn costing(cpu_ns: u64) -> Made {
        Made { records: 100, failures: Vec::new(), cpu_ns }
    }

    /// Looks at parts as a task does; the first breach.
    fn look(rules: Rules, parts: &[(Made, Made)]) -> Option<String> {
        let mut seen = Seen::default();
        parts.iter().find_map(|(made, before)| {
            seen.parts += 1;
            seen.records += made.records as u64;
            seen.note(made, before);
            seen.breach(rules)
        })
    }

    #[test]
    fn only_failures_that_are_new_count() {
        let both = (failing(100, 50, 50), failing(100, 50, 50));
        assert_eq!(look(Rules::default(), &[both]), None);
        let cause = look(Rules::default(), &[(failing(100, 3, 0), costing(0))]).expect("three traps");
        assert!(cause.starts_with("3 of 100 records trapped"), "{cause}");
        assert_eq!(look(Rules::default(), &[(failing(100, 2, 0), costing(0))]), None);
    }

    #[test]
    fn a_plugin_may_become_a_little_stricter() {
        let few: Vec<_> = (0..100).map(|_| (failing(100, 0, 4), costing(0))).collect();
        assert_eq!(look(Rules::default(), &few), None);
        let many: Vec<_> = (0..2).map(|_| (failing(100, 0, 6), costing(0))).collect();
        assert!(look(Rules::default(), &many).is_some_and(|cause| cause.contains("12 of 200 records failed")));
        assert!(look(Rules::default().strict(), &few).is_some(), "where no record may be passed over, one is too many");
    }

    #[test]
    fn twice_the_cpu_time_is_a_breach_and_one_disturbed_part_is_none() {
        let parts = |costs: &[(u64, u64)]| {
            costs.iter().map(|(now, before)| (costing(*now), costing(*before))).collect::<Vec<_>>()
        };
        let twice = look(Rules::default(), &parts(&[(2_000_000, 1_000_000); 6])).expect("twice");
        assert!(twice.contains("2.0 times the CPU time"), "{twice}");
        let disturbed = [&[(100_000_000, 1_000_000)][..], &[(1_000_000, 1_000_000); 20]].concat();
        assert_eq!(look(Rules::default(), &parts(&disturbed)), None);
        assert_eq!(look(Rules::default(), &parts(&[(2_000, 1_000); 31])), None, "too little to say anything");
        assert!(look(Rules::default(), &parts(&[(2_000, 1_000); 32])).is_some());
    }
}
