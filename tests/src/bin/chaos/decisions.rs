//! What the daemons decided about records that lie ahead of the wall, as their journal tells it.
//!
//! A record more than five minutes ahead of the wall gets the time five minutes ahead of it: what the wall showed then
//! nobody can reckon later, so it stands in the journal before the first row that rests on it, and whoever reads the
//! record again must take the same. In: the journal's entries in their order, the records that lie ahead. Out: one wall
//! for each of them, and what is wrong: a decision that nobody made in time, one that no wall can have shown, and one
//! that was made twice. Pure, and shares no code with the product: by what ARCHITECTURE says of the journal.

use std::collections::BTreeMap;

use super::daemons::SESSION;
use super::expect::{Findings, Place};

/// How far ahead of the wall a record may lie.
pub(super) const AHEAD_MAX_MS: i64 = 300_000;
/// A task that had lost its partition may tell its decision when the next one has looked for it already. After a sudden
/// death the next one comes no sooner than the dead one's session is over, but for a heartbeat.
const UNSEEN_MS: i64 = SESSION.as_millis() as i64 - 2_000;

/// Why an entry stands in the journal.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Why {
    /// A task begins at its offset: what earlier ones said of records from there on holds where it is carried over.
    Begins,
    /// Where a clock stands.
    Stands,
    /// Records up to here were stamped while the wall showed this.
    Decided { until: i64, wall_ms: i64 },
    /// The same, taken over from an earlier task.
    Carried { until: i64, wall_ms: i64 },
}

/// An entry of the journal.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Said {
    pub(super) partition: i32,
    pub(super) offset: i64,
    /// Which task of the partition says so.
    pub(super) term: u64,
    pub(super) why: Why,
    /// When the broker got it.
    pub(super) told_ms: i64,
}

/// A record that was sent with a time far ahead.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Ahead {
    pub(super) place: Place,
    /// When it was made: nobody has read it before.
    pub(super) sent_ms: i64,
    pub(super) timestamp_ms: i64,
}

/// What the wall showed when the record at a place was stamped.
pub(super) type Walls = BTreeMap<Place, i64>;

/// A decision about one record.
#[derive(Clone, Copy)]
struct Decision {
    wall_ms: i64,
    term: u64,
    told_ms: i64,
}

/// The decision about each record ahead. `now_ms` is when the run was over.
pub(super) fn walls(journal: &[Said], ahead: &[Ahead], now_ms: i64, findings: &mut Findings) -> Walls {
    let mut walls = Walls::new();
    for record in ahead {
        match decision(journal, record, findings) {
            Some(wall_ms) => {
                walls.insert(record.place, wall_ms);
            }
            None if record.timestamp_ms > now_ms + AHEAD_MAX_MS => {
                findings.lost.add(format!("{record:?} lies ahead, and the journal does not say what was decided"));
            }
            // It may have been read so late that it was no longer ahead: its write time tells.
            None => {}
        }
    }
    findings.clamped = walls.len() as u64;
    walls
}

/// The decision about one record that holds in the end.
fn decision(journal: &[Said], record: &Ahead, findings: &mut Findings) -> Option<i64> {
    let (partition, offset) = record.place;
    let (mut term, mut first, mut holds) = (0, None::<Decision>, None::<Decision>);
    let mut is_repeated = false;
    for said in journal.iter().filter(|said| said.partition == partition) {
        if said.term < term {
            // A task that has lost its partition.
            continue;
        }
        if (said.term > term || said.why == Why::Begins) && said.offset <= offset {
            holds = None;
        }
        term = said.term;
        let (until, wall_ms, is_own) = match said.why {
            Why::Begins | Why::Stands => continue,
            Why::Decided { until, wall_ms } => (until, wall_ms, true),
            Why::Carried { until, wall_ms } => (until, wall_ms, false),
        };
        if !(said.offset..until).contains(&offset) {
            continue;
        }
        let now = Decision { wall_ms, term, told_ms: said.told_ms };
        if is_own && !(record.sent_ms..=said.told_ms).contains(&wall_ms) {
            findings.wrong.add(format!("{record:?}: no wall showed what {said:?} says"));
        }
        match first {
            None if !is_own => findings.wrong.add(format!("{record:?}: {said:?} takes over what nobody decided")),
            Some(before) if before.wall_ms != wall_ms && wall_ms - before.told_ms >= UNSEEN_MS => {
                findings.wrong.add(format!(
                    "{record:?} was decided about twice: by a wall of {} in term {}, and of {wall_ms} in term {term}",
                    before.wall_ms, before.term
                ));
            }
            Some(before) => is_repeated |= before.wall_ms == wall_ms && before.term < term,
            None => {}
        }
        first = first.filter(|before| before.wall_ms == wall_ms).or(Some(now));
        holds = Some(now);
    }
    findings.clamped_again += u64::from(is_repeated);
    // A task that begins at or below the record, and does not say what it took over, decides anew where it reads it.
    holds.map(|decision| decision.wall_ms)
}

#[cfg(test)]
mod tests {
    use super::*;

    const SENT: i64 = 1_700_000_000_000;
    const RECORD: Ahead = Ahead { place: (5, 10), sent_ms: SENT, timestamp_ms: SENT + 600_000 };

    fn said(term: u64, offset: i64, why: Why) -> Said {
        Said { partition: 5, offset, term, why, told_ms: SENT + 1_000 * term as i64 }
    }

    fn decided(wall_ms: i64) -> Why {
        Why::Decided { until: 11, wall_ms }
    }

    fn carried(wall_ms: i64) -> Why {
        Why::Carried { until: 11, wall_ms }
    }

    /// The wall that holds; how much is lost and wrong, and how many decisions were repeated.
    fn found(journal: &[Said]) -> (Option<i64>, [u64; 3]) {
        let mut findings = Findings::default();
        let walls = walls(journal, &[RECORD], SENT + 60_000, &mut findings);
        let counts = [findings.lost.count, findings.wrong.count, findings.clamped_again];
        (walls.get(&RECORD.place).copied(), counts)
    }

    #[test]
    fn one_decision_is_repeated_by_whoever_reads_the_record_again() {
        let wall = SENT + 500;
        let first = [said(1, 0, Why::Begins), said(1, 10, decided(wall)), said(1, 90, Why::Stands)];
        assert_eq!(found(&first), (Some(wall), [0, 0, 0]));
        let again = [&first[..], &[said(2, 5, Why::Begins), said(2, 10, carried(wall))]].concat();
        assert_eq!(found(&again), (Some(wall), [0, 0, 1]));
        let beyond = [&first[..], &[said(2, 11, Why::Begins)]].concat();
        assert_eq!(found(&beyond), (Some(wall), [0, 0, 0]), "the next task begins behind it");
        let others = [&first[..], &[Said { partition: 4, ..said(9, 0, Why::Begins) }]].concat();
        assert_eq!(found(&others), (Some(wall), [0, 0, 0]));
    }

    #[test]
    fn a_second_decision_and_one_that_is_absent_are_found() {
        let (wall, later) = (SENT + 500, SENT + 20_000);
        let first = [said(1, 0, Why::Begins), said(1, 10, decided(wall))];
        let twice = |why| {
            found(&[&first[..], &[said(2, 5, Why::Begins), Said { told_ms: later, ..said(2, 10, why) }]].concat())
        };
        assert_eq!(twice(decided(later)), (Some(later), [0, 1, 0]));
        assert_eq!(twice(carried(later)), (Some(later), [0, 1, 0]));
        assert_eq!(found(&[said(1, 0, Why::Begins)]), (None, [1, 0, 0]));
        let dropped = [&first[..], &[said(2, 5, Why::Begins)]].concat();
        assert_eq!(found(&dropped), (None, [1, 0, 0]), "the next task neither took it over nor decided");
        let read_late = walls(&[], &[RECORD], SENT + 400_000, &mut Findings::default());
        assert!(read_late.is_empty());
    }

    #[test]
    fn a_wall_lies_between_the_sending_and_the_telling() {
        let of = |wall| found(&[said(1, 0, Why::Begins), said(1, 10, decided(wall))]).1;
        assert_eq!(of(SENT), [0, 0, 0]);
        assert_eq!(of(SENT - 1), [0, 1, 0], "nobody can have read it yet");
        assert_eq!(of(SENT + 1_001), [0, 1, 0], "it stood in the journal before");
        assert_eq!(found(&[said(1, 0, Why::Begins), said(1, 10, carried(SENT))]).1, [0, 1, 0]);
    }

    #[test]
    fn a_task_that_has_lost_its_partition_does_not_count() {
        let (wall, zombie) = (SENT + 1_500, SENT + 400);
        let journal = [
            said(1, 0, Why::Begins),
            said(2, 0, Why::Begins),
            said(2, 10, decided(wall)),
            Said { told_ms: SENT + 9_000, ..said(1, 10, decided(zombie)) },
        ];
        assert_eq!(found(&journal), (Some(wall), [0, 0, 0]));
        // Its word came when the next task had looked already.
        let journal = [
            said(1, 0, Why::Begins),
            said(1, 10, decided(zombie)),
            said(2, 0, Why::Begins),
            said(2, 10, decided(wall)),
        ];
        assert_eq!(found(&journal), (Some(wall), [0, 0, 0]));
    }
}
