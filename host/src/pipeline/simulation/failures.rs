//! Plugins that fail on everything, and sinks that refuse: what is held, what is told, and that it ends.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use super::*;
use crate::pipeline::{TransformError, TransformInput, TransformOutput};
use crate::record::{Offset, SinkBatch};
use crate::status::{Phase, PipelineStatus};

const DRAIN: Duration = Duration::from_secs(5);

fn status(daemon: &Daemon) -> Option<PipelineStatus> {
    daemon.board.read().pipelines.first().cloned()
}

async fn paused(daemon: &Daemon) -> String {
    eventually("the pipeline is paused", || status(daemon).is_some_and(|p| p.state == PipelineState::Paused)).await;
    status(daemon).and_then(|pipeline| pipeline.cause).unwrap_or_default()
}

fn committed(world: &World) -> i64 {
    world.group.committed(&world.partitions()[0]).map_or(0, |position| position.next.0)
}

fn append_numbers(world: &World, numbers: impl IntoIterator<Item = i64>) {
    for n in numbers {
        world.append(0, NOW_MS, "k", &format!(r#"{{"id":"k{n}","n":{n}}}"#));
    }
}

fn breaker(records: u64) -> Option<config::Breaker> {
    Some(config::Breaker { percent: 50.0, records, within: Duration::from_secs(60) })
}

/// A plugin that traps on everything, each time only when it is let.
struct Stuck {
    subscription: Subscription,
    calls: AtomicU64,
    permits: crossbeam_channel::Receiver<()>,
}

impl Transform for Stuck {
    fn name(&self) -> &'static str {
        "stuck"
    }

    fn digest(&self) -> Digest {
        Digest::of(b"stuck")
    }

    fn subscription(&self) -> &Subscription {
        &self.subscription
    }

    fn apply(&self, _: &TransformInput<'_>) -> Result<TransformOutput, TransformError> {
        self.calls.fetch_add(1, Ordering::SeqCst);
        let _ = self.permits.recv();
        Err(TransformError::Trap {
            kind: TrapKind::CpuLimit,
            message: "it used all of its time".into(),
            backtrace: String::new(),
            logs: Vec::new(),
            cpu_ns: 1_000,
        })
    }

    fn apply_fresh(&self, input: &TransformInput<'_>) -> Result<TransformOutput, TransformError> {
        self.apply(input)
    }
}

#[tokio::test]
async fn a_plugin_that_traps_on_everything_meets_the_breaker_before_its_batch_is_done() {
    let mut world = World::new(1);
    world.errors.breaker = breaker(3);
    append_numbers(&world, 1..=16);
    let plugin = Arc::new(doubler().trap_on(b"", TrapKind::CpuLimit));
    let daemon = world.start_with(&[Arc::clone(&plugin) as Arc<dyn Transform>], DRAIN);
    let cause = paused(&daemon).await;
    assert!(cause.starts_with("3 of 3 records (100.0 %) failed"), "{cause}");
    assert!(cause.contains("plugin.cpu_limit"), "{cause}");
    assert!(plugin.calls() < 16, "{} calls for 3 records", plugin.calls());
    assert!(daemon.stop().await);
    assert!(committed(&world) <= 2);
}

#[tokio::test]
async fn a_stop_does_not_wait_for_the_rest_of_a_batch_that_traps() {
    let world = World::new(1);
    append_numbers(&world, 1..=16);
    let (permit, permits) = crossbeam_channel::unbounded();
    let plugin = Arc::new(Stuck { subscription: Subscription::default(), calls: AtomicU64::new(0), permits });
    let daemon = world.start_with(&[Arc::clone(&plugin) as Arc<dyn Transform>], DRAIN);
    // Both tries of the whole batch trap, and then a part of it is under way.
    permit.send(()).unwrap();
    permit.send(()).unwrap();
    eventually("a part is under way", || plugin.calls.load(Ordering::SeqCst) == 3).await;
    daemon.shutdown.cancel();
    let board = daemon.board.clone();
    eventually("it is draining", || board.read().phase == Phase::Draining).await;
    let mut stopping = std::pin::pin!(daemon.stop());
    let is_clean = loop {
        tokio::select! {
            is_clean = &mut stopping => break is_clean,
            () = tokio::time::sleep(Duration::from_millis(5)) => permit.send(()).unwrap(),
        }
    };
    assert!(is_clean);
    assert!(plugin.calls.load(Ordering::SeqCst) < 16, "{:?} calls", plugin.calls);
    assert_eq!(committed(&world), 0, "what was not handled comes again");
}

/// Refuses the rows of these offsets until it is told that the table was mended.
fn refuse(sink: &MemorySink, offsets: std::ops::Range<i64>) -> Arc<AtomicBool> {
    let mended = Arc::new(AtomicBool::new(false));
    let is_mended = Arc::clone(&mended);
    sink.refuse_when(move |batch: &SinkBatch, row| {
        let is_refused = offsets.contains(&batch.rows[row].offset.0) && !is_mended.load(Ordering::SeqCst);
        is_refused.then(|| ("sink.bad_value".into(), "column n: found a number, wanted a text".into()))
    });
    mended
}

#[tokio::test]
async fn a_row_that_its_sink_refuses_stops_the_pipeline_until_it_can_be_written() {
    let mut world = World::new(1);
    world.errors.poison = Poison::Stop;
    append_numbers(&world, [1, 2, 3]);
    let mended = refuse(&world.table, 1..2);
    let daemon = world.start(vec![doubler()], DRAIN);
    let cause = paused(&daemon).await;
    assert!(cause.contains("record events/0/1 failed at sink:default: sink.bad_value"), "{cause}");
    eventually("what stands before it is committed", || committed(&world) == 1).await;
    assert_eq!(world.letters.letters(), []);

    daemon.commands.resume("events").await.unwrap();
    assert_eq!(paused(&daemon).await, cause, "nothing was mended");
    assert_eq!((committed(&world), world.letters.letters()), (1, vec![]));

    mended.store(true, Ordering::SeqCst);
    daemon.commands.resume("events").await.unwrap();
    eventually("the end is committed", || world.is_done()).await;
    assert!(daemon.stop().await);
    assert_eq!(world.written(), world.expected());
    assert_eq!(world.letters.letters(), []);
}

#[tokio::test]
async fn what_a_sink_refused_and_nobody_resumed_comes_again_after_a_stop() {
    let mut world = World::new(1);
    world.errors.poison = Poison::Stop;
    append_numbers(&world, 1..=40);
    let mended = refuse(&world.table, 5..40);
    let daemon = world.start(vec![doubler()], DRAIN);
    paused(&daemon).await;
    assert!(daemon.stop().await, "what is held does not hold the drain up");
    assert_eq!((committed(&world), world.letters.letters()), (5, vec![]));

    mended.store(true, Ordering::SeqCst);
    let daemon = world.start(vec![doubler()], DRAIN);
    eventually("the end is committed", || world.is_done()).await;
    assert!(daemon.stop().await);
    assert_eq!(world.written(), world.expected());
    assert_eq!(world.group.violations(), Vec::<String>::new());
}

#[tokio::test]
async fn a_sink_that_refuses_everything_meets_the_breaker() {
    let mut world = World::new(1);
    world.errors.breaker = breaker(10);
    append_numbers(&world, 1..=16);
    refuse(&world.table, 0..1000);
    let daemon = world.start(vec![doubler()], DRAIN);
    let cause = paused(&daemon).await;
    assert!(cause.starts_with("16 of 16 records (100.0 %) failed"), "{cause}");
    assert!(cause.contains("sink.bad_value: column n"), "{cause}");
    assert_eq!((committed(&world), world.letters.letters()), (0, vec![]));

    daemon.commands.resume("events").await.unwrap();
    eventually("what was held went through", || world.is_done()).await;
    assert!(daemon.stop().await);
    assert_eq!(world.letters.letters().len(), 16);
}

#[tokio::test]
async fn a_record_has_one_dead_letter_whoever_refuses_it() {
    let world = World::new(1);
    append_numbers(&world, [100, 7]);
    refuse(&world.table, 0..2);
    world.alerts.refuse_when(|batch: &SinkBatch, row| {
        (batch.rows[row].offset == Offset(0)).then(|| ("sink.too_large".into(), "too large".into()))
    });
    let daemon = world.start(vec![doubler()], DRAIN);
    eventually("the end is committed", || world.is_done()).await;
    assert!(daemon.stop().await);
    let letters: Vec<_> = world.letters.letters().into_iter().map(|letter| (letter.id, letter.code)).collect();
    assert_eq!(
        letters,
        [
            ("events/0/0/dead-letter".to_owned(), "sink.bad_value".to_owned()),
            ("events/0/1/dead-letter".to_owned(), "sink.bad_value".to_owned()),
        ]
    );
}

#[tokio::test]
async fn what_was_logged_in_failed_attempts_goes_with_the_dead_letter() {
    let mut world = World::new(1);
    world.errors.retry_attempts = 2;
    append_numbers(&world, 1..=5);
    let plugin = doubler().talkative().trap_on(br#""n":3}"#, TrapKind::Trap).retry_on(
        br#""n":5}"#,
        u64::MAX,
        Duration::from_millis(1),
    );
    let daemon = world.start(vec![plugin], DRAIN);
    eventually("the end is committed", || world.is_done()).await;
    assert!(daemon.stop().await);
    let letters = world.letters.letters();
    let lines = |at: usize| letters[at].logs.iter().map(|line| line.message.as_str()).collect::<Vec<_>>();
    assert_eq!(
        (letters.len(), letters[0].code.as_str(), letters[1].code.as_str()),
        (2, "plugin.trap", "asked_to_retry")
    );
    let attempts = letters[0].attempts;
    assert!(attempts > 2, "with others twice, then in smaller parts: {attempts}");
    assert_eq!(lines(0), [format!("attempt {attempts}, doubler: doubler saw offset 2")]);
    assert_eq!(lines(1), ["attempt 1, doubler: doubler saw offset 4", "attempt 2, doubler: doubler saw offset 4"]);
}

#[tokio::test]
async fn the_status_names_the_record_that_holds_its_partition_and_why() {
    let world = World::new(1);
    append_numbers(&world, [1, 2]);
    let daemon = world.start(vec![doubler().busy_on(br#""n":2}"#, 2)], DRAIN);
    let held = || status(&daemon).and_then(|p| p.partitions.first().and_then(|partition| partition.held.clone()));
    eventually("the record is held", || held().is_some()).await;
    let record = held().unwrap();
    assert_eq!((record.offset, record.cause.as_str()), (0, "doubler: asked to at offset 1"));
    assert!(record.again_in_ms <= 1_000);
    eventually("the end is committed", || world.is_done()).await;
    eventually("nothing is held", || held().is_none()).await;
    assert!(daemon.stop().await);
}

const TOKEN: &str = "abc123-and-more";

/// Calls a service with a secret, and says so wherever a plugin can.
fn tells_its_token() -> MemoryTransform {
    MemoryTransform::new("caller", doubler().subscription().clone(), |_| {
        Step::Fail(FailureKind::Reject, "call_failed".into(), format!("call with {TOKEN} failed"))
    })
    .says(&format!("calling with {TOKEN}"))
    .trap_on(b"\"n\":2", TrapKind::Trap)
    .retry_on(b"\"n\":3", 1, Duration::from_millis(50))
}

#[tokio::test]
async fn a_secret_that_a_plugin_repeats_shows_neither_in_dead_letters_nor_in_the_status() {
    let mut world = World::new(1);
    world.mask = config::Mask::of([TOKEN]);
    append_numbers(&world, 1..=3);
    let daemon = world.start(vec![tells_its_token()], DRAIN);
    eventually("the end is committed", || world.is_done()).await;
    assert!(daemon.stop().await);
    let letters = world.letters.letters();
    assert_eq!(letters.len(), 3);
    for letter in &letters {
        let said = format!("{} {} {:?} {:?}", letter.code, letter.message, letter.backtrace, letter.logs);
        assert!(!said.contains("abc123"), "{said}");
    }
    assert!(letters.iter().any(|letter| letter.message == "call with *** failed"), "{letters:?}");
    assert!(
        letters.iter().any(|letter| letter.logs.iter().any(|line| line.message.contains("with ***"))),
        "{letters:?}"
    );
}

#[tokio::test]
async fn a_secret_does_not_show_in_the_cause_of_a_pause() {
    let mut world = World::new(1);
    world.mask = config::Mask::of([TOKEN]);
    world.errors.breaker = breaker(1);
    append_numbers(&world, 1..=1);
    let daemon = world.start(vec![tells_its_token()], DRAIN);
    let cause = paused(&daemon).await;
    assert!(cause.contains("call with *** failed"), "{cause}");
    assert!(daemon.stop().await);
}

#[tokio::test]
async fn a_secret_that_a_sink_repeats_does_not_show() {
    let mut world = World::new(1);
    world.mask = config::Mask::of([TOKEN]);
    world.table.refuse_when(|_, _| Some(("sink.bad_value".into(), format!("{TOKEN} is no number"))));
    append_numbers(&world, 1..=1);
    let daemon = world.start(vec![doubler()], DRAIN);
    eventually("the end is committed", || world.is_done()).await;
    assert!(daemon.stop().await);
    assert_eq!(world.letters.letters()[0].message, "*** is no number");
}

#[tokio::test]
async fn what_the_breaker_holds_shows_although_an_operator_had_paused() {
    let mut world = World::new(1);
    world.errors.breaker = breaker(1);
    append_numbers(&world, 1..=1);
    let (permit, permits) = crossbeam_channel::unbounded();
    let plugin = Arc::new(Stuck { subscription: Subscription::default(), calls: AtomicU64::new(0), permits });
    let daemon = world.start_with(&[Arc::clone(&plugin) as Arc<dyn Transform>], DRAIN);
    eventually("a batch is under way", || plugin.calls.load(Ordering::SeqCst) == 1).await;
    let commands = daemon.commands.clone();
    let pausing = daemon.runtime.spawn(async move { commands.pause("events").await });
    assert_eq!(paused(&daemon).await, "paused by an operator");
    permit.send(()).unwrap();
    permit.send(()).unwrap();
    let cause = || status(&daemon).and_then(|pipeline| pipeline.cause).unwrap_or_default();
    eventually("the breaker's cause shows", || cause().contains("1 of 1 records")).await;
    assert!(cause().starts_with("paused by an operator; meanwhile: "), "{}", cause());
    assert!(world.letters.letters().is_empty(), "held until somebody resumes");
    pausing.abort();
    assert!(daemon.stop().await);
}

/// All that is logged in this process, which runs this one test.
fn logged() -> Arc<Mutex<Vec<u8>>> {
    struct Written(Arc<Mutex<Vec<u8>>>);
    impl std::io::Write for Written {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            self.0.lock().unwrap().write(bytes)
        }
        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }
    let written = Arc::<Mutex<Vec<u8>>>::default();
    let writer = Arc::clone(&written);
    let lines = tracing_subscriber::fmt().with_ansi(false).with_max_level(tracing::Level::DEBUG);
    let lines = lines.with_writer(move || Written(Arc::clone(&writer))).finish();
    tracing::subscriber::set_global_default(lines).expect("tests do not share a process");
    written
}

#[tokio::test]
async fn a_pause_that_several_partitions_run_into_is_told_once() {
    let mut world = World::new(4);
    world.errors.breaker = breaker(1);
    let written = logged();
    for partition in 0..4 {
        world.append(partition, NOW_MS, "k", r#"{"id":"k1","n":1}"#);
    }
    let (permit, permits) = crossbeam_channel::unbounded();
    let plugin = Arc::new(Stuck { subscription: Subscription::default(), calls: AtomicU64::new(0), permits });
    let daemon = world.start_with(&[Arc::clone(&plugin) as Arc<dyn Transform>], DRAIN);
    let under_way = || status(&daemon).map_or(0, |p| p.partitions.iter().map(|p| p.in_flight).sum::<u64>());
    eventually("all four are under way", || under_way() == 4).await;
    (0..8).for_each(|_| permit.send(()).unwrap());
    let told = |words: &str| String::from_utf8_lossy(&written.lock().unwrap()).matches(words).count();
    eventually("all four are held", || told("paused: ") + told("held by the same pause: ") == 4).await;
    assert_eq!(told("ERROR"), 1);
    assert!(daemon.stop().await);
}
