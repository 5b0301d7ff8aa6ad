//! `${NAME}`, `${NAME:-default}` and `${file:PATH}` in values; `$${` stands for `${`.
//!
//! In: text, and an [`Environment`]. Out: the text with everything filled in, or what is missing. What came out of a
//! substitution may be a secret: its text never shows.

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};

/// Where substitutions come from.
pub trait Environment {
    /// The variable of that name.
    fn variable(&self, name: &str) -> Option<String>;

    /// The text of a file, for `${file:PATH}`.
    ///
    /// # Errors
    /// Where it cannot be read, or is not UTF-8.
    fn file(&self, path: &Path) -> io::Result<String>;
}

/// The process's own environment.
#[derive(Debug, Clone, Copy, Default)]
pub struct ProcessEnvironment;

impl Environment for ProcessEnvironment {
    fn variable(&self, name: &str) -> Option<String> {
        std::env::var(name).ok()
    }

    fn file(&self, path: &Path) -> io::Result<String> {
        super::files::read_text(path)
    }
}

/// An environment of given variables, and of the files that are there.
impl Environment for BTreeMap<String, String> {
    fn variable(&self, name: &str) -> Option<String> {
        self.get(name).cloned()
    }

    fn file(&self, path: &Path) -> io::Result<String> {
        super::files::read_text(path)
    }
}

/// A substitution that cannot be made.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Missing {
    /// Bytes from the start of the text.
    pub(super) at: usize,
    pub(super) found: String,
    pub(super) remedy: String,
}

/// Fills in a text; none where there is nothing to fill in.
pub(super) fn substitute(
    text: &str,
    dir: &Path,
    environment: &dyn Environment,
) -> Result<Option<String>, Vec<Missing>> {
    let mut filled = String::with_capacity(text.len());
    let mut missing = Vec::new();
    let mut touched = false;
    let mut at = 0;
    while let Some(found) = text[at..].find("${").map(|offset| at + offset) {
        touched = true;
        if text[at..found].ends_with('$') {
            filled.push_str(&text[at..found]);
            filled.push('{');
            at = found + 2;
            continue;
        }
        filled.push_str(&text[at..found]);
        let Some(end) = text[found..].find('}').map(|offset| found + offset) else {
            missing.push(Missing {
                at: found,
                found: "`${` is not closed".to_owned(),
                remedy: "write ${NAME}, or $${ where you mean the two characters".to_owned(),
            });
            at = text.len();
            break;
        };
        match one(&text[found + 2..end], dir, environment) {
            Ok(value) => filled.push_str(&value),
            Err((found_text, remedy)) => missing.push(Missing { at: found, found: found_text, remedy }),
        }
        at = end + 1;
    }
    filled.push_str(&text[at..]);
    match (missing.is_empty(), touched) {
        (false, _) => Err(missing),
        (true, false) => Ok(None),
        (true, true) => Ok(Some(filled)),
    }
}

/// What stands between the braces.
fn one(inside: &str, dir: &Path, environment: &dyn Environment) -> Result<String, (String, String)> {
    if let Some(path) = inside.strip_prefix("file:") {
        let full: PathBuf = dir.join(path.trim());
        return match environment.file(&full) {
            Ok(text) => Ok(text.trim_end_matches(['\r', '\n']).to_owned()),
            Err(error) => Err((
                format!("the file of `${{{inside}}}` cannot be read: {error}"),
                format!("{} must be a text file that the daemon may read", full.display()),
            )),
        };
    }
    let (name, default) = match inside.split_once(":-") {
        Some((name, default)) => (name, Some(default)),
        None => (inside, None),
    };
    if !is_name(name) {
        return Err((
            format!("`${{{inside}}}` names no variable"),
            "write ${NAME}, ${NAME:-default} or ${file:PATH}; $${ stands for the two characters".to_owned(),
        ));
    }
    // As in a shell, a variable that is set to nothing counts as unset for `:-`.
    match (environment.variable(name), default) {
        (Some(value), None) => Ok(value),
        (Some(value), Some(_)) if !value.is_empty() => Ok(value),
        (_, Some(default)) => Ok(default.to_owned()),
        (None, None) => Err((
            format!("the environment variable `{name}` is not set"),
            format!("set it before the start, or give a default: ${{{name}:-…}}"),
        )),
    }
}

fn is_name(name: &str) -> bool {
    name.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_')
        && name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_')
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fill(text: &str) -> Result<Option<String>, Vec<Missing>> {
        let environment: BTreeMap<_, _> =
            [("HOST", "db"), ("PORT", "9042"), ("EMPTY", "")].map(|(k, v)| (k.to_owned(), v.to_owned())).into();
        substitute(text, Path::new("/nowhere"), &environment)
    }

    #[test]
    fn fills_in_variables_and_defaults() {
        assert_eq!(fill("${HOST}:${PORT}"), Ok(Some("db:9042".to_owned())));
        assert_eq!(fill("${NO:-a:-b}"), Ok(Some("a:-b".to_owned())));
        assert_eq!(fill("${EMPTY:-x}"), Ok(Some("x".to_owned())));
        assert_eq!(fill("${EMPTY}"), Ok(Some(String::new())));
        assert_eq!(fill("^a$"), Ok(None));
    }

    #[test]
    fn a_doubled_dollar_is_the_character() {
        assert_eq!(fill("$${HOST} and ${HOST}"), Ok(Some("${HOST} and db".to_owned())));
    }

    #[test]
    fn every_missing_one_is_named_with_its_place() {
        let missing = fill("${HOST} ${A} ${B-x} ${file:gone} ${C").expect_err("four are missing");
        let at: Vec<_> = missing.iter().map(|missing| missing.at).collect();
        assert_eq!(at, [8, 13, 20, 33]);
        assert!(missing[0].found.contains("`A` is not set"));
    }
}
