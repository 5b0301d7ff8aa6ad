//! The daemon against brokers that ask who it is, and against several of which one dies.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use pelton::kafka::{TopicSpec, create_topics};
use pelton_tests::process::{Process, get, metric, until};
use rdkafka::ClientConfig;
use rdkafka::Message as _;
use rdkafka::consumer::{BaseConsumer, Consumer as _};
use rdkafka::producer::{BaseProducer, BaseRecord, Producer as _};
use rdkafka::topic_partition_list::{Offset, TopicPartitionList};
use tempfile::TempDir;

use crate::cassandra_login::certificate;
use crate::own_kafka::{Cluster, Secured, leader, look_at};

const PASSWORD: &str = "correct-horse";

/// A project that takes records from `in` to `out` as they are.
fn project(brokers: &str, properties: &[(&str, &str)]) -> TempDir {
    let dir = tempfile::tempdir().expect("a directory");
    let common = [
        ("session.timeout.ms", "6000"),
        ("heartbeat.interval.ms", "500"),
        // A topic that is allowed again is found again at the next look.
        ("topic.metadata.refresh.interval.ms", "1000"),
    ];
    let properties = common.iter().chain(properties).map(|(name, value)| format!("    {name}: \"{value}\"\n"));
    let settings = format!(
        "kafka:\n  brokers: {brokers}\n  properties:\n{}admin: {{ listen: 127.0.0.1:0 }}\ndrain: 5 s\n",
        properties.collect::<String>()
    );
    let pipeline = "source:\n  kafka: { topics: [in], group: copies }\n  format: json\nsteps: []\noutputs:\n  default:\n    \
                    kafka: { topic: out }\ndead_letters:\n  kafka: { topic: dead }\n";
    std::fs::create_dir(dir.path().join("pipelines")).expect("a fresh directory");
    std::fs::write(dir.path().join("pelton.yaml"), settings).expect("a fresh file");
    std::fs::write(dir.path().join("pipelines/copy.yaml"), pipeline).expect("a fresh file");
    dir
}

async fn make_topics(cluster: &Cluster, partitions: i32) {
    let topics = ["in", "out", "dead"].map(|name| TopicSpec::new(name, partitions));
    create_topics(&cluster.connection(), &topics).await.expect("topics are made");
}

/// Sends numbers, and goes on until it is told to stop; answers how many there are, each of them acknowledged.
struct Numbers {
    stop: Arc<AtomicBool>,
    sending: tokio::task::JoinHandle<i64>,
}

impl Numbers {
    fn send(brokers: String, from: i64, partitions: i32) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let is_over = Arc::clone(&stop);
        let sending = tokio::task::spawn_blocking(move || {
            let producer: BaseProducer = ClientConfig::new()
                .set("bootstrap.servers", &brokers)
                .set("enable.idempotence", "true")
                .set("linger.ms", "5")
                .create()
                .expect("a producer");
            let mut number = from;
            while !is_over.load(Ordering::SeqCst) {
                let value = format!(r#"{{"n":{number}}}"#);
                let partition = (number % i64::from(partitions)) as i32;
                let record = BaseRecord::<str, str>::to("in").partition(partition).payload(&value);
                producer.send(record).map_err(|(error, _)| error).expect("there is room");
                number += 1;
                // A stream, not a burst.
                producer.poll(Duration::from_millis(1));
            }
            producer.flush(Duration::from_secs(60)).expect("everything was delivered");
            number
        });
        Self { stop, sending }
    }

    async fn stop(self) -> i64 {
        self.stop.store(true, Ordering::SeqCst);
        self.sending.await.expect("the producer")
    }
}

/// What stands in `out`: how often each number.
struct Copies {
    consumer: BaseConsumer,
    numbers: BTreeMap<i64, usize>,
}

impl Copies {
    fn of(brokers: &str, partitions: i32) -> Self {
        let consumer: BaseConsumer = ClientConfig::new()
            .set("bootstrap.servers", brokers)
            .set("group.id", "looks")
            .set("topic.metadata.refresh.interval.ms", "1000")
            .create()
            .expect("a consumer");
        let mut list = TopicPartitionList::new();
        for partition in 0..partitions {
            list.add_partition_offset("out", partition, Offset::Beginning).expect("an offset");
        }
        consumer.assign(&list).expect("assigned");
        Self { consumer, numbers: BTreeMap::new() }
    }

    fn read(&mut self) {
        while let Some(Ok(message)) = self.consumer.poll(Duration::from_millis(20)) {
            let value: serde_json::Value = serde_json::from_slice(message.payload().expect("a value")).expect("JSON");
            *self.numbers.entry(value["n"].as_i64().expect("a number")).or_default() += 1;
        }
    }

    /// Waits until all numbers below `end` are there.
    async fn until_all(&mut self, end: i64, daemon: &mut Process) {
        until(&format!("all of {end} records are copied"), || {
            daemon.assert_alive();
            self.read();
            (self.numbers.len() as i64 == end).then_some(())
        })
        .await;
        assert_eq!(self.numbers.keys().copied().collect::<Vec<_>>(), (0..end).collect::<Vec<_>>());
    }

    async fn until_more(&mut self, daemon: &mut Process) {
        let before = self.numbers.len();
        until("records flow", || {
            daemon.assert_alive();
            self.read();
            (self.numbers.len() > before + 100).then_some(())
        })
        .await;
    }
}

/// A daemon that is not let in says so and ends.
async fn is_refused(cluster: &Cluster, properties: &[(&str, &str)], parts: &[&str]) {
    let dir = project(&cluster.addresses(), properties);
    let mut daemon = Process::daemon(dir.path(), "refused");
    let (status, output) = (daemon.end().await, daemon.output());
    assert_eq!(status.code(), Some(1), "{output}");
    for part in parts {
        assert!(output.contains(part), "{part:?} is not in: {output}");
    }
    for secret in [PASSWORD, "wrong-battery"] {
        assert!(!output.contains(secret), "a password shows: {output}");
    }
}

/// A daemon that may not make topics says with which command its journal can be made by hand.
async fn may_not_make_its_journal(cluster: &Cluster, properties: &[(&str, &str)]) {
    let dir = project(&cluster.addresses(), properties);
    let change = |file: &str, from: &str, to: &str| {
        let path = dir.path().join(file);
        let text = std::fs::read_to_string(&path).expect("it was written");
        std::fs::write(&path, text.replace(from, to)).expect("a file");
    };
    let table = "sqlite: { table: numbers, create: { columns: { n: integer }, key: [n] } }";
    change("pipelines/copy.yaml", "kafka: { topic: out }", table);
    change("pelton.yaml", "drain: 5 s", "drain: 5 s\nsqlite: tables.db");
    // Either right would do.
    let resources = ["--cluster", "--topic", "copies.pelton-journal"];
    let rule: Vec<&str> =
        ["--deny-principal", "User:pelton", "--operation", "Create"].into_iter().chain(resources).collect();
    cluster.rules(&[&["--add"], rule.as_slice()].concat()).await;
    let mut daemon = Process::daemon(dir.path(), "refused");
    let (status, output) = (daemon.end().await, daemon.output());
    assert_eq!(status.code(), Some(1), "{output}");
    for part in ["pipelines/copy.yaml", "--create --topic copies.pelton-journal --partitions 1", "journal: off"] {
        assert!(output.contains(part), "{part:?} is not in: {output}");
    }
    cluster.rules(&[&["--remove"], rule.as_slice()].concat()).await;
}

fn blocked(admin: SocketAddr) -> Option<f64> {
    metric(&get(admin, "/metrics")?.1, "pelton_source_blocked", &[("pipeline", "copy")])
}

/// Takes a permission away while records flow, and gives it back: the source is blocked, and says so, until then.
async fn a_permission_goes_and_comes(cluster: &Cluster, admin: SocketAddr, daemon: &mut Process, resource: [&str; 2]) {
    let rule = ["--deny-principal", "User:pelton", "--operation", "Read"];
    let rule: Vec<&str> = rule.into_iter().chain(resource).collect();
    cluster.rules(&[&["--add"], rule.as_slice()].concat()).await;
    let cause = until("it is not ready", || {
        daemon.assert_alive();
        let (code, body) = get(admin, "/readyz")?;
        (code == 503).then_some(body)
    })
    .await;
    assert!(cause.contains("the source is blocked") && cause.contains("uthorization failed"), "{cause}");
    until("the metric says so", || (blocked(admin)? == 1.0).then_some(())).await;
    cluster.rules(&[&["--remove"], rule.as_slice()].concat()).await;
    until("it is ready again", || {
        daemon.assert_alive();
        (get(admin, "/readyz")?.0 == 200).then_some(())
    })
    .await;
    assert_eq!(blocked(admin), Some(0.0));
}

#[tokio::test(flavor = "multi_thread")]
async fn brokers_that_ask_for_tls_and_a_password_and_take_permissions_away() {
    let dir = tempfile::tempdir().expect("a directory");
    certificate(dir.path(), "broker", "127.0.0.1");
    certificate(dir.path(), "stranger", "127.0.0.1");
    let file = |name: &str| dir.path().join(name);
    let pem = file("both.pem");
    let read = |name: &str| std::fs::read_to_string(file(name)).expect("it was made");
    std::fs::write(&pem, read("broker.key") + &read("broker.pem")).expect("a fresh file");
    let cluster = Cluster::start(1, Some(&Secured { pem: &pem, user: "pelton", password: PASSWORD })).await;
    make_topics(&cluster, 2).await;
    let text = |path: &Path| path.to_str().expect("a path of text").to_owned();
    let (trusted, stranger) = (text(&file("broker.pem")), text(&file("stranger.pem")));
    let login = |ca, password| {
        let fixed = [("security.protocol", "SASL_SSL"), ("sasl.mechanism", "PLAIN"), ("sasl.username", "pelton")];
        fixed.into_iter().chain([("sasl.password", password), ("ssl.ca.location", ca)]).collect::<Vec<_>>()
    };
    let (wrong, strange) = (login(&trusted, "wrong-battery"), login(&stranger, PASSWORD));
    tokio::join!(
        is_refused(&cluster, &wrong, &["pelton.yaml:", "kafka.properties.sasl.password", "refuses the connection"]),
        is_refused(&cluster, &strange, &["pelton.yaml:", "kafka.properties.ssl.ca.location", "certificate"]),
    );

    may_not_make_its_journal(&cluster, &login(&trusted, PASSWORD)).await;

    let project = project(&cluster.addresses(), &login(&trusted, PASSWORD));
    let mut daemon = Process::daemon(project.path(), "daemon");
    let admin = daemon.admin().await;
    let numbers = Numbers::send(cluster.inside(), 0, 2);
    let mut copies = Copies::of(&cluster.inside(), 2);
    copies.until_more(&mut daemon).await;
    a_permission_goes_and_comes(&cluster, admin, &mut daemon, ["--topic", "in"]).await;
    copies.until_more(&mut daemon).await;
    a_permission_goes_and_comes(&cluster, admin, &mut daemon, ["--group", "copies"]).await;
    copies.until_more(&mut daemon).await;
    let end = numbers.stop().await;
    copies.until_all(end, &mut daemon).await;
    assert!(daemon.terminate().await.success(), "{}", daemon.output());
    assert!(daemon.output().contains("until it is allowed again"), "the log tells: {}", daemon.output());
    assert!(!daemon.output().contains(PASSWORD), "a password shows: {}", daemon.output());
}

#[tokio::test(flavor = "multi_thread")]
async fn of_three_brokers_the_leader_dies_while_records_flow_and_nothing_is_lost() {
    let mut cluster = Cluster::start(3, None).await;
    make_topics(&cluster, 3).await;
    let project = project(&cluster.addresses(), &[]);
    let mut daemon = Process::daemon(project.path(), "daemon");
    let numbers = Numbers::send(cluster.inside(), 0, 3);
    let mut copies = Copies::of(&cluster.inside(), 3);
    copies.until_more(&mut daemon).await;
    let look = look_at(&cluster.inside());
    let killed = until("the partition has a leader", || leader(&look, "in", 0)).await;
    cluster.kill(killed);
    let look = look_at(&cluster.inside());
    until("another one leads", || leader(&look, "in", 0).filter(|leader| *leader != killed)).await;
    copies.until_more(&mut daemon).await;
    let end = numbers.stop().await;
    copies.until_all(end, &mut daemon).await;
    assert!(daemon.terminate().await.success(), "{}", daemon.output());
}
