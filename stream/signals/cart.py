"""Carts: events of a shop in, `cart_abandoned` and `cart_recovered` triggers and the counters of rates out.

The rules are stream/core/cart.py's, for whatever order of arrival stream/core/cart_log.py's. What an event tells of a
cart: cart_entries.py; what is counted: cart_counts.py; what is told: cart_triggers.py.
"""

from __future__ import annotations

from typing import Any, Final

from stream.core import cart_log
from stream.core.cart import TABLE
from stream.core.cart_log import CartLog, Change
from stream.core.cart_state import (
    ACTIVE,
    COUPON,
    PAYMENT,
    SHIPPING,
    STAGES,
    UNKNOWN,
    WAITING,
    Cart,
    Emission,
    Line,
    Rules,
    What,
    reason_of,
    rules_of,
    value_of,
)
from stream.signals import shop
from stream.signals.base import Context, Result, Signal
from stream.signals.cart_counts import counts_at
from stream.signals.cart_entries import DOES, MESSAGES, entry
from stream.signals.cart_triggers import Retracted, abandonment, named, recovery, retraction, retraction_id, trigger_id
from tracker.contract.codec import emission_id
from tracker.contract.events import ProfileEvent
from tracker.contract.settings import Settings
from tracker.contract.triggers import (
    CART_ABANDONED,
    CART_RECOVERED,
    TriggerKind,
    rfc3339,
)

METRICS: Final[dict[What, str]] = {
    "cart.opened": "carts_opened_total",
    "cart.abandoned": "carts_abandoned_total",
    "cart.converted": "carts_converted_total",
    "cart.recovered": "carts_recovered_total",
    "cart.lost": "carts_lost_total",
    "cart.emptied": "carts_emptied_total",
}
REASONS: Final = (COUPON, SHIPPING, PAYMENT, UNKNOWN)
"""Reasons that events tell; surveys may give any other, as `other` in Prometheus."""
INTERNAL: Final[frozenset[What]] = frozenset(("order.completed", "cart.checkout_reached", "cart.answered"))
"""Emissions for counting only."""
REVERSED: Final = "reversed"
"""Why a recovery is retracted: its order was cancelled or refunded; else `late`."""
OF_A_CART: Final[frozenset[What]] = frozenset(what for _, what in TABLE.values() if what) - {"order.without_cart"}
"""Emissions that are about a cart with something in it."""


class CartSignal(Signal[CartLog]):
    name = "cart"
    state_type = CartLog
    version = 2
    events: frozenset[str] | None = frozenset(DOES)
    types = frozenset(("page",))
    settings: frozenset[str] = frozenset(
        ("cart_click_s", "cart_idle_s", "cart_lost_s", "cart_repeat_s", "checkout_idle_s", "payment_idle_s")
    )
    tells = frozenset((CART_ABANDONED.name, CART_RECOVERED.name))

    def __init__(self) -> None:
        self._settings: Settings | None = None
        self._rules = rules_of(Settings())

    def _rules_of(self, settings: Settings) -> Rules:
        """The rules of the settings, which are the same ones by far the most times."""
        if settings is not self._settings:
            self._settings, self._rules = settings, rules_of(settings)
        return self._rules

    def migrate(self, version: int, fields: dict[str, Any]) -> dict[str, Any]:
        """Version 1 had one cart, with the orders in it."""
        if version == 1:
            fields["carts"] = _carts_of(fields.pop("cart", {}))
            fields["base"] = _carts_of(fields.get("base", {}))
            for e in fields.get("log", ()):
                if e["do"] == "past_order":
                    e |= {"do": "order", "since_ms": 0}
        return fields

    def idle(self, state: CartLog | None, event: ProfileEvent, utc_offset_ms: int) -> bool:
        return event.event is None and event.traffic not in MESSAGES

    def fold(self, state: CartLog | None, event: ProfileEvent, ctx: Context) -> Result:
        before = CartLog() if state is None else state
        if (e := entry(event)) is None:
            return Result(state=state)
        change = cart_log.take(before, e, event.received_at_ms, self._rules_of(ctx.settings))
        return _result(before, change, event.received_at_ms, ctx)

    def due_ms(self, state: CartLog) -> int | None:
        return state.due_ms

    def fire(self, state: CartLog, now_ms: int, ctx: Context) -> Result:
        return _result(state, cart_log.fire(state, now_ms, self._rules_of(ctx.settings)), now_ms, ctx)

    def merge(self, one: CartLog, other: CartLog, now_ms: int, ctx: Context) -> Result:
        """The carts of both: the union of their logs, folded again."""
        return _result(one, cart_log.merge(one, other, self._rules_of(ctx.settings)), now_ms, ctx)

    def still_true(self, state: CartLog, kind: TriggerKind, data: Any) -> bool:
        """The cart of the reminder still lies there, and nobody has come back to it."""
        key = data.cart_id or ""
        return any(c.key == key and c.state == "abandoned" and c.episode == data.episode for c in state.carts.carts)

    def gauges(self, state: CartLog) -> tuple[tuple[str, int], ...]:
        n = _open(state)
        return (("carts_open", n),) if n else ()

    def explain(self, state: CartLog, now_ms: int, ctx: Context) -> dict[str, Any]:
        """The cart used last, and all of them."""
        orders = [
            {
                "order_id": named(order), "time": rfc3339(order.ms), "revenue": order.value, "currency": order.cur,
                "recovered_by": order.by, "given_back": order.back, "reversed": order.reversed,
            }
            for order in state.carts.orders
        ]  # fmt: skip
        carts = [_explained(cart) for cart in state.carts.carts]
        return {**_explained(state.carts.latest), "carts": carts, "orders": orders}

    def describe(self, emitted: Emission | Retracted, ctx: Context) -> dict[str, Any]:
        if isinstance(emitted, Retracted):
            about = "recovery" if emitted.told.order is not None else "abandonment"
            return {
                "type": f"cart.{about}_retracted",
                "time": rfc3339(emitted.at_ms),
                "id": retraction_id(ctx.site, emitted.told),
                "retracts": trigger_id(ctx.site, emitted.told),
                "reason": emitted.reason,
            }
        said: dict[str, Any] = {"type": emitted.what, "time": rfc3339(emitted.at_ms)}
        cart, order = emitted.cart, emitted.order
        if cart.episode and emitted.what in OF_A_CART:
            said |= {"cart_id": cart.key or None, "stage": STAGES[cart.stage], "value": value_of(cart.items)}
            said |= {"items": _listed(cart.items), "currency": cart.cur, "episode": cart.episode}
        if emitted.what == "cart.abandoned":
            said |= {"seq": cart.seq, "reason": reason_of(cart), "suppressed": emitted.quiet}
        if order is not None:
            said |= {"order_id": named(order), "revenue": order.value, "order_currency": order.cur}
            if order.by is not None:
                said["by"] = order.by
        if emitted.told is not None:
            kind = CART_ABANDONED if emitted.what == "cart.abandoned" else CART_RECOVERED
            said["id"] = emission_id(ctx.site, emitted.told[0], kind.name, emitted.told[1])
        return said


def _open(state: CartLog) -> int:
    n = 0
    for cart in state.carts.carts:
        n += cart.state in WAITING
    return n


def _carts_of(old: dict[str, Any]) -> dict[str, Any]:
    """A cart of version 1, as the carts of version 2."""
    orders, at_ms = old.pop("orders", []), old.get("at_ms", 0)
    for order in orders:
        if order.get("by") is not None:
            order["gain"] = order.get("value", 0.0)
    return {"at_ms": at_ms, "carts": [old] if old.get("state", "none") != "none" else [], "orders": orders}


def _listed(items: tuple[Line, ...]) -> list[dict[str, Any]]:
    more = (("name", "name"), ("sku", "sku"), ("variant", "variant"), ("currency", "cur"))
    return [
        {
            "product_id": i.id, "quantity": i.qty, "price": i.price,
            **{name: said for name, field in more if (said := getattr(i, field)) is not None},
        }
        for i in items
    ]  # fmt: skip


def _explained(cart: Cart) -> dict[str, Any]:
    """A cart in words."""
    said: dict[str, Any] = {"state": cart.state.upper(), "cart_id": cart.key or None, "episode": cart.episode}
    if cart.state not in ACTIVE:
        return said
    said |= {
        "stage": STAGES[cart.stage],
        "value": value_of(cart.items),
        "currency": cart.cur,
        "items": _listed(cart.items),
        "seq": cart.seq,
        "opened": rfc3339(cart.opened_ms),
        "last_activity": rfc3339(cart.last_ms),
        "checkout_id": cart.checkout,
        "reason": reason_of(cart),
    }
    if cart.seq:
        said["abandoned"] = rfc3339(cart.abandoned_ms)
    if cart.touch is not None:
        said["clicked"] = {"campaign": cart.touch[0], "time": rfc3339(cart.touch[1])}
    return said


def _result(before: CartLog, change: Change, now_ms: int, ctx: Context) -> Result:
    after = change.state
    site = ctx.site
    opened = _open(after) - _open(before)
    if not change.emitted and not change.undone and not change.retracted:  # most events
        return Result(state=after, gauges=(("carts_open", opened),) if opened else ())
    metrics: list[tuple[str, tuple[str, ...], float]] = [
        (METRICS[what], (site,), n) for what, n in change.counts if what in METRICS
    ]
    for emission, _ in change.abandoned:
        if emission.cart.seq == 1:
            reason = reason_of(emission.cart)
            metrics.append(("cart_reasons_total", (site, reason if reason in REASONS else "other"), 1))
    for emission, _ in change.recovered:
        if emission.order is not None and emission.order.gain:
            gained = shop.minor(emission.order.gain, emission.order.cur)
            metrics.append(("recovered_revenue_minor_total", (emission.order.cur or "",), gained))
    for order in change.orders:
        metrics.append(("orders_total", (site,), 1))
        if order.value:
            metrics.append(("revenue_minor_total", (order.cur or "",), shop.minor(order.value, order.cur)))
    reversed_ = {x.order.id for x in change.emitted if x.what == "cart.recovery_reversed" and x.order}
    retracted = [Retracted(told, now_ms, REVERSED if told.order in reversed_ else "late") for told in change.retracted]
    return Result(
        state=after,
        triggers=(
            *(retraction(each, ctx) for each in retracted),
            *(abandonment(emission, told, ctx) for emission, told in change.abandoned),
            *(recovery(emission, told, ctx) for emission, told in change.recovered),
        ),
        counts_at=counts_at(change),
        gauges=(("carts_open", opened),) if opened else (),
        metrics=tuple(metrics),
        emitted=(
            *(x for x in change.emitted if x.what not in INTERNAL),
            *(each for each in retracted if each.reason != REVERSED),  # that is cart.recovery_reversed
        ),
        undone=tuple(x for x in change.undone if x.what not in INTERNAL),
    )
