//! `pelton dlq export`: letters as JSON lines.

use std::collections::BTreeSet;
use std::fs::File;
use std::io::{self, BufWriter, Write};
use std::path::{Path, PathBuf};

use super::dlq::{Which, Whose, block_on, unreadable};
use super::table::counted;
use super::{Exit, Failure, Outcome, note};
use crate::daemon::letters::Letters;
use crate::dead_letters::cases::{Cases, Filter, State, slices};
use crate::dead_letters::lines;

const AFTER_HELP: &str = "\
Each line holds what tells which record it is, what is said of it, and the record: key, value and headers. Of these each
may be edited, and the file given to `pelton dlq redrive PIPELINE --file FILE`; only what stands in the file is redriven
then. The lines hold payloads.";

/// Write letters as JSON lines: to look at, or to edit and hand to `redrive --file`
#[derive(Debug, clap::Args)]
#[command(after_help = AFTER_HELP)]
pub(super) struct Args {
    #[command(flatten)]
    whose: Whose,
    #[command(flatten)]
    which: Which,
    /// Only this letter: its `pelton-id`, or TOPIC/PARTITION/OFFSET; may be repeated
    #[arg(long, value_name = "ID")]
    id: Vec<String>,
    /// Also what was redriven already
    #[arg(long)]
    redriven: bool,
    /// Write to this new file instead of standard output
    #[arg(long, short, value_name = "FILE")]
    output: Option<PathBuf>,
}

pub(super) fn run(args: &Args) -> Outcome {
    let (places, filter) = (args.whose.places()?, args.which.filter(&args.id)?);
    let mut out: Box<dyn Write> = match &args.output {
        None => Box::new(BufWriter::new(io::stdout())),
        Some(path) => Box::new(BufWriter::new(new_file(path)?)),
    };
    let is_wanted = |state| args.redriven || state != State::Redriven;
    let (mut counts, mut codes) = (Counts::default(), BTreeSet::new());
    block_on(async {
        for letters in &places {
            export(letters, &filter, is_wanted, &mut out, (&mut counts, &mut codes)).await?;
        }
        Ok(())
    })?;
    written(out.flush())?;
    if let Some(unknown) = filter.unknown_code(codes.iter().map(String::as_str)) {
        // An empty file would stand in the way of the next try.
        args.output.iter().for_each(|path| drop(std::fs::remove_file(path)));
        return Err(Failure::usage(unknown));
    }
    let to = args.output.as_ref().map_or_else(String::new, |path| format!(" to {}", path.display()));
    note(format_args!("{} written{to}", counted(counts.written, "letter")));
    if counts.missing > 0 {
        note(format_args!("{} of them without their records, which lie elsewhere: `show` says where", counts.missing));
    }
    if counts.written == 0 && !args.id.is_empty() {
        return Err(Failure::new(format_args!("there is no such letter: {}", args.id.join(", "))));
    }
    Ok(Exit::Success)
}

#[derive(Debug, Default)]
struct Counts {
    written: u64,
    missing: u64,
}

fn new_file(path: &Path) -> Result<File, Failure> {
    File::create_new(path).map_err(|error| match error.kind() {
        io::ErrorKind::AlreadyExists => {
            Failure::usage(format_args!("{} is there already, and may hold edits: name another file", path.display()))
        }
        _ => Failure::new(format_args!("{}: {error}", path.display())),
    })
}

/// Where the reader has gone (`pelton … | head`) the command ends.
fn written(result: io::Result<()>) -> Result<(), Failure> {
    match result {
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => std::process::exit(0),
        other => other.map_err(Failure::from),
    }
}

async fn export(
    letters: &Letters,
    filter: &Filter,
    is_wanted: impl Fn(State) -> bool,
    out: &mut dyn Write,
    (counts, codes): (&mut Counts, &mut BTreeSet<String>),
) -> Result<(), Failure> {
    let Letters { pipeline, place } = letters;
    let cases = Cases::read(&**place, &pipeline.name, |_| false).await.map_err(unreadable)?;
    codes.extend(cases.codes().map(str::to_owned));
    let meant = cases.cases.iter().filter(|(_, case)| filter.takes(case) && is_wanted(case.state()));
    let meant: Vec<_> = meant.map(|(key, case)| (key.clone(), case.bytes)).collect();
    for slice in slices(&meant) {
        let cases = Cases::read(&**place, &pipeline.name, |key| slice.contains(key)).await.map_err(unreadable)?;
        for case in slice.iter().filter_map(|key| cases.cases.get(key)) {
            counts.written += 1;
            counts.missing += u64::from(case.missing.is_some());
            written(writeln!(out, "{}", lines::line(case)))?;
        }
    }
    Ok(())
}
