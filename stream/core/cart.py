"""The carts of one visitor: a table of transitions, and the fold that walks it in event time.

`step` takes the carts and one entry of their log, `advance` fires the timers that are due; both give the new carts and
what was emitted on the way. The order of entries is (ms, id), id = messageId. A timer due at exactly the time of an
entry goes first: an order in the very millisecond of the abandonment recovers the cart. Late entries: cart_log.py.

Which cart an entry is about: its cart_id, else the cart that its checkout_id or order_id came with before, else the
visitor's cart without an id. A checkout or payment under ids that are new goes on with the cart used last: Segment's
checkout events have no cart_id, and one purchase is not to be reminded of twice. So are what tells of a cart only
(a coupon denied, a payment failed, a survey answered) and that names none.

Rules beside the table, where the spec leaves room:
- an order closes the cart that it names and all others that are not bought: they are abandoned by nobody's choice. Its
  revenue is the named one's; where it names none, that of the one used last
- an order whose order_id is known changes nothing, in whatever state: browser and server may both report it
- a click on a message counts from the abandonment on, also after the visitor came back (providers report it late)
- within cart_repeat_s of the last abandonment that was told, a further one of the same cart is quiet
- the recovery window, in which a full cancellation or refund takes a recovery back, is cart_lost_s from the order
- a step of a checkout whose order is known, or of the very millisecond of the order, opens no new episode: shops report
  the last step together with the order, and of equal times the messageId decides which comes first
- a new episode begins with no items; a list of no products empties a cart as Cart Viewed only
"""

from __future__ import annotations

from typing import Final, Literal

from msgspec.structs import replace

from stream.core.cart_state import (
    ACTIVE,
    MAX_CARTS,
    MAX_LINKS,
    MAX_ORDERS,
    NEW,
    NEW_CART,
    SHIPPING,
    WAITING,
    Cart,
    Carts,
    Emission,
    Entry,
    Line,
    Order,
    Rules,
    State,
    What,
    counted_of,
    due_ms,
    due_of,
    in_currency,
    key_of,
    put_in,
    reason_of,
    recency,
    take_out,
)
from tracker.contract.durations import MINUTE_MS

Input = Literal["activity", "emptying", "idle", "lost", "click", "order", "undo"]
VISIT_OF_CLICK_MS: Final = 30 * MINUTE_MS
"""A visit so long after a click that is known is that click's: it names the message better than the link does."""

TABLE: Final[dict[tuple[State, Input], tuple[State, What | None]]] = {
    ("none", "activity"): ("open", "cart.opened"),
    ("none", "order"): ("converted", "order.without_cart"),
    ("empty", "activity"): ("open", "cart.opened"),
    ("empty", "order"): ("converted", "order.without_cart"),
    ("converted", "activity"): ("open", "cart.opened"),
    ("converted", "order"): ("converted", "order.without_cart"),
    ("lost", "activity"): ("open", "cart.opened"),
    ("lost", "order"): ("converted", "cart.converted_late"),
    ("open", "activity"): ("open", None),
    ("open", "emptying"): ("empty", "cart.emptied"),
    ("open", "idle"): ("abandoned", "cart.abandoned"),
    ("open", "order"): ("converted", "cart.converted"),
    ("abandoned", "activity"): ("reopened", "cart.reopened"),
    ("abandoned", "emptying"): ("empty", "cart.emptied"),
    ("abandoned", "click"): ("abandoned", None),
    ("abandoned", "order"): ("converted", "cart.recovered"),
    ("abandoned", "lost"): ("lost", "cart.lost"),
    ("reopened", "activity"): ("reopened", None),
    ("reopened", "emptying"): ("empty", "cart.emptied"),
    ("reopened", "idle"): ("abandoned", "cart.abandoned"),
    ("reopened", "click"): ("reopened", None),
    ("reopened", "order"): ("converted", "cart.recovered"),
}
"""(state, input) -> (state after it, what is emitted). Pairs that are not here change nothing. `undo`, the full
cancellation or refund of an order that had recovered a cart, emits cart.recovery_reversed in every state."""

_STAGE_OF: Final[dict[str, int]] = {"checkout": 1, "payment": 2}


def advance(carts: Carts, until_ms: int, rules: Rules) -> tuple[Carts, list[Emission]]:
    """Fire the timers due <= until_ms, the earliest first."""
    out: list[Emission] = []
    while (due := due_ms(carts, rules)) is not None and due <= until_ms:
        cart = next(c for c in carts.carts if due_of(c, rules) == due)
        to, what = TABLE[cart.state, "idle" if cart.state in WAITING else "lost"]
        if to == "abandoned":
            quiet = cart.seq > 0 and due - cart.told_ms < rules.repeat_ms
            cart = replace(
                cart,
                state=to,
                at_ms=due,
                seq=cart.seq + 1,
                abandoned_ms=due,
                told_ms=cart.told_ms if quiet else due,
                left=cart.left if cart.seq else counted_of(cart.items),
            )
            out.append(Emission("cart.abandoned", due, cart, quiet=quiet))
        else:
            out.append(Emission(what or "cart.lost", due, cart))
            cart = _ended(cart, to, due)
        carts = _put(carts, cart, due)
    return carts, out


def step(carts: Carts, e: Entry, rules: Rules) -> tuple[Carts, list[Emission]]:
    """Take one entry, which is not before the carts' last change."""
    carts, out = advance(carts, e.ms, rules)
    match e.do:
        case "order":
            return _order(carts, e, rules, out), out
        case "undo":
            return _undo(carts, e, rules, out), out
        case "click" | "visit":
            return _click(carts, e), out
        case "coupon" | "failed" | "answer":
            return _tell_of(carts, e, out), out
        case _:
            return _shop(carts, e, out), out


def fold(entries: list[Entry], now_ms: int, rules: Rules, start: Carts = NEW) -> tuple[Carts, list[Emission]]:
    """The definition of the carts: their entries in the order of (ms, id), then the timers due <= now_ms.

    Entries of one id count once. Entries after now_ms count too.
    """
    carts, out, seen = start, [], set()
    for e in sorted(entries, key=key_of):
        if e.id not in seen:
            seen.add(e.id)
            carts, emitted = step(carts, e, rules)
            out += emitted
    carts, emitted = advance(carts, now_ms, rules)
    return carts, out + emitted


def _at(carts: Carts, e: Entry) -> Carts:
    return replace(carts, at_ms=e.ms) if e.ms > carts.at_ms else carts


def _get(carts: Carts, key: str) -> Cart:
    for cart in carts.carts:
        if cart.key == key:
            return cart
    return Cart(key=key)


def _put(carts: Carts, cart: Cart, ms: int) -> Carts:
    """The carts with this one, as of `ms`. Of too many the one that ended first goes, else the one used first."""
    if not carts.carts or (len(carts.carts) == 1 and carts.carts[0].key == cart.key):
        kept: tuple[Cart, ...] = (cart,)
    else:
        others = [c for c in carts.carts if c.key != cart.key]
        if len(others) >= MAX_CARTS:
            others.remove(min(others, key=recency))
        kept = tuple(sorted((*others, cart), key=lambda c: c.key))
    return replace(carts, carts=kept, at_ms=max(ms, carts.at_ms))


def _ended(cart: Cart, to: State, ms: int) -> Cart:
    """The cart at the end of its episode: what belonged to that is dropped; of a lost one its beginning stays."""
    lost = to == "lost"
    return Cart(
        key=cart.key, state=to, at_ms=max(ms, cart.at_ms), episode=cart.episode,
        opened_ms=cart.opened_ms if lost else 0, opened_by=cart.opened_by if lost else "",
        brought=cart.brought if lost else None, left=cart.left if lost else (),
    )  # fmt: skip


def _named(carts: Carts, e: Entry) -> str | None:
    """Key of the cart that the entry names; None: it names none that is known."""
    if e.cart is not None:
        return e.cart
    if e.checkout is not None and (key := carts.links.get(f"checkout {e.checkout}")) is not None:
        return key
    return carts.links.get(f"order {e.order}") if e.order is not None else None


def _linked(carts: Carts, e: Entry, key: str) -> Carts:
    """Remember that the entry's checkout_id and order_id are this cart's."""
    links = carts.links
    for kind, id in (("checkout", e.checkout), ("order", e.order)):
        if id is not None and links.get(name := f"{kind} {id}") != key:
            links = {**{k: v for k, v in links.items() if k != name}, name: key}
            if len(links) > MAX_LINKS:
                del links[next(iter(links))]
    return carts if links is carts.links else replace(carts, links=links)


def _touches(e: Entry, cart: Cart) -> bool:
    if (cart.state, "click") not in TABLE or e.ms < cart.abandoned_ms:
        return False
    return e.do == "click" or cart.touch is None or e.ms - cart.touch[1] > VISIT_OF_CLICK_MS


def _click(carts: Carts, e: Entry) -> Carts:
    touch = (e.by or "unknown", e.ms)
    touched = tuple(replace(c, touch=touch) if _touches(e, c) else c for c in carts.carts)
    return replace(carts, carts=touched, at_ms=max(e.ms, carts.at_ms))


def _tell_of(carts: Carts, e: Entry, out: list[Emission]) -> Carts:
    """Something that tells why a cart may be left."""
    key = _named(carts, e)
    cart = carts.latest if key is None else _get(carts, key)
    if cart.state not in ACTIVE:
        return _at(carts, e)
    before = reason_of(cart)
    match e.do:
        case "coupon":
            cart = replace(cart, denied=True)
        case "failed":
            cart = replace(cart, failed=True)
        case _:
            cart = replace(cart, answer=e.by)
    if e.do == "answer" and cart.seq and reason_of(cart) != before:
        out.append(Emission("cart.answered", e.ms, cart, was=before))
    return _put(carts, cart, e.ms)


def _shop(carts: Carts, e: Entry, out: list[Emission]) -> Carts:
    """Something was put in, taken out, looked at, or carried on to the checkout."""
    stage = _STAGE_OF.get(e.do, 0)
    key = _named(carts, e)
    if key is None:
        key = carts.latest.key if stage and carts.latest.state in ACTIVE else ""
    cart = _get(carts, key)
    active = cart.state in ACTIVE
    brings = e.lines is not None and e.do != "remove"  # prices, and so what these are in
    cur = (e.cur or cart.cur) if brings else (cart.cur or e.cur)
    items = _items(cart.items if cur == cart.cur else in_currency(cart.items, cart.cur, cur), e)
    emptying = not items and (e.do == "remove" or (e.do == "view" and e.lines is not None))
    if not active and ((e.do == "view" and not items) or (stage and _is_of_order(carts, cart, e))):
        return _at(carts, e)
    row = TABLE.get((cart.state, "emptying" if emptying else "activity"))
    if row is None:
        return _at(carts, e)
    to, what = row
    if to == "empty":
        out.append(Emission("cart.emptied", e.ms, cart))
        return _put(carts, _ended(cart, to, e.ms), e.ms)
    shipping = e.by == SHIPPING if stage else cart.shipping
    if not active:
        cart = Cart(
            key=key,
            state=to,
            at_ms=e.ms,
            episode=cart.episode + 1,
            stage=stage,
            opened_ms=e.ms,
            opened_by=e.id,
            last_ms=e.ms,
            items=items,
            cur=cur,
            checkout=e.checkout,
            link=e.link,
            shipping=shipping,
            brought=e.brought,
        )
    else:
        reached = cart.seq > 0 and stage > cart.stage == 0
        cart = replace(
            cart,
            state=to,
            at_ms=max(e.ms, cart.at_ms),
            stage=max(stage, cart.stage),
            last_ms=max(e.ms, cart.last_ms),
            items=items,
            cur=cur,
            checkout=e.checkout or cart.checkout,
            link=e.link or cart.link,
            shipping=shipping,
        )
        if reached:
            out.append(Emission("cart.checkout_reached", e.ms, cart))
    if what is not None:
        out.append(Emission(what, e.ms, cart))
    carts = _put(carts, cart, e.ms)
    return carts if e.checkout is None and e.order is None else _linked(carts, e, key)


def _is_of_order(carts: Carts, cart: Cart, e: Entry) -> bool:
    """A step of a checkout that has ended in an order: reported behind it, or within the same millisecond."""
    if cart.state == "converted" and cart.at_ms == e.ms:
        return True
    return e.order is not None and any(order.id == e.order for order in carts.orders)


def _items(items: tuple[Line, ...], e: Entry) -> tuple[Line, ...]:
    """The lines after the entry."""
    if e.lines is None:
        return items
    if e.do in ("view", "checkout", "payment"):
        return e.lines if e.lines or e.do == "view" else items
    after = list(items)
    for line in e.lines:
        (put_in if e.do == "add" else take_out)(after, line)
    return tuple(after)


def _closed_by(carts: Carts, e: Entry) -> list[Cart]:
    """The carts that the order is for or closes: the one that it is for first, which may be over, or never was.

    Empty: all carts that it could be for were opened after it.
    """
    active = [c for c in carts.carts if c.state in ACTIVE and (e.since_ms is None or c.opened_ms <= e.since_ms)]
    key = _named(carts, e)
    named = None if key is None else _get(carts, key)
    if named is not None and (named in active or named.state == "lost"):
        first = named
    elif active:
        first = max(active, key=recency)
    elif e.since_ms is not None and any(c.state in ACTIVE for c in carts.carts):
        return []
    elif named is not None:
        first = named
    else:
        first = max((c for c in carts.carts if c.state == "lost"), key=recency, default=_get(carts, ""))
    return [first, *(c for c in active if c is not first)]


def _order(carts: Carts, e: Entry, rules: Rules, out: list[Emission]) -> Carts:
    id = e.order or f"message:{e.id}"
    if any(o.id == id for o in carts.orders):
        return _at(carts, e)
    closed = _closed_by(carts, e)
    first = closed[0] if closed else carts.latest
    order = Order(id, e.ms, e.value or 0.0, e.cur or first.cur)
    by: dict[str, str] = {}
    for cart in closed:
        if TABLE[cart.state, "order"][1] == "cart.recovered":
            clicked = cart.touch is not None and e.ms - cart.touch[1] <= rules.click_ms
            by[cart.key] = cart.touch[0] if clicked and cart.touch else "organic"
    if by:
        gain = order.value if first.key in by else 0.0
        recovered = [c for c in closed if c.key in by]
        brought = tuple(c.brought for c in recovered) if any(c.brought for c in recovered) else ()
        opened = tuple(c.opened_ms for c in recovered)
        left = tuple(c.left for c in recovered) if any(c.left for c in recovered) else ()
        order = replace(order, by=next(iter(by.values())), gain=gain, opened_ms=opened, brought=brought, left=left)
    carts = replace(carts, at_ms=max(e.ms, carts.at_ms), orders=(*carts.orders[1 - MAX_ORDERS :], order))
    out.append(Emission("order.completed", e.ms, first, order))
    for cart in closed:
        to, what = TABLE[cart.state, "order"]
        assert what is not None  # every row of an order emits
        part = order if cart is first else replace(order, by=by.get(cart.key), value=0.0, gain=0.0)
        out.append(Emission(what, e.ms, cart, part))
        carts = _put(carts, _ended(cart, to, e.ms), e.ms)
    return carts


def _undo(carts: Carts, e: Entry, rules: Rules, out: list[Emission]) -> Carts:
    """An order was cancelled or refunded."""
    i = next((i for i, o in enumerate(carts.orders) if o.id == e.order), None)
    if i is None:
        return _at(carts, e)
    order = carts.orders[i]
    back = order.value if e.value is None else min(order.value, order.back + e.value)
    full = e.value is None or back >= order.value
    reverse = full and order.by is not None and not order.reversed and e.ms - order.ms <= rules.lost_ms
    order = replace(order, back=back, reversed=order.reversed or reverse)
    if reverse:
        out.append(Emission("cart.recovery_reversed", e.ms, NEW_CART, order))
    orders = (*carts.orders[:i], order, *carts.orders[i + 1 :])
    return replace(carts, at_ms=max(e.ms, carts.at_ms), orders=orders)
