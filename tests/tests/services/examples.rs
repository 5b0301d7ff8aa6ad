//! The projects of `examples`, run as their README tells: topics and tables made, checked, run, filled with Kafka's own
//! console tools, from Python and from Rust, and looked at. Only names are changed, so that nobody's `shop.orders` is touched.
//!
//! Kafka's tools stand on the path under the names that the papers use. `cqlsh` is played by the test, as it is not on
//! every machine; so is `kafka-topics.sh` in all examples but one, as each call starts a Java process.

use std::collections::{BTreeMap, BTreeSet};
use std::io::Write as _;
use std::path::Path;
use std::process::{Command, Output};

use pelton_tests::papers::{Block, blocks};
use pelton_tests::process::{Process, free_port, get, program, repository, until};
use scylla::client::session::Session;
use scylla::client::session_builder::SessionBuilder;
use serde_json::Value;
use tempfile::TempDir;

use crate::cassandra_support::address;
use crate::kafka_sink::read_all;
use crate::kafka_support::{Topic, brokers};
use crate::line_support::{Producing, positions};

/// An example under names of its own.
struct Example {
    name: &'static str,
    /// What stands before the dot in its topics and tables.
    space: &'static str,
    unique: String,
    root: TempDir,
    admin: u16,
    session: Session,
    topics: Vec<Topic>,
    daemon: Option<Process>,
    java_topics: bool,
    /// What commands that look have found.
    looked: Vec<String>,
}

impl Example {
    async fn new(name: &'static str, space: &'static str, java_topics: bool) -> Self {
        let session = SessionBuilder::new().known_node(address()).build().await.expect("Cassandra: `make services`");
        let unique = format!("{space}_{}", uuid::Uuid::new_v4().simple());
        let root = tempfile::tempdir().expect("a directory");
        let example = Self {
            name,
            space,
            unique,
            root,
            admin: free_port(),
            session,
            topics: Vec::new(),
            daemon: None,
            java_topics,
            looked: Vec::new(),
        };
        example.copy(&repository().join("examples").join(name), &example.root.path().join("examples").join(name));
        std::os::unix::fs::symlink(repository().join("plugins"), example.root.path().join("plugins")).expect("a link");
        example
    }

    /// Its names become the test's own.
    fn renamed(&self, text: &str) -> String {
        let (space, unique) = (self.space, &self.unique);
        text.replace(&format!("{space}."), &format!("{unique}."))
            .replace(&format!("EXISTS {space}\n"), &format!("EXISTS {unique}\n"))
            .replace("127.0.0.1:9092", &brokers())
    }

    fn copy(&self, from: &Path, to: &Path) {
        std::fs::create_dir_all(to).expect("a fresh directory");
        for entry in std::fs::read_dir(from).expect("a directory").map(|entry| entry.expect("an entry")) {
            let to = to.join(entry.file_name());
            if entry.file_type().expect("a type").is_dir() {
                if entry.file_name() != ".pelton" {
                    self.copy(&entry.path(), &to);
                }
                continue;
            }
            let mut text = self.renamed(&std::fs::read_to_string(entry.path()).expect("text"));
            if to.parent().is_some_and(|parent| parent.ends_with("pipelines")) {
                // The group is the pipeline's name, and the services are everybody's.
                let group = format!("kafka: {{ group: {}-{}, ", self.unique, to.file_stem().expect("a name").display());
                text = text.replacen("kafka: { ", &group, 1);
                assert!(text.contains(&group), "{}", to.display());
            }
            std::fs::write(to, text).expect("a fresh file");
        }
    }

    fn shell(&self, command: &str) -> Command {
        let path = std::env::var("PATH").unwrap_or_default();
        let (pelton, tools) = (program("pelton"), repository().join("tests/harness/bin"));
        let bin = pelton.parent().expect("a directory").display();
        let mut shell = Command::new("bash");
        shell
            .args(["-euo", "pipefail", "-c", command])
            .current_dir(self.root.path())
            .env("PATH", format!("{}:{bin}:{path}", tools.display()))
            .env("PELTON_KAFKA", brokers())
            .env("PELTON_CASSANDRA", address())
            .env("PELTON_ADMIN", format!("127.0.0.1:{}", self.admin));
        shell
    }

    async fn ran(&self, command: &str) -> Output {
        let mut shell = self.shell(command);
        tokio::task::spawn_blocking(move || shell.output()).await.expect("a thread").expect("bash runs")
    }

    /// Runs a command, which must succeed.
    async fn run(&self, command: &str) -> String {
        let ran = self.ran(command).await;
        let said = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        assert!(ran.status.success(), "{command}\n{}\n{}", said(&ran.stdout), said(&ran.stderr));
        said(&ran.stdout)
    }

    /// Runs its README from top to bottom.
    async fn follow_readme(&mut self) {
        let readme = std::fs::read_to_string(repository().join("examples").join(self.name).join("README.md"));
        let paper = self.renamed(&readme.expect("every example has a README"));
        let commands: Vec<String> =
            blocks(&paper).iter().filter(|block| block.is_shell()).flat_map(Block::commands).collect();
        assert!(commands.len() >= 6, "{commands:?}");
        for command in commands {
            self.follow(&command).await;
        }
    }

    async fn follow(&mut self, command: &str) {
        let words: Vec<&str> = command.split_whitespace().collect();
        let after = |flag: &str| words.iter().position(|word| *word == flag).map(|at| words[at + 1]);
        match words.as_slice() {
            ["kafka-topics.sh", ..] => {
                let name = after("--topic").expect("a topic").to_owned();
                if self.java_topics {
                    self.topics.push(Topic { name });
                    self.run(command).await;
                } else {
                    let topic = Topic { name };
                    let settings: Vec<_> =
                        after("--config").and_then(|pair| pair.split_once('=')).into_iter().collect();
                    topic.create(after("--partitions").expect("a number").parse().expect("a number"), &settings).await;
                    self.topics.push(topic);
                }
            }
            ["cqlsh", "127.0.0.1", "-f", file] => {
                let text = std::fs::read_to_string(self.root.path().join(file)).expect("a schema");
                for statement in text.split(';').map(str::trim).filter(|statement| !statement.is_empty()) {
                    self.session.query_unpaged(statement, ()).await.expect("a schema");
                }
            }
            ["cqlsh", "127.0.0.1", "-e", ..] => {
                let (_, query) = command.split_once(" -e ").expect("matched above");
                let row = self.until_rows(query.trim_matches('"'), 1).await.remove(0);
                self.looked.push(row.to_string());
            }
            ["pelton", "run", ..] => {
                let log = self.root.path().join("daemon.log");
                let mut daemon = Process::start(&mut self.shell(&format!("exec {command}")), &log);
                daemon.admin().await;
                self.daemon = Some(daemon);
            }
            ["kafka-console-consumer.sh", ..] => {
                // It reads until somebody stops it.
                let shown = self.root.path().join("shown");
                let consumer = Process::start(&mut self.shell(&format!("exec {command}")), &shown);
                self.looked
                    .push(until("a record is shown", || Some(consumer.output()).filter(|o| o.contains("hello"))).await);
            }
            _ => {
                let command = command.replace("/var/log/nginx/access.log", "access.log");
                self.run(&command).await;
            }
        }
    }

    /// What a query gives, when it gives so many rows: columns by name.
    async fn until_rows(&self, select: &str, count: usize) -> Vec<Value> {
        let select = select.replacen("SELECT", "SELECT JSON", 1);
        for _ in 0..600 {
            let answer = self.session.query_unpaged(select.as_str(), ()).await.expect("an answer");
            let answer = answer.into_rows_result().expect("rows");
            let rows: Vec<Value> = answer
                .rows::<(String,)>()
                .expect("one text a row")
                .map(|row| serde_json::from_str(&row.expect("a row").0).expect("JSON"))
                .collect();
            if rows.len() >= count {
                return rows;
            }
            tokio::time::sleep(std::time::Duration::from_millis(100)).await;
        }
        panic!(
            "no {count} rows within a minute: {select}\n{}",
            self.daemon.as_ref().map(Process::output).unwrap_or_default()
        );
    }

    /// Waits until a pipeline has committed the end of a topic.
    async fn until_committed(&mut self, pipeline: &str, topic: &str, partitions: i32) {
        let (group, topic) = (format!("{}-{pipeline}", self.unique), format!("{}.{topic}", self.unique));
        let daemon = self.daemon.as_mut().expect("it runs");
        until("all is committed", || {
            daemon.assert_alive();
            let all = positions(&group, &topic, partitions);
            (all.iter().all(|(committed, end)| committed == end) && all.iter().any(|(_, end)| *end > 0)).then_some(())
        })
        .await;
    }

    /// The values of a topic with one partition, when there are so many.
    async fn values(&self, topic: &str, count: usize) -> Vec<Value> {
        use rdkafka::Message as _;
        let messages = read_all(&format!("{}.{topic}", self.unique), 1, count).await;
        let end = positions("none", &format!("{}.{topic}", self.unique), 1)[0].1;
        assert_eq!(end, count as i64, "{topic}");
        messages.iter().map(|m| serde_json::from_slice(m.payload().expect("a value")).unwrap_or(Value::Null)).collect()
    }

    /// Ends the daemon and takes everything away.
    async fn finish(mut self) {
        let mut daemon = self.daemon.take().expect("it runs");
        assert!(daemon.terminate().await.success(), "{}", daemon.output());
        for topic in &self.topics {
            topic.delete().await;
        }
    }
}

impl Drop for Example {
    fn drop(&mut self) {
        self.daemon = None;
        let unique = self.unique.clone();
        // A runtime of its own: the test's may be ending.
        let dropping = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
            runtime.block_on(async {
                if let Ok(session) = SessionBuilder::new().known_node(address()).build().await {
                    let _ = session.query_unpaged(format!("DROP KEYSPACE IF EXISTS {unique}"), ()).await;
                }
            });
        });
        let _ = dropping.join();
    }
}

/// A created order of one item.
fn created(id: &str, cents: i64, now_ms: i64) -> String {
    format!(
        r#"{{"order_id":"{id}","kind":"created","ts":{now_ms},"customer":{{"id":"c-2","country":"SE"}},"currency":"EUR","amount_cents":{cents},"items":[{{"sku":"T","name":"Grüner Tee","quantity":1,"price_cents":{cents}}}]}}"#
    )
}

fn event(id: &str, kind: &str, now_ms: i64) -> String {
    format!(r#"{{"order_id":"{id}","kind":"{kind}","ts":{now_ms}}}"#)
}

#[tokio::test(flavor = "multi_thread")]
async fn the_shop_runs_as_its_readme_tells() {
    let mut shop = Example::new("shop", "shop", true).await;
    shop.follow_readme().await;
    assert!(shop.looked[0].contains("\"A-1\"") && shop.looked[0].contains("7116"), "{:?}", shop.looked);

    // A file of events through the console producer, then more by another client.
    let now_ms = std::time::UNIX_EPOCH.elapsed().expect("after 1970").as_millis() as i64;
    let mut file = std::fs::File::create(shop.root.path().join("events.txt")).expect("a file");
    for (id, event) in [
        ("B-1", created("B-1", 100_000, now_ms)),
        ("B-2", created("B-2", 900_000, now_ms)),
        ("B-1", event("B-1", "paid", now_ms + 1)),
        ("B-3", "{\"order_id\":".to_owned()),
        ("B-4", created("B-4", -5, now_ms)),
    ] {
        writeln!(file, "{id}|{event}").expect("written");
    }
    let topic = format!("{}.orders", shop.unique);
    let produce = format!(
        "kafka-console-producer.sh --bootstrap-server {} --topic {topic} --reader-property parse.key=true \
         --reader-property key.separator='|' < events.txt",
        brokers()
    );
    shop.run(&produce).await;
    shop.until_committed("orders", "orders", 4).await;
    let producing = Producing::to(&topic);
    // By the partitioner of this client B-1 may stand elsewhere: another order.
    for (id, event) in [("C-1", created("C-1", 600_000, now_ms)), ("C-1", event("C-1", "shipped", now_ms + 2))] {
        producing.send(3, id, &event, now_ms);
    }
    producing.finish();
    shop.until_committed("orders", "orders", 4).await;

    let rows = shop.until_rows(&format!("SELECT order_id, status, total_cents FROM {topic}"), 5).await;
    let rows: BTreeMap<&str, (&str, i64)> = rows
        .iter()
        .map(|row| {
            let text = |name: &str| row[name].as_str().expect("a text");
            (text("order_id"), (text("status"), row["total_cents"].as_i64().expect("a number")))
        })
        .collect();
    let wanted = BTreeMap::from([
        ("A-1", ("created", 7_116)),
        ("A-2", ("paid", 3_558)),
        ("B-1", ("paid", 119_000)),
        ("B-2", ("created", 1_071_000)),
        ("C-1", ("shipped", 714_000)),
    ]);
    assert_eq!(rows, wanted);
    let mut alerts: Vec<Value> = shop.values("alerts", 2).await.iter().map(|alert| alert["order_id"].clone()).collect();
    alerts.sort_by_key(Value::to_string);
    assert_eq!(alerts, ["B-2", "C-1"], "above 5,000 EUR");
    assert_eq!(shop.values("orders.dlq", 2).await.len(), 2);

    what_the_readme_asks_a_running_daemon(&shop).await;
    shop.finish().await;
}

/// Status, pause and resume, as the README at the top of the repository tells.
async fn what_the_readme_asks_a_running_daemon(shop: &Example) {
    let paper = std::fs::read_to_string(repository().join("README.md")).expect("a README");
    let mut told = BTreeSet::new();
    let asked: Vec<String> = blocks(&paper)
        .iter()
        .filter(|block| block.is_shell())
        .flat_map(Block::commands)
        .filter(|command| {
            ["pelton status ", "pelton pause ", "pelton resume "].iter().any(|verb| command.starts_with(verb))
        })
        .filter(|command| told.insert(command.clone()))
        .collect();
    assert_eq!(asked.len(), 3, "{asked:?}");
    for command in asked {
        let said = shop.run(&command).await;
        assert!(said.contains("orders"), "{command}: {said}");
        let paused = command.starts_with("pelton pause");
        until(&command, || {
            let (_, state) = get(([127, 0, 0, 1], shop.admin).into(), "/status")?;
            (state.contains("\"paused\"") == paused).then_some(())
        })
        .await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn logs_run_as_their_readme_tells() {
    let mut logs = Example::new("logs", "web", false).await;
    let line = |path: &str| {
        format!("203.0.113.7 - - [22/Nov/2026:10:00:00 +0000] \"GET {path} HTTP/1.1\" 200 512 \"-\" \"curl/8\"\n")
    };
    let lines = [line("/tea"), line("/../../etc/passwd"), "no log line\n".to_owned()].concat();
    std::fs::write(logs.root.path().join("access.log"), lines).expect("a file");
    logs.follow_readme().await;
    logs.until_committed("access-logs", "access-logs", 4).await;
    let rows = logs.until_rows(&format!("SELECT path, status FROM {}.requests", logs.unique), 2).await;
    assert!(rows.iter().any(|row| row["path"] == "/tea" && row["status"] == 200), "{rows:?}");
    assert_eq!(logs.values("anomalies", 1).await.len(), 1, "a path that climbs");
    assert_eq!(logs.values("access-logs.dlq", 1).await.len(), 1, "a line that is none");
    logs.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn sensors_run_as_their_readme_tells() {
    let mut sensors = Example::new("sensors", "sensors", false).await;
    sensors.follow_readme().await;
    assert!(sensors.looked[0].contains("21.5"), "70.7 °F in °C: {:?}", sensors.looked);
    sensors.until_committed("readings", "readings", 4).await;
    sensors.values("quarantine", 0).await;
    sensors.values("readings.dlq", 0).await;
    sensors.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn copies_run_as_their_readme_tells() {
    let mut copy = Example::new("copy", "copy", false).await;
    copy.follow_readme().await;
    assert!(copy.looked[0].contains(&format!("pelton-id:{}.in", copy.unique)), "{:?}", copy.looked);
    copy.until_committed("copy", "in", 4).await;
    copy.until_committed("copy-through-plugin", "in", 4).await;
    copy.finish().await;
}

#[test]
fn every_example_is_run_here() {
    let mut found: Vec<String> = std::fs::read_dir(repository().join("examples"))
        .expect("a directory")
        .map(|entry| entry.expect("an entry").file_name().to_string_lossy().into_owned())
        .collect();
    found.sort();
    assert_eq!(found, ["copy", "logs", "sensors", "shop"], "a new example wants a test here");
}
