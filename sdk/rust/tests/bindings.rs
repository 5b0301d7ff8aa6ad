//! `src/bindings.rs` is generated from `wit/`, and checked in so that a plugin's first build is quick.

use wit_bindgen_core::wit_parser::Resolve;
use wit_bindgen_core::{Files, WorldGenerator as _};

const BINDINGS: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/src/bindings.rs");
const WIT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../../wit");

fn generate() -> String {
    let mut resolve = Resolve::default();
    let (package, _) = resolve.push_dir(WIT).expect("wit/ is valid");
    let world = resolve.select_world(&[package], Some("transform-with-http")).expect("it has the world");
    let options = wit_bindgen_rust::Opts {
        pub_export_macro: true,
        default_bindings_module: Some("pelton_sdk::bindings".to_owned()),
        export_macro_name: Some("export_component".to_owned()),
        generate_all: true,
        ..wit_bindgen_rust::Opts::default()
    };
    let mut files = Files::default();
    options.build().generate(&mut resolve, world, &mut files).expect("the bindings are generated");
    let (_, bytes) = files.iter().next().expect("one file");
    String::from_utf8(bytes.to_vec()).expect("Rust is UTF-8")
}

#[test]
fn bindings_are_current() {
    let generated = generate();
    if std::env::var_os("PELTON_BLESS").is_some() {
        std::fs::write(BINDINGS, &generated).expect("the file can be written");
    }
    let found = std::fs::read_to_string(BINDINGS).expect("the file is there");
    let line = found.lines().zip(generated.lines()).position(|(found, generated)| found != generated);
    assert!(
        found == generated,
        "sdk/rust/src/bindings.rs is not what wit/ gives (first difference in line {:?}); \
         run `PELTON_BLESS=1 cargo test -p pelton-sdk --test bindings`",
        line.map(|line| line + 1),
    );
}
