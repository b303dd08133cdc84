"""How many purchases are to be expected: E[Y(t)] of BG/NBD and MBG/NBD.

The papers give (a+b+x)/(a-1) * [1 - ((alpha+T)/(alpha+T+t))^(r+x) * 2F1(...)] * P(alive): a difference of two nearly
equal numbers for a small t, with a hole at a = 1, and a 2F1 whose series needs thousands of terms for a large t. It is
the value of an integral (Euler's), of which nothing cancels: who is alive buys at a rate ~ gamma(R = r + x,
A = alpha + T) until dropping out with a chance p ~ beta(a, B) at each purchase, so

    E[Y(t) | alive] = mean over p of g(p),  g(p) = [1 - (1 + p t / A)^(-R)] / p,  B = b + x (BG), b + x + 1 (MBG).

With u = ln(p / (1 - p)) the integrand is smooth, and the trapezoidal rule converges exponentially: its step decides,
not the number of nodes. Both ends fall like an exponential, as slowly as a or B are small, so they are stretched by a
second exponential (Takahasi, Mori 1974) beyond where the integrand has its nearest singularities, u = 0 +- i pi and
u = -ln(1 + t/A) +- i pi. The mean's own weights are summed the same way, so no ln B is needed. Pure Python, some 70
nodes (about 0.1 ms).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from math import exp, expm1, log, log1p, sqrt
from sys import float_info
from typing import Final

from stream.core.churn import Family, Params, bg_p_alive, p_alive

STEP: Final = 0.25
ROOM: Final = 3.0
"""How far beyond the singularities an end is stretched."""
DIGITS: Final = 1e-19
LEAST: Final = 1e-100
"""A parameter below that changes no result."""
MOST: Final = 1e150
"""What is more counts as this: sums of it are still numbers."""
MAX_NODES: Final = 5_000
"""Each way; extreme parameters take some thousand."""
POINT: Final = 1e-11
"""Variance of u below which all of it is at one point."""


def mean_purchases(family: Family, p: Params, x: float, t_x: float, t: float, h: float) -> float:
    """E[Y(h)]: purchases within the next h of a customer with this history."""
    alive = p_alive(p, x, t_x, t) if family == "mbgnbd" else bg_p_alive(p, x, t_x, t)
    return min(alive * if_alive(family, p, x, t, h), float_info.max)


def mean_purchases_of_new(family: Family, p: Params, h: float) -> float:
    """E[X(h)]: purchases within the first h of somebody who has just bought for the first time."""
    return mean_purchases(family, p, 0, 0.0, 0.0, h)


def if_alive(family: Family, p: Params, x: float, t: float, h: float) -> float:
    """The same of one who is alive."""
    if h == 0:
        return 0.0
    rate, scale = p.r + x, min(h / (p.alpha + t), MOST)

    def purchases(u: float) -> float:
        return _bought(_chance(u), rate, scale)

    return mean(purchases, p.a, dropout_b(family, p, x), scale, rate)


def dropout_b(family: Family, p: Params, x: float) -> float:
    """B: of p ~ beta(a, B), the chance of one who is alive to drop out at the next purchase."""
    return p.b + x + (1 if family == "mbgnbd" else 0)


def discounted(
    family: Family, p: Params, x: float, t_x: float, t: float, factors: Sequence[float], step: float = 1.0
) -> float:
    """Sum over i = 1.. of (E[Y(i step)] - E[Y((i-1) step)]) * factors[i-1]."""
    alive = p_alive(p, x, t_x, t) if family == "mbgnbd" else bg_p_alive(p, x, t_x, t)
    if alive == 0 or not factors:
        return 0.0
    rate, scale = p.r + x, min(step / (p.alpha + t), MOST)

    def purchases(u: float) -> float:
        chance = _chance(u)
        before, total = 0.0, 0.0
        for i, factor in enumerate(factors, 1):
            now = _bought(chance, rate, i * scale)
            total += (now - before) * factor
            before = now
        return total

    return min(alive * mean(purchases, p.a, dropout_b(family, p, x), scale * len(factors), rate), float_info.max)


def _chance(u: float) -> float:
    """p of u = ln(p / (1 - p))."""
    return 1.0 / (1.0 + exp(-u)) if u > 0 else exp(u) / (1.0 + exp(u))


def _bought(chance: float, rate: float, scale: float) -> float:
    """g: [1 - (1 + p t/A)^(-R)] / p, and its limit R t/A."""
    y = chance * scale
    return min(-expm1(-rate * log1p(y)) / chance if y > 1e-280 else rate * scale, MOST)


def mean(of: Callable[[float], float], a: float, b: float, scale: float, rate: float) -> float:
    """The mean of a function of u = ln(p / (1 - p)), p ~ beta(a, b).

    `of` is positive, falls, and looks like `_bought` of this rate and scale.
    """
    a, b = max(a, LEAST), max(b, LEAST)
    middle = log(a) - log(b)
    if 1 / a + 1 / b < POINT:
        return of(middle)
    peak = -a * _soft(-middle) - b * _soft(middle)
    # Where the mass of the integrand may begin: `of` moves it to the left, far only where a is small.
    lowest = min(middle, -log(rate) - log(scale) if rate * scale > 0 else 0.0) if a < 2 else middle - 1.0
    left, right = min(-log1p(scale), lowest) - ROOM, max(0.0, middle) + ROOM
    step = min(STEP, 0.5 * sqrt(1 / a + 1 / b))

    def walk(direction: int, end: float) -> Iterator[tuple[float, float]]:
        """(weight, u) from the middle on, until nothing more comes."""
        s = start + (step if direction > 0 else 0.0)
        for _ in range(MAX_NODES):
            down, up = _exp(left - s), _exp(s - right)
            u = s - down + up
            # ln p = -ln(1 + e^-u), ln(1 - p) = -ln(1 + e^u): of each the side that is exact
            weight = _exp(-a * _soft(-u) - b * _soft(u) - peak) * (1.0 + down + up)
            yield weight, u
            if weight < total[0] * DIGITS and last[0] < total[1] * DIGITS and (u - end) * direction > 0:
                return
            s += direction * step

    start = _start(middle, left, right)
    total, last = [0.0, 0.0], [0.0]
    for direction, end in ((-1, lowest), (1, middle)):
        for weight, u in walk(direction, end):
            last[0] = weight * of(u) if weight else 0.0
            total[0] += weight
            total[1] += last[0]
    return total[1] / total[0]


def _start(u: float, left: float, right: float) -> float:
    """About the s of a u, so that the walk begins where the weights are."""
    low, high = left - 710.0, right + 710.0
    for _ in range(60):
        s = (low + high) / 2
        if s - _exp(left - s) + _exp(s - right) < u:
            low = s
        else:
            high = s
    return (low + high) / 2


def _exp(v: float) -> float:
    return exp(v) if v < 700 else exp(700)


def _soft(u: float) -> float:
    """ln(1 + e^u)."""
    return u + log1p(exp(-u)) if u > 0 else log1p(exp(u))
