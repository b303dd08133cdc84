"""What a site's policy lets through, from the request's head to the record in Kafka."""

from __future__ import annotations

import time

import pytest

from tests.endpoint import QUIET, Http, metric
from tests.harness import Stack
from tracker.contract.topics import EVENTS

pytestmark = pytest.mark.integration

CHROME = "Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/140.0.0.0 Safari/537.36"
YES = {"consent": {"categoryPreferences": {"analytics": True}}}
LAN = {"type": "track", "event": "A", "userId": "lan"}


async def test_a_site_keeps_what_its_policy_says_and_counts_the_rest(stack: Stack, shop: int) -> None:
    run = f"policy-{time.time_ns()}"
    anonymous = metric(shop, "tracker_events_anonymous_total")
    bots = metric(shop, "tracker_events_rejected_total", reason="bot")
    batch = [
        {**LAN, "messageId": f"{run}-no", "traits": {"email": "lan@example.com"}},
        {**LAN, "messageId": f"{run}-yes", "context": YES},
        {**LAN, "messageId": f"{run}-bot", "context": {**YES, "webdriver": True}},
    ]  # fmt: skip
    with Http(shop) as client:
        answer = client.post("/v1/batch?verbose=1", {"batch": batch}, X_Write_Key=QUIET.write_key, User_Agent=CHROME)
        single = {**batch[0], "messageId": f"{run}-single"}
        assert client.post("/v1/track", single, X_Write_Key=QUIET.write_key, User_Agent=CHROME)[0] == 200
    assert [(r["status"], r.get("reason")) for r in answer[2]["results"]] == [
        ("ok", None), ("ok", None), ("rejected", "bot"),
    ]  # fmt: skip
    found = await stack.consume(EVENTS, 3, site="quiet", match=lambda event: event["messageId"].startswith(run))
    by_id = {event["messageId"].removeprefix(f"{run}-"): event for event in found}
    assert set(by_id) == {"no", "yes", "single"}
    assert by_id["yes"]["userId"] == "lan"
    assert by_id["yes"]["consent"] == "granted"
    for name in ("no", "single"):
        assert by_id[name]["anonymousId"] == by_id["no"]["anonymousId"]
        assert by_id[name]["consent"] == "denied"
        assert not {"userId", "traits", "ip"} & set(by_id[name])
    assert "ip" not in by_id["yes"]
    assert metric(shop, "tracker_events_anonymous_total") == anonymous + 2
    assert metric(shop, "tracker_events_rejected_total", reason="bot") == bots + 1
