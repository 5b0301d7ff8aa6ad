//! The way out, against a server on this machine: what a grant lets through, and what not, by whichever way it is tried.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::net::IpAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use futures::FutureExt as _;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::Instant;

use super::*;
use crate::config::{HostGrant, HostName, HttpGrant, Secret};

const LOCAL: &str = "127.0.0.0/8";
const PATIENT: Bounds = Bounds { bytes: 1 << 20, time: Duration::from_secs(20) };

/// A server that speaks by the path of the request; it keeps what it was asked.
struct Server {
    port: u16,
    asked: Arc<Mutex<Vec<String>>>,
    connections: Arc<AtomicUsize>,
    most_at_once: Arc<AtomicUsize>,
}

impl Server {
    async fn start() -> Self {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.expect("a port");
        let port = listener.local_addr().expect("an address").port();
        let server = Self { port, asked: Arc::default(), connections: Arc::default(), most_at_once: Arc::default() };
        let (asked, connections, most) =
            (Arc::clone(&server.asked), Arc::clone(&server.connections), Arc::clone(&server.most_at_once));
        let under_way = Arc::new(AtomicUsize::new(0));
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                connections.fetch_add(1, Ordering::SeqCst);
                let (asked, most, under_way) = (Arc::clone(&asked), Arc::clone(&most), Arc::clone(&under_way));
                tokio::spawn(async move { serve(stream, port, &asked, &most, &under_way).await });
            }
        });
        server
    }

    fn url(&self, path: &str) -> String {
        format!("http://127.0.0.1:{}{path}", self.port)
    }

    fn asked(&self) -> Vec<String> {
        self.asked.lock().expect("no test panics with it").clone()
    }
}

/// Handles the requests of a connection; those of these tests fit one read.
async fn serve(
    mut stream: TcpStream,
    port: u16,
    asked: &Mutex<Vec<String>>,
    most: &AtomicUsize,
    under_way: &AtomicUsize,
) -> Option<()> {
    let mut bytes = vec![0; 64 << 10];
    loop {
        let read = stream.read(&mut bytes).await.ok().filter(|read| *read > 0)?;
        let text = String::from_utf8_lossy(&bytes[..read]).into_owned();
        let path = text.split(' ').nth(1).unwrap_or_default().to_owned();
        asked.lock().expect("no test panics with it").push(text);
        most.fetch_max(under_way.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
        let answer = match path.split('?').next().unwrap_or_default() {
            "/slow" => {
                tokio::time::sleep(Duration::from_millis(100)).await;
                ok("slow")
            }
            "/never" => std::future::pending().await,
            "/large" => ok(&"x".repeat(5_000)),
            "/endless" => {
                let _ = stream.write_all(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n").await;
                while stream.write_all(b"400\r\n").await.is_ok() {
                    stream.write_all(&[b'x'; 0x400]).await.ok()?;
                    stream.write_all(b"\r\n").await.ok()?;
                }
                return None;
            }
            "/garbage" => "this is no HTTP\r\n\r\n".to_owned(),
            "/away" => redirect(302, "http://other.example/"),
            "/to-address" => redirect(302, "http://169.254.169.254/latest/meta-data"),
            "/to-file" => redirect(302, "file:///etc/passwd"),
            "/to-named" => redirect(307, &format!("http://named.example:{port}/here")),
            "/again" => redirect(303, "/here"),
            "/circle" => redirect(302, "/circle"),
            _ => ok("here"),
        };
        under_way.fetch_sub(1, Ordering::SeqCst);
        stream.write_all(answer.as_bytes()).await.ok()?;
    }
}

fn ok(body: &str) -> String {
    format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\nx-kind: test\r\n\r\n{body}", body.len())
}

fn redirect(status: u16, to: &str) -> String {
    format!("HTTP/1.1 {status} Elsewhere\r\nlocation: {to}\r\ncontent-length: 0\r\n\r\n")
}

/// Answers with the next of a list each time, and with the last from then on; counts the questions.
#[derive(Default)]
struct Names {
    addresses: BTreeMap<String, Vec<&'static str>>,
    asked: AtomicUsize,
}

#[async_trait]
impl Resolve for Names {
    async fn resolve(&self, name: &str) -> io::Result<Vec<IpAddr>> {
        let at = self.asked.fetch_add(1, Ordering::SeqCst);
        let known = self.addresses.get(name).ok_or_else(|| io::Error::other("no such name"))?;
        let address = known.get(at).or(known.last()).expect("an address");
        Ok(address.split(' ').map(|address| address.parse().expect("an address")).collect())
    }
}

fn host(name: &str, port: u16) -> HostGrant {
    let name = name
        .strip_prefix("*.")
        .map_or_else(|| HostName::Exact(name.to_owned()), |below| HostName::Below(below.to_owned()));
    HostGrant { is_tls: false, name, port, headers: BTreeMap::new() }
}

fn grant(hosts: Vec<HostGrant>, private: &[&str]) -> HttpGrant {
    HttpGrant {
        hosts,
        methods: ["GET", "POST"].map(str::to_owned).into(),
        private: private.iter().map(|range| range.parse().expect("a range")).collect(),
        timeout: Duration::from_secs(5),
        request_bytes: 4 << 10,
        response_bytes: 2 << 10,
        concurrency: 4,
    }
}

/// A client, and the thread that it works on.
struct Out(Client, #[expect(dead_code, reason = "it is held")] Wire);

fn out(grant: HttpGrant, names: Names) -> Out {
    let wire = Wire::start(Arc::new(names)).expect("a thread");
    Out(Client::new(grant, &wire).expect("certificates"), wire)
}

fn local(server: &Server) -> Out {
    out(grant(vec![host("127.0.0.1", server.port)], &[LOCAL]), Names::default())
}

fn get(url: impl Into<String>) -> Request {
    Request { method: "GET".into(), url: url.into(), headers: Vec::new(), body: None, timeout: None, redirects: 5 }
}

impl Out {
    async fn ask(&self, request: Request) -> Result<Response, Refused> {
        let mut answers = self.0.fetch_all(vec![request], PATIENT).await.expect("in time");
        answers.pop().expect("an answer")
    }

    async fn denied(&self, request: Request) -> String {
        match self.ask(request).await {
            Err(Refused::Denied(why)) => why,
            other => panic!("{other:?}"),
        }
    }
}

#[tokio::test]
async fn what_is_granted_is_answered_and_its_connection_is_kept() {
    let server = Server::start().await;
    let out = local(&server);
    let request = Request { headers: vec![("X-Mine".into(), b"1".to_vec())], ..get(server.url("/here?q=1#not-sent")) };
    let response = out.ask(request.clone()).await.expect("an answer");
    assert_eq!((response.status, response.body.as_slice()), (200, b"here".as_slice()));
    assert!(response.headers.contains(&("x-kind".into(), b"test".to_vec())), "{:?}", response.headers);
    out.ask(request).await.expect("an answer");
    assert_eq!(server.connections.load(Ordering::SeqCst), 1);
    let asked = &server.asked()[0];
    assert!(asked.starts_with("GET /here?q=1 HTTP/1.1\r\n"), "{asked}");
    assert!(asked.contains("x-mine: 1\r\n") && asked.contains("user-agent: pelton/"), "{asked}");
    assert!(asked.contains(&format!("host: 127.0.0.1:{}\r\n", server.port)), "{asked}");
}

#[tokio::test]
async fn no_other_host_port_scheme_or_method_is_reached() {
    let server = Server::start().await;
    let out = local(&server);
    let port = server.port;
    for url in [
        "http://other.example/".to_owned(),
        format!("http://127.0.0.2:{port}/"),
        format!("http://localhost:{port}/"),
        format!("http://[::1]:{port}/"),
        "http://127.0.0.1/".to_owned(),
        format!("http://127.0.0.1:{}/", port ^ 1),
        format!("https://127.0.0.1:{port}/"),
        format!("ftp://127.0.0.1:{port}/"),
        "file:///etc/passwd".to_owned(),
        format!("http://user:word@127.0.0.1:{port}/"),
        format!("http://127.0.0.1:{port}@other.example/"),
        format!("http://127.0.0.1.other.example:{port}/"),
    ] {
        out.denied(get(url)).await;
    }
    out.denied(Request { method: "DELETE".into(), ..get(server.url("/")) }).await;
    // Methods are told apart by case, and `get` is another one.
    out.denied(Request { method: "get".into(), ..get(server.url("/")) }).await;
    for (method, url) in [("GET", "not a url"), ("GET", "/here"), ("G E T", "http://127.0.0.1/"), ("", "http://a.b/")] {
        let refused = out.ask(Request { method: method.into(), ..get(url) }).await;
        assert!(matches!(refused, Err(Refused::Invalid(_))), "{refused:?}");
    }
    assert!(server.asked().is_empty(), "{:?}", server.asked());
    // However an address is written, it is the same one.
    assert!(out.ask(get(format!("http://0x7f.1:{port}/"))).await.is_ok());
}

#[tokio::test]
async fn an_address_that_is_not_public_needs_its_own_grant_whatever_leads_there() {
    let server = Server::start().await;
    let addresses = BTreeMap::from([
        ("inside.example".to_owned(), vec!["127.0.0.1"]),
        ("mapped.example".to_owned(), vec!["::ffff:127.0.0.1"]),
        ("both.example".to_owned(), vec!["10.0.0.1 127.0.0.1"]),
        ("metadata.example".to_owned(), vec!["169.254.169.254"]),
    ]);
    let hosts = ["127.0.0.1", "inside.example", "mapped.example", "both.example", "metadata.example"];
    let hosts = || hosts.map(|name| host(name, server.port)).into();
    let names = || Names { addresses: addresses.clone(), ..Names::default() };
    let public_only = out(grant(hosts(), &[]), names());
    for name in ["127.0.0.1", "inside.example", "mapped.example", "both.example", "metadata.example"] {
        let why = public_only.denied(get(format!("http://{name}:{}/", server.port))).await;
        assert!(why.contains(name) && why.contains("`private:`"), "{why}");
    }
    assert_eq!(server.connections.load(Ordering::SeqCst), 0);
    let within = out(grant(hosts(), &[LOCAL]), names());
    for name in ["127.0.0.1", "inside.example", "mapped.example", "both.example"] {
        within.ask(get(format!("http://{name}:{}/", server.port))).await.expect(name);
    }
    within.denied(get(format!("http://metadata.example:{}/", server.port))).await;
}

#[tokio::test]
async fn a_name_that_changes_its_mind_is_connected_to_where_it_was_judged() {
    let server = Server::start().await;
    let rebinding = |first: &'static str, then: &'static str| Names {
        addresses: BTreeMap::from([("a.example".to_owned(), vec![first, then])]),
        ..Names::default()
    };
    let url = format!("http://a.example:{}/", server.port);
    // The second answer, which nobody asks for, would lead to another machine.
    let names = Arc::new(rebinding("127.0.0.1", "169.254.169.254"));
    let wire = Wire::start(Arc::clone(&names) as Arc<dyn Resolve>).expect("a thread");
    let client = Client::new(grant(vec![host("a.example", server.port)], &[LOCAL]), &wire).expect("certificates");
    let answers = client.fetch_all(vec![get(&url)], PATIENT).await.expect("in time");
    assert!(answers[0].is_ok(), "{answers:?}");
    assert_eq!(names.asked.load(Ordering::SeqCst), 1, "one look-up for a connection");
    // The other way round: what was public a moment ago is judged anew with each connection.
    let out = out(grant(vec![host("a.example", server.port)], &[]), rebinding("127.0.0.1", "127.0.0.1"));
    out.denied(get(&url)).await;
    assert_eq!(server.connections.load(Ordering::SeqCst), 1);
}

#[tokio::test]
async fn each_redirect_is_a_request_of_its_own_before_the_grant() {
    let server = Server::start().await;
    let names =
        Names { addresses: BTreeMap::from([("named.example".to_owned(), vec!["127.0.0.1"])]), ..Names::default() };
    let mut named = host("named.example", server.port);
    named.headers.insert("x-key".into(), Secret::new("of-named"));
    let mut first = host("127.0.0.1", server.port);
    first.headers.insert("authorization".into(), Secret::new("of-first"));
    let out = out(grant(vec![first, named], &[LOCAL]), names);
    for path in ["/away", "/to-address", "/to-file"] {
        out.denied(get(server.url(path))).await;
    }
    let response = out.ask(get(server.url("/again"))).await.expect("it leads to the same host");
    assert_eq!((response.url, response.body), (server.url("/here"), b"here".to_vec()));
    let circle = out.ask(get(server.url("/circle"))).await.expect("the last redirect itself");
    assert_eq!(circle.status, 302);
    let none = out.ask(Request { redirects: 0, ..get(server.url("/away")) }).await.expect("the redirect itself");
    assert_eq!(none.status, 302);
    server.asked.lock().expect("no test panics with it").clear();
    let mine = ["cookie", "x-api-key", "accept"].map(|name| (name.to_owned(), b"mine".to_vec())).into();
    let request =
        Request { method: "POST".into(), body: Some(b"body".to_vec()), headers: mine, ..get(server.url("/to-named")) };
    out.ask(request).await.expect("an answer");
    let asked = server.asked();
    assert!(asked[0].contains("authorization: of-first") && asked[0].contains("cookie: mine"), "{}", asked[0]);
    assert!(asked[1].starts_with("POST /here"), "{}", asked[1]);
    assert!(asked[1].contains("x-key: of-named") && asked[1].contains("accept: mine"), "{}", asked[1]);
    for other in ["of-first", "cookie", "x-api-key"] {
        assert!(!asked[1].contains(other), "{}", asked[1]);
    }
}

#[tokio::test]
async fn a_guest_sets_neither_the_headers_of_the_connection_nor_those_of_the_grant() {
    let server = Server::start().await;
    let mut first = host("127.0.0.1", server.port);
    first.headers.insert("authorization".into(), Secret::new("of-first"));
    let out = out(grant(vec![first], &[LOCAL]), Names::default());
    for name in ["Host", "Connection", "Transfer-Encoding", "content-length", "Proxy-Authorization", "Authorization"] {
        let why = out.denied(Request { headers: vec![(name.into(), b"x".to_vec())], ..get(server.url("/")) }).await;
        assert!(!why.contains("of-first"), "{why}");
    }
    for (name, value) in [("x y", "1"), ("x", "1\r\nhost: other"), ("", "")] {
        let headers = vec![(name.to_owned(), value.as_bytes().to_vec())];
        let refused = out.ask(Request { headers, ..get(server.url("/")) }).await;
        assert!(matches!(refused, Err(Refused::Invalid(_))), "{refused:?}");
    }
    assert!(server.asked().is_empty());
}

#[tokio::test]
async fn what_is_too_large_or_too_slow_is_given_up() {
    let server = Server::start().await;
    let out = local(&server);
    for path in ["/large", "/endless"] {
        let refused = out.ask(get(server.url(path))).await;
        assert!(matches!(refused, Err(Refused::TooLarge(_))), "{path}: {refused:?}");
    }
    let body = Some(vec![b'x'; 5_000]);
    let refused = out.ask(Request { method: "POST".into(), body, ..get(server.url("/")) }).await;
    assert!(matches!(refused, Err(Refused::TooLarge(_))), "{refused:?}");
    let began = Instant::now();
    let hasty = Request { timeout: Some(Duration::from_millis(50)), ..get(server.url("/never")) };
    assert_eq!(out.ask(hasty).await, Err(Refused::Timeout("not within 50 ms".into())));
    assert!(began.elapsed() < Duration::from_secs(4), "its own time-out holds, not the grant's");
    let refused = out.ask(get(server.url("/garbage"))).await;
    assert!(matches!(refused, Err(Refused::Protocol(_))), "{refused:?}");
    let closed =
        out.0.fetch_all(vec![get(server.url("/never"))], Bounds { time: Duration::from_millis(50), ..PATIENT });
    assert_eq!(closed.await, None, "the time of the call is over");
}

#[tokio::test]
async fn the_answers_of_a_call_have_their_bytes_together() {
    let server = Server::start().await;
    let out = local(&server);
    let requests = (0..10).map(|_| get(server.url("/here"))).collect();
    let answers = out.0.fetch_all(requests, Bounds { bytes: 200, ..PATIENT }).await.expect("in time");
    let refused = answers.iter().filter(|answer| matches!(answer, Err(Refused::TooLarge(_)))).count();
    assert!((1..10).contains(&refused), "{answers:?}");
}

#[tokio::test]
async fn no_more_requests_are_under_way_than_are_granted_and_their_answers_keep_their_order() {
    let server = Server::start().await;
    let out = local(&server);
    let requests = |path: &str| (0..8).map(|_| get(server.url(path))).collect::<Vec<_>>();
    let both = [out.0.fetch_all(requests("/slow"), PATIENT), out.0.fetch_all(requests("/slow"), PATIENT)];
    assert!(futures::future::join_all(both).await.into_iter().flatten().flatten().all(|answer| answer.is_ok()));
    assert_eq!(server.most_at_once.load(Ordering::SeqCst), 4);
    let mixed = ["/slow", "/here", "/large"].map(|path| get(server.url(path))).into();
    let answers = out.0.fetch_all(mixed, PATIENT).await.expect("in time");
    let bodies: Vec<_> = answers.into_iter().map(|answer| answer.map(|response| response.body).ok()).collect();
    assert_eq!(bodies, [Some(b"slow".to_vec()), Some(b"here".to_vec()), None]);
}

#[tokio::test]
async fn who_is_not_there_or_cannot_prove_who_it_is_is_no_connection() {
    let server = Server::start().await;
    let mut over_tls = host("127.0.0.1", server.port);
    over_tls.is_tls = true;
    let nobody = TcpListener::bind(("127.0.0.1", 0)).await.expect("a port").local_addr().expect("an address").port();
    let hosts = vec![over_tls, host("127.0.0.1", nobody), host("unknown.example", 80)];
    let out = out(grant(hosts, &[LOCAL]), Names::default());
    let urls = [
        format!("https://127.0.0.1:{}/", server.port),
        format!("http://127.0.0.1:{nobody}/"),
        "http://unknown.example/".to_owned(),
    ];
    for url in urls {
        let refused = out.ask(get(&url)).await;
        assert!(matches!(refused, Err(Refused::Connect(_))), "{url}: {refused:?}");
    }
}

#[tokio::test]
async fn a_server_with_a_certificate_that_nobody_vouches_for_gets_no_request() {
    use openssl::ssl::{Ssl, SslAcceptor, SslMethod};
    let key = openssl::pkey::PKey::ec_gen("prime256v1").expect("a key");
    let mut certificate = openssl::x509::X509::builder().expect("a certificate");
    certificate.set_pubkey(&key).expect("its key");
    let (from, until) = (openssl::asn1::Asn1Time::days_from_now(0), openssl::asn1::Asn1Time::days_from_now(1));
    certificate.set_not_before(&from.expect("a time")).expect("its beginning");
    certificate.set_not_after(&until.expect("a time")).expect("its end");
    certificate.sign(&key, openssl::hash::MessageDigest::sha256()).expect("its signature");
    let mut acceptor = SslAcceptor::mozilla_intermediate(SslMethod::tls_server()).expect("an acceptor");
    acceptor.set_private_key(&key).expect("the key");
    acceptor.set_certificate(&certificate.build()).expect("the certificate");
    let acceptor = acceptor.build();
    let listener = TcpListener::bind(("127.0.0.1", 0)).await.expect("a port");
    let port = listener.local_addr().expect("an address").port();
    let accepted = tokio::spawn(async move {
        let (stream, _) = listener.accept().await.expect("a connection");
        let mut stream =
            tokio_openssl::SslStream::new(Ssl::new(acceptor.context()).expect("TLS"), stream).expect("TLS");
        std::pin::Pin::new(&mut stream).accept().await.is_ok()
    });
    let mut over_tls = host("127.0.0.1", port);
    over_tls.is_tls = true;
    let out = out(grant(vec![over_tls], &[LOCAL]), Names::default());
    let refused = out.ask(get(format!("https://127.0.0.1:{port}/"))).await;
    assert!(matches!(&refused, Err(Refused::Connect(why)) if why.contains("certificate")), "{refused:?}");
    assert!(!accepted.await.expect("it ends"), "the handshake came to nothing");
}

#[tokio::test]
async fn every_request_is_told_and_one_that_is_dropped_is_given_up() {
    let server = Server::start().await;
    let out = local(&server);
    let told: Arc<Mutex<BTreeSet<&'static str>>> = Arc::default();
    let tells = Arc::clone(&told);
    out.0.report_to(Box::new(move |exchange| {
        tells.lock().expect("nobody panics").insert(exchange.outcome);
    }));
    let _ = out.ask(get(server.url("/here"))).await;
    let _ = out.ask(get("http://other.example/")).await;
    let _ = out.ask(get(server.url("/large"))).await;
    assert_eq!(*told.lock().expect("nobody panics"), BTreeSet::from(["ok", "denied", "too_large"]));
    // Four that never end would hold all places.
    let stuck = out.0.fetch_all((0..4).map(|_| get(server.url("/never"))).collect(), PATIENT);
    assert!(stuck.now_or_never().is_none());
    assert!(out.ask(get(server.url("/here"))).await.is_ok());
}

#[test]
fn the_nearest_entry_of_a_grant_speaks_for_a_host() {
    let entry = |name: &str, key: &str| {
        let mut entry = host(name, 80);
        entry.headers.insert("x-key".into(), Secret::new(key));
        entry
    };
    let hosts = vec![entry("*.a.example", "wide"), entry("b.a.example", "exact"), entry("*.b.a.example", "near")];
    let grant = grant(hosts, &[]);
    let key = |url: &str| {
        let message = rules::Hop::first(&grant, &get(url)).and_then(|hop| hop.message(&grant));
        message.ok().map(|message| message.headers()["x-key"].to_str().expect("text").to_owned())
    };
    assert_eq!(key("http://b.a.example/").as_deref(), Some("exact"));
    assert_eq!(key("http://c.b.a.example/").as_deref(), Some("near"));
    assert_eq!(key("http://c.a.example/").as_deref(), Some("wide"));
    assert_eq!(key("http://C.A.Example/").as_deref(), Some("wide"));
    for other in ["http://a.example/", "http://.a.example/", "http://xa.example/", "http://c.a.example.evil.example/"] {
        assert_eq!(key(other), None, "{other}");
    }
}

#[tokio::test]
async fn what_is_not_granted_is_refused_before_anybody_waits() {
    let server = Server::start().await;
    let out = local(&server);
    let refused = |url: &str| out.0.fetch_all(vec![get(url); 1_000], PATIENT).now_or_never().flatten();
    for url in ["http://other.example/", "no url"] {
        let answers = refused(url).expect("nothing to wait for");
        assert!(answers.len() == 1_000 && answers.iter().all(Result::is_err));
    }
    assert!(refused(&server.url("/here")).is_none());
}
