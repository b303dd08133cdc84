"""`python -m stream.fit SITE`: the process of the nightly fit. A line a signal; exit code 1 when it failed."""

from __future__ import annotations

import os
import sys

from redis.exceptions import RedisError

from stream.fit.run import Busy, Missing, Report, fit_site
from stream.stored import StateError
from tracker.contract.loading import SettingsError, load
from tracker.contract.producer import ProduceError


def line(report: Report) -> str:
    model = report.model
    of = f"{report.site}/{report.signal}: {report.status}, {report.customers:,} customers, {report.days} days"
    if model is not None:
        of += f", version {model.version} ({model.confidence}): r={model.r:.4g} alpha={model.alpha:.4g} "
        of += f"a={model.a:.4g} b={model.b:.4g}"
    return f"{of}; {report.reason}" if report.reason else of


def main(site: str) -> int:
    os.nice(10)
    try:
        for report in fit_site(load(), site):
            print(line(report))
    except (Busy, Missing, StateError, RedisError, ProduceError, SettingsError, OSError) as e:
        print(f"{type(e).__name__}: {e}")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
