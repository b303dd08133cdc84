"""Maximum a posteriori fits of BG/NBD, MBG/NBD and Gamma-Gamma, with analytic gradients. numpy and scipy.

Equal histories are one row with a count. Special functions and logarithms are computed once a distinct x, t_x and T, so
that 100,000 customers take some hundredths of a second an evaluation. Parameters are fitted as logarithms; the prior on
each is normal. Formulas: stream/core/churn.py, stream/core/value.py; Gamma-Gamma's likelihood is Fader, Hardie 2013.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import minimize
from scipy.special import expit, gammaln, psi, roots_jacobi

from stream.core.churn import COLD, Family, Params
from stream.core.value import ValueParams

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

PRIOR_SD: Final = 0.5
LOW: Final = float(np.log(1e-4))
HIGH: Final = float(np.log(1e4))
NEAR: Final = 1e-3
"""A logarithm that near a bound is at it."""
NEWTON_STEPS: Final = 4
NODES: Final = 32
"""Of the quadrature of `lifetime_values`."""
VALUE_PRIOR: Final = (5.0, 4.0, 0.6)
"""p, q, v in units of the median value: a mean of 1 (p v / (q - 1))."""
VALUE_SD: Final = 1.0


class Histories(NamedTuple):
    """Rows of equal histories."""

    x: Ints
    t_x: Floats
    t: Floats
    """Weeks."""
    n: Ints
    """Customers with it."""

    @property
    def customers(self) -> int:
        return int(self.n.sum())


class Fit(NamedTuple):
    values: tuple[float, ...]
    ll: float
    """Log-likelihood of all customers, without the prior."""
    at_bound: bool


def compressed(x: Ints, t_x_days: Ints, t_days: Ints) -> Histories:
    """Histories in days, one a customer -> rows in weeks."""
    key = (x << 40) | (t_x_days << 20) | t_days
    rows, n = np.unique(key, return_counts=True)
    mask = (1 << 20) - 1
    return Histories(rows >> 40, ((rows >> 20) & mask) / 7, (rows & mask) / 7, n.astype(np.int64))


def fit_purchases(family: Family, rows: Histories, prior: Params | None = None, sd: float = PRIOR_SD) -> Fit:
    """(r, alpha, a, b). prior: None = maximum likelihood."""
    evaluate = _purchases(family, rows)
    centre = None if prior is None else np.log([prior.r, prior.alpha, prior.a, prior.b])
    start = np.log([COLD.r, COLD.alpha, COLD.a, COLD.b]) if centre is None else centre
    return _fit(evaluate, start, centre, sd)


def log_likelihood(family: Family, rows: Histories, p: Params) -> float:
    return _purchases(family, rows)(np.array([p.r, p.alpha, p.a, p.b]))[0]


def fit_values(x: Ints, mean: Floats, prior: bool = True) -> Fit | None:
    """(p, q, v) of customers with x > 0 repeats of that mean value, above 0. None: no mean follows from it."""
    unit = float(np.median(mean))
    evaluate = _values(x.astype(np.float64), mean / unit)
    centre = np.log(np.array(VALUE_PRIOR))
    fit = _fit(evaluate, centre, centre if prior else None, VALUE_SD)
    p, q, v = fit.values
    if q <= 1.0 + NEAR:
        return None
    return Fit((p, q, v * unit), fit.ll - len(x) * float(np.log(unit)), fit.at_bound)


Evaluate = Callable[[Floats], tuple[float, Floats]]
"""Parameters -> (log-likelihood, its gradient)."""


def _purchases(family: Family, rows: Histories) -> Evaluate:
    x, of_x = np.unique(rows.x, return_inverse=True)
    t_x, of_t_x = np.unique(rows.t_x, return_inverse=True)
    t, of_t = np.unique(rows.t, return_inverse=True)
    n = rows.n.astype(np.float64)
    total = n.sum()
    n_x = np.bincount(of_x, weights=n)
    m = x + (1 if family == "mbgnbd" else 0)
    some = m > 0  # BG/NBD: who bought once has not dropped out
    m_1 = np.maximum(m - 1, 0)

    def evaluate(values: Floats) -> tuple[float, Floats]:
        r, alpha, a, b = (float(v) for v in values)
        ln_t, ln_t_x = np.log(alpha + t), np.log(alpha + t_x)
        beta = gammaln(a + b) - gammaln(a) - gammaln(b) - gammaln(a + b + m)
        alive = beta + gammaln(a) + gammaln(b + m)
        gone = np.where(some, beta + gammaln(a + 1) + gammaln(b + m_1), -np.inf)
        rx = (r + x)[of_x]
        b0, b1 = alive[of_x] - rx * ln_t[of_t], gone[of_x] - rx * ln_t_x[of_t_x]
        ll = np.logaddexp(b0, b1)
        w0 = np.exp(b0 - ll)
        w1 = 1.0 - w0
        value = float(n @ ll + n_x @ (gammaln(r + x) - gammaln(r)) + total * r * np.log(alpha))
        n0, n1 = n * w0, n * w1
        d_r = float(n_x @ (psi(r + x) - psi(r)) + total * np.log(alpha) - n0 @ ln_t[of_t] - n1 @ ln_t_x[of_t_x])
        d_alpha = total * r / alpha - (n0 * rx) @ (1 / (alpha + t))[of_t] - (n1 * rx) @ (1 / (alpha + t_x))[of_t_x]
        both = n_x @ (psi(a + b) - psi(a + b + m))
        d_a = float(n1.sum() / a + both)
        by_x0, by_x1 = np.bincount(of_x, weights=n0), np.bincount(of_x, weights=n1)
        d_b = float(by_x0 @ psi(b + m) + by_x1 @ psi(b + m_1) - total * psi(b) + both)
        return value, np.array([d_r, float(d_alpha), d_a, d_b])

    return evaluate


def _values(x: Floats, mean: Floats) -> Evaluate:
    ln_x, ln_m, sums = np.log(x), np.log(mean), x * mean

    def evaluate(values: Floats) -> tuple[float, Floats]:
        p, q, v = (float(value) for value in values)
        px = p * x
        ln_all = np.log(sums + v)
        value = gammaln(px + q) - gammaln(px) - gammaln(q) + q * np.log(v) + (px - 1) * ln_m + px * ln_x
        value -= (px + q) * ln_all
        top = psi(px + q)
        d_p = x * (top - psi(px) + ln_m + ln_x - ln_all)
        d_q = top - psi(q) + np.log(v) - ln_all
        d_v = q / v - (px + q) / (sums + v)
        return float(value.sum()), np.array([d_p.sum(), d_q.sum(), d_v.sum()])

    return evaluate


def _fit(evaluate: Evaluate, start: Floats, centre: Floats | None, sd: float) -> Fit:
    def cost(logs: Floats) -> tuple[float, Floats]:
        values = np.exp(logs)
        ll, gradient = evaluate(values)
        value, slope = -ll, -gradient * values
        if centre is not None:
            value += float(((logs - centre) ** 2).sum()) / (2 * sd**2)
            slope = slope + (logs - centre) / sd**2
        return value, slope

    bounds = [(LOW, HIGH)] * len(start)
    options = {"maxiter": 500, "ftol": 1e-13, "gtol": 1e-6}
    logs: Floats = minimize(cost, start, jac=True, method="L-BFGS-B", bounds=bounds, options=options).x
    at_bound = bool(np.any((logs < LOW + NEAR) | (logs > HIGH - NEAR)))
    if not at_bound:
        logs = _polished(cost, logs)
    values = np.exp(logs)
    return Fit(tuple(float(v) for v in values), evaluate(values)[0], at_bound)


def _polished(cost: Evaluate, logs: Floats) -> Floats:
    """Newton's last steps, by differences of the gradient: L-BFGS-B stops where the cost no longer changes."""
    step = 1e-4
    best, slope = logs, cost(logs)[1]
    for _ in range(NEWTON_STEPS):
        hessian = np.array(
            [(cost(best + step * e)[1] - cost(best - step * e)[1]) / (2 * step) for e in np.eye(len(best))]
        )
        try:
            move = np.linalg.solve((hessian + hessian.T) / 2, slope)
        except np.linalg.LinAlgError:
            return best
        if not np.all(np.isfinite(move)) or np.abs(move).max() > 0.1:
            return best
        after = cost(best - move)[1]
        if np.abs(after).max() >= np.abs(slope).max():
            return best
        best, slope = best - move, after
    return best


def risks(p: Params, x: Ints, t_x: Floats, t: Floats, horizon: float) -> Floats:
    """stream/core/churn.py's `risk` of many customers; times in weeks."""
    z = (p.r + x) * np.log1p((t - t_x) / (p.alpha + t_x)) + np.log(p.a) - np.log(p.b + x)
    comes: Floats = expit(-z) * -np.expm1(-(p.r + x) * np.log1p(horizon / (p.alpha + t)))
    return 1 - comes


def lifetime_values(
    p: Params, g: ValueParams, x: Ints, t_x: Floats, t: Floats, mean: Floats, by_week: tuple[float, ...]
) -> Floats:
    """stream/core/value.py's `lifetime_value` of many customers, for a quantile: by Gauss-Jacobi, some digits less."""
    rows, of_row = np.unique(np.stack((x.astype(np.float64), t)), axis=1, return_inverse=True)
    of_row = of_row.reshape(-1)
    bought = np.empty(rows.shape[1])
    for each in np.unique(rows[0]):
        mine = rows[0] == each
        at, weights = roots_jacobi(NODES, p.b + each, p.a - 1)
        chance, weights = (1 + at) / 2, weights / weights.sum()
        scale = chance[None, :] / (p.alpha + rows[1][mine])[:, None]
        before, total = np.zeros_like(scale), np.zeros_like(scale)
        for week, factor in enumerate(by_week, 1):
            now = -np.expm1(-(p.r + each) * np.log1p(scale * week))
            total += (now - before) * factor
            before = now
        bought[mine] = (total / chance) @ weights
    z = (p.r + x) * np.log1p((t - t_x) / (p.alpha + t_x)) + np.log(p.a) - np.log(p.b + x)
    worth = np.where(x > 0, g.p * (g.v + x * mean) / (g.p * x + g.q - 1), g.p * g.v / (g.q - 1))
    values: Floats = worth * expit(-z) * bought[of_row]
    return values
