//! Settings and words that all clients of this room share.
//!
//! In: the connection as configured. Out: client settings, errors in our words. Never logs a property: some are secrets.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};

use rdkafka::ClientConfig;
use rdkafka::client::ClientContext;
use rdkafka::config::RDKafkaLogLevel;
use rdkafka::consumer::ConsumerContext;
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::statistics::Statistics;
use rdkafka::types::RDKafkaConfRes;

use crate::config::{KafkaConnection, Secret};
use crate::pipeline::SourceError;

/// Consumer settings on which promises rest: they are ours.
pub const OWN_CONSUMER_PROPERTIES: &[&str] = &[
    "bootstrap.servers",
    "metadata.broker.list",
    "group.id",
    "group.protocol",
    "client.id",
    "enable.auto.commit",
    "auto.commit.enable",
    "auto.commit.interval.ms",
    "enable.auto.offset.store",
    "enable.partition.eof",
    "auto.offset.reset",
    "partition.assignment.strategy",
    "allow.auto.create.topics",
    "isolation.level",
    "log.queue",
    "enabled_events",
    "statistics.interval.ms",
];

/// Producer settings on which promises rest: they are ours.
pub const OWN_PRODUCER_PROPERTIES: &[&str] = &[
    "bootstrap.servers",
    "metadata.broker.list",
    "client.id",
    "enable.idempotence",
    "enable.gapless.guarantee",
    "acks",
    "request.required.acks",
    "retries",
    "message.send.max.retries",
    "message.timeout.ms",
    "delivery.timeout.ms",
    "max.in.flight",
    "max.in.flight.requests.per.connection",
    "message.max.bytes",
    "queuing.strategy",
    "transactional.id",
    "partitioner",
    "delivery.report.only.error",
    "log.queue",
    "enabled_events",
    "statistics.interval.ms",
];

/// Those of `properties` that are not the operator's to set.
#[must_use]
pub fn refused_properties<'p>(properties: &'p BTreeMap<String, Secret>, own: &[&str]) -> Vec<&'p str> {
    properties.keys().map(String::as_str).filter(|name| own.contains(name)).collect()
}

/// What is wrong with one of librdkafka's settings by itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PropertyFault {
    /// There is no setting of that name.
    Unknown,
    /// It does not take that value; in the client's words, which may repeat the value.
    Invalid(String),
}

/// Asks librdkafka whether it has such a setting, and whether it takes the value. Opens nothing.
#[must_use]
pub fn property_fault(name: &str, value: &str) -> Option<PropertyFault> {
    let mut config = ClientConfig::new();
    config.set(name, value);
    match config.create_native_config() {
        Ok(_) => None,
        Err(KafkaError::ClientConfig(RDKafkaConfRes::RD_KAFKA_CONF_UNKNOWN, ..)) => Some(PropertyFault::Unknown),
        Err(KafkaError::ClientConfig(_, message, ..)) => Some(PropertyFault::Invalid(message)),
        Err(error) => Some(PropertyFault::Invalid(error.to_string())),
    }
}

/// Settings of any client: where the brokers are, and how to speak to them.
///
/// # Errors
/// Where a property is ours to set.
pub(super) fn client_config(connection: &KafkaConnection, role: &str, own: &[&str]) -> Result<ClientConfig, String> {
    static CLIENTS: AtomicU64 = AtomicU64::new(0);
    if let Some(name) = refused_properties(&connection.properties, own).first() {
        return Err(format!("kafka.properties.{name} is set by Pelton itself: remove it"));
    }
    let mut config = ClientConfig::new();
    config.set_log_level(RDKafkaLogLevel::Info);
    // What the operator may override, first.
    config.set("socket.keepalive.enable", "true");
    config.set("reconnect.backoff.max.ms", "5000");
    config.set("topic.metadata.refresh.interval.ms", "30000");
    for (name, value) in &connection.properties {
        config.set(name, value.expose());
    }
    let number = CLIENTS.fetch_add(1, Ordering::Relaxed);
    config.set("bootstrap.servers", &connection.brokers);
    config.set("client.id", format!("pelton-{role}-{}-{number}", std::process::id()));
    Ok(config)
}

/// Forwards what the client says to the log, and remembers its last error.
#[derive(Debug, Default)]
pub(super) struct ClientVoice {
    last: Mutex<Option<LastError>>,
}

/// The client's last word on what is wrong.
#[derive(Debug, Clone)]
pub(super) struct LastError {
    /// What.
    pub(super) text: String,
    /// Credentials or permissions, not the network.
    pub(super) is_authorisation: bool,
    code: RDKafkaErrorCode,
}

impl ClientVoice {
    /// The last error since [`Self::forget`].
    pub(super) fn last(&self) -> Option<LastError> {
        self.last.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// All is well again.
    pub(super) fn forget(&self) {
        *self.last.lock().unwrap_or_else(PoisonError::into_inner) = None;
    }

    /// Notes an error.
    pub(super) fn note(&self, error: &KafkaError, reason: &str) {
        let code = error.rdkafka_error_code().unwrap_or(RDKafkaErrorCode::Unknown);
        let is_authorisation = is_authorisation(code);
        let mut last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        // "All brokers are down" follows each refusal and says less than it.
        if last.as_ref().is_some_and(|last| last.is_authorisation) && !is_authorisation {
            return;
        }
        *last = Some(LastError { text: reason.to_owned(), is_authorisation, code });
    }
}

impl ClientContext for ClientVoice {
    fn log(&self, level: RDKafkaLogLevel, facility: &str, message: &str) {
        forward_log(level, facility, message);
    }

    fn stats(&self, _statistics: Statistics) {}

    fn error(&self, error: KafkaError, reason: &str) {
        self.note(&error, reason);
        tracing::debug!(target: "pelton::kafka", %error, reason, "the Kafka client reports an error");
    }
}

impl ConsumerContext for ClientVoice {}

/// One line of the client's log.
pub(super) fn forward_log(level: RDKafkaLogLevel, facility: &str, message: &str) {
    match level {
        RDKafkaLogLevel::Emerg | RDKafkaLogLevel::Alert | RDKafkaLogLevel::Critical | RDKafkaLogLevel::Error => {
            tracing::warn!(target: "pelton::kafka", facility, "{message}");
        }
        RDKafkaLogLevel::Warning => tracing::info!(target: "pelton::kafka", facility, "{message}"),
        RDKafkaLogLevel::Notice | RDKafkaLogLevel::Info | RDKafkaLogLevel::Debug => {
            tracing::debug!(target: "pelton::kafka", facility, "{message}");
        }
    }
}

/// Whether credentials or permissions are wrong.
pub(super) fn is_authorisation(code: RDKafkaErrorCode) -> bool {
    use RDKafkaErrorCode as Code;
    matches!(
        code,
        Code::Authentication
            | Code::SaslAuthenticationFailed
            | Code::TopicAuthorizationFailed
            | Code::GroupAuthorizationFailed
            | Code::ClusterAuthorizationFailed
            | Code::TransactionalIdAuthorizationFailed
            | Code::SSL
    )
}

/// The brokers do not answer, or refuse us.
pub(super) fn unreachable(connection: &KafkaConnection, error: &KafkaError, voice: &ClientVoice) -> SourceError {
    let system = format!("Kafka at {}", connection.brokers);
    let last = voice.last();
    if let Some(last) = last.as_ref().filter(|last| last.is_authorisation) {
        let message = format!("{system} refuses the connection: {}", last.text);
        return SourceError::Forbidden { message, setting: setting_to_blame(connection, last.code) };
    }
    let message = last.map_or_else(|| error.to_string(), |last| format!("{error} ({})", last.text));
    SourceError::Unreachable { system, message }
}

/// The setting of the connection that is to blame for a refusal.
fn setting_to_blame(connection: &KafkaConnection, code: RDKafkaErrorCode) -> Option<String> {
    let candidates: &[&str] = match code {
        RDKafkaErrorCode::Authentication | RDKafkaErrorCode::SaslAuthenticationFailed => {
            &["sasl.password", "sasl.username", "sasl.mechanism", "sasl.mechanisms", "security.protocol"]
        }
        RDKafkaErrorCode::SSL => &["ssl.ca.location", "ssl.ca.pem", "ssl.certificate.location", "security.protocol"],
        _ => return None,
    };
    let name = candidates.iter().find(|name| connection.properties.contains_key(**name));
    Some(name.map_or_else(|| "properties".to_owned(), |name| format!("properties.{name}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn connection(properties: &[(&str, &str)]) -> KafkaConnection {
        KafkaConnection {
            brokers: "127.0.0.1:1".to_owned(),
            properties: properties.iter().map(|(k, v)| ((*k).to_owned(), Secret::new(*v))).collect(),
        }
    }

    #[test]
    fn refuses_properties_on_which_promises_rest() {
        let error = client_config(&connection(&[("enable.auto.commit", "true")]), "x", OWN_CONSUMER_PROPERTIES);
        assert_eq!(
            error.err().as_deref(),
            Some("kafka.properties.enable.auto.commit is set by Pelton itself: remove it")
        );
    }

    #[test]
    fn passes_security_settings_through() {
        let connection = connection(&[("security.protocol", "SASL_SSL"), ("sasl.password", "secret")]);
        let config = client_config(&connection, "x", OWN_CONSUMER_PROPERTIES).expect("accepted");
        assert_eq!(config.get("security.protocol"), Some("SASL_SSL"));
        assert_eq!(config.get("sasl.password"), Some("secret"));
    }

    #[test]
    fn each_client_has_an_id_of_its_own() {
        let one = client_config(&connection(&[]), "x", &[]).expect("accepted");
        let two = client_config(&connection(&[]), "x", &[]).expect("accepted");
        assert_ne!(one.get("client.id"), two.get("client.id"));
    }

    #[test]
    fn a_refusal_is_not_hidden_by_what_follows_it() {
        let voice = ClientVoice::default();
        voice.note(&KafkaError::Global(RDKafkaErrorCode::Authentication), "bad password");
        voice.note(&KafkaError::Global(RDKafkaErrorCode::AllBrokersDown), "1/1 brokers are down");
        assert_eq!(voice.last().map(|last| last.text).as_deref(), Some("bad password"));
    }
}
