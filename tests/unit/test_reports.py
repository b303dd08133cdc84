"""Rates and distributions by the vectors of domain.md: from events through the real fold to the read API's answer."""

from __future__ import annotations

from typing import Any

import pytest

from tests.unit.counting import Counting, track
from tracker.reports.messages import messages


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
        found.take(track("Email Sent", channel="email", **({f"{by}_id": f"c{i % 3}"} if i % 4 else {})))
    answer = answered(found, by, limit=2)
    named = sum(sum(g["counts"].values()) for g in answer["groups"])
    assert answer["other"] > 0
    assert named + answer["other"] + answer["unnamed"] == 7
    assert None in [g["key"] for g in answered(found, by)["groups"]]


def test_what_came_when_a_bucket_was_full_is_told() -> None:
    assert messages({"message_campaign|": 3, "message|email|sent": 3}, "campaign")["unnamed"] == 3
