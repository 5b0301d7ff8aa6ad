//! One pipeline on one partition. Reads in the order in which a batch travels:
//!
//! ```text
//!  Reader::next_batch ─► stamp ─► Line::process ─► Sink::write ─► Tracker::acknowledge ─► Committer::commit
//!        read              transform (compute threads)                    acknowledge
//!                                      └──► DeadLetters::write ──────────────┘
//! ```
//!
//! Three loops joined by bounded queues, so that the waits of one overlap the work of another. The order of records is
//! kept up to the sinks' doors; from there on write times keep it. What is not acknowledged is not committed: a task may
//! be dropped anywhere, and whoever goes on repeats what was under way with the very same write times.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures::StreamExt as _;
use futures::future::BoxFuture;
use futures::stream::FuturesUnordered;
use tokio::sync::mpsc;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::chain::{Halt, RecordFailure};
use super::checkpoint::{Checkpoint, EpochPlan, EpochsUsedUp};
use super::compute::Panicked;
use super::gate::PausedBy;
use super::line::{Line, Processed};
use super::tracker::Tracker;
use super::write_clock::{Decision, WriteClock, write_time};
use super::{Assignment, Committer, DeadLetter, Position, Reader, RowFailure, SourceError};
use crate::config::Poison;
use crate::record::{Batch, Offset, TopicPartition, WriteTime};

/// Batches whose rows are on their way to the sinks, per task.
const WRITES_IN_FLIGHT_MAX: usize = 8;

/// How often the watchdog is told of a wait that is meant.
const WATCHDOG_TOLD_EVERY: Duration = Duration::from_secs(10);

/// One pipeline on one partition, not yet running.
pub struct Task {
    line: Arc<Line>,
    reader: Box<dyn Reader>,
    clock: WriteClock,
    shared: Arc<Shared>,
    stop: CancellationToken,
}

/// Why a task ended early.
#[derive(Debug, thiserror::Error)]
pub enum TaskError {
    /// The partition cannot be read on.
    #[error(transparent)]
    Source(#[from] SourceError),
    /// Ten versions began the same records.
    #[error(transparent)]
    Epochs(#[from] EpochsUsedUp),
    /// A fault of Pelton's own.
    #[error(transparent)]
    Internal(#[from] Panicked),
}

/// What the loops of a task share, and the supervisor reads.
pub struct Shared {
    line: Arc<Line>,
    partition: TopicPartition,
    generation: u64,
    epoch: EpochPlan,
    partitions_total: i32,
    topic_id: Option<String>,
    committer: Arc<dyn Committer>,
    tracker: Mutex<Tracker>,
    committed: Mutex<Option<Offset>>,
    /// When something last moved: for the watchdog.
    moved: Mutex<Instant>,
}

/// How far a task is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Progress {
    /// The position handed over for commit last.
    pub committed: Option<Offset>,
    /// Records read and not yet done.
    pub in_flight: usize,
    /// How long nothing has moved.
    pub still_for: Duration,
}

/// A batch with its write times, as the source gave it.
struct Stamped {
    source: Arc<Batch>,
    write_times: Arc<[WriteTime]>,
    read_at: Instant,
}

/// Rows on their way to becoming durable: resolves to offsets and how many of their outputs are done.
type Write = BoxFuture<'static, Vec<(Offset, u32)>>;

impl Task {
    /// A task for an assignment. Commits where it starts, so that whoever goes on starts the clock where this one did.
    ///
    /// # Errors
    /// Where ten versions of the pipeline began the same records.
    pub fn new(line: &Arc<Line>, assignment: Assignment, stop: CancellationToken) -> Result<Self, TaskError> {
        let Assignment { partition, generation, start, end_at_start, .. } = assignment;
        let committed = assignment.metadata.as_deref().map(Checkpoint::parse).transpose().unwrap_or_else(|error| {
            tracing::warn!(
                pipeline = %line.name, %partition,
                "{error}; write times follow the records' own times from here on"
            );
            None
        });
        let siblings: Vec<Checkpoint> =
            assignment.sibling_metadata.iter().filter_map(|text| Checkpoint::parse(text).ok()).collect();
        let start_h = committed
            .as_ref()
            .map_or_else(|| Checkpoint::start_h(partition.partition, &siblings), |checkpoint| checkpoint.h);
        let epoch =
            EpochPlan::at_assignment(committed.as_ref(), &line.digests, &line.configuration, start.0, end_at_start.0)?;
        let clock = WriteClock::after(start_h.max(line.timestamp_floor));
        let shared = Arc::new(Shared {
            line: Arc::clone(line),
            partition,
            generation,
            epoch,
            partitions_total: assignment.partitions_total,
            topic_id: assignment.topic_id,
            committer: assignment.committer,
            tracker: Mutex::new(Tracker::new(generation)),
            committed: Mutex::new(None),
            moved: Mutex::new(Instant::now()),
        });
        shared.commit(start, clock.previous());
        Ok(Self { line: Arc::clone(line), reader: assignment.reader, clock, shared, stop })
    }

    /// What the supervisor may read while the task runs.
    #[must_use]
    pub fn shared(&self) -> Arc<Shared> {
        Arc::clone(&self.shared)
    }

    /// Runs until it is stopped, and everything that it began is durable and handed over for commit.
    ///
    /// # Errors
    /// Where the partition cannot be read on, or Pelton itself is at fault.
    pub async fn run(self) -> Result<(), TaskError> {
        let (to_transform, batches) = mpsc::channel(1);
        let (to_await, writes) = mpsc::channel(WRITES_IN_FLIGHT_MAX);
        let transform = Transforming {
            line: Arc::clone(&self.line),
            shared: Arc::clone(&self.shared),
            stop: self.stop.clone(),
            to_await,
        };
        tokio::try_join!(
            read(self.line, self.reader, self.stop, to_transform),
            transform.run(batches, self.clock),
            acknowledge(self.shared, writes),
        )?;
        Ok(())
    }
}

/// Reads batches while the gate is open, until the task is stopped.
async fn read(
    line: Arc<Line>,
    mut reader: Box<dyn Reader>,
    stop: CancellationToken,
    to_transform: mpsc::Sender<Batch>,
) -> Result<(), TaskError> {
    loop {
        let batch = tokio::select! {
            biased;
            () = stop.cancelled() => return Ok(()),
            () = line.gate.closed() => {
                tokio::select! {
                    () = stop.cancelled() => return Ok(()),
                    _ = line.gate.opened() => continue,
                }
            }
            batch = reader.next_batch(line.batch) => batch?,
        };
        if !batch.is_empty() && to_transform.send(batch).await.is_err() {
            return Ok(());
        }
    }
}

/// The middle loop: batches in, writes out, in order.
struct Transforming {
    line: Arc<Line>,
    shared: Arc<Shared>,
    stop: CancellationToken,
    to_await: mpsc::Sender<Write>,
}

/// Whether the loop goes on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Flow {
    GoOn,
    Stop,
}

impl Transforming {
    async fn run(self, mut batches: mpsc::Receiver<Batch>, mut clock: WriteClock) -> Result<(), TaskError> {
        while let Some(batch) = batches.recv().await {
            let stamped = self.stamp(batch, &mut clock);
            if self.batch(&stamped).await? == Flow::Stop {
                break;
            }
        }
        Ok(())
    }

    /// Gives each record its write time, in offset order, whatever becomes of it.
    fn stamp(&self, batch: Batch, clock: &mut WriteClock) -> Stamped {
        let now_ms = self.line.clock.now_ms();
        self.line.meters.batch(batch.len(), batch.bytes());
        let mut write_times = Vec::with_capacity(batch.len());
        let mut clamped = None;
        let mut tracker = self.shared.tracker();
        for (row, offset) in batch.offsets.iter().enumerate() {
            let tick = clock.tick(batch.timestamp_ms(row), now_ms);
            tracker.read(Offset(*offset), tick.h);
            write_times.push(write_time(tick.h, self.shared.epoch.of(*offset)));
            if let Some(decision) = tick.decision {
                let reason = match decision {
                    Decision::Clamped => "future",
                    Decision::NoTimestamp => "missing",
                };
                self.line.meters.clamped(reason);
                clamped.get_or_insert((*offset, reason));
            }
        }
        drop(tracker);
        if let Some((offset, reason)) = clamped {
            tracing::warn!(
                pipeline = %self.line.name, partition = %self.shared.partition, offset, reason,
                "a write time does not follow its record's own time (the first of its batch)"
            );
        }
        Stamped { source: Arc::new(batch), write_times: write_times.into(), read_at: Instant::now() }
    }

    /// Takes a batch to the sinks' doors, in as many parts as its records that want to be tried again make necessary.
    async fn batch(&self, stamped: &Stamped) -> Result<Flow, TaskError> {
        let mut parts = VecDeque::from_iter(std::iter::once(0..stamped.source.len()));
        let mut tries = Tries::default();
        while let Some(part) = parts.pop_front() {
            let flow = match self.process(stamped, part.clone()).await? {
                Ok(processed) => self.emit(stamped, part, processed, &mut parts).await,
                Err(halt) if halt.origin as usize > part.start => {
                    // What stands before it goes on alone; it comes again at the head of its own part.
                    parts.push_front(halt.origin as usize..part.end);
                    parts.push_front(part.start..halt.origin as usize);
                    Flow::GoOn
                }
                Err(halt) => self.try_again(stamped, part, halt, &mut tries, &mut parts).await,
            };
            if flow == Flow::Stop {
                return Ok(Flow::Stop);
            }
        }
        Ok(Flow::GoOn)
    }

    async fn process(&self, stamped: &Stamped, part: Part) -> Result<Result<Processed, Halt>, TaskError> {
        let (line, source, write_times) =
            (Arc::clone(&self.line), Arc::clone(&stamped.source), Arc::clone(&stamped.write_times));
        let generation = self.shared.generation;
        let work = move || {
            let batch = if part.len() == source.len() { (*source).clone() } else { source.select(part) };
            line.process(batch, &source, &write_times, generation)
        };
        let mut running = std::pin::pin!(self.line.compute.run(work));
        loop {
            // Guests have limits of their own: however long a batch is halved, it comes to its end.
            tokio::select! {
                processed = &mut running => return Ok(processed?),
                () = tokio::time::sleep(WATCHDOG_TOLD_EVERY) => self.shared.note_moved(),
            }
        }
    }

    /// The first record of a part wants to be tried again: waits, or gives it up once its attempts are used.
    async fn try_again(
        &self,
        stamped: &Stamped,
        part: Part,
        halt: Halt,
        tries: &mut Tries,
        parts: &mut VecDeque<Part>,
    ) -> Flow {
        self.line.meters.retried(halt.failure.as_ref().map_or("transform", |failure| &failure.stage));
        self.shared.note_moved();
        // What is never the record's fault does not count as a try of it.
        let attempts = if halt.failure.is_some() { tries.again(part.start) } else { 0 };
        match halt.failure {
            Some(failure) if attempts >= self.line.errors.retry_attempts => {
                let mut processed = Processed::empty();
                processed.failures.insert(halt.origin, RecordFailure { attempts, ..failure });
                if part.len() > 1 {
                    parts.push_front(part.start + 1..part.end);
                }
                self.emit(stamped, part.start..part.start + 1, processed, parts).await
            }
            _ => {
                let offset = stamped.source.offsets[part.start];
                tracing::warn!(
                    pipeline = %self.line.name, partition = %self.shared.partition, offset,
                    "held, and tried again in {} ms: {}", halt.delay.as_millis(), halt.cause
                );
                parts.push_front(part);
                self.wait(halt.delay).await
            }
        }
    }

    /// Waits, unless the task is stopped; the watchdog knows that it is meant.
    async fn wait(&self, delay: Duration) -> Flow {
        let until = Instant::now() + delay;
        loop {
            self.shared.note_moved();
            let slice = (Instant::now() + WATCHDOG_TOLD_EVERY).min(until);
            tokio::select! {
                () = self.stop.cancelled() => return Flow::Stop,
                () = tokio::time::sleep_until(slice) => if slice == until { return Flow::GoOn },
            }
        }
    }

    /// Hands a part to the sinks and the dead letters, unless its failures pause the pipeline: then nothing of it is
    /// written until the pipeline is resumed. What the breaker held goes through then, or nobody could ever get past
    /// it; a record that may not be passed over is handled anew.
    async fn emit(&self, stamped: &Stamped, part: Part, processed: Processed, parts: &mut VecDeque<Part>) -> Flow {
        if let Some((by, cause)) = self.hold(&part, &processed.failures, stamped) {
            self.line.meters.paused(by.name());
            tracing::error!(pipeline = %self.line.name, partition = %self.shared.partition, "paused: {cause}");
            tokio::select! {
                () = self.stop.cancelled() => return Flow::Stop,
                _ = self.line.gate.opened() => self.line.reset_breaker(),
            }
            if by == PausedBy::Poison {
                parts.push_front(part);
                return Flow::GoOn;
            }
        }
        let (letters, mut outputs) = self.account(stamped, &part, &processed);
        let mut writes: Vec<Write> = Vec::new();
        if !letters.is_empty() {
            let (shared, offsets) = (Arc::clone(&self.shared), letters.iter().map(|l| (l.offset, 1)).collect());
            writes.push(Box::pin(async move {
                shared.dead_letters(letters).await;
                offsets
            }));
        }
        for (at, batch) in processed.sink_batches {
            let output = &self.line.outputs[at];
            for row in &batch.rows {
                *outputs.entry(row.offset).or_default() += 1;
            }
            let rows: Vec<(u32, Offset)> = batch.rows.iter().map(|row| (row.origin, row.offset)).collect();
            let began = Instant::now();
            let pending = output.sink.write(batch).await;
            let (shared, source, write_times) =
                (Arc::clone(&self.shared), Arc::clone(&stamped.source), Arc::clone(&stamped.write_times));
            writes.push(Box::pin(async move {
                let written = pending.await;
                shared.written(at, &rows, written, &source, &write_times, began).await
            }));
        }
        self.decide(stamped, &part, &outputs);
        self.send(writes, stamped, part.end == stamped.source.len()).await
    }

    /// Whether the failures of a part pause the pipeline before it.
    fn hold(
        &self,
        part: &Part,
        failures: &BTreeMap<u32, RecordFailure>,
        stamped: &Stamped,
    ) -> Option<(PausedBy, String)> {
        let (by, cause) = match (failures.first_key_value(), self.line.errors.poison) {
            (Some((origin, failure)), Poison::Stop) => {
                let offset = stamped.source.offsets[*origin as usize];
                let RecordFailure { code, message, stage, .. } = failure;
                (
                    PausedBy::Poison,
                    format!("record {}/{offset} failed at {stage}: {code}: {message}", self.shared.partition),
                )
            }
            _ => {
                let tripped = self.line.observe(part.len(), failures.len())?;
                let example = failures.values().next().map(|f| format!("; for example {}: {}", f.code, f.message));
                (PausedBy::Breaker, format!("{tripped}{}", example.unwrap_or_default()))
            }
        };
        self.line.gate.pause(by, &cause);
        Some((by, cause))
    }

    /// Counts a part, and makes the dead letters of its failures. Gives by offset how many outputs there are so far.
    fn account(
        &self,
        stamped: &Stamped,
        part: &Part,
        processed: &Processed,
    ) -> (Vec<DeadLetter>, BTreeMap<Offset, u32>) {
        let mut has_output = vec![false; stamped.source.len()];
        for (_, batch) in &processed.sink_batches {
            for row in &batch.rows {
                has_output[row.origin as usize] = true;
            }
        }
        for origin in processed.failures.keys() {
            has_output[*origin as usize] = true;
        }
        let passed_over: u64 = processed.chain.skipped.values().sum();
        let without = has_output[part.clone()].iter().filter(|has| !**has).count() as u64;
        self.line
            .meters
            .chain(&processed.chain, without.saturating_sub(passed_over), |step| self.line.chain.step_name(step));
        for (step, kind) in &processed.chain.traps {
            self.line.meters.trapped(self.line.chain.step_name(*step), kind);
        }
        let mut letters = Vec::new();
        let mut outputs = BTreeMap::new();
        for (origin, failure) in &processed.failures {
            if self.line.errors.poison == Poison::Skip {
                self.line.meters.skipped(&failure.code, 1);
                continue;
            }
            let letter = self.shared.letter(&stamped.source, &stamped.write_times, *origin, failure.clone(), false);
            *outputs.entry(letter.offset).or_default() += 1;
            letters.push(letter);
        }
        (letters, outputs)
    }

    /// Tells the tracker how many outputs each record of a part has.
    fn decide(&self, stamped: &Stamped, part: &Part, outputs: &BTreeMap<Offset, u32>) {
        {
            let mut tracker = self.shared.tracker();
            for offset in &stamped.source.offsets[part.clone()] {
                let offset = Offset(*offset);
                tracker.decided(offset, outputs.get(&offset).copied().unwrap_or(0));
            }
        }
        self.shared.commit_done();
    }

    async fn send(&self, writes: Vec<Write>, stamped: &Stamped, is_last: bool) -> Flow {
        let all = futures::future::join_all(writes);
        let (shared, read_at) = (Arc::clone(&self.shared), stamped.read_at);
        let write: Write = Box::pin(async move {
            let acknowledged = all.await.into_iter().flatten().collect();
            if is_last {
                shared.line.meters.batch_done(read_at.elapsed());
            }
            acknowledged
        });
        if self.to_await.send(write).await.is_err() { Flow::Stop } else { Flow::GoOn }
    }
}

/// Rows of a batch that are handled as one.
type Part = std::ops::Range<usize>;

/// How often the record that stands at the head was tried.
#[derive(Debug, Default)]
struct Tries {
    row: usize,
    count: u32,
}

impl Tries {
    /// Counts one more try of a row.
    fn again(&mut self, row: usize) -> u32 {
        self.count = if self.row == row { self.count + 1 } else { 1 };
        self.row = row;
        self.count
    }
}

/// Waits for writes, in whatever order they end, and commits what is done without a gap.
async fn acknowledge(shared: Arc<Shared>, mut writes: mpsc::Receiver<Write>) -> Result<(), TaskError> {
    let mut under_way = FuturesUnordered::new();
    let mut is_open = true;
    while is_open || !under_way.is_empty() {
        tokio::select! {
            write = writes.recv(), if is_open && under_way.len() < WRITES_IN_FLIGHT_MAX => match write {
                Some(write) => under_way.push(write),
                None => is_open = false,
            },
            Some(acknowledged) = under_way.next() => shared.acknowledge(acknowledged),
        }
    }
    Ok(())
}

impl Shared {
    /// Which partition.
    #[must_use]
    pub fn partition(&self) -> &TopicPartition {
        &self.partition
    }

    /// How far the task is.
    #[must_use]
    pub fn progress(&self) -> Progress {
        let committed = *self.committed.lock().unwrap_or_else(PoisonError::into_inner);
        let still_for = self.moved.lock().unwrap_or_else(PoisonError::into_inner).elapsed();
        Progress { committed, in_flight: self.tracker().in_flight(), still_for }
    }

    fn tracker(&self) -> MutexGuard<'_, Tracker> {
        self.tracker.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Tells the watchdog that all is as it should be.
    pub fn note_moved(&self) {
        *self.moved.lock().unwrap_or_else(PoisonError::into_inner) = Instant::now();
    }

    fn acknowledge(&self, acknowledged: Vec<(Offset, u32)>) {
        {
            let mut tracker = self.tracker();
            for (offset, outputs) in acknowledged {
                tracker.acknowledge(self.generation, offset, outputs);
            }
        }
        self.commit_done();
    }

    /// Hands over the position below which everything is done, if it moved.
    fn commit_done(&self) {
        self.note_moved();
        let done = self.tracker().done();
        if let Some(done) = done {
            let is_new = *self.committed.lock().unwrap_or_else(PoisonError::into_inner) < Some(done.next);
            if is_new {
                self.commit(done.next, done.h);
            }
        }
    }

    fn commit(&self, next: Offset, h: i64) {
        let mut checkpoint = Checkpoint::new(h, self.line.digests.clone(), self.line.configuration.clone());
        checkpoint.partitions_total = self.partitions_total;
        checkpoint.topic_id.clone_from(&self.topic_id);
        self.epoch.note(next.0, &mut checkpoint);
        self.committer.commit(Position { next, metadata: checkpoint.encode() });
        *self.committed.lock().unwrap_or_else(PoisonError::into_inner) = Some(next);
    }

    /// A sink has answered: its refusals go to the dead letters, then everything is done.
    async fn written(
        &self,
        output: usize,
        rows: &[(u32, Offset)],
        written: super::Written,
        source: &Batch,
        write_times: &[WriteTime],
        began: Instant,
    ) -> Vec<(Offset, u32)> {
        let name = &self.line.outputs[output].encoder.name;
        let durable = rows.len().saturating_sub(written.failures.len()) as u64 - written.expired.min(rows.len() as u64);
        self.line.meters.written(name, durable, written.bytes, written.expired, began.elapsed());
        let mut letters: BTreeMap<u32, DeadLetter> = BTreeMap::new();
        for RowFailure { row, code, message } in written.failures {
            let (origin, _) = rows[row];
            let failure = RecordFailure::new(&format!("sink:{name}"), &code, &message);
            letters.entry(origin).or_insert_with(|| self.letter(source, write_times, origin, failure, true));
        }
        if !letters.is_empty() {
            match self.line.errors.poison {
                Poison::Skip => letters.values().for_each(|letter| self.line.meters.skipped(&letter.code, 1)),
                // A row that its sink refuses for good is too late to stop before: its record is kept, and told.
                Poison::DeadLetter | Poison::Stop => self.dead_letters(letters.into_values().collect()).await,
            }
        }
        rows.iter().map(|(_, offset)| (*offset, 1)).collect()
    }

    async fn dead_letters(&self, letters: Vec<DeadLetter>) {
        let codes: Vec<String> = letters.iter().map(|letter| letter.code.clone()).collect();
        self.line.dead_letters.write(letters).await;
        self.line.meters.dead_letters(codes.iter().map(String::as_str));
    }

    fn letter(
        &self,
        source: &Batch,
        write_times: &[WriteTime],
        origin: u32,
        failure: RecordFailure,
        partial: bool,
    ) -> DeadLetter {
        let row = origin as usize;
        let offset = Offset(source.offsets[row]);
        DeadLetter {
            pipeline: self.line.name.clone(),
            source: source.source.clone(),
            offset,
            timestamp_ms: source.timestamp_ms(row),
            key: source.keys.get(row).map(<[u8]>::to_vec),
            value: source.values.get(row).map(<[u8]>::to_vec),
            headers: source.headers.get(row).unwrap_or_default().to_vec(),
            stage: failure.stage,
            code: failure.code,
            message: failure.message,
            backtrace: failure.backtrace,
            logs: failure.logs,
            digests: self.line.digests.clone(),
            attempts: failure.attempts,
            write_time: write_times[row],
            partial,
            id: format!("{}/{}/{offset}/0", source.source.topic, source.source.partition),
        }
    }
}
