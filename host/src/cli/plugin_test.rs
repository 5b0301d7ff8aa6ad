//! `pelton plugin test [DIR]`

use std::path::{Path, PathBuf};

use serde::Serialize;

use super::{Exit, Failure, Outcome, note, say, say_json};
use crate::plugin::cases::{self, Case, CaseReport, Problem};
use crate::plugin::{Runtime, build};
use crate::record::Digest;
use crate::shell;

#[derive(Debug, clap::Args)]
#[command(after_help = "\
A case is a folder under cases/: input.jsonl, expected.jsonl, config.yaml where the plugin has a
configuration. Each runs as one batch and in batches of 1 and 7, on fresh and on reused instances;
where two of these differ, the plugin has hidden state.")]
pub(super) struct Args {
    /// A plugin's directory, or one that holds several
    #[arg(default_value = ".")]
    dir: PathBuf,
    /// Run only the cases whose name contains this
    #[arg(long, value_name = "NAME")]
    case: Option<String>,
    /// Write what comes out to expected.jsonl
    #[arg(long)]
    bless: bool,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
}

/// What came of all plugins.
#[derive(Debug, Serialize)]
struct Report {
    passed: bool,
    plugins: Vec<PluginReport>,
}

/// What came of one plugin.
#[derive(Debug, Serialize)]
struct PluginReport {
    name: String,
    dir: PathBuf,
    digest: String,
    passed: bool,
    cases: Vec<CaseReport>,
}

pub(super) fn run(args: &Args) -> Outcome {
    // Each case configures the plugin anew; compiled it is once.
    let compiled = tempfile::tempdir()?;
    let runtime = Runtime::isolated(Some(compiled.path()), 1)?;
    let mut report = Report { passed: true, plugins: Vec::new() };
    let dirs = plugins_of(&args.dir)?;
    for (dir, artifact) in dirs.iter().zip(artifacts(&dirs, &args.dir)?) {
        let plugin = test(&runtime, dir, &artifact, args)?;
        if !args.json {
            show(&plugin, args.bless);
        }
        report.passed &= plugin.passed;
        report.plugins.push(plugin);
    }
    if args.json {
        say_json(&report)?;
    }
    Ok(if report.passed { Exit::Success } else { Exit::Failed })
}

/// The directory itself where it is a plugin's, else the plugins directly below.
fn plugins_of(dir: &Path) -> Result<Vec<PathBuf>, Failure> {
    let named = |error: std::io::Error| Failure::usage(format_args!("{}: {error}", dir.display()));
    let is_plugin = |dir: &Path| dir.join("cases").is_dir() || dir.join("plugin.yaml").is_file();
    let whole = dir.canonicalize().map_err(named)?;
    if is_plugin(&whole) {
        return Ok(vec![whole]);
    }
    let below = std::fs::read_dir(&whole).map_err(named)?.flatten().map(|entry| entry.path());
    let mut plugins: Vec<PathBuf> = below.filter(|dir| is_plugin(dir)).collect();
    plugins.sort();
    if plugins.is_empty() {
        let dir = dir.display();
        return Err(Failure::usage(format_args!(
            "{dir}: there is no plugin here, nor in a directory below: a plugin has a plugin.yaml and cases/"
        )));
    }
    Ok(plugins)
}

/// The artifacts of all plugins, or every one that has to be built first, with one command that does it.
fn artifacts(plugins: &[PathBuf], dir: &Path) -> Result<Vec<PathBuf>, Failure> {
    let (mut found, mut problems) = (Vec::new(), Vec::new());
    for plugin in plugins {
        match build::artifact(plugin) {
            Ok(artifact) => found.push(artifact),
            Err(problem) => problems.push(problem),
        }
    }
    match problems.as_slice() {
        [] => Ok(found),
        [only] => Err(Failure::new(only)),
        several => {
            let lines: String = several.iter().map(|problem| format!("\n  {}", problem.found())).collect();
            let build = format!("pelton plugin build {}", shell::argument(dir));
            Err(Failure::new(format_args!("{} plugins have to be built first: {build}{lines}", several.len())))
        }
    }
}

fn test(runtime: &std::sync::Arc<Runtime>, dir: &Path, artifact: &Path, args: &Args) -> Result<PluginReport, Failure> {
    let wanted = |case: &Case| args.case.as_ref().is_none_or(|part| case.name.contains(part));
    let reports = cases::run_all(runtime, dir, artifact, wanted, args.bless)?;
    if reports.is_empty() {
        return Err(Failure::usage(format_args!("{}: no case has such a name", dir.join("cases").display())));
    }
    let bytes =
        std::fs::read(artifact).map_err(|error| Failure::new(format_args!("{}: {error}", artifact.display())))?;
    let name = artifact.file_stem().map(|stem| stem.to_string_lossy().into_owned()).unwrap_or_default();
    let digest = Digest::of(&bytes).to_string();
    let passed = reports.iter().all(|case| case.passed);
    Ok(PluginReport { name, dir: dir.to_owned(), digest, passed, cases: reports })
}

fn show(plugin: &PluginReport, bless: bool) {
    say(format_args!("{}", plugin.name));
    for case in &plugin.cases {
        let verdict = match (case.passed, bless) {
            (true, true) => "blessed",
            (true, false) => "ok",
            (false, _) => "FAILED",
        };
        say(format_args!("  {verdict:<7} {} ({} records)", case.name, case.records));
        case.problems.iter().flat_map(Problem::lines).for_each(|line| say(format_args!("    {line}")));
    }
    let failed: Vec<&CaseReport> = plugin.cases.iter().filter(|case| !case.passed).collect();
    if failed.is_empty() {
        return;
    }
    // What trapped, or differs from itself, has nothing that could be expected.
    let is_for_bless = |case: &&CaseReport| case.problems.iter().all(Problem::is_about_what_is_expected);
    let hint = if failed.iter().any(is_for_bless) {
        format!(" Where what came is right: pelton plugin test --bless {}", shell::argument(&plugin.dir))
    } else {
        String::new()
    };
    note(format_args!("{}: {} of {} cases failed.{hint}", plugin.name, failed.len(), plugin.cases.len()));
}
