"""Who is due to buy again, or whose subscription ends: `reorder_due`; and the counters of what customers buy more of.
The rules are stream/core/reorder.py's.

Its orders are those of the signal `purchase`; here is kept only what was in the latest.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from math import isfinite
from typing import Any, Final

import msgspec
from msgspec import Struct
from msgspec.structs import replace

from stream.core import reorder
from stream.core.orders import Order
from stream.core.parts import read_part
from stream.core.reorder import Basket, Due, Reorder, Subscription
from stream.signals import shop
from stream.signals.base import Context, Result, Signal, Trigger
from stream.signals.cart_triggers import cart_line
from tracker.contract.codec import emission_id
from tracker.contract.events import (
    MAX_TIME_MS,
    ORDER_COMPLETED,
    SUBSCRIPTION_EVENTS,
    SUBSCRIPTION_RENEWED,
    ProfileEvent,
)
from tracker.contract.keys import sale_field, undone_field
from tracker.contract.models import Model
from tracker.contract.retention import ReorderRules
from tracker.contract.triggers import REORDER_DUE, ReorderDue, TriggerKind, rfc3339
from tracker.contract.windows import Zone

PURCHASE: Final = "purchase"
SECONDS: Final = 100_000_000_000
"""A number below it is a time in seconds, else in ms: 1973 or 5138."""
_DEFAULTS: Final = ReorderRules()
_last: Final[dict[str, tuple[ReorderRules, Model, ReorderRules]]] = {}
"""Site -> (its rules, its parameters, both as one), as they were asked for last."""


class _Subscription(Struct):
    subscription_id: Any = None
    ends_at: Any = None
    end_date: Any = None
    expires_at: Any = None
    renews_at: Any = None
    current_period_end: Any = None
    tier: Any = None
    plan: Any = None


_subscription = msgspec.json.Decoder(_Subscription)


class ReorderSignal(Signal[Reorder]):
    name = "reorder"
    state_type = Reorder
    events: frozenset[str] | None = frozenset((ORDER_COMPLETED, *SUBSCRIPTION_EVENTS))
    tells = frozenset((REORDER_DUE.name,))
    settings: frozenset[str] = frozenset(("sites",))
    reads = frozenset((PURCHASE,))

    def fold(self, state: Reorder | None, event: ProfileEvent, ctx: Context) -> Result:
        rules = _rules(ctx)
        if event.bot is not None or not rules.on:
            return Result(state=state)
        before = reorder.NOTHING if state is None else state
        if event.event == ORDER_COMPLETED:
            p = shop.properties(event.properties)
            id = shop.order_id(p) or f"message:{event.message_id}"
            lines = (shop.listed(p) or ())[: reorder.MAX_LINES]
            # When it makes a difference to `purchase`, `settle` follows.
            basket = Basket(event.timestamp_ms, id, lines)
            return _counted(reorder.bought(before, basket, shop.categories(p), shop.tiers(p)), rules, before)
        about = read_part(_subscription, event.properties) or _Subscription()
        after = reorder.said(before, _said(event, about, ctx.zone))
        if SUBSCRIPTION_EVENTS[event.event or ""]:
            after = reorder.of_tiers(after, shop.tiers(about), event.timestamp_ms)
        renewed = ((sale_field("renewed"), 1, event.timestamp_ms),) if event.event == SUBSCRIPTION_RENEWED else ()
        found = _counted(reorder.with_due(after, _orders(ctx), rules), rules, before)
        return replace(found, counts_at=(*renewed, *found.counts_at))

    def settle(self, state: Reorder | None, now_ms: int, ctx: Context) -> Result:
        """The orders have changed."""
        if state is None:
            return Result(state=None)
        return Result(state=reorder.with_due(state, _orders(ctx), _rules(ctx)))

    def due_ms(self, state: Reorder) -> int | None:
        return state.due_ms

    def fire(self, state: Reorder, now_ms: int, ctx: Context) -> Result:
        if state.due_ms is None or state.due_ms > now_ms:
            return Result(state=state)
        rules = _rules(ctx)
        after, due = reorder.fire(state, now_ms, _orders(ctx), rules)
        return replace(_counted(after, rules, state), triggers=tuple(_trigger(each, ctx) for each in due))

    def merge(self, one: Reorder, other: Reorder, now_ms: int, ctx: Context) -> Result:
        """The orders of both come by another part, and `settle` follows."""
        rules = _rules(ctx)
        return _counted(reorder.with_due(reorder.merged(one, other), _orders(ctx), rules), rules, one, other)

    def still_true(self, state: Reorder, kind: TriggerKind, data: Any) -> bool:
        """No order came since."""
        return not any(b.ms > (data.last_order_ms or 0) for b in state.baskets)

    def explain(self, state: Reorder, now_ms: int, ctx: Context) -> dict[str, Any]:
        """What will be due, and by what."""
        return {
            "dues": [
                {
                    "time": rfc3339(due.at_ms), "basis": due.basis, "gap_days": due.gap_d, "orders": due.orders,
                    "last_order": rfc3339(due.last_ms) if due.last_ms is not None else None,
                    "product_id": due.product, "subscription_id": due.subscription,
                }
                for due in reorder.dues(state, _orders(ctx), _rules(ctx))
            ],
            "subscriptions": [
                {
                    "subscription_id": s.id or None, "ends": rfc3339(s.ends_ms) if s.ends_ms > 0 else None,
                    "lapsed": s.id in state.over,
                }
                for s in state.subscriptions
            ],
            "categories": {name: rfc3339(ms) for name, ms in state.categories.items()},
            "cross_sells": len(state.cross_sells),
            "tiers": {name: rfc3339(ms) for name, ms in state.tiers.items()},
            "upsells": len(state.upsells(_rules(ctx).ranking)),
            "due": rfc3339(state.due_ms) if state.due_ms is not None else None,
        }  # fmt: skip


def _rules(ctx: Context) -> ReorderRules:
    """The site's; of products that it says nothing of, the medians of its customers as they were fitted last."""
    known = ctx.settings.sites.get(ctx.site)
    rules = _DEFAULTS if known is None else known.reorder
    model = ctx.models.get((ctx.site, PURCHASE))
    if model is None or not model.gaps:
        return rules
    last = _last.get(ctx.site)
    if last is None or last[0] is not rules or last[1] is not model:
        with_medians = replace(rules, products=model.gaps | rules.products)
        last = _last[ctx.site] = (rules, model, with_medians)
    return last[2]


def _counted(after: Reorder, rules: ReorderRules, *before: Reorder) -> Result:
    """The state, and what it counts more or less than the ones before."""
    counts = tuple(
        (sale_field(what) if n > 0 else undone_field(sale_field(what)), abs(n), ms)
        for what, n, ms in reorder.sales(after, before, rules.ranking)
    )
    return Result(state=after, counts_at=counts)


def _orders(ctx: Context) -> Mapping[str, Order]:
    purchases = ctx.states.get(PURCHASE)
    return purchases.orders if purchases is not None else {}


def _said(event: ProfileEvent, p: _Subscription, zone: Zone) -> Subscription:
    id = shop.text(p.subscription_id, shop.MAX_ID_CHARS) or ""
    if not SUBSCRIPTION_EVENTS[event.event or ""]:
        return Subscription(event.timestamp_ms, id, reorder.CANCELLED)
    for given in (p.ends_at, p.end_date, p.expires_at, p.renews_at, p.current_period_end):
        if (ends_ms := _time(given, zone)) is not None:
            return Subscription(event.timestamp_ms, id, ends_ms)
    return Subscription(event.timestamp_ms, id, reorder.UNSAID)


def _time(given: object, zone: Zone) -> int | None:
    """ISO 8601 (without a zone: the site's), or a number of seconds or ms since 1970 -> ms."""
    if isinstance(given, str) and len(given) <= 40:
        try:
            at = datetime.fromisoformat(given.strip())
            ms = round(at.replace(tzinfo=at.tzinfo or UTC).timestamp() * 1000)
            if at.tzinfo is None:
                ms = zone.of_local(ms // 1000) * 1000 + ms % 1000
        except (ValueError, OverflowError):
            return None
    elif isinstance(given, int | float) and not isinstance(given, bool) and abs(given) < 1e15 and isfinite(given):
        ms = round(given * 1000) if abs(given) < SECONDS else round(given)
    else:
        return None
    return ms if 0 < ms <= MAX_TIME_MS else None


def _trigger(due: Due, ctx: Context) -> Trigger:
    return Trigger(
        kind=REORDER_DUE,
        id=emission_id(ctx.site, f"{ctx.profile_id}/{due.about}", REORDER_DUE.name, 1),
        at_ms=due.at_ms,
        data=ReorderDue(
            profile_id=ctx.profile_id,
            basis=due.basis,
            last_order_ms=due.last_ms,
            orders=due.orders,
            gap_days=due.gap_d,
            items=[cart_line(line) for line in due.lines],
            product_id=due.product,
            subscription_id=due.subscription,
        ),
    )
