//! What a guest may ask, before anything is sent.
//!
//! In: one hop of a request and the grant. Out: the host's entry in the grant and the message to send, or what is not
//! granted; and the next hop that a redirect leads to. Pure: knows no connection.

use std::time::Duration;

use bytes::Bytes;
use http::header::{HeaderMap, HeaderName, HeaderValue, LOCATION, USER_AGENT};
use http::{Method, StatusCode, Uri};
use http_body_util::Full;
use url::{Position, Url};

use super::{Refused, Request};
use crate::config::{HostGrant, HostName, HttpGrant, OF_THE_CONNECTION};

/// Who asks, where the guest says nothing else.
const AGENT: &str = concat!("pelton/", env!("CARGO_PKG_VERSION"));
/// Redirects that a request may ask to follow.
pub(super) const REDIRECTS_MAX: u32 = 10;
/// What may follow a redirect to another host: nothing that could be meant for the first one alone.
const SAFE_FOR_OTHERS: [&str; 6] =
    ["accept", "accept-encoding", "accept-language", "content-language", "content-type", "user-agent"];

/// One message on its way: the request, or what a redirect made of it.
#[derive(Debug, Clone)]
pub(super) struct Hop {
    method: Method,
    url: Url,
    headers: HeaderMap,
    body: Bytes,
}

impl Hop {
    /// The first one.
    pub(super) fn first(grant: &HttpGrant, request: &Request) -> Result<Self, Refused> {
        let headers = request.headers.iter().map(|(name, value)| name.len() + value.len()).sum::<usize>();
        let bytes = request.url.len() + headers + request.body.as_ref().map_or(0, Vec::len);
        if bytes > grant.request_bytes {
            return Err(Refused::TooLarge(format!("the request has {bytes} bytes of {}", grant.request_bytes)));
        }
        if request.redirects > REDIRECTS_MAX {
            return Err(Refused::Invalid(format!("{} redirects; at most {REDIRECTS_MAX}", request.redirects)));
        }
        let method = Method::from_bytes(request.method.as_bytes())
            .map_err(|_| Refused::Invalid(format!("`{}` is no method", shown(&request.method))))?;
        let url = Url::parse(&request.url)
            .map_err(|error| Refused::Invalid(format!("`{}` is no URL: {error}", shown(&request.url))))?;
        let mut headers = HeaderMap::new();
        for (name, value) in &request.headers {
            let refused = || Refused::Invalid(format!("`{}` is no header", shown(name)));
            let key = HeaderName::from_bytes(name.as_bytes()).map_err(|_| refused())?;
            if OF_THE_CONNECTION.contains(&key.as_str()) {
                return Err(Refused::Denied(format!("the header `{key}` is the host's to set")));
            }
            headers.append(key, HeaderValue::from_bytes(value).map_err(|_| refused())?);
        }
        let body = request.body.clone().map_or_else(Bytes::new, Bytes::from);
        Ok(Self { method, url, headers, body })
    }

    /// Where it goes.
    pub(super) fn url(&self) -> &Url {
        &self.url
    }

    /// The message, with what the host puts in, where the grant reaches so far.
    pub(super) fn message(&self, grant: &HttpGrant) -> Result<http::Request<Full<Bytes>>, Refused> {
        let host = granted(grant, &self.method, &self.url)?;
        let mut headers = self.headers.clone();
        for (name, secret) in &host.headers {
            let name = HeaderName::from_bytes(name.as_bytes()).expect("the configuration was checked");
            if headers.contains_key(&name) {
                return Err(Refused::Denied(format!("the header `{name}` is the host's to set for {host}")));
            }
            let mut value = HeaderValue::from_str(secret.expose()).expect("the configuration was checked");
            value.set_sensitive(true);
            headers.insert(name, value);
        }
        headers.entry(USER_AGENT).or_insert(HeaderValue::from_static(AGENT));
        let uri: Uri = self.url[..Position::AfterQuery]
            .parse()
            .map_err(|error| Refused::Invalid(format!("`{}` is no URL: {error}", place(&self.url))))?;
        let mut message = http::Request::new(Full::new(self.body.clone()));
        *message.method_mut() = self.method.clone();
        *message.uri_mut() = uri;
        *message.headers_mut() = headers;
        Ok(message)
    }

    /// The hop that an answer leads to, as browsers follow it; none where it leads nowhere.
    pub(super) fn next(&self, status: StatusCode, headers: &HeaderMap) -> Result<Option<Self>, Refused> {
        let is_redirect = matches!(status.as_u16(), 301 | 302 | 303 | 307 | 308);
        let Some(location) = headers.get(LOCATION).filter(|_| is_redirect) else { return Ok(None) };
        let location = std::str::from_utf8(location.as_bytes()).ok();
        let url = location
            .and_then(|location| self.url.join(location).ok())
            .ok_or_else(|| Refused::Protocol(format!("{} redirects to something that is no URL", place(&self.url))))?;
        let mut next = Self { url, ..self.clone() };
        let becomes_get = match status {
            StatusCode::SEE_OTHER => self.method != Method::HEAD,
            StatusCode::MOVED_PERMANENTLY | StatusCode::FOUND => self.method == Method::POST,
            _ => false,
        };
        if becomes_get {
            next.method = Method::GET;
            next.body = Bytes::new();
            ["content-type", "content-language", "content-encoding", "content-location"].iter().for_each(|name| {
                next.headers.remove(*name);
            });
        }
        if next.url.origin() != self.url.origin() {
            let names: Vec<HeaderName> = next.headers.keys().cloned().collect();
            for name in names.into_iter().filter(|name| !SAFE_FOR_OTHERS.contains(&name.as_str())) {
                next.headers.remove(name);
            }
        }
        Ok(Some(next))
    }
}

/// How long a request may take.
pub(super) fn timeout(grant: &HttpGrant, request: &Request) -> Duration {
    request.timeout.map_or(grant.timeout, |timeout| timeout.min(grant.timeout))
}

/// The host's entry in the grant, where method, scheme, host and port are granted.
fn granted<'g>(grant: &'g HttpGrant, method: &Method, url: &Url) -> Result<&'g HostGrant, Refused> {
    if !matches!(url.scheme(), "http" | "https") {
        return Err(Refused::Denied(format!("`{}:` is neither `https:` nor `http:`", shown(url.scheme()))));
    }
    if !url.username().is_empty() || url.password().is_some() {
        return Err(Refused::Denied("a URL with a user or a password in it".to_owned()));
    }
    let matching = grant.hosts.iter().filter(|host| reaches(host, url));
    // The nearest one speaks: a name before what is below one, and the longer of two.
    let host = matching
        .max_by_key(|host| match &host.name {
            HostName::Exact(_) => usize::MAX,
            HostName::Below(name) => name.len(),
        })
        .ok_or_else(|| Refused::Denied(format!("{} is not among the hosts", place(url))))?;
    if !grant.methods.contains(method.as_str()) {
        return Err(Refused::Denied(format!("the method {}", shown(method.as_str()))));
    }
    Ok(host)
}

fn reaches(host: &HostGrant, url: &Url) -> bool {
    let Some(name) = url.host_str() else { return false };
    let is_named = match &host.name {
        HostName::Exact(exact) => exact == name,
        HostName::Below(below) => {
            name.strip_suffix(below.as_str()).is_some_and(|rest| rest.len() > 1 && rest.ends_with('.'))
        }
    };
    is_named && host.is_tls == (url.scheme() == "https") && url.port_or_known_default() == Some(host.port)
}

/// Scheme, host and port of a URL: what messages say of it. The rest may hold what is nobody's business.
pub(super) fn place(url: &Url) -> String {
    shown(&url.origin().ascii_serialization())
}

/// A guest's own words, as far as a person reads.
fn shown(text: &str) -> String {
    const CHARS_MAX: usize = 100;
    let mut short: String = text.chars().take(CHARS_MAX).collect();
    if short.len() < text.len() {
        short.push('…');
    }
    short
}
