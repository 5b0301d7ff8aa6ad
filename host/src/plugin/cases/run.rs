//! One run of a case: the records of a file through one step, the way the line takes a batch through it.

use std::sync::Arc;

use serde_json::Value;

use super::broken::Broken;
use super::format::{InputRecord, OutputRow, delete_line, failure_line, row_line};
use super::{Subject, Way};
use crate::config::{Format, Tombstones};
use crate::pipeline::decode::Extractor;
use crate::pipeline::encode::{Encoder, Origins, OutputEncoder, Routed, Stage};
use crate::pipeline::{FailureKind, OutOp, Subscription, TransformInput, Wants};
use crate::record::{Batch, HeaderIter, Offset, TopicPartition, WriteTime};

/// Runs the records; gives the lines of `expected.jsonl`.
pub(super) fn run(records: &[InputRecord], subject: &dyn Subject, way: Way) -> Result<Vec<Value>, Broken> {
    let runner = Runner::new(subject);
    let mut lines = Vec::new();
    let same_partition = |a: &InputRecord, b: &InputRecord| a.topic == b.topic && a.partition == b.partition;
    for partition in records.chunk_by(same_partition) {
        for batch in partition.chunks(way.batch_records.map_or(partition.len(), Into::into)) {
            if way.fresh {
                subject.drop_instances();
            }
            lines.extend(runner.batch(batch)?);
        }
    }
    Ok(lines)
}

/// The line for one step and an output that takes whole records.
struct Runner<'s> {
    subject: &'s dyn Subject,
    subscription: &'s Subscription,
    extractor: Extractor,
    encoder: Encoder,
    output: OutputEncoder,
}

impl<'s> Runner<'s> {
    fn new(subject: &'s dyn Subject) -> Self {
        let subscription = subject.transform().subscription();
        let set_fields = vec![subscription.set_fields.clone()];
        Self {
            subject,
            subscription,
            extractor: Extractor::json(&subscription.value_fields),
            output: OutputEncoder::new("case", &Wants::Records, &Tombstones::Reject, &set_fields),
            encoder: Encoder { format: Format::Json, set_fields },
        }
    }

    fn batch(&self, records: &[InputRecord]) -> Result<Vec<Value>, Broken> {
        let (Some(first), Some(last)) = (records.first(), records.last()) else { return Ok(Vec::new()) };
        let mut batch = Batch::new(TopicPartition::new(&first.topic, first.partition));
        for record in records {
            let headers = HeaderIter::new(&record.headers);
            batch.push(
                Offset(record.offset),
                record.timestamp_ms,
                record.key.as_deref(),
                record.value.as_deref(),
                headers,
            );
        }
        let mut lines = Lines { records, by_record: vec![Vec::new(); records.len()] };
        let mut extracted = self.extractor.extract(&batch);
        for reject in &extracted.rejects {
            lines.fail(reject.row, "reject", reject.code, None, &reject.message);
        }
        let tombstones = batch.select(extracted.tombstones.iter().copied());
        self.encode(&batch, Stage::pass(tombstones), &mut lines);
        let input = match extracted.rows.take() {
            Some(rows) => Arc::new(batch.select(rows)),
            None => Arc::new(batch.clone()),
        };
        if !input.is_empty() {
            let said = self
                .subject
                .transform()
                .apply(&TransformInput { batch: &input, value_fields: &extracted.columns })
                .map_err(|error| Broken { records: (first.number, last.number), error })?;
            for failure in &said.failures {
                let origin = input.origins.get(failure.row as usize).copied().unwrap_or_default() as usize;
                let (kind, delay_ms) = match failure.kind {
                    FailureKind::Reject => ("reject", None),
                    FailureKind::Skip => ("skip", None),
                    FailureKind::Retry(delay) => ("retry", Some(delay.as_millis() as u64)),
                };
                lines.fail(origin, kind, &failure.code, delay_ms, &failure.message);
            }
            self.encode(&batch, Stage { step: Some(0), batch: input, output: said }, &mut lines);
        }
        Ok(lines.by_record.into_iter().flatten().collect())
    }

    /// What a sink of whole records would get of each row.
    fn encode(&self, source: &Batch, mut stage: Stage, lines: &mut Lines<'_>) {
        // A deleted row has no value; its set fields alone, which name the row, are what `new` makes of it.
        let mut deletes = Vec::with_capacity(stage.output.rows.len());
        for row in &mut stage.output.rows {
            deletes.push(row.op == OutOp::Delete);
            if row.op == OutOp::Delete {
                row.op = OutOp::New;
            }
        }
        let write_times = vec![WriteTime(0); source.len()];
        let origins = Origins { source, write_times: &write_times, generation: 0 };
        let mut failures = Vec::new();
        let stages = std::slice::from_ref(&stage);
        for (at, (row, is_delete)) in stage.output.rows.iter().zip(deletes).enumerate() {
            let Some(&origin) = stage.batch.origins.get(row.row as usize) else { continue };
            let routed = Routed { stage: 0, row: at, origin, index: 0 };
            let encoded = self.encoder.sink_batch(&self.output, stages, &[routed], origins, &mut failures);
            let Some(meta) = encoded.rows.first() else { continue };
            let output = match row.route {
                0 => "default",
                route => self.subscription.routes.get(route as usize - 1).map_or("?", String::as_str),
            };
            let record = OutputRow {
                key: encoded.keys.get(0),
                value: encoded.values.get(0),
                headers: encoded.headers.get(0).unwrap_or_default(),
                timestamp_ms: Some(meta.timestamp_ms).filter(|ms| *ms >= 0),
            };
            lines.row(origin as usize, output, record, is_delete);
        }
        // A record of which any output cannot be encoded has none.
        failures.dedup_by_key(|failure| failure.origin);
        for failure in failures {
            lines.replace(failure.origin as usize, failure.code, &failure.message);
        }
    }
}

/// The lines of a batch, by record.
struct Lines<'r> {
    records: &'r [InputRecord],
    by_record: Vec<Vec<Value>>,
}

impl Lines<'_> {
    fn fail(&mut self, row: usize, kind: &str, code: &str, delay_ms: Option<u64>, message: &str) {
        if let (Some(record), Some(lines)) = (self.records.get(row), self.by_record.get_mut(row)) {
            lines.push(failure_line(record.number, kind, code, delay_ms, message));
        }
    }

    fn row(&mut self, row: usize, output: &str, record: OutputRow<'_>, is_delete: bool) {
        if let (Some(input), Some(lines)) = (self.records.get(row), self.by_record.get_mut(row)) {
            lines.push(if is_delete {
                delete_line(input.number, output, record.value.unwrap_or(b"{}"))
            } else {
                row_line(input, output, record)
            });
        }
    }

    fn replace(&mut self, row: usize, code: &str, message: &str) {
        if let Some(lines) = self.by_record.get_mut(row) {
            lines.clear();
        }
        self.fail(row, "reject", code, None, message);
    }
}
