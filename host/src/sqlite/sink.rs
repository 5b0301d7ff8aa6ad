//! The embedded tables as a [`Sink`].

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use futures::FutureExt;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, oneshot};

use super::SqliteError;
use super::columns::Stored;
use super::database::{Database, Job, SharedTable};
use super::merge::{NewCell, RowWrite};
use super::table::{ColumnSpec, Table};
use crate::clock::Clock;
use crate::config::TableOutput;
use crate::pipeline::{CellSpec, Pending, RowFailure, Sink, Wants, Written};
use crate::record::{Cell, RowOp, SinkBatch, Value};

/// Rows under way before [`Sink::write`] waits.
const ROWS_UNDER_WAY: usize = 16_384;
/// The largest row; SQLite's own limit is about twice that.
const ROW_BYTES_MAX: usize = 512 << 20;

/// One embedded table.
pub struct SqliteSink {
    wants: Wants,
    /// Where each wanted column belongs.
    places: Vec<Place>,
    /// As it was when this sink was opened; columns that others add stand behind these.
    table: Arc<Table>,
    shared: Arc<SharedTable>,
    database: Arc<Database>,
    clock: Arc<dyn Clock>,
    ttl: Option<Duration>,
    room: Arc<Semaphore>,
}

#[derive(Clone, Copy)]
enum Place {
    Key(usize),
    Cell(usize),
}

impl SqliteSink {
    /// Opens the table in the file; makes both where they are absent and `output.create` says how.
    ///
    /// # Errors
    /// Where the file cannot be opened, or the table is not there or is another.
    pub fn open(path: &Path, output: &TableOutput, clock: Arc<dyn Clock>) -> Result<Self, SqliteError> {
        let database = Database::open(path)?;
        let shared = database.table(&output.table, output.create.as_ref())?;
        let table = shared.current();
        let specs = || table.key.iter().chain(&table.columns);
        if let Some(unknown) = output.columns.keys().find(|name| specs().all(|column| column.name != **name)) {
            let names: Vec<_> = specs().map(|column| column.name.as_str()).collect();
            let reason =
                format!("`columns:` names {unknown}, which the table does not have; it has {}", names.join(", "));
            return Err(SqliteError::Table { table: output.table.clone(), reason });
        }
        let wants = specs().map(|column| {
            let path = output.columns.get(&column.name).cloned();
            CellSpec { column: column.name.clone(), path: path.unwrap_or_else(|| vec![column.name.clone()]) }
        });
        let wants = Wants::Cells(wants.collect());
        let places = (0..table.key.len()).map(Place::Key).chain((0..table.columns.len()).map(Place::Cell)).collect();
        let room = Arc::new(Semaphore::new(ROWS_UNDER_WAY));
        Ok(Self { wants, places, table, shared, database, clock, ttl: output.ttl, room })
    }

    /// Turns a batch into writes; those of one record to one row are merged.
    fn job(&self, batch: &SinkBatch, room: OwnedSemaphorePermit, answer: oneshot::Sender<Written>) -> Job {
        let mut written = Written::default();
        let mut writes: Vec<RowWrite> = Vec::with_capacity(batch.len());
        let now_ms = self.clock.now_ms();
        let ttl_ms = self.ttl.map(|ttl| i64::try_from(ttl.as_millis()).unwrap_or(i64::MAX));
        let mut record = None;
        let mut first_of_record = 0;
        for (at, meta) in batch.rows.iter().enumerate() {
            if record != Some(meta.offset) {
                record = Some(meta.offset);
                first_of_record = writes.len();
            }
            let until_ms = ttl_ms.map(|ttl| meta.lives_from_ms().saturating_add(ttl));
            let row = match self.row(batch, at, until_ms) {
                Ok((row, bytes)) => {
                    written.bytes += bytes as u64;
                    row
                }
                Err((code, message)) => {
                    written.failures.push(RowFailure { row: at, code: code.into(), message });
                    continue;
                }
            };
            match writes[first_of_record..].iter_mut().find(|earlier| earlier.key == row.key) {
                Some(earlier) => earlier.merge(row),
                None => writes.push(row),
            }
        }
        // What has expired is not written; a deletion by the same record before it is.
        writes.retain_mut(|write| {
            let is_expired = write.op == RowOp::Upsert && write.until_ms.is_some_and(|until| until <= now_ms);
            written.expired += u64::from(is_expired);
            !is_expired || write.fall_back_to_deletion()
        });
        Job { table: Arc::clone(&self.shared), writes, written, answer, _room: room }
    }

    /// One row, and its size.
    fn row(
        &self,
        batch: &SinkBatch,
        at: usize,
        until_ms: Option<i64>,
    ) -> Result<(RowWrite, usize), (&'static str, String)> {
        let meta = &batch.rows[at];
        let bad = |message| ("sink.bad_value", message);
        let mut key: Vec<Option<Stored>> = vec![None; self.table.key.len()];
        let mut cells = vec![NewCell::Unset; self.table.columns.len()];
        let mut bytes = 0;
        for (place, column) in self.places.iter().zip(&batch.cells) {
            match *place {
                Place::Key(index) => {
                    let spec = &self.table.key[index];
                    let NewCell::Value(value) = store_key(spec, column.get(at), meta.op).map_err(bad)? else {
                        return Err(bad(format!("key column {} has no value", spec.name)));
                    };
                    bytes += value.size();
                    key[index] = Some(value);
                }
                Place::Cell(index) if meta.op == RowOp::Upsert => {
                    cells[index] = store(&self.table.columns[index], column.get(at)).map_err(bad)?;
                    if let NewCell::Value(value) = &cells[index] {
                        bytes += value.size();
                    }
                }
                Place::Cell(_) => {}
            }
        }
        if bytes > ROW_BYTES_MAX {
            return Err(("sink.too_large", format!("the row has {bytes} bytes; at most {ROW_BYTES_MAX} fit")));
        }
        let key = key.into_iter().map(|value| value.expect("every key column has its place")).collect();
        Ok((RowWrite { key, op: meta.op, cleared: false, cells, at: meta.write_time.0, until_ms }, bytes))
    }
}

/// A tombstone's key is text whatever its column is: it names the row whose key is written so.
fn store_key(column: &ColumnSpec, cell: Cell<'_>, op: RowOp) -> Result<NewCell, String> {
    match (op, cell) {
        (RowOp::Delete, Cell::Value(Value::Text(text))) => match column.column_type.read(text) {
            Some(value) => Ok(NewCell::Value(value)),
            None => store(column, cell),
        },
        _ => store(column, cell),
    }
}

fn store(column: &ColumnSpec, cell: Cell<'_>) -> Result<NewCell, String> {
    Ok(match cell {
        Cell::Unset => NewCell::Unset,
        Cell::Null => NewCell::Null,
        Cell::Value(value) => NewCell::Value(
            column.column_type.store(value).map_err(|reason| format!("column {}: {reason}", column.name))?,
        ),
    })
}

#[async_trait]
impl Sink for SqliteSink {
    fn wants(&self) -> &Wants {
        &self.wants
    }

    async fn write(&self, batch: SinkBatch) -> Pending {
        let rows = batch.len().clamp(1, ROWS_UNDER_WAY) as u32;
        let room = Arc::clone(&self.room).acquire_many_owned(rows).await.expect("the semaphore is never closed");
        let (answer, answered) = oneshot::channel();
        self.database.submit(self.job(&batch, room, answer));
        async move {
            match answered.await {
                Ok(written) => written,
                // The process is going down before the batch was written: that is not for us to call a success.
                Err(_) => std::future::pending().await,
            }
        }
        .boxed()
    }

    fn blocked(&self) -> Option<String> {
        self.database.blocked()
    }
}
