//! A candidate that runs beside the live generation on live records.
//!
//! In: what the live one made of a part, and what the candidate makes of the same. Out: [`Differences`]: rows that would
//! change, come or be missing, by field, with the first examples, and what both cost. What the candidate says goes nowhere
//! else. Values are told to whoever asked for it, with what the configuration keeps secret masked; what is kept
//! has none.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};

use serde::{Deserialize, Serialize};
use tokio::sync::watch;

use super::Wants;
use super::generation::{Generation, Processed};
use super::line::LineOutput;
use crate::config::Mask;
use crate::record::{Batch, Cell, CellColumn, Offset, RowOp, SinkBatch, TopicPartition, Value};

/// Examples that are told.
const EXAMPLES_MAX: usize = 10;
/// Characters of a value in an example.
const VALUE_CHARS: usize = 80;

/// What a candidate would make otherwise.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Differences {
    /// Records that both ran.
    pub records: u64,
    /// Rows that are the same.
    pub same: u64,
    /// Rows of which a field differs.
    pub changed: u64,
    /// Rows that only the candidate makes.
    pub added: u64,
    /// Rows that only the live one makes.
    pub missing: u64,
    /// Records that fail under the candidate alone.
    pub failed: u64,
    /// Records that fail under the live one alone.
    pub mended: u64,
    /// Differing cells by `output.field`.
    pub fields: BTreeMap<String, u64>,
    /// The first of them.
    pub examples: Vec<Example>,
    /// CPU time in plugins, nanoseconds: the live one's.
    pub live_cpu_ns: u64,
    /// The candidate's.
    pub candidate_cpu_ns: u64,
}

/// A difference.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Example {
    /// Where the record stands: `topic/partition/offset`.
    pub record: String,
    /// `output.field`, or the output alone where a row is added or missing; `failure` where the record fails.
    pub place: String,
    /// What the live one makes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub live: Option<String>,
    /// What the candidate would make.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub candidate: Option<String>,
}

impl Differences {
    /// Without what was in the records.
    #[must_use]
    pub fn without_values(mut self) -> Self {
        self.examples.iter_mut().for_each(|example| (example.live, example.candidate) = (None, None));
        self
    }

    /// Whether both make the very same.
    #[must_use]
    pub fn is_none(&self) -> bool {
        self.changed + self.added + self.missing + self.failed + self.mended == 0
    }
}

/// A candidate that runs beside the live generation, where there is one.
#[derive(Default)]
pub struct Shadowing(RwLock<Option<Arc<Shadow>>>);

impl Shadowing {
    /// It begins.
    pub fn begin(&self, shadow: Arc<Shadow>) {
        *self.0.write().unwrap_or_else(PoisonError::into_inner) = Some(shadow);
    }

    /// It is over.
    pub fn end(&self) {
        *self.0.write().unwrap_or_else(PoisonError::into_inner) = None;
    }

    /// The candidate, while records are wanted.
    #[must_use]
    pub fn get(&self) -> Option<Arc<Shadow>> {
        self.0.read().unwrap_or_else(PoisonError::into_inner).clone().filter(|shadow| shadow.is_open())
    }
}

/// A candidate, and what is known of it.
pub struct Shadow {
    candidate: Arc<Generation>,
    /// Records that are wanted.
    wanted: u64,
    /// By output: its name, and its columns where it is a table.
    outputs: Vec<(String, Vec<String>)>,
    mask: Mask,
    found: Mutex<Differences>,
    is_over: watch::Sender<bool>,
}

impl Shadow {
    /// Of a candidate for a line with these outputs, over so many records.
    #[must_use]
    pub fn new(candidate: Arc<Generation>, wanted: u64, outputs: &[LineOutput], mask: Mask) -> Self {
        let columns = |output: &LineOutput| match output.sink.wants() {
            Wants::Cells(specs) => specs.iter().map(|spec| spec.column.clone()).collect(),
            Wants::Records => Vec::new(),
        };
        let outputs = outputs.iter().map(|output| (output.name.clone(), columns(output))).collect();
        Self { candidate, wanted, outputs, mask, found: Mutex::default(), is_over: watch::Sender::new(false) }
    }

    /// The candidate.
    #[must_use]
    pub fn candidate(&self) -> &Arc<Generation> {
        &self.candidate
    }

    /// Whether records are still wanted.
    #[must_use]
    pub fn is_open(&self) -> bool {
        !*self.is_over.borrow()
    }

    /// Resolves when enough was seen.
    pub async fn over(&self) {
        let _ = self.is_over.subscribe().wait_for(|is_over| *is_over).await;
    }

    /// What was found until now.
    #[must_use]
    pub fn found(&self) -> Differences {
        self.lock().clone()
    }

    /// Takes what both made of so many records of a batch.
    pub fn compare(&self, source: &Batch, records: usize, live: &Processed, candidate: &Processed) {
        let partition = &source.source;
        let mut found = self.lock();
        found.records += records as u64;
        found.live_cpu_ns += cpu_ns(live);
        found.candidate_cpu_ns += cpu_ns(candidate);
        self.failures(&mut found, source, live, candidate);
        for (at, (name, columns)) in self.outputs.iter().enumerate() {
            let of = |processed: &Processed| rows(processed, at, columns);
            let (mut before, after) = (of(live), of(candidate));
            for (place, row) in after {
                match before.remove(&place) {
                    Some(same) if same == row => found.same += 1,
                    Some(other) => self.changed(&mut found, (partition, place.0, name), &other, &row),
                    None => {
                        found.added += 1;
                        self.example(&mut found, (partition, place.0, name), (None, Some(row.told())));
                    }
                }
            }
            for (place, row) in before {
                found.missing += 1;
                self.example(&mut found, (partition, place.0, name), (Some(row.told()), None));
            }
        }
        if found.records >= self.wanted {
            self.is_over.send_replace(true);
        }
    }

    fn failures(&self, found: &mut Differences, source: &Batch, live: &Processed, candidate: &Processed) {
        let origins = |processed: &Processed| processed.failures.keys().copied().collect::<BTreeSet<_>>();
        let (live_fails, candidate_fails) = (origins(live), origins(candidate));
        found.failed += candidate_fails.difference(&live_fails).count() as u64;
        found.mended += live_fails.difference(&candidate_fails).count() as u64;
        for (origin, failure) in &candidate.failures {
            if let (false, Some(offset)) = (live_fails.contains(origin), source.offsets.get(*origin as usize)) {
                let told = format!("{}: {}", failure.code, failure.message);
                self.example(found, (&source.source, *offset, &"failure".to_owned()), (None, Some(told)));
            }
        }
    }

    fn changed(&self, found: &mut Differences, at: (&TopicPartition, i64, &String), live: &Row, candidate: &Row) {
        found.changed += 1;
        let (partition, offset, output) = at;
        if live.op != candidate.op {
            self.example(found, at, (Some(live.told()), Some(candidate.told())));
        }
        let names: BTreeSet<&String> = live.fields.keys().chain(candidate.fields.keys()).collect();
        for name in names {
            let (one, other) = (live.fields.get(name), candidate.fields.get(name));
            if one != other {
                let place = format!("{output}.{name}");
                *found.fields.entry(place.clone()).or_default() += 1;
                self.example(found, (partition, offset, &place), (one.cloned(), other.cloned()));
            }
        }
    }

    fn example(
        &self,
        found: &mut Differences,
        (partition, offset, place): (&TopicPartition, i64, &String),
        (live, candidate): (Option<String>, Option<String>),
    ) {
        if found.examples.len() < EXAMPLES_MAX {
            let record = format!("{partition}/{}", Offset(offset));
            let cut = |value: Option<String>| value.map(|value| self.cut(&value));
            let (live, candidate) = (cut(live), cut(candidate));
            found.examples.push(Example { record, place: place.clone(), live, candidate });
        }
    }

    fn cut(&self, value: &str) -> String {
        self.mask.apply(value).chars().take(VALUE_CHARS).collect()
    }

    fn lock(&self) -> MutexGuard<'_, Differences> {
        self.found.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn cpu_ns(processed: &Processed) -> u64 {
    processed.chain.usage.iter().map(|(_, usage)| usage.cpu_ns).sum()
}

/// A row as text, field by field.
#[derive(Debug, PartialEq, Eq)]
struct Row {
    op: RowOp,
    fields: BTreeMap<String, String>,
}

impl Row {
    fn told(&self) -> String {
        let op = if self.op == RowOp::Delete { "deleted: " } else { "" };
        let fields: Vec<String> = self.fields.iter().map(|(name, value)| format!("{name}={value}")).collect();
        format!("{op}{}", fields.join(", "))
    }
}

/// The rows for an output, by their record's offset and which of the record's rows there they are.
fn rows(processed: &Processed, output: usize, columns: &[String]) -> BTreeMap<(i64, usize), Row> {
    let mut rows = BTreeMap::new();
    for (_, batch) in processed.sink_batches.iter().filter(|(at, _)| *at == output) {
        for (at, meta) in batch.rows.iter().enumerate() {
            let nth = rows.range((meta.offset.0, 0)..=(meta.offset.0, usize::MAX)).count();
            rows.insert((meta.offset.0, nth), Row { op: meta.op, fields: fields(batch, at, columns) });
        }
    }
    rows
}

fn fields(batch: &SinkBatch, row: usize, columns: &[String]) -> BTreeMap<String, String> {
    if columns.is_empty() {
        return record_fields(batch, row);
    }
    let cells = columns.iter().zip(&batch.cells);
    let told = |(name, column): (&String, &CellColumn)| match column.get(row) {
        Cell::Unset => None,
        Cell::Null => Some((name.clone(), "null".to_owned())),
        Cell::Value(value) => Some((name.clone(), text_of(&value))),
    };
    cells.filter_map(told).collect()
}

/// Of a JSON object its fields, else the value as it is.
fn record_fields(batch: &SinkBatch, row: usize) -> BTreeMap<String, String> {
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    let key = batch.keys.get(row).map(|key| ("key".to_owned(), text(key)));
    let value = batch.values.get(row).unwrap_or_default();
    let object = serde_json::from_slice::<serde_json::Map<String, serde_json::Value>>(value);
    let fields: Vec<(String, String)> = match object {
        Ok(object) => object.into_iter().map(|(name, value)| (format!("value.{name}"), value.to_string())).collect(),
        Err(_) => vec![("value".to_owned(), text(value))],
    };
    key.into_iter().chain(fields).collect()
}

fn text_of(value: &Value<'_>) -> String {
    match value {
        Value::Boolean(value) => value.to_string(),
        Value::S64(value) => value.to_string(),
        Value::F64(value) => value.to_string(),
        Value::Text(text) | Value::Json(text) => (*text).to_owned(),
        Value::Bytes(bytes) => format!("0x{}", hex::encode(bytes)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::memory::MemorySink;
    use crate::pipeline::CellSpec;
    use crate::pipeline::chain::RecordFailure;
    use crate::pipeline::generation::Spec;
    use crate::pipeline::tap::Tap;
    use crate::record::{Column, RowMeta, WriteTime};

    const SECRET: &str = "hunter2";

    /// Rows of `id` and `n` at these offsets.
    fn made(rows: &[(i64, &str, i64)]) -> Processed {
        let mut batch = SinkBatch {
            source: TopicPartition::new("orders", 0),
            generation: 0,
            rows: Vec::new(),
            keys: Column::default(),
            values: Column::default(),
            headers: Column::default(),
            cells: vec![CellColumn::default(), CellColumn::default()],
        };
        for (offset, id, n) in rows {
            batch.rows.push(RowMeta {
                origin: *offset as u32,
                offset: Offset(*offset),
                timestamp_ms: -1,
                write_time: WriteTime(0),
                index: 0,
                op: RowOp::Upsert,
            });
            batch.cells[0].push(Cell::Value(Value::Text(id)));
            batch.cells[1].push(Cell::Value(Value::S64(*n)));
        }
        Processed { sink_batches: vec![(0, batch)], ..Processed::empty() }
    }

    fn shadow(wanted: u64) -> Shadow {
        let column = |name: &str| CellSpec { column: name.into(), path: vec![name.into()] };
        let sink = MemorySink::table(vec![column("id"), column("n")], &["id"]);
        let outputs = vec![LineOutput { name: "default".to_owned(), sink: Arc::new(sink) }];
        let spec = Spec {
            number: 2,
            format: crate::config::Format::Json,
            outputs: Vec::new(),
            configuration: String::new(),
            mask: Mask::default(),
            tap: Tap::default(),
        };
        Shadow::new(Arc::new(Generation::new(&[], spec)), wanted, &outputs, Mask::of([SECRET]))
    }

    fn batch(records: i64) -> Batch {
        let mut batch = Batch::new(TopicPartition::new("orders", 0));
        (0..records).for_each(|offset| batch.push(Offset(offset), None, None, None, []));
        batch
    }

    #[test]
    fn what_would_change_come_or_be_missing_is_told_by_field_with_examples() {
        let shadow = shadow(4);
        let live = made(&[(0, "a", 1), (1, "b", 2), (2, "c", 3)]);
        let mut candidate = made(&[(0, "a", 1), (1, "b", 20), (3, SECRET, 4)]);
        candidate.failures.insert(2, RecordFailure::new("transform:p", "bad", "no"));
        shadow.compare(&batch(4), 4, &live, &candidate);
        let found = shadow.found();
        let told = (found.same, found.changed, found.added, found.missing, found.failed, found.mended);
        assert_eq!(told, (1, 1, 1, 1, 1, 0));
        assert_eq!(found.fields, BTreeMap::from([("default.n".to_owned(), 1)]));
        let texts: Vec<(&str, &str, Option<&str>, Option<&str>)> = found
            .examples
            .iter()
            .map(|example| {
                let Example { record, place, live, candidate } = example;
                (record.as_str(), place.as_str(), live.as_deref(), candidate.as_deref())
            })
            .collect();
        assert_eq!(
            texts,
            [
                ("orders/0/2", "failure", None, Some("bad: no")),
                ("orders/0/1", "default.n", Some("2"), Some("20")),
                ("orders/0/3", "default", None, Some("id=***, n=4")),
                ("orders/0/2", "default", Some("id=c, n=3"), None),
            ]
        );
        assert!(!shadow.is_open() && !found.is_none());
        assert!(found.without_values().examples.iter().all(|example| example.live.is_none()));
    }

    #[test]
    fn the_same_is_no_difference_and_it_goes_on_until_enough_was_seen() {
        let shadow = shadow(100);
        shadow.compare(&batch(2), 2, &made(&[(0, "a", 1)]), &made(&[(0, "a", 1)]));
        assert!(shadow.is_open() && shadow.found().is_none());
    }
}
