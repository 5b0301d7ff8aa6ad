//! From an author's sources to a component.
//!
//! In: a directory with a plugin, or with several: a crate in Rust (`Cargo.toml`) or a module in Python (`plugin.py`). Out:
//! `DIR/<directory's name>.wasm` for each, and its description. The same crate gives the same bytes on the same toolchain:
//! one profile, one linker, and no paths of the machine inside. Touches nothing but the target directory (where also the
//! tool for Python goes, which is fetched at its first build) and the `.wasm` file.

mod cargo;
mod component;
pub mod python;
pub mod toolchain;

use std::path::{Path, PathBuf};

use tokio::time::Instant;

use super::inspect::{Inspection, inspect};
use crate::clock::seconds;
use crate::shell::{argument, shown};
use cargo::Workspace;
pub use python::{NoPython, Python};
pub use toolchain::{NoToolchain, Places, Toolchain};

/// Names a target directory that all plugins of a machine share.
pub const TARGET_DIR_VARIABLE: &str = "PELTON_GUEST_TARGET_DIR";

/// How to build.
#[derive(Debug, Clone, Default)]
pub struct Request {
    /// Where goes what is made on the way; see [`default_target_dir`].
    pub target_dir: Option<PathBuf>,
    /// `cargo --locked`
    pub locked: bool,
    /// `cargo --offline`
    pub offline: bool,
}

/// What there is to build, by language.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Plugins {
    /// Directories with a `Cargo.toml`: of a crate, or of a workspace.
    pub crates: Vec<PathBuf>,
    /// Directories with a `plugin.py`.
    pub python: Vec<PathBuf>,
}

/// What builds it: for each language that there is something of.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Toolchains {
    /// For Rust.
    pub rust: Option<Toolchain>,
    /// For Python.
    pub python: Option<Python>,
}

/// A plugin that was built.
#[derive(Debug, Clone, serde::Serialize)]
pub struct Built {
    /// The name of its directory.
    pub name: String,
    /// The component.
    pub file: PathBuf,
    /// What it is.
    #[serde(flatten)]
    pub inspection: Inspection,
    /// How long it took, or its workspace.
    pub seconds: f64,
}

/// Why a plugin cannot be built.
#[derive(Debug, thiserror::Error)]
pub enum BuildError {
    /// Nothing to build.
    #[error(
        "{dir}: there is no Cargo.toml here and no plugin.py, nor in a directory below; `pelton plugin new NAME` makes a \
         plugin, and a component that was built elsewhere needs no build"
    )]
    Nothing {
        /// Where.
        dir: PathBuf,
    },
    /// Two languages.
    #[error(
        "{dir}: there is a Cargo.toml and a plugin.py here: a plugin is written in one of the two, remove the other"
    )]
    TwoLanguages {
        /// Where.
        dir: PathBuf,
    },
    /// There are sources, but nothing to build them with.
    #[error("{dir}: there is no toolchain for it")]
    NoToolchain {
        /// Whose.
        dir: PathBuf,
    },
    /// A mistake in the author's Python, with its file and line.
    #[error("{message}")]
    PythonMistake {
        /// What, and where.
        message: String,
    },
    /// componentize-py cannot be had.
    #[error("{}, which makes components of Python, cannot be had: {message}\n  {remedy}", python::TOOL)]
    PythonTool {
        /// What went wrong.
        message: String,
        /// What to do.
        remedy: String,
    },
    /// Cargo cannot read it.
    #[error("{manifest}: {message}")]
    Manifest {
        /// Which.
        manifest: PathBuf,
        /// Cargo's words.
        message: String,
    },
    /// A crate, but no plugin.
    #[error("{manifest}: this is no plugin: write `crate-type = [\"cdylib\", \"rlib\"]` under `[lib]`")]
    NotAPlugin {
        /// Which.
        manifest: PathBuf,
    },
    /// The compiler's errors were shown already.
    #[error("{root}: cargo failed ({status}); its own words stand above")]
    Cargo {
        /// The workspace.
        root: PathBuf,
        /// How it ended.
        status: String,
    },
    /// Cargo succeeded without a module.
    #[error("{name}: cargo made no WebAssembly module of it")]
    NoModule {
        /// The package.
        name: String,
    },
    /// The module is no plugin.
    #[error("{name}: no component can be made of it: {message}")]
    Component {
        /// The package.
        name: String,
        /// The encoder's words.
        message: String,
    },
    /// A file or a program.
    #[error("{doing} {path}: {source}")]
    Io {
        /// What was tried.
        doing: &'static str,
        /// With what.
        path: PathBuf,
        /// Why not.
        source: std::io::Error,
    },
}

impl BuildError {
    fn io(doing: &'static str, path: &Path, source: std::io::Error) -> Self {
        Self::Io { doing, path: path.to_owned(), source }
    }
}

/// Builds plugins. `first_build` is told of each target directory that holds nothing yet, and for which language: building
/// into it takes minutes, and seconds ever after.
///
/// # Errors
/// The first that cannot be built.
pub fn build(
    request: &Request,
    plugins: &Plugins,
    toolchains: &Toolchains,
    mut first_build: impl FnMut(&Path, Language),
) -> Result<Vec<Built>, BuildError> {
    let mut flags = Vec::new();
    flags.extend(request.locked.then_some("--locked"));
    flags.extend(request.offline.then_some("--offline"));
    let mut built = Vec::new();
    for dir in &plugins.crates {
        let missing = || BuildError::NoToolchain { dir: dir.clone() };
        let toolchain = toolchains.rust.as_ref().ok_or_else(missing)?;
        let workspace = Workspace::read(dir, toolchain)?;
        let target_dir = target_dir(request, &workspace.root)?;
        if !cargo::holds_libraries(&target_dir) {
            first_build(&target_dir, Language::Rust);
        }
        built.extend(build_workspace(&workspace, &target_dir, toolchain, &flags)?);
    }
    for dir in &plugins.python {
        let missing = || BuildError::NoToolchain { dir: dir.clone() };
        let python = toolchains.python.as_ref().ok_or_else(missing)?;
        let target_dir = target_dir(request, &python_root(dir))?;
        let begun = Instant::now();
        let mut first_build = |target_dir: &Path| first_build(target_dir, Language::Python);
        let component = python::build(dir, &target_dir, python, request.offline, &mut first_build)?;
        let name = dir.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let plugin = finish(name, dir, &component, begun)?;
        let Inspection { ungrantable, shell, .. } = &plugin.inspection;
        if let Some(import) = ungrantable.iter().chain(shell).next() {
            let message = format!("it imports {import}, though the tool was told to leave WASI out");
            return Err(BuildError::Component { name: plugin.name, message });
        }
        built.push(plugin);
    }
    Ok(built)
}

/// What a plugin is written in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Language {
    /// A crate.
    Rust,
    /// A module.
    Python,
}

/// What a directory holds: a plugin, a workspace with plugins of Python beside its members, or plugins directly below.
///
/// # Errors
/// Where there is nothing to build, or the directory cannot be read.
pub fn plugins_of(dir: &Path) -> Result<Plugins, BuildError> {
    let dir = dir.canonicalize().map_err(|error| BuildError::io("cannot read", dir, error))?;
    let is_crate = |dir: &PathBuf| dir.join("Cargo.toml").is_file();
    let is_python = |dir: &PathBuf| dir.join(python::PLUGIN_FILE).is_file();
    let mut plugins = Plugins::default();
    if is_crate(&dir) {
        plugins.crates.push(dir.clone());
    }
    if is_python(&dir) {
        plugins.python.push(dir.clone());
    } else {
        let entries = std::fs::read_dir(&dir).map_err(|error| BuildError::io("cannot read", &dir, error))?;
        let mut below: Vec<PathBuf> = entries.flatten().map(|entry| entry.path()).collect();
        below.sort();
        if plugins.crates.is_empty() {
            plugins.crates = below.iter().filter(|dir| is_crate(dir)).cloned().collect();
        }
        plugins.python = below.into_iter().filter(is_python).collect();
    }
    if let Some(dir) = plugins.python.iter().find(|dir| is_crate(dir)) {
        return Err(BuildError::TwoLanguages { dir: dir.clone() });
    }
    if plugins == Plugins::default() { Err(BuildError::Nothing { dir }) } else { Ok(plugins) }
}

fn target_dir(request: &Request, root: &Path) -> Result<PathBuf, BuildError> {
    let target_dir = request.target_dir.clone().unwrap_or_else(|| default_target_dir(root));
    std::path::absolute(&target_dir)
        .map_err(|error| BuildError::io("cannot find the target directory", &target_dir, error))
}

/// Whose target directory a plugin in Python uses: that of the workspace around it, else its own.
fn python_root(dir: &Path) -> PathBuf {
    let workspace = dir.ancestors().skip(1).find(|above| above.join("Cargo.toml").is_file());
    workspace.unwrap_or(dir).to_owned()
}

/// A component becomes an artifact.
fn finish(name: String, dir: &Path, component: &[u8], begun: Instant) -> Result<Built, BuildError> {
    let inspection =
        inspect(component).map_err(|error| BuildError::Component { name: name.clone(), message: error.to_string() })?;
    let file = dir.join(format!("{name}.wasm"));
    component::write(&file, component).map_err(|error| BuildError::io("cannot write", &file, error))?;
    Ok(Built { name, file, inspection, seconds: seconds(begun.elapsed()) })
}

fn build_workspace(
    workspace: &Workspace,
    target_dir: &Path,
    toolchain: &Toolchain,
    flags: &[&str],
) -> Result<Vec<Built>, BuildError> {
    let begun = Instant::now();
    let modules = workspace.build(toolchain, target_dir, flags)?;
    let make = |(package, module): (cargo::Package, Vec<u8>)| {
        let refused = |message: String| BuildError::Component { name: package.name.clone(), message };
        let component = component::encode(&module).map_err(refused)?;
        let dir = package.manifest.parent().unwrap_or(Path::new("."));
        let name = dir.file_name().map_or_else(|| package.name.clone(), |name| name.to_string_lossy().into_owned());
        finish(name, dir, &component, begun)
    };
    modules.into_iter().map(make).collect()
}

/// Why there is no artifact to run.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ArtifactProblem {
    /// It was never built.
    #[error("{}; `{}` makes it", self.found(), self.build_command())]
    Missing {
        /// The artifact.
        file: PathBuf,
        /// The plugin's directory.
        dir: PathBuf,
    },
    /// It was built from other sources.
    #[error("{}; `{}` makes it anew", self.found(), self.build_command())]
    Stale {
        /// The artifact.
        file: PathBuf,
        /// What changed since.
        source_file: PathBuf,
        /// The plugin's directory.
        dir: PathBuf,
    },
}

impl ArtifactProblem {
    /// The command that makes it.
    #[must_use]
    pub fn build_command(&self) -> String {
        let (Self::Missing { dir, .. } | Self::Stale { dir, .. }) = self;
        format!("pelton plugin build {}", argument(dir))
    }

    /// What was found, without what to do about it.
    #[must_use]
    pub fn found(&self) -> String {
        match self {
            Self::Missing { file, .. } => format!("{} is not there", shown(file).display()),
            Self::Stale { file, source_file, .. } => {
                format!("{} is older than {}", shown(file).display(), shown(source_file).display())
            }
        }
    }
}

/// The artifact of a plugin's directory, `DIR/<directory's name>.wasm`, no older than its sources.
///
/// # Errors
/// Where it has to be built first.
pub fn artifact(dir: &Path) -> Result<PathBuf, ArtifactProblem> {
    let name = dir.file_name().unwrap_or_default();
    let file = dir.join(name).with_added_extension("wasm");
    let modified = |file: &Path| std::fs::metadata(file).and_then(|metadata| metadata.modified()).ok();
    let dir = dir.to_owned();
    let Some(built) = modified(&file) else { return Err(ArtifactProblem::Missing { file, dir }) };
    match sources(&dir).into_iter().find(|source| modified(source).is_some_and(|changed| changed > built)) {
        Some(source_file) => Err(ArtifactProblem::Stale { file, source_file, dir }),
        None => Ok(file),
    }
}

/// Why an artifact that is there does not hold what its sources say; none where it has none, as one that was copied from
/// elsewhere.
#[must_use]
pub fn staleness(file: &Path) -> Option<ArtifactProblem> {
    let file = file.canonicalize().ok()?;
    artifact(file.parent()?)
        .err()
        .filter(|problem| matches!(problem, ArtifactProblem::Stale { file: of, .. } if *of == file))
}

/// `Cargo.toml`, `build.rs` and all below `src/`, or the modules beside a `plugin.py`; a component that was built elsewhere
/// has none.
fn sources(dir: &Path) -> Vec<PathBuf> {
    if dir.join(python::PLUGIN_FILE).is_file() {
        return python::modules(dir);
    }
    let mut files = vec![dir.join("Cargo.toml"), dir.join("build.rs")];
    let mut dirs = vec![dir.join("src")];
    while let Some(dir) = dirs.pop() {
        for entry in std::fs::read_dir(&dir).into_iter().flatten().flatten() {
            let path = entry.path();
            if entry.file_type().is_ok_and(|kind| kind.is_dir()) { dirs.push(path) } else { files.push(path) }
        }
    }
    files.sort();
    files
}

/// Where goes what is made on the way, unless it is told: `$PELTON_GUEST_TARGET_DIR`; in a project (a directory with a
/// `pelton.yaml`) its `.pelton/target`, which all its plugins share; else the workspace's `target/wasm`.
#[must_use]
pub fn default_target_dir(workspace_root: &Path) -> PathBuf {
    if let Some(dir) = std::env::var_os(TARGET_DIR_VARIABLE).filter(|dir| !dir.is_empty()) {
        return PathBuf::from(dir);
    }
    match workspace_root.ancestors().find(|dir| dir.join("pelton.yaml").is_file()) {
        Some(project) => project.join(".pelton/target"),
        None => workspace_root.join("target/wasm"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_directory_without_crates_is_refused_with_advice() {
        let dir = tempfile::tempdir().expect("a directory");
        let text = plugins_of(dir.path()).expect_err("nothing there").to_string();
        assert!(text.contains("pelton plugin new"), "{text}");
    }

    #[test]
    fn plugins_directly_below_are_found_in_order() {
        let dir = tempfile::tempdir().expect("a directory");
        for name in ["b", "a", "target", "python"] {
            std::fs::create_dir(dir.path().join(name)).expect("a directory");
        }
        let write = |file: &str| std::fs::write(dir.path().join(file), "").expect("a file");
        for file in ["b/Cargo.toml", "a/Cargo.toml", "python/plugin.py"] {
            write(file);
        }
        let below = |names: &[&str]| names.iter().map(|name| dir.path().join(name)).collect::<Vec<_>>();
        let found = plugins_of(dir.path()).expect("three");
        assert_eq!((found.crates, found.python), (below(&["a", "b"]), below(&["python"])));
        // A workspace knows its members; what is Python it does not know.
        write("Cargo.toml");
        let found = plugins_of(dir.path()).expect("a workspace");
        assert_eq!((found.crates, found.python), (vec![dir.path().to_owned()], below(&["python"])));
        assert_eq!(python_root(&dir.path().join("python")), dir.path());
        write("python/Cargo.toml");
        let text = plugins_of(dir.path()).expect_err("which?").to_string();
        assert!(text.contains("python: there is a Cargo.toml and a plugin.py here"), "{text}");
    }

    #[test]
    fn an_artifact_is_missing_stale_or_fit() {
        let root = tempfile::tempdir().expect("a directory");
        let dir = root.path().join("hello.v2");
        std::fs::create_dir_all(dir.join("src/deep")).expect("a directory");
        let source = dir.join("src/deep/part.rs");
        std::fs::write(&source, "").expect("written");
        let file = dir.join("hello.v2.wasm");
        assert_eq!(artifact(&dir), Err(ArtifactProblem::Missing { file: file.clone(), dir: dir.clone() }));
        std::fs::write(&file, "").expect("written");
        let built = std::fs::metadata(&file).and_then(|metadata| metadata.modified()).expect("a time");
        let touch = |seconds: i64| {
            let time = if seconds < 0 {
                built - std::time::Duration::from_secs(seconds.unsigned_abs())
            } else {
                built + std::time::Duration::from_secs(seconds.unsigned_abs())
            };
            let opened = std::fs::File::options().append(true).open(&source).expect("opened");
            opened.set_modified(time).expect("touched");
        };
        touch(-1);
        assert_eq!(artifact(&dir), Ok(file.clone()));
        touch(1);
        let stale = ArtifactProblem::Stale { file: file.clone(), source_file: source.clone(), dir: dir.clone() };
        assert_eq!(artifact(&dir), Err(stale));
        assert!(matches!(staleness(&file), Some(ArtifactProblem::Stale { .. })));
        let copy = dir.join("src/hello.wasm");
        std::fs::copy(&file, &copy).expect("copied");
        assert_eq!(staleness(&copy), None, "it has no sources of its own");
        std::fs::remove_file(copy).expect("removed");
        touch(-1);
        assert_eq!(staleness(&file), None);
    }
}
