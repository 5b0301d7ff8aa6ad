//! The way out: requests of plugins to others, as far as a grant reaches.
//!
//! In: requests that a guest made up, and the [`HttpGrant`](crate::config::HttpGrant) of its step. Out: answers, or
//! [`Refused`]: what was not granted, or did not come. Each request, and each redirect, is held against the grant by its
//! host, port and method ([`rules`]); a host's addresses are looked up here, and each is held against the grant before it
//! is connected to ([`dial`]); the connection goes to the very address that was judged. What the grant puts into the
//! headers never shows.
//!
//! Never asks for anything by itself, never tries again what failed, never looks at the environment for a proxy, and never
//! holds a compute thread: it has a thread of its own.

mod address;
mod client;
mod dial;
mod rules;
#[cfg(test)]
mod tests;

use std::sync::Arc;
use std::time::Duration;

use futures::future::BoxFuture;
use tokio::runtime::{Builder, Runtime};

pub use client::Client;
pub use dial::{Resolve, SystemResolver};

/// What a guest asks for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Request {
    /// The method, in upper case.
    pub method: String,
    /// The URL, absolute.
    pub url: String,
    /// Names and values.
    pub headers: Vec<(String, Vec<u8>)>,
    /// The body.
    pub body: Option<Vec<u8>>,
    /// No longer than this; the grant's limit holds beside it.
    pub timeout: Option<Duration>,
    /// Redirects to follow.
    pub redirects: u32,
}

/// What came of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Response {
    /// The status.
    pub status: u16,
    /// Where it came from, after redirects.
    pub url: String,
    /// Names, in lower case, and values.
    pub headers: Vec<(String, Vec<u8>)>,
    /// The body as it came.
    pub body: Vec<u8>,
}

/// Why there is no answer.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Refused {
    /// Not granted.
    #[error("not granted: {0}")]
    Denied(String),
    /// No request at all.
    #[error("not a request: {0}")]
    Invalid(String),
    /// Not in time.
    #[error("no answer: {0}")]
    Timeout(String),
    /// The request, or its answer, has more bytes than were granted.
    #[error("too large: {0}")]
    TooLarge(String),
    /// No connection.
    #[error("no connection: {0}")]
    Connect(String),
    /// A connection, but no answer that could be read.
    #[error("no valid answer: {0}")]
    Protocol(String),
}

impl Refused {
    /// Which kind, as metrics name it.
    #[must_use]
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Denied(_) => "denied",
            Self::Invalid(_) => "invalid",
            Self::Timeout(_) => "timeout",
            Self::TooLarge(_) => "too_large",
            Self::Connect(_) => "connect",
            Self::Protocol(_) => "protocol",
        }
    }
}

/// What became of each of some requests, in their order.
pub type Answers = Vec<Result<Response, Refused>>;

/// What the requests of one call may take together.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Bounds {
    /// Bytes of their answers; what is beyond is refused.
    pub bytes: usize,
    /// Time on the clock.
    pub time: Duration,
}

/// Answers requests of a plugin.
pub trait Outgoing: Send + Sync {
    /// Sends requests side by side; none where they take longer than they may. Dropping the call gives them up. What can be
    /// refused without asking is refused before this returns, on the thread of the call: whoever makes up requests by the
    /// thousand does so at his own cost.
    fn fetch_all(&self, requests: Vec<Request>, bounds: Bounds) -> BoxFuture<'static, Option<Answers>>;

    /// Whom to tell of each request that was made; nobody by default.
    fn report_to(&self, _: Report) {}
}

/// Told of each request, whatever came of it.
pub type Report = Box<dyn Fn(&Exchange) + Send + Sync>;

/// A request that was made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Exchange {
    /// `ok`, or the kind of its refusal.
    pub outcome: &'static str,
    /// How long it took.
    pub took: Duration,
}

/// The thread that speaks to the network, and how names become addresses.
pub struct Wire {
    /// Always there, but in `drop`.
    runtime: Option<Runtime>,
    resolver: Arc<dyn Resolve>,
}

/// Names that are looked up at once.
const LOOKUPS_MAX: usize = 16;

impl Wire {
    /// Starts the thread.
    ///
    /// # Errors
    /// Where the system gives none.
    pub fn start(resolver: Arc<dyn Resolve>) -> std::io::Result<Self> {
        let runtime = Builder::new_multi_thread()
            .worker_threads(1)
            .max_blocking_threads(LOOKUPS_MAX)
            .thread_name("egress")
            .enable_all()
            .build()?;
        Ok(Self { runtime: Some(runtime), resolver })
    }

    fn handle(&self) -> tokio::runtime::Handle {
        self.runtime.as_ref().expect("it is there until it is dropped").handle().clone()
    }
}

impl Drop for Wire {
    fn drop(&mut self) {
        // It may be dropped where nothing may wait; what is under way has nobody who listens.
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}
