//! Rows that are larger than the records that they were made of.
//!
//! The source's memory budget knows what was read, once for each output; what a plugin makes of it may be many times as
//! much, up to its `limits: output` a batch. In: the bytes that were read and those of the rows. Out: the room for the
//! difference, given back when the rows are durable. Rows that are no larger never wait here; and rows that are larger than
//! all of the room wait until they are alone. So a pipeline holds no more beyond the budget than the room and one batch.

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
    /// Waits until there is room for these rows, of records of so many bytes.
    pub(super) async fn take(&self, read_bytes: usize, batches: &[(usize, SinkBatch)]) -> Room {
        self.take_bytes(batches.iter().map(|(_, batch)| batch.bytes().saturating_sub(2 * read_bytes)).sum()).await
    }

    async fn take_bytes(&self, excess_bytes: usize) -> Room {
        let units = u32::try_from(excess_bytes / UNIT_BYTES).unwrap_or(u32::MAX).min(ROOM_UNITS);
        if units == 0 {
            return None;
        }
        Some(Arc::clone(&self.0).acquire_many_owned(units).await.expect("nobody closes it"))
    }
}

#[cfg(test)]
mod tests {
    use futures::FutureExt as _;

    use super::*;

    const MEBIBYTE: usize = 1 << 20;

    #[test]
    fn what_is_larger_than_the_room_goes_alone_and_what_is_small_never_waits() {
        let excess = Excess::default();
        let take = |bytes| excess.take_bytes(bytes).now_or_never();
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
}
