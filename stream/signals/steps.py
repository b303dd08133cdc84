"""Steps: which of the 14 steps of a customer somebody went through, when, and how many went from which to which
(domain: A401). The table of events is tracker/contract/steps.py.

A visit is the first page or screen of a local day, as long as nothing was ordered; of days before the latest that has
one nothing is asked.
"""

from __future__ import annotations

from typing import Any, Final

from stream.core import steps
from stream.core.steps import Difference, Steps
from stream.signals.base import Context, Result, Signal
from tracker.contract.durations import DAY_MS
from tracker.contract.events import ProfileEvent
from tracker.contract.keys import step_field, undone_field
from tracker.contract.steps import EVENTS, STEPS
from tracker.contract.triggers import rfc3339

_NEW: Final = Steps()


class StepSignal(Signal[Steps]):
    name = "steps"
    state_type = Steps
    events: frozenset[str] | None = frozenset(EVENTS)
    types = frozenset(("page", "screen"))
    settings: frozenset[str] = frozenset()

    def idle(self, state: Steps | None, event: ProfileEvent, utc_offset_ms: int) -> bool:
        if event.bot is not None:
            return True
        if state is None:
            return False
        if event.event is None:
            return (event.timestamp_ms + utc_offset_ms) // DAY_MS <= state.day
        return steps.is_known(state, event.timestamp_ms, EVENTS[event.event])

    def fold(self, state: Steps | None, event: ProfileEvent, ctx: Context) -> Result:
        if self.idle(state, event, ctx.utc_offset_ms):
            return Result(state=state)
        before, ms = _NEW if state is None else state, event.timestamp_ms
        if event.event is not None:
            return _result(*steps.moved(before, ms, EVENTS[event.event]))
        day = (ms + ctx.utc_offset_ms) // DAY_MS
        before = Steps(before.moves, before.more, before.step, before.ordered, before.used, day)
        if before.had_ordered(ms):
            return Result(state=before)
        found = ("search", "visit") if event.traffic == "search" else ("visit",)
        return _result(*steps.moved(before, ms, *found))

    def merge(self, one: Steps, other: Steps, now_ms: int, ctx: Context) -> Result:
        return _result(*steps.merged(one, other))

    def explain(self, state: Steps, now_ms: int, ctx: Context) -> dict[str, Any]:
        """The latest moves, oldest first."""
        moves = [{**named(step), "time": rfc3339(ms)} for ms, step in steps.steps_of(state)]
        return {"now": moves[-1] if moves else None, "moves": moves, "complete": not state.more}


def named(step: int) -> dict[str, Any]:
    return {"number": step, "name": STEPS[step - 1][0], "vi": STEPS[step - 1][1]}


def _result(after: Steps, difference: Difference) -> Result:
    if not difference:
        return Result(state=after)
    counts = []
    for (from_, to, bucket, ms), n in sorted(difference.items()):
        field = step_field(from_, to, bucket)
        counts.append((field if n > 0 else undone_field(field), abs(n), ms))
    return Result(state=after, counts_at=tuple(counts))
