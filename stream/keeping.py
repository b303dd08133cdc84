"""What a signal says of a profile is kept: its state in the profile, its counts and triggers in the chunk's effects.

Signals are asked at an event (stream/fold.py), at a timer (stream/fold_timers.py) and when profiles become one
(stream/fold_merges.py). What they answer goes the same way from all three: through `Keeper.keep`. What follows from it
for the signals that read it is in `Keeper.settle`; at an event, where each signal is asked but once, in stream/fold.py.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence, Set
from typing import Any, Protocol

from stream.effects import Effects, Outgoing, place_of
from stream.plans import Plan, check_reads, plan_of
from stream.profile import Profile, ProfileCodec, context_of
from stream.signals.base import Context, Result, Signal, Trigger
from stream.telling import Teller
from tracker.contract.events import MAX_TIME_MS
from tracker.contract.models import Models
from tracker.contract.settings import Settings
from tracker.contract.sites import DEFAULT_TIME_ZONE
from tracker.contract.windows import Zone

log = logging.getLogger(__name__)


class Listener(Protocol):
    """Who is told what signals say, as it is kept (stream/what_if.py). A worker has none."""

    def told(
        self,
        signal: Signal[Any],
        trigger: Trigger,
        published: Sequence[Outgoing],
        suppressed: Sequence[tuple[str, str]],
    ) -> None:
        """A trigger of the signal, and what became of it. Neither: it is held back. `suppressed`: (kind, reason)."""

    def kept(self, signal: Signal[Any], result: Result, ctx: Context) -> None:
        """All that the signal said; its triggers have been told."""


class Keeper:
    """Keeps what the registered signals say, by the settings of their sites."""

    def __init__(self, signals: Sequence[Signal[Any]], settings: Settings, listener: Listener | None = None) -> None:
        check_reads(signals)
        self.codec = ProfileCodec(signals)
        self.stateful = [s for s in signals if s.state_type is not type(None)]
        self.models: Models = {}
        """Those of the fold under way, where it stands in the log."""
        self._signals = tuple(signals)
        self._zone = Zone(DEFAULT_TIME_ZONE)
        self._teller = Teller(signals, self.codec, self.zone)
        self._listener = listener
        self.reconfigure(settings)

    def reconfigure(self, settings: Settings) -> None:
        self.settings = settings
        plans: dict[Any, Plan] = {}
        self._plans = {name: plan_of(self._signals, site, plans) for name, site in settings.sites.items()}
        self._plan = plan_of(self._signals, None, plans)
        self._teller.reconfigure(settings)
        self._zones = {name: Zone(site.time_zone) for name, site in settings.sites.items()}

    def zone(self, site: str) -> Zone:
        return self._zones.get(site, self._zone)

    def plan(self, site: str) -> Plan:
        return self._plans.get(site, self._plan)

    def context(self, profile: Profile, ts_ms: int, changed: Set[str] = frozenset()) -> Context:
        return context_of(profile, self.zone(profile.site), ts_ms, self.settings, self.models, profile.states, changed)

    def keep(self, profile: Profile, signal: Signal[Any], result: Result, now_ms: int, fx: Effects) -> None:
        """`now_ms`: the log's time, for what is stale. Where a trigger can't be told, it raises, and none of the
        result is kept."""
        for _, _, ms in result.counts_at:
            if abs(ms) > 2 * MAX_TIME_MS:  # weeks and gaps begin before, and end after, the times that events may have
                raise ValueError(f"{signal.name} counts at {ms}, which is no time")
        state, name, states = result.state, signal.name, profile.states
        before = dict(states) if result.triggers else states
        if state is not None and state is not states.get(name):
            states[name] = state
            profile.changed.add(name)
        if result.triggers:
            told = len(fx.triggers)
            try:
                for trigger in result.triggers:
                    self.tell(profile, signal, trigger, now_ms, fx)
            except Exception:
                put_back(profile, before, told, fx)
                raise
        if result.sums or result.sums_back:
            fx.add_sums(profile.site, result.sums, result.sums_back)
        if result.gauges:
            fx.gauge(profile.site, result.gauges)
        for field, more, ms in result.counts_at:
            extra = fx.extra.setdefault((profile.site, place_of(ms, now_ms)), {})
            extra[field] = extra.get(field, 0) + more
        for metric, labels, n in result.metrics:
            fx.count(metric, *labels, n=n)
        if self._listener is not None:
            self._listener.kept(signal, result, self.context(profile, now_ms))

    def tell(self, profile: Profile, signal: Signal[Any], trigger: Trigger, now_ms: int, fx: Effects) -> None:
        """Of a trigger alone; those of a result are told by `keep`."""
        published, suppressed = len(fx.triggers), len(fx.suppressed)
        self._teller.tell(profile, signal, trigger, now_ms, fx)
        if self._listener is not None:
            self._listener.told(signal, trigger, fx.triggers[published:], fx.suppressed[suppressed:])

    def settle(self, profile: Profile, changed: set[str], at_ms: int, now_ms: int, fx: Effects) -> None:
        """`changed` of the profile is new, by a timer or a merge: what follows from it for the signals that read it.
        `now_ms`: the log's time, for what is stale."""
        for signal, reads in self.plan(profile.site).settlers:
            if signal.name not in changed and reads.isdisjoint(changed):
                continue
            before = profile.states.get(signal.name)
            try:
                result = signal.settle(before, at_ms, self.context(profile, at_ms, changed))
                self.keep(profile, signal, result, now_ms, fx)
            except Exception:
                # Its state stays as it is, until the next change.
                log.exception("Signal %s failed on what it reads of a profile of site %s", signal.name, profile.site)
                continue
            if profile.states.get(signal.name) is not before:
                changed.add(signal.name)


def put_back(profile: Profile, states: dict[str, Any], told: int, fx: Effects) -> None:
    """The states that a profile had, and no trigger beyond the first `told`: what failed half way has no effect."""
    profile.changed -= profile.states.keys() - states.keys()
    profile.states = states
    del fx.triggers[told:]
