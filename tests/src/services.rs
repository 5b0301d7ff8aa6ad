//! What the tests against real services share: where they answer.
//!
//! In: the variables that `tests/harness/services.sh` reads too. Out: addresses. Tests make topics and keyspaces with
//! names of their own, and take them away again.

use std::env;

/// A variable's text, or what holds where it is absent or empty.
fn variable(name: &str, default: &str) -> String {
    env::var(name).ok().filter(|text| !text.is_empty()).unwrap_or_else(|| default.to_owned())
}

/// `host:port` of the Kafka broker under test.
#[must_use]
pub fn kafka_brokers() -> String {
    format!("{}:{}", variable("PELTON_KAFKA_HOST", "127.0.0.1"), variable("PELTON_KAFKA_PORT", "9092"))
}

/// `host:port` of the Cassandra node under test.
#[must_use]
pub fn cassandra_contact_point() -> String {
    format!("{}:{}", variable("PELTON_CASSANDRA_HOST", "127.0.0.1"), variable("PELTON_CASSANDRA_PORT", "9042"))
}

/// A name that no other test run uses: `prefix`, the process, the time.
#[must_use]
#[expect(clippy::disallowed_methods, reason = "a name only has to differ from those of other runs")]
pub fn unique(prefix: &str) -> String {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
    format!("{prefix}_{}_{}", std::process::id(), since.as_nanos())
}
