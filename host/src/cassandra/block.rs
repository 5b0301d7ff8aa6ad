//! Why nothing gets through to a table, and how long to wait before the next attempt.
//!
//! In: attempts that failed, and those that did not. Out: one message for people, as long as it is true; pauses that
//! grow. Never decides what becomes of a row.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use rand::Rng;

/// The first pause before another attempt; each further one is twice as long.
const BACK_OFF_MIN: Duration = Duration::from_millis(20);
const BACK_OFF_MAX: Duration = Duration::from_secs(5);

/// Doubles up to its maximum; a random half of it is taken away, so that rows do not come back all at once.
pub(super) fn back_off(attempt: u32) -> Duration {
    let full = BACK_OFF_MIN.saturating_mul(1 << attempt.min(20)).min(BACK_OFF_MAX);
    full.mul_f64(rand::rng().random_range(0.5..=1.0))
}

/// Why nothing gets through.
#[derive(Debug, Default)]
pub(super) struct Block {
    /// Attempts that failed since the last success.
    failures: AtomicU64,
    message: Mutex<Option<String>>,
}

impl Block {
    /// An attempt failed; after `blocked_from` in a row nothing gets through.
    pub(super) fn failed(&self, table: &str, message: String, blocked_from: u64) {
        if self.failures.fetch_add(1, Ordering::Relaxed) + 1 < blocked_from {
            return;
        }
        let mut shown = self.message.lock().unwrap_or_else(PoisonError::into_inner);
        if shown.as_ref() != Some(&message) {
            tracing::warn!(%table, "writes are blocked and tried again: {message}");
        }
        *shown = Some(message);
    }

    pub(super) fn clear(&self, table: &str) {
        if self.failures.load(Ordering::Relaxed) == 0 {
            return;
        }
        self.failures.store(0, Ordering::Relaxed);
        if self.message.lock().unwrap_or_else(PoisonError::into_inner).take().is_some() {
            tracing::info!(%table, "writes get through again");
        }
    }

    pub(super) fn message(&self) -> Option<String> {
        self.message.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn back_off_grows_and_is_capped() {
        for attempt in 0..100 {
            let full = BACK_OFF_MIN.saturating_mul(1 << attempt.min(20)).min(BACK_OFF_MAX);
            let pause = back_off(attempt);
            assert!(pause >= full / 2 && pause <= full, "{attempt}: {pause:?}");
        }
    }
}
