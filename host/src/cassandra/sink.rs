//! The sink: batches of rows into a Cassandra table.
//!
//! In: batches, in order. Out: [`Written`], when every row is durable by Cassandra's own answer, had expired, or can never
//! be written. Rows are written side by side and retried in any order: their write times keep the log's order in the
//! data. A batch whose answer was dropped is given up: whoever goes on writes the same cells. What is accepted is bounded
//! in rows and in bytes. Never takes a time-out for success, never gives up a row for a transient error, never writes a
//! row as one that lives for ever because its time to live was over. Where a record deletes a row and upserts it again, and the upsert
//! has expired, the deletion is written alone.
//!
//! The way of a row:
//!
//! ```text
//!            ┌────────── again, after a back-off ──────────┐
//!            ▼                                             │
//! encode ─► enter the window ─► expired? ─► bind, execute ─┼─► written, or its deletion
//!   │                              │                       ├─► refused: has the table changed? ─► encode anew, again
//!   └► failure                     └► counted              │                                  └─► gone: blocked, again
//!                                                          └─► failure
//! ```

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::time::Duration;

use async_trait::async_trait;
use futures::StreamExt;
use futures::stream::FuturesUnordered;
use rand::Rng;
use scylla::errors::ExecutionError;
use tokio::runtime::Handle;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::Instant;
use tokio_util::task::AbortOnDropHandle;

use super::errors::{CassandraError, Verdict, short};
use super::rows::{self, Bound, Shape, ShapeColumn, Unit};
use super::session::Cassandra;
use super::stats::{SinkSnapshot, Stats};
use super::table::{self, ColumnRole, TTL_S_MAX, Table};
use super::window::{Answer, BOUNDS, Window};
use crate::clock::Clock;
use crate::config::TableOutput;
use crate::pipeline::{CellSpec, Pending, RowFailure, Sink, Wants, Written};
use crate::record::{RowMeta, RowOp, SinkBatch};

/// Rows accepted and not yet answered: beyond it, [`Sink::write`] waits. Memory stays bounded while Cassandra is away.
const ROWS_ACCEPTED_MAX: usize = 8 * 1024;
/// Bytes accepted and not yet answered, where nobody says otherwise: as many as two batches of the largest plugin output.
const BYTES_ACCEPTED_MAX: usize = 64 << 20;
/// The unit of the semaphore that counts them.
const PERMIT_BYTES: usize = 1024;
/// The first pause before another attempt; each further one is twice as long.
const BACK_OFF_MIN: Duration = Duration::from_millis(20);
const BACK_OFF_MAX: Duration = Duration::from_secs(5);
/// Attempts in a row, of whichever rows, without any success, before a busy cluster counts as blocked.
const FAILURES_BLOCKED: u64 = 32;

/// Writes rows into one table.
pub struct CassandraSink {
    wants: Wants,
    inner: Arc<Inner>,
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

struct Inner {
    cassandra: Arc<Cassandra>,
    output: TableOutput,
    specs: Vec<CellSpec>,
    clock: Arc<dyn Clock>,
    plan: RwLock<Arc<Plan>>,
    /// One reading of the schema at a time.
    reading: tokio::sync::Mutex<()>,
    window: Window,
    stats: Stats,
    block: Block,
}

/// The table as it was last seen.
struct Plan {
    table: Table,
    shape: Shape,
    ttl_s: Option<u64>,
    version: u64,
    seen_at: Instant,
}

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
        let table = Table::describe(&cassandra, output).await?;
        let specs = table.specs(&output.columns);
        let row_bytes_max = table::row_bytes_max(&cassandra).await;
        let plan = Plan::new(table, &specs, output, row_bytes_max, Instant::now());
        let inner = Inner {
            cassandra,
            output: output.clone(),
            specs: specs.clone(),
            clock,
            plan: RwLock::new(Arc::new(plan)),
            reading: tokio::sync::Mutex::new(()),
            window: Window::new(BOUNDS),
            stats: Stats::default(),
            block: Block::default(),
        };
        let (wants, accepted) = (Wants::Cells(specs), Accepted::new(BYTES_ACCEPTED_MAX));
        Ok(Self { wants, inner: Arc::new(inner), accepted, runtime: Handle::current() })
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
        SinkSnapshot { rows_accepted, bytes_accepted, ..self.inner.stats.snapshot(self.inner.window.state()) }
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
        let inner = Arc::clone(&self.inner);
        // A task of its own, on the runtime of the connections, which ends with the answer: the batch, its encoded rows
        // and its room go with it. What was sent already may still be written, at the same write times as by whoever
        // reads it next.
        let task = AbortOnDropHandle::new(self.runtime.spawn(async move { inner.write_batch(batch, room).await }));
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
        self.inner.block.message().filter(|_| self.accepted.in_use().0 > 0)
    }
}

/// What became of a unit.
enum Outcome {
    Written { bytes: usize },
    Expired,
    Failed(RowFailure),
}

impl Inner {
    async fn write_batch(&self, batch: SinkBatch, _room: Room) -> Written {
        let plan = self.plan();
        let encoded = rows::encode_batch(&batch, &plan.shape);
        let (batch, bytes) = (&batch, encoded.bytes.as_slice());
        let mut written = Written { failures: encoded.failures, ..Written::default() };
        // One statement a row. Rows of one partition could share one: they would be grouped here, by their key's bytes.
        let mut waiting = encoded.units.iter();
        let mut under_way = FuturesUnordered::new();
        loop {
            while under_way.len() < BOUNDS.max
                && let Some(unit) = waiting.next()
            {
                under_way.push(self.write_unit(batch, unit, &plan, &bytes[unit.values.clone()]));
            }
            let Some(outcome) = under_way.next().await else { break };
            match outcome {
                Outcome::Written { bytes } => written.bytes += bytes as u64,
                Outcome::Expired => written.expired += 1,
                Outcome::Failed(failure) => written.failures.push(failure),
            }
        }
        written.failures.sort_by_key(|failure| failure.row);
        self.stats.failed(written.failures.len());
        written
    }

    /// Writes one row, however long it takes.
    async fn write_unit(&self, batch: &SinkBatch, unit: &Unit, plan: &Arc<Plan>, values: &[u8]) -> Outcome {
        let meta = &batch.rows[unit.last];
        let mut plan = Arc::clone(plan);
        let mut anew: Option<Vec<u8>> = None;
        let mut attempt = 0;
        let mut refused = false;
        loop {
            let permit = self.window.enter().await;
            let left_s = plan.ttl_left_s(unit.op, meta, self.clock.now_ms());
            if left_s.is_none() && !unit.cleared {
                permit.leave(Answer::Other);
                self.stats.expired();
                return Outcome::Expired;
            }
            let values = anew.as_deref().unwrap_or(values);
            let (op, values) = match left_s {
                Some(_) => (unit.op, values),
                // The record deleted the row before it set what has expired.
                None => (RowOp::Delete, plan.shape.key_values(values)),
            };
            let sent_at = Instant::now();
            let bound = Bound { op, values, write_time: meta.write_time.0, ttl_s: left_s.flatten() };
            let error = match self.cassandra.session().execute_unpaged(plan.statement(op), bound).await {
                Ok(_) => {
                    let latency = permit.leave(Answer::Good);
                    self.stats.written(values.len(), latency);
                    self.block.clear(&self.output.table);
                    if left_s.is_none() {
                        self.stats.expired();
                        return Outcome::Expired;
                    }
                    return Outcome::Written { bytes: values.len() };
                }
                Err(error) => error,
            };
            let verdict = Verdict::of(&error);
            permit.leave(if verdict == (Verdict::Again { overload: true }) { Answer::Overload } else { Answer::Other });
            let next = self.judge(verdict, &error, &plan, sent_at).await;
            match next {
                Next::Again => {}
                // The table may have been away for a moment: refused once more, it is the row.
                Next::Refused if !refused => refused = true,
                Next::Anew(new) => {
                    let mut bytes = Vec::new();
                    if let Err(failure) = rows::encode_unit(batch, &new.shape, unit, &mut bytes) {
                        return Outcome::Failed(failure);
                    }
                    (plan, anew) = (new, Some(bytes));
                }
                Next::Refused | Next::Never(_) => {
                    let code = if let Next::Never(code) = next { code } else { "sink.refused" };
                    let message = short(&error.to_string());
                    return Outcome::Failed(RowFailure { row: unit.last, code: code.into(), message });
                }
            }
            self.stats.retried();
            tokio::time::sleep(back_off(attempt)).await;
            attempt += 1;
        }
    }

    /// What to do with a row after an error.
    async fn judge(&self, verdict: Verdict, error: &ExecutionError, plan: &Arc<Plan>, sent_at: Instant) -> Next {
        let table = &self.output.table;
        match verdict {
            Verdict::BadRow(code) => Next::Never(code),
            Verdict::Again { overload } => {
                let message =
                    format!("Cassandra at {}: {}", self.cassandra.contact_points(), short(&error.to_string()));
                self.block.failed(table, message, if overload { FAILURES_BLOCKED } else { 1 });
                Next::Again
            }
            Verdict::Blocked => {
                let message = short(&error.to_string());
                self.block.failed(
                    table,
                    format!("Cassandra refuses writes to {table}: {message}; grant MODIFY on it"),
                    1,
                );
                Next::Again
            }
            Verdict::Refused => match self.read_schema(plan, sent_at).await {
                Ok(Some(new)) => Next::Anew(new),
                Ok(None) => Next::Refused,
                Err(message) => {
                    self.block.failed(table, message, 1);
                    Next::Again
                }
            },
        }
    }

    /// Reads the table's schema, unless that was done since `sent_at`. Another plan, none where nothing has changed, or
    /// why rows cannot be written now.
    async fn read_schema(&self, known: &Arc<Plan>, sent_at: Instant) -> Result<Option<Arc<Plan>>, String> {
        let _alone = self.reading.lock().await;
        let current = self.plan();
        if current.version != known.version {
            return Ok(Some(current));
        }
        if current.seen_at > sent_at {
            return Ok(None);
        }
        // What was mapped to a column that is gone is told row by row.
        let mut output = self.output.clone();
        output.columns.clear();
        let seen_at = Instant::now();
        let known = |name: &str| self.specs.iter().any(|spec| spec.column == name);
        let table = Table::describe_known(&self.cassandra, &output, known).await.map_err(|error| error.to_string())?;
        let row_bytes_max = current.shape.row_bytes_max;
        let new = Plan::new(table, &self.specs, &self.output, row_bytes_max, seen_at);
        if let Some(reason) = new.another_table(&current) {
            return Err(format!("table {}: {reason}; restart the pipeline when the table is right", self.output.table));
        }
        let changed = new.shape != current.shape;
        // Only `seen_at` moves where nothing has changed: rows that know this version are not encoded anew.
        let new = Arc::new(Plan { version: current.version + u64::from(changed), ..new });
        *self.plan.write().unwrap_or_else(PoisonError::into_inner) = Arc::clone(&new);
        if changed {
            tracing::warn!(table = %self.output.table, "the table's columns have changed; rows are encoded for the new ones");
        }
        Ok(changed.then_some(new))
    }

    fn plan(&self) -> Arc<Plan> {
        Arc::clone(&self.plan.read().unwrap_or_else(PoisonError::into_inner))
    }
}

/// What follows an error.
enum Next {
    Again,
    /// The table has changed: encoded for this plan, again.
    Anew(Arc<Plan>),
    /// The table is as we know it, and Cassandra will not have the row.
    Refused,
    Never(&'static str),
}

impl Plan {
    fn new(table: Table, specs: &[CellSpec], output: &TableOutput, row_bytes_max: usize, seen_at: Instant) -> Self {
        let source_of = |name: &str| specs.iter().position(|spec| spec.column == name);
        let columns = table
            .columns
            .iter()
            .filter_map(|column| {
                Some(ShapeColumn {
                    source: source_of(&column.name)?,
                    name: column.name.clone(),
                    role: column.role,
                    column_type: column.column_type.clone(),
                    type_text: column.type_text.clone(),
                })
            })
            .collect();
        let is_there = |name: &str| table.columns.iter().any(|column| column.name == name);
        let gone = specs
            .iter()
            .enumerate()
            .filter(|(_, spec)| !is_there(&spec.column))
            .map(|(source, spec)| (source, spec.column.clone()))
            .collect();
        let ttl_s = output.ttl.map(|ttl| ttl.as_secs()).or(table.default_ttl_s);
        Self { shape: Shape { columns, gone, row_bytes_max }, table, ttl_s, version: 0, seen_at }
    }

    fn statement(&self, op: RowOp) -> &scylla::statement::prepared::PreparedStatement {
        match op {
            RowOp::Upsert => &self.table.insert,
            RowOp::Delete => &self.table.delete,
        }
    }

    /// Why this is not the table that we knew, with other columns, but another one.
    fn another_table(&self, known: &Self) -> Option<&'static str> {
        let key = |plan: &Self| {
            let columns = plan.table.columns.iter().filter(|column| column.role <= ColumnRole::Clustering);
            columns.map(|column| column.name.clone()).collect::<Vec<_>>()
        };
        (key(self) != key(known)).then_some("its primary key has changed")
    }

    /// The time to live that a row has left, counted from its record's time: `Some(None)` where it lives for ever,
    /// `None` where it is over. Never 0, which Cassandra takes for "for ever".
    #[expect(clippy::option_option, reason = "two questions: is it over, and is there one")]
    fn ttl_left_s(&self, op: RowOp, meta: &RowMeta, now_ms: i64) -> Option<Option<i32>> {
        match self.ttl_s {
            Some(ttl_s) if op == RowOp::Upsert => ttl_left_s(ttl_s, meta, now_ms).map(Some),
            _ => Some(None),
        }
    }
}

fn ttl_left_s(ttl_s: u64, meta: &RowMeta, now_ms: i64) -> Option<i32> {
    let left_ms = i128::from(meta.lives_from_ms()) + i128::from(ttl_s) * 1000 - i128::from(now_ms);
    // Rounded up: a row lives up to a second longer, never shorter.
    let left_s = (left_ms + 999).div_euclid(1000).min(i128::from(TTL_S_MAX));
    i32::try_from(left_s).ok().filter(|left_s| *left_s > 0)
}

/// Doubles up to its maximum; a random half of it is taken away, so that rows do not come back all at once.
fn back_off(attempt: u32) -> Duration {
    let full = BACK_OFF_MIN.saturating_mul(1 << attempt.min(20)).min(BACK_OFF_MAX);
    full.mul_f64(rand::rng().random_range(0.5..=1.0))
}

/// Why nothing gets through.
#[derive(Debug, Default)]
struct Block {
    /// Attempts that failed since the last success.
    failures: AtomicU64,
    message: Mutex<Option<String>>,
}

impl Block {
    /// An attempt failed; after `blocked_from` in a row nothing gets through.
    fn failed(&self, table: &str, message: String, blocked_from: u64) {
        if self.failures.fetch_add(1, Ordering::Relaxed) + 1 < blocked_from {
            return;
        }
        let mut shown = self.message.lock().unwrap_or_else(PoisonError::into_inner);
        if shown.as_ref() != Some(&message) {
            tracing::warn!(%table, "writes are blocked and tried again: {message}");
        }
        *shown = Some(message);
    }

    fn clear(&self, table: &str) {
        if self.failures.load(Ordering::Relaxed) == 0 {
            return;
        }
        self.failures.store(0, Ordering::Relaxed);
        if self.message.lock().unwrap_or_else(PoisonError::into_inner).take().is_some() {
            tracing::info!(%table, "writes get through again");
        }
    }

    fn message(&self) -> Option<String> {
        self.message.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::record::{Offset, WriteTime};

    fn meta(timestamp_ms: i64, write_time: i64) -> RowMeta {
        RowMeta {
            origin: 0,
            offset: Offset(0),
            timestamp_ms,
            write_time: WriteTime(write_time),
            index: 0,
            op: RowOp::Upsert,
        }
    }

    #[test]
    fn time_to_live_counts_from_the_record() {
        let record = meta(1_000_000, 1_000_000_000);
        assert_eq!(ttl_left_s(60, &record, 1_000_000), Some(60));
        assert_eq!(ttl_left_s(60, &record, 1_030_500), Some(30), "29.5 s are rounded up");
        assert_eq!(ttl_left_s(60, &record, 1_059_999), Some(1));
        assert_eq!(ttl_left_s(60, &record, 1_060_000), None, "over, and never 0");
        assert_eq!(ttl_left_s(60, &record, 9_000_000), None);
    }

    #[test]
    fn without_a_timestamp_the_write_time_counts() {
        assert_eq!(ttl_left_s(60, &meta(-1, 1_000_000_000), 1_010_000), Some(50));
    }

    #[test]
    fn a_clamped_record_lives_from_its_write_time() {
        let ahead = meta(i64::MAX / 2, 1_000_000_000);
        assert_eq!(ttl_left_s(60, &ahead, 1_000_000), Some(60));
        assert_eq!(ttl_left_s(TTL_S_MAX, &ahead, 0), Some(TTL_S_MAX as i32), "never more than Cassandra takes");
    }

    #[test]
    fn back_off_grows_and_is_capped() {
        for attempt in 0..100 {
            let full = BACK_OFF_MIN.saturating_mul(1 << attempt.min(20)).min(BACK_OFF_MAX);
            let pause = back_off(attempt);
            assert!(pause >= full / 2 && pause <= full, "{attempt}: {pause:?}");
        }
    }
}
