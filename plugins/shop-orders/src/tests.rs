//! One event each: what it becomes, and why not.

use super::*;

const TS: i64 = testing::FIRST_TIMESTAMP_MS;

fn config() -> pelton_sdk::serde_json::Value {
    json!({"vat_percent": 19, "alert_above_eur": 5000, "coupons": {"SPRING10": 10}, "eur_per_unit": {"EUR": 1, "USD": 0.9}})
}

fn created(amount_cents: i64, coupon: Option<&str>) -> pelton_sdk::serde_json::Value {
    json!({
        "order_id": "A-1", "kind": "created", "ts": TS, "customer": {"id": "c", "country": "DE"}, "currency": "EUR",
        "amount_cents": amount_cents, "coupon": coupon, "items": [{"sku": "x", "quantity": 1, "price_cents": amount_cents}],
    })
}

#[test]
fn cases() {
    testing::check_cases::<ShopOrders>(env!("CARGO_MANIFEST_DIR"));
}

#[test]
fn money_is_rounded_half_up_in_whole_cents() {
    // 10 % of 5 is 0.5, rounded to 1; 19 % of 4 is 0.76, rounded to 1.
    let run = testing::run::<ShopOrders>(config(), [created(5, Some("SPRING10"))]);
    let row = &run.values("default")[0];
    assert_eq!((&row["discount_cents"], &row["vat_cents"], &row["total_cents"]), (&json!(1), &json!(1), &json!(5)));
}

#[test]
fn an_unknown_coupon_gives_no_discount_and_is_counted() {
    let run = testing::run::<ShopOrders>(config(), [created(1000, Some("NOPE"))]);
    assert_eq!(run.values("default")[0]["discount_cents"], 0);
    assert_eq!(run.counted("coupons_unknown"), 1);
}

#[test]
fn an_order_alerts_only_above_the_limit() {
    let limit = 500_000 * 100 / 119;
    let run = testing::run::<ShopOrders>(config(), [created(limit, None), created(limit + 100, None)]);
    assert_eq!((run.values("default").len(), run.values("alerts").len()), (2, 1));
}

#[test]
fn the_record_s_time_decides_what_is_late() {
    let event = created(1000, None);
    let hour = 3_600_000;
    let records =
        [TS + 72 * hour, TS + 72 * hour + 1].map(|ms| testing::TestRecord::from(event.clone()).timestamp_ms(ms));
    let run = testing::run::<ShopOrders>(config(), records);
    assert_eq!(run.failures(), [(1, "too_late")]);
}

#[test]
fn nonsense_in_the_configuration_is_refused() {
    let refused = |config| testing::Driver::<ShopOrders>::new(config).err().map(|error| error.to_string());
    assert_eq!(refused(json!(null)), Some("missing field `vat_percent`".to_owned()));
    assert_eq!(
        refused(json!({"vat_percent": 190, "alert_above_eur": 1})),
        Some("vat_percent: a percentage lies in 0 to 100, not 190".to_owned())
    );
    assert!(refused(json!({"vat_percent": 19, "alert_above_eur": 1, "alert_over": 2})).is_some());
}
