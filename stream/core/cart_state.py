"""What is known of one visitor's carts: their lines, states and orders, what events say of them, what was emitted.

Values only; how they change is cart.py's, how two visitors' carts become one's cart_merge.py's.
"""

from __future__ import annotations

from typing import Final, Literal

from msgspec import Struct
from msgspec.structs import replace

from tracker.contract.settings import Settings

State = Literal["none", "open", "abandoned", "reopened", "empty", "converted", "lost"]
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

STAGES: Final = ("cart", "checkout", "payment")
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
    sku: str | None = None
    variant: str | None = None
    cur: str | None = None
    """Of its price, where that is not in the cart's currency."""


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
        return max(self.carts, key=recency, default=NEW_CART)


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


def key_of(e: Entry) -> tuple[int, str]:
    return e.ms, e.id


def recency(cart: Cart) -> tuple[bool, int, str]:
    active = cart.state in ACTIVE
    return active, cart.last_ms if active else cart.at_ms, cart.key


def reason_of(cart: Cart) -> str:
    """Why it was left, as far as its episode tells (domain: A435)."""
    if cart.answer is not None:
        return cart.answer
    return COUPON if cart.denied else SHIPPING if cart.shipping else PAYMENT if cart.failed else UNKNOWN


def counted_of(items: tuple[Line, ...]) -> tuple[str, ...]:
    """The products by which a cart is counted."""
    return tuple(dict.fromkeys(line.id for line in items))[:MAX_COUNTED]


def value_of(items: tuple[Line, ...]) -> float:
    """Sum of price x quantity, in the cart's currency, at most MAX_PRICE. Lines without a price count nothing, nor do
    those whose price is in another currency: nothing is converted."""
    return min(round(sum((i.price * i.qty for i in items if i.price is not None and i.cur is None), 0.0), 4), MAX_PRICE)


def put_in(items: list[Line], line: Line) -> None:
    """More of a line, or one more, as long as there is room."""
    if found := _same(items, line):
        items[items.index(found[0])] = with_more(found[0], line)
    elif len(items) < MAX_LINES:
        items.append(line)


def take_out(items: list[Line], line: Line) -> None:
    """Less of the lines that it is: of the only one with its product where the variant is none that is there."""
    found = _same(items, line)
    if not found and len(of_product := [old for old in items if old.id == line.id]) == 1:
        found = of_product
    left = line.qty
    for old in found:
        if line.qty == 0 or left >= old.qty:
            items.remove(old)
            left -= old.qty
        elif left > 0:
            items[items.index(old)] = replace(old, qty=old.qty - left)
            left = 0


def _same(items: list[Line], line: Line) -> list[Line]:
    """Those of one product and, as far as both say which, of one variant: those that say the most of it."""
    found = [
        old for old in items
        if old.id == line.id
        and (old.sku == line.sku or old.sku is None or line.sku is None)
        and (old.variant == line.variant or old.variant is None or line.variant is None)
    ]  # fmt: skip
    if len(found) > 1:
        agreed = [
            (old.sku is not None and old.sku == line.sku) + (old.variant is not None and old.variant == line.variant)
            for old in found
        ]
        found = [old for old, n in zip(found, agreed, strict=True) if n == max(agreed)]
    return found


def with_more(old: Line, line: Line) -> Line:
    """More of a product. What the newer event does not say stays as it was."""
    return Line(
        line.id,
        min(old.qty + line.qty, MAX_QUANTITY),
        line.price if line.price is not None else old.price,
        line.name or old.name,
        line.url or old.url,
        line.img or old.img,
        line.sku or old.sku,
        line.variant or old.variant,
        line.cur if line.price is not None else old.cur,
    )


def in_currency(items: tuple[Line, ...], before: str | None, cur: str | None) -> tuple[Line, ...]:
    """The lines of a cart whose currency becomes another: prices stay what they are."""
    if before is None or cur is None or before == cur:
        return items
    return tuple(replace(i, cur=None if i.cur == cur else i.cur or before) for i in items)


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
