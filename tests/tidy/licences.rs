//! What is built in: licences and sources of every dependency, as `deny.toml` allows them.

use std::collections::BTreeSet;
use std::process::Command;

use serde_json::Value;

use crate::files::{none, text, top};

fn packages() -> Vec<Value> {
    let output = Command::new(env!("CARGO"))
        .args(["metadata", "--format-version", "1", "--locked", "--offline"])
        .current_dir(top())
        .output()
        .expect("cargo runs");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let metadata: Value = serde_json::from_slice(&output.stdout).expect("cargo metadata is JSON");
    metadata["packages"].as_array().expect("packages are listed").clone()
}

/// The strings of the array `key = [...]` of `deny.toml`, one a line.
fn allowed(key: &str) -> BTreeSet<String> {
    let file = text("deny.toml");
    let (_, rest) = file.split_once(&format!("\n{key} = [")).expect("deny.toml has the array");
    let (array, _) = rest.split_once(']').expect("the array ends");
    array.split('"').skip(1).step_by(2).map(str::to_owned).collect()
}

/// Whether a licence expression (`A OR B`, `(A OR B) AND C`, `A/B`) can be satisfied by allowed licences.
fn satisfied(expression: &str, allowed: &BTreeSet<String>) -> bool {
    let expression = expression.replace('/', " OR ");
    let mut tokens: Vec<String> =
        expression.replace('(', " ( ").replace(')', " ) ").split_whitespace().map(str::to_owned).collect();
    // `A WITH B` is one licence.
    while let Some(at) = tokens.iter().position(|token| token == "WITH") {
        let joined = format!("{} WITH {}", tokens[at - 1], tokens[at + 1]);
        tokens.splice(at - 1..=at + 1, [joined]);
    }
    let mut tokens = tokens.iter().map(String::as_str).peekable();
    any_of(&mut tokens, allowed) && tokens.next().is_none()
}

type Tokens<'a, I> = std::iter::Peekable<I>;

fn any_of<'a, I: Iterator<Item = &'a str>>(tokens: &mut Tokens<'a, I>, allowed: &BTreeSet<String>) -> bool {
    let mut result = all_of(tokens, allowed);
    while tokens.next_if_eq(&"OR").is_some() {
        result |= all_of(tokens, allowed);
    }
    result
}

fn all_of<'a, I: Iterator<Item = &'a str>>(tokens: &mut Tokens<'a, I>, allowed: &BTreeSet<String>) -> bool {
    let mut result = one(tokens, allowed);
    while tokens.next_if_eq(&"AND").is_some() {
        result &= one(tokens, allowed);
    }
    result
}

fn one<'a, I: Iterator<Item = &'a str>>(tokens: &mut Tokens<'a, I>, allowed: &BTreeSet<String>) -> bool {
    if tokens.next_if_eq(&"(").is_some() {
        let result = any_of(tokens, allowed);
        assert_eq!(tokens.next(), Some(")"), "the licence expression is malformed");
        return result;
    }
    tokens.next().is_some_and(|licence| allowed.contains(licence))
}

#[test]
fn every_dependency_has_an_allowed_licence_and_source() {
    let (licences, registries) = (allowed("allow"), allowed("allow-registry"));
    let mut breaches = Vec::new();
    let packages = packages();
    assert!(packages.len() > 100, "cargo metadata lists {} packages", packages.len());
    for package in &packages {
        let name = format!("{} {}", package["name"], package["version"]);
        match package["license"].as_str() {
            Some(expression) if satisfied(expression, &licences) => {}
            other => breaches.push(format!("{name}: licence {other:?}")),
        }
        if let Some(source) = package["source"].as_str()
            && !registries.iter().any(|registry| source == format!("registry+{registry}"))
        {
            breaches.push(format!("{name}: source {source}"));
        }
    }
    none(&breaches, "not allowed by deny.toml");
}

#[test]
fn banned_crates_are_absent() {
    let file = text("deny.toml");
    let banned: Vec<_> = file.split("{ name = \"").skip(1).filter_map(|rest| rest.split('"').next()).collect();
    assert!(!banned.is_empty());
    let packages = packages();
    let present: Vec<_> = packages.iter().filter_map(|package| package["name"].as_str()).collect();
    let breaches: Vec<_> = banned.iter().filter(|name| present.contains(name)).map(|name| (*name).to_owned()).collect();
    none(&breaches, "banned by deny.toml");
}

#[test]
fn licence_expressions_are_understood() {
    let allowed: BTreeSet<_> = ["MIT", "BSD-3-Clause", "A WITH B"].map(str::to_owned).into();
    for good in ["MIT", "GPL-3.0 OR MIT", "MIT/GPL-3.0", "(GPL-3.0 OR MIT) AND BSD-3-Clause", "A WITH B"] {
        assert!(satisfied(good, &allowed), "{good}");
    }
    for bad in ["GPL-3.0", "MIT AND GPL-3.0", "A", "(MIT OR GPL-3.0) AND A", ""] {
        assert!(!satisfied(bad, &allowed), "{bad}");
    }
}
