//! `pelton plugin inspect FILE`

use std::path::PathBuf;

use super::{Exit, Failure, Outcome, human_bytes, say, say_json};
use crate::plugin::Capability;
use crate::plugin::inspect::{Inspection, Producer, inspect};

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
    if args.file.is_dir() {
        let name = args.file.canonicalize().ok().and_then(|dir| Some(dir.file_name()?.display().to_string()));
        let name = name.unwrap_or_else(|| "NAME".to_owned());
        let remedy = format!("it is a directory; name the component in it, such as {file}/{name}.wasm");
        return Err(Failure::usage(format_args!("{file}: {remedy}")));
    }
    let bytes = std::fs::read(&args.file).map_err(|error| Failure::usage(format_args!("{file}: {error}")))?;
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
    if description.capabilities.contains(&Capability::Http) {
        lines.push("           http: asks others, so its pipeline names the hosts; not replay-identical".to_owned());
    }
    for import in &inspection.ungrantable {
        lines.push(format!("           {import}: Pelton has no such capability, the plugin will be refused"));
    }
    if !inspection.shell.is_empty() {
        let many = inspection.shell.len();
        lines.push(format!(
            "wasi       {many} interfaces, answered by an inert shell: no files, no environment, no clocks"
        ));
    }
    lines.push(format!("digest     {}", description.digest));
    lines.push(format!("size       {}", human_bytes(description.size as u64)));
    lines.extend(makers(&inspection.producers));
    lines
}

/// A line for each field of the producers sections; a tool that left its mark in several versions is named once.
fn makers(producers: &[Producer]) -> Vec<String> {
    let by_field = producers.chunk_by(|a, b| a.field == b.field);
    by_field
        .filter_map(|of_field| {
            let tools = of_field.chunk_by(|a, b| a.name == b.name).filter_map(|of_tool| {
                let versions: Vec<&str> = of_tool.iter().map(|producer| producer.version.as_str()).collect();
                Some(format!("{} {}", of_tool.first()?.name, versions.join(" and ")).trim_end().to_owned())
            });
            let title = match of_field.first()?.field.as_str() {
                "processed-by" => "made by",
                other => other,
            };
            Some(format!("{title:<10} {}", tools.collect::<Vec<_>>().join(", ")))
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_maker_is_named_once() {
        let producer = |(field, name, version): (&str, &str, &str)| Producer {
            field: field.to_owned(),
            name: name.to_owned(),
            version: version.to_owned(),
        };
        let producers = [
            ("language", "Rust", ""),
            ("processed-by", "rustc", "1.96.0"),
            ("processed-by", "wit-component", "0.258.0"),
            ("processed-by", "wit-component", "0.263.0"),
        ];
        assert_eq!(
            makers(&producers.map(producer)),
            ["language   Rust", "made by    rustc 1.96.0, wit-component 0.258.0 and 0.263.0"]
        );
    }
}
