"""`tracker fold`: what a signal makes of the events in a file, without Kafka and Redis. docs/what-if.md"""

from __future__ import annotations

import sys
from codecs import BOM_UTF8
from collections.abc import Iterable, Iterator
from contextlib import suppress
from typing import Any, Final

import click
import msgspec

from stream.signals import SIGNALS
from stream.what_if import Record, play
from tracker.cli.common import Failure, printable, site_of
from tracker.contract.events import MAX_TIME_MS, profile_prefix, with_profile
from tracker.contract.ids import usable
from tracker.contract.loading import load
from tracker.contract.settings import Settings
from tracker.contract.sites import Site
from tracker.contract.triggers import rfc3339
from tracker.intake import Call, Draft, Policy, policy_of, take
from tracker.intake.draft import DEFAULT_POLICY
from tracker.intake.time import parse_ms

NAMES: Final = tuple(s.name for s in SIGNALS if s.state_type is not type(None))
ALIASES: Final = {"churn": "purchase"}
"""What people call a signal -> its name."""
SOMEBODY: Final = "somebody"
"""anonymousId of a file that names nobody."""
LEAST_MS: Final = 100_000_000_000
"""Numbers from here on are milliseconds (it is March 1973), those below are seconds (up to the year 5138)."""
_object: Final = msgspec.json.Decoder(dict[str, Any])


@click.command()
@click.option(
    "--signal", "name", type=click.Choice((*NAMES, *ALIASES)), required=True, help="Whose state and emissions."
)
@click.argument("file", type=click.File("rb"), metavar="FILE.jsonl")
@click.option("--now", required=True, metavar="TIME", help="How far the clock goes: later events have not happened.")
@click.option("--site", metavar="NAME", help="Whose settings hold.  [default: the only one of tracker.toml, else demo]")
@click.option("--verbose", is_flag=True, help="One line on stderr for each event: when, what, who, under which names.")
def fold(name: str, file: Iterable[bytes], now: str, site: str | None, verbose: bool) -> int:
    """What a signal makes of the events in FILE.jsonl (-: stdin): its state, and what it emits, as JSON.

    Nothing else is needed and nothing is changed: no Kafka, no Redis. A line is an event as clients send it (Segment
    Spec) with its `timestamp`; TIME and timestamps are ISO 8601 or seconds or milliseconds since 1970. Lines come in
    in the order of the file, each when it happened or when the one before it came in, or, if it says so, at its
    `receivedAt`: a line with an earlier timestamp than one before it is a late event. Without `type` it is a track
    call, without `messageId` it gets one from its line's number, so that of equal times the order of the file counts; a
    messageId that was there before counts once.

    Lines that share an id (userId, anonymousId, previousId) are one person from the first line on: a simple union,
    without the limits that the identity rules have, but values that mean nobody (null, undefined, ...) are no ids. A
    line without any id is of the person of the line before it.
    """
    name = ALIASES.get(name, name)
    settings = load()
    site = site_of(settings, site)
    try:
        now_ms = time_ms(int(now) if now.lstrip("-").isdigit() else now)
    except ValueError as e:
        raise click.BadParameter(f"{e}", param_hint="--now") from None
    if name == "activity":  # of a site that asks for nothing it would keep nothing
        known = settings.sites.get(site) or Site(write_key="", secret_key="")
        asked = msgspec.structs.replace(known, activity=True)
        settings = msgspec.structs.replace(settings, sites={**settings.sites, site: asked})
    lines = _Lines(settings, site, now_ms)
    for n, text in enumerate(file, 1):
        if n == 1:
            text = text.removeprefix(BOM_UTF8)  # Windows's editors put it there.
        if text.strip():
            lines.take(n, text)
    people = lines.people() or [("person-1", iter(()))]
    if verbose:
        for line in lines.taken:
            sys.stderr.write(f"{line.n}: {line.what()}\n")
    found = []
    for person, records in people:
        try:
            found.append(play(SIGNALS, name, settings, site, person, records, now_ms))
        except ValueError as e:
            raise Failure(f"{person}: {e}") from None
    answer: dict[str, Any] = {"signal": name, "site": site, "now": rfc3339(now_ms)}
    answer |= found[0] if len(found) == 1 else {"profiles": found}
    if lines.skipped:
        answer["skipped"] = lines.skipped
    sys.stdout.write(msgspec.json.format(msgspec.json.encode(answer), indent=2).decode() + "\n")
    return 0


def time_ms(given: object) -> int:
    """ISO 8601, or seconds or milliseconds since 1970 -> milliseconds. Raises ValueError."""
    if isinstance(given, str):
        with suppress(ValueError):
            given = float(given)
    if isinstance(given, str):
        ms = parse_ms(given)
    elif isinstance(given, int | float) and not isinstance(given, bool) and abs(given) <= MAX_TIME_MS:
        ms = round(given if abs(given) >= LEAST_MS else 1000 * given)
    else:
        raise ValueError(f"{printable(repr(given), 40)} is no time: ISO 8601, or seconds or milliseconds since 1970")
    if not 0 <= ms <= MAX_TIME_MS:
        raise ValueError(f"{printable(str(given), 40)} is not between 1970 and 2100")
    return ms


class Line(msgspec.Struct):
    """An event of the file, as the endpoint makes it."""

    n: int
    received_ms: int
    draft: Draft
    ids: list[str]

    def what(self) -> str:
        wire = self.draft.wire
        who = " ".join(self.ids)
        return printable(f"{rfc3339(self.draft.timestamp_ms)} {wire.event or wire.type} {who} {wire.message_id}")


class _Lines:
    """Takes the lines of a file one after another."""

    def __init__(self, settings: Settings, site: str, now_ms: int) -> None:
        self.taken: list[Line] = []
        self.skipped: list[dict[str, Any]] = []
        self._settings, self._site, self._now_ms = settings, site, now_ms
        known = settings.sites.get(site)
        self._policy: Policy = policy_of(known) if known is not None else DEFAULT_POLICY
        self._received_ms = 0
        self._seen: set[str] = set()

    def take(self, n: int, text: bytes) -> None:
        try:
            fields = _object.decode(text)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as e:
            raise Failure(f"line {n}: no JSON object: {e}") from None
        try:
            happened_ms = self._happened_ms(fields)
            received_ms = time_ms(fields["receivedAt"]) if fields.get("receivedAt") is not None else happened_ms
        except ValueError as e:
            raise Failure(f"line {n}: {e}") from None
        received_ms = max(received_ms, happened_ms, self._received_ms)
        if received_ms > self._now_ms:
            self.skipped.append({"line": n, "reason": "later than --now"})
            return
        self._received_ms = received_ms
        given = [str(fields[name]) for name in ("userId", "anonymousId", "previousId") if fields.get(name)]
        ids = [id for id in given if usable(id) is not None]
        nobody = not fields.get("userId") and not fields.get("anonymousId")
        wire = {
            **fields, "type": fields.get("type") or "track", "messageId": fields.get("messageId") or f"line-{n:09}",
            "timestamp": rfc3339(happened_ms), "originalTimestamp": None, "sentAt": None,
        }  # fmt: skip
        if nobody:
            wire["anonymousId"] = SOMEBODY
        call = Call(self._site, "import", received_ms, str, self._settings.max_event_bytes, policy=self._policy)
        draft, refusal = take(msgspec.json.encode(wire), call)
        if refusal is not None and not refusal.rejection.drops:
            told = f"{refusal.rejection.message} {refusal.detail}".strip()
            raise Failure(f"line {n}: {refusal.rejection.name}: {told}")
        if refusal is not None:
            self.skipped.append({"line": n, "reason": refusal.rejection.name})
            return
        id = draft.wire.message_id or ""
        if id in self._seen:
            self.skipped.append({"line": n, "reason": "its messageId was there before"})
            return
        self._seen.add(id)
        self.taken.append(Line(n, received_ms, draft, ids))

    def _happened_ms(self, fields: dict[str, Any]) -> int:
        for name in ("timestamp", "originalTimestamp"):
            if fields.get(name) is not None:
                return time_ms(fields[name])
        raise ValueError("it has no timestamp")

    def people(self) -> list[tuple[str, Iterator[Record]]]:
        """(profile id, records) of each person, in the order of the file."""
        root: dict[str, str] = {}

        def find(id: str) -> str:
            while root.setdefault(id, id) != id:
                root[id] = id = root[root[id]]
            return id

        whose = next((line.ids[0] for line in self.taken if line.ids), SOMEBODY)
        for line in self.taken:
            line.ids = line.ids or [whose]
            whose = line.ids[0]
            for id in line.ids:
                root[find(id)] = find(whose)
        people: dict[str, list[Line]] = {}
        for line in self.taken:
            people.setdefault(find(line.ids[0]), []).append(line)
        return [(f"person-{i}", _records(f"person-{i}", lines)) for i, lines in enumerate(people.values(), 1)]


def _records(person: str, lines: list[Line]) -> Iterator[Record]:
    prefix = profile_prefix(person.encode(), 0)
    for line in lines:
        yield Record(with_profile(line.draft.value, prefix, line.n, 0), line.received_ms)
