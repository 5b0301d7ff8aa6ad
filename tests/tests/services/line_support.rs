//! Projects in a temporary directory, daemons as processes of their own, and topics full of orders.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use pelton::clock::{Clock as _, SystemClock};
use rdkafka::ClientConfig;
use rdkafka::TopicPartitionList;
use rdkafka::consumer::{BaseConsumer, Consumer as _};
use rdkafka::producer::{BaseRecord, DefaultProducerContext, Producer as _, ThreadedProducer};
use tempfile::TempDir;

use crate::cassandra_support::Keyspace;
use crate::kafka_support::brokers;

/// The columns of the tables of these tests.
pub(crate) const COLUMNS: &str =
    "order_id text PRIMARY KEY, status text, amount_cents bigint, country text, updated_at timestamp";

/// A program of this workspace, built beside the tests.
pub(crate) fn program(name: &str) -> PathBuf {
    let tests = std::env::current_exe().expect("the test's own path");
    let path = tests.parent().and_then(Path::parent).expect("target/debug").join(name);
    assert!(path.exists(), "{} is missing: `cargo build --workspace` makes it", path.display());
    path
}

/// The repository.
fn repository() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("tests/ stands in the repository").to_owned()
}

/// Where a project reads and writes.
pub(crate) struct Wiring<'w> {
    pub(crate) topic: &'w str,
    pub(crate) group: &'w str,
    pub(crate) table: &'w str,
    pub(crate) dead_letters: &'w str,
    pub(crate) cassandra: &'w str,
    pub(crate) drain: &'w str,
}

/// A project directory with one pipeline of `shop-orders`.
pub(crate) fn project(wiring: &Wiring<'_>) -> TempDir {
    let dir = tempfile::tempdir().expect("a directory");
    let plugins = repository().join("plugins");
    let Wiring { topic, group, table, dead_letters, cassandra, drain } = wiring;
    let settings = format!(
        "kafka:\n  brokers: {}\n  properties: {{ session.timeout.ms: \"6000\", heartbeat.interval.ms: \"500\" }}\n\
         cassandra:\n  contact_points: [\"{cassandra}\"]\nplugin_dirs: [{}]\nadmin: {{ listen: 127.0.0.1:0 }}\n\
         drain: {drain}\n",
        brokers(),
        plugins.display(),
    );
    let pipeline = format!(
        "source:\n  kafka: {{ topics: [{topic}], group: {group}, start: earliest }}\n  format: json\n\
         steps:\n  - plugin: shop-orders\n    config: {{ vat_percent: 19, alert_above_eur: 1000000000, \
         coupons: {{ VIP: 25 }}, eur_per_unit: {{ EUR: 1 }}, late_after_hours: 72 }}\n    \
         grants: [log, metrics, clock]\n\
         outputs:\n  default:\n    cassandra: {{ table: {table}, ttl: 30 d }}\n  alerts:\n    discard: true\n\
         dead_letters:\n  kafka: {{ topic: {dead_letters} }}\n"
    );
    std::fs::create_dir(dir.path().join("pipelines")).expect("a directory");
    std::fs::write(dir.path().join("pelton.yaml"), settings).expect("a file");
    std::fs::write(dir.path().join("pipelines/orders.yaml"), pipeline).expect("a file");
    dir
}

/// `pelton run` as a process of its own. Killed when dropped.
pub(crate) struct Daemon {
    child: Child,
    log: PathBuf,
}

impl Daemon {
    pub(crate) fn start(project: &Path, name: &str) -> Self {
        let log = project.join(format!("{name}.log"));
        let file = std::fs::File::options().create(true).append(true).open(&log).expect("a log file");
        let child = Command::new(program("pelton"))
            .arg("run")
            .arg(project)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(file)
            .spawn()
            .expect("the daemon starts");
        Self { child, log }
    }

    pub(crate) fn log(&self) -> String {
        std::fs::read_to_string(&self.log).unwrap_or_default()
    }

    /// SIGKILL: nothing of it goes on when this returns.
    pub(crate) fn kill(&mut self) {
        self.child.kill().expect("a kill");
        self.child.wait().expect("its end");
    }

    /// SIGTERM, and its end.
    pub(crate) fn terminate(&mut self) -> std::process::ExitStatus {
        self.signal("TERM");
        self.child.wait().expect("its end")
    }

    /// Sends a signal by its name.
    pub(crate) fn signal(&self, name: &str) {
        let pid = self.child.id().to_string();
        assert!(Command::new("kill").args([&format!("-{name}"), &pid]).status().expect("kill").success());
    }

    /// Where its admin server listens, once its log tells.
    pub(crate) fn admin(&self) -> Option<std::net::SocketAddr> {
        let log = self.log();
        let (_, address) = log.split_once("running admin=")?;
        address.split_whitespace().next()?.parse().ok()
    }

    /// Its memory, bytes: what it uses now, and the most that it ever used.
    pub(crate) fn memory_bytes(&self) -> (usize, usize) {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.child.id())).expect("it lives");
        let of = |name: &str| {
            let line = status.lines().find_map(|line| line.strip_prefix(name)).expect("a line of its own");
            line.trim().trim_end_matches(" kB").parse::<usize>().expect("kB") * 1024
        };
        (of("VmRSS:"), of("VmHWM:"))
    }

    /// How it ended, if it has.
    pub(crate) fn ended(&mut self) -> Option<std::process::ExitStatus> {
        self.child.try_wait().expect("a look")
    }

    /// Fails where the daemon has ended by itself.
    pub(crate) fn assert_alive(&mut self) {
        if let Some(status) = self.child.try_wait().expect("a look") {
            panic!("the daemon ended: {status}\n{}", self.log());
        }
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// An order event; `number` is its amount, by which a row tells which record wrote it.
pub(crate) fn order(key: &str, number: i64, timestamp_ms: i64) -> String {
    format!(
        r#"{{"order_id":"{key}","kind":"created","ts":{timestamp_ms},"customer":{{"id":"c-1","country":"DE"}},"currency":"EUR","amount_cents":{number},"items":[{{"sku":"A","name":"Tee","quantity":1,"price_cents":{number}}}]}}"#
    )
}

/// A producer that shares no code with the product.
pub(crate) struct Producing {
    producer: ThreadedProducer<DefaultProducerContext>,
    topic: String,
}

impl Producing {
    pub(crate) fn to(topic: &str) -> Self {
        let producer = ClientConfig::new()
            .set("bootstrap.servers", brokers())
            .set("enable.idempotence", "true")
            .set("linger.ms", "20")
            .create()
            .expect("a producer");
        Self { producer, topic: topic.to_owned() }
    }

    pub(crate) fn send(&self, partition: i32, key: &str, value: &str, timestamp_ms: i64) {
        let mut record =
            BaseRecord::to(&self.topic).partition(partition).key(key).payload(value).timestamp(timestamp_ms);
        while let Err((error, back)) = self.producer.send(record) {
            assert_eq!(error.rdkafka_error_code(), Some(rdkafka::types::RDKafkaErrorCode::QueueFull), "{error}");
            self.producer.poll(Duration::from_millis(20));
            record = back;
        }
    }

    /// All are acknowledged when this returns.
    pub(crate) fn finish(self) {
        self.producer.flush(Duration::from_secs(120)).expect("everything was delivered");
    }
}

/// A consumer that joins nothing, to look with.
pub(crate) fn looking(group: &str) -> BaseConsumer {
    ClientConfig::new()
        .set("bootstrap.servers", brokers())
        .set("group.id", group)
        .set("enable.auto.commit", "false")
        .set("fetch.queue.backoff.ms", "10")
        .create()
        .expect("a consumer")
}

/// By partition: the offset that the consumer's group has committed, 0 where there is none.
pub(crate) fn committed_by(consumer: &BaseConsumer, topic: &str, partitions: i32) -> Vec<i64> {
    let mut list = TopicPartitionList::new();
    (0..partitions).for_each(|partition| {
        list.add_partition(topic, partition);
    });
    let committed = consumer.committed_offsets(list, Duration::from_secs(30)).expect("committed offsets");
    let offset = |partition| committed.find_partition(topic, partition).and_then(|found| found.offset().to_raw());
    (0..partitions).map(|partition| offset(partition).unwrap_or(0).max(0)).collect()
}

/// By partition: the committed offset, 0 where there is none, and the end.
pub(crate) fn positions(group: &str, topic: &str, partitions: i32) -> Vec<(i64, i64)> {
    let consumer = looking(group);
    let end = |partition| {
        let (_, end) = consumer.fetch_watermarks(topic, partition, Duration::from_secs(30)).expect("watermarks");
        end
    };
    committed_by(&consumer, topic, partitions).into_iter().zip((0..partitions).map(end)).collect()
}

/// By key: amount and write time, as the oracle tells them from the topic alone.
pub(crate) fn expected(topic: &str) -> BTreeMap<String, (i64, i64)> {
    let output = Command::new(program("pelton-oracle")).arg(brokers()).arg(topic).output().expect("the oracle");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let row = |line: &str| {
        let mut parts = line.split('\t');
        let mut next = || parts.next().expect("three columns");
        (next().to_owned(), (next().parse().expect("an amount"), next().parse().expect("a write time")))
    };
    String::from_utf8(output.stdout).expect("text").lines().map(row).collect()
}

/// By key: amount and write time, as the table has them. Every cell of a row must be of one write.
pub(crate) async fn stored(keyspace: &Keyspace, table: &str) -> BTreeMap<String, (i64, i64)> {
    use futures::TryStreamExt as _;
    let select = format!(
        "SELECT order_id, amount_cents, writetime(amount_cents), writetime(status), writetime(country), \
         writetime(updated_at) FROM {table}"
    );
    let pages = keyspace.session.query_iter(select, ()).await.expect("a scan");
    let mut rows = pages.rows_stream::<(String, i64, i64, i64, i64, i64)>().expect("rows");
    let mut stored = BTreeMap::new();
    while let Some((key, amount, at, status, country, updated)) = rows.try_next().await.expect("a row") {
        assert_eq!([status, country, updated], [at; 3], "all cells of {key} are of one write");
        stored.insert(key, (amount, at));
    }
    stored
}

/// The differences of two sets of rows: how many, and the first few.
pub(crate) fn assert_same(found: &BTreeMap<String, (i64, i64)>, wanted: &BTreeMap<String, (i64, i64)>) {
    let mut wrong: Vec<String> = wanted
        .iter()
        .filter(|(key, row)| found.get(*key) != Some(row))
        .map(|(key, row)| format!("{key}: wanted {row:?}, found {:?}", found.get(key)))
        .collect();
    wrong.extend(found.keys().filter(|key| !wanted.contains_key(*key)).map(|key| format!("{key}: nobody wrote it")));
    assert!(
        wrong.is_empty(),
        "{} of {} rows are wrong: {:#?}",
        wrong.len(),
        wanted.len(),
        &wrong[..wrong.len().min(8)]
    );
}

/// By key: when its amount expires, seconds since 1970.
pub(crate) async fn expiries(keyspace: &Keyspace, table: &str) -> BTreeMap<String, i64> {
    use futures::TryStreamExt as _;
    let select = format!("SELECT order_id, ttl(amount_cents) FROM {table}");
    let pages = keyspace.session.query_iter(select, ()).await.expect("a scan");
    let mut rows = pages.rows_stream::<(String, Option<i32>)>().expect("rows");
    let mut expiries = BTreeMap::new();
    while let Some((key, ttl)) = rows.try_next().await.expect("a row") {
        let ttl = ttl.unwrap_or_else(|| panic!("{key} of {table} has no time to live"));
        expiries.insert(key, SystemClock.now_ms() / 1_000 + i64::from(ttl));
    }
    expiries
}

/// Fails where a row expires at another time than its twin. Cassandra is told for how many seconds a row lives, not until
/// when, so a row lives longer by what lies between the reckoning and the write: that is reckoned anew for each request,
/// which may take ten seconds, and whole seconds are counted on both sides.
pub(crate) fn assert_same_expiry(one: &BTreeMap<String, i64>, other: &BTreeMap<String, i64>, rows: usize) {
    const APART_S_MAX: i64 = 12;
    assert_eq!((one.len(), other.len()), (rows, rows), "every row has a time to live");
    let apart = |key: &String| other.get(key).map_or(i64::MAX, |expiry| (one[key] - expiry).abs());
    let mut apart: Vec<(i64, &String)> = one.keys().map(|key| (apart(key), key)).collect();
    apart.sort_unstable();
    let (worst, key) = *apart.last().expect("there are rows");
    assert!(worst <= APART_S_MAX, "{key} expires at {} and at {:?}", one[key], other.get(key));
    // Nearly all are written as soon as they are reckoned.
    let (usual, key) = apart[apart.len() * 95 / 100];
    assert!(usual <= 2, "one row of twenty is off by {usual} s, like {key}");
}

/// Waits until a group has committed the end of every partition.
pub(crate) async fn until_committed(group: &str, topic: &str, partitions: i32, daemons: &mut [&mut Daemon]) {
    for _ in 0..1_500 {
        daemons.iter_mut().for_each(|daemon| daemon.assert_alive());
        let (group, topic) = (group.to_owned(), topic.to_owned());
        let look = tokio::task::spawn_blocking(move || positions(&group, &topic, partitions));
        if look.await.expect("a look").iter().all(|(committed, end)| committed == end) {
            return;
        }
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    let logs: Vec<String> = daemons.iter().map(|daemon| daemon.log()).collect();
    panic!("{group} did not reach the end of {topic} within 5 minutes\n{}", logs.join("\n---\n"));
}
