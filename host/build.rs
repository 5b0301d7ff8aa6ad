//! Puts the SDKs into the binary: `pelton plugin new` has to give a plugin that builds anywhere, and they are published
//! nowhere. Writes `sdk_files.rs` and `python_sdk_files.rs`: pairs of path and content; for Rust with a workspace around the
//! crates that holds what they inherit from this one.

#![expect(clippy::panic, reason = "a build script tells cargo of a failure by a panic")]

use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};

fn main() {
    let host = PathBuf::from(std::env::var_os("CARGO_MANIFEST_DIR").expect("cargo sets it"));
    let repository = host.parent().expect("the host is a directory of the repository");
    let sdk = repository.join("sdk/rust");
    let mut files = Vec::new();
    for part in ["Cargo.toml", "src", "derive/Cargo.toml", "derive/src"] {
        println!("cargo::rerun-if-changed={}", sdk.join(part).display());
        collect(&sdk.join(part), &mut files);
    }
    files.sort();
    let manifest = repository.join("Cargo.toml");
    println!("cargo::rerun-if-changed={}", manifest.display());
    let manifests: Vec<String> =
        files.iter().filter(|file| file.ends_with("Cargo.toml")).map(|file| read(file)).collect();
    let workspace = workspace_of_the_sdk(&read(&manifest), &manifests);

    let mut all = vec![("Cargo.toml".to_owned(), format!("{workspace:?}"))];
    all.extend(files.iter().map(|file| included(Path::new("rust"), file, &sdk)));
    write("sdk_files.rs", &all);

    let python = repository.join("sdk/python");
    let package = python.join("pelton_sdk");
    println!("cargo::rerun-if-changed={}", package.display());
    let mut files = Vec::new();
    collect(&package, &mut files);
    files.retain(|file| !file.components().any(|part| part.as_os_str() == "__pycache__"));
    files.sort();
    let all: Vec<_> = files.iter().map(|file| included(Path::new(""), file, &python)).collect();
    write("python_sdk_files.rs", &all);
}

/// A file's path in the copy, and an expression that is its text.
fn included(prefix: &Path, file: &Path, below: &Path) -> (String, String) {
    let path = prefix.join(file.strip_prefix(below).expect("it was found below"));
    (path.display().to_string(), format!("include_str!({:?})", file.display().to_string()))
}

fn write(name: &str, files: &[(String, String)]) {
    let mut code = String::from("&[\n");
    for (path, text) in files {
        writeln!(code, "    ({path:?}, {text}),").expect("strings take everything");
    }
    code.push_str("]\n");
    let out = PathBuf::from(std::env::var_os("OUT_DIR").expect("cargo sets it"));
    fs::write(out.join(name), code).expect("cargo's own directory can be written");
}

fn read(file: &Path) -> String {
    fs::read_to_string(file).unwrap_or_else(|error| panic!("{}: {error}", file.display()))
}

fn collect(path: &Path, files: &mut Vec<PathBuf>) {
    if path.is_file() {
        files.push(path.to_owned());
        return;
    }
    let entries = fs::read_dir(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    for entry in entries.flatten() {
        collect(&entry.path(), files);
    }
}

/// The parts of the repository's manifest that the SDK's crates inherit.
fn workspace_of_the_sdk(repository: &str, manifests: &[String]) -> String {
    let inherits = |name: &str| {
        let (short, long) = (format!("{name}.workspace = true"), format!("{name} = {{ workspace = true"));
        manifests.iter().flat_map(|text| text.lines()).any(|line| line.starts_with(&short) || line.starts_with(&long))
    };
    let mut text = String::from("[workspace]\nresolver = \"3\"\nmembers = [\"rust\", \"rust/derive\"]\n");
    let mut section = "";
    for line in repository.lines() {
        if line.starts_with('[') {
            section = line.trim_matches(['[', ']']);
            if section == "workspace.package"
                || section == "workspace.dependencies"
                || section.starts_with("workspace.lints")
            {
                text.push_str(&format!("\n{line}\n"));
            }
            continue;
        }
        let name = line.split([' ', '=']).next().unwrap_or_default();
        let is_kept = match section {
            "workspace.package" => inherits(name),
            "workspace.dependencies" => inherits(name) && !line.contains("path ="),
            _ => section.starts_with("workspace.lints") && !line.trim().is_empty(),
        };
        if is_kept {
            text.push_str(line);
            text.push('\n');
        }
    }
    text
}
