//! Numbers and lines for the operator.
//!
//! In: counts, gauges and observations from the rooms; log lines through `tracing`. Out: the text of `/metrics`, and
//! lines on standard error. Every metric's name stands in [`Metric`]; nothing is counted under a name that is not
//! there. Never sees a payload or a secret, never fails a caller, and never decides anything.

mod logging;
mod metric;

pub use logging::{LoggingError, init_logging, init_logging_to};
pub use metric::{Kind, Metric, Spec};

use std::collections::BTreeSet;
use std::sync::atomic::AtomicU64;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use prometheus_client::encoding::text::encode;
use prometheus_client::metrics::counter::Counter as RawCounter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge as RawGauge;
use prometheus_client::metrics::histogram::Histogram as RawHistogram;
use prometheus_client::registry::Registry;

use crate::pipeline::MetricUpdate;

/// Label names and values, in the order of [`Spec::labels`].
type LabelSet = Vec<(&'static str, String)>;

/// The `Content-Type` of [`Telemetry::exposition`].
pub const EXPOSITION_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// How many metrics of its own one plugin in one pipeline may have.
pub const PLUGIN_METRICS_MAX: usize = 100;

/// How long the name of a plugin's metric may be, in bytes.
pub const PLUGIN_METRIC_NAME_BYTES_MAX: usize = 64;

/// All numbers of this process. Cheap to clone; every clone counts into the same place.
#[derive(Clone)]
pub struct Telemetry {
    inner: Arc<Inner>,
}

struct Inner {
    registry: Registry,
    /// One for each of [`Metric::ALL`], in its order.
    families: Vec<Series>,
    /// The metrics that plugins have made: pipeline, plugin, name.
    plugin_metrics: Mutex<BTreeSet<(String, String, String)>>,
}

/// One metric with all its label sets.
#[derive(Clone)]
enum Series {
    Counter(Family<LabelSet, RawCounter>),
    Seconds(Family<LabelSet, RawCounter<f64, AtomicU64>>),
    Gauge(Family<LabelSet, RawGauge<f64, AtomicU64>>),
    Histogram(Family<LabelSet, RawHistogram, fn() -> RawHistogram>),
}

impl Series {
    fn of(kind: Kind) -> Self {
        match kind {
            Kind::Counter => Self::Counter(Family::default()),
            Kind::Seconds => Self::Seconds(Family::default()),
            Kind::Gauge => Self::Gauge(Family::default()),
            Kind::Latency => Self::Histogram(Family::new_with_constructor(metric::latency_histogram)),
            Kind::Distribution => Self::Histogram(Family::new_with_constructor(metric::distribution_histogram)),
        }
    }

    fn register(&self, spec: &Spec, registry: &mut Registry) {
        match self {
            Self::Counter(family) => registry.register(spec.name, spec.help, family.clone()),
            Self::Seconds(family) => registry.register(spec.name, spec.help, family.clone()),
            Self::Gauge(family) => registry.register(spec.name, spec.help, family.clone()),
            Self::Histogram(family) => registry.register(spec.name, spec.help, family.clone()),
        }
    }
}

impl Default for Telemetry {
    fn default() -> Self {
        Self::new()
    }
}

impl std::fmt::Debug for Telemetry {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Telemetry")
    }
}

impl Telemetry {
    /// Every metric at nothing.
    #[must_use]
    pub fn new() -> Self {
        let mut registry = Registry::default();
        let families = Metric::ALL
            .iter()
            .map(|metric| {
                let spec = metric.spec();
                let series = Series::of(spec.kind);
                series.register(&spec, &mut registry);
                series
            })
            .collect();
        Self { inner: Arc::new(Inner { registry, families, plugin_metrics: Mutex::default() }) }
    }

    /// Adds `n` to a counter. Where it is called often, keep a [`Telemetry::counter`].
    pub fn count(&self, metric: Metric, labels: &[(&'static str, &str)], n: u64) {
        self.counter(metric, labels).add(n);
    }

    /// Adds a time to a counter of seconds.
    pub fn count_seconds(&self, metric: Metric, labels: &[(&'static str, &str)], time: Duration) {
        self.seconds(metric, labels).add(time);
    }

    /// Sets a gauge.
    pub fn gauge(&self, metric: Metric, labels: &[(&'static str, &str)], value: f64) {
        self.gauge_handle(metric, labels).set(value);
    }

    /// Observes a value, in the metric's unit, in a histogram.
    pub fn observe(&self, metric: Metric, labels: &[(&'static str, &str)], value: f64) {
        self.histogram(metric, labels).observe(value);
    }

    /// A handle to one counter.
    #[must_use]
    pub fn counter(&self, metric: Metric, labels: &[(&'static str, &str)]) -> Counter {
        match self.series(metric) {
            Series::Counter(family) => Counter(family.get_or_create_owned(&label_set(metric, labels))),
            _ => Counter(wrong_kind(metric)),
        }
    }

    /// A handle to one counter of seconds.
    #[must_use]
    pub fn seconds(&self, metric: Metric, labels: &[(&'static str, &str)]) -> Seconds {
        match self.series(metric) {
            Series::Seconds(family) => Seconds(family.get_or_create_owned(&label_set(metric, labels))),
            _ => Seconds(wrong_kind(metric)),
        }
    }

    /// A handle to one gauge.
    #[must_use]
    pub fn gauge_handle(&self, metric: Metric, labels: &[(&'static str, &str)]) -> Gauge {
        match self.series(metric) {
            Series::Gauge(family) => Gauge(family.get_or_create_owned(&label_set(metric, labels))),
            _ => Gauge(wrong_kind(metric)),
        }
    }

    /// A handle to one histogram.
    #[must_use]
    pub fn histogram(&self, metric: Metric, labels: &[(&'static str, &str)]) -> Histogram {
        match self.series(metric) {
            Series::Histogram(family) => Histogram(family.get_or_create_owned(&label_set(metric, labels))),
            _ => {
                debug_assert!(false, "{metric:?} is no histogram");
                Histogram(metric::latency_histogram())
            }
        }
    }

    /// Takes one label set out of the exposition: a partition that has gone has no lag.
    pub fn forget(&self, metric: Metric, labels: &[(&'static str, &str)]) {
        let labels = label_set(metric, labels);
        match self.series(metric) {
            Series::Counter(family) => family.remove(&labels),
            Series::Seconds(family) => family.remove(&labels),
            Series::Gauge(family) => family.remove(&labels),
            Series::Histogram(family) => family.remove(&labels),
        };
    }

    /// Applies what a plugin counted while it handled a batch that succeeded. The plugin's name for a metric becomes a
    /// label; names that are no `[a-zA-Z_][a-zA-Z0-9_.]*` of at most [`PLUGIN_METRIC_NAME_BYTES_MAX`] bytes, and those
    /// beyond [`PLUGIN_METRICS_MAX`], are refused and counted in [`Metric::PluginMetricsRefused`].
    pub fn plugin_metrics(&self, pipeline: &str, plugin: &str, updates: &[MetricUpdate]) {
        for update in updates {
            let (MetricUpdate::Count(name, _) | MetricUpdate::Gauge(name, _) | MetricUpdate::Observe(name, _)) = update;
            if !self.admits_plugin_metric(pipeline, plugin, name) {
                self.count(Metric::PluginMetricsRefused, &[("pipeline", pipeline), ("plugin", plugin)], 1);
                continue;
            }
            let labels = [("pipeline", pipeline), ("plugin", plugin), ("metric", name.as_str())];
            match update {
                MetricUpdate::Count(_, n) => self.count(Metric::PluginCounter, &labels, *n),
                MetricUpdate::Gauge(_, value) => self.gauge(Metric::PluginGauge, &labels, *value),
                MetricUpdate::Observe(_, value) => self.observe(Metric::PluginHistogram, &labels, *value),
            }
        }
    }

    fn admits_plugin_metric(&self, pipeline: &str, plugin: &str, name: &str) -> bool {
        let head = name.bytes().next().is_some_and(|byte| byte.is_ascii_alphabetic() || byte == b'_');
        let rest = name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_' || byte == b'.');
        if !head || !rest || name.len() > PLUGIN_METRIC_NAME_BYTES_MAX {
            return false;
        }
        let key = (pipeline.to_owned(), plugin.to_owned(), name.to_owned());
        let mut known = self.inner.plugin_metrics.lock().unwrap_or_else(PoisonError::into_inner);
        if known.contains(&key) {
            return true;
        }
        let first = (key.0.clone(), key.1.clone(), String::new());
        let of_plugin = known.range(first..).take_while(|other| other.0 == key.0 && other.1 == key.1).count();
        of_plugin < PLUGIN_METRICS_MAX && known.insert(key)
    }

    /// All numbers as text, in the format of [`EXPOSITION_TYPE`].
    #[must_use]
    pub fn exposition(&self) -> String {
        if let Some(bytes) = resident_bytes() {
            self.gauge(Metric::MemoryBytes, &[], bytes as f64);
        }
        let mut text = String::new();
        encode(&mut text, &self.inner.registry).expect("writing to a string does not fail");
        text
    }

    fn series(&self, metric: Metric) -> &Series {
        &self.inner.families[metric as usize]
    }
}

/// A handle where the call and [`Metric::spec`] disagree: a mistake of ours that tests see and operators survive.
fn wrong_kind<T: Default>(metric: Metric) -> T {
    debug_assert!(false, "{metric:?} is a {:?}", metric.spec().kind);
    T::default()
}

fn label_set(metric: Metric, labels: &[(&'static str, &str)]) -> LabelSet {
    debug_assert!(
        labels.iter().map(|(name, _)| *name).eq(metric.spec().labels.iter().copied()),
        "{metric:?} has the labels {:?}, not {labels:?}",
        metric.spec().labels
    );
    labels.iter().map(|(name, value)| (*name, (*value).to_owned())).collect()
}

/// The memory of this process that is in RAM, where the system tells.
#[must_use]
pub fn resident_bytes() -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
    line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok().map(|kib| kib * 1024)
}

/// One counter.
#[derive(Debug, Clone)]
pub struct Counter(RawCounter);

impl Counter {
    /// Adds.
    pub fn add(&self, n: u64) {
        self.0.inc_by(n);
    }

    /// The sum so far.
    #[must_use]
    pub fn get(&self) -> u64 {
        self.0.get()
    }
}

/// One counter of seconds.
#[derive(Debug, Clone)]
pub struct Seconds(RawCounter<f64, AtomicU64>);

impl Seconds {
    /// Adds.
    pub fn add(&self, time: Duration) {
        self.0.inc_by(time.as_secs_f64());
    }

    /// The sum so far.
    #[must_use]
    pub fn get(&self) -> f64 {
        self.0.get()
    }
}

/// One gauge.
#[derive(Debug, Clone)]
pub struct Gauge(RawGauge<f64, AtomicU64>);

impl Gauge {
    /// Sets.
    pub fn set(&self, value: f64) {
        self.0.set(value);
    }

    /// Adds; negative to take away.
    pub fn add(&self, value: f64) {
        self.0.inc_by(value);
    }

    /// The value now.
    #[must_use]
    pub fn get(&self) -> f64 {
        self.0.get()
    }
}

/// One histogram.
#[derive(Debug, Clone)]
pub struct Histogram(RawHistogram);

impl Histogram {
    /// Observes a value in the metric's unit.
    pub fn observe(&self, value: f64) {
        self.0.observe(value);
    }

    /// Observes a time in a histogram of seconds.
    pub fn observe_time(&self, time: Duration) {
        self.0.observe(time.as_secs_f64());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_metric_stands_at_its_own_place_with_a_good_name() {
        let mut names = BTreeSet::new();
        for (place, metric) in Metric::ALL.iter().enumerate() {
            assert_eq!(*metric as usize, place);
            let spec = metric.spec();
            assert!(spec.name.starts_with("pelton_"), "{}", spec.name);
            assert!(spec.name.bytes().all(|byte| byte.is_ascii_lowercase() || byte == b'_'), "{}", spec.name);
            assert!(!spec.name.ends_with("_total"), "the exposition adds it: {}", spec.name);
            assert!(!spec.help.ends_with('.'), "the exposition adds it: {}", spec.help);
            if matches!(spec.kind, Kind::Seconds | Kind::Latency) {
                assert!(spec.name.ends_with("_seconds"), "{}", spec.name);
            }
            assert!(names.insert(spec.name), "twice: {}", spec.name);
        }
    }

    #[test]
    fn counts_show_in_the_exposition() {
        let telemetry = Telemetry::new();
        let records = telemetry.counter(Metric::Records, &[("pipeline", "orders")]);
        records.add(2);
        telemetry.clone().count(Metric::Records, &[("pipeline", "orders")], 3);
        let lag = [("pipeline", "orders"), ("topic", "t"), ("partition", "0")];
        telemetry.gauge(Metric::Lag, &lag, 7.0);
        telemetry.observe(Metric::SinkSeconds, &[("pipeline", "orders"), ("output", "default")], 0.004);
        telemetry.count_seconds(
            Metric::PluginCpuSeconds,
            &[("pipeline", "orders"), ("plugin", "p")],
            Duration::from_millis(250),
        );
        let text = telemetry.exposition();
        for line in [
            "pelton_records_total{pipeline=\"orders\"} 5",
            "pelton_lag_records{pipeline=\"orders\",topic=\"t\",partition=\"0\"} 7.0",
            "pelton_sink_seconds_count{pipeline=\"orders\",output=\"default\"} 1",
            "pelton_plugin_cpu_seconds_total{pipeline=\"orders\",plugin=\"p\"} 0.25",
        ] {
            assert!(text.lines().any(|found| found == line), "no line {line} in\n{text}");
        }
        assert!(text.ends_with("# EOF\n"));
        telemetry.forget(Metric::Lag, &lag);
        assert!(!telemetry.exposition().contains("pelton_lag_records{"));
    }

    #[test]
    fn label_values_cannot_break_out_of_their_quotes() {
        let telemetry = Telemetry::new();
        telemetry.count(Metric::DeadLetters, &[("pipeline", "a"), ("code", "x\"} 9\nevil 1")], 1);
        let text = telemetry.exposition();
        assert!(!text.lines().any(|line| line.starts_with("evil")), "{text}");
    }

    #[test]
    fn a_plugin_cannot_make_metrics_without_end() {
        let telemetry = Telemetry::new();
        let many: Vec<_> = (0..PLUGIN_METRICS_MAX + 5).map(|n| MetricUpdate::Count(format!("m{n}"), 1)).collect();
        telemetry.plugin_metrics("p", "a", &many);
        telemetry.plugin_metrics("p", "b", &[MetricUpdate::Gauge("depth".into(), 3.5)]);
        telemetry.plugin_metrics("p", "b", &[MetricUpdate::Count("no spaces".into(), 1)]);
        telemetry.plugin_metrics("p", "b", &[MetricUpdate::Observe("x".repeat(65), 1.0)]);
        telemetry.plugin_metrics("p", "b", &[MetricUpdate::Count(String::new(), 1)]);
        let text = telemetry.exposition();
        assert_eq!(text.matches("pelton_plugin_counter_total{").count(), PLUGIN_METRICS_MAX);
        assert!(text.contains("pelton_plugin_gauge{pipeline=\"p\",plugin=\"b\",metric=\"depth\"} 3.5"));
        assert!(text.contains("pelton_plugin_metrics_refused_total{pipeline=\"p\",plugin=\"a\"} 5"));
        assert!(text.contains("pelton_plugin_metrics_refused_total{pipeline=\"p\",plugin=\"b\"} 3"));
    }

    #[test]
    #[cfg(target_os = "linux")]
    fn knows_its_own_memory() {
        assert!(resident_bytes().is_some_and(|bytes| bytes > 1 << 20));
    }
}
