//! The capabilities, as the driver answers them.

use std::cell::RefCell;
use std::fmt;
use std::rc::Rc;

use serde_json::Value;

use crate::http::{Error, Request, Response};
use crate::log::Level;

/// A line that the plugin logged.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LogLine {
    /// How loud.
    pub level: Level,
    /// What.
    pub message: String,
}

/// One update of a metric.
#[derive(Debug, Clone, PartialEq)]
pub enum MetricUpdate {
    /// Add to a counter.
    Count(String, u64),
    /// Set a gauge.
    Gauge(String, f64),
    /// Observe in a histogram.
    Observe(String, f64),
}

/// Who answers the plugin's requests in a test; nobody by default.
#[derive(Clone)]
pub(super) struct Answering(Rc<Answer>);

type Answer = dyn Fn(&Request) -> Result<Response, Error>;

impl Answering {
    pub(super) fn by(answer: impl Fn(&Request) -> Result<Response, Error> + 'static) -> Self {
        Self(Rc::new(answer))
    }
}

impl Default for Answering {
    fn default() -> Self {
        Self::by(|request| {
            let (method, url) = (&request.method, &request.url);
            Err(Error::Denied(format!("nobody answers {method} {url}; say who does: Driver::answering")))
        })
    }
}

impl fmt::Debug for Answering {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Answering")
    }
}

/// What the functions below answer, and what they collect.
#[derive(Default)]
struct Context {
    config: Value,
    times: Vec<i64>,
    seeds: Vec<u64>,
    answering: Answering,
    logs: Vec<LogLine>,
    metrics: Vec<MetricUpdate>,
}

thread_local! {
    static CONTEXT: RefCell<Context> = RefCell::default();
}

/// Begins a call of the plugin.
pub(super) fn begin(config: &Value, times: Vec<i64>, seeds: Vec<u64>, answering: Answering) {
    let config = config.clone();
    CONTEXT.with_borrow_mut(|context| {
        *context = Context { config, times, seeds, answering, ..Context::default() };
    });
}

/// Ends it, and gives what the plugin said.
pub(super) fn end() -> (Vec<LogLine>, Vec<MetricUpdate>) {
    let context = CONTEXT.take();
    (context.logs, context.metrics)
}

pub(crate) fn log(level: Level, message: &str) {
    let line = LogLine { level, message: message.to_owned() };
    CONTEXT.with_borrow_mut(|context| context.logs.push(line));
}

pub(crate) fn count(name: &str, value: u64) {
    metric(MetricUpdate::Count(name.to_owned(), value));
}

pub(crate) fn gauge(name: &str, value: f64) {
    metric(MetricUpdate::Gauge(name.to_owned(), value));
}

pub(crate) fn observe(name: &str, value: f64) {
    metric(MetricUpdate::Observe(name.to_owned(), value));
}

fn metric(update: MetricUpdate) {
    CONTEXT.with_borrow_mut(|context| context.metrics.push(update));
}

pub(crate) fn config(key: &str) -> Option<String> {
    CONTEXT.with_borrow(|context| context.config.get(key).map(Value::to_string))
}

pub(crate) fn time(row: u32) -> i64 {
    CONTEXT.with_borrow(|context| context.times[row as usize])
}

pub(crate) fn seed(row: u32) -> u64 {
    CONTEXT.with_borrow(|context| context.seeds[row as usize])
}

/// Where a response does not say where it came from, it came from where it was asked for.
pub(crate) fn fetch_all(requests: Vec<Request>) -> Vec<Result<Response, Error>> {
    let Answering(answer) = CONTEXT.with_borrow(|context| context.answering.clone());
    let placed = |request: &Request| {
        let mut response = answer(request)?;
        if response.url.is_empty() {
            response.url.clone_from(&request.url);
        }
        Ok(response)
    };
    requests.iter().map(placed).collect()
}
