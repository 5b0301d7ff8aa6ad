//! Which generations a pipeline has had, kept over restarts, with their artifacts.
//!
//! In: generations as they come, settle and go. Out: the same after a restart: who was live, which versions were rolled
//! back, and the bytes of each artifact. One file of JSON lines a pipeline, the last line about a generation holds;
//! artifacts stand beside it by their digests. What is older than the newest [`KEPT`] generations is forgotten, but for the
//! one that is live and the one before it.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File, OpenOptions};
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};

use crate::config::Step;
use crate::record::Digest;
use crate::status::reloads::{GenerationStatus, Stage};

/// Generations of a pipeline that are remembered.
pub(super) const KEPT: usize = 50;

/// The history of one project.
#[derive(Debug, Default)]
pub struct History {
    /// None where nothing can be kept.
    dir: Option<PathBuf>,
    pipelines: BTreeMap<String, BTreeMap<u64, GenerationStatus>>,
}

/// The history cannot be kept.
#[derive(Debug, thiserror::Error)]
#[error(
    "the history of generations cannot be kept in {path}: {source}. After a restart nobody knows what was rolled back; set \
     `reload: {{ history_dir: ... }}` to a directory that can be written to",
    path = path.display()
)]
pub struct HistoryError {
    path: PathBuf,
    source: io::Error,
}

impl History {
    /// Reads what stands in a directory, which is made where it is not there.
    ///
    /// # Errors
    /// Where it cannot be read or made.
    pub fn open(dir: &Path) -> Result<Self, HistoryError> {
        let failed = |source| HistoryError { path: dir.to_owned(), source };
        fs::create_dir_all(dir.join("artifacts")).map_err(failed)?;
        let mut pipelines = BTreeMap::new();
        for entry in fs::read_dir(dir).map_err(failed)?.flatten() {
            let path = entry.path();
            let Some(name) =
                path.file_name().and_then(|name| name.to_str()).and_then(|name| name.strip_suffix(".jsonl"))
            else {
                continue;
            };
            let text = fs::read_to_string(&path).map_err(failed)?;
            let mut generations = BTreeMap::new();
            for line in text.lines().filter(|line| !line.trim().is_empty()) {
                match serde_json::from_str::<GenerationStatus>(line) {
                    Ok(generation) => drop(generations.insert(generation.number, generation)),
                    // A process may have died in the middle of its last line.
                    Err(error) => {
                        tracing::warn!(file = %path.display(), "a line of the history is passed over: {error}")
                    }
                }
            }
            if !text.is_empty() && !text.ends_with('\n') {
                write_anew(&path, &lines_of(&generations)).map_err(failed)?;
            }
            pipelines.insert(name.to_owned(), generations);
        }
        Ok(Self { dir: Some(dir.to_owned()), pipelines })
    }

    /// What is remembered of a pipeline, the newest last.
    #[must_use]
    pub fn of(&self, pipeline: &str) -> Vec<GenerationStatus> {
        self.pipelines.get(pipeline).map(|all| all.values().cloned().collect()).unwrap_or_default()
    }

    /// The number of a generation that comes now.
    #[must_use]
    pub fn next(&self, pipeline: &str) -> u64 {
        let last = self.pipelines.get(pipeline).and_then(|all| all.last_key_value());
        last.map_or(1, |(number, _)| number + 1)
    }

    /// The generation that was live last.
    #[must_use]
    pub fn last_live(&self, pipeline: &str) -> Option<&GenerationStatus> {
        self.newest_live(pipeline).next()
    }

    /// Those that were live and not rolled back, the newest first.
    fn newest_live(&self, pipeline: &str) -> impl Iterator<Item = &GenerationStatus> {
        let is_live =
            |generation: &&GenerationStatus| matches!(generation.stage, Stage::Live | Stage::Settled | Stage::Replaced);
        let all = self.pipelines.get(pipeline).into_iter().flat_map(BTreeMap::values);
        let mut live: Vec<_> = all.filter(is_live).collect();
        // The one that somebody went back to has a later time than the one that was rolled back; of two at the same time
        // the one with the higher number is later.
        live.sort_by_key(|generation| std::cmp::Reverse((generation.at_ms, generation.number)));
        live.into_iter()
    }

    /// Why this version was rolled back, where its last word is that.
    #[must_use]
    pub fn rolled_back(&self, pipeline: &str, digests: &[String], configuration: &str) -> Option<&GenerationStatus> {
        let is_it = |generation: &&GenerationStatus| {
            generation.configuration == configuration
                && generation.plugins.iter().map(|plugin| &plugin.digest).eq(digests)
                && generation.stage != Stage::Refused
        };
        let last = self.pipelines.get(pipeline)?.values().filter(is_it).max_by_key(|generation| generation.at_ms)?;
        (last.stage == Stage::RolledBack).then_some(last)
    }

    /// Notes what a generation has become. It is on the disk when this returns.
    ///
    /// # Errors
    /// Where it cannot be written.
    pub fn note(&mut self, pipeline: &str, generation: GenerationStatus) -> Result<(), HistoryError> {
        let line = line_of(&generation);
        let all = self.pipelines.entry(pipeline.to_owned()).or_default();
        all.insert(generation.number, generation);
        let Some(dir) = &self.dir else { return Ok(()) };
        let path = dir.join(format!("{pipeline}.jsonl"));
        let failed = |source| HistoryError { path: path.clone(), source };
        if all.len() > KEPT {
            let live: BTreeSet<u64> = self.newest_live(pipeline).take(2).map(|generation| generation.number).collect();
            let all = self.pipelines.entry(pipeline.to_owned()).or_default();
            let oldest: Vec<u64> = all.keys().filter(|number| !live.contains(number)).copied().collect();
            for number in oldest.into_iter().take(all.len() - KEPT / 2) {
                all.remove(&number);
            }
            write_anew(&path, &lines_of(all)).map_err(failed)?;
            self.forget_artifacts().map_err(failed)?;
            return Ok(());
        }
        let mut file = OpenOptions::new().create(true).append(true).open(&path).map_err(failed)?;
        file.write_all(line.as_bytes()).and_then(|()| file.sync_data()).map_err(failed)
    }

    /// Keeps the artifact of a step.
    ///
    /// # Errors
    /// Where it cannot be read or written.
    pub fn keep(&self, step: &Step, digest: &Digest) -> Result<(), HistoryError> {
        let Some(path) = self.artifact(&digest.to_string()).filter(|path| !path.is_file()) else { return Ok(()) };
        let failed = |source| HistoryError { path: path.clone(), source };
        let bytes = fs::read(&step.artifact).map_err(failed)?;
        // It may have been replaced since it was loaded.
        if Digest::of(&bytes) != *digest {
            return Ok(());
        }
        let beside = path.with_extension("part");
        let mut file = File::create(&beside).map_err(failed)?;
        file.write_all(&bytes).and_then(|()| file.sync_data()).map_err(failed)?;
        fs::rename(&beside, &path).map_err(failed)
    }

    /// Where the artifact with this digest is kept.
    #[must_use]
    pub fn artifact(&self, digest: &str) -> Option<PathBuf> {
        let hex = digest.strip_prefix("sha256:").unwrap_or(digest);
        Some(self.dir.as_ref()?.join("artifacts").join(format!("{hex}.wasm")))
    }

    fn forget_artifacts(&self) -> io::Result<()> {
        let plugins = self.pipelines.values().flat_map(BTreeMap::values).flat_map(|generation| &generation.plugins);
        let kept: BTreeSet<PathBuf> = plugins.filter_map(|plugin| self.artifact(&plugin.digest)).collect();
        let Some(dir) = &self.dir else { return Ok(()) };
        for entry in fs::read_dir(dir.join("artifacts"))?.flatten() {
            if !kept.contains(&entry.path()) {
                fs::remove_file(entry.path())?;
            }
        }
        Ok(())
    }
}

fn line_of(generation: &GenerationStatus) -> String {
    serde_json::to_string(generation).expect("plain fields always encode") + "\n"
}

fn lines_of(generations: &BTreeMap<u64, GenerationStatus>) -> String {
    generations.values().map(line_of).collect()
}

fn write_anew(path: &Path, text: &str) -> io::Result<()> {
    let beside = path.with_extension("part");
    let mut file = File::create(&beside)?;
    file.write_all(text.as_bytes())?;
    file.sync_data()?;
    fs::rename(&beside, path)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::status::reloads::PluginVersion;

    fn generation(number: u64, digest: &str, stage: Stage, at_ms: i64) -> GenerationStatus {
        GenerationStatus {
            number,
            plugins: vec![PluginVersion { name: "shop".into(), digest: digest.into() }],
            configuration: "c".into(),
            stage,
            at_ms,
            trigger: "reload".into(),
            cause: None,
            shadow: None,
            handled: Vec::new(),
        }
    }

    #[test]
    fn what_was_live_and_what_was_rolled_back_is_known_after_a_restart() {
        let dir = tempfile::tempdir().expect("a directory");
        let mut history = History::open(dir.path()).expect("it is made");
        assert_eq!(history.next("orders"), 1);
        history.note("orders", generation(1, "a", Stage::Live, 1)).expect("written");
        history.note("orders", generation(2, "b", Stage::Live, 2)).expect("written");
        history.note("orders", generation(2, "b", Stage::RolledBack, 3)).expect("written");
        fs::OpenOptions::new()
            .append(true)
            .open(dir.path().join("orders.jsonl"))
            .and_then(|mut file| file.write_all(b"{\"number\":"))
            .expect("written");
        let history = History::open(dir.path()).expect("it is there");
        assert_eq!(history.next("orders"), 3);
        assert_eq!(history.last_live("orders").map(|generation| generation.number), Some(1));
        assert!(history.rolled_back("orders", &["b".into()], "c").is_some());
        assert!(history.rolled_back("orders", &["b".into()], "other").is_none());
        assert!(history.rolled_back("orders", &["a".into()], "c").is_none());
        assert_eq!(history.of("payments"), []);
    }

    #[test]
    fn the_one_that_is_live_is_never_forgotten_however_many_were_rolled_back() {
        let dir = tempfile::tempdir().expect("a directory");
        let mut history = History::open(dir.path()).expect("it is made");
        fs::write(history.artifact("good").expect("it is kept"), "wasm").expect("written");
        history.note("orders", generation(1, "good", Stage::Settled, 1)).expect("written");
        for number in 2..3 * KEPT as u64 {
            let at_ms = number as i64 * 10;
            let digest = format!("d{number}");
            history.note("orders", generation(number, &digest, Stage::Live, at_ms)).expect("written");
            history.note("orders", generation(number, &digest, Stage::RolledBack, at_ms + 1)).expect("written");
        }
        let history = History::open(dir.path()).expect("it is there");
        assert_eq!(history.last_live("orders").map(|generation| generation.number), Some(1));
        assert!(history.artifact("good").is_some_and(|artifact| artifact.is_file()));
        assert!(history.of("orders").len() <= KEPT);
    }

    #[test]
    fn the_oldest_are_forgotten_with_their_artifacts() {
        let dir = tempfile::tempdir().expect("a directory");
        let mut history = History::open(dir.path()).expect("it is made");
        for number in 1..=KEPT as u64 + 1 {
            let digest = format!("d{number}");
            fs::write(history.artifact(&digest).expect("it is kept"), "wasm").expect("written");
            history.note("orders", generation(number, &digest, Stage::Settled, number as i64)).expect("written");
        }
        let history = History::open(dir.path()).expect("it is there");
        assert_eq!((history.of("orders").len(), history.next("orders")), (KEPT / 2, KEPT as u64 + 2));
        let artifacts = fs::read_dir(dir.path().join("artifacts")).expect("it is there").count();
        assert_eq!(artifacts, KEPT / 2);
    }
}
