//! Generations of pipelines as plain data, and the words to the one who replaces them.
//!
//! In: what somebody asks for. Out: what became of it. Replaces nothing: that is [`crate::reload`]'s.

use serde::{Deserialize, Serialize};
use tokio::sync::{mpsc, oneshot};

use crate::pipeline::shadow::Differences;

/// How far a candidate is.
///
/// ```text
///  fetched ─► compiled ─► linked ─► cases passed ─► smoke call ─► (shadow) ─► live ─► settled
///     └───────────┴──────────┴───────────┴──────────────┴────────────┴─► refused ├─► rolled back
///                                                                                └─► replaced
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Stage {
    /// Its files are read and have digests.
    Fetched,
    /// Its code is compiled, or was in the cache.
    Compiled,
    /// It asks for no more than it is granted, takes its configuration, and fits its outputs.
    Linked,
    /// Its plugins' own cases give what they expect.
    CasesPassed,
    /// It answers a call.
    SmokeCalled,
    /// It has run beside the live one, where that was asked for.
    Shadowed,
    /// It handles what is read from now on; the one before is kept warm.
    Live,
    /// It has done as well as the one before for long enough.
    Settled,
    /// Another has taken its place before that could be said.
    Replaced,
    /// It has not: the one before is live again.
    RolledBack,
    /// It never went live.
    Refused,
}

impl std::fmt::Display for Stage {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.pad(match self {
            Self::Fetched => "fetched",
            Self::Compiled => "compiled",
            Self::Linked => "linked, grants checked",
            Self::CasesPassed => "cases passed",
            Self::SmokeCalled => "smoke call",
            Self::Shadowed => "shadow",
            Self::Live => "live",
            Self::Settled => "settled",
            Self::Replaced => "replaced",
            Self::RolledBack => "rolled back",
            Self::Refused => "refused",
        })
    }
}

/// A stage that was reached.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Reached {
    /// Which.
    pub stage: Stage,
    /// How long it took, milliseconds.
    pub took_ms: u64,
    /// More about it.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub note: String,
}

/// A plugin of a generation.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PluginVersion {
    /// Its name.
    pub name: String,
    /// The digest of its artifact, whole.
    pub digest: String,
}

/// A generation of a pipeline, and what became of it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct GenerationStatus {
    /// Each generation of a pipeline has a higher one, over restarts.
    pub number: u64,
    /// Its plugins, in the order of steps.
    pub plugins: Vec<PluginVersion>,
    /// Short digest of the pipeline's configuration.
    pub configuration: String,
    /// How far it is.
    pub stage: Stage,
    /// Since when, milliseconds since the Unix epoch.
    pub at_ms: i64,
    /// What asked for it: `start`, `watch`, `reload`, `rollback`.
    pub trigger: String,
    /// Why it was refused, or rolled back.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cause: Option<String>,
    /// What its shadow run found, without values.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub shadow: Option<Differences>,
    /// What a generation that was rolled back had handled, by partition: `topic/0:100-200`, the last offset included.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub handled: Vec<String>,
}

/// What became of a pipeline in a reload.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct PipelineReload {
    /// The pipeline.
    pub pipeline: String,
    /// The generation that is live now.
    pub live: u64,
    /// Nothing of it had changed.
    pub unchanged: bool,
    /// The stages that the candidate went through.
    pub stages: Vec<Reached>,
    /// What it would make otherwise, where it ran beside the live one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub differences: Option<Differences>,
    /// Why the candidate is not live.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub refused: Vec<String>,
}

impl PipelineReload {
    /// A pipeline whose candidate went through these stages.
    #[must_use]
    pub fn of(pipeline: &str, live: u64, stages: Vec<Reached>) -> Self {
        let pipeline = pipeline.to_owned();
        Self { pipeline, live, unchanged: false, stages, differences: None, refused: Vec::new() }
    }
}

/// What became of a reload.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct ReloadAnswer {
    /// Each pipeline that was meant.
    pub pipelines: Vec<PipelineReload>,
    /// How long a generation that went live is watched, milliseconds.
    pub settles_in_ms: u64,
    /// What else is to be known of the files: warnings, and what only a restart takes over.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub notes: Vec<String>,
}

/// What somebody asks for.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ReloadRequest {
    /// Only pipelines with this plugin, or of this name; all where none is named.
    pub what: Option<String>,
    /// Even a version that was rolled back before.
    pub force: bool,
    /// Without being held against the one before: it is slower or stricter on purpose.
    pub trust: bool,
    /// Let it run beside the live one over so many records first.
    pub shadow: Option<u64>,
    /// Stop before it goes live.
    pub dry_run: bool,
}

/// Why nothing was done.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ReloadError {
    /// Nothing has such a name.
    #[error("nothing here is called `{name}`; there is {known}")]
    Unknown {
        /// What was asked for.
        name: String,
        /// What there is.
        known: String,
    },
    /// There is nothing to go back to.
    #[error("pipeline `{0}` has no generation before this one to go back to")]
    NothingBefore(String),
    /// The process ends.
    #[error("the process is shutting down")]
    ShuttingDown,
}

/// Where an answer goes.
type Reply<T> = oneshot::Sender<Result<T, ReloadError>>;

/// What the reloader is told.
pub(crate) enum Word {
    Reload(ReloadRequest, Reply<ReloadAnswer>),
    Rollback(String, Reply<PipelineReload>),
    Generations(String, Reply<Vec<GenerationStatus>>),
}

/// Tells the reloader. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Reloads(mpsc::Sender<Word>);

impl Reloads {
    /// A way to tell it, and its own end.
    pub(crate) fn channel() -> (Self, mpsc::Receiver<Word>) {
        let (words, received) = mpsc::channel(16);
        (Self(words), received)
    }

    /// Loads what has changed in the project's files; answers when it is live, or refused.
    ///
    /// # Errors
    /// Where nothing has such a name, or the process ends.
    pub async fn reload(&self, request: ReloadRequest) -> Result<ReloadAnswer, ReloadError> {
        self.ask(|reply| Word::Reload(request, reply)).await
    }

    /// Lets the generation before be live again.
    ///
    /// # Errors
    /// Where there is none, or the process ends.
    pub async fn rollback(&self, pipeline: &str) -> Result<PipelineReload, ReloadError> {
        self.ask(|reply| Word::Rollback(pipeline.to_owned(), reply)).await
    }

    /// All generations of a pipeline that are remembered, the newest last.
    ///
    /// # Errors
    /// Where there is no such pipeline, or the process ends.
    pub async fn generations(&self, pipeline: &str) -> Result<Vec<GenerationStatus>, ReloadError> {
        self.ask(|reply| Word::Generations(pipeline.to_owned(), reply)).await
    }

    async fn ask<T>(&self, word: impl FnOnce(Reply<T>) -> Word) -> Result<T, ReloadError> {
        let (reply, answer) = oneshot::channel();
        self.0.send(word(reply)).await.map_err(|_| ReloadError::ShuttingDown)?;
        answer.await.map_err(|_| ReloadError::ShuttingDown)?
    }
}
