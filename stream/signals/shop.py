"""Reads e-commerce properties (Segment Spec, ecommerce v2) as they come: nothing in them is trusted, nothing raises.

Numbers may be strings; what is not a number, negative or not finite counts as not given. A product without
product_id goes by its sku, else its name. Texts are cut, addresses that are too long are left out.
"""

from __future__ import annotations

from math import isfinite
from typing import Any, Final, Protocol

import msgspec
from msgspec import UNSET, Raw, Struct, UnsetType

from stream.core.cart_state import MAX_LINES, MAX_PRICE, MAX_QUANTITY, Line, value_of
from stream.core.parts import read_part
from tracker.contract.ids import usable, whole

MAX_NAME_CHARS: Final = 120
MAX_ID_CHARS: Final = 100
MAX_CATEGORIES: Final = 20
MAX_URL_CHARS: Final = 500
MINOR_DIGITS: Final[dict[str, int]] = {
    **dict.fromkeys(("BIF", "CLP", "DJF", "GNF", "ISK", "JPY", "KMF", "KRW", "PYG", "RWF", "UGX", "VND", "VUV"), 0),
    **dict.fromkeys(("XAF", "XOF", "XPF"), 0),
    **dict.fromkeys(("BHD", "IQD", "JOD", "KWD", "LYD", "OMR", "TND"), 3),
}
"""ISO 4217: decimal places of a currency's minor unit, where they are not 2."""


class Properties(Struct):
    """What signals read of an event's properties; all else is skipped undecoded."""

    products: Any = None
    product_id: Any = None
    sku: Any = None
    variant: Any = None
    name: Any = None
    price: Any = None
    quantity: Any = None
    url: Any = None
    image_url: Any = None
    currency: Any = None
    order_id: Any = None
    revenue: Any = None
    total: Any = None
    value: Any = None
    campaign: Any = None
    campaign_id: Any = None
    campaign_name: Any = None
    template_id: Any = None
    popup_id: Any = None
    cart_id: Any = None
    checkout_id: Any = None
    cart_url: Any = None
    checkout_url: Any = None
    step: Any = None
    step_name: Any = None
    shipping_method: Any = None
    shipping: Any = None
    reason: Any = None
    type: Any = None
    tier: Any = None
    plan: Any = None


_properties = msgspec.json.Decoder(Properties)
_NONE: Final = Properties()


_last: tuple[Raw | UnsetType, Properties] = (UNSET, _NONE)


def properties(raw: Raw | UnsetType) -> Properties:
    """An event's properties; empty when they are missing, null or no object. Not to be changed: several signals read
    the same event, one after the other, and get the same."""
    global _last
    known = _last
    if known[0] is not raw:
        known = _last = (raw, read_part(_properties, raw) or _NONE)
    return known[1]


def number(value: object, limit: float) -> float | None:
    """A number within 0..limit, also out of a string; else None."""
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        return None
    if isinstance(value, str) and len(value) > 40:
        return None
    try:
        n = float(value)
    except (ValueError, OverflowError):
        return None
    return n if isfinite(n) and 0 <= n <= limit else None


def text(value: object, limit: int) -> str | None:
    """A text of at most `limit` characters, also out of a number; None when there is nothing in it."""
    if value is None:
        return None
    if isinstance(value, str):
        value = value.strip()
        return value[:limit] or None
    if isinstance(value, int | float) and not isinstance(value, bool):
        return str(whole(value))[:limit]
    return None


def url(value: object) -> str | None:
    return value if isinstance(value, str) and 0 < len(value) <= MAX_URL_CHARS else None


def currency(p: Properties) -> str | None:
    """ISO 4217 code in capitals: the event's, else the first product's."""
    given = p.currency
    if given is None and isinstance(p.products, list) and p.products and isinstance(p.products[0], dict):
        given = p.products[0].get("currency")
    return currency_code(given)


def currency_code(given: object) -> str | None:
    if isinstance(given, str) and len(given) == 3 and given.isascii() and given.isalpha():
        return given.upper()
    return None


def _line(
    id: object, sku: object, variant: object, name: object, price: object, qty: float, link: object, img: object,
    cur: str | None = None,
) -> Line:  # fmt: skip
    code = None if sku is None else text(sku, MAX_ID_CHARS)
    product = text(id, MAX_ID_CHARS) or code or text(name, MAX_ID_CHARS) or "unknown"
    return Line(
        product,
        qty,
        number(price, MAX_PRICE),
        text(name, MAX_NAME_CHARS),
        url(link),
        url(img),
        code if code != product else None,
        None if variant is None else text(variant, MAX_ID_CHARS),
        cur,
    )


def listed(p: Properties, default_qty: float = 1) -> tuple[Line, ...] | None:
    """The lines of `products`, at most 100, one a product and variant; None when there is no such list.

    A quantity that is missing or no number >= 0 becomes default_qty; a line that says 0 is left out.
    """
    if not isinstance(p.products, list):
        return None
    lines: dict[tuple[str, str | None, str | None], Line] = {}
    cur = currency(p)
    for item in p.products:
        if not isinstance(item, dict):
            continue
        get = item.get
        qty = number(get("quantity"), MAX_QUANTITY)
        if qty == 0:
            continue
        if qty is None:
            qty = default_qty
        code = None if (own := get("currency")) is None or cur is None else currency_code(own)
        line = _line(
            get("product_id"), get("sku"), get("variant"), get("name"), get("price"), qty, get("url"),
            get("image_url"), code if code != cur else None,
        )  # fmt: skip
        key = line.id, line.sku, line.variant
        if (same := lines.get(key)) is not None:
            total = min(same.qty + qty, MAX_QUANTITY) if same.qty and qty else default_qty
            lines[key] = msgspec.structs.replace(line, qty=total)
        elif len(lines) < MAX_LINES:
            lines[key] = line
    return tuple(lines.values())


def categories(p: Properties) -> list[str]:
    """Of the products listed, each once; at most 20."""
    found: dict[str, None] = {}
    for item in p.products if isinstance(p.products, list) else ():
        name = text(item.get("category"), MAX_ID_CHARS) if isinstance(item, dict) else None
        if name is not None and len(found) < MAX_CATEGORIES:
            found[name] = None
    return list(found)


class Tiered(Protocol):
    tier: Any
    plan: Any


def tiers(p: Tiered) -> list[str]:
    """What was bought by how high it is: each product's `tier`, else the event's `tier`, else its `plan`; in small
    letters, each once, at most 20."""
    found: dict[str, None] = {}
    listed = getattr(p, "products", None)
    of_products = [item.get("tier") for item in listed if isinstance(item, dict)] if isinstance(listed, list) else []
    for given in of_products:
        if len(found) < MAX_CATEGORIES and (name := text(given, MAX_ID_CHARS)) is not None:
            found[name.casefold()] = None
    if not found and (name := text(p.tier, MAX_ID_CHARS) or text(p.plan, MAX_ID_CHARS)) is not None:
        found[name.casefold()] = None
    return list(found)


def single(p: Properties, default_qty: float) -> Line:
    """The product at the top level. A quantity that is missing or no positive number becomes default_qty."""
    qty = number(p.quantity, MAX_QUANTITY) or default_qty
    return _line(p.product_id, p.sku, p.variant, p.name, p.price, qty, p.url, p.image_url)


def order_value(p: Properties) -> float | None:
    """What an order is worth: its revenue, else total, else value, else the sum of its lines; None when none says."""
    for given in (p.revenue, p.total, p.value):
        if (n := number(given, MAX_PRICE)) is not None:
            return n
    lines = listed(p)
    if lines and all(line.price is not None for line in lines):
        return value_of(lines)
    return None


def refunded(p: Properties) -> float | None:
    """What a refund gives back: its total, else revenue, value, sum of its lines; None = everything."""
    if (n := number(p.total, MAX_PRICE)) is not None:
        return n
    if (n := order_value(p)) is not None:
        return n
    return 0.0 if listed(p) else None


def order_id(p: Properties) -> str | None:
    return _id(p.order_id)


def cart_id(p: Properties) -> str | None:
    return _id(p.cart_id)


def checkout_id(p: Properties) -> str | None:
    return _id(p.checkout_id)


def _id(value: object) -> str | None:
    """None also of what broken integrations send for all orders and carts: undefined, null, 0."""
    return None if value is None else usable(text(value, MAX_ID_CHARS))


def link(p: Properties) -> str | None:
    """Where a visitor goes on with a checkout or a cart."""
    return url(p.checkout_url) or url(p.cart_url)


def is_shipping(p: Properties) -> bool:
    """Is a checkout's step the one about shipping: by its name, or because it tells the method or what it costs."""
    named = any(isinstance(name, str) and "shipping" in name.lower() for name in (p.step_name, p.step, p.name))
    return named or text(p.shipping_method, MAX_ID_CHARS) is not None or bool(number(p.shipping, MAX_PRICE))


def campaign(p: Properties) -> str | None:
    """The campaign of a message: campaign_id, campaign (text or object), campaign_name, template_id."""
    of = p.campaign
    if isinstance(of, dict):
        of = of.get("id") or of.get("name")
    for given in (p.campaign_id, of, p.campaign_name, p.template_id):
        if (name := text(given, MAX_ID_CHARS)) is not None:
            return name
    return None


def minor(value: float, currency: str | None) -> int:
    """An amount in the currency's minor unit (cents; dong have none)."""
    return round(value * (1, 10, 100, 1000)[MINOR_DIGITS.get(currency or "", 2)])
