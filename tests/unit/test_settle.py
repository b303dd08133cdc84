"""Signals that look at other signals: who is settled when, in which order, and with what in sight."""

from __future__ import annotations

import json
from typing import Any

import pytest
from msgspec import Struct

from stream.fold import Folder
from stream.profile import Profile
from stream.records import decode
from stream.signals.base import Context, Result, Signal, Trigger
from tracker.contract.events import ProfileEvent, encode_clock
from tracker.contract.loading import load
from tracker.contract.merges import Merge, encode_merge
from tracker.contract.triggers import CART_ABANDONED, CartAbandonmentRetracted

T0 = 1_795_000_000_000
SETTINGS = load({"TRACKER_DEMO": "1"})


class Count(Struct, frozen=True):
    n: int = 0
    due: int | None = None


class Counter(Signal[Count]):
    """Counts events of one name; with `alarm`, counts once more when a time is over."""

    state_type = Count
    settings: frozenset[str] = frozenset()

    def __init__(self, name: str, event: str, alarm_ms: int | None = None) -> None:
        self.name, self.events, self.alarm_ms = name, frozenset((event,)), alarm_ms

    def fold(self, state: Count | None, event: ProfileEvent, ctx: Context) -> Result:
        due = None if self.alarm_ms is None else event.timestamp_ms + self.alarm_ms
        return Result(state=Count((state or Count()).n + 1, due))

    def due_ms(self, state: Count) -> int | None:
        return state.due

    def fire(self, state: Count, now_ms: int, ctx: Context) -> Result:
        return Result(state=Count(state.n + 1))

    def merge(self, one: Count, other: Count, now_ms: int, ctx: Context) -> Result:
        return Result(state=Count(one.n + other.n))


class Sum(Struct, frozen=True):
    total: int


class Watcher(Signal[Sum]):
    """The sum of what it reads; keeps a note of every call."""

    state_type = Sum
    events: frozenset[str] | None = frozenset()
    settings: frozenset[str] = frozenset()

    def __init__(self, name: str, *reads: str, fails: bool = False) -> None:
        self.name, self.reads, self.fails = name, frozenset(reads), fails
        self.calls: list[tuple[int, int]] = []

    def fold(self, state: Sum | None, event: ProfileEvent, ctx: Context) -> Result:
        return Result(state=state)

    def settle(self, state: Sum | None, now_ms: int, ctx: Context) -> Result:
        if self.fails:
            raise RuntimeError("bug")
        seen = [ctx.states[name] for name in sorted(self.reads) if name in ctx.states]
        total = sum(s.n if isinstance(s, Count) else s.total for s in seen) + len(ctx.traits or {})
        self.calls.append((now_ms - T0, total))
        return Result(state=state if state is not None and state.total == total else Sum(total))

    def merge(self, one: Sum, other: Sum, now_ms: int, ctx: Context) -> Result:
        return Result(state=max(one, other, key=lambda s: s.total))

    def leave(self, state: Sum, winner: str, now_ms: int, ctx: Context) -> tuple[Trigger, ...]:
        gone = CartAbandonmentRetracted(profile_id=ctx.profile_id, retracts=f"{state.total} to {winner}")
        return (Trigger(kind=CART_ABANDONED, id="gone", at_ms=now_ms, data=gone),)


class Shell:
    """One partition, without Redis."""

    def __init__(self, *signals: Signal[Any]) -> None:
        self.folder = Folder(signals, SETTINGS)
        self.profiles: dict[tuple[str, str], Profile] = {}
        self.src: dict[int, tuple[int, int]] = {}
        self.sent: list[bytes] = []
        self.n = 0

    def take(self, *values: bytes) -> Any:
        decoded = decode(values)
        for key in decoded.profiles:
            self.profiles.setdefault(key, Profile(*key))
        fx = self.folder.fold(decoded, self.profiles, list(self.profiles), self.src, 0)
        self.src.update(fx.src)
        self.sent += [t.value for t in fx.triggers]
        return fx

    def event(self, name: str | None, at_ms: int = 0, pid: str = "p1", **more: Any) -> bytes:
        self.n += 1
        return json.dumps(
            {
                "profileId": pid, "src": [3, self.n, 0], "site": "demo", "type": "track" if name else "page",
                "messageId": f"m{self.n}", "timestampMs": T0 + at_ms, "receivedAtMs": T0 + at_ms, "anonymousId": "a1",
                **({"event": name} if name else {}), **more,
            }
        ).encode()  # fmt: skip

    def state(self, name: str, pid: str = "p1") -> Any:
        return self.profiles["demo", pid].states.get(name)


def test_it_settles_once_after_what_it_reads_and_only_when_that_changed() -> None:
    one, two, unread = Counter("one", "A"), Counter("two", "A"), Counter("unread", "B")
    watcher = Watcher("watcher", "one", "two")
    shell = Shell(one, two, unread, watcher)
    shell.take(shell.event("A"), shell.event("B", 5), shell.event(None, 6), shell.event("A", 7))
    assert watcher.calls == [(0, 2), (7, 4)]
    assert shell.state("watcher") == Sum(4)


def test_what_is_read_of_a_reader_is_settled_too_in_the_same_event() -> None:
    first = Watcher("first", "one")
    second = Watcher("second", "first")
    shell = Shell(Counter("one", "A"), first, second)
    shell.take(shell.event("A"), shell.event("A", 1))
    assert second.calls == [(0, 1), (1, 2)]


def test_traits_settle_who_reads_them_and_only_when_they_change() -> None:
    watcher = Watcher("watcher", "about")
    shell = Shell(watcher)
    identify = {"type": "identify", "userId": "u1"}
    shell.take(
        shell.event(None, 0),
        shell.event(None, 1),
        shell.event(None, 2, **identify, traits={"city": "Huế"}),
        shell.event(None, 3, **identify),
    )
    assert watcher.calls == [(0, 0), (2, 1)]


def test_a_timer_settles_its_readers_at_its_own_time_and_in_the_order_of_the_times() -> None:
    late, early = Counter("late", "A", 5_000), Counter("early", "A", 2_000)
    watcher = Watcher("watcher", "late", "early")
    shell = Shell(late, early, watcher)
    shell.take(shell.event("A"), encode_clock(T0 + 60_000))
    assert watcher.calls == [(0, 2), (2_000, 3), (5_000, 4)]


def test_a_late_event_is_settled_at_the_logs_time() -> None:
    watcher = Watcher("watcher", "one")
    shell = Shell(Counter("one", "A"), watcher)
    shell.take(encode_clock(T0 + 60_000), shell.event("A", 10))
    assert watcher.calls == [(60_000, 1)]


def test_a_merge_settles_and_the_loser_says_what_becomes_of_it() -> None:
    watcher = Watcher("watcher", "one")
    shell = Shell(Counter("one", "A"), watcher)
    shell.take(shell.event("A"), shell.event("A", 1, pid="p2"))
    merge = Merge(merge_id="x", site="demo", winner="p1", loser="p2", rule="user_id", message_id="m", at_ms=T0)
    shell.take(encode_merge(merge))
    told = json.loads(shell.sent[1])
    assert (told["subject"], told["data"]["retracts"]) == ("p2", "1 to p1")
    shell.take(shell.sent[0])  # the loser's state arrives
    assert shell.state("watcher") == Sum(2)
    assert watcher.calls[-1][1] == 2


def test_an_event_that_a_reader_fails_on_changes_no_state() -> None:
    shell = Shell(Counter("one", "A"), Watcher("watcher", "one", fails=True))
    fx = shell.take(shell.event("A"))
    assert [(p.index, p.reason) for p in fx.poison] == [(0, "fold_failed")]
    assert shell.state("one") is None


def test_a_reader_that_fails_at_a_timer_does_not_hold_it_up() -> None:
    watcher = Watcher("watcher", "one")
    shell = Shell(Counter("one", "A", 1_000), watcher)
    shell.take(shell.event("A"))
    watcher.fails = True
    shell.take(encode_clock(T0 + 60_000))
    assert shell.state("one") == Count(2)
    assert shell.profiles["demo", "p1"].due_ms is None


@pytest.mark.parametrize("order", [("watcher", "one"), ("watcher",)])
def test_what_is_read_must_be_registered_before(order: tuple[str, ...]) -> None:
    signals: dict[str, Signal[Any]] = {"watcher": Watcher("watcher", "one"), "one": Counter("one", "A")}
    with pytest.raises(ValueError, match=r"^signal `watcher` reads `one`, which is not registered before it$"):
        Folder([signals[name] for name in order], SETTINGS)
