//! Makes components of the guests of `tests/guests`: their text, their world, and what is added to them.

use std::path::{Path, PathBuf};

/// Where the guests are.
pub(crate) fn guests_dir() -> PathBuf {
    repository().join("tests/guests")
}

/// The names of all guests, in order.
pub(crate) fn guests() -> Vec<String> {
    let folders = std::fs::read_dir(guests_dir()).unwrap().map(Result::unwrap);
    let mut names: Vec<String> = folders
        .filter(|entry| entry.file_type().unwrap().is_dir())
        .map(|entry| entry.file_name().into_string().unwrap())
        .collect();
    names.sort();
    names
}

fn repository() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

/// Encodes a guest: its text, the world that it names, or `transform`, and what `added.txt` adds.
pub(crate) fn component(guest: &str) -> Vec<u8> {
    let dir = guests_dir();
    let text = complete(&std::fs::read_to_string(dir.join(guest).join("guest.wat")).unwrap());
    let world_file = dir.join(guest).join("world.wit");
    let mut component = encode(guest, &text, world_file.exists().then_some(world_file.as_path()));
    if let Ok(added) = std::fs::read_to_string(dir.join(guest).join("added.txt")) {
        for line in added.lines() {
            add(&mut component, line);
        }
    }
    component
}

/// The text of a guest with its common parts, and with what is repeated in it written out.
pub(crate) fn complete(text: &str) -> String {
    let part = |name: &str| std::fs::read_to_string(guests_dir().join(name)).unwrap();
    repeated(&text.replace(";; @memory", &part("memory.wat")).replace(";; @configure", &part("configure.wat")))
}

/// Writes `@times N «text»` out, N times; `{i}` is the number of the time from 0, `{next}` the one after it.
fn repeated(text: &str) -> String {
    let Some((before, rest)) = text.split_once("@times ") else { return text.to_owned() };
    let (times, rest) = rest.split_once(" «").expect("`@times N «text»`");
    let (pattern, after) = rest.split_once('»').expect("`@times N «text»`");
    let mut whole = before.to_owned();
    for i in 0..times.parse::<usize>().expect("a number of times") {
        if pattern.contains('{') {
            whole.push_str(&pattern.replace("{i}", &i.to_string()).replace("{next}", &(i + 1).to_string()));
        } else {
            whole.push_str(pattern);
        }
    }
    whole + &repeated(after)
}

/// Encodes a guest from its text, for the world in a file, or `transform`.
pub(crate) fn encode(guest: &str, text: &str, world_file: Option<&Path>) -> Vec<u8> {
    let mut module = wat::parse_str(text).unwrap_or_else(|error| panic!("{guest}: {error}"));
    let mut resolve = wit_parser::Resolve::default();
    let (own, _) = resolve.push_path(repository().join("wit")).unwrap();
    let world = if let Some(world_file) = world_file {
        let text = repeated(&std::fs::read_to_string(world_file).unwrap());
        let package = resolve.push_str(world_file, &text).unwrap_or_else(|error| panic!("{guest}: {error:#}"));
        resolve.select_world(&[package], Some("guest")).unwrap()
    } else {
        resolve.select_world(&[own], Some("transform-with-http")).unwrap()
    };
    wit_component::embed_component_metadata(&mut module, &resolve, world, wit_component::StringEncoding::UTF8, false)
        .unwrap();
    wit_component::ComponentEncoder::default()
        .module(&module)
        .and_then(|encoder| encoder.validate(true).encode())
        .unwrap_or_else(|error| panic!("{guest}: {error:#}"))
}

/// Adds one line of `added.txt` at the end of a component: sections too large to stand in a repository as text.
fn add(component: &mut Vec<u8>, line: &str) {
    let mut words = line.split(' ');
    let what = words.next().unwrap_or_default();
    let numbers: Vec<usize> = words.map(|word| word.parse().expect("a number")).collect();
    match (what, numbers.as_slice()) {
        // Sections that mean nothing.
        ("custom", [count, bytes]) => {
            for _ in 0..*count {
                section(component, 0, |out| {
                    sized(out, b"ballast");
                    out.resize(out.len() + bytes, 0);
                });
            }
        }
        // Modules without anything in them, each instantiated.
        ("modules", [count]) => {
            let first = modules_in(component);
            for _ in 0..*count {
                section(component, 1, |out| out.extend_from_slice(MODULE));
            }
            section(component, 2, |out| {
                number(out, *count);
                for module in first..first + count {
                    out.push(0);
                    number(out, module);
                    number(out, 0);
                }
            });
        }
        // A module of functions `() -> i32` of that many bytes of code.
        ("functions", [count, bytes]) => section(component, 1, |out| {
            out.extend_from_slice(MODULE);
            section(out, 1, |out| out.extend_from_slice(&[1, 0x60, 0, 1, 0x7f]));
            section(out, 3, |out| {
                number(out, *count);
                out.resize(out.len() + count, 0);
            });
            // i32.const 1, then `i32.const 1, i32.add` again and again
            let mut code = vec![0, 0x41, 1];
            (0..bytes / 3).for_each(|_| code.extend_from_slice(&[0x41, 1, 0x6a]));
            code.push(0x0b);
            section(out, 10, |out| {
                number(out, *count);
                (0..*count).for_each(|_| sized(out, &code));
            });
        }),
        // A module with one passive segment of data.
        ("data", [bytes]) => section(component, 1, |out| {
            out.extend_from_slice(MODULE);
            section(out, 11, |out| {
                out.extend_from_slice(&[1, 1]);
                sized(out, &vec![0x2a; *bytes]);
            });
        }),
        _ => panic!("`{line}` is nothing that can be added"),
    }
}

/// The beginning of every core module.
const MODULE: &[u8] = b"\0asm\x01\0\0\0";

fn modules_in(component: &[u8]) -> usize {
    let mut depth = 0;
    let mut modules = 0;
    for payload in wasmparser::Parser::new(0).parse_all(component) {
        match payload.unwrap() {
            wasmparser::Payload::ModuleSection { .. } => {
                modules += usize::from(depth == 0);
                depth += 1;
            }
            wasmparser::Payload::ComponentSection { .. } => depth += 1,
            wasmparser::Payload::End(_) if depth > 0 => depth -= 1,
            _ => {}
        }
    }
    modules
}

fn section(out: &mut Vec<u8>, id: u8, fill: impl FnOnce(&mut Vec<u8>)) {
    let mut payload = Vec::new();
    fill(&mut payload);
    out.push(id);
    sized(out, &payload);
}

fn sized(out: &mut Vec<u8>, bytes: &[u8]) {
    number(out, bytes.len());
    out.extend_from_slice(bytes);
}

/// An unsigned number in LEB128.
fn number(out: &mut Vec<u8>, mut value: usize) {
    loop {
        let byte = (value & 0x7f) as u8;
        value >>= 7;
        out.push(if value == 0 { byte } else { byte | 0x80 });
        if value == 0 {
            return;
        }
    }
}
