"""Churn risk by purchases: `churn_risk` triggers when a customer's risk crosses the threshold.

State: the set of the site-local days with an order, from which x, t_x and the age follow in whatever order the events
came. Age 0 = start of the first day; t_x in whole days; the age now is continuous, so t_x <= age. One timer, at the
crossing, set anew by every purchase. The signal goes on when it fires, and off only by a purchase that brings the risk
down to churn_leave. One-time buyers cross too: they are counted, but not told.
"""

from __future__ import annotations

from bisect import bisect_left
from itertools import chain, zip_longest
from math import ceil, inf
from typing import Any, Final

from msgspec import Struct
from msgspec.structs import replace

from stream.core.churn import COLD, COLD_MODEL, band, crossing, p_alive, p_at_least_one
from stream.signals import shop
from stream.signals.base import Context, Result, Signal, Trigger
from tracker.contract.codec import emission_id
from tracker.contract.events import ORDER_COMPLETED, ProfileEvent
from tracker.contract.settings import Settings
from tracker.contract.triggers import CHURN_RISK, ChurnRisk, TriggerKind

DAY_MS: Final = 86_400_000
MAX_DAYS: Final = 512
MAX_ORDERS: Final = 64
VALUE_DIGITS: Final = 10_000
"""Values are summed as integers of this part of a unit, so that no order of events changes the sum."""
MAX_VALUE: Final = 1 << 62
"""Fits into JSON's integers."""


class Purchases(Struct, frozen=True, omit_defaults=True):
    """The state of the signal `purchase`."""

    days: tuple[int, ...]
    """Site-local days with an order, since the epoch, sorted."""
    zero_ms: int
    """Start of the first day."""
    more: int = 0
    """Purchase days dropped from `days`, all after the first: the oldest of more than 512."""
    value: int = 0
    """Sum of the orders' values, in 1/10000; currencies are not told apart."""
    orders: tuple[str, ...] = ()
    """order_ids seen, latest last: an order reported twice counts once."""
    due_ms: int | None = None
    on: bool = False
    """Over the threshold."""
    crossed_ms: int = 0
    """Last crossing."""
    crossings: int = 0
    told_ms: int | None = None
    """Last crossing that was not suppressed."""

    @property
    def x(self) -> int:
        return len(self.days) - 1 + self.more

    @property
    def t_x_days(self) -> int:
        return self.days[-1] - self.days[0]

    def age_weeks(self, now_ms: int) -> float:
        return max((now_ms - self.zero_ms) / DAY_MS, self.t_x_days) / 7


class PurchaseSignal(Signal[Purchases]):
    name = "purchase"
    state_type = Purchases
    events: frozenset[str] | None = frozenset((ORDER_COMPLETED,))
    settings: frozenset[str] = frozenset(("churn_enter", "churn_gap_d", "churn_horizon_d", "churn_leave"))

    def fold(self, state: Purchases | None, event: ProfileEvent, ctx: Context) -> Result:
        p = shop.properties(event.properties)
        day = (event.timestamp_ms + ctx.utc_offset_ms) // DAY_MS
        start_ms = day * DAY_MS - ctx.utc_offset_ms
        before = Purchases((day,), start_ms) if state is None else state
        order = shop.order_id(p) or f"message:{event.message_id}"
        if order in before.orders:
            return Result(state=before)
        days, more = _with_day(before.days, before.more, day)
        after = replace(
            before,
            days=days,
            more=more,
            zero_ms=min(start_ms, before.zero_ms),
            value=min(before.value + round(VALUE_DIGITS * (shop.order_value(p) or 0.0)), MAX_VALUE),
            orders=(*before.orders[1 - MAX_ORDERS :], order),
        )
        # A late purchase is judged as of the last crossing: that was known to be past.
        now_ms = max(event.timestamp_ms, before.crossed_ms)
        off = before.on and _risk(after, now_ms, ctx.settings) <= ctx.settings.churn_leave
        on = before.on and not off
        after = replace(after, on=on, due_ms=None if on else _crossing_ms(after, ctx.settings))
        return Result(state=after, gauges=(("churn_high", -1),) if off else ())

    def due_ms(self, state: Purchases) -> int | None:
        return state.due_ms

    def fire(self, state: Purchases, now_ms: int, ctx: Context) -> Result:
        due = state.due_ms
        if due is None or due > now_ms:
            return Result(state=state)
        gap_ms = round(ctx.settings.churn_gap_d * DAY_MS)
        if state.x == 0:
            reason: str | None = "one_time_buyer"
        else:
            reason = "gap" if state.told_ms is not None and due - state.told_ms < gap_ms else None
        after = replace(
            state,
            due_ms=None,
            on=True,
            crossed_ms=max(due, state.crossed_ms),
            crossings=state.crossings + 1,
            told_ms=due if reason is None else state.told_ms,
        )
        horizon = ctx.settings.churn_horizon_d / 7
        age, t_x = state.age_weeks(due), state.t_x_days / 7
        risk = 1 - p_at_least_one(COLD, state.x, t_x, age, horizon)
        trigger = Trigger(
            kind=CHURN_RISK,
            id=emission_id(ctx.site, f"{ctx.profile_id}/{state.days[-1]}", CHURN_RISK.name, after.crossings),
            at_ms=due,
            suppressed=reason,
            data=ChurnRisk(
                profile_id=ctx.profile_id,
                signal=self.name,
                risk=risk,
                p_alive=p_alive(COLD, state.x, t_x, age),
                band=band(risk),
                x=state.x,
                t_x_days=state.t_x_days,
                t_days=age * 7,
                horizon_days=ctx.settings.churn_horizon_d,
                value_total=state.value / VALUE_DIGITS,
                model=COLD_MODEL,
                confidence="cold",
            ),
        )
        return Result(state=after, triggers=(trigger,), gauges=(("churn_high", 1),))

    def merge(self, one: Purchases, other: Purchases, now_ms: int, ctx: Context) -> Result:
        """The union of the days. An order that both had under one order_id counts once, but for its value."""
        older, newer = sorted((one, other), key=lambda p: (p.zero_ms, p.days, p.orders, p.value))
        days = sorted({*one.days, *other.days})
        dropped = max(0, len(days) - MAX_DAYS)
        # The latest of each in turn: which of them is later is not known.
        latest = chain.from_iterable(zip_longest(reversed(newer.orders), reversed(older.orders)))
        orders = tuple(dict.fromkeys(order for order in latest if order is not None))[:MAX_ORDERS][::-1]
        told = [p.told_ms for p in (one, other) if p.told_ms is not None]
        crossed_ms = max(one.crossed_ms, other.crossed_ms)
        after = Purchases(
            days=(days[0], *days[1 + dropped :]),
            zero_ms=older.zero_ms,
            more=one.more + other.more + dropped,
            value=min(one.value + other.value, MAX_VALUE),
            orders=orders,
            crossed_ms=crossed_ms,
            crossings=max(one.crossings, other.crossings),
            told_ms=max(told, default=None),
        )
        at_ms = max(now_ms, crossed_ms)
        on = (one.on or other.on) and _risk(after, at_ms, ctx.settings) > ctx.settings.churn_leave
        return Result(state=replace(after, on=on, due_ms=None if on else _crossing_ms(after, ctx.settings)))

    def still_true(self, state: Purchases, kind: TriggerKind, data: Any) -> bool:
        return state.on

    def gauges(self, state: Purchases) -> tuple[tuple[str, int], ...]:
        return (("churn_high", 1),) if state.on else ()


def _with_day(days: tuple[int, ...], more: int, day: int) -> tuple[tuple[int, ...], int]:
    """The days with one more; beyond 512 the second oldest is only counted (the first gives the age)."""
    at = bisect_left(days, day)
    if at < len(days) and days[at] == day:
        return days, more
    if more and 0 < at < 2:
        return days, more  # Among the dropped ones, or one of them again: not told apart, so not counted.
    days = (*days[:at], day, *days[at:])
    if len(days) > MAX_DAYS:
        days, more = (days[0], *days[2:]), more + 1
    return days, more


def _risk(state: Purchases, now_ms: int, settings: Settings) -> float:
    horizon = settings.churn_horizon_d / 7
    return 1 - p_at_least_one(COLD, state.x, state.t_x_days / 7, state.age_weeks(now_ms), horizon)


def _crossing_ms(state: Purchases, settings: Settings) -> int | None:
    """When the risk reaches churn_enter without a further purchase; not before the last one's day."""
    weeks = crossing(COLD, state.x, state.t_x_days / 7, settings.churn_horizon_d / 7, settings.churn_enter)
    return None if weeks == inf else state.zero_ms + ceil(weeks * 7 * DAY_MS)
