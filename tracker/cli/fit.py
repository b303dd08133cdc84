"""`tracker fit`: fit the churn models' parameters to the profiles in Redis, and publish what is good."""

from __future__ import annotations

from typing import Any

import click
import msgspec

from tracker.cli.common import Failure, no_site
from tracker.contract.loading import load
from tracker.contract.models import SIGNALS


@click.command()
@click.option("--site", metavar="NAME", help="Of this site.  [all]")
@click.option("--signal", type=click.Choice(SIGNALS), help="Of this signal.  [all]")
@click.option("--dry-run", is_flag=True, help="Publish nothing.")
@click.option("--json", "raw", is_flag=True, help="One JSON object a line.")
@click.option("--kafka", metavar="HOST:PORT", help="Kafka's bootstrap servers.")
@click.option("--redis", metavar="URL", help="Redis.")
def fit(
    site: str | None, signal: str | None, dry_run: bool, raw: bool, kafka: str | None, redis: str | None
) -> int:  # fmt: skip
    """Fit the churn models to the profiles in Redis and publish their parameters; workers take them up at once.

    Workers do it by themselves each night (setting fit_hour). What is fitted and when a fit is refused:
    docs/signals.md.
    """
    settings = load(kafka=kafka, redis=redis)
    if site is not None and site not in settings.sites:
        raise click.UsageError(f"--site: {no_site(settings, site)}")
    if not settings.sites:
        raise Failure("there are no sites: [sites.NAME] in tracker.toml makes one")
    from redis.exceptions import RedisError
    from rich.console import Console

    from stream.fit.__main__ import line
    from stream.fit.run import Busy, Missing, Report, fit_site
    from stream.stored import StateError
    from tracker.contract.producer import ProduceError
    from tracker.contract.redis_url import shown

    signals = SIGNALS if signal is None else (signal,)
    console = Console(stderr=True)
    reports: list[Report] = []
    for name in (site,) if site is not None else settings.sites:
        with console.status(f"{name}: reading profiles") as status:
            seen = 0

            def progress(what: str, n: int, name: str = name, status: Any = status) -> None:
                nonlocal seen
                seen += n
                text = f"reading profiles: {seen:,}" if what == "read" else f"{seen:,} profiles: fitting {what}"
                status.update(f"{name}: {text}")

            try:
                reports += fit_site(settings, name, signals, dry_run=dry_run, progress=progress)
            except (Busy, Missing, StateError) as e:
                raise Failure(str(e)) from None
            except RedisError as e:
                raise Failure(f"Redis at {shown(settings.redis)}: {e}") from None
            except (ProduceError, OSError) as e:
                raise Failure(
                    f"Kafka at {settings.kafka} took no parameters ({e}): they are as they were, or some "
                    "partitions have the new ones; run it again"
                ) from None
        for report in reports[-len(signals) :]:
            click.echo(msgspec.json.encode(report).decode() if raw else line(report))
    return 1 if any(report.status == "refused" for report in reports) else 0
