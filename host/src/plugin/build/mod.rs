//! From a Rust crate to a component.
//!
//! In: a directory with a plugin's crate, or with several. Out: `DIR/<directory's name>.wasm` for each, and its
//! description. The same sources give the same bytes on the same toolchain: one profile, one linker, and no paths of
//! the machine inside. Never installs anything, and touches nothing but the target directory and the `.wasm` file.

mod cargo;
mod component;
pub mod toolchain;

use std::path::{Path, PathBuf};

use tokio::time::Instant;

use super::inspect::{Inspection, inspect};
use crate::clock::seconds;
use crate::shell::{argument, shown};
use cargo::Workspace;
pub use toolchain::{NoToolchain, Places, Toolchain};

/// Names a target directory that all plugins of a machine share.
pub const TARGET_DIR_VARIABLE: &str = "PELTON_GUEST_TARGET_DIR";

/// What to build, and how.
#[derive(Debug, Clone, Default)]
pub struct Request {
    /// A plugin's crate, a workspace of them, or a directory of crates.
    pub dir: PathBuf,
    /// Where cargo puts what it makes; see [`default_target_dir`].
    pub target_dir: Option<PathBuf>,
    /// `cargo --locked`
    pub locked: bool,
    /// `cargo --offline`
    pub offline: bool,
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
        "{dir}: there is no Cargo.toml here, nor in a directory below; `pelton plugin new NAME` makes a plugin, and a \
         component that was built elsewhere needs no build"
    )]
    NoCrate {
        /// Where.
        dir: PathBuf,
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

/// Builds every plugin of a directory. `first_build` is told of each target directory that holds nothing yet: building
/// into it takes minutes, and seconds ever after.
///
/// # Errors
/// The first that cannot be built.
pub fn build(
    request: &Request,
    toolchain: &Toolchain,
    mut first_build: impl FnMut(&Path),
) -> Result<Vec<Built>, BuildError> {
    let dir = request.dir.canonicalize().map_err(|error| BuildError::io("cannot read", &request.dir, error))?;
    let mut flags = Vec::new();
    flags.extend(request.locked.then_some("--locked"));
    flags.extend(request.offline.then_some("--offline"));
    let mut built = Vec::new();
    for crate_dir in crates_of(&dir)? {
        let workspace = Workspace::read(&crate_dir, toolchain)?;
        let target_dir = request.target_dir.clone().unwrap_or_else(|| default_target_dir(&workspace.root));
        let target_dir = std::path::absolute(&target_dir)
            .map_err(|error| BuildError::io("cannot find the target directory", &target_dir, error))?;
        if !cargo::holds_libraries(&target_dir) {
            first_build(&target_dir);
        }
        built.extend(build_workspace(&workspace, &target_dir, toolchain, &flags)?);
    }
    Ok(built)
}

/// The directory itself where it has a `Cargo.toml`, else those directly below that have one.
fn crates_of(dir: &Path) -> Result<Vec<PathBuf>, BuildError> {
    let is_crate = |dir: &Path| dir.join("Cargo.toml").is_file();
    if is_crate(dir) {
        return Ok(vec![dir.to_owned()]);
    }
    let entries = std::fs::read_dir(dir).map_err(|error| BuildError::io("cannot read", dir, error))?;
    let mut crates: Vec<PathBuf> = entries.flatten().map(|entry| entry.path()).filter(|dir| is_crate(dir)).collect();
    crates.sort();
    if crates.is_empty() { Err(BuildError::NoCrate { dir: dir.to_owned() }) } else { Ok(crates) }
}

fn build_workspace(
    workspace: &Workspace,
    target_dir: &Path,
    toolchain: &Toolchain,
    flags: &[&str],
) -> Result<Vec<Built>, BuildError> {
    let begun = Instant::now();
    let modules = workspace.build(toolchain, target_dir, flags)?;
    let finish = |(package, module): (cargo::Package, Vec<u8>)| {
        let refused = |message: String| BuildError::Component { name: package.name.clone(), message };
        let component = component::encode(&module).map_err(refused)?;
        let inspection = inspect(&component).map_err(|error| refused(error.to_string()))?;
        let dir = package.manifest.parent().unwrap_or(Path::new("."));
        let name = dir.file_name().map_or_else(|| package.name.clone(), |name| name.to_string_lossy().into_owned());
        let file = dir.join(format!("{name}.wasm"));
        component::write(&file, &component).map_err(|error| BuildError::io("cannot write", &file, error))?;
        Ok(Built { name, file, inspection, seconds: seconds(begun.elapsed()) })
    };
    modules.into_iter().map(finish).collect()
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

/// `Cargo.toml`, `build.rs` and all below `src/`; a component that was built elsewhere has none.
fn sources(dir: &Path) -> Vec<PathBuf> {
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

/// Where cargo puts what it makes, unless it is told: `$PELTON_GUEST_TARGET_DIR`; in a project (a directory with a
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
        let text = crates_of(dir.path()).expect_err("nothing there").to_string();
        assert!(text.contains("pelton plugin new"), "{text}");
    }

    #[test]
    fn crates_directly_below_are_found_in_order() {
        let dir = tempfile::tempdir().expect("a directory");
        for name in ["b", "a", "target"] {
            std::fs::create_dir(dir.path().join(name)).expect("a directory");
        }
        for name in ["b", "a"] {
            std::fs::write(dir.path().join(name).join("Cargo.toml"), "").expect("a file");
        }
        assert_eq!(crates_of(dir.path()).expect("two"), [dir.path().join("a"), dir.path().join("b")]);
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
