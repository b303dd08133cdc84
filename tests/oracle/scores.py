"""The engagement score and the stage of one profile, written from domain.md section 6: the times of all its events, and
powers of two added up when somebody asks. Default weights, half-life 7 days."""

from __future__ import annotations

from collections import Counter
from math import log2
from typing import Any

from tests.oracle.names import properties
from tests.oracle.shop import id_of

Json = dict[str, Any]
POINTS = {
    "Product Viewed": ("product_view", 2), "Product Added": ("cart", 6), "Checkout Started": ("checkout", 10),
    "Email Opened": ("message_open", 1), "Message Seen": ("message_open", 1),
    "Email Link Clicked": ("message_click", 4), "Message Link Clicked": ("message_click", 4),
    "Push Notification Tapped": ("message_click", 4), "Popup Submitted": ("popup_submit", 8),
    "Form Submitted": ("form", 10), "Unsubscribed": ("unsubscribe", -15), "Promotion Clicked": ("promotion_click", 3),
    "Order Refunded": ("refund", -10), "Order Cancelled": ("refund", -10),
    "Products Searched": ("search", 2), "Product Reviewed": ("review", 12), "Survey Response Received": ("survey", 8),
    "Social Liked": ("social_like", 1), "Social Commented": ("social_comment", 3),
    "Content Shared": ("social_share", 5), "Product Shared": ("social_share", 5), "Cart Shared": ("social_share", 5),
    "Referral Converted": ("referral_converted", 30), "Invite Sent": ("referral_sent", 10),
    "Ticket Opened": ("ticket", -2), "Email Marked as Spam": ("spam_complaint", -30),
    "page": ("page", 1), "screen": ("page", 1),
}  # fmt: skip
WEIGHTS = dict(POINTS.values()) | {"first_order": 20, "repeat_order": 30}
LANDMARK_MS = 1_577_836_800_000
DAY_MS = 86_400_000
WEEK_MS = 7 * DAY_MS
CAP = 20
NOISE = 5e-9
"""Sums of powers of two that are to be 20 may be 19.99...9."""
STAGES = ["visitor", "lead", "mql", "sql", "customer"]


def new() -> Json:
    return {
        "times": {}, "n": {}, "last_ms": 0, "ids": {}, "others": [], "marks": [], "stage": "visitor", "entered": {},
        "left_ms": 0, "due_ms": None, "beyond": 0, "over": [],
    }  # fmt: skip


def log_of(times: list[int]) -> float:
    latest = max(times)
    return log2(sum(2 ** ((t - latest) / WEEK_MS) for t in times)) + (latest - LANDMARK_MS) / WEEK_MS


def parts(state: Json, at_ms: int) -> dict[str, float]:
    return {
        name: WEIGHTS[name] * sum(2.0 ** ((t - at_ms) / WEEK_MS) for t in times)
        for name, times in state["times"].items()
    }


def points(state: Json, at_ms: int) -> float:
    return sum(parts(state, at_ms).values())


def rank(state: Json) -> float | None:
    logs = [(log2(WEIGHTS[name]) + log_of(times)) for name, times in state["times"].items() if WEIGHTS[name] > 0]
    return max(logs) + log2(sum(2 ** (x - max(logs)) for x in logs)) if logs else None


def stored(state: Json) -> Json:
    """As it stands in Redis."""
    indicators = {name: [log_of(times), 7.0, *state["n"][name]] for name, times in state["times"].items()}
    orders: Json = {"latest": state["ids"]} if state["ids"] else {}
    if others := sorted(state["others"]):
        orders["first_ms"] = others[0]
        orders["past"] = [log_of(others[1:]), 7.0, len(others) - 1, 0, 0] if others[1:] else None
    orders |= {k: state[k] for k in ("beyond", "over") if state[k]}
    plain = {k: v for k, v in state.items() if k not in ("times", "n", "ids", "others", "beyond", "over")}
    return {"indicators": indicators, "orders": orders} | plain


def take(state: Json | None, event: Json, traits: Json, offset_ms: int) -> tuple[Json | None, list[Json], Json | None]:
    """The state, what is told, and what counted: {indicator, ts, sums}; of sums '-NAME' is one no more."""
    name = event["event"] if event["type"] == "track" else event["type"]
    state, ts = state or new(), event["timestampMs"]
    if event.get("bot"):
        return state, [], None
    counted = None
    is_lead = name in ("Form Submitted", "Signed Up") or (
        name == "identify" and bool(traits.get("email") or traits.get("phone"))
    )
    sums: list[tuple[str, int]] = []
    if name == "Order Completed":
        sums = order(state, event, ts, offset_ms)
        counted = "repeat_order" if sums else None
    elif name in POINTS and add(state, POINTS[name][0], ts, offset_ms):
        counted = POINTS[name][0]
    told: list[Json] = []
    if counted or is_lead or (name == "identify" and state["stage"] != "visitor"):
        at_ms = max(ts, state["last_ms"], state["left_ms"])
        told = settle(state, at_ms, is_lead, counted == "repeat_order")
    is_nothing = not state["times"] and state["stage"] == "visitor"
    of = {"indicator": counted, "ts": ts, "sums": sums or [(counted, ts)]} if counted else None
    return None if is_nothing else state, told, of


def mark(state: Json, ts: int) -> None:
    minute, marks = ts // 60_000, state["marks"]
    if not marks or marks[-1][0] // 60 < minute // 60:
        value = points(state, minute * 60_000)
        state["marks"] = [m for m in marks if m[0] >= minute - 8 * 1440]
        state["marks"].append([minute, *([7.0, value] if value else [])])


def add(state: Json, name: str, ts: int, offset_ms: int) -> bool:
    day = (ts + offset_ms) // DAY_MS
    n, last_day, today = state["n"].get(name, (0, -1, 0))
    if day == last_day and today >= CAP:
        state["n"][name] = (n + 1, last_day, today)
        return False
    mark(state, ts)
    if WEIGHTS[name] > 0:
        state["last_ms"] = max(ts, state["last_ms"])
    state["times"].setdefault(name, []).append(ts)
    today = today + 1 if day == last_day else 1 if day > last_day else today
    state["n"][name] = (n + 1, max(day, last_day), today)
    return True


def order(state: Json, event: Json, ts: int, offset_ms: int) -> list[tuple[str, int]]:
    """What is added to the site's sums, and taken back; nothing: it is known, or one more than count in a day."""
    id = id_of(properties(event), "order_id")
    before = order_times(state)
    if id in state["ids"]:
        if state["ids"][id] <= ts:
            return []
    elif id is not None and id in state["over"]:
        return []
    elif before:
        n, last_day, today = state["n"].get("repeat_order", (0, -1, 0))
        if (max(ts, before[0]) + offset_ms) // DAY_MS == last_day and today >= CAP:
            state["n"]["repeat_order"] = (n + 1, last_day, today)
            state["beyond"] += 1
            state["over"] = [*state["over"], *([id] if id is not None else [])][-32:]
            return []
    mark(state, ts)
    state["last_ms"] = max(ts, state["last_ms"])
    if id is None:
        state["others"].append(ts)
    else:
        state["ids"][id] = ts
    return ranked(state, [before], offset_ms)


def order_times(state: Json) -> list[int]:
    return sorted([*state["ids"].values(), *state["others"]])


def ranked(state: Json, before: list[list[int]], offset_ms: int) -> list[tuple[str, int]]:
    """The earliest order is the first, all others are repeats; of 32 the ids are known. -> the difference."""

    def named(times: list[int]) -> Counter[tuple[str, int]]:
        return Counter(("repeat_order" if i else "first_order", ms) for i, ms in enumerate(times))

    now, was = named(order_times(state)), sum((named(times) for times in before), Counter())
    came, gone = sorted((now - was).elements()), sorted((was - now).elements())
    while len(state["ids"]) > 32:
        _, id = min((ms, id) for id, ms in state["ids"].items())
        state["others"].append(state["ids"].pop(id))
    times = order_times(state)
    if times:
        state["times"]["first_order"], state["n"]["first_order"] = times[:1], (1, (times[0] + offset_ms) // DAY_MS, 1)
    if times[1:]:
        _, last_day, today = state["n"].get("repeat_order", (0, -1, 0))
        for name, ms in came:
            day = (ms + offset_ms) // DAY_MS
            if name == "repeat_order" and day >= last_day:
                last_day, today = day, today + 1 if day == last_day else 1
        today -= sum(name == "repeat_order" and (ms + offset_ms) // DAY_MS == last_day for name, ms in gone)
        state["times"]["repeat_order"] = times[1:]
        state["n"]["repeat_order"] = (len(times) - 1 + state["beyond"], last_day, today)
    return [*came, *((f"-{name}", ms) for name, ms in gone)]


# -- stages


def settle(state: Json, at_ms: int, is_lead: bool, is_customer: bool) -> list[Json]:
    told: list[Json] = []
    leave(state, at_ms)
    now = points(state, at_ms)
    at = STAGES.index(state["stage"])
    goes: list[str] = []
    if at < 4 and is_customer:
        goes = ["customer"]
    elif at < 4 and (at > 0 or is_lead):
        goes = STAGES[at + 1 : (2 if now < 50 - NOISE else 3 if now < 80 - NOISE else 4)]
    for stage in goes:
        state["entered"] = {**state["entered"], stage: state["entered"].get(stage, 0) + 1}
        each = parts(state, at_ms)
        is_zero = abs(now) <= 1e-9 * sum(abs(part) for part in each.values())
        of = {} if is_zero else {name: part / now for name, part in each.items() if part}
        top = sorted(of, key=lambda name: (-float(f"{abs(each[name]):.9g}"), name))[:5]
        told.append(
            {
                "at_ms": at_ms,
                "n": state["entered"][stage],
                "data": {
                    "stage": stage, "previous": state["stage"], "points": now, "score": now, "fit": 0.0,
                    "grade": "ABCD"[sum(now < least - NOISE for least in (80, 50, 20))],
                    "times": state["entered"][stage], "contributions": {name: of[name] for name in top},
                },
            }
        )  # fmt: skip
        state["stage"] = stage
    set_timer(state, at_ms)
    return told


def leave(state: Json, at_ms: int) -> None:
    if state["stage"] == "sql" and points(state, at_ms) < 64 - NOISE:
        state["stage"] = "mql"
    if state["stage"] == "mql" and points(state, at_ms) < 40 - NOISE:
        state["stage"] = "lead"


def set_timer(state: Json, at_ms: int) -> None:
    least = {"mql": 40, "sql": 64}.get(state["stage"])
    if least is None:
        state["due_ms"] = None
        return
    low, high = at_ms - 1, at_ms + 400 * DAY_MS
    while high - low > 1:
        middle = (low + high) // 2
        if points(state, middle) < least - NOISE:
            high = middle
        else:
            low = middle
    state["due_ms"] = high


def fire(state: Json, until_ms: int) -> None:
    while state["due_ms"] is not None and state["due_ms"] <= until_ms:
        at_ms = state["left_ms"] = state["due_ms"]
        leave(state, at_ms)
        set_timer(state, at_ms)


# -- merges


def was(state: Json, start: int) -> float:
    """The score at a minute, as it was known in the next hour with an event."""
    for m in state["marks"]:
        if m[0] >= start:
            return float(m[2] * 2 ** ((m[0] - start) * 60_000 / WEEK_MS)) if len(m) > 1 else 0.0
    return points(state, start * 60_000)


def merged(one: Json, other: Json, now_ms: int, offset_ms: int) -> tuple[Json, list[Json], list[tuple[str, int]]]:
    both = new()
    for name in one["times"].keys() | other["times"].keys():
        have = [s for s in (one, other) if name in s["times"]]
        both["times"][name] = [t for s in have for t in s["times"][name]]
        both["n"][name] = counts([s["n"][name] for s in have])
    for id in one["ids"].keys() | other["ids"].keys():
        both["ids"][id] = min(s["ids"][id] for s in (one, other) if id in s["ids"])
    both["others"] = [*one["others"], *other["others"]]
    told = [*one["over"], *other["over"]]
    over = sorted({id for id in told if id not in both["ids"]})
    both["beyond"] = one["beyond"] + other["beyond"] - len(told) + len(over)
    both["over"] = over[-32:]
    sums = ranked(both, [order_times(one), order_times(other)], offset_ms)
    starts = sorted({m[0] for s in (one, other) for m in s["marks"]})
    for start in starts:
        in_hour = both["marks"] and both["marks"][-1][0] // 60 == start // 60
        if start >= starts[-1] - 8 * 1440 and not in_hour:
            value = was(one, start) + was(other, start)
            for name, ms in sums:
                if ms <= start * 60_000:
                    points_ = WEIGHTS[name.removeprefix("-")] * 2 ** ((ms - start * 60_000) / WEEK_MS)
                    value += -points_ if name.startswith("-") else points_
            both["marks"].append([start, *([7.0, value] if value else [])])
    both["last_ms"], both["left_ms"] = (max(one[k], other[k]) for k in ("last_ms", "left_ms"))
    both["stage"] = max(one["stage"], other["stage"], key=STAGES.index)
    both["entered"] = {
        k: max(one["entered"].get(k, 0), other["entered"].get(k, 0)) for k in {*one["entered"], *other["entered"]}
    }
    return both, settle(both, max(now_ms, both["last_ms"], both["left_ms"]), False, False), sums


def counts(each: list[Any]) -> tuple[int, int, int]:
    day = max(d for _, d, _ in each)
    return sum(n for n, _, _ in each), day, sum(today for _, d, today in each if d == day)
