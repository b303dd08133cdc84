"""The vectors of a cart, in seconds."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, NamedTuple

from tests.unit.shop_events import (
    H,
    add,
    answer,
    cancel,
    checkout,
    click,
    denied,
    event,
    failed,
    named,
    order,
    payment,
    refund,
    remove,
    shipping,
    view,
    visit,
)
from tracker.contract import events as ev
from tracker.contract.events import ProfileEvent


class Vector(NamedTuple):
    name: str
    events: Sequence[ProfileEvent]
    now_s: float
    state: str
    emitted: Sequence[str]
    """What it says, in order; cart.opened, reopened and order.completed are left out where the spec does."""


C1: Final = {"cart_id": "c1"}
C2: Final = {"cart_id": "c2"}
K1: Final = {"checkout_id": "k1"}
VECTORS: Final = (
    Vector("S1", [add(0), add(60, "B", 2)], 7200, "abandoned", ["opened@0", "abandoned cart@3660 20 #1.1"]),
    Vector("S2", [add(0), checkout(600), order(900)], 9 * H, "converted", ["opened@0", "converted checkout@900"]),
    Vector("S3", [add(0)], 3600, "abandoned", ["opened@0", "abandoned cart@3600 10 #1.1"]),
    Vector("S4", [add(0)], 3599, "open", ["opened@0"]),
    Vector("S5", [add(0), remove(100)], 9 * H, "empty", ["opened@0", "emptied@100"]),
    Vector("S7", [add(0), checkout(60)], 1860, "abandoned", ["opened@0", "abandoned checkout@1860 10 #1.1"]),
    Vector(
        "S8",
        [add(0), checkout(60), payment(120)],
        1020,
        "abandoned",
        ["opened@0", "abandoned payment@1020 10 #1.1"],
    ),
    Vector(
        "S9",
        [add(0), click(7200), order(10800)],
        9 * H,
        "converted",
        ["opened@0", "abandoned cart@3600 10 #1.1", "recovered by c1@10800"],
    ),
    Vector(
        "S9 by the link alone",
        [add(0), visit(7200), order(10800)],
        9 * H,
        "converted",
        ["opened@0", "abandoned cart@3600 10 #1.1", "recovered by tet@10800"],
    ),
    Vector(
        "S9 by a click that was told, too",
        [add(0), click(7200), visit(7203), order(10800)],
        9 * H,
        "converted",
        ["opened@0", "abandoned cart@3600 10 #1.1", "recovered by c1@10800"],
    ),
    Vector(
        "S9 by another message later",
        [add(0), click(7200), visit(9001, traffic="zalo"), order(10800)],
        9 * H,
        "converted",
        ["opened@0", "abandoned cart@3600 10 #1.1", "recovered by tet@10800"],
    ),
    Vector(
        "S9 by an ad, before the abandonment and by no campaign",
        [add(0), visit(10), visit(7200, traffic="paid"), visit(7300, None, traffic="sms"), order(10800)],
        9 * H,
        "converted",
        ["opened@0", "abandoned cart@3600 10 #1.1", "recovered by organic@10800"],
    ),
    Vector(
        "S11",
        [add(0), add(10800), order(14400)],
        9 * H,
        "converted",
        [
            "opened@0",
            "abandoned cart@3600 10 #1.1",
            "reopened@10800",
            "abandoned cart@14400 20 #1.2 quiet",
            "recovered by organic@14400",
        ],
    ),
    Vector(
        "S12",
        [add(0), order(60), add(18000, "C")],
        9 * H,
        "abandoned",
        ["opened@0", "converted cart@60", "opened@18000", "abandoned cart@21600 7 #2.1"],
    ),
    Vector(
        "S14",
        [add(0, id="m"), add(0, id="m")],
        9 * H,
        "abandoned",
        ["opened@0", "abandoned cart@3600 10 #1.1"],
    ),
    Vector("S15", [add(0)], 608400, "lost", ["opened@0", "abandoned cart@3600 10 #1.1", "lost@608400"]),
    Vector("S17", [remove(0)], 9 * H, "none", []),
    Vector("S18", [checkout(0)], 9 * H, "abandoned", ["opened@0", "abandoned checkout@1800 0 #1.1"]),
    Vector("S19", [add(0), view(10)], 9 * H, "empty", ["opened@0", "emptied@10"]),
    Vector(
        "S22",
        [add(0), order(3600)],
        9 * H,
        "converted",
        ["opened@0", "abandoned cart@3600 10 #1.1", "recovered by organic@3600"],
    ),
)
"""domain.md 5.4, S1 to S22."""

M: Final = {"variant": "M"}
L: Final = {"variant": "L", "sku": "A-L", "price": 12}
MORE: Final = (
    Vector(
        "two variants of a product are two lines: one is taken out",
        [named(add(0), **M), named(add(10), **L), named(remove(20), **M)],
        2 * H,
        "abandoned",
        ["opened@0", "abandoned cart@3620 12 #1.1"],
    ),
    Vector(
        "each variant has its price",
        [named(add(0), **M), named(add(10), **L), named(add(20), sku="A-L", price=12)],
        2 * H,
        "abandoned",
        ["opened@0", "abandoned cart@3620 34 #1.1"],
    ),
    Vector(
        "a product that is taken out without a word on its variant",
        [named(add(0), **M), named(add(10), **L), remove(20)],
        2 * H,
        "empty",
        ["opened@0", "emptied@20"],
    ),
    Vector(
        "the only one of a product goes, whatever its variant is called by then",
        [named(add(0), **M), named(remove(20), variant="medium")],
        2 * H,
        "empty",
        ["opened@0", "emptied@20"],
    ),
    Vector(
        "some pieces are taken out of several lines",
        [named(add(0, quantity=2), **M), named(add(10, quantity=3), **L), named(remove(20), quantity=4)],
        2 * H,
        "abandoned",
        ["opened@0", "abandoned cart@3620 12 #1.1"],
    ),
    Vector(
        "prices in two currencies are no sum",
        [named(add(0), currency="USD"), named(add(10, "B", 2), currency="vnd"), named(remove(20, "C"), currency="EUR")],
        2 * H,
        "abandoned",
        ["opened@0", "abandoned cart@3620 10 #1.1"],
    ),
    Vector(
        "the price of a line is the latest that was said, in its currency",
        [named(add(0), currency="USD"), named(add(10), currency="VND"), named(add(20, "B"), currency="USD")],
        2 * H,
        "abandoned",
        ["opened@0", "abandoned cart@3620 5 #1.1"],
    ),
    Vector(
        "a checkout without products says nothing of prices",
        [named(add(0), currency="USD"), named(checkout(10), currency="VND")],
        2 * H,
        "abandoned",
        ["opened@0", "abandoned checkout@1810 10 #1.1"],
    ),
    Vector(
        "an emptied cart begins anew",
        [add(0), remove(10), add(20, "B")],
        2 * H,
        "abandoned",
        ["opened@0", "emptied@10", "opened@20", "abandoned cart@3620 5 #2.1"],
    ),
    Vector(
        "an order after the cart was emptied",
        [add(0), remove(10), order(20)],
        2 * H,
        "converted",
        ["opened@0", "emptied@10", "without cart@20"],
    ),
    Vector(
        "an abandoned cart is emptied",
        [add(0), remove(4000)],
        9 * H,
        "empty",
        ["opened@0", "abandoned cart@3600 10 #1.1", "emptied@4000"],
    ),
    Vector(
        "a reopened cart is emptied",
        [add(0), add(4000, "B"), view(4100)],
        9 * H,
        "empty",
        ["opened@0", "abandoned cart@3600 10 #1.1", "reopened@4000", "emptied@4100"],
    ),
    Vector(
        "a reopened cart stays reopened",
        [add(0), add(4000, "B"), add(4100, "B"), order(4200)],
        9 * H,
        "converted",
        ["opened@0", "abandoned cart@3600 10 #1.1", "reopened@4000", "recovered by organic@4200"],
    ),
    Vector(
        "a removal that leaves something reopens",
        [add(0), add(1, "B"), remove(4000)],
        9 * H,
        "abandoned",
        ["opened@0", "abandoned cart@3601 15 #1.1", "reopened@4000", "abandoned cart@7600 5 #1.2 quiet"],
    ),
    Vector(
        "abandoned again a day later",
        [add(0), add(25 * H, "B")],
        48 * H,
        "abandoned",
        ["opened@0", "abandoned cart@3600 10 #1.1", "reopened@90000", "abandoned cart@93600 15 #1.2"],
    ),
    Vector(
        "a click too long before the order",
        [add(0), click(2 * H), order(2 * H + 5 * 86400 + 1)],
        7 * 86400,
        "converted",
        ["opened@0", "abandoned cart@3600 10 #1.1", "recovered by organic@439201"],
    ),
    Vector(
        "a click five days before the order",
        [add(0), click(2 * H), order(2 * H + 5 * 86400)],
        7 * 86400,
        "converted",
        ["opened@0", "abandoned cart@3600 10 #1.1", "recovered by c1@439200"],
    ),
    Vector(
        "the last click counts, before the abandonment none does",
        [add(0), click(10, "c0"), click(4000), click(5000, "c2"), add(5100), order(5200)],
        9 * H,
        "converted",
        ["opened@0", "abandoned cart@3600 10 #1.1", "reopened@5100", "recovered by c2@5200"],
    ),
    Vector(
        "a click told after the visitor is back",
        [add(0), view(4000, "A"), click(4001), order(4200)],
        9 * H,
        "converted",
        ["opened@0", "abandoned cart@3600 10 #1.1", "reopened@4000", "recovered by c1@4200"],
    ),
    Vector(
        "an order for a lost cart",
        [add(0), order(608401)],
        608402,
        "converted",
        ["opened@0", "abandoned cart@3600 10 #1.1", "lost@608400", "converted late@608401"],
    ),
    Vector(
        "a removal leaves a lost or converted cart",
        [add(0), remove(608401)],
        608402,
        "lost",
        ["opened@0", "abandoned cart@3600 10 #1.1", "lost@608400"],
    ),
    Vector(
        "a lost cart's visitor begins anew",
        [add(0), add(608401, "B")],
        608402,
        "open",
        ["opened@0", "abandoned cart@3600 10 #1.1", "lost@608400", "opened@608401"],
    ),
    Vector(
        "orders without a cart, one reported twice",
        [order(0), order(10, "o2"), order(20, id="again")],
        9 * H,
        "converted",
        ["without cart@0", "without cart@10"],
    ),
    Vector(
        "an order reported again leaves the next cart alone",
        [add(0), order(10), add(20, "B"), order(30, id="by the server")],
        2 * H,
        "abandoned",
        ["opened@0", "converted cart@10", "opened@20", "abandoned cart@3620 5 #2.1"],
    ),
    Vector(
        "a removal from a bought cart",
        [add(0), order(10), remove(20), view(30)],
        9 * H,
        "converted",
        ["opened@0", "converted cart@10"],
    ),
    Vector(
        "a recovery is cancelled, and cancelled again",
        [add(0), order(4000), cancel(5000), cancel(5001)],
        9 * H,
        "converted",
        ["opened@0", "abandoned cart@3600 10 #1.1", "recovered by organic@4000", "reversed@5000"],
    ),
    Vector(
        "a recovery is refunded in two parts",
        [add(0), order(4000), refund(5000, 5), refund(6000, 15)],
        9 * H,
        "converted",
        ["opened@0", "abandoned cart@3600 10 #1.1", "recovered by organic@4000", "reversed@6000"],
    ),
    Vector(
        "a part is refunded",
        [add(0), order(4000), refund(5000, 19)],
        9 * H,
        "converted",
        ["opened@0", "abandoned cart@3600 10 #1.1", "recovered by organic@4000"],
    ),
    Vector(
        "a refund after the window",
        [add(0), order(4000), refund(4000 + 7 * 86400 + 1)],
        8 * 86400,
        "converted",
        ["opened@0", "abandoned cart@3600 10 #1.1", "recovered by organic@4000"],
    ),
    Vector(
        "a cancelled order that recovered nothing",
        [add(0), order(10), cancel(20)],
        9 * H,
        "converted",
        ["opened@0", "converted cart@10"],
    ),
    Vector(
        "a look at an empty cart, and at one of unknown content",
        [view(0), event(ev.CART_VIEWED, 1)],
        9 * H,
        "none",
        [],
    ),
    Vector(
        "a snapshot replaces the items",
        [add(0), add(1, "B", 3), view(2, "A", "C")],
        2 * H,
        "abandoned",
        ["opened@0", "abandoned cart@3602 20 #1.1"],
    ),
    Vector(
        "every step of the checkout is activity",
        [add(0), checkout(60), event(ev.CHECKOUT_STEP_VIEWED, 1000), event(ev.CHECKOUT_STEP_COMPLETED, 2000)],
        3800,
        "abandoned",
        ["opened@0", "abandoned checkout@3800 10 #1.1"],
    ),
    Vector(
        "a stage does not fall",
        [add(0), payment(60), add(100, "B")],
        1000,
        "abandoned",
        ["opened@0", "abandoned payment@1000 15 #1.1"],
    ),
    Vector(
        "a click alone",
        [click(0)],
        9 * H,
        "none",
        [],
    ),
)
"""The rows of domain.md 5.3 that the spec's vectors leave out."""

KEYS: Final = (
    Vector(
        "two carts are abandoned each by itself",
        [named(add(0), **C1), named(add(600, "B"), **C2)],
        2 * H,
        "abandoned",
        ["opened@0", "opened@600", "abandoned cart@3600 10 #1.1", "abandoned cart@4200 5 #1.1"],
    ),
    Vector(
        "an order of one cart closes the other, too",
        [named(add(0), **C1), named(add(600, "B"), **C2), named(order(900), **C1)],
        2 * H,
        "converted",
        ["opened@0", "opened@600", "converted cart@900", "converted cart@900"],
    ),
    Vector(
        "a cart of after the order stays",
        [named(add(0), **C1), named(order(60), **C1), named(add(61, "B"), **C2)],
        2 * H,
        "abandoned",
        ["opened@0", "converted cart@60", "opened@61", "abandoned cart@3661 5 #1.1"],
    ),
    Vector(
        "an order that names nothing closes all",
        [add(0), named(add(600, "B"), **C2), order(4000)],
        9 * H,
        "converted",
        ["opened@0", "opened@600", "abandoned cart@3600 10 #1.1", "converted cart@4000", "recovered by organic@4000"],
    ),
    Vector(
        "a checkout_id stands for the cart that it came with",
        [named(add(0), **C1), named(checkout(60), **C1, **K1), named(add(90, "B"), **C2), named(payment(120), **K1)],
        1020,
        "abandoned",
        ["opened@0", "opened@90", "abandoned payment@1020 10 #1.1"],
    ),
    Vector(
        "an order_id stands for the cart that it came with",
        [named(add(0), **C1), named(checkout(60), **C1, order_id="o1"), named(add(4000, "B"), **C2), order(4001)],
        2 * H,
        "converted",
        ["opened@0", "abandoned checkout@1860 10 #1.1", "opened@4000", "recovered by organic@4001",
         "converted cart@4001"],
    ),
    Vector(
        "a checkout under a new id goes on with the cart used last",
        [named(add(0), **C1), named(checkout(60), **K1, order_id="o1"), named(payment(120), **K1)],
        1020,
        "abandoned",
        ["opened@0", "abandoned payment@1020 10 #1.1"],
    ),
    Vector(
        "what names no cart is the visitor's own",
        [named(add(0), **C1), add(60, "B"), remove(90, "B")],
        2 * H,
        "abandoned",
        ["opened@0", "opened@60", "emptied@90", "abandoned cart@3600 10 #1.1"],
    ),
    Vector(
        "a cart_id that is used again after its order",
        [named(add(0), **C1), named(order(60), **C1), named(add(120, "B"), **C1), named(order(180, "o2"), **C1)],
        2 * H,
        "converted",
        ["opened@0", "converted cart@60", "opened@120", "converted cart@180"],
    ),
    Vector(
        "a recovery of two carts is taken back as one",
        [named(add(0), **C1), named(add(1, "B"), **C2), named(order(4000), **C2), cancel(4100)],
        9 * H,
        "converted",
        ["opened@0", "opened@1", "abandoned cart@3600 10 #1.1", "abandoned cart@3601 5 #1.1",
         "recovered by organic@4000", "recovered by organic@4000", "reversed@4100"],
    ),
    Vector(
        "what tells why a cart is left moves no timer",
        [add(0), denied(100), shipping(200), failed(300), answer(400), denied(500)],
        2000,
        "abandoned",
        ["opened@0", "abandoned checkout@2000 10 #1.1"],
    ),
)  # fmt: skip
"""Several carts of a visitor: domain.md 5.2."""
