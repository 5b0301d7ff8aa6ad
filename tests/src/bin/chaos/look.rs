//! Reads what stands in topics, table, spills, commits and journal after a run.
//!
//! In: where they are. Out: values for `expect` and `decisions`. Reads with the clients alone and parses by what the
//! papers say: dead letters by their headers, a spill by its pointer, the journal by its lines. Never judges.

use std::collections::{BTreeMap, HashMap};
use std::os::unix::fs::{FileExt as _, MetadataExt as _};
use std::path::PathBuf;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use futures::TryStreamExt as _;
use pelton_tests::topics::{ANSWER, each};
use rdkafka::consumer::{BaseConsumer, Consumer as _};
use rdkafka::message::{BorrowedMessage, Headers as _, Message as _};
use rdkafka::{Offset, TopicPartitionList};
use scylla::client::session::Session;
use scylla::value::{CqlValue, Row};
use serde::Deserialize;
use serde_json::Value as Json;
use sha2::{Digest as _, Sha256};

use super::decisions::{Said, Why};
use super::expect::{Alert, Cell, Letter, Rows, Stands};
use super::ledger::hash;
use super::records::{Column, NUMBER, PARTITIONS, Value};
use super::{ALERTS, Failure, JOURNAL, LETTERS, ORDERS, TABLE};

fn header(message: &BorrowedMessage<'_>, name: &str) -> Option<String> {
    let headers = message.headers()?;
    let value = headers.iter().filter(|header| header.key == name).last()?.value?;
    Some(String::from_utf8_lossy(value).into_owned())
}

fn number(message: &BorrowedMessage<'_>) -> Option<u64> {
    header(message, NUMBER)?.parse().ok()
}

fn text(bytes: Option<&[u8]>) -> String {
    String::from_utf8_lossy(bytes.unwrap_or_default()).into_owned()
}

/// The topic of orders.
pub(super) fn orders(brokers: &str) -> Result<Vec<Stands>, Failure> {
    let mut records = Vec::new();
    each(brokers, ORDERS, |message| {
        records.push(Stands {
            place: (message.partition(), message.offset()),
            n: number(message),
            key: text(message.key()),
            value: message.payload().map(hash),
            timestamp_ms: message.timestamp().to_millis().unwrap_or(-1),
        });
    })?;
    Ok(records)
}

/// The journal, in its order.
pub(super) fn journal(brokers: &str) -> Result<Vec<Said>, Failure> {
    let mut entries = Vec::new();
    each(brokers, JOURNAL, |message| entries.push(said(message)))?;
    entries.into_iter().collect()
}

fn said(message: &BorrowedMessage<'_>) -> Result<Said, Failure> {
    let entry: Json = serde_json::from_slice(message.payload().unwrap_or_default())?;
    let number = |name: &str| entry[name].as_i64().ok_or_else(|| format!("the journal: no {name} in {entry}"));
    let why = match entry["reason"].as_str() {
        Some("assigned") => Why::Begins,
        Some("periodic") => Why::Stands,
        Some("wall") => Why::Decided { until: number("until")?, wall_ms: number("wall_ms")? },
        Some("carried") => Why::Carried { until: number("until")?, wall_ms: number("wall_ms")? },
        _ => return Err(format!("the journal: {entry}").into()),
    };
    Ok(Said {
        partition: i32::try_from(number("partition")?)?,
        offset: number("offset")?,
        term: u64::try_from(number("term")?)?,
        why,
        told_ms: message.timestamp().to_millis().unwrap_or(-1),
    })
}

/// What was found, by `pelton-id`.
type ById<T> = Vec<(String, Result<T, String>)>;

/// The topic of alerts.
pub(super) fn alerts(brokers: &str) -> Result<ById<Alert>, Failure> {
    let mut alerts = Vec::new();
    each(brokers, ALERTS, |message| {
        alerts.push((header(message, "pelton-id").unwrap_or_default(), alert(message)));
    })?;
    Ok(alerts)
}

fn alert(message: &BorrowedMessage<'_>) -> Result<Alert, String> {
    let value: Json =
        serde_json::from_slice(message.payload().unwrap_or_default()).map_err(|error| error.to_string())?;
    let key = text(message.key());
    let amount = value["amount_cents"].as_i64().ok_or("no amount")?;
    if value["order_id"].as_str() != Some(&key) || value["status"].as_str() != Some("created") {
        return Err(format!("{key}: {value}"));
    }
    Ok(Alert { n: number(message), key, amount, timestamp_ms: message.timestamp().to_millis().unwrap_or(-1) })
}

/// The topic of dead letters, and what its pointers lead to in the files of spilled ones.
pub(super) fn letters(brokers: &str, spills: &[PathBuf]) -> Result<ById<Letter>, Failure> {
    let mut letters = Vec::new();
    each(brokers, LETTERS, |message| {
        letters.push((header(message, "pelton-id").unwrap_or_default(), letter(message, spills)));
    })?;
    Ok(letters)
}

fn letter(message: &BorrowedMessage<'_>, spills: &[PathBuf]) -> Result<Letter, String> {
    let wanted = |name: &str| header(message, name).ok_or_else(|| format!("no header {name}"));
    let whole = |name: &str| wanted(name)?.parse::<i64>().map_err(|error| format!("{name}: {error}"));
    let pointer = header(message, "pelton.spill");
    let mut letter = Letter {
        n: number(message),
        stage: wanted("pelton.stage")?,
        code: wanted("pelton.code")?,
        key: text(message.key()),
        value: message.payload().map(hash),
        timestamp_ms: whole("pelton.timestamp")?,
        write_time: whole("pelton.write-time")?,
        spilled: pointer.is_some(),
    };
    if let Some(pointer) = pointer {
        let spilled = spilled(&pointer, spills).map_err(|error| format!("its spill {pointer}: {error}"))?;
        let decode = |text: Option<String>| text.map(|text| BASE64.decode(text)).transpose();
        let key = decode(spilled.key).map_err(|error| error.to_string())?;
        letter.key = text(key.as_deref());
        letter.value = decode(spilled.value).map_err(|error| error.to_string())?.map(|value| hash(&value));
        let numbered = spilled.headers.iter().find(|(name, _)| name == NUMBER).and_then(|(_, value)| value.clone());
        let numbered = decode(numbered).map_err(|error| error.to_string())?;
        letter.n = numbered.and_then(|number| text(Some(&number)).parse().ok());
        let (stage, code) = (spilled.stage, spilled.code);
        if (&stage, &code, spilled.timestamp_ms, spilled.write_time)
            != (&letter.stage, &letter.code, Some(letter.timestamp_ms), letter.write_time)
        {
            return Err(format!("its spill says another cause or time: {stage} {code}"));
        }
    }
    Ok(letter)
}

/// Where a spilled letter stands.
#[derive(Deserialize)]
struct Pointer {
    inode: u64,
    offset: u64,
    length: usize,
    sha256: String,
}

/// A spilled letter.
#[derive(Deserialize)]
struct Spilled {
    key: Option<String>,
    value: Option<String>,
    headers: Vec<(String, Option<String>)>,
    stage: String,
    code: String,
    timestamp_ms: Option<i64>,
    write_time: i64,
}

fn spilled(pointer: &str, spills: &[PathBuf]) -> Result<Spilled, String> {
    let pointer: Pointer = serde_json::from_str(pointer).map_err(|error| error.to_string())?;
    let candidates = spills.iter().filter_map(|path| std::fs::File::open(path).ok());
    let mut problem = "no daemon has such a file".to_owned();
    for file in candidates {
        // Small file systems count from the same number: the digest tells whose file is meant.
        if file.metadata().is_ok_and(|metadata| metadata.ino() == pointer.inode) {
            let mut line = vec![0; pointer.length];
            match file.read_exact_at(&mut line, pointer.offset) {
                Ok(()) if format!("{:x}", Sha256::digest(&line)) == pointer.sha256 => {
                    return serde_json::from_slice(&line).map_err(|error| error.to_string());
                }
                Ok(()) => "what stands there has another digest".clone_into(&mut problem),
                Err(error) => problem = error.to_string(),
            }
        }
    }
    Err(problem)
}

/// By partition: the committed offset, and the write time in its metadata.
pub(super) fn commits(consumer: &BaseConsumer) -> Result<BTreeMap<i32, (i64, Option<i64>)>, Failure> {
    let mut list = TopicPartitionList::new();
    for partition in 0..PARTITIONS {
        list.add_partition(ORDERS, partition);
    }
    let committed = consumer.committed_offsets(list, ANSWER)?;
    let mut commits = BTreeMap::new();
    for element in committed.elements() {
        if let Offset::Offset(offset) = element.offset() {
            let h = serde_json::from_str::<Json>(element.metadata()).ok().and_then(|metadata| metadata["h"].as_i64());
            commits.insert(element.partition(), (offset, h));
        }
    }
    Ok(commits)
}

/// The ends of the topic of orders, added up.
pub(super) fn ends(consumer: &BaseConsumer) -> Result<i64, Failure> {
    (0..PARTITIONS).try_fold(0, |sum, partition| Ok(sum + consumer.fetch_watermarks(ORDERS, partition, ANSWER)?.1))
}

/// The table, as it is: cells with write times, and when they end.
pub(super) async fn table(session: &Session) -> Result<Rows, Failure> {
    let of = |function: &str| {
        let columns = Column::ALL.iter().map(|(_, name, _)| format!("{function}({name})"));
        columns.collect::<Vec<String>>().join(", ")
    };
    let names: Vec<&str> = Column::ALL.iter().map(|(_, name, _)| *name).collect();
    let select = format!(
        "SELECT order_id, toUnixTimestamp(now()), {}, {}, {} FROM {TABLE}",
        names.join(", "),
        of("writetime"),
        of("ttl"),
    );
    let mut rows = session.query_iter(select, ()).await?.rows_stream::<Row>()?;
    let mut found = HashMap::new();
    while let Some(row) = rows.try_next().await? {
        let mut values = row.columns.into_iter();
        let mut next = || values.next().flatten();
        let key = whole_text(next()).ok_or("a row without a key")?;
        let now_s = whole(next()).ok_or("a row without a time")?.div_euclid(1_000);
        let cells: Vec<Option<Value>> = (0..names.len()).map(|_| next().and_then(value)).collect();
        let times: Vec<Option<i64>> = (0..names.len()).map(|_| whole(next())).collect();
        let ttls: Vec<Option<i64>> = (0..names.len()).map(|_| whole(next())).collect();
        let cells = Column::ALL.iter().zip(cells).zip(times.into_iter().zip(ttls));
        let cells = cells.filter_map(|(((column, _, _), value), (write_time, ttl))| {
            // A cell that lives for ever ends at no time that was wanted.
            let until_s = ttl.map_or(i64::MAX / 2, |ttl| now_s + ttl);
            Some((*column, Cell { value: value?, write_time: write_time?, until_s }))
        });
        found.insert(key, cells.collect::<BTreeMap<Column, Cell>>());
    }
    Ok(found.into_iter().collect())
}

fn value(value: CqlValue) -> Option<Value> {
    match value {
        CqlValue::Text(text) => Some(Value::Text(text)),
        other => whole(Some(other)).map(Value::Number),
    }
}

fn whole_text(value: Option<CqlValue>) -> Option<String> {
    match value {
        Some(CqlValue::Text(text)) => Some(text),
        _ => None,
    }
}

fn whole(value: Option<CqlValue>) -> Option<i64> {
    match value? {
        CqlValue::BigInt(number) => Some(number),
        CqlValue::Int(number) => Some(i64::from(number)),
        CqlValue::Timestamp(time) => Some(time.0),
        _ => None,
    }
}
