//! The embedded tables against the definition of Cassandra's rules ([`MemoryTable`]), and against a hostile disk.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use proptest::prelude::*;

use super::columns::Stored;
use super::database::Database;
use super::merge::{NewCell, RowWrite, StoredRow};
use super::{SqliteError, SqliteReader, SqliteSink};
use crate::clock::{Clock, ManualClock, SystemClock};
use crate::config::{CreateTable, TableOutput, Tombstones};
use crate::memory::{MemoryTable, OwnedCell, OwnedValue, TableWrite};
use crate::pipeline::Sink;
use crate::record::{CellColumn, Column, Offset, RowMeta, RowOp, SinkBatch, TopicPartition, WriteTime};

/// An expiry that has passed, and two that never will.
const TTL: Duration = Duration::from_secs(3600);
const PAST: i64 = 3_601_000;
const FUTURE: [i64; 2] = [100_000_000_000_000, 100_000_000_000_500];
/// Before all write times of the replays, and after all of these: nothing counts as clamped.
const FIRST_WRITE: i64 = 200_000_000_000_000_000;

fn output(table: &str, ttl: Option<Duration>, columns: &[(&str, &str)]) -> TableOutput {
    let columns = columns.iter().map(|(name, kind)| ((*name).to_owned(), (*kind).to_owned())).collect();
    TableOutput {
        table: table.to_owned(),
        columns: BTreeMap::new(),
        ttl,
        tombstones: Tombstones::Reject,
        ignore: crate::config::Ignored::default(),
        timestamp_floor: None,
        consistency: None,
        create: Some(CreateTable { columns, key: vec!["id".into()] }),
    }
}

const COLUMNS: &[(&str, &str)] = &[("id", "integer"), ("a", "integer"), ("b", "text")];

fn open(path: &Path, output: &TableOutput) -> SqliteSink {
    SqliteSink::open(path, output, Arc::new(ManualClock::at(0))).expect("the table opens")
}

#[tokio::test]
async fn a_table_tells_how_it_was_made() {
    let dir = tempfile::tempdir().expect("a directory");
    let path = dir.path().join("tables.db");
    let output = output("orders", None, &[("a", "timestamp"), ("id", "integer"), ("b", "text")]);
    drop(open(&path, &output));
    let reader = SqliteReader::open(&path).expect("the file is there");
    let columns = [("id", "integer"), ("a", "timestamp"), ("b", "text")];
    let columns = columns.map(|(name, kind)| (name.to_owned(), kind.to_owned())).to_vec();
    let made = reader.made_as("orders").expect("it can be read");
    assert_eq!(made, Some(CreateTable { columns, key: vec!["id".into()] }), "the key comes first");
    assert_eq!(reader.made_as("others").expect("it can be read"), None);
}

/// A batch; each write is a record of its own, or of the record before where the offsets are equal.
fn batch(writes: &[(i64, TableWrite, i64)]) -> SinkBatch {
    let mut cells = vec![CellColumn::default(); 3];
    let mut rows = Vec::new();
    for (index, (offset, write, timestamp_ms)) in writes.iter().enumerate() {
        cells[0].push(OwnedCell::Value(write.key[0].clone()).as_cell());
        for (column, name) in cells[1..].iter_mut().zip(["a", "b"]) {
            column.push(write.cells.get(name).unwrap_or(&OwnedCell::Unset).as_cell());
        }
        rows.push(RowMeta {
            origin: 0,
            offset: Offset(*offset),
            timestamp_ms: *timestamp_ms,
            write_time: write.at,
            index: index as u32,
            op: write.op,
        });
    }
    let (keys, values, headers) = (Column::default(), Column::default(), Column::default());
    SinkBatch { source: TopicPartition::new("t", 0), generation: 1, rows, keys, values, headers, cells }
}

fn upsert(key: i64, at: i64, cells: &[(&str, OwnedCell)]) -> TableWrite {
    let cells = cells.iter().map(|(name, cell)| ((*name).to_owned(), cell.clone())).collect();
    TableWrite { key: vec![key.into()], op: RowOp::Upsert, cells, at: WriteTime(at), until_ms: None }
}

fn number(value: i64) -> OwnedCell {
    OwnedCell::Value(value.into())
}

type Seen = Vec<(serde_json::Value, BTreeMap<String, (serde_json::Value, i64)>)>;

fn seen(path: &Path, table: &str) -> Seen {
    let rows = SqliteReader::open(path).expect("opens").rows(table).expect("reads");
    let row = |mut row: super::ReadRow| {
        let key = row.values.remove("id").expect("the key is there");
        let cells = row.values.into_iter().map(|(name, value)| (name.clone(), (value, row.write_times[&name])));
        (key, cells.collect())
    };
    rows.into_iter().map(row).collect()
}

fn json(value: &OwnedValue) -> serde_json::Value {
    match value {
        OwnedValue::S64(number) => (*number).into(),
        OwnedValue::Text(text) => text.as_str().into(),
        other => panic!("no such column: {other:?}"),
    }
}

fn expected(table: &MemoryTable) -> Seen {
    let rows = table.rows(SystemClock.now_ms()).into_iter().map(|row| {
        let cells = row.cells.iter().map(|(name, (value, at))| (name.clone(), (json(value), at.0)));
        (json(&row.key[0]), cells.collect())
    });
    rows.collect()
}

fn any_cell(values: Vec<OwnedValue>) -> impl Strategy<Value = OwnedCell> {
    prop_oneof![
        Just(OwnedCell::Unset),
        Just(OwnedCell::Null),
        proptest::sample::select(values).prop_map(OwnedCell::Value),
    ]
}

/// Writes with few keys, times and values, so that they meet.
fn any_write() -> impl Strategy<Value = TableWrite> {
    let until = prop_oneof![
        3 => Just(None),
        1 => Just(Some(PAST)),
        1 => Just(Some(FUTURE[0])),
        1 => Just(Some(FUTURE[1])),
    ];
    let cells = (
        any_cell(vec![(-1).into(), 1.into(), 256.into()]),
        any_cell(vec!["".into(), "a".into(), "ab".into(), "ü".into()]),
    );
    (1_i64..=3, 1_i64..=6, prop::bool::weighted(0.2), cells, until).prop_map(|(key, at, delete, (a, b), until)| {
        let mut write = upsert(key, FIRST_WRITE + at, &[("a", a), ("b", b)]);
        if delete {
            (write.op, write.cells) = (RowOp::Delete, BTreeMap::new());
        } else {
            write.until_ms = until;
        }
        write
    })
}

/// Writes, then the same ones in another order, some of them again.
fn any_replay() -> impl Strategy<Value = (Vec<TableWrite>, Vec<TableWrite>)> {
    proptest::collection::vec(any_write(), 1..25).prop_flat_map(|writes| {
        let mut again = writes.clone();
        again.extend_from_slice(&writes[..writes.len() / 3]);
        (Just(writes), Just(again).prop_shuffle())
    })
}

fn new_cell(cell: Option<&OwnedCell>) -> NewCell {
    match cell {
        None | Some(OwnedCell::Unset) => NewCell::Unset,
        Some(OwnedCell::Null) => NewCell::Null,
        Some(OwnedCell::Value(OwnedValue::S64(number))) => NewCell::Value(Stored::Integer(*number)),
        Some(OwnedCell::Value(OwnedValue::Text(text))) => NewCell::Value(Stored::Text(text.clone())),
        Some(other) => panic!("no such column: {other:?}"),
    }
}

fn merged(writes: &[TableWrite]) -> BTreeMap<i64, StoredRow> {
    let mut rows = BTreeMap::new();
    for write in writes {
        let OwnedValue::S64(key) = write.key[0] else { panic!("keys are numbers") };
        let row = RowWrite {
            key: vec![Stored::Integer(key)],
            op: write.op,
            cleared: false,
            cells: vec![new_cell(write.cells.get("a")), new_cell(write.cells.get("b"))],
            at: write.at.0,
            until_ms: write.until_ms,
        };
        rows.entry(key).or_insert_with(|| StoredRow::new(2)).apply(&row);
    }
    rows
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2000, ..ProptestConfig::default() })]

    #[test]
    fn a_row_ends_the_same_in_whatever_order_its_writes_come((writes, replay) in any_replay()) {
        prop_assert_eq!(merged(&writes), merged(&replay));
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 40, ..ProptestConfig::default() })]

    #[test]
    fn holds_what_cassandra_would_hold((writes, replay) in any_replay(), cut in 1_usize..9) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("tables.db");
        let mut model = MemoryTable::default();
        writes.iter().for_each(|write| model.write(write));
        runtime.block_on(async {
            // Expiry is the sink's: writes that expire go through a second one, into the same table.
            let forever = open(&path, &output("t", None, COLUMNS));
            let expiring = open(&path, &output("t", Some(TTL), COLUMNS));
            let mut offset = 0;
            for part in replay.chunks(cut) {
                for (sink, expires) in [(&forever, false), (&expiring, true)] {
                    let rows: Vec<_> = part.iter().filter(|write| write.until_ms.is_some() == expires).map(|write| {
                        offset += 1;
                        (offset, write.clone(), write.until_ms.map_or(0, |until| until - TTL.as_millis() as i64))
                    }).collect();
                    sink.write(batch(&rows)).await.await;
                }
            }
        });
        prop_assert_eq!(seen(&path, "t"), expected(&model));
    }
}

#[tokio::test]
async fn writes_of_one_record_are_merged_and_the_last_wins() {
    let directory = tempfile::tempdir().expect("a directory");
    let path = directory.path().join("tables.db");
    let sink = open(&path, &output("t", None, COLUMNS));
    let delete = |key| TableWrite { op: RowOp::Delete, ..upsert(key, 50, &[]) };
    let rows = [
        (1, upsert(1, 50, &[("a", number(9)), ("b", OwnedCell::Value("x".into()))]), 0),
        (1, upsert(1, 50, &[("a", number(3))]), 0),
        (2, upsert(2, 50, &[("a", number(1))]), 0),
        (2, delete(2), 0),
        (3, delete(3), 0),
        (3, upsert(3, 50, &[("a", number(5))]), 0),
    ];
    sink.write(batch(&[(0, upsert(3, 40, &[("b", OwnedCell::Value("old".into()))]), 0)])).await.await;
    sink.write(batch(&rows)).await.await;
    let cells = |pairs: &[(&str, serde_json::Value)]| {
        pairs.iter().map(|(name, value)| ((*name).to_owned(), (value.clone(), 50))).collect::<BTreeMap<_, _>>()
    };
    assert_eq!(
        seen(&path, "t"),
        [(1.into(), cells(&[("a", 3.into()), ("b", "x".into())])), (3.into(), cells(&[("a", 5.into())]))]
    );
}

#[tokio::test]
async fn a_row_that_had_expired_is_counted_and_not_written() {
    let directory = tempfile::tempdir().expect("a directory");
    let path = directory.path().join("tables.db");
    let clock = ManualClock::at(SystemClock.now_ms());
    let sink = SqliteSink::open(&path, &output("t", Some(TTL), COLUMNS), Arc::new(clock.clone())).expect("opens");
    let fresh = clock.now_ms();
    let stale = fresh - TTL.as_millis() as i64;
    let rows = [
        (1, upsert(1, fresh * 1000, &[("a", number(1))]), fresh),
        (2, upsert(1, fresh * 1000 + 10, &[("a", number(2))]), stale),
        (3, upsert(2, fresh * 1000 + 20, &[("a", number(3))]), stale),
        (4, upsert(3, fresh * 1000 + 30, &[("a", number(4))]), fresh),
    ];
    let written = sink.write(batch(&rows)).await.await;
    assert_eq!((written.expired, written.failures.len()), (2, 0));
    assert_eq!(seen(&path, "t").iter().map(|(key, _)| key.clone()).collect::<Vec<_>>(), [1, 3]);
    let stored = SqliteReader::open(&path).expect("opens").texts("SELECT id || '' FROM t__cells").expect("reads");
    assert_eq!(stored, [Some("1".to_owned()), Some("3".to_owned())], "row 2 was never there");
}

#[tokio::test]
async fn a_tombstones_key_names_a_row_with_a_number_for_a_key() {
    let directory = tempfile::tempdir().expect("a directory");
    let path = directory.path().join("tables.db");
    let sink = open(&path, &output("t", None, COLUMNS));
    sink.write(batch(&[(1, upsert(7, 10, &[]), 0), (2, upsert(8, 20, &[]), 0)])).await.await;
    let mut delete = TableWrite { op: RowOp::Delete, ..upsert(7, 30, &[]) };
    delete.key = vec!["7".into()];
    assert_eq!(sink.write(batch(&[(3, delete.clone(), 0)])).await.await.failures, []);
    assert_eq!(seen(&path, "t").iter().map(|(key, _)| key.clone()).collect::<Vec<_>>(), [8]);
    delete.key = vec!["eight".into()];
    let refused = sink.write(batch(&[(4, delete, 0)])).await.await;
    assert_eq!(refused.failures[0].message, "column id: the text \"eight\" is no integer");
}

#[tokio::test]
async fn refuses_rows_that_do_not_fit_and_writes_the_others() {
    let directory = tempfile::tempdir().expect("a directory");
    let path = directory.path().join("tables.db");
    let sink = open(&path, &output("t", None, COLUMNS));
    let mut no_key = upsert(0, 5, &[]);
    no_key.key = vec!["text".into()];
    let rows = [
        (1, upsert(1, 10, &[("a", OwnedCell::Value("seven".into()))]), 0),
        (2, upsert(2, 20, &[("a", number(2))]), 0),
        (3, no_key, 0),
    ];
    let written = sink.write(batch(&rows)).await.await;
    let failures: Vec<_> = written.failures.iter().map(|f| (f.row, f.code.as_str(), f.message.as_str())).collect();
    assert_eq!(
        failures,
        [
            (0, "sink.bad_value", "column a: the text \"seven\" is no integer"),
            (2, "sink.bad_value", "column id: the text \"text\" is no integer"),
        ]
    );
    assert_eq!(seen(&path, "t").len(), 1);
}

async fn blocked(sink: &SqliteSink) -> String {
    for _ in 0..1000 {
        if let Some(reason) = sink.blocked() {
            return reason;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    panic!("the sink never said that it is blocked");
}

#[tokio::test]
async fn waits_while_somebody_else_holds_the_file() {
    let directory = tempfile::tempdir().expect("a directory");
    let path = directory.path().join("tables.db");
    let sink = open(&path, &output("t", None, COLUMNS));
    let other = rusqlite::Connection::open(&path).expect("opens");
    other.execute_batch("BEGIN EXCLUSIVE").expect("locks");
    let pending = sink.write(batch(&[(1, upsert(1, 10, &[("a", number(1))]), 0)])).await;
    assert!(blocked(&sink).await.contains("locked"));
    other.execute_batch("COMMIT").expect("unlocks");
    pending.await;
    assert_eq!((sink.blocked(), seen(&path, "t").len()), (None, 1));
}

#[tokio::test]
async fn waits_while_the_disk_is_full_and_loses_nothing() {
    let directory = tempfile::tempdir().expect("a directory");
    let path = directory.path().join("tables.db");
    let sink = open(&path, &output("t", None, COLUMNS));
    let database = Database::open(&path).expect("the same one");
    database.pages_max.store(8, Ordering::SeqCst);
    let big = "x".repeat(100_000);
    let pending = sink.write(batch(&[(1, upsert(1, 10, &[("b", OwnedCell::Value(big.as_str().into()))]), 0)])).await;
    assert!(blocked(&sink).await.contains("full"));
    assert_eq!(seen(&path, "t").len(), 0);
    database.pages_max.store(1_000_000, Ordering::SeqCst);
    pending.await;
    assert_eq!(seen(&path, "t")[0].1["b"].0, big.as_str());
}

#[tokio::test]
async fn the_view_is_plain_sql() {
    let directory = tempfile::tempdir().expect("a directory");
    let path = directory.path().join("tables.db");
    let columns = [("id", "integer"), ("a", "timestamp"), ("b", "json")];
    let sink = open(&path, &output("orders", None, &columns));
    let json = OwnedCell::Value(OwnedValue::Json("{\"n\": [1, 2]}".into()));
    sink.write(batch(&[(1, upsert(1, 10, &[("a", number(1_767_225_600_123)), ("b", json)]), 0)])).await.await;
    sink.write(batch(&[(2, upsert(2, 11, &[("a", OwnedCell::Null)]), 0)])).await.await;
    let reader = SqliteReader::open(&path).expect("opens");
    let texts = |sql: &str| reader.texts(sql).expect("reads");
    assert_eq!(texts("SELECT a FROM orders ORDER BY id"), [Some("2026-01-01T00:00:00.123Z".to_owned()), None]);
    assert_eq!(texts("SELECT b ->> '$.n[1]' || '' FROM orders WHERE id = 1"), [Some("2".to_owned())]);
}

#[tokio::test]
async fn another_sink_may_add_columns_while_the_first_goes_on() {
    let directory = tempfile::tempdir().expect("a directory");
    let path = directory.path().join("tables.db");
    let narrow = open(&path, &output("t", None, &COLUMNS[..2]));
    let mut thin = batch(&[(1, upsert(1, 10, &[("a", number(1))]), 0)]);
    thin.cells.truncate(2);
    let wide = open(&path, &output("t", None, COLUMNS));
    wide.write(batch(&[(1, upsert(1, 20, &[("b", OwnedCell::Value("x".into()))]), 0)])).await.await;
    narrow.write(thin).await.await;
    assert_eq!(seen(&path, "t")[0].1.keys().collect::<Vec<_>>(), ["a", "b"], "the older write kept the newer column");
    let mut delete = batch(&[(2, TableWrite { op: RowOp::Delete, ..upsert(1, 30, &[]) }, 0)]);
    delete.cells.truncate(2);
    narrow.write(delete).await.await;
    assert_eq!(seen(&path, "t").len(), 0, "the newer column is deleted with its row");
}

#[test]
fn says_what_is_wrong_with_a_table() {
    let directory = tempfile::tempdir().expect("a directory");
    let path = directory.path().join("tables.db");
    let message = |output: TableOutput| match SqliteSink::open(&path, &output, Arc::new(SystemClock)) {
        Ok(_) => String::new(),
        Err(error) => error.to_string(),
    };
    assert_eq!(message(output("t", None, COLUMNS)), "");
    let changed = message(output("t", None, &[("id", "integer"), ("a", "text")]));
    assert!(changed.contains("column a is integer in the file and text in `create:`"), "{changed}");
    let unknown = message(output("u", None, &[("id", "integer"), ("a", "string")]));
    assert!(unknown.contains("unknown type string; the types are text, integer"), "{unknown}");
    let absent = TableOutput { create: None, ..output("v", None, &[]) };
    assert!(matches!(SqliteSink::open(&path, &absent, Arc::new(SystemClock)), Err(SqliteError::Absent { .. })));
    let mut mapped = output("t", None, COLUMNS);
    mapped.columns.insert("c".into(), vec!["c".into()]);
    assert!(message(mapped).contains("`columns:` names c, which the table does not have; it has id, a, b"));
}
