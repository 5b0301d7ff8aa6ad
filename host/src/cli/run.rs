//! `pelton run`: the daemon in the foreground.

use std::path::PathBuf;

use tokio::signal::unix::{SignalKind, signal};

use super::{Exit, Failure, Outcome, is_no_project};
use crate::config::ProcessEnvironment;
use crate::daemon::{Daemon, Ready, StartError};
use crate::telemetry;

/// Run the pipelines of a project until SIGTERM or SIGINT
///
/// Checks the project whole before anything runs, as `pelton check` does. On SIGTERM or SIGINT it stops reading,
/// finishes what it began, commits and leaves its groups, all within the project's `drain`. What is not done by then is
/// given up, and repeated at the next start. A second signal ends it at once, with exit code 4; that loses nothing
/// either.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// The project directory
    #[arg(default_value = ".")]
    dir: PathBuf,
}

pub(super) fn run(args: Args) -> Outcome {
    let ready = Ready::read(&args.dir, &ProcessEnvironment, telemetry::init_logging).map_err(|error| match error {
        StartError::Config(errors) if is_no_project(&args.dir) => Failure::usage(errors),
        error => failure(error),
    })?;
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().map_err(Failure::new)?;
    let outcome = runtime.block_on(serve(ready));
    // What has not ended within its time (a client that waits for a broker) is not waited for.
    runtime.shutdown_background();
    outcome
}

async fn serve(ready: Ready) -> Outcome {
    let mut terminate = signal(SignalKind::terminate()).map_err(Failure::new)?;
    let mut interrupt = signal(SignalKind::interrupt()).map_err(Failure::new)?;
    let daemon = tokio::select! {
        daemon = Daemon::start(ready) => daemon.map_err(failure)?,
        _ = terminate.recv() => return Ok(Exit::Success),
        _ = interrupt.recv() => return Ok(Exit::Success),
    };
    tracing::info!(admin = %daemon.admin(), "running");
    tokio::select! {
        _ = terminate.recv() => tracing::info!("SIGTERM: draining; once more to end at once"),
        _ = interrupt.recv() => tracing::info!("SIGINT: draining; once more to end at once"),
    }
    tokio::select! {
        is_clean = daemon.shut_down() => {
            let how = if is_clean { "all that was begun is committed" } else { "what was under way will be repeated" };
            tracing::info!("ended: {how}");
            return Ok(Exit::Success);
        }
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
    }
    tracing::warn!("ended at once; what was under way will be repeated");
    Ok(Exit::AtOnce)
}

fn failure(error: StartError) -> Failure {
    match error {
        StartError::Unreachable { .. } => Failure::unavailable(error),
        _ => Failure::new(error),
    }
}
