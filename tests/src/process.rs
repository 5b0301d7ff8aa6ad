//! Programs of this workspace as processes of their own, and waiting for what they come to.
//!
//! In: a command. Out: a process whose output stands in a file, that is killed when dropped, and that can be asked over
//! its admin address. Knows nothing of Kafka or Cassandra.

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

/// How long anything may take before a test gives up.
pub const LIMIT: Duration = Duration::from_secs(90);

/// The repository.
///
/// # Panics
/// Never, where the tests stand in it.
#[must_use]
pub fn repository() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("tests/ stands in the repository").to_owned()
}

/// A program of this workspace, built beside the tests: it stands one folder above them, or beside a program that asks.
///
/// # Panics
/// Where it is not built.
#[must_use]
pub fn program(name: &str) -> PathBuf {
    let own = std::env::current_exe().expect("the caller's own path");
    let found = own.ancestors().skip(1).take(2).map(|folder| folder.join(name)).find(|path| path.exists());
    found.unwrap_or_else(|| panic!("{name} is missing near {}: `cargo build --workspace` makes it", own.display()))
}

/// A port that was free a moment ago, and that nobody listens on. It lies below those that the system gives to outgoing
/// connections: one of those could hold it while the service that it is for is away. No port twice in one process.
///
/// # Panics
/// Where the system has none.
#[must_use]
pub fn free_port() -> u16 {
    static TAKEN: AtomicU32 = AtomicU32::new(0);
    let ports = FREE_PORTS.len() as u32;
    let first = std::process::id().wrapping_mul(7_919);
    let port = || FREE_PORTS.start + (first.wrapping_add(TAKEN.fetch_add(1, Ordering::Relaxed)) % ports) as u16;
    let is_free = |port: &u16| TcpListener::bind(("127.0.0.1", *port)).is_ok();
    std::iter::repeat_with(port).take(ports as usize).find(is_free).expect("a free port")
}

/// Below what Linux and macOS give to outgoing connections, above what services are known by.
const FREE_PORTS: std::ops::Range<u16> = 21_000..32_000;

/// Waits until a look finds something.
///
/// # Panics
/// Where it does not within [`LIMIT`].
pub async fn until<T>(what: &str, mut look: impl FnMut() -> Option<T>) -> T {
    let deadline = tokio::time::Instant::now() + LIMIT;
    loop {
        if let Some(found) = look() {
            return found;
        }
        assert!(tokio::time::Instant::now() < deadline, "not within {LIMIT:?}: {what}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

/// A running process. Killed when dropped.
#[derive(Debug)]
pub struct Process {
    child: Child,
    output: PathBuf,
}

impl Process {
    /// Starts a command; what it prints is appended to `output`.
    ///
    /// # Panics
    /// Where it does not start.
    #[must_use]
    pub fn start(command: &mut Command, output: &Path) -> Self {
        let open = || std::fs::File::options().create(true).append(true).open(output).expect("a file for its output");
        let command = command.stdin(Stdio::null()).stdout(open()).stderr(open());
        Self {
            child: command.spawn().unwrap_or_else(|error| panic!("{command:?}: {error}")),
            output: output.to_owned(),
        }
    }

    /// `pelton run` on a project; its log stands beside the project's files.
    #[must_use]
    pub fn daemon(project: &Path, name: &str) -> Self {
        Self::start(Command::new(program("pelton")).arg("run").arg(project), &project.join(format!("{name}.log")))
    }

    /// What it has printed.
    #[must_use]
    pub fn output(&self) -> String {
        String::from_utf8_lossy(&std::fs::read(&self.output).unwrap_or_default()).into_owned()
    }

    /// Its id.
    #[must_use]
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// Waits until a daemon says something in its log.
    ///
    /// # Panics
    /// Where it ends before, or does not say it in time.
    pub async fn until_it_says(&mut self, text: &str) {
        until(&format!("{text:?} in\n{}", self.output()), || {
            self.assert_alive();
            self.output().contains(text).then_some(())
        })
        .await;
    }

    /// Where a daemon's admin server listens, as its log tells.
    ///
    /// # Panics
    /// Where the log does not tell in time.
    pub async fn admin(&mut self) -> SocketAddr {
        until("the daemon runs", || {
            self.assert_alive();
            self.admin_told()
        })
        .await
    }

    /// Where a daemon's admin server listens, where its log has told so by now.
    #[must_use]
    pub fn admin_told(&self) -> Option<SocketAddr> {
        const MARK: &str = "admin=";
        let output = self.output();
        let (_, rest) = output.split_once(MARK)?;
        rest.split_whitespace().next()?.parse().ok()
    }

    /// Sends a signal by its name.
    ///
    /// # Panics
    /// Where the signal cannot be sent.
    pub fn signal(&self, name: &str) {
        let pid = self.child.id().to_string();
        assert!(Command::new("kill").args([&format!("-{name}"), &pid]).status().expect("kill runs").success());
    }

    /// SIGKILL: nothing of it goes on when this returns.
    ///
    /// # Panics
    /// Where the system does not tell of its end.
    pub fn kill(&mut self) {
        self.child.kill().expect("a kill");
        self.child.wait().expect("its end");
    }

    /// How it ended, if it has.
    ///
    /// # Panics
    /// Never: it is our child.
    pub fn ended(&mut self) -> Option<ExitStatus> {
        self.child.try_wait().expect("it is our child")
    }

    /// SIGTERM, and its end.
    ///
    /// # Panics
    /// Where the signal cannot be sent.
    pub async fn terminate(&mut self) -> ExitStatus {
        self.signal("TERM");
        self.end().await
    }

    /// Its end, by itself.
    ///
    /// # Panics
    /// Where it does not end in time.
    pub async fn end(&mut self) -> ExitStatus {
        let what = format!("the end of {}", self.output.display());
        until(&what, || self.ended()).await
    }

    /// Fails where it has ended by itself.
    ///
    /// # Panics
    /// Where it has ended.
    pub fn assert_alive(&mut self) {
        if let Some(status) = self.ended() {
            panic!("it ended: {status}\n{}", self.output());
        }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// GET over HTTP: status and body. None where nobody answers.
#[must_use]
pub fn get(address: SocketAddr, path: &str) -> Option<(u16, String)> {
    let mut stream = TcpStream::connect_timeout(&address, Duration::from_secs(5)).ok()?;
    stream.set_read_timeout(Some(Duration::from_secs(5))).ok()?;
    write!(stream, "GET {path} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n").ok()?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).ok()?;
    let (head, body) = answer.split_once("\r\n\r\n")?;
    Some((head.split_whitespace().nth(1)?.parse().ok()?, body.to_owned()))
}

/// A number of an exposition: of the metric with this name and all these labels.
#[must_use]
pub fn metric(exposition: &str, name: &str, labels: &[(&str, &str)]) -> Option<f64> {
    let line = exposition.lines().find(|line| {
        line.strip_prefix(name).is_some_and(|rest| rest.starts_with(['{', ' ']))
            && labels.iter().all(|(label, value)| line.contains(&format!("{label}=\"{value}\"")))
    })?;
    line.rsplit_once(' ')?.1.parse().ok()
}
