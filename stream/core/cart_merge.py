"""Two visitors' carts as one person's, where their entries are gone: what carts are after the base of their logs.

With the entries at hand the union of both logs is folded again instead (cart_log.py).
"""

from __future__ import annotations

from msgspec.structs import replace

from stream.core.cart_state import (
    ACTIVE,
    MAX_CARTS,
    MAX_COUNTED,
    MAX_LINKS,
    MAX_ORDERS,
    NEW,
    NEW_CART,
    WAITING,
    Cart,
    Carts,
    Emission,
    Order,
    State,
    in_currency,
    put_in,
    recency,
)


def merge_carts(one: Carts, other: Carts) -> Carts:
    """Two visitors' carts without their entries as one person's; the same whichever comes first. Of one cart that both
    had in use the lines are added up, as if put into one; an order of one that is later than the other's last activity
    has closed that, too."""
    if other in (NEW, one):
        return one
    if one == NEW:
        return other
    known = sorted((*one.orders, *other.orders), key=lambda o: (o.ms, repr(o)))
    reports: dict[str, list[Order]] = {}
    for o in known:
        reports.setdefault(o.id, []).append(o)
    orders = {id: _as_one(each) for id, each in reports.items()}
    closed_ms = max((o.ms for o in orders.values()), default=0)
    both: dict[str, list[Cart]] = {}
    for cart in (*one.carts, *other.carts):
        both.setdefault(cart.key, []).append(cart)
    carts = sorted((_merged(each, closed_ms) for each in both.values()), key=recency)[-MAX_CARTS:]
    links = dict(sorted({*one.links.items(), *other.links.items()})[-MAX_LINKS:])
    return Carts(
        at_ms=max(one.at_ms, other.at_ms),
        carts=tuple(sorted(carts, key=lambda c: c.key)),
        orders=tuple(orders.values())[-MAX_ORDERS:],
        links=links,
    )


def _as_one(reports: list[Order]) -> Order:
    """An order that both visitors had: its earliest report, and all carts that it recovered, of either."""
    first = reports[0]
    if len(reports) == 1:
        return first
    by, *others = _recovering(reports) or [first]
    carts = dict.fromkeys(cart for o in (by, *others) for cart in _recovered(o))
    return replace(
        first,
        by=by.by,
        gain=by.gain,
        opened_ms=tuple(opened_ms for opened_ms, _, _ in carts),
        brought=tuple(brought for _, brought, _ in carts) if any(brought for _, brought, _ in carts) else (),
        left=tuple(left for _, _, left in carts) if any(left for _, _, left in carts) else (),
        back=min(first.value, sum(o.back for o in reports)),
        reversed=any(o.reversed for o in reports),
    )


def _recovering(reports: list[Order]) -> list[Order]:
    """Those of one order that recovered a cart: the one whose value counts first."""
    return sorted((o for o in reports if o.by is not None), key=lambda o: not o.gain)


def _recovered(o: Order) -> list[tuple[int, str | None, tuple[str, ...]]]:
    """The carts that an order recovered: when opened, whose campaign, what was in it."""
    n = len(o.opened_ms)
    return list(zip(o.opened_ms, o.brought or (None,) * n, o.left or ((),) * n, strict=True))


def recovered_twice(one: Carts, other: Carts) -> tuple[list[Emission], list[Emission], list[Emission]]:
    """What of orders that recovered carts of both visitors comes out otherwise than each of them has it: (what is
    undone, what is instead, recoveries that are reversed). Its value is gained once; whoever has heard of a
    cancellation has heard of it for both."""
    undone: list[Emission] = []
    instead: list[Emission] = []
    reversals: list[Emission] = []
    theirs = {o.id: o for o in other.orders if o.by is not None}
    for mine in one.orders:
        if mine.by is None or (its := theirs.get(mine.id)) is None or _recovered(mine) == _recovered(its):
            continue
        main, more = _recovering(sorted((mine, its), key=lambda o: (o.ms, repr(o))))
        if main.reversed != more.reversed:
            order = replace(more if main.reversed else main, reversed=True)
            reversals.append(Emission("cart.recovery_reversed", max(one.at_ms, other.at_ms), NEW_CART, order))
        elif more.gain and not more.reversed:
            opened_ms, brought, left = _recovered(more)[0]
            cart = Cart(opened_ms=opened_ms, brought=brought, left=left)
            undone.append(Emission("cart.recovered", more.ms, cart, more))
            instead.append(Emission("cart.recovered", more.ms, cart, replace(more, value=0.0, gain=0.0)))
    return undone, instead, reversals


def _merged(carts: list[Cart], closed_ms: int) -> Cart:
    """One cart of one or two with the same key."""
    older, newer = carts = sorted((carts * 2)[:2], key=lambda c: (c.opened_ms, c.last_ms, c.at_ms, repr(c)))
    active = [c for c in carts if c.state in ACTIVE and c.last_ms > closed_ms]
    at_ms, episode = max(c.at_ms for c in carts), max(c.episode for c in carts)
    if not active:
        # Both are over, or closed by an order: the one that changed last says how it ended.
        last = max(carts, key=lambda c: c.at_ms)
        if last.state in ACTIVE:
            return Cart(key=last.key, state="converted", at_ms=at_ms, episode=episode)
        return replace(last, at_ms=at_ms, episode=episode)
    if len(active) == 1 or older == newer:
        return replace(active[0], at_ms=at_ms, episode=episode)
    waiting = [c for c in active if c.state in WAITING]
    seq = max(c.seq for c in active)
    state: State = "abandoned" if not waiting else "reopened" if seq else "open"
    cur = newer.cur or older.cur
    lines = list(in_currency(older.items, older.cur, cur))
    for line in newer.items:
        put_in(lines, line)
    return replace(
        older,
        state=state,
        at_ms=at_ms,
        episode=episode,
        stage=max(c.stage for c in active),
        seq=seq,
        last_ms=max(c.last_ms for c in active),
        abandoned_ms=max(c.abandoned_ms for c in active),
        told_ms=max(c.told_ms for c in active),
        items=tuple(lines),
        cur=cur,
        touch=max((c.touch for c in active if c.touch), key=lambda t: (t[1], t[0]), default=None),
        checkout=newer.checkout or older.checkout,
        link=newer.link or older.link,
        denied=older.denied or newer.denied,
        shipping=newer.shipping,
        failed=older.failed or newer.failed,
        answer=newer.answer or older.answer,
        left=tuple(dict.fromkeys((*older.left, *newer.left)))[:MAX_COUNTED],
    )
