//! The pipelines of a demo while it runs: its own, whose outcome is known, and those that a newcomer put beside it.
//!
//! In: the daemon's status. Out: how far the slowest is, what is being waited for, and at the end what each of the others
//! did. A failure of the demo's own pipeline ends the demo; one of another is told of, and nothing waits for it.

use std::collections::{BTreeMap, BTreeSet};

use serde::Serialize;

use super::DemoError;
use super::project::Known;
use crate::config::{DeadLetterSettings, Output, Project};
use crate::status::{PartitionStatus, PipelineState, PipelineStatus, StatusBoard};

/// What a pipeline beside the demo's own did. Counted, not compared with anything.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Other {
    /// Its name.
    pub name: String,
    /// What it was doing at the end.
    pub state: PipelineState,
    /// Why it does not run, where it does not.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cause: Option<String>,
    /// What holds it up: a record that is tried again, or an output to which nothing gets through.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub held_by: Option<String>,
    /// Records read.
    pub records: u64,
    /// The demo's events that it has not handled, where it reads them.
    pub events_behind: u64,
    /// Rows made durable, by output.
    pub rows: BTreeMap<String, u64>,
    /// Records that its plugins let go.
    pub filtered: u64,
    /// Dead letters, by code.
    pub dead_letters: BTreeMap<String, u64>,
    /// Where they are: a file or a topic.
    pub dead_letters_in: String,
    /// The embedded tables that it writes.
    pub tables: BTreeSet<String>,
}

impl Other {
    /// It does not do what it is there for: it stands still, or has not handled everything.
    #[must_use]
    pub fn has_failed(&self) -> bool {
        matches!(self.state, PipelineState::Paused | PipelineState::Stopped) || self.events_behind > 0
    }
}

/// What of a pipeline's configuration its account names.
#[derive(Debug, Clone, Default)]
struct Stores {
    dead_letters_in: String,
    tables: BTreeSet<String>,
}

/// The pipelines of a demo.
#[derive(Debug)]
pub(super) struct Pipelines {
    own: String,
    topic: String,
    /// Those that read the demo's events.
    readers: BTreeSet<String>,
    stores: BTreeMap<String, Stores>,
    board: StatusBoard,
}

impl Pipelines {
    pub(super) fn new(project: &Project, known: &Known, board: StatusBoard) -> Self {
        let readers = project.pipelines.iter().filter(|pipeline| pipeline.source.topics.contains(&known.topic));
        let stores = project.pipelines.iter().map(|pipeline| {
            let dead_letters_in = match &pipeline.dead_letters {
                DeadLetterSettings::Kafka { topic } => format!("topic {topic}"),
                DeadLetterSettings::File { path } => path.strip_prefix(".").unwrap_or(path).display().to_string(),
            };
            let tables = pipeline.outputs.values().filter_map(|output| match output {
                Output::Sqlite(table) => Some(table.table.clone()),
                _ => None,
            });
            (pipeline.name.clone(), Stores { dead_letters_in, tables: tables.collect() })
        });
        Self {
            own: known.pipeline.clone(),
            topic: known.topic.clone(),
            readers: readers.map(|pipeline| pipeline.name.clone()).collect(),
            stores: stores.collect(),
            board,
        }
    }

    /// Events that are durable or decided, by the pipeline that is furthest behind.
    pub(super) fn handled(&self, produced: u64) -> u64 {
        self.slowest().map_or(0, |(_, handled)| handled).min(produced)
    }

    /// How far the pipeline that is furthest behind has come, by partition: everything below is durable or decided.
    pub(super) fn positions(&self) -> BTreeMap<i32, i64> {
        let slowest = self.slowest().map(|(name, _)| name);
        let status = self.board.read();
        let pipeline = status.pipelines.iter().find(|pipeline| Some(&pipeline.name) == slowest.as_ref());
        let partitions = pipeline.into_iter().flat_map(|pipeline| &pipeline.partitions);
        let partitions = partitions.filter(|partition| partition.topic == self.topic);
        partitions.map(|partition| (partition.partition, partition.committed.unwrap_or(0))).collect()
    }

    /// Events that the demo's own pipeline has handled.
    pub(super) fn own_handled(&self) -> u64 {
        let status = self.board.read();
        let own = status.pipelines.iter().find(|pipeline| pipeline.name == self.own);
        own.map_or(0, |own| self.sum(own, committed))
    }

    /// The pipeline that is furthest behind, and what holds it up, if anything does.
    pub(super) fn waiting_for(&self) -> String {
        let Some((name, _)) = self.slowest() else { return "the pipelines".to_owned() };
        let status = self.board.read();
        let held = status.pipelines.iter().find(|pipeline| pipeline.name == name).and_then(held_by);
        held.map_or_else(|| format!("pipeline {name}"), |held| format!("pipeline {name}: {held}"))
    }

    /// The pipeline that has fewest of the topic's partitions, and how many: none where it has not been heard of yet.
    pub(super) fn partitions(&self) -> Option<(String, u64)> {
        let counts = self.sums(|_| 1);
        let missing = self.readers.iter().find(|name| !self.board_knows(name));
        match missing {
            Some(name) => Some((name.clone(), 0)),
            None => counts.into_iter().min_by_key(|(_, count)| *count),
        }
    }

    /// Whether the demo's own pipeline can go on.
    pub(super) fn check(&self) -> Result<(), DemoError> {
        let status = self.board.read();
        let own = status.pipelines.iter().find(|pipeline| pipeline.name == self.own);
        match own {
            Some(own) if has_stopped(own) => {
                let cause = own.cause.as_deref().unwrap_or("no cause given");
                Err(DemoError::Stuck(format!("pipeline {} is {}: {cause}", own.name, own.state)))
            }
            _ => Ok(()),
        }
    }

    /// An output to which nothing gets through.
    pub(super) fn blocked(&self) -> Option<String> {
        let status = self.board.read();
        status
            .pipelines
            .iter()
            .flat_map(|pipeline| &pipeline.blocked)
            .next()
            .map(|blocked| format!("output {} is blocked: {}", blocked.output, blocked.cause))
    }

    /// What the others have done so far.
    pub(super) fn others(&self, produced: u64) -> Vec<Other> {
        let status = self.board.read();
        let others = status.pipelines.iter().filter(|pipeline| pipeline.name != self.own);
        let other = |pipeline: &PipelineStatus| {
            let stores = self.stores.get(&pipeline.name).cloned().unwrap_or_default();
            let is_reader = self.readers.contains(&pipeline.name);
            let handled = if is_reader { self.sum(pipeline, committed).min(produced) } else { produced };
            Other {
                name: pipeline.name.clone(),
                state: pipeline.state,
                cause: pipeline.cause.clone(),
                held_by: held_by(pipeline),
                records: pipeline.records_total,
                events_behind: produced - handled,
                rows: pipeline.rows_total.clone(),
                filtered: pipeline.filtered_total,
                dead_letters: pipeline.dead_letters_total.clone(),
                dead_letters_in: stores.dead_letters_in,
                tables: stores.tables,
            }
        };
        others.map(other).collect()
    }

    fn slowest(&self) -> Option<(String, u64)> {
        // A pipeline that has not been heard of yet has done nothing.
        if let Some(unheard) = self.readers.iter().find(|name| !self.board_knows(name)) {
            return Some((unheard.clone(), 0));
        }
        self.sums(committed).into_iter().min_by_key(|(_, handled)| *handled)
    }

    fn board_knows(&self, name: &str) -> bool {
        self.board.read().pipelines.iter().any(|pipeline| pipeline.name == name)
    }

    /// A sum over the topic's partitions, for each pipeline that is waited for.
    fn sums(&self, of: impl Fn(&PartitionStatus) -> u64) -> Vec<(String, u64)> {
        let status = self.board.read();
        let waited_for = status.pipelines.iter().filter(|pipeline| {
            self.readers.contains(&pipeline.name) && (pipeline.name == self.own || !has_stopped(pipeline))
        });
        waited_for.map(|pipeline| (pipeline.name.clone(), self.sum(pipeline, &of))).collect()
    }

    fn sum(&self, pipeline: &PipelineStatus, of: impl Fn(&PartitionStatus) -> u64) -> u64 {
        pipeline.partitions.iter().filter(|partition| partition.topic == self.topic).map(of).sum()
    }
}

fn committed(partition: &PartitionStatus) -> u64 {
    partition.committed.unwrap_or(0).max(0).unsigned_abs()
}

fn has_stopped(pipeline: &PipelineStatus) -> bool {
    matches!(pipeline.state, PipelineState::Stopped | PipelineState::Paused)
}

fn held_by(pipeline: &PipelineStatus) -> Option<String> {
    let blocked = pipeline.blocked.first().map(|b| format!("output {} is blocked: {}", b.output, b.cause));
    let held = || {
        let partition = pipeline.partitions.iter().find(|partition| partition.held.is_some())?;
        let held = partition.held.as_ref()?;
        let (topic, number) = (&partition.topic, partition.partition);
        Some(format!("record {topic}/{number}/{} is tried again: {}", held.offset, held.cause))
    };
    blocked.or_else(held)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::ProcessEnvironment;
    use crate::status::{HeldRecord, Phase};

    const COPY: &str = "source: { kafka: { topics: [shop.orders] }, format: json }\nsteps: []\n\
                        outputs: { default: { kafka: { topic: shop.copy } } }\n";

    /// The demo's project with a pipeline `copy` beside its own.
    fn pipelines() -> Pipelines {
        let dir = tempfile::tempdir().expect("a directory");
        super::super::project::write(dir.path()).expect("writes");
        std::fs::write(dir.path().join("pipelines/copy.yaml"), COPY).expect("writes");
        let project = crate::config::load(dir.path(), &ProcessEnvironment).expect("it has no mistakes");
        let known = super::super::project::known(&project).expect("there is a pipeline");
        Pipelines::new(&project, &known, StatusBoard::new(0))
    }

    fn pipeline(name: &str, state: PipelineState, committed: &[i64]) -> PipelineStatus {
        let partition = |(number, committed): (i32, &i64)| PartitionStatus {
            topic: "shop.orders".to_owned(),
            partition: number,
            committed: Some(*committed),
            end: None,
            lag: None,
            in_flight: 0,
            held: None,
        };
        PipelineStatus {
            state,
            partitions: (0..).zip(committed).map(partition).collect(),
            ..PipelineStatus::starting(name)
        }
    }

    #[test]
    fn the_slowest_pipeline_is_waited_for_by_name() {
        let pipelines = pipelines();
        assert_eq!((pipelines.partitions(), pipelines.handled(100)), (Some(("copy".to_owned(), 0)), 0));
        let mut slow = pipeline("copy", PipelineState::Running, &[10, 2]);
        let own = pipeline("orders", PipelineState::Running, &[50, 50, 0]);
        pipelines.board.publish(Phase::Running, vec![slow.clone(), own.clone()]);
        assert_eq!((pipelines.partitions(), pipelines.handled(100)), (Some(("copy".to_owned(), 2)), 12));
        assert_eq!((pipelines.own_handled(), pipelines.waiting_for().as_str()), (100, "pipeline copy"));
        assert_eq!(pipelines.positions(), [(0, 10), (1, 2)].into());
        slow.partitions[1].held = Some(HeldRecord { offset: 2, again_in_ms: 40, cause: "not now".to_owned() });
        pipelines.board.publish(Phase::Running, vec![slow, own]);
        assert_eq!(pipelines.waiting_for(), "pipeline copy: record shop.orders/1/2 is tried again: not now");
    }

    #[test]
    fn a_failure_beside_the_demos_own_pipeline_is_told_and_not_waited_for() {
        let pipelines = pipelines();
        let mut paused = pipeline("copy", PipelineState::Paused, &[7]);
        paused.cause = Some("most fail".to_owned());
        paused.records_total = 9;
        paused.dead_letters_total = [("bad".to_owned(), 2)].into();
        let own = pipeline("orders", PipelineState::Running, &[20]);
        pipelines.board.publish(Phase::Running, vec![paused.clone(), own.clone()]);
        pipelines.check().expect("the demo goes on");
        assert_eq!(pipelines.handled(100), 20);
        let others = pipelines.others(20);
        let [other] = others.as_slice() else { panic!("{others:?}") };
        assert!(other.has_failed());
        assert_eq!((other.name.as_str(), other.records, other.events_behind), ("copy", 9, 13));
        assert_eq!((other.cause.as_deref(), other.dead_letters["bad"]), (Some("most fail"), 2));
        assert!(other.dead_letters_in.ends_with("dead-letters/copy.jsonl"), "{}", other.dead_letters_in);

        let mut stopped = own;
        stopped.state = PipelineState::Stopped;
        pipelines.board.publish(Phase::Running, vec![paused, stopped]);
        pipelines.check().expect_err("its own pipeline has stopped");
    }
}
