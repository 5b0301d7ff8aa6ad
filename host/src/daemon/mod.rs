//! The daemon: `read → connect → spawn → drain`.
//!
//! In: a project directory. Out: its pipelines, running until they are told to end. Start-up fails fast and whole: a
//! mistake in any file, a plugin that does not load, a service that does not answer, and nothing runs. Never touches a
//! record; [`connect`] opens the vendors' ends, the supervisor runs what stands between them.

mod connect;
pub mod letters;
pub mod replay;

use std::collections::BTreeMap;
use std::io::ErrorKind;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use tokio::net::TcpListener;
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep};
use tokio_util::sync::CancellationToken;

use crate::clock::{Clock, SystemClock};
use crate::config::{ConfigErrors, Environment, LogSettings, Pipeline, Problem, ProcessEnvironment, Project};
use crate::pipeline::compute::Compute;
use crate::pipeline::tap::Taps;
use crate::plugin::RuntimeError;
use crate::reload::{self, Beginning, History, Reloader};
use crate::startup::{self, PreparedPipeline, Services};
use crate::status::reloads::Reloads;
use crate::status::{Commands, StatusBoard};
use crate::supervisor::Supervisor;
use crate::telemetry::{LoggingError, Metric, Telemetry};
use crate::{admin, plugin};

/// How often what the vendors' ends count is put into metrics.
const SAMPLE_EVERY: Duration = Duration::from_secs(1);
/// Between two looks at a start, where a service falls silent while it is asked.
const ASK_AGAIN_AFTER: Duration = Duration::from_secs(1);

/// A project that could run at once: read, checked, its plugins loaded.
pub struct Ready {
    /// The project.
    pub project: Project,
    /// Its pipelines with their plugins.
    pub pipelines: Vec<PreparedPipeline>,
    /// The engine that runs them.
    runtime: Arc<plugin::Runtime>,
}

/// A running daemon.
pub struct Daemon {
    board: StatusBoard,
    telemetry: Telemetry,
    admin: SocketAddr,
    shutdown: CancellationToken,
    supervisor: JoinHandle<bool>,
    server: JoinHandle<std::io::Result<()>>,
}

/// Why a daemon does not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// Mistakes in files and plugins: all of them.
    #[error("{0}")]
    Config(ConfigErrors),
    /// The engine for plugins does not start.
    #[error(transparent)]
    Runtime(#[from] RuntimeError),
    /// The system gives no thread.
    #[error("the compute threads cannot be started: {0}")]
    Threads(std::io::Error),
    /// The admin address cannot be used, mostly as it is taken: its key, and what to write.
    #[error("{0}")]
    Admin(Problem),
    /// Logging cannot be started.
    #[error(transparent)]
    Logging(#[from] LoggingError),
    /// Services do not answer, and nothing else is wrong: which, and the keys of their addresses.
    #[error("{0}")]
    Unreachable(ConfigErrors),
    /// A service refuses, or topics or tables are not there or do not fit: the keys, what is wrong, and what to do.
    /// Services that do not answer are among it.
    #[error("{0}")]
    Refused(ConfigErrors),
}

impl Ready {
    /// Reads a project, checks it whole, and loads its plugins: exactly what `pelton check` does.
    ///
    /// `log` starts the process's log as soon as its settings are known: what the cache of plugins has to say is not lost.
    ///
    /// # Errors
    /// Every mistake at once.
    pub fn read(
        dir: &Path,
        environment: &dyn Environment,
        log: impl FnOnce(&LogSettings) -> Result<(), LoggingError>,
    ) -> Result<Self, StartError> {
        let mut engine = None;
        let start = startup::start(dir, environment, |settings| {
            log(&settings.log)?;
            let runtime = plugin::Runtime::isolated(Some(&settings.cache_dir), compute_threads())?;
            Ok(Arc::clone(engine.insert(runtime)))
        });
        match start {
            Ok((project, pipelines)) => {
                let runtime = engine.expect("plugins were loaded with it");
                Ok(Self { project, pipelines, runtime })
            }
            Err(startup::StartError::Config(errors)) => Err(StartError::Config(errors)),
            Err(startup::StartError::Runtime(error)) => Err(error),
        }
    }
}

/// One thread a core for guests.
#[must_use]
pub fn compute_threads() -> usize {
    std::thread::available_parallelism().map_or(1, std::num::NonZero::get)
}

impl Daemon {
    /// Connects everything and starts all pipelines. To be called inside the I/O runtime.
    ///
    /// # Errors
    /// Where a service cannot be reached within the project's `startup_wait`, or refuses; then nothing runs.
    pub async fn start(ready: Ready) -> Result<Self, StartError> {
        let Ready { project, mut pipelines, runtime } = ready;
        let settings = &project.settings;
        let clock: Arc<dyn Clock> = Arc::new(SystemClock);
        let telemetry = Telemetry::new();
        telemetry.gauge(Metric::MemoryBudget, &[], settings.memory_bytes as f64);
        let started_ms = clock.now_ms();
        let (commands, received) = Commands::channel();
        let shutdown = CancellationToken::new();

        let listener = TcpListener::bind(settings.admin)
            .await
            .map_err(|error| StartError::Admin(project.place(unusable(settings.admin, &error))))?;
        let admin = listener.local_addr().unwrap_or(settings.admin);
        let board =
            StatusBoard::new(started_ms).of_project(&project.dir).reached_by(&arguments_that_reach(&project, admin));
        let taps = Taps::default();
        let shown = admin::Shown { board: board.clone(), telemetry: telemetry.clone(), taps: taps.clone() };
        let (reloads, words) = Reloads::channel();
        let ways = admin::Ways { commands, reloads };
        let server = tokio::spawn(admin::serve(listener, shown, ways, shutdown.clone()));

        let history = History::open(&settings.reload.history_dir).unwrap_or_else(|error| {
            tracing::warn!("{error}");
            History::default()
        });
        let beginnings: BTreeMap<String, Beginning> = pipelines
            .iter_mut()
            .map(|prepared| (prepared.pipeline.name.clone(), reload::begin(&history, prepared, &runtime)))
            .collect();
        let numbers = beginnings.iter().map(|(name, beginning)| (name.clone(), beginning.number)).collect();
        let compute = Compute::start(compute_threads()).map_err(StartError::Threads)?;
        let connecting = async {
            let deadline = Instant::now() + settings.startup_wait;
            let services = services_of(&project, &pipelines).await?;
            let (telemetry, clock) = (telemetry.clone(), Arc::clone(&clock));
            let connector =
                connect::Connector { project: &project, clock, telemetry, compute, services, deadline, numbers };
            connector.all(&pipelines).await
        };
        let connected = match connecting.await {
            Ok(connected) => connected,
            Err(error) => {
                shutdown.cancel();
                return Err(error);
            }
        };
        sample(connected.samplers, telemetry.clone(), shutdown.clone());
        let supervised = connected.pipelines;
        supervised.iter().for_each(|pipeline| taps.put(&pipeline.line.name, &pipeline.line.tap));
        let lines = supervised.iter().map(|pipeline| Arc::clone(&pipeline.line));
        let reloader = Reloader::new(reload::Parts {
            dir: project.dir.clone(),
            settings: settings.clone(),
            environment: Arc::new(ProcessEnvironment),
            runtime,
            pipelines: pipelines.into_iter().zip(lines).collect(),
            beginnings,
            fit: Arc::new(connect::fit),
            history,
            board: board.clone(),
            telemetry: telemetry.clone(),
            clock,
        });
        tokio::spawn(reloader.run(words, shutdown.clone()));
        let running = Supervisor::run(supervised, board.clone(), settings.drain, received, shutdown.clone());
        let supervisor = tokio::spawn(running);
        Ok(Self { board, telemetry, admin, shutdown, supervisor, server })
    }

    /// What it is doing.
    #[must_use]
    pub fn board(&self) -> &StatusBoard {
        &self.board
    }

    /// What it counts.
    #[must_use]
    pub fn telemetry(&self) -> &Telemetry {
        &self.telemetry
    }

    /// Where its admin server listens.
    #[must_use]
    pub fn admin(&self) -> SocketAddr {
        self.admin
    }

    /// Stops reading, lets every task finish what it began, commits and leaves, all of it within the project's `drain`.
    /// True where all of that was done; what was cut off is repeated by whoever goes on.
    pub async fn shut_down(self) -> bool {
        self.shutdown.cancel();
        let is_clean = self.supervisor.await.unwrap_or(false);
        if let Ok(Err(error)) = self.server.await {
            tracing::warn!("the admin server ended with an error: {error}");
        }
        is_clean
    }
}

/// The services that a project needs, as `pelton check --online` finds them: they answer, and have what the pipelines
/// name; or everything that is wrong with them, at once. One that answers, and falls silent while it is asked, is waited
/// for like one that does not answer.
async fn services_of(project: &Project, pipelines: &[PreparedPipeline]) -> Result<Services, StartError> {
    let (began, wait) = (Instant::now(), project.settings.startup_wait);
    let loaded = pipelines.iter().map(|prepared| {
        let transforms = prepared.transforms.iter().cloned().enumerate().collect();
        (prepared.pipeline.name.clone(), transforms)
    });
    let loaded = loaded.collect();
    loop {
        let (services, absent) = startup::reach(project, wait).await;
        let asked = startup::look(project, &loaded, &services, absent).await;
        let (errors, warnings): (Vec<Problem>, Vec<Problem>) = asked.problems.into_iter().partition(Problem::is_error);
        if let (Some(silent), true) = (asked.unreachable.first(), errors.is_empty() && began.elapsed() < wait) {
            tracing::warn!("waiting: {}", silent.found);
            sleep(ASK_AGAIN_AFTER.min(wait.saturating_sub(began.elapsed()))).await;
            continue;
        }
        // What the files alone tell is told again by those who ask.
        let warnings = ConfigErrors::new([project.warnings.as_slice(), &warnings].concat());
        warnings.0.iter().for_each(warn);
        return match (asked.unreachable.is_empty(), errors.is_empty()) {
            (true, true) => Ok(services),
            (false, true) => Err(StartError::Unreachable(ConfigErrors::new(asked.unreachable))),
            (_, false) => Err(StartError::Refused(ConfigErrors::new([asked.unreachable, errors].concat()))),
        };
    }
}

/// An admin address on which nothing can be heard.
fn unusable(address: SocketAddr, error: &std::io::Error) -> Problem {
    let found = format!("nothing can listen on {address}: {error}");
    let remedy = match error.kind() {
        ErrorKind::AddrInUse => {
            let mut next = address;
            next.set_port(address.port().checked_add(1).unwrap_or(8787));
            format!(
                "another process holds it, most likely another daemon: end that one, or write `admin: {{ listen: {next} }}`"
            )
        }
        ErrorKind::PermissionDenied => "ports below 1024 take a right of their own: write a higher one".to_owned(),
        _ => "write an address of this machine, like `admin: { listen: 127.0.0.1:8787 }`".to_owned(),
    };
    Problem::by_key(None, "admin.listen", found, remedy)
}

/// Logs a warning, as one line.
fn warn(warning: &Problem) {
    tracing::warn!("{}", warning.to_string().replace("\n    ", "; "));
}

/// A project as if it had one pipeline only, for what is done with that one: what others need may be away.
fn alone(project: &Project, pipeline: &Pipeline) -> Project {
    Project { pipelines: vec![pipeline.clone()], ..project.clone() }
}

/// What leads a command of `pelton` to this daemon, whatever directory and shell it is typed in: the project's directory,
/// whose pelton.yaml says where it listens; where that leaves the port to the system, the address itself.
fn arguments_that_reach(project: &Project, admin: SocketAddr) -> String {
    if project.settings.admin.port() == 0 {
        return format!("--admin {admin}");
    }
    let dir = project.dir.canonicalize().unwrap_or_else(|_| project.dir.clone());
    let dir = dir.to_string_lossy();
    // A path with a NUL in it does not exist.
    shlex::try_quote(&dir).map_or_else(|_| dir.to_string(), std::borrow::Cow::into_owned)
}

/// Puts into metrics, now and then, what a vendor's end counts by itself.
type Sampler = Box<dyn FnMut(&Telemetry) + Send>;

fn sample(mut samplers: Vec<Sampler>, telemetry: Telemetry, shutdown: CancellationToken) {
    tokio::spawn(async move {
        let mut tick = tokio::time::interval(SAMPLE_EVERY);
        loop {
            tokio::select! {
                () = shutdown.cancelled() => return,
                _ = tick.tick() => samplers.iter_mut().for_each(|sampler| sampler(&telemetry)),
            }
        }
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_that_cannot_be_used_is_told_with_its_key_and_what_to_write() {
        let taken = std::net::TcpListener::bind("127.0.0.1:0").expect("a free port");
        let address = taken.local_addr().expect("bound");
        let error = std::net::TcpListener::bind(address).expect_err("it is taken");
        let problem = unusable(address, &error);
        assert_eq!(problem.key, "admin.listen");
        assert!(problem.found.contains(&address.to_string()), "{problem}");
        assert!(problem.remedy.contains("write `admin: { listen: 127.0.0.1:"), "{problem}");
        assert!(!problem.remedy.contains(&address.to_string()), "{problem}");
        let elsewhere = unusable(address, &ErrorKind::AddrNotAvailable.into());
        assert!(elsewhere.remedy.starts_with("write an address of this machine"), "{elsewhere}");
    }
}
