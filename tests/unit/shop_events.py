"""Events of a shop, in seconds after T0, and the context that signals fold them in."""

from __future__ import annotations

from typing import Any, Final

import msgspec

from stream.signals.base import Context
from tracker.contract import events as ev
from tracker.contract.events import ProfileEvent
from tracker.contract.settings import Settings

SETTINGS: Final = Settings()
T0_MS: Final = 1_790_000_000_000
H: Final = 3600


def context(**fields: Any) -> Context:
    given = {
        "site": "demo",
        "profile_id": "p1",
        "user_id": None,
        "anonymous_id": "a1",
        "traits": None,
        "utc_offset_ms": 7 * 3_600_000,
        "settings": SETTINGS,
    }
    return Context(**{**given, **fields})


def event(
    name: str, at_s: float, properties: Any = None, *, id: str | None = None, received_s: float = 0.0
) -> ProfileEvent:
    at_ms = T0_MS + round(1000 * at_s)
    return ProfileEvent(
        profile_id="p1",
        src=(0, 0, 0),
        site="demo",
        type="track",
        message_id=id or f"{name}@{at_s}",
        timestamp_ms=at_ms,
        received_at_ms=max(at_ms, T0_MS + round(1000 * received_s)),
        event=name,
        properties=msgspec.Raw(msgspec.json.encode(properties if properties is not None else {})),
    )


def add(at_s: float, product: str = "A", quantity: float = 1, **more: Any) -> ProfileEvent:
    price = {"A": 10, "B": 5, "C": 7}[product]
    about = {"product_id": product, "price": price, "quantity": quantity}
    return event(ev.PRODUCT_ADDED, at_s, about, **more)


def remove(at_s: float, product: str = "A", **more: Any) -> ProfileEvent:
    return event(ev.PRODUCT_REMOVED, at_s, {"product_id": product}, **more)


def view(at_s: float, *products: str, **more: Any) -> ProfileEvent:
    lines = [{"product_id": p, "price": 10, "quantity": 1} for p in products]
    return event(ev.CART_VIEWED, at_s, {"products": lines}, **more)


def checkout(at_s: float, **more: Any) -> ProfileEvent:
    return event(ev.CHECKOUT_STARTED, at_s, **more)


def payment(at_s: float, **more: Any) -> ProfileEvent:
    return event(ev.PAYMENT_INFO_ENTERED, at_s, **more)


def order(at_s: float, order_id: str = "o1", revenue: float = 20, **more: Any) -> ProfileEvent:
    about = {"order_id": order_id, "revenue": revenue, "currency": "VND"}
    return event(ev.ORDER_COMPLETED, at_s, about, **more)


def cancel(at_s: float, order_id: str = "o1", **more: Any) -> ProfileEvent:
    return event(ev.ORDER_CANCELLED, at_s, {"order_id": order_id}, **more)


def refund(at_s: float, total: float | None = None, order_id: str = "o1", **more: Any) -> ProfileEvent:
    about = {"order_id": order_id} | ({} if total is None else {"total": total})
    return event(ev.ORDER_REFUNDED, at_s, about, **more)


def click(at_s: float, campaign: str = "c1", **more: Any) -> ProfileEvent:
    return event("Email Link Clicked", at_s, {"campaign_id": campaign}, **more)


def visit(at_s: float, by: str | None = "tet", traffic: str = "email", **more: Any) -> ProfileEvent:
    """A page that a link has led to."""
    medium = {"paid": "cpc"}.get(traffic, traffic)
    campaign = msgspec.Raw(msgspec.json.encode({"name": by, "medium": medium} if by else {}))
    e = event("page", at_s, **more)
    return msgspec.structs.replace(e, type="page", event=None, campaign=campaign, traffic=traffic)


def denied(at_s: float, **more: Any) -> ProfileEvent:
    return event(ev.COUPON_DENIED, at_s, {"coupon_name": "SALE"}, **more)


def failed(at_s: float, **more: Any) -> ProfileEvent:
    return event(ev.PAYMENT_FAILED, at_s, **more)


def answer(at_s: float, reason: str | None = "Price", **more: Any) -> ProfileEvent:
    return event(ev.SURVEY_ANSWERED, at_s, {"reason": reason}, **more)


def shipping(at_s: float, **more: Any) -> ProfileEvent:
    return event(ev.CHECKOUT_STEP_VIEWED, at_s, {"step": 2, "shipping_method": "express"}, **more)


def named(e: ProfileEvent, **ids: Any) -> ProfileEvent:
    """The event with cart_id, checkout_id, order_id or others among its properties."""
    properties = msgspec.json.decode(bytes(e.properties)) | ids  # type: ignore[arg-type]
    return msgspec.structs.replace(e, properties=msgspec.Raw(msgspec.json.encode(properties)))
