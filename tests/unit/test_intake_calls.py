"""What the snippet's stub sends, as the body of a batch."""

from __future__ import annotations

import json
from typing import Any

import pytest

from tests.signatures import MORE_SIGNATURES, SIGNATURES, Signature
from tracker.intake.body import Batch, read_batch
from tracker.intake.calls import batch_of_calls
from tracker.rejections import Refusal

URL, REFERRER, AT_MS = "https://shop.example/a?b=1", "https://google.com/", 1_793_588_645_678
PAGE = {"url": URL, "path": "/a", "referrer": REFERRER}


def batch(*calls: list[Any], left: int | None = None) -> dict[str, Any]:
    """`left`: as the stub says it; stubs that were pasted before say nothing."""
    sent = [URL, REFERRER, [[AT_MS, *call] for call in calls], AT_MS + 1000]
    body = json.dumps(sent if left is None else [*sent, left]).encode()
    made = batch_of_calls(body, "a1")
    assert isinstance(made, bytes)
    assert isinstance(read_batch(made, 32_768, 1 << 20, 100), Batch)
    return dict(json.loads(made))


@pytest.mark.parametrize(
    "signature", [*SIGNATURES, *MORE_SIGNATURES, Signature(["screen", "Tiệm"], {"name": "Tiệm", "properties": {}})]
)
def test_a_call_becomes_the_message_that_the_snippet_would_have_sent(signature: Signature) -> None:
    [message] = batch([None if part is ... else part for part in signature.call])["batch"]
    assert message.pop("timestamp") == "2026-11-02T03:04:05.678Z"
    assert message.pop("anonymousId") == "a1"
    assert message.pop("type") == signature.call[0]
    assert message.pop("messageId", None) == signature.message_id
    if signature.call[0] == "page":
        assert {name: message["properties"].pop(name) for name in PAGE} == PAGE
    assert message == signature.fields


def test_an_alias_is_of_who_is_here_where_it_does_not_say_of_whom() -> None:
    assert batch(["alias", "new"])["batch"][0]["previousId"] == "a1"


def test_options_of_a_call_are_its_messages() -> None:
    options = {
        "timestamp": "2026-11-01T00:00:00Z", "messageId": "m1", "anonymousId": "a2", "context": {"app": {"name": "x"}},
        "integrations": {"All": False}, "unknown": 1,
    }  # fmt: skip
    [message] = batch(["track", "A", {}, options])["batch"]
    assert message == {
        "type": "track", "event": "A", "properties": {}, "timestamp": "2026-11-01T00:00:00.000Z", "messageId": "m1",
        "anonymousId": "a2", "context": {"app": {"name": "x"}}, "integrations": {"All": False},
    }  # fmt: skip
    times = [AT_MS - 5000, "never", True, None, {}]
    found = [m["timestamp"] for m in batch(*(["track", "A", {}, {"timestamp": time}] for time in times))["batch"]]
    assert found == ["2026-11-02T03:04:00.678Z", *["2026-11-02T03:04:05.678Z"] * 4]


def test_a_page_says_where_it_is_unless_its_properties_do() -> None:
    [message] = batch(["page", "Home", {"a": 1, "path": "/own"}])["batch"]
    assert message["properties"] == {**PAGE, "path": "/own", "a": 1}


def test_ecommerce_calls_are_the_events_of_segments_spec() -> None:
    made = batch(["ecommerce", "productAddedToWishlist", {"sku": "p1"}], ["ecommerce", "none"], ["ecommerce"])
    assert [(m["event"], m["properties"]) for m in made["batch"]] == [("Product Added to Wishlist", {"sku": "p1"})]


@pytest.mark.parametrize(
    ("calls", "events"),
    [
        ([["track", "A"], ["optOut"]], []),
        ([["track", "A"], ["consent", False]], []),
        ([["track", "A"], ["consent"]], []),
        ([["track", "A"], ["consent", {"analytics": False, "ads": True}], ["track", "B"]], []),
        ([["track", "A"], ["consent", "denied"], ["track", "B"]], []),
        ([["track", "A"], ["optOut"], ["track", "B"], ["consent", True], ["track", "C"]], [("C", "granted")]),
        ([["consent", True], ["track", "A"], ["optOut"]], []),
        ([["track", "A"], ["consent", "granted"], ["track", "B"]], [("A", None), ("B", "granted")]),
        (
            [["consent", {"analytics": True, "ads": False}], ["track", "A"]],
            [("A", {"analytics": True, "ads": False})],
        ),
    ],
)
def test_a_no_takes_back_what_was_called_before_and_a_yes_is_said_by_what_follows(
    calls: list[Any], events: list[Any]
) -> None:
    found = [(m["event"], m.get("context", {}).get("consent")) for m in batch(*calls)["batch"]]
    assert found == events


def test_what_left_before_gives_nothing_more_but_its_no_and_its_yes_still_hold() -> None:
    def names(*calls: list[Any]) -> list[str]:
        return [m["event"] for m in batch(*calls, left=2)["batch"]]

    assert names(["track", "A"], ["track", "B"], ["track", "C"]) == ["C"]
    assert names(["track", "A"], ["consent", False], ["track", "C"]) == []
    [message] = batch(["track", "A"], ["consent", True], ["track", "C"], left=2)["batch"]
    assert message["context"]["consent"] == "granted"


def test_the_batch_says_when_it_was_sent_and_from_which_page() -> None:
    made = batch(["page"])
    assert made["sentAt"] == "2026-11-02T03:04:06.678Z"
    assert made["context"]["page"] == {"url": URL, "path": "/a", "referrer": REFERRER}


@pytest.mark.parametrize(
    "call",
    [
        ["ready", None],
        ["__proto__", "x"],
        ["track"],
        ["track", None],
        ["track", ""],
        ["group"],
        ["alias"],
        [],
        [{}],
        [[]],
    ],
)
def test_a_call_that_tells_the_endpoint_nothing_costs_the_others_nothing(call: list[Any]) -> None:
    made = batch(["track", "Kept"], call, ["track", "Also"])
    assert [message["event"] for message in made["batch"]] == ["Kept", "Also"]


@pytest.mark.parametrize("call", [5, None, "track", {}, [], ["x", "track", "A"], [None, "track", "A"]])
def test_what_is_no_call_costs_the_others_nothing(call: Any) -> None:
    made = batch_of_calls(json.dumps([URL, REFERRER, [call, [AT_MS, "track", "Kept"]], AT_MS]).encode(), "a1")
    assert isinstance(made, bytes)
    assert [message["event"] for message in json.loads(made)["batch"]] == ["Kept"]


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        (b"[", "invalid_json"),
        (b"[]", "invalid_batch"),
        (b'["http://[","r",[],2]', "invalid_batch"),
        (b'["u","r",{},2]', "invalid_batch"),
        (b'["u","r",[[1,"track",[[]]]],"2"]', "invalid_batch"),
        (b'["u","r",[[1,"track","\\ud83"]],2]', "invalid_json"),
    ],
)
def test_what_is_no_list_of_calls_is_refused_with_a_reason(body: bytes, reason: str) -> None:
    refusal = batch_of_calls(body, "a1")
    assert isinstance(refusal, Refusal)
    assert refusal.rejection.name == reason
