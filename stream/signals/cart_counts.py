"""What is counted of carts: their rates by campaign and product, reasons, what was recovered.

It stands in the bucket of the time at which the cart was opened, so that rates are of carts that were opened in a
window, however late they were bought.
"""

from __future__ import annotations

from collections.abc import Iterator

from stream.core.cart_log import Change
from stream.core.cart_state import UNKNOWN, Emission, counted_of, reason_of
from stream.signals import shop
from tracker.contract import keys
from tracker.contract.durations import MINUTE_MS


def counts_at(change: Change) -> tuple[tuple[str, int, int], ...]:
    """What is to be counted: of what happened and of what did not after all, the difference."""
    sums: dict[tuple[str, int], int] = {}
    for emissions, sign in ((change.emitted, 1), (change.undone, -1)):
        for x in emissions:
            for field, n, ms in counted(x):
                key = (field, ms // MINUTE_MS * MINUTE_MS)
                sums[key] = sums.get(key, 0) + sign * n
    return tuple((field if n > 0 else keys.undone_field(field), abs(n), ms) for (field, ms), n in sums.items() if n)


def counted(x: Emission) -> Iterator[tuple[str, int, int]]:
    """(field, n, when the cart was opened) of an emission; n < 0: no more."""
    cart, ms = x.cart, x.cart.opened_ms
    match x.what:
        case "cart.opened" | "cart.lost" | "cart.converted_late":
            yield from _cart(x.what.removeprefix("cart."), 1, ms, cart.brought, cart.left)
        case "cart.emptied" if cart.seq == 0:
            yield from _cart("emptied", 1, ms, cart.brought)
        case "cart.converted":
            yield from _cart("converted", 1, ms, cart.brought, counted_of(cart.items))
            if cart.stage:
                yield from _cart("converted_checkout", 1, ms, cart.brought)
        case "cart.abandoned" if cart.seq == 1:
            yield from _cart("abandoned", 1, ms, cart.brought, cart.left)
            yield keys.cart_reason_field(reason_of(cart)), 1, ms
            if cart.stage:
                yield from _cart("abandoned_checkout", 1, ms, cart.brought)
        case "cart.checkout_reached":
            yield from _cart("abandoned_checkout", 1, ms, cart.brought)
        case "cart.answered":
            yield keys.cart_reason_field(x.was or UNKNOWN), -1, ms
            yield keys.cart_reason_field(reason_of(cart)), 1, ms
        case "cart.recovered":
            assert x.order is not None
            yield from _cart("recovered", 1, ms, cart.brought, cart.left)
            if x.order.gain:
                yield _revenue_field(x), shop.minor(x.order.gain, x.order.cur), ms
        case "cart.recovery_reversed":
            assert x.order is not None
            brought = x.order.brought or (None,) * len(x.order.opened_ms)
            left = x.order.left or ((),) * len(x.order.opened_ms)
            for opened_ms, campaign, products in zip(x.order.opened_ms, brought, left, strict=True):
                yield from _cart("recovered", -1, opened_ms, campaign, products)
            if x.order.gain and x.order.opened_ms:
                yield _revenue_field(x), -shop.minor(x.order.gain, x.order.cur), x.order.opened_ms[0]


def _cart(
    what: str, n: int, ms: int, brought: str | None, products: tuple[str, ...] = ()
) -> Iterator[tuple[str, int, int]]:
    yield keys.cart_field(what), n, ms
    yield keys.cart_campaign_field(what, brought or ""), n, ms
    for product in products:
        yield keys.cart_product_field(what, product), n, ms


def _revenue_field(x: Emission) -> str:
    assert x.order is not None  # it is a recovery, or its end
    return keys.cart_revenue_field(x.order.cur or "", x.order.by or "")
