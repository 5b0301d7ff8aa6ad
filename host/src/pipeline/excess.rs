//! Rows that are larger than the records that they were made of.
//!
//! The source's memory budget knows what was read, once for each output; what a plugin makes of it may be many times as
//! much, up to its `limits: output` a batch. In: the bytes that were read and those of the rows. Out: the room for the
//! difference, given back when the rows are durable. Rows that are no larger never wait here; and rows that are larger than
//! all of the room wait until they are alone. Whoever finds no room drops the rows, waits, and makes them again: a wait
//! holds no rows. So a pipeline holds no more beyond the budget than the room, one batch, and what its compute threads
//! are making.

use std::sync::Arc;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::record::SinkBatch;

/// The unit of a permit.
const UNIT_BYTES: usize = 1 << 10;
/// The room of one pipeline, units.
const ROOM_UNITS: u32 = 32 << 10;

/// The room of one pipeline for what its rows take beyond its records.
#[derive(Debug)]
pub struct Excess(Arc<Semaphore>);

/// Some of the room; dropping it gives it back.
pub(super) type Room = Option<OwnedSemaphorePermit>;

impl Default for Excess {
    fn default() -> Self {
        Self(Arc::new(Semaphore::new(ROOM_UNITS as usize)))
    }
}

impl Excess {
    /// How much room rows need that were made of so many bytes, in its units.
    pub(super) fn needed(read_bytes: usize, batches: &[(usize, SinkBatch)]) -> u32 {
        units(batches.iter().map(|(_, batch)| batch.bytes().saturating_sub(2 * read_bytes)).sum())
    }

    /// The room for rows that are there: what was taken before they were made, where it is enough, or what is free now.
    /// None: they are to be dropped, and made again when [`Excess::take`] has found room.
    pub(super) fn try_take(&self, needed: u32, before: Room) -> Option<Room> {
        if needed == 0 {
            return Some(None);
        }
        if before.as_ref().is_some_and(|room| room.num_permits() >= needed as usize) {
            return Some(before);
        }
        drop(before);
        Arc::clone(&self.0).try_acquire_many_owned(needed).ok().map(Some)
    }

    /// Waits until there is room.
    pub(super) async fn take(&self, needed: u32) -> Room {
        if needed == 0 {
            return None;
        }
        Some(Arc::clone(&self.0).acquire_many_owned(needed).await.expect("nobody closes it"))
    }
}

fn units(excess_bytes: usize) -> u32 {
    u32::try_from(excess_bytes / UNIT_BYTES).unwrap_or(u32::MAX).min(ROOM_UNITS)
}

#[cfg(test)]
mod tests {
    use futures::FutureExt as _;

    use super::*;

    const MEBIBYTE: usize = 1 << 20;

    #[test]
    fn what_is_larger_than_the_room_goes_alone_and_what_is_small_never_waits() {
        let excess = Excess::default();
        let take = |bytes| excess.take(units(bytes)).now_or_never();
        let small = take(8 * MEBIBYTE).expect("room");
        assert!(take(100 * MEBIBYTE).is_none(), "not beside another");
        assert!(take(0).expect("no room is needed").is_none());
        drop(small);
        let large = take(100 * MEBIBYTE).expect("alone");
        assert!(take(MEBIBYTE).is_none(), "nothing beside it");
        assert!(take(0).expect("no room is needed").is_none());
        drop(large);
        let all: Vec<_> = (0..4).map_while(|_| take(8 * MEBIBYTE)).collect();
        assert_eq!((all.len(), take(8 * MEBIBYTE).is_some()), (4, false));
    }

    #[test]
    fn rows_that_are_there_wait_for_nothing_and_use_what_was_taken_for_them() {
        let excess = Excess::default();
        let eight = units(8 * MEBIBYTE);
        let all: Vec<_> = (0..4).map(|_| excess.try_take(eight, None).expect("room")).collect();
        assert!(excess.try_take(eight, None).is_none(), "dropped, and made again");
        assert!(excess.try_take(0, None).is_some_and(|room| room.is_none()), "no room is needed");
        drop(all);
        let before = excess.take(eight).now_or_never().expect("room");
        let rest = excess.take(3 * eight).now_or_never().expect("room");
        let used = excess.try_take(eight, before).expect("it was taken before");
        assert!(excess.try_take(1, None).is_none());
        assert!(excess.try_take(2 * eight, used).is_none(), "not enough: given back, or two could wait for each other");
        drop(rest);
        assert!(excess.try_take(4 * eight, None).is_some());
    }
}
