"""What signals read of e-commerce properties, good and bad."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from msgspec import UNSET

from stream.core.cart_state import MAX_LINES, MAX_PRICE, Line
from stream.signals import shop
from stream.signals.cart_entries import DOES, entry
from tests.unit.cart_rig import Rig
from tests.unit.shop_events import add, context, event
from tracker.contract import events as ev
from tracker.contract.examples import MESSAGES, PROFILE_ID, profile_event
from tracker.contract.triggers import CartAbandoned


def read(properties: Any) -> shop.Properties:
    return shop.properties(msgspec.Raw(msgspec.json.encode(properties)))


@pytest.mark.parametrize(
    "raw", [UNSET, *map(msgspec.Raw, [b"null", b"[1]", b'"x"', b"7", b"{", b"\xff", b'{"a":1e999}'])]
)
def test_properties_that_are_no_object_read_as_empty(raw: Any) -> None:
    assert shop.properties(raw) == shop.Properties()


def test_properties_nested_deeper_than_the_parser_goes_read_as_empty() -> None:
    assert shop.properties(msgspec.Raw(b'{"products":' + b"[" * 15_000 + b"]" * 15_000 + b"}")) == shop.Properties()


@pytest.mark.parametrize(
    ("given", "read"),
    [(2, 2.0), ("2.5", 2.5), (" 3 ", 3.0), (0, 0.0), (-1, None), ("-1", None), ("NaN", None), ("Infinity", None),
     ("1,5", None), ("x", None), (True, None), (None, None), ([], None), ({}, None), (10**400, None), ("9" * 50, None),
     (1e13, None)],
)  # fmt: skip
def test_a_number_is_what_is_finite_and_not_negative(given: Any, read: float | None) -> None:
    assert shop.number(given, MAX_PRICE) == read


def test_a_product_goes_by_its_id_else_sku_else_name() -> None:
    ids = [shop.single(read(p), 1).id for p in (
        {"product_id": 7, "sku": "s", "name": "n"}, {"product_id": " ", "sku": "s", "name": "n"}, {"name": "n"}, {},
    )]  # fmt: skip
    assert ids == ["7", "s", "n", "unknown"]


def test_a_list_is_cut_at_a_hundred_lines_and_merges_the_same_product() -> None:
    products = [{"product_id": i % 150, "quantity": 2} for i in range(300)]
    lines = shop.listed(read({"products": products}))
    assert lines is not None
    assert len(lines) == MAX_LINES
    assert {line.qty for line in lines} == {4}


def test_variants_of_a_product_are_lines_of_their_own_and_prices_in_other_currencies_say_so() -> None:
    products = [
        {"product_id": 1, "variant": "M", "price": 10},
        {"product_id": 1, "variant": "L", "price": 12, "sku": "s"},
        {"product_id": 1.0, "variant": "M", "price": 10},
        {"sku": "t", "price": 3, "currency": "eur"},
        {"sku": "u", "price": 3, "currency": "VND"},
    ]
    p = read({"products": products, "currency": "VND"})
    assert shop.listed(p) == (
        Line("1", 2, 10, variant="M"), Line("1", 1, 12, sku="s", variant="L"), Line("t", 1, 3, cur="EUR"),
        Line("u", 1, 3),
    )  # fmt: skip
    assert shop.order_value(p) == 35


@pytest.mark.parametrize(("given", "read"), [(1001.0, "1001"), (1.5, "1.5"), (1001, "1001"), (1e300, "1e+300")])
def test_a_number_as_a_text_is_one_however_it_is_written(given: float, read: str) -> None:
    assert shop.text(given, 100) == read


@pytest.mark.parametrize("nobody", ["undefined", "null", 0, "0", " ", None, "[object Object]", True, [1]])
def test_what_is_sent_for_every_order_is_no_id(nobody: Any) -> None:
    p = read({"order_id": nobody, "cart_id": nobody, "checkout_id": nobody})
    assert (shop.order_id(p), shop.cart_id(p), shop.checkout_id(p)) == (None, None, None)
    assert shop.order_id(read({"order_id": " 1001 "})) == "1001"


def test_junk_in_a_list_is_passed_over() -> None:
    products: list[Any] = [
        None,
        3,
        "x",
        [],
        {"product_id": "a", "quantity": -3, "price": "12.5"},
        {"product_id": "b", "quantity": 0},
    ]
    assert shop.listed(read({"products": products})) == (Line("a", 1, 12.5),)
    assert shop.listed(read({"products": {"product_id": "a"}})) is None
    assert shop.listed(read({})) is None


@pytest.mark.parametrize(
    ("properties", "value"),
    [
        ({"revenue": 1, "total": 2, "value": 3}, 1),
        ({"revenue": None, "total": "2", "value": 3}, 2),
        ({"value": 3}, 3),
        ({"products": [{"product_id": 1, "price": 2, "quantity": 3}, {"product_id": 2, "price": "4"}]}, 10),
        ({"products": [{"product_id": 1, "price": 2, "quantity": 3}, {"product_id": 2}]}, None),
        ({"revenue": -1}, None),
        ({}, None),
    ],
)
def test_the_value_of_an_order(properties: Any, value: float | None) -> None:
    assert shop.order_value(read(properties)) == value


@pytest.mark.parametrize(
    ("properties", "back"),
    [({"total": 5, "revenue": 9}, 5), ({"products": [{"price": 2}]}, 2), ({"products": [{"sku": 2}]}, 0), ({}, None)],
)
def test_a_refund_without_any_amount_or_product_is_a_full_one(properties: Any, back: float | None) -> None:
    assert shop.refunded(read(properties)) == back


@pytest.mark.parametrize(
    ("properties", "name"),
    [
        ({"campaign_id": 7, "campaign": "b"}, "7"),
        ({"campaign": "b", "campaign_name": "c"}, "b"),
        ({"campaign": {"name": "tet"}}, "tet"),
        ({"campaign": {}, "campaign_name": "c"}, "c"),
        ({"template_id": "t"}, "t"),
        ({}, None),
    ],
)
def test_the_campaign_of_a_click(properties: Any, name: str | None) -> None:
    assert shop.campaign(read(properties)) == name


@pytest.mark.parametrize(
    ("properties", "code"),
    [({"currency": "vnd"}, "VND"), ({"products": [{"currency": "EUR"}]}, "EUR"), ({"currency": "dong"}, None),
     ({"currency": 4}, None), ({"products": [3]}, None), ({"currency": "đồn"}, None)],
)  # fmt: skip
def test_a_currency_is_three_letters(properties: Any, code: str | None) -> None:
    assert shop.currency(read(properties)) == code


def test_amounts_in_minor_units() -> None:
    assert shop.minor(145_000, "VND") == 145_000
    assert shop.minor(19.99, "EUR") == 1999
    assert shop.minor(1.5, "KWD") == 1500
    assert shop.minor(2, None) == 200


def test_every_event_that_the_cart_reads_is_read_from_the_golden_example() -> None:
    for name in MESSAGES:
        e = entry(ev.decode_profile_event(profile_event(name))) if name in DOES else None
        if name in (ev.PRODUCT_ADDED, ev.CART_VIEWED, ev.CHECKOUT_STARTED):
            assert e is not None
            (line,) = e.lines or ()
            assert (line.id, line.qty, line.price) == ("ca-phe-robusta-500", 2, 145_000)
            assert line.url == "https://shop.example/p/ca-phe-robusta-500"
            assert line.img == "https://shop.example/i/ca-phe-robusta-500.webp"
        elif name in (ev.ORDER_COMPLETED, ev.ORDER_CANCELLED, ev.ORDER_REFUNDED):
            assert e is not None
            assert e.order == "order-5501"
            assert e.value == (None if name == ev.ORDER_CANCELLED else 290_000)
        elif name in ev.MESSAGE_CLICKS:
            assert e is not None
            assert e.by == "cart-reminder"


@pytest.mark.parametrize(
    ("properties", "shipping"),
    [
        ({"step": 2, "shipping_method": "express"}, True),
        ({"step_name": "Shipping address"}, True),
        ({"step": "shipping"}, True),
        ({"step": 2}, False),
        ({"step": ["shipping"], "shipping_method": {}}, False),
    ],
)
def test_a_step_of_the_checkout_that_is_about_shipping(properties: dict[str, Any], shipping: bool) -> None:
    e = entry(event(ev.CHECKOUT_STEP_VIEWED, 0, properties))
    assert e is not None
    assert (e.by == "shipping") is shipping


def test_the_ids_and_the_link_of_a_cart_are_read_and_bounded() -> None:
    about = {"cart_id": 7, "checkout_id": "k" * 300, "order_id": "o1", "checkout_url": "https://shop.example/k/1"}
    e = entry(event(ev.CHECKOUT_STARTED, 0, about))
    assert e is not None
    assert (e.cart, e.checkout, e.order, e.link) == ("7", "k" * 100, "o1", "https://shop.example/k/1")
    added = entry(event(ev.PRODUCT_ADDED, 0, {**about, "checkout_url": None, "cart_url": "https://shop.example/c"}))
    assert added is not None
    assert (added.cart, added.order, added.link) == ("7", None, "https://shop.example/c")


def test_removed_quantities_are_taken_off_and_without_one_the_line_goes() -> None:
    rig = Rig()
    rig.take(add(0, "A", 5))
    rig.take(event(ev.PRODUCT_REMOVED, 1, {"product_id": "A", "quantity": 2}))
    assert rig.state is not None
    assert [line.qty for line in rig.state.carts.latest.items] == [3]
    rig.take(event(ev.PRODUCT_REMOVED, 2, {"products": [{"product_id": "A"}]}))
    assert rig.state.carts.latest.state == "empty"


def test_an_added_product_fills_in_what_an_earlier_event_left_out() -> None:
    rig = Rig()
    rig.take(event(ev.PRODUCT_ADDED, 0, {"product_id": "A", "name": "Trà", "currency": "VND"}))
    rig.take(event(ev.PRODUCT_ADDED, 1, {"product_id": "A", "price": "30000", "quantity": "2", "url": "u" * 501}))
    rig.clock(9999)
    data = rig.triggers[0].data
    assert isinstance(data, CartAbandoned)
    assert data.value == 90_000
    assert data.currency == "VND"
    assert [(i.name, i.quantity, i.url) for i in data.items] == [("Trà", 3, None)]


def test_the_golden_cart_event_belongs_to_the_golden_profile() -> None:
    assert ev.decode_profile_event(profile_event(ev.PRODUCT_ADDED)).profile_id == PROFILE_ID
    assert context().site == "demo"
