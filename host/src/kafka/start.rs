//! Where a partition begins, and whether records were lost before it.
//!
//! In: what the group has committed, what the broker has, and what was configured. Out: an offset for each partition,
//! with the range that is gone where there is one. The decision is a pure function; asking is bounded in time.

use std::collections::{BTreeMap, HashMap};
use std::time::Duration;

use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::error::{KafkaError, KafkaResult};
use rdkafka::topic_partition_list::{Offset as ListOffset, TopicPartitionList};

use super::consumer::Context;
use super::embedded::is_embedded;
use super::native;
use crate::config::Start;
use crate::pipeline::checkpoint::{Checkpoint, KEPT_START};
use crate::pipeline::{Position, SourceError};
use crate::record::{Offset, TopicPartition};

/// How long one question to the brokers may take, and how often it is asked.
const ASK_TIMEOUT: Duration = Duration::from_secs(10);
const ASK_ATTEMPTS: u32 = 3;

/// Where a partition begins.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Beginning {
    pub(super) partition: TopicPartition,
    pub(super) offset: i64,
    /// One past the newest record.
    pub(super) high: i64,
    pub(super) metadata: Option<String>,
    pub(super) sibling_metadata: Vec<String>,
    pub(super) partitions_total: i32,
    pub(super) topic_id: Option<String>,
    /// The committed offset; without one the next owner would decide anew.
    pub(super) committed: Option<i64>,
    /// What is gone.
    pub(super) lost: Option<Lost>,
    /// The topic was made anew since it was read last, as the source itself knows: no journal need tell it.
    pub(super) is_anew: bool,
}

impl Beginning {
    /// The position that stands at the broker.
    pub(super) fn committed(&self) -> Option<Position> {
        let next = Offset(self.committed?);
        Some(Position { next, metadata: self.metadata.clone().unwrap_or_default() })
    }
}

/// Records that were not read and are gone.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Lost {
    pub(super) from: i64,
    pub(super) to: i64,
    /// How many, where that is known.
    pub(super) records: Option<u64>,
    pub(super) reason: String,
}

impl Lost {
    /// In the words of the seam.
    pub(super) fn into_error(self, partition: &TopicPartition, group: &str) -> SourceError {
        SourceError::Lost {
            partition: partition.clone(),
            from: Offset(self.from),
            to: Offset(self.to),
            reason: self.reason,
            remedy: format!(
                "write `on_lost: continue` to go on with what the topic still has, or set the offsets of group \
                 {group:?} yourself: that drops the write times kept beside them, so that updates may lose against \
                 rows written before, unless the output's `timestamp_floor` is later than those"
            ),
        }
    }
}

/// What this process itself remembers of a partition, or its journal.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Known {
    pub(super) topic_id: Option<String>,
    /// How far it was read; as far as the journal tells, at least.
    pub(super) next: i64,
    /// One past the newest record; a journal does not tell.
    pub(super) high: Option<i64>,
}

/// All that decides where a partition begins.
#[derive(Debug, Clone, Default)]
struct Facts {
    committed: Option<i64>,
    committed_topic_id: Option<String>,
    known: Option<Known>,
    topic_id: Option<String>,
    low: i64,
    high: i64,
    /// Where to begin without a committed offset; none: refuse.
    fresh: Option<i64>,
}

impl Facts {
    /// The topic's old id and its new one, where it was made anew.
    fn ids(&self) -> Option<(&String, &String)> {
        let known = self.known.as_ref().and_then(|known| known.topic_id.as_ref());
        self.committed_topic_id.as_ref().or(known).zip(self.topic_id.as_ref()).filter(|(old, new)| old != new)
    }
}

/// Decides. `Err` where there is no committed offset and the start position asks for one.
fn decide(facts: &Facts) -> Result<(i64, Option<Lost>), ()> {
    if let Some((old, new)) = facts.ids() {
        let known = facts.known.as_ref().filter(|known| known.topic_id.as_ref() == Some(old));
        // An offset beside which no id stands is one of the new topic: the start that is kept.
        let committed = facts.committed.filter(|_| facts.committed_topic_id.is_some());
        let from = committed.or(known.map(|known| known.next)).unwrap_or(0);
        let end = known.and_then(|known| known.high);
        let records = end.map(|end| u64::try_from(end - from).unwrap_or(0));
        let how_many = match (records, committed) {
            (Some(_), _) => String::new(),
            (None, Some(_)) => "; how many there were is not known".to_owned(),
            (None, None) => {
                format!("; the old one had been read up to {from} at least, and how many there were is not known")
            }
        };
        let reason = format!("the topic was made anew: its id was {old} and is {new}{how_many}");
        let to = end.map_or(from, |end| (end - 1).max(from));
        let lost = (records != Some(0)).then_some(Lost { from, to, records, reason });
        return Ok((facts.low, lost));
    }
    let Some(committed) = facts.committed else {
        return facts.fresh.map(|offset| (offset, None)).ok_or(());
    };
    if committed < facts.low {
        let reason = format!("the topic begins at {} by now: retention or deleted records", facts.low);
        let records = u64::try_from(facts.low - committed).ok();
        return Ok((facts.low, Some(Lost { from: committed, to: facts.low - 1, records, reason })));
    }
    if committed > facts.high {
        let reason = format!(
            "the topic ends at {}, before the committed offset: it was made anew or cut; how many records were lost is \
             not known",
            facts.high
        );
        return Ok((facts.low, Some(Lost { from: committed, to: committed, records: None, reason })));
    }
    Ok((committed, None))
}

/// Asks the brokers where `partitions` begin.
///
/// # Errors
/// Where they do not answer in time, or a partition has no committed offset and must have one.
pub(super) fn beginnings(
    consumer: &BaseConsumer<Context>,
    partitions: &[TopicPartition],
    known: &HashMap<TopicPartition, Known>,
) -> Result<Vec<Beginning>, SourceError> {
    let context = consumer.context();
    let start = context.settings.start;
    let ask = Asker { consumer };
    let totals = ask.partitions_total(partitions)?;
    let committed = ask.committed(&totals)?;
    let lows = ask.offsets(partitions, ListOffset::Beginning)?;
    let highs = ask.offsets(partitions, ListOffset::End)?;
    let topics: Vec<&str> = totals.keys().map(String::as_str).collect();
    let ids = if is_embedded(&context.settings.brokers) {
        Ok(HashMap::new())
    } else {
        native::topic_ids(consumer.client(), &topics, ASK_TIMEOUT)
    };
    let ids = ids.unwrap_or_else(|message| {
        tracing::warn!(?topics, message, "the topics' ids are not known: a topic made anew may go unnoticed");
        HashMap::new()
    });
    let by_time = match start {
        Start::Timestamp(ms) => ask.offsets(partitions, ListOffset::Offset(ms.max(0)))?,
        Start::Earliest | Start::Latest | Start::Committed => HashMap::new(),
    };

    let mut beginnings = Vec::with_capacity(partitions.len());
    for partition in partitions {
        let own = committed.get(partition);
        // An offset without metadata was set by another tool: that is not the same as no offset.
        let metadata = own.map(|entry| entry.metadata.clone().unwrap_or_default());
        let (low, high) = (lows.get(partition).copied().unwrap_or(0), highs.get(partition).copied().unwrap_or(0));
        let topic_id = ids.get(&*partition.topic).cloned();
        let sibling_metadata = siblings(&committed, partition);
        let parsed: Vec<Checkpoint> = sibling_metadata.iter().filter_map(|text| Checkpoint::parse(text).ok()).collect();
        let is_new = own.is_none() && Checkpoint::is_new(partition.partition, &parsed);
        let checkpoint = metadata.as_deref().and_then(|text| Checkpoint::parse(text).ok());
        // Who has set an offset by hand has decided, whatever was known before.
        let is_set = checkpoint.is_none() && metadata.as_deref().is_some_and(|text| text != KEPT_START);
        let facts = Facts {
            committed: own.map(|entry| entry.offset),
            committed_topic_id: checkpoint.and_then(|checkpoint| checkpoint.topic_id),
            known: known.get(partition).filter(|_| !is_set).cloned(),
            topic_id: topic_id.clone(),
            low,
            high,
            fresh: match start {
                // Added while the group was reading: nothing of it lies before the group's beginning.
                _ if is_new => Some(low),
                Start::Earliest => Some(low),
                Start::Latest => Some(high),
                Start::Timestamp(_) => Some(by_time.get(partition).copied().filter(|at| *at >= 0).unwrap_or(high)),
                Start::Committed => None,
            },
        };
        let is_anew = facts.ids().is_some();
        let (offset, lost) = decide(&facts).map_err(|()| {
            SourceError::Refused(format!(
                "{partition}: group {:?} has no committed offset, and `start: committed` asks for one: write where to \
                 begin (earliest, latest, or a time), or set the group's offsets",
                context.settings.group
            ))
        })?;
        beginnings.push(Beginning {
            partition: partition.clone(),
            offset,
            high,
            metadata,
            sibling_metadata,
            partitions_total: totals.get(&*partition.topic).copied().unwrap_or(0),
            topic_id,
            committed: facts.committed,
            lost,
            is_anew,
        });
    }
    Ok(beginnings)
}

fn siblings(committed: &HashMap<TopicPartition, native::Entry>, of: &TopicPartition) -> Vec<String> {
    let others = committed.iter().filter(|(partition, _)| partition.topic == of.topic && *partition != of);
    let mut metadata: Vec<(i32, String)> =
        others.filter_map(|(partition, entry)| Some((partition.partition, entry.metadata.clone()?))).collect();
    metadata.sort_unstable();
    metadata.into_iter().map(|(_, metadata)| metadata).collect()
}

/// One past the newest record of each partition.
pub(super) fn ends(
    consumer: &BaseConsumer<Context>,
    partitions: &[TopicPartition],
    timeout: Duration,
) -> KafkaResult<HashMap<TopicPartition, i64>> {
    if partitions.is_empty() {
        return Ok(HashMap::new());
    }
    // The look-up by time takes the two marks as times too, and answers all partitions at once.
    let list = consumer.offsets_for_times(list_of(partitions, ListOffset::End)?, timeout)?;
    let entries = native::entries(&list).into_iter().filter(|entry| entry.error.is_none() && entry.offset >= 0);
    Ok(entries.map(|entry| (TopicPartition::new(&entry.topic, entry.partition), entry.offset)).collect())
}

fn list_of(partitions: &[TopicPartition], offset: ListOffset) -> KafkaResult<TopicPartitionList> {
    let mut list = TopicPartitionList::with_capacity(partitions.len());
    for partition in partitions {
        list.add_partition_offset(&partition.topic, partition.partition, offset)?;
    }
    Ok(list)
}

/// Asks the brokers, a few times.
struct Asker<'c> {
    consumer: &'c BaseConsumer<Context>,
}

impl Asker<'_> {
    fn ask<T>(&self, what: &str, question: impl Fn() -> Result<T, String>) -> Result<T, SourceError> {
        let context = self.consumer.context();
        let mut message = String::new();
        for attempt in 1..=ASK_ATTEMPTS {
            match question() {
                Ok(answer) => return Ok(answer),
                Err(error) => {
                    tracing::warn!(what, attempt, error, "the brokers did not answer");
                    message = error;
                }
            }
            if !context.is_reading() {
                break;
            }
        }
        let last = context.voice.last().map(|last| format!(" ({})", last.text)).unwrap_or_default();
        Err(SourceError::Unreachable {
            system: format!("Kafka at {}", context.settings.brokers),
            message: format!("{what}: {message}{last}"),
        })
    }

    /// How many partitions each topic of `partitions` has.
    fn partitions_total(&self, partitions: &[TopicPartition]) -> Result<BTreeMap<String, i32>, SourceError> {
        let mut totals = BTreeMap::new();
        for partition in partitions {
            if totals.contains_key(&*partition.topic) {
                continue;
            }
            let total = self.ask("the topic's partitions", || {
                let metadata = self.consumer.fetch_metadata(Some(&partition.topic), ASK_TIMEOUT);
                let metadata = metadata.map_err(|error| error.to_string())?;
                let topic = metadata.topics().first().ok_or("no such topic")?;
                i32::try_from(topic.partitions().len()).map_err(|error| error.to_string())
            })?;
            totals.insert(partition.topic.to_string(), total.max(partition.partition + 1));
        }
        Ok(totals)
    }

    /// What the group has committed for all partitions of the topics.
    fn committed(&self, totals: &BTreeMap<String, i32>) -> Result<HashMap<TopicPartition, native::Entry>, SourceError> {
        self.ask("the committed offsets", || {
            let mut list = TopicPartitionList::new();
            for (topic, total) in totals {
                list.add_partition_range(topic, 0, total - 1);
            }
            let list = self.consumer.committed_offsets(list, ASK_TIMEOUT).map_err(|error| error.to_string())?;
            whole(&list).map(|entries| {
                let committed = entries.into_iter().filter(|entry| entry.offset >= 0);
                committed.map(|entry| (TopicPartition::new(&entry.topic, entry.partition), entry)).collect()
            })
        })
    }

    /// An offset for each partition: a mark, or the first at or after a time.
    fn offsets(
        &self,
        partitions: &[TopicPartition],
        at: ListOffset,
    ) -> Result<HashMap<TopicPartition, i64>, SourceError> {
        self.ask("the topic's offsets", || {
            let list = list_of(partitions, at)
                .and_then(|list| self.consumer.offsets_for_times(list, ASK_TIMEOUT))
                .map_err(|error: KafkaError| error.to_string())?;
            whole(&list).map(|entries| {
                let offsets = entries.into_iter();
                offsets.map(|entry| (TopicPartition::new(&entry.topic, entry.partition), entry.offset)).collect()
            })
        })
    }
}

/// The entries of an answer in which nothing failed.
fn whole(list: &TopicPartitionList) -> Result<Vec<native::Entry>, String> {
    let entries = native::entries(list);
    match entries.iter().find(|entry| entry.error.is_some()) {
        Some(entry) => {
            Err(format!("{}/{}: {}", entry.topic, entry.partition, entry.error.as_deref().unwrap_or_default()))
        }
        None => Ok(entries),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn facts() -> Facts {
        Facts { low: 10, high: 100, fresh: Some(10), topic_id: Some("new".to_owned()), ..Facts::default() }
    }

    #[test]
    fn begins_at_the_committed_offset_from_the_first_record_to_the_end() {
        for committed in [10, 50, 100] {
            assert_eq!(decide(&Facts { committed: Some(committed), ..facts() }), Ok((committed, None)));
        }
    }

    #[test]
    fn without_a_committed_offset_the_configuration_decides() {
        assert_eq!(decide(&facts()), Ok((10, None)));
        assert_eq!(decide(&Facts { fresh: None, ..facts() }), Err(()));
    }

    #[test]
    fn names_the_range_that_retention_took() {
        let (offset, lost) = decide(&Facts { committed: Some(4), ..facts() }).expect("decided");
        let lost = lost.expect("lost");
        assert_eq!((offset, lost.from, lost.to, lost.records), (10, 4, 9, Some(6)));
    }

    #[test]
    fn a_topic_that_ends_before_the_committed_offset_is_read_from_its_beginning() {
        let (offset, lost) = decide(&Facts { committed: Some(101), ..facts() }).expect("decided");
        let lost = lost.expect("lost");
        assert_eq!((offset, lost.from, lost.records), (10, 101, None));
    }

    #[test]
    fn a_topic_made_anew_is_noticed_by_its_id_alone() {
        let committed = Facts { committed: Some(50), committed_topic_id: Some("old".to_owned()), ..facts() };
        let (offset, lost) = decide(&committed).expect("decided");
        assert_eq!((offset, lost.expect("lost").from), (10, 50));
        let same = Facts { committed_topic_id: Some("new".to_owned()), ..committed };
        assert_eq!(decide(&same), Ok((50, None)));
    }

    #[test]
    fn a_topic_made_anew_whose_commits_went_with_it_is_noticed_by_memory() {
        let known = Known { topic_id: Some("old".to_owned()), next: 60, high: Some(70) };
        // Even where the configuration would begin at the end.
        let facts = Facts { known: Some(known.clone()), fresh: Some(100), ..facts() };
        let (offset, lost) = decide(&facts).expect("decided");
        let lost = lost.expect("lost");
        assert_eq!((offset, lost.from, lost.to, lost.records), (10, 60, 69, Some(10)));
        // All of the old one was read: nothing is lost.
        let all_read = Known { high: Some(60), ..known };
        assert_eq!(decide(&Facts { known: Some(all_read), ..facts }), Ok((10, None)));
    }

    #[test]
    fn a_topic_made_anew_that_only_the_journal_tells_of_is_read_from_its_beginning_whatever_start_is_kept() {
        let known = Known { topic_id: Some("old".to_owned()), next: 60, high: None };
        for kept in [None, Some(90)] {
            let (offset, lost) =
                decide(&Facts { committed: kept, known: Some(known.clone()), ..facts() }).expect("decided");
            let lost = lost.expect("lost");
            assert_eq!((offset, lost.from, lost.to, lost.records), (10, 60, 60, None));
            assert!(lost.reason.contains("its id was old and is new") && lost.reason.contains("up to 60 at least"));
        }
    }
}
