//! What is asked of Kafka before anything is read: whether the brokers answer, and what they say about a project.
//!
//! In: a connection, a valid project. Out: brokers that answer; problems by key: topics that are not there, dead-letter
//! topics that take less than their source gives; and how many partitions each topic has. Never writes, never joins a
//! group.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use futures::future::join_all;
use tokio::net::TcpStream;
use tokio::time::{Instant, timeout_at};

use super::admin::{self, Probe};
use super::journal;
use super::sink::message_bytes_max;
use crate::config::{DeadLetterSettings, JournalSettings, KafkaConnection, Output, Pipeline, Problem, Project};
use crate::pipeline::SourceError;

/// How long the brokers may take for one question.
const TIMEOUT: Duration = Duration::from_secs(10);
/// How long the client may take to say why nobody has answered.
const LAST_WORDS: Duration = Duration::from_millis(200);
/// The port of a broker whose address names none.
const PORT_DEFAULT: u16 = 9092;

/// A topic that a pipeline names.
struct Named<'p> {
    pipeline: &'p Pipeline,
    key: String,
    topic: &'p str,
}

/// What was found.
#[derive(Debug, Default)]
pub struct Checked {
    /// What is wrong.
    pub problems: Vec<Problem>,
    /// How many partitions each topic has that is there.
    pub partitions: BTreeMap<String, usize>,
}

/// Brokers that have answered.
pub struct Brokers {
    probe: Arc<Probe>,
    connection: KafkaConnection,
}

impl Brokers {
    /// Waits for an answer of any broker, no longer than `within`.
    ///
    /// # Errors
    /// Where none answers, or the connection is refused.
    pub async fn reach(connection: &KafkaConnection, topic: &str, within: Duration) -> Result<Self, SourceError> {
        let until = Instant::now() + within;
        listens(connection, until).await?;
        let (connection, topic) = (connection.clone(), topic.to_owned());
        // Why nobody answers, the client tells afterwards.
        let left = until.saturating_duration_since(Instant::now() + LAST_WORDS).min(TIMEOUT);
        let asked = tokio::task::spawn_blocking(move || {
            let probe = Probe::new(&connection, TIMEOUT)?;
            probe.answers(&topic, left)?;
            Ok(Self { probe: Arc::new(probe), connection })
        });
        asked.await.map_err(|error| SourceError::Broken(error.to_string()))?
    }

    /// Asks whether all topics of a project are there and large enough.
    ///
    /// # Errors
    /// Where the brokers do not answer any more.
    pub async fn check(&self, project: &Project) -> Result<Checked, SourceError> {
        let named: Vec<Named<'_>> = project.pipelines.iter().flat_map(topics_of).collect();
        let mut checked = Checked::default();
        for Named { pipeline, key, topic } in named {
            let problem = |found: String, remedy: String| Problem::by_key(Some(&pipeline.name), &key, found, remedy);
            match self.find(topic).await {
                Ok(Some(count)) => {
                    checked.partitions.insert(topic.to_owned(), count);
                }
                Ok(None) => {
                    let brokers = &self.connection.brokers;
                    let first = brokers.split(',').next().unwrap_or(brokers);
                    checked.problems.push(problem(
                        format!("Kafka at {brokers} has no topic {topic:?}"),
                        format!(
                            "correct the name, or make it: kafka-topics.sh --bootstrap-server {first} --create --topic \
                             {topic} --partitions N"
                        ),
                    ));
                }
                // One problem says it all; each topic would say it again.
                Err(error @ (SourceError::Unreachable { .. } | SourceError::Forbidden { setting: Some(_), .. })) => {
                    return Err(error);
                }
                Err(error) => checked.problems.push(problem(
                    error.to_string(),
                    "correct the credentials under `kafka: properties:`, or the permissions of the user".to_owned(),
                )),
            }
        }
        for pipeline in &project.pipelines {
            if let JournalSettings::Kafka { topic } = &pipeline.journal
                && let Some(error) = journal::fault(&self.connection, topic).await
            {
                let remedy = "let the journal have a topic of its own, which is made at the start where it is absent";
                let key = "journal.kafka.topic";
                checked.problems.push(Problem::by_key(Some(&pipeline.name), key, error.to_string(), remedy));
            }
        }
        let sizes = project.pipelines.iter().map(|pipeline| dead_letter_size(&self.connection, pipeline));
        checked.problems.extend(join_all(sizes).await.into_iter().flatten());
        Ok(checked)
    }

    async fn find(&self, topic: &str) -> Result<Option<usize>, SourceError> {
        let (probe, topic) = (Arc::clone(&self.probe), topic.to_owned());
        tokio::task::spawn_blocking(move || probe.find(&topic))
            .await
            .map_err(|error| SourceError::Broken(error.to_string()))?
    }
}

/// Whether anybody listens at an address of `brokers`: the client itself would wait in silence where nobody does.
async fn listens(connection: &KafkaConnection, until: Instant) -> Result<(), SourceError> {
    let knock = async |address: &str| {
        let has_port = address.rsplit_once(':').is_some_and(|(_, port)| port.parse::<u16>().is_ok());
        let full = if has_port { address.to_owned() } else { format!("{address}:{PORT_DEFAULT}") };
        match timeout_at(until, TcpStream::connect(&full)).await {
            Ok(Ok(_)) => Ok(()),
            Ok(Err(error)) => Err(format!("{full}: {error}")),
            Err(_) => Err(format!("{full}: no answer")),
        }
    };
    let addresses = connection.brokers.split(',').map(str::trim);
    let answers = join_all(addresses.map(knock)).await;
    if answers.iter().any(Result::is_ok) {
        return Ok(());
    }
    let message = answers.into_iter().filter_map(Result::err).collect::<Vec<_>>().join(", ");
    Err(SourceError::Unreachable { system: format!("Kafka at {}", connection.brokers), message })
}

fn topics_of(pipeline: &Pipeline) -> Vec<Named<'_>> {
    let mut named = Vec::new();
    for (index, topic) in pipeline.source.topics.iter().enumerate() {
        named.push(Named { pipeline, key: format!("source.kafka.topics[{index}]"), topic });
    }
    for (name, output) in &pipeline.outputs {
        if let Output::Kafka(output) = output {
            named.push(Named { pipeline, key: format!("outputs.{name}.kafka.topic"), topic: &output.topic });
        }
    }
    if let DeadLetterSettings::Kafka { topic } = &pipeline.dead_letters {
        named.push(Named { pipeline, key: "dead_letters.kafka.topic".to_owned(), topic });
    }
    named
}

/// A dead letter is larger than its record: a warning where its topic takes less than the source gives. What the topic
/// does not take goes to the spill directory of one machine.
async fn dead_letter_size(connection: &KafkaConnection, pipeline: &Pipeline) -> Option<Problem> {
    /// What the headers of a dead letter may add.
    const HEADERS_BYTES: usize = 64 << 10;
    let DeadLetterSettings::Kafka { topic } = &pipeline.dead_letters else { return None };
    admin::topic_settings(connection, topic).await.ok().flatten()?;
    let takes = message_bytes_max(connection, topic).await;
    let mut gives = 0;
    for source in &pipeline.source.topics {
        gives = gives.max(message_bytes_max(connection, source).await);
    }
    (takes < gives + HEADERS_BYTES).then(|| {
        Problem::by_key(
            Some(&pipeline.name),
            "dead_letters.kafka.topic",
            format!("{topic} takes records of {takes} bytes, and the source gives up to {gives}"),
            format!(
                "set its max.message.bytes to {} or more; until then what does not fit goes to files in the spill \
                 directory",
                gives + HEADERS_BYTES
            ),
        )
        .as_warning()
    })
}

#[cfg(test)]
mod tests {
    use super::super::EmbeddedBroker;
    use super::*;

    fn at(brokers: &str) -> KafkaConnection {
        KafkaConnection { brokers: brokers.to_owned(), properties: BTreeMap::new() }
    }

    #[tokio::test]
    async fn an_address_at_which_nobody_listens_is_told_at_once_and_by_itself() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let nobody = listener.local_addr().expect("bound").to_string();
        drop(listener);
        let error = Brokers::reach(&at(&nobody), "t", Duration::from_secs(3600)).await.err().expect("nobody is there");
        assert!(error.to_string().contains(&format!("cannot be reached: {nobody}: ")), "{error}");
        let broker = EmbeddedBroker::start(&[("t", 3)]).expect("it starts");
        let both = at(&format!("{nobody},{}", broker.connection().brokers));
        let brokers =
            Brokers::reach(&both, "t", Duration::from_secs(60)).await.unwrap_or_else(|error| panic!("{error}"));
        assert_eq!(brokers.find("t").await.ok().flatten(), Some(3));
    }

    #[tokio::test]
    async fn who_listens_and_never_answers_is_waited_for_no_longer_than_allowed() {
        let silent = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = silent.local_addr().expect("bound").to_string();
        let connection = at(&address);
        let reached = Brokers::reach(&connection, "t", Duration::from_millis(300));
        let error = tokio::time::timeout(TIMEOUT - Duration::from_secs(3), reached).await.expect("in time").err();
        assert!(matches!(error, Some(SourceError::Unreachable { .. })), "{error:?}");
    }
}
