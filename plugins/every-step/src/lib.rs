//! Every step, every type of field and every capability of the SDK: the record's `op` says what to do with it.

use std::time::Duration;

use pelton_sdk::prelude::*;

#[derive(Fields)]
struct Input<'a> {
    op: &'a str,
    #[field(symbol)]
    sym: Option<&'a str>,
    small: Option<u8>,
    #[field(json, on_mismatch = "null")]
    list: Option<Vec<i64>>,
    #[field(path = "d.e")]
    deep: Option<f64>,
    flag: Option<bool>,
    blob: Option<&'a [u8]>,
    #[field(header = "h")]
    header: Option<&'a str>,
    #[field(timestamp)]
    timestamp_ms: Option<i64>,
}

#[derive(Columns, Default)]
struct Output<'a> {
    id: Option<&'a str>,
    #[column(symbol)]
    kind: Option<String>,
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
    seen: Option<String>,
}

struct EveryStep;

impl Transform for EveryStep {
    type Config = pelton_sdk::serde_json::Value;
    type Input<'a> = (Input<'a>, Record<'a>);
    type Output<'a> = Output<'a>;
    const OUTPUTS: &'static [&'static str] = &["side", "other"];

    fn new(_: Self::Config) -> Result<Self, ConfigError> {
        log::report_panics();
        Ok(Self)
    }

    fn apply<'a>(&self, (input, record): (Input<'a>, Record<'a>)) -> Step<Output<'a>> {
        metrics::count("records", 1);
        let id = || Output { id: Some(input.op), ..Output::default() };
        match input.op {
            "keep" => Step::keep(),
            "drop" => Step::drop(),
            "set" => Step::set(Output {
                id: Some("nëw"),
                kind: Some("k".to_owned()),
                flag: Some(true),
                small: Some(200),
                number: Some(0.5),
                blob: Some(vec![0, 255]),
                list: Some(vec![1, 2]),
                raw: Some(r#"{"a": [1]}"#.to_owned()),
                note: Set::Value("new"),
                seen: None,
            }),
            "null" => Step::set(Output { note: Set::Null, ..id() }),
            "remove" => Step::set(Output { note: Set::Remove, ..Output::default() }),
            "emit" => Step::emit_all([id(), Output::default()]),
            "replace" => Step::replace_value("bytes"),
            "tombstone" => Step::tombstone(),
            "delete" => Step::delete(),
            "delete_row" => Step::delete_row(id()),
            "record" => {
                let record = NewRecord::new().key("k").value("v").header("h", "1").null_header("n");
                Step::record(record.timestamp_ms(5))
            }
            "bare" => Step::record(NewRecord::new()),
            "to" => Step::set(id()).to("other"),
            "also" => Step::set(id()).also_to("side").also_to("other"),
            "and" => Step::keep().and(Step::emit(id()).to("side")),
            "reject" => Step::reject("bad", "why"),
            "retry" => Step::retry(Duration::from_millis(250), "busy", "later"),
            "skip" => Step::skip("old", format!("offset {}", record.offset)),
            "nan" => Step::set(Output { number: Some(f32::NAN), ..Output::default() }),
            _ => {
                let kind = Some(format!("k{}", record.offset % 30));
                Step::emit(Output { kind, seen: Some(seen(&input, &record)), ..id() })
            }
        }
    }
}

fn seen(input: &Input<'_>, record: &Record<'_>) -> String {
    let fields = (input.sym, input.small, &input.list, input.deep, input.flag, input.blob);
    let headers: Vec<_> = record.headers.collect();
    let parts = (record.key_text().ok(), input.header, headers, input.timestamp_ms, record.topic, record.partition);
    let chance = random::generator().below(1_000_000);
    let told = (clock::now_ms(), chance, config::get::<String>("greeting").ok());
    format!("{fields:?} {parts:?} {told:?}")
}

export!(EveryStep);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cases() {
        testing::check_cases::<EveryStep>(env!("CARGO_MANIFEST_DIR"));
    }
}
