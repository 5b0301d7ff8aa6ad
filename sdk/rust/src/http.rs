//! Capability `http`: ask others.
//!
//! The pipeline's grant names the hosts and methods; keys that a server wants are put in by the host, and no plugin sees
//! them. A request may be made again when its batch comes again, so ask for what may be asked for twice.
//!
//! Asking once for a whole batch makes one wait of it, where asking for each record makes a wait of each:
//! [`Transform::prepare`](crate::Transform::prepare) sees the batch first, and [`LookUps`] holds its answers.
//!
//! ```
//! use std::time::Duration;
//!
//! use pelton_sdk::prelude::*;
//!
//! #[derive(Fields)]
//! struct Visit<'a> { ip: &'a str }
//! #[derive(Columns)]
//! struct Row { country: String }
//! #[derive(Deserialize)]
//! #[serde(crate = "pelton_sdk::serde")]
//! struct Place { country: String }
//!
//! struct Geo { places: http::LookUps }
//!
//! fn url(visit: &Visit) -> String {
//!     format!("https://api.geo.example/ip/{}", visit.ip)
//! }
//!
//! impl Transform for Geo {
//!     type Config = ();
//!     type Input<'a> = Visit<'a>;
//!     type Output<'a> = Row;
//!
//!     fn new((): ()) -> Result<Self, ConfigError> {
//!         Ok(Self { places: http::LookUps::default() })
//!     }
//!
//!     fn prepare<'a>(&'a self, batch: Inputs<'a, '_, Self>) {
//!         self.places.ask(batch.map(|visit| url(&visit)));
//!     }
//!
//!     fn apply(&self, visit: Visit) -> Step<Row> {
//!         match self.places.get(&url(&visit)) {
//!             Ok(answer) if answer.status == 404 => Step::reject("unknown_ip", visit.ip),
//!             Ok(answer) => match answer.read_json::<Place>() {
//!                 Ok(place) => Step::set(Row { country: place.country }),
//!                 Err(error) => Step::reject("bad_answer", error),
//!             },
//!             Err(error) => Step::retry(Duration::from_secs(5), "no_answer", error.to_string()),
//!         }
//!     }
//! }
//!
//! let geo = testing::Driver::<Geo>::new(json!(null)).unwrap().answering(|request| match request.url.as_str() {
//!     "https://api.geo.example/ip/192.0.2.1" => Ok(http::Response::json(&json!({"country": "DE"}))),
//!     _ => Err(http::Error::Timeout("not within 2000 ms".into())),
//! });
//! let run = geo.run([r#"{"ip": "192.0.2.1"}"#, r#"{"ip": "192.0.2.2"}"#]);
//! assert_eq!(run.values("default")[0]["country"], "DE");
//! assert_eq!(run.failures(), [(1, "no_answer")]);
//! ```

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::fmt;
use std::rc::Rc;
use std::time::Duration;

use serde::de::DeserializeOwned;

/// A request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Request {
    /// In upper case.
    pub method: String,
    /// Absolute.
    pub url: String,
    /// Names and values.
    pub headers: Vec<(String, Vec<u8>)>,
    /// The body.
    pub body: Option<Vec<u8>>,
    /// Not longer than this, beside the grant's own limit.
    pub timeout: Option<Duration>,
    /// How many redirects to follow, at most 10.
    pub redirects: u32,
}

impl Request {
    /// A request of any method; it follows up to 5 redirects.
    #[must_use]
    pub fn new(method: &str, url: impl Into<String>) -> Self {
        Self {
            method: method.to_owned(),
            url: url.into(),
            headers: Vec::new(),
            body: None,
            timeout: None,
            redirects: 5,
        }
    }

    /// `GET`.
    #[must_use]
    pub fn get(url: impl Into<String>) -> Self {
        Self::new("GET", url)
    }

    /// `POST` with a body.
    #[must_use]
    pub fn post(url: impl Into<String>, body: impl Into<Vec<u8>>) -> Self {
        Self { body: Some(body.into()), ..Self::new("POST", url) }
    }

    /// Adds a header.
    #[must_use]
    pub fn header(mut self, name: &str, value: impl Into<Vec<u8>>) -> Self {
        self.headers.push((name.to_owned(), value.into()));
        self
    }

    /// Waits no longer than this.
    #[must_use]
    pub fn timeout(mut self, timeout: Duration) -> Self {
        self.timeout = Some(timeout);
        self
    }

    /// Follows so many redirects.
    #[must_use]
    pub fn redirects(mut self, redirects: u32) -> Self {
        self.redirects = redirects;
        self
    }
}

/// An answer, of any status.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Response {
    /// The status.
    pub status: u16,
    /// Where it came from, after redirects.
    pub url: String,
    /// Names, in lower case, and values.
    pub headers: Vec<(String, Vec<u8>)>,
    /// The body.
    pub body: Vec<u8>,
}

impl Response {
    /// An answer for tests: 200, with this JSON.
    #[must_use]
    pub fn json(body: &serde_json::Value) -> Self {
        let headers = vec![("content-type".to_owned(), b"application/json".to_vec())];
        Self { status: 200, headers, body: body.to_string().into_bytes(), ..Self::default() }
    }

    /// Whether the status is 200 to 299.
    #[must_use]
    pub fn is_success(&self) -> bool {
        (200..300).contains(&self.status)
    }

    /// The first header of that name, which is written in lower case.
    #[must_use]
    pub fn header(&self, name: &str) -> Option<&[u8]> {
        self.headers.iter().find(|(found, _)| found == name).map(|(_, value)| value.as_slice())
    }

    /// The body as text; none where it is not UTF-8.
    #[must_use]
    pub fn text(&self) -> Option<&str> {
        std::str::from_utf8(&self.body).ok()
    }

    /// The body of a success, read as JSON.
    ///
    /// # Errors
    /// Where the status is no success, or the body does not fit.
    pub fn read_json<T: DeserializeOwned>(&self) -> Result<T, String> {
        if !self.is_success() {
            return Err(format!("the answer's status is {}", self.status));
        }
        serde_json::from_slice(&self.body).map_err(|error| format!("the answer is not as expected: {error}"))
    }
}

/// Why there is no answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Error {
    /// Not granted: another try will not help.
    Denied(String),
    /// No request at all: another try will not help.
    Invalid(String),
    /// Not in time.
    Timeout(String),
    /// More bytes than are granted.
    TooLarge(String),
    /// No connection.
    Connect(String),
    /// A connection that broke, or an answer that is no HTTP.
    Protocol(String),
}

impl Error {
    /// Whether a later try may fare better.
    #[must_use]
    pub fn is_transient(&self) -> bool {
        matches!(self, Self::Timeout(_) | Self::Connect(_) | Self::Protocol(_))
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Denied(why) => write!(f, "not granted: {why}"),
            Self::Invalid(why) => write!(f, "not a request: {why}"),
            Self::Timeout(why) => write!(f, "no answer: {why}"),
            Self::TooLarge(why) => write!(f, "too large: {why}"),
            Self::Connect(why) => write!(f, "no connection: {why}"),
            Self::Protocol(why) => write!(f, "no valid answer: {why}"),
        }
    }
}

impl std::error::Error for Error {}

/// Asks with `GET`, and waits.
///
/// # Errors
/// Where there is no answer.
pub fn get(url: impl Into<String>) -> Result<Response, Error> {
    fetch(Request::get(url))
}

/// Asks, and waits.
///
/// # Errors
/// Where there is no answer.
pub fn fetch(request: Request) -> Result<Response, Error> {
    crate::host::fetch_all(vec![request]).pop().unwrap_or_else(|| Err(Error::Protocol("no answer came".to_owned())))
}

/// Asks side by side, as many at once as are granted, and waits for all: an answer for each request, in their order.
pub fn fetch_all(requests: impl IntoIterator<Item = Request>) -> Vec<Result<Response, Error>> {
    crate::host::fetch_all(requests.into_iter().collect())
}

/// The answers to a batch's questions: each URL is asked for once.
#[derive(Debug, Default)]
pub struct LookUps(RefCell<BTreeMap<String, Result<Rc<Response>, Error>>>);

impl LookUps {
    /// Asks for these URLs with `GET`, side by side; what was asked for before is forgotten, so that no record depends on an
    /// earlier batch.
    pub fn ask(&self, urls: impl IntoIterator<Item = String>) {
        self.ask_with(urls, Request::get);
    }

    /// As [`Self::ask`], with requests of your own making.
    pub fn ask_with(&self, urls: impl IntoIterator<Item = String>, request: impl Fn(String) -> Request) {
        let mut urls: Vec<String> = urls.into_iter().collect();
        urls.sort_unstable();
        urls.dedup();
        let answers = fetch_all(urls.iter().cloned().map(request));
        *self.0.borrow_mut() = urls.into_iter().zip(answers.into_iter().map(|answer| answer.map(Rc::new))).collect();
    }

    /// The answer for a URL that the batch asked for.
    ///
    /// # Errors
    /// Where there is no answer, or nobody asked.
    pub fn get(&self, url: &str) -> Result<Rc<Response>, Error> {
        let nobody = || Err(Error::Invalid(format!("{url} was not asked for in `prepare`")));
        self.0.borrow().get(url).cloned().unwrap_or_else(nobody)
    }
}
