//! What `plugins/shop-orders/README.md` says becomes of an event, written down a second time, from the page alone.

use std::collections::BTreeMap;

use chrono::{DateTime, SecondsFormat};
use serde_json::Value;

/// What becomes of an event.
#[derive(Debug, Clone, PartialEq)]
pub enum Fate {
    /// Cells of a row; null deletes the cell.
    Row {
        /// The row.
        order_id: String,
        /// The cells that are set.
        cells: Vec<(&'static str, Value)>,
        /// It leaves a second time, to `alerts`.
        alert: bool,
    },
    /// The row is deleted.
    Delete {
        /// The row.
        order_id: String,
    },
    /// Nothing: the plugin lets it go.
    Filtered,
    /// Nothing: the plugin passes it over, under this code.
    Skipped(&'static str),
    /// A dead letter with this code.
    DeadLetter(&'static str),
}

/// An order that nothing is wrong with.
#[derive(Debug, Clone)]
pub struct Order {
    /// `order_id`
    pub id: String,
    /// `customer.id`
    pub customer: String,
    /// `customer.country`
    pub country: &'static str,
    /// `currency`
    pub currency: &'static str,
    /// `coupon`
    pub coupon: Option<&'static str>,
    /// sku, name, quantity, price in cents
    pub items: Vec<(&'static str, &'static str, i64, i64)>,
    /// `ts`
    pub ts: i64,
}

impl Order {
    /// The sum of the items.
    #[must_use]
    pub fn amount_cents(&self) -> i64 {
        self.items.iter().map(|(_, _, quantity, price)| quantity * price).sum()
    }
}

/// The plugin's configuration.
#[derive(Debug, Clone, PartialEq)]
pub struct Rules {
    vat_thousandths: i64,
    alert_above_eur: f64,
    coupons: BTreeMap<String, i64>,
    eur_per_unit: BTreeMap<String, f64>,
    /// `late_after_hours`
    pub late_after_ms: i64,
}

impl Default for Rules {
    /// What the demo's own pipeline file says.
    fn default() -> Self {
        let rates = [("EUR", 1.0), ("USD", 0.9), ("GBP", 1.15), ("SEK", 0.087)];
        Self {
            vat_thousandths: 19_000,
            alert_above_eur: 5000.0,
            coupons: BTreeMap::from([("SPRING10".into(), 10_000), ("VIP".into(), 25_000)]),
            eur_per_unit: rates.map(|(currency, rate)| (currency.to_owned(), rate)).into(),
            late_after_ms: 72 * 3_600_000,
        }
    }
}

impl Rules {
    /// From a step's `config:`. None where the shop's currencies are not all there, or the configuration is another's.
    #[must_use]
    pub fn from_config(config: &Value) -> Option<Self> {
        let thousandths = |value: &Value| Some((value.as_f64()? * 1000.0).round() as i64);
        let mut coupons = BTreeMap::new();
        for (code, percent) in config.get("coupons").and_then(Value::as_object).into_iter().flatten() {
            coupons.insert(code.clone(), thousandths(percent)?);
        }
        let mut eur_per_unit = BTreeMap::from([("EUR".to_owned(), 1.0)]);
        if let Some(rates) = config.get("eur_per_unit").and_then(Value::as_object) {
            eur_per_unit =
                rates.iter().map(|(name, rate)| Some((name.clone(), rate.as_f64()?))).collect::<Option<_>>()?;
        }
        Some(Self {
            vat_thousandths: thousandths(config.get("vat_percent")?)?,
            alert_above_eur: config.get("alert_above_eur")?.as_f64()?,
            coupons,
            eur_per_unit,
            late_after_ms: config.get("late_after_hours").map_or(Some(72), Value::as_i64)? * 3_600_000,
        })
    }

    /// A `created` event of a good order.
    #[must_use]
    pub fn created(&self, order: &Order) -> Fate {
        let Some(rate) = self.eur_per_unit.get(order.currency) else { return Fate::DeadLetter("unknown_currency") };
        let amount = order.amount_cents();
        let percent = order.coupon.and_then(|coupon| self.coupons.get(coupon)).copied().unwrap_or(0);
        let discount = part_of(amount, percent);
        let vat = part_of(amount - discount, self.vat_thousandths);
        let total = amount - discount + vat;
        let total_eur = total as f64 / 100.0 * rate;
        let mut cells = vec![
            ("status", "created".into()),
            ("customer_id", order.customer.as_str().into()),
            ("country", order.country.into()),
            ("currency", order.currency.into()),
            ("item_count", order.items.iter().map(|(_, _, quantity, _)| quantity).sum::<i64>().into()),
            ("amount_cents", amount.into()),
            ("discount_cents", discount.into()),
            ("vat_cents", vat.into()),
            ("total_cents", total.into()),
            ("total_eur", total_eur.into()),
            ("created_at", time(order.ts)),
            ("updated_at", time(order.ts)),
        ];
        if let Some(coupon) = order.coupon {
            cells.push(("coupon", coupon.into()));
        }
        Fate::Row { order_id: order.id.clone(), cells, alert: total_eur > self.alert_above_eur }
    }

    /// A `paid`, `shipped`, `cancelled` or `erased` event that happened at the first time and came at the second.
    #[must_use]
    pub fn progress(&self, order_id: &str, kind: &'static str, (ts, now_ms): (i64, i64), reason: Option<&str>) -> Fate {
        if now_ms - ts > self.late_after_ms {
            return Fate::Skipped("too_late");
        }
        let order_id = order_id.to_owned();
        let column = match kind {
            "paid" => "paid_at",
            "shipped" => "shipped_at",
            "cancelled" => "cancelled_at",
            _ => return Fate::Delete { order_id },
        };
        let mut cells = vec![("status", kind.into()), (column, time(ts)), ("updated_at", time(ts))];
        if kind == "cancelled" {
            cells.push(("cancel_reason", reason.map_or(Value::Null, Value::from)));
        }
        Fate::Row { order_id, cells, alert: false }
    }
}

/// A part in thousandths of a percent, rounded half up.
fn part_of(cents: i64, thousandths: i64) -> i64 {
    (cents * thousandths + 50_000) / 100_000
}

/// As the embedded tables show a time.
fn time(ms: i64) -> Value {
    DateTime::from_timestamp_millis(ms)
        .map_or(Value::Null, |time| time.to_rfc3339_opts(SecondsFormat::Millis, true).into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_order_worked_out_by_hand() {
        let order = Order {
            id: "A-1".into(),
            customer: "c-1".into(),
            country: "DE",
            currency: "USD",
            coupon: Some("SPRING10"),
            items: vec![("TEA-1", "Tee", 2, 2990), ("PEN-5", "Pen", 1, 125)],
            ts: 1_767_225_600_000,
        };
        let Fate::Row { cells, alert, .. } = Rules::default().created(&order) else { panic!("a row was expected") };
        let cells: BTreeMap<_, _> = cells.into_iter().collect();
        // 6105 - 611 (610.5 up) = 5494; VAT 1043.86 -> 1044; total 6538; 65.38 USD * 0.9
        let wanted = [("discount_cents", 611), ("vat_cents", 1044), ("total_cents", 6538), ("item_count", 3)];
        for (column, value) in wanted {
            assert_eq!(cells[column], value, "{column}");
        }
        assert!((cells["total_eur"].as_f64().expect("a number") - 58.842).abs() < 1e-9);
        assert_eq!(cells["created_at"], "2026-01-01T00:00:00.000Z");
        assert!(!alert);
    }

    #[test]
    fn the_default_is_what_the_projects_file_says() {
        let config = serde_json::json!({
            "vat_percent": 19, "alert_above_eur": 5000, "coupons": {"SPRING10": 10, "VIP": 25},
            "eur_per_unit": {"EUR": 1, "USD": 0.9, "GBP": 1.15, "SEK": 0.087}, "late_after_hours": 72
        });
        assert_eq!(Rules::from_config(&config), Some(Rules::default()));
        assert_eq!(Rules::from_config(&serde_json::json!({"vat_percent": 19})), None);
    }
}
