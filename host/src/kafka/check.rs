//! What `pelton check --online` asks Kafka.
//!
//! In: a valid project. Out: problems by key: brokers that do not answer, topics that are not there, dead-letter topics
//! that take less than their source gives; and how many partitions each topic has. Never writes, never joins a group.

use std::collections::BTreeMap;
use std::time::Duration;

use super::admin::{self, Probe};
use super::sink::message_bytes_max;
use crate::config::{DeadLetterSettings, KafkaConnection, Output, Pipeline, Problem, Project};
use crate::pipeline::SourceError;

/// How long the brokers may take for one question.
const TIMEOUT: Duration = Duration::from_secs(10);

const CREDENTIALS: &str = "correct the credentials under `kafka: properties:`, or the permissions of the user";

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

/// Asks the brokers whether all topics of a project are there and large enough.
pub async fn check(project: &Project) -> Checked {
    let named: Vec<Named<'_>> = project.pipelines.iter().flat_map(topics_of).collect();
    let mut checked = Checked::default();
    let Some(connection) = project.settings.kafka.as_ref().filter(|_| !named.is_empty()) else { return checked };
    for Named { pipeline, key, topic } in named {
        match partitions(connection, topic).await {
            Ok(count) => {
                checked.partitions.insert(topic.to_owned(), count);
            }
            Err(SourceError::Unreachable { system, message }) => {
                // One problem says it all; each topic would say it again.
                checked.problems = vec![Problem::by_key(
                    None,
                    "kafka.brokers",
                    format!("{system} cannot be reached: {message}"),
                    "start the brokers, or correct the address and the security settings",
                )];
                return checked;
            }
            Err(SourceError::Forbidden { message, setting: Some(setting) }) => {
                let key = format!("kafka.{setting}");
                checked.problems = vec![Problem::by_key(None, key, message, CREDENTIALS)];
                return checked;
            }
            Err(error) => {
                let remedy = remedy(&error, topic);
                checked.problems.push(Problem::by_key(Some(&pipeline.name), key, error.to_string(), remedy));
            }
        }
    }
    for pipeline in &project.pipelines {
        checked.problems.extend(dead_letter_size(connection, pipeline).await);
    }
    checked
}

fn remedy(error: &SourceError, topic: &str) -> String {
    match error {
        SourceError::Refused(text) if text.contains("no topic") => {
            format!("make it: kafka-topics.sh --create --topic {topic} --partitions N, or correct the name")
        }
        _ => CREDENTIALS.to_owned(),
    }
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

async fn partitions(connection: &KafkaConnection, topic: &str) -> Result<usize, SourceError> {
    let (connection, topic) = (connection.clone(), topic.to_owned());
    tokio::task::spawn_blocking(move || Probe::new(&connection, TIMEOUT)?.partitions(&topic))
        .await
        .map_err(|error| SourceError::Broken(error.to_string()))?
}

/// A dead letter is larger than its record: a warning where its topic takes less than the source gives. What the topic
/// does not take goes to the spill directory of one machine.
pub async fn dead_letter_size(connection: &KafkaConnection, pipeline: &Pipeline) -> Option<Problem> {
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
