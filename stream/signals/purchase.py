"""Churn risk by purchase days, and what a customer is worth: orders in, `churn_risk` triggers out.

One-time buyers cross, too: they are counted, but not told. The predicted value is MBG/NBD's expected purchases times
Gamma-Gamma's expected value of one (stream/core/value.py), in the currency that the site's parameters are of.
"""

from __future__ import annotations

from typing import Any, Final

from msgspec import field
from msgspec.structs import replace

from stream.core import churn_watch, orders
from stream.core.churn_watch import Rule, Watched
from stream.core.orders import MAX_VALUE, VALUE_DIGITS, Order
from stream.core.value import ValueParams, factors, lifetime_value, mean_value
from stream.signals import shop
from stream.signals.base import Context, Latest, Result
from stream.signals.churn import ChurnSignal, model_of
from tracker.contract.durations import DAY_MS
from tracker.contract.events import ORDER_CANCELLED, ORDER_COMPLETED, ORDER_REFUNDED, ProfileEvent

_NOT_SAID: Final = ""


class Purchases(Watched, frozen=True, omit_defaults=True):
    """The state of the signal `purchase`."""

    orders: dict[str, Order] = field(default_factory=dict)
    """By order_id, else 'message:' and the messageId: the latest 64."""
    sums: dict[str, int] = field(default_factory=dict)
    """Currency -> net value of older orders, in 1/10000."""


class PurchaseSignal(ChurnSignal[Purchases]):
    name = "purchase"
    state_type = Purchases
    events: frozenset[str] | None = frozenset((ORDER_COMPLETED, ORDER_CANCELLED, ORDER_REFUNDED))
    settings = ChurnSignal.common | {"churn_horizon_d", "clv_weeks", "clv_discount_rate"}
    horizon = "churn_horizon_d"
    gauge = "churn_high"
    counts_all = True
    version = 2

    def migrate(self, version: int, fields: dict[str, Any]) -> dict[str, Any]:
        """Version 1 had order ids without values, and one sum."""
        ms, day = fields["zero_ms"], fields["days"][0]
        known = {id: {"ms": ms, "day": day} for id in fields.pop("orders", [])}
        value = fields.pop("value", 0)
        return {**fields, "orders": known, "sums": {_NOT_SAID: value} if value else {}}

    def fold(self, state: Purchases | None, event: ProfileEvent, ctx: Context) -> Result:
        before = Purchases() if state is None else state
        p = shop.properties(event.properties)
        id, ms = shop.order_id(p), event.timestamp_ms
        day = (ms + ctx.utc_offset_ms) // DAY_MS
        if event.event != ORDER_COMPLETED:
            if id is None:
                return Result(state=state)  # Of which order is not said.
            back = shop.refunded(p) if event.event == ORDER_REFUNDED else None
            new = Order(ms, day, back=MAX_VALUE if back is None else _value(back))
            return Result(state=_kept(before, {**before.orders, id: orders.reported(before.orders.get(id), new)}))
        id = id or f"message:{event.message_id}"
        new = Order(ms, day, _value(shop.order_value(p) or 0.0), cur=shop.currency(p) or _NOT_SAID)
        known = before.orders.get(id)
        order = orders.reported(known, new)
        if order == known:
            return Result(state=before)
        with_order = {**before.orders, id: order}
        after = before
        if known is not None and known.value is not None and known.day != order.day:
            after = _without(before, {known.day}, with_order)
        elif order.day != day:
            return Result(state=_kept(before, with_order))  # Another report of it, later.
        after = _kept(self.seen(after, ms, ctx), with_order)
        return Result(state=after, gauges=self.moved(before, after))

    def worth(self, state: Purchases, at_ms: int, rule: Rule, ctx: Context) -> dict[str, Any]:
        totals = orders.totals(state.orders, state.sums)
        model = model_of(self.name, ctx)
        value = model.value if model is not None else None
        if value is not None and value.currency in totals:
            currency = value.currency
        else:
            currency = max(totals, key=lambda cur: (totals[cur], cur), default=_NOT_SAID)
        found: dict[str, Any] = {"value_total": totals.get(currency, 0.0), "values": totals}
        if currency:
            found["currency"] = currency
        if value is None or value.currency != currency:
            return found
        x, params = state.x, ValueParams(value.p, value.q, value.v)
        repeats = orders.totals(state.orders, state.sums, state.days[0] if state.days else None)
        mean = repeats.get(currency, 0.0) / x if x else 0.0
        by_week = factors(ctx.settings.clv_weeks, ctx.settings.clv_discount_rate)
        age, t_x = state.age_weeks(at_ms), state.t_x_days / 7
        clv = lifetime_value("mbgnbd", rule.params, params, x, t_x, age, mean, by_week)
        found |= {"mean_value": mean_value(params, x, mean), "clv": clv}
        if value.high is not None and clv is not None:
            found["high_value"] = clv >= value.high
        return found

    def merge(self, one: Purchases, other: Purchases, now_ms: int, ctx: Context) -> Result:
        """The union of the days; an order that both have counts once."""
        both = {
            id: orders.reported(one.orders.get(id), other.orders[id]) if id in other.orders else one.orders[id]
            for id in sorted({*one.orders, *other.orders})
        }
        days = {*one.days, *other.days}
        twice = [id for id in both if id in one.orders and id in other.orders]
        later = {o.day for id in twice for o in (one.orders[id], other.orders[id]) if o.value is not None}
        days -= _only(later - {both[id].day for id in twice}, both, one.more + other.more)
        after = churn_watch.merged(one, other, days)
        sums = orders.added((one.sums, other.sums))
        after = _kept(replace(after, orders=both, sums=sums), both)
        return Result(state=churn_watch.settled(after, after, now_ms, self.rule(ctx)))


def order_count(ctx: Context) -> int:
    """How many orders that were not given back; beyond the 64 that are remembered, days with one."""
    state: Purchases | None = ctx.states.get("purchase")
    return 0 if state is None or not state.days else _count_of(state)


def _counted(state: Purchases) -> int:
    known = [order for order in state.orders.values() if order.value is not None]
    standing = [order for order in known if order.stands]
    if len(standing) < len(known):
        gone = {order.day for order in known} - {order.day for order in standing}
        return max(len(standing), state.x + 1 - len(gone.intersection(state.days)))
    return max(len(standing), state.x + 1)


_count_of: Final = Latest(_counted)


def _value(amount: float) -> int:
    return min(round(VALUE_DIGITS * amount), MAX_VALUE)


def _kept(state: Purchases, known: dict[str, Order]) -> Purchases:
    first = state.days[0] if state.days else 0
    kept, sums = orders.trimmed(known, state.sums, first)
    return replace(state, orders=kept, sums=sums)


def _only(days: set[int], known: dict[str, Order], more: int) -> set[int]:
    """Which of the days no order has."""
    return set() if more else days - {o.day for o in known.values() if o.value is not None}


def _without(state: Purchases, days: set[int], known: dict[str, Order]) -> Purchases:
    """Without the days that no order has any more: an earlier report of it came later."""
    gone = _only(days, known, state.more)
    return replace(state, days=tuple(d for d in state.days if d not in gone)) if gone else state
