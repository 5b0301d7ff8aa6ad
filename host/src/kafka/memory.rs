//! One memory budget for all that a source has read and that is not done.
//!
//! In: the budget, the partitions, the largest record that the topics take. Out: leases for batches, given back when
//! their records are done; and, where the partitions' queues alone could pass the budget (each holds at least one
//! record), how many partitions may fetch at once. Half of the budget is for the client's queues, half for batches.

use std::collections::VecDeque;
use std::sync::Arc;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// The unit of a lease.
const UNIT_BYTES: usize = 1024;

/// The budget of one source.
#[derive(Debug)]
pub(super) struct Budget {
    room: Arc<Semaphore>,
    units: usize,
    /// How often a batch is there while it is under way: as it was read; and for each output that its records may leave
    /// by as it is written, and in the sink's own client.
    copies: usize,
    record_bytes_max: usize,
    /// How many partitions may fetch at once; none: all.
    fetching_max: Option<usize>,
}

impl Budget {
    pub(super) fn new(memory_bytes: usize, outputs: usize, partitions: usize, record_bytes_max: usize) -> Self {
        let half = memory_bytes / 2;
        // A record in a queue, half of the next one on its way.
        let partition_bytes = record_bytes_max.saturating_mul(3) / 2;
        let fetching = (half / partition_bytes.max(1)).max(1);
        let units = (half / UNIT_BYTES).clamp(1, Semaphore::MAX_PERMITS.min(u32::MAX as usize));
        Self {
            room: Arc::new(Semaphore::new(units)),
            units,
            copies: 1 + 2 * outputs.max(1),
            record_bytes_max,
            fetching_max: (fetching < partitions).then_some(fetching),
        }
    }

    /// How many partitions may fetch at once; none: all.
    pub(super) fn fetching_max(&self) -> Option<usize> {
        self.fetching_max
    }

    /// What so many bytes of records cost.
    fn units_of(&self, bytes: usize) -> usize {
        (bytes.saturating_mul(self.copies) / UNIT_BYTES + 1).min(self.units)
    }

    /// What a batch of at most `batch_bytes` may cost before it is known: it may end with the largest record, and
    /// where those are large it may come with one record too many.
    fn units_before(&self, batch_bytes: usize) -> usize {
        let overhang = if self.fetching_max.is_some() { self.record_bytes_max } else { 0 };
        self.units_of(batch_bytes.max(self.record_bytes_max) + overhang)
    }

    /// More than this may not belong to one partition while others want some.
    fn partition_units_max(&self) -> usize {
        self.units / 2
    }
}

/// What one reader holds for records that it has not given yet.
#[derive(Debug)]
pub(super) struct Lease {
    budget: Arc<Budget>,
    permit: Option<OwnedSemaphorePermit>,
}

impl Lease {
    pub(super) fn none(budget: Arc<Budget>) -> Self {
        Self { budget, permit: None }
    }

    fn units(&self) -> usize {
        self.permit.as_ref().map_or(0, OwnedSemaphorePermit::num_permits)
    }

    /// How much is missing for a batch of at most `batch_bytes`.
    fn missing(&self, batch_bytes: usize) -> u32 {
        let missing = self.budget.units_before(batch_bytes).saturating_sub(self.units());
        u32::try_from(missing).unwrap_or(u32::MAX)
    }

    fn add(&mut self, permit: OwnedSemaphorePermit) {
        match &mut self.permit {
            Some(held) => held.merge(permit),
            None => self.permit = Some(permit),
        }
    }

    /// Waits until there is room for a batch of at most `batch_bytes`. Cancel-safe.
    pub(super) async fn fill(&mut self, batch_bytes: usize) {
        let missing = self.missing(batch_bytes);
        if missing > 0 {
            let room = Arc::clone(&self.budget.room);
            let permit = room.acquire_many_owned(missing).await.expect("the semaphore is never closed");
            self.add(permit);
        }
    }

    /// The same without waiting. False where there is no room.
    pub(super) fn try_fill(&mut self, batch_bytes: usize) -> bool {
        let missing = self.missing(batch_bytes);
        if missing == 0 {
            return true;
        }
        match Arc::clone(&self.budget.room).try_acquire_many_owned(missing) {
            Ok(permit) => {
                self.add(permit);
                true
            }
            Err(_) => false,
        }
    }

    /// Gives back what `bytes` do not need.
    pub(super) fn shrink(&mut self, bytes: usize) {
        let keep = if bytes == 0 { 0 } else { self.budget.units_of(bytes) };
        let surplus = self.units().saturating_sub(keep);
        if surplus > 0
            && let Some(permit) = &mut self.permit
        {
            drop(permit.split(surplus));
        }
    }

    /// Takes out what `bytes` cost, for a batch that is given.
    pub(super) fn take(&mut self, bytes: usize) -> Option<OwnedSemaphorePermit> {
        let units = self.budget.units_of(bytes).min(self.units());
        self.permit.as_mut()?.split(units)
    }
}

/// What the batches of one partition hold that were given and are not done.
#[derive(Debug, Default)]
pub(super) struct Given {
    /// The last offset of each batch, and its lease.
    leases: VecDeque<(i64, Option<OwnedSemaphorePermit>)>,
    units: usize,
}

impl Given {
    pub(super) fn add(&mut self, last_offset: i64, permit: Option<OwnedSemaphorePermit>) {
        self.units += permit.as_ref().map_or(0, OwnedSemaphorePermit::num_permits);
        self.leases.push_back((last_offset, permit));
    }

    /// All records below `next` are done.
    pub(super) fn done(&mut self, next: i64) {
        while self.leases.front().is_some_and(|(last, _)| *last < next) {
            if let Some((_, permit)) = self.leases.pop_front() {
                self.units -= permit.as_ref().map_or(0, OwnedSemaphorePermit::num_permits);
            }
        }
    }

    /// Whether the partition has its share of the budget and must wait for its own records to be done.
    pub(super) fn is_full(&self, budget: &Budget) -> bool {
        self.units > 0 && self.units >= budget.partition_units_max()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: usize = 1 << 20;

    #[test]
    fn all_partitions_fetch_where_their_records_fit() {
        assert_eq!(Budget::new(256 * MIB, 1, 64, MIB).fetching_max(), None);
        assert_eq!(Budget::new(256 * MIB, 1, 64, 10 * MIB).fetching_max(), Some(8));
        assert_eq!(Budget::new(MIB, 1, 64, 10 * MIB).fetching_max(), Some(1));
    }

    #[tokio::test]
    async fn a_lease_comes_back_when_its_records_are_done() {
        let budget = Arc::new(Budget::new(64 * MIB, 1, 1, MIB));
        let free = budget.room.available_permits();
        let mut lease = Lease::none(Arc::clone(&budget));
        lease.fill(2 * MIB).await;
        assert_eq!(free - budget.room.available_permits(), 3 * 2 * 1024 + 1);
        let mut given = Given::default();
        given.add(9, lease.take(MIB));
        lease.shrink(0);
        assert_eq!(free - budget.room.available_permits(), 3 * 1024 + 1);
        given.done(9);
        assert_eq!(free - budget.room.available_permits(), 3 * 1024 + 1);
        given.done(10);
        assert_eq!(budget.room.available_permits(), free);
    }

    #[tokio::test]
    async fn a_record_larger_than_the_budget_takes_all_of_it() {
        let budget = Arc::new(Budget::new(MIB, 1, 1, 10 * MIB));
        let mut lease = Lease::none(Arc::clone(&budget));
        lease.fill(MIB).await;
        assert_eq!(budget.room.available_permits(), 0);
        assert!(!Lease::none(Arc::clone(&budget)).try_fill(1));
        let permit = lease.take(10 * MIB);
        assert!(permit.is_some());
        drop((permit, lease));
        assert!(Lease::none(budget).try_fill(1));
    }
}
