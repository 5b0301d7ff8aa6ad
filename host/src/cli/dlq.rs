//! `pelton dlq …`: dead letters, from the first look to the record's second way through the line.

use std::path::{Path, PathBuf};

use clap::Subcommand;

use super::{Failure, Outcome, dlq_case, dlq_export, dlq_list, dlq_redrive, dlq_show, is_no_project};
use crate::clock::{Clock as _, SystemClock};
use crate::config::{self, ProcessEnvironment};
use crate::daemon::StartError;
use crate::daemon::letters::{self, Letters, LettersError};
use crate::dead_letters::cases::Filter;
use crate::pipeline::SourceError;
use crate::shell;

#[derive(Debug, Subcommand)]
#[command(arg_required_else_help = true)]
pub(super) enum Verb {
    /// Print what lies there: how many, by code, plugin and version, and what is still open
    List(dlq_list::Args),
    /// Print one letter: why it failed, backtrace, last log lines; the record itself where asked
    Show(dlq_show::Args),
    /// Write letters as JSON lines: to look at, or to edit and hand to `redrive --file`
    Export(dlq_export::Args),
    /// Send records through their pipeline again, at their own write times
    Redrive(dlq_redrive::Args),
    /// Make a test case of a plugin out of a letter
    ToCase(dlq_case::Args),
}

pub(super) fn run(verb: Verb) -> Outcome {
    match verb {
        Verb::List(args) => dlq_list::run(&args),
        Verb::Show(args) => dlq_show::run(&args),
        Verb::Export(args) => dlq_export::run(&args),
        Verb::Redrive(args) => dlq_redrive::run(args),
        Verb::ToCase(args) => dlq_case::run(&args),
    }
}

/// Whose letters.
#[derive(Debug, clap::Args)]
pub(super) struct Whose {
    /// The project directory
    #[arg(default_value = ".", value_name = "DIR")]
    pub(super) dir: PathBuf,
    /// Of this pipeline [default: all]
    #[arg(long, value_name = "NAME")]
    pub(super) pipeline: Option<String>,
}

impl Whose {
    /// The places that are meant.
    pub(super) fn places(&self) -> Result<Vec<Letters>, Failure> {
        of_a_project(&self.dir)?;
        letters::places(&self.dir, &ProcessEnvironment, self.pipeline.as_deref()).map_err(failure)
    }

    /// The directory as a further command needs it.
    pub(super) fn shown_dir(&self) -> String {
        shell::project(&self.dir)
    }
}

/// A directory that is no project is a mistake of the command line, and nothing is left behind there.
pub(super) fn of_a_project(dir: &Path) -> Result<(), Failure> {
    if is_no_project(dir) {
        return Err(Failure::usage(format_args!(
            "there is no pelton.yaml in {}; name the project directory",
            dir.display()
        )));
    }
    Ok(())
}

/// Which letters.
#[derive(Debug, Clone, Default, clap::Args)]
pub(super) struct Which {
    /// Only with this code
    #[arg(long, value_name = "CODE")]
    code: Option<String>,
    /// Only those that this plugin failed
    #[arg(long, value_name = "NAME")]
    plugin: Option<String>,
    /// Only those that became dead letters since: a time (2026-01-01T00:00:00Z), or how long ago (2 h)
    #[arg(long, value_name = "TIME")]
    since: Option<String>,
}

impl Which {
    pub(super) fn is_empty(&self) -> bool {
        self.code.is_none() && self.plugin.is_none() && self.since.is_none()
    }

    pub(super) fn filter(&self, ids: &[String]) -> Result<Filter, Failure> {
        let since_ms = self.since.as_deref().map(|text| since_ms(text, SystemClock.now_ms())).transpose()?;
        Ok(Filter { ids: ids.to_vec(), code: self.code.clone(), plugin: self.plugin.clone(), since_ms })
    }
}

fn since_ms(text: &str, now_ms: i64) -> Result<i64, Failure> {
    let ago = text.trim().trim_end_matches("ago").trim();
    let ago_ms = config::duration(ago).and_then(|ago| i64::try_from(ago.as_millis()).ok());
    config::time_ms(text.trim()).or_else(|| Some(now_ms.saturating_sub(ago_ms?))).ok_or_else(|| {
        Failure::usage(format_args!("--since {text}: write a time (2026-01-01T00:00:00Z), or how long ago (2 h)"))
    })
}

/// Runs what asks brokers, and waits for no client that waits for an answer which will not come.
pub(super) fn block_on<T>(work: impl Future<Output = Result<T, Failure>>) -> Result<T, Failure> {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    let done = runtime.block_on(work);
    runtime.shutdown_background();
    done
}

/// Nobody there is a class of its own for scripts.
pub(super) fn failure(error: LettersError) -> Failure {
    match error {
        LettersError::Words(words) => Failure::usage(words),
        LettersError::Start(StartError::Unreachable(_)) | LettersError::Place(SourceError::Unreachable { .. }) => {
            Failure::unavailable(error)
        }
        _ => Failure::new(error),
    }
}

pub(super) fn unreadable(error: SourceError) -> Failure {
    failure(LettersError::Place(error))
}

/// An id without what all ids of letters end with.
pub(super) fn short_id(id: &str) -> &str {
    id.strip_suffix("/dead-letter").unwrap_or(id)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn since_is_a_time_or_how_long_ago() {
        assert_eq!(since_ms("2 h", 10_000_000).ok(), Some(2_800_000));
        assert_eq!(since_ms("2 h ago", 10_000_000).ok(), Some(2_800_000));
        assert_eq!(since_ms("1970-01-01T00:00:07Z", 10_000_000).ok(), Some(7_000));
        assert!(since_ms("yesterday", 0).is_err() && since_ms("", 0).is_err());
    }
}
