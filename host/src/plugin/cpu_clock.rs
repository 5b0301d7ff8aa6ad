//! The CPU time of a thread, asked for as seldom as can be.
//!
//! To tell a thread's CPU time is a call of the kernel, and weighs as much as a whole small batch in a plugin; the wall
//! clock answers without one, and no thread uses more CPU time than passes on it. In: moments on one thread. Out: what passed since, where a short time counts in full, and a longer one is asked for. What is
//! answered is never too little, and too much by no more than [`FRESH_NS`].

use std::cell::Cell;

use rustix::time::{ClockId, Timespec, clock_gettime};

/// For so long the thread's CPU time is not asked for again, nanoseconds.
const FRESH_NS: u64 = 1_000_000;

thread_local! {
    /// When this thread's CPU time was asked for last, and what it was.
    static ASKED: Cell<Asked> = const { Cell::new(Asked { wall_ns: 0, cpu_ns: 0 }) };
}

#[derive(Debug, Clone, Copy)]
struct Asked {
    wall_ns: u64,
    cpu_ns: u64,
}

/// A moment on a thread.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Mark {
    wall_ns: u64,
    /// The thread's CPU time then, or up to [`FRESH_NS`] before.
    cpu_ns: u64,
}

/// What passed since a moment, nanoseconds.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Elapsed {
    pub(super) cpu_ns: u64,
    pub(super) wall_ns: u64,
}

impl Mark {
    /// Now, on this thread.
    pub(super) fn now() -> Self {
        let wall_ns = nanoseconds(ClockId::Monotonic);
        let mut asked = ASKED.get();
        if wall_ns.saturating_sub(asked.wall_ns) > FRESH_NS {
            asked = Asked { wall_ns, cpu_ns: nanoseconds(ClockId::ThreadCPUTime) };
            ASKED.set(asked);
        }
        Self { wall_ns, cpu_ns: asked.cpu_ns }
    }

    /// Wall time since, on any thread, nanoseconds.
    pub(super) fn wall_ns(&self) -> u64 {
        nanoseconds(ClockId::Monotonic).saturating_sub(self.wall_ns)
    }

    /// What passed since, on the same thread.
    pub(super) fn elapsed(&self) -> Elapsed {
        let wall_ns = nanoseconds(ClockId::Monotonic).saturating_sub(self.wall_ns);
        if wall_ns <= FRESH_NS {
            return Elapsed { cpu_ns: wall_ns, wall_ns };
        }
        let cpu_ns = nanoseconds(ClockId::ThreadCPUTime).saturating_sub(self.cpu_ns);
        Elapsed { cpu_ns: cpu_ns.min(wall_ns), wall_ns }
    }
}

fn nanoseconds(clock: ClockId) -> u64 {
    let Timespec { tv_sec, tv_nsec } = clock_gettime(clock);
    tv_sec.unsigned_abs() * 1_000_000_000 + tv_nsec.unsigned_abs()
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;
    use std::time::Duration;

    use super::*;

    /// Off the CPU for so long.
    fn idle(time: Duration) {
        let (_sender, receiver) = mpsc::channel::<()>();
        assert_eq!(receiver.recv_timeout(time), Err(mpsc::RecvTimeoutError::Timeout));
    }

    fn work_for(cpu: Duration) {
        let began = nanoseconds(ClockId::ThreadCPUTime);
        let mut work = 0_u64;
        while nanoseconds(ClockId::ThreadCPUTime) - began < cpu.as_nanos() as u64 {
            work = std::hint::black_box(work.wrapping_mul(31).wrapping_add(1));
        }
    }

    #[test]
    fn time_off_the_cpu_does_not_count() {
        let mark = Mark::now();
        idle(Duration::from_millis(50));
        let Elapsed { cpu_ns, wall_ns } = mark.elapsed();
        assert!(wall_ns >= 50_000_000);
        // A moment before may count, and the wait itself takes a little.
        assert!(cpu_ns < 10 * FRESH_NS, "{cpu_ns}");
    }

    #[test]
    fn what_is_used_counts_to_within_a_millisecond_and_never_too_little() {
        idle(Duration::from_millis(2));
        let first = Mark::now();
        work_for(Duration::from_micros(500));
        // Another mark within the same millisecond: the CPU time is not asked for again.
        let second = Mark::now();
        work_for(Duration::from_millis(20));
        idle(Duration::from_millis(20));
        let asked = nanoseconds(ClockId::ThreadCPUTime);
        for mark in [first, second] {
            let used = mark.elapsed().cpu_ns;
            assert!(used >= 20_000_000, "{used}");
            let truth = nanoseconds(ClockId::ThreadCPUTime) - mark.cpu_ns;
            assert!(used <= truth, "{used} of {truth}");
        }
        assert!(asked - second.cpu_ns <= 20_000_000 + 10 * FRESH_NS);
    }

    #[test]
    fn within_a_millisecond_the_wall_clock_alone_is_asked() {
        // Where the machine takes the thread off its core for longer, the next try will do.
        let undisturbed = (0..1_000).any(|_| {
            let before = Mark::now();
            let marks: Vec<Mark> = (0..100).map(|_| Mark::now()).collect();
            let elapsed = before.elapsed();
            let is_short = elapsed.wall_ns <= FRESH_NS / 2;
            if is_short {
                assert_eq!(elapsed.cpu_ns, elapsed.wall_ns);
            }
            is_short && marks.iter().all(|mark| mark.cpu_ns == before.cpu_ns)
        });
        assert!(undisturbed, "a hundred marks in half a millisecond ask for the CPU time at most once");
    }
}
