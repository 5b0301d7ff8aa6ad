//! Three Kafka brokers and one Cassandra of the run's own, on ports of its own.
//!
//! In: a directory. Out: services that answer, and that can be killed and brought back. Everything ends with this value.
//! Uses the recipes of `tests/harness`: the same jars, the same configuration where there is no reason for another.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use pelton_tests::process::{Process, free_port, repository};
use pelton_tests::topics::looking;
use rdkafka::ClientConfig;
use rdkafka::admin::{AdminClient, AdminOptions, NewTopic, TopicReplication};
use rdkafka::client::DefaultClientContext;
use rdkafka::consumer::{BaseConsumer, Consumer as _};
use scylla::client::session::Session;
use scylla::client::session_builder::SessionBuilder;

use super::{Failure, until};

/// How many brokers there are.
pub(super) const BROKERS: usize = 3;
/// How long a service may take to answer, on a machine that is busy.
const START: Duration = Duration::from_secs(180);

/// A broker's ports.
#[derive(Debug, Clone, Copy)]
pub(super) struct BrokerPorts {
    internal: u16,
    proxied: u16,
    controller: u16,
}

impl BrokerPorts {
    /// Three that are free.
    pub(super) fn free() -> Self {
        Self { internal: free_port(), proxied: free_port(), controller: free_port() }
    }

    /// Where a proxy finds it.
    pub(super) fn upstream(self) -> String {
        format!("127.0.0.1:{}", self.proxied)
    }
}

/// The brokers.
pub(super) struct Brokers {
    java: PathBuf,
    jars: PathBuf,
    dir: PathBuf,
    ports: Vec<BrokerPorts>,
    running: Vec<Option<Process>>,
    starts: usize,
}

impl Brokers {
    /// Starts all of them; `proxies` are the addresses that daemons are told, in the order of the brokers.
    pub(super) async fn start(dir: &Path, ports: &[BrokerPorts], proxies: &[String]) -> Result<Self, Failure> {
        let java = PathBuf::from(services(&["java"]).await?);
        let jars = PathBuf::from(services(&["jars", "kafka"]).await?);
        let voters: Vec<String> =
            ports.iter().enumerate().map(|(node, ports)| format!("{node}@127.0.0.1:{}", ports.controller)).collect();
        let template = std::fs::read_to_string(repository().join("tests/harness/kafka/cluster.properties"))?;
        let mut brokers = Self {
            java,
            jars,
            dir: dir.to_owned(),
            ports: ports.to_vec(),
            running: ports.iter().map(|_| None).collect(),
            starts: 0,
        };
        let mut formatting = Vec::new();
        for (node, (ports, proxy)) in ports.iter().zip(proxies).enumerate() {
            let home = brokers.home(node);
            std::fs::create_dir_all(&home)?;
            let filled = [
                ("@NODE@", node.to_string()),
                ("@PORT@", ports.internal.to_string()),
                ("@PROXIED_PORT@", ports.proxied.to_string()),
                ("@CONTROLLER_PORT@", ports.controller.to_string()),
                ("@PROXY@", proxy.clone()),
                ("@VOTERS@", voters.join(",")),
                ("@DATA@", home.join("data").display().to_string()),
            ];
            let properties =
                filled.iter().fold(template.clone(), |text, (name, value)| text.replace(name, value.as_str()));
            std::fs::write(home.join("server.properties"), properties)?;
            let mut command = brokers.java("kafka.tools.StorageTool", "64m");
            command.args(["format", "-t", "MkU3OEVBNTcwNTJENDM2Qg", "-c"]).arg(home.join("server.properties"));
            formatting.push((node, Process::start(&mut command, &home.join("format.log"))));
        }
        for (node, mut format) in formatting {
            if !until(START, || format.ended()).await.is_some_and(|status| status.success()) {
                return Err(format!("broker {node} cannot be made: {}", format.output()).into());
            }
        }
        for node in 0..BROKERS {
            brokers.launch(node);
        }
        for node in 0..BROKERS {
            brokers.answers(node).await?;
        }
        Ok(brokers)
    }

    fn home(&self, node: usize) -> PathBuf {
        self.dir.join(format!("broker-{node}"))
    }

    fn java(&self, class: &str, heap: &str) -> Command {
        let log4j = repository().join("tests/harness/kafka/log4j2.properties");
        let mut command = Command::new(&self.java);
        command
            .args(["-Xms64m", &format!("-Xmx{heap}"), "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1"])
            .args(["-Djava.awt.headless=true", &format!("-Dlog4j2.configurationFile={}", log4j.display()), "-cp"])
            .arg(format!("{}/*", self.jars.display()))
            .arg(class);
        command
    }

    fn launch(&mut self, node: usize) {
        self.starts += 1;
        let home = self.home(node);
        let mut command = self.java("kafka.Kafka", "256m");
        command.arg(home.join("server.properties")).current_dir(&home);
        let log = home.join(format!("log-{}", self.starts));
        self.running[node] = Some(Process::start(&mut command, &log));
    }

    async fn answers(&mut self, node: usize) -> Result<(), Failure> {
        let Some(broker) = &mut self.running[node] else { return Ok(()) };
        let up = until(START, || broker.ended().is_some().then_some(false).or_else(|| says_started(broker))).await;
        if up == Some(true) {
            return Ok(());
        }
        let output = broker.output();
        let tail = output.char_indices().rev().nth(3_000).map_or(output.as_str(), |(at, _)| &output[at..]);
        Err(format!("broker {node} did not start; the end of its log:\n{tail}").into())
    }

    /// Kills one: SIGKILL.
    pub(super) fn kill(&mut self, node: usize) {
        self.running[node] = None;
    }

    /// Brings one back.
    pub(super) async fn revive(&mut self, node: usize) -> Result<(), Failure> {
        self.launch(node);
        self.answers(node).await
    }

    /// How many are running.
    pub(super) fn alive(&self) -> usize {
        self.running.iter().flatten().count()
    }

    /// Where those who look connect to, around the proxies.
    pub(super) fn bootstrap(ports: &[BrokerPorts]) -> String {
        let addresses: Vec<String> = ports.iter().map(|ports| format!("127.0.0.1:{}", ports.internal)).collect();
        addresses.join(",")
    }

    /// Waits until every partition of every topic is on all brokers again.
    pub(super) async fn replicated(&self) -> bool {
        let Ok(consumer) = looking(&Self::bootstrap(&self.ports), "nobody") else { return false };
        let consumer = std::sync::Arc::new(consumer);
        let deadline = tokio::time::Instant::now() + START;
        while tokio::time::Instant::now() < deadline {
            let asked = std::sync::Arc::clone(&consumer);
            let look = tokio::task::spawn_blocking(move || is_replicated(&asked)).await;
            if look.unwrap_or(false) {
                return true;
            }
            tokio::time::sleep(Duration::from_millis(250)).await;
        }
        false
    }
}

fn says_started(broker: &Process) -> Option<bool> {
    broker.output().contains("Kafka Server started").then_some(true)
}

fn is_replicated(consumer: &BaseConsumer) -> bool {
    let Ok(metadata) = consumer.fetch_metadata(None, Duration::from_secs(10)) else { return false };
    let partitions = metadata.topics().iter().flat_map(|topic| topic.partitions());
    metadata.brokers().len() == BROKERS && partitions.into_iter().all(|partition| partition.isr().len() == BROKERS)
}

/// Makes a topic on all brokers, two of which must have a record before it counts.
pub(super) async fn create_topic(
    brokers: &str,
    name: &str,
    partitions: i32,
    settings: &[(&str, &str)],
) -> Result<(), Failure> {
    let client: AdminClient<DefaultClientContext> =
        ClientConfig::new().set("bootstrap.servers", brokers).set("client.id", "chaos-admin").create()?;
    let topic =
        NewTopic::new(name, partitions, TopicReplication::Fixed(BROKERS as i32)).set("min.insync.replicas", "2");
    let topic = settings.iter().fold(topic, |topic, (name, value)| topic.set(name, value));
    let options = AdminOptions::new().operation_timeout(Some(Duration::from_secs(30)));
    for result in client.create_topics([&topic], &options).await? {
        result.map_err(|(name, code)| format!("topic {name}: {code}"))?;
    }
    Ok(())
}

/// `services.sh` with these words: what it says.
async fn services(words: &[&str]) -> Result<String, Failure> {
    let mut command = Command::new(repository().join("tests/harness/services.sh"));
    command.args(words);
    run(command).await
}

async fn run(mut command: Command) -> Result<String, Failure> {
    let ran = tokio::task::spawn_blocking(move || command.output()).await??;
    if !ran.status.success() {
        return Err(String::from_utf8_lossy(&ran.stderr).trim().to_owned().into());
    }
    Ok(String::from_utf8_lossy(&ran.stdout).trim().to_owned())
}

/// The Cassandra.
pub(super) struct Cassandra {
    port: u16,
    storage_port: u16,
    state: PathBuf,
}

impl Cassandra {
    /// Starts it.
    pub(super) async fn start(dir: &Path) -> Result<Self, Failure> {
        let (port, storage_port) = (free_port(), free_port());
        let cassandra = Self { port, storage_port, state: dir.join("cassandra") };
        cassandra.up().await?;
        Ok(cassandra)
    }

    /// Where it listens.
    pub(super) fn address(&self) -> String {
        format!("127.0.0.1:{}", self.port)
    }

    fn command(&self, verb: &str) -> Command {
        let mut command = Command::new(repository().join("tests/harness/services.sh"));
        command
            .args([verb, "cassandra"])
            .env("PELTON_SERVICES", "java")
            .env("PELTON_SERVICES_DIR", &self.state)
            .env("PELTON_CASSANDRA_HOST", "127.0.0.1")
            .env("PELTON_CASSANDRA_PORT", self.port.to_string())
            .env("PELTON_CASSANDRA_STORAGE_PORT", self.storage_port.to_string())
            .env("PELTON_CASSANDRA_HEAP", "256m");
        command
    }

    /// Starts it, and waits until it answers.
    pub(super) async fn up(&self) -> Result<(), Failure> {
        run(self.command("up")).await.map(drop)
    }

    /// Stops it with SIGTERM. Never with SIGKILL: a node that stands alone and syncs its log now and then may lose what it
    /// had acknowledged, and that would be its own loss.
    pub(super) async fn down(&self) -> Result<(), Failure> {
        run(self.command("down")).await.map(drop)
    }

    /// A session around the proxy.
    pub(super) async fn session(&self) -> Result<Session, Failure> {
        Ok(SessionBuilder::new().known_node(self.address()).build().await?)
    }
}

impl Drop for Cassandra {
    fn drop(&mut self) {
        self.command("down").output().ok();
    }
}
