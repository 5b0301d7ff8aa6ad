//! `pelton reload`, `pelton rollback` and `pelton generations`: other plugins while records flow, and the way back.

use std::path::PathBuf;

use super::daemon_address::{DaemonArgs, PipelineArgs, failure};
use super::table::{Side, Table, plain, time};
use super::{Exit, Failure, Outcome, is_no_project, note, say, say_json};
use crate::admin::client::AdminClient;
use crate::pipeline::shadow::Differences;
use crate::status::reloads::{GenerationStatus, PipelineReload, ReloadRequest, Stage};

const AFTER_HELP: &str = "\
The project's files are read anew, whole. What has changed of a pipeline's steps (artifacts,
configuration, grants, limits) goes live at the edge of a batch, without a rebalance, once it is
compiled, asks for no more than it is granted, passes its own cases and answers a call. What does
not leaves the old version running: exit code 1, and why.

For `reload: settle:` (30 s) a new generation is held against the one before it on the same
records. Where it fails on what that handled, or takes 1.6 times the CPU time, the one before is
live again by itself. Nothing settles without a record, and the time of a pause does not count.
What is slower or stricter on purpose goes live with --trust.

  pelton reload                  all that has changed, of the project here
  pelton reload shop-orders shop only pipelines with this plugin, of the project in shop/
  pelton reload --shadow 10000   first let it run beside the live one, and tell what it would make otherwise
  pelton reload --wait           return when it has settled (0), or was rolled back (1)
  pelton rollback orders         the one before is live again
  pelton generations orders      which there were, and what became of them

A daemon does the same by itself when a file changes, unless pelton.yaml says
`reload: { watch: false }`. Each daemon of a group is told on its own.";

/// Take over plugins and steps that have changed, while records flow
#[derive(Debug, clap::Args)]
#[command(after_help = AFTER_HELP)]
pub(super) struct ReloadArgs {
    /// Only pipelines with this plugin, or the pipeline of this name
    what: Option<String>,
    #[command(flatten)]
    daemon: DaemonArgs,
    /// Even a version that was rolled back before
    #[arg(long)]
    force: bool,
    /// Do not hold it against the one before: it is slower or stricter on purpose
    #[arg(long)]
    trust: bool,
    /// First let it run beside the live one over so many records, and tell what it would make otherwise
    #[arg(long, value_name = "RECORDS", value_parser = clap::value_parser!(u64).range(1..=10_000_000))]
    shadow: Option<u64>,
    /// Stop before it goes live
    #[arg(long)]
    dry_run: bool,
    /// Return when what went live has settled, or was rolled back
    #[arg(long)]
    wait: bool,
    /// Print the answer as JSON
    #[arg(long)]
    json: bool,
}

/// `pelton reload`
pub(super) fn reload(mut args: ReloadArgs) -> Outcome {
    // `pelton reload DIR`: nothing has the name of a directory with a project.
    if let Some(dir) = args.what.as_ref().map(PathBuf::from).filter(|dir| !is_no_project(dir))
        && args.daemon.is_unnamed()
    {
        args.daemon = args.daemon.of(dir);
        args.what = None;
    }
    let again = args.daemon.again();
    let request = ReloadRequest {
        what: args.what,
        force: args.force,
        trust: args.trust,
        shadow: args.shadow,
        dry_run: args.dry_run,
    };
    let client = args.daemon.client()?;
    let answer = client.reload(&request).map_err(failure)?;
    let mut is_well = answer.pipelines.iter().all(|pipeline| pipeline.refused.is_empty());
    if args.json && !args.wait {
        say_json(&answer)?;
    } else if !args.json {
        answer.pipelines.iter().for_each(show);
        answer.notes.iter().flat_map(|note| note.lines()).for_each(|line| note(plain(line)));
    }
    let live: Vec<&PipelineReload> = answer.pipelines.iter().filter(|pipeline| went_live(pipeline)).collect();
    if live.is_empty() {
        if args.json && args.wait {
            say_json(&answer)?;
        }
        return Ok(if is_well { Exit::Success } else { Exit::Failed });
    }
    if !args.wait && !args.trust {
        let seconds = answer.settles_in_ms.div_ceil(1000);
        note(format_args!(
            "held against the generation before for {seconds} s: `pelton status{again}` shows how it does"
        ));
        return Ok(if is_well { Exit::Success } else { Exit::Failed });
    }
    if !args.wait {
        return Ok(if is_well { Exit::Success } else { Exit::Failed });
    }
    let ended = until_settled(&client, &live)?;
    is_well &= ended.iter().all(|(_, generation)| generation.stage == Stage::Settled);
    if args.json {
        let generations: serde_json::Map<String, serde_json::Value> =
            ended.iter().map(|(name, generation)| (name.clone(), serde_json::json!(generation))).collect();
        say_json(&serde_json::json!({ "pipelines": answer.pipelines, "generations": generations }))?;
    } else {
        for (name, generation) in &ended {
            say(format_args!("{name}: generation {}: {}{}", generation.number, generation.stage, cause(generation)));
            handled(generation);
        }
    }
    Ok(if is_well { Exit::Success } else { Exit::Failed })
}

/// `pelton rollback`
pub(super) fn rollback(args: PipelineArgs) -> Outcome {
    let client = args.daemon.client()?;
    let answer = client.rollback(&args.pipeline).map_err(failure)?;
    let generations = client.generations(&args.pipeline).map_err(failure)?;
    let gone = generations.iter().rfind(|generation| generation.stage == Stage::RolledBack);
    if args.json {
        say_json(&serde_json::json!({ "pipeline": answer.pipeline, "live": answer.live, "rolled_back": gone }))?;
        return Ok(Exit::Success);
    }
    say(format_args!("{}: generation {} is live again, in this daemon", answer.pipeline, answer.live));
    note(
        "the files hold the other version still; other daemons of the group go on with theirs until they are told too",
    );
    gone.into_iter().for_each(handled);
    Ok(Exit::Success)
}

/// `pelton generations`
pub(super) fn generations(args: PipelineArgs) -> Outcome {
    let generations = args.daemon.client()?.generations(&args.pipeline).map_err(failure)?;
    if args.json {
        say_json(&generations)?;
        return Ok(Exit::Success);
    }
    let columns = [
        ("GENERATION", Side::Right),
        ("STAGE", Side::Left),
        ("SINCE", Side::Left),
        ("BY", Side::Left),
        ("PLUGINS", Side::Left),
        ("CONFIGURATION", Side::Left),
    ];
    let mut table = Table::new("", &columns);
    for generation in &generations {
        table.row([
            generation.number.to_string(),
            generation.stage.to_string(),
            time(Some(generation.at_ms)),
            plain(&generation.trigger),
            plugins(generation),
            plain(&generation.configuration),
        ]);
    }
    say(table.render().trim_end());
    for generation in generations.iter().filter(|generation| generation.cause.is_some()) {
        say(format_args!("{}: {}{}", generation.number, generation.stage, cause(generation)));
        handled(generation);
    }
    Ok(Exit::Success)
}

fn went_live(pipeline: &PipelineReload) -> bool {
    pipeline.stages.iter().any(|reached| reached.stage == Stage::Live)
}

fn show(pipeline: &PipelineReload) {
    let PipelineReload { pipeline: name, live, unchanged, stages, differences, refused } = pipeline;
    if *unchanged {
        return say(format_args!("{name}: nothing has changed, generation {live} is live"));
    }
    if went_live(pipeline) {
        say(format_args!("{name}: generation {live} is live"));
    } else if refused.is_empty() {
        say(format_args!("{name}: it could go live; generation {live} runs on"));
    } else {
        say(format_args!("{name}: refused, generation {live} runs on"));
    }
    for reached in stages {
        let note = if reached.note.is_empty() { String::new() } else { format!("  {}", plain(&reached.note)) };
        say(format_args!("  {:<22}{:>6} ms{note}", reached.stage, reached.took_ms));
    }
    differences.iter().for_each(show_differences);
    for cause in refused {
        cause.lines().for_each(|line| note(format_args!("{}", plain(line))));
    }
}

fn show_differences(found: &Differences) {
    let Differences { records, same, changed, added, missing, failed, mended, .. } = found;
    say(format_args!("  of {records} records the candidate makes"));
    let counts = [
        (same, "rows that are the same"),
        (changed, "rows that differ"),
        (added, "rows that are new"),
        (missing, "rows fewer"),
        (failed, "records that fail now"),
        (mended, "records that no longer fail"),
    ];
    counts.iter().for_each(|(count, what)| say(format_args!("  {count:>12}  {what}")));
    for (field, count) in &found.fields {
        say(format_args!("  {count:>12}  cells of {} that differ", plain(field)));
    }
    if found.live_cpu_ns > 0 {
        let ratio = found.candidate_cpu_ns as f64 / found.live_cpu_ns as f64;
        say(format_args!("  {ratio:>12.2}  times the CPU time of the live one"));
    }
    for example in &found.examples {
        let of = |value: &Option<String>| value.as_deref().map_or_else(|| "nothing".to_owned(), plain);
        let (record, place) = (plain(&example.record), plain(&example.place));
        say(format_args!("  {record}  {place}: {} → {}", of(&example.live), of(&example.candidate)));
    }
}

/// Waits until each pipeline's generation has settled, or another is live.
fn until_settled(client: &AdminClient, live: &[&PipelineReload]) -> Result<Vec<(String, GenerationStatus)>, Failure> {
    let mut ended = Vec::new();
    for pipeline in live {
        loop {
            let all = client.generations_after(&pipeline.pipeline, pipeline.live).map_err(failure)?;
            let generation = all.into_iter().find(|generation| generation.number == pipeline.live);
            if let Some(generation) = generation.filter(|generation| generation.stage != Stage::Live) {
                ended.push((pipeline.pipeline.clone(), generation));
                break;
            }
            note(format_args!(
                "{}: generation {} has not settled yet: without a record nothing does",
                pipeline.pipeline, pipeline.live
            ));
        }
    }
    Ok(ended)
}

fn cause(generation: &GenerationStatus) -> String {
    generation.cause.as_deref().map(|cause| format!(": {}", plain(cause))).unwrap_or_default()
}

fn handled(generation: &GenerationStatus) {
    if !generation.handled.is_empty() {
        say(format_args!("generation {} had handled {}", generation.number, plain(&generation.handled.join(", "))));
    }
}

fn plugins(generation: &GenerationStatus) -> String {
    let short = |digest: &str| digest.strip_prefix("sha256:").unwrap_or(digest).chars().take(8).collect::<String>();
    let each = generation.plugins.iter().map(|plugin| format!("{} {}", plain(&plugin.name), short(&plugin.digest)));
    each.collect::<Vec<_>>().join(", ")
}
