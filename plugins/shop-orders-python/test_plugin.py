"""One event each: what it becomes, and why not."""

import unittest
from typing import Any

from pelton_sdk import ConfigError, testing
from plugin import ShopOrders

TS = testing.FIRST_TIMESTAMP_MS
CONFIG = {
    "vat_percent": 19,
    "alert_above_eur": 5000,
    "coupons": {"SPRING10": 10},
    "eur_per_unit": {"EUR": 1, "USD": 0.9},
}


def created(amount_cents: int, coupon: str | None = None) -> dict[str, Any]:
    return {
        "order_id": "A-1", "kind": "created", "ts": TS, "customer": {"id": "c", "country": "DE"}, "currency": "EUR",
        "amount_cents": amount_cents, "coupon": coupon, "items": [{"sku": "x", "quantity": 1, "price_cents": amount_cents}],
    }  # fmt: skip


class ShopOrdersTest(unittest.TestCase):
    def test_cases(self) -> None:
        testing.check_cases(ShopOrders, __file__)

    def test_money_is_rounded_half_up_in_whole_cents(self) -> None:
        # 10 % of 5 is 0.5, rounded to 1; 19 % of 4 is 0.76, rounded to 1.
        (row,) = testing.run(ShopOrders, CONFIG, [created(5, "SPRING10")]).values()
        self.assertEqual((row["discount_cents"], row["vat_cents"], row["total_cents"]), (1, 1, 5))

    def test_an_unknown_coupon_gives_no_discount_and_is_counted(self) -> None:
        run = testing.run(ShopOrders, CONFIG, [created(1000, "NOPE")])
        self.assertEqual(run.values()[0]["discount_cents"], 0)
        self.assertEqual(run.counted("coupons_unknown"), 1)

    def test_an_order_alerts_only_above_the_limit(self) -> None:
        limit = 500_000 * 100 // 119
        run = testing.run(ShopOrders, CONFIG, [created(limit), created(limit + 100)])
        self.assertEqual((len(run.values()), len(run.values("alerts"))), (2, 1))

    def test_the_record_s_time_decides_what_is_late(self) -> None:
        late = TS + 72 * 3_600_000
        records = [testing.TestRecord(created(1000), timestamp_ms=ms) for ms in (late, late + 1)]
        self.assertEqual(testing.run(ShopOrders, CONFIG, records).failures(), [(1, "too_late")])

    def test_nonsense_in_the_configuration_is_refused(self) -> None:
        for config, message in [
            (None, "vat_percent: is missing; alert_above_eur: is missing"),
            (CONFIG | {"vat_percent": 190}, "vat_percent: a percentage lies in 0 to 100, not 190"),
            (CONFIG | {"eur_per_unit": {"EUR": "1"}}, 'eur_per_unit.EUR: a number is wanted, "1" was found'),
            (CONFIG | {"alert_over": 2}, "alert_over: there is no such key; the keys are vat_percent, alert_above_eur, "
                                         "coupons, eur_per_unit, late_after_hours"),
        ]:  # fmt: skip
            with self.subTest(config), self.assertRaises(ConfigError) as refused:
                testing.Driver(ShopOrders, config)
            self.assertEqual(str(refused.exception), message)


if __name__ == "__main__":
    unittest.main()
