"""The gate's memory: what a profile was told, what waits for the morning, what was suppressed (stream/core/gate.py).

It reads no events: stream/telling.py asks it at every trigger. Its timer is the end of quiet hours.
"""

from __future__ import annotations

from typing import Any, Final

import msgspec

from stream.core import gate
from stream.core.gate import Gate
from stream.signals.base import Context, Result, Signal, Trigger
from tracker.contract.events import ProfileEvent
from tracker.contract.sites import TriggerPolicy
from tracker.contract.triggers import TRIGGER_KINDS, rfc3339

KINDS: Final = {kind.name: kind for kind in TRIGGER_KINDS}


class GateSignal(Signal[Gate]):
    name = "gate"
    state_type = Gate
    events: frozenset[str] | None = frozenset()
    settings: frozenset[str] = frozenset(("sites",))

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

    def explain(self, state: Gate, now_ms: int, ctx: Context) -> dict[str, Any]:
        """What went out, what waits and what was stopped, each the latest first, and what holds for the next one."""
        site = ctx.settings.sites.get(ctx.site)
        return {
            "told": [{"kind": t.kind, "time": rfc3339(t.ms), "id": t.id} for t in reversed(state.told)],
            "held": [
                {"kind": h.kind, "time": rfc3339(h.at_ms), "until": rfc3339(h.until_ms), "id": h.id, "signal": h.signal}
                for h in state.held
            ],
            "suppressed": [
                {"kind": s.kind, "time": rfc3339(s.at_ms), "reason": s.reason, "id": s.id}
                for s in reversed(state.stopped)
            ],
            "policy": msgspec.to_builtins(site.triggers if site is not None else TriggerPolicy()),
        }

    def merge(self, one: Gate, other: Gate, now_ms: int, ctx: Context) -> Result:
        return Result(state=gate.merged(one, other))
