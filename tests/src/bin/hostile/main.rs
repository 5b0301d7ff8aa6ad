//! Runs every guest of `tests/guests` in a daemon's surroundings, and says what it cost.
//!
//! For each guest: a process of its own, in it a good pipeline that goes on all the time, and a pipeline with the guest
//! beside it, on the same compute threads. The guest is contained where its own pipeline comes to the end that its
//! folder's `expected.txt` names (refused, or each record written or dead-lettered, under which code), the good one loses
//! nothing, mixes nothing up and stands still no longer than the guest's own limits explain, and the memory returns to
//! where it was.
//!
//! `hostile [--json] [--quick] [NAME…]`; exit code 1 where a guest is not contained. A guest that nothing is expected of
//! is not.

#![allow(clippy::print_stdout, clippy::print_stderr, reason = "it is made to print")]

mod cost;
#[path = "../../../../host/tests/support/encode.rs"]
#[allow(dead_code, clippy::unwrap_used, clippy::panic, unreachable_pub, reason = "shared with the tests of the host")]
mod encode;
mod expected;
mod outcome;
mod pipelines;
mod report;

use std::io::{Read as _, Write as _};
use std::path::Path;
use std::process::{Command, ExitCode, Stdio};

use pelton::plugin::compile::{CompileLimits, VERB, compile_plugin};
use report::Report;

type Failure = Box<dyn std::error::Error + Send + Sync>;

/// Seconds that one guest may take before its process is stopped: longer than any compilation may.
const GUEST_S: u64 = 600;

/// What only soaks the compiler: left out of the quick form.
const SLOW: [&str; 2] = ["brings_much_code", "compiles_for_ever"];

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let outcome = match words.as_slice() {
        // As `pelton compile-plugin`: this program is its own compiler.
        [verb, rest @ ..] if *verb == VERB => compile(rest).map(|()| true),
        ["--one", name, artifact] => pipelines::run(name, Path::new(artifact)).and_then(|report| {
            println!("{}", serde_json::to_string(&report)?);
            Ok(true)
        }),
        words => all(words),
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

fn compile(arguments: &[&str]) -> Result<(), Failure> {
    let ["--cpu-seconds", cpu_s, "--memory-bytes", memory_bytes, rest @ ..] = arguments else {
        return Err(format!("{VERB} --cpu-seconds N --memory-bytes N [--trusted]").into());
    };
    let limits = CompileLimits { cpu_s: cpu_s.parse()?, memory_bytes: memory_bytes.parse()? };
    let image = compile_plugin(limits, rest == ["--trusted"], std::io::stdin().lock())?;
    Ok(std::io::stdout().lock().write_all(&image)?)
}

/// Every guest, or those that are named. True where each was contained.
fn all(arguments: &[&str]) -> Result<bool, Failure> {
    let json = arguments.contains(&"--json");
    let quick = arguments.contains(&"--quick");
    let named: Vec<&str> = arguments.iter().copied().filter(|word| !word.starts_with("--")).collect();
    if let Some(unknown) = arguments.iter().find(|word| word.starts_with("--") && !["--json", "--quick"].contains(word))
    {
        return Err(format!("`{unknown}`: hostile [--json] [--quick] [NAME…]").into());
    }
    let guests = encode::guests();
    if let Some(unknown) = named.iter().find(|name| !guests.iter().any(|guest| guest == *name)) {
        return Err(format!("there is no guest `{unknown}` in tests/guests").into());
    }
    let wanted =
        |guest: &str| if named.is_empty() { !(quick && SLOW.contains(&guest)) } else { named.contains(&guest) };
    // Every mistake before the first guest runs.
    expected::read_all(&guests)?;
    let dir = tempfile::tempdir()?;
    let mut reports = Vec::new();
    if !json {
        println!("{}", Report::HEAD);
    }
    for guest in guests.iter().filter(|guest| wanted(guest)) {
        let artifact = dir.path().join(format!("{guest}.wasm"));
        std::fs::write(&artifact, encode::component(guest))?;
        let report = one(guest, &artifact)?;
        std::fs::remove_file(&artifact)?;
        if !json {
            println!("{report}");
        }
        reports.push(report);
    }
    let escaped = reports.iter().filter(|report| !report.is_contained()).count();
    if json {
        println!("{}", serde_json::to_string_pretty(&reports)?);
    } else if escaped > 0 {
        println!("\n{escaped} of {} guests are NOT contained", reports.len());
    } else {
        println!("\n{} guests, every one contained", reports.len());
    }
    Ok(escaped == 0 && !reports.is_empty())
}

/// One guest in a process of its own: what ends that process has not been contained.
fn one(guest: &str, artifact: &Path) -> Result<Report, Failure> {
    let mut child = Command::new("timeout")
        .args(["--signal=KILL", &GUEST_S.to_string()])
        .arg(std::env::current_exe()?)
        .args(["--one", guest])
        .arg(artifact)
        // What is freed goes back to the system, so that what does not go back is what is not freed.
        .envs([("MALLOC_ARENA_MAX", "2"), ("MALLOC_TRIM_THRESHOLD_", "131072"), ("MALLOC_MMAP_THRESHOLD_", "131072")])
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()?;
    let mut answer = String::new();
    if let Some(mut stdout) = child.stdout.take() {
        stdout.read_to_string(&mut answer)?;
    }
    let status = child.wait()?;
    match serde_json::from_str(answer.trim()) {
        Ok(report) if status.success() => Ok(report),
        _ => Ok(Report::lost(guest, &format!("the host's process ended ({status})"))),
    }
}
