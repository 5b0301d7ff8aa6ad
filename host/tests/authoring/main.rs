//! The whole way of a plugin's author: new, build, inspect, test, change, bless; with the real compiler and the real
//! host. The standard library for guests is built once for this and the example plugins.

#![allow(clippy::panic, reason = "a test says by panicking what it expected")]

mod python;

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use pelton::record::Digest;
use serde_json::{Value, json};

struct Ran {
    code: Option<i32>,
    stdout: String,
    stderr: String,
}

impl Ran {
    fn of(output: Output) -> Self {
        Self {
            code: output.status.code(),
            stdout: String::from_utf8(output.stdout).expect("text"),
            stderr: String::from_utf8(output.stderr).expect("text"),
        }
    }

    fn expect(self, code: i32) -> Self {
        assert_eq!(self.code, Some(code), "{}\n{}", self.stdout, self.stderr);
        self
    }

    fn json(&self) -> Value {
        serde_json::from_str(&self.stdout).expect("one JSON object")
    }
}

fn repository() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("the host is a directory of the repository").to_owned()
}

fn pelton(arguments: &[&str]) -> Ran {
    Ran::of(command(arguments).output().expect("pelton runs"))
}

fn command(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_pelton"));
    if std::env::var_os("PELTON_GUEST_TARGET_DIR").is_none() {
        command.env("PELTON_GUEST_TARGET_DIR", repository().join("plugins/target/wasm"));
    }
    command.args(arguments).current_dir("/");
    command
}

fn replace(file: &Path, from: &str, to: &str) {
    let text = std::fs::read_to_string(file).expect("readable");
    assert!(text.contains(from), "{from:?} is not in\n{text}");
    std::fs::write(file, text.replace(from, to)).expect("writable");
}

fn contains(bytes: &[u8], text: &str) -> bool {
    bytes.windows(text.len()).any(|window| window == text.as_bytes())
}

#[test]
fn a_new_plugin_builds_tests_and_changes_as_it_is_told() {
    let root = tempfile::tempdir().expect("a directory");
    let parent = root.path().to_str().expect("text");
    let dir = root.path().join("authoring-hello");
    let plugin = dir.to_str().expect("text");
    let wasm = dir.join("authoring-hello.wasm");

    pelton(&["plugin", "new", "authoring-hello", "--dir", parent]).expect(0);
    let again = pelton(&["plugin", "new", "authoring-hello", "--dir", parent]).expect(2);
    assert!(again.stderr.contains("something here already"), "{}", again.stderr);

    let unbuilt = pelton(&["plugin", "test", plugin]).expect(1);
    assert!(unbuilt.stderr.contains(&format!("pelton plugin build {plugin}")), "{}", unbuilt.stderr);

    let built = pelton(&["plugin", "build", plugin, "--json"]).expect(0);
    assert!(built.stderr.contains("Building with "), "{}", built.stderr);
    let rebuilt = pelton(&["plugin", "build", plugin]).expect(0);
    assert!(!rebuilt.stderr.contains("a minute or two"), "not the first build: {}", rebuilt.stderr);
    let bytes = std::fs::read(&wasm).expect("it was written");
    let digest = Digest::of(&bytes).to_string();
    assert_eq!(built.json()["plugins"][0]["digest"], digest);
    assert_eq!(built.json()["plugins"][0]["file"], wasm.to_str().expect("text"));
    let home = std::env::var("HOME").expect("a home");
    for path in [parent, &home, repository().to_str().expect("text")] {
        assert!(!contains(&bytes, &format!("{path}/")), "the component tells of {path}");
    }

    let inspected = pelton(&["plugin", "inspect", wasm.to_str().expect("text"), "--json"]).expect(0).json();
    assert_eq!(inspected["world"], "transform");
    assert_eq!(inspected["interface_version"], "0.1.0");
    assert_eq!(inspected["capabilities"], json!(["log", "metrics"]));
    assert_eq!(inspected["ungrantable"], json!([]));
    assert_eq!(inspected["digest"], digest);

    let tested = pelton(&["plugin", "test", plugin, "--json"]).expect(0).json();
    assert_eq!((&tested["passed"], &tested["plugins"][0]["digest"]), (&json!(true), &json!(digest)));

    its_native_tests_pass(&dir);
    the_same_sources_give_the_same_bytes_elsewhere(&digest);
    a_difference_is_shown_and_blessed(&dir);
    a_grant_that_is_missing_is_named(&dir);
    hidden_state_is_found(&dir);
    a_panic_says_what_and_where(&dir);
    an_output_that_is_not_declared_is_named(&dir);
}

#[test]
fn plugins_that_were_not_built_are_all_named_with_one_command_that_builds_them() {
    let root = tempfile::tempdir().expect("a directory");
    let dir = root.path().to_str().expect("text");
    for name in ["first", "second", "third"] {
        pelton(&["plugin", "new", name, "--dir", dir]).expect(0);
    }
    let artifact = |name: &str| root.path().join(name).join(format!("{name}.wasm"));
    // Built from other sources.
    std::fs::write(artifact("third"), "").expect("a fresh file");
    let stale = std::fs::File::options().append(true).open(artifact("third")).expect("it is there");
    stale.set_modified(std::time::UNIX_EPOCH).expect("touched");
    let said = pelton(&["plugin", "test", dir]).expect(1).stderr;
    assert!(said.contains(&format!("3 plugins have to be built first: pelton plugin build {dir}\n")), "{said}");
    for name in ["first", "second"] {
        assert!(said.contains(&format!("  {} is not there\n", artifact(name).display())), "{said}");
    }
    assert!(said.contains(&format!("  {} is older than ", artifact("third").display())), "{said}");
}

fn its_native_tests_pass(dir: &Path) {
    let output = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()))
        .args(["test", "--quiet", "--lib", "--manifest-path"])
        .arg(dir.join("Cargo.toml"))
        // What it depends on was built for the example plugins, with their profile.
        .env("CARGO_TARGET_DIR", repository().join("plugins/target"))
        .env("CARGO_PROFILE_DEV_DEBUG", "line-tables-only")
        .output()
        .expect("cargo runs");
    let ran = Ran::of(output).expect(0);
    assert!(ran.stdout.contains("2 passed"), "{}", ran.stdout);
}

fn the_same_sources_give_the_same_bytes_elsewhere(digest: &str) {
    let root = tempfile::tempdir().expect("a directory");
    let parent = root.path().to_str().expect("text");
    pelton(&["plugin", "new", "authoring-hello", "--dir", parent]).expect(0);
    let plugin = root.path().join("authoring-hello");
    let built = pelton(&["plugin", "build", plugin.to_str().expect("text"), "--json"]).expect(0);
    assert_eq!(built.json()["plugins"][0]["digest"], digest);
}

fn a_difference_is_shown_and_blessed(dir: &Path) {
    let plugin = dir.to_str().expect("text");
    replace(&dir.join("cases/sizes/expected.jsonl"), "\"small\"", "\"tiny\"");
    let failed = pelton(&["plugin", "test", plugin]).expect(1);
    assert!(failed.stdout.contains("record 0 (expected.jsonl:1)"), "{}", failed.stdout);
    assert!(failed.stdout.contains("value.size: \"tiny\" was expected, \"small\" was found"), "{}", failed.stdout);
    assert!(failed.stderr.contains("--bless"), "{}", failed.stderr);
    pelton(&["plugin", "test", plugin, "--bless"]).expect(0);
    pelton(&["plugin", "test", plugin]).expect(0);
}

fn a_grant_that_is_missing_is_named(dir: &Path) {
    replace(&dir.join("plugin.yaml"), "grants: [log, metrics]", "grants: [log]");
    let refused = pelton(&["plugin", "test", dir.to_str().expect("text")]).expect(1);
    assert!(refused.stderr.contains("metrics"), "{}", refused.stderr);
    let built = pelton(&["plugin", "build", dir.to_str().expect("text")]).expect(0);
    assert!(built.stderr.contains("add to `grants:`: metrics"), "{}", built.stderr);
    replace(&dir.join("plugin.yaml"), "grants: [log]", "grants: [log, metrics]");
}

fn hidden_state_is_found(dir: &Path) {
    let plugin = dir.to_str().expect("text");
    let source = dir.join("src/lib.rs");
    replace(&source, "struct Plugin {", "struct Plugin {\n    seen: std::cell::Cell<i64>,");
    replace(&source, "Ok(Self { config })", "Ok(Self { config, seen: Default::default() })");
    replace(
        &source,
        "if amount_cents >= self",
        "self.seen.set(self.seen.get() + 1);\n        if self.seen.get() > 1 || amount_cents >= self",
    );
    let stale = pelton(&["plugin", "test", plugin]).expect(1);
    assert!(stale.stderr.contains("is older than"), "{}", stale.stderr);
    pelton(&["plugin", "build", plugin]).expect(0);
    let failed = pelton(&["plugin", "test", plugin]).expect(1);
    assert!(failed.stdout.contains("hidden state: other output (+) at batch size"), "{}", failed.stdout);
    assert!(!failed.stderr.contains("--bless"), "nothing to bless: {}", failed.stderr);
    replace(&source, "self.seen.get() > 1 || ", "");
}

fn a_panic_says_what_and_where(dir: &Path) {
    let failed = with_a_change(dir, "Step::set(Row { size: \"small\" })", "panic!(\"no small ones\")");
    assert_eq!(failed.stdout.matches("the plugin failed").count(), 1, "{}", failed.stdout);
    let same = "the same at batch sizes 1, 7, all, on fresh and on reused instances";
    for words in [same, "record 0: plugin.trap", "src/lib.rs:", "no small ones"] {
        assert!(failed.stdout.contains(words), "{words:?} is not in\n{}", failed.stdout);
    }
    assert!(failed.stderr.contains("1 of 1 cases failed.\n"), "no --bless: {}", failed.stderr);
}

fn an_output_that_is_not_declared_is_named(dir: &Path) {
    let failed = with_a_change(dir, "Row { size: \"large\" })", "Row { size: \"large\" }).also_to(\"alerts\")");
    assert!(failed.stdout.contains("record 1: plugin.fatal: a row is sent to output \"alerts\""), "{}", failed.stdout);
    let remedy = "const OUTPUTS: &'static [&'static str] = &[\"alerts\"];";
    assert!(failed.stdout.contains(remedy), "{}", failed.stdout);
    assert_eq!(failed.stdout.matches(remedy).count(), 1, "{}", failed.stdout);
}

/// What the cases give while the source is another.
fn with_a_change(dir: &Path, from: &str, to: &str) -> Ran {
    let (plugin, source) = (dir.to_str().expect("text"), dir.join("src/lib.rs"));
    replace(&source, from, to);
    pelton(&["plugin", "build", plugin]).expect(0);
    let failed = pelton(&["plugin", "test", plugin]).expect(1);
    replace(&source, to, from);
    failed
}

#[test]
fn what_is_no_plugin_is_not_built() {
    let root = tempfile::tempdir().expect("a directory");
    let dir = root.path().to_str().expect("text");
    let empty = pelton(&["plugin", "build", dir]).expect(2);
    assert!(empty.stderr.contains("there is no Cargo.toml here and no plugin.py"), "{}", empty.stderr);

    std::fs::create_dir(root.path().join("src")).expect("a directory");
    std::fs::write(root.path().join("src/lib.rs"), "").expect("written");
    std::fs::write(root.path().join("Cargo.toml"), "[package]\nname = \"plain\"\nedition = \"2024\"\n")
        .expect("written");
    let plain = pelton(&["plugin", "build", dir]).expect(1);
    assert!(plain.stderr.contains("crate-type = [\"cdylib\", \"rlib\"]"), "{}", plain.stderr);

    std::fs::write(root.path().join("Cargo.toml"), "[package\n").expect("written");
    let broken = pelton(&["plugin", "build", dir]).expect(1);
    assert!(broken.stderr.contains("Cargo.toml"), "{}", broken.stderr);
}

#[test]
fn names_are_refused_with_a_better_one() {
    let refused = pelton(&["plugin", "new", "My_Plugin", "--dir", "/nowhere"]).expect(2);
    assert!(refused.stderr.contains("did you mean `my-plugin`?"), "{}", refused.stderr);
    pelton(&["plugin", "new"]).expect(2);
}
