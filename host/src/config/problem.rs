//! Mistakes in a project's files: each says where, what was found, and what to write instead.

use std::fmt;

use serde::Serialize;

/// One mistake. Loading finds it with its place; a check that asks a broker or a database names only pipeline and key,
/// and [`super::Project::place`] finds the line.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Problem {
    /// A warning does not keep anything from running.
    pub severity: Severity,
    /// The file, relative to the project directory.
    pub file: String,
    /// From 1; 0 where the mistake has no line (a file that is not there).
    pub line: usize,
    /// From 1, in characters; 0 where it has none.
    pub column: usize,
    /// The pipeline, where it belongs to one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pipeline: Option<String>,
    /// The key, as a path from the file's root: `outputs.default.cassandra.table`, `steps[0].plugin`.
    pub key: String,
    /// What was found, and why it is wrong. Never a secret's text.
    pub found: String,
    /// What to write or do instead.
    pub remedy: String,
}

/// Whether a [`Problem`] keeps the project from running.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Severity {
    /// It does.
    Error,
    /// It does not.
    Warning,
}

impl Problem {
    /// A mistake in a pipeline's file, or, without a pipeline, in `pelton.yaml`, by key alone.
    #[must_use]
    pub fn by_key(
        pipeline: Option<&str>,
        key: impl Into<String>,
        found: impl Into<String>,
        remedy: impl Into<String>,
    ) -> Self {
        Self {
            severity: Severity::Error,
            file: pipeline.map_or_else(|| "pelton.yaml".to_owned(), |name| format!("pipelines/{name}.yaml")),
            line: 0,
            column: 0,
            pipeline: pipeline.map(str::to_owned),
            key: key.into(),
            found: found.into(),
            remedy: remedy.into(),
        }
    }

    /// The same as a warning.
    #[must_use]
    pub fn as_warning(mut self) -> Self {
        self.severity = Severity::Warning;
        self
    }

    /// Whether it keeps the project from running.
    #[must_use]
    pub fn is_error(&self) -> bool {
        self.severity == Severity::Error
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.file)?;
        if self.line > 0 {
            write!(f, ":{}:{}", self.line, self.column)?;
        }
        f.write_str(match self.severity {
            Severity::Error => ": ",
            Severity::Warning => ": warning: ",
        })?;
        if !self.key.is_empty() {
            write!(f, "{}: ", self.key)?;
        }
        f.write_str(&self.found)?;
        if !self.remedy.is_empty() {
            write!(f, "\n    {}", self.remedy)?;
        }
        Ok(())
    }
}

/// Every mistake of a project, in the order of files and lines. At least one is an error.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, thiserror::Error)]
#[serde(transparent)]
pub struct ConfigErrors(pub Vec<Problem>);

impl ConfigErrors {
    /// Sorted by file, then by line; what was found twice stands once.
    #[must_use]
    pub fn new(mut problems: Vec<Problem>) -> Self {
        problems.sort_by(|a, b| {
            (&a.file, a.line, a.column, &a.key, &a.found).cmp(&(&b.file, b.line, b.column, &b.key, &b.found))
        });
        problems.dedup();
        Self(problems)
    }
}

impl fmt::Display for ConfigErrors {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for problem in &self.0 {
            writeln!(f, "{problem}")?;
        }
        let errors = self.0.iter().filter(|problem| problem.is_error()).count();
        match errors {
            1 => write!(f, "1 mistake"),
            _ => write!(f, "{errors} mistakes"),
        }
    }
}
