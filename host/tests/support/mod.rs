//! Encodes the guests of `tests/guests` into components, and loads them.

#![allow(dead_code, reason = "each test binary uses its own part")]
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test that cannot go on has failed")]

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::{Arc, LazyLock};

use pelton::config::Limits;
use pelton::pipeline::{Transform as _, TransformError, TransformInput, TransformOutput};
use pelton::plugin::{Capability, LoadError, Runtime, WasmTransform};
use pelton::record::{Batch, Offset, TopicPartition};

/// Where the guests are.
pub(crate) fn guests_dir() -> PathBuf {
    repository().join("tests/guests")
}

fn repository() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

/// Encodes a guest: its text, and the world that it names, or `transform`.
pub(crate) fn component(guest: &str) -> Vec<u8> {
    let dir = guests_dir();
    let text = complete(&std::fs::read_to_string(dir.join(guest).join("guest.wat")).unwrap());
    let world_file = dir.join(guest).join("world.wit");
    encode(guest, &text, world_file.exists().then_some(world_file.as_path()))
}

/// The text of a guest with its common parts.
pub(crate) fn complete(text: &str) -> String {
    let part = |name: &str| std::fs::read_to_string(guests_dir().join(name)).unwrap();
    text.replace(";; @memory", &part("memory.wat")).replace(";; @configure", &part("configure.wat"))
}

/// Encodes a guest from its text, for the world in a file, or `transform`.
pub(crate) fn encode(guest: &str, text: &str, world_file: Option<&Path>) -> Vec<u8> {
    let mut module = wat::parse_str(text).unwrap_or_else(|error| panic!("{guest}: {error}"));
    let mut resolve = wit_parser::Resolve::default();
    let (own, _) = resolve.push_path(repository().join("wit")).unwrap();
    let world = if let Some(world_file) = world_file {
        let text = std::fs::read_to_string(world_file).unwrap();
        let package = resolve.push_str(world_file, &text).unwrap_or_else(|error| panic!("{guest}: {error:#}"));
        resolve.select_world(&[package], Some("guest")).unwrap()
    } else {
        resolve.select_world(&[own], Some("transform")).unwrap()
    };
    wit_component::embed_component_metadata(&mut module, &resolve, world, wit_component::StringEncoding::UTF8, false)
        .unwrap();
    wit_component::ComponentEncoder::default()
        .module(&module)
        .and_then(|encoder| encoder.validate(true).encode())
        .unwrap_or_else(|error| panic!("{guest}: {error:#}"))
}

/// One runtime for all tests of a process, without a cache.
pub(crate) fn runtime() -> &'static Arc<Runtime> {
    static RUNTIME: LazyLock<Arc<Runtime>> = LazyLock::new(|| Runtime::new(None, 2).unwrap());
    &RUNTIME
}

/// Loads a guest under these grants and limits.
pub(crate) fn load_with(guest: &str, grants: &[Capability], limits: Limits) -> Result<WasmTransform, LoadError> {
    let grants: BTreeSet<Capability> = grants.iter().copied().collect();
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
