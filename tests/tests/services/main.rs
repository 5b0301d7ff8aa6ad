//! Tests against real services. Absent services fail the run: `make services` starts them.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test says by panicking what it expected")]

mod absent;
mod anew;
mod bad_input;
mod cassandra_login;
mod cassandra_sink;
mod cassandra_suite;
mod cassandra_support;
mod cassandra_together;
mod check_online;
mod dlq;
mod examples;
mod full_disk;
mod kafka_dead_letters;
mod kafka_memory;
mod kafka_sink;
mod kafka_source;
mod kafka_suite;
mod kafka_support;
mod line;
mod line_support;
mod operations;
mod other_languages;
mod own_brokers;
mod own_kafka;
mod present;
mod reload;
mod replay;
mod restarted;
