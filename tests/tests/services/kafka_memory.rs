//! The memory of a source stays within its budget, whatever the broker has for it.

use std::process::{Command, Stdio};

use rdkafka::producer::FutureRecord;

use super::kafka_support::*;

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
