//! Which partitions fetch, where not all can at once.
//!
//! In: how far each partition's reader and its topic are, and what the reader waits for. Out: partitions to pause and to
//! resume. With records so large that one for each partition passes the budget, partitions take turns. A turn goes to
//! one whose reader waits for records; where turns are left, to one whose reader waits for memory, so that its records
//! are there when it has some. It is given up when there is nothing left to read or its time is over, as soon as the
//! queue is empty; and, for somebody who waits, by a partition whose reader does not come back (a sink that stands still,
//! a plugin that tries again): what its queue held is dropped and fetched again. So a partition that is held keeps no
//! other from reading, for however long, and never do more fetch than fit into the budget. A pure function; `keeper`
//! acts.

use std::time::Duration;

/// How long a partition may keep its turn while others wait, and how long its reader may stay away.
const TURN: Duration = Duration::from_millis(500);
/// How long it may keep its turn without a record: a large one takes its time, a leader may be away. One that may not be
/// read gives way as soon as it is refused; where it was refused before, it has a [`TURN`] to find out whether it still is.
const TURN_WITHOUT_RECORDS: Duration = Duration::from_secs(30);

/// What a partition's reader waits for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Want {
    /// Nobody reads, or its own records have to be done first.
    Nothing,
    /// Memory for a batch.
    Room,
    /// Records.
    Records,
}

/// What the decision needs to know of one partition.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct View {
    /// It fetches.
    pub(super) is_fetching: bool,
    /// It has something to read, as far as known.
    pub(super) has_more: bool,
    /// Its reader found its queue empty when it last looked.
    pub(super) is_drained: bool,
    /// Its reader has got something since it fetches.
    pub(super) has_read: bool,
    /// How long ago it was refused, where it may not be read.
    pub(super) refused: Option<Duration>,
    /// What its reader waits for.
    pub(super) wants: Want,
    /// How long its reader has not waited for records.
    pub(super) away: Duration,
    /// How long it has been fetching, or waiting for its turn.
    pub(super) since: Duration,
}

impl View {
    /// It gives up its turn by itself, for whoever wants it.
    fn is_over(&self) -> bool {
        let time = match self.refused {
            Some(ago) if ago <= self.since => Duration::ZERO,
            Some(_) => TURN,
            None if self.has_read => TURN,
            None => TURN_WITHOUT_RECORDS,
        };
        self.is_fetching && self.is_drained && (!self.has_more || self.since >= time)
    }

    /// It keeps its turn, and nobody knows until when.
    fn is_held(&self) -> bool {
        self.is_fetching && !self.is_over() && self.since >= TURN && self.away >= TURN
    }

    fn waits_for(&self, want: Want) -> bool {
        !self.is_fetching && self.has_more && self.wants == want
    }
}

/// Indices of partitions to pause, and to resume.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Turns {
    pub(super) pause: Vec<usize>,
    pub(super) resume: Vec<usize>,
}

/// Decides whose turn it is.
pub(super) fn turns(views: &[View], fetching_max: usize) -> Turns {
    let of = |wanted: &dyn Fn(&View) -> bool| -> Vec<usize> {
        let mut found: Vec<usize> = (0..views.len()).filter(|index| views.get(*index).is_some_and(wanted)).collect();
        // Whoever has had or waited for a turn the longest, first.
        found.sort_by_key(|index| std::cmp::Reverse(views.get(*index).map(|view| view.since)));
        found
    };
    let reading = of(&|view| view.waits_for(Want::Records));
    let ahead = of(&|view| view.waits_for(Want::Room));
    let fetching = views.iter().filter(|view| view.is_fetching).count();
    let free = fetching_max.saturating_sub(fetching);
    // More than may, where records turned out to be larger than was known.
    let surplus = fetching.saturating_sub(fetching_max);

    // Nobody gives up a turn that nobody else wants.
    let mut pause = of(&View::is_over);
    pause.truncate((reading.len() + ahead.len()).saturating_sub(free) + surplus);
    let mut held = of(&View::is_held);
    held.truncate((reading.len() + surplus).saturating_sub(free + pause.len()));
    pause.extend(held);
    let mut empty = of(&|view| view.is_fetching && view.is_drained && !view.is_over() && !view.is_held());
    empty.truncate(surplus.saturating_sub(pause.len()));
    pause.extend(empty);

    let turns = (free + pause.len()).saturating_sub(surplus);
    let resume = reading.into_iter().chain(ahead).take(turns).collect();
    Turns { pause, resume }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// One whose reader reads.
    fn fetching(has_more: bool, is_drained: bool, ms: u64) -> View {
        View {
            is_fetching: true,
            has_more,
            is_drained,
            has_read: true,
            refused: None,
            wants: Want::Records,
            away: Duration::ZERO,
            since: Duration::from_millis(ms),
        }
    }

    /// One whose reader has not come back since it fetches.
    fn held(ms: u64) -> View {
        View { wants: Want::Nothing, away: Duration::from_millis(ms), ..fetching(true, false, ms) }
    }

    fn waiting(has_more: bool, ms: u64) -> View {
        View { is_fetching: false, ..fetching(has_more, true, ms) }
    }

    fn waiting_for_room(ms: u64) -> View {
        View { wants: Want::Room, ..waiting(true, ms) }
    }

    #[test]
    fn free_turns_go_to_those_with_something_to_read_longest_waiting_first() {
        let views = [waiting(true, 10), waiting(false, 900), waiting(true, 50), waiting(true, 20)];
        assert_eq!(turns(&views, 2), Turns { pause: vec![], resume: vec![2, 3] });
    }

    #[test]
    fn a_turn_is_given_up_only_with_an_empty_queue_and_for_somebody() {
        let full = [fetching(true, false, 9_000), waiting(true, 10)];
        assert_eq!(turns(&full, 1), Turns::default());
        let done = [fetching(false, true, 1), waiting(true, 10)];
        assert_eq!(turns(&done, 1), Turns { pause: vec![0], resume: vec![1] });
        let nobody = [fetching(false, true, 9_000), waiting(false, 10)];
        assert_eq!(turns(&nobody, 1), Turns::default());
    }

    #[test]
    fn a_partition_that_never_ends_gives_way_after_its_time() {
        let views = [fetching(true, true, 400), waiting(true, 10)];
        assert_eq!(turns(&views, 1), Turns::default());
        let views = [fetching(true, true, 600), waiting(true, 10)];
        assert_eq!(turns(&views, 1), Turns { pause: vec![0], resume: vec![1] });
    }

    #[test]
    fn a_record_may_take_longer_than_a_turn_to_come() {
        let slow = |ms| View { has_read: false, ..fetching(true, true, ms) };
        assert_eq!(turns(&[slow(20_000), waiting(true, 10)], 1), Turns::default());
        assert_eq!(turns(&[slow(31_000), waiting(true, 10)], 1), Turns { pause: vec![0], resume: vec![1] });
    }

    #[test]
    fn a_partition_that_may_not_be_read_gives_way_at_once_and_is_asked_again_in_its_turn() {
        let refused = |ago_ms, since_ms| View {
            has_read: false,
            refused: Some(Duration::from_millis(ago_ms)),
            ..fetching(true, true, since_ms)
        };
        assert_eq!(turns(&[refused(5, 60), waiting(true, 10)], 1), Turns { pause: vec![0], resume: vec![1] });
        assert_eq!(turns(&[refused(5, 60), waiting(false, 10)], 1), Turns::default(), "nobody else wants it");
        // Refused in an earlier turn: it may be allowed by now.
        assert_eq!(turns(&[refused(9_000, 400), waiting(true, 10)], 1), Turns::default());
        assert_eq!(turns(&[refused(9_000, 600), waiting(true, 10)], 1), Turns { pause: vec![0], resume: vec![1] });
        let asked = View { is_fetching: false, ..refused(9_000, 700) };
        assert_eq!(turns(&[asked, fetching(true, true, 600)], 1), Turns { pause: vec![1], resume: vec![0] });
    }

    #[test]
    fn as_many_held_partitions_as_there_are_turns_stop_nobody() {
        let views = [held(600), held(700), waiting(true, 10)];
        assert_eq!(turns(&views, 2), Turns { pause: vec![1], resume: vec![2] });
        // A reader that was away for a moment is not held; and one that waits for memory needs nothing at once.
        assert_eq!(turns(&[held(400), waiting(true, 10)], 1), Turns::default());
        assert_eq!(turns(&[held(600), waiting_for_room(900)], 1), Turns::default());
        // One that was resumed a moment ago has not had its turn.
        let resumed = View { since: Duration::from_millis(10), ..held(9_000) };
        assert_eq!(turns(&[resumed, waiting(true, 10)], 1), Turns::default());
    }

    #[test]
    fn whoever_reads_comes_before_whoever_waits_for_memory_and_nobody_fetches_for_a_reader_that_is_held() {
        let kept = View { is_fetching: false, ..held(9_000) };
        let views = [kept, waiting_for_room(900), waiting(true, 10)];
        assert_eq!(turns(&views, 1), Turns { pause: vec![], resume: vec![2] });
        assert_eq!(turns(&views, 9), Turns { pause: vec![], resume: vec![2, 1] });
    }

    #[test]
    fn where_records_turn_out_to_be_larger_fewer_fetch() {
        let reading = fetching(true, false, 100);
        let views = [reading, fetching(true, true, 100), held(600), fetching(false, true, 100), waiting(true, 10)];
        assert_eq!(turns(&views, 1), Turns { pause: vec![3, 2, 1], resume: vec![] });
        assert_eq!(turns(&[reading, reading], 1), Turns::default(), "not before its reader has what was fetched");
    }

    #[test]
    fn never_more_than_so_many_fetch() {
        let views: Vec<View> = (0..64).map(|ms| waiting(true, ms)).collect();
        assert_eq!(turns(&views, 8).resume.len(), 8);
    }
}
