//! services.sh, against stand-ins that speak just enough of Kafka's and Cassandra's protocols: what was there before is
//! used and never stopped, and nothing is stopped by mistake.

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpListener};
use std::path::Path;
use std::process::{Command, Stdio};

/// Answers every connection's first bytes with `answer`, for as long as the test runs.
fn stand_in(answer: &'static [u8]) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let address = listener.local_addr().expect("a bound address");
    std::thread::spawn(move || {
        for connection in listener.incoming() {
            let mut connection = connection.expect("a connection");
            let mut request = [0; 64];
            // A connection that only looks whether somebody listens sends nothing.
            if connection.read(&mut request).is_ok_and(|bytes| bytes > 0) {
                connection.write_all(answer).ok();
            }
        }
    });
    address
}

/// The head of an answer to ApiVersions, as a broker gives it.
const KAFKA: &[u8] = b"\0\0\0\x0aPelt\0\0\0\0\0\0";
/// The head of SUPPORTED, as a node gives it.
const CASSANDRA: &[u8] = b"\x84\0\0\0\x06\0\0\0\0";

struct Ran {
    success: bool,
    out: String,
    err: String,
}

fn services(state: &Path, kafka: SocketAddr, cassandra: SocketAddr, arguments: &[&str]) -> Ran {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("harness/services.sh");
    let output = Command::new("bash")
        .arg(script)
        .args(arguments)
        .env("PELTON_SERVICES_DIR", state)
        .env("PELTON_SERVICES", "java")
        .env("PELTON_KAFKA_HOST", kafka.ip().to_string())
        .env("PELTON_KAFKA_PORT", kafka.port().to_string())
        .env("PELTON_CASSANDRA_HOST", cassandra.ip().to_string())
        .env("PELTON_CASSANDRA_PORT", cassandra.port().to_string())
        .stdin(Stdio::null())
        .output()
        .expect("bash runs");
    Ran {
        success: output.status.success(),
        out: String::from_utf8_lossy(&output.stdout).into_owned(),
        err: String::from_utf8_lossy(&output.stderr).into_owned(),
    }
}

#[test]
fn what_is_there_is_used_and_never_stopped() {
    let state = tempfile::tempdir().expect("a directory");
    let (kafka, cassandra) = (stand_in(KAFKA), stand_in(CASSANDRA));
    for _ in 0..2 {
        let up = services(state.path(), kafka, cassandra, &["up"]);
        assert!(up.success, "{}", up.err);
        assert!(up.out.contains(&format!("kafka on {kafka} was already there")), "{}", up.out);
        assert!(up.out.contains(&format!("cassandra on {cassandra} was already there")), "{}", up.out);
        let down = services(state.path(), kafka, cassandra, &["down"]);
        assert!(down.success && !down.out.contains("stopped"), "{}", down.out);
    }
    let status = services(state.path(), kafka, cassandra, &["status"]);
    assert_eq!(status.out.matches("(not started here)").count(), 2, "{}", status.out);
}

#[test]
fn something_else_on_the_port_is_an_error() {
    let state = tempfile::tempdir().expect("a directory");
    let (kafka, cassandra) = (stand_in(b"HTTP/1.1 400 Bad Request\r\n\r\n"), stand_in(CASSANDRA));
    let up = services(state.path(), kafka, cassandra, &["up", "kafka"]);
    assert!(!up.success);
    assert!(up.err.contains(&format!("something listens on {kafka} that is not kafka")), "{}", up.err);
}

#[test]
fn a_stale_process_id_stops_nobody() {
    let state = tempfile::tempdir().expect("a directory");
    let (kafka, cassandra) = (stand_in(KAFKA), stand_in(CASSANDRA));
    let mut bystander = Command::new("sleep").arg("600").spawn().expect("sleep runs");
    std::fs::create_dir_all(state.path().join("kafka")).expect("a directory");
    std::fs::write(state.path().join("kafka/pid"), bystander.id().to_string()).expect("a pid file");
    let down = services(state.path(), kafka, cassandra, &["down"]);
    let runs = bystander.try_wait().expect("it is our child").is_none();
    bystander.kill().expect("it is our child");
    bystander.wait().expect("it is our child");
    assert!(down.success, "{}", down.err);
    assert!(runs, "a process that happened to have the id was stopped: {}", down.out);
    assert!(!state.path().join("kafka/pid").exists());
}

#[test]
fn an_unknown_service_or_verb_is_named() {
    let state = tempfile::tempdir().expect("a directory");
    let nowhere = SocketAddr::from(([127, 0, 0, 1], 1));
    let unknown = services(state.path(), nowhere, nowhere, &["up", "redis"]);
    assert!(!unknown.success && unknown.err.contains("there is no service redis"), "{}", unknown.err);
    let help = services(state.path(), nowhere, nowhere, &[]);
    assert!(!help.success && help.out.contains("PELTON_KAFKA_PORT"), "{}", help.out);
    let status = services(state.path(), nowhere, nowhere, &["status"]);
    assert_eq!(status.out.matches("does not answer").count(), 2, "{}", status.out);
}
