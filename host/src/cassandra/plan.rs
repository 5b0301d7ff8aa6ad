//! A table as the sink last saw it, with what its rows are encoded for.
//!
//! In: a [`Table`] and what the pipeline maps to its columns. Out: a [`Plan`]: the shape of its rows, its statements, and
//! how long a row has left to live. Pure: who asks the cluster is `writer`.

use scylla::statement::prepared::PreparedStatement;
use tokio::time::Instant;

use super::rows::{Shape, ShapeColumn};
use super::table::{ColumnRole, TTL_S_MAX, Table};
use crate::config::TableOutput;
use crate::pipeline::CellSpec;
use crate::record::{RowMeta, RowOp};

/// The table as it was last seen.
pub(super) struct Plan {
    pub(super) table: Table,
    pub(super) shape: Shape,
    pub(super) ttl_s: Option<u64>,
    pub(super) version: u64,
    pub(super) seen_at: Instant,
}

impl Plan {
    pub(super) fn new(
        table: Table,
        specs: &[CellSpec],
        output: &TableOutput,
        row_bytes_max: usize,
        seen_at: Instant,
    ) -> Self {
        let source_of = |name: &str| specs.iter().position(|spec| spec.column == name);
        let columns = table
            .columns
            .iter()
            .filter_map(|column| {
                Some(ShapeColumn {
                    source: source_of(&column.name)?,
                    name: column.name.clone(),
                    role: column.role,
                    column_type: column.column_type.clone(),
                    type_text: column.type_text.clone(),
                })
            })
            .collect();
        let is_there = |name: &str| table.columns.iter().any(|column| column.name == name);
        let gone = specs
            .iter()
            .enumerate()
            .filter(|(_, spec)| !is_there(&spec.column))
            .map(|(source, spec)| (source, spec.column.clone()))
            .collect();
        let ttl_s = output.ttl.map(|ttl| ttl.as_secs()).or(table.default_ttl_s);
        Self { shape: Shape { columns, gone, row_bytes_max }, table, ttl_s, version: 0, seen_at }
    }

    pub(super) fn statement(&self, op: RowOp) -> &PreparedStatement {
        match op {
            RowOp::Upsert => &self.table.insert,
            RowOp::Delete => &self.table.delete,
        }
    }

    /// Why this is not the table that we knew, with other columns, but another one.
    pub(super) fn another_table(&self, known: &Self) -> Option<&'static str> {
        let key = |plan: &Self| {
            let columns = plan.table.columns.iter().filter(|column| column.role <= ColumnRole::Clustering);
            columns.map(|column| column.name.clone()).collect::<Vec<_>>()
        };
        (key(self) != key(known)).then_some("its primary key has changed")
    }

    /// The time to live that a row has left, counted from its record's time: `Some(None)` where it lives for ever,
    /// `None` where it is over. Never 0, which Cassandra takes for "for ever".
    #[expect(clippy::option_option, reason = "two questions: is it over, and is there one")]
    pub(super) fn ttl_left_s(&self, op: RowOp, meta: &RowMeta, now_ms: i64) -> Option<Option<i32>> {
        match self.ttl_s {
            Some(ttl_s) if op == RowOp::Upsert => ttl_left_s(ttl_s, meta, now_ms).map(Some),
            _ => Some(None),
        }
    }
}

fn ttl_left_s(ttl_s: u64, meta: &RowMeta, now_ms: i64) -> Option<i32> {
    let left_ms = i128::from(meta.lives_from_ms()) + i128::from(ttl_s) * 1000 - i128::from(now_ms);
    // Rounded up: a row lives up to a second longer, never shorter.
    let left_s = (left_ms + 999).div_euclid(1000).min(i128::from(TTL_S_MAX));
    i32::try_from(left_s).ok().filter(|left_s| *left_s > 0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::record::{Offset, WriteTime};

    fn meta(timestamp_ms: i64, write_time: i64) -> RowMeta {
        RowMeta {
            origin: 0,
            offset: Offset(0),
            timestamp_ms,
            write_time: WriteTime(write_time),
            index: 0,
            op: RowOp::Upsert,
        }
    }

    #[test]
    fn time_to_live_counts_from_the_record() {
        let record = meta(1_000_000, 1_000_000_000);
        assert_eq!(ttl_left_s(60, &record, 1_000_000), Some(60));
        assert_eq!(ttl_left_s(60, &record, 1_030_500), Some(30), "29.5 s are rounded up");
        assert_eq!(ttl_left_s(60, &record, 1_059_999), Some(1));
        assert_eq!(ttl_left_s(60, &record, 1_060_000), None, "over, and never 0");
        assert_eq!(ttl_left_s(60, &record, 9_000_000), None);
    }

    #[test]
    fn without_a_timestamp_the_write_time_counts() {
        assert_eq!(ttl_left_s(60, &meta(-1, 1_000_000_000), 1_010_000), Some(50));
    }

    #[test]
    fn a_clamped_record_lives_from_its_write_time() {
        let ahead = meta(i64::MAX / 2, 1_000_000_000);
        assert_eq!(ttl_left_s(60, &ahead, 1_000_000), Some(60));
        assert_eq!(ttl_left_s(TTL_S_MAX, &ahead, 0), Some(TTL_S_MAX as i32), "never more than Cassandra takes");
    }
}
