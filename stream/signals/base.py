"""What a signal is: a pure fold over one profile's events. The shell (stream/fold.py) keeps its state and its timers.

A signal takes values and returns values: no clock, no I/O, no randomness. Its state is a msgspec Struct, stored as JSON
in the profile's hash under the signal's name. Adding one = one file here and one line in stream/signals/__init__.py;
docs/signals-howto.md shows it.

Order is guaranteed by the shell: before an event is folded, the profile's timers due <= the event's timestamp have
fired; clock records fire the rest. Events may come late (timestamp below that of an earlier one): a signal for which
order matters keeps what it needs to fold again.

A signal may look at others' states: those that it names in `reads`, which are registered before it. It sees them in
`ctx.states`, and its `settle` is called when one of them has changed.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Set
from typing import Any, Final, Generic, Protocol, TypeVar

import msgspec
from msgspec import Struct

from tracker.contract.durations import MINUTE_MS
from tracker.contract.events import VISIT_CHANNELS, ProfileEvent
from tracker.contract.keys import ENGAGED
from tracker.contract.models import Models
from tracker.contract.settings import Settings
from tracker.contract.sites import DEFAULT_TIME_ZONE, Site
from tracker.contract.triggers import TriggerKind
from tracker.contract.windows import Zone

DECIDING: Final = frozenset(("contact", "gate"))
"""Signals that every other one needs: they know who may be told what."""


class Seen(Protocol):
    """What the shell knows of when a profile was active (stream/profile.py: About)."""

    first_seen_ms: int
    last_seen_ms: int
    channels: dict[str, int]
    """Channel -> minute (since the epoch) of the last event there."""


class Context(Struct, frozen=True):
    """What a fold may know besides the event."""

    site: str
    profile_id: str
    user_id: str | None
    anonymous_id: str | None
    traits: dict[str, Any] | None
    utc_offset_ms: int
    """The site's time zone at the event's or timer's time: local day = (ts + utc_offset_ms) // DAY_MS."""
    settings: Settings
    zone: Zone = Zone(DEFAULT_TIME_ZONE)
    """That time zone: for days that are not the event's or timer's."""
    models: Models = {}
    """Parameters by (site, signal), as they stand in the log before the event."""
    states: Mapping[str, Any] = {}
    """The profile's states by signal, for one that names them in `reads`: as they are after the event, or the timer."""
    changed: Set[str] = frozenset()
    """In `settle`: what has changed, of any signal; of what is read it is some."""
    event: ProfileEvent | None = None
    """In `settle`: the event that it follows; None: a timer or a merge."""
    e50: float | None = None
    """In `explain`: the median score of the site's active visitors, where it is known."""
    seen: Seen | None = None
    """When the profile had events, of whatever kind; None: it has had none yet."""

    @property
    def first_seen_ms(self) -> int | None:
        return None if self.seen is None else self.seen.first_seen_ms

    def last_visit_ms(self) -> int | None:
        """When the person was last here, known to the minute: exactly where nothing came in it after that."""
        if (seen := self.seen) is None:
            return None
        minute = max((seen.channels[c] for c in VISIT_CHANNELS if c in seen.channels), default=None)
        return None if minute is None else min(seen.last_seen_ms, minute * MINUTE_MS + 59_999)


class Trigger(Struct, frozen=True, kw_only=True):
    """A trigger to publish, or, with `suppressed`, one to count only."""

    kind: TriggerKind
    id: str
    at_ms: int
    """When it became true: the timer's due time, or the event's."""
    data: Struct
    suppressed: str | None = None
    """Why it is not published: a reason of the closed set in stream/metrics.py."""
    told_by: str | None = None
    """Of one that the gate had held back: the signal that told it."""
    held_until_ms: int = 0
    """Of the same: until when."""


class Result(Struct, frozen=True, kw_only=True):
    """What a fold or a timer gives: the new state and everything that follows from it."""

    state: Any
    triggers: tuple[Trigger, ...] = ()
    counts: tuple[tuple[str, int], ...] = ()
    """(field, n): added to the site's counters at the event's time (tracker/contract/keys.py makes fields)."""
    counts_at: tuple[tuple[str, int, int], ...] = ()
    """(field, n, ms): the same at another time than the event's; also of a timer or a merge."""
    gauges: tuple[tuple[str, int], ...] = ()
    """(field, difference): for example ('carts_open', +1). Summed by site and partition in Redis."""
    metrics: tuple[tuple[str, tuple[str, ...], float], ...] = ()
    """(name, label values, n): counters of stream/metrics.py, for Prometheus."""
    emitted: tuple[Any, ...] = ()
    """What happened, in the signal's own values, told or not: `describe` says it in words. For `tracker fold`."""
    undone: tuple[Any, ...] = ()
    """What was emitted before and, by a late event, did not happen after all."""
    sums: tuple[tuple[str, float, float], ...] = ()
    """(indicator, half-life in days, log2): added to the site's decayed sums, see stream/core/score.py."""
    sums_back: tuple[tuple[str, float, float], ...] = ()
    """The same: added before and, by a late event or a merge, not so after all."""
    engaged: bool = False
    """The event shows it: the profile is among the signal's `audience`."""


S = TypeVar("S")
R = TypeVar("R")


class PerSite(Generic[R]):
    """What a signal makes of a site's configuration (None: a site that has none), once for each Settings."""

    def __init__(self, make: Callable[[Settings, Site | None], R]) -> None:
        self._make = make
        self._settings: Settings | None = None
        self._made: dict[str, R] = {}

    def __call__(self, settings: Settings, site: str) -> R:
        if settings is not self._settings:
            self._settings, self._made = settings, {}
        found = self._made.get(site)
        if found is None:
            found = self._made[site] = self._make(settings, settings.sites.get(site))
        return found


class Latest(Generic[S, R]):
    """A function of a state that keeps its last answer: a site's segments ask the same of one state, one by one."""

    def __init__(self, find: Callable[[S], R]) -> None:
        self._find = find
        self._last: tuple[S, R] | None = None

    def __call__(self, state: S) -> R:
        last = self._last
        if last is None or last[0] is not state:
            last = self._last = (state, self._find(state))
        return last[1]


class Signal(ABC, Generic[S]):
    name: str
    """Field in the profile's hash."""
    state_type: type[S]
    """type(None): it keeps nothing."""
    events: frozenset[str] | None
    """Names of the track events it reads; None = every event of every type."""
    types: frozenset[str] = frozenset()
    """Types of calls that it reads besides ('identify', ...)."""
    settings: frozenset[str]
    """Names of the settings it reads; it may read no others."""
    reads: frozenset[str] = frozenset()
    """Signals whose states it looks at, all registered before it; `about`: the profile's traits and user id."""
    audience: str = ENGAGED
    """Which of the site's visitors are those of whom a Result says `engaged` (tracker/contract/keys.py)."""
    tells: frozenset[str] = frozenset()
    """Names of the kinds of triggers that come of it."""
    version = 1
    """Of the state as it is stored: raised with every change after which `state_type` can't decode what was stored."""

    def migrate(self, version: int, fields: dict[str, Any]) -> dict[str, Any]:
        """The JSON fields of a state stored under an older version (any of them) -> those of this one."""
        raise NotImplementedError(f"{self.name}: version {self.version} needs a `migrate` from version {version}")

    def asks(self, site: Site | None) -> frozenset[str] | None:
        """Of `events` those that it reads by this site's configuration (None: every event); a call that is no track
        event goes by its type ('page', ...). Events that no signal asks for cost next to nothing."""
        return self.events

    def settles(self, site: Site | None) -> frozenset[str]:
        """Of what it `reads` that by which, by this site's configuration, anything can follow."""
        return self.reads if type(self).settle is not Signal.settle else frozenset()

    def idle(self, state: S | None, event: ProfileEvent, utc_offset_ms: int) -> bool:
        """Whether `fold` would give the same state and nothing else: asked first of a signal that reads every event, as
        it costs less. False is always right."""
        return False

    def glance(self, state: S | None, event: ProfileEvent, utc_offset_ms: int) -> S | None:
        """The state that `fold` would give, where nothing else follows from it: no trigger, no other due time, nothing
        for a signal that reads it. None, which is always right: `fold` has to say."""
        return None

    @abstractmethod
    def fold(self, state: S | None, event: ProfileEvent, ctx: Context) -> Result: ...

    def due_ms(self, state: S) -> int | None:
        """Due time of the state's earliest timer, ms; None = no timer."""
        return None

    def fire(self, state: S, now_ms: int, ctx: Context) -> Result:
        """Fire every timer due <= now_ms, in order of their due times. The new state's due_ms is then > now_ms."""
        return Result(state=state)

    def merge(self, one: S, other: S, now_ms: int, ctx: Context) -> Result:
        """The states of two profiles that are one person, as one: the same whichever comes first. `one` is the state of
        the profile that stays, `ctx` its; now_ms: the clock in the log. Triggers must not tell what was told before.
        Gauges are the shell's, by `gauges`. Whoever has a state has this."""
        raise NotImplementedError(f"{self.name} does not say how two states become one")

    def settle(self, state: S | None, now_ms: int, ctx: Context) -> Result:
        """Something that it `reads` has changed, by an event, a timer or a merge, or its own `fold` has changed its
        state: what follows from it. Called once an event, and also when nothing of concern has changed: then it gives
        nothing new.
        now_ms: the event's or timer's time, of an event that comes late the clock's in the log. It does not always
        rise: a client's clock may be ahead."""
        return Result(state=state)

    def leave(self, state: S, winner: str, now_ms: int, ctx: Context) -> tuple[Trigger, ...]:
        """The profile is no more, it was merged into `winner`: what subscribers need to be told of it itself."""
        return ()

    def still_true(self, state: S, kind: TriggerKind, data: Any) -> bool:
        """Whether what a trigger said, which has waited for the end of quiet hours, is still so. `data`: what it said.
        Else it is dropped: nobody wants to be reminded in the morning of what they bought in the night."""
        return True

    def gauges(self, state: S) -> tuple[tuple[str, int], ...]:
        """What the state contributes to the gauges: the sum of all differences that led to it."""
        return ()

    def explain(self, state: S, now_ms: int, ctx: Context) -> dict[str, Any]:
        """The state for a person to read: plain JSON values, times as RFC 3339. By default as it is stored."""
        fields: dict[str, Any] = msgspec.to_builtins(state)
        return fields

    def shown(self, fields: dict[str, Any]) -> dict[str, Any]:
        """The stored state (JSON) as the read API shows it: for where people go by other numbers than it does."""
        return fields

    def describe(self, emitted: Any, ctx: Context) -> dict[str, Any]:
        """One of Result.emitted or .undone for a person to read: `type`, `time` (RFC 3339) and what belongs to it;
        `id` where it was told in a trigger. Signals that emit nothing need none: their triggers are described."""
        raise NotImplementedError(f"{self.name} does not say how to describe what it emits")

    ranks = False
    """Whether profiles are ranked by its state (at most one signal's): by `rank` and what follows it here."""

    def rank(self, state: S, site: str, settings: Settings) -> float | None:
        """The profile's place in the site's ranking; None: it has none."""
        return None

    def engaged_ms(self, state: S) -> int:
        """When the profile was last engaged; 0: never."""
        return 0

    def least_rank(self, site: str, settings: Settings, now_ms: int) -> float | None:
        """Ranks below it have no place any more."""
        return None

    def rank_rules(self, site: str, settings: Settings) -> str:
        """Names the rules of the site's ranks: others when any rank may have become another."""
        return ""

    def revise(self, state: S, now_ms: int, ctx: Context) -> Result:
        """The state under other rules: its ranks' were changed."""
        return Result(state=state)
