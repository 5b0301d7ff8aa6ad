//! Guests that say too much, or give up: logs, metrics, panics, failures at length.

use pelton::config::{Limits, Mask};
use pelton::pipeline::{Transform as _, TransformError, TrapKind};
use pelton::plugin::LoadError;
use pelton::record::Offset;

use crate::support::{self, apply, batch, load, load_with, refused};
use crate::{patient, trap_of, trapped};

guests! {
    stumbles => {
        let guest = load("stumbles");
        assert_eq!(guest.subscription().headers, ["trap"]);
        let mut records = batch(&["a", "b"]);
        assert_eq!(apply(&guest, &records).unwrap().rows.len(), 2);
        records.push(Offset(102), None, None, None, [("trap", Some(&b""[..]))]);
        assert_eq!(trap_of(&guest, &records).kind, TrapKind::Trap);
    }

    panics => {
        let trapped = trapped("panics", Limits::default());
        assert_eq!(trapped.kind, TrapKind::Trap);
        assert!(trapped.message.contains("unreachable"), "{}", trapped.message);
        assert_eq!(trapped.backtrace.lines().take(2).collect::<Vec<_>>(), ["panic_handler", "apply_one_row"]);
        assert_eq!(trapped.logs[0].message, "called `Option::unwrap()` on a `None` value");
    }

    gives_up => {
        let trapped = trapped("gives_up", Limits::default());
        assert_eq!((trapped.kind, trapped.message.as_str()), (TrapKind::Fatal, "no model loaded"));
    }

    gives_up_at_length => {
        let trapped = trapped("gives_up_at_length", patient());
        assert_eq!(trapped.kind, TrapKind::Fatal);
        assert!(trapped.message.len() < 5_000, "{} bytes", trapped.message.len());
    }

    procrastinates => {
        let answer = apply(&load("procrastinates"), &batch(&["a"]));
        assert!(matches!(&answer, Err(TransformError::Retry { message, .. }) if message == "not now"), "{answer:?}");
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

    floods_failures => {
        let trapped = trapped("floods_failures", patient());
        assert_eq!(trapped.kind, TrapKind::InvalidOutput, "{}", trapped.message);
        assert!(trapped.message.contains("failure code"), "{}", trapped.message);
    }

    refuses_at_length => {
        let error = refused("refuses_at_length");
        assert!(matches!(error, LoadError::Config { .. }), "another error");
        let error = error.to_string();
        assert!(error.len() < 5_000, "{} bytes", error.len());
        assert!(error.ends_with("(41943040 bytes, cut)"), "{}", &error[4_000..]);
    }

    names_itself_at_length => {
        let trapped = trapped("names_itself_at_length", patient());
        assert_eq!(trapped.kind, TrapKind::Trap);
        assert!(trapped.backtrace.starts_with("nnnn"));
        assert!(trapped.backtrace.len() < 64 * 600, "{} bytes", trapped.backtrace.len());
    }

    repeats_its_config => {
        let config = serde_json::json!({ "token": "abc123-and-more" });
        let guest = support::load_on(support::runtime(), "repeats_its_config", &config);
        let said = logged(|| guest.tell_first_words(&Mask::of(["abc123-and-more"])));
        assert!(said.contains(r#"{"token":"***"}"#) && !said.contains("abc123"), "{said}");
        // What it says about a batch is masked behind its door: `pipeline::masking`.
        let output = apply(&guest, &batch(&["a"])).unwrap();
        assert_eq!(output.effects.logs[0].message, config.to_string());
        assert_eq!((output.failures[0].code.as_str(), output.failures[0].message.as_str()), ("call_failed", config.to_string().as_str()));
    }

    prints => {
        let guest = load("prints");
        let output = apply(&guest, &batch(&["a"])).unwrap();
        let lines: Vec<&str> = output.effects.logs.iter().map(|line| line.message.as_str()).collect();
        assert_eq!(lines, ["one line", "another"]);
        let silent = load_with("prints", &[], Limits::default()).unwrap();
        assert!(apply(&silent, &batch(&["a"])).unwrap().effects.logs.is_empty(), "what is not granted is not given");
    }

    chokes => {
        let guest = load("chokes");
        let trapped = trap_of(&guest, &batch(&["good", "Poison", "good"]));
        assert!(trapped.backtrace.starts_with("choke_on_row"), "{}", trapped.backtrace);
        assert_eq!(apply(&guest, &batch(&["good", "", "good"])).unwrap().rows.len(), 3);
    }
}

/// What is logged meanwhile.
fn logged(work: impl FnOnce()) -> String {
    let (mut reader, writer) = std::io::pipe().unwrap();
    let subscriber =
        tracing_subscriber::fmt().with_ansi(false).with_writer(move || writer.try_clone().unwrap()).finish();
    tracing::subscriber::with_default(subscriber, work);
    let mut text = String::new();
    std::io::Read::read_to_string(&mut reader, &mut text).unwrap();
    text
}
