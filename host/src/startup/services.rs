//! The services that a project leans on: whether they answer.
//!
//! In: a project's connections, and how long to wait. Out: connections to those that answer; a [`Problem`] for each of the
//! others, all of them at once. Says every few seconds for what it waits. Opens nothing else, and asks nothing about the
//! project.

use std::convert::Infallible;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::time::{Instant, MissedTickBehavior, interval, sleep, timeout};
use tokio_util::sync::CancellationToken;

use crate::cassandra::{self, Cassandra, CassandraError};
use crate::config::{CassandraConnection, KafkaConnection, Output, Problem, Project};
use crate::kafka::Brokers;
use crate::pipeline::SourceError;

/// How long one try may take where nothing is waited for, and otherwise at most.
const ONE_TRY: Duration = Duration::from_secs(5);
const TRY_MAX: Duration = Duration::from_secs(10);
/// Between two tries.
const TRY_AGAIN_AFTER: Duration = Duration::from_secs(1);
const CREDENTIALS: &str = "correct the credentials under `kafka: properties:`, or the permissions of the user";
/// How often it is said for what is waited.
const TOLD_EVERY: Duration = Duration::from_secs(3);

/// The services that answer.
#[derive(Default)]
pub struct Services {
    /// Kafka; none where no pipeline needs it, or it does not answer.
    pub kafka: Option<Brokers>,
    /// Cassandra; none where no pipeline needs it, or it does not answer.
    pub cassandra: Option<Arc<Cassandra>>,
}

/// Who does not answer, and who refuses.
#[derive(Debug, Default)]
pub struct Absent {
    /// Waiting may help.
    pub unreachable: Vec<Problem>,
    /// Waiting does not help: a login, a setting.
    pub refused: Vec<Problem>,
}

/// Why a service cannot be used.
struct Fault {
    problem: Problem,
    is_transient: bool,
}

/// Reaches everything that a project's pipelines need, all at once, and waits for it no longer than `wait`; zero is one
/// try.
pub async fn reach(project: &Project, wait: Duration) -> (Services, Absent) {
    let hopeless = CancellationToken::new();
    let (kafka, cassandra) = tokio::join!(
        async {
            let topic = project.pipelines.iter().find_map(|pipeline| pipeline.source.topics.first())?;
            let connection = project.settings.kafka.as_ref()?;
            let name = format!("Kafka at {}", connection.brokers);
            Some(persist(&name, wait, &hopeless, |within| kafka(connection, topic, within, wait)).await)
        },
        async {
            let mut outputs = project.pipelines.iter().flat_map(|pipeline| pipeline.outputs.values());
            outputs.find(|output| matches!(output, Output::Cassandra(_)))?;
            let connection = project.settings.cassandra.as_ref()?;
            let name = format!("Cassandra at {}", connection.contact_points.join(", "));
            Some(persist(&name, wait, &hopeless, |within| cassandra(connection, within, wait)).await)
        },
    );
    let mut absent = Absent::default();
    let services = Services { kafka: absent.sort(kafka), cassandra: absent.sort(cassandra) };
    (services, absent)
}

impl Absent {
    fn sort<T>(&mut self, reached: Option<Result<T, Fault>>) -> Option<T> {
        match reached? {
            Ok(service) => Some(service),
            Err(Fault { problem, is_transient: true }) => {
                self.unreachable.push(problem);
                None
            }
            Err(Fault { problem, is_transient: false }) => {
                self.refused.push(problem);
                None
            }
        }
    }
}

/// Tries until it works or waiting does not help, and at most for `wait`; says meanwhile what is waited for.
async fn persist<T, F: Future<Output = Result<T, Fault>>>(
    name: &str,
    wait: Duration,
    hopeless: &CancellationToken,
    attempt: impl Fn(Duration) -> F,
) -> Result<T, Fault> {
    let began = Instant::now();
    let last = Mutex::new(format!("{name} has not answered yet"));
    let trying = async {
        loop {
            let left = wait.saturating_sub(began.elapsed());
            let fault = match attempt(if wait.is_zero() { ONE_TRY } else { left.min(TRY_MAX) }).await {
                Ok(service) => return Ok(service),
                Err(fault) => fault,
            };
            if !fault.is_transient {
                // Whatever else is away, the start fails: that one is named too, but not waited for.
                hopeless.cancel();
                return Err(fault);
            }
            fault.problem.found.clone_into(&mut last.lock().unwrap_or_else(PoisonError::into_inner));
            tokio::select! {
                () = sleep(TRY_AGAIN_AFTER.min(wait.saturating_sub(began.elapsed()))) => {}
                () = hopeless.cancelled() => return Err(fault),
            }
            if began.elapsed() >= wait {
                return Err(fault);
            }
        }
    };
    tokio::select! {
        biased;
        reached = trying => reached,
        never = tell(&last, began, wait), if !wait.is_zero() => match never {},
    }
}

/// Says for what is waited, now and then.
async fn tell(last: &Mutex<String>, began: Instant, wait: Duration) -> Infallible {
    // What answers at once needs no line.
    sleep(TRY_AGAIN_AFTER / 2).await;
    let mut tick = interval(TOLD_EVERY);
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tick.tick().await;
        let what = last.lock().unwrap_or_else(PoisonError::into_inner).clone();
        tracing::warn!("waiting: {what} ({} s of {} s)", began.elapsed().as_secs(), wait.as_secs());
    }
}

async fn kafka(connection: &KafkaConnection, topic: &str, within: Duration, wait: Duration) -> Result<Brokers, Fault> {
    Brokers::reach(connection, topic, within).await.map_err(|error| kafka_fault(&error, wait))
}

/// A problem with the brokers as a whole, and whether waiting may help.
pub(super) fn kafka_problem(error: &SourceError, wait: Duration) -> (Problem, bool) {
    let Fault { problem, is_transient } = kafka_fault(error, wait);
    (problem, is_transient)
}

fn kafka_fault(error: &SourceError, wait: Duration) -> Fault {
    let is_transient = matches!(error, SourceError::Unreachable { .. });
    let problem = match error {
        SourceError::Unreachable { .. } => Problem::by_key(None, "kafka.brokers", error.to_string(), remedy(wait)),
        SourceError::Forbidden { message, setting: Some(setting) } => {
            Problem::by_key(None, format!("kafka.{setting}"), message, CREDENTIALS)
        }
        _ => Problem::by_key(None, "kafka.properties", error.to_string(), CREDENTIALS),
    };
    Fault { problem, is_transient }
}

async fn cassandra(
    connection: &CassandraConnection,
    within: Duration,
    wait: Duration,
) -> Result<Arc<Cassandra>, Fault> {
    let error = match timeout(within, cassandra::connect(connection)).await {
        Ok(Ok(cassandra)) => return Ok(cassandra),
        Ok(Err(error)) => error,
        Err(_) => CassandraError::Unreachable {
            contact_points: connection.contact_points.join(", "),
            message: format!("no answer within {} s", within.as_secs_f32()),
        },
    };
    let is_transient = error.is_transient();
    let key = error.key().unwrap_or_else(|| "cassandra.contact_points".to_owned());
    let remedy = if is_transient { remedy(wait) } else { String::new() };
    Err(Fault { problem: Problem::by_key(None, key, error.to_string(), remedy), is_transient })
}

/// What to do where nobody answers.
fn remedy(wait: Duration) -> String {
    let waits = if wait.is_zero() { String::new() } else { format!(" (here {} s)", wait.as_secs_f32()) };
    format!("is it running, and reachable from here? `startup_wait`{waits} says how long a start waits for it")
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use super::*;

    fn absent(is_transient: bool) -> Fault {
        Fault { problem: Problem::by_key(None, "kafka.brokers", "nobody is there", ""), is_transient }
    }

    async fn persist_for(wait: Duration, answers_at: Option<Duration>, try_takes: Duration) -> (bool, Duration, u32) {
        let (began, tries, hopeless) = (Instant::now(), Cell::new(0), CancellationToken::new());
        let tried = &tries;
        let reached = persist("Kafka", wait, &hopeless, |within| async move {
            tried.set(tried.get() + 1);
            sleep(try_takes.min(within)).await;
            if answers_at.is_some_and(|at| began.elapsed() >= at) { Ok(()) } else { Err(absent(true)) }
        });
        (reached.await.is_ok(), began.elapsed(), tries.get())
    }

    #[tokio::test(start_paused = true)]
    async fn a_wait_is_kept_exactly_however_long_a_try_takes() {
        for wait in [300, 4_500, 9_000, 25_000].map(Duration::from_millis) {
            for try_takes in [Duration::ZERO, Duration::from_secs(60)] {
                let (is_there, waited, _) = persist_for(wait, None, try_takes).await;
                assert!(!is_there);
                assert!(waited >= wait && waited < wait + Duration::from_millis(5), "{waited:?} of {wait:?}");
            }
        }
        let (is_there, waited, tries) = persist_for(Duration::ZERO, None, Duration::ZERO).await;
        assert!(!is_there && tries == 1 && waited < Duration::from_millis(5), "{waited:?}, {tries} tries");
    }

    #[tokio::test(start_paused = true)]
    async fn who_comes_within_the_wait_is_found() {
        let (is_there, waited, tries) =
            persist_for(Duration::from_secs(30), Some(Duration::from_secs(7)), Duration::ZERO).await;
        assert!(is_there && waited < Duration::from_secs(9) && tries >= 7, "{waited:?}, {tries} tries");
    }

    #[tokio::test(start_paused = true)]
    async fn nobody_is_waited_for_where_the_start_fails_anyway() {
        let (began, hopeless) = (Instant::now(), CancellationToken::new());
        let wait = Duration::from_secs(3600);
        let (refused, unreachable) = tokio::join!(
            persist::<(), _>("Cassandra", wait, &hopeless, |_| async { Err(absent(false)) }),
            persist::<(), _>("Kafka", wait, &hopeless, |_| async { Err(absent(true)) }),
        );
        assert!(refused.is_err() && unreachable.is_err());
        assert!(began.elapsed() < Duration::from_secs(2));
    }
}
