//! The built plugin in the repository asks for what its `plugin.yaml` grants, and for nothing else.

#![allow(clippy::panic, reason = "a test that cannot go on says so")]

use std::collections::BTreeSet;
use std::path::Path;

use wit_component::DecodedWasm;

fn capabilities(component: &Path) -> BTreeSet<String> {
    let bytes = std::fs::read(component).expect("the component is in the repository");
    let DecodedWasm::Component(resolve, world) = wit_component::decode(&bytes).expect("a component") else {
        panic!("{} is a WIT package, not a component", component.display());
    };
    let imports = resolve.worlds[world].imports.keys().map(|key| resolve.name_world_key(key));
    imports
        .filter_map(|name| Some(name.strip_prefix("pelton:plugin/")?.strip_suffix("@0.1.0")?.to_owned()))
        .filter(|name| name != "types")
        .collect()
}

#[test]
fn what_a_plugin_does_not_call_is_not_imported() {
    let plugin = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../plugins/shop-orders");
    let manifest = std::fs::read_to_string(plugin.join("plugin.yaml")).expect("plugin.yaml is there");
    let grants = manifest.lines().find_map(|line| line.strip_prefix("grants: [")?.strip_suffix(']'));
    let grants: BTreeSet<String> =
        grants.expect("a line of grants").split(',').map(|name| name.trim().to_owned()).collect();
    assert_eq!(capabilities(&plugin.join("shop-orders.wasm")), grants);
}
