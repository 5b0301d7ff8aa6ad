//! A part that another generation runs beside the one that handles it.
//!
//! In: a part, and what the generation that handles it made of it. Out: a verdict on a generation that has just gone live
//! ([`Probation`](super::probation::Probation)), or what a candidate would make otherwise
//! ([`Shadow`](super::shadow::Shadow)). Nothing of what is run here is written, counted or shown.

use std::sync::Arc;

use super::chain::{RecordFailure, Run};
use super::generation::{Generation, Processed};
use super::parts::Part;
use super::probation::Made;
use super::transforming::{Transforming, Work};

impl Transforming {
    /// Holds a generation that has just gone live against the one before it, on this part. Where it is not good enough, the
    /// one before is live again, and runs this part anew: nothing of it has been written.
    pub(super) async fn is_breach(&self, work: Work<'_>, part: &Part, processed: &Processed) -> bool {
        let Some(probation) = work.generation.probation.as_ref().filter(|probation| probation.is_open()) else {
            return false;
        };
        let Some(before) = probation.before() else { return false };
        let made = Made::of(processed, part.rows.len());
        if !probation.wants(&made) {
            return false;
        }
        let same = aside(part);
        if work.generation.chain.asks().is_some() || before.chain.asks().is_some() {
            // Nobody is asked twice for a comparison: a trap needs no comparison, and all else may have its reasons.
            let cause = probation.compare(&made, &made.but_for_traps());
            return self.go_back(work.generation, &before, cause);
        }
        // Where the one before comes to nothing, or Pelton itself is at fault, there is nothing to compare with.
        let Ok(Ok(again)) = self.process(Work { generation: &before, ..work }, &same).await else { return false };
        let cause = probation.compare(&made, &Made::of(&again, part.rows.len()));
        self.go_back(work.generation, &before, cause)
    }

    /// Lets a candidate run the same part, where there is one. What it says goes nowhere but into the report.
    pub(super) async fn shadow(&self, work: Work<'_>, part: &Part, live: &Processed) {
        let Some(shadow) = self.line.shadowing.get() else { return };
        let same = aside(part);
        let candidate = Work { generation: shadow.candidate(), ..work };
        let records = part.rows.len();
        match self.process(candidate, &same).await {
            Ok(Ok(processed)) => shadow.compare(&work.stamped.source, records, live, &processed),
            // It trapped over several records: all of them count as failed, since nobody cuts for a report.
            Ok(Err(halt)) => {
                let mut none = Processed::empty();
                let failure = RecordFailure::new("shadow", "halted", &halt.cause);
                let origins = part.rows.clone().map(|row| work.stamped.source.origins[row]);
                none.failures = origins.map(|origin| (origin, failure.clone())).collect();
                shadow.compare(&work.stamped.source, records, live, &none);
            }
            Err(_) => {}
        }
    }

    fn go_back(&self, from: &Arc<Generation>, to: &Arc<Generation>, cause: Option<String>) -> bool {
        let Some(cause) = cause else { return false };
        tracing::warn!(pipeline = %self.line.name, generation = from.number, "not good enough: {cause}");
        self.line.live.put_back(from, to);
        true
    }
}

/// The same part, to be run as if it never had been, and seen by nobody.
fn aside(part: &Part) -> Part {
    Part { run: Run { is_aside: true, ..Run::default() }, ..part.clone() }
}
