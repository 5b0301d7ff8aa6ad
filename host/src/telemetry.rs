//! Numbers and lines for the operator.
//!
//! In: counts, gauges and observations from the rooms. Out: the text of `/metrics`. Every metric's name stands in
//! [`Metric`]. Never sees a payload or a secret.
