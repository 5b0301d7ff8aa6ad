//! What should happen with a record.

use std::borrow::Cow;
use std::time::Duration;

/// A record's fate, as a plugin says it. Rows go to the default output unless [`Step::to`] sends them elsewhere.
#[derive(Debug, Clone, PartialEq)]
#[must_use = "a step does nothing until the plugin returns it"]
pub struct Step<O>(pub(crate) Fate<O>);

#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Fate<O> {
    /// Filtered out.
    Drop,
    /// The common case, without an allocation.
    One(Row<O>),
    Many(Vec<Row<O>>),
    Fail(Failure),
}

#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Row<O> {
    pub(crate) op: Op<O>,
    /// Empty: the default output.
    pub(crate) output: &'static str,
    /// Further outputs that get the same row.
    pub(crate) also: Vec<&'static str>,
}

#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Op<O> {
    Keep,
    Set(O),
    New(O),
    Replace(Vec<u8>),
    Tombstone,
    Record(NewRecord),
    Delete(Option<O>),
}

impl<O> Step<O> {
    fn one(op: Op<O>) -> Self {
        Self(Fate::One(Row { op, output: "", also: Vec::new() }))
    }

    /// The record leaves as it came.
    pub fn keep() -> Self {
        Self::one(Op::Keep)
    }

    /// The record is filtered out: it is done, and leaves nothing.
    pub fn drop() -> Self {
        Self(Fate::Drop)
    }

    /// The record leaves with these fields set in its value; its other fields stay. In a table, columns that are not
    /// set come from the record's fields of the same name.
    pub fn set(columns: O) -> Self {
        Self::one(Op::Set(columns))
    }

    /// A new value leaves, made of these fields alone; key, headers and timestamp are the record's. In a table, columns
    /// that are not set stay as they are.
    pub fn emit(columns: O) -> Self {
        Self::one(Op::New(columns))
    }

    /// As [`Step::emit`], once for each; none is the same as [`Step::drop`].
    pub fn emit_all(rows: impl IntoIterator<Item = O>) -> Self {
        rows.into_iter().fold(Self::drop(), |step, columns| step.and(Self::emit(columns)))
    }

    /// A whole record of your own leaves: its key, value, headers.
    pub fn record(record: NewRecord) -> Self {
        Self::one(Op::Record(record))
    }

    /// The record leaves with these bytes as its value.
    pub fn replace_value(value: impl Into<Vec<u8>>) -> Self {
        Self::one(Op::Replace(value.into()))
    }

    /// The record leaves with a null value.
    pub fn tombstone() -> Self {
        Self::one(Op::Tombstone)
    }

    /// In a table the row is deleted whose key columns are the record's fields of those names. In a topic a tombstone is
    /// written under the record's key.
    pub fn delete() -> Self {
        Self::one(Op::Delete(None))
    }

    /// As [`Step::delete`], where the key columns are set here.
    pub fn delete_row(key_columns: O) -> Self {
        Self::one(Op::Delete(Some(key_columns)))
    }

    /// The record is wrong: it goes to the dead letters. The code is short, stable, lower case with underscores, and
    /// becomes a label of a metric; the message is for people.
    pub fn reject(code: impl Into<Cow<'static, str>>, message: impl Into<String>) -> Self {
        Failure::reject(code, message).into()
    }

    /// The record cannot be handled now: it is tried again after `delay` (a minute at most), and holds its partition
    /// meanwhile. After the pipeline's number of attempts it goes to the dead letters.
    pub fn retry(delay: Duration, code: impl Into<Cow<'static, str>>, message: impl Into<String>) -> Self {
        Failure::retry(delay, code, message).into()
    }

    /// The record is passed over and counted under its code.
    pub fn skip(code: impl Into<Cow<'static, str>>, message: impl Into<String>) -> Self {
        Failure::skip(code, message).into()
    }

    /// Sends the rows of this step to a named output, one of [`Transform::OUTPUTS`](crate::Transform::OUTPUTS).
    pub fn to(mut self, output: &'static str) -> Self {
        self.each_row(|row| row.output = output);
        self
    }

    /// Sends the rows of this step to a named output as well.
    pub fn also_to(mut self, output: &'static str) -> Self {
        self.each_row(|row| row.also.push(output));
        self
    }

    /// The rows of both steps leave. A failure in either is the fate of the record.
    pub fn and(self, other: Self) -> Self {
        Self(match (self.0, other.0) {
            (Fate::Fail(failure), _) | (_, Fate::Fail(failure)) => Fate::Fail(failure),
            (Fate::Drop, fate) | (fate, Fate::Drop) => fate,
            (first, second) => {
                let mut rows = first.into_rows();
                rows.extend(second.into_rows());
                Fate::Many(rows)
            }
        })
    }

    fn each_row(&mut self, mut change: impl FnMut(&mut Row<O>)) {
        match &mut self.0 {
            Fate::One(row) => change(row),
            Fate::Many(rows) => rows.iter_mut().for_each(change),
            Fate::Drop | Fate::Fail(_) => {}
        }
    }
}

impl<O> Fate<O> {
    fn into_rows(self) -> Vec<Row<O>> {
        match self {
            Self::One(row) => vec![row],
            Self::Many(rows) => rows,
            Self::Drop | Self::Fail(_) => Vec::new(),
        }
    }
}

impl<O> From<Failure> for Step<O> {
    fn from(failure: Failure) -> Self {
        Self(Fate::Fail(failure))
    }
}

/// So that a plugin can use `?` inside, and end with `.into()`.
impl<O> From<Result<Step<O>, Failure>> for Step<O> {
    fn from(result: Result<Step<O>, Failure>) -> Self {
        result.unwrap_or_else(Self::from)
    }
}

/// Why a record failed, and what to do about it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Failure {
    pub(crate) kind: FailureKind,
    pub(crate) code: Cow<'static, str>,
    pub(crate) message: String,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum FailureKind {
    Reject,
    Retry(Duration),
    Skip,
}

impl Failure {
    /// See [`Step::reject`].
    pub fn reject(code: impl Into<Cow<'static, str>>, message: impl Into<String>) -> Self {
        Self { kind: FailureKind::Reject, code: code.into(), message: message.into() }
    }

    /// See [`Step::retry`].
    pub fn retry(delay: Duration, code: impl Into<Cow<'static, str>>, message: impl Into<String>) -> Self {
        Self { kind: FailureKind::Retry(delay), code: code.into(), message: message.into() }
    }

    /// See [`Step::skip`].
    pub fn skip(code: impl Into<Cow<'static, str>>, message: impl Into<String>) -> Self {
        Self { kind: FailureKind::Skip, code: code.into(), message: message.into() }
    }

    /// Its code.
    #[must_use]
    pub fn code(&self) -> &str {
        &self.code
    }

    /// Its message.
    #[must_use]
    pub fn message(&self) -> &str {
        &self.message
    }
}

/// A record of the plugin's own making, for [`Step::record`]. Without a timestamp it has the input's; without a key or a
/// value they are null.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct NewRecord {
    pub(crate) key: Option<Vec<u8>>,
    pub(crate) value: Option<Vec<u8>>,
    pub(crate) headers: Vec<(String, Option<Vec<u8>>)>,
    pub(crate) timestamp_ms: Option<i64>,
}

impl NewRecord {
    /// No key, no value, no headers, the input's timestamp.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Sets the key.
    #[must_use]
    pub fn key(mut self, key: impl Into<Vec<u8>>) -> Self {
        self.key = Some(key.into());
        self
    }

    /// Sets the value.
    #[must_use]
    pub fn value(mut self, value: impl Into<Vec<u8>>) -> Self {
        self.value = Some(value.into());
        self
    }

    /// Adds a header.
    #[must_use]
    pub fn header(mut self, name: impl Into<String>, value: impl Into<Vec<u8>>) -> Self {
        self.headers.push((name.into(), Some(value.into())));
        self
    }

    /// Adds a header without a value.
    #[must_use]
    pub fn null_header(mut self, name: impl Into<String>) -> Self {
        self.headers.push((name.into(), None));
        self
    }

    /// Sets the timestamp, milliseconds since 1970-01-01T00:00:00Z.
    #[must_use]
    pub fn timestamp_ms(mut self, timestamp_ms: i64) -> Self {
        self.timestamp_ms = Some(timestamp_ms);
        self
    }

    /// Appends the record as op 3 of `edits` lays it out.
    pub(crate) fn pack(&self, out: &mut Vec<u8>) {
        pack_bytes(out, self.key.as_deref());
        pack_bytes(out, self.value.as_deref());
        out.extend_from_slice(&self.timestamp_ms.unwrap_or(-1).to_le_bytes());
        out.extend_from_slice(&length(self.headers.len()));
        for (name, value) in &self.headers {
            pack_bytes(out, Some(name.as_bytes()));
            pack_bytes(out, value.as_deref());
        }
    }
}

fn pack_bytes(out: &mut Vec<u8>, bytes: Option<&[u8]>) {
    match bytes {
        None => out.extend_from_slice(&u32::MAX.to_le_bytes()),
        Some(bytes) => {
            out.extend_from_slice(&length(bytes.len()));
            out.extend_from_slice(bytes);
        }
    }
}

fn length(length: usize) -> [u8; 4] {
    u32::try_from(length).expect("a record is capped far below 4 GiB").to_le_bytes()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failure_is_the_fate_of_all_that_it_is_joined_with() {
        let failed = Step::set(1).and(Step::reject("bad", "")).and(Step::keep());
        assert_eq!(failed, Step::reject("bad", ""));
    }

    #[test]
    fn dropping_adds_nothing() {
        assert_eq!(Step::<()>::drop().and(Step::keep()), Step::keep());
        assert_eq!(Step::<u8>::emit_all([]), Step::drop());
        assert_eq!(Step::<u8>::emit_all([7]), Step::emit(7));
    }
}
