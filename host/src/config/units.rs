//! Durations, sizes and times as people write them: `5 ms`, `90 d`, `64 MiB`, `2026-01-01T00:00:00Z`.
//!
//! Pure: text in, number out, or how to write it.

use std::time::Duration;

/// Units of time, in nanoseconds.
const TIME_UNITS: [(&str, u64); 8] = [
    ("ns", 1),
    ("us", 1_000),
    ("ms", 1_000_000),
    ("s", 1_000_000_000),
    ("min", 60 * 1_000_000_000),
    ("h", 3_600 * 1_000_000_000),
    ("d", 86_400 * 1_000_000_000),
    ("w", 7 * 86_400 * 1_000_000_000),
];

/// Units of size, in bytes.
const SIZE_UNITS: [(&str, u64); 9] = [
    ("B", 1),
    ("kB", 1_000),
    ("MB", 1_000_000),
    ("GB", 1_000_000_000),
    ("TB", 1_000_000_000_000),
    ("KiB", 1 << 10),
    ("MiB", 1 << 20),
    ("GiB", 1 << 30),
    ("TiB", 1 << 40),
];

/// Why a quantity cannot be read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Unreadable {
    /// A bare number.
    NoUnit { number: String },
    /// A unit that is not one of ours, and the one that was probably meant.
    Unit { unit: String, meant: Option<String> },
    /// No whole number before the unit.
    Number,
    /// Larger than any that makes sense.
    TooLarge,
}

/// A duration such as `5 ms`.
pub(super) fn duration(text: &str) -> Result<Duration, Unreadable> {
    quantity(text, &TIME_UNITS, |unit| match unit {
        "m" | "mins" | "minute" | "minutes" => Some("min"),
        "sec" | "secs" | "second" | "seconds" => Some("s"),
        "msec" | "millis" | "milliseconds" => Some("ms"),
        "µs" | "μs" | "usec" | "micros" | "microseconds" => Some("us"),
        "hr" | "hrs" | "hour" | "hours" => Some("h"),
        "day" | "days" => Some("d"),
        "week" | "weeks" => Some("w"),
        _ => None,
    })
    .map(Duration::from_nanos)
}

/// A size such as `64 MiB`, in bytes.
pub(super) fn size_bytes(text: &str) -> Result<u64, Unreadable> {
    quantity(text, &SIZE_UNITS, |unit| match unit.to_ascii_lowercase().as_str() {
        "b" | "byte" | "bytes" => Some("B"),
        "kb" => Some("kB"),
        "k" | "ki" | "kib" => Some("KiB"),
        "m" | "mi" | "mib" | "mbyte" | "megabytes" => Some("MiB"),
        "mb" => Some("MB"),
        "g" | "gi" | "gib" | "gigabytes" => Some("GiB"),
        "gb" => Some("GB"),
        "t" | "ti" | "tib" => Some("TiB"),
        "tb" => Some("TB"),
        _ => None,
    })
}

/// A time such as `2026-01-01T00:00:00Z`, in microseconds since the Unix epoch.
pub(super) fn timestamp_us(text: &str) -> Option<i64> {
    chrono::DateTime::parse_from_rfc3339(text).ok().map(|time| time.timestamp_micros())
}

fn quantity(
    text: &str,
    units: &[(&str, u64)],
    meant: impl Fn(&str) -> Option<&'static str>,
) -> Result<u64, Unreadable> {
    let text = text.trim();
    let digits = text.len() - text.trim_start_matches(|c: char| c.is_ascii_digit() || c == '_').len();
    let (number, unit) = text.split_at(digits);
    let unit = unit.trim_start();
    let number = number.replace('_', "");
    if number.is_empty() || unit.starts_with(['.', ',']) || unit.starts_with(|c: char| c.is_ascii_digit()) {
        return Err(Unreadable::Number);
    }
    if unit.is_empty() {
        return Err(Unreadable::NoUnit { number });
    }
    let number: u64 = number.parse().map_err(|_| Unreadable::TooLarge)?;
    match units.iter().find(|(name, _)| *name == unit) {
        Some((_, factor)) => number.checked_mul(*factor).ok_or(Unreadable::TooLarge),
        None => {
            let meant = meant(unit).map(|unit| format!("{number} {unit}"));
            Err(Unreadable::Unit { unit: unit.to_owned(), meant })
        }
    }
}

/// A duration as we would write it: in the largest unit that divides it.
pub(super) fn show_duration(duration: Duration) -> String {
    let nanos = u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX);
    show(nanos, &TIME_UNITS[..7], "ms")
}

/// A size as we would write it: in the largest binary unit that divides it.
pub(crate) fn show_bytes(bytes: u64) -> String {
    show(bytes, &[("B", 1), ("KiB", 1 << 10), ("MiB", 1 << 20), ("GiB", 1 << 30), ("TiB", 1 << 40)], "B")
}

fn show(amount: u64, units: &[(&str, u64)], zero: &str) -> String {
    let unit = units.iter().rev().find(|(_, factor)| amount >= *factor && amount.is_multiple_of(*factor));
    match unit {
        Some((name, factor)) => format!("{} {name}", amount / factor),
        None => format!("{amount} {zero}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_what_people_write() {
        assert_eq!(duration("5 ms"), Ok(Duration::from_millis(5)));
        assert_eq!(duration("90d"), Ok(Duration::from_secs(90 * 86_400)));
        assert_eq!(duration("0 s"), Ok(Duration::ZERO));
        assert_eq!(size_bytes("64 MiB"), Ok(64 << 20));
        assert_eq!(size_bytes("1 MB"), Ok(1_000_000));
        assert_eq!(timestamp_us("2026-01-01T00:00:00Z"), Some(1_767_225_600_000_000));
        assert_eq!(timestamp_us("2026-01-01T01:00:00.5+01:00"), Some(1_767_225_600_500_000));
    }

    #[test]
    fn says_what_was_probably_meant() {
        assert_eq!(duration("5"), Err(Unreadable::NoUnit { number: "5".to_owned() }));
        let meant = |result: Result<u64, Unreadable>| match result {
            Err(Unreadable::Unit { meant, .. }) => meant,
            _ => None,
        };
        assert_eq!(meant(size_bytes("64 mb")), Some("64 MB".to_owned()));
        assert_eq!(meant(size_bytes("64M")), Some("64 MiB".to_owned()));
        assert_eq!(duration("1.5 h"), Err(Unreadable::Number));
        assert_eq!(duration("-1 s"), Err(Unreadable::Number));
        assert_eq!(duration("99999999999 w"), Err(Unreadable::TooLarge));
        assert_eq!(timestamp_us("2026-01-01"), None);
    }

    #[test]
    fn shows_quantities_in_their_largest_whole_unit() {
        assert_eq!(show_duration(Duration::from_millis(1_500)), "1500 ms");
        assert_eq!(show_duration(Duration::from_secs(7_200)), "2 h");
        assert_eq!(show_bytes(1 << 20), "1 MiB");
        assert_eq!(show_bytes(0), "0 B");
    }
}
