//! The suites on what needs no services.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use pelton::clock::{Clock, SystemClock};
use pelton::config::{CreateTable, Ignored, TableOutput, Tombstones};
use pelton::memory::{MemoryGroup, MemoryJournal, MemoryLog, MemoryRanges, MemoryRecord, MemorySink, OwnedValue};
use pelton::pipeline::journal::Journal;
use pelton::pipeline::ranges::Ranges;
use pelton::pipeline::{CellSpec, Sink, Source};
use pelton::record::{HeaderIter, TopicPartition};
use pelton::sqlite::{SqliteJournal, SqliteReader, SqliteSink};
use pelton_tests::conformance::journal::{self, JournalBed, RangeBed};
use pelton_tests::conformance::records::{RecordBed, Stored};
use pelton_tests::conformance::source::SourceBed;
use pelton_tests::conformance::table::{Rows, TableBed};

struct SqliteBed(tempfile::TempDir);

impl SqliteBed {
    fn new() -> Self {
        Self(tempfile::tempdir().expect("a directory"))
    }
}

#[async_trait]
impl TableBed for SqliteBed {
    async fn open(&self) -> Arc<dyn Sink> {
        self.sink(None)
    }

    async fn open_expiring(&self, ttl: Duration) -> Arc<dyn Sink> {
        self.sink(Some(ttl))
    }

    async fn rows(&self) -> Rows {
        let reader = SqliteReader::open(&self.0.path().join("suite.db")).expect("the file opens");
        let rows = reader.rows("suite").expect("the table is there").into_iter().map(|mut row| {
            let Some(serde_json::Value::String(id)) = row.values.remove("id") else { panic!("the key is text") };
            let cells = row.values.into_iter().map(|(name, value)| {
                let at = row.write_times[&name];
                (name, (value, at))
            });
            (id, cells.collect())
        });
        rows.collect()
    }
}

impl SqliteBed {
    fn sink(&self, ttl: Option<Duration>) -> Arc<dyn Sink> {
        let columns = [("id", "text"), ("n", "integer"), ("s", "text")];
        let output = TableOutput {
            table: "suite".into(),
            columns: Default::default(),
            ttl,
            tombstones: Tombstones::Reject,
            ignore: Ignored::default(),
            timestamp_floor: None,
            consistency: None,
            create: Some(CreateTable {
                columns: columns.map(|(name, kind)| (name.to_owned(), kind.to_owned())).into(),
                key: vec!["id".into()],
            }),
        };
        let path = self.0.path().join("suite.db");
        Arc::new(SqliteSink::open(&path, &output, Arc::new(SystemClock)).expect("the table opens"))
    }
}

mod sqlite {
    pelton_tests::table_sink_suite!(super::SqliteBed::new());
}

struct MemoryTableBed(MemorySink);

impl MemoryTableBed {
    fn new() -> Self {
        let spec = |name: &str| CellSpec { column: name.into(), path: vec![name.into()] };
        let sink = MemorySink::table(vec![spec("id"), spec("n"), spec("s")], &["id"]);
        // A memory table takes every value; the suite wants `n` to be a number.
        sink.refuse_when(|batch, row| match batch.cells[1].get(row) {
            pelton::record::Cell::Value(pelton::record::Value::Text(_)) => {
                Some(("sink.bad_value".into(), "column n: text is no integer".into()))
            }
            _ => None,
        });
        sink.reorder(5, Duration::from_millis(20));
        Self(sink)
    }
}

#[async_trait]
impl TableBed for MemoryTableBed {
    async fn open(&self) -> Arc<dyn Sink> {
        Arc::new(self.0.clone())
    }

    async fn open_expiring(&self, ttl: Duration) -> Arc<dyn Sink> {
        Arc::new(self.0.expiring(ttl, Arc::new(SystemClock)))
    }

    async fn rows(&self) -> Rows {
        let json = |value: &OwnedValue| match value {
            OwnedValue::S64(number) => serde_json::Value::from(*number),
            OwnedValue::Text(text) => text.as_str().into(),
            other => panic!("the suite has no {other:?}"),
        };
        let rows = self.0.rows(SystemClock.now_ms()).into_iter().map(|row| {
            let OwnedValue::Text(id) = row.key[0].clone() else { panic!("the key is text") };
            (id, row.cells.iter().map(|(name, (value, at))| (name.clone(), (json(value), at.0))).collect())
        });
        rows.collect()
    }
}

mod memory_table {
    pelton_tests::table_sink_suite!(super::MemoryTableBed::new());
}

struct MemoryRecordBed(MemorySink);

impl MemoryRecordBed {
    fn new() -> Self {
        let sink = MemorySink::records();
        sink.reorder(6, Duration::from_millis(20));
        sink.fail_next(3);
        Self(sink)
    }
}

#[async_trait]
impl RecordBed for MemoryRecordBed {
    async fn open(&self) -> Arc<dyn Sink> {
        Arc::new(self.0.clone())
    }

    async fn stored(&self) -> Vec<Stored> {
        let records = self.0.stored().into_iter().map(|record| {
            let headers = HeaderIter::new(record.headers.as_deref().unwrap_or_default());
            Stored {
                headers: headers.map(|(name, value)| (name.to_owned(), value.map(<[u8]>::to_vec))).collect(),
                key: record.key,
                value: record.value,
                timestamp_ms: record.meta.timestamp_ms,
                id: record.id,
            }
        });
        records.collect()
    }
}

mod memory_records {
    pelton_tests::record_sink_suite!(super::MemoryRecordBed::new());
}

struct MemorySourceBed {
    log: MemoryLog,
    group: MemoryGroup,
}

impl MemorySourceBed {
    fn new() -> Self {
        let log = MemoryLog::new();
        log.create_topic("suite", 2);
        let group = MemoryGroup::new(&log, &["suite"]);
        Self { log, group }
    }
}

#[async_trait]
impl SourceBed for MemorySourceBed {
    fn topic(&self) -> String {
        "suite".into()
    }

    async fn append(&self, partition: i32, records: Vec<MemoryRecord>) {
        for record in records {
            self.log.append(&TopicPartition::new("suite", partition), record);
        }
    }

    fn member(&self) -> Arc<dyn Source> {
        Arc::new(self.group.source())
    }

    async fn committed(&self, partition: i32) -> Option<(i64, String)> {
        let position = self.group.committed(&TopicPartition::new("suite", partition))?;
        Some((position.next.0, position.metadata))
    }
}

impl Drop for MemorySourceBed {
    fn drop(&mut self) {
        // The suite itself keeps the contract.
        if !std::thread::panicking() {
            assert_eq!(self.group.violations(), Vec::<String>::new());
        }
    }
}

mod memory_source {
    pelton_tests::source_suite!(super::MemorySourceBed::new());
}

struct SqliteJournalBed(tempfile::TempDir);

#[async_trait]
impl JournalBed for SqliteJournalBed {
    async fn open(&self) -> Arc<dyn Journal> {
        Arc::new(SqliteJournal::open(&self.0.path().join("suite.db"), "suite").expect("the file opens"))
    }
}

struct MemoryJournalBed(MemoryJournal);

#[async_trait]
impl JournalBed for MemoryJournalBed {
    async fn open(&self) -> Arc<dyn Journal> {
        Arc::new(self.0.clone())
    }
}

#[tokio::test]
async fn journals_keep_their_promises() {
    let sqlite = || SqliteJournalBed(tempfile::tempdir().expect("a directory"));
    let memory = || MemoryJournalBed(MemoryJournal::new());
    journal::what_is_answered_stays_in_order(&sqlite()).await;
    journal::what_is_answered_stays_in_order(&memory()).await;
    journal::a_place_that_was_answered_misses_nothing_from_then_on(&sqlite()).await;
    journal::a_place_that_was_answered_misses_nothing_from_then_on(&memory()).await;
}

struct MemoryRangeBed(MemoryLog);

#[async_trait]
impl RangeBed for MemoryRangeBed {
    fn topic(&self) -> String {
        "suite".to_owned()
    }

    async fn append(&self, records: Vec<MemoryRecord>) {
        for record in records {
            self.0.append(&TopicPartition::new("suite", 0), record);
        }
    }

    fn ranges(&self) -> Arc<dyn Ranges> {
        Arc::new(MemoryRanges::of(&self.0))
    }
}

#[tokio::test]
async fn ranges_in_memory_are_read_to_their_end() {
    let log = MemoryLog::new();
    log.create_topic("suite", 1);
    journal::a_range_is_read_to_its_end(&MemoryRangeBed(log)).await;
}
