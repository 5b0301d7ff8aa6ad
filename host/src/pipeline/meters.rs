//! What a pipeline counts.
//!
//! In: events of its tasks. Out: metrics, and totals for the status. One place, so that the two never disagree.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use super::chain::ChainOutput;
use super::{LogLevel, LogLine};
use crate::telemetry::{Counter, Metric, Telemetry};

/// The counters of one pipeline.
pub struct Meters {
    pipeline: String,
    telemetry: Telemetry,
    records: Counter,
    bytes: Counter,
    batches: Counter,
    filtered: Counter,
    totals: Mutex<Totals>,
}

/// Totals since the start of the process.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Totals {
    /// Records read.
    pub records: u64,
    /// Rows made durable, by output.
    pub rows: BTreeMap<String, u64>,
    /// Dead letters, by code.
    pub dead_letters: BTreeMap<String, u64>,
    /// Records without an output.
    pub filtered: u64,
    /// Records passed over.
    pub skipped: u64,
    /// Rows that had expired.
    pub expired: u64,
    /// Tries after the first.
    pub retries: u64,
}

impl Meters {
    /// The counters of a pipeline.
    #[must_use]
    pub fn new(pipeline: &str, telemetry: &Telemetry) -> Self {
        let counter = |metric| telemetry.counter(metric, &[("pipeline", pipeline)]);
        Self {
            records: counter(Metric::Records),
            bytes: counter(Metric::Bytes),
            batches: counter(Metric::Batches),
            filtered: counter(Metric::Filtered),
            pipeline: pipeline.to_owned(),
            telemetry: telemetry.clone(),
            totals: Mutex::new(Totals::default()),
        }
    }

    /// Totals since the start of the process.
    #[must_use]
    pub fn totals(&self) -> Totals {
        self.totals.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// The metrics themselves, for what only one place counts.
    #[must_use]
    pub fn telemetry(&self) -> &Telemetry {
        &self.telemetry
    }

    fn with_totals(&self, change: impl FnOnce(&mut Totals)) {
        change(&mut self.totals.lock().unwrap_or_else(PoisonError::into_inner));
    }

    /// A batch was read.
    pub fn batch(&self, records: usize, bytes: usize) {
        self.records.add(records as u64);
        self.bytes.add(bytes as u64);
        self.batches.add(1);
        self.with_totals(|totals| totals.records += records as u64);
    }

    /// A record's write time does not follow its own time.
    pub fn clamped(&self, reason: &str) {
        self.telemetry.count(Metric::Clamped, &[("pipeline", &self.pipeline), ("reason", reason)], 1);
    }

    /// Something is tried again.
    pub fn retried(&self, stage: &str) {
        self.telemetry.count(Metric::Retries, &[("pipeline", &self.pipeline), ("stage", stage)], 1);
        self.with_totals(|totals| totals.retries += 1);
    }

    /// A run of the chain counts: the plugins' own words are released. `name` gives a step's plugin.
    pub fn chain<'n>(&self, output: &ChainOutput, filtered: u64, name: impl Fn(usize) -> &'n str) {
        for (step, effects) in &output.effects {
            let plugin = name(*step);
            self.telemetry.plugin_metrics(&self.pipeline, plugin, &effects.metrics);
            effects.logs.iter().for_each(|line| self.log(plugin, line));
            if effects.logs_dropped > 0 {
                let labels = [("pipeline", self.pipeline.as_str()), ("plugin", plugin)];
                self.telemetry.count(Metric::PluginLogsDropped, &labels, effects.logs_dropped);
            }
        }
        for (step, usage) in &output.usage {
            let labels = [("pipeline", self.pipeline.as_str()), ("plugin", name(*step))];
            self.telemetry.count_seconds(Metric::PluginCpuSeconds, &labels, Duration::from_nanos(usage.cpu_ns));
            self.telemetry.gauge(Metric::PluginMemory, &labels, usage.memory_bytes as f64);
        }
        for (code, records) in &output.skipped {
            self.skipped(code, *records);
        }
        self.filtered.add(filtered);
        self.with_totals(|totals| totals.filtered += filtered);
    }

    /// Records were passed over.
    pub fn skipped(&self, reason: &str, records: u64) {
        self.telemetry.count(Metric::Skipped, &[("pipeline", &self.pipeline), ("reason", reason)], records);
        self.with_totals(|totals| totals.skipped += records);
    }

    /// A plugin trapped.
    pub fn trapped(&self, plugin: &str, kind: &str) {
        let labels = [("pipeline", self.pipeline.as_str()), ("plugin", plugin), ("kind", kind)];
        self.telemetry.count(Metric::PluginTraps, &labels, 1);
    }

    /// Dead letters are durable.
    pub fn dead_letters<'c>(&self, codes: impl Iterator<Item = &'c str>) {
        for code in codes {
            self.telemetry.count(Metric::DeadLetters, &[("pipeline", &self.pipeline), ("code", code)], 1);
            self.with_totals(|totals| *totals.dead_letters.entry(code.to_owned()).or_default() += 1);
        }
    }

    /// An output is durable.
    pub fn written(&self, output: &str, rows: u64, bytes: u64, expired: u64, took: Duration) {
        let labels = [("pipeline", self.pipeline.as_str()), ("output", output)];
        self.telemetry.count(Metric::Rows, &labels, rows);
        self.telemetry.count(Metric::RowBytes, &labels, bytes);
        self.telemetry.observe(Metric::SinkSeconds, &labels, took.as_secs_f64());
        if expired > 0 {
            self.telemetry.count(Metric::Expired, &labels, expired);
        }
        self.with_totals(|totals| {
            *totals.rows.entry(output.to_owned()).or_default() += rows;
            totals.expired += expired;
        });
    }

    /// A batch is done.
    pub fn batch_done(&self, took: Duration) {
        self.telemetry.observe(Metric::LineSeconds, &[("pipeline", &self.pipeline)], took.as_secs_f64());
    }

    /// The pipeline was paused.
    pub fn paused(&self, cause: &str) {
        self.telemetry.count(Metric::Pauses, &[("pipeline", &self.pipeline), ("cause", cause)], 1);
    }

    fn log(&self, plugin: &str, line: &LogLine) {
        let (pipeline, message) = (&self.pipeline, &line.message);
        match line.level {
            LogLevel::Debug => tracing::debug!(target: "pelton::plugin", %pipeline, %plugin, "{message}"),
            LogLevel::Info => tracing::info!(target: "pelton::plugin", %pipeline, %plugin, "{message}"),
            LogLevel::Warn => tracing::warn!(target: "pelton::plugin", %pipeline, %plugin, "{message}"),
            LogLevel::Error => tracing::error!(target: "pelton::plugin", %pipeline, %plugin, "{message}"),
        }
    }
}
