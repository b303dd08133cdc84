"""`tracker doctor`: is everything as the product needs it? One line a finding, and what to do."""

from __future__ import annotations

import asyncio
import os
import shutil
import sys
import time
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path
from typing import Any, Final, NamedTuple

import click

from tracker.cli.common import Failure, version
from tracker.contract.loading import SettingsError, load
from tracker.contract.settings import DEMO_SITE, Settings
from tracker.contract.topics import TOPICS

MIN_REDIS: Final = (6, 2)
MAX_CLOCK_DIFFERENCE_MS: Final = 1000
PINNED: Final = ("aiokafka", "faust-streaming")


class Finding(NamedTuple):
    ok: bool
    what: str
    do: str = ""
    """What helps, where it is not ok."""


@click.command()
@click.option("--kafka", metavar="HOST:PORT", help="Kafka's bootstrap servers.")
@click.option("--redis", metavar="URL", help="Redis.")
def doctor(kafka: str | None, redis: str | None) -> int:
    """Check versions, settings, Kafka, topics, Redis and its settings, clocks, webhooks. Exit code 1 on problems."""
    from rich.console import Console
    from rich.text import Text

    console, problems = Console(highlight=False, soft_wrap=True), 0
    for finding in findings(kafka, redis):
        mark = ("ok      ", "green") if finding.ok else ("problem ", "bold red")
        console.print(Text.assemble(mark, finding.what, (f": {finding.do}" if finding.do and not finding.ok else "")))
        problems += not finding.ok
    console.print(f"{problems} problem{'s' * (problems != 1)}" if problems else "everything is as it should be")
    return 1 if problems else 0


def findings(kafka: str | None, redis: str | None) -> Iterator[Finding]:
    yield from _versions()
    try:
        settings = load(kafka=kafka, redis=redis)
    except SettingsError as e:
        yield Finding(False, "settings", str(e))
        return
    yield from _sites(settings)
    yield from _spool(settings)
    yield from _kafka(settings)
    yield from _redis(settings)
    yield from _webhooks(settings)


def _webhooks(settings: Settings) -> Iterator[Finding]:
    if settings.webhooks:
        from tracker.cli.doctor_webhooks import problems

        yield from (Finding(*each) for each in problems(settings))


def _versions() -> Iterator[Finding]:
    python = ".".join(map(str, sys.version_info[:3]))
    yield Finding(sys.version_info >= (3, 11), f"Python {python}", "install Python 3.11 or newer")
    yield Finding(True, f"event-streaming-tracker {version()}")
    wanted = _pins()
    for package in PINNED:
        try:
            found = metadata.version(package)
        except metadata.PackageNotFoundError:
            yield Finding(False, f"{package} is not installed", "run `make setup`")
            continue
        want = wanted.get(package, found)
        yield Finding(
            found == want, f"{package} {found}", f"{want} is what the transport was written for: `make setup`"
        )


def _pins() -> dict[str, str]:
    """Package -> version that this project pins exactly, from its own metadata; {} when it runs uninstalled."""
    try:
        requires = metadata.requires("event-streaming-tracker") or []
    except metadata.PackageNotFoundError:
        return {}
    return dict(r.split(";")[0].strip().split("==", 1) for r in requires if "==" in r.split(";")[0])


def _sites(settings: Settings) -> Iterator[Finding]:
    if settings.sites:
        yield Finding(True, f"sites: {', '.join(sorted(settings.sites))}")
    else:  # No problem where `tracker up --demo` runs, which brings a site of its own.
        yield Finding(True, "sites: none but the demo's; add yours to tracker.toml, see tracker.example.toml")
    if settings.demo and set(settings.sites) - {DEMO_SITE}:
        yield Finding(False, "demo mode with real sites", "unset TRACKER_DEMO: the demo site's keys are public")
    keys_file = Path("tracker.toml")
    if keys_file.exists() and keys_file.stat().st_mode & 0o004:
        yield Finding(False, "tracker.toml holds secret keys and everybody can read it", "chmod o-r tracker.toml")


def _spool(settings: Settings) -> Iterator[Finding]:
    if not settings.spool_dir:
        yield Finding(True, "spool: off; while Kafka does not take events, they are answered with 503")
        return
    root = Path(settings.spool_dir).absolute()
    there = next(folder for folder in (root, *root.parents) if folder.exists())
    what = f"spool {settings.spool_dir}"
    try:
        segments = [path.stat().st_size for path in root.glob("*/*.spool")]
        kept = sorted(path for path in root.glob("*/*.corrupt"))
        free = shutil.disk_usage(there).free + sum(segments)
    except OSError as e:
        yield Finding(
            False, f"{what}: {e.strerror}", "set TRACKER_SPOOL_DIR to a folder that the endpoint may write to"
        )
        return
    writable = there.is_dir() and os.access(there, os.W_OK | os.X_OK)
    yield Finding(
        writable,
        f"{what}: " + (f"{sum(segments) >> 10} KB wait for Kafka" if segments else "empty"),
        f"{there} can't be written: set TRACKER_SPOOL_DIR to a folder that the endpoint may write to",
    )
    yield Finding(
        free >= settings.spool_max_bytes,
        f"spool: the disk has {free >> 20} MB for at most {settings.spool_max_bytes >> 20} MB a process",
        "free some, or lower TRACKER_SPOOL_MAX_BYTES",
    )
    if kept:
        size = sum(path.stat().st_size for path in kept)
        yield Finding(
            False,
            f"spool: {len(kept)} places could not be sent, {size} bytes",
            f"look at {kept[0]}{' and others' if len(kept) > 1 else ''}, then delete them: docs/spool.md",
        )


def _kafka(settings: Settings) -> Iterator[Finding]:
    from tracker.cli import topics

    try:
        brokers = asyncio.run(_brokers(settings))
        yield Finding(True, f"Kafka {settings.kafka}: {brokers} broker{'s' * (brokers != 1)}")
        enough = settings.replication <= brokers
        yield Finding(
            enough, f"replication {settings.replication}", f"there are {brokers} brokers: lower TRACKER_REPLICATION"
        )
        problems = asyncio.run(topics.check(settings))
    except Failure as e:
        yield Finding(False, "Kafka", e.format_message())
        return
    for problem in problems:
        what, _, do = problem.partition(": ")
        yield Finding(False, what, do)
    if not problems:
        yield Finding(True, f"{len(TOPICS)} topics, {settings.partitions} partitions")


async def _brokers(settings: Settings) -> int:
    from tracker.cli import topics

    async with topics.admin(settings.kafka) as client:
        return len((await client.describe_cluster())["brokers"])


def _redis(settings: Settings) -> Iterator[Finding]:
    from redis import RedisCluster
    from redis.exceptions import RedisError

    from tracker.contract.redis_url import admin, shown

    where = shown(settings.redis)
    try:
        client = admin(settings.redis)
    except ValueError as e:
        yield Finding(False, f"Redis {where}", f"{e}: set TRACKER_REDIS to redis://HOST:PORT/0")
        return
    except RedisError as e:
        yield Finding(False, f"Redis {where}: {e}", "start it, or name nodes of the cluster that answer")
        return
    try:
        if isinstance(client, RedisCluster):
            yield from _cluster(client)
            nodes: Any = client
            primaries = [(f"{n.host}:{n.port}", nodes.get_redis_connection(n)) for n in nodes.get_primaries()]
        else:
            primaries = [(where, client)]
        for name, each in primaries:
            yield from _server(each, name)
    except RedisError as e:
        yield Finding(False, f"Redis {where}: {e}", "start it (`tracker up` brings one), or set TRACKER_REDIS")
    finally:
        client.close()


def _cluster(client: Any) -> Iterator[Finding]:
    told: dict[str, str] = client.execute_command("CLUSTER INFO", target_nodes="random")
    state, covered = told.get("cluster_state", "?"), told.get("cluster_slots_ok", "?")
    yield Finding(
        state == "ok" and covered == "16384",
        f"Redis Cluster: {len(client.get_primaries())} primaries, {covered} of 16384 slots, state {state}",
        "partitions whose slots have no primary stand still: `redis-cli --cluster check HOST:PORT`",
    )


def _server(client: Any, where: str) -> Iterator[Finding]:
    info: dict[str, Any] = client.info()
    yield from _redis_settings(client, info, where)
    before = time.time()
    seconds, micros = client.time()
    after = time.time()
    away_ms = max(0.0, before - (seconds + micros / 1e6), seconds + micros / 1e6 - after) * 1000
    yield Finding(
        away_ms <= MAX_CLOCK_DIFFERENCE_MS,
        f"clock: Redis's machine is {away_ms:.0f} ms away from this one",
        "run NTP on both: carts and windows go by the clock",
    )


def _redis_settings(client: Any, info: dict[str, Any], where: str) -> Iterator[Finding]:
    from redis.exceptions import ResponseError

    found = str(info["redis_version"])
    new_enough = tuple(map(int, found.split(".")[:2])) >= MIN_REDIS
    yield Finding(new_enough, f"Redis {found} at {where}", f"{'.'.join(map(str, MIN_REDIS))} or newer is needed")
    role = info.get("role", "master")
    yield Finding(role == "master", f"Redis is a {role}", "TRACKER_REDIS must name the primary: workers write")
    policy = info.get("maxmemory_policy", "?")
    yield Finding(
        policy == "noeviction",
        f"Redis maxmemory-policy {policy}",
        "CONFIG SET maxmemory-policy noeviction: state must not be evicted",
    )
    yield Finding(
        bool(info.get("aof_enabled")), f"Redis appendonly {'yes' if info.get('aof_enabled') else 'no'}",
        "CONFIG SET appendonly yes (and in its redis.conf), or a restart of Redis loses the state",
    )  # fmt: skip
    try:
        fsync = client.config_get("appendfsync").get("appendfsync", "everysec")
        yield Finding(fsync in ("everysec", "always"), f"Redis appendfsync {fsync}", "CONFIG SET appendfsync everysec")
    except ResponseError:
        yield Finding(True, "Redis appendfsync is not told by this server (CONFIG is not allowed)")
    limit, used = int(info.get("maxmemory", 0)), int(info.get("used_memory", 0))
    if limit:
        full = used / limit
        yield Finding(
            full < 0.8,
            f"Redis memory {full:.0%} of {limit >> 20} MB",
            "raise maxmemory, or lower TRACKER_PROFILE_TTL_D",
        )
