//! Guests that ask others, against a server on this machine: what they reach, what they do not, and whose thread they hold
//! while they wait.

#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "tests")]

mod support;

use std::io::{Read as _, Write as _};
use std::net::{IpAddr, TcpListener};
use std::path::Path;
use std::process::Command;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use pelton::config::{Grants, HostGrant, HostName, HttpGrant, Limits, Secret};
use pelton::egress::Resolve;
use pelton::pipeline::compute::Compute;
use pelton::pipeline::{OutOp, Transform as _, TransformError, TransformInput, TransformOutput, TrapKind};
use pelton::plugin::{Capability, Compiler, LoadError, Runtime, WasmTransform};
use support::{apply, batch, component};
use tokio::time::Instant;

const LOCAL: &str = "127.0.0.0/8";

/// Answers each request by its path, a connection each.
struct Server {
    port: u16,
    asked: Arc<Mutex<Vec<String>>>,
    under_way: Arc<AtomicUsize>,
    /// `/held` is answered once this is set.
    release: Arc<AtomicBool>,
}

impl Server {
    fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let server = Self { port, asked: Arc::default(), under_way: Arc::default(), release: Arc::default() };
        let (asked, under_way, release) =
            (Arc::clone(&server.asked), Arc::clone(&server.under_way), Arc::clone(&server.release));
        std::thread::spawn(move || {
            for mut stream in listener.incoming().flatten() {
                let (asked, under_way, release) = (Arc::clone(&asked), Arc::clone(&under_way), Arc::clone(&release));
                std::thread::spawn(move || {
                    let mut bytes = vec![0; 16 << 10];
                    let read = stream.read(&mut bytes).unwrap_or(0);
                    let text = String::from_utf8_lossy(&bytes[..read]).into_owned();
                    let path = text.split(' ').nth(1).unwrap_or_default().to_owned();
                    asked.lock().unwrap().push(text);
                    under_way.fetch_add(1, Ordering::SeqCst);
                    if path == "/held" {
                        wait(|| release.load(Ordering::SeqCst));
                    }
                    let location = match path.as_str() {
                        "/away" => "location: http://other.example/\r\n",
                        "/inside" => "location: http://169.254.169.254/latest/meta-data\r\n",
                        _ => "",
                    };
                    let status = if location.is_empty() { 200 } else { 302 };
                    let body = if path == "/large" { "x".repeat(100_000) } else { format!("answer to {path}") };
                    let _ = write!(
                        stream,
                        "HTTP/1.1 {status} Said\r\nconnection: close\r\n{location}content-length: {}\r\n\r\n{body}",
                        body.len()
                    );
                    under_way.fetch_sub(1, Ordering::SeqCst);
                });
            }
        });
        server
    }

    fn url(&self, path: &str) -> String {
        format!("http://127.0.0.1:{}{path}", self.port)
    }

    fn asked(&self) -> Vec<String> {
        self.asked.lock().unwrap().clone()
    }
}

/// Waits for a condition, for ten seconds at most.
fn wait(condition: impl Fn() -> bool) {
    let until = Instant::now() + Duration::from_secs(10);
    let (_never, pause) = std::sync::mpsc::channel::<()>();
    while !condition() && Instant::now() < until {
        let _ = pause.recv_timeout(Duration::from_millis(2));
    }
}

fn host(name: &str, port: u16) -> HostGrant {
    HostGrant { is_tls: false, name: HostName::Exact(name.to_owned()), port, headers: [].into() }
}

fn grant(hosts: Vec<HostGrant>, private: &[&str]) -> HttpGrant {
    HttpGrant {
        hosts,
        methods: ["GET".to_owned()].into(),
        private: private.iter().map(|range| range.parse().unwrap()).collect(),
        timeout: Duration::from_secs(5),
        request_bytes: 4 << 10,
        response_bytes: 8 << 10,
        concurrency: 8,
    }
}

fn load(guest: &str, grant: HttpGrant, limits: Limits) -> Arc<WasmTransform> {
    load_on(support::runtime(), guest, grant, limits)
}

fn load_on(runtime: &Arc<Runtime>, guest: &str, grant: HttpGrant, limits: Limits) -> Arc<WasmTransform> {
    let grants = Grants { capabilities: [Capability::Http].into(), http: Some(grant) };
    let config = serde_json::Value::Null;
    let loaded = WasmTransform::from_bytes(runtime, guest, &component(guest), &config, &grants, limits);
    Arc::new(loaded.unwrap_or_else(|error| panic!("{guest}: {error}")))
}

/// What the guest replaced each value with.
fn told(output: &TransformOutput) -> Vec<String> {
    let value = |row: &pelton::pipeline::OutRow| {
        let OutOp::Replace(span) = row.op else { panic!("{row:?}") };
        String::from_utf8_lossy(&output.data[span.offset as usize..][..span.length as usize]).into_owned()
    };
    output.rows.iter().map(value).collect()
}

fn ask(guest: &WasmTransform, urls: &[&str]) -> Vec<String> {
    told(&apply(guest, &batch(urls)).unwrap())
}

#[test]
fn a_guest_reaches_the_host_that_it_is_granted_and_no_other_one() {
    let server = Server::start();
    let port = server.port;
    for guest in ["reaches_out", "asks_together"] {
        let granted = load(guest, grant(vec![host("127.0.0.1", port)], &[LOCAL]), Limits::default());
        assert_eq!(ask(&granted, &[&server.url("/a"), &server.url("/b")]), ["answer to /a", "answer to /b"]);
        let asked = server.asked().len();
        let others = [
            // by name, by address, by another way to write one, by port, by scheme
            "http://other.example/".to_owned(),
            format!("http://localhost:{port}/"),
            format!("http://127.0.0.2:{port}/"),
            format!("http://2130706434:{port}/"),
            format!("http://[::ffff:127.0.0.1]:{port}/"),
            format!("http://127.0.0.1:{}/", port ^ 1),
            format!("https://127.0.0.1:{port}/"),
            format!("http://127.0.0.1:{port}@other.example/"),
        ];
        let urls: Vec<&str> = others.iter().map(String::as_str).collect();
        for (url, said) in urls.iter().zip(ask(&granted, &urls)) {
            assert!(said.contains("is not among the hosts") || said.contains("a user or a password"), "{url}: {said}");
        }
        // by redirect
        let said = ask(&granted, &[&server.url("/away"), &server.url("/inside")]);
        assert!(said.iter().all(|said| said.contains("is not among the hosts")), "{said:?}");
        assert_eq!(server.asked().len(), asked + 2);
    }
}

struct Names;

#[async_trait::async_trait]
impl Resolve for Names {
    async fn resolve(&self, name: &str) -> std::io::Result<Vec<IpAddr>> {
        match name {
            "inside.example" => Ok(vec!["127.0.0.1".parse().unwrap()]),
            "metadata.example" => Ok(vec!["169.254.169.254".parse().unwrap()]),
            _ => Err(std::io::Error::other("no such name")),
        }
    }
}

#[test]
fn a_name_that_leads_to_an_address_that_is_not_public_is_refused_until_that_is_granted() {
    let server = Server::start();
    let program = Compiler::Child(Path::new(env!("CARGO_BIN_EXE_pelton")).to_owned());
    let runtime = Runtime::with_resolver(None, 1, program, Arc::new(Names)).unwrap();
    let hosts = || vec![host("inside.example", server.port), host("metadata.example", 80)];
    let url = format!("http://inside.example:{}/x", server.port);
    let public = load_on(&runtime, "reaches_out", grant(hosts(), &[]), Limits::default());
    let said = ask(&public, &[&url, "http://metadata.example/"]);
    assert!(said[0].contains("inside.example leads to 127.0.0.1, which is this machine"), "{said:?}");
    assert!(said[1].contains("169.254.169.254, which is link-local"), "{said:?}");
    assert!(server.asked().is_empty());
    let within = load_on(&runtime, "reaches_out", grant(hosts(), &[LOCAL]), Limits::default());
    assert_eq!(ask(&within, &[&url]), ["answer to /x"]);
    // The system's own names: this machine has one.
    let local = load("reaches_out", grant(vec![host("localhost", server.port)], &[]), Limits::default());
    let said = ask(&local, &[&format!("http://localhost:{}/", server.port)]);
    assert!(said[0].contains("which is this machine"), "{said:?}");
}

#[test]
fn what_the_host_puts_in_arrives_and_never_shows() {
    const KEY: &str = "hunter2-hunter2";
    let server = Server::start();
    let mut named = host("127.0.0.1", server.port);
    named.headers.insert("authorization".to_owned(), Secret::new(format!("Bearer {KEY}")));
    let grant = grant(vec![named], &[LOCAL]);
    assert!(!format!("{grant:?} {grant}").contains(KEY));
    let guest = load("reaches_out", grant, Limits::default());
    let said = ask(&guest, &[&server.url("/a"), &server.url("/away"), "http://other.example/"]);
    assert!(!said.concat().contains(KEY), "{said:?}");
    assert!(server.asked()[0].contains(&format!("authorization: Bearer {KEY}\r\n")), "{:?}", server.asked());
}

#[test]
fn an_answer_is_no_larger_than_granted_and_its_time_is_limited() {
    let server = Server::start();
    let hasty =
        HttpGrant { timeout: Duration::from_millis(100), ..grant(vec![host("127.0.0.1", server.port)], &[LOCAL]) };
    let guest = load("asks_together", hasty, Limits::default());
    let said = ask(&guest, &[&server.url("/large"), &server.url("/held"), &server.url("/a")]);
    assert_eq!(said, ["the answer has more than 8192 bytes", "not within 100 ms", "answer to /a"]);
    server.release.store(true, Ordering::SeqCst);
}

/// One run of a batch on compute threads, as the line does it.
async fn run(
    compute: &Compute,
    guest: &Arc<WasmTransform>,
    urls: &[String],
) -> Result<TransformOutput, TransformError> {
    let (guest, urls) = (Arc::clone(guest), urls.to_vec());
    let work = async move {
        let _slot = match guest.slots() {
            Some(slots) => Some(slots.acquire_owned().await.unwrap()),
            None => None,
        };
        let batch = batch(&urls.iter().map(String::as_str).collect::<Vec<_>>());
        let input = TransformInput { batch: &batch, value_fields: &[] };
        if guest.slots().is_some() { guest.apply_waiting(input, false).await } else { guest.apply(&input) }
    };
    compute.run(work).await.unwrap()
}

#[tokio::test]
async fn a_guest_that_waits_holds_no_thread_and_uses_no_cpu_time() {
    let server = Server::start();
    let compute = Compute::start(1).unwrap();
    let limits = Limits {
        cpu_per_batch: Duration::from_millis(200),
        cpu_per_record: Duration::from_millis(200),
        ..Limits::default()
    };
    let granted = || HttpGrant {
        timeout: Duration::from_secs(20),
        concurrency: 3,
        ..grant(vec![host("127.0.0.1", server.port)], &[LOCAL])
    };
    let asks = load("reaches_out", granted(), limits);
    let other = Arc::new(support::load("asks_the_host"));
    let held = [server.url("/held")];
    let mut waiting = Vec::new();
    for _ in 0..3 {
        let (compute, asks, held) = (compute.clone(), Arc::clone(&asks), held.clone());
        waiting.push(tokio::spawn(async move { run(&compute, &asks, &held).await }));
    }
    let three = Arc::clone(&server.under_way);
    tokio::task::spawn_blocking(move || wait(|| three.load(Ordering::SeqCst) == 3)).await.unwrap();
    assert_eq!(server.under_way.load(Ordering::SeqCst), 3, "three batches wait on the only thread");
    // Meanwhile the batches of another pipeline go on, on that thread, for longer than the CPU time that a batch may take.
    let began = Instant::now();
    let mut batches = 0;
    while began.elapsed() < Duration::from_millis(300) {
        assert_eq!(run(&compute, &other, &["a".to_owned()]).await.unwrap().rows.len(), 1);
        batches += 1;
    }
    assert!(batches > 10, "{batches} batches");
    server.release.store(true, Ordering::SeqCst);
    for waiting in waiting {
        let output = waiting.await.unwrap().unwrap();
        assert_eq!(told(&output), ["answer to /held"]);
        assert!(output.usage.cpu_ns < 100_000_000, "{} ns", output.usage.cpu_ns);
    }
}

#[tokio::test]
async fn a_call_that_is_given_up_frees_its_slot_its_thread_and_its_connection() {
    let server = Server::start();
    let compute = Compute::start(1).unwrap();
    let granted = HttpGrant {
        timeout: Duration::from_secs(20),
        concurrency: 1,
        ..grant(vec![host("127.0.0.1", server.port)], &[LOCAL])
    };
    let asks = load("reaches_out", granted, Limits::default());
    let held = [server.url("/held")];
    for _ in 0..5 {
        let gave_up = tokio::time::timeout(Duration::from_millis(50), run(&compute, &asks, &held)).await;
        assert!(gave_up.is_err());
    }
    let output = run(&compute, &asks, &[server.url("/a")]).await.unwrap();
    assert_eq!(told(&output), ["answer to /a"], "the only place for a request is free again");
    server.release.store(true, Ordering::SeqCst);
}

#[tokio::test]
async fn a_guest_that_only_waits_is_stopped_by_the_clock_and_its_record_is_guilty() {
    let server = Server::start();
    let compute = Compute::start(1).unwrap();
    let limits = Limits { wall_per_batch: Duration::from_millis(300), ..Limits::default() };
    let guest = load("asks_for_ever", grant(vec![host("127.0.0.1", server.port)], &[LOCAL]), limits);
    // By a request that does not come back, and by many that do.
    for path in ["/held", "/a"] {
        let error = run(&compute, &guest, &[server.url(path)]).await.unwrap_err();
        let TransformError::Trap { kind, message, backtrace, .. } = error else { panic!("{path}: {error:?}") };
        assert_eq!(kind, TrapKind::WaitLimit, "{path}: {message}");
        assert!(message.contains("its limit is 300 ms") && message.contains("`wall_per_batch`"), "{message}");
        assert!(backtrace.contains("ask_for_ever"), "{backtrace}");
    }
    server.release.store(true, Ordering::SeqCst);
}

#[test]
fn nobody_is_asked_before_there_is_a_batch() {
    let server = Server::start();
    let grants = Grants {
        capabilities: [Capability::Http].into(),
        http: Some(grant(vec![host("127.0.0.1", server.port)], &[LOCAL])),
    };
    let bytes = component("asks_in_configure");
    let config = serde_json::Value::Null;
    let error =
        WasmTransform::from_bytes(support::runtime(), "x", &bytes, &config, &grants, Limits::default()).unwrap_err();
    let LoadError::Config { message } = error else { panic!("{error}") };
    assert_eq!(message, "nobody is asked but while a batch is handled");
}

#[test]
fn every_request_is_told_to_whoever_counts_them() {
    let server = Server::start();
    let guest = load("asks_together", grant(vec![host("127.0.0.1", server.port)], &[LOCAL]), Limits::default());
    let told: Arc<Mutex<Vec<&'static str>>> = Arc::default();
    let tells = Arc::clone(&told);
    guest.report_requests(Box::new(move |exchange| tells.lock().unwrap().push(exchange.outcome)));
    ask(&guest, &[&server.url("/a"), &server.url("/large"), "http://other.example/", "nothing"]);
    let mut told = told.lock().unwrap().clone();
    told.sort_unstable();
    assert_eq!(told, ["denied", "invalid", "ok", "too_large"]);
}

fn check(dir: &Path) -> (bool, String) {
    let output = Command::new(env!("CARGO_BIN_EXE_pelton")).arg("check").current_dir(dir).output().unwrap();
    let said = [output.stdout, output.stderr].concat();
    (output.status.success(), String::from_utf8_lossy(&said).into_owned())
}

fn empty_project(dir: &Path, settings: &str) {
    for folder in ["pipelines", "plugins"] {
        std::fs::create_dir(dir.join(folder)).unwrap();
    }
    std::fs::write(dir.join("pelton.yaml"), settings).unwrap();
}

#[test]
fn a_replay_asks_again_only_where_it_is_told_to_and_never_for_the_live_table() {
    let dir = tempfile::tempdir().unwrap();
    let project = dir.path();
    // Nobody listens there: what gets past the question of the answers ends as unreachable.
    empty_project(project, "kafka: { brokers: 127.0.0.1:1 }\nsqlite: tables.db\nstartup_wait: 1 s\n");
    std::fs::write(project.join("plugins/geo.wasm"), component("reaches_out")).unwrap();
    let pipeline = "source: { kafka: { topics: [visits] } }\nsteps:\n  - plugin: geo\n    grants: [http: { hosts: [a.example] }]\n\
                    outputs:\n  default:\n    sqlite:\n      table: places\n      create: { columns: { ip: text }, key: [ip] }\n      tombstones: reject\n";
    std::fs::write(project.join("pipelines/visits.yaml"), pipeline).unwrap();
    let replay = |more: &[&str]| {
        let output = Command::new(env!("CARGO_BIN_EXE_pelton"))
            .args(["replay", "visits", "--from", "earliest"])
            .args(more)
            .current_dir(project)
            .output()
            .unwrap();
        (output.status.code(), String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned())
    };
    for arguments in [&[][..], &["--ask-again"], &["--into", "others"]] {
        let (code, said) = replay(arguments);
        assert_eq!(code, Some(2), "{arguments:?}: {said}");
        assert!(said.contains("the plugin geo asks others over HTTP") && said.contains("--ask-again"), "{said}");
    }
    let (code, said) = replay(&["--into", "others", "--ask-again"]);
    assert!(code != Some(2) && !said.contains("asks others"), "{code:?}: {said}");
}

#[test]
fn an_upgrade_that_asks_for_more_is_refused_until_that_is_granted() {
    let dir = tempfile::tempdir().unwrap();
    let project = dir.path();
    empty_project(project, "kafka: { brokers: 127.0.0.1:9092 }\n");
    let pipeline = |grants: &str| {
        let text = format!(
            "source: {{ kafka: {{ topics: [visits] }}, format: bytes }}\nsteps:\n  - plugin: geo\n{grants}outputs:\n  default: {{ kafka: {{ topic: places }} }}\n"
        );
        std::fs::write(project.join("pipelines/visits.yaml"), text).unwrap();
    };
    let artifact = project.join("plugins/geo.wasm");
    std::fs::write(&artifact, component("well_behaved")).unwrap();
    pipeline("");
    assert!(check(project).0, "{}", check(project).1);
    // The new version asks for `http`, and says in its own file that it needs it.
    std::fs::write(&artifact, component("reaches_out")).unwrap();
    std::fs::write(project.join("plugins/geo.yaml"), "grants: [http]\n").unwrap();
    for grants in ["", "    grants: [log]\n"] {
        pipeline(grants);
        let (well, said) = check(project);
        assert!(!well && said.contains("the plugin `geo` asks for `http`, which it is not granted"), "{said}");
        assert!(said.contains("http: { hosts: [HOST] }"), "{said}");
    }
    pipeline("    grants: [log, http: { hosts: [api.example.com] }]\n");
    let (well, said) = check(project);
    assert!(well, "{said}");
    assert!(said.contains("geo asks for http; granted: log, http, not asked for: log"), "{said}");
    assert!(said.contains("geo may ask over HTTP: GET, HEAD at api.example.com"), "{said}");
    assert!(said.contains("not replay-identical"), "{said}");
    let inspected =
        Command::new(env!("CARGO_BIN_EXE_pelton")).args(["plugin", "inspect"]).arg(&artifact).output().unwrap();
    let said = String::from_utf8_lossy(&inspected.stdout).into_owned();
    assert!(said.contains("imports    http\n") && said.contains("not replay-identical"), "{said}");
}
