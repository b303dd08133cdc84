"""Seconds to fit a site's churn models (stream/fit), one process: 100,000 simulated customers."""

from __future__ import annotations

import argparse
import time
from array import array
from collections.abc import Callable, Sequence

import numpy as np

from stream.core.churn import COLD
from stream.fit.histories import Found
from stream.fit.likelihood import compressed, fit_purchases
from stream.fit.run import judged
from tracker.contract.settings import Settings

CUSTOMERS = 100_000
DAYS = 700
RUNS = 3


def histories(customers: int) -> Found:
    """As MBG/NBD has them, with values."""
    draw, found = np.random.default_rng(1), Found(customers)
    age = draw.integers(1, DAYS, customers)
    rate, leave = draw.gamma(0.5, 1 / 6, customers), draw.beta(0.9, 1.6, customers)
    x, last, at = np.zeros(customers, np.int64), np.zeros(customers, np.int64), np.zeros(customers)
    alive = draw.random(customers) > leave
    while alive.any():
        at = np.where(alive, at + 7 * draw.exponential(1, customers) / np.maximum(rate, 1e-12), at)
        alive &= at <= age
        day = np.where(alive, at, 0).astype(np.int64)
        x += alive & (day > last)
        last = np.maximum(last, day)
        alive &= draw.random(customers) > leave
    found.x, found.t_x_days, found.t_days = (array("q", c.astype(np.int64).tobytes()) for c in (x, last, age))
    found.hash = array("q", range(customers))
    means = np.where(x > 0, draw.gamma(6, 3, customers), 0.0)
    found.means["VND"] = (array("q", range(customers)), array("d", means.tobytes()))
    return found


def best_s(of: Callable[[], object]) -> float:
    taken = []
    for _ in range(RUNS):
        began = time.perf_counter()
        of()
        taken.append(time.perf_counter() - began)
    return min(taken)


def main(argv: Sequence[str]) -> None:
    """Print the table."""
    argparse.ArgumentParser(prog="python -m bench fit", description=__doc__).parse_args(argv)
    found = histories(CUSTOMERS)
    columns = [np.frombuffer(c, dtype=np.int64) for c in (found.x, found.t_x_days, found.t_days)]
    rows = compressed(*columns)
    print(f"fit: {CUSTOMERS:,} customers of up to {DAYS} days, {len(rows.x):,} different histories; best of {RUNS}, s")
    for what, of in (
        ("MBG/NBD, with compressing equal histories", lambda: fit_purchases("mbgnbd", compressed(*columns), COLD)),
        ("the same, Gamma-Gamma, all predicted values", lambda: judged(Settings(), "s", "purchase", found, {}, 1)),
    ):
        print(f"{what:<46} {best_s(of):>8.2f}", flush=True)
