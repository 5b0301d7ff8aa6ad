//! What a sink counts, for whoever shows it.
//!
//! In: what became of each row and attempt. Out: a [`SinkSnapshot`]. Counters only rise. Never blocks.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// Upper bounds of the latency buckets in microseconds; one more bucket holds what took longer.
pub const LATENCY_BOUNDS_US: [u64; 17] = [
    100, 250, 500, 1_000, 2_500, 5_000, 10_000, 25_000, 50_000, 100_000, 250_000, 500_000, 1_000_000, 2_500_000,
    5_000_000, 10_000_000, 30_000_000,
];

/// Numbers of a sink at a moment.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct SinkSnapshot {
    /// Rows written, deletes included; rows of one record that were merged count once.
    pub rows: u64,
    /// Bytes of their values.
    pub bytes: u64,
    /// Attempts that were not known to have succeeded, and were made again.
    pub retries: u64,
    /// Rows that had expired before they were written.
    pub expired: u64,
    /// Rows that can never be written.
    pub failures: u64,
    /// How many writes may be under way.
    pub window: usize,
    /// How many are.
    pub in_flight: usize,
    /// Rows accepted and not yet answered or given up.
    pub rows_accepted: usize,
    /// Bytes that they take, as they came and encoded.
    pub bytes_accepted: usize,
    /// Attempts that succeeded, by latency: one count for each of [`LATENCY_BOUNDS_US`], and one for the rest.
    pub latency_counts: [u64; LATENCY_BOUNDS_US.len() + 1],
    /// The sum of their latencies in microseconds.
    pub latency_sum_us: u64,
}

#[derive(Debug, Default)]
pub(crate) struct Stats {
    rows: AtomicU64,
    bytes: AtomicU64,
    retries: AtomicU64,
    expired: AtomicU64,
    failures: AtomicU64,
    latency_counts: [AtomicU64; LATENCY_BOUNDS_US.len() + 1],
    latency_sum_us: AtomicU64,
}

impl Stats {
    /// One answer for so many rows.
    pub(crate) fn written(&self, rows: usize, bytes: usize, latency: Duration) {
        self.rows.fetch_add(rows as u64, Ordering::Relaxed);
        self.bytes.fetch_add(bytes as u64, Ordering::Relaxed);
        let latency_us = latency.as_micros() as u64;
        let bucket = LATENCY_BOUNDS_US.partition_point(|bound| *bound < latency_us);
        if let Some(count) = self.latency_counts.get(bucket) {
            count.fetch_add(1, Ordering::Relaxed);
        }
        self.latency_sum_us.fetch_add(latency_us, Ordering::Relaxed);
    }

    pub(crate) fn retried(&self) {
        self.retries.fetch_add(1, Ordering::Relaxed);
    }

    pub(crate) fn expired(&self) {
        self.expired.fetch_add(1, Ordering::Relaxed);
    }

    pub(crate) fn failed(&self, rows: usize) {
        self.failures.fetch_add(rows as u64, Ordering::Relaxed);
    }

    pub(crate) fn snapshot(&self, (window, in_flight): (usize, usize)) -> SinkSnapshot {
        let load = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        SinkSnapshot {
            rows: load(&self.rows),
            bytes: load(&self.bytes),
            retries: load(&self.retries),
            expired: load(&self.expired),
            failures: load(&self.failures),
            window,
            in_flight,
            rows_accepted: 0,
            bytes_accepted: 0,
            latency_counts: self.latency_counts.each_ref().map(load),
            latency_sum_us: load(&self.latency_sum_us),
        }
    }
}
