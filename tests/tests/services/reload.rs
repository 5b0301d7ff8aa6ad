//! Plugins that are replaced in a running daemon, on real services: what is good goes live without a rebalance; what is not
//! leaves the old one running, and says why.

use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::Arc;

use pelton_tests::guests;
use pelton_tests::process::{Process, get, metric, program, until};
use pelton_tests::stamps::Stamps;
use rdkafka::ClientConfig;
use rdkafka::producer::{BaseRecord, DefaultProducerContext, Producer as _, ThreadedProducer};
use serde_json::Value;
use tempfile::TempDir;

use crate::cassandra_support::{Keyspace, address, with_keyspace};
use crate::kafka_support::{Topic, brokers};

/// A project whose one plugin is `stamps`, and its daemon.
struct Stage {
    dir: TempDir,
    daemon: Process,
    admin: String,
    producer: ThreadedProducer<DefaultProducerContext>,
    topic: Topic,
    keyspace: Arc<Keyspace>,
    sent: u64,
}

impl Stage {
    async fn begin(keyspace: &Arc<Keyspace>, reload: &str) -> Self {
        let topic = Topic::new("reload", 2).await;
        keyspace.cql("CREATE TABLE KS.stamped (id text PRIMARY KEY, n bigint, version text)").await;
        let dir = tempfile::tempdir().expect("a directory");
        std::fs::create_dir_all(dir.path().join("pipelines")).expect("a directory");
        std::fs::create_dir_all(dir.path().join("plugins/stamps")).expect("a directory");
        let settings = format!(
            "kafka: {{ brokers: \"{}\" }}\ncassandra: {{ contact_points: [\"{}\"] }}\nadmin: {{ listen: \"127.0.0.1:0\" }}\n\
             reload: {reload}\n",
            brokers(),
            address()
        );
        let pipeline = format!(
            "source:\n  kafka: {{ topics: [{topic}], group: {topic}, start: earliest }}\n  format: json\n\
             steps:\n  - plugin: stamps\n    limits: {{ memory: 16 MiB }}\n\
             outputs:\n  default:\n    cassandra: {{ table: {}.stamped }}\ndead_letters:\n  file: letters.jsonl\n",
            keyspace.name,
            topic = topic.name,
        );
        std::fs::write(dir.path().join("pelton.yaml"), settings).expect("a file");
        std::fs::write(dir.path().join("pipelines/rows.yaml"), pipeline).expect("a file");
        Stamps::of("version", 1).expect("it is built").put(&artifact(dir.path())).expect("a file");
        let mut daemon = Process::daemon(dir.path(), "daemon");
        let admin = daemon.admin().await.to_string();
        let producer = ClientConfig::new().set("bootstrap.servers", brokers()).create().expect("a producer");
        Self { dir, daemon, admin, producer, topic, keyspace: Arc::clone(keyspace), sent: 0 }
    }

    fn put(&self, word: &str, number: u64) {
        Stamps::of(word, number).expect("it is built").put(&artifact(self.dir.path())).expect("a file");
    }

    async fn send(&mut self, count: u64) {
        for _ in 0..count {
            let n = self.sent;
            let (key, value) = (n.to_string(), format!(r#"{{"id":"r{n}","n":{n}}}"#));
            let record = BaseRecord::to(&self.topic.name).key(&key).payload(&value).partition((n % 2) as i32);
            self.producer.send(record).map_err(|(error, _)| error).expect("it is taken");
            self.sent += 1;
        }
        let producer = self.producer.clone();
        let flushed = tokio::task::spawn_blocking(move || producer.flush(std::time::Duration::from_secs(30)));
        flushed.await.expect("a thread").expect("they are delivered");
    }

    fn status(&self) -> Value {
        let admin = self.admin.parse().expect("an address");
        get(admin, "/status").and_then(|(_, text)| serde_json::from_str(&text).ok()).unwrap_or_default()
    }

    fn count(&self, name: &str, labels: &[(&str, &str)]) -> f64 {
        let admin = self.admin.parse().expect("an address");
        get(admin, "/metrics").and_then(|(_, text)| metric(&text, name, labels)).unwrap_or_default()
    }

    async fn until_done(&self) {
        until("all is committed", || {
            let partitions = self.status()["pipelines"][0]["partitions"].clone();
            let done: u64 = partitions.as_array()?.iter().filter_map(|partition| partition["committed"].as_u64()).sum();
            (done == self.sent).then_some(())
        })
        .await;
    }

    async fn pelton(&self, arguments: &[&str]) -> Output {
        let mut command = Command::new(program("pelton"));
        command.args(arguments).args(["--admin", &self.admin]);
        tokio::task::spawn_blocking(move || command.output()).await.expect("a thread").expect("pelton runs")
    }

    /// Reloads, and takes it for granted that the old version stays: what was said.
    async fn refused(&self, arguments: &[&str]) -> String {
        let output = self.pelton(&[&["reload"], arguments].concat()).await;
        assert_eq!(output.status.code(), Some(1), "{output:?}");
        let told = [output.stdout, output.stderr].concat();
        assert_eq!(self.status()["pipelines"][0]["generation"]["number"], 1, "the old one runs on");
        String::from_utf8_lossy(&told).into_owned()
    }

    /// Reloads, and takes it for granted that what goes live is rolled back while records flow, so many at once: what was
    /// said.
    async fn rolled_back(&mut self, records: u64) -> String {
        let mut waits = Command::new(program("pelton"));
        waits.args(["reload", "--wait", "--admin", &self.admin]);
        let mut waits = tokio::task::spawn_blocking(move || waits.output());
        let output = loop {
            tokio::select! {
                output = &mut waits => break output.expect("a thread").expect("pelton runs"),
                () = self.send(records) => tokio::time::sleep(std::time::Duration::from_millis(20)).await,
            }
        };
        assert_eq!(output.status.code(), Some(1), "{output:?}");
        String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned()
    }

    /// Rows by version.
    async fn rows(&self) -> std::collections::BTreeMap<String, u64> {
        let mut rows = std::collections::BTreeMap::new();
        for version in self.keyspace.json("SELECT JSON version FROM KS.stamped").await {
            *rows.entry(version).or_default() += 1;
        }
        rows
    }
}

fn artifact(project: &Path) -> PathBuf {
    project.join("plugins/stamps/stamps.wasm")
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_not_good_enough_leaves_the_old_version_running_and_says_why() {
    with_keyspace(|keyspace: Arc<Keyspace>| async move {
        let mut stage = Stage::begin(&keyspace, "{ watch: false, settle: 60 s }").await;
        stage.send(2_000).await;
        stage.until_done().await;

        // It fails its own cases.
        let case = stage.dir.path().join("plugins/stamps/cases/one");
        std::fs::create_dir_all(&case).expect("a directory");
        let input = r#"{"key":"k","value":{"id":"a","n":1}}"#;
        std::fs::write(case.join("input.jsonl"), format!("{input}\n")).expect("a file");
        let bless = Command::new(program("pelton"))
            .args(["plugin", "test", "--bless"])
            .arg(stage.dir.path().join("plugins/stamps"))
            .output()
            .expect("pelton runs");
        assert!(bless.status.success(), "{bless:?}");
        stage.put("version", 2);
        let told = stage.refused(&[]).await;
        assert!(told.contains("rows: refused, generation 1 runs on") && told.contains("1 of 1 cases"), "{told}");
        assert!(told.contains("pelton plugin test"), "{told}");
        std::fs::remove_dir_all(case.parent().expect("cases/")).expect("removed");

        // It asks for what it is not granted.
        std::fs::write(artifact(stage.dir.path()), guests::component("asks_the_host")).expect("a file");
        let told = stage.refused(&[]).await;
        let asks = "asks for `log`, `metrics`, `config`, `clock`, `random`, which it is not granted";
        assert!(told.contains(asks) && told.contains("pipelines/rows.yaml:5:5: steps[0].grants"), "{told}");

        // It traps on live records, and is rolled back by itself.
        stage.put("traps", 3);
        let told = stage.rolled_back(500).await;
        assert!(told.contains("rolled back") && told.contains("trapped or ran into a limit"), "{told}");
        stage.until_done().await;
        assert_eq!(stage.status()["pipelines"][0]["generation"]["number"], 1);
        let told = stage.refused(&[]).await;
        assert!(told.contains("was rolled back before") && told.contains("reload --force"), "{told}");

        // It costs far more CPU time.
        stage.put("costly", 4);
        let told = stage.rolled_back(2_000).await;
        assert!(told.contains("times the CPU time of the generation before on the same records"), "{told}");
        stage.until_done().await;
        assert_eq!(stage.status()["pipelines"][0]["generation"]["number"], 1);

        let letters = std::fs::read_to_string(stage.dir.path().join("letters.jsonl")).unwrap_or_default();
        let letters = letters.lines().count() as u64;
        assert!(letters < 20, "{letters} of the records that trapped went before the rollback");
        let rows = stage.rows().await;
        assert_eq!(rows.values().sum::<u64>() + letters, stage.sent);
        assert_eq!(stage.count("pelton_rebalances_total", &[("change", "assigned")]), 1.0);
        assert_eq!(stage.count("pelton_reloads_total", &[("outcome", "rolled_back")]), 2.0);

        // A restart is no reason to try again what was rolled back.
        stage.put("traps", 3);
        stage.daemon.signal("TERM");
        until("it ends", || stage.daemon.ended()).await;
        stage.daemon = Process::daemon(stage.dir.path(), "again");
        stage.admin = stage.daemon.admin().await.to_string();
        stage.send(100).await;
        stage.until_done().await;
        assert_eq!(stage.status()["pipelines"][0]["generation"]["number"], 1);
        assert!(stage.daemon.output().contains("which was rolled back"), "{}", stage.daemon.output());
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_that_changes_is_taken_over_by_itself_and_an_operator_can_go_back() {
    with_keyspace(|keyspace: Arc<Keyspace>| async move {
        let mut stage = Stage::begin(&keyspace, "{ settle: 1 s }").await;
        stage.send(100).await;
        stage.until_done().await;
        stage.put("version", 2);
        until("it is taken over", || (stage.status()["pipelines"][0]["generation"]["number"] == 2).then_some(())).await;
        assert_eq!(stage.status()["pipelines"][0]["generation"]["stage"], "live", "nothing settles without a record");
        stage.send(100).await;
        stage.until_done().await;
        until("it settles", || (stage.status()["pipelines"][0]["generation"]["stage"] == "settled").then_some(()))
            .await;

        let answer = stage.pelton(&["rollback", "rows", "--json"]).await;
        let told: Value = serde_json::from_slice(&answer.stdout).expect("JSON");
        assert_eq!((&told["live"], &told["rolled_back"]["number"]), (&1.into(), &2.into()));
        let handled: Vec<&str> =
            told["rolled_back"]["handled"].as_array().expect("ranges").iter().filter_map(Value::as_str).collect();
        let topic = &stage.topic.name;
        assert_eq!(handled, [format!("{topic}/0:50-99"), format!("{topic}/1:50-99")]);
        stage.send(100).await;
        stage.until_done().await;
        let rows = stage.rows().await;
        assert_eq!(rows.values().copied().collect::<Vec<_>>(), [200, 100], "{rows:?}");

        // A pipeline's configuration that has a mistake in it is refused whole; the watch says why.
        let file = stage.dir.path().join("pipelines/rows.yaml");
        let text = std::fs::read_to_string(&file).expect("it is there");
        std::fs::write(&file, text.replace("limits:", "limts:")).expect("a file");
        stage.daemon.until_it_says("reload refused").await;
        until("the status says so", || {
            stage.status()["pipelines"][0]["refused"].as_str().filter(|why| why.contains("limits")).map(|_| ())
        })
        .await;
        stage.send(100).await;
        stage.until_done().await;
        assert_eq!(stage.rows().await.values().sum::<u64>(), 400);
        let generations = stage.pelton(&["generations", "rows"]).await;
        let told = String::from_utf8_lossy(&generations.stdout).into_owned();
        assert!(told.contains("rolled back by an operator"), "{told}");
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_candidate_runs_beside_the_live_version_and_writes_nothing() {
    with_keyspace(|keyspace: Arc<Keyspace>| async move {
        let mut stage = Stage::begin(&keyspace, "{ watch: false, settle: 1 s }").await;
        stage.send(100).await;
        stage.until_done().await;
        stage.put("strays", 2);
        let mut asks = Command::new(program("pelton"));
        asks.args(["reload", "--shadow", "500", "--dry-run", "--json", "--admin", &stage.admin]);
        let mut asks = tokio::task::spawn_blocking(move || asks.output());
        let output = loop {
            tokio::select! {
                output = &mut asks => break output.expect("a thread").expect("pelton runs"),
                () = stage.send(200) => tokio::time::sleep(std::time::Duration::from_millis(50)).await,
            }
        };
        assert!(output.status.success(), "{output:?}");
        let told: Value = serde_json::from_slice(&output.stdout).expect("JSON");
        let found = &told["pipelines"][0]["differences"];
        let count = |what: &str| found[what].as_u64().unwrap_or_default();
        assert!(count("records") >= 500, "{told}");
        assert_eq!((count("same"), count("added"), count("missing")), (0, 0, 0), "{told}");
        assert_eq!(count("changed"), count("records"));
        assert_eq!(found["fields"]["default.version"].as_u64(), Some(count("records")));
        assert!(found["fields"]["default.id"].as_u64().is_some_and(|ids| ids > 0), "every seventh strays: {told}");
        stage.until_done().await;
        assert_eq!(stage.rows().await.len(), 1, "the candidate has written nothing");
        assert_eq!(stage.status()["pipelines"][0]["generation"]["number"], 1);

        // Too much of it fails: it does not go live.
        stage.put("rejects", 3);
        let mut asks = Command::new(program("pelton"));
        asks.args(["reload", "--shadow", "500", "--admin", &stage.admin]);
        let mut asks = tokio::task::spawn_blocking(move || asks.output());
        let output = loop {
            tokio::select! {
                output = &mut asks => break output.expect("a thread").expect("pelton runs"),
                () = stage.send(200) => tokio::time::sleep(std::time::Duration::from_millis(50)).await,
            }
        };
        assert_eq!(output.status.code(), Some(1), "{output:?}");
        let told = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(told.contains("records fail that the live generation handles"), "{told}");
        assert_eq!(stage.status()["pipelines"][0]["generation"]["number"], 1);
    })
    .await;
}
