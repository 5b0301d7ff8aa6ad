//! The kinds of values that the files hold: numbers in a range, quantities with units, choices, names, paths.
//!
//! In: a [`Value`]. Out: the valid value, or none after its mistake was noted.

use std::ops::RangeInclusive;
use std::path::{Component, Path, PathBuf};
use std::time::Duration;

use super::document::{Value, list};
use super::suggest::nearest;
use super::units::{self, Unreadable, show_bytes, show_duration};

/// `true` or `false`.
pub(super) fn boolean(value: &Value<'_>) -> Option<bool> {
    match value.bare() {
        Some("true" | "True" | "TRUE") => Some(true),
        Some("false" | "False" | "FALSE") => Some(false),
        _ => {
            value.expected("`true` or `false`");
            None
        }
    }
}

/// Fields as paths of keys, at least one; `what` says what belongs here, with an example.
pub(super) fn fields(value: &Value<'_>, what: &str) -> Option<Vec<Vec<String>>> {
    let mut fields = Vec::new();
    for item in value.items(what)? {
        let path: Vec<String> = item.text("a field, like `customer.id`")?.split('.').map(str::to_owned).collect();
        if path.iter().any(String::is_empty) {
            let here = item.describe();
            item.problem(format!("{here} is no path of keys"), "write a field, like `customer.id`");
            return None;
        }
        fields.push(path);
    }
    if fields.is_empty() {
        value.problem("found an empty list", format!("write {what}"));
        return None;
    }
    Some(fields)
}

/// A whole number in a range.
pub(super) fn integer(value: &Value<'_>, range: RangeInclusive<u64>) -> Option<u64> {
    let what = format!("a whole number from {} to {}", range.start(), range.end());
    match value.bare().map(str::parse::<u64>) {
        Some(Ok(number)) if range.contains(&number) => Some(number),
        Some(Ok(_)) => {
            let here = value.describe();
            value.problem(format!("{here} is out of range"), format!("write {what}"));
            None
        }
        _ => {
            value.expected(&what);
            None
        }
    }
}

/// A number above 0, at most `max`.
pub(super) fn positive(value: &Value<'_>, max: f64) -> Option<f64> {
    let what = format!("a number above 0, at most {max}");
    match value.bare().map(str::parse::<f64>) {
        Some(Ok(number)) if number > 0.0 && number <= max => Some(number),
        Some(Ok(_)) => {
            let here = value.describe();
            value.problem(format!("{here} is out of range"), format!("write {what}"));
            None
        }
        _ => {
            value.expected(&what);
            None
        }
    }
}

/// A duration in a range, such as `5 ms`.
pub(super) fn duration(value: &Value<'_>, example: &str, range: RangeInclusive<Duration>) -> Option<Duration> {
    let what = format!("a duration with its unit, like `{example}` (ms, s, min, h, d)");
    let parsed = quantity(value, example, &what, units::duration)?;
    if range.contains(&parsed) {
        return Some(parsed);
    }
    let here = value.describe();
    value.problem(
        format!("{here} is out of range"),
        format!("write a duration from {} to {}", show_duration(*range.start()), show_duration(*range.end())),
    );
    None
}

/// A size in a range, such as `64 MiB`.
pub(super) fn size(value: &Value<'_>, example: &str, range: RangeInclusive<u64>) -> Option<usize> {
    let what = format!("a size with its unit, like `{example}` (B, KiB, MiB, GiB, kB, MB, GB)");
    let parsed = quantity(value, example, &what, units::size_bytes)?;
    if range.contains(&parsed) {
        return usize::try_from(parsed).ok();
    }
    let here = value.describe();
    value.problem(
        format!("{here} is out of range"),
        format!("write a size from {} to {}", show_bytes(*range.start()), show_bytes(*range.end())),
    );
    None
}

fn quantity<T>(
    value: &Value<'_>,
    example: &str,
    what: &str,
    parse: impl Fn(&str) -> Result<T, Unreadable>,
) -> Option<T> {
    let Some(text) = value.scalar() else {
        if !value.is_broken() {
            value.expected(what);
        }
        return None;
    };
    let here = value.describe();
    match parse(text) {
        Ok(parsed) => return Some(parsed),
        Err(Unreadable::NoUnit { number }) => {
            let unit = example.rsplit(' ').next().unwrap_or_default();
            let remedy = match value.is_substituted() {
                true => format!("write {what}"),
                false => format!("write {what}; did you mean `{number} {unit}`?"),
            };
            value.problem(format!("{here} has no unit"), remedy);
        }
        Err(Unreadable::Unit { meant, .. }) => {
            let remedy = match meant {
                Some(meant) if !value.is_substituted() => format!("write `{meant}`"),
                _ => format!("write {what}"),
            };
            value.problem(format!("{here} has a unit that is not known"), remedy);
        }
        Err(Unreadable::Number) => value.problem(
            format!("{here} does not begin with a whole number"),
            format!("write {what}; smaller units take the place of fractions"),
        ),
        Err(Unreadable::TooLarge) => value.problem(format!("{here} is too large"), format!("write {what}")),
    }
    None
}

/// A time such as `2026-01-01T00:00:00Z`, in microseconds since the Unix epoch.
pub(super) fn timestamp_us(value: &Value<'_>) -> Option<i64> {
    let what = "a time with date and zone, like `2026-01-01T00:00:00Z`";
    let Some(text) = value.scalar() else {
        if !value.is_broken() {
            value.expected(what);
        }
        return None;
    };
    match units::timestamp_us(text) {
        Some(time) if time >= 0 => Some(time),
        Some(_) => {
            let here = value.describe();
            value.problem(format!("{here} lies before 1970"), format!("write {what}"));
            None
        }
        None => {
            value.expected(what);
            None
        }
    }
}

/// One of a few words.
pub(super) fn choice<T: Clone>(value: &Value<'_>, choices: &[(&str, T)]) -> Option<T> {
    choice_by_meaning(value, choices, &[])
}

/// The same, where other words are known too, and which of the choices they mean: what is near by its letters may be far
/// from it.
pub(super) fn choice_by_meaning<T: Clone>(
    value: &Value<'_>,
    choices: &[(&str, T)],
    meanings: &[(&str, &'static str)],
) -> Option<T> {
    let words = || choices.iter().map(|(word, _)| *word);
    let what = || format!("one of {}", list(words()));
    let Some(text) = value.scalar() else {
        if !value.is_broken() {
            value.expected(&what());
        }
        return None;
    };
    if let Some((_, chosen)) = choices.iter().find(|(word, _)| *word == text) {
        return Some(chosen.clone());
    }
    let here = value.describe();
    let meant = meanings.iter().find(|(word, _)| word.eq_ignore_ascii_case(text)).map(|(_, meant)| *meant);
    let hint = match meant.or_else(|| nearest(text, words())) {
        Some(near) if !value.is_substituted() => format!("did you mean `{near}`? write {}", what()),
        _ => format!("write {}", what()),
    };
    value.problem(format!("{here} is not a choice here"), hint);
    None
}

/// A Kafka topic's name.
pub(super) fn topic(value: &Value<'_>) -> Option<String> {
    let text = value.text("a topic, like `shop.orders`")?;
    let legal = text.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-'));
    if legal && text.len() <= 249 && !matches!(text.as_str(), "." | "..") {
        return Some(text);
    }
    let here = value.describe();
    value
        .problem(format!("{here} is not a topic's name"), "use letters, digits, `.`, `_` and `-`, at most 249 of them");
    None
}

/// A path; a relative one starts at the project directory, and stays below it.
pub(super) fn path_within(value: &Value<'_>, dir: &Path, what: &str) -> Option<PathBuf> {
    let text = value.text(what)?;
    let path = Path::new(&text);
    if escapes(path) {
        let here = value.describe();
        value.problem(
            format!("{here} leads out of the project directory"),
            "keep it inside of the project, or write an absolute path",
        );
        return None;
    }
    // Without `.` components, so that equal paths are equal.
    Some(dir.join(path).components().collect())
}

/// Whether a relative path leads out of where it starts.
pub(super) fn escapes(path: &Path) -> bool {
    let mut depth = 0_i32;
    for component in path.components() {
        match component {
            Component::ParentDir => depth -= 1,
            Component::Normal(_) => depth += 1,
            Component::RootDir | Component::Prefix(_) => return false,
            Component::CurDir => {}
        }
        if depth < 0 {
            return true;
        }
    }
    false
}

/// A file that must be there.
pub(super) fn file(value: &Value<'_>, dir: &Path, what: &str) -> Option<PathBuf> {
    let path = dir.join(value.text(what)?);
    if path.is_file() {
        return Some(path);
    }
    let here = value.describe();
    value.problem(format!("{here}: there is no such file"), format!("write the path of {what}"));
    None
}

/// A name of lower-case letters, digits, `-` and `_`.
pub(super) fn is_plain_name(text: &str) -> bool {
    text.len() <= 64
        && text.starts_with(|c: char| c.is_ascii_alphanumeric())
        && text.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || matches!(c, '-' | '_'))
}
