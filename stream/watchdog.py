"""Ends a worker that hangs, with the stacks of all that it does in its log: only what ended can be started again.

Heartbeats to Kafka run in a thread of their own, so a worker whose main loop hangs would keep its partitions for ever.
The watchdog is a thread, too, and looks once a second at four things:

    the main loop turns            `pulse` moves                                   within hang_s
    the consumer's thread turns    its pulse moves                                 within hang_s
    partitions make progress       no partition with work stands still             within stuck_s
    a stop comes to its end        after `stop`                                    within drain_s and a little

Time that the process was stopped itself (SIGSTOP, a suspended machine) does not count.
"""

from __future__ import annotations

import asyncio
import contextlib
import faulthandler
import os
import sys
import threading
from collections.abc import Callable, Iterator, Mapping
from time import monotonic
from types import FrameType
from typing import Any, Final, Generic, NamedTuple, TypeVar

TICK_S: Final = 1.0
EX_FATAL: Final = 70
OUTAGE_S: Final = 20.0
"""A failed call to Redis or Kafka explains for so long why nothing goes on: a restart would not help."""

_WAITS: Final = ("cr_await", "gi_yieldfrom", "ag_await")

K = TypeVar("K")


class OwnTime:
    """Seconds in which this process ran: of a gap between two looks not more than two ticks count."""

    def __init__(self) -> None:
        self.s = 0.0
        self._last = monotonic()

    def look(self) -> float:
        now = monotonic()
        self.s += min(now - self._last, 2 * TICK_S)
        self._last = now
        return self.s


class Standing(NamedTuple):
    """Where a partition stands."""

    at: int
    """Its next offset; assigned, but not claimed: below 0, and less with each record that the claim has read."""
    work: bool
    """There is something to do."""


class Progress(Generic[K]):
    """How long partitions have stood still although there was work."""

    def __init__(self) -> None:
        self._since: dict[K, tuple[int, float]] = {}
        """Partition -> (where it stood, since when)."""

    def look(self, now_s: float, standings: Mapping[K, Standing], outage: bool) -> tuple[float, K | None]:
        """(seconds, partition) of the one that has stood still the longest. `outage`: nobody could make progress."""
        since = {}
        for key, standing in standings.items():
            before = self._since.get(key)
            moved = before is None or before[0] != standing.at
            since[key] = (standing.at, now_s if before is None or moved or outage or not standing.work else before[1])
        self._since = since
        worst = min(since, key=lambda key: since[key][1], default=None)
        return (now_s - since[worst][1], worst) if worst is not None else (0.0, None)


class Watchdog:
    """The thread. Its attributes are set from the main loop."""

    def __init__(self, hang_s: float, stuck_s: float, consumer: Callable[[], float | None]) -> None:
        """`consumer`: the last pulse of the consumer's thread; None when there is none."""
        self.pulse: float | None = None
        """When the main loop last turned; None while the worker starts."""
        self.stalled: tuple[float, str] = (0.0, "")
        """(seconds, which partition): what Progress found last."""
        self._hang_s = hang_s
        self._stuck_s = stuck_s
        self._consumer = consumer
        self._stop_s: float | None = None
        self._loop: asyncio.AbstractEventLoop | None = None

    def start(self) -> None:
        """Called in the main loop."""
        self._loop = asyncio.get_running_loop()
        threading.Thread(target=self._watch, daemon=True, name="watchdog").start()

    def stop(self, within_s: float) -> None:
        """The worker stops now: only that it comes to its end is watched from here on."""
        self._stop_s = within_s

    def _watch(self) -> None:
        pause, time = threading.Event(), OwnTime()
        pulses: dict[str, tuple[float | None, float]] = {}
        stopping_since: float | None = None

        def still_s(what: str, pulse: float | None) -> float:
            before = pulses.get(what)
            if before is None or before[0] != pulse or pulse is None:
                pulses[what] = (pulse, time.s)
            return time.s - pulses[what][1]

        while True:
            pause.wait(TICK_S)
            time.look()
            if self._stop_s is not None:
                stopping_since = time.s if stopping_since is None else stopping_since
                if time.s - stopping_since > self._stop_s:
                    self._end(f"the worker does not come to its end within {self._stop_s:.0f} s")
            elif still_s("loop", self.pulse) > self._hang_s:
                self._end(f"the main loop hangs for {self._hang_s:.0f} s (setting hang_s)")
            elif still_s("consumer", self._consumer()) > self._hang_s:
                self._end(f"the thread of the Kafka consumer hangs for {self._hang_s:.0f} s (setting hang_s)")
            elif self.stalled[0] > self._stuck_s:
                self._end(f"{self.stalled[1]} has work, but no progress for {self._stuck_s:.0f} s (setting stuck_s)")

    def _end(self, reason: str) -> None:
        with contextlib.suppress(OSError, ValueError):
            print(f"CRITICAL {reason}; the worker ends, its stacks follow", file=sys.stderr, flush=True)
            faulthandler.dump_traceback()
            self._dump_tasks()
            sys.stderr.flush()
        os._exit(EX_FATAL)

    def _dump_tasks(self) -> None:
        """What the main loop's tasks wait for: a thread's stack does not show those."""
        if self._loop is None:
            return
        with contextlib.suppress(RuntimeError):  # It goes on beside us: its set of tasks may change.
            for task in asyncio.all_tasks(self._loop):
                print(f"\nTask {task.get_name()} (most recent call last):", file=sys.stderr)
                for frame in _frames(task.get_coro()):
                    code = frame.f_code
                    print(f'  File "{code.co_filename}", line {frame.f_lineno} in {code.co_name}', file=sys.stderr)


def _frames(awaited: Any) -> Iterator[FrameType]:
    """From a task's coroutine to what it waits for. (Task.print_stack shows the outermost alone.)"""
    while awaited is not None:
        for kind in ("cr", "gi", "ag"):
            if (frame := getattr(awaited, f"{kind}_frame", None)) is not None:
                yield frame
                break
        awaited = next((found for name in _WAITS if (found := getattr(awaited, name, None)) is not None), None)
