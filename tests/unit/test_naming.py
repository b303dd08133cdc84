"""Which campaign and content an event is counted under."""

from __future__ import annotations

import json
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from stream import naming
from tests.unit.shop_events import event
from tracker.contract.events import CONTENT_ACTIONS, MESSAGE_ACTIONS, ProfileEvent
from tracker.contract.keys import FAMILIES

NAMES = sorted({*CONTENT_ACTIONS, *MESSAGE_ACTIONS})


def call(type: str, properties: Any, **fields: Any) -> ProfileEvent:
    raw = msgspec.Raw(json.dumps(properties).encode())
    return msgspec.structs.replace(event("x", 0), type=type, event=None, properties=raw, **fields)


@pytest.mark.parametrize(
    ("properties", "name", "field"),
    [
        ({"path": "/a/b"}, "Title", "page|/a/b"),
        ({"path": "/a/?q=1#x", "url": "https://other/z"}, None, "page|/a"),
        ({"path": "/"}, None, "page|/"),
        ({"url": "https://shop.example/a/b/?utm_source=x"}, None, "page|/a/b"),
        ({"url": "https://shop.example"}, None, "page|/"),
        ({"url": "https://shop.example?q=a/b"}, None, "page|/"),
        ({"url": "no address"}, "Home", "page|Home"),
        ({"path": 7}, "Home", "page|Home"),
        (["no object"], "Home", "page|Home"),
        ({"path": "/" + "x" * 300}, None, "page|/" + "x" * 119),
    ],
)
def test_a_page_is_its_path(properties: Any, name: str | None, field: str) -> None:
    assert naming.content(call("page", properties, name=name)) == ((field, 1),)


def test_a_page_without_anything_to_call_it_by_has_no_name_and_an_identify_is_no_content() -> None:
    assert naming.content(call("page", {})) == ()
    assert naming.content(call("identify", {"path": "/a"})) == ()
    assert naming.content(call("screen", {}, name="Cart")) == (("screen|Cart", 1),)


@pytest.mark.parametrize(
    ("name", "properties", "field"),
    [
        ("Product Viewed", {"product_id": 12, "sku": "s"}, "product|viewed|12"),
        ("Product Added", {"product_id": " ", "sku": "s"}, "product|added|s"),
        ("Product Removed", {"name": "Cà phê"}, "product|removed|Cà phê"),
        ("Promotion Clicked", {"promotion_id": "p"}, "promotion|clicked|p"),
        ("Form Submitted", {"form_id": "f"}, "form|submitted|f"),
        ("Order Completed", {"product_id": "p"}, "product|ordered|p"),
    ],
)
def test_a_product_promotion_or_form_is_its_id_and_what_was_done(name: str, properties: Any, field: str) -> None:
    assert naming.content(event(name, 0, properties)) == ((field, 1),)


def test_an_orders_lines_are_counted_and_beyond_twenty_under_no_name() -> None:
    products = [{"product_id": f"p{n}"} for n in range(23)]
    fields = naming.content(event("Order Completed", 0, {"products": products}))
    assert fields == (*((f"product|ordered|p{n}", 1) for n in range(20)), ("product|", 3))
    assert naming.content(event("Order Completed", 0, {"revenue": 3})) == ()
    variants = [{"product_id": "p", "variant": variant} for variant in "SML"]
    assert naming.content(event("Order Completed", 0, {"products": variants})) == (("product|ordered|p", 1),)


@pytest.mark.parametrize(
    ("campaign", "field"),
    [
        ({"name": "tet", "id": "7", "source": "fb"}, "campaign|tet"),
        ({"id": "7", "source": "fb"}, "campaign|7"),
        ({"source": "fb"}, "campaign|fb"),
    ],
)
def test_a_campaign_is_its_name_else_its_id_else_where_it_ran(campaign: Any, field: str) -> None:
    raw = msgspec.Raw(json.dumps(campaign).encode())
    assert naming.campaign(msgspec.structs.replace(event("Product Viewed", 0), campaign=raw)) == ((field, 1),)


def test_a_messages_own_campaign_goes_before_the_one_that_brought_the_visitor() -> None:
    raw = msgspec.Raw(b'{"name":"utm"}')
    opened = msgspec.structs.replace(event("Email Opened", 0, {"campaign_id": "mail-7"}), campaign=raw)
    assert naming.campaign(opened) == (("campaign|mail-7", 1),)
    assert naming.campaign(msgspec.structs.replace(event("Email Opened", 0), campaign=raw)) == (("campaign|utm", 1),)
    assert naming.campaign(event("Email Opened", 0)) == ()


_json = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(), st.text(max_size=300)),
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(st.text(max_size=4), inner, max_size=3)),
    max_leaves=4,
)
_fields = st.sampled_from(["path", "url", "product_id", "sku", "name", "id", "source", "products", "campaign"])


@given(
    st.sampled_from([None, *NAMES]), st.one_of(_json, st.dictionaries(_fields, _json)), st.dictionaries(_fields, _json)
)
def test_nothing_a_client_sends_makes_it_raise_and_fields_are_of_the_family_and_short(
    name: str | None, properties: Any, campaign: Any
) -> None:
    raw, brought = (msgspec.Raw(json.dumps(value).encode()) for value in (properties, campaign))
    e = msgspec.structs.replace(
        event("x", 0), type="track" if name else "page", event=name, properties=raw, campaign=brought
    )
    for family, fields in (("content", naming.content(e)), ("campaign", naming.campaign(e))):
        for field, n in fields:
            assert n > 0
            kind, _, rest = field.partition("|")
            assert kind in FAMILIES[family][0]
            assert len(rest) <= 150
