"""Conditions of segments and rules (tracker/contract/predicates.py) on the states of a profile's signals.

`holds` gives, besides true or false, the earliest time at which that may change though nothing happens: so "no order in
30 days" is a timer. For all and any only those decide that hold the answer: an `all` that is false stays so until every
one of its false conditions may have changed.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Mapping
from math import ceil, inf
from typing import Any, Final, TypeVar

from msgspec.structs import replace

from stream.core import churn_watch, contact
from stream.core import score as core
from stream.core.activity import Activity
from stream.core.cart_log import CartLog
from stream.core.cart_state import value_of
from stream.core.churn import band, crossing
from stream.core.churn_watch import Rule
from stream.core.contact import TYPE_OF, Contacts
from stream.core.lead import DIGITS, fit
from stream.core.orders import totals
from stream.signals.base import Context, Latest, PerSite
from stream.signals.churn import LIKELIHOOD_D, model_of
from stream.signals.purchase import Purchases, PurchaseSignal, order_count
from stream.signals.reviews import Reviews
from stream.signals.score import Score
from tracker.contract.durations import DAY_MS, HOUR_MS
from tracker.contract.predicates import BANDS, FIELDS, Condition
from tracker.contract.scoring import ScoreRules
from tracker.contract.settings import Settings
from tracker.contract.sites import Site, TriggerPolicy
from tracker.contract.stages import CHANNEL_NAMES

_PURCHASE: Final = PurchaseSignal()
SETTINGS: Final = _PURCHASE.settings | {"sites"}
"""Which settings conditions may look at."""
BAND_FROM: Final = (0.33, 0.66)
"""Risks from which on the next band begins."""
JUST_PAST: Final = 1e-9
LOOK_AHEAD_MS: Final = 3650 * DAY_MS
assert [band(risk) for risk in (BAND_FROM[0] - JUST_PAST, BAND_FROM[0], BAND_FROM[1] + JUST_PAST)] == list(BANDS)

S = TypeVar("S")
T = TypeVar("T")
Answer = tuple[bool, int | None]
"""Whether it holds; when that may change with no event, ms (None: never)."""
NEVER: Final = None

_COMPARE: Final[dict[str, Callable[[Any, Any], bool]]] = {
    "=": operator.eq, "!=": operator.ne, "<": operator.lt, "<=": operator.le, ">": operator.gt, ">=": operator.ge,
}  # fmt: skip


def holds(c: Condition, now_ms: int, ctx: Context) -> Answer:
    """`c` has been checked."""
    if c.field is not None:
        return _FIELDS[c.field](c, now_ms, ctx)
    if c.not_ is not None:
        truth, until = holds(c.not_, now_ms, ctx)
        return not truth, until
    every = c.all_ is not None
    deciding: list[int | None] = []
    others: list[int | None] = []
    for each in c.all_ or c.any_ or ():
        truth, until = holds(each, now_ms, ctx)
        (others if truth is every else deciding).append(until)
    if not deciding:
        return every, min((t for t in others if t is not None), default=NEVER)
    return not every, NEVER if None in deciding else max(deciding)  # type: ignore[type-var]


def reads(leaf: Condition) -> tuple[str, ...]:
    """What a condition on a single field looks at: signals, `about`."""
    field = FIELDS[leaf.field or ""]
    return (field.reads, *field.also)


def matches(c: Condition, properties: Mapping[str, Any]) -> bool:
    """The same of an event's properties."""
    if c.property is not None:
        return _is(properties.get(c.property), c)
    if c.not_ is not None:
        return not matches(c.not_, properties)
    if c.all_ is not None:
        return all(matches(each, properties) for each in c.all_)
    return any(matches(each, properties) for each in c.any_ or ())


# -- one function a field: state -> value, compared


def _trait(c: Condition, now_ms: int, ctx: Context) -> Answer:
    return _is((ctx.traits or {}).get(c.name or ""), c), NEVER


def _count(c: Condition, now_ms: int, ctx: Context) -> Answer:
    state: Activity | None = ctx.states.get("activity")
    tally = state.tallies.get(c.event or "") if state is not None else None
    if tally is None:
        return _compared(0, c), NEVER
    if c.days is None:
        return _compared(tally.n, c), NEVER
    return _of_days(tally.days, c, now_ms, ctx)


def _active_days(c: Condition, now_ms: int, ctx: Context) -> Answer:
    state: Activity | None = ctx.states.get("activity")
    return _of_days(tuple((day, 1) for day in state.active_days()) if state is not None else (), c, now_ms, ctx)


def _of_days(days: tuple[tuple[int, int], ...], c: Condition, now_ms: int, ctx: Context) -> Answer:
    """The sum over the last `c.days` local days. It changes at a local midnight, when a day falls out."""
    assert c.days is not None
    first = ctx.zone.date_of(now_ms) - c.days + 1  # `ctx` may be of a late event, which had another offset
    kept = [(day, n) for day, n in days if day >= first]
    total = sum(n for _, n in kept)
    truth = _compared(total, c)
    for day, n in kept:
        total -= n
        if _compared(total, c) != truth:
            return truth, ctx.zone.begins_ms(day + c.days)
    return truth, NEVER


def _last(c: Condition, now_ms: int, ctx: Context) -> Answer:
    state: Activity | None = ctx.states.get("activity")
    tally = state.tallies.get(c.event or "") if state is not None else None
    return _ago(tally.last_ms if tally is not None else None, c, now_ms)


def _first_seen(c: Condition, now_ms: int, ctx: Context) -> Answer:
    state: Activity | None = ctx.states.get("activity")
    ms = ctx.first_seen_ms
    if state is not None:
        ms = state.first_ms if ms is None else min(ms, state.first_ms)
    return _ago(ms, c, now_ms)


def _last_seen(c: Condition, now_ms: int, ctx: Context) -> Answer:
    state: Activity | None = ctx.states.get("activity")
    exact = state.last_visit_ms if state is not None else None
    return _ago(exact if exact is not None else ctx.last_visit_ms(), c, now_ms)


def _ago(ms: int | None, c: Condition, now_ms: int) -> Answer:
    if ms is None:
        return False, NEVER
    until = ms + ceil(float(c.value) * DAY_MS)  # type: ignore[arg-type]  # checked: a number
    is_within = now_ms < until
    return is_within is (c.op == "within"), until if is_within else NEVER


def _sessions(c: Condition, now_ms: int, ctx: Context) -> Answer:
    state: Activity | None = ctx.states.get("activity")
    return _compared(state.session_count if state is not None else 0, c), NEVER


def _orders(c: Condition, now_ms: int, ctx: Context) -> Answer:
    return _compared(order_count(ctx), c), NEVER


def _highest_total(state: Purchases) -> float:
    return max(totals(state.orders, state.sums).values(), default=0.0)


def _score_rules(settings: Settings, site: Site | None) -> core.Rules:
    return core.rules_of(site.score if site is not None else ScoreRules())


_SCORE_RULES: Final = PerSite(_score_rules)


class _Outlooks:
    """The same of a score, at a time and by the site's own weights."""

    def __init__(self) -> None:
        self._last: tuple[Score, int, dict[str, float], core.Outlook] | None = None

    def __call__(self, state: Score, now_ms: int, weights: dict[str, float]) -> core.Outlook:
        last = self._last
        if last is None or last[0] is not state or last[1] != now_ms or last[2] is not weights:
            outlook = core.outlook(state.indicators, weights, now_ms)
            last = self._last = (state, now_ms, weights, outlook)
        return last[3]


_OUTLOOK: Final = _Outlooks()
_value_of: Final = Latest(_highest_total)


def _order_value(c: Condition, now_ms: int, ctx: Context) -> Answer:
    state: Purchases | None = ctx.states.get("purchase")
    return _compared(_value_of(state) if state is not None else 0, c), NEVER


def _at_risk(c: Condition, now_ms: int, ctx: Context) -> Answer:
    state: Purchases | None = ctx.states.get("purchase")
    return (state is not None and state.on) is c.value, NEVER


def _risk(c: Condition, now_ms: int, ctx: Context) -> Answer:
    if (found := _customer(ctx)) is None:
        return False, NEVER
    state, rule = found
    truth = _COMPARE[c.op or ""](churn_watch.risk_at(state, now_ms, rule), c.value)
    return truth, _riskier(state, rule, float(c.value), now_ms)  # type: ignore[arg-type]  # checked: a number


def _likelihood(c: Condition, now_ms: int, ctx: Context) -> Answer:
    if (found := _customer(ctx)) is None:
        return False, NEVER
    state, rule = found
    rule = replace(rule, horizon_d=LIKELIHOOD_D)
    truth = _COMPARE[c.op or ""](1 - churn_watch.risk_at(state, now_ms, rule), c.value)
    return truth, _riskier(state, rule, 1 - float(c.value), now_ms)  # type: ignore[arg-type]  # checked: a number


def _churn_band(c: Condition, now_ms: int, ctx: Context) -> Answer:
    """Who has not bought is in none."""
    if (found := _customer(ctx)) is None:
        return False, NEVER
    state, rule = found
    at = BANDS.index(band(churn_watch.risk_at(state, now_ms, rule)))
    bar = BAND_FROM[at] if at < len(BAND_FROM) else None
    return _at_level(at, c), NEVER if bar is None else _riskier(state, rule, bar, now_ms)


def _clv(c: Condition, now_ms: int, ctx: Context) -> Answer:
    return _worth(c, float(c.value), now_ms, ctx)  # type: ignore[arg-type]  # checked: a number


def _high_value(c: Condition, now_ms: int, ctx: Context) -> Answer:
    model = model_of(_PURCHASE.name, ctx)
    high = model.value.high if model is not None and model.value is not None else None
    if high is None:
        return c.value is False, NEVER
    is_high, until = _worth(Condition(op=">=", value=high), high, now_ms, ctx)
    return is_high is c.value, until


def _worth(c: Condition, bar: float, now_ms: int, ctx: Context) -> Answer:
    """What the orders to come are worth against a bar: it falls while nobody buys, and when is known to the hour."""
    if (found := _customer(ctx)) is None:
        return False, NEVER
    state, rule = found

    def at(ms: int) -> float | None:
        clv: float | None = _PURCHASE.worth(state, ms, rule, ctx).get("clv")
        return clv

    now = at(now_ms)
    if now is None:
        return False, NEVER
    truth = _COMPARE[c.op or ""](now, bar)
    low, high = now_ms, now_ms + LOOK_AHEAD_MS
    if now < bar or (at(high) or 0.0) >= bar:
        return truth, NEVER
    while high - low > HOUR_MS:
        middle = (low + high) // 2
        if (at(middle) or 0.0) >= bar:
            low = middle
        else:
            high = middle
    return truth, high


def _customer(ctx: Context) -> tuple[Purchases, Rule] | None:
    state: Purchases | None = ctx.states.get(_PURCHASE.name)
    return None if state is None or not state.days else (state, _PURCHASE.rule(ctx))


def _riskier(state: Purchases, rule: Rule, level: float, now_ms: int) -> int | None:
    """When the risk will be past the level, if nobody buys; None: it is, or never will be."""
    level += JUST_PAST
    if level >= 1 or churn_watch.risk_at(state, now_ms, rule) >= level:
        return NEVER
    weeks = crossing(rule.params, state.x, state.t_x_days / 7, rule.horizon_d / 7, level)
    return NEVER if weeks == inf else max(state.zero_ms + ceil(weeks * 7 * DAY_MS), now_ms + 1)


def _nps(c: Condition, now_ms: int, ctx: Context) -> Answer:
    """Who never answered is not below anything."""
    state: Reviews | None = ctx.states.get("reviews")
    return state is not None and state.nps is not None and _compared(state.nps[1], c), NEVER


def _cart(c: Condition, now_ms: int, ctx: Context) -> Answer:
    state: CartLog | None = ctx.states.get("cart")
    return _compared(state.carts.latest.state if state is not None else "none", c), NEVER


def _cart_value(c: Condition, now_ms: int, ctx: Context) -> Answer:
    state: CartLog | None = ctx.states.get("cart")
    return _compared(value_of(state.carts.latest.items) if state is not None else 0, c), NEVER


def _stage(c: Condition, now_ms: int, ctx: Context) -> Answer:
    state = ctx.states.get("journey")
    return _at_level(state.stage if state is not None else 0, c), NEVER


def _lead(c: Condition, now_ms: int, ctx: Context) -> Answer:
    """It is left by time when the signal's own timer says so."""
    state: Score | None = ctx.states.get("score")
    return _at_level(FIELDS["lead"].names.index(state.stage) if state is not None else 0, c), NEVER


def _at_level(at: int, c: Condition) -> bool:
    level = FIELDS[c.field or ""].names.index
    if c.op == "in":
        return any(at == level(v) for v in c.value)  # type: ignore[union-attr]
    return _COMPARE[c.op or "="](at, level(c.value))


def _score(c: Condition, now_ms: int, ctx: Context) -> Answer:
    return _scored(c, float(c.value), now_ms, ctx)  # type: ignore[arg-type]  # checked: a number


def _points(c: Condition, now_ms: int, ctx: Context) -> Answer:
    """Those for traits are there or not."""
    site = ctx.settings.sites.get(ctx.site)
    more = fit(site.lead.fit, ctx.traits) if site is not None else 0.0
    return _scored(c, float(c.value) - more, now_ms, ctx)  # type: ignore[arg-type]  # checked: a number


def _scored(c: Condition, value: float, now_ms: int, ctx: Context) -> Answer:
    """Points within 1e-10 of the value reach it, as of lead stages."""
    state: Score | None = ctx.states.get("score")
    if state is None:
        return _COMPARE[c.op or ""](0.0, value), NEVER
    rules = _SCORE_RULES(ctx.settings, ctx.site)
    outlook = _OUTLOOK(state, now_ms, rules.weights)
    score = max(0.0, outlook.score) if rules.floor else outlook.score
    room = DIGITS * abs(value)
    bar = value - room if c.op in (">=", "<") else value + room
    return _COMPARE[c.op or ""](score, bar), core.crosses(outlook, state.indicators, value)


def _consent(c: Condition, now_ms: int, ctx: Context) -> Answer:
    """Of several addresses of a channel one yes will do."""
    state: Contacts | None = ctx.states.get("contact")
    channel = c.name or ""
    if state is None:
        return _compared("unknown", c), NEVER
    addresses = [a.value for a in state.addresses if a.type == TYPE_OF[channel]]
    said = [contact.consent(state.consents, channel, address) for address in addresses or ("",)]
    yes = {s.yes for s in said if s is not None}
    return _compared("granted" if True in yes else "denied" if yes else "unknown", c), NEVER


def _reachable(c: Condition, now_ms: int, ctx: Context) -> Answer:
    """As triggers say it (`usable`), by the site's policy."""
    state: Contacts | None = ctx.states.get("contact")
    site = ctx.settings.sites.get(ctx.site)
    policy = site.triggers.consent if site is not None else TriggerPolicy().consent
    ways = contact.channels(state, policy) if state is not None else []
    return any(way.usable for way in ways if way.channel == c.name) is c.value, NEVER


_FIELDS: Final[dict[str, Callable[[Condition, int, Context], Answer]]] = {
    "trait": _trait,
    "count": _count,
    "last": _last,
    "first_seen": _first_seen,
    "last_seen": _last_seen,
    "sessions": _sessions,
    "active_days": _active_days,
    "orders": _orders,
    "order_value": _order_value,
    "at_risk": _at_risk,
    "risk": _risk,
    "churn_band": _churn_band,
    "likelihood": _likelihood,
    "clv": _clv,
    "high_value": _high_value,
    "points": _points,
    "nps": _nps,
    "cart": _cart,
    "cart_value": _cart_value,
    "stage": _stage,
    "score": _score,
    "lead": _lead,
    "consent": _consent,
    "reachable": _reachable,
}
assert _FIELDS.keys() == FIELDS.keys()
assert TYPE_OF.keys() == set(CHANNEL_NAMES)


# -- values


def _compared(value: Any, c: Condition) -> bool:
    """A number, or a name of a closed set."""
    if c.op == "in":
        return value in c.value  # type: ignore[operator]
    return _COMPARE[c.op or "="](value, c.value)


def _is(value: Any, c: Condition) -> bool:
    """What a client said (a trait, a property) against the condition: texts without regard to case; a text that is a
    number is one where numbers are compared; true is not 1. What is missing is only != and not in."""
    op, wanted = c.op, c.value
    if op == "given":
        return (value not in (None, "", [], {})) is wanted
    if op == "contains":
        if isinstance(value, str):
            return str(wanted).casefold() in value.casefold()
        return isinstance(value, list) and any(_same(v, wanted) for v in value)
    if op == "in":
        return any(_same(value, v) for v in wanted)  # type: ignore[union-attr]
    if op == "=":
        return _same(value, wanted)
    if op == "!=":
        return not _same(value, wanted)
    number = _number(value)
    return number is not None and _COMPARE[op or ""](number, wanted)


def _same(value: Any, wanted: Any) -> bool:
    if isinstance(value, bool) or isinstance(wanted, bool):
        return value is wanted
    if isinstance(wanted, int | float):
        return _number(value) == wanted
    return isinstance(value, str) and value.casefold() == wanted.casefold()


def _number(value: Any) -> float | None:
    if (
        isinstance(value, bool)
        or not isinstance(value, int | float | str)
        or (isinstance(value, str) and len(value) > 40)
    ):
        return None
    try:
        return float(value)
    except (ValueError, OverflowError):
        return None
