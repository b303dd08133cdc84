"""What the snippet's stub sends, as the body of a batch."""

from __future__ import annotations

import json
from typing import Any

import pytest

from tracker.intake.body import Batch, read_batch
from tracker.intake.calls import batch_of_calls
from tracker.rejections import Refusal

URL, REFERRER, AT_MS = "https://shop.example/a?b=1", "https://google.com/", 1_793_588_645_678


def batch(*calls: list[Any]) -> dict[str, Any]:
    body = json.dumps([URL, REFERRER, [[AT_MS, *call] for call in calls], AT_MS + 1000]).encode()
    made = batch_of_calls(body, "a1")
    assert isinstance(made, bytes)
    assert isinstance(read_batch(made, 32_768, 1 << 20, 100), Batch)
    return dict(json.loads(made))


@pytest.mark.parametrize(
    ("call", "expected"),
    [
        (["track", "Added", {"n": 1}, {"context": {}}], {"event": "Added", "properties": {"n": 1}}),
        (["track", "Added", None], {"event": "Added"}),
        (["track", "Added"], {"event": "Added"}),
        (["page", "Home", {"a": 1}], {"name": "Home", "properties": {"a": 1}}),
        (["page", "Docs", "Start", {}], {"category": "Docs", "name": "Start", "properties": {}}),
        (["page"], {"properties": {"url": URL, "path": "/a", "referrer": REFERRER}}),
        (["identify", "u1", {"plan": "x"}], {"userId": "u1", "traits": {"plan": "x"}}),
        (["identify", 12, {}], {"userId": "12", "traits": {}}),
        (["identify", None, {"plan": "x"}], {"traits": {"plan": "x"}}),
        (["identify", {"plan": "x"}], {"traits": {"plan": "x"}}),
        (["group", "g1", {"name": "x"}], {"groupId": "g1", "traits": {"name": "x"}}),
        (["alias", "new", "old"], {"userId": "new", "previousId": "old"}),
        (["alias", "new"], {"userId": "new", "previousId": "a1"}),
    ],
)
def test_a_call_becomes_the_message_that_the_snippet_would_have_sent(call: list[Any], expected: Any) -> None:
    [message] = batch(call)["batch"]
    assert message.pop("timestamp") == "2026-11-02T03:04:05.678Z"
    assert message.pop("anonymousId") == "a1"
    assert message.pop("type") == call[0]
    assert message == expected


def test_the_batch_says_when_it_was_sent_and_from_which_page() -> None:
    made = batch(["page"])
    assert made["sentAt"] == "2026-11-02T03:04:06.678Z"
    assert made["context"]["page"] == {"url": URL, "path": "/a", "referrer": REFERRER}


def test_calls_that_tell_the_endpoint_nothing_are_left_out() -> None:
    made = batch(["ready", None], ["consent", True], ["__proto__", "x"], ["track", "Kept"])
    assert [message["event"] for message in made["batch"]] == ["Kept"]


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        (b"[", "invalid_json"),
        (b"[]", "invalid_batch"),
        (b'["u","r",[[1]],2]', "invalid_batch"),
        (b'["u","r",[["x","track"]],2]', "invalid_batch"),
        (b'["http://[","r",[],2]', "invalid_batch"),
        (b'["u","r",{},2]', "invalid_batch"),
        (b'["u","r",[[1,"track",[[]]]],"2"]', "invalid_batch"),
    ],
)
def test_what_is_no_list_of_calls_is_refused_with_a_reason(body: bytes, reason: str) -> None:
    refusal = batch_of_calls(body, "a1")
    assert isinstance(refusal, Refusal)
    assert refusal.rejection.name == reason
