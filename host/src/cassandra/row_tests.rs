//! Merging and encoding of rows, without a cluster.

use proptest::prelude::*;
use scylla::cluster::metadata::{ColumnType, NativeType};

use super::rows::{EncodedBatch, Shape, ShapeColumn, Unit, encode_batch};
use super::table::ColumnRole;
use crate::record::{Cell, CellColumn, Column, Offset, RowMeta, RowOp, SinkBatch, TopicPartition, Value, WriteTime};

/// (record, op, cells of: partition, clustering, static, a, b)
type Row<'a> = (u32, RowOp, [Cell<'a>; 5]);

fn shape() -> Shape {
    let column = |(source, (name, role)): (usize, (&str, ColumnRole))| ShapeColumn {
        source,
        name: name.into(),
        role,
        column_type: ColumnType::Native(NativeType::Text),
        type_text: "text".into(),
    };
    let columns = [
        ("p", ColumnRole::Partition),
        ("c", ColumnRole::Clustering),
        ("s", ColumnRole::Static),
        ("a", ColumnRole::Regular),
        ("b", ColumnRole::Regular),
    ];
    Shape { columns: columns.into_iter().enumerate().map(column).collect(), gone: Vec::new(), row_bytes_max: 1000 }
}

fn batch(rows: &[Row<'_>]) -> SinkBatch {
    let mut cells = vec![CellColumn::default(); 5];
    let mut metas = Vec::new();
    for (index, (record, op, values)) in rows.iter().enumerate() {
        for (column, value) in cells.iter_mut().zip(values) {
            column.push(*value);
        }
        metas.push(RowMeta {
            origin: *record,
            offset: Offset(i64::from(*record)),
            timestamp_ms: 0,
            write_time: WriteTime(i64::from(*record) * 10),
            index: index as u32,
            op: *op,
        });
    }
    SinkBatch {
        source: TopicPartition::new("t", 0),
        generation: 1,
        rows: metas,
        keys: Column::default(),
        values: Column::default(),
        headers: Column::default(),
        cells,
    }
}

fn text(of: &str) -> Cell<'_> {
    Cell::Value(Value::Text(of))
}

/// What a unit would bind: one text a cell, `-` for unset, `null`.
fn shown(encoded: &EncodedBatch, unit: &Unit) -> String {
    let mut rest = &encoded.bytes[unit.values.clone()];
    let mut cells = Vec::new();
    while let Some((length, after)) = rest.split_first_chunk::<4>() {
        let length = i32::from_be_bytes(*length);
        let (content, after) = after.split_at(length.max(0) as usize);
        cells.push(match length {
            -1 => "null".to_owned(),
            -2 => "-".to_owned(),
            _ => String::from_utf8(content.to_vec()).expect("text"),
        });
        rest = after;
    }
    format!("{} {}", if unit.op == RowOp::Delete { "delete" } else { "upsert" }, cells.join(","))
}

fn all(rows: &[Row<'_>]) -> (Vec<String>, Vec<(usize, String, String)>) {
    let encoded = encode_batch(&batch(rows), &shape());
    let units = encoded.units.iter().map(|unit| shown(&encoded, unit)).collect();
    let failures = encoded.failures.into_iter().map(|failure| (failure.row, failure.code, failure.message)).collect();
    (units, failures)
}

use Cell::{Null, Unset};
use RowOp::{Delete, Upsert};

#[test]
fn absent_is_unset_and_null_deletes_the_cell() {
    let (units, failures) = all(&[(1, Upsert, [text("p"), text("c"), Unset, Null, text("b")])]);
    assert_eq!(units, ["upsert p,c,-,null,b"]);
    assert_eq!(failures, []);
}

#[test]
fn writes_of_one_record_to_one_row_are_merged_and_the_last_wins() {
    let (units, _) = all(&[
        (1, Upsert, [text("p"), text("c"), Unset, text("a1"), text("b1")]),
        (1, Upsert, [text("p"), text("other"), Unset, text("x"), Unset]),
        (1, Upsert, [text("p"), text("c"), Unset, Unset, Null]),
        (2, Upsert, [text("p"), text("c"), Unset, text("a2"), Unset]),
    ]);
    assert_eq!(units, ["upsert p,other,-,x,-", "upsert p,c,-,a1,null", "upsert p,c,-,a2,-"]);
}

#[test]
fn a_delete_wins_over_what_came_before_it() {
    let (units, _) = all(&[
        (1, Upsert, [text("p"), text("c"), Unset, text("a"), Unset]),
        (1, Delete, [text("p"), text("c"), Unset, Unset, Unset]),
    ]);
    assert_eq!(units, ["delete p,c"]);
}

#[test]
fn an_upsert_after_a_delete_deletes_every_other_cell() {
    let (units, _) = all(&[
        (1, Upsert, [text("p"), text("c"), Unset, text("a"), text("b")]),
        (1, Delete, [text("p"), text("c"), Unset, Unset, Unset]),
        (1, Upsert, [text("p"), text("c"), Unset, text("new"), Unset]),
    ]);
    assert_eq!(units, ["upsert p,c,-,new,null"]);
    let (units, _) = all(&[
        (1, Delete, [text("p"), text("c"), Unset, Unset, Unset]),
        (1, Upsert, [text("p"), text("c"), Unset, text("new"), Unset]),
        (1, Upsert, [text("p"), text("c"), Unset, Unset, text("b")]),
    ]);
    assert_eq!(units, ["upsert p,c,-,new,b"], "what was cleared stays cleared, what was set stays set");
}

#[test]
fn a_static_cell_is_set_by_the_records_last_row_of_the_partition() {
    let (units, _) = all(&[
        (1, Upsert, [text("p"), text("c1"), text("s1"), Unset, Unset]),
        (1, Upsert, [text("q"), text("c1"), text("s2"), Unset, Unset]),
        (1, Upsert, [text("p"), text("c2"), text("s3"), Unset, Unset]),
        (1, Upsert, [text("p"), text("c3"), Unset, Unset, Unset]),
    ]);
    assert_eq!(units, ["upsert p,c1,-,-,-", "upsert q,c1,s2,-,-", "upsert p,c2,s3,-,-", "upsert p,c3,-,-,-"]);
}

#[test]
fn keys_must_be_whole() {
    let long = "k".repeat(70_000);
    let (units, failures) = all(&[
        (1, Upsert, [Unset, text("c"), Unset, Unset, Unset]),
        (2, Upsert, [text("p"), Null, Unset, Unset, Unset]),
        (3, Upsert, [text(""), text("c"), Unset, Unset, Unset]),
        (4, Delete, [text("p"), Unset, Unset, Unset, Unset]),
        (5, Upsert, [Cell::Value(Value::S64(5)), text("c"), Unset, Unset, Unset]),
        (6, Upsert, [text("p"), text(&long), Unset, Unset, Unset]),
        (7, Upsert, [text("p"), text(""), Unset, Unset, Unset]),
        (8, Upsert, [Cell::Value(Value::Json("null")), text("c"), Unset, Unset, Unset]),
    ]);
    assert_eq!(units, ["upsert p,,-,-,-"], "an empty clustering column is a value");
    let messages: Vec<_> = failures.iter().map(|(row, code, message)| format!("{row} {code} {message}")).collect();
    assert_eq!(
        messages,
        [
            "0 sink.bad_key key column p (text) is missing",
            "1 sink.bad_key key column c (text) is null",
            "2 sink.bad_key key column p (text) is empty",
            "3 sink.bad_key key column c (text) is missing",
            "4 sink.bad_key column p (text): found the number 5, wanted text",
            "5 sink.bad_key key column c (text) has 70000 bytes; a key holds 65535 at most",
            "7 sink.bad_key key column p (text) is null",
        ]
    );
}

#[test]
fn a_bad_value_fails_its_own_row_alone() {
    let large = "x".repeat(2000);
    let (units, failures) = all(&[
        (1, Upsert, [text("p"), text("1"), Unset, text("fine"), Unset]),
        (2, Upsert, [text("p"), text("2"), Unset, Cell::Value(Value::Boolean(true)), Unset]),
        (3, Upsert, [text("p"), text("3"), Unset, text(&large), Unset]),
        (4, Upsert, [text("p"), text("4"), Unset, Unset, text("fine")]),
    ]);
    assert_eq!(units, ["upsert p,1,-,fine,-", "upsert p,4,-,-,fine"]);
    assert_eq!(failures[0].1, "sink.bad_value");
    assert_eq!(failures[0].2, "column a (text): found the boolean true, wanted text");
    assert_eq!((failures[1].0, failures[1].1.as_str()), (2, "sink.too_large"));
}

#[test]
fn a_column_that_is_gone_fails_only_rows_that_set_it() {
    let mut shape = shape();
    let gone = shape.columns.pop().expect("b is there");
    shape.gone.push((gone.source, gone.name));
    let batch = batch(&[
        (1, Upsert, [text("p"), text("1"), Unset, text("a"), Unset]),
        (2, Upsert, [text("p"), text("2"), Unset, text("a"), Null]),
        (3, Upsert, [text("p"), text("3"), Unset, text("a"), text("b")]),
    ]);
    let encoded = encode_batch(&batch, &shape);
    assert_eq!(encoded.units.len(), 2);
    assert_eq!((encoded.failures[0].row, encoded.failures[0].code.as_str()), (2, "sink.unknown_column"));
}

proptest! {
    /// Merging a record's rows leaves the same table as writing them one after the other.
    #[test]
    fn merged_writes_equal_one_after_the_other(
        rows in prop::collection::vec((any::<bool>(), 0..3_u8, prop::option::of(prop::option::of(0..9_u8)),
            prop::option::of(prop::option::of(0..9_u8))), 1..8)
    ) {
        let texts: Vec<String> = (0..10).map(|digit| digit.to_string()).collect();
        let cell = |said: Option<Option<u8>>| match said {
            None => Unset,
            Some(None) => Null,
            Some(Some(digit)) => text(&texts[usize::from(digit)]),
        };
        let mut table = std::collections::BTreeMap::<String, [String; 2]>::new();
        let mut written = Vec::new();
        for (delete, key, a, b) in &rows {
            let key = texts[usize::from(*key)].as_str();
            let op = if *delete && a.is_none() { Delete } else { Upsert };
            written.push((1, op, [text("p"), text(key), Unset, cell(*a), cell(*b)]));
            let row = table.entry(key.to_owned()).or_insert_with(|| ["-".into(), "-".into()]);
            if op == Delete {
                *row = ["deleted".into(), "deleted".into()];
                continue;
            }
            for (cell, said) in row.iter_mut().zip([a, b]) {
                match said {
                    Some(Some(digit)) => *cell = texts[usize::from(*digit)].clone(),
                    Some(None) => *cell = "null".into(),
                    None if cell.as_str() == "deleted" => *cell = "null".into(),
                    None => {}
                }
            }
        }
        let expected: std::collections::BTreeSet<_> = table
            .into_iter()
            .map(|(key, [a, b])| match a.as_str() {
                "deleted" => format!("delete p,{key}"),
                _ => format!("upsert p,{key},-,{a},{b}"),
            })
            .collect();
        let (units, failures) = all(&written);
        prop_assert_eq!(units.iter().cloned().collect::<std::collections::BTreeSet<_>>(), expected);
        prop_assert_eq!(failures, vec![]);
    }
}
