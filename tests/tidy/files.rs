//! The files of the repository, and how to read Rust without its comments.

use std::fs;
use std::path::{Path, PathBuf};

/// The top of the repository.
pub(crate) fn top() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("the tests crate stands in the repository").to_owned()
}

/// One file: its path from the top with `/`, and its text.
#[derive(Debug, Clone)]
pub(crate) struct File {
    pub(crate) path: String,
    pub(crate) text: String,
}

/// All text files under `folder` (from the top; empty for all) whose names end so, in order. What is built or fetched is
/// left out.
pub(crate) fn files(folder: &str, endings: &[&str]) -> Vec<File> {
    let mut found = Vec::new();
    walk(&top().join(folder), &mut |path| {
        let relative = path.strip_prefix(top()).expect("it was found below the top");
        let name = relative.to_string_lossy().replace('\\', "/");
        if endings.iter().any(|ending| name.ends_with(ending))
            && let Ok(text) = fs::read_to_string(path)
        {
            found.push(File { path: name, text });
        }
    });
    found.sort_by(|a, b| a.path.cmp(&b.path));
    found
}

/// The text of one file, which must be there.
pub(crate) fn text(path: &str) -> String {
    fs::read_to_string(top().join(path)).unwrap_or_else(|error| panic!("{path} cannot be read: {error}"))
}

fn walk(folder: &Path, visit: &mut impl FnMut(&Path)) {
    let Ok(entries) = fs::read_dir(folder) else { return };
    for entry in entries.flatten() {
        let path = entry.path();
        let name = entry.file_name();
        if path.is_dir() {
            let skipped = ["target", ".git", ".pelton", "node_modules", "__pycache__"];
            if !skipped.iter().any(|skip| name == *skip) {
                walk(&path, visit);
            }
        } else {
            visit(&path);
        }
    }
}

/// The lines of a Rust file with comments taken away, each with its number. Strings stay.
pub(crate) fn code_lines(text: &str) -> Vec<(usize, String)> {
    let mut lines = vec![(1, String::new())];
    let mut characters = text.chars().peekable();
    let mut within = Within::Code;
    while let Some(character) = characters.next() {
        if character == '\n' {
            if matches!(within, Within::LineComment) {
                within = Within::Code;
            }
            lines.push((lines.len() + 1, String::new()));
            continue;
        }
        let line = &mut lines.last_mut().expect("there is a first line").1;
        match &mut within {
            Within::LineComment => {}
            Within::BlockComment(depth) => match (character, characters.peek()) {
                ('*', Some('/')) => {
                    characters.next();
                    *depth -= 1;
                    if *depth == 0 {
                        within = Within::Code;
                    }
                }
                ('/', Some('*')) => {
                    characters.next();
                    *depth += 1;
                }
                _ => {}
            },
            Within::Text => {
                line.push(character);
                if character == '\\' {
                    if let Some(next) = characters.next_if(|next| *next != '\n') {
                        line.push(next);
                    }
                } else if character == '"' {
                    within = Within::Code;
                }
            }
            Within::RawText(hashes) => {
                line.push(character);
                if character == '"' {
                    let mut closing = 0;
                    while closing < *hashes && characters.next_if_eq(&'#').is_some() {
                        line.push('#');
                        closing += 1;
                    }
                    if closing == *hashes {
                        within = Within::Code;
                    }
                }
            }
            Within::Code => match (character, characters.peek()) {
                ('/', Some('/')) => within = Within::LineComment,
                ('/', Some('*')) => {
                    characters.next();
                    within = Within::BlockComment(1);
                }
                ('\'', _) => {
                    // A quoted character, or a lifetime, which has no second quote right after its first character.
                    line.push(character);
                    let mut ahead = characters.clone();
                    let first = ahead.next();
                    if first == Some('\\') || ahead.next() == Some('\'') {
                        let mut escaped = false;
                        for quoted in characters.by_ref() {
                            line.push(quoted);
                            if quoted == '\'' && !escaped {
                                break;
                            }
                            escaped = quoted == '\\' && !escaped;
                        }
                    }
                }
                ('"', _) => {
                    let before = line.trim_end_matches('#');
                    let raw = before.ends_with('r') && !before.trim_end_matches('r').ends_with(char::is_alphanumeric);
                    let hashes = line.len() - before.len();
                    line.push(character);
                    within = if raw { Within::RawText(hashes) } else { Within::Text };
                }
                _ => line.push(character),
            },
        }
    }
    lines
}

enum Within {
    Code,
    LineComment,
    BlockComment(usize),
    Text,
    RawText(usize),
}

/// Whether `line` has `word` as a whole identifier.
pub(crate) fn has_word(line: &str, word: &str) -> bool {
    let identifier = |character: char| character.is_alphanumeric() || character == '_';
    line.match_indices(word).any(|(at, _)| {
        !line[..at].chars().next_back().is_some_and(identifier)
            && !line[at + word.len()..].chars().next().is_some_and(identifier)
    })
}

/// Fails with all breaches at once.
pub(crate) fn none(breaches: &[String], rule: &str) {
    assert!(breaches.is_empty(), "{rule}:\n  {}", breaches.join("\n  "));
}

#[test]
fn comments_are_taken_away_and_strings_stay() {
    let text =
        "let a = \"// no\"; // yes rdkafka\n/* x /* y */ z */ b('\"', 'c', r#\"/*\"\"#, &'static d) //\n\"\\\"//\" e";
    let lines: Vec<_> = code_lines(text).into_iter().map(|(_, line)| line).collect();
    assert_eq!(lines, ["let a = \"// no\"; ", " b('\"', 'c', r#\"/*\"\"#, &'static d) ", "\"\\\"//\" e"]);
}

#[test]
fn words_are_whole() {
    assert!(has_word("use rdkafka::client;", "rdkafka"));
    assert!(!has_word("use rdkafka_sys::x;", "rdkafka"));
    assert!(!has_word("my_rdkafka", "rdkafka"));
}
