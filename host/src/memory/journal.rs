//! A journal in memory.

use std::sync::{Arc, Mutex};

use async_trait::async_trait;

use super::gate::Gate;
use super::lock;
use crate::pipeline::journal::{Entry, Journal, JournalError, Mark, Pages};
use crate::record::TopicPartition;

/// Keeps every entry. Clones share the same entries.
#[derive(Debug, Clone)]
pub struct MemoryJournal(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    entries: Mutex<Vec<Entry>>,
    failing_reads: Mutex<u32>,
    gate: Gate,
}

impl Default for MemoryJournal {
    fn default() -> Self {
        Self(Arc::new(Inner { entries: Mutex::default(), failing_reads: Mutex::default(), gate: Gate::open() }))
    }
}

impl MemoryJournal {
    /// No entries yet.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// What was written, in order.
    #[must_use]
    pub fn entries(&self) -> Vec<Entry> {
        lock(&self.0.entries).clone()
    }

    /// Forgets everything, as retention does.
    pub fn clear(&self) {
        lock(&self.0.entries).clear();
    }

    /// Holds every write back from now on; one that is given up meanwhile was never written.
    pub fn block(&self, reason: &str) {
        self.0.gate.set(Some(reason.to_owned()));
    }

    /// Lets writes through again.
    pub fn unblock(&self) {
        self.0.gate.set(None);
    }

    /// The next so many reads fail.
    pub fn fail_reads(&self, count: u32) {
        *lock(&self.0.failing_reads) = count;
    }
}

#[async_trait]
impl Journal for MemoryJournal {
    async fn append(&self, entries: Vec<Entry>) -> Mark {
        self.0.gate.pass().await;
        // Through the layout, so that every test reads what was written and not what was meant.
        let entries = entries.iter().map(|entry| Entry::parse(entry.encode().as_bytes()).expect("its own layout"));
        let mut kept = lock(&self.0.entries);
        let mark = Mark(kept.len() as i64);
        kept.extend(entries);
        mark
    }

    async fn read(&self, partition: &TopicPartition, from: Option<Mark>) -> Result<Pages, JournalError> {
        {
            let mut failing = lock(&self.0.failing_reads);
            if *failing > 0 {
                *failing -= 1;
                return Err(JournalError("it was asked to fail".to_owned()));
            }
        }
        let from = usize::try_from(from.map_or(0, |mark| mark.0)).unwrap_or(0);
        let kept = lock(&self.0.entries);
        let entries = kept.iter().skip(from).filter(|entry| entry.is_of(partition)).cloned().collect();
        Ok(Pages { entries, unreadable: Vec::new() })
    }

    fn blocked(&self) -> Option<String> {
        self.0.gate.reason()
    }
}
