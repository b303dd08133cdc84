"""Conditions for tests: one a field and op, by name."""

from __future__ import annotations

from typing import Any, Final

import msgspec

from tracker.contract.predicates import Condition


def when(said: dict[str, Any]) -> Condition:
    """A condition as it stands in tracker.toml."""
    return msgspec.convert(said, Condition)


ORDERED: Final = {"field": "last", "event": "Order Completed", "op": "within", "value": 30}

_SAID: Final[dict[str, dict[str, Any]]] = {
    "trait": {"field": "trait", "name": "city", "op": "=", "value": "Huế"},
    "no order in 30 days": {"not": ORDERED},
    "ordered long ago": {"field": "last", "event": "Order Completed", "op": "older", "value": 30},
    "three views in 2 days": {
        "field": "count", "event": "Product Viewed", "days": 2, "op": ">=", "value": 3,
    },
    "never viewed": {"field": "count", "event": "Product Viewed", "op": "=", "value": 0},
    "new": {"field": "first_seen", "op": "within", "value": 7},
    "quiet": {"field": "last_seen", "op": "older", "value": 14},
    "two sessions": {"field": "sessions", "op": ">=", "value": 2},
    "two days of 5": {"field": "active_days", "days": 5, "op": ">=", "value": 2},
    "buyer": {"field": "orders", "op": ">", "value": 0},
    "valuable": {"field": "order_value", "op": ">=", "value": 100},
    "at risk": {"field": "at_risk", "op": "=", "value": True},
    "to be lost": {"field": "risk", "op": ">=", "value": 0.9},
    "no high risk": {"field": "churn_band", "op": "<", "value": "high"},
    "likely to buy": {"field": "likelihood", "op": ">", "value": 0.3},
    "worth something": {"field": "clv", "op": ">=", "value": 50},
    "of high value": {"field": "high_value", "op": "=", "value": True},
    "nearly an MQL": {"field": "points", "op": ">=", "value": 40},
    "detractor": {"field": "nps", "op": "<=", "value": 6},
    "left a cart": {"field": "cart", "op": "in", "value": ["abandoned", "lost"]},
    "full cart": {"field": "cart_value", "op": ">", "value": 20},
    "onboard": {"field": "stage", "op": ">=", "value": "onboard"},
    "engaged": {"field": "score", "op": ">=", "value": 15},
    "cold": {"field": "score", "op": "<", "value": 0.5},
    "a lead": {"field": "lead", "op": ">=", "value": "lead"},
    "mails": {"field": "consent", "name": "email", "op": "=", "value": "granted"},
    "not by SMS": {"field": "reachable", "name": "sms", "op": "=", "value": False},
    "fresh buyer who looks": {
        "all": [ORDERED, {"any": [
            {"field": "count", "event": "page", "days": 3, "op": ">=", "value": 2},
            {"field": "count", "event": "Product Viewed", "days": 3, "op": ">=", "value": 1},
        ]}],
    },
}  # fmt: skip

WHEN: Final[dict[str, Condition]] = {name: when(said) for name, said in _SAID.items()}
