//! From a directory with a plugin.py to a component, by componentize-py.
//!
//! In: a plugin's directory, a Python of this machine, a target directory. Out: the component's bytes. The plugin is first
//! imported by the machine's own Python, so that a mistake of its author's is told within a second, with file and line; then
//! a copy of it is built, which imports no more capabilities than its code does, and no WASI. What was built before from the
//! same files is taken from the target directory. Installs nothing outside of the target directory, and of what it makes
//! there only whole files and directories have their names: two builds at once do not meet.

mod sources;
mod tool;

use std::path::Path;
use std::process::{Command, Stdio};

use serde::Deserialize;

use super::BuildError;
use crate::shell::shown;
use sources::Staged;
pub(super) use sources::{PLUGIN_FILE, modules};
pub(super) use tool::TOOL;
use tool::Tool;
pub use tool::{NoPython, Python, find};

/// The SDK: path and content. Made by `build.rs`.
pub(crate) const SDK: &[(&str, &str)] = include!(concat!(env!("OUT_DIR"), "/python_sdk_files.rs"));

/// The interface, but for the world.
const WIT: &[(&str, &str)] = &[
    ("types.wit", include_str!("../../../../../wit/types.wit")),
    ("capabilities.wit", include_str!("../../../../../wit/capabilities.wit")),
];
const WORLD: &str = include_str!("../../../../../wit/world.wit");

/// The module that the tool starts from.
const ENTRY: &str = "import plugin\nfrom pelton_sdk import component\n\nWitWorld = component.exports(plugin)\n";
const ENTRY_MODULE: &str = "pelton_component";

/// What the SDK's `checking` found.
#[derive(Debug, Deserialize)]
struct Checked {
    problem: Option<String>,
    #[serde(default)]
    capabilities: Vec<String>,
}

/// Builds the plugin of a directory. `first_build` is told before the tool is fetched.
///
/// # Errors
/// The author's mistake with its place, what is missing on this machine, or the tool's own words.
pub(super) fn build(
    plugin: &Path,
    target_dir: &Path,
    python: &Python,
    offline: bool,
    first_build: &mut dyn FnMut(&Path),
) -> Result<Vec<u8>, BuildError> {
    std::fs::create_dir_all(target_dir).map_err(|error| BuildError::io("cannot create", target_dir, error))?;
    let staged = Staged::new(plugin, target_dir)?;
    write_all(&staged.dir("sdk"), SDK)?;
    let capabilities = check(plugin, &staged, python)?;
    write_all(&staged.dir("wit"), WIT)?;
    write_all(&staged.dir("wit"), &[("world.wit", &world(&capabilities))])?;
    write_all(&staged.dir("entry"), &[(&format!("{ENTRY_MODULE}.py"), ENTRY)])?;
    let kept = staged.kept_component()?;
    if let Some(component) = kept.read() {
        return Ok(component);
    }
    let tool = Tool::get(target_dir, python, offline, first_build)?;
    let component = componentize(plugin, &staged, &tool)?;
    kept.keep(&component);
    Ok(component)
}

/// Imports the plugin natively; gives the capabilities that its code asks for.
fn check(plugin: &Path, staged: &Staged, python: &Python) -> Result<Vec<String>, BuildError> {
    const CHECK: &str = "import sys; sys.path[:0] = sys.argv[3:]; from pelton_sdk import checking; \
                         checking.main(sys.argv[1], sys.argv[2])";
    let report = staged.path("checked.json");
    let mut command = Command::new(&python.program);
    // Without the packages of this machine, which a component does not have either.
    command.args(["-I", "-S", "-B", "-X", "utf8", "-c", CHECK]).arg(plugin).arg(&report);
    command.arg(plugin).args(staged.vendor(plugin)).arg(staged.dir("sdk"));
    let output = command
        .stdin(Stdio::null())
        .output()
        .map_err(|error| BuildError::io("Python cannot be run:", &python.program, error))?;
    let checked = std::fs::read(&report).ok().and_then(|text| serde_json::from_slice::<Checked>(&text).ok());
    match checked {
        Some(Checked { problem: Some(message), .. }) => Err(BuildError::PythonMistake { message }),
        Some(Checked { capabilities, .. }) => Ok(capabilities),
        // It ended the interpreter.
        None => Err(BuildError::PythonMistake {
            message: format!(
                "{}: importing it ends Python ({}): {}",
                shown(&plugin.join(PLUGIN_FILE)).display(),
                output.status,
                String::from_utf8_lossy(&output.stderr).trim()
            ),
        }),
    }
}

/// The world of a plugin that asks for these capabilities alone.
fn world(capabilities: &[String]) -> String {
    let is_wanted = |line: &&str| {
        let import = line.trim().strip_prefix("import ").and_then(|rest| rest.strip_suffix(';'));
        import.is_none_or(|name| capabilities.iter().any(|capability| capability == name))
    };
    WORLD.lines().filter(is_wanted).flat_map(|line| [line, "\n"]).collect()
}

fn componentize(plugin: &Path, staged: &Staged, tool: &Tool) -> Result<Vec<u8>, BuildError> {
    let output_file = staged.path("plugin.wasm");
    let mut command = tool.command();
    command.arg("--quiet").arg("--wit-path").arg(staged.dir("wit")).args(["--world", "transform", "componentize"]);
    command.arg("--stub-wasi");
    let mut paths = vec![staged.dir("plugin")];
    paths.extend(staged.vendor(&staged.dir("plugin")));
    paths.extend([staged.dir("sdk"), staged.dir("entry")]);
    for path in &paths {
        command.arg("--python-path").arg(path);
    }
    command.arg(ENTRY_MODULE).arg("--output").arg(&output_file);
    // Else it would look for packages in whatever environment this runs in.
    let no_packages = staged.dir("none");
    let site_packages = no_packages.join("lib/python3/site-packages");
    std::fs::create_dir_all(&site_packages).map_err(|error| BuildError::io("cannot create", &site_packages, error))?;
    command.env("VIRTUAL_ENV", &no_packages).env("RUST_BACKTRACE", "0");
    let output = command
        .current_dir(staged.path(""))
        .stdin(Stdio::null())
        .output()
        .map_err(|error| BuildError::io("componentize-py cannot be run:", &tool.python, error))?;
    if !output.status.success() {
        let said = String::from_utf8_lossy(&output.stderr);
        return Err(BuildError::PythonMistake { message: told(&said, plugin) });
    }
    std::fs::read(&output_file).map_err(|error| BuildError::io("cannot read", &output_file, error))
}

/// The author's part of what the tool says: its own call stack is cut off, and files have their names on this machine.
fn told(said: &str, plugin: &Path) -> String {
    let own = said.split_once("AssertionError: ").map_or(said, |(_, own)| own);
    let own = own.split("\n\nCaused by:").next().unwrap_or(own).trim();
    let names = format!("{}/", shown(plugin).display());
    format!(
        "{}: it cannot be imported in a component\n{}",
        shown(&plugin.join(PLUGIN_FILE)).display(),
        own.replace("/0/", &names)
    )
}

fn write_all(dir: &Path, files: &[(&str, &str)]) -> Result<(), BuildError> {
    for (path, text) in files {
        let file = dir.join(path);
        let parent = file.parent().unwrap_or(dir);
        std::fs::create_dir_all(parent).map_err(|error| BuildError::io("cannot create", parent, error))?;
        std::fs::write(&file, text).map_err(|error| BuildError::io("cannot write", &file, error))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_world_imports_what_is_asked_for_alone() {
        let world = world(&["log".to_owned(), "clock".to_owned()]);
        assert!(world.contains("  import log;\n") && world.contains("  import clock;\n"), "{world}");
        assert!(!world.contains("import metrics") && !world.contains("import random"), "{world}");
        assert!(world.contains("export configure") && world.contains("export process"), "{world}");
    }

    #[test]
    fn what_the_tool_says_is_told_by_the_author_s_own_files() {
        let said = "Traceback (most recent call last):\n  File \"/venv/bin/componentize-py\", line 8\nAssertionError: Traceback \
                    (most recent call last):\n  File \"/0/plugin.py\", line 4, in <module>\nValueError: oops\n\n\nCaused by:\n    \
                    ValueError: oops\n";
        assert_eq!(
            told(said, Path::new("/p/hello")),
            "/p/hello/plugin.py: it cannot be imported in a component\nTraceback (most recent call last):\n  File \
             \"/p/hello/plugin.py\", line 4, in <module>\nValueError: oops"
        );
    }
}
