//! What a file claims to be, before any of it is compiled.
//!
//! In: the bytes of a `.wasm` file. Out: a [`Description`] (its world, what it asks for, its digest), or why it is no
//! plugin. Reads the component's own imports and exports, never what a build tool wrote about them; compiles and runs
//! nothing.

use wasmparser::{ComponentTypeRef, Encoding, Parser, Payload, TypeBounds};

use super::Capability;
use crate::record::Digest;

/// The package that every interface of a plugin belongs to.
pub const PACKAGE: &str = "pelton:plugin";

/// The version of the interface that this host speaks.
pub const INTERFACE_VERSION: &str = "0.1.0";

/// Imports, and exports, of a component.
const NAMES_MAX: usize = 1_000;
/// Bytes of the name of one; a package, an interface, a version.
const NAME_BYTES_MAX: usize = 500;

/// What a component says about itself.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct Description {
    /// `transform` where it exports all that the world needs, else `unknown`.
    pub world: String,
    /// The version of `pelton:plugin` that it was built for; none where it names no interface of it.
    pub interface_version: Option<String>,
    /// Every import by its full name, in order: the permission request.
    pub imports: Vec<String>,
    /// The capabilities among the imports.
    pub capabilities: Vec<Capability>,
    /// Every export by its full name, in order.
    pub exports: Vec<String>,
    /// SHA-256 of the file.
    #[serde(serialize_with = "as_text")]
    pub digest: Digest,
    /// Bytes of the file.
    pub size: usize,
}

fn as_text<S: serde::Serializer>(digest: &Digest, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_str(digest)
}

/// Why a file is no plugin.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ArtifactError {
    /// Something else altogether.
    #[error("this is no WebAssembly file but {found}; a plugin is a component, as `pelton plugin build` makes it")]
    NotWasm {
        /// What it looks like.
        found: &'static str,
    },
    /// A core module.
    #[error(
        "this is a core WebAssembly module, not a component; `pelton plugin build` wraps it, or \
         `wasm-tools component new` does"
    )]
    CoreModule,
    /// More names, or longer ones, than any plugin has.
    #[error("it has {found}, a plugin may have {max}")]
    Names {
        /// How many, or how long.
        found: String,
        /// What is allowed.
        max: usize,
    },
    /// Cut off, or damaged.
    #[error("the file is damaged at byte {offset}: {message}")]
    Malformed {
        /// Where.
        offset: u64,
        /// What the reader said.
        message: String,
    },
}

/// Reads what a component asks for and offers.
///
/// # Errors
/// Where the bytes are no component, or a damaged one.
pub fn describe(bytes: &[u8]) -> Result<Description, ArtifactError> {
    if !bytes.starts_with(b"\0asm") {
        return Err(ArtifactError::NotWasm { found: guess(bytes) });
    }
    let (imports, exports) = top_level_names(bytes)?;
    let world = if exports.iter().any(|name| name == "configure") && exports.iter().any(|name| name == "process") {
        "transform"
    } else {
        "unknown"
    };
    let interfaces: Vec<Interface<'_>> = imports.iter().filter_map(|name| Interface::parse(name)).collect();
    let own = || interfaces.iter().filter(|interface| interface.package == PACKAGE);
    Ok(Description {
        world: world.to_owned(),
        interface_version: own().find_map(|interface| interface.version).map(str::to_owned),
        capabilities: own().filter_map(|interface| Capability::by_name(interface.name)).collect(),
        digest: Digest::of(bytes),
        size: bytes.len(),
        imports,
        exports,
    })
}

/// An interface's name taken apart: `package/name@version`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Interface<'a> {
    /// `wasi:cli`
    pub(super) package: &'a str,
    /// `environment`
    pub(super) name: &'a str,
    /// `0.2.3`
    pub(super) version: Option<&'a str>,
}

impl<'a> Interface<'a> {
    /// The parts; none where the name is a plain one.
    pub(super) fn parse(full: &'a str) -> Option<Self> {
        let (package, rest) = full.split_once('/')?;
        let (name, version) = match rest.split_once('@') {
            Some((name, version)) => (name, Some(version)),
            None => (rest, None),
        };
        Some(Self { package, name, version })
    }
}

fn top_level_names(bytes: &[u8]) -> Result<(Vec<String>, Vec<String>), ArtifactError> {
    let (mut imports, mut exports) = (Vec::new(), Vec::new());
    let mut depth = 0_usize;
    for payload in Parser::new(0).parse_all(bytes) {
        match payload.map_err(malformed)? {
            Payload::Version { encoding: Encoding::Module, .. } if depth == 0 => return Err(ArtifactError::CoreModule),
            Payload::ModuleSection { .. } | Payload::ComponentSection { .. } => depth += 1,
            Payload::End(_) => depth = depth.saturating_sub(1),
            Payload::ComponentImportSection(section) if depth == 0 => {
                for import in section {
                    let import = import.map_err(malformed)?;
                    // A type by another name, such as those that a world `use`s: nothing to grant.
                    if !matches!(import.ty, ComponentTypeRef::Type(TypeBounds::Eq(_))) {
                        note(&mut imports, "imports", import.name.full_name().into_owned())?;
                    }
                }
            }
            Payload::ComponentExportSection(section) if depth == 0 => {
                for export in section {
                    note(&mut exports, "exports", export.map_err(malformed)?.name.full_name().into_owned())?;
                }
            }
            _ => {}
        }
    }
    Ok((imports, exports))
}

/// Keeps a name, as long as names stay what a person could read in a message.
fn note(names: &mut Vec<String>, what: &str, name: String) -> Result<(), ArtifactError> {
    if name.len() > NAME_BYTES_MAX {
        let found = format!("a name of {} bytes among its {what}", name.len());
        return Err(ArtifactError::Names { found, max: NAME_BYTES_MAX });
    }
    if names.len() == NAMES_MAX {
        return Err(ArtifactError::Names { found: format!("more than {NAMES_MAX} {what}"), max: NAMES_MAX });
    }
    names.push(name);
    Ok(())
}

#[expect(clippy::needless_pass_by_value, reason = "the shape of map_err")]
fn malformed(error: wasmparser::BinaryReaderError) -> ArtifactError {
    ArtifactError::Malformed { offset: error.offset(), message: error.message().to_owned() }
}

fn guess(bytes: &[u8]) -> &'static str {
    let starts = |magic: &[u8]| bytes.starts_with(magic);
    if bytes.is_empty() {
        "an empty file"
    } else if starts(b"\x7fELF") {
        "a native or a precompiled file"
    } else if starts(b"PK\x03\x04") || starts(b"\x1f\x8b") {
        "a compressed archive"
    } else if starts(b"(module") || starts(b"(component") {
        "WebAssembly text"
    } else if std::str::from_utf8(&bytes[..bytes.len().min(512)]).is_ok() {
        "a text file"
    } else {
        "something of an unknown kind"
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn says_what_a_file_is_instead() {
        for (bytes, found) in [
            (&b""[..], "an empty file"),
            (b"\x7fELF\x02", "a native or a precompiled file"),
            (b"(component)", "WebAssembly text"),
            (b"source: kafka", "a text file"),
            (b"\xff\xfe\x00", "something of an unknown kind"),
        ] {
            assert_eq!(describe(bytes), Err(ArtifactError::NotWasm { found }));
        }
    }

    #[test]
    fn tells_a_core_module_from_a_component() {
        assert_eq!(describe(b"\0asm\x01\0\0\0"), Err(ArtifactError::CoreModule));
        let empty = describe(b"\0asm\x0d\0\x01\0").expect("an empty component");
        assert_eq!((empty.world.as_str(), empty.imports.len(), empty.exports.len()), ("unknown", 0, 0));
    }

    #[test]
    fn a_cut_component_is_named_as_damaged() {
        assert!(matches!(describe(b"\0asm\x0d\0\x01\0\x0a\x7f"), Err(ArtifactError::Malformed { .. })));
    }

    #[test]
    fn takes_an_interface_name_apart() {
        let interface = Interface::parse("wasi:cli/environment@0.2.3").expect("an interface");
        assert_eq!((interface.package, interface.name, interface.version), ("wasi:cli", "environment", Some("0.2.3")));
        assert_eq!(Interface::parse("process"), None);
    }
}
