//! One assigned partition: its queue, where its reader stands, and the positions to commit.
//!
//! In: positions from the task, answers from the broker. Out: what is still to be committed. The queue is taken out
//! before the partition is given back, so that whoever still holds a reader gets nothing more, and a position that comes
//! after the end of the assignment is discarded.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::Instant;

use super::consumer::Context;
use super::governor::{View, Want};
use super::memory::{Budget, Given, Permit};
use super::native::{PartitionQueue, Polled};
use super::start::Known;
use super::stats::SourceStats;
use crate::pipeline::checkpoint::METADATA_CHARS_MAX;
use crate::pipeline::journal::GoneTopic;
use crate::pipeline::{Committer, Position};
use crate::record::{Offset, TopicPartition};

/// Locks, whoever panicked before: what is guarded here stays whole at every step.
pub(super) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Partitions that must be given back and begun anew: their queue told of an offset that is out of range, their topic
/// was made anew, or a record came where none may come.
pub(super) type Renewals = Arc<Mutex<BTreeSet<TopicPartition>>>;

/// One assigned partition.
pub(super) struct Slot {
    /// Which.
    pub(super) partition: TopicPartition,
    /// The topic's id when it was assigned.
    pub(super) topic_id: Option<String>,
    /// Called when the queue has something.
    pub(super) ready: Arc<Notify>,
    /// One past the newest record, as far as known.
    pub(super) high: AtomicI64,
    /// The offset after the last record that the reader took.
    pub(super) next: AtomicI64,
    /// Where to ask for a new beginning.
    pub(super) renewals: Renewals,
    /// Where to count.
    pub(super) stats: Arc<SourceStats>,
    /// The source's memory.
    pub(super) budget: Arc<Budget>,
    /// Its topic was made anew since it was read last: what was lost by that is told.
    pub(super) is_anew: bool,
    /// An older topic of the name, which only the journal tells of.
    gone: Mutex<Option<GoneTopic>>,
    /// The reader found its queue empty when it last looked.
    pub(super) is_drained: Arc<AtomicBool>,
    turn: Mutex<Turn>,
    /// What the reader waits for, and until when it waited for records.
    wants: Mutex<(Want, Instant)>,
    given: Mutex<Given>,
    /// Called when records are done.
    freed: Notify,
    queue: Mutex<Option<PartitionQueue<Context>>>,
    is_live: AtomicBool,
    positions: Mutex<Positions>,
    /// Why it may not be read, if so, and since when that is known.
    forbidden: Mutex<Option<(String, Instant)>>,
    is_forbidden: AtomicBool,
    /// The task's first position stands at the broker: the reader may give.
    has_begun: AtomicBool,
    begun: Notify,
}

/// Whether a partition fetches.
#[derive(Debug, Clone, Copy)]
struct Turn {
    is_fetching: bool,
    since: Instant,
    /// How far its reader was then.
    next: i64,
}

/// What a reader waits for while it waits; nothing once this is dropped.
pub(super) struct Wish<'s> {
    slot: &'s Slot,
}

impl Wish<'_> {
    pub(super) fn set(&self, want: Want) {
        let mut wants = lock(&self.slot.wants);
        if wants.0 == Want::Records {
            wants.1 = Instant::now();
        }
        wants.0 = want;
    }
}

impl Drop for Wish<'_> {
    fn drop(&mut self) {
        self.set(Want::Nothing);
    }
}

/// What was handed over, what was sent, what was accepted: each at or after the next.
#[derive(Debug, Default)]
struct Positions {
    handed: Option<Position>,
    sent: Option<Position>,
    accepted: Option<Position>,
    refusals: u32,
    /// The task itself has handed over a position.
    is_claimed: bool,
    /// What was sent is the task's own.
    is_claim_sent: bool,
    /// Where the reader stood when it reached the end, and that end.
    end: Option<(i64, i64)>,
}

impl Positions {
    /// A position after the last record, taken to the end: what lies between is no record. Who looks at the
    /// group from outside sees that nothing is left to read.
    fn to_the_end(&self, mut position: Position) -> Position {
        if let Some((_, end)) = self.end.filter(|(from, end)| (*from..*end).contains(&position.next.0)) {
            position.next = Offset(end);
        }
        position
    }
}

impl Slot {
    pub(super) fn new(
        partition: TopicPartition,
        topic_id: Option<String>,
        (start, high): (i64, i64),
        committed: Option<Position>,
        (renewals, stats, budget): (Renewals, Arc<SourceStats>, Arc<Budget>),
        is_fetching: bool,
    ) -> Self {
        Self {
            partition,
            topic_id,
            ready: Arc::default(),
            high: AtomicI64::new(high),
            next: AtomicI64::new(start),
            renewals,
            stats,
            turn: Mutex::new(Turn { is_fetching, since: Instant::now(), next: start }),
            wants: Mutex::new((Want::Nothing, Instant::now())),
            budget,
            is_anew: false,
            gone: Mutex::default(),
            is_drained: Arc::new(AtomicBool::new(true)),
            given: Mutex::default(),
            freed: Notify::new(),
            queue: Mutex::new(None),
            is_live: AtomicBool::new(true),
            positions: Mutex::new(Positions { accepted: committed, ..Positions::default() }),
            forbidden: Mutex::default(),
            is_forbidden: AtomicBool::new(false),
            has_begun: AtomicBool::new(false),
            begun: Notify::new(),
        }
    }

    /// Gives the slot its queue, which calls [`Self::ready`] from now on.
    pub(super) fn attach(&self, mut queue: PartitionQueue<Context>) {
        let (ready, is_drained) = (Arc::clone(&self.ready), Arc::clone(&self.is_drained));
        // Called with the queue's lock held: it may wake somebody, and nothing else.
        queue.call_when_ready(move || {
            is_drained.store(false, Ordering::SeqCst);
            ready.notify_one();
        });
        *lock(&self.queue) = Some(queue);
        self.ready.notify_one();
    }

    /// The queue, for as long as the guard lives; none once the partition is given back.
    pub(super) fn queue(&self) -> MutexGuard<'_, Option<PartitionQueue<Context>>> {
        lock(&self.queue)
    }

    /// Takes the queue away: an old reader gets nothing more.
    pub(super) fn detach(&self) {
        *lock(&self.queue) = None;
    }

    /// Ends the assignment for the committer. What was handed over until now can still be committed.
    pub(super) fn fence(&self) {
        // Under the lock, so that no position slips in afterwards.
        let _positions = lock(&self.positions);
        self.is_live.store(false, Ordering::SeqCst);
        *lock(&self.given) = Given::default();
    }

    /// How it stands in the order of turns.
    pub(super) fn view(&self) -> View {
        let (turn, (wants, until), next) = (*lock(&self.turn), *lock(&self.wants), self.next.load(Ordering::Relaxed));
        View {
            is_fetching: turn.is_fetching,
            has_more: next < self.end(),
            is_drained: self.is_drained.load(Ordering::SeqCst),
            has_read: next > turn.next,
            refused: lock(&self.forbidden).as_ref().map(|(_, at)| at.elapsed()),
            wants,
            away: if wants == Want::Records { Duration::ZERO } else { until.elapsed() },
            since: turn.since.elapsed(),
        }
    }

    /// One past the newest record, as far as known. Transactions leave marks in a log, which are no records: where they
    /// stand last, the log's end lies beyond it.
    pub(super) fn end(&self) -> i64 {
        let high = self.high.load(Ordering::Relaxed);
        lock(&self.positions).end.filter(|(_, end)| *end >= high).map_or(high, |(from, _)| from)
    }

    /// The reader, which would take `next` next, has reached the end of the partition.
    pub(super) fn reached_end(&self, next: i64, end: i64) {
        self.allowed();
        let mut positions = lock(&self.positions);
        positions.end = Some((next, end));
        if positions.is_claimed {
            positions.handed = positions.handed.take().map(|handed| positions.to_the_end(handed));
        }
    }

    /// It may not be read at the moment; the client tries on.
    pub(super) fn forbid(&self, why: &str) {
        tracing::error!(partition = %self.partition, "not read until it is allowed again: {why}");
        *lock(&self.forbidden) = Some((format!("{}: {why}", self.partition), Instant::now()));
        self.is_forbidden.store(true, Ordering::SeqCst);
    }

    /// It may be read.
    pub(super) fn allowed(&self) {
        if self.is_forbidden.load(Ordering::Relaxed) && self.is_forbidden.swap(false, Ordering::SeqCst) {
            *lock(&self.forbidden) = None;
            tracing::info!(partition = %self.partition, "it may be read again");
        }
    }

    /// Why it may not be read, if so.
    pub(super) fn forbidden(&self) -> Option<String> {
        lock(&self.forbidden).as_ref().map(|(why, _)| why.clone())
    }

    /// It has its turn, or has given it up.
    pub(super) fn set_fetching(&self, is_fetching: bool) {
        if !is_fetching {
            self.drop_fetched();
        }
        // Until its reader has looked, nobody knows whether its queue is empty.
        self.is_drained.store(!is_fetching, Ordering::SeqCst);
        *lock(&self.turn) = Turn { is_fetching, since: Instant::now(), next: self.next.load(Ordering::Relaxed) };
    }

    /// Frees what the queue of a paused partition holds: the client gives none of it any more, and frees it only when
    /// somebody looks. It is fetched again, from where the reader stands.
    fn drop_fetched(&self) {
        let queue = self.queue();
        while let Some(left) = queue.as_ref().and_then(PartitionQueue::poll) {
            if !matches!(left, Polled::End(_)) {
                tracing::warn!(partition = %self.partition, "a paused partition gave something: it begins anew");
                self.renew();
            }
        }
    }

    /// Says what the reader waits for.
    pub(super) fn wish(&self) -> Wish<'_> {
        Wish { slot: self }
    }

    /// A batch was given that ends with `last_offset`.
    pub(super) fn give(&self, last_offset: i64, permit: Permit) {
        lock(&self.given).add(last_offset, permit);
    }

    /// Whether every batch that was given is done.
    pub(super) fn holds_nothing(&self) -> bool {
        lock(&self.given).is_empty()
    }

    /// Waits while the partition holds its share of the memory.
    pub(super) async fn wait_for_share(&self) {
        loop {
            let freed = self.freed.notified();
            if !lock(&self.given).is_full(&self.budget) {
                return;
            }
            tokio::time::timeout(Duration::from_secs(1), freed).await.ok();
        }
    }

    /// Waits until the task's first position stands. One reader waits at a time.
    pub(super) async fn wait_until_begun(&self) {
        while !self.has_begun.load(Ordering::SeqCst) {
            self.begun.notified().await;
        }
    }

    /// Whether a reader waits, or will wait, for its first position.
    pub(super) fn is_beginning(&self) -> bool {
        !self.has_begun.load(Ordering::SeqCst)
    }

    /// Whether a first position is to be sent, and how often it was refused.
    pub(super) fn wants_to_begin(&self) -> Option<u32> {
        let positions = lock(&self.positions);
        let wants = self.is_beginning() && positions.is_claimed && positions.handed != positions.sent;
        wants.then_some(positions.refusals)
    }

    fn begin(&self) {
        self.has_begun.store(true, Ordering::SeqCst);
        self.begun.notify_one();
    }

    /// Keeps the start, which nobody has committed yet, without speaking for the task.
    pub(super) fn keep_start(&self, position: Position) {
        lock(&self.positions).handed = Some(position);
    }

    /// What is remembered of it beyond the assignment.
    pub(super) fn known(&self) -> Known {
        match lock(&self.gone).clone() {
            Some(GoneTopic { id, read_until }) => Known { topic_id: Some(id), next: read_until.0, high: None },
            None => Known {
                topic_id: self.topic_id.clone(),
                next: self.next.load(Ordering::Relaxed),
                high: Some(self.high.load(Ordering::Relaxed)),
            },
        }
    }

    /// Asks for a new beginning.
    pub(super) fn renew(&self) {
        lock(&self.renewals).insert(self.partition.clone());
    }

    /// What was handed over and not yet sent; from now on it is sent.
    pub(super) fn send(&self) -> Option<Position> {
        let mut positions = lock(&self.positions);
        if positions.handed == positions.sent || positions.handed == positions.accepted {
            return None;
        }
        positions.is_claim_sent = positions.is_claimed;
        positions.sent = positions.handed.clone();
        positions.handed.clone()
    }

    /// What was handed over and is not accepted yet.
    pub(super) fn unaccepted(&self) -> Option<Position> {
        let positions = lock(&self.positions);
        positions.handed.clone().filter(|_| positions.handed != positions.accepted)
    }

    /// The broker has everything up to `next`.
    pub(super) fn accepted(&self, next: i64) {
        let mut positions = lock(&self.positions);
        if let Some(sent) = positions.sent.clone().filter(|sent| sent.next.0 == next) {
            positions.accepted = Some(sent);
            positions.refusals = 0;
            if positions.is_claim_sent {
                self.begin();
            }
        }
    }

    /// The broker has exactly this.
    pub(super) fn accepted_exactly(&self, position: &Position) {
        let mut positions = lock(&self.positions);
        positions.sent = Some(position.clone());
        positions.accepted = Some(position.clone());
    }

    /// The broker did not take what was sent: it is sent again. Answers how often in a row.
    pub(super) fn refused(&self) -> u32 {
        let mut positions = lock(&self.positions);
        positions.sent = None;
        positions.is_claim_sent = false;
        positions.refusals += 1;
        positions.refusals
    }
}

impl Committer for Slot {
    fn commit(&self, position: Position) {
        let chars = position.metadata.chars().count();
        if chars > METADATA_CHARS_MAX {
            // The broker would refuse it; the offset without its metadata would lose the write clock.
            self.stats.commit_failures.bump();
            tracing::error!(
                partition = %self.partition, next = %position.next, chars,
                "commit metadata of more than {METADATA_CHARS_MAX} characters: this position is not committed"
            );
            return;
        }
        let mut positions = lock(&self.positions);
        if !self.is_live.load(Ordering::SeqCst) {
            self.stats.commits_fenced.bump();
            return;
        }
        let position = positions.to_the_end(position);
        let falls = positions.handed.as_ref().is_some_and(|handed| handed.next > position.next);
        if falls {
            tracing::error!(partition = %self.partition, next = %position.next, "a position fell: it is not committed");
            return;
        }
        lock(&self.given).done(position.next.0);
        self.freed.notify_one();
        positions.is_claimed = true;
        if self.is_beginning() && positions.accepted.as_ref() == Some(&position) {
            // The very same stands already, and nothing else of this assignment is on its way: `keep_start` is called
            // only where nothing stands.
            self.begin();
        }
        positions.handed = Some(position);
    }

    fn leave(&self, metadata: String) {
        let mut positions = lock(&self.positions);
        if !self.is_live.load(Ordering::SeqCst) {
            self.stats.commits_fenced.bump();
            return;
        }
        // It may have gone beyond marks that are no records, and stays there.
        if let Some(handed) = positions.handed.as_mut() {
            handed.metadata = metadata;
        }
    }

    fn is_settled(&self) -> bool {
        let positions = lock(&self.positions);
        positions.handed.is_none() || positions.handed == positions.accepted || !self.is_live.load(Ordering::SeqCst)
    }

    /// Begins the partition anew, as where its topic is made anew while it is read: then what is remembered of it tells
    /// what is gone.
    fn made_anew(&self, gone: &GoneTopic) -> bool {
        if self.is_anew {
            return false;
        }
        *lock(&self.gone) = Some(gone.clone());
        self.renew();
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn slot() -> Slot {
        let budget = Arc::new(Budget::new(1 << 20, 1, 1, 1 << 10));
        let shared = (Renewals::default(), Arc::default(), budget);
        Slot::new(TopicPartition::new("t", 0), None, (0, 10), Some(at(0)), shared, true)
    }

    fn at(next: i64) -> Position {
        Position { next: Offset(next), metadata: format!("m{next}") }
    }

    #[test]
    fn sends_each_position_once_and_again_after_a_refusal() {
        let slot = slot();
        assert_eq!(slot.send(), None);
        slot.commit(at(3));
        assert_eq!(slot.send(), Some(at(3)));
        assert_eq!(slot.send(), None);
        slot.refused();
        assert_eq!(slot.send(), Some(at(3)));
        slot.accepted(3);
        assert_eq!(slot.unaccepted(), None);
    }

    #[test]
    fn a_position_handed_over_meanwhile_is_not_taken_for_accepted() {
        let slot = slot();
        slot.commit(at(3));
        slot.send();
        slot.commit(at(5));
        slot.accepted(3);
        assert_eq!(slot.unaccepted(), Some(at(5)));
        assert!(!slot.is_settled());
        slot.send();
        slot.accepted(5);
        assert!(slot.is_settled());
    }

    #[test]
    fn discards_what_comes_after_the_end_of_the_assignment() {
        let slot = slot();
        slot.commit(at(3));
        slot.fence();
        slot.commit(at(9));
        assert_eq!(slot.unaccepted(), Some(at(3)));
        assert_eq!(slot.stats.commits_fenced.get(), 1);
    }

    #[test]
    fn what_lies_between_the_last_record_and_the_end_is_committed_with_it() {
        let slot = slot();
        slot.commit(at(3));
        slot.reached_end(5, 6);
        assert_eq!(slot.send().map(|position| position.next.0), Some(3), "records are still under way");
        slot.commit(at(5));
        let sent = slot.send().expect("it moved");
        assert_eq!((sent.next.0, sent.metadata.as_str()), (6, "m5"));
        slot.accepted(6);
        assert_eq!(slot.unaccepted(), None);
        // The end comes after the last record was done; and the next record after that.
        slot.reached_end(5, 8);
        assert_eq!(slot.send().map(|position| position.next.0), Some(8));
        slot.commit(at(9));
        assert_eq!(slot.send(), Some(at(9)));
    }

    #[test]
    fn what_is_left_as_it_was_found_stays_where_it_stands_behind_the_mark_of_a_transaction() {
        let slot = slot();
        slot.commit(Position { next: Offset(5), metadata: "the task's own".to_owned() });
        slot.reached_end(5, 6);
        slot.send();
        slot.accepted(6);
        // A record beyond the mark was read, and the end is another one since; nothing was written.
        slot.reached_end(7, 7);
        slot.leave("found".to_owned());
        assert_eq!(slot.send(), Some(Position { next: Offset(6), metadata: "found".to_owned() }));
        slot.accepted(6);
        assert!(slot.is_settled());
        slot.leave("found".to_owned());
        assert_eq!(slot.send(), None, "it stands already");
        slot.fence();
        slot.leave("too late".to_owned());
        assert_eq!((slot.unaccepted(), slot.stats.commits_fenced.get()), (None, 1));
    }

    #[test]
    fn the_end_is_one_past_the_newest_record_that_is_one() {
        let slot = slot();
        assert_eq!(slot.end(), 10, "as it was told");
        slot.reached_end(9, 10);
        assert_eq!((slot.end(), slot.view().has_more), (9, true));
        slot.next.store(9, Ordering::Relaxed);
        assert!(!slot.view().has_more);
        slot.high.store(12, Ordering::Relaxed);
        assert_eq!(slot.end(), 12);
    }

    #[test]
    fn never_sends_metadata_that_the_broker_would_refuse() {
        let slot = slot();
        slot.commit(Position { next: Offset(4), metadata: "ü".repeat(METADATA_CHARS_MAX) });
        slot.commit(Position { next: Offset(5), metadata: "x".repeat(METADATA_CHARS_MAX + 1) });
        assert_eq!(slot.send().map(|position| position.next), Some(Offset(4)));
    }

    #[test]
    fn begins_when_the_first_position_stands() {
        let slot = slot();
        slot.commit(Position { next: Offset(0), metadata: "another version".to_owned() });
        assert!(slot.is_beginning());
        slot.send();
        slot.refused();
        slot.accepted(0);
        assert!(slot.is_beginning(), "it was refused");
        slot.send();
        slot.accepted(0);
        assert!(!slot.is_beginning());
    }

    #[test]
    fn begins_at_once_where_the_first_position_stands_already() {
        let slot = slot();
        slot.commit(at(0));
        assert!(!slot.is_beginning());
        assert_eq!((slot.send(), slot.unaccepted()), (None, None), "nothing is committed twice");
    }

    #[test]
    fn a_start_that_is_kept_does_not_speak_for_the_task() {
        let slot = slot();
        slot.keep_start(at(5));
        slot.send();
        slot.commit(Position { next: Offset(5), metadata: "the task's own".to_owned() });
        slot.accepted(5);
        assert!(slot.is_beginning());
        slot.send();
        slot.accepted(5);
        assert!(!slot.is_beginning());
    }

    #[test]
    fn positions_never_fall() {
        let slot = slot();
        slot.commit(at(5));
        slot.commit(at(3));
        assert_eq!(slot.send(), Some(at(5)));
    }
}
