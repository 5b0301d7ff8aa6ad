//! A redrive: letters chosen, taken through the line again, and marked.
//!
//! In: a place, a line of its own, and what an operator asked for. Out: rows and records as of any other batch, letters of
//! what failed again, and marks. Each round is marked before it begins and when all of it is durable: whoever is killed
//! between the two leaves letters that are still open, and the next redrive writes the same cells at the same times. Of
//! two redrives that begin with one record at once, the one whose mark stands later leaves it to the other.
//! Never redrives by itself what failed again, and never what was redriven already.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicU64, Ordering};

use serde::Serialize;

use super::cases::{Case, CaseKey, Cases, Filter, State, slices};
use super::claims::Claims;
use super::lines::{Edit, Edited, SetField, set};
use super::plan::{Planned, Round, line_of, plan, rounds};
use super::{Mark, Place};
use crate::clock::Clock;
use crate::pipeline::compute::Panicked;
use crate::pipeline::redrive::Redriver;
use crate::pipeline::{BatchLimits, SourceError};

/// Records between two marks, at most.
const ROUND_RECORDS: usize = 256;

/// What an operator asks for.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Request {
    /// Which letters.
    pub filter: Filter,
    /// Edited lines: these letters, and no others.
    pub edited: Vec<Edited>,
    /// Fields to set in every value.
    pub set: Vec<SetField>,
    /// Also what was redriven before.
    pub again: bool,
}

/// What of a place is meant.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Choice {
    /// Which records, each with its size in bytes.
    pub chosen: Vec<(CaseKey, usize)>,
    /// Left out: they were redriven, and failed again.
    pub failed_again: u64,
    /// Left out: they were redriven.
    pub redriven: u64,
}

/// A record of which a redrive came to nothing.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct NotRedriven {
    /// Its letter's id.
    pub id: String,
    /// Why: the code of its new letter; none where it never went on its way.
    pub code: Option<String>,
    /// The same, for people.
    pub message: String,
}

/// What came of a redrive.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Report {
    /// Records that went through: every output is durable, or a plugin let them go.
    pub redriven: u64,
    /// Records that failed again, and are dead letters once more.
    pub failed: Vec<NotRedriven>,
    /// Records that could not go on their way.
    pub refused: Vec<NotRedriven>,
}

/// Why a redrive ended before its end. It can be begun again: what was redriven is marked, and the rest is still open.
#[derive(Debug, thiserror::Error)]
pub enum RedriveError {
    /// The letters cannot be read, or nothing can be marked.
    #[error(transparent)]
    Place(#[from] SourceError),
    /// A fault of Pelton's own.
    #[error(transparent)]
    Internal(#[from] Panicked),
}

impl Request {
    /// Whether letters were named one by one.
    fn is_explicit(&self) -> bool {
        !self.filter.ids.is_empty() || !self.edited.is_empty()
    }

    fn line_of(&self, key: &CaseKey) -> Option<&Edited> {
        self.edited.iter().find(|edited| edited.is_of(key))
    }

    fn takes(&self, key: &CaseKey, case: &Case) -> bool {
        self.filter.takes(case) && (self.edited.is_empty() || self.line_of(key).is_some())
    }

    /// Whether a case that is meant is redriven.
    fn goes(&self, case: &Case) -> bool {
        match case.state() {
            State::Open => true,
            State::FailedAgain => self.again || self.is_explicit(),
            State::Redriven => self.again && self.is_explicit(),
        }
    }

    /// What is changed of a record.
    fn edit(&self, key: &CaseKey, case: &Case) -> Result<Edit, String> {
        let mut edit = self.line_of(key).map(|line| line.edit(&case.letter)).transpose()?.unwrap_or_default();
        if !self.set.is_empty() {
            let value = edit.value.as_ref().unwrap_or(&case.letter.value);
            edit.value = Some(Some(set(value.as_deref(), &self.set)?));
        }
        Ok(edit)
    }
}

/// Chooses what a request means.
///
/// # Errors
/// Where it names letters that are not there.
pub fn choose(cases: &Cases, request: &Request) -> Result<Choice, String> {
    let named = |id: &String| cases.cases.values().any(|case| case.is_named(id));
    if let Some(unknown) = request.filter.ids.iter().find(|id| !named(id)) {
        return Err(format!("there is no dead letter {unknown}"));
    }
    if let Some(line) = request.edited.iter().find(|line| !cases.cases.keys().any(|key| line.is_of(key))) {
        return Err(format!("line {}: there is no dead letter {} with that write time", line.number, line.id));
    }
    let mut choice = Choice::default();
    for (key, case) in cases.cases.iter().filter(|(key, case)| request.takes(key, case)) {
        match case.state() {
            _ if request.goes(case) => choice.chosen.push((key.clone(), case.bytes)),
            State::FailedAgain => choice.failed_again += 1,
            State::Redriven | State::Open => choice.redriven += 1,
        }
    }
    Ok(choice)
}

/// A redrive of one pipeline's letters.
pub struct Redriving<'r> {
    /// Where they lie.
    pub place: &'r dyn Place,
    /// The pipeline.
    pub pipeline: &'r str,
    /// What is asked for.
    pub request: &'r Request,
    /// The line.
    pub redriver: &'r Redriver,
    /// The wall.
    pub clock: &'r dyn Clock,
    /// How many are done.
    pub done: &'r AtomicU64,
}

impl Redriving<'_> {
    /// Says what would be redriven, and with which write times, or why not.
    ///
    /// # Errors
    /// Where the place cannot be read.
    pub async fn rehearse(&self, choice: &Choice) -> Result<(Vec<Planned>, Vec<NotRedriven>), SourceError> {
        let (mut all, mut refused) = (Vec::new(), Vec::new());
        for slice in slices(&choice.chosen) {
            let (planned, not, _) = self.plan(&slice).await?;
            // Only what is told of them is of interest.
            let told = |mut planned: Planned| {
                (planned.letter.key, planned.letter.value, planned.letter.headers) = (None, None, Vec::new());
                planned
            };
            all.extend(planned.into_iter().map(told));
            refused.extend(not);
        }
        Ok((all, refused))
    }

    /// Redrives what was chosen.
    ///
    /// # Errors
    /// Where it cannot go on; it can be begun again.
    pub async fn run(&self, choice: &Choice) -> Result<Report, RedriveError> {
        let mut report = Report::default();
        for slice in slices(&choice.chosen) {
            let (planned, refused, mut claims) = self.plan(&slice).await?;
            self.done.fetch_add(refused.len() as u64, Ordering::Relaxed);
            report.refused.extend(refused);
            let limits = self.redriver.line().batch;
            let limits = BatchLimits { records: limits.records.min(ROUND_RECORDS), ..limits };
            for round in rounds(planned, limits) {
                let count = round.records.len() as u64;
                self.round(round, &mut claims, &mut report).await?;
                self.done.fetch_add(count, Ordering::Relaxed);
            }
        }
        Ok(report)
    }

    /// Reads some letters whole, and plans them as they stand now.
    async fn plan(&self, keys: &BTreeSet<CaseKey>) -> Result<(Vec<Planned>, Vec<NotRedriven>, Claims), SourceError> {
        let cases = Cases::read(self.place, self.pipeline, |key| keys.contains(key)).await?;
        let live = self.redriver.line().live.get();
        let line = line_of(&live.digests, &live.configuration);
        let (mut planned, mut refused) = (Vec::new(), Vec::new());
        for key in keys {
            // Another redrive may have been faster; retention as well.
            let Some(case) = cases.cases.get(key).filter(|case| self.request.goes(case)) else { continue };
            match self.request.edit(key, case).and_then(|edit| plan(case, edit, &line)) {
                Ok(one) => planned.push(one),
                Err(message) => refused.push(NotRedriven { id: key.0.clone(), code: None, message }),
            }
        }
        let claims = Claims::after(cases.reached, &planned);
        Ok((planned, refused, claims))
    }

    async fn round(&self, round: Round, claims: &mut Claims, report: &mut Report) -> Result<(), RedriveError> {
        let now_ms = self.clock.now_ms();
        let begin: Vec<Mark> =
            round.records.iter().filter(|one| !one.has_begun).map(|one| one.mark(false, now_ms)).collect();
        if !begin.is_empty() {
            self.place.mark(&begin).await?;
        }
        let (first, later) = claims.settle(self.place, self.pipeline, round.records).await?;
        report.refused.extend(later.into_iter().map(|one| {
            NotRedriven {
                id: one.letter.id,
                code: None,
                message:
                    "another redrive has begun with it, with other content, and goes first: look what comes of it \
                      (`pelton dlq show`), and redrive it again where this content is still wanted"
                        .to_owned(),
            }
        }));
        let round = Round { records: first, ..round };
        if round.records.is_empty() {
            return Ok(());
        }
        let records: Vec<_> = round.records.iter().map(|one| (&one.letter, one.write_time)).collect();
        let mut failed = self.redriver.redrive(&round.source, &records).await?;
        let now_ms = self.clock.now_ms();
        let well = round.records.iter().filter(|one| !failed.contains_key(&one.letter.id));
        let done: Vec<Mark> = well.map(|one| one.mark(true, now_ms)).collect();
        if !done.is_empty() {
            self.place.mark(&done).await?;
        }
        report.redriven += done.len() as u64;
        for one in &round.records {
            if let Some(why) = failed.remove(&one.letter.id) {
                let message = format!("{}: {}", why.stage, why.message);
                report.failed.push(NotRedriven { id: one.letter.id.clone(), code: Some(why.code), message });
            }
        }
        Ok(())
    }
}

/// What failed, by code.
#[must_use]
pub fn by_code(failed: &[NotRedriven]) -> BTreeMap<&str, u64> {
    let mut codes = BTreeMap::new();
    for one in failed {
        *codes.entry(one.code.as_deref().unwrap_or("not redriven")).or_default() += 1;
    }
    codes
}
