"""What a customer's orders were worth: by order id, so that an order counts once whoever reports it, and however often;
refunds and cancellations subtract, currencies are not mixed. Pure.

The latest 64 orders are kept one by one, older ones as sums by currency. Orders of the first day stay, for a mean of
repeat purchases leaves them out.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Final

from msgspec import Struct
from msgspec.structs import replace

MAX_ORDERS: Final = 64
MAX_CURRENCIES: Final = 4
VALUE_DIGITS: Final = 10_000
"""Values are integers of this part of a unit, so that no order of events changes their sum."""
MAX_VALUE: Final = 1 << 62
"""Fits into JSON's integers."""


class Order(Struct, frozen=True, omit_defaults=True):
    ms: int
    day: int
    value: int | None = None
    """None: only a refund or cancellation has come so far."""
    back: int = 0
    """Given back, at most."""
    cur: str = ""
    """Currency; '': not said."""

    @property
    def stands(self) -> bool:
        """It was made, and not given back as a whole."""
        return self.value is not None and (not self.back or self.value > self.back)

    @property
    def net(self) -> int:
        return max(0, self.value - self.back) if self.value is not None else 0


Orders = Mapping[str, Order]
Sums = Mapping[str, int]
"""Currency -> value."""


def reported(known: Order | None, new: Order) -> Order:
    """An order and another report of it: the earlier one counts, whatever came first; what was given back adds up."""
    if known is None:
        return new
    back = min(known.back + new.back, MAX_VALUE)
    first = min(known, new, key=lambda o: (o.value is None, o.ms, o.day, o.value or 0, o.cur))
    return replace(first, back=back)


def trimmed(orders: Orders, sums: Sums, first_day: int) -> tuple[dict[str, Order], dict[str, int]]:
    """The latest orders and those of the first day one by one, at most 64; the rest in the sums."""
    kept, totals = dict(orders), dict(sums)
    if len(kept) <= MAX_ORDERS:
        return kept, totals
    by_age = sorted(kept, key=lambda id: (kept[id].day == first_day, kept[id].ms, id))
    for id in by_age[: len(kept) - MAX_ORDERS]:
        order = kept.pop(id)
        totals[order.cur] = totals.get(order.cur, 0) + order.net
    return kept, _bounded(totals)


def added(sums: Iterable[Sums]) -> dict[str, int]:
    totals: dict[str, int] = {}
    for each in sums:
        for cur, value in each.items():
            totals[cur] = totals.get(cur, 0) + value
    return _bounded(totals)


def _bounded(totals: dict[str, int]) -> dict[str, int]:
    """The currencies that most was paid in."""
    kept = sorted(totals, key=lambda cur: (-totals[cur], cur))[:MAX_CURRENCIES]
    return {cur: min(totals[cur], MAX_VALUE) for cur in sorted(kept)}


def totals(orders: Orders, sums: Sums, but_day: int | None = None) -> dict[str, float]:
    """Currency -> net value; but_day: a day whose orders are left out."""
    found = dict(sums)
    for order in orders.values():
        if order.day != but_day and order.value is not None:
            found[order.cur] = found.get(order.cur, 0) + order.net
    return {cur: found[cur] / VALUE_DIGITS for cur in sorted(found)}
