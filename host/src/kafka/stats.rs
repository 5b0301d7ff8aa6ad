//! What this room counts, for the operator. Plain numbers; whoever shows them reads them.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};

/// A number that only rises.
#[derive(Debug, Default)]
pub struct Count(AtomicU64);

impl Count {
    /// Adds.
    pub(super) fn add(&self, more: u64) {
        self.0.fetch_add(more, Ordering::Relaxed);
    }

    /// Adds one, and says how many there were before.
    pub(super) fn bump(&self) -> u64 {
        self.0.fetch_add(1, Ordering::Relaxed)
    }

    /// How many.
    #[must_use]
    pub fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// What a source counts.
#[derive(Debug, Default)]
pub struct SourceStats {
    /// Partitions that came.
    pub assigned: Count,
    /// Partitions that went.
    pub revoked: Count,
    /// Records that came on the main queue: a bug, each is read again from its partition.
    pub main_queue_records: Count,
    /// Records that the client gave twice within one assignment, and that were passed over.
    pub repeats: Count,
    /// Ranges of records that were gone before they were read.
    pub lost_ranges: Count,
    /// Records in those ranges, as far as known.
    pub lost_records: Count,
    lost_by_topic: Mutex<BTreeMap<String, u64>>,
    /// Positions that the broker accepted.
    pub commits: Count,
    /// Commits that the broker refused or did not answer; each is tried again.
    pub commit_failures: Count,
    /// Positions of an assignment that had ended, discarded.
    pub commits_fenced: Count,
    /// Errors that the client reported.
    pub client_errors: Count,
}

impl SourceStats {
    /// So many records of a topic are gone.
    pub(super) fn lost(&self, topic: &str, records: u64) {
        self.lost_records.add(records);
        let mut by_topic = self.lost_by_topic.lock().unwrap_or_else(PoisonError::into_inner);
        *by_topic.entry(topic.to_owned()).or_default() += records;
    }

    /// [`Self::lost_records`], for each topic.
    #[must_use]
    pub fn lost_by_topic(&self) -> BTreeMap<String, u64> {
        self.lost_by_topic.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

/// What a sink or a writer of dead letters counts.
#[derive(Debug, Default)]
pub struct SinkStats {
    /// Records that the broker has.
    pub delivered: Count,
    /// Records that were sent again.
    pub retries: Count,
    /// Records that can never be written.
    pub refused: Count,
    /// Producers that failed for good and were made anew.
    pub producers_renewed: Count,
}
