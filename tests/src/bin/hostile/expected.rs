//! What must come of a guest, as `expected.txt` in its folder says.
//!
//! A line each, any of
//! - `rows N`: so many rows are written. None where the line is not there;
//! - `dead letters N CODE`: so many records end so. A guest may have several such lines;
//! - `refused WORDS`: it is not loaded, with these words;
//! - `cases WORDS`: what `pelton plugin test` says of its `cases/`;
//! - `grants NAMES`: what it is granted. Everything where the line is not there;
//! - `in turn N`: it gets so many records, each when the one before is done. Two at once where the line is not there;
//! - `cpu N s`: its limits of CPU time, for what sins in another way and takes its time. The default ones where the line
//!   is not there.

use std::collections::BTreeMap;
use std::time::Duration;

use pelton::config::{Grants, Limits};
use pelton::plugin::Capability;

use super::outcome::Outcome;
use super::{Failure, encode};

/// What must come of a guest.
#[derive(Debug)]
pub(super) struct Expected {
    /// What it is granted.
    pub(super) grants: Grants,
    /// How many records it gets, each when the one before is done; two at once where there is none.
    pub(super) in_turn: Option<usize>,
    /// What it may take.
    pub(super) limits: Limits,
    refused: Option<String>,
    rows: usize,
    letters: BTreeMap<String, usize>,
    cases: Option<String>,
    /// All of it, in its own words.
    said: String,
}

/// Every mistake in what is expected of these guests.
pub(super) fn read_all(guests: &[String]) -> Result<(), Failure> {
    let problems: Vec<String> = guests.iter().filter_map(|guest| Expected::of(guest).err()).collect();
    if problems.is_empty() { Ok(()) } else { Err(problems.join("\n       ").into()) }
}

impl Expected {
    /// What is expected of a guest.
    pub(super) fn of(guest: &str) -> Result<Self, String> {
        let path = encode::guests_dir().join(guest).join("expected.txt");
        let said = format!("tests/guests/{guest}/expected.txt");
        let text = std::fs::read_to_string(path).map_err(|error| {
            format!("{said}: {error}; it says what must come of the guest: see tests/guests/README.md")
        })?;
        Self::parse(&text).map_err(|problem| format!("{said}: {problem}"))
    }

    fn parse(text: &str) -> Result<Self, String> {
        let mut expected = Self {
            grants: Capability::ALL.into(),
            in_turn: None,
            limits: Limits::default(),
            refused: None,
            rows: 0,
            letters: BTreeMap::new(),
            cases: None,
            said: text.lines().collect::<Vec<_>>().join(", "),
        };
        let number = |word: &str| word.parse::<usize>().map_err(|_| format!("`{word}` is no number"));
        let lines: Vec<&str> = text.lines().filter(|line| !line.trim().is_empty()).collect();
        for line in &lines {
            if let Some(count) = line.strip_prefix("rows ") {
                expected.rows = number(count)?;
            } else if let Some((count, code)) = line.strip_prefix("dead letters ").and_then(|rest| rest.split_once(' '))
            {
                expected.letters.insert(code.to_owned(), number(count)?);
            } else if let Some(words) = line.strip_prefix("refused ") {
                expected.refused = Some(words.to_owned());
            } else if let Some(words) = line.strip_prefix("cases ") {
                expected.cases = Some(words.to_owned());
            } else if let Some(count) = line.strip_prefix("in turn ") {
                expected.in_turn = Some(number(count)?);
            } else if let Some(seconds) = line.strip_prefix("cpu ").and_then(|rest| rest.strip_suffix(" s")) {
                let cpu = Duration::from_secs(number(seconds)? as u64);
                (expected.limits.cpu_per_batch, expected.limits.cpu_per_record) = (cpu, cpu);
            } else if let Some(names) = line.strip_prefix("grants ") {
                expected.grants = names.split(", ").map(capability).collect::<Result<_, _>>()?;
            } else {
                return Err(format!("`{line}`: rows, dead letters, refused, cases, grants, in turn and cpu are known"));
            }
        }
        if lines.is_empty() {
            return Err("it expects nothing".to_owned());
        }
        Ok(expected)
    }

    /// What came and should not have, in words.
    pub(super) fn differs(&self, came: &Outcome) -> Option<String> {
        let holds = |wanted: &Option<String>, came: &Option<String>| match (wanted, came) {
            (Some(wanted), Some(came)) => came.contains(wanted.as_str()),
            (wanted, came) => wanted.is_none() && came.is_none(),
        };
        let is_as_expected = holds(&self.refused, &came.refused)
            && holds(&self.cases, &came.cases)
            && (self.rows, &self.letters) == (came.rows, &came.letters);
        (!is_as_expected).then(|| format!("what came of it is not what was expected: {}", self.said))
    }
}

fn capability(name: &str) -> Result<Capability, String> {
    Capability::by_name(name).ok_or_else(|| format!("there is no grant `{name}`"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn came(rows: usize, letters: &[(&str, usize)]) -> Outcome {
        let letters = letters.iter().map(|(code, count)| ((*code).to_owned(), *count)).collect();
        Outcome { rows, letters, ..Outcome::default() }
    }

    fn is_held(expected: &str, came: &Outcome) -> bool {
        Expected::parse(expected).expect("it can be read").differs(came).is_none()
    }

    #[test]
    fn a_guest_that_spins_may_not_write_rows_nor_fail_otherwise() {
        let expected = "dead letters 2 plugin.cpu_limit\n";
        assert!(is_held(expected, &came(0, &[("plugin.cpu_limit", 2)])));
        assert!(!is_held(expected, &came(2, &[])));
        assert!(!is_held(expected, &came(0, &[("plugin.trap", 2)])));
        assert!(!is_held(expected, &came(1, &[("plugin.cpu_limit", 1)])));
        let refused = Outcome { refused: Some("it is no component".into()), ..Outcome::default() };
        assert!(!is_held(expected, &refused));
    }

    #[test]
    fn a_refusal_and_what_its_cases_say_are_held_by_their_words() {
        let refused = |words: &str| Outcome { refused: Some(words.into()), ..Outcome::default() };
        assert!(is_held(
            "grants log\nrefused more than it is granted",
            &refused("it asks for more than it is granted")
        ));
        assert!(!is_held("refused more than it is granted", &refused("it is no component")));
        assert!(!is_held("refused more than it is granted", &came(2, &[])));
        let hides = Outcome { cases: Some("hidden state: other output".into()), ..came(2, &[]) };
        assert!(is_held("rows 2\ncases hidden state", &hides));
        assert!(!is_held("rows 2\ncases hidden state", &came(2, &[])));
        assert!(!is_held("rows 2", &hides));
    }

    #[test]
    fn what_cannot_be_read_is_named_and_every_guest_has_an_expectation() {
        for wrong in ["", "\n", "row 2", "rows two", "dead letters 2", "grants everything"] {
            assert!(Expected::parse(wrong).is_err(), "{wrong}");
        }
        read_all(&encode::guests()).expect("every guest says what must come of it");
        assert!(read_all(&["no_such_guest".to_owned()]).is_err());
    }
}
