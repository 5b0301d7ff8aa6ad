//! `pelton run` against what is not there: it ends with the address, the key and the file, or waits where it is told to,
//! says so, and goes on when the service comes.

use std::path::Path;

use pelton_tests::process::{Process, free_port, get, repository, until};
use tempfile::TempDir;
use tokio::net::{TcpListener, TcpStream};

use crate::cassandra_support::{self, with_keyspace};
use crate::kafka_support::{self, Topic};
use crate::line_support::{COLUMNS, positions};

fn project(settings: &str, pipeline: &str) -> TempDir {
    let dir = tempfile::tempdir().expect("a directory");
    std::fs::create_dir(dir.path().join("pipelines")).expect("a fresh directory");
    std::fs::write(dir.path().join("pelton.yaml"), settings).expect("a fresh file");
    std::fs::write(dir.path().join("pipelines/orders.yaml"), pipeline).expect("a fresh file");
    dir
}

fn settings(kafka: &str, cassandra: &str, startup_wait: &str, admin: u16) -> String {
    format!(
        "kafka:\n  brokers: {kafka}\ncassandra:\n  contact_points: [\"{cassandra}\"]\n\
         admin: {{ listen: 127.0.0.1:{admin} }}\nstartup_wait: {startup_wait}\nsqlite: tables.db\n"
    )
}

fn pipeline(topic: &str, output: &str, dead_letters: &str) -> String {
    format!(
        "source:\n  kafka:\n    topics: [{topic}]\noutputs:\n  default:\n    {output}\ndead_letters:\n  {dead_letters}\n"
    )
}

/// Starts, and expects that it ends: its exit code, and what it printed.
async fn fails(settings: String, pipeline: String) -> (Option<i32>, String) {
    let dir = project(&settings, &pipeline);
    let mut daemon = Process::daemon(dir.path(), "daemon");
    let status = daemon.end().await;
    (status.code(), daemon.output())
}

fn assert_says((code, output): &(Option<i32>, String), expected: i32, parts: &[&str]) {
    assert_eq!(*code, Some(expected), "{output}");
    let (_, error) = output.rsplit_once("\nerror: ").unwrap_or(("", output));
    for part in parts {
        assert!(error.contains(part), "{part:?} is not in: {error}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_absent_ends_the_start_with_address_key_and_file() {
    let topic = Topic::new("absent", 1).await;
    let (kafka, cassandra) = (kafka_support::brokers(), cassandra_support::address());
    let nowhere = format!("127.0.0.1:{}", free_port());
    let table = "cassandra: { table: no_such_keyspace.orders }";
    let sqlite = "sqlite: { table: t, create: { columns: { id: text }, key: [id] } }";
    let file = "file: letters.jsonl";
    let (here, there) =
        (settings(&kafka, &cassandra, "30 s", 0), |kafka: &str, cassandra: &str| settings(kafka, cassandra, "0 s", 0));
    let runs = [
        fails(there(&nowhere, &cassandra), pipeline(&topic.name, sqlite, file)),
        fails(there(&kafka, &nowhere), pipeline(&topic.name, table, file)),
        fails(here.clone(), pipeline("no-such-topic", sqlite, file)),
        fails(here.clone(), pipeline(&topic.name, table, file)),
        fails(here.clone(), pipeline(&topic.name, "kafka: { topic: no-such-output }", file)),
        fails(here.clone(), pipeline(&topic.name, sqlite, "kafka: { topic: no-such-letters }")),
    ];
    let [no_kafka, no_cassandra, no_topic, no_table, no_output, no_letters] =
        futures::future::join_all(runs).await.try_into().expect("as many as there were");
    assert_says(&no_kafka, 3, &["pelton.yaml:2:", "kafka.brokers", &nowhere, "cannot be reached", "startup_wait"]);
    let parts = ["pelton.yaml:4:", "cassandra.contact_points", &nowhere, "cannot be reached", "startup_wait"];
    assert_says(&no_cassandra, 3, &parts);
    assert_says(&no_topic, 1, &["pipelines/orders.yaml:3:", "source.kafka.topics", &kafka, "no-such-topic", "make it"]);
    assert_says(&no_table, 1, &["pipelines/orders.yaml:6:", "outputs.default.cassandra.table", "no_such_keyspace"]);
    assert_says(&no_output, 1, &["pipelines/orders.yaml:6:", "outputs.default.kafka.topic", "no-such-output"]);
    assert_says(&no_letters, 1, &["pipelines/orders.yaml:8:", "dead_letters.kafka.topic", "no-such-letters"]);
    topic.delete().await;
}

fn check_online(dir: &Path) -> (Option<i32>, String) {
    let mut check = std::process::Command::new(pelton_tests::process::program("pelton"));
    let check = check.args(["check", "--online"]).arg(dir).output().expect("pelton runs");
    (check.status.code(), String::from_utf8_lossy(&check.stdout).into_owned() + &String::from_utf8_lossy(&check.stderr))
}

#[tokio::test(flavor = "multi_thread")]
async fn all_that_is_absent_is_named_at_once_by_a_start_and_by_a_check() {
    let (kafka, cassandra) = (format!("127.0.0.1:{}", free_port()), format!("127.0.0.1:{}", free_port()));
    let pipeline = pipeline("orders", "cassandra: { table: no_such_keyspace.orders }", "file: letters.jsonl");
    let dir = project(&settings(&kafka, &cassandra, "4 s", 0), &pipeline);
    let mut daemon = Process::daemon(dir.path(), "daemon");
    let (code, log) = (daemon.end().await.code(), daemon.output());
    let both = [
        &format!("pelton.yaml:2:3: kafka.brokers: Kafka at {kafka} cannot be reached: {kafka}: Connection refused")[..],
        &format!("pelton.yaml:4:3: cassandra.contact_points: Cassandra at {cassandra} cannot be reached"),
        "`startup_wait` (here 4 s)",
    ];
    assert_says(&(code, log.clone()), 3, &both);
    // Whom it waits for, every few seconds, in our own words alone.
    for who in ["waiting: Kafka at", "waiting: Cassandra at"] {
        assert_eq!(log.lines().filter(|line| line.contains(who)).count(), 2, "{who}: {log}");
    }
    assert!(!log.contains("scylla") && log.lines().count() < 16, "{log}");

    let (code, said) = check_online(dir.path());
    assert_eq!(code, Some(3), "{said}");
    assert!(both[..2].iter().all(|part| said.contains(part)), "{said}");
    // A mistake stays one when the service comes.
    std::fs::write(dir.path().join("pipelines/other.yaml"), "source: { kafka: { topics: [a] } }\n").expect("written");
    assert_eq!(check_online(dir.path()).0, Some(1));
}

#[tokio::test(flavor = "multi_thread")]
async fn topics_and_tables_that_are_not_there_are_named_all_at_once() {
    let (kafka, cassandra) = (kafka_support::brokers(), cassandra_support::address());
    let pipeline =
        pipeline("no-such-topic", "cassandra: { table: no_such_keyspace.orders }", "kafka: { topic: no-such-letters }");
    let run = fails(settings(&kafka, &cassandra, "30 s", 0), pipeline).await;
    let parts = [
        "pipelines/orders.yaml:3:",
        "no-such-topic",
        "no_such_keyspace",
        "no-such-letters",
        "3 mistakes",
        &format!("kafka-topics.sh --bootstrap-server {kafka} --create --topic no-such-topic"),
    ];
    assert_says(&run, 1, &parts);
    let finding = format!("Kafka at {kafka} has no topic \"no-such-topic\"\n");
    assert!(run.1.contains(&finding), "the remedy does not repeat what was found: {}", run.1);
}

/// Passes everything on to a service, from a port on which nobody listened until now.
async fn appear(port: u16, service: String) {
    let listener = TcpListener::bind(("127.0.0.1", port)).await.expect("the port is still free");
    tokio::spawn(async move {
        while let Ok((mut client, _)) = listener.accept().await {
            let service = service.clone();
            tokio::spawn(async move {
                let mut server = TcpStream::connect(service).await?;
                tokio::io::copy_bidirectional(&mut client, &mut server).await
            });
        }
    });
}

async fn waits_for(daemon: &mut Process, who: &str, admin: u16) {
    daemon.until_it_says(&format!("waiting: {who}")).await;
    let (code, body) = get(([127, 0, 0, 1], admin).into(), "/readyz").expect("it answers while it waits");
    assert!(code == 503 && body.contains("the process is starting"), "{code} {body}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_start_that_may_wait_goes_on_when_the_services_come() {
    with_keyspace(async |keyspace| {
        let topic = Topic::new("late", 1).await;
        topic.fill(0, 0, 10).await;
        keyspace.cql(&format!("CREATE TABLE KS.late ({COLUMNS})")).await;
        let (kafka, cassandra, admin) = (free_port(), free_port(), free_port());
        let local = |port: u16| format!("127.0.0.1:{port}");
        // Numbers are no objects: all ten are dead letters.
        let output = format!("cassandra: {{ table: {}.late }}", keyspace.name);
        let pipeline = pipeline(&topic.name, &output, "file: letters.jsonl")
            .replace("    topics:", &format!("    group: {}\n    topics:", topic.name));
        let dir = project(&settings(&local(kafka), &local(cassandra), "80 s", admin), &pipeline);
        let mut daemon = Process::daemon(dir.path(), "daemon");
        waits_for(&mut daemon, &format!("Kafka at {} cannot be reached", local(kafka)), admin).await;
        appear(kafka, kafka_support::brokers()).await;
        waits_for(&mut daemon, &format!("Cassandra at {} cannot be reached", local(cassandra)), admin).await;
        appear(cassandra, cassandra_support::address()).await;
        until("all is committed", || {
            daemon.assert_alive();
            (positions(&topic.name, &topic.name, 1)[0].0 == 10).then_some(())
        })
        .await;
        assert_eq!(get(([127, 0, 0, 1], admin).into(), "/readyz").map(|(code, _)| code), Some(200));
        assert_eq!(lines(&dir.path().join("letters.jsonl")), 10);
        assert!(daemon.terminate().await.success(), "{}", daemon.output());
        topic.delete().await;
    })
    .await;
}

fn lines(file: &Path) -> usize {
    std::fs::read_to_string(file).expect("a file").lines().count()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_topic_that_is_misspelled_in_an_example_is_found_before_anything_runs() {
    // What a check says, a run says: with the same file, line and key.
    let (kafka, cassandra) = (kafka_support::brokers(), cassandra_support::address());
    let pipeline = pipeline("no-such-topic", "discard: true", "file: letters.jsonl");
    let dir = project(&settings(&kafka, &cassandra, "0 s", 0), &pipeline);
    let check = std::process::Command::new(pelton_tests::process::program("pelton"))
        .args(["check", "--online"])
        .arg(dir.path())
        .current_dir(repository())
        .output()
        .expect("pelton runs");
    let (_, run) = fails(settings(&kafka, &cassandra, "0 s", 0), pipeline).await;
    let said = String::from_utf8_lossy(&check.stdout).into_owned() + &String::from_utf8_lossy(&check.stderr);
    for part in ["pipelines/orders.yaml:3:", "source.kafka.topics", "no-such-topic"] {
        assert!(said.contains(part) && run.contains(part), "{part}: check: {said}\nrun: {run}");
    }
}
