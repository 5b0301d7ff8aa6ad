//! The Python of this machine, and the tool that makes components of Python.
//!
//! In: directories to look in, a target directory. Out: a Python that is new enough, and componentize-py of the one version
//! that this host knows: from the path, else in a virtual environment in the target directory, made at the first build.
//! The environment has its name only from the moment that it is whole, and one build at a time makes it.

use std::fmt;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use super::super::BuildError;
use super::super::toolchain::Places;
use crate::shell::argument;

/// The one version: another makes other components.
const VERSION: &str = "0.25.1";
/// What makes components of Python.
pub(in super::super) const TOOL: &str = "componentize-py 0.25.1";
/// As pip knows it.
pub(super) const PACKAGE: &str = "componentize-py==0.25.1";
/// The oldest Python that the SDK can be read by.
const OLDEST: (u32, u32) = (3, 10);
/// Starts the tool: its own script has a path of the machine in its first line, which may be too long for the kernel.
const START: &str = "import sys; from componentize_py import script; sys.exit(script())";

/// A Python of this machine.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct Python {
    /// The interpreter.
    pub program: PathBuf,
    /// Its version: `3.11.2`.
    pub version: String,
    /// componentize-py, where it is on the path in the right version.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub componentize_py: Option<PathBuf>,
}

impl fmt::Display for Python {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.componentize_py {
            Some(tool) => write!(f, "{} ({VERSION})", tool.display())?,
            None => write!(f, "{TOOL} in a virtual environment of its own")?,
        }
        write!(f, ", and checking with {} ({})", self.program.display(), self.version)
    }
}

/// No Python on this machine is of use.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NoPython {
    /// Each that was found, and what is wrong with it.
    pub looked_at: Vec<(PathBuf, String)>,
}

impl std::error::Error for NoPython {}

impl fmt::Display for NoPython {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "no Python here can build plugins: {}.{} or later is needed", OLDEST.0, OLDEST.1)?;
        if self.looked_at.is_empty() {
            writeln!(f, "  no python3 was found: $PYTHON, the path and /usr/bin were looked through")?;
        }
        for (program, problem) in &self.looked_at {
            writeln!(f, "  {}: {problem}", program.display())?;
        }
        write!(
            f,
            "One of these gives you one:\n  apt-get install python3 python3-venv   (Debian)\n  brew install python   (macOS)"
        )
    }
}

/// Finds the Python to use: `$PYTHON`, else the first `python3` that is new enough.
///
/// # Errors
/// Where there is none, with what is wrong with each.
pub fn find(places: &Places) -> Result<Python, NoPython> {
    let asked = std::env::var_os("PYTHON").filter(|program| !program.is_empty()).map(PathBuf::from);
    let candidates = asked.into_iter().chain(places.programs.iter().map(|dir| dir.join("python3")));
    let mut looked_at = Vec::new();
    for program in candidates.filter(|program| program.is_file()) {
        match version_of(&program) {
            Ok((number, version)) if number >= OLDEST => {
                let componentize_py = places.program("componentize-py").filter(|tool| is_pinned(tool));
                return Ok(Python { program, version, componentize_py });
            }
            Ok((_, version)) => looked_at.push((program, format!("it is version {version}"))),
            Err(problem) => looked_at.push((program, problem)),
        }
    }
    Err(NoPython { looked_at })
}

fn version_of(program: &Path) -> Result<((u32, u32), String), String> {
    let output = Command::new(program)
        .args(["-I", "-c", "import platform; print(platform.python_version())"])
        .stdin(Stdio::null())
        .output()
        .map_err(|error| format!("it cannot be run: {error}"))?;
    let version = String::from_utf8_lossy(&output.stdout).trim().to_owned();
    let mut numbers = version.split('.').map(|number| number.parse::<u32>().unwrap_or(0));
    match (numbers.next(), numbers.next()) {
        (Some(major), Some(minor)) if output.status.success() => Ok(((major, minor), version)),
        _ => Err(format!("it does not tell its version: {}", String::from_utf8_lossy(&output.stderr).trim())),
    }
}

fn is_pinned(tool: &Path) -> bool {
    let output = Command::new(tool).arg("--version").stdin(Stdio::null()).output();
    output.is_ok_and(|output| String::from_utf8_lossy(&output.stdout).trim() == TOOL)
}

/// componentize-py, ready to run.
#[derive(Debug)]
pub(super) struct Tool {
    /// A Python that has it among its packages, or the tool itself.
    pub(super) python: PathBuf,
    is_package: bool,
}

impl Tool {
    /// The tool: from the path, from the target directory, or fetched into it.
    pub(super) fn get(
        target_dir: &Path,
        python: &Python,
        offline: bool,
        first_build: &mut dyn FnMut(&Path),
    ) -> Result<Self, BuildError> {
        if let Some(tool) = &python.componentize_py {
            return Ok(Self { python: tool.clone(), is_package: false });
        }
        let venv = target_dir.join(format!("componentize-py-{VERSION}"));
        let lock_file = venv.with_added_extension("lock");
        let lock = File::create(&lock_file).map_err(|error| BuildError::io("cannot create", &lock_file, error))?;
        lock.lock().map_err(|error| BuildError::io("cannot lock", &lock_file, error))?;
        let tool = Self { python: venv.join("bin/python"), is_package: true };
        let is_whole = venv.join("whole");
        if is_whole.exists() && tool.starts() {
            return Ok(tool);
        }
        if offline {
            return Err(BuildError::PythonTool {
                message: format!("it is not in {}, and --offline was said", target_dir.display()),
                remedy: "build once without --offline".to_owned(),
            });
        }
        first_build(target_dir);
        install(&venv, python)?;
        std::fs::write(&is_whole, VERSION).map_err(|error| BuildError::io("cannot write", &is_whole, error))?;
        Ok(tool)
    }

    /// Whether the environment's Python is still there, and finds it.
    fn starts(&self) -> bool {
        self.command().arg("--version").stdin(Stdio::null()).output().is_ok_and(|output| output.status.success())
    }

    pub(super) fn command(&self) -> Command {
        let mut command = Command::new(&self.python);
        if self.is_package {
            command.args(["-I", "-B", "-c", START]);
        }
        command
    }
}

fn install(venv: &Path, python: &Python) -> Result<(), BuildError> {
    if venv.exists() {
        std::fs::remove_dir_all(venv).map_err(|error| BuildError::io("cannot remove", venv, error))?;
    }
    let program = argument(&python.program);
    run(Command::new(&python.program).args(["-I", "-m", "venv"]).arg(venv), || {
        format!("{program} needs its modules venv and pip: apt-get install python3-venv   (Debian)")
    })?;
    run(
        Command::new(venv.join("bin/python")).args(["-m", "pip", "install", "--quiet"]).args(PIP_OPTIONS).arg(PACKAGE),
        || {
            "see that pip reaches a package index (pip's own settings hold), or put componentize-py of this version on the path"
            .to_owned()
        },
    )
}

const PIP_OPTIONS: [&str; 2] = ["--disable-pip-version-check", "--no-input"];

fn run(command: &mut Command, remedy: impl Fn() -> String) -> Result<(), BuildError> {
    let output = command.stdin(Stdio::null()).output();
    let message = match output {
        Ok(output) if output.status.success() => return Ok(()),
        Ok(output) => {
            let said = [output.stdout, output.stderr].concat();
            String::from_utf8_lossy(&said).trim().to_owned()
        }
        Err(error) => error.to_string(),
    };
    Err(BuildError::PythonTool { message, remedy: remedy() })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt as _;

    /// A directory with programs that say something.
    fn machine(programs: &[(&str, &str)]) -> (tempfile::TempDir, Places) {
        let dir = tempfile::tempdir().expect("a directory");
        for (name, script) in programs {
            let file = dir.path().join(name);
            std::fs::create_dir_all(file.parent().expect("a parent")).expect("a directory");
            std::fs::write(&file, format!("#!/bin/sh\n{script}\n")).expect("a file");
            std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o755)).expect("executable");
        }
        let programs = vec![dir.path().join("a"), dir.path().join("b")];
        (dir, Places { rustc: Vec::new(), programs })
    }

    #[test]
    fn the_first_python_that_is_new_enough_is_taken() {
        let (dir, places) = machine(&[
            ("a/python3", "echo 3.9.2"),
            ("b/python3", "echo 3.14.0rc1"),
            ("b/componentize-py", "echo componentize-py 0.25.0"),
        ]);
        let python = find(&places).expect("a Python");
        assert_eq!((python.program, python.version.as_str()), (dir.path().join("b/python3"), "3.14.0rc1"));
        assert_eq!(python.componentize_py, None, "it is another version");
    }

    #[test]
    fn the_tool_on_the_path_is_used_in_its_one_version() {
        let said = format!("echo componentize-py {VERSION}");
        let (dir, places) = machine(&[("a/python3", "echo 3.12.1"), ("b/componentize-py", &said)]);
        let python = find(&places).expect("a Python");
        assert_eq!(python.componentize_py, Some(dir.path().join("b/componentize-py")));
        assert!(PACKAGE.ends_with(VERSION) && TOOL.ends_with(VERSION));
        let tool = Tool::get(dir.path(), &python, true, &mut |_| panic!("nothing is fetched")).expect("it is there");
        assert_eq!(tool.python, dir.path().join("b/componentize-py"));
    }

    #[test]
    fn what_is_missing_is_said_with_its_remedy() {
        let (_dir, places) = machine(&[("a/python3", "echo 3.9.2"), ("b/python3", "echo broken >&2; exit 1")]);
        let text = find(&places).expect_err("nothing fits").to_string();
        for part in
            ["3.10 or later", "a/python3: it is version 3.9.2", "b/python3: it does not tell its version: broken"]
        {
            assert!(text.contains(part), "{part:?} is not in\n{text}");
        }
        let text = find(&Places::default()).expect_err("there is nothing").to_string();
        assert!(
            text.contains("no python3 was found") && text.contains("apt-get install python3 python3-venv"),
            "{text}"
        );
    }

    #[test]
    fn a_python_without_venv_is_told_what_it_lacks() {
        let (dir, places) = machine(&[(
            "a/python3",
            "case \"$*\" in *venv*) echo No module named venv >&2; exit 1 ;; esac; echo 3.12.1",
        )]);
        let python = find(&places).expect("a Python");
        let error = Tool::get(dir.path(), &python, false, &mut |_| {}).expect_err("it cannot be fetched").to_string();
        assert!(error.contains("No module named venv") && error.contains("python3-venv"), "{error}");
        let error = Tool::get(dir.path(), &python, true, &mut |_| {}).expect_err("nothing is fetched").to_string();
        assert!(error.contains("--offline"), "{error}");
    }
}
