//! `pelton demo`.

use std::io::{self, IsTerminal as _};
use std::path::PathBuf;
use std::time::Duration;

use indicatif::{ProgressBar, ProgressStyle};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::table::Side::{Left, Right};
use super::table::{Table, grouped};
use super::{Exit, Failure, Outcome, is_no_project, note, say, say_json};
use crate::config::{self, LogSettings, ProcessEnvironment};
use crate::demo::{self, DemoError, Directory, Options, Other, Part, Progress, Reconciliation, Summary};
use crate::shell;
use crate::telemetry::init_logging_to;

/// Events a second, and where there is no end (what should be in the stores is kept in memory).
const RATE: u32 = 2_000;
const RATE_FOREVER: u32 = 200;
/// What the Kafka client says is logged under this.
const CLIENT: &str = "pelton::kafka";
/// How often a plain line is written where there is no terminal.
const PLAIN_LINE: Duration = Duration::from_secs(5);
/// And how soon another where what is waited for changes.
const NEWS_LINE: Duration = Duration::from_secs(1);

const AFTER_HELP: &str = "\
What it does: starts a Kafka-protocol broker inside this process, writes a shop's events to it (messy ones too),
runs the daemon on a project with the plugin shop-orders, and then reads back the table, the alerts and the dead
letters, and compares: every id where it belongs, every row's final values right, filtered ids nowhere.

  pelton demo --keep shop     leaves the project in shop/
  pelton demo shop            runs what is there now, with your changes, against new events
  pelton run shop             runs it against a real broker: PELTON_BROKERS=host:9092

It knows the outcome as long as the plugin is the one it came with; the step's `config:` may be changed. Of further
pipelines beside it, it tells what they did. With another plugin it shows what the stores hold, and compares nothing.

Exit code 1: the stores are not as they should be, or a pipeline stands still or has not handled every event.";

/// Arguments of `pelton demo`.
#[derive(Debug, clap::Args)]
#[command(after_help = AFTER_HELP)]
pub(super) struct Args {
    /// Run the project in this directory, which an earlier `--keep` wrote
    #[arg(conflicts_with = "keep")]
    dir: Option<PathBuf>,
    /// How long events are produced
    #[arg(long, default_value_t = 30, value_parser = clap::value_parser!(u64).range(1..=86_400))]
    seconds: u64,
    /// Go on until ctrl-C, at 200 events a second unless told otherwise
    #[arg(long, conflicts_with = "seconds")]
    forever: bool,
    /// Events a second [default: 2000]
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..=100_000))]
    rate: Option<u32>,
    /// The same seed makes the same events, but for their times
    #[arg(long, default_value_t = 7)]
    seed: u64,
    /// Write the project to this new directory and leave it there
    #[arg(long, value_name = "DIR")]
    keep: Option<PathBuf>,
    /// Print the summary as one JSON object
    #[arg(long)]
    json: bool,
}

/// Runs the demo; exit code 1 where the stores are not as they should be, or a pipeline failed.
pub(super) fn run(args: Args) -> Outcome {
    let directory = match (args.dir, args.keep) {
        (Some(dir), _) => Directory::Existing(dir),
        (None, Some(dir)) => Directory::Keep(dir),
        (None, None) => Directory::Temporary,
    };
    let options = Options {
        seed: args.seed,
        length: (!args.forever).then(|| Duration::from_secs(args.seconds)),
        rate: args.rate.unwrap_or(if args.forever { RATE_FOREVER } else { RATE }),
        directory,
    };
    let mut live = Live::new(options.length);
    init_logging_to(&log_settings(&options.directory), live.beside(), io::stderr().is_terminal())?;
    let runtime = tokio::runtime::Runtime::new()?;
    let existing = match &options.directory {
        Directory::Existing(dir) => Some(dir.as_path()),
        Directory::Keep(_) | Directory::Temporary => None,
    };
    let summary = runtime
        .block_on(async {
            let stop = CancellationToken::new();
            let stopping = stop.clone();
            let interrupt = tokio::spawn(async move {
                if tokio::signal::ctrl_c().await.is_ok() {
                    stopping.cancel();
                }
            });
            let summary = demo::run(&options, &stop, |progress| live.show(progress)).await;
            live.end();
            interrupt.abort();
            summary
        })
        .map_err(|error| match &error {
            DemoError::Directory { .. } => Failure::usage(error),
            DemoError::Start(_) if existing.is_some_and(is_no_project) => Failure::usage(error),
            _ => Failure::from(error),
        })?;
    if args.json {
        say_json(&summary)?;
    } else {
        print(&summary, &options.directory);
    }
    let failed = summary.matches == Some(false) || summary.others.iter().any(Other::has_failed);
    Ok(if failed { Exit::Failed } else { Exit::Success })
}

/// What the daemon says: of a project that is somebody's own, as its `log:` wants it.
fn log_settings(directory: &Directory) -> LogSettings {
    match directory {
        Directory::Existing(dir) => {
            let mut log = config::read(dir, &ProcessEnvironment).settings.log;
            // The broker is the demo's own, and gone before the last of its clients.
            if !log.level.contains(CLIENT) {
                log.level.push_str(&format!(",{CLIENT}=error"));
            }
            log
        }
        Directory::Keep(_) | Directory::Temporary => LogSettings { json: false, level: "error".into() },
    }
}

/// Log lines beside a live line, which would run through each other.
struct Beside(Option<ProgressBar>);

impl io::Write for Beside {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match &self.0 {
            Some(bar) => bar.suspend(|| io::stderr().write(bytes)),
            None => io::stderr().write(bytes),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        io::stderr().flush()
    }
}

/// The live line.
struct Live {
    bar: Option<ProgressBar>,
    said: Option<(Instant, Progress)>,
    length: Option<Duration>,
}

impl Live {
    fn new(length: Option<Duration>) -> Self {
        let bar = std::io::stderr().is_terminal().then(|| {
            let bar = ProgressBar::new_spinner();
            let style = ProgressStyle::with_template("{spinner} {msg}").expect("the template is a constant");
            bar.set_style(style);
            bar
        });
        Self { bar, said: None, length }
    }

    /// Where others write without disturbing it.
    fn beside(&self) -> impl Fn() -> Beside + Send + Sync + use<> {
        let bar = self.bar.clone();
        move || Beside(bar.clone())
    }

    fn show(&mut self, progress: &Progress) {
        let text = line(progress, self.length);
        if let Some(bar) = &self.bar {
            bar.set_message(text);
            bar.tick();
            return;
        }
        let is_due = self.said.as_ref().is_none_or(|(at, said)| is_due(at.elapsed(), said, progress));
        if is_due {
            self.said = Some((Instant::now(), progress.clone()));
            note(text);
        }
    }

    fn end(&self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }
}

/// Whether there is something for another plain line, so long after the last one. A rate is that of a moment, and alone no
/// news.
fn is_due(since: Duration, said: &Progress, progress: &Progress) -> bool {
    let moved = |progress: &Progress| Progress { per_second: 0.0, latency_ms: None, ..progress.clone() };
    let is_other_note = said.note != progress.note && (progress.events == 0 || since >= NEWS_LINE);
    is_other_note || (since >= PLAIN_LINE && moved(said) != moved(progress))
}

fn line(progress: &Progress, length: Option<Duration>) -> String {
    if let (Some(note), 0) = (&progress.note, progress.events) {
        return format!("{note} …");
    }
    let of = length.map_or_else(String::new, |length| format!(" of {} s", length.as_secs()));
    let latency = match progress.latency_ms {
        Some((middle, slowest)) => format!("{middle} ms (99 of 100 within {slowest} ms)"),
        None => "–".into(),
    };
    let note = progress.note.as_ref().map_or_else(String::new, |note| format!("   {note}"));
    format!(
        "{:5.1} s{of}   {} events   {:.0}/s   latency {latency}   {} alerts   {} dead letters   {} under way{note}",
        progress.elapsed.as_secs_f64(),
        grouped(progress.events),
        progress.per_second,
        grouped(progress.alerts),
        grouped(progress.dead_letters),
        grouped(progress.lag),
    )
}

fn print(summary: &Summary, directory: &Directory) {
    say(format_args!(
        "{} events in {:.1} s ({}/s), seed {}{}",
        grouped(summary.events),
        summary.seconds,
        grouped(summary.events_per_second as u64),
        summary.seed,
        match (summary.latency_p50_ms, summary.latency_p99_ms) {
            (Some(middle), Some(slowest)) =>
                format!("; from record to topic in {middle} ms, 99 of 100 within {slowest} ms"),
            _ => String::new(),
        }
    ));
    match &summary.reconciliation {
        Some(result) => {
            say("");
            say(reckoning(result, !summary.others.is_empty()));
        }
        None => {
            let why = summary.not_compared_because.as_deref().unwrap_or("nobody knows what should be there");
            say("");
            say("Read back from the stores:");
            for (table, rows) in &summary.seen.tables {
                say(format_args!("  {:<38}{:>10}", format!("rows of table {table}"), grouped(*rows)));
            }
            for (topic, records) in &summary.seen.topics {
                say(format_args!("  {:<38}{:>10}", format!("records of topic {topic}"), grouped(*records)));
            }
            for (code, count) in &summary.seen.dead_letters {
                say(format_args!("  {:<38}{:>10}", format!("dead letters, {code}"), grouped(*count)));
            }
            say(format_args!("Not compared with anything: {why}."));
        }
    }
    if !summary.others.is_empty() {
        say("");
        say("Pipelines beside it, counted and not compared with anything:");
        summary.others.iter().flat_map(other_lines).for_each(say);
    }
    say("");
    closing_words(summary, directory).iter().for_each(say);
}

/// What a pipeline beside the demo's own did, and what to do where it failed.
fn other_lines(other: &Other) -> Vec<String> {
    let rows: u64 = other.rows.values().sum();
    let dead: u64 = other.dead_letters.values().sum();
    let mut lines = vec![format!(
        "  {:<16}{}: {} records read, {} rows written, {} dropped, {} dead letters",
        other.name,
        other.state,
        grouped(other.records),
        grouped(rows),
        grouped(other.filtered),
        grouped(dead)
    )];
    let mut more = |text: String| lines.push(format!("{:18}{text}", ""));
    if let Some(cause) = &other.cause {
        more(cause.clone());
    }
    if other.events_behind > 0 {
        more(format!("{} events were not handled", grouped(other.events_behind)));
    }
    if let Some(held_by) = &other.held_by {
        more(held_by.clone());
    }
    if !other.dead_letters.is_empty() {
        let mut codes: Vec<_> = other.dead_letters.iter().collect();
        codes.sort_by_key(|(code, count)| (std::cmp::Reverse(**count), *code));
        let codes: Vec<String> = codes.into_iter().map(|(code, count)| format!("{code} {}", grouped(*count))).collect();
        more(format!("dead letters in {}: {}", other.dead_letters_in, codes.join(", ")));
    }
    lines
}

/// What the events should have left and what was found, store by store, and a verdict.
fn reckoning(result: &Reconciliation, has_others: bool) -> String {
    let mut table =
        Table::new("  ", &[("", Left), ("EXPECTED", Right), ("FOUND", Right), ("", Left), ("READ BACK FROM", Left)]);
    let mut row = |name: &str, part: &Part, store: &str| {
        table.row([name.to_owned(), grouped(part.expected), grouped(part.found), verdict(part), store.to_owned()]);
    };
    row("rows with their last values", &result.orders, "the table");
    row("alerts", &result.alerts, "their topic");
    let letters = result.dead_letters.values().fold(Part::default(), |sum, part| Part {
        expected: sum.expected + part.expected,
        found: sum.found + part.found,
        missing: sum.missing + part.missing,
        unexpected: sum.unexpected + part.unexpected,
        wrong: sum.wrong + part.wrong,
    });
    row("dead letters", &letters, "their topic");
    for (code, part) in &result.dead_letters {
        row(&format!("  {code}"), part, "");
    }
    // Of events that leave nothing, nothing is expected anywhere.
    for (what, part) in [("traces of filtered events", &result.filtered), ("traces of late events", &result.skipped)] {
        row(what, &Part { expected: 0, found: part.unexpected, ..part.clone() }, "both topics");
    }
    let mut page = format!("What {} events should have left, and what is there:\n\n", grouped(result.events));
    page.push_str(&table.render());
    page.push_str(&format!(
        "\n{} events were filtered, and {} came too late: they leave nothing.\n",
        grouped(result.filtered.expected),
        grouped(result.skipped.expected)
    ));
    if result.repeats > 0 {
        let repeats = grouped(result.repeats);
        page.push_str(&format!("{repeats} records came to a topic more than once, as at-least-once allows.\n"));
    }
    if result.matches {
        page.push_str(if has_others {
            "Of the demo's own pipeline, everything is where it belongs, every value is right, and nothing else is there."
        } else {
            "Everything is where it belongs, every value is right, and nothing else is there."
        });
        return page;
    }
    page.push_str(&format!("{} differences:", grouped(result.differences_total)));
    for difference in &result.differences {
        page.push_str(&format!("\n  {difference}"));
    }
    page
}

/// `right`, or what is wrong and how often.
fn verdict(part: &Part) -> String {
    let kinds = [(part.missing, "missing"), (part.unexpected, "unexpected"), (part.wrong, "differ")];
    let wrong: Vec<String> = kinds
        .into_iter()
        .filter(|(count, _)| *count > 0)
        .map(|(count, what)| format!("{} {what}", grouped(count)))
        .collect();
    if wrong.is_empty() { "right".to_owned() } else { format!("WRONG: {}", wrong.join(", ")) }
}

/// What somebody may want to do next, by what was just done.
fn closing_words(summary: &Summary, directory: &Directory) -> Vec<String> {
    let dir = match directory {
        Directory::Temporary => {
            let words = "Next: `pelton demo --keep shop` leaves the project in shop/, for you to change and run again.";
            return vec![words.to_owned()];
        }
        Directory::Keep(dir) | Directory::Existing(dir) => dir.display().to_string(),
    };
    let dir = shell::quoted(&dir);
    let mut lines = Vec::new();
    let mut next = |what: &str, how: String| lines.push(format!("  {what:<26}{how}"));
    for other in summary.others.iter().filter(|other| other.has_failed()) {
        next("mend a pipeline", format!("{dir}/pipelines/{}.yaml, then `pelton demo {dir}`", other.name));
    }
    for other in summary.others.iter().filter(|other| !other.dead_letters.is_empty()) {
        if !other.dead_letters_in.starts_with("topic ") {
            next("see why records failed", format!("head -n 3 {}", shell::quoted(&other.dead_letters_in)));
        }
    }
    if let Some(file) = &summary.tables_file {
        let others: Vec<&String> = summary.others.iter().flat_map(|other| &other.tables).collect();
        // An author wants to see what their own pipeline wrote.
        let tables = if others.is_empty() { summary.seen.tables.keys().collect() } else { others };
        for table in tables {
            let file = shell::argument(file);
            next("look into a table", format!("sqlite3 {file} 'SELECT * FROM {table} LIMIT 5'"));
        }
    }
    if matches!(directory, Directory::Keep(_)) {
        next("change a rule", format!("`vat_percent` in {dir}/pipelines/orders.yaml, then `pelton demo {dir}`"));
        next("write a plugin", format!("cd {dir}, then `pelton plugin new hello`"));
    }
    if matches!(directory, Directory::Keep(_)) {
        next("use a real broker", format!("PELTON_BROKERS=host:9092 pelton run {dir}"));
    } else {
        next("use a real broker", format!("set `kafka: brokers` in {dir}/pelton.yaml, then `pelton run {dir}`"));
    }
    let headline = match directory {
        Directory::Keep(_) => format!("The project is in {dir}/, for you to change and run again. Next:"),
        _ => "Next:".to_owned(),
    };
    lines.insert(0, headline);
    lines
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_that_says_nothing_new_is_not_said_again() {
        let (long, said) =
            (PLAIN_LINE * 2, Progress { events: 7, note: Some("read back".into()), ..Progress::default() });
        let now = |change: fn(&mut Progress)| {
            let mut progress = Progress { per_second: 3.0, ..said.clone() };
            change(&mut progress);
            progress
        };
        assert!(!is_due(long, &said, &now(|_| ())), "another rate is no news");
        assert!(is_due(long, &said, &now(|progress| progress.events = 8)));
        assert!(!is_due(NEWS_LINE, &said, &now(|progress| progress.events = 8)), "not yet");
        assert!(is_due(NEWS_LINE, &said, &now(|progress| progress.note = None)));
    }

    #[test]
    fn the_live_line_says_what_matters() {
        let progress = Progress {
            elapsed: Duration::from_millis(12_340),
            events: 24_680,
            per_second: 1999.6,
            latency_ms: Some((12, 40)),
            alerts: 310,
            dead_letters: 2_960,
            lag: 35,
            note: None,
        };
        assert_eq!(
            line(&progress, Some(Duration::from_secs(30))),
            " 12.3 s of 30 s   24,680 events   2000/s   latency 12 ms (99 of 100 within 40 ms)   310 alerts   \
             2,960 dead letters   35 under way"
        );
        let waiting = Progress { note: Some("the pipeline joins its group".into()), ..Progress::default() };
        assert_eq!(line(&waiting, None), "the pipeline joins its group …");
    }

    #[test]
    fn the_reckoning_says_what_was_expected_what_was_found_and_whether_that_is_right() {
        let well = |count| Part { expected: count, found: count, ..Part::default() };
        let mut result = Reconciliation {
            matches: true,
            events: 60_000,
            orders: well(32_100),
            alerts: well(310),
            dead_letters: [("bad_items".to_owned(), well(1_200)), ("unknown_kind".to_owned(), well(7))].into(),
            filtered: Part { expected: 633, ..Part::default() },
            skipped: Part { expected: 52, ..Part::default() },
            repeats: 0,
            differences: Vec::new(),
            differences_total: 0,
        };
        let page = "\
What 60,000 events should have left, and what is there:

                               EXPECTED   FOUND         READ BACK FROM
  rows with their last values    32,100  32,100  right  the table
  alerts                            310     310  right  their topic
  dead letters                    1,207   1,207  right  their topic
    bad_items                     1,200   1,200  right
    unknown_kind                      7       7  right
  traces of filtered events           0       0  right  both topics
  traces of late events               0       0  right  both topics

633 events were filtered, and 52 came too late: they leave nothing.
Everything is where it belongs, every value is right, and nothing else is there.";
        assert_eq!(reckoning(&result, false), page);
        assert!(reckoning(&result, true).ends_with(
            "Of the demo's own pipeline, everything is where it belongs, every \
                                                    value is right, and nothing else is there."
        ));

        (result.matches, result.differences_total) = (false, 1_003);
        result.differences.push("order A-1 has no row".to_owned());
        result.orders = Part { expected: 9, found: 8, missing: 1, unexpected: 0, wrong: 1_000 };
        (result.filtered.found, result.filtered.unexpected) = (2, 2);
        let page = reckoning(&result, false);
        for line in [
            "  rows with their last values         9      8  WRONG: 1 missing, 1,000 differ  the table\n",
            "  traces of filtered events           0      2  WRONG: 2 unexpected             both topics\n",
            "1,003 differences:\n  order A-1 has no row",
        ] {
            assert!(page.contains(line), "{line:?} is not in\n{page}");
        }
    }
}
