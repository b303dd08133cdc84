"""The purchases of one profile and its risk to be lost, written from domain.md section 4: MBG/NBD with the prior.

Days are the site's. Unlike the engine, the time of crossing is looked for millisecond by millisecond (by halving).
"""

from __future__ import annotations

from math import exp, expm1, log
from typing import Any

from tests.oracle.carts import order_value, text

R, ALPHA, A, B = 1.0, 8.0, 1.0, 2.5
DAY_MS = 86_400_000
NEVER_WEEKS = 52.18 * 100


class Rules:
    def __init__(self, horizon_d: float = 91, enter: float = 0.90, leave: float = 0.80, gap_d: float = 14) -> None:
        self.horizon_d, self.enter, self.leave, self.gap_ms = horizon_d, enter, leave, round(gap_d * DAY_MS)


def p_alive(x: int, t_x: float, t: float) -> float:
    """Weeks."""
    z = (R + x) * (log(ALPHA + t) - log(ALPHA + t_x)) + log(A) - log(B + x)
    return 1 / (1 + exp(z)) if z < 700 else 0.0


def risk(x: int, t_x: float, t: float, h: float) -> float:
    return 1 - p_alive(x, t_x, t) * -expm1((R + x) * (log(ALPHA + t) - log(ALPHA + t + h)))


def weeks(state: dict[str, Any], now_ms: int) -> tuple[int, float, float]:
    """x, t_x, t."""
    days = state["days"]
    t_x = days[-1] - days[0]
    return len(days) - 1, t_x / 7, max((now_ms - state["zero_ms"]) / DAY_MS, t_x) / 7


def risk_at(state: dict[str, Any], now_ms: int, rules: Rules) -> float:
    return risk(*weeks(state, now_ms), rules.horizon_d / 7)


def crossing_ms(state: dict[str, Any], rules: Rules) -> int | None:
    """The first millisecond, from the last purchase's day on, at which the risk is `enter`."""
    low = state["zero_ms"] + (state["days"][-1] - state["days"][0]) * DAY_MS
    if risk_at(state, low, rules) >= rules.enter:
        return int(low)
    high = state["zero_ms"] + int(NEVER_WEEKS * 7 * DAY_MS)
    if risk_at(state, high, rules) < rules.enter:
        return None
    while high - low > 1:
        middle = (low + high) // 2
        if risk_at(state, middle, rules) >= rules.enter:
            high = middle
        else:
            low = middle
    return int(high)


def take(state: dict[str, Any] | None, event: dict[str, Any], utc_offset_ms: int, rules: Rules) -> dict[str, Any]:
    """An Order Completed comes: the state after it."""
    p = event.get("properties")
    p = p if isinstance(p, dict) else {}
    ts = event["timestampMs"]
    day = (ts + utc_offset_ms) // DAY_MS
    start_ms = day * DAY_MS - utc_offset_ms
    if state is None:
        state = {
            "days": [], "zero_ms": start_ms, "more": 0, "value": 0, "orders": [], "due_ms": None, "on": False,
            "crossed_ms": 0, "crossings": 0, "told_ms": None,
        }  # fmt: skip
    order = text(p.get("order_id"), 100) or f"message:{event['messageId']}"
    if order in state["orders"]:
        return state
    state["days"] = sorted({*state["days"], day})
    state["zero_ms"] = min(state["zero_ms"], start_ms)
    state["value"] += round(10_000 * (order_value(p) or 0.0))
    state["orders"] = [*state["orders"], order][-64:]
    if state["on"] and risk_at(state, max(ts, state["crossed_ms"]), rules) <= rules.leave:
        state["on"] = False
    state["due_ms"] = None if state["on"] else crossing_ms(state, rules)
    return state


def fire(state: dict[str, Any], rules: Rules) -> dict[str, Any]:
    """The crossing: what is said of it; `reason` is why it is not told."""
    due = state["due_ms"]
    x, t_x, t = weeks(state, due)
    reason = None
    if x == 0:
        reason = "one_time_buyer"
    elif state["told_ms"] is not None and due - state["told_ms"] < rules.gap_ms:
        reason = "gap"
    state["due_ms"], state["on"] = None, True
    state["crossed_ms"] = max(due, state["crossed_ms"])
    state["crossings"] += 1
    if reason is None:
        state["told_ms"] = due
    days = state["days"]
    at_risk = risk(x, t_x, t, rules.horizon_d / 7)
    return {
        "at_ms": due, "reason": reason, "by": days[-1], "n": state["crossings"],
        "data": {
            "signal": "purchase", "risk": at_risk, "pAlive": p_alive(x, t_x, t),
            "band": "low" if at_risk < 0.33 else "high" if at_risk > 0.66 else "medium", "x": x,
            "tXDays": days[-1] - days[0], "tDays": t * 7, "horizonDays": rules.horizon_d,
            "valueTotal": state["value"] / 10_000, "model": "mbg_nbd:prior-1", "confidence": "cold",
        },
    }  # fmt: skip


def merged(one: dict[str, Any], other: dict[str, Any], now_ms: int, rules: Rules) -> dict[str, Any]:
    """The union of the days. Orders: the latest of both in turn, first of who came later."""
    first, then = sorted((one, other), key=lambda s: (s["zero_ms"], s["days"], s["orders"], s["value"]))
    orders: list[str] = []
    for n in range(max(len(one["orders"]), len(other["orders"]))):
        orders += [s["orders"][-1 - n] for s in (then, first) if n < len(s["orders"])]
    state = {
        "days": sorted({*one["days"], *other["days"]}), "zero_ms": first["zero_ms"], "more": 0,
        "value": one["value"] + other["value"], "orders": list(dict.fromkeys(orders))[:64][::-1],
        "crossed_ms": max(one["crossed_ms"], other["crossed_ms"]),
        "crossings": max(one["crossings"], other["crossings"]),
        "told_ms": max((s["told_ms"] for s in (one, other) if s["told_ms"] is not None), default=None),
    }  # fmt: skip
    at_ms = max(now_ms, state["crossed_ms"])
    state["on"] = (one["on"] or other["on"]) and risk_at(state, at_ms, rules) > rules.leave
    state["due_ms"] = None if state["on"] else crossing_ms(state, rules)
    return state
