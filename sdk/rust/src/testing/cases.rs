//! The folders under `cases/`: input, configuration, expected output. The format stands in `plugins/README.md`.

use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use saphyr::{LoadableYamlNode, Scalar, Yaml};
use serde_json::{Map, Value, json};

use super::{Driver, TestRecord};
use crate::Transform;
use crate::http::{Error, Request, Response};

/// Runs every case of a plugin, natively, at batch sizes 1, 7 and all at once: a difference between them is hidden state.
/// With `PELTON_BLESS=1` in the environment the expected output is written anew: read the difference before you keep it.
///
/// ```no_run
/// # use pelton_sdk::prelude::*;
/// # fn check<ShopOrders: Transform>() {
/// testing::check_cases::<ShopOrders>(env!("CARGO_MANIFEST_DIR"));
/// # }
/// ```
///
/// # Panics
/// With every difference, where the output is not as expected; where there is no case, or one cannot be read.
pub fn check_cases<T: Transform>(plugin_dir: impl AsRef<Path>) {
    let dir = plugin_dir.as_ref().join("cases");
    let entries = fs::read_dir(&dir).unwrap_or_else(|error| panic!("{}: {error}", dir.display()));
    let mut cases: Vec<PathBuf> =
        entries.filter_map(|entry| Some(entry.ok()?.path())).filter(|path| path.is_dir()).collect();
    cases.sort();
    assert!(!cases.is_empty(), "{} has no case", dir.display());
    let mut differences = String::new();
    for case in cases {
        if std::env::var_os("PELTON_BLESS").is_some() {
            bless(&case.join("expected.jsonl"), &run_case::<T>(&case, usize::MAX));
        }
        let expected: Vec<Value> = json_lines(&case.join("expected.jsonl")).into_iter().map(|(_, line)| line).collect();
        for batch_records in [1, 7, usize::MAX] {
            let found = run_case::<T>(&case, batch_records);
            differences.push_str(&difference(&case, batch_records, &expected, &found));
        }
    }
    assert!(differences.is_empty(), "{differences}");
}

/// Who answers by the lines of a case's `http.jsonl`.
fn answers(file: &Path) -> impl Fn(&Request) -> Result<Response, Error> + use<> {
    let lines = if file.is_file() { json_lines(file) } else { Vec::new() };
    let answers: Vec<_> = lines
        .into_iter()
        .map(|(number, line)| answer(&line).unwrap_or_else(|problem| panic!("{}:{number}: {problem}", file.display())))
        .collect();
    move |request| {
        let is_asked = |(method, url, _): &&Answer| *method == request.method && *url == request.url;
        let denied =
            || Error::Denied(format!("no line of the case's http.jsonl answers {} {}", request.method, request.url));
        answers.iter().find(is_asked).map_or_else(|| Err(denied()), |(_, _, answer)| answer.clone())
    }
}

/// Method, URL, and what is answered.
type Answer = (String, String, Result<Response, Error>);

fn answer(line: &Value) -> Result<Answer, String> {
    let text = |key: &str| line.get(key).and_then(Value::as_str).map(str::to_owned);
    let url = text("url").ok_or("`url` is missing")?;
    let method = text("method").unwrap_or_else(|| "GET".to_owned());
    if let Some(error) = text("error") {
        let why = "as the case says".to_owned();
        let error = match error.as_str() {
            "denied" => Error::Denied(why),
            "invalid" => Error::Invalid(why),
            "timeout" => Error::Timeout(why),
            "too-large" => Error::TooLarge(why),
            "connect" => Error::Connect(why),
            "protocol" => Error::Protocol(why),
            other => return Err(format!("there is no error `{other}`")),
        };
        return Ok((method, url, Err(error)));
    }
    let status = line.get("status").map_or(Some(200), |status| u16::try_from(status.as_u64()?).ok());
    let headers = line.get("headers").and_then(Value::as_object).into_iter().flatten();
    let header = |(name, value): (&String, &Value)| {
        (name.to_ascii_lowercase(), value.as_str().unwrap_or_default().as_bytes().to_vec())
    };
    let body = match (line.get("body"), text("body_text"), text("body_base64")) {
        (Some(body), ..) => body.to_string().into_bytes(),
        (_, Some(text), _) => text.into_bytes(),
        (.., Some(text)) => STANDARD.decode(text).map_err(|error| format!("`body_base64`: {error}"))?,
        _ => Vec::new(),
    };
    let status = status.ok_or("`status` is a number up to 65535")?;
    let response = Response { status, url: url.clone(), headers: headers.map(header).collect(), body };
    Ok((method, url, Ok(response)))
}

fn bless(file: &Path, lines: &[Value]) {
    let text: String = lines.iter().map(|line| format!("{line}\n")).collect();
    fs::write(file, text).unwrap_or_else(|error| panic!("{}: {error}", file.display()));
}

fn run_case<T: Transform>(case: &Path, batch_records: usize) -> Vec<Value> {
    let config = config(&case.join("config.yaml"));
    let driver = Driver::<T>::new(config)
        .unwrap_or_else(|error| panic!("{}: the configuration is refused: {error}", case.display()))
        .batches_of(batch_records)
        .answering(answers(&case.join("http.jsonl")));
    let input = case.join("input.jsonl");
    let record = |(number, line): (usize, Value)| {
        record(&line).unwrap_or_else(|error| panic!("{}:{number}: {error}", input.display()))
    };
    driver.run(json_lines(&input).into_iter().map(record)).lines
}

fn difference(case: &Path, batch_records: usize, expected: &[Value], found: &[Value]) -> String {
    let mut text = String::new();
    for at in 0..expected.len().max(found.len()) {
        let (wanted, got) = (expected.get(at), found.get(at));
        if wanted.is_some() && got.is_some() && wanted.zip(got).is_some_and(|(wanted, got)| same_line(wanted, got)) {
            continue;
        }
        let show = |line: Option<&Value>| line.map_or_else(|| "nothing".to_owned(), Value::to_string);
        let size = if batch_records == usize::MAX { "all".to_owned() } else { batch_records.to_string() };
        let _ = writeln!(
            text,
            "{}, batches of {size}, line {}:\n  expected {}\n  found    {}",
            case.display(),
            at + 1,
            show(wanted),
            show(got),
        );
    }
    text
}

/// An expected failure without a message accepts any.
fn same_line(expected: &Value, found: &Value) -> bool {
    let is_failure = ["reject", "retry", "skip"].iter().any(|kind| expected.get(kind).is_some());
    if is_failure && expected.get("message").is_none() {
        let mut found = found.clone();
        if let Some(line) = found.as_object_mut() {
            line.shift_remove("message");
        }
        return same(expected, &found);
    }
    same(expected, found)
}

/// Equal, where numbers of equal value are equal and the order of keys does not count.
fn same(a: &Value, b: &Value) -> bool {
    match (a, b) {
        (Value::Number(a), Value::Number(b)) => a == b || (a.as_f64() == b.as_f64() && (a.is_f64() || b.is_f64())),
        (Value::Array(a), Value::Array(b)) => a.len() == b.len() && a.iter().zip(b).all(|(a, b)| same(a, b)),
        (Value::Object(a), Value::Object(b)) => {
            a.len() == b.len() && a.iter().all(|(key, a)| b.get(key).is_some_and(|b| same(a, b)))
        }
        (a, b) => a == b,
    }
}

fn json_lines(file: &Path) -> Vec<(usize, Value)> {
    let text = fs::read_to_string(file).unwrap_or_else(|error| panic!("{}: {error}", file.display()));
    (1..)
        .zip(text.lines())
        .filter(|(_, line)| !line.trim().is_empty() && !line.starts_with("//"))
        .map(|(number, line)| {
            let value = serde_json::from_str(line);
            (number, value.unwrap_or_else(|error| panic!("{}:{number}: {error}", file.display())))
        })
        .collect()
}

/// One line of `input.jsonl`.
fn record(line: &Value) -> Result<TestRecord, String> {
    let line = line.as_object().ok_or("a record is an object")?;
    let mut record = TestRecord::default();
    for (name, value) in line {
        match name.as_str() {
            "value" => record.value = (!value.is_null()).then(|| value.to_string().into_bytes()),
            "value_text" => record.value = Some(text(name, value)?.as_bytes().to_vec()),
            "value_base64" => record.value = Some(decode(name, value)?),
            "key" => {
                record.key = match value {
                    Value::Null => None,
                    Value::String(text) => Some(text.as_bytes().to_vec()),
                    json => Some(json.to_string().into_bytes()),
                }
            }
            "key_base64" => record.key = Some(decode(name, value)?),
            "headers" => record.headers = headers(value)?,
            "timestamp_ms" => {
                record.timestamp_ms = Some(match value {
                    Value::Null => None,
                    ms => Some(ms.as_i64().ok_or("timestamp_ms is a whole number or null")?),
                });
            }
            "offset" => record.offset = Some(value.as_i64().ok_or("offset is a whole number")?),
            "topic" => record.topic = Some(text(name, value)?.to_owned()),
            "partition" => {
                let number = value.as_u64().and_then(|number| u32::try_from(number).ok());
                record.partition = number.ok_or("partition is a number from 0")?;
            }
            unknown => return Err(format!("unknown key {unknown:?}")),
        }
    }
    Ok(record)
}

type Header = (String, Option<Vec<u8>>);

fn headers(value: &Value) -> Result<Vec<Header>, String> {
    const SHAPE: &str = "headers are an object of name to text, or an array of [name, text]";
    let header_value = |value: &Value| match value {
        Value::Null => Ok(None),
        Value::String(text) => Ok(Some(text.as_bytes().to_vec())),
        Value::Object(object) if object.len() == 1 && object.contains_key("base64") => {
            decode("base64", &object["base64"]).map(Some)
        }
        _ => Err("the value of a header is a text, null, or {\"base64\": …}".to_owned()),
    };
    match value {
        Value::Object(object) => object.iter().map(|(name, value)| Ok((name.clone(), header_value(value)?))).collect(),
        Value::Array(pairs) => pairs
            .iter()
            .map(|pair| match pair.as_array().map(Vec::as_slice) {
                Some([Value::String(name), value]) => Ok((name.clone(), header_value(value)?)),
                _ => Err(SHAPE.to_owned()),
            })
            .collect(),
        _ => Err(SHAPE.to_owned()),
    }
}

fn text<'v>(name: &str, value: &'v Value) -> Result<&'v str, String> {
    value.as_str().ok_or_else(|| format!("{name} is a text"))
}

fn decode(name: &str, value: &Value) -> Result<Vec<u8>, String> {
    STANDARD.decode(text(name, value)?).map_err(|error| format!("{name} is base64: {error}"))
}

fn config(file: &Path) -> Value {
    let Ok(text) = fs::read_to_string(file) else { return Value::Null };
    let documents = Yaml::load_from_str(&text).unwrap_or_else(|error| panic!("{}: {error}", file.display()));
    documents.first().map_or(Value::Null, yaml_to_json)
}

fn yaml_to_json(yaml: &Yaml<'_>) -> Value {
    match yaml {
        Yaml::Value(Scalar::Boolean(value)) => json!(value),
        Yaml::Value(Scalar::Integer(value)) => json!(value),
        Yaml::Value(Scalar::FloatingPoint(value)) => json!(value.into_inner()),
        Yaml::Value(Scalar::String(text)) => json!(text),
        Yaml::Sequence(items) => items.iter().map(yaml_to_json).collect(),
        Yaml::Mapping(entries) => {
            let key = |yaml: &Yaml<'_>| match yaml_to_json(yaml) {
                Value::String(text) => text,
                other => other.to_string(),
            };
            Value::Object(entries.iter().map(|(name, value)| (key(name), yaml_to_json(value))).collect::<Map<_, _>>())
        }
        Yaml::Tagged(_, inner) => yaml_to_json(inner),
        _ => Value::Null,
    }
}
