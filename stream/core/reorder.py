"""When is a customer due to buy again? By the median of their own times between orders, else by settings. Pure.

    due = last order + median of the days between days with an order        with `gaps` or more of them
        = last order + the soonest of `products`, of those in it            else
        = last order + `days`
        = the end of a subscription                                         ahead of all these while one runs

Orders are those of the signal `purchase`: each once, without those that were given back. What is due follows from what
is known and from nothing else, so any order of events ends in the same; what was told of an order, or of an end, is not
told again.

Beside it, what is sold to who is a customer already (domain: A464), of which `sales` gives what is to be counted:

    cross-sell   an order with a category that no order before had
    upsell       an order, or a subscription, of a higher tier than any before
    lapsed       a subscription whose end has passed, or that was cancelled, unless something later is said of it
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from itertools import pairwise
from math import isfinite
from statistics import median
from typing import Final

from msgspec import Struct
from msgspec.structs import replace

from stream.core.cart_state import Line
from stream.core.orders import Order
from tracker.contract.durations import DAY_MS
from tracker.contract.retention import ReorderRules

MAX_BASKETS: Final = 3
MAX_LINES: Final = 20
MAX_SUBSCRIPTIONS: Final = 4
MAX_TOLD: Final = 8
MAX_CATEGORIES: Final = 32
MAX_TIERS: Final = 16
CANCELLED: Final = 0
UNSAID: Final = -1
"""It goes on, until when is not said."""


class Basket(Struct, frozen=True, array_like=True, order=True):
    """What was in an order."""

    ms: int
    id: str
    """Of the order, as in `purchase`."""
    lines: tuple[Line, ...]


class Subscription(Struct, frozen=True, array_like=True, order=True):
    at_ms: int
    """When it was said."""
    id: str
    ends_ms: int
    """Or CANCELLED, UNSAID."""


class Reorder(Struct, frozen=True, omit_defaults=True):
    """The state of the signal `reorder`."""

    baskets: tuple[Basket, ...] = ()
    """Of the latest orders, sorted."""
    subscriptions: tuple[Subscription, ...] = ()
    """What was last said of each, sorted."""
    told: tuple[str, ...] = ()
    """What reminders were about, the latest last."""
    due_ms: int | None = None
    categories: dict[str, int] = {}
    """Category -> its first order, ms: the first of them."""
    tiers: dict[str, int] = {}
    """Tier, in small letters -> when it was first bought, ms: the first of them."""
    over: tuple[str, ...] = ()
    """Ids of the subscriptions that are known to have lapsed."""

    @property
    def cross_sells(self) -> tuple[int, ...]:
        """Times of the orders that brought a category which no order before had."""
        return tuple(sorted(set(self.categories.values()))[1:])

    def upsells(self, ranking: Sequence[str]) -> tuple[int, ...]:
        """Times at which a tier was bought that is higher than all before."""
        found: list[int] = []
        best: float | None = None
        ranked = [(ms, rank) for tier, ms in self.tiers.items() if (rank := rank_of(tier, ranking)) is not None]
        for ms, rank in sorted(ranked, key=lambda each: (each[0], -each[1])):  # of one order the highest
            if best is None or rank > best:
                found.append(ms)
                best = rank
        return tuple(found[1:])

    @property
    def lapses(self) -> dict[str, int]:
        """Id of a subscription that lapsed -> when."""
        return {s.id: s.ends_ms if s.ends_ms > 0 else s.at_ms for s in self.subscriptions if s.id in self.over}


class Due(Struct, frozen=True):
    at_ms: int
    about: str
    """Of which it is told once."""
    basis: str
    last_ms: int | None = None
    orders: int = 0
    gap_d: float | None = None
    lines: tuple[Line, ...] = ()
    product: str | None = None
    subscription: str | None = None


NOTHING: Final = Reorder()


def bought(state: Reorder, basket: Basket, categories: Iterable[str] = (), tiers: Iterable[str] = ()) -> Reorder:
    """An order was reported: of several reports of one the earliest counts."""
    after = replace(state, baskets=_kept_baskets((*state.baskets, basket)))
    if new := dict.fromkeys(categories, basket.ms):
        after = replace(after, categories=_first(state.categories, new, MAX_CATEGORIES))
    return of_tiers(after, tiers, basket.ms)


def of_tiers(state: Reorder, tiers: Iterable[str], ms: int) -> Reorder:
    """These were bought."""
    new = dict.fromkeys(tiers, ms)
    return replace(state, tiers=_first(state.tiers, new, MAX_TIERS)) if new else state


def said(state: Reorder, about: Subscription) -> Reorder:
    known = _kept_subscriptions((*state.subscriptions, about))
    return replace(state, subscriptions=known, over=_over(known, state))


def merged(one: Reorder, other: Reorder) -> Reorder:
    """To be given its `due_ms`."""
    known = _kept_subscriptions((*one.subscriptions, *other.subscriptions))
    return Reorder(
        _kept_baskets((*one.baskets, *other.baskets)),
        known,
        tuple(sorted({*one.told, *other.told}, key=_age)[-MAX_TOLD:]),
        categories=_first(one.categories, other.categories, MAX_CATEGORIES),
        tiers=_first(one.tiers, other.tiers, MAX_TIERS),
        over=_over(known, one, other),
    )


def sales(after: Reorder, before: Sequence[Reorder], ranking: Sequence[str]) -> tuple[tuple[str, int, int], ...]:
    """(what, how often more, when): the difference between what the states counted and what this one counts. A
    subscription that is forgotten stays counted."""
    kept = {s.id for s in after.subscriptions}
    found: Counter[tuple[str, int]] = Counter()
    for state, sign in (*((state, -1) for state in before), (after, 1)):
        for what, times in (("cross", state.cross_sells), ("up", state.upsells(ranking))):
            for ms in times:
                found[what, ms] += sign
        for id, ms in state.lapses.items():
            if id in kept:
                found["lapsed", ms] += sign
    return tuple((what, n, ms) for (what, ms), n in sorted(found.items()) if n)


def rank_of(tier: str, ranking: Sequence[str]) -> float | None:
    """How high a tier is: by its place among the site's, where that names them; else a tier that is a number is one."""
    if ranking:
        return float(ranking.index(tier)) if tier in ranking else None
    try:
        rank = float(tier)
    except ValueError:
        return None
    return rank if isfinite(rank) else None


def with_due(state: Reorder, orders: Mapping[str, Order], rules: ReorderRules) -> Reorder:
    """Its timer as it is by what is known."""
    times = [due.at_ms for due in dues(state, orders, rules)[:1]]
    if rules.on:
        times += [s.ends_ms for s in state.subscriptions if s.ends_ms > 0 and s.id not in state.over]
    due_ms = min(times, default=None)
    return state if due_ms == state.due_ms else replace(state, due_ms=due_ms)


def fire(state: Reorder, now_ms: int, orders: Mapping[str, Order], rules: ReorderRules) -> tuple[Reorder, list[Due]]:
    """-> the state after it, what is due."""
    out = [due for due in dues(state, orders, rules) if due.at_ms <= now_ms]
    told = (*state.told, *(due.about for due in out))[-MAX_TOLD:]
    over = _over(state.subscriptions, state, until_ms=now_ms)
    return with_due(replace(state, told=told, over=over, due_ms=None), orders, rules), out


def dues(state: Reorder, orders: Mapping[str, Order], rules: ReorderRules) -> list[Due]:
    """What will be due, and was not told, the earliest first."""
    if not rules.on:
        return []
    known = {id: order for id, order in orders.items() if order.stands}
    last_ms = max((order.ms for order in known.values()), default=None)
    running = [s for s in state.subscriptions if s.ends_ms > 0 and (last_ms is None or s.ends_ms > last_ms)]
    found = [Due(s.ends_ms, f"{s.ends_ms} {s.id}", "subscription", last_ms, subscription=s.id or None) for s in running]
    if last_ms is not None and not running:
        by_orders = _by_orders(state, known, last_ms, rules)
        found += [by_orders] if by_orders is not None else []
    return sorted((due for due in found if due.about not in state.told), key=lambda due: (due.at_ms, due.about))


def _by_orders(state: Reorder, known: Mapping[str, Order], last_ms: int, rules: ReorderRules) -> Due | None:
    days = sorted({order.day for order in known.values()})
    gaps = [after - before for before, after in pairwise(days)]
    last = {id for id, order in known.items() if order.day == days[-1]}
    lines = _lines([basket for basket in state.baskets if basket.id in last])
    gap_d, basis, product = 0.0, "site", None
    if len(gaps) >= rules.gaps:
        gap_d, basis = float(median(gaps)), "own"
    elif of_products := [(rules.products[line.id], line.id) for line in lines if line.id in rules.products]:
        (gap_d, product), basis = min(of_products), "product"
    else:
        gap_d = rules.days
    if not gap_d:
        return None
    at_ms = last_ms + round(gap_d * DAY_MS)
    return Due(at_ms, f"{last_ms}", basis, last_ms, len(days), gap_d, lines, product)


def _lines(baskets: Sequence[Basket]) -> tuple[Line, ...]:
    """Of the orders of a day, each product once."""
    lines = {(line.id, line.sku, line.variant): line for basket in baskets for line in basket.lines}
    return tuple(lines.values())[:MAX_LINES]


def _kept_baskets(baskets: tuple[Basket, ...]) -> tuple[Basket, ...]:
    first: dict[str, Basket] = {}
    for basket in sorted(baskets, key=lambda b: (b.ms, b.id)):
        first.setdefault(basket.id, basket)
    return tuple(first.values())[-MAX_BASKETS:]


def _kept_subscriptions(subscriptions: tuple[Subscription, ...]) -> tuple[Subscription, ...]:
    """What was said last of each; at one time that it goes on longest."""
    latest = {s.id: s for s in sorted(subscriptions, key=lambda s: (s.at_ms, s.ends_ms))}
    return tuple(sorted(latest.values()))[-MAX_SUBSCRIPTIONS:]


def _age(about: str) -> tuple[int, str]:
    return int(about.split(" ")[0]), about


def _over(subscriptions: Iterable[Subscription], *before: Reorder, until_ms: int = 0) -> tuple[str, ...]:
    """Ids of those that have lapsed: cancelled, ended until then, or known to be over and nothing else said since."""
    return tuple(
        s.id
        for s in subscriptions
        if s.ends_ms == CANCELLED
        or 0 < s.ends_ms <= until_ms
        or any(s.id in state.over and s in state.subscriptions for state in before)
    )


def _first(one: Mapping[str, int], other: Mapping[str, int], most: int) -> dict[str, int]:
    """Of each the earlier; of too many the first ones."""
    both = {name: min(of[name] for of in (one, other) if name in of) for name in {*one, *other}}
    return dict(sorted(both.items(), key=lambda item: (item[1], item[0]))[:most])
