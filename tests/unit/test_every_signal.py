"""What every registered signal must keep to, whatever it measures."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator
from typing import Any, Final

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stream import metrics
from stream.plans import check_reads
from stream.profile import ABOUT
from stream.signals import SIGNALS
from stream.signals.base import Result, Signal
from stream.signals.messages import MessageSignal
from stream.signals.popups import PopupSignal
from tests.unit.conditions import WHEN
from tests.unit.shop_events import T0_MS, context, event
from tracker.contract import events as ev
from tracker.contract import scoring
from tracker.contract.events import ProfileEvent
from tracker.contract.examples import MESSAGES, profile_event
from tracker.contract.keys import segment_gauge
from tracker.contract.loading import load
from tracker.contract.predicates import Rule, Segment
from tracker.contract.sites import Site, SurveyRules
from tracker.contract.triggers import TRIGGER_KINDS, decode_trigger, encode_trigger

NAMES: Final = sorted(
    {*MESSAGES, *(name for s in SIGNALS for name in (*(s.events or ()), *s.types))} - {"page", "screen", "identify"}
)
CONFIGURED: Final = load(
    {},
    sites={
        "demo": Site(
            "wk_of_the_tests",
            "sk_of_the_tests",
            segments=tuple(Segment(f"segment-{i}", when) for i, when in enumerate(WHEN.values())),
            rules=tuple(
                Rule(f"rule-{i}", name, when=when, once=once, most=2)  # type: ignore[arg-type]  # mypy widens the Literal
                for i, (name, when, once) in enumerate(
                    zip(
                        (ev.PRODUCT_ADDED, ev.ORDER_COMPLETED, "Email Link Clicked", ev.SURVEY_RESPONSE_RECEIVED),
                        (None, *list(WHEN.values())[:3]),
                        ("message", "session", "day", "ever"),
                        strict=True,
                    )
                )
            ),
            surveys=SurveyRules(after_goal=(ev.FORM_SUBMITTED,), after_session=True),
        )
    },
)
CTX: Final = context(user_id="u1", traits={"name": "Lan"}, settings=CONFIGURED)
encode = msgspec.json.Encoder(order="deterministic").encode

fuzzed = settings(max_examples=int(os.environ.get("HYPOTHESIS_EXAMPLES", "15")))
"""Of each signal in each test: other ones in every run, so that over the runs there are many."""


def by_name(signal: Signal[Any]) -> str:
    return signal.name


_texts = st.one_of(
    st.text(max_size=8),
    st.sampled_from(["A", "B", "o1", "12.5", "-3", "NaN", "1e999", "VND", "nps", "csat", "9", "inform"]),
)
_json = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(-(2**70), 2**70), st.floats(), _texts),
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(_texts, inner, max_size=3)),
    max_leaves=6,
)
_fields = st.sampled_from(
    ["product_id", "sku", "name", "price", "quantity", "url", "image_url", "currency", "order_id", "revenue", "total",
     "value", "campaign", "campaign_id", "popup_id", "channel", "stage", "type", "score", "scale", "rating", "visits",
     "ticket_id"]
)  # fmt: skip
_product = st.one_of(_json, st.dictionaries(_fields, _json, max_size=5))
_properties = st.one_of(
    _json,
    st.builds(
        lambda fields, products: fields | products,
        st.dictionaries(_fields, _json, max_size=6),
        st.one_of(st.just({}), st.builds(lambda p: {"products": p}, st.one_of(_json, st.lists(_product, max_size=4)))),
    ),
)


def _raw(value: Any) -> msgspec.Raw:
    """As clients might send it; msgspec writes NaN and the infinities as null, here they are numbers too big."""
    text = json.dumps(value, ensure_ascii=False).encode("utf-8", "surrogatepass")
    return msgspec.Raw(text.replace(b"Infinity", b"1e999").replace(b"NaN", b"null"))


@st.composite
def streams(draw: st.DrawFn) -> list[ProfileEvent]:
    out = []
    for i in range(draw(st.integers(1, 8))):
        at_s = draw(st.sampled_from([0, 1, 60, 3600, 7200, 90_000, 7_000_000]))
        name = draw(st.sampled_from(NAMES))
        e = event(name, at_s, id=f"m{i}")
        if name in ev.EVENT_TYPES:
            e = msgspec.structs.replace(e, type=name, event=None)
        out.append(msgspec.structs.replace(e, properties=_raw(draw(_properties)), channel=draw(_texts)))
    return out


def play(signal: Signal[Any], stream: list[ProfileEvent], *, stored: bool) -> tuple[Any, list[Result]]:
    """As the shell does, with the signals whose states it reads. stored: the states go through JSON after every event,
    as between chunks. -> its last state, what it gave."""
    states: dict[str, Any] = {}
    results: list[Result] = []
    for e in stream:
        results += _steps(signal, states, e)
        if stored:
            for s in chain(signal):
                if s.name in states:
                    states[s.name] = msgspec.json.decode(msgspec.json.encode(states[s.name]), type=s.state_type)
    return states.get(signal.name), results


def chain(signal: Signal[Any]) -> list[Signal[Any]]:
    """The signal after those whose states it reads, theirs too."""
    out, wanted = [signal], set(signal.reads)
    for s in reversed(SIGNALS[: SIGNALS.index(signal)] if signal in SIGNALS else ()):
        if s.name in wanted:
            out.insert(0, s)
            wanted |= s.reads
    return out


def _steps(signal: Signal[Any], states: dict[str, Any], e: ProfileEvent) -> list[Result]:
    """One event: what it gives of `signal`. Changes `states`."""
    out: list[Result] = []
    changed: set[str] = set()
    ctx = msgspec.structs.replace(CTX, states=states, changed=changed)

    def keep(s: Signal[Any], result: Result) -> None:
        if result.state is not None and result.state is not states.get(s.name):
            states[s.name] = result.state
            changed.add(s.name)
        if s is signal:
            out.append(result)

    for s in chain(signal):
        state = states.get(s.name)
        if state is not None and (due := s.due_ms(state)) is not None and due <= e.timestamp_ms:
            keep(s, s.fire(state, e.timestamp_ms, ctx))
        if s.reads & changed:
            keep(s, s.settle(states.get(s.name), e.timestamp_ms, ctx))
    changed.clear()
    if not states:
        changed.add(ABOUT)
    ctx = msgspec.structs.replace(ctx, event=e)
    for s in chain(signal):
        if s.events is None or e.event in s.events or e.type in s.types:
            keep(s, s.fold(states.get(s.name), e, ctx))
        if s.reads and (s.reads | {s.name}) & changed:
            keep(s, s.settle(states.get(s.name), e.timestamp_ms, ctx))
    return out


def test_names_are_unique_and_none_is_the_profiles_own_field() -> None:
    names = [s.name for s in SIGNALS]
    assert len(set(names)) == len(names)
    assert ABOUT not in names


def test_what_a_signal_reads_is_registered_before_it() -> None:
    check_reads(SIGNALS)


@pytest.mark.parametrize("signal", SIGNALS, ids=by_name)
def test_it_reads_only_events_of_the_contract(signal: Signal[Any]) -> None:
    known = {v for k, v in vars(ev).items() if k.isupper() and isinstance(v, str)}
    known = known.union(ev.POPUP_ACTIONS, ev.MESSAGE_ACTIONS, ev.VERIFIED, scoring.OF_EVENT, scoring.LEAD_EVENTS)
    known = known.union(ev.ECOMMERCE, ev.USAGE_EVENTS, ev.SUBSCRIPTION_EVENTS)
    assert signal.events is None or signal.events <= known
    assert signal.types <= set(ev.EVENT_TYPES) - {"track"}


@pytest.mark.parametrize("signal", SIGNALS, ids=by_name)
@given(stream=streams())
@fuzzed
def test_nothing_that_a_client_sends_makes_it_raise_and_replays_are_equal(
    signal: Signal[Any], stream: list[ProfileEvent]
) -> None:
    state, results = play(signal, stream, stored=False)
    told = {trigger.kind.name for result in results for trigger in result.triggers}
    assert told <= signal.tells or signal.name == "gate"  # which passes on what others told
    again, repeated = play(signal, stream, stored=True)
    assert state == again
    assert results == repeated


@pytest.mark.parametrize("signal", SIGNALS, ids=by_name)
@given(
    stream=streams(), kind=st.sampled_from(["track", "page", "screen", "identify"]), bot=st.sampled_from([None, "x"])
)
@fuzzed
def test_what_it_calls_idle_changes_nothing(
    signal: Signal[Any], stream: list[ProfileEvent], kind: str, bot: str | None
) -> None:
    state, _ = play(signal, stream, stored=False)
    for e in stream:
        e = msgspec.structs.replace(e, type=kind, bot=bot)
        if (signal.events is None or e.event in signal.events) and signal.idle(state, e, CTX.utc_offset_ms):
            assert signal.fold(state, e, CTX) == Result(state=state)
            assert signal.fold(state, e, CTX).state is state


@pytest.mark.parametrize("signal", SIGNALS, ids=by_name)
@given(stream=streams())
@fuzzed
def test_it_changes_no_state_in_place_and_its_timer_moves_beyond_now(
    signal: Signal[Any], stream: list[ProfileEvent]
) -> None:
    states: dict[str, Any] = {}
    for e in stream:
        _steps(signal, states, e)
        state = states.get(signal.name)
        if state is None:
            continue
        ctx = msgspec.structs.replace(CTX, states=dict(states))
        before = encode(state)
        due = signal.due_ms(state)
        far = T0_MS + 10**12
        for now in (due, far) if due is not None else (far,):
            fired = signal.fire(state, now, ctx)
            assert encode(state) == before
            again = signal.due_ms(fired.state)
            assert again is None or again > now
            assert signal.fire(fired.state, now, ctx).triggers == ()
        if signal.events is None or stream[0].event in signal.events:
            signal.fold(state, stream[0], ctx)
        if signal.reads:
            settled = signal.settle(state, e.timestamp_ms, ctx)
            assert (encode(settled.state), settled.triggers, settled.gauges) == (before, (), ())
        signal.leave(state, "p2", far, ctx)
        assert encode(state) == before


@pytest.mark.parametrize("signal", [s for s in SIGNALS if s.state_type is not type(None)], ids=by_name)
@given(stream=streams(), other=streams())
@fuzzed
def test_two_states_merge_to_the_same_whichever_comes_first(
    signal: Signal[Any], stream: list[ProfileEvent], other: list[ProfileEvent]
) -> None:
    renamed = [msgspec.structs.replace(e, message_id=f"other {e.message_id}") for e in other]
    (one, _), (two, _) = play(signal, stream, stored=True), play(signal, renamed, stored=True)
    if one is None or two is None:
        return
    before = encode(one), encode(two)
    now_ms = T0_MS + 8_000_000_000
    merged, again = signal.merge(one, two, now_ms, CTX), signal.merge(two, one, now_ms, CTX)
    assert encode(merged.state) == encode(again.state)
    assert [t.id for t in merged.triggers] == [t.id for t in again.triggers]
    assert (encode(one), encode(two)) == before
    assert isinstance(merged.state, signal.state_type)
    assert msgspec.json.decode(msgspec.json.encode(merged.state), type=signal.state_type) == merged.state


@pytest.mark.parametrize("signal", SIGNALS, ids=by_name)
@given(stream=streams())
@fuzzed
def test_the_gauges_of_its_state_are_the_sum_of_what_it_gave(signal: Signal[Any], stream: list[ProfileEvent]) -> None:
    state, results = play(signal, stream, stored=False)
    if state is None:
        return
    results.append(signal.fire(state, T0_MS + 10**10, CTX))
    sums: dict[str, int] = {}
    for result in results:
        for field, n in result.gauges:
            sums[field] = sums.get(field, 0) + n
    assert dict(signal.gauges(results[-1].state)) == {field: n for field, n in sums.items() if n}


@pytest.mark.parametrize("signal", SIGNALS, ids=by_name)
@given(stream=streams())
@fuzzed
def test_what_it_gives_is_declared(signal: Signal[Any], stream: list[ProfileEvent]) -> None:
    state, results = play(signal, stream, stored=False)
    if state is not None:
        assert isinstance(state, signal.state_type)
        results.append(signal.fire(state, T0_MS + 10**12, CTX))
    for result in results:
        for name, labels, n in result.metrics:
            assert len(metrics.SIGNAL_COUNTERS[name]._labelnames) == len(labels)
            assert n > 0
        for name, _ in result.gauges:
            assert name in metrics.GAUGES or name.startswith(segment_gauge(""))
        for field, n in result.counts:
            assert len(field) < 200
            assert n > 0
        for t in result.triggers:
            assert t.kind in TRIGGER_KINDS
            assert t.suppressed is None or t.suppressed in metrics.SUPPRESSED
            value = encode_trigger(t.kind, id=t.id, site="demo", profile_id="p1", at_ms=t.at_ms, data=t.data)
            decoded = decode_trigger(value)
            retraction = t.kind.retraction
            kind = retraction if retraction is not None and isinstance(t.data, retraction) else t.kind.data
            assert msgspec.json.decode(decoded.data, type=kind) == t.data


@pytest.mark.parametrize("signal", SIGNALS, ids=by_name)
def test_it_has_an_effect_on_every_golden_event_that_it_reads(signal: Signal[Any]) -> None:
    """On nothing, or on what another of them has made."""
    read = [n for n in MESSAGES if n in (signal.events or ()) or n in signal.types - {"identify"}]
    events = {name: ev.decode_profile_event(profile_event(name)) for name in read}
    states = [None, *(signal.fold(None, e, CTX).state for e in events.values())]
    for name, e in events.items():
        results = [(state, signal.fold(state, e, CTX)) for state in states]
        assert any(result.state is not state or result.counts for state, result in results), name


@pytest.mark.parametrize("signal", [s for s in SIGNALS if s.state_type is not type(None)], ids=by_name)
@given(stream=streams())
@settings(max_examples=40)
def test_it_explains_its_state_in_words(signal: Signal[Any], stream: list[ProfileEvent]) -> None:
    """Times as people read them, days by their date, lists where there is more of something."""
    assert type(signal).explain is not Signal.explain
    states: dict[str, Any] = {}
    for e in stream:
        _steps(signal, states, e)
    if (state := states.get(signal.name)) is None:
        return
    ctx = msgspec.structs.replace(CTX, states=states)
    said = msgspec.json.decode(msgspec.json.encode(signal.explain(state, T0_MS + 8_000_000_000, ctx)))
    assert said
    for path, value in _walked(said, ""):
        assert not path.endswith(("_ms", ".bits", ".day", ".gone")), path
        assert isinstance(value, bool) or not isinstance(value, int) or not T0_MS - 10**11 < value < 10**14, path
        assert path.rpartition(".")[2] not in ("due", "entered_at") or value is None or RFC3339(value), path


RFC3339: Final = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z").fullmatch


def _walked(value: Any, path: str) -> Iterator[tuple[str, Any]]:
    if isinstance(value, dict | list):
        items = value.items() if isinstance(value, dict) else ((str(i), each) for i, each in enumerate(value))
        for name, each in items:
            yield from _walked(each, f"{path}.{name}")
    else:
        yield path, value


# -- the two that only count -----------------------------------------------------------------------------------------


def test_a_popup_is_counted_by_its_id_and_action() -> None:
    e = event("Popup Viewed", 0, {"popup_id": "x" * 70})
    result = PopupSignal().fold(None, e, CTX)
    assert result.counts == ((f"popup|viewed|{'x' * 64}", 1),)
    assert result.metrics == (("popup_events_total", ("demo", "viewed"), 1),)
    assert PopupSignal().fold(None, event("Popup Clicked", 0), CTX).counts == (("popup|clicked|unknown", 1),)


@pytest.mark.parametrize(
    ("name", "channel", "field"),
    [
        ("Email Opened", "zalo", "message|email|seen"),
        ("Message Seen", "zalo", "message|zalo|seen"),
        ("Message Seen", "pigeon", "message|other|seen"),
        ("Push Notification Tapped", "site", "message|webpush|clicked"),
        ("Unsubscribed", "email", "message|email|unsubscribed"),
    ],
)
def test_a_message_is_counted_by_its_channel_and_action(name: str, channel: str, field: str) -> None:
    e = msgspec.structs.replace(event(name, 0), channel=channel)
    of = field.removeprefix("message|")
    counts = MessageSignal().fold(None, e, CTX).counts
    assert [f for f, _ in counts][:3] == [field, f"message_campaign|{of}|", f"message_template|{of}|"]
