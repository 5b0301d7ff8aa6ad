//! The line under fire: real daemons between three real brokers and a real Cassandra, a producer that knows what it sent,
//! and faults of every kind, by a seed. At the end it compares what stands in the stores with what must stand there.
//!
//! `chaos [--seed N] [--minutes N | --seconds N] [--rate N] [--json] [--keep] [--no-mount]`; exit code 1 where anything is
//! lost, wrong or unexplained, or a kind of fault never occurred. What it leaves behind stands in `.pelton/chaos`.
//!
//! ```text
//!   producer ──► brokers ──► proxies ──► daemons ──► proxy ──► Cassandra
//!      │            ▲           ▲          ▲ ▲                     ▲
//!    ledger         └───────────┴─ lanes ──┘ disks ────────────────┘
//!      └───────────────────────► expect ◄── look: topics, table, dead letters, spills, commits
//!                                  └─ decisions ◄── look: the journal, for records that lie ahead of the wall
//! ```

#![allow(clippy::print_stdout, clippy::print_stderr, reason = "it is made to print")]

mod cluster;
mod daemons;
mod decisions;
mod disk;
mod expect;
mod faults;
mod field;
mod lanes;
mod ledger;
mod look;
mod producer;
mod records;
mod report;
mod run;
mod voice;

use std::process::ExitCode;
use std::time::Duration;

use tokio::signal::unix::{SignalKind, signal};
use tokio::time::{Instant, sleep};

type Failure = Box<dyn std::error::Error + Send + Sync>;

/// The topic that daemons read, and their group.
const ORDERS: &str = "orders";
/// The topic that they write.
const ALERTS: &str = "alerts";
/// The topic of their dead letters.
const LETTERS: &str = "orders.dlq";
/// The topic in which they keep what their write times rest on.
const JOURNAL: &str = "orders.pelton-journal";
/// The table that they write.
const TABLE: &str = "chaos.orders";
/// How long a row lives from its record's time, seconds.
const TTL_S: i64 = 30 * 86_400;

const USAGE: &str = "chaos [--seed N] [--minutes N | --seconds N] [--rate N] [--json] [--keep] [--no-mount]";

/// What is wanted of a run.
struct Options {
    seed: u64,
    seconds: u64,
    /// Records a second, bursts apart.
    rate: u64,
    json: bool,
    /// Whether what it leaves behind stays even where all is well.
    keep: bool,
    /// Whether disks may be mounted, where that is allowed.
    mount: bool,
}

impl Options {
    fn parse(arguments: &[String]) -> Result<Self, Failure> {
        let mut options =
            Self { seed: now_ms() as u64 % 1_000_000, seconds: 60, rate: 400, json: false, keep: false, mount: true };
        let mut words = arguments.iter();
        while let Some(word) = words.next() {
            let mut number = || -> Result<u64, Failure> {
                let text = words.next().ok_or_else(|| format!("{word} needs a number: {USAGE}"))?;
                text.parse().map_err(|_| format!("{word} {text}: a whole number is wanted: {USAGE}").into())
            };
            match word.as_str() {
                "--seed" => options.seed = number()?,
                "--minutes" => options.seconds = number()?.saturating_mul(60),
                "--seconds" => options.seconds = number()?,
                "--rate" => options.rate = number()?.clamp(1, 20_000),
                "--json" => options.json = true,
                "--keep" => options.keep = true,
                "--no-mount" => options.mount = false,
                other => return Err(format!("`{other}`: {USAGE}").into()),
            }
        }
        Ok(options)
    }

    /// The command that runs the same again.
    fn again(&self) -> String {
        let mount = if self.mount { "" } else { " --no-mount" };
        let rate = if self.rate == 400 { String::new() } else { format!(" --rate {}", self.rate) };
        let arguments = format!("{rate}{mount}");
        let arguments = if arguments.is_empty() { arguments } else { format!(" ARGS=\"{}\"", arguments.trim()) };
        if self.seconds.is_multiple_of(60) {
            format!("make chaos SEED={} MINUTES={}{arguments}", self.seed, self.seconds / 60)
        } else {
            format!("target/debug/chaos --seed {} --seconds {}{rate}{mount}", self.seed, self.seconds)
        }
    }
}

#[tokio::main]
async fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let options = match Options::parse(&arguments) {
        Ok(options) => options,
        Err(error) => {
            eprintln!("error: {error}");
            return ExitCode::from(2);
        }
    };
    eprintln!("seed {}; the same again: {}", options.seed, options.again());
    let outcome = tokio::select! {
        outcome = run::run(&options) => outcome,
        () = told_to_end() => Err("told to end".into()),
    };
    match outcome {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::FAILURE
        }
    }
}

async fn told_to_end() {
    let (Ok(mut terminate), Ok(mut interrupt)) = (signal(SignalKind::terminate()), signal(SignalKind::interrupt()))
    else {
        return std::future::pending().await;
    };
    tokio::select! {
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
    }
}

/// Waits until a look finds something, or the limit is over.
async fn until<T>(limit: Duration, mut look: impl FnMut() -> Option<T>) -> Option<T> {
    let deadline = Instant::now() + limit;
    loop {
        if let Some(found) = look() {
            return Some(found);
        }
        if Instant::now() > deadline {
            return None;
        }
        sleep(Duration::from_millis(100)).await;
    }
}

/// The wall clock, milliseconds.
fn now_ms() -> i64 {
    #[expect(clippy::disallowed_methods, reason = "the producer is a wall-clock writer")]
    let now = std::time::SystemTime::now();
    now.duration_since(std::time::UNIX_EPOCH).map_or(0, |since| since.as_millis() as i64)
}
