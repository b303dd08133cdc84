"""tracker.toml is read again when it changes, while the program runs. A file that can't be used changes nothing.

What may change so is what has an effect on the next event or request only (`LIVE`): sites with their keys and
policies, the settings of signals, and webhooks. All else (servers, ports, sizes) is taken up by the next start.
"""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import Callable
from hashlib import sha256
from pathlib import Path
from typing import Final

from msgspec.structs import fields, replace

from tracker.contract.loading import SettingsError, config_path
from tracker.contract.settings import Settings

log = logging.getLogger(__name__)

EVERY_S: Final = 2.0
LIVE: Final = frozenset(
    (
        "cart_idle_s", "checkout_idle_s", "payment_idle_s", "cart_lost_s", "cart_repeat_s", "cart_click_s",
        "churn_horizon_d", "churn_enter", "churn_leave", "churn_gap_d", "visit_horizon_d", "message_horizon_d",
        "churn_min_repeats", "churn_recheck_d", "stale_s", "sites", "webhooks",
    )
)  # fmt: skip


def taken_over(now: Settings, new: Settings) -> tuple[Settings, list[str], list[str]]:
    """(the settings to go on with, names of those that changed, names of those that need a restart)."""
    names = [f.name for f in fields(Settings) if getattr(now, f.name) != getattr(new, f.name)]
    live = [name for name in names if name in LIVE]
    return replace(now, **{name: getattr(new, name) for name in live}), live, [n for n in names if n not in LIVE]


class Watch:
    """The file behind the settings, and how they were made of it."""

    def __init__(self, load: Callable[[], Settings], path: Path | None = None) -> None:
        """`load`: as at the start, with the same environment and the same command line."""
        self._load = load
        self._path = path or config_path()
        self._stat = self._look()
        self._content = self._read()

    def poll(self) -> Settings | None:
        """The settings anew; None: the file is as it was. Raises SettingsError, once for each change."""
        stat = self._look()
        if stat == self._stat:
            return None
        self._stat = stat
        content = self._read()
        if content == self._content:
            return None
        self._content = content
        if content is None:
            raise SettingsError(f"{self._path}: the file is gone")
        return self._load()

    def _look(self) -> tuple[int, ...] | None:
        try:
            stat = os.stat(self._path)
        except OSError:
            return None
        return stat.st_mtime_ns, stat.st_size, stat.st_ino

    def _read(self) -> bytes | None:
        try:
            return sha256(self._path.read_bytes()).digest()
        except OSError:
            return None


async def keep_reloading(
    watch: Watch,
    current: Callable[[], Settings],
    take: Callable[[Settings], None],
    failed: Callable[[], None],
    every_s: float = EVERY_S,
) -> None:
    """For ever: give `take` the settings to go on with whenever the file has changed; call `failed` for one that can't
    be used. What needs a restart is told in the log."""
    waits_for_restart: list[str] = []
    while True:
        await asyncio.sleep(every_s)
        try:
            new = watch.poll()
        except SettingsError as e:
            failed()
            log.error("tracker.toml was changed and can't be used, the settings before stay: %s", e)
            continue
        if new is None:
            continue
        settings, live, rest = taken_over(current(), new)
        take(settings)
        log.info("tracker.toml was changed: %s", ", ".join(live) or "nothing that has an effect now")
        if rest and rest != waits_for_restart:
            log.warning("These settings need a restart, until then they stay: %s", ", ".join(rest))
        waits_for_restart = rest
