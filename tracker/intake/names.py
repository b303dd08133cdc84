"""Names of GA4 and of Snowplow's ecommerce actions become the Segment Spec's, so that one rule serves all three.

Only a name that stands in EVENTS is touched; its properties keep all that the tables do not name.
"""

from __future__ import annotations

from typing import Any, Final

import msgspec
from msgspec import Raw

from tracker.contract import events as ev
from tracker.intake.context import read_properties
from tracker.intake.draft import Call, Draft

EVENTS: Final[dict[str, str]] = {
    # GA4
    "view_item_list": "Product List Viewed",
    "select_item": "Product Clicked",
    "view_item": ev.PRODUCT_VIEWED,
    "add_to_cart": ev.PRODUCT_ADDED,
    "remove_from_cart": ev.PRODUCT_REMOVED,
    "view_cart": ev.CART_VIEWED,
    "begin_checkout": ev.CHECKOUT_STARTED,
    "add_shipping_info": ev.CHECKOUT_STEP_COMPLETED,
    "add_payment_info": ev.PAYMENT_INFO_ENTERED,
    "purchase": ev.ORDER_COMPLETED,
    "refund": ev.ORDER_REFUNDED,
    "view_promotion": "Promotion Viewed",
    "select_promotion": "Promotion Clicked",
    # Snowplow; add_to_cart, remove_from_cart and refund are called the same
    "product_view": ev.PRODUCT_VIEWED,
    "list_view": "Product List Viewed",
    "list_click": "Product Clicked",
    "checkout_step": ev.CHECKOUT_STEP_COMPLETED,
    "transaction": ev.ORDER_COMPLETED,
    "trns_error": ev.PAYMENT_FAILED,
    "promo_view": "Promotion Viewed",
    "promo_click": "Promotion Clicked",
}

ITEM: Final[dict[str, str]] = {
    "item_id": "product_id",
    "id": "product_id",
    "item_name": "name",
    "item_brand": "brand",
    "item_category": "category",
    "item_variant": "variant",
    "index": "position",
}
"""Field of a product there -> here; price, quantity, currency and coupon have the same names."""

PROPERTY: Final[dict[str, str]] = {
    "transaction_id": "order_id",
    "payment_type": "payment_method",
    "shipping_tier": "shipping_method",
    "item_list_id": "list_id",
    "promotion_name": "name",
    "creative_name": "creative",
    "creative_slot": "position",
    "error_message": "reason",
    "error_description": "reason",
    "refund_reason": "reason",
    "refund_amount": "total",
    "total_value": "value",
    "discount_code": "coupon",
    "coupon_code": "coupon",
    "delivery_method": "shipping_method",
}
"""Property there -> here."""

PROMOTION: Final[dict[str, str]] = {**PROPERTY, "id": "promotion_id", "slot": "position"}
"""The same in Snowplow's entity of a promotion."""

VALUE: Final[dict[str, str]] = {ev.ORDER_COMPLETED: "revenue", ev.ORDER_REFUNDED: "total"}
"""What GA4's `value` is called on an event."""

_OF_ONE: Final = frozenset((ev.PRODUCT_VIEWED, ev.PRODUCT_ADDED, ev.PRODUCT_REMOVED, "Product Clicked"))
"""Events whose single product stands at the top level."""
_ENTITIES: Final = ("cart", "transaction", "checkout_step", "promotion", "transaction_error", "refund")
"""Snowplow's entities of one object each: their fields become properties."""

_encode = msgspec.json.Encoder().encode


def map_names(draft: Draft, call: Call) -> None:
    wire = draft.wire
    if wire.event not in EVENTS:
        return
    wire.event = EVENTS[wire.event]
    if draft.properties:
        draft.properties = _encode(mapped(wire.event, read_properties(draft)))
        wire.properties = Raw(draft.properties)


def mapped(event: str, given: dict[str, Any]) -> dict[str, Any]:
    """The properties of an event that had a foreign name; a field that has our name already has the last word."""
    found: dict[str, Any] = {}
    lists: dict[str, list[Any]] = {}
    for name, value in given.items():
        if name in ("items", "products") and isinstance(value, list):
            lists[name] = value
        elif name == "product" and isinstance(value, dict):
            lists[name] = [value]
        elif name in _ENTITIES and isinstance(value, dict):
            found = {**_renamed(value, PROMOTION if name == "promotion" else PROPERTY), **found}
        else:
            found[name] = value
    # Said in two ways, they are the same ones.
    listed = lists.get("products") or lists.get("items") or lists.get("product") or ()
    products = [_renamed(item, ITEM) for item in listed if isinstance(item, dict)]
    found = _renamed(found, {**PROPERTY, **ITEM} if event in _OF_ONE else PROPERTY)
    if (ours := VALUE.get(event)) is not None and "value" in found:
        found.setdefault(ours, found["value"])
    if len(products) == 1 and event in _OF_ONE:
        return {**products[0], **found}
    return {**found, "products": products} if products else found


def _renamed(fields: dict[str, Any], names: dict[str, str]) -> dict[str, Any]:
    found = {names[name]: value for name, value in fields.items() if name in names}
    return found | {name: value for name, value in fields.items() if name not in names}
