//! The sinks of what nobody wants.
//!
//! In: rows and letters. Out: nothing; all are done at once.

use async_trait::async_trait;

use super::{DeadLetter, DeadLetters, Pending, Sink, Wants, Written};
use crate::record::SinkBatch;

/// Takes everything and keeps nothing.
#[derive(Debug)]
pub struct DiscardSink {
    wants: Wants,
}

impl DiscardSink {
    /// In the place of a sink that wants this: what cannot be made for that one fails here too.
    #[must_use]
    pub fn instead_of(wants: Wants) -> Self {
        Self { wants }
    }
}

/// Takes every dead letter and keeps none; they are counted all the same.
#[derive(Debug, Default)]
pub struct DiscardLetters;

#[async_trait]
impl DeadLetters for DiscardLetters {
    async fn write(&self, _letters: Vec<DeadLetter>) {}
}

impl Default for DiscardSink {
    fn default() -> Self {
        Self { wants: Wants::Cells(Vec::new()) }
    }
}

#[async_trait]
impl Sink for DiscardSink {
    fn wants(&self) -> &Wants {
        &self.wants
    }

    async fn write(&self, _batch: SinkBatch) -> Pending {
        Box::pin(std::future::ready(Written::default()))
    }
}
