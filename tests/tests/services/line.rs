//! The line from end to end: a real Kafka, the daemon as it ships, a plugin, a real Cassandra. What the table must hold
//! comes from a program that knows nothing but the topic.

use std::collections::BTreeSet;
use std::ops::Range;
use std::sync::Arc;
use std::time::{Duration, UNIX_EPOCH};

use pelton_tests::process::get;
use rdkafka::consumer::BaseConsumer;
use scylla::statement::prepared::PreparedStatement;
use tempfile::TempDir;

use crate::cassandra_support::{Keyspace, address, proxy, with_keyspace};
use crate::kafka_support::Topic;
use crate::line_support::{
    COLUMNS, Daemon, Producing, Wiring, assert_same, assert_same_expiry, committed_by, expected, expiries, looking,
    order, positions, project, stored, until_committed,
};

const PARTITIONS: i32 = 4;

fn now_ms() -> i64 {
    #[expect(clippy::disallowed_methods, reason = "a test's producer is a wall-clock writer")]
    let now = std::time::SystemTime::now();
    now.duration_since(UNIX_EPOCH).expect("after 1970").as_millis() as i64
}

fn key_of(number: i64, keys: i64) -> i64 {
    (number * 7_919) % keys
}

fn partition_of(key: i64) -> i32 {
    (key % i64::from(PARTITIONS)) as i32
}

/// Sends `count` orders over `keys` keys in turn, a key always to one partition. Timestamps are shuffled within a second,
/// one hundredth of all fall into one millisecond, and the middle one lies three minutes ahead.
fn produce(topic: &str, count: i64, keys: i64) {
    produce_part(topic, 0..count, count, keys);
}

/// Sends some of them; all of a topic are sent in order.
fn produce_part(topic: &str, numbers: Range<i64>, count: i64, keys: i64) {
    let producing = Producing::to(topic);
    let base = now_ms() - 10 * 60_000;
    for number in numbers {
        let key = key_of(number, keys);
        let shuffle = (number * 104_729) % 1_000;
        let timestamp_ms = match number {
            _ if number == count / 2 => now_ms() + 3 * 60_000,
            _ if (count / 4..count / 4 + count / 100).contains(&number) => base,
            _ => base + number * 300_000 / count + shuffle,
        };
        let key_text = format!("k{key}");
        producing.send(partition_of(key), &key_text, &order(&key_text, number, timestamp_ms), timestamp_ms);
    }
    producing.finish();
}

/// A topic of orders, one for dead letters, a table, and a project that takes the one to the other.
struct Scene {
    topic: Topic,
    letters: Topic,
    live: String,
    cassandra: String,
    drain: &'static str,
    dir: TempDir,
}

impl Scene {
    async fn new(about: &str, keyspace: &Keyspace, cassandra: &str, drain: &'static str) -> Self {
        let topic = Topic::new(about, PARTITIONS).await;
        let letters = Topic::new(&format!("{about}-dlq"), 1).await;
        let live = table(keyspace, "live").await;
        let dir = wired(&topic, &topic.name, &live, &letters, cassandra, drain);
        Self { topic, letters, live, cassandra: cassandra.to_owned(), drain, dir }
    }

    /// The same topic under another group into another table.
    fn again(&self, group: &str, table: &str) -> TempDir {
        wired(&self.topic, group, table, &self.letters, &self.cassandra, self.drain)
    }

    async fn end(self) {
        self.topic.delete().await;
        self.letters.delete().await;
    }
}

fn wired(topic: &Topic, group: &str, table: &str, letters: &Topic, cassandra: &str, drain: &str) -> TempDir {
    project(&Wiring { topic: &topic.name, group, table, dead_letters: &letters.name, cassandra, drain })
}

async fn table(keyspace: &Keyspace, name: &str) -> String {
    keyspace.cql(&format!("CREATE TABLE KS.{name} ({COLUMNS})")).await;
    format!("{}.{name}", keyspace.name)
}

/// Sees from outside, with two cheap questions, whether the table holds rows of records past the committed offsets. Knows
/// which record stands where, since it knows what was produced.
struct Lookout<'k> {
    keyspace: &'k Keyspace,
    select: PreparedStatement,
    consumer: Arc<BaseConsumer>,
    topic: String,
    /// By partition and offset: key and number.
    records: Vec<Vec<(i64, i64)>>,
}

impl<'k> Lookout<'k> {
    /// How far beyond the committed offset it looks.
    const AHEAD: [i64; 8] = [0, 3, 15, 63, 127, 255, 511, 1_023];

    async fn new(keyspace: &'k Keyspace, table: &str, topic: &str, count: i64, keys: i64) -> Self {
        let select = format!("SELECT amount_cents FROM {table} WHERE order_id = ?");
        let select = keyspace.session.prepare(select).await.unwrap();
        let mut records = vec![Vec::new(); PARTITIONS as usize];
        for number in 0..count {
            let key = key_of(number, keys);
            records[partition_of(key) as usize].push((key, number));
        }
        Self { keyspace, select, consumer: Arc::new(looking(topic)), topic: topic.to_owned(), records }
    }

    /// The committed offset of each partition; 0 where there is none.
    async fn committed(&self) -> Vec<i64> {
        let (consumer, topic) = (Arc::clone(&self.consumer), self.topic.clone());
        let look = tokio::task::spawn_blocking(move || committed_by(&consumer, &topic, PARTITIONS));
        look.await.expect("a look")
    }

    /// How many rows past these offsets it finds among those that it looks for.
    async fn rows_past(&self, committed: &[i64]) -> usize {
        self.rows_past_in(committed, |_| true).await
    }

    /// The same of some partitions.
    async fn rows_past_in(&self, committed: &[i64], is_meant: impl Fn(i32) -> bool) -> usize {
        let mut looks = Vec::new();
        let partitions = (0..).zip(self.records.iter().zip(committed));
        for (_, (records, committed)) in partitions.filter(|(partition, _)| is_meant(*partition)) {
            let offsets = Self::AHEAD.iter().map(|ahead| (committed + ahead) as usize);
            let keys = offsets.filter_map(|offset| records.get(offset)).map(|(key, _)| *key);
            looks.extend(keys.map(|key| self.is_past(records, *committed, key)));
        }
        futures::future::join_all(looks).await.into_iter().filter(|is_past| *is_past).count()
    }

    /// Whether the row of a key was written by a record at or past the committed offset.
    async fn is_past(&self, records: &[(i64, i64)], committed: i64, key: i64) -> bool {
        let row = self.keyspace.session.execute_unpaged(&self.select, (format!("k{key}"),)).await.unwrap();
        let row = row.into_rows_result().unwrap().maybe_first_row::<(Option<i64>,)>().unwrap();
        let Some((Some(number),)) = row else { return false };
        let offset = records.partition_point(|(_, of_record)| *of_record < number);
        offset as i64 >= committed
    }
}

/// The partitions that a daemon reads, as it says itself.
fn partitions_of(daemon: &Daemon) -> Vec<i32> {
    let status = daemon.admin().and_then(|admin| get(admin, "/status"));
    let status = status.and_then(|(_, body)| serde_json::from_str::<serde_json::Value>(&body).ok());
    let partitions = status.and_then(|status| status["pipelines"][0]["partitions"].as_array().cloned());
    let number = |partition: &serde_json::Value| partition["partition"].as_i64().expect("a number") as i32;
    partitions.unwrap_or_default().iter().map(number).collect()
}

/// Waits until two daemons share all partitions; says which the first of them has.
async fn shared_by(one: &mut Daemon, other: &mut Daemon) -> Vec<i32> {
    let mut own = Vec::new();
    until("two daemons share the partitions", || {
        one.assert_alive();
        other.assert_alive();
        let others = partitions_of(other);
        own = partitions_of(one);
        let all: BTreeSet<i32> = own.iter().chain(&others).copied().collect();
        let are_shared = !own.is_empty() && !others.is_empty() && own.len() + others.len() == PARTITIONS as usize;
        let are_shared = are_shared && all.len() == PARTITIONS as usize;
        async move { are_shared }
    })
    .await;
    own
}

/// The sum of a group's committed offsets.
async fn committed_in_all(topic: &str) -> i64 {
    let topic = topic.to_owned();
    let look = tokio::task::spawn_blocking(move || positions(&topic, &topic, PARTITIONS));
    look.await.expect("a look").into_iter().map(|(committed, _)| committed).sum()
}

async fn until<F: Future<Output = bool>>(what: &str, mut is_so: impl FnMut() -> F) {
    let limit = tokio::time::Instant::now() + Duration::from_secs(60);
    while tokio::time::Instant::now() < limit {
        if is_so().await {
            return;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    panic!("not within a minute: {what}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_million_records_with_five_kills_and_read_again_from_the_beginning() {
    with_keyspace(|keyspace| async move {
        let count: i64 = std::env::var("PELTON_LINE_RECORDS").ok().map_or(1_000_000, |n| n.parse().expect("a number"));
        let scene = Scene::new("million", &keyspace, &address(), "20 s").await;
        let (topic, live, dir) = (&scene.topic, &scene.live, &scene.dir);
        let producer = {
            let topic = topic.name.clone();
            tokio::task::spawn_blocking(move || produce(&topic, count, count / 25))
        };

        // Killed five times, each time after rows of records were seen that were not committed, by this daemon's own
        // work: it had committed something before. A commit may come between the look and the kill, so it is looked
        // again; then that kill does not count.
        let lookout = Lookout::new(&keyspace, live, &topic.name, count, count / 25).await;
        let (mut kills, mut wasted) = (0, 0);
        while kills < 5 {
            let before: i64 = lookout.committed().await.iter().sum();
            let mut daemon = Daemon::start(dir.path(), &format!("killed-{kills}-{wasted}"));
            until("rows past the committed offset are seen", || {
                daemon.assert_alive();
                async {
                    let committed = lookout.committed().await;
                    committed.iter().sum::<i64>() > before && lookout.rows_past(&committed).await > 0
                }
            })
            .await;
            daemon.kill();
            let are_past = lookout.rows_past(&lookout.committed().await).await > 0;
            (kills, wasted) = if are_past { (kills + 1, wasted) } else { (kills, wasted + 1) };
            assert!(wasted < 10, "commits come between the look and the kill again and again");
        }
        producer.await.expect("the producer");

        let mut daemon = Daemon::start(dir.path(), "last");
        until_committed(&topic.name, &topic.name, PARTITIONS, &mut [&mut daemon]).await;
        assert!(daemon.terminate().success());
        let wanted = {
            let topic = topic.name.clone();
            tokio::task::spawn_blocking(move || expected(&topic)).await.unwrap()
        };
        assert_eq!(wanted.len() as i64, count / 25, "every key was updated 25 times");
        assert_same(&stored(&keyspace, live).await, &wanted);
        let dead = {
            let letters = scene.letters.name.clone();
            tokio::task::spawn_blocking(move || positions("none", &letters, 1)).await.unwrap()
        };
        assert_eq!(dead[0].1, 0, "nothing went to the dead letters");

        // Again, from the beginning, under a new group, into an empty copy.
        let copy = table(&keyspace, "copy").await;
        let group = format!("{}-again", topic.name);
        let dir = scene.again(&group, &copy);
        let mut daemon = Daemon::start(dir.path(), "again");
        until_committed(&group, &topic.name, PARTITIONS, &mut [&mut daemon]).await;
        assert!(daemon.terminate().success());
        assert_same(&stored(&keyspace, &copy).await, &wanted);
        assert_same_expiry(&expiries(&keyspace, live).await, &expiries(&keyspace, &copy).await, wanted.len());
        scene.end().await;
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn two_daemons_share_four_partitions_one_joins_and_one_is_killed() {
    with_keyspace(|keyspace: Arc<Keyspace>| async move {
        // Records come in pieces, so that there are some whenever two daemons share the partitions.
        const PIECE: i64 = 60_000;
        const PIECES: i64 = 6;
        let scene = Scene::new("shared", &keyspace, &address(), "20 s").await;
        let (topic, live, dir) = (&scene.topic, &scene.live, &scene.dir);
        let produce_piece = |piece: i64| {
            let (topic, numbers) = (topic.name.clone(), piece * PIECE..(piece + 1) * PIECE);
            tokio::task::spawn_blocking(move || produce_part(&topic, numbers, PIECES * PIECE, 4_000))
        };
        let lookout = Lookout::new(&keyspace, live, &topic.name, PIECES * PIECE, 4_000).await;
        let mut producer = produce_piece(0);
        let mut first = Daemon::start(dir.path(), "first");
        until("the first has committed something", || async { committed_in_all(&topic.name).await > 0 }).await;
        let mut second = Daemon::start(dir.path(), "second");

        // Killed after rows of records were seen that were not committed, in its own partitions and by its own work; as
        // above, a commit may come between the look and the kill, and then that kill does not count.
        let mut wasted = 0;
        loop {
            producer.await.expect("the producer");
            let own = shared_by(&mut first, &mut second).await;
            let is_own = |partition: i32| own.contains(&partition);
            let of_own = |committed: &[i64]| own.iter().map(|at| committed[*at as usize]).sum::<i64>();
            let before = of_own(&lookout.committed().await);
            producer = produce_piece(wasted + 1);
            until("rows past the committed offset of the first's partitions are seen", || {
                first.assert_alive();
                async {
                    let committed = lookout.committed().await;
                    of_own(&committed) > before && lookout.rows_past_in(&committed, is_own).await > 0
                }
            })
            .await;
            first.kill();
            if lookout.rows_past_in(&lookout.committed().await, is_own).await > 0 {
                break;
            }
            wasted += 1;
            assert!(wasted + 1 < PIECES, "commits come between the look and the kill again and again");
            first = std::mem::replace(&mut second, Daemon::start(dir.path(), &format!("second-{wasted}")));
        }
        producer.await.expect("the producer");
        until_committed(&topic.name, &topic.name, PARTITIONS, &mut [&mut second]).await;
        assert!(second.terminate().success());
        let wanted = {
            let topic = topic.name.clone();
            tokio::task::spawn_blocking(move || expected(&topic)).await.unwrap()
        };
        assert_same(&stored(&keyspace, live).await, &wanted);
        scene.end().await;
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_table_that_is_away_blocks_and_the_forced_end_of_a_drain_loses_nothing() {
    with_keyspace(|keyspace: Arc<Keyspace>| async move {
        let proxy = proxy().await;
        let scene = Scene::new("away", &keyspace, &proxy.address, "2 s").await;
        let (topic, live, dir) = (&scene.topic, &scene.live, &scene.dir);
        let send = || {
            let topic = topic.name.clone();
            async move { tokio::task::spawn_blocking(move || produce(&topic, 30_000, 2_000)).await.expect("the producer") }
        };
        let committed = || committed_in_all(&topic.name);
        send().await;
        let mut daemon = Daemon::start(dir.path(), "blocked");
        until("something is committed", || async { committed().await > 0 }).await;
        // Cassandra is gone for the daemon; records come all the same, and then SIGTERM.
        proxy.set_closed(true);
        proxy.cut();
        send().await;
        until("the daemon says that it is blocked", || async { daemon.log().contains("blocked") }).await;
        daemon.assert_alive();
        assert!(daemon.terminate().success(), "a forced drain is no failure: {}", daemon.log());
        assert!(daemon.log().contains("will be repeated"), "the log says what was cut off: {}", daemon.log());

        // Gone and back under a running daemon.
        proxy.set_closed(false);
        let before = committed().await;
        let mut daemon = Daemon::start(dir.path(), "back");
        until("it goes on", || async { committed().await > before }).await;
        proxy.set_closed(true);
        proxy.cut();
        send().await;
        daemon.assert_alive();
        proxy.set_closed(false);
        until_committed(&topic.name, &topic.name, PARTITIONS, &mut [&mut daemon]).await;
        assert!(daemon.terminate().success());
        let wanted = {
            let topic = topic.name.clone();
            tokio::task::spawn_blocking(move || expected(&topic)).await.unwrap()
        };
        assert_same(&stored(&keyspace, live).await, &wanted);
        scene.end().await;
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_second_signal_ends_at_once_and_says_so() {
    with_keyspace(|keyspace: Arc<Keyspace>| async move {
        let proxy = proxy().await;
        let scene = Scene::new("twice", &keyspace, &proxy.address, "10 min").await;
        let (topic, dir) = (&scene.topic, &scene.dir);
        produce_beside(&topic.name, 5_000).await;
        let mut daemon = Daemon::start(dir.path(), "twice");
        until("something is committed", || async { committed_in_all(&topic.name).await > 0 }).await;
        // Cassandra never answers from here on, so the first signal's drain would take its ten minutes.
        proxy.set_closed(true);
        produce_beside(&topic.name, 5_000).await;
        until("the daemon says that it is blocked", || async { daemon.log().contains("blocked") }).await;
        daemon.signal("TERM");
        until("it drains", || async { daemon.log().contains("draining") }).await;
        daemon.assert_alive();
        daemon.signal("INT");
        until("it has ended", || {
            let ended = daemon.ended();
            async move { ended.is_some() }
        })
        .await;
        assert_eq!(daemon.ended().and_then(|status| status.code()), Some(4), "{}", daemon.log());
        assert!(daemon.log().contains("ended at once"), "{}", daemon.log());
        scene.end().await;
    })
    .await;
}

async fn produce_beside(topic: &str, count: i64) {
    let topic = topic.to_owned();
    tokio::task::spawn_blocking(move || produce(&topic, count, count / 10)).await.expect("the producer");
}
