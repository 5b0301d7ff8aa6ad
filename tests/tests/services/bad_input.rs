//! Bad input through the whole daemon: every kind of bad record among good ones, in one topic that two pipelines read.
//! `rejects` sends tombstones and all else that is bad to a topic that is too small for one of them; `deletes` lets
//! tombstones delete, and keeps its dead letters in a file.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use pelton::dead_letters::headers::SPILL_HEADER;
use pelton::pipeline::dead_letter_file::{DeadLetterLine, SpillPointer};
use pelton::record::push_header;
use pelton_tests::guests;
use pelton_tests::process::{Process, get, metric, repository, until};
use rdkafka::message::{Header, Headers as _, Message as _, OwnedHeaders, OwnedMessage};
use rdkafka::producer::FutureRecord;

use crate::cassandra_support::{Keyspace, address, with_keyspace};
use crate::kafka_sink::{header, read_all};
use crate::kafka_support::{Topic, brokers, producer};
use crate::line_support::{COLUMNS, looking, order, positions};

/// Stands in every key, value and header: where a log has it, a payload has leaked.
const MARK: &str = "nobody-reads-this-in-a-log";
const LARGE: usize = 10 << 20;
const BASE_MS: i64 = 1_770_000_000_000;

/// What must become of a record.
#[derive(Clone, Copy, Debug)]
enum Fate {
    /// A row with this id.
    Row(&'static str),
    /// A dead letter: stage, code.
    Letter(&'static str, &'static str),
    /// The row with this id goes, where tombstones delete; else a dead letter.
    Deletes(&'static str),
    /// A dead letter with one code where tombstones are rejected, with another where they delete.
    NamesNoRow,
}

struct Sent {
    key: Option<Vec<u8>>,
    value: Option<Vec<u8>>,
    headers: Vec<(&'static str, Option<Vec<u8>>)>,
    fate: Fate,
}

fn id(name: &str) -> String {
    format!("{MARK}-{name}")
}

fn timestamp_ms(offset: usize) -> i64 {
    BASE_MS + offset as i64 * 1_000
}

/// All that is sent, in order. The last but one has no timestamp.
fn records() -> Vec<Sent> {
    let mut sent: Vec<Sent> = Vec::new();
    let mut push = |key: Option<&str>, value: Option<Vec<u8>>, fate| {
        sent.push(Sent { key: key.map(|key| id(key).into_bytes()), value, headers: Vec::new(), fate });
    };
    let good = |name: &str, number: usize| order(&id(name), number as i64, timestamp_ms(number)).into_bytes();
    let padded = |mut value: Vec<u8>, end: &[u8]| {
        value.truncate(value.len() - 1);
        value.extend_from_slice(br#","note":""#);
        value.resize(LARGE, b'x');
        [&value, end].concat()
    };
    push(Some("a"), Some(good("a", 0)), Fate::Row("a"));
    push(Some("p"), Some(format!("P {MARK}").into_bytes()), Fate::Letter("transform:chokes", "plugin.trap"));
    push(Some("b"), Some(good("b", 2)), Fate::Row("b"));
    push(Some("m"), Some(format!("{{\"{MARK}\":").into_bytes()), Fate::Letter("decode", "decode.malformed_json"));
    push(Some("e"), Some(Vec::new()), Fate::Letter("decode", "decode.empty"));
    push(Some("large"), Some(padded(good("large", 5), b"\"}")), Fate::Row("large"));
    push(Some("spilled"), Some(padded(good("m", 6), b"")), Fate::Letter("decode", "decode.malformed_json"));
    push(Some("b"), None, Fate::Deletes("b"));
    push(None, Some(good("no-key", 8)), Fate::Row("no-key"));
    push(Some("u"), Some([MARK.as_bytes(), b"\xff"].concat()), Fate::Letter("decode", "decode.invalid_utf8"));
    push(Some("h"), Some(format!("[\"{MARK}\"]").into_bytes()), Fate::Letter("decode", "decode.not_object"));
    push(Some("headers"), Some(good("headers", 11)), Fate::Row("headers"));
    let wrong = String::from_utf8(good("w", 12)).unwrap().replace("\"ts\":", "\"ts\":\"x\",\"other\":");
    push(Some("w"), Some(wrong.into_bytes()), Fate::Letter("decode", "decode.wrong_type"));
    let negative = order(&id("n"), -1, timestamp_ms(13)).into_bytes();
    push(Some("n"), Some(negative), Fate::Letter("transform:shop-orders", "negative_amount"));
    push(None, None, Fate::NamesNoRow);
    push(Some("a"), Some(good("a", 15)), Fate::Row("a"));
    push(Some("no-time"), Some(good("no-time", 16)), Fate::Row("no-time"));
    push(Some("last"), Some(format!("{{{MARK}").into_bytes()), Fate::Letter("decode", "decode.malformed_json"));
    for at in [10, 11] {
        let mark = || Some(MARK.as_bytes().to_vec());
        sent[at].headers = vec![("trace", mark()), ("trace", None), ("trace", Some(b"\xfe".to_vec())), ("", mark())];
    }
    sent
}

const NO_TIME: usize = 16;

async fn send(topic: &str, sent: &[Sent]) {
    let producer = producer();
    for (offset, record) in sent.iter().enumerate() {
        let headers = record
            .headers
            .iter()
            .fold(OwnedHeaders::new(), |headers, (key, value)| headers.insert(Header { key, value: value.as_deref() }));
        let at = if offset == NO_TIME { -1 } else { timestamp_ms(offset) };
        let mut message = FutureRecord::to(topic).partition(0).timestamp(at).headers(headers);
        message.key = record.key.as_deref();
        message.payload = record.value.as_deref();
        // One by one: the offsets are the places in the list.
        let delivered = producer.send(message, rdkafka::util::Timeout::Never).await.map_err(|(error, _)| error);
        assert_eq!(delivered.unwrap().offset, offset as i64);
    }
}

fn project(dir: &Path, topic: &Topic, letters: &Topic, keyspace: &Keyspace) {
    let write = |path: &str, text: String| std::fs::write(dir.join(path), text).expect("a fresh file");
    std::fs::create_dir(dir.join("pipelines")).expect("a fresh directory");
    std::fs::create_dir(dir.join("plugins")).expect("a fresh directory");
    std::fs::write(dir.join("plugins/chokes.wasm"), guests::component("chokes")).expect("a fresh file");
    let settings = format!(
        "kafka: {{ brokers: {} }}\ncassandra: {{ contact_points: [{}] }}\nplugin_dirs: [plugins, {}]\n\
         admin: {{ listen: 127.0.0.1:0 }}\n",
        brokers(),
        address(),
        repository().join("plugins").display(),
    );
    write("pelton.yaml", settings);
    for (name, table, dead_letters) in [
        ("rejects", "table: KS.rejects", format!("kafka: {{ topic: {} }}", letters.name)),
        ("deletes", "table: KS.deletes, tombstones: { delete: [order_id] }", "file: letters.jsonl".to_owned()),
    ] {
        let table = table.replace("KS.", &format!("{}.", keyspace.name));
        let topic = &topic.name;
        let pipeline = format!(
            "source:\n  kafka: {{ topics: [{topic}], group: {topic}-{name} }}\nsteps:\n  - plugin: chokes\n  \
             - plugin: shop-orders\n    config: {{ vat_percent: 19, alert_above_eur: 1000000000 }}\noutputs:\n  \
             default:\n    cassandra: {{ {table} }}\n  alerts: {{ discard: true }}\ndead_letters:\n  {dead_letters}\n"
        );
        write(&format!("pipelines/{name}.yaml"), pipeline);
    }
}

/// By offset: stage and code of each dead letter of a pipeline.
fn letters_of(sent: &[Sent], deletes: bool) -> BTreeMap<i64, (&'static str, &'static str)> {
    let letter = |fate| match fate {
        Fate::Row(_) => None,
        Fate::Letter(stage, code) => Some((stage, code)),
        Fate::Deletes(_) if deletes => None,
        Fate::NamesNoRow if deletes => Some(("encode", "encode.no_key")),
        Fate::Deletes(_) | Fate::NamesNoRow => Some(("encode", "encode.tombstone")),
    };
    sent.iter().enumerate().filter_map(|(offset, sent)| Some((offset as i64, letter(sent.fate)?))).collect()
}

/// Ids, amounts and write times, as JSON.
fn rows_of(sent: &[Sent], deletes: bool) -> Vec<String> {
    let mut rows = BTreeMap::new();
    for (offset, sent) in sent.iter().enumerate() {
        match sent.fate {
            Fate::Row(name) => {
                rows.insert(id(name), offset);
            }
            Fate::Deletes(name) if deletes => {
                rows.remove(&id(name));
            }
            _ => {}
        }
    }
    let row = |(id, offset): (String, usize)| {
        let at = if offset == NO_TIME { "?".to_owned() } else { (timestamp_ms(offset) * 1_000).to_string() };
        format!("{id} {offset} {at}")
    };
    rows.into_iter().map(row).collect()
}

async fn stored(keyspace: &Keyspace, table: &str) -> Vec<String> {
    let select = format!("SELECT JSON order_id, amount_cents, writetime(status) AS at FROM KS.{table}");
    let mut rows = Vec::new();
    for row in keyspace.json(&select).await {
        let row: serde_json::Value = serde_json::from_str(&row).expect("JSON");
        let id = row["order_id"].as_str().expect("a text");
        let at = if id.ends_with("no-time") { "?".to_owned() } else { row["at"].to_string() };
        rows.push(format!("{id} {} {at}", row["amount_cents"]));
    }
    rows.sort();
    rows
}

fn packed(headers: &[(&'static str, Option<Vec<u8>>)]) -> Vec<u8> {
    headers.iter().fold(Vec::new(), |mut packed, (name, value)| {
        push_header(&mut packed, name, value.as_deref());
        packed
    })
}

/// A letter of the topic as what a file would say: the record behind it, raw, and stage, code, timestamp, write time.
fn as_line(letter: &OwnedMessage, spill_dir: &Path) -> (DeadLetterLine, Vec<u8>) {
    let text = |name: &str| String::from_utf8(header(letter, name).unwrap_or_else(|| panic!("{name}"))).unwrap();
    let number = |name: &str| text(name).parse::<i64>().unwrap_or_else(|_| panic!("{name}"));
    assert_eq!(text("pelton.pipeline"), "rejects");
    // A trap is tried again, and its batch cut: in how many attempts depends on who shared the batch.
    assert!(number("pelton.attempts") >= if text("pelton.code") == "plugin.trap" { 2 } else { 1 });
    assert_eq!(number("__connect.errors.partition"), 0);
    assert!(!text("pelton.digests").is_empty() && !text("__connect.errors.exception.message").is_empty());
    if let Some(pointer) = header(letter, SPILL_HEADER) {
        let pointer: SpillPointer = serde_json::from_slice(&pointer).expect("JSON");
        let spill = std::fs::read(spill_dir.join(&pointer.file)).expect("a spill file");
        let line = &spill[pointer.offset as usize..][..pointer.length as usize];
        let line: DeadLetterLine = serde_json::from_slice(line).expect("a whole line");
        assert_eq!(line.offset, number("__connect.errors.offset"), "the pointer names its record");
        let headers = line.record().expect("base64").2;
        return (line, headers);
    }
    let mut headers = Vec::new();
    for own in letter.headers().expect("headers").iter().take(number("pelton.headers") as usize) {
        push_header(&mut headers, own.key, own.value);
    }
    let line = DeadLetterLine::of(&pelton::pipeline::DeadLetter {
        pipeline: "rejects".to_owned(),
        source: pelton::record::TopicPartition::new(&text("__connect.errors.topic"), 0),
        offset: pelton::record::Offset(number("__connect.errors.offset")),
        timestamp_ms: header(letter, "pelton.timestamp").map(|_| number("pelton.timestamp")),
        key: letter.key().map(<[u8]>::to_vec),
        value: letter.payload().map(<[u8]>::to_vec),
        headers: headers.clone(),
        stage: text("pelton.stage"),
        code: text("pelton.code"),
        message: String::new(),
        backtrace: None,
        logs: Vec::new(),
        digests: Vec::new(),
        attempts: 1,
        write_time: pelton::record::WriteTime(number("pelton.write-time")),
        partial: text("pelton.partial") == "true",
        id: text("pelton-id"),
        redrives: 0,
        at_ms: None,
    });
    (line, headers)
}

/// Each bad record once, as it was sent.
fn assert_letters(found: &[(DeadLetterLine, Vec<u8>)], sent: &[Sent], topic: &str, deletes: bool) {
    let wanted = letters_of(sent, deletes);
    let mut offsets: Vec<i64> = found.iter().map(|(line, _)| line.offset).collect();
    offsets.sort_unstable();
    assert_eq!(offsets, wanted.keys().copied().collect::<Vec<_>>(), "each bad record once");
    for (line, headers) in found {
        let offset = line.offset as usize;
        assert_eq!((line.stage.as_str(), line.code.as_str()), wanted[&line.offset], "offset {offset}");
        let (key, value, _) = line.record().expect("base64");
        assert!((&key, &value) == (&sent[offset].key, &sent[offset].value), "offset {offset}: key and value are raw");
        assert_eq!(*headers, packed(&sent[offset].headers), "offset {offset}: headers in order, repeats and nulls too");
        assert_eq!((line.topic.as_str(), line.partition), (topic, 0));
        assert_eq!(line.timestamp_ms, Some(timestamp_ms(offset)), "offset {offset}");
        if offset < NO_TIME {
            assert_eq!(line.write_time, timestamp_ms(offset) * 1_000, "offset {offset}");
        }
        assert!(line.id.starts_with(&format!("{topic}/0/{offset}/")) && !line.partial, "{}", line.id);
    }
}

fn assert_metrics(exposition: &str, sent: &[Sent], pipeline: &str) {
    let deletes = pipeline == "deletes";
    let number = |name: &str, labels: &[(&str, &str)]| {
        metric(exposition, name, &[&[("pipeline", pipeline)], labels].concat()).unwrap_or(0.0)
    };
    assert_eq!(number("pelton_records_total", &[]), sent.len() as f64);
    let mut codes = BTreeMap::<_, u32>::new();
    letters_of(sent, deletes).into_values().for_each(|(_, code)| *codes.entry(code).or_default() += 1);
    for (code, count) in codes {
        assert_eq!(number("pelton_dead_letters_total", &[("code", code)]), f64::from(count), "{pipeline}: {code}");
    }
    assert!(number("pelton_plugin_traps_total", &[("plugin", "chokes")]) >= 2.0);
    assert_eq!(number("pelton_clamped_records_total", &[("reason", "missing")]), 1.0, "{exposition}");
    assert_eq!(number("pelton_in_flight_records", &[]), 0.0);
}

async fn timestamp_of(topic: &str, offset: i64) -> Option<i64> {
    use rdkafka::consumer::Consumer as _;
    let topic = topic.to_owned();
    let look = move || {
        let consumer = looking("pelton-test-looking");
        let mut list = rdkafka::TopicPartitionList::new();
        list.add_partition_offset(&topic, 0, rdkafka::Offset::Offset(offset)).unwrap();
        consumer.assign(&list).unwrap();
        consumer.poll(std::time::Duration::from_secs(30)).expect("a record").unwrap().timestamp().to_millis()
    };
    tokio::task::spawn_blocking(look).await.unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn every_bad_record_is_in_the_dead_letters_once_and_every_good_one_in_the_table() {
    with_keyspace(|keyspace: Arc<Keyspace>| async move {
        let topic = Topic::with("bad", 1, &[("max.message.bytes", "12000000")]).await;
        let letters = Topic::with("bad-dlq", 1, &[("max.message.bytes", "100000")]).await;
        for table in ["rejects", "deletes"] {
            keyspace.cql(&format!("CREATE TABLE KS.{table} ({COLUMNS})")).await;
        }
        let sent = records();
        send(&topic.name, &sent).await;
        let none = timestamp_of(&topic.name, NO_TIME as i64).await;
        assert_eq!(none.filter(|at| *at >= 0), None, "the record has no timestamp");
        let dir = tempfile::tempdir().unwrap();
        project(dir.path(), &topic, &letters, &keyspace);
        let mut daemon = Process::daemon(dir.path(), "daemon");
        let admin = daemon.admin().await;
        until("both groups have committed the end", || {
            daemon.assert_alive();
            let end = |name| positions(&format!("{}-{name}", topic.name), &topic.name, 1)[0].0 == sent.len() as i64;
            (end("rejects") && end("deletes")).then_some(())
        })
        .await;

        let (code, exposition) = get(admin, "/metrics").expect("metrics");
        assert_eq!(code, 200);
        for (name, deletes) in [("rejects", false), ("deletes", true)] {
            assert_eq!(stored(&keyspace, name).await, rows_of(&sent, deletes), "{name}");
            assert_metrics(&exposition, &sent, name);
        }
        assert!(daemon.terminate().await.success(), "{}", daemon.output());

        let file = std::fs::read_to_string(dir.path().join("letters.jsonl")).expect("dead letters in a file");
        let lines: Vec<DeadLetterLine> = file.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect();
        let lines: Vec<_> = lines.into_iter().map(|line| (line.clone(), line.record().expect("base64").2)).collect();
        assert_letters(&lines, &sent, &topic.name, true);
        let count = positions("none", &letters.name, 1)[0].1;
        let messages = read_all(&letters.name, 1, count as usize).await;
        let spilled = messages.iter().filter(|message| header(message, SPILL_HEADER).is_some()).count();
        assert_eq!(spilled, 1, "one record is larger than the topic of dead letters takes");
        let lines: Vec<_> =
            messages.iter().map(|message| as_line(message, &dir.path().join(".pelton/spill"))).collect();
        assert_letters(&lines, &sent, &topic.name, false);

        let log = daemon.output();
        assert!(
            log.contains("takes records of 100000 bytes"),
            "the topic of dead letters is smaller than its source, and nobody said so:\n{log}"
        );
        assert!(
            log.contains("spilled") && !log.contains(MARK) && !log.contains("xxxxxxxx"),
            "payloads in the log:\n{log}"
        );
        topic.delete().await;
        letters.delete().await;
    })
    .await;
}
