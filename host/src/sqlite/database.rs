//! One file, one writer: a thread that takes batches of all tables of a file and writes each group in one transaction.
//!
//! What it is given is answered when the transaction is on the disk (`synchronous = FULL`: the log of the transaction
//! is synced before COMMIT returns). What fails is tried again without end, and [`Database::blocked`] says why.

use std::collections::{BTreeMap, HashMap};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use rusqlite::{Connection, TransactionBehavior};
use tokio::sync::{OwnedSemaphorePermit, oneshot};

use super::SqliteError;
use super::merge::{RowWrite, StoredRow};
use super::table::Table;
use crate::config::CreateTable;
use crate::pipeline::Written;

/// Rows in one transaction, roughly.
const GROUP_ROWS: usize = 4096;
/// How long SQLite itself waits for another process.
const BUSY_WAIT: Duration = Duration::from_secs(1);
/// The rest after a first failure; doubled up to the longest.
const FIRST_REST: Duration = Duration::from_millis(10);
const LONGEST_REST: Duration = Duration::from_secs(1);

/// A batch on its way into the file.
pub(super) struct Job {
    pub(super) table: Arc<SharedTable>,
    pub(super) writes: Vec<RowWrite>,
    pub(super) written: Written,
    /// Given back when the batch is written, or nobody waits for it any more.
    pub(super) _room: OwnedSemaphorePermit,
    pub(super) answer: oneshot::Sender<Written>,
}

/// A table as all sinks of this process see it: where one of them adds columns (always at the end), the others' rows
/// keep and delete those too.
pub(super) struct SharedTable {
    name: String,
    current: Mutex<Arc<Table>>,
}

impl SharedTable {
    pub(super) fn current(&self) -> Arc<Table> {
        Arc::clone(&lock(&self.current))
    }
}

/// An open file.
pub(super) struct Database {
    path: PathBuf,
    tables: Mutex<BTreeMap<String, Arc<SharedTable>>>,
    /// Pages that the file may have: a full disk, for a test.
    #[cfg(test)]
    pub(super) pages_max: Arc<std::sync::atomic::AtomicU32>,
    jobs: crossbeam_channel::Sender<Job>,
    blocked: Arc<Mutex<Option<String>>>,
}

/// The open files of this process: all sinks of a file share its writer.
static OPEN: Mutex<BTreeMap<PathBuf, Weak<Database>>> = Mutex::new(BTreeMap::new());

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // Every update below is one statement: what a panicking thread leaves behind is whole.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Database {
    /// Opens the file, or joins those who have it open already.
    pub(super) fn open(path: &Path) -> Result<Arc<Self>, SqliteError> {
        let mut open = lock(&OPEN);
        open.retain(|_, database| database.strong_count() > 0);
        // The file exists by now if anybody in this process has it open; then its canonical path is the same.
        let connection = connect(path)?;
        let name = path.canonicalize().unwrap_or_else(|_| path.to_owned());
        if let Some(database) = open.get(&name).and_then(Weak::upgrade) {
            return Ok(database);
        }
        let (jobs, queue) = crossbeam_channel::unbounded();
        let database = Arc::new(Self {
            path: path.to_owned(),
            tables: Mutex::default(),
            #[cfg(test)]
            pages_max: Arc::default(),
            jobs,
            blocked: Arc::default(),
        });
        let mut writer = Writer {
            connection,
            queue,
            #[cfg(test)]
            pages_max: Arc::clone(&database.pages_max),
            blocked: Arc::clone(&database.blocked),
        };
        let spawned = std::thread::Builder::new().name("sqlite-writer".into()).spawn(move || writer.run());
        spawned.map_err(|error| SqliteError::Open { path: path.to_owned(), reason: error.to_string() })?;
        open.insert(name, Arc::downgrade(&database));
        Ok(database)
    }

    /// Opens a table, makes it or adds its new columns.
    pub(super) fn table(&self, name: &str, create: Option<&CreateTable>) -> Result<Arc<SharedTable>, SqliteError> {
        let mut tables = lock(&self.tables);
        let table = Arc::new(Table::open(&mut connect(&self.path)?, &self.path, name, create)?);
        let shared = tables.entry(name.to_owned()).or_insert_with(|| {
            Arc::new(SharedTable { name: name.to_owned(), current: Mutex::new(Arc::clone(&table)) })
        });
        *lock(&shared.current) = table;
        Ok(Arc::clone(shared))
    }

    /// Hands a batch to the writer.
    pub(super) fn submit(&self, job: Job) {
        // The writer ends only after this sender is gone.
        let _ = self.jobs.send(job);
    }

    /// Why nothing gets through at the moment.
    pub(super) fn blocked(&self) -> Option<String> {
        lock(&self.blocked).clone()
    }
}

/// A connection with the settings that the promises rest on.
pub(super) fn connect(path: &Path) -> Result<Connection, SqliteError> {
    let open = || -> rusqlite::Result<Connection> {
        let connection = Connection::open(path)?;
        connection.busy_timeout(BUSY_WAIT)?;
        connection.pragma_update(None, "journal_mode", "WAL")?;
        connection.pragma_update(None, "synchronous", "FULL")?;
        connection.set_prepared_statement_cache_capacity(64);
        Ok(connection)
    };
    open().map_err(|error| SqliteError::Open { path: path.to_owned(), reason: error.to_string() })
}

struct Writer {
    connection: Connection,
    queue: crossbeam_channel::Receiver<Job>,
    #[cfg(test)]
    pages_max: Arc<std::sync::atomic::AtomicU32>,
    blocked: Arc<Mutex<Option<String>>>,
}

impl Writer {
    fn run(&mut self) {
        while let Ok(first) = self.queue.recv() {
            let mut rows = first.writes.len();
            let mut group = vec![first];
            while rows < GROUP_ROWS
                && let Ok(job) = self.queue.try_recv()
            {
                rows += job.writes.len();
                group.push(job);
            }
            self.write_group(&mut group);
            for job in group {
                // Nobody may be waiting any more.
                let _ = job.answer.send(job.written);
            }
        }
    }

    /// Writes until it succeeds, but for the batches that nobody waits for any more: those go, and what they hold with
    /// them.
    #[expect(clippy::disallowed_methods, reason = "a thread of its own, which waits for a disk")]
    fn write_group(&mut self, group: &mut Vec<Job>) {
        let mut rest = FIRST_REST;
        loop {
            group.retain(|job| !job.answer.is_closed());
            if group.is_empty() {
                *lock(&self.blocked) = None;
                return;
            }
            match self.try_group(group) {
                Ok(()) => {
                    *lock(&self.blocked) = None;
                    return;
                }
                Err(error) => {
                    tracing::warn!(%error, "the embedded tables cannot be written; trying again");
                    *lock(&self.blocked) = Some(format!("SQLite: {error}"));
                }
            }
            std::thread::sleep(rest);
            rest = (rest * 2).min(LONGEST_REST);
        }
    }

    /// One transaction. An error rolls all of it back.
    fn try_group(&mut self, group: &[Job]) -> rusqlite::Result<()> {
        #[cfg(test)]
        match self.pages_max.load(std::sync::atomic::Ordering::SeqCst) {
            0 => {}
            pages => self.connection.pragma_update(None, "max_page_count", pages)?,
        }
        let tables: BTreeMap<&str, Arc<Table>> =
            group.iter().map(|job| (job.table.name.as_str(), job.table.current())).collect();
        let transaction = self.connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
        // Rows that several writes of the group meet are read and written once.
        let mut rows: HashMap<(&str, Vec<u8>), Touched<'_>> = HashMap::new();
        for job in group {
            let name = job.table.name.as_str();
            let Some(table) = tables.get(name) else { continue };
            for write in &job.writes {
                let mut key = Vec::new();
                write.key.iter().for_each(|value| value.key_bytes(&mut key));
                let touched = match rows.entry((name, key)) {
                    std::collections::hash_map::Entry::Occupied(entry) => entry.into_mut(),
                    std::collections::hash_map::Entry::Vacant(entry) => {
                        let stored = table.load(&transaction, &write.key)?;
                        let row = stored.unwrap_or_else(|| StoredRow::new(table.columns.len()));
                        entry.insert(Touched { table, write, row, changed: false })
                    }
                };
                touched.changed |= touched.row.apply(write);
            }
        }
        for touched in rows.values().filter(|touched| touched.changed) {
            touched.table.save(&transaction, &touched.write.key, &touched.row)?;
        }
        transaction.commit()
    }
}

/// A row that a group of writes meets.
struct Touched<'a> {
    table: &'a Table,
    /// The first write that met it, for the key.
    write: &'a RowWrite,
    row: StoredRow,
    changed: bool,
}
