"""Events of GA4 and of Snowplow's ecommerce plugin become the Segment Spec's, fields and all."""

from __future__ import annotations

from typing import Any

import pytest

from stream.signals import shop
from tests.unit.intake import inside, taken
from tracker.contract import events as ev
from tracker.intake.names import EVENTS

SHIRT = {"item_id": "sku-1", "item_name": "Áo", "item_brand": "B", "item_category": "C", "price": 10.5, "quantity": 2}
OURS = {"product_id": "sku-1", "name": "Áo", "brand": "B", "category": "C", "price": 10.5, "quantity": 2}


def sent(event: str, properties: dict[str, Any] | None = None) -> tuple[str | None, Any]:
    message = {"event": event, "userId": "u", "properties": properties}
    result = taken(message if properties is not None else {"event": event, "userId": "u"})
    return result.event, None if properties is None else inside(result.properties)


GA4 = (
    "view_item_list", "select_item", "view_item", "add_to_cart", "remove_from_cart", "view_cart", "begin_checkout",
    "add_shipping_info", "add_payment_info", "purchase", "refund", "view_promotion", "select_promotion",
)  # fmt: skip
SNOWPLOW = (
    "product_view", "list_view", "list_click", "add_to_cart", "remove_from_cart", "checkout_step", "transaction",
    "trns_error", "refund", "promo_view", "promo_click",
)  # fmt: skip


@pytest.mark.parametrize("name", sorted({*GA4, *SNOWPLOW}))
def test_every_foreign_name_has_one_of_ours(name: str) -> None:
    event, _ = sent(name)
    assert event == EVENTS[name]
    assert event.istitle()


def test_no_other_name_is_touched() -> None:
    assert set(EVENTS) == {*GA4, *SNOWPLOW}
    properties = {"items": [SHIRT], "transaction_id": "t"}
    for name in ("Purchase", "purchase ", "purchased", ev.ORDER_COMPLETED):
        assert sent(name, properties) == (name, properties)


def test_one_product_stands_at_the_top_level() -> None:
    for name in ("view_item", "add_to_cart", "remove_from_cart", "select_item"):
        _, properties = sent(name, {"currency": "VND", "value": 21, "items": [{**SHIRT, "index": 3}]})
        assert properties == {**OURS, "position": 3, "currency": "VND", "value": 21}


def test_several_products_stay_a_list() -> None:
    event, properties = sent("add_to_cart", {"items": [SHIRT, {**SHIRT, "item_id": "sku-2"}]})
    assert (event, properties) == (ev.PRODUCT_ADDED, {"products": [OURS, {**OURS, "product_id": "sku-2"}]})


def test_a_purchase_is_an_order_with_its_revenue() -> None:
    given = {"transaction_id": "T1", "value": 21, "tax": 1, "shipping": 2, "currency": "VND", "items": [SHIRT]}
    event, properties = sent("purchase", {**given, "coupon": "X"})
    assert event == ev.ORDER_COMPLETED
    rest = {"value": 21, "tax": 1, "shipping": 2, "currency": "VND", "coupon": "X"}
    assert properties == {**rest, "order_id": "T1", "revenue": 21, "products": [OURS]}
    assert sent("refund", {"transaction_id": "T1", "value": 5})[1] == {"order_id": "T1", "value": 5, "total": 5}


def test_a_promotion_and_the_steps_of_a_checkout() -> None:
    given = {"promotion_id": "p", "promotion_name": "Tết", "creative_name": "red", "creative_slot": "top"}
    ours = {"promotion_id": "p", "name": "Tết", "creative": "red", "position": "top"}
    assert sent("view_promotion", given) == ("Promotion Viewed", ours)
    assert sent("add_payment_info", {"payment_type": "cod"}) == (ev.PAYMENT_INFO_ENTERED, {"payment_method": "cod"})
    assert sent("add_shipping_info", {"shipping_tier": "GHN"})[1] == {"shipping_method": "GHN"}


def test_snowplows_entities_become_properties() -> None:
    product = {"id": "sku-1", "name": "Áo", "price": 10.5, "currency": "VND", "quantity": 2}
    ours = {"product_id": "sku-1", "name": "Áo", "price": 10.5, "currency": "VND", "quantity": 2}
    cart = {"cart_id": "c", "total_value": 21, "currency": "VND"}
    assert sent("product_view", {"product": product}) == (ev.PRODUCT_VIEWED, ours)
    assert sent("add_to_cart", {"products": [product], "cart": cart})[1] == {**ours, "cart_id": "c", "value": 21}
    order = {"transaction_id": "T1", "revenue": 21, "currency": "VND", "payment_method": "cod"}
    assert sent("transaction", {"transaction": order, "products": [product]})[1] == {
        "order_id": "T1", "revenue": 21, "currency": "VND", "payment_method": "cod", "products": [ours],
    }  # fmt: skip
    promotion = {"id": "p", "name": "Tết", "slot": "top"}
    assert sent("promo_click", {"promotion": promotion})[1] == {"promotion_id": "p", "name": "Tết", "position": "top"}
    error = {"error_code": "E1", "error_description": "no money"}
    assert sent("trns_error", {"transaction_error": error}) == (
        "Payment Failed",
        {"error_code": "E1", "reason": "no money"},
    )


@pytest.mark.parametrize("wrapped", [False, True])
def test_a_refund_of_snowplow_gives_back_its_amount_and_not_the_whole_order(wrapped: bool) -> None:
    refund = {"transaction_id": "T1", "currency": "VND", "refund_amount": 5, "refund_reason": "size"}
    event = taken({"event": "refund", "userId": "u", "properties": {"refund": refund} if wrapped else refund})
    assert inside(event.properties) == {"order_id": "T1", "currency": "VND", "total": 5, "reason": "size"}
    assert shop.refunded(shop.properties(event.properties)) == 5


def test_what_snowplow_calls_otherwise_at_the_top_level_is_mapped_too() -> None:
    assert sent("add_to_cart", {"total_value": 21})[1] == {"value": 21}
    order = {"transaction_id": "T1", "revenue": 21, "discount_code": "TET"}
    assert sent("transaction", order)[1] == {"order_id": "T1", "revenue": 21, "coupon": "TET"}
    step = {"step": 2, "delivery_method": "GHN", "coupon_code": "TET"}
    assert sent("checkout_step", {"checkout_step": step})[1] == {"step": 2, "shipping_method": "GHN", "coupon": "TET"}


def test_a_field_that_has_our_name_already_has_the_last_word() -> None:
    _, properties = sent("purchase", {"transaction_id": "theirs", "order_id": "ours", "value": 1, "revenue": 2})
    assert properties == {"order_id": "ours", "value": 1, "revenue": 2}


def test_products_that_are_said_in_two_ways_are_not_twice_as_many() -> None:
    for given in ({"items": [SHIRT], "products": [OURS]}, {"products": [OURS], "product": SHIRT}):
        assert sent("purchase", given)[1] == {"products": [OURS]}
    assert sent("purchase", {"items": [SHIRT], "products": []})[1] == {"products": [OURS]}


@pytest.mark.parametrize("items", [None, "x", 5, {}, [], [1, None, "x"], [[SHIRT]]])
def test_items_that_are_none_do_no_harm(items: Any) -> None:
    event, properties = sent("view_item", {"items": items, "product": items, "cart": items})
    assert event == ev.PRODUCT_VIEWED
    assert "products" not in properties


def test_what_is_mapped_is_read_by_the_signals() -> None:
    event = taken({"event": "add_to_cart", "userId": "u", "properties": {"currency": "VND", "items": [SHIRT]}})
    line = shop.single(shop.properties(event.properties), 1)
    assert (line.id, line.qty, line.price) == ("sku-1", 2, 10.5)
