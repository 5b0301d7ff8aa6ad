//! What came of a guest.

use std::collections::BTreeMap;
use std::fmt;

/// What came of a guest.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Outcome {
    /// Why it was refused, where it was.
    pub(super) refused: Option<String>,
    /// Rows that were written.
    pub(super) rows: usize,
    /// Dead letters, by code.
    pub(super) letters: BTreeMap<String, usize>,
    /// What the first of them says.
    pub(super) message: String,
    /// What `pelton plugin test` finds in its cases, where it has any.
    pub(super) cases: Option<String>,
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(refused) = &self.refused {
            return write!(f, "refused: {refused}");
        }
        write!(f, "{} rows", self.rows)?;
        for (code, count) in &self.letters {
            write!(f, ", {count} dead letters: {code}")?;
        }
        if !self.message.is_empty() {
            write!(f, ": {}", self.message)?;
        }
        self.cases.iter().try_for_each(|cases| write!(f, "; its cases: {cases}"))
    }
}
