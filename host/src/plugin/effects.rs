//! What a guest says to the operator, held until its batch succeeds.
//!
//! In: calls of `log` and `metrics`, as many as a guest can make within its CPU budget. Out: [`Effects`] of bounded size,
//! or the last lines for a dead letter. Nothing leaves before it is asked for.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Mutex, PoisonError};

use crate::pipeline::{Effects, LogLevel, LogLine, MetricUpdate};

/// Bytes of one line; what is longer is cut.
pub(super) const LINE_BYTES_MAX: usize = 4 << 10;
/// Bytes of all lines of a batch.
pub(super) const LOG_BYTES_MAX: usize = 256 << 10;
/// Lines that travel with a dead letter.
pub(super) const LAST_LINES: usize = 20;
/// Different metric names of a plugin.
pub(super) const METRIC_NAMES_MAX: usize = 64;
/// Bytes of a metric's name.
pub(super) const METRIC_NAME_BYTES_MAX: usize = 64;
/// Observations of a batch.
pub(super) const OBSERVATIONS_MAX: usize = 10_000;

/// The metric names that a plugin has used so far, over all its instances: a name keeps its first kind.
#[derive(Debug, Default)]
pub(super) struct MetricNames(Mutex<BTreeMap<String, MetricKind>>);

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum MetricKind {
    Count,
    Gauge,
    Observe,
}

impl MetricNames {
    /// Whether a plugin may use that name in that way.
    fn admit(&self, name: &str, kind: MetricKind) -> bool {
        let mut names = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        match names.get(name) {
            Some(known) => *known == kind,
            None if names.len() < METRIC_NAMES_MAX && is_metric_name(name) => {
                names.insert(name.to_owned(), kind);
                true
            }
            None => false,
        }
    }
}

fn is_metric_name(name: &str) -> bool {
    name.len() <= METRIC_NAME_BYTES_MAX
        && name.starts_with(|first: char| first.is_ascii_lowercase())
        && name.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'_')
}

/// The effects of the batch under way.
#[derive(Debug)]
pub(super) struct EffectsBuffer {
    names: Arc<MetricNames>,
    lines_max: usize,
    lines: Vec<LogLine>,
    line_bytes: usize,
    /// The newest lines that were not kept.
    tail: VecDeque<LogLine>,
    lines_dropped: u64,
    metrics: Vec<MetricUpdate>,
    /// Where a counter or a gauge stands in `metrics`: further updates of it change it in place.
    places: BTreeMap<String, usize>,
    observations: usize,
    metrics_dropped: u64,
}

impl EffectsBuffer {
    pub(super) fn new(names: Arc<MetricNames>, lines_max: usize) -> Self {
        Self {
            names,
            lines_max,
            lines: Vec::new(),
            line_bytes: 0,
            tail: VecDeque::new(),
            lines_dropped: 0,
            metrics: Vec::new(),
            places: BTreeMap::new(),
            observations: 0,
            metrics_dropped: 0,
        }
    }

    /// A line of the guest.
    pub(super) fn log(&mut self, level: LogLevel, message: String) {
        let line = LogLine { level, message: cut(message) };
        let bytes = self.line_bytes + line.message.len();
        if self.lines.len() < self.lines_max && bytes <= LOG_BYTES_MAX {
            self.line_bytes = bytes;
            self.lines.push(line);
        } else {
            self.lines_dropped += 1;
            self.remember(line);
        }
    }

    /// A line that is of use only where the guest fails, such as what it wrote to its standard error.
    pub(super) fn note(&mut self, level: LogLevel, message: String) {
        self.remember(LogLine { level, message: cut(message) });
    }

    fn remember(&mut self, line: LogLine) {
        if self.tail.len() == LAST_LINES {
            self.tail.pop_front();
        }
        self.tail.push_back(line);
    }

    pub(super) fn count(&mut self, name: String, value: u64) {
        if !self.names.admit(&name, MetricKind::Count) {
            self.metrics_dropped += 1;
            return;
        }
        match self.places.get(&name).and_then(|place| self.metrics.get_mut(*place)) {
            Some(MetricUpdate::Count(_, sum)) => *sum = sum.saturating_add(value),
            _ => {
                self.places.insert(name.clone(), self.metrics.len());
                self.metrics.push(MetricUpdate::Count(name, value));
            }
        }
    }

    pub(super) fn gauge(&mut self, name: String, value: f64) {
        if !value.is_finite() || !self.names.admit(&name, MetricKind::Gauge) {
            self.metrics_dropped += 1;
            return;
        }
        match self.places.get(&name).and_then(|place| self.metrics.get_mut(*place)) {
            Some(MetricUpdate::Gauge(_, last)) => *last = value,
            _ => {
                self.places.insert(name.clone(), self.metrics.len());
                self.metrics.push(MetricUpdate::Gauge(name, value));
            }
        }
    }

    pub(super) fn observe(&mut self, name: String, value: f64) {
        let room = self.observations < OBSERVATIONS_MAX;
        if !room || !value.is_finite() || !self.names.admit(&name, MetricKind::Observe) {
            self.metrics_dropped += 1;
            return;
        }
        self.observations += 1;
        self.metrics.push(MetricUpdate::Observe(name, value));
    }

    /// Forgets all, before the next call.
    pub(super) fn clear(&mut self) {
        let _ = self.take();
    }

    /// All that was said, once the batch has succeeded.
    pub(super) fn take(&mut self) -> Effects {
        self.line_bytes = 0;
        self.observations = 0;
        self.tail.clear();
        self.places.clear();
        Effects {
            logs: std::mem::take(&mut self.lines),
            logs_dropped: std::mem::take(&mut self.lines_dropped),
            metrics: std::mem::take(&mut self.metrics),
            metrics_dropped: std::mem::take(&mut self.metrics_dropped),
        }
    }

    /// The last lines, where the batch has failed.
    pub(super) fn take_last_lines(&mut self) -> Vec<LogLine> {
        let mut last = std::mem::take(&mut self.lines);
        last.extend(std::mem::take(&mut self.tail));
        self.clear();
        last.split_off(last.len().saturating_sub(LAST_LINES))
    }
}

/// A guest's own words, cut to [`LINE_BYTES_MAX`].
pub(super) fn cut(mut message: String) -> String {
    if message.len() > LINE_BYTES_MAX {
        let bytes = message.len();
        message.truncate(message.floor_char_boundary(LINE_BYTES_MAX));
        message.shrink_to_fit();
        message.push_str(&format!("… ({bytes} bytes, cut)"));
    }
    message
}

#[cfg(test)]
mod tests {
    use super::*;

    fn buffer(lines_max: usize) -> EffectsBuffer {
        EffectsBuffer::new(Arc::default(), lines_max)
    }

    #[test]
    fn a_flood_of_lines_is_counted_and_its_end_is_kept_for_the_dead_letter() {
        let mut effects = buffer(3);
        for line in 0..1000 {
            effects.log(LogLevel::Info, format!("line {line}"));
        }
        let last = effects.take_last_lines();
        assert_eq!(last.len(), LAST_LINES);
        assert_eq!(last.last().map(|line| line.message.as_str()), Some("line 999"));
        for line in 0..1000 {
            effects.log(LogLevel::Info, format!("line {line}"));
        }
        let said = effects.take();
        assert_eq!((said.logs.len(), said.logs_dropped), (3, 997));
    }

    #[test]
    fn a_long_line_is_cut_between_characters() {
        let mut effects = buffer(3);
        effects.log(LogLevel::Info, "ä".repeat(LINE_BYTES_MAX));
        let said = effects.take();
        assert!(said.logs[0].message.ends_with("ä… (8192 bytes, cut)"), "{}", said.logs[0].message);
        assert!(said.logs[0].message.len() < LINE_BYTES_MAX + 40);
    }

    #[test]
    fn many_long_lines_stay_below_the_byte_cap() {
        let mut effects = buffer(10_000);
        for _ in 0..1000 {
            effects.log(LogLevel::Info, "x".repeat(LINE_BYTES_MAX));
        }
        let said = effects.take();
        let bytes: usize = said.logs.iter().map(|line| line.message.len()).sum();
        assert!(bytes <= LOG_BYTES_MAX);
        assert_eq!(said.logs.len() as u64 + said.logs_dropped, 1000);
    }

    #[test]
    fn counters_add_up_gauges_keep_the_last_and_observations_stand_apart() {
        let mut effects = buffer(0);
        effects.count("orders".into(), 2);
        effects.gauge("depth".into(), 1.0);
        effects.observe("euros".into(), 3.5);
        effects.count("orders".into(), 40);
        effects.gauge("depth".into(), 7.0);
        effects.observe("euros".into(), 4.5);
        assert_eq!(
            effects.take().metrics,
            [
                MetricUpdate::Count("orders".into(), 42),
                MetricUpdate::Gauge("depth".into(), 7.0),
                MetricUpdate::Observe("euros".into(), 3.5),
                MetricUpdate::Observe("euros".into(), 4.5),
            ]
        );
    }

    #[test]
    fn names_beyond_the_limit_bad_names_and_changed_kinds_are_dropped_and_counted() {
        let mut effects = buffer(0);
        for name in 0..METRIC_NAMES_MAX + 10 {
            effects.count(format!("name_{name}"), 1);
        }
        effects.gauge("name_0".into(), 1.0);
        let said = effects.take();
        assert_eq!((said.metrics.len(), said.metrics_dropped), (METRIC_NAMES_MAX, 11));
        let mut effects = buffer(0);
        for name in ["", "Upper", "1st", "with-dash", "ünicode", &"x".repeat(65)] {
            effects.count(name.into(), 1);
        }
        effects.gauge("nan".into(), f64::NAN);
        assert_eq!(effects.take().metrics_dropped, 7);
    }

    #[test]
    fn observations_are_capped() {
        let mut effects = buffer(0);
        for _ in 0..OBSERVATIONS_MAX + 5 {
            effects.observe("euros".into(), 1.0);
        }
        let said = effects.take();
        assert_eq!((said.metrics.len(), said.metrics_dropped), (OBSERVATIONS_MAX, 5));
    }
}
