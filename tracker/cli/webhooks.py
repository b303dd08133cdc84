"""`tracker webhooks`: deliver triggers over HTTP, list the endpoints, send one of them a sample."""

from __future__ import annotations

import asyncio
import logging
import sys
import time
from functools import partial
from typing import Any, Final
from urllib.parse import urlsplit

import click

from tracker.cli.common import Failure, no_kafka, printable, run_until_signal
from tracker.contract.loading import load
from tracker.contract.reload import Watch
from tracker.contract.sites import Webhook

SAMPLE_PREFIX: Final = "test-"
"""In front of a sample's id, so that a receiver's memory of ids never takes a real trigger for one."""


@click.group()
def webhooks() -> None:
    """Triggers as signed webhooks, to the endpoints of [[webhooks]] in tracker.toml (docs/triggers.md)."""


@webhooks.command("deliver")
@click.option("--kafka", metavar="HOST:PORT", help="Kafka's bootstrap servers.")
@click.option("--webhook-port", type=int, metavar="PORT", help="Port of its /metrics, /livez and /readyz.")
def deliver(**options: Any) -> int:
    """Deliver until Ctrl-C or SIGTERM. Start it twice, and the two share the work."""
    settings = load(**options)
    if not [hook for hook in settings.webhooks if not hook.paused]:
        raise Failure("no webhook is configured: tracker.toml needs a [[webhooks]] that is not paused")
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s", stream=sys.stderr)
    logging.getLogger("aiokafka").setLevel(logging.WARNING)
    from aiokafka.errors import KafkaConnectionError

    from tracker.deliver.process import deliver as run

    try:
        return run_until_signal(run(settings, Watch(partial(load, **options))))
    except KafkaConnectionError:
        raise no_kafka(settings.kafka) from None
    except OSError as e:
        raise Failure(f"port {settings.webhook_port} can't be used ({e.strerror or e}): --webhook-port") from None


@webhooks.command("list")
def list_() -> None:
    """The endpoints, and what each gets. Secrets and paths of URLs are not shown."""
    settings = load()
    if not settings.webhooks:
        click.echo("no webhook is configured")
    for hook in settings.webhooks:
        url = urlsplit(hook.url)
        about = [
            f"{hook.name:<20}", f"{url.scheme}://{url.hostname}{f':{url.port}' if url.port else ''}/...",
            f"sites {', '.join(hook.sites) or 'all'};", f"kinds {', '.join(hook.kinds) or 'all'}",
        ]  # fmt: skip
        click.echo(" ".join(about) + ("  (paused)" if hook.paused else ""))


@webhooks.command("test")
@click.argument("name")
@click.option("--kind", metavar="KIND", help="Which kind of trigger to send.  [default: its first]")
def test(name: str, kind: str | None) -> None:
    """Send the endpoint NAME one signed sample of the documentation, with an id of its own, and say how it went."""
    settings = load()
    hook = next((hook for hook in settings.webhooks if hook.name == name), None)
    if hook is None:
        known = ", ".join(hook.name for hook in settings.webhooks) or "none"
        raise Failure(f"there is no webhook '{name}' in tracker.toml; there is: {known}")
    outcome = asyncio.run(_send_sample(hook, kind))
    if not outcome.ok:
        raise Failure(f"{name}: {outcome.what}")
    click.echo(f"{name}: {outcome.what}")


async def _send_sample(hook: Webhook, kind: str | None) -> Any:
    from tracker.contract.examples import TRIGGERS, trigger
    from tracker.deliver.post import Poster

    wanted = [kind] if kind else list(hook.kinds) or [TRIGGERS[0][0].name]
    example = next((t for t in TRIGGERS if t[0].name == wanted[0]), None)
    if example is None:
        kinds = ", ".join(dict.fromkeys(t[0].name for t in TRIGGERS))
        raise Failure(f"there is no kind '{printable(wanted[0], 40)}'; there are: {kinds}")
    sample, _, _, data = example
    now_s = time.time()
    id = f"{SAMPLE_PREFIX}{time.time_ns():x}"
    async with Poster(hook) as poster:
        return await poster.post(id, trigger(sample, id, int(now_s * 1000), data), now_s)
