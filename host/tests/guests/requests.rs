//! Guests that ask for what they may not have, or are of another kind: each is refused in words, before it sees a record
//! where that can be known.

use pelton::config::Limits;
use pelton::pipeline::TrapKind;
use pelton::plugin::{Capability, LoadError};

use crate::support::{apply, batch, load, load_with, refused};
use crate::trapped;

guests! {
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

    wants_the_unknown => {
        insta::assert_snapshot!(refused("wants_the_unknown"), @r"
        it asks for more than it is granted
          asks for: nothing
          granted:  log, metrics, config, clock, random, http
          unknown:  acme:hardware/gpu@1.0.0
          this host offers log, metrics, config, clock, random, http of pelton:plugin; build it without the rest
          version:  pelton:plugin/log@0.2.0; this host speaks 0.1.0, build it anew against that
        ");
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
        insta::assert_snapshot!(error, @"its functions have other types than `pelton:plugin@0.1.0` (type-checking export func `configure`: expected 1-tuple, found 0-tuple); build it anew against the interface of this host");
    }

    sets_twice => {
        let error = refused("sets_twice").to_string();
        assert_eq!(error, "its subscription is not valid: set-field `total` stands there twice");
    }

    refuses_config => {
        let error = refused("refuses_config").to_string();
        assert_eq!(error, "it refuses its configuration: vat_percent: must be a number");
    }

    traps_in_configure => {
        let LoadError::Start { kind: TrapKind::Trap, backtrace, .. } = refused("traps_in_configure") else { panic!("another error") };
        assert!(backtrace.starts_with("read_configuration"), "{backtrace}");
    }

    asks_for_other_rows => {
        let trapped = trapped("asks_for_other_rows", Limits::default());
        assert_eq!(trapped.kind, TrapKind::Trap);
        assert_eq!(trapped.message, "clock.time was asked for row 1, which is not in the current batch");
    }

    looks_at_the_clock => {
        let trapped = trapped("looks_at_the_clock", Limits::default());
        assert_eq!(trapped.kind, TrapKind::Trap);
        assert!(trapped.message.contains("`wasi:clocks/wall-clock#now` was called"), "{}", trapped.message);
    }

    prints_in_knots => {
        let error = refused("prints_in_knots").to_string();
        assert!(error.contains("`wasi:io/streams#[method]output-stream.write` takes lists of more than numbers"), "{error}");
    }

    forges_handles => {
        let trapped = trapped("forges_handles", Limits::default());
        assert!(trapped.message.contains("unknown handle index"), "{}", trapped.message);
    }
}
