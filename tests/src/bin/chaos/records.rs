//! What is sent, and what must become of it.
//!
//! In: the seed, and what kind of record is wanted. Out: records with their known fates, by the rules of the pipeline that
//! `daemons` writes: the guest `stumbles`, then the plugin `shop-orders`. The fates are told by the rules of its README;
//! nothing of the product is asked.

use std::collections::BTreeMap;

use rand::Rng as _;
use rand::SeedableRng as _;
use rand::rngs::StdRng;
use serde::{Deserialize, Serialize};

/// How many partitions the topic of orders has.
pub(super) const PARTITIONS: i32 = 6;
/// Keys that are updated all the time.
const HOT: u64 = 64;
/// Keys of a group: a group's keys are updated in turn, each so often, then comes the next group.
const GROUP: u64 = 48;
/// Updates that each key of a group gets.
pub(super) const UPDATES: u64 = 24;
/// One in so many ordinary records is hours old.
const OLD_EVERY: u32 = 50;
/// How old such a record is, hours: far more than any daemon stands still, far less than the plugin calls late.
const OLD_HOURS: std::ops::Range<i64> = 2..48;
/// One in so many ordinary records lies ahead of the wall.
const AHEAD_EVERY: u32 = 100;
/// By how much: more than what is taken as it is.
pub(super) const AHEAD_MS: i64 = 600_000;
/// The partitions that get such records: the write times of a partition rest on those of all records before. What stands
/// in the others follows from the topic alone.
const AHEAD_PARTITIONS: std::ops::Range<i32> = 4..PARTITIONS;
/// Bytes of a record that fits into the topic of orders and not into that of dead letters.
const LARGE_BYTES: usize = 60_000;
/// The header on which the guest traps.
pub(super) const TRAP: &str = "trap";
/// The header with the record's number.
pub(super) const NUMBER: &str = "n";

/// A column of the table; the key is not among them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Column {
    /// `status text`
    Status,
    /// `amount_cents bigint`: the record's number
    AmountCents,
    /// `country text`
    Country,
    /// `paid_at timestamp`
    PaidAt,
    /// `cancel_reason text`
    CancelReason,
    /// `updated_at timestamp`
    UpdatedAt,
}

impl Column {
    /// All of them, in the order of their names here.
    pub(super) const ALL: [(Self, &'static str, &'static str); 6] = [
        (Self::Status, "status", "text"),
        (Self::AmountCents, "amount_cents", "bigint"),
        (Self::Country, "country", "text"),
        (Self::PaidAt, "paid_at", "timestamp"),
        (Self::CancelReason, "cancel_reason", "text"),
        (Self::UpdatedAt, "updated_at", "timestamp"),
    ];
}

/// What stands in a cell.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
pub(super) enum Value {
    /// A whole number, or a time in milliseconds.
    Number(i64),
    /// A text.
    Text(String),
}

/// What must become of a record.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Fate {
    /// Sets these cells (or deletes them), and leaves an alert where it is an order of this amount.
    Upsert {
        /// By column.
        cells: BTreeMap<Column, Option<Value>>,
        /// Its amount.
        alert: Option<i64>,
    },
    /// Deletes the row of its key.
    Delete,
    /// Is dropped or passed over by the plugin.
    Nothing,
    /// Is a dead letter, for this reason.
    Letter {
        /// Which part of the line refuses it.
        stage: String,
        /// The code.
        code: String,
        /// Whether it is too large for the topic of dead letters.
        spilled: bool,
    },
}

/// A record to send.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Record {
    /// Its number: from 0, in the order of sending.
    pub(super) n: u64,
    /// Where it goes: a key is always of one partition.
    pub(super) partition: i32,
    /// Its key.
    pub(super) key: String,
    /// Its value; none is a tombstone.
    pub(super) value: Option<String>,
    /// Its time.
    pub(super) timestamp_ms: i64,
    /// Whether its time lies ahead of the wall by [`AHEAD_MS`].
    #[serde(default)]
    pub(super) is_ahead: bool,
    /// Whether it has the header on which the guest traps.
    pub(super) traps: bool,
    /// What must become of it.
    pub(super) fate: Fate,
}

/// Ways to be poison.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Poison {
    /// The first plugin traps.
    Trap,
    /// The second rejects it: an amount below nothing.
    Negative,
    /// The second rejects it: no such event.
    UnknownKind,
    /// No JSON.
    Malformed,
    /// JSON, but no object.
    NotAnObject,
    /// No order id.
    MissingField,
    /// An order id that is a number.
    WrongType,
    /// No JSON, and too large for the topic of dead letters.
    Large,
}

impl Poison {
    /// All that are no larger than others.
    pub(super) const SMALL: [Self; 7] = [
        Self::Trap,
        Self::Negative,
        Self::UnknownKind,
        Self::Malformed,
        Self::NotAnObject,
        Self::MissingField,
        Self::WrongType,
    ];
}

/// Makes records.
pub(super) struct Maker {
    rng: StdRng,
    next: u64,
    /// How many records have gone to keys of groups.
    grouped: u64,
}

impl Maker {
    /// From the first record on.
    pub(super) fn new(seed: u64) -> Self {
        Self { rng: StdRng::seed_from_u64(seed), next: 0, grouped: 0 }
    }

    /// An ordinary record, at about this time; some are hours old, and some lie ahead.
    pub(super) fn ordinary(&mut self, now_ms: i64) -> Record {
        if self.rng.random_ratio(1, AHEAD_EVERY) {
            return self.ahead(now_ms);
        }
        let is_old = self.rng.random_ratio(1, OLD_EVERY);
        let hours = if is_old { self.rng.random_range(OLD_HOURS) } else { 0 };
        let timestamp_ms = now_ms - hours * 3_600_000 - self.rng.random_range(0..2_000);
        match self.rng.random_range(0..10) {
            // Updated all the time, with everything that can happen to an order.
            0..4 => self.hot(timestamp_ms),
            4..6 => self.grouped(timestamp_ms),
            // Written once: no later update can hide that it was lost.
            _ => {
                let id = self.next;
                self.created(&format!("one-{id}"), id, timestamp_ms)
            }
        }
    }

    /// A record to one of the hot keys.
    pub(super) fn hot(&mut self, timestamp_ms: i64) -> Record {
        let id = self.rng.random_range(0..HOT);
        let key = format!("hot-{id}");
        match self.rng.random_range(0..100) {
            0..55 => self.created(&key, id, timestamp_ms),
            55..75 => self.changed(&key, id, timestamp_ms),
            75..82 => {
                let value = event(&key, "erased", timestamp_ms, "");
                self.record(&key, id, timestamp_ms, Some(value), Fate::Delete)
            }
            82..88 => self.record(&key, id, timestamp_ms, None, Fate::Delete),
            88..92 => {
                let value = event(&key, "created", timestamp_ms, r#","test":true"#);
                self.record(&key, id, timestamp_ms, Some(value), Fate::Nothing)
            }
            92..96 => {
                let value = event(&key, "heartbeat", timestamp_ms, "");
                self.record(&key, id, timestamp_ms, Some(value), Fate::Nothing)
            }
            // It says that it happened 100 hours before its own time.
            _ => {
                let value = event(&key, "paid", timestamp_ms - 360_000_000, "");
                self.record(&key, id, timestamp_ms, Some(value), Fate::Nothing)
            }
        }
    }

    /// A record ahead of the wall, to a hot key or to one of its own.
    fn ahead(&mut self, now_ms: i64) -> Record {
        let partition = self.rng.random_range(AHEAD_PARTITIONS) as u64;
        let timestamp_ms = now_ms + AHEAD_MS;
        let mut record = if self.rng.random_bool(0.5) {
            let id = self.rng.random_range(0..HOT / PARTITIONS as u64) * PARTITIONS as u64 + partition;
            self.created(&format!("hot-{id}"), id, timestamp_ms)
        } else {
            self.created(&format!("ahead-{}", self.next), partition, timestamp_ms)
        };
        record.is_ahead = true;
        record
    }

    fn grouped(&mut self, timestamp_ms: i64) -> Record {
        let (group, id) = (self.grouped / (GROUP * UPDATES), self.grouped % GROUP);
        self.grouped += 1;
        self.created(&format!("group-{group}-{id}"), id, timestamp_ms)
    }

    /// The records that are missing until each key of the last group has had all its updates.
    pub(super) fn finish_group(&mut self, now_ms: i64) -> Vec<Record> {
        let mut records = Vec::new();
        while !self.grouped.is_multiple_of(GROUP * UPDATES) {
            records.push(self.grouped(now_ms));
        }
        records
    }

    /// How often the rarest key of all groups was updated, where the last group is whole.
    pub(super) fn updates_min(&self) -> u64 {
        if self.grouped == 0 { 0 } else { UPDATES }
    }

    fn created(&mut self, key: &str, id: u64, timestamp_ms: i64) -> Record {
        let amount = self.next as i64 + 1;
        let country = ["DE", "FR", "IT", "NL"][self.rng.random_range(0..4)];
        let rest = format!(
            r#","customer":{{"id":"c-1","country":"{country}"}},"currency":"EUR","amount_cents":{amount},"items":[{{"sku":"A","quantity":1,"price_cents":{amount}}}]"#
        );
        let cells = BTreeMap::from([
            (Column::Status, Some(Value::Text("created".to_owned()))),
            (Column::AmountCents, Some(Value::Number(amount))),
            (Column::Country, Some(Value::Text(country.to_owned()))),
            (Column::UpdatedAt, Some(Value::Number(timestamp_ms))),
        ]);
        let value = event(key, "created", timestamp_ms, &rest);
        self.record(key, id, timestamp_ms, Some(value), Fate::Upsert { cells, alert: Some(amount) })
    }

    /// Sets some cells of an order, and leaves the others as they are.
    fn changed(&mut self, key: &str, id: u64, timestamp_ms: i64) -> Record {
        let (kind, column, cell, rest) = match self.rng.random_range(0..3) {
            0 => ("paid", Column::PaidAt, Some(Value::Number(timestamp_ms)), String::new()),
            1 => ("cancelled", Column::CancelReason, None, String::new()),
            _ => {
                let reason = format!("reason {}", self.next);
                let rest = format!(r#","reason":"{reason}""#);
                ("cancelled", Column::CancelReason, Some(Value::Text(reason)), rest)
            }
        };
        let cells = BTreeMap::from([
            (Column::Status, Some(Value::Text(kind.to_owned()))),
            (Column::UpdatedAt, Some(Value::Number(timestamp_ms))),
            (column, cell),
        ]);
        let value = event(key, kind, timestamp_ms, &rest);
        self.record(key, id, timestamp_ms, Some(value), Fate::Upsert { cells, alert: None })
    }

    /// A poison record for a hot key, or for a partition where one is named.
    pub(super) fn poison(&mut self, poison: Poison, timestamp_ms: i64, partition: Option<i32>) -> Record {
        let id = self.rng.random_range(0..HOT);
        let key = format!("hot-{id}");
        let letter = |stage: &str, code: &str| Fate::Letter {
            stage: stage.to_owned(),
            code: code.to_owned(),
            spilled: poison == Poison::Large,
        };
        let event = |kind, rest| event(&key, kind, timestamp_ms, rest);
        let (value, fate) = match poison {
            Poison::Trap => (event("paid", ""), letter("transform:stumbles", "plugin.trap")),
            Poison::Negative => (
                event(
                    "created",
                    r#","customer":{"id":"c","country":"DE"},"currency":"EUR","amount_cents":-1,"items":[{}]"#,
                ),
                letter("transform:shop-orders", "negative_amount"),
            ),
            Poison::UnknownKind => (event("lost", ""), letter("transform:shop-orders", "unknown_kind")),
            Poison::Malformed => (r#"{"order_id":"#.to_owned(), letter("decode", "decode.malformed_json")),
            Poison::NotAnObject => ("[1]".to_owned(), letter("decode", "decode.not_object")),
            Poison::MissingField => {
                (format!(r#"{{"kind":"paid","ts":{timestamp_ms}}}"#), letter("decode", "decode.missing_field"))
            }
            Poison::WrongType => (
                format!(r#"{{"order_id":7,"kind":"paid","ts":{timestamp_ms}}}"#),
                letter("decode", "decode.wrong_type"),
            ),
            Poison::Large => ("x".repeat(LARGE_BYTES), letter("decode", "decode.not_object")),
        };
        let mut record = self.record(&key, id, timestamp_ms, Some(value), fate);
        record.traps = poison == Poison::Trap;
        // What becomes a dead letter touches no row, so it may lie anywhere.
        record.partition = partition.unwrap_or(record.partition);
        record
    }

    fn record(&mut self, key: &str, id: u64, timestamp_ms: i64, value: Option<String>, fate: Fate) -> Record {
        let n = self.next;
        self.next += 1;
        let partition = (id % PARTITIONS as u64) as i32;
        Record { n, partition, key: key.to_owned(), value, timestamp_ms, is_ahead: false, traps: false, fate }
    }
}

fn event(key: &str, kind: &str, ts: i64, rest: &str) -> String {
    format!(r#"{{"order_id":"{key}","kind":"{kind}","ts":{ts}{rest}}}"#)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_is_always_of_one_partition_and_grouped_keys_get_all_their_updates() {
        let mut maker = Maker::new(3);
        let mut records: Vec<Record> = (0..10_000).map(|_| maker.ordinary(1_700_000_000_000)).collect();
        records.extend(maker.finish_group(1_700_000_000_000));
        let mut homes = BTreeMap::<&str, (i32, u64)>::new();
        for record in &records {
            let (home, updates) = homes.entry(&record.key).or_insert((record.partition, 0));
            assert_eq!(*home, record.partition, "{}", record.key);
            *updates += 1;
        }
        let of = |prefix: &str| homes.iter().filter(|(key, _)| key.starts_with(prefix)).map(|(_, of)| of.1).collect();
        let (grouped, hot): (Vec<u64>, Vec<u64>) = (of("group-"), of("hot-"));
        assert!(!grouped.is_empty() && grouped.iter().all(|updates| *updates == UPDATES));
        assert!(hot.len() as u64 == HOT && hot.iter().all(|updates| *updates > 20), "{hot:?}");
        assert!(records.iter().enumerate().all(|(at, record)| record.n == at as u64));
    }

    #[test]
    fn some_records_are_hours_old_and_some_lie_ahead_in_the_partitions_that_are_for_them() {
        let (mut maker, now_ms) = (Maker::new(7), 1_700_000_000_000);
        let records: Vec<Record> = (0..10_000).map(|_| maker.ordinary(now_ms)).collect();
        let old = records.iter().filter(|record| record.timestamp_ms < now_ms - 3_600_000).count();
        assert!((120..=300).contains(&old), "{old}");
        let ahead: Vec<&Record> = records.iter().filter(|record| record.is_ahead).collect();
        assert!((60..=160).contains(&ahead.len()), "{}", ahead.len());
        assert!(ahead.iter().all(|record| AHEAD_PARTITIONS.contains(&record.partition)));
        assert!(records.iter().all(|record| record.is_ahead == (record.timestamp_ms > now_ms)));
    }

    #[test]
    fn the_same_seed_makes_the_same_records() {
        let make = |seed| {
            let mut maker = Maker::new(seed);
            (0..200).map(|_| maker.ordinary(1_700_000_000_000)).collect::<Vec<_>>()
        };
        assert_eq!(make(1), make(1));
        assert_ne!(make(1), make(2));
    }
}
