"""Review requests: some days after an order was delivered, of a person who is happy (a good NPS or CSAT) and has no
open ticket. Once an order. An order whose time comes too early for that waits `wait_d` days more for an answer or a
resolved ticket; a review of the order ends its wait, and one that names no order that of all delivered by then.
"""

from __future__ import annotations

from typing import Any, Final

import msgspec
from msgspec import Struct
from msgspec.structs import replace

from stream.core.parts import read_part
from stream.signals import shop
from stream.signals.base import Context, Result, Signal, Trigger
from stream.signals.feedback import CSAT_SCALES, THUMBS
from stream.signals.journey import answer, nps_of
from tracker.contract.codec import emission_id
from tracker.contract.durations import DAY_MS
from tracker.contract.events import (
    ORDER_DELIVERED,
    PRODUCT_REVIEWED,
    SURVEY_RESPONSE_RECEIVED,
    TICKET_OPENED,
    TICKET_RESOLVED,
    ProfileEvent,
)
from tracker.contract.keys import feedback_field
from tracker.contract.sites import ReviewRules
from tracker.contract.triggers import REVIEW_REQUEST, ReviewRequest, rfc3339

MAX_ORDERS: Final = 32
MAX_TICKETS: Final = 16
CSAT_SCALE: Final = 5
UNKNOWN: Final = (-1, -1)
_DEFAULT: Final = ReviewRules()
_REQUESTED: Final = feedback_field("review", "requested", "other")


class _Ticket(Struct):
    ticket_id: Any = None
    id: Any = None


_ticket: Final = msgspec.json.Decoder(_Ticket)


class Reviews(Struct, frozen=True, omit_defaults=True):
    """The state of the signal `reviews`."""

    orders: dict[str, int] = {}
    """order_id -> when it was delivered, ms, of the latest."""
    gone: tuple[str, ...] = ()
    """order_ids asked about, reviewed or waited for in vain, of those."""
    nps: tuple[int, int] | None = None
    """The latest answer: (ms, 0 to 10)."""
    csat: tuple[int, float] | None = None
    """The latest answer: (ms, on a scale to 5)."""
    tickets: dict[str, tuple[int, int]] = {}
    """ticket_id -> (opened, resolved), ms, the latest of each; -1: not known."""
    reviewed_ms: int | None = None
    """The latest review that names no order: the Segment Spec's has only a product."""
    at_ms: int = 0
    """The timers due until then have fired."""
    due_ms: int | None = None

    def is_happy(self, rules: ReviewRules) -> bool:
        by_nps = self.nps is not None and self.nps[1] >= rules.nps
        return by_nps or (self.csat is not None and self.csat[1] >= rules.csat)

    @property
    def has_open_ticket(self) -> bool:
        return any(opened > resolved for opened, resolved in self.tickets.values())


class ReviewSignal(Signal[Reviews]):
    name = "reviews"
    tells = frozenset((REVIEW_REQUEST.name,))
    state_type = Reviews
    events: frozenset[str] | None = frozenset(
        (ORDER_DELIVERED, PRODUCT_REVIEWED, SURVEY_RESPONSE_RECEIVED, TICKET_OPENED, TICKET_RESOLVED)
    )
    settings: frozenset[str] = frozenset(("sites",))

    def fold(self, state: Reviews | None, event: ProfileEvent, ctx: Context) -> Result:
        before = state or Reviews()
        after = _bounded(_learned(before, event))
        return _judged(after, max(event.timestamp_ms, before.at_ms), ctx, before if state is not None else None)

    def due_ms(self, state: Reviews) -> int | None:
        return state.due_ms

    def fire(self, state: Reviews, now_ms: int, ctx: Context) -> Result:
        triggers: list[Trigger] = []
        while state.due_ms is not None and state.due_ms <= now_ms:
            at_ms = state.due_ms
            result = _judged(replace(state, at_ms=max(at_ms, state.at_ms)), at_ms, ctx, None)
            state = result.state
            triggers += result.triggers
        return Result(state=state, triggers=tuple(triggers), counts_at=_asked(triggers))

    def merge(self, one: Reviews, other: Reviews, now_ms: int, ctx: Context) -> Result:
        tickets = dict(one.tickets)
        for id, (opened, resolved) in other.tickets.items():
            mine = tickets.get(id, UNKNOWN)
            tickets[id] = (max(opened, mine[0]), max(resolved, mine[1]))
        merged = Reviews(
            orders={o: min(s.orders[o] for s in (one, other) if o in s.orders) for o in {*one.orders, *other.orders}},
            gone=(*one.gone, *other.gone),
            nps=_latest(one.nps, other.nps),
            csat=_latest(one.csat, other.csat),
            tickets=tickets,
            reviewed_ms=_latest(one.reviewed_ms, other.reviewed_ms),
            at_ms=max(one.at_ms, other.at_ms),
        )
        return Result(state=_timed(_bounded(merged), _rules(ctx)))

    def explain(self, state: Reviews, now_ms: int, ctx: Context) -> dict[str, Any]:
        """Whether the person may be asked, and of which orders."""
        rules = _rules(ctx)
        delay_ms, wait_ms = round(rules.delay_d * DAY_MS), round(rules.wait_d * DAY_MS)
        return {
            "happy": state.is_happy(rules),
            "nps": {"score": state.nps[1], "time": rfc3339(state.nps[0])} if state.nps is not None else None,
            "csat": {"score": state.csat[1], "time": rfc3339(state.csat[0])} if state.csat is not None else None,
            "open_tickets": [
                {"ticket_id": id or None, "opened": rfc3339(opened)}
                for id, (opened, resolved) in sorted(state.tickets.items())
                if opened > resolved
            ],
            "orders": [
                {
                    "order_id": order,
                    "delivered": rfc3339(ms),
                    "asks": rfc3339(ms + delay_ms) if order not in state.gone else None,
                    "waits_until": rfc3339(ms + delay_ms + wait_ms) if order not in state.gone else None,
                    "done": order in state.gone,
                }
                for order, ms in sorted(state.orders.items(), key=lambda item: (-item[1], item[0]))
            ],
            "due": rfc3339(state.due_ms) if state.due_ms is not None else None,
        }


def csat_of(event: ProfileEvent) -> float | None:
    """The answer on a scale to 5; None: it is none (domain: A009). Scales are thumbs, 1 to 2, 3, 5 or 7; 5 if nothing
    is said."""
    said = read_part(answer, event.properties)
    if said is None or not isinstance(said.type, str) or said.type.strip().casefold() != "csat":
        return None
    scale = CSAT_SCALE if said.scale is None else shop.number(said.scale, max(CSAT_SCALES))
    score = shop.number(said.score, max(CSAT_SCALES))
    if isinstance(said.scale, str) and said.scale.strip().casefold() == "thumbs":
        scale, score = 2, THUMBS.get(str(said.score).strip().casefold())
    if score is None or scale not in CSAT_SCALES or not 1 <= score <= scale:
        return None
    return CSAT_SCALE * score / scale


def _learned(state: Reviews, event: ProfileEvent) -> Reviews:
    ms = event.timestamp_ms
    match event.event:
        case "Survey Response Received":
            if (nps := nps_of(event)) is not None:
                return replace(state, nps=_latest(state.nps, (ms, nps)))
            if (csat := csat_of(event)) is not None:
                return replace(state, csat=_latest(state.csat, (ms, csat)))
            return state
        case "Ticket Opened" | "Ticket Resolved":
            said = read_part(_ticket, event.properties)
            id = (shop.text(said.ticket_id, 100) or shop.text(said.id, 100)) if said is not None else None
            opened, resolved = state.tickets.get(id or "", UNKNOWN)
            times = (max(opened, ms), resolved) if event.event == TICKET_OPENED else (opened, max(resolved, ms))
            return replace(state, tickets={**state.tickets, id or "": times})
    order = shop.order_id(shop.properties(event.properties))
    if order is None:
        is_review = event.event == PRODUCT_REVIEWED
        return replace(state, reviewed_ms=_latest(state.reviewed_ms, ms)) if is_review else state
    if event.event == PRODUCT_REVIEWED:
        orders = {order: ms, **state.orders}
        return replace(state, orders=orders, gone=(*state.gone, order))
    return replace(state, orders={**state.orders, order: min(ms, state.orders.get(order, ms))})


def _bounded(state: Reviews) -> Reviews:
    orders = dict(sorted(state.orders.items(), key=lambda item: (item[1], item[0]))[-MAX_ORDERS:])
    tickets = dict(sorted(state.tickets.items(), key=lambda item: (max(item[1]), item[0]))[-MAX_TICKETS:])
    gone = tuple(sorted({o for o in state.gone if o in orders}))
    return replace(state, orders=orders, tickets=tickets, gone=gone)


def _latest(a: Any, b: Any) -> Any:
    """Of two times, or (ms, answer)."""
    return b if a is None else a if b is None else max(a, b)


def _rules(ctx: Context) -> ReviewRules:
    site = ctx.settings.sites.get(ctx.site)
    return site.reviews if site is not None else _DEFAULT


def _judged(state: Reviews, at_ms: int, ctx: Context, same: Reviews | None) -> Result:
    """Ask about every order whose time has come, if the person is happy. `same`: to be given back if it is equal."""
    rules = _rules(ctx)
    triggers: list[Trigger] = []
    happy = state.is_happy(rules)
    for order, delivered_ms in state.orders.items():
        ripe_ms = delivered_ms + round(rules.delay_d * DAY_MS)
        if order in state.gone:
            continue
        if state.reviewed_ms is not None and delivered_ms <= state.reviewed_ms:
            state = replace(state, gone=tuple(sorted((*state.gone, order))))
            continue
        if ripe_ms > at_ms:
            continue
        last_ms = ripe_ms + round(rules.wait_d * DAY_MS)
        if at_ms <= last_ms and happy and not state.has_open_ticket:
            triggers.append(_request(order, delivered_ms, at_ms, state, ctx))
        elif at_ms < last_ms:
            continue
        state = replace(state, gone=tuple(sorted((*state.gone, order))))
    state = _timed(state, rules)
    after = same if same is not None and same == state else state
    return Result(state=after, triggers=tuple(triggers), counts_at=_asked(triggers))


def _asked(triggers: list[Trigger]) -> tuple[tuple[str, int, int], ...]:
    return tuple((_REQUESTED, 1, trigger.at_ms) for trigger in triggers)


def _timed(state: Reviews, rules: ReviewRules) -> Reviews:
    """With the next time at which there is something to judge: of an order that waits already the end of its wait."""
    dues = []
    for order, delivered_ms in state.orders.items():
        if order not in state.gone:
            ripe_ms = delivered_ms + round(rules.delay_d * DAY_MS)
            dues.append(
                ripe_ms if ripe_ms > state.at_ms else max(ripe_ms + round(rules.wait_d * DAY_MS), state.at_ms + 1)
            )
    return replace(state, due_ms=min(dues, default=None))


def _request(order: str, delivered_ms: int, at_ms: int, state: Reviews, ctx: Context) -> Trigger:
    return Trigger(
        kind=REVIEW_REQUEST,
        id=emission_id(ctx.site, f"{ctx.profile_id}/{order}", REVIEW_REQUEST.name, 1),
        at_ms=at_ms,
        data=ReviewRequest(
            profile_id=ctx.profile_id,
            order_id=order,
            delivered_at_ms=delivered_ms,
            nps=state.nps[1] if state.nps is not None else None,
            csat=state.csat[1] if state.csat is not None else None,
        ),
    )
