//! The files of a project: `config`.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::path::Path;

use tempfile::TempDir;

use crate::config;

const SETTINGS: &str = include_str!("../../../../host/src/config/default.yaml");
const PIPELINE: &str = include_str!("../../../../host/src/config/default_pipeline.yaml");
const MANIFEST: &str = include_str!("../../../../host/src/config/default_plugin.yaml");
const FILES: [(&str, &str); 3] =
    [("pelton.yaml", SETTINGS), ("pipelines/orders.yaml", PIPELINE), ("plugins/shop-orders.yaml", MANIFEST)];

thread_local! {
    /// A project whose files are all well, but for the one that is being tried.
    static PROJECT: RefCell<TempDir> = RefCell::new({
        let dir = tempfile::tempdir().expect("a directory");
        for (file, text) in FILES {
            let path = dir.path().join(file);
            std::fs::create_dir_all(path.parent().expect("a file is in a directory")).expect("a directory");
            std::fs::write(path, text).expect("a file");
        }
        std::fs::write(dir.path().join("plugins/shop-orders.wasm"), b"\0asm").expect("a file");
        dir
    });
}

/// Any bytes in the place of any file of a project are read, or named with file, line and column. The first byte says
/// which file.
pub fn configs(bytes: &[u8]) {
    let Some((which, text)) = bytes.split_first() else { return };
    let (file, whole) = FILES[match which {
        b'p' => 1,
        b'm' => 2,
        _ => 0,
    }];
    PROJECT.with_borrow(|dir| {
        let path = dir.path().join(file);
        std::fs::write(&path, text).expect("a file");
        read(dir.path(), file, text);
        std::fs::write(&path, whole).expect("a file");
    });
}

fn read(dir: &Path, file: &str, text: &[u8]) {
    let environment = BTreeMap::from([("NAME".to_owned(), "value".to_owned())]);
    let reading = config::read(dir, &environment);
    let lines = text.split(|byte| *byte == b'\n').count() + text.iter().filter(|byte| **byte == b'\r').count();
    for problem in &reading.problems {
        assert!(!problem.file.is_empty(), "a problem without a file: {problem:?}");
        if problem.file == file {
            assert!(problem.line >= 1 && problem.column >= 1, "a problem without a place: {problem:?}");
            assert!(problem.line <= lines + 1, "a problem behind the end of {lines} lines: {problem:?}");
        }
        assert!(!problem.found.is_empty(), "a problem without words: {problem:?}");
        assert!(problem.to_string().len() < 64 << 10, "a problem of {} bytes", problem.to_string().len());
    }
    // What is printed, and what runs.
    std::hint::black_box(reading.valid_part().pipelines.len());
    let _ = reading.into_project().map_err(|errors| errors.to_string());
}
