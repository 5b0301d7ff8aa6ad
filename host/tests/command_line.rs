//! What the command line says to wrong arguments, and that it leaves nothing behind where it has no business.

#![allow(clippy::panic, reason = "a test says by panicking what it expected")]

use std::path::Path;
use std::process::{Command, Output};

fn pelton(dir: &Path, arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_pelton")).args(arguments).current_dir(dir).output().expect("pelton runs")
}

fn entries(dir: &Path) -> Vec<String> {
    let entries = std::fs::read_dir(dir).expect("a directory").map(|entry| entry.expect("an entry").file_name());
    entries.map(|name| name.to_string_lossy().into_owned()).collect()
}

#[test]
fn wrong_arguments_have_one_exit_code_whatever_the_verb() {
    let dir = tempfile::tempdir().expect("a directory");
    std::fs::write(dir.path().join("a-file"), "").expect("a fresh file");
    std::fs::create_dir(dir.path().join("empty")).expect("a fresh directory");
    std::fs::create_dir_all(dir.path().join("taken/inside")).expect("a fresh directory");
    for arguments in [
        "fly",
        "run --fast",
        "run nowhere",
        "run a-file",
        "run empty",
        "check nowhere",
        "check empty",
        "check empty --json",
        "status nowhere",
        "status empty",
        "status --admin nonsense",
        "status --admin localhost",
        "pause",
        "pause orders empty",
        "resume orders empty",
        "seek orders empty --to earliest",
        "seek orders empty",
        "replay orders empty --from earliest",
        "replay orders nowhere --from earliest",
        "replay orders empty",
        "demo empty",
        "demo --keep taken",
        "demo --seconds 0",
        "dlq list empty",
        "dlq list nowhere",
        "dlq show shop.orders/0/17 empty",
        "dlq export empty",
        "dlq redrive orders empty --all --yes",
        "dlq to-case shop.orders/0/17 empty",
        "plugin new Not_A_Name",
        "plugin new taken",
        "plugin build nowhere",
        "plugin build empty",
        "plugin test nowhere",
        "plugin test empty",
        "plugin inspect nowhere.wasm",
    ] {
        let output = pelton(dir.path(), &arguments.split(' ').collect::<Vec<_>>());
        assert_eq!(output.status.code(), Some(2), "pelton {arguments}: {output:?}");
        let said = !output.stderr.is_empty() || !output.stdout.is_empty();
        assert!(said, "pelton {arguments} says what is wrong");
    }
    assert_eq!(entries(&dir.path().join("empty")), Vec::<String>::new(), "nothing was left behind");
    assert_eq!(entries(&dir.path().join("taken")), ["inside"]);
    let mut here = entries(dir.path());
    here.sort();
    assert_eq!(here, ["a-file", "empty", "taken"]);
    // It is there, and no plugin: that is no mistake of the command line.
    assert_eq!(pelton(dir.path(), &["plugin", "inspect", "a-file"]).status.code(), Some(1));
}

#[test]
fn verbs_in_an_empty_directory_leave_nothing_behind() {
    let dir = tempfile::tempdir().expect("a directory");
    for arguments in
        [&["run"][..], &["check"], &["check", "--online"], &["status"], &["plugin", "build"], &["plugin", "test"]]
    {
        let output = pelton(dir.path(), arguments);
        assert_eq!(output.status.code(), Some(2), "{arguments:?}: {output:?}");
        assert_eq!(entries(dir.path()), Vec::<String>::new(), "{arguments:?}");
    }
}

#[test]
fn a_daemon_is_asked_by_the_name_of_this_machine_too() {
    let dir = tempfile::tempdir().expect("a directory");
    let nobody = std::net::TcpListener::bind("127.0.0.1:0").and_then(|listener| listener.local_addr()).expect("a port");
    let output = pelton(dir.path(), &["status", "--admin", &format!("localhost:{}", nobody.port())]);
    assert_eq!(output.status.code(), Some(3), "nobody answers there: {output:?}");
}

#[test]
fn a_daemon_of_another_project_is_refused() {
    let dir = tempfile::tempdir().expect("a directory");
    let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a free port");
    let address = listener.local_addr().expect("bound");
    let settings = format!("kafka: {{ brokers: a:1 }}\nadmin: {{ listen: {address} }}\n");
    std::fs::write(dir.path().join("pelton.yaml"), settings).expect("a fresh file");
    let other = tempfile::tempdir().expect("a directory");
    let other = other.path().canonicalize().map(|path| (path.display().to_string(), other)).expect("it is there");
    let runs = other.0.clone();
    std::thread::spawn(move || {
        let body = format!(
            r#"{{"version":"0.1.0","pid":7,"project":"{runs}","started_ms":0,"phase":"running","pipelines":[]}}"#
        );
        let answer = format!("HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-length: {}\r\n\r\n{body}", body.len());
        for stream in listener.incoming() {
            let mut stream = stream.expect("a connection");
            let mut head = [0; 4096];
            let _ = std::io::Read::read(&mut stream, &mut head).expect("a request");
            std::io::Write::write_all(&mut stream, answer.as_bytes()).expect("the answer goes out");
        }
    });
    let here = dir.path().canonicalize().expect("it is there");
    for arguments in [&["status"][..], &["status", "--ready"], &["pause", "p"], &["resume", "p"], &["tap", "p"]] {
        let output = pelton(dir.path(), arguments);
        let told = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(1), "{arguments:?}: {told}");
        let wanted =
            format!("no daemon of {} answers: at {address} is that of another project, {};", here.display(), other.0);
        assert!(told.contains(&wanted), "{arguments:?}: {told}");
    }
    // Who names the address means whoever is there.
    let output = pelton(dir.path(), &["status", "--admin", &address.to_string()]);
    let told = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success() && told.contains(&format!("\nproject {}\n", other.0)), "{output:?}");
}
