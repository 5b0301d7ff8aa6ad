//! How many writes may be under way at once: additive increase, multiplicative decrease.
//!
//! In: what became of each write, and how long it took. Out: permits. Each full window of good answers adds one;
//! overload, a time-out or a clear rise of latency halves it, at most once for the writes that were under way together.
//! [`Aimd`] decides and is pure; [`Window`] hands out permits accordingly.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::Semaphore;
use tokio::time::Instant;

/// Bounds of a window, in writes under way.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Bounds {
    pub(crate) start: usize,
    pub(crate) min: usize,
    pub(crate) max: usize,
    /// Latency alone never takes the window below this.
    pub(crate) latency_min: usize,
}

pub(crate) const BOUNDS: Bounds = Bounds { start: 64, min: 4, max: 1024, latency_min: 32 };

/// Answers at least in a sample of latency.
const SAMPLE: u32 = 64;
/// A rise below this is noise: a pause of the garbage collector, a busy machine.
const RISE_MIN: Duration = Duration::from_millis(50);

/// The controller. Times count from its start.
#[derive(Debug)]
pub(crate) struct Aimd {
    bounds: Bounds,
    limit: f64,
    /// Writes sent before this time belong to a window that was already halved.
    halved_at: Option<Duration>,
    answers: u32,
    answers_latency: Duration,
    /// Latency of a quiet cluster, as far as seen.
    quiet: Option<Duration>,
    rise: Rise,
}

/// What a rise of latency has come to.
#[derive(Debug, Clone, Copy)]
enum Rise {
    None,
    /// One sample rose; it may hold answers from before.
    Seen,
    /// The window was halved at this latency: if that does not lower it, the latency is not ours.
    Halved(Duration),
}

impl Aimd {
    pub(crate) fn new(bounds: Bounds) -> Self {
        Self {
            bounds,
            limit: bounds.start as f64,
            halved_at: None,
            answers: 0,
            answers_latency: Duration::ZERO,
            quiet: None,
            rise: Rise::None,
        }
    }

    pub(crate) fn limit(&self) -> usize {
        self.limit as usize
    }

    /// A write that was sent at `sent_at` succeeded at `now`, with `in_use` under way, itself included.
    pub(crate) fn succeeded(&mut self, sent_at: Duration, now: Duration, in_use: usize) {
        // A window that is not used says nothing about a larger one.
        if in_use * 2 >= self.limit() {
            self.limit = (self.limit + 1.0 / self.limit).min(self.bounds.max as f64);
        }
        if self.halved_at.is_some_and(|at| sent_at < at) {
            return;
        }
        self.answers += 1;
        self.answers_latency += now.saturating_sub(sent_at);
        if self.answers >= SAMPLE.max(self.limit as u32) {
            let mean = self.answers_latency / self.answers;
            (self.answers, self.answers_latency) = (0, Duration::ZERO);
            self.sampled(mean, now);
        }
    }

    /// A write that was sent at `sent_at` met overload, or no answer in time.
    pub(crate) fn overloaded(&mut self, sent_at: Duration, now: Duration) {
        if self.halved_at.is_none_or(|at| sent_at >= at) {
            self.halve(now, self.bounds.min);
        }
    }

    fn sampled(&mut self, mean: Duration, now: Duration) {
        let quiet = match self.quiet {
            Some(quiet) if mean >= quiet => quiet + (mean - quiet) / 64,
            _ => mean,
        };
        self.quiet = Some(quiet);
        if mean < quiet * 2 + RISE_MIN {
            self.rise = Rise::None;
            return;
        }
        match self.rise {
            Rise::None => self.rise = Rise::Seen,
            // Half the window, and no better: others load the cluster, or it is just slower now.
            Rise::Halved(before) if mean * 10 > before * 8 => self.accept(mean),
            _ if self.limit() > self.bounds.latency_min => {
                self.rise = Rise::Halved(mean);
                self.halve(now, self.bounds.latency_min);
            }
            _ => self.accept(mean),
        }
    }

    /// Takes this latency for that of a quiet cluster.
    fn accept(&mut self, mean: Duration) {
        self.quiet = Some(mean);
        self.rise = Rise::None;
    }

    fn halve(&mut self, now: Duration, min: usize) {
        self.limit = (self.limit / 2.0).max(min as f64).min(self.limit);
        self.halved_at = Some(now);
        (self.answers, self.answers_latency) = (0, Duration::ZERO);
    }
}

/// What became of a write, to its window.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Answer {
    Good,
    Overload,
    /// An answer that says nothing about load.
    Other,
}

/// Hands out permits.
#[derive(Debug)]
pub(crate) struct Window {
    free: Semaphore,
    inner: Mutex<Inner>,
    epoch: Instant,
}

#[derive(Debug)]
struct Inner {
    aimd: Aimd,
    /// Permits that exist, those in debt included.
    permits: usize,
    /// Permits to take back as they return.
    debt: usize,
    in_use: usize,
}

impl Window {
    pub(crate) fn new(bounds: Bounds) -> Self {
        let aimd = Aimd::new(bounds);
        let permits = aimd.limit();
        Self {
            free: Semaphore::new(permits),
            inner: Mutex::new(Inner { aimd, permits, debt: 0, in_use: 0 }),
            epoch: Instant::now(),
        }
    }

    /// Waits for its turn, first come, first served.
    pub(crate) async fn enter(&self) -> Permit<'_> {
        let permit = self.free.acquire().await.expect("the semaphore is never closed");
        permit.forget();
        self.lock().in_use += 1;
        Permit { window: self, sent_at: self.epoch.elapsed() }
    }

    /// The present size, and how much of it is in use.
    pub(crate) fn state(&self) -> (usize, usize) {
        let inner = self.lock();
        (inner.aimd.limit(), inner.in_use)
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn leave(&self, sent_at: Duration, answer: Answer) {
        let now = self.epoch.elapsed();
        let mut inner = self.lock();
        let in_use = inner.in_use;
        match answer {
            Answer::Good => inner.aimd.succeeded(sent_at, now, in_use),
            Answer::Overload => inner.aimd.overloaded(sent_at, now),
            Answer::Other => {}
        }
        inner.in_use -= 1;
        // First pay or make debts as the limit says, then give this permit back, or keep it where one is owed.
        let wanted = inner.aimd.limit();
        let standing = inner.permits - inner.debt;
        if wanted > standing {
            let more = wanted - standing;
            let forgiven = more.min(inner.debt);
            inner.debt -= forgiven;
            inner.permits += more - forgiven;
            self.free.add_permits(more - forgiven);
        } else {
            inner.debt += standing - wanted;
        }
        if inner.debt > 0 {
            inner.debt -= 1;
            inner.permits -= 1;
        } else {
            self.free.add_permits(1);
        }
        let taken = self.free.forget_permits(inner.debt);
        inner.debt -= taken;
        inner.permits -= taken;
    }
}

/// One write under way.
#[derive(Debug)]
pub(crate) struct Permit<'a> {
    window: &'a Window,
    sent_at: Duration,
}

impl Permit<'_> {
    /// Gives the permit back with what became of the write, and says how long it took.
    pub(crate) fn leave(self, answer: Answer) -> Duration {
        let latency = self.window.epoch.elapsed().saturating_sub(self.sent_at);
        self.window.leave(self.sent_at, answer);
        // Dropping it would give it back a second time.
        std::mem::forget(self);
        latency
    }
}

impl Drop for Permit<'_> {
    fn drop(&mut self) {
        self.window.leave(self.sent_at, Answer::Other);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);

    /// Full windows of writes, each answered after `latency`.
    fn rounds(aimd: &mut Aimd, now: &mut Duration, count: usize, latency: Duration) {
        for _ in 0..count {
            let sent_at = *now;
            *now += latency;
            for _ in 0..aimd.limit() {
                aimd.succeeded(sent_at, *now, aimd.limit());
            }
        }
    }

    #[test]
    fn grows_by_one_a_round_up_to_its_maximum() {
        let mut aimd = Aimd::new(BOUNDS);
        let mut now = Duration::ZERO;
        rounds(&mut aimd, &mut now, 100, 2 * MS);
        assert!((160..=164).contains(&aimd.limit()), "{}", aimd.limit());
        rounds(&mut aimd, &mut now, 2000, 2 * MS);
        assert_eq!(aimd.limit(), BOUNDS.max);
    }

    #[test]
    fn halves_once_for_writes_that_were_under_way_together() {
        let mut aimd = Aimd::new(BOUNDS);
        let mut now = Duration::ZERO;
        rounds(&mut aimd, &mut now, 200, 2 * MS);
        let before = aimd.limit();
        for _ in 0..before {
            aimd.overloaded(now, now + 10 * MS);
        }
        assert_eq!(aimd.limit(), before / 2);
        now += 20 * MS;
        aimd.overloaded(now, now + MS);
        assert_eq!(aimd.limit(), before / 4);
        for round in 1..20 {
            aimd.overloaded(now + 2 * round * MS, now + (2 * round + 1) * MS);
        }
        assert_eq!(aimd.limit(), BOUNDS.min);
        now += 100 * MS;
        rounds(&mut aimd, &mut now, 300, 2 * MS);
        assert!(aimd.limit() > 250, "it recovers: {}", aimd.limit());
    }

    #[test]
    fn an_idle_window_does_not_grow() {
        let mut aimd = Aimd::new(BOUNDS);
        for round in 0..100_000 {
            aimd.succeeded(round * MS, round * MS + MS, 3);
        }
        assert_eq!(aimd.limit(), BOUNDS.start);
    }

    #[test]
    fn a_rise_of_latency_that_we_cause_shrinks_it() {
        let mut aimd = Aimd::new(BOUNDS);
        let mut now = Duration::ZERO;
        rounds(&mut aimd, &mut now, 400, 2 * MS);
        let before = aimd.limit();
        let mut least = before;
        // The cluster now serves one write a millisecond: latency is the window's own length.
        for _ in 0..200 {
            let latency = aimd.limit() as u32 * MS;
            rounds(&mut aimd, &mut now, 1, latency);
            least = least.min(aimd.limit());
        }
        assert!(least <= before / 4, "{before} to {least}");
        rounds(&mut aimd, &mut now, 600, 2 * MS);
        assert!(aimd.limit() > before / 2, "it recovers: {}", aimd.limit());
    }

    #[test]
    fn a_rise_of_latency_that_we_do_not_cause_is_accepted() {
        let mut aimd = Aimd::new(BOUNDS);
        let mut now = Duration::ZERO;
        rounds(&mut aimd, &mut now, 400, 2 * MS);
        let before = aimd.limit();
        rounds(&mut aimd, &mut now, 100, 200 * MS);
        assert!(aimd.limit() >= before / 2, "halved at most once: {before} to {}", aimd.limit());
    }

    #[tokio::test]
    async fn permits_follow_the_limit() {
        let window = Window::new(Bounds { start: 8, min: 2, max: 10, latency_min: 2 });
        let mut held = Vec::new();
        for _ in 0..8 {
            held.push(window.enter().await);
        }
        assert!(tokio::time::timeout(10 * MS, window.enter()).await.is_err(), "the window is full");
        held.pop().expect("eight are held").leave(Answer::Overload);
        assert_eq!(window.state(), (4, 7));
        for _ in 0..3 {
            held.pop().expect("seven are held").leave(Answer::Other);
        }
        assert!(tokio::time::timeout(10 * MS, window.enter()).await.is_err(), "four are under way, and four may be");
        drop(held.pop());
        let again = window.enter().await;
        assert_eq!(window.state(), (4, 4));
        again.leave(Answer::Good);
        held.clear();
        for _ in 0..1000 {
            let mut round = Vec::new();
            for _ in 0..window.state().0 {
                round.push(window.enter().await);
            }
            round.into_iter().for_each(|permit| {
                permit.leave(Answer::Good);
            });
        }
        assert_eq!(window.state(), (10, 0));
        let mut all = Vec::new();
        for _ in 0..10 {
            all.push(window.enter().await);
        }
        assert!(tokio::time::timeout(10 * MS, window.enter()).await.is_err(), "no permit came from nowhere");
    }
}
