"""Will a customer come back? BG/NBD and MBG/NBD: closed forms in log space, no table, no loop over events.

A customer buys at a rate (gamma: r, alpha) until dropping out, with a chance (beta: a, b) after each purchase; the MBG
variant lets them drop out after the first one too. x: repeat purchase days; t_x: age at the last; t: age now, counted
from the first, all in the unit of alpha (here weeks). Sources: Fader, Hardie, Lee 2005 (BG/NBD); Batislam, Denizel,
Filiztekin 2007 (MBG/NBD).

P(alive) of BG/NBD is 1 for ever for one-time buyers and must not be the signal; P(at least one purchase in the next h)
of MBG/NBD is. It falls in t, so that a customer's risk = 1 - P crosses a threshold once: `crossing` finds when.
How many purchases are to be expected is stream/core/expected.py's, what they are worth stream/core/value.py's.
"""

from __future__ import annotations

from math import exp, expm1, inf, lgamma, log, log1p
from typing import Final, Literal

from msgspec import Struct

MAX_T: Final = 52.18 * 100
"""Weeks; a crossing later than that is none."""

Family = Literal["bgnbd", "mbgnbd"]


class Params(Struct, frozen=True):
    """All above 0."""

    r: float
    alpha: float
    a: float
    b: float


COLD: Final = Params(1.0, 8.0, 1.0, 2.5)
"""The prior, in weeks: what is known of a shop's customers before there are 25."""


def _expit_neg(z: float) -> float:
    """1 / (1 + e^z), without overflow."""
    if z > 0:
        e = exp(-z)
        return e / (1.0 + e)
    return 1.0 / (1.0 + exp(z))


def bg_p_alive(p: Params, x: float, t_x: float, t: float) -> float:
    """P(alive) of BG/NBD; 1 for x = 0."""
    if x == 0:
        return 1.0
    return _expit_neg(_log_decay(p, x, t_x, t) + log(p.a) - log(p.b + (x - 1)))


def p_alive(p: Params, x: float, t_x: float, t: float) -> float:
    """P(alive) of MBG/NBD."""
    return _expit_neg(_log_decay(p, x, t_x, t) + log(p.a) - log(p.b + x))


def _log_decay(p: Params, x: float, t_x: float, t: float) -> float:
    return (p.r + x) * log1p((t - t_x) / (p.alpha + t_x)) if t > t_x else 0.0


def p_active(p: Params, x: float, t: float, h: float) -> float:
    """P(at least one purchase within the next h, if alive). The same in both models."""
    return -expm1(-(p.r + x) * log1p(h / (p.alpha + t)))


def bg_p_at_least_one(p: Params, x: float, t_x: float, t: float, h: float) -> float:
    """P(at least one purchase within the next h), BG/NBD."""
    return bg_p_alive(p, x, t_x, t) * p_active(p, x, t, h)


def p_at_least_one(p: Params, x: float, t_x: float, t: float, h: float) -> float:
    """P(at least one purchase within the next h), MBG/NBD: falls in t."""
    return p_alive(p, x, t_x, t) * p_active(p, x, t, h)


def risk(p: Params, x: float, t_x: float, t: float, h: float) -> float:
    """1 - P(at least one purchase within the next h), MBG/NBD."""
    return 1.0 - p_at_least_one(p, x, t_x, t, h)


def log_likelihood(family: Family, p: Params, x: float, t_x: float, t: float) -> float:
    """Of one customer's history."""
    bought = _log_gamma_ratio(p.r, x) + p.r * log(p.alpha)
    more = 1 if family == "mbgnbd" else 0  # times that the customer could have dropped out, but for the last
    alive = _log_beta_ratio(p, 0, x + more) - (p.r + x) * log(p.alpha + t)
    if x == 0 and not more:
        return bought + alive
    gone = _log_beta_ratio(p, 1, x + more - 1) - (p.r + x) * log(p.alpha + t_x)
    high = max(alive, gone)
    return bought + high + log(exp(alive - high) + exp(gone - high))


def _log_beta_ratio(p: Params, i: float, j: float) -> float:
    """ln B(a + i, b + j) - ln B(a, b)."""
    return _log_gamma_ratio(p.a, i) + _log_gamma_ratio(p.b, j) - _log_gamma_ratio(p.a + p.b, i + j)


def _log_gamma_ratio(z: float, n: float) -> float:
    """ln Gamma(z + n) - ln Gamma(z), also where the two are large and nearly equal (Stirling)."""
    if z < 100:
        return lgamma(z + n) - lgamma(z)
    end = z + n
    near = (end - 0.5) * log1p(n / z) + n * (log(z) - 1)
    return near + (1 / end - 1 / z) / 12 - (end**-3 - z**-3) / 360


def crossing(p: Params, x: int, t_x: float, h: float, enter: float, digits: float = 1e-9) -> float:
    """The age at which the risk reaches `enter` when nothing further is bought, to `digits`, not below it.

    t_x: the risk is that high at once. inf: not within a hundred years.
    """
    if risk(p, x, t_x, t_x, h) >= enter:
        return t_x
    low, span = t_x, 1.0
    while risk(p, x, t_x, t_x + span, h) < enter:
        low, span = t_x + span, 2 * span
        if span > 2 * MAX_T:
            return inf
    high = t_x + span
    while high - low > digits:
        mid = (low + high) / 2
        if mid in (low, high):
            break
        if risk(p, x, t_x, mid, h) >= enter:
            high = mid
        else:
            low = mid
    return high if high <= MAX_T else inf


BANDS: Final = ("low", "medium", "high")
LOW_BAND, HIGH_BAND = 0.33, 0.66


def band(risk: float) -> str:
    """For display: low (< .33), medium, high (> .66)."""
    return "low" if risk < LOW_BAND else "high" if risk > HIGH_BAND else "medium"
