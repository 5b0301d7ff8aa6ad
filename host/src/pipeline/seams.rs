//! The seams of the line. Each trait has a production implementation in its vendor's room and one in `memory`, and one
//! conformance suite runs over all of them.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use futures::FutureExt as _;
use futures::future::BoxFuture;
use tokio::sync::{Semaphore, mpsc, oneshot};
use tokio::time::Instant;

use super::journal::GoneTopic;
use crate::record::{
    Batch, Digest, Field, FieldColumn, Offset, OutputField, SetColumn, SinkBatch, TopicPartition, WriteTime,
};

// ---------------------------------------------------------------------------------------------------------- source

/// When a batch closes: whichever comes first.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BatchLimits {
    /// Records.
    pub records: usize,
    /// Bytes of keys, values and headers. A single larger record is a batch of its own.
    pub bytes: usize,
    /// Time since the first record of the batch came.
    pub linger: Duration,
}

/// A pipeline's membership in the group that reads its topics. A source that is dropped and not closed leaves the group
/// without a last commit, as a crash does: its partitions go to the others, from what is committed.
#[async_trait]
pub trait Source: Send + Sync {
    /// Joins. What happens from now on goes to `events`, until [`Source::close`].
    ///
    /// # Errors
    /// Where the source cannot be reached or refuses.
    async fn open(&self, events: mpsc::Sender<SourceEvent>) -> Result<(), SourceError>;

    /// Leaves: commits what was handed over for commit while still a member, then closes; at `deadline` it gives up and
    /// returns, and what is not committed by then is read again by the next owner. True where all of it is committed. A
    /// second call waits as the first does. All readers must be dropped before.
    async fn close(&self, deadline: Instant) -> bool;

    /// Moves partitions that this member reads: their tasks end as at a revocation, these positions are committed in the
    /// place of theirs, and they are assigned anew. Returns when they are.
    ///
    /// # Errors
    /// Where a partition is not read by this member, or a position was not accepted; then the partitions go on where
    /// they are committed.
    async fn seek(&self, to: Vec<(TopicPartition, Position)>) -> Result<(), SourceError>;

    /// For each assigned partition, one past its newest record, as far as known.
    fn ends(&self) -> Vec<(TopicPartition, Offset)>;

    /// Why nothing can be read, or not all, if so: permissions or credentials that are missing at the moment. It goes on
    /// by itself.
    fn blocked(&self) -> Option<String> {
        None
    }

    /// What an opened source waits for until its first [`SourceEvent::Assigned`], for people.
    fn waits_for(&self) -> String {
        "its partitions".to_owned()
    }
}

/// What a source tells its supervisor.
pub enum SourceEvent {
    /// Partitions came; none where others read them all. The first of these says that the source has joined.
    Assigned(Vec<Assignment>),
    /// Partitions go. Their tasks must be drained and their readers dropped before `done` is answered; unless they are
    /// `lost` already, what was handed over for commit until then is committed after it.
    Revoked {
        /// Which.
        partitions: Vec<TopicPartition>,
        /// They belong to somebody else already: nothing can be committed any more.
        lost: bool,
        /// To be answered when their tasks have ended.
        done: oneshot::Sender<()>,
    },
    /// The source cannot go on.
    Failed(SourceError),
}

/// One partition, handed to a task.
pub struct Assignment {
    /// Which.
    pub partition: TopicPartition,
    /// Rises with each assignment of the source; acknowledgements of older ones are discarded.
    pub generation: u64,
    /// The first offset that the reader will give, or the one before which there is nothing.
    pub start: Offset,
    /// The metadata of the committed offset, where there is one.
    pub metadata: Option<String>,
    /// The metadata of the topic's other partitions, as committed by anybody in the group.
    pub sibling_metadata: Vec<String>,
    /// How many partitions the topic has now.
    pub partitions_total: i32,
    /// One past the newest record when the partition was assigned.
    pub end_at_start: Offset,
    /// The topic's own id, where the source knows one: a topic made anew has another.
    pub topic_id: Option<String>,
    /// Gives the records.
    pub reader: Box<dyn Reader>,
    /// Takes positions.
    pub committer: Arc<dyn Committer>,
}

impl Assignment {
    /// Hands over the start as it stands, for whoever reads and leaves nothing behind that another version must know of.
    pub fn begin_as_it_stands(&self) {
        let metadata = self.metadata.clone().unwrap_or_default();
        self.committer.commit(Position { next: self.start, metadata });
    }
}

/// Reads one partition, in offset order. Offsets may have gaps, but never repeat or fall.
///
/// Gives nothing until the first position of its assignment *stands*: until it was handed over, and the source's keeper
/// has accepted it, or has it already. Who reads may write; and whoever goes on after a sudden death learns from the
/// committed metadata alone which version may have written what. A position that cannot be accepted any more (the
/// assignment has ended meanwhile) leaves a reader that gives nothing, and is dropped at the revocation.
#[async_trait]
pub trait Reader: Send {
    /// The next batch, as soon as a limit is reached; waits for the first position to stand, and for a first record,
    /// without end. Cancel-safe: a dropped call loses no record.
    ///
    /// # Errors
    /// Where the partition cannot be read on.
    async fn next_batch(&mut self, limits: BatchLimits) -> Result<Batch, SourceError>;
}

/// A position to commit: everything below `next` is durable or decided.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Position {
    /// The offset to resume at.
    pub next: Offset,
    /// Text of at most 4,000 characters that comes back with the offset.
    pub metadata: String,
}

/// Takes positions of one partition under one assignment.
pub trait Committer: Send + Sync {
    /// Hands over a position; positions never fall. The first of an assignment is committed at once, since its reader
    /// waits for it; later ones within a second, and at the latest when the partition is revoked or the source closes.
    /// After the assignment has ended it is discarded. Never waits, and may be called wherever an assignment is handled.
    fn commit(&self, position: Position);

    /// Changes the metadata of what was handed over last, wherever that stands by now, and nothing else; for a task that
    /// ends, and leaves nothing of its own.
    fn leave(&self, metadata: String);

    /// Whether nothing that was handed over is still on its way to being committed.
    fn is_settled(&self) -> bool;

    /// Nothing is committed, and the journal tells of another topic of this name only: it was made anew while nobody
    /// read it, and what was left of the old one is gone. True where the source answers by ending the assignment, and
    /// does as with everything that is lost; then nothing may be read under it. False where that was told already, and
    /// this assignment is what followed.
    fn made_anew(&self, gone: &GoneTopic) -> bool;
}

/// Why a source cannot go on.
#[derive(Debug, Clone, thiserror::Error)]
pub enum SourceError {
    /// Nobody answers, or not in time.
    #[error("{system} cannot be reached: {message}")]
    Unreachable {
        /// Which system, with its address.
        system: String,
        /// What its client said.
        message: String,
    },
    /// Credentials or permissions are missing. Whoever manages them may give them at any time.
    #[error("{message}")]
    Forbidden {
        /// What was refused to whom, in the words of the other side.
        message: String,
        /// The connection's setting that is to blame, where one is.
        setting: Option<String>,
    },
    /// Refused: an unknown topic, a setting.
    #[error("{0}")]
    Refused(String),
    /// Records that were not yet read are gone.
    #[error("{partition}: records {from} to {to} are gone ({reason}); {remedy}")]
    Lost {
        /// Where.
        partition: TopicPartition,
        /// First lost offset.
        from: Offset,
        /// Last lost offset.
        to: Offset,
        /// Retention, a topic made anew, ...
        reason: String,
        /// What the operator can do.
        remedy: String,
    },
    /// The client failed in a way of its own.
    #[error("{0}")]
    Broken(String),
}

// ------------------------------------------------------------------------------------------------------- transform

/// What a plugin reads and sets; see `subscription` in `wit/types.wit`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Subscription {
    /// Parts of the record.
    pub parts: SubscribedParts,
    /// Headers by name.
    pub headers: Vec<String>,
    /// Named outputs; index + 1 is the route.
    pub routes: Vec<String>,
    /// Typed fields read.
    pub value_fields: Vec<Field>,
    /// Typed fields set.
    pub set_fields: Vec<OutputField>,
}

/// Parts of a record that cross to the plugin.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[expect(clippy::struct_excessive_bools, reason = "the flags of the interface")]
pub struct SubscribedParts {
    /// The key.
    pub key: bool,
    /// The raw value.
    pub value: bool,
    /// All headers, packed.
    pub all_headers: bool,
    /// The offset.
    pub offset: bool,
    /// The timestamp.
    pub timestamp: bool,
}

/// One step of a pipeline: a function from a batch to what should happen with it. Called on compute threads, from
/// several at once; never blocks on the network. One that has to wait for an answer from outside has [`Self::slots`], is
/// called by [`Self::apply_waiting`], and holds no thread meanwhile.
pub trait Transform: Send + Sync {
    /// The plugin's name.
    fn name(&self) -> &str;

    /// The digest of its artifact.
    fn digest(&self) -> Digest;

    /// What it reads and sets.
    fn subscription(&self) -> &Subscription;

    /// How long a call may take on the clock: what takes longer hangs.
    fn wall_limit(&self) -> Duration {
        crate::config::Limits::default().wall_per_batch
    }

    /// Handles a batch. All or nothing: an error leaves no trace but its own content, and ends its instance.
    ///
    /// # Errors
    /// A trap, a limit, or the plugin's own word that the batch failed.
    fn apply(&self, input: &TransformInput<'_>) -> Result<TransformOutput, TransformError>;

    /// As [`Self::apply`], on an instance that has never seen a batch: what an older one had gathered is no cause then.
    ///
    /// # Errors
    /// As [`Self::apply`].
    fn apply_fresh(&self, input: &TransformInput<'_>) -> Result<TransformOutput, TransformError>;

    /// Where the step may wait: how many batches may be in it at once. None where no call waits, so that there are no
    /// more of them than threads.
    fn slots(&self) -> Option<Arc<Semaphore>> {
        None
    }

    /// As [`Self::apply`] or [`Self::apply_fresh`], for a step with [`Self::slots`], one of which the caller holds.
    fn apply_waiting<'a>(
        &'a self,
        input: TransformInput<'a>,
        fresh: bool,
    ) -> BoxFuture<'a, Result<TransformOutput, TransformError>> {
        let said = if fresh { self.apply_fresh(&input) } else { self.apply(&input) };
        std::future::ready(said).boxed()
    }
}

/// What a step gets.
#[derive(Debug, Clone, Copy)]
pub struct TransformInput<'a> {
    /// The records; all parts, of which only the subscribed ones cross.
    pub batch: &'a Batch,
    /// One column for each of the subscription's `value_fields`.
    pub value_fields: &'a [FieldColumn],
}

/// What a step said, checked: every row and span exists, rows never fall, every column has a cell for each row.
#[derive(Debug, Clone, Default)]
pub struct TransformOutput {
    /// The rows that leave, in order.
    pub rows: Vec<OutRow>,
    /// What spans point into.
    pub data: Vec<u8>,
    /// One column for each of the subscription's `set_fields`, one cell for each of `rows`.
    pub set_fields: Vec<SetColumn>,
    /// Records that failed; rows rise.
    pub failures: Vec<Failure>,
    /// What the plugin logged and counted; released when the batch has succeeded.
    pub effects: Effects,
    /// What it cost.
    pub usage: Usage,
}

/// A piece of [`TransformOutput::data`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Span {
    /// First byte.
    pub offset: u32,
    /// Bytes.
    pub length: u32,
}

/// One row that leaves a step.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct OutRow {
    /// The input row.
    pub row: u32,
    /// What becomes of it.
    pub op: OutOp,
    /// 0 is the default output, i + 1 the subscription's `routes[i]`.
    pub route: u32,
}

/// What becomes of a row; see `selection` in `wit/types.wit`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OutOp {
    /// The record, with its set fields.
    Keep,
    /// The record with another value.
    Replace(Span),
    /// The record with a null value.
    Tombstone,
    /// A whole packed record, checked.
    Emit(Span),
    /// The row is deleted.
    Delete,
    /// A value of the set fields alone.
    New,
}

/// A record that a plugin failed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Failure {
    /// The input row.
    pub row: u32,
    /// What to do.
    pub kind: FailureKind,
    /// Short and stable.
    pub code: String,
    /// For people.
    pub message: String,
}

/// What to do with a failed record.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FailureKind {
    /// To the dead letters.
    Reject,
    /// Again after a delay.
    Retry(Duration),
    /// Pass over, and count.
    Skip,
}

/// What a plugin said to the operator while it handled a batch.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Effects {
    /// Log lines, cut and capped.
    pub logs: Vec<LogLine>,
    /// Lines beyond the cap, not kept.
    pub logs_dropped: u64,
    /// Updates of metrics, in order; one a batch for a counter or a gauge.
    pub metrics: Vec<MetricUpdate>,
    /// Updates that were not kept: too many names, a bad name, not a number.
    pub metrics_dropped: u64,
}

/// A line that a plugin logged.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LogLine {
    /// How loud.
    pub level: LogLevel,
    /// What.
    pub message: String,
}

/// How loud a plugin's line is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "lowercase")]
pub enum LogLevel {
    /// debug
    Debug,
    /// info
    Info,
    /// warn
    Warn,
    /// error
    Error,
}

/// One update of a plugin's own metric.
#[derive(Debug, Clone, PartialEq)]
pub enum MetricUpdate {
    /// Add to a counter.
    Count(String, u64),
    /// Set a gauge.
    Gauge(String, f64),
    /// Observe in a histogram.
    Observe(String, f64),
}

/// What a call cost.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Usage {
    /// Records that were handed over; the line counts them.
    pub records: u64,
    /// Thread CPU time in the guest, nanoseconds.
    pub cpu_ns: u64,
    /// The instance's linear memory after the call, bytes.
    pub memory_bytes: u64,
}

/// Why a batch failed as a whole.
#[derive(Debug, Clone, thiserror::Error)]
pub enum TransformError {
    /// The guest trapped, hit a limit, or told a lie; its instance is gone.
    #[error("{kind}: {message}")]
    Trap {
        /// Which kind.
        kind: TrapKind,
        /// What happened.
        message: String,
        /// The guest's backtrace, one frame a line.
        backtrace: String,
        /// Its last log lines.
        logs: Vec<LogLine>,
        /// Thread CPU time of the call, nanoseconds.
        cpu_ns: u64,
    },
    /// The plugin asks for the batch to be tried again.
    #[error("the plugin asks to try again: {message}")]
    Retry {
        /// Why.
        message: String,
        /// Its last log lines.
        logs: Vec<LogLine>,
        /// Thread CPU time of the call, nanoseconds.
        cpu_ns: u64,
    },
    /// The wall deadline passed while the CPU budget did not: the machine is too busy. Never the record's fault.
    #[error("the machine was too busy: {message}")]
    Busy {
        /// What happened.
        message: String,
        /// The guest's last log lines.
        logs: Vec<LogLine>,
        /// Thread CPU time of the call, nanoseconds.
        cpu_ns: u64,
    },
}

impl TransformError {
    /// What the call cost although nothing came of it: thread CPU time, nanoseconds.
    #[must_use]
    pub fn cpu_ns(&self) -> u64 {
        let (Self::Trap { cpu_ns, .. } | Self::Retry { cpu_ns, .. } | Self::Busy { cpu_ns, .. }) = self;
        *cpu_ns
    }
}

/// Kinds of traps; the display is the code of the dead letter.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum TrapKind {
    /// unreachable, out of bounds, stack overflow, a panic, ...
    Trap,
    /// The CPU limit.
    CpuLimit,
    /// The limit of the time that it may wait for others.
    WaitLimit,
    /// The memory limit.
    MemoryLimit,
    /// Too many bytes came out.
    OutputLimit,
    /// Tables that lie.
    InvalidOutput,
    /// `error.fatal`
    Fatal,
}

impl std::fmt::Display for TrapKind {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Trap => "plugin.trap",
            Self::CpuLimit => "plugin.cpu_limit",
            Self::WaitLimit => "plugin.wait_limit",
            Self::MemoryLimit => "plugin.memory_limit",
            Self::OutputLimit => "plugin.output_limit",
            Self::InvalidOutput => "plugin.invalid_output",
            Self::Fatal => "plugin.fatal",
        })
    }
}

// ------------------------------------------------------------------------------------------------------------ sink

/// What a sink wants to be given.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Wants {
    /// Keys, values and headers.
    Records,
    /// These columns, as cells.
    Cells(Vec<CellSpec>),
}

/// A column of a table, and where its cells come from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CellSpec {
    /// The column's name in the table.
    pub column: String,
    /// The path in the record's value, or among the set fields.
    pub path: Vec<String>,
}

/// Where rows end. Every implementation retries transient errors by itself, without end: a time-out is never success.
#[async_trait]
pub trait Sink: Send + Sync {
    /// What to give it.
    fn wants(&self) -> &Wants;

    /// Accepts a batch; waits while too much is under way. Batches are accepted in order. The answer resolves when
    /// every row is durable or refused for good. Dropping it gives the batch up: what was not sent yet may never be, and
    /// what the batch held (its room, its memory) is given back as soon as the store's own client lets go of it. Nothing
    /// is lost by that: what was not acknowledged is not committed, and whoever reads it next writes it again.
    async fn write(&self, batch: SinkBatch) -> Pending;

    /// Why nothing gets through at the moment, if so: for status and alerts.
    fn blocked(&self) -> Option<String> {
        None
    }
}

/// The answer to a write.
pub type Pending = BoxFuture<'static, Written>;

/// What became of a batch: all rows are durable but those named here.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Written {
    /// Rows that can never be written.
    pub failures: Vec<RowFailure>,
    /// Rows that had expired before they were written, and so were not.
    pub expired: u64,
    /// Bytes of what was written, roughly.
    pub bytes: u64,
}

/// A row that can never be written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RowFailure {
    /// Its row in the batch.
    pub row: usize,
    /// Short and stable: `sink.bad_value`, `sink.too_large`, ...
    pub code: String,
    /// For people: column, what was found, what is wanted. No payloads beyond a short excerpt.
    pub message: String,
}

// ---------------------------------------------------------------------------------------------------- dead letters

/// A record that could not be handled, with all that is needed to repair and redrive it.
#[derive(Debug, Clone, PartialEq)]
pub struct DeadLetter {
    /// The pipeline.
    pub pipeline: String,
    /// Where the record stands.
    pub source: TopicPartition,
    /// Its offset.
    pub offset: Offset,
    /// Its timestamp in milliseconds.
    pub timestamp_ms: Option<i64>,
    /// Its raw key.
    pub key: Option<Vec<u8>>,
    /// Its raw value.
    pub value: Option<Vec<u8>>,
    /// Its headers, packed as `all-headers` in `wit/types.wit`.
    pub headers: Vec<u8>,
    /// `decode`, `transform:<plugin>` or `sink:<output>`.
    pub stage: String,
    /// Short and stable.
    pub code: String,
    /// For people.
    pub message: String,
    /// The guest's backtrace, where there is one.
    pub backtrace: Option<String>,
    /// What the plugins logged in the attempts at the record, each line with its attempt and its plugin.
    pub logs: Vec<LogLine>,
    /// The digests of the pipeline's plugins, short, in order.
    pub digests: Vec<String>,
    /// How often it was tried.
    pub attempts: u32,
    /// The write time of its rows: a redrive writes at this time.
    pub write_time: WriteTime,
    /// Some of its outputs were written.
    pub partial: bool,
    /// The `pelton-id`: topic, partition, offset, and `dead-letter`. A record has one letter at most, and one more for
    /// each redrive that failed; a repeat has the same id, and no output of the pipeline has it.
    pub id: String,
    /// How often it was redriven, and failed again.
    pub redrives: u32,
    /// When it became a dead letter, milliseconds since the Unix epoch.
    pub at_ms: Option<i64>,
}

/// Where dead letters go.
#[async_trait]
pub trait DeadLetters: Send + Sync {
    /// Writes letters; retries without end. All are durable when it returns.
    async fn write(&self, letters: Vec<DeadLetter>);

    /// Why nothing gets through at the moment, if so.
    fn blocked(&self) -> Option<String> {
        None
    }
}
