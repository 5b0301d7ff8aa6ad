//! The dead letters of a daemon as it ships, against real services: a poison record, a newer update of its row, a repair.
//! The newer cells must stay, and the missing ones appear.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, UNIX_EPOCH};

use pelton::kafka::{KafkaDeadLetters, delete_topics, topic_settings};
use pelton::pipeline::{DeadLetter, DeadLetters as _};
use pelton::record::{Offset, TopicPartition, WriteTime};
use pelton_tests::process::{LIMIT, Process, program, repository, until};
use pelton_tests::proxy::Proxy;
use rdkafka::consumer::Consumer as _;
use rdkafka::message::Headers as _;
use rdkafka::{Message as _, TopicPartitionList};
use serde_json::Value;
use tempfile::TempDir;
use tokio::time::Instant;

use crate::cassandra_support::{Keyspace, address, with_keyspace};
use crate::kafka_support::{Topic, brokers, connection};
use crate::line_support::{COLUMNS, Producing, Wiring, looking, order, positions, project};

/// An hour ago: the tables' time to live has not passed.
fn base_ms() -> i64 {
    #[expect(clippy::disallowed_methods, reason = "a test's producer is a wall-clock writer")]
    let now = std::time::SystemTime::now();
    now.duration_since(UNIX_EPOCH).expect("after 1970").as_millis() as i64 - 3_600_000
}

/// Runs `pelton dlq …` and hands over how it ended, its result, and what it said besides.
fn dlq(args: &[&str], project: &Path) -> (Option<i32>, String, String) {
    let mut all: Vec<String> = vec!["dlq".into(), args[0].into()];
    let takes_a_name = ["redrive", "show", "to-case"].contains(&args[0]);
    let (names, rest) = args[1..].split_at(usize::from(takes_a_name));
    all.extend(names.iter().map(|name| (*name).to_owned()));
    all.push(project.display().to_string());
    all.extend(rest.iter().map(|arg| (*arg).to_owned()));
    let ran = Command::new(program("pelton")).args(&all).output().expect("pelton runs");
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    (ran.status.code(), text(&ran.stdout), text(&ran.stderr))
}

fn well(args: &[&str], project: &Path) -> String {
    let (code, result, said) = dlq(args, project);
    assert_eq!(code, Some(0), "{args:?}: {result}{said}");
    result
}

fn json(args: &[&str], project: &Path) -> Value {
    let said = well(args, project);
    serde_json::from_str(&said).unwrap_or_else(|error| panic!("{error}: {said}"))
}

/// The counts of the only pipeline: open, failed again, redriven.
fn counts(project: &Path) -> (i64, i64, i64) {
    let listing = json(&["list", "--json"], project);
    let of = |name: &str| listing["pipelines"][0][name].as_i64().expect("a count");
    (of("open"), of("failed_again"), of("redriven"))
}

/// An order whose amount was negated, so that its plugin rejects it, and which is paid later.
fn produce(topic: &str, base_ms: i64) {
    let producing = Producing::to(topic);
    let poison = |key: &str, at| order(key, 500, at).replace("\"amount_cents\":500", "\"amount_cents\":-500");
    producing.send(0, "a", &poison("a", base_ms), base_ms);
    producing.send(0, "b", &poison("b", base_ms + 1), base_ms + 1);
    producing.send(0, "c", "{\"order_id\": \"c\", \"kind\": ", base_ms + 2);
    let paid = |key: &str, at| format!(r#"{{"order_id":"{key}","kind":"paid","ts":{at}}}"#);
    producing.send(0, "a", &paid("a", base_ms + 60_000), base_ms + 60_000);
    producing.send(0, "b", &paid("b", base_ms + 60_001), base_ms + 60_001);
    producing.finish();
}

async fn until_read(daemon: &mut Process, topic: &str) {
    until("all is committed", || {
        daemon.assert_alive();
        positions(topic, topic, 1).iter().all(|(committed, end)| committed == end && *end > 0).then_some(())
    })
    .await;
}

async fn rows(keyspace: &Keyspace) -> Vec<Value> {
    let select = "order_id, status, amount_cents, country, writetime(status) AS status_at, \
                  writetime(updated_at) AS updated_at, writetime(amount_cents) AS amount_at";
    let mut rows: Vec<Value> = Vec::new();
    for key in ["a", "b", "c"] {
        let found = keyspace.json(&format!("SELECT JSON {select} FROM KS.orders WHERE order_id = '{key}'")).await;
        rows.extend(found.iter().map(|row| serde_json::from_str(row).expect("JSON")));
    }
    rows
}

#[tokio::test(flavor = "multi_thread")]
async fn a_repaired_record_is_redriven_below_what_came_later() {
    with_keyspace(|keyspace| async move {
        let (topic, letters) = tokio::join!(Topic::new("dlq-source", 1), Topic::new("dlq", 2));
        keyspace.cql(&format!("CREATE TABLE KS.orders ({COLUMNS})")).await;
        let dir = project(&Wiring {
            topic: &topic.name,
            group: &topic.name,
            table: &format!("{}.orders", keyspace.name),
            dead_letters: &letters.name,
            cassandra: &address(),
            drain: "10 s",
        });
        let dir = dir.path();
        let base_ms = base_ms();
        produce(&topic.name, base_ms);
        let mut daemon = Process::daemon(dir, "daemon");
        until_read(&mut daemon, &topic.name).await;

        let id = |offset: i64| format!("{}/0/{offset}", topic.name);
        let page = well(&["list"], dir);
        for part in ["orders", "3 open", "negative_amount", "decode.malformed_json", &id(1), "pelton dlq show"] {
            assert!(page.contains(part), "{part} is not in\n{page}");
        }
        assert_eq!(counts(dir), (3, 0, 0));
        let shown = well(&["show", &id(0)], dir);
        assert!(shown.contains("amount_cents must not be negative") && !shown.contains("customer"), "{shown}");
        assert!(well(&["show", &id(0), "--payload"], dir).contains("\"amount_cents\":-500"));

        // Nobody can be asked, and a rehearsal writes nothing.
        let (code, _, said) = dlq(&["redrive", "orders", "--code", "negative_amount"], dir);
        assert!(code == Some(2) && said.contains("--yes"), "{said}");
        let rehearsed = json(&["redrive", "orders", "--all", "--dry-run", "--json"], dir);
        assert_eq!(rehearsed["planned"].as_array().map(Vec::len), Some(3), "{rehearsed}");
        assert_eq!(counts(dir), (3, 0, 0));

        // Without a repair it fails again, and is not taken a third time by itself.
        let (code, said, _) = dlq(&["redrive", "orders", "--code", "decode.malformed_json", "--yes", "--json"], dir);
        let summary: Value = serde_json::from_str(&said).expect(&said);
        assert_eq!((code, summary["failed"].as_array().map(Vec::len)), (Some(1), Some(1)), "{said}");
        assert_eq!(counts(dir), (2, 1, 0));

        // One by a field, while the daemon runs; the other through a file.
        let summary = json(&["redrive", "orders", "--id", &id(0), "--set", "amount_cents=500", "--yes", "--json"], dir);
        assert_eq!(
            (summary["redriven"].as_i64(), summary["rows"]["default"].as_i64()),
            (Some(1), Some(1)),
            "{summary}"
        );
        let file = dir.join("edited.jsonl");
        let path = file.display().to_string();
        well(&["export", "--code", "negative_amount", "--output", &path], dir);
        let lines = std::fs::read_to_string(&file).expect("a file");
        assert_eq!(lines.lines().count(), 1, "what was redriven is not exported: {lines}");
        std::fs::write(&file, lines.replace("\"amount_cents\":-500", "\"amount_cents\":500")).expect("written");
        well(&["redrive", "orders", "--file", &path, "--yes"], dir);
        assert_eq!(counts(dir), (0, 1, 2));

        let h = base_ms * 1_000;
        let wanted = |key: &str, at: i64| {
            serde_json::json!({
                "order_id": key, "status": "paid", "amount_cents": 500, "country": "DE",
                "status_at": h + 60_000_000 + at, "updated_at": h + 60_000_000 + at, "amount_at": h + at,
            })
        };
        assert_eq!(rows(&keyspace).await, [wanted("a", 0), wanted("b", 1_000)]);

        let again = json(&["redrive", "orders", "--all", "--yes", "--json"], dir);
        let left = (&again["chosen"], &again["left_failed_again"], &again["left_redriven"]);
        assert_eq!(left, (&0.into(), &1.into(), &2.into()), "{again}");
        assert!(daemon.terminate().await.success(), "{}", daemon.output());
    })
    .await;
}

/// Orders that their plugin rejects, each with a later update that is good, and other good ones beside them, so that the
/// breaker has nothing to say. Timestamps rise by milliseconds, so they are the write times.
fn produce_many(topic: &str, base_ms: i64, count: i64) {
    let producing = Producing::to(topic);
    for number in 0..count {
        let (at, poison, good) = (base_ms + number * 10, format!("p{number}"), format!("g{number}"));
        let rejected = order(&poison, 500, at).replace("\"amount_cents\":500", "\"amount_cents\":-500");
        producing.send(0, &poison, &rejected, at);
        let paid = format!(r#"{{"order_id":"{poison}","kind":"paid","ts":{}}}"#, at + 1);
        producing.send(0, &poison, &paid, at + 1);
        producing.send(0, &good, &order(&good, 700, at + 2), at + 2);
    }
    producing.finish();
}

/// By order: the `pelton-id` of every record of a topic's only partition.
fn ids_by_order(topic: &str) -> BTreeMap<String, Vec<String>> {
    let consumer = looking("none");
    let (begin, end) = consumer.fetch_watermarks(topic, 0, LIMIT).expect("watermarks");
    let mut list = TopicPartitionList::new();
    list.add_partition_offset(topic, 0, rdkafka::Offset::Offset(begin)).expect("a place");
    consumer.assign(&list).expect("assigned");
    let mut found: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for _ in begin..end {
        let message = consumer.poll(LIMIT).expect("a record in time").expect("a record");
        let value: Value = serde_json::from_slice(message.payload().expect("a value")).expect("JSON");
        let headers = message.headers().expect("headers");
        let id = headers.iter().find(|header| header.key == "pelton-id").and_then(|header| header.value);
        let id = String::from_utf8(id.expect("an id").to_vec()).expect("text");
        found.entry(value["order_id"].as_str().expect("an order").to_owned()).or_default().push(id);
    }
    found
}

#[tokio::test(flavor = "multi_thread")]
async fn a_redrive_that_is_killed_and_run_again_loses_nothing_and_writes_the_same_cells() {
    const COUNT: i64 = 600;
    with_keyspace(|keyspace| async move {
        let (topic, letters) = tokio::join!(Topic::new("killed-redrive", 1), Topic::new("killed-redrive-dlq", 2));
        let alerts = Topic::new("killed-redrive-alerts", 1).await;
        keyspace.cql(&format!("CREATE TABLE KS.orders ({COLUMNS})")).await;
        let proxy = Proxy::start(&address()).await;
        let dir = project(&Wiring {
            topic: &topic.name,
            group: &topic.name,
            table: &format!("{}.orders", keyspace.name),
            dead_letters: &letters.name,
            cassandra: &proxy.address,
            drain: "10 s",
        });
        let dir = dir.path();
        // Each order of a euro and more is an alert too.
        let file = dir.join("pipelines/orders.yaml");
        let pipeline = std::fs::read_to_string(&file).expect("the pipeline");
        let alerting = pipeline
            .replace("alert_above_eur: 1000000000", "alert_above_eur: 1")
            .replace("discard: true", &format!("kafka: {{ topic: {} }}", alerts.name));
        std::fs::write(&file, alerting).expect("a file");
        let base_ms = base_ms();
        let sending = topic.name.clone();
        tokio::task::spawn_blocking(move || produce_many(&sending, base_ms, COUNT)).await.expect("the producer");
        let mut daemon = Process::daemon(dir, "daemon");
        until_read(&mut daemon, &topic.name).await;
        assert!(daemon.terminate().await.success(), "{}", daemon.output());
        assert_eq!(counts(dir), (COUNT, 0, 0));
        // A redrive has nothing to keep in a journal, and makes none.
        let journal = format!("{}.pelton-journal", topic.name);
        delete_topics(&connection(), &[&journal]).await.expect("the daemon made one");

        let redrive =
            ["redrive", "orders", "--code", "negative_amount", "--set", "amount_cents=500", "--yes", "--json"];
        let written = || async {
            let select = "SELECT JSON order_id FROM KS.orders WHERE amount_cents = 500 ALLOW FILTERING";
            keyspace.json(select).await.len() as i64
        };
        // Its answers are held back, so that there is time to see it at work.
        proxy.set_delay(Duration::from_millis(400));
        let mut command = Command::new(program("pelton"));
        command.args(["dlq", "redrive", "orders"]).arg(dir).args(&redrive[2..]);
        let mut killed = Process::start(&mut command, &dir.join("killed.log"));
        let limit = Instant::now() + LIMIT;
        while written().await == 0 {
            assert!(killed.ended().is_none(), "it ended before a row was seen: {}", killed.output());
            assert!(Instant::now() < limit, "no row was seen: {}", killed.output());
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        killed.kill();
        proxy.set_delay(Duration::ZERO);
        let in_between = written().await;
        assert!((1..COUNT).contains(&in_between), "it was killed in the middle: {in_between} of {COUNT} rows");
        let (open, failed_again, redriven) = counts(dir);
        assert!(open > 0 && failed_again == 0 && open + redriven == COUNT, "{open} open, {redriven} redriven");

        // The proxy must go on meanwhile.
        let summary = tokio::task::block_in_place(|| json(&redrive, dir));
        assert_eq!(summary["redriven"].as_i64(), Some(open), "{summary}");
        assert_eq!(counts(dir), (0, 0, COUNT));

        // Below what came later, at their own write times, whichever of the two wrote them.
        let select = "SELECT JSON order_id, status, amount_cents, country, writetime(status) AS status_at, \
                      writetime(amount_cents) AS amount_at, writetime(country) AS country_at FROM KS.orders";
        let row = |row: &String| {
            let row: Value = serde_json::from_str(row).expect("JSON");
            (row["order_id"].as_str().expect("an order").to_owned(), row)
        };
        let rows: BTreeMap<String, Value> = keyspace.json(select).await.iter().map(row).collect();
        assert_eq!(rows.len() as i64, 2 * COUNT);
        for number in 0..COUNT {
            let h = (base_ms + number * 10) * 1_000;
            let wanted = |order: &str, status, amount, status_at: i64, at: i64| {
                serde_json::json!({
                    "order_id": order, "status": status, "amount_cents": amount, "country": "DE",
                    "status_at": status_at, "amount_at": at, "country_at": at,
                })
            };
            let (poison, good) = (format!("p{number}"), format!("g{number}"));
            assert_eq!(rows[&poison], wanted(&poison, "paid", 500, h + 1_000, h));
            assert_eq!(rows[&good], wanted(&good, "created", 700, h + 2_000, h + 2_000));
        }

        // At least once in the topic, and each repeat with the same id.
        let topic_of_alerts = alerts.name.clone();
        let ids = tokio::task::spawn_blocking(move || ids_by_order(&topic_of_alerts)).await.expect("a look");
        for number in 0..COUNT {
            let of_order = ids.get(&format!("p{number}")).map(Vec::as_slice).unwrap_or_default();
            let distinct: BTreeSet<&String> = of_order.iter().collect();
            assert_eq!(distinct.len(), 1, "p{number}: {of_order:?}");
            assert_eq!(ids.get(&format!("g{number}")).map(Vec::len), Some(1), "nobody redrove g{number}");
        }
        // Of a topic that is not there, no setting is told.
        let journal = topic_settings(&connection(), &journal).await.expect("the brokers answer").unwrap_or_default();
        assert!(journal.is_empty(), "a redrive made a journal: {journal:?}");
    })
    .await;
}

/// The same with the embedded tables, and letters in a file.
pub(crate) fn embedded(topic: &str) -> TempDir {
    let dir = tempfile::tempdir().expect("a directory");
    std::fs::create_dir(dir.path().join("pipelines")).expect("a fresh directory");
    let settings = format!(
        "kafka: {{ brokers: {} }}\nsqlite: tables.db\nplugin_dirs: [{}]\nadmin: {{ listen: 127.0.0.1:0 }}\n",
        brokers(),
        repository().join("plugins").display(),
    );
    let pipeline = format!(
        "source:\n  kafka: {{ topics: [{topic}], group: {topic}, start: earliest }}\nsteps:\n  - plugin: shop-orders\n    \
         config: {{ vat_percent: 19, alert_above_eur: 1000000000 }}\noutputs:\n  default:\n    sqlite:\n      \
         table: orders\n      create:\n        columns: {{ order_id: text, status: text, amount_cents: integer, \
         country: text }}\n        key: [order_id]\n  alerts: {{ discard: true }}\n"
    );
    std::fs::write(dir.path().join("pelton.yaml"), settings).expect("a fresh file");
    std::fs::write(dir.path().join("pipelines/orders.yaml"), pipeline).expect("a fresh file");
    dir
}

/// Runs `pelton replay orders`: how it ended, and what it said.
fn replay(args: &[&str], project: &Path) -> (Option<i32>, String) {
    let ran = Command::new(program("pelton")).args(["replay", "orders"]).arg(project).args(args).output();
    let ran = ran.expect("pelton runs");
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    (ran.status.code(), text(&ran.stdout) + &text(&ran.stderr))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rebuild_refuses_what_was_redriven_and_a_range_that_is_none() {
    let topic = Topic::new("rebuilt", 1).await;
    let dir = embedded(&topic.name);
    let dir = dir.path();
    produce(&topic.name, base_ms());
    let mut daemon = Process::daemon(dir, "daemon");
    until_read(&mut daemon, &topic.name).await;
    assert!(daemon.terminate().await.success(), "{}", daemon.output());

    // What only another pipeline needs is away.
    let settings = dir.join("pelton.yaml");
    let was = std::fs::read_to_string(&settings).expect("settings");
    let more = "cassandra: { contact_points: [127.0.0.1:9] }\nstartup_wait: 2 s\n";
    std::fs::write(&settings, format!("{was}{more}")).expect("written");
    let other = "source:\n  kafka: { topics: [elsewhere] }\noutputs:\n  default:\n    cassandra: { table: a.b }\n";
    std::fs::write(dir.join("pipelines/other.yaml"), other).expect("written");
    let (code, said) = replay(&["--from", "earliest", "--into", "copy"], dir);
    assert_eq!(code, Some(0), "{said}");

    // Ranges that are none, and one that is longer than its partition.
    for (range, words) in [
        (&["--from", "0:99999"][..], "no offset 99999: it holds 0 to below 5"),
        (&["--from", "0:3", "--to", "0:1"], "begins at offset 3 and ends before it, at 1"),
    ] {
        let (code, said) = replay(range, dir);
        assert!(code == Some(2) && said.contains(words), "{said}");
    }
    let (code, said) = replay(&["--from", "0:3", "--to", "0:99999", "--dry-run"], dir);
    assert!(code == Some(0) && said.contains("offsets 3 to 4, 2 in all") && said.contains("before 99999"), "{said}");
    let (code, said) = replay(&["--from", "0:3", "--dry-run", "--json"], dir);
    let summary: Value = serde_json::from_str(said.get(said.find('{').unwrap_or_default()..).unwrap_or_default())
        .unwrap_or_else(|error| panic!("{error}: {said}"));
    let offsets = [&summary["offsets"], &summary["parts"][0]["offsets"]].map(Value::as_u64);
    assert_eq!((code, offsets), (Some(0), [Some(2), Some(2)]), "{said}");
    assert!(summary.get("records").is_none() && summary.get("seconds").is_none(), "nothing was read: {said}");

    for verb in [&["export"][..], &["redrive", "orders", "--dry-run"]] {
        let (code, _, said) = dlq(&[verb, &["--code", "negative_amont"]].concat(), dir);
        assert!(code == Some(2) && said.contains("no dead letter has the code negative_amont; there is "), "{said}");
    }

    well(&["redrive", "orders", "--code", "negative_amount", "--set", "amount_cents=500", "--yes"], dir);
    let (code, said) = replay(&["--from", "earliest", "--into", "again"], dir);
    assert_eq!(code, Some(1), "{said}");
    for part in ["2 of its records were redriven", &format!("{}/0/1", topic.name), "--without-redriven"] {
        assert!(said.contains(part), "{part} is not in {said}");
    }
    let (code, said) = replay(&["--from", "earliest", "--into", "again", "--without-redriven"], dir);
    assert!(code == Some(0) && said.contains("not written by this: 2"), "{said}");
    let (code, said) = replay(&["--from", "earliest"], dir);
    assert!(code == Some(0) && said.contains("not written by this: 2"), "the live table keeps them: {said}");
    let (code, said) = replay(&["--from", "0:3", "--into", "later"], dir);
    assert!(code == Some(0) && !said.contains("redriven"), "nothing of the range: {said}");
    topic.delete().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_repaired_record_is_redriven_into_the_embedded_tables_from_a_file_of_letters() {
    let topic = Topic::new("dlq-embedded", 1).await;
    let dir = embedded(&topic.name);
    let dir = dir.path();
    produce(&topic.name, base_ms());
    let mut daemon = Process::daemon(dir, "daemon");
    until_read(&mut daemon, &topic.name).await;
    assert_eq!(counts(dir), (3, 0, 0));
    let redrive = ["redrive", "orders", "--code", "negative_amount", "--set", "amount_cents=500", "--yes", "--json"];
    let summary = json(&redrive, dir);
    assert_eq!(summary["redriven"].as_i64(), Some(2), "{summary}");
    assert_eq!(counts(dir), (1, 0, 2));
    assert!(daemon.terminate().await.success(), "{}", daemon.output());
    let tables = rusqlite::Connection::open(dir.join("tables.db")).expect("the embedded tables");
    let mut select =
        tables.prepare("SELECT order_id, status, amount_cents, country FROM orders ORDER BY 1").expect("SQL");
    let rows: Vec<(String, String, i64, String)> = select
        .query_map([], |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?, row.get(3)?)))
        .expect("rows")
        .collect::<Result<_, _>>()
        .expect("rows");
    let row = |key: &str| (key.to_owned(), "paid".to_owned(), 500, "DE".to_owned());
    assert_eq!(rows, [row("a"), row("b")]);

    // A case of the letter, for the plugin: it is read, and says what comes of it today.
    let plugin = dir.join("shop-orders");
    std::fs::create_dir(&plugin).expect("a directory");
    let plugin_dir = plugin.display().to_string();
    let said =
        well(&["to-case", &format!("{}/0/0", topic.name), "--plugin-dir", &plugin_dir, "--name", "negative"], dir);
    assert!(said.contains("pelton plugin test"), "{said}");
    std::fs::copy(repository().join("plugins/shop-orders/plugin.yaml"), plugin.join("plugin.yaml")).expect("a copy");
    std::fs::copy(repository().join("plugins/shop-orders/shop-orders.wasm"), plugin.join("shop-orders.wasm"))
        .expect("a copy");
    let ran = Command::new(program("pelton")).args(["plugin", "test", "--bless"]).arg(&plugin).output().expect("runs");
    let said = String::from_utf8_lossy(&ran.stdout).into_owned();
    let expected = std::fs::read_to_string(plugin.join("cases/negative/expected.jsonl")).expect(&said);
    assert!(expected.contains("\"reject\":\"negative_amount\""), "{expected}");
}

/// A letter of an order whose amount was negated.
fn letter(topic: &str, offset: i64) -> DeadLetter {
    let key = format!("k{offset}");
    let value = order(&key, 500, 1_000).replace("\"amount_cents\":500", "\"amount_cents\":-500");
    DeadLetter {
        pipeline: "orders".to_owned(),
        source: TopicPartition::new(topic, 0),
        offset: Offset(offset),
        timestamp_ms: Some(1_000 + offset),
        key: Some(key.into_bytes()),
        value: Some(value.into_bytes()),
        headers: Vec::new(),
        stage: "transform:shop-orders".to_owned(),
        code: "negative_amount".to_owned(),
        message: "amount_cents must not be negative".to_owned(),
        backtrace: None,
        logs: Vec::new(),
        digests: Vec::new(),
        attempts: 1,
        write_time: WriteTime((1_000 + offset) * 1_000),
        partial: false,
        id: format!("{topic}/0/{offset}/dead-letter"),
        redrives: 0,
        at_ms: None,
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn two_redrives_at_once_leave_no_row_of_both() {
    const LETTERS: i64 = 400;
    let (topic, letters) = tokio::join!(Topic::new("dlq-twice", 1), Topic::new("dlq-twice-letters", 3));
    let dir = embedded(&topic.name);
    let dir = dir.path();
    let pipeline = dir.join("pipelines/orders.yaml");
    let was = std::fs::read_to_string(&pipeline).expect("the pipeline");
    let place = format!("dead_letters: {{ kafka: {{ topic: {} }} }}\n", letters.name);
    std::fs::write(&pipeline, was + &place).expect("written");
    let writer =
        KafkaDeadLetters::open(&connection(), &letters.name, "orders", &dir.join("spill")).await.expect("open");
    writer.write((0..LETTERS).map(|offset| letter(&topic.name, offset)).collect()).await;

    let begin = |amount: &str, country: &str| {
        let items = format!(r#"items=[{{"sku":"A","name":"Tee","quantity":1,"price_cents":{amount}}}]"#);
        let set = [format!("amount_cents={amount}"), items, format!("customer.country={country}")];
        let mut command = Command::new(program("pelton"));
        command.args(["dlq", "redrive", "orders"]).arg(dir).args(["--all", "--yes", "--json"]);
        for field in &set {
            command.args(["--set", field]);
        }
        command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("pelton runs")
    };
    let running = [begin("1", "DE"), begin("2", "AT")];
    let mut redriven = 0;
    for child in running {
        let ran =
            tokio::task::spawn_blocking(move || child.wait_with_output()).await.expect("a thread").expect("it ends");
        let said = String::from_utf8_lossy(&ran.stdout).into_owned() + &String::from_utf8_lossy(&ran.stderr);
        let summary: Value = serde_json::from_slice(&ran.stdout).expect(&said);
        let refused = summary["refused"].as_array().expect("a list");
        assert!(refused.iter().all(|one| one["message"].to_string().contains("another redrive")), "{said}");
        assert_eq!(summary["failed"].as_array().map(Vec::len), Some(0), "{said}");
        redriven += summary["redriven"].as_i64().expect("a count");
    }
    assert!(redriven >= LETTERS, "each is redriven by one at least: {redriven}");
    assert_eq!(counts(dir), (0, 0, LETTERS));
    let tables = rusqlite::Connection::open(dir.join("tables.db")).expect("the embedded tables");
    let count = |which: &str| {
        let select = format!("SELECT count(*) FROM orders WHERE {which}");
        tables.query_row(&select, [], |row| row.get::<_, i64>(0)).expect("a count")
    };
    let whole = "(amount_cents = 1 AND country = 'DE') OR (amount_cents = 2 AND country = 'AT')";
    assert_eq!((count(whole), count("true")), (LETTERS, LETTERS), "no row is of both");
    topic.delete().await;
    letters.delete().await;
}
