"""The worker's own fit: once a night for each site, in a process of its own, so that the worker's loop never waits.

While profile-events partition 0 is ours. Two workers who both believe to own it do no harm: a lock lets one fit a site
at a time, and who comes second finds the night's fit done. A site that has been fitted before is made up for when no
worker ran at its hour; a new one waits for its first night.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import sys
from collections.abc import Callable
from time import time
from typing import Final

import msgspec

from stream import metrics
from stream.redis_store import RedisError, Store, Unavailable
from tracker.contract import keys
from tracker.contract.durations import DAY_S, HOUR_S
from tracker.contract.settings import Settings
from tracker.contract.windows import Zone

log = logging.getLogger(__name__)

FIT_TIMEOUT_S: Final = 1800.0


class _Fitted(msgspec.Struct):
    """What of a Report tells when it was, and what is shown of it."""

    at_ms: int
    signal: str = ""
    bands: dict[str, int] = {}


_fitted: Final = msgspec.json.Decoder(_Fitted)


def last_hour_s(now_s: int, hour: int, zone: Zone) -> int:
    """When it was that hour of the site's day last, epoch s."""
    local_s = now_s + zone.offset_s(now_s)
    at_local_s = local_s - local_s % DAY_S + hour * HOUR_S
    at_s = zone.of_local(at_local_s)
    return at_s if at_s <= now_s else zone.of_local(at_local_s - DAY_S)


def is_due(now_s: int, hour: int, zone: Zone, fitted_s: int | None, began_s: int) -> bool:
    """fitted_s: when the site was fitted last; began_s: since when we look."""
    at_s = last_hour_s(now_s, hour, zone)
    return fitted_s < at_s if fitted_s is not None else began_s < at_s


async def keep_fitted(is_ours: Callable[[], bool], store: Store, current: Callable[[], Settings]) -> None:
    """For ever: each night's fits. `current`: the settings as they are now, sites change."""
    began_s = int(time())
    tried: dict[str, int] = {}
    while current().fit_hour >= 0:
        await asyncio.sleep(current().fit_check_s)
        settings = current()
        for site, about in settings.sites.items():
            if not is_ours():
                metrics.forget_bands()
                break
            try:
                reports = await store.run("HVALS", keys.fit_key(site))
            except (RedisError, *Unavailable) as e:
                log.warning("Nobody knows when %s was fitted: %s: %s", site, type(e).__name__, e)
                continue
            try:
                fitted = [_fitted.decode(r) for r in reports]
            except msgspec.DecodeError as e:  # another version's, or somebody's: the next fit writes it anew
                log.warning("The report of the last fit of %s can't be read: %s", site, e)
                fitted = []
            for each in fitted:
                metrics.show_bands(site, each.signal, each.bands)
            done = [each.at_ms // 1000 for each in fitted]
            if site in tried:
                done.append(tried[site])  # One that failed is tried again the next night, not at once.
            if is_due(int(time()), settings.fit_hour, Zone(about.time_zone), max(done, default=None), began_s):
                tried[site] = int(time())
                try:
                    await fit(site, settings)
                except OSError as e:
                    log.warning("The fit of %s can't be started: %s", site, e)


async def fit(site: str, settings: Settings) -> int | None:
    """Run `python -m stream.fit SITE` and log what it says; its exit code, None when it took too long."""
    env = {**os.environ, "TRACKER_KAFKA": settings.kafka, "TRACKER_REDIS": settings.redis}
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "stream.fit", site, env=env, stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT,
    )  # fmt: skip
    try:
        async with asyncio.timeout(FIT_TIMEOUT_S):
            said, _ = await process.communicate()
    except TimeoutError:
        log.warning("The fit of %s took longer than %.0f s and was ended", site, FIT_TIMEOUT_S)
        return None
    finally:
        if process.returncode is None:  # Also when the worker stops.
            with contextlib.suppress(ProcessLookupError):
                process.kill()
            await asyncio.shield(process.wait())
    for line in said.decode("utf-8", "replace").splitlines():
        log.log(logging.WARNING if process.returncode else logging.INFO, "fit: %s", line)
    return process.returncode
