"""Who looks at which events: for each site what its configuration asks for, worked out once."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

from msgspec import Struct

from stream.profile import ABOUT
from stream.signals.base import Signal
from tracker.contract.sites import Site

_TYPES: Final = frozenset(("page", "screen", "identify", "group", "alias"))

Step = tuple[Signal[Any], str, bool, bool, frozenset[str]]
"""A signal, its name, whether it folds the event, whether it is asked first if it is idle, and what it settles by."""


class Plan(Struct, frozen=True):
    """Who looks at which events of a site: of sites whose configurations ask for the same it is one."""

    for_all: tuple[Step, ...]
    """Of an event that no signal asks for by its name."""
    steps: dict[str, tuple[Step, ...]]
    """By the name of a track event."""
    by_type: dict[str, tuple[Step, ...]]
    """Of other calls."""
    settlers: tuple[tuple[Signal[Any], frozenset[str]], ...]
    """Who settles, by what."""


def plan_of(signals: tuple[Signal[Any], ...], site: Site | None, known: dict[Any, Plan]) -> Plan:
    asked = tuple((s.asks(site), s.settles(site)) for s in signals)
    if (plan := known.get(asked)) is not None:
        return plan

    def steps(event: str | None, type: str = "track") -> tuple[Step, ...]:
        label = event if type == "track" else type
        out = []
        may_change = {ABOUT}
        for s, (names, reads) in zip(signals, asked, strict=True):
            folds = names is None or label in names or type in s.types
            if folds or not reads.isdisjoint(may_change):  # who reads what this event does not change has no step
                may_change.add(s.name)
                out.append((s, s.name, folds, s.__class__.idle is not Signal.idle, reads))
        return tuple(out)

    names = {name for each, _ in asked for name in each or ()}
    types = {type for s in signals for type in s.types} | (names & _TYPES)
    plan = known[asked] = Plan(
        for_all=steps(None),
        steps={name: steps(name) for name in names},
        by_type={type: steps(None, type) for type in types},
        settlers=tuple((s, reads) for s, (_, reads) in zip(signals, asked, strict=True) if reads),
    )
    return plan


def check_reads(signals: Sequence[Signal[Any]]) -> None:
    """Raises ValueError, one line, when a signal reads what is not registered before it."""
    before = {ABOUT}
    for signal in signals:
        if unknown := signal.reads - before:
            raise ValueError(f"signal `{signal.name}` reads `{min(unknown)}`, which is not registered before it")
        before.add(signal.name)
