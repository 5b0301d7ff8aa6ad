//! One run from its start to its verdict.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use pelton_tests::process::repository;
use pelton_tests::topics::looking;
use tokio::time::{Instant, sleep};

use super::decisions::walls;
use super::expect::{Findings, Found, ahead, compare, expect};
use super::field::Field;
use super::ledger::Ledger;
use super::report::Report;
use super::voice::Voice;
use super::{Failure, ORDERS, Options, lanes, look, now_ms};

/// How long the daemons may take to begin, on a machine that is busy.
const BEGIN: Duration = Duration::from_secs(180);
/// How long nothing may be committed at the end, while something is left.
const STANDSTILL: Duration = Duration::from_secs(90);
/// Between the moment in which a time to live is reckoned and the write lie throttled connections and a busy machine.
const LATE_S: i64 = 30;

/// Runs, reports, and answers whether all is well.
pub(super) async fn run(options: &Options) -> Result<bool, Failure> {
    let place = repository().join(".pelton/chaos");
    std::fs::create_dir_all(&place)?;
    let mut dir = tempfile::Builder::new().prefix(&format!("seed-{}-", options.seed)).tempdir_in(&place)?;
    // Kept until all has gone well: what ends this early leaves its logs.
    dir.disable_cleanup(true);
    eprintln!("logs stand in {}", dir.path().display());
    let report = weather(dir.path(), options).await;
    let is_well = report.as_ref().is_ok_and(Report::is_well);
    if is_well && !options.keep {
        dir.disable_cleanup(false);
    } else {
        forget_data(dir.path());
    }
    let report = report?;
    let json = serde_json::to_string_pretty(&report)?;
    if options.json {
        println!("{json}");
    } else {
        println!("{report}");
    }
    if !is_well {
        std::fs::write(dir.path().join("report.json"), json)?;
        eprintln!("Ledger, logs and spilled letters stay in {}", dir.path().display());
    }
    Ok(is_well)
}

/// What only takes room.
fn forget_data(dir: &Path) {
    for broker in 0..super::cluster::BROKERS {
        std::fs::remove_dir_all(dir.join(format!("broker-{broker}/data"))).ok();
    }
    for part in ["data", "commitlog", "hints", "saved_caches", "cdc_raw", "tmp"] {
        std::fs::remove_dir_all(dir.join("cassandra/cassandra").join(part)).ok();
    }
}

async fn weather(dir: &Path, options: &Options) -> Result<Report, Failure> {
    let ledger = Arc::new(Ledger::create(&dir.join("ledger.jsonl"))?);
    let voice = Voice::new(&dir.join("chaos.log"))?;
    let field = Field::start_all(dir, options, voice, &ledger).await?;
    tokio::select! {
        outcome = whole(&field, options) => outcome?,
        failure = field.keep() => return Err(failure),
        () = field.tell() => {}
    }
    field.voice.say("told to end: all daemons");
    for slot in &field.slots {
        let mut slot = slot.lock().await;
        if slot.runs() {
            field.end(&mut slot).await;
        }
        slot.keep_spill();
    }
    judge(&field, options, &ledger).await
}

/// Records flow, faults come, and what is left is waited for.
async fn whole(field: &Field, options: &Options) -> Result<(), Failure> {
    let began = Instant::now();
    while field.positions().await.map_or(true, |(committed, _)| committed == 0) {
        if began.elapsed() > BEGIN {
            return Err("nothing was committed in the beginning; the daemons' logs say why".into());
        }
        sleep(Duration::from_millis(250)).await;
    }
    field.voice.say("records flow; faults begin");
    lanes::storm(field, options.seed, Duration::from_secs(options.seconds)).await?;
    field.voice.say("faults are over; the rest is waited for");
    field.producer.finish_soon()?;
    let mut last = (0, Instant::now());
    while last.1.elapsed() < STANDSTILL {
        sleep(Duration::from_millis(500)).await;
        let Ok((committed, end)) = field.positions().await else { continue };
        if committed == end && field.producer.is_done() {
            return Ok(());
        }
        if committed != last.0 {
            last = (committed, Instant::now());
        }
    }
    field.trouble(format!("nothing was committed for {} s, and something is left", STANDSTILL.as_secs()));
    for slot in &field.slots {
        let (number, address) = {
            let slot = slot.lock().await;
            (slot.number, slot.admin())
        };
        if let Some(cause) = Field::unready(address).await {
            field.trouble(format!("daemon {number} is not ready: {cause}"));
        }
    }
    Ok(())
}

async fn judge(field: &Field, options: &Options, ledger: &Arc<Ledger>) -> Result<Report, Failure> {
    field.voice.say("what stands is compared with what must stand");
    let (entries, untold) = ledger.close()?;
    let (brokers, spills) = (field.bootstrap.clone(), field.spills().await);
    let rows = look::table(&field.cassandra.session().await?).await?;
    let read = tokio::task::spawn_blocking(move || -> Result<_, Failure> {
        let found = Found {
            rows,
            letters: look::letters(&brokers, &spills)?,
            alerts: look::alerts(&brokers)?,
            commits: look::commits(&looking(&brokers, ORDERS)?)?,
        };
        Ok((look::orders(&brokers)?, look::journal(&brokers)?, found))
    });
    let (topic, journal, found) = read.await??;
    let mut findings = Findings { unexplained: field.troubles(), ..Findings::default() };
    let walls = walls(&journal, &ahead(&entries, &topic), now_ms(), &mut findings);
    let expected = expect(&entries, &topic, &walls, &mut findings);
    compare(&expected, &found, field.stood_still_s() + LATE_S, &mut findings);
    Ok(Report {
        seed: options.seed,
        again: options.again(),
        seconds: options.seconds,
        faults: field.tally.counts(),
        records: entries.len() as u64,
        untold: entries.iter().filter(|entry| entry.offset.is_none()).count().max(untold.len()) as u64,
        updates_min: field.producer.updates_min(),
        starts: field.starts(),
        findings,
    })
}
