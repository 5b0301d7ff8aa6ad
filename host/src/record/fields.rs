//! Typed field columns, in the layout of `wit/types.wit`.

use super::Value;

/// The type of a field column.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, serde::Serialize)]
#[serde(rename_all = "snake_case")]
pub enum FieldType {
    /// count x u8, 0 or 1
    Boolean,
    /// count x i64
    S64,
    /// count x f64
    F64,
    /// (count + 1) x u32 offsets into `data`; UTF-8
    Text,
    /// count x u32 into the dictionary in `data`
    Symbol,
    /// as text, any bytes
    Bytes,
    /// as text, the raw JSON text of the value
    Json,
}

impl FieldType {
    /// All of them.
    pub const ALL: [Self; 7] = [Self::Boolean, Self::S64, Self::F64, Self::Text, Self::Symbol, Self::Bytes, Self::Json];

    /// Its name in `wit/types.wit`.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Boolean => "boolean",
            Self::S64 => "s64",
            Self::F64 => "f64",
            Self::Text => "text",
            Self::Symbol => "symbol",
            Self::Bytes => "bytes",
            Self::Json => "json",
        }
    }
}

/// What becomes of a row whose field is absent, or does not fit.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Policy {
    /// The record goes to the dead letters.
    Reject,
    /// The cell is null.
    Null,
}

/// A typed field that a plugin reads.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Field {
    /// Object keys from the root of the value.
    pub path: Vec<String>,
    /// The type wanted.
    pub field_type: FieldType,
    /// Absent or null.
    pub on_missing: Policy,
    /// Of another type, or out of range.
    pub on_mismatch: Policy,
}

/// A typed field that a plugin sets.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OutputField {
    /// Object keys from the root of the value.
    pub path: Vec<String>,
    /// The type of its cells.
    pub field_type: FieldType,
}

/// A typed column for a plugin; see `field-column` in `wit/types.wit`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct FieldColumn {
    /// Bit i (least significant first): row i is not null. Empty: no nulls.
    pub validity: Vec<u8>,
    /// Cells, or offsets of cells.
    pub values: Vec<u8>,
    /// Bytes of cells.
    pub data: Vec<u8>,
}

/// A typed column from a plugin, one cell an output row; see `set-column` in `wit/types.wit`. Checked when it comes in.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct SetColumn {
    /// One of the `FIELD_STATE_*` a row; empty: all rows set the value.
    pub state: Vec<u8>,
    /// Cells, or offsets of cells.
    pub values: Vec<u8>,
    /// Bytes of cells.
    pub data: Vec<u8>,
}

/// The field stays as it is.
pub const FIELD_STATE_LEAVE: u8 = 0;
/// The field gets the value.
pub const FIELD_STATE_SET: u8 = 1;
/// The field becomes null.
pub const FIELD_STATE_NULL: u8 = 2;
/// The field is removed.
pub const FIELD_STATE_REMOVE: u8 = 3;

/// One cell of a [`SetColumn`].
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum SetCell<'a> {
    /// The field stays as it is.
    Leave,
    /// The field gets the value.
    Set(Value<'a>),
    /// The field becomes null.
    Null,
    /// The field is removed.
    Remove,
}

impl SetColumn {
    /// The cell of an output row.
    ///
    /// # Panics
    /// Where the column was not checked against `field_type` and the number of rows.
    #[must_use]
    pub fn cell(&self, field_type: FieldType, row: usize) -> SetCell<'_> {
        const CHECKED: &str = "columns are checked when they come in";
        match self.state.get(row).copied().unwrap_or(FIELD_STATE_SET) {
            FIELD_STATE_SET => {}
            FIELD_STATE_NULL => return SetCell::Null,
            FIELD_STATE_REMOVE => return SetCell::Remove,
            _ => return SetCell::Leave,
        }
        let word = |at: usize| -> [u8; 8] { self.values[at * 8..at * 8 + 8].try_into().expect(CHECKED) };
        let text = |bytes| std::str::from_utf8(bytes).expect(CHECKED);
        SetCell::Set(match field_type {
            FieldType::Boolean => Value::Boolean(self.values[row] != 0),
            FieldType::S64 => Value::S64(i64::from_le_bytes(word(row))),
            FieldType::F64 => Value::F64(f64::from_le_bytes(word(row))),
            FieldType::Text => Value::Text(text(dense(&self.values, &self.data, row))),
            FieldType::Json => Value::Json(text(dense(&self.values, &self.data, row))),
            FieldType::Bytes => Value::Bytes(dense(&self.values, &self.data, row)),
            FieldType::Symbol => {
                let count = u32_at(&self.data, 0) as usize;
                let (offsets, bytes) = self.data[4..].split_at((count + 1) * 4);
                Value::Text(text(dense(offsets, bytes, u32_at(&self.values, row) as usize)))
            }
        })
    }
}

/// Cell `row` of dense cells: `offsets` is (count + 1) x u32 into `bytes`.
fn dense<'a>(offsets: &[u8], bytes: &'a [u8], row: usize) -> &'a [u8] {
    &bytes[u32_at(offsets, row) as usize..u32_at(offsets, row + 1) as usize]
}

fn u32_at(table: &[u8], index: usize) -> u32 {
    u32::from_le_bytes(table[index * 4..index * 4 + 4].try_into().expect("four bytes are a u32"))
}
