//! What should be in the stores, what is, and where they differ: sets of ids and final values, no counters.

use std::collections::{BTreeMap, BTreeSet};

use serde::Serialize;
use serde_json::Value;

use super::events::Event;
use super::rules::Fate;

/// Differences that a summary names.
const DIFFERENCES_NAMED: usize = 10;

/// A row's columns beside the key.
pub type Columns = BTreeMap<String, Value>;

/// What the events should have left.
#[derive(Debug, Default)]
pub struct Expected {
    events: u64,
    rows: BTreeMap<String, Columns>,
    /// By event: the order.
    alerts: BTreeMap<u64, String>,
    /// By event: the code.
    dead_letters: BTreeMap<u64, &'static str>,
    filtered: BTreeSet<u64>,
    skipped: BTreeSet<u64>,
    /// Orders of which nothing may be seen: only filtered and skipped events name them.
    deleted: BTreeSet<String>,
}

impl Expected {
    /// Takes an event; those of one order in the order of the log.
    pub fn add(&mut self, event: &Event) {
        self.events += 1;
        match &event.fate {
            Fate::Row { order_id, cells, alert } => {
                let row = self.rows.entry(order_id.clone()).or_default();
                for (column, value) in cells {
                    if value.is_null() {
                        row.remove(*column);
                    } else {
                        row.insert((*column).to_owned(), value.clone());
                    }
                }
                if *alert {
                    self.alerts.insert(event.id, order_id.clone());
                }
            }
            Fate::Delete { order_id } => {
                self.rows.remove(order_id);
                self.deleted.insert(order_id.clone());
            }
            Fate::Filtered => {
                self.filtered.insert(event.id);
            }
            Fate::Skipped(_) => {
                self.skipped.insert(event.id);
            }
            Fate::DeadLetter(code) => {
                self.dead_letters.insert(event.id, code);
            }
        }
    }

    /// How many events there were.
    #[must_use]
    pub fn events(&self) -> u64 {
        self.events
    }

    /// Whether everything that leaves for a topic has been seen there.
    #[must_use]
    pub fn topics_are_complete(&self, found: &Found) -> bool {
        self.alerts.keys().all(|id| found.alerts.contains_key(id))
            && self.dead_letters.keys().all(|id| found.dead_letters.contains_key(id))
    }
}

/// What was read back.
#[derive(Debug, Clone, Default)]
pub struct Found {
    /// The table, by order.
    pub rows: BTreeMap<String, Columns>,
    /// The topic of alerts, by event: every copy's order.
    pub alerts: BTreeMap<u64, Vec<String>>,
    /// The topic of dead letters, by event: every copy's code.
    pub dead_letters: BTreeMap<u64, Vec<String>>,
    /// What could not be read at all.
    pub strange: Vec<String>,
}

/// One store, or part of one.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Part {
    /// Ids that belong there.
    pub expected: u64,
    /// Ids that are there.
    pub found: u64,
    /// Ids that belong there and are not.
    pub missing: u64,
    /// Ids that are there and do not belong.
    pub unexpected: u64,
    /// Ids that are there with other values.
    pub wrong: u64,
}

/// What the comparison showed.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Reconciliation {
    /// Whether everything is where it belongs, with the right values, and nothing else is there.
    pub matches: bool,
    /// Events that were produced.
    pub events: u64,
    /// Rows of the table.
    pub orders: Part,
    /// Alerts in the topic.
    pub alerts: Part,
    /// Dead letters in the topic, by code.
    pub dead_letters: BTreeMap<String, Part>,
    /// Events that the plugin let go: expected nowhere; `found` are those seen all the same.
    pub filtered: Part,
    /// Events that came too late for the plugin: as `filtered`.
    pub skipped: Part,
    /// Records that came to a topic more than once: delivery there is at least once.
    pub repeats: u64,
    /// The first differences.
    pub differences: Vec<String>,
    /// All differences.
    pub differences_total: u64,
}

/// Compares.
#[must_use]
pub fn reconcile(expected: &Expected, found: &Found) -> Reconciliation {
    let mut differences = Differences::default();
    let orders = compare_rows(expected, found, &mut differences);
    let alerts = compare_alerts(expected, found, &mut differences);
    let dead_letters = compare_dead_letters(expected, found, &mut differences);
    let nowhere = |ids: &BTreeSet<u64>| {
        let seen = |id: &&u64| found.alerts.contains_key(id) || found.dead_letters.contains_key(id);
        let strays = ids.iter().filter(seen).count() as u64;
        Part { expected: ids.len() as u64, found: strays, unexpected: strays, ..Part::default() }
    };
    let (filtered, skipped) = (nowhere(&expected.filtered), nowhere(&expected.skipped));
    for strange in &found.strange {
        differences.note(|| strange.clone());
    }
    let repeats = found.alerts.values().chain(found.dead_letters.values()).map(|copies| copies.len() as u64 - 1).sum();
    Reconciliation {
        matches: differences.total == 0,
        events: expected.events,
        orders,
        alerts,
        dead_letters,
        filtered,
        skipped,
        repeats,
        differences: differences.named,
        differences_total: differences.total,
    }
}

#[derive(Default)]
struct Differences {
    named: Vec<String>,
    total: u64,
}

impl Differences {
    fn note(&mut self, difference: impl FnOnce() -> String) {
        self.total += 1;
        if self.named.len() < DIFFERENCES_NAMED {
            self.named.push(difference());
        }
    }
}

fn compare_rows(expected: &Expected, found: &Found, differences: &mut Differences) -> Part {
    let mut part = Part { expected: expected.rows.len() as u64, found: found.rows.len() as u64, ..Part::default() };
    for (order, columns) in &expected.rows {
        match found.rows.get(order) {
            None => {
                part.missing += 1;
                differences.note(|| format!("order {order} has no row"));
            }
            Some(row) => {
                if let Some(difference) = first_difference(columns, row) {
                    part.wrong += 1;
                    differences.note(|| format!("order {order}: {difference}"));
                }
            }
        }
    }
    for order in found.rows.keys().filter(|order| !expected.rows.contains_key(*order)) {
        part.unexpected += 1;
        let why =
            if expected.deleted.contains(order) { "but it was deleted" } else { "but no event that passes names it" };
        differences.note(|| format!("order {order} has a row, {why}"));
    }
    part
}

/// The first column that differs.
fn first_difference(expected: &Columns, found: &Columns) -> Option<String> {
    let names: BTreeSet<_> = expected.keys().chain(found.keys()).collect();
    names.into_iter().find_map(|name| {
        let (wanted, is) = (expected.get(name), found.get(name));
        let same = match (wanted, is) {
            (Some(wanted), Some(is)) => same_value(wanted, is),
            _ => false,
        };
        let show = |value: Option<&Value>| value.map_or_else(|| "nothing".to_owned(), Value::to_string);
        (!same).then(|| format!("{name} is {}, should be {}", show(is), show(wanted)))
    })
}

/// Fractions may differ in the last places, by the order in which they were worked out.
fn same_value(wanted: &Value, is: &Value) -> bool {
    match (wanted.as_f64(), is.as_f64()) {
        (Some(wanted), Some(is)) => (wanted - is).abs() <= wanted.abs() * 1e-9,
        _ => wanted == is,
    }
}

fn compare_alerts(expected: &Expected, found: &Found, differences: &mut Differences) -> Part {
    let mut part = Part { expected: expected.alerts.len() as u64, found: found.alerts.len() as u64, ..Part::default() };
    for (id, order) in &expected.alerts {
        match found.alerts.get(id) {
            None => {
                part.missing += 1;
                differences.note(|| format!("event {id} (order {order}) left no alert"));
            }
            Some(copies) if copies.iter().any(|copy| copy != order) => {
                part.wrong += 1;
                differences.note(|| format!("the alert of event {id} names order {}, not {order}", copies.join(", ")));
            }
            Some(_) => {}
        }
    }
    for id in found.alerts.keys().filter(|id| !expected.alerts.contains_key(id)) {
        part.unexpected += 1;
        differences.note(|| format!("event {id} left an alert, and should not have"));
    }
    part
}

fn compare_dead_letters(expected: &Expected, found: &Found, differences: &mut Differences) -> BTreeMap<String, Part> {
    let mut parts: BTreeMap<String, Part> = BTreeMap::new();
    for (id, code) in &expected.dead_letters {
        let part = parts.entry((*code).to_owned()).or_default();
        part.expected += 1;
        if !found.dead_letters.contains_key(id) {
            part.missing += 1;
            differences.note(|| format!("event {id} left no dead letter, and should have with code {code}"));
        }
    }
    for (id, copies) in &found.dead_letters {
        let wanted = expected.dead_letters.get(id);
        for code in copies.iter().collect::<BTreeSet<_>>() {
            let part = parts.entry(code.clone()).or_default();
            part.found += 1;
            match wanted {
                Some(wanted) if wanted == code => {}
                Some(wanted) => {
                    part.wrong += 1;
                    differences.note(|| format!("event {id}: its dead letter says {code}, should say {wanted}"));
                }
                None => {
                    part.unexpected += 1;
                    differences.note(|| format!("event {id} left a dead letter ({code}), and should not have"));
                }
            }
        }
    }
    parts
}

#[cfg(test)]
mod tests {
    use super::super::events::Generator;
    use super::super::rules::Rules;
    use super::*;

    /// Stores that are as they should be.
    fn whole() -> (Expected, Found) {
        let mut shop = Generator::new(11, "r", Rules::default());
        let (mut expected, mut found) = (Expected::default(), Found::default());
        for at in 0..2_000 {
            let event = shop.next(1_800_000_000_000 + at);
            expected.add(&event);
            match &event.fate {
                Fate::Row { order_id, alert: true, .. } => {
                    found.alerts.insert(event.id, vec![order_id.clone()]);
                }
                Fate::DeadLetter(code) => {
                    found.dead_letters.insert(event.id, vec![(*code).to_owned()]);
                }
                _ => {}
            }
        }
        found.rows = expected.rows.clone();
        (expected, found)
    }

    #[test]
    fn whole_stores_match_and_repeats_do_no_harm() {
        let (expected, mut found) = whole();
        assert!(expected.topics_are_complete(&found));
        let copies = found.dead_letters.values_mut().next().expect("there are some");
        copies.push(copies[0].clone());
        let result = reconcile(&expected, &found);
        assert!(result.matches, "{:?}", result.differences);
        assert_eq!((result.events, result.repeats), (2_000, 1));
        assert!(result.orders.found > 500 && result.alerts.found > 10 && result.dead_letters.len() > 10);
        assert!(result.filtered.expected > 50 && result.skipped.expected > 10);
    }

    #[test]
    fn every_kind_of_difference_is_found_and_named() {
        type Harm = fn(&mut Expected, &mut Found);
        let harms: [(&str, Harm); 9] = [
            ("has no row", |_, found| drop(found.rows.pop_first())),
            ("has a row, but no event", |_, found| drop(found.rows.insert("A-x".into(), Columns::new()))),
            ("has a row, but it was deleted", |expected, found| {
                let order = expected.deleted.iter().find(|order| !expected.rows.contains_key(*order)).cloned();
                found.rows.insert(order.expect("one was deleted"), Columns::new());
            }),
            ("should be", |_, found| {
                let mut rows = found.rows.values_mut();
                let amount = rows.find_map(|row| row.get_mut("total_eur")).expect("one was created");
                *amount = (amount.as_f64().expect("a number") + 0.01).into();
            }),
            ("left no alert", |_, found| drop(found.alerts.pop_first())),
            ("left an alert, and should not", |expected, found| {
                found.alerts.insert(*expected.filtered.first().expect("one was filtered"), vec!["A".into()]);
            }),
            ("left no dead letter", |_, found| drop(found.dead_letters.pop_first())),
            ("its dead letter says", |_, found| {
                *found.dead_letters.values_mut().next().expect("one is there") = vec!["other".into()];
            }),
            ("left a dead letter (", |expected, found| {
                found.dead_letters.insert(*expected.skipped.first().expect("one was skipped"), vec!["x".into()]);
            }),
        ];
        for (words, harm) in harms {
            let (mut expected, mut found) = whole();
            harm(&mut expected, &mut found);
            let result = reconcile(&expected, &found);
            assert!(!result.matches && result.differences_total == 1, "{words}: {:?}", result.differences);
            assert!(result.differences[0].contains(words), "{words}: {:?}", result.differences);
        }
    }
}
