//! What a run comes to: figures, and the verdict.
//!
//! In: what the run counted and what the comparison found. Out: text for people, JSON for machines, true where all is
//! well. Judges by one rule: nothing lost, wrong or unexplained, every kind of fault has met somebody, and there was what
//! the checks of old and of clamped records need.

use std::collections::BTreeMap;
use std::fmt;

use serde::Serialize;

use super::expect::{Findings, Pile};
use super::faults::Fault;

/// A run.
#[derive(Debug, Serialize)]
pub(super) struct Report {
    /// What it was made of.
    pub(super) seed: u64,
    /// The command that runs the same again.
    pub(super) again: String,
    /// How long faults came, seconds.
    pub(super) seconds: u64,
    /// How often each kind met somebody.
    pub(super) faults: BTreeMap<Fault, u64>,
    /// Records sent.
    pub(super) records: u64,
    /// Records whose fate the brokers did not tell.
    pub(super) untold: u64,
    /// How often the key of a group that was updated least was updated.
    pub(super) updates_min: u64,
    /// How often daemons were started.
    pub(super) starts: u64,
    /// The comparison.
    #[serde(flatten)]
    pub(super) findings: Findings,
}

impl Report {
    /// The kinds that never occurred.
    pub(super) fn missing(&self) -> Vec<&'static str> {
        let faults = self.faults.iter().map(|(fault, count)| (fault.name(), *count));
        let Findings { cells_old, clamped, .. } = self.findings;
        let others = [("a cell of a record that is hours old", cells_old), ("a record that is clamped", clamped)];
        faults.chain(others).filter(|(_, count)| *count == 0).map(|(name, _)| name).collect()
    }

    /// Whether all is as it should be.
    pub(super) fn is_well(&self) -> bool {
        let Findings { lost, wrong, unexplained, .. } = &self.findings;
        [lost, wrong, unexplained].iter().all(|pile| pile.count == 0) && self.missing().is_empty() && self.records > 0
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "\nFaults in {} s, seed {}", self.seconds, self.seed)?;
        for (fault, count) in &self.faults {
            writeln!(f, "  {count:>7}  {}", fault.name())?;
        }
        let findings = &self.findings;
        writeln!(f, "\nRecords and what became of them")?;
        let rows: [(u64, &str); 15] = [
            (self.records, "records sent"),
            (self.untold, "of them without an answer from the brokers"),
            (self.updates_min, "updates at least of each key of a group"),
            (self.starts, "starts of daemons"),
            (findings.cells, "cells compared: value, write time, time to live"),
            (findings.cells_old, "of them of records that are hours old"),
            (findings.clamped, "records ahead of the wall, each with one decision in the journal"),
            (findings.clamped_again, "of these decisions taken over by a later task"),
            (findings.alerts, "records in the Kafka output"),
            (findings.repeats_outputs, "repeats among them, by pelton-id"),
            (findings.letters.values().sum(), "dead letters, each with its cause"),
            (findings.repeats_letters, "repeats among them, by pelton-id"),
            (findings.lost.count, "LOST"),
            (findings.wrong.count, "WRONG"),
            (findings.unexplained.count, "UNEXPLAINED"),
        ];
        for (count, what) in rows {
            writeln!(f, "  {count:>7}  {what}")?;
        }
        if findings.ttl_late_s > 2 {
            writeln!(f, "  A daemon that stood still in mid write let a cell live {} s longer.", findings.ttl_late_s)?;
        }
        for (code, count) in &findings.letters {
            writeln!(f, "  {count:>7}  dead letters for {code}")?;
        }
        for (name, pile) in
            [("lost", &findings.lost), ("wrong", &findings.wrong), ("unexplained", &findings.unexplained)]
        {
            examples(f, name, pile)?;
        }
        for fault in self.missing() {
            writeln!(f, "\nNever occurred: {fault}")?;
        }
        let verdict = if self.is_well() { "All is well." } else { "NOT well." };
        writeln!(f, "\n{verdict} Again: {}", self.again)
    }
}

fn examples(f: &mut fmt::Formatter<'_>, name: &str, pile: &Pile) -> fmt::Result {
    if pile.count > 0 {
        writeln!(f, "\n{} {name}, of them:", pile.count)?;
        for example in &pile.examples {
            writeln!(f, "  {example}")?;
        }
    }
    Ok(())
}
