"""Surveys: ask a person how it was, after an order (and a delay), at a goal, at the end of a session, when the churn
signal goes on, when usage or engagement falls. At most once in `gap_d` days, whatever for; what the gap holds back is
counted, not made up for.

A session is over 30 minutes after the last visit, which the profile knows: so its timer is not moved by each visit, it
looks when it fires, and sets itself anew. A Session Ended of the site's own ends it at once.
"""

from __future__ import annotations

from typing import Any, Final

from msgspec import Struct
from msgspec.structs import replace

from stream.core.activity import SESSION_GAP_MS
from stream.signals import shop
from stream.signals.activity import is_visit
from stream.signals.base import Context, Result, Signal, Trigger
from stream.signals.purchase import Purchases
from tracker.contract.codec import emission_id
from tracker.contract.durations import DAY_MS
from tracker.contract.events import ORDER_CANCELLED, ORDER_COMPLETED, SESSION_ENDED, ProfileEvent
from tracker.contract.sites import Site, SurveyRules
from tracker.contract.triggers import SURVEY, Survey, rfc3339

MAX_ORDERS: Final = 32
OVER_MS: Final = SESSION_GAP_MS + 1
"""So long after the last visit a session is over: one exactly 30 minutes later is of it."""
NO_FALLS: Final = (0, 0, 0)
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
    session_ms: int | None = None
    """When the session that is open is looked at."""
    falls: tuple[int, ...] = ()
    """The falls that were seen last: of usage, of visits, of messages."""


_NOTHING: Final = Surveys()


class SurveySignal(Signal[Surveys]):
    name = "surveys"
    tells = frozenset((SURVEY.name,))
    state_type = Surveys
    events: frozenset[str] | None = None
    settings: frozenset[str] = frozenset(("sites",))
    reads = frozenset(("purchase", "usage", "engagement"))

    def asks(self, site: Site | None) -> frozenset[str] | None:
        rules = site.surveys if site is not None else _DEFAULT
        if rules.after_session:  # every visit
            return None
        return frozenset((ORDER_COMPLETED, ORDER_CANCELLED, *rules.after_goal))

    def settles(self, site: Site | None) -> frozenset[str]:
        rules = site.surveys if site is not None else _DEFAULT
        return self.reads if rules.at_falling else frozenset(("purchase",))

    def fold(self, state: Surveys | None, event: ProfileEvent, ctx: Context) -> Result:
        rules, before = _rules(ctx), state or Surveys()
        if rules.after_session and before.session_ms is None and event.bot is None and is_visit(event):
            last_ms = max(event.timestamp_ms, ctx.last_visit_ms() or 0)
            before = replace(before, session_ms=last_ms + OVER_MS)
        result = self._told(before, event, rules, ctx)
        return result if result.state is not before or state is not None else Result(state=_or_none(before))

    def _told(self, before: Surveys, event: ProfileEvent, rules: SurveyRules, ctx: Context) -> Result:
        name = event.event
        if name is None:
            return Result(state=before)
        if name in (ORDER_COMPLETED, ORDER_CANCELLED):
            return Result(state=_ordered(before, event, name == ORDER_CANCELLED, rules))
        if name in rules.after_goal:
            return _asked(before, "goal", event.timestamp_ms, event.message_id, rules, ctx, event=name)
        if name == SESSION_ENDED and rules.after_session:
            ended = replace(before, session_ms=None)
            return _asked(ended, "session", event.timestamp_ms, event.message_id, rules, ctx)
        return Result(state=before)

    def settle(self, state: Surveys | None, now_ms: int, ctx: Context) -> Result:
        rules, before = _rules(ctx), state or Surveys()
        after, triggers = before, list[Trigger]()
        purchases: Purchases | None = ctx.states.get("purchase")
        told_ms = purchases.told_ms if purchases is not None else None
        if told_ms is not None and (after.churn_ms is None or told_ms > after.churn_ms):
            after = replace(after, churn_ms=told_ms)
            if rules.at_churn:
                result = _asked(after, "churn", told_ms, f"{ctx.profile_id}/churn/{told_ms}", rules, ctx)
                after, triggers = result.state, [*triggers, *result.triggers]
        falls = _falls(ctx) if rules.at_falling else after.falls
        if falls != after.falls:
            known = after.falls or NO_FALLS
            after = replace(after, falls=tuple(max(pair) for pair in zip(falls, known, strict=True)))
            if (at_ms := max((new for new, old in zip(falls, known, strict=True) if new > old), default=0)) > 0:
                result = _asked(after, "falling", at_ms, f"{ctx.profile_id}/falling/{at_ms}", rules, ctx)
                after, triggers = result.state, [*triggers, *result.triggers]
        return Result(state=state if after == before else after, triggers=tuple(triggers))

    def due_ms(self, state: Surveys) -> int | None:
        if state.session_ms is None or state.due_ms is None:
            return state.due_ms if state.session_ms is None else state.session_ms
        return min(state.due_ms, state.session_ms)

    def fire(self, state: Surveys, now_ms: int, ctx: Context) -> Result:
        rules = _rules(ctx)
        triggers: list[Trigger] = []
        while (due_ms := self.due_ms(state)) is not None and due_ms <= now_ms:
            if due_ms == state.session_ms:
                result = _session_over(state, due_ms, rules, ctx)
                state, triggers = result.state, [*triggers, *result.triggers]
                continue
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
        sessions = [s.session_ms for s in (one, other) if s.session_ms is not None]
        merged = Surveys(
            max(asked, default=None), orders, (*one.gone, *other.gone), max(churn, default=None),
            session_ms=max(sessions, default=None),
            falls=tuple(max(pair) for pair in zip(one.falls or NO_FALLS, other.falls or NO_FALLS, strict=True))
            if one.falls or other.falls else (),
        )  # fmt: skip
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
            "session_over": rfc3339(state.session_ms) if state.session_ms is not None else None,
            "fall_told": rfc3339(max(state.falls)) if any(state.falls) else None,
            "churn_told": rfc3339(state.churn_ms) if state.churn_ms is not None else None,
            "due": rfc3339(due_ms) if (due_ms := self.due_ms(state)) is not None else None,
        }


def _rules(ctx: Context) -> SurveyRules:
    site = ctx.settings.sites.get(ctx.site)
    return site.surveys if site is not None else _DEFAULT


def _or_none(state: Surveys) -> Surveys | None:
    """Nothing is kept of somebody of whom there is nothing to keep."""
    return None if state == _NOTHING else state


def _falls(ctx: Context) -> tuple[int, ...]:
    """When each was told to have fallen last, ms; 0: never."""
    usage, engagement = ctx.states.get("usage"), ctx.states.get("engagement")
    of = (
        usage.fall if usage is not None else None,
        *((engagement.visit, engagement.message) if engagement is not None else (None, None)),
    )
    return tuple(fall.told_ms or 0 if fall is not None else 0 for fall in of)


def _session_over(state: Surveys, at_ms: int, rules: SurveyRules, ctx: Context) -> Result:
    """The session's timer: it is over, unless there was a visit since."""
    last_ms = ctx.last_visit_ms()
    if last_ms is not None and last_ms + OVER_MS > at_ms:
        return Result(state=replace(state, session_ms=last_ms + OVER_MS))
    over = replace(state, session_ms=None)
    if not rules.after_session:
        return Result(state=over)
    return _asked(over, "session", at_ms, f"{ctx.profile_id}/session/{at_ms}", rules, ctx)


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
        return replace(before, orders={**before.orders, order: event.timestamp_ms}, due_ms=due_ms)
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
