//! Reads what stands in topic, journal and table after a run. By what the papers say of the journal, and with the clients
//! alone: shares no code with the product.

use std::collections::{BTreeMap, HashMap};

use futures::TryStreamExt as _;
use pelton_tests::topics::each;
use rdkafka::message::Message as _;
use scylla::client::session::Session;
use serde::Deserialize;

use super::Failure;

/// By partition: from which offset on which digest handles the records.
pub(super) type Claims = BTreeMap<i32, BTreeMap<i64, String>>;

/// Where each record stands, by its number.
pub(super) fn places(brokers: &str, topic: &str, records: u64) -> Result<Vec<Option<(i32, i64)>>, Failure> {
    #[derive(Deserialize)]
    struct Sent {
        n: u64,
    }
    let mut places = vec![None; records as usize];
    each(brokers, topic, |message| {
        let sent = serde_json::from_slice::<Sent>(message.payload().unwrap_or_default()).ok();
        if let Some(place) = sent.and_then(|sent| places.get_mut(sent.n as usize)) {
            *place = Some((message.partition(), message.offset()));
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
    each(brokers, topic, |message| match serde_json::from_slice::<Entry>(message.payload().unwrap_or_default()) {
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
