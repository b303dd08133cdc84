"""When is a customer due to buy again? By the median of their own times between orders, else by settings. Pure.

    due = last order + median of the days between days with an order        with `gaps` or more of them
        = last order + the soonest of `products`, of those in it            else
        = last order + `days`
        = the end of a subscription                                         ahead of all these while one runs

Orders are those of the signal `purchase`: each once, without those that were given back. What is due follows from what
is known and from nothing else, so any order of events ends in the same; what was told of an order, or of an end, is not
told again.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from itertools import pairwise
from statistics import median
from typing import Final

from msgspec import Struct
from msgspec.structs import replace

from stream.core.cart import Line
from stream.core.orders import Order
from tracker.contract.retention import ReorderRules

DAY_MS: Final = 86_400_000
MAX_BASKETS: Final = 3
MAX_LINES: Final = 20
MAX_SUBSCRIPTIONS: Final = 4
MAX_TOLD: Final = 8
MAX_CATEGORIES: Final = 32


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
    """0: it was cancelled."""


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

    @property
    def cross_sells(self) -> int:
        """Orders that brought a category which no order before had (domain: A464)."""
        return max(0, len(set(self.categories.values())) - 1)


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


def bought(state: Reorder, basket: Basket, categories: Iterable[str] = ()) -> Reorder:
    """An order was reported: of several reports of one the earliest counts."""
    after = _of(baskets=_kept_baskets((*state.baskets, basket)), state=state)
    new = dict.fromkeys(categories, basket.ms)
    return replace(after, categories=_first(state.categories, new)) if new else after


def said(state: Reorder, about: Subscription) -> Reorder:
    return _of(subscriptions=_kept_subscriptions((*state.subscriptions, about)), state=state)


def merged(one: Reorder, other: Reorder) -> Reorder:
    """To be given its `due_ms`."""
    return Reorder(
        _kept_baskets((*one.baskets, *other.baskets)),
        _kept_subscriptions((*one.subscriptions, *other.subscriptions)),
        tuple(sorted({*one.told, *other.told}, key=_age)[-MAX_TOLD:]),
        categories=_first(one.categories, other.categories),
    )


def with_due(state: Reorder, orders: Mapping[str, Order], rules: ReorderRules) -> Reorder:
    """Its timer as it is by what is known."""
    found = dues(state, orders, rules)
    due_ms = found[0].at_ms if found else None
    return state if due_ms == state.due_ms else replace(state, due_ms=due_ms)


def fire(state: Reorder, now_ms: int, orders: Mapping[str, Order], rules: ReorderRules) -> tuple[Reorder, list[Due]]:
    """-> the state after it, what is due."""
    out = [due for due in dues(state, orders, rules) if due.at_ms <= now_ms]
    told = (*state.told, *(due.about for due in out))[-MAX_TOLD:]
    return with_due(replace(state, told=told, due_ms=None), orders, rules), out


def dues(state: Reorder, orders: Mapping[str, Order], rules: ReorderRules) -> list[Due]:
    """What will be due, and was not told, the earliest first."""
    if not rules.on:
        return []
    known = {id: order for id, order in orders.items() if order.stands}
    last_ms = max((order.ms for order in known.values()), default=None)
    running = [s for s in state.subscriptions if s.ends_ms and (last_ms is None or s.ends_ms > last_ms)]
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
    return tuple({line.id: line for basket in baskets for line in basket.lines}.values())[:MAX_LINES]


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


def _of(
    state: Reorder, baskets: tuple[Basket, ...] | None = None, subscriptions: tuple[Subscription, ...] | None = None
) -> Reorder:
    return Reorder(
        state.baskets if baskets is None else baskets,
        state.subscriptions if subscriptions is None else subscriptions,
        state.told,
        state.due_ms,
        state.categories,
    )


def _first(one: Mapping[str, int], other: Mapping[str, int]) -> dict[str, int]:
    """Of each the earlier; of too many the first ones."""
    both = {name: min(of[name] for of in (one, other) if name in of) for name in {*one, *other}}
    return dict(sorted(both.items(), key=lambda item: (item[1], item[0]))[:MAX_CATEGORIES])
