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
mod reconcile;
mod rules;

pub use events::{Event, Generator, ID_HEADER};
pub use reconcile::{Columns, Expected, Found, Part, Reconciliation, reconcile};
pub use rules::{Fate, Order, Rules};
