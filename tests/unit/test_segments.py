"""Segments: who is in, who goes out, by events and by time alone; whatever order events come in."""

from __future__ import annotations

import json
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from stream.signals import conditions
from stream.signals.base import Context
from stream.signals.purchase import PurchaseSignal
from stream.signals.segments import SegmentSignal
from tests.unit.conditions import ORDERED, WHEN, when
from tests.unit.test_fold import T0, Owner, record
from tracker.contract.events import encode_clock
from tracker.contract.examples import MODEL
from tracker.contract.loading import SettingsError, load
from tracker.contract.merges import Merge, encode_merge
from tracker.contract.models import Value, encode_model
from tracker.contract.predicates import FIELDS, MAX_EVENTS, Condition, Segment, leaves, relaxed
from tracker.contract.scoring import FitRule, LeadRules
from tracker.contract.settings import Settings
from tracker.contract.sites import Site

DAY = 86_400_000
H = 3_600_000


def configured(**segments: Any) -> Settings:
    """Name of a segment -> its condition, as in tracker.toml."""
    return load({"TRACKER_STALE_S": "99999999"}, sites={"demo": _site(segments)})


def _with(*segments: Segment) -> Settings:
    site = Site("wk_of_the_tests", "sk_of_the_tests", segments=segments)
    return load({"TRACKER_STALE_S": "99999999"}, sites={"demo": site})


def context_of(owner: Owner, now_ms: int = T0) -> Context:
    return owner.folder.context(owner.profiles["demo", "p1"], now_ms)


def _site(segments: dict[str, Any]) -> Site:
    each = tuple(Segment(name, said if isinstance(said, Condition) else when(said)) for name, said in segments.items())
    return Site("wk_of_the_tests", "sk_of_the_tests", segments=each)


def order(n: int, at_ms: int, **more: Any) -> bytes:
    return record(n, ts=T0 + at_ms, name="Order Completed", order_id=f"o{n}", revenue=10, **more)


def told(owner: Owner) -> list[tuple[str, str, str, int]]:
    """(in or out, segment, reason, ms after T0) of all triggers on segments."""
    out = []
    for value in owner.triggers:
        t = json.loads(value)
        if ".segment_" in t["type"]:
            at = datetime.fromisoformat(t["time"])
            way = "in" if "entered" in t["type"] else "out"
            out.append((way, t["data"]["segment"], t["data"]["reason"], round(at.timestamp() * 1000) - T0))
    return out


def members(owner: Owner, pid: str = "p1") -> set[str]:
    state = owner.profiles["demo", pid].states.get("segments")
    return set(state.members) if state is not None else set()


def test_no_order_in_30_days_is_entered_by_time_alone_exactly_at_its_time() -> None:
    owner = Owner(configured(quiet={"all": [{"field": "orders", "op": ">", "value": 0}, {"not": ORDERED}]}))
    owner.take([order(1, 0), order(2, 5 * DAY), encode_clock(T0 + 35 * DAY - 1)])
    assert told(owner) == []
    owner.take([encode_clock(T0 + 35 * DAY)])
    assert told(owner) == [("in", "quiet", "time", 35 * DAY)]
    owner.take([encode_clock(T0 + 40 * DAY), order(3, 41 * DAY)])
    assert told(owner)[1:] == [("out", "quiet", "event", 41 * DAY)]


def test_a_clock_that_jumps_over_an_entry_and_an_exit_tells_both_at_their_times() -> None:
    older, within = {"op": "older", "value": 3}, {"op": "within", "value": 5}
    between = {"all": [{"field": "last", "event": "page", **older}, {"field": "first_seen", **within}]}
    owner = Owner(configured(between=between))
    owner.take([record(1), encode_clock(T0 + 300 * DAY)])
    assert told(owner) == [("in", "between", "time", 3 * DAY), ("out", "between", "time", 5 * DAY)]


def test_counts_of_days_end_at_the_local_midnight() -> None:
    owner = Owner(configured(looks={"field": "count", "event": "Product Viewed", "days": 2, "op": ">=", "value": 2}))
    views = [record(n, ts=T0 + n, name="Product Viewed", product_id="x") for n in range(2)]
    owner.take(views)
    midnight = ((T0 + 7 * H) // DAY + 2) * DAY - 7 * H
    assert told(owner) == [("in", "looks", "event", 1)]
    owner.take([encode_clock(midnight - 1)])
    assert len(told(owner)) == 1
    owner.take([encode_clock(midnight)])
    assert told(owner)[1:] == [("out", "looks", "time", midnight - T0)]


def test_another_signals_timer_moves_a_member() -> None:
    owner = Owner(configured(left={"field": "cart", "op": "=", "value": "abandoned"}))
    owner.take([record(1, name="Product Added", product_id="x", price=10), encode_clock(T0 + 2 * H)])
    assert told(owner) == [("in", "left", "time", H)]


def test_an_order_that_is_given_back_counts_no_more() -> None:
    owner = Owner(configured(loyal={"field": "orders", "op": ">=", "value": 2}))
    owner.take([order(1, 0), order(2, DAY)])
    assert members(owner) == {"loyal"}
    owner.take([record(3, ts=T0 + 2 * DAY, name="Order Refunded", order_id="o2", total=4)])
    assert members(owner) == {"loyal"}
    owner.take([record(4, ts=T0 + 3 * DAY, name="Order Cancelled", order_id="o2")])
    assert told(owner) == [("in", "loyal", "event", DAY), ("out", "loyal", "event", 3 * DAY)]


def test_traits_move_a_member() -> None:
    owner = Owner(configured(hue=WHEN["trait"]))
    said = json.loads(record(1)) | {"type": "identify", "traits": {"city": "huế"}}
    owner.take([record(0), json.dumps(said).encode()])
    assert told(owner) == [("in", "hue", "event", 0)]
    owner.take([json.dumps(said | {"src": [3, 9, 0], "messageId": "m9", "traits": {"city": "Vinh"}}).encode()])
    assert members(owner) == set()


def test_an_event_costs_only_the_segments_that_it_can_change(monkeypatch: pytest.MonkeyPatch) -> None:
    many = {f"s{i}": {"field": "count", "event": f"E{i}", "op": ">", "value": 0} for i in range(40)}
    owner = Owner(configured(**many, hue=WHEN["trait"], buyer=WHEN["buyer"]))
    owner.take([record(0)])
    looked: list[Any] = []
    holds = conditions.holds

    def noted(c: Condition, now_ms: int, ctx: Context) -> tuple[bool, int | None]:
        looked.append(c)
        return holds(c, now_ms, ctx)

    monkeypatch.setattr(conditions, "holds", noted)
    owner.take([record(1, name="E7"), record(2, name="Product Viewed", product_id="x"), record(3)])
    assert [c.event for c in looked] == ["E7"]
    assert members(owner) == {"s7"}


EVENTS = st.lists(
    st.tuples(
        st.sampled_from([None, "Product Viewed", "Order Completed", "Signed Up"]),
        st.integers(0, 40 * 24).map(lambda h: h * H) | st.sampled_from([0, 1, 30 * 60_000, 30 * 60_000 + 1]),
    ),
    min_size=1,
    max_size=10,
)
FREE = {
    f"s{i}": c for i, c in enumerate(WHEN.values()) if not {leaf.field for leaf in leaves(c)} & {"cart", "cart_value"}
}
FALLING = {name for name, c in FREE.items() if any(FIELDS[leaf.field or ""].kind == "amount" for leaf in leaves(c))}
"""Segments that who is in them is in a little longer: it depends on whether they were."""


@settings(max_examples=80)
@given(EVENTS, st.randoms(use_true_random=False), st.sampled_from([0, 3, 29, 30, 31, 90, 200]))
def test_any_order_of_arrival_gives_the_members_that_the_conditions_give_now(
    said: list[tuple[str | None, int]], random: Any, later_d: int
) -> None:
    rules = configured(**FREE)
    now = T0 + 40 * DAY + later_d * DAY
    log = [
        record(n, ts=T0 + ms, received=T0 + 40 * DAY, name=name, order_id=f"o{n}", revenue=60)
        for n, (name, ms) in enumerate(said)
    ]
    found = []
    for shuffled in (False, True):
        order = list(enumerate(sorted(log, key=lambda r: json.loads(r)["timestampMs"])))
        if shuffled:
            random.shuffle(order)
        owner = Owner(rules)
        for n, (_, value) in enumerate(order):
            owner.take([json.dumps(json.loads(value) | {"src": [3, n, 0]}).encode()])
            if random.random() < 0.2:
                owner.take([encode_clock(T0 + random.randrange(40) * DAY)])
        owner.take([encode_clock(now)])
        profile = owner.profiles["demo", "p1"]
        ctx = owner.folder.context(profile, now)
        holding = {name for name, c in FREE.items() if conditions.holds(c, now, ctx)[0]}
        keeping = {name for name, c in FREE.items() if conditions.holds(Segment(name, c).stays, now, ctx)[0]}
        assert holding <= members(owner) <= keeping
        assert not (members(owner) - holding) - FALLING
        ids = [json.loads(t)["id"] for t in owner.triggers]
        assert len(set(ids)) == len(ids)
        _alternate(owner)
        assert {k: n for k, n in owner.gauges.items() if k.startswith("segment.") and n} == {
            f"segment.{name}|demo": 1 for name in members(owner)
        }
        found.append(members(owner) - FALLING)
    assert found[0] == found[1]


def _alternate(owner: Owner) -> None:
    """In and out take turns, in every segment: nothing is told twice."""
    state: dict[str, str] = {}
    for way, segment, _, _ in told(owner):
        assert state.get(segment, "out") != way
        state[segment] = way


def test_a_segment_that_is_gone_is_dropped_in_silence_and_a_changed_one_is_judged_at_the_next_event() -> None:
    old = Owner(configured(gone=WHEN["new"], changed=WHEN["new"], same=WHEN["new"]))
    old.take([record(1)])
    assert members(old) == {"gone", "changed", "same"}
    new = Owner(configured(changed=WHEN["buyer"], same=WHEN["new"], added=WHEN["never viewed"]))
    new.profiles, new.src, new.gauges = old.profiles, old.src, dict(old.gauges)
    new.take([record(2, ts=T0 + 1)])
    assert told(new) == [("out", "changed", "config", 1), ("in", "added", "config", 1)]
    assert members(new) == {"same", "added"}
    assert {k: n for k, n in new.gauges.items() if n and "segment" in k} == {
        "segment.same|demo": 1, "segment.added|demo": 1,
    }  # fmt: skip


def test_other_segments_are_taken_over_while_it_runs() -> None:
    owner = Owner(configured())
    owner.take([record(1)])
    owner.folder.reconfigure(configured(looks=WHEN["three views in 2 days"], new=WHEN["new"]))
    owner.take([record(n, ts=T0 + n, name="Product Viewed", product_id="x") for n in range(2, 5)])
    assert members(owner) == {"looks", "new"}
    owner.folder.reconfigure(configured())
    owner.take([record(n, ts=T0 + n, name="Product Viewed", product_id="x") for n in range(5, 8)])
    counts = owner.profiles["demo", "p1"].states["activity"].tallies
    assert counts["Product Viewed"].n == 3
    owner.take([encode_clock(T0 + 8 * DAY)])
    assert members(owner) == set()
    assert [way for way, *_ in told(owner)] == ["in", "in"]


def test_a_score_leaves_a_segment_by_time_alone_at_its_millisecond() -> None:
    hot = Segment("hot", when({"field": "score", "op": ">=", "value": 5}), leave=1)
    owner = Owner(_with(hot))
    owner.take([record(1, name="Form Submitted"), encode_clock(T0 + 7 * DAY - 1)])
    assert told(owner) == [("in", "hot", "event", 0)]
    owner.take([encode_clock(T0 + 7 * DAY + 1000)])  # 10 points halve in 7 days
    way, _, reason, at_ms = told(owner)[1]
    assert (way, reason) == ("out", "time")
    assert 0 < at_ms - 7 * DAY <= 2


def test_a_score_about_its_value_does_not_go_in_and_out() -> None:
    """One form, then a page a day: 10, 10.06, ... points of 10."""
    log = [record(0, name="Form Submitted"), *(record(n, ts=T0 + n * DAY) for n in range(1, 5))]
    owner = Owner(configured(hot={"field": "score", "op": ">=", "value": 10}))
    owner.take([*log, encode_clock(T0 + 5 * DAY)])
    assert told(owner) == [("in", "hot", "event", 0)]
    owner.take([encode_clock(T0 + 60 * DAY)])
    assert [way for way, *_ in told(owner)] == ["in", "out"]
    flapping = Owner(_with(Segment("hot", when({"field": "score", "op": ">=", "value": 10}), leave=1)))
    flapping.take([*log, encode_clock(T0 + 5 * DAY)])
    assert len(told(flapping)) > 6


def test_a_member_leaves_at_the_part_of_the_value_that_is_said() -> None:
    owner = Owner(_with(Segment("hot", when({"field": "score", "op": ">=", "value": 10}), leave=0.5)))
    owner.take([record(0, name="Form Submitted"), encode_clock(T0 + 7 * DAY - 1000)])
    assert members(owner) == {"hot"}
    owner.take([encode_clock(T0 + 7 * DAY + 1000)])
    assert members(owner) == set()
    explained = SegmentSignal().explain(
        owner.profiles["demo", "p1"].states["segments"], T0 + 8 * DAY, context_of(owner)
    )
    assert explained["not_in"] == [{"segment": "hot", "may_change": None}]


@pytest.mark.parametrize(
    ("condition", "value"),
    [
        ({"field": "risk", "op": "<", "value": 0.85}, 0.88),
        ({"not": {"field": "likelihood", "op": ">=", "value": 0.9}}, 0.92),
        ({"field": "risk", "op": ">=", "value": 0.9}, 0.72),
    ],
)
def test_a_share_is_never_relaxed_to_what_always_holds(condition: dict[str, Any], value: float) -> None:
    (leaf,) = leaves(relaxed(when(condition), 0.8))
    assert leaf.value == pytest.approx(value)


def test_who_is_in_stays_while_the_condition_to_stay_holds() -> None:
    buys = {"field": "orders", "op": ">=", "value": 2}
    came = {"field": "last_seen", "op": "within", "value": 30}
    owner = Owner(_with(Segment("regulars", when({"all": [buys, {**came, "value": 2}]}), stay=when(came))))
    owner.take([record(1), encode_clock(T0 + DAY)])
    assert members(owner) == set()
    owner.take([order(2, DAY), order(3, DAY + 1), encode_clock(T0 + 30 * DAY)])
    assert members(owner) == {"regulars"}
    owner.take([encode_clock(T0 + 32 * DAY)])
    assert [(way, reason) for way, _, reason, _ in told(owner)] == [("in", "event"), ("out", "time")]


@pytest.mark.parametrize(
    ("said", "value"),
    [
        ({"field": "score", "op": ">=", "value": 10}, 8.0),
        ({"field": "score", "op": "<", "value": 8}, 10.0),
        ({"not": {"field": "score", "op": "<", "value": 10}}, 8.0),
        ({"not": {"not": {"field": "score", "op": ">", "value": 10}}}, 8.0),
        ({"any": [{"field": "orders", "op": ">", "value": 3}, {"field": "score", "op": ">", "value": -8}]}, -10.0),
        ({"all": [{"field": "score", "op": "<=", "value": -10}]}, -8.0),
        ({"field": "score", "op": ">", "value": 0}, 0.0),
    ],
)
def test_members_are_kept_a_little_beyond_an_amount(said: dict[str, Any], value: float) -> None:
    stays = Segment("x", when(said)).stays
    assert [leaf.value for leaf in leaves(stays) if leaf.field == "score"] == [pytest.approx(value)]


def test_where_nothing_falls_by_itself_members_are_kept_by_the_condition_itself() -> None:
    for c in WHEN.values():
        if not any(FIELDS[leaf.field or ""].kind == "amount" for leaf in leaves(c)):
            assert Segment("x", c).stays is c


def test_churn_risk_moves_members_by_time_alone() -> None:
    """As the churn signal itself goes on, at .90; bands change at .33 and .66."""
    bands = {b: {"field": "churn_band", "op": "=", "value": b} for b in ("low", "medium", "high")}
    owner = Owner(configured(lost={"field": "risk", "op": ">=", "value": 0.9}, **bands, likely=WHEN["likely to buy"]))
    owner.take([order(1, 0), order(2, 20 * DAY)])
    assert members(owner) == {"low", "likely"} or members(owner) == {"medium", "likely"}
    owner.take([encode_clock(T0 + 900 * DAY)])
    assert members(owner) == {"lost", "high"}
    (churn,) = [json.loads(t) for t in owner.triggers if b"churn_risk" in t]
    crossed_ms = round(datetime.fromisoformat(churn["time"]).timestamp() * 1000) - T0
    entered = {segment: at_ms for way, segment, _, at_ms in told(owner) if way == "in"}
    assert 0 <= entered["lost"] - crossed_ms < 60_000
    left = {segment: at_ms for way, segment, _, at_ms in told(owner) if way == "out"}
    assert (left["medium"], left["likely"] < entered["lost"]) == (entered["high"], True)
    owner.take([order(n, 900 * DAY + n * DAY) for n in range(3, 12)])
    assert "lost" not in members(owner)


def test_customers_of_high_value_leave_when_their_value_falls() -> None:
    rules = configured(high=WHEN["of high value"], some={"field": "clv", "op": ">=", "value": 50})
    owner = Owner(rules)
    owner.take(
        [encode_model(replace(MODEL, site="demo", value=Value(p=6.25, q=3.74, v=15.44, currency="VND", high=20.0)))]
    )
    owner.take([order(n, n * 10 * DAY, currency="VND", total=30) for n in range(3)])
    assert members(owner) == {"high", "some"}
    owner.take([encode_clock(T0 + 3000 * DAY)])
    assert members(owner) == set()
    profile = owner.profiles["demo", "p1"]
    for way, segment, reason, at_ms in told(owner):
        if way == "out":
            assert reason == "time"
            bar = {"high": 20, "some": 40}[segment]  # 0.8 of 50: who is in stays in a little longer
            clv = [
                PurchaseSignal().explain(profile.states["purchase"], T0 + ms, owner.folder.context(profile, T0))["clv"]
                for ms in (at_ms - H, at_ms)
            ]
            assert clv[0] >= bar > clv[1]


def test_points_and_answers_move_a_member() -> None:
    lead = LeadRules(fit=(FitRule("employees", 35, at_least=50),))
    segments = (Segment("nearly", WHEN["nearly an MQL"]), Segment("detractor", WHEN["detractor"]))
    site = Site("wk_of_the_tests", "sk_of_the_tests", segments=segments, lead=lead)
    owner = Owner(load({}, sites={"demo": site}))
    owner.take(
        [record(1, name="Form Submitted"), record(2, ts=T0 + 1, name="Survey Response Received", type="nps", score=8)]
    )
    assert members(owner) == set()
    said = {"type": "identify", "userId": "u1", "traits": {"employees": 80}}
    owner.take([json.dumps(json.loads(record(3, ts=T0 + 2)) | said).encode()])
    assert members(owner) == {"nearly"}
    owner.take([record(4, ts=T0 + 3, name="Survey Response Received", type="nps", score=6)])
    assert members(owner) == {"nearly", "detractor"}


def test_consent_and_lead_move_a_member() -> None:
    owner = Owner(configured(mails=WHEN["mails"], lead=WHEN["a lead"]))
    owner.take([record(1, name="Subscribed", email="lan@shop.example")])
    assert "mails" in members(owner)
    owner.take([record(2, ts=T0 + 1, name="Form Submitted"), record(3, ts=T0 + 2, name="Email Unsubscribed")])
    assert members(owner) == {"lead"}


def test_of_merged_profiles_memberships_have_moved_and_not_ended() -> None:
    owner = Owner(configured(buyer=WHEN["buyer"], two={"field": "orders", "op": ">=", "value": 2}))
    owner.take([order(1, 0, pid="p1"), order(2, 5, pid="p2"), encode_clock(T0 + 10)])
    merge = Merge(merge_id="x", site="demo", winner="p1", loser="p2", rule="user_id", message_id="m", at_ms=T0)
    before = len(owner.triggers)
    owner.take([encode_merge(merge)])
    moved = [value for topic, value in owner.published[before:] if topic == "tracker.profile-events.v1"]
    (exit,) = [json.loads(v) for t, v in owner.published[before:] if "segment" in t]
    assert (exit["subject"], exit["data"]["segment"], exit["data"]["reason"]) == ("p2", "buyer", "moved")
    assert exit["data"]["movedTo"] == "p1"
    before = len(owner.triggers)
    owner.take(moved)
    (entry,) = [json.loads(v) for t, v in owner.published[before:] if "segment" in t]
    assert (entry["subject"], entry["data"]["segment"], entry["data"]["reason"]) == ("p1", "two", "merge")
    assert members(owner) == {"buyer", "two"}
    assert {k: n for k, n in owner.gauges.items() if n and "segment" in k} == {
        "segment.buyer|demo": 1, "segment.two|demo": 1,
    }  # fmt: skip


@pytest.mark.parametrize(
    ("said", "words"),
    [
        ({}, "when: a condition is one of all, any, not, field"),
        ({"all": []}, "when.all: the list is empty"),
        ({"any": [{"field": "orders", "op": ">", "value": 0}, {"field": "age"}]}, "when.any[1]: unknown field 'age'"),
        ({"not": {"field": "orders", "op": "~", "value": 0}}, "when.not: op: '~'; of 'orders' there are =, !=, <"),
        ({"field": "orders", "op": ">", "value": "2"}, "value: a number is needed"),
        ({"field": "orders", "op": ">", "value": True}, "value: a number is needed"),
        ({"field": "orders", "op": ">"}, "there is no value"),
        ({"field": "trait", "op": "=", "value": 1}, "the field 'trait' needs 'name'"),
        ({"field": "trait", "name": "x", "op": "in", "value": "a"}, "a list of 1 to 100 is needed"),
        ({"field": "trait", "name": "x", "op": "given", "value": 1}, "true or false is needed"),
        ({"field": "trait", "name": "x", "op": "<", "value": "a"}, "a number is needed"),
        ({"field": "count", "op": "=", "value": 1}, "the field 'count' needs 'event'"),
        ({"field": "count", "event": "E", "days": 91, "op": "=", "value": 1}, "days: 1 to 90 will do"),
        ({"field": "orders", "days": 3, "op": "=", "value": 1}, "'days' says nothing of 'orders'"),
        ({"field": "last", "event": "E", "op": "within", "value": 0}, "a number of days up to 3650 is needed"),
        ({"field": "cart", "op": "=", "value": "full"}, "value: of none, open, reopened"),
        ({"field": "stage", "op": ">", "value": 3}, "value: of aware, reached"),
        ({"field": "orders", "op": ">", "value": 1, "all": [{"field": "orders", "op": ">", "value": 1}]}, "one of all"),
        ({"all": [{"field": "orders", "op": ">", "value": 1}], "op": "="}, "'op' goes with a field, not with 'all'"),
        ({"property": "x", "op": "=", "value": 1}, "ask for a `field` here"),
        ({"field": "score", "op": "=", "value": 1}, "op: '='; of 'score' there are <, <=, >, >="),
        ({"field": "consent", "name": "pigeon", "op": "=", "value": "granted"}, "name: 'pigeon'; there are email, sms"),
    ],
)  # fmt: skip
def test_a_condition_that_cannot_be_used_is_one_line_that_names_the_place(said: dict[str, Any], words: str) -> None:
    with pytest.raises(SettingsError) as e:
        configured(mine=said)
    assert words in str(e.value)
    assert str(e.value).startswith("site 'demo': segment 'mine': when")
    assert "\n" not in str(e.value)


def test_conditions_are_bounded() -> None:
    leaf = {"field": "orders", "op": ">", "value": 0}
    deep: dict[str, Any] = leaf
    for _ in range(9):
        deep = {"not": deep}
    with pytest.raises(SettingsError, match="8 deep at most"):
        configured(mine=deep)
    with pytest.raises(SettingsError, match="101 conditions, 100 at most"):
        configured(mine={"all": [leaf] * 101})
    with pytest.raises(SettingsError, match="51 names of events, 50 at most"):
        configured(**{
            f"s{i}": {"field": "last", "event": f"E{i}", "op": "within", "value": 1} for i in range(MAX_EVENTS + 1)
        })  # fmt: skip


def test_segments_stand_in_tracker_toml(tmp_path: Path) -> None:
    text = """
        [sites.shop]
        write_key = "wk_of_the_tests"
        secret_key = "sk_of_the_tests"
        [[sites.shop.segments]]
        name = "gold_or_busy"
        when = { any = [
            { field = "trait", name = "plan", op = "in", value = ["gold", "silver"] },
            { field = "count", event = "Product Viewed", days = 7, op = ">=", value = 3 },
        ] }
    """
    file = tmp_path / "tracker.toml"
    file.write_text(text)
    (segment,) = load({}, file).sites["shop"].segments
    assert segment.when.any_ is not None
    assert segment.when.any_[0].value == ("gold", "silver")
    file.write_text(text.replace("days = 7", "day = 7"))
    with pytest.raises(
        SettingsError, match=r"shop\.segments\[0\]\.when\.any\[1\]: unknown setting 'day'; is 'days' meant"
    ):
        load({}, file)


def test_every_field_is_asked_for_in_these_tests() -> None:
    assert {leaf.field for c in WHEN.values() for leaf in leaves(c)} == set(FIELDS)


@pytest.mark.parametrize(
    ("value", "op", "wanted", "truth"),
    [
        ("Gold", "=", "gold", True), ("12", "=", 12, True), (True, "=", 1, False), (1, "=", True, False),
        (True, "=", True, True), (None, "!=", "x", True), (None, "<", 5, False), ("7", "<=", 7.5, True),
        ("abc", ">", 1, False), ("NaN", ">=", 0, False), (["a", "B"], "contains", "b", True),
        ("Hà Nội", "contains", "nội", True), ([], "given", False, True), (0, "given", True, True), ({}, ">", 1, False),
    ],
)  # fmt: skip
def test_what_clients_say_is_compared_without_trust(value: Any, op: str, wanted: Any, truth: bool) -> None:
    c = when({"property": "p", "op": op, "value": wanted})
    assert conditions.matches(c, {"p": value}) is truth
