//! What cases say, in words.
//!
//! In: what is wrong with a case. Out: lines for people.

use super::Problem;
use super::broken::ways_text;
use super::compare::Difference;

/// Differences of a case that are shown.
const SHOWN_MAX: usize = 10;

impl Problem {
    /// What it says, line by line.
    #[must_use]
    pub fn lines(&self) -> Vec<String> {
        match self {
            Self::NothingExpected => vec!["there is no expected.jsonl; --bless writes it".to_owned()],
            Self::Failed { ways, message } => {
                let headline = match ways.as_slice() {
                    [only] => format!("the plugin failed at {only}"),
                    several => format!("the plugin failed, the same at {}", ways_text(several)),
                };
                std::iter::once(headline).chain(message.lines().map(indent)).collect()
            }
            Self::Unexpected { differences, .. } => {
                let mut lines = vec!["not as expected (- expected, + found)".to_owned()];
                lines.extend(difference_lines(differences));
                lines
            }
            Self::HiddenState { first, others, differences } => {
                let others = ways_text(others);
                let mut lines = vec![format!(
                    "hidden state: other output (+) at {others} than at {first} (-); what becomes of a record may depend on \
                 nothing but the record and the configuration"
                )];
                lines.extend(difference_lines(differences));
                lines
            }
        }
    }
}

fn difference_lines(differences: &[Difference]) -> Vec<String> {
    let mut lines = Vec::new();
    for difference in differences.iter().take(SHOWN_MAX) {
        let place = difference.line.map(|line| format!(" (expected.jsonl:{line})")).unwrap_or_default();
        lines.push(format!("  record {}{place}", difference.record));
        lines.extend(difference.expected.iter().map(|line| format!("    - {line}")));
        lines.extend(difference.found.iter().map(|line| format!("    + {line}")));
        lines.extend(difference.paths.iter().map(|path| format!("      {path}")));
    }
    if differences.len() > SHOWN_MAX {
        lines.push(format!("  and {} more records", differences.len() - SHOWN_MAX));
    }
    lines
}

fn indent(line: &str) -> String {
    format!("  {line}")
}
