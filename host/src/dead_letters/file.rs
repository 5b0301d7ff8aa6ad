//! A file of dead letters as a place.
//!
//! In: its path. Out: its letters, a line each, and the marks beside it: `orders.jsonl` has its marks in
//! `orders.redriven.jsonl`, so that the file itself stays what it says. Half a last line is passed over: its writer is
//! not done with it. Of a rotated file only what has the path's name now is read.

use std::fs::File;
use std::io::{self, BufRead as _, BufReader};
use std::path::{Path, PathBuf};

use async_trait::async_trait;

use super::cases::{is_letter, is_mark};
use super::place::on_a_thread;
use super::{Entry, Found, Mark, Place};
use crate::pipeline::SourceError;
use crate::pipeline::dead_letter_file::{DeadLetterLine, LetterFile};

/// A file of letters.
#[derive(Debug, Clone)]
pub struct FilePlace {
    letters: PathBuf,
    marks: PathBuf,
}

impl FilePlace {
    /// Where letters are written to.
    #[must_use]
    pub fn at(path: &Path) -> Self {
        Self { letters: path.to_owned(), marks: path.with_extension("redriven.jsonl") }
    }
}

#[async_trait]
impl Place for FilePlace {
    fn name(&self) -> String {
        self.letters.display().to_string()
    }

    async fn read(&self, each: &mut (dyn FnMut(Entry) + Send)) -> Result<(), SourceError> {
        let Self { letters, marks } = self.clone();
        let read = move |each: &mut dyn FnMut(Entry)| {
            lines(&letters, |at, line| each(entry(at, line)))?;
            lines(&marks, |at, line| each(mark(at, line)))
        };
        on_a_thread(read, each).await
    }

    async fn mark(&self, marks: &[Mark]) -> Result<(), SourceError> {
        let lines: Vec<Vec<u8>> = marks
            .iter()
            .map(|mark| {
                let mut line = serde_json::to_vec(mark).expect("texts and numbers always encode");
                line.push(b'\n');
                line
            })
            .collect();
        let path = self.marks.clone();
        let written = tokio::task::spawn_blocking(move || LetterFile::at(path).append(&lines)).await;
        written.map_err(io::Error::other).and_then(|written| written).map_err(|error| refused(&self.marks, &error))
    }
}

fn refused(path: &Path, error: &io::Error) -> SourceError {
    SourceError::Refused(format!("{}: {error}", path.display()))
}

/// Every whole line of a file, with its place; nothing where there is no file yet.
fn lines(path: &Path, mut each: impl FnMut(String, &[u8])) -> Result<(), SourceError> {
    let file = match File::open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(refused(path, &error)),
    };
    let (mut reader, mut line) = (BufReader::new(file), Vec::new());
    for number in 1.. {
        line.clear();
        reader.read_until(b'\n', &mut line).map_err(|error| refused(path, &error))?;
        if line.last() != Some(&b'\n') {
            return Ok(());
        }
        each(format!("{}:{number}", path.display()), &line);
    }
    Ok(())
}

/// What a line of a file of letters is.
pub(crate) fn entry(at: String, line: &[u8]) -> Entry {
    let read = serde_json::from_slice::<DeadLetterLine>(line).ok().and_then(|line| line.letter().ok());
    match read.filter(is_letter) {
        Some(letter) => Entry::Letter(Box::new(Found { letter, at, missing: None })),
        None => Entry::Foreign(at),
    }
}

/// What a line of the marks beside it is.
pub(crate) fn mark(at: String, line: &[u8]) -> Entry {
    let mark = serde_json::from_slice(line).ok().filter(is_mark);
    mark.map_or(Entry::Foreign(at), |mark| Entry::Marks(vec![mark]))
}
