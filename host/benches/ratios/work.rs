//! The work that is measured: records of a shop, and the native programs that do the same as the plugins.

use pelton::record::{Batch, Column, Offset, TopicPartition};
use serde::{Deserialize, Serialize};

/// The `type` headers, in turn: one in ten is dropped by the route, one in ten goes elsewhere.
const TYPES: [&str; 10] = ["order", "order", "order", "alert", "order", "order", "order", "order", "beat", "order"];

/// The value of record `number`, about 270 bytes of JSON; one in ten is a heartbeat.
pub(crate) fn value(number: u64) -> String {
    let kind = ["heartbeat", "purchase", "view", "click", "purchase"][(number % 10).min(4) as usize];
    let cents = number * 37 % 100_000;
    format!(
        r#"{{"kind":"{kind}","user":"user-{:06}","amount":{}.{:02},"ts":{},"geo":{{"country":"DE","city":"Berlin","lat":52.52,"lon":13.405}},"items":[{{"sku":"A-{}","n":2}},{{"sku":"B-77","n":1}}],"session":"{:032x}","agent":"Mozilla/5.0 (X11)"}}"#,
        number % 100_000,
        cents / 100,
        cents % 100,
        1_700_000_000_000 + number,
        number % 50,
        number * 0x9e37_79b9,
    )
}

/// The key of record `number`.
pub(crate) fn key(number: u64) -> String {
    format!("user-{:011}", number % 100_000)
}

/// The `type` header of record `number`.
pub(crate) fn kind(number: u64) -> &'static str {
    TYPES[(number % 10) as usize]
}

/// Whether the JSON work keeps record `number`.
pub(crate) fn is_kept(number: u64) -> bool {
    !number.is_multiple_of(10)
}

/// A batch as a source gives it.
pub(crate) fn batch(rows: usize) -> Batch {
    let mut batch = Batch::new(TopicPartition::new("shop.events", 0));
    for number in 0..rows as u64 {
        let headers =
            [("trace", Some(&b"0123456789abcdef0123456789abcdef"[..])), ("type", Some(kind(number).as_bytes()))];
        batch.push(
            Offset(number as i64),
            Some(1_700_000_000_000 + number as i64),
            Some(key(number).as_bytes()),
            Some(value(number).as_bytes()),
            headers,
        );
    }
    batch
}

/// The identity, natively: which rows leave.
pub(crate) fn identity(batch: &Batch) -> Vec<u32> {
    (0..batch.len() as u32).collect()
}

/// The route, natively: which rows leave, and for where.
pub(crate) fn route(batch: &Batch) -> Vec<(u32, u32)> {
    let mut rows = Vec::with_capacity(batch.len());
    for row in 0..batch.len() {
        let kind = batch.headers(row).find(|(name, _)| *name == "type").and_then(|(_, value)| value);
        match kind {
            Some(b"beat") => {}
            Some(b"alert") => rows.push((row as u32, 1)),
            _ => rows.push((row as u32, 0)),
        }
    }
    rows
}

/// The whole document, borrowed from its text: what a careful Rust program would write.
#[derive(Deserialize, Serialize)]
pub(crate) struct Event<'a> {
    kind: &'a str,
    user: &'a str,
    amount: f64,
    ts: i64,
    #[serde(borrow)]
    geo: Geo<'a>,
    #[serde(borrow)]
    items: Vec<Item<'a>>,
    session: &'a str,
    agent: &'a str,
    #[serde(default)]
    cents: i64,
}

#[derive(Deserialize, Serialize)]
struct Geo<'a> {
    country: &'a str,
    city: &'a str,
    lat: f64,
    lon: f64,
}

#[derive(Deserialize, Serialize)]
struct Item<'a> {
    sku: &'a str,
    n: u32,
}

/// The JSON work on one record, natively: false where it is dropped.
pub(crate) fn add_cents(value: &[u8], out: &mut Vec<u8>) -> bool {
    let mut event: Event<'_> = serde_json::from_slice(value).expect("our own records");
    if event.kind == "heartbeat" {
        return false;
    }
    event.cents = (event.amount * 100.0).round() as i64;
    serde_json::to_writer(out, &event).expect("memory takes everything");
    true
}

/// The JSON work on a batch, natively: rows that leave, and their values.
pub(crate) fn add_cents_to_all(batch: &Batch) -> (Vec<u32>, Column) {
    let (mut rows, mut values) = (Vec::with_capacity(batch.len()), Column::with_capacity(batch.len(), batch.bytes()));
    let mut buffer = Vec::new();
    for row in 0..batch.len() {
        buffer.clear();
        if add_cents(batch.values.get(row).unwrap_or_default(), &mut buffer) {
            rows.push(row as u32);
            values.push(Some(&buffer));
        }
    }
    (rows, values)
}
