"""Churn risk by visit days: pages and screens that a person looked at. Sessions of one day are one visit.

It sees every page event; one on a day that is known costs a look at the last day and changes nothing.
"""

from __future__ import annotations

from stream.core.churn_watch import Watched
from stream.signals.base import Context, Result
from stream.signals.churn import ChurnSignal
from tracker.contract.durations import DAY_MS
from tracker.contract.events import ProfileEvent


class VisitSignal(ChurnSignal[Watched]):
    name = "visit"
    state_type = Watched
    events: frozenset[str] | None = frozenset()
    types = frozenset(("page", "screen"))
    settings = ChurnSignal.common | {"visit_horizon_d"}
    horizon = "visit_horizon_d"
    gauge = "churn_high_visit"

    def fold(self, state: Watched | None, event: ProfileEvent, ctx: Context) -> Result:
        if event.bot is not None:
            return Result(state=state)
        if state is not None and state.days[-1] == (event.timestamp_ms + ctx.utc_offset_ms) // DAY_MS:
            return Result(state=state)
        before = Watched() if state is None else state
        after = self.seen(before, event.timestamp_ms, ctx)
        return Result(state=after, gauges=self.moved(before, after))
