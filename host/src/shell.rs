//! Paths as somebody types them: what a message says to do next can be pasted into a shell where its reader stands.
//!
//! In: a path, as the files of a project or the command line led to it. Out: its text, relative to the current directory
//! where that is shorter, else absolute; quoted where a shell would take it apart. Never asks whether it is there.

use std::borrow::Cow;
use std::path::{Component, Path, PathBuf};

/// A path as an argument of a command.
#[must_use]
pub fn argument(path: &Path) -> String {
    quoted(&shown(path).to_string_lossy()).into_owned()
}

/// A project's directory as a further command needs it: nothing where it is the current one, else with a space before it.
#[must_use]
pub fn project(dir: &Path) -> String {
    let dir = argument(dir);
    if dir == "." { String::new() } else { format!(" {dir}") }
}

/// Text as one word of a command.
#[must_use]
pub fn quoted(text: &str) -> Cow<'_, str> {
    // Text with a NUL in it cannot be typed.
    shlex::try_quote(text).unwrap_or(Cow::Borrowed(text))
}

/// A path as it can be opened from the current directory.
#[must_use]
pub fn shown(path: &Path) -> PathBuf {
    match std::env::current_dir() {
        Ok(here) => seen_from(&resolved(&here), &resolved(&here.join(path))),
        Err(_) => path.to_owned(),
    }
}

/// Without links and `..`, as far as it is there.
fn resolved(path: &Path) -> PathBuf {
    for above in path.ancestors() {
        if let (Ok(real), Ok(rest)) = (above.canonicalize(), path.strip_prefix(above)) {
            // To join nothing would end it with a slash.
            return real.components().chain(rest.components()).collect();
        }
    }
    path.to_owned()
}

/// The shorter of two ways to a path: from a directory, or from the root. Both are resolved.
fn seen_from(here: &Path, path: &Path) -> PathBuf {
    let common = here.components().zip(path.components()).take_while(|(one, other)| one == other).count();
    let up = here.components().skip(common).map(|_| Component::ParentDir);
    let relative: PathBuf = up.chain(path.components().skip(common)).collect();
    if relative.as_os_str().is_empty() {
        return PathBuf::from(".");
    }
    // Where somebody stands at the root, the two differ by a slash.
    let is_shorter = relative.as_os_str().len() < path.as_os_str().len() && here.parent().is_some();
    if is_shorter { relative } else { path.to_owned() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_shorter_way_is_taken() {
        let seen = |here: &str, path: &str| seen_from(Path::new(here), Path::new(path)).display().to_string();
        assert_eq!(seen("/srv/shop", "/srv/shop/plugins/a"), "plugins/a");
        assert_eq!(seen("/srv/shop/examples/x", "/srv/shop/plugins/a"), "../../plugins/a");
        assert_eq!(seen("/srv/shop", "/srv/shop"), ".");
        assert_eq!(seen("/a/b/c/d/e", "/srv/x"), "/srv/x");
        assert_eq!(seen("/", "/srv/x"), "/srv/x");
    }

    #[test]
    fn what_the_files_of_a_project_wrote_is_resolved_as_far_as_it_is_there() {
        let dir = tempfile::tempdir().expect("a directory");
        let top = dir.path().canonicalize().expect("it is there");
        std::fs::create_dir_all(top.join("examples/shop")).expect("a directory");
        assert_eq!(resolved(&top.join("examples/shop/../../plugins/a")), top.join("plugins/a"), "nobody made it yet");
        std::fs::create_dir_all(top.join("plugins/a")).expect("a directory");
        assert_eq!(resolved(&top.join("examples/shop/../../plugins/a/./b.wasm")), top.join("plugins/a/b.wasm"));
    }

    #[test]
    fn a_word_of_a_command_is_quoted_where_it_must_be() {
        assert_eq!(quoted("plugins/a"), "plugins/a");
        assert_eq!(quoted("my shop"), "'my shop'");
        assert_eq!((project(Path::new(".")), project(Path::new("my shop"))), (String::new(), " 'my shop'".to_owned()));
    }
}
