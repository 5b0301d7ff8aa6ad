//! Why a plugin cannot be loaded.

use std::fmt::Write as _;
use std::path::PathBuf;

use super::artifact::{ArtifactError, INTERFACE_VERSION};
use super::imports::Refusal;
use crate::pipeline::{LogLine, TrapKind};

/// Why a plugin cannot be loaded. The messages say what was found and what to do; whoever shows them adds the plugin's
/// name and the place where the pipeline names it.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    /// The file cannot be read.
    #[error("cannot read {}: {source}", path.display())]
    Read {
        /// Which file.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// The file is larger than any plugin.
    #[error("the file has {size} bytes, a plugin may have {max}")]
    TooLarge {
        /// Bytes found.
        size: u64,
        /// Bytes allowed.
        max: u64,
    },
    /// The file is no component.
    #[error(transparent)]
    Artifact(#[from] ArtifactError),
    /// A component of another world.
    #[error(
        "it is no transform: it exports {}, a transform exports `configure` and `process`; build it for the world \
         `pelton:plugin/transform`",
        listed(exports)
    )]
    WrongWorld {
        /// What it exports.
        exports: Vec<String>,
    },
    /// It imports more than it may.
    #[error("{0}")]
    Refused(Refusal),
    /// The names fit, the types do not.
    #[error(
        "its functions have other types than `pelton:plugin@{INTERFACE_VERSION}` ({message}); build it anew against the \
         interface of this host"
    )]
    Interface {
        /// Which one, as the linker says.
        message: String,
    },
    /// The compiler refused it.
    #[error("it does not compile: {message}")]
    Compile {
        /// What the compiler said.
        message: String,
    },
    /// Compiling it costs more than is set aside for that.
    #[error("its code cannot be compiled within limits: {message}")]
    TooCostly {
        /// Which limit.
        message: String,
    },
    /// It failed before its first batch.
    #[error("it failed while it started: {}", started(.kind, message, backtrace, logs))]
    Start {
        /// Which way.
        kind: TrapKind,
        /// What happened.
        message: String,
        /// The guest's backtrace, one frame a line.
        backtrace: String,
        /// What it logged before.
        logs: Vec<LogLine>,
    },
    /// Its `configure` said no.
    #[error("it refuses its configuration: {message}")]
    Config {
        /// Its own words.
        message: String,
    },
    /// What it wants to read and set makes no sense.
    #[error("its subscription is not valid: {}", problems.join("; "))]
    Subscription {
        /// Every mistake.
        problems: Vec<String>,
    },
    /// The engine has no room, or the machine was too busy.
    #[error("it cannot be started here: {message}")]
    Host {
        /// What is missing.
        message: String,
    },
}

/// Names of a guest's choosing: as many as a person reads.
fn listed(names: &[String]) -> String {
    const SHOWN: usize = 10;
    match names.get(..SHOWN) {
        Some(first) if names.len() > SHOWN => format!("{} and {} more", first.join(", "), names.len() - SHOWN),
        _ if names.is_empty() => "nothing".to_owned(),
        _ => names.join(", "),
    }
}

fn started(kind: &TrapKind, message: &str, backtrace: &str, logs: &[LogLine]) -> String {
    let mut text = format!("{kind}: {message}");
    for line in logs {
        let _ = write!(text, "\n  log: {}", line.message);
    }
    for frame in backtrace.lines() {
        let _ = write!(text, "\n  at {frame}");
    }
    text
}
