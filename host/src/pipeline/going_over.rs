//! How a task goes over to another generation of its pipeline's steps.
//!
//! In: the generation that is live, before each part of a batch that is run. Out: who handles the records from that part
//! on, known to whoever goes on after a sudden death before anything of it is written. Asks nobody: each task goes over by
//! itself.

use std::sync::atomic::Ordering;
use std::sync::{Arc, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

use super::checkpoint::{EpochPlan, EpochsUsedUp};
use super::generation::Generation;
use super::line::Stamped;
use super::parts::Part;
use super::shared::{Flow, Hand};
use super::transforming::{Transforming, Work};
use crate::record::Offset;

/// How soon it is looked again whether what is done is committed.
const COMMITS_LOOKED_AT_EVERY: Duration = Duration::from_millis(2);

impl Transforming {
    /// Goes over to the live generation, where that is another, from a row of the batch on: nothing of it has been written
    /// yet. Others may have written these records under the old one before this task: then the next epoch beats theirs.
    /// Whoever goes on after a sudden death knows of it: it stands in the journal before the first write, or else beside
    /// the committed offset.
    pub(super) async fn go_over(&self, stamped: &mut Arc<Stamped>, row: usize) -> Flow {
        let hand = self.shared.hand();
        let live = self.line.live.get();
        if Arc::ptr_eq(&hand.generation, &live) {
            return Flow::GoOn;
        }
        let at = Offset(stamped.source.offsets[row]);
        let began = Instant::now();
        let mut next = Hand { from: at, generation: live, epochs: hand.epochs };
        if !hand.generation.is_same_version(&next.generation) {
            match self.epochs_of_next(&hand, at) {
                Ok(epochs) => next.epochs = epochs,
                Err(used_up) => {
                    self.note_waiting_behind(&next.generation, &used_up);
                    return Flow::GoOn;
                }
            }
            if self.tell_of(&next, stamped.h_below(row)).await == Flow::Stop {
                return Flow::Stop;
            }
            if next.epochs != hand.epochs {
                *stamped = Arc::new(stamped.under(next.epochs, row));
            }
        }
        self.shared.hand_over(next);
        *self.went_over.lock().unwrap_or_else(PoisonError::into_inner) = Some(began);
        Flow::GoOn
    }

    /// The epochs of another version that takes over from somebody at an offset. Where that would be one epoch too many,
    /// it takes over behind what is redelivered; the way back from one that is not good enough is no matter of leisure.
    fn epochs_of_next(&self, hand: &Hand, at: Offset) -> Result<EpochPlan, EpochsUsedUp> {
        let end = self.shared.end_at_start.0;
        if hand.generation.is_revoked() {
            hand.epochs.above(at.0, end)
        } else {
            hand.epochs.above_at_leisure(at.0, end)
        }
    }

    /// Told once for each generation.
    fn note_waiting_behind(&self, next: &Generation, used_up: &EpochsUsedUp) {
        let told = self.waits_behind.swap(next.number, Ordering::Relaxed);
        if told != next.number {
            tracing::warn!(
                pipeline = %self.line.name, partition = %self.shared.partition, generation = next.number,
                "it takes over at offset {} only: what stands before that may have been written already, by so many \
                 versions that hardly a write time is left above theirs; the version before handles it",
                used_up.to
            );
        }
    }

    /// The first part of another generation goes on its way.
    pub(super) fn note_gone_over(&self, generation: &Generation) {
        let began = self.went_over.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(pause) = began.map(|began| began.elapsed()) {
            self.line.meters.gone_over(pause);
            let (partition, number, pause_us) = (&self.shared.partition, generation.number, pause.as_micros() as u64);
            tracing::debug!(pipeline = %self.line.name, %partition, generation = number, pause_us, "went over");
        }
    }

    /// Makes known who handles the records from an offset on, whose last record below has this write time.
    async fn tell_of(&self, next: &Hand, h_below: i64) -> Flow {
        if let Some(journaling) = &self.journaling {
            journaling.lock().await.handed_over((next.from, h_below), next);
            return Flow::GoOn;
        }
        // Without a journal, what others have begun is finished first.
        while !self.shared.is_committed_below(next.from) {
            tokio::select! {
                () = self.shared.stop.cancelled() => return Flow::Stop,
                () = tokio::time::sleep(COMMITS_LOOKED_AT_EVERY) => {}
            }
        }
        self.shared.hand_over(next.clone());
        self.shared.commit(next.from, h_below);
        while !self.shared.is_committed_below(next.from) {
            tokio::select! {
                () = self.shared.stop.cancelled() => return Flow::Stop,
                () = tokio::time::sleep(COMMITS_LOOKED_AT_EVERY) => {}
            }
        }
        Flow::GoOn
    }

    /// The generation's rows are about to be written; not where it was rolled back since it has made them, and another can
    /// take its place.
    pub(super) fn note_handled(&self, work: Work<'_>, part: &Part) -> bool {
        let offsets = &work.stamped.source.offsets[part.rows.clone()];
        let (Some(first), Some(last)) = (offsets.first(), offsets.last()) else { return true };
        let is_its = work.generation.note_handled(&self.shared.partition, (Offset(*first), Offset(last + 1)));
        is_its || self.epochs_of_next(&self.shared.hand(), Offset(*first)).is_err()
    }
}
