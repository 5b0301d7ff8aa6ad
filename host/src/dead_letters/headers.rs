//! A letter as a record of a topic: what its headers say, and how they are read.
//!
//! In: a letter; the parts of a record that stands among letters. Out: headers; a letter, marks, or nothing of ours. Pure
//! but for the spill file, which is asked for. Anybody may write to such a topic: whatever a record holds, it is read to
//! its end, and what no letter can say makes it none.

use super::cases::{is_letter, is_mark};
use super::{Entry, Found, Mark};
use crate::pipeline::dead_letter_file::SpillPointer;
use crate::pipeline::{DeadLetter, LogLine};
use crate::record::{HeaderIter, ID_HEADER, Offset, TopicPartition, WriteTime, push_header};

/// Texts in headers are cut to this, bytes.
const MESSAGE_BYTES_MAX: usize = 4 << 10;
const BACKTRACE_BYTES_MAX: usize = 16 << 10;
const LOGS_BYTES_MAX: usize = 16 << 10;
/// The header of a letter whose record stands in a spill file: host, file, offset, length and digest of its line, as JSON.
pub const SPILL_HEADER: &str = "pelton.spill";

/// The header of a record that holds marks.
pub const MARKS_HEADER: &str = "pelton.redrive";

// --------------------------------------------------------------------------------------------------------- outwards

/// The headers of a letter, after the record's own: what happened to it.
#[must_use]
pub fn of(letter: &DeadLetter, spilled: Option<&SpillPointer>) -> Vec<(&'static str, String)> {
    let (kind, name) = letter.stage.split_once(':').unwrap_or((&letter.stage, "decode"));
    let connect_stage = match kind {
        "transform" => "TRANSFORMATION",
        "sink" => "TASK_PUT",
        _ => "VALUE_CONVERTER",
    };
    let mut headers = vec![
        ("__connect.errors.topic", letter.source.topic.to_string()),
        ("__connect.errors.partition", letter.source.partition.to_string()),
        ("__connect.errors.offset", letter.offset.to_string()),
        ("__connect.errors.connector.name", letter.pipeline.clone()),
        ("__connect.errors.task.id", letter.source.partition.to_string()),
        ("__connect.errors.stage", connect_stage.to_owned()),
        ("__connect.errors.class.name", name.to_owned()),
        ("__connect.errors.exception.class.name", letter.code.clone()),
        ("__connect.errors.exception.message", cut(&letter.message, MESSAGE_BYTES_MAX)),
        (
            "__connect.errors.exception.stacktrace",
            cut(letter.backtrace.as_deref().unwrap_or_default(), BACKTRACE_BYTES_MAX),
        ),
        ("pelton.pipeline", letter.pipeline.clone()),
        ("pelton.stage", letter.stage.clone()),
        ("pelton.code", letter.code.clone()),
        ("pelton.digests", letter.digests.join(",")),
        ("pelton.attempts", letter.attempts.to_string()),
        ("pelton.write-time", letter.write_time.to_string()),
        ("pelton.partial", letter.partial.to_string()),
        // The first so many headers of the letter are the record's own.
        ("pelton.headers", HeaderIter::new(&letter.headers).count().to_string()),
    ];
    if let Some(timestamp_ms) = letter.timestamp_ms {
        headers.push(("pelton.timestamp", timestamp_ms.to_string()));
    }
    if let Some(at_ms) = letter.at_ms {
        headers.push(("pelton.at", at_ms.to_string()));
    }
    if letter.redrives > 0 {
        headers.push(("pelton.redrives", letter.redrives.to_string()));
    }
    if !letter.logs.is_empty() {
        headers.push(("pelton.logs", logs(&letter.logs)));
    }
    if let Some(pointer) = spilled {
        headers.push((SPILL_HEADER, serde_json::to_string(pointer).expect("texts and numbers always encode")));
    }
    headers.push((ID_HEADER, letter.id.clone()));
    headers
}

/// The last log lines that fit, as `level message`, one a line.
fn logs(lines: &[LogLine]) -> String {
    let mut kept = Vec::new();
    let mut bytes = 0;
    for line in lines.iter().rev() {
        let text = format!("{:?} {}", line.level, cut(&line.message, MESSAGE_BYTES_MAX)).replace('\n', " ");
        bytes += text.len() + 1;
        if bytes > LOGS_BYTES_MAX {
            break;
        }
        kept.push(text);
    }
    kept.reverse();
    kept.join("\n")
}

/// The beginning of a text, marked where something was cut off.
fn cut(text: &str, bytes_max: usize) -> String {
    if text.len() <= bytes_max {
        return text.to_owned();
    }
    const MARK: &str = " …";
    let end = text.floor_char_boundary(bytes_max - MARK.len());
    format!("{}{MARK}", text.get(..end).unwrap_or_default())
}

// ---------------------------------------------------------------------------------------------------------- inwards

/// A header's name and value.
type Header<'m> = (&'m str, Option<&'m [u8]>);

/// A record that stands in a topic of letters.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Standing<'m> {
    /// Where.
    pub at: String,
    /// Its key.
    pub key: Option<&'m [u8]>,
    /// Its value.
    pub value: Option<&'m [u8]>,
    /// Its own timestamp.
    pub timestamp_ms: Option<i64>,
    /// Its headers, in order.
    pub headers: Vec<Header<'m>>,
}

/// What a record is. `follow` reads the letter that did not fit into the topic.
pub fn entry(standing: &Standing<'_>, follow: impl FnOnce(&SpillPointer) -> Result<DeadLetter, String>) -> Entry {
    let told = Told(&standing.headers);
    let foreign = || Entry::Foreign(standing.at.clone());
    if told.text(ID_HEADER).is_some() && told.text("pelton.code").is_some() {
        return letter(standing, follow).map_or_else(foreign, Entry::Letter);
    }
    let marks: Option<Vec<Mark>> = told.text(MARKS_HEADER).and_then(|_| serde_json::from_slice(standing.value?).ok());
    marks.filter(|marks| marks.iter().all(is_mark)).map_or_else(foreign, Entry::Marks)
}

/// A record's headers.
struct Told<'s, 'm>(&'s [Header<'m>]);

impl<'m> Told<'_, 'm> {
    /// A text by name. Ours stand behind the record's own, of which one may have the same name.
    fn text(&self, name: &str) -> Option<&'m str> {
        let (_, value) = self.0.iter().rev().find(|(found, _)| *found == name)?;
        std::str::from_utf8((*value)?).ok()
    }

    fn number<T: std::str::FromStr>(&self, name: &str) -> Option<T> {
        self.text(name)?.parse().ok()
    }
}

/// None where a header is missing that every letter has, or says what cannot be.
fn letter(
    standing: &Standing<'_>,
    follow: impl FnOnce(&SpillPointer) -> Result<DeadLetter, String>,
) -> Option<Box<Found>> {
    let Standing { at, key, value, timestamp_ms, headers } = standing;
    let (told, at) = (Told(headers), at.clone());
    let own_headers: usize = told.number("pelton.headers")?;
    let mut headers = Vec::new();
    for (name, value) in told.0.iter().take(own_headers) {
        push_header(&mut headers, name, *value);
    }
    let topic = told.text("__connect.errors.topic")?;
    let logs = told.text("pelton.logs").unwrap_or_default().lines();
    let letter = DeadLetter {
        pipeline: told.text("pelton.pipeline")?.to_owned(),
        source: TopicPartition::new(topic, told.number("__connect.errors.partition")?),
        offset: Offset(told.number("__connect.errors.offset")?),
        timestamp_ms: told.number("pelton.timestamp"),
        key: key.map(<[u8]>::to_vec),
        value: value.map(<[u8]>::to_vec),
        headers,
        stage: told.text("pelton.stage")?.to_owned(),
        code: told.text("pelton.code")?.to_owned(),
        message: told.text("__connect.errors.exception.message").unwrap_or_default().to_owned(),
        backtrace: told
            .text("__connect.errors.exception.stacktrace")
            .filter(|text| !text.is_empty())
            .map(str::to_owned),
        logs: logs.filter_map(|line| line.split_once(' ')).map(|(level, text)| LogLine::read(level, text)).collect(),
        digests: told.text("pelton.digests")?.split(',').filter(|part| !part.is_empty()).map(str::to_owned).collect(),
        attempts: told.number("pelton.attempts")?,
        write_time: WriteTime(told.number("pelton.write-time")?),
        partial: told.text("pelton.partial")? == "true",
        id: told.text(ID_HEADER)?.to_owned(),
        redrives: told.number("pelton.redrives").unwrap_or(0),
        at_ms: told.number("pelton.at").or(*timestamp_ms),
    };
    if !is_letter(&letter) {
        return None;
    }
    let Some(pointer) = told.text(SPILL_HEADER) else {
        return Some(Box::new(Found { letter, at, missing: None }));
    };
    let followed = serde_json::from_str(pointer)
        .map_err(|error| format!("the pointer to its spill file is damaged: {error}"))
        .and_then(|pointer| follow(&pointer));
    Some(Box::new(match followed {
        Ok(spilled) => {
            Found { letter: DeadLetter { at_ms: spilled.at_ms.or(letter.at_ms), ..spilled }, at, missing: None }
        }
        Err(missing) => Found { letter, at, missing: Some(missing) },
    }))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pipeline::LogLevel;

    #[test]
    fn cuts_between_characters_and_says_so() {
        assert_eq!(cut("short", 10), "short");
        let text = cut(&"ü".repeat(10), 12);
        assert!(text.len() <= 12 && text.ends_with('…') && text.starts_with("üüü"), "{text}");
    }

    #[test]
    fn keeps_the_last_log_lines() {
        let lines: Vec<LogLine> =
            (0..10_000).map(|number| LogLine { level: LogLevel::Info, message: format!("line {number}") }).collect();
        let text = logs(&lines);
        assert!(text.len() <= LOGS_BYTES_MAX && text.ends_with("line 9999") && !text.contains("line 0\n"));
    }
}
