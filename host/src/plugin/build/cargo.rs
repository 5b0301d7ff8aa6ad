//! Cargo, driven the same way everywhere: one profile, one linker, paths of the machine taken out.
//!
//! In: a directory, a toolchain. Out: the linked core modules. What cargo and the compiler have to say goes to standard
//! error as it comes.

use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::io::{BufRead as _, BufReader, Write as _};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use serde::Deserialize;

use super::toolchain::{Std, TARGET};
use super::{BuildError, Toolchain};

/// The one profile of plugins. Unlike a manifest, the environment cannot be overridden by the plugin's crate.
const PROFILE: [(&str, &str); 9] = [
    ("CARGO_PROFILE_RELEASE_OPT_LEVEL", "3"),
    ("CARGO_PROFILE_RELEASE_LTO", "fat"),
    ("CARGO_PROFILE_RELEASE_CODEGEN_UNITS", "1"),
    ("CARGO_PROFILE_RELEASE_PANIC", "abort"),
    ("CARGO_PROFILE_RELEASE_DEBUG", "none"),
    ("CARGO_PROFILE_RELEASE_STRIP", "none"),
    ("CARGO_PROFILE_RELEASE_INCREMENTAL", "false"),
    ("CARGO_PROFILE_RELEASE_DEBUG_ASSERTIONS", "false"),
    ("CARGO_PROFILE_RELEASE_OVERFLOW_CHECKS", "false"),
];

/// A Cargo workspace, and the plugins in it that are to be built.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Workspace {
    pub(super) root: PathBuf,
    pub(super) plugins: Vec<Package>,
}

/// A package that makes a plugin.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Package {
    pub(super) name: String,
    pub(super) manifest: PathBuf,
    /// The library's name: what its file is called.
    library: String,
    /// Dependencies that are given by path.
    dependencies: Vec<PathDependency>,
}

/// A dependency that is given by path.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
struct PathDependency {
    path: PathBuf,
    name: String,
}

#[derive(Debug, Deserialize)]
struct Metadata {
    packages: Vec<MetadataPackage>,
    workspace_root: PathBuf,
}

#[derive(Debug, Deserialize)]
struct MetadataPackage {
    name: String,
    manifest_path: PathBuf,
    targets: Vec<MetadataTarget>,
    dependencies: Vec<MetadataDependency>,
}

#[derive(Debug, Deserialize)]
struct MetadataTarget {
    name: String,
    crate_types: Vec<String>,
}

#[derive(Debug, Deserialize)]
struct MetadataDependency {
    name: String,
    path: Option<PathBuf>,
}

#[derive(Debug, Deserialize)]
struct Message {
    reason: String,
    manifest_path: Option<PathBuf>,
    #[serde(default)]
    filenames: Vec<PathBuf>,
}

impl Workspace {
    /// The plugins of a directory with a `Cargo.toml`: its package, or, where it has none, its workspace's members.
    pub(super) fn read(dir: &Path, toolchain: &Toolchain) -> Result<Self, BuildError> {
        let manifest = dir.join("Cargo.toml");
        let output = Command::new(&toolchain.cargo)
            .args(["metadata", "--format-version=1", "--no-deps", "--manifest-path"])
            .arg(&manifest)
            .current_dir(dir)
            .stdin(Stdio::null())
            .output()
            .map_err(|error| BuildError::io("cargo cannot be run", &toolchain.cargo, error))?;
        if !output.status.success() {
            let message = String::from_utf8_lossy(&output.stderr).trim().to_owned();
            return Err(BuildError::Manifest { manifest, message });
        }
        let metadata: Metadata = serde_json::from_slice(&output.stdout)
            .map_err(|error| BuildError::Manifest { manifest: manifest.clone(), message: error.to_string() })?;
        let own = metadata.packages.iter().find(|package| package.manifest_path == manifest);
        let plugins: Vec<Package> = match own {
            Some(package) => package.plugin().into_iter().collect(),
            None => metadata.packages.iter().filter_map(MetadataPackage::plugin).collect(),
        };
        if plugins.is_empty() {
            return Err(BuildError::NotAPlugin { manifest });
        }
        Ok(Self { root: metadata.workspace_root, plugins })
    }

    /// Compiles and links every plugin, and gives the module of each.
    pub(super) fn build(
        &self,
        toolchain: &Toolchain,
        target_dir: &Path,
        flags: &[&str],
    ) -> Result<Vec<(Package, Vec<u8>)>, BuildError> {
        let shared = SharedTargetDir::lock(target_dir)?;
        for plugin in &self.plugins {
            shared.claim(plugin)?;
        }
        let files = self.run_cargo(toolchain, target_dir, flags)?;
        let module = |plugin: &Package| {
            let file = files.get(&plugin.manifest).ok_or_else(|| BuildError::NoModule { name: plugin.name.clone() })?;
            let bytes = std::fs::read(file).map_err(|error| BuildError::io("cannot read", file, error))?;
            Ok((plugin.clone(), bytes))
        };
        self.plugins.iter().map(module).collect()
    }

    fn run_cargo(
        &self,
        toolchain: &Toolchain,
        target_dir: &Path,
        flags: &[&str],
    ) -> Result<BTreeMap<PathBuf, PathBuf>, BuildError> {
        let mut cargo = Command::new(&toolchain.cargo);
        forget_inherited_settings(&mut cargo);
        cargo.arg("build").args(["--release", "--lib", "--target", TARGET, "--message-format=json-render-diagnostics"]);
        cargo.arg("--target-dir").arg(target_dir).args(flags).envs(PROFILE);
        toolchain.apply_to(&mut cargo);
        self.take_paths_out(&mut cargo, toolchain);
        for plugin in &self.plugins {
            cargo.arg("--package").arg(&plugin.name);
        }
        // A virtual workspace's manifest, or the package's own: in both cases that of the workspace's root.
        cargo.arg("--manifest-path").arg(self.root.join("Cargo.toml")).current_dir(&self.root);
        cargo.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::inherit());
        let mut child =
            cargo.spawn().map_err(|error| BuildError::io("cargo cannot be run", &toolchain.cargo, error))?;
        let mut files = BTreeMap::new();
        let output = child.stdout.take().expect("it was asked for");
        for line in BufReader::new(output).lines() {
            let line = line.map_err(|error| BuildError::io("cannot read the output of", &toolchain.cargo, error))?;
            let Ok(message) = serde_json::from_str::<Message>(&line) else { continue };
            let module = message.filenames.into_iter().find(|file| file.extension() == Some(OsStr::new("wasm")));
            if let ("compiler-artifact", Some(manifest), Some(module)) =
                (message.reason.as_str(), message.manifest_path, module)
            {
                files.insert(manifest, module);
            }
        }
        let status = child.wait().map_err(|error| BuildError::io("cannot wait for", &toolchain.cargo, error))?;
        if !status.success() {
            return Err(BuildError::Cargo { root: self.root.clone(), status: status.to_string() });
        }
        Ok(files)
    }

    /// Has the compiler write down no path of this machine. Flags for all crates are the same for all plugins of a machine
    /// where the standard library is built: other flags would mean another build of it.
    fn take_paths_out(&self, cargo: &mut Command, toolchain: &Toolchain) {
        let home = std::env::var_os("HOME").filter(|home| home.len() > 1);
        let cargo_home = std::env::var_os("CARGO_HOME")
            .or_else(|| home.as_ref().map(|home| Path::new(home).join(".cargo").into_os_string()));
        // The last that fits is taken.
        let mut flags: Vec<OsString> = home.iter().map(|home| remap(home, "/home")).collect();
        for dependency in self.dependencies_elsewhere(home.as_deref()) {
            let flag = remap(dependency.path.as_os_str(), "/dependencies");
            match (toolchain.std, flag.to_str()) {
                (Std::FromSource, Some(text)) => {
                    let own_flags = format!("profile.release.package.{}.rustflags=[{text:?}]", dependency.name);
                    cargo.arg("-Zprofile-rustflags").arg("--config").arg(own_flags);
                }
                _ => flags.push(flag),
            }
        }
        flags.extend(cargo_home.map(|cargo_home| remap(&cargo_home, "/cargo")));
        flags.extend(toolchain.library_sources().iter().map(|source| remap(source, "/rust")));
        cargo.env("CARGO_ENCODED_RUSTFLAGS", flags.join(OsStr::new("\u{1f}")));
    }

    /// Dependencies by path that neither the workspace (whose paths are relative) nor the home covers.
    fn dependencies_elsewhere(&self, home: Option<&OsStr>) -> Vec<PathDependency> {
        let is_elsewhere =
            |path: &Path| !path.starts_with(&self.root) && home.is_none_or(|home| !path.starts_with(home));
        let mut elsewhere: Vec<PathDependency> = self
            .plugins
            .iter()
            .flat_map(|plugin| &plugin.dependencies)
            .filter(|dependency| is_elsewhere(&dependency.path))
            .cloned()
            .collect();
        elsewhere.sort();
        elsewhere.dedup();
        elsewhere
    }
}

fn remap(from: &OsStr, to: &str) -> OsString {
    let mut flag = OsString::from("--remap-path-prefix=");
    flag.push(from);
    flag.push("=");
    flag.push(to);
    flag
}

impl MetadataPackage {
    fn plugin(&self) -> Option<Package> {
        let library =
            self.targets.iter().find(|target| target.crate_types.iter().any(|kind| kind == "cdylib"))?.name.clone();
        Some(Package {
            name: self.name.clone(),
            manifest: self.manifest_path.clone(),
            library: library.replace('-', "_"),
            dependencies: self.dependencies.iter().filter_map(MetadataDependency::by_path).collect(),
        })
    }
}

impl MetadataDependency {
    fn by_path(&self) -> Option<PathDependency> {
        Some(PathDependency { path: self.path.clone()?, name: self.name.clone() })
    }
}

/// Settings that somebody made for other builds must not reach this one. Where to find crates, and how many jobs to
/// run, stay.
fn forget_inherited_settings(cargo: &mut Command) {
    let foreign = |name: &str| {
        let build = name.starts_with("CARGO_BUILD_") && name != "CARGO_BUILD_JOBS";
        let prefixed = ["CARGO_PROFILE_", "CARGO_TARGET_", "CARGO_UNSTABLE_", "CARGO_PKG_", "CARGO_BIN_"];
        build
            || prefixed.iter().any(|prefix| name.starts_with(prefix))
            || ["RUSTFLAGS", "CARGO_ENCODED_RUSTFLAGS", "CARGO_INCREMENTAL", "RUSTC", "RUSTC_BOOTSTRAP"].contains(&name)
    };
    for (name, _) in std::env::vars_os() {
        if name.to_str().is_some_and(foreign) {
            cargo.env_remove(name);
        }
    }
}

/// Whether somebody has built the libraries of plugins into a target directory: what takes minutes is done.
pub(super) fn holds_libraries(target_dir: &Path) -> bool {
    let entries = std::fs::read_dir(target_dir.join(TARGET).join("release/deps"));
    entries.into_iter().flatten().flatten().any(|entry| entry.path().extension() == Some(OsStr::new("rlib")))
}

/// A target directory that several workspaces may use, one after the other.
///
/// Cargo names a plugin's module after its library alone: of two workspaces with a library of the same name in one
/// target directory, one would silently get the other's module. So the last user is written down, and another's module
/// is removed.
struct SharedTargetDir {
    notes: PathBuf,
    modules: PathBuf,
    _lock: std::fs::File,
}

impl SharedTargetDir {
    fn lock(target_dir: &Path) -> Result<Self, BuildError> {
        let notes = target_dir.join("pelton");
        std::fs::create_dir_all(&notes).map_err(|error| BuildError::io("cannot create", &notes, error))?;
        // Cargo's own way to keep a directory out of backups and searches.
        let tag = target_dir.join("CACHEDIR.TAG");
        if !tag.exists() {
            let text = "Signature: 8a477f597d28d172789f06886806bc55\n# Build output of plugins.\n";
            std::fs::write(&tag, text).map_err(|error| BuildError::io("cannot write", &tag, error))?;
        }
        let file = notes.join("lock");
        let lock = std::fs::File::create(&file).map_err(|error| BuildError::io("cannot create", &file, error))?;
        lock.lock().map_err(|error| BuildError::io("cannot lock", &file, error))?;
        Ok(Self { notes, modules: target_dir.join(TARGET).join("release/deps"), _lock: lock })
    }

    fn claim(&self, plugin: &Package) -> Result<(), BuildError> {
        let note = self.notes.join(&plugin.library);
        let owner = plugin.manifest.as_os_str().as_encoded_bytes();
        if std::fs::read(&note).is_ok_and(|last| last == owner) {
            return Ok(());
        }
        let module = self.modules.join(format!("{}.wasm", plugin.library));
        match std::fs::remove_file(&module) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                return Err(BuildError::io("cannot remove", &module, error));
            }
            _ => {}
        }
        std::fs::File::create(&note)
            .and_then(|mut file| file.write_all(owner))
            .map_err(|error| BuildError::io("cannot write", &note, error))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn package(manifest: &str) -> Package {
        Package {
            name: "p".to_owned(),
            manifest: PathBuf::from(manifest),
            library: "p".to_owned(),
            dependencies: Vec::new(),
        }
    }

    #[test]
    fn a_module_of_another_workspace_is_not_taken_for_ones_own() {
        let dir = tempfile::tempdir().expect("a directory");
        let module = dir.path().join(TARGET).join("release/deps/p.wasm");
        std::fs::create_dir_all(module.parent().expect("a parent")).expect("a directory");
        let claim = |manifest: &str| {
            let shared = SharedTargetDir::lock(dir.path()).expect("locked");
            shared.claim(&package(manifest)).expect("claimed");
        };
        claim("/a/Cargo.toml");
        std::fs::write(&module, "of a").expect("written");
        claim("/a/Cargo.toml");
        assert!(module.exists(), "one's own module is kept");
        claim("/b/Cargo.toml");
        assert!(!module.exists(), "another's is removed");
    }

    #[test]
    fn a_first_build_is_one_without_libraries() {
        let dir = tempfile::tempdir().expect("a directory");
        assert!(!holds_libraries(dir.path()));
        let libraries = dir.path().join(TARGET).join("release/deps");
        std::fs::create_dir_all(&libraries).expect("a directory");
        std::fs::write(libraries.join("p.wasm"), "").expect("written");
        assert!(!holds_libraries(dir.path()));
        std::fs::write(libraries.join("libcore-1.rlib"), "").expect("written");
        assert!(holds_libraries(dir.path()));
    }

    #[test]
    fn paths_of_dependencies_outside_of_workspace_and_home_are_taken_out() {
        let mut plugin = package("/src/p/Cargo.toml");
        let dependency = |path: &str| PathDependency { path: PathBuf::from(path), name: "sdk".to_owned() };
        plugin.dependencies = ["/src/p/inner", "/opt/sdk", "/home/me/sdk", "/opt/sdk"].map(dependency).to_vec();
        let workspace = Workspace { root: PathBuf::from("/src/p"), plugins: vec![plugin] };
        assert_eq!(workspace.dependencies_elsewhere(Some(OsStr::new("/home/me"))), [dependency("/opt/sdk")]);
    }
}
