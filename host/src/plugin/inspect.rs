//! What a component says about itself, without running it.
//!
//! In: the bytes of a file. Out: a [`Description`]: which world it was made for, of which version of the interface,
//! and what it imports, which is its permission request. Never compiles, links or trusts it: what a component claims
//! about its makers is for people only.

use std::collections::BTreeSet;

use wasmparser::{KnownCustom, Parser, Payload};
use wit_component::DecodedWasm;
use wit_parser::{Resolve, WorldItem};

use super::Capability;
use crate::record::Digest;

/// The package of `wit/`, without its version.
const PACKAGE: &str = "pelton:plugin/";

/// What a component is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Description {
    /// SHA-256 of the file.
    pub digest: Digest,
    /// Its size.
    pub size_bytes: usize,
    /// The world whose functions it exports; none where they are no world of ours.
    pub world: Option<World>,
    /// The version of `pelton:plugin` that it was made for; none where it uses nothing of it.
    pub interface_version: Option<String>,
    /// Capabilities that it imports: what it must be granted.
    pub capabilities: BTreeSet<Capability>,
    /// Interfaces and functions that it imports and nobody can grant, as it names them.
    pub foreign_imports: Vec<String>,
    /// Its functions and interfaces, as it names them.
    pub exports: Vec<String>,
    /// The languages and tools that made it, as they say.
    pub producers: Vec<Producer>,
}

/// A world of `wit/`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "lowercase")]
pub enum World {
    /// A stream transform.
    Transform,
}

impl World {
    /// Its name in `wit/`.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Transform => "transform",
        }
    }

    fn of(exports: &[String]) -> Option<Self> {
        let exported = |name: &str| exports.iter().any(|export| export == name);
        (exported("configure") && exported("process")).then_some(Self::Transform)
    }
}

/// One line of a producers section.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, serde::Serialize)]
pub struct Producer {
    /// `language`, `processed-by` or `sdk`.
    pub field: String,
    /// Name of a language or tool.
    pub name: String,
    /// Its version; may be empty.
    pub version: String,
}

/// Why a file is no component.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NotAComponent {
    /// Not WebAssembly at all.
    #[error("this is not a WebAssembly file")]
    NotWasm,
    /// A core module.
    #[error(
        "this is a core WebAssembly module, not a component; `pelton plugin build` makes a component of a Rust plugin"
    )]
    CoreModule,
    /// Only types.
    #[error("this is a WIT package, not a component")]
    WitPackage,
    /// It begins like a component.
    #[error("this component cannot be read: {0}")]
    Malformed(String),
}

/// Describes a component.
///
/// # Errors
/// Where the bytes are no component.
pub fn describe(bytes: &[u8]) -> Result<Description, NotAComponent> {
    if Parser::is_core_wasm(bytes) {
        return Err(NotAComponent::CoreModule);
    }
    if !Parser::is_component(bytes) {
        return Err(NotAComponent::NotWasm);
    }
    let malformed = |error: &dyn std::fmt::Display| NotAComponent::Malformed(error.to_string());
    let (resolve, world) = match wit_component::decode(bytes).map_err(|error| malformed(&format!("{error:#}")))? {
        DecodedWasm::Component(resolve, world) => (resolve, world),
        DecodedWasm::WitPackage(..) => return Err(NotAComponent::WitPackage),
    };
    let world = resolve.worlds.get(world).ok_or_else(|| malformed(&"it has no world"))?;
    let mut interface_version = None;
    let mut capabilities = BTreeSet::new();
    let mut foreign_imports = Vec::new();
    for (key, item) in &world.imports {
        let name = resolve.name_world_key(key);
        match name.strip_prefix(PACKAGE).and_then(|rest| rest.split_once('@')) {
            Some((interface, version)) => {
                interface_version.get_or_insert_with(|| version.to_owned());
                match Capability::by_name(interface) {
                    Some(capability) => drop(capabilities.insert(capability)),
                    None if has_functions(&resolve, item) => foreign_imports.push(name),
                    None => {}
                }
            }
            None if has_functions(&resolve, item) => foreign_imports.push(name),
            None => {}
        }
    }
    let exports: Vec<String> = world.exports.keys().map(|key| resolve.name_world_key(key)).collect();
    Ok(Description {
        digest: Digest::of(bytes),
        size_bytes: bytes.len(),
        world: World::of(&exports),
        interface_version,
        capabilities,
        foreign_imports,
        exports,
        producers: producers(bytes).map_err(|error| malformed(&error))?,
    })
}

/// Whether an import gives power: interfaces of types alone, and types, are harmless.
fn has_functions(resolve: &Resolve, item: &WorldItem) -> bool {
    match item {
        WorldItem::Interface { id, .. } => {
            resolve.interfaces.get(*id).is_none_or(|interface| !interface.functions.is_empty())
        }
        WorldItem::Function(_) => true,
        WorldItem::Type { .. } => false,
    }
}

/// The producers sections of a component and all that is nested in it, without repeats.
fn producers(bytes: &[u8]) -> Result<Vec<Producer>, wasmparser::BinaryReaderError> {
    let mut found = BTreeSet::new();
    for payload in Parser::new(0).parse_all(bytes) {
        let Payload::CustomSection(section) = payload? else { continue };
        let KnownCustom::Producers(fields) = section.as_known() else { continue };
        for field in fields {
            let field = field?;
            for value in field.values {
                let value = value?;
                found.insert(Producer {
                    field: field.name.to_owned(),
                    name: value.name.to_owned(),
                    version: value.version.to_owned(),
                });
            }
        }
    }
    Ok(found.into_iter().collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A component that exports nothing real, but whose outside is that of the world.
    fn dummy(wit: &str, world: &str) -> Vec<u8> {
        let mut resolve = Resolve::default();
        let package = resolve.push_str("test.wit", wit).expect("the interface parses");
        let world = resolve.select_world(&[package], Some(world)).expect("the world is there");
        let mut module = wit_component::dummy_module(
            &resolve,
            world,
            wit_parser::ManglingAndAbi::Legacy(wit_parser::LiftLowerAbi::Sync),
        );
        wit_component::embed_component_metadata(
            &mut module,
            &resolve,
            world,
            wit_component::StringEncoding::UTF8,
            false,
        )
        .expect("metadata fit in");
        wit_component::ComponentEncoder::default()
            .module(&module)
            .and_then(|encoder| encoder.validate(true).encode())
            .expect("a component")
    }

    #[test]
    fn imports_are_the_permission_request() {
        let component = dummy(
            "package pelton:plugin@0.1.0;
             interface types { record batch { count: u32 } }
             interface log { write: func(message: string); }
             interface state { get: func(key: string) -> list<u8>; }
             world transform {
               use types.{batch};
               import log; import state; import outside: func();
               export configure: func(config: string);
               export process: func(batch: batch);
             }",
            "transform",
        );
        let description = describe(&component).expect("a component");
        assert_eq!(description.world, Some(World::Transform));
        assert_eq!(description.interface_version.as_deref(), Some("0.1.0"));
        assert_eq!(description.capabilities, BTreeSet::from([Capability::Log]));
        assert_eq!(description.foreign_imports, ["pelton:plugin/state@0.1.0", "outside"]);
        assert_eq!(description.size_bytes, component.len());
        assert_eq!(description.digest, Digest::of(&component));
        assert!(description.producers.iter().any(|producer| producer.name == "wit-component"));
    }

    #[test]
    fn a_component_of_another_world_is_described_as_such() {
        let component = dummy("package other:things@1.0.0; world w { export run: func(); }", "w");
        let description = describe(&component).expect("a component");
        assert_eq!(description.world, None);
        assert_eq!(description.interface_version, None);
        assert_eq!(description.exports, ["run"]);
    }

    #[test]
    fn other_files_are_told_apart() {
        assert_eq!(describe(b"hello"), Err(NotAComponent::NotWasm));
        assert_eq!(describe(b"\0asm\x01\0\0\0"), Err(NotAComponent::CoreModule));
        assert!(matches!(describe(b"\0asm\x0d\0\x01\0\xff"), Err(NotAComponent::Malformed(_))));
    }
}
