"""docs/signals-howto.md is true: its code is run, and its signal keeps to what every signal must."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from types import ModuleType
from typing import Any

import msgspec
import pytest

from stream.profile import ProfileCodec
from stream.signals import SIGNALS
from stream.signals.base import Context, Result, Signal
from stream.stored import StateError
from tests.harness import ROOT
from tests.unit.shop_events import context, event
from tests.unit.test_every_signal import play
from tracker.contract.events import ProfileEvent
from tracker.contract.triggers import rfc3339


@pytest.fixture(scope="module")
def page() -> Iterator[dict[str, Any]]:
    """The names that the page's code has made."""
    blocks = re.findall(r"^```python\n(.*?)^```", (ROOT / "docs/signals-howto.md").read_text("utf-8"), re.M | re.S)
    assert len(blocks) == 4
    module = ModuleType("howto")
    sys.modules["howto"] = module
    try:
        for block in blocks:
            exec(compile(block, "docs/signals-howto.md", "exec"), module.__dict__)
        yield module.__dict__
    finally:
        del sys.modules["howto"]


def test_the_page_runs_and_its_signal_folds_on_from_json(page: dict[str, Any]) -> None:
    signal: Signal[Any] = page["WishlistSignal"]()
    added, removed = page["ADDED"], page["REMOVED"]
    steps = [(added, "a"), (added, "b"), (removed, "a"), (added, "b"), (removed, "c")]
    stream = [event(name, n, {"product_id": p}) for n, (name, p) in enumerate(steps)]
    state, results = play(signal, stream, stored=True)
    assert (state, results) == play(signal, stream, stored=False)
    assert state.products == ("b",)
    assert [len(r.counts) for r in results] == [1, 1, 0, 0, 0]
    assert signal.explain(state, 0, context()) == {"products": ["b"], "since": rfc3339(state.since_ms)}
    assert page["SIGNALS"][-1].name == "gate"


class Two(msgspec.Struct, frozen=True, omit_defaults=True):
    n: int = 0


class Versioned(Signal[Two]):
    name = "v"
    state_type = Two
    events = frozenset(("E",))
    settings: frozenset[str] = frozenset()
    version = 3

    def migrate(self, version: int, fields: dict[str, Any]) -> dict[str, Any]:
        return {"n": fields["n"] * 10 + version}

    def fold(self, state: Two | None, event: ProfileEvent, ctx: Context) -> Result:
        return Result(state=state)


@pytest.mark.parametrize(
    ("text", "n"),
    [('{"n":1}', 11), ('{"_v":2,"n":1}', 12), ('{"_v":3,"n":1}', 1), ('{"_v":3}', 0)],
)
def test_a_state_of_any_older_version_is_migrated_when_it_is_read(text: str, n: int) -> None:
    codec = ProfileCodec([Versioned()])
    profile = codec.decode("s", "p", ["v", text])
    assert profile.states["v"] == Two(n)
    profile.changed.add("v")
    written = bytes(codec.write(profile)[1][1])[5:].decode()
    assert written == (f'{{"_v":3,"n":{n}}}' if n else '{"_v":3}')
    assert codec.decode("s", "p", ["v", written]).states["v"] == Two(n)


@pytest.mark.parametrize(
    "text", ['{"_v":4,"n":1}', '{"_v":30,"n":1}', '{"_v":2}', '{"_v":2,"n":"x"}', "[]", "", '{"_v":"2","n":1}']
)
def test_a_state_that_cannot_be_read_is_one_line_that_says_whose_it_is(text: str) -> None:
    with pytest.raises(StateError, match=r"^the state `v` of profile s:p can't be read \([^\n]+$"):
        ProfileCodec([Versioned()]).decode("s", "p", ["v", text])


def test_a_first_version_does_not_take_a_later_one_for_its_own() -> None:
    class First(Versioned):
        version = 1

    assert ProfileCodec([First()]).decode("s", "p", ["v", '{"n":4}']).states["v"] == Two(4)
    with pytest.raises(StateError, match="version 3, this worker knows up to 1"):
        ProfileCodec([First()]).decode("s", "p", ["v", '{"_v":3,"n":4}'])


class Guarded:
    """Settings of which only some may be read."""

    def __init__(self, settings: Any, allowed: frozenset[str]) -> None:
        self._settings, self._allowed = settings, allowed
        self.read: set[str] = set()

    def __getattr__(self, name: str) -> Any:
        assert name in self._allowed, f"it reads the setting {name} without saying so"
        self.read.add(name)
        return getattr(self._settings, name)


@pytest.mark.parametrize("signal", SIGNALS, ids=lambda s: s.name)
def test_a_signal_reads_the_settings_that_it_declares_and_no_others(signal: Signal[Any]) -> None:
    from tests.unit.shop_events import context
    from tracker.contract.events import decode_profile_event
    from tracker.contract.examples import MESSAGES, MODEL, profile_event

    ctx = context(user_id="u1")
    guarded = Guarded(ctx.settings, signal.settings)
    ctx = msgspec.structs.replace(ctx, settings=guarded, models={("demo", "purchase"): MODEL})
    for name in MESSAGES:
        if signal.events is None or name in signal.events or name in signal.types:
            golden = decode_profile_event(profile_event(name))
            state = signal.fold(None, golden, ctx).state
            if signal.reads:
                state = signal.settle(state, golden.timestamp_ms, ctx).state or state
            if state is not None:
                state = signal.fire(state, 10**14, ctx).state
                signal.explain(state, 10**14, ctx)
                again = msgspec.structs.replace(golden, message_id="another", properties=msgspec.UNSET)
                signal.fold(state, again, ctx)
    if signal.reads:
        signal.settle(None, 10**14, ctx)
    if signal.name == "gate":  # it reads no event
        signal.explain(signal.state_type(), 10**14, ctx)
    if signal.types:
        golden = decode_profile_event(profile_event("Product Viewed"))
        for call in signal.types:
            state = signal.fold(None, msgspec.structs.replace(golden, type=call, event=None), ctx).state
            if state is not None:
                signal.explain(state, 10**14, ctx)
    assert guarded.read == signal.settings or signal.name in ("segments", "rules")  # by what a site asks
