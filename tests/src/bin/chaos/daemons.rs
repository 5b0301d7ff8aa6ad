//! The daemons under test: real programs, each with a project directory and a small disk of its own, all with the same
//! pipeline.
//!
//! In: where the proxies are. Out: processes that can be killed, frozen, told to end and started again. Asks a daemon
//! nothing but whether it is ready.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::ExitStatus;
use std::time::Duration;

use pelton_tests::process::{Process, program, repository};

use super::disk::Disk;
use super::records::Column;
use super::{ALERTS, Failure, LETTERS, ORDERS, TABLE, TTL_S, until};

/// How long a daemon may take to end after SIGTERM: its drain, and a machine that is busy.
const END: Duration = Duration::from_secs(60);
/// After this long without a heartbeat the group goes on without a member.
pub(super) const SESSION: Duration = Duration::from_secs(6);
/// The drain, seconds.
const DRAIN_S: u64 = 10;

/// A daemon's place: it may run there, or not.
pub(super) struct Slot {
    /// From 0.
    pub(super) number: usize,
    project: PathBuf,
    disk: Disk,
    process: Option<Process>,
    starts: usize,
}

impl Slot {
    /// A place with everything but the daemon.
    pub(super) fn new(dir: &Path, number: usize, brokers: &str, cassandra: &str, mount: bool) -> Result<Self, Failure> {
        let project = dir.join(format!("daemon-{number}"));
        std::fs::create_dir_all(project.join("pipelines"))?;
        std::fs::create_dir_all(project.join("guests"))?;
        let disk = Disk::new(&project.join("disk"), mount)?;
        std::fs::write(project.join("guests/stumbles.wasm"), pelton_tests::guests::component("stumbles"))?;
        std::fs::write(project.join("pelton.yaml"), settings(&project, disk.root(), brokers, cassandra))?;
        std::fs::write(project.join("pipelines/orders.yaml"), pipeline())?;
        Ok(Self { number, project, disk, process: None, starts: 0 })
    }

    /// Starts the daemon, where it does not run.
    pub(super) fn start(&mut self) {
        if self.process.is_none() {
            self.starts += 1;
            let mut command = self.disk.command(&program("pelton"), &self.project);
            let log = self.project.join(format!("log-{}", self.starts));
            self.process = Some(Process::start(&mut command, &log));
        }
    }

    /// Whether a daemon runs here.
    pub(super) fn runs(&self) -> bool {
        self.process.is_some()
    }

    fn id(&self) -> Option<u32> {
        self.process.as_ref().map(Process::id)
    }

    /// SIGKILL.
    pub(super) fn kill(&mut self) {
        if let Some(mut process) = self.process.take() {
            process.kill();
        }
    }

    /// SIGTERM, and how it ended; none where it had to be killed in the end.
    pub(super) async fn terminate(&mut self) -> Option<ExitStatus> {
        let mut process = self.process.take()?;
        process.signal("TERM");
        until(END, || process.ended()).await
    }

    /// SIGSTOP, SIGCONT.
    pub(super) fn signal(&self, name: &str) {
        if let Some(process) = &self.process {
            process.signal(name);
        }
    }

    /// How the daemon has ended, where it has by itself.
    pub(super) fn ended_by_itself(&mut self) -> Option<(ExitStatus, String)> {
        let status = self.process.as_mut()?.ended()?;
        let output = self.process.take().map(|process| process.output()).unwrap_or_default();
        Some((status, output.lines().last().unwrap_or_default().to_owned()))
    }

    /// Whether its log says this.
    pub(super) fn says(&self, text: &str) -> bool {
        self.process.as_ref().is_some_and(|process| process.output().contains(text))
    }

    /// Where it can be asked, once it has said so.
    pub(super) fn admin(&self) -> Option<SocketAddr> {
        self.process.as_ref()?.admin_told()
    }

    /// No room on its disk.
    pub(super) fn fill_disk(&mut self) -> Result<(), Failure> {
        let id = self.id();
        self.disk.fill(id)
    }

    /// Room again.
    pub(super) fn free_disk(&mut self) -> Result<(), Failure> {
        let id = self.id();
        self.disk.free(id)
    }

    /// Forgets compiled plugins, while the daemon does not run.
    pub(super) fn clear_cache(&self) -> Result<(), Failure> {
        let cache = self.disk.root().join("cache");
        if cache.exists() {
            std::fs::remove_dir_all(cache)?;
        }
        Ok(())
    }

    /// The file of what did not fit into the topic of dead letters.
    pub(super) fn spill(&self) -> PathBuf {
        self.disk.root().join("spill/orders.jsonl")
    }

    /// Copies what lies on its disk to one that stays.
    pub(super) fn keep_spill(&self) {
        std::fs::copy(self.spill(), self.project.join("spill.jsonl")).ok();
    }
}

fn settings(project: &Path, disk: &Path, brokers: &str, cassandra: &str) -> String {
    format!(
        "kafka:\n  brokers: {brokers}\n  properties: {{ session.timeout.ms: \"{session}\", heartbeat.interval.ms: \"1000\" }}\n\
         cassandra:\n  contact_points: [\"{cassandra}\"]\n\
         plugin_dirs: [{plugins}, {guests}]\n\
         cache_dir: {disk}/cache\nspill_dir: {disk}/spill\n\
         admin: {{ listen: 127.0.0.1:0 }}\nmemory: 256 MiB\ndrain: {DRAIN_S} s\nstartup_wait: 10 min\n",
        session = SESSION.as_millis(),
        plugins = repository().join("plugins").display(),
        guests = project.join("guests").display(),
        disk = disk.display(),
    )
}

/// The pipeline, the same for all: only then do their epochs agree.
fn pipeline() -> String {
    format!(
        "source:\n  kafka: {{ topics: [{ORDERS}], group: {ORDERS}, start: earliest }}\n  format: json\n\
         steps:\n  - plugin: stumbles\n  - plugin: shop-orders\n    \
         config: {{ vat_percent: 19, alert_above_eur: 0, eur_per_unit: {{ EUR: 1 }}, late_after_hours: 72 }}\n    \
         grants: [log, metrics, clock]\n\
         outputs:\n  default:\n    cassandra: {{ table: {TABLE}, ttl: {TTL_S} s, tombstones: {{ delete: [order_id] }} }}\n  \
         alerts:\n    kafka: {{ topic: {ALERTS} }}\n\
         dead_letters:\n  kafka: {{ topic: {LETTERS} }}\n\
         batch: {{ records: 256, bytes: 512 KiB, linger: 5 ms }}\n"
    )
}

/// The statement that makes the table.
pub(super) fn create_table() -> String {
    let columns: String = Column::ALL.iter().map(|(_, name, kind)| format!(", {name} {kind}")).collect();
    format!("CREATE TABLE {TABLE} (order_id text PRIMARY KEY{columns})")
}
