"""What events say of carts, orders and messages; nothing in their properties is trusted."""

from __future__ import annotations

from typing import Any

from tracker.contract.ids import usable

Entry = dict[str, Any]


DOES = {
    "Product Added": "add", "Product Removed": "remove", "Cart Viewed": "view", "Checkout Started": "checkout",
    "Checkout Step Viewed": "checkout", "Checkout Step Completed": "checkout", "Payment Info Entered": "payment",
    "Order Completed": "order", "Order Cancelled": "undo", "Order Refunded": "undo", "Email Link Clicked": "click",
    "Message Link Clicked": "click", "Push Notification Tapped": "click", "Coupon Denied": "coupon",
    "Payment Failed": "failed", "Survey Response Received": "answer",
}  # fmt: skip


def entry(event: dict[str, Any]) -> Entry | None:
    """A record of profile-events as the carts see it; None: it tells nothing of them."""
    p = event.get("properties")
    p = p if isinstance(p, dict) else {}
    do = DOES[event["event"]] if event["type"] == "track" else "visit"
    e: Entry = {
        "ms": event["timestampMs"], "id": event["messageId"], "do": do, "lines": None, "order": None, "value": None,
        "cur": None, "by": None, "cart": None, "checkout": None, "link": None, "since_ms": None, "brought": None,
    }  # fmt: skip
    if do == "visit":
        if event.get("traffic") not in ("email", "sms", "zalo", "viber", "webpush") or event.get("bot"):
            return None
        e["by"] = brought_by(event, 100)
        return e if e["by"] else None
    if do == "click":
        e["by"] = campaign(p)
        return e
    e["order"] = None if do in ("add", "remove") else id_of(p, "order_id")
    if do == "undo":
        if event["event"] == "Order Refunded":
            e["value"] = number(p.get("total"), 1e12)
            if e["value"] is None:
                e["value"] = order_value(p)
            if e["value"] is None and products(p, 1):
                e["value"] = 0.0
        return e
    e["cart"], e["checkout"] = id_of(p, "cart_id"), id_of(p, "checkout_id")
    if do == "answer":
        e["by"] = (text(p.get("reason"), 40) or "").lower()
        mark = isinstance(p.get("type"), str) and p["type"].strip().lower() in ("nps", "csat", "ces")
        if mark and not (e["order"] or e["cart"] or e["checkout"]):
            return None
        return e if e["by"] else None
    if do in ("coupon", "failed"):
        return e
    e["cur"] = currency(p)
    if do == "order":
        e["value"] = order_value(p)
        return e
    e["link"] = next((u for n in ("checkout_url", "cart_url") if (u := address(p.get(n)))), None)
    if do in ("add", "remove"):
        quantity = 1 if do == "add" else 0  # removed without a quantity: the whole line
        e["lines"] = products(p, quantity) or [line(p, number(p.get("quantity"), 1e6) or quantity)]
    else:
        e["lines"] = products(p, 1)
    e["brought"] = brought_by(event, 120)
    if event["event"] in ("Checkout Step Viewed", "Checkout Step Completed"):
        words = [p.get(n) for n in ("step", "step_name", "name")]
        says = any(isinstance(w, str) and "shipping" in w.lower() for w in words)
        if says or text(p.get("shipping_method"), 100) or (number(p.get("shipping"), 1e12) or 0) > 0:
            e["by"] = "shipping"
    return e


def address(value: Any) -> str | None:
    return value if isinstance(value, str) and 0 < len(value) <= 500 else None


def campaign(p: dict[str, Any]) -> str | None:
    of = p.get("campaign")
    if isinstance(of, dict):
        of = of.get("id") or of.get("name")
    given = [p.get("campaign_id"), of, p.get("campaign_name"), p.get("template_id")]
    return next((t for g in given if (t := text(g, 100)) is not None), None)


def brought_by(event: dict[str, Any], most: int) -> str | None:
    """What brought the visit that it is of."""
    of = event.get("campaign")
    given = (text(of.get(n), most) for n in ("name", "id", "source")) if isinstance(of, dict) else ()
    return next((t for t in given if t is not None), None)


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
        whole = isinstance(value, float) and value == int(value) and abs(value) < 2**53
        return str(int(value) if whole else value)[:most]
    return None


def id_of(p: dict[str, Any], name: str) -> str | None:
    """What is sent for all orders is none."""
    return usable(text(p.get(name), 100))


def currency(p: dict[str, Any]) -> str | None:
    given = p.get("currency")
    if given is None and isinstance(p.get("products"), list) and p["products"] and isinstance(p["products"][0], dict):
        given = p["products"][0].get("currency")
    return code(given)


def code(given: Any) -> str | None:
    return given.upper() if isinstance(given, str) and len(given) == 3 and given.isascii() and given.isalpha() else None


def line(p: dict[str, Any], quantity: float, cur: str | None = None) -> dict[str, Any]:
    """`cur`: of the event, where the line may have another."""
    names = (text(p.get(name), 100) for name in ("product_id", "sku", "name"))
    links = {ours: p.get(theirs) for ours, theirs in (("url", "url"), ("img", "image_url"))}
    id, sku = next((n for n in names if n), "unknown"), text(p.get("sku"), 100)
    own = code(p.get("currency")) if cur is not None else None
    return {
        "id": id, "qty": quantity, "price": number(p.get("price"), 1e12), "name": text(p.get("name"), 120),
        "sku": None if sku == id else sku, "variant": text(p.get("variant"), 100), "cur": None if own == cur else own,
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
        new = line(item, quantity if given is None else given, currency(p))
        old = next((x for x in lines if all(x[f] == new[f] for f in ("id", "sku", "variant"))), None)
        if old is not None:
            new["qty"] = min(old["qty"] + new["qty"], 1e6) if old["qty"] and new["qty"] else quantity
            lines[lines.index(old)] = new
        elif len(lines) < 100:
            lines.append(new)
    return lines


def value_of(lines: list[dict[str, Any]]) -> float:
    """Prices in another currency than the cart's (`cur`) are in no sum."""
    return float(round(sum(x["price"] * x["qty"] for x in lines if x["price"] is not None and x["cur"] is None), 4))


def order_value(p: dict[str, Any]) -> float | None:
    for name in ("revenue", "total", "value"):
        if (n := number(p.get(name), 1e12)) is not None:
            return n
    lines = products(p, 1)
    return value_of(lines) if lines and all(x["price"] is not None for x in lines) else None
