//! What an operator sees and does with a real daemon on real services: pause and resume, live records, starts after a
//! sudden end, and signals.

use std::process::{Command, Output};
use std::sync::Arc;

use pelton::clock::{Clock as _, SystemClock};
use pelton_tests::process::{LIMIT, Process, get, program, until};
use pelton_tests::proxy::Proxy;
use serde_json::Value;

use crate::cassandra_support::{Keyspace, address, with_keyspace};
use crate::kafka_support::Topic;
use crate::line_support::{COLUMNS, Producing, Wiring, order, positions, project};

fn wiring<'w>(topic: &'w Topic, letters: &'w Topic, table: &'w str, cassandra: &'w str) -> Wiring<'w> {
    Wiring { topic: &topic.name, group: &topic.name, table, dead_letters: &letters.name, cassandra, drain: "20 s" }
}

async fn produce(topic: &Topic, count: i64) {
    let name = topic.name.clone();
    let sending = tokio::task::spawn_blocking(move || {
        let producing = Producing::to(&name);
        // Rows live for 30 days.
        let at = SystemClock.now_ms() - 60_000;
        (0..count).for_each(|number| producing.send(0, "k", &order("k", number, at + number), at + number));
        producing.finish();
    });
    sending.await.expect("the producer");
}

async fn pelton(arguments: &[&str]) -> Output {
    let mut command = Command::new(program("pelton"));
    command.args(arguments);
    tokio::task::spawn_blocking(move || command.output()).await.expect("a thread").expect("pelton runs")
}

fn json(output: &Output) -> Value {
    serde_json::from_slice(&output.stdout).unwrap_or_else(|error| panic!("{error}: {output:?}"))
}

#[tokio::test(flavor = "multi_thread")]
async fn pause_answers_when_all_is_committed_and_its_resume_command_can_be_pasted() {
    with_keyspace(|keyspace: Arc<Keyspace>| async move {
        let (topic, letters) = (Topic::new("paused", 1).await, Topic::new("paused-dlq", 1).await);
        keyspace.cql(&format!("CREATE TABLE KS.live ({COLUMNS})")).await;
        let (table, cassandra) = (format!("{}.live", keyspace.name), address());
        produce(&topic, 20_000).await;
        let dir = project(&wiring(&topic, &letters, &table, &cassandra));
        let mut daemon = Process::daemon(dir.path(), "daemon");
        let admin = daemon.admin().await.to_string();
        let committed = || positions(&topic.name, &topic.name, 1)[0].0;
        until("something is committed", || (committed() > 0).then_some(())).await;

        let paused = pelton(&["pause", "orders", "--admin", &admin, "--json"]).await;
        let told = json(&paused);
        assert_eq!(
            (&told["state"], &told["in_flight"], &told["committed"]),
            (&"paused".into(), &0.into(), &true.into())
        );
        let position = committed();
        let status = json(&pelton(&["status", "--admin", &admin, "--json"]).await);
        let pipeline = &status["pipelines"][0];
        assert_eq!(pipeline["state"], "paused", "{pipeline}");
        let partition = &pipeline["partitions"][0];
        assert_eq!((&partition["committed"], &partition["in_flight"]), (&position.into(), &0.into()), "{partition}");
        let log = daemon.output();
        assert!(log.contains("paused by an operator") && log.contains("stands still"), "{log}");

        let nobody = pelton(&["pause", "clicks", "--admin", &admin]).await;
        assert_eq!(nobody.status.code(), Some(2), "there is no such pipeline: {nobody:?}");

        // As it stands there, in any shell in any directory.
        let resume = pipeline["resume_command"].as_str().expect("a command").to_owned();
        let bin = program("pelton").parent().expect("a directory").display().to_string();
        let path = format!("{bin}:{}", std::env::var("PATH").unwrap_or_default());
        let pasted = Command::new("sh").args(["-c", &resume]).current_dir("/").env("PATH", path).output();
        assert!(pasted.as_ref().is_ok_and(|output| output.status.success()), "{resume}: {pasted:?}");
        until("the rest is committed", || (committed() == 20_000).then_some(())).await;
        assert!(daemon.output().contains("resumed by an operator"), "{}", daemon.output());
        assert!(daemon.terminate().await.success(), "{}", daemon.output());
        topic.delete().await;
        letters.delete().await;
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pause_that_cannot_finish_says_how_many_records_are_under_way() {
    with_keyspace(|keyspace: Arc<Keyspace>| async move {
        let (topic, letters) = (Topic::new("stuck", 1).await, Topic::new("stuck-dlq", 1).await);
        keyspace.cql(&format!("CREATE TABLE KS.live ({COLUMNS})")).await;
        let (table, proxy) = (format!("{}.live", keyspace.name), Proxy::start(&address()).await);
        let mut wiring = wiring(&topic, &letters, &table, &proxy.address);
        wiring.drain = "1 s";
        let dir = project(&wiring);
        let mut daemon = Process::daemon(dir.path(), "daemon");
        let admin = daemon.admin().await;
        proxy.set_closed(true);
        proxy.cut();
        produce(&topic, 50).await;
        let status = || get(admin, "/status").and_then(|(_, body)| serde_json::from_str::<Value>(&body).ok());
        until("all are under way", || {
            let status = status()?;
            (status["pipelines"][0]["partitions"][0]["in_flight"] == 50).then_some(())
        })
        .await;
        let admin = admin.to_string();
        let paused = pelton(&["pause", "orders", "--admin", &admin, "--json"]).await;
        assert_eq!((&json(&paused)["state"], &json(&paused)["in_flight"]), (&"paused".into(), &50.into()));
        assert_eq!(paused.status.code(), Some(1), "it is not finished");
        let told = String::from_utf8_lossy(&paused.stderr).into_owned();
        assert!(told.contains("50 records are still under way"), "{told}");
        daemon.until_it_says("waiting for output default for").await;
        proxy.set_closed(false);
        until("it goes on by itself", || (positions(&topic.name, &topic.name, 1)[0].0 == 50).then_some(())).await;
        assert!(daemon.terminate().await.success(), "{}", daemon.output());
        topic.delete().await;
        letters.delete().await;
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_start_after_a_sudden_end_waits_for_its_group_and_says_so_and_a_spare_daemon_is_ready() {
    with_keyspace(|keyspace: Arc<Keyspace>| async move {
        let (topic, letters) = (Topic::new("sudden", 1).await, Topic::new("sudden-dlq", 1).await);
        keyspace.cql(&format!("CREATE TABLE KS.live ({COLUMNS})")).await;
        let (table, cassandra) = (format!("{}.live", keyspace.name), address());
        let dir = project(&wiring(&topic, &letters, &table, &cassandra));
        let mut first = Process::daemon(dir.path(), "first");
        first.until_it_says("joined its group").await;
        // SIGKILL: the group hears nothing of it until its session of six seconds ends.
        drop(first);

        let mut second = Process::daemon(dir.path(), "second");
        let admin = second.admin().await;
        let causes = until("it says for what it waits", || {
            let (code, body) = get(admin, "/readyz")?;
            (code == 503 && body.contains("waiting for its consumer group")).then_some(body)
        })
        .await;
        assert!(causes.contains("session must end first") && causes.contains("up to 6 s"), "{causes}");
        assert!(!second.output().contains("joined its group"), "{}", second.output());
        let status = pelton(&["status", "--admin", &admin.to_string(), "--json"]).await;
        assert_eq!(json(&status)["pipelines"][0]["state"], "starting");
        second.until_it_says("waiting for its group for").await;
        second.until_it_says("joined its group").await;
        until("it is ready", || get(admin, "/readyz").filter(|(code, _)| *code == 200)).await;

        // There is one partition, and it is taken.
        let mut third = Process::daemon(dir.path(), "third");
        let spare = third.admin().await;
        until("the third is ready", || get(spare, "/readyz").filter(|(code, _)| *code == 200)).await;
        assert!(third.output().contains("others read all partitions"), "{}", third.output());
        assert!(third.terminate().await.success() && second.terminate().await.success());
        topic.delete().await;
        letters.delete().await;
    })
    .await;
}

/// `pelton tap`, to its end, while records flow.
async fn tapped(topic: &Topic, arguments: &[&str]) -> Output {
    let all: Vec<String> = ["tap"].iter().chain(arguments).map(|argument| (*argument).to_owned()).collect();
    let tap = tokio::spawn(async move { pelton(&all.iter().map(String::as_str).collect::<Vec<_>>()).await });
    let flowing = async {
        while !tap.is_finished() {
            produce(topic, 100).await;
        }
    };
    tokio::time::timeout(LIMIT, flowing).await.expect("it has seen enough in time");
    tap.await.expect("it ends")
}

#[tokio::test(flavor = "multi_thread")]
async fn a_tap_shows_live_records_of_a_running_daemon_and_what_stands_in_them_only_where_asked() {
    with_keyspace(|keyspace: Arc<Keyspace>| async move {
        let (topic, letters) = (Topic::new("tapped", 1).await, Topic::new("tapped-dlq", 1).await);
        keyspace.cql(&format!("CREATE TABLE KS.live ({COLUMNS})")).await;
        let (table, cassandra) = (format!("{}.live", keyspace.name), address());
        let dir = project(&wiring(&topic, &letters, &table, &cassandra));
        let mut daemon = Process::daemon(dir.path(), "daemon");
        let admin = daemon.admin().await.to_string();
        daemon.until_it_says("joined its group").await;

        let nobody = pelton(&["tap", "clicks", "--admin", &admin]).await;
        assert_eq!(nobody.status.code(), Some(2), "there is no such pipeline: {nobody:?}");

        let told = tapped(&topic, &["orders", "--admin", &admin, "--count", "5", "--json"]).await;
        assert!(told.status.success(), "{told:?}");
        let text = String::from_utf8(told.stdout).expect("text");
        let sights: Vec<Value> = text.lines().map(|line| serde_json::from_str(line).expect(line)).collect();
        assert_eq!(sights.len(), 5, "{text}");
        let mut before = -1;
        for sight in &sights {
            assert_eq!((&sight["step"], &sight["plugin"]), (&1.into(), &"shop-orders".into()), "{sight}");
            assert_eq!((&sight["topic"], &sight["partition"]), (&topic.name.as_str().into(), &0.into()), "{sight}");
            let offset = sight["offset"].as_i64().expect("an offset");
            assert!(offset > before, "in the order of the log: {text}");
            before = offset;
            assert_eq!(sight["before"]["key_bytes"], 1, "{sight}");
            assert!(sight["before"]["value_bytes"].as_u64() > Some(100), "{sight}");
            assert_eq!(sight["after"][0]["row"]["output"], "default", "{sight}");
        }
        assert!(!text.contains("order_id") && !text.contains("\"key\""), "nobody asked for keys and values: {text}");

        let told = tapped(&topic, &["orders", "--admin", &admin, "--count", "2", "--json", "--payload"]).await;
        let text = String::from_utf8(told.stdout).expect("text");
        let sight: Value = serde_json::from_str(text.lines().next().expect("a line")).expect("JSON");
        assert_eq!(sight["before"]["key"], "k", "{sight}");
        let value = sight["before"]["value"].as_str().expect("the value");
        assert!(value.starts_with("{\"order_id\":\"k\",\"kind\":\"created\""), "{sight}");

        let page = tapped(&topic, &["orders", "--admin", &admin, "--count", "1"]).await;
        let page = String::from_utf8(page.stdout).expect("text");
        assert!(page.contains(" step 1 shop-orders") && page.contains("in   key 1 B value"), "{page}");

        // The line went on meanwhile, and goes on now.
        until("all is committed", || {
            let (committed, end) = positions(&topic.name, &topic.name, 1)[0];
            (end > 0 && committed == end).then_some(())
        })
        .await;
        assert!(daemon.terminate().await.success(), "{}", daemon.output());
        topic.delete().await;
        letters.delete().await;
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_first_interrupt_drains_as_a_termination_does() {
    with_keyspace(|keyspace: Arc<Keyspace>| async move {
        let (topic, letters) = (Topic::new("interrupt", 1).await, Topic::new("interrupt-dlq", 1).await);
        keyspace.cql(&format!("CREATE TABLE KS.live ({COLUMNS})")).await;
        let (table, cassandra) = (format!("{}.live", keyspace.name), address());
        produce(&topic, 20_000).await;
        let dir = project(&wiring(&topic, &letters, &table, &cassandra));
        let mut daemon = Process::daemon(dir.path(), "daemon");
        let committed = || positions(&topic.name, &topic.name, 1)[0].0;
        until("something is committed", || (committed() > 0).then_some(())).await;
        daemon.signal("INT");
        assert!(daemon.end().await.success(), "{}", daemon.output());
        let log = daemon.output();
        assert!(log.contains("SIGINT: draining") && log.contains("all that was begun is committed"), "{log}");
        // Every row that was written lies below the committed offset: nothing of it is repeated.
        let rows = keyspace.json("SELECT JSON amount_cents FROM KS.live").await;
        let row: Value = serde_json::from_str(&rows[0]).expect("JSON");
        assert_eq!(row["amount_cents"].as_i64(), Some(committed() - 1));
        topic.delete().await;
        letters.delete().await;
    })
    .await;
}
