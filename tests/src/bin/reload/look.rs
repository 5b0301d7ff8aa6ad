//! Reads what stands in topic, journal and table after a run. By what the papers say of the journal, and with the clients
//! alone: shares no code with the product.

use std::collections::{BTreeMap, HashMap};
use std::time::Duration;

use futures::TryStreamExt as _;
use rdkafka::consumer::{BaseConsumer, Consumer as _};
use rdkafka::message::Message as _;
use rdkafka::{ClientConfig, Offset, TopicPartitionList};
use scylla::client::session::Session;
use serde::Deserialize;

use super::Failure;

/// How long a broker may take to answer.
const ANSWER: Duration = Duration::from_secs(30);

/// By partition: from which offset on which digest handles the records.
pub(super) type Claims = BTreeMap<i32, BTreeMap<i64, String>>;

/// Every record of a topic: partition, offset, value.
fn each(brokers: &str, topic: &str, mut visit: impl FnMut(i32, i64, &[u8])) -> Result<(), Failure> {
    let config = [("bootstrap.servers", brokers), ("group.id", "reload-look"), ("enable.auto.commit", "false")];
    let consumer: BaseConsumer =
        config.iter().fold(&mut ClientConfig::new(), |all, (key, value)| all.set(*key, *value)).create()?;
    let metadata = consumer.fetch_metadata(Some(topic), ANSWER)?;
    let partitions = metadata.topics().first().map(|topic| topic.partitions().len()).unwrap_or_default();
    for partition in 0..partitions as i32 {
        let (low, high) = consumer.fetch_watermarks(topic, partition, ANSWER)?;
        if low == high {
            continue;
        }
        let mut list = TopicPartitionList::new();
        list.add_partition_offset(topic, partition, Offset::Offset(low))?;
        consumer.assign(&list)?;
        loop {
            let message = consumer.poll(ANSWER).ok_or_else(|| format!("{topic}/{partition}: no record came"))??;
            visit(partition, message.offset(), message.payload().unwrap_or_default());
            if message.offset() + 1 >= high {
                break;
            }
        }
    }
    Ok(())
}

/// Where each record stands, by its number.
pub(super) fn places(brokers: &str, topic: &str, records: u64) -> Result<Vec<Option<(i32, i64)>>, Failure> {
    #[derive(Deserialize)]
    struct Sent {
        n: u64,
    }
    let mut places = vec![None; records as usize];
    each(brokers, topic, |partition, offset, value| {
        let sent = serde_json::from_slice::<Sent>(value).ok();
        if let Some(place) = sent.and_then(|sent| places.get_mut(sent.n as usize)) {
            *place = Some((partition, offset));
        }
    })?;
    Ok(places)
}

/// What the journal claims: its entries are lines of JSON, a later one about the same offset holds, and what comes under a
/// lower term than one before does not count.
pub(super) fn claims(brokers: &str, topic: &str) -> Result<Claims, Failure> {
    #[derive(Deserialize)]
    struct Entry {
        partition: i32,
        offset: i64,
        digests: Vec<String>,
        term: u64,
        reason: String,
    }
    let (mut claims, mut terms) = (Claims::new(), HashMap::<i32, u64>::new());
    let mut unreadable = None;
    each(brokers, topic, |_, _, line| match serde_json::from_slice::<Entry>(line) {
        Ok(entry) => {
            let term = terms.entry(entry.partition).or_default();
            if entry.term < *term {
                return;
            }
            let claims = claims.entry(entry.partition).or_default();
            if entry.term > *term || entry.reason == "assigned" {
                claims.retain(|offset, _| *offset < entry.offset);
            }
            *term = entry.term;
            claims.insert(entry.offset, entry.digests.join(","));
        }
        Err(error) => unreadable = Some(error),
    })?;
    unreadable.map_or(Ok(claims), |error| Err(format!("an entry of the journal: {error}").into()))
}

/// The version of each row, by the number of its record.
pub(super) async fn versions(session: &Session, table: &str) -> Result<HashMap<u64, String>, Failure> {
    let rows = session.query_iter(format!("SELECT n, version FROM {table}"), ()).await?;
    let mut rows = rows.rows_stream::<(i64, String)>()?;
    let mut versions = HashMap::new();
    while let Some((n, version)) = rows.try_next().await? {
        versions.insert(n as u64, version);
    }
    Ok(versions)
}
