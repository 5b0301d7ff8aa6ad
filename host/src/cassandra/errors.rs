//! What can go wrong with Cassandra, and what each answer of the driver means for a row.
//!
//! In: the driver's errors. Out: errors for people, and a [`Verdict`] for the sink: try again, or never. Classified once,
//! here. An outcome that is not known counts as not written.

use std::path::PathBuf;

use scylla::errors::{
    BadQuery, ConnectionError, ConnectionPoolError, ConnectionSetupRequestError, ConnectionSetupRequestErrorKind,
    DbError, ExecutionError, MetadataError, NewSessionError, PrepareError, RequestAttemptError,
};

use super::table::TableProblem;

/// Why Cassandra, or a table, cannot be used.
#[derive(Debug, Clone, thiserror::Error)]
pub enum CassandraError {
    /// Nobody answers, or not in time.
    #[error("Cassandra at {contact_points} cannot be reached: {message}")]
    Unreachable {
        /// The addresses tried.
        contact_points: String,
        /// What the driver said.
        message: String,
    },
    /// The credentials are wrong, or missing.
    #[error(
        "Cassandra at {contact_points} refuses the login: {message}; see `username` and `password` under `cassandra`"
    )]
    Login {
        /// The addresses tried.
        contact_points: String,
        /// What Cassandra said.
        message: String,
    },
    /// A setting of `cassandra:` will not do.
    #[error("cassandra.{key}: {message}")]
    Setting {
        /// The key below `cassandra`.
        key: &'static str,
        /// What was found, and what to write instead.
        message: String,
    },
    /// A file for TLS cannot be used.
    #[error("cassandra.tls.{key}: {}: {message}", .file.display())]
    Tls {
        /// The key below `cassandra.tls`.
        key: &'static str,
        /// The file.
        file: PathBuf,
        /// Why.
        message: String,
    },
    /// The table will not do.
    #[error("table {table}: {}", .problems.iter().map(ToString::to_string).collect::<Vec<_>>().join("; "))]
    Table {
        /// `keyspace.table`
        table: String,
        /// Every reason; at least one.
        problems: Vec<TableProblem>,
    },
    /// A request failed.
    #[error("Cassandra answers with an error while {doing}: {message}")]
    Request {
        /// What was asked.
        doing: String,
        /// What Cassandra or the driver said.
        message: String,
        /// Whether it may work later.
        transient: bool,
    },
}

impl CassandraError {
    /// Whether waiting may help: nobody answers, or not now. A refusal is not transient.
    #[must_use]
    pub fn is_transient(&self) -> bool {
        matches!(self, Self::Unreachable { .. } | Self::Request { transient: true, .. })
    }

    /// The key of `pelton.yaml` that is to blame, where it is the connection.
    #[must_use]
    pub fn key(&self) -> Option<String> {
        match self {
            Self::Setting { key, .. } => Some(format!("cassandra.{key}")),
            Self::Tls { key, .. } => Some(format!("cassandra.tls.{key}")),
            Self::Login { .. } => Some("cassandra.username".to_owned()),
            Self::Unreachable { .. } => Some("cassandra.contact_points".to_owned()),
            Self::Table { .. } | Self::Request { .. } => None,
        }
    }

    pub(crate) fn new_session(contact_points: &str, error: &NewSessionError) -> Self {
        let contact_points = contact_points.to_owned();
        let message = match error {
            NewSessionError::MetadataError(MetadataError::ConnectionPoolError(ConnectionPoolError::Broken {
                last_connection_error: last,
                ..
            })) => match last {
                ConnectionError::ConnectionSetupRequestError(setup) => match login_refused(setup.get_error()) {
                    Some(message) => return Self::Login { contact_points, message },
                    None => not_cassandra(setup),
                },
                last => not_connected(last),
            },
            NewSessionError::FailedToResolveAnyHostname(_) => "none of these names has an address".to_owned(),
            NewSessionError::MetadataError(error) => {
                format!("it answers, but does not tell what the cluster is made of: {error}")
            }
            other => other.to_string(),
        };
        Self::Unreachable { contact_points, message: short(&message) }
    }

    pub(crate) fn request(doing: impl Into<String>, error: impl Into<RequestFailure>) -> Self {
        let RequestFailure { message, transient } = error.into();
        Self::Request { doing: doing.into(), message, transient }
    }
}

/// Why there is no connection, without the driver's own rooms: its pools mean nothing to those who read this.
fn not_connected(error: &ConnectionError) -> String {
    match error {
        ConnectionError::ConnectTimeout => "nobody answers in time".to_owned(),
        ConnectionError::BrokenConnection(error) => format!("the connection broke while it was set up: {error}"),
        other => other.to_string(),
    }
}

/// A connection that came about, and no conversation.
fn not_cassandra(setup: &ConnectionSetupRequestError) -> String {
    format!("something listens there, but does not answer as Cassandra does: {}", setup.get_error())
}

fn login_refused(error: &ConnectionSetupRequestErrorKind) -> Option<String> {
    match error {
        ConnectionSetupRequestErrorKind::DbError(DbError::AuthenticationError | DbError::Unauthorized, message) => {
            Some(message.clone())
        }
        ConnectionSetupRequestErrorKind::MissingAuthentication => Some("it wants a user name and a password".into()),
        ConnectionSetupRequestErrorKind::StartAuthSessionError(error)
        | ConnectionSetupRequestErrorKind::AuthChallengeEvaluationError(error)
        | ConnectionSetupRequestErrorKind::AuthFinishError(error) => Some(error.to_string()),
        _ => None,
    }
}

/// A failed request that is not a row.
pub(crate) struct RequestFailure {
    message: String,
    transient: bool,
}

impl From<&ExecutionError> for RequestFailure {
    fn from(error: &ExecutionError) -> Self {
        Self { message: short(&error.to_string()), transient: matches!(Verdict::of(error), Verdict::Again { .. }) }
    }
}

impl From<&PrepareError> for RequestFailure {
    fn from(error: &PrepareError) -> Self {
        let transient = match error {
            PrepareError::AllAttemptsFailed { first_attempt } => {
                matches!(Verdict::of_attempt(first_attempt), Verdict::Again { .. })
            }
            _ => true,
        };
        Self { message: short(&error.to_string()), transient }
    }
}

/// What an error means for the row that met it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// Not known to be written: again, after a while.
    Again {
        /// Cassandra, or the way to it, has too much to do.
        overload: bool,
    },
    /// Refused until somebody changes something: a right, a password. Again, after a while, and say so.
    Blocked,
    /// Cassandra will not have this statement: the table has changed, or the row is at fault.
    Refused,
    /// The row is at fault, and never left.
    BadRow(&'static str),
}

impl Verdict {
    pub(crate) fn of(error: &ExecutionError) -> Self {
        match error {
            ExecutionError::BadQuery(BadQuery::SerializationError(_)) => Self::BadRow("sink.bad_value"),
            ExecutionError::BadQuery(_) => Self::BadRow("sink.bad_key"),
            ExecutionError::RequestTimeout(_) => Self::Again { overload: true },
            ExecutionError::LastAttemptError(error) => Self::of_attempt(error),
            ExecutionError::PrepareError(PrepareError::AllAttemptsFailed { first_attempt }) => {
                Self::of_attempt(first_attempt)
            }
            ExecutionError::ConnectionPoolError(ConnectionPoolError::Broken {
                last_connection_error: ConnectionError::ConnectionSetupRequestError(setup),
            }) if login_refused(setup.get_error()).is_some() => Self::Blocked,
            _ => Self::Again { overload: false },
        }
    }

    fn of_attempt(error: &RequestAttemptError) -> Self {
        match error {
            RequestAttemptError::SerializationError(_) | RequestAttemptError::CqlRequestSerialization(_) => {
                Self::BadRow("sink.bad_value")
            }
            RequestAttemptError::UnableToAllocStreamId => Self::Again { overload: true },
            RequestAttemptError::DbError(error, _) => match error {
                DbError::WriteTimeout { .. }
                | DbError::ReadTimeout { .. }
                | DbError::Overloaded
                | DbError::RateLimitReached { .. } => Self::Again { overload: true },
                DbError::AuthenticationError | DbError::Unauthorized => Self::Blocked,
                DbError::SyntaxError
                | DbError::Invalid
                | DbError::ConfigError
                | DbError::FunctionFailure { .. }
                | DbError::AlreadyExists { .. } => Self::Refused,
                _ => Self::Again { overload: false },
            },
            _ => Self::Again { overload: false },
        }
    }
}

/// A message for people, cut where a driver or a server goes on for pages.
pub(crate) fn short(message: &str) -> String {
    const BYTES: usize = 400;
    match message.char_indices().find(|(at, _)| *at >= BYTES) {
        None => message.to_owned(),
        Some((end, _)) => format!("{}…", &message[..end]),
    }
}
