//! Which rows of a batch go to Cassandra together.
//!
//! In: a batch's rows, encoded. Out: their places, in groups: rows of one partition of the table side by side, so far as
//! one request should carry. A pure function. The order of rows does not matter to the table: each has its write time.

use std::collections::HashMap;

use super::rows::EncodedBatch;

/// Rows in a group at most: beyond it another gains little, and one slow answer holds up more.
const ROWS_MAX: usize = 128;
/// Bytes of a group's values at most; a larger row goes alone.
const BYTES_MAX: usize = 128 << 10;

/// A group that is still open.
struct Open {
    at: usize,
    bytes: usize,
}

/// Places in [`EncodedBatch::units`], each in one group, in the order of the groups' first rows.
pub(super) fn groups(encoded: &EncodedBatch) -> Vec<Vec<usize>> {
    let mut groups: Vec<Vec<usize>> = Vec::new();
    let mut open: HashMap<&[u8], Open> = HashMap::with_capacity(encoded.units.len());
    for (at, unit) in encoded.units.iter().enumerate() {
        let bytes = unit.values.len();
        let key_end = unit.values.start + unit.partition_bytes;
        let partition = encoded.bytes.get(unit.values.start..key_end).unwrap_or_default();
        if let Some(open) = open.get_mut(partition)
            && let Some(group) = groups.get_mut(open.at)
            && group.len() < ROWS_MAX
            && open.bytes + bytes <= BYTES_MAX
        {
            open.bytes += bytes;
            group.push(at);
            continue;
        }
        open.insert(partition, Open { at: groups.len(), bytes });
        groups.push(vec![at]);
    }
    groups
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cassandra::rows::Unit;
    use crate::record::RowOp;

    /// Rows with a partition key of one byte each, and so many bytes of values.
    fn encoded(rows: &[(u8, usize)]) -> EncodedBatch {
        let mut encoded = EncodedBatch::default();
        for (at, (partition, bytes)) in rows.iter().enumerate() {
            let start = encoded.bytes.len();
            encoded.bytes.push(*partition);
            encoded.bytes.resize(start + bytes, at as u8);
            let values = start..encoded.bytes.len();
            let mut unit = Unit::of(at, RowOp::Upsert);
            (unit.values, unit.partition_bytes) = (values, 1);
            encoded.units.push(unit);
        }
        encoded
    }

    #[test]
    fn rows_of_one_partition_go_together_wherever_they_stand() {
        let found = groups(&encoded(&[(1, 10), (2, 10), (1, 10), (3, 10), (2, 10)]));
        assert_eq!(found, [vec![0, 2], vec![1, 4], vec![3]]);
    }

    #[test]
    fn a_group_is_closed_by_rows_and_by_bytes() {
        let many = groups(&encoded(&vec![(1, 4); 300]));
        assert_eq!(many.iter().map(Vec::len).collect::<Vec<_>>(), [128, 128, 44]);
        let large = groups(&encoded(&[(1, 80 << 10), (1, 80 << 10), (1, 10), (1, 200 << 10), (1, 10)]));
        assert_eq!(large, [vec![0], vec![1, 2], vec![3], vec![4]]);
    }

    #[test]
    fn every_row_is_in_one_group() {
        let rows: Vec<(u8, usize)> = (0..1000_usize).map(|at| ((at * 7 % 13) as u8, 1 + at % 900)).collect();
        let mut all: Vec<usize> = groups(&encoded(&rows)).concat();
        all.sort_unstable();
        assert_eq!(all, (0..1000).collect::<Vec<_>>());
    }
}
