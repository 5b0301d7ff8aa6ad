//! Reads back: what stands in the topics, while the demo runs (the embedded broker keeps only the newest few
//! megabytes), and what stands in the table, at its end.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use serde_json::Value;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;

use super::DemoError;
use super::events::ID_HEADER;
use super::project::Role;
use super::reconcile::{Columns, Found};
use crate::clock::Clock;
use crate::config::{KafkaConnection, SourceSettings};
use crate::kafka::{KafkaSource, SourceOptions};
use crate::pipeline::{BatchLimits, Committer, Position, Reader, Source, SourceEvent};
use crate::record::{Batch, Offset};
use crate::sqlite::SqliteReader;

/// The header that names the record from which another came: `topic/partition/offset/…`.
const ORIGIN_HEADER: &str = "pelton-id";
/// The header of a dead letter that holds its code.
const CODE_HEADER: &str = "pelton.code";
/// Latencies that are remembered.
const LATENCIES_MAX: usize = 20_000;
/// How long leaving the embedded broker may take.
const CLOSE_WITHIN: Duration = Duration::from_secs(10);

/// What has been read back so far.
#[derive(Debug, Default)]
pub(super) struct Seen {
    pub(super) found: Found,
    /// Alerts, and events whose alerts they are.
    pub(super) alerts: Counted,
    /// Dead letters, the same.
    pub(super) dead_letters: Counted,
    /// Milliseconds from a record's birth until it was read back, newest last.
    pub(super) latencies_ms: Vec<i64>,
    /// Records read back, by topic.
    pub(super) topics: BTreeMap<String, u64>,
    /// Why reading back has stopped, if it has.
    pub(super) failed: Option<String>,
}

/// What was read back of events, counted when they are known to be handled: what an event leaves can be read before the
/// event is committed, and somebody who watches would see more alerts than events.
#[derive(Debug, Default)]
pub(super) struct Counted {
    /// By partition of the events: offsets of which nobody knows yet that they are handled.
    waiting: BTreeMap<i32, BTreeSet<i64>>,
    counted: u64,
}

impl Counted {
    /// Takes the origin of what was read back.
    fn take(&mut self, origin: &str) {
        let mut parts = origin.rsplit('/').skip(1);
        let offset = parts.next().and_then(|offset| offset.parse::<i64>().ok());
        let partition = parts.next().and_then(|partition| partition.parse::<i32>().ok());
        if let (Some(partition), Some(offset)) = (partition, offset) {
            self.waiting.entry(partition).or_default().insert(offset);
        }
    }

    /// How many there are of the events below these offsets, by partition.
    pub(super) fn below(&mut self, handled: &BTreeMap<i32, i64>) -> u64 {
        for (partition, waiting) in &mut self.waiting {
            let above = waiting.split_off(handled.get(partition).unwrap_or(&0));
            self.counted += std::mem::replace(waiting, above).len() as u64;
        }
        self.counted
    }
}

impl Seen {
    fn take(&mut self, role: Role, batch: &Batch, now_ms: i64) {
        *self.topics.entry(batch.source.topic.to_string()).or_default() += batch.len() as u64;
        if matches!(role, Role::Other | Role::Events) {
            return;
        }
        for row in 0..batch.len() {
            let header = |name: &str| {
                let found = batch.headers(row).filter(|(found, _)| *found == name).last()?.1?;
                Some(String::from_utf8_lossy(found).into_owned())
            };
            let Some(id) = header(ID_HEADER).and_then(|id| id.parse::<u64>().ok()) else {
                self.found.strange.push(format!("a record of {} has no {ID_HEADER} header", batch.source));
                continue;
            };
            match role {
                Role::Events | Role::Other => {}
                Role::DeadLetters => {
                    let code = header(CODE_HEADER).unwrap_or_else(|| "no code".into());
                    let copies = self.found.dead_letters.entry(id).or_default();
                    if let (true, Some(origin)) = (copies.is_empty(), header(ORIGIN_HEADER)) {
                        self.dead_letters.take(&origin);
                    }
                    copies.push(code);
                }
                Role::Alerts => {
                    let value = serde_json::from_slice::<Value>(batch.values.get(row).unwrap_or_default());
                    let order = value.ok().and_then(|value| Some(value.get("order_id")?.as_str()?.to_owned()));
                    let copies = self.found.alerts.entry(id).or_default();
                    if let (true, Some(origin)) = (copies.is_empty(), header(ORIGIN_HEADER)) {
                        self.alerts.take(&origin);
                    }
                    copies.push(order.unwrap_or_else(|| "no order".into()));
                }
            }
            if let Some(born) = batch.timestamp_ms(row) {
                self.latencies_ms.push(now_ms - born);
            }
        }
        if self.latencies_ms.len() > LATENCIES_MAX {
            self.latencies_ms.drain(..LATENCIES_MAX / 2);
        }
    }
}

/// Reads one topic back from its beginning, until it is closed.
pub(super) struct Tail {
    source: Arc<KafkaSource>,
    follower: JoinHandle<()>,
}

impl Tail {
    pub(super) async fn open(
        connection: &KafkaConnection,
        topic: &str,
        role: Role,
        seen: &Arc<Mutex<Seen>>,
        clock: &Arc<dyn Clock>,
    ) -> Result<Self, DemoError> {
        let settings = SourceSettings::from_beginning(&[topic], &format!("demo-reads-back-{topic}"));
        let options = SourceOptions { memory_bytes: 32 << 20, ..SourceOptions::default() };
        let source = Arc::new(KafkaSource::new(connection, &settings, options));
        let (send, events) = mpsc::channel(16);
        source.open(send).await?;
        let follower = tokio::spawn(follow(events, role, Arc::clone(seen), Arc::clone(clock)));
        Ok(Self { source, follower })
    }

    pub(super) async fn close(self) {
        self.follower.abort();
        // The task has ended, and its readers with it, when this returns.
        let _ = self.follower.await;
        self.source.close(tokio::time::Instant::now() + CLOSE_WITHIN).await;
    }
}

pub(super) fn lock(seen: &Mutex<Seen>) -> MutexGuard<'_, Seen> {
    seen.lock().unwrap_or_else(PoisonError::into_inner)
}

async fn follow(mut events: mpsc::Receiver<SourceEvent>, role: Role, seen: Arc<Mutex<Seen>>, clock: Arc<dyn Clock>) {
    let mut readers = tokio::task::JoinSet::new();
    while let Some(event) = events.recv().await {
        match event {
            SourceEvent::Assigned(assignments) => {
                for assignment in assignments {
                    assignment.begin_as_it_stands();
                    let (reader, committer) = (assignment.reader, assignment.committer);
                    readers.spawn(read(reader, committer, role, Arc::clone(&seen), Arc::clone(&clock)));
                }
            }
            SourceEvent::Revoked { done, .. } => {
                readers.shutdown().await;
                // The source may be closing already.
                let _ = done.send(());
            }
            SourceEvent::Failed(error) => lock(&seen).failed = Some(error.to_string()),
        }
    }
}

/// What was read is done, or the source would hold its memory for it and stand still.
async fn read(
    mut reader: Box<dyn Reader>,
    committer: Arc<dyn Committer>,
    role: Role,
    seen: Arc<Mutex<Seen>>,
    clock: Arc<dyn Clock>,
) {
    let limits = BatchLimits { records: 500, bytes: 1 << 20, linger: Duration::ZERO };
    loop {
        match reader.next_batch(limits).await {
            Ok(batch) => {
                lock(&seen).take(role, &batch, clock.now_ms());
                if let Some(last) = batch.offsets.last() {
                    committer.commit(Position { next: Offset(last + 1), metadata: String::new() });
                }
            }
            Err(error) => {
                lock(&seen).failed = Some(error.to_string());
                return;
            }
        }
    }
}

/// Reads the table's rows of this run.
pub(super) fn read_table(file: &Path, table: &str, run: &str, found: &mut Found) -> Result<(), DemoError> {
    for mut row in SqliteReader::open(file)?.rows(table)? {
        let Some(Value::String(order)) = row.values.remove("order_id") else {
            found.strange.push(format!("a row of {table} has no order_id"));
            continue;
        };
        // Orders of earlier runs may stand in a kept table.
        if order.contains(run) {
            found.rows.insert(order, Columns::from_iter(row.values));
        }
    }
    Ok(())
}

/// How many rows each table has.
pub(super) fn count_rows(file: &Path, tables: &BTreeSet<String>) -> Result<BTreeMap<String, u64>, DemoError> {
    let reader = SqliteReader::open(file)?;
    let counts = tables.iter().map(|table| Ok((table.clone(), reader.rows(table)?.len() as u64)));
    counts.collect()
}

/// The middle and the 99th of a hundred.
pub(super) fn percentiles(latencies: &[i64]) -> Option<(i64, i64)> {
    let mut sorted = latencies.to_vec();
    sorted.sort_unstable();
    let at = |percent: usize| sorted.get((sorted.len() * percent / 100).min(sorted.len().saturating_sub(1))).copied();
    Some((at(50)?, at(99)?))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::SystemClock;
    use crate::config::KafkaOutput;
    use crate::kafka::{EmbeddedBroker, KafkaSink};
    use crate::pipeline::Sink as _;
    use crate::record::{Column, RowMeta, RowOp, SinkBatch, TopicPartition, WriteTime};

    #[test]
    fn reads_ids_codes_and_orders_from_what_stands_in_a_topic() {
        let mut seen = Seen::default();
        let id = |id: &'static str| (ID_HEADER, Some(id.as_bytes()));
        let mut alerts = Batch::new(TopicPartition::new("alerts", 0));
        alerts.push(Offset(0), Some(40), None, Some(br#"{"order_id": "A-1"}"#), [id("7")]);
        alerts.push(Offset(1), Some(50), None, Some(b"{"), [id("7")]);
        alerts.push(Offset(2), None, None, None, []);
        seen.take(Role::Alerts, &alerts, 100);
        let mut letters = Batch::new(TopicPartition::new("dlq", 0));
        letters.push(Offset(0), Some(90), None, Some(b"x"), [id("9"), (CODE_HEADER, Some(b"bad_items"))]);
        seen.take(Role::DeadLetters, &letters, 100);
        assert_eq!(seen.found.alerts[&7], ["A-1", "no order"]);
        assert_eq!(seen.found.dead_letters[&9], ["bad_items"]);
        assert_eq!((seen.found.strange.len(), seen.latencies_ms), (1, vec![60, 50, 10]));
        assert_eq!(seen.topics, [("alerts".to_owned(), 3), ("dlq".to_owned(), 1)].into());
    }

    #[test]
    fn what_was_read_back_counts_when_its_event_is_handled_and_once() {
        let mut seen = Seen::default();
        let mut letters = Batch::new(TopicPartition::new("dlq", 0));
        for (event, origin) in
            [("7", "a/b/1/40/dead-letter"), ("9", "a/b/0/3/dead-letter"), ("7", "a/b/1/40/dead-letter")]
        {
            let headers = [(ID_HEADER, Some(event.as_bytes())), (ORIGIN_HEADER, Some(origin.as_bytes()))];
            letters.push(Offset(0), None, None, None, headers);
        }
        seen.take(Role::DeadLetters, &letters, 100);
        assert_eq!(seen.dead_letters.below(&BTreeMap::new()), 0);
        assert_eq!(seen.dead_letters.below(&[(1, 40), (0, 3)].into()), 0, "the offsets are those of the next events");
        assert_eq!(seen.dead_letters.below(&[(1, 41), (0, 3)].into()), 1);
        // The third copy is no event of its own.
        seen.take(Role::DeadLetters, &letters, 100);
        assert_eq!(seen.dead_letters.below(&[(1, 41), (0, 4)].into()), 2);
        assert_eq!(seen.alerts.below(&[(1, 41)].into()), 0);
    }

    #[test]
    fn percentiles_of_few_and_many() {
        assert_eq!(percentiles(&[]), None);
        assert_eq!(percentiles(&[4]), Some((4, 4)));
        assert_eq!(percentiles(&(0..1000).rev().collect::<Vec<_>>()), Some((500, 990)));
    }

    /// Records that take so many bytes each, for [`TOPIC`].
    fn records(count: u32, bytes: usize) -> SinkBatch {
        let (mut keys, mut values, mut headers) = (Column::default(), Column::default(), Column::default());
        let rows = (0..count).map(|number| {
            keys.push(Some(&number.to_le_bytes()));
            values.push(Some(&vec![b'x'; bytes]));
            headers.push(Some(b""));
            RowMeta {
                origin: number,
                offset: Offset(number.into()),
                timestamp_ms: 1_700_000_000_000,
                write_time: WriteTime(0),
                index: 0,
                op: RowOp::Upsert,
            }
        });
        let (rows, source) = (rows.collect(), TopicPartition::new(TOPIC, 0));
        SinkBatch { source, generation: 1, rows, keys, values, headers, cells: Vec::new() }
    }

    const TOPIC: &str = "letters";

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn more_is_read_back_than_the_source_has_memory_for() {
        let broker = EmbeddedBroker::start(&[(TOPIC, 1)]).expect("it starts");
        let output = KafkaOutput { topic: TOPIC.to_owned(), partitioner: String::new(), properties: BTreeMap::new() };
        let sink = KafkaSink::open(&broker.connection(), &output).await.expect("it opens");
        let (seen, clock) = (Arc::<Mutex<Seen>>::default(), Arc::new(SystemClock) as Arc<dyn Clock>);
        let tail = Tail::open(&broker.connection(), TOPIC, Role::Other, &seen, &clock).await.expect("it opens");
        // No more at once than the broker keeps.
        for round in 1..=20 {
            assert!(sink.write(records(30, 100_000)).await.await.failures.is_empty());
            let began = tokio::time::Instant::now();
            while lock(&seen).topics.get(TOPIC).is_none_or(|read| *read < round * 30) {
                assert!(began.elapsed() < Duration::from_secs(30), "it stands still: {:?}", lock(&seen));
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        }
        tail.close().await;
    }
}
