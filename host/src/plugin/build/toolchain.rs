//! Which compiler makes plugins on this machine?
//!
//! In: the places where compilers and linkers usually lie. Out: a [`Toolchain`] that can compile for
//! `wasm32-unknown-unknown`, or what was looked at, what each lacks, and what to install. Everything is checked before
//! anything is built: cargo alone would find out only after it has compiled half of the dependencies.

use std::collections::BTreeSet;
use std::ffi::OsString;
use std::fmt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// What plugins are compiled for.
pub const TARGET: &str = "wasm32-unknown-unknown";

/// The oldest compiler that knows the SDK's edition, as major and minor version.
const OLDEST: (u32, u32) = (1, 85);

/// A compiler that can make plugins.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct Toolchain {
    /// The compiler.
    pub rustc: PathBuf,
    /// Its version: `1.96.0`.
    pub version: String,
    /// The cargo that drives it.
    pub cargo: PathBuf,
    /// Where the standard library for the target comes from.
    pub std: Std,
    /// The linker, where the compiler does not bring its own.
    pub linker: Option<PathBuf>,
    /// The compiler's own directory.
    pub sysroot: PathBuf,
}

/// Where the standard library for the target comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Std {
    /// It is installed.
    Installed,
    /// It is built from the source that is installed with the compiler.
    FromSource,
}

impl fmt::Display for Toolchain {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let std = match self.std {
            Std::Installed => "its installed standard library",
            Std::FromSource => "a standard library built from its source",
        };
        write!(f, "{} ({}), with {std}", self.rustc.display(), self.version)?;
        match &self.linker {
            Some(linker) => write!(f, ", linked by {}", linker.display()),
            None => f.write_str(", linked by its own rust-lld"),
        }
    }
}

/// Where to look.
#[derive(Debug, Clone, Default)]
pub struct Places {
    /// Compilers, the first that can do it is taken; those that do not exist are passed over.
    pub rustc: Vec<PathBuf>,
    /// Directories of programs, in order.
    pub programs: Vec<PathBuf>,
}

impl Places {
    /// `$RUSTC`, the `rustc` on the path, `/usr/bin/rustc`; programs on the path, then where distributions put LLVM's.
    #[must_use]
    pub fn of_this_machine() -> Self {
        let path = std::env::var_os("PATH").unwrap_or_default();
        let mut programs: Vec<PathBuf> = std::env::split_paths(&path).filter(|dir| dir.is_absolute()).collect();
        programs.push(PathBuf::from("/usr/bin"));
        programs.extend(llvm_directories());
        let mut rustc: Vec<PathBuf> = std::env::var_os("RUSTC").map(PathBuf::from).into_iter().collect();
        rustc.extend(programs.iter().map(|dir| dir.join("rustc")));
        Self { rustc, programs }
    }

    /// The first program of this name.
    pub(super) fn program(&self, name: &str) -> Option<PathBuf> {
        self.programs.iter().map(|dir| dir.join(name)).find(|file| file.is_file())
    }
}

/// `/usr/lib/llvm-22/bin` and its like, newest first.
fn llvm_directories() -> Vec<PathBuf> {
    let Ok(entries) = std::fs::read_dir("/usr/lib") else { return Vec::new() };
    let mut versions: Vec<(u32, PathBuf)> = entries
        .flatten()
        .filter_map(|entry| {
            let version = entry.file_name().to_str()?.strip_prefix("llvm-")?.parse().ok()?;
            Some((version, entry.path().join("bin")))
        })
        .collect();
    versions.sort_by_key(|(version, _)| std::cmp::Reverse(*version));
    versions.into_iter().map(|(_, dir)| dir).collect()
}

/// No compiler on this machine can make plugins.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NoToolchain {
    /// Each compiler that was found, and what it lacks.
    pub looked_at: Vec<(PathBuf, String)>,
}

impl std::error::Error for NoToolchain {}

impl fmt::Display for NoToolchain {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "no Rust compiler here can make plugins (target {TARGET})")?;
        if self.looked_at.is_empty() {
            writeln!(f, "  no rustc was found: $RUSTC, the path and /usr/bin were looked through")?;
        }
        for (rustc, lacks) in &self.looked_at {
            writeln!(f, "  {}: {lacks}", rustc.display())?;
        }
        writeln!(f, "One of these gives you one:")?;
        writeln!(f, "  rustup target add {TARGET}")?;
        write!(f, "  apt-get install rustc-web cargo-web rust-web-src lld-22   (Debian; not beside its rustc package)")
    }
}

/// Finds the compiler to use: the first with the target installed, else the first with its library's source.
///
/// # Errors
/// Where there is none, with what each lacks.
pub fn find(places: &Places) -> Result<Toolchain, NoToolchain> {
    let mut compilers: Vec<Compiler> = Vec::new();
    let mut looked_at = Vec::new();
    let mut seen = BTreeSet::new();
    for rustc in places.rustc.iter().filter(|rustc| rustc.is_file()) {
        match Compiler::ask(rustc) {
            Ok(compiler) if !seen.insert(compiler.sysroot.clone()) => {}
            Ok(compiler) if compiler.is_too_old() => looked_at
                .push((rustc.clone(), format!("version {} is older than {}.{}", compiler.version, OLDEST.0, OLDEST.1))),
            Ok(compiler) => compilers.push(compiler),
            Err(problem) => looked_at.push((rustc.clone(), problem)),
        }
    }
    for std in [Std::Installed, Std::FromSource] {
        for compiler in compilers.iter().filter(|compiler| compiler.has(std)) {
            match compiler.complete(std, places) {
                Ok(toolchain) => return Ok(toolchain),
                Err(lacks) => looked_at.push((compiler.rustc.clone(), lacks)),
            }
        }
    }
    for compiler in compilers.iter().filter(|compiler| !compiler.has(Std::Installed) && !compiler.has(Std::FromSource))
    {
        looked_at.push((
            compiler.rustc.clone(),
            format!("version {}: neither the target nor the standard library's source is installed", compiler.version),
        ));
    }
    Err(NoToolchain { looked_at })
}

/// A compiler, as it describes itself.
#[derive(Debug)]
struct Compiler {
    rustc: PathBuf,
    version: String,
    sysroot: PathBuf,
    target_libdir: PathBuf,
}

impl Compiler {
    fn ask(rustc: &Path) -> Result<Self, String> {
        let version = answer(rustc, &["--version"])?;
        let version = version.split_whitespace().nth(1).unwrap_or_default().to_owned();
        let sysroot = PathBuf::from(answer(rustc, &["--print", "sysroot"])?);
        // A path is printed even where the target is absent.
        let target_libdir = PathBuf::from(answer(rustc, &["--print", "target-libdir", "--target", TARGET])?);
        Ok(Self { rustc: rustc.to_owned(), version, sysroot, target_libdir })
    }

    fn is_too_old(&self) -> bool {
        let mut numbers = self.version.split('.').map(|number| number.parse::<u32>().unwrap_or(0));
        (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0)) < OLDEST
    }

    fn has(&self, std: Std) -> bool {
        match std {
            Std::Installed => std::fs::read_dir(&self.target_libdir).is_ok_and(|entries| {
                entries.flatten().any(|entry| {
                    let name = entry.file_name().to_string_lossy().into_owned();
                    name.starts_with("libcore-") && name.ends_with(".rlib")
                })
            }),
            Std::FromSource => self.library_source().join("library/Cargo.lock").is_file(),
        }
    }

    fn library_source(&self) -> PathBuf {
        self.sysroot.join("lib/rustlib/src/rust")
    }

    /// Finds cargo and a linker for it.
    fn complete(&self, std: Std, places: &Places) -> Result<Toolchain, String> {
        let beside = self.rustc.with_file_name("cargo");
        let cargo = if beside.is_file() { Some(beside) } else { places.program("cargo") };
        let cargo = cargo.ok_or("there is no cargo beside it or on the path (Debian: cargo-web)")?;
        answer(&cargo, &["--version"])?;
        let linker = if self.brings_linker() {
            None
        } else {
            Some(linker(places).ok_or("it has no linker for WebAssembly, and no wasm-ld was found (Debian: lld-22)")?)
        };
        Ok(Toolchain {
            rustc: self.rustc.clone(),
            version: self.version.clone(),
            cargo,
            std,
            linker,
            sysroot: self.sysroot.clone(),
        })
    }

    fn brings_linker(&self) -> bool {
        std::fs::read_dir(self.sysroot.join("lib/rustlib"))
            .is_ok_and(|entries| entries.flatten().any(|entry| entry.path().join("bin/rust-lld").is_file()))
    }
}

/// `wasm-ld-22`, then any other.
fn linker(places: &Places) -> Option<PathBuf> {
    places.program("wasm-ld-22").or_else(|| places.program("wasm-ld")).or_else(|| {
        let numbered = |dir: &PathBuf| {
            let mut found: Vec<(u32, PathBuf)> = std::fs::read_dir(dir)
                .into_iter()
                .flatten()
                .flatten()
                .filter_map(|entry| {
                    let number = entry.file_name().to_str()?.strip_prefix("wasm-ld-")?.parse().ok()?;
                    Some((number, entry.path()))
                })
                .collect();
            found.sort();
            found.pop()
        };
        places.programs.iter().filter_map(numbered).max().map(|(_, file)| file)
    })
}

/// What a program prints, trimmed.
fn answer(program: &Path, arguments: &[&str]) -> Result<String, String> {
    let output = Command::new(program)
        .args(arguments)
        .stdin(Stdio::null())
        .output()
        .map_err(|error| format!("it cannot be run: {error}"))?;
    if !output.status.success() {
        let line = String::from_utf8_lossy(&output.stderr).lines().next().unwrap_or_default().to_owned();
        return Err(format!("`{}` fails: {line}", arguments.join(" ")));
    }
    Ok(String::from_utf8_lossy(&output.stdout).trim().to_owned())
}

impl Toolchain {
    /// Arguments and environment by which cargo uses this toolchain.
    pub(super) fn apply_to(&self, cargo: &mut Command) {
        cargo.env("RUSTC", &self.rustc);
        if let Some(linker) = &self.linker {
            cargo.env("CARGO_TARGET_WASM32_UNKNOWN_UNKNOWN_LINKER", linker);
        }
        if self.std == Std::FromSource {
            // Building the library is not yet a stable feature of cargo; the library itself is the stable one.
            cargo.env("RUSTC_BOOTSTRAP", "1").arg("-Zbuild-std=std,panic_abort");
        }
    }

    /// Where the standard library's source lies on this machine, by every name that the compiler may write down.
    pub(super) fn library_sources(&self) -> Vec<OsString> {
        let plain = self.sysroot.join("lib/rustlib/src/rust");
        let real = plain.canonicalize().ok().filter(|real| *real != plain);
        std::iter::once(plain).chain(real).map(PathBuf::into_os_string).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt as _;

    /// A machine in a directory.
    struct Machine(tempfile::TempDir);

    impl Machine {
        fn new() -> Self {
            Self(tempfile::tempdir().expect("a directory"))
        }

        fn path(&self, path: &str) -> PathBuf {
            self.0.path().join(path)
        }

        fn file(&self, path: &str, text: &str) -> &Self {
            let path = self.path(path);
            std::fs::create_dir_all(path.parent().expect("a parent")).expect("a directory");
            std::fs::write(&path, text).expect("a file");
            std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).expect("executable");
            self
        }

        /// A compiler in `PREFIX/bin` with its sysroot at `PREFIX`.
        fn rustc(&self, prefix: &str, version: &str) -> &Self {
            let sysroot = self.path(prefix).display().to_string();
            let script = format!(
                "#!/bin/sh\ncase \"$*\" in\n--version) echo 'rustc {version} (abc 2026-01-01)' ;;\n\
                 *target-libdir*) echo {sysroot}/lib/rustlib/{TARGET}/lib ;;\n*sysroot*) echo {sysroot} ;;\nesac\n"
            );
            self.file(&format!("{prefix}/bin/rustc"), &script)
                .file(&format!("{prefix}/bin/cargo"), "#!/bin/sh\necho cargo\n")
        }

        fn find(&self, prefixes: &[&str]) -> Result<Toolchain, NoToolchain> {
            let programs: Vec<PathBuf> = prefixes.iter().map(|prefix| self.path(prefix).join("bin")).collect();
            find(&Places { rustc: programs.iter().map(|dir| dir.join("rustc")).collect(), programs })
        }
    }

    #[test]
    fn an_installed_target_is_preferred_to_building_the_library() {
        let machine = Machine::new();
        machine.rustc("source", "1.96.0").file("source/lib/rustlib/src/rust/library/Cargo.lock", "");
        machine.file("source/bin/wasm-ld-22", "");
        machine.rustc("target", "1.95.0").file("target/lib/rustlib/wasm32-unknown-unknown/lib/libcore-1a.rlib", "");
        machine.file("target/lib/rustlib/x86_64-unknown-linux-gnu/bin/rust-lld", "");
        let toolchain = machine.find(&["source", "target"]).expect("a toolchain");
        assert_eq!((toolchain.std, toolchain.linker.clone()), (Std::Installed, None));
        assert_eq!(toolchain.cargo, machine.path("target/bin/cargo"));
        let sentence = toolchain.to_string();
        assert!(sentence.contains("1.95.0") && sentence.contains("rust-lld"), "{sentence}");
    }

    #[test]
    fn the_library_is_built_where_its_source_and_a_linker_are() {
        let machine = Machine::new();
        machine.rustc("plain", "1.95.0").rustc("source", "1.96.0");
        machine.file("source/lib/rustlib/src/rust/library/Cargo.lock", "").file("source/bin/wasm-ld-19", "");
        machine.file("plain/bin/wasm-ld-21", "");
        let toolchain = machine.find(&["plain", "source"]).expect("a toolchain");
        assert_eq!(toolchain.rustc, machine.path("source/bin/rustc"));
        assert_eq!(toolchain.std, Std::FromSource);
        assert_eq!(toolchain.linker, Some(machine.path("plain/bin/wasm-ld-21")));
    }

    #[test]
    fn what_is_missing_is_said_with_both_remedies() {
        let machine = Machine::new();
        machine.rustc("old", "1.63.0").rustc("bare", "1.95.0").rustc("unlinked", "1.96.0");
        machine.file("unlinked/lib/rustlib/src/rust/library/Cargo.lock", "");
        machine.file("broken/bin/rustc", "#!/bin/sh\necho 'no default toolchain' >&2\nexit 1\n");
        let error = machine.find(&["old", "bare", "unlinked", "broken", "absent"]).expect_err("nothing fits");
        let text = error.to_string();
        for part in [
            "old/bin/rustc: version 1.63.0 is older than 1.85",
            "bare/bin/rustc: version 1.95.0: neither the target nor the standard library's source is installed",
            "unlinked/bin/rustc: it has no linker for WebAssembly",
            "broken/bin/rustc: `--version` fails: no default toolchain",
            "rustup target add wasm32-unknown-unknown",
            "apt-get install rustc-web cargo-web rust-web-src lld-22",
        ] {
            assert!(text.contains(part), "{part:?} is not in:\n{text}");
        }
        assert!(!text.contains("absent"), "{text}");
    }

    #[test]
    fn a_machine_without_rust_is_told_so() {
        let text = find(&Places::default()).expect_err("there is nothing").to_string();
        assert!(text.contains("no rustc was found"), "{text}");
    }
}
