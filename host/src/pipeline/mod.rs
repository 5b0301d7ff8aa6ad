//! The line: what happens to a record between its source and its sinks.
//!
//! In: batches from a [`Source`]. Out: rows to [`Sink`]s, letters to [`DeadLetters`], positions to a [`Committer`].
//! [`task`] reads in the order in which a batch travels. This room knows no vendor: Kafka, Cassandra, SQLite and the
//! Wasm runtime stand behind the traits of [`seams`], each with a production and a memory implementation.

mod beside;
pub mod bounds;
pub mod breaker;
pub mod chain;
pub mod checkpoint;
pub mod compute;
pub mod dead_letter_file;
pub mod decode;
pub mod discard;
pub mod encode;
pub mod excess;
pub mod gate;
pub mod generation;
mod going_over;
pub mod journal;
mod journaling;
pub mod json_patch;
pub mod line;
mod masking;
pub mod meters;
pub mod parts;
pub mod probation;
pub mod ranges;
pub mod redrive;
pub mod replay;
pub mod seams;
pub mod seek;
pub mod shadow;
pub mod shared;
#[cfg(test)]
mod simulation;
pub mod stamping;
pub mod tap;
pub mod task;
pub mod tracker;
mod transforming;
pub mod write_clock;
mod writing;

pub use seams::{
    Assignment, BatchLimits, CellSpec, Committer, DeadLetter, DeadLetters, Effects, Failure, FailureKind, LogLevel,
    LogLine, MetricUpdate, OutOp, OutRow, Pending, Position, Reader, RowFailure, Sink, Source, SourceError,
    SourceEvent, Span, SubscribedParts, Subscription, Transform, TransformError, TransformInput, TransformOutput,
    TrapKind, Usage, Wants, Written,
};
