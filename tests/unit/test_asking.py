"""Drip steps, surveys, review requests, rules: each asked for once, of whom and when it says."""

from __future__ import annotations

import json
from datetime import datetime
from typing import Any, Literal

import pytest

from stream.signals.surveys import SurveySignal
from tests.unit.conditions import when
from tests.unit.test_fold import T0, Owner, record
from tracker.contract.events import encode_clock
from tracker.contract.loading import SettingsError, load
from tracker.contract.merges import Merge, encode_merge
from tracker.contract.predicates import Rule
from tracker.contract.settings import Settings
from tracker.contract.sites import ReviewRules, Site, SurveyRules

DAY = 86_400_000


def configured(**site: Any) -> Settings:
    env = {"TRACKER_STALE_S": "99999999"}
    return load(env, sites={"demo": Site("wk_of_the_tests", "sk_of_the_tests", **site)})


def event(n: int, day: float, name: str | None = None, *, pid: str = "p1", **more: Any) -> bytes:
    return record(n, pid=pid, ts=T0 + round(day * DAY), name=name, **more)


def clock(day: float) -> bytes:
    return encode_clock(T0 + round(day * DAY))


def told(owner: Owner, kind: str) -> list[dict[str, Any]]:
    """The data of the triggers of a kind, with the day that they are of."""
    out = []
    for value in owner.triggers:
        t = json.loads(value)
        if t.get("type") == f"tracker.{kind}.v1":
            day = (datetime.fromisoformat(t["time"]).timestamp() * 1000 - T0) / DAY
            out.append({**t["data"], "day": round(day, 6)})
    return out


def merged(owner: Owner, winner: str, loser: str) -> None:
    before = len(owner.published)
    merge = Merge(merge_id="x", site="demo", winner=winner, loser=loser, rule="user_id", message_id="m", at_ms=T0)
    owner.take([encode_merge(merge)])
    owner.take([value for topic, value in owner.published[before:] if topic == "tracker.profile-events.v1"])


# -- drip


@pytest.mark.parametrize(
    ("stages", "expected"),
    [
        ([1, 1], [(1, 2)]),
        (["inform", "inform", "nurture", "convert"], [(1, 2), (2, 3), (3, None)]),
        ([2, 1], [(2, 3)]),
        (["1", 2.0, 0, -1, "x", None, True, 1e9], [(1, 2), (2, 3)]),
    ],
)
def test_a_level_asks_for_the_next_one_once(stages: list[Any], expected: list[tuple[int, int | None]]) -> None:
    owner = Owner(configured())
    owner.take([event(n, 0, "Email Link Clicked", stage=s, campaign_id="tet") for n, s in enumerate(stages)])
    assert [(t["from"], t.get("to")) for t in told(owner, "journey_step")] == expected


def test_each_campaign_has_its_own_levels_and_a_merge_tells_nothing_again() -> None:
    owner = Owner(configured())
    owner.take([event(n, 0, "Form Submitted", stage=1, campaign_id=c, pid=c) for n, c in enumerate("ab")])
    assert [t["campaign"] for t in told(owner, "journey_step")] == ["a", "b"]
    merged(owner, "a", "b")
    owner.take([event(n, 0, "Email Link Clicked", stage=1, campaign_id=c, pid="a") for n, c in ((5, "a"), (6, "b"))])
    assert len(told(owner, "journey_step")) == 2


# -- surveys


def order(n: int, day: float, **more: Any) -> bytes:
    return event(n, day, "Order Completed", order_id=f"o{n}", **more)


def test_two_orders_in_ten_days_ask_once_after_the_delay() -> None:
    owner = Owner(configured())
    owner.take([order(1, 0), clock(2.99)])
    assert told(owner, "survey") == []
    owner.take([clock(3), order(2, 10), clock(20)])
    (asked,) = told(owner, "survey")
    assert (asked["cause"], asked["orderId"], asked["day"]) == ("order", "o1", 3)
    owner.take([order(3, 33), clock(40)])
    assert [t["orderId"] for t in told(owner, "survey")] == ["o1", "o3"]


def test_an_order_reported_twice_asks_once_and_a_cancelled_one_never() -> None:
    owner = Owner(configured(surveys=SurveyRules(gap_d=0.5)))
    owner.take([order(1, 0), event(2, 1, "Order Completed", order_id="o1"), clock(10)])
    assert len(told(owner, "survey")) == 1
    owner.take([event(3, 11, "Order Completed", order_id="o1"), clock(20)])
    owner.take([order(4, 20), event(5, 21, "Order Cancelled", order_id="o4"), clock(30)])
    owner.take([event(6, 31, "Order Cancelled", order_id="o7"), order(7, 30.5), clock(40)])
    assert len(told(owner, "survey")) == 1


def test_goals_and_sessions_ask_at_once_where_they_are_configured() -> None:
    rules = SurveyRules(after_order=False, after_goal=("Form Submitted",), after_session=True, gap_d=5)
    owner = Owner(configured(surveys=rules))
    log = [
        event(1, 1, "Form Submitted"),
        event(2, 2, "Session Ended"),
        event(3, 6, "Session Ended"),
        clock(9),
    ]
    fx = owner.take(log)
    assert [(t["cause"], t.get("event"), t["day"]) for t in told(owner, "survey")] == [
        ("goal", "Form Submitted", 1), ("session", None, 6),
    ]  # fmt: skip
    assert ("survey", "gap") in fx.suppressed
    quiet = Owner(configured())
    quiet.take(log)
    assert told(quiet, "survey") == []


MINUTE = 1 / 1440


def test_the_end_of_a_session_asks_by_time_alone() -> None:
    rules = SurveyRules(after_order=False, after_session=True, gap_d=5)
    owner = Owner(configured(surveys=rules))
    owner.take([event(0, 0), event(1, 20 * MINUTE), event(2, 50 * MINUTE), clock(80 * MINUTE)])
    assert told(owner, "survey") == []
    owner.take([clock(80.1 * MINUTE)])
    assert [(t["cause"], t["day"]) for t in told(owner, "survey")] == [
        ("session", pytest.approx(80 * MINUTE, abs=1e-6))
    ]
    fx = owner.take([event(3, 1), clock(2)])
    assert (len(told(owner, "survey")), fx.suppressed) == (1, [("survey", "gap")])
    owner.take([event(4, 6), event(5, 6, "Order Delivered", order_id="x"), clock(7), clock(12)])
    assert [round(t["day"]) for t in told(owner, "survey")] == [0, 6]
    state = owner.profiles["demo", "p1"].states["surveys"]
    assert SurveySignal().due_ms(state) is None
    quiet = Owner(configured())
    quiet.take([event(0, 0), clock(1)])
    assert "surveys" not in quiet.profiles["demo", "p1"].states


def test_a_session_that_the_site_ends_is_not_asked_about_again() -> None:
    owner = Owner(configured(surveys=SurveyRules(after_session=True, gap_d=0.001)))
    owner.take([event(0, 0), event(1, 5 * MINUTE, "Session Ended"), clock(1)])
    assert [(t["cause"], round(t["day"] / MINUTE)) for t in told(owner, "survey")] == [("session", 5)]
    owner.take([event(2, 2), clock(3)])
    assert len(told(owner, "survey")) == 2


def test_usage_that_falls_asks_where_it_is_configured() -> None:
    log = [event(n, n, "Feature Used", feature="x") for n in range(28)]
    owner = Owner(configured(surveys=SurveyRules(at_falling=True)))
    owner.take([*log, clock(60)])
    (fall,) = told(owner, "usage_falling")
    asked = told(owner, "survey")
    assert [(t["cause"], t["day"]) for t in asked] == [("falling", fall["day"])]
    off = Owner(configured())
    off.take([*log, clock(60)])
    assert (len(told(off, "usage_falling")), told(off, "survey")) == (1, [])


def test_the_churn_signal_asks_once_a_crossing() -> None:
    owner = Owner(configured())
    owner.take([order(1, 0), order(2, 20), clock(900)])
    (risk,) = told(owner, "churn_risk")
    assert [(t["cause"], t["day"]) for t in told(owner, "survey")] == [("order", 3), ("churn", risk["day"])]
    off = Owner(configured(surveys=SurveyRules(at_churn=False)))
    off.take([order(1, 0), order(2, 20), clock(900)])
    assert [t["cause"] for t in told(off, "survey")] == ["order"]


def test_of_merged_profiles_who_was_asked_was_asked() -> None:
    owner = Owner(configured())
    owner.take([order(1, 0, pid="a"), order(2, 5, pid="b"), clock(4)])
    merged(owner, "b", "a")
    owner.take([clock(20)])
    assert [t["orderId"] for t in told(owner, "survey")] == ["o1"]


# -- review requests


def nps(n: int, day: float, score: Any, type: str = "nps", **more: Any) -> bytes:
    return event(n, day, "Survey Response Received", type=type, score=score, **more)


def delivered(n: int, day: float) -> bytes:
    return event(n, day, "Order Delivered", order_id=f"o{n}")


REVIEWS: dict[str, tuple[list[bytes], list[float]]] = {
    "happy": ([delivered(1, 0), nps(2, 3, 9), clock(6.99)], []),
    "happy, and it is time": ([delivered(1, 0), nps(2, 3, 9), clock(7)], [7]),
    "by CSAT": ([delivered(1, 0), nps(2, 3, 4, "csat"), clock(8)], [7]),
    "6 of 7": ([delivered(1, 0), nps(2, 3, 6, "csat", scale=7), clock(8)], [7]),
    "thumbs up": ([delivered(1, 0), nps(2, 3, "up", " CSAT", scale="thumbs"), clock(8)], [7]),
    "thumbs down": ([delivered(1, 0), nps(2, 3, False, "csat", scale="thumbs"), clock(60)], []),
    "5 of 7": ([delivered(1, 0), nps(2, 3, 5, "csat", scale=7), clock(60)], []),
    "a score that is none": ([delivered(1, 0), nps(2, 3, 9.5), nps(3, 3, 6, "csat"), clock(60)], []),
    "nobody asked": ([delivered(1, 0), clock(60)], []),
    "the latest answer counts": ([delivered(1, 0), nps(2, 3, 10), nps(3, 4, 2), clock(60)], []),
    "also when it came first": ([delivered(1, 0), nps(3, 4, 2), nps(2, 3, 10), clock(60)], []),
    "happy later": ([delivered(1, 0), clock(8), nps(2, 10, 9), clock(60)], [10]),
    "too late": ([delivered(1, 0), clock(8), nps(2, 38, 9), clock(60)], []),
    "an open ticket": (
        [delivered(1, 0), nps(2, 3, 9), event(3, 5, "Ticket Opened", ticket_id="t"), clock(60)], [],
    ),
    "a ticket resolved": (
        [delivered(1, 0), nps(2, 3, 9), event(3, 5, "Ticket Opened", ticket_id="t"), clock(8),
         event(4, 9, "Ticket Resolved", ticket_id="t"), clock(60)], [9],
    ),
    "one of two": (
        [delivered(1, 0), nps(2, 3, 9), event(3, 5, "Ticket Opened", ticket_id="t"),
         event(4, 5, "Ticket Opened", ticket_id="u"), event(5, 6, "Ticket Resolved", ticket_id="t"), clock(60)], [],
    ),
    "told of in another order": (
        [event(5, 6, "Ticket Resolved", ticket_id="t"), event(3, 5, "Ticket Opened", ticket_id="t"), nps(2, 3, 9),
         delivered(1, 0), clock(60)], [7],
    ),
    "delivered twice": ([delivered(1, 0), nps(2, 3, 9), clock(8), delivered(1, 0.5), clock(60)], [7]),
    "each order": ([delivered(1, 0), nps(2, 3, 9), delivered(3, 2), clock(60)], [7, 9]),
    "a review is there": (
        [delivered(1, 0), nps(2, 3, 9), event(4, 4, "Product Reviewed", order_id="o1", rating=5), clock(60)], [],
    ),
    "a review that names no order, as in the Segment Spec": (
        [delivered(1, 0), nps(2, 3, 9), event(4, 4, "Product Reviewed", product_id="A", rating=5), clock(60)], [],
    ),
    "one of before the delivery, told late": (
        [delivered(1, 0), nps(2, 3, 9), event(4, -1, "Product Reviewed", product_id="A", rating=5), clock(60)], [7],
    ),
    "one that is told before the delivery is": (
        [nps(2, 3, 9), event(4, 4, "Product Reviewed", product_id="A", rating=5), delivered(1, 0), clock(60)], [],
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", REVIEWS)
def test_a_review_is_asked_of_the_happy_when_it_is_time(name: str) -> None:
    log, days = REVIEWS[name]
    owner = Owner(configured())
    for n, value in enumerate(log):
        said = json.loads(value)
        owner.take([json.dumps(said | {"src": [3, n, 0], "messageId": f"m{n}"}).encode() if "src" in said else value])
    assert [t["day"] for t in told(owner, "review_request")] == days


def test_the_settings_say_when_a_review_is_asked() -> None:
    owner = Owner(configured(reviews=ReviewRules(delay_d=1, nps=7, wait_d=0)))
    owner.take([delivered(1, 0), nps(2, 0.5, 7), clock(60)])
    assert [(t["day"], t["nps"], t["orderId"]) for t in told(owner, "review_request")] == [(1, 7, "o1")]


# -- rules


def rule(**more: Any) -> Settings:
    for name in ("where", "when"):
        if name in more:
            more[name] = when(more[name])
    return configured(rules=(Rule("price-drop", "Product Viewed", **more),))


def view(n: int, day: float, **more: Any) -> bytes:
    return event(n, day, "Product Viewed", product_id="x", **more)


def test_a_rule_looks_at_the_event_and_at_the_profile_with_it() -> None:
    third = {"field": "count", "event": "Product Viewed", "op": "=", "value": 3}
    owner = Owner(rule(where={"property": "price", "op": ">=", "value": 100}, when=third))
    owner.take([view(1, 0, price=200), view(2, 1, price=50), view(3, 2, price="150"), view(4, 3, price=200)])
    (met,) = told(owner, "rule")
    assert (met["rule"], met["event"], met["messageId"], met["properties"]["price"]) == (
        "price-drop", "Product Viewed", "m3", "150",
    )  # fmt: skip


def test_the_same_event_again_gives_no_second_trigger_and_the_same_id() -> None:
    owner, other = Owner(rule()), Owner(rule())
    owner.take([view(1, 0), view(2, 0)])
    again = json.loads(view(1, 0)) | {"src": [9, 1, 0]}
    owner.take([json.dumps(again).encode()])
    other.take([view(1, 0)])
    ids = [json.loads(t)["id"] for t in owner.triggers if b"tracker.rule" in t]
    assert len(set(ids)) == len(ids) == 2
    assert ids[0] in [json.loads(t)["id"] for t in other.triggers]


def test_a_rule_may_ask_for_a_call_that_is_no_track_event() -> None:
    came = Rule("came", "page", when=when({"field": "count", "event": "page", "op": "=", "value": 2}))
    owner = Owner(configured(rules=(came,)))
    owner.take([event(0, 0), event(1, 0.1, "Product Viewed"), event(2, 0.2), event(3, 0.3)])
    assert [(t["rule"], t["event"], t["messageId"]) for t in told(owner, "rule")] == [("came", "page", "m2")]


@pytest.mark.parametrize(("once", "n"), [("message", 5), ("session", 3), ("day", 2), ("ever", 1)])
def test_a_rule_may_be_told_once_for_what_it_says(once: Literal["message", "session", "day", "ever"], n: int) -> None:
    owner = Owner(rule(once=once))
    days = (0, 0.001, 0.05, 1.0, 1.001)
    owner.take([view(i, day) for i, day in enumerate(days)])
    assert len(told(owner, "rule")) == n


def test_a_rule_is_told_so_many_times_in_so_many_days() -> None:
    owner = Owner(rule(most=2, per_d=1))
    fx = owner.take([view(i, day) for i, day in enumerate((0, 0.4, 0.9, 1.1, 1.2, 3))])
    assert [t["day"] for t in told(owner, "rule")] == [0, 0.4, 1.1, 3]
    assert fx.suppressed.count(("rule", "gap")) == 2


@pytest.mark.parametrize(
    ("rules", "words"),
    [
        ((Rule("A b", "E"),), "rules[0].name: 'A b'"),
        ((Rule("a", "E"), Rule("a", "F")), "rules: there are two called 'a'"),
        ((Rule("a", ""),), "rule 'a': event: a name of 1 to 200"),
        ((Rule("a", "E", when({"field": "orders", "op": ">", "value": 1})),), "ask for a `property` of the event here"),
        ((Rule("a", "E", None, when({"property": "p", "op": "=", "value": 1})),), "ask for a `field` here"),
    ],
)
def test_a_rule_that_cannot_be_used_is_one_line(rules: tuple[Rule, ...], words: str) -> None:
    with pytest.raises(SettingsError) as e:
        configured(rules=rules)
    assert words in str(e.value)
    assert "\n" not in str(e.value)
