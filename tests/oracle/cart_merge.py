"""The carts of two profiles that turn out to be one person, by domain.md section 5 like tests/oracle/carts.py."""

from __future__ import annotations

from typing import Any

from tests.oracle.carts import (
    IN_USE,
    NEW,
    NONE,
    Cart,
    Carts,
    Rules,
    Said,
    all_copied,
    apply,
    compare,
    copied,
    counts,
    fold,
    in_base,
    items_after,
    place,
    priced,
    recent,
    run_timers,
    since,
    trim,
)
from tests.oracle.shop import Entry


def merged(one: dict[str, Any], other: dict[str, Any], rules: Rules) -> tuple[dict[str, Any], list[Said]]:
    """The state of both logs as one, and what is to be told. What fell out of either log is a base; the bases meet at
    the time of the later one, up to which the other's log and timers are folded into its base."""
    base_ms = max(one["base"]["at_ms"], other["base"]["at_ms"])
    bases, entries, told, minted = [], dict[str, Entry](), dict[Any, Any](), dict[str, int]()
    earlier, before = list[Said](), list[Said]()
    for state in (other, one):
        before += fold(state["base"], state["log"], state["fired_ms"], rules)[1]
        base = all_copied(state["base"])
        for e in state["log"]:
            if e["ms"] < base_ms:
                apply(base, e, rules, earlier)
            else:
                entries[e["id"]] = e
        run_timers(base, base_ms, rules, earlier)
        bases.append(base)
        for t in state["told"]:
            meets = t["unsure"] or not in_base(t, state["base"])
            told[t["by"], t["n"], t["order"]] = {**t, "meets": True} if meets else t
        for by, n in state["minted"].items():
            minted[by] = max(n, minted.get(by, 0))
    more_counts = shared_recoveries(bases[0], bases[1], base_ms, earlier)
    both = {
        "base": merged_bases(*bases), "log": sorted(entries.values(), key=place),
        "fired_ms": max(one["fired_ms"], other["fired_ms"]),
        "told": sorted(told.values(), key=lambda t: (t["opened_ms"], t["by"], t["n"], t["order"] or "")),
        "minted": dict(sorted(minted.items())),
    }  # fmt: skip
    earlier.sort(
        key=lambda x: (x["at_ms"], x["cart"]["opened_ms"], x["cart"]["opened_by"], x["cart"]["key"], x["what"])
    )
    to_tell = compare(both, both["fired_ms"], rules, True, before, earlier)
    to_tell[-1]["counts"] += more_counts
    both["told"] = since(both["told"], both["base"], rules)
    if both["log"]:
        trim(both, rules)
    return both, to_tell


def merged_bases(one: Carts, other: Carts) -> Carts:
    """Of carts whose entries are forgotten. An order of either has closed all, unless a cart was used after it. What is
    left of a cart in both is as if put into one: the sum of the lines, the later of all times."""
    if one == other or other == NONE:
        return one
    if one == NONE:
        return other
    by_time = sorted(
        (*one["orders"], *other["orders"]),
        key=lambda o: (o["ms"], o["id"], o["back"], o["reversed"], o["value"], o["cur"] or "", o["by"] or ""),
    )
    orders: dict[str, dict[str, Any]] = {}
    for o in by_time:
        first = orders.setdefault(o["id"], dict(o))
        if first != o:
            first["back"] = min(first["value"], first["back"] + o["back"])
            first["reversed"] |= o["reversed"]
            if first["by"] is None:
                first |= {what: o[what] for what in RECOVERY}
            elif o["by"] is not None:
                main, more = (first, o) if first["gain"] or not o["gain"] else (o, first)
                new = [c for c in recovered_carts(more) if c not in recovered_carts(main)]
                every = [*recovered_carts(main), *new]
                columns = {what: [c[i] for c in every] for i, what in enumerate(("opened_ms", "brought", "left"))}
                first |= {"by": main["by"], "gain": main["gain"]}
                first |= {k: v if k == "opened_ms" or any(v) else [] for k, v in columns.items()}
    closed_ms = max((o["ms"] for o in orders.values()), default=0)
    keys = {c["key"] for c in (*one["carts"], *other["carts"])}
    carts = [merged_cart([c for c in (*one["carts"], *other["carts"]) if c["key"] == k], closed_ms) for k in keys]
    return {
        "at_ms": max(one["at_ms"], other["at_ms"]),
        "carts": sorted(sorted(carts, key=recent)[-8:], key=lambda c: str(c["key"])),
        "orders": list(orders.values())[-50:],
        "links": dict(sorted({*one["links"].items(), *other["links"].items()})[-16:]),
    }


RECOVERY = ("by", "gain", "opened_ms", "brought", "left")


def recovered_carts(o: dict[str, Any]) -> list[Any]:
    n = len(o["opened_ms"])
    return list(zip(o["opened_ms"], o["brought"] or [None] * n, o["left"] or [[]] * n, strict=True))


def shared_recoveries(one: Carts, other: Carts, at_ms: int, said: list[Said]) -> list[tuple[str, int, int]]:
    """Of orders that recovered carts of both: what was cancelled for one is for the other; else the value is once."""
    out: list[tuple[str, int, int]] = []
    for a in one["orders"]:
        for b in other["orders"]:
            if a["id"] != b["id"] or not a["by"] or not b["by"] or recovered_carts(a) == recovered_carts(b):
                continue
            if a["reversed"] != b["reversed"]:
                order = {**(b if a["reversed"] else a), "reversed": True}
                said.append({"what": "recovery_reversed", "at_ms": at_ms, "cart": NEW, "order": order})
            elif not a["reversed"] and a["gain"] and b["gain"]:
                later = max(a, b, key=lambda o: (o["ms"], o["value"], o["cur"] or "", o["by"]))
                gained = {"what": "recovered", "at_ms": at_ms, "cart": {**NEW, "opened_ms": later["opened_ms"][0]}}
                out += [c for c in counts([{**gained, "order": later}], -1) if c[0].startswith("cart_revenue")]
    return out


def merged_cart(carts: list[Cart], closed_ms: int) -> Cart:
    carts = sorted(carts, key=lambda c: (c["opened_ms"], c["last_ms"], c["at_ms"]))
    used = [c for c in carts if c["state"] in IN_USE and c["last_ms"] > closed_ms]
    ends = {"at_ms": max(c["at_ms"] for c in carts), "episode": max(c["episode"] for c in carts)}
    if not used:
        last = max(carts, key=lambda c: c["at_ms"])
        if last["state"] in IN_USE:
            return {**copied(NEW), "key": last["key"], "state": "converted", **ends}
        return {**copied(last), **ends}
    out = copied(used[0])
    if len(used) == 2 and used[0] != used[1]:
        for field in ("stage", "seq", "last_ms", "abandoned_ms", "told_ms"):
            out[field] = max(c[field] for c in used)
        if all(c["state"] == "abandoned" for c in used):
            out["state"] = "abandoned"
        else:
            out["state"] = "reopened" if out["seq"] else "open"
        items = priced(out["items"], out["cur"], used[1]["cur"] or out["cur"])
        out["items"] = items_after(items, {"do": "add", "lines": used[1]["items"]})
        for field in ("cur", "checkout", "link", "answer"):
            out[field] = used[1][field] or used[0][field]
        out["touch"] = max((c["touch"] for c in used if c["touch"]), key=lambda t: (t[1], t[0]), default=None)
        out["denied"], out["failed"] = (any(c[f] for c in used) for f in ("denied", "failed"))
        out["shipping"] = used[1]["shipping"]
        out["left"] = list(dict.fromkeys([*used[0]["left"], *used[1]["left"]]))[:20]
    return {**out, **ends}
