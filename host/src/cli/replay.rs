//! `pelton replay`: read records again, as they were read, beside the daemon.

use std::collections::BTreeMap;
use std::io::IsTerminal as _;
use std::path::PathBuf;
use std::sync::atomic::Ordering;
use std::time::Duration;

use indicatif::{ProgressBar, ProgressStyle};
use serde::Serialize;
use tokio::time::Instant;

use super::dlq::short_id;
use super::table::{counted, plain};
use super::{Exit, Failure, Outcome, compiling, is_no_project, note, say, say_json};
use crate::clock::seconds;
use crate::config::{LogSettings, ProcessEnvironment};
use crate::daemon::replay::{Replay, ReplayOptions, ReplayRefused};
use crate::daemon::{Ready, StartError};
use crate::pipeline::SourceError;
use crate::pipeline::meters::Totals;
use crate::pipeline::replay::{Part, ReplayError, ReplayProgress};
use crate::record::Offset;
use crate::telemetry;

/// How often progress is shown: on a terminal, and in plain lines.
const BAR_EVERY: Duration = Duration::from_millis(200);
const LINE_EVERY: Duration = Duration::from_secs(5);

/// Records that are named one by one in a page; JSON has all.
const NAMED_MAX: usize = 20;

const AFTER_HELP: &str = "\
A place is PARTITION:OFFSET, TOPIC/PARTITION:OFFSET, a time (2026-01-01T00:00:00Z), a time ago (2 h ago), earliest or
latest. --from and --to may be repeated, once for each partition; a time holds for all partitions.

  pelton replay orders shop --from '2 h ago' --dry-run
  pelton replay orders shop --from 0:1000 --to 0:2000
  pelton replay orders shop --from earliest --into shop.orders_rebuilt

It writes what the pipeline wrote: the same cells with the same write times, into the same table, where nothing changes
that is whole; or into another one, which is rebuilt. The clock starts at the nearest entry of the pipeline's journal, and
what lies between is read and not written. Where that could not be exact, it refuses, and says why. So it does where a table
is to be rebuilt and records were redriven with edits, or by other plugins: what came of those is in no topic. The pipeline
may run meanwhile: nothing is committed, and no group is joined.";

/// Read records again, as they were read, beside the daemon
#[derive(Debug, clap::Args)]
#[command(after_help = AFTER_HELP)]
pub(super) struct Args {
    /// The pipeline's name: the stem of its file
    pipeline: String,
    /// The project directory
    #[arg(default_value = ".", value_name = "DIR")]
    dir: PathBuf,
    /// The first records
    #[arg(long, required = true, value_name = "PLACE")]
    from: Vec<String>,
    /// Where to end, before it [default: latest]
    #[arg(long, value_name = "PLACE")]
    to: Vec<String>,
    /// Write to this table instead, which has the same columns; OUTPUT=TABLE where several outputs are tables
    #[arg(long, value_name = "TABLE")]
    into: Vec<String>,
    /// Use today's plugins and configuration, also where the records were handled by others; needs --into
    #[arg(long)]
    with_current: bool,
    /// Let plugins that ask others over HTTP ask them again, who may answer otherwise than they did; needs --into
    #[arg(long)]
    ask_again: bool,
    /// Rebuild also where redrives wrote rows that no reading brings back; says which are missing
    #[arg(long)]
    without_redriven: bool,
    /// Write to Kafka outputs and dead letters too: every record of the range stands there once more
    #[arg(long)]
    include_topics: bool,
    /// Say what would be read, and read nothing
    #[arg(long)]
    dry_run: bool,
    /// Print the summary as one JSON object
    #[arg(long)]
    json: bool,
}

/// What was read and written.
#[derive(Debug, Serialize)]
struct Summary {
    pipeline: String,
    dry_run: bool,
    parts: Vec<PartSummary>,
    /// Offsets of the range; as many records at most.
    offsets: u64,
    /// Records that were redriven with content that is not in the topic: those rows are not written; none where the dead
    /// letters cannot be read.
    without_redriven: Option<Vec<String>>,
    /// What came of it; nothing where only that was asked what would be read.
    #[serde(flatten)]
    done: Option<Done>,
}

#[derive(Debug, Serialize)]
struct Done {
    /// Records read of the range.
    records: u64,
    /// Rows written, by output; what is not written does not show.
    rows: BTreeMap<String, u64>,
    /// Rows that had expired, and were not written.
    expired: u64,
    /// Records that plugins let go.
    filtered: u64,
    /// Records that could not be handled, by code.
    dead_letters: BTreeMap<String, u64>,
    seconds: f64,
}

#[derive(Debug, Serialize)]
struct PartSummary {
    topic: String,
    partition: i32,
    /// The first offset.
    from: i64,
    /// One past the last.
    to: i64,
    /// How many there are; as many records at most.
    offsets: u64,
    /// Where the range was meant to end, if the partition ends before that.
    #[serde(skip_serializing_if = "Option::is_none")]
    meant_to: Option<i64>,
    /// Where the clock starts.
    clock_from: i64,
}

pub(super) fn run(args: Args) -> Outcome {
    // Its own words are enough, but for what goes wrong.
    let quiet = |settings: &LogSettings| {
        telemetry::init_logging(&LogSettings { level: "warn".to_owned(), json: settings.json })
    };
    let ready = compiling(|| Ready::read(&args.dir, &ProcessEnvironment, quiet)).map_err(|error| match error {
        StartError::Config(errors) if is_no_project(&args.dir) => Failure::usage(errors),
        error => Failure::new(error),
    })?;
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().map_err(Failure::new)?;
    let outcome = runtime.block_on(replay(ready, args));
    runtime.shutdown_background();
    outcome
}

async fn replay(ready: Ready, args: Args) -> Outcome {
    let options = ReplayOptions {
        pipeline: args.pipeline.clone(),
        from: args.from,
        to: args.to,
        into: args.into,
        with_current: args.with_current,
        ask_again: args.ask_again,
        include_topics: args.include_topics,
        without_redriven: args.without_redriven,
    };
    let replay = Replay::prepare(&ready, &options).await.map_err(refused)?;
    let began = Instant::now();
    if !args.json {
        replay.parts().iter().for_each(|part| say(line(part, replay.meant_end(&part.partition))));
    }
    let done = if args.dry_run { None } else { Some(Done::of(shown(&replay).await?, began.elapsed())) };
    let summary = Summary::of(&args.pipeline, &replay, done);
    if args.json {
        say_json(&summary)?;
    } else {
        summary.print();
    }
    Ok(Exit::Success)
}

fn refused(error: ReplayRefused) -> Failure {
    match error {
        ReplayRefused::Words(words) => Failure::usage(words),
        ReplayRefused::Start(StartError::Unreachable(_)) | ReplayRefused::Source(SourceError::Unreachable { .. }) => {
            Failure::unavailable(error)
        }
        _ => Failure::new(error),
    }
}

fn line(part: &Part, meant_end: Option<Offset>) -> String {
    let Part { partition, from, until, start, .. } = part;
    let count = until.0 - from.0;
    let cut = meant_end.map(|meant| format!("; it ends there, before {meant}")).unwrap_or_default();
    if count <= 0 {
        return format!("{partition}: nothing from offset {from} on{cut}");
    }
    let warm_up = if start < from { format!("; the clock starts at {start}") } else { String::new() };
    format!("{partition}: offsets {from} to {}, {count} in all{warm_up}{cut}", until.0 - 1)
}

fn offsets(part: &Part) -> u64 {
    (part.until.0 - part.from.0).max(0).cast_unsigned()
}

/// Runs, and shows how far it is.
async fn shown(replay: &Replay) -> Result<Totals, Failure> {
    let sum = |of: fn(&Part) -> i64| replay.parts().iter().map(of).sum::<i64>().max(0).cast_unsigned();
    let of_range = replay.parts().iter().map(offsets).sum();
    let before = sum(|part| part.from.0 - part.start.0);
    let progress = replay.progress();
    let bar = std::io::stderr().is_terminal().then(|| {
        let style = ProgressStyle::with_template("{bar:40} {percent}% {msg} ({eta} left)");
        ProgressBar::new(of_range + before).with_style(style.expect("the template is a constant"))
    });
    let mut tick = tokio::time::interval(if bar.is_some() { BAR_EVERY } else { LINE_EVERY });
    tick.tick().await;
    let mut running = std::pin::pin!(replay.run());
    let ended = loop {
        tokio::select! {
            biased;
            ended = &mut running => break ended,
            _ = tick.tick() => {
                let (passed, text) = told(&progress, of_range, replay.blocked());
                match &bar {
                    Some(bar) => {
                        bar.set_position(passed);
                        bar.set_message(text);
                    }
                    None => note(text),
                }
            }
        }
    };
    if let Some(bar) = bar {
        bar.finish_and_clear();
    }
    ended.map_err(|error| match error {
        ReplayError::Source(SourceError::Unreachable { .. }) => Failure::unavailable(error),
        _ => Failure::new(error),
    })
}

/// Offsets behind it, and the same in words.
fn told(progress: &ReplayProgress, of_range: u64, blocked: Option<String>) -> (u64, String) {
    let (passed, done) = (progress.passed.load(Ordering::Relaxed), progress.done.load(Ordering::Relaxed));
    let text = match blocked {
        Some(cause) => format!("{done} of {of_range} offsets; blocked: {cause}"),
        None if done == 0 && passed > 0 => format!("bringing the clock up to the range: {passed} offsets"),
        None => format!("{done} of {of_range} offsets"),
    };
    (passed + done, text)
}

impl Done {
    fn of(totals: Totals, took: Duration) -> Self {
        Self {
            records: totals.records,
            rows: totals.rows,
            expired: totals.expired,
            filtered: totals.filtered,
            dead_letters: totals.dead_letters,
            seconds: seconds(took),
        }
    }
}

impl Summary {
    fn of(pipeline: &str, replay: &Replay, done: Option<Done>) -> Self {
        let part = |part: &Part| PartSummary {
            topic: part.partition.topic.to_string(),
            partition: part.partition.partition,
            from: part.from.0,
            to: part.until.0,
            offsets: offsets(part),
            meant_to: replay.meant_end(&part.partition).map(|meant| meant.0),
            clock_from: part.start.0,
        };
        Self {
            pipeline: pipeline.to_owned(),
            dry_run: done.is_none(),
            parts: replay.parts().iter().map(part).collect(),
            offsets: replay.parts().iter().map(offsets).sum(),
            without_redriven: replay.redriven().ok().map(|redriven| redriven.ids().map(str::to_owned).collect()),
            done,
        }
    }

    fn print(&self) {
        match &self.without_redriven {
            Some(ids) if ids.is_empty() => {}
            Some(ids) => {
                say(format_args!(
                    "redriven with content that is not in the topic, and not written by this: {}",
                    ids.len()
                ));
                ids.iter().take(NAMED_MAX).for_each(|id| say(format_args!("    {}", plain(short_id(id)))));
                if ids.len() > NAMED_MAX {
                    say(format_args!("    and {} more (--json names all)", ids.len() - NAMED_MAX));
                }
            }
            None => note("whether records were redriven is not known: the dead letters cannot be read"),
        }
        let Some(done) = &self.done else {
            say("nothing was read: leave --dry-run out to replay");
            return;
        };
        say(format_args!("replayed {} in {:.1} s", counted(done.records, "record"), done.seconds));
        for (output, rows) in &done.rows {
            say(format_args!("    {output}: {}", counted(*rows, "row")));
        }
        for (code, records) in &done.dead_letters {
            say(format_args!("    {code}: {records} could not be handled"));
        }
        for (what, records) in [("had expired", done.expired), ("were filtered", done.filtered)] {
            if records > 0 {
                say(format_args!("    {records} {what}"));
            }
        }
    }
}
