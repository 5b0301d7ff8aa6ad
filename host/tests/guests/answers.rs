//! Guests whose answers lie: rows, spans, lengths, pointers, text, and what `realloc` gives.

use pelton::config::Limits;
use pelton::pipeline::TrapKind;

use crate::support::{apply, batch, load, load_with};
use crate::{trap_of, trapped, with_output};

guests! {
    floods_output => {
        let trapped = trapped("floods_output", with_output(1 << 20));
        assert_eq!(trapped.kind, TrapKind::OutputLimit, "{}", trapped.message);
        let checked = crate::trapped("floods_output", with_output(8 << 20 >> 1));
        assert_eq!(checked.kind, TrapKind::OutputLimit, "{}", checked.message);
        let guest = load_with("floods_output", &[], with_output(Limits::default().output_bytes)).unwrap();
        let within = apply(&guest, &batch(&["a"]));
        assert!(within.is_ok(), "within its limit it may: {within:?}");
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

    lies_later => {
        let guest = load("lies_later");
        assert!(apply(&guest, &batch(&["a"])).is_ok());
        assert!(apply(&guest, &batch(&["a"])).is_ok());
        assert_eq!(trap_of(&guest, &batch(&["a"])).kind, TrapKind::InvalidOutput);
        assert!(apply(&guest, &batch(&["a"])).is_ok(), "a fresh instance");
    }

    fails_and_keeps => { lies("fails_and_keeps", "both fails and leaves"); }
    reallocs_outside => { lies("reallocs_outside", "beyond end of memory"); }
    reallocs_askew => { lies("reallocs_askew", "not aligned"); }

    reallocs_one_place => {
        // Its own input lies in ruins, and what it answers holds all the same.
        assert_eq!(apply(&load("reallocs_one_place"), &batch(&["a", "b"])).unwrap().rows.len(), 2);
    }

    calls_out_of_realloc => {
        let trapped = trapped("calls_out_of_realloc", Limits::default());
        assert_eq!(trapped.kind, TrapKind::Trap);
        assert!(trapped.message.contains("cannot leave component instance"), "{}", trapped.message);
    }

    traps_in_post_return => {
        let trapped = trapped("traps_in_post_return", Limits::default());
        assert_eq!(trapped.kind, TrapKind::Trap);
        assert!(trapped.backtrace.starts_with("tidy_up"), "{}", trapped.backtrace);
    }
}

fn lies(guest: &str, about: &str) {
    let trapped = trapped(guest, Limits::default());
    assert_eq!(trapped.kind, TrapKind::InvalidOutput, "{guest}: {}", trapped.message);
    assert!(trapped.message.contains(about), "{guest}: {}", trapped.message);
}
