"""Visits in which somebody looked at products and left without a cart: `browse_abandoned`.

The rules are stream/core/browse.py's.
"""

from __future__ import annotations

from typing import Any, Final

import msgspec
from msgspec import Raw, Struct, UnsetType

from stream.core import browse
from stream.core.browse import Browsing, Does, Rules, Told, View, Visit
from stream.core.cart_state import MAX_PRICE
from stream.core.parts import read_part
from stream.signals import shop
from stream.signals.base import Context, PerSite, Result, Signal, Trigger
from tracker.contract import events as ev
from tracker.contract.codec import emission_id
from tracker.contract.events import ProfileEvent
from tracker.contract.retention import BrowseRules
from tracker.contract.settings import Settings
from tracker.contract.sites import Site
from tracker.contract.triggers import (
    BROWSE_ABANDONED,
    BrowseAbandoned,
    BrowseAbandonmentRetracted,
    TriggerKind,
    ViewedProduct,
    rfc3339,
)

DOES: Final[dict[str, Does]] = {
    **dict.fromkeys(ev.ECOMMERCE, "look"),
    **dict.fromkeys(ev.USAGE_EVENTS, "look"),
    ev.PRODUCT_VIEWED: "view",
    ev.PRODUCT_REMOVED: "touch",
    ev.CART_VIEWED: "cart",
    **dict.fromkeys(
        (
            ev.PRODUCT_ADDED, "Wishlist Product Added to Cart", ev.CHECKOUT_STARTED, ev.CHECKOUT_STEP_VIEWED,
            ev.CHECKOUT_STEP_COMPLETED, ev.PAYMENT_INFO_ENTERED,
        ),
        "cart",
    ),
    ev.ORDER_COMPLETED: "order",
}  # fmt: skip
"""Name of an event -> what it says of a visit."""
for _told_by_servers in ("Order Updated", ev.ORDER_REFUNDED, ev.ORDER_CANCELLED):
    del DOES[_told_by_servers]
MAX_PRODUCTS: Final = 10
RETRACTED: Final = "browse_abandonment_retracted"
MAX_CATEGORY_CHARS: Final = 100
_DEFAULTS: Final = BrowseRules()


class _Product(Struct):
    product_id: Any = None
    sku: Any = None
    name: Any = None
    category: Any = None
    price: Any = None
    currency: Any = None
    url: Any = None
    image_url: Any = None


class _Cart(Struct):
    products: Any = None


_product = msgspec.json.Decoder(_Product)
_cart = msgspec.json.Decoder(_Cart)


def _rules(settings: Settings, site: Site | None) -> Rules:
    given = _DEFAULTS if site is None else site.browse
    return Rules(
        max(1, round(1000 * given.idle_s)), given.views, round(1000 * given.repeat_s),
        round(1000 * settings.cart_lost_s),
    )  # fmt: skip


class BrowseSignal(Signal[Browsing]):
    name = "browse"
    state_type = Browsing
    events: frozenset[str] | None = frozenset(DOES)
    types = frozenset(("page", "screen"))
    tells = frozenset((BROWSE_ABANDONED.name,))
    settings: frozenset[str] = frozenset(("sites", "cart_lost_s"))

    def __init__(self) -> None:
        self.rules = PerSite(_rules)

    def fold(self, state: Browsing | None, event: ProfileEvent, ctx: Context) -> Result:
        rules = self.rules(ctx.settings, ctx.site)
        if event.bot is not None or not rules.views:
            return Result(state=state)
        name, ms = event.event, event.timestamp_ms
        does: Does = "look" if name is None else DOES[name]
        if does == "look":
            return Result(state=None if state is None else browse.looked(state, ms, rules))
        before = browse.NOTHING if state is None else state
        view = _view(event) if does == "view" else None
        if name == ev.CART_VIEWED:
            does = _of_cart(event.properties)
        after, back = browse.seen(before, ms, does, view, rules)
        return Result(state=after, triggers=tuple(_retraction(told, ctx, event.received_at_ms) for told in back))

    def due_ms(self, state: Browsing) -> int | None:
        return state.due_ms

    def fire(self, state: Browsing, now_ms: int, ctx: Context) -> Result:
        after, told = browse.fire(state, now_ms, ctx.profile_id, self.rules(ctx.settings, ctx.site))
        return Result(state=after, triggers=tuple(_abandonment(visit, ctx) for visit in told))

    def merge(self, one: Browsing, other: Browsing, now_ms: int, ctx: Context) -> Result:
        after, back = browse.merged(one, other, self.rules(ctx.settings, ctx.site))
        return Result(state=after, triggers=tuple(_retraction(told, ctx, now_ms) for told in back))

    def still_true(self, state: Browsing, kind: TriggerKind, data: Any) -> bool:
        """No cart and no order has come since."""
        return not browse.carted_since(state, data.started_at_ms)

    def explain(self, state: Browsing, now_ms: int, ctx: Context) -> dict[str, Any]:
        """The visits, and when the next is left."""
        return {
            "visits": [_explained(visit) for visit in state.visits],
            "carts": [{"time": rfc3339(ms), "lies_there": lies} for ms, lies in state.marks],
            "due": rfc3339(state.due_ms) if state.due_ms is not None else None,
        }


def _view(event: ProfileEvent) -> View | None:
    """The product that was looked at; None when the event names none."""
    p = read_part(_product, event.properties)
    if p is None:
        return None
    name = shop.text(p.name, shop.MAX_NAME_CHARS) or ""
    product = shop.text(p.product_id, shop.MAX_ID_CHARS) or shop.text(p.sku, shop.MAX_ID_CHARS) or name
    category = shop.text(p.category, MAX_CATEGORY_CHARS) or ""
    if not product and not category:
        return None
    price, cur = shop.number(p.price, MAX_PRICE), p.currency
    if not (isinstance(cur, str) and len(cur) == 3 and cur.isascii() and cur.isalpha()):
        cur = ""
    return View(
        event.timestamp_ms, product, category, name if name != product else "", -1.0 if price is None else price,
        cur.upper(), shop.url(p.url) or "", shop.url(p.image_url) or "",
    )  # fmt: skip


def _of_cart(raw: Raw | UnsetType) -> Does:
    """What a look at the cart tells: something lies in it, or nothing does, or it does not say."""
    p = read_part(_cart, raw)
    if p is None or not isinstance(p.products, list):
        return "touch"
    return "cart" if p.products else "empty"


def trigger_id(site: str, told: Told) -> str:
    return emission_id(site, told.by, BROWSE_ABANDONED.name, 1)


def _abandonment(visit: Visit, ctx: Context) -> Trigger:
    told = visit.told
    assert told is not None  # it has just been told
    views = browse.group_of(visit)
    latest: dict[str, View] = {}
    for view in views:
        latest.setdefault(view.product, view)
    products = [
        ViewedProduct(
            product_id=v.product or None, name=v.name or None, price=v.price if v.price >= 0 else None,
            currency=v.cur or None, url=v.url or None, image_url=v.img or None,
            views=sum(other.product == v.product for other in views),
        )
        for v in list(latest.values())[:MAX_PRODUCTS]
    ]  # fmt: skip
    return Trigger(
        kind=BROWSE_ABANDONED,
        id=trigger_id(ctx.site, told),
        at_ms=told.at_ms,
        suppressed="repeat" if told.quiet else None,
        data=BrowseAbandoned(
            profile_id=ctx.profile_id,
            category=views[0].category or None,
            views=len(views),
            products=products,
            started_at_ms=visit.start_ms,
            last_activity_ms=visit.end_ms,
        ),
    )


def _retraction(told: Told, ctx: Context, at_ms: int) -> Trigger:
    return Trigger(
        kind=BROWSE_ABANDONED,
        id=emission_id(ctx.site, told.by, RETRACTED, 1),
        at_ms=at_ms,
        data=BrowseAbandonmentRetracted(profile_id=ctx.profile_id, retracts=trigger_id(ctx.site, told)),
    )


def _explained(visit: Visit) -> dict[str, Any]:
    said: dict[str, Any] = {
        "start": rfc3339(visit.start_ms),
        "end": rfc3339(visit.end_ms),
        "views": [{"product_id": v.product, "category": v.category or None} for v in visit.views],
        "cart": visit.carted,
        "told": rfc3339(visit.told.at_ms) if visit.told is not None else None,
    }
    if visit.told is not None:
        said |= {"suppressed": visit.told.quiet, "retracted": visit.gone}
    return said
