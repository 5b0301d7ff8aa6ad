//! A component of another toolchain: a transform in Python (`tests/other_languages`), built by componentize-py from `wit/`
//! alone. `pelton plugin` and the daemon take it; built with all that its runtime would import, it is refused in words.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use pelton_tests::process::{Process, program, repository};
use rdkafka::message::Message as _;
use rdkafka::producer::FutureRecord;
use serde_json::{Value, json};

use crate::kafka_sink::read_all;
use crate::kafka_support::{Topic, brokers, producer};

/// The Python tool, in a virtual environment that later runs find again.
fn componentize_py() -> PathBuf {
    const PACKAGE: &str = "componentize-py==0.25.1";
    let venv = Path::new(env!("CARGO_TARGET_TMPDIR")).join("componentize-py");
    // Each test is a process of its own, and all of them want it at once.
    let lock = File::create(venv.with_extension("lock")).expect("a file in cargo's own directory");
    lock.lock().expect("whoever has it lets it go");
    if !venv.join("bin/pip").exists() {
        ran(Command::new("python3").args(["-m", "venv"]).arg(&venv));
    }
    ran(Command::new(venv.join("bin/pip")).args(["install", "--quiet", PACKAGE]));
    venv.join("bin/componentize-py")
}

fn output(command: &mut Command) -> (Output, String) {
    let output = command.output().unwrap_or_else(|error| panic!("{command:?}: {error}"));
    let said = format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    (output, said)
}

/// What a command writes, which must succeed.
fn ran(command: &mut Command) -> String {
    let (output, said) = output(command);
    assert!(output.status.success(), "{command:?}\n{said}");
    String::from_utf8(output.stdout).expect("text")
}

/// A copy of the plugin `fahrenheit` in `plugins`, with its component.
fn build(plugins: &Path, tool: &Path, flags: &[&str]) -> PathBuf {
    let source = repository().join("tests/other_languages/fahrenheit");
    let dir = plugins.join("fahrenheit");
    ran(Command::new("cp").arg("-r").arg(&source).arg(&dir));
    ran(Command::new(tool)
        .current_dir(&dir)
        .arg("-q")
        .arg("-d")
        .arg(repository().join("wit"))
        .args(["-w", "transform", "componentize"])
        .args(flags)
        .args(["app", "-o", "fahrenheit.wasm"]));
    dir
}

fn inspected(plugin: &Path) -> Value {
    let file = plugin.join("fahrenheit.wasm");
    serde_json::from_str(&ran(Command::new(program("pelton")).args(["plugin", "inspect", "--json"]).arg(file))).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_component_of_another_toolchain_is_a_plugin_like_any_other() {
    let tool = componentize_py();
    let root = tempfile::tempdir().unwrap();
    let plugin = build(root.path(), &tool, &["--stub-wasi"]);
    let seen = inspected(&plugin);
    assert_eq!((&seen["world"], &seen["interface_version"]), (&json!("transform"), &json!("0.1.0")));
    assert_eq!(seen["capabilities"], json!(["log", "metrics", "config", "clock", "random"]));
    assert_eq!((&seen["ungrantable"], &seen["shell"]), (&json!([]), &json!([])));
    ran(Command::new(program("pelton")).args(["plugin", "test"]).arg(&plugin));

    let (input, out) = (Topic::new("celsius", 1).await, Topic::new("fahrenheit", 1).await);
    let pipeline = format!(
        "source: {{ kafka: {{ topics: [{}], group: {}, start: earliest }} }}\nsteps: [{{ plugin: fahrenheit }}]\n\
         outputs: {{ default: {{ kafka: {{ topic: {} }} }} }}\n",
        input.name, input.name, out.name
    );
    let settings = format!(
        "kafka: {{ brokers: \"{}\" }}\nplugin_dirs: [{}]\nadmin: {{ listen: 127.0.0.1:0 }}\n",
        brokers(),
        root.path().display()
    );
    let project = tempfile::tempdir().unwrap();
    std::fs::create_dir(project.path().join("pipelines")).unwrap();
    std::fs::write(project.path().join("pelton.yaml"), settings).unwrap();
    std::fs::write(project.path().join("pipelines/degrees.yaml"), pipeline).unwrap();
    // The check compiles it, which takes its time, and the daemon finds it compiled.
    ran(Command::new(program("pelton")).arg("check").arg(project.path()));
    let mut daemon = Process::daemon(project.path(), "daemon");
    for value in [r#"{"celsius":21.5}"#, r#"{"celsius":-300}"#, r#"{"celsius":100}"#] {
        let record = FutureRecord::<str, str>::to(&input.name).payload(value);
        producer().send(record, std::time::Duration::from_secs(30)).await.unwrap();
    }
    let values: Vec<Value> = read_all(&out.name, 1, 2)
        .await
        .iter()
        .map(|message| serde_json::from_slice(message.payload().unwrap()).unwrap())
        .collect();
    let degrees = [json!({"celsius": 21.5, "fahrenheit": 70.7}), json!({"celsius": 100, "fahrenheit": 212.0})];
    assert_eq!(values, degrees, "{}", daemon.output());
    assert!(daemon.terminate().await.success(), "{}", daemon.output());
    input.delete().await;
    out.delete().await;
}

#[test]
fn a_component_that_wants_sockets_is_refused_in_words() {
    let tool = componentize_py();
    let root = tempfile::tempdir().unwrap();
    let plugin = build(root.path(), &tool, &[]);
    let seen = inspected(&plugin);
    let names = |key: &str| seen[key].as_array().unwrap().iter().map(|name| name.as_str().unwrap()).collect::<Vec<_>>();
    assert!(names("ungrantable").iter().all(|name| name.starts_with("wasi:sockets/")), "{seen:#}");
    assert!(names("shell").iter().any(|name| name.starts_with("wasi:filesystem/")), "{seen:#}");
    let (tested, said) = output(Command::new(program("pelton")).args(["plugin", "test"]).arg(&plugin));
    assert_eq!(tested.status.code(), Some(1), "{said}");
    for words in ["it asks for more than it is granted", "unknown:  wasi:sockets/tcp@", "--stub-wasi"] {
        assert!(said.contains(words), "{words:?} is not in\n{said}");
    }
}
