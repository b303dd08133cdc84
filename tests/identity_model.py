"""The rules of stream/identify.lua, said again in Python and one event at a time: what the script is held against."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
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

    def event(self, ids: Sequence[Identifier], at_ms: int) -> str:
        """Whose it is. `ids`: strongest first."""
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
            assert profile not in self.since, "the tests' caps let no identifier go"
            self.since[profile] = dict.fromkeys(new, at_ms)
            self.first_seen[profile] = at_ms
            self.owner |= dict.fromkeys(new, profile)
        return profile

    def _fits(self, ids: dict[Identifier, int], at_ms: int) -> bool:
        for type, (limit, window) in self.limits.items():
            n = sum(t == type and (not window or at_ms - ms < window) for (t, _), ms in ids.items())
            if limit and n > limit:
                return False
        return len(ids) <= self.cap

    def _join(self, profile: str, new: list[Identifier], at_ms: int) -> bool:
        ids = self.since[profile] | dict.fromkeys(new, at_ms)
        if not self._fits(ids, at_ms):
            return False
        self.since[profile] = ids
        self.owner |= dict.fromkeys(new, profile)
        return True

    def _merge(self, one: str, other: str, at_ms: int) -> str:
        ids = self.since[one] | self.since[other]
        if not self._fits(ids, at_ms):
            return one
        winner, loser = sorted((one, other), key=lambda p: (self.first_seen[p], p))
        self.since[winner] = ids
        del self.since[loser]
        self.first_seen[winner] = min(self.first_seen[winner], self.first_seen.pop(loser))
        self.owner |= dict.fromkeys(ids, winner)
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
