"""Seeded traffic: who sends what, when, how late and by what clock. The same seed plans the same messages."""

from __future__ import annotations

import random
from dataclasses import dataclass, field
from typing import Any

Json = dict[str, Any]
SHOPPING = (
    ("page", 10), ("screen", 1), ("Product Viewed", 14), ("Product Added", 20), ("Product Removed", 5),
    ("Cart Viewed", 5),
    ("Checkout Started", 6), ("Checkout Step Completed", 2), ("Payment Info Entered", 4), ("Order Completed", 9),
    ("Order Cancelled", 2), ("Order Refunded", 2), ("Email Link Clicked", 4), ("Message Link Clicked", 2),
    ("Push Notification Tapped", 1), ("Email Opened", 2), ("Message Seen", 2), ("Unsubscribed", 1), ("Popup Viewed", 4),
    ("Popup Submitted", 2), ("Đánh giá sản phẩm", 1),
    ("Promotion Viewed", 1), ("Form Submitted", 1), ("Checkout Step Viewed", 2), ("Coupon Denied", 1),
    ("Payment Failed", 1), ("Survey Response Received", 1),
)  # fmt: skip
NAMES = [name for name, _ in SHOPPING]
WEIGHTS = [weight for _, weight in SHOPPING]
GAPS_S = (0.5, 1, 2, 4, 5, 6, 8, 9, 12, 13, 30, 70)
"""Around the idle times of `SETTINGS`, and on them."""
SETTINGS = {
    "cart_idle_s": 12, "checkout_idle_s": 8, "payment_idle_s": 5, "cart_lost_s": 60, "cart_repeat_s": 40,
    "cart_click_s": 50, "stale_s": 200 * 86400, "churn_horizon_d": 28, "churn_enter": 0.8, "churn_leave": 0.65,
    "churn_recheck_d": 0, "fit_hour": -1,
}  # fmt: skip
"""What makes minutes out of days."""
DAY_S = 86400.0


@dataclass
class Planned:
    """A message, sent at `at` (s from the start of the run), of what happened `age_s` before that."""

    at: float
    body: Json
    age_s: float
    skew_s: float = 0.0
    """How far the client's clock is ahead."""
    secret: bool = False
    """Sent with the secret key: an import, which keeps any past time."""


@dataclass
class Poison:
    """Bytes straight into a topic."""

    at: float
    topic: str
    partition: int
    value: bytes | None


@dataclass
class Plan:
    messages: list[Planned] = field(default_factory=list)
    """By `at`."""
    poison: list[Poison] = field(default_factory=list)
    refused: set[str] = field(default_factory=set)
    """messageIds of what the endpoint must refuse."""
    users: dict[str, set[str]] = field(default_factory=dict)
    """Component -> the ids of one person, where no other person has used any of them."""
    late: int = 0
    repeats: int = 0
    skewed: int = 0


class Visitor:
    """One component of ids, and what they do."""

    def __init__(self, draw: random.Random, name: str, duration_s: float) -> None:
        self.draw, self.name, self.duration_s = draw, name, duration_s
        self.skew_s = draw.choice([0.0, 0.0, 0.0, 0.4, -7.0, 3600.0, -3 * DAY_S])
        self.orders = 0
        self.n = 0
        self.out: list[Planned] = []
        began = draw.random() * 0.8 * duration_s
        self.happened = began if draw.random() < 0.6 else began - draw.random() * 5 * DAY_S
        self.at = began

    def say(self, body: Json, *, age_s: float | None = None, secret: bool = False) -> None:
        self.n += 1
        body = {"messageId": f"{self.name}-{self.n}", **body}
        late_s = max(0.0, self.at - self.happened) if age_s is None else age_s
        self.out.append(Planned(self.at, body, late_s, self.skew_s, secret))

    def go_on(self) -> None:
        """Time passes: for who lives in the past it need not pass here."""
        gap = self.draw.choice(GAPS_S)
        live = self.happened >= self.at - 1
        if not live and self.draw.random() < 0.1:
            gap = self.draw.random() * DAY_S
        self.happened += gap
        if live:
            self.at = self.happened
        elif self.draw.random() < 0.3:
            self.at = min(self.duration_s, self.at + self.draw.choice([0.2, 1, 3]))
        if self.at > self.duration_s:
            self.at = self.duration_s
        self.happened = min(self.happened, self.at)

    def act(self, ids: Json) -> None:
        name = self.draw.choices(NAMES, WEIGHTS)[0]
        if name in ("page", "screen"):
            more: Json = self.draw.choice(
                [{}, {"properties": {"path": "/ca-phe/"}}, {"properties": {"url": "https://x.vn/?a=1"}}]
            )
            if self.draw.random() < 0.2:
                more = {**more, "context": {"campaign": {"name": "tet", "source": "zalo"}}}
            self.say({"type": name, "name": "Trang chủ", **more, **ids})
        else:
            self.say({"type": "track", "event": name, "properties": self.properties(name), **ids})
        self.go_on()

    def product(self) -> Json:
        draw = self.draw
        p: Json = {"product_id": f"p{draw.randrange(5)}", "price": draw.choice([10, 4.5, "12.25", None, -1, 45000])}
        quantity = draw.choice([1, 1, 2, 3, "2", None])
        variant = draw.choice([{}, {}, {"variant": "M"}, {"variant": "L"}, {"sku": "m-1", "variant": "M"}])
        name = draw.choice([{}, {}, {"name": "Cà phê"}, {"currency": "EUR"}])
        return p | ({} if quantity is None else {"quantity": quantity}) | variant | name

    def cart_ids(self) -> Json:
        """Most shops name no cart; some visitors of this one have several."""
        draw = self.draw
        if draw.random() < 0.7:
            return {}
        cart, checkout = (
            {"cart_id": f"{self.name}-c{draw.randrange(3)}"},
            {"checkout_id": f"{self.name}-k{draw.randrange(3)}"},
        )
        return draw.choice([cart, cart, checkout, cart | checkout])

    def properties(self, name: str) -> Json:
        draw = self.draw
        if name in ("Product Added", "Product Removed", "Product Viewed"):
            p = self.product()
            if draw.random() < 0.1:
                p = {"products": [self.product(), self.product()]}
            return p | self.cart_ids() | draw.choice([{}, {"currency": "VND"}, {"currency": "usd"}])
        if name in ("Coupon Denied", "Payment Failed", "Survey Response Received"):
            return self.cart_ids() | draw.choice([{}, {"reason": "Price"}, {"reason": "delivery"}])
        if name == "Checkout Step Viewed":
            return self.cart_ids() | draw.choice([{"step": 1}, {"step": "Shipping"}, {"shipping_method": "express"}])
        if name in ("Cart Viewed", "Checkout Started", "Payment Info Entered"):
            return self.cart_ids() | draw.choice(
                [{}, {"products": []}, {"products": [self.product() for _ in range(draw.randrange(3))]}]
            )
        if name == "Order Completed":
            self.orders += draw.random() < 0.85  # else the one before is reported again
            order = {"order_id": f"{self.name}-o{self.orders}"} if draw.random() < 0.9 else {}
            return (
                order
                | self.cart_ids()
                | draw.choice([{"revenue": 20}, {"total": "99.5"}, {"products": [self.product()]}, {}])
            )
        if name in ("Order Cancelled", "Order Refunded"):
            return {"order_id": f"{self.name}-o{self.orders}"} | draw.choice([{}, {"total": 5}, {"total": 100000}])
        if "Clicked" in name or "Tapped" in name:
            return draw.choice([{"campaign_id": "c1"}, {"campaign": {"name": "Tết"}}, {"campaign_name": "c3"}, {}])
        if name in ("Promotion Viewed", "Form Submitted"):
            return draw.choice([{"id": "spring"}, {"promotion_id": 7, "form_id": "newsletter"}, {"name": "Tết"}, {}])
        if name.startswith("Popup"):
            return draw.choice([{"popup_id": "welcome"}, {"popup_id": 7}, {}])
        return {}

    # -- kinds of visitors; each says how many events at most

    def anonymous(self, most: int) -> None:
        for _ in range(most):
            self.act({"anonymousId": self.name})

    def logs_in(self, most: int) -> None:
        """On one to three devices; each has a past before it."""
        user, devices = f"u-{self.name}", [f"{self.name}.{d}" for d in range(self.draw.choice([1, 1, 2, 3]))]
        for device in devices:
            for _ in range(max(1, most // len(devices) // 2)):
                self.act({"anonymousId": device})
            traits = {"email": f"{self.name}@shop.example", "n": self.draw.randrange(3), "city": "Huế"}
            self.say({"type": "identify", "anonymousId": device, "userId": user, "traits": traits})
            self.go_on()
            for _ in range(max(1, most // len(devices) // 2)):
                self.act({"anonymousId": device} | self.draw.choice([{}, {"userId": user}]))
        if self.draw.random() < 0.3:
            self.act({"userId": user})

    def orders_as_a_guest(self, most: int) -> None:
        """On several devices, which only the address that goods are sent to, or the phone number, connects."""
        n = self.draw.randrange(10**7)
        phones = [f"090{n:07}", f"+84 90 {n:07}", f"8490{n:07}"]
        devices = [f"{self.name}.{d}" for d in range(self.draw.choice([2, 2, 3]))]
        for device in devices:
            for _ in range(max(1, most // len(devices))):
                self.act({"anonymousId": device})
        self.draw.shuffle(devices)
        for device in devices:
            self.orders += 1
            address = {"email": self.draw.choice([f"{self.name}@shop.example", f" {self.name}@Shop.Example"])}
            if self.draw.random() < 0.5 or device == devices[0]:
                address["phone"] = self.draw.choice(phones)
            elif self.draw.random() < 0.5:
                address = {"phone": self.draw.choice(phones)}
            order = {"order_id": f"{self.name}-o{self.orders}", "revenue": 20, **address}
            self.say({"type": "track", "event": "Order Completed", "anonymousId": device, "properties": order})
            self.go_on()
            self.act({"anonymousId": device})
        if self.draw.random() < 0.5:
            self.say({"type": "identify", "userId": f"u-{self.name}", "traits": {"email": f"{self.name}@shop.example"}})
        for _ in range(most // 2):
            self.act({"anonymousId": self.draw.choice(devices)})

    def shares_a_device(self, most: int) -> None:
        for _ in range(most):
            self.act(
                {"anonymousId": self.name}
                | self.draw.choice([{}, {"userId": f"u-{self.name}-{self.draw.randrange(2)}"}])
            )

    def is_known_to_a_server(self, most: int) -> None:
        for _ in range(most):
            self.act({"userId": f"u-{self.name}"})

    def is_reported_by_a_server(self, most: int) -> None:
        """Who orders in a browser, and the shop's server tells the same of its user: only the order connects them."""
        user = {"userId": f"u-{self.name}"} if self.draw.random() < 0.7 else {"anonymousId": f"{self.name}.server"}
        for n in range(max(2, most // 4)):
            self.act({"anonymousId": self.name})
            cart = {"cart_id": f"{self.name}-c{n}"}
            self.say({"type": "track", "event": "Product Added", "anonymousId": self.name,
                      "properties": self.product() | cart})  # fmt: skip
            order = {"order_id": f"{self.name}-s{n}", "revenue": 30} | self.draw.choice([{}, cart])
            both = [{"anonymousId": self.name}, user]
            self.draw.shuffle(both)
            for ids in both:
                self.go_on()
                self.say({"type": "track", "event": "Order Completed", "properties": order, **ids})
            self.go_on()
            self.say({"type": "track", "event": "Order Refunded", "properties": {**order, "total": 5}, **user})

    def is_aliased(self, most: int) -> None:
        for _ in range(most // 2):
            self.act({"anonymousId": self.name})
        self.say({"type": "alias", "userId": f"u-{self.name}", "previousId": self.name})
        for _ in range(most // 2):
            self.act({"userId": f"u-{self.name}"})

    def is_imported(self, most: int) -> None:
        """Orders of the last two years, in any order."""
        self.skew_s = 0.0
        days = sorted(self.draw.sample(range(3, 700), min(most, 12)), reverse=True)
        if self.draw.random() < 0.3:
            self.draw.shuffle(days)
        for day in days:
            self.orders += 1
            order = {"order_id": f"{self.name}-o{self.orders}", "revenue": self.draw.choice([10, 25.5, "100"])}
            self.say(
                {"type": "track", "event": "Order Completed", "userId": f"u-{self.name}", "properties": order},
                age_s=day * DAY_S + self.draw.random() * DAY_S, secret=True,
            )  # fmt: skip


KINDS = (
    (Visitor.anonymous, 40), (Visitor.logs_in, 40), (Visitor.orders_as_a_guest, 12), (Visitor.shares_a_device, 6),
    (Visitor.is_known_to_a_server, 6), (Visitor.is_aliased, 3), (Visitor.is_imported, 8),
    (Visitor.is_reported_by_a_server, 6),
)  # fmt: skip


def plan(seed: int, events: int, duration_s: float, partitions: int) -> Plan:
    """About `events` messages over `duration_s` seconds."""
    draw = random.Random(seed)
    plan = Plan()
    out = plan.messages
    hot = Visitor(draw, "hot", duration_s)  # one who has more than a log's 200 entries
    for i in range(events // 25):
        hot.at = hot.happened = duration_s * i / (events // 25)
        hot.act({"anonymousId": "hot"})
    out += hot.out
    n = 0
    while len(out) < events * 0.95:
        n += 1
        kind = draw.choices([k for k, _ in KINDS], [w for _, w in KINDS])[0]
        visitor = Visitor(draw, f"v{n}", duration_s)
        kind(visitor, draw.choice([1, 4, 8, 16, 30]))
        out += visitor.out
        if kind is not Visitor.shares_a_device:
            bodies = [m.body for m in visitor.out]
            ids = {f"{t}={b[t]}" for b in bodies for t in ("anonymousId", "userId") if t in b}
            ids |= {f"anonymousId={b['previousId']}" for b in bodies if "previousId" in b}
            plan.users[visitor.name] = ids
    for m in list(out):
        chance = draw.random()
        if chance < 0.05 and not m.secret:  # it hangs in a phone for a while
            delay = min(duration_s - m.at, draw.choice([0.5, 3, 15, 60]))
            m.at, m.age_s = m.at + delay, m.age_s + delay
            plan.late += 1
        elif chance < 0.09:  # and is sent again, though it came through
            again = min(duration_s, m.at + draw.choice([0, 0.2, 2, 20]))
            out.append(Planned(again, m.body, m.age_s + again - m.at, m.skew_s, m.secret))
            plan.repeats += 1
        elif chance < 0.0905:
            m.age_s = 9 * DAY_S  # older than a client may be
        plan.skewed += m.skew_s != 0
    for i in range(max(3, events // 1000)):
        at, id = draw.random() * duration_s, f"bad{i}"
        out.append(Planned(at, {"type": "track", "event": "A", "messageId": f"{id}-nobody", "anonymousId": "null"}, 0))
        out.append(Planned(at, {"type": "track", "messageId": f"{id}-nameless", "anonymousId": id}, 0))
        plan.refused.add(f"{id}-nameless")
        for topic in ("tracker.events.v1", "tracker.profile-events.v1"):
            value = draw.choice([b"not json", b'{"site":"x"}', b"{", None, b'{"clockMs":"late"}'])
            plan.poison.append(Poison(draw.random() * duration_s, topic, draw.randrange(partitions), value))
    out.sort(key=lambda m: m.at)
    plan.poison.sort(key=lambda p: p.at)
    return plan
