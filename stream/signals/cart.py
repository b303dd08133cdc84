"""Carts: events of a shop in, `cart_abandoned` and `cart_recovered` triggers and the counters of rates out.

The rules are stream/core/cart.py's. Counters stand in the bucket of the time at which the cart was opened, so that
rates are of carts that were opened in a window, however late they were bought.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Final

import msgspec
from msgspec import UNSET, Struct

from stream import naming
from stream.core import cart_log
from stream.core.cart import (
    ACTIVE,
    COUPON,
    PAYMENT,
    SHIPPING,
    STAGES,
    TABLE,
    UNKNOWN,
    WAITING,
    Cart,
    Do,
    Emission,
    Entry,
    Line,
    Rules,
    What,
    counted_of,
    reason_of,
    rules_of,
    value_of,
)
from stream.core.cart_log import CartLog, Change, Told
from stream.core.parts import read_part
from stream.signals import shop
from stream.signals.base import Context, Result, Signal, Trigger
from tracker.contract import events as ev
from tracker.contract import keys
from tracker.contract.codec import emission_id
from tracker.contract.events import ProfileEvent
from tracker.contract.settings import Settings
from tracker.contract.triggers import (
    CART_ABANDONED,
    CART_RECOVERED,
    CartAbandoned,
    CartAbandonmentRetracted,
    CartLine,
    CartRecovered,
    CartRecoveryRetracted,
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
    ev.COUPON_DENIED: "coupon",
    ev.PAYMENT_FAILED: "failed",
    ev.SURVEY_ANSWERED: "answer",
    **dict.fromkeys(ev.MESSAGE_CLICKS, "click"),
}
"""Name of an event -> what it does to the cart."""

METRICS: Final[dict[What, str]] = {
    "cart.opened": "carts_opened_total",
    "cart.abandoned": "carts_abandoned_total",
    "cart.converted": "carts_converted_total",
    "cart.recovered": "carts_recovered_total",
    "cart.lost": "carts_lost_total",
    "cart.emptied": "carts_emptied_total",
}
MESSAGES: Final = frozenset(("email", "sms", "zalo", "viber", "webpush"))
"""Traffic classes of pages that a message has led to."""
REASONS: Final = (COUPON, SHIPPING, PAYMENT, UNKNOWN)
"""Reasons that events tell; surveys may give any other, as `other` in Prometheus."""
RETRACTED: Final = "cart_abandonment_retracted"
RECOVERY_RETRACTED: Final = "cart_recovery_retracted"
"""Kinds in the ids of retractions."""
INTERNAL: Final[frozenset[What]] = frozenset(("order.completed", "cart.checkout_reached", "cart.answered"))
"""Emissions for counting only."""
REVERSED: Final = "reversed"
"""Why a recovery is retracted: its order was cancelled or refunded; else `late`."""
MAX_REASON_CHARS: Final = 40


class _Campaign(Struct):
    """Of a page: what its link said (utm_campaign, utm_id, utm_source)."""

    name: Any = None
    id: Any = None
    source: Any = None

    @property
    def given(self) -> tuple[Any, Any, Any]:
        """What it goes by, the first that is something, as in the counters (stream/naming.py)."""
        return self.name, self.id, self.source


_campaign: Final = msgspec.json.Decoder(_Campaign)
MARKS: Final = frozenset(("nps", "csat", "ces"))
"""Types of surveys that are about a shop or a purchase. Their answer is a cart's only if it names the cart."""


class Retracted(Struct, frozen=True):
    """Emitted: an abandonment or a recovery is taken back."""

    told: Told
    at_ms: int
    reason: str


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
                "order_id": order.id, "time": rfc3339(order.ms), "revenue": order.value, "currency": order.cur,
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
            said |= {"order_id": order.id, "revenue": order.value, "order_currency": order.cur}
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


OF_A_CART: Final[frozenset[What]] = frozenset(what for _, what in TABLE.values() if what) - {"order.without_cart"}
"""Emissions that are about a cart with something in it."""


def _listed(items: tuple[Line, ...]) -> list[dict[str, Any]]:
    return [
        {"product_id": i.id, "quantity": i.qty, "price": i.price, **({"name": i.name} if i.name else {})} for i in items
    ]


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


def entry(event: ProfileEvent) -> Entry | None:
    """The event as the carts see it; None: it tells nothing of them."""
    if event.event is None:
        return _visit(event)
    do = DOES[event.event]
    p = shop.properties(event.properties)
    ms, id = event.timestamp_ms, event.message_id
    if do == "click":
        return Entry(ms, id, do, by=shop.campaign(p))
    order, cart, checkout = shop.order_id(p), shop.cart_id(p), shop.checkout_id(p)
    if do == "undo":
        back = shop.refunded(p) if event.event == ev.ORDER_REFUNDED else None
        return Entry(ms, id, do, order=order, value=back)
    if do == "order":
        value = shop.order_value(p)
        return Entry(ms, id, do, order=order, value=value, cur=shop.currency(p), cart=cart, checkout=checkout)
    if do in ("coupon", "failed"):
        return Entry(ms, id, do, order=order, cart=cart, checkout=checkout)
    if do == "answer":
        reason = shop.text(p.reason, MAX_REASON_CHARS)
        if reason is None or (order is cart is checkout is None and _asks_how_it_was(p)):  # of something else
            return None
        return Entry(ms, id, do, order=order, cart=cart, checkout=checkout, by=reason.lower())
    lines = shop.listed(p)
    by = None
    if do in ("add", "remove"):
        order = None
        default_qty = 1 if do == "add" else 0  # Removed without a quantity: the whole line.
        lines = shop.listed(p, default_qty) or (shop.single(p, default_qty),)
    elif event.event in (ev.CHECKOUT_STEP_VIEWED, ev.CHECKOUT_STEP_COMPLETED) and shop.is_shipping(p):
        by = SHIPPING
    cur, link = shop.currency(p), shop.link(p)
    brought = naming.brought_by(event)
    return Entry(
        ms, id, do, lines, order=order, cur=cur, by=by, cart=cart, checkout=checkout, link=link, brought=brought
    )


def _visit(event: ProfileEvent) -> Entry | None:
    """A page that the link of a message has led to; None: of no campaign, or by no message."""
    if event.traffic not in MESSAGES or event.bot is not None or event.campaign is UNSET:
        return None
    said = read_part(_campaign, event.campaign)
    if said is None or (by := next((n for g in said.given if (n := shop.text(g, shop.MAX_ID_CHARS))), None)) is None:
        return None
    return Entry(event.timestamp_ms, event.message_id, "visit", by=by)


def _asks_how_it_was(p: shop.Properties) -> bool:
    """Surveys that ask for a mark have a `reason` of their own, which is none for leaving a cart."""
    return isinstance(p.type, str) and p.type.strip().casefold() in MARKS


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
            *(_retraction(each, ctx) for each in retracted),
            *(_abandonment(emission, told, ctx) for emission, told in change.abandoned),
            *(_recovery(emission, told, ctx) for emission, told in change.recovered),
        ),
        counts_at=_counts(change),
        gauges=(("carts_open", opened),) if opened else (),
        metrics=tuple(metrics),
        emitted=(
            *(x for x in change.emitted if x.what not in INTERNAL),
            *(each for each in retracted if each.reason != REVERSED),  # that is cart.recovery_reversed
        ),
        undone=tuple(x for x in change.undone if x.what not in INTERNAL),
    )


def _counts(change: Change) -> tuple[tuple[str, int, int], ...]:
    """What is to be counted: of what happened and of what did not after all, the difference."""
    sums: dict[tuple[str, int], int] = {}
    for emissions, sign in ((change.emitted, 1), (change.undone, -1)):
        for x in emissions:
            for field, n, ms in counted(x):
                key = (field, ms // 60_000 * 60_000)
                sums[key] = sums.get(key, 0) + sign * n
    return tuple((field if n > 0 else keys.undone_field(field), abs(n), ms) for (field, ms), n in sums.items() if n)


def counted(x: Emission) -> Iterator[tuple[str, int, int]]:
    """(field, n, when the cart was opened) of an emission; n < 0: no more."""
    cart, ms = x.cart, x.cart.opened_ms
    match x.what:
        case "cart.opened" | "cart.lost" | "cart.converted_late":
            yield from _cart(x.what.removeprefix("cart."), 1, ms, cart.brought, cart.left)
        case "cart.emptied" if cart.seq == 0:
            yield from _cart("emptied", 1, ms, cart.brought)
        case "cart.converted":
            yield from _cart("converted", 1, ms, cart.brought, counted_of(cart.items))
            if cart.stage:
                yield from _cart("converted_checkout", 1, ms, cart.brought)
        case "cart.abandoned" if cart.seq == 1:
            yield from _cart("abandoned", 1, ms, cart.brought, cart.left)
            yield keys.cart_reason_field(reason_of(cart)), 1, ms
            if cart.stage:
                yield from _cart("abandoned_checkout", 1, ms, cart.brought)
        case "cart.checkout_reached":
            yield from _cart("abandoned_checkout", 1, ms, cart.brought)
        case "cart.answered":
            yield keys.cart_reason_field(x.was or UNKNOWN), -1, ms
            yield keys.cart_reason_field(reason_of(cart)), 1, ms
        case "cart.recovered":
            assert x.order is not None
            yield from _cart("recovered", 1, ms, cart.brought, cart.left)
            if x.order.gain:
                yield _revenue_field(x), shop.minor(x.order.gain, x.order.cur), ms
        case "cart.recovery_reversed":
            assert x.order is not None
            brought = x.order.brought or (None,) * len(x.order.opened_ms)
            left = x.order.left or ((),) * len(x.order.opened_ms)
            for opened_ms, campaign, products in zip(x.order.opened_ms, brought, left, strict=True):
                yield from _cart("recovered", -1, opened_ms, campaign, products)
            if x.order.gain and x.order.opened_ms:
                yield _revenue_field(x), -shop.minor(x.order.gain, x.order.cur), x.order.opened_ms[0]


def _cart(
    what: str, n: int, ms: int, brought: str | None, products: tuple[str, ...] = ()
) -> Iterator[tuple[str, int, int]]:
    yield keys.cart_field(what), n, ms
    yield keys.cart_campaign_field(what, brought or ""), n, ms
    for product in products:
        yield keys.cart_product_field(what, product), n, ms


def _revenue_field(x: Emission) -> str:
    assert x.order is not None  # it is a recovery, or its end
    return keys.cart_revenue_field(x.order.cur or "", x.order.by or "")


def trigger_id(site: str, told: Told) -> str:
    kind = CART_ABANDONED if told.order is None else CART_RECOVERED
    return emission_id(site, told.by, kind.name, told.n)


def retraction_id(site: str, told: Told) -> str:
    return emission_id(site, told.by, RETRACTED if told.order is None else RECOVERY_RETRACTED, told.n)


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
            reason=reason_of(cart),
            currency=cart.cur,
            cart_id=cart.key or None,
            checkout_id=cart.checkout,
            link=cart.link,
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


def _recovery(emission: Emission, told: Told, ctx: Context) -> Trigger:
    cart, order = emission.cart, emission.order
    assert order is not None  # it is what recovers
    return Trigger(
        kind=CART_RECOVERED,
        id=trigger_id(ctx.site, told),
        at_ms=emission.at_ms,
        data=CartRecovered(
            profile_id=ctx.profile_id,
            by=order.by or "organic",
            order_id=None if order.id.startswith("message:") else order.id,
            revenue=order.gain,
            value=value_of(cart.items),
            episode=cart.episode,
            opened_at_ms=cart.opened_ms,
            abandoned_at_ms=cart.abandoned_ms,
            currency=order.cur,
            cart_id=cart.key or None,
            checkout_id=cart.checkout,
        ),
    )


def _retraction(retracted: Retracted, ctx: Context) -> Trigger:
    told = retracted.told
    retracts = trigger_id(ctx.site, told)
    if told.order is None:
        kind, data = CART_ABANDONED, CartAbandonmentRetracted(profile_id=ctx.profile_id, retracts=retracts)
        return Trigger(kind=kind, id=retraction_id(ctx.site, told), at_ms=retracted.at_ms, data=data)
    reversal = CartRecoveryRetracted(profile_id=ctx.profile_id, retracts=retracts, reason=retracted.reason)
    return Trigger(kind=CART_RECOVERED, id=retraction_id(ctx.site, told), at_ms=retracted.at_ms, data=reversal)
