//! What a project directory is told. A case is a folder below `config/`: the files of a project, `environment` (lines of
//! `NAME=value`, where it needs any) and `expected.txt`. `PELTON_BLESS=1` writes what is expected anew.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::{Path, PathBuf};

use pelton::config;

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

/// What is said about a case; paths of this machine do not show.
fn told(case: &Path) -> String {
    let mut told = match config::load(case, &environment(case)) {
        Err(errors) => format!("{errors}\n"),
        Ok(project) => {
            let mut told = String::new();
            for warning in &project.warnings {
                writeln!(told, "{warning}").expect("memory");
            }
            for pipeline in &project.pipelines {
                let outputs: Vec<&str> = pipeline.outputs.keys().map(String::as_str).collect();
                writeln!(told, "{}: {} -> {}", pipeline.name, pipeline.source.topics.join(", "), outputs.join(", "))
                    .expect("memory");
            }
            told
        }
    };
    told = told.replace(&case.display().to_string(), "PROJECT");
    told
}

#[test]
fn every_case_is_told_what_is_expected() {
    let bless = std::env::var_os("PELTON_BLESS").is_some();
    let mut differ = Vec::new();
    for case in cases() {
        let told = told(&case);
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
        let told = told(&case);
        for (name, value) in environment(&case) {
            let is_secret = value.len() >= 6;
            assert!(!is_secret || !told.contains(&value), "{}: the value of {name} shows in\n{told}", case.display());
        }
    }
}

#[test]
fn every_mistake_has_its_line() {
    for case in cases() {
        let Err(errors) = config::load(&case, &environment(&case)) else { continue };
        for problem in errors.0 {
            let is_file = case.join(&problem.file).is_file();
            let has_line = problem.line > 0 && problem.column > 0;
            let about_the_file = problem.key.is_empty();
            assert!(has_line || about_the_file || !is_file, "{}: {problem}", case.display());
            assert!(!problem.found.is_empty() && !problem.remedy.is_empty(), "{}: {problem:?}", case.display());
        }
    }
}
