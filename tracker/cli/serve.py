"""`tracker serve`: the endpoint."""

from __future__ import annotations

from functools import partial
from typing import Any

import click

from tracker.contract.loading import load
from tracker.contract.reload import Watch


@click.command()
@click.option("--http-host", metavar="ADDRESS", help="Address to listen on.")
@click.option("--http-port", type=int, metavar="PORT", help="Port to listen on.")
@click.option("--processes", type=int, metavar="N", help="Processes that share the port; one for a core.  [default: 1]")
@click.option("--kafka", metavar="HOST:PORT", help="Kafka's bootstrap servers.")
@click.option("--redis", metavar="URL", help="Redis, for the read API.")
def serve(**options: Any) -> int:
    """Run the endpoint until Ctrl-C or SIGTERM: events in over HTTP, to Kafka; read API; live page."""
    chosen = load(**options)  # first: a wrong setting is told at once
    from tracker.serve import run

    return run(chosen, Watch(partial(load, **options)))
