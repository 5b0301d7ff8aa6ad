"""The life of an order in a web shop, as one row per order; large orders leave a second time, as alerts."""

from dataclasses import dataclass, field
from typing import Annotated, TypeVar

from pelton_sdk import (
    ConfigError,
    Failure,
    Json,
    Path,
    Set,
    Step,
    Symbol,
    Transform,
    clock,
    columns,
    export,
    fields,
    log,
    metrics,
    read_json,
    replace,
)  # fmt: skip

HOUR_MS = 3_600_000

T = TypeVar("T")


@fields
class Event:
    order_id: str
    kind: Annotated[str, Symbol]
    ts: int
    customer_id: Annotated[str | None, Path("customer.id")]
    country: Annotated[str | None, Path("customer.country"), Symbol]
    currency: Annotated[str | None, Symbol]
    amount_cents: int | None
    coupon: Annotated[str | None, Symbol]
    items: Annotated[str | None, Json]
    reason: str | None
    test: bool | None


@dataclass
class Item:
    quantity: int
    price_cents: int

    def __post_init__(self) -> None:
        if self.quantity < 0:
            raise ValueError(f"quantity must not be negative: {self.quantity}")


@columns
class OrderRow:
    """Cells that are None stay as they are: each event writes what it knows."""

    order_id: str
    status: Annotated[str | None, Symbol] = None
    customer_id: str | None = None
    country: Annotated[str | None, Symbol] = None
    currency: Annotated[str | None, Symbol] = None
    coupon: Annotated[str | None, Symbol] = None
    item_count: int | None = None
    amount_cents: int | None = None
    discount_cents: int | None = None
    vat_cents: int | None = None
    total_cents: int | None = None
    total_eur: float | None = None
    created_at: int | None = None
    paid_at: int | None = None
    shipped_at: int | None = None
    cancelled_at: int | None = None
    cancel_reason: str | Set = Set.LEAVE
    updated_at: int | None = None


@dataclass
class Config:
    vat_percent: float
    alert_above_eur: float
    coupons: dict[str, float] = field(default_factory=dict)
    eur_per_unit: dict[str, float] = field(default_factory=lambda: {"EUR": 1.0})
    late_after_hours: int = 72


class ShopOrders(Transform):
    OUTPUTS = ("alerts",)

    def __init__(self, config: Config) -> None:
        self.vat = Percent("vat_percent", config.vat_percent)
        self.coupons = {code: Percent(f"coupons.{code}", percent) for code, percent in config.coupons.items()}
        for currency, rate in config.eur_per_unit.items():
            if rate <= 0:
                raise ConfigError.key("eur_per_unit", f"{currency} must be above 0, not {rate}")
        log.info(f"{len(config.eur_per_unit)} currencies, {len(config.coupons)} coupons")
        self.config = config

    def apply(self, event: Event) -> Step[OrderRow]:
        if event.test:
            metrics.count("orders_test")
            return Step.drop()
        if event.kind == "heartbeat":
            return Step.drop()
        if not event.order_id:
            return Step.reject("empty_order_id", "order_id is empty")
        if clock.now_ms() - event.ts > self.config.late_after_hours * HOUR_MS:
            return Step.skip("too_late", f"older than {self.config.late_after_hours} h")
        ts = event.ts
        match event.kind:
            case "created":
                return self.created(event)
            case "paid":
                return Step.emit(OrderRow(order_id=event.order_id, status="paid", paid_at=ts, updated_at=ts))
            case "shipped":
                return Step.emit(OrderRow(order_id=event.order_id, status="shipped", shipped_at=ts, updated_at=ts))
            case "cancelled":
                row = OrderRow(order_id=event.order_id, status="cancelled", cancelled_at=ts, updated_at=ts)
                return Step.emit(replace(row, cancel_reason=Set.or_null(event.reason)))
            case "erased":
                return Step.delete_row(OrderRow(order_id=event.order_id))
            case kind:
                return Step.reject("unknown_kind", f'kind "{kind}" is not known')

    def created(self, event: Event) -> Step[OrderRow]:
        customer_id = needed("customer.id", event.customer_id)
        country = needed("customer.country", event.country)
        currency = needed("currency", event.currency)
        amount = needed("amount_cents", event.amount_cents)
        raw_items = needed("items", None if is_empty_array(event.items) else event.items)
        if amount < 0:
            raise Failure.reject("negative_amount", f"amount_cents must not be negative: {amount}")
        rate = self.config.eur_per_unit.get(currency)
        if rate is None:
            raise Failure.reject("unknown_currency", f'no rate for currency "{currency}"')
        try:
            items = read_json(raw_items, list[Item])
        except ValueError as error:
            raise Failure.reject("bad_items", f"items: {error}") from None
        of_items = sum(item.quantity * item.price_cents for item in items)
        if of_items != amount:
            raise Failure.reject("amount_mismatch", f"amount_cents is {amount}, but the items come to {of_items}")
        discount = 0
        if event.coupon is not None:
            if event.coupon in self.coupons:
                discount = self.coupons[event.coupon].of(amount)
            else:
                metrics.count("coupons_unknown")
        vat = self.vat.of(amount - discount)
        total = amount - discount + vat
        total_eur = total / 100 * rate
        metrics.count("orders_created")
        step = Step.emit(
            OrderRow(
                order_id=event.order_id,
                status="created",
                customer_id=customer_id,
                country=country,
                currency=currency,
                coupon=event.coupon,
                item_count=sum(item.quantity for item in items),
                amount_cents=amount,
                discount_cents=discount,
                vat_cents=vat,
                total_cents=total,
                total_eur=total_eur,
                created_at=event.ts,
                updated_at=event.ts,
            )
        )
        return step.also_to("alerts") if total_eur > self.config.alert_above_eur else step


def needed(name: str, value: T | None) -> T:
    if value is None:
        raise Failure.reject("incomplete_order", f"a created order needs {name}")
    return value


def is_empty_array(json: str | None) -> bool:
    """Whether raw JSON is `[]`, whatever its white space."""
    return json is not None and json.startswith("[") and json[1:].strip() == "]"


class Percent:
    """A share in thousandths of a percent, so that sums of money stay whole numbers."""

    def __init__(self, key: str, percent: float) -> None:
        if not 0 <= percent <= 100:
            raise ConfigError.key(key, f"a percentage lies in 0 to 100, not {percent:g}")
        self.thousandths = round(percent * 1000)

    def of(self, cents: int) -> int:
        """The share of an amount, rounded half up."""
        return (cents * self.thousandths + 50_000) // 100_000


export(ShopOrders)
