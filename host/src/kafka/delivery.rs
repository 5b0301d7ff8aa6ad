//! What becomes of records that the client was given.
//!
//! In: delivery reports and errors, on the client's own threads. Out: a tally for each job, and why nothing gets through,
//! for whoever asks from outside. Never sends, and never decides what is to be sent again.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use rdkafka::client::ClientContext;
use rdkafka::config::RDKafkaLogLevel;
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::producer::{DeliveryResult, ProducerContext};
use rdkafka::statistics::Statistics;
use tokio::sync::Notify;
use tokio::time::Instant;

use super::client::{self, ClientVoice};
use super::slot::lock;

/// After this without any delivery the operator is told.
const STALLED: Duration = Duration::from_secs(10);
/// Deliveries between two looks at the time.
const DELIVERIES_A_LOOK: usize = 64;

/// What the task says to whoever asks from outside.
pub(super) struct Status {
    pub(super) brokers: String,
    topic: String,
    pub(super) voice: ClientVoice,
    pub(super) reason: Mutex<Option<String>>,
    began: Instant,
    under_way: AtomicI64,
    /// Milliseconds after `began` of the last delivery, or of the first row after a time without any.
    progress_ms: AtomicI64,
    has_error: AtomicBool,
}

impl Status {
    pub(super) fn new(brokers: &str, topic: &str) -> Self {
        Self {
            brokers: brokers.to_owned(),
            topic: topic.to_owned(),
            voice: ClientVoice::default(),
            reason: Mutex::new(None),
            began: Instant::now(),
            under_way: AtomicI64::new(0),
            progress_ms: AtomicI64::new(0),
            has_error: AtomicBool::new(false),
        }
    }

    fn now_ms(&self) -> i64 {
        i64::try_from(self.began.elapsed().as_millis()).unwrap_or(i64::MAX)
    }

    pub(super) fn sent(&self) {
        if self.under_way.fetch_add(1, Ordering::Relaxed) == 0 {
            self.progress_ms.store(self.now_ms(), Ordering::Relaxed);
        }
    }

    /// One of those that were sent was not taken by the client.
    pub(super) fn taken_back(&self) {
        self.under_way.fetch_sub(1, Ordering::Relaxed);
    }

    fn delivered(&self) {
        self.progress_ms.store(self.now_ms(), Ordering::Relaxed);
        if self.has_error.swap(false, Ordering::Relaxed) {
            self.voice.forget();
        }
    }

    pub(super) fn blocked(&self) -> Option<String> {
        if let Some(reason) = lock(&self.reason).clone() {
            return Some(reason);
        }
        let waited_ms = self.now_ms() - self.progress_ms.load(Ordering::Relaxed);
        // Where nobody waits nothing is held up; and nobody would find out that it gets through again.
        if self.under_way.load(Ordering::Relaxed) == 0 {
            return None;
        }
        let stalled = waited_ms > STALLED.as_millis() as i64;
        let last = self.voice.last();
        let refused = last.as_ref().is_some_and(|last| last.is_authorisation);
        if !stalled && !refused {
            return None;
        }
        let last = last.map(|last| format!(" ({})", last.text)).unwrap_or_default();
        Some(format!(
            "Kafka at {} does not take records of {} since {} s{last}",
            self.brokers,
            self.topic,
            waited_ms / 1000
        ))
    }
}

/// The client's callbacks.
pub(super) struct Callbacks {
    pub(super) status: Arc<Status>,
    pub(super) tallies: Arc<Tallies>,
}

/// Travels with a record through the client, as one word: nothing is allocated for it, and nothing shared is counted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Ticket {
    /// Below [`JOBS`].
    pub(super) job: u32,
    pub(super) row: u32,
    pub(super) is_alone: bool,
}

/// Numbers of jobs: what is left of a word beside the row and whether it is alone.
const JOBS: u32 = 1 << 31;
const _: () = assert!(usize::BITS == 64, "a ticket is one word");

impl Ticket {
    pub(super) fn word(self) -> usize {
        usize::from(self.is_alone) << 63 | (self.job as usize) << 32 | self.row as usize
    }

    fn of(word: usize) -> Self {
        let job = (word >> 32) as u32 & (JOBS - 1);
        Self { job, row: word as u32, is_alone: word >> 63 == 1 }
    }
}

/// What is not decided yet, by job, and who waits for it.
#[derive(Default)]
pub(super) struct Tallies {
    jobs: Mutex<Jobs>,
    /// Called when all rows of a job have come back.
    pub(super) wake: Notify,
}

#[derive(Default)]
struct Jobs {
    by_number: BTreeMap<u32, Tally>,
    last: u32,
}

impl Tallies {
    /// A job of so many rows begins: its number.
    pub(super) fn begin(&self, rows: usize) -> u32 {
        let mut jobs = lock(&self.jobs);
        let after = jobs.last.wrapping_add(1) % JOBS;
        // Numbers come around after years; a job may still be under way that has one of the first.
        let free = (after..JOBS).chain(0..after).find(|number| !jobs.by_number.contains_key(number));
        let number = free.expect("far fewer jobs are under way than there are numbers");
        jobs.last = number;
        jobs.by_number.insert(number, Tally { under_way: rows, ..Tally::default() });
        number
    }

    /// Looks at a job that has not ended.
    pub(super) fn of<R>(&self, job: u32, look: impl FnOnce(&mut Tally) -> R) -> R {
        look(lock(&self.jobs).by_number.get_mut(&job).expect("a job ends once, when all its rows are decided"))
    }

    /// A job has ended: none of its rows is under way.
    pub(super) fn end(&self, job: u32) {
        lock(&self.jobs).by_number.remove(&job);
    }
}

/// What is not decided yet of one job.
#[derive(Default)]
pub(super) struct Tally {
    pub(super) under_way: usize,
    pub(super) delivered: u64,
    pub(super) failed: Vec<Failed>,
}

#[derive(Debug, Clone, Copy)]
pub(super) struct Failed {
    pub(super) row: usize,
    pub(super) code: RDKafkaErrorCode,
    /// No other record was in its batch: what the broker said was about it.
    pub(super) is_alone: bool,
}

impl ClientContext for Callbacks {
    fn log(&self, level: RDKafkaLogLevel, facility: &str, message: &str) {
        client::forward_log(level, facility, message);
    }

    fn stats(&self, _statistics: Statistics) {}

    fn error(&self, error: KafkaError, reason: &str) {
        self.status.has_error.store(true, Ordering::Relaxed);
        self.status.voice.error(error, reason);
    }
}

impl ProducerContext for Callbacks {
    type DeliveryOpaque = usize;

    fn delivery(&self, result: &DeliveryResult<'_>, word: usize) {
        let Ticket { job, row, is_alone } = Ticket::of(word);
        self.status.under_way.fetch_sub(1, Ordering::Relaxed);
        let is_done = self.tallies.of(job, |tally| {
            match result {
                Ok(_) => {
                    // Now and then, and at the end: nobody waits for less than many deliveries, and each look at the time
                    // costs.
                    if tally.under_way % DELIVERIES_A_LOOK == 1 {
                        self.status.delivered();
                    }
                    tally.delivered += 1;
                }
                Err((error, _)) => {
                    let code = error.rdkafka_error_code().unwrap_or(RDKafkaErrorCode::Unknown);
                    tally.failed.push(Failed { row: row as usize, code, is_alone });
                }
            }
            tally.under_way -= 1;
            tally.under_way == 0
        });
        if is_done {
            self.tallies.wake.notify_one();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_ticket_is_one_word_and_back() {
        for job in [0, 1, 77, JOBS - 1] {
            for row in [0, 1, 1023, u32::MAX] {
                for is_alone in [false, true] {
                    let ticket = Ticket { job, row, is_alone };
                    assert_eq!(Ticket::of(ticket.word()), ticket);
                }
            }
        }
    }

    #[test]
    fn numbers_come_around_and_pass_over_those_under_way() {
        let tallies = Tallies::default();
        let first = tallies.begin(3);
        lock(&tallies.jobs).last = JOBS - 2;
        let numbers: Vec<u32> = (0..3).map(|_| tallies.begin(1)).collect();
        assert_eq!((first, numbers), (1, vec![JOBS - 1, 0, 2]));
        assert_eq!(tallies.of(first, |tally| tally.under_way), 3);
        tallies.end(first);
        lock(&tallies.jobs).last = 0;
        assert_eq!(tallies.begin(1), 1);
    }
}
