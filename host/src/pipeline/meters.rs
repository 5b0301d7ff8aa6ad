//! What a pipeline counts.
//!
//! In: events of its tasks. Out: metrics, and totals for the status. One place, so that the two never disagree.

use std::collections::{BTreeMap, BTreeSet};
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
    codes: Codes,
    totals: Mutex<Totals>,
}

/// Failure codes of one plugin that are counted apart.
const PLUGIN_CODES_MAX: usize = 64;
/// The label of all others.
const OTHER_CODES: &str = "other";

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
            codes: Codes::default(),
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
            if effects.metrics_dropped > 0 {
                let labels = [("pipeline", self.pipeline.as_str()), ("plugin", plugin)];
                self.telemetry.count(Metric::PluginMetricsRefused, &labels, effects.metrics_dropped);
            }
            effects.logs.iter().for_each(|line| self.log(plugin, line, None));
            if effects.logs_dropped > 0 {
                let labels = [("pipeline", self.pipeline.as_str()), ("plugin", plugin)];
                self.telemetry.count(Metric::PluginLogsDropped, &labels, effects.logs_dropped);
            }
        }
        for (step, usage) in &output.usage {
            self.plugin_cpu(name(*step), usage.cpu_ns);
            let labels = [("pipeline", self.pipeline.as_str()), ("plugin", name(*step))];
            self.telemetry.count(Metric::PluginRecords, &labels, usage.records);
            self.telemetry.gauge(Metric::PluginMemory, &labels, usage.memory_bytes as f64);
        }
        for ((step, code), records) in &output.skipped {
            self.skipped(&format!("transform:{}", name(*step)), code, *records);
        }
        self.filtered.add(filtered);
        self.with_totals(|totals| totals.filtered += filtered);
    }

    /// Records were passed over.
    pub fn skipped(&self, stage: &str, code: &str, records: u64) {
        let reason = self.codes.label(stage, code);
        self.telemetry.count(Metric::Skipped, &[("pipeline", &self.pipeline), ("reason", reason)], records);
        self.with_totals(|totals| totals.skipped += records);
    }

    /// A plugin was called.
    pub fn plugin_cpu(&self, plugin: &str, cpu_ns: u64) {
        let labels = [("pipeline", self.pipeline.as_str()), ("plugin", plugin)];
        self.telemetry.count_seconds(Metric::PluginCpuSeconds, &labels, Duration::from_nanos(cpu_ns));
    }

    /// A plugin trapped.
    pub fn trapped(&self, plugin: &str, kind: &str) {
        let labels = [("pipeline", self.pipeline.as_str()), ("plugin", plugin), ("kind", kind)];
        self.telemetry.count(Metric::PluginTraps, &labels, 1);
    }

    /// A dead letter is durable.
    pub fn dead_letter(&self, stage: &str, code: &str) {
        let code = self.codes.label(stage, code);
        self.telemetry.count(Metric::DeadLetters, &[("pipeline", &self.pipeline), ("code", code)], 1);
        self.with_totals(|totals| *totals.dead_letters.entry(code.to_owned()).or_default() += 1);
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

    /// A partition went over to another generation.
    pub fn gone_over(&self, pause: Duration) {
        self.telemetry.observe(Metric::ReloadPause, &[("pipeline", &self.pipeline)], pause.as_secs_f64());
    }

    /// The pipeline was paused.
    pub fn paused(&self, cause: &str) {
        self.telemetry.count(Metric::Pauses, &[("pipeline", &self.pipeline), ("cause", cause)], 1);
    }

    /// A line of a plugin; of an attempt that failed, where one is given.
    pub fn log(&self, plugin: &str, line: &LogLine, failed_attempt: Option<u32>) {
        let (pipeline, message) = (&self.pipeline, &line.message);
        match line.level {
            LogLevel::Debug => {
                tracing::debug!(target: "pelton::plugin", %pipeline, %plugin, failed_attempt, "{message}")
            }
            LogLevel::Info => tracing::info!(target: "pelton::plugin", %pipeline, %plugin, failed_attempt, "{message}"),
            LogLevel::Warn => tracing::warn!(target: "pelton::plugin", %pipeline, %plugin, failed_attempt, "{message}"),
            LogLevel::Error => {
                tracing::error!(target: "pelton::plugin", %pipeline, %plugin, failed_attempt, "{message}")
            }
        }
    }
}

/// The codes that became labels. A plugin makes up its own, and every label is a time series: beyond so many of one
/// plugin the others share one.
#[derive(Default)]
struct Codes(Mutex<BTreeMap<String, BTreeSet<String>>>);

impl Codes {
    fn label<'c>(&self, stage: &str, code: &'c str) -> &'c str {
        // Pelton's own codes have a dot, a plugin's have none.
        if code.contains('.') {
            return code;
        }
        let mut by_stage = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let known = by_stage.entry(stage.to_owned()).or_default();
        if known.contains(code) {
            return code;
        }
        if known.len() >= PLUGIN_CODES_MAX {
            return OTHER_CODES;
        }
        known.insert(code.to_owned());
        code
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;
    use std::sync::Arc;

    use super::*;
    use crate::pipeline::Effects;

    #[test]
    fn metrics_that_a_plugin_may_not_have_are_counted() {
        let meters = Meters::new("orders", &Telemetry::new());
        let effects = vec![(0, Effects { metrics_dropped: 3, ..Effects::default() })];
        meters.chain(&ChainOutput { effects, ..ChainOutput::default() }, 0, |_| "hostile");
        let text = meters.telemetry().exposition();
        let counted = r#"pelton_plugin_metrics_refused_total{pipeline="orders",plugin="hostile"} 3"#;
        assert!(text.contains(counted), "{text}");
    }

    #[derive(Clone, Default)]
    struct Written(Arc<Mutex<Vec<u8>>>);

    impl Write for Written {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            self.0.lock().unwrap().write(bytes)
        }

        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn a_line_of_a_failed_attempt_is_marked_in_the_log() {
        let meters = Meters::new("orders", &Telemetry::new());
        let written = Written::default();
        let writer = written.clone();
        let subscriber = tracing_subscriber::fmt().with_ansi(false).with_writer(move || writer.clone()).finish();
        tracing::subscriber::with_default(subscriber, || {
            for failed_attempt in [None, Some(2)] {
                let line = LogLine { level: LogLevel::Warn, message: "odd".into() };
                meters.log("geo", &line, failed_attempt);
            }
        });
        let text = String::from_utf8(written.0.lock().unwrap().clone()).unwrap();
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(lines.len(), 2, "{text}");
        assert!(lines[0].contains("odd") && !lines[0].contains("failed_attempt"), "{text}");
        assert!(lines[1].contains("odd") && lines[1].contains("failed_attempt=2"), "{text}");
    }

    #[test]
    fn a_plugin_has_so_many_codes_of_its_own_and_one_for_all_others() {
        let meters = Meters::new("orders", &Telemetry::new());
        for code in 0..1000 {
            meters.dead_letter("transform:hostile", &format!("code_{code}"));
            meters.skipped("transform:hostile", &format!("code_{code}"), 2);
        }
        meters.dead_letter("transform:hostile", "code_3");
        meters.dead_letter("transform:hostile", "plugin.trap");
        meters.dead_letter("transform:other", "code_999");
        let codes = meters.totals().dead_letters;
        assert_eq!(codes.len(), PLUGIN_CODES_MAX + 3);
        let count = |code: &str| codes.get(code).copied();
        assert_eq!(
            (count("code_3"), count("plugin.trap"), count("code_999"), count(OTHER_CODES)),
            (Some(2), Some(1), Some(1), Some(1000 - PLUGIN_CODES_MAX as u64))
        );
        let reasons = meters
            .telemetry()
            .exposition()
            .lines()
            .filter(|line| line.starts_with("pelton_skipped_records_total{"))
            .count();
        assert_eq!(reasons, PLUGIN_CODES_MAX + 1);
    }
}
