//! The memory of a source stays within its budget, whatever the broker has for it.

use std::process::{Command, Stdio};
use std::time::Duration;

use rdkafka::producer::FutureRecord;

use super::cassandra_support::{proxy, with_keyspace};
use super::kafka_support::*;
use super::line_support::Daemon;

const PARTITIONS: usize = 64;
const RECORDS_EACH: usize = 2;
const RECORD_BYTES: usize = 10 << 20;
const BUDGET_BYTES: usize = 256 << 20;

/// A topic with so many large records in each of its partitions.
async fn large_records(about: &str, partitions: usize, records_each: usize) -> Topic {
    let topic = Topic::with(about, partitions as i32, &[("max.message.bytes", "11000000")]).await;
    let producer = producer();
    let payload = vec![b'x'; RECORD_BYTES];
    for number in 0..partitions * records_each {
        let partition = (number % partitions) as i32;
        let record = FutureRecord::<str, _>::to(&topic.name).partition(partition).payload(&payload);
        producer.send(record, Duration::from_secs(30)).await.unwrap();
    }
    topic
}

/// What a process says that reads a topic, and holds what it gets of some partitions; until nothing came any more, and
/// in the end.
async fn read_and_hold(topic: &Topic, budget_bytes: usize, total: usize, held: usize) -> [Report; 2] {
    reports(env!("CARGO_BIN_EXE_stopped_sink"), topic, [budget_bytes, total, held]).await
}

async fn reports(program: &'static str, topic: &Topic, numbers: [usize; 3]) -> [Report; 2] {
    let (brokers, topic) = (brokers(), topic.name.clone());
    let output = tokio::task::spawn_blocking(move || {
        let mut command = Command::new(program);
        command.args([brokers, topic]).args(numbers.map(|number| number.to_string()));
        command.stderr(Stdio::inherit()).output().unwrap()
    })
    .await
    .unwrap();
    assert!(output.status.success(), "{output:?}");
    let reports: Vec<Report> =
        String::from_utf8(output.stdout).unwrap().lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    reports.try_into().unwrap()
}

#[derive(Debug, serde::Deserialize)]
struct Report {
    records: usize,
    #[serde(default)]
    held: usize,
    peak_bytes: usize,
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn large_records_of_many_partitions_stay_within_the_budget_while_the_sink_stands_still() {
    let total = PARTITIONS * RECORDS_EACH;
    let topic = large_records("memory", PARTITIONS, RECORDS_EACH).await;
    let [stopped, running] = read_and_hold(&topic, BUDGET_BYTES, total, PARTITIONS).await;
    assert!(stopped.records > 0, "something is read before the sink is waited for: {stopped:?}");
    assert!(stopped.records < total, "not all is read: {stopped:?}");
    assert_eq!(running.records, total, "all is read once the sink works");
    for report in [stopped, running] {
        assert!(report.peak_bytes <= BUDGET_BYTES / 4 * 5, "within the budget and a quarter: {report:?}");
    }
}

/// More are held than fit into the half of the budget that is for batches, and beyond it one at a time.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn partitions_that_are_held_keep_no_other_from_reading() {
    let (partitions, held, each) = (12, 4, 3);
    let topic = large_records("memory-held", partitions, each).await;
    let [stopped, running] = read_and_hold(&topic, BUDGET_BYTES, partitions * each, held).await;
    assert!(stopped.held > 0 && stopped.held < held * each, "some of what is held was read: {stopped:?}");
    assert_eq!(stopped.records - stopped.held, (partitions - held) * each, "all of the others was read: {stopped:?}");
    assert_eq!(running.records, partitions * each, "and the rest once the sink works");
    for report in [stopped, running] {
        assert!(report.peak_bytes <= BUDGET_BYTES / 4 * 5, "within the budget and a quarter: {report:?}");
    }
}

/// Eight batches of each partition could be on their way, of 2 MiB that were made of almost nothing: a gibibyte.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rows_that_are_larger_than_their_records_stay_within_their_room_while_the_sink_stands_still() {
    const MADE_BYTES: usize = 256 << 10;
    const BUDGET_BYTES: usize = 64 << 20;
    const ROOM_BYTES: usize = 32 << 20;
    /// Two threads make a batch each, and each batch is there twice while it is made.
    const MAKING_BYTES: usize = 2 * 2 * (2 << 20);
    let (each, total) = (64, 64 * PARTITIONS);
    let topic = Topic::new("memory-made", PARTITIONS as i32).await;
    for partition in 0..PARTITIONS {
        topic.fill(partition as i32, 0, each).await;
    }
    let program = env!("CARGO_BIN_EXE_stopped_line");
    let [stopped, running] = reports(program, &topic, [BUDGET_BYTES, total, MADE_BYTES]).await;
    let held_bytes = stopped.records * MADE_BYTES;
    assert!((ROOM_BYTES / 2..=ROOM_BYTES).contains(&held_bytes), "the sink has what finds room: {stopped:?}");
    assert_eq!(running.records, total, "all is written once the sink works");
    for report in [stopped, running] {
        let bound = BUDGET_BYTES / 4 * 5 + ROOM_BYTES + MAKING_BYTES;
        assert!(report.peak_bytes <= bound, "within the budget, a quarter and the room: {report:?}");
    }
}

fn project(topic: &str, table: &str, cassandra: &str) -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    let settings = format!(
        "kafka:\n  brokers: {}\n  properties: {{ session.timeout.ms: \"6000\", heartbeat.interval.ms: \"500\" }}\n\
         cassandra:\n  contact_points: [\"{cassandra}\"]\nadmin: {{ listen: 127.0.0.1:0 }}\n\
         memory: {} MiB\ndrain: 1 s\n",
        brokers(),
        BUDGET_BYTES >> 20,
    );
    let pipeline = format!(
        "source:\n  kafka: {{ topics: [{topic}], group: {topic}, start: earliest }}\n  format: json\nsteps: []\n\
         outputs:\n  default:\n    cassandra: {{ table: {table} }}\ndead_letters: {{ file: letters.jsonl }}\n"
    );
    std::fs::create_dir(dir.path().join("pipelines")).unwrap();
    std::fs::write(dir.path().join("pelton.yaml"), settings).unwrap();
    std::fs::write(dir.path().join("pipelines/large.yaml"), pipeline).unwrap();
    dir
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_whole_daemon_stays_within_its_budget_while_the_table_stands_still() {
    with_keyspace(|keyspace| async move {
        let topic = Topic::with("memory-daemon", PARTITIONS as i32, &[("max.message.bytes", "11000000")]).await;
        keyspace.cql("CREATE TABLE KS.large (id text PRIMARY KEY, body text)").await;
        let proxy = proxy().await;
        let dir = project(&topic.name, &format!("{}.large", keyspace.name), &proxy.address);
        let mut daemon = Daemon::start(dir.path(), "large");
        wait_for("all partitions are assigned", Duration::from_secs(60), || {
            daemon.assert_alive();
            (daemon.log().matches("assigned pipeline=large").count() == PARTITIONS).then_some(())
        })
        .await;
        let (idle, _) = daemon.memory_bytes();
        proxy.stall();

        let producer = producer();
        for number in 0..PARTITIONS * RECORDS_EACH {
            let payload = format!(r#"{{"id":"r{number}","body":"{}"}}"#, "x".repeat(RECORD_BYTES - 100));
            let partition = (number % PARTITIONS) as i32;
            let record = FutureRecord::<str, _>::to(&topic.name).partition(partition).payload(&payload);
            producer.send(record, Duration::from_secs(30)).await.unwrap();
        }
        drop(producer);
        // Until it takes no more: the most that it used has not risen for a while.
        let (mut peak, mut since) = (0, tokio::time::Instant::now());
        wait_for("it takes no more", Duration::from_secs(120), || {
            daemon.assert_alive();
            let (_, now) = daemon.memory_bytes();
            if now > peak {
                (peak, since) = (now, tokio::time::Instant::now());
            }
            (since.elapsed() > Duration::from_secs(8)).then_some(())
        })
        .await;
        assert!(peak > idle + RECORD_BYTES, "something is read before the table is waited for");
        assert!(
            peak <= BUDGET_BYTES / 4 * 5,
            "the whole process within the budget and a quarter: {} MiB, {} MiB of it when idle",
            peak >> 20,
            idle >> 20
        );
        daemon.kill();
        topic.delete().await;
    })
    .await;
}
