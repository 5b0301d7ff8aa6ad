//! `pelton.yaml`: what all pipelines share.
//!
//! In: the file. Out: [`Settings`], whole even where some of it was a mistake, so that the pipelines can be read against
//! it.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::document::{Document, Table, Value, text_entries};
use super::values::{boolean, choice, duration, file, path_within, size};
use super::{CassandraConnection, Consistency, KafkaConnection, LogSettings, ReloadSettings, Secret, Settings, Tls};
use crate::kafka::{OWN_CONSUMER_PROPERTIES, OWN_PRODUCER_PROPERTIES, PropertyFault, property_fault};

/// Where the admin interface listens, where nobody says otherwise.
pub(super) const ADMIN_DEFAULT: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(std::net::Ipv4Addr::LOCALHOST), 8787);
const MEMORY_BYTES_DEFAULT: usize = 512 << 20;
const DRAIN_DEFAULT: Duration = Duration::from_secs(30);
const SETTLE_DEFAULT: Duration = Duration::from_secs(30);
const STARTUP_WAIT_DEFAULT: Duration = Duration::from_secs(30);

/// The consistencies of writes, by name.
pub(super) const CONSISTENCIES: [(&str, Consistency); 6] = [
    ("ONE", Consistency::One),
    ("LOCAL_ONE", Consistency::LocalOne),
    ("QUORUM", Consistency::Quorum),
    ("LOCAL_QUORUM", Consistency::LocalQuorum),
    ("EACH_QUORUM", Consistency::EachQuorum),
    ("ALL", Consistency::All),
];

impl Settings {
    /// What holds where `pelton.yaml` says nothing.
    #[must_use]
    pub fn defaults(dir: &Path) -> Self {
        Self {
            kafka: None,
            cassandra: None,
            sqlite: None,
            admin: ADMIN_DEFAULT,
            memory_bytes: MEMORY_BYTES_DEFAULT,
            cache_dir: dir.join(".pelton/cache"),
            spill_dir: dir.join(".pelton/spill"),
            plugin_dirs: vec![dir.join(PLUGINS)],
            drain: DRAIN_DEFAULT,
            startup_wait: STARTUP_WAIT_DEFAULT,
            log: LogSettings { json: false, level: "info".to_owned() },
            reload: ReloadSettings { watch: true, settle: SETTLE_DEFAULT, history_dir: dir.join(".pelton/history") },
        }
    }
}

/// The plugins of the project itself.
const PLUGINS: &str = "plugins";

/// What a pipeline may lean on, even where it was written with mistakes.
#[derive(Debug, Clone, Copy)]
pub(super) struct Mentioned {
    pub(super) kafka: bool,
    pub(super) cassandra: bool,
    pub(super) sqlite: bool,
}

impl Mentioned {
    /// Nothing can be said about what is missing.
    pub(super) const UNKNOWN: Self = Self { kafka: true, cassandra: true, sqlite: true };
}

/// Reads `pelton.yaml`.
pub(super) fn read(document: &Document<'_>, dir: &Path) -> (Settings, Mentioned) {
    let mut settings = Settings::defaults(dir);
    let root = document.root();
    if root.is_null() || root.is_broken() {
        let nothing = Mentioned { kafka: false, cassandra: false, sqlite: false };
        // An empty file is all defaults; asking for the keys makes them known.
        return (settings, if document.partial { Mentioned::UNKNOWN } else { nothing });
    }
    let mut mentioned = Mentioned::UNKNOWN;
    root.table("keys with values, like `kafka:`", |table| {
        if !document.partial {
            mentioned =
                Mentioned { kafka: table.has("kafka"), cassandra: table.has("cassandra"), sqlite: table.has("sqlite") };
        }
        settings.kafka = table.optional("kafka", |value| value.table("`brokers:`", kafka));
        settings.cassandra =
            table.optional("cassandra", |value| value.table("`contact_points:`", |table| cassandra(table, dir)));
        settings.sqlite = table.optional("sqlite", |value| path_within(value, dir, "a file, like `tables.db`"));
        process(table, &mut settings, dir);
        Some(())
    });
    (settings, mentioned)
}

/// The keys about the process itself.
fn process(table: &mut Table<'_>, settings: &mut Settings, dir: &Path) {
    if let Some(admin) = table.optional("admin", |value| {
        value.table("`listen: 127.0.0.1:8787`", |t| {
            t.required("listen", "an address and a port, like `127.0.0.1:8787`", listen)
        })
    }) {
        settings.admin = admin;
    }
    if let Some(bytes) = table.optional("memory", |value| size(value, "512 MiB", 64 << 20..=16 << 40)) {
        settings.memory_bytes = bytes;
    }
    if let Some(path) =
        table.optional("cache_dir", |value| path_within(value, dir, "a directory, like `.pelton/cache`"))
    {
        settings.cache_dir = path;
    }
    // Beside the cache, wherever that may be.
    if let Some(beside) = settings.cache_dir.parent() {
        settings.reload.history_dir = beside.join("history");
    }
    if let Some(path) =
        table.optional("spill_dir", |value| path_within(value, dir, "a directory, like `.pelton/spill`"))
    {
        settings.spill_dir = path;
    }
    if let Some(dirs) = table.optional("plugin_dirs", |value| plugin_dirs(value, dir)) {
        settings.plugin_dirs = dirs;
    }
    if let Some(drain) =
        table.optional("drain", |value| duration(value, "30 s", Duration::from_millis(100)..=Duration::from_secs(600)))
    {
        settings.drain = drain;
    }
    if let Some(wait) =
        table.optional("startup_wait", |value| duration(value, "30 s", Duration::ZERO..=Duration::from_secs(86_400)))
    {
        settings.startup_wait = wait;
    }
    table.optional("reload", |value| {
        value.table("`watch:`, `settle:` and `history_dir:`", |table| {
            reload(table, dir, &mut settings.reload);
            Some(())
        })
    });
    if let Some(log) = table.optional("log", |value| value.table("`format:` and `level:`", log)) {
        settings.log = log;
    }
}

fn reload(table: &mut Table<'_>, dir: &Path, settings: &mut ReloadSettings) {
    if let Some(watch) = table.optional("watch", boolean) {
        settings.watch = watch;
    }
    if let Some(settle) =
        table.optional("settle", |value| duration(value, "30 s", Duration::from_secs(1)..=Duration::from_secs(86_400)))
    {
        settings.settle = settle;
    }
    if let Some(path) =
        table.optional("history_dir", |value| path_within(value, dir, "a directory, like `.pelton/history`"))
    {
        settings.history_dir = path;
    }
}

fn listen(value: &Value<'_>) -> Option<SocketAddr> {
    let what = "an address and a port, like `127.0.0.1:8787`";
    let text = value.text(what)?;
    let text = text.trim().replacen("localhost:", "127.0.0.1:", 1);
    match text.parse::<SocketAddr>() {
        Ok(address) => {
            if !address.ip().is_loopback() {
                value.warning(
                    format!("the admin interface listens on {}, and asks nobody who they are", address.ip()),
                    "keep the port closed to others, or listen on 127.0.0.1",
                );
            }
            Some(address)
        }
        Err(_) => {
            value.expected(what);
            None
        }
    }
}

fn plugin_dirs(value: &Value<'_>, dir: &Path) -> Option<Vec<PathBuf>> {
    let what = "a list of directories, like `[plugins, ../../plugins]`";
    let items = value.items(what)?;
    if items.is_empty() {
        value.problem("found an empty list", format!("write {what}"));
        return None;
    }
    let mut dirs = Vec::new();
    for item in items {
        let path = dir.join(item.text("a directory, like `plugins`")?);
        if path.is_file() {
            item.problem("this is a file, not a directory", "write the directory that holds it");
        } else if !path.is_dir() && path != dir.join(PLUGINS) {
            // The project's own is made with the first plugin.
            let found = format!("the directory {} is not there", item.quoted());
            item.warning(found, "correct the path, from the project directory, or remove the entry");
        } else if dirs.contains(&path) {
            item.problem("this directory is listed twice", "remove it");
        }
        dirs.push(path);
    }
    Some(dirs)
}

fn log(table: &mut Table<'_>) -> Option<LogSettings> {
    let json = table.optional("format", |value| choice(value, &[("text", false), ("json", true)]));
    let level = table.optional("level", |value| {
        let level = value.text("a level, like `info`")?;
        if is_log_level(&level) {
            return Some(level);
        }
        let here = value.describe();
        value.problem(
            format!("{here} is no log level"),
            "write `error`, `warn`, `info`, `debug` or `trace`; for a part alone, `info,pelton::kafka=debug`",
        );
        None
    });
    Some(LogSettings { json: json.unwrap_or(false), level: level.unwrap_or_else(|| "info".to_owned()) })
}

fn is_log_level(text: &str) -> bool {
    let is_level = |word: &str| {
        ["off", "error", "warn", "info", "debug", "trace"].iter().any(|level| level.eq_ignore_ascii_case(word))
    };
    text.split(',').all(|part| match part.trim().split_once('=') {
        Some((target, level)) => {
            is_level(level) && !target.is_empty() && target.chars().all(|c| c.is_alphanumeric() || "_:-".contains(c))
        }
        None => is_level(part.trim()),
    })
}

fn kafka(table: &mut Table<'_>) -> Option<KafkaConnection> {
    let brokers = table.required("brokers", "host:port, several with commas, like `127.0.0.1:9092`", |value| {
        addresses(value, "host:port, like `127.0.0.1:9092`").map(|all| all.join(","))
    });
    let properties = table.optional("properties", properties);
    Some(KafkaConnection { brokers: brokers?, properties: properties.unwrap_or_default() })
}

fn cassandra(table: &mut Table<'_>, dir: &Path) -> Option<CassandraConnection> {
    let contact_points = table.required("contact_points", "a list of hosts, like `[127.0.0.1:9042]`", |value| {
        addresses(value, "host or host:port, like `127.0.0.1:9042`")
    });
    let local_datacenter = table.optional("local_datacenter", |value| value.text("a datacentre's name, like `dc1`"));
    let username = table.optional("username", |value| value.text("a user's name"));
    let password = table.optional("password", |value| secret(value, "password"));
    if let Some(value) = table.get("password")
        && !table.has("username")
    {
        value.document.problem(value.key_place, &value.path, "a password without `username`", "write `username:` too");
    }
    if let Some(value) = table.get("username")
        && !table.has("password")
    {
        value.document.problem(
            value.key_place,
            &value.path,
            "a user without `password`",
            "write `password: ${NAME}` too",
        );
    }
    let tls = table.optional("tls", |value| match value.bare() {
        Some("true") => Some(Some(Tls { verify_hostname: true, ..Tls::default() })),
        Some("false") => Some(None),
        _ => value.table("`true`, or `ca:`, `certificate:`, `key:`", |table| tls(table, dir)).map(Some),
    });
    let consistency = table.optional("consistency", |value| choice(value, &CONSISTENCIES));
    Some(CassandraConnection {
        contact_points: contact_points?,
        local_datacenter,
        username,
        password,
        tls: tls.flatten(),
        consistency: consistency.unwrap_or(Consistency::LocalQuorum),
    })
}

fn tls(table: &mut Table<'_>, dir: &Path) -> Option<Tls> {
    let ca = table.optional("ca", |value| file(value, dir, "a PEM file with the certificates to trust"));
    let certificate = table.optional("certificate", |value| file(value, dir, "a PEM file with our certificate"));
    let key = table.optional("key", |value| file(value, dir, "a PEM file with the certificate's key"));
    for (one, other) in [("certificate", "key"), ("key", "certificate")] {
        if table.has(one) && !table.has(other) && !table.value.document.partial {
            let found = format!("`{one}` stands here without `{other}`");
            table.value.document.problem(
                table.value.key_place,
                &table.value.path,
                found,
                format!("write `{other}:` too"),
            );
        }
    }
    let verify_hostname = table.optional("verify_hostname", boolean);
    Some(Tls { ca, certificate, key, verify_hostname: verify_hostname.unwrap_or(true) })
}

/// A password: its text must not stand in the file.
pub(super) fn secret(value: &Value<'_>, key: &str) -> Option<Secret> {
    let Some(text) = value.scalar() else {
        value.expected("text, best as `${NAME}`");
        return None;
    };
    warn_plain(value, key);
    Some(Secret::new(text))
}

fn warn_plain(value: &Value<'_>, key: &str) {
    if !value.is_substituted() {
        value.warning(
            format!("the secret `{key}` stands here in plain text"),
            "write ${NAME} and set the environment variable, or ${file:PATH}",
        );
    }
}

/// Hosts with ports, as a list or with commas.
fn addresses(value: &Value<'_>, what: &str) -> Option<Vec<String>> {
    let texts: Vec<(Value<'_>, String)> = if value.is_list() {
        let items = value.items(what)?;
        let count = items.len();
        let texts: Vec<_> = items.into_iter().filter_map(|item| item.text(what).map(|text| (item, text))).collect();
        if texts.len() < count {
            return None;
        }
        texts
    } else {
        vec![(value.clone(), value.text(what)?)]
    };
    let mut addresses = Vec::new();
    let mut is_valid = true;
    for (place, text) in &texts {
        for address in text.split(',').map(str::trim) {
            if is_address(address) {
                addresses.push(address.to_owned());
            } else {
                is_valid = false;
                let found = if place.is_substituted() {
                    format!("{} is no address", place.describe())
                } else {
                    format!("`{address}` is no address")
                };
                place.problem(found, format!("write {what}"));
            }
        }
    }
    if addresses.is_empty() && is_valid {
        value.problem("found an empty list", format!("write {what}"));
    }
    (is_valid && !addresses.is_empty()).then_some(addresses)
}

/// `host`, `host:port`, `[::1]:port`.
fn is_address(text: &str) -> bool {
    let (host, port) = match text.rsplit_once(':') {
        Some((host, port)) if !text.ends_with(']') => (host, Some(port)),
        _ => (text, None),
    };
    let is_host = match host.strip_prefix('[').and_then(|host| host.strip_suffix(']')) {
        Some(inside) => inside.parse::<std::net::Ipv6Addr>().is_ok(),
        None => !host.is_empty() && host.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '_')),
    };
    is_host && port.is_none_or(|port| port.parse::<u16>().is_ok_and(|port| port > 0))
}

/// Settings of librdkafka that stand elsewhere, and where.
const PROPERTY_HOMES: [(&str, &str); 5] = [
    ("bootstrap.servers", "write it as `kafka: brokers:` in pelton.yaml"),
    ("metadata.broker.list", "write it as `kafka: brokers:` in pelton.yaml"),
    ("group.id", "write it as `group:` in the pipeline's `source: kafka:`"),
    ("auto.offset.reset", "write it as `start:` in the pipeline's `source: kafka:`"),
    ("partitioner", "write it as `partitioner:` beside the output's `topic:`"),
];

/// Settings of librdkafka that pass through. Their text never shows.
pub(super) fn properties(value: &Value<'_>) -> Option<BTreeMap<String, Secret>> {
    let mut properties = BTreeMap::new();
    for (key, (text, at)) in text_entries(value, "librdkafka's settings, like `security.protocol: SASL_SSL`") {
        let document = at.document;
        let is_ours = |own: &[&str]| own.contains(&key.as_str());
        if is_ours(OWN_CONSUMER_PROPERTIES) || is_ours(OWN_PRODUCER_PROPERTIES) {
            let home = PROPERTY_HOMES.iter().find(|(name, _)| *name == key);
            let remedy =
                home.map_or("remove it: Pelton sets it itself, and its promises rest on that", |(_, home)| home);
            document.problem(at.key_place, &at.path, format!("`{key}` cannot be set here"), remedy);
            continue;
        }
        let is_secret = key.ends_with("password") || key.ends_with("secret") || key.ends_with("key.pem");
        match property_fault(&key, &text) {
            Some(PropertyFault::Unknown) => {
                let remedy = "see CONFIGURATION.md of librdkafka for the names";
                document.problem(at.key_place, &at.path, format!("librdkafka has no setting `{key}`"), remedy);
            }
            Some(PropertyFault::Invalid(message)) => {
                let found = match is_secret || at.is_substituted() {
                    true => format!("librdkafka does not take this value for `{key}`"),
                    false => message,
                };
                at.problem(found, "see CONFIGURATION.md of librdkafka for its values");
            }
            None if is_secret => warn_plain(&at, &key),
            None => {}
        }
        properties.insert(key, Secret::new(text));
    }
    Some(properties)
}
