//! `make bench`: what Pelton costs, in ratios to native programs that do the same work on the same machine in the same
//! minutes.
//!
//! `ARGS="--json"` prints one object; `--short` takes a minute or two and proves that all of it runs, its figures mean
//! little; `--only GROUP` (`boundary`, `drop`, `json`, `cassandra`, `latency`, `growth`,
//! `start`) measures a part; `--picture FILE` draws the ratios. Real Kafka and real Cassandra must answer.

#![allow(
    clippy::disallowed_methods,
    clippy::print_stdout,
    clippy::print_stderr,
    clippy::panic,
    clippy::unwrap_used,
    missing_docs,
    reason = "a benchmark speaks to a terminal, waits on the wall clock, and ends where something is wrong"
)]

mod boundary;
mod latency;
mod line;
mod measure;
mod native;
mod process;
mod report;
mod start;
mod table;
mod topics;
mod work;

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use report::{Figure, Report};
use tikv_jemallocator::Jemalloc;

/// The daemon's own: native programs and Pelton are measured with the same.
#[global_allocator]
static ALLOCATOR: Jemalloc = Jemalloc;

/// How much is measured.
pub(crate) struct Plan {
    /// Turns and records a turn, at the boundary.
    turns: usize,
    records_a_turn: usize,
    /// Rounds and records of the line.
    rounds: usize,
    records: u64,
    /// Rows into Cassandra a round.
    rows: usize,
    latency: Duration,
    latency_rounds: usize,
    growth_rounds: usize,
    growth_records: u64,
    partitions: Vec<i32>,
    steps: Vec<usize>,
    growth: Vec<u64>,
    /// Where plugins are, and where they are kept compiled.
    plugins: Vec<PathBuf>,
    cache: tempfile::TempDir,
}

/// Measures one group.
type Measure = fn(&Plan) -> Vec<Figure>;

impl Plan {
    fn of(mode: &str) -> Self {
        let plan = Self {
            turns: 21,
            records_a_turn: 100_000,
            rounds: 5,
            records: 1_500_000,
            rows: 40_000,
            latency: Duration::from_secs(10),
            latency_rounds: 3,
            growth_rounds: 2,
            growth_records: 300_000,
            partitions: vec![1, 4, 16, 64],
            steps: vec![1, 10, 100],
            growth: vec![100_000, 1_000_000, 10_000_000],
            plugins: vec![repository().join("plugins"), repository().join("host/benches/plugins")],
            cache: tempfile::tempdir().expect("a directory"),
        };
        match mode {
            "short" => Self {
                turns: 3,
                records_a_turn: 2_000,
                rounds: 1,
                records: 20_000,
                rows: 2_000,
                latency: Duration::from_secs(2),
                latency_rounds: 1,
                growth_rounds: 1,
                growth_records: 5_000,
                partitions: vec![1, 4],
                steps: vec![1, 3],
                growth: vec![10_000],
                ..plan
            },
            _ => plan,
        }
    }
}

fn main() {
    let mut args: Vec<String> = std::env::args().skip(1).collect();
    // Cargo says `--bench` to every benchmark.
    args.retain(|arg| arg != "--bench");
    if let [native, program, rest @ ..] = args.as_slice()
        && native == "native"
    {
        return native::run(program, rest);
    }
    let mode = if args.iter().any(|arg| arg == "--short") { "short" } else { "full" };
    let value = |flag: &str| args.iter().position(|arg| arg == flag).and_then(|at| args.get(at + 1)).cloned();
    let (only, picture) = (value("--only"), value("--picture"));
    let plan = Plan::of(mode);
    let groups: [(&str, Measure); 7] = [
        ("boundary", boundary::measure),
        ("drop", line::drop_all),
        ("json", line::add_cents),
        ("cassandra", table::measure),
        ("latency", latency::measure),
        ("growth", line::growth),
        ("start", start::measure),
    ];
    let mut figures = Vec::new();
    for (name, group) in groups {
        if only.as_deref().is_none_or(|only| only.split(',').any(|only| only == name)) {
            eprintln!("measuring: {name} …");
            figures.extend(group(&plan));
        }
    }
    assert!(!figures.is_empty(), "no such group: {only:?}");
    let report = Report {
        date: said("date", &["-u", "+%Y-%m-%d %H:%M UTC"]),
        commit: commit(),
        machine: machine(),
        mode: mode.to_owned(),
        figures,
    };
    if let Some(file) = picture {
        std::fs::write(&file, report.picture()).unwrap_or_else(|error| panic!("{file}: {error}"));
    }
    if args.iter().any(|arg| arg == "--json") {
        println!("{}", serde_json::to_string_pretty(&report).expect("a report"));
    } else {
        println!("{}", report.table());
    }
}

fn repository() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("host/ stands in the repository").to_owned()
}

/// The file of a plugin that is measured.
fn plugin(name: &str) -> PathBuf {
    let places = [format!("plugins/{name}/{name}.wasm"), format!("host/benches/plugins/{name}/{name}.wasm")];
    let found = places.iter().map(|place| repository().join(place)).find(|path| path.exists());
    found.unwrap_or_else(|| panic!("plugin {name} is not built: `make bench` builds it"))
}

fn said(program: &str, args: &[&str]) -> String {
    let output = Command::new(program).args(args).current_dir(repository()).output();
    output.map_or_else(|_| "unknown".to_owned(), |output| String::from_utf8_lossy(&output.stdout).trim().to_owned())
}

fn commit() -> String {
    let commit = said("git", &["describe", "--always", "--dirty"]);
    if cfg!(debug_assertions) { format!("{commit}, NOT OPTIMISED") } else { commit }
}

/// Cores, memory, load: what else a stranger must know to compare.
fn machine() -> String {
    let cores = std::thread::available_parallelism().map_or(0, usize::from);
    let read = |path: &str| std::fs::read_to_string(path).unwrap_or_default();
    let model = read("/proc/cpuinfo");
    let model = model.lines().find_map(|line| line.strip_prefix("model name")?.split_once(": ")).map_or("?", |m| m.1);
    let load = read("/proc/loadavg");
    let load = load.split(' ').next().unwrap_or("?");
    format!("{cores} cores ({model}), load at the end {load}, services and benchmark on them together")
}
