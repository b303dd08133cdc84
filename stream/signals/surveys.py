"""Surveys: ask a person how it was, after an order (and a delay), at a goal, at the end of a session, when the churn
signal goes on. At most once in `gap_d` days, whatever for; what the gap holds back is counted, not made up for.
"""

from __future__ import annotations

from typing import Any, Final

from msgspec import Struct
from msgspec.structs import replace

from stream.signals import shop
from stream.signals.base import Context, Result, Signal, Trigger
from stream.signals.purchase import Purchases
from tracker.contract.codec import emission_id
from tracker.contract.events import ORDER_CANCELLED, ORDER_COMPLETED, SESSION_ENDED, ProfileEvent
from tracker.contract.settings import Site, SurveyRules
from tracker.contract.triggers import SURVEY, Survey, rfc3339

DAY_MS: Final = 86_400_000
MAX_ORDERS: Final = 32
_DEFAULT: Final = SurveyRules()


class Surveys(Struct, frozen=True, omit_defaults=True):
    """The state of the signal `surveys`."""

    asked_ms: int | None = None
    """When the person was asked last."""
    orders: dict[str, int] = {}
    """order_id -> when it happened, ms, of the latest orders: an order asks once."""
    gone: tuple[str, ...] = ()
    """order_ids cancelled or asked about, of those."""
    churn_ms: int | None = None
    """The churn signal that was seen last."""
    due_ms: int | None = None
    """When the next order asks."""


class SurveySignal(Signal[Surveys]):
    name = "surveys"
    tells = frozenset((SURVEY.name,))
    state_type = Surveys
    events: frozenset[str] | None = None
    settings: frozenset[str] = frozenset(("sites",))
    reads = frozenset(("purchase",))

    def asks(self, site: Site | None) -> frozenset[str] | None:
        rules = site.surveys if site is not None else _DEFAULT
        ends = (SESSION_ENDED,) if rules.after_session else ()
        return frozenset((ORDER_COMPLETED, ORDER_CANCELLED, *rules.after_goal, *ends))

    def fold(self, state: Surveys | None, event: ProfileEvent, ctx: Context) -> Result:
        name = event.event
        if name is None:
            return Result(state=state)
        rules, before = _rules(ctx), state or Surveys()
        if name in (ORDER_COMPLETED, ORDER_CANCELLED):
            after = _ordered(before, event, name == ORDER_CANCELLED, rules)
            return Result(state=state if after is before else after)
        if name in rules.after_goal:
            return _asked(before, "goal", event.timestamp_ms, event.message_id, rules, ctx, event=name)
        if name == SESSION_ENDED and rules.after_session:
            return _asked(before, "session", event.timestamp_ms, event.message_id, rules, ctx)
        return Result(state=state)

    def settle(self, state: Surveys | None, now_ms: int, ctx: Context) -> Result:
        purchases: Purchases | None = ctx.states.get("purchase")
        told_ms = purchases.told_ms if purchases is not None else None
        if told_ms is None:
            return Result(state=state)
        before = state or Surveys()
        if before.churn_ms is not None and told_ms <= before.churn_ms:
            return Result(state=state)
        after = replace(before, churn_ms=told_ms)
        rules = _rules(ctx)
        if not rules.at_churn:
            return Result(state=after)
        return _asked(after, "churn", told_ms, f"{ctx.profile_id}/churn/{told_ms}", rules, ctx)

    def due_ms(self, state: Surveys) -> int | None:
        return state.due_ms

    def fire(self, state: Surveys, now_ms: int, ctx: Context) -> Result:
        rules = _rules(ctx)
        triggers: list[Trigger] = []
        while state.due_ms is not None and state.due_ms <= now_ms:
            order, at_ms = _next(state, rules)
            state = replace(state, gone=(*state.gone, order))
            if rules.after_order:
                result = _asked(state, "order", at_ms, f"{ctx.profile_id}/order/{order}", rules, ctx, order_id=order)
                state = result.state
                triggers += result.triggers
            state = _timed(state, rules)
        return Result(state=state, triggers=tuple(triggers))

    def merge(self, one: Surveys, other: Surveys, now_ms: int, ctx: Context) -> Result:
        asked = [s.asked_ms for s in (one, other) if s.asked_ms is not None]
        churn = [s.churn_ms for s in (one, other) if s.churn_ms is not None]
        orders = {o: min(s.orders[o] for s in (one, other) if o in s.orders) for o in {*one.orders, *other.orders}}
        merged = Surveys(max(asked, default=None), orders, (*one.gone, *other.gone), max(churn, default=None))
        return Result(state=_timed(_bounded(merged), _rules(ctx)))

    def explain(self, state: Surveys, now_ms: int, ctx: Context) -> dict[str, Any]:
        """When the person was asked, from when on they may be again, and which orders wait."""
        rules = _rules(ctx)
        gap_ms, delay_ms = round(rules.gap_d * DAY_MS), round(rules.order_delay_d * DAY_MS)
        return {
            "asked": rfc3339(state.asked_ms) if state.asked_ms is not None else None,
            "not_again_before": rfc3339(state.asked_ms + gap_ms) if state.asked_ms is not None else None,
            "orders": [
                {
                    "order_id": order if not order.startswith("message:") else None,
                    "ordered": rfc3339(ms),
                    "asks": rfc3339(ms + delay_ms) if order not in state.gone else None,
                    "done": order in state.gone,
                }
                for order, ms in sorted(state.orders.items(), key=lambda item: (-item[1], item[0]))
            ],
            "churn_told": rfc3339(state.churn_ms) if state.churn_ms is not None else None,
            "due": rfc3339(state.due_ms) if state.due_ms is not None else None,
        }


def _rules(ctx: Context) -> SurveyRules:
    site = ctx.settings.sites.get(ctx.site)
    return site.surveys if site is not None else _DEFAULT


def _ordered(before: Surveys, event: ProfileEvent, cancelled: bool, rules: SurveyRules) -> Surveys:
    order = shop.order_id(shop.properties(event.properties))
    if cancelled:
        if order is None or order in before.gone:
            return before
        orders = {order: event.timestamp_ms, **before.orders}
        return _timed(_bounded(replace(before, orders=orders, gone=(*before.gone, order))), rules)
    order = order or f"message:{event.message_id}"
    if order in before.orders:
        if before.orders[order] <= event.timestamp_ms:
            return before
    elif len(before.orders) < MAX_ORDERS:  # By far the most: it asks after all others that wait, or before them.
        due_ms = event.timestamp_ms + round(rules.order_delay_d * DAY_MS)
        due_ms = due_ms if before.due_ms is None else min(due_ms, before.due_ms)
        return Surveys(
            before.asked_ms, {**before.orders, order: event.timestamp_ms}, before.gone, before.churn_ms, due_ms
        )
    return _timed(_bounded(replace(before, orders={**before.orders, order: event.timestamp_ms})), rules)


def _bounded(state: Surveys) -> Surveys:
    """The latest orders, in their order."""
    latest = sorted(state.orders.items(), key=lambda item: (item[1], item[0]))[-MAX_ORDERS:]
    orders = dict(latest)
    return replace(state, orders=orders, gone=tuple(sorted({o for o in state.gone if o in orders})))


def _next(state: Surveys, rules: SurveyRules) -> tuple[str, int]:
    """The order that asks next, and when."""
    ms, order = min((ms, order) for order, ms in state.orders.items() if order not in state.gone)
    return order, ms + round(rules.order_delay_d * DAY_MS)


def _timed(state: Surveys, rules: SurveyRules) -> Surveys:
    waits = any(order not in state.gone for order in state.orders)
    return replace(state, due_ms=_next(state, rules)[1] if waits else None)


def _asked(
    before: Surveys,
    cause: str,
    at_ms: int,
    by: str,
    rules: SurveyRules,
    ctx: Context,
    order_id: str | None = None,
    event: str | None = None,
) -> Result:
    """Ask, unless the person was asked lately."""
    is_soon = before.asked_ms is not None and abs(at_ms - before.asked_ms) < round(rules.gap_d * DAY_MS)
    trigger = Trigger(
        kind=SURVEY,
        id=emission_id(ctx.site, by, SURVEY.name, 1),
        at_ms=at_ms,
        suppressed="gap" if is_soon else None,
        data=Survey(
            profile_id=ctx.profile_id,
            cause=cause,
            order_id=order_id if order_id is None or not order_id.startswith("message:") else None,
            event=event,
        ),
    )
    after = before if is_soon else replace(before, asked_ms=max(at_ms, before.asked_ms or 0))
    return Result(state=after, triggers=(trigger,))
