"""The triggers of carts: abandonments, recoveries, and what takes them back, each with its id."""

from __future__ import annotations

from typing import Final

from msgspec import Struct

from stream.core.cart_log import Told
from stream.core.cart_state import STAGES, Emission, Line, Order, reason_of, value_of
from stream.signals.base import Context, Trigger
from tracker.contract.codec import emission_id
from tracker.contract.triggers import (
    CART_ABANDONED,
    CART_RECOVERED,
    CartAbandoned,
    CartAbandonmentRetracted,
    CartLine,
    CartRecovered,
    CartRecoveryRetracted,
)

RETRACTED: Final = "cart_abandonment_retracted"
RECOVERY_RETRACTED: Final = "cart_recovery_retracted"
"""Kinds in the ids of retractions."""


class Retracted(Struct, frozen=True):
    """Emitted: an abandonment or a recovery is taken back."""

    told: Told
    at_ms: int
    reason: str


def trigger_id(site: str, told: Told) -> str:
    kind = CART_ABANDONED if told.order is None else CART_RECOVERED
    return emission_id(site, told.by, kind.name, told.n)


def retraction_id(site: str, told: Told) -> str:
    return emission_id(site, told.by, RETRACTED if told.order is None else RECOVERY_RETRACTED, told.n)


def abandonment(emission: Emission, told: Told, ctx: Context) -> Trigger:
    cart = emission.cart
    return Trigger(
        kind=CART_ABANDONED,
        id=trigger_id(ctx.site, told),
        at_ms=emission.at_ms,
        suppressed="repeat" if emission.quiet else None,
        data=CartAbandoned(
            profile_id=ctx.profile_id,
            stage=STAGES[cart.stage],
            value=value_of(cart.items),
            items=[cart_line(line) for line in cart.items],
            episode=cart.episode,
            seq=cart.seq,
            opened_at_ms=cart.opened_ms,
            last_activity_ms=cart.last_ms,
            abandoned_at_ms=cart.abandoned_ms,
            reason=reason_of(cart),
            currency=cart.cur,
            cart_id=cart.key or None,
            checkout_id=cart.checkout,
            link=cart.link,
        ),
    )


def cart_line(line: Line) -> CartLine:
    return CartLine(
        product_id=line.id,
        quantity=line.qty,
        price=line.price,
        name=line.name,
        url=line.url,
        image_url=line.img,
        sku=line.sku,
        variant=line.variant,
        currency=line.cur,
    )


def named(order: Order) -> str | None:
    """The order_id that was said; None: none was."""
    return None if order.id.startswith("message:") else order.id


def recovery(emission: Emission, told: Told, ctx: Context) -> Trigger:
    cart, order = emission.cart, emission.order
    assert order is not None  # it is what recovers
    return Trigger(
        kind=CART_RECOVERED,
        id=trigger_id(ctx.site, told),
        at_ms=emission.at_ms,
        data=CartRecovered(
            profile_id=ctx.profile_id,
            by=order.by or "organic",
            order_id=named(order),
            revenue=order.gain,
            value=value_of(cart.items),
            episode=cart.episode,
            opened_at_ms=cart.opened_ms,
            abandoned_at_ms=cart.abandoned_ms,
            currency=order.cur,
            cart_id=cart.key or None,
            checkout_id=cart.checkout,
        ),
    )


def retraction(retracted: Retracted, ctx: Context) -> Trigger:
    told = retracted.told
    retracts = trigger_id(ctx.site, told)
    if told.order is None:
        kind, data = CART_ABANDONED, CartAbandonmentRetracted(profile_id=ctx.profile_id, retracts=retracts)
        return Trigger(kind=kind, id=retraction_id(ctx.site, told), at_ms=retracted.at_ms, data=data)
    reversal = CartRecoveryRetracted(profile_id=ctx.profile_id, retracts=retracts, reason=retracted.reason)
    return Trigger(kind=CART_RECOVERED, id=retraction_id(ctx.site, told), at_ms=retracted.at_ms, data=reversal)
