//! Runs that came to nothing: what the author reads of them.
//!
//! In: for each run that failed, which records it was at and the plugin's error. Out: one [`Problem`] for each kind of
//! failure, however many runs met it, told by the run that pins it down best.

use std::fmt::Write as _;

use super::{Problem, Way};
use crate::pipeline::{TransformError, TrapKind};

/// A run that came to nothing.
#[derive(Debug)]
pub(super) struct Broken {
    /// First and last record of the batch that failed.
    pub(super) records: (usize, usize),
    pub(super) error: TransformError,
}

/// Each kind of failure once, with all the runs that met it.
pub(super) fn told_once(broken: Vec<(Way, Broken)>) -> Vec<Problem> {
    let mut kinds: Vec<(Vec<Way>, Broken)> = Vec::new();
    for (way, broken) in broken {
        match kinds.iter_mut().find(|(_, known)| is_the_same(&known.error, &broken.error)) {
            Some((ways, known)) => {
                ways.push(way);
                if broken.width() < known.width() {
                    *known = broken;
                }
            }
            None => kinds.push((vec![way], broken)),
        }
    }
    kinds.into_iter().map(|(ways, broken)| Problem::Failed { ways, message: broken.text() }).collect()
}

/// Figures in the message of a limit differ from run to run.
fn is_the_same(one: &TransformError, other: &TransformError) -> bool {
    use TransformError::{Busy, Retry, Trap};
    match (one, other) {
        (Trap { kind, message, .. }, Trap { kind: other_kind, message: other_message, .. }) => {
            let is_limit = matches!(
                kind,
                TrapKind::CpuLimit | TrapKind::WaitLimit | TrapKind::MemoryLimit | TrapKind::OutputLimit
            );
            kind == other_kind && (is_limit || message == other_message)
        }
        (Retry { message, .. }, Retry { message: other_message, .. }) => message == other_message,
        (Busy { .. }, Busy { .. }) => true,
        _ => false,
    }
}

impl Broken {
    fn width(&self) -> usize {
        self.records.1 - self.records.0
    }

    /// Which records, the error, the guest's backtrace and last lines.
    fn text(&self) -> String {
        let (first, last) = self.records;
        let mut text = if first == last {
            format!("record {first}: {}", self.error)
        } else {
            format!("records {first} to {last}: {}", self.error)
        };
        if let TransformError::Trap { backtrace, .. } = &self.error {
            for line in backtrace.lines() {
                let _ = write!(text, "\n  {line}");
            }
        }
        let (TransformError::Trap { logs, .. }
        | TransformError::Retry { logs, .. }
        | TransformError::Busy { logs, .. }) = &self.error;
        for line in logs {
            let _ = write!(text, "\n  it logged: {}", line.message);
        }
        if self.is_a_silent_panic() {
            text.push_str(
                "\n  a panic, most likely: it says its text and line where the plugin is granted `log` and calls \
                 `log::report_panics()` in `new`",
            );
        }
        text
    }

    fn is_a_silent_panic(&self) -> bool {
        let TransformError::Trap { kind: TrapKind::Trap, message, logs, .. } = &self.error else { return false };
        logs.is_empty() && message.contains("unreachable")
    }
}

/// Runs, as an author reads of them: `batch sizes 1, 7, all, on fresh and on reused instances`.
#[must_use]
pub fn ways_text(ways: &[Way]) -> String {
    let sizes = |fresh: bool| {
        let mut sizes: Vec<_> = ways.iter().filter(|way| way.fresh == fresh).map(|way| way.batch_records).collect();
        sizes.sort_by_key(|size| size.map_or(usize::MAX, Into::into));
        let named: Vec<String> =
            sizes.iter().map(|size| size.map_or_else(|| "all".to_owned(), |size| size.to_string())).collect();
        match named.as_slice() {
            [] => None,
            [one] => Some(format!("batch size {one}")),
            _ => Some(format!("batch sizes {}", named.join(", "))),
        }
    };
    match (sizes(true), sizes(false)) {
        (Some(fresh), Some(reused)) if fresh == reused => format!("{fresh}, on fresh and on reused instances"),
        (fresh, reused) => {
            let fresh = fresh.map(|sizes| format!("{sizes}, on fresh instances"));
            let reused = reused.map(|sizes| format!("{sizes}, on reused instances"));
            fresh.into_iter().chain(reused).collect::<Vec<_>>().join("; ")
        }
    }
}
