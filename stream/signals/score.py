"""Engagement score and lead stage: how engaged each person is, and a `lead_stage` trigger when a lead comes further.

The state keeps one decayed sum an indicator (stream/core/score.py), all that a score is read from; what an event counts
for is the table in tracker/contract/scoring.py. Stages (stream/core/lead.py) are looked at whenever something happened
that can move them. Points of an MQL or SQL fall without an event, too: the moment at which they no longer hold the
stage is known in advance, and is the timer. It is left silently.

Stages are decided as of the latest time that is known, so a late event counts for what it is worth by then.
"""

from __future__ import annotations

from hashlib import blake2b
from math import log2
from typing import Any, Final

import msgspec
from msgspec import UNSET, Struct
from msgspec.structs import replace

from stream.core import lead, score_orders
from stream.core import score as core
from stream.core.parts import UNREADABLE
from stream.core.score import LANDMARK_MS, Mark, Part, Rules, Sessions, Tally
from stream.core.score_orders import NO_ORDERS, Orders
from stream.signals import amounts, shop
from stream.signals.activity import is_visit
from stream.signals.base import Context, PerSite, Result, Signal, Trigger
from tracker.contract.codec import emission_id
from tracker.contract.durations import DAY_MS, MINUTE_MS
from tracker.contract.events import ORDER_COMPLETED, ProfileEvent, event_label
from tracker.contract.scoring import (
    FIRST_ORDER,
    LEAD_EVENTS,
    OF_CALL,
    OF_EVENT,
    REPEAT_ORDER,
    SESSION,
    STAGES,
    WEIGHTS,
    Adds,
    LeadRules,
    ScoreRules,
    adds_of,
    weights_of,
)
from tracker.contract.settings import Settings
from tracker.contract.sites import Site
from tracker.contract.triggers import LEAD_STAGE, LeadStage, rfc3339

TOP: Final = 5
"""Contributions that a trigger names."""

_DEFAULTS: Final = (ScoreRules(), LeadRules())


class Score(Struct, frozen=True, omit_defaults=True):
    """The state of the signal `score`."""

    indicators: dict[str, Tally] = {}
    last_ms: int = 0
    """Time of the latest event that counted, but for those that count against: the latest engagement."""
    marks: tuple[Mark, ...] = ()
    """The score in the hours of the last days in which something happened, for its change."""
    orders: Orders = NO_ORDERS
    """An order counts once, whoever reports it."""
    stage: str = lead.VISITOR
    entered: dict[str, int] = {}
    """Stage -> how often it was entered."""
    left_ms: int = 0
    """When points fell below a stage last, by the timer."""
    due_ms: int | None = None
    """When they will."""
    sessions: Sessions | None = None
    """Where these have a weight."""


class _Opened(Struct):
    machine_open: Any = None
    sg_machine_open: Any = None


_opened = msgspec.json.Decoder(_Opened).decode
_OPENS: Final = frozenset(name for name, indicator in OF_EVENT.items() if indicator == "message_open")
_ENGAGING: Final = frozenset(name for name, weight in WEIGHTS.items() if weight > 0)
_NEW: Final = Score()
_NO_PARTS: Final[tuple[Part, ...]] = ()


def _rules(settings: Settings, site: Site | None) -> tuple[Rules, LeadRules]:
    score, leads = _DEFAULTS if site is None else (site.score, site.lead)
    return core.rules_of(score), leads


class ScoreSignal(Signal[Score]):
    name = "score"
    state_type = Score
    tells = frozenset((LEAD_STAGE.name,))
    events: frozenset[str] | None = frozenset(OF_EVENT) | LEAD_EVENTS
    types = frozenset(OF_CALL) | {"identify"}
    settings: frozenset[str] = frozenset(("sites",))
    ranks = True
    version = 2

    def migrate(self, version: int, fields: dict[str, Any]) -> dict[str, Any]:
        """Version 1 had the ids of orders without their times: they are among those that are only counted."""
        orders: dict[str, Any] = {"latest": dict.fromkeys(fields.get("orders", ()))}
        sums = fields.get("indicators", {})
        if (first := sums.get(FIRST_ORDER)) is not None:
            log, half_life_d, *_ = first
            orders["first_ms"] = LANDMARK_MS + round(log * half_life_d * DAY_MS)
            orders["past"] = sums.get(REPEAT_ORDER)
        return {**fields, "orders": orders}

    def __init__(self) -> None:
        self.rules = PerSite(_rules)

    def asks(self, site: Site | None) -> frozenset[str] | None:
        assert self.events is not None
        if site is None:
            return self.events
        return None if weights_of(site.score)[SESSION] else self.events.union(adds_of(site.score))

    def fold(self, state: Score | None, event: ProfileEvent, ctx: Context) -> Result:
        if event.bot is not None:
            return Result(state=state)
        rules, leads = self.rules(ctx.settings, ctx.site)
        before = _NEW if state is None else state
        name = event.event
        indicator = OF_EVENT.get(name) if name is not None else OF_CALL.get(event.type)
        after, sums, back, engaged = before, _NO_PARTS, _NO_PARTS, False
        is_known = False
        if name == ORDER_COMPLETED:
            after, sums, back, is_known = _ordered(before, event, ctx, rules)
            engaged = bool(sums)
        elif indicator is not None and not (name in _OPENS and _by_machine(event)):
            after, sums = _count(before, indicator, event, ctx, rules)
            engaged = bool(sums) and indicator in _ENGAGING
        is_customer = name == ORDER_COMPLETED and not is_known and bool(sums)
        if rules.adds and not is_known and (adds := rules.adds.get(event_label(event))) is not None:
            after, more = _add(after, adds, event, ctx, rules)
            sums = (*sums, *more)
            engaged = engaged or any(each in rules.log_weights for each, _, _ in more)
        if rules.sessions and is_visit(event):
            after, more, joined = _visited(after, event.timestamp_ms, ctx, rules)
            sums, back = (*sums, *more), (*back, *joined)
            engaged = engaged or (after.sessions is not before.sessions and SESSION in rules.log_weights)
        is_lead = name in LEAD_EVENTS or (event.type == "identify" and lead.has_contact(ctx.traits))
        if not sums and not back and not is_lead and event.type != "identify":
            return Result(state=state if after is before else after, engaged=engaged)
        stage = after.stage
        if stage == lead.CUSTOMER or (stage == lead.VISITOR and not is_lead and name != ORDER_COMPLETED):
            after_all = state if after is before else after
            return Result(state=after_all, sums=sums, sums_back=back, engaged=engaged)  # nothing moves the stage
        at_ms = max(event.timestamp_ms, after.last_ms, after.left_ms)
        result = _settled(after, at_ms, rules, leads, ctx, is_lead=is_lead, is_customer=is_customer)
        return replace(result, sums=sums, sums_back=back, engaged=engaged)

    def due_ms(self, state: Score) -> int | None:
        return state.due_ms

    def fire(self, state: Score, now_ms: int, ctx: Context) -> Result:
        """Leave the stages that the points no longer hold, each as of its time."""
        rules, leads = self.rules(ctx.settings, ctx.site)
        before, fit = state, lead.fit(leads.fit, ctx.traits)
        while state.due_ms is not None and state.due_ms <= now_ms:
            at_ms = state.due_ms
            points = core.score_of(state.indicators, rules, at_ms) + fit
            stage = lead.left(state.stage, points, leads)
            due_ms = _due_ms(state, stage, at_ms, fit, rules, leads)
            if stage == state.stage and due_ms is not None:
                due_ms = max(due_ms, at_ms + 1000)  # by a last digit; or weights were changed
            state = replace(state, stage=stage, left_ms=at_ms, due_ms=due_ms)
        return Result(state=state, gauges=_moved(before.stage, state.stage))

    def merge(self, one: Score, other: Score, now_ms: int, ctx: Context) -> Result:
        """Sums are added; the stage is the further one that the points of both hold."""
        rules, leads = self.rules(ctx.settings, ctx.site)
        last_ms = max(one.last_ms, other.last_ms)
        left_ms = max(one.left_ms, other.left_ms)
        stage = max(one.stage, other.stage, key=STAGES.index)
        entered = {
            name: max(one.entered.get(name, 0), other.entered.get(name, 0)) for name in {*one.entered, *other.entered}
        }
        indicators = core.merged(one.indicators, other.indicators, rules, last_ms)
        bought = score_orders.merged(
            (one.orders, one.indicators), (other.orders, other.indicators), rules, last_ms, ctx.zone
        )
        indicators |= bought.tallies
        sums, back = bought.sums, bought.back
        sessions = one.sessions or other.sessions
        if one.sessions is not None and other.sessions is not None:
            half_life_d = rules.half_lives_d[SESSION]
            sessions, began, joined = core.merged_sessions(one.sessions, other.sessions, half_life_d, last_ms)
            indicators[SESSION] = core.tally_of(sessions, half_life_d, ctx.utc_offset_ms, last_ms)
            sums = (*sums, *core.session_parts(began, half_life_d))
            back = (*back, *core.session_parts(joined, half_life_d))
        both = Score(
            indicators=indicators,
            last_ms=last_ms,
            marks=core.merged_marks(
                (one.indicators, one.marks), (other.indicators, other.marks), rules.weights, sums, back
            ),
            orders=bought.orders,
            stage=stage,
            entered=entered,
            left_ms=left_ms,
            sessions=sessions,
        )
        at_ms = max(now_ms, last_ms, left_ms)
        result = _settled(both, at_ms, rules, leads, ctx, is_lead=False, is_customer=False)
        return replace(result, sums=sums, sums_back=back)

    def gauges(self, state: Score) -> tuple[tuple[str, int], ...]:
        return ((f"stage_{state.stage}", 1),) if state.stage != lead.VISITOR else ()

    def explain(self, state: Score, now_ms: int, ctx: Context) -> dict[str, Any]:
        """The score now and what it is made of. `display` is by the setting e50, else by the site's median where it is
        known, else by the default."""
        rules, leads = self.rules(ctx.settings, ctx.site)
        weights, known = rules.weights, ctx.settings.sites.get(ctx.site)
        score, fit = core.score_of(state.indicators, rules, now_ms), lead.fit(leads.fit, ctx.traits)
        parts = core.contributions(state.indicators, weights, now_ms)
        e50 = (known.score.e50 if known is not None else 0.0) or ctx.e50 or core.E50
        return {
            "score": score,
            "raw": core.raw(state.indicators, weights),
            "display": core.display(score, e50),
            "e50": e50,
            "change_7d": score - core.week_ago(state.indicators, state.marks, rules, now_ms),
            "stage": state.stage,
            "stage_until": None if state.due_ms is None else rfc3339(state.due_ms),
            "fit": fit,
            "points": score + fit,
            "grade": lead.grade(score + fit, leads),
            "indicators": {
                name: {
                    "events": tally.n,
                    "value": core.value(tally, now_ms),
                    "weight": weights.get(name, 0.0),
                    "half_life_d": tally.half_life_d,
                    "part": parts.get(name, 0.0),
                }
                for name, tally in sorted(state.indicators.items())
            },
            "entered": dict(sorted(state.entered.items())),
            "engaged": rfc3339(state.last_ms) if state.last_ms else None,
        }

    def rank(self, state: Score, site: str, settings: Settings) -> float | None:
        rules, _ = self.rules(settings, site)
        return core.rank(state.indicators, rules, state.last_ms)

    def engaged_ms(self, state: Score) -> int:
        return state.last_ms

    def least_rank(self, site: str, settings: Settings, now_ms: int) -> float:
        rules, _ = self.rules(settings, site)
        return core.bound(rules.active, rules, now_ms)

    def rank_rules(self, site: str, settings: Settings) -> str:
        rules, leads = self.rules(settings, site)
        return blake2b(msgspec.json.encode((rules, leads)), digest_size=8).hexdigest()

    def revise(self, state: Score, now_ms: int, ctx: Context) -> Result:
        """Sums go on in today's half-lives from here, what is known by its time has them from then. A stage that the
        points do not hold any more is left."""
        rules, leads = self.rules(ctx.settings, ctx.site)
        at_ms = max(now_ms, state.last_ms, state.left_ms)
        indicators = {
            name: core.converted(tally, rules.half_lives_d.get(name, tally.half_life_d), at_ms)
            for name, tally in state.indicators.items()
        }
        orders, bought = score_orders.revised(state.orders, state.indicators, rules, at_ms, ctx.zone)
        indicators |= bought
        if (sessions := state.sessions) is not None:
            sessions = core.revised_sessions(sessions, rules.half_lives_d[SESSION], at_ms)
            indicators[SESSION] = core.tally_of(sessions, rules.half_lives_d[SESSION], ctx.utc_offset_ms, at_ms)
        fit = lead.fit(leads.fit, ctx.traits)
        stage = lead.left(state.stage, core.score_of(indicators, rules, at_ms) + fit, leads)
        after = replace(state, indicators=indicators, stage=stage, orders=orders, sessions=sessions)
        after = replace(after, due_ms=_due_ms(after, stage, at_ms, fit, rules, leads))
        return Result(state=after, gauges=_moved(state.stage, stage))


def _ordered(
    before: Score, event: ProfileEvent, ctx: Context, rules: Rules
) -> tuple[Score, tuple[Part, ...], tuple[Part, ...], bool]:
    """The state with an order, what that adds to the site's sums and takes back, and whether the order was known."""
    at_ms, known = event.timestamp_ms, before.indicators
    id = shop.order_id(shop.properties(event.properties))
    is_known = id is not None and (id in before.orders.latest or id in before.orders.over)
    change = score_orders.ordered(before.orders, known, id, at_ms, rules, before.last_ms, ctx.zone)
    if change is None:
        return before, (), (), is_known
    if not change.sums and not change.back:  # over the day's cap
        return replace(before, indicators={**known, **change.tallies}, orders=change.orders), (), (), is_known
    after = replace(
        before,
        indicators={**known, **change.tallies},
        last_ms=max(before.last_ms, at_ms),
        marks=core.marked(before.marks, known, rules.weights, at_ms // MINUTE_MS),
        orders=change.orders,
    )
    return after, change.sums, change.back, is_known


def _count(
    before: Score, indicator: str, event: ProfileEvent, ctx: Context, rules: Rules
) -> tuple[Score, tuple[Part, ...]]:
    """The state with any other event, and what it adds to the site's sums: nothing where it does not count."""
    at_ms = event.timestamp_ms
    day = (at_ms + ctx.utc_offset_ms) // DAY_MS
    known, half_life_d = before.indicators, rules.half_lives_d[indicator]
    tally = core.counted(known.get(indicator), at_ms, day, half_life_d, rules.cap, before.last_ms)
    with_it = known.copy()
    if tally is None:
        with_it[indicator] = core.beyond(known[indicator])
        return replace(before, indicators=with_it), ()
    with_it[indicator] = tally
    marks, minute = before.marks, at_ms // MINUTE_MS
    if not marks or marks[-1][0] // 60 < minute // 60:
        marks = core.marked(marks, known, rules.weights, minute)
    last_ms = before.last_ms
    if at_ms > last_ms and indicator in _ENGAGING:
        last_ms = at_ms
    after = Score(
        with_it, last_ms, marks, before.orders, before.stage, before.entered, before.left_ms, before.due_ms,
        before.sessions,
    )  # fmt: skip
    return after, ((indicator, half_life_d, core.position(at_ms, half_life_d)),)


def _add(
    before: Score, adds: tuple[Adds, ...], event: ProfileEvent, ctx: Context, rules: Rules
) -> tuple[Score, tuple[Part, ...]]:
    """The same of what an event adds to amounts, and to indicators of the site's own."""
    at_ms, known, sums = event.timestamp_ms, before.indicators, []
    day, with_it, last_ms = (at_ms + ctx.utc_offset_ms) // DAY_MS, known.copy(), before.last_ms
    for add in adds:
        name, half_life_d = add.indicator, rules.half_lives_d[add.indicator]
        amount = 1.0 if add.capped else amounts.amount(event, name, add.property)
        if amount is None:
            continue
        tally = core.added(known.get(name), at_ms, day, half_life_d, amount, add.capped, rules.cap, before.last_ms)
        if tally is None:
            with_it[name] = core.beyond(known[name])
            continue
        with_it[name] = tally
        sums.append((name, half_life_d, core.position(at_ms, half_life_d) + log2(amount)))
        if name in rules.log_weights:
            last_ms = max(last_ms, at_ms)
    if with_it == known:
        return before, ()
    marks = core.marked(before.marks, known, rules.weights, at_ms // MINUTE_MS) if sums else before.marks
    return replace(before, indicators=with_it, last_ms=last_ms, marks=marks), tuple(sums)


def _visited(before: Score, ms: int, ctx: Context, rules: Rules) -> tuple[Score, tuple[Part, ...], tuple[Part, ...]]:
    """The same of an event that somebody was here with."""
    half_life_d, known = rules.half_lives_d[SESSION], before.sessions
    sessions, began, joined = core.visited(known, ms, half_life_d, before.last_ms)
    if sessions is known:
        return before, (), ()
    tally = core.tally_of(sessions, half_life_d, ctx.utc_offset_ms, before.last_ms)
    old = before.indicators.get(SESSION)
    last_ms = max(before.last_ms, ms) if SESSION in rules.log_weights else before.last_ms
    if tally == old:  # a session goes on
        return replace(before, sessions=sessions, last_ms=last_ms), (), ()
    marks = core.marked(before.marks, before.indicators, rules.weights, ms // MINUTE_MS)
    after = replace(
        before, indicators={**before.indicators, SESSION: tally}, last_ms=last_ms, marks=marks, sessions=sessions
    )
    return after, core.session_parts(began, half_life_d), core.session_parts(joined, half_life_d)


def _settled(
    state: Score, at_ms: int, rules: Rules, leads: LeadRules, ctx: Context, *, is_lead: bool, is_customer: bool
) -> Result:
    """The stage as it is at this time, with a trigger for each that was entered."""
    score = core.score_of(state.indicators, rules, at_ms)
    fit = lead.fit(leads.fit, ctx.traits)
    stage = lead.left(state.stage, score + fit, leads)
    entered, triggers = state.entered, []
    for new in lead.entered(stage, score + fit, leads, lead=is_lead, customer=is_customer):
        n = entered.get(new, 0) + 1
        entered = {**entered, new: n}
        triggers.append(_trigger(state, stage, new, n, at_ms, score, fit, rules, leads, ctx))
        stage = new
    due_ms = _due_ms(state, stage, at_ms, fit, rules, leads)
    if stage != state.stage or due_ms != state.due_ms:
        before, state = state, replace(state, stage=stage, entered=entered, due_ms=due_ms)
        return Result(state=state, triggers=tuple(triggers), gauges=_moved(before.stage, stage))
    return Result(state=None if state is _NEW else state)


def _due_ms(state: Score, stage: str, at_ms: int, fit: float, rules: Rules, leads: LeadRules) -> int | None:
    least = lead.least_points(stage, leads)
    if least is None:
        return None
    return core.falls_below(state.indicators, rules.weights, least - fit, at_ms)


def _moved(before: str, after: str) -> tuple[tuple[str, int], ...]:
    if before == after:
        return ()
    return tuple((f"stage_{stage}", n) for stage, n in ((before, -1), (after, 1)) if stage != lead.VISITOR)


def _trigger(
    state: Score, before: str, stage: str, n: int, at_ms: int, score: float, fit: float, rules: Rules, leads: LeadRules,
    ctx: Context,
) -> Trigger:  # fmt: skip
    parts = core.contributions(state.indicators, rules.weights, at_ms)
    return Trigger(
        kind=LEAD_STAGE,
        id=emission_id(ctx.site, f"{ctx.profile_id}/{stage}", LEAD_STAGE.name, n),
        at_ms=at_ms,
        data=LeadStage(
            profile_id=ctx.profile_id,
            stage=stage,
            previous=before,
            points=score + fit,
            score=score,
            fit=fit,
            grade=lead.grade(score + fit, leads),
            times=n,
            contributions=dict(list(parts.items())[:TOP]),
        ),
    )


def _by_machine(event: ProfileEvent) -> bool:
    """An image proxy or a mail program opened the message ahead of the reader; who delivers it says so."""
    properties = event.properties
    if properties is UNSET or b"machine_open" not in bytes(properties):
        return False
    try:
        said = _opened(properties)
    except UNREADABLE:
        return False
    return said.machine_open is True or said.sg_machine_open is True
