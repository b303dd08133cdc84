"""Closed days of counters, summed up over all partitions: one hash a site, family and day, so that a window of weeks
reads one hash a day instead of one a partition and day.

A rollup is a copy, and carries the sum of all it holds; counters only rise, so it is the same as the partitions'
buckets exactly when that sum is theirs. Readers check it (tracker/counters.py) and read the partitions where it is not,
so nothing hangs on when a day is rolled up, or by whom: the owner of profile-events partition 0 does, and two who both
believe to be it, or one that dies in the middle of it, do no harm (stream/roll.lua). A late event changes its day's
sum; of the last days that is seen within a minute, of the others within an hour.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterable
from time import time
from typing import Any, Final

from stream.packing import unpackb
from stream.redis_store import RedisError, Store, Unavailable
from tracker.contract import keys
from tracker.contract.durations import DAY_S
from tracker.contract.settings import Settings
from tracker.contract.windows import LONGEST_S, Zone, days

log = logging.getLogger(__name__)

EVERY_S: Final = 60.0
ALL_EVERY: Final = 60
"""Every so many times all days of the longest window are checked, else the last ones only."""
LAST_S: Final = 2 * DAY_S
AT_ONCE: Final = 16
"""Partitions whose buckets are read together."""


_OPEN: Final = frozenset(keys.OPEN_KINDS)


def merged(buckets: Iterable[list[Any]]) -> tuple[int, dict[str, int]]:
    """(sum, field -> count) of the same day's buckets of all partitions, [field, count, ...] each. Pure.

    The names are the largest of those that clients make up, and all others; the counts of the rest go to their kind's
    field without a name. None is more than keys.MAX_COUNT, as in the buckets.
    """
    total, fields = 0, dict[str, int]()
    for flat in buckets:
        for field, count in zip(flat[::2], flat[1::2], strict=True):
            if field == keys.SUM_FIELD:
                total += int(count)
            else:
                fields[field] = fields.get(field, 0) + int(count)
    if len(fields) > keys.MAX_ROLLED_FIELDS:
        ranked = sorted(fields.items(), key=lambda item: (item[0].partition("|")[0] in _OPEN, -item[1], item[0]))
        fields = dict(ranked[: keys.MAX_ROLLED_FIELDS])
        for field, count in ranked[keys.MAX_ROLLED_FIELDS :]:
            unnamed = keys.unnamed_field(field.partition("|")[0])
            fields[unnamed] = fields.get(unnamed, 0) + count
    if total > keys.MAX_COUNT:
        fields = {field: min(count, keys.MAX_COUNT) for field, count in fields.items()}
    return min(total, keys.MAX_COUNT), fields


async def roll(store: Store, settings: Settings, site: str, zone: Zone, now_s: int, window_s: int) -> int:
    """Roll up the site's closed days of the window that have changed: how many. Raises RedisError, Unavailable."""
    closed = days(now_s, window_s, zone)[:-1]
    rolled = 0
    days_of = [(family, day) for family in keys.FAMILIES for day in closed]
    names = [f"{site}:{family}:d:{day}" for family, day in days_of]
    parts = [unpackb(a) for a in await _read(store, settings.partitions, names, whole=False)]
    known = await asyncio.gather(*(store.run("HGET", keys.rollup_key(site, *each), keys.SUM_FIELD) for each in days_of))
    for i, each in enumerate(days_of):
        if min(sum(int(sums[i] or 0) for sums in parts), keys.MAX_COUNT) == int(known[i] or 0):
            continue
        answers = await _read(store, settings.partitions, [names[i]], whole=True)
        total, fields = merged(unpackb(answer)[0] for answer in answers)
        flat = [x for pair in fields.items() for x in pair]
        rolled += await store.call("roll", keys.rollup_key(site, *each), [total, keys.ROLLUP_KEPT_S, flat])
    return rolled


async def _read(store: Store, partitions: int, names: list[str], *, whole: bool) -> list[bytes]:
    """The partitions' answers, some partitions at a time: other calls come between."""
    answers: list[bytes] = []
    for first in range(0, partitions, AT_ONCE):
        some = range(first, min(first + AT_ONCE, partitions))
        answers += await asyncio.gather(
            *(store.call("days", keys.profiles_tag(p) + ":head", [names, whole]) for p in some)
        )
    return answers


async def keep_rolled(is_ours: Callable[[], bool], store: Store, current: Callable[[], Settings]) -> None:
    """For ever: while profile-events partition 0 is ours, keep the rollups of all sites up to date. `current`: the
    settings as they are now."""
    turn = 0
    while True:
        if is_ours():
            window_s = LONGEST_S if turn % ALL_EVERY == 0 else LAST_S
            settings = current()
            try:
                for name, site in settings.sites.items():
                    try:
                        await roll(store, settings, name, Zone(site.time_zone), int(time()), window_s)
                    except ValueError as e:  # a bucket that somebody else has written to
                        log.error("Days of site %s were not rolled up: %s", name, e)
                turn += 1
            except (RedisError, *Unavailable) as e:
                log.warning("Days were not rolled up: %s: %s", type(e).__name__, e)
        await asyncio.sleep(EVERY_S if turn else 1.0)
