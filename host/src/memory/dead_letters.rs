//! Dead letters in memory.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;

use super::gate::Gate;
use super::lock;
use crate::pipeline::{DeadLetter, DeadLetters};

/// Keeps every letter. Clones share the same letters.
#[derive(Debug, Clone)]
pub struct MemoryDeadLetters(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    letters: Mutex<Vec<DeadLetter>>,
    gate: Gate,
    delay: Mutex<Duration>,
}

impl Default for MemoryDeadLetters {
    fn default() -> Self {
        Self(Arc::new(Inner { letters: Mutex::default(), gate: Gate::open(), delay: Mutex::default() }))
    }
}

impl MemoryDeadLetters {
    /// No letters yet.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// What was written, in order; a redelivered record's letter stands there as often as it was written.
    #[must_use]
    pub fn letters(&self) -> Vec<DeadLetter> {
        lock(&self.0.letters).clone()
    }

    /// Holds every write back from now on.
    pub fn block(&self, reason: &str) {
        self.0.gate.set(Some(reason.to_owned()));
    }

    /// Lets writes through again.
    pub fn unblock(&self) {
        self.0.gate.set(None);
    }

    /// Makes every write take this long.
    pub fn delay(&self, delay: Duration) {
        *lock(&self.0.delay) = delay;
    }
}

#[async_trait]
impl DeadLetters for MemoryDeadLetters {
    async fn write(&self, letters: Vec<DeadLetter>) {
        let delay = *lock(&self.0.delay);
        if !delay.is_zero() {
            tokio::time::sleep(delay).await;
        }
        self.0.gate.pass().await;
        lock(&self.0.letters).extend(letters);
    }

    fn blocked(&self) -> Option<String> {
        self.0.gate.reason()
    }
}
