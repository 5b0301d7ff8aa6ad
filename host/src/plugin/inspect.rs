//! What `pelton plugin inspect` tells about a component beyond what the host needs to know.
//!
//! In: the bytes of a file. Out: an [`Inspection`]. Compiles and runs nothing; what a component says about its makers
//! is for people only.

use std::collections::BTreeSet;

use wasmparser::{KnownCustom, Parser, Payload};

use super::artifact::{self, ArtifactError, Description, Interface};
use super::{Capability, wasi};

/// What a component is, for people.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct Inspection {
    /// World, version, imports, digest, size.
    #[serde(flatten)]
    pub description: Description,
    /// Imports that no grant covers, by their full names.
    pub ungrantable: Vec<String>,
    /// Imports of WASI that an inert shell answers: nothing is gained by them, and nothing granted.
    pub shell: Vec<String>,
    /// The languages and tools that made it, as they say.
    pub producers: Vec<Producer>,
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

/// Looks into a component.
///
/// # Errors
/// Where the bytes are no component.
pub fn inspect(bytes: &[u8]) -> Result<Inspection, ArtifactError> {
    let description = artifact::describe(bytes)?;
    let others = description.imports.iter().filter(|import| !is_grantable(import)).cloned();
    let (shell, ungrantable) =
        others.partition(|import| Interface::parse(import).is_some_and(|interface| wasi::is_in_shell(&interface)));
    let producers = producers(bytes)
        .map_err(|error| ArtifactError::Malformed { offset: error.offset(), message: error.message().to_owned() })?;
    Ok(Inspection { description, ungrantable, shell, producers })
}

impl Inspection {
    /// Whether it exports what a world of Pelton needs.
    #[must_use]
    pub fn is_plugin(&self) -> bool {
        self.description.world != "unknown"
    }

    /// The names that belong into `grants:`, in a line.
    #[must_use]
    pub fn grants(&self) -> String {
        let names: Vec<&str> = self.description.capabilities.iter().map(|capability| capability.name()).collect();
        if names.is_empty() { "none".to_owned() } else { names.join(", ") }
    }
}

/// A capability, or the interface that holds types alone.
fn is_grantable(import: &str) -> bool {
    let interface = import.strip_prefix(artifact::PACKAGE).and_then(|rest| rest.strip_prefix('/'));
    let name = interface.and_then(|interface| interface.split('@').next());
    name.is_some_and(|name| name == "types" || Capability::by_name(name).is_some())
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
    use wit_parser::Resolve;

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
        let inspection = inspect(&component).expect("a component");
        let description = &inspection.description;
        assert_eq!((description.world.as_str(), inspection.is_plugin()), ("transform", true));
        assert_eq!(description.interface_version.as_deref(), Some("0.1.0"));
        assert_eq!(description.capabilities, [Capability::Log]);
        assert_eq!(inspection.grants(), "log");
        assert!(inspection.shell.is_empty());
        assert_eq!(inspection.ungrantable, ["pelton:plugin/state@0.1.0", "outside"]);
        assert!(inspection.producers.iter().any(|producer| producer.name == "wit-component"));
    }

    #[test]
    fn a_component_of_another_world_is_described_as_such() {
        let component = dummy("package other:things@1.0.0; world w { export run: func(); }", "w");
        let inspection = inspect(&component).expect("a component");
        assert!(!inspection.is_plugin());
        assert_eq!(inspection.description.interface_version, None);
        assert_eq!(inspection.description.exports, ["run"]);
        assert_eq!(inspection.grants(), "none");
    }
}
