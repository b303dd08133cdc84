"""A profile in a worker's memory and as a Redis hash: `about` (who it is) and one field a signal, all JSON."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence, Set
from math import inf
from time import time
from typing import Annotated, Any, Final

import msgspec
from msgspec import Meta, Struct
from msgspec.structs import replace

from stream.core.parts import read_part
from stream.packing import binary
from stream.signals.base import DECIDING, Context, Signal
from stream.stored import StateError, Stored
from tracker.contract.durations import HOUR_S, MINUTE_MS
from tracker.contract.events import MAX_ID_CHARS, MAX_TIME_MS, Place, ProfileEvent, Time
from tracker.contract.ids import usable
from tracker.contract.models import Models
from tracker.contract.settings import Settings
from tracker.contract.windows import Zone

MAX_ANONYMOUS_IDS: Final = 10
MAX_TRAITS: Final = 64
MAX_TRAITS_BYTES: Final = 16 * 1024
"""Of all traits of a profile, as JSON: they are written anew with every chunk that the profile has a part in."""
MAX_TRAIT_DEPTH: Final = 32
"""As the endpoint takes; what is nested deeper may be written, but not read again."""
MAX_GROUPS: Final = 20
ABOUT: Final = "about"
PROFILE_BYTES: Final = 1200
MEMORY_PER_JSON: Final = 4
"""Memory of a profile = PROFILE_BYTES + its JSON times this: docs/stream.md says what was measured."""

MERGED: Final = "merged"
"""Field of a profile that is no more: the id of the one it was merged into, as JSON."""
ARRIVING: Final = "arriving"
"""Field: parts of a merged profile's large fields, until the last one is there (stream/handover.py)."""
FIELDS: Final = frozenset((ABOUT, MERGED, ARRIVING))
"""The profile's own; all others are signals'."""

Minute = Annotated[int, Meta(ge=0, le=MAX_TIME_MS // MINUTE_MS)]

_encode = msgspec.json.Encoder().encode


class About(Struct, omit_defaults=True):
    """Who a profile is."""

    first_seen_ms: Time
    last_seen_ms: Time
    events: Place = 0
    user_id: str | None = None
    anonymous_ids: list[str] = []
    """The latest, at most ten."""
    traits: dict[str, Any] = {}
    traits_ms: dict[str, Time] = {}
    """When each trait was said: the last writer by event time wins, whatever comes in which order."""
    channels: dict[str, Minute] = {}
    """Channel -> the minute (since the epoch) of the last event there: of a merge, the later of both."""
    groups: dict[str, Time] = {}
    """groupId -> when a group call said so last, ms; the latest, at most twenty."""


_about = msgspec.json.Decoder(About)
_traits = msgspec.json.Decoder(dict[str, Any])
_id = msgspec.json.Decoder(str)
_texts = msgspec.json.Decoder(dict[str, str])


class Profile:
    """One profile: mutable by its partition's owner only."""

    __slots__ = (
        "about", "arriving", "broken", "changed", "due_ms", "id", "json_bytes", "kept_s", "merged_into", "site",
        "states", "stored_due_ms",
    )  # fmt: skip

    def __init__(self, site: str, id: str) -> None:
        self.site = site
        self.id = id
        self.about: About | None = None
        self.states: dict[str, Any] = {}
        self.changed: set[str] = set()
        """Fields to write."""
        self.json_bytes: dict[str, int] = {}
        """Length of each field in Redis: what the profile takes in memory goes by it."""
        self.merged_into: str | None = None
        """The profile that this one is now; it has nothing else then."""
        self.arriving: dict[str, str] = {}
        self.broken: dict[str, int] = {}
        """Signals whose timer failed: when to try again, ms."""
        self.due_ms: int | None = None
        """The earliest due time of all signals' timers."""
        self.stored_due_ms: int | None = None
        self.kept_s = 0.0
        """When it was used last (ProfileCache)."""

    @property
    def part(self) -> str:
        """SITE:PID, the profile's part of its key."""
        return f"{self.site}:{self.id}"

    def see(self, event: ProfileEvent) -> int:
        """Take up who the event is from and when it was: how many traits had no room."""
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
            about.user_id = usable(event.user_id)
        anonymous_id = event.anonymous_id
        if anonymous_id is not None and anonymous_id not in about.anonymous_ids and usable(anonymous_id) is not None:
            about.anonymous_ids = [*about.anonymous_ids[1 - MAX_ANONYMOUS_IDS :], anonymous_id]
        if event.type == "group" and event.group_id is not None:
            about.groups = _latest({**about.groups, event.group_id: max(ts, about.groups.get(event.group_id, 0))})
        self.changed.add(ABOUT)
        if event.type == "identify" and event.traits is not msgspec.UNSET:
            return self._take_traits(about, event)
        return 0

    def _take_traits(self, about: About, event: ProfileEvent) -> int:
        said = read_part(_traits, event.traits)
        if not said:
            return 0  # null, or no object: nothing said
        traits, size, left_out, taken = dict(about.traits), len(_encode(about.traits)), 0, False
        for name, value in said.items():
            if event.timestamp_ms < about.traits_ms.get(name, 0):
                continue
            more = _trait_bytes(name, value) - (_trait_bytes(name, traits[name]) if name in traits else 0)
            if (
                len(name) > MAX_ID_CHARS
                or (name not in traits and len(traits) >= MAX_TRAITS)
                or (more > 0 and size + more > MAX_TRAITS_BYTES)
                or _is_deep(value)
            ):
                left_out += 1
                continue
            traits[name] = value
            about.traits_ms[name] = event.timestamp_ms
            size += more
            taken = True
        if taken:
            about.traits = traits
        return left_out


def _trait_bytes(name: str, value: Any) -> int:
    """Of `"name":value,`."""
    return len(_encode(name)) + len(_encode(value)) + 2


def _is_deep(value: Any) -> bool:
    """Nested deeper than MAX_TRAIT_DEPTH. Level by level: however deep it is."""
    level, depth = [value], 0
    while level := [v for v in level if isinstance(v, dict | list)]:
        level = [inner for v in level for inner in (v.values() if isinstance(v, dict) else v)]
        depth += 1
        if depth > MAX_TRAIT_DEPTH:
            return True
    return False


class ProfileCache:
    """The profiles that a worker keeps of all its partitions, those used last, within a number of bytes.

    A partition's owner takes a `view` when it claims it, and puts a profile back when its changes are in Redis. What an
    owner kept that has lost its claim is in no other's view, and goes as the oldest when room is needed. What has been
    silent for so long that Redis forgets it is forgotten here, too, and an hour before: it would come back to life.
    """

    def __init__(self, max_bytes: int, ttl_s: float = inf, now_s: Callable[[], float] = time) -> None:
        """`now_s`: seconds since 1970, for Redis goes by that."""
        self.max_bytes = max_bytes
        self._silent_s = ttl_s - HOUR_S
        self._now_s = now_s
        self.bytes = 0
        self._sizes: OrderedDict[Profile, tuple[int, CacheView]] = OrderedDict()
        """The one used last at the end -> its size, where it is."""

    def __len__(self) -> int:
        return len(self._sizes)

    def view(self) -> CacheView:
        return CacheView(self)

    def keep(self, view: CacheView, profiles: Iterable[Profile]) -> None:
        sizes, total, now_s = self._sizes, self.bytes, self._now_s()
        for profile in profiles:
            profile.kept_s = now_s
            size = PROFILE_BYTES + sum(profile.json_bytes.values()) * MEMORY_PER_JSON
            before = sizes.get(profile)
            if before is None:
                if (other := view.profiles.get((profile.site, profile.id))) is not None:
                    total -= sizes.pop(other)[0]
                sizes[profile] = (size, view)
                total += size
                view.profiles[profile.site, profile.id] = profile
            else:
                if before[0] != size:
                    sizes[profile] = (size, view)
                    total += size - before[0]
                sizes.move_to_end(profile)
        oldest_s = now_s - self._silent_s
        while sizes and (total > self.max_bytes or next(iter(sizes)).kept_s < oldest_s):
            profile, (size, where) = sizes.popitem(last=False)
            total -= size
            del where.profiles[profile.site, profile.id]
        self.bytes = total

    def forget(self, profiles: Iterable[Profile]) -> None:
        for profile in profiles:
            if profile in self._sizes:
                size, where = self._sizes.pop(profile)
                self.bytes -= size
                del where.profiles[profile.site, profile.id]


class CacheView:
    """What one claim of a partition sees of the cache."""

    def __init__(self, cache: ProfileCache) -> None:
        self._cache = cache
        self.profiles: dict[tuple[str, str], Profile] = {}
        self.get = self.profiles.get

    def keep(self, profiles: Iterable[Profile]) -> None:
        """Profiles as they are in Redis now, the last used ones: those of `get`, and such as it did not have."""
        self._cache.keep(self, profiles)

    def forget(self, profiles: Iterable[Profile]) -> None:
        """Profiles that are not as they are in Redis."""
        self._cache.forget(profiles)


def _latest(groups: dict[str, int]) -> dict[str, int]:
    return dict(sorted(groups.items(), key=lambda item: (item[1], item[0]))[-MAX_GROUPS:])


def merge_about(one: About | None, other: About) -> About:
    """Both as one person, whichever comes first: first seen earliest, each trait's last writer by event time; at a tie
    that of the profile that was seen first."""
    if one is None:
        return _with_traits(other, {n: (other.traits_ms.get(n, 0), value) for n, value in other.traits.items()})
    # Whatever depends on an order goes by this one, so that it does not matter who is handed over to whom.
    older, newer = sorted((one, other), key=lambda a: (a.first_seen_ms, a.last_seen_ms, _encode(a)))
    said: dict[str, tuple[int, Any]] = {}
    for about in (older, newer):
        for name, value in about.traits.items():
            ms = about.traits_ms.get(name, 0)
            if name not in said or ms > said[name][0]:
                said[name] = (ms, value)
    latest = sorted((older, newer), key=lambda a: a.last_seen_ms)
    anonymous = list(dict.fromkeys(id for about in reversed(latest) for id in reversed(about.anonymous_ids)))
    both = About(
        first_seen_ms=older.first_seen_ms,
        last_seen_ms=max(one.last_seen_ms, other.last_seen_ms),
        events=min(one.events + other.events, 2**53),
        user_id=older.user_id if older.user_id is not None else newer.user_id,
        anonymous_ids=anonymous[:MAX_ANONYMOUS_IDS][::-1],
        channels={
            c: max(one.channels.get(c, 0), other.channels.get(c, 0)) for c in sorted({*one.channels, *other.channels})
        },
        groups=_latest({g: max(one.groups.get(g, 0), other.groups.get(g, 0)) for g in (*one.groups, *other.groups)}),
    )
    return _with_traits(both, said)


def _with_traits(about: About, said: dict[str, tuple[int, Any]]) -> About:
    """With those of the traits, name -> (when it was said, value), that were said last and have room."""
    kept: dict[str, tuple[int, Any]] = {}
    size = 2
    for name in sorted(said, key=lambda name: (-said[name][0], name)):
        size_with = size + _trait_bytes(name, said[name][1])
        if len(kept) < MAX_TRAITS and size_with <= MAX_TRAITS_BYTES and not _is_deep(said[name][1]):
            kept[name], size = said[name], size_with
    return replace(
        about,
        traits={name: value for name, (_, value) in kept.items()},
        traits_ms={name: ms for name, (ms, _) in kept.items()},
    )


def context_of(
    profile: Profile,
    zone: Zone,
    ms: int,
    settings: Settings,
    models: Models,
    states: Mapping[str, Any],
    changed: Set[str] = frozenset(),
    event: ProfileEvent | None = None,
    e50: float | None = None,
) -> Context:
    """What a signal may know of the profile at a time. `states`: those that it may look at."""
    about = profile.about
    anonymous = about.anonymous_ids if about else []
    return Context(
        site=profile.site,
        profile_id=profile.id,
        user_id=about.user_id if about else None,
        anonymous_id=anonymous[-1] if anonymous else None,
        traits=(about.traits or None) if about else None,
        utc_offset_ms=zone.offset_s(ms // 1000) * 1000,
        zone=zone,
        settings=settings,
        models=models,
        states=states,
        changed=changed,
        event=event,
        e50=e50,
        seen=about,
    )


class ProfileCodec:
    """Profiles <-> their hashes, for a set of signals."""

    def __init__(self, signals: Sequence[Signal[Any]]) -> None:
        self._signals = [s for s in signals if s.state_type is not type(None)]
        self._stored = {s.name: Stored(s) for s in self._signals}
        self._timed = [s for s in self._signals if type(s).due_ms is not Signal.due_ms]

    def decode(self, site: str, id: str, fields: Sequence[str]) -> Profile:
        """`fields`: field, value, field, value, ... as HGETALL gives them. Unknown fields stay in Redis untouched.

        Raises StateError when a state can't be read: the worker must stop, not overwrite it.
        """
        profile = Profile(site, id)
        whose = profile.part
        for i in range(0, len(fields), 2):
            name = fields[i]
            if (stored := self._stored.get(name)) is not None:
                profile.states[name] = stored.decode(fields[i + 1], whose)
            elif name in FIELDS:
                self._decode_own(profile, name, fields[i + 1])
            profile.json_bytes[name] = len(fields[i + 1])
        try:
            profile.due_ms = profile.stored_due_ms = self.due_ms(profile)
        except Exception as e:  # a state that its signal's fold has not made
            raise StateError(f"the timers of profile {whose} can't be read ({type(e).__name__}: {e})") from e
        return profile

    @staticmethod
    def _decode_own(profile: Profile, name: str, text: str) -> None:
        try:
            if name == ABOUT:
                profile.about = _about.decode(text)
            elif name == MERGED:
                profile.merged_into = _id.decode(text)
            else:
                profile.arriving = _texts.decode(text)
        except (msgspec.MsgspecError, RecursionError) as e:
            raise StateError(f"the field `{name}` of profile {profile.part} can't be read ({e})") from e

    def due_ms(self, profile: Profile) -> int | None:
        dues = [
            max(due, profile.broken.get(s.name, due)) for s in self._timed
            if (state := profile.states.get(s.name)) is not None and (due := s.due_ms(state)) is not None
        ]  # fmt: skip
        return min(dues, default=None)

    def decode_state(self, name: str, text: str, profile: Profile) -> Any:
        """A signal's state that is to become `profile`'s; None when no registered signal has the name.

        Raises StateError.
        """
        stored = self._stored.get(name)
        return stored.decode(text, profile.part) if stored is not None else None

    def decode_about(self, text: str) -> About:
        return _about.decode(text)

    def fields(self, profile: Profile) -> Iterator[tuple[str, bytes]]:
        """All that a profile has: (name, JSON); always in one order, for a handover is cut into parts by it."""
        if profile.about is not None:
            yield ABOUT, _encode(profile.about)
        if profile.arriving:
            yield ARRIVING, _encode(profile.arriving)
        # Those that decide go first: about the triggers that the merge of the others gives.
        for name, state in sorted(profile.states.items(), key=lambda field: (field[0] not in DECIDING, field[0])):
            yield name, self._stored[name].encode(state)

    def write(self, profile: Profile) -> list[Any]:
        """[SITE:PID, [field, value, ...]] of what changed."""
        fields: list[Any] = []
        for name in profile.changed:
            if name == ABOUT:
                value = _encode(profile.about)
            elif name not in FIELDS:
                value = self._stored[name].encode(profile.states[name])
            else:
                value = _encode(profile.merged_into if name == MERGED else profile.arriving)
            profile.json_bytes[name] = len(value)
            fields.append(name)
            fields.append(binary(value))
        return [profile.part, fields]
