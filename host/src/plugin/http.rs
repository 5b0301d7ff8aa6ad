//! `http` as a guest calls it: one wait for all requests of a call, off the CPU.
//!
//! In: the guest's requests. Out: its answers; or the end of the call, where all its waiting takes longer than it may. While
//! others are asked, nothing of the guest is on any thread, and its clock of CPU time stands still.

use std::time::Duration;

use futures::FutureExt as _;
use futures::future::BoxFuture;

use super::bindings::http;
use super::state::State;
use crate::egress::{Answers, Bounds, Outgoing, Refused, Request, Response};

/// A call's answers may take this part of the guest's memory.
const ANSWERS_PART_OF_MEMORY: usize = 4;

impl http::Host for State {
    async fn fetch(&mut self, request: http::Request) -> wasmtime::Result<Result<http::Response, http::Error>> {
        let mut answers = self.ask(vec![asked(request)]).await?;
        Ok(told(answers.pop().expect("an answer for each request")))
    }

    async fn fetch_all(
        &mut self,
        requests: Vec<http::Request>,
    ) -> wasmtime::Result<Vec<Result<http::Response, http::Error>>> {
        let answers = self.ask(requests.into_iter().map(asked).collect()).await?;
        Ok(answers.into_iter().map(told).collect())
    }
}

/// Answers where `http` was granted to no host: a plugin's own file asks for it, and no pipeline says whom it may ask.
pub(super) struct Nobody;

impl Outgoing for Nobody {
    fn fetch_all(&self, requests: Vec<Request>, _: Bounds) -> BoxFuture<'static, Option<Answers>> {
        let denied = |_| Err(Refused::Denied("no host is granted".to_owned()));
        std::future::ready(Some(requests.into_iter().map(denied).collect())).boxed()
    }
}

impl State {
    async fn ask(&mut self, requests: Vec<Request>) -> wasmtime::Result<Answers> {
        if requests.is_empty() {
            return Ok(Vec::new());
        }
        let Some(outgoing) = &self.outgoing else {
            let denied = || Err(Refused::Denied("nobody is asked but while a batch is handled".to_owned()));
            return Ok(requests.iter().map(|_| denied()).collect());
        };
        let bytes = self.memory.limit_bytes() / ANSWERS_PART_OF_MEMORY;
        // What is refused without asking is refused here: the guest pays for it with its own CPU time.
        let answers = outgoing.fetch_all(requests, Bounds { bytes, time: self.budget.may_wait() });
        let waiting = self.budget.pause();
        let answers = answers.await;
        self.budget.resume(waiting);
        answers.ok_or_else(|| wasmtime::Error::new(self.budget.waited_too_long()))
    }
}

fn asked(request: http::Request) -> Request {
    let http::Request { method, url, headers, body, timeout_ms, redirects } = request;
    let headers = headers.into_iter().map(|header| (header.name, header.value)).collect();
    let timeout = timeout_ms.map(|ms| Duration::from_millis(ms.into()));
    Request { method, url, headers, body, timeout, redirects }
}

fn told(answer: Result<Response, Refused>) -> Result<http::Response, http::Error> {
    match answer {
        Ok(Response { status, url, headers, body }) => {
            let headers = headers.into_iter().map(|(name, value)| http::Header { name, value }).collect();
            Ok(http::Response { status, url, headers, body })
        }
        Err(Refused::Denied(why)) => Err(http::Error::Denied(why)),
        Err(Refused::Invalid(why)) => Err(http::Error::Invalid(why)),
        Err(Refused::Timeout(why)) => Err(http::Error::Timeout(why)),
        Err(Refused::TooLarge(why)) => Err(http::Error::TooLarge(why)),
        Err(Refused::Connect(why)) => Err(http::Error::Connect(why)),
        Err(Refused::Protocol(why)) => Err(http::Error::Protocol(why)),
    }
}
