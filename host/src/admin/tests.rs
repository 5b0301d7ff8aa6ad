//! The admin interface over real HTTP, with a supervisor that knows one pipeline.

use tokio::task::spawn_blocking;

use super::client::{AdminClient, ClientError};
use super::view::Ready;
use super::view::SeekRequest;
use super::*;
use crate::config::Mask;
use crate::pipeline::tap::{Sight, Tap, Wish};
use crate::status::reloads::{PipelineReload, ReloadAnswer, ReloadError, ReloadRequest, Word};
use crate::status::{Command, CommandAnswer, CommandError, Phase, PipelineState, PipelineStatus, SeekAnswer, SeekMove};
use crate::telemetry::Metric;

/// A server on a free port, with a supervisor that knows one pipeline, `orders`.
struct Server {
    client: AdminClient,
    board: StatusBoard,
    telemetry: Telemetry,
    taps: Taps,
    shutdown: CancellationToken,
    ended: tokio::task::JoinHandle<std::io::Result<()>>,
}

async fn server() -> Server {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let client = AdminClient::new(listener.local_addr().expect("a bound address"));
    let (board, telemetry, shutdown) = (StatusBoard::new(1), Telemetry::new(), CancellationToken::new());
    let (commands, mut asked) = Commands::channel();
    tokio::spawn(async move {
        while let Some(command) = asked.recv().await {
            let (pipeline, reply, state) = match command {
                Command::Pause { pipeline, reply } => (pipeline, reply, PipelineState::Paused),
                Command::Resume { pipeline, reply } => (pipeline, reply, PipelineState::Running),
                Command::Seek { pipeline, to, dry_run, reply } => {
                    let moved = SeekMove { topic: to.join(","), partition: 0, from: Some(7), to: 3, exact: true };
                    let moves = vec![moved];
                    reply.send(Ok(SeekAnswer { pipeline, dry_run, moves, elsewhere: Vec::new() })).ok();
                    continue;
                }
            };
            let known = vec!["orders".to_owned()];
            let answer = match pipeline.as_str() {
                "orders" => Ok(CommandAnswer { state, failed: None, in_flight: 7, committed: false }),
                "stuck" => Err(CommandError::Refused {
                    name: pipeline,
                    state: PipelineState::Stopped,
                    message: "its topic is gone".into(),
                }),
                _ => Err(CommandError::UnknownPipeline { name: pipeline, known }),
            };
            reply.send(answer).ok();
        }
    });
    let taps = Taps::default();
    taps.put("orders", &Tap::of_steps(Mask::default(), &["check", "shop"]));
    let shown = Shown { board: board.clone(), telemetry: telemetry.clone(), taps: taps.clone() };
    let (reloads, mut words) = Reloads::channel();
    tokio::spawn(async move {
        while let Some(word) = words.recv().await {
            match word {
                Word::Reload(request, reply) => reply.send(Ok(reloaded(&request))).ok(),
                Word::Rollback(name, reply) => reply.send(Err(ReloadError::NothingBefore(name))).ok(),
                Word::Generations(name, reply) => {
                    reply.send(Err(ReloadError::Unknown { name, known: "orders".to_owned() })).ok()
                }
            };
        }
    });
    let ways = Ways { commands, reloads };
    let ended = tokio::spawn(serve(listener, shown, ways, shutdown.clone()));
    Server { taps, client, board, telemetry, shutdown, ended }
}

fn reloaded(request: &ReloadRequest) -> ReloadAnswer {
    let name = request.what.clone().unwrap_or_default();
    let pipeline = PipelineReload { unchanged: !request.force, ..PipelineReload::of(&name, 7, Vec::new()) };
    ReloadAnswer { pipelines: vec![pipeline], settles_in_ms: 30_000, notes: Vec::new() }
}

#[tokio::test]
async fn a_reload_is_told_and_what_cannot_be_is_refused_in_words() {
    let server = server().await;
    let client = server.client.clone();
    let request = ReloadRequest { what: Some("orders".to_owned()), force: true, ..ReloadRequest::default() };
    let (answer, rollback, generations) =
        spawn_blocking(move || (client.reload(&request), client.rollback("orders"), client.generations("odrers")))
            .await
            .expect("it ends");
    let answer = answer.expect("it is known");
    assert_eq!((answer.pipelines[0].pipeline.as_str(), answer.pipelines[0].unchanged), ("orders", false));
    let words = rollback.expect_err("there is none").to_string();
    assert!(words.contains("no generation before this one"), "{words}");
    assert!(matches!(generations, Err(ClientError::NoSuchPipeline(_))), "{generations:?}");
}

/// Status code, content type and body of a plain GET.
async fn get_text(server: &Server, path: &'static str) -> (u16, String, String) {
    let url = format!("http://{}{path}", server.client.address());
    spawn_blocking(move || {
        let agent = ureq::Agent::config_builder().http_status_as_error(false).proxy(None).build().new_agent();
        let mut response = agent.get(url).call().expect("an answer");
        let kind = response.headers().get("content-type").and_then(|kind| kind.to_str().ok()).unwrap_or("").to_owned();
        (response.status().as_u16(), kind, response.body_mut().read_to_string().expect("text"))
    })
    .await
    .expect("the request ends")
}

#[tokio::test]
async fn a_seek_brings_its_places_and_its_answer() {
    let server = server().await;
    let client = server.client.clone();
    let wanted = SeekRequest { to: vec!["0:3".into(), "1:4".into()], dry_run: true };
    let answer = spawn_blocking(move || client.seek("orders", &wanted)).await.expect("it ends").expect("an answer");
    assert_eq!((answer.dry_run, answer.moves[0].topic.as_str()), (true, "0:3,1:4"));
    server.shutdown.cancel();
    server.ended.await.expect("no panic").expect("no error");
}

#[tokio::test]
async fn a_daemon_of_another_project_is_not_taken_for_that_of_this_one() {
    let dir = tempfile::tempdir().expect("a directory");
    let (mine, other) = (dir.path().join("mine"), dir.path().join("other"));
    std::fs::create_dir(&mine).expect("a directory");
    std::fs::create_dir(&other).expect("a directory");
    let server = server().await;
    let asks = |dir: std::path::PathBuf| {
        let client = server.client.clone().of_project(&dir);
        async { spawn_blocking(move || client.confirm_project()).await.expect("it ends") }
    };
    asks(other.clone()).await.expect("it has told of no project");
    let _ = server.board.clone().of_project(&mine);
    assert_eq!(server.board.read().project, Some(mine.canonicalize().expect("there").display().to_string()));
    asks(other.join("../mine")).await.expect("the same by another way");
    let refused = asks(other).await.expect_err("another project").to_string();
    assert!(refused.contains("/mine; give each its own"), "{refused}");
    assert!(refused.ends_with(&format!("--admin {}", server.client.address())), "{refused}");
    server.client.confirm_project().expect("who names an address means whoever is there");
    server.shutdown.cancel();
    server.ended.await.expect("no panic").expect("no error");
}

#[tokio::test]
async fn is_healthy_at_once_and_ready_when_its_pipelines_run() {
    let server = server().await;
    assert_eq!(get_text(&server, "/healthz").await.2, r#"{"status":"ok"}"#);
    let (code, _, body) = get_text(&server, "/readyz").await;
    let ready: Ready = serde_json::from_str(&body).expect("JSON");
    assert_eq!((code, ready.ready, ready.causes.as_slice()), (503, false, &["the process is starting".to_owned()][..]));

    let mut orders = PipelineStatus::starting("orders");
    orders.state = PipelineState::Running;
    server.board.publish(Phase::Running, vec![orders.clone()]);
    assert_eq!(get_text(&server, "/readyz").await.0, 200);

    orders.state = PipelineState::Stopped;
    orders.cause = Some("topic shop.orders is gone".into());
    server.board.publish(Phase::Running, vec![orders]);
    let (code, _, body) = get_text(&server, "/readyz").await;
    assert_eq!(code, 503);
    assert!(body.contains("pipeline orders: stopped: topic shop.orders is gone"), "{body}");
}

#[tokio::test]
async fn gives_metrics_as_prometheus_reads_them() {
    let server = server().await;
    server.telemetry.count(Metric::Pauses, &[("pipeline", "orders"), ("cause", "breaker")], 1);
    let (code, kind, body) = get_text(&server, "/metrics").await;
    assert_eq!((code, kind.as_str()), (200, crate::telemetry::EXPOSITION_TYPE));
    assert!(body.contains("\npelton_pauses_total{pipeline=\"orders\",cause=\"breaker\"} 1\n"), "{body}");
    assert!(body.contains("\npelton_memory_bytes{} "), "{body}");
}

#[tokio::test]
async fn the_client_reads_what_the_board_says() {
    let server = server().await;
    let mut orders = PipelineStatus::starting("orders");
    orders.cause = Some("Kafka at 127.0.0.1:1 cannot be reached".into());
    orders.dead_letters_total.insert("negative_amount".into(), 4);
    server.board.publish(Phase::Running, vec![orders]);
    let client = server.client.clone();
    let status = spawn_blocking(move || client.status()).await.expect("the request ends").expect("a status");
    assert_eq!(status, *server.board.read());
}

#[tokio::test]
async fn commands_reach_the_supervisor_and_refusals_the_caller() {
    let server = server().await;
    let client = server.client.clone();
    spawn_blocking(move || {
        let paused = client.pause("orders").expect("paused");
        assert_eq!((paused.state, paused.in_flight, paused.committed), (PipelineState::Paused, 7, false));
        assert_eq!(client.resume("orders").expect("resumed").state, PipelineState::Running);
        let unknown = client.pause("a/b ü").expect_err("no such pipeline").to_string();
        assert_eq!(unknown, "there is no pipeline `a/b ü`; there is orders");
        let refused = client.resume("stuck").expect_err("it is stopped").to_string();
        assert_eq!(refused, "pipeline `stuck` is stopped: its topic is gone");
    })
    .await
    .expect("all as expected");
}

#[tokio::test]
async fn a_page_of_another_origin_cannot_command() {
    let server = server().await;
    let url = format!("http://{}/pipelines/orders/pause", server.client.address());
    let own = format!("http://{}", server.client.address());
    spawn_blocking(move || {
        let agent = ureq::Agent::config_builder().http_status_as_error(false).proxy(None).build().new_agent();
        let code =
            |origin: &str| agent.post(&url).header("Origin", origin).send_empty().expect("an answer").status().as_u16();
        assert_eq!(code("https://example.org"), 403);
        assert_eq!(code("null"), 403);
        assert_eq!(code(&own), 200);
    })
    .await
    .expect("all as expected");
}

#[tokio::test]
async fn says_what_there_is_where_there_is_nothing() {
    let server = server().await;
    let (code, _, body) = get_text(&server, "/metric").await;
    assert_eq!((code, body.as_str()), (404, r#"{"error":"there is nothing at /metric; GET / lists what there is"}"#));
    let (code, _, body) = get_text(&server, "/pipelines/orders/pause").await;
    assert_eq!(code, 405, "{body}");
    let (code, _, index) = get_text(&server, "/").await;
    assert_eq!(code, 200);
    for path in ["/healthz", "/readyz", "/metrics", "/status", "/pipelines/{name}/pause", "/pipelines/{name}/resume"] {
        assert!(index.contains(&format!(" {path} ")), "{path} is not listed in {index}");
    }
}

#[tokio::test]
async fn ends_when_it_is_told_to_even_with_a_connection_open() {
    let server = server().await;
    let idle = tokio::net::TcpStream::connect(server.client.address()).await.expect("connects");
    server.shutdown.cancel();
    tokio::time::timeout(Duration::from_secs(10), server.ended).await.expect("in time").expect("no panic").expect("ok");
    drop(idle);
    let client = server.client.clone();
    let error = spawn_blocking(move || client.status()).await.expect("the request ends").expect_err("nobody there");
    assert!(matches!(error, ClientError::NoAnswer { .. }), "{error}");
    assert!(error.to_string().contains("pelton run"), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn live_records_are_handed_over_until_the_listener_goes() {
    let server = server().await;
    let tap = server.taps.of("orders").expect("a tap");
    let client = server.client.clone();
    let listening = spawn_blocking(move || {
        let mut seen: Vec<Sight> = Vec::new();
        let wish = Wish { payload: true, ..Wish::default() };
        let ended = client.tap("orders", &wish, |sight| {
            seen.push(sight);
            seen.len() < 3
        });
        ended.map(|()| seen)
    });
    let deadline = tokio::time::Instant::now() + Duration::from_secs(20);
    while !listening.is_finished() {
        tap.show_for_test(b"value");
        assert!(tokio::time::Instant::now() < deadline, "nobody listens");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    let seen = listening.await.expect("it ends").expect("sights");
    assert_eq!((seen.len(), seen[0].before.value.as_deref()), (3, Some("value")));
    // Whoever has gone costs nothing any more.
    while tap.is_on() {
        tap.show_for_test(b"value");
        assert!(tokio::time::Instant::now() < deadline, "the listener has gone");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    let client = server.client.clone();
    let refused = spawn_blocking(move || {
        let of_nobody = client.tap("clicks", &Wish::default(), |_| true);
        let too_much = client.tap("orders", &Wish { sample: 7.0, ..Wish::default() }, |_| true);
        (of_nobody, too_much, client.tap("orders", &Wish { step: Some(9), ..Wish::default() }, |_| true))
    });
    let (of_nobody, too_much, no_step) = refused.await.expect("it ends");
    assert!(
        matches!(&of_nobody, Err(ClientError::NoSuchPipeline(message)) if message.contains("clicks")),
        "{of_nobody:?}"
    );
    assert!(matches!(too_much, Err(ClientError::Unfit(message)) if message.contains("sample")));
    let words = "there is no step 9: the pipeline has 1 check, 2 shop";
    assert!(matches!(&no_step, Err(ClientError::Unfit(message)) if message == words), "{no_step:?}");
}
