//! Sinks that want cells.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use pelton::clock::{Clock, SystemClock};
use pelton::pipeline::{Sink, Wants};
use pelton::record::{Cell, CellColumn, Column, Offset, RowMeta, RowOp, SinkBatch, TopicPartition, Value, WriteTime};

use super::within;

/// Visible rows: by key, then by column, value and write time. Cells that are not there are absent.
pub type Rows = BTreeMap<String, BTreeMap<String, (serde_json::Value, i64)>>;

/// A table of its own with the columns `id` (text, the key), `n` (a whole number of 64 bits) and `s` (text), without a
/// time to live.
#[async_trait]
pub trait TableBed: Send + Sync {
    /// A sink on the table; each time a new one, as after a restart.
    async fn open(&self) -> Arc<dyn Sink>;

    /// The same, with a time to live.
    async fn open_expiring(&self, ttl: Duration) -> Arc<dyn Sink>;

    /// What is visible in the table.
    async fn rows(&self) -> Rows;
}

/// 2026-01-01, in microseconds: write times of the suite lie after it.
const BASE: i64 = 1_767_225_600_000_000;

/// One row to write.
#[derive(Debug, Clone)]
pub struct Row {
    offset: i64,
    at: i64,
    timestamp_ms: i64,
    op: RowOp,
    id: Option<&'static str>,
    n: Cell<'static>,
    s: Cell<'static>,
}

/// An upsert; `at` is both the record's offset and its write time, 10 µs apart.
fn set(at: i64, id: &'static str, n: Cell<'static>, s: Cell<'static>) -> Row {
    let written = BASE + at * 10;
    Row { offset: at, at: written, timestamp_ms: written / 1000, op: RowOp::Upsert, id: Some(id), n, s }
}

fn delete(at: i64, id: &'static str) -> Row {
    Row { op: RowOp::Delete, ..set(at, id, Cell::Unset, Cell::Unset) }
}

fn n(value: i64) -> Cell<'static> {
    Cell::Value(Value::S64(value))
}

fn s(value: &'static str) -> Cell<'static> {
    Cell::Value(Value::Text(value))
}

fn batch(sink: &dyn Sink, rows: &[Row]) -> SinkBatch {
    let Wants::Cells(columns) = sink.wants() else { panic!("the sink of a table wants cells") };
    let cells = columns.iter().map(|spec| {
        let mut column = CellColumn::default();
        for row in rows {
            column.push(match spec.column.as_str() {
                "id" => row.id.map_or(Cell::Unset, s),
                "n" => row.n,
                "s" => row.s,
                other => panic!("the bed's table has no column {other}"),
            });
        }
        column
    });
    let metas = rows.iter().enumerate().map(|(index, row)| RowMeta {
        origin: index as u32,
        offset: Offset(row.offset),
        timestamp_ms: row.timestamp_ms,
        write_time: WriteTime(row.at),
        index: index as u32,
        op: row.op,
    });
    SinkBatch {
        source: TopicPartition::new("suite", 0),
        generation: 1,
        rows: metas.collect(),
        keys: Column::default(),
        values: Column::default(),
        headers: Column::default(),
        cells: cells.collect(),
    }
}

async fn write(sink: &dyn Sink, rows: &[Row]) -> pelton::pipeline::Written {
    let answer = within("the sink accepts", sink.write(batch(sink, rows))).await;
    within("the sink answers", answer).await
}

/// A column, its value, and the `at` of [`set`] that wrote it.
type WantedCell<'a> = (&'a str, serde_json::Value, i64);

/// Rows as [`TableBed::rows`] gives them; write times by the `at` of [`set`].
fn rows(wanted: &[(&str, &[WantedCell<'_>])]) -> Rows {
    let cells = |cells: &[WantedCell<'_>]| {
        cells.iter().map(|(name, value, at)| ((*name).to_owned(), (value.clone(), BASE + at * 10))).collect()
    };
    wanted.iter().map(|(id, row)| ((*id).to_owned(), cells(row))).collect()
}

/// What was answered can be read, also by those who come later.
pub async fn what_is_answered_is_there(bed: &dyn TableBed) {
    let sink = bed.open().await;
    let written = write(&*sink, &[set(1, "a", n(1), s("x")), set(2, "b", n(-2), s("ü 🎁"))]).await;
    assert!(written.failures.is_empty() && written.bytes > 0, "{written:?}");
    let wanted = rows(&[
        ("a", &[("n", 1.into(), 1), ("s", "x".into(), 1)]),
        ("b", &[("n", (-2).into(), 2), ("s", "ü 🎁".into(), 2)]),
    ]);
    assert_eq!(bed.rows().await, wanted);
    drop(sink);
    write(&*bed.open().await, &[set(3, "a", n(3), Cell::Unset)]).await;
    assert_eq!(bed.rows().await["a"], rows(&[("a", &[("n", 3.into(), 3), ("s", "x".into(), 1)])])["a"]);
}

/// Unset leaves a cell, null deletes it; a row without cells is still a row.
pub async fn unset_leaves_and_null_deletes(bed: &dyn TableBed) {
    let sink = bed.open().await;
    write(&*sink, &[set(1, "a", n(1), s("x")), set(2, "a", Cell::Null, Cell::Unset)]).await;
    assert_eq!(bed.rows().await, rows(&[("a", &[("s", "x".into(), 1)])]));
    write(&*sink, &[set(3, "a", Cell::Unset, Cell::Null)]).await;
    assert_eq!(bed.rows().await, rows(&[("a", &[])]));
}

/// A partial update that comes late changes only what is older.
pub async fn an_older_write_changes_only_older_cells(bed: &dyn TableBed) {
    let sink = bed.open().await;
    write(&*sink, &[set(5, "a", n(5), Cell::Unset)]).await;
    write(&*sink, &[set(3, "a", n(3), s("three"))]).await;
    write(&*sink, &[set(4, "a", Cell::Null, Cell::Unset)]).await;
    assert_eq!(bed.rows().await, rows(&[("a", &[("n", 5.into(), 5), ("s", "three".into(), 3)])]));
}

/// A deletion hides what was written at its time or before, whenever that comes.
pub async fn a_deletion_hides_what_is_not_newer(bed: &dyn TableBed) {
    let sink = bed.open().await;
    write(&*sink, &[set(1, "a", n(1), s("x")), set(7, "b", n(7), Cell::Unset)]).await;
    write(&*sink, &[delete(5, "a"), delete(5, "b")]).await;
    assert_eq!(bed.rows().await, rows(&[("b", &[("n", 7.into(), 7)])]));
    write(&*sink, &[set(4, "a", n(4), Cell::Unset), set(4, "b", Cell::Unset, s("late"))]).await;
    assert_eq!(bed.rows().await, rows(&[("b", &[("n", 7.into(), 7)])]));
    write(&*sink, &[set(6, "a", Cell::Unset, s("again"))]).await;
    assert_eq!(bed.rows().await["a"], rows(&[("a", &[("s", "again".into(), 6)])])["a"]);
}

/// Writes of one record to one row have one write time, and yet the last wins.
pub async fn the_last_write_of_a_record_wins(bed: &dyn TableBed) {
    let sink = bed.open().await;
    write(&*sink, &[set(1, "c", Cell::Unset, s("old"))]).await;
    let record = [
        set(2, "a", n(9), s("x")),
        set(2, "a", n(3), Cell::Unset),
        set(2, "b", n(1), Cell::Unset),
        delete(2, "b"),
        delete(2, "c"),
        set(2, "c", n(2), Cell::Unset),
    ];
    write(&*sink, &record).await;
    let wanted = rows(&[("a", &[("n", 3.into(), 2), ("s", "x".into(), 2)]), ("c", &[("n", 2.into(), 2)])]);
    assert_eq!(bed.rows().await, wanted);
}

/// The same writes again, in other orders and other batches, leave the same cells with the same write times.
pub async fn a_replay_changes_nothing(bed: &dyn TableBed) {
    let sink = bed.open().await;
    let writes = [
        set(1, "a", n(1), s("one")),
        set(2, "b", n(2), Cell::Unset),
        delete(3, "a"),
        set(4, "a", n(4), Cell::Unset),
        set(5, "b", Cell::Null, s("five")),
        set(6, "c", n(6), s("six")),
        delete(7, "c"),
        set(8, "a", Cell::Unset, s("eight")),
    ];
    write(&*sink, &writes).await;
    let first = bed.rows().await;
    let wanted = rows(&[("a", &[("n", 4.into(), 4), ("s", "eight".into(), 8)]), ("b", &[("s", "five".into(), 5)])]);
    assert_eq!(first, wanted);
    let again = bed.open().await;
    for part in writes.chunks(3) {
        write(&*again, part).await;
    }
    for row in writes.iter().rev() {
        write(&*again, std::slice::from_ref(row)).await;
    }
    assert_eq!(bed.rows().await, first);
}

/// Rows that can never be written are named with their reason; the others are written.
pub async fn a_bad_value_is_refused_alone(bed: &dyn TableBed) {
    let sink = bed.open().await;
    let mut no_key = set(3, "", n(3), Cell::Unset);
    no_key.id = None;
    let written = write(&*sink, &[set(1, "a", n(1), s("x")), set(2, "b", s("two"), s("y")), no_key]).await;
    let failures: Vec<_> = written.failures.iter().map(|failure| (failure.row, failure.code.as_str())).collect();
    // A sink may tell keys apart from other values.
    let is_known = |code: &str| matches!(code, "sink.bad_value" | "sink.bad_key");
    assert!(matches!(failures[..], [(1, "sink.bad_value"), (2, code)] if is_known(code)), "{:?}", written.failures);
    assert!(names(&written.failures[0].message, "n"), "the message names the column: {:?}", written.failures);
    assert_eq!(bed.rows().await, rows(&[("a", &[("n", 1.into(), 1), ("s", "x".into(), 1)])]));
}

/// Whether a message has this word.
fn names(message: &str, word: &str) -> bool {
    message.split(|character: char| !character.is_alphanumeric()).any(|found| found == word)
}

const TTL: Duration = Duration::from_secs(3600);
const TTL_MS: i64 = 3_600_000;

/// A time-to-live counts from the record's time, whatever its write time was lifted to; from the write time where the
/// record has no time, or one so far ahead that it was clamped. What has expired is not written, but counted.
pub async fn a_time_to_live_counts_from_the_record(bed: &dyn TableBed) {
    let (now_ms, sink) = (SystemClock.now_ms(), bed.open_expiring(TTL).await);
    let (past_ms, future_ms) = (now_ms - 2 * TTL_MS, now_ms + 1000 * TTL_MS);
    let row = |at: i64, id, timestamp_ms, written_ms: i64| Row {
        timestamp_ms,
        at: written_ms * 1000 + at * 10,
        ..set(at, id, n(at), Cell::Unset)
    };
    let written = write(
        &*sink,
        &[
            row(1, "late", past_ms, past_ms),
            row(2, "late, with a floor", past_ms, now_ms),
            row(3, "late, clamped when it was written", future_ms, past_ms),
            row(4, "late, without a time", -1, past_ms),
            row(5, "fresh", now_ms, now_ms),
            row(6, "fresh, clamped", future_ms, now_ms),
            row(7, "fresh, without a time", -1, now_ms),
        ],
    )
    .await;
    assert_eq!((written.failures, written.expired), (vec![], 4));
    let found = bed.rows().await;
    let found: Vec<_> = found.keys().map(String::as_str).collect();
    assert_eq!(found, ["fresh", "fresh, clamped", "fresh, without a time"]);
}

/// An update that had expired leaves what is there alone.
pub async fn an_expired_update_leaves_the_row(bed: &dyn TableBed) {
    write(&*bed.open().await, &[set(1, "a", n(1), s("x"))]).await;
    let before = bed.rows().await;
    let expired = Row { timestamp_ms: SystemClock.now_ms() - 2 * TTL_MS, ..set(2, "a", n(2), Cell::Null) };
    let written = write(&*bed.open_expiring(TTL).await, &[expired]).await;
    assert_eq!((written.failures, written.expired), (vec![], 1));
    assert_eq!(bed.rows().await, before);
}

/// Where a record deletes a row and sets it again, the deletion holds though what was set has expired.
pub async fn an_expired_upsert_after_a_deletion_still_deletes(bed: &dyn TableBed) {
    let forever = bed.open().await;
    let live =
        [set(1, "a", n(1), s("x")), set(2, "b", n(2), s("x")), set(3, "c", n(3), s("x")), set(4, "d", n(4), s("x"))];
    write(&*forever, &live).await;
    let past_ms = SystemClock.now_ms() - 2 * TTL_MS;
    let record = [
        delete(5, "a"),
        set(5, "a", n(5), Cell::Unset),
        set(5, "b", n(5), Cell::Unset),
        delete(5, "b"),
        set(5, "b", Cell::Unset, s("y")),
        set(5, "b", n(6), Cell::Unset),
        set(5, "c", n(5), Cell::Unset),
        delete(5, "c"),
        set(5, "d", n(5), Cell::Unset),
    ];
    let record = record.map(|row| Row { timestamp_ms: past_ms, ..row });
    let written = write(&*bed.open_expiring(TTL).await, &record).await;
    assert_eq!((written.failures, written.expired), (vec![], 3), "the rows a, b and d had expired");
    let wanted = rows(&[("d", &[("n", 4.into(), 4), ("s", "x".into(), 4)])]);
    assert_eq!(bed.rows().await, wanted);
    write(&*forever, &live).await;
    assert_eq!(bed.rows().await, wanted, "what is older than the deletion stays away");
}

/// A batch whose answer nobody waits for may be written or not, whole or in part; it keeps no room, and whoever writes
/// it again finds all as it should be.
pub async fn a_dropped_answer_gives_its_room_back(bed: &dyn TableBed) {
    let sink = bed.open().await;
    let part = |at: i64| -> Vec<Row> { (0..1000).map(|i| set(at * 1000 + i, "a", n(i), Cell::Unset)).collect() };
    // Many times what any sink accepts before it waits.
    for at in 0..100 {
        drop(within("the sink accepts", sink.write(batch(&*sink, &part(at)))).await);
    }
    assert!(write(&*sink, &part(99)).await.failures.is_empty());
    write(&*sink, &[set(200_000, "b", n(2), s("x"))]).await;
    let wanted =
        rows(&[("a", &[("n", 999.into(), 99_999)]), ("b", &[("n", 2.into(), 200_000), ("s", "x".into(), 200_000)])]);
    assert_eq!(bed.rows().await, wanted);
    assert_eq!(sink.blocked(), None);
}

/// Many batches under way at once: all are answered, the newest write of each row stands.
pub async fn many_batches_under_way(bed: &dyn TableBed) {
    let sink = bed.open().await;
    let ids = ["a", "b", "c", "d", "e", "f", "g"];
    let mut answers = Vec::new();
    for at in 0..200 {
        let part: Vec<_> =
            (0..5).map(|i| set(1 + at * 5 + i, ids[((at + i) % 7) as usize], n(at * 5 + i), Cell::Unset)).collect();
        answers.push(within("the sink accepts", sink.write(batch(&*sink, &part))).await);
    }
    for answer in answers {
        assert_eq!(within("the sink answers", answer).await.failures, []);
    }
    let mut newest = Rows::new();
    for at in 0..200_i64 {
        for i in 0..5 {
            let row = newest.entry(ids[((at + i) % 7) as usize].to_owned()).or_default();
            row.insert("n".into(), ((at * 5 + i).into(), BASE + (1 + at * 5 + i) * 10));
        }
    }
    assert_eq!(bed.rows().await, newest);
}

/// An empty batch is answered.
pub async fn an_empty_batch_is_answered(bed: &dyn TableBed) {
    let sink = bed.open().await;
    assert_eq!(write(&*sink, &[]).await, pelton::pipeline::Written::default());
    assert_eq!(sink.blocked(), None);
}

/// Every behaviour of [`table`](self) as a test; the argument makes a fresh bed.
#[macro_export]
macro_rules! table_sink_suite {
    ($bed:expr) => {
        $crate::suite!($bed, table:
            what_is_answered_is_there, unset_leaves_and_null_deletes, an_older_write_changes_only_older_cells,
            a_deletion_hides_what_is_not_newer, the_last_write_of_a_record_wins, a_replay_changes_nothing,
            a_time_to_live_counts_from_the_record, an_expired_update_leaves_the_row,
            an_expired_upsert_after_a_deletion_still_deletes, a_bad_value_is_refused_alone,
            a_dropped_answer_gives_its_room_back, many_batches_under_way, an_empty_batch_is_answered);
    };
}

/// The behaviours of a suite, each as a test.
#[macro_export]
macro_rules! suite {
    ($bed:expr, $suite:ident: $($behaviour:ident),+ $(,)?) => {$(
        #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
        async fn $behaviour() {
            $crate::conformance::$suite::$behaviour(&$bed).await;
        }
    )+};
}
