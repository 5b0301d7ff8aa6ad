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
    let complaint = String::from_utf8_lossy(&output.stderr);
    assert!(complaint.is_empty(), "{}: {complaint}", case.display());
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
