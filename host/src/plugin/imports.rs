//! What a component may import: the grant check, and the linker that follows it.
//!
//! In: a component's [`Description`] and the grants of its step. Out: a linker that holds the granted capabilities and
//! nothing else, or a [`Refusal`] that shows asked, granted and missing side by side. What is not granted is not linked:
//! there is no second check at the time of a call that could be forgotten.

use std::collections::BTreeSet;
use std::fmt;

use wasmtime::component::{Component, HasSelf, Linker};

use super::Capability;
use super::artifact::{Description, INTERFACE_VERSION, Interface, PACKAGE};
use super::bindings;
use super::state::State;
use super::wasi;
use crate::config::Grants;

/// What a component asks for beyond what it may have.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Refusal {
    /// Capabilities that it imports.
    pub asked: BTreeSet<Capability>,
    /// Capabilities that it was granted.
    pub granted: BTreeSet<Capability>,
    /// Interfaces that this host does not have.
    pub unknown: Vec<String>,
    /// Interfaces of a version that this host does not speak.
    pub versions: Vec<String>,
}

impl Refusal {
    /// Asked for, not granted.
    #[must_use]
    pub fn missing(&self) -> BTreeSet<Capability> {
        self.asked.difference(&self.granted).copied().collect()
    }

    fn is_empty(&self) -> bool {
        self.missing().is_empty() && self.unknown.is_empty() && self.versions.is_empty()
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "it asks for more than it is granted")?;
        write!(f, "\n  asks for: {}", names(&self.asked))?;
        write!(f, "\n  granted:  {}", names(&self.granted))?;
        let missing = self.missing();
        if !missing.is_empty() {
            let all = self.asked.union(&self.granted).map(|capability| capability.written());
            let all = all.collect::<Vec<_>>().join(", ");
            write!(f, "\n  missing:  {}; to grant it, write `grants: [{all}]`", names(&missing))?;
        }
        for name in &self.unknown {
            write!(f, "\n  unknown:  {name}")?;
            if name.starts_with("wasi:http") {
                write!(
                    f,
                    " (Pelton's own `http` leads out; componentize-js: build with http and fetch-event disabled)"
                )?;
            }
            if name.starts_with("wasi:sockets") {
                write!(f, " (componentize-py: build with --stub-wasi)")?;
            }
        }
        if !self.unknown.is_empty() {
            write!(
                f,
                "\n  this host offers {} of {PACKAGE}; build it without the rest",
                names(&Capability::ALL.into())
            )?;
        }
        for name in &self.versions {
            write!(f, "\n  version:  {name}; this host speaks {INTERFACE_VERSION}, build it anew against that")?;
        }
        Ok(())
    }
}

fn names(capabilities: &BTreeSet<Capability>) -> String {
    if capabilities.is_empty() {
        return "nothing".to_owned();
    }
    capabilities.iter().map(|capability| capability.name()).collect::<Vec<_>>().join(", ")
}

/// Holds a component's imports against its grants.
///
/// # Errors
/// Everything at once that it may not have.
pub fn check_imports(description: &Description, grants: &Grants) -> Result<(), Refusal> {
    let mut refusal = Refusal { granted: grants.capabilities.clone(), ..Refusal::default() };
    for import in &description.imports {
        match Interface::parse(import) {
            Some(interface) if interface.package == PACKAGE => {
                if !speaks(interface.version) {
                    refusal.versions.push(import.clone());
                } else if let Some(capability) = Capability::by_name(interface.name) {
                    refusal.asked.insert(capability);
                } else if interface.name != "types" {
                    refusal.unknown.push(import.clone());
                }
            }
            Some(interface) if wasi::is_in_shell(&interface) => {}
            _ => refusal.unknown.push(import.clone()),
        }
    }
    if refusal.is_empty() { Ok(()) } else { Err(refusal) }
}

/// Below 1.0 a minor version may break, a patch may not.
fn speaks(version: Option<&str>) -> bool {
    let minor = |version: &'static str| version.rsplit_once('.').map(|(minor, _)| minor);
    version.and_then(|version| version.rsplit_once('.')).map(|(minor, _)| minor) == minor(INTERFACE_VERSION)
}

/// A linker with the granted capabilities, and with an inert shell for what the component imports of WASI.
///
/// # Errors
/// Where the engine cannot hold it.
pub(super) fn linker(component: &Component, asked: &[Capability], grants: &Grants) -> wasmtime::Result<Linker<State>> {
    let mut linker = Linker::new(component.engine());
    bindings::types::add_to_linker::<_, HasSelf<State>>(&mut linker, |state| state)?;
    for capability in asked.iter().filter(|capability| grants.contains(**capability)) {
        match capability {
            Capability::Log => bindings::log::add_to_linker::<_, HasSelf<State>>(&mut linker, |state| state)?,
            Capability::Metrics => bindings::metrics::add_to_linker::<_, HasSelf<State>>(&mut linker, |state| state)?,
            Capability::Config => bindings::config::add_to_linker::<_, HasSelf<State>>(&mut linker, |state| state)?,
            Capability::Clock => bindings::clock::add_to_linker::<_, HasSelf<State>>(&mut linker, |state| state)?,
            Capability::Random => bindings::random::add_to_linker::<_, HasSelf<State>>(&mut linker, |state| state)?,
            Capability::Http => bindings::http::add_to_linker::<_, HasSelf<State>>(&mut linker, |state| state)?,
        }
    }
    wasi::add_shell(&mut linker, component)?;
    Ok(linker)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::record::Digest;

    fn asks(imports: &[&str]) -> Description {
        Description {
            world: "transform".into(),
            interface_version: None,
            imports: imports.iter().map(|name| (*name).to_owned()).collect(),
            capabilities: Vec::new(),
            exports: Vec::new(),
            digest: Digest::of(b""),
            size: 0,
        }
    }

    #[test]
    fn what_is_granted_is_let_through_and_wasi_has_its_shell() {
        let asked = asks(&["pelton:plugin/types@0.1.0", "pelton:plugin/log@0.1.7", "wasi:cli/environment@0.2.3"]);
        assert_eq!(check_imports(&asked, &[Capability::Log].into()), Ok(()));
    }

    #[test]
    fn a_refusal_shows_everything_at_once() {
        let asked = asks(&[
            "pelton:plugin/types@0.1.0",
            "pelton:plugin/log@0.1.0",
            "pelton:plugin/clock@0.1.0",
            "pelton:plugin/gpu@0.1.0",
            "pelton:plugin/metrics@0.2.0",
            "wasi:http/types@0.2.10",
            "wasi:sockets/tcp@0.2.9",
            "wasi:cli/environment@0.3.0",
            "env",
        ]);
        let refusal = check_imports(&asked, &[Capability::Log, Capability::Random].into()).expect_err("refused");
        insta::assert_snapshot!(refusal, @r"
        it asks for more than it is granted
          asks for: log, clock
          granted:  log, random
          missing:  clock; to grant it, write `grants: [log, clock, random]`
          unknown:  pelton:plugin/gpu@0.1.0
          unknown:  wasi:http/types@0.2.10 (Pelton's own `http` leads out; componentize-js: build with http and fetch-event disabled)
          unknown:  wasi:sockets/tcp@0.2.9 (componentize-py: build with --stub-wasi)
          unknown:  wasi:cli/environment@0.3.0
          unknown:  env
          this host offers log, metrics, config, clock, random, http of pelton:plugin; build it without the rest
          version:  pelton:plugin/metrics@0.2.0; this host speaks 0.1.0, build it anew against that
        ");
    }
}
