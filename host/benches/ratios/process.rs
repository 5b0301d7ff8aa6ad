//! The two sides as processes: a Pelton daemon with a project of its own, or a native program; and what the system says
//! about them.

use std::fs;
use std::io::{BufRead as _, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use crate::measure::monotonic_ns;
use crate::topics::brokers;

/// How long a run may take.
const PATIENCE: Duration = Duration::from_secs(600);
/// How often progress is looked at.
const LOOK_EVERY: Duration = Duration::from_millis(20);

/// One side, running. Ended when dropped.
pub(crate) struct Side {
    child: Child,
    progress: Progress,
    project: Option<tempfile::TempDir>,
}

enum Progress {
    /// A daemon's metrics.
    Metrics { address: String },
    /// Lines of a native program.
    Lines(Arc<AtomicU64>),
}

/// What a run took, between the first output and the last.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Run {
    pub(crate) per_second: f64,
    pub(crate) per_cpu_second: f64,
    pub(crate) peak_bytes: f64,
}

impl Run {
    /// CPU nanoseconds a record.
    pub(crate) fn cpu_ns(&self) -> f64 {
        1e9 / self.per_cpu_second
    }
}

/// Files of a project: name and text.
pub(crate) type Files<'f> = [(String, String)];

impl Side {
    /// A daemon on these pipelines.
    pub(crate) fn daemon(plugins: &[PathBuf], cache: &Path, pipelines: &Files<'_>) -> Self {
        let project = tempfile::tempdir().expect("a directory");
        // Free when it was asked for: nobody else takes it within a moment.
        let port = std::net::TcpListener::bind("127.0.0.1:0").expect("a port").local_addr().expect("bound").port();
        let address = format!("127.0.0.1:{port}");
        let plugins: Vec<String> = plugins.iter().map(|dir| dir.display().to_string()).collect();
        let settings = format!(
            "kafka: {{ brokers: \"{}\" }}\nplugin_dirs: [{}]\nadmin: {{ listen: \"{address}\" }}\ncache_dir: {}\n\
             log: {{ level: warn }}\n",
            brokers(),
            plugins.join(", "),
            cache.display(),
        );
        fs::create_dir(project.path().join("pipelines")).expect("a directory");
        fs::write(project.path().join("pelton.yaml"), settings).expect("a file");
        for (name, text) in pipelines {
            fs::write(project.path().join(format!("pipelines/{name}.yaml")), text).expect("a file");
        }
        let log = fs::File::create(project.path().join("log")).expect("a file");
        let child = Command::new(env!("CARGO_BIN_EXE_pelton"))
            .arg("run")
            .arg(project.path())
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()
            .expect("the daemon starts");
        Self { child, progress: Progress::Metrics { address }, project: Some(project) }
    }

    /// A native program.
    pub(crate) fn native(program: &str, args: &[&str]) -> Self {
        let mut child = Command::new(std::env::current_exe().expect("this program's path"))
            .arg("native")
            .arg(program)
            .args(args)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()
            .expect("the program starts");
        let lines = BufReader::new(child.stdout.take().expect("it was piped"));
        let count = Arc::<AtomicU64>::default();
        let told = Arc::clone(&count);
        std::thread::spawn(move || {
            for number in lines.lines().map_while(Result::ok).filter_map(|line| line.parse().ok()) {
                told.store(number, Ordering::Relaxed);
            }
        });
        Self { child, progress: Progress::Lines(count), project: None }
    }

    /// Outputs that are durable.
    pub(crate) fn done(&self) -> u64 {
        match &self.progress {
            Progress::Lines(count) => count.load(Ordering::Relaxed),
            Progress::Metrics { address } => {
                let answer = ureq::get(format!("http://{address}/metrics")).call();
                let Ok(text) = answer.and_then(|mut answer| answer.body_mut().read_to_string()) else { return 0 };
                text.lines()
                    .filter(|line| line.starts_with("pelton_rows_total"))
                    .filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok())
                    .sum::<f64>() as u64
            }
        }
    }

    /// Waits for `expected` outputs, and says what it took from the first to the last.
    pub(crate) fn run(mut self, expected: u64) -> Run {
        let began = monotonic_ns();
        let mut first = None;
        loop {
            let (now, cpu, done) = (monotonic_ns(), self.cpu_ns(), self.done());
            if done > 0 && first.is_none() {
                first = Some((now, cpu, done));
            }
            if done >= expected {
                let (first_now, first_cpu, first_done) = first.expect("the first was seen");
                // Where the last came with the first, all of it counts.
                let (records, took, cpu) = if first_done >= expected {
                    (expected, now - began, cpu)
                } else {
                    (done - first_done, now - first_now, cpu - first_cpu)
                };
                return Run {
                    per_second: records as f64 * 1e9 / took as f64,
                    per_cpu_second: records as f64 * 1e9 / cpu as f64,
                    peak_bytes: self.status_bytes("VmHWM"),
                };
            }
            if let Some(status) = self.child.try_wait().expect("a look") {
                panic!("it ended by itself: {status}\n{}", self.log());
            }
            assert!(now - began < PATIENCE.as_nanos() as u64, "{done} of {expected}, and no end\n{}", self.log());
            std::thread::sleep(LOOK_EVERY);
        }
    }

    /// CPU time of all its threads that live.
    pub(crate) fn cpu_ns(&self) -> u64 {
        let threads = fs::read_dir(format!("/proc/{}/task", self.child.id())).expect("the process lives");
        threads
            .flatten()
            .filter_map(|thread| fs::read_to_string(thread.path().join("schedstat")).ok())
            .filter_map(|text| text.split(' ').next()?.parse::<u64>().ok())
            .sum()
    }

    /// A line of `/proc/PID/status`, in bytes.
    pub(crate) fn status_bytes(&self, name: &str) -> f64 {
        let text = fs::read_to_string(format!("/proc/{}/status", self.child.id())).unwrap_or_default();
        let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
        let kib = line.and_then(|rest| rest.split_whitespace().next()?.parse::<f64>().ok());
        kib.unwrap_or(f64::NAN) * 1024.0
    }

    fn log(&self) -> String {
        let Some(project) = &self.project else { return String::new() };
        fs::read_to_string(project.path().join("log")).unwrap_or_default()
    }
}

impl Drop for Side {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A pipeline of one topic through these plugins to one output.
pub(crate) fn pipeline(from: &str, format: &str, plugins: &[&str], output: &str, more: &str) -> String {
    let group = uuid::Uuid::new_v4().simple();
    let steps: Vec<String> = plugins.iter().map(|plugin| format!("{{ plugin: {plugin} }}")).collect();
    format!(
        "source:\n  kafka: {{ topics: [{from}], group: bench_{group} }}\n  format: {format}\nsteps: [{}]\noutputs:\n  \
         default: {output}\n{more}",
        steps.join(", ")
    )
}
