//! A file of dead letters as a place.
//!
//! In: its path. Out: its letters, a line each, and the marks beside it: `orders.jsonl` has its marks in
//! `orders.redriven.jsonl`, so that the file itself stays what it says. Half a last line is passed over: its writer is
//! not done with it. Of a rotated file only what has the path's name now is read.

use std::fs::File;
use std::io::{self, BufRead as _, BufReader, Seek as _, SeekFrom};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use async_trait::async_trait;

use super::cases::{is_letter, is_mark};
use super::place::on_a_thread;
use super::{Entry, Found, Mark, Place, Reached};
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

    async fn read(&self, since: &Reached, each: &mut (dyn FnMut(Entry) + Send)) -> Result<Reached, SourceError> {
        let (Self { letters, marks }, since) = (self.clone(), since.clone());
        let read = move |each: &mut dyn FnMut(Entry)| {
            let mut reached = since.clone();
            let letters = lines(&letters, &since, false, |at, line| each(entry(at, line)))?;
            // Who decides by the order of marks must not see one whose writer takes it back.
            let marks = lines(&marks, &since, true, |at, line| each(mark(at, line)))?;
            reached.0.extend(letters.into_iter().chain(marks));
            Ok(reached)
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

/// Every whole line of a file from where an earlier reading ended, with its place, counted from there; nothing where
/// there is no file yet. Answers the file, by its inode, and where to read it on. While it is locked, nobody writes to it.
fn lines(
    path: &Path,
    since: &Reached,
    is_locked: bool,
    mut each: impl FnMut(String, &[u8]),
) -> Result<Option<(u64, u64)>, SourceError> {
    let opened = || -> io::Result<Option<(BufReader<File>, u64, u64)>> {
        let mut file = match File::open(path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            opened => opened?,
        };
        if is_locked {
            file.lock_shared()?;
        }
        let metadata = file.metadata()?;
        // A shorter file is another one.
        let begin = Some(since.of(metadata.ino())).filter(|begin| *begin <= metadata.len()).unwrap_or(0);
        file.seek(SeekFrom::Start(begin))?;
        Ok(Some((BufReader::new(file), metadata.ino(), begin)))
    };
    let Some((mut reader, inode, mut end)) = opened().map_err(|error| refused(path, &error))? else { return Ok(None) };
    let mut line = Vec::new();
    for number in 1.. {
        line.clear();
        reader.read_until(b'\n', &mut line).map_err(|error| refused(path, &error))?;
        if line.last() != Some(&b'\n') {
            break;
        }
        end += line.len() as u64;
        each(format!("{}:{number}", path.display()), &line);
    }
    Ok(Some((inode, end)))
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
