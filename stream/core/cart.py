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

from msgspec import Struct
from msgspec.structs import replace

from tracker.contract.settings import Settings

State = Literal["none", "open", "abandoned", "reopened", "empty", "converted", "lost"]
Input = Literal["activity", "emptying", "idle", "lost", "click", "order", "undo"]
What = Literal[
    "cart.opened", "cart.emptied", "cart.abandoned", "cart.reopened", "cart.converted", "cart.recovered", "cart.lost",
    "cart.converted_late", "cart.recovery_reversed", "order.without_cart",
    "order.completed", "cart.checkout_reached", "cart.answered",
]  # fmt: skip
"""The last three are for counting only: an order that is new; an abandoned cart that comes to its checkout after all; a
reason given after the abandonment."""
Do = Literal[
    "add", "remove", "view", "checkout", "payment", "order", "undo", "click", "visit", "coupon", "failed", "answer"
]
"""visit: a page that a message's link has led to. It is a click that no provider may have told."""
VISIT_OF_CLICK_MS: Final = 30 * 60_000
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

STAGES: Final = ("cart", "checkout", "payment")
_STAGE_OF: Final[dict[str, int]] = {"checkout": 1, "payment": 2}
ACTIVE: Final[frozenset[State]] = frozenset(("open", "reopened", "abandoned"))
WAITING: Final[frozenset[State]] = frozenset(("open", "reopened"))

SHIPPING: Final = "shipping"
COUPON: Final = "coupon"
PAYMENT: Final = "payment"
UNKNOWN: Final = "unknown"

MAX_LINES: Final = 100
MAX_CARTS: Final = 8
"""Carts a visitor has at a time, ended ones too: more are a script, and each is read with every event."""
MAX_LINKS: Final = 16
"""checkout_ids and order_ids whose cart is known, the latest: two for each cart."""
MAX_COUNTED: Final = 20
"""Products of a cart by which it is counted: its first ones."""
MAX_ORDERS: Final = 50
"""Orders that are remembered; an older order_id that comes again counts again."""
MAX_QUANTITY: Final = 1e6
MAX_PRICE: Final = 1e12
"""Of a line, of a cart and of an order."""


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
    """One event as the carts see it."""

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
    """Campaign of a click or visit; of `checkout` that the step is the shipping's; of `answer` the reason given."""
    cart: str | None = None
    checkout: str | None = None
    link: str | None = None
    """Where the visitor goes on with it."""
    since_ms: int | None = None
    """When an order was made that came too late to be sorted in: it closes no cart opened after that."""
    brought: str | None = None
    """The campaign that brought the visitor."""


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
    gain: float = 0.0
    """Its value, if the cart that it is for was recovered."""
    opened_ms: tuple[int, ...] = ()
    """When the carts were opened that it recovered: the one that it is for first."""
    brought: tuple[str | None, ...] = ()
    """The campaigns of these; (): of none."""
    left: tuple[tuple[str, ...], ...] = ()
    """What these were left with, as Cart.left; (): nothing is known of any."""


class Cart(Struct, frozen=True, omit_defaults=True):
    """One cart. Times in ms."""

    key: str = ""
    """Its cart_id; '': the visitor's cart without an id."""
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
    checkout: str | None = None
    """Latest checkout_id."""
    link: str | None = None
    """Where the visitor goes on with it."""
    denied: bool = False
    """A coupon was denied in this episode."""
    shipping: bool = False
    """Its last step is the shipping's."""
    failed: bool = False
    """A payment failed in this episode."""
    answer: str | None = None
    """What the visitor said why it was left."""
    brought: str | None = None
    """The campaign that brought the visitor who opened the episode."""
    left: tuple[str, ...] = ()
    """Products that were in it when the episode was first abandoned: it counts as theirs whatever becomes of it."""


class Carts(Struct, frozen=True, omit_defaults=True):
    """All carts of a visitor, and the orders."""

    at_ms: int = 0
    """Time of the last entry or timer."""
    carts: tuple[Cart, ...] = ()
    """Sorted by key."""
    orders: tuple[Order, ...] = ()
    """Latest last."""
    links: dict[str, str] = {}
    """'checkout ID' or 'order ID' -> key of its cart; latest last."""

    @property
    def latest(self) -> Cart:
        """The cart that is not over and was used last, else the one that changed last."""
        return max(self.carts, key=_recent, default=NEW_CART)


class Emission(Struct, frozen=True):
    what: What
    at_ms: int
    cart: Cart
    """What it is about: the cart just after an abandonment; just before it ended."""
    order: Order | None = None
    quiet: bool = False
    """An abandonment too soon after the former."""
    was: str | None = None
    """With cart.answered: the reason until then."""
    told: tuple[str, int] | None = None
    """Of what its trigger's id is made, see cart_log.Told; None: it has none, or none yet."""


NEW_CART: Final = Cart()
NEW: Final = Carts()


def _recent(cart: Cart) -> tuple[bool, int, str]:
    active = cart.state in ACTIVE
    return active, cart.last_ms if active else cart.at_ms, cart.key


def reason_of(cart: Cart) -> str:
    """Why it was left, as far as its episode tells (domain: A435)."""
    if cart.answer is not None:
        return cart.answer
    return COUPON if cart.denied else SHIPPING if cart.shipping else PAYMENT if cart.failed else UNKNOWN


def counted_of(items: tuple[Line, ...]) -> tuple[str, ...]:
    """The products by which a cart is counted."""
    return tuple(line.id for line in items[:MAX_COUNTED])


def value_of(items: tuple[Line, ...]) -> float:
    """Sum of price x quantity, in the cart's currency, at most MAX_PRICE. Lines without a price count nothing."""
    return min(round(sum((i.price * i.qty for i in items if i.price is not None), 0.0), 4), MAX_PRICE)


def due_ms(carts: Carts, rules: Rules) -> int | None:
    """When the earliest timer of the carts is due."""
    if len(carts.carts) == 1:
        return due_of(carts.carts[0], rules)
    return min((due for c in carts.carts if (due := due_of(c, rules)) is not None), default=None)


def due_of(cart: Cart, rules: Rules) -> int | None:
    if cart.state in WAITING:
        return cart.last_ms + rules.idle_ms[cart.stage]
    if cart.state == "abandoned":
        return cart.abandoned_ms + rules.lost_ms
    return None


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
            others.remove(min(others, key=_recent))
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
    items = _items(cart.items, e)
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
            cur=e.cur,
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
            cur=e.cur or cart.cur,
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
        first = max(active, key=_recent)
    elif e.since_ms is not None and any(c.state in ACTIVE for c in carts.carts):
        return []
    elif named is not None:
        first = named
    else:
        first = max((c for c in carts.carts if c.state == "lost"), key=_recent, default=_get(carts, ""))
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
        part = order if cart is first else replace(order, by=by.get(cart.key), gain=0.0)
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


def merge_carts(one: Carts, other: Carts) -> Carts:
    """Two visitors' carts without their entries as one person's; the same whichever comes first. Of one cart that both
    had in use the lines are added up, as if put into one; an order of one that is later than the other's last activity
    has closed that, too."""
    if other in (NEW, one):
        return one
    if one == NEW:
        return other
    known = sorted(
        (*one.orders, *other.orders), key=lambda o: (o.ms, o.id, o.back, o.reversed, o.value, o.cur or "", o.by or "")
    )
    orders = {o.id: o for o in known}
    closed_ms = max((o.ms for o in orders.values()), default=0)
    both: dict[str, list[Cart]] = {}
    for cart in (*one.carts, *other.carts):
        both.setdefault(cart.key, []).append(cart)
    carts = sorted((_merged(each, closed_ms) for each in both.values()), key=_recent)[-MAX_CARTS:]
    links = dict(sorted({*one.links.items(), *other.links.items()})[-MAX_LINKS:])
    return Carts(
        at_ms=max(one.at_ms, other.at_ms),
        carts=tuple(sorted(carts, key=lambda c: c.key)),
        orders=tuple(orders.values())[-MAX_ORDERS:],
        links=links,
    )


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
    lines = {line.id: line for line in older.items}
    for line in newer.items:
        if (same := lines.get(line.id)) is not None:
            lines[line.id] = _added(same, line)
        elif len(lines) < MAX_LINES:
            lines[line.id] = line
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
        items=tuple(lines.values()),
        cur=newer.cur or older.cur,
        touch=max((c.touch for c in active if c.touch), key=lambda t: (t[1], t[0]), default=None),
        checkout=newer.checkout or older.checkout,
        link=newer.link or older.link,
        denied=older.denied or newer.denied,
        shipping=newer.shipping,
        failed=older.failed or newer.failed,
        answer=newer.answer or older.answer,
        left=tuple(dict.fromkeys((*older.left, *newer.left)))[:MAX_COUNTED],
    )


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


def key_of(e: Entry) -> tuple[int, str]:
    return e.ms, e.id
