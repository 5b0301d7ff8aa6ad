//! The seam: where letters lie, a topic or a file, and what stands there.
//!
//! In: marks. Out: letters, marks, and what is neither. Never changes what stands there.

use std::collections::BTreeMap;

use async_trait::async_trait;
use serde::{Deserialize, Serialize};
use tokio::sync::mpsc;

use crate::pipeline::{DeadLetter, SourceError};

/// Entries that are read ahead of whoever takes them.
const ENTRIES_AHEAD: usize = 64;

/// Where the dead letters of a pipeline lie; those of others may lie among them.
#[async_trait]
pub trait Place: Send + Sync {
    /// For people: `topic shop.orders.dlq`, `dead-letters/orders.jsonl`.
    fn name(&self) -> String;

    /// Reads all that is there now, from where an earlier reading ended; answers where this one has. Commits nothing, and
    /// disturbs nobody. Marks come in the order in which they were written, whoever wrote them.
    ///
    /// # Errors
    /// Where it cannot be read.
    async fn read(&self, since: &Reached, each: &mut (dyn FnMut(Entry) + Send)) -> Result<Reached, SourceError>;

    /// Writes marks. All are durable when it returns, and every later reading has them.
    ///
    /// # Errors
    /// Where they cannot be written.
    async fn mark(&self, marks: &[Mark]) -> Result<(), SourceError>;
}

/// How far a place was read: for each part of it (a partition, a file), where to read on. Empty before the beginning.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Reached(pub BTreeMap<u64, u64>);

impl Reached {
    /// Where to read a part on.
    pub(crate) fn of(&self, part: u64) -> u64 {
        self.0.get(&part).copied().unwrap_or(0)
    }
}

/// What stands in a place.
#[derive(Debug, Clone, PartialEq)]
pub enum Entry {
    /// A letter.
    Letter(Box<Found>),
    /// What was redriven.
    Marks(Vec<Mark>),
    /// Something that is no letter of ours: where it stands.
    Foreign(String),
}

/// A letter, and where it was found.
#[derive(Debug, Clone, PartialEq)]
pub struct Found {
    /// The letter; without key, value and headers where these are `missing`.
    pub letter: DeadLetter,
    /// Where it stands.
    pub at: String,
    /// Why the record itself is not to be had: it lies in a spill file that is not here.
    pub missing: Option<String>,
}

/// What became of a letter: stands beside it, for as long as it does.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Mark {
    /// The letter's `pelton-id`.
    pub id: String,
    /// The pipeline.
    pub pipeline: String,
    /// The record's own time on the write clock: an offset of a topic that was made anew has another.
    pub h: i64,
    /// Which redrive of the record, from 1.
    pub redrive: u32,
    /// The write time of its rows.
    pub write_time: i64,
    /// What was written: a digest of the record, of the plugins and of the configuration.
    pub content: String,
    /// Whether all of it is durable; else it has begun.
    pub done: bool,
    /// When, milliseconds since the Unix epoch.
    pub at_ms: i64,
}

/// Runs what reads and blocks on a thread that may wait, and hands its entries over one by one.
pub(crate) async fn on_a_thread(
    read: impl FnOnce(&mut dyn FnMut(Entry)) -> Result<Reached, SourceError> + Send + 'static,
    each: &mut (dyn FnMut(Entry) + Send),
) -> Result<Reached, SourceError> {
    let (entries, mut received) = mpsc::channel(ENTRIES_AHEAD);
    let reading = tokio::task::spawn_blocking(move || {
        read(&mut |entry| {
            // Nobody listens where the command has been given up.
            let _ = entries.blocking_send(entry);
        })
    });
    while let Some(entry) = received.recv().await {
        each(entry);
    }
    reading.await.map_err(|error| SourceError::Broken(error.to_string()))?
}
