//! The sink of what nobody wants.
//!
//! In: rows. Out: nothing; all are done at once.

use async_trait::async_trait;

use super::{Pending, Sink, Wants, Written};
use crate::record::SinkBatch;

/// Takes everything and keeps nothing.
#[derive(Debug)]
pub struct DiscardSink {
    wants: Wants,
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
