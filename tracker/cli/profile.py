"""`tracker profile`: show one, explain its signals (both in profile_show.py), and unmerge.

`unmerge`: ids of a profile that are another person's become a new profile's. One record in Kafka says it, and the owner
of the profile's partition does it: docs/identity.md, what it does not undo.
"""

from __future__ import annotations

import asyncio
import time
from uuid import uuid4

import click

from tracker.cli.common import Failure
from tracker.cli.profile_show import show, why
from tracker.contract import keys
from tracker.contract.codec import partition_of
from tracker.contract.ids import PRIORITY, Identifier, normal
from tracker.contract.loading import load
from tracker.contract.merges import Unmerge, encode_unmerge, split_profile_id
from tracker.contract.settings import Settings
from tracker.contract.topics import MERGES, PROFILE_EVENTS

TIMEOUT_S = 15.0


@click.group()
def profile() -> None:
    """Show a profile, explain its signals, take ids off it that are another person's."""


profile.add_command(show)
profile.add_command(why)


@profile.command("unmerge")
@click.argument("site")
@click.argument("ids", metavar="TYPE=VALUE...", nargs=-1, required=True)
@click.option("--kafka", metavar="HOST:PORT", help="Kafka's bootstrap servers.")
@click.option("--redis", metavar="URL", help="Redis.")
@click.option("--dry-run", is_flag=True, help="Only say what would be done.")
def unmerge_command(site: str, ids: tuple[str, ...], kafka: str | None, redis: str | None, dry_run: bool) -> int:
    """Make the ids TYPE=VALUE of one profile of SITE a new profile's, all of them one person's.

    What comes with these ids from then on is the new profile's. What came before stays where it is: docs/identity.md.
    Example: tracker profile unmerge shop anonymous_id=7f3a user_id=u-12
    """
    settings = load(kafka=kafka, redis=redis)
    if site not in settings.sites:
        raise click.UsageError(f"there is no site '{site}' in the settings")
    wanted = list(dict.fromkeys(_identifier(text, settings) for text in ids))
    found = _profile_of(site, wanted, settings)
    unmerge_id = str(uuid4())
    record = Unmerge(
        unmerge_id=unmerge_id, site=site, profile_id=found, new_profile_id=split_profile_id(site, unmerge_id),
        ids=wanted, at_ms=time.time_ns() // 1_000_000,
    )  # fmt: skip
    if not dry_run:
        asyncio.run(_publish(record, settings))
    said = "would become" if dry_run else "become"
    click.echo(f"{len(wanted)} ids of {found} {said} profile {record.new_profile_id}'s")
    return 0


def _identifier(text: str, settings: Settings) -> Identifier:
    type, equals, value = text.partition("=")
    if not equals or type not in PRIORITY:
        raise click.UsageError(f"'{text}': an id is TYPE=VALUE, where TYPE is one of {', '.join(PRIORITY)}")
    known = normal(type, value, settings.phone_country)
    if known is None:
        raise click.UsageError(f"'{text}' is no {type} that anybody is found by")
    return type, known


def _profile_of(site: str, wanted: list[Identifier], settings: Settings) -> str:
    """The one profile that has all of these, and others besides."""
    from redis.exceptions import RedisError

    from tracker.contract.redis_url import admin, shown

    try:
        client = admin(settings.redis)
        try:
            owners = [client.get(keys.identifier_key(site, *id)) for id in wanted]
            found = str(owners[0])
            have: list[str] = list(client.hkeys(keys.identifiers_of_key(site, found)))  # type: ignore[arg-type]
        finally:
            client.close()
    except (RedisError, OSError) as e:
        where = shown(settings.redis)
        raise Failure(f"Redis does not answer at {where} ({type(e).__name__}): run `tracker doctor`") from None
    for (name, value), owner in zip(wanted, owners, strict=True):
        if owner is None:
            raise Failure(f"{name}={value} is nobody's in site '{site}'")
    if len(set(owners)) > 1:
        raise Failure("these ids are of several profiles: take them off one at a time")
    taken = {f"{name}:{keys.id_part(value)}" for name, value in wanted}
    if not any(":" in field and field not in taken for field in have):
        raise Failure(f"profile {found} has no other ids: there is nothing to take these off")
    return found


async def _publish(record: Unmerge, settings: Settings) -> None:
    """Into the history first: of that Redis is restored; then to the profile's owner."""
    from aiokafka import AIOKafkaProducer
    from aiokafka.errors import KafkaError

    value, key = encode_unmerge(record), record.profile_id.encode()
    producer = AIOKafkaProducer(
        bootstrap_servers=settings.kafka, acks="all", enable_idempotence=True, client_id="tracker-profile"
    )
    try:
        async with asyncio.timeout(TIMEOUT_S):
            await producer.start()
            await producer.send_and_wait(MERGES, value, key=key, partition=0)
            await producer.send_and_wait(
                PROFILE_EVENTS, value, key=key, partition=partition_of(key, settings.partitions)
            )
    except (KafkaError, TimeoutError, OSError) as e:
        raise Failure(f"Kafka does not answer at {settings.kafka} ({type(e).__name__}): run `tracker doctor`") from None
    finally:
        await asyncio.wait([asyncio.ensure_future(producer.stop())], timeout=5)
