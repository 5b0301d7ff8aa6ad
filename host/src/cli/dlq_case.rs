//! `pelton dlq to-case`: a test case of a plugin out of a letter.

use std::path::{Path, PathBuf};

use super::dlq::{Whose, short_id};
use super::table::plain;
use super::{Exit, Failure, Outcome, dlq_show, note, say};
use crate::config::{self, Mask, Pipeline, ProcessEnvironment, Step};
use crate::dead_letters::case_folder;
use crate::dead_letters::cases::Case;
use crate::shell;

const AFTER_HELP: &str = "\
The case holds the record as its pipeline read it, and the configuration of the pipeline's step. What the plugin should
make of it is written into its expected.jsonl; `pelton plugin test --bless` writes what comes today.";

/// Make a test case of a plugin out of a letter
#[derive(Debug, clap::Args)]
#[command(after_help = AFTER_HELP)]
pub(super) struct Args {
    /// Which: its `pelton-id`, or TOPIC/PARTITION/OFFSET of the record
    id: String,
    #[command(flatten)]
    whose: Whose,
    /// The plugin's source directory [default: that of the pipeline's first step]
    #[arg(long, value_name = "DIR")]
    plugin_dir: Option<PathBuf>,
    /// The case's name [default: code, topic, partition and offset]
    #[arg(long, value_name = "NAME")]
    name: Option<String>,
}

pub(super) fn run(args: &Args) -> Outcome {
    let found = dlq_show::find(&args.whose, &args.id)?;
    let case = match found.as_slice() {
        [case] => case,
        several => {
            let of: Vec<&str> = several.iter().map(|case| case.letter.pipeline.as_str()).collect();
            return Err(Failure::usage(format_args!(
                "there are several letters of it, of {}: say --pipeline",
                of.join(", ")
            )));
        }
    };
    if let Some(missing) = &case.missing {
        return Err(Failure::new(missing));
    }
    let reading = config::read(&args.whose.dir, &ProcessEnvironment);
    let pipelines = reading.drafts.iter().filter_map(|draft| draft.pipeline.as_ref());
    let pipeline = pipelines.into_iter().find(|pipeline| pipeline.name == case.letter.pipeline);
    let pipeline = pipeline.ok_or_else(|| Failure::new("its pipeline is not there any more"))?;
    let step = step_of(case, pipeline, args.plugin_dir.is_some())?;
    let dir = match &args.plugin_dir {
        Some(dir) => dir.clone(),
        None => source_dir(step)?,
    };
    if !dir.is_dir() {
        return Err(Failure::usage(format_args!("there is no directory {}", dir.display())));
    }
    let name = args.name.clone().unwrap_or_else(|| case_folder::name_of(&case.letter));
    if name.is_empty() || name.starts_with('.') || name.contains(['/', '\\']) {
        return Err(Failure::usage(format_args!("--name {name}: a case's name is that of a folder")));
    }
    let config = without_secrets(step, &reading.mask)?;
    let folder = case_folder::write(&dir, &name, &case.letter, &config)
        .map_err(|error| Failure::new(format_args!("{}: {error}", dir.join("cases").join(&name).display())))?;
    say(format_args!("{} holds {}", folder.display(), plain(short_id(&case.letter.id))));
    say(format_args!(
        "  write what should come of it into its expected.jsonl, then: pelton plugin test {}",
        shell::argument(&dir)
    ));
    Ok(Exit::Success)
}

/// The step whose plugin gets the record as it was read: the first.
fn step_of<'p>(case: &Case, pipeline: &'p Pipeline, is_meant: bool) -> Result<&'p Step, Failure> {
    let Some(first) = pipeline.steps.first() else {
        return Err(Failure::new(format_args!("pipeline {} has no plugin that could be tested", pipeline.name)));
    };
    match case.plugin() {
        Some(plugin) if plugin != first.plugin && !is_meant => Err(Failure::new(format_args!(
            "{plugin}, which failed it, is a later step: what it got is what {} made of the record, and that is in no \
             letter. A case of the first step: say --plugin-dir with the directory of {}",
            first.plugin, first.plugin
        ))),
        _ => Ok(first),
    }
}

/// Where the artifact was built: its own directory, or one of its name beside it.
fn source_dir(step: &Step) -> Result<PathBuf, Failure> {
    let is_source = |dir: &Path| dir.join("Cargo.toml").is_file() || dir.join("cases").is_dir();
    let beside = step.artifact.with_extension("");
    let own = step.artifact.parent().map(Path::to_owned);
    own.into_iter().chain([beside]).find(|dir| is_source(dir)).ok_or_else(|| {
        Failure::usage(format_args!("where the source of {} is cannot be told: say --plugin-dir", step.plugin))
    })
}

/// What came out of substitutions may be a secret, and a case is kept with the source.
fn without_secrets(step: &Step, mask: &Mask) -> Result<serde_json::Value, Failure> {
    let text = step.config.to_string();
    let masked = mask.apply(&text);
    if masked != text {
        note("config.yaml has *** where the pipeline's configuration has values from the environment");
    }
    Ok(serde_json::from_str(&masked)?)
}
