"""What a customer's purchases are worth: Gamma-Gamma (Fader, Hardie 2013) and the predicted customer lifetime value.

Purchases of one customer are gamma(p, nu) worth, nu ~ gamma(q, v) over customers, independent of how often they buy.
So what one is worth on average is a weighted mean of the customer's own repeat purchases and of all customers'.
"""

from __future__ import annotations

from typing import Final

from msgspec import Struct

from stream.core.churn import Family, Params
from stream.core.expected import discounted

WEEKS_A_YEAR: Final = 52


class ValueParams(Struct, frozen=True):
    """All above 0."""

    p: float
    q: float
    v: float


def mean_value(g: ValueParams, x: float, mean: float) -> float | None:
    """E[M | x, mean]: of a purchase to come. `mean`: of the x repeat purchases. None: there is none (q <= 1, x = 0)."""
    weight = g.p * x + (g.q - 1)
    if weight <= 0:
        return None
    if x == 0:
        return g.p * g.v / (g.q - 1)
    return g.p * (g.v + x * mean) / weight


def factors(weeks: int, yearly_rate: float) -> tuple[float, ...]:
    """What a sum that comes in week 1, 2, ... is worth today; a year has 52 weeks."""
    weekly = (1.0 + yearly_rate) ** (-1 / WEEKS_A_YEAR)
    return tuple(weekly**week for week in range(1, weeks + 1))


def lifetime_value(
    family: Family, p: Params, g: ValueParams, x: float, t_x: float, t: float, mean: float, by_week: tuple[float, ...]
) -> float | None:
    """What the customer will spend in len(by_week) weeks, discounted (see `factors`). Ages in weeks."""
    worth = mean_value(g, x, mean)
    return None if worth is None else worth * discounted(family, p, x, t_x, t, by_week)
