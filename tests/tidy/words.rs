//! Words that do not stand in the repository.

use crate::files::{code_lines, files, none};

const TEXT: &[&str] = &[
    ".rs",
    ".md",
    ".toml",
    ".yaml",
    ".yml",
    ".sh",
    ".wit",
    ".xml",
    ".properties",
    "Makefile",
    "Dockerfile",
    ".ci/run",
];

/// This page names what it looks for.
const HERE: &str = "tests/tidy/words.rs";

#[test]
fn no_test_is_ignored() {
    let mut breaches = Vec::new();
    for file in files("", &[".rs"]) {
        for (number, line) in code_lines(&file.text) {
            if line.trim_start().starts_with("#[ignore") {
                breaches.push(format!("{}:{number}", file.path));
            }
        }
    }
    none(&breaches, "a test that does not run is no test");
}

#[test]
fn nothing_is_left_for_later() {
    let mut breaches = Vec::new();
    for file in files("", TEXT) {
        if file.path == HERE {
            continue;
        }
        for (number, line) in file.text.lines().enumerate() {
            if ["TODO", "FIXME", "todo!(", "unimplemented!("].iter().any(|word| line.contains(word)) {
                breaches.push(format!("{}:{}: {}", file.path, number + 1, line.trim()));
            }
        }
    }
    none(&breaches, "what is not done does not stand in the code");
}

#[test]
fn exceptions_to_lints_say_why() {
    let mut breaches = Vec::new();
    for folder in ["host", "sdk", "tests"] {
        for file in files(folder, &[".rs"]) {
            // Bindings carry their generator's own exceptions, and so does the code that the derives write.
            if file.path.ends_with("bindings.rs") || file.path.starts_with("sdk/rust/derive/") || file.path == HERE {
                continue;
            }
            let lines = code_lines(&file.text);
            for (at, (number, line)) in lines.iter().enumerate() {
                let line = line.trim_start();
                if ["#[allow(", "#![allow(", "#[expect(", "#![expect("].iter().any(|start| line.starts_with(start)) {
                    let rest: String = lines[at..].iter().take(12).map(|(_, line)| line.as_str()).collect();
                    let attribute = rest.split(")]").next().unwrap_or_default();
                    if !attribute.contains("reason = ") {
                        breaches.push(format!("{}:{number}: {line}", file.path));
                    }
                }
            }
        }
    }
    none(&breaches, "an exception to a lint says why");
}

#[test]
fn no_file_knows_the_machine_it_was_written_on() {
    let here = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("the repository").display().to_string();
    let mut breaches = Vec::new();
    for file in files("", TEXT) {
        if file.path == HERE {
            continue;
        }
        for (number, line) in file.text.lines().enumerate() {
            if [here.as_str(), "/root/"].iter().any(|word| line.contains(word)) {
                breaches.push(format!("{}:{}: {}", file.path, number + 1, line.trim()));
            }
        }
    }
    none(&breaches, "paths of one machine");
}
