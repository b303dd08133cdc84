"""What several commands share."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Coroutine
from importlib import metadata
from typing import Any

import click

from tracker.contract.settings import DEMO_SITE, Settings


def version() -> str:
    try:
        return metadata.version("event-streaming-tracker")
    except metadata.PackageNotFoundError:
        return "(not installed: run from the source tree)"


class Failure(click.ClickException):
    """It did not work: one line that says what and what helps. Exit code 1."""

    exit_code = 1


def no_kafka(bootstrap: str) -> Failure:
    return Failure(
        f"no Kafka answers at {bootstrap}: start it (`tracker up` brings one), or set TRACKER_KAFKA to another"
    )


def no_site(settings: Settings, name: str) -> str:
    return f"there is no site '{printable(name, 40)}'; there are: {', '.join(settings.sites) or 'none'}"


def site_of(settings: Settings, name: str | None) -> str:
    """The site that --site names; without it the only one of tracker.toml, else demo.

    Raises UsageError where tracker.toml has sites and none of them is called so: its settings would not hold.
    """
    if name is None:
        return next(iter(settings.sites)) if len(settings.sites) == 1 else DEMO_SITE
    if settings.sites and name not in settings.sites and name != DEMO_SITE:
        raise click.BadParameter(no_site(settings, name), param_hint="--site")
    return name


def printable(text: str, most: int = 200) -> str:
    """Text of a client for a terminal: no control characters, so no escape sequence acts; cut at `most`."""
    clean = "".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in text[: most + 1])
    return clean if len(clean) <= most else clean[:most] + "…"


def run_until_signal(main: Coroutine[Any, Any, int]) -> int:
    """asyncio.run; Ctrl-C and SIGTERM cancel `main` and are its good end: 0, unless it returns a code itself."""

    async def guarded() -> int:
        task = asyncio.ensure_future(main)
        loop = asyncio.get_running_loop()
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(number, task.cancel)
        try:
            return await task
        except asyncio.CancelledError:
            return 0

    return asyncio.run(guarded())
