"""The days of one profile (purchases, visits, answers) and its risk to be lost: MBG/NBD with the prior.

Days are the site's. Unlike the engine, the time of crossing is looked for millisecond by millisecond (by halving).
"""

from __future__ import annotations

from math import exp, expm1, log
from typing import Any

from tests.oracle.shop import currency, id_of, number, order_value, products

R, ALPHA, A, B = 1.0, 8.0, 1.0, 2.5
DAY_MS = 86_400_000
NEVER_WEEKS = 52.18 * 100


class Rules:
    def __init__(
        self, horizon_d: float = 91, enter: float = 0.90, leave: float = 0.80, gap_d: float = 14,
        counts_all: bool = True,
    ) -> None:  # fmt: skip
        self.horizon_d, self.enter, self.leave, self.gap_ms = horizon_d, enter, leave, round(gap_d * DAY_MS)
        self.counts_all = counts_all


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


def new() -> dict[str, Any]:
    return {
        "days": [], "zero_ms": 0, "more": 0, "due_ms": None, "on": False, "crossed_ms": 0, "crossings": 0,
        "told_ms": None,
    }  # fmt: skip


def see(state: dict[str, Any], ts: int, utc_offset_ms: int, rules: Rules) -> None:
    """Something on a day."""
    day = (ts + utc_offset_ms) // DAY_MS
    if day in state["days"]:
        return
    start_ms = day * DAY_MS - utc_offset_ms
    state["zero_ms"] = min(state["zero_ms"], start_ms) if state["days"] else start_ms
    state["days"] = sorted([*state["days"], day])
    settle(state, ts, rules)


def settle(state: dict[str, Any], ts: int, rules: Rules) -> None:
    if state["on"] and risk_at(state, max(ts, state["crossed_ms"]), rules) <= rules.leave:
        state["on"] = False
    waits = state["days"] and not state["on"] and (rules.counts_all or len(state["days"]) > 1)
    state["due_ms"] = crossing_ms(state, rules) if waits else None


EVERYTHING = 1 << 62


def take(
    state: dict[str, Any] | None, event: dict[str, Any], utc_offset_ms: int, rules: Rules
) -> dict[str, Any] | None:
    """An Order Completed, Cancelled or Refunded comes: the state after it."""
    p = event.get("properties")
    p = p if isinstance(p, dict) else {}
    ts = event["timestampMs"]
    id = id_of(p, "order_id")
    new_order = {"ms": ts, "day": (ts + utc_offset_ms) // DAY_MS, "value": None, "back": 0, "cur": ""}
    if event["event"] == "Order Completed":
        id = id or f"message:{event['messageId']}"
        new_order |= {"value": round(10_000 * (order_value(p) or 0.0)), "cur": currency(p) or ""}
    elif id is None:
        return state
    else:
        back = refunded(p) if event["event"] == "Order Refunded" else None
        new_order["back"] = EVERYTHING if back is None else round(10_000 * back)
    state = state or {**new(), "orders": {}, "sums": {}}
    known = state["orders"].get(id)
    order = state["orders"][id] = first_report(known, new_order)
    if event["event"] != "Order Completed":
        return latest(state)
    if known is not None and known["value"] is not None:
        if order["day"] != known["day"] and not any(
            o["day"] == known["day"] and o["value"] is not None for o in state["orders"].values()
        ):
            state["days"].remove(known["day"])
        if order["day"] != new_order["day"]:
            return latest(state)
    see(state, ts, utc_offset_ms, rules)
    return latest(state)


def latest(state: dict[str, Any]) -> dict[str, Any]:
    """64 orders are known one by one, those of the first day before all others; of older ones the sums."""
    first = state["days"][0] if state["days"] else 0
    while len(state["orders"]) > 64:
        _, _, id = min((o["day"] == first, o["ms"], id) for id, o in state["orders"].items())
        order = state["orders"].pop(id)
        state["sums"][order["cur"]] = state["sums"].get(order["cur"], 0) + net(order)
    assert len(state["sums"]) <= 4, "nobody in this traffic pays in so many currencies"
    return state


def net(order: dict[str, Any]) -> int:
    return 0 if order["value"] is None else max(0, order["value"] - order["back"])


def refunded(p: dict[str, Any]) -> float | None:
    """What is given back; None: everything."""
    given = number(p.get("total"), 1e12)
    if given is None:
        given = order_value(p)
    return 0.0 if given is None and products(p, 1) else given


def first_report(known: dict[str, Any] | None, new: dict[str, Any]) -> dict[str, Any]:
    """Of one order: the earlier counts, and all that was given back."""
    if known is None:
        return new
    either = sorted((known, new), key=lambda o: (o["value"] is None, o["ms"], o["day"], o["value"] or 0, o["cur"]))
    return {**either[0], "back": min(known["back"] + new["back"], EVERYTHING)}


def totals(state: dict[str, Any]) -> dict[str, float]:
    found: dict[str, int] = dict(state["sums"])
    for o in state["orders"].values():
        if o["value"] is not None:
            found[o["cur"]] = found.get(o["cur"], 0) + net(o)
    return {cur: value / 10_000 for cur, value in found.items()}


def fire(state: dict[str, Any], signal: str, rules: Rules) -> dict[str, Any]:
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
    worth: dict[str, Any] = {}
    if signal == "purchase" and reason is None:
        values = totals(state)
        currency = max(values, key=lambda cur: (values[cur], cur))
        worth = {"valueTotal": values[currency], "values": values, "currency": currency or None}
    return {
        "at_ms": due, "reason": reason, "by": f"{signal}/{days[-1]}", "n": state["crossings"],
        "data": {
            "signal": signal, "risk": at_risk, "pAlive": p_alive(x, t_x, t),
            "band": "low" if at_risk < 0.33 else "high" if at_risk > 0.66 else "medium", "x": x,
            "tXDays": days[-1] - days[0], "tDays": t * 7, "horizonDays": rules.horizon_d,
            "likelihood": 1 - risk(x, t_x, t, 90 / 7), "model": "mbg_nbd:prior-1", "confidence": "cold", **worth,
        },
    }  # fmt: skip


def merged(one: dict[str, Any], other: dict[str, Any], now_ms: int, rules: Rules) -> dict[str, Any]:
    """The union of the days; an order of both counts once."""
    days = {*one["days"], *other["days"]}
    state = {
        "zero_ms": min(s["zero_ms"] for s in (one, other) if s["days"] or not days), "more": 0, "due_ms": None,
        "crossed_ms": max(one["crossed_ms"], other["crossed_ms"]),
        "crossings": max(one["crossings"], other["crossings"]), "on": one["on"] or other["on"],
        "told_ms": max((s["told_ms"] for s in (one, other) if s["told_ms"] is not None), default=None),
    }  # fmt: skip
    if "orders" in one:
        orders = {
            id: first_report(one["orders"].get(id), other["orders"][id]) if id in other["orders"] else one["orders"][id]
            for id in one["orders"].keys() | other["orders"].keys()
        }
        still = {o["day"] for o in orders.values() if o["value"] is not None}
        for id in one["orders"].keys() & other["orders"].keys():
            for o in (one["orders"][id], other["orders"][id]):
                if o["value"] is not None and o["day"] not in still:
                    days.discard(o["day"])
        theirs = other["sums"]
        sums = {cur: one["sums"].get(cur, 0) + theirs.get(cur, 0) for cur in one["sums"].keys() | theirs.keys()}
        state |= {"orders": orders, "sums": sums}
    state["days"] = sorted(days)
    settle(state, now_ms, rules)
    return latest(state) if "orders" in state else state
