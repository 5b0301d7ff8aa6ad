//! Rows of one partition of a table, which go to a real Cassandra together.

use std::sync::Arc;
use std::time::Duration;

use pelton::cassandra::CassandraSink;
use pelton::clock::ManualClock;
use pelton::pipeline::Sink;
use pelton::record::Cell;

use crate::cassandra_support::{Row, batch, delete, number, text, upsert, with_keyspace};

const TABLE: &str = "(p int, c int, a text, b text, s text static, PRIMARY KEY (p, c))";

/// Successful requests so far.
fn requests(sink: &CassandraSink) -> u64 {
    sink.snapshot().latency_counts.iter().sum()
}

#[tokio::test(flavor = "multi_thread")]
async fn together_they_write_what_each_would_alone() {
    with_keyspace(|ks| async move {
        for name in ["together", "alone"] {
            ks.cql(&format!("CREATE TABLE KS.{name} {TABLE}")).await;
        }
        let now_ms = 1_700_000_000_000;
        let clock = ManualClock::at(now_ms);
        let open = async |name: &str| {
            let mut output = ks.table(name);
            output.ttl = Some(Duration::from_secs(100_000));
            ks.sink_with(&output, Arc::new(clock.clone())).await
        };
        // Few keys, so that rows are written again and again, deleted, set in part, and too late.
        let texts: Vec<String> = (0..600).map(|at| format!("value {at}")).collect();
        let rows: Vec<Row<'_>> = (0..600_i64)
            .map(|at| {
                let key = [("p", number(at % 3)), ("c", number(at * 7 % 50))];
                let value = text(&texts[at as usize]);
                let write_time = (now_ms - at * 1013 % 600) * 1000;
                let row = match at % 11 {
                    0 => delete(at, write_time, &key),
                    1 => upsert(at, write_time, &[&key[..], &[("s", value)]].concat()),
                    2 => upsert(at, write_time, &[&key[..], &[("a", Cell::Null)]].concat()),
                    3..6 => upsert(at, write_time, &[&key[..], &[("b", value)]].concat()),
                    _ => upsert(at, write_time, &[&key[..], &[("a", value), ("b", value)]].concat()),
                };
                // Some have expired.
                let timestamp_ms = if at % 13 == 0 { now_ms - 200_000_000 } else { now_ms };
                Row { timestamp_ms, ..row }
            })
            .collect();
        let (together, alone) = (open("together").await, open("alone").await);
        let at_once = together.write(batch(&together, &rows)).await.await;
        let mut one_by_one = 0;
        for row in rows.chunks(1) {
            let written = alone.write(batch(&alone, row)).await.await;
            assert_eq!(written.failures, []);
            one_by_one += written.expired;
        }
        assert_eq!((at_once.failures, at_once.expired), (vec![], one_by_one));
        assert_eq!(together.snapshot().rows, alone.snapshot().rows);
        assert_eq!(requests(&alone), alone.snapshot().rows);
        assert!(requests(&together) * 50 < requests(&alone), "{}", requests(&together));
        let shown = async |table: &str| {
            let times = "WRITETIME(a) AS wa, WRITETIME(b) AS wb, WRITETIME(s) AS ws";
            ks.json(&format!("SELECT JSON p, c, a, b, s, {times} FROM KS.{table}")).await
        };
        let expected = shown("alone").await;
        assert!(expected.len() > 60, "{}", expected.len());
        assert_eq!(shown("together").await, expected);
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_the_server_refuses_in_company_fails_its_own_row() {
    with_keyspace(|ks| async move {
        ks.cql(&format!("CREATE TABLE KS.t {TABLE}")).await;
        ks.cql("CREATE INDEX ON KS.t (a)").await;
        let sink = ks.sink(&ks.table("t")).await;
        // The index takes no such value; no type tells.
        let long = "x".repeat(70_000);
        let rows: Vec<Row<'_>> = (0..20)
            .map(|at| {
                let value = if at == 7 { text(&long) } else { text("short") };
                let small = [("p", number(1)), ("c", number(at)), ("a", value)];
                upsert(at, 10 + at, &small)
            })
            .collect();
        let written = sink.write(batch(&sink, &rows)).await.await;
        let failed: Vec<_> = written.failures.iter().map(|failure| (failure.row, failure.code.as_str())).collect();
        assert_eq!(failed, [(7, "sink.refused")]);
        assert_eq!(ks.json("SELECT JSON c FROM KS.t").await.len(), 19);
        assert_eq!(sink.blocked(), None);
    })
    .await;
}
