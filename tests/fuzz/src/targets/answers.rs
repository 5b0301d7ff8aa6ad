//! What a guest answers: `plugin/check.rs`.

use super::Bytes;
use crate::pipeline::OutOp;
use crate::plugin::bindings::types::{Failure, FailureKind, Output, Selection, SetColumn};
use crate::plugin::check;
use crate::record::{FieldType, HeaderIter, OutputField};

/// An answer that passes the checker can be read to its last cell, and keeps the rules of `wit/types.wit`.
pub fn answers(bytes: &[u8]) {
    let mut bytes = Bytes(bytes);
    let (count, routes) = (u32::from(bytes.byte() % 9), u32::from(bytes.byte() % 3));
    let fields: Vec<OutputField> = (0..bytes.byte() % 4)
        .map(|at| OutputField {
            path: vec![format!("f{at}")],
            field_type: FieldType::ALL[usize::from(bytes.byte()) % FieldType::ALL.len()],
        })
        .collect();
    let rows = match bytes.byte() % 3 {
        0 => Selection::All,
        1 => Selection::Kept(bytes.chunk().to_vec()),
        _ => Selection::Edits(bytes.chunk().to_vec()),
    };
    let columns = fields.len() + usize::from(bytes.byte() == 0xff);
    let set_fields = (0..columns)
        .map(|_| SetColumn {
            state: bytes.chunk().to_vec(),
            values: bytes.chunk().to_vec(),
            data: bytes.chunk().to_vec(),
        })
        .collect();
    let failures = (0..bytes.byte() % 4)
        .map(|_| Failure {
            row: u32::from(bytes.byte()),
            kind: match bytes.byte() % 3 {
                0 => FailureKind::Reject,
                1 => FailureKind::Retry(bytes.number()),
                _ => FailureKind::Skip,
            },
            code: bytes.text(),
            message: bytes.text(),
        })
        .collect();
    let data = bytes.rest().to_vec();
    let Ok((rows, data, columns, failures)) =
        check(Output { rows, data, set_fields, failures }, count, routes, &fields, 4096)
    else {
        return;
    };
    assert!(rows.is_sorted_by_key(|row| row.row), "rows fall");
    for row in &rows {
        assert!(row.row < count && row.route <= routes, "{row:?} is not of this batch");
        if let OutOp::Replace(span) | OutOp::Emit(span) = row.op {
            let bytes = &data[span.offset as usize..][..span.length as usize];
            if matches!(row.op, OutOp::Emit(_)) {
                emitted(bytes);
            }
        }
    }
    for failure in &failures {
        assert!(failure.row < count && rows.iter().all(|row| row.row != failure.row), "{failure:?} also leaves");
    }
    assert_eq!(columns.len(), fields.len());
    for (column, field) in columns.iter().zip(&fields) {
        for row in 0..rows.len() {
            std::hint::black_box(column.cell(field.field_type, row));
        }
    }
}

/// A packed record: `{ key, value, timestamp, header-count, headers }`, read without looking.
fn emitted(bytes: &[u8]) {
    let word = |at: usize| u32::from_le_bytes(bytes[at..at + 4].try_into().expect("four bytes"));
    let mut at = 0;
    for _ in 0..2 {
        let length = word(at);
        at += 4 + if length == u32::MAX { 0 } else { length as usize };
    }
    let headers = word(at + 8);
    assert_eq!(HeaderIter::new(&bytes[at + 12..]).count(), headers as usize);
}
