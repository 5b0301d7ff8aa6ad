//! Dead letters as a workflow: what lies there, what is still open, and what of it is sent through the line again.
//!
//! In: what stands in a pipeline's place for dead letters (a topic or a file), and what an operator asks for. Out: cases
//! and groups of them, lines to edit, records with their own write times for the line, and marks of what was redriven.
//! Knows no vendor: a [`Place`] is a topic or a file. Never changes or deletes a letter; what became of it stands beside
//! it, in marks.
//!
//! | File          | In                            | Out                                                |
//! |---------------|-------------------------------|----------------------------------------------------|
//! | [`cases`]     | letters and marks, any order  | cases: what is open, what was redriven (pure)      |
//! | [`groups`]    | cases                         | groups by code, plugin, digest (pure)              |
//! | [`lines`]     | a letter; an edited line      | a line to edit; the record as it was edited (pure) |
//! | [`plan`]      | cases, edits, the line's hash | records with write times, in rounds (pure)         |
//! | [`redriving`] | a request, a place, a line    | rows, letters, marks, and a report                 |
//! | [`case_folder`] | a letter, a plugin's directory | a test case                                       |
//! | [`mod@file`]  | a file of letters             | a [`Place`]                                        |
//! | [`spill`]     | a pointer                     | the letter that did not fit into its topic         |

pub mod case_folder;
pub mod cases;
pub mod file;
pub mod groups;
pub mod lines;
pub mod plan;
pub mod redriving;
#[cfg(test)]
mod redriving_tests;
pub mod spill;

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

    /// Reads all that is there now, from the beginning. Commits nothing, and disturbs nobody.
    ///
    /// # Errors
    /// Where it cannot be read.
    async fn read(&self, each: &mut (dyn FnMut(Entry) + Send)) -> Result<(), SourceError>;

    /// Writes marks. All are durable when it returns.
    ///
    /// # Errors
    /// Where they cannot be written.
    async fn mark(&self, marks: &[Mark]) -> Result<(), SourceError>;
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
    read: impl FnOnce(&mut dyn FnMut(Entry)) -> Result<(), SourceError> + Send + 'static,
    each: &mut (dyn FnMut(Entry) + Send),
) -> Result<(), SourceError> {
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
