//! `pelton demo`, as a newcomer runs it: the binary alone.

#![allow(clippy::panic, reason = "a test says by panicking what it expected")]

use std::fs;
use std::io::{BufRead as _, BufReader};
use std::path::Path;
use std::process::{Command, Output, Stdio};

use serde_json::Value;

fn demo(arguments: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_pelton"));
    command.arg("demo").args(arguments).output().expect("the binary runs")
}

fn summary(output: &Output) -> Value {
    let errors = String::from_utf8_lossy(&output.stderr);
    serde_json::from_slice(&output.stdout).unwrap_or_else(|error| panic!("no summary ({error}); it said:\n{errors}"))
}

/// Writes the demo's project without running it for long.
fn keep(dir: &Path) -> Value {
    let output = demo(&["--seconds", "1", "--json", "--keep", dir.to_str().expect("a plain path")]);
    let summary = summary(&output);
    assert!(output.status.success(), "{summary:#}");
    summary
}

fn change(file: &Path, from: &str, to: &str) {
    let text = fs::read_to_string(file).expect("the file is there");
    assert!(text.contains(from), "{} has no {from:?}", file.display());
    fs::write(file, text.replace(from, to)).expect("the file can be written");
}

#[test]
fn every_event_is_where_it_belongs() {
    let output = demo(&["--seconds", "3", "--rate", "1500", "--seed", "11", "--json"]);
    let summary = summary(&output);
    assert!(output.status.success(), "{summary:#}");
    let said = String::from_utf8_lossy(&output.stderr);
    let (begun, done) = (said.find("compiling the plugins …"), said.find("the plugins are compiled; "));
    assert!(begun.is_some() && begun < done, "{said}");
    assert_eq!(summary["matches"], true);
    let result = &summary["reconciliation"];
    assert_eq!(result["events"], summary["events"]);
    for part in ["orders", "alerts"] {
        assert!(result[part]["found"].as_u64().expect("a number") > 50, "{summary:#}");
        assert_eq!(result[part]["found"], result[part]["expected"]);
    }
    let codes: Vec<_> = result["dead_letters"].as_object().expect("codes").keys().collect();
    assert!(codes.len() >= 14, "every kind of mess occurs: {codes:?}");
    assert!(result["filtered"]["expected"].as_u64() > Some(0), "{summary:#}");
    assert_eq!(result["filtered"]["found"], 0);
}

#[test]
fn a_kept_project_runs_again_with_its_changes() {
    let dir = tempfile::tempdir().expect("a directory");
    let shop = dir.path().join("shop");
    let path = shop.to_str().expect("a plain path");
    assert_eq!(keep(&shop)["directory"], path);
    let again = demo(&["--keep", path]);
    assert!(!again.status.success(), "a directory that is in use is not written over");
    let told = String::from_utf8_lossy(&again.stderr);
    assert!(told.contains("run what is there with `pelton demo ") && told.contains("/shop`"), "{told}");
    change(&shop.join("pipelines/orders.yaml"), "vat_percent: 19", "vat_percent: 7.5");
    let output = demo(&[path, "--seconds", "1"]);
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success(), "the expectation follows the configuration: {text}");
    assert!(text.contains("Everything is where it belongs") && text.contains("sqlite3"), "{text}");
}

#[test]
fn a_kept_project_is_warned_of_what_is_dropped_as_loudly_as_its_log_wants() {
    let dir = tempfile::tempdir().expect("a directory");
    let shop = dir.path().join("shop");
    let path = shop.to_str().expect("a plain path");
    keep(&shop);
    fs::remove_file(shop.join("shop.db")).expect("the tables are there");
    change(&shop.join("pipelines/orders.yaml"), "coupon: text", "coupno: text");
    let warning = "warning: outputs.default.sqlite.create.columns: the plugin `shop-orders` sets `coupon`, for which the \
                   table orders has no column: it is dropped; did you mean the column `coupno`?";
    let said = |output: Output| String::from_utf8_lossy(&output.stderr).into_owned();
    let told = said(demo(&[path, "--seconds", "1"]));
    assert_eq!(told.matches(warning).count(), 1, "{told}");
    // Of a table that the files do not describe, the start finds out.
    let file = shop.join("pipelines/orders.yaml");
    let text = fs::read_to_string(&file).expect("the file is there");
    let (before, create) = text.split_once("      create:\n").expect("the table is made");
    let (_, after) = create.split_once("key: [order_id]\n").expect("it has a key");
    fs::write(&file, format!("{before}{after}")).expect("the file can be written");
    let told = said(demo(&[path, "--seconds", "1"]));
    let warning =
        "pipelines/orders.yaml:16:7: warning: outputs.default.sqlite.table: the plugin `shop-orders` sets `coupon`";
    assert_eq!(told.matches(warning).count(), 1, "{told}");
    change(&shop.join("pelton.yaml"), "level: warn", "level: error");
    let told = said(demo(&[path, "--seconds", "1"]));
    assert!(!told.contains("warning"), "{told}");
}

#[test]
fn another_pipeline_may_stand_beside_the_demos_own() {
    let dir = tempfile::tempdir().expect("a directory");
    let shop = dir.path().join("shop");
    keep(&shop);
    let copy = "source: { kafka: { topics: [shop.orders] }, format: json }\nsteps: []\n\
                outputs: { default: { kafka: { topic: shop.copy } } }\n";
    fs::write(shop.join("pipelines/copy.yaml"), copy).expect("the pipeline can be written");
    let output = demo(&[shop.to_str().expect("a plain path"), "--seconds", "1", "--json"]);
    let summary = summary(&output);
    assert_eq!(summary["matches"], true, "{summary:#}");
    let copied = summary["seen"]["topics"]["shop.copy"].as_u64().expect("it was read back");
    assert!(copied > 1_000 && copied <= summary["events"].as_u64().expect("a number"), "{summary:#}");
}

#[test]
fn what_a_pipeline_beside_it_did_is_told_although_the_demos_own_is_well() {
    let dir = tempfile::tempdir().expect("a directory");
    let shop = dir.path().join("shop");
    keep(&shop);
    // A plugin whose configuration lets no order pass: it was made for other orders.
    let failing = "source: { kafka: { topics: [shop.orders] }, format: json }\nsteps: [{ plugin: shop-orders, config: \
                   { vat_percent: 19, alert_above_eur: 5000, eur_per_unit: { XXX: 1 } }, grants: [log, metrics, clock] \
                   }]\noutputs: { default: { kafka: { topic: shop.copy } }, alerts: { kafka: { topic: shop.other } } }\n\
                   errors: { breaker: { percent: 1, records: 10, within: 60 s } }\n";
    fs::write(shop.join("pipelines/failing.yaml"), failing).expect("the pipeline can be written");
    let path = shop.to_str().expect("a plain path");
    let output = demo(&[path, "--seconds", "1"]);
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert_eq!(output.status.code(), Some(1), "{text}\n{}", String::from_utf8_lossy(&output.stderr));
    assert!(text.contains("Of the demo's own pipeline, everything is where it belongs"), "{text}");
    assert!(text.contains("  failing         paused: "), "{text}");
    for words in ["failed within", "events were not handled", &format!("{path}/pipelines/failing.yaml, then")] {
        assert!(text.contains(words), "{words:?} is not in\n{text}");
    }
    assert!(!text.contains("`vat_percent` in"), "it was kept before: {text}");
}

#[test]
fn a_mismatch_is_exit_code_1_and_named() {
    let dir = tempfile::tempdir().expect("a directory");
    let shop = dir.path().join("shop");
    keep(&shop);
    // The country comes from a field that nobody sets.
    change(&shop.join("pipelines/orders.yaml"), "table: orders", "table: orders\n      columns: { country: [none] }");
    let output = demo(&[shop.to_str().expect("a plain path"), "--seconds", "1", "--json"]);
    let summary = summary(&output);
    assert_eq!(output.status.code(), Some(1), "{summary:#}");
    let result = &summary["reconciliation"];
    assert!(result["orders"]["wrong"].as_u64() > Some(10), "{summary:#}");
    let first = result["differences"][0].as_str().expect("one is named");
    assert!(first.contains("country is nothing, should be"), "{first}");
}

#[test]
fn nothing_is_claimed_of_another_plugin() {
    let dir = tempfile::tempdir().expect("a directory");
    let shop = dir.path().join("shop");
    keep(&shop);
    let plugin = shop.join("plugins/shop-orders.wasm");
    let mut component = fs::read(&plugin).expect("the plugin is there");
    // An empty custom section: another digest, the same behaviour.
    component.extend([0, 2, 1, b'x']);
    fs::write(&plugin, component).expect("the plugin can be written");
    let output = demo(&[shop.to_str().expect("a plain path"), "--seconds", "1", "--json"]);
    let summary = summary(&output);
    assert!(output.status.success(), "{summary:#}");
    assert_eq!(summary["matches"], Value::Null);
    let why = summary["not_compared_because"].as_str().expect("it says why");
    assert!(why.contains("is not the one"), "{why}");
    assert!(summary["seen"]["tables"]["orders"].as_u64() > Some(100), "{summary:#}");
}

/// Runs the demo without end, and interrupts it as soon as it says a certain thing.
fn interrupted_at(words: &str) -> (Output, Value) {
    let mut child = Command::new(env!("CARGO_BIN_EXE_pelton"))
        .args(["demo", "--forever", "--json"])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("the binary runs");
    let said = BufReader::new(child.stderr.take().expect("it is piped"));
    let mut lines = said.lines().map_while(Result::ok);
    let mut before = Vec::new();
    let has_said = lines.by_ref().any(|line| {
        before.push(line);
        before.last().is_some_and(|line| line.contains(words))
    });
    assert!(has_said, "it never said `{words}`, but {before:#?}");
    let id = rustix::process::Pid::from_child(&child);
    rustix::process::kill_process(id, rustix::process::Signal::INT).expect("the signal is sent");
    // What it still has to say must not fill the pipe.
    lines.for_each(drop);
    let output = child.wait_with_output().expect("it ends");
    let summary = serde_json::from_slice(&output.stdout).expect("a summary");
    (output, summary)
}

#[test]
fn a_demo_that_was_stopped_before_its_first_event_claims_nothing() {
    let (_, summary) = interrupted_at("pipeline orders joins its group");
    assert_eq!((&summary["events"], &summary["matches"]), (&Value::from(0), &Value::Null), "{summary:#}");
    assert_eq!(summary["not_compared_because"], "it was stopped before the first event");
}

#[test]
fn an_interrupt_ends_it_with_its_summary() {
    let (output, summary) = interrupted_at(" events ");
    assert!(output.status.success(), "{summary:#}");
    assert_eq!(summary["matches"], true);
}
