//! Every JSON body of the admin interface that is not the status itself ([`crate::status::ProcessStatus`]).

use serde::{Deserialize, Serialize};

use crate::status::PipelineState;

/// `GET /`
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Index {
    /// `pelton`
    pub name: String,
    /// Its version.
    pub version: String,
    /// What can be asked for, a line each.
    pub endpoints: Vec<String>,
}

/// `GET /healthz`
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Health {
    /// Always `ok`: a process that cannot say it does not answer.
    pub status: String,
}

/// `GET /readyz`: status 200 where ready, else 503.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ready {
    /// Whether the process does all its work.
    pub ready: bool,
    /// Why not.
    pub causes: Vec<String>,
}

/// `POST /pipelines/{name}/pause` and `resume`
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PipelineAnswer {
    /// The pipeline.
    pub pipeline: String,
    /// Its state now.
    pub state: PipelineState,
    /// Why it failed, where it was paused between two restarts: it is opened again by itself, and stands still then.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub failed: Option<String>,
    /// Records read and not yet durable or decided; after a pause: what was not finished within `drain`.
    pub in_flight: u64,
    /// Whether what is done is committed.
    pub committed: bool,
}

/// `POST /pipelines/{name}/seek`; the answer is a [`crate::status::SeekAnswer`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SeekRequest {
    /// Where to: one place for all partitions, or one for each that is meant.
    pub to: Vec<String>,
    /// Only say what would be moved.
    #[serde(default)]
    pub dry_run: bool,
}

/// Any request that failed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Problem {
    /// What was wrong, and what to do.
    pub error: String,
}
