//! Encodes the guests of `tests/guests` into components, and loads them.

#![allow(dead_code, reason = "each test binary uses its own part")]
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test that cannot go on has failed")]

mod encode;

use std::path::Path;
use std::sync::{Arc, LazyLock};

use pelton::config::{Grants, Limits};
use pelton::pipeline::{Transform as _, TransformError, TransformInput, TransformOutput};
use pelton::plugin::{Capability, Compiler, LoadError, Runtime, WasmTransform};
use pelton::record::{Batch, Offset, TopicPartition};

#[allow(unused_imports, reason = "each test binary uses its own part")]
pub(crate) use encode::{complete, component, encode, guests, guests_dir};

/// One runtime for all tests of a process, without a cache; it compiles as the daemon does.
pub(crate) fn runtime() -> &'static Arc<Runtime> {
    static RUNTIME: LazyLock<Arc<Runtime>> = LazyLock::new(|| {
        let program = Compiler::Child(Path::new(env!("CARGO_BIN_EXE_pelton")).to_owned());
        Runtime::with_compiler(None, 2, program).unwrap()
    });
    &RUNTIME
}

/// Loads a guest under these grants and limits.
pub(crate) fn load_with(guest: &str, grants: &[Capability], limits: Limits) -> Result<WasmTransform, LoadError> {
    let grants: Grants = grants.iter().copied().collect();
    WasmTransform::from_bytes(runtime(), guest, &component(guest), &serde_json::Value::Null, &grants, limits)
}

/// Loads a guest on a runtime of the test's own, with a configuration.
pub(crate) fn load_on(runtime: &Arc<Runtime>, guest: &str, config: &serde_json::Value) -> WasmTransform {
    let grants = Capability::ALL.into();
    WasmTransform::from_bytes(runtime, guest, &component(guest), config, &grants, Limits::default())
        .unwrap_or_else(|error| panic!("{guest}: {error}"))
}

/// Loads a guest that is granted everything.
pub(crate) fn load(guest: &str) -> WasmTransform {
    load_with(guest, &Capability::ALL, Limits::default()).unwrap_or_else(|error| panic!("{guest}: {error}"))
}

/// Loads a guest that must not load.
pub(crate) fn refused(guest: &str) -> LoadError {
    match load_with(guest, &Capability::ALL, Limits::default()) {
        Ok(_) => panic!("{guest} was let in"),
        Err(error) => error,
    }
}

/// A batch with these values.
pub(crate) fn batch(values: &[&str]) -> Batch {
    let mut batch = Batch::new(TopicPartition::new("shop.orders", 3));
    for (row, value) in values.iter().enumerate() {
        let offset = 100 + row as i64;
        batch.push(Offset(offset), Some(1_700_000_000_000 + offset), Some(b"key"), Some(value.as_bytes()), []);
    }
    batch
}

/// Hands a batch to a guest that reads no typed fields.
pub(crate) fn apply(guest: &WasmTransform, batch: &Batch) -> Result<TransformOutput, TransformError> {
    guest.apply(&TransformInput { batch, value_fields: &[] })
}
