//! Single records through the line again, with write times that are given: what failed once.
//!
//! In: records of one partition in offset order, each with its write time, and what is known of their earlier attempts.
//! Out: everything that the line makes of them, durable; and which of them failed again, as letters of their own with all
//! attempts counted. The records go the way of a batch, but nobody reads them from a source: there is no clock, and
//! nothing to commit. Nothing pauses it, and nothing is passed over because the pipeline would: `poison` and the breaker
//! are for records that come by themselves.

use std::collections::{BTreeMap, VecDeque};
use std::sync::atomic::{AtomicBool, AtomicU64};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use async_trait::async_trait;
use tokio::sync::mpsc;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::checkpoint::EpochPlan;
use super::compute::Panicked;
use super::journal::GoneTopic;
use super::line::{Line, Stamped};
use super::shared::{Hand, Shared, State};
use super::task::acknowledge;
use super::tracker::Tracker;
use super::transforming::Transforming;
use super::{Committer, DeadLetter, DeadLetters, Position};
use crate::config::{ErrorSettings, Poison};
use crate::record::{Batch, HeaderIter, Offset, TopicPartition, WriteTime};

/// A line that takes records once more.
pub struct Redriver {
    line: Arc<Line>,
    letters: Arc<SecondLetters>,
}

/// A record that failed again.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FailedAgain {
    /// Where.
    pub stage: String,
    /// Why: short and stable.
    pub code: String,
    /// For people.
    pub message: String,
}

impl Redriver {
    /// Of a line that nobody else uses.
    #[must_use]
    pub fn new(mut line: Line) -> Self {
        let letters = Arc::new(SecondLetters {
            inner: Arc::clone(&line.dead_letters),
            before: Mutex::default(),
            failed: Mutex::default(),
        });
        line.dead_letters = Arc::clone(&letters) as Arc<dyn DeadLetters>;
        line.errors = ErrorSettings { poison: Poison::DeadLetter, breaker: None, ..line.errors };
        line.breaker = None;
        Self { line: Arc::new(line), letters }
    }

    /// The line.
    #[must_use]
    pub fn line(&self) -> &Line {
        &self.line
    }

    /// Takes records through the line; each is durable, or a dead letter again, when it returns. Says which failed, by
    /// their ids. `records` are letters of one partition in offset order, none of them twice, with their new write times.
    ///
    /// # Errors
    /// Where Pelton itself is at fault; then nobody knows what was written, and the records are to be redriven again.
    pub async fn redrive(
        &self,
        source: &TopicPartition,
        records: &[(&DeadLetter, WriteTime)],
    ) -> Result<BTreeMap<String, FailedAgain>, Panicked> {
        let mut batch = Batch::new(source.clone());
        let mut tracker = Tracker::new(0);
        let mut before = BTreeMap::new();
        for (letter, at) in records {
            let headers = HeaderIter::new(&letter.headers);
            batch.push(letter.offset, letter.timestamp_ms, letter.key.as_deref(), letter.value.as_deref(), headers);
            tracker.read(letter.offset, at.0);
            before.insert(letter.id.clone(), (letter.attempts, letter.redrives));
        }
        *lock(&self.letters.before) = before;
        let stamped = Stamped {
            source: Arc::new(batch),
            write_times: records.iter().map(|(_, at)| *at).collect(),
            below: 0,
            assignment: 0,
            read_at: Instant::now(),
        };
        self.once(source, tracker, stamped).await?;
        Ok(std::mem::take(&mut *lock(&self.letters.failed)))
    }

    async fn once(&self, source: &TopicPartition, tracker: Tracker, stamped: Stamped) -> Result<(), Panicked> {
        let hand = Hand { from: Offset(0), generation: self.line.live.get(), epochs: EpochPlan::default() };
        let shared = Arc::new(Shared {
            line: Arc::clone(&self.line),
            partition: source.clone(),
            assignment: 0,
            begun: OnceLock::new(),
            end_at_start: Offset(0),
            hands: Mutex::new(VecDeque::from([hand])),
            partitions_total: 0,
            topic_id: None,
            committer: Arc::new(Nowhere),
            found: None,
            has_written: AtomicBool::new(false),
            stop: CancellationToken::new(),
            state: Mutex::new(State::new()),
            tracker: Mutex::new(tracker),
        });
        let (to_await, writes) = mpsc::channel(1);
        let transforming = Transforming {
            line: Arc::clone(&self.line),
            shared: Arc::clone(&shared),
            to_await,
            journaling: None,
            went_over: Mutex::default(),
            waits_behind: AtomicU64::default(),
        };
        let transform = async {
            let transforming = transforming;
            transforming.batch(Arc::new(stamped)).await
        };
        let (flow, acknowledged) = tokio::join!(transform, acknowledge(writes));
        flow?;
        debug_assert!(acknowledged.is_ok(), "waiting for writes cannot fail");
        assert_eq!(shared.progress().in_flight, 0, "what has come to its end is durable or decided");
        Ok(())
    }
}

/// There is nothing to commit.
struct Nowhere;

impl Committer for Nowhere {
    fn commit(&self, _position: Position) {}

    fn leave(&self, _metadata: String) {}

    fn is_settled(&self) -> bool {
        true
    }

    fn made_anew(&self, _gone: &GoneTopic) -> bool {
        false
    }
}

/// Letters of records that had one before.
struct SecondLetters {
    inner: Arc<dyn DeadLetters>,
    /// By id: attempts and redrives until now.
    before: Mutex<BTreeMap<String, (u32, u32)>>,
    failed: Mutex<BTreeMap<String, FailedAgain>>,
}

#[async_trait]
impl DeadLetters for SecondLetters {
    async fn write(&self, mut letters: Vec<DeadLetter>) {
        let mut failed = BTreeMap::new();
        for letter in &mut letters {
            let (attempts, redrives) = lock(&self.before).get(&letter.id).copied().unwrap_or_default();
            letter.attempts = letter.attempts.saturating_add(attempts);
            letter.redrives = redrives.saturating_add(1);
            let DeadLetter { stage, code, message, .. } = letter.clone();
            failed.insert(letter.id.clone(), FailedAgain { stage, code, message });
        }
        self.inner.write(letters).await;
        lock(&self.failed).extend(failed);
    }

    fn blocked(&self) -> Option<String> {
        self.inner.blocked()
    }
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
