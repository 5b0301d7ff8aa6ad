//! Sources, sinks and plugins that live in memory, with faults on request: what tests and simulations run the line on.
//!
//! In: records that a test appends to a [`MemoryLog`]. Out: what the line wrote, for the test to look at. Each type
//! keeps the contract of its seam as strictly as the real ones do, and notes where the other side breaks it
//! ([`MemoryGroup::violations`]). Where chance is used it comes from a seed. Never touches a disk or a network, and
//! never drops a record by itself.
//!
//! ```text
//! MemoryLog ─► MemoryGroup ─► MemorySource (a member) ─► Reader ─► the line ─► MemorySink, MemoryDeadLetters
//!                   ▲                                              │
//!                   └────────────── Committer ◄────────────────────┘
//! ```

mod dead_letters;
mod gate;
mod group;
mod journal;
mod log;
mod ranges;
mod sink;
mod source;
mod table;
mod transform;

pub use dead_letters::MemoryDeadLetters;
pub use group::MemoryGroup;
pub use journal::MemoryJournal;
pub use log::{MemoryLog, MemoryRecord};
pub use ranges::MemoryRanges;
pub use sink::{MemorySink, StoredRecord};
pub use source::MemorySource;
pub use table::{MemoryTable, OwnedCell, OwnedValue, TableRow, TableWrite};
pub use transform::{MemoryTransform, RecordView, Step};

use std::sync::{Mutex, MutexGuard, PoisonError};

/// Locks; what a panicking test left behind is still whole, since every update is one statement long.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
