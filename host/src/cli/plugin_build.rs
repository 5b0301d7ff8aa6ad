//! `pelton plugin build [DIR]`

use std::path::{Path, PathBuf};

use serde_json::json;

use super::{Exit, Failure, Outcome, human_bytes, note, say, say_json};
use crate::config::{self, ProcessEnvironment};
use crate::plugin::build::{self, BuildError, Built, Language, Places, Request, Toolchains, python, toolchain};

#[derive(Debug, clap::Args)]
#[command(after_help = "\
Writes DIR/<name of DIR>.wasm. Where DIR holds several plugins, all are built.
A plugin is a crate in Rust (Cargo.toml), or a module in Python (plugin.py).
PELTON_GUEST_TARGET_DIR names a target directory that all plugins of a machine share.")]
pub(super) struct Args {
    /// A plugin's directory, or one that holds several
    #[arg(default_value = ".")]
    dir: PathBuf,
    /// Where goes what is made on the way [default: the project's .pelton/target, else the workspace's target/wasm]
    #[arg(long, value_name = "PATH")]
    target_dir: Option<PathBuf>,
    /// Require that Cargo.lock is up to date
    #[arg(long)]
    locked: bool,
    /// Do not use the network
    #[arg(long)]
    offline: bool,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
}

pub(super) fn run(args: Args) -> Outcome {
    if !args.dir.is_dir() {
        return Err(Failure::usage(format_args!("{}: there is no such directory", args.dir.display())));
    }
    let plugins = build::plugins_of(&args.dir).map_err(|error| match &error {
        BuildError::Nothing { .. } => Failure::usage(error),
        _ => Failure::from(error),
    })?;
    let places = Places::of_this_machine();
    let mut toolchains = Toolchains::default();
    if !plugins.crates.is_empty() {
        let rust = toolchain::find(&places)?;
        note(format_args!("Building with {rust}"));
        toolchains.rust = Some(rust);
    }
    if !plugins.python.is_empty() {
        let python = python::find(&places)?;
        note(format_args!("Building with {python}"));
        toolchains.python = Some(python);
    }
    let request = Request { target_dir: args.target_dir, locked: args.locked, offline: args.offline };
    let built = build::build(&request, &plugins, &toolchains, tell_first_build)?;
    if args.json {
        say_json(&report(&built, &toolchains))?;
    } else {
        built.iter().flat_map(as_text).for_each(say);
    }
    built.iter().filter_map(missing_grants).for_each(note);
    let mut exit = Exit::Success;
    for plugin in built.iter().filter(|plugin| !plugin.inspection.is_plugin()) {
        exit = Exit::Failed;
        note(format_args!(
            "error: {}: it exports neither `configure` nor `process`, so it is no plugin; is `pelton_sdk::export!(…)` \
             missing?",
            plugin.file.display()
        ));
    }
    Ok(exit)
}

/// A first build takes longer than one expects.
fn tell_first_build(target_dir: &Path, language: Language) {
    let target_dir = target_dir.display();
    match language {
        Language::Rust => {
            note(format_args!("The first build into {target_dir} takes a minute or two, the next ones some seconds"));
        }
        Language::Python => {
            note(format_args!("The first build into {target_dir} fetches the tool for Python (70 MB) with pip"));
        }
    }
}

/// What a plugin imports and its `plugin.yaml` does not grant: it would be refused.
fn missing_grants(plugin: &Built) -> Option<String> {
    let manifest_file = plugin.file.with_file_name("plugin.yaml");
    let manifest = config::manifest(&manifest_file, &ProcessEnvironment).ok()?;
    let imports = &plugin.inspection.description.capabilities;
    let missing: Vec<&str> =
        imports.iter().filter(|import| !manifest.grants.contains(**import)).map(|import| import.name()).collect();
    (!missing.is_empty()).then(|| {
        let missing = missing.join(", ");
        format!(
            "note: {}: the plugin imports what is not granted; add to `grants:`: {missing}",
            manifest_file.display()
        )
    })
}

fn report(built: &[Built], toolchains: &Toolchains) -> serde_json::Value {
    json!({ "toolchain": toolchains.rust, "python": toolchains.python, "plugins": built })
}

fn as_text(plugin: &Built) -> Vec<String> {
    let description = &plugin.inspection.description;
    vec![
        plugin.file.display().to_string(),
        format!("  digest   {}", description.digest),
        format!("  size     {}", human_bytes(description.size as u64)),
        format!("  imports  {}", plugin.inspection.grants()),
        format!("  took     {:.1} s", plugin.seconds),
    ]
}
