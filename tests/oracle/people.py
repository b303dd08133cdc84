"""Is an event decided to be from the right person, wherever the order of arrival does not matter? By a union-find.

`decided`: (partition, offset) of an event -> the profile ids that stand in profile-events for it.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Sequence

from tests.oracle.events import Json, identifiers
from tracker.contract.ids import usable

Place = tuple[int, int]
PURCHASE = {
    "Product Added", "Product Removed", "Cart Viewed", "Checkout Started", "Checkout Step Viewed", "Order Updated",
    "Checkout Step Completed", "Payment Info Entered", "Order Completed", "Order Cancelled", "Order Refunded",
}  # fmt: skip
LIMITS = {"user_id": 1, "email": 5, "phone": 5, "anonymous_id": 5}
"""Of a profile within 30 days, which no run takes."""


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
    """`merges`: (winner, loser) of the merge log: both are one profile, whatever the order was. So are the profile that
    an id was taken off and the new one: who has not heard of it yet passes events on to either.

    Who shares an id, directly or through others, is one person and has one profile. Only where two users are among
    them, or more ids of a type than a profile may have, the order decides who gets what: never a profile two users, nor
    a user two profiles. Events of one purchase are the profile's that carried it first: see `wrongly_led`.
    """
    out: list[str] = []
    ids, profiles = Unions(), Unions()
    for winner, loser in merges:
        profiles.join(winner, loser)
    of_event = {place: [f"{e['site']} {t}:{v}" for t, v in identifiers(e)] for place, e in events.items()}
    for names in of_event.values():
        for name in names[1:]:
            ids.join(names[0], name)
    have: dict[str, Counter[str]] = defaultdict(Counter)
    for name in {name for names in of_event.values() for name in names}:
        have[ids.find(name)][name.split(" ")[1].split(":")[0]] += 1

    people: dict[str, set[str]] = defaultdict(set)
    carried: dict[str, set[str]] = defaultdict(set)
    one_purchase = Unions()
    for place, e in events.items():
        for purchase in (purchases := purchases_of(e)):
            carried[purchase].add(ids.find(of_event[place][0]))
            one_purchase.join(purchases[0], purchase)
    together: dict[str, set[str]] = defaultdict(set)
    """Who carried a purchase by any of its names: an order of a cart that another carried first is that one's."""
    for purchase, by in carried.items():
        together[one_purchase.find(purchase)] |= by
    led: dict[str, set[str]] = defaultdict(set)
    of_user: dict[str, set[str]] = defaultdict(set)
    of_profile: dict[str, set[str]] = defaultdict(set)
    for place, names in of_event.items():
        found = decided.get(place, set())
        if len(found) != 1:
            out.append(f"event {place} has {len(found)} profiles: {sorted(found)}")
            continue
        canonical = {profiles.find(id) for id in found}
        purchases = purchases_of(events[place])
        if purchases and len(together[one_purchase.find(purchases[0])]) > 1:
            # Whose it is, the order of arrival decides: see below. What is most telling leads it, not the others.
            if len(carried[purchases[0]]) > 1:
                led[purchases[0]] |= canonical
            continue
        people[ids.find(names[0])] |= canonical
        if " user_id:" in names[0]:
            of_user[names[0]] |= canonical
            for id in canonical:
                of_profile[id].add(names[0])
    out += wrongly_led(led, carried, people, have)
    for person, found in people.items():
        if len(found) > 1 and all(n <= LIMITS.get(type, 2) for type, n in have[person].items()):
            out.append(f"{person} has several profiles: {sorted(found)}")
            of_user = {user: ids_ for user, ids_ in of_user.items() if ids.find(user) != person}
    out += [f"{user} has several profiles: {sorted(found)}" for user, found in of_user.items() if len(found) > 1]
    out += [f"profile {id} has several users: {sorted(us)}" for id, us in of_profile.items() if len(us) > 1]
    owner: dict[str, str] = {}
    for person, found in people.items():
        for id in found:
            if owner.setdefault(id, person) != person:
                out.append(f"profile {id} is of {owner[id]} and of {person}, who share no id")
    return out


def purchases_of(event: Json) -> list[str]:
    """What names the purchase that an event is a part of."""
    if event.get("event") not in PURCHASE:
        return []
    said = event.get("properties") or {}
    found = [(name, said.get(name)) for name in ("order_id", "checkout_id", "cart_id")]
    return [f"{event['site']} {name}:{value}" for name, value in found if isinstance(value, str) and usable(value)]


def wrongly_led(
    led: dict[str, set[str]], carried: dict[str, set[str]], people: dict[str, set[str]], have: dict[str, Counter[str]]
) -> list[str]:
    """Events of a purchase that several people carried (`carried`) are one profile's (`led`), the first one's, unless
    they have users who differ; and never one's who did not carry it."""
    out = []
    for purchase, found in led.items():
        known = [people[person] for person in carried[purchase]]
        if all(known) and not found <= set().union(*known):
            out.append(f"{purchase} is {sorted(found)}'s, who did not carry it")
        if len(found) > 1 and sum(have[person]["user_id"] > 0 for person in carried[purchase]) < 2:
            out.append(f"{purchase} has several profiles: {sorted(found)}")
    return out


def purchases_in_redis(
    keys: Json, events: dict[Place, Json], decided: dict[Place, set[str]], merges: Sequence[tuple[str, str]]
) -> list[str]:
    """Each purchase that an event was a part of leads to a profile that has such an event; there are no others."""
    profiles = Unions()
    for winner, loser in merges:
        profiles.join(winner, loser)
    wanted: dict[str, set[str]] = defaultdict(set)
    for place, event in events.items():
        for purchase in purchases_of(event):
            site, _, name = purchase.partition(" ")
            wanted[f"{{s:{site}}}:k:{name}"] |= {profiles.find(id) for id in decided.get(place, set())}
    found = {key: profiles.find(value["to"]) for key, value in keys.items() if "}:k:" in key}
    return [
        f"{key} leads to {found.get(key)}, its events are of {sorted(wanted.get(key, ()))}"
        for key in sorted(wanted.keys() | found.keys())
        if found.get(key) not in wanted.get(key, set())
    ]


def taken_off(keys: Json, unmerges: Sequence[Json], merges: Sequence[tuple[str, str]]) -> list[str]:
    """Whoever was taken off a profile is the new one, or who that was merged with when they met again: the merge log
    has that. Each id was taken off once."""
    profiles = Unions()
    for winner, loser in merges:
        profiles.join(winner, loser)
    out = []
    for unmerge in unmerges:
        for type, value in unmerge["ids"]:
            owner = (keys.get(f"{{s:{unmerge['site']}}}:id:{type}:{value}") or b"nobody").decode()
            if profiles.find(owner) != profiles.find(unmerge["newProfileId"]):
                out.append(f"{type}={value} was taken off {unmerge['profileId']} for {unmerge['newProfileId']}, "
                           f"and is {owner}'s")  # fmt: skip
    return out


def identifiers_in_redis(keys: Json, merges: Sequence[tuple[str, str]]) -> list[str]:
    """What a site's keys say of its identifiers agrees with itself and with the merge log."""
    out = []
    winners: dict[str, set[str]] = defaultdict(set)
    for winner, loser in merges:
        winners[loser].add(winner)
    for key, value in keys.items():
        site, _, rest = key.partition("}:")
        kind, _, name = rest.partition(":")
        if not site.startswith("{s:"):
            continue
        if kind == "id":
            profile = value.decode()
            if name not in keys.get(f"{site}}}:ids:{profile}", {}):
                out.append(f"{key} is {profile}'s, who does not have it")
        elif kind == "ids":
            for id in value.keys() - {"first_seen_ms", "routed_user"}:
                if keys.get(f"{site}}}:id:{id}") != name.encode():
                    out.append(f"{key} has {id}, which is {keys.get(f'{site}}}:id:{id}')}'s")
            if f"{site}}}:to:{name}" in keys:
                out.append(f"{key} is of a profile that was merged")
        elif kind == "to" and value.decode() not in winners[name]:
            out.append(f"{key} is {value.decode()}, the merge log says {winners[name]}")
    missing = {loser for _, loser in merges} - {key.rpartition(":to:")[2] for key in keys if ":to:" in key}
    return out + [f"profile {loser} was merged, and no key says so" for loser in sorted(missing)]
