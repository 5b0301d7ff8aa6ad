//! The Cassandra sink against a real Cassandra.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use pelton::cassandra::check::{TableCheck, check};
use pelton::cassandra::{CassandraError, CassandraSink, connect};
use pelton::clock::{ManualClock, SystemClock};
use pelton::config::TableOutput;
use pelton::pipeline::{RowFailure, Sink, Wants};
use pelton::record::{Cell, FieldType, OutputField, Value};

use crate::cassandra_support::{
    Keyspace, Row, address, batch, cassandra, delete, json, number, proxy, settings, text, upsert, wait_for,
    with_keyspace,
};

async fn write(sink: &CassandraSink, rows: &[Row<'_>]) -> (Vec<RowFailure>, u64) {
    let written = tokio::time::timeout(Duration::from_secs(60), sink.write(batch(sink, rows)).await);
    let written = written.await.expect("it is written within a minute");
    (written.failures, written.expired)
}

fn codes(failures: &[RowFailure]) -> Vec<(usize, &str)> {
    failures.iter().map(|failure| (failure.row, failure.code.as_str())).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn every_type_comes_back_as_it_was_sent() {
    with_keyspace(|ks| async move {
        ks.cql("CREATE TYPE KS.address (street text, number int)").await;
        let types = [
            ("c_ascii", "ascii", text("plain"), "\"plain\""),
            ("c_text", "text", text("grüße"), "\"grüße\""),
            ("c_bigint", "bigint", number(i64::MIN), "-9223372036854775808"),
            ("c_int", "int", text("-7"), "-7"),
            ("c_smallint", "smallint", number(-32_768), "-32768"),
            ("c_tinyint", "tinyint", number(127), "127"),
            ("c_varint", "varint", json("123456789012345678901234567890"), "123456789012345678901234567890"),
            ("c_decimal", "decimal", text("-1.50"), "-1.50"),
            ("c_float", "float", Cell::Value(Value::F64(0.5)), "0.5"),
            ("c_double", "double", Cell::Value(Value::F64(-0.1)), "-0.1"),
            ("c_boolean", "boolean", Cell::Value(Value::Boolean(true)), "true"),
            ("c_blob", "blob", Cell::Value(Value::Bytes(b"\x00\xff")), "\"0x00ff\""),
            (
                "c_uuid",
                "uuid",
                text("6f1d5a0e-6f0c-4f5e-9d50-1f9f2b1c7a01"),
                "\"6f1d5a0e-6f0c-4f5e-9d50-1f9f2b1c7a01\"",
            ),
            (
                "c_timeuuid",
                "timeuuid",
                text("50554d6e-29bb-11e5-b345-feff819cdc9f"),
                "\"50554d6e-29bb-11e5-b345-feff819cdc9f\"",
            ),
            ("c_inet", "inet", text("192.168.0.1"), "\"192.168.0.1\""),
            ("c_date", "date", text("1969-12-31"), "\"1969-12-31\""),
            ("c_time", "time", text("08:12:54.123456789"), "\"08:12:54.123456789\""),
            ("c_timestamp", "timestamp", text("1969-12-31T23:59:59.999+00:00"), "\"1969-12-31 23:59:59.999Z\""),
            ("c_duration", "duration", text("1y2mo3d4h5m6s7ms"), "\"1y2mo3d4h5m6s7ms\""),
            ("c_set", "set<int>", json("[3, 1, 2, 1]"), "[1, 2, 3]"),
            ("c_map", "map<text, bigint>", json(r#"{"b": 2, "a": "1"}"#), r#"{"a": 1, "b": 2}"#),
            ("c_list", "frozen<list<text>>", json(r#"["b", "a"]"#), r#"["b", "a"]"#),
            ("c_frozen_set", "frozen<set<text>>", json(r#"["b", "a", "b"]"#), r#"["a", "b"]"#),
            ("c_nested", "frozen<map<int, frozen<list<double>>>>", json(r#"{"1": [1, 2.5]}"#), r#"{"1": [1.0, 2.5]}"#),
            ("c_tuple", "tuple<int, text>", json(r#"[1, null]"#), "[1, null]"),
            ("c_udt", "frozen<address>", json(r#"{"street": "Elm"}"#), r#"{"street": "Elm", "number": null}"#),
            ("c_open_udt", "address", json(r#"{"street": "Elm", "number": 5}"#), r#"{"street": "Elm", "number": 5}"#),
            ("c_vector", "vector<float, 3>", json("[1, 2, 0.5]"), "[1.0, 2.0, 0.5]"),
        ];
        let columns: Vec<_> = types
            .iter()
            .map(|(name, kind, ..)| format!("{name} {}", kind.replace("address", &format!("{}.address", ks.name))))
            .collect();
        ks.cql(&format!("CREATE TABLE KS.t (id int PRIMARY KEY, {})", columns.join(", "))).await;
        let sink = ks.sink(&ks.table("t")).await;
        let mut cells = vec![("id", number(1))];
        cells.extend(types.iter().map(|(name, _, cell, _)| (*name, *cell)));
        let nulled = |name: &str| if name == "id" { number(2) } else { Cell::Null };
        let nulls: Vec<_> = cells.iter().map(|(name, _)| (*name, nulled(name))).collect();
        let rows = [upsert(1, 10, &cells), upsert(2, 20, &nulls), upsert(3, 30, &[("id", number(3))])];
        assert_eq!(write(&sink, &rows).await, (vec![], 0));
        for (name, kind, _, expected) in types {
            let shown = ks.json(&format!("SELECT JSON {name} FROM KS.t WHERE id = 1")).await;
            assert_eq!(shown, [format!("{{\"{name}\": {expected}}}")], "{kind}");
        }
        let all = ks.json("SELECT JSON * FROM KS.t WHERE id IN (2, 3)").await;
        assert_eq!(all.len(), 2, "a row of nulls and a row of nothing are rows");
        assert_eq!(all[0].matches("null").count(), types.len(), "{}", all[0]);
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn cells_carry_the_records_write_time_and_what_is_left_of_its_life() {
    with_keyspace(|ks| async move {
        ks.cql("CREATE TABLE KS.t (id int PRIMARY KEY, a int)").await;
        ks.cql("CREATE TABLE KS.d (id int PRIMARY KEY, a int) WITH default_time_to_live = 5000").await;
        let now_ms = 1_700_000_000_000;
        let clock = ManualClock::at(now_ms);
        let mut output = ks.table("t");
        output.ttl = Some(Duration::from_secs(1000));
        let sink = ks.sink_with(&output, Arc::new(clock.clone())).await;
        let row = |id: i64, timestamp_ms: i64| Row {
            timestamp_ms,
            ..upsert(id, (now_ms + 1) * 1000 + id, &[("id", number(id)), ("a", number(id))])
        };
        let rows = [row(1, now_ms), row(2, now_ms - 400_000), row(3, now_ms - 1_000_000), row(4, now_ms - 5_000_000)];
        assert_eq!(write(&sink, &rows).await, (vec![], 2), "two had expired");
        let shown = ks.json("SELECT JSON id, WRITETIME(a) AS t FROM KS.t").await;
        let at = |id: i64| (now_ms + 1) * 1000 + id;
        assert_eq!(shown, [format!(r#"{{"id": 1, "t": {}}}"#, at(1)), format!(r#"{{"id": 2, "t": {}}}"#, at(2))]);
        let ttls = ks.json("SELECT JSON TTL(a) AS ttl FROM KS.t").await;
        let ttls: Vec<i64> = ttls.iter().map(|shown| shown[8..shown.len() - 1].parse().expect("seconds")).collect();
        // The wall moves on a little between write and read.
        assert!((970..=1000).contains(&ttls[0]) && (570..=600).contains(&ttls[1]), "{ttls:?}");

        clock.set(now_ms + 999_999);
        let last = write(&sink, &[row(5, now_ms)]).await;
        assert_eq!(last, (vec![], 0), "a moment is left: it is written, and not for ever");
        clock.set(now_ms + 1_000_000);
        assert_eq!(write(&sink, &[row(6, now_ms)]).await, (vec![], 1));

        clock.set(now_ms);
        let by_default = ks.sink_with(&ks.table("d"), Arc::new(clock)).await;
        assert_eq!(write(&by_default, &[row(1, now_ms - 4_000_000), row(2, now_ms - 6_000_000)]).await, (vec![], 1));
        let shown = ks.json("SELECT JSON TTL(a) AS ttl FROM KS.d").await;
        let ttl: i64 = shown[0][8..shown[0].len() - 1].parse().expect("seconds");
        assert!((970..=1000).contains(&ttl), "the table's own time to live counts from the record too: {shown:?}");

        let for_ever = ks.sink(&ks.table("t")).await;
        write(&for_ever, &[row(9, 0)]).await;
        let shown = ks.json("SELECT JSON TTL(a) AS ttl FROM KS.t WHERE id = 9").await;
        assert_eq!(shown, [r#"{"ttl": null}"#]);
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_order_of_the_log_is_in_the_data_whatever_the_order_of_writes() {
    with_keyspace(|ks| async move {
        ks.cql("CREATE TABLE KS.t (id int, c int, a text, b text, s text static, PRIMARY KEY (id, c))").await;
        let sink = ks.sink(&ks.table("t")).await;
        let key = |c| [("id", number(1)), ("c", number(c))];
        let with = |c, more: &[(&'static str, Cell<'static>)]| [&key(c), more].concat();
        // 1: set; 2: partly overwritten, one cell nulled; 3: set, deleted, set anew within one record.
        let first = [upsert(1, 100, &with(1, &[("a", text("a1")), ("b", text("b1"))]))];
        let second = [upsert(2, 200, &with(1, &[("a", Cell::Null)]))];
        let third = [
            upsert(3, 300, &with(2, &[("a", text("gone")), ("b", text("gone"))])),
            delete(3, 300, &key(2)),
            upsert(3, 300, &with(2, &[("a", text("new"))])),
            upsert(3, 300, &with(3, &[("a", text("lost")), ("s", text("z first"))])),
            upsert(3, 300, &with(4, &[("s", text("a last"))])),
            delete(3, 300, &key(3)),
        ];
        let older = [upsert(4, 50, &with(2, &[("b", text("too old"))])), delete(5, 90, &key(1))];
        for rows in [&third[..], &second, &older, &first, &third, &first] {
            assert_eq!(write(&sink, rows).await, (vec![], 0));
        }
        let shown = ks.json("SELECT JSON c, a, b, s FROM KS.t").await;
        let expected = [
            r#"{"c": 1, "a": null, "b": "b1", "s": "a last"}"#,
            r#"{"c": 2, "a": "new", "b": null, "s": "a last"}"#,
            r#"{"c": 4, "a": null, "b": null, "s": "a last"}"#,
        ];
        assert_eq!(shown, expected);
        let times = ks.json("SELECT JSON WRITETIME(b) AS t FROM KS.t WHERE id = 1 AND c = 1").await;
        assert_eq!(times, [r#"{"t": 100}"#], "an unset cell keeps its value and its write time");
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_row_that_cannot_be_written_does_not_block_the_others() {
    with_keyspace(|ks| async move {
        ks.cql("CREATE TABLE KS.t (id text PRIMARY KEY, a int, b blob, at timestamp)").await;
        let mut output = ks.table("t");
        output.columns = BTreeMap::from([("at".to_owned(), vec!["meta".to_owned(), "time".to_owned()])]);
        let sink = ks.sink(&output).await;
        let Wants::Cells(specs) = sink.wants() else { panic!("a table wants cells") };
        let wanted: Vec<_> = specs.iter().map(|spec| (spec.column.as_str(), spec.path.join("."))).collect();
        let expected = [("id", "id"), ("a", "a"), ("at", "meta.time"), ("b", "b")].map(|(c, p)| (c, p.to_owned()));
        assert_eq!(wanted, expected, "the key first, then by name");

        let large = vec![7; 17 << 20];
        let fits = vec![7; (16 << 20) - (80 << 10)];
        let long_key = "k".repeat(70_000);
        let rows = [
            upsert(1, 10, &[("id", text("fine 1")), ("a", number(1))]),
            upsert(2, 20, &[("id", text("too big a number")), ("a", number(1 << 40))]),
            upsert(3, 30, &[("id", text("too large")), ("b", Cell::Value(Value::Bytes(&large)))]),
            upsert(4, 40, &[("a", number(4))]),
            upsert(5, 50, &[("id", text("")), ("a", number(5))]),
            upsert(6, 60, &[("id", text(&long_key)), ("a", number(5))]),
            upsert(7, 70, &[("id", text("no zone")), ("at", text("2026-01-01T00:00:00"))]),
            upsert(8, 80, &[("id", text("fine 2")), ("b", Cell::Value(Value::Bytes(&fits)))]),
        ];
        let (failures, _) = write(&sink, &rows).await;
        let expected = [
            (1, "sink.bad_value"),
            (2, "sink.too_large"),
            (3, "sink.bad_key"),
            (4, "sink.bad_key"),
            (5, "sink.bad_key"),
            (6, "sink.bad_value"),
        ];
        assert_eq!(codes(&failures), expected);
        assert_eq!(
            failures[0].message,
            "column a (int): found the number 1099511627776, wanted a whole number from -2147483648 to 2147483647"
        );
        assert_eq!(ks.json("SELECT JSON id FROM KS.t").await, [r#"{"id": "fine 1"}"#, r#"{"id": "fine 2"}"#]);
        assert_eq!(sink.blocked(), None);
        assert_eq!((sink.snapshot().rows, sink.snapshot().failures), (2, 6));
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_only_the_server_can_refuse_fails_its_own_row() {
    with_keyspace(|ks| async move {
        // A constraint that no type tells: a frozen collection as a key, with an index that limits its size.
        ks.cql("CREATE TABLE KS.t (id int PRIMARY KEY, a text)").await;
        ks.cql("CREATE INDEX ON KS.t (a)").await;
        let sink = ks.sink(&ks.table("t")).await;
        let long = "x".repeat(70_000);
        let rows = [
            upsert(1, 10, &[("id", number(1)), ("a", text("short"))]),
            upsert(2, 20, &[("id", number(2)), ("a", text(&long))]),
            upsert(3, 30, &[("id", number(3)), ("a", text("short"))]),
        ];
        let (failures, _) = write(&sink, &rows).await;
        assert_eq!(codes(&failures), [(1, "sink.refused")], "{failures:?}");
        assert_eq!(ks.json("SELECT JSON id FROM KS.t").await.len(), 2);
        assert_eq!(sink.blocked(), None);
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn tables_that_will_not_do_are_refused_with_every_reason() {
    with_keyspace(|ks| async move {
        ks.cql("CREATE TABLE KS.counts (id int PRIMARY KEY, hits counter)").await;
        ks.cql("CREATE TABLE KS.lists (id int PRIMARY KEY, tags list<text>)").await;
        ks.cql("CREATE TABLE KS.orders (id int PRIMARY KEY, total decimal, tags frozen<list<text>>)").await;
        let cassandra = cassandra(&address()).await;
        let refusal = async |output: &TableOutput| match CassandraSink::open(
            Arc::clone(&cassandra),
            output,
            Arc::new(SystemClock),
        )
        .await
        {
            Ok(_) => "fine".to_owned(),
            Err(error) => error.to_string().replace(&ks.name, "KS"),
        };
        assert_eq!(refusal(&ks.table("orders")).await, "fine");
        assert_eq!(
            refusal(&ks.table("Orders")).await,
            "table KS.Orders: keyspace KS has no table Orders (did you mean orders?)"
        );
        let counts = refusal(&ks.table("counts")).await;
        assert!(counts.contains("column hits of KS.counts is a counter"), "{counts}");
        let lists = refusal(&ks.table("lists")).await;
        assert!(lists.contains("make it frozen<list<text>>, a set or a map"), "{lists}");
        let mut twice = ks.table("lists");
        twice.columns = BTreeMap::from([("tag".to_owned(), vec!["t".to_owned()])]);
        twice.ttl = Some(Duration::from_secs(8000 * 86_400));
        let twice = refusal(&twice).await;
        for reason in ["has no column tag (did you mean tags?)", "list that is not frozen", "at most 7300 d"] {
            assert!(twice.contains(reason), "{twice}");
        }
        let mut elsewhere = ks.table("orders");
        elsewhere.table = format!("{}x.orders", ks.name);
        let elsewhere = refusal(&elsewhere).await;
        let made = "there is no keyspace KSx (did you mean KS? Otherwise make it: CREATE KEYSPACE KSx WITH replication";
        assert!(elsewhere.contains(made), "{elsewhere}");
        let bare = refusal(&TableOutput { table: "orders".into(), ..ks.table("orders") }).await;
        assert_eq!(bare, "table orders: \"orders\" names no keyspace (write `table: keyspace.table`)");
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_check_tells_tables_columns_and_types_by_key() {
    with_keyspace(|ks| async move {
        ks.cql("CREATE TABLE KS.orders (id int PRIMARY KEY, total decimal, note text)").await;
        let mut orders = ks.table("orders");
        orders.columns = BTreeMap::from([("total".to_owned(), vec!["sum".to_owned()])]);
        let field = |path: &str, field_type| OutputField { path: vec![path.into()], field_type };
        let fields = [field("id", FieldType::F64), field("sum", FieldType::Boolean), field("note", FieldType::Text)];
        let absent = ks.table("order");
        let tables = [
            TableCheck { pipeline: "shop", output_name: "default", output: &orders, fields: &fields },
            TableCheck { pipeline: "shop", output_name: "more", output: &absent, fields: &[] },
        ];
        let session = connect(&settings(&address())).await.expect("Cassandra answers");
        let problems = check(&session, &tables).await.problems;
        let keys: Vec<_> = problems.iter().map(|problem| problem.key.as_str()).collect();
        let expected = [
            "outputs.default.cassandra.table",
            "outputs.default.cassandra.columns.total",
            "outputs.more.cassandra.table",
        ];
        assert_eq!(keys, expected, "{problems:?}");
        assert_eq!(problems[2].remedy, "did you mean orders?");
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_falls_silent_while_it_is_asked_is_away_and_no_mistake() {
    with_keyspace(|ks| async move {
        ks.cql("CREATE TABLE KS.orders (id int PRIMARY KEY, total decimal)").await;
        let (proxy, orders) = (proxy().await, ks.table("orders"));
        let session = connect(&settings(&proxy.address)).await.expect("Cassandra answers");
        let tables = [TableCheck { pipeline: "shop", output_name: "default", output: &orders, fields: &[] }];
        proxy.set_closed(true);
        let checked = check(&session, &tables).await;
        assert!(checked.problems.is_empty(), "{:?}", checked.problems);
        assert_eq!(checked.unreachable[0].key, "outputs.default.cassandra.table");
        proxy.set_closed(false);
        let answers = async {
            while !check(&session, &tables).await.unreachable.is_empty() {
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        };
        tokio::time::timeout(Duration::from_secs(60), answers).await.expect("the session finds its node again");
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_connection_that_cannot_be_made_says_why() {
    let nobody = connect(&settings("127.0.0.1:1")).await.expect_err("nothing listens there");
    assert!(matches!(nobody, CassandraError::Unreachable { .. }) && nobody.is_transient(), "{nobody:?}");
    assert!(nobody.to_string().starts_with("Cassandra at 127.0.0.1:1 cannot be reached: "), "{nobody}");
    let mut elsewhere = settings(&address());
    elsewhere.local_datacenter = Some("nowhere".into());
    let elsewhere = connect(&elsewhere).await.expect_err("there is no such datacentre");
    assert!(!elsewhere.is_transient(), "{elsewhere:?}");
    let expected = "cassandra.local_datacenter: the cluster has no datacentre \"nowhere\"; it has ";
    assert!(elsewhere.to_string().starts_with(expected), "{elsewhere}");
    let mut half = settings(&address());
    half.username = Some("me".into());
    let half = connect(&half).await.expect_err("a name without a password");
    assert!(half.to_string().starts_with("cassandra.password: is missing"), "{half}");
}

/// Rows 0..count, each with its own number.
async fn write_numbers(sink: &CassandraSink, count: i64, batch_rows: i64) -> Vec<pelton::pipeline::Pending> {
    let mut pending = Vec::new();
    for first in (0..count).step_by(batch_rows as usize) {
        let rows: Vec<_> = (first..(first + batch_rows).min(count))
            .map(|id| upsert(id, 1000 + id * 10, &[("id", number(id)), ("a", number(id * 7))]))
            .collect();
        pending.push(sink.write(batch(sink, &rows)).await);
    }
    pending
}

async fn all_are_there(ks: &Keyspace, count: i64) {
    let pager =
        ks.session.query_iter(format!("SELECT id, a, WRITETIME(a) FROM {}.t", ks.name), ()).await.expect("rows");
    let mut stream = pager.rows_stream::<(i32, i32, i64)>().expect("three numbers");
    let mut seen = BTreeMap::new();
    while let Some(row) = futures::StreamExt::next(&mut stream).await {
        let (id, a, time) = row.expect("a row");
        seen.insert(i64::from(id), (i64::from(a), time));
    }
    let expected: BTreeMap<_, _> = (0..count).map(|id| (id, (id * 7, 1000 + id * 10))).collect();
    assert_eq!(seen.len() as i64, count);
    assert_eq!(seen, expected);
}

#[tokio::test(flavor = "multi_thread")]
async fn connections_that_break_lose_nothing() {
    with_keyspace(|ks| async move {
        ks.cql("CREATE TABLE KS.t (id int PRIMARY KEY, a int)").await;
        let proxy = proxy().await;
        let sink = CassandraSink::open(cassandra(&proxy.address).await, &ks.table("t"), Arc::new(SystemClock))
            .await
            .expect("the table will do");
        let sink = Arc::new(sink);
        let writing = tokio::spawn({
            let sink = Arc::clone(&sink);
            async move {
                let mut failures = 0;
                for pending in write_numbers(&sink, 20_000, 500).await {
                    failures += pending.await.failures.len();
                }
                failures
            }
        });
        let mut cuts = 0;
        for at in [1_000, 5_000, 9_000, 14_000] {
            wait_for("rows get through", || sink.snapshot().rows >= at || writing.is_finished()).await;
            proxy.cut();
            cuts += u32::from(!writing.is_finished());
        }
        assert_eq!(tokio::time::timeout(Duration::from_secs(120), writing).await.expect("in time").expect("it ran"), 0);
        assert!(cuts >= 2, "connections were cut while rows were under way");
        assert!(sink.snapshot().retries > 0, "and rows were tried again: {:?}", sink.snapshot());
        all_are_there(&ks, 20_000).await;
        assert_eq!(sink.blocked(), None);
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_database_that_is_away_blocks_and_loses_nothing() {
    with_keyspace(|ks| async move {
        ks.cql("CREATE TABLE KS.t (id int PRIMARY KEY, a int)").await;
        let proxy = proxy().await;
        let sink = CassandraSink::open(cassandra(&proxy.address).await, &ks.table("t"), Arc::new(SystemClock))
            .await
            .expect("the table will do");
        proxy.set_closed(true);
        let pending = write_numbers(&sink, 2_000, 500).await;
        wait_for("the sink says that it is blocked", || sink.blocked().is_some()).await;
        let message = sink.blocked().expect("it said so");
        assert!(message.starts_with(&format!("Cassandra at {}: ", proxy.address)), "{message}");
        assert_eq!(sink.snapshot().rows, 0);
        proxy.set_closed(false);
        for pending in pending {
            let written =
                tokio::time::timeout(Duration::from_secs(90), pending).await.expect("it gets through in time");
            assert_eq!((written.failures, written.expired), (vec![], 0));
        }
        assert_eq!(sink.blocked(), None);
        all_are_there(&ks, 2_000).await;
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn silence_is_never_taken_for_success() {
    with_keyspace(|ks| async move {
        ks.cql("CREATE TABLE KS.t (id int PRIMARY KEY, a int)").await;
        let proxy = proxy().await;
        let sink = CassandraSink::open(cassandra(&proxy.address).await, &ks.table("t"), Arc::new(SystemClock))
            .await
            .expect("the table will do");
        proxy.set_mute(true);
        let pending = write_numbers(&sink, 200, 100).await;
        // Time-outs or the driver's own keep-alive end the first attempts.
        wait_for("attempts are given up", || sink.snapshot().retries > 0).await;
        assert_eq!(sink.snapshot().rows, 0, "rows are in the table by now, but nobody has said so");
        proxy.set_mute(false);
        proxy.cut();
        for pending in pending {
            let written =
                tokio::time::timeout(Duration::from_secs(90), pending).await.expect("it gets through in time");
            assert_eq!(written.failures, vec![]);
        }
        all_are_there(&ks, 200).await;
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_nobody_waits_for_any_more_holds_nothing() {
    with_keyspace(|ks| async move {
        ks.cql("CREATE TABLE KS.t (id int PRIMARY KEY, a int)").await;
        let proxy = proxy().await;
        let sink = CassandraSink::open(cassandra(&proxy.address).await, &ks.table("t"), Arc::new(SystemClock))
            .await
            .expect("the table will do");
        let holds = || {
            let now = sink.snapshot();
            (now.rows_accepted, now.bytes_accepted, now.in_flight)
        };
        assert_eq!(holds(), (0, 0, 0));
        // Answers that never come; then no connection at all. Each time about all that the sink accepts at once.
        for is_away in [false, true] {
            proxy.set_mute(!is_away);
            proxy.set_closed(is_away);
            let pending = write_numbers(&sink, 8_000, 500).await;
            wait_for("rows are under way, or tried again", || {
                if is_away { sink.blocked().is_some() } else { sink.snapshot().in_flight > 0 }
            })
            .await;
            assert_eq!(sink.snapshot().rows_accepted, 8_000);
            assert!(sink.snapshot().bytes_accepted > 8_000);
            drop(pending);
            wait_for("all is given back", || holds() == (0, 0, 0)).await;
            assert_eq!(sink.blocked(), None, "nobody waits for anything");
        }
        proxy.set_closed(false);
        proxy.set_mute(false);
        // Whoever goes on writes the same rows.
        for pending in write_numbers(&sink, 8_500, 500).await {
            let written =
                tokio::time::timeout(Duration::from_secs(90), pending).await.expect("it gets through in time");
            assert_eq!(written.failures, vec![]);
        }
        all_are_there(&ks, 8_500).await;
        wait_for("all is given back", || holds() == (0, 0, 0)).await;
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn no_more_bytes_are_accepted_than_there_is_room_for() {
    with_keyspace(|ks| async move {
        ks.cql("CREATE TABLE KS.t (id int PRIMARY KEY, s text)").await;
        let proxy = proxy().await;
        let sink = CassandraSink::open(cassandra(&proxy.address).await, &ks.table("t"), Arc::new(SystemClock))
            .await
            .expect("the table will do")
            .within(100 << 10);
        let of_bytes = |id: i64, bytes: usize| {
            let long = "x".repeat(bytes);
            batch(&sink, &[upsert(id, 1000 + id, &[("id", number(id)), ("s", text(&long))])])
        };
        proxy.set_closed(true);
        let first = sink.write(of_bytes(1, 30 << 10)).await;
        assert!((60 << 10..=100 << 10).contains(&sink.snapshot().bytes_accepted), "{:?}", sink.snapshot());
        let mut second = Box::pin(sink.write(of_bytes(2, 30 << 10)));
        assert!(futures::poll!(&mut second).is_pending(), "there is no room for a second");
        assert!(sink.snapshot().bytes_accepted <= 100 << 10, "{:?}", sink.snapshot());
        drop(first);
        let second = tokio::time::timeout(Duration::from_secs(30), second).await.expect("the first gave its room back");
        // Larger than all the room: alone.
        let mut third = Box::pin(sink.write(of_bytes(3, 300 << 10)));
        assert!(futures::poll!(&mut third).is_pending());
        proxy.set_closed(false);
        let within = Duration::from_secs(90);
        assert_eq!(tokio::time::timeout(within, second).await.expect("in time").failures, vec![]);
        let third = tokio::time::timeout(within, third).await.expect("it has room");
        assert_eq!(tokio::time::timeout(within, third).await.expect("in time").failures, vec![]);
        assert_eq!(sink.snapshot().bytes_accepted, 0);
        let ids = ks.json("SELECT JSON id FROM KS.t").await;
        assert!(ids.contains(&r#"{"id": 2}"#.to_owned()) && ids.contains(&r#"{"id": 3}"#.to_owned()), "{ids:?}");
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_window_shrinks_under_latency_and_recovers() {
    with_keyspace(|ks| async move {
        ks.cql("CREATE TABLE KS.t (id int PRIMARY KEY, a int)").await;
        let proxy = proxy().await;
        let sink = CassandraSink::open(cassandra(&proxy.address).await, &ks.table("t"), Arc::new(SystemClock))
            .await
            .expect("the table will do");
        let sink = Arc::new(sink);
        let load = tokio::spawn({
            let sink = Arc::clone(&sink);
            async move {
                loop {
                    for pending in write_numbers(&sink, 4_000, 1_000).await {
                        assert_eq!(pending.await.failures, vec![]);
                    }
                }
            }
        });
        wait_for("the window grows", || sink.snapshot().window >= 80).await;
        proxy.set_delay(Duration::from_millis(2_000));
        // It grows on until the last answer has come that was on its way.
        let mut most = 0;
        wait_for("the window shrinks", || {
            let now = sink.snapshot().window;
            most = most.max(now);
            now <= most / 2 + 2
        })
        .await;
        let least = sink.snapshot().window;
        proxy.set_delay(Duration::ZERO);
        wait_for("the window grows again", || sink.snapshot().window >= least + 20).await;
        load.abort();
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_table_that_is_gone_blocks_and_one_that_returns_gets_every_row() {
    with_keyspace(|ks| async move {
        let create = "CREATE TABLE KS.t (id int PRIMARY KEY, a int)";
        ks.cql(create).await;
        let sink = ks.sink(&ks.table("t")).await;
        ks.cql("DROP TABLE KS.t").await;
        let pending = write_numbers(&sink, 300, 100).await;
        wait_for("the sink says that it is blocked", || sink.blocked().is_some()).await;
        let message = sink.blocked().expect("it said so").replace(&ks.name, "KS");
        assert!(message.starts_with("table KS.t: keyspace KS has no table t"), "{message}");
        ks.cql(create).await;
        for pending in pending {
            let written =
                tokio::time::timeout(Duration::from_secs(60), pending).await.expect("it gets through in time");
            assert_eq!(written.failures, vec![]);
        }
        assert_eq!(sink.blocked(), None);
        all_are_there(&ks, 300).await;
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_column_that_is_dropped_fails_only_rows_that_set_it() {
    with_keyspace(|ks| async move {
        ks.cql("CREATE TABLE KS.t (id int PRIMARY KEY, a int, b int)").await;
        let sink = ks.sink(&ks.table("t")).await;
        ks.cql("ALTER TABLE KS.t ADD later int").await;
        ks.cql("ALTER TABLE KS.t DROP b").await;
        let rows = [
            upsert(1, 10, &[("id", number(1)), ("a", number(1))]),
            upsert(2, 20, &[("id", number(2)), ("a", number(2)), ("b", number(2))]),
            upsert(3, 30, &[("id", number(3)), ("a", number(3)), ("b", Cell::Null)]),
            delete(4, 40, &[("id", number(9))]),
        ];
        let (failures, _) = write(&sink, &rows).await;
        assert_eq!(codes(&failures), [(1, "sink.unknown_column")], "{failures:?}");
        assert_eq!(failures[0].message, "the table no longer has column b");
        let shown = ks.json("SELECT JSON id, a FROM KS.t").await;
        assert_eq!(shown, [r#"{"id": 1, "a": 1}"#, r#"{"id": 3, "a": 3}"#]);
    })
    .await;
}
