"""`tracker tail`: watch records arrive. It reads all partitions, without a consumer group: it disturbs nobody."""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable, Iterator
from datetime import datetime
from typing import TYPE_CHECKING, Any, Final

import click
import msgspec
import msgspec.structs

from tracker.cli.common import Failure, printable, run_until_signal
from tracker.contract.events import Event
from tracker.contract.loading import load
from tracker.contract.settings import Settings
from tracker.contract.topics import DEAD_LETTERS, EVENTS, REPLAY_PREFIX, DeadLetter, Replay
from tracker.contract.triggers import TRIGGER_KINDS, Person, decode_trigger

if TYPE_CHECKING:
    from rich.text import Text

TOPICS_OF: Final[dict[str, tuple[str, ...]]] = {
    "triggers": tuple(kind.topic for kind in TRIGGER_KINDS),
    "events": (EVENTS,),
    "dead-letters": (DEAD_LETTERS,),
}


@click.command()
@click.option(
    "--topic",
    type=click.Choice(list(TOPICS_OF)),
    default="triggers",
    show_default=True,
    help="What to watch.",
)
@click.option("--from-start", is_flag=True, help="Begin with the oldest record that is kept, not with new ones.")
@click.option("--json", "raw", is_flag=True, help="The records as they are, one JSON a line.")
@click.option("--kafka", metavar="HOST:PORT", help="Kafka's bootstrap servers.")
def tail(topic: str, from_start: bool, raw: bool, kafka: str | None) -> int:
    """Watch triggers, events or dead letters arrive, until Ctrl-C."""
    return run_until_signal(_tail(load(kafka=kafka), topic, from_start, raw))


async def _tail(settings: Settings, what: str, from_start: bool, raw: bool) -> int:
    from aiokafka import AIOKafkaConsumer, TopicPartition

    from tracker.cli.topics import admin

    async with admin(settings.kafka) as client:
        counts = {t["topic"]: len(t["partitions"]) for t in await client.describe_topics()}
    for name in TOPICS_OF[what]:
        if name not in counts:
            raise Failure(f"there is no topic {name} at {settings.kafka}: run `tracker topics create`")
    logging.getLogger("aiokafka").setLevel(logging.ERROR)
    show = _raw_printer() if raw else _line_printer(LINES[what])
    consumer = AIOKafkaConsumer(
        bootstrap_servers=settings.kafka,
        enable_auto_commit=False,
        auto_offset_reset="earliest",
        fetch_max_wait_ms=200,
    )
    await consumer.start()
    try:
        partitions = [TopicPartition(name, p) for name in TOPICS_OF[what] for p in range(counts[name])]
        consumer.assign(partitions)
        for partition, offset in (await consumer.end_offsets(partitions)).items():
            if not from_start:
                consumer.seek(partition, offset)
        print(f"waiting for {what} ({', '.join(TOPICS_OF[what])}); Ctrl-C ends", file=sys.stderr, flush=True)
        while True:
            batches = await consumer.getmany(timeout_ms=1000)
            # Partitions have no order among them; within one answer the records are shown by their time.
            for record in sorted((r for records in batches.values() for r in records), key=lambda r: int(r.timestamp)):
                show(record.value or b"")
    finally:
        await consumer.stop()


def _raw_printer() -> Callable[[bytes], None]:
    out = sys.stdout.buffer

    def show(value: bytes) -> None:
        out.write(value.replace(b"\n", b" ") + b"\n")
        out.flush()

    return show


def _line_printer(line: Callable[[bytes], Text]) -> Callable[[bytes], None]:
    from rich.console import Console
    from rich.text import Text

    console = Console(highlight=False, soft_wrap=True)

    def show(value: bytes) -> None:
        try:
            console.print(line(value))
        except (msgspec.DecodeError, ValueError) as e:
            console.print(Text.assemble(("unreadable ", "red"), f"{e}: {printable(value.decode('utf-8', 'replace'))}"))

    return show


def _clock(ms: int) -> str:
    return datetime.fromtimestamp(ms / 1000).astimezone().strftime("%H:%M:%S.%f")[:-3]


def trigger_line(value: bytes) -> Text:
    """time, kind, id, profile, what it is about."""
    from rich.text import Text

    event = decode_trigger(value)
    data: dict[str, Any] = msgspec.json.decode(event.data)
    if "retracts" in data:
        about = f"takes back {data['retracts']}"
    elif "by" in data:
        order = f"order {data['orderId']} " if "orderId" in data else ""
        about = f"by {data['by']}, {order}{data['revenue']:,.0f} {data.get('currency', '')}"
    elif "risk" in data:
        about = f"risk {data['risk']:.2f} ({data['band']}), not again within {data['horizonDays']:g} days"
    elif "items" in data and "stage" in data:
        items = ", ".join(f"{i.get('quantity', 1):g} x {i.get('name') or i.get('productId')}" for i in data["items"])
        about = f"{data.get('stage', '')} {data.get('value', 0):,.0f} {data.get('currency', '')}: {items}"
    elif isinstance(data.get("from"), dict):
        about = " -> ".join(f"{stage['number']} {stage['en']}" for stage in (data["from"], data["to"]))
    else:
        about = ", ".join(_fields(data))
    who = data.get("userId") or data.get("anonymousId") or ""
    at = _clock(int(datetime.fromisoformat(event.time).timestamp() * 1000))
    return Text.assemble(
        (at, "dim"), " ", (event.type.removeprefix("tracker.").removesuffix(".v1"), "bold magenta"), " ",
        (event.site, "cyan"), " ", printable(f"{about}  {who}"),
        (f"  id {event.id}  profile {event.subject}", "dim"),
    )  # fmt: skip


def _fields(data: dict[str, Any]) -> Iterator[str]:
    """What data says of its own, but for lists and objects; whom it is about is told apart."""
    for name, value in data.items():
        if name in _OF_PERSON or isinstance(value, list | dict):
            continue
        said = f"{value:.4g}" if isinstance(value, float) and abs(value) < 10_000 else f"{value}"
        yield f"{name} {said}"


_OF_PERSON: Final = frozenset(field.encode_name for field in msgspec.structs.fields(Person))
_event: Final = msgspec.json.Decoder(Event)
_dead_letter: Final = msgspec.json.Decoder(DeadLetter)
_replay: Final = msgspec.json.Decoder(Replay)


def event_line(value: bytes) -> Text:
    """time, site, channel, what, who, messageId."""
    from rich.text import Text

    event = _event.decode(value)
    what = event.event or (f"{event.type} {event.name}" if event.name else event.type)
    who = " ".join(filter(None, (event.user_id, event.anonymous_id)))
    return Text.assemble(
        (_clock(event.timestamp_ms), "dim"), " ", (event.site, "cyan"), f" {printable(event.channel)} ",
        (printable(what), "bold"), f" {printable(who)}", (f"  id {printable(event.message_id)}", "dim"),
    )  # fmt: skip


def dead_letter_line(value: bytes) -> Text:
    """time, stage, reason, detail, the original as text; of a Replay what it says."""
    from rich.text import Text

    if value.startswith(REPLAY_PREFIX):
        replay = _replay.decode(value)
        what = f"{len(replay.letters)} letters: replay {replay.replay}"
        return Text.assemble((_clock(replay.at_ms), "dim"), " ", (what, "bold"))
    letter = _dead_letter.decode(value)
    return Text.assemble(
        (_clock(letter.at_ms), "dim"), " ", (letter.site or "-", "cyan"), f" {letter.stage} ",
        (letter.reason, "bold red"), f" {printable(letter.detail)}  ",
        (printable(letter.original.decode("utf-8", "replace"), 500), "dim"),
    )  # fmt: skip


LINES: Final[dict[str, Callable[[bytes], Text]]] = {
    "triggers": trigger_line,
    "events": event_line,
    "dead-letters": dead_letter_line,
}
