//! `pelton plugin inspect FILE`

use std::path::PathBuf;

use super::{Exit, Failure, Outcome, human_bytes, say, say_json};
use crate::plugin::inspect::{Inspection, inspect};

#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// The component (.wasm)
    file: PathBuf,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
}

pub(super) fn run(args: &Args) -> Outcome {
    let file = args.file.display();
    let bytes = std::fs::read(&args.file).map_err(|error| Failure::new(format_args!("{file}: {error}")))?;
    let inspection = inspect(&bytes).map_err(|error| Failure::new(format_args!("{file}: {error}")))?;
    if args.json {
        say_json(&inspection)?;
    } else {
        as_text(&inspection).iter().for_each(say);
    }
    Ok(Exit::Success)
}

fn as_text(inspection: &Inspection) -> Vec<String> {
    let description = &inspection.description;
    let world = if inspection.is_plugin() {
        description.world.as_str()
    } else {
        "unknown: it does not export `configure` and `process`"
    };
    let interface = description.interface_version.as_deref().map_or_else(
        || "none: it uses nothing of pelton:plugin".to_owned(),
        |version| format!("pelton:plugin@{version}"),
    );
    let mut lines = vec![
        format!("world      {world}"),
        format!("interface  {interface}"),
        format!("imports    {}", inspection.grants()),
    ];
    for import in &inspection.ungrantable {
        lines.push(format!("           {import}: Pelton has no such capability, the plugin will be refused"));
    }
    lines.push(format!("digest     {}", description.digest));
    lines.push(format!("size       {}", human_bytes(description.size as u64)));
    for producer in &inspection.producers {
        let maker = format!("{} {}", producer.name, producer.version);
        lines.push(format!("{:<10} {}", producer.field, maker.trim_end()));
    }
    lines
}
