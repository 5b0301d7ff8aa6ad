//! Every guest of `tests/guests` is contained, and each in its own way.

#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "tests")]

mod support;

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use pelton::config::Limits;
use pelton::pipeline::{LogLine, Transform as _, TransformError, TrapKind};
use pelton::plugin::{Capability, LoadError};
use pelton::record::Batch;
use support::{apply, batch, load, load_with, refused};

/// Declares the tests, and with them the list that the folders are held against.
macro_rules! guests {
    ($($name:ident => $body:block)*) => {
        const TESTED: &[&str] = &[$(stringify!($name)),*];
        $(#[test] fn $name() $body)*
    };
}

#[test]
fn every_guest_has_a_test_and_every_test_a_guest() {
    let folders: BTreeSet<String> = std::fs::read_dir(support::guests_dir())
        .unwrap()
        .map(Result::unwrap)
        .filter(|entry| entry.file_type().unwrap().is_dir())
        .map(|entry| entry.file_name().into_string().unwrap())
        .collect();
    assert_eq!(folders, TESTED.iter().map(|name| (*name).to_owned()).collect());
}

/// What a trap leaves behind.
struct Trapped {
    kind: TrapKind,
    message: String,
    backtrace: String,
    logs: Vec<LogLine>,
}

fn trapped(guest: &str, limits: Limits) -> Trapped {
    let guest = load_with(guest, &Capability::ALL, limits).unwrap_or_else(|error| panic!("{guest}: {error}"));
    let first = trap_of(&guest, &batch(&["a"]));
    // A trap poisons the instance; the next batch meets another one, which fails in the same way.
    let second = trap_of(&guest, &batch(&["a"]));
    assert_eq!((first.kind, &first.backtrace), (second.kind, &second.backtrace));
    first
}

fn trap_of(guest: &pelton::plugin::WasmTransform, batch: &Batch) -> Trapped {
    match apply(guest, batch) {
        Err(TransformError::Trap { kind, message, backtrace, logs }) => Trapped { kind, message, backtrace, logs },
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
    let limits = Limits { cpu_per_batch: Duration::from_millis(150), ..Limits::default() };
    let loaded = load_with(guest, &Capability::ALL, limits).unwrap_or_else(|error| panic!("{guest}: {error}"));
    let before = thread_cpu();
    let trapped = trap_of(&loaded, &batch(&["a"]));
    let used = thread_cpu() - before;
    assert_eq!(trapped.kind, TrapKind::CpuLimit, "{}", trapped.message);
    assert!(used >= limits.cpu_per_batch, "stopped after {used:?}");
    assert!(used < limits.cpu_per_batch + Duration::from_millis(100), "stopped after {used:?}");
    trapped
}

fn with_output(output_bytes: usize) -> Limits {
    Limits { output_bytes, ..Limits::default() }
}

guests! {
    well_behaved => {
        let guest = load("well_behaved");
        let output = apply(&guest, &batch(&["a", "b"])).unwrap();
        assert_eq!(output.rows.len(), 2);
        assert!(output.usage.cpu_ns > 1_000_000, "{:?}", output.usage);
        assert_eq!(output.usage.memory_bytes, 2 << 16);
    }

    spins => {
        let trapped = stopped_in_time("spins");
        assert!(trapped.message.contains("its limit is 150 ms"), "{}", trapped.message);
    }

    spins_in_configure => {
        let error = refused("spins_in_configure");
        assert!(matches!(error, LoadError::Start { kind: TrapKind::CpuLimit, .. }), "{error}");
    }

    fills_memory => {
        stopped_in_time("fills_memory");
    }

    floods_host_calls => {
        let trapped = stopped_in_time("floods_host_calls");
        assert_eq!(trapped.logs.len(), 20);
    }

    allocates => {
        let trapped = trapped("allocates", Limits::default());
        assert_eq!(trapped.kind, TrapKind::MemoryLimit, "{}", trapped.message);
        assert!(trapped.message.contains("its limit is 67108864"), "{}", trapped.message);
        assert!(trapped.backtrace.contains("out-of-memory"), "{}", trapped.backtrace);
    }

    born_too_big => {
        let error = refused("born_too_big");
        assert!(matches!(error, LoadError::Start { kind: TrapKind::MemoryLimit, .. }), "{error}");
    }

    panics => {
        let trapped = trapped("panics", Limits::default());
        assert_eq!(trapped.kind, TrapKind::Trap);
        assert!(trapped.message.contains("unreachable"), "{}", trapped.message);
        assert_eq!(trapped.backtrace.lines().take(2).collect::<Vec<_>>(), ["panic_handler", "apply_one_row"]);
        assert_eq!(trapped.logs[0].message, "called `Option::unwrap()` on a `None` value");
    }

    recurses => {
        let trapped = trapped("recurses", Limits::default());
        assert_eq!(trapped.kind, TrapKind::Trap);
        assert!(trapped.message.contains("stack"), "{}", trapped.message);
        assert!(trapped.backtrace.lines().count() <= 64);
    }

    floods_logs => {
        let output = apply(&load("floods_logs"), &batch(&["a"])).unwrap();
        let bytes: usize = output.effects.logs.iter().map(|line| line.message.len()).sum();
        assert!(bytes <= 256 << 10, "{bytes} bytes of lines");
        assert_eq!(output.effects.logs.len() as u64 + output.effects.logs_dropped, 1000);
        assert!(output.effects.logs[0].message.contains("cut"));
    }

    floods_metrics => {
        let output = apply(&load("floods_metrics"), &batch(&["a"])).unwrap();
        assert_eq!((output.effects.metrics.len(), output.effects.metrics_dropped), (64, 10_000 - 64));
    }

    floods_output => {
        let trapped = trapped("floods_output", with_output(1 << 20));
        assert_eq!(trapped.kind, TrapKind::OutputLimit, "{}", trapped.message);
        let checked = self::trapped("floods_output", with_output(8 << 20 >> 1));
        assert_eq!(checked.kind, TrapKind::OutputLimit, "{}", checked.message);
        assert!(apply(&load("floods_output"), &batch(&["a"])).is_ok(), "within its limit it may");
    }

    multiplies => {
        let large = "x".repeat(10_000);
        let guest = load_with("multiplies", &[], with_output(1 << 20)).unwrap();
        let trapped = trap_of(&guest, &batch(&[&large]));
        assert_eq!(trapped.kind, TrapKind::OutputLimit, "{}", trapped.message);
        assert_eq!(apply(&guest, &batch(&["x"])).unwrap().rows.len(), 1000);
    }

    lies_rows => { lies("lies_rows", "row 7"); }
    lies_spans => { lies("lies_spans", "4..12"); }
    lies_lengths => { lies("lies_lengths", "not a multiple of 4"); }
    lies_pointers => { lies("lies_pointers", "out of bounds"); }
    lies_text => { lies("lies_text", "utf-8"); }
    fails_and_keeps => { lies("fails_and_keeps", "both fails and leaves"); }

    traps_in_configure => {
        let LoadError::Start { kind: TrapKind::Trap, backtrace, .. } = refused("traps_in_configure") else { panic!("another error") };
        assert!(backtrace.starts_with("read_configuration"), "{backtrace}");
    }

    refuses_config => {
        let error = refused("refuses_config").to_string();
        assert_eq!(error, "it refuses its configuration: vat_percent: must be a number");
    }

    sets_twice => {
        let error = refused("sets_twice").to_string();
        assert_eq!(error, "its subscription is not valid: set-field `total` stands there twice");
    }

    gives_up => {
        let trapped = trapped("gives_up", Limits::default());
        assert_eq!((trapped.kind, trapped.message.as_str()), (TrapKind::Fatal, "no model loaded"));
    }

    procrastinates => {
        let answer = apply(&load("procrastinates"), &batch(&["a"]));
        assert!(matches!(&answer, Err(TransformError::Retry(message)) if message == "not now"), "{answer:?}");
    }

    asks_too_much => {
        let error = load_with("asks_too_much", &[Capability::Log], Limits::default()).unwrap_err();
        insta::assert_snapshot!(error, @r"
        it asks for more than it is granted
          asks for: log, clock, random
          granted:  log
          missing:  clock, random; to grant it, write `grants: [log, clock, random]`
        ");
        assert!(apply(&load("asks_too_much"), &batch(&["a"])).is_ok(), "with its grants it may");
    }

    asks_for_other_rows => {
        let trapped = trapped("asks_for_other_rows", Limits::default());
        assert_eq!(trapped.kind, TrapKind::Trap);
        assert_eq!(trapped.message, "clock.time was asked for row 1, which is not in the current batch");
    }

    hides_state => {
        let guest = load("hides_state");
        let records = batch(&["a"]);
        let fresh = apply(&guest, &records).unwrap();
        let reused = apply(&guest, &records).unwrap();
        guest.drop_instances();
        let fresh_again = apply(&guest, &records).unwrap();
        assert_ne!(fresh.rows, reused.rows);
        assert_eq!(fresh.rows, fresh_again.rows);
    }

    hoards => {
        let guest = load("hoards");
        for _ in 0..3 {
            apply(&guest, &batch(&["a"])).expect("each batch meets an instance that has not grown yet");
        }
    }

    chokes => {
        let guest = load("chokes");
        let trapped = trap_of(&guest, &batch(&["good", "Poison", "good"]));
        assert!(trapped.backtrace.starts_with("choke_on_row"), "{}", trapped.backtrace);
        assert_eq!(apply(&guest, &batch(&["good", "", "good"])).unwrap().rows.len(), 3);
    }

    wrong_world => {
        let error = refused("wrong_world").to_string();
        assert_eq!(
            error,
            "it is no transform: it exports run, a transform exports `configure` and `process`; build it for the world \
             `pelton:plugin/transform`"
        );
    }

    wrong_types => {
        let error = refused("wrong_types");
        assert!(matches!(error, LoadError::Interface { .. }), "{error}");
    }

    wants_the_unknown => {
        insta::assert_snapshot!(refused("wants_the_unknown"), @r"
        it asks for more than it is granted
          asks for: nothing
          granted:  log, metrics, config, clock, random
          unknown:  acme:hardware/gpu@1.0.0; this host offers log, metrics, config, clock, random of pelton:plugin
          version:  pelton:plugin/log@0.2.0; this host speaks 0.1.0, build it anew against that
        ");
    }

    prints => {
        let guest = load("prints");
        let output = apply(&guest, &batch(&["a"])).unwrap();
        let lines: Vec<&str> = output.effects.logs.iter().map(|line| line.message.as_str()).collect();
        assert_eq!(lines, ["one line", "another"]);
        let silent = load_with("prints", &[], Limits::default()).unwrap();
        assert!(apply(&silent, &batch(&["a"])).unwrap().effects.logs.is_empty(), "what is not granted is not given");
    }

    looks_at_the_clock => {
        let trapped = trapped("looks_at_the_clock", Limits::default());
        assert_eq!(trapped.kind, TrapKind::Trap);
        assert!(trapped.message.contains("`wasi:clocks/wall-clock#now` was called"), "{}", trapped.message);
    }
}

fn lies(guest: &str, about: &str) {
    let trapped = trapped(guest, Limits::default());
    assert_eq!(trapped.kind, TrapKind::InvalidOutput, "{guest}: {}", trapped.message);
    assert!(trapped.message.contains(about), "{guest}: {}", trapped.message);
}

#[test]
fn a_good_guest_is_not_failed_by_a_machine_loaded_four_times_over() {
    let alone = apply(&load("well_behaved"), &batch(&["a"])).unwrap().usage.cpu_ns;
    // Less than the wall time of one batch under this load, more than its CPU time on a slow day.
    let limits = Limits { cpu_per_batch: Duration::from_nanos(alone * 5 / 2), ..Limits::default() };
    let guest = load_with("well_behaved", &[], limits).unwrap();
    let cores = std::thread::available_parallelism().unwrap().get();
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        for _ in 0..cores * 4 {
            scope.spawn(|| {
                while !done.load(Ordering::Relaxed) {
                    std::hint::spin_loop();
                }
            });
        }
        let results: Vec<_> = (0..10).map(|_| apply(&guest, &batch(&["a", "b"]))).collect();
        done.store(true, Ordering::Relaxed);
        for result in results {
            result.expect("good under load");
        }
    });
}

#[test]
fn a_machine_that_is_too_busy_is_not_the_records_fault() {
    let limits =
        Limits { wall_per_batch: Duration::ZERO, cpu_per_batch: Duration::from_secs(3600), ..Limits::default() };
    let guest = load_with("spins", &[], limits).unwrap();
    let answer = apply(&guest, &batch(&["a"]));
    assert!(matches!(answer, Err(TransformError::Busy(_))), "{answer:?}");
}
