//! The one seam to the host. In a component each function is an import; elsewhere it is answered by the test driver.
//!
//! Each import stands in a function of its own that only its capability calls, so that what a plugin does not use does
//! not become an import of its component.

use std::cell::Cell;

thread_local! {
    /// The row that the plugin is looking at; [`NO_ROW`] outside of a batch.
    static ROW: Cell<u32> = const { Cell::new(NO_ROW) };
}

const NO_ROW: u32 = u32::MAX;

#[inline]
pub(crate) fn enter_row(row: u32) {
    ROW.set(row);
}

pub(crate) fn leave_rows() {
    ROW.set(NO_ROW);
}

/// The row that the plugin is looking at.
#[expect(clippy::panic, reason = "a mistake of the plugin's author that no record can cause; the message names it")]
pub(crate) fn row(capability: &str) -> u32 {
    match ROW.get() {
        NO_ROW => panic!("{capability} belongs to a record, and there is none outside of Transform::apply"),
        row => row,
    }
}

#[cfg(target_arch = "wasm32")]
mod imports {
    use crate::bindings::pelton::plugin;
    use crate::http::{Error, Request, Response};
    use crate::log::Level;

    pub(crate) fn log(level: Level, message: &str) {
        plugin::log::write(
            match level {
                Level::Debug => plugin::log::Level::Debug,
                Level::Info => plugin::log::Level::Info,
                Level::Warn => plugin::log::Level::Warn,
                Level::Error => plugin::log::Level::Error,
            },
            message,
        );
    }

    pub(crate) fn fetch_all(requests: Vec<Request>) -> Vec<Result<Response, Error>> {
        let asked = |request: Request| plugin::http::Request {
            method: request.method,
            url: request.url,
            headers: request.headers.into_iter().map(|(name, value)| plugin::http::Header { name, value }).collect(),
            body: request.body,
            timeout_ms: request.timeout.map(|timeout| u32::try_from(timeout.as_millis()).unwrap_or(u32::MAX)),
            redirects: request.redirects,
        };
        let told = |response: plugin::http::Response| Response {
            status: response.status,
            url: response.url,
            headers: response.headers.into_iter().map(|header| (header.name, header.value)).collect(),
            body: response.body,
        };
        let why = |error| match error {
            plugin::http::Error::Denied(why) => Error::Denied(why),
            plugin::http::Error::Invalid(why) => Error::Invalid(why),
            plugin::http::Error::Timeout(why) => Error::Timeout(why),
            plugin::http::Error::TooLarge(why) => Error::TooLarge(why),
            plugin::http::Error::Connect(why) => Error::Connect(why),
            plugin::http::Error::Protocol(why) => Error::Protocol(why),
        };
        let requests: Vec<_> = requests.into_iter().map(asked).collect();
        plugin::http::fetch_all(&requests).into_iter().map(|answer| answer.map(told).map_err(why)).collect()
    }

    pub(crate) use plugin::clock::time;
    pub(crate) use plugin::config::get as config;
    pub(crate) use plugin::metrics::{count, gauge, observe};
    pub(crate) use plugin::random::seed;
}

#[cfg(not(target_arch = "wasm32"))]
mod imports {
    pub(crate) use crate::testing::host::{config, count, fetch_all, gauge, log, observe, seed, time};
}

pub(crate) use imports::{config, count, fetch_all, gauge, log, observe, seed, time};
