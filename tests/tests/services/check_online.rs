//! What `pelton check --online` finds at a real Kafka and a real Cassandra: every mistake at its key's line.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use pelton::config::{self, Problem, Severity};
use pelton::plugin::Runtime;
use pelton::startup;

use crate::cassandra_support::{self, with_keyspace};
use crate::kafka_support::{self, Topic};

/// Writes a project with one pipeline, `orders`, and asks.
async fn ask(settings: &str, pipeline: &str) -> Vec<Problem> {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let plugins = Path::new(env!("CARGO_MANIFEST_DIR")).join("../plugins");
    std::fs::create_dir(dir.path().join("pipelines")).expect("a fresh directory");
    let settings = format!("{settings}plugin_dirs: [\"{}\"]\n", plugins.display());
    std::fs::write(dir.path().join("pelton.yaml"), settings).expect("a fresh file");
    std::fs::write(dir.path().join("pipelines/orders.yaml"), pipeline).expect("a fresh file");
    let reading = config::read(dir.path(), &BTreeMap::new());
    assert!(reading.problems.is_empty(), "{:?}", reading.problems);
    let runtime: Arc<Runtime> = Runtime::new(None, 1).expect("an engine");
    let examined = startup::examine(&reading, &runtime);
    assert!(examined.problems.is_empty(), "{:?}", examined.problems);
    startup::ask(&reading, &examined.transforms).await.all().cloned().collect()
}

fn settings() -> String {
    format!(
        "kafka: {{ brokers: {} }}\ncassandra: {{ contact_points: [{}] }}\n",
        kafka_support::brokers(),
        cassandra_support::address()
    )
}

/// Line, key and severity.
fn places(problems: &[Problem]) -> Vec<(usize, &str, Severity)> {
    problems.iter().map(|problem| (problem.line, problem.key.as_str(), problem.severity)).collect()
}

const STEP: &str = "steps:
  - plugin: shop-orders
    config: { vat_percent: 19, alert_above_eur: 5000 }
";

#[tokio::test(flavor = "multi_thread")]
async fn what_is_not_there_is_named_at_its_line() {
    with_keyspace(async |keyspace| {
        let name = keyspace.name.clone();
        let pipeline = format!(
            "source:\n  kafka:\n    topics: [{name}.in]\n{STEP}outputs:\n  default:\n    cassandra:\n      table: {name}.orders\n  alerts:\n    kafka: {{ topic: {name}.alerts }}\ndead_letters:\n  kafka: {{ topic: {name}.dlq }}\n"
        );
        let problems = ask(&settings(), &pipeline).await;
        let expected = [
            (3, "source.kafka.topics[0]", Severity::Error),
            (10, "outputs.default.cassandra.table", Severity::Error),
            (12, "outputs.alerts.kafka.topic", Severity::Error),
            (14, "dead_letters.kafka.topic", Severity::Error),
        ];
        let mut found = places(&problems);
        found.sort_unstable_by_key(|(line, ..)| *line);
        assert_eq!(found, expected, "{problems:?}");
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_column_that_does_not_fit_and_a_small_dead_letter_topic_are_named() {
    let source = Topic::with("check-in", 1, &[("max.message.bytes", "3000000")]).await;
    let dead_letters = Topic::new("check-dlq", 1).await;
    let (source_name, dead_name) = (source.name.clone(), dead_letters.name.clone());
    with_keyspace(async move |keyspace| {
        keyspace.cql("CREATE TABLE KS.orders (order_id text PRIMARY KEY, status text, total_cents boolean)").await;
        let name = keyspace.name.clone();
        let pipeline = format!(
            "source:\n  kafka: {{ topics: [{source_name}] }}\n{STEP}outputs:\n  default:\n    cassandra: {{ table: {name}.orders }}\n  alerts: {{ discard: true }}\ndead_letters:\n  kafka: {{ topic: {dead_name} }}\n"
        );
        let problems = ask(&settings(), &pipeline).await;
        let mut found = places(&problems);
        found.sort_unstable_by_key(|(line, ..)| *line);
        let expected = [
            (8, "outputs.default.cassandra.table", Severity::Error),
            (11, "dead_letters.kafka.topic", Severity::Warning),
        ];
        assert_eq!(found, expected, "{problems:?}");
        let column = problems.iter().find(|problem| problem.is_error()).expect("found above");
        assert!(column.found.contains("total_cents") && column.found.contains("boolean"), "{column}");
    })
    .await;
    source.delete().await;
    dead_letters.delete().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn fields_for_which_a_table_has_no_column_are_a_warning() {
    let source = Topic::new("check-narrow", 1).await;
    let source_name = source.name.clone();
    with_keyspace(async move |keyspace| {
        keyspace.cql("CREATE TABLE KS.orders (order_id text PRIMARY KEY, status text, totel_eur double)").await;
        let name = keyspace.name.clone();
        let pipeline = |ignore: &str| {
            format!(
                "source:\n  kafka: {{ topics: [{source_name}] }}\n{STEP}outputs:\n  default:\n    cassandra: {{ table: {name}.orders{ignore} }}\n  alerts: {{ discard: true }}\n"
            )
        };
        let problems = ask(&settings(), &pipeline("")).await;
        assert_eq!(places(&problems), [(8, "outputs.default.cassandra.table", Severity::Warning)], "{problems:?}");
        assert!(problems[0].found.contains("sets 16 fields (`customer_id`, `country`, "), "{problems:?}");
        assert!(problems[0].remedy.contains("`totel_eur` for `total_eur`"), "{problems:?}");
        let problems = ask(&settings(), &pipeline(", ignore: others")).await;
        assert!(problems.is_empty(), "{problems:?}");
    })
    .await;
    source.delete().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn rows_that_several_partitions_may_feed_are_a_warning() {
    let source = Topic::new("check-rows", 3).await;
    let source_name = source.name.clone();
    with_keyspace(async move |keyspace| {
        keyspace.cql("CREATE TABLE KS.by_shop (shop text PRIMARY KEY, order_id text)").await;
        keyspace.cql("CREATE TABLE KS.by_order (shop text, order_id text, PRIMARY KEY (shop, order_id))").await;
        let name = keyspace.name.clone();
        let pipeline = |table: &str, tombstones: &str| {
            format!(
                "source:\n  kafka: {{ topics: [{source_name}] }}\noutputs:\n  default:\n    cassandra:\n      table: {name}.{table}\n      tombstones: {tombstones}\n"
            )
        };
        let problems = ask(&settings(), &pipeline("by_shop", "{ delete: [shop, order_id] }")).await;
        assert_eq!(places(&problems), [(6, "outputs.default.cassandra.table", Severity::Warning)], "{problems:?}");
        assert!(problems[0].found.contains("order_id beside the key (shop)"), "{problems:?}");
        let problems = ask(&settings(), &pipeline("by_order", "{ delete: [shop, order_id] }")).await;
        assert!(problems.is_empty(), "the record's key is the table's: {problems:?}");
        let problems = ask(&settings(), &pipeline("by_shop", "skip")).await;
        assert_eq!(places(&problems), [(6, "outputs.default.cassandra.table", Severity::Warning)], "{problems:?}");
        assert!(problems[0].found.contains("has 3 partitions, and nothing says"), "{problems:?}");
        for (keyed_by, is_told) in [("[shop]", false), ("[shop, order_id]", true), ("anything", false)] {
            let text = pipeline("by_shop", "skip").replacen("source:", &format!("source:\n  keyed_by: {keyed_by}"), 1);
            let problems = ask(&settings(), &text).await;
            assert_eq!(problems.len(), usize::from(is_told), "{keyed_by}: {problems:?}");
        }
        let problems = ask(&settings(), &pipeline("by_order", "{ delete: [shop] }")).await;
        let expected = [(7, "outputs.default.cassandra.tombstones.delete", Severity::Error)];
        assert_eq!(places(&problems), expected, "{problems:?}");
    })
    .await;
    source.delete().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn services_that_do_not_answer_are_named_where_their_address_stands() {
    // A port that was free a moment ago, and that nobody listens on.
    let port = std::net::TcpListener::bind("127.0.0.1:0").expect("a port").local_addr().expect("bound").port();
    let settings = format!("kafka:\n  brokers: 127.0.0.1:{port}\ncassandra:\n  contact_points: [127.0.0.1:{port}]\n");
    let pipeline = format!(
        "source:\n  kafka: {{ topics: [in] }}\n{STEP}outputs:\n  default: {{ cassandra: {{ table: a.b }} }}\n  alerts: {{ discard: true }}\n"
    );
    let problems = ask(&settings, &pipeline).await;
    let expected = [(2, "kafka.brokers", Severity::Error), (4, "cassandra.contact_points", Severity::Error)];
    assert_eq!(places(&problems), expected, "{problems:?}");
}
