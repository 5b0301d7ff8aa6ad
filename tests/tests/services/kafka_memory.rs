//! The memory of a source stays within its budget, whatever the broker has for it.

use std::process::{Command, Stdio};

use rdkafka::producer::FutureRecord;

use std::time::Duration;

use super::cassandra_support::{Proxy, with_keyspace};
use super::kafka_support::*;
use super::line_support::Daemon;

const PARTITIONS: usize = 64;
const RECORDS_EACH: usize = 2;
const RECORD_BYTES: usize = 10 << 20;
const BUDGET_BYTES: usize = 256 << 20;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn large_records_of_many_partitions_stay_within_the_budget_while_the_sink_stands_still() {
    let topic = Topic::with("memory", PARTITIONS as i32, &[("max.message.bytes", "11000000")]).await;
    let total = PARTITIONS * RECORDS_EACH;
    let producer = producer();
    let payload = vec![b'x'; RECORD_BYTES];
    for number in 0..total {
        let partition = (number % PARTITIONS) as i32;
        let record = FutureRecord::<str, _>::to(&topic.name).partition(partition).payload(&payload);
        producer.send(record, std::time::Duration::from_secs(30)).await.unwrap();
    }
    drop((producer, payload));

    let arguments = [brokers(), topic.name.clone(), BUDGET_BYTES.to_string(), total.to_string()];
    let output = tokio::task::spawn_blocking(move || {
        Command::new(env!("CARGO_BIN_EXE_stopped_sink")).args(arguments).stderr(Stdio::inherit()).output().unwrap()
    })
    .await
    .unwrap();
    assert!(output.status.success(), "{output:?}");
    let reports: Vec<serde_json::Value> =
        String::from_utf8(output.stdout).unwrap().lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let number = |report: &serde_json::Value, key: &str| report[key].as_u64().unwrap() as usize;
    let [stopped, running] = reports.as_slice() else { panic!("{reports:?}") };
    assert!(number(stopped, "records") > 0, "something is read before the sink is waited for: {reports:?}");
    assert!(number(stopped, "records") < total, "not all is read: {reports:?}");
    assert_eq!(number(running, "records"), total, "all is read once the sink works: {reports:?}");
    for report in &reports {
        assert!(number(report, "peak_bytes") <= BUDGET_BYTES / 4 * 5, "within the budget and a quarter: {reports:?}");
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
        let proxy = Proxy::start().await;
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
