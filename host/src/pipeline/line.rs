//! What all tasks of a pipeline share: its live generation, its sinks, its gate, its breaker, and what it counts.
//!
//! In: what the plugins of a run said. Out: the same in logs and metrics. Everything here but the live generation stays
//! as it is for as long as the pipeline runs.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

use super::breaker::{Breaker, Tripped};
use super::chain::{Chain, ChainOutput, Lost, LostLine};
use super::checkpoint::EpochPlan;
use super::compute::Compute;
use super::excess::Excess;
use super::gate::Gate;
use super::generation::Live;
use super::journal::Journal;
use super::meters::Meters;
use super::shadow::Shadowing;
use super::tap::Tap;
use super::write_clock::{h_of, write_time};
use super::{BatchLimits, DeadLetters, Sink};
use crate::clock::Clock;
use crate::config::{ErrorSettings, Mask};
use crate::record::{Batch, WriteTime};

/// A pipeline, ready to run.
pub struct Line {
    /// Its name.
    pub name: String,
    /// The topics that it reads.
    pub topics: Vec<String>,
    /// Its steps, as they are now.
    pub live: Live,
    /// Where its records can be looked at.
    pub tap: Tap,
    /// What runs beside them for a report.
    pub shadowing: Shadowing,
    /// Where rows go; `default` among them, unless nothing ever goes there.
    pub outputs: Vec<LineOutput>,
    /// Where failed records go.
    pub dead_letters: Arc<dyn DeadLetters>,
    /// Where guests run.
    pub compute: Compute,
    /// When a batch closes.
    pub batch: BatchLimits,
    /// What to do with failures.
    pub errors: ErrorSettings,
    /// The wall.
    pub clock: Arc<dyn Clock>,
    /// Whether tasks may read on.
    pub gate: Gate,
    /// Counts failures, where the pipeline has a breaker.
    pub breaker: Option<Mutex<Breaker>>,
    /// What must not show in anything that is said about its records.
    pub mask: Mask,
    /// What it counts.
    pub meters: Meters,
    /// No write time lies at or below this, microseconds.
    pub timestamp_floor: i64,
    /// Room for rows that are larger than their records.
    pub excess: Excess,
    /// Keeps what its write times rest on; none where nothing that it writes has one.
    pub journal: Option<Arc<dyn Journal>>,
}

/// One output of a line.
pub struct LineOutput {
    /// Its name.
    pub name: String,
    /// The sink.
    pub sink: Arc<dyn Sink>,
}

/// A batch with its write times, as the source gave it.
pub struct Stamped {
    /// The batch.
    pub source: Arc<Batch>,
    /// By row: the record's write time.
    pub write_times: Vec<WriteTime>,
    /// `h` of the last record below the batch.
    pub below: i64,
    /// The generation of the assignment under which it was read.
    pub assignment: u64,
    /// When.
    pub read_at: Instant,
}

impl Stamped {
    /// `h` of the last record below a row.
    pub(super) fn h_below(&self, row: usize) -> i64 {
        row.checked_sub(1).map_or(self.below, |before| h_of(self.write_times[before]))
    }

    /// The same batch, its rows from one on under other epochs.
    pub(super) fn under(&self, epochs: EpochPlan, row: usize) -> Self {
        let offsets = self.source.offsets.iter().enumerate();
        let write_times = offsets
            .zip(&self.write_times)
            .map(|((at, offset), old)| if at < row { *old } else { write_time(h_of(*old), epochs.of(*offset)) });
        Self { source: Arc::clone(&self.source), write_times: write_times.collect(), ..*self }
    }
}

impl Line {
    /// Notes a part of a batch with the breaker; says so if it trips.
    pub fn observe(&self, records: usize, failures: usize) -> Option<Tripped> {
        let now = Duration::from_millis(self.clock.now_ms().max(0).cast_unsigned());
        let mut breaker = self.breaker.as_ref()?.lock().unwrap_or_else(PoisonError::into_inner);
        breaker.observe(now, records as u64, failures as u64)
    }

    /// The operator resumed the pipeline after the breaker had tripped: what comes next is let through.
    pub fn reset_breaker(&self) {
        if let Some(breaker) = &self.breaker {
            breaker.lock().unwrap_or_else(PoisonError::into_inner).reset();
        }
    }

    /// A run of the chain counts: the plugins' own words are released. So many records were let go.
    pub fn account(&self, chain: &Chain, output: &ChainOutput, filtered: u64) {
        self.trapped(chain, &output.lost);
        self.log_lost(chain, &output.lost.lines);
        self.meters.chain(output, filtered, |step| chain.step_name(step));
    }

    /// Counts traps and the CPU time of calls of which nothing came, also of runs that came to nothing.
    pub fn trapped(&self, chain: &Chain, lost: &Lost) {
        for (step, kind) in &lost.traps {
            self.meters.trapped(chain.step_name(*step), &kind.to_string());
        }
        for (step, cpu_ns) in &lost.cpu_ns {
            self.meters.plugin_cpu(chain.step_name(*step), *cpu_ns);
        }
    }

    /// Hands what plugins logged in attempts that failed to the log.
    pub fn log_lost(&self, chain: &Chain, lines: &[LostLine]) {
        for lost in lines {
            self.meters.log(chain.step_name(lost.step), &lost.line, Some(lost.attempt));
        }
    }
}
