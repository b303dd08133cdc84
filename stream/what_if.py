"""What would a signal say of these events? The stream's own fold (stream/fold.py), with nothing around it.

Events come as records of profile-events, each with the time it was received; before each of them, and at the end, the
clock moves on as it does in the log: it stops at every timer that falls due on the way. So what is printed is what a
worker would have kept and sent, if these were all events that it ever saw.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, Final

import msgspec
from msgspec import Struct

from stream.core.gate import OPEN
from stream.effects import Outgoing
from stream.fold import Folder
from stream.profile import Profile
from stream.records import decode
from stream.signals.base import Context, Result, Signal, Trigger
from stream.telling import GATE
from tracker.contract.events import encode_clock
from tracker.contract.settings import Settings
from tracker.contract.triggers import rfc3339

_CLOCK_STEPS: Final = 1_000_000
"""More timers than any signal sets: one that never moves on must not hang whoever asks."""


class Record(Struct, frozen=True):
    """An event of one profile as it comes in: a record's bytes, and when it was received."""

    value: bytes
    received_ms: int


def play(
    signals: Sequence[Signal[Any]],
    name: str,
    settings: Settings,
    site: str,
    profile_id: str,
    records: Iterable[Record],
    now_ms: int,
) -> dict[str, Any]:
    """What the signal `name` keeps of the records and has sent until now_ms, as JSON values. `records`: in the order in
    which they come in."""
    signal = next(s for s in signals if s.name == name)
    listening = _Listening(signal)
    folder = Folder(signals, settings, listening)
    profile = folder.codec.decode(site, profile_id, [])
    profiles = {(site, profile_id): profile}
    clock_ms = 0
    for record in records:
        if record.received_ms > clock_ms:
            _clock(folder, profiles, profile, clock_ms, record.received_ms)
            clock_ms = record.received_ms
        fx = folder.fold(decode([record.value]), profiles, [], {}, clock_ms)
        if fx.poison:
            raise ValueError(f"{fx.poison[0].reason}: {fx.poison[0].detail}")
    _clock(folder, profiles, profile, clock_ms, now_ms)

    state = profile.states.get(name)
    due = signal.due_ms(state) if state is not None else None
    return {
        "profile": profile_id,
        "state": signal.explain(state, now_ms, folder.context(profile, now_ms)) if state is not None else None,
        "emissions": listening.standing(),
        "triggers": listening.published,
        "suppressed": listening.suppressed,
        "held": [
            {"kind": held.kind, "id": held.id, "time": rfc3339(held.at_ms), "until": rfc3339(held.until_ms)}
            for held in profile.states.get(GATE, OPEN).held
            if held.signal == name
        ],
        "due": rfc3339(due) if due is not None else None,
    }


def _clock(
    folder: Folder, profiles: dict[tuple[str, str], Profile], profile: Profile, from_ms: int, to_ms: int
) -> None:
    """The clock records from from_ms to to_ms that make a difference: where timers are due, and the last one."""
    at_ms = from_ms
    for _ in range(_CLOCK_STEPS):
        at_ms = min(max(at_ms, profile.due_ms if profile.due_ms is not None else to_ms), to_ms)
        folder.fold(decode([encode_clock(at_ms)]), profiles, list(profiles), {}, at_ms - 1)
        if at_ms == to_ms:
            return
    raise ValueError(f"more than {_CLOCK_STEPS} timers")


class _Listening:
    """Hears what one signal says, of all that is kept (stream/keeping.py)."""

    def __init__(self, signal: Signal[Any]) -> None:
        self.published: list[Any] = []
        """CloudEvents."""
        self.suppressed: list[dict[str, Any]] = []
        self._signal = signal
        self._said: list[dict[str, Any]] = []
        self._gone: dict[str, dict[str, Any]] = {}
        """What was told under an id, and is undone; to be shown again if its retraction comes."""
        self._describes = type(signal).describe is not Signal.describe

    def standing(self) -> list[dict[str, Any]]:
        """The emissions, by time. One that was told and then taken back is marked so; its retraction is one, too."""
        return sorted(self._said, key=lambda said: said["time"])

    def told(
        self,
        signal: Signal[Any],
        trigger: Trigger,
        published: Sequence[Outgoing],
        suppressed: Sequence[tuple[str, str]],
    ) -> None:
        was_held = trigger.told_by == self._signal.name  # it goes out, or not, by the gate's timer
        if signal is not self._signal and not was_held:
            return
        self.published += [msgspec.json.decode(outgoing.value) for outgoing in published]
        reason = None
        for kind, reason in suppressed:
            about = {"kind": kind, "reason": reason, "id": trigger.id, "time": rfc3339(trigger.at_ms)}
            self.suppressed.append({**about, "data": msgspec.to_builtins(trigger.data)})
        if self._describes:
            return
        if was_held:  # it is among them
            for known in self._said:
                if known["id"] == trigger.id:
                    known["suppressed"] = reason
        else:
            said: dict[str, Any] = {"type": trigger.kind.name, "time": rfc3339(trigger.at_ms), "id": trigger.id}
            self._said.append({**said, "suppressed": reason, "data": msgspec.to_builtins(trigger.data)})

    def kept(self, signal: Signal[Any], result: Result, ctx: Context) -> None:
        if signal is not self._signal or not self._describes:
            return
        for emitted in result.undone:
            self._take_back(signal.describe(emitted, ctx))
        for emitted in result.emitted:
            said = signal.describe(emitted, ctx)
            self._said.append(said)
            if (taken := self._gone.pop(said.get("retracts", ""), None)) is not None:
                self._said.append({**taken, "retracted": True})

    def _take_back(self, undone: dict[str, Any]) -> None:
        plain = {**undone, "id": None}
        for i, said in enumerate(self._said):
            if {**said, "id": None} == plain:
                del self._said[i]
                if "id" in said:
                    self._gone[said["id"]] = said
                return
