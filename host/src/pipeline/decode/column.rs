//! One typed column under way, in the layout of `wit/types.wit`.

use std::collections::HashMap;

use super::typed::Typed;
use crate::record::{FieldColumn, FieldType};

/// Symbols that are found without a hash.
const SYMBOLS_COMPARED: usize = 8;

/// Builds one column in the layout of `wit/types.wit`.
pub(super) struct Builder {
    field_type: FieldType,
    rows: usize,
    column: FieldColumn,
    has_null: bool,
    /// Symbols seen beyond [`SYMBOLS_COMPARED`]: text to index. All texts stand in `column.data`, their ends in
    /// `symbol_ends`.
    symbols: HashMap<Box<str>, u32>,
    symbol_ends: Vec<u32>,
}

impl Builder {
    pub(super) fn new(field_type: FieldType) -> Self {
        let mut column = FieldColumn::default();
        if matches!(field_type, FieldType::Text | FieldType::Bytes | FieldType::Json) {
            column.values.extend_from_slice(&0_u32.to_le_bytes());
        }
        Self { field_type, rows: 0, column, has_null: false, symbols: HashMap::new(), symbol_ends: Vec::new() }
    }

    pub(super) fn push(&mut self, cell: Option<Typed<'_>>) {
        if self.rows.is_multiple_of(8) {
            self.column.validity.push(0);
        }
        if cell.is_some() {
            let last = self.column.validity.last_mut().expect("a byte was pushed for this row");
            *last |= 1 << (self.rows % 8);
        } else {
            self.has_null = true;
        }
        self.rows += 1;
        match (self.field_type, cell) {
            (FieldType::Boolean, Some(Typed::Boolean(value))) => self.column.values.push(u8::from(value)),
            (FieldType::Boolean, _) => self.column.values.push(0),
            (FieldType::S64, Some(Typed::S64(value))) => self.column.values.extend_from_slice(&value.to_le_bytes()),
            (FieldType::F64, Some(Typed::F64(value))) => self.column.values.extend_from_slice(&value.to_le_bytes()),
            (FieldType::S64 | FieldType::F64, _) => self.column.values.extend_from_slice(&[0; 8]),
            (FieldType::Symbol, Some(Typed::Text(text))) => self.push_symbol(&text),
            (FieldType::Symbol, _) => self.push_symbol(""),
            (_, Some(Typed::Text(text))) => self.push_bytes(text.as_bytes()),
            (_, Some(Typed::Bytes(bytes))) => self.push_bytes(&bytes),
            (_, _) => self.push_bytes(&[]),
        }
    }

    fn push_bytes(&mut self, bytes: &[u8]) {
        self.column.data.extend_from_slice(bytes);
        self.column.values.extend_from_slice(&(self.column.data.len() as u32).to_le_bytes());
    }

    fn push_symbol(&mut self, text: &str) {
        let index = self.symbol(text).unwrap_or_else(|| {
            let index = self.symbol_ends.len() as u32;
            if index as usize >= SYMBOLS_COMPARED {
                self.symbols.insert(text.into(), index);
            }
            self.column.data.extend_from_slice(text.as_bytes());
            self.symbol_ends.push(self.column.data.len() as u32);
            index
        });
        self.column.values.extend_from_slice(&index.to_le_bytes());
    }

    /// The index of a text that was seen: the first few are compared one by one, which is quicker than any hash.
    fn symbol(&self, text: &str) -> Option<u32> {
        let mut start = 0;
        for (index, end) in self.symbol_ends.iter().take(SYMBOLS_COMPARED).enumerate() {
            let end = *end as usize;
            if &self.column.data[start..end] == text.as_bytes() {
                return Some(index as u32);
            }
            start = end;
        }
        if self.symbols.is_empty() { None } else { self.symbols.get(text).copied() }
    }

    pub(super) fn finish(mut self) -> FieldColumn {
        if !self.has_null {
            self.column.validity.clear();
        }
        if self.field_type == FieldType::Symbol {
            let mut dictionary = Vec::with_capacity(8 + self.symbol_ends.len() * 4 + self.column.data.len());
            dictionary.extend_from_slice(&(self.symbol_ends.len() as u32).to_le_bytes());
            dictionary.extend_from_slice(&0_u32.to_le_bytes());
            for end in &self.symbol_ends {
                dictionary.extend_from_slice(&end.to_le_bytes());
            }
            dictionary.extend_from_slice(&self.column.data);
            self.column.data = dictionary;
        }
        self.column
    }
}
