//! What a table must hold after a topic was read into it, told from the topic alone: offsets, timestamps, keys, values.
//!
//! In: brokers and a topic. Out: one line a key, tab-separated: key, the `amount_cents` of its last record, and that
//! record's write time in microseconds. Shares no code with Pelton, so that a mistake there cannot hide here.
#![allow(clippy::print_stdout, clippy::unwrap_used, clippy::panic, reason = "a small program for tests")]

use std::collections::BTreeMap;
use std::io::Write as _;
use std::time::Duration;

use rdkafka::consumer::{BaseConsumer, Consumer as _};
use rdkafka::{ClientConfig, Message as _, Offset, TopicPartitionList};

/// By key: amount and write time.
type Rows = BTreeMap<String, (i64, i64)>;

fn main() {
    let mut arguments = std::env::args().skip(1);
    let (Some(brokers), Some(topic)) = (arguments.next(), arguments.next()) else {
        panic!("usage: pelton-oracle BROKERS TOPIC");
    };
    let consumer: BaseConsumer = ClientConfig::new()
        .set("bootstrap.servers", &brokers)
        .set("group.id", "pelton-oracle")
        .set("enable.auto.commit", "false")
        .set("fetch.queue.backoff.ms", "10")
        .create()
        .unwrap();
    let metadata = consumer.fetch_metadata(Some(&topic), Duration::from_secs(30)).unwrap();
    let mut rows = Rows::new();
    for partition in metadata.topics()[0].partitions() {
        read_partition(&consumer, &topic, partition.id(), &mut rows);
    }
    let mut out = std::io::stdout().lock();
    for (key, (amount, write_time)) in rows {
        writeln!(out, "{key}\t{amount}\t{write_time}").unwrap();
    }
}

/// The write time of a record: its own, but never less than ten microseconds after its predecessor's.
fn read_partition(consumer: &BaseConsumer, topic: &str, partition: i32, rows: &mut Rows) {
    let (low, high) = consumer.fetch_watermarks(topic, partition, Duration::from_secs(30)).unwrap();
    if low == high {
        return;
    }
    let mut list = TopicPartitionList::new();
    list.add_partition_offset(topic, partition, Offset::Offset(low)).unwrap();
    consumer.assign(&list).unwrap();
    let mut last = 0;
    loop {
        let Some(message) = consumer.poll(Duration::from_secs(30)) else { panic!("{topic}/{partition}: no record") };
        let message = message.unwrap();
        let own = message.timestamp().to_millis().unwrap() * 1000;
        last = if own > last + 10 { own } else { last + 10 };
        let key = String::from_utf8(message.key().unwrap().to_vec()).unwrap();
        rows.insert(key, (amount(message.payload().unwrap()), last));
        if message.offset() + 1 == high {
            return;
        }
    }
}

/// The digits after `"amount_cents":`.
fn amount(value: &[u8]) -> i64 {
    let text = std::str::from_utf8(value).unwrap();
    let (_, rest) = text.split_once("\"amount_cents\":").unwrap();
    let digits: String = rest.chars().take_while(char::is_ascii_digit).collect();
    digits.parse().unwrap()
}
