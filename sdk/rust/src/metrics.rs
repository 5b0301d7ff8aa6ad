//! Capability `metrics`: numbers for the operator. Names are lower case with underscores. Updates are held until the
//! batch succeeds, so that a retried batch counts once.

/// Adds to a counter.
pub fn count(name: &str, value: u64) {
    crate::host::count(name, value);
}

/// Sets a gauge.
pub fn gauge(name: &str, value: f64) {
    crate::host::gauge(name, value);
}

/// Observes a value in a histogram.
pub fn observe(name: &str, value: f64) {
    crate::host::observe(name, value);
}
