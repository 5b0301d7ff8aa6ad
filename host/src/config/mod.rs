//! From files to a [`Project`] that can run.
//!
//! In: a project directory (`pelton.yaml`, `pipelines/*.yaml`, `plugins/`) and the environment. Out: a [`Project`], or
//! every mistake at once, each with file, line, column, key, what was found and what to write instead. Two types a
//! file: what stands there, and what is valid (this page). Never opens a connection, and never shows a secret.

use std::collections::BTreeMap;
use std::fmt;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::pipeline::BatchLimits;

mod digest;
mod document;
mod files;
mod grants;
mod load;
mod mask;
mod outputs;
mod pipeline;
mod plugins;
mod positions;
mod problem;
mod settings;
mod shared_tables;
mod substitute;
mod suggest;
#[cfg(test)]
mod tests;
mod units;
mod values;
mod yaml;

pub(crate) use grants::OF_THE_CONNECTION;
pub use grants::{Grants, HostGrant, HostName, HttpGrant};
pub use load::{Reading, json, manifest, read};
pub use mask::Mask;
pub use pipeline::Draft;
pub use plugins::LimitKeys;
pub use positions::Positions;
pub use problem::{ConfigErrors, Problem, Severity};
pub use substitute::{Environment, ProcessEnvironment};
pub(crate) use suggest::nearest;
pub(crate) use units::show_bytes;

/// Reads a project directory.
///
/// # Errors
/// Every mistake in it.
pub fn load(dir: &Path, environment: &dyn Environment) -> Result<Project, ConfigErrors> {
    read(dir, environment).into_project()
}

/// A duration as people write it: `5 ms`, `2 h`.
#[must_use]
pub fn duration(text: &str) -> Option<Duration> {
    units::duration(text).ok()
}

/// A time as people write it, `2026-01-01T00:00:00Z`, in milliseconds since the Unix epoch.
#[must_use]
pub fn time_ms(text: &str) -> Option<i64> {
    units::timestamp_us(text).map(|us| us.div_euclid(1_000)).filter(|ms| *ms >= 0)
}

/// A whole, valid project.
#[derive(Debug, Clone)]
pub struct Project {
    /// The project directory.
    pub dir: PathBuf,
    /// `pelton.yaml`.
    pub settings: Settings,
    /// `pipelines/*.yaml`, by name.
    pub pipelines: Vec<Pipeline>,
    /// Where each key stands, for problems that are found after loading.
    pub positions: Positions,
    /// What does not keep it from running, but should be known.
    pub warnings: Vec<Problem>,
    /// What came out of substitutions, for those who pass on what others say.
    pub mask: Mask,
}

impl Project {
    /// Gives a problem that was found by key alone its file's line and column.
    #[must_use]
    pub fn place(&self, problem: Problem) -> Problem {
        self.positions.place(problem)
    }
}

/// What all pipelines share: `pelton.yaml`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settings {
    /// `kafka:`
    pub kafka: Option<KafkaConnection>,
    /// `cassandra:`
    pub cassandra: Option<CassandraConnection>,
    /// `sqlite:` the file of the embedded tables.
    pub sqlite: Option<PathBuf>,
    /// `admin: listen`; loopback by default.
    pub admin: SocketAddr,
    /// `memory:` the budget of the whole process, bytes.
    pub memory_bytes: usize,
    /// `cache_dir:` compiled plugins.
    pub cache_dir: PathBuf,
    /// `spill_dir:` dead letters that fit nowhere else.
    pub spill_dir: PathBuf,
    /// `plugin_dirs:` where to look for plugins, in order.
    pub plugin_dirs: Vec<PathBuf>,
    /// `drain:` how long a task may take to finish what it began.
    pub drain: Duration,
    /// `startup_wait:` how long to wait for brokers and databases at start; zero fails at once.
    pub startup_wait: Duration,
    /// `log`
    pub log: LogSettings,
    /// `reload`
    pub reload: ReloadSettings,
}

/// `reload:`
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ReloadSettings {
    /// `watch:` a file that has changed is taken over by itself.
    pub watch: bool,
    /// `settle:` how long a generation that went live is held against the one before.
    pub settle: Duration,
    /// `history_dir:` the generations and their artifacts.
    pub history_dir: PathBuf,
}

/// `log:`
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LogSettings {
    /// `format: json`
    pub json: bool,
    /// `level`, in the words of `RUST_LOG`.
    pub level: String,
}

/// `kafka:`
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KafkaConnection {
    /// `brokers`, comma-separated.
    pub brokers: String,
    /// `properties`: anything else of librdkafka's connection settings (TLS, SASL).
    pub properties: BTreeMap<String, Secret>,
}

/// `cassandra:`
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CassandraConnection {
    /// `contact_points`: host or host:port.
    pub contact_points: Vec<String>,
    /// `local_datacenter`
    pub local_datacenter: Option<String>,
    /// `username`
    pub username: Option<String>,
    /// `password`
    pub password: Option<Secret>,
    /// `tls`
    pub tls: Option<Tls>,
    /// `consistency`
    pub consistency: Consistency,
}

/// `tls:` of a Cassandra connection.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Tls {
    /// `ca`: certificates to trust, PEM; the system's where absent.
    pub ca: Option<PathBuf>,
    /// `certificate`: our own, PEM.
    pub certificate: Option<PathBuf>,
    /// `key`: its key, PEM.
    pub key: Option<PathBuf>,
    /// `verify_hostname`
    pub verify_hostname: bool,
}

/// Consistency of writes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Consistency {
    /// ONE
    One,
    /// LOCAL_ONE
    LocalOne,
    /// QUORUM
    Quorum,
    /// LOCAL_QUORUM
    LocalQuorum,
    /// EACH_QUORUM
    EachQuorum,
    /// ALL
    All,
}

/// Text that never shows.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(String);

impl Secret {
    /// Wraps.
    #[must_use]
    pub fn new(text: impl Into<String>) -> Self {
        Self(text.into())
    }

    /// For the one client that needs it.
    #[must_use]
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("<secret>")
    }
}

/// One pipeline: `pipelines/NAME.yaml`.
#[derive(Debug, Clone, PartialEq)]
pub struct Pipeline {
    /// The file's stem.
    pub name: String,
    /// The file, relative to the project directory.
    pub file: PathBuf,
    /// `source:`
    pub source: SourceSettings,
    /// `source: keyed_by`: what decides a record's key, and so its partition.
    pub keyed_by: KeyedBy,
    /// `steps:`
    pub steps: Vec<Step>,
    /// `outputs:` by name; `default` is the unnamed one.
    pub outputs: BTreeMap<String, Output>,
    /// `dead_letters:`
    pub dead_letters: DeadLetterSettings,
    /// `journal:`
    pub journal: JournalSettings,
    /// `batch:`
    pub batch: BatchLimits,
    /// `errors:`
    pub errors: ErrorSettings,
    /// Digest of everything that decides what is written: steps, their configuration, outputs.
    pub digest: crate::record::Digest,
}

/// `source:`
#[derive(Debug, Clone, PartialEq)]
pub struct SourceSettings {
    /// `kafka: topics`
    pub topics: Vec<String>,
    /// `kafka: group`; the pipeline's name by default.
    pub group: String,
    /// `kafka: start`: where to begin without a committed offset.
    pub start: Start,
    /// `kafka: on_lost`: what to do where unread records are gone.
    pub on_lost: OnLost,
    /// `format`
    pub format: Format,
}

impl SourceSettings {
    /// All that is in topics, as bytes.
    #[must_use]
    pub fn from_beginning(topics: &[&str], group: &str) -> Self {
        Self {
            topics: topics.iter().map(|topic| (*topic).to_owned()).collect(),
            group: group.to_owned(),
            start: Start::Earliest,
            on_lost: OnLost::Stop,
            format: Format::Bytes,
        }
    }
}

/// What decides the key of a source's records: for the check alone, which warns where a row's updates may lose their
/// order.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum KeyedBy {
    /// Nobody has said it.
    #[default]
    Unknown,
    /// These fields of the value, as paths.
    Fields(Vec<Vec<String>>),
    /// `anything`: it does not matter.
    Anything,
}

/// Where to begin without a committed offset.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Start {
    /// `earliest`
    Earliest,
    /// `latest`
    Latest,
    /// `committed`: refuse where there is no committed offset.
    Committed,
    /// A time, milliseconds since the Unix epoch.
    Timestamp(i64),
}

/// Where unread records are gone.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OnLost {
    /// Stop the pipeline.
    Stop,
    /// Name and count them, and go on.
    Continue,
}

/// How values are encoded.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    /// JSON objects.
    Json,
    /// Anything; no typed fields.
    Bytes,
}

/// One step.
#[derive(Debug, Clone, PartialEq)]
pub struct Step {
    /// The plugin's name as the file gives it.
    pub plugin: String,
    /// The artifact.
    pub artifact: PathBuf,
    /// `config:`
    pub config: serde_json::Value,
    /// `grants:`
    pub grants: Grants,
    /// `limits:`
    pub limits: Limits,
}

/// What an instance of a plugin may use.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// `memory`, bytes.
    pub memory_bytes: usize,
    /// `cpu_per_batch`, thread CPU time.
    pub cpu_per_batch: Duration,
    /// `cpu_per_record`, thread CPU time: a batch of few records may take so much for each, 50 ms for
    /// each MiB, and 50 ms for itself.
    pub cpu_per_record: Duration,
    /// `wall_per_batch`: the generous deadline that never dead-letters.
    pub wall_per_batch: Duration,
    /// `output`, bytes a batch.
    pub output_bytes: usize,
    /// `log_lines` a batch.
    pub log_lines: usize,
    /// `trusted: true`: no interruption.
    pub trusted: bool,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            memory_bytes: 64 << 20,
            cpu_per_batch: Duration::from_millis(500),
            cpu_per_record: Duration::from_millis(10),
            wall_per_batch: Duration::from_secs(30),
            output_bytes: 32 << 20,
            log_lines: 100,
            trusted: false,
        }
    }
}

/// `plugin.yaml`: what a plugin needs, where the pipeline does not say otherwise.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Manifest {
    /// `grants:`
    pub grants: Grants,
    /// `limits:`
    pub limits: LimitKeys,
}

/// `outputs:`
#[derive(Debug, Clone, PartialEq)]
pub enum Output {
    /// `kafka:`
    Kafka(KafkaOutput),
    /// `cassandra:`
    Cassandra(TableOutput),
    /// `sqlite:`
    Sqlite(TableOutput),
    /// `discard: true`
    Discard,
}

/// A topic to write to.
#[derive(Debug, Clone, PartialEq)]
pub struct KafkaOutput {
    /// `topic`
    pub topic: String,
    /// `partitioner`; `murmur2_random` by default.
    pub partitioner: String,
    /// `properties`: producer settings of librdkafka (compression, linger).
    pub properties: BTreeMap<String, Secret>,
}

/// A table to write to.
#[derive(Debug, Clone, PartialEq)]
pub struct TableOutput {
    /// `table`: `keyspace.table`, or `table` in the embedded tables.
    pub table: String,
    /// `columns`: column to path, for what differs from the column's own name.
    pub columns: BTreeMap<String, Vec<String>>,
    /// `ignore`: what plugins set and the table is not to have. For the check alone, which warns of what is dropped.
    pub ignore: Ignored,
    /// `ttl`, counted from the record's time.
    pub ttl: Option<Duration>,
    /// `tombstones: delete`: a record with a null value deletes the row that its key names.
    pub tombstones: Tombstones,
    /// `timestamp_floor`, microseconds: no write time lies below it.
    pub timestamp_floor: Option<i64>,
    /// `consistency`, where it differs from the connection's.
    pub consistency: Option<Consistency>,
    /// `create`: the embedded tables are made where they are absent. Column to type, then the key columns.
    pub create: Option<CreateTable>,
}

/// Fields that plugins set, and that a table has no column for on purpose.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Ignored {
    /// These, as paths.
    Fields(Vec<Vec<String>>),
    /// `others`: all that no column takes.
    Others,
}

impl Default for Ignored {
    fn default() -> Self {
        Self::Fields(Vec::new())
    }
}

/// A table to make where it is absent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CreateTable {
    /// Column and type, in order.
    pub columns: Vec<(String, String)>,
    /// The primary key.
    pub key: Vec<String>,
}

/// What a record with a null value means to a table.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Tombstones {
    /// It goes to the dead letters.
    Reject,
    /// It is passed over, and counted.
    Skip,
    /// It deletes the row; the record's key, as text, JSON string or JSON object, gives these columns.
    Delete {
        /// Key columns, in order.
        key: Vec<String>,
    },
}

/// `dead_letters:`
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum DeadLetterSettings {
    /// `kafka: topic`
    Kafka {
        /// The topic.
        topic: String,
    },
    /// `file:` JSON lines, fsynced.
    File {
        /// The file.
        path: PathBuf,
    },
}

/// `journal:`: where what write times rest on is kept, for replays.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum JournalSettings {
    /// `off`, and the default where no output is a table.
    Off,
    /// `kafka: topic`; the group's name with `.pelton-journal` by default. Made where it is absent.
    Kafka {
        /// The topic.
        topic: String,
    },
}

/// `errors:`
#[derive(Debug, Clone, PartialEq)]
pub struct ErrorSettings {
    /// `poison`
    pub poison: Poison,
    /// `retry_attempts`: tries of a record that its plugin wants to retry.
    pub retry_attempts: u32,
    /// `breaker`
    pub breaker: Option<Breaker>,
}

/// What to do with a record that cannot be handled.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Poison {
    /// To the dead letters.
    DeadLetter,
    /// Count and pass over.
    Skip,
    /// Stop the pipeline before it.
    Stop,
}

/// When to pause a pipeline.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Breaker {
    /// `percent` of records that failed ...
    pub percent: f64,
    /// ... of at least `records` ...
    pub records: u64,
    /// ... within this time.
    pub within: Duration,
}
