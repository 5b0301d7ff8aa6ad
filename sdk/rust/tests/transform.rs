//! What an author can write, from the struct that is read to what becomes of each record.

#![allow(clippy::panic, reason = "a test that cannot go on says so")]

use std::time::Duration;

use pelton_sdk::prelude::*;
use pelton_sdk::serde_json::Value;
use testing::TestRecord;

/// Makes a plugin of a function.
macro_rules! plugin {
    ($name:ident, $input:ty, $output:ty, $outputs:expr, |$event:pat_param| $step:expr) => {
        struct $name;

        impl Transform for $name {
            type Config = ();
            type Input<'a> = $input;
            type Output<'a> = $output;
            const OUTPUTS: &'static [&'static str] = $outputs;

            fn new((): ()) -> Result<Self, ConfigError> {
                Ok(Self)
            }

            fn apply<'a>(&'a self, input: Self::Input<'a>) -> Step<Self::Output<'a>> {
                let $event = input;
                $step
            }
        }
    };
}

// ------------------------------------------------------------------------------------------------------------ reading

#[derive(Fields)]
struct Everything<'a> {
    text: &'a str,
    owned: String,
    #[field(symbol)]
    kind: &'a str,
    whole: i64,
    small: u8,
    number: f64,
    flag: bool,
    #[field(name = "base.64")]
    bytes: &'a [u8],
    #[field(path = "a.b.c")]
    deep: Option<i32>,
    #[field(path = ["with.dot", "x"])]
    dotted: Option<i64>,
    #[field(json)]
    raw: &'a str,
    #[field(json)]
    list: Vec<i64>,
    #[field(on_mismatch = "null")]
    lenient: Option<i16>,
    #[field(json, on_mismatch = "null")]
    lenient_list: Option<Vec<i64>>,
}

#[derive(Columns)]
struct Seen {
    seen: String,
}

struct ReadEverything;

impl Transform for ReadEverything {
    type Config = ();
    type Input<'a> = Everything<'a>;
    type Output<'a> = Seen;

    fn new((): ()) -> Result<Self, ConfigError> {
        Ok(Self)
    }

    fn apply<'a>(&self, e: Everything<'a>) -> Step<Seen> {
        let seen = format!(
            "{} {} {} {} {} {} {} {:?} {:?} {:?} {} {:?} {:?} {:?}",
            e.text,
            e.owned,
            e.kind,
            e.whole,
            e.small,
            e.number,
            e.flag,
            e.bytes,
            e.deep,
            e.dotted,
            e.raw,
            e.list,
            e.lenient,
            e.lenient_list,
        );
        Step::emit(Seen { seen })
    }
}

fn everything() -> Value {
    json!({
        "text": "a\"\u{1F600}", "owned": "", "kind": "k", "whole": i64::MIN, "small": 255, "number": 1, "flag": true,
        "base.64": "AP8=", "a": {"b": {"c": -7}}, "with.dot": {"x": 4}, "raw": {"any": [1, null]}, "list": [1, 2],
        "lenient": 3, "lenient_list": [4],
    })
}

#[test]
fn every_type_of_field_is_read() {
    let run = testing::run::<ReadEverything>(json!(null), [everything()]);
    assert_eq!(
        run.values("default"),
        [
            json!({"seen": "a\"\u{1F600}  k -9223372036854775808 255 1 true [0, 255] Some(-7) Some(4) {\"any\":[1,null]} [1, 2] \
                          Some(3) Some([4])"})
        ]
    );
}

#[test]
fn what_is_missing_or_does_not_fit_follows_the_declaration() {
    let with = |change: &[(&str, Value)]| {
        let mut event = everything();
        for (key, value) in change {
            event[*key] = value.clone();
        }
        event
    };
    let records = [
        with(&[
            ("a", json!({"b": null})),
            ("with.dot", json!(null)),
            ("lenient", json!("x")),
            ("lenient_list", json!(1)),
        ]),
        with(&[("lenient", json!(70_000))]),
        with(&[("text", json!(null))]),
        with(&[("small", json!(256))]),
        with(&[("whole", json!(7.0))]),
        with(&[("a", json!({"b": {"c": "x"}}))]),
        with(&[("list", json!([1, "2"]))]),
        with(&[("base.64", json!("!"))]),
    ];
    let run = testing::run::<ReadEverything>(json!(null), records);
    let seen = run.values("default");
    assert!(seen[0]["seen"].as_str().is_some_and(|seen| seen.contains(" None None {")), "{seen:?}");
    assert!(seen[0]["seen"].as_str().is_some_and(|seen| seen.ends_with(" None None")), "{seen:?}");
    assert!(seen[1]["seen"].as_str().is_some_and(|seen| seen.ends_with(" None Some([4])")), "{seen:?}");
    let (plugin, host) = ("wrong_type", "decode.wrong_type");
    assert_eq!(
        run.failures(),
        [(2, "decode.missing_field"), (3, plugin), (4, host), (5, host), (6, plugin), (7, host)]
    );
    assert_eq!(run.lines[3]["message"], "field small: 256 does not lie in 0 to 255");
}

#[derive(Fields)]
struct Parts<'a> {
    #[field(key)]
    key: Option<&'a str>,
    #[field(value)]
    value: &'a [u8],
    #[field(header = "trace")]
    trace: Option<&'a str>,
    #[field(headers)]
    headers: Headers<'a>,
    #[field(offset)]
    offset: i64,
    #[field(timestamp)]
    timestamp_ms: Option<i64>,
    #[field(topic)]
    topic: &'a str,
    #[field(partition)]
    partition: u32,
}

plugin!(ReadParts, Parts<'a>, Seen, &[], |p| {
    let names: Vec<&str> = p.headers.map(|(name, _)| name).collect();
    let seen = format!(
        "{:?} {} {:?} {names:?} {} {:?} {} {}",
        p.key,
        p.value.len(),
        p.trace,
        p.offset,
        p.timestamp_ms,
        p.topic,
        p.partition
    );
    Step::emit(Seen { seen })
});

#[test]
fn parts_of_the_record_are_read() {
    let records = [
        TestRecord::new("abc")
            .key("k")
            .header("trace", "1")
            .header("x", "")
            .header("trace", "2")
            .read_from("t", 3)
            .offset(9),
        TestRecord::new("").without_timestamp(),
        TestRecord::tombstone(),
        TestRecord::new("").key([0xff]),
    ];
    let run = testing::run::<ReadParts>(json!(null), records);
    let values = run.values("default");
    assert_eq!(values[0]["seen"], "Some(\"k\") 3 Some(\"2\") [\"trace\", \"x\", \"trace\"] 9 Some(1767225600000) t 3");
    assert_eq!(values[1]["seen"], "None 0 None [] 0 None case 0");
    assert_eq!(run.failures(), [(2, "missing_field"), (3, "wrong_type")]);
}

#[derive(Fields)]
struct OnlyId<'a> {
    id: &'a str,
}

plugin!(ReadBoth, (OnlyId<'a>, Record<'a>), Seen, &[], |(event, record)| {
    Step::emit(Seen { seen: format!("{} {}", event.id, record.headers.text("h").unwrap_or("-")) })
});

#[test]
fn typed_fields_and_the_whole_record_go_together() {
    let run = testing::run::<ReadBoth>(json!(null), [TestRecord::from(json!({"id": "7"})).header("h", "x")]);
    assert_eq!(run.values("default"), [json!({"seen": "7 x"})]);
}

plugin!(ReadRecord, Record<'a>, (), &[], |record| {
    let decide = || -> Result<Step<()>, Failure> {
        let value: Value = record.json()?;
        Ok(if value["keep"] == true { Step::keep() } else { Step::drop() })
    };
    decide().into()
});

#[test]
fn a_record_can_be_parsed_by_the_plugin() {
    let run = testing::run::<ReadRecord>(json!(null), [r#"{"keep": true}"#, r#"{"keep": false}"#, "{"]);
    assert_eq!(run.values("default"), [json!({"keep": true})]);
    assert_eq!(run.failures(), [(2, "malformed_json")]);
}

// ------------------------------------------------------------------------------------------------------------ setting

#[derive(Fields)]
struct Op<'a> {
    op: &'a str,
}

#[derive(Columns, Default)]
struct Cells<'a> {
    id: Option<&'a str>,
    #[column(symbol)]
    kind: Option<&'a str>,
    #[column(path = "nested.flag")]
    flag: Option<bool>,
    small: Option<u8>,
    number: Option<f32>,
    blob: Option<Vec<u8>>,
    #[column(json)]
    list: Option<Vec<u8>>,
    #[column(json)]
    raw: Option<String>,
    note: Set<&'a str>,
}

plugin!(Ops, (Op<'a>, Record<'a>), Cells<'a>, &["side", "other"], |(event, record)| {
    let id = || Cells { id: Some(event.op), ..Cells::default() };
    match event.op {
        "keep" => Step::keep(),
        "drop" => Step::drop(),
        "set" => Step::set(Cells {
            id: Some("new"),
            kind: Some("k"),
            flag: Some(true),
            small: Some(200),
            number: Some(0.5),
            blob: Some(vec![0, 255]),
            list: Some(vec![1, 2]),
            raw: Some("{\"a\": [1]}".to_owned()),
            note: Set::Value("n"),
        }),
        "null" => Step::set(Cells { note: Set::Null, ..id() }),
        "remove" => Step::set(Cells { note: Set::Remove, ..Cells::default() }),
        "emit" => Step::emit_all([id(), Cells::default()]),
        "replace" => Step::replace_value("bytes"),
        "tombstone" => Step::tombstone(),
        "delete" => Step::delete(),
        "delete_row" => Step::delete_row(id()),
        "record" => {
            Step::record(NewRecord::new().key("k").value("v").header("h", "1").null_header("n").timestamp_ms(5))
        }
        "bare" => Step::record(NewRecord::new()),
        "to" => Step::set(id()).to("other"),
        "also" => Step::set(id()).also_to("side").also_to("other"),
        "and" => Step::keep().and(Step::emit(id()).to("side")),
        "reject" => Step::reject("bad", "why"),
        "retry" => Step::retry(Duration::from_millis(250), "busy", "later"),
        "skip" => Step::skip("old", format!("offset {}", record.offset)),
        "nan" => Step::set(Cells { number: Some(f32::NAN), ..Cells::default() }),
        op => panic!("no {op}"),
    }
});

fn lines_of(op: &str) -> Vec<Value> {
    let record = TestRecord::from(json!({"op": op, "note": "old", "nested": {"x": 1}})).key("input").header("a", "b");
    let mut lines = testing::run::<Ops>(json!(null), [record]).lines;
    for line in &mut lines {
        line.as_object_mut().expect("a line is an object").shift_remove("record");
    }
    lines
}

#[test]
fn every_step_becomes_what_it_says() {
    let value = |op: &str| json!({"op": op, "note": "old", "nested": {"x": 1}});
    let with = |op: &str, key: &str, cell: Value| {
        let mut value = value(op);
        value[key] = cell;
        value
    };
    let kept = |output: &str, value: Value| json!({"output": output, "value": value});
    assert_eq!(lines_of("keep"), [kept("default", value("keep"))]);
    assert_eq!(lines_of("drop"), [] as [Value; 0]);
    assert_eq!(
        lines_of("set"),
        [kept(
            "default",
            json!({
                "op": "set", "note": "n", "nested": {"x": 1, "flag": true}, "id": "new", "kind": "k", "small": 200,
                "number": 0.5, "blob": "AP8=", "list": [1, 2], "raw": {"a": [1]},
            })
        )]
    );
    let mut null = with("null", "note", Value::Null);
    null["id"] = json!("null");
    assert_eq!(lines_of("null"), [kept("default", null)]);
    assert_eq!(lines_of("remove"), [kept("default", json!({"op": "remove", "nested": {"x": 1}}))]);
    assert_eq!(lines_of("emit"), [kept("default", json!({"id": "emit"})), kept("default", json!({}))]);
    assert_eq!(lines_of("replace"), [json!({"output": "default", "value_text": "bytes"})]);
    assert_eq!(lines_of("tombstone"), [kept("default", Value::Null)]);
    assert_eq!(lines_of("delete"), [json!({"output": "default", "delete": {}})]);
    assert_eq!(lines_of("delete_row"), [json!({"output": "default", "delete": {"id": "delete_row"}})]);
    assert_eq!(
        lines_of("record"),
        [
            json!({"output": "default", "value_text": "v", "key": "k", "headers": [["h", "1"], ["n", null]], "timestamp_ms": 5})
        ]
    );
    assert_eq!(lines_of("bare"), [json!({"output": "default", "value": null, "key": null, "headers": []})]);
    assert_eq!(lines_of("to"), [kept("other", with("to", "id", json!("to")))]);
    let also = with("also", "id", json!("also"));
    assert_eq!(lines_of("also"), ["default", "side", "other"].map(|output| kept(output, also.clone())));
    assert_eq!(lines_of("and"), [kept("default", value("and")), kept("side", json!({"id": "and"}))]);
    assert_eq!(lines_of("reject"), [json!({"reject": "bad", "message": "why"})]);
    assert_eq!(lines_of("retry"), [json!({"retry": "busy", "delay_ms": 250, "message": "later"})]);
    assert_eq!(lines_of("skip"), [json!({"skip": "old", "message": "offset 0"})]);
    assert_eq!(lines_of("nan")[0]["reject"], "encode.not_finite");
}

#[test]
fn rows_keep_their_records_order_whatever_their_steps() {
    let ops = ["keep", "emit", "drop", "reject", "also", "delete_row", "record", "set", "keep", "null"];
    let run = testing::run::<Ops>(json!(null), ops.map(|op| json!({"op": op})));
    let records: Vec<u64> = run.lines.iter().filter_map(|line| line["record"].as_u64()).collect();
    assert_eq!(records, [0, 1, 1, 3, 4, 4, 4, 5, 6, 7, 8, 9]);
}

#[test]
#[should_panic(
    expected = "a row is sent to output \"nowhere\", which the plugin does not declare; write in its `impl Transform`: \
                const OUTPUTS: &'static [&'static str] = &[\"side\", \"nowhere\"];"
)]
fn an_undeclared_output_is_named() {
    plugin!(Nowhere, (), (), &["side"], |()| Step::keep().to("nowhere"));
    testing::run::<Nowhere>(json!(null), ["{}"]);
}

// ------------------------------------------------------------------------------------------------------- capabilities

plugin!(Capable, (), Seen, &[], |()| {
    let mut numbers = random::generator();
    log::warn!("at {}", clock::now_ms());
    metrics::count("seen", 2);
    metrics::gauge("level", 0.5);
    let greeting: Option<String> = config::get("greeting").unwrap_or_default();
    Step::emit(Seen { seen: format!("{greeting:?} {} {}", numbers.below(1000), random::seed()) })
});

#[test]
fn capabilities_are_answered_per_record() {
    let run_once = |records: [TestRecord; 2]| testing::run::<Capable>(json!(null), records);
    let records = || ["a", "b"].map(TestRecord::from);
    let run = run_once(records());
    assert_eq!(run.logs[1].message, format!("at {}", testing::FIRST_TIMESTAMP_MS + 1000));
    assert_eq!(run.counted("seen"), 4);
    let [first, second] = &run.values("default")[..] else { panic!("two rows") };
    assert_ne!(first, second, "each record has chances of its own");
    assert_eq!(run.lines, run_once(records()).lines, "and always the same");
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Limits {
    limit: f64,
    #[serde(default)]
    alerts: Vec<Alert>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Alert {
    above_eur: f64,
}

struct Configured(f64);

impl Transform for Configured {
    type Config = Limits;
    type Input<'a> = ();
    type Output<'a> = ();

    fn new(config: Limits) -> Result<Self, ConfigError> {
        if config.limit < 0.0 {
            return Err(ConfigError::key("limit", "must not be negative"));
        }
        Ok(Self(config.alerts.iter().fold(config.limit, |least, alert| least.min(alert.above_eur))))
    }

    fn apply(&self, (): ()) -> Step<()> {
        if self.0 > 1.0 { Step::keep() } else { Step::drop() }
    }
}

export!(Configured);

#[test]
fn a_configuration_that_does_not_fit_is_refused_in_words() {
    let refused = |config| testing::Driver::<Configured>::new(config).err().map(|error| error.to_string());
    assert_eq!(refused(json!(null)), Some("missing field `limit`".to_owned()));
    assert_eq!(refused(json!({"limit": "x"})), Some("limit: invalid type: string \"x\", expected f64".to_owned()));
    assert_eq!(refused(json!({"limit": -1})), Some("limit: must not be negative".to_owned()));
    assert_eq!(refused(json!({"limit": 2})), None);
}

#[test]
fn a_mistake_deep_in_a_configuration_is_named_by_its_path() {
    let refused = |alerts| {
        let config = json!({"limit": 1, "alerts": alerts});
        testing::Driver::<Configured>::new(config).err().map(|error| error.to_string()).unwrap_or_default()
    };
    let text = " at line 7";
    assert_eq!(
        refused(json!([{"above_eur": 1}, {"above_eur": text}])),
        "alerts[1].above_eur: invalid type: string \" at line 7\", expected f64"
    );
    assert_eq!(refused(json!([{}])), "alerts[0]: missing field `above_eur`");
    assert_eq!(refused(json!([{"above": 1}])), "alerts[0].above: unknown field `above`, expected `above_eur`");
}
