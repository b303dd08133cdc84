"""The gate's memory: what a profile was told, what waits for the morning, what was suppressed (stream/core/gate.py).

It reads no events: stream/fold.py asks it at every trigger. Its timer is the end of quiet hours.
"""

from __future__ import annotations

from typing import Final

import msgspec

from stream.core import gate
from stream.core.gate import Gate
from stream.signals.base import Context, Result, Signal, Trigger
from tracker.contract.events import ProfileEvent
from tracker.contract.triggers import TRIGGER_KINDS

KINDS: Final = {kind.name: kind for kind in TRIGGER_KINDS}


class GateSignal(Signal[Gate]):
    name = "gate"
    state_type = Gate
    events: frozenset[str] | None = frozenset()
    settings: frozenset[str] = frozenset()

    def fold(self, state: Gate | None, event: ProfileEvent, ctx: Context) -> Result:
        return Result(state=state)

    def due_ms(self, state: Gate) -> int | None:
        return gate.due_ms(state)

    def fire(self, state: Gate, now_ms: int, ctx: Context) -> Result:
        after, due = gate.release(state, now_ms)
        return Result(
            state=after,
            triggers=tuple(
                Trigger(
                    kind=kind,
                    id=h.id,
                    at_ms=h.at_ms,
                    data=msgspec.json.decode(h.data, type=kind.data),
                    told_by=h.signal,
                    held_until_ms=h.until_ms,
                )
                for h in due
                if (kind := KINDS.get(h.kind)) is not None
            ),
        )

    def merge(self, one: Gate, other: Gate, now_ms: int, ctx: Context) -> Result:
        return Result(state=gate.merged(one, other))
