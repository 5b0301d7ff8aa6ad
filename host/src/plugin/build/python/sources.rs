//! The files that a Python plugin is made of.
//!
//! In: a plugin's directory. Out: a copy without what is not code, and a name for the component that is made of it: the hash
//! of everything that goes into it.

use std::path::{Path, PathBuf};

use sha2::{Digest as _, Sha256};

use super::super::BuildError;
use super::super::component;
use super::tool::PACKAGE;

/// What a plugin in Python is told by.
pub(in super::super) const PLUGIN_FILE: &str = "plugin.py";

/// Packages of others, put there by the author.
const VENDOR: &str = "vendor";

/// Directories without code of the plugin's.
const OTHER_DIRS: [&str; 4] = ["cases", "target", "__pycache__", "node_modules"];

/// Components that are kept, of the last that were made.
const KEPT_MAX: usize = 8;

/// Whether a directory entry belongs to the plugin's code. Hidden ones, virtual environments and artifacts do not.
fn is_code(path: &Path) -> bool {
    let name = path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
    !name.starts_with('.')
        && !OTHER_DIRS.contains(&name.as_str())
        && !path.join("pyvenv.cfg").exists()
        && path.extension().is_none_or(|extension| extension != "wasm")
}

/// All files of a plugin's code, relative to its directory, in order.
fn files(plugin: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut dirs = vec![plugin.to_owned()];
    while let Some(dir) = dirs.pop() {
        for entry in std::fs::read_dir(&dir).into_iter().flatten().flatten() {
            let path = entry.path();
            if !is_code(&path) {
                continue;
            }
            if path.is_dir() {
                dirs.push(path);
            } else if let Ok(relative) = path.strip_prefix(plugin) {
                found.push(relative.to_owned());
            }
        }
    }
    found.sort();
    found
}

/// The modules that a change of makes an artifact stale: not its tests.
pub(in super::super) fn modules(plugin: &Path) -> Vec<PathBuf> {
    let is_module = |file: &PathBuf| {
        let name = file.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
        name.ends_with(".py") && !is_test(&name)
    };
    files(plugin).into_iter().filter(is_module).map(|file| plugin.join(file)).collect()
}

fn is_test(name: &str) -> bool {
    name.starts_with("test_") || name.ends_with("_test.py") || name == "conftest.py"
}

/// A place where a plugin is built.
pub(super) struct Staged {
    dir: tempfile::TempDir,
    target_dir: PathBuf,
}

impl Staged {
    /// Copies a plugin's code.
    pub(super) fn new(plugin: &Path, target_dir: &Path) -> Result<Self, BuildError> {
        let dir = tempfile::Builder::new()
            .prefix("python-")
            .tempdir_in(target_dir)
            .map_err(|error| BuildError::io("cannot create a directory in", target_dir, error))?;
        let copy = dir.path().join("plugin");
        for file in files(plugin) {
            if file.file_name().is_some_and(|name| is_test(&name.to_string_lossy())) {
                continue;
            }
            let (from, to) = (plugin.join(&file), copy.join(&file));
            let parent = to.parent().unwrap_or(&copy);
            std::fs::create_dir_all(parent).map_err(|error| BuildError::io("cannot create", parent, error))?;
            std::fs::copy(&from, &to).map_err(|error| BuildError::io("cannot copy", &from, error))?;
        }
        Ok(Self { dir, target_dir: target_dir.to_owned() })
    }

    /// A file in it.
    pub(super) fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// A directory in it.
    pub(super) fn dir(&self, name: &str) -> PathBuf {
        self.path(name)
    }

    /// `vendor/` of a plugin's directory, where it has one.
    pub(super) fn vendor(&self, plugin: &Path) -> Option<PathBuf> {
        Some(plugin.join(VENDOR)).filter(|vendor| vendor.is_dir())
    }

    /// Where the component of just these files is kept.
    pub(super) fn kept_component(&self) -> Result<Kept, BuildError> {
        let mut hash = Sha256::new();
        hash.update(PACKAGE);
        for part in ["plugin", "sdk", "wit", "entry"] {
            let dir = self.dir(part);
            for file in files(&dir) {
                let path = dir.join(&file);
                let content = std::fs::read(&path).map_err(|error| BuildError::io("cannot read", &path, error))?;
                // Lengths, so that no two sets of files read the same.
                for bytes in [part.as_bytes(), file.as_os_str().as_encoded_bytes(), &content] {
                    hash.update(bytes.len().to_le_bytes());
                    hash.update(bytes);
                }
            }
        }
        let dir = self.target_dir.join("python-components");
        Ok(Kept { file: dir.join(format!("{}.wasm", hex::encode(hash.finalize()))), dir })
    }
}

/// A component that may have been made before.
pub(super) struct Kept {
    dir: PathBuf,
    file: PathBuf,
}

impl Kept {
    /// What was made before, from the same files.
    pub(super) fn read(&self) -> Option<Vec<u8>> {
        std::fs::read(&self.file).ok()
    }

    /// Keeps a component, and lets go of the oldest. Where that fails, the next build takes longer.
    pub(super) fn keep(&self, bytes: &[u8]) {
        let _ = std::fs::create_dir_all(&self.dir).and_then(|()| component::write(&self.file, bytes));
        let mut kept: Vec<(std::time::SystemTime, PathBuf)> = std::fs::read_dir(&self.dir)
            .into_iter()
            .flatten()
            .flatten()
            .filter_map(|entry| Some((entry.metadata().ok()?.modified().ok()?, entry.path())))
            .filter(|(_, path)| path.extension().is_some_and(|extension| extension == "wasm"))
            .collect();
        kept.sort();
        let too_many = kept.len().saturating_sub(KEPT_MAX);
        for (_, file) in kept.iter().take(too_many) {
            let _ = std::fs::remove_file(file);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plugin(files: &[&str]) -> tempfile::TempDir {
        let dir = tempfile::tempdir().expect("a directory");
        for file in files {
            let path = dir.path().join(file);
            std::fs::create_dir_all(path.parent().expect("a parent")).expect("a directory");
            std::fs::write(path, file).expect("a file");
        }
        dir
    }

    #[test]
    fn code_is_told_from_what_lies_beside_it() {
        let dir = plugin(&[
            "plugin.py",
            "deep/rates.json",
            "deep/part.py",
            "test_plugin.py",
            "cases/a/input.jsonl",
            ".pelton-sdk/python/x.py",
            "env/pyvenv.cfg",
            "env/lib/x.py",
            "target/wasm/y.py",
            "hello.wasm",
        ]);
        assert_eq!(modules(dir.path()), ["deep/part.py", "plugin.py"].map(|file| dir.path().join(file)));
        let target = tempfile::tempdir().expect("a directory");
        let staged = Staged::new(dir.path(), target.path()).expect("staged");
        let copied = files(&staged.dir("plugin"));
        assert_eq!(copied, ["deep/part.py", "deep/rates.json", "plugin.py"].map(PathBuf::from));
    }

    #[test]
    fn the_same_files_are_built_once_and_others_anew() {
        let target = tempfile::tempdir().expect("a directory");
        let kept = |plugin: &Path| {
            let staged = Staged::new(plugin, target.path()).expect("staged");
            staged.kept_component().expect("readable")
        };
        let (one, same, other) = (plugin(&["plugin.py"]), plugin(&["plugin.py"]), plugin(&["plugin.py", "part.py"]));
        assert_eq!(kept(one.path()).read(), None);
        kept(one.path()).keep(b"made");
        assert_eq!(kept(same.path()).read(), Some(b"made".to_vec()));
        assert_eq!(kept(other.path()).read(), None);
        for number in 0..KEPT_MAX + 2 {
            let name = format!("part{number}.py");
            kept(plugin(&["plugin.py", &name]).path()).keep(b"made");
        }
        let left = std::fs::read_dir(target.path().join("python-components")).expect("readable").count();
        assert_eq!(left, KEPT_MAX);
    }
}
