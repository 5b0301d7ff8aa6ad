//! A web shop's events, as messy as real ones: the same from the same seed and times, and each with its fate.
//!
//! What an event will become is known when it is made, from what it was meant to be ([`Rules`]); nobody parses it for
//! that. So the expectation shares no code with what it is compared with.

use std::collections::VecDeque;

use rand::rngs::StdRng;
use rand::seq::IndexedRandom;
use rand::{Rng, SeedableRng};
use serde_json::{Map, Value, json};

use super::rules::{Fate, Order, Rules};

/// A record for the topic, and what should become of it.
#[derive(Debug, Clone, PartialEq)]
pub struct Event {
    /// Counts from 0; travels with the record in its header [`ID_HEADER`].
    pub id: u64,
    /// The key: the order's id.
    pub key: Option<Vec<u8>>,
    /// The value; none is a tombstone.
    pub value: Option<Vec<u8>>,
    /// When it came, milliseconds since 1970.
    pub timestamp_ms: i64,
    /// What should become of it.
    pub fate: Fate,
    /// It came soon after it happened, and would have the same fate a little later.
    is_fresh: bool,
}

/// The header that tells records apart.
pub const ID_HEADER: &str = "demo-id";

const NAMES: [&str; 12] = [
    "Jürgen Groß",
    "Zoë Brontë",
    "李小龍",
    "Иван Петров",
    "محمد علي",
    "Ana María Núñez",
    "O'Brien, \"Bob\"",
    "Søren Kierkegaard",
    "👩‍🚀 Astrid",
    "Émile Zola",
    "Ali\tTab",
    "John Smith",
];
const COUNTRIES: [&str; 8] = ["DE", "FR", "US", "GB", "SE", "PL", "JP", "BR"];
const CURRENCIES: [&str; 4] = ["EUR", "USD", "GBP", "SEK"];
const PRODUCTS: [(&str, &str, i64); 8] = [
    ("TEA-1", "Grüner Tee", 2990),
    ("MUG-7", "Tasse „Morgenmuffel“", 1250),
    ("CAP-3", "Baseball cap", 1999),
    ("LAP-9", "Laptop 14\"", 129_900),
    ("BKE-2", "Vélo de ville", 54_900),
    ("PEN-5", "鉛筆", 120),
    ("GIF-0", "Sticker 🎁", 0),
    ("SOF-4", "Sofa, 3 seats", 189_000),
];
const REASONS: [&str; 4] = ["changed mind", "zu spät", "found it cheaper", "配送が遅い"];
const HOUR_MS: i64 = 3_600_000;
/// Orders that something may still happen to.
const LIVE_MAX: usize = 400;
/// Events that may come a second time.
const RECENT: usize = 64;

/// Makes events.
#[derive(Debug)]
pub struct Generator {
    rng: StdRng,
    rules: Rules,
    /// Part of every order's id: no two runs have an order in common.
    run: String,
    next: u64,
    orders: u64,
    live: Vec<Live>,
    recent: VecDeque<Event>,
}

#[derive(Debug, Clone)]
struct Live {
    id: String,
    stage: usize,
}

/// What happens to an order, in order.
const STAGES: [&str; 3] = ["paid", "shipped", "erased"];

impl Generator {
    /// A shop under a seed. `run` becomes part of every order's id.
    #[must_use]
    pub fn new(seed: u64, run: &str, rules: Rules) -> Self {
        Self {
            rng: StdRng::seed_from_u64(seed),
            rules,
            run: run.to_owned(),
            next: 0,
            orders: 0,
            live: Vec::new(),
            recent: VecDeque::new(),
        }
    }

    /// The next event, which comes at `now_ms`.
    pub fn next(&mut self, now_ms: i64) -> Event {
        let event = match self.rng.random_range(0..1000) {
            0..430 => self.created(now_ms),
            430..740 => self.progress(now_ms),
            740..790 => self.again(now_ms),
            790..820 => {
                self.plain("", Some(json!({"order_id": "", "kind": "heartbeat", "ts": now_ms})), Fate::Filtered)
            }
            820..850 => self.test_order(now_ms),
            850..870 => self.late(now_ms),
            870..880 => self.tombstone(now_ms),
            _ => self.messy(now_ms),
        };
        let event = Event { id: self.next, timestamp_ms: now_ms, ..event };
        self.next += 1;
        self.recent.push_back(event.clone());
        if self.recent.len() > RECENT {
            self.recent.pop_front();
        }
        event
    }

    fn order_id(&mut self) -> String {
        self.orders += 1;
        let prefix = ["A", "A", "A", "B", "Ö", "注文", "📦"].choose(&mut self.rng).copied().unwrap_or("A");
        format!("{prefix}-{}-{}", self.run, self.orders)
    }

    /// A new order of the kind that nothing is wrong with.
    fn order(&mut self, now_ms: i64) -> Order {
        let bulk = self.rng.random_bool(0.04);
        let items = (0..self.rng.random_range(1..=4)).map(|_| {
            let (sku, name, price_cents) = *PRODUCTS.choose(&mut self.rng).unwrap_or(&PRODUCTS[0]);
            let quantity = self.rng.random_range(1..=3) * if bulk { 12 } else { 1 };
            (sku, name, quantity, price_cents)
        });
        let items = items.collect();
        let coupon = match self.rng.random_range(0..100) {
            0..12 => Some("SPRING10"),
            12..18 => Some("VIP"),
            18..22 => Some("SPRING2O"),
            _ => None,
        };
        Order {
            id: self.order_id(),
            customer: format!("c-{}", self.rng.random_range(1..5000)),
            country: self.pick(&COUNTRIES),
            currency: self.pick(&CURRENCIES),
            coupon,
            items,
            ts: now_ms - self.rng.random_range(0..2_000),
        }
    }

    /// Its event, with a field or two that the plugin does not read.
    fn order_json(&mut self, order: &Order) -> Map<String, Value> {
        let items: Vec<_> = order
            .items
            .iter()
            .map(|(sku, name, quantity, price)| json!({"sku": sku, "name": name, "quantity": quantity, "price_cents": price}))
            .collect();
        let customer = json!({"id": order.customer, "country": order.country, "name": self.pick(&NAMES)});
        let mut fields = vec![
            ("order_id", json!(order.id)),
            ("kind", json!("created")),
            ("ts", json!(order.ts)),
            ("customer", customer),
            ("currency", json!(order.currency)),
            ("amount_cents", json!(order.amount_cents())),
            ("items", json!(items)),
        ];
        match order.coupon {
            Some(coupon) => fields.push(("coupon", json!(coupon))),
            // Absent and null are the same to a reader that may do without.
            None if self.rng.random_bool(0.1) => fields.push(("coupon", Value::Null)),
            None => {}
        }
        if self.rng.random_bool(0.3) {
            fields.push((
                "session",
                json!({"id": format!("{:x}", self.rng.random::<u64>()), "tags": ["web", null, 1.5e3]}),
            ));
        }
        // Producers agree on names, not on their order.
        let turn = self.rng.random_range(0..fields.len());
        fields.rotate_left(turn);
        fields.into_iter().map(|(name, value)| (name.to_owned(), value)).collect()
    }

    fn created(&mut self, now_ms: i64) -> Event {
        let order = self.order(now_ms);
        let json = self.order_json(&order);
        self.remember(&order.id);
        self.plain(&order.id, Some(Value::Object(json)), self.rules.created(&order))
    }

    /// Something happens to an order: now and then before its time, or told late.
    fn progress(&mut self, now_ms: i64) -> Event {
        if self.live.is_empty() {
            return self.created(now_ms);
        }
        let at = self.rng.random_range(0..self.live.len());
        let mut kind = STAGES[self.live[at].stage.min(STAGES.len() - 1)];
        if self.rng.random_bool(0.08) {
            kind = "cancelled";
        } else if self.rng.random_bool(0.03) {
            kind = "shipped";
        }
        let id = self.live[at].id.clone();
        self.live[at].stage += 1;
        if matches!(kind, "cancelled" | "erased") {
            self.live.swap_remove(at);
        }
        let hours_late = if self.rng.random_bool(0.05) { self.rng.random_range(1..72) } else { 0 };
        let ts = now_ms - hours_late * HOUR_MS - self.rng.random_range(0..1_000);
        let reason = (kind == "cancelled" && self.rng.random_bool(0.7)).then(|| self.pick(&REASONS));
        let mut json = json!({"order_id": id, "kind": kind, "ts": ts});
        if let Some(reason) = reason {
            json["reason"] = reason.into();
        }
        let fate = self.rules.progress(&id, kind, (ts, now_ms), reason);
        Event { is_fresh: hours_late == 0, ..self.plain(&id, Some(json), fate) }
    }

    /// An event that comes a second time, byte for byte.
    fn again(&mut self, now_ms: i64) -> Event {
        // What was nearly too late may be too late now.
        let recent = self.recent.iter().filter(|event| event.is_fresh);
        match recent.collect::<Vec<_>>().choose(&mut self.rng) {
            Some(event) => (*event).clone(),
            None => self.created(now_ms),
        }
    }

    fn test_order(&mut self, now_ms: i64) -> Event {
        let order = self.order(now_ms);
        let mut json = self.order_json(&order);
        json.insert("test".into(), true.into());
        self.plain(&order.id, Some(Value::Object(json)), Fate::Filtered)
    }

    fn late(&mut self, now_ms: i64) -> Event {
        let mut order = self.order(now_ms);
        order.ts = now_ms - self.rules.late_after_ms - self.rng.random_range(HOUR_MS..240 * HOUR_MS);
        let json = self.order_json(&order);
        Event { is_fresh: false, ..self.plain(&order.id, Some(Value::Object(json)), Fate::Skipped("too_late")) }
    }

    /// A null value deletes the row that its key names.
    fn tombstone(&mut self, now_ms: i64) -> Event {
        if self.live.is_empty() {
            return self.created(now_ms);
        }
        let at = self.rng.random_range(0..self.live.len());
        let id = self.live.swap_remove(at).id;
        self.plain(&id, None, Fate::Delete { order_id: id.clone() })
    }

    /// One thing is wrong.
    fn messy(&mut self, now_ms: i64) -> Event {
        let order = self.order(now_ms);
        let mut json = self.order_json(&order);
        let mut set = |name: &str, value: Value| json.insert(name.to_owned(), value);
        let code = match self.rng.random_range(0..22) {
            0 => return self.broken(&order),
            1 => return self.raw(&order.id, b"", "decode.empty"),
            2 => return self.raw(&order.id, br#"["not", "an", "object"]"#, "decode.not_object"),
            3 => return self.raw(&order.id, b"{\"order_id\": \"caf\xe9\"}", "decode.invalid_utf8"),
            4 => return self.microseconds(now_ms),
            5..8 => {
                let name = self.pick(&["order_id", "kind", "ts"]);
                if self.rng.random_bool(0.5) {
                    json.remove(name)
                } else {
                    json.insert(name.into(), Value::Null)
                };
                "decode.missing_field"
            }
            8 => {
                set("amount_cents", json!("59.80"));
                "decode.wrong_type"
            }
            9 => {
                set("amount_cents", json!(59.8));
                "decode.wrong_type"
            }
            10 => {
                set("ts", json!("yesterday"));
                "decode.wrong_type"
            }
            11 => {
                set("order_id", json!(4711));
                "decode.wrong_type"
            }
            12 => {
                set("order_id", json!(""));
                "empty_order_id"
            }
            13 => {
                set("kind", json!(self.pick(&["refunded", "CREATED", "créé"])));
                "unknown_kind"
            }
            14 | 15 => {
                let name = self.pick(&["customer", "currency", "amount_cents", "items"]);
                json.remove(name);
                "incomplete_order"
            }
            16 => {
                set("items", json!([]));
                "incomplete_order"
            }
            17 => {
                set("amount_cents", json!(-order.amount_cents() - 1));
                "negative_amount"
            }
            18 => {
                set("currency", json!(self.pick(&["XXX", "eur", "€"])));
                "unknown_currency"
            }
            19 | 20 => {
                let bad = [
                    json!({"sku": "TEA-1"}),
                    json!("none"),
                    json!([{"sku": "TEA-1", "name": "Tee", "quantity": "2", "price_cents": 1}]),
                ];
                set("items", bad.choose(&mut self.rng).cloned().unwrap_or_default());
                "bad_items"
            }
            _ => {
                set("amount_cents", json!(order.amount_cents() + 1));
                "amount_mismatch"
            }
        };
        self.plain(&order.id, Some(Value::Object(json)), Fate::DeadLetter(code))
    }

    /// The end of the value is missing.
    fn broken(&mut self, order: &Order) -> Event {
        let mut text = Value::Object(self.order_json(order)).to_string();
        text.truncate(text.floor_char_boundary(text.len() / 2));
        self.raw(&order.id, text.as_bytes(), "decode.malformed_json")
    }

    /// Microseconds where milliseconds belong: the plugin cannot tell, but no table has such a time.
    fn microseconds(&mut self, now_ms: i64) -> Event {
        let id = self.order_id();
        let json = json!({"order_id": id, "kind": "paid", "ts": now_ms * 1000});
        self.plain(&id, Some(json), Fate::DeadLetter("sink.bad_value"))
    }

    fn raw(&self, key: &str, value: &[u8], code: &'static str) -> Event {
        let (key, value) = (Some(key.as_bytes().to_vec()), Some(value.to_vec()));
        Event { id: 0, key, value, timestamp_ms: 0, fate: Fate::DeadLetter(code), is_fresh: true }
    }

    fn plain(&mut self, key: &str, value: Option<Value>, fate: Fate) -> Event {
        let value = value.map(|value| {
            let text = match self.rng.random_range(0..10) {
                0 => serde_json::to_string_pretty(&value).unwrap_or_default(),
                1 => ascii(&value.to_string()),
                _ => value.to_string(),
            };
            text.into_bytes()
        });
        let key = (!key.is_empty()).then(|| key.as_bytes().to_vec());
        Event { id: 0, key, value, timestamp_ms: 0, fate, is_fresh: true }
    }

    fn remember(&mut self, id: &str) {
        let live = Live { id: id.to_owned(), stage: 0 };
        if self.live.len() < LIVE_MAX {
            self.live.push(live);
        } else {
            let at = self.rng.random_range(0..self.live.len());
            self.live[at] = live;
        }
    }

    fn pick(&mut self, from: &[&'static str]) -> &'static str {
        from.choose(&mut self.rng).copied().unwrap_or_default()
    }
}

/// The same JSON with every other character escaped, as many producers write it.
fn ascii(json: &str) -> String {
    let mut text = String::with_capacity(json.len());
    for character in json.chars() {
        if character.is_ascii() {
            text.push(character);
        } else {
            let mut units = [0; 2];
            for unit in character.encode_utf16(&mut units) {
                text.push_str(&format!("\\u{unit:04x}"));
            }
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    fn events(seed: u64) -> Vec<Event> {
        let mut shop = Generator::new(seed, "r", Rules::default());
        (0..6_000).map(|at| shop.next(1_800_000_000_000 + at)).collect()
    }

    #[test]
    fn the_same_seed_makes_the_same_events() {
        assert_eq!(events(7), events(7));
        assert_ne!(events(7)[..50], events(8)[..50]);
    }

    #[test]
    fn every_kind_of_fate_occurs() {
        let mut kinds: BTreeMap<String, u64> = BTreeMap::new();
        for event in events(1) {
            let kind = match &event.fate {
                Fate::Row { alert: true, .. } => "alert".to_owned(),
                Fate::Row { .. } => "row".into(),
                Fate::Delete { .. } => "delete".into(),
                Fate::Filtered => "filtered".into(),
                Fate::Skipped(code) | Fate::DeadLetter(code) => (*code).into(),
            };
            *kinds.entry(kind).or_default() += 1;
        }
        let names: Vec<_> = kinds.keys().map(String::as_str).collect();
        let codes = [
            "alert",
            "amount_mismatch",
            "bad_items",
            "decode.empty",
            "decode.invalid_utf8",
            "decode.malformed_json",
            "decode.missing_field",
            "decode.not_object",
            "decode.wrong_type",
            "delete",
            "empty_order_id",
            "filtered",
            "incomplete_order",
            "negative_amount",
            "row",
            "sink.bad_value",
            "too_late",
            "unknown_currency",
            "unknown_kind",
        ];
        assert_eq!(names, codes);
        assert!(kinds["row"] > 3_600 && kinds["alert"] > 30, "{kinds:?}");
    }

    #[test]
    fn what_is_no_dead_letter_of_decoding_is_json() {
        for event in events(3) {
            let Some(value) = &event.value else { continue };
            let is_object = serde_json::from_slice::<Map<String, Value>>(value).is_ok();
            let malformed = ["decode.empty", "decode.invalid_utf8", "decode.malformed_json", "decode.not_object"];
            let wanted = !matches!(event.fate, Fate::DeadLetter(code) if malformed.contains(&code));
            assert_eq!(is_object, wanted, "{:?}: {}", event.fate, String::from_utf8_lossy(value));
        }
    }

    #[test]
    fn escaping_keeps_the_meaning() {
        let value = json!({"name": "👩‍🚀 Großé 李"});
        let text = ascii(&value.to_string());
        assert!(text.is_ascii());
        assert_eq!(serde_json::from_str::<Value>(&text).expect("parses"), value);
    }
}
