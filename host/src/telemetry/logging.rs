//! Log lines on standard error, for people or as JSON.
//!
//! In: `log:` of `pelton.yaml`, and `RUST_LOG`, which goes first. Out: one line an event. What is logged is up to the
//! rooms; they never log a payload or a secret.

use tracing_subscriber::EnvFilter;
use tracing_subscriber::fmt::MakeWriter;
use tracing_subscriber::fmt::format::FmtSpan;

use crate::config::LogSettings;

/// Cassandra's driver: silent unless it is named. It repeats each failed connection many times a second while a node is
/// away; what that means for us is said by whoever waits for it.
const DRIVER: &str = "scylla";

/// The level is no level.
#[derive(Debug, thiserror::Error)]
#[error(
    "{source_name} is no log level: {message}; write a level (error, warn, info, debug, trace) or `target=level,...`"
)]
pub struct LoggingError {
    /// `log.level` or `RUST_LOG`.
    pub source_name: &'static str,
    /// What is wrong with it.
    pub message: String,
}

/// Starts logging for this process. Where logging has already started, the first settings stay.
///
/// # Errors
/// Where the level cannot be read.
pub fn init_logging(settings: &LogSettings) -> Result<(), LoggingError> {
    init_logging_to(settings, std::io::stderr, std::io::IsTerminal::is_terminal(&std::io::stderr()))
}

/// The same, of lines that go where `writer` says, in colours or without.
///
/// # Errors
/// Where the level cannot be read.
pub fn init_logging_to<W>(settings: &LogSettings, writer: W, in_colours: bool) -> Result<(), LoggingError>
where
    W: for<'w> MakeWriter<'w> + Send + Sync + 'static,
{
    let filter = filter(settings, std::env::var("RUST_LOG").ok())?;
    let lines = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_span_events(FmtSpan::NONE)
        .with_writer(writer)
        .with_ansi(in_colours);
    // A second start in one process (tests do that) keeps the first.
    let _ = if settings.json {
        lines.json().flatten_event(true).with_current_span(false).try_init()
    } else {
        lines.with_target(true).try_init()
    };
    Ok(())
}

fn filter(settings: &LogSettings, from_environment: Option<String>) -> Result<EnvFilter, LoggingError> {
    let (source_name, text) = match from_environment.filter(|text| !text.trim().is_empty()) {
        Some(text) => ("RUST_LOG", text),
        None => ("log.level", settings.level.clone()),
    };
    let quieted = if text.contains(DRIVER) { text.clone() } else { format!("{text},{DRIVER}=off") };
    EnvFilter::try_new(quieted).map_err(|error| LoggingError { source_name, message: format!("`{text}`: {error}") })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settings(level: &str) -> LogSettings {
        LogSettings { json: false, level: level.into() }
    }

    #[test]
    fn the_environment_goes_first() {
        let level = |settings: &LogSettings, environment: Option<&str>| {
            let filter = filter(settings, environment.map(str::to_owned)).expect("a level");
            filter.max_level_hint().expect("a level").to_string()
        };
        assert_eq!(level(&settings("info"), None), "info");
        assert_eq!(level(&settings("info"), Some("debug")), "debug");
        assert_eq!(level(&settings("warn"), Some("  ")), "warn");
    }

    #[test]
    fn the_driver_of_cassandra_is_silent_unless_it_is_named() {
        let quiet = filter(&settings("info"), None).expect("a level").to_string();
        assert!(quiet.contains("scylla=off") && quiet.contains("info"), "{quiet}");
        let loud = filter(&settings("info,scylla=warn"), None).expect("levels").to_string();
        assert!(loud.contains("scylla=warn") && !loud.contains("off"), "{loud}");
    }

    #[test]
    fn a_bad_level_says_where_it_stands() {
        let error = filter(&settings("pelton=loud"), None).expect_err("loud is no level");
        assert!(error.to_string().starts_with("log.level is no log level: `pelton=loud`"), "{error}");
    }
}
