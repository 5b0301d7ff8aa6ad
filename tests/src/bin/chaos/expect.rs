//! What must stand in the stores, from the topic and the ledger alone; and what is wrong with what stands there.
//!
//! In: the ledger, the topic in offset order, what the wall showed when records were stamped that lie ahead of it, and
//! what was found in table, alerts, dead letters and commits. Out: what is lost, wrong or unexplained, each with an
//! example, and how many repeats there are. Pure, and shares no code with the product: write times by `tests/oracle`'s
//! rule, fates as the ledger knows them.

use std::collections::{BTreeMap, BTreeSet};

use serde::Serialize;

use super::TTL_S;
use super::decisions::{AHEAD_MAX_MS, Ahead, Walls};
use super::ledger::{Entry, Hash};
use super::records::{AHEAD_MS, Column, Fate, PARTITIONS, Value};

/// Examples that are kept of each kind of finding.
const EXAMPLES: usize = 20;
/// Cassandra counts whole seconds, and so does whoever asks it.
const TTL_SLACK_S: i64 = 2;

/// Partition and offset.
pub(super) type Place = (i32, i64);

/// A record as it stands in the topic.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Stands {
    pub(super) place: Place,
    /// The number that it carries.
    pub(super) n: Option<u64>,
    pub(super) key: String,
    pub(super) value: Option<Hash>,
    pub(super) timestamp_ms: i64,
}

/// Findings of one kind.
#[derive(Debug, Default, Serialize)]
pub(super) struct Pile {
    /// How many.
    pub(super) count: u64,
    /// The first of them.
    pub(super) examples: Vec<String>,
}

impl Pile {
    /// One more.
    pub(super) fn add(&mut self, what: String) {
        self.count += 1;
        if self.examples.len() < EXAMPLES {
            self.examples.push(what);
        }
    }
}

/// What the comparison found.
#[derive(Debug, Default, Serialize)]
pub(super) struct Findings {
    /// What should be there and is not.
    pub(super) lost: Pile,
    /// What is there, and is not as it should be.
    pub(super) wrong: Pile,
    /// What is there, or happened, and nothing explains it.
    pub(super) unexplained: Pile,
    /// Alerts that are there again: allowed, and told.
    pub(super) repeats_outputs: u64,
    /// Dead letters that are there again: allowed, and told.
    pub(super) repeats_letters: u64,
    /// By how much the latest cell lives longer than it should, seconds: as long as its writer stood still in mid write.
    pub(super) ttl_late_s: i64,
    /// How many cells were compared.
    pub(super) cells: u64,
    /// How many of them are of records that were hours old.
    pub(super) cells_old: u64,
    /// Records ahead of the wall about whose write time was decided.
    pub(super) clamped: u64,
    /// How many of these decisions a later task took over.
    pub(super) clamped_again: u64,
    /// How many dead letters, by code, repeats left out.
    pub(super) letters: BTreeMap<String, u64>,
    /// How many alerts, repeats left out.
    pub(super) alerts: u64,
}

/// A cell that must stand in the table.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Cell {
    pub(super) value: Value,
    /// Microseconds.
    pub(super) write_time: i64,
    /// Until when it lives, seconds since 1970.
    pub(super) until_s: i64,
}

impl Cell {
    /// Whether its write time alone would let it live hours longer than its record's time does.
    fn is_old(&self) -> bool {
        self.until_s + 3_600 < self.write_time.div_euclid(1_000_000) + TTL_S
    }
}

/// A dead letter, wanted or found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Letter {
    pub(super) n: Option<u64>,
    pub(super) stage: String,
    pub(super) code: String,
    pub(super) key: String,
    pub(super) value: Option<Hash>,
    pub(super) timestamp_ms: i64,
    pub(super) write_time: i64,
    pub(super) spilled: bool,
}

/// An alert, wanted or found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Alert {
    pub(super) n: Option<u64>,
    pub(super) key: String,
    pub(super) amount: i64,
    pub(super) timestamp_ms: i64,
}

/// Rows by key, cells by column.
pub(super) type Rows = BTreeMap<String, BTreeMap<Column, Cell>>;

/// What must stand where.
#[derive(Debug, Default)]
pub(super) struct Expected {
    pub(super) rows: Rows,
    pub(super) letters: BTreeMap<Place, Letter>,
    pub(super) alerts: BTreeMap<Place, Alert>,
    /// By partition: one past the last record, and its write time.
    pub(super) ends: BTreeMap<i32, (i64, i64)>,
}

/// What stands where.
#[derive(Debug, Default)]
pub(super) struct Found {
    pub(super) rows: Rows,
    /// With their ids; an error where one cannot be read.
    pub(super) letters: Vec<(String, Result<Letter, String>)>,
    /// With their ids; an error where one cannot be read.
    pub(super) alerts: Vec<(String, Result<Alert, String>)>,
    /// By partition: the committed offset, and the write time beside it.
    pub(super) commits: BTreeMap<i32, (i64, Option<i64>)>,
}

/// The records that were sent with a time ahead of the wall.
pub(super) fn ahead(ledger: &[Entry], topic: &[Stands]) -> Vec<Ahead> {
    let entry = |record: &Stands| ledger.get(usize::try_from(record.n?).ok()?);
    let are_ahead = topic.iter().filter(|record| entry(record).is_some_and(|entry| entry.is_ahead));
    let ahead = |record: &Stands| {
        let Stands { place, timestamp_ms, .. } = *record;
        Ahead { place, sent_ms: timestamp_ms - AHEAD_MS, timestamp_ms }
    };
    are_ahead.map(ahead).collect()
}

/// What follows from the topic and the ledger, and from what the wall showed for records that lie ahead of it. `topic` is
/// in offset order within each partition.
pub(super) fn expect(ledger: &[Entry], topic: &[Stands], walls: &Walls, findings: &mut Findings) -> Expected {
    let mut expected = Expected::default();
    let mut seen = BTreeSet::new();
    for record in topic {
        let (partition, offset) = record.place;
        let (next, h) = expected.ends.entry(partition).or_default();
        let latest_ms = walls.get(&record.place).map_or(i64::MAX, |wall_ms| wall_ms + AHEAD_MAX_MS);
        let own = record.timestamp_ms.min(latest_ms) * 1_000;
        *h = if own > *h + 10 { own } else { *h + 10 };
        *next = offset + 1;
        let (h, place) = (*h, record.place);
        let Some((n, entry)) = record.n.and_then(|n| Some((n, ledger.get(usize::try_from(n).ok()?)?))) else {
            findings.unexplained.add(format!("orders/{partition}/{offset}: a record that nobody sent"));
            continue;
        };
        let told = (&entry.key, entry.value, entry.timestamp_ms, entry.partition);
        if told != (&record.key, record.value, record.timestamp_ms, partition)
            || entry.offset.is_some_and(|told| told != offset)
        {
            findings
                .unexplained
                .add(format!("record {n} stands at {place:?} as {record:?}, and was sent as {entry:?}"));
        }
        if !seen.insert(n) {
            findings.unexplained.add(format!("record {n} stands in the topic twice, again at {place:?}"));
        }
        expected.apply(n, entry, place, h);
    }
    for (n, entry) in ledger.iter().enumerate() {
        if entry.offset.is_some() && !seen.contains(&(n as u64)) {
            let place = (entry.partition, entry.offset);
            findings.unexplained.add(format!("the brokers lost record {n}, which they had acknowledged at {place:?}"));
        }
    }
    expected
}

impl Expected {
    fn apply(&mut self, n: u64, entry: &Entry, place: Place, h: i64) {
        match &entry.fate {
            Fate::Nothing => {}
            Fate::Delete => {
                self.rows.remove(&entry.key);
            }
            Fate::Upsert { cells, alert } => {
                let row = self.rows.entry(entry.key.clone()).or_default();
                for (column, value) in cells {
                    match value {
                        None => row.remove(column),
                        Some(value) => {
                            // One that was clamped lives from its write time.
                            let until_s = entry.timestamp_ms.min(h.div_euclid(1_000)).div_euclid(1_000) + TTL_S;
                            row.insert(*column, Cell { value: value.clone(), write_time: h, until_s })
                        }
                    };
                }
                if let Some(amount) = alert {
                    let (key, timestamp_ms) = (entry.key.clone(), entry.timestamp_ms);
                    self.alerts.insert(place, Alert { n: Some(n), key, amount: *amount, timestamp_ms });
                }
            }
            Fate::Letter { stage, code, spilled } => {
                let letter = Letter {
                    n: Some(n),
                    stage: stage.clone(),
                    code: code.clone(),
                    key: entry.key.clone(),
                    value: entry.value,
                    timestamp_ms: entry.timestamp_ms,
                    write_time: h,
                    spilled: *spilled,
                };
                self.letters.insert(place, letter);
            }
        }
    }
}

/// Compares. A cell may live longer by `late_s_max`: as long as a daemon was made to stand still between the moment in
/// which it reckoned the time to live and the write.
pub(super) fn compare(expected: &Expected, found: &Found, late_s_max: i64, findings: &mut Findings) {
    compare_rows(&expected.rows, &found.rows, late_s_max, findings);
    let letters = by_place(&expected.letters, &found.letters, "dead letter", "dead-letter", findings);
    findings.repeats_letters = letters.repeats;
    for letter in expected.letters.iter().filter(|(place, _)| letters.seen.contains(*place)).map(|(_, letter)| letter) {
        *findings.letters.entry(letter.code.clone()).or_default() += 1;
    }
    let alerts = by_place(&expected.alerts, &found.alerts, "alert", "", findings);
    (findings.repeats_outputs, findings.alerts) = (alerts.repeats, alerts.seen.len() as u64);
    for partition in 0..PARTITIONS {
        let wanted = expected.ends.get(&partition).map(|(end, h)| (*end, Some(*h)));
        let committed = found.commits.get(&partition).copied();
        if wanted.is_some() && wanted != committed {
            let what = format!(
                "partition {partition}: {wanted:?} should be committed (offset, write time), not {committed:?}"
            );
            let is_behind = committed.is_none_or(|(offset, _)| wanted.is_some_and(|(end, _)| offset < end));
            if is_behind { findings.lost.add(what) } else { findings.wrong.add(what) }
        }
    }
}

fn compare_rows(wanted: &Rows, found: &Rows, late_s_max: i64, findings: &mut Findings) {
    let nothing = BTreeMap::new();
    let keys: BTreeSet<&String> = wanted.keys().chain(found.keys()).collect();
    for key in keys {
        let (wanted, found) = (wanted.get(key).unwrap_or(&nothing), found.get(key).unwrap_or(&nothing));
        for (column, _, _) in Column::ALL {
            findings.cells += u64::from(wanted.contains_key(&column));
            findings.cells_old += u64::from(wanted.get(&column).is_some_and(Cell::is_old));
            match (wanted.get(&column), found.get(&column)) {
                (None, None) => {}
                (Some(wanted), None) => findings.lost.add(format!("{key}.{column:?}: {wanted:?} is not there")),
                (None, Some(found)) => {
                    findings.unexplained.add(format!("{key}.{column:?}: {found:?} should not be there"));
                }
                (Some(wanted), Some(found)) => {
                    let late_s = found.until_s - wanted.until_s;
                    if found.write_time < wanted.write_time {
                        findings.lost.add(format!("{key}.{column:?}: {wanted:?} is lost beneath {found:?}"));
                    } else if (found.write_time, &found.value) != (wanted.write_time, &wanted.value) {
                        findings.wrong.add(format!("{key}.{column:?}: {found:?}, not {wanted:?}"));
                    } else if late_s < -TTL_SLACK_S || late_s > late_s_max + TTL_SLACK_S {
                        findings.wrong.add(format!("{key}.{column:?} lives {late_s} s longer than {wanted:?}"));
                    } else {
                        findings.ttl_late_s = findings.ttl_late_s.max(late_s);
                    }
                }
            }
        }
    }
}

/// What was found under ids that name a place in the topic.
struct Seen {
    seen: BTreeSet<Place>,
    repeats: u64,
}

/// Each wanted one must be there, as it should be, under one id; more of the same are repeats.
fn by_place<T: PartialEq + std::fmt::Debug>(
    wanted: &BTreeMap<Place, T>,
    found: &[(String, Result<T, String>)],
    what: &str,
    output: &str,
    findings: &mut Findings,
) -> Seen {
    let mut ids = BTreeMap::<Place, &str>::new();
    let mut repeats = 0;
    for (id, found) in found {
        let Some(place) = place_of(id, output) else {
            findings.unexplained.add(format!("{what} with the id {id:?}"));
            continue;
        };
        match (wanted.get(&place), found) {
            (None, found) => findings.unexplained.add(format!("{what} {id}: nobody should have made it: {found:?}")),
            (Some(_), Err(error)) => findings.wrong.add(format!("{what} {id}: {error}")),
            (Some(wanted), Ok(found)) if wanted != found => {
                findings.wrong.add(format!("{what} {id}: {found:?}, not {wanted:?}"));
            }
            (Some(_), Ok(_)) => {}
        }
        match ids.insert(place, id) {
            None => {}
            Some(before) if before == id => repeats += 1,
            Some(before) => findings.wrong.add(format!("{what} {id} has another id too: {before}")),
        }
    }
    for (place, wanted) in wanted.iter().filter(|(place, _)| !ids.contains_key(*place)) {
        findings.lost.add(format!("{what} of {place:?}: {wanted:?} is not there"));
    }
    Seen { seen: ids.into_keys().filter(|place| wanted.contains_key(place)).collect(), repeats }
}

/// `topic/partition/offset/output`.
fn place_of(id: &str, output: &str) -> Option<Place> {
    let mut parts = id.strip_prefix(super::ORDERS)?.strip_prefix('/')?.split('/');
    let place = (parts.next()?.parse().ok()?, parts.next()?.parse().ok()?);
    let last = parts.next()?;
    let is_right = if output.is_empty() { last.parse::<u32>().is_ok() } else { last == output };
    (is_right && parts.next().is_none()).then_some(place)
}

#[cfg(test)]
mod tests {
    use super::super::ledger::hash;
    use super::super::records::{Maker, Poison, Record};
    use super::*;

    const NOW_MS: i64 = 1_700_000_000_000;

    /// Records as they stand in the topic, and the ledger of them.
    fn sent(records: &[Record]) -> (Vec<Entry>, Vec<Stands>) {
        let mut ends = BTreeMap::<i32, i64>::new();
        let mut ledger = Vec::new();
        let mut topic = Vec::new();
        for record in records {
            let end = ends.entry(record.partition).or_default();
            let value = record.value.as_ref().map(|value| hash(value.as_bytes()));
            let (key, timestamp_ms, partition) = (record.key.clone(), record.timestamp_ms, record.partition);
            ledger.push(Entry {
                key: key.clone(),
                value,
                timestamp_ms,
                is_ahead: record.is_ahead,
                partition,
                offset: Some(*end),
                fate: record.fate.clone(),
            });
            topic.push(Stands { place: (partition, *end), n: Some(record.n), key, value, timestamp_ms });
            *end += 1;
        }
        (ledger, topic)
    }

    fn records() -> Vec<Record> {
        let mut maker = Maker::new(11);
        let mut records: Vec<Record> = (0..3_000).map(|at| maker.ordinary(NOW_MS + at)).collect();
        records.extend(Poison::SMALL.map(|poison| maker.poison(poison, NOW_MS, None)));
        records.push(maker.poison(Poison::Large, NOW_MS, Some(0)));
        records.extend((0..50).map(|_| maker.hot(NOW_MS)));
        records
    }

    /// What the wall showed where every record is read a second after it was sent.
    fn read_at_once(ledger: &[Entry], topic: &[Stands]) -> Walls {
        ahead(ledger, topic).into_iter().map(|record| (record.place, record.sent_ms + 1_000)).collect()
    }

    /// Everything as it must be.
    fn all_well() -> (Expected, Found) {
        let (ledger, topic) = sent(&records());
        let mut findings = Findings::default();
        let expected = expect(&ledger, &topic, &read_at_once(&ledger, &topic), &mut findings);
        assert_eq!((findings.unexplained.count, findings.unexplained.examples), (0, Vec::new()));
        let id = |(partition, offset): Place, output: &str| format!("orders/{partition}/{offset}/{output}");
        let found = Found {
            rows: expected.rows.clone(),
            letters: expected.letters.iter().map(|(at, letter)| (id(*at, "dead-letter"), Ok(letter.clone()))).collect(),
            alerts: expected.alerts.iter().map(|(at, alert)| (id(*at, "1"), Ok(alert.clone()))).collect(),
            commits: expected.ends.iter().map(|(partition, (end, h))| (*partition, (*end, Some(*h)))).collect(),
        };
        (expected, found)
    }

    /// Counts of what is lost, wrong and unexplained after something was done to what was found.
    fn after(change: impl FnOnce(&mut Found)) -> [u64; 3] {
        let (expected, mut found) = all_well();
        change(&mut found);
        let mut findings = Findings::default();
        compare(&expected, &found, 10, &mut findings);
        [findings.lost.count, findings.wrong.count, findings.unexplained.count]
    }

    fn some_cell(found: &mut Found) -> &mut Cell {
        found.rows.get_mut("hot-1").expect("it is updated often").get_mut(&Column::Status).expect("every event has one")
    }

    #[test]
    fn finds_nothing_where_all_is_well_and_tells_repeats() {
        let (expected, mut found) = all_well();
        found.alerts.push(found.alerts[0].clone());
        found.letters.push(found.letters[0].clone());
        found.letters.push(found.letters[0].clone());
        let mut findings = Findings::default();
        compare(&expected, &found, 0, &mut findings);
        assert_eq!((findings.repeats_outputs, findings.repeats_letters), (1, 2));
        assert_eq!(findings.letters.values().sum::<u64>(), 8);
        assert_eq!([findings.lost.count, findings.wrong.count, findings.unexplained.count], [0; 3], "{findings:?}");
        assert!(findings.cells > 1_000 && findings.alerts > 1_000 && findings.cells_old > 50, "{findings:?}");
    }

    #[test]
    fn finds_what_is_lost() {
        let row = |found: &mut Found| found.rows.pop_last();
        assert_eq!(after(|found| drop(row(found)))[1..], [0, 0]);
        assert!(after(|found| drop(row(found)))[0] > 0);
        assert_eq!(after(|found| some_cell(found).write_time -= 10), [1, 0, 0]);
        assert_eq!(after(|found| drop(found.letters.pop())), [1, 0, 0]);
        assert_eq!(after(|found| drop(found.alerts.pop())), [1, 0, 0]);
        assert_eq!(after(|found| assert!(found.commits.pop_last().is_some())), [1, 0, 0]);
        assert_eq!(after(|found| found.commits.get_mut(&0).expect("a commit").0 -= 1), [1, 0, 0]);
    }

    #[test]
    fn finds_what_is_wrong() {
        assert_eq!(after(|found| some_cell(found).write_time += 1), [0, 1, 0]);
        assert_eq!(after(|found| some_cell(found).value = Value::Number(1)), [0, 1, 0]);
        assert_eq!(after(|found| some_cell(found).until_s -= 3), [0, 1, 0]);
        assert_eq!(after(|found| some_cell(found).until_s += 13), [0, 1, 0]);
        assert_eq!(after(|found| some_cell(found).until_s += 12), [0, 0, 0]);
        assert_eq!(after(|found| found.commits.get_mut(&0).expect("a commit").1 = Some(1)), [0, 1, 0]);
        assert_eq!(after(|found| found.letters[0].1.as_mut().expect("a letter").code.push('x')), [0, 1, 0]);
        assert_eq!(after(|found| found.alerts[0].1 = Err("no JSON".to_owned())), [0, 1, 0]);
        let again = |found: &mut Found| {
            let (id, alert) = found.alerts[0].clone();
            found.alerts.push((format!("{id}0"), alert));
        };
        assert_eq!(after(again), [0, 1, 0], "another id of the same record hides a repeat from readers");
    }

    #[test]
    fn a_time_to_live_that_counts_from_the_wall_or_from_the_write_time_is_found() {
        // As much as is forgiven where a daemon stood still for long.
        let wrong = |until_s: fn(&Cell) -> i64| {
            let (expected, mut found) = all_well();
            for cell in found.rows.values_mut().flat_map(BTreeMap::values_mut) {
                cell.until_s = until_s(cell);
            }
            let mut findings = Findings::default();
            compare(&expected, &found, 600, &mut findings);
            assert_eq!([findings.lost.count, findings.unexplained.count], [0; 2]);
            findings.wrong.count
        };
        assert_eq!(wrong(|cell| cell.until_s), 0);
        assert!(wrong(|_| NOW_MS / 1_000 + TTL_S) > 50);
        assert!(wrong(|cell| cell.write_time / 1_000_000 + TTL_S) > 50);
    }

    #[test]
    fn all_that_follows_a_record_that_lies_ahead_rests_on_one_decision() {
        let (ledger, topic) = sent(&records());
        let walls = read_at_once(&ledger, &topic);
        let expect = |walls: &Walls| expect(&ledger, &topic, walls, &mut Findings::default());
        let (first, (place, _)) = (expect(&walls), walls.last_key_value().expect("some lie ahead"));
        // The last of a partition was decided about again, ten seconds later.
        let mut again = walls.clone();
        again.insert(*place, walls[place] + 10_000);
        let again = expect(&again);
        assert_eq!(first.ends[&0], again.ends[&0], "another partition has nothing to do with it");
        let late = |rows: &Rows| rows.values().flat_map(BTreeMap::values).map(|cell| cell.write_time).max();
        assert!(late(&first.rows) < late(&again.rows));
        let found = Found { rows: again.rows, ..Found::default() };
        let mut findings = Findings::default();
        compare_rows(&first.rows, &found.rows, 600, &mut findings);
        assert!(findings.wrong.count > 0, "{findings:?}");
    }

    #[test]
    fn finds_what_nothing_explains() {
        let add =
            |found: &mut Found| found.rows.insert("stranger".to_owned(), BTreeMap::from([(Column::Status, cell())]));
        assert_eq!(after(|found| drop(add(found))), [0, 0, 1]);
        let letter = |id: &str| {
            let id = id.to_owned();
            after(|found| {
                let letter = found.letters[0].1.clone();
                found.letters.push((id, letter));
            })
        };
        assert_eq!(letter("orders/0/999999/dead-letter"), [0, 0, 1]);
        assert_eq!(letter("nonsense"), [0, 0, 1]);
    }

    fn cell() -> Cell {
        Cell { value: Value::Text("x".to_owned()), write_time: 1, until_s: 1 }
    }

    #[test]
    fn finds_what_the_brokers_lost_changed_or_made_up() {
        let (ledger, topic) = sent(&records());
        let count = |ledger: &[Entry], topic: &[Stands]| {
            let mut findings = Findings::default();
            expect(ledger, topic, &Walls::new(), &mut findings);
            findings.unexplained.count
        };
        assert_eq!(count(&ledger, &topic[..topic.len() - 1]), 1);
        let mut changed = topic.clone();
        changed[0].key.push('x');
        assert_eq!(count(&ledger, &changed), 1);
        let mut stranger = topic.clone();
        stranger[0].n = None;
        assert_eq!(count(&ledger, &stranger), 2, "a stranger stands where the record should stand");
        let mut unknown = ledger.clone();
        unknown.last_mut().expect("records").offset = None;
        assert_eq!(count(&unknown, &topic[..topic.len() - 1]), 0, "the brokers never said that they have it");
    }

    #[test]
    fn write_times_rise_by_ten_within_a_burst() {
        let mut maker = Maker::new(5);
        let records: Vec<Record> = (0..400).map(|_| maker.hot(NOW_MS)).collect();
        let (ledger, topic) = sent(&records);
        let expected = expect(&ledger, &topic, &Walls::new(), &mut Findings::default());
        for (partition, (end, h)) in &expected.ends {
            assert_eq!(*h, NOW_MS * 1_000 + (end - 1) * 10, "partition {partition}");
        }
    }
}
