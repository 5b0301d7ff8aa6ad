//! The bytes that `wit/README.md` shows are the bytes that cross.

use serde_json::{Value, json};

use super::{Placed, TestRecord, extract, pack};
use crate::bindings::pelton::plugin::types::{Output, Selection};
use crate::prelude::*;

const README: &str = include_str!(concat!(env!("CARGO_MANIFEST_DIR"), "/../../wit/README.md"));

#[derive(Fields)]
#[expect(dead_code, reason = "only what crosses counts")]
struct Example<'a> {
    id: &'a str,
    n: Option<i64>,
    #[field(path = "meta.kind", symbol)]
    kind: &'a str,
    #[field(header = "trace")]
    trace: Option<&'a str>,
    #[field(headers)]
    headers: Headers<'a>,
    #[field(key)]
    key: Option<&'a [u8]>,
    #[field(offset)]
    offset: i64,
    #[field(timestamp)]
    timestamp_ms: Option<i64>,
}

#[derive(Columns)]
struct Set<'a> {
    total: Option<i64>,
    tag: Option<&'a str>,
}

struct Plugin;

impl Transform for Plugin {
    type Config = ();
    type Input<'a> = Example<'a>;
    type Output<'a> = Set<'a>;
    const OUTPUTS: &'static [&'static str] = &["alerts"];

    fn new((): ()) -> Result<Self, ConfigError> {
        Ok(Self)
    }

    fn apply<'a>(&self, example: Example<'a>) -> Step<Set<'a>> {
        match example.offset {
            41 => Step::set(Set { total: Some(238), tag: Some("x") })
                .and(Step::emit(Set { total: Some(238), tag: None }).to("alerts")),
            42 => Step::record(NewRecord::new().key("k").header("h", "1")),
            _ => Step::delete_row(Set { total: None, tag: Some("é") }),
        }
    }
}

fn records() -> Vec<Placed> {
    let record = |value: Value, offset| TestRecord::from(value).read_from("shop.orders", 3).offset(offset);
    let mut last = record(json!({"id": "", "n": -2, "meta": {"kind": "old"}}), 44).key("").without_timestamp();
    last.headers.push(("trace".to_owned(), None));
    let mut placed = Vec::new();
    record(json!({"id": "ä", "n": 1, "meta": {"kind": "new"}}), 41).key("A").header("trace", "1").place(&mut placed);
    record(json!({"id": "b", "meta": {"kind": "new"}}), 42).place(&mut placed);
    last.place(&mut placed);
    placed
}

#[track_caller]
fn shows(what: &str, bytes: &[u8]) {
    let hex: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
    let page: String = README.chars().filter(|c| !c.is_whitespace()).collect();
    assert!(!bytes.is_empty() && page.contains(&hex), "wit/README.md does not show {what}: {hex}");
}

#[test]
fn the_page_shows_what_crosses() {
    let records = records();
    let (plugin, subscription) = crate::transform::configure::<Plugin>("null").expect("it takes no configuration");
    let cells = extract::extract(&subscription, &records).cells;
    let rows: Vec<&Placed> = records.iter().collect();
    let batch = pack::batch(&subscription, &rows, &cells);

    let keys = batch.keys.as_ref().expect("subscribed");
    shows("the keys' spans", &keys.spans);
    shows("a header's spans", &batch.headers[0].spans);
    let all = batch.all_headers.as_ref().expect("subscribed");
    shows("the spans of all headers", &all.spans);
    shows("all headers", &all.data);
    shows("offsets", &batch.offsets);
    shows("timestamps", &batch.timestamps);
    let [id, n, kind] = &batch.value_fields[..] else { panic!("three fields") };
    shows("id's offsets", &id.values);
    shows("id's data", &id.data);
    assert!(id.validity.is_empty() && kind.validity.is_empty());
    assert_eq!(n.validity, [0b101]);
    shows("n's values", &n.values);
    shows("kind's indexes", &kind.values);
    shows("kind's dictionary", &kind.data);

    let Output { rows, data, set_fields, failures } =
        crate::transform::process(&plugin, &batch).expect("its output is declared");
    let Selection::Edits(edits) = rows else { panic!("edits") };
    shows("edits", &edits);
    shows("the packed record", &data);
    for (field, column) in subscription.set_fields.iter().zip(&set_fields) {
        shows(&format!("{:?}: state", field.path), &column.state);
        shows(&format!("{:?}: values", field.path), &column.values);
    }
    shows("tag's data", &set_fields[1].data);
    assert!(failures.is_empty());
}
