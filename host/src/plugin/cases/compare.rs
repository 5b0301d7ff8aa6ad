//! Is what came what was expected? Line by line within a record, with what differs named by its path.

use std::collections::{BTreeMap, BTreeSet};

use serde::Serialize;
use serde_json::Value;

use super::format::ExpectedLine;

/// What differs about one record.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Difference {
    /// The number of the input record, from 0.
    pub record: u64,
    /// The line of `expected.jsonl` where its lines begin, where it has any.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub line: Option<usize>,
    /// Lines expected.
    pub expected: Vec<Value>,
    /// Lines found.
    pub found: Vec<Value>,
    /// Where one line stands against one: the paths that differ, with both values.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub paths: Vec<String>,
}

/// What a run gave, against what is written down.
pub(super) fn with_expected(expected: &[ExpectedLine], found: &[Value]) -> Vec<Difference> {
    let lines: BTreeMap<u64, usize> =
        expected.iter().rev().map(|expected| (record_of(&expected.value), expected.line)).collect();
    let expected: Vec<&Value> = expected.iter().map(|expected| &expected.value).collect();
    let mut differences = between(&expected, &found.iter().collect::<Vec<_>>(), is_as_expected);
    for difference in &mut differences {
        difference.line = lines.get(&difference.record).copied();
    }
    differences
}

/// What one run gave, against another: nothing may differ.
pub(super) fn between_runs(first: &[Value], second: &[Value]) -> Vec<Difference> {
    between(&first.iter().collect::<Vec<_>>(), &second.iter().collect::<Vec<_>>(), |a, b| a == b)
}

fn between(expected: &[&Value], found: &[&Value], same: impl Fn(&Value, &Value) -> bool) -> Vec<Difference> {
    let (expected, found) = (by_record(expected), by_record(found));
    let records: BTreeSet<u64> = expected.keys().chain(found.keys()).copied().collect();
    let none = Vec::new();
    let mut differences = Vec::new();
    for record in records {
        let (wanted, got) = (expected.get(&record).unwrap_or(&none), found.get(&record).unwrap_or(&none));
        if wanted.len() == got.len() && wanted.iter().zip(got).all(|(wanted, got)| same(wanted, got)) {
            continue;
        }
        let paths = match (wanted.as_slice(), got.as_slice()) {
            ([wanted], [got]) => differing_paths(wanted, got),
            _ => Vec::new(),
        };
        let cloned = |lines: &[&Value]| lines.iter().map(|line| (*line).clone()).collect();
        differences.push(Difference { record, line: None, expected: cloned(wanted), found: cloned(got), paths });
    }
    differences
}

fn record_of(line: &Value) -> u64 {
    line.get("record").and_then(Value::as_u64).unwrap_or(u64::MAX)
}

fn by_record<'v>(lines: &[&'v Value]) -> BTreeMap<u64, Vec<&'v Value>> {
    let mut by_record: BTreeMap<u64, Vec<&Value>> = BTreeMap::new();
    for line in lines {
        by_record.entry(record_of(line)).or_default().push(line);
    }
    by_record
}

/// An expected failure without a message accepts any.
fn is_as_expected(expected: &Value, found: &Value) -> bool {
    let is_failure = ["reject", "retry", "skip"].iter().any(|kind| expected.get(kind).is_some());
    if is_failure && expected.get("message").is_none() {
        let mut found = found.clone();
        if let Some(line) = found.as_object_mut() {
            line.shift_remove("message");
        }
        return same(expected, &found);
    }
    same(expected, found)
}

/// Equal, where numbers of equal value are equal and the order of keys does not count.
fn same(a: &Value, b: &Value) -> bool {
    match (a, b) {
        (Value::Number(a), Value::Number(b)) => a == b || ((a.is_f64() || b.is_f64()) && a.as_f64() == b.as_f64()),
        (Value::Array(a), Value::Array(b)) => a.len() == b.len() && a.iter().zip(b).all(|(a, b)| same(a, b)),
        (Value::Object(a), Value::Object(b)) => {
            a.len() == b.len() && a.iter().all(|(key, a)| b.get(key).is_some_and(|b| same(a, b)))
        }
        (a, b) => a == b,
    }
}

/// `value.total_cents: 2380 was expected, 2381 was found`
fn differing_paths(expected: &Value, found: &Value) -> Vec<String> {
    let mut paths = Vec::new();
    collect_paths("", expected, found, &mut paths);
    paths
}

fn collect_paths(path: &str, expected: &Value, found: &Value, paths: &mut Vec<String>) {
    if same(expected, found) {
        return;
    }
    let (Value::Object(wanted), Value::Object(got)) = (expected, found) else {
        paths.push(format!("{path}: {expected} was expected, {found} was found"));
        return;
    };
    let below = |key: &str| if path.is_empty() { key.to_owned() } else { format!("{path}.{key}") };
    for (key, wanted) in wanted {
        match got.get(key) {
            Some(got) => collect_paths(&below(key), wanted, got, paths),
            None => paths.push(format!("{}: {wanted} was expected, nothing was found", below(key))),
        }
    }
    for (key, got) in got.iter().filter(|(key, _)| !wanted.contains_key(*key)) {
        paths.push(format!("{}: nothing was expected, {got} was found", below(key)));
    }
}
