//! A topic deleted and made anew while no daemon runs. The broker drops a group's offsets with their topic, so nothing
//! but the pipeline's journal tells that it is another one.

use std::path::Path;
use std::time::{Duration, UNIX_EPOCH};

use pelton_tests::process::{Process, get, metric, until};

use crate::cassandra_support::{address, with_keyspace};
use crate::kafka_support::{Topic, wait_for};
use crate::line_support::{COLUMNS, Producing, Wiring, order, positions, project, stored};

const PARTITIONS: i32 = 2;
const TOLD: &str = "records are gone before they were read";

/// Orders in each partition, with keys of their own.
async fn produced(topic: &str, about: &'static str, count: i64) {
    let topic = topic.to_owned();
    let producing = move || {
        #[expect(clippy::disallowed_methods, reason = "a test's producer is a wall-clock writer")]
        let now_ms = std::time::SystemTime::now().duration_since(UNIX_EPOCH).expect("after 1970").as_millis() as i64;
        let producing = Producing::to(&topic);
        for number in 0..count {
            let key = format!("{about}{number}");
            producing.send((number % i64::from(PARTITIONS)) as i32, &key, &order(&key, number, now_ms), now_ms);
        }
        producing.finish();
    };
    tokio::task::spawn_blocking(producing).await.expect("the producer");
}

async fn until_all_is_committed(topic: &str, daemon: &mut Process) {
    until("all is committed", || {
        daemon.assert_alive();
        positions(topic, topic, PARTITIONS).iter().all(|(committed, end)| committed == end && *end > 0).then_some(())
    })
    .await;
}

/// Changes the pipeline's `start:`, and adds what it says of lost records.
fn configure(dir: &Path, source: &str) {
    let file = dir.join("pipelines/orders.yaml");
    let text = std::fs::read_to_string(&file).expect("the pipeline");
    std::fs::write(&file, text.replace("start: earliest", source)).expect("a file");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_topic_made_anew_while_no_daemon_runs_stops_its_pipeline_by_name_or_is_read_from_its_beginning() {
    with_keyspace(|keyspace| async move {
        let topic = Topic::new("anew", PARTITIONS).await;
        keyspace.cql(&format!("CREATE TABLE KS.live ({COLUMNS})")).await;
        let (live, cassandra) = (format!("{}.live", keyspace.name), address());
        let (group, drain) = (topic.name.as_str(), "20 s");
        let letters = Topic::new("anew-dlq", 1).await;
        let dead_letters = letters.name.as_str();
        let wiring = Wiring { topic: &topic.name, group, table: &live, dead_letters, cassandra: &cassandra, drain };
        let dir = project(&wiring);
        // Two lives: the second says in the journal from where it went on.
        for life in ["first", "second"] {
            produced(&topic.name, "old", 60).await;
            let mut daemon = Process::daemon(dir.path(), life);
            until_all_is_committed(&topic.name, &mut daemon).await;
            assert!(daemon.terminate().await.success(), "{}", daemon.output());
            assert!(!daemon.output().contains(TOLD), "{}", daemon.output());
        }

        topic.make_anew(PARTITIONS).await;
        wait_for("the group's offsets went with the topic", Duration::from_secs(60), || {
            positions(group, &topic.name, PARTITIONS).iter().all(|(committed, _)| *committed == 0).then_some(())
        })
        .await;
        produced(&topic.name, "new", 400).await;

        let mut daemon = Process::daemon(dir.path(), "stops");
        let admin = daemon.admin().await;
        let status =
            until("it stops", || get(admin, "/status").map(|(_, body)| body).filter(|b| b.contains("stopped"))).await;
        for part in
            ["records 30 to 30 are gone", "the topic was made anew", "read up to 30 at least", "on_lost: continue"]
        {
            assert!(status.contains(part), "{part:?} is not in: {status}\n{}", daemon.output());
        }
        assert!(daemon.terminate().await.success(), "{}", daemon.output());
        assert!(positions(group, &topic.name, PARTITIONS).iter().all(|(committed, _)| *committed == 0));
        assert!(!stored(&keyspace, &live).await.keys().any(|key| key.starts_with("new")), "nothing of it was read");

        // What is lost is not made more by a start at the end.
        configure(dir.path(), "start: latest, on_lost: continue");
        let mut daemon = Process::daemon(dir.path(), "goes-on");
        let admin = daemon.admin().await;
        // The end is committed for a moment: the start that is kept.
        until("it is told", || (daemon.output().matches(TOLD).count() == PARTITIONS as usize).then_some(())).await;
        let is_new = |key: &String| key.starts_with("new");
        while stored(&keyspace, &live).await.keys().filter(|key| is_new(key)).count() < 400 {
            daemon.assert_alive();
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        until_all_is_committed(&topic.name, &mut daemon).await;
        assert_eq!(daemon.output().matches(TOLD).count(), PARTITIONS as usize, "{}", daemon.output());
        let metrics = get(admin, "/metrics").expect("metrics").1;
        let lost = metric(&metrics, "pelton_lost_records_total", &[("pipeline", "orders"), ("topic", group)]);
        assert_eq!(lost, Some(0.0), "nobody knows how many: {metrics}");
        assert!(daemon.terminate().await.success(), "{}", daemon.output());

        let mut daemon = Process::daemon(dir.path(), "later");
        produced(&topic.name, "later", 10).await;
        until_all_is_committed(&topic.name, &mut daemon).await;
        assert!(daemon.terminate().await.success(), "{}", daemon.output());
        assert!(!daemon.output().contains(TOLD), "told once: {}", daemon.output());
        topic.delete().await;
        letters.delete().await;
    })
    .await;
}
