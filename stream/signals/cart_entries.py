"""What an event tells of a cart: which names do what to it, and what of their properties counts."""

from __future__ import annotations

from typing import Any, Final

import msgspec
from msgspec import UNSET, Struct

from stream import naming
from stream.core.cart_state import SHIPPING, Do, Entry
from stream.core.parts import read_part
from stream.signals import shop
from tracker.contract import events as ev
from tracker.contract.events import ProfileEvent

DOES: Final[dict[str, Do]] = {
    ev.PRODUCT_ADDED: "add",
    ev.PRODUCT_REMOVED: "remove",
    ev.CART_VIEWED: "view",
    ev.CHECKOUT_STARTED: "checkout",
    ev.CHECKOUT_STEP_VIEWED: "checkout",
    ev.CHECKOUT_STEP_COMPLETED: "checkout",
    ev.PAYMENT_INFO_ENTERED: "payment",
    ev.ORDER_COMPLETED: "order",
    ev.ORDER_CANCELLED: "undo",
    ev.ORDER_REFUNDED: "undo",
    ev.COUPON_DENIED: "coupon",
    ev.PAYMENT_FAILED: "failed",
    ev.SURVEY_ANSWERED: "answer",
    **dict.fromkeys(ev.MESSAGE_CLICKS, "click"),
}
"""Name of an event -> what it does to the cart."""
MESSAGES: Final = frozenset(("email", "sms", "zalo", "viber", "webpush"))
"""Traffic classes of pages that a message has led to."""
MAX_REASON_CHARS: Final = 40
MARKS: Final = frozenset(("nps", "csat", "ces"))
"""Types of surveys that are about a shop or a purchase. Their answer is a cart's only if it names the cart."""


class _Campaign(Struct):
    """Of a page: what its link said (utm_campaign, utm_id, utm_source)."""

    name: Any = None
    id: Any = None
    source: Any = None

    @property
    def given(self) -> tuple[Any, Any, Any]:
        """What it goes by, the first that is something, as in the counters (stream/naming.py)."""
        return self.name, self.id, self.source


_campaign: Final = msgspec.json.Decoder(_Campaign)


def entry(event: ProfileEvent) -> Entry | None:
    """The event as the carts see it; None: it tells nothing of them."""
    if event.event is None:
        return _visit(event)
    do = DOES[event.event]
    p = shop.properties(event.properties)
    ms, id = event.timestamp_ms, event.message_id
    if do == "click":
        return Entry(ms, id, do, by=shop.campaign(p))
    order, cart, checkout = shop.order_id(p), shop.cart_id(p), shop.checkout_id(p)
    if do == "undo":
        back = shop.refunded(p) if event.event == ev.ORDER_REFUNDED else None
        return Entry(ms, id, do, order=order, value=back)
    if do == "order":
        value = shop.order_value(p)
        return Entry(ms, id, do, order=order, value=value, cur=shop.currency(p), cart=cart, checkout=checkout)
    if do in ("coupon", "failed"):
        return Entry(ms, id, do, order=order, cart=cart, checkout=checkout)
    if do == "answer":
        reason = shop.text(p.reason, MAX_REASON_CHARS)
        if reason is None or (order is cart is checkout is None and _asks_how_it_was(p)):  # of something else
            return None
        return Entry(ms, id, do, order=order, cart=cart, checkout=checkout, by=reason.lower())
    lines = shop.listed(p)
    by = None
    if do in ("add", "remove"):
        order = None
        default_qty = 1 if do == "add" else 0  # Removed without a quantity: the whole line.
        lines = shop.listed(p, default_qty) or (shop.single(p, default_qty),)
    elif event.event in (ev.CHECKOUT_STEP_VIEWED, ev.CHECKOUT_STEP_COMPLETED) and shop.is_shipping(p):
        by = SHIPPING
    cur, link = shop.currency(p), shop.link(p)
    brought = naming.brought_by(event)
    return Entry(
        ms, id, do, lines, order=order, cur=cur, by=by, cart=cart, checkout=checkout, link=link, brought=brought
    )


def _visit(event: ProfileEvent) -> Entry | None:
    """A page that the link of a message has led to; None: of no campaign, or by no message."""
    if event.traffic not in MESSAGES or event.bot is not None or event.campaign is UNSET:
        return None
    said = read_part(_campaign, event.campaign)
    if said is None or (by := next((n for g in said.given if (n := shop.text(g, shop.MAX_ID_CHARS))), None)) is None:
        return None
    return Entry(event.timestamp_ms, event.message_id, "visit", by=by)


def _asks_how_it_was(p: shop.Properties) -> bool:
    """Surveys that ask for a mark have a `reason` of their own, which is none for leaving a cart."""
    return isinstance(p.type, str) and p.type.strip().casefold() in MARKS
