//! Nothing that a guest answers is believed before it has been checked.
//!
//! In: the tables of `output` as the guest left them, and what the batch and the subscription allow. Out: a
//! [`Checked`] answer on which everybody behind may index without looking, or the [`Lie`] that was told. Pure: no clock,
//! no engine, no input that makes it panic or take more memory than the tables it was given.

use std::time::Duration;

use super::bindings::types;
use crate::pipeline::{Failure, FailureKind, OutOp, OutRow, Span};
use crate::record::{FIELD_STATE_REMOVE, FIELD_STATE_SET, FieldType, HeaderIter, OutputField, SetColumn};

/// Bytes of a failure's code.
pub(super) const CODE_BYTES_MAX: usize = 64;
/// Bytes of a failure's message; what is longer is cut.
pub(super) const MESSAGE_BYTES_MAX: usize = 4 << 10;

/// How long one record may hold its partition each time that a plugin wants it tried again.
pub(super) const RETRY_DELAY_MAX: Duration = Duration::from_mins(1);

/// What an answer is held against.
pub(super) struct Frame<'a> {
    /// Rows of the batch.
    pub(super) count: u32,
    /// Routes of the subscription.
    pub(super) routes: u32,
    /// Fields that the plugin sets.
    pub(super) set_fields: &'a [OutputField],
    /// Bytes that may come out.
    pub(super) output_bytes_max: usize,
    /// Bytes of an input record: each further copy of it counts as output.
    pub(super) record_bytes: &'a dyn Fn(u32) -> usize,
}

/// An answer that holds.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Checked {
    /// The rows that leave.
    pub(super) rows: Vec<OutRow>,
    /// What spans point into.
    pub(super) data: Vec<u8>,
    /// One column for each field set.
    pub(super) set_fields: Vec<SetColumn>,
    /// Records that failed.
    pub(super) failures: Vec<Failure>,
}

/// An answer that does not hold.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(super) enum Lie {
    /// More bytes than allowed.
    #[error("the output has {bytes} bytes, the limit is {max}")]
    TooLarge {
        /// Bytes counted before giving up.
        bytes: usize,
        /// Bytes allowed.
        max: usize,
    },
    /// A table that contradicts the batch, the subscription or itself.
    #[error("{0}")]
    Table(String),
}

macro_rules! lie {
    ($($arg:tt)*) => { return Err(Lie::Table(format!($($arg)*))) };
}

/// Checks an answer.
///
/// # Errors
/// The first thing that does not hold.
pub(super) fn check(output: types::Output, frame: &Frame<'_>) -> Result<Checked, Lie> {
    check_size(&output, frame.output_bytes_max)?;
    let failures = check_failures(output.failures, frame.count)?;
    let rows = check_rows(&output.rows, &output.data, frame)?;
    check_disjoint(&rows, &failures)?;
    check_copies(&rows, output.data.len(), frame)?;
    if output.set_fields.len() != frame.set_fields.len() {
        lie!("{} set-fields came back, the subscription has {}", output.set_fields.len(), frame.set_fields.len());
    }
    let mut set_fields = Vec::with_capacity(output.set_fields.len());
    for (column, field) in output.set_fields.into_iter().zip(frame.set_fields) {
        let column = SetColumn { state: column.state, values: column.values, data: column.data };
        check_column(&column, field.field_type, rows.len())
            .map_err(|reason| Lie::Table(format!("set-field `{}`: {reason}", field.path.join("."))))?;
        set_fields.push(column);
    }
    Ok(Checked { rows, data: output.data, set_fields, failures })
}

fn check_size(output: &types::Output, max: usize) -> Result<(), Lie> {
    let rows = match &output.rows {
        types::Selection::All => 0,
        types::Selection::Kept(table) | types::Selection::Edits(table) => table.len(),
    };
    let columns: usize =
        output.set_fields.iter().map(|column| column.state.len() + column.values.len() + column.data.len()).sum();
    let failures: usize = output.failures.iter().map(|failure| failure.code.len() + failure.message.len() + 16).sum();
    let bytes = rows + output.data.len() + columns + failures;
    if bytes > max { Err(Lie::TooLarge { bytes, max }) } else { Ok(()) }
}

fn check_failures(failures: Vec<types::Failure>, count: u32) -> Result<Vec<Failure>, Lie> {
    let mut checked: Vec<Failure> = Vec::with_capacity(failures.len());
    for failure in failures {
        let row = failure.row;
        if row >= count {
            lie!("failure of row {row}, the batch has {count} rows");
        }
        if checked.last().is_some_and(|before| before.row >= row) {
            lie!("failures do not rise at row {row}");
        }
        if !is_code(&failure.code) {
            lie!(
                "failure code `{}` is not of lower case letters, digits and underscores (at most {CODE_BYTES_MAX})",
                failure.code.chars().take(CODE_BYTES_MAX).collect::<String>().escape_debug()
            );
        }
        let kind = match failure.kind {
            types::FailureKind::Reject => FailureKind::Reject,
            types::FailureKind::Retry(delay_ms) => {
                FailureKind::Retry(Duration::from_millis(delay_ms.into()).min(RETRY_DELAY_MAX))
            }
            types::FailureKind::Skip => FailureKind::Skip,
        };
        let mut message = failure.message;
        if message.len() > MESSAGE_BYTES_MAX {
            message.truncate(message.floor_char_boundary(MESSAGE_BYTES_MAX));
            message.push('…');
        }
        checked.push(Failure { row, kind, code: failure.code, message });
    }
    Ok(checked)
}

fn is_code(code: &str) -> bool {
    (1..=CODE_BYTES_MAX).contains(&code.len())
        && code.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'_')
}

fn check_rows(selection: &types::Selection, data: &[u8], frame: &Frame<'_>) -> Result<Vec<OutRow>, Lie> {
    match selection {
        types::Selection::All => Ok((0..frame.count).map(|row| OutRow { row, op: OutOp::Keep, route: 0 }).collect()),
        types::Selection::Kept(table) => {
            let (rows, []) = table.as_chunks::<4>() else {
                lie!("`kept` has {} bytes, not a multiple of 4", table.len())
            };
            let mut checked = InOrder::new(frame.count, rows.len());
            for row in rows {
                checked.push(OutRow { row: u32::from_le_bytes(*row), op: OutOp::Keep, route: 0 })?;
            }
            Ok(checked.rows)
        }
        types::Selection::Edits(table) => {
            let (rows, []) = table.as_chunks::<16>() else {
                lie!("`edits` has {} bytes, not a multiple of 16", table.len())
            };
            let mut checked = InOrder::new(frame.count, rows.len());
            for packed in rows {
                match kept(packed, frame.routes) {
                    Some(row) => checked.push(row)?,
                    None => checked.push(edit(packed, data, frame.routes)?)?,
                }
            }
            Ok(checked.rows)
        }
    }
}

/// Rows that must not fall.
struct InOrder {
    rows: Vec<OutRow>,
    before: u32,
    /// Rows of the batch.
    count: u32,
}

impl InOrder {
    fn new(count: u32, capacity: usize) -> Self {
        Self { rows: Vec::with_capacity(capacity), before: 0, count }
    }

    #[inline]
    fn push(&mut self, row: OutRow) -> Result<(), Lie> {
        if row.row >= self.count || row.row < self.before {
            return Err(self.out_of_order(row.row));
        }
        self.before = row.row;
        self.rows.push(row);
        Ok(())
    }

    #[cold]
    fn out_of_order(&self, row: u32) -> Lie {
        let (at, before) = (self.rows.len(), self.before);
        Lie::Table(if row >= self.count {
            format!("output row {at} is of input row {row}, the batch has {} rows", self.count)
        } else {
            format!("output row {at} is of input row {row}, after one of row {before}: rows must not fall")
        })
    }
}

fn words(packed: &[u8; 16]) -> [u32; 4] {
    let (words, _) = packed.as_chunks::<4>();
    std::array::from_fn(|at| u32::from_le_bytes(words[at]))
}

/// An edit that keeps its row as it came, as most do: none where there is more to look at.
#[inline]
fn kept(packed: &[u8; 16], routes: u32) -> Option<OutRow> {
    let [row, op, offset, length] = words(packed);
    let route = op >> 8;
    (op & 0xff == 0 && offset | length == 0 && route <= routes).then_some(OutRow { row, op: OutOp::Keep, route })
}

fn edit(packed: &[u8; 16], data: &[u8], routes: u32) -> Result<OutRow, Lie> {
    let [row, op, offset, length] = words(packed);
    let span = Span { offset, length };
    let route = op >> 8;
    if route > routes {
        lie!("row {row} goes to route {route}, the subscription has {routes}");
    }
    let op = match op & 0xff {
        0 => OutOp::Keep,
        1 => OutOp::Replace(span),
        2 => OutOp::Tombstone,
        3 => OutOp::Emit(span),
        4 => OutOp::Delete,
        5 => OutOp::New,
        other => lie!("row {row} has op {other}, which does not exist"),
    };
    match op {
        OutOp::Replace(_) | OutOp::Emit(_) => {
            let end = u64::from(span.offset) + u64::from(span.length);
            let Some(bytes) = usize::try_from(end).ok().and_then(|end| data.get(span.offset as usize..end)) else {
                lie!("row {row} has bytes {}..{end} of `data`, which has {}", span.offset, data.len());
            };
            if matches!(op, OutOp::Emit(_)) {
                check_record(bytes).map_err(|reason| Lie::Table(format!("row {row} emits a record {reason}")))?;
            }
        }
        _ if span != (Span { offset: 0, length: 0 }) => lie!("row {row} has a span, its op takes none"),
        _ => {}
    }
    Ok(OutRow { row, op, route })
}

/// A whole record of op 3: `{ key, value, timestamp: s64, header-count: u32, headers }`.
fn check_record(bytes: &[u8]) -> Result<(), &'static str> {
    let mut rest = bytes;
    take_cell(&mut rest).ok_or("whose key is cut off")?;
    take_cell(&mut rest).ok_or("whose value is cut off")?;
    let timestamp = take::<8>(&mut rest).map(i64::from_le_bytes).ok_or("whose timestamp is cut off")?;
    if timestamp < -1 {
        return Err("whose timestamp is negative");
    }
    let count = take::<4>(&mut rest).map(u32::from_le_bytes).ok_or("whose number of headers is cut off")?;
    let mut headers = HeaderIter::new(rest);
    if headers.by_ref().count() != count as usize || !headers.is_done() {
        return Err("whose headers are not as many as it says, or malformed");
    }
    Ok(())
}

fn take<const N: usize>(rest: &mut &[u8]) -> Option<[u8; N]> {
    let (head, tail) = rest.split_first_chunk::<N>()?;
    *rest = tail;
    Some(*head)
}

/// Passes over `{ length: u32, bytes }`, where a length of `0xffff_ffff` is null.
fn take_cell(rest: &mut &[u8]) -> Option<()> {
    let length = u32::from_le_bytes(take::<4>(rest)?);
    if length != u32::MAX {
        *rest = rest.get(length as usize..)?;
    }
    Some(())
}

/// No record both fails and leaves. Both lists are in order.
fn check_disjoint(rows: &[OutRow], failures: &[Failure]) -> Result<(), Lie> {
    let mut rows = rows.iter().peekable();
    for failure in failures {
        while rows.next_if(|row| row.row < failure.row).is_some() {}
        if rows.peek().is_some_and(|row| row.row == failure.row) {
            lie!("row {} both fails and leaves", failure.row);
        }
    }
    Ok(())
}

/// A few bytes of `kept` can ask for a large record many times over: further copies count as output.
fn check_copies(rows: &[OutRow], data_bytes: usize, frame: &Frame<'_>) -> Result<(), Lie> {
    let mut bytes = data_bytes;
    for pair in rows.windows(2) {
        if let [before, row] = pair
            && before.row == row.row
        {
            bytes = bytes.saturating_add((frame.record_bytes)(row.row));
            if let OutOp::Replace(span) | OutOp::Emit(span) = row.op {
                bytes = bytes.saturating_add(span.length as usize);
            }
            if bytes > frame.output_bytes_max {
                return Err(Lie::TooLarge { bytes, max: frame.output_bytes_max });
            }
        }
    }
    Ok(())
}

/// One set-column against `rows` output rows.
fn check_column(column: &SetColumn, field_type: FieldType, rows: usize) -> Result<(), String> {
    if !column.state.is_empty() && column.state.len() != rows {
        return Err(format!("{} states for {rows} rows", column.state.len()));
    }
    if let Some(state) = column.state.iter().find(|state| **state > FIELD_STATE_REMOVE) {
        return Err(format!("a state of {state}, which does not exist"));
    }
    let set = |row: usize| column.state.get(row).is_none_or(|state| *state == FIELD_STATE_SET);
    let fixed = |width: usize| {
        if column.values.len() != rows * width {
            return Err(format!("{} bytes of values for {rows} rows of {width}", column.values.len()));
        }
        Ok(())
    };
    match field_type {
        FieldType::Boolean => {
            fixed(1)?;
            match column.values.iter().enumerate().find(|(row, value)| set(*row) && **value > 1) {
                Some((row, value)) => Err(format!("row {row} is {value}, a boolean is 0 or 1")),
                None => Ok(()),
            }
        }
        FieldType::S64 | FieldType::F64 => fixed(8),
        FieldType::Symbol => {
            fixed(4)?;
            check_symbols(column, set)
        }
        FieldType::Bytes => check_cells(&column.values, &column.data, rows),
        FieldType::Text => {
            check_cells(&column.values, &column.data, rows)?;
            check_text(&column.values, &column.data)
        }
        FieldType::Json => {
            check_cells(&column.values, &column.data, rows)?;
            check_text(&column.values, &column.data)?;
            check_json(column, set)
        }
    }
}

fn offsets(table: &[u8]) -> impl Iterator<Item = usize> + '_ {
    table.as_chunks::<4>().0.iter().map(|offset| u32::from_le_bytes(*offset) as usize)
}

/// `rows + 1` offsets into `data` that begin at 0 and never fall.
fn check_cells(table: &[u8], data: &[u8], rows: usize) -> Result<(), String> {
    if table.len() != (rows + 1) * 4 {
        return Err(format!("{} bytes of offsets for {rows} cells, {} are needed", table.len(), (rows + 1) * 4));
    }
    let mut before = 0;
    for (cell, offset) in offsets(table).enumerate() {
        if offset < before || (cell == 0 && offset != 0) {
            return Err(format!("offset {cell} is {offset}, after {before}: offsets begin at 0 and never fall"));
        }
        before = offset;
    }
    if before > data.len() {
        return Err(format!("cells end at {before}, the data has {} bytes", data.len()));
    }
    Ok(())
}

/// All cells are UTF-8: the bytes as a whole are, and no cell begins or ends inside a character.
fn check_text(table: &[u8], data: &[u8]) -> Result<(), String> {
    let end = offsets(table).last().unwrap_or(0);
    let text = std::str::from_utf8(&data[..end]).map_err(|error| format!("not UTF-8: {error}"))?;
    if text.is_ascii() {
        return Ok(());
    }
    match offsets(table).enumerate().find(|(_, offset)| !text.is_char_boundary(*offset)) {
        Some((cell, offset)) => Err(format!("offset {cell} is {offset}, inside a character")),
        None => Ok(()),
    }
}

fn check_json(column: &SetColumn, set: impl Fn(usize) -> bool) -> Result<(), String> {
    let ends = offsets(&column.values).skip(1);
    for (row, (start, end)) in offsets(&column.values).zip(ends).enumerate() {
        if set(row) {
            serde_json::from_slice::<serde::de::IgnoredAny>(&column.data[start..end])
                .map_err(|error| format!("row {row} is not JSON: {error}"))?;
        }
    }
    Ok(())
}

/// The dictionary `{ n: u32, (n + 1) x u32 offset, bytes }`, and the indexes into it.
fn check_symbols(column: &SetColumn, set: impl Fn(usize) -> bool) -> Result<(), String> {
    let mut symbols = 0;
    if !column.data.is_empty() {
        let mut rest = column.data.as_slice();
        symbols = take::<4>(&mut rest).map(u32::from_le_bytes).ok_or("a dictionary without its length")?;
        let table_bytes = (symbols as usize + 1) * 4;
        let (table, bytes) = rest
            .split_at_checked(table_bytes)
            .ok_or_else(|| format!("a dictionary of {symbols} symbols in {} bytes", column.data.len()))?;
        check_cells(table, bytes, symbols as usize).map_err(|reason| format!("dictionary: {reason}"))?;
        check_text(table, bytes).map_err(|reason| format!("dictionary: {reason}"))?;
    }
    for (row, index) in offsets(&column.values).enumerate() {
        if index >= symbols as usize && set(row) {
            return Err(format!("row {row} is symbol {index} of {symbols}"));
        }
    }
    Ok(())
}

#[cfg(test)]
#[path = "check_tests.rs"]
mod tests;
