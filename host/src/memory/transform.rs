//! A closure as a plugin: what a step does is said record by record, and faults are put on records that carry a marker.

use std::collections::BTreeMap;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use super::{OwnedCell, OwnedValue, lock};
use crate::pipeline::{
    Failure, FailureKind, LogLevel, LogLine, OutOp, OutRow, Span, Subscription, Transform, TransformError,
    TransformInput, TransformOutput, TrapKind, Usage,
};
use crate::record::{
    Batch, Digest, FIELD_STATE_LEAVE, FIELD_STATE_NULL, FIELD_STATE_SET, FieldColumn, FieldType, SetColumn,
};

/// What each call says that it cost.
const CALL_CPU_NS: u64 = 1_000;

/// One record as a closure sees it.
#[derive(Clone, Copy)]
pub struct RecordView<'a> {
    /// The batch.
    pub batch: &'a Batch,
    /// Its row.
    pub row: usize,
    subscription: &'a Subscription,
    value_fields: &'a [FieldColumn],
}

impl<'a> RecordView<'a> {
    /// The raw value.
    #[must_use]
    pub fn value(&self) -> Option<&'a [u8]> {
        self.batch.values.get(self.row)
    }

    /// The key.
    #[must_use]
    pub fn key(&self) -> Option<&'a [u8]> {
        self.batch.keys.get(self.row)
    }

    /// A typed field, by its place in the subscription; none where it is null.
    #[must_use]
    pub fn field(&self, index: usize) -> Option<OwnedValue> {
        let (field, column) = (self.subscription.value_fields.get(index)?, self.value_fields.get(index)?);
        let valid = column.validity.is_empty() || column.validity.get(self.row / 8)? >> (self.row % 8) & 1 == 1;
        if valid { read_cell(field.field_type, column, self.row) } else { None }
    }
}

/// What a closure answers for one record.
#[derive(Debug, Clone, PartialEq)]
pub enum Step {
    /// The record leaves as it is, with these set fields (one for each of the subscription; empty: none is touched).
    Keep(Vec<OwnedCell>),
    /// A value made of these set fields alone.
    New(Vec<OwnedCell>),
    /// The row is deleted whose key these set fields give.
    Delete(Vec<OwnedCell>),
    /// The record with another value.
    Replace(Vec<u8>),
    /// The record with a null value.
    Tombstone,
    /// A whole packed record.
    Emit(Vec<u8>),
    /// To another output: 0 is the default one, i + 1 the subscription's `routes[i]`.
    To(u32, Box<Step>),
    /// All of these, in order.
    All(Vec<Step>),
    /// Nothing leaves.
    Drop,
    /// The record failed.
    Fail(FailureKind, String, String),
}

type Apply = Box<dyn Fn(RecordView<'_>) -> Step + Send + Sync>;

/// A closure as a plugin.
pub struct MemoryTransform {
    name: String,
    digest: Digest,
    subscription: Subscription,
    apply: Apply,
    faults: Mutex<Vec<Fault>>,
    is_talkative: bool,
    /// What it says with everything that it logs, and in its traps.
    words: String,
    calls: AtomicU64,
}

/// A fault and where it strikes.
struct Fault {
    /// Part of the record's value; empty: any record.
    marker: Vec<u8>,
    /// How often it still strikes.
    times: u64,
    kind: FaultKind,
}

enum FaultKind {
    Trap(TrapKind),
    RetryRecord(Duration),
    RetryBatch,
    Busy,
}

impl MemoryTransform {
    /// A plugin that does what `apply` says, record by record.
    pub fn new(
        name: &str,
        subscription: Subscription,
        apply: impl Fn(RecordView<'_>) -> Step + Send + Sync + 'static,
    ) -> Self {
        Self {
            name: name.to_owned(),
            digest: Digest::of(name.as_bytes()),
            subscription,
            apply: Box::new(apply),
            faults: Mutex::default(),
            is_talkative: false,
            words: String::new(),
            calls: AtomicU64::new(0),
        }
    }

    /// A plugin through which everything passes as it is.
    #[must_use]
    pub fn identity() -> Self {
        Self::new("identity", Subscription::default(), |_| Step::Keep(Vec::new()))
    }

    /// Another digest, as a new build of the same plugin has.
    #[must_use]
    pub fn with_digest(mut self, digest: Digest) -> Self {
        self.digest = digest;
        self
    }

    /// Traps on every record whose value contains the marker.
    #[must_use]
    pub fn trap_on(self, marker: &[u8], kind: TrapKind) -> Self {
        self.trap_times(marker, kind, u64::MAX)
    }

    /// Traps the first `times` times that it meets the marker.
    #[must_use]
    pub fn trap_times(self, marker: &[u8], kind: TrapKind, times: u64) -> Self {
        self.fault(marker, times, FaultKind::Trap(kind))
    }

    /// Asks, the first `times` times that it meets the marker, for the record to be tried again.
    #[must_use]
    pub fn retry_on(self, marker: &[u8], times: u64, delay: Duration) -> Self {
        self.fault(marker, times, FaultKind::RetryRecord(delay))
    }

    /// Asks, the first `times` times that it meets the marker, for the batch to be tried again.
    #[must_use]
    pub fn retry_batch_on(self, marker: &[u8], times: u64) -> Self {
        self.fault(marker, times, FaultKind::RetryBatch)
    }

    /// Says, the first `times` times that it meets the marker, that the machine was too busy.
    #[must_use]
    pub fn busy_on(self, marker: &[u8], times: u64) -> Self {
        self.fault(marker, times, FaultKind::Busy)
    }

    /// Logs a line for each record, also for the one where a fault strikes.
    #[must_use]
    pub fn talkative(mut self) -> Self {
        self.is_talkative = true;
        self
    }

    /// As [`Self::talkative`], and repeats these words in every line and at every fault.
    #[must_use]
    pub fn says(mut self, words: &str) -> Self {
        words.clone_into(&mut self.words);
        self.talkative()
    }

    fn with_words(&self, text: String) -> String {
        if self.words.is_empty() { text } else { format!("{text}: {}", self.words) }
    }

    fn line(&self, record: RecordView<'_>) -> LogLine {
        let offset = record.batch.offsets[record.row];
        LogLine { level: LogLevel::Info, message: self.with_words(format!("{} saw offset {offset}", self.name)) }
    }

    /// Calls so far.
    #[must_use]
    pub fn calls(&self) -> u64 {
        self.calls.load(Ordering::SeqCst)
    }

    fn fault(self, marker: &[u8], times: u64, kind: FaultKind) -> Self {
        lock(&self.faults).push(Fault { marker: marker.to_vec(), times, kind });
        self
    }

    /// The fault that strikes at a record, if any.
    fn strike(&self, record: RecordView<'_>) -> Result<Option<Step>, TransformError> {
        let value = record.value().unwrap_or_default();
        let mut faults = lock(&self.faults);
        let Some(fault) = faults.iter_mut().find(|fault| fault.times > 0 && contains(value, &fault.marker)) else {
            return Ok(None);
        };
        fault.times -= 1;
        let offset = record.batch.offsets[record.row];
        let asked = || self.with_words(format!("asked to at offset {offset}"));
        let logs = || vec![self.line(record)];
        match fault.kind {
            FaultKind::Trap(kind) => Err(TransformError::Trap {
                kind,
                message: asked(),
                backtrace: self.with_words("memory::transform".into()),
                logs: logs(),
                cpu_ns: CALL_CPU_NS,
            }),
            FaultKind::RetryBatch => Err(TransformError::Retry { message: asked(), logs: logs(), cpu_ns: CALL_CPU_NS }),
            FaultKind::Busy => Err(TransformError::Busy { message: asked(), logs: logs(), cpu_ns: CALL_CPU_NS }),
            FaultKind::RetryRecord(delay) => {
                Ok(Some(Step::Fail(FailureKind::Retry(delay), "asked_to_retry".into(), "asked to".into())))
            }
        }
    }
}

impl Transform for MemoryTransform {
    fn name(&self) -> &str {
        &self.name
    }

    fn digest(&self) -> Digest {
        self.digest
    }

    fn subscription(&self) -> &Subscription {
        &self.subscription
    }

    fn apply(&self, input: &TransformInput<'_>) -> Result<TransformOutput, TransformError> {
        self.calls.fetch_add(1, Ordering::SeqCst);
        let mut output = Output::new(&self.subscription);
        for row in 0..input.batch.len() {
            let record = RecordView {
                batch: input.batch,
                row,
                subscription: &self.subscription,
                value_fields: input.value_fields,
            };
            let step = match self.strike(record)? {
                Some(step) => step,
                None => (self.apply)(record),
            };
            if self.is_talkative {
                output.output.effects.logs.push(self.line(record));
            }
            output.take(row as u32, 0, step);
        }
        Ok(output.finish())
    }

    fn apply_fresh(&self, input: &TransformInput<'_>) -> Result<TransformOutput, TransformError> {
        self.apply(input)
    }
}

/// Builds a [`TransformOutput`].
struct Output<'a> {
    subscription: &'a Subscription,
    output: TransformOutput,
    /// One list a set field, one cell an output row.
    cells: Vec<Vec<OwnedCell>>,
}

impl<'a> Output<'a> {
    fn new(subscription: &'a Subscription) -> Self {
        let cells = vec![Vec::new(); subscription.set_fields.len()];
        Self { subscription, output: TransformOutput::default(), cells }
    }

    fn take(&mut self, row: u32, route: u32, step: Step) {
        let (op, cells) = match step {
            Step::Keep(cells) => (OutOp::Keep, cells),
            Step::New(cells) => (OutOp::New, cells),
            Step::Delete(cells) => (OutOp::Delete, cells),
            Step::Replace(value) => (OutOp::Replace(self.span(&value)), Vec::new()),
            Step::Tombstone => (OutOp::Tombstone, Vec::new()),
            Step::Emit(packed) => (OutOp::Emit(self.span(&packed)), Vec::new()),
            Step::To(route, step) => return self.take(row, route, *step),
            Step::All(steps) => return steps.into_iter().for_each(|step| self.take(row, route, step)),
            Step::Drop => return,
            Step::Fail(kind, code, message) => {
                return self.output.failures.push(Failure { row, kind, code, message });
            }
        };
        self.output.rows.push(OutRow { row, op, route });
        for (at, column) in self.cells.iter_mut().enumerate() {
            column.push(cells.get(at).cloned().unwrap_or(OwnedCell::Unset));
        }
    }

    fn span(&mut self, bytes: &[u8]) -> Span {
        let offset = self.output.data.len() as u32;
        self.output.data.extend_from_slice(bytes);
        Span { offset, length: bytes.len() as u32 }
    }

    fn finish(mut self) -> TransformOutput {
        let fields = self.subscription.set_fields.iter().zip(&self.cells);
        self.output.set_fields = fields.map(|(field, cells)| set_column(field.field_type, cells)).collect();
        self.output.usage = Usage { records: 0, cpu_ns: CALL_CPU_NS, memory_bytes: 1 << 16 };
        self.output
    }
}

/// Packs the cells of a set field.
fn set_column(field_type: FieldType, cells: &[OwnedCell]) -> SetColumn {
    let state = cells.iter().map(|cell| match cell {
        OwnedCell::Unset => FIELD_STATE_LEAVE,
        OwnedCell::Null => FIELD_STATE_NULL,
        OwnedCell::Value(_) => FIELD_STATE_SET,
    });
    let mut column = SetColumn { state: state.collect(), ..SetColumn::default() };
    if column.state.iter().all(|state| *state == FIELD_STATE_SET) {
        column.state.clear();
    }
    let values = cells.iter().map(|cell| if let OwnedCell::Value(value) = cell { Some(value) } else { None });
    match field_type {
        FieldType::Boolean => {
            column.values.extend(values.map(|value| u8::from(matches!(value, Some(OwnedValue::Boolean(true))))));
        }
        FieldType::S64 => column.values.extend(values.flat_map(|value| match value {
            Some(OwnedValue::S64(value)) => value.to_le_bytes(),
            _ => [0; 8],
        })),
        FieldType::F64 => column.values.extend(values.flat_map(|value| match value {
            Some(OwnedValue::F64(value)) => value.to_le_bytes(),
            _ => [0; 8],
        })),
        FieldType::Text | FieldType::Bytes | FieldType::Json => {
            column.values.extend(0_u32.to_le_bytes());
            for value in values {
                column.data.extend_from_slice(text_bytes(value));
                column.values.extend((column.data.len() as u32).to_le_bytes());
            }
        }
        FieldType::Symbol => pack_symbols(&mut column, values),
    }
    column
}

fn pack_symbols<'a>(column: &mut SetColumn, values: impl Iterator<Item = Option<&'a OwnedValue>>) {
    let mut seen: BTreeMap<&[u8], u32> = BTreeMap::new();
    let mut words: Vec<&[u8]> = Vec::new();
    for value in values {
        let word = text_bytes(value);
        let index = *seen.entry(word).or_insert_with(|| {
            words.push(word);
            words.len() as u32 - 1
        });
        column.values.extend(index.to_le_bytes());
    }
    column.data.extend((words.len() as u32).to_le_bytes());
    let mut end = 0;
    column.data.extend(0_u32.to_le_bytes());
    for word in &words {
        end += word.len() as u32;
        column.data.extend(end.to_le_bytes());
    }
    words.iter().for_each(|word| column.data.extend_from_slice(word));
}

fn text_bytes(value: Option<&OwnedValue>) -> &[u8] {
    match value {
        Some(OwnedValue::Text(text) | OwnedValue::Json(text)) => text.as_bytes(),
        Some(OwnedValue::Bytes(bytes)) => bytes,
        _ => &[],
    }
}

/// A cell of a column that the host extracted.
fn read_cell(field_type: FieldType, column: &FieldColumn, row: usize) -> Option<OwnedValue> {
    let word = |bytes: &[u8], at: usize| {
        let start = at.checked_mul(4)?;
        Some(u32::from_le_bytes(bytes.get(start..start + 4)?.try_into().ok()?) as usize)
    };
    let eight = || column.values.get(row * 8..row * 8 + 8)?.try_into().ok();
    let text = || column.data.get(word(&column.values, row)?..word(&column.values, row + 1)?);
    Some(match field_type {
        FieldType::Boolean => OwnedValue::Boolean(*column.values.get(row)? != 0),
        FieldType::S64 => OwnedValue::S64(i64::from_le_bytes(eight()?)),
        FieldType::F64 => OwnedValue::F64(f64::from_le_bytes(eight()?)),
        FieldType::Text => OwnedValue::Text(String::from_utf8(text()?.to_vec()).ok()?),
        FieldType::Json => OwnedValue::Json(String::from_utf8(text()?.to_vec()).ok()?),
        FieldType::Bytes => OwnedValue::Bytes(text()?.to_vec()),
        FieldType::Symbol => {
            let (index, count) = (word(&column.values, row)?, word(&column.data, 0)?);
            let words = column.data.get(4 + (count + 1) * 4..)?;
            let (start, end) = (word(&column.data, 1 + index)?, word(&column.data, 2 + index)?);
            OwnedValue::Text(String::from_utf8(words.get(start..end)?.to_vec()).ok()?)
        }
    })
}

fn contains(value: &[u8], marker: &[u8]) -> bool {
    marker.is_empty() || value.windows(marker.len()).any(|window| window == marker)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::record::{Offset, OutputField, TopicPartition};

    fn batch(values: &[&str]) -> Batch {
        let mut batch = Batch::new(TopicPartition::new("t", 0));
        for (offset, value) in values.iter().enumerate() {
            batch.push(Offset(offset as i64), Some(1), None, Some(value.as_bytes()), []);
        }
        batch
    }

    #[test]
    fn faults_strike_where_and_as_often_as_told() {
        let plugin = MemoryTransform::identity().trap_times(b"bad", TrapKind::CpuLimit, 1).busy_on(b"slow", 1);
        let batch = batch(&["good", "bad", "slow"]);
        let input = TransformInput { batch: &batch, value_fields: &[] };
        assert!(matches!(plugin.apply(&input), Err(TransformError::Trap { kind: TrapKind::CpuLimit, .. })));
        assert!(matches!(plugin.apply(&input), Err(TransformError::Busy { .. })));
        assert_eq!(plugin.apply(&input).expect("no fault is left").rows.len(), 3);
    }

    #[test]
    fn set_fields_have_one_cell_an_output_row() {
        let field = |name: &str, field_type| OutputField { path: vec![name.into()], field_type };
        let subscription = Subscription {
            set_fields: vec![field("n", FieldType::S64), field("s", FieldType::Symbol), field("t", FieldType::Text)],
            ..Subscription::default()
        };
        let plugin = MemoryTransform::new("p", subscription, |record| match record.row {
            0 => Step::All(vec![
                Step::New(vec![OwnedCell::Value(1.into()), OwnedCell::Value("x".into()), OwnedCell::Null]),
                Step::To(1, Box::new(Step::Drop)),
                Step::Keep(vec![]),
            ]),
            1 => Step::Drop,
            _ => Step::Replace(b"new".to_vec()),
        });
        let batch = batch(&["a", "b", "c"]);
        let output = plugin.apply(&TransformInput { batch: &batch, value_fields: &[] }).expect("applies");
        assert_eq!(output.rows.iter().map(|row| row.row).collect::<Vec<_>>(), [0, 0, 2]);
        assert_eq!(output.set_fields[0].values.len(), 24);
        assert_eq!(output.set_fields[1].state, [FIELD_STATE_SET, FIELD_STATE_LEAVE, FIELD_STATE_LEAVE]);
        assert_eq!(output.set_fields[2].values.len(), 16);
    }
}
