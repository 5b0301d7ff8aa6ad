//! The middle loop of a task: batches in, writes out, in order.
//!
//! In: batches as they were read. Out: for each part of a batch one [`Writing`], in the order of records. Every run of a
//! part is a job of its own on the compute threads, so that other tasks get their turn, what fails is seen at once by
//! the breaker, and a task that is stopped leaves the rest of a batch that was cut for whoever goes on.

use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::Duration;

use tokio::sync::mpsc;
use tokio::time::Instant;

use super::chain::{Halt, HaltReason, RecordFailure};
use super::compute::Panicked;
use super::excess::{Excess, Room};
use super::gate::PausedBy;
use super::generation::{Generation, Processed};
use super::journaling::Journaling;
use super::line::{Line, Stamped};
use super::parts::{Part, Parts};
use super::shared::{Flow, Shared, WATCHDOG_TOLD_EVERY};
use super::stamping::{Inexact, NewWall, Stamper};
use super::task::{TaskError, Write};
use super::write_clock::{Decision, write_time};
use super::writing::Writing;
use crate::config::Poison;
use crate::record::{Batch, Offset};

/// A batch, and who handles the part of it that is at hand.
#[derive(Clone, Copy)]
pub(super) struct Work<'w> {
    pub(super) stamped: &'w Arc<Stamped>,
    pub(super) generation: &'w Arc<Generation>,
}

/// The middle loop.
pub(super) struct Transforming {
    pub(super) line: Arc<Line>,
    pub(super) shared: Arc<Shared>,
    pub(super) to_await: mpsc::Sender<Write>,
    /// None where the pipeline keeps no journal, or nothing new is decided. Nobody else asks for it.
    pub(super) journaling: Option<tokio::sync::Mutex<Journaling>>,
    /// When it went over to another generation, of which nothing is on its way yet.
    pub(super) went_over: std::sync::Mutex<Option<Instant>>,
    /// The number of the generation of which it was told last that it has to wait.
    pub(super) waits_behind: AtomicU64,
}

impl Transforming {
    pub(super) async fn run(self, mut batches: mpsc::Receiver<Batch>, mut stamper: Stamper) -> Result<(), TaskError> {
        while let Some(batch) = batches.recv().await {
            let (stamped, walls) = self.stamp(batch, &mut stamper)?;
            if let (Some(journaling), Some(first)) = (&self.journaling, stamped.source.offsets.first()) {
                journaling.lock().await.stamped((Offset(*first), stamped.below), stamped.source.len(), &walls);
            }
            let before = self.shared.hand().epochs;
            if self.batch(Arc::new(stamped)).await? == Flow::Stop {
                break;
            }
            let after = self.shared.hand().epochs;
            if after != before {
                stamper.replan(after);
            }
        }
        Ok(())
    }

    /// Gives each record its write time, in offset order, whatever becomes of it; answers what only this wall could
    /// decide.
    fn stamp(&self, batch: Batch, stamper: &mut Stamper) -> Result<(Stamped, Vec<NewWall>), Inexact> {
        let below = stamper.previous();
        self.line.meters.batch(batch.len(), batch.bytes());
        let mut write_times = Vec::with_capacity(batch.len());
        let mut clamped = None;
        let mut tracker = self.shared.tracker();
        let walls = stamper.batch(&batch, self.line.clock.now_ms(), |offset, stamp| {
            tracker.read(Offset(offset), stamp.h);
            write_times.push(write_time(stamp.h, stamp.epoch));
            if let Some(decision) = stamp.decision {
                let reason = match decision {
                    Decision::Clamped => "future",
                    Decision::NoTimestamp | Decision::FirstWithoutTimestamp => "missing",
                };
                self.line.meters.clamped(reason);
                clamped.get_or_insert((offset, reason));
            }
        })?;
        drop(tracker);
        self.shared.note_tracked(batch.len());
        if let Some((offset, reason)) = clamped {
            tracing::warn!(
                pipeline = %self.line.name, partition = %self.shared.partition, offset, reason,
                "a write time does not follow its record's own time (the first of its batch)"
            );
        }
        let (source, assignment) = (Arc::new(batch), self.shared.assignment);
        Ok((Stamped { source, write_times, below, assignment, read_at: Instant::now() }, walls))
    }

    /// Takes a batch to the sinks' doors, in as many parts as its failures make necessary.
    pub(super) async fn batch(&self, mut stamped: Arc<Stamped>) -> Result<Flow, Panicked> {
        let mut parts = Parts::of(stamped.source.len());
        // Taken for the rows of a part that is run again, as there was none when they were made first.
        let mut room = None;
        while let Some(mut part) = parts.pop() {
            let before = self.shared.generation();
            if self.go_over(&mut stamped, part.rows.start).await == Flow::Stop {
                return Ok(Flow::Stop);
            }
            let generation = self.shared.generation();
            if !Arc::ptr_eq(&generation, &before) {
                // What the one before has tried, and its steps have said, is not the new one's.
                self.line.log_lost(&before.chain, &part.lines);
                parts.anew(&part);
                part = parts.pop().expect("it was put there");
            }
            let work = Work { stamped: &stamped, generation: &generation };
            let flow = match self.process(work, &part).await? {
                Ok(processed) => {
                    self.shared.goes_on();
                    self.shadow(work, &part, &processed).await;
                    let needed = Excess::needed(read_bytes(&stamped, &part), &processed.sink_batches);
                    match self.line.excess.try_take(needed, room.take()) {
                        Some(room) => self.emit(work, part, processed, room, &mut parts).await,
                        None => {
                            drop(processed);
                            parts.again(part);
                            room = self.room(needed).await;
                            if room.is_some() { Flow::GoOn } else { Flow::Stop }
                        }
                    }
                }
                Err(halt) => self.halted(work, part, halt, &mut parts).await,
            };
            let is_left = !parts.is_empty() && self.shared.stop.is_cancelled();
            if flow == Flow::Stop || is_left {
                return Ok(Flow::Stop);
            }
        }
        Ok(Flow::GoOn)
    }

    pub(super) async fn process(&self, work: Work<'_>, part: &Part) -> Result<Result<Processed, Halt>, Panicked> {
        let (stamped, rows, run) = (Arc::clone(work.stamped), part.rows.clone(), part.run);
        let generation = Arc::clone(work.generation);
        let (begin, mut begun) = tokio::sync::oneshot::channel();
        let mut running = std::pin::pin!(self.line.compute.run(async move {
            let _entered = generation.chain.enter().await;
            // Nobody may listen any more: a task that was stopped.
            let _ = begin.send(());
            let is_whole = rows.len() == stamped.source.len();
            let batch = if is_whole { Arc::clone(&stamped.source) } else { Arc::new(stamped.source.select(rows)) };
            generation.process(batch, run, &stamped).await
        }));
        // Other tasks stand before this one in the queue, and guests have limits of their own. What runs beyond all of
        // them hangs: of that the watchdog is told no longer.
        let mut until = None;
        loop {
            tokio::select! {
                biased;
                processed = &mut running => return processed,
                _ = &mut begun, if until.is_none() => {
                    let limit = work.generation.chain.wall_limit();
                    until = Some(Instant::now() + limit);
                    self.shared.note_moved();
                }
                () = tokio::time::sleep(WATCHDOG_TOLD_EVERY) => if until.is_none_or(|until| Instant::now() < until) {
                    self.shared.note_moved();
                },
            }
        }
    }

    // ------------------------------------------------------------------------------------- what came to nothing

    /// A run came to nothing: the part is cut in two, or held, or its first record given up.
    async fn halted(&self, work: Work<'_>, mut part: Part, halt: Halt, parts: &mut Parts) -> Flow {
        let Work { stamped, generation } = work;
        self.shared.note_moved();
        self.line.trapped(&generation.chain, &halt.lost);
        match halt.reason {
            HaltReason::Split { at } => {
                let offset = stamped.source.offsets[part.rows.start];
                tracing::warn!(
                    pipeline = %self.line.name, partition = %self.shared.partition, offset,
                    "{} records failed together, and are tried in two parts: {}", part.rows.len(), halt.cause
                );
                part.failed(halt.lost);
                self.line.log_lost(&generation.chain, &part.lines);
                parts.halve(&part, row_of(stamped, at));
                Flow::GoOn
            }
            HaltReason::Again { origin, .. } if row_of(stamped, origin) > part.rows.start => {
                self.line.log_lost(&generation.chain, &part.lines);
                self.line.log_lost(&generation.chain, &halt.lost.lines);
                parts.before(&part, row_of(stamped, origin));
                Flow::GoOn
            }
            HaltReason::Again { delay, failure, .. } => {
                self.line.meters.retried(failure.as_ref().map_or("transform", |failure| &failure.stage));
                part.failed(halt.lost);
                // What is never the record's fault does not count as asked by it.
                part.asked += u32::from(failure.is_some());
                match failure {
                    Some(failure) if part.asked >= self.line.errors.retry_attempts => {
                        self.give_up(work, part, failure, parts).await
                    }
                    _ => self.try_again(stamped, part, delay, &halt.cause, parts).await,
                }
            }
        }
    }

    /// The attempts of a part's first record are used up.
    async fn give_up(&self, work: Work<'_>, part: Part, mut failure: RecordFailure, parts: &mut Parts) -> Flow {
        self.shared.goes_on();
        let part = parts.give_up_first(part);
        failure.attempts = part.asked;
        let mut processed = Processed::empty();
        processed.failures.insert(work.stamped.source.origins[part.rows.start], failure);
        self.emit(work, part, processed, None, parts).await
    }

    /// Holds the partition until a part is to be run again.
    async fn try_again(&self, stamped: &Stamped, part: Part, delay: Duration, cause: &str, parts: &mut Parts) -> Flow {
        let offset = stamped.source.offsets[part.rows.start];
        tracing::warn!(
            pipeline = %self.line.name, partition = %self.shared.partition, offset,
            "held, and tried again in {} ms: {cause}", delay.as_millis()
        );
        parts.again(part);
        self.shared.wait(Offset(offset), delay, cause).await
    }

    // --------------------------------------------------------------------------------------------- what went well

    /// Hands a part to the sinks and the dead letters, unless its failures pause the pipeline: then nothing of it is
    /// written until the pipeline is resumed. What the breaker held goes through then, or nobody could ever get past
    /// it; a record that may not be passed over is handled anew.
    async fn emit(&self, work: Work<'_>, part: Part, mut processed: Processed, room: Room, parts: &mut Parts) -> Flow {
        let Work { stamped, generation } = work;
        if self.is_breach(work, &part, &processed).await {
            parts.anew(&part);
            return Flow::GoOn;
        }
        if !self.note_handled(work, &part) {
            parts.anew(&part);
            return Flow::GoOn;
        }
        if let Some(hold) = self.shared.hold(&stamped.source, part.rows.len(), &processed.failures) {
            if self.shared.resumed(&hold).await == Flow::Stop {
                return Flow::Stop;
            }
            // A plugin that was replaced meanwhile, so that the pipeline can be resumed, is to show what it can do.
            if hold.by == PausedBy::Poison || !Arc::ptr_eq(generation, &self.line.live.get()) {
                parts.anew(&part);
                return Flow::GoOn;
            }
        }
        keep_lines(&part, &mut processed);
        self.account(generation, &part, &processed);
        if self.line.errors.poison == Poison::Skip {
            for (_, failure) in std::mem::take(&mut processed.failures) {
                self.line.meters.skipped(&failure.stage, &failure.code, 1);
                self.line.log_lost(&generation.chain, &failure.lines);
            }
        }
        if let Some(journaling) = &self.journaling {
            let is_written = !processed.sink_batches.is_empty() || !processed.failures.is_empty();
            if journaling.lock().await.before_writes(&self.shared, is_written).await == Flow::Stop {
                return Flow::Stop;
            }
        }
        self.note_gone_over(generation);
        let writing = Writing::begin(&self.shared, work, processed.sink_batches, processed.failures).await;
        self.decide(stamped, &part, &writing);
        self.send(writing, room, stamped, part.rows.end == stamped.source.len()).await
    }

    /// Waits for room for rows that are larger than their records; none where the task is stopped. Others hold what is
    /// missing: a wait that is meant.
    async fn room(&self, needed: u32) -> Room {
        let mut room = std::pin::pin!(self.line.excess.take(needed));
        loop {
            tokio::select! {
                biased;
                room = &mut room => return room,
                () = self.shared.stop.cancelled() => return None,
                () = tokio::time::sleep(WATCHDOG_TOLD_EVERY) => self.shared.note_moved(),
            }
        }
    }

    /// Counts a part.
    fn account(&self, generation: &Generation, part: &Part, processed: &Processed) {
        let mut with_output = vec![false; part.rows.end];
        let written = processed.sink_batches.iter().flat_map(|(_, batch)| batch.rows.iter().map(|row| row.origin));
        for origin in written.chain(processed.failures.keys().copied()) {
            if let Some(has) = with_output.get_mut(origin as usize) {
                *has = true;
            }
        }
        let without = with_output.iter().skip(part.rows.start).filter(|has| !**has).count() as u64;
        let passed_over: u64 = processed.chain.skipped.values().sum();
        self.line.account(&generation.chain, &processed.chain, without.saturating_sub(passed_over));
    }

    /// Tells the tracker how many outputs each record of a part has.
    fn decide(&self, stamped: &Stamped, part: &Part, writing: &Writing) {
        {
            let mut tracker = self.shared.tracker();
            for row in part.rows.clone() {
                tracker.decided(Offset(stamped.source.offsets[row]), writing.outputs_of(row));
            }
        }
        self.shared.commit_done();
    }

    async fn send(&self, writing: Writing, room: Room, stamped: &Arc<Stamped>, is_last: bool) -> Flow {
        let (line, stamped) = (Arc::clone(&self.line), Arc::clone(stamped));
        let write: Write = Box::pin(async move {
            writing.end().await;
            drop(room);
            if is_last {
                line.meters.batch_done(stamped.read_at.elapsed());
            }
        });
        if self.to_await.send(write).await.is_err() { Flow::Stop } else { Flow::GoOn }
    }
}

/// Bytes that a part was read as.
fn read_bytes(stamped: &Stamped, part: &Part) -> usize {
    let source = &stamped.source;
    if part.rows.len() == source.len() { source.bytes() } else { source.bytes_of(part.rows.clone()) }
}

/// The row of a record in the source's batch is its origin.
fn row_of(stamped: &Stamped, origin: u32) -> usize {
    (origin as usize).min(stamped.source.len())
}

/// What was logged in failed attempts at a single record that failed goes with its dead letter; all else to the log.
fn keep_lines(part: &Part, processed: &mut Processed) {
    let mut lines = part.lines.clone();
    lines.append(&mut processed.chain.lost.lines);
    match processed.failures.first_entry() {
        Some(mut failure) if part.rows.len() == 1 => {
            lines.append(&mut failure.get_mut().lines);
            failure.get_mut().lines = lines;
        }
        _ => processed.chain.lost.lines = lines,
    }
}
