//! Dead letters in files.
//!
//! In: letters. Out: JSON lines, one a letter, bytes in base64, each line on the disk (fsync) before it counts as
//! written. The same writer is the spill of a dead-letter topic. A line that could not be written whole is cut off
//! again; a full disk is waited out, and said, never passed over.

use std::fs::{File, OpenOptions};
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use serde::{Deserialize, Serialize};

use super::{DeadLetter, DeadLetters, LogLine};
use crate::record::{Digest, HeaderIter, push_header};

/// Waits between tries rise from the first to the second.
const BACKOFF: (Duration, Duration) = (Duration::from_millis(200), Duration::from_secs(10));

/// A dead letter as a line of JSON. Keys, values and header values are base64, or null.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct DeadLetterLine {
    /// The `pelton-id`.
    pub id: String,
    /// The pipeline.
    pub pipeline: String,
    /// Where the record stands.
    pub topic: String,
    /// Where the record stands.
    pub partition: i32,
    /// Where the record stands.
    pub offset: i64,
    /// Its timestamp in milliseconds.
    pub timestamp_ms: Option<i64>,
    /// Its key.
    pub key: Option<String>,
    /// Its value.
    pub value: Option<String>,
    /// Its headers, in order: name, value.
    pub headers: Vec<(String, Option<String>)>,
    /// `decode`, `transform:<plugin>` or `sink:<output>`.
    pub stage: String,
    /// Short and stable.
    pub code: String,
    /// For people.
    pub message: String,
    /// The guest's backtrace.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub backtrace: Option<String>,
    /// The guest's last log lines: level, message.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub logs: Vec<(String, String)>,
    /// The digests of the pipeline's plugins.
    pub digests: Vec<String>,
    /// How often it was tried.
    pub attempts: u32,
    /// The write time of its rows, microseconds.
    pub write_time: i64,
    /// Some of its outputs were written.
    pub partial: bool,
}

impl DeadLetterLine {
    /// A letter as a line.
    #[must_use]
    pub fn of(letter: &DeadLetter) -> Self {
        let encode = |bytes: &[u8]| BASE64.encode(bytes);
        let headers = HeaderIter::new(&letter.headers).map(|(name, value)| (name.to_owned(), value.map(encode)));
        Self {
            id: letter.id.clone(),
            pipeline: letter.pipeline.clone(),
            topic: letter.source.topic.to_string(),
            partition: letter.source.partition,
            offset: letter.offset.0,
            timestamp_ms: letter.timestamp_ms,
            key: letter.key.as_deref().map(encode),
            value: letter.value.as_deref().map(encode),
            headers: headers.collect(),
            stage: letter.stage.clone(),
            code: letter.code.clone(),
            message: letter.message.clone(),
            backtrace: letter.backtrace.clone(),
            logs: letter.logs.iter().map(|line| (log_level(line), line.message.clone())).collect(),
            digests: letter.digests.clone(),
            attempts: letter.attempts,
            write_time: letter.write_time.0,
            partial: letter.partial,
        }
    }

    /// The record's raw key, value and packed headers.
    ///
    /// # Errors
    /// Where the base64 is damaged.
    pub fn record(&self) -> Result<RawRecord, base64::DecodeError> {
        let decode = |text: &Option<String>| text.as_ref().map(|text| BASE64.decode(text)).transpose();
        let mut headers = Vec::new();
        for (name, value) in &self.headers {
            push_header(&mut headers, name, decode(value)?.as_deref());
        }
        Ok((decode(&self.key)?, decode(&self.value)?, headers))
    }

    /// The line, with its end.
    fn encode(&self) -> Vec<u8> {
        let mut line = serde_json::to_vec(self).expect("texts and numbers always encode");
        line.push(b'\n');
        line
    }
}

/// Key, value, packed headers.
pub type RawRecord = (Option<Vec<u8>>, Option<Vec<u8>>, Vec<u8>);

fn log_level(line: &LogLine) -> String {
    format!("{:?}", line.level).to_lowercase()
}

/// Where a line stands.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SpillPointer {
    /// The file's name.
    pub file: String,
    /// Where the line begins, bytes.
    pub offset: u64,
    /// Its length with its end, bytes.
    pub length: u64,
    /// Of the line with its end: 64 hexadecimal digits.
    pub sha256: String,
}

/// A file of dead letters. Clones write to the same file.
#[derive(Debug, Clone)]
pub struct LetterFile {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    path: PathBuf,
    file: Mutex<Option<Open>>,
    blocked: Mutex<Option<String>>,
}

/// The file, and how much of it is whole lines.
#[derive(Debug)]
struct Open {
    file: File,
    length: u64,
}

impl LetterFile {
    /// A file that is made with the first letter, its directory with it. Lines are appended to what it has.
    #[must_use]
    pub fn at(path: impl Into<PathBuf>) -> Self {
        Self { inner: Arc::new(Inner { path: path.into(), file: Mutex::new(None), blocked: Mutex::new(None) }) }
    }

    /// Where it is.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.inner.path
    }

    /// Looks whether the file can be written, and makes it.
    ///
    /// # Errors
    /// What the disk says.
    pub fn probe(&self) -> io::Result<()> {
        self.inner.append(&[]).map(drop)
    }

    /// Writes letters; tries again without end. All are on the disk when it returns.
    pub async fn write(&self, letters: &[DeadLetter]) -> Vec<SpillPointer> {
        let lines: Arc<[Vec<u8>]> = letters.iter().map(|letter| DeadLetterLine::of(letter).encode()).collect();
        let mut backoff = BACKOFF.0;
        loop {
            let (inner, to_write) = (Arc::clone(&self.inner), Arc::clone(&lines));
            let written = tokio::task::spawn_blocking(move || inner.append(&to_write)).await;
            let error = match written {
                Ok(Ok(pointers)) => {
                    *lock(&self.inner.blocked) = None;
                    return pointers;
                }
                Ok(Err(error)) => error.to_string(),
                Err(error) => error.to_string(),
            };
            let reason = format!("dead letters cannot be written to {}: {error}", self.inner.path.display());
            tracing::error!(reason, "tried again until it works");
            *lock(&self.inner.blocked) = Some(reason);
            tokio::time::sleep(backoff).await;
            backoff = (backoff * 2).min(BACKOFF.1);
        }
    }

    /// Why nothing gets through at the moment, if so.
    #[must_use]
    pub fn blocked(&self) -> Option<String> {
        lock(&self.inner.blocked).clone()
    }
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Inner {
    /// Appends whole lines and brings them to the disk, or leaves the file as it was.
    fn append(&self, lines: &[Vec<u8>]) -> io::Result<Vec<SpillPointer>> {
        let mut guard = lock(&self.file);
        let open = match guard.as_mut() {
            Some(open) => open,
            None => guard.insert(self.open()?),
        };
        let appended = open.append(lines);
        if appended.is_err() {
            // Cut off what may be half a line; where even that fails, look at the file anew.
            let is_whole = open.file.set_len(open.length).is_ok();
            if !is_whole {
                *guard = None;
            }
        }
        let name = self.path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
        appended.map(|offsets| {
            let pointer = |(line, offset): (&Vec<u8>, u64)| SpillPointer {
                file: name.clone(),
                offset,
                length: line.len() as u64,
                sha256: hex::encode(Digest::of(line).0),
            };
            lines.iter().zip(offsets).map(pointer).collect()
        })
    }

    fn open(&self) -> io::Result<Open> {
        let parent = self.path.parent().filter(|parent| !parent.as_os_str().is_empty());
        let parent = parent.unwrap_or(Path::new("."));
        std::fs::create_dir_all(parent)?;
        let mut file = OpenOptions::new().create(true).append(true).read(true).open(&self.path)?;
        // A new file's name must be on the disk too.
        File::open(parent)?.sync_all()?;
        let mut length = file.metadata()?.len();
        if length > 0 && !ends_with_newline(&file, length)? {
            // Half a line of a process that was killed: it was never counted as written.
            file.write_all(b"\n")?;
            length += 1;
        }
        Ok(Open { file, length })
    }
}

fn ends_with_newline(file: &File, length: u64) -> io::Result<bool> {
    use std::os::unix::fs::FileExt as _;
    let mut last = [0];
    file.read_exact_at(&mut last, length - 1)?;
    Ok(last == *b"\n")
}

impl Open {
    fn append(&mut self, lines: &[Vec<u8>]) -> io::Result<Vec<u64>> {
        let mut offsets = Vec::with_capacity(lines.len());
        let mut length = self.length;
        for line in lines {
            self.file.write_all(line)?;
            offsets.push(length);
            length += line.len() as u64;
        }
        self.file.sync_data()?;
        self.length = length;
        Ok(offsets)
    }
}

/// Dead letters in a file of JSON lines.
#[derive(Debug, Clone)]
pub struct FileDeadLetters(LetterFile);

impl FileDeadLetters {
    /// Looks whether the file can be written.
    ///
    /// # Errors
    /// What the disk says.
    pub fn open(path: impl Into<PathBuf>) -> io::Result<Self> {
        let file = LetterFile::at(path);
        file.probe()?;
        Ok(Self(file))
    }
}

#[async_trait]
impl DeadLetters for FileDeadLetters {
    async fn write(&self, letters: Vec<DeadLetter>) {
        self.0.write(&letters).await;
    }

    fn blocked(&self) -> Option<String> {
        self.0.blocked()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pipeline::LogLevel;
    use crate::record::{Offset, TopicPartition, WriteTime};

    fn letter(offset: i64, value: &[u8]) -> DeadLetter {
        let mut headers = Vec::new();
        push_header(&mut headers, "trace", Some(b"\xff\x00"));
        push_header(&mut headers, "none", None);
        DeadLetter {
            pipeline: "orders".to_owned(),
            source: TopicPartition::new("in", 2),
            offset: Offset(offset),
            timestamp_ms: Some(7),
            key: None,
            value: Some(value.to_vec()),
            headers,
            stage: "decode".to_owned(),
            code: "decode.json".to_owned(),
            message: "not\nJSON".to_owned(),
            backtrace: None,
            logs: vec![LogLine { level: LogLevel::Warn, message: "hm".to_owned() }],
            digests: vec!["00".to_owned()],
            attempts: 2,
            write_time: WriteTime(70),
            partial: true,
            id: format!("in/2/{offset}/0"),
        }
    }

    fn lines(path: &Path) -> Vec<DeadLetterLine> {
        let text = std::fs::read_to_string(path).expect("a file");
        text.lines().map(|line| serde_json::from_str(line).expect("a line of JSON")).collect()
    }

    #[tokio::test]
    async fn every_byte_comes_back() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("not/yet/there.jsonl");
        let written = letter(5, b"\x00\xfe{");
        FileDeadLetters::open(&path).expect("it opens").write(vec![written.clone()]).await;
        FileDeadLetters::open(&path).expect("it opens again").write(vec![letter(6, b"")]).await;
        let lines = lines(&path);
        assert_eq!(lines.len(), 2);
        assert_eq!(lines[0], DeadLetterLine::of(&written));
        assert_eq!(lines[0].record().expect("whole"), (None, Some(b"\x00\xfe{".to_vec()), written.headers));
        assert_eq!(lines[1].value.as_deref(), Some(""));
    }

    #[tokio::test]
    async fn a_pointer_finds_its_line() {
        let dir = tempfile::tempdir().expect("a directory");
        let file = LetterFile::at(dir.path().join("spill.jsonl"));
        file.write(&[letter(1, b"one")]).await;
        let pointers = file.write(&[letter(2, b"two"), letter(3, b"three")]).await;
        let bytes = std::fs::read(file.path()).expect("a file");
        for (pointer, offset) in pointers.iter().zip([2, 3]) {
            let line = &bytes[pointer.offset as usize..][..pointer.length as usize];
            assert_eq!(pointer.sha256, hex::encode(Digest::of(line).0));
            assert_eq!(serde_json::from_slice::<DeadLetterLine>(line).expect("a line").offset, offset);
        }
    }

    #[tokio::test]
    async fn half_a_line_of_a_killed_process_spoils_no_other() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("letters.jsonl");
        std::fs::write(&path, b"{\"half\":").expect("written");
        FileDeadLetters::open(&path).expect("it opens").write(vec![letter(5, b"x")]).await;
        let text = std::fs::read_to_string(&path).expect("a file");
        assert_eq!(text.lines().count(), 2);
        assert!(serde_json::from_str::<DeadLetterLine>(text.lines().last().expect("a line")).is_ok());
    }

    #[tokio::test]
    async fn a_disk_that_takes_nothing_is_waited_out_and_named() {
        let dir = tempfile::tempdir().expect("a directory");
        // A file where the directory should be.
        let blocker = dir.path().join("spill");
        std::fs::write(&blocker, b"").expect("written");
        let file = LetterFile::at(blocker.join("letters.jsonl"));
        let writing = tokio::spawn({
            let file = file.clone();
            async move { file.write(&[letter(5, b"x")]).await }
        });
        while file.blocked().is_none() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        assert!(!writing.is_finished());
        std::fs::remove_file(&blocker).expect("removed");
        assert_eq!(writing.await.expect("it ends").len(), 1);
        assert_eq!((file.blocked(), lines(file.path()).len()), (None, 1));
    }

    #[tokio::test]
    async fn a_full_disk_leaves_no_half_line() {
        let file = LetterFile::at("/dev/full");
        let mut open = Open {
            file: OpenOptions::new().write(true).open("/dev/full").expect("a device that is always full"),
            length: 0,
        };
        assert!(open.append(&[b"line\n".to_vec()]).is_err());
        assert_eq!(open.length, 0);
        drop(file);
    }
}
