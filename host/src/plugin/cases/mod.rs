//! A plugin's cases: example, documentation and test at once.
//!
//! In: the folders under `cases/` (the format stands in `plugins/README.md`) and a plugin that the host has loaded.
//! Out: for each case, what differs from what is expected. Each case runs the way the line runs (decode, apply,
//! encode), cut into batches of 1, of 7 and not at all, on fresh and on reused instances: where two runs differ, the
//! plugin has hidden state. Never opens a connection, and writes nothing but `expected.jsonl`, when it is told to.

mod answers;
mod broken;
mod compare;
mod format;
mod run;
mod told;

use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde::Serialize;
use serde_json::Value;

use super::{LoadError, Runtime, WasmTransform};
use crate::config::{self, ConfigErrors, Limits, Manifest, Mask, ProcessEnvironment};
use crate::egress::Outgoing;
use crate::pipeline::Transform;

use answers::Answers;
pub use broken::ways_text;
pub use compare::Difference;
pub use format::FormatError;
use format::{ExpectedLine, InputRecord};

/// One case.
#[derive(Debug)]
pub struct Case {
    /// The folder's name.
    pub name: String,
    /// The folder.
    pub dir: PathBuf,
    /// The step's `config:`.
    pub config: Value,
    input: Vec<InputRecord>,
    answers: Answers,
    /// None where nothing is written down yet.
    expected: Option<Vec<ExpectedLine>>,
}

#[cfg(test)]
type RecordParts = (i64, Option<i64>, Option<Vec<u8>>, Option<Vec<u8>>, Vec<u8>);

/// Why a case cannot be run.
#[derive(Debug, thiserror::Error)]
pub enum CaseError {
    /// There are no cases.
    #[error("{dir}: there are no cases; a case is a folder under it with an input.jsonl")]
    None {
        /// `cases/`
        dir: PathBuf,
    },
    /// A file cannot be read or written.
    #[error("{path}: {source}")]
    Io {
        /// Which.
        path: PathBuf,
        /// Why not.
        source: std::io::Error,
    },
    /// A line is not as it should be.
    #[error(transparent)]
    Format(#[from] FormatError),
    /// `config.yaml` or the plugin's manifest is broken.
    #[error(transparent)]
    Config(#[from] ConfigErrors),
    /// The artifact cannot be loaded.
    #[error("{artifact}, case {case}: {error}")]
    Load {
        /// Which artifact.
        artifact: PathBuf,
        /// With which case's configuration.
        case: String,
        /// Why not.
        error: Box<LoadError>,
    },
}

/// A plugin under test.
pub trait Subject {
    /// The plugin.
    fn transform(&self) -> &dyn Transform;

    /// Drops its instances: the next batch meets a fresh one.
    fn drop_instances(&self);
}

impl Subject for super::WasmTransform {
    fn transform(&self) -> &dyn Transform {
        self
    }

    fn drop_instances(&self) {
        Self::drop_instances(self);
    }
}

/// How a run cuts its batches and treats instances.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Way {
    /// Records a batch; none for all at once.
    pub batch_records: Option<NonZeroUsize>,
    /// Each batch meets a fresh instance.
    pub fresh: bool,
}

impl Way {
    /// All of them. Reused instances come last and stay from one run to the next.
    pub fn all() -> impl Iterator<Item = Self> {
        let sizes = [None, NonZeroUsize::new(1), NonZeroUsize::new(7)];
        [true, false]
            .into_iter()
            .flat_map(move |fresh| sizes.into_iter().map(move |batch_records| Self { batch_records, fresh }))
    }
}

impl std::fmt::Display for Way {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&ways_text(&[*self]))
    }
}

/// What came of a case.
#[derive(Debug, Serialize)]
pub struct CaseReport {
    /// The case.
    pub name: String,
    /// Records of its input.
    pub records: usize,
    /// All is as expected.
    pub passed: bool,
    /// What is not.
    pub problems: Vec<Problem>,
}

/// Something about a case that is not as it should be.
#[derive(Debug, Serialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum Problem {
    /// The output is not as expected.
    Unexpected {
        /// In which run.
        way: Way,
        /// Where it differs.
        differences: Vec<Difference>,
    },
    /// Runs over the same records differ.
    HiddenState {
        /// The run that is compared with.
        first: Way,
        /// The runs that differ from it, all in the same way.
        others: Vec<Way>,
        /// Where; `expected` is what the first run gave.
        differences: Vec<Difference>,
    },
    /// Nothing is expected yet.
    NothingExpected,
    /// The plugin trapped or gave a batch back.
    Failed {
        /// In which runs.
        ways: Vec<Way>,
        /// What happened, with the guest's backtrace and last lines.
        message: String,
    },
}

/// Reads all cases of a plugin, in the order of their names.
///
/// # Errors
/// The first that cannot be read; where there is none.
pub fn read_all(plugin_dir: &Path) -> Result<Vec<Case>, CaseError> {
    let dir = plugin_dir.join("cases");
    let entries = match std::fs::read_dir(&dir) {
        Ok(entries) => entries,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Err(CaseError::None { dir }),
        Err(source) => return Err(CaseError::Io { path: dir, source }),
    };
    let mut dirs: Vec<PathBuf> = entries.flatten().map(|entry| entry.path()).filter(|path| path.is_dir()).collect();
    dirs.sort();
    if dirs.is_empty() {
        return Err(CaseError::None { dir });
    }
    dirs.into_iter().map(Case::read).collect()
}

/// Runs all cases of a plugin that are wanted, against an artifact, under the grants and limits of its own manifest.
///
/// # Errors
/// Where a case, the manifest or the artifact cannot be read, or the artifact cannot be loaded with a case's configuration.
pub fn run_all(
    runtime: &Arc<Runtime>,
    dir: &Path,
    artifact: &Path,
    wanted: impl Fn(&Case) -> bool,
    bless: bool,
) -> Result<Vec<CaseReport>, CaseError> {
    let manifest_file = dir.join("plugin.yaml");
    let manifest = if manifest_file.is_file() {
        config::manifest(&manifest_file, &ProcessEnvironment)?
    } else {
        Manifest::default()
    };
    let limits = manifest.limits.over(Limits::default());
    let bytes = std::fs::read(artifact).map_err(|source| CaseError::Io { path: artifact.to_owned(), source })?;
    let name = artifact.file_stem().map(|stem| stem.to_string_lossy().into_owned()).unwrap_or_default();
    let mut reports = Vec::new();
    for case in read_all(dir)?.iter().filter(|case| wanted(case)) {
        // The configuration is the case's own, and a plugin is configured once.
        let plugin = WasmTransform::from_bytes(runtime, &name, &bytes, &case.config, &manifest.grants, limits);
        let plugin = plugin.map_err(|error| CaseError::Load {
            artifact: artifact.to_owned(),
            case: case.name.clone(),
            error: Box::new(error),
        })?;
        let plugin = plugin.answered_by(case.answers());
        plugin.tell_first_words(&Mask::default());
        reports.push(case.run(&plugin, bless)?);
    }
    Ok(reports)
}

impl Case {
    fn read(dir: PathBuf) -> Result<Self, CaseError> {
        let config_file = dir.join("config.yaml");
        let config = if config_file.is_file() { config::json(&config_file, &ProcessEnvironment)? } else { Value::Null };
        let input = format::read_input(&dir.join("input.jsonl"))?;
        let expected_file = dir.join("expected.jsonl");
        let expected = if expected_file.is_file() { Some(format::read_expected(&expected_file)?) } else { None };
        let name = dir.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
        let answers = Answers::read(&dir.join("http.jsonl"))?;
        Ok(Self { name, dir, config, input, answers, expected })
    }

    /// Who answers the plugin's requests in it: nobody is asked outside of the process.
    #[must_use]
    pub fn answers(&self) -> Arc<dyn Outgoing> {
        Arc::new(self.answers.clone())
    }

    /// Its only record: offset, timestamp, key, value, headers.
    #[cfg(test)]
    pub(crate) fn read_for_test(dir: PathBuf) -> Result<RecordParts, CaseError> {
        let case = Self::read(dir)?;
        let record = case.input.into_iter().next().expect("one record");
        Ok((record.offset, record.timestamp_ms, record.key, record.value, record.headers))
    }

    /// Runs the case in every way. Where `bless` is set and all runs agree, what they gave becomes what is expected.
    ///
    /// # Errors
    /// Where `expected.jsonl` cannot be written.
    pub fn run(&self, subject: &dyn Subject, bless: bool) -> Result<CaseReport, CaseError> {
        let mut runs = Vec::new();
        let mut broken = Vec::new();
        for way in Way::all() {
            match run::run(&self.input, subject, way) {
                Ok(lines) => runs.push((way, lines)),
                Err(failed) => broken.push((way, failed)),
            }
        }
        let mut problems = broken::told_once(broken);
        if let Some(((first, lines), others)) = runs.split_first() {
            problems.extend(hidden_state((*first, lines), others));
            if bless && problems.is_empty() {
                self.bless(lines)?;
            } else if let Some(expected) = &self.expected {
                let differences = compare::with_expected(expected, lines);
                if !differences.is_empty() {
                    problems.insert(0, Problem::Unexpected { way: *first, differences });
                }
            } else if !bless {
                problems.push(Problem::NothingExpected);
            }
        }
        Ok(CaseReport { name: self.name.clone(), records: self.input.len(), passed: problems.is_empty(), problems })
    }

    fn bless(&self, lines: &[Value]) -> Result<(), CaseError> {
        let path = self.dir.join("expected.jsonl");
        format::write_expected(&path, lines).map_err(|source| CaseError::Io { path, source })
    }
}

/// What differs between runs, each difference once.
fn hidden_state((first, lines): (Way, &[Value]), others: &[(Way, Vec<Value>)]) -> Vec<Problem> {
    let mut found: Vec<(Vec<Way>, Vec<Difference>)> = Vec::new();
    for (way, other) in others {
        let differences = compare::between_runs(lines, other);
        match found.iter_mut().find(|(_, known)| *known == differences) {
            Some((ways, _)) => ways.push(*way),
            None if differences.is_empty() => {}
            None => found.push((vec![*way], differences)),
        }
    }
    found.into_iter().map(|(others, differences)| Problem::HiddenState { first, others, differences }).collect()
}

impl Problem {
    /// Whether another `expected.jsonl` would mend it.
    #[must_use]
    pub fn is_about_what_is_expected(&self) -> bool {
        matches!(self, Self::Unexpected { .. } | Self::NothingExpected)
    }
}

#[cfg(test)]
mod tests;
