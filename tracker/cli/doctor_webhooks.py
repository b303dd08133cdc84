"""`tracker doctor`, the webhooks: can each endpoint be reached, does anybody deliver for it, how far behind is it?"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Iterator
from typing import Any, Final, NamedTuple
from urllib.parse import urlsplit

from tracker.cli.common import Failure
from tracker.contract.settings import Settings
from tracker.contract.sites import Webhook

MAX_LAG: Final = 1000
"""Triggers that may wait in Kafka; a deliverer takes 256 ahead (WINDOW in tracker/deliver/service.py)."""


class Group(NamedTuple):
    """An endpoint's consumer group."""

    members: int
    lag: int | None
    """None: it has never read anything."""


def problems(settings: Settings) -> Iterator[tuple[bool, str, str]]:
    """(ok, what, what to do) of every webhook."""
    for hook in settings.webhooks:
        yield _address(hook)
    active = [hook for hook in settings.webhooks if not hook.paused]
    for hook in settings.webhooks:
        if hook.paused:
            yield True, f"webhook {hook.name}: paused, what comes waits in Kafka", ""
    if not active:
        return
    try:
        groups = asyncio.run(_groups(settings, active))
    except Failure as e:
        yield False, "webhooks", e.format_message()
        return
    for hook in active:
        yield _delivery(hook, groups[hook.name])


def _address(hook: Webhook) -> tuple[bool, str, str]:
    """Its secrets were looked at when the settings were read."""
    from tracker.deliver.guard import why_refused

    url = urlsplit(hook.url)
    host = url.hostname or ""
    what = f"webhook {hook.name}: {host}, {len(hook.secrets)} secret{'s' * (len(hook.secrets) != 1)}"
    try:
        found = socket.getaddrinfo(host, url.port or url.scheme, type=socket.SOCK_STREAM)
    except OSError as e:
        return False, f"{what}: no address ({e.strerror or e})", "correct its url, or this machine's DNS"
    for *_, address in found:
        if not hook.allow_private and (reason := why_refused(str(address[0]))) is not None:
            return (
                False,
                f"{what}: {address[0]} is {reason}, nothing is sent there",
                "set allow_private = true if it is an endpoint of your own network",
            )
    return True, what, ""


def _delivery(hook: Webhook, group: Group) -> tuple[bool, str, str]:
    waiting = f"{group.lag} triggers wait" if group.lag is not None else "it has never been delivered to"
    what = f"webhook {hook.name}: {waiting}"
    if not group.members:
        return False, f"{what}, and nobody delivers for it", "start `tracker webhooks deliver`"
    behind = group.lag is not None and group.lag > MAX_LAG
    return not behind, what, f"`tracker webhooks test {hook.name}` and the deliverer's log say what it answers"


async def _groups(settings: Settings, hooks: list[Webhook]) -> dict[str, Group]:
    """Name of a webhook -> its group. Raises Failure."""
    from aiokafka import AIOKafkaConsumer
    from aiokafka.errors import KafkaError

    from tracker.cli import topics
    from tracker.deliver.service import group_of, topics_of

    found: dict[str, Group] = {}
    async with topics.admin(settings.kafka) as client:
        consumer = AIOKafkaConsumer(bootstrap_servers=settings.kafka, client_id="tracker-doctor")
        try:
            await consumer.start()
            for hook in hooks:
                group, wanted = group_of(settings, hook), topics_of(hook)
                answers: list[Any] = await client.describe_consumer_groups([group])
                members = sum(len(row[5]) for answer in answers for row in answer.groups)
                offsets = await client.list_consumer_group_offsets(group)
                done = {p: o.offset for p, o in offsets.items() if o.offset >= 0 and p.topic in wanted}
                ends = await consumer.end_offsets(list(done)) if done else {}
                lag = sum(max(0, end - done[p]) for p, end in ends.items()) if done else None
                found[hook.name] = Group(members, lag)
        except (KafkaError, OSError) as e:
            raise Failure(f"Kafka tells nothing of the consumer groups ({type(e).__name__}): try again") from None
        finally:
            await consumer.stop()
    return found
