//! The life of an order in a web shop, as one row per order; large orders leave a second time, as alerts.

use std::collections::BTreeMap;

use pelton_sdk::prelude::*;

#[derive(Fields)]
struct Event<'a> {
    order_id: &'a str,
    #[field(symbol)]
    kind: &'a str,
    ts: i64,
    #[field(path = "customer.id")]
    customer_id: Option<&'a str>,
    #[field(path = "customer.country", symbol)]
    country: Option<&'a str>,
    #[field(symbol)]
    currency: Option<&'a str>,
    amount_cents: Option<i64>,
    #[field(symbol)]
    coupon: Option<&'a str>,
    #[field(json)]
    items: Option<&'a str>,
    reason: Option<&'a str>,
    test: Option<bool>,
}

#[derive(Deserialize)]
struct Item {
    quantity: u32,
    price_cents: i64,
}

/// Cells that are `None` stay as they are: each event writes what it knows.
#[derive(Columns, Default)]
struct OrderRow<'a> {
    order_id: &'a str,
    #[column(symbol)]
    status: Option<&'a str>,
    customer_id: Option<&'a str>,
    #[column(symbol)]
    country: Option<&'a str>,
    #[column(symbol)]
    currency: Option<&'a str>,
    #[column(symbol)]
    coupon: Option<&'a str>,
    item_count: Option<i64>,
    amount_cents: Option<i64>,
    discount_cents: Option<i64>,
    vat_cents: Option<i64>,
    total_cents: Option<i64>,
    total_eur: Option<f64>,
    created_at: Option<i64>,
    paid_at: Option<i64>,
    shipped_at: Option<i64>,
    cancelled_at: Option<i64>,
    cancel_reason: Set<&'a str>,
    updated_at: Option<i64>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Config {
    vat_percent: f64,
    alert_above_eur: f64,
    #[serde(default)]
    coupons: BTreeMap<String, f64>,
    #[serde(default = "only_eur")]
    eur_per_unit: BTreeMap<String, f64>,
    #[serde(default = "three_days")]
    late_after_hours: i64,
}

fn only_eur() -> BTreeMap<String, f64> {
    BTreeMap::from([("EUR".to_owned(), 1.0)])
}

fn three_days() -> i64 {
    72
}

struct ShopOrders {
    vat: Percent,
    coupons: BTreeMap<String, Percent>,
    config: Config,
}

impl Transform for ShopOrders {
    type Config = Config;
    type Input<'a> = Event<'a>;
    type Output<'a> = OrderRow<'a>;
    const OUTPUTS: &'static [&'static str] = &["alerts"];

    fn new(config: Config) -> Result<Self, ConfigError> {
        let coupon = |(code, percent): (&String, &f64)| Ok((code.clone(), Percent::new(code, *percent)?));
        let coupons: BTreeMap<_, _> = config.coupons.iter().map(coupon).collect::<Result<_, ConfigError>>()?;
        if let Some((currency, rate)) = config.eur_per_unit.iter().find(|(_, rate)| **rate <= 0.0) {
            return Err(ConfigError::key("eur_per_unit", format!("{currency} must be above 0, not {rate}")));
        }
        log::info!("{} currencies, {} coupons", config.eur_per_unit.len(), coupons.len());
        Ok(Self { vat: Percent::new("vat_percent", config.vat_percent)?, coupons, config })
    }

    fn apply<'a>(&self, event: Event<'a>) -> Step<OrderRow<'a>> {
        if event.test == Some(true) {
            metrics::count("orders_test", 1);
            return Step::drop();
        }
        if event.kind == "heartbeat" {
            return Step::drop();
        }
        if event.order_id.is_empty() {
            return Step::reject("empty_order_id", "order_id is empty");
        }
        if clock::now_ms().saturating_sub(event.ts) > self.config.late_after_hours.saturating_mul(3_600_000) {
            return Step::skip("too_late", format!("older than {} h", self.config.late_after_hours));
        }
        let (id, ts) = (event.order_id, Some(event.ts));
        let row = OrderRow { order_id: id, status: Some(event.kind), updated_at: ts, ..OrderRow::default() };
        match event.kind {
            "created" => self.created(&event, row).into(),
            "paid" => Step::emit(OrderRow { paid_at: ts, ..row }),
            "shipped" => Step::emit(OrderRow { shipped_at: ts, ..row }),
            "cancelled" => Step::emit(OrderRow { cancelled_at: ts, cancel_reason: Set::or_null(event.reason), ..row }),
            "erased" => Step::delete_row(OrderRow { order_id: id, ..OrderRow::default() }),
            kind => Step::reject("unknown_kind", format!("kind {kind:?} is not known")),
        }
    }
}

impl ShopOrders {
    fn created<'a>(&self, event: &Event<'a>, row: OrderRow<'a>) -> Result<Step<OrderRow<'a>>, Failure> {
        let lacks = |name| move || Failure::reject("incomplete_order", format!("a created order needs {name}"));
        let customer_id = event.customer_id.ok_or_else(lacks("customer.id"))?;
        let country = event.country.ok_or_else(lacks("customer.country"))?;
        let currency = event.currency.ok_or_else(lacks("currency"))?;
        let amount = event.amount_cents.ok_or_else(lacks("amount_cents"))?;
        let items = event.items.filter(|items| !is_empty_array(items)).ok_or_else(lacks("items"))?;
        if amount < 0 {
            return Err(Failure::reject("negative_amount", format!("amount_cents must not be negative: {amount}")));
        }
        let Some(rate) = self.config.eur_per_unit.get(currency) else {
            return Err(Failure::reject("unknown_currency", format!("no rate for currency {currency:?}")));
        };
        let items: Vec<Item> =
            serde_json::from_str(items).map_err(|error| Failure::reject("bad_items", format!("items: {error}")))?;
        let sum: i128 = items.iter().map(|item| i128::from(item.quantity) * i128::from(item.price_cents)).sum();
        if sum != i128::from(amount) {
            let message = format!("amount_cents is {amount}, but the items come to {sum}");
            return Err(Failure::reject("amount_mismatch", message));
        }
        let discount = match event.coupon.map(|coupon| self.coupons.get(coupon)) {
            Some(Some(percent)) => percent.of(amount),
            Some(None) => {
                metrics::count("coupons_unknown", 1);
                0
            }
            None => 0,
        };
        let vat = self.vat.of(amount - discount);
        let total = (amount - discount).saturating_add(vat);
        let total_eur = total as f64 / 100.0 * rate;
        metrics::count("orders_created", 1);
        let step = Step::emit(OrderRow {
            customer_id: Some(customer_id),
            country: Some(country),
            currency: Some(currency),
            coupon: event.coupon,
            item_count: Some(items.iter().map(|item| i64::from(item.quantity)).sum()),
            amount_cents: Some(amount),
            discount_cents: Some(discount),
            vat_cents: Some(vat),
            total_cents: Some(total),
            total_eur: Some(total_eur),
            created_at: Some(event.ts),
            ..row
        });
        Ok(if total_eur > self.config.alert_above_eur { step.also_to("alerts") } else { step })
    }
}

/// Whether raw JSON is `[]`, whatever its white space.
fn is_empty_array(json: &str) -> bool {
    json.strip_prefix('[').is_some_and(|rest| rest.trim() == "]")
}

/// A share in thousandths of a percent, so that sums of money stay whole numbers.
struct Percent(i64);

impl Percent {
    fn new(key: &str, percent: f64) -> Result<Self, ConfigError> {
        if !(0.0..=100.0).contains(&percent) {
            return Err(ConfigError::key(key, format!("a percentage lies in 0 to 100, not {percent}")));
        }
        Ok(Self((percent * 1000.0).round() as i64))
    }

    /// The share of an amount, rounded half up.
    fn of(&self, cents: i64) -> i64 {
        ((i128::from(cents) * i128::from(self.0) + 50_000) / 100_000) as i64
    }
}

export!(ShopOrders);

#[cfg(test)]
mod tests;
