//! Moving what this process reads of a paused pipeline.
//!
//! In: places as people write them, where the partitions stand. Out: what was moved, or would be. Looks at everything
//! before it moves anything; reads the topics beside the group.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::pipeline::bounds::{self, Bound, BoundsError};
use crate::pipeline::line::Line;
use crate::pipeline::ranges::Ranges;
use crate::pipeline::seek::{self, Move, SeekError};
use crate::pipeline::shared::Shared;
use crate::pipeline::{Source, SourceError};
use crate::record::{Offset, TopicPartition};
use crate::status::{CommandError, SeekAnswer, SeekMove};

/// What a seek needs of a pipeline.
pub(super) struct Seeking {
    pub(super) line: Arc<Line>,
    pub(super) source: Arc<dyn Source>,
    pub(super) ranges: Arc<dyn Ranges>,
    /// The partitions that this process reads, and where they are committed.
    pub(super) standing: BTreeMap<TopicPartition, Option<Offset>>,
}

/// Where a task stands.
pub(super) fn stands(task: &Shared) -> (TopicPartition, Option<Offset>) {
    (task.partition().clone(), task.progress().committed)
}

impl Seeking {
    pub(super) async fn seek(self, to: &[String], dry_run: bool) -> Result<SeekAnswer, CommandError> {
        let now_ms = self.line.clock.now_ms();
        let parsed: Result<Vec<Bound>, String> = to.iter().map(|text| Bound::parse(text, now_ms)).collect();
        let bounds = parsed.map_err(CommandError::Words)?;
        let is_for_all = !bounds.iter().any(|bound| matches!(bound, Bound::Offset { .. }));
        let topics = self.line.topics.as_slice();
        let wanted = bounds::by_partition(&*self.ranges, topics, &bounds).await.map_err(|error| match error {
            BoundsError::Words(words) => CommandError::Words(words),
            BoundsError::Source(error) => failed(&error),
        })?;
        let (mut moves, mut elsewhere) = (Vec::new(), Vec::new());
        for (partition, bound) in &wanted {
            match self.standing.get(partition) {
                Some(from) => moves.push(self.plan(partition, *from, bound).await?),
                None if is_for_all => elsewhere.push(partition.to_string()),
                None => {
                    let words = format!("{partition} is not read by this process: ask the one that reads it");
                    return Err(CommandError::Words(words));
                }
            }
        }
        if moves.is_empty() {
            return Err(CommandError::Words("this process reads none of these partitions".to_owned()));
        }
        let told = moves.iter().map(told).collect();
        if !dry_run {
            let positions = moves.into_iter().map(|moved| (moved.partition, moved.position)).collect();
            self.source.seek(positions).await.map_err(|error| failed(&error))?;
        }
        Ok(SeekAnswer { pipeline: self.line.name.clone(), dry_run, moves: told, elsewhere })
    }

    async fn plan(&self, partition: &TopicPartition, from: Option<Offset>, to: &Bound) -> Result<Move, CommandError> {
        let planned = seek::plan(&self.line, &*self.ranges, partition, from, to).await;
        planned.map_err(|error| match error {
            SeekError::Outside { .. } => CommandError::Words(error.to_string()),
            SeekError::Source(error) => failed(&error),
            SeekError::Journal(error) => CommandError::Failed(error.to_string()),
        })
    }
}

fn failed(error: &SourceError) -> CommandError {
    CommandError::Failed(error.to_string())
}

fn told(moved: &Move) -> SeekMove {
    SeekMove {
        topic: moved.partition.topic.to_string(),
        partition: moved.partition.partition,
        from: moved.from.map(|offset| offset.0),
        to: moved.position.next.0,
        exact: moved.is_exact,
    }
}
