//! How the plugins of a pipeline are replaced while records flow.
//!
//! In: a file that has changed, or somebody's word. Out: another generation that is live, or why it is not, while the one
//! before runs on. Tasks go over by themselves, each between two parts of its own: no rebalance, nothing lost, nothing
//! repeated. Never stops a pipeline, never touches a task.
//!
//! ```text
//!   watch ──┐                                             ┌─► history: generations and artifacts, over restarts
//!   admin ──┴─► reloader ─► candidate, stage by stage ─► live ─► probation ─► settled, or rolled back
//! ```

mod candidate;
mod going_back;
mod history;
mod reloader;
mod start;
mod taking_over;
mod telling;
#[cfg(test)]
mod tests;
mod watch;

pub use history::{History, HistoryError};
pub use reloader::{Fit, Parts, Reloader};
pub use start::{Beginning, begin};
