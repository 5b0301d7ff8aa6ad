//! Guests that take time: each is stopped by the CPU time of its own thread.

use std::time::Duration;

use pelton::config::Limits;
use pelton::pipeline::{TransformError, TrapKind};
use pelton::plugin::LoadError;

use crate::support::{apply, batch, load_with, refused};
use crate::{patient, stopped_in_time, trap_of, trapped};

guests! {
    spins => {
        let trapped = stopped_in_time("spins");
        assert!(trapped.message.contains("its limit is 150 ms"), "{}", trapped.message);
    }

    spins_in_configure => {
        let error = refused("spins_in_configure");
        assert!(matches!(error, LoadError::Start { kind: TrapKind::CpuLimit, .. }), "{error}");
    }

    spins_in_start => {
        let error = refused("spins_in_start");
        assert!(matches!(error, LoadError::Start { kind: TrapKind::CpuLimit, .. }), "{error}");
    }

    spins_in_realloc => { stopped_in_time("spins_in_realloc"); }
    spins_in_post_return => { stopped_in_time("spins_in_post_return"); }

    fills_memory => {
        stopped_in_time("fills_memory");
    }

    floods_host_calls => {
        let trapped = stopped_in_time("floods_host_calls");
        assert_eq!(trapped.logs.len(), 20);
    }

    shouts => {
        let trapped = trapped("shouts", Limits::default());
        assert_eq!(trapped.kind, TrapKind::CpuLimit, "{}", trapped.message);
        assert!(trapped.logs.iter().all(|line| line.message.len() < 5_000));
    }

    dawdles => {
        let unlimited = patient();
        let used = apply(&load_with("dawdles", &[], unlimited).unwrap(), &batch(&["a"])).unwrap().usage.cpu_ns;
        let twice = Duration::from_nanos(used * 2);
        let limits = Limits { cpu_per_batch: twice, cpu_per_record: twice, ..Limits::default() };
        let guest = load_with("dawdles", &[], limits).unwrap();
        for _ in 0..4 {
            apply(&guest, &batch(&["a"])).expect("each batch has the whole budget: nothing is carried over");
        }
    }
}

#[test]
fn a_batch_of_one_record_may_not_take_the_time_of_many() {
    let limits = Limits {
        cpu_per_batch: Duration::from_secs(60),
        cpu_per_record: Duration::from_millis(20),
        ..Limits::default()
    };
    let guest = load_with("spins", &[], limits).unwrap();
    for (records, limit) in [(&["a"][..], "its limit is 70 ms"), (&["a", "b", "c"], "its limit is 110 ms")] {
        let trapped = trap_of(&guest, &batch(records));
        assert_eq!(trapped.kind, TrapKind::CpuLimit, "{}", trapped.message);
        assert!(trapped.message.contains(limit), "{}", trapped.message);
    }
}

#[test]
fn a_machine_that_is_too_busy_is_not_the_records_fault() {
    let hour = Duration::from_secs(3600);
    let limits =
        Limits { wall_per_batch: Duration::ZERO, cpu_per_batch: hour, cpu_per_record: hour, ..Limits::default() };
    let guest = load_with("spins", &[], limits).unwrap();
    let answer = apply(&guest, &batch(&["a"]));
    assert!(matches!(answer, Err(TransformError::Busy { .. })), "{answer:?}");
}
