//! From values to typed columns.
//!
//! In: the value column of a batch and the fields that a step subscribed to. Out: one column a field for the rows that
//! fit, and a rejection for each that does not. Finding the raw text of a field in a document stands behind one trait,
//! [`Scanner`]; what that text means as a type is decided once (`typed`), for every scanner; `column` lays it out. Never looks at what nobody
//! subscribed to, beyond checking that the document is whole, and never quotes a payload in a message.

mod column;
mod scanner;
mod typed;

use crate::record::{Batch, Field, FieldColumn, Policy};

use column::Builder;
pub use scanner::{Malformed, Scanner, SerdeScanner};
use typed::{Typed, kind, typed, wanted};
pub use typed::{json_string, with_natural_cell};

/// The columns of a step's subscription, for the rows that fit.
#[derive(Debug, Default)]
pub struct Extracted {
    /// One for each field, one cell for each row of `rows`.
    pub columns: Vec<FieldColumn>,
    /// The rows of the batch that fit; none where all do.
    pub rows: Option<Vec<usize>>,
    /// The rows that do not fit, rising.
    pub rejects: Vec<Reject>,
    /// Tombstones: they have no fields, and pass the step by. Rising.
    pub tombstones: Vec<usize>,
}

/// A row that does not fit.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reject {
    /// The row of the batch.
    pub row: usize,
    /// `decode.…`
    pub code: &'static str,
    /// For people: which field, what was wanted, what was found. No payload.
    pub message: String,
}

/// Extracts the fields of one step.
pub struct Extractor {
    fields: Vec<Field>,
    scanner: Box<dyn Scanner>,
}

impl Extractor {
    /// An extractor of these fields from JSON.
    #[must_use]
    pub fn json(fields: &[Field]) -> Self {
        let scanner = SerdeScanner::new(fields.iter().map(|field| field.path.as_slice()));
        Self { fields: fields.to_vec(), scanner: Box::new(scanner) }
    }

    /// Extracts the columns of a batch. Without fields nothing is looked at and every row fits.
    #[must_use]
    pub fn extract(&self, batch: &Batch) -> Extracted {
        if self.fields.is_empty() {
            return Extracted::default();
        }
        let mut builders: Vec<Builder> = self.fields.iter().map(|field| Builder::new(field.field_type)).collect();
        let mut extracted = Extracted::default();
        let mut fitting = Vec::with_capacity(batch.len());
        let mut found = Vec::new();
        let mut cells = Vec::with_capacity(self.fields.len());
        for row in 0..batch.len() {
            let Some(value) = batch.values.get(row) else {
                extracted.tombstones.push(row);
                continue;
            };
            match self.row(value, &mut found, &mut cells) {
                Ok(()) => {
                    for (builder, cell) in builders.iter_mut().zip(cells.drain(..)) {
                        builder.push(cell);
                    }
                    fitting.push(row);
                }
                Err((code, message)) => extracted.rejects.push(Reject { row, code, message }),
            }
        }
        extracted.columns = builders.into_iter().map(Builder::finish).collect();
        extracted.rows = (fitting.len() < batch.len()).then_some(fitting);
        extracted
    }

    fn row<'v>(
        &self,
        value: &'v [u8],
        found: &mut Vec<Option<&'v str>>,
        cells: &mut Vec<Option<Typed<'v>>>,
    ) -> Result<(), (&'static str, String)> {
        cells.clear();
        self.scanner.scan(value, found).map_err(|malformed| (malformed.code, malformed.message))?;
        for (field, raw) in self.fields.iter().zip(found.iter()) {
            let (cell, policy) = match raw {
                None | Some("null") => (None, field.on_missing),
                Some(raw) => match typed(raw, field.field_type) {
                    Some(cell) => {
                        cells.push(Some(cell));
                        continue;
                    }
                    None => (Some(*raw), field.on_mismatch),
                },
            };
            if policy == Policy::Reject {
                return Err(refusal(field, cell));
            }
            cells.push(None);
        }
        Ok(())
    }
}

fn refusal(field: &Field, found: Option<&str>) -> (&'static str, String) {
    let path = field.path.join(".");
    match found {
        None => ("decode.missing_field", format!("field {path} is missing or null")),
        Some(raw) => {
            let wanted = wanted(field.field_type);
            ("decode.wrong_type", format!("field {path}: {wanted} is wanted, {} was found", kind(raw)))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::record::{FieldType, Offset, TopicPartition};

    fn field(path: &[&str], field_type: FieldType, policy: Policy) -> Field {
        let path = path.iter().map(ToString::to_string).collect();
        Field { path, field_type, on_missing: policy, on_mismatch: policy }
    }

    fn batch(values: &[&[u8]]) -> Batch {
        let mut batch = Batch::new(TopicPartition::new("t", 0));
        for (offset, value) in values.iter().enumerate() {
            batch.push(Offset(offset as i64), None, None, Some(value), []);
        }
        batch
    }

    #[test]
    fn policies_decide_and_rows_stay_aligned() {
        let fields = [field(&["n"], FieldType::S64, Policy::Reject), field(&["s"], FieldType::Text, Policy::Null)];
        let batch = batch(&[
            br#"{"n":1,"s":"a\u00e9"}"#,
            br#"{"s":"x"}"#,
            br#"{"n":"1"}"#,
            br#"{"n":2,"s":"\ud800"}"#,
            br#"{"n":3,"s":null}"#,
        ]);
        let extracted = Extractor::json(&fields).extract(&batch);
        assert_eq!(extracted.rows, Some(vec![0, 3, 4]));
        let codes: Vec<_> = extracted.rejects.iter().map(|reject| (reject.row, reject.code)).collect();
        assert_eq!(codes, [(1, "decode.missing_field"), (2, "decode.wrong_type")]);
        assert_eq!(extracted.columns[0].values, [1_i64, 2, 3].map(i64::to_le_bytes).concat());
        assert_eq!(extracted.columns[1].validity, [0b001]);
        assert_eq!(extracted.columns[1].data, "aé".as_bytes());
    }

    #[test]
    fn many_symbols_keep_their_places() {
        let values: Vec<_> = (0..100).map(|n| format!(r#"{{"c":"s{}"}}"#, n * 7 % 40)).collect();
        let batch = batch(&values.iter().map(String::as_bytes).collect::<Vec<_>>());
        let column = &Extractor::json(&[field(&["c"], FieldType::Symbol, Policy::Reject)]).extract(&batch).columns[0];
        let word = |table: &[u8], at: usize| u32::from_le_bytes(table[at * 4..at * 4 + 4].try_into().unwrap()) as usize;
        assert_eq!(word(&column.data, 0), 40);
        let bytes = &column.data[4 + 41 * 4..];
        for (row, value) in values.iter().enumerate() {
            let index = word(&column.values, row);
            let text = &bytes[word(&column.data, 1 + index)..word(&column.data, 2 + index)];
            assert!(value.contains(&format!("\"{}\"", std::str::from_utf8(text).unwrap())), "{row}: {value}");
        }
    }

    #[test]
    fn symbols_share_a_dictionary() {
        let batch = batch(&[br#"{"c":"de"}"#, br#"{"c":"fr"}"#, br#"{"c":"de"}"#]);
        let column = &Extractor::json(&[field(&["c"], FieldType::Symbol, Policy::Reject)]).extract(&batch).columns[0];
        assert_eq!(column.values, [0_u32, 1, 0].map(u32::to_le_bytes).concat());
        assert_eq!(column.data, [&[2_u32, 0, 2, 4].map(u32::to_le_bytes).concat()[..], b"defr"].concat());
    }
}
