//! What a plugin wants to read and set, held to the rules of `wit/types.wit`.
//!
//! In: the answer of `configure`. Out: a [`Subscription`], or every mistake in it at once.

use std::collections::BTreeSet;

use super::bindings::types;
use crate::pipeline::{SubscribedParts, Subscription};
use crate::record::{Field, FieldType, OutputField, Policy};

/// Entries of one list of a subscription.
const ENTRIES_MAX: usize = 1_000;
/// Segments of a path.
const SEGMENTS_MAX: usize = 32;
/// Bytes of a name or a segment.
const NAME_BYTES_MAX: usize = 1_000;

/// Checks and converts.
///
/// # Errors
/// Every mistake.
pub(super) fn check(given: types::Subscription) -> Result<Subscription, Vec<String>> {
    let mut problems = Vec::new();
    for (what, entries) in [
        ("headers", given.headers.len()),
        ("routes", given.routes.len()),
        ("value-fields", given.value_fields.len()),
        ("set-fields", given.set_fields.len()),
    ] {
        if entries > ENTRIES_MAX {
            problems.push(format!("{entries} {what}, at most {ENTRIES_MAX} are allowed"));
        }
    }
    if !problems.is_empty() {
        return Err(problems);
    }
    check_names("header", &given.headers, |name| !name.is_empty(), "must not be empty", &mut problems);
    let rule = "must be lower case letters, digits, `-` or `_`, begin with a letter, and not be `default`";
    check_names("route", &given.routes, is_route, rule, &mut problems);
    for field in &given.value_fields {
        check_path("value-field", &field.path, &mut problems);
    }
    let mut set_paths: Vec<&[String]> = Vec::new();
    for field in &given.set_fields {
        check_path("set-field", &field.path, &mut problems);
        if field.path.is_empty() {
            continue;
        }
        if let Some(other) =
            set_paths.iter().find(|other| other.starts_with(&field.path) || field.path.starts_with(other))
        {
            let (path, other) = (shown(&field.path), shown(other));
            problems.push(if path == other {
                format!("set-field `{path}` stands there twice")
            } else {
                format!("set-fields `{other}` and `{path}` lie within each other")
            });
        }
        set_paths.push(&field.path);
    }
    if problems.is_empty() { Ok(convert(given)) } else { Err(problems) }
}

fn check_names(what: &str, names: &[String], valid: fn(&str) -> bool, rule: &str, problems: &mut Vec<String>) {
    let mut seen = BTreeSet::new();
    for name in names {
        if name.len() > NAME_BYTES_MAX || !valid(name) {
            problems.push(format!("{what} name `{}` {rule}", excerpt(name)));
        }
        if !seen.insert(name) {
            problems.push(format!("{what} `{}` stands there twice", excerpt(name)));
        }
    }
}

fn check_path(what: &str, path: &[String], problems: &mut Vec<String>) {
    if path.is_empty() {
        problems.push(format!("a {what} has an empty path"));
    }
    if path.len() > SEGMENTS_MAX {
        problems.push(format!("a {what} has a path of {} segments, at most {SEGMENTS_MAX} are allowed", path.len()));
    }
    if let Some(long) = path.iter().find(|segment| segment.len() > NAME_BYTES_MAX) {
        problems.push(format!("a {what} has a path segment of {} bytes: `{}`", long.len(), excerpt(long)));
    }
}

/// A path as a message shows it: its beginning.
fn shown(path: &[String]) -> String {
    let head: Vec<&str> = path.iter().take(SEGMENTS_MAX).map(|segment| excerpt(segment)).collect();
    head.join(".")
}

fn excerpt(name: &str) -> &str {
    &name[..name.floor_char_boundary(60)]
}

fn is_route(name: &str) -> bool {
    name != "default"
        && name.starts_with(|first: char| first.is_ascii_lowercase())
        && name.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || matches!(byte, b'-' | b'_'))
}

fn convert(given: types::Subscription) -> Subscription {
    let parts = given.fields;
    Subscription {
        parts: SubscribedParts {
            key: parts.contains(types::Fields::KEY),
            value: parts.contains(types::Fields::VALUE),
            all_headers: parts.contains(types::Fields::ALL_HEADERS),
            offset: parts.contains(types::Fields::OFFSET),
            timestamp: parts.contains(types::Fields::TIMESTAMP),
        },
        headers: given.headers,
        routes: given.routes,
        value_fields: given
            .value_fields
            .into_iter()
            .map(|field| Field {
                path: field.path,
                field_type: field_type(field.type_),
                on_missing: policy(field.on_missing),
                on_mismatch: policy(field.on_mismatch),
            })
            .collect(),
        set_fields: given
            .set_fields
            .into_iter()
            .map(|field| OutputField { path: field.path, field_type: field_type(field.type_) })
            .collect(),
    }
}

fn field_type(given: types::FieldType) -> FieldType {
    match given {
        types::FieldType::Boolean => FieldType::Boolean,
        types::FieldType::S64 => FieldType::S64,
        types::FieldType::F64 => FieldType::F64,
        types::FieldType::Text => FieldType::Text,
        types::FieldType::Symbol => FieldType::Symbol,
        types::FieldType::Bytes => FieldType::Bytes,
        types::FieldType::Json => FieldType::Json,
    }
}

fn policy(given: types::Policy) -> Policy {
    match given {
        types::Policy::Reject => Policy::Reject,
        types::Policy::Null => Policy::Null,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn set(path: &[&str]) -> types::OutputField {
        types::OutputField { path: path.iter().map(|key| (*key).to_owned()).collect(), type_: types::FieldType::Text }
    }

    fn subscription() -> types::Subscription {
        types::Subscription {
            fields: types::Fields::KEY | types::Fields::OFFSET,
            headers: vec!["trace".into()],
            routes: vec!["alerts".into()],
            value_fields: vec![types::Field {
                path: vec!["customer".into(), "country".into()],
                type_: types::FieldType::Symbol,
                on_missing: types::Policy::Null,
                on_mismatch: types::Policy::Reject,
            }],
            set_fields: vec![set(&["total"]), set(&["a", "b"]), set(&["a", "c"])],
        }
    }

    #[test]
    fn a_good_one_keeps_all_its_parts() {
        let checked = check(subscription()).expect("valid");
        assert!(checked.parts.key && checked.parts.offset && !checked.parts.value);
        assert_eq!(checked.value_fields[0].on_missing, Policy::Null);
        assert_eq!(checked.set_fields.len(), 3);
    }

    #[test]
    fn every_mistake_is_named_at_once() {
        let mut given = subscription();
        given.headers.extend([String::new(), "trace".into()]);
        given.routes.extend(["default".into(), "Alerts".into(), "alerts".into()]);
        given.set_fields.extend([set(&[]), set(&["total"]), set(&["a"])]);
        let problems = check(given).expect_err("not valid");
        insta::assert_snapshot!(problems.join("\n"), @r"
        header name `` must not be empty
        header `trace` stands there twice
        route name `default` must be lower case letters, digits, `-` or `_`, begin with a letter, and not be `default`
        route name `Alerts` must be lower case letters, digits, `-` or `_`, begin with a letter, and not be `default`
        route `alerts` stands there twice
        a set-field has an empty path
        set-field `total` stands there twice
        set-fields `a.b` and `a` lie within each other
        ");
    }
}
