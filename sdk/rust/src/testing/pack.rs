//! Packs a batch as the host does.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::Value;

use super::Placed;
use crate::bindings::pelton::plugin::types::{Batch, Column, FieldColumn, FieldType, Fields, Source, Subscription};

const NULL: u32 = u32::MAX;

/// The batch that crosses to the plugin: of these records, what is subscribed.
pub(super) fn batch(subscription: &Subscription, records: &[&Placed], cells: &[Vec<Value>]) -> Batch {
    let wants = |part| subscription.fields.contains(part);
    let bytes = |part, of: fn(&Placed) -> Option<Vec<u8>>| wants(part).then(|| column(records.iter().map(|r| of(r))));
    let table = |part, of: fn(&Placed) -> i64| match wants(part) {
        true => records.iter().flat_map(|record| of(record).to_le_bytes()).collect(),
        false => Vec::new(),
    };
    let header = |name: &String| {
        column(records.iter().map(|record| {
            record.headers.iter().rev().find(|(found, _)| found == name).and_then(|(_, value)| value.clone())
        }))
    };
    let field = |(at, field): (usize, &crate::bindings::pelton::plugin::types::Field)| {
        field_column(field.type_, &cells.iter().map(|row| &row[at]).collect::<Vec<_>>())
    };
    Batch {
        count: length(records.len()),
        source: Source { topic: records[0].topic.clone(), partition: records[0].partition },
        values: bytes(Fields::VALUE, |record| record.value.clone()),
        keys: bytes(Fields::KEY, |record| record.key.clone()),
        headers: subscription.headers.iter().map(header).collect(),
        all_headers: bytes(Fields::ALL_HEADERS, |record| Some(packed_headers(record))),
        offsets: table(Fields::OFFSET, |record| record.offset),
        timestamps: table(Fields::TIMESTAMP, |record| record.timestamp_ms.unwrap_or(-1)),
        value_fields: subscription.value_fields.iter().enumerate().map(field).collect(),
    }
}

fn length(length: usize) -> u32 {
    u32::try_from(length).expect("a test has few and small records")
}

fn column(cells: impl Iterator<Item = Option<Vec<u8>>>) -> Column {
    let mut column = Column { spans: Vec::new(), data: Vec::new() };
    for cell in cells {
        let span = match &cell {
            None => [0, NULL],
            Some(bytes) => [length(column.data.len()), length(bytes.len())],
        };
        column.spans.extend(span.into_iter().flat_map(u32::to_le_bytes));
        column.data.extend(cell.unwrap_or_default());
    }
    column
}

fn packed_headers(record: &Placed) -> Vec<u8> {
    let mut packed = Vec::new();
    for (name, value) in &record.headers {
        packed.extend(length(name.len()).to_le_bytes());
        packed.extend(name.as_bytes());
        packed.extend(value.as_ref().map_or(NULL, |value| length(value.len())).to_le_bytes());
        packed.extend(value.iter().flatten());
    }
    packed
}

fn field_column(field_type: FieldType, cells: &[&Value]) -> FieldColumn {
    let mut column = FieldColumn { validity: Vec::new(), values: Vec::new(), data: Vec::new() };
    if cells.iter().any(|cell| cell.is_null()) {
        column.validity = cells
            .chunks(8)
            .map(|rows| (0..).zip(rows).fold(0, |byte, (bit, cell)| byte | u8::from(!cell.is_null()) << bit))
            .collect();
    }
    match field_type {
        FieldType::Boolean => column.values = cells.iter().map(|cell| u8::from(cell.as_bool() == Some(true))).collect(),
        FieldType::S64 => {
            column.values = cells.iter().flat_map(|cell| cell.as_i64().unwrap_or_default().to_le_bytes()).collect();
        }
        FieldType::F64 => {
            column.values = cells.iter().flat_map(|cell| cell.as_f64().unwrap_or_default().to_le_bytes()).collect();
        }
        FieldType::Symbol => {
            let texts: Vec<Vec<u8>> = cells.iter().map(|cell| bytes(field_type, cell)).collect();
            let mut entries = texts.clone();
            entries.sort();
            entries.dedup();
            let index = |text| entries.binary_search(text).expect("every text is an entry");
            column.values = texts.iter().flat_map(|text| length(index(text)).to_le_bytes()).collect();
            let (offsets, data) = offsets_and_data(&entries);
            column.data = [length(entries.len()).to_le_bytes().as_slice(), &offsets, &data].concat();
        }
        FieldType::Text | FieldType::Bytes | FieldType::Json => {
            let texts: Vec<Vec<u8>> = cells.iter().map(|cell| bytes(field_type, cell)).collect();
            (column.values, column.data) = offsets_and_data(&texts);
        }
    }
    column
}

fn bytes(field_type: FieldType, cell: &Value) -> Vec<u8> {
    match (field_type, cell) {
        (_, Value::Null) => Vec::new(),
        (FieldType::Json, value) => value.to_string().into_bytes(),
        (FieldType::Bytes, value) => {
            STANDARD.decode(value.as_str().unwrap_or_default()).expect("it was decoded before, when it was extracted")
        }
        (_, value) => value.as_str().unwrap_or_default().as_bytes().to_vec(),
    }
}

fn offsets_and_data(cells: &[Vec<u8>]) -> (Vec<u8>, Vec<u8>) {
    let mut offsets = 0_u32.to_le_bytes().to_vec();
    let mut data = Vec::new();
    for cell in cells {
        data.extend(cell);
        offsets.extend(length(data.len()).to_le_bytes());
    }
    (offsets, data)
}
