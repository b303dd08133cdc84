"""`tracker dead-letters list|show|replay`: what could not be used, why, and another try once the cause is mended.

A replay goes in batches. A record in the same topic says that a batch is begun, before it is published, and another
that it is done, after Kafka's ack. So what succeeded is not done again; a batch that a crash cut in two is finished by
the next replay, with the same messageIds and places, by which the stream drops what it has already.
"""

from __future__ import annotations

import asyncio
import os
import re
import socket
import sys
import time
from collections import Counter, deque
from collections.abc import AsyncIterator, Callable, Collection, Sequence
from datetime import datetime
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import click
import msgspec
from msgspec import UNSET, Struct

from tracker.cli.common import Failure, run_until_signal
from tracker.contract import settings as contract_settings
from tracker.contract.settings import Settings
from tracker.contract.topics import DEAD_LETTERS, REPLAY_PREFIX, DeadLetter, Replay

if TYPE_CHECKING:
    from aiokafka import AIOKafkaConsumer, AIOKafkaProducer

    from tracker.dead_letters import Redo

PARTITION: Final = 0
"""The topic has one."""
GROUP: Final = "tracker-dead-letters-replay"
BATCH_LETTERS: Final = 200
"""What a crash may cause to be published twice."""
BATCH_BYTES: Final = 2 << 20
JOIN_S: Final = 30.0
"""Beyond session_timeout_s, after which a replay that was killed no longer holds the lock."""
STALLED_S: Final = 15.0
"""Without a record from Kafka, though there are more."""
MAX_TEXT_CHARS: Final = 1 << 20

_letter: Final = msgspec.json.Decoder(DeadLetter)
_replay: Final = msgspec.json.Decoder(Replay)
_encode: Final = msgspec.json.Encoder().encode


class Filter(Struct, frozen=True):
    """Which letters."""

    site: str | None = None
    reasons: frozenset[str] = frozenset()
    stage: str | None = None
    since_ms: int = 0

    def accepts(self, letter: DeadLetter) -> bool:
        return (
            letter.at_ms >= self.since_ms
            and (not self.reasons or letter.reason in self.reasons)
            and (self.stage is None or letter.stage == self.stage)
            and (self.site is None or site_of(letter) == self.site)
        )


class Found(NamedTuple):
    offset: int
    letter: DeadLetter


class Survey(Struct):
    """What the topic's Replay records say."""

    begun: dict[int, list[int]] = {}
    """Offset of the record -> its letters, of batches that are not done."""
    done: set[int] = set()
    """Letters that succeeded."""

    def note(self, offset: int, replay: Replay) -> None:
        if replay.replay == "begun":
            self.begun[offset] = replay.letters
        else:
            self.begun.pop(replay.begun if replay.begun is not None else -1, None)
            self.done.update(replay.letters)

    def state(self, found: Found) -> str:
        if found.offset in self.done:
            return "replayed"
        if any(found.offset in letters for letters in self.begun.values()):
            return "begun"
        return "incomplete" if found.letter.missing_bytes else "dead"


# -- commands


@click.group()
def dead_letters() -> None:
    """List, show and replay what could not be used."""


def _filters(command: Callable[..., int]) -> Callable[..., int]:
    for option in (
        click.option("--kafka", metavar="HOST:PORT", help="Kafka's bootstrap servers."),
        click.option("--limit", type=click.IntRange(min=1), metavar="N", help="Most letters.  [list: 50, the latest]"),
        click.option("--since", metavar="TIME", help="Not before: 30m, 6h, 7d ago, or a time as 2026-01-02T03:04."),
        click.option("--stage", type=click.Choice(["endpoint", "resolve", "signals"]), help="Who refused it."),
        click.option("--reason", "reasons", multiple=True, metavar="NAME", help="Why; may be given more than once."),
        click.option("--site", metavar="NAME", help="Of this site."),
    ):
        command = option(command)
    return command


@dead_letters.command("list")
@_filters
@click.option("--json", "raw", is_flag=True, help="One JSON object a line.")
def list_command(
    site: str | None, reasons: tuple[str, ...], stage: str | None, since: str | None, limit: int | None, raw: bool,
    kafka: str | None,
) -> int:  # fmt: skip
    """List dead letters, the latest at the end."""
    settings = contract_settings.load(kafka=kafka)
    wanted = Filter(site, frozenset(reasons), stage, _since_ms(since))
    return run_until_signal(_list(settings, wanted, limit or 50, raw))


@dead_letters.command("show")
@click.argument("position")
@click.option("--kafka", metavar="HOST:PORT", help="Kafka's bootstrap servers.")
def show_command(position: str, kafka: str | None) -> int:
    """Show all of one letter, and what would become of it now."""
    return run_until_signal(_show(contract_settings.load(kafka=kafka), _offset(position)))


@dead_letters.command("replay")
@click.argument("positions", nargs=-1, metavar="[POSITION]...")
@_filters
@click.option("--all", "everything", is_flag=True, help="All letters: without it positions or filters are needed.")
@click.option("--dry-run", is_flag=True, help="Only tell what would become of them.")
def replay_command(
    positions: tuple[str, ...], site: str | None, reasons: tuple[str, ...], stage: str | None, since: str | None,
    limit: int | None, everything: bool, dry_run: bool, kafka: str | None,
) -> int:  # fmt: skip
    """Try letters again: the endpoint's go through the intake with the time they came at, a worker's go back to its
    topic. What succeeded before is not done again; what is still refused stays where it is."""
    if not (positions or site or reasons or stage or since or limit or everything):
        raise click.UsageError("say which letters: positions, filters or --all")
    settings = contract_settings.load(kafka=kafka)
    wanted = Filter(site, frozenset(reasons), stage, _since_ms(since))
    offsets = frozenset(map(_offset, positions))
    return run_until_signal(_Replaying(settings, wanted, offsets, limit, dry_run).run())


def _offset(position: str) -> int:
    match = re.fullmatch(r"(?:(\d{1,9}):)?(\d{1,18})", position)
    if match is None:
        raise click.UsageError(f"'{position}' is no position: write PARTITION:OFFSET or OFFSET, as `list` shows them")
    if int(match[1] or 0) != PARTITION:
        raise click.UsageError(f"'{position}': {DEAD_LETTERS} has partition {PARTITION} only")
    return int(match[2])


def _since_ms(text: str | None) -> int:
    if text is None:
        return 0
    if match := re.fullmatch(r"(\d{1,6})([smhd])", text):
        ago_s = int(match[1]) * {"s": 1, "m": 60, "h": 3600, "d": 86400}[match[2]]
        return max(0, int(time.time()) - ago_s) * 1000
    try:
        return max(0, int(datetime.fromisoformat(text).timestamp() * 1000))  # without a zone: this machine's, as shown
    except (ValueError, OverflowError):
        raise click.UsageError(
            f"--since: '{text}' is neither like 30m, 6h, 7d nor a time like 2026-01-02T03:04"
        ) from None


# -- list and show


async def _list(settings: Settings, wanted: Filter, limit: int, raw: bool) -> int:
    survey, latest = Survey(), deque[tuple[Found, int]](maxlen=limit)
    matched = unreadable = 0
    async with _reader(settings) as consumer:
        async for offset, size, value in _records(consumer, since_ms=wanted.since_ms):
            if isinstance(value, Replay):
                survey.note(offset, value)
            elif value is None:
                unreadable += 1
            elif wanted.accepts(value):
                matched += 1
                latest.append((Found(offset, value), size))
    if raw:
        for found, _ in latest:
            sys.stdout.buffer.write(_encode(_row(found, survey)) + b"\n")
        return 0
    from rich.console import Console
    from rich.table import Table

    console = Console(highlight=False)
    if not console.is_terminal:  # a pipe has no width
        console = Console(highlight=False, width=1000)
    if latest:
        table = Table(box=None, pad_edge=False, header_style="dim")
        for name in ("POSITION", "TIME", "SITE", "REASON", "DETAIL", "BYTES", "STATE"):
            table.add_column(name, no_wrap=name != "DETAIL", justify="right" if name == "BYTES" else "left")
        for found, _ in latest:
            row = _row(found, survey)
            table.add_row(
                row["position"], _time(found.letter.at_ms), _text(row["site"] or "-"), _text(row["reason"]),
                _text(row["detail"]), str(row["bytes"]), row["state"],
            )  # fmt: skip
        console.print(table)
    more = f", the latest {limit} are shown" if matched > limit else ""
    click.echo(f"{matched} dead letters{more}" + (f"; {unreadable} records are none" if unreadable else ""), err=True)
    return 0


def _row(found: Found, survey: Survey) -> dict[str, Any]:
    letter = found.letter
    return {
        "position": f"{PARTITION}:{found.offset}", "atMs": letter.at_ms, "site": site_of(letter), "stage": letter.stage,
        "reason": letter.reason, "detail": letter.detail, "bytes": len(letter.original) + letter.missing_bytes,
        "state": survey.state(found),
    }  # fmt: skip


async def _show(settings: Settings, offset: int) -> int:
    from tracker.dead_letters import Redo, redo

    survey, found = Survey(), None
    async with _reader(settings) as consumer:
        async for at, _, value in _records(consumer, first=offset):
            if isinstance(value, Replay):
                survey.note(at, value)
            elif at == offset and value is not None:
                found = Found(at, value)
    if found is None:
        raise Failure(f"there is no dead letter at {PARTITION}:{offset}: `tracker dead-letters list` shows them")
    letter = found.letter
    outcome = redo(letter, offset, settings)
    now = f"goes to {outcome.topic}" if isinstance(outcome, Redo) else f"still refused: {outcome[0]}: {outcome[1]}"
    rows = [
        ("position", f"{PARTITION}:{offset}"), ("state", survey.state(found)),
        ("time", f"{_time(letter.at_ms)} ({letter.at_ms})"), ("site", site_of(letter)), ("stage", letter.stage),
        ("reason", letter.reason), ("detail", letter.detail),
    ]  # fmt: skip
    if letter.stage == "endpoint":
        rows += [
            ("source", letter.source), ("call", letter.type), ("index", str(letter.index)), ("sentAt", letter.sent_at),
            ("batch's id", letter.message_id), ("address", letter.ip), ("user agent", letter.user_agent),
        ]  # fmt: skip
        for name, part in (("context", letter.context), ("integrations", letter.integrations)):
            if part is not UNSET:
                rows.append((name, bytes(part).decode("utf-8", "backslashreplace")))
    else:
        key = None if letter.key is None else letter.key.decode("utf-8", "backslashreplace")
        rows += [("came from", f"{letter.topic} {letter.partition}:{letter.offset}"), ("key", key)]
    size = f"{len(letter.original)} bytes" + (f", {letter.missing_bytes} are missing" if letter.missing_bytes else "")
    rows += [("now", now), ("original", size)]
    for name, text in rows:
        if text:
            click.echo(f"{name:<13}{_printable(text, lines=False)}")
    click.echo(_printable(letter.original.decode("utf-8", "backslashreplace"), lines=True))
    return 0


def _printable(text: str, lines: bool) -> str:
    """Nothing in it acts on a terminal: what is not printable is written as in a Python string."""
    return "".join(
        c if c.isprintable() or (lines and c in "\n\t") else c.encode("unicode_escape").decode()
        for c in text[:MAX_TEXT_CHARS]
    )


def _text(text: str) -> Any:
    from rich.text import Text

    return Text(_printable(text, lines=False))  # Text: no markup of rich in it acts


def _time(ms: int) -> str:
    try:
        return datetime.fromtimestamp(ms / 1000).astimezone().strftime("%Y-%m-%d %H:%M:%S")
    except (ValueError, OverflowError, OSError):
        return str(ms)


class _Site(Struct):
    site: str | None = None


_site: Final = msgspec.json.Decoder(_Site)


def site_of(letter: DeadLetter) -> str | None:
    """A worker's letter says it in its original, if anywhere."""
    if letter.site is not None or letter.stage == "endpoint":
        return letter.site
    try:
        return _site.decode(letter.original).site
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None


# -- replay


class _Replaying:
    def __init__(
        self, settings: Settings, wanted: Filter, offsets: frozenset[int], limit: int | None, dry_run: bool
    ) -> None:
        self._settings = settings
        self._wanted = wanted
        self._offsets = offsets
        self._limit = limit
        self._dry_run = dry_run
        self._outcomes: Counter[tuple[str, str]] = Counter()
        """(outcome, reason) -> letters."""

    async def run(self) -> int:
        from aiokafka import AIOKafkaProducer

        async with _reader(self._settings) as consumer:
            if self._dry_run:
                await self._replay(consumer, None, None)
                self._summarize()
                return 0
            async with Lock(self._settings) as lock:
                producer = AIOKafkaProducer(
                    bootstrap_servers=self._settings.kafka, acks="all", enable_idempotence=True,
                    client_id="tracker-dead-letters", max_request_size=4 << 20, linger_ms=5,
                )  # fmt: skip
                await producer.start()
                try:
                    await self._replay(consumer, producer, lock)
                finally:
                    await asyncio.wait([asyncio.ensure_future(producer.stop())], timeout=5)
        self._summarize()
        return 0

    async def _replay(self, consumer: AIOKafkaConsumer, producer: AIOKafkaProducer | None, lock: Lock | None) -> None:
        survey, chosen = await self._choose(consumer)
        for begun, offsets in sorted(survey.begun.items()):
            # First, so that places rise from batch to batch: see tracker/contract/events.py, ProfileEvent.src.
            click.echo(
                f"a replay was cut off in the middle of {len(offsets)} letters: they are finished first", err=True
            )
            again = [found async for found in self._letters(consumer, offsets)]
            await self._batch(again, producer, lock, (begun, offsets))
            chosen = [offset for offset in chosen if offset not in set(offsets)]
        with _progress() as progress:
            task = progress.add_task("dry run" if self._dry_run else "replay", total=len(chosen))
            batch: list[Found] = []
            size = 0
            async for found in self._letters(consumer, chosen):
                batch.append(found)
                size += len(found.letter.original)
                if len(batch) >= BATCH_LETTERS or size >= BATCH_BYTES:
                    await self._batch(batch, producer, lock)
                    progress.advance(task, len(batch))
                    batch, size = [], 0
            await self._batch(batch, producer, lock)
            progress.advance(task, len(batch))

    async def _choose(self, consumer: AIOKafkaConsumer) -> tuple[Survey, list[int]]:
        """What was replayed, and the offsets of the letters that are to be. All of the topic is read: see Survey."""
        survey, chosen = Survey(), list[int]()
        async for offset, _, value in _records(consumer):
            if isinstance(value, Replay):
                survey.note(offset, value)
            elif value is not None and (not self._offsets or offset in self._offsets) and self._wanted.accepts(value):
                chosen.append(offset)
        if missing := sorted(self._offsets - set(chosen)):
            raise Failure(f"there is no dead letter at {PARTITION}:{missing[0]} that the filters accept")
        if repeats := sum(offset in survey.done for offset in chosen):
            self._outcomes["was replayed before", ""] = repeats
        chosen = [offset for offset in chosen if offset not in survey.done]
        return survey, chosen if self._limit is None else chosen[: self._limit]

    async def _letters(self, consumer: AIOKafkaConsumer, offsets: Collection[int]) -> AsyncIterator[Found]:
        if offsets:
            wanted = set(offsets)
            async for offset, _, value in _records(consumer, first=min(wanted), last=max(wanted)):
                if offset in wanted and isinstance(value, DeadLetter):
                    yield Found(offset, value)

    async def _batch(
        self,
        batch: Sequence[Found],
        producer: AIOKafkaProducer | None,
        lock: Lock | None,
        begun: tuple[int, list[int]] | None = None,
    ) -> None:
        """Publish what is accepted now. `begun`: offset and letters of the record that says so, if it is there."""
        from tracker.dead_letters import redo

        good: list[tuple[int, Redo]] = []
        for found in batch:
            outcome = redo(found.letter, found.offset, self._settings)
            if isinstance(outcome, tuple):
                self._outcomes["stays dead", outcome[0]] += 1
            else:
                good.append((found.offset, outcome))
        if producer is None:
            self._outcomes["would be replayed", ""] += len(good)
            return
        assert lock is not None
        if not good and begun is None:
            return
        await lock.check()
        offsets = [offset for offset, _ in good]
        timeout_s = self._settings.produce_timeout_s
        try:
            async with asyncio.timeout(timeout_s + 5):
                if begun is None:
                    begun = await _mark(producer, Replay(replay="begun", at_ms=_now_ms(), letters=offsets)), offsets
                place = {offset: n for n, offset in enumerate(begun[1])}
                acks = [
                    await producer.send(to.topic, to.value(begun[0], place[offset]), to.key, to.partition)
                    for offset, to in good
                ]
                await asyncio.gather(*acks)
                await _mark(producer, Replay(replay="done", at_ms=_now_ms(), letters=offsets, begun=begun[0]))
        except (TimeoutError, OSError, _kafka_error()) as e:
            raise Failure(
                f"Kafka did not ack ({e or type(e).__name__}): replay again, it goes on where it stopped"
            ) from None
        self._outcomes["replayed", ""] += len(good)

    def _summarize(self) -> None:
        if not self._outcomes:
            click.echo("no dead letter is chosen")
        for (outcome, reason), n in sorted(self._outcomes.items()):
            if n:
                click.echo(f"{n:>8} {outcome}{f': {reason}' if reason else ''}")


async def _mark(producer: AIOKafkaProducer, replay: Replay) -> int:
    """Write it; its offset."""
    metadata = await producer.send_and_wait(DEAD_LETTERS, _encode(replay), partition=PARTITION)
    return int(metadata.offset)


class Lock:
    """One replay at a time: it holds the topic's partition in a consumer group of its own.

    The one that began first keeps it, because the group's members are sorted by their names; who comes second is told.
    A replay that was killed holds it for session_timeout_s.
    """

    def __init__(self, settings: Settings) -> None:
        from aiokafka import AIOKafkaConsumer, TopicPartition
        from aiokafka.abc import ConsumerRebalanceListener
        from aiokafka.coordinator.assignors.range import RangePartitionAssignor

        self._timeout_s = settings.session_timeout_s + JOIN_S
        self._partition = TopicPartition(DEAD_LETTERS, PARTITION)
        self._settled = settled = asyncio.Event()
        self._consumer = consumer = AIOKafkaConsumer(
            bootstrap_servers=settings.kafka,
            client_id=f"{time.time_ns():020d}-{socket.gethostname()}-{os.getpid()}",
            group_id=GROUP,
            session_timeout_ms=int(settings.session_timeout_s * 1000),
            heartbeat_interval_ms=int(settings.session_timeout_s * 200),
            rebalance_timeout_ms=int(settings.session_timeout_s * 1000),
            max_poll_interval_ms=86_400_000,  # nothing is read through it
            enable_auto_commit=False,
            partition_assignment_strategy=(RangePartitionAssignor,),
        )

        class Listener(ConsumerRebalanceListener):  # type: ignore[misc]
            def on_partitions_revoked(self, revoked: set[TopicPartition]) -> None:
                settled.clear()

            def on_partitions_assigned(self, assigned: set[TopicPartition]) -> None:
                consumer.pause(*assigned)
                settled.set()

        consumer.subscribe([DEAD_LETTERS], listener=Listener())

    async def __aenter__(self) -> Lock:
        await self._consumer.start()
        try:
            await self.check()
        except BaseException:
            await self._consumer.stop()
            raise
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._consumer.stop()

    async def check(self) -> None:
        """Raises Failure when another replay has it."""
        try:
            await asyncio.wait_for(self._settled.wait(), self._timeout_s)
        except TimeoutError:
            raise Failure(f"Kafka did not say within {self._timeout_s:g} s who may replay: try again") from None
        if self._partition not in self._consumer.assignment():
            raise Failure("another replay is running: wait for its end")


# -- Kafka


class _reader:
    """A consumer at the topic. Raises Failure when Kafka or the topic is not there."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings

    async def __aenter__(self) -> AIOKafkaConsumer:
        from aiokafka import AIOKafkaConsumer, TopicPartition

        from tracker.cli.topics import admin

        async with admin(self._settings.kafka) as client:
            if DEAD_LETTERS not in await client.list_topics():
                raise Failure(
                    f"there is no topic {DEAD_LETTERS} at {self._settings.kafka}: run `tracker topics create`"
                )
        self._consumer = AIOKafkaConsumer(
            bootstrap_servers=self._settings.kafka, enable_auto_commit=False, auto_offset_reset="earliest"
        )
        await self._consumer.start()
        self._consumer.assign([TopicPartition(DEAD_LETTERS, PARTITION)])
        return self._consumer

    async def __aexit__(self, _: object, error: BaseException | None, __: object) -> None:
        await self._consumer.stop()
        if isinstance(error, _kafka_error()):
            raise Failure(f"Kafka at {self._settings.kafka} does not answer any more: {error}") from None


async def _records(
    consumer: AIOKafkaConsumer, *, since_ms: int = 0, first: int = 0, last: int | None = None
) -> AsyncIterator[tuple[int, int, DeadLetter | Replay | None]]:
    """(offset, bytes, value or None) of the records that are there now, from `first` or `since_ms` on to `last`.

    A Replay stands behind its letters: who begins at a letter meets all that is said of it.
    """
    from aiokafka import TopicPartition

    where = TopicPartition(DEAD_LETTERS, PARTITION)
    begin = (await consumer.beginning_offsets([where]))[where]
    end = (await consumer.end_offsets([where]))[where]
    if last is not None:
        end = min(end, last + 1)
    if since_ms:
        found = (await consumer.offsets_for_times({where: since_ms}))[where]
        first = found.offset if found is not None else end
    position = max(begin, first)
    consumer.seek(where, position)
    moved_s = time.monotonic()
    while position < end:
        before = position
        for record in (await consumer.getmany(where, timeout_ms=500)).get(where, ()):
            position = record.offset + 1
            if record.offset >= end:
                return
            yield record.offset, len(record.value or b""), _read(record.value or b"")
        position = max(position, await consumer.position(where))  # there may be gaps at the end
        if position > before:
            moved_s = time.monotonic()
        elif time.monotonic() - moved_s > STALLED_S:
            raise Failure(f"Kafka has not sent letter {position} for {STALLED_S:g} s: try again when it is well")


def _read(value: bytes) -> DeadLetter | Replay | None:
    try:
        return (_replay if value.startswith(REPLAY_PREFIX) else _letter).decode(value)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None


def _kafka_error() -> type[Exception]:
    from aiokafka.errors import KafkaError

    error: type[Exception] = KafkaError
    return error


def _now_ms() -> int:
    return time.time_ns() // 1_000_000


def _progress() -> Any:
    from rich.console import Console
    from rich.progress import Progress

    return Progress(console=Console(stderr=True), transient=True)
