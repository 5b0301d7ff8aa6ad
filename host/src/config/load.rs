//! A project directory, read whole.
//!
//! In: the directory and the environment. Out: a [`Reading`]: everything that is valid, and every mistake.

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};

use super::document::{Document, Findings};
use super::files;
use super::pipeline::{self, Draft, Surroundings};
use super::settings::{self, Mentioned};
use super::values::is_plain_name;
use super::{ConfigErrors, Environment, Manifest, Mask, Positions, Problem, Project, Settings, Severity, plugins};

/// What stands in a project directory: the valid parts, and the mistakes.
#[derive(Debug, Clone)]
pub struct Reading {
    /// The project directory.
    pub dir: PathBuf,
    /// `pelton.yaml`, with defaults in the place of mistakes.
    pub settings: Settings,
    /// The pipelines, as far as they are valid.
    pub drafts: Vec<Draft>,
    /// Where each key stands.
    pub positions: Positions,
    /// Every mistake and every warning.
    pub problems: Vec<Problem>,
    /// What came out of substitutions.
    pub mask: Mask,
}

impl Reading {
    /// The pipelines that could be read whole, as a project: for questions to brokers and databases.
    #[must_use]
    pub fn valid_part(&self) -> Project {
        Project {
            dir: self.dir.clone(),
            settings: self.settings.clone(),
            pipelines: self.drafts.iter().filter_map(|draft| draft.pipeline.clone()).collect(),
            positions: self.positions.clone(),
            warnings: Vec::new(),
            mask: self.mask.clone(),
        }
    }

    /// The project, if nothing is wrong with it.
    ///
    /// # Errors
    /// Every mistake, warnings among them.
    pub fn into_project(self) -> Result<Project, ConfigErrors> {
        if self.problems.iter().any(Problem::is_error) {
            return Err(ConfigErrors::new(self.problems));
        }
        let pipelines = self
            .drafts
            .into_iter()
            .map(|draft| draft.pipeline.expect("a pipeline without mistakes in its file is whole"))
            .collect();
        Ok(Project {
            dir: self.dir,
            settings: self.settings,
            pipelines,
            positions: self.positions,
            warnings: ConfigErrors::new(self.problems).0,
            mask: self.mask,
        })
    }
}

/// Reads a project directory. Never fails: what is wrong stands among the problems.
#[must_use]
pub fn read(dir: &Path, environment: &dyn Environment) -> Reading {
    let findings = Findings::default();
    let mut reading = Reading {
        dir: dir.to_owned(),
        settings: Settings::defaults(dir),
        drafts: Vec::new(),
        positions: Positions::default(),
        problems: Vec::new(),
        mask: Mask::default(),
    };
    if dir.is_dir() {
        let (settings, mentioned) = read_settings(dir, environment, &findings);
        reading.settings = settings;
        reading.drafts = read_pipelines(dir, &reading.settings, mentioned, environment, &findings);
    } else {
        let (found, remedy) = if dir.exists() {
            ("this is a file, not a project directory", "give the directory that holds pelton.yaml")
        } else {
            ("there is no such directory", "give the directory that holds pelton.yaml")
        };
        note(&findings, &dir.display().to_string(), found, remedy);
    }
    reading.mask = findings.mask.into_inner();
    reading.positions = findings.positions.into_inner();
    reading.problems = ConfigErrors::new(findings.problems.into_inner()).0;
    reading
}

/// Every key that is asked for while a project is read.
#[cfg(test)]
pub(super) fn known_keys(dir: &Path, environment: &dyn Environment) -> std::collections::BTreeSet<String> {
    let findings = Findings::default();
    let (settings, mentioned) = read_settings(dir, environment, &findings);
    read_pipelines(dir, &settings, mentioned, environment, &findings);
    findings.known.into_inner()
}

/// Reads a plugin's manifest for itself, outside of a project.
///
/// # Errors
/// Every mistake in it.
pub fn manifest(file: &Path, environment: &dyn Environment) -> Result<Manifest, ConfigErrors> {
    let findings = Findings::default();
    let dir = file.parent().unwrap_or(Path::new(""));
    let manifest = plugins::read_manifest(file, dir, environment, &findings);
    let problems = findings.problems.into_inner();
    if problems.is_empty() { Ok(manifest) } else { Err(ConfigErrors::new(problems)) }
}

/// Reads any YAML file as JSON: the `config:` of a plugin's case.
///
/// # Errors
/// Every mistake in it.
pub fn json(file: &Path, environment: &dyn Environment) -> Result<serde_json::Value, ConfigErrors> {
    let findings = Findings::default();
    let dir = file.parent().unwrap_or(Path::new(""));
    let label = file.display().to_string();
    let bytes = files::read(file).map_err(|error| ConfigErrors(vec![unreadable(&label, &error)]))?;
    let document = Document::parse(&label, None, &bytes, dir, environment, &findings);
    let json = document.root().json();
    drop(document);
    let problems = findings.problems.into_inner();
    match json {
        Some(json) if problems.is_empty() => Ok(json),
        _ => Err(ConfigErrors::new(problems)),
    }
}

fn read_settings(dir: &Path, environment: &dyn Environment, findings: &Findings) -> (Settings, Mentioned) {
    const FILE: &str = "pelton.yaml";
    let bytes = match files::read(&dir.join(FILE)) {
        Ok(bytes) => bytes,
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            let near = ["pelton.yml", "Pelton.yaml", "pelton.json", "pelton.toml"];
            let remedy = match near.iter().find(|name| dir.join(name).is_file()) {
                Some(name) => format!("rename {name} to {FILE}"),
                None => "write one; an empty file is all defaults, and `kafka: { brokers: 127.0.0.1:9092 }` connects"
                    .to_owned(),
            };
            note(findings, FILE, "the file is not there: this is no project directory", &remedy);
            return (Settings::defaults(dir), Mentioned::UNKNOWN);
        }
        Err(error) => {
            findings.problems.borrow_mut().push(unreadable(FILE, &error));
            return (Settings::defaults(dir), Mentioned::UNKNOWN);
        }
    };
    let document = Document::parse(FILE, None, &bytes, dir, environment, findings);
    settings::read(&document, dir)
}

fn read_pipelines(
    dir: &Path,
    settings: &Settings,
    mentioned: Mentioned,
    environment: &dyn Environment,
    findings: &Findings,
) -> Vec<Draft> {
    let mut taken = BTreeMap::new();
    let mut around = Surroundings { dir, settings, mentioned, environment, findings, taken: &mut taken };
    let mut names: BTreeMap<String, String> = BTreeMap::new();
    let mut drafts = Vec::new();
    for (name, label) in pipeline_files(dir, findings) {
        if let Some(first) = names.insert(name.clone(), label.clone()) {
            let found = format!("{first} is the pipeline `{name}` already");
            note(findings, &label, &found, "rename or remove one of the two");
        }
        if !is_plain_name(&name) {
            let found = format!("`{name}` is not a pipeline's name");
            note(findings, &label, &found, "name the file with lower-case letters, digits, `-` and `_`, at most 64");
        }
        let bytes = match files::read(&dir.join(&label)) {
            Ok(bytes) => bytes,
            Err(error) => {
                findings.problems.borrow_mut().push(unreadable(&label, &error));
                continue;
            }
        };
        let document = Document::parse(&label, Some(&name), &bytes, dir, environment, findings);
        drafts.push(pipeline::read(&document, Path::new(&label), &name, &mut around));
    }
    drafts
}

/// Name and file of each pipeline, in order of the files.
fn pipeline_files(dir: &Path, findings: &Findings) -> Vec<(String, String)> {
    const DIR: &str = "pipelines";
    let entries = match std::fs::read_dir(dir.join(DIR)) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            note(
                findings,
                DIR,
                "the directory is not there: nothing would run",
                "write a pipeline to pipelines/NAME.yaml",
            );
            return Vec::new();
        }
        Err(error) => {
            findings.problems.borrow_mut().push(unreadable(DIR, &error));
            return Vec::new();
        }
    };
    let mut files: Vec<String> =
        entries.flatten().map(|entry| entry.file_name().to_string_lossy().into_owned()).collect();
    files.sort();
    let mut pipelines = Vec::new();
    for file in files {
        let label = format!("{DIR}/{file}");
        if let Some(name) = file.strip_suffix(".yml") {
            note(findings, &label, "a pipeline's file ends with .yaml", &format!("rename it to {DIR}/{name}.yaml"));
            continue;
        }
        match file.strip_suffix(".yaml") {
            _ if file.starts_with('.') || file.ends_with('~') || file.ends_with(".md") => {}
            Some(name) if dir.join(&label).is_file() => pipelines.push((name.to_owned(), label)),
            Some(_) if dir.join(&label).symlink_metadata().is_ok_and(|about| about.is_symlink()) => {
                note(findings, &label, "this link leads to no file", "correct the link, or remove it");
            }
            Some(_) => note(findings, &label, "this is no file", "keep pipelines as files directly in pipelines/"),
            None => {
                note(
                    findings,
                    &label,
                    "this file is not read",
                    "a pipeline's file ends with .yaml; keep others elsewhere",
                );
                if let Some(problem) = findings.problems.borrow_mut().last_mut() {
                    problem.severity = Severity::Warning;
                }
            }
        }
    }
    if pipelines.is_empty() {
        note(findings, DIR, "there is no pipeline here: nothing would run", "write one to pipelines/NAME.yaml");
    }
    pipelines
}

fn note(findings: &Findings, file: &str, found: &str, remedy: &str) {
    let mut problem = Problem::by_key(None, "", found, remedy);
    problem.file = file.to_owned();
    findings.problems.borrow_mut().push(problem);
}

/// A file that cannot be read.
pub(super) fn unreadable(file: &str, error: &io::Error) -> Problem {
    let (found, remedy) = match error.kind() {
        io::ErrorKind::IsADirectory => ("this is a directory".to_owned(), "put a file in its place"),
        io::ErrorKind::NotADirectory => ("this is no directory".to_owned(), "put a directory in its place"),
        io::ErrorKind::InvalidInput => (format!("this is no file: {error}"), "put a file in its place"),
        _ => (format!("the file cannot be read: {error}"), "make it readable for the user who runs Pelton"),
    };
    let mut problem = Problem::by_key(None, "", found, remedy);
    problem.file = file.to_owned();
    problem
}
