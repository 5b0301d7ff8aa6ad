//! What the daemon tells over HTTP, and what it can be told.
//!
//! In: requests on `admin: listen` (loopback by default; there is no authentication). Out: health, readiness, metrics
//! and status from snapshots; pause, resume and seek as commands to the supervisor, reload and rollback to the reloader; live records from a pipeline's tap,
//! which waits for nobody. Never touches a task, never shows a secret, and a payload only to whoever taps and asks for
//! it. All JSON stands in [`view`] and [`crate::status`]; [`client`] is the other end, for the CLI.

pub mod client;
mod handlers;
pub mod view;

use std::time::Duration;

use axum::Router;
use axum::routing::{get, post};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use crate::pipeline::tap::Taps;
use crate::status::reloads::Reloads;
use crate::status::{Commands, StatusBoard};
use crate::telemetry::Telemetry;

/// How long requests under way may take after the shutdown began.
const GRACE: Duration = Duration::from_secs(1);

/// What can be looked at.
#[derive(Clone)]
pub struct Shown {
    /// What the process is doing.
    pub board: StatusBoard,
    /// What it counts.
    pub telemetry: Telemetry,
    /// Its live records.
    pub taps: Taps,
}

/// Who can be told something.
#[derive(Clone)]
pub struct Ways {
    /// The supervisor.
    pub commands: Commands,
    /// The one who replaces generations.
    pub reloads: Reloads,
}

/// What the handlers read and where they send.
#[derive(Clone)]
struct Shared {
    board: StatusBoard,
    telemetry: Telemetry,
    taps: Taps,
    commands: Commands,
    reloads: Reloads,
}

/// Serves until `shutdown`, then a little longer for requests under way.
///
/// # Errors
/// Where the listener fails.
pub async fn serve(
    listener: TcpListener,
    shown: Shown,
    ways: Ways,
    shutdown: CancellationToken,
) -> std::io::Result<()> {
    let Shown { board, telemetry, taps } = shown;
    let Ways { commands, reloads } = ways;
    let router = router(Shared { board, telemetry, taps, commands, reloads });
    let server = axum::serve(listener, router).with_graceful_shutdown(shutdown.clone().cancelled_owned());
    let grace = async {
        shutdown.cancelled().await;
        tokio::time::sleep(GRACE).await;
    };
    tokio::select! {
        served = server => served,
        () = grace => Ok(()),
    }
}

fn router(shared: Shared) -> Router {
    Router::new()
        .route("/", get(handlers::index))
        .route("/healthz", get(handlers::health))
        .route("/readyz", get(handlers::ready))
        .route("/metrics", get(handlers::metrics))
        .route("/status", get(handlers::status))
        .route("/pipelines/{name}/pause", post(handlers::pause))
        .route("/pipelines/{name}/resume", post(handlers::resume))
        .route("/pipelines/{name}/seek", post(handlers::seek))
        .route("/pipelines/{name}/tap", post(handlers::tap))
        .route("/reload", post(handlers::reload))
        .route("/pipelines/{name}/rollback", post(handlers::rollback))
        .route("/pipelines/{name}/generations", get(handlers::generations))
        .fallback(handlers::unknown)
        .method_not_allowed_fallback(handlers::wrong_method)
        .with_state(shared)
}

#[cfg(test)]
mod tests;
