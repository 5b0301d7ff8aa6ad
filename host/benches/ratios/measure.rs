//! How things are measured: two contestants in turn, ratios round by round, and the spread of them.
//!
//! The machine may be busy with other work and change its speed at any moment; a ratio of two neighbours in time
//! survives that, an absolute figure does not. So every figure comes with its quartiles, and what is compared was
//! measured in one run, in turns, each going first every other time.

use std::time::Duration;

use serde::Serialize;

/// Several measurements of one thing.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize)]
pub(crate) struct Spread {
    pub(crate) median: f64,
    /// First quartile.
    pub(crate) q1: f64,
    /// Third quartile.
    pub(crate) q3: f64,
    pub(crate) rounds: usize,
}

impl Spread {
    pub(crate) fn of(mut samples: Vec<f64>) -> Self {
        samples.sort_by(f64::total_cmp);
        let at = |part: f64| {
            let place = part * (samples.len().saturating_sub(1)) as f64;
            let (low, high) = (samples[place.floor() as usize], samples[place.ceil() as usize]);
            low + (high - low) * place.fract()
        };
        if samples.is_empty() {
            return Self::default();
        }
        Self { median: at(0.5), q1: at(0.25), q3: at(0.75), rounds: samples.len() }
    }
}

/// Two contestants, and their ratio round by round.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Pair {
    pub(crate) ours: Spread,
    pub(crate) theirs: Spread,
    pub(crate) ratio: Spread,
}

impl Pair {
    pub(crate) fn of(rounds: &[(f64, f64)]) -> Self {
        Self {
            ours: Spread::of(rounds.iter().map(|(ours, _)| *ours).collect()),
            theirs: Spread::of(rounds.iter().map(|(_, theirs)| *theirs).collect()),
            ratio: Spread::of(rounds.iter().map(|(ours, theirs)| ours / theirs).collect()),
        }
    }
}

/// Runs two contestants in turns. The first round warms up and does not count.
pub(crate) fn in_turns<M, T>(
    rounds: usize,
    mut ours: impl FnMut() -> T,
    mut theirs: impl FnMut() -> T,
    of: M,
) -> Vec<(f64, f64)>
where
    M: Fn(&T) -> f64,
{
    let all = in_turns_with(rounds + 1, &mut ours, &mut theirs);
    all.iter().skip(1).map(|(ours, theirs)| (of(ours), of(theirs))).collect()
}

/// Runs two contestants in turns; every round counts.
pub(crate) fn in_turns_with<T>(
    rounds: usize,
    ours: &mut impl FnMut() -> T,
    theirs: &mut impl FnMut() -> T,
) -> Vec<(T, T)> {
    (0..rounds)
        .map(|round| {
            if round % 2 == 0 {
                let first = ours();
                (first, theirs())
            } else {
                let first = theirs();
                (ours(), first)
            }
        })
        .collect()
}

/// CPU time of this thread.
pub(crate) fn thread_cpu() -> Duration {
    duration(rustix::time::clock_gettime(rustix::time::ClockId::ThreadCPUTime))
}

/// CPU time of this process, all threads.
pub(crate) fn process_cpu() -> Duration {
    duration(rustix::time::clock_gettime(rustix::time::ClockId::ProcessCPUTime))
}

/// Monotonic nanoseconds, the same for all processes of the machine.
pub(crate) fn monotonic_ns() -> u64 {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::Monotonic);
    time.tv_sec.unsigned_abs() * 1_000_000_000 + time.tv_nsec.unsigned_abs()
}

fn duration(time: rustix::time::Timespec) -> Duration {
    Duration::new(time.tv_sec.unsigned_abs(), u32::try_from(time.tv_nsec).unwrap_or_default())
}
