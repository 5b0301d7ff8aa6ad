//! Something that lets work through, or holds it back with a reason.

use std::sync::Mutex;

use tokio::sync::watch;

use super::lock;

/// Open, or closed with a reason.
#[derive(Debug)]
pub(super) struct Gate {
    reason: Mutex<Option<String>>,
    changes: watch::Sender<u64>,
}

impl Gate {
    pub(super) fn open() -> Self {
        Self { reason: Mutex::new(None), changes: watch::Sender::new(0) }
    }

    /// Closes (with a reason) or opens (without).
    pub(super) fn set(&self, reason: Option<String>) {
        *lock(&self.reason) = reason;
        self.changes.send_modify(|version| *version += 1);
    }

    /// Why it is closed, if it is.
    pub(super) fn reason(&self) -> Option<String> {
        lock(&self.reason).clone()
    }

    /// Waits until it is open.
    pub(super) async fn pass(&self) {
        let mut changes = self.changes.subscribe();
        while self.reason().is_some() {
            if changes.changed().await.is_err() {
                return;
            }
        }
    }
}
