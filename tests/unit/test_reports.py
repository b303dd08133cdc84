"""Rates and distributions by the vectors of domain.md: from events through the real fold to the read API's answer."""

from __future__ import annotations

from collections import Counter
from itertools import permutations
from typing import Any

import pytest
from msgspec.structs import replace

from stream.core.retention import Retention, monday, week_of
from stream.signals.retention import RetentionSignal
from tests.unit.counting import SETTINGS, T0_MS, Counting, page, track
from tests.unit.shop_events import context
from tracker.contract.retention import FallingRules
from tracker.contract.windows import Zone
from tracker.counters import carts, net
from tracker.metrics import ANOMALIES, RATIOS
from tracker.ratios import ratio
from tracker.reports.messages import messages
from tracker.reports.retention import retention
from tracker.reports.sales import sales
from tracker.reports.usage import usage

ZONE = Zone("Asia/Ho_Chi_Minh")


def answered(found: Counting, by: str = "channel", limit: int = 100) -> dict[str, Any]:
    return messages(found.net("site") + found.net("messages"), by, limit)


def test_the_unsubscribe_rate_is_of_the_delivered_by_channel_campaign_and_template() -> None:
    found = Counting()
    found.take(*(track("Email Delivered", channel="email", campaign_id="tet", template_id="t1") for _ in range(400)))
    found.take(track("Email Unsubscribed", channel="email", campaign_id="tet", template_id="t1", reason="Too many"))
    found.take(track("Unsubscribed", channel="email", campaign_id="tet", template_id="t1"))
    for by, key in (("channel", "email"), ("campaign", "tet"), ("template", "t1")):
        answer = answered(found, by)
        assert [(g["key"], g["unsubscribe_rate"]) for g in answer["groups"]] == [(key, 0.005)], by
        assert answer["total"]["unsubscribe_rate"] == 0.005
        assert answer["total"]["counts"] == {"delivered": 400, "unsubscribed": 2}
    assert answer["reasons"] == [
        {"channel": "email", "key": None, "count": 1, "share": 0.5},
        {"channel": "email", "key": "too many", "count": 1, "share": 0.5},
    ]


@pytest.mark.parametrize(
    ("event", "channel"),
    [
        (track("Message Replied", channel="sms", text="Stop!"), "sms"),
        (track("Message Replied", channel="sms", body="từ chối"), "sms"),
        (track("Zalo Unfollowed", channel="zalo"), "zalo"),
        (track("Unsubscribed", channel="viber"), "viber"),
        (track("Unsubscribed", email="an@example.com"), "email"),
        (track("Unsubscribed", phone="0901234567"), "sms"),
    ],
)
def test_each_channel_has_its_way_to_leave_it(event: dict[str, Any], channel: str) -> None:
    found = Counting().take(track("Message Delivered", channel=channel), event)
    groups = {g["key"]: g for g in answered(found)["groups"]}
    assert groups[channel]["unsubscribe_rate"] == 1.0
    assert groups.keys() == {channel}
    assert [r["channel"] for r in answered(found)["reasons"]] == [channel]


def test_an_answer_that_is_no_stop_is_only_an_answer() -> None:
    found = Counting().take(track("Message Replied", channel="sms", text="don't stop"), track("Message Replied"))
    assert answered(found)["total"]["counts"] == {"replied": 2}
    assert answered(found)["reasons"] == []


def test_of_nothing_delivered_there_is_no_rate_and_it_is_never_above_one() -> None:
    found = Counting().take(track("Unsubscribed", channel="email"))
    assert answered(found)["total"]["unsubscribe_rate"] is None
    assert answered(Counting())["total"] == {
        "counts": {}, "delivery_rate": None, "unsubscribe_rate": None, "complaint_rate": None,
    }  # fmt: skip
    found.take(track("Email Delivered", channel="email"), track("Unsubscribed", channel="email"))
    assert answered(found)["total"]["unsubscribe_rate"] == 1.0


@pytest.mark.parametrize("by", ["campaign", "template"])
def test_the_parts_are_the_whole(by: str) -> None:
    found = Counting()
    for i in range(7):
        named: dict[str, Any] = {f"{by}_id": f"c{i % 3}"} if i % 4 else {}
        found.take(track("Email Sent", channel="email", **named))
    answer = answered(found, by, limit=2)
    shown = sum(sum(g["counts"].values()) for g in answer["groups"])
    assert answer["other"] > 0
    assert shown + answer["other"] + answer["unnamed"] == 7
    assert None in [g["key"] for g in answered(found, by)["groups"]]


def test_what_came_when_a_bucket_was_full_is_told() -> None:
    assert messages({"message_campaign|": 3, "message|email|sent": 3}, "campaign")["unnamed"] == 3


# -- retention


def cohorts(found: Counting, this_week: int) -> dict[str, Any]:
    by_week: dict[int, Counter[str]] = {}
    for (family, minute), fields in found.at.items():
        if family == "retention":
            week = week_of(ZONE.day(minute) // 86_400)
            assert ZONE.day(minute) == monday(week) * 86_400, "counted on the cohort's Monday"
            by_week.setdefault(week, Counter()).update(fields)
    counts = {w: net([[x for f, n in by_week[w].items() for x in (f, str(n))]]) for w in by_week}
    return retention(counts, this_week)


WEEK_MS = 7 * 86_400_000
WEEK = week_of((T0_MS + 7 * 3_600_000) // 86_400_000)


def test_the_retention_and_churn_of_the_spec() -> None:
    found = Counting()
    for week, n in enumerate((100, 80, 60)):
        for i in range(n):
            found.take(page(T0_MS + week * WEEK_MS, pid=f"p{i}"), page(T0_MS + week * WEEK_MS + 1, pid=f"p{i}"))
    answer = cohorts(found, WEEK + 3)
    (cohort,) = answer["cohorts"]
    assert (cohort["week"], cohort["size"]) == ("2026-11-16", 100)
    assert [p["retained"] for p in cohort["periods"]] == [0.8, 0.6, 0.0]
    assert [p["churn"] for p in cohort["periods"]] == pytest.approx([0.2, 0.25, 1.0])
    assert [p["runs"] for p in cohort["periods"]] == [False, False, True]
    assert [p["k"] for p in answer["all"]] == [1, 2]


def test_churn_is_of_those_who_were_there_the_week_before() -> None:
    """Others who come back do not make up for those who left."""
    found = Counting()
    for pid, weeks in (("p1", (0, 1)), ("p2", (0, 2)), ("p3", (0, 2))):
        found.take(*(page(T0_MS + w * WEEK_MS, pid=pid) for w in weeks))
    first, second, third = cohorts(found, WEEK + 3)["cohorts"][0]["periods"]
    assert (first["retained"], first["churn"]) == (pytest.approx(1 / 3), pytest.approx(2 / 3))
    assert (second["active"], second["churn"]) == (2, 1.0)
    assert (third["active"], third["churn"]) == (0, 1.0)


def test_of_nobody_there_is_no_retention() -> None:
    empty = retention({WEEK: {}}, WEEK + 1)["cohorts"][0]["periods"][0]
    assert (empty["retained"], empty["churn"]) == (None, None)


@pytest.mark.parametrize("order", list(permutations(range(4)))[::5])
def test_the_order_of_arrival_makes_no_difference_to_cohorts(order: tuple[int, ...]) -> None:
    events = [page(T0_MS + w * WEEK_MS) for w in (0, 1, 3, 4)]
    found = Counting().take(*(events[i] for i in order))
    assert cohorts(found, WEEK + 5)["cohorts"][-1]["size"] in (0, 1)
    by_week = {c["week"]: c for c in cohorts(found, WEEK + 5)["cohorts"]}
    assert by_week["2026-11-16"]["size"] == 1
    assert [p["active"] for p in by_week["2026-11-16"]["periods"]] == [1, 0, 1, 1, 0]
    assert all(c["size"] == 0 and not any(p["active"] for p in c["periods"]) for w, c in by_week.items()
               if w != "2026-11-16")  # fmt: skip


def test_two_profiles_that_are_one_person_are_one_in_the_cohorts() -> None:
    signal, ctx = RetentionSignal(), context()
    one, other = Retention(WEEK, 0b101), Retention(WEEK - 1, 0b11)
    result = signal.merge(one, other, T0_MS, ctx)
    assert result == signal.merge(other, one, T0_MS, ctx)
    assert result.state == Retention(WEEK - 1, 0b1011)
    counted = Counter([("cohort|0", WEEK), ("cohort|2", WEEK)])
    counted.update([("cohort|0", WEEK - 1), ("cohort|1", WEEK - 1), ("cohort_kept|1", WEEK - 1)])
    for field, n, ms in result.counts_at:
        undone = field.replace("_undone", "")
        counted[undone, week_of((ms + 7 * 3_600_000) // 86_400_000)] += n if undone == field else -n
    assert {k: n for k, n in counted.items() if n} == {
        (f, WEEK - 1): 1 for f in ("cohort|0", "cohort|1", "cohort|3", "cohort_kept|1")
    }


@pytest.mark.parametrize(
    ("event", "active"),
    [
        (page(), True), (track("Feature Used"), True), (track("Order Completed", channel="store"), True),
        (track("Email Link Clicked", channel="email"), True), (track("Email Opened", channel="email"), False),
        (track("Order Delivered"), False), (track("Order Refunded"), False), ({**page(), "bot": "spider"}, False),
    ],
)  # fmt: skip
def test_active_is_who_does_something(event: dict[str, Any], active: bool) -> None:
    assert bool(Counting().take(event).counts["retention"]) is active


# -- usage


def test_the_stickiness_of_the_spec() -> None:
    assert usage(20, 60, 100, 90.0) == {"dau": 20, "wau": 60, "mau": 100, "stickiness": 0.2, "minutes_a_user": 4.5}
    assert usage(0, 0, 0, 0.0)["stickiness"] is None
    assert usage(0, 0, 3, 0.0) == {"dau": 0, "wau": 0, "mau": 3, "stickiness": 0.0, "minutes_a_user": None}


def test_users_are_noted_once_an_hour_and_their_time_is_added_up() -> None:
    found, minute = Counting(), T0_MS // 60_000
    hour = minute // 60 * 60
    found.take(track("Page Engaged", T0_MS, engaged_ms=20_000), track("Feature Used", T0_MS + 60_000))
    found.take({**page(), "type": "screen"}, page(), {**track("Feature Used"), "bot": "spider"})
    assert found.net("site")["usage|active_ms"] == 20_000 + 2 * 30_000
    assert found.visits["demo:used"] == {"p1": minute}
    found.take(track("Feature Used", (hour + 60) * 60_000), track("Feature Used", (hour + 59) * 60_000))
    assert found.visits["demo:used"] == {"p1": hour + 60}


def test_a_site_where_usage_never_falls_has_users_all_the_same() -> None:
    (name,) = SETTINGS.sites
    site = replace(SETTINGS.sites[name], usage=FallingRules(enter=0))
    found = Counting(replace(SETTINGS, sites={name: site})).take(track("Feature Used"))
    assert found.visits["demo:used"]


# -- engagement


def test_the_engagement_rate_of_the_spec() -> None:
    """120 of 800 known customers did something; the others were only sent something."""
    found = Counting()
    for i in range(800):
        found.take(track("Product Viewed" if i < 120 else "Email Delivered", pid=f"p{i}"))
    known, engaged = found.gauges["profiles_known|demo"], len(found.visits["demo:engaged"])
    assert (engaged, known, ratio("engagement.rate", engaged, known)) == (120, 800, 0.15)


def said(name: str, day: float, ends: float | None = None, **properties: Any) -> dict[str, Any]:
    """Of a subscription, which runs until a day."""
    until: dict[str, Any] = {"ends_at": day_ms(ends)} if ends is not None else {}
    return track(name, day_ms(day), subscription_id="s1", **until, **properties)


def day_ms(day: float) -> int:
    return T0_MS + round(day * 86_400_000)


def test_the_renewal_rate_is_of_the_subscriptions_that_were_due_whatever_came_first() -> None:
    """Renewed on day 29 until day 60, which passes; renewed on day 65 after all, until day 90; then it is over."""
    log = [
        said("Subscription Started", 0, 30),
        said("Subscription Renewed", 29, 60),
        said("Subscription Renewed", 65, 90),
    ]
    for order in permutations(log):
        found = Counting()
        for event in order:
            found.take(event).clock(day_ms(61))
        assert (sales(found.net("sales"))["renewed"], sales(found.net("sales"))["lapsed"]) == (2, 0)
        found.clock(day_ms(91))
        answer = sales(found.net("sales"))
        assert (answer["due"], answer["lapsed"], answer["renewal_rate"]) == (3, 1, pytest.approx(2 / 3))


def test_a_subscription_that_is_cancelled_was_not_renewed_unless_it_goes_on() -> None:
    found = Counting().take(said("Subscription Started", 0, 30), said("Subscription Cancelled", 10)).clock(day_ms(31))
    assert sales(found.net("sales"))["renewal_rate"] == 0.0
    found.take(said("Subscription Renewed", 40))  # until when is not said
    assert sales(found.net("sales"))["renewal_rate"] == 1.0
    assert sales({})["renewal_rate"] is None
    assert sales({"sale|renewed": 3, "sale|lapsed": 1})["renewal_rate"] == 0.75


def test_subscriptions_beyond_those_that_are_kept_stay_counted() -> None:
    found = Counting()
    for n in range(7):
        found.take(track("Subscription Started", day_ms(n), subscription_id=f"s{n}", ends_at=day_ms(n + 0.5)))
        found.clock(day_ms(n + 0.9))
    assert sales(found.net("sales"))["lapsed"] == 7


def test_cross_sells_and_upsells_are_counted_at_their_orders_whatever_came_first() -> None:
    def order(day: float, category: str, tier: Any) -> dict[str, Any]:
        products = [{"product_id": f"p{day}", "category": category, "tier": tier, "price": 1}]
        return track("Order Completed", day_ms(day), order_id=f"o{day}", products=products)

    log = [order(0, "tea", 1), order(1, "tea", 3), order(2, "cups", 2), order(3, "cups", 3.5)]
    for draw in permutations(log):
        answer = sales(Counting().take(*draw).net("sales"))
        assert (answer["cross_sells"], answer["upsells"]) == (1, 2)
    at = {minute for (family, minute) in Counting().take(*log).at if family == "sales"}
    assert at == {day_ms(day) // 60_000 * 60 for day in (1, 2, 3)}


@pytest.mark.parametrize(
    ("part", "whole", "scale", "value", "counted"),
    [
        (50, 1000, 1, 0.05, 0),
        (0, 10, 1, 0.0, 0),
        (10, 10, 1, 1.0, 0),
        (3, 5, 100, 60.0, 0),
        (0, 0, 1, None, 0),
        (3, 0, 1, None, 0),
        (3, 2, 1, 1.0, 1),
        (3, 2, 100, 100.0, 1),
        (-1, 2, 1, 0.0, 1),
        (-1, -1, 1, None, 1),
    ],
)
def test_a_ratio_is_null_of_nothing_and_a_part_beyond_its_whole_is_counted(
    part: int, whole: int, scale: float, value: float | None, counted: int
) -> None:
    for name in RATIOS:
        before = ANOMALIES[name]._value.get()
        assert ratio(name, part, whole, scale) == value
        assert ANOMALIES[name]._value.get() - before == counted


def test_an_answer_whose_numbers_cannot_be_is_clamped_and_says_which_ratio_it_was() -> None:
    """More left than mails were reported delivered, and more carts were recovered than left."""
    before = {name: ANOMALIES[name]._value.get() for name in RATIOS}
    found = messages({"message|email|delivered": 2, "message|email|unsubscribed": 3})
    assert found["total"]["unsubscribe_rate"] == 1.0
    odd = carts({"cart|opened": 2, "cart|abandoned": 1, "cart|recovered": 2})
    assert (odd["recovery_rate"], odd["net_abandonment_rate"]) == (1.0, 0.0)
    raised = {name: ANOMALIES[name]._value.get() - n for name, n in before.items()}
    assert {name: n for name, n in raised.items() if n} == {
        "messages.unsubscribe_rate": 2,  # of its group and of all
        "carts.recovery_rate": 1,
        "carts.net_abandonment_rate": 1,
    }
