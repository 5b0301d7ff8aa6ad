//! Every guest of `tests/guests` is contained, and each in its own way: a module for each kind of sin.

#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "tests")]

use std::collections::BTreeSet;
use std::time::Duration;

use pelton::config::Limits;
use pelton::pipeline::{LogLine, Transform as _, TransformError, TrapKind};
use pelton::plugin::{Capability, WasmTransform};
use pelton::record::{Batch, FieldColumn};
use support::{apply, batch, load_with};

/// Declares the tests, and with them the list that the folders are held against.
macro_rules! guests {
    ($($name:ident => $body:block)*) => {
        pub(crate) const TESTED: &[&str] = &[$(stringify!($name)),*];
        $(#[test] fn $name() $body)*
    };
}

mod answers;
mod code;
mod honest;
mod memory;
mod requests;
mod state;
#[path = "../support/mod.rs"]
mod support;
mod time;
mod ways_out;
mod words;

#[test]
fn every_guest_has_a_test_and_every_test_a_guest() {
    let folders: BTreeSet<String> = support::guests().into_iter().collect();
    let rooms = [
        answers::TESTED,
        code::TESTED,
        honest::TESTED,
        memory::TESTED,
        requests::TESTED,
        state::TESTED,
        time::TESTED,
        ways_out::TESTED,
        words::TESTED,
    ];
    assert_eq!(folders, rooms.concat().iter().map(|name| (*name).to_owned()).collect());
}

/// What a trap leaves behind.
struct Trapped {
    kind: TrapKind,
    message: String,
    backtrace: String,
    logs: Vec<LogLine>,
    cpu: Duration,
}

fn trapped(guest: &str, limits: Limits) -> Trapped {
    let guest = load_with(guest, &Capability::ALL, limits).unwrap_or_else(|error| panic!("{guest}: {error}"));
    let first = trap_of(&guest, &batch(&["a"]));
    // A trap poisons the instance; the next batch meets another one, which fails in the same way.
    let second = trap_of(&guest, &batch(&["a"]));
    assert_eq!((first.kind, &first.backtrace), (second.kind, &second.backtrace));
    first
}

fn trap_of(guest: &WasmTransform, batch: &Batch) -> Trapped {
    match apply(guest, batch) {
        Err(TransformError::Trap { kind, message, backtrace, logs, cpu_ns }) => {
            Trapped { kind, message, backtrace, logs, cpu: Duration::from_nanos(cpu_ns) }
        }
        other => panic!("{}: {other:?}", guest.name()),
    }
}

fn thread_cpu() -> Duration {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::ThreadCPUTime);
    Duration::new(time.tv_sec.unsigned_abs(), time.tv_nsec.unsigned_abs() as u32)
}

/// A guest that never ends is stopped within 100 ms of its limit, in the CPU time of its own thread: a busy machine does
/// not change the outcome.
fn stopped_in_time(guest: &str) -> Trapped {
    let limits = Limits {
        cpu_per_batch: Duration::from_millis(150),
        cpu_per_record: Duration::from_millis(150),
        ..Limits::default()
    };
    let loaded = load_with(guest, &Capability::ALL, limits).unwrap_or_else(|error| panic!("{guest}: {error}"));
    let before = thread_cpu();
    let trapped = trap_of(&loaded, &batch(&["a"]));
    let used = thread_cpu() - before;
    assert_eq!(trapped.kind, TrapKind::CpuLimit, "{}", trapped.message);
    assert!(used >= limits.cpu_per_batch, "stopped after {used:?}");
    assert!(used < limits.cpu_per_batch + Duration::from_millis(100), "stopped after {used:?}");
    assert!(trapped.cpu >= limits.cpu_per_batch, "counted {:?}", trapped.cpu);
    trapped
}

/// Enough CPU time for what sins in another way.
fn patient() -> Limits {
    let seconds = Duration::from_secs(20);
    Limits { cpu_per_batch: seconds, cpu_per_record: seconds, ..Limits::default() }
}

fn with_output(output_bytes: usize) -> Limits {
    Limits { output_bytes, ..patient() }
}

/// A column of text cells in the layout of `wit/types.wit`.
fn text_column(cells: &[&str]) -> FieldColumn {
    let mut column = FieldColumn { values: vec![0; 4], ..FieldColumn::default() };
    for cell in cells {
        column.data.extend_from_slice(cell.as_bytes());
        column.values.extend_from_slice(&(column.data.len() as u32).to_le_bytes());
    }
    column
}

fn s64s(values: &[i64]) -> Vec<u8> {
    values.iter().flat_map(|value| value.to_le_bytes()).collect()
}
