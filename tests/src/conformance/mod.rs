//! One suite over every sink and every source: what the seams of `pelton::pipeline` promise, tried on each
//! implementation.
//!
//! An implementation brings a bed (a table or a topic of its own, and a way to look into it without the code under
//! test) and says once which suite to run:
//!
//! ```ignore
//! mod my_tables {
//!     pelton_tests::table_sink_suite!(MyBed::new().await);
//! }
//! ```
//!
//! Each behaviour then is a test of its own, on a fresh bed.

pub mod journal;
pub mod records;
pub mod source;
pub mod table;

use std::future::Future;
use std::time::Duration;

/// The longest that anything here may take: a real group takes seconds to settle, a busy machine many.
pub const LIMIT: Duration = Duration::from_secs(90);

/// Waits for a future, but not without end.
pub(crate) async fn within<T>(what: &str, future: impl Future<Output = T>) -> T {
    match tokio::time::timeout(LIMIT, future).await {
        Ok(done) => done,
        Err(_) => panic!("{what}: nothing after {LIMIT:?}"),
    }
}
