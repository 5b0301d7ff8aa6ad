//! `pelton dlq to-case`: a test case of a plugin out of a letter.

use std::path::{Path, PathBuf};

use super::dlq::{Whose, failure, short_id};
use super::table::plain;
use super::{Exit, Failure, Outcome, dlq_show, note, say};
use crate::config::{self, LogSettings, Mask, Pipeline, ProcessEnvironment, Step};
use crate::daemon::Ready;
use crate::daemon::letters::{self, LettersError};
use crate::dead_letters::case_folder;
use crate::dead_letters::cases::Case;
use crate::pipeline::DeadLetter;
use crate::shell;
use crate::telemetry;

const AFTER_HELP: &str = "\
The case is of the plugin that failed the record, else of the pipeline's first step. It holds the record as that step gets
it: as the pipeline read it, or what the earlier steps make of that today; and the configuration of the step. What the
plugin should make of it is written into its expected.jsonl; `pelton plugin test --bless` writes what comes today.";

/// Make a test case of a plugin out of a letter
#[derive(Debug, clap::Args)]
#[command(after_help = AFTER_HELP)]
pub(super) struct Args {
    /// Which: its `pelton-id`, or TOPIC/PARTITION/OFFSET of the record
    id: String,
    #[command(flatten)]
    whose: Whose,
    /// The plugin's source directory [default: where its component is, or beside it]
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
    let (at, step) = step_of(case, pipeline)?;
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
    let records = records(&args.whose.dir, case, (at, step))?;
    let folder = case_folder::write(&dir, &name, &records, &config)
        .map_err(|error| Failure::new(format_args!("{}: {error}", dir.join("cases").join(&name).display())))?;
    say(format_args!("{} holds {}", folder.display(), plain(short_id(&case.letter.id))));
    say(format_args!(
        "  write what should come of it into its expected.jsonl, then: pelton plugin test {}",
        shell::argument(&dir)
    ));
    Ok(Exit::Success)
}

/// The step that failed it, by its plugin; the first where that is none, or is not there any more.
fn step_of<'p>(case: &Case, pipeline: &'p Pipeline) -> Result<(usize, &'p Step), Failure> {
    let steps = || pipeline.steps.iter().enumerate();
    let guilty = steps().find(|(_, step)| case.plugin() == Some(step.plugin.as_str()));
    guilty
        .or_else(|| steps().next())
        .ok_or_else(|| Failure::new(format_args!("pipeline {} has no plugin that could be tested", pipeline.name)))
}

/// The record as a step gets it.
fn records(dir: &Path, case: &Case, (at, step): (usize, &Step)) -> Result<Vec<DeadLetter>, Failure> {
    if at == 0 {
        return Ok(vec![case.letter.clone()]);
    }
    // Its own words are enough, but for what goes wrong.
    let quiet = |settings: &LogSettings| {
        telemetry::init_logging(&LogSettings { level: "warn".to_owned(), json: settings.json })
    };
    let ready = Ready::read(dir, &ProcessEnvironment, quiet).map_err(|error| failure(LettersError::Start(error)))?;
    letters::input_of(&ready, &case.letter, at).map_err(|why| {
        Failure::new(format_args!(
            "{} is step {}, and gets nothing of the record today: {}",
            step.plugin,
            at + 1,
            plain(&why)
        ))
    })
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
