//! What the supervisor tells of its pipelines, and how it notices a task that hangs.
//!
//! In: the pipelines as they stand. Out: a snapshot for the status, gauges, and the failure of a task that has not moved
//! for too long.

use std::collections::HashMap;

use tokio::time::Instant;

use super::drain::Running;
use super::{Pipeline, Retry, STALLED_AFTER, State, Supervisor};
use crate::pipeline::line::Line;
use crate::record::TopicPartition;
use crate::status::{BlockedOutput, HeldRecord, PartitionStatus, Phase, PipelineState, PipelineStatus, StatusBoard};
use crate::telemetry::Metric;

impl Supervisor {
    /// The broker's client is content as long as anybody polls it, so a task that hangs is noticed only here.
    pub(super) fn watch(&mut self) {
        for at in 0..self.pipelines.len() {
            let pipeline = &self.pipelines[at];
            if pipeline.line.gate.paused().is_some() || !blocked(&pipeline.line).is_empty() {
                pipeline.tasks.values().for_each(|task| task.shared.note_moved());
                continue;
            }
            let stalled = pipeline.tasks.values().find(|task| {
                let progress = task.shared.progress();
                progress.in_flight > 0 && progress.still_for > STALLED_AFTER
            });
            if let Some(task) = stalled {
                let cause = format!("{}: nothing has moved for {} s", task.shared.partition(), STALLED_AFTER.as_secs());
                self.fail(at, cause, Retry::Yes);
            }
        }
    }

    pub(super) fn publish(&self, phase: Phase) {
        let pipelines = self.pipelines.iter().map(|pipeline| snapshot(pipeline, &self.board));
        self.board.publish(phase, pipelines.collect());
    }
}

pub(super) fn blocked(line: &Line) -> Vec<BlockedOutput> {
    let outputs = line
        .outputs
        .iter()
        .filter_map(|output| output.sink.blocked().map(|cause| BlockedOutput { output: output.name.clone(), cause }));
    let letters = line.dead_letters.blocked().map(|cause| BlockedOutput { output: "dead letters".to_owned(), cause });
    let journal = line.journal.as_ref().and_then(|journal| journal.blocked());
    let journal = journal.map(|cause| BlockedOutput { output: "journal".to_owned(), cause });
    outputs.chain(letters).chain(journal).collect()
}

impl Pipeline {
    /// What people are told that it does, and why it does not run.
    pub(super) fn state_and_cause(&self) -> (PipelineState, Option<String>) {
        match (&self.state, self.line.gate.paused()) {
            (
                State::Closing { cause, retry: Retry::Yes } | State::Stopped { cause, retry: Retry::Yes, .. },
                Some(pause),
            ) => {
                let cause = format!("{}; it had failed ({cause}), and is opened again by itself", pause.cause);
                (PipelineState::Paused, Some(cause))
            }
            (State::Stopped { cause, retry: Retry::Yes, .. }, None) => (PipelineState::Starting, Some(cause.clone())),
            (State::Closing { cause, .. } | State::Stopped { cause, .. }, _) => {
                (PipelineState::Stopped, Some(cause.clone()))
            }
            (_, Some(pause)) => (PipelineState::Paused, Some(pause.cause)),
            (State::Starting, None) => (PipelineState::Starting, None),
            (State::Joining, None) => {
                (PipelineState::Starting, Some(format!("waiting for {}", self.source.waits_for())))
            }
            (State::Running, None) => (PipelineState::Running, None),
        }
    }
}

/// A pipeline as plain data, and its gauges.
fn snapshot(pipeline: &Pipeline, board: &StatusBoard) -> PipelineStatus {
    let line = &pipeline.line;
    let mut status = PipelineStatus::starting(&line.name);
    (status.state, status.cause) = pipeline.state_and_cause();
    if matches!(status.state, PipelineState::Paused | PipelineState::Stopped) {
        status.resume_command = Some(board.command("resume", &line.name));
    }
    let ends: HashMap<TopicPartition, i64> =
        pipeline.source.ends().into_iter().map(|(partition, end)| (partition, end.0)).collect();
    status.partitions = pipeline.tasks.values().map(|task| partition_status(task, &ends)).collect();
    status.partitions.sort_by(|a, b| (&a.topic, a.partition).cmp(&(&b.topic, b.partition)));
    status.blocked = blocked(line);
    status.source_blocked = pipeline.source.blocked();
    let totals = line.meters.totals();
    status.records_total = totals.records;
    status.rows_total = totals.rows;
    status.dead_letters_total = totals.dead_letters;
    status.filtered_total = totals.filtered;
    status.skipped_total = totals.skipped;
    status.expired_total = totals.expired;
    status.retries_total = totals.retries;
    gauges(line, &status);
    status
}

fn partition_status(task: &Running, ends: &HashMap<TopicPartition, i64>) -> PartitionStatus {
    let partition = task.shared.partition();
    let progress = task.shared.progress();
    let (committed, end) = (progress.committed.map(|offset| offset.0), ends.get(partition).copied());
    let lag = committed.zip(end).map(|(committed, end)| (end - committed).max(0).cast_unsigned());
    PartitionStatus {
        topic: partition.topic.to_string(),
        partition: partition.partition,
        committed,
        end,
        lag,
        in_flight: progress.in_flight as u64,
        held: progress.waiting.map(|waiting| HeldRecord {
            offset: waiting.offset.0,
            again_in_ms: waiting.until.saturating_duration_since(Instant::now()).as_millis() as u64,
            cause: waiting.cause,
        }),
    }
}

fn gauges(line: &Line, status: &PipelineStatus) {
    let telemetry = line.meters.telemetry();
    let pipeline = ("pipeline", line.name.as_str());
    let mut in_flight = 0;
    for partition in &status.partitions {
        let number = partition.partition.to_string();
        let labels = [pipeline, ("topic", &partition.topic), ("partition", &number)];
        if let Some(committed) = partition.committed {
            telemetry.gauge(Metric::Committed, &labels, committed as f64);
        }
        if let Some(lag) = partition.lag {
            telemetry.gauge(Metric::Lag, &labels, lag as f64);
        }
        in_flight += partition.in_flight;
    }
    telemetry.gauge(Metric::InFlight, &[pipeline], in_flight as f64);
    telemetry.gauge(Metric::Paused, &[pipeline], f64::from(status.state == PipelineState::Paused));
    telemetry.gauge(Metric::SourceBlocked, &[pipeline], f64::from(status.source_blocked.is_some()));
    for output in &line.outputs {
        let is_blocked = status.blocked.iter().any(|blocked| blocked.output == output.name);
        telemetry.gauge(Metric::SinkBlocked, &[pipeline, ("output", &output.name)], f64::from(is_blocked));
    }
}
