//! Web server logs in the combined format, as rows; suspicious ones leave a second time, as anomalies.

mod line;

use line::Line;
use pelton_sdk::prelude::*;

#[derive(Fields)]
struct Input<'a> {
    #[field(value)]
    line: &'a [u8],
    #[field(topic)]
    topic: &'a str,
    #[field(partition)]
    partition: u32,
    #[field(offset)]
    offset: i64,
}

#[derive(Columns)]
struct Request {
    /// Where the line stands in the log: the same line read twice is the same row.
    id: String,
    #[column(symbol)]
    host: String,
    user: Option<String>,
    time: i64,
    #[column(symbol)]
    method: String,
    path: String,
    query: Option<String>,
    #[column(symbol)]
    protocol: String,
    status: u16,
    bytes: i64,
    referer: Option<String>,
    #[column(symbol)]
    user_agent: Option<String>,
    #[column(json)]
    anomalies: Option<Vec<&'static str>>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Config {
    #[serde(default = "ten_megabytes")]
    large_bytes: i64,
}

fn ten_megabytes() -> i64 {
    10_000_000
}

struct AccessLogs {
    config: Config,
}

impl Transform for AccessLogs {
    type Config = Config;
    type Input<'a> = Input<'a>;
    type Output<'a> = Request;
    const OUTPUTS: &'static [&'static str] = &["anomalies"];

    fn new(config: Config) -> Result<Self, ConfigError> {
        if config.large_bytes < 1 {
            return Err(ConfigError::key("large_bytes", format!("must be above 0, not {}", config.large_bytes)));
        }
        Ok(Self { config })
    }

    fn apply<'a>(&self, input: Input<'a>) -> Step<Request> {
        let text = String::from_utf8_lossy(input.line);
        let text = text.trim_end_matches(['\r', '\n']);
        if text.is_empty() || text.starts_with('#') {
            return Step::drop();
        }
        let line = match Line::parse(text) {
            Ok(line) => line,
            Err(what) => return Step::reject("malformed_line", format!("{what} cannot be read")),
        };
        let anomalies = self.anomalies(&line);
        let is_anomalous = !anomalies.is_empty();
        let given = |text: &str| Some(text.to_owned()).filter(|text| text != "-" && !text.is_empty());
        let (path, query) = line.target.split_once('?').unwrap_or((line.target, ""));
        let step = Step::emit(Request {
            id: format!("{}/{}/{}", input.topic, input.partition, input.offset),
            host: line.host.to_owned(),
            user: given(line.user),
            time: line.time_ms,
            method: line.method.to_owned(),
            path: path.to_owned(),
            query: given(query),
            protocol: line.protocol.to_owned(),
            status: line.status,
            bytes: line.bytes,
            referer: given(&line.referer),
            user_agent: given(&line.user_agent),
            anomalies: Some(anomalies).filter(|anomalies| !anomalies.is_empty()),
        });
        if is_anomalous { step.also_to("anomalies") } else { step }
    }
}

impl AccessLogs {
    fn anomalies(&self, line: &Line<'_>) -> Vec<&'static str> {
        let target = line::percent_decoded(line.target).to_lowercase();
        let has = |patterns: &[&str]| patterns.iter().any(|pattern| target.contains(pattern));
        let rules = [
            ("server_error", line.status >= 500),
            ("path_traversal", has(&["../", "..\\", "/etc/passwd"])),
            ("sql_injection", has(&["union select", "union all select", "' or ", "'; drop table", "sleep("])),
            ("script_injection", has(&["<script", "javascript:"])),
            ("large_body", line.bytes > self.config.large_bytes),
        ];
        let found: Vec<&str> = rules.into_iter().filter(|(_, is_found)| *is_found).map(|(name, _)| name).collect();
        for name in &found {
            metrics::count(name, 1);
        }
        found
    }
}

export!(AccessLogs);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cases() {
        testing::check_cases::<AccessLogs>(env!("CARGO_MANIFEST_DIR"));
    }

    #[test]
    fn each_rule_is_counted() {
        let line = r#"1.2.3.4 - - [10/Oct/2000:13:55:36 -0700] "GET /a?q=1%27%20OR%201=1 HTTP/1.1" 503 - "-" "-""#;
        let run = testing::run::<AccessLogs>(json!({}), [line]);
        assert_eq!(run.values("anomalies")[0]["anomalies"], json!(["server_error", "sql_injection"]));
        assert_eq!((run.counted("server_error"), run.counted("sql_injection"), run.counted("large_body")), (1, 1, 0));
    }
}
