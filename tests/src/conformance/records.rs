//! Sinks that want records.

use std::sync::Arc;

use async_trait::async_trait;
use pelton::pipeline::{Sink, Wants, Written};
use pelton::record::{Column, Offset, RowMeta, RowOp, SinkBatch, TopicPartition, WriteTime, push_header};

use super::within;

/// A record as a reader of the store sees it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stored {
    /// Key.
    pub key: Option<Vec<u8>>,
    /// Value.
    pub value: Option<Vec<u8>>,
    /// Headers, but for the `pelton-id`.
    pub headers: Vec<(String, Option<Vec<u8>>)>,
    /// Milliseconds since 1970.
    pub timestamp_ms: i64,
    /// The `pelton-id`.
    pub id: String,
}

/// A store of its own, which keeps the order of records of one key.
#[async_trait]
pub trait RecordBed: Send + Sync {
    /// A sink on the store; each time a new one, as after a restart.
    async fn open(&self) -> Arc<dyn Sink>;

    /// What is in the store; records of one key in their order.
    async fn stored(&self) -> Vec<Stored>;
}

const BASE_MS: i64 = 1_767_225_600_000;

/// Offset, upsert or delete, key, value.
type Row<'a> = (i64, RowOp, Option<&'a str>, Option<&'a str>);

fn batch(rows: &[Row<'_>]) -> SinkBatch {
    let (mut keys, mut values, mut headers) = (Column::default(), Column::default(), Column::default());
    let mut metas = Vec::new();
    for (index, (offset, op, key, value)) in rows.iter().enumerate() {
        keys.push(key.map(str::as_bytes));
        values.push(value.map(str::as_bytes));
        headers.push_with(|packed| {
            push_header(packed, "trace", Some(format!("t{offset}").as_bytes()));
            push_header(packed, "empty", Some(b""));
            push_header(packed, "null", None);
        });
        metas.push(RowMeta {
            origin: index as u32,
            offset: Offset(*offset),
            timestamp_ms: BASE_MS + offset,
            write_time: WriteTime((BASE_MS + offset) * 1000),
            index: index as u32,
            op: *op,
        });
    }
    let source = TopicPartition::new("suite", 3);
    SinkBatch { source, generation: 1, rows: metas, keys, values, headers, cells: Vec::new() }
}

fn stored(index: usize, (offset, _, key, value): Row<'_>) -> Stored {
    let headers = [
        ("trace".to_owned(), Some(format!("t{offset}").into_bytes())),
        ("empty".to_owned(), Some(Vec::new())),
        ("null".to_owned(), None),
    ];
    Stored {
        key: key.map(|key| key.as_bytes().to_vec()),
        value: value.map(|value| value.as_bytes().to_vec()),
        headers: headers.into(),
        timestamp_ms: BASE_MS + offset,
        id: format!("suite/3/{offset}/{index}"),
    }
}

async fn write(sink: &dyn Sink, rows: &[Row<'_>]) -> Written {
    assert_eq!(*sink.wants(), Wants::Records);
    let answer = within("the sink accepts", sink.write(batch(rows))).await;
    within("the sink answers", answer).await
}

fn sorted(mut records: Vec<Stored>) -> Vec<Stored> {
    records.sort_by(|one, two| one.id.cmp(&two.id));
    records
}

/// Key, value, headers and timestamp arrive as they were, null apart from empty, each with its id.
pub async fn records_arrive_as_they_were(bed: &dyn RecordBed) {
    let rows: [Row<'_>; 4] = [
        (1, RowOp::Upsert, Some("a"), Some("one")),
        (2, RowOp::Upsert, None, Some("")),
        (3, RowOp::Upsert, Some(""), Some("ü 🎁")),
        (4, RowOp::Delete, Some("a"), None),
    ];
    let written = write(&*bed.open().await, &rows).await;
    assert_eq!(written.failures, []);
    let wanted = rows.iter().enumerate().map(|(index, row)| stored(index, *row)).collect();
    assert_eq!(sorted(bed.stored().await), sorted(wanted));
}

/// Records of one key keep their order over batches, though many are under way at once.
pub async fn the_order_of_a_key_is_kept(bed: &dyn RecordBed) {
    let sink = bed.open().await;
    let mut answers = Vec::new();
    for part in 0..50 {
        let values: Vec<_> = (0..4).map(|i| (part * 4 + i).to_string()).collect();
        let rows: Vec<Row<'_>> = values
            .iter()
            .enumerate()
            .map(|(i, value)| (part * 4 + i as i64, RowOp::Upsert, Some(["a", "b"][i % 2]), Some(value.as_str())))
            .collect();
        answers.push(within("the sink accepts", sink.write(batch(&rows))).await);
    }
    for answer in answers {
        assert_eq!(within("the sink answers", answer).await.failures, []);
    }
    let all = bed.stored().await;
    for (key, first) in [("a", 0), ("b", 1)] {
        let seen = all.iter().filter(|record| record.key.as_deref() == Some(key.as_bytes()));
        let seen: Vec<_> = seen
            .map(|record| String::from_utf8_lossy(record.value.as_deref().unwrap_or_default()).into_owned())
            .collect();
        let wanted: Vec<_> = (0..100).map(|at| (first + at * 2).to_string()).collect();
        assert_eq!(seen, wanted, "key {key}");
    }
}

/// A batch whose answer nobody waits for may be written or not, whole or in part; it keeps no room, and what comes
/// after it stands after it.
pub async fn a_dropped_answer_gives_its_room_back(bed: &dyn RecordBed) {
    let sink = bed.open().await;
    let large = "x".repeat(512 << 10);
    // More than any sink accepts before it waits.
    for at in 0..40 {
        let rows = [(at, RowOp::Upsert, Some("a"), Some(large.as_str()))];
        drop(within("the sink accepts", sink.write(batch(&rows))).await);
    }
    let last = [(40, RowOp::Upsert, Some("a"), Some("last")), (41, RowOp::Upsert, Some("b"), Some("other"))];
    assert_eq!(write(&*sink, &last).await.failures, []);
    let all = bed.stored().await;
    let of_a: Vec<_> = all.iter().filter(|record| record.key.as_deref() == Some(b"a")).collect();
    assert_eq!(of_a.last().and_then(|record| record.value.as_deref()), Some(b"last".as_slice()));
    assert_eq!(all.iter().filter(|record| record.value.as_deref() == Some(b"other")).count(), 1);
    assert_eq!(sink.blocked(), None);
}

/// An empty batch is answered.
pub async fn an_empty_batch_is_answered(bed: &dyn RecordBed) {
    let sink = bed.open().await;
    assert_eq!(write(&*sink, &[]).await, Written::default());
    assert_eq!(sink.blocked(), None);
}

/// Every behaviour of [`records`](self) as a test; the argument makes a fresh bed.
#[macro_export]
macro_rules! record_sink_suite {
    ($bed:expr) => {
        $crate::suite!($bed, records:
            records_arrive_as_they_were, the_order_of_a_key_is_kept, a_dropped_answer_gives_its_room_back,
            an_empty_batch_is_answered);
    };
}
