"""Timers of profiles: those that are due fire, in their order; one that fails is put off, and the others go on.

A signal's timer is in its state (Signal.due_ms); the earliest of a profile is Profile.due_ms, which Redis keeps an
index of.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from typing import Any, Final

from stream.effects import Effects
from stream.keeping import Keeper
from stream.profile import Profile
from stream.signals.base import Signal
from tracker.contract.durations import HOUR_MS

log = logging.getLogger(__name__)

TRY_AGAIN_MS: Final = HOUR_MS
MAX_STEPS: Final = 1000
"""Timers of a profile that fire one by one between two records; then what is left of a signal fires as one."""


class Timers:
    """Fires the timers of the registered signals."""

    def __init__(self, signals: Sequence[Signal[Any]], keeper: Keeper) -> None:
        self._keeper = keeper
        self._read = frozenset().union(*(s.reads for s in signals))
        """What is read of others, by any signal."""

    def fire_all(
        self,
        clock_ms: int,
        profiles: Mapping[tuple[str, str], Profile],
        due: Sequence[tuple[str, str]],
        fx: Effects,
    ) -> None:
        """Every timer due <= clock_ms, of profiles due before the chunk or touched by it, earliest first."""
        candidates = {key: profiles[key] for key in due}
        for key, profile in candidates.items():
            if profile.due_ms is None or profile.due_ms > clock_ms:
                fx.touched[key] = profile  # The index is behind: the profile expired, or its signal is gone.
        candidates.update(fx.touched)
        ready = sorted(
            (p.due_ms, p.site, p.id, key)
            for key, p in candidates.items()
            if p.due_ms is not None and p.due_ms <= clock_ms
        )
        for _, _, _, key in ready:
            profile = candidates[key]
            self.fire(profile, clock_ms, clock_ms, fx)
            fx.touched[key] = profile

    def fire(self, profile: Profile, until_ms: int, now_ms: int, fx: Effects) -> None:
        """Fire the profile's timers due <= until_ms. `now_ms`: the log's time, for what is stale.

        In the order of their due times, and what reads a signal settles at its time: so what follows from several
        timers has the time at which it became true, also when the clock has jumped over all of them."""
        steps = 0
        while (first := self._first_due(profile, until_ms)) is not None:
            due, signal = first
            steps += 1
            to_ms = due if signal.reads and steps < MAX_STEPS else until_ms
            before = profile.states[signal.name]
            try:
                result = signal.fire(before, to_ms, self._keeper.context(profile, due))
                after = signal.due_ms(result.state if result.state is not None else before)
                self._keeper.keep(profile, signal, result, now_ms, fx)
            except Exception:
                # Its state stays as it is, to be fired when the signal is mended; the others go on.
                log.exception("Signal %s failed at its timer for profile %s", signal.name, profile.part)
                self._put_off(profile, signal, until_ms, fx)
                continue
            state = profile.states[signal.name]
            if after is not None and after <= to_ms:
                log.error("Signal %s left a timer due that it had fired", signal.name)  # It would fire for ever.
                self._put_off(profile, signal, until_ms, fx)
            if state is not before and signal.name in self._read:
                self._keeper.settle(profile, {signal.name}, due, now_ms, fx)
        profile.due_ms = self._keeper.codec.due_ms(profile)

    def put_aside(self, profile: Profile, until_ms: int, clock_ms: int) -> Effects:
        """The effects where those of a profile's timers due <= until_ms can't be written: they are tried again later,
        its state stays as it is."""
        fx = Effects.none(clock_ms)
        while (first := self._first_due(profile, until_ms)) is not None:
            log.error("What signal %s makes at its timer of profile %s can't be written", first[1].name, profile.part)
            self._put_off(profile, first[1], until_ms, fx)
        profile.due_ms = self._keeper.codec.due_ms(profile)
        fx.touched[profile.site, profile.id] = profile
        return fx

    @staticmethod
    def _put_off(profile: Profile, signal: Signal[Any], until_ms: int, fx: Effects) -> None:
        profile.broken[signal.name] = until_ms + TRY_AGAIN_MS
        fx.count("timers_failed_total", profile.site)

    def _first_due(self, profile: Profile, until_ms: int) -> tuple[int, Signal[Any]] | None:
        """The earliest timer due <= until_ms, at a tie of the signal registered first."""
        found = None
        for signal in self._keeper.stateful:
            state = profile.states.get(signal.name)
            if state is None:
                continue
            due = signal.due_ms(state)
            if due is None or due > until_ms or profile.broken.get(signal.name, 0) > until_ms:
                continue
            if found is None or due < found[0]:
                found = (due, signal)
        return found
