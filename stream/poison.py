"""Why a worker gives a record to the dead letters, and how many it gives before it stops instead.

One bad record never stops a partition; it stays whole in tracker.dead-letters.v1 with its topic, partition and offset.
But a log that is all poison says that something is wrong here (a signal with a bug, a topic with another format), and
would be in the dead letters before anybody looks. So a worker ends, before the chunk has any effect, when too many
records of a partition are poison in a row, or too large a part of what its hop last read.

Only reasons that no client can bring about by what it sends count for these limits: a write key is public, and nobody
may stop the workers with it.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from typing import Final, NamedTuple

from tracker.contract.settings import Settings

REASONS: Final[dict[str, str]] = {
    "not_an_event": "The record's value is no JSON object with an event's fields: something else writes to the topic.",
    "no_identity": "Neither userId nor anonymousId can be used: blocked values like 'null' or 'guest' mean nobody.",
    "fold_failed": "A signal raised an exception on the event, or what followed from it could not be written: a bug; "
    "the worker's log has its trace.",
    "merge_failed": "A signal raised an exception when two profiles became one, or what the merged one had can't be "
    "read: a bug; here is what it had.",
    "merge_loop": "A record was sent on from merged profile to merged profile 64 times: Redis lost merges, and they "
    "now form a circle.",
}
COUNTED: Final = frozenset(("not_an_event", "fold_failed"))
"""Reasons that count for the limits. The endpoint passes nothing on that is no event."""


class TooMuchPoison(Exception):
    """The worker must stop. One line: where, why, and what to do."""


class Verdict(NamedTuple):
    """What became of an event's record; reason None: it can be used."""

    offset: int
    reason: str | None


class Tally(NamedTuple):
    """A chunk as the limits see it; `Limits.keep` takes it when the chunk has had its effect."""

    partition: int
    events: int
    poison: int
    run: int
    """Poison in a row at its end."""
    run_from: int
    """Offset of the first of them."""


class Limits:
    """The limits of one hop of a worker."""

    def __init__(self, topic: str, settings: Settings) -> None:
        self._topic = topic
        self._run = settings.poison_run
        self._ratio = settings.poison_ratio
        self._window = settings.poison_window_records
        self._runs: dict[int, tuple[int, int]] = {}
        """Partition -> (poison in a row so far, offset of the first)."""
        self._chunks: deque[tuple[int, int]] = deque()
        """(events, poison) of the last chunks: as many as make up the window."""
        self._events = self._poison = 0

    def check(self, partition: int, events: int, verdicts: Sequence[Verdict] = ()) -> Tally:
        """Of a chunk before its effect. `verdicts`: of each of its `events`, in order; none at all: all can be used.

        Raises TooMuchPoison.
        """
        run, first = self._runs.get(partition, (0, 0))
        if not verdicts:
            return Tally(partition, events, 0, 0 if events else run, first)
        poison = 0
        worst: Verdict | None = None
        for verdict in verdicts:
            if verdict.reason not in COUNTED:
                run = 0
                continue
            poison += 1
            worst = worst or verdict
            first = first if run else verdict.offset
            run += 1
            if self._run and run >= self._run:
                raise TooMuchPoison(self._told(partition, first, verdict.reason, f"{run} records in a row"))
        seen = self._events + events
        if worst is not None and self._ratio and seen >= self._window:
            bad = self._poison + poison
            if bad > self._ratio * seen:
                raise TooMuchPoison(
                    self._told(partition, worst.offset, worst.reason, f"{bad} of the last {seen} records")
                )
        return Tally(partition, events, poison, run, first)

    def keep(self, tally: Tally) -> None:
        """The chunk has had its effect. (One that is folded again after an outage must not count twice.)"""
        self._runs[tally.partition] = (tally.run, tally.run_from)
        if not tally.events:
            return  # Clock records alone: where nothing else comes, they would fill the memory.
        self._chunks.append((tally.events, tally.poison))
        self._events += tally.events
        self._poison += tally.poison
        while self._events - self._chunks[0][0] >= self._window:
            events, poison = self._chunks.popleft()
            self._events -= events
            self._poison -= poison

    def _told(self, partition: int, offset: int, reason: str | None, how_many: str) -> str:
        return (
            f"{self._topic}[{partition}]: {how_many} can't be used, from offset {offset}: {reason}. "
            f"{REASONS[reason or '']} Nothing of this chunk had an effect: mend it and start the worker again, or let "
            "them pass into the dead letters with TRACKER_POISON_RUN=0 TRACKER_POISON_RATIO=0 until they are through"
        )
