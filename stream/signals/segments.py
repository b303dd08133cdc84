"""Segments: `segment_entered` and `segment_exited` when a profile begins or ceases to be what a site's conditions ask.

State: the segments it is in, and when the next condition may change by time alone. An event costs only the conditions
that it can change: they are found by what they read. A due time that has moved later meanwhile is left as it is; the
timer then finds nothing new and takes the next one.

Whoever is in a segment stays while `Segment.stays` holds. That is a little wider than `when` where it asks for an
amount that falls by itself, so that nobody goes in and out about its value.

When the configuration changes, a profile is looked at again with its next event that any segment reads, or its timer,
and what follows is told with the reason `config`; a segment that is no more is dropped, and nothing told. Of two
profiles that become one the memberships are united and then judged by what is known of both: what the loser was in is
told to have moved, not to have ended.
"""

from __future__ import annotations

from collections.abc import Set
from hashlib import blake2b
from typing import Any, Final

import msgspec
from msgspec import Struct

from stream.signals import conditions
from stream.signals.base import Context, Result, Signal, Trigger
from tracker.contract.codec import emission_id
from tracker.contract.events import event_label
from tracker.contract.keys import segment_gauge
from tracker.contract.predicates import FIELDS, Condition, Segment, leaves
from tracker.contract.settings import Settings
from tracker.contract.sites import Site
from tracker.contract.triggers import SEGMENT_ENTERED, SEGMENT_EXITED, SegmentEntered, SegmentExited, rfc3339

MAX_FIRINGS: Final = 1000
"""Times at which one call of `fire` looks at a profile; then once more, as of now."""


class Segments(Struct, frozen=True, omit_defaults=True):
    """The state of the signal `segments`."""

    members: dict[str, int] = {}
    """Segment that it is in -> since when, ms."""
    changes: int = 0
    """So many entries and exits were told: part of their ids."""
    at_ms: int = 0
    """Time of the last one; nothing is judged by an earlier time."""
    due_ms: int | None = None
    config: str = ""
    """Of the segments that it was judged by; '' = to be judged again."""


class Compiled(Struct):
    """A site's segments, and which of them to look at when."""

    segments: tuple[tuple[str, Condition, Condition], ...]
    """(name, whom it takes in, whom it keeps)."""
    all: tuple[int, ...]
    """Indexes of the segments."""
    config: str
    by_state: dict[str, int]
    """What is read (a signal, `about`) -> the segments that read it: bit i is the i-th."""
    by_event: dict[str, int]
    """The same by the label of an event that is counted."""
    chosen: dict[int, tuple[int, ...]] = {}
    """Bits -> indexes, as they were needed."""

    @staticmethod
    def of(segments: tuple[Segment, ...]) -> Compiled:
        by_state: dict[str, int] = {}
        by_event: dict[str, int] = {}
        for i, segment in enumerate(segments):
            for leaf in (leaf for c in segment.conditions for leaf in leaves(c)):
                if leaf.event is not None:
                    by_event[leaf.event] = by_event.get(leaf.event, 0) | 1 << i
                    continue
                for name in conditions.reads(leaf):
                    by_state[name] = by_state.get(name, 0) | 1 << i
        config = blake2b(msgspec.json.encode(segments), digest_size=6).hexdigest() if segments else "-"
        return Compiled(
            tuple((s.name, s.when, s.stays) for s in segments),
            tuple(range(len(segments))),
            config,
            by_state,
            by_event,
            {},
        )

    def changed_by(self, event: str | None, changed: Set[str]) -> tuple[int, ...]:
        bits = self.by_event.get(event, 0) if event is not None else 0
        for name in changed:
            bits |= self.by_state.get(name, 0)
        found = self.chosen.get(bits)
        if found is None:
            found = self.chosen[bits] = tuple(i for i in self.all if bits >> i & 1)
        return found


_NONE: Final = Compiled.of(())
_NEW: Final = Segments()


class SegmentSignal(Signal[Segments]):
    name = "segments"
    tells = frozenset((SEGMENT_ENTERED.name, SEGMENT_EXITED.name))
    state_type = Segments
    events: frozenset[str] | None = frozenset()
    settings: frozenset[str] = conditions.SETTINGS
    reads = frozenset(field.reads for field in FIELDS.values())

    def __init__(self) -> None:
        self._settings: Settings | None = None
        self._compiled: dict[str, Compiled] = {}

    def compiled(self, settings: Settings, site: str) -> Compiled:
        if settings is not self._settings:
            self._compiled = {name: Compiled.of(one.segments) for name, one in settings.sites.items()}
            self._settings = settings
        return self._compiled.get(site, _NONE)

    def settles(self, site: Site | None) -> frozenset[str]:
        """`about`, too: everybody is judged once."""
        if site is None or not site.segments:
            return frozenset()
        asked = (leaf for s in site.segments for c in s.conditions for leaf in leaves(c))
        return frozenset(("about", *(name for leaf in asked for name in conditions.reads(leaf))))

    def settle(self, state: Segments | None, now_ms: int, ctx: Context) -> Result:
        rules = self.compiled(ctx.settings, ctx.site)
        before = _NEW if state is None else state
        if not rules.segments and not before.members:
            return Result(state=state)
        if before.config != rules.config:
            reason = "config" if before.config else "event" if state is None else "merge"
            return _judged(before, rules, rules.all, max(now_ms, before.at_ms), reason, ctx)
        now_ms = max(now_ms, before.at_ms)
        if ctx.event is None:
            merged = "about" in ctx.changed or "activity" in ctx.changed
            is_due = before.due_ms is not None and before.due_ms <= now_ms  # at a tie of timers
            which = rules.all if merged or is_due else rules.changed_by(None, ctx.changed)
            return _judged(before, rules, which, now_ms, "merge" if merged else "time", ctx)
        if before.due_ms is not None and before.due_ms <= now_ms:
            which = rules.all
        else:
            which = rules.changed_by(event_label(ctx.event), ctx.changed)
        return _judged(before, rules, which, now_ms, "event", ctx) if which else Result(state=state)

    def fold(self, state: Segments | None, event: object, ctx: Context) -> Result:
        return Result(state=state)

    def due_ms(self, state: Segments) -> int | None:
        return state.due_ms

    def fire(self, state: Segments, now_ms: int, ctx: Context) -> Result:
        rules = self.compiled(ctx.settings, ctx.site)
        triggers: list[Trigger] = []
        gauges: list[tuple[str, int]] = []
        firings = 0
        while state.due_ms is not None and state.due_ms <= now_ms:
            firings += 1
            at_ms = max(state.due_ms if firings < MAX_FIRINGS else now_ms, state.at_ms)
            reason = "time" if state.config == rules.config else "config"
            result = _judged(state, rules, rules.all, at_ms, reason, ctx)
            state = result.state
            triggers += result.triggers
            gauges += result.gauges
        return Result(state=state, triggers=tuple(triggers), gauges=tuple(gauges))

    def merge(self, one: Segments, other: Segments, now_ms: int, ctx: Context) -> Result:
        members = {
            name: min(s.members[name] for s in (one, other) if name in s.members)
            for name in sorted({*one.members, *other.members})
        }
        dues = [s.due_ms for s in (one, other) if s.due_ms is not None]
        return Result(
            state=Segments(
                members, max(one.changes, other.changes), max(one.at_ms, other.at_ms), min(dues, default=None), ""
            )
        )

    def leave(self, state: Segments, winner: str, now_ms: int, ctx: Context) -> tuple[Trigger, ...]:
        known = {name for name, _, _ in self.compiled(ctx.settings, ctx.site).segments}
        return tuple(
            _exit(name, since_ms, now_ms, state.changes + n, "moved", ctx, moved_to=winner)
            for n, (name, since_ms) in enumerate(sorted(state.members.items()), 1)
            if name in known
        )

    def explain(self, state: Segments, now_ms: int, ctx: Context) -> dict[str, Any]:
        """Which segments the profile is in, which not, and when that may change though nothing happens."""
        found: dict[str, list[dict[str, Any]]] = {"in": [], "not_in": []}
        for name, when, stays in self.compiled(ctx.settings, ctx.site).segments:
            since_ms = state.members.get(name)
            _, until = conditions.holds(stays if since_ms is not None else when, now_ms, ctx)
            said: dict[str, Any] = {"segment": name}
            if since_ms is not None:
                said["since"] = rfc3339(since_ms)
            said["may_change"] = rfc3339(until) if until is not None else None
            found["in" if since_ms is not None else "not_in"].append(said)
        return {
            **found,
            "changes": state.changes,
            "changed": rfc3339(state.at_ms) if state.at_ms else None,
            "due": rfc3339(state.due_ms) if state.due_ms is not None else None,
        }

    def gauges(self, state: Segments) -> tuple[tuple[str, int], ...]:
        return tuple((segment_gauge(name), 1) for name in state.members)


def _judged(before: Segments, rules: Compiled, which: tuple[int, ...], at_ms: int, reason: str, ctx: Context) -> Result:
    """The state after these segments (indexes) have been looked at as of `at_ms`."""
    members, changes = before.members, before.changes
    triggers: list[Trigger] = []
    gauges: list[tuple[str, int]] = []
    due_ms = before.due_ms  # If it could be later now: it looks then, which is cheaper than to move it each time.
    if due_ms is not None and (due_ms <= at_ms or before.config != rules.config):
        due_ms = None
    for i in which:
        name, when, stays = rules.segments[i]
        was_in = name in members
        is_in, until = conditions.holds(stays if was_in else when, at_ms, ctx)
        if is_in is not was_in and stays is not when:
            _, until = conditions.holds(stays if is_in else when, at_ms, ctx)
        if until is not None and (due_ms is None or until < due_ms):
            due_ms = max(until, at_ms + 1)
        if is_in is was_in:
            continue
        changes += 1
        if is_in:
            members = {**members, name: at_ms}
            data = SegmentEntered(profile_id=ctx.profile_id, segment=name, reason=reason)
            triggers.append(
                Trigger(kind=SEGMENT_ENTERED, id=_id(name, at_ms, changes, "in", ctx), at_ms=at_ms, data=data)
            )
        else:
            triggers.append(_exit(name, members[name], at_ms, changes, reason, ctx))
            members = {other: since for other, since in members.items() if other != name}
        gauges.append((segment_gauge(name), 1 if is_in else -1))
    if before.config != rules.config:
        known = {name for name, _, _ in rules.segments}
        gauges += [(segment_gauge(name), -1) for name in members if name not in known]
        members = {name: since for name, since in members.items() if name in known}
    if not triggers and due_ms == before.due_ms and before.config == rules.config:
        return Result(state=before)
    after = Segments(members, changes, at_ms if triggers else before.at_ms, due_ms, rules.config)
    return Result(state=after, triggers=tuple(triggers), gauges=tuple(gauges))


def _exit(
    name: str, since_ms: int, at_ms: int, n: int, reason: str, ctx: Context, moved_to: str | None = None
) -> Trigger:
    data = SegmentExited(
        profile_id=ctx.profile_id, segment=name, reason=reason, entered_at_ms=since_ms, moved_to=moved_to,
    )  # fmt: skip
    return Trigger(kind=SEGMENT_EXITED, id=_id(name, at_ms, n, "out", ctx), at_ms=at_ms, data=data)


def _id(name: str, at_ms: int, n: int, way: str, ctx: Context) -> str:
    return emission_id(ctx.site, f"{ctx.profile_id}/{name}/{at_ms}", f"segment_{way}", n)
