//! A keyspace of its own for each test, batches made by hand, and a proxy before the node.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use pelton::cassandra::{Cassandra, CassandraSink, connect};
use pelton::clock::{Clock, SystemClock};
use pelton::config::{CassandraConnection, Consistency, Ignored, TableOutput, Tombstones};
use pelton::pipeline::{Sink, Wants};
use pelton::record::{Cell, CellColumn, Column, Offset, RowMeta, RowOp, SinkBatch, TopicPartition, Value, WriteTime};
use pelton_tests::proxy::Proxy;
use scylla::client::session::Session;
use scylla::client::session_builder::SessionBuilder;

/// Where the tests' Cassandra listens.
pub(crate) fn address() -> String {
    let host = std::env::var("PELTON_CASSANDRA_HOST").unwrap_or_else(|_| "127.0.0.1".into());
    let port = std::env::var("PELTON_CASSANDRA_PORT").unwrap_or_else(|_| "9042".into());
    format!("{host}:{port}")
}

pub(crate) fn settings(address: &str) -> CassandraConnection {
    CassandraConnection {
        contact_points: vec![address.into()],
        local_datacenter: None,
        username: None,
        password: None,
        tls: None,
        consistency: Consistency::LocalQuorum,
    }
}

/// A keyspace; [`Keyspace::remove`] takes it away.
pub(crate) struct Keyspace {
    pub(crate) name: String,
    pub(crate) session: Session,
}

/// Runs a test in a keyspace of its own, and drops the keyspace whatever becomes of the test.
pub(crate) async fn with_keyspace<F>(test: impl FnOnce(Arc<Keyspace>) -> F)
where
    F: Future<Output = ()> + Send + 'static,
{
    let keyspace = Arc::new(Keyspace::create().await);
    let outcome = tokio::spawn(test(Arc::clone(&keyspace))).await;
    keyspace.remove().await;
    if let Err(error) = outcome {
        std::panic::resume_unwind(error.into_panic());
    }
}

impl Keyspace {
    pub(crate) async fn create() -> Self {
        let session = SessionBuilder::new()
            .known_node(address())
            .build()
            .await
            .unwrap_or_else(|error| panic!("no Cassandra at {}: {error}; `make services` starts one", address()));
        let keyspace = Self { name: format!("pelton_test_{}", uuid::Uuid::new_v4().simple()), session };
        let replication = "{'class': 'SimpleStrategy', 'replication_factor': 1}";
        keyspace.cql(&format!("CREATE KEYSPACE {} WITH replication = {replication}", keyspace.name)).await;
        keyspace
    }

    pub(crate) async fn remove(&self) {
        self.cql(&format!("DROP KEYSPACE {}", self.name)).await;
    }

    /// Runs a statement; `KS` stands for the keyspace.
    pub(crate) async fn cql(&self, text: &str) {
        let text = text.replace("KS.", &format!("{}.", self.name));
        self.session.query_unpaged(text.as_str(), ()).await.unwrap_or_else(|error| panic!("{text}: {error}"));
    }

    /// Rows as Cassandra's own JSON, sorted.
    pub(crate) async fn json(&self, select: &str) -> Vec<String> {
        let text = select.replace("KS.", &format!("{}.", self.name));
        let mut rows = Vec::new();
        let answer = self.session.query_unpaged(text.as_str(), ()).await.unwrap_or_else(|e| panic!("{text}: {e}"));
        for row in answer.into_rows_result().expect("rows").rows::<(String,)>().expect("one text a row") {
            rows.push(row.expect("a row").0);
        }
        rows.sort();
        rows
    }

    pub(crate) fn table(&self, name: &str) -> TableOutput {
        TableOutput {
            table: format!("{}.{name}", self.name),
            columns: BTreeMap::new(),
            ttl: None,
            tombstones: Tombstones::Reject,
            ignore: Ignored::default(),
            timestamp_floor: None,
            consistency: None,
            create: None,
        }
    }

    pub(crate) async fn sink(&self, output: &TableOutput) -> CassandraSink {
        self.sink_with(output, Arc::new(SystemClock)).await
    }

    pub(crate) async fn sink_with(&self, output: &TableOutput, clock: Arc<dyn Clock>) -> CassandraSink {
        CassandraSink::open(cassandra(&address()).await, output, clock).await.unwrap_or_else(|error| panic!("{error}"))
    }
}

pub(crate) async fn cassandra(address: &str) -> Arc<Cassandra> {
    connect(&settings(address)).await.unwrap_or_else(|error| panic!("{error}"))
}

/// A row made by hand: columns that are not named are unset.
#[derive(Clone)]
pub(crate) struct Row<'a> {
    pub(crate) offset: i64,
    pub(crate) timestamp_ms: i64,
    pub(crate) write_time: i64,
    pub(crate) op: RowOp,
    pub(crate) cells: Vec<(&'a str, Cell<'a>)>,
}

/// An upsert at a write time; its record has no timestamp.
pub(crate) fn upsert<'a>(offset: i64, write_time: i64, cells: &[(&'a str, Cell<'a>)]) -> Row<'a> {
    Row { offset, timestamp_ms: -1, write_time, op: RowOp::Upsert, cells: cells.to_vec() }
}

pub(crate) fn delete<'a>(offset: i64, write_time: i64, cells: &[(&'a str, Cell<'a>)]) -> Row<'a> {
    Row { op: RowOp::Delete, ..upsert(offset, write_time, cells) }
}

pub(crate) fn text(of: &str) -> Cell<'_> {
    Cell::Value(Value::Text(of))
}

pub(crate) fn number<'a>(of: i64) -> Cell<'a> {
    Cell::Value(Value::S64(of))
}

pub(crate) fn json(of: &str) -> Cell<'_> {
    Cell::Value(Value::Json(of))
}

/// A batch in the order of the sink's own columns.
pub(crate) fn batch(sink: &CassandraSink, rows: &[Row<'_>]) -> SinkBatch {
    let Wants::Cells(specs) = sink.wants() else { panic!("a table wants cells") };
    let mut cells = vec![CellColumn::default(); specs.len()];
    let mut metas = Vec::new();
    for (index, row) in rows.iter().enumerate() {
        for (name, _) in &row.cells {
            assert!(specs.iter().any(|spec| spec.column == *name), "the table has a column {name}");
        }
        for (column, spec) in cells.iter_mut().zip(specs) {
            let said = row.cells.iter().find(|(name, _)| *name == spec.column);
            column.push(said.map_or(Cell::Unset, |(_, cell)| *cell));
        }
        metas.push(RowMeta {
            origin: row.offset as u32,
            offset: Offset(row.offset),
            timestamp_ms: row.timestamp_ms,
            write_time: WriteTime(row.write_time),
            index: index as u32,
            op: row.op,
        });
    }
    SinkBatch {
        source: TopicPartition::new("made-by-hand", 0),
        generation: 1,
        rows: metas,
        keys: Column::default(),
        values: Column::default(),
        headers: Column::default(),
        cells,
    }
}

/// Waits for a condition, with a limit.
pub(crate) async fn wait_for(what: &str, mut is_true: impl FnMut() -> bool) {
    let limit = tokio::time::Instant::now() + Duration::from_secs(60);
    while !is_true() {
        assert!(tokio::time::Instant::now() < limit, "waited a minute for: {what}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

/// A proxy in front of Cassandra, on the node's own host: the node names its host to the driver, which keeps the contact
/// point's port.
pub(crate) async fn proxy() -> Proxy {
    Proxy::start(&address()).await
}
