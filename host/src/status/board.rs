//! Where the newest snapshot stands.
//!
//! In: snapshots of pipelines, several times a second, and what becomes of their generations. Out: the same to whoever
//! looks, with rates. Waits for nobody.

use std::collections::{BTreeMap, VecDeque};
use std::path::Path;
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use tokio::time::Instant;

use super::reloads::GenerationStatus;
use super::{Phase, PipelineStatus, ProcessStatus, project_name};

/// Over how long rates are taken.
const RATE_WINDOW: Duration = Duration::from_secs(10);

/// Where the supervisor puts its snapshots and everybody else reads them. Cheap to clone.
#[derive(Debug, Clone)]
pub struct StatusBoard {
    inner: Arc<RwLock<Board>>,
    /// What leads a command of `pelton` to this process: its project's directory, or `--admin` with its address.
    reached_by: Option<Arc<str>>,
}

/// Records and rows by pipeline.
type Totals = BTreeMap<String, (u64, u64)>;

#[derive(Debug)]
struct Board {
    current: Arc<ProcessStatus>,
    /// The live generation by pipeline, and why the last reload did not stay.
    generations: BTreeMap<String, (GenerationStatus, Option<String>)>,
    /// Earlier totals by pipeline (records, rows), oldest first; the first is at most a little older than the window.
    history: VecDeque<(Instant, Totals)>,
}

impl StatusBoard {
    /// A board that says that the process is starting.
    #[must_use]
    pub fn new(started_ms: i64) -> Self {
        let current = ProcessStatus {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            pid: std::process::id(),
            project: None,
            started_ms,
            phase: Phase::Starting,
            pipelines: Vec::new(),
        };
        let board = Board { current: Arc::new(current), generations: BTreeMap::new(), history: VecDeque::new() };
        Self { inner: Arc::new(RwLock::new(board)), reached_by: None }
    }

    /// The same, of a process that runs this project.
    #[must_use]
    pub fn of_project(self, dir: &Path) -> Self {
        {
            let mut board = self.inner.write().unwrap_or_else(PoisonError::into_inner);
            board.current = Arc::new(ProcessStatus { project: Some(project_name(dir)), ..(*board.current).clone() });
        }
        self
    }

    /// The same, for commands that people are told: `arguments` lead them to this process, from wherever they are typed.
    #[must_use]
    pub fn reached_by(self, arguments: &str) -> Self {
        Self { reached_by: Some(arguments.into()), ..self }
    }

    /// A command about a pipeline as it can be typed: `pelton resume orders /srv/shop`.
    #[must_use]
    pub fn command(&self, verb: &str, pipeline: &str) -> String {
        let arguments = self.reached_by.iter().map(|arguments| format!(" {arguments}"));
        format!("pelton {verb} {pipeline}{}", arguments.collect::<String>())
    }

    /// Puts up a new snapshot. Rates are filled in here.
    pub fn publish(&self, phase: Phase, pipelines: Vec<PipelineStatus>) {
        self.publish_at(Instant::now(), phase, pipelines);
    }

    fn publish_at(&self, now: Instant, phase: Phase, mut pipelines: Vec<PipelineStatus>) {
        pipelines.sort_by(|a, b| a.name.cmp(&b.name));
        let mut board = self.inner.write().unwrap_or_else(PoisonError::into_inner);
        while board.history.get(1).is_some_and(|(at, _)| now.duration_since(*at) >= RATE_WINDOW) {
            board.history.pop_front();
        }
        if let Some((at, totals)) = board.history.front() {
            let seconds = now.duration_since(*at).as_secs_f64();
            for pipeline in &mut pipelines {
                if let Some((records, rows)) = totals.get(&pipeline.name)
                    && seconds > 0.0
                {
                    let (now_records, now_rows) = totals_of(pipeline);
                    pipeline.records_per_second = now_records.saturating_sub(*records) as f64 / seconds;
                    pipeline.rows_per_second = now_rows.saturating_sub(*rows) as f64 / seconds;
                }
            }
        }
        for pipeline in &mut pipelines {
            if let Some((generation, refused)) = board.generations.get(&pipeline.name) {
                pipeline.generation = Some(generation.clone());
                pipeline.refused.clone_from(refused);
            }
        }
        let totals = pipelines.iter().map(|pipeline| (pipeline.name.clone(), totals_of(pipeline))).collect();
        board.history.push_back((now, totals));
        let current = ProcessStatus { phase, pipelines, ..(*board.current).clone() };
        board.current = Arc::new(current);
    }

    /// This generation of a pipeline is live from now on, or has become this.
    pub fn note_generation(&self, pipeline: &str, generation: GenerationStatus) {
        let mut board = self.inner.write().unwrap_or_else(PoisonError::into_inner);
        let refused = board.generations.remove(pipeline).and_then(|(last, refused)| {
            // What has gone live since is another word.
            refused.filter(|_| last.number >= generation.number)
        });
        // Whoever looks before the next snapshot sees it too.
        let mut current = (*board.current).clone();
        if let Some(status) = current.pipelines.iter_mut().find(|status| status.name == pipeline) {
            (status.generation, status.refused) = (Some(generation.clone()), refused.clone());
        }
        board.current = Arc::new(current);
        board.generations.insert(pipeline.to_owned(), (generation, refused));
    }

    /// What a pipeline's files hold is what runs: an older reload's word is past.
    pub fn forget_refused(&self, pipeline: &str) {
        let mut board = self.inner.write().unwrap_or_else(PoisonError::into_inner);
        if let Some((_, refused)) = board.generations.get_mut(pipeline) {
            *refused = None;
        }
    }

    /// The last reload of a pipeline did not stay.
    pub fn note_refused(&self, pipeline: &str, why: &str) {
        let mut board = self.inner.write().unwrap_or_else(PoisonError::into_inner);
        if let Some((_, refused)) = board.generations.get_mut(pipeline) {
            *refused = Some(why.to_owned());
        }
    }

    /// The newest snapshot.
    #[must_use]
    pub fn read(&self) -> Arc<ProcessStatus> {
        Arc::clone(&self.inner.read().unwrap_or_else(PoisonError::into_inner).current)
    }
}

fn totals_of(pipeline: &PipelineStatus) -> (u64, u64) {
    (pipeline.records_total, pipeline.rows_total.values().sum())
}

#[cfg(test)]
mod tests {
    use super::super::PipelineState;
    use super::*;

    fn pipeline(name: &str, records: u64) -> PipelineStatus {
        PipelineStatus { state: PipelineState::Running, records_total: records, ..PipelineStatus::starting(name) }
    }

    #[test]
    fn rates_are_taken_over_the_window() {
        let board = StatusBoard::new(0);
        let start = Instant::now();
        let rate_at = |tick: u32, total: u64| {
            board.publish_at(start + Duration::from_millis(500) * tick, Phase::Running, vec![pipeline("a", total)]);
            board.read().pipelines[0].records_per_second
        };
        assert!(rate_at(0, 7).abs() < 0.01, "there is nothing to compare with yet");
        for tick in 1..60 {
            let rate = rate_at(tick, 7 + u64::from(tick) * 50);
            assert!((rate - 100.0).abs() < 0.01, "{rate} at tick {tick}");
        }
        for tick in 60..90 {
            rate_at(tick, 5000);
        }
        let rate = rate_at(90, 5000);
        assert!(rate.abs() < 0.01, "nothing came for longer than the window: {rate}");
    }

    #[test]
    fn a_command_can_be_pasted_as_it_is() {
        let board = StatusBoard::new(0);
        assert_eq!(board.command("resume", "orders"), "pelton resume orders");
        assert_eq!(
            board.reached_by("'/srv/my shop'").command("resume", "orders"),
            "pelton resume orders '/srv/my shop'"
        );
    }
}
