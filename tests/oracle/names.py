"""Which campaign and content an event tells of: fields of the counters, written from docs/counters.md."""

from __future__ import annotations

from typing import Any

from tests.oracle import shop

Json = dict[str, Any]
CONTENT = {
    "Product Viewed": ("product", "viewed"), "Product Clicked": ("product", "clicked"),
    "Product Added": ("product", "added"), "Product Removed": ("product", "removed"),
    "Product Added to Wishlist": ("product", "wished"), "Product Shared": ("product", "shared"),
    "Product Reviewed": ("product", "reviewed"), "Order Completed": ("product", "ordered"),
    "Promotion Viewed": ("promotion", "viewed"), "Promotion Clicked": ("promotion", "clicked"),
    "Form Viewed": ("form", "viewed"), "Form Submitted": ("form", "submitted"),
}  # fmt: skip
IDS = {
    "product": ("product_id", "sku", "name"), "promotion": ("promotion_id", "id", "name"),
    "form": ("form_id", "id", "name"),
}  # fmt: skip
MOST_CHARS = 120


def campaigns(event: Json, is_message: bool) -> list[str]:
    name = shop.campaign(properties(event)) if is_message else None
    if name is None:
        name = shop.brought_by(event, MOST_CHARS)
    return [] if name is None else [f"campaign|{name}"]


def contents(event: Json) -> list[str]:
    p = properties(event)
    if event["type"] == "page":
        path = next((path for key in ("path", "url") if (path := path_of(p.get(key)))), None)
        name = path or (event.get("name") or "")[:MOST_CHARS]
        return [f"page|{name}"] if name else []
    if event["type"] == "screen":
        return [f"screen|{event['name'][:MOST_CHARS]}"] if event.get("name") else []
    if event["type"] != "track" or event["event"] not in CONTENT:
        return []
    kind, action = CONTENT[event["event"]]
    if action == "ordered":
        lines = shop.products(p, 1) or []
        if not lines and (p.get("product_id") or p.get("sku")) is not None:
            lines = [shop.line(p, 1)]
        ids = list(dict.fromkeys(x["id"] for x in lines))
        return [f"{kind}|{action}|{id[:MOST_CHARS]}" for id in ids[:20]] + [f"{kind}|"] * len(ids[20:])
    given = (shop.text(p.get(key), MOST_CHARS) for key in IDS[kind])
    id = next((g for g in given if g is not None), None)
    return [] if id is None else [f"{kind}|{action}|{id}"]


def path_of(address: Any) -> str | None:
    """Without host, query and a slash at its end."""
    if not isinstance(address, str):
        return None
    if not address.startswith("/"):
        if "://" not in address:
            return None
        address = "/" + address.split("://", 1)[1].partition("/")[2]
    return (address.split("?")[0].split("#")[0].rstrip("/") or "/")[:MOST_CHARS]


def properties(event: Json) -> Json:
    p = event.get("properties")
    return p if isinstance(p, dict) else {}
