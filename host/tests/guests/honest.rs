//! Guests that do no wrong: all that they read and set comes through, on a loaded machine and side by side too.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use pelton::config::Limits;
use pelton::pipeline::{MetricUpdate, OutOp, OutRow, Span, Transform as _, TransformInput};
use pelton::record::{Batch, Field, FieldType, Offset, Policy, TopicPartition};

use crate::support::{self, apply, batch, load, load_with};
use crate::{s64s, text_column};

guests! {
    mirrors => {
        let guest = load("mirrors");
        let subscription = guest.subscription();
        assert!(subscription.parts.key && subscription.parts.value && subscription.parts.all_headers);
        assert!(subscription.parts.offset && subscription.parts.timestamp);
        assert_eq!((subscription.headers[0].as_str(), subscription.routes[0].as_str()), ("trace", "other"));
        let name = Field {
            path: vec!["name".into()], field_type: FieldType::Text, on_missing: Policy::Null, on_mismatch: Policy::Reject,
        };
        assert_eq!(subscription.value_fields, [name]);

        let mut records = Batch::new(TopicPartition::new("shop.orders", 3));
        records.push(Offset(7), Some(1_000), Some(b"k1"), Some(b"v1"), [("trace", Some(&b"old"[..])), ("trace", Some(b"one"))]);
        records.push(Offset(9), None, None, None, [("other", Some(&b"x"[..]))]);
        records.push(Offset(12), Some(3_000), Some(b"k3"), Some("v\u{fc}".as_bytes()), [("trace", Some(&b""[..]))]);
        let names = text_column(&["Ann", "", "Zo\u{eb}"]);
        for _ in 0..3 {
            let input = TransformInput { batch: &records, value_fields: std::slice::from_ref(&names) };
            let output = guest.apply(&input).unwrap();
            assert_eq!(
                output.rows,
                [
                    OutRow { row: 0, op: OutOp::Replace(Span { offset: 0, length: 3 }), route: 1 },
                    OutRow { row: 1, op: OutOp::Tombstone, route: 1 },
                    OutRow { row: 2, op: OutOp::Replace(Span { offset: 3, length: 0 }), route: 1 },
                ]
            );
            assert_eq!(output.data, b"one");
            assert_eq!(output.set_fields[0].values, s64s(&[1_000, -1, 3_000]));
            assert_eq!(output.set_fields[1].values, s64s(&[7, 9, 12]));
            assert_eq!((&output.set_fields[2].values, &output.set_fields[2].data), (&names.values, &names.data));
            let lines: Vec<&str> = output.effects.logs.iter().map(|line| line.message.as_str()).collect();
            assert_eq!(lines[..3], ["shop.orders", "k1k3", "v1v\u{fc}"]);
            assert!(lines[3].contains("old") && lines[3].contains("other"));
        }
        // Any part of a batch is a batch, down to none of it.
        for rows in [vec![2], vec![0, 1], vec![]] {
            let part = records.select(rows.clone());
            let all = ["Ann", "", "Zo\u{eb}"];
            let names = text_column(&rows.iter().map(|row| all[*row]).collect::<Vec<_>>());
            let output = guest.apply(&TransformInput { batch: &part, value_fields: &[names] }).unwrap();
            assert_eq!(output.rows.len(), rows.len());
        }
    }

    asks_the_host => {
        let config = serde_json::json!({ "greeting": { "text": "hello" }, "other": 1 });
        let guest = support::load_on(support::runtime(), "asks_the_host", &config);
        let records = batch(&["a", "b"]);
        let output = apply(&guest, &records).unwrap();
        assert_eq!(output.set_fields[0].values, s64s(&records.timestamps));
        assert_ne!(output.set_fields[1].values[..8], output.set_fields[1].values[8..]);
        assert_eq!(output.effects.logs[0].message, r#"{"text":"hello"}"#);
        assert_eq!(
            output.effects.metrics,
            [
                MetricUpdate::Count("time".into(), 2),
                MetricUpdate::Observe("greeting".into(), 0.0),
                MetricUpdate::Observe("greeting".into(), 1.0),
                MetricUpdate::Gauge("seed".into(), 2.0),
            ]
        );
        // The same record sees the same chance in another batch, on another instance, after a restart.
        let again = support::load_on(support::runtime(), "asks_the_host", &serde_json::Value::Null);
        let second = apply(&again, &records.select([1])).unwrap();
        assert_eq!(second.set_fields[1].values, output.set_fields[1].values[8..]);
        assert!(second.effects.logs.is_empty(), "no such key");
    }

    well_behaved => {
        let guest = load("well_behaved");
        let output = apply(&guest, &batch(&["a", "b"])).unwrap();
        assert_eq!(output.rows.len(), 2);
        assert!(output.usage.cpu_ns > 1_000_000, "{:?}", output.usage);
        assert_eq!(output.usage.memory_bytes, 2 << 16);
    }
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
fn a_trusted_guest_runs_where_nothing_interrupts_it() {
    let limits = Limits { trusted: true, cpu_per_batch: Duration::ZERO, ..Limits::default() };
    let guest = load_with("well_behaved", &[], limits).unwrap();
    assert_eq!(apply(&guest, &batch(&["a"])).unwrap().rows.len(), 1);
}

#[test]
fn several_threads_run_one_plugin_side_by_side() {
    let guest = load("mirrors");
    let names = text_column(&["Ann", "Zoe"]);
    std::thread::scope(|scope| {
        for thread in 0..4_i64 {
            let (guest, names) = (&guest, &names);
            scope.spawn(move || {
                for round in 0..200 {
                    let mut records = Batch::new(TopicPartition::new("t", thread as i32));
                    let offset = thread * 10_000 + round;
                    for row in 0..2 {
                        records.push(Offset(offset + row), None, None, Some(b"v"), []);
                    }
                    let input = TransformInput { batch: &records, value_fields: std::slice::from_ref(names) };
                    let output = guest.apply(&input).unwrap();
                    assert_eq!(output.set_fields[1].values, s64s(&[offset, offset + 1]));
                }
            });
        }
    });
}
