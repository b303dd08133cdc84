"""Rates of carts by the vector of domain.md 5.5, from events to what the read API answers."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest

from tests.unit.cart_rig import Rig
from tests.unit.counting import T0_MS as BEGIN_MS
from tests.unit.counting import Counting, track
from tests.unit.shop_events import (
    T0_MS,
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
    remove,
    shipping,
)
from tracker.contract.events import CHECKOUT_STEP_VIEWED, ProfileEvent
from tracker.counters import carts, carts_by_campaign, carts_by_product


def counted(*visitors: list[ProfileEvent], now_s: float) -> Counter[str]:
    """What all visitors' events add up to in the counters, whenever their carts were opened."""
    sums: Counter[str] = Counter()
    for events in visitors:
        rig = Rig()
        for e in events:
            rig.take(e)
        rig.clock(now_s)
        for (field, _), n in rig.counts().items():
            sums[field] += n
    return sums


def test_the_rates_of_the_spec() -> None:
    visitors = [
        [add(0), remove(10)],
        [add(2 * H)],
        [add(2 * H)],
        *([add(0), order(60)] for _ in range(4)),
        [add(0)],
        [add(0)],
        [add(0), order(5000)],
    ]
    found = carts(counted(*visitors, now_s=2.5 * H))
    assert (found["opened"], found["emptied"], found["open"]) == (10, 1, 2)
    assert (found["converted"], found["abandoned"], found["recovered"]) == (4, 3, 1)
    assert found["abandonment_rate"] == pytest.approx(0.428571, abs=1e-6)
    assert found["net_abandonment_rate"] == pytest.approx(0.285714, abs=1e-6)
    assert found["recovery_rate"] == pytest.approx(1 / 3)
    assert found["checkout_abandonment_rate"] is None
    assert carts(counted(*visitors, now_s=2.5 * H), "created")["abandonment_rate"] == 0.5


def test_of_nothing_there_is_no_rate() -> None:
    for basis in ("resolved", "created"):
        found = carts({}, basis)
        assert {n for name, n in found.items() if name.endswith("_rate")} == {None}
        assert found["opened"] == found["open"] == 0


def test_a_cart_is_counted_when_it_was_opened_however_late_it_is_bought() -> None:
    rig = Rig()
    rig.take(add(0))
    rig.clock(H)
    rig.take(order(5 * 86400))
    assert {ms for _, ms in rig.counts()} == {T0_MS // 60_000 * 60_000}
    assert rig.counts()["cart|recovered", T0_MS // 60_000 * 60_000] == 1


def test_a_retraction_is_taken_off() -> None:
    rig = Rig()
    rig.take(add(0))
    rig.clock(H)
    rig.take(order(60, received_s=2 * H))
    sums = Counter({field: n for (field, _), n in rig.counts().items()})
    of_none = {"cart_campaign|opened|": 1, "cart_campaign|converted|": 1, "cart_product|converted|A": 1}
    assert sums == {"cart|opened": 1, "cart|converted": 1, **of_none}
    assert ("cart_undone|abandoned", 1) in [(field, n) for r in rig.results for field, n, _ in r.counts_at]


def test_checkouts_have_a_rate_of_their_own() -> None:
    visitors = [
        [add(0), checkout(10)],
        [add(0), checkout(10), order(20)],
        [add(0), payment(10), order(20)],
        [add(0), order(20)],
        [add(0)],
        [add(0), checkout(5000), order(5001)],  # abandoned as a cart, then it came to the checkout
    ]
    assert carts(counted(*visitors, now_s=9 * H))["checkout_abandonment_rate"] == 0.5


def test_recovered_revenue_is_by_campaign_and_goes_when_the_order_is_cancelled() -> None:
    bought = [add(0), click(4000), order(5000)]
    found = carts(counted(bought, [add(0), order(5000)], [*bought, cancel(6000)], now_s=9 * H))
    assert found["recovered_revenue"] == [
        {"currency": "VND", "campaign": "c1", "minor": 20},
        {"currency": "VND", "campaign": "organic", "minor": 20},
    ]
    assert found["recovered"] == 2


@pytest.mark.parametrize(
    ("events", "reason"),
    [
        ([add(0)], "unknown"),
        ([add(0), shipping(10), failed(20), denied(30)], "coupon"),
        ([add(0), denied(10), order(20), add(30)], "unknown"),  # denied in the episode before
        ([add(0), failed(10), shipping(20)], "shipping"),
        ([add(0), shipping(10), payment(20)], "unknown"),  # shipping was not the last step
        ([add(0), shipping(10), payment(20), failed(30)], "payment"),
        ([add(0), denied(10), answer(20)], "price"),
        ([add(0), denied(10), answer(2 * H)], "price"),  # told after the abandonment
        ([add(0), denied(10), answer(20, None)], "coupon"),  # a survey about something else
        ([add(0), denied(10), named(answer(20, "great shop"), type="NPS", score="10")], "coupon"),
        ([named(add(0), cart_id="c1"), denied(10), named(answer(20, "slow"), type="csat", cart_id="c1")], "slow"),
        ([add(0), denied(10), named(answer(20), type="exit")], "price"),
        ([add(0), event(CHECKOUT_STEP_VIEWED, 10, {"step": 2, "shipping": 5})], "shipping"),
        ([add(0), event(CHECKOUT_STEP_VIEWED, 10, {"step": 2, "shipping": 0})], "unknown"),
    ],
)
def test_why_a_cart_is_left(events: list[ProfileEvent], reason: str) -> None:
    rig = Rig()
    for e in events:
        rig.take(e)
    rig.clock(9 * H)
    assert carts({f: n for (f, _), n in rig.counts().items()})["reasons"] == [{"key": reason, "count": 1}]
    data: Any = rig.triggers[0].data
    late = events[-1].timestamp_ms > rig.triggers[0].at_ms
    assert data.reason == ("coupon" if late else reason)


def test_a_reason_given_is_bounded() -> None:
    rig = Rig()
    for e in (add(0), answer(10, " Too " + "x" * 900)):
        rig.take(e)
    rig.clock(2 * H)
    data: Any = rig.triggers[0].data
    assert data.reason == ("too " + "x" * 900)[:40]
    assert rig.total("cart_reasons_total") == 1


def test_carts_are_told_apart_by_the_campaign_that_brought_who_opened_them() -> None:
    """Of "tet" two are abandoned, one of which is recovered and then given back; of none one is bought."""
    found = Counting()

    def brought(event: dict[str, Any], name: str = "tet") -> dict[str, Any]:
        return {**event, "campaign": {"name": name, "source": "fb"}}

    for pid, campaign in (("p1", "tet"), ("p2", "tet"), ("p3", "he")):
        found.take(brought(track("Product Added", pid=pid, product_id="A", price=10), campaign))
    found.take(track("Product Added", pid="p4", product_id="A"), track("Order Completed", pid="p4", order_id="o4"))
    found.clock(BEGIN_MS + 2 * H * 1000)
    found.take(brought(track("Order Completed", BEGIN_MS + 3 * H * 1000, "p1", order_id="o1", total=10), "later"))
    groups = {g["key"]: g for g in carts_by_campaign(found.net("carts"))["groups"]}
    assert groups.keys() == {"tet", "he", None}
    tet = groups["tet"]
    assert (tet["opened"], tet["abandoned"], tet["recovered"]) == (2, 2, 1)
    assert (tet["abandonment_rate"], tet["recovery_rate"]) == (1.0, 0.5)
    assert (groups[None]["abandonment_rate"], groups[None]["recovery_rate"]) == (0.0, None)
    whole = carts(found.net("site"))
    for what in ("opened", "abandoned", "converted", "recovered"):
        assert sum(g[what] for g in groups.values()) == whole[what], "the parts are the whole"
    found.take(track("Order Cancelled", BEGIN_MS + 4 * H * 1000, "p1", order_id="o1"))
    groups = {g["key"]: g for g in carts_by_campaign(found.net("carts"))["groups"]}
    assert groups["tet"]["recovered"] == 0


def test_campaigns_beyond_the_limit_and_a_full_bucket_are_told() -> None:
    sums = {"cart_campaign|opened|a": 3, "cart_campaign|opened|b": 2, "cart_campaign|": 7, "cart_campaign|opened|": 1}
    answer = carts_by_campaign(sums, limit=1)
    assert [g["key"] for g in answer["groups"]] == ["a"]
    assert (answer["other_opened"], answer["unnamed"]) == (3, 7)


def by_product(found: Counting) -> dict[str, dict[str, Any]]:
    return {g["key"]: g for g in carts_by_product(found.net("cart_products"))["groups"]}


def at(hours: float) -> int:
    return BEGIN_MS + round(hours * H * 1000)


def test_carts_are_told_apart_by_what_was_in_them() -> None:
    """A lies in three carts that are left, one of which is bought after all, and in one that is bought at once."""
    found = Counting()
    for pid, products in (("p1", "AB"), ("p2", "A"), ("p3", "AC"), ("p4", "AB"), ("p5", "C")):
        found.take(*(track("Product Added", at(0), pid, product_id=id, price=10) for id in products))
    found.take(track("Product Removed", at(0.1), "p4", product_id="B"))
    found.take(track("Order Completed", at(0.5), "p4", order_id="o4"))
    found.take(track("Product Removed", at(0.5), "p5", product_id="C"))
    found.clock(at(2))
    found.take(track("Product Added", at(3), "p1", product_id="D"))  # it was not in it when it was left first
    found.take(track("Product Removed", at(3.1), "p1", product_id="B"))  # it was
    found.clock(at(4.2))  # left again
    found.take(track("Order Completed", at(4.5), "p1", order_id="o1", total=10))
    found.clock(at(8 * 24))
    found.take(track("Order Completed", at(8 * 24), "p3", order_id="o3", total=10))
    wanted = {"A": (1, 3, 1, 2, 1), "B": (0, 1, 1, 0, 0), "C": (0, 1, 0, 1, 1)}
    groups = by_product(found)
    told = ("converted", "abandoned", "recovered", "lost", "converted_late")
    assert {key: tuple(g[what] for what in told) for key, g in groups.items()} == wanted
    assert list(groups) == ["A", "B", "C"], "the products in the most carts first"
    rates = ("abandonment_rate", "net_abandonment_rate", "recovery_rate")
    assert [groups["A"][rate] for rate in rates] == [0.75, 0.5, pytest.approx(1 / 3)]
    found.take(track("Order Cancelled", at(5), "p1", order_id="o1"))
    assert [by_product(found)[key]["recovered"] for key in "AB"] == [0, 0], "it was given back"


def test_a_late_order_takes_the_products_of_its_cart_with_it() -> None:
    found = Counting().take(*(track("Product Added", at(0), product_id=id) for id in "AB"))
    found.clock(at(2))
    assert {key: g["abandoned"] for key, g in by_product(found).items()} == {"A": 1, "B": 1}
    found.take(track("Order Completed", at(0.5), order_id="o1"))
    assert {key: (g["abandoned"], g["converted"]) for key, g in by_product(found).items()} == {"A": (0, 1), "B": (0, 1)}


def test_a_cart_of_very_many_products_counts_for_its_first_ones() -> None:
    products = [{"product_id": f"p{n}", "price": 1} for n in range(100)]
    found = Counting().take(track("Cart Viewed", at(0), products=products)).clock(at(2))
    assert by_product(found).keys() == {f"p{n}" for n in range(20)}


def test_products_beyond_the_limit_and_a_full_bucket_are_told() -> None:
    sums = {"cart_product|abandoned|a": 3, "cart_product|converted|b": 2, "cart_product|": 7, "cart_product|lost|c": 1}
    answer = carts_by_product(sums, limit=1)
    assert [g["key"] for g in answer["groups"]] == ["a"]
    assert (answer["more_groups"], answer["unnamed"]) == (1, 7)
