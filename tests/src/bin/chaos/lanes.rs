//! Makes faults: four lanes beside each other, on each one fault after another.
//!
//! In: the field on which it all happens, and until when. Out: faults that have met somebody, counted; a fault that found
//! nobody is not counted, and comes again. Each mends what it broke before it returns.

use std::time::Duration;

use rand::Rng as _;
use rand::seq::IndexedRandom as _;
use tokio::time::{Instant, sleep};

use super::Failure;
use super::cluster::BROKERS;
use super::daemons::SESSION;
use super::faults::{Deck, Fault, Lane};
use super::field::{EXTRA, Field};
use super::producer::Order;
use super::records::Poison;
use super::until;

/// How long a fault may take to meet somebody, on a machine that is busy.
const MEET: Duration = Duration::from_secs(90);
/// How long a daemon is frozen at most: one that was not in the group is not missed.
const FROZEN: Duration = Duration::from_secs(30);
/// How much longer than wanted a run may go on for kinds that have not met anybody.
const OVERTIME: Duration = Duration::from_secs(300);

/// All faults of a run: until `end`, and longer where a kind has not met anybody.
pub(super) async fn storm(field: &Field, seed: u64, lasts: Duration) -> Result<(), Failure> {
    let lane = |lane| one_lane(field, Deck::of(lane, seed), lasts);
    let [daemons, services, network, records] = Lane::ALL.map(lane);
    tokio::try_join!(daemons, services, network, records)?;
    Ok(())
}

async fn one_lane(field: &Field, mut deck: Deck, lasts: Duration) -> Result<(), Failure> {
    let began = Instant::now();
    let mut recovers = Duration::ZERO;
    // A short run has short pauses.
    let pause_ms = (lasts.as_millis() as u64 / 15).clamp(1_000, 8_000);
    loop {
        let over = began.elapsed();
        if over > lasts && deck.is_through(&field.tally) || over > lasts + OVERTIME {
            return Ok(());
        }
        let pause = deck.between(300, pause_ms);
        sleep(pause.max(recovers)).await;
        let (fault, struck) = (deck.deal(&field.tally), Instant::now());
        if strike(field, fault, &mut deck).await? {
            field.tally.count(fault);
        } else {
            field.voice.say(&format!("(met nobody, comes again: {})", fault.name()));
        }
        // Services are there for as long as they were away, or nothing would get through any more.
        recovers = if fault.lane() == Lane::Services { struck.elapsed() } else { Duration::ZERO };
    }
}

/// One fault; whether it met somebody.
async fn strike(field: &Field, fault: Fault, deck: &mut Deck) -> Result<bool, Failure> {
    match fault {
        Fault::Kill => kill(field, deck).await,
        Fault::Freeze => freeze(field, deck).await,
        Fault::Terminate => terminate(field, deck).await,
        Fault::Join => join(field).await,
        Fault::FullCache => full_cache(field, deck).await,
        Fault::FullSpill => full_spill(field, deck).await,
        Fault::BrokerDies => broker_dies(field, deck).await,
        Fault::CassandraRestarts => cassandra_restarts(field, deck).await,
        Fault::KafkaCut | Fault::CassandraCut => cut(field, fault, deck).await,
        Fault::KafkaDelayed | Fault::CassandraDelayed => delay(field, fault, deck).await,
        Fault::KafkaThrottled | Fault::CassandraThrottled => throttle(field, fault, deck).await,
        Fault::Poison => poison(field, deck),
        Fault::Burst => burst(field, deck),
    }
}

async fn kill(field: &Field, deck: &mut Deck) -> Result<bool, Failure> {
    let away = deck.between(0, 9_000);
    let Some(mut slot) = field.running(&mut deck.rng).await else { return Ok(false) };
    field.voice.say(&format!("daemon {} is killed, for {:.1} s", slot.number, away.as_secs_f32()));
    slot.kill();
    sleep(away).await;
    field.start(&mut slot);
    Ok(true)
}

async fn freeze(field: &Field, deck: &mut Deck) -> Result<bool, Failure> {
    let longer = deck.between(0, 5_000);
    let Some(slot) = field.running(&mut deck.rng).await else { return Ok(false) };
    let Some(before) = field.members().await.filter(|members| *members > 0) else { return Ok(false) };
    field.voice.say(&format!("daemon {} is frozen", slot.number));
    let began = Instant::now();
    slot.signal("STOP");
    let thrown_out = loop {
        // Before that time it may be another member that is missing.
        if began.elapsed() > SESSION && field.members().await.is_some_and(|members| members < before) {
            break true;
        }
        if began.elapsed() > FROZEN {
            break false;
        }
        sleep(Duration::from_millis(500)).await;
    };
    sleep(longer).await;
    slot.signal("CONT");
    field.stood_still(began.elapsed());
    let seconds = began.elapsed().as_secs_f32();
    field.voice.say(&format!("daemon {} goes on after {seconds:.1} s, thrown out: {thrown_out}", slot.number));
    Ok(thrown_out)
}

async fn terminate(field: &Field, deck: &mut Deck) -> Result<bool, Failure> {
    let away = deck.between(0, 6_000);
    let Some(mut slot) = field.running(&mut deck.rng).await else { return Ok(false) };
    field.end(&mut slot).await;
    sleep(away).await;
    field.start(&mut slot);
    Ok(true)
}

async fn join(field: &Field) -> Result<bool, Failure> {
    let mut slot = field.slots[EXTRA].lock().await;
    if slot.runs() {
        field.end(&mut slot).await;
    }
    let Some(before) = field.members().await else { return Ok(false) };
    field.start(&mut slot);
    drop(slot);
    let began = Instant::now();
    while began.elapsed() < MEET {
        if field.members().await.is_some_and(|members| members > before) {
            return Ok(true);
        }
        sleep(Duration::from_millis(500)).await;
    }
    Ok(false)
}

async fn full_cache(field: &Field, deck: &mut Deck) -> Result<bool, Failure> {
    let Some(mut slot) = field.running(&mut deck.rng).await else { return Ok(false) };
    field.end(&mut slot).await;
    slot.clear_cache()?;
    field.voice.say(&format!("the disk of daemon {} is full, and its cache is empty", slot.number));
    slot.fill_disk()?;
    field.start(&mut slot);
    let said = until(MEET, || slot.says("cannot keep a compiled plugin").then_some(())).await;
    slot.free_disk()?;
    Ok(said.is_some())
}

async fn full_spill(field: &Field, deck: &mut Deck) -> Result<bool, Failure> {
    let hold = deck.between(500, 4_000);
    field.voice.say("every disk is full, and dead letters come that must be spilled");
    for slot in &field.slots {
        slot.lock().await.fill_disk()?;
    }
    field.producer.tell(Order::Large)?;
    let began = Instant::now();
    let mut blocked = false;
    while !blocked && began.elapsed() < MEET {
        for slot in &field.slots {
            let address = slot.lock().await.admin();
            blocked |= Field::unready(address).await.is_some_and(|cause| cause.contains("orders.jsonl"));
        }
        sleep(Duration::from_millis(250)).await;
    }
    sleep(hold).await;
    for slot in &field.slots {
        slot.lock().await.free_disk()?;
    }
    field.voice.say("there is room on every disk again");
    Ok(blocked)
}

async fn broker_dies(field: &Field, deck: &mut Deck) -> Result<bool, Failure> {
    let (node, away) = (deck.rng.random_range(0..BROKERS), deck.between(1_000, 10_000));
    let mut brokers = field.brokers.lock().await;
    // Never two at once: two of three must be there for a record to count.
    if !brokers.replicated().await {
        field.trouble("the brokers did not replicate everything within their time".to_owned());
    }
    field.voice.say(&format!("broker {node} dies, for {:.1} s", away.as_secs_f32()));
    brokers.kill(node);
    sleep(away).await;
    brokers.revive(node).await?;
    field.voice.say(&format!("broker {node} is back"));
    Ok(true)
}

async fn cassandra_restarts(field: &Field, deck: &mut Deck) -> Result<bool, Failure> {
    let away = deck.between(0, 5_000);
    field.voice.say("Cassandra stops");
    field.cassandra.down().await?;
    sleep(away).await;
    field.cassandra.up().await?;
    field.voice.say("Cassandra is back");
    Ok(true)
}

async fn cut(field: &Field, fault: Fault, deck: &mut Deck) -> Result<bool, Failure> {
    let proxies = field.proxies(fault, deck.rng.random_bool(0.5), &mut deck.rng);
    let before: u64 = proxies.iter().map(|proxy| proxy.met().cut).sum();
    let times = deck.rng.random_range(1..=4);
    field.voice.say(&format!("{}, {times} times", fault.name()));
    for _ in 0..times {
        let closed = if deck.rng.random_bool(0.3) { deck.between(200, 3_000) } else { Duration::ZERO };
        proxies.iter().for_each(|proxy| if closed.is_zero() { proxy.cut() } else { proxy.set_closed(true) });
        sleep(closed).await;
        proxies.iter().for_each(|proxy| proxy.set_closed(false));
        sleep(deck.between(100, 1_500)).await;
    }
    Ok(proxies.iter().map(|proxy| proxy.met().cut).sum::<u64>() > before)
}

async fn delay(field: &Field, fault: Fault, deck: &mut Deck) -> Result<bool, Failure> {
    let proxies = field.proxies(fault, true, &mut deck.rng);
    let before: u64 = proxies.iter().map(|proxy| proxy.met().delayed).sum();
    let (by, lasts) = (deck.between(30, 1_500), deck.between(1_000, 8_000));
    field.voice.say(&format!("{} by {} ms, for {:.1} s", fault.name(), by.as_millis(), lasts.as_secs_f32()));
    proxies.iter().for_each(|proxy| proxy.set_delay(by));
    sleep(lasts).await;
    proxies.iter().for_each(|proxy| proxy.set_delay(Duration::ZERO));
    Ok(proxies.iter().map(|proxy| proxy.met().delayed).sum::<u64>() > before)
}

async fn throttle(field: &Field, fault: Fault, deck: &mut Deck) -> Result<bool, Failure> {
    let proxies = field.proxies(fault, true, &mut deck.rng);
    let before: u64 = proxies.iter().map(|proxy| proxy.met().throttled).sum();
    let (kib, lasts) = (*[4, 16, 64].choose(&mut deck.rng).expect("three"), deck.between(1_000, 8_000));
    field.voice.say(&format!("{} to {kib} KiB/s, for {:.1} s", fault.name(), lasts.as_secs_f32()));
    proxies.iter().for_each(|proxy| proxy.set_throttle(kib << 10));
    sleep(lasts).await;
    proxies.iter().for_each(|proxy| proxy.set_throttle(0));
    Ok(proxies.iter().map(|proxy| proxy.met().throttled).sum::<u64>() > before)
}

fn poison(field: &Field, deck: &mut Deck) -> Result<bool, Failure> {
    let count = deck.rng.random_range(1..=6);
    let mut any = || *Poison::SMALL.choose(&mut deck.rng).expect("some");
    let same = any();
    field.voice.say(&format!("{count} poison records"));
    // All of one kind, which then stand side by side, or of every kind.
    let all = if count % 2 == 0 { vec![same; count] } else { (0..count).map(|_| any()).collect() };
    field.producer.tell(Order::Poison(all))?;
    Ok(true)
}

fn burst(field: &Field, deck: &mut Deck) -> Result<bool, Failure> {
    let count = deck.rng.random_range(200..=1_500);
    field.voice.say(&format!("{count} records in one millisecond"));
    field.producer.tell(Order::Burst(count))?;
    Ok(true)
}
