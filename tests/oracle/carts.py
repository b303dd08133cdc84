"""The carts of one profile, written from domain.md section 5 and nothing else: slow and plain.

The whole log is folded again for every event. A cart is a dictionary that is changed in place; what is said of it keeps
a copy. Beside the table of 5.3:

- times in ms; the order of entries is (time, messageId); a timer goes before an entry of the same time
- an entry is about the cart of its cart_id, else of the checkout_id or order_id that came with one before, else about
  the cart without an id; a checkout or payment under new ids goes on with the cart used last. What only tells of a
  cart (coupon, payment failed, survey) and names none is about that one, too
- an order closes the cart that it names and all others in use, and is for the named one, else for the one used last
- the log: the last 48 h before its newest entry, at most 200 entries and 400 product lines; what falls out is folded
  into `base` for good. An entry from before the base: an order counts at the base's time (it closes nothing that was
  opened after it), a cancellation or refund is applied there, anything else is ignored
- an abandonment and a recovery keep the id that they were told under: (messageId that opened the episode, number),
  found again by cart and overlapping episodes, of a recovery by its order, too. What is to be heard looks first, for
  what was heard, at the same time if there is one: nobody hears twice of what a late entry has moved
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

from tests.oracle.shop import Entry

Cart = dict[str, Any]
Carts = dict[str, Any]
"""at_ms, carts (sorted by key), orders, links."""
Said = dict[str, Any]

HOUR_MS = 3_600_000
MOST_ENTRIES = 200
NEW: Cart = {
    "key": "", "state": "none", "at_ms": 0, "episode": 0, "stage": 0, "seq": 0, "opened_ms": 0, "opened_by": "",
    "last_ms": 0, "abandoned_ms": 0, "told_ms": 0, "items": [], "cur": None, "touch": None, "checkout": None,
    "link": None, "denied": False, "shipping": False, "failed": False, "answer": None,
    "brought": None, "left": [],
}  # fmt: skip
NONE: Carts = {"at_ms": 0, "carts": [], "orders": [], "links": {}}
IN_USE = ("open", "reopened", "abandoned")
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
    return {**cart, "items": [dict(x) for x in cart["items"]]}


def all_copied(carts: Carts) -> Carts:
    return {
        "at_ms": carts["at_ms"], "carts": [copied(c) for c in carts["carts"]],
        "orders": [dict(o) for o in carts["orders"]], "links": dict(carts["links"]),
    }  # fmt: skip


# -- one entry, one timer


def due_of(cart: Cart, rules: Rules) -> int | None:
    if cart["state"] in ("open", "reopened"):
        return int(cart["last_ms"]) + rules.idle_ms[cart["stage"]]
    if cart["state"] == "abandoned":
        return int(cart["abandoned_ms"]) + rules.lost_ms
    return None


def due_ms(carts: Carts, rules: Rules) -> int | None:
    return min((due for c in carts["carts"] if (due := due_of(c, rules)) is not None), default=None)


def run_timers(carts: Carts, until_ms: int, rules: Rules, said: list[Said]) -> None:
    while (due := due_ms(carts, rules)) is not None and due <= until_ms:
        cart = next(c for c in carts["carts"] if due_of(c, rules) == due)
        carts["at_ms"] = max(carts["at_ms"], due)
        if cart["state"] == "abandoned":
            said.append({"what": "lost", "at_ms": due, "cart": copied(cart)})
            end(cart, "lost", due)
            continue
        quiet = cart["seq"] > 0 and due - cart["told_ms"] < rules.repeat_ms
        cart["state"] = "abandoned"
        if cart["seq"] == 0:
            cart["left"] = list(dict.fromkeys(x["id"] for x in cart["items"]))[:20]
        cart["seq"] += 1
        cart["at_ms"] = cart["abandoned_ms"] = due
        if not quiet:
            cart["told_ms"] = due
        said.append({"what": "abandoned", "at_ms": due, "cart": copied(cart), "quiet": quiet})


def end(cart: Cart, state: str, ms: int) -> None:
    """The episode is over: what belonged to it goes; a lost one may still be bought, so its beginning stays."""
    kept = {name: cart[name] for name in ("key", "episode")}
    if state == "lost":
        kept |= {name: cart[name] for name in ("opened_ms", "opened_by", "brought", "left")}
    at_ms = max(ms, cart["at_ms"])
    cart.clear()
    cart.update({**copied(NEW), **kept, "state": state, "at_ms": at_ms})


def recent(cart: Cart) -> tuple[bool, int, str]:
    used = cart["state"] in IN_USE
    return used, cart["last_ms"] if used else cart["at_ms"], cart["key"]


def latest(carts: Carts) -> Cart:
    return max(carts["carts"], key=recent, default=NEW)


def find(carts: Carts, key: str) -> Cart:
    """The cart, which need not be there yet."""
    return next((c for c in carts["carts"] if c["key"] == key), {**copied(NEW), "key": key})


def keep(carts: Carts, cart: Cart) -> None:
    if cart not in carts["carts"]:
        others = [c for c in carts["carts"] if c["key"] != cart["key"]]
        if len(others) >= 8:
            others.remove(min(others, key=recent))
        carts["carts"] = sorted([*others, cart], key=lambda c: str(c["key"]))


def named(carts: Carts, e: Entry) -> str | None:
    if e["cart"] is not None:
        return str(e["cart"])
    for kind in ("checkout", "order"):
        if e[kind] is not None and (key := carts["links"].get(f"{kind} {e[kind]}")) is not None:
            return str(key)
    return None


def apply(carts: Carts, e: Entry, rules: Rules, said: list[Said]) -> None:
    run_timers(carts, e["ms"], rules, said)
    carts["at_ms"] = max(carts["at_ms"], e["ms"])
    if e["do"] == "order":
        apply_order(carts, e, rules, said)
    elif e["do"] == "undo":
        apply_undo(carts, e, rules, said)
    elif e["do"] == "click":
        for cart in carts["carts"]:
            if cart["state"] in ("abandoned", "reopened") and e["ms"] >= cart["abandoned_ms"]:
                cart["touch"] = [e["by"] or "unknown", e["ms"]]
    elif e["do"] == "visit":
        for cart in carts["carts"]:
            known = cart["touch"] is not None and e["ms"] - cart["touch"][1] <= 1_800_000
            if cart["state"] in ("abandoned", "reopened") and e["ms"] >= cart["abandoned_ms"] and not known:
                cart["touch"] = [e["by"], e["ms"]]
    elif e["do"] in ("coupon", "failed", "answer"):
        apply_telling(carts, e, said)
    else:
        apply_shopping(carts, e, said)


def reason(cart: Cart) -> str:
    if cart["answer"] is not None:
        return str(cart["answer"])
    return next((r for r, true in (
        ("coupon", cart["denied"]), ("shipping", cart["shipping"]), ("payment", cart["failed"]),
    ) if true), "unknown")  # fmt: skip


def apply_telling(carts: Carts, e: Entry, said: list[Said]) -> None:
    key = named(carts, e)
    cart = latest(carts) if key is None else find(carts, key)
    if cart["state"] not in IN_USE:
        return
    was = reason(cart)
    if e["do"] == "answer":
        cart["answer"] = e["by"]
    else:
        cart[{"coupon": "denied", "failed": "failed"}[e["do"]]] = True
    if e["do"] == "answer" and cart["seq"] and reason(cart) != was:
        said.append({"what": "answered", "at_ms": e["ms"], "cart": copied(cart), "was": was})


def apply_shopping(carts: Carts, e: Entry, said: list[Said]) -> None:
    stage = {"checkout": 1, "payment": 2}.get(e["do"], 0)
    key = named(carts, e)
    if key is None:
        key = latest(carts)["key"] if stage and latest(carts)["state"] in IN_USE else ""
    cart = find(carts, key)
    active = cart["state"] in IN_USE
    cur = cart["cur"]
    if e["cur"] is not None and (cur is None or (e["lines"] is not None and e["do"] != "remove")):
        cur = e["cur"]
    items = items_after(priced(cart["items"], cart["cur"], cur), e)
    empties = not items and (e["do"] == "remove" or (e["do"] == "view" and e["lines"] is not None))
    if empties:
        if active:
            said.append({"what": "emptied", "at_ms": e["ms"], "cart": copied(cart)})
            end(cart, "empty", e["ms"])
        return
    if not active and (e["do"] == "remove" or (e["do"] == "view" and not items)):
        return
    if not active and stage:
        bought = cart["state"] == "converted" and cart["at_ms"] == e["ms"]
        if bought or (e["order"] is not None and e["order"] in [order["id"] for order in carts["orders"]]):
            return
    if active:
        before = (cart["stage"], cart["state"])
        if cart["state"] == "abandoned":
            cart["state"] = "reopened"
        cart["at_ms"] = max(cart["at_ms"], e["ms"])
        cart["stage"] = max(cart["stage"], stage)
        cart["last_ms"] = max(cart["last_ms"], e["ms"])
        cart["items"], cart["cur"] = items, cur
        for field in ("checkout", "link"):
            cart[field] = e[field] or cart[field]
        if stage:
            cart["shipping"] = e["by"] == "shipping"
        if cart["seq"] and before[0] == 0 < stage:
            said.append({"what": "checkout_reached", "at_ms": e["ms"], "cart": copied(cart)})
        if before[1] == "abandoned":
            said.append({"what": "reopened", "at_ms": e["ms"], "cart": copied(cart)})
    else:
        episode = cart["episode"] + 1
        cart.update(copied(NEW))
        cart.update(
            key=key, state="open", at_ms=e["ms"], episode=episode, stage=stage, opened_ms=e["ms"], opened_by=e["id"],
            last_ms=e["ms"], items=items, cur=e["cur"], checkout=e["checkout"], link=e["link"],
            shipping=bool(stage) and e["by"] == "shipping", brought=e.get("brought"),
        )  # fmt: skip
        said.append({"what": "opened", "at_ms": e["ms"], "cart": copied(cart)})
    keep(carts, cart)
    for kind in ("checkout", "order"):
        if e[kind] is not None and carts["links"].get(f"{kind} {e[kind]}") != key:
            carts["links"].pop(f"{kind} {e[kind]}", None)
            carts["links"][f"{kind} {e[kind]}"] = key
    carts["links"] = dict(list(carts["links"].items())[-16:])


def items_after(items: list[dict[str, Any]], e: Entry) -> list[dict[str, Any]]:
    """Lines have id, qty and, where given, price, name, url, img, sku, variant, cur."""
    if e["lines"] is None:
        return items
    if e["do"] == "view":
        return list(e["lines"])
    if e["do"] in ("checkout", "payment"):
        return list(e["lines"]) or items
    after = [dict(line) for line in items]
    for line in e["lines"]:
        olds = [i for i in after if are_same(i, line)]
        most = max((agreed(i, line) for i in olds), default=0)
        olds = [i for i in olds if agreed(i, line) == most]
        if e["do"] == "add" and not olds:
            if len(after) < 100:
                after.append(dict(line))
        elif e["do"] == "add":
            old = olds[0]
            old["qty"] = min(old["qty"] + line["qty"], 1e6)
            if line["price"] is not None:
                old["price"], old["cur"] = line["price"], line["cur"]
            for field in ("name", "url", "img", "sku", "variant"):
                old[field] = line[field] or old[field]
        else:  # remove
            of_product = [i for i in after if i["id"] == line["id"]]
            less = line["qty"] or 1e9
            for old in olds or (of_product if len(of_product) == 1 else []):
                taken = min(less, old["qty"])
                old["qty"] -= taken
                less -= taken
            after = [i for i in after if i["qty"]]
    return after


def are_same(a: dict[str, Any], b: dict[str, Any]) -> bool:
    differ = (a[f] is not None and b[f] is not None and a[f] != b[f] for f in ("sku", "variant"))
    return a["id"] == b["id"] and not any(differ)


def agreed(a: dict[str, Any], b: dict[str, Any]) -> int:
    return sum(a[f] is not None and a[f] == b[f] for f in ("sku", "variant"))


def priced(items: list[dict[str, Any]], before: str | None, cur: str | None) -> list[dict[str, Any]]:
    """The lines of a cart in `before`, as those of one in `cur`."""
    if before is None or cur is None:
        return items
    own = [(i["cur"] or before) for i in items]
    return [{**i, "cur": None if c == cur else c} for i, c in zip(items, own, strict=True)]


def apply_order(carts: Carts, e: Entry, rules: Rules, said: list[Said]) -> None:
    id = e["order"] or f"message:{e['id']}"
    if any(o["id"] == id for o in carts["orders"]):
        return
    since = e.get("since_ms")
    used = [c for c in carts["carts"] if c["state"] in IN_USE and (since is None or c["opened_ms"] <= since)]
    lost = [c for c in carts["carts"] if c["state"] == "lost"]
    key = named(carts, e)
    its = None if key is None else find(carts, key)
    closes = True
    if its is not None and (its in used or its["state"] == "lost"):
        first = its
    elif used:
        first = max(used, key=recent)
    elif since is not None and any(c["state"] in IN_USE for c in carts["carts"]):
        first, closes = latest(carts), False
    elif its is not None:
        first = its
    else:
        first = max(lost, key=recent) if lost else find(carts, "")
    closed = [first, *(c for c in used if c is not first)] if closes else []
    order = {
        "id": id, "ms": e["ms"], "value": e["value"] or 0.0, "cur": e["cur"] or first["cur"], "by": None, "back": 0.0,
        "reversed": False, "gain": 0.0, "opened_ms": [], "brought": [], "left": [],
    }  # fmt: skip
    by = {}
    for cart in closed:
        if cart["state"] in ("abandoned", "reopened"):
            touch = cart["touch"]
            by[cart["key"]] = touch[0] if touch is not None and e["ms"] - touch[1] <= rules.click_ms else "organic"
            order["opened_ms"].append(cart["opened_ms"])
            order["brought"].append(cart["brought"])
            order["left"].append(cart["left"])
    if not any(order["left"]):
        order["left"] = []
    if not any(order["brought"]):
        order["brought"] = []
    if by:
        order["by"] = next(iter(by.values()))
        order["gain"] = order["value"] if first["key"] in by else 0.0
    carts["orders"] = [*carts["orders"], order][-50:]
    what = {"open": "converted", "abandoned": "recovered", "reopened": "recovered", "lost": "converted_late"}
    for cart in closed:
        part = order if cart is first else {**order, "by": by.get(cart["key"]), "gain": 0.0}
        kind = what.get(cart["state"], "without_cart")
        said.append({"what": kind, "at_ms": e["ms"], "cart": copied(cart), "order": dict(part)})
        keep(carts, cart)
        end(cart, "converted", e["ms"])


def apply_undo(carts: Carts, e: Entry, rules: Rules, said: list[Said]) -> None:
    order = next((o for o in carts["orders"] if o["id"] == e["order"]), None)
    if order is None:
        return
    order["back"] = order["value"] if e["value"] is None else min(order["value"], order["back"] + e["value"])
    full = e["value"] is None or order["back"] >= order["value"]
    if full and order["by"] is not None and not order["reversed"] and e["ms"] - order["ms"] <= rules.lost_ms:
        order["reversed"] = True
        said.append({"what": "recovery_reversed", "at_ms": e["ms"], "cart": NEW, "order": dict(order)})


def fold(base: Carts, log: list[Entry], until_ms: int, rules: Rules) -> tuple[Carts, list[Said]]:
    """The definition of the carts: their log in order, then the timers due <= until_ms."""
    carts, said = all_copied(base), list[Said]()
    for e in sorted(log, key=place):
        apply(carts, e, rules, said)
    run_timers(carts, until_ms, rules, said)
    return carts, said


def place(e: Entry) -> tuple[int, str]:
    return e["ms"], e["id"]


# -- the log, and what was told


def new_log() -> dict[str, Any]:
    return {"carts": all_copied(NONE), "base": all_copied(NONE), "log": [], "fired_ms": 0, "told": [], "minted": {}}


def take(state: dict[str, Any], e: Entry, received_ms: int, rules: Rules) -> list[Said]:
    """An entry comes. What is to be told: abandonments and recoveries (with `by` and `n`; also the quiet ones),
    retractions, and what is to be counted."""
    if any(e["id"] == old["id"] for old in state["log"]):
        return []
    base = state["base"]
    if e["ms"] < base["at_ms"]:
        if e["do"] not in ("order", "undo"):
            return []
        e = {**e, "since_ms": e["ms"] if e["do"] == "order" else None, "ms": base["at_ms"]}
    late = e["ms"] < state["carts"]["at_ms"] or any(place(e) < place(old) for old in state["log"])
    _, before = fold(base, state["log"], state["fired_ms"], rules)
    state["log"] = sorted([*state["log"], e], key=place)
    to_tell = compare(state, received_ms, rules, late, before)
    trim(state, rules)
    return to_tell


def fire(state: dict[str, Any], now_ms: int, rules: Rules) -> list[Said]:
    """The timers due <= now_ms fire."""
    _, before = fold(state["base"], state["log"], state["fired_ms"], rules)
    state["fired_ms"] = max(state["fired_ms"], now_ms)
    return compare(state, now_ms, rules, False, before)


def compare(
    state: dict[str, Any], known_ms: int, rules: Rules, late: bool, before: Sequence[Said], earlier: Sequence[Said] = ()
) -> list[Said]:
    """Fold again, and compare what is true now with what was told. Not late: all that was true stays true, and what was
    told of it stays its own. `before`: what was true until now; `earlier`: is true, too, though the base has it
    already."""
    carts, said = fold(state["base"], state["log"], state["fired_ms"], rules)
    said = [*earlier, *said]
    state["carts"] = carts
    told, now, to_tell = state["told"], list[Any](), list[Said]()
    found = dict[int, Any]()
    given_back = {x["order"]["id"] for x in said if x["what"] == "recovery_reversed"}
    sure = {i for i, t in enumerate(told) if not t["unsure"] and in_base(t, state["base"])}
    sure -= {i for i in sure if told[i].get("meets")}  # of a merge: the base that they were told since was older
    sure -= {i for i in sure if told[i]["order"] in given_back}
    again = told_again(told, sure, said, late)
    for n, x in enumerate(said):
        if x["what"] == "abandoned":
            order, quiet = None, x["quiet"]
        elif x["what"] == "recovered" and x["order"]["id"] not in given_back:
            order, quiet = x["order"]["id"], False
        else:
            continue
        c = x["cart"]
        place_ = {"opened_ms": c["opened_ms"], "at_ms": x["at_ms"]}
        if order is None:
            best = again.get(n)
        else:
            same = [
                i for i, t in enumerate(told)
                if i not in found and i not in sure and t["key"] == c["key"] and t["order"] == order
                and t["opened_ms"] <= x["at_ms"] and c["opened_ms"] <= t["at_ms"]
                and (late or t["unsure"] or is_at(t, x))
            ]  # fmt: skip
            own = [i for i in same if not late and not told[i]["unsure"]]
            best = next(iter(own or same), None)
        if best is not None:
            found[best] = {**told[best], **place_}
            continue
        by = c["opened_by"]
        mint = by if order is None else f"recovered {by}"
        k = max(c["seq"] if order is None else 1, state["minted"].get(mint, 0) + 1)
        state["minted"][mint] = k
        now.append({"by": by, "n": k, **place_, "quiet": quiet, "unsure": False, "key": c["key"], "order": order})
        to_tell.append({**x, "by": by, "n": k})
    kept, gone = [], []
    for i, t in enumerate(told):
        if i in found:
            kept.append({**found[i], "unsure": False})
        elif i in sure:
            kept.append(t)
        elif not late and not t["unsure"] and t["order"] not in given_back:
            raise AssertionError(f"an entry in order has undone {t}")
        elif t["order"] is None and will_come(t, carts, known_ms, rules):
            kept.append({**t, "unsure": True})
        else:
            gone.append(t)
    state["told"] = [{k: v for k, v in t.items() if k != "meets"} for t in kept + now]
    while len(state["minted"]) > 32:
        del state["minted"][next(iter(state["minted"]))]
    backs = [
        {"what": "retracted", "reason": "reversed" if t["order"] in given_back else "late", **t}
        for t in gone if not t["quiet"]
    ]  # fmt: skip
    return backs + to_tell + [{"what": "counted", "counts": counts(said, 1) + counts(before, -1)}]


def told_again(told: Sequence[Any], sure: set[int], said: Sequence[Said], late: bool) -> dict[int, int]:
    """Of each abandonment in `said` (by its place) the one of `told` that it is: those heard first, at the same time
    before those of the same episode; then quiet ones for quiet ones, then for what was heard."""
    xs = {n: x for n, x in enumerate(said) if x["what"] == "abandoned"}
    of_episode = {n: max(y["at_ms"] for y in xs.values() if episode(y) == episode(x)) for n, x in xs.items()}
    left = {i: t for i, t in enumerate(told) if i not in sure and t["order"] is None}
    found: dict[int, int] = {}

    def take(n: int, may: Callable[[dict[str, Any]], bool]) -> None:
        i = next((i for i, t in left.items() if t["key"] == xs[n]["cart"]["key"] and may(t)), None)
        if n not in found and i is not None:
            found[n] = i
            del left[i]

    def is_of(t: dict[str, Any], x: Said, was: bool, end_ms: int | None) -> bool:
        if t["quiet"] != was or not (late or t["unsure"]):
            return False
        if end_ms is None:
            return bool(t["at_ms"] == x["at_ms"])
        return bool(t["opened_ms"] <= end_ms and x["cart"]["opened_ms"] <= t["at_ms"])

    if not late:  # nothing has changed about those
        for n, x in xs.items():
            take(n, partial(is_sure, x=x))
    for quiet, was in ((False, False), (True, True), (True, False)):
        for exactly in (True, False):
            for n, x in xs.items():
                if x["quiet"] == quiet:
                    take(n, partial(is_of, x=x, was=was, end_ms=None if exactly else of_episode[n]))
    return found


def episode(x: Said) -> tuple[str, str]:
    return x["cart"]["key"], x["cart"]["opened_by"]


def is_sure(t: dict[str, Any], x: Said) -> bool:
    return not t["unsure"] and is_at(t, x)


def is_at(t: dict[str, Any], x: Said) -> bool:
    return (t["opened_ms"], t["at_ms"]) == (x["cart"]["opened_ms"], x["at_ms"])


def counts(said: Sequence[Said], sign: int) -> list[tuple[str, int, int]]:
    """(field, n, when the cart was opened) of all that was said."""
    out: list[tuple[str, int, int]] = []
    for x in said:
        c, what = x["cart"], x["what"]
        ms: int = c["opened_ms"]
        order: Any = x.get("order")
        fields: list[tuple[str, int]] = []
        if what in ("opened", "lost", "converted_late", "converted") or (what == "emptied" and not c["seq"]):
            fields.append((f"cart|{what}", 1))
        if what == "converted" and c["stage"]:
            fields.append(("cart|converted_checkout", 1))
        if what == "abandoned" and c["seq"] == 1:
            fields += [("cart|abandoned", 1), (f"cart_reason|{reason(c)}", 1)]
            fields += [("cart|abandoned_checkout", 1)] if c["stage"] else []
        if what == "checkout_reached":
            fields.append(("cart|abandoned_checkout", 1))
        if what == "answered":
            fields += [(f"cart_reason|{x['was']}", -1), (f"cart_reason|{reason(c)}", 1)]
        if what == "recovered":
            fields.append(("cart|recovered", 1))
        if what == "recovery_reversed":
            out += [("cart|recovered", -sign, opened) for opened in order["opened_ms"]]
            ms = order["opened_ms"][0]
        if what in ("recovered", "recovery_reversed") and order["gain"]:
            digits = {"VND": 1, "JPY": 1}.get(order["cur"] or "", 100)
            n = round(order["gain"] * digits) * (1 if what == "recovered" else -1)
            fields.append((f"cart_revenue|{order['cur'] or ''}|{order['by']}", n))
        out += [(field, sign * n, ms) for field, n in fields]
    return out


def will_come(told: dict[str, Any], carts: Carts, known_ms: int, rules: Rules) -> bool:
    """The clock, once it is where the last entry was received, will find it true after all."""
    cart = find(carts, told["key"])
    if cart["state"] not in ("open", "reopened"):
        return False
    due = due_of(cart, rules)
    return due is not None and due <= known_ms and bool(cart["opened_ms"] <= told["at_ms"])


def in_base(told: dict[str, Any], base: Carts) -> bool:
    """At the base's time its timers have fired; of the orders of that time some are still in the log."""
    if told["order"] is not None and told["at_ms"] == base["at_ms"]:
        return told["order"] in [o["id"] for o in base["orders"]]
    return bool(told["at_ms"] <= base["at_ms"])


def since(told: list[dict[str, Any]], base: Carts, rules: Rules) -> list[dict[str, Any]]:
    """What may have to be taken back: all since the base, and of what is older the recoveries that may be undone."""
    kept = [t for t in told if t["unsure"] or not in_base(t, base)]
    old = [t for t in told if t not in kept and t["order"] is not None and base["at_ms"] - rules.lost_ms <= t["at_ms"]]
    return sorted(old, key=lambda t: int(t["at_ms"]))[-16:] + kept


def trim(state: dict[str, Any], rules: Rules) -> None:
    log, oldest, trimmed = state["log"], state["log"][-1]["ms"] - 48 * HOUR_MS, False
    while len(log) > 1 and (
        len(log) > MOST_ENTRIES or sum(len(e["lines"] or ()) for e in log) > 400 or log[0]["ms"] < oldest
    ):
        apply(state["base"], log.pop(0), rules, [])
        trimmed = True
    if not trimmed:
        return
    state["told"] = since(state["told"], state["base"], rules)
    live = {c["opened_by"] for c in state["base"]["carts"]}
    live |= {t["by"] for t in state["told"]} | {e["id"] for e in state["log"]}
    live |= {f"recovered {by}" for by in live}
    state["minted"] = {by: n for by, n in state["minted"].items() if by in live}
