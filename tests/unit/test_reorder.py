"""The next order: by own times, by products, by a subscription; orders between, given back, late, of two profiles."""

from __future__ import annotations

import random
from typing import Any, Final

import msgspec
import pytest

from stream.core.reorder import rank_of
from stream.signals.base import Result, Trigger
from stream.signals.purchase import PurchaseSignal
from stream.signals.reorder import ReorderSignal, _time
from tests.unit.shop_events import SETTINGS, T0_MS, context, event
from tracker.contract.events import ProfileEvent
from tracker.contract.examples import MODEL
from tracker.contract.retention import ReorderRules, check
from tracker.contract.sites import Site
from tracker.contract.triggers import ReorderDue
from tracker.contract.windows import Zone

D: Final = 86_400
SIGNALS: Final = (PurchaseSignal(), ReorderSignal())


def bought(day: float, *products: str, id: str | None = None) -> ProfileEvent:
    lines = [{"product_id": p, "price": 10, "quantity": 1} for p in products]
    return event("Order Completed", day * D, {"order_id": id or f"o{day}", "revenue": 10, "products": lines})


def given_back(day: float, id: str) -> ProfileEvent:
    return event("Order Cancelled", day * D, {"order_id": id})


def subscribed(day: float, ends: Any, name: str = "Subscription Renewed") -> ProfileEvent:
    return event(name, day * D, {"subscription_id": "s1", "ends_at": ends})


class Rig:
    """Drives both signals as the shell does."""

    def __init__(self, **rules: Any) -> None:
        site = Site(write_key="w" * 8, secret_key="s" * 8, reorder=ReorderRules(**rules))
        self.states: dict[str, Any] = {}
        settings = msgspec.structs.replace(SETTINGS, sites={"demo": site})
        self.ctx = context(settings=settings, states=self.states)
        self.triggers: list[Trigger] = []

    def _keep(self, name: str, result: Result) -> None:
        if result.state is not None:
            self.states[name] = result.state
        self.triggers += [t for t in result.triggers if name == "reorder"]

    def clock(self, day: float) -> None:
        now_ms = T0_MS + round(day * D * 1000)
        for signal in SIGNALS:
            state = self.states.get(signal.name)
            if state is not None and (due := signal.due_ms(state)) is not None and due <= now_ms:
                self._keep(signal.name, signal.fire(state, now_ms, self.ctx))
                self.settle()

    def settle(self) -> None:
        self._keep("reorder", SIGNALS[1].settle(self.states.get("reorder"), T0_MS, self.ctx))

    def fold(self, e: ProfileEvent) -> None:
        for signal in SIGNALS:
            if signal.events is not None and e.event in signal.events:
                self._keep(signal.name, signal.fold(self.states.get(signal.name), e, self.ctx))
        self.settle()

    def take(self, *events: ProfileEvent) -> Rig:
        for e in events:
            self.clock((e.timestamp_ms - T0_MS) / 1000 / D)
            self.fold(e)
        return self

    def told(self) -> list[tuple[float, str]]:
        return [((t.at_ms - T0_MS) / 1000 / D, t.data.basis) for t in self.triggers if isinstance(t.data, ReorderDue)]


def test_it_is_due_after_the_median_of_the_own_times() -> None:
    rig = Rig().take(bought(0), bought(30), bought(60, "coffee"))
    rig.clock(89.999)
    assert rig.told() == []
    rig.clock(90)
    rig.clock(400)
    assert rig.told() == [(90, "own")]
    data = rig.triggers[0].data
    assert isinstance(data, ReorderDue)
    assert (data.orders, data.gap_days, data.last_order_ms) == (3, 30, T0_MS + 60 * D * 1000)
    assert [i.product_id for i in data.items] == ["coffee"]


@pytest.mark.parametrize(
    ("days", "due"), [((0, 10, 40), 60), ((0, 10, 40, 50), 60), ((0, 30), None), ((0, 0.1, 30), None)]
)
def test_the_median_of_the_days_between(days: tuple[float, ...], due: float | None) -> None:
    rig = Rig().take(*(bought(day) for day in days))
    rig.clock(1000)
    assert [at for at, _ in rig.told()] == ([] if due is None else [due])


def test_an_order_in_between_sets_it_anew() -> None:
    rig = Rig().take(bought(0), bought(30), bought(60), bought(80))
    rig.clock(109.9)
    assert rig.told() == []
    rig.clock(110)
    assert rig.told() == [(110, "own")]


def test_who_has_too_few_orders_goes_by_the_products_of_the_last_else_by_the_site() -> None:
    rules = {"days": 90, "products": {"coffee": 30, "filter": 60}}
    rig = Rig(**rules).take(bought(0, "filter", "coffee", "cup"))
    rig.clock(1000)
    assert rig.told() == [(30, "product")]
    assert rig.triggers[0].data.product_id == "coffee"  # type: ignore[attr-defined]
    rig = Rig(**rules).take(bought(0, "cup"))
    rig.clock(1000)
    assert rig.told() == [(90, "site")]
    rig = Rig(on=False, **rules).take(bought(0, "coffee"))
    assert "reorder" not in rig.states


def test_a_product_without_a_setting_goes_by_the_median_of_all_customers() -> None:
    """Domain: A464. The setting stands above it, the person's own times above both."""
    model = msgspec.structs.replace(MODEL, site="demo", gaps={"coffee": 25.0, "tea": 12.5})
    for rules, product, due in (
        ({}, "tea", (12.5, "product")),
        ({"products": {"tea": 40}}, "tea", (40, "product")),
        ({"products": {"tea": 40}}, "coffee", (25, "product")),
        ({"days": 90}, "cup", (90, "site")),
    ):
        rig = Rig(**rules)
        rig.ctx = msgspec.structs.replace(rig.ctx, models={("demo", "purchase"): model})
        rig.take(bought(0, product)).clock(1000)
        assert rig.told() == [due]
    own = Rig()
    own.ctx = msgspec.structs.replace(own.ctx, models={("demo", "purchase"): model})
    own.take(bought(0, "tea"), bought(10, "tea"), bought(20, "tea")).clock(1000)
    assert own.told() == [(30, "own")]


def test_an_order_with_a_new_category_is_a_cross_sell_whatever_came_first() -> None:
    """Domain: A464."""

    def order(day: float, *categories: str) -> ProfileEvent:
        lines = [{"product_id": f"p{i}", "category": c, "price": 1} for i, c in enumerate(categories)]
        return event("Order Completed", day * D, {"order_id": f"o{day}", "products": lines})

    log = [order(0, "coffee", "filters"), order(10, "coffee"), order(20, "tea"), order(30, "tea", "cups"), order(40)]
    for draw in range(6):
        random.Random(draw).shuffle(log)
        rig = Rig()
        for e in log:
            rig.fold(e)
        said = SIGNALS[1].explain(rig.states["reorder"], T0_MS + 50 * D * 1000, rig.ctx)
        assert (said["cross_sells"], list(said["categories"])) == (2, ["coffee", "filters", "tea", "cups"])
    one, other = Rig().take(order(0, "coffee")), Rig().take(order(5, "coffee", "tea"))
    states = [r.states["reorder"] for r in (one, other)]
    both, again = (SIGNALS[1].merge(a, b, T0_MS, one.ctx).state for a, b in (states, states[::-1]))
    assert both == again
    assert both.cross_sells == (T0_MS + 5 * D * 1000,)


def test_an_order_of_a_higher_tier_than_any_before_is_an_upsell() -> None:
    """Domain: A464. By the site's list; capitals do not matter, and what is not in it counts for nothing."""

    def plan(day: float, **properties: Any) -> ProfileEvent:
        return event("Subscription Started", day * D, {"ends_at": T0_MS + 400 * D * 1000, **properties})

    def order(day: float, *tiers: str) -> ProfileEvent:
        lines = [{"product_id": f"p{t}", "price": 1, "tier": t} for t in tiers]
        return event("Order Completed", day * D, {"order_id": f"o{day}", "products": lines})

    log = [
        plan(0, plan="Basic"), order(10, "pro", "basic"), plan(20, tier="other"), order(30, "BASIC"), order(40, "Pro"),
        plan(50, tier=" Max "),
    ]  # fmt: skip
    for draw in range(6):
        random.Random(draw).shuffle(log)
        rig = Rig(tiers=("basic", "Pro", "max"))
        for e in log:
            rig.fold(e)
        said = SIGNALS[1].explain(rig.states["reorder"], T0_MS, rig.ctx)
        assert (said["upsells"], list(said["tiers"])) == (2, ["basic", "pro", "other", "max"])
    assert rank_of("2", ()) == 2
    assert [rank_of(tier, ()) for tier in ("pro", "nan", "inf")] == [None] * 3


@pytest.mark.parametrize("tiers", [("basic", "Basic "), ("",), tuple(f"t{n}" for n in range(51))])
def test_tiers_that_cannot_be_ranked_are_refused(tiers: tuple[str, ...]) -> None:
    with pytest.raises(ValueError, match=r"reorder\.tiers"):
        check(ReorderRules(tiers=tiers), {})


def test_an_order_that_was_given_back_was_none() -> None:
    rig = Rig().take(bought(0), bought(30), bought(60), bought(85), given_back(86, "o85"))
    rig.clock(1000)
    assert rig.told() == [(90, "own")]


def test_a_subscription_that_runs_goes_by_its_end() -> None:
    ends_ms = T0_MS + 100 * D * 1000
    rig = Rig().take(bought(0), bought(30), bought(60), subscribed(60, ends_ms, "Subscription Started"))
    rig.clock(95)
    rig.take(subscribed(95, ends_ms + 30 * D * 1000))
    rig.clock(1000)
    assert rig.told() == [(130, "subscription")]
    rig = Rig().take(subscribed(0, ends_ms), subscribed(50, None, "Subscription Cancelled"))
    rig.clock(1000)
    assert rig.told() == []


@pytest.mark.parametrize(
    ("given", "ms"),
    [
        ("2026-11-02T03:04:05Z", 1_793_588_645_000),
        ("2026-11-02T10:04:05", 1_793_588_645_000),
        ("2026-11-02", 1_793_552_400_000),
        (1_793_588_645, 1_793_588_645_000),
        (1_793_588_645_678, 1_793_588_645_678),
        ("soon", None), (True, None), (None, None), (-5, None), (1e300, None), ("9999-12-31", None), ("x" * 100, None),
    ],
)  # fmt: skip
def test_an_end_is_read_in_the_sites_time(given: object, ms: int | None) -> None:
    assert _time(given, Zone("Asia/Ho_Chi_Minh")) == ms


def test_any_order_of_arrival_ends_in_the_same() -> None:
    events = [
        bought(0, "a"), bought(30, "b"), bought(61, "c"), bought(95, "d"), given_back(96, "o95"),
        bought(62, "c", id="o61"), subscribed(40, T0_MS + 50 * D * 1000), subscribed(10, T0_MS + 45 * D * 1000),
    ]  # fmt: skip
    found = set()
    for seed in range(60):
        rig = Rig()
        for e in random.Random(seed).sample(events, len(events)):
            rig.fold(e)
        rig.clock(1000)
        found.add((msgspec.json.encode(rig.states["reorder"]), tuple(rig.told())))
    assert len(found) == 1
    assert next(iter(found))[1] == ((91.5, "own"),)


def test_two_profiles_that_are_one_are_due_by_the_orders_of_both() -> None:
    one, two = Rig().take(bought(0), bought(60)), Rig().take(bought(30, "coffee"))
    merged = SIGNALS[0].merge(one.states["purchase"], two.states["purchase"], T0_MS, one.ctx).state
    a, b = one.states["reorder"], two.states["reorder"]
    both = SIGNALS[1].merge(a, b, T0_MS, one.ctx).state
    assert both == SIGNALS[1].merge(b, a, T0_MS, one.ctx).state
    one.states |= {"purchase": merged, "reorder": both}
    one.settle()
    one.clock(1000)
    assert one.told() == [(90, "own")]


def test_after_quiet_hours_it_goes_out_only_without_an_order() -> None:
    rig = Rig().take(bought(0), bought(30), bought(60))
    rig.clock(90)
    (told,) = rig.triggers
    assert SIGNALS[1].still_true(rig.states["reorder"], told.kind, told.data)
    rig.take(bought(90.2))
    assert not SIGNALS[1].still_true(rig.states["reorder"], told.kind, told.data)
