//! `pelton dlq redrive`: records through their pipeline again.

use std::collections::BTreeMap;
use std::io::{self, IsTerminal as _, Write as _};
use std::path::PathBuf;
use std::time::Duration;

use indicatif::{ProgressBar, ProgressStyle};
use serde::Serialize;

use super::dlq::{Which, block_on, failure, of_a_project, short_id};
use super::table::{counted, grouped, plain};
use super::{Exit, Failure, Outcome, compiling, note, say, say_json};
use crate::config::{LogSettings, ProcessEnvironment};
use crate::daemon::Ready;
use crate::daemon::letters::{LettersError, Redrive};
use crate::dead_letters::lines::{self, SetField};
use crate::dead_letters::redriving::{Choice, NotRedriven, RedriveError, Report, Request, by_code};
use crate::pipeline::SourceError;
use crate::telemetry;

/// How often progress is shown: on a terminal, and in plain lines.
const BAR_EVERY: Duration = Duration::from_millis(200);
const LINE_EVERY: Duration = Duration::from_secs(5);
/// Letters that are named one by one in a page; JSON has all.
const NAMED_MAX: usize = 20;

const AFTER_HELP: &str = "\
Say which: --all, --code, --plugin, --since, --id, or --file with lines of `pelton dlq export`.

  pelton dlq redrive orders shop --code negative_amount --dry-run
  pelton dlq redrive orders shop --id shop.orders/0/17 --set amount_cents=500
  pelton dlq redrive orders shop --file edited.jsonl --yes

Records go through the same steps to the same outputs as the first time, with the plugins and the configuration of now,
and are written at their own write times: what was written later stays. Where part of a record was written already, it goes
right above that. Kafka outputs carry the same `pelton-id` as they would have had the first time.

What fails again is a dead letter once more, which says how often it was redriven; it is redriven again only where it is
named, or with --again. What is redriven is marked where the letters lie. To end it at any moment loses nothing: begin it
again, and the rest follows. The daemon may run meanwhile, and other redrives: of two that begin with the same record at
once, one writes it, and the other says that it has left it.";

/// Send records through their pipeline again, at their own write times
#[derive(Debug, clap::Args)]
#[command(after_help = AFTER_HELP)]
pub(super) struct Args {
    /// The pipeline's name: the stem of its file
    pipeline: String,
    /// The project directory
    #[arg(default_value = ".", value_name = "DIR")]
    dir: PathBuf,
    /// All letters that are open
    #[arg(long)]
    all: bool,
    #[command(flatten)]
    which: Which,
    /// This letter: its `pelton-id`, or TOPIC/PARTITION/OFFSET; may be repeated
    #[arg(long, value_name = "ID")]
    id: Vec<String>,
    /// These letters, as edited: lines of `pelton dlq export`
    #[arg(long, value_name = "FILE")]
    file: Option<PathBuf>,
    /// Set a field of the value: customer.country=DE; a value that is no JSON is a text; may be repeated
    #[arg(long, value_name = "PATH=VALUE")]
    set: Vec<String>,
    /// Also what was redriven before and failed again; with --id or --file also what was redriven
    #[arg(long)]
    again: bool,
    /// Say what would be redriven, and write nothing
    #[arg(long)]
    dry_run: bool,
    /// Do not ask
    #[arg(long)]
    yes: bool,
    /// Print the summary as one JSON object
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Serialize)]
struct Summary {
    pipeline: String,
    dry_run: bool,
    /// Records that were meant.
    chosen: u64,
    /// Records that went through.
    redriven: u64,
    /// Records that are dead letters once more.
    failed: Vec<NotRedriven>,
    /// Records that could not go on their way.
    refused: Vec<NotRedriven>,
    /// Left out: redriven before, and failed again.
    left_failed_again: u64,
    /// Left out: redriven already.
    left_redriven: u64,
    /// Rows written, by output.
    rows: BTreeMap<String, u64>,
    /// Records that a plugin let go.
    filtered: u64,
    /// Rows that had expired, and were not written.
    expired: u64,
    /// With --dry-run: what would be written, and at which write time.
    #[serde(skip_serializing_if = "Option::is_none")]
    planned: Option<Vec<PlannedSummary>>,
}

#[derive(Debug, Serialize)]
struct PlannedSummary {
    id: String,
    write_time: i64,
}

pub(super) fn run(args: Args) -> Outcome {
    of_a_project(&args.dir)?;
    let request = request(&args)?;
    if !args.dry_run && !args.yes && (args.json || !io::stdin().is_terminal()) {
        return Err(Failure::usage("nobody can be asked here: say --yes, or look first with --dry-run"));
    }
    // Its own words are enough, but for what goes wrong.
    let quiet = |settings: &LogSettings| {
        telemetry::init_logging(&LogSettings { level: "warn".to_owned(), json: settings.json })
    };
    let ready = compiling(|| Ready::read(&args.dir, &ProcessEnvironment, quiet))
        .map_err(|error| failure(LettersError::Start(error)))?;
    block_on(redrive(ready, args, request))
}

fn request(args: &Args) -> Result<Request, Failure> {
    if !args.all && args.which.is_empty() && args.id.is_empty() && args.file.is_none() {
        return Err(Failure::usage("say which letters: --all, --code, --plugin, --since, --id or --file"));
    }
    let set: Result<Vec<SetField>, String> = args.set.iter().map(|text| SetField::parse(text)).collect();
    let edited = match &args.file {
        None => Vec::new(),
        Some(path) => {
            let told = |what: String| Failure::new(format_args!("{}: {what}", path.display()));
            let text = std::fs::read_to_string(path).map_err(|error| told(error.to_string()))?;
            let edited = lines::read(&text).map_err(told)?;
            if edited.is_empty() {
                return Err(told("there are no lines in it".to_owned()));
            }
            edited
        }
    };
    let filter = args.which.filter(&args.id)?;
    let set = set.map_err(|wrong| Failure::usage(format_args!("--set {wrong}")))?;
    Ok(Request { filter, edited, set, again: args.again })
}

async fn redrive(ready: Ready, args: Args, request: Request) -> Outcome {
    let redrive = Redrive::prepare(&ready, &args.pipeline, request).await.map_err(failure)?;
    let choice = redrive.choice();
    if !args.json {
        told(&args.pipeline, &redrive.place(), choice);
    }
    if args.dry_run {
        return rehearse(&redrive, &args).await;
    }
    if !choice.chosen.is_empty() && !args.yes && !asked(choice.chosen.len())? {
        say("nothing was redriven");
        return Ok(Exit::Success);
    }
    let report = shown(&redrive, choice.chosen.len() as u64).await.map_err(|error| match error {
        RedriveError::Place(error @ SourceError::Unreachable { .. }) => Failure::unavailable(error),
        other => Failure::new(other),
    })?;
    let is_clean = report.failed.is_empty() && report.refused.is_empty();
    let summary = Summary::of(&args.pipeline, &redrive, report);
    if args.json {
        say_json(&summary)?;
    } else {
        summary.print();
    }
    Ok(if is_clean { Exit::Success } else { Exit::Failed })
}

fn told(pipeline: &str, place: &str, choice: &Choice) {
    let count = choice.chosen.len() as u64;
    let are = if count == 1 { "is" } else { "are" };
    say(format_args!("{} of {pipeline} ({place}) {are} meant", counted(count, "letter")));
    if choice.failed_again > 0 {
        say(format_args!(
            "  left out: {} that were redriven and failed again (--again takes them)",
            choice.failed_again
        ));
    }
    if choice.redriven > 0 {
        say(format_args!("  left out: {} that were redriven (--id ID --again takes one)", choice.redriven));
    }
}

fn asked(count: usize) -> Result<bool, Failure> {
    let mut out = io::stderr();
    write!(out, "redrive {}? [y/N] ", counted(count as u64, "record")).and_then(|()| out.flush())?;
    let mut answer = String::new();
    io::stdin().read_line(&mut answer)?;
    Ok(["y", "yes"].contains(&answer.trim().to_ascii_lowercase().as_str()))
}

async fn rehearse(redrive: &Redrive, args: &Args) -> Outcome {
    let (planned, refused) = redrive.rehearse().await.map_err(|error| failure(LettersError::Place(error)))?;
    let exit = if refused.is_empty() { Exit::Success } else { Exit::Failed };
    if args.json {
        let planned =
            planned.iter().map(|one| PlannedSummary { id: one.letter.id.clone(), write_time: one.write_time.0 });
        let report = Report { refused, ..Report::default() };
        let mut summary = Summary::of(&args.pipeline, redrive, report);
        (summary.dry_run, summary.planned) = (true, Some(planned.collect()));
        say_json(&summary)?;
        return Ok(exit);
    }
    for one in planned.iter().take(NAMED_MAX) {
        say(format_args!(
            "  {} would go through the steps, and be written at {}",
            plain(short_id(&one.letter.id)),
            one.write_time
        ));
    }
    if planned.len() > NAMED_MAX {
        say(format_args!("  and {} more", grouped((planned.len() - NAMED_MAX) as u64)));
    }
    name_some("cannot be redriven", &refused);
    say("nothing was run or written: leave --dry-run out to redrive");
    Ok(exit)
}

/// Runs, and shows how far it is.
async fn shown(redrive: &Redrive, of: u64) -> Result<Report, RedriveError> {
    let bar = io::stderr().is_terminal().then(|| {
        let style = ProgressStyle::with_template("{bar:40} {percent}% {msg} ({eta} left)");
        ProgressBar::new(of).with_style(style.expect("the template is a constant"))
    });
    let mut tick = tokio::time::interval(if bar.is_some() { BAR_EVERY } else { LINE_EVERY });
    tick.tick().await;
    let mut running = std::pin::pin!(redrive.run());
    let ended = loop {
        tokio::select! {
            biased;
            ended = &mut running => break ended,
            _ = tick.tick() => {
                let done = redrive.done();
                let blocked = redrive.blocked().map(|cause| format!("; blocked: {cause}")).unwrap_or_default();
                let text = format!("{} of {} records{blocked}", grouped(done), grouped(of));
                match &bar {
                    Some(bar) => {
                        bar.set_position(done);
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
    ended
}

impl Summary {
    fn of(pipeline: &str, redrive: &Redrive, report: Report) -> Self {
        let (choice, totals) = (redrive.choice(), redrive.totals());
        Self {
            pipeline: pipeline.to_owned(),
            dry_run: false,
            chosen: choice.chosen.len() as u64,
            redriven: report.redriven,
            failed: report.failed,
            refused: report.refused,
            left_failed_again: choice.failed_again,
            left_redriven: choice.redriven,
            rows: totals.rows,
            filtered: totals.filtered,
            expired: totals.expired,
            planned: None,
        }
    }

    fn print(&self) {
        say(format_args!("redriven: {}", grouped(self.redriven)));
        for (output, rows) in &self.rows {
            say(format_args!("  {output}: {}", counted(*rows, "row")));
        }
        for (what, count) in [("were let go by a plugin", self.filtered), ("rows had expired", self.expired)] {
            if count > 0 {
                say(format_args!("  {} {what}", grouped(count)));
            }
        }
        if !self.failed.is_empty() {
            say(format_args!("failed again, and dead letters once more: {}", grouped(self.failed.len() as u64)));
            for (code, count) in by_code(&self.failed) {
                say(format_args!("  {}: {}", plain(code), grouped(count)));
            }
            name_some("failed", &self.failed);
        }
        name_some("was not redriven", &self.refused);
    }
}

fn name_some(what: &str, records: &[NotRedriven]) {
    for NotRedriven { id, message, .. } in records.iter().take(NAMED_MAX) {
        say(format_args!("  {} {what}: {}", plain(short_id(id)), plain(message)));
    }
    if records.len() > NAMED_MAX {
        say(format_args!("  and {} more", grouped((records.len() - NAMED_MAX) as u64)));
    }
}
