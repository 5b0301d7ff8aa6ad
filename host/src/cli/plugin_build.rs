//! `pelton plugin build [DIR]`

use std::path::{Path, PathBuf};

use serde_json::json;

use super::{Exit, Failure, Outcome, human_bytes, note, say, say_json};
use crate::config::{self, ProcessEnvironment};
use crate::plugin::build::{self, BuildError, Built, Places, Request, Toolchain, toolchain};

#[derive(Debug, clap::Args)]
#[command(after_help = "\
Writes DIR/<name of DIR>.wasm. Where DIR holds several plugins, all are built.
PELTON_GUEST_TARGET_DIR names a target directory that all plugins of a machine share.")]
pub(super) struct Args {
    /// A plugin's directory, or one that holds several
    #[arg(default_value = ".")]
    dir: PathBuf,
    /// Where cargo puts what it makes [default: the project's .pelton/target, else the workspace's target/wasm]
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
    let toolchain = toolchain::find(&Places::of_this_machine())?;
    note(format_args!("Building with {toolchain}"));
    let request = Request { dir: args.dir, target_dir: args.target_dir, locked: args.locked, offline: args.offline };
    let first = |target_dir: &Path| {
        note(format_args!(
            "The first build into {} takes a minute or two, the next ones some seconds",
            target_dir.display()
        ));
    };
    let built = build::build(&request, &toolchain, first).map_err(|error| match &error {
        BuildError::NoCrate { .. } => Failure::usage(error),
        _ => Failure::from(error),
    })?;
    if args.json {
        say_json(&report(&built, &toolchain))?;
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

fn report(built: &[Built], toolchain: &Toolchain) -> serde_json::Value {
    json!({ "toolchain": toolchain, "plugins": built })
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
