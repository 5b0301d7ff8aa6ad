//! The host's side of one instance: its limits, its effects, and the batch that it may ask about.

use std::collections::BTreeMap;
use std::sync::Arc;

use sha2::{Digest as _, Sha256};

use super::bindings::{clock, config, log, metrics, random, types};
use super::budget::{Budget, MemoryLimiter};
use super::effects::EffectsBuffer;
use crate::egress::Outgoing;
use crate::pipeline::LogLevel;
use crate::record::{Batch, TopicPartition};

/// The data of a store.
pub(super) struct State {
    pub(super) memory: MemoryLimiter,
    pub(super) budget: Budget,
    pub(super) effects: EffectsBuffer,
    pub(super) rows: Rows,
    /// Top-level keys of the `config:` block, each as JSON text.
    pub(super) config: Arc<BTreeMap<String, String>>,
    /// Whether `log` is granted, for what comes out of WASI's standard streams.
    pub(super) may_log: bool,
    /// Where `http` leads, while a batch is handled.
    pub(super) outgoing: Option<Arc<dyn Outgoing>>,
}

/// What `clock` and `random` know about the rows of the current batch; empty outside of `process`.
#[derive(Debug, Default)]
pub(super) struct Rows {
    timestamps: Vec<i64>,
    offsets: Vec<i64>,
    seed: Option<(TopicPartition, u64)>,
}

impl Rows {
    /// Takes over what the capabilities may be asked for.
    pub(super) fn begin(&mut self, batch: &Batch, clock: bool, random: bool) {
        if clock {
            self.timestamps.extend_from_slice(&batch.timestamps);
        }
        if random {
            self.offsets.extend_from_slice(&batch.offsets);
            if self.seed.as_ref().is_none_or(|(source, _)| *source != batch.source) {
                self.seed = Some((batch.source.clone(), partition_seed(&batch.source)));
            }
        }
    }

    /// The batch is over.
    pub(super) fn end(&mut self) {
        self.timestamps.clear();
        self.offsets.clear();
    }

    fn time(&self, row: u32) -> Option<i64> {
        self.timestamps.get(row as usize).copied()
    }

    fn seed(&self, row: u32) -> Option<u64> {
        let offset = *self.offsets.get(row as usize)?;
        let (_, partition) = self.seed.as_ref()?;
        Some(row_seed(*partition, offset))
    }
}

/// The first eight bytes, little-endian, of SHA-256 over `pelton-seed-1`, 0, the topic's name, 0, and the partition in
/// decimal. Part of the interface: a replay on another version of the host must see the same.
fn partition_seed(source: &TopicPartition) -> u64 {
    let text = format!("pelton-seed-1\0{}\0{}", source.topic, source.partition);
    let hash: [u8; 32] = Sha256::digest(text.as_bytes()).into();
    let mut head = [0; 8];
    head.copy_from_slice(&hash[..8]);
    u64::from_le_bytes(head)
}

/// SplitMix64 of the partition's seed at the offset-th step.
fn row_seed(partition: u64, offset: i64) -> u64 {
    let step = offset.cast_unsigned().wrapping_add(1).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    let mixed = partition.wrapping_add(step);
    let mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    mixed ^ (mixed >> 31)
}

impl types::Host for State {}

impl log::Host for State {
    fn write(&mut self, level: log::Level, message: String) -> wasmtime::Result<()> {
        let level = match level {
            log::Level::Debug => LogLevel::Debug,
            log::Level::Info => LogLevel::Info,
            log::Level::Warn => LogLevel::Warn,
            log::Level::Error => LogLevel::Error,
        };
        self.effects.log(level, message);
        Ok(())
    }
}

impl metrics::Host for State {
    fn count(&mut self, name: String, value: u64) -> wasmtime::Result<()> {
        self.effects.count(name, value);
        Ok(())
    }

    fn gauge(&mut self, name: String, value: f64) -> wasmtime::Result<()> {
        self.effects.gauge(name, value);
        Ok(())
    }

    fn observe(&mut self, name: String, value: f64) -> wasmtime::Result<()> {
        self.effects.observe(name, value);
        Ok(())
    }
}

impl config::Host for State {
    fn get(&mut self, key: String) -> wasmtime::Result<Option<String>> {
        Ok(self.config.get(&key).cloned())
    }
}

impl clock::Host for State {
    fn time(&mut self, row: u32) -> wasmtime::Result<i64> {
        self.rows.time(row).ok_or_else(|| no_row("clock.time", row))
    }
}

impl random::Host for State {
    fn seed(&mut self, row: u32) -> wasmtime::Result<u64> {
        self.rows.seed(row).ok_or_else(|| no_row("random.seed", row))
    }
}

/// A guest used a capability in a way that `wit/` forbids.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub(super) struct Misuse(pub(super) String);

fn no_row(function: &str, row: u32) -> wasmtime::Error {
    wasmtime::Error::new(Misuse(format!("{function} was asked for row {row}, which is not in the current batch")))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::record::Offset;

    #[test]
    fn seeds_are_part_of_the_interface_and_never_change() {
        let source = TopicPartition::new("shop.orders", 3);
        assert_eq!(partition_seed(&source), 0x8adc1a17d3640d0b);
        assert_eq!(row_seed(partition_seed(&source), 0), 0xef9215e3c5e3dd0d);
        assert_eq!(row_seed(partition_seed(&source), 41), 0x9d553035d22f28fc);
    }

    #[test]
    fn a_row_that_is_not_in_the_batch_has_neither_time_nor_chance() {
        let mut batch = Batch::new(TopicPartition::new("t", 0));
        batch.push(Offset(7), Some(1_000), None, None, []);
        let mut rows = Rows::default();
        rows.begin(&batch, true, true);
        assert_eq!((rows.time(0), rows.time(1)), (Some(1_000), None));
        assert_eq!((rows.seed(0).is_some(), rows.seed(1)), (true, None));
        rows.end();
        assert_eq!((rows.time(0), rows.seed(0)), (None, None));
    }
}
