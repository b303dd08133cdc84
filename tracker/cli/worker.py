"""`tracker worker`: one stream worker."""

from __future__ import annotations

from functools import partial
from typing import Any

import click

from tracker.contract.loading import load
from tracker.contract.reload import Watch


@click.command()
@click.option("--worker-id", metavar="NAME", help="Its stable name; every worker of a group has its own.")
@click.option("--worker-port", type=int, metavar="PORT", help="Port of its /metrics, /livez and /readyz.")
@click.option("--kafka", metavar="HOST:PORT", help="Kafka's bootstrap servers.")
@click.option("--redis", metavar="URL", help="Redis.")
def worker(**options: Any) -> int:
    """Run a stream worker until Ctrl-C or SIGTERM. Workers share the partitions: start more to scale."""
    chosen = load(**options)  # first: a wrong setting is told at once
    from stream.worker import run

    return run(chosen, Watch(partial(load, **options)))
