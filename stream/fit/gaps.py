"""How long it takes until a product is bought again: the median over a site's customers, for `reorder_due` of those who
have too few orders of their own to go by (domain: A464). Found in the same reading as the histories of a fit.

Of each customer the last baskets are known, so a gap is the time between two of them that follow each other with the
product in both. Memory: at most MAX_PRODUCTS x MAX_GAPS numbers of 4 bytes, which is 10 MB.
"""

from __future__ import annotations

from array import array
from collections.abc import Mapping
from statistics import median
from typing import Final

from stream.core.orders import Order
from stream.core.reorder import Reorder
from tracker.contract.durations import DAY_MS

MAX_PRODUCTS: Final = 10_000
"""That are looked at; the first that come."""
MAX_GAPS: Final = 256
"""Of a product; the first that come."""
MIN_GAPS: Final = 5
"""Fewer say nothing."""
MAX_TOLD: Final = 500
"""Products that the parameters name: those with the most gaps."""


class Gaps:
    def __init__(self) -> None:
        self._of: dict[str, array[float]] = {}

    def take(self, state: Reorder, orders: Mapping[str, Order]) -> None:
        """A customer's baskets, without those of orders that were given back."""
        last: dict[str, float] = {}
        for basket in state.baskets:
            order = orders.get(basket.id)
            if order is not None and not order.stands:
                continue
            day = order.day if order is not None else basket.ms // DAY_MS
            for product in {line.id for line in basket.lines}:
                if product in last and day > last[product]:
                    self._add(product, day - last[product])
                last[product] = day

    def _add(self, product: str, gap_d: float) -> None:
        gaps = self._of.get(product)
        if gaps is None:
            if len(self._of) >= MAX_PRODUCTS:
                return
            gaps = self._of[product] = array("f")
        if len(gaps) < MAX_GAPS:
            gaps.append(gap_d)

    def medians(self) -> dict[str, float]:
        """Product -> days, sorted by product."""
        enough = [(len(gaps), product) for product, gaps in self._of.items() if len(gaps) >= MIN_GAPS]
        told = sorted(enough, key=lambda each: (-each[0], each[1]))[:MAX_TOLD]
        return {product: float(median(self._of[product])) for product in sorted(product for _, product in told)}
