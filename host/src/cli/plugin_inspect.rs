//! `pelton plugin inspect FILE`

use std::path::PathBuf;

use serde_json::json;

use super::{Exit, Failure, Outcome, human_bytes, say, say_json};
use crate::plugin::inspect::{Description, describe};

#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// The component (.wasm)
    file: PathBuf,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
}

pub(super) fn run(args: &Args) -> Outcome {
    let bytes = std::fs::read(&args.file)
        .map_err(|error| Failure::new(format_args!("{} cannot be read: {error}", args.file.display())))?;
    let description =
        describe(&bytes).map_err(|error| Failure::new(format_args!("{}: {error}", args.file.display())))?;
    if args.json {
        say_json(&as_json(&description))?;
    } else {
        as_text(&description).iter().for_each(say);
    }
    Ok(Exit::Success)
}

/// The JSON view, shared with `pelton plugin build --json`.
pub(super) fn as_json(description: &Description) -> serde_json::Value {
    json!({
        "world": description.world,
        "interface_version": description.interface_version,
        "imports": description.capabilities,
        "foreign_imports": description.foreign_imports,
        "exports": description.exports,
        "digest": description.digest.to_string(),
        "size_bytes": description.size_bytes,
        "producers": description.producers,
    })
}

fn as_text(description: &Description) -> Vec<String> {
    let version = description.interface_version.as_deref().map_or_else(
        || "none: it uses nothing of pelton:plugin".to_owned(),
        |version| format!("pelton:plugin@{version}"),
    );
    let mut lines = vec![
        format!(
            "world      {}",
            description.world.map_or("unknown: it does not export configure and process", |world| world.name())
        ),
        format!("interface  {version}"),
        format!("imports    {}", imports(description)),
    ];
    for import in &description.foreign_imports {
        lines.push(format!("           {import} (Pelton has no such capability: it will be refused)"));
    }
    lines.push(format!("digest     {}", description.digest));
    lines.push(format!("size       {}", human_bytes(description.size_bytes as u64)));
    for producer in &description.producers {
        lines.push(format!("{:<10} {}", producer.field, format!("{} {}", producer.name, producer.version).trim_end()));
    }
    lines
}

/// The capabilities in a line: what belongs into `grants:`.
pub(super) fn imports(description: &Description) -> String {
    if description.capabilities.is_empty() {
        return "none".to_owned();
    }
    let names: Vec<&str> = description.capabilities.iter().map(|capability| capability.name()).collect();
    names.join(", ")
}
