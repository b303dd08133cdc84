"""tracker/cli/demo.py: the stories of the simulated shoppers."""

from __future__ import annotations

from collections import Counter, defaultdict
from itertools import islice
from typing import Any

import msgspec

from tracker.cli.demo import ENDINGS, stories, visit
from tracker.contract.events import Message


def told(seed: int, count: int, visitors: int = 100) -> list[tuple[int, dict[str, Any]]]:
    return list(islice(stories(seed, visitors, 10), count))


def test_the_same_seed_tells_the_same_stories_and_another_does_not() -> None:
    assert told(7, 2000) == told(7, 2000)
    assert told(7, 2000) != told(8, 2000)


def test_every_message_is_of_the_contract() -> None:
    for _, message in told(1, 5000):
        parsed = msgspec.convert(message, Message)
        assert parsed.anonymous_id or parsed.user_id
        assert parsed.type != "track" or parsed.event


def test_a_shoppers_events_stay_in_the_order_of_the_story() -> None:
    by_shopper: dict[int, list[dict[str, Any]]] = defaultdict(list)
    for shopper, message in told(1, 5000):
        by_shopper[shopper].append(message)
    for shopper, messages in by_shopper.items():
        expected = [m for number in range(20) for m in visit(1, shopper, number)]
        assert messages == expected[: len(messages)]


def test_visits_end_in_all_the_ways_that_are_declared() -> None:
    """Shares within 5 points of the table, over 2,000 visits."""
    ends: Counter[str] = Counter()
    for shopper in range(2000):
        names = {m.get("event") for m in visit(3, shopper, 0)}
        if "Order Completed" in names:
            ends["buys"] += 1
        elif "Payment Info Entered" in names:
            ends["payment"] += 1
        elif "Checkout Started" in names:
            ends["checkout"] += 1
        elif "Product Added" in names:
            ends["cart"] += 1
        else:
            ends["looks"] += 1
    for name, share in ENDINGS.items():
        assert abs(ends[name] / 20 - share) < 5, ends


def test_an_order_is_the_sum_of_its_lines() -> None:
    orders = [m["properties"] for _, m in told(1, 5000) if m.get("event") == "Order Completed"]
    assert len(orders) > 50
    for order in orders:
        assert order["revenue"] == sum(p["price"] * p["quantity"] for p in order["products"])
        assert order["total"] == order["revenue"] + order["shipping"]


def test_known_customers_are_identified_and_get_messages_by_every_channel() -> None:
    messages = [m for _, m in told(1, 20_000)]
    assert any(m["type"] == "identify" and m["traits"]["email"] for m in messages)
    channels = {m["context"]["channel"] for m in messages if (m.get("event") or "").startswith(("Message", "Email"))}
    assert channels == {"email", "zalo", "sms"}
