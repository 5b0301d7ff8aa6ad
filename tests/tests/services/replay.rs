//! Reading again: a range of a topic, after the group's offsets are gone, into an empty table and into the live one.

use std::collections::BTreeMap;
use std::path::Path;
use std::process::{Command, Output};
use std::sync::Arc;
use std::time::{Duration, UNIX_EPOCH};

use pelton::kafka::delete_records;
use pelton::record::{Offset, TopicPartition};
use rdkafka::ClientConfig;
use rdkafka::admin::{AdminClient, AdminOptions};
use rdkafka::client::DefaultClientContext;

use crate::cassandra_support::{Keyspace, address, with_keyspace};
use crate::dlq::embedded;
use crate::kafka_support::{Topic, brokers, connection};
use crate::line_support::{
    COLUMNS, Daemon, Producing, Wiring, assert_same, assert_same_expiry, expected, expiries, order, positions, program,
    project, stored, until_committed,
};

const PARTITIONS: i32 = 2;
/// Records of a third, a partition.
const THIRD: i64 = 3_000;
/// Keys of a third in a partition.
const KEYS: i64 = 150;
/// What flows while the middle third is replayed.
const FLOWING: i64 = 3;
/// Of the keys of the middle third, those that are updated meanwhile.
const SHARED: i64 = 75;

fn now_ms() -> i64 {
    #[expect(clippy::disallowed_methods, reason = "a test against real services")]
    let now = std::time::SystemTime::now();
    now.duration_since(UNIX_EPOCH).expect("after 1970").as_millis() as i64
}

/// The key of a record. Each third has its own, but for the one that flows while the middle third is replayed: half of its
/// records update keys of that one.
fn key_of(partition: i32, third: i64, number: i64) -> String {
    let at = number % KEYS;
    let third = if third == FLOWING && at < SHARED { 1 } else { third };
    format!("p{partition}-t{third}-k{at}")
}

/// Records of one third in each partition, every key updated many times. In partition 1 some lie half an hour ahead of the
/// wall: what becomes of their write times only the journal knows later.
fn produce(topic: &str, third: i64) {
    let producing = Producing::to(topic);
    let base = now_ms() - 10 * 60_000;
    for number in 0..THIRD {
        for partition in 0..PARTITIONS {
            let key = key_of(partition, third, number);
            let is_ahead = partition == 1 && (1_000..1_010).contains(&number);
            let timestamp_ms = if is_ahead { now_ms() + 30 * 60_000 } else { base + (number * 7_919) % 60_000 };
            let number = third * THIRD + number;
            producing.send(partition, &key, &order(&key, number, timestamp_ms), timestamp_ms);
        }
    }
    producing.finish();
}

async fn produced(topic: &str, third: i64) {
    let topic = topic.to_owned();
    tokio::task::spawn_blocking(move || produce(&topic, third)).await.expect("the producer");
}

/// `pelton replay orders`, to its end.
async fn replay(dir: &Path, arguments: &[&str]) -> Output {
    let mut command = Command::new(program("pelton"));
    command.arg("replay").arg("orders").arg(dir).args(arguments);
    let ran = tokio::task::spawn_blocking(move || command.output()).await;
    ran.expect("a thread").expect("it runs")
}

fn text(output: &Output) -> String {
    format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
}

fn assert_succeeded(output: &Output) {
    assert!(output.status.success(), "{}: {}", output.status, text(output));
}

/// The rows whose keys begin so.
fn of(rows: &BTreeMap<String, (i64, i64)>, start: &str) -> BTreeMap<String, (i64, i64)> {
    rows.iter().filter(|(key, _)| key.starts_with(start)).map(|(key, row)| (key.clone(), *row)).collect()
}

async fn forget(group: &str) {
    let admin: AdminClient<DefaultClientContext> =
        ClientConfig::new().set("bootstrap.servers", brokers()).create().expect("an admin client");
    let deleted = admin.delete_groups(&[group], &AdminOptions::new()).await.expect("the brokers answer");
    assert!(deleted.iter().all(Result::is_ok), "{deleted:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_middle_third_is_replayed_after_the_offsets_are_gone_into_an_empty_table_and_into_the_live_one() {
    with_keyspace(|keyspace: Arc<Keyspace>| async move {
        let topic = Topic::new("replayed", PARTITIONS).await;
        let letters = Topic::new("replayed-dlq", 1).await;
        keyspace.cql(&format!("CREATE TABLE KS.live ({COLUMNS}) WITH comment = 'orders (of a shop)'")).await;
        for name in ["copy", "current"] {
            keyspace.cql(&format!("CREATE TABLE KS.{name} ({COLUMNS})")).await;
        }
        let table = |name: &str| format!("{}.{name}", keyspace.name);
        let (live, copy, cassandra) = (table("live"), table("copy"), address());
        let wiring = Wiring {
            topic: &topic.name,
            group: &topic.name,
            table: &live,
            dead_letters: &letters.name,
            cassandra: &cassandra,
            drain: "20 s",
        };
        let dir = project(&wiring);
        // Two lives, so that the second goes on from what the first has committed.
        produced(&topic.name, 0).await;
        produced(&topic.name, 1).await;
        let mut daemon = Daemon::start(dir.path(), "first");
        until_committed(&topic.name, &topic.name, PARTITIONS, &mut [&mut daemon]).await;
        daemon.kill();
        let mut daemon = Daemon::start(dir.path(), "second");
        produced(&topic.name, 2).await;
        until_committed(&topic.name, &topic.name, PARTITIONS, &mut [&mut daemon]).await;
        assert!(daemon.terminate().success(), "{}", daemon.log());
        let before = stored(&keyspace, &live).await;

        forget(&topic.name).await;
        let (group, name) = (topic.name.clone(), topic.name.clone());
        let gone = tokio::task::spawn_blocking(move || positions(&group, &name, PARTITIONS)).await.unwrap();
        assert!(gone.iter().all(|(committed, _)| *committed == 0), "{gone:?}");

        // Into an empty table.
        let (from, to) = (THIRD.to_string(), (2 * THIRD).to_string());
        let bounds: Vec<String> = (0..PARTITIONS)
            .flat_map(|p| ["--from".to_owned(), format!("{p}:{from}"), "--to".to_owned(), format!("{p}:{to}")])
            .collect();
        let bounds: Vec<&str> = bounds.iter().map(String::as_str).collect();
        let dry = replay(dir.path(), &[&bounds[..], &["--into", &copy, "--dry-run"]].concat()).await;
        assert_succeeded(&dry);
        assert!(text(&dry).contains("3000 in all; the clock starts at 0"), "{}", text(&dry));
        assert_eq!(stored(&keyspace, &copy).await.len(), 0, "a dry run writes nothing");
        let replayed = replay(dir.path(), &[&bounds[..], &["--into", &copy, "--json"]].concat()).await;
        assert_succeeded(&replayed);
        let summary: serde_json::Value = serde_json::from_slice(&replayed.stdout).expect("one object");
        assert_eq!(summary["records"], 2 * THIRD, "{summary}");
        let rebuilt = stored(&keyspace, &copy).await;
        let middle: BTreeMap<_, _> = before.iter().filter(|(key, _)| key.contains("-t1-")).map(own).collect();
        assert_eq!(middle.len(), 300);
        assert_same(&rebuilt, &middle);
        let (first, second) = (expiries(&keyspace, &live).await, expiries(&keyspace, &copy).await);
        let first = first.into_iter().filter(|(key, _)| second.contains_key(key)).collect();
        assert_same_expiry(&first, &second, 300);
        // The judge knows nothing of journals and clamping: it is asked about the partition without.
        let wanted = {
            let topic = topic.name.clone();
            tokio::task::spawn_blocking(move || expected(&topic)).await.unwrap()
        };
        assert_same(&of(&rebuilt, "p0-"), &of(&wanted, "p0-t1-"));

        // Into the live table, while updates flow and the daemon reads everything anew.
        let mut daemon = Daemon::start(dir.path(), "third");
        let (flowing, replayed) = tokio::join!(produced(&topic.name, FLOWING), replay(dir.path(), &bounds));
        let () = flowing;
        assert_succeeded(&replayed);
        until_committed(&topic.name, &topic.name, PARTITIONS, &mut [&mut daemon]).await;
        assert!(daemon.terminate().success(), "{}", daemon.log());
        let after = stored(&keyspace, &live).await;
        // The last value of each key that flowed: where it was replayed too, the older one may not lie over it.
        let numbers = (0..THIRD).flat_map(|number| (0..PARTITIONS).map(move |partition| (partition, number)));
        let last: BTreeMap<String, i64> =
            numbers.map(|(partition, number)| (key_of(partition, FLOWING, number), FLOWING * THIRD + number)).collect();
        assert_eq!(last.keys().filter(|key| before.contains_key(*key)).count() as i64, SHARED * i64::from(PARTITIONS));
        for (key, number) in &last {
            assert_eq!(after[key].0, *number, "{key}: {:?} before, {:?} after", before.get(key), after[key]);
            assert!(before.get(key).is_none_or(|before| before.1 < after[key].1), "{key}: {:?}", after[key]);
        }
        let older = |rows: &BTreeMap<String, (i64, i64)>| -> BTreeMap<String, (i64, i64)> {
            rows.iter().filter(|(key, _)| !last.contains_key(*key)).map(own).collect()
        };
        assert_same(&older(&after), &older(&before));
        let wanted = {
            let topic = topic.name.clone();
            tokio::task::spawn_blocking(move || expected(&topic)).await.unwrap()
        };
        assert_same(&of(&after, "p0-"), &of(&wanted, "p0-"));

        // What could not be exact is refused, with the reason and what to do.
        let pipeline = dir.path().join("pipelines/orders.yaml");
        let was = std::fs::read_to_string(&pipeline).expect("the pipeline");
        std::fs::write(&pipeline, was.replace("vat_percent: 19", "vat_percent: 20")).expect("a file");
        let other = replay(dir.path(), &["--from", "0:100", "--to", "0:200"]).await;
        assert_eq!(other.status.code(), Some(1), "{}", text(&other));
        assert!(text(&other).contains("--with-current"), "{}", text(&other));
        let current = table("current");
        let asked = ["--from", "0:100", "--to", "0:200", "--into", &current, "--with-current"];
        assert_succeeded(&replay(dir.path(), &asked).await);
        assert_eq!(stored(&keyspace, &current).await.len(), 100);
        std::fs::write(&pipeline, was).expect("a file");
        let partition = TopicPartition::new(&topic.name, 0);
        delete_records(&connection(), &partition, Offset(50)).await.expect("the brokers do it");
        let gone = replay(dir.path(), &["--from", "0:10", "--to", "0:200"]).await;
        assert_eq!(gone.status.code(), Some(1), "{}", text(&gone));
        assert!(text(&gone).contains("records 10 to 49 are gone"), "{}", text(&gone));

        // A table that is not there: what is printed makes one like the pipeline's own.
        let absent = table("absent");
        let rebuilding = ["--from", "1:0", "--to", "1:100", "--into", &absent];
        let refused = replay(dir.path(), &rebuilding).await;
        assert_eq!(refused.status.code(), Some(1), "{}", text(&refused));
        let told = text(&refused);
        let (_, statement) = told.split_once("\nCREATE TABLE ").unwrap_or_else(|| panic!("no statement: {told}"));
        let (statement, _) = statement.split_once(';').expect("its end");
        keyspace.cql(&format!("CREATE TABLE {statement};")).await;
        assert_succeeded(&replay(dir.path(), &rebuilding).await);
        assert_eq!(stored(&keyspace, &absent).await.len(), 100);
        let comment = "SELECT JSON comment FROM system_schema.tables WHERE keyspace_name = ";
        let comment = format!("{comment}'{}' AND table_name = 'absent'", keyspace.name);
        assert_eq!(keyspace.json(&comment).await, ["{\"comment\": \"orders (of a shop)\"}"]);
        // Into a keyspace that is not there nothing can be made.
        let nowhere = replay(dir.path(), &["--from", "1:0", "--into", "no_such_keyspace.orders"]).await;
        assert!(text(&nowhere).contains("there is no keyspace no_such_keyspace"), "{}", text(&nowhere));
        assert!(!text(&nowhere).contains("CREATE TABLE \"no_such"), "{}", text(&nowhere));
        let nowhere = replay(dir.path(), &["--from", "yesterday"]).await;
        assert_eq!(nowhere.status.code(), Some(2), "{}", text(&nowhere));
        topic.delete().await;
        letters.delete().await;
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_embedded_table_to_rebuild_into_is_made_as_it_is_told_where_it_is_not_there() {
    let topic = Topic::new("replayed-embedded", 1).await;
    let dir = embedded(&topic.name);
    let at = now_ms() - 60_000;
    let producing = Producing::to(&topic.name);
    for number in 0..10 {
        let key = format!("k{number}");
        producing.send(0, &key, &order(&key, number, at + number), at + number);
    }
    producing.finish();
    let mut daemon = Daemon::start(dir.path(), "daemon");
    until_committed(&topic.name, &topic.name, 1, &mut [&mut daemon]).await;
    assert!(daemon.terminate().success(), "{}", daemon.log());

    // The table is there, and its pipeline does not say any more how it was made.
    let file = dir.path().join("pipelines/orders.yaml");
    let was = std::fs::read_to_string(&file).expect("the pipeline");
    let (before, rest) = was.split_once("      create:\n").expect("it says how");
    let (_, after) = rest.split_once("key: [order_id]\n").expect("with its key");
    std::fs::write(&file, format!("{before}{after}")).expect("a file");
    let rebuilding = ["--from", "earliest", "--into", "rebuilt"];
    let refused = replay(dir.path(), &rebuilding).await;
    assert_eq!(refused.status.code(), Some(1), "{}", text(&refused));
    let told = text(&refused);
    let (_, create) = told.split_once("`create: ").unwrap_or_else(|| panic!("nobody says how: {told}"));
    let (create, _) = create.split_once('`').expect("its end");
    std::fs::write(&file, format!("{before}      create: {create}\n{after}")).expect("a file");
    assert_succeeded(&replay(dir.path(), &rebuilding).await);
    let tables = pelton::sqlite::SqliteReader::open(&dir.path().join("tables.db")).expect("the embedded tables");
    let (own, rebuilt) = (tables.rows("orders").expect("a table"), tables.rows("rebuilt").expect("another"));
    assert_eq!((own.len(), &rebuilt), (10, &own));
    topic.delete().await;
}

fn own((key, row): (&String, &(i64, i64))) -> (String, (i64, i64)) {
    (key.clone(), *row)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_journal_that_would_forget_is_refused_and_one_that_is_absent_is_made() {
    with_keyspace(|keyspace: Arc<Keyspace>| async move {
        let topic = Topic::new("kept", 1).await;
        let letters = Topic::new("kept-dlq", 1).await;
        keyspace.cql(&format!("CREATE TABLE KS.live ({COLUMNS})")).await;
        let (live, cassandra) = (format!("{}.live", keyspace.name), address());
        let wiring = Wiring {
            topic: &topic.name,
            group: &topic.name,
            table: &live,
            dead_letters: &letters.name,
            cassandra: &cassandra,
            drain: "5 s",
        };
        let dir = project(&wiring);
        let absent = replay(dir.path(), &["--from", "earliest"]).await;
        assert_eq!(absent.status.code(), Some(1), "{}", text(&absent));
        assert!(text(&absent).contains("journal is not there"), "{}", text(&absent));

        let compacted = Topic::with("journal", 1, &[("cleanup.policy", "compact")]).await;
        let pipeline = dir.path().join("pipelines/orders.yaml");
        let was = std::fs::read_to_string(&pipeline).expect("the pipeline");
        let journal = format!("{was}journal: {{ kafka: {{ topic: {} }} }}\n", compacted.name);
        std::fs::write(&pipeline, journal).expect("a file");
        let mut daemon = Daemon::start(dir.path(), "compacted");
        let ended = loop {
            match daemon.ended() {
                Some(status) => break status,
                None => tokio::time::sleep(Duration::from_millis(50)).await,
            }
        };
        assert_eq!(ended.code(), Some(1), "{}", daemon.log());
        assert!(daemon.log().contains("must keep every entry"), "{}", daemon.log());

        std::fs::write(&pipeline, was).expect("a file");
        let producing = Producing::to(&topic.name);
        producing.send(0, "k", &order("k", 1, now_ms()), now_ms());
        producing.finish();
        let mut daemon = Daemon::start(dir.path(), "made");
        until_committed(&topic.name, &topic.name, 1, &mut [&mut daemon]).await;
        assert!(daemon.terminate().success());
        let journal = format!("{}.pelton-journal", topic.name);
        let settings = pelton::kafka::topic_settings(&connection(), &journal).await.expect("an answer").expect("told");
        assert_eq!((settings["cleanup.policy"].as_str(), settings["retention.ms"].as_str()), ("delete", "-1"));
        topic.delete().await;
        letters.delete().await;
    })
    .await;
}

/// `pelton VERB orders --admin …`, to its end.
async fn ask(daemon: &Daemon, arguments: &[&str]) -> Output {
    let address = daemon.admin().expect("it says where it listens").to_string();
    let mut command = Command::new(program("pelton"));
    command.args(arguments).args(["--admin", &address]);
    let ran = tokio::task::spawn_blocking(move || command.output()).await;
    ran.expect("a thread").expect("it runs")
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pipeline_that_is_moved_back_writes_the_same_cells_again() {
    with_keyspace(|keyspace: Arc<Keyspace>| async move {
        let topic = Topic::new("moved", PARTITIONS).await;
        let letters = Topic::new("moved-dlq", 1).await;
        keyspace.cql(&format!("CREATE TABLE KS.live ({COLUMNS})")).await;
        let (live, cassandra) = (format!("{}.live", keyspace.name), address());
        let wiring = Wiring {
            topic: &topic.name,
            group: &topic.name,
            table: &live,
            dead_letters: &letters.name,
            cassandra: &cassandra,
            drain: "20 s",
        };
        let dir = project(&wiring);
        produced(&topic.name, 0).await;
        let mut daemon = Daemon::start(dir.path(), "moved");
        until_committed(&topic.name, &topic.name, PARTITIONS, &mut [&mut daemon]).await;
        let before = stored(&keyspace, &live).await;

        let seek = ["seek", "orders", "--to", "0:1000", "--to", "1:1005"];
        let refused = ask(&daemon, &seek).await;
        assert_eq!(refused.status.code(), Some(1), "{}", text(&refused));
        assert!(text(&refused).contains("pelton pause orders"), "{}", text(&refused));
        assert_succeeded(&ask(&daemon, &["pause", "orders"]).await);
        keyspace.cql("TRUNCATE KS.live").await;
        // In the midst of what was clamped.
        let moved = ask(&daemon, &seek).await;
        assert_succeeded(&moved);
        assert!(text(&moved).contains("/1: to 1005, from 3000: 1995 offsets are read again"), "{}", text(&moved));
        assert_eq!(stored(&keyspace, &live).await.len(), 0, "it is still paused");
        assert_succeeded(&ask(&daemon, &["resume", "orders"]).await);
        until_committed(&topic.name, &topic.name, PARTITIONS, &mut [&mut daemon]).await;
        assert!(daemon.terminate().success(), "{}", daemon.log());
        assert_same(&stored(&keyspace, &live).await, &before);
        topic.delete().await;
        letters.delete().await;
    })
    .await;
}
