"""What the endpoint finds out about an event, and what a sender hears of it."""

from __future__ import annotations

import base64
import time
from typing import Any

import pytest

from tests.endpoint import SHOP, Http, metric
from tests.harness import Stack
from tracker.contract.topics import DEAD_LETTERS, EVENTS

CHROME = (
    "Mozilla/5.0 (Linux; Android 15; Pixel 9) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/140.0.0.0 "
    "Mobile Safari/537.36"
)
pytestmark = pytest.mark.integration

DENIED = {"consent": {"categoryPreferences": {"analytics": False}}}


def track(message_id: str, **fields: Any) -> dict[str, Any]:
    return {"type": "track", "event": "A", "anonymousId": "v", "messageId": message_id, **fields}


async def test_a_sender_who_asks_hears_which_events_are_repeats(stack: Stack, shop: int) -> None:
    run = f"repeat-{time.time_ns()}"
    first, second, third = (track(f"{run}-{i}") for i in range(3))
    with Http(shop) as client:

        def verdicts(path: str, body: dict[str, Any]) -> list[str]:
            status, _, answer = client.post(path, body, X_Write_Key=SHOP.write_key)
            assert status == 200
            return [result["status"] for result in answer["results"]]

        assert verdicts("/v1/batch?verbose=1", {"batch": [first, second, first]}) == ["ok", "ok", "duplicate"]
        assert verdicts("/v1/batch?verbose=1", {"batch": [second, third]}) == ["duplicate", "ok"]
        assert verdicts("/v1/track?verbose=1", third) == ["duplicate"]
    found = await stack.consume(EVENTS, 3, site="shop", match=lambda event: event["messageId"].startswith(run))
    assert sorted(event["messageId"] for event in found) == [f"{run}-{i}" for i in range(3)]


async def test_an_event_without_consent_leaves_no_trace(stack: Stack, shop: int) -> None:
    run = f"consent-{time.time_ns()}"
    before = metric(shop, "tracker_events_rejected_total", reason="no_consent")
    with Http(shop) as client:
        key = {"X_Write_Key": SHOP.write_key}
        alone = client.post("/v1/track?verbose=1", track(f"{run}-0", context=DENIED), **key)
        batch = [track(f"{run}-1", context=DENIED), track(f"{run}-2"), {"type": "track", "messageId": f"{run}-3"}]
        among = client.post("/v1/batch?verbose=1", {"batch": batch}, **key)
    assert (alone[0], alone[2]["success"], alone[2]["results"][0]["reason"]) == (200, True, "no_consent")
    assert [r.get("reason") for r in among[2]["results"]] == ["no_consent", None, "missing_id"]
    assert metric(shop, "tracker_events_rejected_total", reason="no_consent") == before + 2
    assert metric(shop, "tracker_dead_letters_total", reason="no_consent") == 0

    def of_run(letter: dict[str, Any]) -> bool:
        return run.encode() in base64.b64decode(letter.get("original", ""))

    # One more than should be there: if it were, it would stand before the last.
    events = await stack.consume(EVENTS, 2, site="shop", match=lambda e: e["messageId"].startswith(run), timeout_s=2)
    assert [event["messageId"] for event in events] == [f"{run}-2"]
    letters = await stack.consume(DEAD_LETTERS, 2, site="shop", match=of_run, timeout_s=2)
    assert [letter["reason"] for letter in letters] == ["missing_id"]


async def test_the_browser_and_its_address_are_found_in_the_head(stack: Stack, shop: int) -> None:
    run = f"head-{time.time_ns()}"
    with Http(shop) as client:
        for i, agent in enumerate((CHROME, "analytics-python/2.3.4", "python-requests/2.32.5")):
            status, _, _ = client.post("/v1/track", track(f"{run}-{i}"), X_Write_Key=SHOP.write_key, User_Agent=agent)
            assert status == 200
    found = await stack.consume(EVENTS, 3, site="shop", match=lambda event: event["messageId"].startswith(run))
    by_id = {event["messageId"][-1]: event for event in found}
    assert by_id["0"]["device"]["type"] == "mobile"
    assert by_id["0"]["device"]["browser"] == "Chrome Mobile"
    for event in by_id.values():
        assert event["ip"] == "127.0.0.0"
        assert "bot" not in event  # a server's library is no bot
    assert "device" not in by_id["1"]
    assert "device" not in by_id["2"]
