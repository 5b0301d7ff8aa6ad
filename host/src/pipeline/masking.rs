//! Keeps secrets out of what plugins say about themselves and about records.
//!
//! In: what a run of the line gave. Out: the same, with `***` in every place where a value of a substitution stood: log
//! lines, failures, backtraces, causes. It happens once, where the run leaves the compute thread, so that no log, dead
//! letter, status or metric behind it can forget it. Never touches rows: what a plugin writes to an output is its result.

use super::chain::{ChainOutput, Halt, HaltReason, Lost, LostLine, RecordFailure};
use super::generation::Processed;
use super::{Effects, LogLine, MetricUpdate};
use crate::config::Mask;

/// Masks what a run said.
pub(super) fn mask_processed(mask: &Mask, processed: &mut Processed) {
    if mask.is_empty() {
        return;
    }
    processed.failures.values_mut().for_each(|failure| mask_failure(mask, failure));
    let ChainOutput { failures, skipped, effects, lost, stages: _, usage: _ } = &mut processed.chain;
    failures.values_mut().for_each(|failure| mask_failure(mask, failure));
    for ((step, code), records) in std::mem::take(skipped) {
        *skipped.entry((step, mask.apply(&code))).or_default() += records;
    }
    effects.iter_mut().for_each(|(_, effects)| mask_effects(mask, effects));
    mask_lost(mask, lost);
}

/// Masks what a run that came to nothing said.
pub(super) fn mask_halt(mask: &Mask, halt: &mut Halt) {
    if mask.is_empty() {
        return;
    }
    let Halt { reason, cause, lost } = halt;
    *cause = mask.apply(cause);
    mask_lost(mask, lost);
    if let HaltReason::Again { failure: Some(failure), .. } = reason {
        mask_failure(mask, failure);
    }
}

/// Masks why a record failed, be it a plugin or a sink that said so.
pub(super) fn mask_failure(mask: &Mask, failure: &mut RecordFailure) {
    let RecordFailure { code, message, backtrace, lines, stage: _, attempts: _ } = failure;
    *code = mask.apply(code);
    *message = mask.apply(message);
    if let Some(backtrace) = backtrace {
        *backtrace = mask.apply(backtrace);
    }
    lines.iter_mut().for_each(|LostLine { line, .. }| mask_line(mask, line));
}

fn mask_lost(mask: &Mask, lost: &mut Lost) {
    lost.lines.iter_mut().for_each(|LostLine { line, .. }| mask_line(mask, line));
}

fn mask_line(mask: &Mask, line: &mut LogLine) {
    line.message = mask.apply(&line.message);
}

/// A metric has no name but a whole one: what would have to be masked is refused, like any other bad name.
fn mask_effects(mask: &Mask, effects: &mut Effects) {
    effects.logs.iter_mut().for_each(|line| mask_line(mask, line));
    let before = effects.metrics.len();
    effects.metrics.retain(|update| {
        let (MetricUpdate::Count(name, _) | MetricUpdate::Gauge(name, _) | MetricUpdate::Observe(name, _)) = update;
        mask.apply(name) == *name
    });
    effects.metrics_dropped += (before - effects.metrics.len()) as u64;
}
