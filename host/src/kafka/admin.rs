//! Looking at topics, and making them, for the check, the demo and tests.
//!
//! In: a connection and topic names. Out: what the brokers have. The line itself never makes or deletes a topic.

use std::collections::HashMap;
use std::time::Duration;

use rdkafka::admin::{AdminClient, AdminOptions, NewTopic, ResourceSpecifier, TopicReplication};
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::topic_partition_list::{Offset as ListOffset, TopicPartitionList};

use super::client::{self, ClientVoice, OWN_CONSUMER_PROPERTIES};
use super::embedded::is_embedded;
use crate::config::KafkaConnection;
use crate::pipeline::SourceError;
use crate::record::{Offset, TopicPartition};

/// How long the brokers may take for one operation.
const OPERATION_TIMEOUT: Duration = Duration::from_secs(20);

/// A topic to make.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TopicSpec {
    /// Its name.
    pub name: String,
    /// How many partitions.
    pub partitions: i32,
    /// Copies of each record; -1 leaves it to the brokers.
    pub replication: i32,
    /// Topic settings, such as `max.message.bytes`.
    pub settings: Vec<(String, String)>,
}

impl TopicSpec {
    /// A topic with the brokers' own settings.
    #[must_use]
    pub fn new(name: impl Into<String>, partitions: i32) -> Self {
        Self { name: name.into(), partitions, replication: -1, settings: Vec::new() }
    }

    /// The same with one more setting.
    #[must_use]
    pub fn with(mut self, name: &str, value: impl Into<String>) -> Self {
        self.settings.push((name.to_owned(), value.into()));
        self
    }
}

/// A client that is no member of any group, for bounded questions.
pub(super) struct Probe {
    pub(super) consumer: BaseConsumer<ClientVoice>,
    connection: KafkaConnection,
    timeout: Duration,
}

impl Probe {
    /// Makes the client; the first question connects.
    pub(super) fn new(connection: &KafkaConnection, timeout: Duration) -> Result<Self, SourceError> {
        let mut config =
            client::client_config(connection, "probe", OWN_CONSUMER_PROPERTIES).map_err(SourceError::Refused)?;
        config.set("allow.auto.create.topics", "false");
        let consumer = config
            .create_with_context(ClientVoice::default())
            .map_err(|error| SourceError::Refused(format!("kafka: {error}")))?;
        Ok(Self { consumer, connection: connection.clone(), timeout })
    }

    /// Waits for an answer of any broker.
    pub(super) fn answers(&self, topic: &str, within: Duration) -> Result<(), SourceError> {
        self.consumer.fetch_metadata(Some(topic), within).map(|_| ()).map_err(|error| self.failed(&error))
    }

    /// How many partitions a topic has; none where there is no such topic.
    pub(super) fn find(&self, topic: &str) -> Result<Option<usize>, SourceError> {
        let metadata = self.consumer.fetch_metadata(Some(topic), self.timeout).map_err(|error| self.failed(&error))?;
        let found = metadata.topics().iter().find(|found| found.name() == topic);
        let error = found.and_then(|found| found.error()).map(RDKafkaErrorCode::from);
        match (found, error) {
            (Some(found), None) if !found.partitions().is_empty() => Ok(Some(found.partitions().len())),
            (_, Some(code)) if client::is_authorisation(code) => {
                let message = format!("Kafka at {}: topic {topic:?}: {code}", self.connection.brokers);
                Err(SourceError::Forbidden { message, setting: None })
            }
            _ => Ok(None),
        }
    }

    /// How many partitions a topic has, which must be there.
    pub(super) fn partitions(&self, topic: &str) -> Result<usize, SourceError> {
        self.find(topic)?.ok_or_else(|| {
            let brokers = &self.connection.brokers;
            SourceError::Refused(format!("Kafka at {brokers} has no topic {topic:?}: make it, or correct its name"))
        })
    }

    /// The client's errors come as events, which only a poll gives.
    pub(super) fn failed(&self, error: &KafkaError) -> SourceError {
        for _ in 0..20 {
            self.consumer.poll(Duration::from_millis(10));
        }
        client::unreachable(&self.connection, error, self.consumer.context())
    }
}

fn admin(connection: &KafkaConnection) -> Result<AdminClient<ClientVoice>, SourceError> {
    let config = client::client_config(connection, "admin", &[]).map_err(SourceError::Refused)?;
    config.create_with_context(ClientVoice::default()).map_err(|error| SourceError::Refused(format!("kafka: {error}")))
}

fn options() -> AdminOptions {
    AdminOptions::new().request_timeout(Some(OPERATION_TIMEOUT)).operation_timeout(Some(OPERATION_TIMEOUT))
}

fn failed(connection: &KafkaConnection, client: &AdminClient<ClientVoice>, error: &KafkaError) -> SourceError {
    client::unreachable(connection, error, client.inner().context())
}

/// Makes topics; one that exists already is left as it is.
///
/// # Errors
/// Where the brokers cannot be reached or refuse.
pub async fn create_topics(connection: &KafkaConnection, topics: &[TopicSpec]) -> Result<(), SourceError> {
    let client = admin(connection)?;
    let new: Vec<NewTopic<'_>> = topics
        .iter()
        .map(|spec| {
            let topic = NewTopic::new(&spec.name, spec.partitions, TopicReplication::Fixed(spec.replication));
            spec.settings.iter().fold(topic, |topic, (name, value)| topic.set(name, value))
        })
        .collect();
    let results = client.create_topics(&new, &options()).await.map_err(|error| failed(connection, &client, &error))?;
    for result in results {
        match result {
            Ok(_) | Err((_, RDKafkaErrorCode::TopicAlreadyExists)) => {}
            Err((topic, code)) => return Err(SourceError::Refused(format!("topic {topic:?} was not made: {code}"))),
        }
    }
    Ok(())
}

/// Deletes topics; one that does not exist is passed over.
///
/// # Errors
/// Where the brokers cannot be reached or refuse.
pub async fn delete_topics(connection: &KafkaConnection, topics: &[&str]) -> Result<(), SourceError> {
    let client = admin(connection)?;
    let results =
        client.delete_topics(topics, &options()).await.map_err(|error| failed(connection, &client, &error))?;
    for result in results {
        match result {
            Ok(_) | Err((_, RDKafkaErrorCode::UnknownTopicOrPartition)) => {}
            Err((topic, code)) => return Err(SourceError::Refused(format!("topic {topic:?} was not deleted: {code}"))),
        }
    }
    Ok(())
}

/// Deletes the records of a partition below an offset.
///
/// # Errors
/// Where the brokers cannot be reached or refuse.
pub async fn delete_records(
    connection: &KafkaConnection,
    partition: &TopicPartition,
    before: Offset,
) -> Result<(), SourceError> {
    let client = admin(connection)?;
    let mut list = TopicPartitionList::new();
    list.add_partition_offset(&partition.topic, partition.partition, ListOffset::Offset(before.0))
        .map_err(|error| SourceError::Refused(error.to_string()))?;
    let answer = client.delete_records(&list, &options()).await.map_err(|error| failed(connection, &client, &error))?;
    for element in answer.elements() {
        element.error().map_err(|error| SourceError::Refused(format!("{partition}: {error}")))?;
    }
    Ok(())
}

/// A topic's settings by name, as the brokers apply them; none where they do not tell (no permission, or a broker that
/// does not know the question).
///
/// # Errors
/// Where the brokers cannot be reached.
pub async fn topic_settings(
    connection: &KafkaConnection,
    topic: &str,
) -> Result<Option<HashMap<String, String>>, SourceError> {
    if is_embedded(&connection.brokers) {
        return Ok(None);
    }
    let client = admin(connection)?;
    let timeout = AdminOptions::new().request_timeout(Some(Duration::from_secs(5)));
    let results = client
        .describe_configs(&[ResourceSpecifier::Topic(topic)], &timeout)
        .await
        .map_err(|error| failed(connection, &client, &error))?;
    let Some(Ok(resource)) = results.into_iter().next() else { return Ok(None) };
    let settings = resource.entries.into_iter().filter_map(|entry| Some((entry.name, entry.value?)));
    Ok(Some(settings.collect()))
}
