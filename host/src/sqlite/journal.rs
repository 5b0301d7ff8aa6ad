//! A pipeline's journal in the file of the embedded tables: for the embedded broker, which drops what is old and makes no
//! topics by itself.
//!
//! In: entries to keep. Out: the same, in order. The table `pelton__journal` holds one line of JSON an entry. What is
//! answered is on the disk; what fails is tried again without end.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use rusqlite::{Connection, params};

use super::SqliteError;
use super::database::connect;
use crate::pipeline::journal::{Entry, Journal, JournalError, Mark, Pages};
use crate::record::TopicPartition;

const MAKE: &str = "CREATE TABLE IF NOT EXISTS pelton__journal (place INTEGER PRIMARY KEY AUTOINCREMENT, \
                    pipeline TEXT NOT NULL, source TEXT NOT NULL, entry TEXT NOT NULL)";
const WRITE: &str = "INSERT INTO pelton__journal (pipeline, source, entry) VALUES (?1, ?2, ?3)";
const READ: &str =
    "SELECT entry FROM pelton__journal WHERE pipeline = ?1 AND source = ?2 AND place >= ?3 ORDER BY place";
/// The rest after a failure.
const REST: Duration = Duration::from_millis(500);

/// Keeps entries in a file.
pub struct SqliteJournal {
    file: Arc<File>,
    blocked: Mutex<Option<String>>,
}

struct File {
    path: PathBuf,
    pipeline: String,
    connection: Mutex<Connection>,
}

impl SqliteJournal {
    /// Opens the file, and makes the table where it is absent.
    ///
    /// # Errors
    /// Where the file cannot be opened or written.
    pub fn open(path: &Path, pipeline: &str) -> Result<Self, SqliteError> {
        let connection = connect(path)?;
        connection.execute(MAKE, [])?;
        let file = File { path: path.to_owned(), pipeline: pipeline.to_owned(), connection: Mutex::new(connection) };
        Ok(Self { file: Arc::new(file), blocked: Mutex::default() })
    }

    fn tell(&self, blocked: Option<String>) {
        *self.blocked.lock().unwrap_or_else(PoisonError::into_inner) = blocked;
    }
}

impl File {
    fn write(&self, entries: &[Entry]) -> rusqlite::Result<Mark> {
        let mut connection = self.connection.lock().unwrap_or_else(PoisonError::into_inner);
        let transaction = connection.transaction()?;
        let mut first = None;
        for entry in entries {
            let source = TopicPartition::new(&entry.topic, entry.partition).to_string();
            transaction.execute(WRITE, params![self.pipeline, source, entry.encode()])?;
            first.get_or_insert(transaction.last_insert_rowid());
        }
        transaction.commit()?;
        Ok(Mark(first.unwrap_or(0)))
    }

    fn read(&self, of: &TopicPartition, from: Mark) -> rusqlite::Result<Pages> {
        let connection = self.connection.lock().unwrap_or_else(PoisonError::into_inner);
        let mut statement = connection.prepare_cached(READ)?;
        let lines =
            statement.query_map(params![self.pipeline, of.to_string(), from.0], |row| row.get::<_, String>(0))?;
        let mut pages = Pages::default();
        for line in lines {
            match Entry::parse(line?.as_bytes()) {
                Ok(entry) => pages.entries.push(entry),
                Err(reason) => pages.unreadable.push(format!("{}: {reason}", self.path.display())),
            }
        }
        Ok(pages)
    }
}

#[async_trait]
impl Journal for SqliteJournal {
    async fn append(&self, entries: Vec<Entry>) -> Mark {
        let entries = Arc::new(entries);
        loop {
            let (file, writing) = (Arc::clone(&self.file), Arc::clone(&entries));
            let written = tokio::task::spawn_blocking(move || file.write(&writing)).await;
            match written.map_err(|error| error.to_string()).and_then(|mark| mark.map_err(|error| error.to_string())) {
                Ok(mark) => {
                    self.tell(None);
                    return mark;
                }
                Err(error) => {
                    tracing::warn!(error, "the journal cannot be written; trying again");
                    self.tell(Some(format!("SQLite: {error}")));
                }
            }
            tokio::time::sleep(REST).await;
        }
    }

    async fn read(&self, partition: &TopicPartition, from: Option<Mark>) -> Result<Pages, JournalError> {
        let (file, of) = (Arc::clone(&self.file), partition.clone());
        let read = tokio::task::spawn_blocking(move || file.read(&of, from.unwrap_or(Mark(0)))).await;
        let read = read.map_err(|error| error.to_string()).and_then(|pages| pages.map_err(|error| error.to_string()));
        read.map_err(|message| JournalError(format!("{}: {message}", self.file.path.display())))
    }

    fn blocked(&self) -> Option<String> {
        self.blocked.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pipeline::checkpoint::EpochPlan;
    use crate::pipeline::journal::{Author, Reason};

    fn entry(partition: i32, offset: i64) -> Entry {
        let author = Author {
            partition: TopicPartition::new("t", partition),
            topic_id: None,
            digests: Vec::new(),
            configuration: String::new(),
            plan: EpochPlan::default(),
            term: 1,
        };
        Entry::new(&author, offset, offset, Reason::Periodic)
    }

    #[tokio::test]
    async fn keeps_entries_by_pipeline_and_partition_and_reads_on_from_a_place() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("tables.db");
        let (journal, other) = (SqliteJournal::open(&path, "a").unwrap(), SqliteJournal::open(&path, "b").unwrap());
        journal.append(vec![entry(0, 1), entry(1, 2)]).await;
        other.append(vec![entry(0, 9)]).await;
        let mark = journal.append(vec![entry(0, 3)]).await;
        drop(journal);
        let journal = SqliteJournal::open(&path, "a").unwrap();
        let of = TopicPartition::new("t", 0);
        let all = journal.read(&of, None).await.unwrap();
        assert_eq!((all.entries, all.unreadable.len()), (vec![entry(0, 1), entry(0, 3)], 0));
        assert_eq!(journal.read(&of, Some(mark)).await.unwrap().entries, [entry(0, 3)]);
    }
}
