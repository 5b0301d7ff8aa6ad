//! What a plugin can be granted.

/// One interface of `wit/capabilities.wit`, or that of `wit/http.wit`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, serde::Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Capability {
    /// Lines for the operator.
    Log,
    /// Numbers for the operator.
    Metrics,
    /// The configuration by key.
    Config,
    /// The record's time.
    Clock,
    /// The record's chance.
    Random,
    /// Requests to others.
    Http,
}

impl Capability {
    /// All of them.
    pub const ALL: [Self; 6] = [Self::Log, Self::Metrics, Self::Config, Self::Clock, Self::Random, Self::Http];

    /// The interface's name in `wit/`, and in `grants:`.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Log => "log",
            Self::Metrics => "metrics",
            Self::Config => "config",
            Self::Clock => "clock",
            Self::Random => "random",
            Self::Http => "http",
        }
    }

    /// What to write into `grants:` of a step.
    #[must_use]
    pub fn written(self) -> &'static str {
        match self {
            Self::Http => "http: { hosts: [HOST] }",
            other => other.name(),
        }
    }

    /// The capability of that name.
    #[must_use]
    pub fn by_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|capability| capability.name() == name)
    }
}
