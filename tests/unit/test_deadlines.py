"""How far the clock in the log may go while events come by way of a spool."""

from __future__ import annotations

import contextlib
from typing import Any, cast

import pytest

from stream import deadlines
from stream.deadlines import EVERY_S, GONE_MS, LEAST_PAUSE_S, WHILE_BEHIND_S, Spooled, long_gone


def test_the_clock_stays_before_what_was_spooled_until_hop_1_has_read_it() -> None:
    spooled = Spooled()

    def least(waits: list[bytes], now_ms: int, next: int, end: int) -> int:
        return spooled.least_ms(waits, now_ms, {0: next, 1: 7}, {0: end, 1: 7})

    assert least([], 100, 5, 9) == 100
    assert least([b"40:900", b"60:900"], 110, 5, 9) == 40
    assert least([b"60:900"], 120, 5, 20) == 40  # what one had sent is in the log, behind newer ones
    assert least([], 130, 6, 30) == 40
    assert least([], 140, 29, 50) == 40
    assert least([], 150, 30, 60) == 150  # new ones since then are none of a spool
    assert least([b"70:900"], 160, 40, 60) == 70


def test_who_is_gone_holds_the_clock_no_longer_than_it_is_believed() -> None:
    spooled = Spooled()
    assert spooled.least_ms([b"40:200"], 199, {0: 0}, {0: 3}) == 40
    assert spooled.least_ms([b"40:200"], 200, {0: 0}, {0: 3}) == 40
    assert spooled.least_ms([b"40:200"], 300, {0: 3}, {0: 9}) == 300
    assert spooled.least_ms([b"nonsense", b"", b"x:y", b"-5:900"], 400, {0: 3}, {0: 9}) == 400


def test_a_new_owner_reads_first_what_was_in_the_log() -> None:
    """Of spools that were emptied before its time it knows nothing, and their old events stand behind new ones."""
    spooled = Spooled(0)
    assert spooled.least_ms([], 5_000, {0: 7}, {0: 9}) == 0
    assert spooled.least_ms([], 6_000, {0: 8}, {0: 30}) == 0
    assert spooled.least_ms([], 7_000, {0: 9}, {0: 40}) == 7_000


def test_an_owner_that_stood_still_reads_first_what_was_in_the_log() -> None:
    """Frozen, or without a Redis: another may have written the clock meanwhile, and a spool come and gone."""
    spooled = Spooled()
    assert spooled.least_ms([], 10_000, {0: 7}, {0: 7}) == 10_000
    assert spooled.least_ms([], 14_000, {0: 7}, {0: 9}) == 14_000
    assert spooled.least_ms([], 60_000, {0: 8}, {0: 20}) == 0
    assert spooled.least_ms([], 61_000, {0: 19}, {0: 30}) == 0
    assert spooled.least_ms([], 62_000, {0: 20}, {0: 40}) == 62_000


def test_what_processes_said_is_removed_when_it_has_not_been_believed_for_long() -> None:
    now_ms = 10 * GONE_MS
    waits = {b"a": b"40:%d" % (now_ms - GONE_MS - 1), b"b": b"40:%d" % (now_ms - GONE_MS), b"c": b"nonsense"}
    assert long_gone(waits, now_ms) == [(b"a", waits[b"a"]), (b"c", b"nonsense")]


@pytest.mark.parametrize(("told_ms", "every_s"), [(10**14, EVERY_S), (1, WHILE_BEHIND_S), (None, WHILE_BEHIND_S)])
async def test_the_clock_is_written_as_often_however_long_a_round_takes(
    monkeypatch: pytest.MonkeyPatch, told_ms: int | None, every_s: float
) -> None:
    """Under load a round takes a while: what is due would wait for that, too. But never without a pause. Twice as often
    while a partition is not at its end."""
    rounds_s, now = [0.0, 0.1, 0.9, 3.0], 100.0
    pauses: list[float] = []

    async def clock_ms(*_: Any) -> int | None:
        nonlocal now
        now += rounds_s[len(pauses) - 1]
        return told_ms

    async def sleep(s: float) -> None:
        if len(pauses) == len(rounds_s):
            raise EOFError
        pauses.append(s)

    monkeypatch.setattr(deadlines, "monotonic", lambda: now)
    monkeypatch.setattr("stream.deadlines.asyncio.sleep", sleep)
    monkeypatch.setattr(deadlines, "clock_ms", clock_ms)
    with contextlib.suppress(EOFError):
        await deadlines.keep_time(lambda: True, *cast(Any, (None, None, None, 0)))
    assert [round(s, 6) for s in pauses] == [EVERY_S, every_s, every_s - 0.1, LEAST_PAUSE_S]
