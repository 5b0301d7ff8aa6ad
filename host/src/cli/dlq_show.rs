//! `pelton dlq show`: one letter, with all that is known of it. The record itself shows only where that is asked for.

use std::fmt::Write as _;

use serde_json::{Value, json};

use super::dlq::{Whose, block_on, unreadable};
use super::table::{counted, plain, time};
use super::{Exit, Failure, Outcome, human_bytes, say, say_json};
use crate::dead_letters::cases::{Case, Cases, State};
use crate::dead_letters::lines;
use crate::record::HeaderIter;

/// Print one letter: why it failed, backtrace, last log lines; the record itself where asked
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// Which: its `pelton-id`, or TOPIC/PARTITION/OFFSET of the record
    id: String,
    #[command(flatten)]
    whose: Whose,
    /// Print the record's key, value and headers too
    #[arg(long)]
    payload: bool,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
}

pub(super) fn run(args: &Args) -> Outcome {
    let found = find(&args.whose, &args.id)?;
    if args.json {
        let letters = found.iter().map(|case| object(case, args.payload)).collect::<Result<Vec<Value>, _>>()?;
        say_json(&json!({ "letters": letters }))?;
    } else {
        found.iter().for_each(|case| say(page(case, args.payload).trim_end()));
    }
    Ok(Exit::Success)
}

/// The letters of an id: of several pipelines, or of a topic that was made anew.
pub(super) fn find(whose: &Whose, id: &str) -> Result<Vec<Case>, Failure> {
    let places = whose.places()?;
    let found = block_on(async {
        let mut found = Vec::new();
        for letters in &places {
            let name = &letters.pipeline.name;
            let is_named = |own: &str| own == id || own.strip_prefix(id) == Some("/dead-letter");
            let cases = Cases::read(&*letters.place, name, |(own, _)| is_named(own)).await.map_err(unreadable)?;
            found.extend(cases.cases.into_values().filter(|case| is_named(&case.letter.id)));
        }
        Ok(found)
    })?;
    if found.is_empty() {
        let places: Vec<String> = places.iter().map(|letters| letters.place.name()).collect();
        return Err(Failure::new(format_args!(
            "there is no dead letter {id} in {}; `pelton dlq export{}` prints the ids",
            places.join(", "),
            whose.shown_dir()
        )));
    }
    Ok(found)
}

fn object(case: &Case, with_payload: bool) -> Result<Value, Failure> {
    let letter = &case.letter;
    let mut object: Value = serde_json::from_str(&lines::line(case))?;
    if let Some(object) = object.as_object_mut() {
        if !with_payload {
            object.retain(|name, _| !lines::PARTS.contains(&name.as_str()));
        }
        let logs: Vec<String> = letter.logs.iter().map(|line| format!("{:?} {}", line.level, line.message)).collect();
        object.insert("bytes".into(), json!(case.bytes));
        object.insert("at_ms".into(), json!(letter.at_ms));
        object.insert("backtrace".into(), json!(letter.backtrace));
        object.insert("logs".into(), json!(logs));
        object.insert("digests".into(), json!(letter.digests));
        object.insert("partial".into(), json!(letter.partial));
        object.insert("stands_at".into(), json!(case.at));
        object.insert("missing".into(), json!(case.missing));
        object.insert("marks".into(), json!(case.marks));
    }
    Ok(object)
}

fn page(case: &Case, with_payload: bool) -> String {
    let letter = &case.letter;
    let mut page = String::new();
    let state = match case.state() {
        State::Open => "open",
        State::FailedAgain => "redriven, and failed again",
        State::Redriven => "redriven",
    };
    line(&mut page, format_args!("{} of {}: {state}", plain(&letter.id), plain(&letter.pipeline)));
    let mut told = |name: &str, text: &str| line(&mut page, format_args!("  {name:<11} {}", plain(text)));
    told("code", &letter.code);
    told("stage", &letter.stage);
    told("message", &letter.message);
    told("since", &time(letter.at_ms));
    told("record of", &time(letter.timestamp_ms));
    told("attempts", &format!("{}, redriven {}", letter.attempts, counted(letter.redrives.into(), "time")));
    let partial = if letter.partial { " (some of its outputs were written)" } else { "" };
    told("write time", &format!("{}{partial}", letter.write_time));
    told("plugins", &letter.digests.join(", "));
    told("stands at", &case.at);
    if let Some(missing) = &case.missing {
        told("missing", missing);
    }
    for mark in &case.marks {
        let what = if mark.done { "done" } else { "begun" };
        told("redrive", &format!("{what} at {}, with write time {}", time(Some(mark.at_ms)), mark.write_time));
    }
    payload(&mut page, case, with_payload);
    let backtrace = letter.backtrace.as_deref().unwrap_or_default().lines().map(str::to_owned);
    block(&mut page, "backtrace", backtrace);
    block(&mut page, "log", letter.logs.iter().map(|line| format!("{:?} {}", line.level, line.message)));
    page
}

fn payload(page: &mut String, case: &Case, with_payload: bool) {
    let letter = &case.letter;
    if case.missing.is_some() {
        return;
    }
    let mut part = |name: &str, bytes: Option<&[u8]>| {
        let text = match bytes {
            None => "null".to_owned(),
            Some(bytes) if with_payload => shown(bytes),
            Some(bytes) => human_bytes(bytes.len() as u64),
        };
        line(page, format_args!("  {name:<11} {text}"));
    };
    part("key", letter.key.as_deref());
    part("value", letter.value.as_deref());
    for (name, value) in HeaderIter::new(&letter.headers) {
        part(&format!("header {}", plain(name)), value);
    }
    if !with_payload {
        line(page, format_args!("  (--payload prints key, value and headers)"));
    }
}

/// Text as it is, but for what could steer a terminal; other bytes with escapes.
fn shown(bytes: &[u8]) -> String {
    match std::str::from_utf8(bytes) {
        Ok(text) => plain(text),
        Err(_) => bytes.escape_ascii().to_string(),
    }
}

fn block(page: &mut String, title: &str, lines: impl IntoIterator<Item = String>) {
    let mut lines = lines.into_iter().peekable();
    if lines.peek().is_some() {
        line(page, format_args!("  {title}"));
    }
    for text in lines {
        line(page, format_args!("    {}", plain(&text)));
    }
}

fn line(page: &mut String, text: std::fmt::Arguments<'_>) {
    writeln!(page, "{text}").expect("writing to a string does not fail");
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pipeline::{DeadLetter, LogLevel, LogLine};
    use crate::record::{Offset, TopicPartition, WriteTime, push_header};

    fn case() -> Case {
        let mut headers = Vec::new();
        push_header(&mut headers, "trace", Some(b"\xff"));
        let letter = DeadLetter {
            pipeline: "orders".into(),
            source: TopicPartition::new("shop.orders", 0),
            offset: Offset(17),
            timestamp_ms: Some(1_000),
            key: Some(b"secret-key".to_vec()),
            value: Some(b"{\"secret\": 1}".to_vec()),
            headers,
            stage: "transform:shop-orders".into(),
            code: "plugin.trap".into(),
            message: "unreachable\u{1b}[31m".into(),
            backtrace: Some("0: here".into()),
            logs: vec![LogLine { level: LogLevel::Warn, message: "attempt 1, shop-orders: odd".into() }],
            digests: vec!["00ff".into()],
            attempts: 2,
            write_time: WriteTime(1_000_000),
            partial: false,
            id: "shop.orders/0/17/dead-letter".into(),
            redrives: 0,
            at_ms: Some(7_000),
        };
        Case { letter, at: "dlq/0/3".into(), missing: None, bytes: 30, marks: Vec::new() }
    }

    const PAGE: &str = "\
shop.orders/0/17/dead-letter of orders: open
  code        plugin.trap
  stage       transform:shop-orders
  message     unreachable\u{fffd}[31m
  since       1970-01-01T00:00:07Z
  record of   1970-01-01T00:00:01Z
  attempts    2, redriven 0 times
  write time  1000000
  plugins     00ff
  stands at   dlq/0/3
  key         10 B
  value       13 B
  header trace 1 B
  (--payload prints key, value and headers)
  backtrace
    0: here
  log
    Warn attempt 1, shop-orders: odd
";

    #[test]
    fn the_page_shows_why_and_the_record_only_where_asked() {
        assert_eq!(page(&case(), false), PAGE);
        let whole = page(&case(), true);
        assert!(
            whole.contains("secret-key") && whole.contains("{\"secret\": 1}") && whole.contains("\\xff"),
            "{whole}"
        );
        let object = object(&case(), false).expect("an object").to_string();
        assert!(!object.contains("secret") && !object.contains("headers"), "{object}");
    }
}
