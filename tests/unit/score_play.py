"""Events that move a score, and what is asked of it."""

from __future__ import annotations

from typing import Any

from msgspec.structs import replace

from stream.core import score as core
from stream.signals.base import Context, Result
from stream.signals.score import Score, ScoreSignal
from tests.unit.shop_events import T0_MS, context, event
from tracker.contract.events import ORDER_COMPLETED, ProfileEvent
from tracker.contract.scoring import WEIGHTS, LeadRules, ScoreRules
from tracker.contract.settings import Settings
from tracker.contract.sites import Site

D = 86_400.0
SIGNAL = ScoreSignal()


def settings(score: ScoreRules | None = None, lead: LeadRules | None = None) -> Settings:
    site = Site(write_key="w", secret_key="s", score=score or ScoreRules(), lead=lead or LeadRules())
    return Settings(sites={"demo": site})


def page(at_s: float, **more: Any) -> ProfileEvent:
    return replace(event("page", at_s, **more), type="page", event=None)


def order(at_s: float, id: str | None) -> ProfileEvent:
    return event(ORDER_COMPLETED, at_s, {"order_id": id} if id else {}, id=f"{id}@{at_s}")


def play(events: list[ProfileEvent], ctx: Context | None = None, state: Score | None = None) -> Score:
    ctx = ctx or context()
    for e in events:
        state = SIGNAL.fold(state, e, ctx).state or state
    assert state is not None
    return state


def at(s: float) -> int:
    return T0_MS + round(1000 * s)


def e_of(state: Score, at_s: float, weights: dict[str, float] = WEIGHTS) -> float:
    return core.score(state.indicators, weights, at(at_s))


def site_total(results: list[Result], indicator: str, at_s: float) -> float:
    """What the site's sums of it are worth, of one's results or of several persons'."""
    added, back = [p for r in results for p in r.sums], [p for r in results for p in r.sums_back]
    return core.site_total(added, back, {indicator: 1.0}, at(at_s))
