//! One step's client: requests side by side, each within its time and its size, hop by hop.
//!
//! In: requests. Out: their answers, in order. Connections are kept for later requests of the same step, and of no other.

use std::error::Error as _;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use bytes::Bytes;
use futures::future::BoxFuture;
use futures::{FutureExt as _, StreamExt as _};
use http_body_util::{BodyExt as _, Full};
use hyper::body::Incoming;
use hyper_util::client::legacy;
use hyper_util::rt::{TokioExecutor, TokioTimer};
use tokio::runtime::Handle;
use tokio::sync::Semaphore;
use tokio::time::Instant;
use tokio_util::task::AbortOnDropHandle;

use super::dial::Dial;
use super::rules::{self, Hop};
use super::{Answers, Bounds, Exchange, Outgoing, Refused, Report, Request, Response, Wire};
use crate::config::HttpGrant;

/// A connection that nobody has used for so long is closed.
const IDLE_MAX: Duration = Duration::from_secs(30);
/// Bytes of an answer's headers.
const HEADERS_MAX: usize = 64 << 10;

/// Asks others, for one step of a pipeline.
#[derive(Clone)]
pub struct Client(Arc<Inner>);

struct Inner {
    grant: Arc<HttpGrant>,
    client: legacy::Client<Dial, Full<Bytes>>,
    /// Of all instances together.
    under_way: Semaphore,
    thread: Handle,
    report: OnceLock<Report>,
}

/// A request that may be sent.
struct Checked {
    first: Hop,
    limit: Duration,
    redirects: u32,
}

impl Client {
    /// A client within a grant.
    ///
    /// # Errors
    /// Where the machine's certificates cannot be read.
    pub fn new(grant: HttpGrant, wire: &Wire) -> Result<Self, String> {
        let grant = Arc::new(grant);
        let dial = Dial::new(Arc::clone(&grant), Arc::clone(&wire.resolver)).map_err(|error| error.to_string())?;
        let client = legacy::Client::builder(TokioExecutor::new())
            .pool_timer(TokioTimer::new())
            .pool_idle_timeout(IDLE_MAX)
            .pool_max_idle_per_host(grant.concurrency)
            .http1_max_buf_size(HEADERS_MAX)
            .build(dial);
        let under_way = Semaphore::new(grant.concurrency);
        Ok(Self(Arc::new(Inner { grant, client, under_way, thread: wire.handle(), report: OnceLock::new() })))
    }
}

impl Outgoing for Client {
    fn fetch_all(&self, requests: Vec<Request>, bounds: Bounds) -> BoxFuture<'static, Option<Answers>> {
        let checked: Vec<Result<Checked, Refused>> = requests.iter().map(|request| self.0.check(request)).collect();
        if checked.iter().all(Result::is_err) {
            let refused = checked.into_iter().filter_map(Result::err).map(Err).collect();
            return std::future::ready(Some(refused)).boxed();
        }
        let (inner, many) = (Arc::clone(&self.0), requests.len());
        let answers = async move {
            let room = Room(AtomicUsize::new(bounds.bytes));
            let ask = |checked: Result<Checked, Refused>| async { inner.ask(checked?, &room).await };
            let answers = futures::stream::iter(checked).map(ask).buffered(inner.grant.concurrency).collect::<Vec<_>>();
            tokio::time::timeout(bounds.time, answers).await.ok()
        };
        let answers = AbortOnDropHandle::new(self.0.thread.spawn(answers));
        let fault = move |error| vec![Err(Refused::Protocol(format!("an internal fault: {error}"))); many];
        async move { answers.await.unwrap_or_else(|error| Some(fault(error))) }.boxed()
    }

    fn report_to(&self, report: Report) {
        // Who came first is told.
        let _ = self.0.report.set(report);
    }
}

impl Inner {
    /// Holds a request against the grant.
    fn check(&self, request: &Request) -> Result<Checked, Refused> {
        let first = Hop::first(&self.grant, request);
        let checked = first.and_then(|first| first.message(&self.grant).map(|_| first)).map(|first| Checked {
            first,
            limit: rules::timeout(&self.grant, request),
            redirects: request.redirects,
        });
        if let Err(refused) = &checked {
            self.tell(refused.kind(), Duration::ZERO);
        }
        checked
    }

    async fn ask(&self, checked: Checked, room: &Room) -> Result<Response, Refused> {
        let _turn = self.under_way.acquire().await.expect("nobody closes it");
        let (began, limit) = (Instant::now(), checked.limit);
        let answer = match tokio::time::timeout(limit, self.hops(checked, room)).await {
            Ok(answer) => answer,
            Err(_) => Err(Refused::Timeout(format!("not within {} ms", limit.as_millis()))),
        };
        self.tell(answer.as_ref().map_or_else(Refused::kind, |_| "ok"), began.elapsed());
        answer
    }

    fn tell(&self, outcome: &'static str, took: Duration) {
        if let Some(report) = self.report.get() {
            report(&Exchange { outcome, took });
        }
    }

    async fn hops(&self, checked: Checked, room: &Room) -> Result<Response, Refused> {
        let (mut hop, mut left) = (checked.first, checked.redirects);
        loop {
            let message = hop.message(&self.grant)?;
            let response = self.client.request(message).await.map_err(|error| told(&error, &hop))?;
            if left > 0
                && let Some(next) = hop.next(response.status(), response.headers())?
            {
                left -= 1;
                hop = next;
                continue;
            }
            return self.whole(response, &hop, room).await;
        }
    }

    /// The answer with its body, as far as there is room for it.
    async fn whole(&self, response: http::Response<Incoming>, hop: &Hop, room: &Room) -> Result<Response, Refused> {
        let (head, mut incoming) = response.into_parts();
        let mut body = Vec::new();
        while let Some(frame) = incoming.frame().await {
            let frame = frame.map_err(|error| Refused::Protocol(format!("{}: {error}", rules::place(hop.url()))))?;
            let Ok(data) = frame.into_data() else { continue };
            if body.len() + data.len() > self.grant.response_bytes {
                return Err(Refused::TooLarge(format!("the answer has more than {} bytes", self.grant.response_bytes)));
            }
            room.take(data.len())?;
            body.extend_from_slice(&data);
        }
        let headers: Vec<(String, Vec<u8>)> =
            head.headers.iter().map(|(name, value)| (name.to_string(), value.as_bytes().to_vec())).collect();
        room.take(headers.iter().map(|(name, value)| name.len() + value.len()).sum())?;
        Ok(Response { status: head.status.as_u16(), url: hop.url().to_string(), headers, body })
    }
}

/// Bytes that the answers of one call may have together.
struct Room(AtomicUsize);

impl Room {
    fn take(&self, bytes: usize) -> Result<(), Refused> {
        let taken = self.0.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| left.checked_sub(bytes));
        taken.map(drop).map_err(|_| {
            Refused::TooLarge(
                "the answers of one call have together more than a quarter of the plugin's memory".to_owned(),
            )
        })
    }
}

/// Why the client gave up: our own word where it was ours, else the innermost of its reasons.
fn told(error: &legacy::Error, hop: &Hop) -> Refused {
    let mut reason = error.source();
    let mut innermost = error.to_string();
    while let Some(inner) = reason {
        if let Some(refused) = inner.downcast_ref::<Refused>() {
            return refused.clone();
        }
        innermost = inner.to_string();
        reason = inner.source();
    }
    Refused::Protocol(format!("{}: {innermost}", rules::place(hop.url())))
}
