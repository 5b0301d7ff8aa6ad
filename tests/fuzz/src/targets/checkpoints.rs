//! What stands beside a committed offset, and in the journal: `pipeline/checkpoint.rs`, `pipeline/journal.rs`.

use super::Bytes;
use crate::pipeline::checkpoint::{Checkpoint, EpochPlan, METADATA_CHARS_MAX};
use crate::pipeline::journal::{Entry, Timeline};
use crate::pipeline::stamping::Stamper;
use crate::pipeline::write_clock::{STEP_US, WriteClock, write_time};

/// What others wrote beside an offset is refused or usable; what we write comes back.
pub fn checkpoints(bytes: &[u8]) {
    if let Ok(text) = std::str::from_utf8(bytes)
        && let Ok(foreign) = Checkpoint::parse(text)
    {
        let again = Checkpoint::parse(&foreign.encode()).expect("what was read once is read again");
        assert_eq!(again, foreign);
        goes_on(&foreign, 1_700_000_000_000, 7, 9);
    }
    entries(bytes);
    let mut bytes = Bytes(bytes);
    // What the clock can have said: up to the year 9999.
    let h = bytes.long().rem_euclid(253_402_300_800_000_000 / STEP_US) * STEP_US;
    let digests = (0..bytes.byte() % 101).map(|at| format!("{:016x}", u64::from(at))).collect();
    let mut checkpoint = Checkpoint::new(h, digests, format!("{:016x}", bytes.long()));
    checkpoint.partitions_total = (bytes.number() >> 1).cast_signed();
    checkpoint.topic_id = (bytes.byte() > 127).then(|| "4-hex-and-dashes".to_owned());
    let (start, end) = (bytes.long().rem_euclid(1 << 40), bytes.long().rem_euclid(1 << 40));
    EpochPlan { epoch: bytes.byte() % 10, until: end }.note(start, &mut checkpoint);
    let text = checkpoint.encode();
    assert!(text.len() < METADATA_CHARS_MAX, "{} characters", text.len());
    assert_eq!(Checkpoint::parse(&text), Ok(checkpoint.clone()));
    goes_on(&checkpoint, 1_700_000_000_000, start, end);
}

/// What others wrote into a journal, a line each, is refused or usable: it comes back, and a clock goes on from it.
fn entries(bytes: &[u8]) {
    let read: Vec<Entry> = bytes.split(|byte| *byte == b'\n').filter_map(|line| Entry::parse(line).ok()).collect();
    for entry in &read {
        assert_eq!(Entry::parse(entry.encode().as_bytes()).as_ref(), Ok(entry));
    }
    let timeline = Timeline::of(read, None);
    assert!(timeline.entries().is_sorted_by_key(|entry| entry.offset));
    let Some(last) = timeline.last().map(|entry| entry.offset) else { return };
    let Some((mut stamper, start)) = Stamper::again(&timeline, last) else { return };
    let before = stamper.previous();
    for offset in (start..=last.saturating_add(2)).take(100) {
        // It may say that the records do not give what the journal says.
        let Ok(stamp) = stamper.stamp(offset, Some(1_700_000_000_000), 1_700_000_000_000) else { return };
        assert!(stamp.h % STEP_US == 0 && stamp.epoch <= 9, "{stamp:?} after {before}");
    }
}

/// A task goes on after a checkpoint: its clock rises, and its epochs are digits.
fn goes_on(checkpoint: &Checkpoint, record_ms: i64, start: i64, end: i64) {
    let mut clock =
        WriteClock::after(Checkpoint::start_h(i32::MAX, std::slice::from_ref(checkpoint)).max(checkpoint.h));
    let before = clock.previous();
    let tick = clock.tick(Some(record_ms), record_ms);
    assert!(tick.h > before && tick.h % STEP_US == 0, "{before} then {}", tick.h);
    for digests in [checkpoint.digests.clone(), vec!["another".to_owned()]] {
        if let Ok(plan) = EpochPlan::at_assignment(Some(checkpoint), &digests, &checkpoint.configuration, start, end) {
            let epoch = plan.of(start);
            assert!(epoch <= 9, "epoch {epoch}");
            assert!(write_time(tick.h, epoch).0 < tick.h + STEP_US);
        }
    }
}
