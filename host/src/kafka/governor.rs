//! Which partitions fetch, where not all can at once.
//!
//! In: how far each partition's reader and its topic are. Out: partitions to pause and to resume. With records so large
//! that one for each partition passes the budget, partitions take turns: one that has something to read gets a turn, one
//! that has nothing left, or has had its time, gives it up as soon as its queue is empty (the client frees nothing of a
//! queue that is paused). A pure function; `consumer` acts.

use std::time::Duration;

/// How long a partition may keep its turn while others wait.
const TURN: Duration = Duration::from_millis(500);

/// What the decision needs to know of one partition.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct View {
    /// It fetches.
    pub(super) is_fetching: bool,
    /// It has something to read, as far as known.
    pub(super) has_more: bool,
    /// Its reader found its queue empty when it last looked.
    pub(super) is_drained: bool,
    /// How long it has been fetching, or waiting for its turn.
    pub(super) since: Duration,
}

/// Indices of partitions to pause, and to resume.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Turns {
    pub(super) pause: Vec<usize>,
    pub(super) resume: Vec<usize>,
}

/// Decides whose turn it is.
pub(super) fn turns(views: &[View], fetching_max: usize) -> Turns {
    let of = |wanted: fn(&View) -> bool| -> Vec<usize> {
        let mut found: Vec<usize> = (0..views.len()).filter(|index| views.get(*index).is_some_and(wanted)).collect();
        // Whoever has had or waited for a turn the longest, first.
        found.sort_by_key(|index| std::cmp::Reverse(views.get(*index).map(|view| view.since)));
        found
    };
    let waiting = of(|view| !view.is_fetching && view.has_more);
    let fetching = views.iter().filter(|view| view.is_fetching).count();
    let free = fetching_max.saturating_sub(fetching);
    let mut pause = of(|view| view.is_fetching && view.is_drained && (!view.has_more || view.since >= TURN));
    // Nobody gives up a turn that nobody else wants.
    pause.truncate(waiting.len().saturating_sub(free));
    let resume = waiting.into_iter().take(free + pause.len()).collect();
    Turns { pause, resume }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fetching(has_more: bool, is_drained: bool, ms: u64) -> View {
        View { is_fetching: true, has_more, is_drained, since: Duration::from_millis(ms) }
    }

    fn waiting(has_more: bool, ms: u64) -> View {
        View { is_fetching: false, has_more, is_drained: true, since: Duration::from_millis(ms) }
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
    fn never_more_than_so_many_fetch() {
        let views: Vec<View> = (0..64).map(|ms| waiting(true, ms)).collect();
        assert_eq!(turns(&views, 8).resume.len(), 8);
    }
}
