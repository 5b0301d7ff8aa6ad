//! What stands beside a committed offset, so that whoever goes on writes the very same.
//!
//! In: what the task knows of the last record below the offset. Out: one line of JSON in the commit metadata, and back.
//! Kafka caps metadata at 4,096 characters and drops the whole commit above: [`Checkpoint::encode`] stays far below.

use serde::{Deserialize, Serialize};

use super::journal::Mark;
use super::write_clock::EPOCH_MAX;

/// Commit metadata of one partition.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Checkpoint {
    /// The version of this layout.
    #[serde(rename = "v")]
    version: u32,
    /// `h` of the last record below the offset.
    pub h: i64,
    /// Short digests of the plugins that handled it, in step order.
    #[serde(rename = "d", default, skip_serializing_if = "Vec::is_empty")]
    pub digests: Vec<String>,
    /// Short digest of the pipeline's configuration.
    #[serde(rename = "c")]
    pub configuration: String,
    /// The epoch under which records from the offset on are written while they lie below `epoch_until`.
    #[serde(rename = "e", default, skip_serializing_if = "is_zero")]
    pub epoch: u8,
    /// One past the last record that an older version may have written.
    #[serde(rename = "u", default, skip_serializing_if = "Option::is_none")]
    pub epoch_until: Option<i64>,
    /// How many partitions the topic had: one with a higher number is new, and starts its clock at the topic's highest.
    #[serde(rename = "n", default)]
    pub partitions_total: i32,
    /// The topic's own id.
    #[serde(rename = "t", default, skip_serializing_if = "Option::is_none")]
    pub topic_id: Option<String>,
    /// Which task of the partition wrote this: each later one has a higher number.
    #[serde(rename = "k", default)]
    pub term: u64,
    /// Everything that the journal says about records from the offset on stands here or later.
    #[serde(rename = "j", default, skip_serializing_if = "Option::is_none")]
    pub journal: Option<Mark>,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "the signature that serde wants")]
fn is_zero(epoch: &u8) -> bool {
    *epoch == 0
}

const VERSION: u32 = 1;

/// The metadata of a start that a source commits before anything was written. Nothing is known beside it, and nothing is
/// missing either: it is no foreign commit.
pub const KEPT_START: &str = "pelton: the start, before anything was written";

/// A version that takes over while a task runs leaves the epochs above this to those that begin one.
const EPOCH_OF_RELOADS_MAX: u8 = 5;

/// The last microsecond of the year 9999: no clock of ours goes on beyond it.
pub(crate) const H_MAX: i64 = 253_402_300_799_999_999;

/// Metadata above this length are refused by brokers with default settings (4,096), with room to spare.
pub const METADATA_CHARS_MAX: usize = 4_000;

/// Commit metadata that cannot be read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CheckpointError {
    /// Not ours: the group was committed by another program, or by hand.
    #[error("the commit metadata are not Pelton's ({0}); was the group's offset set by another tool?")]
    Foreign(String),
    /// Written by a newer Pelton.
    #[error("the commit metadata have version {0}; this Pelton reads up to {VERSION}")]
    Newer(u32),
}

impl Checkpoint {
    /// A checkpoint of this version.
    #[must_use]
    pub fn new(h: i64, digests: Vec<String>, configuration: String) -> Self {
        Self {
            version: VERSION,
            h,
            digests,
            configuration,
            epoch: 0,
            epoch_until: None,
            partitions_total: 0,
            topic_id: None,
            term: 0,
            journal: None,
        }
    }

    /// One line of JSON, below [`METADATA_CHARS_MAX`].
    #[must_use]
    pub fn encode(&self) -> String {
        serde_json::to_string(self).expect("plain fields always encode")
    }

    /// The epochs of records from the offset on.
    #[must_use]
    pub fn plan(&self) -> EpochPlan {
        EpochPlan { epoch: self.epoch, until: self.epoch_until.unwrap_or(0) }
    }

    /// Whether a partition was added to its topic since its siblings were committed.
    #[must_use]
    pub fn is_new(partition: i32, siblings: &[Self]) -> bool {
        siblings.iter().any(|sibling| sibling.partitions_total > 0 && partition >= sibling.partitions_total)
    }

    /// Where the clock of a partition without a committed offset starts, in the light of the topic's other partitions:
    /// a partition that was added since starts at the highest `h` of the topic, so that a key that moved to it does not
    /// go back in time; any other at zero.
    #[must_use]
    pub fn start_h(partition: i32, siblings: &[Self]) -> i64 {
        if Self::is_new(partition, siblings) { Self::highest_h(siblings) } else { 0 }
    }

    /// Where the clock starts beside an offset whose own metadata are missing or foreign: at the topic's highest, since
    /// nobody knows what was written below. Zero where no other partition tells either.
    #[must_use]
    pub fn highest_h(siblings: &[Self]) -> i64 {
        siblings.iter().map(|sibling| sibling.h).max().unwrap_or(0)
    }

    /// How many partitions the topic may be said to have. A higher number makes partitions old: it is not said before
    /// every one of them has a commit, `commits` of the `total`. Until then the lowest that anybody said holds.
    #[must_use]
    pub fn partitions_known(total: i32, own: Option<&Self>, siblings: &[Self], commits: usize) -> i32 {
        if i32::try_from(commits).is_ok_and(|commits| commits >= total) {
            return total;
        }
        let said = siblings.iter().chain(own).map(|checkpoint| checkpoint.partitions_total).filter(|said| *said > 0);
        said.min().unwrap_or(total).min(total)
    }

    /// Reads metadata.
    ///
    /// # Errors
    /// Where they are not ours, or newer than we are.
    pub fn parse(metadata: &str) -> Result<Self, CheckpointError> {
        #[derive(Deserialize)]
        struct Version {
            v: u32,
        }
        let foreign = |error: serde_json::Error| CheckpointError::Foreign(error.to_string());
        let Version { v } = serde_json::from_str(metadata).map_err(foreign)?;
        if v > VERSION {
            return Err(CheckpointError::Newer(v));
        }
        let read: Self = serde_json::from_str(metadata).map_err(foreign)?;
        // A clock that went on from there could neither tick nor give an epoch.
        if !(0..=H_MAX).contains(&read.h) {
            return Err(CheckpointError::Foreign(format!("`h` is {}, which is no time", read.h)));
        }
        if read.epoch > EPOCH_MAX {
            return Err(CheckpointError::Foreign(format!("`e` is {}, an epoch is 0 to {EPOCH_MAX}", read.epoch)));
        }
        Ok(read)
    }
}

/// Which epoch records are written under: base, but for those that an older version may have written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct EpochPlan {
    /// The epoch of records below `until`.
    pub epoch: u8,
    /// One past the last record that an older version may have written; records from here on are written at epoch 0.
    pub until: i64,
}

impl EpochPlan {
    /// The plan after an assignment at `start`, whose partition ended at `end`. `now` is what will be committed under
    /// the running plugins and configuration.
    ///
    /// # Errors
    /// Where the ten epochs are used up: the range was written by ten versions already.
    pub fn at_assignment(
        committed: Option<&Checkpoint>,
        digests: &[String],
        configuration: &str,
        start: i64,
        end: i64,
    ) -> Result<Self, EpochsUsedUp> {
        let Some(committed) = committed else { return Ok(Self::default()) };
        let running = committed.plan();
        let is_same = committed.digests == digests && committed.configuration == configuration;
        if is_same { Ok(running) } else { running.above(start, end) }
    }

    /// As [`Self::above`], for a version that may as well wait: it leaves epochs to those that cannot, whose process ended.
    ///
    /// # Errors
    /// Where it had better wait until it is beyond what may have been written before.
    pub fn above_at_leisure(self, start: i64, end: i64) -> Result<Self, EpochsUsedUp> {
        let above = self.above(start, end)?;
        let is_scarce = above.of(start) > EPOCH_OF_RELOADS_MAX;
        if is_scarce { Err(EpochsUsedUp { from: start, to: above.until }) } else { Ok(above) }
    }

    /// The plan for another version that takes over at `start`, where what lies below `end` may have been written before.
    ///
    /// # Errors
    /// Where the ten epochs are used up.
    pub fn above(self, start: i64, end: i64) -> Result<Self, EpochsUsedUp> {
        let until = end.max(self.until);
        if start >= until {
            return Ok(self);
        }
        let epoch = self.of(start) + 1;
        if epoch > EPOCH_MAX { Err(EpochsUsedUp { from: start, to: until }) } else { Ok(Self { epoch, until }) }
    }

    /// The highest epoch of both, for all that either has from `start` on.
    #[must_use]
    pub fn highest(self, other: Self, start: i64) -> Self {
        Self { epoch: self.of(start).max(other.of(start)), until: self.until.max(other.until) }
    }

    /// The same for a line that asks others: their answers may differ from those of the last time, so what the task before
    /// may have begun counts as begun by another version. Where the epochs are used up the last one goes on.
    #[must_use]
    pub fn above_other_answers(self, committed: Option<&Checkpoint>, start: i64, end: i64) -> Self {
        let Some(committed) = committed else { return self };
        let running = Self { epoch: committed.epoch, until: committed.epoch_until.unwrap_or(0) };
        let until = end.max(running.until);
        if self != running || until <= start {
            return self;
        }
        let older_epoch = if running.until > start { running.epoch } else { 0 };
        Self { epoch: (older_epoch + 1).min(EPOCH_MAX), until }
    }

    /// The same, where such a line went over to these epochs while the last task ran: what it has begun there was answered
    /// otherwise too.
    #[must_use]
    pub fn above_own_answers(self, ahead: Self, start: i64) -> Self {
        let until = self.until.max(ahead.until);
        if ahead.of(start) == 0 || ahead.of(start) < self.of(start) {
            return Self { until, ..self };
        }
        Self { epoch: (ahead.of(start) + 1).min(EPOCH_MAX), until }
    }

    /// The epoch of a record.
    #[must_use]
    pub fn of(self, offset: i64) -> u8 {
        if offset < self.until { self.epoch } else { 0 }
    }

    /// Puts the plan into a checkpoint that resumes at `next`.
    pub fn note(self, next: i64, checkpoint: &mut Checkpoint) {
        if next < self.until && self.epoch > 0 {
            checkpoint.epoch = self.epoch;
            checkpoint.epoch_until = Some(self.until);
        }
    }
}

/// The same records were begun by more versions than there are epochs.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "records {from} to {to} may have been written in part by ten versions of the pipeline, of which none finished them, and \
     there is no write time left that is above all of theirs; go back to the version that ran last and let it finish \
     them before the next is deployed, or read them into an empty table under a new group"
)]
pub struct EpochsUsedUp {
    /// First record.
    pub from: i64,
    /// One past the last.
    pub to: i64,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_that_asks_others_writes_what_may_have_been_begun_above_its_own_earlier_answers() {
        let mut committed = checkpoint();
        let (digests, configuration) = (committed.digests.clone(), committed.configuration.clone());
        let mut epochs = Vec::new();
        for _ in 0..11 {
            let plan = EpochPlan::at_assignment(Some(&committed), &digests, &configuration, 10, 20).unwrap();
            let plan = plan.above_other_answers(Some(&committed), 10, 20);
            plan.note(10, &mut committed);
            epochs.push((plan.of(19), plan.of(20)));
        }
        assert_eq!(epochs[..3], [(1, 0), (2, 0), (3, 0)]);
        assert_eq!(epochs[8..], [(9, 0), (9, 0), (9, 0)]);
        let plan = EpochPlan::at_assignment(Some(&committed), &digests, &configuration, 20, 20).unwrap();
        let plan = plan.above_other_answers(Some(&committed), 20, 20);
        assert_eq!(plan.of(20), 0, "nothing of it was begun");
        assert_eq!(EpochPlan::default().above_other_answers(None, 0, 9), EpochPlan::default());
    }

    /// It was committed under the version before, had gone over to this one among redelivered records, and comes again.
    #[test]
    fn what_a_line_that_asks_others_began_after_it_had_gone_over_is_written_above_too() {
        let committed = checkpoint();
        let gone_over = committed.plan().above(70, 100).unwrap();
        assert_eq!(gone_over.of(70), 1);
        let plan = EpochPlan::at_assignment(Some(&committed), &[], "", 60, 120).unwrap();
        let plan = plan.above_other_answers(Some(&committed), 60, 120).above_own_answers(gone_over, 60);
        assert_eq!((plan.of(60), plan.of(119), plan.of(120)), (2, 2, 0));
        assert_eq!(plan.above_own_answers(gone_over, 60), plan, "it is above already");
        assert_eq!(plan.above_own_answers(EpochPlan::default(), 60), plan, "nothing stands ahead");
    }

    fn checkpoint() -> Checkpoint {
        Checkpoint::new(1_700_000_000_000_010, vec!["0123456789abcdef".into()], "fedcba9876543210".into())
    }

    #[test]
    fn comes_back_as_it_was() {
        let mut checkpoint = checkpoint();
        assert_eq!(Checkpoint::parse(&checkpoint.encode()).as_ref(), Ok(&checkpoint));
        EpochPlan { epoch: 3, until: 12 }.note(4, &mut checkpoint);
        checkpoint.topic_id = Some("id".into());
        (checkpoint.term, checkpoint.journal) = (12, Some(Mark(34)));
        assert_eq!(Checkpoint::parse(&checkpoint.encode()).as_ref(), Ok(&checkpoint));
    }

    #[test]
    fn stays_below_the_cap_with_a_hundred_steps() {
        let checkpoint = Checkpoint::new(i64::MAX, vec!["0123456789abcdef".into(); 100], "fedcba9876543210".into());
        assert!(checkpoint.encode().len() < METADATA_CHARS_MAX);
    }

    #[test]
    fn foreign_and_newer_metadata_are_told_apart() {
        assert!(matches!(Checkpoint::parse(""), Err(CheckpointError::Foreign(_))));
        assert!(matches!(Checkpoint::parse("by hand"), Err(CheckpointError::Foreign(_))));
        assert_eq!(Checkpoint::parse(r#"{"v":2}"#), Err(CheckpointError::Newer(2)));
    }

    #[test]
    fn metadata_that_no_clock_could_go_on_from_are_foreign() {
        for text in [
            r#"{"v":1,"h":9223372036854775807,"c":""}"#,
            r#"{"v":1,"h":-9223372036854775808,"c":""}"#,
            r#"{"v":1,"h":10,"c":"","e":255,"u":99}"#,
            r#"{"v":1,"h":10,"c":"","e":10}"#,
        ] {
            assert!(matches!(Checkpoint::parse(text), Err(CheckpointError::Foreign(_))), "{text}");
        }
    }

    #[test]
    fn only_a_partition_that_was_added_starts_at_the_topics_highest() {
        let mut sibling = checkpoint();
        sibling.partitions_total = 4;
        assert_eq!(Checkpoint::start_h(3, &[sibling.clone()]), 0);
        assert_eq!(Checkpoint::start_h(4, &[sibling.clone(), checkpoint()]), sibling.h);
        assert_eq!(Checkpoint::start_h(0, &[]), 0);
    }

    #[test]
    fn a_partition_stays_new_until_it_has_a_commit() {
        let said = |n| Checkpoint { partitions_total: n, ..checkpoint() };
        let known = Checkpoint::partitions_known;
        assert_eq!(known(4, None, &[], 1), 4, "the first of a group");
        // The topic grew to five: whoever has 0 to 3 commits before anybody has 4, and 4 may die without a commit.
        let siblings = vec![said(4); 3];
        let next = known(5, Some(&said(4)), &siblings, 4);
        assert_eq!(next, 4);
        assert!(Checkpoint::is_new(4, &vec![said(next); 4]));
        // Its own first commit is the one that is missing.
        assert_eq!(known(5, None, &vec![said(4); 4], 5), 5);
        assert_eq!(known(5, Some(&said(4)), &[said(4), said(4), said(4), said(5)], 5), 5);
        assert_eq!(known(3, Some(&said(5)), &[], 1), 3, "made anew, with fewer");
    }

    #[test]
    fn what_an_older_version_may_have_written_gets_the_next_epoch() {
        let old = checkpoint();
        let plan = |committed: &Checkpoint, configuration: &str, start, end| {
            EpochPlan::at_assignment(Some(committed), &old.digests, configuration, start, end)
        };
        assert_eq!(plan(&old, &old.configuration, 5, 9), Ok(EpochPlan::default()));
        let next = plan(&old, "changed", 5, 9).unwrap();
        assert_eq!((next.of(5), next.of(8), next.of(9)), (1, 1, 0));

        // A third version begins while the second is still inside the range: it must beat both.
        let mut inside = Checkpoint::new(0, old.digests.clone(), "changed".into());
        next.note(7, &mut inside);
        let third = plan(&inside, "changed again", 7, 8).unwrap();
        assert_eq!((third.of(7), third.of(8), third.of(9)), (2, 2, 0));

        // A restart of the second version inside the range goes on as it was.
        assert_eq!(plan(&inside, "changed", 7, 20), Ok(next));

        inside.epoch = 9;
        assert!(plan(&inside, "changed again", 7, 8).is_err());
    }
}
