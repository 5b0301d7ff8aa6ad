//! docker-compose.yml and the Dockerfile, against the configuration of the project that they run.

use std::collections::{BTreeMap, BTreeSet};

use pelton::config::{self, DeadLetterSettings, Output};
use saphyr::{LoadableYamlNode as _, Yaml};

use crate::files::{text, top};

const PROJECT: &str = "examples/shop";

/// A YAML value as plain text and lists, which is all that is looked at.
struct Node<'y>(&'y Yaml<'y>);

impl<'y> Node<'y> {
    fn get(&self, key: &str) -> Option<Node<'y>> {
        let mapping = self.0.as_mapping()?;
        mapping.iter().find(|(name, _)| name.as_str() == Some(key)).map(|(_, value)| Node(value))
    }

    fn at(&self, path: &str) -> Node<'y> {
        let mut node = Node(self.0);
        for key in path.split('/') {
            node = node.get(key).unwrap_or_else(|| panic!("docker-compose.yml has no {path}"));
        }
        node
    }

    fn text(&self) -> String {
        self.0.as_str().map(str::to_owned).unwrap_or_else(|| panic!("no text: {:?}", self.0))
    }

    fn list(&self) -> Vec<String> {
        let items = self.0.as_sequence().unwrap_or_else(|| panic!("no list: {:?}", self.0));
        items.iter().map(|item| Node(item).text()).collect()
    }

    fn entries(&self) -> BTreeMap<String, String> {
        let mapping = self.0.as_mapping().unwrap_or_else(|| panic!("no mapping: {:?}", self.0));
        mapping.iter().map(|(name, value)| (Node(name).text(), Node(value).text())).collect()
    }

    fn keys(&self) -> BTreeSet<String> {
        let mapping = self.0.as_mapping().unwrap_or_else(|| panic!("no mapping: {:?}", self.0));
        mapping.iter().map(|(name, _)| Node(name).text()).collect()
    }
}

fn with_compose(check: impl FnOnce(&Node<'_>)) {
    let text = text("docker-compose.yml");
    let documents = Yaml::load_from_str(&text).expect("docker-compose.yml is YAML");
    check(&Node(documents.first().expect("it has a document")));
}

/// The project as the container reads it.
fn project(compose: &Node<'_>) -> config::Reading {
    config::read(&top().join(PROJECT), &compose.at("services/pelton/environment").entries())
}

#[test]
fn has_all_services_with_pinned_images_and_health() {
    with_compose(|compose| {
        for service in ["kafka", "cassandra", "schema-registry", "pelton"] {
            let service = compose.at(&format!("services/{service}"));
            let image = service.at("image").text();
            let tag = image.rsplit_once(':').map(|(_, tag)| tag);
            assert!(tag.is_some_and(|tag| tag != "latest"), "{image} is not pinned");
            assert!(!service.at("healthcheck/test").list().is_empty());
        }
        let script = text("tests/harness/services.sh");
        for (service, variable) in [("kafka", "kafka_version"), ("cassandra", "cassandra_version")] {
            let image = compose.at(&format!("services/{service}/image")).text();
            let version = image.rsplit_once(':').expect("it is pinned").1;
            assert!(script.contains(&format!("\n{variable}={version}\n")), "make services starts another {image}");
        }
    });
}

#[test]
fn every_variable_is_read_and_every_variable_without_default_is_set() {
    with_compose(|compose| {
        let set = compose.at("services/pelton/environment").keys();
        let settings = text(&format!("{PROJECT}/pelton.yaml"));
        let mut read = BTreeSet::new();
        for part in settings.split("${").skip(1) {
            let inside = part.split('}').next().expect("split gives a part");
            let (name, default) = inside.split_once(":-").map_or((inside, None), |(name, value)| (name, Some(value)));
            assert!(
                default.is_some() || set.contains(name),
                "{name} has no default, and the compose file does not set it"
            );
            read.insert(name.to_owned());
        }
        let unread: Vec<_> = set.difference(&read).collect();
        assert!(unread.is_empty(), "set, but not read by {PROJECT}/pelton.yaml: {unread:?}");
    });
}

#[test]
fn the_daemon_finds_its_services() {
    with_compose(|compose| {
        let settings = project(compose).settings;
        let services = compose.at("services").keys();

        let brokers = settings.kafka.expect("the project reads Kafka").brokers;
        let (host, port) = brokers.split_once(':').expect("host:port");
        assert!(services.contains(host), "{host} is no service");
        let kafka = compose.at(&format!("services/{host}/environment")).entries();
        let listener = format!("INTERNAL://:{port}");
        assert!(kafka["KAFKA_LISTENERS"].split(',').any(|own| own == listener), "Kafka has no {listener}");
        let advertised = format!("INTERNAL://{host}:{port}");
        assert!(kafka["KAFKA_ADVERTISED_LISTENERS"].split(',').any(|own| own == advertised), "not {advertised}");

        let points = settings.cassandra.expect("the project writes to Cassandra").contact_points;
        for point in points {
            let (host, port) = point.split_once(':').expect("host:port");
            assert!(services.contains(host), "{host} is no service");
            let ports = compose.at(&format!("services/{host}/ports")).list();
            assert!(ports.iter().any(|mapping| mapping.ends_with(&format!(":{port}"))), "{host} has no {port}");
        }

        for service in ["topics", "tables"] {
            let condition = compose.at(&format!("services/pelton/depends_on/{service}/condition")).text();
            assert_eq!(condition, "service_completed_successfully");
        }
    });
}

#[test]
fn the_admin_port_is_published_to_this_machine_and_asked_for_health() {
    with_compose(|compose| {
        let admin = project(compose).settings.admin;
        assert!(admin.ip().is_unspecified(), "other containers and the published port must reach it: {admin}");
        let ports = compose.at("services/pelton/ports").list();
        assert!(ports.iter().any(|mapping| mapping.ends_with(&format!(":{}", admin.port()))), "{ports:?}");
        for service in compose.at("services").keys() {
            let service = compose.at(&format!("services/{service}"));
            for mapping in service.get("ports").map(|ports| ports.list()).unwrap_or_default() {
                assert!(mapping.starts_with("127.0.0.1:"), "{mapping} is open to everybody");
            }
        }
        let health = compose.at("services/pelton/healthcheck/test").list();
        assert_eq!(health[..2], ["CMD", "pelton"]);
        assert!(health.contains(&format!("127.0.0.1:{}", admin.port())), "{health:?}");
        pelton::cli::command().try_get_matches_from(&health[1..]).expect("the health check is a command of pelton");
    });
}

#[test]
fn the_command_runs_the_project_that_is_mounted() {
    with_compose(|compose| {
        let pelton = compose.at("services/pelton");
        let mut command = vec!["pelton".to_owned()];
        command.extend(pelton.at("command").list());
        pelton::cli::command().try_get_matches_from(&command).expect("it is a command of pelton");
        let mounts = pelton.at("volumes").list();
        let project_mount = mounts.iter().find(|mount| mount.starts_with(&format!("./{PROJECT}:")));
        let inside = project_mount.expect("the project is mounted").split(':').nth(1).expect("source:target");
        assert_eq!(command.last().map(String::as_str), Some(inside));
        for service in compose.at("services").keys() {
            let service = compose.at(&format!("services/{service}"));
            for mount in service.get("volumes").map(|volumes| volumes.list()).unwrap_or_default() {
                let source = mount.split(':').next().expect("split gives a part");
                let there = match source.strip_prefix("./") {
                    Some(path) => top().join(path).exists(),
                    None => compose.at("volumes").keys().contains(source),
                };
                assert!(there, "{source} is not there");
            }
        }
    });
}

#[test]
fn what_the_daemon_writes_lies_on_a_volume() {
    with_compose(|compose| {
        let settings = project(compose).settings;
        let mounts = compose.at("services/pelton/volumes").list();
        let writable: Vec<_> =
            mounts.iter().filter(|mount| !mount.ends_with(":ro")).filter_map(|mount| mount.split(':').nth(1)).collect();
        for dir in [&settings.cache_dir, &settings.spill_dir] {
            assert!(writable.iter().any(|volume| dir.starts_with(volume)), "{} is not on {writable:?}", dir.display());
        }
        let dockerfile = text("deploy/Dockerfile");
        assert!(writable.iter().all(|volume| dockerfile.contains(&format!("VOLUME {volume}\n"))), "{writable:?}");
        assert!(writable.iter().all(|volume| dockerfile.contains(&format!("-o pelton -g pelton {volume}\n"))));
    });
}

#[test]
fn the_daemon_has_time_to_drain() {
    with_compose(|compose| {
        let grace = compose.at("services/pelton/stop_grace_period").text();
        let seconds: u64 = grace.trim_end_matches('s').parse().expect("seconds");
        let drain = project(compose).settings.drain.as_secs();
        assert!(seconds > drain + 5, "stopped after {seconds} s, drains for {drain} s");
    });
}

#[test]
fn the_image_is_small_and_not_root() {
    let dockerfile = text("deploy/Dockerfile");
    let last = dockerfile.rsplit_once("\nFROM ").expect("it has stages").1;
    assert!(last.starts_with("debian:bookworm-slim\n"), "the last stage is {:?}", last.lines().next());
    assert!(last.contains("\nUSER 10001\n"));
    assert!(last.contains("\nENTRYPOINT [\"pelton\"]\n"));
    assert!(!last.contains("libssl-dev") && !last.contains("COPY . "));
    let port = with_port();
    assert!(last.contains(&format!("\nEXPOSE {port}\n")), "the admin interface listens on {port}");
    let rust = dockerfile.lines().find_map(|line| line.strip_prefix("FROM rust:")).expect("it is built with Rust");
    let wanted = text("Cargo.toml");
    let wanted = wanted.lines().find_map(|line| line.strip_prefix("rust-version = ")).expect("a version is wanted");
    assert!(rust.starts_with(wanted.trim_matches('"')), "built with {rust}, wanted {wanted}");
}

fn with_port() -> u16 {
    let mut port = 0;
    with_compose(|compose| port = project(compose).settings.admin.port());
    port
}

#[test]
fn the_topics_and_tables_of_the_example_are_made() {
    let mut topics = BTreeSet::new();
    with_compose(|compose| {
        let script = compose.at("services/topics/command").list().join("\n");
        let list = script.split(" in ").nth(1).and_then(|rest| rest.split(';').next()).expect("for topic in …;");
        for pair in list.split_whitespace() {
            let (topic, partitions) = pair.split_once(':').expect("name:partitions");
            assert!(partitions.parse::<u16>().is_ok_and(|count| count > 0), "{pair}");
            topics.insert(topic.to_owned());
        }
    });
    let tables = text(&format!("{PROJECT}/schema.cql"));
    let reading = config::read(&top().join(PROJECT), &BTreeMap::new());
    let problems: Vec<_> = reading.problems.iter().filter(|problem| problem.is_error()).collect();
    assert!(problems.is_empty(), "{PROJECT} is not valid; are the plugins built (`make plugins`)? {problems:#?}");
    let mut used = BTreeSet::new();
    for draft in &reading.drafts {
        let pipeline = draft.pipeline.as_ref().expect("nothing is wrong with it");
        used.extend(pipeline.source.topics.iter().cloned());
        if let DeadLetterSettings::Kafka { topic } = &pipeline.dead_letters {
            used.insert(topic.clone());
        }
        for output in pipeline.outputs.values() {
            match output {
                Output::Kafka(kafka) => {
                    used.insert(kafka.topic.clone());
                }
                Output::Cassandra(table) => {
                    let made = format!("CREATE TABLE IF NOT EXISTS {} (", table.table);
                    assert!(tables.contains(&made), "schema.cql does not make {}", table.table);
                }
                Output::Sqlite(_) | Output::Discard => {}
            }
        }
    }
    assert_eq!(topics, used, "the compose file makes the topics of the pipelines");
}
