//! A sink in memory: records in order, or a table by Cassandra's rules ([`MemoryTable`]).
//!
//! Each write runs as a task of its own. Dropping its answer gives its room back at once; every other write then is
//! given up, and the rest arrive late, as what was on its way to a database does. Faults: [`fail_next`],
//! [`delay`], [`block`], [`refuse_when`], [`reorder`], [`capacity`], [`crash`].
//!
//! [`fail_next`]: MemorySink::fail_next
//! [`delay`]: MemorySink::delay
//! [`block`]: MemorySink::block
//! [`refuse_when`]: MemorySink::refuse_when
//! [`reorder`]: MemorySink::reorder
//! [`capacity`]: MemorySink::capacity
//! [`crash`]: MemorySink::crash

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use futures::FutureExt;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use tokio::sync::{Semaphore, oneshot};

use super::gate::Gate;
use super::lock;
use super::table::{MemoryTable, OwnedCell, OwnedValue, TableRow, TableWrite};
use crate::clock::Clock;
use crate::pipeline::{CellSpec, Pending, RowFailure, Sink, Wants, Written};
use crate::record::{Cell, RowMeta, RowOp, SinkBatch, TopicPartition};

/// How long a failed attempt rests before the next.
const RETRY_REST: Duration = Duration::from_millis(1);

/// A record as a [`MemorySink`] keeps it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoredRecord {
    /// The partition it came from.
    pub source: TopicPartition,
    /// The `pelton-id`.
    pub id: String,
    /// Offset, write time, output index, upsert or delete.
    pub meta: RowMeta,
    /// Key.
    pub key: Option<Vec<u8>>,
    /// Value.
    pub value: Option<Vec<u8>>,
    /// Packed headers.
    pub headers: Option<Vec<u8>>,
}

/// What refuses rows: code and message, for a row that can never be written.
type Refuse = Box<dyn Fn(&SinkBatch, usize) -> Option<(String, String)> + Send + Sync>;

/// A sink in memory. Clones share the same store.
#[derive(Clone)]
pub struct MemorySink(Arc<Inner>);

struct Inner {
    wants: Wants,
    key: Vec<String>,
    ttl: Option<Ttl>,
    gate: Gate,
    room: Arc<Semaphore>,
    state: Arc<Mutex<State>>,
}

/// How long rows live, and what they live by.
struct Ttl {
    ms: i64,
    clock: Arc<dyn Clock>,
}

impl Ttl {
    fn is_over(&self, until_ms: Option<i64>) -> bool {
        until_ms.is_some_and(|until_ms| until_ms <= self.clock.now_ms())
    }
}

#[derive(Default)]
struct State {
    accepted: u64,
    /// By order of acceptance, then row.
    records: BTreeMap<(u64, usize), StoredRecord>,
    table: MemoryTable,
    writes: Vec<TableWrite>,
    attempts: u64,
    failing: Option<String>,
    fail_next: u32,
    delay: Duration,
    reorder: Option<(StdRng, Duration)>,
    crash: Option<StdRng>,
    refuse: Option<Refuse>,
}

impl MemorySink {
    /// A sink that wants records, as a topic does.
    #[must_use]
    pub fn records() -> Self {
        Self::new(Wants::Records, &[])
    }

    /// A sink that wants cells, as a table does, with this primary key.
    #[must_use]
    pub fn table(columns: Vec<CellSpec>, key: &[&str]) -> Self {
        Self::new(Wants::Cells(columns), key)
    }

    /// Another sink on the same store, with the same faults, whose rows expire this long after their record's time.
    #[must_use]
    pub fn expiring(&self, ttl: Duration, clock: Arc<dyn Clock>) -> Self {
        Self(Arc::new(Inner {
            wants: self.0.wants.clone(),
            key: self.0.key.clone(),
            ttl: Some(Ttl { ms: ttl.as_millis() as i64, clock }),
            gate: Gate::open(),
            room: Arc::new(Semaphore::new(Semaphore::MAX_PERMITS)),
            state: Arc::clone(&self.0.state),
        }))
    }

    fn new(wants: Wants, key: &[&str]) -> Self {
        Self(Arc::new(Inner {
            wants,
            key: key.iter().map(|column| (*column).to_owned()).collect(),
            ttl: None,
            gate: Gate::open(),
            room: Arc::new(Semaphore::new(Semaphore::MAX_PERMITS)),
            state: Arc::default(),
        }))
    }

    /// The next `attempts` attempts to write fail, and are tried again.
    pub fn fail_next(&self, attempts: u32) {
        lock(&self.0.state).fail_next = attempts;
    }

    /// Every write takes this long.
    pub fn delay(&self, delay: Duration) {
        lock(&self.0.state).delay = delay;
    }

    /// Holds every write back from now on, for this reason.
    pub fn block(&self, reason: &str) {
        self.0.gate.set(Some(reason.to_owned()));
    }

    /// Lets writes through again.
    pub fn unblock(&self) {
        self.0.gate.set(None);
    }

    /// Writes take a random time up to `most`, so that answers come out of order.
    pub fn reorder(&self, seed: u64, most: Duration) {
        lock(&self.0.state).reorder = Some((StdRng::seed_from_u64(seed), most));
    }

    /// At most this many batches are under way; [`Sink::write`] waits for room.
    #[must_use]
    pub fn capacity(self, batches: usize) -> Self {
        self.0.room.forget_permits(Semaphore::MAX_PERMITS - batches);
        self
    }

    /// Rows for which `refuse` answers can never be written.
    pub fn refuse_when(&self, refuse: impl Fn(&SinkBatch, usize) -> Option<(String, String)> + Send + Sync + 'static) {
        lock(&self.0.state).refuse = Some(Box::new(refuse));
    }

    /// From now on no write is answered any more, and a coin decides for each whether it was stored: what a client
    /// knows when it dies. [`Self::recover`] ends it.
    pub fn crash(&self, seed: u64) {
        lock(&self.0.state).crash = Some(StdRng::seed_from_u64(seed));
    }

    /// Ends [`Self::crash`]; what was not answered stays unanswered.
    pub fn recover(&self) {
        lock(&self.0.state).crash = None;
    }

    /// Forgets every row, as a table that was emptied.
    pub fn forget(&self) {
        lock(&self.0.state).table = MemoryTable::default();
    }

    /// The records, in the order in which their batches were accepted.
    #[must_use]
    pub fn stored(&self) -> Vec<StoredRecord> {
        lock(&self.0.state).records.values().cloned().collect()
    }

    /// The visible rows of the table, by key.
    #[must_use]
    pub fn rows(&self, now_ms: i64) -> Vec<TableRow> {
        lock(&self.0.state).table.rows(now_ms)
    }

    /// Every write that reached the table, in the order in which it became durable.
    #[must_use]
    pub fn writes(&self) -> Vec<TableWrite> {
        lock(&self.0.state).writes.clone()
    }

    /// Batches that were accepted, whatever became of them.
    #[must_use]
    pub fn accepted(&self) -> u64 {
        lock(&self.0.state).accepted
    }

    /// Attempts to write, failed ones too.
    #[must_use]
    pub fn attempts(&self) -> u64 {
        lock(&self.0.state).attempts
    }
}

#[async_trait]
impl Sink for MemorySink {
    fn wants(&self) -> &Wants {
        &self.0.wants
    }

    async fn write(&self, batch: SinkBatch) -> Pending {
        let room = Arc::clone(&self.0.room).acquire_owned().await.expect("the semaphore is never closed");
        let sequence = {
            let mut state = lock(&self.0.state);
            state.accepted += 1;
            state.accepted
        };
        let (mut answer, answered) = oneshot::channel();
        let inner = Arc::clone(&self.0);
        tokio::spawn(async move {
            let is_given_up = sequence % 2 == 1;
            let stored = tokio::select! {
                biased;
                stored = inner.store(sequence, &batch) => stored,
                () = answer.closed(), if is_given_up => return,
            };
            match stored {
                // Nobody may be waiting any more.
                Some(written) => drop(answer.send(written)),
                None => answer.closed().await,
            }
        });
        async move {
            // Goes with the answer.
            let _room = room;
            match answered.await {
                Ok(written) => written,
                // The runtime is going down; what was not answered stays unanswered.
                Err(_) => std::future::pending().await,
            }
        }
        .boxed()
    }

    fn blocked(&self) -> Option<String> {
        self.0.gate.reason().or_else(|| lock(&self.0.state).failing.clone())
    }
}

impl Inner {
    /// Stores a batch, through all faults; none where a crash swallows the answer.
    async fn store(&self, sequence: u64, batch: &SinkBatch) -> Option<Written> {
        let rest = {
            let mut state = lock(&self.state);
            let delay = state.delay;
            let random = state.reorder.as_mut().map(|(rng, most)| most.mul_f64(rng.random::<f64>()));
            delay + random.unwrap_or_default()
        };
        if !rest.is_zero() {
            tokio::time::sleep(rest).await;
        }
        loop {
            self.gate.pass().await;
            {
                let mut state = lock(&self.state);
                state.attempts += 1;
                if let Some(coin) = state.crash.as_mut() {
                    if coin.random::<bool>() {
                        self.apply(&mut state, sequence, batch);
                    }
                    return None;
                }
                if state.fail_next == 0 {
                    state.failing = None;
                    return Some(self.apply(&mut state, sequence, batch));
                }
                state.fail_next -= 1;
                state.failing = Some("a failure that was asked for".into());
            }
            tokio::time::sleep(RETRY_REST).await;
        }
    }

    fn apply(&self, state: &mut State, sequence: u64, batch: &SinkBatch) -> Written {
        let mut written = Written::default();
        let mut refused = BTreeSet::new();
        if let Some(refuse) = &state.refuse {
            for row in 0..batch.len() {
                if let Some((code, message)) = refuse(batch, row) {
                    refused.insert(row);
                    written.failures.push(RowFailure { row, code, message });
                }
            }
        }
        match &self.wants {
            Wants::Records => {
                for row in (0..batch.len()).filter(|row| !refused.contains(row)) {
                    let record = stored_record(batch, row);
                    written.bytes += (record.key.iter().chain(&record.value).map(Vec::len).sum::<usize>()) as u64;
                    state.records.insert((sequence, row), record);
                }
            }
            Wants::Cells(columns) => {
                for write in self.merged(columns, batch, &mut refused, &mut written) {
                    state.table.write(&write);
                    state.writes.push(write);
                }
            }
        }
        written.failures.sort_by_key(|failure| failure.row);
        written
    }

    /// The writes of a batch; those of one record to one row are merged, the last wins.
    fn merged(
        &self,
        columns: &[CellSpec],
        batch: &SinkBatch,
        refused: &mut BTreeSet<usize>,
        written: &mut Written,
    ) -> Vec<TableWrite> {
        let mut writes: Vec<Merged> = Vec::new();
        for (row, meta) in batch.rows.iter().enumerate() {
            if refused.contains(&row) {
                continue;
            }
            let mut key = vec![None; self.key.len()];
            let mut cells = BTreeMap::new();
            for (spec, column) in columns.iter().zip(&batch.cells) {
                let cell = column.get(row);
                written.bytes += cell_bytes(cell);
                match self.key.iter().position(|name| *name == spec.column) {
                    Some(at) => {
                        if let Cell::Value(value) = cell {
                            key[at] = Some(OwnedValue::from(value));
                        }
                    }
                    None => {
                        cells.insert(spec.column.clone(), OwnedCell::from(cell));
                    }
                }
            }
            let Some(key) = key.into_iter().collect::<Option<Vec<_>>>() else {
                refused.insert(row);
                let (code, message) = ("sink.bad_value".into(), "a key column has no value".into());
                written.failures.push(RowFailure { row, code, message });
                continue;
            };
            let until_ms = self.ttl.as_ref().map(|ttl| meta.lives_from_ms().saturating_add(ttl.ms));
            let write = TableWrite { key, op: meta.op, cells, at: meta.write_time, until_ms };
            let earlier = writes.iter_mut().rev().take_while(|earlier| earlier.offset == meta.offset.0);
            match earlier.into_iter().find(|earlier| earlier.write.key == write.key) {
                Some(earlier) => earlier.merge(write),
                None => writes.push(Merged { offset: meta.offset.0, cleared: false, write }),
            }
        }
        let is_over = |write: &TableWrite| {
            write.op == RowOp::Upsert && self.ttl.as_ref().is_some_and(|ttl| ttl.is_over(write.until_ms))
        };
        let (over, mut alive): (Vec<_>, Vec<_>) = writes.into_iter().partition(|merged| is_over(&merged.write));
        written.expired += over.len() as u64;
        // What the record deleted before stays deleted.
        let deletions = over.into_iter().filter(|merged| merged.cleared).map(|mut merged| {
            merged.write.op = RowOp::Delete;
            merged.write.cells.clear();
            merged
        });
        alive.extend(deletions);
        alive.into_iter().map(|merged| merged.write).collect()
    }
}

/// What one record writes to one row.
struct Merged {
    offset: i64,
    /// The record deleted the row before it set its cells.
    cleared: bool,
    write: TableWrite,
}

impl Merged {
    /// Takes a later write of the same record to the same row.
    fn merge(&mut self, later: TableWrite) {
        match (self.write.op, later.op) {
            (_, RowOp::Delete) => {
                self.cleared = false;
                self.write = later;
            }
            (RowOp::Upsert, RowOp::Upsert) => {
                let set = later.cells.into_iter().filter(|(_, cell)| *cell != OwnedCell::Unset);
                self.write.cells.extend(set);
            }
            // At one write time a deletion would win over what comes after it: what is not set is deleted cell by cell.
            (RowOp::Delete, RowOp::Upsert) => {
                self.cleared = true;
                self.write = later;
                for cell in self.write.cells.values_mut().filter(|cell| **cell == OwnedCell::Unset) {
                    *cell = OwnedCell::Null;
                }
            }
        }
    }
}

fn stored_record(batch: &SinkBatch, row: usize) -> StoredRecord {
    StoredRecord {
        source: batch.source.clone(),
        id: batch.id(row),
        meta: batch.rows[row].clone(),
        key: batch.keys.get(row).map(<[u8]>::to_vec),
        value: batch.values.get(row).map(<[u8]>::to_vec),
        headers: batch.headers.get(row).map(<[u8]>::to_vec),
    }
}

fn cell_bytes(cell: Cell<'_>) -> u64 {
    match OwnedCell::from(cell) {
        OwnedCell::Value(OwnedValue::Text(text) | OwnedValue::Json(text)) => text.len() as u64,
        OwnedCell::Value(OwnedValue::Bytes(bytes)) => bytes.len() as u64,
        OwnedCell::Value(OwnedValue::Boolean(_)) => 1,
        OwnedCell::Value(_) => 8,
        OwnedCell::Unset | OwnedCell::Null => 0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::record::{CellColumn, Column, Offset, Value, WriteTime};

    fn batch(rows: &[(i64, RowOp, &str, Cell<'_>)]) -> SinkBatch {
        let mut cells = vec![CellColumn::default(), CellColumn::default()];
        let mut metas = Vec::new();
        for (index, (offset, op, key, cell)) in rows.iter().enumerate() {
            cells[0].push(Cell::Value(Value::Text(key)));
            cells[1].push(*cell);
            metas.push(RowMeta {
                origin: 0,
                offset: Offset(*offset),
                timestamp_ms: *offset,
                write_time: WriteTime(*offset * 1000),
                index: index as u32,
                op: *op,
            });
        }
        let (keys, values, headers) = (Column::default(), Column::default(), Column::default());
        SinkBatch { source: TopicPartition::new("t", 0), generation: 1, rows: metas, keys, values, headers, cells }
    }

    fn sink() -> MemorySink {
        let spec = |column: &str| CellSpec { column: column.into(), path: vec![column.into()] };
        MemorySink::table(vec![spec("id"), spec("n")], &["id"])
    }

    fn number(n: i64) -> Cell<'static> {
        Cell::Value(Value::S64(n))
    }

    #[tokio::test]
    async fn writes_of_one_record_to_one_row_are_merged() {
        let sink = sink();
        let rows = [
            (1, RowOp::Upsert, "a", number(9)),
            (1, RowOp::Upsert, "a", number(3)),
            (2, RowOp::Upsert, "b", number(1)),
            (2, RowOp::Delete, "b", Cell::Unset),
            (3, RowOp::Delete, "c", Cell::Unset),
            (3, RowOp::Upsert, "c", number(5)),
        ];
        assert_eq!(sink.write(batch(&rows)).await.await.failures, []);
        let seen: Vec<_> = sink.rows(0).iter().map(|row| (row.key[0].clone(), row.cells["n"].0.clone())).collect();
        assert_eq!(seen, [("a".into(), 3.into()), ("c".into(), 5.into())]);
    }

    #[tokio::test]
    async fn a_blocked_sink_says_why_and_loses_nothing() {
        let sink = sink();
        sink.block("corked");
        let pending = sink.write(batch(&[(1, RowOp::Upsert, "a", number(1))])).await;
        assert_eq!(sink.blocked().as_deref(), Some("corked"));
        let second = sink.write(batch(&[(2, RowOp::Upsert, "a", number(2))])).await;
        sink.fail_next(3);
        sink.unblock();
        tokio::join!(pending, second);
        assert_eq!(sink.writes().len(), 2);
        assert!(sink.attempts() >= 5, "three failed attempts and two good ones");
    }

    #[tokio::test]
    async fn of_the_writes_that_nobody_waits_for_some_arrive_late_and_some_never() {
        let sink = sink().capacity(4);
        sink.block("corked");
        for offset in 1..=12 {
            drop(sink.write(batch(&[(offset, RowOp::Upsert, "a", number(offset))])).await);
        }
        let last = sink.write(batch(&[(13, RowOp::Upsert, "a", number(13))])).await;
        tokio::task::yield_now().await;
        sink.unblock();
        last.await;
        while sink.writes().len() < 7 {
            tokio::task::yield_now().await;
        }
        let mut written: Vec<_> = sink.writes().iter().map(|write| write.at.0 / 1000).collect();
        written.sort_unstable();
        assert_eq!(written, [2, 4, 6, 8, 10, 12, 13]);
    }

    #[tokio::test]
    async fn after_a_crash_nothing_is_answered_and_a_coin_decides() {
        let sink = sink();
        sink.crash(7);
        for offset in 0..64 {
            let pending = sink.write(batch(&[(offset, RowOp::Upsert, "a", number(1))])).await;
            assert!(tokio::time::timeout(Duration::from_millis(1), pending).await.is_err());
        }
        let stored = sink.writes().len();
        assert!((10..54).contains(&stored), "{stored} of 64");
    }
}
