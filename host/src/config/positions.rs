//! Where each key of a project stands.

use std::collections::HashMap;

use super::Problem;

/// Line and column of every key, by file and key path.
#[derive(Debug, Clone, Default)]
pub struct Positions {
    files: HashMap<String, HashMap<String, (usize, usize)>>,
}

impl Positions {
    /// Notes a key.
    pub(super) fn insert(&mut self, file: &str, key: String, line: usize, column: usize) {
        self.files.entry(file.to_owned()).or_default().insert(key, (line, column));
    }

    /// The keys of a file.
    #[cfg(test)]
    pub(super) fn keys(&self, file: &str) -> impl Iterator<Item = &str> {
        self.files.get(file).into_iter().flatten().map(|(key, _)| key.as_str())
    }

    /// Line and column of a key; of the nearest key around it where the file does not write it out (a default).
    #[must_use]
    pub fn locate(&self, file: &str, key: &str) -> Option<(usize, usize)> {
        let keys = self.files.get(file)?;
        let mut key = key;
        loop {
            if let Some(position) = keys.get(key) {
                return Some(*position);
            }
            key = &key[..key.rfind(['.', '['])?];
        }
    }

    /// Gives a problem that names only its key its line and column.
    #[must_use]
    pub fn place(&self, mut problem: Problem) -> Problem {
        if problem.line == 0
            && let Some((line, column)) = self.locate(&problem.file, &problem.key)
        {
            (problem.line, problem.column) = (line, column);
        }
        problem
    }
}
