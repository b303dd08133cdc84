"""`tracker segments`: the segments of a site and how large they are, and who would be in one that is not there yet."""

from __future__ import annotations

import asyncio
import time
import tomllib
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any, Final, TypeVar

import click
import msgspec

from stream.fit.histories import profile_keys
from stream.fold import Folder
from stream.profile import Profile
from stream.signals import SIGNALS, conditions
from stream.signals.base import Context
from stream.stored import StateError
from tracker.cli.common import Failure, site_of
from tracker.contract import keys, models, places, predicates
from tracker.contract.loading import load
from tracker.contract.models import Models
from tracker.contract.predicates import Segment, counted
from tracker.contract.redis_url import admin, reader
from tracker.contract.settings import Settings
from tracker.read_api import read_segments

T = TypeVar("T")
PROGRESS_EVERY: Final = 10_000
SAMPLES: Final = 10

_SITE = click.option("--site", metavar="NAME", help="[default: the only one of tracker.toml, else demo]")


@click.group()
def segments() -> None:
    """Segments of tracker.toml: their sizes, and a look at who would be in one."""


@segments.command(name="list")
@_SITE
def list_(site: str | None) -> int:
    """The site's segments as JSON: what they ask, and how many profiles are in them now."""
    settings, site = _site(site)

    async def main() -> list[dict[str, Any]]:
        async with reader(settings.redis) as redis:
            return await read_segments(redis, settings, site)

    click.echo(_shown(_told(lambda: asyncio.run(main()))))
    return 0


@segments.command()
@click.argument("segment", metavar="NAME|FILE.toml")
@_SITE
@click.option("--most", type=click.IntRange(1), default=100_000, show_default=True, help="Profiles to look at.")
def preview(segment: str, site: str | None, most: int) -> int:
    """How many of the current profiles are in a segment, and some of them, as JSON.

    NAME is one of tracker.toml; FILE.toml has one as it would stand there: `name` and `when`. Nothing is changed.
    Events that no segment of tracker.toml counts have no counts in the profiles yet.
    """
    settings, site = _site(site)
    wanted = _segment(segment, settings, site)
    known = settings.sites.get(site)
    counts = counted([c for s in known.segments for c in s.conditions] if known is not None else [])
    for name in sorted(counted([wanted.when]).keys() - counts.keys()):
        click.echo(f"'{name}' is not counted yet: no segment of tracker.toml asks for it", err=True)
    click.echo(_shown(_told(lambda: members_now(settings, site, wanted, most))))
    return 0


def members_now(settings: Settings, site: str, wanted: Segment, most: int) -> dict[str, Any]:
    """What `preview` shows. Raises RedisError."""
    folder, now_ms = Folder(SIGNALS, settings), time.time_ns() // 1_000_000
    read = found = 0
    samples: list[str] = []
    with closing(admin(settings.redis)) as redis:
        parameters = _models(redis, site)
        for profile in _profiles(redis, folder, site):
            if read >= most:
                break
            read += 1
            if conditions.holds(wanted.when, now_ms, _context(folder, profile, parameters, now_ms))[0]:
                found += 1
                samples += [profile.id] if len(samples) < SAMPLES else []
            if read % PROGRESS_EVERY == 0:
                click.echo(f"{read} profiles, {found} of them", err=True)
    return {
        "segment": wanted.name,
        "site": site,
        "profiles": read,
        "members": found,
        "share": found / read if read else None,
        "complete": read < most,
        "samples": samples,
    }


def _models(redis: Any, site: str) -> Models:
    """The site's parameters, as a partition's owner folds with: all have the same but for a moment."""
    stored = redis.hmget(keys.models_key(0), [f"{site}|{signal}" for signal in models.SIGNALS])
    found = [models.decode_model(text) for text in stored if text is not None]
    return {(model.site, model.signal): model for model in found}


def _context(folder: Folder, profile: Profile, parameters: Models, now_ms: int) -> Context:
    return msgspec.structs.replace(folder.context(profile, now_ms), models=parameters)


def _profiles(redis: Any, folder: Folder, site: str) -> Iterator[Profile]:
    """Those that are somebody: not merged into another."""
    seen: set[int] = set()
    for names in profile_keys(redis, site):
        pipe = redis.pipeline(transaction=False)
        for key in names:
            pipe.hgetall(key)
        for key, fields in zip(names, pipe.execute(), strict=True):
            id = key.partition(f":v:{site}:")[2]
            try:
                profile = folder.codec.decode(site, id, [part for pair in fields.items() for part in pair])
            except StateError as e:  # the others are worth seeing
                click.echo(f"left out: {e}", err=True)
                continue
            if profile.about is not None and (mark := hash(id)) not in seen:  # a scan may give a key twice
                seen.add(mark)
                yield profile


def _site(site: str | None) -> tuple[Settings, str]:
    settings = load()
    return settings, site_of(settings, site)


def _segment(name: str, settings: Settings, site: str) -> Segment:
    known = settings.sites.get(site)
    for segment in known.segments if known is not None else ():
        if segment.name == name:
            return segment
    if not name.endswith(".toml"):
        raise Failure(f"site '{site}' has no segment '{name}' in tracker.toml; a file's name ends with .toml")
    try:
        said = tomllib.loads(Path(name).read_text("utf-8"))
        found: Segment = places.convert({"name": "preview", **said}, Segment)
        predicates.check((found,), ())
    except places.PlaceError as e:
        raise Failure(f"{name}: {e.place}{': ' if e.place else ''}{e.why}") from None
    except (OSError, UnicodeDecodeError, ValueError) as e:
        raise Failure(f"{name}: {e}") from None
    return found


def _shown(found: Any) -> str:
    return msgspec.json.format(msgspec.json.encode(found), indent=2).decode()


def _told(read: Callable[[], T]) -> T:
    """What is read of Redis, or why not."""
    from redis.exceptions import RedisError

    try:
        return read()
    except RedisError as e:
        raise Failure(f"Redis does not answer ({type(e).__name__}); `tracker doctor` looks at it") from None
