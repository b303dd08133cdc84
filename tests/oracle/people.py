"""Is an event decided to be from the right person, wherever the order of arrival does not matter? By a union-find.

`decided`: (partition, offset) of an event -> the profile ids that stand in profile-events for it.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence

from tests.oracle.fold import Json, identifiers

Place = tuple[int, int]


class Unions:
    """Which things are one."""

    def __init__(self) -> None:
        self.parent: dict[str, str] = {}

    def find(self, x: str) -> str:
        while self.parent.setdefault(x, x) != x:
            x = self.parent[x]
        return x

    def join(self, a: str, b: str) -> None:
        self.parent[self.find(a)] = self.find(b)


def wrong_decisions(
    events: dict[Place, Json], decided: dict[Place, set[str]], merges: Sequence[tuple[str, str]] = ()
) -> list[str]:
    """`merges`: (winner, loser) of the merge log: both are one profile, whatever the order was."""
    out: list[str] = []
    ids, profiles = Unions(), Unions()
    for winner, loser in merges:
        profiles.join(winner, loser)
    users_of: dict[str, set[str]] = defaultdict(set)
    for event in events.values():
        anonymous, user = identifiers(event)
        if anonymous is not None and user is not None:
            users_of[f"{event['site']} a:{anonymous}"].add(user)
    for event in events.values():
        anonymous, user = identifiers(event)
        if anonymous is not None and user is not None and len(users_of[f"{event['site']} a:{anonymous}"]) == 1:
            ids.join(f"{event['site']} a:{anonymous}", f"{event['site']} u:{user}")

    people: dict[str, set[str]] = defaultdict(set)
    of_user: dict[str, set[str]] = defaultdict(set)
    of_profile: dict[str, set[str]] = defaultdict(set)
    for place, event in events.items():
        found = decided.get(place, set())
        if len(found) != 1:
            out.append(f"event {place} has {len(found)} profiles: {sorted(found)}")
        anonymous, user = identifiers(event)
        canonical = {profiles.find(id) for id in found}
        if user is not None:
            of_user[f"{event['site']} u:{user}"] |= canonical
            for id in canonical:
                of_profile[id].add(f"{event['site']} u:{user}")
        name = f"{event['site']} a:{anonymous}" if anonymous is not None else f"{event['site']} u:{user}"
        if len(users_of[name]) <= 1:  # a device that two users share: their order decides
            people[ids.find(name)] |= canonical
    out += [f"{user} has several profiles: {sorted(found)}" for user, found in of_user.items() if len(found) > 1]
    out += [f"profile {id} has several users: {sorted(us)}" for id, us in of_profile.items() if len(us) > 1]
    owner: dict[str, str] = {}
    for person, found in people.items():
        for id in found:
            if owner.setdefault(id, person) != person:
                out.append(f"profile {id} is of {owner[id]} and of {person}, who share no id")
    return out
