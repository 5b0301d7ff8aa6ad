//! From what the steps said to what the sinks get.
//!
//! In: stages (a batch and what a step said about it). Out: the next step's batch, and one [`SinkBatch`] an output, in
//! offset order. A record of which any output cannot be encoded has none: it goes to the dead letters whole. Never
//! builds a document for a table: cells go from columns, and from the raw text of fields, straight into cells.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::sync::Arc;

use super::decode::{Scanner, SerdeScanner, with_natural_cell};
use super::json_patch::{self, PatchError};
use super::{CellSpec, OutOp, OutRow, Span, TransformOutput, Wants};
use crate::config::{Format, Tombstones};
use crate::record::{
    Batch, Cell, CellColumn, Column, HeaderIter, Offset, OutputField, RowMeta, RowOp, SetCell, SinkBatch, WriteTime,
};

/// A batch, and what a step said about it.
#[derive(Debug)]
pub struct Stage {
    /// The step; none where rows pass without a step.
    pub step: Option<usize>,
    /// What it got.
    pub batch: Arc<Batch>,
    /// What it said.
    pub output: TransformOutput,
}

impl Stage {
    /// All rows of a batch, as they are.
    #[must_use]
    pub fn pass(batch: impl Into<Arc<Batch>>) -> Self {
        let batch = batch.into();
        let rows = (0..batch.len() as u32).map(|row| OutRow { row, op: OutOp::Keep, route: 0 }).collect();
        Self { step: None, batch, output: TransformOutput { rows, ..TransformOutput::default() } }
    }

    fn origin(&self, row: &OutRow) -> u32 {
        self.batch.origins[row.row as usize]
    }
}

/// A row on its way to an output.
#[derive(Debug, Clone, Copy)]
pub struct Routed {
    /// Which stage said so.
    pub stage: usize,
    /// Which of the stage's output rows.
    pub row: usize,
    /// The record.
    pub origin: u32,
    /// Which of the record's outputs this is, over all steps.
    pub index: u32,
}

/// A record that cannot be encoded.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EncodeFailure {
    /// The record.
    pub origin: u32,
    /// `encode.…`
    pub code: &'static str,
    /// For people.
    pub message: String,
}

/// What it takes to encode for one output. Made once per pipeline.
pub struct OutputEncoder {
    /// The output's name.
    pub name: String,
    wants: Wants,
    tombstones: Tombstones,
    scanner: SerdeScanner,
    key_scanner: SerdeScanner,
    /// By step and column: the set field that gives the column.
    set_by: Vec<Vec<Option<usize>>>,
}

impl OutputEncoder {
    /// An encoder for a sink that wants this, after steps that set these fields.
    #[must_use]
    pub fn new(name: &str, wants: &Wants, tombstones: &Tombstones, set_fields: &[Vec<OutputField>]) -> Self {
        let specs: &[CellSpec] = if let Wants::Cells(specs) = wants { specs } else { &[] };
        let key_paths: Vec<Vec<String>> = specs.iter().map(|spec| vec![spec.column.clone()]).collect();
        let set_by = |fields: &Vec<OutputField>| {
            specs.iter().map(|spec| fields.iter().rposition(|field| field.path == spec.path)).collect()
        };
        Self {
            name: name.to_owned(),
            wants: wants.clone(),
            tombstones: tombstones.clone(),
            scanner: SerdeScanner::new(specs.iter().map(|spec| spec.path.as_slice())),
            key_scanner: SerdeScanner::new(key_paths.iter().map(Vec::as_slice)),
            set_by: set_fields.iter().map(set_by).collect(),
        }
    }
}

/// What all outputs of a pipeline share.
pub struct Encoder {
    /// How values are encoded at the source.
    pub format: Format,
    /// By step: what it sets.
    pub set_fields: Vec<Vec<OutputField>>,
}

/// Who writes: the batch's own words for all its rows.
#[derive(Debug, Clone, Copy)]
pub struct Origins<'a> {
    /// The batch as the source gave it.
    pub source: &'a Batch,
    /// By origin: the record's write time.
    pub write_times: &'a [WriteTime],
    /// The assignment under which the batch was read.
    pub generation: u64,
}

impl Encoder {
    /// The batch for the step after `stage`: its rows on the default route that are records. Rows whose value cannot be
    /// made are named in `failures`.
    pub fn next_batch(&self, stage: &Stage, failures: &mut Vec<EncodeFailure>) -> Batch {
        let mut next = Batch::new(stage.batch.source.clone());
        let mut patched = Vec::new();
        for (at, row) in stage.output.rows.iter().enumerate() {
            if row.route != 0 || row.op == OutOp::Delete {
                continue;
            }
            match self.record(stage, at, &mut patched) {
                Ok(record) => {
                    next.origins.push(stage.origin(row));
                    next.offsets.push(stage.batch.offsets[row.row as usize]);
                    next.timestamps.push(record.timestamp_ms);
                    next.keys.push(record.key);
                    next.values.push(record.value);
                    next.headers.push(Some(record.headers));
                }
                Err(error) => failures.push(failure(stage.origin(row), &error)),
            }
        }
        next
    }

    /// The batch for one output. Rows that cannot be encoded are named in `failures`, and missing.
    pub fn sink_batch(
        &self,
        output: &OutputEncoder,
        stages: &[Stage],
        routed: &[Routed],
        origins: Origins<'_>,
        failures: &mut Vec<EncodeFailure>,
    ) -> SinkBatch {
        let mut batch = SinkBatch {
            source: origins.source.source.clone(),
            generation: origins.generation,
            rows: Vec::with_capacity(routed.len()),
            keys: Column::default(),
            values: Column::default(),
            headers: Column::default(),
            cells: Vec::new(),
        };
        match &output.wants {
            Wants::Cells(specs) => batch.cells = vec![CellColumn::default(); specs.len()],
            Wants::Records => {
                // What leaves is about as large as what came.
                let bytes =
                    |column: fn(&Batch) -> &Column| stages.iter().map(|stage| column(&stage.batch).data().len()).sum();
                batch.keys = Column::with_capacity(routed.len(), bytes(|batch| &batch.keys));
                batch.values = Column::with_capacity(routed.len(), bytes(|batch| &batch.values));
                batch.headers = Column::with_capacity(routed.len(), bytes(|batch| &batch.headers));
            }
        }
        let mut scratch = Scratch::default();
        for routed in routed {
            let stage = &stages[routed.stage];
            let row = &stage.output.rows[routed.row];
            let mut meta = RowMeta {
                origin: routed.origin,
                offset: Offset(stage.batch.offsets[row.row as usize]),
                timestamp_ms: origins.source.timestamps[routed.origin as usize],
                write_time: origins.write_times[routed.origin as usize],
                index: routed.index,
                op: if row.op == OutOp::Delete { RowOp::Delete } else { RowOp::Upsert },
            };
            let encoded = match &output.wants {
                Wants::Records => self.push_record(stage, routed.row, &mut meta, &mut batch, &mut scratch.patched),
                Wants::Cells(specs) => {
                    let cells = &mut batch.cells;
                    self.push_cells(output, specs, stage, routed.row, &mut meta, cells, &mut scratch)
                }
            };
            match encoded {
                Ok(true) => batch.rows.push(meta),
                Ok(false) => {}
                Err(error) => failures.push(failure(routed.origin, &error)),
            }
        }
        batch
    }

    fn push_record(
        &self,
        stage: &Stage,
        at: usize,
        meta: &mut RowMeta,
        batch: &mut SinkBatch,
        patched: &mut Vec<u8>,
    ) -> Result<bool, RowError> {
        let record = self.record(stage, at, patched)?;
        if record.timestamp_ms >= 0 {
            meta.timestamp_ms = record.timestamp_ms;
        }
        batch.keys.push(record.key);
        batch.values.push(record.value);
        batch.headers.push(Some(record.headers));
        Ok(true)
    }

    /// Appends one cell to each column; false where the row is passed over.
    #[expect(clippy::too_many_arguments, reason = "the row, what it is made for, and where it goes")]
    fn push_cells<'s>(
        &self,
        output: &OutputEncoder,
        specs: &[CellSpec],
        stage: &'s Stage,
        at: usize,
        meta: &mut RowMeta,
        cells: &mut [CellColumn],
        scratch: &mut Scratch<'s>,
    ) -> Result<bool, RowError> {
        let row = &stage.output.rows[at];
        let input = row.row as usize;
        let base = match row.op {
            OutOp::Keep | OutOp::Delete => stage.batch.values.get(input),
            OutOp::Replace(span) => Some(slice(stage, span)),
            OutOp::Emit(span) => EmitRecord::parse(slice(stage, span))?.value,
            OutOp::Tombstone | OutOp::New => None,
        };
        let sets_fields = matches!(row.op, OutOp::Keep | OutOp::Delete | OutOp::New) && stage.step.is_some();
        let is_tombstone = base.is_none() && !matches!(row.op, OutOp::New | OutOp::Delete);
        if is_tombstone && !(sets_fields && self.sets_anything(stage, at)) {
            return self.push_tombstone(output, specs, stage, at, meta, cells);
        }
        let Scratch { found, sets, .. } = scratch;
        let step = stage.step.unwrap_or(0);
        let set = |column: usize| match output.set_by.get(step).filter(|_| sets_fields).and_then(|by| by[column]) {
            Some(field) => stage.output.set_fields[field].cell(self.set_fields[step][field].field_type, at),
            None => SetCell::Leave,
        };
        sets.clear();
        sets.extend((0..specs.len()).map(set));
        found.clear();
        if let Some(value) = base
            && self.is_json(stage, row.op)
            && sets.contains(&SetCell::Leave)
        {
            output.scanner.scan(value, found)?;
        }
        for (column, (cells, set)) in cells.iter_mut().zip(sets.drain(..)).enumerate() {
            match set {
                SetCell::Set(value) => cells.push(Cell::Value(value)),
                SetCell::Null | SetCell::Remove => cells.push(Cell::Null),
                SetCell::Leave => with_natural_cell(found.get(column).copied().flatten(), |cell| cells.push(cell)),
            }
        }
        Ok(true)
    }

    /// A record with a null value, on its way to a table: deletes the row that its key names, or what else is configured.
    fn push_tombstone(
        &self,
        output: &OutputEncoder,
        specs: &[CellSpec],
        stage: &Stage,
        at: usize,
        meta: &mut RowMeta,
        cells: &mut [CellColumn],
    ) -> Result<bool, RowError> {
        let columns = match &output.tombstones {
            Tombstones::Skip => return Ok(false),
            Tombstones::Reject => return Err(RowError::Tombstone(output.name.clone())),
            Tombstones::Delete { key } => key,
        };
        let mut patched = Vec::new();
        let record = self.record(stage, at, &mut patched)?;
        let key = record.key.ok_or_else(|| RowError::NoKey(output.name.clone()))?;
        let mut found = Vec::new();
        let is_object = key.trim_ascii_start().first() == Some(&b'{');
        if is_object {
            output.key_scanner.scan(key, &mut found)?;
        } else if columns.len() > 1 {
            return Err(RowError::NoKey(output.name.clone()));
        }
        let text = key_text(key).ok_or_else(|| RowError::NoKey(output.name.clone()))?;
        meta.op = RowOp::Delete;
        for (column, (cells, spec)) in cells.iter_mut().zip(specs).enumerate() {
            if !columns.contains(&spec.column) {
                cells.push(Cell::Unset);
            } else if is_object {
                with_natural_cell(found.get(column).copied().flatten(), |cell| cells.push(cell));
            } else {
                cells.push(Cell::Value(crate::record::Value::Text(&text)));
            }
        }
        Ok(true)
    }

    fn sets_anything(&self, stage: &Stage, at: usize) -> bool {
        stage.step.is_some_and(|step| {
            let fields = self.set_fields[step].iter().zip(&stage.output.set_fields);
            fields.into_iter().any(|(field, column)| column.cell(field.field_type, at) != SetCell::Leave)
        })
    }

    /// Whether the value below the set fields is a JSON object: bytes become one once a step has set fields.
    fn is_json(&self, stage: &Stage, op: OutOp) -> bool {
        let step = stage.step.unwrap_or(0);
        let is_plugins_own = !matches!(op, OutOp::Keep | OutOp::Delete);
        self.format == Format::Json
            || !is_plugins_own && self.set_fields[..step].iter().any(|fields| !fields.is_empty())
    }

    /// An output row as a whole record; a value that has to be made is made in `patched`.
    fn record<'s>(&self, stage: &'s Stage, at: usize, patched: &'s mut Vec<u8>) -> Result<OutRecord<'s>, RowError> {
        let row = &stage.output.rows[at];
        let input = row.row as usize;
        let mut record = OutRecord {
            key: stage.batch.keys.get(input),
            value: None,
            headers: stage.batch.headers.get(input).unwrap_or_default(),
            timestamp_ms: stage.batch.timestamps[input],
        };
        match row.op {
            OutOp::Keep => {
                let value = stage.batch.values.get(input);
                record.value = if self.patch(stage, at, value, patched)? { Some(patched) } else { value };
            }
            OutOp::New => record.value = Some(if self.patch(stage, at, None, patched)? { patched } else { b"{}" }),
            OutOp::Replace(span) => record.value = Some(slice(stage, span)),
            OutOp::Tombstone | OutOp::Delete => {}
            OutOp::Emit(span) => {
                let emitted = EmitRecord::parse(slice(stage, span))?;
                record.key = emitted.key;
                record.value = emitted.value;
                record.headers = emitted.headers;
                if emitted.timestamp_ms >= 0 {
                    record.timestamp_ms = emitted.timestamp_ms;
                }
            }
        }
        Ok(record)
    }

    /// Makes the value with the row's set fields in `patched`; false where the row sets nothing.
    fn patch(&self, stage: &Stage, at: usize, base: Option<&[u8]>, patched: &mut Vec<u8>) -> Result<bool, RowError> {
        let Some(step) = stage.step else { return Ok(false) };
        let mut edits = Vec::with_capacity(self.set_fields[step].len());
        for (field, column) in self.set_fields[step].iter().zip(&stage.output.set_fields) {
            let cell = column.cell(field.field_type, at);
            if cell != SetCell::Leave {
                edits.push((field.path.as_slice(), cell));
            }
        }
        if edits.is_empty() {
            return Ok(false);
        }
        let base = base.filter(|_| self.is_json(stage, OutOp::Keep));
        let base =
            base.map(std::str::from_utf8).transpose().map_err(|_| PatchError::NotAnObject("the value".into()))?;
        patched.clear();
        json_patch::patch(base, &edits, patched)?;
        Ok(true)
    }
}

/// A record's key as the text of a key column: what a JSON string says (so do Kafka Connect's JSON converter and others
/// write text), any other key as it stands. None where it is no text.
fn key_text(key: &[u8]) -> Option<Cow<'_, str>> {
    let text = std::str::from_utf8(key).ok()?;
    let said = text.starts_with('"').then(|| serde_json::from_str(text).ok()).flatten();
    Some(said.map_or(Cow::Borrowed(text), Cow::Owned))
}

/// What rows are made in, one after the other.
#[derive(Default)]
struct Scratch<'s> {
    patched: Vec<u8>,
    found: Vec<Option<&'s str>>,
    sets: Vec<SetCell<'s>>,
}

/// A record on its way out.
struct OutRecord<'s> {
    key: Option<&'s [u8]>,
    value: Option<&'s [u8]>,
    headers: &'s [u8],
    timestamp_ms: i64,
}

/// A whole packed record of a plugin; op 3 of `selection` in `wit/types.wit`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct EmitRecord<'a> {
    /// Key.
    pub key: Option<&'a [u8]>,
    /// Value.
    pub value: Option<&'a [u8]>,
    /// Milliseconds; -1 for the input's.
    pub timestamp_ms: i64,
    /// Headers, packed.
    pub headers: &'a [u8],
}

impl<'a> EmitRecord<'a> {
    /// Reads the packed form.
    ///
    /// # Errors
    /// Where it is malformed.
    pub fn parse(packed: &'a [u8]) -> Result<Self, MalformedRecord> {
        let mut rest = packed;
        let key = take_nullable(&mut rest)?;
        let value = take_nullable(&mut rest)?;
        let timestamp_ms = i64::from_le_bytes(take(&mut rest, 8)?.try_into().map_err(|_| MalformedRecord)?);
        let count = take_u32(&mut rest)?;
        let mut headers = HeaderIter::new(rest);
        if headers.by_ref().count() != count as usize || !headers.is_done() || timestamp_ms < -1 {
            return Err(MalformedRecord);
        }
        Ok(Self { key, value, timestamp_ms, headers: rest })
    }
}

/// A packed record that is not laid out as `wit/types.wit` says.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the emitted record is malformed")]
pub struct MalformedRecord;

fn take<'a>(rest: &mut &'a [u8], length: usize) -> Result<&'a [u8], MalformedRecord> {
    let (head, tail) = rest.split_at_checked(length).ok_or(MalformedRecord)?;
    *rest = tail;
    Ok(head)
}

fn take_u32(rest: &mut &[u8]) -> Result<u32, MalformedRecord> {
    Ok(u32::from_le_bytes(take(rest, 4)?.try_into().map_err(|_| MalformedRecord)?))
}

fn take_nullable<'a>(rest: &mut &'a [u8]) -> Result<Option<&'a [u8]>, MalformedRecord> {
    let length = take_u32(rest)?;
    if length == u32::MAX { Ok(None) } else { take(rest, length as usize).map(Some) }
}

fn slice(stage: &Stage, span: Span) -> &[u8] {
    &stage.output.data[span.offset as usize..span.offset as usize + span.length as usize]
}

/// Why a row cannot be encoded.
#[derive(Debug, thiserror::Error)]
enum RowError {
    #[error(transparent)]
    Patch(#[from] PatchError),
    #[error("{0}")]
    Value(#[from] super::decode::Malformed),
    #[error(transparent)]
    Emitted(#[from] MalformedRecord),
    #[error(
        "output {0}: the value is null (a tombstone); say `tombstones: {{ delete: [KEY COLUMNS] }}` or `tombstones: skip` to \
         handle it"
    )]
    Tombstone(String),
    #[error(
        "output {0}: the tombstone's key does not name the row: it has to be the key column's text, or a JSON object with all \
         key columns"
    )]
    NoKey(String),
}

impl RowError {
    fn code(&self) -> &'static str {
        match self {
            Self::Patch(error) => error.code(),
            Self::Value(malformed) => malformed.code,
            Self::Emitted(_) => "encode.malformed_record",
            Self::Tombstone(_) => "encode.tombstone",
            Self::NoKey(_) => "encode.no_key",
        }
    }
}

fn failure(origin: u32, error: &RowError) -> EncodeFailure {
    EncodeFailure { origin, code: error.code(), message: error.to_string() }
}

/// Sends each stage's rows to their outputs; `leaves` names the place of a row's output. Gives the rows by output, in
/// offset order.
pub fn route(
    stages: &[Stage],
    origins: usize,
    outputs: usize,
    leaves: impl Fn(&Stage, &OutRow) -> Option<usize>,
) -> Vec<Vec<Routed>> {
    let mut counts = vec![0_u32; origins];
    let mut by_output: Vec<Vec<Routed>> = vec![Vec::new(); outputs];
    for (stage_at, stage) in stages.iter().enumerate() {
        for (row_at, row) in stage.output.rows.iter().enumerate() {
            if let Some(output) = leaves(stage, row) {
                let origin = stage.origin(row);
                let index = counts[origin as usize];
                counts[origin as usize] += 1;
                by_output[output].push(Routed { stage: stage_at, row: row_at, origin, index });
            }
        }
    }
    for routed in &mut by_output {
        // Several stages may feed one output; rows of one record keep the order in which its stages said them.
        routed.sort_by_key(|routed| routed.origin);
    }
    by_output
}

/// Failures by origin; of several the first counts.
#[must_use]
pub fn by_origin(failures: Vec<EncodeFailure>) -> BTreeMap<u32, EncodeFailure> {
    let mut by_origin = BTreeMap::new();
    for failure in failures {
        by_origin.entry(failure.origin).or_insert(failure);
    }
    by_origin
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::record::{TopicPartition, Value};

    /// What a tombstone with this key gives for the columns `id` and `shop`, or why it is none.
    fn deletion(key: &[u8], columns: &[&str]) -> Result<Vec<String>, String> {
        let spec = |name: &str| CellSpec { column: name.to_owned(), path: vec![name.to_owned()] };
        let tombstones = Tombstones::Delete { key: columns.iter().map(|column| (*column).to_owned()).collect() };
        let output = OutputEncoder::new("default", &Wants::Cells(vec![spec("id"), spec("shop")]), &tombstones, &[]);
        let mut batch = Batch::new(TopicPartition::new("t", 0));
        batch.origins.push(0);
        batch.offsets.push(0);
        batch.timestamps.push(0);
        batch.keys.push(Some(key));
        batch.values.push(None);
        batch.headers.push(None);
        let encoder = Encoder { format: Format::Json, set_fields: Vec::new() };
        let routed = [Routed { stage: 0, row: 0, origin: 0, index: 0 }];
        let origins = Origins { source: &batch, write_times: &[WriteTime(0)], generation: 0 };
        let mut failures = Vec::new();
        let said = encoder.sink_batch(&output, &[Stage::pass(batch.clone())], &routed, origins, &mut failures);
        if let Some(failure) = failures.first() {
            return Err(failure.code.to_owned());
        }
        assert_eq!(said.rows[0].op, RowOp::Delete);
        let cell = |column: &CellColumn| match column.get(0) {
            Cell::Value(Value::Text(text)) => text.to_owned(),
            other => format!("{other:?}"),
        };
        Ok(said.cells.iter().map(cell).collect())
    }

    #[test]
    fn a_tombstones_key_is_text_or_what_its_json_says() {
        let one = |key: &str| deletion(key.as_bytes(), &["id"]).map(|cells| cells[0].clone());
        for (key, wanted) in [
            ("abc", "abc"),
            ("\"abc\"", "abc"),
            (r#""a \"quoted\" \u00fc""#, "a \"quoted\" ü"),
            (r#"{"id": "abc"}"#, "abc"),
            // Not JSON strings: the key as it stands.
            ("\"abc", "\"abc"),
            ("\"a\"b\"", "\"a\"b\""),
            ("5", "5"),
            ("true", "true"),
            (" abc ", " abc "),
        ] {
            assert_eq!(one(key).as_deref(), Ok(wanted), "{key}");
        }
        assert_eq!(deletion(b"\xff", &["id"]), Err("encode.no_key".to_owned()));
        assert_eq!(deletion(b"\"abc\"", &["id", "shop"]), Err("encode.no_key".to_owned()), "one text, two columns");
        let both = deletion(br#"{"shop": "s", "id": "abc", "more": 1}"#, &["id", "shop"]);
        assert_eq!(both, Ok(vec!["abc".to_owned(), "s".to_owned()]));
    }
}
