//! Capability `clock`: time as a function of the record, so that a replay sees the same.

/// The current record's timestamp in milliseconds since 1970-01-01T00:00:00Z; -1 where it has none.
///
/// # Panics
/// Outside of [`Transform::apply`](crate::Transform::apply).
#[must_use]
pub fn now_ms() -> i64 {
    crate::host::time(crate::host::row("clock"))
}
