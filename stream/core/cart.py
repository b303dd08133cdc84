"""The cart of one visitor: a table of transitions, and the fold that walks it in event time.

`step` takes a cart and one entry of its log, `advance` fires the timers that are due; both give the new cart and what
was emitted on the way. The order of entries is (ms, id), id = messageId. A timer due at exactly the time of an entry
goes first: an order in the very millisecond of the abandonment recovers the cart. Late entries: cart_log.py.

Rules beside the table, where the spec leaves room:
- an order whose order_id is known changes nothing, in whatever state: browser and server may both report it
- a click on a message counts from the abandonment on, also after the visitor came back (providers report it late)
- within cart_repeat_s of the last abandonment that was told, a further one of the same cart is quiet
- the recovery window, in which a full cancellation or refund takes a recovery back, is cart_lost_s from the order
- a new episode begins with no items; a list of no products empties a cart as Cart Viewed only
"""

from __future__ import annotations

from typing import Final, Literal

from msgspec import Struct
from msgspec.structs import replace

from tracker.contract.settings import Settings

State = Literal["none", "open", "abandoned", "reopened", "empty", "converted", "lost"]
Input = Literal["activity", "emptying", "idle", "lost", "click", "order", "undo"]
What = Literal[
    "cart.opened", "cart.emptied", "cart.abandoned", "cart.reopened", "cart.converted", "cart.recovered", "cart.lost",
    "cart.converted_late", "cart.recovery_reversed", "order.without_cart", "order.completed",
]  # fmt: skip
Do = Literal["add", "remove", "view", "checkout", "payment", "order", "past_order", "undo", "click"]

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

STAGES: Final = ("cart", "checkout", "payment")
_STAGE_OF: Final[dict[str, int]] = {"checkout": 1, "payment": 2}
ACTIVE: Final[frozenset[State]] = frozenset(("open", "reopened", "abandoned"))
WAITING: Final[frozenset[State]] = frozenset(("open", "reopened"))

MAX_LINES: Final = 100
MAX_ORDERS: Final = 50
"""Orders a cart remembers; an older order_id that comes again counts again."""
MAX_QUANTITY: Final = 1e6


class Rules(Struct, frozen=True):
    """The settings a cart goes by, ms."""

    idle_ms: tuple[int, int, int]
    """By stage."""
    lost_ms: int
    repeat_ms: int
    click_ms: int


def rules_of(settings: Settings) -> Rules:
    ms = tuple(round(1000 * s) for s in (settings.cart_idle_s, settings.checkout_idle_s, settings.payment_idle_s))
    return Rules(
        (max(1, ms[0]), max(1, ms[1]), max(1, ms[2])),
        max(1, round(1000 * settings.cart_lost_s)),
        round(1000 * settings.cart_repeat_s),
        round(1000 * settings.cart_click_s),
    )


class Line(Struct, frozen=True, omit_defaults=True):
    """One product in a cart."""

    id: str
    qty: float = 1
    price: float | None = None
    name: str | None = None
    url: str | None = None
    img: str | None = None


class Entry(Struct, frozen=True, omit_defaults=True):
    """One event as the cart sees it."""

    ms: int
    id: str
    """Its messageId."""
    do: Do
    lines: tuple[Line, ...] | None = None
    """Products; None = the event named none. With `remove`, qty 0 = the whole line."""
    order: str | None = None
    value: float | None = None
    """Of the order; with `undo` the amount given back, None = all of it."""
    cur: str | None = None
    by: str | None = None
    """Campaign of a click."""


class Order(Struct, frozen=True, omit_defaults=True):
    id: str
    ms: int
    value: float = 0.0
    cur: str | None = None
    by: str | None = None
    """It recovered a cart: the campaign, or 'organic'."""
    back: float = 0.0
    """Given back so far."""
    reversed: bool = False


class Cart(Struct, frozen=True, omit_defaults=True):
    """The latest cart of a visitor. Times in ms."""

    state: State = "none"
    at_ms: int = 0
    """When it last changed: by an entry or a timer."""
    episode: int = 0
    stage: int = 0
    seq: int = 0
    """How often this episode was abandoned."""
    opened_ms: int = 0
    opened_by: str = ""
    """messageId that opened the episode."""
    last_ms: int = 0
    """Last activity."""
    abandoned_ms: int = 0
    told_ms: int = 0
    """The last abandonment of this episode that was not quiet."""
    items: tuple[Line, ...] = ()
    cur: str | None = None
    touch: tuple[str, int] | None = None
    """Last message click since the episode was first abandoned: (campaign, ms)."""
    orders: tuple[Order, ...] = ()
    """Latest last."""


class Emission(Struct, frozen=True):
    what: What
    at_ms: int
    cart: Cart
    """What it is about: the cart just after an abandonment; just before it ended."""
    order: Order | None = None
    quiet: bool = False
    """An abandonment too soon after the former."""
    told: tuple[str, int] | None = None
    """Of what its trigger's id is made, see cart_log.Told; None: it has none, or none yet."""


NEW: Final = Cart()


def value_of(items: tuple[Line, ...]) -> float:
    """Sum of price x quantity, in the cart's currency. Lines without a price count nothing."""
    return round(sum(i.price * i.qty for i in items if i.price is not None), 4)


def due_ms(cart: Cart, rules: Rules) -> int | None:
    """When the cart's timer is due."""
    if cart.state in WAITING:
        return cart.last_ms + rules.idle_ms[cart.stage]
    if cart.state == "abandoned":
        return cart.abandoned_ms + rules.lost_ms
    return None


def advance(cart: Cart, until_ms: int, rules: Rules) -> tuple[Cart, list[Emission]]:
    """Fire the timers due <= until_ms."""
    out: list[Emission] = []
    while (due := due_ms(cart, rules)) is not None and due <= until_ms:
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
            )
            out.append(Emission("cart.abandoned", due, cart, quiet=quiet))
        else:
            out.append(Emission(what or "cart.lost", due, cart))
            cart = _ended(cart, to, due)
    return cart, out


def step(cart: Cart, e: Entry, rules: Rules) -> tuple[Cart, list[Emission]]:
    """Take one entry, which is not before the cart's last change."""
    cart, out = advance(cart, e.ms, rules)
    match e.do:
        case "order":
            return _order(cart, e, rules, out)
        case "past_order":
            return _count_order(cart, e, out)[0], out
        case "undo":
            return _undo(cart, e, rules, out), out
        case "click":
            if (cart.state, "click") in TABLE and e.ms >= cart.abandoned_ms:
                cart = replace(cart, touch=(e.by or "unknown", e.ms))
            return _at(cart, e), out
        case _:
            return _shop(cart, e, out), out


def _at(cart: Cart, e: Entry) -> Cart:
    return replace(cart, at_ms=e.ms) if e.ms > cart.at_ms else cart


def _ended(cart: Cart, to: State, ms: int) -> Cart:
    """The cart at the end of its episode: what belonged to the episode is dropped."""
    return Cart(state=to, at_ms=max(ms, cart.at_ms), episode=cart.episode, orders=cart.orders)


def _shop(cart: Cart, e: Entry, out: list[Emission]) -> Cart:
    """Something was put in, taken out, looked at, or carried on to the checkout."""
    active = cart.state in ACTIVE
    items = _items(cart.items, e)
    emptying = not items and (e.do == "remove" or (e.do == "view" and e.lines is not None))
    if not active and e.do == "view" and not items:
        return _at(cart, e)
    row = TABLE.get((cart.state, "emptying" if emptying else "activity"))
    if row is None:
        return _at(cart, e)
    to, what = row
    if to == "empty":
        out.append(Emission("cart.emptied", e.ms, cart))
        return _ended(cart, to, e.ms)
    stage = _STAGE_OF.get(e.do, 0)
    if not active:
        cart = Cart(
            state=to,
            at_ms=max(e.ms, cart.at_ms),
            episode=cart.episode + 1,
            stage=stage,
            opened_ms=e.ms,
            opened_by=e.id,
            last_ms=e.ms,
            items=items,
            cur=e.cur,
            orders=cart.orders,
        )
    else:
        cart = replace(
            cart,
            state=to,
            at_ms=max(e.ms, cart.at_ms),
            stage=max(stage, cart.stage),
            last_ms=max(e.ms, cart.last_ms),
            items=items,
            cur=e.cur or cart.cur,
        )
    if what is not None:
        out.append(Emission(what, e.ms, cart))
    return cart


def _added(old: Line, line: Line) -> Line:
    """More of a product. What the newer event does not say stays as it was."""
    return Line(
        line.id,
        min(old.qty + line.qty, MAX_QUANTITY),
        line.price if line.price is not None else old.price,
        line.name or old.name,
        line.url or old.url,
        line.img or old.img,
    )


def _items(items: tuple[Line, ...], e: Entry) -> tuple[Line, ...]:
    """The lines after the entry."""
    if e.lines is None:
        return items
    if e.do in ("view", "checkout", "payment"):
        return e.lines if e.lines or e.do == "view" else items
    by_id = {line.id: line for line in items}
    for line in e.lines:
        old = by_id.get(line.id)
        if e.do == "add":
            if old is not None:
                by_id[line.id] = _added(old, line)
            elif len(by_id) < MAX_LINES:
                by_id[line.id] = line
        elif old is not None:
            if line.qty == 0 or line.qty >= old.qty:
                del by_id[line.id]
            else:
                by_id[line.id] = replace(old, qty=old.qty - line.qty)
    return tuple(by_id.values())


def _count_order(cart: Cart, e: Entry, out: list[Emission]) -> tuple[Cart, Order | None]:
    """Remember the order and emit order.completed; None when its id is known."""
    id = e.order or f"message:{e.id}"
    if any(o.id == id for o in cart.orders):
        return _at(cart, e), None
    order = Order(id, e.ms, e.value or 0.0, e.cur or cart.cur)
    out.append(Emission("order.completed", e.ms, cart, order))
    return replace(cart, at_ms=max(e.ms, cart.at_ms), orders=(*cart.orders[1 - MAX_ORDERS :], order)), order


def _order(cart: Cart, e: Entry, rules: Rules, out: list[Emission]) -> tuple[Cart, list[Emission]]:
    before = cart
    cart, order = _count_order(cart, e, out)
    if order is None:
        return cart, out
    to, what = TABLE[cart.state, "order"]
    assert what is not None  # every row of an order emits
    if what == "cart.recovered":
        clicked = before.touch is not None and e.ms - before.touch[1] <= rules.click_ms
        order = replace(order, by=before.touch[0] if clicked and before.touch else "organic")
        cart = replace(cart, orders=(*cart.orders[:-1], order))
    out.append(Emission(what, e.ms, before, order))
    return _ended(cart, to, e.ms), out


def _undo(cart: Cart, e: Entry, rules: Rules, out: list[Emission]) -> Cart:
    """An order was cancelled or refunded."""
    i = next((i for i, o in enumerate(cart.orders) if o.id == e.order), None)
    if i is None:
        return _at(cart, e)
    order = cart.orders[i]
    back = order.value if e.value is None else min(order.value, order.back + e.value)
    full = e.value is None or back >= order.value
    reverse = full and order.by is not None and not order.reversed and e.ms - order.ms <= rules.lost_ms
    order = replace(order, back=back, reversed=order.reversed or reverse)
    if reverse:
        out.append(Emission("cart.recovery_reversed", e.ms, cart, order))
    orders = (*cart.orders[:i], order, *cart.orders[i + 1 :])
    return replace(cart, at_ms=max(e.ms, cart.at_ms), orders=orders)


def merge_carts(one: Cart, other: Cart) -> Cart:
    """Two carts without their entries as one person's; the same whichever comes first. Of two that both have something
    in them the lines are added up, as if put into one; an order of one that is later than the other's last activity has
    closed that, too."""
    if other in (NEW, one):
        return one
    if one == NEW:
        return other
    older, newer = sorted((one, other), key=lambda c: (c.opened_ms, c.last_ms, c.at_ms, _sortable(c)))
    known = sorted(
        (*one.orders, *other.orders), key=lambda o: (o.ms, o.id, o.back, o.reversed, o.value, o.cur or "", o.by or "")
    )
    orders = {o.id: o for o in known}
    closed_ms = max((o.ms for o in orders.values()), default=0)
    active = [c for c in (older, newer) if c.state in ACTIVE and c.last_ms > closed_ms]
    kept = {
        "at_ms": max(one.at_ms, other.at_ms),
        "episode": max(one.episode, other.episode),
        "orders": tuple(orders.values())[-MAX_ORDERS:],
    }
    if not active:
        # Both are over, or closed by the other's order: the one that changed last says how it ended.
        last = max((older, newer), key=lambda c: c.at_ms)
        ended = last.state if last.state not in ACTIVE else "converted"
        return replace(NEW, state=ended, **kept)
    if len(active) == 1:
        return replace(active[0], **kept)
    waiting = [c for c in active if c.state in WAITING]
    seq = max(c.seq for c in active)
    state: State = "abandoned" if not waiting else "reopened" if seq else "open"
    lines = {line.id: line for line in older.items}
    for line in newer.items:
        if (same := lines.get(line.id)) is not None:
            lines[line.id] = _added(same, line)
        elif len(lines) < MAX_LINES:
            lines[line.id] = line
    return replace(
        older,
        state=state,
        stage=max(c.stage for c in active),
        seq=seq,
        last_ms=max(c.last_ms for c in active),
        abandoned_ms=max(c.abandoned_ms for c in active),
        told_ms=max(c.told_ms for c in active),
        items=tuple(lines.values()),
        cur=newer.cur or older.cur,
        touch=max((c.touch for c in active if c.touch), key=lambda t: (t[1], t[0]), default=None),
        **kept,
    )


def _sortable(cart: Cart) -> str:
    return repr((cart.state, cart.stage, cart.seq, cart.opened_by, cart.items, cart.cur, cart.touch, cart.orders))


def fold(entries: list[Entry], now_ms: int, rules: Rules, start: Cart = NEW) -> tuple[Cart, list[Emission]]:
    """The definition of a cart: its entries in the order of (ms, id), then the timers due <= now_ms.

    Entries of one id count once. Entries after now_ms count too.
    """
    cart, out, seen = start, [], set()
    for e in sorted(entries, key=key_of):
        if e.id not in seen:
            seen.add(e.id)
            cart, emitted = step(cart, e, rules)
            out += emitted
    cart, emitted = advance(cart, now_ms, rules)
    return cart, out + emitted


def key_of(e: Entry) -> tuple[int, str]:
    return e.ms, e.id
