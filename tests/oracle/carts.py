"""The cart of one profile, written from domain.md section 5 and nothing else: slow and plain.

The whole log is folded again for every event. A cart is a dictionary that is changed in place; what is said of it keeps
a copy. Beside the table of 5.3:

- times in ms; the order of entries is (time, messageId); a timer goes before an entry of the same time
- the log: the last 48 h before its newest entry, at most 200 entries and 400 product lines; what falls out is folded
  into `base` for good. An entry from before the base: an order counts at the base's time (one from before the base's
  cart was opened closes nothing), a cancellation or refund is applied there, anything else is ignored
- an abandonment keeps the id that it was told under: (messageId that opened the episode, number), found again by
  overlapping episodes
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

Cart = dict[str, Any]
Entry = dict[str, Any]
Said = dict[str, Any]

HOUR_MS = 3_600_000
MOST_ENTRIES = 200
NEW: Cart = {
    "state": "none", "at_ms": 0, "episode": 0, "stage": 0, "seq": 0, "opened_ms": 0, "opened_by": "", "last_ms": 0,
    "abandoned_ms": 0, "told_ms": 0, "items": [], "cur": None, "touch": None, "orders": [],
}  # fmt: skip
STAGES = ("cart", "checkout", "payment")


class Rules:
    """Settings, in ms."""

    def __init__(
        self,
        cart_idle_s: float = 3600,
        checkout_idle_s: float = 1800,
        payment_idle_s: float = 900,
        cart_lost_s: float = 7 * 86400,
        cart_repeat_s: float = 86400,
        cart_click_s: float = 5 * 86400,
    ) -> None:
        self.idle_ms = [int(s * 1000) for s in (cart_idle_s, checkout_idle_s, payment_idle_s)]
        self.lost_ms, self.repeat_ms = int(cart_lost_s * 1000), int(cart_repeat_s * 1000)
        self.click_ms = int(cart_click_s * 1000)


def copied(cart: Cart) -> Cart:
    return {**cart, "items": [dict(x) for x in cart["items"]], "orders": [dict(x) for x in cart["orders"]]}


# -- one entry, one timer


def due_ms(cart: Cart, rules: Rules) -> int | None:
    if cart["state"] in ("open", "reopened"):
        return int(cart["last_ms"]) + rules.idle_ms[cart["stage"]]
    if cart["state"] == "abandoned":
        return int(cart["abandoned_ms"]) + rules.lost_ms
    return None


def run_timers(cart: Cart, until_ms: int, rules: Rules, said: list[Said]) -> None:
    while (due := due_ms(cart, rules)) is not None and due <= until_ms:
        if cart["state"] == "abandoned":
            said.append({"what": "lost", "at_ms": due, "cart": copied(cart)})
            end(cart, "lost", due)
            continue
        quiet = cart["seq"] > 0 and due - cart["told_ms"] < rules.repeat_ms
        cart["state"] = "abandoned"
        cart["seq"] += 1
        cart["at_ms"] = cart["abandoned_ms"] = due
        if not quiet:
            cart["told_ms"] = due
        said.append({"what": "abandoned", "at_ms": due, "cart": copied(cart), "quiet": quiet})


def end(cart: Cart, state: str, ms: int) -> None:
    """The episode is over: what belonged to it goes."""
    episode, orders, at_ms = cart["episode"], cart["orders"], max(ms, cart["at_ms"])
    cart.clear()
    cart.update(copied(NEW))
    cart.update(state=state, at_ms=at_ms, episode=episode, orders=orders)


def apply(cart: Cart, e: Entry, rules: Rules, said: list[Said]) -> None:
    run_timers(cart, e["ms"], rules, said)
    cart["at_ms"] = max(cart["at_ms"], e["ms"])
    if e["do"] in ("order", "past_order"):
        apply_order(cart, e, rules, said)
    elif e["do"] == "undo":
        apply_undo(cart, e, rules, said)
    elif e["do"] == "click":
        if cart["state"] in ("abandoned", "reopened") and e["ms"] >= cart["abandoned_ms"]:
            cart["touch"] = [e["by"] or "unknown", e["ms"]]
    else:
        apply_shopping(cart, e, said)


def apply_shopping(cart: Cart, e: Entry, said: list[Said]) -> None:
    active = cart["state"] in ("open", "reopened", "abandoned")
    items = items_after(cart["items"], e)
    empties = not items and (e["do"] == "remove" or (e["do"] == "view" and e["lines"] is not None))
    if empties:
        if active:
            said.append({"what": "emptied", "at_ms": e["ms"], "cart": copied(cart)})
            end(cart, "empty", e["ms"])
        return
    stage = {"checkout": 1, "payment": 2}.get(e["do"], 0)
    if active:
        if cart["state"] == "abandoned":
            cart["state"] = "reopened"
            said.append({"what": "reopened", "at_ms": e["ms"], "cart": copied(cart)})
        cart["stage"] = max(cart["stage"], stage)
        cart["last_ms"] = max(cart["last_ms"], e["ms"])
        cart["items"] = items
        cart["cur"] = e["cur"] or cart["cur"]
    elif not (e["do"] == "view" and not items):
        episode, orders, at_ms = cart["episode"], cart["orders"], cart["at_ms"]
        cart.update(copied(NEW))
        cart.update(
            state="open", at_ms=at_ms, episode=episode + 1, stage=stage, opened_ms=e["ms"], opened_by=e["id"],
            last_ms=e["ms"], items=items, cur=e["cur"], orders=orders,
        )  # fmt: skip
        said.append({"what": "opened", "at_ms": e["ms"], "cart": copied(cart)})


def items_after(items: list[dict[str, Any]], e: Entry) -> list[dict[str, Any]]:
    """Lines have id, qty and, where given, price, name, url, img."""
    if e["lines"] is None:
        return items
    if e["do"] == "view":
        return list(e["lines"])
    if e["do"] in ("checkout", "payment"):
        return list(e["lines"]) or items
    after = [dict(line) for line in items]
    for line in e["lines"]:
        old = next((i for i in after if i["id"] == line["id"]), None)
        if e["do"] == "add" and old is None:
            if len(after) < 100:
                after.append(dict(line))
        elif e["do"] == "add" and old is not None:
            old["qty"] = min(old["qty"] + line["qty"], 1e6)
            if line["price"] is not None:
                old["price"] = line["price"]
            for field in ("name", "url", "img"):
                old[field] = line[field] or old[field]
        elif old is not None:  # remove
            if line["qty"] == 0 or line["qty"] >= old["qty"]:
                after.remove(old)
            else:
                old["qty"] -= line["qty"]
    return after


def apply_order(cart: Cart, e: Entry, rules: Rules, said: list[Said]) -> None:
    id = e["order"] or f"message:{e['id']}"
    if any(o["id"] == id for o in cart["orders"]):
        return
    order = {
        "id": id, "ms": e["ms"], "value": e["value"] or 0.0, "cur": e["cur"] or cart["cur"], "by": None, "back": 0.0,
        "reversed": False,
    }  # fmt: skip
    state = cart["state"]
    if e["do"] == "past_order":
        cart["orders"] = [*cart["orders"], order][-50:]
        return
    if state in ("abandoned", "reopened"):
        touch = cart["touch"]
        order["by"] = touch[0] if touch is not None and e["ms"] - touch[1] <= rules.click_ms else "organic"
    what = {"open": "converted", "abandoned": "recovered", "reopened": "recovered", "lost": "converted_late"}
    said.append({"what": what.get(state, "without_cart"), "at_ms": e["ms"], "cart": copied(cart), "order": order})
    cart["orders"] = [*cart["orders"], order][-50:]
    end(cart, "converted", e["ms"])


def apply_undo(cart: Cart, e: Entry, rules: Rules, said: list[Said]) -> None:
    order = next((o for o in cart["orders"] if o["id"] == e["order"]), None)
    if order is None:
        return
    order["back"] = order["value"] if e["value"] is None else min(order["value"], order["back"] + e["value"])
    full = e["value"] is None or order["back"] >= order["value"]
    if full and order["by"] is not None and not order["reversed"] and e["ms"] - order["ms"] <= rules.lost_ms:
        order["reversed"] = True
        said.append({"what": "recovery_reversed", "at_ms": e["ms"], "cart": copied(cart), "order": order})


def fold(base: Cart, log: list[Entry], until_ms: int, rules: Rules) -> tuple[Cart, list[Said]]:
    """The definition of a cart: its log in order, then the timers due <= until_ms."""
    cart, said = copied(base), list[Said]()
    for e in sorted(log, key=place):
        apply(cart, e, rules, said)
    run_timers(cart, until_ms, rules, said)
    return cart, said


def place(e: Entry) -> tuple[int, str]:
    return e["ms"], e["id"]


# -- the log, and what was told


def new_log() -> dict[str, Any]:
    return {"cart": copied(NEW), "base": copied(NEW), "log": [], "fired_ms": 0, "told": [], "minted": {}}


def take(state: dict[str, Any], e: Entry, received_ms: int, rules: Rules) -> list[Said]:
    """An entry comes. What is to be told: abandonments (with `by` and `n`, also the quiet ones) and retractions."""
    if any(e["id"] == old["id"] for old in state["log"]):
        return []
    base = state["base"]
    if e["ms"] < base["at_ms"]:
        if e["do"] not in ("order", "undo"):
            return []
        past = e["do"] == "order" and e["ms"] < base["opened_ms"]
        e = {**e, "ms": base["at_ms"], "do": "past_order" if past else e["do"]}
    late = e["ms"] < state["cart"]["at_ms"] or any(place(e) < place(old) for old in state["log"])
    state["log"] = sorted([*state["log"], e], key=place)
    to_tell = compare(state, received_ms, rules, late)
    trim(state, rules)
    return to_tell


def fire(state: dict[str, Any], now_ms: int, rules: Rules) -> list[Said]:
    """The timers due <= now_ms fire."""
    state["fired_ms"] = max(state["fired_ms"], now_ms)
    return compare(state, now_ms, rules, late=False)


def compare(state: dict[str, Any], known_ms: int, rules: Rules, late: bool, earlier: Sequence[Said] = ()) -> list[Said]:
    """Fold again, and compare the abandonments that are true now with those that were told. Not late: all that was
    true stays true, and what was told of it stays its own. `earlier`: is true, too, though the base has it already."""
    cart, said = fold(state["base"], state["log"], state["fired_ms"], rules)
    said = [*earlier, *said]
    state["cart"] = cart
    before, now, to_tell = state["told"], list[Any](), list[Said]()
    found = dict[int, Any]()
    abandoned = [x for x in said if x["what"] == "abandoned"]
    if not late:
        own = {(t["opened_ms"], t["at_ms"]): i for i, t in enumerate(before) if not t["unsure"]}
        found = {i: before[i] for x in abandoned if (i := own.get((x["cart"]["opened_ms"], x["at_ms"]))) is not None}
        abandoned = [x for x in abandoned if (x["cart"]["opened_ms"], x["at_ms"]) not in own]
    for x in abandoned:
        same = [
            i for i, t in enumerate(before)
            if i not in found and t["opened_ms"] <= x["at_ms"] and x["cart"]["opened_ms"] <= t["at_ms"]
            and (x["quiet"] or not t["quiet"])
        ]  # fmt: skip
        best = next((i for i in same if before[i]["quiet"] == x["quiet"]), same[0] if same else None)
        place_ = {"opened_ms": x["cart"]["opened_ms"], "at_ms": x["at_ms"]}
        if best is not None:
            found[best] = {**before[best], **place_}
            continue
        by = x["cart"]["opened_by"]
        n = max(x["cart"]["seq"], state["minted"].get(by, 0) + 1)
        state["minted"][by] = n
        now.append({"by": by, "n": n, **place_, "quiet": x["quiet"], "unsure": False})
        to_tell.append({**x, "by": by, "n": n})
    kept, gone = [], []
    for i, t in enumerate(before):
        if i in found:
            kept.append({**found[i], "unsure": False})
        elif not late and not t["unsure"]:
            raise AssertionError(f"an entry in order has undone {t}")
        elif will_come(t, cart, known_ms, rules):
            kept.append({**t, "unsure": True})
        else:
            gone.append(t)
    state["told"] = kept + now
    while len(state["minted"]) > 16:
        del state["minted"][next(iter(state["minted"]))]
    return [{"what": "retracted", **t} for t in gone if not t["quiet"]] + to_tell


def will_come(told: dict[str, Any], cart: Cart, known_ms: int, rules: Rules) -> bool:
    """The clock, once it is where the last entry was received, will find it true after all."""
    if cart["state"] not in ("open", "reopened"):
        return False
    due = due_ms(cart, rules)
    return due is not None and due <= known_ms and bool(cart["opened_ms"] <= told["at_ms"])


def trim(state: dict[str, Any], rules: Rules) -> None:
    log, oldest, trimmed = state["log"], state["log"][-1]["ms"] - 48 * HOUR_MS, False
    while len(log) > 1 and (
        len(log) > MOST_ENTRIES or sum(len(e["lines"] or ()) for e in log) > 400 or log[0]["ms"] < oldest
    ):
        apply(state["base"], log.pop(0), rules, [])
        trimmed = True
    if not trimmed:
        return
    state["told"] = [t for t in state["told"] if t["unsure"] or t["at_ms"] > state["base"]["at_ms"]]
    live = {state["base"]["opened_by"], *(t["by"] for t in state["told"]), *(e["id"] for e in state["log"])}
    state["minted"] = {by: n for by, n in state["minted"].items() if by in live}


# -- two carts of what turns out to be one person


def merged(one: dict[str, Any], other: dict[str, Any], rules: Rules) -> tuple[dict[str, Any], list[Said]]:
    """The state of both logs as one, and what is to be told. What fell out of either log is a base; the bases meet at
    the time of the later one, up to which the other's log and timers are folded into its base."""
    base_ms = max(one["base"]["at_ms"], other["base"]["at_ms"])
    bases, entries, told, minted = [], dict[str, Entry](), dict[Any, Any](), dict[str, int]()
    earlier: list[Said] = []
    for state in (other, one):
        base = copied(state["base"])
        for e in state["log"]:
            if e["ms"] < base_ms:
                apply(base, e, rules, earlier)
            else:
                entries[e["id"]] = e
        run_timers(base, base_ms, rules, earlier)
        bases.append(base)
        told |= {(t["by"], t["n"]): t for t in state["told"]}
        for by, n in state["minted"].items():
            minted[by] = max(n, minted.get(by, 0))
    both = {
        "base": merged_bases(*bases), "log": sorted(entries.values(), key=place),
        "fired_ms": max(one["fired_ms"], other["fired_ms"]),
        "told": sorted(told.values(), key=lambda t: (t["opened_ms"], t["by"], t["n"])),
        "minted": dict(sorted(minted.items())),
    }  # fmt: skip
    earlier.sort(key=lambda x: (x["at_ms"], x["cart"]["opened_ms"], x["cart"]["opened_by"]))
    to_tell = compare(both, both["fired_ms"], rules, True, earlier)
    both["told"] = [t for t in both["told"] if t["unsure"] or t["at_ms"] > both["base"]["at_ms"]]
    if both["log"]:
        trim(both, rules)
    return both, to_tell


def merged_bases(one: Cart, other: Cart) -> Cart:
    """Of carts whose entries are forgotten. An order of either has closed both, unless a cart was used after it. What
    is left of two is as if put into one: the sum of the lines, the later of all times."""
    if one == other or other == NEW:
        return one
    if one == NEW:
        return other
    carts = sorted((one, other), key=lambda c: (c["opened_ms"], c["last_ms"], c["at_ms"]))
    latest = sorted(
        (*one["orders"], *other["orders"]),
        key=lambda o: (o["ms"], o["id"], o["back"], o["reversed"], o["value"], o["cur"] or "", o["by"] or ""),
    )
    orders = {o["id"]: o for o in latest}
    closed_ms = max((o["ms"] for o in orders.values()), default=0)
    used = [c for c in carts if c["state"] in ("open", "reopened", "abandoned") and c["last_ms"] > closed_ms]
    out = copied(used[0] if used else NEW)
    if not used:
        last = max(carts, key=lambda c: c["at_ms"])["state"]
        out["state"] = "converted" if last in ("open", "reopened", "abandoned") else last
    if len(used) == 2:
        for field in ("stage", "seq", "last_ms", "abandoned_ms", "told_ms"):
            out[field] = max(c[field] for c in used)
        if all(c["state"] == "abandoned" for c in used):
            out["state"] = "abandoned"
        else:
            out["state"] = "reopened" if out["seq"] else "open"
        out["items"] = items_after(out["items"], {"do": "add", "lines": used[1]["items"]})
        out["cur"] = used[1]["cur"] or used[0]["cur"]
        out["touch"] = max((c["touch"] for c in used if c["touch"]), key=lambda t: (t[1], t[0]), default=None)
    out["at_ms"], out["episode"] = max(c["at_ms"] for c in carts), max(c["episode"] for c in carts)
    out["orders"] = list(orders.values())[-50:]
    return out


# -- properties of events, of which nothing is trusted


DOES = {
    "Product Added": "add", "Product Removed": "remove", "Cart Viewed": "view", "Checkout Started": "checkout",
    "Checkout Step Viewed": "checkout", "Checkout Step Completed": "checkout", "Payment Info Entered": "payment",
    "Order Completed": "order", "Order Cancelled": "undo", "Order Refunded": "undo", "Email Link Clicked": "click",
    "Message Link Clicked": "click", "Push Notification Tapped": "click",
}  # fmt: skip


def entry(event: dict[str, Any]) -> Entry:
    """A record of profile-events as the cart sees it."""
    p = event.get("properties")
    p = p if isinstance(p, dict) else {}
    do = DOES[event["event"]]
    e: Entry = {
        "ms": event["timestampMs"], "id": event["messageId"], "do": do, "lines": None, "order": None, "value": None,
        "cur": None, "by": None,
    }  # fmt: skip
    if do == "click":
        e["by"] = campaign(p)
        return e
    if do == "undo":
        e["order"] = text(p.get("order_id"), 100)
        if event["event"] == "Order Refunded":
            e["value"] = number(p.get("total"), 1e12)
            if e["value"] is None:
                e["value"] = order_value(p)
            if e["value"] is None and products(p, 1):
                e["value"] = 0.0
        return e
    e["cur"] = currency(p)
    if do == "order":
        e["order"], e["value"] = text(p.get("order_id"), 100), order_value(p)
    elif do in ("add", "remove"):
        quantity = 1 if do == "add" else 0  # removed without a quantity: the whole line
        e["lines"] = products(p, quantity) or [line(p, number(p.get("quantity"), 1e6) or quantity)]
    else:
        e["lines"] = products(p, 1)
    return e


def campaign(p: dict[str, Any]) -> str | None:
    of = p.get("campaign")
    if isinstance(of, dict):
        of = of.get("id") or of.get("name")
    given = [p.get("campaign_id"), of, p.get("campaign_name"), p.get("template_id")]
    return next((t for g in given if (t := text(g, 100)) is not None), None)


def number(value: Any, most: float) -> float | None:
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        return None
    try:
        n = float(value)
    except ValueError:
        return None
    return n if 0 <= n <= most else None


def text(value: Any, most: int) -> str | None:
    if isinstance(value, str):
        return value.strip()[:most] or None
    if isinstance(value, int | float) and not isinstance(value, bool):
        return str(value)[:most]
    return None


def currency(p: dict[str, Any]) -> str | None:
    given = p.get("currency")
    if given is None and isinstance(p.get("products"), list) and p["products"] and isinstance(p["products"][0], dict):
        given = p["products"][0].get("currency")
    return given.upper() if isinstance(given, str) and len(given) == 3 and given.isascii() and given.isalpha() else None


def line(p: dict[str, Any], quantity: float) -> dict[str, Any]:
    names = (text(p.get(name), 100) for name in ("product_id", "sku", "name"))
    links = {ours: p.get(theirs) for ours, theirs in (("url", "url"), ("img", "image_url"))}
    return {
        "id": next((n for n in names if n), "unknown"), "qty": quantity, "price": number(p.get("price"), 1e12),
        "name": text(p.get("name"), 120),
        **{k: v if isinstance(v, str) and 0 < len(v) <= 500 else None for k, v in links.items()},
    }  # fmt: skip


def products(p: dict[str, Any], quantity: float) -> list[dict[str, Any]] | None:
    """`quantity`: of a line that does not say it. None: there is no list."""
    if not isinstance(p.get("products"), list):
        return None
    lines: list[dict[str, Any]] = []
    for item in p["products"]:
        if not isinstance(item, dict) or number(item.get("quantity"), 1e6) == 0:
            continue
        given = number(item.get("quantity"), 1e6)
        new = line(item, quantity if given is None else given)
        old = next((x for x in lines if x["id"] == new["id"]), None)
        if old is not None:
            new["qty"] = min(old["qty"] + new["qty"], 1e6) if old["qty"] and new["qty"] else quantity
            lines[lines.index(old)] = new
        elif len(lines) < 100:
            lines.append(new)
    return lines


def value_of(lines: list[dict[str, Any]]) -> float:
    return float(round(sum(x["price"] * x["qty"] for x in lines if x["price"] is not None), 4))


def order_value(p: dict[str, Any]) -> float | None:
    for name in ("revenue", "total", "value"):
        if (n := number(p.get(name), 1e12)) is not None:
            return n
    lines = products(p, 1)
    return value_of(lines) if lines and all(x["price"] is not None for x in lines) else None
