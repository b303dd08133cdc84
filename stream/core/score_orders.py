"""Which of a person's orders is the first and which are repeats, in whatever order they come and whoever reports them.

The latest orders are known by id and time. So another report of one makes it earlier at most, and an order that two
profiles had is one order once they are one person. All others are only counted. Both indicators are made anew of these
each time, so nothing ever has to be taken off a sum. Pure.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Final

from msgspec import Struct
from msgspec.structs import replace

from stream.core.score import Part, Rules, Tallies, Tally, beyond, converted, joined, log_sum, position, with_one
from tracker.contract.scoring import FIRST_ORDER, REPEAT_ORDER
from tracker.contract.windows import Zone

MAX_ORDERS: Final = 32


class Orders(Struct, frozen=True, omit_defaults=True):
    latest: dict[str, int | None] = {}
    """order_id -> when it was made, ms, by its earliest report; of the latest 32. None: it is among those that are only
    counted (states of version 1 had no times)."""
    first_ms: int | None = None
    """The earliest of those that are only counted: they have no id, or are older."""
    past: Tally | None = None
    """The others of those."""
    beyond: int = 0
    """Orders over a day's cap: they are told, and count for nothing else."""
    over: tuple[str, ...] = ()
    """order_ids of these, the latest 32: another report of one is no other order."""


class Change(Struct, frozen=True):
    orders: Orders
    tallies: dict[str, Tally]
    """The indicators of orders."""
    sums: tuple[Part, ...]
    back: tuple[Part, ...]


NO_ORDERS: Final = Orders()


def ordered(
    orders: Orders, tallies: Tallies, id: str | None, ms: int, rules: Rules, last_ms: int, zone: Zone
) -> Change | None:
    """With an order that is reported. None: nothing changes, for it is known."""
    if id is not None and id in orders.latest:
        known_ms = orders.latest[id]
        if known_ms is None or known_ms <= ms:
            return None
    elif id is not None and id in orders.over:
        return None
    elif _is_over(orders, tallies, ms, rules.cap, zone):
        over = orders.over if id is None else (*orders.over, id)[-MAX_ORDERS:]
        after = Orders(orders.latest, orders.first_ms, orders.past, orders.beyond + 1, over)
        return Change(after, {REPEAT_ORDER: beyond(tallies[REPEAT_ORDER])}, (), ())
    latest = orders.latest if id is None else {**orders.latest, id: ms}
    counted = [each for each in (orders.first_ms, ms if id is None else None) if each is not None]
    return _changed((orders,), (tallies,), latest, counted, orders.past, rules, last_ms, zone)


def merged(
    one: tuple[Orders, Tallies], other: tuple[Orders, Tallies], rules: Rules, last_ms: int, zone: Zone
) -> Change:
    """Two persons' as one's, the same whichever comes first. The cap is not applied again."""
    (a, tallies), (b, others) = one, other
    latest = {id: _earlier([of.latest[id] for of in (a, b) if id in of.latest]) for id in {**a.latest, **b.latest}}
    counted = [of.first_ms for of in (a, b) if of.first_ms is not None]
    past = a.past or b.past
    if a.past is not None and b.past is not None:
        past = joined(a.past, b.past, rules.half_lives_d[REPEAT_ORDER], last_ms)
    return _changed((a, b), (tallies, others), latest, counted, past, rules, last_ms, zone)


def revised(orders: Orders, tallies: Tallies, rules: Rules, at_ms: int, zone: Zone) -> tuple[Orders, dict[str, Tally]]:
    """Under other half-lives: what is known by its time counts by the new one from then on."""
    past, repeat = orders.past, tallies.get(REPEAT_ORDER)
    if past is not None:
        orders = replace(orders, past=converted(past, rules.half_lives_d[REPEAT_ORDER], at_ms))
    day, today = (repeat.day, repeat.today) if repeat is not None else (0, 0)
    return orders, tallies_of(orders, day, today, rules, at_ms, zone)


def _is_over(orders: Orders, tallies: Tallies, ms: int, cap: int, zone: Zone) -> bool:
    """Whether it makes one repeat more than count on the latest day that has any."""
    repeat = tallies.get(REPEAT_ORDER)
    if repeat is None or repeat.today < cap:
        return False
    return zone.date_of(max(ms, _known(orders)[0])) == repeat.day


def _earlier(reports: Sequence[int | None]) -> int | None:
    times = [ms for ms in reports if ms is not None]
    return min(times) if len(times) == len(reports) else None


def _times(latest: Mapping[str, int | None], counted: Iterable[int]) -> list[int]:
    return sorted((*(ms for ms in latest.values() if ms is not None), *counted))


def _parts(times: Sequence[int]) -> Counter[tuple[str, int]]:
    return Counter((REPEAT_ORDER if i else FIRST_ORDER, ms) for i, ms in enumerate(times))


def _changed(
    before: tuple[Orders, ...],
    tallies: tuple[Tallies, ...],
    latest: Mapping[str, int | None],
    counted: Sequence[int],
    past: Tally | None,
    rules: Rules,
    last_ms: int,
    zone: Zone,
) -> Change:
    """The orders made of the latest, as many as there are, the times of others, and a sum of more: and what is
    different from those before."""
    was = sum((_parts(_known(orders)) for orders in before), Counter[tuple[str, int]]())
    now = _parts(_times(latest, counted))
    came, gone = (sorted(each.elements()) for each in (now - was, was - now))

    by_age = sorted(latest.items(), key=lambda each: (each[1] is not None, each[1] or 0, each[0]))
    old = [ms for _, ms in by_age[:-MAX_ORDERS] if ms is not None]
    first_ms, *rest = sorted((*counted, *old)) or (None,)
    for ms in rest:
        past = with_one(past, ms, rules.half_lives_d[REPEAT_ORDER], last_ms)
    after = Orders(dict(by_age[-MAX_ORDERS:]), first_ms, past, *_over_the_cap(before, latest))
    day, today = _today([t[REPEAT_ORDER] for t in tallies if REPEAT_ORDER in t], came, gone, zone)
    made = tallies_of(after, day, today, rules, last_ms, zone)
    return Change(after, made, _as_parts(came, rules), _as_parts(gone, rules))


def _over_the_cap(before: tuple[Orders, ...], latest: Mapping[str, int | None]) -> tuple[int, tuple[str, ...]]:
    """(`beyond`, `over`) of one or two: what is over the cap of one and counts of the other is none of them."""
    if len(before) == 1:
        return before[0].beyond, before[0].over
    told = [id for of in before for id in of.over]
    over = sorted({id for id in told if id not in latest})
    return sum(of.beyond for of in before) - (len(told) - len(over)), tuple(over[-MAX_ORDERS:])


def tallies_of(orders: Orders, day: int, today: int, rules: Rules, last_ms: int, zone: Zone) -> dict[str, Tally]:
    """The indicators; `day`, `today`: of the repeats."""
    times, past = _known(orders), orders.past
    if not times:
        return {}
    h_first, h_repeat = rules.half_lives_d[FIRST_ORDER], rules.half_lives_d[REPEAT_ORDER]
    first_day = zone.date_of(times[0])
    found = {FIRST_ORDER: Tally(position(times[0], h_first), h_first, 1, first_day, 1)}
    logs = [position(ms, h_repeat) for ms in times[1:]]
    if past is not None:
        logs.append(converted(past, h_repeat, last_ms).log)
    if logs:
        n = len(times) - 1 + (past.n if past is not None else 0) + orders.beyond
        found[REPEAT_ORDER] = Tally(log_sum(logs), h_repeat, n, day, today)
    return found


def _known(orders: Orders) -> list[int]:
    return _times(orders.latest, () if orders.first_ms is None else (orders.first_ms,))


def _as_parts(each: Iterable[tuple[str, int]], rules: Rules) -> tuple[Part, ...]:
    return tuple((name, h := rules.half_lives_d[name], position(ms, h)) for name, ms in each)


def _today(
    known: Sequence[Tally], came: Iterable[tuple[str, int]], gone: Iterable[tuple[str, int]], zone: Zone
) -> tuple[int, int]:
    """The latest local day with a repeat, and how many there were on it."""
    latest = max((t.day for t in known), default=0)
    today = sum(t.today for t in known if t.day == latest)
    for sign, each in ((1, came), (-1, gone)):
        for name, ms in each:
            day = zone.date_of(ms)
            if name != REPEAT_ORDER or day < latest:
                continue
            if day > latest:
                latest, today = day, 0
            today = max(0, today + sign)
    return latest, today
