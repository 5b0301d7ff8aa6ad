//! Writes a batch's rows, however long it takes: each until Cassandra has it, or never will.
//!
//! In: batches. Out: [`Written`]. Rows of one partition of the table go together, in one unlogged batch, which Cassandra
//! takes as one change; each keeps its own write time. Never takes a time-out for success, never gives up a row for a
//! transient error, never writes a row as one that lives for ever because its time to live was over. Where a record
//! deletes a row and upserts it again, and the upsert has expired, the deletion is written alone.
//!
//! The way of a row:
//!
//! ```text
//!                      ┌────────── again, after a back-off ──────────┐
//!                      ▼                                             │
//! encode, group ─► enter the window ─► expired? ─► bind, execute ────┼─► written, or its deletion
//!   │                                     │                          ├─► refused in company: each alone
//!   └► failure                            └► counted                 ├─► refused: has the table changed? ─► anew, again
//!                                                                    │                                  └─► gone: again
//!                                                                    └─► failure
//! ```

use std::sync::{Arc, PoisonError, RwLock};

use futures::StreamExt;
use futures::future::Either;
use futures::stream::FuturesUnordered;
use scylla::errors::ExecutionError;
use scylla::response::query_result::QueryResult;
use scylla::statement::batch::{Batch, BatchStatement, BatchType};
use tokio::time::Instant;

use super::block::{Block, back_off};
use super::errors::{CassandraError, Verdict, short};
use super::groups::groups;
use super::plan::Plan;
use super::rows::{self, Bound, EncodedBatch, Unit};
use super::session::{Cassandra, driver_consistency};
use super::stats::Stats;
use super::table::{self, Table};
use super::window::{Answer, BOUNDS, Permit, Window};
use crate::clock::Clock;
use crate::config::TableOutput;
use crate::pipeline::{CellSpec, RowFailure, Written};
use crate::record::{RowOp, SinkBatch};

/// Attempts in a row, of whichever rows, without any success, before a busy cluster counts as blocked.
const FAILURES_BLOCKED: u64 = 32;

/// What all batches of a sink share.
pub(super) struct Writer {
    cassandra: Arc<Cassandra>,
    output: TableOutput,
    specs: Vec<CellSpec>,
    clock: Arc<dyn Clock>,
    plan: RwLock<Arc<Plan>>,
    /// One reading of the schema at a time.
    reading: tokio::sync::Mutex<()>,
    pub(super) window: Window,
    pub(super) stats: Stats,
    pub(super) block: Block,
}

/// A batch on its way: as it came, and encoded.
struct Job<'a> {
    batch: &'a SinkBatch,
    plan: &'a Arc<Plan>,
    encoded: &'a EncodedBatch,
}

/// A row that an attempt sends.
struct Sent<'a> {
    unit: &'a Unit,
    /// What it had set has expired: its record's deletion of the row goes alone.
    only_deletes: bool,
    bound: Bound<'a>,
}

impl Writer {
    pub(super) async fn open(
        cassandra: Arc<Cassandra>,
        output: &TableOutput,
        clock: Arc<dyn Clock>,
    ) -> Result<Self, CassandraError> {
        let table = Table::describe(&cassandra, output).await?;
        let specs = table.specs(&output.columns);
        let row_bytes_max = table::row_bytes_max(&cassandra).await;
        let plan = Plan::new(table, &specs, output, row_bytes_max, Instant::now());
        Ok(Self {
            cassandra,
            output: output.clone(),
            specs,
            clock,
            plan: RwLock::new(Arc::new(plan)),
            reading: tokio::sync::Mutex::new(()),
            window: Window::new(BOUNDS),
            stats: Stats::default(),
            block: Block::default(),
        })
    }

    /// Which cells the table takes.
    pub(super) fn specs(&self) -> &[CellSpec] {
        &self.specs
    }

    pub(super) async fn write_batch(&self, batch: &SinkBatch) -> Written {
        let plan = &self.plan();
        let mut encoded = rows::encode_batch(batch, &plan.shape);
        let mut written = Written { failures: std::mem::take(&mut encoded.failures), ..Written::default() };
        let job = Job { batch, plan, encoded: &encoded };
        let groups = groups(&encoded);
        let mut waiting = groups.iter();
        let mut under_way = FuturesUnordered::new();
        loop {
            while under_way.len() < BOUNDS.max
                && let Some(group) = waiting.next()
            {
                under_way.push(self.write(&job, group));
            }
            let Some(part) = under_way.next().await else { break };
            add(&mut written, part);
        }
        written.failures.sort_by_key(|failure| failure.row);
        self.stats.failed(written.failures.len());
        written
    }

    /// Writes a group. Most rows have a partition of their own: their way is kept small, as a future is moved with all that
    /// it may ever hold.
    fn write<'a>(&'a self, job: &'a Job<'a>, group: &'a [usize]) -> impl Future<Output = Written> + 'a {
        let unit = if let [at] = group { job.encoded.units.get(*at) } else { None };
        match unit {
            Some(unit) => Either::Left(self.write_unit(job, unit)),
            None => Either::Right(Box::pin(self.write_group(job, group))),
        }
    }

    /// Writes rows of one partition together; each alone where Cassandra will not have them in company.
    async fn write_group(&self, job: &Job<'_>, group: &[usize]) -> Written {
        let mut written = Written::default();
        let mut units: Vec<&Unit> = group.iter().filter_map(|at| job.encoded.units.get(*at)).collect();
        let mut attempt = 0;
        while units.len() > 1 {
            let permit = self.window.enter().await;
            let now_ms = self.clock.now_ms();
            let sent: Vec<Sent<'_>> = units.iter().filter_map(|unit| job.sent(unit, now_ms)).collect();
            for _ in sent.len()..units.len() {
                self.stats.expired();
                written.expired += 1;
            }
            units = sent.iter().map(|sent| sent.unit).collect();
            if sent.len() < 2 {
                permit.leave(Answer::Other);
                break;
            }
            let sent_at = Instant::now();
            match self.execute_together(job.plan, &sent).await {
                Ok(_) => {
                    add(&mut written, self.good(permit, &sent));
                    return written;
                }
                Err(error) => match self.judge(permit, &error, job.plan, sent_at).await {
                    Next::Again => self.pause(&mut attempt).await,
                    Next::Anew(_) | Next::Refused | Next::Never(_) => break,
                },
            }
        }
        let mut alone: FuturesUnordered<_> = units.into_iter().map(|unit| self.write_unit(job, unit)).collect();
        while let Some(part) = alone.next().await {
            add(&mut written, part);
        }
        written
    }

    /// Writes one row.
    async fn write_unit(&self, job: &Job<'_>, unit: &Unit) -> Written {
        let mut plan = Arc::clone(job.plan);
        let mut anew: Option<Vec<u8>> = None;
        let mut attempt = 0;
        let mut refused = false;
        loop {
            let permit = self.window.enter().await;
            let values = anew.as_deref().unwrap_or_else(|| job.values(unit));
            let Some(sent) = sent(job.batch, &plan, unit, values, self.clock.now_ms()) else {
                permit.leave(Answer::Other);
                self.stats.expired();
                return Written { expired: 1, ..Written::default() };
            };
            let sent_at = Instant::now();
            let statement = plan.statement(sent.bound.op);
            let asked = Box::pin(self.cassandra.session().execute_unpaged(statement, &sent.bound));
            let error = match asked.await {
                Ok(_) => return self.good(permit, std::slice::from_ref(&sent)),
                Err(error) => error,
            };
            let next = Box::pin(self.judge(permit, &error, &plan, sent_at)).await;
            match next {
                Next::Again => {}
                // The table may have been away for a moment: refused once more, it is the row.
                Next::Refused if !refused => refused = true,
                Next::Anew(new) => {
                    let mut bytes = Vec::new();
                    if let Err(failure) = rows::encode_unit(job.batch, &new.shape, unit, &mut bytes) {
                        return Written { failures: vec![failure], ..Written::default() };
                    }
                    (plan, anew) = (new, Some(bytes));
                }
                Next::Refused | Next::Never(_) => {
                    let code = if let Next::Never(code) = next { code } else { "sink.refused" };
                    let message = short(&error.to_string());
                    let failure = RowFailure { row: unit.last, code: code.into(), message };
                    return Written { failures: vec![failure], ..Written::default() };
                }
            }
            self.pause(&mut attempt).await;
        }
    }

    /// One statement a row, in one request. Cassandra makes one change of it, as all belong to one partition: no log of
    /// the batch is needed for that, nor does its size limit for batches hold.
    async fn execute_together(&self, plan: &Plan, sent: &[Sent<'_>]) -> Result<QueryResult, ExecutionError> {
        let statements = sent.iter().map(|sent| BatchStatement::from(plan.statement(sent.bound.op).clone())).collect();
        let mut batch = Batch::new_with_statements(BatchType::Unlogged, statements);
        let consistency = self.output.consistency.unwrap_or(self.cassandra.consistency());
        batch.set_consistency(driver_consistency(consistency));
        batch.set_is_idempotent(true);
        let values: Vec<&Bound<'_>> = sent.iter().map(|sent| &sent.bound).collect();
        self.cassandra.session().batch(&batch, values).await
    }

    /// Cassandra has these rows.
    fn good(&self, permit: Permit<'_>, sent: &[Sent<'_>]) -> Written {
        let latency = permit.leave(Answer::Good);
        self.block.clear(&self.output.table);
        let mut written = Written::default();
        for Sent { only_deletes, bound, .. } in sent {
            if *only_deletes {
                self.stats.expired();
                written.expired += 1;
            } else {
                written.bytes += bound.values.len() as u64;
            }
        }
        let bytes = sent.iter().map(|sent| sent.bound.values.len()).sum();
        self.stats.written(sent.len(), bytes, latency);
        written
    }

    async fn pause(&self, attempt: &mut u32) {
        self.stats.retried();
        tokio::time::sleep(back_off(*attempt)).await;
        *attempt += 1;
    }

    /// What to do after an error.
    async fn judge(&self, permit: Permit<'_>, error: &ExecutionError, plan: &Arc<Plan>, sent_at: Instant) -> Next {
        let verdict = Verdict::of(error);
        permit.leave(if verdict == (Verdict::Again { overload: true }) { Answer::Overload } else { Answer::Other });
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

impl Job<'_> {
    fn values(&self, unit: &Unit) -> &[u8] {
        self.encoded.bytes.get(unit.values.clone()).unwrap_or_default()
    }

    fn sent<'s>(&'s self, unit: &'s Unit, now_ms: i64) -> Option<Sent<'s>> {
        sent(self.batch, self.plan, unit, self.values(unit), now_ms)
    }
}

/// What to send of a row at this moment; nothing where its time is over.
fn sent<'a>(batch: &SinkBatch, plan: &Plan, unit: &'a Unit, values: &'a [u8], now_ms: i64) -> Option<Sent<'a>> {
    let meta = batch.rows.get(unit.last)?;
    let write_time = meta.write_time.0;
    match plan.ttl_left_s(unit.op, meta, now_ms) {
        Some(ttl_s) => {
            Some(Sent { unit, only_deletes: false, bound: Bound { op: unit.op, values, write_time, ttl_s } })
        }
        // The record deleted the row before it set what has expired.
        None if unit.cleared => {
            let values = plan.shape.key_values(values);
            let bound = Bound { op: RowOp::Delete, values, write_time, ttl_s: None };
            Some(Sent { unit, only_deletes: true, bound })
        }
        None => None,
    }
}

fn add(written: &mut Written, part: Written) {
    written.failures.extend(part.failures);
    written.expired += part.expired;
    written.bytes += part.bytes;
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
