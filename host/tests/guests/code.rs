//! Guests whose code is the sin: what it costs to read, compile and keep, and files that are no guests.

use std::sync::LazyLock;
use std::time::Duration;

use pelton::config::{Grants, Limits};
use pelton::pipeline::{Transform as _, TransformInput, TrapKind};
use pelton::plugin::{Capability, Compiler, LoadError, Runtime, WasmTransform};
use proptest::prelude::*;

use crate::support::{self, apply, batch, load, load_with, refused};
use crate::text_column;

guests! {
    exports_without_end => {
        let error = refused("exports_without_end").to_string();
        assert_eq!(error, "it has more than 1000 exports, a plugin may have 1000");
    }

    compiles_for_ever => {
        let error = refused("compiles_for_ever");
        assert!(matches!(error, LoadError::TooCostly { .. }), "{error}");
    }

    weighs_100_mib => {
        let error = refused("weighs_100_mib");
        assert!(matches!(error, LoadError::TooLarge { max: 67_108_864, .. }), "{error}");
    }

    brings_much_code => {
        // Within what is set aside for its size, or not: in either case it costs this process no more than the image.
        match load_with("brings_much_code", &[], Limits::default()) {
            Ok(guest) => assert!(apply(&guest, &batch(&["a"])).is_ok()),
            Err(error) => assert!(matches!(error, LoadError::TooCostly { .. }), "{error}"),
        }
    }

    carries_ballast => {
        assert!(apply(&load("carries_ballast"), &batch(&["a"])).is_ok());
    }

    brings_giant_data => {
        assert!(apply(&load("brings_giant_data"), &batch(&["a"])).is_ok());
    }

    brings_many_modules => {
        let error = refused("brings_many_modules");
        assert!(matches!(error, LoadError::Start { kind: TrapKind::MemoryLimit, .. }), "{error}");
        assert!(error.to_string().contains("instance count too high"), "{error}");
    }
}

#[test]
fn a_compiled_plugin_is_kept_and_used_again() {
    let dir = tempfile::tempdir().unwrap();
    let cache = dir.path().join("cache");
    let start = || Runtime::new(Some(&cache), 1).unwrap();
    support::load_on(&start(), "chokes", &serde_json::Value::Null);
    let images = || -> Vec<_> { std::fs::read_dir(&cache).unwrap().map(|entry| entry.unwrap().path()).collect() };
    let kept = images();
    assert_eq!(kept.len(), 1);
    let written = |path: &std::path::Path| std::fs::metadata(path).unwrap().modified().unwrap();
    let first = written(&kept[0]);

    let guest = support::load_on(&start(), "chokes", &serde_json::Value::Null);
    assert!(apply(&guest, &batch(&["a"])).is_ok());
    assert_eq!((images(), written(&kept[0])), (kept.clone(), first), "it came from the cache");

    // Damage anywhere is found before a byte of it is run.
    let whole = std::fs::read(&kept[0]).unwrap();
    for at in [0, 31, 32, whole.len() / 2, whole.len() - 1] {
        let mut damaged = whole.clone();
        damaged[at] ^= 1;
        std::fs::write(&kept[0], damaged).unwrap();
        let guest = support::load_on(&start(), "chokes", &serde_json::Value::Null);
        assert!(apply(&guest, &batch(&["a"])).is_ok());
        assert_eq!(std::fs::read(&kept[0]).unwrap()[..32], whole[..32], "it was compiled anew");
    }
}

/// A plugin may be compiled for hours by its author, and in the daemon it is not: what the compiler's process makes is as
/// good as what this process makes.
#[test]
fn what_the_child_compiles_is_what_this_process_would() {
    let dir = tempfile::tempdir().unwrap();
    let image = |name: &str, compiler: Compiler| {
        let cache = dir.path().join(name);
        let runtime = Runtime::with_compiler(Some(&cache), 1, compiler).unwrap();
        support::load_on(&runtime, "mirrors", &serde_json::Value::Null);
        let file = std::fs::read_dir(&cache).unwrap().next().unwrap().unwrap();
        (file.file_name(), std::fs::metadata(file.path()).unwrap().len())
    };
    let child = Compiler::Child(env!("CARGO_BIN_EXE_pelton").into());
    assert_eq!(image("here", Compiler::Here), image("child", child));
}

#[test]
fn a_compiler_that_is_not_there_or_says_nothing_is_an_error_and_no_plugin() {
    for (program, said) in [
        ("/no/such/program", "no process to compile it in"),
        ("/bin/false", "does not compile"),
        ("/bin/true", "this engine does not run it"),
    ] {
        let runtime = Runtime::with_compiler(None, 1, Compiler::Child(program.into())).unwrap();
        let bytes = support::component("chokes");
        let (config, grants) = (serde_json::Value::Null, Grants::default());
        let error = WasmTransform::from_bytes(&runtime, "x", &bytes, &config, &grants, Limits::default()).unwrap_err();
        assert!(error.to_string().contains(said), "{program}: {error}");
    }
}

#[test]
fn a_cache_that_cannot_be_written_costs_no_plugin() {
    let file = tempfile::NamedTempFile::new().unwrap();
    let runtime = Runtime::new(Some(&file.path().join("cache")), 1).unwrap();
    let guest = support::load_on(&runtime, "chokes", &serde_json::Value::Null);
    assert!(apply(&guest, &batch(&["a"])).is_ok());
}

#[test]
fn a_cache_that_vanishes_costs_no_plugin() {
    let dir = tempfile::tempdir().unwrap();
    let runtime = Runtime::new(Some(dir.path()), 1).unwrap();
    // Every write fails from now on, as it does where no room is left.
    std::fs::remove_dir(dir.path()).unwrap();
    let guest = support::load_on(&runtime, "chokes", &serde_json::Value::Null);
    assert!(apply(&guest, &batch(&["a"])).is_ok());
}

#[test]
fn what_is_no_component_is_named() {
    let load = |bytes: &[u8]| {
        WasmTransform::from_bytes(
            support::runtime(),
            "x",
            bytes,
            &serde_json::Value::Null,
            &Grants::default(),
            Limits::default(),
        )
        .unwrap_err()
        .to_string()
    };
    assert!(load(b"").contains("an empty file"));
    assert!(load(b"fn main() {}").contains("a text file"));
    assert!(load(b"\0asm\x01\0\0\0").contains("a core WebAssembly module"));
    let whole = support::component("chokes");
    for cut in [9, whole.len() / 2, whole.len() - 1] {
        let error = load(&whole[..cut]);
        assert!(error.contains("damaged") || error.contains("no transform"), "{error}");
    }
    let missing = WasmTransform::load(
        support::runtime(),
        "x",
        "/no/such/plugin.wasm".as_ref(),
        &serde_json::Value::Null,
        &Grants::default(),
        Limits::default(),
    );
    assert!(missing.unwrap_err().to_string().starts_with("cannot read /no/such/plugin.wasm"));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    /// A file with flipped, cut or repeated bytes is refused or runs; it never takes the host with it.
    #[test]
    fn a_mangled_component_is_refused_or_contained(
        flips in proptest::collection::vec((any::<proptest::sample::Index>(), any::<u8>()), 1..4),
        end in proptest::option::of(any::<proptest::sample::Index>()),
    ) {
        static WHOLE: LazyLock<Vec<u8>> = LazyLock::new(|| support::component("mirrors"));
        // Hundreds of compilations: without a process for each.
        static HERE: LazyLock<std::sync::Arc<Runtime>> = LazyLock::new(|| Runtime::new(None, 1).unwrap());
        let mut bytes = WHOLE.clone();
        for (at, value) in flips {
            let at = at.index(bytes.len());
            bytes[at] = value;
        }
        if let Some(end) = end {
            bytes.truncate(end.index(bytes.len()));
        }
        let limits = Limits { cpu_per_batch: Duration::from_millis(50), ..Limits::default() };
        let config = serde_json::Value::Null;
        let grants = Capability::ALL.into();
        if let Ok(guest) = WasmTransform::from_bytes(&HERE, "mangled", &bytes, &config, &grants, limits) {
            let names = vec![text_column(&["Ann"]); guest.subscription().value_fields.len()];
            let _ = guest.apply(&TransformInput { batch: &batch(&["a"]), value_fields: &names });
        }
    }
}

#[test]
fn more_plugins_than_there_is_room_for_are_refused_in_words() {
    let dir = tempfile::tempdir().unwrap();
    let runtime = Runtime::new(Some(dir.path()), 1).unwrap();
    let bytes = support::component("chokes");
    let load = || {
        let (config, grants) = (serde_json::Value::Null, Grants::default());
        WasmTransform::from_bytes(&runtime, "chokes", &bytes, &config, &grants, Limits::default())
    };
    let mut loaded = Vec::new();
    let error = loop {
        match load() {
            Ok(guest) => loaded.push(guest),
            Err(error) => break error,
        }
        assert!(loaded.len() < 2_000, "there is no limit at all");
    };
    assert!(matches!(error, LoadError::Host { .. }), "{error}");
    assert!(error.to_string().contains("too many plugins run at once"), "{error}");
    loaded.pop();
    assert!(load().is_ok(), "room comes back with those that leave");
}
