//! The guests of `tests/guests` as components, for projects of tests.

use crate::process::repository;

/// Encodes a guest for the world `transform`.
///
/// # Panics
/// Where there is no such guest, or it is no component.
#[must_use]
pub fn component(guest: &str) -> Vec<u8> {
    let dir = repository().join("tests/guests");
    let read = |name: &str| std::fs::read_to_string(dir.join(name)).unwrap_or_else(|error| panic!("{name}: {error}"));
    let text = read(&format!("{guest}/guest.wat"));
    let text = text.replace(";; @memory", &read("memory.wat")).replace(";; @configure", &read("configure.wat"));
    let mut module = wat::parse_str(&text).unwrap_or_else(|error| panic!("{guest}: {error}"));
    let mut resolve = wit_parser::Resolve::default();
    let (package, _) = resolve.push_path(repository().join("wit")).expect("the interface");
    let world = resolve.select_world(&[package], Some("transform-with-http")).expect("the world");
    wit_component::embed_component_metadata(&mut module, &resolve, world, wit_component::StringEncoding::UTF8, false)
        .expect("a module takes metadata");
    wit_component::ComponentEncoder::default()
        .module(&module)
        .and_then(|encoder| encoder.validate(true).encode())
        .unwrap_or_else(|error| panic!("{guest}: {error:#}"))
}
