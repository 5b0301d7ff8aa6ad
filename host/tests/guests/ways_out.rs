//! Guests that ask others, where they are granted to nobody: `host/tests/http.rs` has what they reach where they are.

use pelton::pipeline::{OutOp, TrapKind};

use crate::support::{apply, batch, load, refused};
use crate::trap_of;

fn told(guest: &str) -> Vec<String> {
    let output = apply(&load(guest), &batch(&["http://127.0.0.1/", "https://api.example.com/"])).unwrap();
    let value = |op: &OutOp| {
        let OutOp::Replace(span) = op else { panic!("{op:?}") };
        String::from_utf8_lossy(&output.data[span.offset as usize..][..span.length as usize]).into_owned()
    };
    output.rows.iter().map(|row| value(&row.op)).collect()
}

guests! {
    reaches_out => {
        assert_eq!(told("reaches_out"), ["no host is granted"; 2]);
    }

    asks_together => {
        assert_eq!(told("asks_together"), ["no host is granted"; 2]);
    }

    asks_for_ever => {
        // Where it is stopped is chance: in the host call, or beside it.
        assert_eq!(trap_of(&load("asks_for_ever"), &batch(&["http://127.0.0.1/"])).kind, TrapKind::CpuLimit);
    }

    asks_in_configure => {
        let error = refused("asks_in_configure").to_string();
        assert_eq!(error, "it refuses its configuration: nobody is asked but while a batch is handled");
    }
}
