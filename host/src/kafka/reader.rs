//! Batches of one partition.
//!
//! In: the records of the partition's own queue. Out: batches, closed at a count, a size or a linger. Waits on the
//! queue's own signal, never in a poll; stops polling when nobody asks, which is all the back-pressure there is. Never
//! gives an offset twice: the client may, after a rebalance.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use async_trait::async_trait;
use rdkafka::error::RDKafkaErrorCode;
use tokio::time::{Instant, timeout, timeout_at};

use super::client;
use super::governor::Want;
use super::memory::Lease;
use super::native::{Message, Polled};
use super::slot::Slot;
use crate::pipeline::{BatchLimits, Reader, SourceError};
use crate::record::{Batch, HeaderIter, Offset, push_header};

/// After this the queue is looked at even without a signal: a signal that came while the client purged the queue may
/// stand for nothing, and one record may then stand for no signal.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// Reads one partition under one assignment.
pub(super) struct PartitionReader {
    slot: Arc<Slot>,
    /// What was taken from the queue and not given yet: a dropped call loses no record.
    batch: Batch,
    /// When the first record of `batch` came.
    since: Option<Instant>,
    /// A record that would have made `batch` too large: the first of the next.
    overhang: Option<Batch>,
    next: i64,
    headers: Vec<u8>,
    /// The memory of `batch` and `overhang`.
    lease: Lease,
}

/// What became of looking at the queue.
#[derive(Debug, PartialEq, Eq)]
enum Look {
    /// The batch is full.
    Full,
    /// The queue is empty.
    Empty,
    /// The partition was given back.
    Over,
}

impl PartitionReader {
    pub(super) fn new(slot: Arc<Slot>) -> Self {
        let next = slot.next.load(Ordering::Relaxed);
        let batch = Batch::new(slot.partition.clone());
        let lease = Lease::none(Arc::clone(&slot.budget));
        Self { slot, batch, since: None, overhang: None, next, headers: Vec::new(), lease }
    }

    /// Takes what the queue has, up to the limits.
    fn look(&mut self, limits: BatchLimits) -> Look {
        let slot = Arc::clone(&self.slot);
        let queue = slot.queue();
        let Some(queue) = queue.as_ref() else { return Look::Over };
        loop {
            if self.overhang.is_some() || self.batch.len() >= limits.records || self.batch.bytes() >= limits.bytes {
                return Look::Full;
            }
            // Before the look: a record that comes meanwhile says so itself.
            slot.is_drained.store(true, Ordering::SeqCst);
            match queue.poll() {
                None => return Look::Empty,
                Some(Polled::Record(message)) => self.take(&message, limits),
                Some(Polled::End(offset)) => slot.reached_end(self.next, offset),
                Some(Polled::Error(code, text)) => self.fail(code, &text),
            }
        }
    }

    fn take(&mut self, message: &Message<'_>, limits: BatchLimits) {
        let offset = message.offset();
        self.slot.allowed();
        if offset < self.next {
            self.slot.stats.repeats.bump();
            return;
        }
        self.next = offset + 1;
        self.slot.next.store(self.next, Ordering::Relaxed);
        self.slot.is_drained.store(false, Ordering::SeqCst);
        self.slot.high.fetch_max(self.next, Ordering::Relaxed);
        self.headers.clear();
        let headers = &mut self.headers;
        message.for_each_header(|name, value| push_header(headers, name, value));
        let (key, value) = (message.key(), message.value());
        let bytes = key.map_or(0, <[u8]>::len) + value.map_or(0, <[u8]>::len) + self.headers.len();
        self.slot.budget.met(bytes);
        let fits = self.batch.is_empty() || self.batch.bytes() + bytes <= limits.bytes;
        let batch = if fits { &mut self.batch } else { self.overhang.insert(Batch::new(self.slot.partition.clone())) };
        batch.push(Offset(offset), message.timestamp_ms(), key, value, HeaderIter::new(&self.headers));
        self.since.get_or_insert_with(Instant::now);
    }

    fn fail(&self, code: RDKafkaErrorCode, text: &str) {
        self.slot.stats.client_errors.bump();
        match code {
            // Fetching has stopped for good. The polling thread gives the partition back, finds what is gone, and
            // begins anew or stops.
            RDKafkaErrorCode::AutoOffsetReset | RDKafkaErrorCode::LogTruncation => {
                tracing::warn!(partition = %self.slot.partition, next = self.next, "the offset is out of range");
                self.slot.renew();
            }
            code if client::is_authorisation(code) => self.slot.forbid(text),
            _ => tracing::warn!(
                partition = %self.slot.partition, %code, text, "the partition cannot be read at the moment"
            ),
        }
    }

    /// Hands the batch over, its memory with it until its records are done; what did not fit begins the next.
    fn give(&mut self) -> Batch {
        let next = self.overhang.take();
        self.since = next.is_some().then(Instant::now);
        let given = std::mem::replace(&mut self.batch, next.unwrap_or_else(|| Batch::new(self.slot.partition.clone())));
        // The true cost, where it fits into the budget.
        self.lease.shrink(given.bytes() + self.batch.bytes());
        if let Some(last) = given.offsets.last() {
            self.slot.give(*last, self.lease.take(given.bytes()));
        }
        self.lease.shrink(self.batch.bytes());
        given
    }
}

#[async_trait]
impl Reader for PartitionReader {
    async fn next_batch(&mut self, limits: BatchLimits) -> Result<Batch, SourceError> {
        let (slot, ready) = (Arc::clone(&self.slot), Arc::clone(&self.slot.ready));
        slot.wait_until_begun().await;
        let wish = slot.wish();
        loop {
            if self.batch.is_empty() {
                wish.set(Want::Nothing);
                slot.wait_for_share().await;
                wish.set(Want::Room);
                self.lease.fill(limits.bytes, || slot.holds_nothing()).await;
                wish.set(Want::Records);
            } else if !self.lease.try_fill(limits.bytes) {
                // No room for more: what is there goes on its way, and makes room.
                return Ok(self.give());
            }
            match self.look(limits) {
                Look::Full => return Ok(self.give()),
                // Whoever holds the reader learns of it by an event, and drops it.
                Look::Over => {
                    self.lease.shrink(0);
                    std::future::pending::<()>().await;
                }
                Look::Empty => self.lease.shrink(self.batch.bytes()),
            }
            match self.since {
                None => drop(timeout(LOOK_EVERY, ready.notified()).await),
                Some(since) => {
                    if timeout_at(since + limits.linger, ready.notified()).await.is_err() {
                        return Ok(self.give());
                    }
                }
            }
        }
    }
}
