"""The rules of stream/identify.lua, said again in Python and one event at a time: what the script is held against."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from hashlib import sha1
from itertools import chain

from tracker.contract.codec import new_profile_id
from tracker.contract.ids import Identifier


@dataclass
class Model:
    limits: dict[str, tuple[int, int]]
    """Type -> (most of a profile, in how many ms; 0 = for ever)."""
    cap: int
    site: str
    owner: dict[Identifier, str] = field(default_factory=dict)
    since: dict[str, dict[Identifier, int]] = field(default_factory=dict)
    first_seen: dict[str, int] = field(default_factory=dict)
    merges: list[tuple[str, str]] = field(default_factory=list)
    """(loser, winner)."""
    own: set[Identifier] = field(default_factory=set)
    """Of the event under way."""

    def event(self, ids: Sequence[Identifier], at_ms: int) -> str:
        """Whose it is. `ids`: strongest first."""
        self.own = set(ids)
        profile: str | None = None
        new: list[Identifier] = []
        for id in ids:
            found = self.owner.get(id)
            if profile is None and found is None:
                new.append(id)
            elif profile is None:
                assert found is not None
                if not new or self._join(found, new, at_ms):
                    profile = found
            elif found is None:
                self._join(profile, [id], at_ms)
            elif found != profile:
                profile = self._merge(profile, found, at_ms)
        if profile is None:
            profile = new_profile_id(self.site, *ids[0])
            while profile in self.since or profile in dict(self.merges):  # its identifier was let go
                h = sha1(profile.encode()).hexdigest()
                profile = f"{h[:8]}-{h[8:12]}-5{h[13:16]}-a{h[17:20]}-{h[20:32]}"
            kept: dict[Identifier, int] = {}
            for id in new:
                if self._fitting(with_it := {**kept, id: at_ms}, at_ms) == with_it:
                    kept = with_it
            self.since[profile] = kept
            self.first_seen[profile] = at_ms
            self.owner |= dict.fromkeys(kept, profile)
        return profile

    def _fitting(
        self, ids: dict[Identifier, int], at_ms: int, new: Sequence[Identifier] = ()
    ) -> dict[Identifier, int] | None:
        """What of them can be one profile's, without the oldest anonymous ids over the cap that the event did not come
        with; None: they can't. `new`: only the limits of their types count."""
        for type, (limit, window) in self.limits.items():
            n = sum(t == type and (not window or at_ms - ms < window) for (t, _), ms in ids.items())
            if limit and n > limit and (not new or type in {t for t, _ in new}):
                return None
        over = max(0, len(ids) - self.cap)
        oldest = sorted((ms, id[1]) for id, ms in ids.items() if id[0] == "anonymous_id" and id not in self.own)
        if len(oldest) < over:
            return None
        gone = {("anonymous_id", value) for _, value in oldest[:over]}
        return {id: ms for id, ms in ids.items() if id not in gone}

    def _join(self, profile: str, new: list[Identifier], at_ms: int) -> bool:
        ids = self._fitting(self.since[profile] | dict.fromkeys(new, at_ms), at_ms, new)
        if ids is None:
            return False
        self._keep(profile, ids)
        return True

    def _keep(self, profile: str, ids: dict[Identifier, int]) -> None:
        for id in self.since[profile].keys() - ids.keys():
            self.owner.pop(id, None)
        self.since[profile] = ids
        self.owner |= dict.fromkeys(ids, profile)

    def _merge(self, one: str, other: str, at_ms: int) -> str:
        ids = self._fitting(self.since[one] | self.since[other], at_ms)
        if ids is None:
            return one
        winner, loser = sorted((one, other), key=lambda p: (self.first_seen[p], p))
        for id in self.since.pop(loser):
            self.owner.pop(id, None)
        self._keep(winner, ids)
        self.first_seen[winner] = min(self.first_seen[winner], self.first_seen.pop(loser))
        self.merges.append((loser, winner))
        return winner


def components(links: Sequence[Sequence[Identifier]]) -> set[frozenset[Identifier]]:
    """Union-find: which identifiers hang together."""
    parent = {id: id for id in chain.from_iterable(links)}

    def root(id: Identifier) -> Identifier:
        while parent[id] != id:
            id = parent[id]
        return id

    for first, *others in links:
        for other in others:
            parent[root(other)] = root(first)
    found: dict[Identifier, set[Identifier]] = {}
    for id in parent:
        found.setdefault(root(id), set()).add(id)
    return {frozenset(ids) for ids in found.values()}
