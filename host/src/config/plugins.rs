//! Where a plugin is, and what its own `plugin.yaml` says.
//!
//! In: the name, path or digest that a step gives, and the directories to look in. Out: the artifact, its grants and
//! limits, or what is there instead. Never looks into an artifact.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::document::{Document, Findings, Table, list};
use super::grants;
use super::suggest::nearest;
use super::values::{boolean, duration, escapes, integer, is_plain_name, size};
use super::{Environment, Limits, Manifest};
use crate::record::Digest;
use crate::shell;

/// The address space of a guest.
const MEMORY_MAX: u64 = 4 << 30;
/// Hexadecimal digits of a shortened digest, at least.
const DIGEST_DIGITS_MIN: usize = 12;

/// Limits as a file gives them, key by key.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct LimitKeys {
    /// `memory`
    pub memory_bytes: Option<usize>,
    /// `cpu_per_batch`
    pub cpu_per_batch: Option<Duration>,
    /// `cpu_per_record`
    pub cpu_per_record: Option<Duration>,
    /// `wall_per_batch`
    pub wall_per_batch: Option<Duration>,
    /// `output`
    pub output_bytes: Option<usize>,
    /// `log_lines`
    pub log_lines: Option<usize>,
    /// `trusted`
    pub trusted: Option<bool>,
}

impl LimitKeys {
    /// What these keys say, over what holds without them.
    #[must_use]
    pub fn over(&self, base: Limits) -> Limits {
        Limits {
            memory_bytes: self.memory_bytes.unwrap_or(base.memory_bytes),
            cpu_per_batch: self.cpu_per_batch.unwrap_or(base.cpu_per_batch),
            cpu_per_record: self.cpu_per_record.unwrap_or(base.cpu_per_record),
            wall_per_batch: self.wall_per_batch.unwrap_or(base.wall_per_batch),
            output_bytes: self.output_bytes.unwrap_or(base.output_bytes),
            log_lines: self.log_lines.unwrap_or(base.log_lines),
            trusted: self.trusted.unwrap_or(base.trusted),
        }
    }
}

/// Why there is no artifact: what was found, and what to do.
pub(super) struct NotFound {
    pub(super) found: String,
    pub(super) remedy: String,
}

/// Finds the artifact that a step names.
pub(super) fn resolve(reference: &str, dir: &Path, plugin_dirs: &[PathBuf]) -> Result<PathBuf, NotFound> {
    if let Some(hex) = reference.strip_prefix("sha256:") {
        return by_digest(hex, dir, plugin_dirs);
    }
    if reference.starts_with("oci://") {
        return Err(NotFound {
            found: "plugins cannot be fetched from a registry".to_owned(),
            remedy: "put the artifact into a plugin directory, and write its name".to_owned(),
        });
    }
    if reference.contains('/') || reference.contains('\\') {
        return by_path(reference, dir);
    }
    by_name(reference, dir, plugin_dirs)
}

fn by_path(reference: &str, dir: &Path) -> Result<PathBuf, NotFound> {
    let path = Path::new(reference);
    if escapes(path) {
        return Err(NotFound {
            found: format!("`{reference}` leads out of the project directory"),
            remedy: "list its directory under `plugin_dirs:` in pelton.yaml, and write the plugin's name".to_owned(),
        });
    }
    let full = dir.join(path);
    if full.is_file() {
        return Ok(full);
    }
    if full.is_dir() {
        let name = path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
        return Err(NotFound {
            found: format!("`{reference}` is a directory"),
            remedy: format!("write the artifact in it: `{}/{name}.wasm`", reference.trim_end_matches('/')),
        });
    }
    let beside = full.parent().map(wasm_files).unwrap_or_default();
    let name = path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
    let names: Vec<String> =
        beside.iter().filter_map(|file| Some(file.file_name()?.to_string_lossy().into_owned())).collect();
    let remedy = match nearest(&name, names.iter().map(String::as_str)) {
        Some(near) => format!("did you mean `{}`?", path.with_file_name(near).display()),
        None => "write the path of a .wasm file, from the project directory".to_owned(),
    };
    Err(NotFound { found: format!("there is no file `{reference}`"), remedy })
}

fn by_name(name: &str, dir: &Path, plugin_dirs: &[PathBuf]) -> Result<PathBuf, NotFound> {
    if let Some(stem) = name.strip_suffix(".wasm") {
        return Err(NotFound {
            found: format!("`{name}` is neither a plugin's name nor a path"),
            remedy: format!(
                "write `{stem}` to look in the plugin directories, or `./{name}` for a file of the project"
            ),
        });
    }
    if !is_plain_name(name) {
        return Err(NotFound {
            found: format!("`{name}` is not a plugin's name"),
            remedy:
                "write a name of lower-case letters, digits, `-` and `_`, a path (`./x.wasm`), or a digest (`sha256:…`)"
                    .to_owned(),
        });
    }
    for plugins in plugin_dirs {
        for candidate in [plugins.join(format!("{name}.wasm")), plugins.join(name).join(format!("{name}.wasm"))] {
            if candidate.is_file() {
                return Ok(candidate);
            }
        }
    }
    if let Some(source) = plugin_dirs.iter().map(|plugins| plugins.join(name)).find(|source| source.is_dir()) {
        return Err(NotFound {
            found: format!("the plugin `{name}` is not built: {}/{name}.wasm is not there", shown(&source, dir)),
            remedy: format!("build it: pelton plugin build {}", shell::argument(&source)),
        });
    }
    let looked: Vec<String> = plugin_dirs
        .iter()
        .map(|plugins| shown(plugins, dir) + if plugins.is_dir() { "" } else { " (not there)" })
        .collect();
    let names = known_names(plugin_dirs);
    let remedy = match nearest(name, names.iter().map(String::as_str)) {
        Some(near) => format!("did you mean `{near}`?"),
        None if names.is_empty() => {
            "build one there, or list its directory under `plugin_dirs:` in pelton.yaml".to_owned()
        }
        None => format!("there are {}", list(names.iter().map(String::as_str))),
    };
    Err(NotFound { found: format!("there is no plugin `{name}` in {}", looked.join(", ")), remedy })
}

fn by_digest(hex: &str, dir: &Path, plugin_dirs: &[PathBuf]) -> Result<PathBuf, NotFound> {
    let is_hex = hex.chars().all(|c| c.is_ascii_digit() || ('a'..='f').contains(&c));
    if !is_hex || !(DIGEST_DIGITS_MIN..=64).contains(&hex.len()) {
        return Err(NotFound {
            found: format!("`sha256:{hex}` is not a digest"),
            remedy: format!(
                "write sha256: and 64 lower-case hexadecimal digits, or the first {DIGEST_DIGITS_MIN} and more"
            ),
        });
    }
    let mut matches: Vec<PathBuf> = Vec::new();
    for file in plugin_dirs.iter().flat_map(|plugins| artifacts(plugins)) {
        let Ok(bytes) = std::fs::read(&file) else { continue };
        if hex::encode(Digest::of(&bytes).0).starts_with(hex) {
            matches.push(file);
        }
    }
    matches.into_iter().next().ok_or_else(|| NotFound {
        found: format!(
            "no artifact in {} has the digest sha256:{hex}",
            plugin_dirs.iter().map(|plugins| shown(plugins, dir)).collect::<Vec<_>>().join(", ")
        ),
        remedy: "`pelton plugin inspect FILE` prints an artifact's digest".to_owned(),
    })
}

/// A path as the files of the project would write it.
pub(super) fn shown(path: &Path, dir: &Path) -> String {
    path.strip_prefix(dir).unwrap_or(path).display().to_string()
}

fn wasm_files(dir: &Path) -> Vec<PathBuf> {
    let mut files: Vec<PathBuf> = std::fs::read_dir(dir)
        .into_iter()
        .flatten()
        .flatten()
        .map(|entry| entry.path())
        .filter(|path| path.extension().is_some_and(|extension| extension == "wasm") && path.is_file())
        .collect();
    files.sort();
    files
}

fn directories(dir: &Path) -> Vec<PathBuf> {
    let mut found: Vec<PathBuf> = std::fs::read_dir(dir)
        .into_iter()
        .flatten()
        .flatten()
        .map(|entry| entry.path())
        .filter(|path| path.is_dir())
        .collect();
    found.sort();
    found
}

/// Every artifact of a plugin directory.
fn artifacts(plugins: &Path) -> Vec<PathBuf> {
    let mut files = wasm_files(plugins);
    files.extend(directories(plugins).iter().flat_map(|dir| wasm_files(dir)));
    files
}

/// Names of plugins that are there, built or not.
fn known_names(plugin_dirs: &[PathBuf]) -> BTreeSet<String> {
    let stem = |path: &Path| path.file_stem().map(|stem| stem.to_string_lossy().into_owned());
    let is_plugin = |path: &Path| {
        ["plugin.yaml", "Cargo.toml", "plugin.py"].iter().any(|name| path.join(name).is_file())
            || !wasm_files(path).is_empty()
    };
    plugin_dirs
        .iter()
        .flat_map(|plugins| {
            let files = wasm_files(plugins);
            let dirs = directories(plugins).into_iter().filter(|path| is_plugin(path));
            files.into_iter().chain(dirs).filter_map(|path| stem(&path)).collect::<Vec<_>>()
        })
        .collect()
}

/// The manifest of an artifact: `NAME.yaml` beside `NAME.wasm`, else `plugin.yaml` beside it. In a plugin directory
/// itself the latter would speak for every plugin there, so it does not count.
pub(super) fn manifest_file(artifact: &Path, plugin_dirs: &[PathBuf]) -> Option<PathBuf> {
    let named = artifact.with_extension("yaml");
    if named.is_file() {
        return Some(named);
    }
    let parent = artifact.parent()?;
    let shared = parent.join("plugin.yaml");
    (shared.is_file() && !plugin_dirs.iter().any(|plugins| plugins == parent)).then_some(shared)
}

/// Reads a manifest; what is wrong in it goes to the findings.
pub(super) fn read_manifest(file: &Path, dir: &Path, environment: &dyn Environment, findings: &Findings) -> Manifest {
    let label = shown(file, dir);
    let bytes = match super::files::read(file) {
        Ok(bytes) => bytes,
        Err(error) => {
            findings.problems.borrow_mut().push(super::load::unreadable(&label, &error));
            return Manifest::default();
        }
    };
    let document = Document::parse(&label, None, &bytes, dir, environment, findings);
    let root = document.root();
    if root.is_null() || root.is_broken() {
        return Manifest::default();
    }
    root.table("`grants:` and `limits:`", |table| {
        let grants = table.optional("grants", grants::of_manifest);
        let limits = table.optional("limits", |value| value.table("limits, like `memory: 64 MiB`", limits));
        Some(Manifest { grants: grants.unwrap_or_default(), limits: limits.unwrap_or_default() })
    })
    .unwrap_or_default()
}

/// Reads `limits:`.
pub(super) fn limits(table: &mut Table<'_>) -> Option<LimitKeys> {
    let cpu = Duration::from_millis(1)..=Duration::from_secs(60);
    let wall = Duration::from_millis(100)..=Duration::from_secs(600);
    Some(LimitKeys {
        memory_bytes: table.optional("memory", |value| size(value, "64 MiB", 1 << 20..=MEMORY_MAX)),
        cpu_per_batch: table.optional("cpu_per_batch", |value| duration(value, "500 ms", cpu.clone())),
        cpu_per_record: table.optional("cpu_per_record", |value| duration(value, "10 ms", cpu)),
        wall_per_batch: table.optional("wall_per_batch", |value| duration(value, "30 s", wall)),
        output_bytes: table.optional("output", |value| size(value, "32 MiB", 1 << 10..=1 << 30)),
        log_lines: table
            .optional("log_lines", |value| integer(value, 0..=100_000))
            .and_then(|n| usize::try_from(n).ok()),
        trusted: table.optional("trusted", boolean),
    })
}
