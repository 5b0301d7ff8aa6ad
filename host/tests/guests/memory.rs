//! Guests that take room: linear memory, tables, the stack, handles.

use pelton::config::Limits;
use pelton::pipeline::TrapKind;
use pelton::plugin::LoadError;

use crate::support::{apply, batch, load, load_with, refused};
use crate::{patient, trap_of, trapped};

guests! {
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

    born_with_a_giant_table => {
        let error = refused("born_with_a_giant_table");
        assert!(matches!(error, LoadError::Compile { .. }), "{error}");
        assert!(error.to_string().contains("table"), "{error}");
    }

    grows_in_realloc => {
        let limits = Limits { memory_bytes: 24 << 20, ..Limits::default() };
        match load_with("grows_in_realloc", &[], limits) {
            Err(LoadError::Start { kind: TrapKind::MemoryLimit, .. }) => {}
            Ok(guest) => assert_eq!(trap_of(&guest, &batch(&["a"])).kind, TrapKind::MemoryLimit),
            Err(error) => panic!("{error}"),
        }
    }

    fills_its_table => {
        let trapped = trapped("fills_its_table", patient());
        assert_eq!(trapped.kind, TrapKind::MemoryLimit, "{}", trapped.message);
        assert!(trapped.backtrace.starts_with("out-of-table"), "{}", trapped.backtrace);
    }

    creeps => {
        let guest = load_with("creeps", &[], patient()).unwrap();
        for _ in 0..40 {
            apply(&guest, &batch(&["a"])).expect("an instance that has grown is replaced in time");
        }
    }

    hoards => {
        let guest = load("hoards");
        for _ in 0..3 {
            apply(&guest, &batch(&["a"])).expect("each batch meets an instance that has not grown yet");
        }
    }

    hoards_handles => {
        let trapped = trapped("hoards_handles", patient());
        assert!(trapped.message.contains("handle limit"), "{}", trapped.message);
    }

    recurses => {
        let trapped = trapped("recurses", Limits::default());
        assert_eq!(trapped.kind, TrapKind::Trap);
        assert!(trapped.message.contains("stack"), "{}", trapped.message);
        assert!(trapped.backtrace.lines().count() <= 64);
    }

    speaks_from_the_deep => {
        let trapped = trapped("speaks_from_the_deep", patient());
        assert_eq!(trapped.kind, TrapKind::Trap);
        assert!(trapped.message.contains("stack"), "{}", trapped.message);
    }
}
