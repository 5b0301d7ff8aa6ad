//! `http.jsonl` of a case: what others answer, so that a test asks nobody.
//!
//! In: a file. Out: [`Answers`] by method and URL; a request that no line answers is denied, and the words say which line
//! is missing.

use std::collections::BTreeMap;
use std::path::Path;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use futures::FutureExt as _;
use futures::future::BoxFuture;
use serde_json::{Map, Value};

use super::format::{FormatError, read_lines};
use crate::egress::{self, Bounds, Outgoing, Refused, Request, Response};

const KEYS: [&str; 8] = ["method", "url", "status", "headers", "body", "body_text", "body_base64", "error"];
/// The kinds of refusals, as `error` names them.
const KINDS: [Kind; 6] = [
    ("denied", Refused::Denied),
    ("invalid", Refused::Invalid),
    ("timeout", Refused::Timeout),
    ("too-large", Refused::TooLarge),
    ("connect", Refused::Connect),
    ("protocol", Refused::Protocol),
];

type Kind = (&'static str, fn(String) -> Refused);

/// Method and URL.
type Asked = (String, String);
type Answer = Result<Response, Refused>;

/// What others answer in a case.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Answers(BTreeMap<Asked, Answer>);

impl Answers {
    /// Reads the file; none where it is not there.
    pub(super) fn read(file: &Path) -> Result<Self, FormatError> {
        let mut answers = BTreeMap::new();
        if !file.is_file() {
            return Ok(Self(answers));
        }
        for (line, value) in read_lines(file)? {
            let wrong = |problem: String| FormatError { file: file.to_owned(), line, problem };
            let (asked, answer) = value.as_object().ok_or_else(String::new).and_then(answer).map_err(wrong)?;
            if answers.insert(asked, answer).is_some() {
                return Err(wrong("another line answers the same request".to_owned()));
            }
        }
        Ok(Self(answers))
    }

    fn to(&self, request: Request) -> Answer {
        let asked = (request.method, request.url);
        self.0.get(&asked).cloned().unwrap_or_else(|| {
            Err(Refused::Denied(format!("no line of the case's http.jsonl answers {} {}", asked.0, asked.1)))
        })
    }
}

impl Outgoing for Answers {
    fn fetch_all(&self, requests: Vec<Request>, _: Bounds) -> BoxFuture<'static, Option<egress::Answers>> {
        std::future::ready(Some(requests.into_iter().map(|request| self.to(request)).collect())).boxed()
    }
}

/// What one line answers to what.
fn answer(line: &Map<String, Value>) -> Result<(Asked, Answer), String> {
    if let Some(unknown) = line.keys().find(|key| !KEYS.contains(&key.as_str())) {
        return Err(format!("unknown key `{unknown}`; the keys are {}", KEYS.join(", ")));
    }
    let text = |key: &str| match line.get(key) {
        None => Ok(None),
        Some(Value::String(text)) => Ok(Some(text.clone())),
        Some(_) => Err(format!("`{key}` is a text")),
    };
    let url = text("url")?.ok_or("`url` is missing: what is asked for, as the plugin writes it")?;
    let asked = (text("method")?.unwrap_or_else(|| "GET".to_owned()), url.clone());
    if let Some(error) = text("error")? {
        let kind = KINDS.iter().find(|(name, _)| *name == error);
        let (_, refused) =
            kind.ok_or_else(|| format!("`error` is one of {}", KINDS.map(|(name, _)| name).join(", ")))?;
        return Ok((asked, Err(refused("as the case says".to_owned()))));
    }
    let status = match line.get("status") {
        None => 200,
        Some(status) => status
            .as_u64()
            .and_then(|status| u16::try_from(status).ok())
            .filter(|status| (100..1000).contains(status))
            .ok_or("`status` is a number from 100 to 999")?,
    };
    let mut headers = Vec::new();
    if let Some(given) = line.get("headers") {
        for (name, value) in given.as_object().ok_or("`headers` is an object of names and texts")? {
            let value = value.as_str().ok_or("`headers` is an object of names and texts")?;
            headers.push((name.to_ascii_lowercase(), value.as_bytes().to_vec()));
        }
    }
    let bodies = [
        line.get("body").map(|body| Ok(body.to_string().into_bytes())),
        text("body_text")?.map(|text| Ok(text.into_bytes())),
        text("body_base64")?.map(|text| BASE64.decode(text).map_err(|error| format!("`body_base64`: {error}"))),
    ];
    let mut bodies = bodies.into_iter().flatten();
    let body = bodies.next().transpose()?.unwrap_or_default();
    if bodies.next().is_some() {
        return Err("one of `body`, `body_text` and `body_base64` is enough".to_owned());
    }
    Ok((asked, Ok(Response { status, url, headers, body })))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn read(line: &Value) -> Result<Answer, String> {
        answer(line.as_object().expect("an object")).map(|(_, answer)| answer)
    }

    #[test]
    fn a_line_is_an_answer_or_why_there_is_none() {
        let url = "https://a.example/";
        let response = read(&json!({"url": url, "status": 404, "headers": {"X-Why": "gone"}, "body": {"a": 1}}));
        let headers = vec![("x-why".to_owned(), b"gone".to_vec())];
        let body = br#"{"a":1}"#.to_vec();
        assert_eq!(response, Ok(Ok(Response { status: 404, url: url.into(), headers, body })));
        assert_eq!(read(&json!({"url": url, "body_base64": "AAE="})).map(|a| a.map(|a| a.body)), Ok(Ok(vec![0, 1])));
        let timeout = read(&json!({"method": "POST", "url": url, "error": "timeout"}));
        assert_eq!(timeout, Ok(Err(Refused::Timeout("as the case says".into()))));
    }

    #[test]
    fn a_line_that_makes_no_sense_says_what_to_write() {
        for (line, words) in [
            (json!({}), "`url` is missing"),
            (json!({"url": "x", "code": 1}), "unknown key `code`"),
            (json!({"url": "x", "status": 7}), "100 to 999"),
            (json!({"url": "x", "error": "slow"}), "denied, invalid, timeout"),
            (json!({"url": "x", "body": 1, "body_text": "1"}), "is enough"),
            (json!({"url": "x", "headers": {"a": 1}}), "names and texts"),
            (json!({"url": 1}), "`url` is a text"),
        ] {
            let problem = read(&line).expect_err("it makes no sense");
            assert!(problem.contains(words), "{line}: {problem}");
        }
    }
}
