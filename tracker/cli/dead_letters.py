"""`tracker dead-letters list|show|replay`: what could not be used, why, and another try once the cause is mended.

A replay goes in batches. A record in the same topic says that a batch is begun, before it is published, and another
that it is done, after Kafka's ack. So what succeeded is not done again; a batch that a crash cut in two is finished by
the next replay, with the same messageIds and places, by which the stream drops what it has already.
"""

from __future__ import annotations

import re
import sys
import time
from collections import deque
from collections.abc import Callable
from datetime import datetime
from typing import Any, Final

import click
import msgspec
from msgspec import UNSET

from tracker.cli.common import Failure, run_until_signal
from tracker.cli.dead_letters_log import PARTITION, Filter, Found, Reader, Survey, records, site_of
from tracker.contract.durations import DAY_S, HOUR_S, MINUTE_S
from tracker.contract.loading import load
from tracker.contract.settings import Settings
from tracker.contract.topics import DEAD_LETTERS, Replay

MAX_TEXT_CHARS: Final = 1 << 20

_encode: Final = msgspec.json.Encoder().encode


# -- commands


@click.group()
def dead_letters() -> None:
    """List, show and replay what could not be used."""


def _filters(command: Callable[..., int]) -> Callable[..., int]:
    for option in (
        click.option("--kafka", metavar="HOST:PORT", help="Kafka's bootstrap servers."),
        click.option("--limit", type=click.IntRange(min=1), metavar="N", help="Most letters.  [list: 50, the latest]"),
        click.option("--since", metavar="TIME", help="Not before: 30m, 6h, 7d ago, or a time as 2026-01-02T03:04."),
        click.option(
            "--stage", type=click.Choice(["endpoint", "resolve", "signals", "webhooks"]), help="Who refused it."
        ),
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
    settings = load(kafka=kafka)
    wanted = Filter(site, frozenset(reasons), stage, _since_ms(since))
    return run_until_signal(_list(settings, wanted, limit or 50, raw))


@dead_letters.command("show")
@click.argument("position")
@click.option("--kafka", metavar="HOST:PORT", help="Kafka's bootstrap servers.")
def show_command(position: str, kafka: str | None) -> int:
    """Show all of one letter, and what would become of it now."""
    return run_until_signal(_show(load(kafka=kafka), _offset(position)))


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
    settings = load(kafka=kafka)
    wanted = Filter(site, frozenset(reasons), stage, _since_ms(since))
    offsets = frozenset(map(_offset, positions))
    from tracker.cli.dead_letters_replay import Replaying

    return run_until_signal(Replaying(settings, wanted, offsets, limit, dry_run).run())


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
        ago_s = int(match[1]) * {"s": 1, "m": MINUTE_S, "h": HOUR_S, "d": DAY_S}[match[2]]
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
    async with Reader(settings) as consumer:
        async for offset, size, value in records(consumer, since_ms=wanted.since_ms):
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
    async with Reader(settings) as consumer:
        async for at, _, value in records(consumer, first=offset):
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
