//! Membership in a group: the one thread that polls the main queue, and what it answers to a rebalance.
//!
//! In: rebalances and answers to commits from the client, positions from the slots. Out: events to the supervisor,
//! commits. Partition queues are split inside the assign callback, before `incremental_assign`: later, records would
//! already have gone to the main queue. A partition is given back only after its task has ended, or the drain deadline
//! has passed, and what was handed over is committed while we are still a member.

use std::collections::{BTreeMap, HashMap};
use std::sync::atomic::{AtomicU8, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, OnceLock, Weak, mpsc as std_mpsc};
use std::thread;
use std::time::Duration;

use rdkafka::client::ClientContext;
use rdkafka::config::RDKafkaLogLevel;
use rdkafka::consumer::base_consumer::PartitionQueue;
use rdkafka::consumer::{BaseConsumer, Consumer, ConsumerContext};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::message::{BorrowedMessage, Message};
use rdkafka::statistics::Statistics;
use rdkafka::topic_partition_list::{Offset as ListOffset, TopicPartitionList};
use rdkafka::types::RDKafkaRespErr;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::Instant;

use super::client::{self, ClientVoice};
use super::embedded::is_embedded;
use super::governor;
use super::memory::Budget;
use super::native::{self, CommitAnswer, CommitQueue};
use super::reader::PartitionReader;
use super::slot::{Renewals, Slot, lock};
use super::start::{self, Beginning, Known};
use super::stats::SourceStats;
use crate::config::{OnLost, Start};
use crate::pipeline::{Assignment, Position, SourceError, SourceEvent};
use crate::record::{Offset, TopicPartition};

/// How long one poll of the main queue waits; and while a reader waits for its first position to stand.
const POLL: Duration = Duration::from_millis(50);
const POLL_BEGINNING: Duration = Duration::from_millis(2);
/// How often positions are committed.
const COMMIT_EVERY: Duration = Duration::from_millis(500);
/// How soon a first position that was refused is sent again: a rebalance refuses one or two.
const BEGIN_AGAIN_AFTER: Duration = Duration::from_millis(50);
/// After this an asynchronous commit that nobody answered counts as failed.
const COMMIT_TIMEOUT: Duration = Duration::from_secs(10);
/// Tries of a commit inside a rebalance, where nobody can poll meanwhile.
const COMMIT_ATTEMPTS: u32 = 3;
/// How often the ends of partitions are asked for.
const ENDS_EVERY: Duration = Duration::from_secs(1);
/// How often turns are taken, where not all partitions may fetch at once.
const TURNS_EVERY: Duration = Duration::from_millis(50);
/// Refusals in a row after which the operator is told: a rebalance refuses one or two.
const REFUSALS_QUIET: u32 = 5;

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
    budget: Arc<Budget>,
    events: mpsc::Sender<SourceEvent>,
    me: OnceLock<Weak<BaseConsumer<Context>>>,
    phase: AtomicU8,
    slots: Mutex<BTreeMap<TopicPartition, Arc<Slot>>>,
    /// Queues of partitions that are assigned and not read: kept, so that nothing of them goes to the main queue.
    parked: Mutex<HashMap<TopicPartition, PartitionQueue<Context>>>,
    renewals: Renewals,
    /// The commit that is not answered yet, and when it was sent.
    commit_sent: Mutex<Option<(usize, Instant)>>,
    commits_sent: AtomicUsize,
    /// Until when everything must be committed, once somebody asked to leave.
    leave_by: Mutex<Option<Instant>>,
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
            commit_sent: Mutex::default(),
            commits_sent: AtomicUsize::default(),
            leave_by: Mutex::default(),
        }
    }

    /// Whether partitions are read: nobody has asked to leave.
    pub(super) fn is_reading(&self) -> bool {
        self.phase.load(Ordering::SeqCst) == Phase::Reading as u8
    }

    fn is_abandoned(&self) -> bool {
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
        slots.values().map(|slot| (slot.partition.clone(), Offset(slot.high.load(Ordering::Relaxed)))).collect()
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
        if partitions.is_empty() {
            // A rebalance that gave nothing must be answered too.
            if let Err(error) = consumer.incremental_assign(&TopicPartitionList::new()) {
                tracing::warn!(%error, "the client did not take an empty assignment");
            }
            return;
        }
        self.stats.assigned.add(partitions.len() as u64);
        let known = lock(&self.known).clone();
        let (begun, refused) = match start::beginnings(consumer, partitions, &known) {
            Ok(beginnings) => self.separate(beginnings),
            Err(error) => (Vec::new(), vec![(partitions.to_vec(), error)]),
        };

        let mut list = TopicPartitionList::with_capacity(partitions.len());
        let mut assignments = Vec::with_capacity(begun.len());
        for beginning in begun {
            let partition = beginning.partition.clone();
            let Some(queue) = arc.split_partition_queue(&partition.topic, partition.partition) else { continue };
            add(&mut list, &partition, ListOffset::Offset(beginning.offset));
            assignments.push(self.begin(beginning, queue));
        }
        for partition in refused.iter().flat_map(|(partitions, _)| partitions) {
            let Some(queue) = arc.split_partition_queue(&partition.topic, partition.partition) else { continue };
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
        if self.budget.fetching_max().is_some()
            && let Err(error) = consumer.pause(&list)
        {
            tracing::warn!(%error, "partitions fetch before it is their turn");
        }
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
            self.stats.lost_records.add(lost.records.unwrap_or(0));
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
    fn begin(&self, beginning: Beginning, queue: PartitionQueue<Self>) -> Assignment {
        let generation = self.generation.fetch_add(1, Ordering::SeqCst) + 1;
        let slot = Arc::new(Slot::new(
            beginning.partition.clone(),
            beginning.topic_id.clone(),
            (beginning.offset, beginning.high),
            beginning.committed(),
            (Arc::clone(&self.renewals), Arc::clone(&self.stats), Arc::clone(&self.budget)),
        ));
        slot.attach(queue);
        if beginning.committed.is_none() && self.settings.start != Start::Earliest {
            // The next owner must not decide anew: "latest" would be later by then, and what came meanwhile lost.
            slot.keep_start(Position { next: Offset(beginning.offset), metadata: String::new() });
        }
        lock(&self.slots).insert(beginning.partition.clone(), Arc::clone(&slot));
        tracing::info!(partition = %beginning.partition, offset = beginning.offset, generation, "partition assigned");
        Assignment {
            partition: beginning.partition,
            generation,
            start: Offset(beginning.offset),
            metadata: beginning.metadata,
            sibling_metadata: beginning.sibling_metadata,
            partitions_total: beginning.partitions_total,
            end_at_start: Offset(beginning.high),
            topic_id: beginning.topic_id,
            reader: Box::new(PartitionReader::new(Arc::clone(&slot))),
            committer: slot,
        }
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

    fn remember(&self, slot: &Slot) {
        let known = Known {
            topic_id: slot.topic_id.clone(),
            next: slot.next.load(Ordering::Relaxed),
            high: slot.high.load(Ordering::Relaxed),
        };
        lock(&self.known).insert(slot.partition.clone(), known);
    }

    /// Gives back and begins anew what asked for it.
    fn renew(&self, consumer: &BaseConsumer<Self>) {
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

    // ---------------------------------------------------------------------------------------------------- commits

    /// Sends what was handed over since the last time, without waiting.
    fn commit_soon(&self, consumer: &BaseConsumer<Self>, queue: &CommitQueue) {
        let mut sent_at = lock(&self.commit_sent);
        if let Some((_, since)) = *sent_at {
            if since.elapsed() < COMMIT_TIMEOUT {
                return;
            }
            *sent_at = None;
            self.stats.commit_failures.bump();
            for slot in lock(&self.slots).values() {
                slot.refused();
            }
        }
        let slots: Vec<Arc<Slot>> = lock(&self.slots).values().cloned().collect();
        let positions: Vec<(Arc<Slot>, Position)> =
            slots.into_iter().filter_map(|slot| slot.send().map(|position| (slot, position))).collect();
        if positions.is_empty() {
            return;
        }
        let number = self.commits_sent.fetch_add(1, Ordering::Relaxed);
        match queue.send(consumer.client(), &commit_list(&positions), number) {
            Ok(()) => *sent_at = Some((number, Instant::now())),
            Err(error) => {
                self.stats.commit_failures.bump();
                tracing::warn!(%error, "a commit was not sent: it is tried again");
                for (slot, _) in &positions {
                    slot.refused();
                }
            }
        }
    }

    /// Whether a reader waits for its first position to stand.
    fn is_beginning(&self) -> bool {
        lock(&self.slots).values().any(|slot| slot.is_beginning())
    }

    /// Whether a first position is to be sent now.
    fn wants_to_begin(&self, since_last: Duration) -> bool {
        let slots = lock(&self.slots);
        let mut refusals = slots.values().filter_map(|slot| slot.wants_to_begin());
        refusals.any(|refusals| refusals == 0 || since_last >= BEGIN_AGAIN_AFTER)
    }

    /// Notes what became of a commit that was sent.
    fn commit_answered(&self, answer: &CommitAnswer) {
        {
            let mut sent = lock(&self.commit_sent);
            if sent.is_none_or(|(number, _)| number != answer.number) {
                // It was given up, and what it held was sent again: this answer must not be taken for the newer one's.
                return;
            }
            *sent = None;
        }
        let slots = lock(&self.slots);
        for entry in &answer.entries {
            let Some(slot) = slots.get(&TopicPartition::new(&entry.topic, entry.partition)) else { continue };
            match answer.error.as_ref().or(entry.error.as_ref()) {
                None => {
                    self.stats.commits.bump();
                    slot.accepted(entry.offset);
                }
                Some(error) => {
                    self.stats.commit_failures.bump();
                    if slot.refused() >= REFUSALS_QUIET {
                        tracing::warn!(
                            partition = %slot.partition, offset = entry.offset, error,
                            "commits are refused again and again; they are tried on"
                        );
                    }
                }
            }
        }
    }

    /// Commits what is not accepted yet, and waits for the answer so long. True when nothing is left. The client's own
    /// synchronous commit would wait for a broker that is away, without end.
    fn commit_now(&self, consumer: &BaseConsumer<Self>, slots: &[Arc<Slot>], within: Duration) -> bool {
        let positions: Vec<(Arc<Slot>, Position)> =
            slots.iter().filter_map(|slot| slot.unaccepted().map(|position| (Arc::clone(slot), position))).collect();
        if positions.is_empty() {
            return true;
        }
        // A queue of its own: nothing but this commit's answer comes on it.
        let queue = CommitQueue::new(consumer.client()).expect("the client has room for one more queue");
        let answer = queue.send(consumer.client(), &commit_list(&positions), 0).map(|()| queue.answer(within));
        let refusal = match answer {
            Ok(Some(answer)) => answer.error.or(answer.entries.into_iter().find_map(|entry| entry.error)),
            Ok(None) => Some(format!("no answer within {within:?}")),
            Err(error) => Some(error),
        };
        match refusal {
            None => {
                self.stats.commits.add(positions.len() as u64);
                positions.iter().for_each(|(slot, position)| slot.accepted_exactly(position));
                true
            }
            Some(error) => {
                self.stats.commit_failures.bump();
                tracing::warn!(%error, "a commit was refused: it is tried again while there is time");
                false
            }
        }
    }

    // ----------------------------------------------------------------------------------------------- the main queue

    /// A record on the main queue: it belongs to a partition's own queue. It is not handed over out of order; its
    /// partition begins anew at what is committed.
    fn stray_record(&self, message: &BorrowedMessage<'_>) {
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

    fn main_queue_error(&self, error: &KafkaError) {
        self.stats.client_errors.bump();
        let code = error.rdkafka_error_code().unwrap_or(RDKafkaErrorCode::Unknown);
        let last = self.voice.last().map(|last| last.text).unwrap_or_default();
        if matches!(error, KafkaError::MessageConsumptionFatal(_)) {
            self.tell(SourceEvent::Failed(SourceError::Broken(format!("the Kafka client failed: {error} ({last})"))));
        } else if client::is_authorisation(code) {
            let message = format!("Kafka at {} refuses: {error} ({last})", self.settings.brokers);
            self.tell(SourceEvent::Failed(SourceError::Refused(message)));
        } else if code == RDKafkaErrorCode::PollExceeded {
            tracing::error!("the client was not polled in time and has left the group; it joins again");
        } else {
            tracing::warn!(%error, last, "the Kafka client reports an error, and goes on");
        }
    }
}

/// How far a membership is with leaving. The thread that tells it ends with the last word.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Left {
    /// Everything that was handed over is committed.
    pub(super) is_committed: bool,
    /// The group is left.
    pub(super) is_over: bool,
}

/// Joins the group on a thread of its own, which says how far it is with leaving.
pub(super) fn spawn(consumer: Arc<BaseConsumer<Context>>) -> std::io::Result<watch::Receiver<Left>> {
    let context = Arc::clone(consumer.context());
    context.me.set(Arc::downgrade(&consumer)).ok();
    let (left, told) = watch::channel(Left::default());
    thread::Builder::new().name("kafka-poll".to_owned()).spawn(move || poll_until_left(consumer, &left))?;
    Ok(told)
}

/// The thread's whole life. The last handle of the consumer dies here, never in a reader.
fn poll_until_left(consumer: Arc<BaseConsumer<Context>>, left: &watch::Sender<Left>) {
    let context = Arc::clone(consumer.context());
    let (stop, stopped) = std_mpsc::channel();
    let keeper = {
        let consumer = Arc::downgrade(&consumer);
        let every = if context.budget.fetching_max().is_some() { TURNS_EVERY } else { ENDS_EVERY };
        thread::Builder::new().name("kafka-keeper".to_owned()).spawn(move || keep(&consumer, &stopped, every))
    };
    let commits = CommitQueue::new(consumer.client()).expect("the client has room for one more queue");
    let mut committed_at = Instant::now();
    while context.is_reading() {
        poll_once(&consumer, &context, if context.is_beginning() { POLL_BEGINNING } else { POLL });
        context.renew(&consumer);
        while let Some(answer) = commits.answer(Duration::ZERO) {
            context.commit_answered(&answer);
        }
        let since_last = committed_at.elapsed();
        if since_last >= COMMIT_EVERY || context.wants_to_begin(since_last) {
            context.commit_soon(&consumer, &commits);
            committed_at = Instant::now();
        }
    }
    drop(commits);
    drop(stop);
    let is_committed = leave(&consumer, &context);
    left.send_replace(Left { is_committed, is_over: false });
    if let Ok(keeper) = keeper {
        keeper.join().ok();
    }
    // The last handle: dropping it leaves the group.
    drop(consumer);
    left.send_replace(Left { is_committed, is_over: true });
}

fn poll_once(consumer: &BaseConsumer<Context>, context: &Context, wait: Duration) {
    match consumer.poll(wait) {
        None => {}
        Some(Ok(message)) => context.stray_record(&message),
        Some(Err(error)) => context.main_queue_error(&error),
    }
}

/// Ends all that is read and commits while still a member, with polls between the tries: a rebalance refuses commits.
/// True where all of it is committed.
fn leave(consumer: &BaseConsumer<Context>, context: &Context) -> bool {
    let slots: Vec<Arc<Slot>> = lock(&context.slots).values().cloned().collect();
    for slot in &slots {
        slot.detach();
        slot.fence();
        context.remember(slot);
    }
    lock(&context.parked).clear();
    let deadline = lock(&context.leave_by).unwrap_or_else(Instant::now);
    let mut is_committed = false;
    while !context.is_abandoned() {
        let within = COMMIT_TIMEOUT.min(deadline.saturating_duration_since(Instant::now()));
        is_committed = context.commit_now(consumer, &slots, within);
        if is_committed || within.is_zero() {
            break;
        }
        poll_once(consumer, context, POLL);
    }
    if !is_committed {
        tracing::warn!("the last positions were not committed: what came since is read again by the next owner");
    }
    context.enter(Phase::Closing);
    lock(&context.slots).clear();
    lock(&context.parked).clear();
    is_committed
}

/// Looks at the ends of partitions and at the topics' ids now and then, and says whose turn to fetch it is; on a thread
/// of its own, since it waits for answers.
fn keep(consumer: &Weak<BaseConsumer<Context>>, stopped: &std_mpsc::Receiver<()>, every: Duration) {
    let mut checked_at = Instant::now();
    while matches!(stopped.recv_timeout(every), Err(std_mpsc::RecvTimeoutError::Timeout)) {
        let Some(consumer) = consumer.upgrade() else { return };
        let context = consumer.context();
        let slots: Vec<Arc<Slot>> = lock(&context.slots).values().cloned().collect();
        if slots.is_empty() {
            continue;
        }
        let partitions: Vec<TopicPartition> = slots.iter().map(|slot| slot.partition.clone()).collect();
        match start::ends(&consumer, &partitions, Duration::from_secs(5)) {
            Ok(ends) => {
                context.voice.forget();
                for slot in &slots {
                    if let Some(end) = ends.get(&slot.partition) {
                        slot.high.store(*end, Ordering::Relaxed);
                    }
                }
            }
            Err(error) => tracing::debug!(%error, "the ends of the partitions are not known at the moment"),
        }
        if let Some(fetching_max) = context.budget.fetching_max() {
            take_turns(&consumer, &slots, fetching_max);
        }
        if checked_at.elapsed() >= context.settings.topic_check {
            checked_at = Instant::now();
            compare_ids(&consumer, context, &slots);
        }
    }
}

/// Pauses and resumes partitions, where not all may fetch at once.
fn take_turns(consumer: &BaseConsumer<Context>, slots: &[Arc<Slot>], fetching_max: usize) {
    let views: Vec<governor::View> = slots.iter().map(|slot| slot.view()).collect();
    let turns = governor::turns(&views, fetching_max);
    let list_of = |indices: &[usize]| {
        let mut list = TopicPartitionList::with_capacity(indices.len());
        for slot in indices.iter().filter_map(|index| slots.get(*index)) {
            list.add_partition(&slot.partition.topic, slot.partition.partition);
        }
        list
    };
    // A partition that was given back meanwhile is no error: its slot is gone too.
    for (indices, is_fetching) in [(turns.pause, false), (turns.resume, true)] {
        if indices.is_empty() {
            continue;
        }
        let list = list_of(&indices);
        let changed = if is_fetching { consumer.resume(&list) } else { consumer.pause(&list) };
        if let Err(error) = changed {
            tracing::debug!(%error, "a turn was not taken");
        }
        for slot in indices.iter().filter_map(|index| slots.get(*index)) {
            slot.set_fetching(is_fetching);
        }
    }
}

/// A topic that vanished and returned is read from its beginning, or stops the pipeline: the client itself is silent.
fn compare_ids(consumer: &BaseConsumer<Context>, context: &Context, slots: &[Arc<Slot>]) {
    if is_embedded(&context.settings.brokers) {
        return;
    }
    let topics: Vec<&str> = {
        let mut topics: Vec<&str> = slots.iter().map(|slot| &*slot.partition.topic).collect();
        topics.dedup();
        topics
    };
    let Ok(ids) = native::topic_ids(consumer.client(), &topics, Duration::from_secs(5)) else { return };
    for slot in slots {
        match (ids.get(&*slot.partition.topic), &slot.topic_id) {
            (Some(now), Some(before)) if now != before => {
                tracing::error!(partition = %slot.partition, before, now, "the topic was made anew");
                lock(&context.renewals).insert(slot.partition.clone());
            }
            (None, Some(before)) => tracing::warn!(partition = %slot.partition, before, "the topic is gone"),
            _ => {}
        }
    }
}

fn add(list: &mut TopicPartitionList, partition: &TopicPartition, offset: ListOffset) {
    list.add_partition_offset(&partition.topic, partition.partition, offset).expect("offsets of a log are never odd");
}

fn commit_list(positions: &[(Arc<Slot>, Position)]) -> TopicPartitionList {
    let mut list = TopicPartitionList::with_capacity(positions.len());
    for (slot, position) in positions {
        let mut element = list.add_partition(&slot.partition.topic, slot.partition.partition);
        element.set_offset(ListOffset::Offset(position.next.0)).expect("offsets of a log are never odd");
        if !position.metadata.is_empty() {
            // Once for each element of a fresh list: a second time would leak the first.
            element.set_metadata(&position.metadata);
        }
    }
    list
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
