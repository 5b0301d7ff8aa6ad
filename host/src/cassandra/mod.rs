//! All that speaks CQL: the session, tables and their types, cells, the sink, and the online check.
//!
//! In: a connection's settings, a table's name, rows as cells by column. Out: rows in Cassandra, each at its record's
//! own write time, so that writes may run side by side, be retried and be repeated in any order. Nothing outside this
//! room names the driver. Never takes a time-out for success, never drops a row without saying so, never logs a value.
//!
//! | part        | in                              | out                                              |
//! |-------------|---------------------------------|--------------------------------------------------|
//! | [`session`] | settings                        | a session of the driver, without its retries      |
//! | [`table`]   | a session, a table's name       | columns with types, or why the table will not do  |
//! | `cells`     | a value, a column's type        | the bytes of a CQL value (pure)                   |
//! | `rows`      | a batch, the table's shape      | merged rows, ready to bind (pure)                 |
//! | `groups`    | rows of a batch                 | which of them go together (pure)                  |
//! | `window`    | answers and their latency       | how many writes may be under way (pure inside)    |
//! | `writer`    | a batch                         | `Written`: every row written, or never            |
//! | [`sink`]    | batches, in bounds              | `Written`                                         |
//! | [`check`]   | a project's tables              | problems                                          |
//! | [`creation`] | a table, a name that is free   | the statement that makes one like it              |

mod block;
#[cfg(test)]
mod cell_tests;
mod cells;
pub mod check;
mod collections;
pub mod creation;
mod errors;
mod groups;
mod plan;
#[cfg(test)]
mod row_tests;
mod rows;
pub mod session;
pub mod sink;
mod stats;
pub mod table;
mod times;
mod tls;
mod window;
mod writer;

pub use errors::CassandraError;
pub use session::{Cassandra, connect};
pub use sink::CassandraSink;
pub use stats::{LATENCY_BOUNDS_US, SinkSnapshot};
