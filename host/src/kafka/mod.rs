//! All that speaks Kafka.
//!
//! In: brokers and topics by name, positions to commit, rows and letters to write. Out: batches of records, partition
//! by partition, in offset order; delivery reports. The client is librdkafka; no other room names it.
//!
//! - [`KafkaSource`]: membership in a group. `source` opens and closes, `membership` is the one thread that polls,
//!   `consumer` answers rebalances on it, `commits` sends positions, `keeper` looks at ends and topics beside
//!   it, `start` decides where a partition begins and whether records were lost, `slot` is one assigned partition (its
//!   queue, and the positions to commit), `reader` makes batches of it.
//!   `memory` leases the budget to batches, `governor` says whose turn to fetch it is where not all can at once.
//! - [`KafkaSink`], [`KafkaDeadLetters`]: `producer` keeps records in order and tries again without end, `delivery`
//!   notes what became of them. [`KafkaPlace`] reads a topic of dead letters back, and marks what was redriven.
//! - [`KafkaRanges`] reads topics beside all groups, for replays.
//! - [`KafkaJournal`]: what write times rest on, in a topic of its own.
//! - [`EmbeddedBroker`] for the demo, [`Brokers`] for what is asked before a start and by `pelton check --online`,
//!   [`admin`] for topics.
//! - `native` holds the few calls of librdkafka that its safe wrapper lacks: all of this room's `unsafe`.
//!
//! Never commits a position that nobody handed over, never takes a time-out for a delivery, and never passes over
//! records that are gone without naming them.

mod admin;
mod check;
mod client;
mod commits;
mod consumer;
mod dead_letters;
mod delivery;
mod embedded;
mod governor;
mod journal;
mod keeper;
mod letters;
mod membership;
mod memory;
mod native;
mod producer;
mod ranges;
mod reader;
mod sink;
mod slot;
mod source;
mod start;
mod stats;

pub use admin::{TopicSpec, create_topics, delete_records, delete_topics, topic_settings};
pub use check::Brokers;
pub use client::{OWN_CONSUMER_PROPERTIES, OWN_PRODUCER_PROPERTIES, PropertyFault, property_fault, refused_properties};
pub use dead_letters::KafkaDeadLetters;
pub use embedded::{EMBEDDED_PARTITION_BYTES_MAX, EmbeddedBroker, EmbeddedError, is_embedded};
pub use journal::{KafkaJournal, journal_command};
pub use letters::KafkaPlace;
pub use ranges::KafkaRanges;
pub use sink::KafkaSink;
pub use source::{KafkaSource, SourceOptions};
pub use stats::{Count, SinkStats, SourceStats};
