"""A profile in a worker's memory and as a Redis hash: `about` (who it is) and one field a signal, all JSON."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

import msgspec
from msgspec import Struct

from stream.redis_store import binary
from stream.signals.base import Signal
from tracker.contract.events import MAX_ID_CHARS, ProfileEvent

MAX_ANONYMOUS_IDS: Final = 10
MAX_TRAITS: Final = 64
MAX_TRAITS_BYTES: Final = 8192
ABOUT: Final = "about"

_encode = msgspec.json.Encoder().encode


class About(Struct, omit_defaults=True):
    """Who a profile is."""

    first_seen_ms: int
    last_seen_ms: int
    events: int = 0
    user_id: str | None = None
    anonymous_ids: list[str] = []
    """The latest, at most ten."""
    traits: dict[str, Any] = {}
    traits_ms: dict[str, int] = {}
    """When each trait was said: the last writer by event time wins, whatever comes in which order."""


_about = msgspec.json.Decoder(About)
_traits = msgspec.json.Decoder(dict[str, Any])


class Profile:
    """One profile: mutable by its partition's owner only."""

    __slots__ = ("about", "broken", "changed", "due_ms", "id", "site", "states", "stored_due_ms")

    def __init__(self, site: str, id: str) -> None:
        self.site = site
        self.id = id
        self.about: About | None = None
        self.states: dict[str, Any] = {}
        self.changed: set[str] = set()
        """Fields to write."""
        self.broken: dict[str, int] = {}
        """Signals whose timer failed: when to try again, ms."""
        self.due_ms: int | None = None
        """The earliest due time of all signals' timers."""
        self.stored_due_ms: int | None = None

    @property
    def part(self) -> str:
        """SITE:PID, the profile's part of its key."""
        return f"{self.site}:{self.id}"

    def see(self, event: ProfileEvent) -> None:
        """Take up who the event is from and when it was."""
        ts = event.timestamp_ms
        about = self.about
        if about is None:
            about = self.about = About(first_seen_ms=ts, last_seen_ms=ts)
        about.events += 1
        if ts > about.last_seen_ms:
            about.last_seen_ms = ts
        elif ts < about.first_seen_ms:
            about.first_seen_ms = ts
        if event.user_id is not None and about.user_id is None:
            about.user_id = event.user_id
        anonymous_id = event.anonymous_id
        if anonymous_id is not None and anonymous_id not in about.anonymous_ids:
            about.anonymous_ids = [*about.anonymous_ids[1 - MAX_ANONYMOUS_IDS :], anonymous_id]
        if event.type == "identify" and event.traits is not msgspec.UNSET:
            self._take_traits(about, event)
        self.changed.add(ABOUT)

    def _take_traits(self, about: About, event: ProfileEvent) -> None:
        if len(event.traits) > MAX_TRAITS_BYTES:  # type: ignore[arg-type]  # not UNSET, see above
            return
        try:
            traits = _traits.decode(event.traits)  # type: ignore[arg-type]
        except msgspec.DecodeError:
            return  # null, or no object: nothing said
        for name, value in traits.items():
            if len(name) > MAX_ID_CHARS or (name not in about.traits and len(about.traits) >= MAX_TRAITS):
                continue
            if event.timestamp_ms >= about.traits_ms.get(name, 0):
                about.traits = {**about.traits, name: value}
                about.traits_ms[name] = event.timestamp_ms


class ProfileCodec:
    """Profiles <-> their hashes, for a set of signals."""

    def __init__(self, signals: Sequence[Signal[Any]]) -> None:
        self._decoders = {s.name: msgspec.json.Decoder(s.state_type) for s in signals if s.state_type is not type(None)}
        self._signals = [s for s in signals if s.name in self._decoders]

    def decode(self, site: str, id: str, fields: Sequence[str]) -> Profile:
        """`fields`: field, value, field, value, ... as HGETALL gives them. Unknown fields stay in Redis untouched.

        Raises msgspec.DecodeError when a state can't be read: the worker must stop, not overwrite it.
        """
        profile = Profile(site, id)
        for i in range(0, len(fields), 2):
            name = fields[i]
            if name == ABOUT:
                profile.about = _about.decode(fields[i + 1])
            elif (decoder := self._decoders.get(name)) is not None:
                profile.states[name] = decoder.decode(fields[i + 1])
        profile.due_ms = profile.stored_due_ms = self.due_ms(profile)
        return profile

    def due_ms(self, profile: Profile) -> int | None:
        dues = [
            max(due, profile.broken.get(s.name, due)) for s in self._signals
            if (state := profile.states.get(s.name)) is not None and (due := s.due_ms(state)) is not None
        ]  # fmt: skip
        return min(dues, default=None)

    def write(self, profile: Profile) -> list[Any]:
        """[SITE:PID, [field, value, ...]] of what changed."""
        fields: list[Any] = []
        for name in profile.changed:
            fields.append(name)
            fields.append(binary(_encode(profile.about if name == ABOUT else profile.states[name])))
        return [profile.part, fields]
