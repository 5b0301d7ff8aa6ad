//! `pelton reload`, `pelton rollback` and `pelton generations`: other plugins while records flow, and the way back.

use std::path::PathBuf;

use super::daemon_address::{DaemonArgs, failure};
use super::table::{Side, Table, plain, time};
use super::{Exit, Failure, Outcome, is_no_project, note, say, say_json};
use crate::admin::client::AdminClient;
use crate::status::reloads::{GenerationStatus, PipelineReload, ReloadRequest, Stage};

const AFTER_HELP: &str = "\
The project's files are read anew, whole. What has changed of a pipeline's steps (artifacts, configuration, grants,
limits) goes live at the edge of a batch, without a rebalance, once it is compiled, asks for no more than it is granted,
passes its own cases and answers a call. What does not leaves the old version running: exit code 1, and why.

For `reload: settle:` (30 s) a new generation is held against the one before it on the same records. Where it fails on
what that handled, or takes half as much CPU time again, the one before is live again by itself. The time in which a
pipeline is paused does not count.

  pelton reload                  all that has changed, of the project here
  pelton reload shop-orders shop only pipelines with this plugin, of the project in shop/
  pelton reload --wait           return when it has settled (0), or was rolled back (1)
  pelton rollback orders         the one before is live again
  pelton generations orders      which there were, and what became of them

A daemon does the same by itself when a file changes, unless pelton.yaml says `reload: { watch: false }`.";

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
    /// Return when what went live has settled, or was rolled back
    #[arg(long)]
    wait: bool,
    /// Print the answer as JSON
    #[arg(long)]
    json: bool,
}

/// Arguments about one pipeline.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// The pipeline's name: the stem of its file
    pipeline: String,
    #[command(flatten)]
    daemon: DaemonArgs,
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
    let client = args.daemon.client()?;
    let answer = client.reload(&ReloadRequest { what: args.what, force: args.force }).map_err(failure)?;
    let mut is_well = answer.pipelines.iter().all(|pipeline| pipeline.refused.is_empty());
    if args.json && !args.wait {
        say_json(&answer)?;
    } else if !args.json {
        answer.pipelines.iter().for_each(show);
    }
    let live: Vec<&PipelineReload> = answer.pipelines.iter().filter(|pipeline| went_live(pipeline)).collect();
    if live.is_empty() {
        if args.json && args.wait {
            say_json(&answer)?;
        }
        return Ok(if is_well { Exit::Success } else { Exit::Failed });
    }
    if !args.wait {
        let seconds = answer.settles_in_ms.div_ceil(1000);
        note(format_args!(
            "held against the generation before for {seconds} s: `pelton status{again}` shows how it does"
        ));
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
pub(super) fn rollback(args: Args) -> Outcome {
    let client = args.daemon.client()?;
    let answer = client.rollback(&args.pipeline).map_err(failure)?;
    let generations = client.generations(&args.pipeline).map_err(failure)?;
    let gone = generations.iter().rfind(|generation| generation.stage == Stage::RolledBack);
    if args.json {
        say_json(&serde_json::json!({ "pipeline": answer.pipeline, "live": answer.live, "rolled_back": gone }))?;
        return Ok(Exit::Success);
    }
    say(format_args!("{}: generation {} is live again", answer.pipeline, answer.live));
    gone.into_iter().for_each(handled);
    Ok(Exit::Success)
}

/// `pelton generations`
pub(super) fn generations(args: Args) -> Outcome {
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
    pipeline.refused.is_empty() && !pipeline.unchanged
}

fn show(pipeline: &PipelineReload) {
    let PipelineReload { pipeline: name, live, unchanged, stages, refused } = pipeline;
    if *unchanged {
        return say(format_args!("{name}: nothing has changed, generation {live} is live"));
    }
    if refused.is_empty() {
        say(format_args!("{name}: generation {live} is live"));
    } else {
        say(format_args!("{name}: refused, generation {live} runs on"));
    }
    for reached in stages {
        let note = if reached.note.is_empty() { String::new() } else { format!("  {}", plain(&reached.note)) };
        say(format_args!("  {:<22}{:>6} ms{note}", reached.stage, reached.took_ms));
    }
    for cause in refused {
        cause.lines().for_each(|line| note(format_args!("{}", plain(line))));
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
