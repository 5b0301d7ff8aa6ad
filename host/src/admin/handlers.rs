//! One function a route: from a snapshot to an answer, or from a request to a command.

use std::time::Duration;

use axum::Json;
use axum::body::Body;
use axum::extract::rejection::QueryRejection;
use axum::extract::{Path, Query, State};
use axum::http::{HeaderMap, Method, StatusCode, Uri, header};
use axum::response::{IntoResponse, Response};

use tokio::time::Instant;

use super::Shared;
use super::view::{Health, Index, PipelineAnswer, Problem, Ready, SeekRequest};
use crate::pipeline::tap::Wish;
use crate::status::reloads::{GenerationStatus, ReloadError, ReloadRequest, Stage};
use crate::status::{CommandAnswer, CommandError};
use crate::telemetry::EXPOSITION_TYPE;

/// How long a request that waits is held, and how often it is looked whether it need wait no longer.
const WAIT_MAX: Duration = Duration::from_secs(60);
const LOOK_EVERY: Duration = Duration::from_millis(100);

/// What there is, for people who look.
pub(super) const ENDPOINTS: [&str; 11] = [
    "GET  /healthz                    the process answers",
    "GET  /readyz                     the process does all its work; 503 and the causes where not",
    "GET  /metrics                    numbers for Prometheus",
    "GET  /status                     pipelines, partitions, lag, rates, dead letters",
    "POST /pipelines/{name}/pause     finish what is under way, commit, stand still",
    "POST /pipelines/{name}/resume    read on from the committed offsets",
    "POST /pipelines/{name}/seek      let a paused pipeline go on elsewhere: { \"to\": [\"0:100\"], \"dry_run\": false }",
    "POST /pipelines/{name}/tap       live records before and after each step, a JSON line each; ?step=1&sample=0.01&payload=true",
    "POST /reload                     take over files that have changed: { \"what\": \"orders\", \"force\": false }",
    "POST /pipelines/{name}/rollback  let the generation before be live again",
    "GET  /pipelines/{name}/generations  which generations there were, the newest last; ?after=7 waits until 7 is no longer new",
];

pub(super) async fn index() -> Json<Index> {
    Json(Index {
        name: "pelton".into(),
        version: env!("CARGO_PKG_VERSION").into(),
        endpoints: ENDPOINTS.map(str::to_owned).to_vec(),
    })
}

pub(super) async fn health() -> Json<Health> {
    Json(Health { status: "ok".into() })
}

pub(super) async fn ready(State(shared): State<Shared>) -> (StatusCode, Json<Ready>) {
    let causes = shared.board.read().unready_causes();
    let code = if causes.is_empty() { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    (code, Json(Ready { ready: causes.is_empty(), causes }))
}

pub(super) async fn metrics(State(shared): State<Shared>) -> Response {
    ([(header::CONTENT_TYPE, EXPOSITION_TYPE)], shared.telemetry.exposition()).into_response()
}

pub(super) async fn status(State(shared): State<Shared>) -> Response {
    Json(&*shared.board.read()).into_response()
}

pub(super) async fn pause(State(shared): State<Shared>, Path(name): Path<String>, headers: HeaderMap) -> Response {
    if let Some(refusal) = refuse_foreign_page(&headers) {
        return refusal;
    }
    answer(name.clone(), shared.commands.pause(&name).await)
}

pub(super) async fn resume(State(shared): State<Shared>, Path(name): Path<String>, headers: HeaderMap) -> Response {
    if let Some(refusal) = refuse_foreign_page(&headers) {
        return refusal;
    }
    answer(name.clone(), shared.commands.resume(&name).await)
}

pub(super) async fn seek(
    State(shared): State<Shared>,
    Path(name): Path<String>,
    headers: HeaderMap,
    Json(wanted): Json<SeekRequest>,
) -> Response {
    if let Some(refusal) = refuse_foreign_page(&headers) {
        return refusal;
    }
    match shared.commands.seek(&name, wanted.to, wanted.dry_run).await {
        Ok(answer) => Json(answer).into_response(),
        Err(error) => refused(&error),
    }
}

/// A stream of lines that ends when the client goes. Sizes and outcomes; keys and values only where they are asked for.
pub(super) async fn tap(
    State(shared): State<Shared>,
    Path(name): Path<String>,
    wish: Result<Query<Wish>, QueryRejection>,
    headers: HeaderMap,
) -> Response {
    if let Some(refusal) = refuse_foreign_page(&headers) {
        return refusal;
    }
    let wish = match wish {
        Ok(Query(wish)) => wish,
        Err(error) => return problem(StatusCode::BAD_REQUEST, error.body_text()),
    };
    let Some(tap) = shared.taps.of(&name) else {
        return problem(StatusCode::NOT_FOUND, format!("no pipeline `{name}` runs here; GET /status lists what does"));
    };
    let sights = match tap.listen(wish) {
        Ok(sights) => sights,
        Err(error) => return problem(StatusCode::BAD_REQUEST, error.to_string()),
    };
    let lines = futures::stream::unfold(sights, |mut sights| async move {
        let mut line = serde_json::to_vec(&sights.recv().await?).ok()?;
        line.push(b'\n');
        Some((Ok::<_, std::convert::Infallible>(line), sights))
    });
    ([(header::CONTENT_TYPE, "application/x-ndjson")], Body::from_stream(lines)).into_response()
}

/// Answers when every pipeline that is meant has gone live with what has changed, or was refused.
pub(super) async fn reload(
    State(shared): State<Shared>,
    headers: HeaderMap,
    Json(request): Json<ReloadRequest>,
) -> Response {
    if let Some(refusal) = refuse_foreign_page(&headers) {
        return refusal;
    }
    reloaded(shared.reloads.reload(request).await)
}

pub(super) async fn rollback(State(shared): State<Shared>, Path(name): Path<String>, headers: HeaderMap) -> Response {
    if let Some(refusal) = refuse_foreign_page(&headers) {
        return refusal;
    }
    reloaded(shared.reloads.rollback(&name).await)
}

/// With `?after=N` it answers once generation N is no longer new, or after [`WAIT_MAX`].
pub(super) async fn generations(
    State(shared): State<Shared>,
    Path(name): Path<String>,
    Query(after): Query<After>,
) -> Response {
    let until = Instant::now() + WAIT_MAX;
    loop {
        let answer = shared.reloads.generations(&name).await;
        let is_new =
            |generation: &GenerationStatus| Some(generation.number) == after.after && generation.stage == Stage::Live;
        let is_waited_for = answer.as_ref().is_ok_and(|all| all.iter().any(is_new));
        if !is_waited_for || Instant::now() >= until {
            return reloaded(answer);
        }
        tokio::time::sleep(LOOK_EVERY).await;
    }
}

/// What somebody waits for.
#[derive(serde::Deserialize)]
pub(super) struct After {
    after: Option<u64>,
}

fn reloaded(result: Result<impl serde::Serialize, ReloadError>) -> Response {
    let error = match result {
        Ok(answer) => return Json(answer).into_response(),
        Err(error) => error,
    };
    let code = match error {
        ReloadError::Unknown { .. } => StatusCode::NOT_FOUND,
        ReloadError::NothingBefore(_) => StatusCode::CONFLICT,
        ReloadError::ShuttingDown => StatusCode::SERVICE_UNAVAILABLE,
    };
    problem(code, error.to_string())
}

pub(super) async fn unknown(uri: Uri) -> Response {
    let error = format!("there is nothing at {}; GET / lists what there is", uri.path());
    problem(StatusCode::NOT_FOUND, error)
}

pub(super) async fn wrong_method(method: Method, uri: Uri) -> Response {
    let error = format!("{} does not take {method}; GET / lists what there is", uri.path());
    problem(StatusCode::METHOD_NOT_ALLOWED, error)
}

fn answer(pipeline: String, result: Result<CommandAnswer, CommandError>) -> Response {
    match result {
        Ok(CommandAnswer { state, failed, in_flight, committed }) => {
            Json(PipelineAnswer { pipeline, state, failed, in_flight, committed }).into_response()
        }
        Err(error) => refused(&error),
    }
}

fn refused(error: &CommandError) -> Response {
    let code = match error {
        CommandError::UnknownPipeline { .. } => StatusCode::NOT_FOUND,
        CommandError::Refused { .. } => StatusCode::CONFLICT,
        CommandError::Words(_) => StatusCode::BAD_REQUEST,
        CommandError::Failed(_) => StatusCode::BAD_GATEWAY,
        CommandError::ShuttingDown => StatusCode::SERVICE_UNAVAILABLE,
    };
    problem(code, error.to_string())
}

/// A web page of somebody else, open in a browser on this machine, can send a POST here. Browsers name the page's
/// origin; tools name none.
fn refuse_foreign_page(headers: &HeaderMap) -> Option<Response> {
    let origin = headers.get(header::ORIGIN)?;
    let host = headers.get(header::HOST).and_then(|host| host.to_str().ok()).unwrap_or_default();
    let own = origin.to_str().ok().and_then(|origin| origin.split_once("://")).is_some_and(|(_, at)| at == host);
    (!own).then(|| problem(StatusCode::FORBIDDEN, "commands from a page of another origin are refused".to_owned()))
}

fn problem(code: StatusCode, error: String) -> Response {
    (code, Json(Problem { error })).into_response()
}
