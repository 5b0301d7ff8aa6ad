//! Plugins replaced while records flow, through a real Kafka into a real Cassandra: two versions in turn, each with a digest
//! of its own, that stamp what they are into every row.
//!
//! `reload [--reloads N] [--records N] [--json]`; exit code 1 where a record was lost or repeated, carries another version
//! than the journal claims for its offset, or where anything but the first assignment moved a partition.
//!
//! ```text
//!   producer ──► Kafka ──► daemon ──► Cassandra ──► look ──► expect
//!                            ▲  └──► journal ────────┘
//!   two artifacts, in turn ──┘
//! ```

#![allow(clippy::print_stdout, clippy::print_stderr, reason = "it is made to print")]

mod look;
mod report;
mod run;

use std::process::ExitCode;

type Failure = Box<dyn std::error::Error + Send + Sync>;

const USAGE: &str = "reload [--reloads N] [--records N] [--json]";

/// What is wanted of a run.
struct Options {
    reloads: u64,
    records: u64,
    json: bool,
}

impl Options {
    fn parse(arguments: &[String]) -> Result<Self, Failure> {
        let mut options = Self { reloads: 1_000, records: 2_000_000, json: false };
        let mut words = arguments.iter();
        while let Some(word) = words.next() {
            let mut number = || -> Result<u64, Failure> {
                let text = words.next().ok_or_else(|| format!("{word} needs a number: {USAGE}"))?;
                text.parse().map_err(|_| format!("{word} {text}: a whole number is wanted: {USAGE}").into())
            };
            match word.as_str() {
                "--reloads" => options.reloads = number()?.max(1),
                "--records" => options.records = number()?.max(1),
                "--json" => options.json = true,
                other => return Err(format!("`{other}`: {USAGE}").into()),
            }
        }
        Ok(options)
    }
}

#[tokio::main]
async fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let options = match Options::parse(&arguments) {
        Ok(options) => options,
        Err(error) => {
            eprintln!("error: {error}");
            return ExitCode::from(2);
        }
    };
    match run::run(&options).await {
        Ok(report) => {
            if options.json {
                println!("{}", serde_json::json!(report));
            } else {
                println!("{report}");
            }
            ExitCode::from(u8::from(!report.is_well()))
        }
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::FAILURE
        }
    }
}
