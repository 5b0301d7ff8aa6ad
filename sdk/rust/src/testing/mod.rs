//! Run a plugin in plain `cargo test`, without WebAssembly.
//!
//! In: a configuration and records. Out: what became of each, as readable JSON. The driver does what the host does: it
//! extracts the typed fields, packs the columns, carries them through the same code that runs in a component, and checks
//! every table that comes back.
//!
//! ```
//! use pelton_sdk::prelude::*;
//!
//! #[derive(Fields)]
//! struct Reading { celsius: f64 }
//! #[derive(Columns)]
//! struct Row { fahrenheit: f64 }
//!
//! struct Convert;
//! impl Transform for Convert {
//!     type Config = ();
//!     type Input<'a> = Reading;
//!     type Output<'a> = Row;
//!     fn new((): ()) -> Result<Self, ConfigError> { Ok(Self) }
//!     fn apply(&self, reading: Reading) -> Step<Row> {
//!         Step::set(Row { fahrenheit: reading.celsius * 1.8 + 32.0 })
//!     }
//! }
//!
//! let run = testing::run::<Convert>(json!(null), [r#"{"celsius": 100}"#, r#"{"celsius": "hot"}"#]);
//! assert_eq!(run.values("default"), [json!({"celsius": 100, "fahrenheit": 212.0})]);
//! assert_eq!(run.failures(), [(1, "decode.wrong_type")]);
//! ```
//!
//! [`check_cases`] runs the folders under `cases/` the same way.

mod cases;
mod check;
#[cfg(test)]
mod examples;
mod extract;
pub(crate) mod host;
mod pack;

use serde_json::Value;
use sha2::{Digest as _, Sha256};

use crate::bindings::pelton::plugin::types;
use crate::random::{GOLDEN_GAMMA, Generator};
use crate::{ConfigError, Transform, http};

pub use cases::check_cases;
pub use host::{LogLine, MetricUpdate};

/// The timestamp of the first record where none is given: 2026-01-01T00:00:00Z.
pub const FIRST_TIMESTAMP_MS: i64 = 1_767_225_600_000;

/// Runs records through a new instance, all in one batch where they come from one partition.
///
/// # Panics
/// Where the configuration is refused, or the plugin answers tables that lie.
pub fn run<T: Transform>(config: Value, records: impl IntoIterator<Item = impl Into<TestRecord>>) -> Run {
    match Driver::<T>::new(config) {
        Ok(driver) => driver.run(records),
        Err(error) => panic!("the configuration is refused: {error}"),
    }
}

/// A plugin under test.
#[derive(Debug)]
pub struct Driver<T> {
    transform: T,
    subscription: types::Subscription,
    config: Value,
    batch_records: usize,
    answering: host::Answering,
}

impl<T: Transform> Driver<T> {
    /// Makes an instance.
    ///
    /// # Errors
    /// Where the configuration does not fit or is refused, as the operator would read it.
    pub fn new(config: Value) -> Result<Self, ConfigError> {
        host::begin(&config, Vec::new(), Vec::new(), host::Answering::default());
        let (transform, subscription) =
            crate::transform::configure::<T>(&config.to_string()).map_err(ConfigError::new)?;
        Ok(Self { transform, subscription, config, batch_records: usize::MAX, answering: host::Answering::default() })
    }

    /// Says who answers the plugin's requests.
    #[must_use]
    pub fn answering(
        mut self,
        answer: impl Fn(&http::Request) -> Result<http::Response, http::Error> + 'static,
    ) -> Self {
        self.answering = host::Answering::by(answer);
        self
    }

    /// Cuts batches after so many records.
    ///
    /// # Panics
    /// At 0.
    #[must_use]
    pub fn batches_of(mut self, records: usize) -> Self {
        assert!(records > 0, "a batch has at least one record");
        self.batch_records = records;
        self
    }

    /// Runs records through the plugin. A new batch begins where topic or partition changes.
    ///
    /// # Panics
    /// Where the plugin panics, sends a row to an output that it does not declare, or answers tables that lie.
    pub fn run(&self, records: impl IntoIterator<Item = impl Into<TestRecord>>) -> Run {
        let mut placed = Vec::new();
        for record in records {
            record.into().place(&mut placed);
        }
        let mut run = Run::default();
        let same_partition = |a: &Placed, b: &Placed| a.topic == b.topic && a.partition == b.partition;
        for partition in placed.chunk_by(same_partition) {
            for batch in partition.chunks(self.batch_records) {
                self.batch(batch, &mut run);
            }
        }
        run
    }

    fn batch(&self, records: &[Placed], run: &mut Run) {
        let extracted = extract::extract(&self.subscription, records);
        let mut lines = extracted.lines;
        if !extracted.fitting.is_empty() {
            let rows: Vec<&Placed> = extracted.fitting.iter().map(|&row| &records[row]).collect();
            let batch = pack::batch(&self.subscription, &rows, &extracted.cells);
            host::begin(
                &self.config,
                rows.iter().map(|record| record.timestamp_ms.unwrap_or(-1)).collect(),
                rows.iter().map(|record| record.seed()).collect(),
                self.answering.clone(),
            );
            let output = match crate::transform::process(&self.transform, &batch) {
                Ok(output) => output,
                Err(types::Error::Fatal(message) | types::Error::Retry(message)) => panic!("{message}"),
            };
            let (logs, metrics) = host::end();
            run.logs.extend(logs);
            run.metrics.extend(metrics);
            lines.extend(check::lines(&self.subscription, &rows, output));
        }
        lines.sort_by_key(|(record, _)| *record);
        run.lines.extend(lines.into_iter().map(|(_, line)| line));
    }
}

/// A record to feed. A text or a JSON value becomes the value of a record without key and headers.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct TestRecord {
    value: Option<Vec<u8>>,
    key: Option<Vec<u8>>,
    headers: Vec<(String, Option<Vec<u8>>)>,
    timestamp_ms: Option<Option<i64>>,
    offset: Option<i64>,
    topic: Option<String>,
    partition: u32,
}

impl TestRecord {
    /// A record with these bytes as its value.
    #[must_use]
    pub fn new(value: impl Into<Vec<u8>>) -> Self {
        Self { value: Some(value.into()), ..Self::default() }
    }

    /// A record with a null value.
    #[must_use]
    pub fn tombstone() -> Self {
        Self::default()
    }

    /// Sets the key.
    #[must_use]
    pub fn key(mut self, key: impl Into<Vec<u8>>) -> Self {
        self.key = Some(key.into());
        self
    }

    /// Adds a header.
    #[must_use]
    pub fn header(mut self, name: impl Into<String>, value: impl Into<Vec<u8>>) -> Self {
        self.headers.push((name.into(), Some(value.into())));
        self
    }

    /// Sets the timestamp. By default it is [`FIRST_TIMESTAMP_MS`] and one second more for each record.
    #[must_use]
    pub fn timestamp_ms(mut self, timestamp_ms: i64) -> Self {
        self.timestamp_ms = Some(Some(timestamp_ms));
        self
    }

    /// Has no timestamp.
    #[must_use]
    pub fn without_timestamp(mut self) -> Self {
        self.timestamp_ms = Some(None);
        self
    }

    /// Sets the offset. By default it is one more than that of the record before it in the same partition.
    #[must_use]
    pub fn offset(mut self, offset: i64) -> Self {
        self.offset = Some(offset);
        self
    }

    /// Sets where the record is read from: topic `case`, partition 0 by default.
    #[must_use]
    pub fn read_from(mut self, topic: impl Into<String>, partition: u32) -> Self {
        self.topic = Some(topic.into());
        self.partition = partition;
        self
    }

    fn place(self, placed: &mut Vec<Placed>) {
        let topic = self.topic.unwrap_or_else(|| "case".to_owned());
        let before = placed.iter().rev().find(|other| other.topic == topic && other.partition == self.partition);
        let offset = self.offset.unwrap_or_else(|| before.map_or(0, |other| other.offset + 1));
        assert!(before.is_none_or(|other| other.offset < offset), "offsets rise within a partition");
        let default_ms = FIRST_TIMESTAMP_MS + 1000 * i64::try_from(placed.len()).expect("a test has few records");
        placed.push(Placed {
            number: placed.len(),
            value: self.value,
            key: self.key,
            headers: self.headers,
            timestamp_ms: self.timestamp_ms.unwrap_or(Some(default_ms)),
            offset,
            topic,
            partition: self.partition,
        });
    }
}

impl From<&str> for TestRecord {
    fn from(value: &str) -> Self {
        Self::new(value)
    }
}

impl From<String> for TestRecord {
    fn from(value: String) -> Self {
        Self::new(value)
    }
}

impl From<Value> for TestRecord {
    fn from(value: Value) -> Self {
        Self::new(value.to_string())
    }
}

/// A record, with all defaults filled in.
#[derive(Debug, Clone)]
pub(crate) struct Placed {
    pub(crate) number: usize,
    pub(crate) value: Option<Vec<u8>>,
    pub(crate) key: Option<Vec<u8>>,
    pub(crate) headers: Vec<(String, Option<Vec<u8>>)>,
    pub(crate) timestamp_ms: Option<i64>,
    pub(crate) offset: i64,
    pub(crate) topic: String,
    pub(crate) partition: u32,
}

impl Placed {
    /// The same number as the host's: `random` in `wit/README.md` says how it is made.
    fn seed(&self) -> u64 {
        let text = format!("pelton-seed-1\0{}\0{}", self.topic, self.partition);
        let mut head = [0; 8];
        head.copy_from_slice(&Sha256::digest(text.as_bytes())[..8]);
        let step = self.offset.cast_unsigned().wrapping_mul(GOLDEN_GAMMA);
        Generator::with_seed(u64::from_le_bytes(head).wrapping_add(step)).next_u64()
    }
}

/// What became of some records.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Run {
    /// One line for each row that left and each record that failed, in the order of the records, as `expected.jsonl` of
    /// a case writes them.
    pub lines: Vec<Value>,
    /// What the plugin logged.
    pub logs: Vec<LogLine>,
    /// What it counted.
    pub metrics: Vec<MetricUpdate>,
}

impl Run {
    /// The values of the rows that left by an output, in order; a value that is no JSON stands as text.
    #[must_use]
    pub fn values(&self, output: &str) -> Vec<Value> {
        self.by_output(output)
            .filter_map(|line| ["value", "value_text", "value_base64"].iter().find_map(|key| line.get(key)).cloned())
            .collect()
    }

    /// The set fields of the rows that an output deletes, in order.
    #[must_use]
    pub fn deletes(&self, output: &str) -> Vec<Value> {
        self.by_output(output).filter_map(|line| line.get("delete")).cloned().collect()
    }

    /// Number and code of the records that failed.
    #[must_use]
    pub fn failures(&self) -> Vec<(usize, &str)> {
        let code = |line: &'_ Value| ["reject", "retry", "skip"].into_iter().find(|kind| line.get(kind).is_some());
        self.lines
            .iter()
            .filter_map(|line| {
                let record = usize::try_from(line["record"].as_u64()?).ok()?;
                Some((record, line[code(line)?].as_str()?))
            })
            .collect()
    }

    /// What was added to a counter in all.
    #[must_use]
    pub fn counted(&self, name: &str) -> u64 {
        self.metrics
            .iter()
            .map(|update| match update {
                MetricUpdate::Count(counter, value) if counter == name => *value,
                _ => 0,
            })
            .sum()
    }

    fn by_output<'r>(&'r self, output: &'r str) -> impl Iterator<Item = &'r Value> {
        self.lines.iter().filter(move |line| line.get("output").is_some_and(|found| found == output))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn seeds_are_those_of_the_host() {
        let mut placed = Vec::new();
        for offset in [0, 41] {
            TestRecord::tombstone().read_from("shop.orders", 3).offset(offset).place(&mut placed);
        }
        let seeds: Vec<u64> = placed.iter().map(Placed::seed).collect();
        assert_eq!(seeds, [0xef92_15e3_c5e3_dd0d, 0x9d55_3035_d22f_28fc]);
    }
}
