//! Cassandra itself stopped and started again under a running daemon. The node is the test's own, on ports of its own,
//! and it asks for a password: so a wrong one is tried here too.

use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, UNIX_EPOCH};

use pelton_tests::process::{Process, free_port, get, program, repository, until};
use scylla::client::session::Session;
use scylla::client::session_builder::SessionBuilder;
use tempfile::TempDir;

use crate::cassandra_support::Keyspace;
use crate::kafka_support::{Topic, brokers};
use crate::line_support::{COLUMNS, Producing, assert_same, expected, order, positions, stored};

const PARTITIONS: i32 = 2;
const KEYS: i64 = 300;

/// A Cassandra of the test's own.
struct Node {
    port: u16,
    storage_port: u16,
    state: TempDir,
}

impl Node {
    async fn start() -> Self {
        let node =
            Self { port: free_port(), storage_port: free_port(), state: tempfile::tempdir().expect("a directory") };
        node.services("up").await;
        node
    }

    fn address(&self) -> String {
        format!("127.0.0.1:{}", self.port)
    }

    fn command(&self, verb: &str) -> Command {
        let mut command = Command::new(repository().join("tests/harness/services.sh"));
        command
            .args([verb, "cassandra"])
            .env("PELTON_SERVICES", "java")
            .env("PELTON_SERVICES_DIR", self.state.path())
            .env("PELTON_CASSANDRA_HOST", "127.0.0.1")
            .env("PELTON_CASSANDRA_PORT", self.port.to_string())
            .env("PELTON_CASSANDRA_STORAGE_PORT", self.storage_port.to_string())
            .env("PELTON_CASSANDRA_HEAP", "256m")
            .env("PELTON_CASSANDRA_AUTHENTICATOR", "PasswordAuthenticator");
        command
    }

    async fn services(&self, verb: &str) {
        let mut command = self.command(verb);
        let ran = tokio::task::spawn_blocking(move || command.output()).await.expect("a thread").expect("bash runs");
        assert!(ran.status.success(), "{verb}: {}", String::from_utf8_lossy(&ran.stderr));
    }

    /// A session as the user that a new node has; the node makes that user a moment after it answers.
    async fn session(&self) -> Session {
        for _ in 0..300 {
            let builder = SessionBuilder::new().known_node(self.address()).user("cassandra", "cassandra");
            if let Ok(session) = builder.build().await {
                return session;
            }
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
        panic!("{} does not let its own user in", self.address());
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        let _ = self.command("down").output();
    }
}

fn project(topic: &str, cassandra: &str, password: &str, admin: u16) -> TempDir {
    let dir = tempfile::tempdir().expect("a directory");
    std::fs::create_dir(dir.path().join("pipelines")).expect("a fresh directory");
    let settings = format!(
        "kafka: {{ brokers: {} }}\ncassandra:\n  contact_points: [\"{cassandra}\"]\n  username: cassandra\n  \
         password: {password}\nplugin_dirs: [{}]\nadmin: {{ listen: 127.0.0.1:{admin} }}\n",
        brokers(),
        repository().join("plugins").display(),
    );
    let pipeline = format!(
        "source:\n  kafka: {{ topics: [{topic}], group: {topic} }}\nsteps:\n  - plugin: shop-orders\n    \
         config: {{ vat_percent: 19, alert_above_eur: 1000000000 }}\noutputs:\n  default:\n    \
         cassandra: {{ table: own.orders }}\n  alerts: {{ discard: true }}\n"
    );
    std::fs::write(dir.path().join("pelton.yaml"), settings).expect("a fresh file");
    std::fs::write(dir.path().join("pipelines/orders.yaml"), pipeline).expect("a fresh file");
    dir
}

/// Sends orders until it is told to stop.
fn produce(topic: &str, stop: &AtomicBool) {
    let producing = Producing::to(topic);
    #[expect(clippy::disallowed_methods, reason = "a test's producer is a wall-clock writer")]
    let now = std::time::SystemTime::now().duration_since(UNIX_EPOCH).expect("after 1970").as_millis() as i64;
    let mut number = 0;
    while !stop.load(Ordering::SeqCst) {
        let key = number % KEYS;
        let (name, at) = (format!("k{key}"), now - 600_000 + number);
        producing.send((key % i64::from(PARTITIONS)) as i32, &name, &order(&name, number, at), at);
        number += 1;
        if number % 20 == 0 {
            #[expect(clippy::disallowed_methods, reason = "a stream, not a burst")]
            std::thread::sleep(Duration::from_millis(10));
        }
    }
    producing.finish();
}

fn committed(topic: &str) -> (i64, i64) {
    let all = positions(topic, topic, PARTITIONS);
    (all.iter().map(|(committed, _)| committed).sum(), all.iter().map(|(_, end)| end).sum())
}

async fn a_wrong_password_is_refused(topic: &str, address: &str) {
    let dir = project(topic, address, "hunter2", 0);
    let mut daemon = Process::daemon(dir.path(), "wrong");
    let (status, output) = (daemon.end().await, daemon.output());
    assert_eq!(status.code(), Some(1), "{output}");
    for part in ["pelton.yaml:4:", "cassandra.username", address, "refuses the login", "incorrect"] {
        assert!(output.contains(part), "{part:?} is not in: {output}");
    }
    assert!(!output.contains("hunter2"), "a password shows: {output}");
}

fn status_of(project: &Path) -> String {
    let ran = Command::new(program("pelton")).arg("status").arg(project).output().expect("pelton runs");
    String::from_utf8_lossy(&ran.stdout).into_owned()
}

#[tokio::test(flavor = "multi_thread")]
async fn cassandra_stopped_and_started_again_in_mid_stream_loses_nothing() {
    let (node, topic) = tokio::join!(Node::start(), Topic::new("restarted", PARTITIONS));
    let session = node.session().await;
    let keyspace = Keyspace { name: "own".to_owned(), session };
    keyspace.cql("CREATE KEYSPACE own WITH replication = {'class': 'SimpleStrategy', 'replication_factor': 1}").await;
    keyspace.cql(&format!("CREATE TABLE own.orders ({COLUMNS})")).await;
    a_wrong_password_is_refused(&topic.name, &node.address()).await;

    let stop = Arc::new(AtomicBool::new(false));
    let producer = {
        let (topic, stop) = (topic.name.clone(), Arc::clone(&stop));
        tokio::task::spawn_blocking(move || produce(&topic, &stop))
    };
    let admin = free_port();
    let dir = project(&topic.name, &node.address(), "cassandra", admin);
    let mut daemon = Process::daemon(dir.path(), "daemon");
    let admin = daemon.admin().await;
    until("records flow", || (committed(&topic.name).0 > 1_000).then_some(())).await;

    node.services("down").await;
    let cause = until("it is not ready", || {
        daemon.assert_alive();
        let (code, body) = get(admin, "/readyz")?;
        (code == 503).then_some(body)
    })
    .await;
    assert!(cause.contains("output default is blocked") && cause.contains("Cassandra"), "{cause}");
    let status = status_of(dir.path());
    assert!(status.contains("blocked"), "{status}");
    let (before, end) = committed(&topic.name);
    until("records pile up", || (committed(&topic.name).1 > end + 500).then_some(())).await;
    daemon.assert_alive();
    assert_eq!(committed(&topic.name).0, before, "nothing is committed that Cassandra did not take");

    node.services("up").await;
    until("it is ready again", || (get(admin, "/readyz")?.0 == 200).then_some(())).await;
    stop.store(true, Ordering::SeqCst);
    producer.await.expect("the producer");
    until("all is committed", || {
        daemon.assert_alive();
        let (committed, end) = committed(&topic.name);
        (committed == end).then_some(())
    })
    .await;
    assert!(daemon.terminate().await.success(), "{}", daemon.output());
    let keyspace = Keyspace { name: "own".to_owned(), session: node.session().await };
    let wanted = {
        let topic = topic.name.clone();
        tokio::task::spawn_blocking(move || expected(&topic)).await.expect("the oracle")
    };
    assert_eq!(wanted.len() as i64, KEYS);
    assert_same(&stored(&keyspace, "own.orders").await, &wanted);
    assert!(!dir.path().join("dead-letters/orders.jsonl").metadata().is_ok_and(|file| file.len() > 0));
    topic.delete().await;
}
