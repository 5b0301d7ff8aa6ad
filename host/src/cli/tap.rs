//! `pelton tap`: live records before and after a step.

use std::sync::mpsc;

use super::daemon_address::{DaemonArgs, failure};
use super::table::plain;
use super::{Exit, Failure, Outcome, PATIENCE, note, say};
use crate::pipeline::tap::{After, Parts, Sight, Wish};

/// Records that are shown where neither --count nor --sample is given.
const COUNT: u64 = 10;

/// Show live records of a running daemon, before and after each step
#[derive(Debug, clap::Args)]
#[command(after_help = "\
It shows sizes, what became of each record, and where it went; --payload prints keys and values too. The line never waits
for it: what comes too fast is passed over, and counted. A record that is tried again shows again.")]
pub(super) struct Args {
    /// The pipeline's name: the stem of its file
    pipeline: String,
    #[command(flatten)]
    daemon: DaemonArgs,
    /// Only this step, from 1
    #[arg(long, value_name = "N")]
    step: Option<usize>,
    /// Show this share of the records, 0.01 for one in a hundred, until Ctrl-C or --count
    #[arg(long, value_name = "RATE")]
    sample: Option<f64>,
    /// End after so many [default: 10, and without end with --sample]
    #[arg(long, value_name = "N")]
    count: Option<u64>,
    /// Print keys and values too
    #[arg(long)]
    payload: bool,
    /// Print one JSON object a line
    #[arg(long)]
    json: bool,
}

pub(super) fn run(args: Args) -> Outcome {
    let sample = args.sample.unwrap_or(1.0);
    if !(sample > 0.0 && sample <= 1.0) {
        return Err(Failure::usage(format_args!("--sample {sample}: a share above 0, and 1 at most")));
    }
    if args.step == Some(0) {
        return Err(Failure::usage("--step 0: steps are counted from 1"));
    }
    let wish = Wish { step: args.step, sample, payload: args.payload };
    let count = args.count.or(args.sample.is_none().then_some(COUNT)).unwrap_or(u64::MAX);
    let mut shown = 0;
    let (saw, waiting) = mpsc::channel::<()>();
    let nothing = format!("no record of {} has passed yet; the next one shows", plain(&args.pipeline));
    std::thread::spawn(move || {
        if waiting.recv_timeout(PATIENCE) == Err(mpsc::RecvTimeoutError::Timeout) {
            note(nothing);
        }
    });
    let mut show = |sight: Sight| {
        // Nobody listens any more after the first.
        let _ = saw.send(());
        if args.json {
            say(serde_json::to_string(&sight).unwrap_or_default());
        } else {
            say(page(&sight).trim_end());
        }
        shown += 1;
        shown < count
    };
    if count > 0 {
        args.daemon.client()?.tap(&args.pipeline, &wish, &mut show).map_err(failure)?;
    }
    Ok(Exit::Success)
}

fn page(sight: &Sight) -> String {
    let Sight { step, plugin, topic, partition, offset, before, after, missed, .. } = sight;
    let missed = if *missed > 0 { format!(" ({missed} missed)") } else { String::new() };
    let step = if *step == 0 { "no step".to_owned() } else { format!("step {step} {}", plain(plugin)) };
    let mut page = format!("{topic}/{partition}/{offset} {step}{missed}\n  in   {}\n", parts(before));
    if after.is_empty() {
        page.push_str("  out  let go\n");
    }
    for after in after {
        let line = match after {
            After::Failed { code, message } => format!("failed: {}: {}", plain(code), plain(message)),
            After::Row { output, delete, record } => {
                let what = if *delete { "deletes by" } else { "" };
                format!("→ {} {what} {}", plain(output), parts(record)).replace("  ", " ")
            }
        };
        page.push_str(&format!("  out  {line}\n"));
    }
    page
}

fn parts(parts: &Parts) -> String {
    let part = |bytes: Option<usize>, text: &Option<String>| match (bytes, text) {
        (None, _) => "null".to_owned(),
        (Some(_), Some(text)) => plain(text),
        (Some(bytes), None) => format!("{bytes} B"),
    };
    format!("key {} value {}", part(parts.key_bytes, &parts.key), part(parts.value_bytes, &parts.value))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sight_shows_what_became_of_a_record_and_payloads_only_where_there_are() {
        let size = |value_bytes| Parts { key_bytes: Some(1), value_bytes, ..Parts::default() };
        let sight = Sight {
            step: 1,
            plugin: "shop".into(),
            topic: "orders".into(),
            partition: 3,
            offset: 17,
            timestamp_ms: None,
            before: size(Some(9)),
            after: vec![
                After::Row { output: "default".into(), delete: false, record: size(Some(12)) },
                After::Failed { code: "bad".into(), message: "no\u{1b}".into() },
            ],
            missed: 2,
        };
        assert_eq!(
            page(&sight),
            "orders/3/17 step 1 shop (2 missed)\n  in   key 1 B value 9 B\n  out  → default key 1 B value 12 B\n  \
             out  failed: bad: no\u{fffd}\n"
        );
        let passed = Sight { step: 0, plugin: String::new(), missed: 0, ..sight.clone() };
        assert!(page(&passed).starts_with("orders/3/17 no step\n"), "{}", page(&passed));
        let gone = Sight { after: vec![], before: Parts { key: Some("k".into()), ..size(None) }, ..sight };
        assert!(page(&gone).ends_with("  in   key k value null\n  out  let go\n"), "{}", page(&gone));
    }
}
