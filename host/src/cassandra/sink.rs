//! The sink: batches of rows into a Cassandra table.
//!
//! In: batches, in order. Out: [`Written`], when every row is durable by Cassandra's own answer, had expired, or can never
//! be written; how is the business of `writer`. Rows are written side by side and retried in any order: their write times
//! keep the log's order in the data. A batch whose answer was dropped is given up: whoever goes on writes the same cells.
//! What is accepted is bounded in rows and in bytes.

use std::sync::Arc;

use async_trait::async_trait;
use tokio::runtime::Handle;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio_util::task::AbortOnDropHandle;

use super::errors::CassandraError;
use super::session::Cassandra;
use super::stats::SinkSnapshot;
use super::writer::Writer;
use crate::clock::Clock;
use crate::config::TableOutput;
use crate::pipeline::{Pending, Sink, Wants, Written};
use crate::record::SinkBatch;

/// Rows accepted and not yet answered: beyond it, [`Sink::write`] waits. Memory stays bounded while Cassandra is away.
const ROWS_ACCEPTED_MAX: usize = 8 * 1024;
/// Bytes accepted and not yet answered, where nobody says otherwise: as many as two batches of the largest plugin output.
const BYTES_ACCEPTED_MAX: usize = 64 << 20;
/// The unit of the semaphore that counts them.
const PERMIT_BYTES: usize = 1024;

/// Writes rows into one table.
pub struct CassandraSink {
    wants: Wants,
    writer: Arc<Writer>,
    accepted: Accepted,
    runtime: Handle,
}

/// The room for what was accepted and not yet answered: a batch is here as it came, and encoded beside it.
struct Accepted {
    rows: Arc<Semaphore>,
    bytes: Arc<Semaphore>,
    /// Permits of `bytes` when nothing is accepted.
    bytes_permits: usize,
}

/// The room of one batch; dropping it gives it back.
type Room = (OwnedSemaphorePermit, OwnedSemaphorePermit);

impl CassandraSink {
    /// Opens a table: asks for its columns and prepares its statements. To be called on the I/O runtime, on which its
    /// rows are written from then on, wherever [`Sink::write`] is called.
    ///
    /// # Errors
    /// [`CassandraError::Table`] with every reason where the table will not do; else where the cluster cannot be asked.
    pub async fn open(
        cassandra: Arc<Cassandra>,
        output: &TableOutput,
        clock: Arc<dyn Clock>,
    ) -> Result<Self, CassandraError> {
        let writer = Writer::open(cassandra, output, clock).await?;
        let (wants, accepted) = (Wants::Cells(writer.specs().to_vec()), Accepted::new(BYTES_ACCEPTED_MAX));
        Ok(Self { wants, writer: Arc::new(writer), accepted, runtime: Handle::current() })
    }

    /// The same sink, which accepts no more than so many bytes before the first are answered; a single larger batch goes
    /// through alone.
    #[must_use]
    pub fn within(self, bytes: usize) -> Self {
        Self { accepted: Accepted::new(bytes), ..self }
    }

    /// Its numbers at this moment.
    #[must_use]
    pub fn snapshot(&self) -> SinkSnapshot {
        let (rows_accepted, bytes_accepted) = self.accepted.in_use();
        SinkSnapshot { rows_accepted, bytes_accepted, ..self.writer.stats.snapshot(self.writer.window.state()) }
    }
}

impl Accepted {
    fn new(bytes: usize) -> Self {
        let bytes_permits = (bytes / PERMIT_BYTES).clamp(1, Semaphore::MAX_PERMITS.min(u32::MAX as usize));
        Self {
            rows: Arc::new(Semaphore::new(ROWS_ACCEPTED_MAX)),
            bytes: Arc::new(Semaphore::new(bytes_permits)),
            bytes_permits,
        }
    }

    /// Waits for room. A batch beyond all bounds takes all of it, and so comes in alone.
    async fn enter(&self, batch: &SinkBatch) -> Room {
        const OPEN: &str = "the semaphore is never closed";
        let rows = batch.len().min(ROWS_ACCEPTED_MAX) as u32;
        // As it came, and encoded.
        let bytes = (2 * batch.bytes()).div_ceil(PERMIT_BYTES).clamp(1, self.bytes_permits) as u32;
        let rows = Arc::clone(&self.rows).acquire_many_owned(rows).await.expect(OPEN);
        let bytes = Arc::clone(&self.bytes).acquire_many_owned(bytes).await.expect(OPEN);
        (rows, bytes)
    }

    /// Rows and bytes accepted and not yet answered.
    fn in_use(&self) -> (usize, usize) {
        let rows = ROWS_ACCEPTED_MAX - self.rows.available_permits();
        (rows, (self.bytes_permits - self.bytes.available_permits()) * PERMIT_BYTES)
    }
}

#[async_trait]
impl Sink for CassandraSink {
    fn wants(&self) -> &Wants {
        &self.wants
    }

    async fn write(&self, batch: SinkBatch) -> Pending {
        if batch.is_empty() {
            return Box::pin(std::future::ready(Written::default()));
        }
        let room = self.accepted.enter(&batch).await;
        let writer = Arc::clone(&self.writer);
        // A task of its own, on the runtime of the connections, which ends with the answer: the batch, its encoded rows
        // and its room go with it. What was sent already may still be written, at the same write times as by whoever
        // reads it next.
        let task = AbortOnDropHandle::new(self.runtime.spawn(async move {
            let _room = room;
            writer.write_batch(&batch).await
        }));
        Box::pin(async move {
            match task.await {
                Ok(written) => written,
                Err(error) if error.is_panic() => std::panic::resume_unwind(error.into_panic()),
                // The runtime ends: nothing is known to be written, so nothing is answered.
                Err(_) => std::future::pending().await,
            }
        })
    }

    fn blocked(&self) -> Option<String> {
        // Where nobody waits nothing is held up; and nobody would find out that it gets through again.
        self.writer.block.message().filter(|_| self.accepted.in_use().0 > 0)
    }
}
