//! One run: a project, a daemon, records and reloads side by side, then the comparison.

use std::process::Command;
use std::time::Duration;

use pelton::admin::client::AdminClient;
use pelton::status::reloads::ReloadRequest;
use pelton_tests::process::{Process, get, metric, program, until};
use pelton_tests::services::{cassandra_contact_point, kafka_brokers, unique};
use pelton_tests::stamps::Stamps;
use rdkafka::ClientConfig;
use rdkafka::admin::{AdminClient as Topics, AdminOptions, NewTopic, TopicReplication};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::producer::{BaseRecord, DefaultProducerContext, Producer as _, ThreadedProducer};
use scylla::client::session::Session;
use scylla::client::session_builder::SessionBuilder;
use tokio::time::{Instant, sleep};

use super::look;
use super::report::Report;
use super::{Failure, Options};

const PARTITIONS: i32 = 4;
/// Records whose rows share a partition of the table.
const BUCKET: u64 = 50;
const ALL_DONE: Duration = Duration::from_secs(1_800);

/// Topics and a keyspace of the run's own, and the project that uses them.
struct Place {
    brokers: String,
    topic: String,
    keyspace: String,
    session: Session,
    project: tempfile::TempDir,
}

impl Place {
    async fn make(first: &Stamps) -> Result<Self, Failure> {
        let (brokers, topic, keyspace) = (kafka_brokers(), unique("reload"), unique("reload").replace('-', "_"));
        let topics: Topics<_> = ClientConfig::new().set("bootstrap.servers", &brokers).create()?;
        let new = NewTopic::new(&topic, PARTITIONS, TopicReplication::Fixed(1));
        topics.create_topics([&new], &AdminOptions::new()).await?;
        let session = SessionBuilder::new().known_node(cassandra_contact_point()).build().await?;
        let replication = "{'class': 'SimpleStrategy', 'replication_factor': 1}";
        session.query_unpaged(format!("CREATE KEYSPACE {keyspace} WITH replication = {replication}"), ()).await?;
        let columns = "bucket bigint, id text, n bigint, version text, PRIMARY KEY (bucket, id)";
        session.query_unpaged(format!("CREATE TABLE {keyspace}.rows ({columns})"), ()).await?;
        let project = tempfile::tempdir()?;
        let place = Self { brokers, topic, keyspace, session, project };
        place.write(first)?;
        Ok(place)
    }

    fn write(&self, first: &Stamps) -> Result<(), Failure> {
        let dir = self.project.path();
        std::fs::create_dir_all(dir.join("pipelines"))?;
        std::fs::create_dir_all(dir.join("plugins"))?;
        let settings = format!(
            "kafka: {{ brokers: \"{}\" }}\ncassandra: {{ contact_points: [\"{}\"] }}\nadmin: {{ listen: \"127.0.0.1:0\" }}\n\
             reload: {{ watch: false, settle: 2 s }}\nlog: {{ level: \"info,pelton::pipeline=debug\" }}\n",
            self.brokers,
            cassandra_contact_point()
        );
        std::fs::write(dir.join("pelton.yaml"), settings)?;
        let pipeline = format!(
            "source:\n  kafka: {{ topics: [{topic}], group: {topic}, start: earliest }}\n  format: json\n\
             steps:\n  - plugin: stamps\n    limits: {{ memory: 16 MiB, cpu_per_batch: 500 ms }}\n\
             outputs:\n  default:\n    cassandra: {{ table: {}.rows }}\ndead_letters:\n  file: letters.jsonl\n",
            self.keyspace,
            topic = self.topic,
        );
        std::fs::write(dir.join("pipelines/rows.yaml"), pipeline)?;
        self.put(first)
    }

    /// Puts a version in the place of the other.
    fn put(&self, version: &Stamps) -> Result<(), Failure> {
        Ok(version.put(&self.project.path().join("plugins/stamps.wasm"))?)
    }

    async fn remove(&self) {
        let _ = self.session.query_unpaged(format!("DROP KEYSPACE {}", self.keyspace), ()).await;
        let topics: Result<Topics<_>, _> = ClientConfig::new().set("bootstrap.servers", &self.brokers).create();
        if let Ok(topics) = topics {
            let journal = self.journal();
            let _ = topics.delete_topics(&[&self.topic, &journal], &AdminOptions::new()).await;
        }
    }

    fn journal(&self) -> String {
        format!("{}.pelton-journal", self.topic)
    }
}

pub(super) async fn run(options: &Options) -> Result<Report, Failure> {
    let versions = [Stamps::of("version", 1)?, Stamps::of("version", 2)?];
    let place = Place::make(&versions[0]).await?;
    let outcome = with_daemon(options, &place, &versions).await;
    place.remove().await;
    outcome
}

async fn with_daemon(options: &Options, place: &Place, versions: &[Stamps; 2]) -> Result<Report, Failure> {
    let log = place.project.path().join("daemon.log");
    let mut daemon = Process::start(Command::new(program("pelton")).arg("run").arg(place.project.path()), &log);
    let admin = daemon.admin().await;
    let client = AdminClient::new(admin);
    let producer: ThreadedProducer<DefaultProducerContext> = ClientConfig::new()
        .set("bootstrap.servers", &place.brokers)
        .set("linger.ms", "2")
        .set("queue.buffering.max.messages", "200000")
        .create()?;
    let mut report = Report { reloads: options.reloads, records: options.records, ..Report::default() };
    let (began, mut sent, mut told) = (Instant::now(), 0, Instant::now());
    for reload in 1..=options.reloads {
        // The records of this turn are on their way while the plugin is replaced.
        let until = options.records * reload / options.reloads;
        while sent < until {
            send(&producer, &place.topic, sent).await?;
            sent += 1;
        }
        place.put(&versions[(reload % 2) as usize])?;
        let asks = client.clone();
        let answer = tokio::task::spawn_blocking(move || asks.reload(&ReloadRequest::default())).await??;
        let live = answer.pipelines.iter().all(|pipeline| pipeline.refused.is_empty() && !pipeline.unchanged);
        report.not_live += u64::from(!live);
        if reload == options.reloads.div_ceil(10) {
            report.memory_first_bytes = resident(daemon.id())?;
        }
        if told.elapsed() > Duration::from_secs(10) {
            told = Instant::now();
            eprintln!("{:7.0} s  {reload} reloads, {sent} records sent", began.elapsed().as_secs_f64());
        }
        daemon.assert_alive();
        keep_near(&client, sent).await?;
    }
    producer.flush(Duration::from_secs(60))?;
    until_done(&client, options.records).await?;
    report.seconds = began.elapsed().as_secs_f64();
    report.memory_last_bytes = resident(daemon.id())?;
    let (_, exposition) = get(admin, "/metrics").ok_or("no metrics")?;
    let count = |name: &str, labels: &[(&str, &str)]| metric(&exposition, name, labels).unwrap_or_default() as u64;
    report.entered = count("pelton_plugin_records_total", &[("plugin", "stamps")]);
    report.assignments = ["assigned", "revoked", "lost"]
        .map(|change| count("pelton_rebalances_total", &[("change", change)]))
        .into_iter()
        .sum();
    let rolled_back = count("pelton_reloads_total", &[("outcome", "rolled_back")]);
    report.not_live += rolled_back;
    daemon.signal("TERM");
    until("the daemon ends", || daemon.ended()).await;
    let text = std::fs::read_to_string(&log)?;
    text.lines().filter(|line| line.contains("not good enough")).for_each(|line| eprintln!("{line}"));
    report.pauses(pauses(&text));
    compare(place, versions, &mut report).await?;
    Ok(report)
}

async fn send(producer: &ThreadedProducer<DefaultProducerContext>, topic: &str, n: u64) -> Result<(), Failure> {
    let (key, value) = (n.to_string(), format!(r#"{{"id":"r{n}","n":{n},"bucket":{}}}"#, n / BUCKET));
    let mut record = BaseRecord::to(topic).key(&key).payload(&value).partition((n / BUCKET % PARTITIONS as u64) as i32);
    loop {
        match producer.send(record) {
            Ok(()) => return Ok(()),
            Err((KafkaError::MessageProduction(RDKafkaErrorCode::QueueFull), again)) => record = again,
            Err((error, _)) => return Err(error.into()),
        }
        sleep(Duration::from_millis(1)).await;
    }
}

/// Records done.
async fn done(client: &AdminClient) -> Result<u64, Failure> {
    let asks = client.clone();
    let status = tokio::task::spawn_blocking(move || asks.status()).await??;
    let partitions = status.pipelines.iter().flat_map(|pipeline| &pipeline.partitions);
    Ok(partitions.map(|partition| partition.committed.unwrap_or(0) as u64).sum())
}

/// The daemon is never far behind: what is replaced is replaced among records that have just come.
async fn keep_near(client: &AdminClient, sent: u64) -> Result<(), Failure> {
    const BEHIND_MAX: u64 = 50_000;
    while done(client).await? + BEHIND_MAX < sent {
        sleep(Duration::from_millis(20)).await;
    }
    Ok(())
}

async fn until_done(client: &AdminClient, records: u64) -> Result<(), Failure> {
    let deadline = Instant::now() + ALL_DONE;
    while done(client).await? < records {
        if Instant::now() > deadline {
            return Err(format!("only {} of {records} records are done", done(client).await?).into());
        }
        sleep(Duration::from_millis(100)).await;
    }
    Ok(())
}

fn resident(pid: u32) -> Result<u64, Failure> {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status"))?;
    let kib = status.lines().find_map(|line| line.strip_prefix("VmRSS:")?.trim().strip_suffix(" kB"));
    Ok(kib.ok_or("no VmRSS")?.trim().parse::<u64>()? * 1024)
}

/// How long partitions stood when they went over, as the daemon's log tells.
fn pauses(text: &str) -> Vec<u64> {
    let of = |line: &str| line.split_once("pause_us=")?.1.split_whitespace().next()?.parse().ok();
    text.lines().filter(|line| line.contains("went over")).filter_map(of).collect()
}

async fn compare(place: &Place, versions: &[Stamps; 2], report: &mut Report) -> Result<(), Failure> {
    let places = look::places(&place.brokers, &place.topic, report.records)?;
    let claims = look::claims(&place.brokers, &place.journal())?;
    let rows = look::versions(&place.session, &format!("{}.rows", place.keyspace)).await?;
    report.rows = rows.len() as u64;
    for (n, stands) in places.iter().enumerate() {
        let (partition, offset) = stands.ok_or_else(|| format!("record {n} is not in the topic"))?;
        let claimed = claims.get(&partition).and_then(|claims| claims.range(..=offset).next_back());
        let Some(version) = rows.get(&(n as u64)) else {
            report.lost += 1;
            continue;
        };
        let at = versions.iter().position(|known| known.text == *version);
        let is_right = at.is_some_and(|at| claimed.is_some_and(|(_, digest)| *digest == versions[at].digest));
        if let Some(at) = at {
            report.rows_of[at] += 1;
        }
        report.wrong += u64::from(!is_right);
    }
    Ok(())
}
