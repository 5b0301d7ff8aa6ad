//! Two redrives at once: which of them has a record's write time.
//!
//! In: marks, in the order in which they stand. Out: for each record and write time the content that was marked first; only
//! that is written there. Pure but for the reading.
//!
//! ```text
//!  one:   read ── mark a ── read ── a stands first ──► write a ── mark: done
//!  other: read ──────── mark b ── read ── a stands first ──► gives way
//! ```
//!
//! Each marks what begins before it looks who else has, so whoever comes later sees who was first. It holds over hosts and
//! processes, as marks have one order in a place; and for one that was killed, as its marks stay.

use std::collections::BTreeMap;
use std::time::Duration;

use tokio::time::{Instant, sleep};

use super::cases::CaseKey;
use super::plan::Planned;
use super::{Entry, Place, Reached};
use crate::pipeline::SourceError;

/// How long marks that were written may not show, and how often they are looked for.
const SHOWN_WITHIN: Duration = Duration::from_secs(30);
const LOOK_EVERY: Duration = Duration::from_millis(100);

/// What was begun since a place was read, and before.
#[derive(Debug, Default)]
pub struct Claims {
    reached: Reached,
    /// By record and write time: the content that was marked first.
    first: BTreeMap<(CaseKey, i64), String>,
}

impl Claims {
    /// Of records that were planned by what stood in the place up to there.
    #[must_use]
    pub fn after(reached: Reached, planned: &[Planned]) -> Self {
        let begun = planned.iter().filter(|one| one.has_begun);
        Self { reached, first: begun.map(|one| (claim(one), one.content.clone())).collect() }
    }

    /// Reads on. Afterwards all that was marked before this call is known.
    async fn read(&mut self, place: &dyn Place, pipeline: &str) -> Result<(), SourceError> {
        let first = &mut self.first;
        let each = &mut |entry: Entry| {
            let Entry::Marks(marks) = entry else { return };
            for mark in marks.into_iter().filter(|mark| mark.pipeline == pipeline) {
                first.entry(((mark.id, mark.h), mark.write_time)).or_insert(mark.content);
            }
        };
        self.reached = place.read(&self.reached, each).await?;
        Ok(())
    }

    /// Parts records, whose marks are written, into those that may be written at their write times, and those that have to
    /// give way to another redrive.
    ///
    /// # Errors
    /// Where the place cannot be read, or what was written to it does not show.
    pub async fn settle(
        &mut self,
        place: &dyn Place,
        pipeline: &str,
        records: Vec<Planned>,
    ) -> Result<(Vec<Planned>, Vec<Planned>), SourceError> {
        let began = Instant::now();
        loop {
            self.read(place, pipeline).await?;
            if records.iter().all(|one| self.first.contains_key(&claim(one))) {
                break;
            }
            if began.elapsed() > SHOWN_WITHIN {
                return Err(SourceError::Broken(format!(
                    "{}: marks that were written there do not show after {} s, so nobody knows who else redrives: is it \
                     compacted, or does somebody hold a transaction open in it?",
                    place.name(),
                    SHOWN_WITHIN.as_secs()
                )));
            }
            sleep(LOOK_EVERY).await;
        }
        Ok(records.into_iter().partition(|one| self.first.get(&claim(one)) == Some(&one.content)))
    }
}

fn claim(one: &Planned) -> (CaseKey, i64) {
    let mark = one.mark(false, 0);
    ((mark.id, mark.h), mark.write_time)
}
