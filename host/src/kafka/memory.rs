//! One memory budget for all that a source has read and that is not done.
//!
//! In: the budget, the partitions, the largest record that the topics take. Out: leases for batches, given back when
//! their records are done; and, where the partitions' queues alone could pass the budget (each holds at least one
//! record), how many partitions may fetch at once. Half of the budget is for the client's queues, half for batches.
//!
//! What some partitions hold, for however long, does not stop the others, as long as it fits: one batch may lie beyond
//! that half, of a partition that has no other, and where those that lie there stay, as many more as fit into a quarter
//! of the budget. That is the quarter by which a source may pass its budget. It counts bytes: a record larger than was
//! known takes more of it from then on, and what turned out to take more than was thought keeps others out until it goes.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicIsize, AtomicUsize, Ordering};
use std::time::Duration;

use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore};

/// The unit of a lease.
const UNIT_BYTES: usize = 1024;
/// What lies beyond the budget for so long is held, and no longer in anybody's way.
const HELD_AFTER: Duration = Duration::from_secs(2);

/// The budget of one source.
#[derive(Debug)]
pub(super) struct Budget {
    free: AtomicUsize,
    /// Called when something is given back.
    freed: Notify,
    units: usize,
    /// One batch may lie beyond `units`, of a partition that holds nothing: whatever another partition holds, and for
    /// however long, the rest go on. Where it can, the budget keeps room for it.
    beyond: Arc<Semaphore>,
    /// What is free of the quarter for those beside it, once whoever lies there is held. Below zero where they take more
    /// than was thought.
    beside: AtomicIsize,
    /// Who takes of that next.
    beside_next: Semaphore,
    /// How often a batch is there while it is under way: as it was read; and for each output that its records may leave
    /// by as it is written, and in the sink's own client.
    copies: usize,
    /// The largest record that the topics take, or took: a topic's limit holds for compressed records, and may have
    /// been a higher one.
    record_bytes_max: AtomicUsize,
    /// What the client's queues may hold.
    queues_bytes: usize,
    partitions: usize,
}

impl Budget {
    pub(super) fn new(memory_bytes: usize, outputs: usize, partitions: usize, record_bytes_max: usize) -> Self {
        let half = memory_bytes / 2;
        let copies = 1 + 2 * outputs.max(1);
        let beyond_bytes = record_bytes_max.saturating_mul(copies).min(half / 4);
        let units = ((half - beyond_bytes) / UNIT_BYTES).max(1);
        Self {
            free: AtomicUsize::new(units),
            freed: Notify::new(),
            units,
            beyond: Arc::new(Semaphore::new(1)),
            beside: AtomicIsize::new((memory_bytes / 4 / UNIT_BYTES).cast_signed()),
            beside_next: Semaphore::new(1),
            copies,
            record_bytes_max: AtomicUsize::new(record_bytes_max),
            queues_bytes: half,
            partitions,
        }
    }

    /// How many partitions may fetch at once; none: all.
    pub(super) fn fetching_max(&self) -> Option<usize> {
        // A record in a queue, half of the next one on its way.
        let partition_bytes = self.record_bytes_max().saturating_mul(3) / 2;
        let fetching = (self.queues_bytes / partition_bytes.max(1)).max(1);
        (fetching < self.partitions).then_some(fetching)
    }

    fn record_bytes_max(&self) -> usize {
        self.record_bytes_max.load(Ordering::Relaxed)
    }

    /// A record of so many bytes came: from now on there is room for others like it.
    pub(super) fn met(&self, bytes: usize) {
        if bytes > self.record_bytes_max() {
            let before = self.record_bytes_max.fetch_max(bytes, Ordering::Relaxed);
            tracing::info!(bytes, before, fetching = ?self.fetching_max(), "a record is larger than its topic takes now");
        }
    }

    /// What so many bytes of records cost, of all that there is at most.
    fn units_of(&self, bytes: usize) -> usize {
        self.true_units_of(bytes).min(self.units)
    }

    fn true_units_of(&self, bytes: usize) -> usize {
        bytes.saturating_mul(self.copies) / UNIT_BYTES + 1
    }

    /// Waits until a batch of at most `batch_bytes` may lie beside the one beyond the budget; in the order in which they
    /// came. Cancel-safe.
    async fn beside(self: &Arc<Self>, batch_bytes: usize) -> Beside {
        let _next = self.beside_next.acquire().await.expect("the semaphore is never closed");
        loop {
            // Before the look: what is given back meanwhile wakes it.
            let freed = self.freed.notified();
            let units = self.true_units_of(batch_bytes.max(self.record_bytes_max())).cast_signed();
            let take = |free: isize| free.checked_sub(units).filter(|left| *left >= 0);
            if self.beside.fetch_update(Ordering::SeqCst, Ordering::SeqCst, take).is_ok() {
                return Beside { budget: Arc::clone(self), units };
            }
            freed.await;
        }
    }

    /// What a batch of at most `batch_bytes` may cost before it is known: it may end with the largest record, and
    /// where those are large it may come with one record too many.
    fn units_before(&self, batch_bytes: usize) -> usize {
        let record = self.record_bytes_max();
        let overhang = if self.fetching_max().is_some() { record } else { 0 };
        self.units_of(batch_bytes.max(record) + overhang)
    }

    /// More than this may not belong to one partition while others want some.
    fn partition_units_max(&self) -> usize {
        self.units / 2
    }

    /// Takes so many units where they are free.
    fn try_take(&self, units: usize) -> bool {
        self.free.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |free| free.checked_sub(units)).is_ok()
    }

    fn put_back(&self, units: usize) {
        self.free.fetch_add(units, Ordering::SeqCst);
        self.freed.notify_waiters();
    }
}

/// The right to lie beyond the budget.
#[derive(Debug)]
enum Beyond {
    /// The one batch that always may.
    One { _turn: OwnedSemaphorePermit },
    /// Beside it.
    Beside(Beside),
}

impl Beyond {
    /// The batch turned out to cost so many units.
    fn costs(&mut self, units: usize) {
        let Self::Beside(Beside { budget, units: taken }) = self else { return };
        let more = units.cast_signed().saturating_sub(*taken).max(0);
        budget.beside.fetch_sub(more, Ordering::SeqCst);
        *taken += more;
    }
}

/// Some of the quarter for those beside the one.
#[derive(Debug)]
struct Beside {
    budget: Arc<Budget>,
    units: isize,
}

impl Drop for Beside {
    fn drop(&mut self) {
        self.budget.beside.fetch_add(self.units, Ordering::SeqCst);
        self.budget.freed.notify_waiters();
    }
}

/// What one batch holds until its records are done.
#[derive(Debug)]
pub(super) struct Permit {
    budget: Arc<Budget>,
    units: usize,
    _beyond: Option<Beyond>,
}

impl Drop for Permit {
    fn drop(&mut self) {
        self.budget.put_back(self.units);
    }
}

/// What one reader holds for records that it has not given yet.
#[derive(Debug)]
pub(super) struct Lease {
    budget: Arc<Budget>,
    units: usize,
    beyond: Option<Beyond>,
}

impl Lease {
    pub(super) fn none(budget: Arc<Budget>) -> Self {
        Self { budget, units: 0, beyond: None }
    }

    /// Waits until there is room for a batch of at most `batch_bytes`; a partition that `holds_nothing` also takes its
    /// turn beyond the budget, and then beside those that are held there. Once it holds nothing, that must remain so
    /// while this waits. Cancel-safe.
    pub(super) async fn fill(&mut self, batch_bytes: usize, holds_nothing: impl Fn() -> bool) {
        let budget = Arc::clone(&self.budget);
        // One place in the queue for the whole wait.
        let mut beyond = std::pin::pin!(Arc::clone(&budget.beyond).acquire_owned());
        let mut beside = std::pin::pin!(async {
            tokio::time::sleep(HELD_AFTER).await;
            budget.beside(batch_bytes).await
        });
        loop {
            // Before the look: what is given back meanwhile wakes it.
            let freed = budget.freed.notified();
            if self.beyond.is_some() || self.try_fill(batch_bytes) {
                return;
            }
            tokio::select! {
                turn = &mut beyond, if holds_nothing() => {
                    self.beyond = Some(Beyond::One { _turn: turn.expect("the semaphore is never closed") });
                    return;
                }
                lies = &mut beside, if holds_nothing() => {
                    self.beyond = Some(Beyond::Beside(lies));
                    return;
                }
                () = freed => {}
            }
        }
    }

    /// The same without waiting, within the budget. False where there is no room.
    pub(super) fn try_fill(&mut self, batch_bytes: usize) -> bool {
        self.grow(self.budget.units_before(batch_bytes))
    }

    /// Holds so many units, within the budget; false where there is no room.
    fn grow(&mut self, units: usize) -> bool {
        let missing = units.saturating_sub(self.units);
        if !self.budget.try_take(missing) {
            return false;
        }
        self.units += missing;
        self.beyond = None;
        true
    }

    /// Gives back what `bytes` do not need; first of all the right to lie beyond the budget.
    pub(super) fn shrink(&mut self, bytes: usize) {
        let keep = if bytes == 0 { 0 } else { self.budget.units_of(bytes) };
        if self.beyond.is_some() {
            self.grow(keep);
        }
        let surplus = self.units.saturating_sub(keep);
        if surplus > 0 {
            self.units -= surplus;
            self.budget.put_back(surplus);
        }
    }

    /// Takes out what `bytes` cost, for a batch that is given.
    pub(super) fn take(&mut self, bytes: usize) -> Permit {
        let units = self.budget.units_of(bytes).min(self.units);
        self.units -= units;
        let mut beyond = self.beyond.take();
        if let Some(beyond) = &mut beyond {
            beyond.costs(self.budget.true_units_of(bytes));
        }
        Permit { budget: Arc::clone(&self.budget), units, _beyond: beyond }
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        self.budget.put_back(self.units);
    }
}

/// What the batches of one partition hold that were given and are not done.
#[derive(Debug, Default)]
pub(super) struct Given {
    /// The last offset of each batch, and its lease.
    leases: VecDeque<(i64, Permit)>,
    units: usize,
}

impl Given {
    pub(super) fn add(&mut self, last_offset: i64, permit: Permit) {
        self.units += permit.units;
        self.leases.push_back((last_offset, permit));
    }

    /// All records below `next` are done.
    pub(super) fn done(&mut self, next: i64) {
        while self.leases.front().is_some_and(|(last, _)| *last < next) {
            if let Some((_, permit)) = self.leases.pop_front() {
                self.units -= permit.units;
            }
        }
    }

    /// Whether nothing was given that is not done.
    pub(super) fn is_empty(&self) -> bool {
        self.leases.is_empty()
    }

    /// Whether the partition has its share of the budget and must wait for its own records to be done.
    pub(super) fn is_full(&self, budget: &Budget) -> bool {
        self.units > 0 && self.units >= budget.partition_units_max()
    }
}

#[cfg(test)]
mod tests {
    use futures::FutureExt as _;

    use super::*;

    const MIB: usize = 1 << 20;

    impl Budget {
        fn free(&self) -> usize {
            self.free.load(Ordering::SeqCst)
        }
    }

    #[test]
    fn all_partitions_fetch_where_their_records_fit() {
        assert_eq!(Budget::new(256 * MIB, 1, 64, MIB).fetching_max(), None);
        assert_eq!(Budget::new(256 * MIB, 1, 64, 10 * MIB).fetching_max(), Some(8));
        assert_eq!(Budget::new(MIB, 1, 64, 10 * MIB).fetching_max(), Some(1));
    }

    #[test]
    fn a_record_larger_than_was_told_makes_partitions_take_turns() {
        let budget = Budget::new(256 * MIB, 1, 64, MIB);
        let before = budget.units_before(MIB);
        budget.met(MIB);
        assert_eq!((budget.fetching_max(), budget.units_before(MIB)), (None, before));
        budget.met(10 * MIB);
        budget.met(2 * MIB);
        assert_eq!(budget.fetching_max(), Some(8));
        assert!(budget.units_before(MIB) > 10 * before);
    }

    #[tokio::test]
    async fn a_lease_comes_back_when_its_records_are_done() {
        let budget = Arc::new(Budget::new(64 * MIB, 1, 1, MIB));
        let free = budget.free();
        let mut lease = Lease::none(Arc::clone(&budget));
        lease.fill(2 * MIB, || true).await;
        assert_eq!(free - budget.free(), 3 * 2 * 1024 + 1);
        let mut given = Given::default();
        given.add(9, lease.take(MIB));
        lease.shrink(0);
        assert_eq!(free - budget.free(), 3 * 1024 + 1);
        given.done(9);
        assert_eq!(free - budget.free(), 3 * 1024 + 1);
        given.done(10);
        assert_eq!(budget.free(), free);
    }

    #[tokio::test]
    async fn a_record_larger_than_the_budget_takes_all_of_it() {
        let budget = Arc::new(Budget::new(MIB, 1, 1, 10 * MIB));
        let mut lease = Lease::none(Arc::clone(&budget));
        lease.fill(MIB, || true).await;
        assert_eq!(budget.free(), 0);
        assert!(!Lease::none(Arc::clone(&budget)).try_fill(1));
        let permit = lease.take(10 * MIB);
        drop((permit, lease));
        assert!(Lease::none(budget).try_fill(1));
    }

    #[tokio::test]
    async fn whatever_one_partition_holds_the_others_go_on_one_batch_beyond_the_budget_at_a_time() {
        let budget = Arc::new(Budget::new(16 * MIB, 1, 64, 10 * MIB));
        let (mut held, mut second, mut third) =
            (Lease::none(Arc::clone(&budget)), Lease::none(Arc::clone(&budget)), Lease::none(Arc::clone(&budget)));
        held.fill(MIB, || true).await;
        held.shrink(1024);
        let kept = held.take(1024);
        for _ in 0..3 {
            assert!(held.fill(MIB, || false).now_or_never().is_none(), "what holds something waits");
            second.fill(MIB, || true).now_or_never().expect("it goes on");
            assert!(third.fill(MIB, || true).now_or_never().is_none(), "one at a time");
            second.shrink(10 * MIB);
            let batch = second.take(10 * MIB);
            second.shrink(0);
            assert!(third.fill(MIB, || true).now_or_never().is_none(), "until its records are done");
            drop(batch);
            third.fill(MIB, || true).now_or_never().expect("its turn");
            // A small batch finds room within the budget, and leaves the place beyond it to others.
            third.shrink(1024);
            let small = third.take(1024);
            second.fill(MIB, || true).now_or_never().expect("its turn, though the small batch is not done");
            second.shrink(0);
            drop(small);
        }
        drop(kept);
        assert!(held.fill(MIB, || false).now_or_never().is_some());
    }

    #[tokio::test(start_paused = true)]
    async fn where_those_beyond_the_budget_are_held_the_others_go_on_in_a_quarter_of_it() {
        let budget = Arc::new(Budget::new(256 * MIB, 1, 64, 10 * MIB));
        let batch = async || {
            let mut lease = Lease::none(Arc::clone(&budget));
            tokio::time::timeout(10 * HELD_AFTER, lease.fill(MIB, || true)).await.ok()?;
            lease.shrink(10 * MIB);
            Some(lease.take(10 * MIB))
        };
        // Three fit into the half for batches, one lies beyond, and one beside it.
        let mut held = Vec::new();
        for _ in 0..5 {
            held.push(batch().await.expect("it fits"));
        }
        for _ in 0..3 {
            drop(batch().await.expect("the others go on"));
        }
        held.push(batch().await.expect("it fits"));
        assert!(batch().await.is_none(), "the quarter is full");
        held.pop();
        assert!(batch().await.is_some());
    }

    /// Leases for batches of a mebibyte, as many as find room.
    async fn leases(budget: &Arc<Budget>, most: usize) -> Vec<Lease> {
        let mut leases = Vec::new();
        while leases.len() < most {
            let mut lease = Lease::none(Arc::clone(budget));
            if tokio::time::timeout(10 * HELD_AFTER, lease.fill(MIB, || true)).await.is_err() {
                break;
            }
            leases.push(lease);
        }
        leases
    }

    /// Their batches, which turn out to be so large.
    fn given(budget: &Budget, leases: Vec<Lease>, bytes: usize) -> Vec<Permit> {
        let give = |mut lease: Lease| {
            budget.met(bytes);
            lease.shrink(bytes);
            lease.take(bytes)
        };
        leases.into_iter().map(give).collect()
    }

    #[tokio::test(start_paused = true)]
    async fn what_lies_beside_the_budget_fits_into_its_quarter_when_records_turn_out_to_be_larger() {
        const RECORD: usize = 3 * 1024 + 1;
        let budget = Arc::new(Budget::new(256 * MIB, 1, 64, MIB));
        let quarter = 64 * 1024_isize;
        // All of the half, and one beyond it.
        let within = leases(&budget, budget.units / RECORD + 1).await;
        let within = given(&budget, within, MIB);
        let beside = leases(&budget, 64).await;
        assert_eq!(beside.len(), 64 * 1024 / RECORD, "as many as fit into 64 MiB, of 3 MiB each");
        let beside = given(&budget, beside, MIB);
        // What comes into their place is as large as is known by then.
        budget.met(10 * MIB);
        drop(beside);
        let larger = leases(&budget, 64).await;
        assert_eq!(larger.len(), 2, "as many as fit into 64 MiB, of 30 MiB each");
        drop(larger);
        assert_eq!(budget.beside.load(Ordering::SeqCst), quarter, "all of it comes back");
        drop(within);

        // Larger than was thought when they were let in: they keep the others out until enough of them are done.
        let budget = Arc::new(Budget::new(256 * MIB, 1, 64, MIB));
        let within = leases(&budget, budget.units / RECORD + 1).await;
        let within = given(&budget, within, MIB);
        let surprising = leases(&budget, 4).await;
        let mut surprising = given(&budget, surprising, 10 * MIB);
        surprising.truncate(2);
        assert_eq!(leases(&budget, 1).await.len(), 0, "60 MiB lie there");
        surprising.truncate(1);
        assert_eq!(leases(&budget, 1).await.len(), 1);
        drop((within, surprising));
        assert_eq!(budget.beside.load(Ordering::SeqCst), quarter);
    }

    #[tokio::test]
    async fn who_waits_learns_of_what_is_given_back() {
        let budget = Arc::new(Budget::new(16 * MIB, 1, 64, 10 * MIB));
        let mut held = Lease::none(Arc::clone(&budget));
        held.fill(MIB, || true).await;
        let mut waiting = Lease::none(Arc::clone(&budget));
        let wait = tokio::spawn(async move { waiting.fill(MIB, || false).await });
        tokio::task::yield_now().await;
        drop(held.take(10 * MIB));
        held.shrink(0);
        tokio::time::timeout(std::time::Duration::from_secs(20), wait).await.expect("it is woken").unwrap();
    }
}
