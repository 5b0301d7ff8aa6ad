//! `pelton seek`: let a paused pipeline go on at another place.

use super::daemon_address::{DaemonArgs, failure};
use super::{Exit, Outcome, note, say, say_json};
use crate::admin::view::SeekRequest;
use crate::status::{SeekAnswer, SeekMove};

const AFTER_HELP: &str = "\
A place is PARTITION:OFFSET, TOPIC/PARTITION:OFFSET, a time (2026-01-01T00:00:00Z), a time ago (2 h ago), earliest or
latest. --to may be repeated, once for each partition; a time holds for all partitions that the daemon reads.

  pelton pause orders shop
  pelton seek orders shop --to '2 h ago' --dry-run
  pelton seek orders shop --to '2 h ago'
  pelton resume orders shop

Where it goes back, what is read again is written again: the same cells with the same write times, as far as the
pipeline's journal reaches, and once more to Kafka outputs and dead letters. Where it goes ahead, what lies between is
passed over for good. To read a range again beside the pipeline there is `pelton replay`.";

/// Let a paused pipeline go on at another place
#[derive(Debug, clap::Args)]
#[command(after_help = AFTER_HELP)]
pub(super) struct Args {
    /// The pipeline's name: the stem of its file
    pipeline: String,
    #[command(flatten)]
    daemon: DaemonArgs,
    /// Where to go on
    #[arg(long, required = true, value_name = "PLACE")]
    to: Vec<String>,
    /// Say what would be moved, and move nothing
    #[arg(long)]
    dry_run: bool,
    /// Print the answer as JSON
    #[arg(long)]
    json: bool,
}

pub(super) fn run(args: Args) -> Outcome {
    let wanted = SeekRequest { to: args.to, dry_run: args.dry_run };
    let daemon = args.daemon.again();
    let answer = args.daemon.client()?.seek(&args.pipeline, &wanted).map_err(failure)?;
    if args.json {
        say_json(&answer)?;
        return Ok(Exit::Success);
    }
    let SeekAnswer { pipeline, dry_run, moves, elsewhere } = answer;
    moves.iter().for_each(|moved| say(line(moved)));
    if !elsewhere.is_empty() {
        note(format_args!("not moved, since this daemon does not read them: {}", elsewhere.join(", ")));
    }
    if dry_run {
        say("nothing was moved: leave --dry-run out to move");
    } else {
        say(format_args!("{pipeline} goes on there once it is resumed: pelton resume {pipeline}{daemon}"));
    }
    Ok(Exit::Success)
}

fn line(moved: &SeekMove) -> String {
    let SeekMove { topic, partition, from, to, exact } = moved;
    let what = match from {
        Some(from) if from == to => "stays".to_owned(),
        Some(from) if from > to => format!("from {from}: {} offsets are read again", from - to),
        Some(from) => format!("from {from}: {} offsets are passed over", to - from),
        None => "nothing was committed before".to_owned(),
    };
    let clock = if *exact { "" } else { "; write times go on at the highest that is known" };
    format!("{topic}/{partition}: to {to}, {what}{clock}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn says_what_is_read_again_and_what_is_passed_over() {
        let moved = |from, to, exact| SeekMove { topic: "t".into(), partition: 1, from, to, exact };
        assert_eq!(line(&moved(Some(9), 4, true)), "t/1: to 4, from 9: 5 offsets are read again");
        let ahead = "t/1: to 9, from 4: 5 offsets are passed over; write times go on at the highest that is known";
        assert_eq!(line(&moved(Some(4), 9, false)), ahead);
        assert_eq!(line(&moved(None, 4, true)), "t/1: to 4, nothing was committed before");
    }
}
