//! The producer's own record of what it sent.
//!
//! In: records before they are sent, and where the brokers say that they stand. Out: a file of JSON lines, each record on
//! the disk (fsync) before the producer has it; and the same in memory, for the comparison. What it holds is believed over
//! what any topic says. Reads no topic.

use std::collections::HashMap;
use std::fs::File;
use std::io::{BufWriter, Write as _};
use std::path::Path;
use std::sync::{Mutex, PoisonError};

use sha2::{Digest as _, Sha256};

use super::Failure;
use super::records::{Fate, Record};

/// A record as the comparison needs it: its value as a digest.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Entry {
    /// Its key.
    pub(super) key: String,
    /// Of its value; none is a tombstone.
    pub(super) value: Option<Hash>,
    /// Its time.
    pub(super) timestamp_ms: i64,
    /// Whether that lies ahead of the wall.
    pub(super) is_ahead: bool,
    /// Where it was sent.
    pub(super) partition: i32,
    /// Where the brokers said that it stands; none where they did not say, and nobody knows.
    pub(super) offset: Option<i64>,
    /// What must become of it.
    pub(super) fate: Fate,
}

/// The first half of SHA-256.
pub(super) type Hash = [u8; 16];

/// The hash of a value.
pub(super) fn hash(value: &[u8]) -> Hash {
    let mut hash = Hash::default();
    hash.copy_from_slice(&Sha256::digest(value)[..16]);
    hash
}

/// The ledger, open.
pub(super) struct Ledger {
    inner: Mutex<Inner>,
}

struct Inner {
    file: BufWriter<File>,
    entries: Vec<Entry>,
    failed: HashMap<u64, String>,
}

impl Ledger {
    /// A new one.
    pub(super) fn create(path: &Path) -> Result<Self, Failure> {
        let file = BufWriter::new(File::create_new(path)?);
        Ok(Self { inner: Mutex::new(Inner { file, entries: Vec::new(), failed: HashMap::new() }) })
    }

    /// Writes down what is about to be sent. It is on the disk when this returns.
    pub(super) fn intend(&self, records: &[Record]) -> Result<(), Failure> {
        let mut inner = self.inner.lock().unwrap_or_else(PoisonError::into_inner);
        for record in records {
            assert_eq!(record.n, inner.entries.len() as u64, "records are numbered as they are sent");
            serde_json::to_writer(&mut inner.file, record)?;
            inner.file.write_all(b"\n")?;
            inner.entries.push(Entry {
                key: record.key.clone(),
                value: record.value.as_ref().map(|value| hash(value.as_bytes())),
                timestamp_ms: record.timestamp_ms,
                is_ahead: record.is_ahead,
                partition: record.partition,
                offset: None,
                fate: record.fate.clone(),
            });
        }
        inner.file.flush()?;
        Ok(inner.file.get_ref().sync_data()?)
    }

    /// Writes down what the brokers said of a record.
    pub(super) fn told(&self, n: u64, answer: Result<i64, String>) {
        let mut inner = self.inner.lock().unwrap_or_else(PoisonError::into_inner);
        let line = match &answer {
            Ok(offset) => serde_json::json!({ "n": n, "offset": offset }),
            Err(error) => serde_json::json!({ "n": n, "error": error }),
        };
        // A ledger that cannot be written ends the run with the next `intend`, which meets the same disk.
        writeln!(inner.file, "{line}").ok();
        match answer {
            Ok(offset) => inner.entries[n as usize].offset = Some(offset),
            Err(error) => {
                inner.failed.insert(n, error);
            }
        }
    }

    /// What stands in it now: all records in the order of their numbers, and those whose fate the brokers did not tell.
    pub(super) fn close(&self) -> Result<(Vec<Entry>, HashMap<u64, String>), Failure> {
        let mut inner = self.inner.lock().unwrap_or_else(PoisonError::into_inner);
        inner.file.flush()?;
        inner.file.get_ref().sync_data()?;
        Ok((std::mem::take(&mut inner.entries), std::mem::take(&mut inner.failed)))
    }
}
