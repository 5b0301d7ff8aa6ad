//! The Cassandra sink against a loop over the driver: the same statement, the same rows, as many under way.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt as _;
use pelton::cassandra::{CassandraSink, connect};
use pelton::clock::SystemClock;
use pelton::config::{CassandraConnection, Consistency, Ignored, TableOutput, Tombstones};
use pelton::pipeline::{Sink as _, Wants};
use pelton::record::{Cell, CellColumn, Column, Offset, RowMeta, RowOp, SinkBatch, TopicPartition, Value, WriteTime};
use scylla::client::session::Session;
use scylla::client::session_builder::SessionBuilder;
use scylla::statement::prepared::PreparedStatement;
use scylla::value::MaybeUnset;

use crate::Plan;
use crate::measure::{Pair, in_turns_with, monotonic_ns, process_cpu};
use crate::report::{Better, Figure};

/// Rows of a batch, as the line hands them over.
const BATCH: usize = 1000;
/// Batches that a task has on their way.
const BATCHES_IN_FLIGHT: usize = 8;
const COLUMNS: &str = "shop text, id bigint, kind text, user text, country text, city text, session text, agent text, \
                       amount double, cents bigint, PRIMARY KEY (shop, id)";
/// 2026-01-01, microseconds.
const WRITE_TIME: i64 = 1_767_225_600_000_000;

/// Rows with a partition each, and rows that share partitions.
pub(crate) fn measure(plan: &Plan) -> Vec<Figure> {
    let runtime =
        tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().expect("a runtime");
    runtime.block_on(async {
        let bench = Bench::new().await;
        let mut figures = Vec::new();
        for (shared, name, aim) in [(1, "each row a partition of its own", 0.95), (50, "50 rows a partition", 3.0)] {
            figures.extend(bench.compare(plan, shared, name, aim).await);
        }
        bench.remove().await;
        figures
    })
}

/// What one side took.
#[derive(Debug, Clone, Copy)]
struct Took {
    wall: Duration,
    cpu: Duration,
}

struct Bench {
    keyspace: String,
    session: Arc<Session>,
    insert: Arc<PreparedStatement>,
    sink: CassandraSink,
    specs: Vec<String>,
}

impl Bench {
    async fn new() -> Self {
        let variable = |name: &str, default: &str| std::env::var(name).unwrap_or_else(|_| default.to_owned());
        let address =
            format!("{}:{}", variable("PELTON_CASSANDRA_HOST", "127.0.0.1"), variable("PELTON_CASSANDRA_PORT", "9042"));
        let session = SessionBuilder::new().known_node(&address).build().await.unwrap_or_else(|error| {
            panic!("no Cassandra at {address}: {error}; `make services` starts one");
        });
        let keyspace = format!("pelton_bench_{}", uuid::Uuid::new_v4().simple());
        let replication = "{'class': 'SimpleStrategy', 'replication_factor': 1}";
        for statement in [
            format!("CREATE KEYSPACE {keyspace} WITH replication = {replication}"),
            format!("CREATE TABLE {keyspace}.events ({COLUMNS})"),
        ] {
            session.query_unpaged(statement, ()).await.expect("our own keyspace");
        }
        let connection = CassandraConnection {
            contact_points: vec![address],
            local_datacenter: None,
            username: None,
            password: None,
            tls: None,
            consistency: Consistency::LocalQuorum,
        };
        let output = TableOutput {
            table: format!("{keyspace}.events"),
            columns: BTreeMap::new(),
            ttl: None,
            tombstones: Tombstones::Reject,
            ignore: Ignored::default(),
            timestamp_floor: None,
            consistency: None,
            create: None,
        };
        let cassandra = connect(&connection).await.expect("Cassandra answers");
        let sink = CassandraSink::open(cassandra, &output, Arc::new(SystemClock)).await.expect("our own table");
        let Wants::Cells(specs) = sink.wants() else { panic!("a table wants cells") };
        let specs = specs.iter().map(|spec| spec.column.clone()).collect();
        let mut insert = session
            .prepare(format!(
                "INSERT INTO {keyspace}.events (shop, id, kind, user, country, city, session, agent, amount, cents) \
                 VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?) USING TIMESTAMP ? AND TTL ?"
            ))
            .await
            .expect("our own table");
        insert.set_is_idempotent(true);
        insert.set_consistency(scylla::statement::Consistency::LocalQuorum);
        Self { keyspace, session: Arc::new(session), insert: Arc::new(insert), sink, specs }
    }

    async fn remove(self) {
        self.session.query_unpaged(format!("DROP KEYSPACE {}", self.keyspace), ()).await.expect("our own keyspace");
    }

    async fn compare(&self, plan: &Plan, shared: i64, name: &str, aim: f64) -> Vec<Figure> {
        // Warms up server and window alike; the loop then has as many under way as the sink settled on.
        self.ours(plan.rows, shared).await;
        let under_way = self.sink.snapshot().window;
        self.theirs(plan.rows, shared, under_way).await;
        let handle = tokio::runtime::Handle::current();
        let rounds = tokio::task::block_in_place(|| {
            let mut ours = || handle.block_on(self.ours(plan.rows, shared));
            let mut theirs = || handle.block_on(self.theirs(plan.rows, shared, under_way));
            in_turns_with(plan.rounds, &mut ours, &mut theirs)
        });
        let pair = |of: &dyn Fn(&Took) -> Duration| {
            let per = |took: &Took| plan.rows as f64 / of(took).as_secs_f64();
            Pair::of(&rounds.iter().map(|(ours, theirs)| (per(ours), per(theirs))).collect::<Vec<_>>())
        };
        let (wall, cpu) = (pair(&|took| took.wall), pair(&|took| took.cpu));
        let name = format!("sink against one execute a row, {name}");
        let figure =
            |unit| Figure::new("cassandra", &name, unit, Better::More).with("under_way", &under_way.to_string());
        vec![
            figure("rows/s")
                .pair(&wall)
                .aim(aim, wall.ratio.median, "of native at least")
                .with("picture", &format!("Cassandra, {shared} row(s) a partition, rows/s")),
            figure("rows/CPU-s of the client").pair(&cpu),
        ]
    }

    async fn ours(&self, rows: usize, shared: i64) -> Took {
        let batches: Vec<SinkBatch> =
            (0..rows / BATCH).map(|number| sink_batch(&self.specs, number * BATCH, shared)).collect();
        let (began, cpu) = (monotonic_ns(), process_cpu());
        let written = futures::stream::iter(batches)
            .map(|batch| async move { self.sink.write(batch).await.await })
            .buffer_unordered(BATCHES_IN_FLIGHT);
        written.for_each(|written| async move { assert_eq!(written.failures, []) }).await;
        Took { wall: Duration::from_nanos(monotonic_ns() - began), cpu: process_cpu() - cpu }
    }

    /// Two loops, so that both cores can be used, with half of it under way each.
    async fn theirs(&self, rows: usize, shared: i64, under_way: usize) -> Took {
        let (began, cpu) = (monotonic_ns(), process_cpu());
        let half = |range: std::ops::Range<usize>| {
            let (session, insert) = (Arc::clone(&self.session), Arc::clone(&self.insert));
            tokio::spawn(async move {
                let (session, insert) = (&session, &insert);
                let writes = futures::stream::iter(range)
                    .map(|number| async move {
                        let row = Row::of(number, shared);
                        let time = WRITE_TIME + number as i64 * 10;
                        let values = (
                            &row.shop,
                            row.id,
                            row.kind,
                            &row.user,
                            "DE",
                            "Berlin",
                            &row.session,
                            row.agent,
                            row.amount,
                            row.cents,
                            time,
                            MaybeUnset::<i32>::Unset,
                        );
                        session.execute_unpaged(insert, values).await.expect("a write");
                    })
                    .buffer_unordered(under_way.div_ceil(2));
                writes.for_each(|()| async {}).await;
            })
        };
        let (first, second) = (half(0..rows / 2), half(rows / 2..rows));
        first.await.expect("the first half");
        second.await.expect("the second half");
        Took { wall: Duration::from_nanos(monotonic_ns() - began), cpu: process_cpu() - cpu }
    }
}

/// A row, as both sides write it.
struct Row {
    shop: String,
    id: i64,
    kind: &'static str,
    user: String,
    session: String,
    agent: &'static str,
    amount: f64,
    cents: i64,
}

impl Row {
    fn of(number: usize, shared: i64) -> Self {
        let number = number as i64;
        Self {
            shop: format!("shop-{:08}-{shared}", number / shared),
            id: number,
            kind: "purchase",
            user: format!("user-{number:011}"),
            session: format!("{number:064x}"),
            agent: "Mozilla/5.0 (X11; Linux x86_64; rv:140.0) Gecko/20100101 Firefox/140.0",
            amount: number as f64 / 100.0,
            cents: number,
        }
    }

    fn cell(&self, column: &str) -> Value<'_> {
        match column {
            "shop" => Value::Text(&self.shop),
            "id" => Value::S64(self.id),
            "kind" => Value::Text(self.kind),
            "user" => Value::Text(&self.user),
            "country" => Value::Text("DE"),
            "city" => Value::Text("Berlin"),
            "session" => Value::Text(&self.session),
            "agent" => Value::Text(self.agent),
            "amount" => Value::F64(self.amount),
            "cents" => Value::S64(self.cents),
            other => panic!("no column {other}"),
        }
    }
}

fn sink_batch(columns: &[String], start: usize, shared: i64) -> SinkBatch {
    let mut cells = vec![CellColumn::default(); columns.len()];
    let mut rows = Vec::with_capacity(BATCH);
    for at in 0..BATCH {
        let row = Row::of(start + at, shared);
        for (column, cells) in columns.iter().zip(&mut cells) {
            cells.push(Cell::Value(row.cell(column)));
        }
        rows.push(RowMeta {
            origin: at as u32,
            offset: Offset((start + at) as i64),
            timestamp_ms: WRITE_TIME / 1000,
            write_time: WriteTime(WRITE_TIME + (start + at) as i64 * 10),
            index: 0,
            op: RowOp::Upsert,
        });
    }
    SinkBatch {
        source: TopicPartition::new("bench", 0),
        generation: 0,
        rows,
        keys: Column::default(),
        values: Column::default(),
        headers: Column::default(),
        cells,
    }
}
