"""Is what stands in Redis, and in the trigger topics, what the naive fold says? All differences, in words.

Everything is exact, but for the crossing of a churn risk: the engine looks for it in steps of 0.6 ms, so it may be a
millisecond later, and the probabilities at it differ in their last digits.
"""

from __future__ import annotations

import json
import re
from math import isclose, log2
from typing import Any

from tests.oracle.carts import NEW, NONE
from tests.oracle.events import Json
from tests.oracle.fold import NOT_FOLDED

ENTRY: Json = {
    "lines": None, "order": None, "value": None, "cur": None, "by": None, "cart": None, "checkout": None, "link": None,
    "since_ms": None, "brought": None,
}  # fmt: skip
LINE = {
    "qty": 1, "price": None, "name": None, "url": None, "img": None, "sku": None, "variant": None, "cur": None,
}  # fmt: skip
ORDER: Json = {
    "value": 0.0, "cur": None, "by": None, "back": 0.0, "reversed": False, "gain": 0.0, "opened_ms": [], "brought": [],
    "left": [],
}  # fmt: skip
TOLD = {"quiet": False, "unsure": False, "key": "", "order": None}
ABOUT: Json = {"events": 0, "user_id": None, "anonymous_ids": [], "traits": {}, "traits_ms": {}, "channels": {}}
WATCHED: Json = {
    "days": [], "zero_ms": 0, "more": 0, "due_ms": None, "on": False, "crossed_ms": 0, "crossings": 0, "told_ms": None,
}  # fmt: skip
PAID: Json = {"value": None, "back": 0, "cur": ""}
SCORE = {
    "indicators": {}, "last_ms": 0, "marks": [], "orders": {}, "stage": "visitor", "entered": {}, "left_ms": 0,
    "due_ms": None,
}  # fmt: skip
CROSSING = re.compile(
    r"\.((purchase|visit|message_engage)\.(due|crossed|told)_ms|time|data\.(risk|pAlive|tDays|likelihood))$|:due\."
    r"|\.score\.(due|left)_ms$|\.score\.(indicators\.\w+|orders\.past|marks\[\d+\])\[\d\]$"
    r"|\.data\.(points|score|contributions\.\w+)$|:(rank|sum):[\w-]+\."
)
"""Values that a crossing decides, and sums of powers of two."""
LANDMARK_MS, WEEK_MS, LEAST = 1_577_836_800_000, 7 * 86_400_000, 1 / 16
"""Whose score is below LEAST may have left the ranking."""
UNCHECKED = re.compile(
    r"^\{clock\}:|^\{w:|^\{[ep]\d+\}:whole$|^\{s:[^}]*\}:((id|ids|to|k|r):|(run|score|epochs)$)|^\{[ep]\d+\}:head\.(epoch|seq|run|settled|owes|at_ms|back_ms|ahead_ms)$"
    r"|^\{p\d+\}:rank$|\.cart\.(counted|lines)$|:v:.*\.(contact|gate)$|:g\.journey_"
    r"|^\{p\d+\}:c:[\w-]+:(carts|cart_products|feedback|messages|retention|sales|steps):"
)
"""Identifiers and purchases (tests/oracle/people.py looks at them), rolled-up days (whose sums readers check), the
median score, what differs by run, what is counted for Prometheus alone, contacts and the gate's memory, of which the
naive fold has only what decides about triggers; stages of the journey, counters of families that it does not know."""


NOT_TOLD = re.compile(
    r"\.triggers\.(segment_entered|segment_exited|journey_stage|journey_step|survey|review_request|rule"
    r"|browse_abandoned|engagement_falling|reorder_due|usage_falling)\."
)
"""Topics of theirs."""


def differences(expected: Json, found: Json) -> list[str]:
    """Of two dumps of Redis (`ProfilesFold.redis` and `EventsFold.redis`; tests/oracle/state.py)."""
    whole = {key: whole_profile(value) if ":v:" in key else value for key, value in found.items()}
    whole |= {key: value[:4] for key, value in found.items() if ":ud:" in key}
    whole |= {
        key: {f: n for f, n in value.items() if n != "0"} or None for key, value in found.items() if key[-2:] == ":g"
    }
    out: list[str] = []
    wanted = {key: value for key, value in expected.items() if value}
    for key in found:
        if key.endswith(":g"):
            whole[key] = {field: text for field, text in found[key].items() if text != "0"}
        if ":sum:" in key:
            whole[key] = {field: float(text) for field, text in found[key].items()}
    for key in [key for key in (*wanted, *whole) if ":rank:" in key]:
        clock_ms = int(expected[f"{key.split(':')[0]}:head"]["clock_ms"])
        least = log2(LEAST) + (clock_ms - LANDMARK_MS) / WEEK_MS
        for side in (wanted, whole):
            side[key] = {id: rank for id, rank in side.get(key, {}).items() if rank >= least}
    for key in [key for key in found if ":v:" in key]:
        _with_timers(wanted, key, found[key])
    for key in sorted(wanted.keys() | whole.keys()):
        _compare(key, wanted.get(key), whole.get(key), out)
    return out


def _with_timers(wanted: Json, key: str, fields: Json) -> None:
    """The timers of what the naive fold does not know, as they are found, among those that it wants."""
    partition, _, who = key.partition(":v:")
    states = (json.loads(fields[name]) for name in NOT_FOLDED if name in fields)
    if dues := [due for state in states for due in _dues(state)]:
        of_partition = wanted[f"{partition}:due"] = dict(wanted.get(f"{partition}:due", {}))
        member = who.replace(":", "|", 1)
        of_partition[member] = min(*dues, of_partition.get(member, dues[0]))


def _dues(state: Any) -> list[int]:
    """Every `due_ms` in a state."""
    if not isinstance(state, dict):
        return []
    own = [state["due_ms"]] if state.get("due_ms") is not None else []
    return own + [due for value in state.values() for due in _dues(value)]


def trigger_differences(expected: dict[str, list[Json]], found: dict[str, list[Json]]) -> list[str]:
    """Both: id -> every record with it. A trigger may be delivered twice, but is always the same."""
    out: list[str] = []
    found = {id: each for id, each in found.items() if not NOT_TOLD.search(each[0]["topic"])}
    for id in sorted(expected.keys() | found.keys()):
        wanted = {trigger["subject"]: trigger for trigger in expected.get(id, [])}
        got: dict[str, Json] = {}
        for trigger in found.get(id, []):
            if got.setdefault(trigger["subject"], trigger) != trigger:
                out.append(f"trigger {id} came with different contents: {got[trigger['subject']]} and {trigger}")
        if len(got) > 1:
            out.append(f"trigger {id} is told of several profiles: {sorted(got)}")
        out += [f"trigger {id} is invented: {got[subject]}" for subject in got.keys() - wanted.keys()]
        out += [f"trigger {id} is missing: {wanted[subject]}" for subject in wanted.keys() - got.keys()]
        for subject in wanted.keys() & got.keys():
            _compare(id, _without_none(wanted[subject]), _whole_trigger(got[subject]), out)
    return out


def _compare(path: str, wanted: Any, got: Any, out: list[str]) -> None:
    if wanted == got or UNCHECKED.search(path):
        return
    if isinstance(wanted, dict) and isinstance(got, dict):
        for name in sorted(wanted.keys() | got.keys()):
            _compare(f"{path}.{name}", wanted.get(name), got.get(name), out)
    elif isinstance(wanted, list | tuple) and isinstance(got, list) and len(wanted) == len(got) and ".score." in path:
        for i, (w, g) in enumerate(zip(wanted, got, strict=True)):
            _compare(f"{path}[{i}]", w, g, out)
    elif not (CROSSING.search(path) and _near(wanted, got, *((1e-5, 1e-3) if ".marks[" in path else (1e-6, 0.0)))):
        out.append(f"{path}: wanted {_shown(wanted)}, found {_shown(got)}")


def _near(a: Any, b: Any, digits: float, least: float) -> bool:
    """`least`: marks have six digits each, and of a merge the sum of some, which may be for and against."""
    if isinstance(a, str) and isinstance(b, str):  # RFC 3339
        return a[:16] == b[:16] and abs(float(a[17:-1]) - float(b[17:-1])) < 0.0011
    if isinstance(a, int) and isinstance(b, int):
        return abs(a - b) <= 1
    return isinstance(a, int | float) and isinstance(b, int | float) and isclose(a, b, rel_tol=digits, abs_tol=least)


def _shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) < 600 else f"{text[:600]}..."


# -- stored values leave out what is the default


def whole_profile(fields: Json) -> Json:
    """A profile's hash as the naive fold has it."""
    profile = {name: json.loads(text) for name, text in fields.items()}
    out: Json = {"about": {**ABOUT, **profile["about"]}} if "about" in profile else {}
    if (cart := profile.get("cart")) is not None:
        out["cart"] = {
            "carts": _whole_carts(cart.get("carts", {})),
            "base": _whole_carts(cart.get("base", {})),
            "log": [_whole_entry(e) for e in cart.get("log", [])],
            "fired_ms": cart.get("fired_ms", 0),
            "told": [{**TOLD, **t} for t in cart.get("told", [])],
            "minted": cart.get("minted", {}),
        }
    for name in ("purchase", "visit", "message_engage"):
        if (watched := profile.get(name)) is not None:
            watched.pop("_v", None)
            out[name] = {**WATCHED, **watched}
    if (purchase := out.get("purchase")) is not None:
        purchase["orders"] = {id: {**PAID, **order} for id, order in purchase.get("orders", {}).items()}
        purchase.setdefault("sums", {})
    if (score := profile.get("score")) is not None:
        score.pop("_v", None)
        out["score"] = {**SCORE, **score}
    return out | {name: state for name, state in profile.items() if name not in ("cart", *out, *NOT_FOLDED)}


def _whole_carts(carts: Json) -> Json:
    whole = {**NONE, **carts}
    whole["carts"] = [{**NEW, **cart} for cart in whole["carts"]]
    for cart in whole["carts"]:
        cart["items"] = [{**LINE, **line} for line in cart["items"]]
    whole["orders"] = [{**ORDER, **order} for order in whole["orders"]]
    return whole


def _whole_entry(entry: Json) -> Json:
    whole = {**ENTRY, **entry}
    if whole["lines"] is not None:
        whole["lines"] = [{**LINE, **line} for line in whole["lines"]]
    return whole


def _whole_trigger(trigger: Json) -> Json:
    data = dict(trigger["data"])
    if trigger["type"] == "tracker.cart_abandoned.v1":
        data = {"reason": "unknown", **data}
    if "items" in data:
        data["items"] = [{"quantity": 1, **line} for line in data["items"]]
    for name in ("channels", "preferredChannel"):
        data.pop(name, None)
    return {**trigger, "data": data}


def _without_none(value: Any) -> Any:
    if isinstance(value, dict):
        return {k: _without_none(v) for k, v in value.items() if v is not None}
    return [_without_none(v) for v in value] if isinstance(value, list) else value
