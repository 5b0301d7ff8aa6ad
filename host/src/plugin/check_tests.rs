//! Tests of [`super::check`]: each rule by a lie that breaks it, and all of them by chance.

use proptest::prelude::*;

use super::super::bindings::types::{Failure, FailureKind, Output, Selection, SetColumn};
use super::*;
use crate::record::push_header;

fn field(field_type: FieldType) -> OutputField {
    OutputField { path: vec!["total".to_owned()], field_type }
}

fn output(rows: Selection) -> Output {
    Output { rows, data: Vec::new(), set_fields: Vec::new(), failures: Vec::new() }
}

fn words(words: &[u32]) -> Vec<u8> {
    words.iter().flat_map(|word| word.to_le_bytes()).collect()
}

/// Holds an answer against a batch of four rows of ten bytes, two routes and these fields.
fn against(output: Output, set_fields: &[OutputField]) -> Result<Checked, Lie> {
    check(output, &Frame { count: 4, routes: 2, set_fields, output_bytes_max: 1_000, record_bytes: &|_| 10 })
}

#[track_caller]
fn lie(output: Output, set_fields: &[OutputField], about: &str) {
    let lie = against(output, set_fields).expect_err("a lie").to_string();
    assert!(lie.contains(about), "`{lie}` does not speak of `{about}`");
}

fn failure(row: u32, code: &str) -> Failure {
    Failure { row, kind: FailureKind::Reject, code: code.to_owned(), message: "why".to_owned() }
}

#[test]
fn rows_come_through_as_they_were_meant() {
    let all = against(output(Selection::All), &[]).expect("true");
    assert_eq!(all.rows.iter().map(|row| row.row).collect::<Vec<_>>(), [0, 1, 2, 3]);
    let kept = against(output(Selection::Kept(words(&[1, 1, 3]))), &[]).expect("true");
    assert_eq!(kept.rows.iter().map(|row| row.row).collect::<Vec<_>>(), [1, 1, 3]);
    let mut edited = output(Selection::Edits(words(&[0, 1, 2, 3, 0, 2 << 8 | 4, 0, 0, 2, 2, 0, 0, 2, 5, 0, 0])));
    edited.data = b"--new".to_vec();
    let rows = against(edited, &[]).expect("true").rows;
    assert_eq!(
        rows,
        [
            OutRow { row: 0, op: OutOp::Replace(Span { offset: 2, length: 3 }), route: 0 },
            OutRow { row: 0, op: OutOp::Delete, route: 2 },
            OutRow { row: 2, op: OutOp::Tombstone, route: 0 },
            OutRow { row: 2, op: OutOp::New, route: 0 },
        ]
    );
}

#[test]
fn rows_that_lie() {
    lie(output(Selection::Kept(words(&[4]))), &[], "input row 4, the batch has 4");
    lie(output(Selection::Kept(words(&[2, 1]))), &[], "must not fall");
    lie(output(Selection::Kept(vec![0; 6])), &[], "not a multiple of 4");
    lie(output(Selection::Edits(vec![0; 17])), &[], "not a multiple of 16");
    lie(output(Selection::Edits(words(&[0, 6, 0, 0]))), &[], "op 6");
    lie(output(Selection::Edits(words(&[0, 3 << 8, 0, 0]))), &[], "route 3");
    lie(output(Selection::Edits(words(&[0, 0, 0, 1]))), &[], "its op takes none");
    lie(output(Selection::Edits(words(&[0, 1, 0, 1]))), &[], "0..1 of `data`");
    lie(output(Selection::Edits(words(&[0, 1, u32::MAX, u32::MAX]))), &[], "of `data`");
}

#[test]
fn nobody_holds_a_partition_for_more_than_a_minute_at_a_time() {
    let delay_of = |asked_ms| {
        let mut answer = output(Selection::Kept(Vec::new()));
        answer.failures.push(Failure { kind: FailureKind::Retry(asked_ms), ..failure(0, "busy") });
        against(answer, &[]).expect("true").failures[0].kind
    };
    let held = |ms| crate::pipeline::FailureKind::Retry(Duration::from_millis(ms));
    let asked = [0, 250, 60_000, 60_001, u32::MAX];
    assert_eq!(asked.map(delay_of), [0, 250, 60_000, 60_000, 60_000].map(held));
}

#[test]
fn failures_that_lie() {
    let with = |rows, failures| Output { failures, ..output(rows) };
    let none = || Selection::Kept(Vec::new());
    assert!(against(with(none(), vec![failure(0, "a"), failure(3, "b_2")]), &[]).is_ok());
    lie(with(none(), vec![failure(4, "a")]), &[], "failure of row 4");
    lie(with(none(), vec![failure(1, "a"), failure(1, "a")]), &[], "do not rise");
    lie(with(none(), vec![failure(1, "")]), &[], "code");
    lie(with(none(), vec![failure(1, "Bad Code")]), &[], "Bad Code");
    lie(with(none(), vec![failure(1, &"x".repeat(65))]), &[], "code");
    lie(with(Selection::All, vec![failure(1, "a")]), &[], "row 1 both fails and leaves");
    lie(with(Selection::Kept(words(&[0, 2, 2])), vec![failure(1, "a"), failure(2, "a")]), &[], "row 2 both");
}

#[test]
fn a_long_message_is_cut_not_refused() {
    let mut failed = failure(0, "a");
    failed.message = "ü".repeat(MESSAGE_BYTES_MAX);
    let checked = against(Output { failures: vec![failed], ..output(Selection::Kept(vec![])) }, &[]);
    assert!(checked.is_err(), "beyond the output cap");
    let frame = Frame { count: 1, routes: 0, set_fields: &[], output_bytes_max: 1 << 20, record_bytes: &|_| 0 };
    let mut failed = failure(0, "a");
    failed.message = "ü".repeat(MESSAGE_BYTES_MAX);
    let checked = check(Output { failures: vec![failed], ..output(Selection::Kept(vec![])) }, &frame).expect("true");
    assert!(checked.failures[0].message.len() <= MESSAGE_BYTES_MAX + 3);
}

#[test]
fn bytes_are_capped_and_copies_count() {
    let mut large = output(Selection::All);
    large.data = vec![0; 1_001];
    assert_eq!(against(large, &[]), Err(Lie::TooLarge { bytes: 1_001, max: 1_000 }));
    let copies = output(Selection::Kept(words(&[0; 102])));
    assert_eq!(against(copies, &[]), Err(Lie::TooLarge { bytes: 1_010, max: 1_000 }));
    assert!(against(output(Selection::Kept(words(&[0; 101]))), &[]).is_ok());
}

/// A packed record of op 3.
fn packed(key: Option<&[u8]>, value: Option<&[u8]>, timestamp: i64, count: u32, headers: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::new();
    for cell in [key, value] {
        bytes.extend(cell.map_or(u32::MAX, |cell| cell.len() as u32).to_le_bytes());
        bytes.extend(cell.unwrap_or_default());
    }
    bytes.extend(timestamp.to_le_bytes());
    bytes.extend(count.to_le_bytes());
    bytes.extend(headers);
    bytes
}

fn emits(record: Vec<u8>) -> Output {
    let length = record.len() as u32;
    Output { data: record, ..output(Selection::Edits(words(&[0, 3, 0, length]))) }
}

#[test]
fn emitted_records_are_read_to_their_last_byte() {
    let mut headers = Vec::new();
    push_header(&mut headers, "trace", Some(b"1"));
    push_header(&mut headers, "empty", None);
    let whole = packed(Some(b"k"), None, -1, 2, &headers);
    assert!(against(emits(whole.clone()), &[]).is_ok());
    for cut in 0..whole.len() {
        lie(emits(whole[..cut].to_vec()), &[], "emits a record whose");
    }
    lie(emits(packed(None, None, -2, 0, b"")), &[], "timestamp is negative");
    lie(emits(packed(None, None, 0, 1, &headers)), &[], "headers");
    lie(emits(packed(None, None, 0, 0, b"x")), &[], "headers");
}

fn sets(field_type: FieldType, state: &[u8], values: Vec<u8>, data: &[u8]) -> Result<Checked, Lie> {
    let column = SetColumn { state: state.to_vec(), values, data: data.to_vec() };
    let answer = Output { set_fields: vec![column], ..output(Selection::Kept(words(&[0, 1]))) };
    against(answer, &[field(field_type)])
}

#[track_caller]
fn column_lie(field_type: FieldType, state: &[u8], values: Vec<u8>, data: &[u8], about: &str) {
    let lie = sets(field_type, state, values, data).expect_err("a lie").to_string();
    assert!(lie.contains(about) && lie.contains("set-field `total`"), "`{lie}` does not speak of `{about}`");
}

#[test]
fn columns_hold_a_cell_for_every_row() {
    assert!(sets(FieldType::Boolean, &[], vec![0, 1], b"").is_ok());
    assert!(sets(FieldType::Boolean, &[1, 2], vec![0, 77], b"").is_ok(), "what stands at an unset row means nothing");
    column_lie(FieldType::Boolean, &[], vec![0, 2], b"", "row 1 is 2");
    column_lie(FieldType::Boolean, &[], vec![0], b"", "1 bytes of values for 2 rows");
    column_lie(FieldType::Boolean, &[1], vec![0, 0], b"", "1 states for 2 rows");
    column_lie(FieldType::Boolean, &[1, 4], vec![0, 0], b"", "a state of 4");
    assert!(sets(FieldType::F64, &[0, 3], vec![0; 16], b"").is_ok());
    column_lie(FieldType::S64, &[], vec![0; 15], b"", "15 bytes");
    let missing = output(Selection::All);
    lie(missing, &[field(FieldType::S64)], "0 set-fields came back");
}

#[test]
fn text_is_text_in_every_cell() {
    assert!(sets(FieldType::Text, &[], words(&[0, 2, 4]), "ßü".as_bytes()).is_ok());
    column_lie(FieldType::Text, &[], words(&[0, 1, 4]), "ßü".as_bytes(), "inside a character");
    column_lie(FieldType::Text, &[], words(&[0, 1, 2]), b"a\xff", "UTF-8");
    column_lie(FieldType::Text, &[], words(&[0, 1]), b"a", "8 bytes of offsets for 2 cells, 12 are needed");
    column_lie(FieldType::Text, &[], words(&[1, 1, 1]), b"a", "begin at 0");
    column_lie(FieldType::Text, &[], words(&[0, 2, 1]), b"ab", "never fall");
    column_lie(FieldType::Bytes, &[], words(&[0, 1, 9]), b"ab", "cells end at 9");
    assert!(sets(FieldType::Bytes, &[], words(&[0, 1, 2]), b"\xff\xfe").is_ok());
}

#[test]
fn json_is_json_where_it_is_set() {
    assert!(sets(FieldType::Json, &[], words(&[0, 2, 6]), b"[]null").is_ok());
    assert!(sets(FieldType::Json, &[1, 2], words(&[0, 2, 2]), b"[]").is_ok());
    column_lie(FieldType::Json, &[], words(&[0, 2, 2]), b"[]", "row 1 is not JSON");
    column_lie(FieldType::Json, &[], words(&[0, 2, 7]), b"[]null]", "row 1 is not JSON");
}

#[test]
fn symbols_exist() {
    let dictionary =
        |offsets: &[u32], bytes: &[u8]| [words(&[offsets.len() as u32 - 1]), words(offsets), bytes.to_vec()].concat();
    let two = dictionary(&[0, 1, 3], b"axy");
    assert!(sets(FieldType::Symbol, &[], words(&[1, 0]), &two).is_ok());
    assert!(sets(FieldType::Symbol, &[1, 0], words(&[1, 99]), &two).is_ok());
    assert!(sets(FieldType::Symbol, &[0, 0], words(&[0, 0]), b"").is_ok(), "no dictionary where nothing is set");
    column_lie(FieldType::Symbol, &[], words(&[1, 2]), &two, "row 1 is symbol 2 of 2");
    column_lie(FieldType::Symbol, &[], words(&[0, 0]), b"", "symbol 0 of 0");
    column_lie(FieldType::Symbol, &[], words(&[0, 0]), b"\x01\0", "without its length");
    column_lie(FieldType::Symbol, &[], words(&[0, 0]), &words(&[u32::MAX]), "symbols in 4 bytes");
    column_lie(FieldType::Symbol, &[], words(&[0, 0]), &dictionary(&[0, 9], b"a"), "dictionary: cells end at 9");
    column_lie(FieldType::Symbol, &[], words(&[0, 0]), &dictionary(&[0, 1], b"\xff"), "dictionary: not UTF-8");
}

fn some_bytes() -> impl Strategy<Value = Vec<u8>> {
    let small = prop_oneof![Just(0_u32), Just(1), 0..6_u32, Just(256), Just(515), Just(u32::MAX)];
    prop_oneof![
        proptest::collection::vec(any::<u8>(), 0..40),
        proptest::collection::vec(small, 0..20).prop_map(|w| words(&w))
    ]
}

fn some_output() -> impl Strategy<Value = Output> {
    let rows = prop_oneof![
        Just(Selection::All),
        some_bytes().prop_map(Selection::Kept),
        some_bytes().prop_map(Selection::Edits),
    ];
    let column =
        (some_bytes(), some_bytes(), some_bytes()).prop_map(|(state, values, data)| SetColumn { state, values, data });
    let failures = (0..6_u32, "[a-z_]{0,3}").prop_map(|(row, code)| failure(row, &code));
    (rows, some_bytes(), proptest::collection::vec(column, 0..3), proptest::collection::vec(failures, 0..3))
        .prop_map(|(rows, data, set_fields, failures)| Output { rows, data, set_fields, failures })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(4_000))]

    /// Whatever a guest answers, the check ends without a panic, and what it lets through can be indexed blindly.
    #[test]
    fn what_passes_can_be_indexed_without_looking(answer in some_output(), types in proptest::collection::vec(proptest::sample::select(&FieldType::ALL[..]), 0..3)) {
        let fields: Vec<OutputField> = types.into_iter().map(field).collect();
        let Ok(checked) = against(answer, &fields) else { return Ok(()) };
        let mut before = 0;
        for row in &checked.rows {
            prop_assert!(row.row < 4 && row.row >= before && row.route <= 2);
            before = row.row;
            if let OutOp::Replace(span) | OutOp::Emit(span) = row.op {
                let _ = &checked.data[span.offset as usize..(span.offset + span.length) as usize];
            }
            prop_assert!(checked.failures.iter().all(|failure| failure.row != row.row));
        }
        prop_assert_eq!(checked.set_fields.len(), fields.len());
        for (column, field) in checked.set_fields.iter().zip(&fields) {
            for row in 0..checked.rows.len() {
                if column.state.get(row).is_none_or(|state| *state == FIELD_STATE_SET) {
                    read_cell(column, field.field_type, row);
                }
            }
        }
    }
}

/// Reads a cell as those behind the check do.
fn read_cell(column: &crate::record::SetColumn, field_type: FieldType, row: usize) {
    let word = |bytes: &[u8], at: usize| {
        u32::from_le_bytes(bytes[at * 4..at * 4 + 4].try_into().expect("four bytes")) as usize
    };
    let cell = || &column.data[word(&column.values, row)..word(&column.values, row + 1)];
    match field_type {
        FieldType::Boolean => assert!(column.values[row] <= 1),
        FieldType::S64 | FieldType::F64 => assert_eq!(column.values[row * 8..row * 8 + 8].len(), 8),
        FieldType::Bytes => drop(cell().to_vec()),
        FieldType::Text => drop(std::str::from_utf8(cell()).expect("text").to_owned()),
        FieldType::Json => drop(serde_json::from_slice::<serde_json::Value>(cell()).expect("JSON")),
        FieldType::Symbol => {
            let (symbols, index) = (word(&column.data, 0), word(&column.values, row));
            let bytes = &column.data[4 + (symbols + 1) * 4..];
            let symbol = &bytes[word(&column.data, 1 + index)..word(&column.data, 2 + index)];
            assert!(std::str::from_utf8(symbol).is_ok());
        }
    }
}
