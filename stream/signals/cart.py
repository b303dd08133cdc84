"""Cart abandonment: events of a shop in, `cart_abandoned` triggers out. The rules are stream/core/cart.py's."""

from __future__ import annotations

from typing import Any, Final

from msgspec import Struct

from stream.core import cart_log
from stream.core.cart import (
    ACTIVE,
    STAGES,
    TABLE,
    WAITING,
    Cart,
    Do,
    Emission,
    Entry,
    Line,
    Rules,
    What,
    rules_of,
    value_of,
)
from stream.core.cart_log import CartLog, Change, Told
from stream.signals import shop
from stream.signals.base import Context, Result, Signal, Trigger
from tracker.contract import events as ev
from tracker.contract.codec import emission_id
from tracker.contract.events import ProfileEvent
from tracker.contract.settings import Settings
from tracker.contract.triggers import (
    CART_ABANDONED,
    CartAbandoned,
    CartAbandonmentRetracted,
    CartLine,
    TriggerKind,
    rfc3339,
)

DOES: Final[dict[str, Do]] = {
    ev.PRODUCT_ADDED: "add",
    ev.PRODUCT_REMOVED: "remove",
    ev.CART_VIEWED: "view",
    ev.CHECKOUT_STARTED: "checkout",
    ev.CHECKOUT_STEP_VIEWED: "checkout",
    ev.CHECKOUT_STEP_COMPLETED: "checkout",
    ev.PAYMENT_INFO_ENTERED: "payment",
    ev.ORDER_COMPLETED: "order",
    ev.ORDER_CANCELLED: "undo",
    ev.ORDER_REFUNDED: "undo",
    **dict.fromkeys(ev.MESSAGE_CLICKS, "click"),
}
"""Name of an event -> what it does to the cart."""

METRICS: Final[dict[What, str]] = {
    "cart.abandoned": "carts_abandoned_total",
    "cart.converted": "carts_converted_total",
    "cart.recovered": "carts_recovered_total",
    "cart.lost": "carts_lost_total",
    "cart.emptied": "carts_emptied_total",
}
RETRACTED: Final = "cart_abandonment_retracted"
"""Kind in the id of a retraction."""


class Retracted(Struct, frozen=True):
    """Emitted: an abandonment is taken back."""

    told: Told
    at_ms: int


class CartSignal(Signal[CartLog]):
    name = "cart"
    state_type = CartLog
    events: frozenset[str] | None = frozenset(DOES)
    settings: frozenset[str] = frozenset(
        ("cart_click_s", "cart_idle_s", "cart_lost_s", "cart_repeat_s", "checkout_idle_s", "payment_idle_s")
    )

    def __init__(self) -> None:
        self._settings: Settings | None = None
        self._rules = rules_of(Settings())

    def _rules_of(self, settings: Settings) -> Rules:
        """The rules of the settings, which are the same ones by far the most times."""
        if settings is not self._settings:
            self._settings, self._rules = settings, rules_of(settings)
        return self._rules

    def fold(self, state: CartLog | None, event: ProfileEvent, ctx: Context) -> Result:
        before = CartLog() if state is None else state
        change = cart_log.take(before, entry(event), event.received_at_ms, self._rules_of(ctx.settings))
        return _result(before, change, event.received_at_ms, ctx)

    def due_ms(self, state: CartLog) -> int | None:
        return state.due_ms

    def fire(self, state: CartLog, now_ms: int, ctx: Context) -> Result:
        return _result(state, cart_log.fire(state, now_ms, self._rules_of(ctx.settings)), now_ms, ctx)

    def merge(self, one: CartLog, other: CartLog, now_ms: int, ctx: Context) -> Result:
        """One cart of both: the union of their logs, folded again."""
        return _result(one, cart_log.merge(one, other, self._rules_of(ctx.settings)), now_ms, ctx)

    def still_true(self, state: CartLog, kind: TriggerKind, data: Any) -> bool:
        """The cart of the reminder still lies there, and nobody has come back to it."""
        return state.cart.state == "abandoned" and state.cart.episode == data.episode

    def gauges(self, state: CartLog) -> tuple[tuple[str, int], ...]:
        return (("carts_open", 1),) if state.cart.state in WAITING else ()

    def explain(self, state: CartLog, now_ms: int, ctx: Context) -> dict[str, Any]:
        return _explained(state.cart)

    def describe(self, emitted: Emission | Retracted, ctx: Context) -> dict[str, Any]:
        if isinstance(emitted, Retracted):
            return {
                "type": "cart.abandonment_retracted",
                "time": rfc3339(emitted.at_ms),
                "id": emission_id(ctx.site, emitted.told.by, RETRACTED, emitted.told.n),
                "retracts": trigger_id(ctx.site, emitted.told),
            }
        said: dict[str, Any] = {"type": emitted.what, "time": rfc3339(emitted.at_ms)}
        cart, order = emitted.cart, emitted.order
        if cart.episode and emitted.what in OF_A_CART:
            said |= {"stage": STAGES[cart.stage], "value": value_of(cart.items), "items": _listed(cart.items)}
            said |= {"currency": cart.cur, "episode": cart.episode}
        if emitted.what == "cart.abandoned":
            said |= {"seq": cart.seq, "suppressed": emitted.quiet}
            if emitted.told is not None:
                said["id"] = emission_id(ctx.site, emitted.told[0], CART_ABANDONED.name, emitted.told[1])
        if order is not None:
            said |= {"order_id": order.id, "revenue": order.value, "order_currency": order.cur}
            if order.by is not None:
                said["by"] = order.by
        return said


OF_A_CART: Final[frozenset[What]] = frozenset(what for _, what in TABLE.values() if what) - {"order.without_cart"}
"""Emissions that are about a cart with something in it."""


def _listed(items: tuple[Line, ...]) -> list[dict[str, Any]]:
    return [
        {"product_id": i.id, "quantity": i.qty, "price": i.price, **({"name": i.name} if i.name else {})} for i in items
    ]


def _explained(cart: Cart) -> dict[str, Any]:
    """A cart in words."""
    said: dict[str, Any] = {"state": cart.state.upper(), "episode": cart.episode}
    if cart.state in ACTIVE:
        said |= {
            "stage": STAGES[cart.stage],
            "value": value_of(cart.items),
            "currency": cart.cur,
            "items": _listed(cart.items),
            "seq": cart.seq,
            "opened": rfc3339(cart.opened_ms),
            "last_activity": rfc3339(cart.last_ms),
        }
        if cart.seq:
            said["abandoned"] = rfc3339(cart.abandoned_ms)
        if cart.touch is not None:
            said["clicked"] = {"campaign": cart.touch[0], "time": rfc3339(cart.touch[1])}
    said["orders"] = [
        {
            "order_id": order.id, "time": rfc3339(order.ms), "revenue": order.value, "currency": order.cur,
            "recovered_by": order.by, "given_back": order.back, "reversed": order.reversed,
        }
        for order in cart.orders
    ]  # fmt: skip
    return said


def entry(event: ProfileEvent) -> Entry:
    """The event as the cart sees it."""
    assert event.event is not None  # the shell passes only events named in `events`
    do = DOES[event.event]
    p = shop.properties(event.properties)
    ms, id = event.timestamp_ms, event.message_id
    if do in ("add", "remove"):
        default_qty = 1 if do == "add" else 0  # Removed without a quantity: the whole line.
        lines = shop.listed(p, default_qty) or (shop.single(p, default_qty),)
        return Entry(ms, id, do, lines, cur=shop.currency(p))
    if do == "order":
        return Entry(ms, id, do, order=shop.order_id(p), value=shop.order_value(p), cur=shop.currency(p))
    if do == "undo":
        back = shop.refunded(p) if event.event == ev.ORDER_REFUNDED else None
        return Entry(ms, id, do, order=shop.order_id(p), value=back)
    if do == "click":
        return Entry(ms, id, do, by=shop.campaign(p))
    return Entry(ms, id, do, shop.listed(p), cur=shop.currency(p))


def _result(before: CartLog, change: Change, now_ms: int, ctx: Context) -> Result:
    after = change.state
    site = ctx.site
    opened = (after.cart.state in WAITING) - (before.cart.state in WAITING)
    metrics: list[tuple[str, tuple[str, ...], float]] = [
        (METRICS[what], (site,), n) for what, n in change.counts if what in METRICS
    ]
    for order in change.orders:
        metrics.append(("orders_total", (site,), 1))
        if order.value:
            metrics.append(("revenue_minor_total", (order.cur or "",), shop.minor(order.value, order.cur)))
    return Result(
        state=after,
        triggers=(
            *(_retraction(told, now_ms, ctx) for told in change.retracted),
            *(_abandonment(emission, told, ctx) for emission, told in change.abandoned),
        ),
        gauges=(("carts_open", opened),) if opened else (),
        metrics=tuple(metrics),
        emitted=(*change.emitted, *(Retracted(told, now_ms) for told in change.retracted)),
        undone=change.undone,
    )


def trigger_id(site: str, told: Told) -> str:
    return emission_id(site, told.by, CART_ABANDONED.name, told.n)


def _abandonment(emission: Emission, told: Told, ctx: Context) -> Trigger:
    cart = emission.cart
    return Trigger(
        kind=CART_ABANDONED,
        id=trigger_id(ctx.site, told),
        at_ms=emission.at_ms,
        suppressed="repeat" if emission.quiet else None,
        data=CartAbandoned(
            profile_id=ctx.profile_id,
            stage=STAGES[cart.stage],
            value=value_of(cart.items),
            items=[_shown(line) for line in cart.items],
            episode=cart.episode,
            seq=cart.seq,
            opened_at_ms=cart.opened_ms,
            last_activity_ms=cart.last_ms,
            abandoned_at_ms=cart.abandoned_ms,
            currency=cart.cur,
        ),
    )


def _shown(line: Line) -> CartLine:
    return CartLine(
        product_id=line.id,
        quantity=line.qty,
        price=line.price,
        name=line.name,
        url=line.url,
        image_url=line.img,
    )


def _retraction(told: Told, now_ms: int, ctx: Context) -> Trigger:
    return Trigger(
        kind=CART_ABANDONED,
        id=emission_id(ctx.site, told.by, RETRACTED, told.n),
        at_ms=now_ms,
        data=CartAbandonmentRetracted(profile_id=ctx.profile_id, retracts=trigger_id(ctx.site, told)),
    )
