//! What README, ARCHITECTURE and CHANGELOG say is there.

use std::collections::BTreeSet;

use crate::files::{files, none, text, top};

/// The verbs of the Makefile.
fn make_verbs() -> BTreeSet<String> {
    text("Makefile").lines().filter_map(|line| line.split_once(": ## ").map(|(verb, _)| verb.to_owned())).collect()
}

/// Lines of code fences marked `sh` or `console`, with file and number.
fn commands() -> Vec<(String, String)> {
    let mut found = Vec::new();
    for file in files("", &[".md"]) {
        let mut within = false;
        for (number, line) in file.text.lines().enumerate() {
            if line.starts_with("```") {
                within = !within && ["```sh", "```console"].contains(&line.trim_end());
                continue;
            }
            let line = line.trim_start().trim_start_matches("$ ");
            if within && !line.is_empty() && !line.starts_with('#') {
                let command = line.split(" #").next().unwrap_or(line).trim().to_owned();
                found.push((format!("{}:{}", file.path, number + 1), command));
            }
        }
    }
    found
}

#[test]
fn commands_in_the_papers_exist() {
    let verbs = make_verbs();
    let mut breaches = Vec::new();
    let mut seen = 0;
    for (place, line) in commands() {
        for command in line.split("&&").flat_map(|part| part.split('|')).map(str::trim) {
            let words: Vec<_> = command.split_whitespace().collect();
            match words.as_slice() {
                ["make", rest @ ..] => {
                    seen += 1;
                    for verb in rest.iter().filter(|word| !word.contains('=') && !word.starts_with('"')) {
                        if !verbs.contains(*verb) && !line.contains(&format!("\"{verb}")) {
                            breaches.push(format!("{place}: make {verb}: there is {verbs:?}"));
                        }
                    }
                }
                ["pelton" | "target/debug/pelton", ..] => {
                    seen += 1;
                    if let Err(error) = pelton::cli::command().try_get_matches_from(&words)
                        && error.exit_code() != 0
                    {
                        breaches.push(format!("{place}: {command}: {error}"));
                    }
                }
                _ => {}
            }
        }
    }
    none(&breaches, "commands that do not exist");
    assert!(seen > 10, "the papers show only {seen} commands");
}

#[test]
fn paths_in_the_papers_exist() {
    let mut breaches = Vec::new();
    for paper in ["README.md", "ARCHITECTURE.md"] {
        for (number, line) in text(paper).lines().enumerate() {
            for quoted in line.split('`').skip(1).step_by(2) {
                let path = quoted.trim_end_matches('/').trim_start_matches("./");
                let first = path.split('/').next().unwrap_or_default();
                let ours = ["host", "sdk", "tests", "wit", "deploy", "examples", ".ci", ".config"].contains(&first);
                let plain =
                    !path.contains(|c: char| c.is_whitespace() || "*<>{}…".contains(c)) && !path.contains("NAME");
                if ours && plain && !top().join(path).exists() {
                    breaches.push(format!("{paper}:{}: {quoted}", number + 1));
                }
            }
        }
    }
    none(&breaches, "paths that are not there");
}

#[test]
fn the_changelog_has_the_version_that_is_built() {
    let version = env!("CARGO_PKG_VERSION");
    let log = text("CHANGELOG.md");
    assert!(log.contains(&format!("## {version}")) || log.contains("## Unreleased"), "no entry for {version}");
}

#[test]
fn make_alone_lists_every_verb() {
    let makefile = text("Makefile");
    let verbs = make_verbs();
    let phony = makefile.lines().find_map(|line| line.strip_prefix(".PHONY: ")).expect("verbs are no files");
    let phony: BTreeSet<_> = phony.split_whitespace().map(str::to_owned).collect();
    assert_eq!(phony, verbs, "each verb is phony and has a line of help");
    assert!(makefile.contains(".DEFAULT_GOAL := help"));
}
