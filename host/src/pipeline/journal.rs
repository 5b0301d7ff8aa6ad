//! The journal of a pipeline: what its write times rest on, kept beyond the life of its committed offsets.
//!
//! In: where tasks begin, where their clocks stand now and then, and decisions that a later reader could not make again,
//! each before the first write that depends on it. Out: the [`Timeline`] of a partition, from which a replay, a seek or
//! a second reading stamps every record as it was stamped first.
//!
//! # An entry
//! One line of JSON. `offset` is where to read on, and `h` the write time of the last record below it, as in the commit
//! metadata; so an entry is a place where a clock can start. `reason` says why it stands there:
//!
//! - `assigned`: a task begins here, under these plugins, this configuration and this epoch. `h` may jump here: a
//!   `timestamp_floor`, an offset that somebody has set.
//! - `periodic`: a task passes here.
//! - `reloaded`: from here on other plugins or another configuration handle what the task reads.
//! - `wall`: records from `offset` to below `until` were stamped while the wall showed `wall_ms`: one of them lies too
//!   far ahead of it, or has no time of its own.
//! - `carried`: such a decision of an earlier task, which a later one takes over. Its `h` is not known.
//!
//! `term` rises with each task of a partition. What comes under an older term than one that was seen already was written
//! by a task that had lost its partition, and is passed over.

use std::collections::BTreeMap;

use async_trait::async_trait;
use serde::{Deserialize, Serialize};

use super::checkpoint::{Checkpoint, EpochPlan, H_MAX};
use super::write_clock::EPOCH_MAX;
use crate::record::{Offset, TopicPartition};

/// Keeps entries. All partitions of a pipeline share one.
#[async_trait]
pub trait Journal: Send + Sync {
    /// Writes entries, in order. All are durable when it returns; it tries without end. Answers a place at or before the
    /// first of them.
    async fn append(&self, entries: Vec<Entry>) -> Mark;

    /// Every entry of a partition that is durable now, in the order in which they were written, from a place on.
    ///
    /// # Errors
    /// Where the journal cannot be read at the moment.
    async fn read(&self, partition: &TopicPartition, from: Option<Mark>) -> Result<Pages, JournalError>;

    /// Why nothing gets through at the moment, if so.
    fn blocked(&self) -> Option<String> {
        None
    }
}

/// A place in a journal. Places rise.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Mark(pub i64);

/// What was read of a journal.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Pages {
    /// Of the partition that was asked for.
    pub entries: Vec<Entry>,
    /// Why entries could not be read; whose they are is not known then.
    pub unreadable: Vec<String>,
}

/// A journal cannot be read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("the journal cannot be read: {0}")]
pub struct JournalError(pub String);

/// One entry.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Entry {
    /// The version of this layout.
    #[serde(rename = "v")]
    version: u32,
    /// Where.
    pub topic: String,
    /// Where.
    pub partition: i32,
    /// The topic's own id, where the source knows one: a topic made anew has another.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub topic_id: Option<String>,
    /// Where to read on.
    pub offset: i64,
    /// Write time of the last record below, microseconds.
    pub h: i64,
    /// Short digests of the plugins, in step order.
    #[serde(default)]
    pub digests: Vec<String>,
    /// Short digest of the pipeline's configuration.
    pub configuration: String,
    /// The epoch of records from here on, as long as they lie below `epoch_until`.
    #[serde(default)]
    pub epoch: u8,
    /// One past the last record of that epoch.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub epoch_until: Option<i64>,
    /// Which task of the partition this is.
    pub term: u64,
    /// Why.
    #[serde(flatten)]
    pub reason: Reason,
}

/// Why an entry was written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "reason", rename_all = "lowercase")]
pub enum Reason {
    /// A task begins.
    Assigned,
    /// A task passes.
    Periodic,
    /// A task goes over to other plugins or another configuration.
    Reloaded,
    /// Records up to `until` were stamped while the wall showed this.
    Wall {
        /// One past the last of them.
        until: i64,
        /// Milliseconds since the Unix epoch.
        wall_ms: i64,
    },
    /// As `Wall`, taken over from an earlier task.
    Carried {
        /// One past the last of them.
        until: i64,
        /// Milliseconds since the Unix epoch.
        wall_ms: i64,
    },
}

/// Records that were stamped while the wall showed this.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct WallRange {
    /// The first.
    pub from: i64,
    /// One past the last.
    pub until: i64,
    /// Milliseconds since the Unix epoch.
    pub wall_ms: i64,
}

const VERSION: u32 = 1;

impl Entry {
    /// An entry of this version, whose clock stands at `h`.
    #[must_use]
    pub fn new(author: &Author, offset: i64, h: i64, reason: Reason) -> Self {
        let Author { partition, topic_id, digests, configuration, plan, term } = author.clone();
        let is_under_epoch = plan.epoch > 0 && offset < plan.until;
        Self {
            version: VERSION,
            topic: partition.topic.to_string(),
            partition: partition.partition,
            topic_id,
            offset,
            h,
            digests,
            configuration,
            epoch: if is_under_epoch { plan.epoch } else { 0 },
            epoch_until: is_under_epoch.then_some(plan.until),
            term,
            reason,
        }
    }

    /// One line of JSON.
    #[must_use]
    pub fn encode(&self) -> String {
        serde_json::to_string(self).expect("plain fields always encode")
    }

    /// Reads an entry.
    ///
    /// # Errors
    /// Where it is none, or was written by a newer Pelton, in words for people.
    pub fn parse(line: &[u8]) -> Result<Self, String> {
        let read: Self = serde_json::from_slice(line).map_err(|error| format!("no entry of a journal: {error}"))?;
        if read.version > VERSION {
            return Err(format!("an entry of version {}; this Pelton reads up to {VERSION}", read.version));
        }
        if !(0..=H_MAX).contains(&read.h) || read.offset < 0 || read.epoch > EPOCH_MAX {
            return Err("an entry whose `h`, `offset` or `epoch` is none".to_owned());
        }
        Ok(read)
    }

    /// Whether it is about this partition.
    #[must_use]
    pub fn is_of(&self, partition: &TopicPartition) -> bool {
        self.partition == partition.partition && *self.topic == *partition.topic
    }

    /// The epochs from here on.
    #[must_use]
    pub fn plan(&self) -> EpochPlan {
        self.epoch_until.map_or_else(EpochPlan::default, |until| EpochPlan { epoch: self.epoch, until })
    }

    /// Whether a clock can start here: its `h` is that of the records.
    #[must_use]
    pub fn is_start(&self) -> bool {
        !matches!(self.reason, Reason::Carried { .. })
    }

    fn wall(&self) -> Option<WallRange> {
        match self.reason {
            Reason::Wall { until, wall_ms } | Reason::Carried { until, wall_ms } => {
                Some(WallRange { from: self.offset, until, wall_ms })
            }
            Reason::Assigned | Reason::Periodic | Reason::Reloaded => None,
        }
    }

    fn set_until(&mut self, limit: i64) {
        if let Reason::Wall { until, .. } | Reason::Carried { until, .. } = &mut self.reason {
            *until = limit.min(*until);
        }
    }
}

/// What all entries of a task have in common.
#[derive(Debug, Clone)]
pub struct Author {
    /// Where.
    pub partition: TopicPartition,
    /// The topic's own id.
    pub topic_id: Option<String>,
    /// Short digests of the plugins.
    pub digests: Vec<String>,
    /// Short digest of the configuration.
    pub configuration: String,
    /// Which epochs it writes under.
    pub plan: EpochPlan,
    /// Which task of the partition it is.
    pub term: u64,
}

/// How one partition came to its write times: one chain of entries, in the order of offsets, each later task's in the
/// place of what an earlier one had written beyond where the later began.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Timeline {
    entries: Vec<Entry>,
    /// The highest term that was seen.
    pub term: u64,
    /// Older topics of that name, the last of them last.
    pub gone: Vec<GoneTopic>,
}

/// A topic that is gone: one of the same name stands in its place.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GoneTopic {
    /// Its id.
    pub id: String,
    /// How far the partition had been read at least: the journal tells it now and then only.
    pub read_until: Offset,
}

impl Timeline {
    /// Of entries of one partition, in the order in which they were written. Those about an older topic of the same name
    /// are passed over.
    #[must_use]
    pub fn of(entries: impl IntoIterator<Item = Entry>, topic_id: Option<&str>) -> Self {
        let mut timeline = Self::default();
        for entry in entries {
            if let (Some(now), Some(then)) = (topic_id, entry.topic_id.as_deref())
                && now != then
            {
                timeline.note_gone(then, &entry);
                // Terms go on: whoever reads the topic made anew is a later task.
                timeline.term = timeline.term.max(entry.term);
                continue;
            }
            if entry.term < timeline.term {
                continue;
            }
            if entry.term > timeline.term || entry.reason == Reason::Assigned {
                timeline.term = timeline.term.max(entry.term);
                timeline.cut(entry.offset);
            }
            // What was carried stands ahead of where its task is.
            let at = timeline.entries.partition_point(|before| before.offset <= entry.offset);
            timeline.entries.insert(at, entry);
        }
        timeline
    }

    fn note_gone(&mut self, id: &str, entry: &Entry) {
        // What was carried stands ahead of where its task was.
        let read_until = if entry.is_start() { Offset(entry.offset) } else { Offset(0) };
        match self.gone.iter_mut().find(|gone| gone.id == id) {
            Some(gone) => gone.read_until = gone.read_until.max(read_until),
            None => self.gone.push(GoneTopic { id: id.to_owned(), read_until }),
        }
    }

    /// Forgets what was said about records from `offset` on.
    fn cut(&mut self, offset: i64) {
        self.entries.retain(|entry| entry.offset <= offset);
        self.entries.iter_mut().for_each(|entry| entry.set_until(offset));
        self.entries.retain(|entry| entry.wall().is_none_or(|wall| wall.from < wall.until));
    }

    /// The entries, offsets never falling.
    #[must_use]
    pub fn entries(&self) -> &[Entry] {
        &self.entries
    }

    /// The last word on what a record was written by.
    #[must_use]
    pub fn last(&self) -> Option<&Entry> {
        self.entries.last()
    }

    /// The nearest place at or below an offset where a clock can start, with all that stands behind it.
    #[must_use]
    pub fn start_for(&self, offset: i64) -> Option<(&Entry, &[Entry])> {
        let at = self.entries.iter().rposition(|entry| entry.offset <= offset && entry.is_start())?;
        let (start, later) = self.entries.get(at..)?.split_first()?;
        Some((start, later))
    }

    /// The first place at or above an offset where a clock can start.
    #[must_use]
    pub fn first_start_from(&self, offset: i64) -> Option<&Entry> {
        self.entries.iter().find(|entry| entry.offset >= offset && entry.is_start())
    }

    /// Where the clock stands at an offset, where an entry says exactly that.
    #[must_use]
    pub fn exactly_at(&self, offset: i64) -> Option<&Entry> {
        self.entries.iter().rev().find(|entry| entry.offset == offset && entry.is_start())
    }

    /// Decisions about records from an offset on.
    #[must_use]
    pub fn walls_from(&self, offset: i64) -> Vec<WallRange> {
        let walls = self.entries.iter().filter_map(Entry::wall).filter(|wall| wall.until > offset);
        // A decision that was carried may stand beside its first telling.
        let unique: BTreeMap<i64, WallRange> =
            walls.map(|wall| (wall.from.max(offset), WallRange { from: wall.from.max(offset), ..wall })).collect();
        unique.into_values().collect()
    }

    /// What the commit metadata at an offset would say, whose clock stands at `h`, for whoever goes on there under these
    /// plugins and this configuration: where any record from there on was written by others, or under an epoch, those.
    #[must_use]
    pub fn checkpoint(&self, offset: i64, h: i64, digests: &[String], configuration: &str) -> Checkpoint {
        let is_other = |entry: &Entry| entry.digests != digests || entry.configuration != configuration;
        let other = self.versions(offset, i64::MAX).into_iter().map(|(_, entry)| entry).find(|entry| is_other(entry));
        let mut checkpoint = match other {
            Some(entry) => Checkpoint::new(h, entry.digests.clone(), entry.configuration.clone()),
            None => Checkpoint::new(h, digests.to_vec(), configuration.to_owned()),
        };
        let plan = match other {
            // Whoever is told of another version takes the epoch after this.
            Some(_) => {
                let plans = self.entries.iter().map(Entry::plan).filter(|plan| plan.until > offset);
                plans.reduce(|one, two| EpochPlan { epoch: one.epoch.max(two.epoch), until: one.until.max(two.until) })
            }
            None => self.start_for(offset).map(|(entry, _)| entry.plan()),
        };
        plan.unwrap_or_default().note(offset, &mut checkpoint);
        checkpoint.term = self.term;
        checkpoint
    }

    /// Whether the task `term`, or a later one, went over at `offset` or beyond to others than these plugins and this
    /// configuration, and the highest epochs of what it wrote there.
    #[must_use]
    pub fn others_ahead(
        &self,
        (offset, term): (i64, u64),
        digests: &[String],
        configuration: &str,
    ) -> Option<EpochPlan> {
        let is_other = |entry: &Entry| entry.digests != digests || entry.configuration != configuration;
        self.ahead(offset, term).any(is_other).then(|| self.plan_ahead((offset, term)))
    }

    /// The highest epochs of what the task `term`, or a later one, wrote at `offset` or beyond.
    #[must_use]
    pub fn plan_ahead(&self, (offset, term): (i64, u64)) -> EpochPlan {
        self.ahead(offset, term).map(Entry::plan).fold(EpochPlan::default(), |one, two| one.highest(two, offset))
    }

    fn ahead(&self, offset: i64, term: u64) -> impl Iterator<Item = &Entry> {
        self.entries.iter().filter(move |entry| entry.offset >= offset && entry.term >= term)
    }

    /// By which plugins and configuration the records of a range were written: the first record of each part, and the
    /// entry that says so.
    #[must_use]
    pub fn versions(&self, from: i64, until: i64) -> Vec<(i64, &Entry)> {
        let mut versions: Vec<(i64, &Entry)> = Vec::new();
        for entry in self.entries.iter().filter(|entry| entry.offset < until) {
            let at = entry.offset.max(from);
            // What lies before the range counts as far as it reaches into it.
            if versions.last().is_some_and(|(last, _)| *last == at) {
                versions.pop();
            }
            let is_same = versions
                .last()
                .is_some_and(|(_, last)| last.digests == entry.digests && last.configuration == entry.configuration);
            if !is_same {
                versions.push((at, entry));
            }
        }
        versions
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn author(term: u64) -> Author {
        Author {
            partition: TopicPartition::new("orders", 3),
            topic_id: Some("id".into()),
            digests: vec![format!("d{term}")],
            configuration: "c".into(),
            plan: EpochPlan::default(),
            term,
        }
    }

    fn entry(term: u64, offset: i64, reason: Reason) -> Entry {
        Entry::new(&author(term), offset, offset * 10, reason)
    }

    fn wall(from: i64, until: i64) -> (i64, Reason) {
        (from, Reason::Wall { until, wall_ms: 7 })
    }

    #[test]
    fn an_entry_comes_back_as_it_was() {
        let plan = EpochPlan { epoch: 2, until: 900 };
        let under_epoch = Author { plan, ..author(4) };
        for reason in [
            Reason::Assigned,
            Reason::Periodic,
            Reason::Wall { until: 12, wall_ms: 1_800_000_000_000 },
            Reason::Carried { until: 12, wall_ms: 1_800_000_000_000 },
        ] {
            let entry = Entry::new(&under_epoch, 8, 80, reason);
            assert_eq!(Entry::parse(entry.encode().as_bytes()), Ok(entry.clone()), "{}", entry.encode());
            assert_eq!(entry.plan(), plan);
        }
        assert_eq!(Entry::new(&under_epoch, 900, 9_000, Reason::Periodic).plan(), EpochPlan::default());
    }

    #[test]
    fn what_is_no_entry_or_a_newer_one_is_named() {
        assert!(Entry::parse(b"{}").is_err());
        let newer = entry(1, 0, Reason::Periodic).encode().replace(r#""v":1"#, r#""v":2"#);
        assert!(Entry::parse(newer.as_bytes()).is_err_and(|message| message.contains("version 2")));
        let odd = entry(1, 0, Reason::Periodic).encode().replace(r#""h":0"#, r#""h":-1"#);
        assert!(Entry::parse(odd.as_bytes()).is_err());
    }

    #[test]
    fn a_later_task_takes_the_place_of_what_lies_beyond_its_beginning() {
        let (at, decision) = wall(30, 50);
        let entries = [
            entry(1, 0, Reason::Assigned),
            entry(1, 20, Reason::Periodic),
            entry(1, at, decision),
            entry(1, 60, Reason::Periodic),
            entry(2, 40, Reason::Assigned),
            entry(2, 70, Reason::Periodic),
        ];
        let timeline = Timeline::of(entries, Some("id"));
        let offsets: Vec<i64> = timeline.entries().iter().map(|entry| entry.offset).collect();
        assert_eq!(offsets, [0, 20, 30, 40, 70]);
        assert_eq!(timeline.walls_from(0), [WallRange { from: 30, until: 40, wall_ms: 7 }]);
        assert_eq!(timeline.start_for(69).map(|(entry, later)| (entry.offset, later.len())), Some((40, 1)));
        assert_eq!(timeline.first_start_from(41).map(|entry| entry.offset), Some(70));
        let versions: Vec<(i64, &str)> =
            timeline.versions(35, 100).iter().map(|(at, entry)| (*at, &*entry.digests[0])).collect();
        assert_eq!(versions, [(35, "d1"), (40, "d2")]);
    }

    #[test]
    fn what_a_task_writes_that_has_lost_its_partition_does_not_count() {
        let entries = [
            entry(1, 0, Reason::Assigned),
            entry(2, 10, Reason::Assigned),
            entry(1, 15, Reason::Periodic),
            entry(1, 0, Reason::Assigned),
            entry(2, 20, Reason::Periodic),
        ];
        let timeline = Timeline::of(entries, None);
        let offsets: Vec<(u64, i64)> = timeline.entries().iter().map(|entry| (entry.term, entry.offset)).collect();
        assert_eq!(offsets, [(1, 0), (2, 10), (2, 20)]);
    }

    #[test]
    fn entries_about_another_topic_of_the_same_name_are_passed_over_but_their_terms_count() {
        let of = |id: &str, entry| Entry { topic_id: Some(id.into()), ..entry };
        let (first, second) = (entry(6, 90, Reason::Assigned), entry(7, 50, Reason::Assigned));
        let carried = entry(7, 80, Reason::Carried { until: 85, wall_ms: 9 });
        let periodic = entry(7, 60, Reason::Periodic);
        let old = [of("oldest", first), of("old", second), of("old", carried), of("old", periodic)];
        let timeline = Timeline::of(old, Some("id"));
        assert_eq!((timeline.entries().len(), timeline.term), (0, 7));
        let gone = |id: &str, read_until| GoneTopic { id: id.into(), read_until: Offset(read_until) };
        assert_eq!(timeline.gone, [gone("oldest", 90), gone("old", 60)]);
    }

    #[test]
    fn a_decision_that_was_carried_is_no_place_to_start() {
        let carried = entry(2, 30, Reason::Carried { until: 40, wall_ms: 9 });
        let timeline = Timeline::of([entry(2, 20, Reason::Assigned), carried], None);
        assert_eq!(timeline.start_for(35).map(|(start, later)| (start.offset, later.len())), Some((20, 1)));
        assert_eq!(timeline.walls_from(32), [WallRange { from: 32, until: 40, wall_ms: 9 }]);
    }
}
