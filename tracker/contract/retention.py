"""When a site wants to be told that somebody looked and left, is due to buy again, or does less than before.

    [sites.shop.browse]
    idle_s = 1800                    # a visit without a sign for so long is over
    views = 2                        # so many of one category; 0: never
    repeat_s = 86400

    [sites.shop.reorder]
    days = 0                         # for who has too few orders to go by; 0: they are not reminded
    products = { "coffee-500" = 30 } # the same for a product
    tiers = ["basic", "pro"]         # of products and plans, from the lowest up: who buys higher is an upsell

    [sites.shop.usage]               # and [sites.shop.engagement]
    enter = 0.5                      # of what it was before; 0: never
    leave = 0.75
    least = 5
    gap_d = 14

docs/signals.md has the formulas.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Annotated, Final

from msgspec import Meta, Struct

MAX_PRODUCTS: Final = 1000
MAX_RANKED: Final = 50
Days = Annotated[float, Meta(gt=0, le=3650)]


class BrowseRules(Struct, frozen=True, forbid_unknown_fields=True):
    """`[sites.NAME.browse]`"""

    idle_s: Annotated[
        float, Meta(description="A visit without a sign for so long is over, and what was looked at left.", ge=1)
    ] = 1800.0
    views: Annotated[
        int, Meta(description="Least views of products of one category in the visit; 0: nobody is told.", ge=0, le=10)
    ] = 2
    repeat_s: Annotated[float, Meta(description="A second one within this time is suppressed.", ge=0)] = 86400.0


class ReorderRules(Struct, frozen=True, forbid_unknown_fields=True):
    """`[sites.NAME.reorder]`"""

    on: Annotated[bool, Meta(description="Whether anybody is told.")] = True
    gaps: Annotated[
        int, Meta(description="Least times between orders of a customer from which the next is taken.", ge=1, le=20)
    ] = 2
    days: Annotated[
        float, Meta(description="Time to the next order of who has fewer; 0: they are not reminded.", ge=0, le=3650)
    ] = 0.0
    products: Annotated[
        dict[str, Days], Meta(description="Product id -> the same when the last order has it: the soonest counts.")
    ] = {}
    tiers: Annotated[
        tuple[str, ...],
        Meta(
            description="Tiers of products and plans, from the lowest up: an order of a higher one than any before is "
            "an upsell. Without them tiers that are numbers are compared."
        ),
    ] = ()

    @property
    def ranking(self) -> tuple[str, ...]:
        """As they stand in states."""
        return _ranking(self.tiers)


class FallingRules(Struct, frozen=True, forbid_unknown_fields=True):
    """`[sites.NAME.usage]` and `[sites.NAME.engagement]`"""

    enter: Annotated[
        float, Meta(description="It has fallen when it is below this part of what it was; 0: never.", ge=0, lt=1)
    ] = 0.5
    leave: Annotated[float, Meta(description="It is over when it is back at this part.", gt=0, le=1)] = 0.75
    least: Annotated[
        int, Meta(description="Least days (messages) in the time before, from which anything can fall.", ge=1, le=50)
    ] = 5
    gap_d: Annotated[float, Meta(description="Least time between two that are told.", ge=0)] = 14.0


@lru_cache(256)
def _ranking(tiers: tuple[str, ...]) -> tuple[str, ...]:
    return tuple(tier.strip().casefold() for tier in tiers)


def check(reorder: ReorderRules, falling: dict[str, FallingRules]) -> None:
    """Raises ValueError with one line on what can't be used."""
    if len(reorder.products) > MAX_PRODUCTS:
        raise ValueError(f"reorder.products: {len(reorder.products)} products, {MAX_PRODUCTS} at most")
    ranking = reorder.ranking
    if len(ranking) > MAX_RANKED or len(set(ranking)) < len(ranking) or "" in ranking:
        raise ValueError(f"reorder.tiers: {MAX_RANKED} at most, each once, none empty")
    for table, rules in falling.items():
        if rules.enter > rules.leave:
            raise ValueError(f"{table}.enter must not be above {table}.leave")
