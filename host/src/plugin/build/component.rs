//! From a core module to a component in a file.
//!
//! In: the module that the compiler linked. Out: a validated component, without debug information but with the names
//! of functions, so that a backtrace can be read. The file is replaced whole or not at all.

use std::io::Write as _;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

use wasmparser::{Parser, Payload};
use wit_component::ComponentEncoder;

/// Makes a component of a module.
///
/// # Errors
/// The encoder's words: the module does not fit the interface that is written in it, or is invalid.
pub(super) fn encode(module: &[u8]) -> Result<Vec<u8>, String> {
    let module = without_debug_information(module).map_err(|error| error.to_string())?;
    ComponentEncoder::default()
        .validate(true)
        .module(&module)
        .and_then(|encoder| encoder.encode())
        .map_err(|error| format!("{error:#}"))
}

/// The module without its `.debug_…` sections: an installed standard library brings megabytes of them.
fn without_debug_information(module: &[u8]) -> Result<Vec<u8>, wasmparser::BinaryReaderError> {
    let mut kept = Vec::with_capacity(module.len());
    for payload in Parser::new(0).parse_all(module) {
        let payload = payload?;
        match &payload {
            Payload::Version { range, .. } => kept.extend_from_slice(bytes_of(module, range)),
            Payload::CustomSection(section) if section.name().starts_with(".debug_") => {}
            _ => {
                if let Some((id, range)) = payload.as_section() {
                    let content = bytes_of(module, &range);
                    kept.push(id);
                    push_leb128(&mut kept, content.len());
                    kept.extend_from_slice(content);
                }
            }
        }
    }
    Ok(kept)
}

fn bytes_of<'a>(module: &'a [u8], range: &std::ops::Range<u64>) -> &'a [u8] {
    module.get(range.start as usize..range.end as usize).expect("the parser gives ranges of what it was given")
}

fn push_leb128(bytes: &mut Vec<u8>, mut number: usize) {
    while number > 0x7f {
        bytes.push(number as u8 | 0x80);
        number >>= 7;
    }
    bytes.push(number as u8);
}

/// Replaces a file whole.
pub(super) fn write(file: &Path, bytes: &[u8]) -> std::io::Result<()> {
    let dir = file.parent().filter(|dir| !dir.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let mut temporary = tempfile::Builder::new().prefix(".pelton-").suffix(".wasm").tempfile_in(dir)?;
    temporary.write_all(bytes)?;
    temporary.as_file().sync_all()?;
    // Temporary files are private; an artifact is for everybody.
    temporary.as_file().set_permissions(std::fs::Permissions::from_mode(0o644))?;
    temporary.persist(file).map_err(|error| error.error)?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn debug_information_goes_and_names_stay() {
        let mut module = b"\0asm\x01\0\0\0".to_vec();
        for (name, length) in [(".debug_info", 300), ("name", 0), (".debug_str", 2), ("producers", 1)] {
            let mut content = vec![name.len() as u8];
            content.extend_from_slice(name.as_bytes());
            content.resize(content.len() + length, 0);
            module.push(0);
            push_leb128(&mut module, content.len());
            module.extend_from_slice(&content);
        }
        let kept = without_debug_information(&module).expect("a module");
        let names: Vec<String> = Parser::new(0)
            .parse_all(&kept)
            .filter_map(|payload| match payload.expect("still a module") {
                Payload::CustomSection(section) => Some(section.name().to_owned()),
                _ => None,
            })
            .collect();
        assert_eq!(names, ["name", "producers"]);
    }

    #[test]
    fn a_file_is_replaced_and_nothing_else_is_left_behind() {
        let dir = tempfile::tempdir().expect("a directory");
        let file = dir.path().join("a.wasm");
        write(&file, b"one").expect("written");
        write(&file, b"two").expect("written");
        assert_eq!(std::fs::read(&file).expect("readable"), b"two");
        assert_eq!(std::fs::read_dir(dir.path()).expect("readable").count(), 1);
    }
}
