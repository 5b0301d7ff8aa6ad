//! Time and memory that a guest may use.
//!
//! The CPU limit counts the *thread's* CPU time: a busy machine takes nothing from it. A ticker moves the engine's epoch;
//! at each tick that the guest sees, [`Budget::check`] looks at the thread's clock and lets the guest go on until the
//! budget is spent. What host calls use counts too. The wall deadline is another matter: it says that the machine was too
//! busy, and is never held against a record. The time that a guest waits for others is a third: it is neither CPU time nor
//! the machine's doing, and has a limit of its own.

use std::time::Duration;

use wasmtime::ResourceLimiter;

use super::cpu_clock::{Elapsed, Mark};
use crate::config::Limits;

fn as_ns(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

/// CPU time that a call may take beside what its records may: a guest may compile a pattern or load a module at its
/// first record, and the batch is copied in and out.
const CALL_CPU: Duration = Duration::from_millis(50);

/// CPU time for each MiB of a call's records, beside what they may take by their number: what a guest in an interpreter
/// needs that parses the values itself, at 20 MiB a second.
const MEBIBYTE_CPU: Duration = Duration::from_millis(50);

/// CPU time of a call with so many records, of so many bytes in all.
pub(super) fn cpu_of_call(limits: &Limits, records: usize, bytes: usize) -> Duration {
    cpu_of_its_records(limits, records, bytes).min(limits.cpu_per_batch)
}

fn cpu_of_its_records(limits: &Limits, records: usize, bytes: usize) -> Duration {
    let records = u32::try_from(records).unwrap_or(u32::MAX);
    limits.cpu_per_record.saturating_mul(records).saturating_add(CALL_CPU).saturating_add(cpu_of_bytes(bytes))
}

fn cpu_of_bytes(bytes: usize) -> Duration {
    Duration::from_nanos(as_ns(MEBIBYTE_CPU).saturating_mul(bytes as u64) >> 20)
}

/// Why a call may take what [`cpu_of_call`] gives it, and which key of `limits:` gives it more.
pub(super) fn rule_of_call(limits: &Limits, records: usize, bytes: usize) -> String {
    let many = if records == 1 { "1 record".to_owned() } else { format!("{records} records") };
    if cpu_of_its_records(limits, records, bytes) >= limits.cpu_per_batch {
        return format!("`cpu_per_batch`, for {many} in one call; if it needs more, raise that key of `limits:`");
    }
    let mut rule = format!(
        "`cpu_per_record` {} ms × {many} + {} ms for the call",
        in_ms(limits.cpu_per_record),
        CALL_CPU.as_millis()
    );
    if cpu_of_bytes(bytes) >= Duration::from_millis(1) {
        rule.push_str(&format!(" + {} ms for their {} KiB", cpu_of_bytes(bytes).as_millis(), bytes >> 10));
    }
    rule.push_str("; if it needs more, raise that key of `limits:`");
    rule
}

/// Milliseconds, with a fraction where there is one.
fn in_ms(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1_000.0
}

/// Which limit stopped a guest.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(super) enum LimitHit {
    #[error("it used {used_ms} ms of CPU time, its limit is {limit_ms} ms")]
    Cpu { used_ms: u64, limit_ms: u64 },
    #[error("not done after {wall_ms} ms, with {used_ms} ms of CPU time used")]
    Wall { wall_ms: u64, used_ms: u64 },
    #[error(
        "it waited {waited_ms} ms for answers over HTTP in one call, its limit is {limit_ms} ms: ask with one `fetch-all` \
         for the whole batch, or raise `wall_per_batch` of `limits:`"
    )]
    Wait { waited_ms: u64, limit_ms: u64 },
}

/// The time limits of one call.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Budget {
    /// When the guest was last set going, on the thread that it is on.
    began: Mark,
    /// What it had used before, perhaps on other threads.
    before: Elapsed,
    waited_ns: u64,
    cpu_limit_ns: u64,
    wall_limit_ns: u64,
}

/// A guest that is on no thread until an answer comes.
pub(super) struct Waiting {
    since: Mark,
}

impl Budget {
    /// Starts the clocks, on the thread that makes the call.
    pub(super) fn start(cpu: Duration, wall: Duration) -> Self {
        Self { began: Mark::now(), cpu_limit_ns: as_ns(cpu), wall_limit_ns: as_ns(wall), ..Self::default() }
    }

    /// For how long the guest may wait from now on: in all as long as it may take besides.
    pub(super) fn may_wait(&self) -> Duration {
        Duration::from_nanos(self.wall_limit_ns.saturating_sub(self.waited_ns))
    }

    /// The guest is taken off its thread.
    pub(super) fn pause(&mut self) -> Waiting {
        self.before = self.elapsed();
        Waiting { since: Mark::now() }
    }

    /// It goes on, on this thread.
    pub(super) fn resume(&mut self, waiting: Waiting) {
        self.waited_ns = self.waited_ns.saturating_add(waiting.since.wall_ns());
        self.began = Mark::now();
    }

    /// What is said where the time to wait is over.
    pub(super) fn waited_too_long(&self) -> LimitHit {
        LimitHit::Wait { waited_ms: self.waited_ns / 1_000_000, limit_ms: self.wall_limit_ns / 1_000_000 }
    }

    fn elapsed(&self) -> Elapsed {
        let Elapsed { cpu_ns, wall_ns } = self.began.elapsed();
        Elapsed { cpu_ns: cpu_ns + self.before.cpu_ns, wall_ns: wall_ns + self.before.wall_ns }
    }

    /// CPU time since the start, nanoseconds.
    pub(super) fn cpu_used_ns(&self) -> u64 {
        self.elapsed().cpu_ns
    }

    /// Whether the guest may go on.
    pub(super) fn check(&self) -> Result<(), LimitHit> {
        let Elapsed { cpu_ns: used_ns, wall_ns } = self.elapsed();
        if used_ns >= self.cpu_limit_ns {
            return Err(LimitHit::Cpu { used_ms: used_ns / 1_000_000, limit_ms: self.cpu_limit_ns / 1_000_000 });
        }
        if wall_ns >= self.wall_limit_ns {
            return Err(LimitHit::Wall { wall_ms: wall_ns / 1_000_000, used_ms: used_ns / 1_000_000 });
        }
        Ok(())
    }
}

/// Cells of one table of an instance: function pointers, mostly. Interpreters need many.
pub(super) const TABLE_ELEMENTS_MAX: usize = 100_000;

/// Keeps the linear memories of an instance, together, below a limit.
#[derive(Debug)]
pub(super) struct MemoryLimiter {
    limit_bytes: usize,
    used_bytes: usize,
    /// What the growth that is being tried adds: taken back where the system refuses it.
    growing_bytes: usize,
    denied: bool,
}

impl MemoryLimiter {
    pub(super) fn new(limit_bytes: usize) -> Self {
        Self { limit_bytes, used_bytes: 0, growing_bytes: 0, denied: false }
    }

    /// Bytes of linear memory now.
    pub(super) fn used_bytes(&self) -> usize {
        self.used_bytes
    }

    /// The limit.
    pub(super) fn limit_bytes(&self) -> usize {
        self.limit_bytes
    }

    /// Whether the guest was denied memory since the last call began: then whatever it does next is the limit's doing.
    pub(super) fn denied(&self) -> bool {
        self.denied
    }

    /// A new call begins.
    pub(super) fn begin(&mut self) {
        self.denied = false;
    }
}

impl ResourceLimiter for MemoryLimiter {
    fn memory_growing(&mut self, current: usize, desired: usize, _: Option<usize>) -> wasmtime::Result<bool> {
        let wanted = self.used_bytes.saturating_add(desired.saturating_sub(current));
        if wanted > self.limit_bytes {
            self.denied = true;
            return Ok(false);
        }
        self.growing_bytes = wanted - self.used_bytes;
        self.used_bytes = wanted;
        Ok(true)
    }

    fn memory_grow_failed(&mut self, _: wasmtime::Error) -> wasmtime::Result<()> {
        self.denied = true;
        self.used_bytes -= std::mem::take(&mut self.growing_bytes);
        Ok(())
    }

    fn table_growing(&mut self, _: usize, desired: usize, _: Option<usize>) -> wasmtime::Result<bool> {
        if desired > TABLE_ELEMENTS_MAX {
            self.denied = true;
        }
        Ok(desired <= TABLE_ELEMENTS_MAX)
    }

    fn instances(&self) -> usize {
        100
    }

    fn tables(&self) -> usize {
        100
    }

    fn memories(&self) -> usize {
        20
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_call_may_take_what_its_records_may_and_no_more_than_a_batch() {
        let limits = Limits {
            cpu_per_batch: Duration::from_millis(500),
            cpu_per_record: Duration::from_millis(10),
            ..Limits::default()
        };
        let millis = |records| cpu_of_call(&limits, records, 0).as_millis();
        assert_eq!([0, 1, 2, 45, 46, 1024, usize::MAX].map(millis), [50, 60, 70, 500, 500, 500, 500]);
        let small = Limits { cpu_per_batch: Duration::from_millis(20), ..limits };
        assert_eq!(cpu_of_call(&small, 1, 0), Duration::from_millis(20));
    }

    #[test]
    fn a_large_record_may_take_longer_than_a_small_one() {
        let limits = Limits::default();
        let millis = |mebibytes: usize| cpu_of_call(&limits, 1, mebibytes << 20).as_millis();
        assert_eq!([0, 1, 4, 8, 10, usize::MAX >> 20].map(millis), [60, 110, 260, 460, 500, 500]);
    }

    #[test]
    fn a_limit_says_which_key_made_it() {
        let limits = Limits::default();
        let raise = "; if it needs more, raise that key of `limits:`";
        assert_eq!(
            rule_of_call(&limits, 1, 200),
            format!("`cpu_per_record` 10 ms × 1 record + 50 ms for the call{raise}")
        );
        assert_eq!(
            rule_of_call(&limits, 7, 2 << 20),
            format!("`cpu_per_record` 10 ms × 7 records + 50 ms for the call + 100 ms for their 2048 KiB{raise}")
        );
        assert_eq!(rule_of_call(&limits, 1024, 200), format!("`cpu_per_batch`, for 1024 records in one call{raise}"));
        let quick = Limits { cpu_per_record: Duration::from_micros(1_500), ..limits };
        assert!(rule_of_call(&quick, 2, 0).starts_with("`cpu_per_record` 1.5 ms × 2 records + 50 ms for the call"));
    }

    /// CPU time of a batch whose every part uses up its time: the whole twice, each part once, down to single records.
    fn cpu_of_a_batch_that_never_ends(limits: &Limits, records: usize) -> Duration {
        fn parts(limits: &Limits, records: usize) -> Duration {
            let (half, own) = (records / 2, cpu_of_call(limits, records, 0));
            if records == 1 { own } else { own + parts(limits, half) + parts(limits, records - half) }
        }
        cpu_of_call(limits, records, 0) + parts(limits, records)
    }

    #[test]
    fn a_plugin_that_never_ends_shows_the_breaker_a_thousand_records_within_three_minutes() {
        let seconds = cpu_of_a_batch_that_never_ends(&Limits::default(), 1024).as_secs();
        assert!((170..180).contains(&seconds), "ARCHITECTURE.md says 0.18 s a record: {seconds} s");
    }

    #[test]
    fn memories_are_counted_together_and_a_denial_is_remembered() {
        let mut limiter = MemoryLimiter::new(100);
        assert!(limiter.memory_growing(0, 60, None).expect("an answer"));
        assert!(!limiter.memory_growing(0, 60, None).expect("an answer"));
        assert!(limiter.denied());
        limiter.begin();
        assert!(limiter.memory_growing(0, 40, None).expect("an answer"));
        assert_eq!((limiter.used_bytes(), limiter.denied()), (100, false));
    }

    #[test]
    fn a_budget_of_cpu_is_spent_by_work_alone() {
        let budget = Budget::start(Duration::from_millis(20), Duration::from_secs(3600));
        assert_eq!(budget.check(), Ok(()));
        let mut work = 0_u64;
        while budget.cpu_used_ns() < 20_000_000 {
            work = std::hint::black_box(work.wrapping_mul(31).wrapping_add(1));
        }
        assert!(matches!(budget.check(), Err(LimitHit::Cpu { limit_ms: 20, .. })));
    }

    #[test]
    fn a_wait_costs_neither_cpu_nor_the_wall_and_goes_on_on_another_thread() {
        let mut budget = Budget::start(Duration::from_millis(50), Duration::from_millis(60));
        let waiting = budget.pause();
        assert_eq!(budget.may_wait(), Duration::from_millis(60));
        let budget = std::thread::spawn(move || {
            let (_never, says) = std::sync::mpsc::channel::<()>();
            let waited = says.recv_timeout(Duration::from_millis(80));
            assert_eq!(waited, Err(std::sync::mpsc::RecvTimeoutError::Timeout));
            // A thread that has worked before.
            let mut work = 0_u64;
            let before = Budget::start(Duration::MAX, Duration::MAX);
            while before.cpu_used_ns() < 60_000_000 {
                work = std::hint::black_box(work.wrapping_mul(31).wrapping_add(1));
            }
            budget.resume(waiting);
            assert_eq!(budget.check(), Ok(()));
            budget
        });
        let budget = budget.join().expect("it is within its limits");
        assert_eq!(budget.may_wait(), Duration::ZERO, "it may not wait again");
        assert!(matches!(budget.waited_too_long(), LimitHit::Wait { limit_ms: 60, .. }));
    }

    #[test]
    fn the_wall_deadline_is_told_apart() {
        let budget = Budget::start(Duration::from_secs(3600), Duration::ZERO);
        assert!(matches!(budget.check(), Err(LimitHit::Wall { .. })));
    }
}
