//! The house: door signs, and the invariants of absence.

use std::collections::BTreeSet;
use std::path::Path;

use crate::files::{code_lines, files, has_word, none, text, top};

/// Names that stand in one room only.
const ONLY_IN: &[(&str, &str)] = &[
    ("rdkafka", "kafka"),
    ("rdkafka_sys", "kafka"),
    ("scylla", "cassandra"),
    ("rusqlite", "sqlite"),
    ("wasmtime", "plugin"),
    ("axum", "admin"),
    ("clap", "cli"),
    ("indicatif", "cli"),
];

/// The rooms' folders and files of `host/src`, with what is in them.
fn rooms() -> BTreeSet<String> {
    let entries = std::fs::read_dir(top().join("host/src")).expect("host/src is there");
    let rooms: BTreeSet<String> = entries
        .flatten()
        .filter(|entry| entry.path().is_dir())
        .map(|entry| entry.file_name().to_string_lossy().into_owned())
        .collect();
    assert!(rooms.contains("pipeline"), "{rooms:?}");
    rooms
}

/// The room of a file of `host/src`: its first folder, or its own name.
fn room(path: &str) -> &str {
    let below = path.strip_prefix("host/src/").expect("a file of host/src");
    below.split('/').next().expect("a path has a first part").trim_end_matches(".rs")
}

#[test]
fn every_file_says_what_it_is_for() {
    let mut breaches = Vec::new();
    for folder in ["host", "sdk", "tests", "plugins", "examples"] {
        for file in files(folder, &[".rs"]) {
            let first = file.text.lines().next().unwrap_or_default();
            let placeholder = concat!("//! (", "see below)");
            if !first.starts_with("//! ") || first.len() < 12 || file.text.contains(placeholder) {
                breaches.push(format!("{}:1: {first}", file.path));
            }
        }
    }
    none(&breaches, "every Rust file begins with `//!` and a sentence of what it is for");
}

#[test]
fn every_room_has_a_door_sign() {
    let mut breaches = Vec::new();
    for room in rooms() {
        let path = format!("host/src/{room}/mod.rs");
        if !Path::new(&top().join(&path)).exists() {
            breaches.push(format!("{path} is missing"));
            continue;
        }
        let sign: Vec<_> = text(&path).lines().take_while(|line| line.starts_with("//!")).map(str::to_owned).collect();
        let sign = sign.join("\n");
        // The nouns do nothing: nothing comes in, and nothing goes out.
        let nouns = room == "record";
        for (what, words) in [
            ("what comes in", &["In:"][..]),
            ("what goes out", &["Out:"]),
            ("what the room never does", &["ever ", "knows no ", "no other", "the only", "nothing"]),
        ] {
            if !nouns && !words.iter().any(|word| sign.contains(word)) {
                breaches.push(format!("{path}: the sign does not say {what}"));
            }
        }
    }
    none(&breaches, "a folder is a room, and its mod.rs the door sign");
}

#[test]
fn each_vendor_stands_in_its_own_room() {
    let mut breaches = Vec::new();
    let mut seen = BTreeSet::new();
    for file in files("host/src", &[".rs"]) {
        for (number, line) in code_lines(&file.text) {
            for (name, home) in ONLY_IN {
                if !uses(&line, name) {
                    continue;
                }
                seen.insert(*name);
                if room(&file.path) != *home {
                    breaches.push(format!("{}:{number}: {name} belongs to {home}: {}", file.path, line.trim()));
                }
            }
        }
    }
    none(&breaches, "each vendor's client stands in its own room");
    assert!(seen.contains("axum") && seen.contains("clap"), "the rule sees nothing: {seen:?}");
}

/// Whether a line of code names a crate: in a path, or in a `use`.
fn uses(line: &str, name: &str) -> bool {
    has_word(line, name) && (line.contains(&format!("{name}::")) || line.trim_start().starts_with("use "))
}

#[test]
fn the_line_names_no_vendor() {
    let mut breaches = Vec::new();
    for file in files("host/src/pipeline", &[".rs"]) {
        for (number, line) in code_lines(&file.text) {
            let lower = line.to_lowercase();
            for vendor in
                ["kafka", "cassandra", "scylla", "sqlite", "wasm", "crate::plugin", "crate::admin", "crate::cli"]
            {
                if lower.contains(vendor) {
                    breaches.push(format!("{}:{number}: {}", file.path, line.trim()));
                }
            }
        }
    }
    none(&breaches, "`pipeline` knows no vendor");
}

#[test]
fn admin_and_the_command_line_never_touch_a_task() {
    let mut breaches = Vec::new();
    for folder in ["host/src/admin", "host/src/cli"] {
        for file in files(folder, &[".rs"]) {
            for (number, line) in code_lines(&file.text) {
                if line.contains("pipeline::task") || line.contains("pipeline::tracker") {
                    breaches.push(format!("{}:{number}: {}", file.path, line.trim()));
                }
            }
        }
    }
    none(&breaches, "`admin` and `cli` send commands and read snapshots");
}

#[test]
fn only_the_command_line_prints() {
    let mut breaches = Vec::new();
    for file in files("host/src", &[".rs"]) {
        // The writer of the log stands where logging is set up.
        if room(&file.path) == "cli" || file.path == "host/src/telemetry/logging.rs" {
            continue;
        }
        for (number, line) in code_lines(before_tests(&file.text)) {
            let macros = ["println", "eprintln", "print", "eprint"];
            if macros.iter().any(|name| has_word(&line, name) && line.contains(&format!("{name}!")))
                || line.contains("io::stdout")
                || line.contains("io::stderr")
            {
                breaches.push(format!("{}:{number}: {}", file.path, line.trim()));
            }
        }
    }
    none(&breaches, "only `cli` prints");
}

#[test]
fn unsafe_code_stands_where_it_is_explained() {
    let mut breaches = Vec::new();
    for folder in ["host", "tests"] {
        for file in files(folder, &[".rs"]) {
            let home = file.path.starts_with("host/src/plugin/") || file.path.starts_with("host/src/kafka/");
            for (number, line) in code_lines(&file.text) {
                // Words in strings, as in this file, are no code.
                if has_word(&line, "unsafe") && line.contains("unsafe {") && !line.contains('"') && !home {
                    breaches.push(format!("{}:{number}: {}", file.path, line.trim()));
                }
            }
        }
    }
    none(
        &breaches,
        "unsafe code stands only where a verified artifact is loaded, and around the Kafka client's C calls",
    );
}

#[test]
fn files_stay_readable() {
    let mut breaches = Vec::new();
    for file in files("host/src", &[".rs"]) {
        let lines = before_tests(&file.text).lines().count();
        if lines > 700 {
            breaches.push(format!("{}: {lines} lines before its tests", file.path));
        }
    }
    none(&breaches, "a file of more than 700 lines has parts with names of their own");
}

/// A file up to its unit tests.
pub(crate) fn before_tests(text: &str) -> &str {
    text.find("\n#[cfg(test)]\nmod ").map_or(text, |at| &text[..at])
}

#[test]
fn the_architecture_page_shows_every_room() {
    let page = text("ARCHITECTURE.md");
    let mut breaches = Vec::new();
    for room in rooms() {
        if !page.contains(&format!("`{room}/`")) && !page.contains(&format!("{room}/ ")) {
            breaches.push(format!("{room}/"));
        }
    }
    for file in files("host/src", &[".rs"]) {
        let name = file.path.trim_start_matches("host/src/");
        if !name.contains('/') && !page.contains(name) {
            breaches.push(name.to_owned());
        }
    }
    none(&breaches, "ARCHITECTURE.md does not mention");
}

#[test]
fn every_metric_is_counted_somewhere() {
    let mut code = String::new();
    for file in files("host/src", &[".rs"]) {
        if file.path != "host/src/telemetry/metric.rs" {
            for (_, line) in code_lines(before_tests(&file.text)) {
                code.push_str(&line);
                code.push('\n');
            }
        }
    }
    let breaches: Vec<_> = pelton::telemetry::Metric::ALL
        .iter()
        .filter(|metric| !has_word(&code, &format!("Metric::{metric:?}")))
        .map(|metric| metric.spec().name.to_owned())
        .collect();
    none(&breaches, "metrics that nothing counts");
}
