//! The digest of what decides what a pipeline writes.
//!
//! In: a valid pipeline. Out: a digest that stays the same under a new order of keys, a comment, a new broker address,
//! another batch size or group, and changes where the same record could give other cells. The artifacts of its plugins
//! have digests of their own.

use serde_json::{Map, Value, json};

use super::{Format, Output, Pipeline, Poison, TableOutput, Tombstones};
use crate::record::Digest;

/// The digest of a pipeline.
pub(super) fn of(pipeline: &Pipeline) -> Digest {
    let outputs: Map<String, Value> =
        pipeline.outputs.iter().map(|(name, kind)| (name.clone(), output(kind))).collect();
    let said = json!({
        "version": 1,
        "format": match pipeline.source.format {
            Format::Json => "json",
            Format::Bytes => "bytes",
        },
        "steps": pipeline.steps.iter().map(|step| &step.config).collect::<Vec<_>>(),
        "outputs": outputs,
        "poison": match pipeline.errors.poison {
            Poison::DeadLetter => "dead-letter",
            Poison::Skip => "skip",
            Poison::Stop => "stop",
        },
    });
    Digest::of(canonical(&said).as_bytes())
}

fn output(output: &Output) -> Value {
    match output {
        Output::Kafka(kafka) => json!({ "kafka": kafka.topic }),
        Output::Cassandra(table) => json!({ "cassandra": self::table(table) }),
        Output::Sqlite(table) => json!({ "sqlite": self::table(table) }),
        Output::Discard => json!("discard"),
    }
}

fn table(table: &TableOutput) -> Value {
    json!({
        "table": table.table,
        "columns": table.columns,
        "ttl_ms": table.ttl.map(|ttl| ttl.as_secs() * 1000),
        "timestamp_floor": table.timestamp_floor,
        "tombstones": match &table.tombstones {
            Tombstones::Reject => json!("reject"),
            Tombstones::Skip => json!("skip"),
            Tombstones::Delete { key } => json!(key),
        },
    })
}

/// JSON with the keys of every object in order, so that equal values have equal text.
fn canonical(value: &Value) -> String {
    match value {
        Value::Object(entries) => {
            let mut sorted: Vec<_> = entries.iter().collect();
            sorted.sort_by_key(|(key, _)| *key);
            let inner: Vec<String> = sorted
                .into_iter()
                .map(|(key, value)| format!("{}:{}", Value::from(key.as_str()), canonical(value)))
                .collect();
            format!("{{{}}}", inner.join(","))
        }
        Value::Array(items) => format!("[{}]", items.iter().map(canonical).collect::<Vec<_>>().join(",")),
        other => other.to_string(),
    }
}
