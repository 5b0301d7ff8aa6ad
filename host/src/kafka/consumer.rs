//! What the one thread that polls the main queue answers to a rebalance.
//!
//! In: rebalances and errors from the client. Out: events to the supervisor. Partition queues are split inside the assign callback, before `incremental_assign`: later, records would
//! already have gone to the main queue. A partition is given back only after its task has ended, or the drain deadline
//! has passed, and what was handed over is committed while we are still a member.

use std::collections::{BTreeMap, HashMap};
use std::sync::atomic::{AtomicU8, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, OnceLock, Weak};
use std::thread;
use std::time::Duration;

use rdkafka::client::ClientContext;
use rdkafka::config::RDKafkaLogLevel;
use rdkafka::consumer::{BaseConsumer, Consumer, ConsumerContext};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::message::{BorrowedMessage, Message};
use rdkafka::statistics::Statistics;
use rdkafka::topic_partition_list::{Offset as ListOffset, TopicPartitionList};
use rdkafka::types::RDKafkaRespErr;
use tokio::sync::{mpsc, oneshot};
use tokio::time::Instant;

use super::client::{self, ClientVoice};
use super::commits::COMMIT_TIMEOUT;
use super::memory::Budget;
use super::native::{self, PartitionQueue};
use super::reader::PartitionReader;
use super::slot::{Renewals, Slot, lock};
use super::start::{self, Beginning, Known};
use super::stats::SourceStats;
use crate::config::{OnLost, Start};
use crate::pipeline::checkpoint::KEPT_START;
use crate::pipeline::{Assignment, Committer, Position, SourceError, SourceEvent};
use crate::record::{Offset, TopicPartition};

/// Tries of a commit inside a rebalance, where nobody can poll meanwhile.
pub(super) const COMMIT_ATTEMPTS: u32 = 3;

/// What a membership needs to know.
#[derive(Debug, Clone)]
pub(super) struct Settings {
    pub(super) brokers: String,
    pub(super) group: String,
    pub(super) start: Start,
    pub(super) on_lost: OnLost,
    /// How long a task may take to end when its partition goes.
    pub(super) drain: Duration,
    /// How often the topics' ids are compared.
    pub(super) topic_check: Duration,
}

/// Reading → leaving (readers are gone, positions are committed) → closing (the group is left) ; or abandoned at once.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub(super) enum Phase {
    Reading = 0,
    Leaving = 1,
    Closing = 2,
    Abandoned = 3,
}

/// Partitions to move, and whom to tell what became of it.
pub(super) struct Seek {
    pub(super) to: Vec<(TopicPartition, Position)>,
    pub(super) done: oneshot::Sender<Result<(), SourceError>>,
}

/// What outlives one membership: what is known of partitions, and the last generation.
pub(super) type Memory = (Arc<Mutex<HashMap<TopicPartition, Known>>>, Arc<AtomicU64>);

/// What the client's callbacks see.
pub(super) struct Context {
    pub(super) settings: Settings,
    pub(super) voice: ClientVoice,
    pub(super) stats: Arc<SourceStats>,
    /// What this process remembers of partitions, beyond one membership.
    pub(super) known: Arc<Mutex<HashMap<TopicPartition, Known>>>,
    pub(super) generation: Arc<AtomicU64>,
    pub(super) budget: Arc<Budget>,
    events: mpsc::Sender<SourceEvent>,
    pub(super) me: OnceLock<Weak<BaseConsumer<Context>>>,
    phase: AtomicU8,
    pub(super) slots: Mutex<BTreeMap<TopicPartition, Arc<Slot>>>,
    /// Queues of partitions that are assigned and not read: kept, so that nothing of them goes to the main queue.
    pub(super) parked: Mutex<HashMap<TopicPartition, PartitionQueue<Context>>>,
    pub(super) renewals: Renewals,
    /// What somebody wants to be moved.
    pub(super) seek: Mutex<Option<Seek>>,
    /// The commit that is not answered yet, and when it was sent.
    pub(super) commit_sent: Mutex<Option<(usize, Instant)>>,
    pub(super) commits_sent: AtomicUsize,
    /// Until when everything must be committed, once somebody asked to leave.
    pub(super) leave_by: Mutex<Option<Instant>>,
    /// What the group or a topic refused last; nothing once the group gives partitions or takes a commit.
    forbidden: Mutex<Option<String>>,
}

impl Context {
    pub(super) fn new(
        settings: Settings,
        events: mpsc::Sender<SourceEvent>,
        stats: Arc<SourceStats>,
        (known, generation): Memory,
        budget: Budget,
    ) -> Self {
        Self {
            settings,
            voice: ClientVoice::default(),
            stats,
            known,
            generation,
            budget: Arc::new(budget),
            events,
            me: OnceLock::new(),
            phase: AtomicU8::new(Phase::Reading as u8),
            slots: Mutex::default(),
            parked: Mutex::default(),
            renewals: Renewals::default(),
            seek: Mutex::default(),
            commit_sent: Mutex::default(),
            commits_sent: AtomicUsize::default(),
            leave_by: Mutex::default(),
            forbidden: Mutex::default(),
        }
    }

    /// Whether partitions are read: nobody has asked to leave.
    pub(super) fn is_reading(&self) -> bool {
        self.phase.load(Ordering::SeqCst) == Phase::Reading as u8
    }

    pub(super) fn is_abandoned(&self) -> bool {
        self.phase.load(Ordering::SeqCst) == Phase::Abandoned as u8
    }

    /// Asks the polling thread to leave, and to have committed everything until then.
    pub(super) fn leave_by(&self, deadline: Instant) {
        lock(&self.leave_by).get_or_insert(deadline);
        self.enter(Phase::Leaving);
    }

    /// Asks the polling thread to go on to a later phase.
    pub(super) fn enter(&self, phase: Phase) {
        self.phase.fetch_max(phase as u8, Ordering::SeqCst);
    }

    /// One past the newest record of each assigned partition.
    pub(super) fn ends(&self) -> Vec<(TopicPartition, Offset)> {
        let slots = lock(&self.slots);
        slots.values().map(|slot| (slot.partition.clone(), Offset(slot.end()))).collect()
    }

    /// Why nothing can be read, or not all, where that is not the network's fault: permissions, credentials.
    pub(super) fn blocked(&self) -> Option<String> {
        let of_a_partition = || lock(&self.slots).values().find_map(|slot| slot.forbidden());
        let of_the_connection = || self.voice.last().filter(|last| last.is_authorisation).map(|last| last.text);
        let why = lock(&self.forbidden).clone().or_else(of_a_partition).or_else(of_the_connection)?;
        Some(format!("Kafka at {} refuses: {why}; tried again until it is allowed", self.settings.brokers))
    }

    /// Tells the supervisor; gives up when it is gone, or when it asked to leave.
    fn tell(&self, event: SourceEvent) -> bool {
        let mut event = event;
        loop {
            match self.events.try_send(event) {
                Ok(()) => return true,
                Err(mpsc::error::TrySendError::Closed(_)) => return false,
                Err(mpsc::error::TrySendError::Full(back)) => event = back,
            }
            if !self.is_reading() {
                return false;
            }
            thread::park_timeout(Duration::from_millis(5));
        }
    }

    // ------------------------------------------------------------------------------------------------ assignment

    /// Begins partitions: explicit offsets, queues split first.
    fn assign(&self, consumer: &BaseConsumer<Self>, partitions: &[TopicPartition]) {
        let Some(arc) = self.me.get().and_then(Weak::upgrade) else { return };
        self.allowed();
        self.voice.forget();
        if partitions.is_empty() {
            // A rebalance that gave nothing must be answered too.
            if let Err(error) = consumer.incremental_assign(&TopicPartitionList::new()) {
                tracing::warn!(%error, "the client did not take an empty assignment");
            }
            self.tell(SourceEvent::Assigned(Vec::new()));
            return;
        }
        self.stats.assigned.add(partitions.len() as u64);
        let known = lock(&self.known).clone();
        let (begun, refused) = match start::beginnings(consumer, partitions, &known) {
            Ok(beginnings) => self.separate(beginnings),
            Err(error) => (Vec::new(), vec![(partitions.to_vec(), error)]),
        };

        let take_turns = self.budget.fetching_max().is_some();
        let mut list = TopicPartitionList::with_capacity(partitions.len());
        let (mut slots, mut assignments) = (Vec::with_capacity(begun.len()), Vec::with_capacity(begun.len()));
        for beginning in begun {
            let partition = beginning.partition.clone();
            let Some(queue) = PartitionQueue::split(&arc, &partition) else { continue };
            add(&mut list, &partition, ListOffset::Offset(beginning.offset));
            let (slot, assignment) = self.begin(beginning, queue, !take_turns);
            slots.push((partition, slot));
            assignments.push(assignment);
        }
        for partition in refused.iter().flat_map(|(partitions, _)| partitions) {
            let Some(queue) = PartitionQueue::split(&arc, partition) else { continue };
            add(&mut list, partition, ListOffset::End);
            lock(&self.parked).insert(partition.clone(), queue);
        }
        if let Err(error) = consumer.incremental_assign(&list) {
            tracing::error!(%error, "the client did not take an assignment");
            self.tell(SourceEvent::Failed(SourceError::Broken(format!(
                "the client did not take an assignment: {error}"
            ))));
            return;
        }
        if take_turns && let Err(error) = consumer.pause(&list) {
            tracing::warn!(%error, "partitions fetch before it is their turn");
        }
        // Not before they are paused: whoever gives turns must not resume one that is paused only afterwards.
        lock(&self.slots).extend(slots);
        if !assignments.is_empty() {
            self.tell(SourceEvent::Assigned(assignments));
        }
        for (_, error) in refused {
            self.tell(SourceEvent::Failed(error));
        }
    }

    /// Which partitions begin, and which do not since records are gone.
    fn separate(&self, beginnings: Vec<Beginning>) -> (Vec<Beginning>, Vec<(Vec<TopicPartition>, SourceError)>) {
        let (mut begun, mut refused) = (Vec::new(), Vec::new());
        for mut beginning in beginnings {
            let Some(lost) = beginning.lost.take() else {
                begun.push(beginning);
                continue;
            };
            self.stats.lost_ranges.bump();
            self.stats.lost(&beginning.partition.topic, lost.records.unwrap_or(0));
            tracing::error!(
                partition = %beginning.partition, from = lost.from, to = lost.to, reason = lost.reason,
                "records are gone before they were read"
            );
            match self.settings.on_lost {
                OnLost::Stop => {
                    let error = lost.into_error(&beginning.partition, &self.settings.group);
                    refused.push((vec![beginning.partition], error));
                }
                OnLost::Continue => begun.push(beginning),
            }
        }
        (begun, refused)
    }

    /// Makes a partition's slot and what the supervisor gets of it.
    fn begin(&self, beginning: Beginning, queue: PartitionQueue<Self>, is_fetching: bool) -> (Arc<Slot>, Assignment) {
        let generation = self.generation.fetch_add(1, Ordering::SeqCst) + 1;
        let mut slot = Slot::new(
            beginning.partition.clone(),
            beginning.topic_id.clone(),
            (beginning.offset, beginning.high),
            beginning.committed(),
            (Arc::clone(&self.renewals), Arc::clone(&self.stats), Arc::clone(&self.budget)),
            is_fetching,
        );
        slot.is_anew = beginning.is_anew;
        let slot = Arc::new(slot);
        slot.attach(queue);
        if beginning.committed.is_none() && self.settings.start != Start::Earliest {
            // The next owner must not decide anew: "latest" would be later by then, and what came meanwhile lost.
            slot.keep_start(Position { next: Offset(beginning.offset), metadata: KEPT_START.to_owned() });
        }
        tracing::info!(partition = %beginning.partition, offset = beginning.offset, assignment = generation, "partition assigned");
        let assignment = Assignment {
            partition: beginning.partition,
            generation,
            start: Offset(beginning.offset),
            metadata: beginning.metadata,
            sibling_metadata: beginning.sibling_metadata,
            partitions_total: beginning.partitions_total,
            end_at_start: Offset(beginning.high),
            topic_id: beginning.topic_id,
            reader: Box::new(PartitionReader::new(Arc::clone(&slot))),
            committer: Arc::clone(&slot) as Arc<dyn Committer>,
        };
        (slot, assignment)
    }

    /// Gives partitions back: tasks end, positions are committed, then the client lets go.
    fn revoke(&self, consumer: &BaseConsumer<Self>, partitions: &[TopicPartition], list: &TopicPartitionList) {
        let is_lost = consumer.assignment_lost();
        self.stats.revoked.add(partitions.len() as u64);
        if self.is_reading() {
            self.drain(partitions, is_lost);
        }
        let slots: Vec<Arc<Slot>> = {
            let mut slots = lock(&self.slots);
            partitions.iter().filter_map(|partition| slots.remove(partition)).collect()
        };
        for slot in &slots {
            slot.detach();
            slot.fence();
            self.remember(slot);
        }
        {
            let mut parked = lock(&self.parked);
            for partition in partitions {
                parked.remove(partition);
            }
        }
        if !is_lost && !self.is_abandoned() {
            for _ in 0..COMMIT_ATTEMPTS {
                if self.commit_now(consumer, &slots, COMMIT_TIMEOUT) {
                    break;
                }
            }
        }
        if let Err(error) = consumer.incremental_unassign(list) {
            tracing::warn!(%error, "the client did not take a revocation");
        }
        tracing::info!(partitions = ?names(partitions), is_lost, "partitions revoked");
    }

    /// Waits until the tasks of `partitions` have ended, at most until the drain deadline.
    fn drain(&self, partitions: &[TopicPartition], lost: bool) {
        let assigned: Vec<TopicPartition> = {
            let slots = lock(&self.slots);
            partitions.iter().filter(|partition| slots.contains_key(partition)).cloned().collect()
        };
        if assigned.is_empty() {
            return;
        }
        let (done, mut ended) = oneshot::channel();
        let began = Instant::now();
        if !self.tell(SourceEvent::Revoked { partitions: assigned, lost, done }) {
            return;
        }
        while matches!(ended.try_recv(), Err(oneshot::error::TryRecvError::Empty)) {
            if !self.is_reading() {
                return;
            }
            if began.elapsed() > self.settings.drain {
                tracing::warn!(
                    partitions = ?names(partitions), deadline = ?self.settings.drain,
                    "tasks did not end before the drain deadline: what is under way is read again by the next owner"
                );
                return;
            }
            thread::park_timeout(Duration::from_millis(2));
        }
    }

    pub(super) fn remember(&self, slot: &Slot) {
        lock(&self.known).insert(slot.partition.clone(), slot.known());
    }

    /// Gives back and begins anew what asked for it.
    pub(super) fn renew(&self, consumer: &BaseConsumer<Self>) {
        let wanted = std::mem::take(&mut *lock(&self.renewals));
        let partitions: Vec<TopicPartition> = {
            let (slots, parked) = (lock(&self.slots), lock(&self.parked));
            wanted.into_iter().filter(|p| slots.contains_key(p) || parked.contains_key(p)).collect()
        };
        if partitions.is_empty() {
            return;
        }
        tracing::info!(partitions = ?names(&partitions), "partitions begin anew");
        let mut list = TopicPartitionList::with_capacity(partitions.len());
        for partition in &partitions {
            list.add_partition(&partition.topic, partition.partition);
        }
        self.revoke(consumer, &partitions, &list);
        self.assign(consumer, &partitions);
    }

    /// Gives back what is to be moved, commits the new positions, and begins anew there.
    pub(super) fn move_partitions(&self, consumer: &BaseConsumer<Self>) {
        let Some(Seek { to, done }) = lock(&self.seek).take() else { return };
        let partitions: Vec<TopicPartition> = to.iter().map(|(partition, _)| partition.clone()).collect();
        let foreign = {
            let slots = lock(&self.slots);
            partitions.iter().find(|partition| !slots.contains_key(*partition)).cloned()
        };
        if let Some(partition) = foreign {
            done.send(Err(SourceError::Refused(format!("{partition} is not read by this process")))).ok();
            return;
        }
        tracing::info!(partitions = ?names(&partitions), "partitions are moved");
        let mut list = TopicPartitionList::with_capacity(partitions.len());
        for partition in &partitions {
            list.add_partition(&partition.topic, partition.partition);
        }
        self.revoke(consumer, &partitions, &list);
        let committed = self.commit_positions(consumer, &to);
        self.assign(consumer, &partitions);
        done.send(committed).ok();
    }

    // ----------------------------------------------------------------------------------------------- the main queue

    /// A record on the main queue: it belongs to a partition's own queue. It is not handed over out of order; its
    /// partition begins anew at what is committed.
    pub(super) fn stray_record(&self, message: &BorrowedMessage<'_>) {
        if !self.is_reading() {
            return;
        }
        let before = self.stats.main_queue_records.bump();
        let partition = TopicPartition::new(message.topic(), message.partition());
        if before.is_multiple_of(1_000) {
            tracing::error!(
                %partition, offset = message.offset(), total = before + 1,
                "a record came on the main queue: this is a bug; its partition begins anew at the committed offset"
            );
        }
        lock(&self.renewals).insert(partition);
    }

    /// The group has let this member in, or taken something from it.
    pub(super) fn allowed(&self) {
        if lock(&self.forbidden).take().is_some() {
            tracing::info!("Kafka at {} allows it again", self.settings.brokers);
        }
    }

    pub(super) fn main_queue_error(&self, error: &KafkaError) {
        if matches!(error, KafkaError::PartitionEOF(_)) {
            // Of a partition that came while we leave: nobody reads it.
            return;
        }
        self.stats.client_errors.bump();
        let code = error.rdkafka_error_code().unwrap_or(RDKafkaErrorCode::Unknown);
        let last = self.voice.last().map(|last| last.text).unwrap_or_default();
        if matches!(error, KafkaError::MessageConsumptionFatal(_)) {
            self.tell(SourceEvent::Failed(SourceError::Broken(format!("the Kafka client failed: {error} ({last})"))));
        } else if client::is_authorisation(code) {
            let why = format!("{error} ({last})");
            tracing::error!(
                "Kafka at {} refuses: {why}; nothing is read until it is allowed again",
                self.settings.brokers
            );
            *lock(&self.forbidden) = Some(why);
        } else if code == RDKafkaErrorCode::PollExceeded {
            tracing::error!("the client was not polled in time and has left the group; it joins again");
        } else {
            tracing::warn!(%error, last, "the Kafka client reports an error, and goes on");
        }
    }
}

fn add(list: &mut TopicPartitionList, partition: &TopicPartition, offset: ListOffset) {
    list.add_partition_offset(&partition.topic, partition.partition, offset).expect("offsets of a log are never odd");
}

fn partitions_of(list: &TopicPartitionList) -> Vec<TopicPartition> {
    native::entries(list).iter().map(|entry| TopicPartition::new(&entry.topic, entry.partition)).collect()
}

fn names(partitions: &[TopicPartition]) -> Vec<String> {
    partitions.iter().map(ToString::to_string).collect()
}

impl ClientContext for Context {
    fn log(&self, level: RDKafkaLogLevel, facility: &str, message: &str) {
        client::forward_log(level, facility, message);
    }

    fn stats(&self, _statistics: Statistics) {}

    fn error(&self, error: KafkaError, reason: &str) {
        self.voice.error(error, reason);
    }
}

impl ConsumerContext for Context {
    fn rebalance(&self, consumer: &BaseConsumer<Self>, code: RDKafkaRespErr, list: &mut TopicPartitionList) {
        let partitions = partitions_of(list);
        if code != RDKafkaRespErr::RD_KAFKA_RESP_ERR__ASSIGN_PARTITIONS {
            self.revoke(consumer, &partitions, list);
        } else if self.is_reading() {
            self.assign(consumer, &partitions);
        } else if let Err(error) = consumer.incremental_assign(list) {
            // While we leave nothing is read, and a question for committed offsets would never be answered.
            tracing::debug!(%error, "an assignment came while leaving");
        }
    }
}
