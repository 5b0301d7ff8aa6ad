//! Every kind of fault, in which order they come, and how often each has met somebody.
//!
//! In: the seed. Out: what is to be done next on each lane; at the end, the count of each kind. A kind that has not met
//! anybody yet comes before any that has, so that a run that is long enough has all of them. Never does anything itself.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};

use rand::rngs::StdRng;
use rand::seq::IndexedRandom as _;
use rand::{Rng, SeedableRng as _};
use serde::Serialize;

/// What can happen.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Fault {
    /// A daemon gets SIGKILL.
    Kill,
    /// A daemon gets SIGSTOP until its session has timed out, then SIGCONT.
    Freeze,
    /// A daemon gets SIGTERM, and comes back.
    Terminate,
    /// One more daemon joins the group.
    Join,
    /// A daemon starts with an empty cache of compiled plugins on a full disk.
    FullCache,
    /// A dead letter that does not fit into its topic, and no room for it on any daemon's disk.
    FullSpill,
    /// A broker gets SIGKILL, and comes back.
    BrokerDies,
    /// Cassandra is stopped and started.
    CassandraRestarts,
    /// Connections to brokers are cut.
    KafkaCut,
    /// Answers of brokers are held back.
    KafkaDelayed,
    /// Little gets through to and from brokers.
    KafkaThrottled,
    /// Connections to Cassandra are cut.
    CassandraCut,
    /// Answers of Cassandra are held back.
    CassandraDelayed,
    /// Little gets through to and from Cassandra.
    CassandraThrottled,
    /// Records that trap their plugin, or that it rejects, or that are none.
    Poison,
    /// Many records in one millisecond.
    Burst,
}

/// Faults of one lane come one after another; lanes go on beside each other.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Lane {
    /// To the daemons and their disks.
    Daemons,
    /// To brokers and Cassandra.
    Services,
    /// To connections.
    Network,
    /// To what is sent.
    Records,
}

impl Fault {
    /// All of them.
    pub(super) const ALL: [Self; 16] = [
        Self::Kill,
        Self::Freeze,
        Self::Terminate,
        Self::Join,
        Self::FullCache,
        Self::FullSpill,
        Self::BrokerDies,
        Self::CassandraRestarts,
        Self::KafkaCut,
        Self::KafkaDelayed,
        Self::KafkaThrottled,
        Self::CassandraCut,
        Self::CassandraDelayed,
        Self::CassandraThrottled,
        Self::Poison,
        Self::Burst,
    ];

    /// For people.
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Kill => "a daemon is killed (SIGKILL)",
            Self::Freeze => "a daemon is frozen past its session (SIGSTOP)",
            Self::Terminate => "a daemon is told to end (SIGTERM)",
            Self::Join => "a daemon joins",
            Self::FullCache => "the disk under the cache is full",
            Self::FullSpill => "the disk under the spill is full",
            Self::BrokerDies => "a broker dies",
            Self::CassandraRestarts => "Cassandra restarts",
            Self::KafkaCut => "connections to Kafka are cut",
            Self::KafkaDelayed => "connections to Kafka are delayed",
            Self::KafkaThrottled => "connections to Kafka are throttled",
            Self::CassandraCut => "connections to Cassandra are cut",
            Self::CassandraDelayed => "connections to Cassandra are delayed",
            Self::CassandraThrottled => "connections to Cassandra are throttled",
            Self::Poison => "poison records",
            Self::Burst => "a burst in one millisecond",
        }
    }

    /// Where it comes.
    pub(super) fn lane(self) -> Lane {
        match self {
            Self::Kill | Self::Freeze | Self::Terminate | Self::Join | Self::FullCache | Self::FullSpill => {
                Lane::Daemons
            }
            Self::BrokerDies | Self::CassandraRestarts => Lane::Services,
            Self::KafkaCut
            | Self::KafkaDelayed
            | Self::KafkaThrottled
            | Self::CassandraCut
            | Self::CassandraDelayed
            | Self::CassandraThrottled => Lane::Network,
            Self::Poison | Self::Burst => Lane::Records,
        }
    }
}

impl Lane {
    /// All of them.
    pub(super) const ALL: [Self; 4] = [Self::Daemons, Self::Services, Self::Network, Self::Records];
}

/// How often each kind has met somebody.
#[derive(Default)]
pub(super) struct Tally(Mutex<BTreeMap<Fault, u64>>);

impl Tally {
    /// Once more.
    pub(super) fn count(&self, fault: Fault) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner).entry(fault).or_default() += 1;
    }

    /// How often, by kind; 0 where never.
    pub(super) fn counts(&self) -> BTreeMap<Fault, u64> {
        let counts = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        Fault::ALL.into_iter().map(|fault| (fault, counts.get(&fault).copied().unwrap_or(0))).collect()
    }

    /// The kinds that have met nobody yet.
    pub(super) fn missing(&self) -> Vec<Fault> {
        self.counts().into_iter().filter(|(_, count)| *count == 0).map(|(fault, _)| fault).collect()
    }
}

/// One lane's faults, in the order that the seed gives.
pub(super) struct Deck {
    lane: Lane,
    /// Of this lane alone, so that what happens on others does not change what it chooses.
    pub(super) rng: StdRng,
}

impl Deck {
    /// The deck of a lane.
    pub(super) fn of(lane: Lane, seed: u64) -> Self {
        Self { lane, rng: StdRng::seed_from_u64(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ lane as u64) }
    }

    /// The next kind: one that has met nobody yet, as long as there is one on this lane.
    pub(super) fn deal(&mut self, tally: &Tally) -> Fault {
        let missing: Vec<Fault> = tally.missing().into_iter().filter(|fault| fault.lane() == self.lane).collect();
        let all: Vec<Fault> = Fault::ALL.into_iter().filter(|fault| fault.lane() == self.lane).collect();
        let from = if missing.is_empty() { &all } else { &missing };
        *from.choose(&mut self.rng).expect("every lane has faults")
    }

    /// Whether every kind of this lane has met somebody.
    pub(super) fn is_through(&self, tally: &Tally) -> bool {
        tally.missing().iter().all(|fault| fault.lane() != self.lane)
    }

    /// A time between two.
    pub(super) fn between(&mut self, low_ms: u64, high_ms: u64) -> std::time::Duration {
        std::time::Duration::from_millis(self.rng.random_range(low_ms..=high_ms))
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn the_list_has_every_kind_once_and_every_lane_has_some() {
        let all: BTreeSet<Fault> = Fault::ALL.into_iter().collect();
        assert_eq!((all.len(), all.last().map(|last| *last as usize + 1)), (Fault::ALL.len(), Some(Fault::ALL.len())));
        assert!(Lane::ALL.iter().all(|lane| Fault::ALL.iter().any(|fault| fault.lane() == *lane)));
    }

    #[test]
    fn every_kind_comes_once_before_any_comes_twice() {
        for (seed, lane) in (0..50).flat_map(|seed| Lane::ALL.map(|lane| (seed, lane))) {
            let (mut deck, tally) = (Deck::of(lane, seed), Tally::default());
            while !deck.is_through(&tally) {
                let fault = deck.deal(&tally);
                tally.count(fault);
            }
            assert!(tally.counts().values().all(|count| *count <= 1), "seed {seed}");
        }
    }

    #[test]
    fn what_met_nobody_comes_again() {
        let (mut deck, tally) = (Deck::of(Lane::Services, 1), Tally::default());
        tally.count(Fault::BrokerDies);
        assert!((0..5).all(|_| deck.deal(&tally) == Fault::CassandraRestarts));
        assert!(!deck.is_through(&tally));
    }

    #[test]
    fn the_same_seed_deals_the_same_faults() {
        let deal = |seed| {
            let (mut deck, tally) = (Deck::of(Lane::Daemons, seed), Tally::default());
            Fault::ALL.iter().for_each(|fault| tally.count(*fault));
            (0..20).map(|_| deck.deal(&tally)).collect::<Vec<_>>()
        };
        assert_eq!(deal(7), deal(7));
        assert_ne!(deal(7), deal(8));
    }
}
