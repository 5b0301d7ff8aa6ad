//! The field: everything that a run has, and the few things that are done to it in more than one place.
//!
//! In: a directory. Out: brokers, Cassandra, proxies, daemons and a producer at work, with topics and a table; and
//! questions to them. Decides no faults.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use pelton_tests::process::get;
use pelton_tests::proxy::Proxy;
use pelton_tests::topics::looking;
use rand::Rng as _;
use rand::rngs::StdRng;
use rand::seq::SliceRandom as _;
use rdkafka::consumer::{BaseConsumer, Consumer as _};
use tokio::sync::{Mutex as AsyncMutex, MutexGuard};

use super::cluster::{BROKERS, BrokerPorts, Brokers, Cassandra, create_topic};
use super::daemons::{Slot, create_table};
use super::expect::Pile;
use super::faults::{Fault, Tally};
use super::ledger::Ledger;
use super::look;
use super::producer::Producing;
use super::records::PARTITIONS;
use super::voice::Voice;
use super::{ALERTS, Failure, JOURNAL, LETTERS, ORDERS, Options};

/// The daemon that is not there from the beginning.
pub(super) const EXTRA: usize = 2;
/// Places for daemons.
const SLOTS: usize = EXTRA + 1;
/// Bytes that the topic of dead letters takes.
const LETTER_BYTES: &str = "20000";

/// Everything that a run has. Fields end in this order: those who ask before those who answer.
pub(super) struct Field {
    pub(super) voice: Voice,
    pub(super) tally: Tally,
    pub(super) producer: Producing,
    pub(super) slots: Vec<AsyncMutex<Slot>>,
    consumer: Mutex<Arc<BaseConsumer>>,
    kafka_proxies: Vec<Proxy>,
    cassandra_proxy: Proxy,
    pub(super) brokers: AsyncMutex<Brokers>,
    pub(super) cassandra: Cassandra,
    /// Around the proxies.
    pub(super) bootstrap: String,
    starts: AtomicU64,
    stood_still_ms: AtomicU64,
    troubles: Mutex<Pile>,
}

impl Field {
    /// Starts everything; records flow when this returns.
    pub(super) async fn start_all(
        dir: &Path,
        options: &Options,
        voice: Voice,
        ledger: &Arc<Ledger>,
    ) -> Result<Self, Failure> {
        let broker_ports: Vec<_> = (0..BROKERS).map(|_| BrokerPorts::free()).collect();
        let mut kafka_proxies = Vec::new();
        for ports in &broker_ports {
            kafka_proxies.push(Proxy::start(&ports.upstream()).await);
        }
        let addresses: Vec<String> = kafka_proxies.iter().map(|proxy| proxy.address.clone()).collect();
        voice.say("three brokers and a Cassandra start");
        let (brokers, cassandra) =
            tokio::try_join!(Brokers::start(dir, &broker_ports, &addresses), Cassandra::start(dir))?;
        let bootstrap = Brokers::bootstrap(&broker_ports);
        let cassandra_proxy = Proxy::start(&cassandra.address()).await;
        create_topic(&bootstrap, ORDERS, PARTITIONS, &[]).await?;
        create_topic(&bootstrap, ALERTS, 2, &[]).await?;
        create_topic(&bootstrap, LETTERS, 2, &[("max.message.bytes", LETTER_BYTES)]).await?;
        // As the daemons would make it, but that the brokers say when they got an entry.
        let keeps = [("cleanup.policy", "delete"), ("retention.ms", "-1"), ("retention.bytes", "-1")];
        let journal = [&keeps[..], &[("message.timestamp.type", "LogAppendTime")]].concat();
        create_topic(&bootstrap, JOURNAL, 1, &journal).await?;
        let session = cassandra.session().await?;
        let replication = "{'class': 'SimpleStrategy', 'replication_factor': 1}";
        session.query_unpaged(format!("CREATE KEYSPACE chaos WITH replication = {replication}"), ()).await?;
        session.query_unpaged(create_table(), ()).await?;
        let slot = |number| {
            Slot::new(dir, number, &addresses.join(","), &cassandra_proxy.address, options.mount).map(AsyncMutex::new)
        };
        let field = Self {
            producer: Producing::start(&bootstrap, ORDERS, options.rate, options.seed, ledger)?,
            slots: (0..SLOTS).map(slot).collect::<Result<_, _>>()?,
            consumer: Mutex::new(Arc::new(looking(&bootstrap, ORDERS)?)),
            voice,
            tally: Tally::default(),
            kafka_proxies,
            cassandra_proxy,
            brokers: AsyncMutex::new(brokers),
            cassandra,
            bootstrap,
            starts: AtomicU64::new(0),
            stood_still_ms: AtomicU64::new(0),
            troubles: Mutex::default(),
        };
        for slot in &field.slots[..EXTRA] {
            field.start(&mut *slot.lock().await);
        }
        Ok(field)
    }

    /// Starts a daemon.
    pub(super) fn start(&self, slot: &mut Slot) {
        self.starts.fetch_add(1, Ordering::Relaxed);
        self.voice.say(&format!("daemon {} starts", slot.number));
        slot.start();
    }

    /// How often daemons were started.
    pub(super) fn starts(&self) -> u64 {
        self.starts.load(Ordering::Relaxed)
    }

    /// SIGTERM to a daemon; a bad end is a trouble.
    pub(super) async fn end(&self, slot: &mut Slot) {
        self.voice.say(&format!("daemon {} is told to end", slot.number));
        // While it still compiles its plugins the signal itself ends it: nothing has begun.
        let has_begun = slot.admin().is_some();
        match slot.terminate().await {
            Some(status) if status.success() || !has_begun && status.code().is_none() => {}
            Some(status) => self.trouble(format!("daemon {} ended with {status} after SIGTERM", slot.number)),
            None => self.trouble(format!("daemon {} did not end in time after SIGTERM", slot.number)),
        }
    }

    /// Some daemon that runs and that nobody else is busy with.
    pub(super) async fn running(&self, rng: &mut StdRng) -> Option<MutexGuard<'_, Slot>> {
        let mut order: Vec<usize> = (0..SLOTS).collect();
        order.shuffle(rng);
        for number in order {
            let slot = self.slots[number].lock().await;
            if slot.runs() {
                return Some(slot);
            }
        }
        None
    }

    /// The proxies that a network fault is about: all of them, or one.
    pub(super) fn proxies(&self, fault: Fault, all: bool, rng: &mut StdRng) -> Vec<&Proxy> {
        match fault {
            Fault::CassandraCut | Fault::CassandraDelayed | Fault::CassandraThrottled => vec![&self.cassandra_proxy],
            _ if all => self.kafka_proxies.iter().collect(),
            _ => vec![&self.kafka_proxies[rng.random_range(0..BROKERS)]],
        }
    }

    /// A daemon stood still for so long.
    pub(super) fn stood_still(&self, time: Duration) {
        self.stood_still_ms.fetch_max(time.as_millis() as u64, Ordering::Relaxed);
    }

    /// The longest time that a daemon was made to stand still, seconds.
    pub(super) fn stood_still_s(&self) -> i64 {
        self.stood_still_ms.load(Ordering::Relaxed) as i64 / 1_000 + 1
    }

    /// Something happened that should not.
    pub(super) fn trouble(&self, what: String) {
        self.voice.say(&format!("TROUBLE: {what}"));
        self.troubles.lock().unwrap_or_else(PoisonError::into_inner).add(what);
    }

    /// All that should not have happened.
    pub(super) fn troubles(&self) -> Pile {
        std::mem::take(&mut self.troubles.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// How many members the group has; none where the brokers do not tell.
    pub(super) async fn members(&self) -> Option<usize> {
        let consumer = self.consumer();
        let asked = tokio::task::spawn_blocking(move || {
            let list = consumer.fetch_group_list(Some(ORDERS), Duration::from_secs(10)).ok()?;
            Some(list.groups().first()?.members().len())
        });
        asked.await.ok().flatten()
    }

    /// Who asks the brokers.
    fn consumer(&self) -> Arc<BaseConsumer> {
        Arc::clone(&self.consumer.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// How much is committed, and how much there is; or what the brokers say instead.
    pub(super) async fn positions(&self) -> Result<(i64, i64), Failure> {
        let consumer = self.consumer();
        let asked = tokio::task::spawn_blocking(move || {
            let committed = look::commits(&consumer)?.values().map(|(offset, _)| offset).sum();
            Ok((committed, look::ends(&consumer)?))
        });
        let positions = asked.await?;
        if positions.is_err() {
            // A client that consumes nothing goes on asking the broker that led a partition once.
            let anew = Arc::new(looking(&self.bootstrap, ORDERS)?);
            *self.consumer.lock().unwrap_or_else(PoisonError::into_inner) = anew;
        }
        positions
    }

    /// Why a daemon is not ready; none where it is, or does not answer.
    pub(super) async fn unready(address: Option<SocketAddr>) -> Option<String> {
        let address = address?;
        let asked = tokio::task::spawn_blocking(move || get(address, "/readyz"));
        asked.await.ok().flatten().and_then(|(code, body)| (code != 200).then_some(body))
    }

    /// Starts again what has ended by itself, and says so, for ever; ends where nothing can go on.
    pub(super) async fn keep(&self) -> Failure {
        loop {
            tokio::time::sleep(Duration::from_millis(500)).await;
            if let Some(failure) = self.producer.failure() {
                return format!("the producer cannot go on: {failure}").into();
            }
            for slot in &self.slots {
                let Ok(mut slot) = slot.try_lock() else { continue };
                if let Some((status, last)) = slot.ended_by_itself() {
                    self.trouble(format!("daemon {} ended by itself ({status}): {last}", slot.number));
                    self.start(&mut slot);
                }
            }
        }
    }

    /// Says where it all stands, for ever.
    pub(super) async fn tell(&self) {
        loop {
            tokio::time::sleep(Duration::from_secs(5)).await;
            let mut daemons = 0;
            for slot in &self.slots {
                daemons += usize::from(slot.try_lock().is_ok_and(|slot| slot.runs()));
            }
            let brokers = self.brokers.try_lock().map_or(BROKERS - 1, |brokers| brokers.alive());
            let faults: u64 = self.tally.counts().values().sum();
            let behind = match self.positions().await {
                Ok((committed, end)) => format!("{} behind", end - committed),
                Err(error) => format!("brokers do not tell ({error})"),
            };
            let sent = self.producer.sent();
            self.voice.say(&format!(
                "{sent} sent, {behind}, {faults} faults, {daemons} daemons undisturbed, {brokers} brokers or more"
            ));
        }
    }

    /// Where spilled dead letters lie.
    pub(super) async fn spills(&self) -> Vec<PathBuf> {
        let mut spills = Vec::new();
        for slot in &self.slots {
            spills.push(slot.lock().await.spill());
        }
        spills
    }
}
