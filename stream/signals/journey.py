"""Journey: one `journey_stage` for each move between the six stages of stream/core/journey.py.

`fold` takes up facts, `settle` judges by them and by what the signal `purchase` knows. Up at once, down by time (and
from advocate by a bad NPS). The first stage is where everybody begins: it is not told.

Nearly all visits change nothing here. When the person was here last is known to the profile itself, so a timer for
silence is not moved by each visit: it looks when it fires, and sets itself anew. Sessions are kept until they decide no
more, days as bits.
"""

from __future__ import annotations

from typing import Any, Final

import msgspec
from msgspec import Struct
from msgspec.structs import replace

from stream.core import journey
from stream.core.activity import SESSION_GAP_MS, Activity, days_of, iso_day, joined, with_days
from stream.core.journey import Facts
from stream.core.lead import has_contact
from stream.core.parts import read_part
from stream.signals import shop
from stream.signals.activity import is_visit
from stream.signals.base import Context, Result, Signal, Trigger
from stream.signals.purchase import Purchases, order_count
from tracker.contract import events as ev
from tracker.contract.codec import emission_id
from tracker.contract.durations import DAY_MS
from tracker.contract.events import ProfileEvent
from tracker.contract.stages import STAGE_NAMES, STAGES
from tracker.contract.triggers import JOURNEY_STAGE, JourneyStage, JourneyStageName, rfc3339

LOOKS: Final = frozenset(("page", "screen"))
LOOKED: Final = frozenset((ev.PRODUCT_VIEWED, *ev.MESSAGE_CLICKS))
ONBOARDED: Final = frozenset((ev.SIGNED_UP, ev.TRIAL_STARTED, ev.ORDER_COMPLETED))
SHARED: Final = frozenset((ev.CONTENT_SHARED, ev.PRODUCT_SHARED, ev.CART_SHARED))
TELLING: Final = LOOKED | ONBOARDED | SHARED | {ev.REFERRAL_CONVERTED, ev.SURVEY_RESPONSE_RECEIVED, ev.PRODUCT_REVIEWED}


class Answer(Struct):
    """What is read of answers, reviews and shares."""

    type: Any = None
    score: Any = None
    scale: Any = None
    rating: Any = None
    visits: Any = None


answer: Final = msgspec.json.Decoder(Answer)
_traits: Final = msgspec.json.Decoder(dict[str, Any])
_GAUGES: Final = tuple(f"journey_{name}" for name in STAGE_NAMES)


class Stage(Struct, frozen=True, omit_defaults=True):
    """The state of the signal `journey`."""

    facts: Facts = Facts()
    stage: int = 0
    """Index in STAGES."""
    entered_ms: int = 0
    at_risk: bool = False
    """The churn signal is on."""
    moves: int = 0
    at_ms: int = 0
    """Nothing is judged by an earlier time."""
    due_ms: int | None = None


class JourneySignal(Signal[Stage]):
    name = "journey"
    tells = frozenset((JOURNEY_STAGE.name,))
    state_type = Stage
    events: frozenset[str] | None = None
    settings: frozenset[str] = frozenset()
    reads = frozenset(("about", "purchase"))

    def idle(self, state: Stage | None, event: ProfileEvent, utc_offset_ms: int) -> bool:
        if state is None:
            return False
        name, facts, ms = event.event, state.facts, event.timestamp_ms
        if name is None:
            type = event.type
            if type == "identify":
                return facts.onboard_ms is not None and facts.onboard_ms <= ms
            if type not in LOOKS:
                return True
        else:
            if name in TELLING:
                if name == ev.PRODUCT_VIEWED:
                    if facts.looked_ms is None or not is_visit(event):
                        return False
                elif name not in ONBOARDED or facts.onboard_ms is None or facts.onboard_ms > ms:
                    return False
            if not is_visit(event):
                return True
        if event.bot is not None:
            return True
        if (ms + utc_offset_ms) // DAY_MS != facts.day or (ms < state.entered_ms and not state.moves):
            return False
        if facts.sessions:
            first, last = facts.sessions[-1]
            return first <= ms <= last
        return state.stage != journey.AWARE

    def glance(self, state: Stage | None, event: ProfileEvent, utc_offset_ms: int) -> Stage | None:
        """A visitor of whom nothing is known but visits: the session goes on."""
        if state is None or event.bot is not None or event.event in TELLING or not is_visit(event):
            return None
        facts, ms = state.facts, event.timestamp_ms
        sessions = facts.sessions
        if not sessions or (ms + utc_offset_ms) // DAY_MS != facts.day:
            return None
        first, last = sessions[-1]
        if not last < ms <= last + SESSION_GAP_MS:
            return None
        sessions = ((first, ms),) if len(sessions) == 1 else (*sessions[:-1], (first, ms))
        # Only visits: of the other facts there are none.
        return Stage(
            Facts(None, sessions, facts.day, facts.bits, retained=facts.retained, detracted_ms=facts.detracted_ms,
                  shares_ms=facts.shares_ms),
            state.stage, state.entered_ms, state.at_risk, state.moves, state.at_ms, state.due_ms,
        )  # fmt: skip

    def fold(self, state: Stage | None, event: ProfileEvent, ctx: Context) -> Result:
        if state is None:
            state = _taken(Stage(entered_ms=event.timestamp_ms), event, ctx)
            return Result(state=state, gauges=self.gauges(state))
        return Result(state=state if self.idle(state, event, ctx.utc_offset_ms) else _taken(state, event, ctx))

    def settle(self, state: Stage | None, now_ms: int, ctx: Context) -> Result:
        if state is None or (state.stage == journey.RETAINED and _stays_retained(state, ctx)):
            return Result(state=state)
        return _judged(state, now_ms, ctx)

    def due_ms(self, state: Stage) -> int | None:
        return state.due_ms

    def fire(self, state: Stage, now_ms: int, ctx: Context) -> Result:
        triggers: tuple[Trigger, ...] = ()
        gauges: tuple[tuple[str, int], ...] = ()
        while state.due_ms is not None and state.due_ms <= now_ms:
            result = _judged(state, state.due_ms, ctx)
            state, triggers, gauges = result.state, triggers + result.triggers, gauges + result.gauges
        return Result(state=state, triggers=triggers, gauges=gauges)

    def gauges(self, state: Stage) -> tuple[tuple[str, int], ...]:
        return ((_GAUGES[state.stage], 1),)

    def merge(self, one: Stage, other: Stage, now_ms: int, ctx: Context) -> Result:
        """The further stage was told of the person already; facts are united, and `settle` judges by them."""
        a, b = one.facts, other.facts
        first = min((f for f in (a, b) if f.onboard_ms is not None), key=lambda f: f.onboard_ms or 0, default=a)
        day, bits = with_days(a.day, a.bits, b.day, b.bits)
        facts = Facts(
            looked_ms=_later(a.looked_ms, b.looked_ms),
            day=day,
            bits=bits,
            onboard_ms=first.onboard_ms,
            onboard_day=first.onboard_day,
            engaged_days=journey.engaged(a, first.onboard_day, b.engaged_days),
            retained=a.retained or b.retained,
            praised_ms=_later(a.praised_ms, b.praised_ms),
            shares_ms=tuple(sorted((*a.shares_ms, *b.shares_ms))[-journey.SHARES :]),
            detracted_ms=_later(a.detracted_ms, b.detracted_ms),
        )
        if not (a.decided or b.decided):
            sessions = a.sessions
            for first_ms, last_ms in b.sessions:
                sessions, _ = joined(sessions, 0, first_ms, last_ms)
            facts = replace(facts, sessions=sessions)
        if facts.looked_ms is None and journey.came_back(bits):
            facts = replace(facts, looked_ms=0, sessions=())
        further = max(one, other, key=lambda s: (s.stage, -s.entered_ms))
        dues = [s.due_ms for s in (one, other) if s.due_ms is not None]
        merged = Stage(
            facts=facts, stage=further.stage, entered_ms=further.entered_ms, at_risk=one.at_risk or other.at_risk,
            moves=max(one.moves, other.moves), at_ms=max(one.at_ms, other.at_ms), due_ms=min(dues, default=None),
        )  # fmt: skip
        return Result(state=merged)

    def explain(self, state: Stage, now_ms: int, ctx: Context) -> dict[str, Any]:
        """The stage by its number, 1 to 6, and why."""
        facts, bought = state.facts, order_count(ctx)
        activity: Activity | None = ctx.states.get("activity")
        sessions = activity.session_count if activity is not None else len(facts.sessions) or None
        name = _named(state.stage)
        return {
            "number": name.number,
            "en": name.en,
            "vi": name.vi,
            "entered_at": rfc3339(state.entered_ms),
            "at_risk": state.at_risk,
            "because": journey.why(facts, state.stage, sessions or 0, bought, state.at_risk),
            "until": self._until(state, ctx),
            "sessions": sessions,
            "orders": bought,
            "onboarded": rfc3339(facts.onboard_ms) if facts.onboard_ms is not None else None,
            "active_days_after": [iso_day(day) for day in facts.engaged_days],
            "praised": rfc3339(facts.praised_ms) if facts.praised_ms is not None else None,
            "shares_visited": len(facts.shares_ms),
            "detracted": rfc3339(facts.detracted_ms) if facts.detracted_ms is not None else None,
            "moves": state.moves,
        }

    def _until(self, state: Stage, ctx: Context) -> str | None:
        """When it is left by time alone, as of the latest visit that is known: the timer may stand before that."""
        if state.due_ms is None:
            return None
        silent_ms = (ctx.last_visit_ms() or 0) + journey.SILENT_MS
        return rfc3339(max(state.due_ms, silent_ms))

    def shown(self, fields: dict[str, Any]) -> dict[str, Any]:
        """With the stage's number and what is left out where it says nothing."""
        return {**fields, "stage": fields.get("stage", 0) + 1, "at_risk": fields.get("at_risk", False)}


def _taken(before: Stage, event: ProfileEvent, ctx: Context) -> Stage:
    """With what the event says of facts."""
    facts = learned(before.facts, event, ctx)
    if event.bot is None and is_visit(event):
        facts = _visited(facts, event.timestamp_ms, ctx)
    if facts.sessions and facts.decided:
        facts = replace(facts, sessions=())
    if before.stage == 0 and not before.moves and event.timestamp_ms < before.entered_ms:
        return replace(before, facts=facts, entered_ms=event.timestamp_ms)
    return before if facts is before.facts else replace(before, facts=facts)


def learned(facts: Facts, event: ProfileEvent, ctx: Context) -> Facts:
    """The facts with what the event says."""
    name, ms = event.event, event.timestamp_ms
    if name is None:
        if event.type != "identify" or not has_contact(read_part(_traits, event.traits)):
            return facts
        return _onboarded(facts, ms, ctx)
    if name in LOOKED:
        ms = 0 if event.bot is None and is_visit(event) else ms
        return facts if facts.looked_ms is not None and ms <= facts.looked_ms else replace(facts, looked_ms=ms)
    if name in ONBOARDED:
        return _onboarded(facts, ms, ctx)
    if name == ev.REFERRAL_CONVERTED:
        return replace(facts, praised_ms=_later(facts.praised_ms, ms))
    if name == ev.SURVEY_RESPONSE_RECEIVED:
        nps = nps_of(event)
        if nps is not None and nps >= journey.PROMOTER:
            return replace(facts, praised_ms=_later(facts.praised_ms, ms))
        if nps is not None and nps <= journey.DETRACTOR:
            return replace(facts, detracted_ms=_later(facts.detracted_ms, ms))
    elif name == ev.PRODUCT_REVIEWED:
        said = read_part(answer, event.properties)
        if said is not None and (shop.number(said.rating, 5) or 0) >= journey.GOOD_REVIEW:
            return replace(facts, praised_ms=_later(facts.praised_ms, ms))
    elif name in SHARED:
        said = read_part(answer, event.properties)
        if said is not None and (shop.number(said.visits, 1e9) or 0) > 0:
            return replace(facts, shares_ms=tuple(sorted((*facts.shares_ms, ms))[-journey.SHARES :]))
    return facts


def nps_of(event: ProfileEvent) -> int | None:
    """The answer, a whole number 0 to 10 (domain: A031); None: it is none, or no answer on NPS."""
    said = read_part(answer, event.properties)
    if said is None or not isinstance(said.type, str) or said.type.strip().casefold() != "nps":
        return None
    score = shop.number(said.score, 10)
    return int(score) if score is not None and score == int(score) else None


def _onboarded(facts: Facts, ms: int, ctx: Context) -> Facts:
    if facts.onboard_ms is not None and facts.onboard_ms <= ms:
        return facts
    day = (ms + ctx.utc_offset_ms) // DAY_MS
    return replace(facts, onboard_ms=ms, onboard_day=day, engaged_days=journey.engaged(facts, day, ()))


def _visited(facts: Facts, ms: int, ctx: Context) -> Facts:
    day, bits = with_days(facts.day, facts.bits, (ms + ctx.utc_offset_ms) // DAY_MS, 1)
    sessions, looked_ms = facts.sessions, facts.looked_ms
    if not facts.decided:
        sessions, _ = joined(sessions, 0, ms, ms)
    if sessions is facts.sessions and day == facts.day and bits == facts.bits:
        return facts
    if looked_ms is None and journey.came_back(bits):
        looked_ms = 0
    return replace(facts, looked_ms=looked_ms, sessions=sessions, day=day, bits=bits)


def _later(a: int | None, b: int | None) -> int | None:
    return b if a is None else a if b is None else max(a, b)


def _stays_retained(state: Stage, ctx: Context) -> bool:
    """Who is retained stays so until something praises or an order is given back; the flag may have to be told."""
    facts, purchases = state.facts, ctx.states.get("purchase")
    is_praised = facts.praised_ms is not None or len(facts.shares_ms) >= journey.SHARES
    if is_praised or state.at_risk is not (purchases is not None and purchases.on):
        return False
    return facts.retained or "purchase" not in ctx.changed or order_count(ctx) >= journey.RETAINED_ORDERS


def _judged(before: Stage, now_ms: int, ctx: Context) -> Result:
    """The stage as of `now_ms`, or of the last time it was judged by, if that is later."""
    purchases: Purchases | None = ctx.states.get("purchase")
    facts = before.facts
    if facts.onboard_day is not None and len(facts.engaged_days) < journey.ENGAGED_DAYS:
        days = journey.engaged(facts, facts.onboard_day, days_of(facts.day, facts.bits))
        if days != facts.engaged_days:
            facts = replace(facts, engaged_days=days)
    at_risk = purchases is not None and purchases.on
    if at_risk and not facts.retained:
        facts = replace(facts, retained=True)
    at_ms = max(now_ms, before.at_ms)
    last_ms = _later(ctx.last_visit_ms(), facts.sessions[-1][1] if facts.sessions else None)
    stage, until = journey.stage_of(facts, len(facts.sessions), last_ms, order_count(ctx), at_ms)
    if stage == before.stage:
        if until is not None and before.due_ms is not None and at_ms < before.due_ms < until:
            until = before.due_ms  # It looks then: cheaper than to move it at each visit.
        if facts is before.facts and at_risk is before.at_risk and until == before.due_ms:
            return Result(state=before)
        return Result(state=replace(before, facts=facts, at_risk=at_risk, due_ms=until))
    after = Stage(facts, stage, at_ms, at_risk, before.moves + 1, at_ms, until)
    trigger = Trigger(
        kind=JOURNEY_STAGE,
        id=emission_id(ctx.site, f"{ctx.profile_id}/{STAGES[stage][0]}/{at_ms}", JOURNEY_STAGE.name, after.moves),
        at_ms=at_ms,
        data=JourneyStage(
            profile_id=ctx.profile_id,
            from_=_named(before.stage),
            to=_named(stage),
            at_risk=at_risk,
        ),
    )
    moved = ((_GAUGES[before.stage], -1), (_GAUGES[stage], 1))
    return Result(state=after, triggers=(trigger,), gauges=moved)


def _named(stage: int) -> JourneyStageName:
    en, vi = STAGES[stage]
    return JourneyStageName(number=stage + 1, en=en, vi=vi)
