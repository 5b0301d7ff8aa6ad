//! What `pelton check` says about a project directory. A case is a folder below `config/`: the files of a project,
//! `environment` (lines of `NAME=value`, where it needs any) and `expected.txt`. `PELTON_BLESS=1` writes what is expected
//! anew. A file `NAME.guest` holds the name of a guest of `tests/guests`, and `NAME.wat` the text of one: both become
//! the component `NAME.wasm`.

mod support;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;

fn cases() -> Vec<PathBuf> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/config");
    let mut cases: Vec<PathBuf> =
        std::fs::read_dir(root).expect("the folder of cases").map(|entry| entry.expect("a case").path()).collect();
    cases.sort();
    cases
}

fn environment(case: &Path) -> BTreeMap<String, String> {
    let text = std::fs::read_to_string(case.join("environment")).unwrap_or_default();
    text.lines()
        .filter_map(|line| line.split_once('='))
        .map(|(name, value)| (name.to_owned(), value.to_owned()))
        .collect()
}

fn copy(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).expect("a fresh directory");
    for entry in std::fs::read_dir(from).expect("a case") {
        let entry = entry.expect("a file of a case");
        let target = to.join(entry.file_name());
        let extension = entry.path().extension().map(|extension| extension.to_string_lossy().into_owned());
        let text = || std::fs::read_to_string(entry.path()).expect("text");
        let component = match extension.as_deref() {
            Some("guest") => Some(support::component(text().trim())),
            Some("wat") => Some(support::encode("case", &support::complete(&text()), None)),
            _ => None,
        };
        if let Some(component) = component {
            std::fs::write(target.with_extension("wasm"), component).expect("a fresh file");
        } else if entry.path().is_dir() {
            copy(&entry.path(), &target);
        } else {
            std::fs::copy(entry.path(), target).expect("a fresh file");
        }
    }
}

/// Exit code and output of `pelton check` in a copy of a case.
fn check(case: &Path, arguments: &[&str]) -> (i32, String) {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let project = dir.path().join("project");
    copy(case, &project);
    let output = Command::new(env!("CARGO_BIN_EXE_pelton"))
        .arg("check")
        .args(arguments)
        .current_dir(&project)
        .env_clear()
        .envs(environment(case))
        .output()
        .expect("pelton runs");
    let noted = String::from_utf8_lossy(&output.stderr);
    // On a machine that is busy it says that the plugins are being compiled.
    let complaints: Vec<&str> = noted.lines().filter(|line| !line.contains("the plugins")).collect();
    assert!(complaints.is_empty(), "{}: {noted}", case.display());
    (output.status.code().expect("an exit code"), String::from_utf8(output.stdout).expect("text"))
}

#[test]
fn every_case_is_told_what_is_expected() {
    let bless = std::env::var_os("PELTON_BLESS").is_some();
    let mut differ = Vec::new();
    for case in cases() {
        let (code, told) = check(&case, &[]);
        assert_eq!(code == 0, told.lines().last().is_some_and(|line| line.starts_with("all is well")), "{told}");
        let file = case.join("expected.txt");
        if bless {
            std::fs::write(&file, &told).expect("the case's folder can be written");
        } else if std::fs::read_to_string(&file).unwrap_or_default() != told {
            differ.push(format!("== {}\n{told}", case.display()));
        }
    }
    assert!(differ.is_empty(), "told otherwise (PELTON_BLESS=1 accepts):\n{}", differ.join("\n"));
}

#[test]
fn no_value_of_the_environment_shows() {
    for case in cases() {
        let (_, told) = check(&case, &["--json"]);
        for (name, value) in environment(&case) {
            let is_secret = value.len() >= 6;
            assert!(!is_secret || !told.contains(&value), "{}: the value of {name} shows in\n{told}", case.display());
        }
    }
}

#[test]
fn every_mistake_has_its_line_and_a_remedy() {
    for case in cases() {
        let (code, told) = check(&case, &["--json"]);
        let report: serde_json::Value = serde_json::from_str(&told).expect("one JSON object");
        assert_eq!(report["ok"], code == 0);
        for problem in report["problems"].as_array().expect("a list") {
            let is_file = problem["file"].as_str().is_some_and(|file| case.join(file).is_file());
            let has_line = problem["line"].as_u64() > Some(0) && problem["column"].as_u64() > Some(0);
            let about_the_file = problem["key"] == "";
            assert!(has_line || about_the_file || !is_file, "{}: {problem}", case.display());
            assert!(problem["found"] != "" && problem["remedy"] != "", "{}: {problem}", case.display());
        }
    }
}

/// The words of the command that a message names: what follows `before`, up to the line's end or a backtick.
fn command(told: &str, before: &str) -> Vec<String> {
    assert!(told.contains(before), "{before:?} is not in\n{told}");
    let (_, command) = told.split_once(before).unwrap_or_default();
    shlex::split(command.split(['\n', '`']).next().unwrap_or_default()).expect("a shell can take it apart")
}

#[test]
fn a_command_that_a_remedy_names_works_where_its_reader_stands() {
    let top = tempfile::tempdir().expect("a temporary directory");
    let top = top.path().canonicalize().expect("it is there");
    let project = top.join("examples/my shop");
    std::fs::create_dir_all(project.join("pipelines")).expect("a fresh directory");
    std::fs::create_dir_all(top.join("plugins/unbuilt")).expect("a fresh directory");
    std::fs::write(top.join("plugins/text.wasm"), "no plugin").expect("a fresh file");
    // Nobody listens at a port that was free a moment ago.
    let free = std::net::TcpListener::bind("127.0.0.1:0").and_then(|listener| listener.local_addr()).expect("a port");
    let settings = format!("kafka: {{ brokers: a:1 }}\nplugin_dirs: [../../plugins]\nadmin: {{ listen: {free} }}\n");
    std::fs::write(project.join("pelton.yaml"), settings).expect("a fresh file");
    let pipeline = "source: { kafka: { topics: [t] } }\nsteps: [{ plugin: unbuilt }, { plugin: text }]\n\
                    outputs: { default: { discard: true } }\n";
    std::fs::write(project.join("pipelines/p.yaml"), pipeline).expect("a fresh file");
    for (here, dir) in [
        (top.as_path(), "examples/my shop"),
        (project.as_path(), "."),
        (&project.join("pipelines"), ".."),
        (Path::new("/"), project.to_str().expect("a plain path")),
    ] {
        let pelton = |arguments: &[String]| {
            let run = Command::new(env!("CARGO_BIN_EXE_pelton")).args(arguments).current_dir(here).output();
            let run = run.expect("pelton runs");
            format!("{}{}", String::from_utf8_lossy(&run.stdout), String::from_utf8_lossy(&run.stderr))
        };
        let told = pelton(&["check".to_owned(), dir.to_owned()]);
        let build = command(&told, "build it: pelton ");
        assert!(here.join(&build[2]).join("../text.wasm").is_file(), "from {}: {build:?}", here.display());
        assert!(build[2].len() <= top.join("plugins/unbuilt").to_string_lossy().len(), "{build:?}");
        let seen = pelton(&command(&told, "see what it is with: pelton "));
        assert!(seen.contains("no WebAssembly file"), "from {}: {seen}", here.display());
        // The daemon that does not answer is one of this project.
        let status = pelton(&["status".to_owned(), dir.to_owned()]);
        let run = command(&status, "start one with `pelton ");
        let named = run.get(1).map_or(".", String::as_str);
        assert!(here.join(named).join("pelton.yaml").is_file(), "from {}: {status}", here.display());
    }
}

#[test]
fn every_example_is_valid() {
    let examples = Path::new(env!("CARGO_MANIFEST_DIR")).join("../examples");
    let mut count = 0;
    for example in std::fs::read_dir(examples).expect("the examples").map(|entry| entry.expect("an example").path()) {
        count += 1;
        let reading = pelton::config::read(&example, &BTreeMap::new());
        for problem in reading.problems {
            // Plugins are built by `make`; everything else has to be right as it stands.
            assert!(problem.found.contains("is not built"), "{}: {problem}", example.display());
        }
        assert!(example.join("README.md").is_file(), "{} has no README.md", example.display());
    }
    assert!(count >= 4, "{count} examples");
}

#[test]
fn a_plugin_that_is_older_than_its_source_is_told_of() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let plugin = dir.path().join("plugins/sets");
    std::fs::create_dir_all(plugin.join("src")).expect("a fresh directory");
    std::fs::create_dir(dir.path().join("pipelines")).expect("a fresh directory");
    std::fs::write(dir.path().join("pelton.yaml"), "kafka: { brokers: a:1 }\nmemory: 1 TiB\n").expect("a fresh file");
    let pipeline =
        "source: { kafka: { topics: [t] } }\nsteps:\n  - plugin: sets\noutputs: { default: { discard: true } }\n";
    std::fs::write(dir.path().join("pipelines/p.yaml"), pipeline).expect("a fresh file");
    let text = include_str!("config/tables/plugins/sets.wat");
    let artifact = plugin.join("sets.wasm");
    std::fs::write(&artifact, support::encode("case", &support::complete(text), None)).expect("a fresh file");
    let source = plugin.join("src/lib.rs");
    std::fs::write(&source, "").expect("a fresh file");
    let built = std::fs::metadata(&artifact).and_then(|about| about.modified()).expect("a time");
    let check = |changed: std::time::SystemTime| {
        let opened = std::fs::File::options().append(true).open(&source).expect("it is there");
        opened.set_modified(changed).expect("touched");
        let run = Command::new(env!("CARGO_BIN_EXE_pelton")).arg("check").current_dir(&dir).output();
        let run = run.expect("pelton runs");
        assert_eq!(run.status.code(), Some(0), "it runs all the same: {run:?}");
        String::from_utf8(run.stdout).expect("text")
    };
    let hour = std::time::Duration::from_secs(3600);
    let told = check(built + hour);
    let warning = "pipelines/p.yaml:3:5: warning: steps[0].plugin: the plugin `sets` was built from another source: \
                   plugins/sets/sets.wasm is older than plugins/sets/src/lib.rs\n    build it anew: pelton plugin build \
                   plugins/sets\n";
    assert!(told.starts_with(warning), "{told}");
    let told = check(built - hour);
    assert!(!told.contains("warning"), "{told}");
}
