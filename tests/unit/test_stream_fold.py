"""Records that only something else than this project can have written, and timers that would never end."""

from __future__ import annotations

import json
from typing import Any

import msgspec
import pytest

from stream.fold import Folder
from stream.packing import packb
from stream.profile import Profile
from stream.records import decode
from stream.resolve import _heads
from stream.signals import SIGNALS
from stream.signals.base import Context, Result, Signal
from tracker.contract.events import ProfileEvent, encode_clock
from tracker.contract.loading import load

T0 = 1_795_000_000_000
SETTINGS = load({"TRACKER_DEMO": "1"})
EVENT: dict[str, Any] = {
    "profileId": "p1", "src": [3, 1, 0], "site": "demo", "type": "page", "messageId": "m1", "timestampMs": T0,
    "receivedAtMs": T0, "channel": "site", "anonymousId": "a1",
}  # fmt: skip


@pytest.mark.parametrize(
    "wrong",
    [
        {"timestampMs": 10**16}, {"timestampMs": 2**62}, {"timestampMs": -1}, {"receivedAtMs": 10**18},
        {"src": [3, 2**60, 0]}, {"src": [2**70, 1, 0]}, {"clockMs": 9 * 10**18}, {"clockMs": 10**30}, {"clockMs": -5},
    ],
)  # fmt: skip
def test_a_record_with_an_impossible_time_or_place_is_poison_and_the_others_have_their_effect(
    wrong: dict[str, Any],
) -> None:
    record = json.dumps(wrong if "clockMs" in wrong else EVENT | wrong, separators=(",", ":")).encode()
    decoded = decode([record, json.dumps(EVENT).encode(), encode_clock(T0 + 5)])
    assert [(p.index, p.reason) for p in decoded.poison] == [(0, "not_an_event")]
    folder = Folder(SIGNALS, SETTINGS)
    fx = folder.fold(decoded, {key: Profile(*key) for key in decoded.profiles}, (), {}, 0)
    assert fx.clock_ms == T0 + 5
    assert len(fx.received) == 1
    assert packb(folder.blob(fx, epoch=1, seq=0, base=0, next=3))


def test_the_resolve_hop_refuses_an_impossible_time_of_receipt_and_keeps_the_others() -> None:
    good = json.dumps(EVENT).encode()
    heads = _heads([good, json.dumps(EVENT | {"receivedAtMs": 10**30}).encode(), good])
    assert [isinstance(head, str) for head in heads] == [False, True, False]


class Alarm(msgspec.Struct, frozen=True):
    due: int


class Stuck(Signal[Any]):
    """A signal with a bug: its timer stays due when it has fired."""

    name = "stuck"
    state_type = Alarm
    events: frozenset[str] | None = None

    def __init__(self) -> None:
        self.fired = 0

    def fold(self, state: Alarm | None, event: ProfileEvent, ctx: Context) -> Result:
        return Result(state=Alarm(T0 + 1000))

    def due_ms(self, state: Alarm) -> int | None:
        return state.due

    def fire(self, state: Alarm, now_ms: int, ctx: Context) -> Result:
        self.fired += 1
        return Result(state=Alarm(state.due - 1))

    def merge(self, one: Alarm, other: Alarm, now_ms: int, ctx: Context) -> Result:
        return Result(state=max(one, other, key=lambda alarm: alarm.due))

    def gauges(self, state: Alarm) -> tuple[tuple[str, int], ...]:
        return ()


def test_a_timer_that_stays_due_after_it_fired_is_put_off_instead_of_firing_for_ever() -> None:
    signal = Stuck()
    folder = Folder([signal], SETTINGS)
    profile = Profile("demo", "p1")
    decoded = decode([json.dumps(EVENT).encode(), encode_clock(T0 + 2000), encode_clock(T0 + 3000)])
    fx = folder.fold(decoded, {("demo", "p1"): profile}, (), {}, 0)
    assert signal.fired == 1
    assert profile.due_ms is not None
    assert profile.due_ms > T0 + 3000
    assert folder.blob(fx, epoch=1, seq=0, base=0, next=3)["due"] == [["demo|p1", profile.due_ms]]


class Untimely(Stuck):
    """A signal with a bug: what it counts is of no time."""

    name = "untimely"

    def fold(self, state: Alarm | None, event: ProfileEvent, ctx: Context) -> Result:
        return Result(state=Alarm(T0 + 1000), counts_at=(("carts", 1, 2**60),))


def test_an_event_that_one_signal_fails_on_changes_the_state_of_none() -> None:
    """Else its replay would change the others' twice."""
    profile = Profile("demo", "p1")
    decoded = decode([json.dumps(EVENT).encode()])
    fx = Folder([Stuck(), Untimely()], SETTINGS).fold(decoded, {("demo", "p1"): profile}, (), {}, 0)
    assert [p.reason for p in fx.poison] == ["fold_failed"]
    assert profile.states == {}
    assert packb(Folder([Stuck(), Untimely()], SETTINGS).blob(fx, epoch=1, seq=0, base=0, next=1))
