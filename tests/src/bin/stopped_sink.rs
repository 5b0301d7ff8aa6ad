//! Reads a topic as a pipeline whose sink stands still, and says how much memory that took.
//!
//! Arguments: brokers, topic, memory budget in bytes, records in the topic, how many partitions are held. Of those every
//! batch is held, and a copy of it as a sink would, until nothing comes any more; the others read on meanwhile. Then lets
//! the sink go and reads all the rest. Prints one line of JSON for each of the two.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use pelton::config::{KafkaConnection, SourceSettings};
use pelton::kafka::{KafkaSource, SourceOptions};
use pelton::pipeline::{Assignment, BatchLimits, Position, Source, SourceEvent};
use pelton::record::{Batch, Offset};
use tokio::sync::{mpsc, watch};
use tokio::time::Instant;

type Failure = Box<dyn std::error::Error + Send + Sync>;

/// What all readers have seen.
#[derive(Default)]
struct Seen {
    records: Mutex<BTreeSet<(i32, i64)>>,
    last: Mutex<Option<Instant>>,
}

impl Seen {
    fn count(&self) -> usize {
        self.records.lock().map(|records| records.len()).unwrap_or(0)
    }

    /// Of the partitions below `held`.
    fn count_held(&self, held: i32) -> usize {
        self.records.lock().map(|records| records.range(..(held, 0)).count()).unwrap_or(0)
    }

    fn quiet_for(&self) -> Duration {
        let last = self.last.lock().map(|last| *last).unwrap_or_default();
        last.map_or(Duration::ZERO, |last| last.elapsed())
    }
}

#[tokio::main(worker_threads = 2)]
async fn main() -> Result<(), Failure> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [brokers, topic, memory_bytes, total, held] = arguments.as_slice() else {
        return Err("brokers, topic, memory budget, records, held partitions".into());
    };
    let (memory_bytes, total, held): (usize, usize, i32) = (memory_bytes.parse()?, total.parse()?, held.parse()?);
    let connection = KafkaConnection { brokers: brokers.clone(), properties: std::collections::BTreeMap::new() };
    let settings = SourceSettings::from_beginning(&[topic], topic);
    let source = KafkaSource::new(&connection, &settings, SourceOptions { memory_bytes, ..SourceOptions::default() });
    let (events, mut received) = mpsc::channel(16);
    source.open(events).await?;
    let seen = Arc::new(Seen::default());
    let (sink, sink_works) = watch::channel(false);
    let (_other_sink, other_works) = watch::channel(true);
    let supervisor = tokio::spawn({
        let seen = Arc::clone(&seen);
        async move {
            let mut tasks = tokio::task::JoinSet::new();
            while let Some(event) = received.recv().await {
                match event {
                    SourceEvent::Assigned(assignments) => {
                        for assignment in assignments {
                            let works = if assignment.partition.partition < held { &sink_works } else { &other_works };
                            tasks.spawn(read(assignment, Arc::clone(&seen), works.clone()));
                        }
                    }
                    SourceEvent::Revoked { .. } | SourceEvent::Failed(_) => return,
                }
            }
        }
    });

    let limit = Instant::now() + Duration::from_secs(120);
    while seen.quiet_for() < Duration::from_secs(4) && Instant::now() < limit {
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    report("stopped", &seen, held)?;
    sink.send(true)?;
    while seen.count() < total && Instant::now() < limit {
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    report("running", &seen, held)?;
    supervisor.abort();
    Ok(())
}

/// A task with a sink that holds what it was given until it works.
async fn read(mut assignment: Assignment, seen: Arc<Seen>, mut sink_works: watch::Receiver<bool>) {
    const UNDER_WAY_MAX: usize = 8;
    let limits = BatchLimits { records: 1024, bytes: 1 << 20, linger: Duration::from_millis(5) };
    let mut held: Vec<(Batch, Batch)> = Vec::new();
    assignment.begin_as_it_stands();
    loop {
        if held.len() == UNDER_WAY_MAX || *sink_works.borrow() {
            if sink_works.wait_for(|works| *works).await.is_err() {
                return;
            }
            if let Some((last, _)) = held.last() {
                let next = Offset(last.offsets.last().map_or(0, |last| last + 1));
                held.clear();
                assignment.committer.commit(Position { next, metadata: String::new() });
            }
        }
        let batch = tokio::select! {
            batch = assignment.reader.next_batch(limits) => batch,
            works = sink_works.changed(), if !held.is_empty() && !*sink_works.borrow() => match works {
                Ok(()) => continue,
                Err(_) => return,
            },
        };
        let Ok(batch) = batch else { return };
        if let (Ok(mut records), Ok(mut last)) = (seen.records.lock(), seen.last.lock()) {
            records.extend(batch.offsets.iter().map(|offset| (assignment.partition.partition, *offset)));
            *last = Some(Instant::now());
        }
        held.push((batch.clone(), batch));
    }
}

#[expect(clippy::print_stdout, reason = "the test reads it")]
fn report(phase: &str, seen: &Seen, held: i32) -> Result<(), Failure> {
    let status = std::fs::read_to_string("/proc/self/status")?;
    let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:")?.trim().strip_suffix(" kB"));
    let peak_bytes = peak.ok_or("no VmHWM")?.trim().parse::<usize>()? * 1024;
    let (records, held) = (seen.count(), seen.count_held(held));
    println!("{}", serde_json::json!({ "phase": phase, "records": records, "held": held, "peak_bytes": peak_bytes }));
    Ok(())
}
