//! Dead letters in files.
//!
//! In: letters. Out: JSON lines, one a letter, bytes in base64, each line on the disk (fsync) before it counts as
//! written. The same writer is the spill of a dead-letter topic. A line that could not be written whole is cut off
//! again; a full disk is waited out, and said, never passed over.
//!
//! Several processes may write to one file (two daemons, or one that starts beside one that is dying): each append
//! holds the file's lock, and believes nothing that it saw before it held it. A file that was rotated away is made
//! anew. What reads a file while it is written may see half a last line; what has an end is whole.

use std::fs::{File, Metadata, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::{FileExt as _, MetadataExt as _};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use serde::{Deserialize, Serialize};

use super::{DeadLetter, DeadLetters, LogLevel, LogLine};
use crate::record::{Digest, HeaderIter, Offset, TopicPartition, WriteTime, push_header};

/// Waits between tries rise from the first to the second.
const BACKOFF: (Duration, Duration) = (Duration::from_millis(200), Duration::from_secs(10));

/// A write that takes longer is reported, and waited for.
const PATIENCE: Duration = Duration::from_secs(2);

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
    /// How often it was redriven, and failed again.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub redrives: u32,
    /// When it became a dead letter, milliseconds since the Unix epoch.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub at_ms: Option<i64>,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "the signature that serde wants")]
fn is_zero(redrives: &u32) -> bool {
    *redrives == 0
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
            redrives: letter.redrives,
            at_ms: letter.at_ms,
        }
    }

    /// The letter that the line was made of.
    ///
    /// # Errors
    /// Where the base64 is damaged.
    pub fn letter(&self) -> Result<DeadLetter, base64::DecodeError> {
        let (key, value, headers) = self.record()?;
        let logs = self.logs.iter();
        Ok(DeadLetter {
            pipeline: self.pipeline.clone(),
            source: TopicPartition::new(&self.topic, self.partition),
            offset: Offset(self.offset),
            timestamp_ms: self.timestamp_ms,
            key,
            value,
            headers,
            stage: self.stage.clone(),
            code: self.code.clone(),
            message: self.message.clone(),
            backtrace: self.backtrace.clone(),
            logs: logs.map(|(level, message)| LogLine::read(level, message)).collect(),
            digests: self.digests.clone(),
            attempts: self.attempts,
            write_time: WriteTime(self.write_time),
            partial: self.partial,
            id: self.id.clone(),
            redrives: self.redrives,
            at_ms: self.at_ms,
        })
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

impl LogLine {
    /// A line as a letter keeps it; a level that nobody knows is information.
    #[must_use]
    pub fn read(level: &str, message: &str) -> Self {
        let level = match level.to_ascii_lowercase().as_str() {
            "debug" => LogLevel::Debug,
            "warn" => LogLevel::Warn,
            "error" => LogLevel::Error,
            _ => LogLevel::Info,
        };
        Self { level, message: message.to_owned() }
    }
}

/// Where a line stands.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SpillPointer {
    /// The name of the machine that has the file; empty where the system does not tell.
    #[serde(default)]
    pub host: String,
    /// The file's name.
    pub file: String,
    /// The file's number in its file system (`ls -i`), which stays with it when it is rotated away under another name.
    #[serde(default)]
    pub inode: u64,
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
    /// The open file; locked only while something is appended.
    file: Mutex<Option<File>>,
    blocked: Mutex<Option<String>>,
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

    /// Appends lines of another kind, each with its end. All are on the disk when it returns.
    ///
    /// # Errors
    /// What the disk says; then none of them stands there.
    pub fn append(&self, lines: &[Vec<u8>]) -> io::Result<()> {
        self.inner.append(lines).map(drop)
    }

    /// Writes letters; tries again without end. All are on the disk when it returns.
    pub async fn write(&self, letters: &[DeadLetter]) -> Vec<SpillPointer> {
        let lines: Arc<[Vec<u8>]> = letters.iter().map(|letter| DeadLetterLine::of(letter).encode()).collect();
        let mut backoff = BACKOFF.0;
        loop {
            let (inner, to_write) = (Arc::clone(&self.inner), Arc::clone(&lines));
            let mut writing = tokio::task::spawn_blocking(move || inner.append(&to_write));
            let written = if let Ok(written) = tokio::time::timeout(PATIENCE, &mut writing).await {
                written
            } else {
                self.complain("the disk, or another process that has locked the file, lets it wait");
                writing.await
            };
            match written {
                Ok(Ok(pointers)) => {
                    *lock(&self.inner.blocked) = None;
                    return pointers;
                }
                Ok(Err(error)) => self.complain(&error.to_string()),
                Err(error) => self.complain(&error.to_string()),
            }
            tokio::time::sleep(backoff).await;
            backoff = (backoff * 2).min(BACKOFF.1);
        }
    }

    fn complain(&self, cause: &str) {
        let reason = format!("dead letters cannot be written to {}: {cause}", self.inner.path.display());
        tracing::error!(reason, "tried again until it works");
        *lock(&self.inner.blocked) = Some(reason);
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
        // Closing a file also unlocks it: whatever fails below, nobody is locked out.
        let file = self.locked(guard.take())?;
        let offsets = append_locked(&file, lines)?;
        let inode = file.metadata()?.ino();
        file.unlock()?;
        *guard = Some(file);
        let name = self.path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
        let host = host_name();
        let pointer = |(line, offset): (&Vec<u8>, u64)| SpillPointer {
            host: host.clone(),
            file: name.clone(),
            inode,
            offset,
            length: line.len() as u64,
            sha256: hex::encode(Digest::of(line).0),
        };
        Ok(lines.iter().zip(offsets).map(pointer).collect())
    }

    /// The file that now has the path's name, locked. One that was rotated away in the meantime is left alone.
    fn locked(&self, mut known: Option<File>) -> io::Result<File> {
        loop {
            let file = match known.take() {
                Some(file) => file,
                None => self.open()?,
            };
            file.lock()?;
            match std::fs::metadata(&self.path) {
                Ok(named) if is_same_file(&named, &file.metadata()?) => return Ok(file),
                Ok(_) => {}
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(error) => return Err(error),
            }
        }
    }

    fn open(&self) -> io::Result<File> {
        let parent = parent_of(&self.path);
        make_directory(parent)?;
        let file = OpenOptions::new().create(true).append(true).read(true).open(&self.path)?;
        // A new file's name must be on the disk too.
        File::open(parent)?.sync_all()?;
        Ok(file)
    }
}

/// The machine's name, as far as the system tells.
pub(crate) fn host_name() -> String {
    let told =
        std::fs::read_to_string("/proc/sys/kernel/hostname").or_else(|_| std::fs::read_to_string("/etc/hostname"));
    told.map(|name| name.trim().to_owned()).unwrap_or_default()
}

fn is_same_file(a: &Metadata, b: &Metadata) -> bool {
    (a.dev(), a.ino()) == (b.dev(), b.ino())
}

fn parent_of(path: &Path) -> &Path {
    path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

/// Makes a directory and those above it, and brings their names to the disk.
fn make_directory(path: &Path) -> io::Result<()> {
    if path.is_dir() {
        return Ok(());
    }
    let parent = parent_of(path);
    if parent != path {
        make_directory(parent)?;
    }
    match std::fs::create_dir(path) {
        Err(error) if !path.is_dir() => Err(error),
        _ => File::open(parent)?.sync_all(),
    }
}

/// Appends lines to a locked file and brings them to the disk, or leaves the file as it was. Says where each begins.
fn append_locked(mut file: &File, lines: &[Vec<u8>]) -> io::Result<Vec<u64>> {
    let whole = file.metadata()?;
    let begin = if whole.is_file() { whole_lines(file, whole.len())? } else { 0 };
    if begin < whole.len() {
        // Half a line of a process that was killed: it was never counted as written, and whoever holds the lock is
        // the only one who may be in the middle of a line.
        file.set_len(begin)?;
    }
    let mut offsets = Vec::with_capacity(lines.len());
    let mut end = begin;
    let written = lines
        .iter()
        .try_for_each(|line| {
            offsets.push(end);
            end += line.len() as u64;
            file.write_all(line)
        })
        .and_then(|()| file.sync_data());
    if let Err(error) = written {
        // Where even this fails, the next append finds the half line.
        let _ = file.set_len(begin);
        return Err(error);
    }
    Ok(offsets)
}

/// How much of a file is whole lines, bytes.
fn whole_lines(file: &File, length: u64) -> io::Result<u64> {
    let mut block = [0; 4096];
    let mut end = length;
    while end > 0 {
        let begin = end.saturating_sub(if end == length { 1 } else { block.len() as u64 });
        let part = block.get_mut(..usize::try_from(end - begin).unwrap_or(usize::MAX)).unwrap_or_default();
        file.read_exact_at(part, begin)?;
        if let Some(newline) = part.iter().rposition(|byte| *byte == b'\n') {
            return Ok(begin + newline as u64 + 1);
        }
        end = begin;
    }
    Ok(0)
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
            redrives: 1,
            at_ms: Some(9),
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
        assert_eq!(lines(&path).first().and_then(|line| line.letter().ok()).as_ref(), Some(&written));
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
        assert!(pointers.iter().all(|pointer| !pointer.host.is_empty() && pointer.file == "spill.jsonl"));
        // Rotated away, the file keeps its number, and the new one has another.
        let rotated = dir.path().join("spill.jsonl.1");
        std::fs::rename(file.path(), &rotated).expect("renamed");
        let anew = file.write(&[letter(4, b"four")]).await;
        assert_eq!(std::fs::metadata(&rotated).expect("a file").ino(), pointers[0].inode);
        assert_ne!(anew[0].inode, pointers[0].inode);
        for (pointer, offset) in pointers.iter().zip([2, 3]) {
            let line = &bytes[pointer.offset as usize..][..pointer.length as usize];
            assert_eq!(pointer.sha256, hex::encode(Digest::of(line).0));
            assert_eq!(serde_json::from_slice::<DeadLetterLine>(line).expect("a line").offset, offset);
        }
    }

    #[tokio::test]
    async fn half_a_line_of_a_killed_process_is_cut_off() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("letters.jsonl");
        let file = LetterFile::at(&path);
        file.write(&[letter(4, b"x")]).await;
        // Another process dies in the middle of a long line, while this one has the file open.
        let mut half = vec![b'x'; 10_000];
        half.insert(0, b'{');
        OpenOptions::new().append(true).open(&path).expect("opened").write_all(&half).expect("written");
        let pointers = file.write(&[letter(5, b"x")]).await;
        let whole = lines(&path);
        assert_eq!(whole.iter().map(|line| line.offset).collect::<Vec<_>>(), [4, 5]);
        let length = std::fs::metadata(&path).expect("a file").len();
        assert_eq!(pointers.iter().map(|at| at.offset + at.length).collect::<Vec<_>>(), [length]);

        std::fs::write(&path, b"{\"half\":").expect("written");
        FileDeadLetters::open(&path).expect("it opens");
        assert_eq!(std::fs::read(&path).expect("a file"), b"");
    }

    #[test]
    fn writers_that_do_not_know_of_each_other_tear_no_line() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("letters.jsonl");
        let write = |writer: i64| {
            let inner = LetterFile::at(&path).inner;
            let append = |round: i64| {
                let two: Vec<Vec<u8>> = [0, 1]
                    .map(|part| DeadLetterLine::of(&letter(writer * 1000 + round * 2 + part, &vec![b'v'; 9_000])))
                    .iter()
                    .map(DeadLetterLine::encode)
                    .collect();
                inner.append(&two).expect("written")
            };
            (0..40).flat_map(append).collect::<Vec<_>>()
        };
        let pointers: Vec<SpillPointer> = std::thread::scope(|scope| {
            let writers: Vec<_> = (0..4).map(|writer| scope.spawn(move || write(writer))).collect();
            writers.into_iter().flat_map(|writer| writer.join().expect("it ends")).collect()
        });
        assert_eq!(lines(&path).len(), pointers.len());
        let bytes = std::fs::read(&path).expect("a file");
        for pointer in pointers {
            let line = &bytes[pointer.offset as usize..][..pointer.length as usize];
            assert_eq!(pointer.sha256, hex::encode(Digest::of(line).0));
        }
    }

    #[tokio::test]
    async fn a_rotated_file_is_made_anew() {
        let dir = tempfile::tempdir().expect("a directory");
        let (path, old) = (dir.path().join("letters.jsonl"), dir.path().join("letters.jsonl.1"));
        let file = LetterFile::at(&path);
        file.write(&[letter(1, b"")]).await;
        std::fs::rename(&path, &old).expect("renamed");
        file.write(&[letter(2, b"")]).await;
        assert_eq!((lines(&old).len(), lines(&path).len()), (1, 1));
        std::fs::remove_file(&path).expect("removed");
        let pointers = file.write(&[letter(3, b"")]).await;
        assert_eq!(lines(&path).first().map(|line| line.offset), Some(3));
        assert_eq!(pointers.first().map(|pointer| pointer.offset), Some(0));
        // Another file under the same name, as a rotation with a copy makes it.
        std::fs::rename(&old, &path).expect("renamed");
        file.write(&[letter(4, b"")]).await;
        assert_eq!(lines(&path).iter().map(|line| line.offset).collect::<Vec<_>>(), [1, 4]);
    }

    #[tokio::test]
    async fn a_file_that_another_process_holds_is_named_and_waited_for() {
        let dir = tempfile::tempdir().expect("a directory");
        let file = LetterFile::at(dir.path().join("letters.jsonl"));
        file.probe().expect("writable");
        let other = File::open(file.path()).expect("opened");
        other.lock().expect("locked");
        let writing = tokio::spawn({
            let file = file.clone();
            async move { file.write(&[letter(5, b"x")]).await }
        });
        while file.blocked().is_none() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        assert!(file.blocked().expect("blocked").contains("locked"));
        assert_eq!(std::fs::metadata(file.path()).expect("a file").len(), 0);
        other.unlock().expect("unlocked");
        assert_eq!(writing.await.expect("it ends").len(), 1);
        assert_eq!((file.blocked(), lines(file.path()).len()), (None, 1));
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

    #[test]
    fn a_full_disk_leaves_no_half_line() {
        let full = OpenOptions::new().write(true).open("/dev/full").expect("a device that is always full");
        assert!(append_locked(&full, &[b"line\n".to_vec()]).is_err());
    }
}
