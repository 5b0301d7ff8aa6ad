//! Kafka of a test's own: brokers as processes, on ports of their own, that the test may secure and kill.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use pelton::config::KafkaConnection;
use pelton_tests::process::{Process, free_port, repository};
use rdkafka::ClientConfig;
use rdkafka::consumer::{BaseConsumer, Consumer as _};
use tempfile::TempDir;

/// Brokers that are controllers too. Gone with all their records when dropped.
pub(crate) struct Cluster {
    pub(crate) nodes: Vec<Node>,
    _dir: TempDir,
    java: Java,
}

/// One broker.
pub(crate) struct Node {
    /// Where clients of the test's subject connect.
    pub(crate) address: String,
    /// Where the test itself connects, in plain text and as a user that may do everything.
    pub(crate) inside: String,
    process: Process,
}

struct Java {
    program: PathBuf,
    jars: PathBuf,
}

/// What a broker asks of its clients: TLS with this key and certificate, a name and a password.
pub(crate) struct Secured<'s> {
    /// Key and certificate, as PEM, in one file.
    pub(crate) pem: &'s Path,
    pub(crate) user: &'s str,
    pub(crate) password: &'s str,
}

impl Java {
    fn find() -> Self {
        let ask = |arguments: &[&str]| {
            let mut script = Command::new(repository().join("tests/harness/services.sh"));
            let ran = script.args(arguments).output().expect("bash runs");
            assert!(ran.status.success(), "{}", String::from_utf8_lossy(&ran.stderr));
            PathBuf::from(String::from_utf8(ran.stdout).expect("a path").trim())
        };
        Self { program: ask(&["java"]), jars: ask(&["jars", "kafka"]) }
    }

    fn command(&self, options: &[&str]) -> Command {
        let log4j = repository().join("tests/harness/kafka/log4j2.properties");
        let mut command = Command::new(&self.program);
        command
            .args(options)
            .arg(format!("-Dlog4j2.configurationFile={}", log4j.display()))
            .arg("-cp")
            .arg(format!("{}/*", self.jars.display()));
        command
    }

    /// One of Kafka's own tools, to its end.
    fn tool(&self, class: &str, arguments: &[&str]) {
        let ran = self.command(&["-XX:TieredStopAtLevel=1"]).arg(class).args(arguments).output().expect("java runs");
        let said = String::from_utf8_lossy(&ran.stdout).into_owned() + &String::from_utf8_lossy(&ran.stderr);
        assert!(ran.status.success(), "{class} {arguments:?}: {said}");
    }
}

impl Cluster {
    /// So many brokers, which have found each other.
    pub(crate) async fn start(brokers: usize, secured: Option<&Secured<'_>>) -> Self {
        let (dir, java) = (tempfile::tempdir().expect("a directory"), Java::find());
        let ports: Vec<[u16; 3]> = (0..brokers).map(|_| [free_port(), free_port(), free_port()]).collect();
        let voters = (1..).zip(&ports).map(|(id, [_, _, port])| format!("{id}@127.0.0.1:{port}"));
        let voters = voters.collect::<Vec<_>>().join(",");
        let mut nodes = Vec::new();
        for (id, ports) in (1..).zip(&ports) {
            let home = dir.path().join(id.to_string());
            std::fs::create_dir(&home).expect("a fresh directory");
            let file = home.join("server.properties");
            std::fs::write(&file, properties(id, *ports, &voters, &home, brokers, secured)).expect("a fresh file");
            let file = file.to_str().expect("a path of text");
            java.tool("kafka.tools.StorageTool", &["format", "-t", "MkU3OEVBNTcwNTJENDM2Qg", "-c", file]);
            let mut server = java.command(&["-Xms128m", "-Xmx256m", "-XX:+UseSerialGC"]);
            let process = Process::start(server.args(["kafka.Kafka", file]), &home.join("log"));
            let at = |port: u16| format!("127.0.0.1:{port}");
            nodes.push(Node { address: at(ports[0]), inside: at(ports[1]), process });
        }
        for node in &mut nodes {
            node.process.until_it_says("Kafka Server started").await;
        }
        Self { nodes, _dir: dir, java }
    }

    /// All addresses for the subject.
    pub(crate) fn addresses(&self) -> String {
        self.nodes.iter().map(|node| node.address.clone()).collect::<Vec<_>>().join(",")
    }

    /// All addresses for the test itself.
    pub(crate) fn inside(&self) -> String {
        self.nodes.iter().map(|node| node.inside.clone()).collect::<Vec<_>>().join(",")
    }

    /// A connection of the test itself.
    pub(crate) fn connection(&self) -> KafkaConnection {
        KafkaConnection { brokers: self.inside(), properties: std::collections::BTreeMap::new() }
    }

    /// Changes access rules: the words of `kafka-acls.sh`.
    pub(crate) async fn rules(&self, arguments: &[&str]) {
        let inside = self.inside();
        let all: Vec<&str> = ["--bootstrap-server", &inside, "--force"].iter().chain(arguments).copied().collect();
        tokio::task::block_in_place(|| self.java.tool("org.apache.kafka.tools.AclCommand", &all));
    }

    /// Ends one broker without a word.
    pub(crate) fn kill(&mut self, id: i32) {
        drop(self.nodes.remove(usize::try_from(id).expect("an id") - 1));
    }
}

/// What one broker is told.
fn properties(
    id: i32,
    [client, inside, controller]: [u16; 3],
    voters: &str,
    home: &Path,
    brokers: usize,
    secured: Option<&Secured<'_>>,
) -> String {
    let (replicas, in_sync) = (brokers.min(3), brokers.min(2));
    let protocol = if secured.is_some() { "SASL_SSL" } else { "PLAINTEXT" };
    let mut text = format!(
        "process.roles=broker,controller\nnode.id={id}\n\
         listeners=CLIENT://127.0.0.1:{client},INSIDE://127.0.0.1:{inside},CONTROLLER://127.0.0.1:{controller}\n\
         advertised.listeners=CLIENT://127.0.0.1:{client},INSIDE://127.0.0.1:{inside}\n\
         listener.security.protocol.map=CLIENT:{protocol},INSIDE:PLAINTEXT,CONTROLLER:PLAINTEXT\n\
         inter.broker.listener.name=INSIDE\ncontroller.listener.names=CONTROLLER\n\
         controller.quorum.voters={voters}\nlog.dirs={data}\n\
         offsets.topic.replication.factor={replicas}\noffsets.topic.num.partitions=4\n\
         transaction.state.log.replication.factor={replicas}\ntransaction.state.log.min.isr={in_sync}\n\
         default.replication.factor={replicas}\nmin.insync.replicas={in_sync}\n\
         group.initial.rebalance.delay.ms=0\nauto.create.topics.enable=false\n\
         broker.session.timeout.ms=3000\nbroker.heartbeat.interval.ms=500\n\
         num.network.threads=2\nnum.io.threads=2\nlog.cleaner.enable=false\n",
        data = home.join("data").display(),
    );
    if let Some(Secured { pem, user, password }) = secured {
        text.push_str(&format!(
            "sasl.enabled.mechanisms=PLAIN\n\
             listener.name.client.plain.sasl.jaas.config=org.apache.kafka.common.security.plain.PlainLoginModule \
             required user_{user}=\"{password}\";\n\
             listener.name.client.ssl.keystore.type=PEM\nlistener.name.client.ssl.keystore.location={pem}\n\
             authorizer.class.name=org.apache.kafka.metadata.authorizer.StandardAuthorizer\n\
             super.users=User:ANONYMOUS\nallow.everyone.if.no.acl.found=true\n",
            pem = pem.display(),
        ));
    }
    text
}

/// A consumer that joins nothing, to look with.
pub(crate) fn look_at(brokers: &str) -> BaseConsumer {
    ClientConfig::new().set("bootstrap.servers", brokers).create().expect("a consumer")
}

/// The broker that leads a partition.
pub(crate) fn leader(consumer: &BaseConsumer, topic: &str, partition: i32) -> Option<i32> {
    let metadata = consumer.fetch_metadata(Some(topic), Duration::from_secs(5)).ok()?;
    let found = metadata.topics().first()?.partitions().iter().find(|found| found.id() == partition)?;
    (found.leader() > 0).then(|| found.leader())
}
