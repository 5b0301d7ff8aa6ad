//! Gives every record its write time and its epoch: for the first time, or again as it was.
//!
//! In: records in offset order, and what the journal says of them. Out: stamps, and decisions that only this wall could
//! make. The first time, what an earlier task has decided about the same records holds. Again, in a replay, nothing is
//! decided: what the journal does not say, or says otherwise than the records, ends it.

use std::collections::VecDeque;

use super::checkpoint::EpochPlan;
use super::journal::{Entry, Reason, Timeline, WallRange};
use super::write_clock::{Decision, WriteClock};
use crate::record::Batch;

/// A partition's clock, and what is known beforehand of the records to come.
#[derive(Debug, Clone)]
pub struct Stamper {
    clock: WriteClock,
    plan: EpochPlan,
    /// What the wall showed when the records before `changes_at` were stamped first.
    wall_ms: Option<i64>,
    wall_until: i64,
    ahead: VecDeque<Known>,
    /// Nothing changes before this offset.
    changes_at: i64,
    /// Nothing may be decided any more.
    is_again: bool,
}

/// What is known of the records from an offset on.
#[derive(Debug, Clone, Copy)]
struct Known {
    offset: i64,
    h: Option<KnownClock>,
    plan: Option<EpochPlan>,
    wall: Option<WallRange>,
}

#[derive(Debug, Clone, Copy)]
enum KnownClock {
    /// The records below give this.
    Stands(i64),
    /// It was set to this.
    Begins(i64),
}

/// A record's stamp.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stamp {
    /// The record's time, microseconds.
    pub h: i64,
    /// Its epoch.
    pub epoch: u8,
    /// What does not follow from the record's own time.
    pub decision: Option<Decision>,
    /// The decision was made now, by this wall, and nobody knows of it yet.
    pub is_new: bool,
}

/// Records cannot be stamped as they were.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Inexact {
    /// The pipeline has not decided about the record.
    #[error(
        "record {offset} lies more than five minutes ahead of the wall or has no time of its own, and the journal does not \
         say what the pipeline decided: it has not read the record yet. End the range at {offset}"
    )]
    Undecided {
        /// Which record.
        offset: i64,
    },
    /// The journal and the records disagree.
    #[error(
        "the journal says that the write time below offset {offset} was {journal}, and the records give {records}: some of \
         them are gone (compaction), or were changed"
    )]
    Differs {
        /// Where.
        offset: i64,
        /// What the journal says.
        journal: i64,
        /// What the records say.
        records: i64,
    },
}

impl Stamper {
    /// For a task that begins, or goes on where one has ended, with decisions that were made already.
    #[must_use]
    pub fn first(h: i64, plan: EpochPlan, walls: &[WallRange]) -> Self {
        Self::new(WriteClock::after(h), plan, walls.iter().copied().map(Known::of_wall).collect(), false)
    }

    /// For a replay: starts at the nearest place at or below an offset that the journal knows, and answers that place too.
    #[must_use]
    pub fn again(timeline: &Timeline, offset: i64) -> Option<(Self, i64)> {
        let (start, later) = timeline.start_for(offset)?;
        let walls = timeline.walls_from(start.offset).into_iter().map(Known::of_wall);
        let mut ahead: Vec<Known> = walls.chain(later.iter().map(Known::of_entry)).collect();
        ahead.sort_by_key(|known| known.offset);
        Some((Self::new(WriteClock::after(start.h), start.plan(), ahead.into(), true), start.offset))
    }

    fn new(clock: WriteClock, plan: EpochPlan, ahead: VecDeque<Known>, is_again: bool) -> Self {
        let changes_at = ahead.front().map_or(i64::MAX, |known| known.offset);
        Self { clock, plan, wall_ms: None, wall_until: i64::MAX, ahead, changes_at, is_again }
    }

    /// The last record's write time, or where the clock began.
    #[must_use]
    pub fn previous(&self) -> i64 {
        self.clock.previous()
    }

    /// Other epochs hold from here on: other plugins, or another configuration.
    pub fn replan(&mut self, plan: EpochPlan) {
        self.plan = plan;
    }

    /// Stamps the next record. `now_ms` is the wall.
    ///
    /// # Errors
    /// In a replay, where the record cannot be stamped as it was.
    pub fn stamp(&mut self, offset: i64, record_ms: Option<i64>, now_ms: i64) -> Result<Stamp, Inexact> {
        if offset >= self.changes_at {
            self.change(offset)?;
        }
        let tick = self.clock.tick(record_ms, self.wall_ms.unwrap_or(now_ms));
        let is_new = self.wall_ms.is_none() && tick.decision.is_some_and(Decision::rests_on_the_wall);
        if is_new && self.is_again {
            return Err(Inexact::Undecided { offset });
        }
        Ok(Stamp { h: tick.h, epoch: self.plan.of(offset), decision: tick.decision, is_new })
    }

    /// Stamps a batch, and hands over each stamp with its row.
    ///
    /// # Errors
    /// As [`Self::stamp`].
    pub fn batch(
        &mut self,
        batch: &Batch,
        now_ms: i64,
        mut each: impl FnMut(i64, Stamp),
    ) -> Result<Vec<NewWall>, Inexact> {
        let mut walls: Vec<NewWall> = Vec::new();
        let mut open: Option<NewWall> = None;
        for (row, offset) in batch.offsets.iter().enumerate() {
            let below = self.previous();
            let stamp = self.stamp(*offset, batch.timestamp_ms(row), now_ms)?;
            if stamp.is_new {
                let wall = WallRange { from: *offset, until: offset + 1, wall_ms: now_ms };
                open.get_or_insert(NewWall { wall, h: below }).wall.until = offset + 1;
            } else if self.wall_ms.is_some() {
                walls.extend(open.take());
            }
            each(*offset, stamp);
        }
        walls.extend(open);
        Ok(walls)
    }

    /// Where the clock stands before the record at `offset`, all records below having been stamped.
    ///
    /// # Errors
    /// In a replay, where the journal says otherwise.
    pub fn stands_at(&mut self, offset: i64) -> Result<i64, Inexact> {
        if offset >= self.changes_at {
            self.change(offset)?;
        }
        Ok(self.previous())
    }

    /// What is known from `offset` on takes hold.
    fn change(&mut self, offset: i64) -> Result<(), Inexact> {
        while let Some(known) = self.ahead.front().copied().filter(|known| known.offset <= offset) {
            self.ahead.pop_front();
            match known.h {
                Some(KnownClock::Begins(h)) => self.clock = WriteClock::after(h),
                Some(KnownClock::Stands(h)) if h != self.previous() => {
                    return Err(Inexact::Differs { offset: known.offset, journal: h, records: self.previous() });
                }
                Some(KnownClock::Stands(_)) | None => {}
            }
            self.plan = known.plan.unwrap_or(self.plan);
            if let Some(wall) = known.wall {
                (self.wall_ms, self.wall_until) = (Some(wall.wall_ms), wall.until);
            }
        }
        if self.wall_until <= offset {
            (self.wall_ms, self.wall_until) = (None, i64::MAX);
        }
        self.changes_at = self.ahead.front().map_or(i64::MAX, |known| known.offset).min(self.wall_until);
        Ok(())
    }
}

/// A decision that was made now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NewWall {
    /// About which records.
    pub wall: WallRange,
    /// The write time of the last record below.
    pub h: i64,
}

impl Known {
    fn of_wall(wall: WallRange) -> Self {
        Self { offset: wall.from, h: None, plan: None, wall: Some(wall) }
    }

    /// Without its decision, which may reach beyond what stands after it.
    fn of_entry(entry: &Entry) -> Self {
        let h = match entry.reason {
            Reason::Assigned => Some(KnownClock::Begins(entry.h)),
            Reason::Periodic | Reason::Reloaded | Reason::Wall { .. } => Some(KnownClock::Stands(entry.h)),
            Reason::Carried { .. } => None,
        };
        Self { offset: entry.offset, h, plan: Some(entry.plan()), wall: None }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::journal::Author;
    use super::super::write_clock::AHEAD_MAX_MS;
    use super::*;
    use crate::record::TopicPartition;

    const NOW_MS: i64 = 1_800_000_000_000;

    fn author(term: u64, plan: EpochPlan) -> Author {
        Author {
            partition: TopicPartition::new("t", 0),
            topic_id: None,
            digests: Vec::new(),
            configuration: String::new(),
            plan,
            term,
        }
    }

    /// A task: where it begins, how far it reads, where it is committed when it dies, what the wall shows, its floor.
    #[derive(Debug, Clone)]
    struct Life {
        reads: usize,
        commits: usize,
        floor: i64,
        is_new_version: bool,
    }

    /// Reads a log in several lives, each with its own wall; answers the stamps that hold in the end, and the journal. The
    /// last life should read all that is left.
    fn live(records: &[(i64, Option<i64>)], lives: &[Life], batch: usize) -> (Vec<(i64, i64, u8)>, Vec<Entry>) {
        let (mut journal, mut held) = (Vec::new(), vec![(0, 0, 0); records.len()]);
        let (mut next, mut h, mut plan) = (0_usize, 0, EpochPlan::default());
        let end = records.last().map_or(0, |(offset, _)| offset + 1);
        for (number, life) in lives.iter().enumerate() {
            let start = records.get(next).map_or(end, |(offset, _)| *offset);
            let timeline = Timeline::of(journal.iter().cloned(), None);
            if life.is_new_version && number > 0 {
                plan = EpochPlan { epoch: plan.of(start) + 1, until: end };
            }
            let author = author(number as u64 + 1, plan);
            let walls = timeline.walls_from(start);
            let mut stamper = Stamper::first(h.max(life.floor), plan, &walls);
            h = stamper.previous();
            journal.push(Entry::new(&author, start, stamper.previous(), Reason::Assigned));
            for wall in walls {
                let reason = Reason::Carried { until: wall.until, wall_ms: wall.wall_ms };
                journal.push(Entry::new(&author, wall.from, stamper.previous(), reason));
            }
            let until = (next + life.reads).min(records.len());
            let committed = (next + life.commits).min(until);
            for (at, part) in records[next..until].chunks(batch).enumerate() {
                let mut read = Batch::new(TopicPartition::new("t", 0));
                for (offset, ms) in part {
                    read.push(crate::record::Offset(*offset), *ms, None, None, []);
                }
                if at % 2 == 1 {
                    journal.push(Entry::new(&author, part[0].0, stamper.previous(), Reason::Periodic));
                }
                // The wall moves on with each batch.
                let now_ms = NOW_MS + (number * 100 + at) as i64 * 60_000;
                let mut stamps = Vec::new();
                let walls = stamper.batch(&read, now_ms, |offset, stamp| stamps.push((offset, stamp.h, stamp.epoch)));
                for NewWall { wall, h } in walls.expect("a task decides") {
                    let reason = Reason::Wall { until: wall.until, wall_ms: wall.wall_ms };
                    journal.push(Entry::new(&author, wall.from, h, reason));
                }
                for stamp in stamps {
                    let row = records.binary_search_by_key(&stamp.0, |record| record.0).expect("it was read");
                    held[row] = stamp;
                    if row + 1 == committed {
                        h = stamp.1;
                    }
                }
            }
            next = committed;
        }
        (held, journal)
    }

    fn any_records() -> impl Strategy<Value = Vec<(i64, Option<i64>)>> {
        let time = prop_oneof![
            6 => (-600_000_i64..200_000).prop_map(Some),
            1 => (AHEAD_MAX_MS..20 * AHEAD_MAX_MS).prop_map(Some),
            1 => Just(None),
        ];
        prop::collection::vec((1_i64..3, time), 2..120).prop_map(|records| {
            let mut offset = 0;
            let of = |(gap, time): (i64, Option<i64>)| {
                offset += gap;
                (offset, time.map(|time| NOW_MS + time))
            };
            records.into_iter().map(of).collect()
        })
    }

    fn any_lives() -> impl Strategy<Value = Vec<Life>> {
        let life = (0_usize..60, 0_usize..60, prop::bool::weighted(0.2), prop::bool::weighted(0.2)).prop_map(
            |(reads, commits, has_floor, is_new_version)| Life {
                reads,
                commits: commits.min(reads),
                floor: if has_floor { NOW_MS * 1000 } else { 0 },
                is_new_version,
            },
        );
        prop::collection::vec(life, 1..6).prop_map(|mut lives| {
            lives.push(Life { reads: 1000, commits: 1000, floor: 0, is_new_version: false });
            lives
        })
    }

    proptest! {
        /// Whatever was clamped, had no time, was lifted by a floor or written by another version: from any record on, a
        /// replay gives every record the stamp that it has.
        #[test]
        fn a_replay_from_anywhere_gives_the_stamps_that_were_given(
            records in any_records(), lives in any_lives(), batch in 1_usize..20, from in any::<prop::sample::Index>(),
        ) {
            let (held, journal) = live(&records, &lives, batch);
            let timeline = Timeline::of(journal, None);
            let first = from.index(records.len());
            let again = Stamper::again(&timeline, records[first].0);
            let (mut again, start) = again.expect("the first task began below all");
            for (row, (offset, ms)) in records.iter().enumerate().filter(|(_, record)| record.0 >= start) {
                // Years later: what was clamped lies in the past by now.
                let stamp = again.stamp(*offset, *ms, NOW_MS + 100_000_000_000);
                let stamp = stamp.map(|stamp| (*offset, stamp.h, stamp.epoch));
                prop_assert_eq!(stamp, Ok(held[row]), "from {}", start);
            }
        }

        /// A task that reads again what another has stamped and not committed gives the same stamps.
        #[test]
        fn what_comes_again_is_stamped_as_it_was(records in any_records(), cut in any::<prop::sample::Index>(), batch in 1_usize..20) {
            let all = Life { reads: 1000, commits: cut.index(records.len()), floor: 0, is_new_version: false };
            let (first, _) = live(&records, std::slice::from_ref(&all), batch);
            let (second, _) = live(&records, &[all.clone(), all], batch);
            prop_assert_eq!(first, second);
        }
    }

    #[test]
    fn a_replay_decides_nothing_and_notices_what_does_not_fit() {
        let begin = Entry::new(&author(1, EpochPlan::default()), 0, 0, Reason::Assigned);
        let stamper = |entries: &[Entry]| {
            let timeline = Timeline::of(entries.iter().cloned(), None);
            Stamper::again(&timeline, 0).expect("it begins at 0").0
        };
        let mut again = stamper(std::slice::from_ref(&begin));
        assert!(again.stamp(0, Some(NOW_MS), NOW_MS).is_ok());
        assert_eq!(again.stamp(1, Some(NOW_MS + 2 * AHEAD_MAX_MS), NOW_MS), Err(Inexact::Undecided { offset: 1 }));

        let later = Entry::new(&author(1, EpochPlan::default()), 2, NOW_MS * 1000 + 10, Reason::Periodic);
        let mut again = stamper(&[begin, later]);
        assert!(again.stamp(0, Some(NOW_MS), NOW_MS).is_ok());
        let differs = Inexact::Differs { offset: 2, journal: NOW_MS * 1000 + 10, records: NOW_MS * 1000 };
        assert_eq!(again.stamp(2, Some(NOW_MS), NOW_MS), Err(differs), "record 1 is gone");
    }
}
