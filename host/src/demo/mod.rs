//! `pelton demo`: a shop's events through the real daemon, with nothing needed but the binary, and a reckoning at the
//! end.
//!
//! In: a seed, a time, a rate. Out: a [`Reconciliation`] of what the stores hold with what they should hold. The
//! broker is embedded (`kafka`), the table is an SQLite file, the project is a directory like any other, and the daemon
//! is the one that `pelton run` starts. Never counts where it can look: what is compared was read back from the stores.
//!
//! ```text
//! Generator ─► embedded broker ─► daemon (shop-orders) ─► SQLite table, topics of alerts and dead letters
//!     │ fate of each event                                               │ read back
//!     └──────────────► Expected ──────────► reconcile ◄──────────── Found┘
//! ```

mod events;
mod pipelines;
mod project;
mod reconcile;
mod rules;
mod run;
mod stores;

pub use events::{Event, Generator, ID_HEADER};
pub use pipelines::Other;
pub use project::{Directory, Known, PLUGIN, Role};
pub use reconcile::{Columns, Expected, Found, Part, Reconciliation, reconcile};
pub use rules::{Fate, Order, Rules};
pub use run::{Options, Progress, Seen, Summary, run};

use std::path::PathBuf;

/// Why a demo cannot go on.
#[derive(Debug, thiserror::Error)]
pub enum DemoError {
    /// Its directory cannot be used.
    #[error("{}: {reason}", dir.display())]
    Directory {
        /// The directory.
        dir: PathBuf,
        /// Why.
        reason: String,
    },
    /// The daemon does not start: mistakes in the project, or a service that refuses.
    #[error(transparent)]
    Start(#[from] crate::daemon::StartError),
    /// The embedded broker failed.
    #[error(transparent)]
    Broker(#[from] crate::kafka::EmbeddedError),
    /// A topic cannot be read back or written.
    #[error("the embedded broker: {0}")]
    Topic(#[from] crate::pipeline::SourceError),
    /// The table cannot be read back.
    #[error(transparent)]
    Table(#[from] crate::sqlite::SqliteError),
    /// A pipeline has stopped, or stands still.
    #[error("{0}")]
    Stuck(String),
}
