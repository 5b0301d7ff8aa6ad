//! `grants:` of a step, and of a plugin's own file.
//!
//! In: a list of capabilities; `http` with its hosts and limits. Out: [`Grants`], or a mistake at each item. A plugin's own
//! file comes with the plugin: it can ask for `http`, and never grant it.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::net::IpAddr;
use std::time::Duration;

use ipnet::IpNet;
use url::{Host, Url};

use super::Secret;
use super::document::{Table, Value, list};
use super::settings::secret;
use super::suggest::nearest;
use super::values::{choice, duration, integer, size};
use crate::plugin::Capability;

/// Methods that can be granted: those that ask for something.
const METHODS: [&str; 7] = ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"];
const METHODS_DEFAULT: [&str; 2] = ["GET", "HEAD"];
const TIMEOUT_DEFAULT: Duration = Duration::from_secs(2);
const REQUEST_DEFAULT: usize = 64 << 10;
const RESPONSE_DEFAULT: usize = 1 << 20;
const CONCURRENCY_DEFAULT: usize = 8;

/// What a plugin may use of the host.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Grants {
    /// The capabilities.
    pub capabilities: BTreeSet<Capability>,
    /// Where [`Capability::Http`] leads; none where it leads nowhere, as in a plugin's own file.
    pub http: Option<HttpGrant>,
}

/// Where a plugin's requests may go, and how much may come of them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HttpGrant {
    /// `hosts`
    pub hosts: Vec<HostGrant>,
    /// `methods`
    pub methods: BTreeSet<String>,
    /// `private`: ranges of addresses beside the public ones.
    pub private: Vec<IpNet>,
    /// `timeout` of a request, with its redirects.
    pub timeout: Duration,
    /// `request`, bytes: URL, headers and body.
    pub request_bytes: usize,
    /// `response`, bytes of a body.
    pub response_bytes: usize,
    /// `concurrency`: requests under way at once, of all instances.
    pub concurrency: usize,
}

/// A host that may be asked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HostGrant {
    /// Over TLS, or in the clear.
    pub is_tls: bool,
    /// Its name, or all names below one.
    pub name: HostName,
    /// The port.
    pub port: u16,
    /// Headers that the host puts in, in lower case; the guest never sees them.
    pub headers: BTreeMap<String, Secret>,
}

/// The name of a host as URLs write it: lower case, IDNA encoded; an IPv6 address in brackets.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum HostName {
    /// This one.
    Exact(String),
    /// Every one that ends in a dot and this.
    Below(String),
}

impl Grants {
    /// Whether a capability is among them.
    #[must_use]
    pub fn contains(&self, capability: Capability) -> bool {
        self.capabilities.contains(&capability)
    }

    /// What a plugin's own file grants where its pipeline says nothing: all but the way out.
    #[must_use]
    pub(super) fn of_itself(mut self) -> Self {
        self.capabilities.remove(&Capability::Http);
        self
    }
}

impl FromIterator<Capability> for Grants {
    fn from_iter<I: IntoIterator<Item = Capability>>(capabilities: I) -> Self {
        Self { capabilities: capabilities.into_iter().collect(), http: None }
    }
}

impl<const N: usize> From<[Capability; N]> for Grants {
    fn from(capabilities: [Capability; N]) -> Self {
        capabilities.into_iter().collect()
    }
}

/// Whom a plugin may ask, in a line.
impl fmt::Display for HttpGrant {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let methods: Vec<&str> = self.methods.iter().map(String::as_str).collect();
        let hosts: Vec<String> = self.hosts.iter().map(ToString::to_string).collect();
        write!(f, "{} at {}", methods.join(", "), hosts.join(", "))?;
        if self.private.is_empty() {
            return Ok(());
        }
        let ranges: Vec<String> = self.private.iter().map(ToString::to_string).collect();
        write!(f, ", also within {}", ranges.join(", "))
    }
}

impl fmt::Display for HostGrant {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (scheme, default) = if self.is_tls { ("", 443) } else { ("http://", 80) };
        let (star, name) = match &self.name {
            HostName::Exact(name) => ("", name),
            HostName::Below(name) => ("*.", name),
        };
        write!(f, "{scheme}{star}{name}")?;
        if self.port == default { Ok(()) } else { write!(f, ":{}", self.port) }
    }
}

/// Reads `grants:` of a step.
pub(super) fn of_step(value: &Value<'_>) -> Option<Grants> {
    grants(value, |item, value| {
        let Some(value) = value else {
            item.problem("`http` is granted without a host", "write `http: { hosts: [api.example.com] }` in its place");
            return None;
        };
        value.table("the hosts, like `{ hosts: [api.example.com] }`", http).map(Some)
    })
}

/// Reads `grants:` of a plugin's own file.
pub(super) fn of_manifest(value: &Value<'_>) -> Option<Grants> {
    grants(value, |item, value| {
        if value.is_some() {
            let remedy = "write `http` alone; the step of a pipeline says `http: { hosts: […] }`";
            item.problem("a plugin's own file cannot say whom the plugin may ask", remedy);
        }
        Some(None)
    })
}

fn grants<'v>(
    value: &Value<'v>,
    read_http: impl Fn(&Value<'v>, Option<&Value<'v>>) -> Option<Option<HttpGrant>>,
) -> Option<Grants> {
    let names = || Capability::ALL.iter().map(|capability| capability.name());
    let mut grants = Grants::default();
    for item in value.items("a list of capabilities, like `[log, metrics]`")? {
        let below = item.below(&[Capability::Http.name()]);
        let name = match &below {
            Some(_) if item.entries("").is_some_and(|entries| entries.len() == 1) => {
                Some(Capability::Http.name().into())
            }
            _ => item.text("a capability, like `log`, or `http: { hosts: [api.example.com] }`"),
        };
        let Some(name) = name else { continue };
        match Capability::by_name(&name) {
            Some(capability) if !grants.capabilities.insert(capability) => {
                let granted = below.map_or_else(|| item.quoted(), |_| format!("`{name}`"));
                item.problem(format!("{granted} is granted twice"), "remove it");
            }
            Some(Capability::Http) => {
                if let Some(http) = read_http(&item, below.as_ref()) {
                    grants.http = http;
                }
            }
            Some(_) => {}
            None => {
                let remedy = match nearest(&name, names()) {
                    Some(near) => format!("did you mean `{near}`?"),
                    None => format!("the capabilities are {}", list(names())),
                };
                item.problem(format!("there is no capability {}", item.quoted()), remedy);
            }
        }
    }
    Some(grants)
}

/// Reads `http:`.
fn http(table: &mut Table<'_>) -> Option<HttpGrant> {
    let (request, response) = (1 << 10..=16 << 20, 1 << 10..=64 << 20);
    let timeout = Duration::from_millis(10)..=Duration::from_secs(60);
    let hosts = table.required("hosts", "hosts, like `[api.example.com]`", hosts);
    let methods = table.optional("methods", methods);
    let private = table.optional("private", private);
    let timeout = table.optional("timeout", |value| duration(value, "2 s", timeout));
    let request_bytes = table.optional("request", |value| size(value, "64 KiB", request));
    let response_bytes = table.optional("response", |value| size(value, "1 MiB", response));
    let concurrency = table.optional("concurrency", |value| integer(value, 1..=256));
    let mut hosts = hosts.unwrap_or_default();
    table.optional("headers", |value| headers(value, &mut hosts));
    Some(HttpGrant {
        hosts,
        methods: methods.unwrap_or_else(|| METHODS_DEFAULT.map(str::to_owned).into()),
        private: private.unwrap_or_default(),
        timeout: timeout.unwrap_or(TIMEOUT_DEFAULT),
        request_bytes: request_bytes.unwrap_or(REQUEST_DEFAULT),
        response_bytes: response_bytes.unwrap_or(RESPONSE_DEFAULT),
        concurrency: concurrency.and_then(|n| usize::try_from(n).ok()).unwrap_or(CONCURRENCY_DEFAULT),
    })
}

fn hosts(value: &Value<'_>) -> Option<Vec<HostGrant>> {
    let what = "a list of hosts, like `[api.example.com]`";
    let items = value.items(what)?;
    if items.is_empty() {
        value.problem("there is no host in the list", format!("write {what}, or do not grant `http`"));
        return None;
    }
    let mut hosts: Vec<HostGrant> = Vec::new();
    for item in items {
        let Some(text) = item.text("a host, like `api.example.com`") else { continue };
        match host(&text) {
            Ok(host) if hosts.iter().any(|other| other.to_string() == host.to_string()) => {
                item.problem(format!("{} stands there twice", item.quoted()), "remove it");
            }
            Ok(host) => hosts.push(host),
            Err(remedy) => item.problem(format!("{} is not a host that can be granted", item.quoted()), remedy),
        }
    }
    Some(hosts)
}

/// Reads `[http://]HOST[:PORT]`; what to write instead, where it is none.
fn host(text: &str) -> Result<HostGrant, &'static str> {
    let what = "write a host, with its port where that is not 443: `api.example.com`, `api.example.com:8443`, \
                `*.example.com`, or `http://api.example.com` for one without TLS";
    let (is_tls, place) = match text.split_once("://") {
        None => (true, text),
        Some(("https", place)) => (true, place),
        Some(("http", place)) => (false, place),
        Some(_) => return Err("only `http` and `https` can be granted"),
    };
    let (is_below, place) = place.strip_prefix("*.").map_or((false, place), |below| (true, below));
    if place.contains(['/', '\\', '@', '?', '#', '*', '%']) || place.contains(char::is_whitespace) {
        return Err(what);
    }
    let scheme = if is_tls { "https" } else { "http" };
    let url = Url::parse(&format!("{scheme}://{place}/")).map_err(|_| what)?;
    let (Some(host), Some(port)) = (url.host(), url.port_or_known_default()) else { return Err(what) };
    let name = match host {
        Host::Domain(name) if name.ends_with('.') => return Err(what),
        Host::Domain(name) if is_below && !name.contains('.') => {
            return Err("`*.` stands before a name with a dot in it, like `*.example.com`");
        }
        Host::Domain(name) if is_below => HostName::Below(name.to_owned()),
        _ if is_below => return Err("`*.` stands before a name, not before an address"),
        other => HostName::Exact(other.to_string()),
    };
    Ok(HostGrant { is_tls, name, port, headers: BTreeMap::new() })
}

fn methods(value: &Value<'_>) -> Option<BTreeSet<String>> {
    let choices = METHODS.map(|method| (method, method));
    let items = value.items("a list of methods, like `[GET, POST]`")?;
    Some(items.iter().filter_map(|item| choice(item, &choices)).map(str::to_owned).collect())
}

fn private(value: &Value<'_>) -> Option<Vec<IpNet>> {
    let what = "a range of addresses, like `10.0.0.0/8`, or one, like `127.0.0.1`";
    let items = value.items("a list of ranges, like `[10.0.0.0/8]`")?;
    let range = |item: &Value<'_>| {
        let text = item.text(what)?;
        let range = text.parse::<IpNet>().ok().or_else(|| text.parse::<IpAddr>().ok().map(IpNet::from));
        if range.is_none() {
            item.problem(format!("{} is no range of addresses", item.quoted()), format!("write {what}"));
        }
        range
    };
    Some(items.iter().filter_map(range).collect())
}

/// Reads `headers:`, by host, and puts them where they belong.
fn headers(value: &Value<'_>, hosts: &mut [HostGrant]) -> Option<()> {
    for (place, of_host) in value.entries("headers by host, like `api.example.com: { authorization: … }`")? {
        let named = host(place).ok().map(|host| host.to_string());
        let Some(host) = hosts.iter_mut().find(|host| Some(host.to_string()) == named) else {
            let granted: Vec<String> = hosts.iter().map(ToString::to_string).collect();
            let remedy = format!("write one of them: {}", list(granted.iter().map(String::as_str)));
            // A host that came out of a substitution does not show.
            let remedy = value.document.findings.mask.borrow().apply(&remedy);
            of_host.problem(format!("`{place}` is not among the hosts"), remedy);
            continue;
        };
        for (name, value) in of_host.entries("headers, like `authorization: \"Bearer ${TOKEN}\"`").unwrap_or_default() {
            let lower = name.to_ascii_lowercase();
            if !is_header_name(&lower) || OF_THE_CONNECTION.contains(&lower.as_str()) {
                value.problem(
                    format!("`{name}` is no header that can be put in"),
                    "write another one; those of the connection itself are Pelton's",
                );
                continue;
            }
            let Some(secret) = secret(&value, name) else { continue };
            if secret.expose().bytes().any(|byte| byte != b'\t' && !(0x20..0x7f).contains(&byte)) {
                value.problem(
                    "the value has characters that no header can have",
                    "write text of one line, in ASCII; a file may end with more than its newline",
                );
                continue;
            }
            host.headers.insert(lower, secret);
        }
    }
    Some(())
}

/// Headers that say how a message travels: whoever sends it sets them, and nobody else.
pub(crate) const OF_THE_CONNECTION: [&str; 14] = [
    "connection",
    "content-length",
    "expect",
    "host",
    "http2-settings",
    "keep-alive",
    "proxy-authenticate",
    "proxy-authorization",
    "proxy-connection",
    "te",
    "trailer",
    "transfer-encoding",
    "upgrade",
    "via",
];

/// A token of RFC 9110.
fn is_header_name(name: &str) -> bool {
    !name.is_empty() && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shown(text: &str) -> Result<String, &'static str> {
        host(text).map(|host| host.to_string())
    }

    #[test]
    fn a_host_is_a_name_a_port_and_whether_it_speaks_tls() {
        for (text, meant) in [
            ("api.example.com", "api.example.com"),
            ("API.Example.com:443", "api.example.com"),
            ("https://api.example.com:8443", "api.example.com:8443"),
            ("http://api.example.com", "http://api.example.com"),
            ("http://localhost:8080", "http://localhost:8080"),
            ("*.geo.example", "*.geo.example"),
            ("bücher.example", "xn--bcher-kva.example"),
            ("10.1.2.3:8080", "10.1.2.3:8080"),
            ("http://[::1]:8080", "http://[::1]:8080"),
        ] {
            assert_eq!(shown(text), Ok(meant.to_owned()), "{text}");
        }
    }

    #[test]
    fn what_is_more_or_less_than_a_host_is_refused() {
        for text in [
            "*",
            "*.com",
            "*.10.0.0.1",
            "a.*.example",
            "ftp://a.example",
            "a.example/path",
            "user@a.example",
            "a.example?x",
            "a.example:99999",
            "a.example.",
            "",
            "http://",
            "a b.example",
            "a%2eexample",
        ] {
            assert!(shown(text).is_err(), "{text}: {:?}", shown(text));
        }
    }
}
