"""Which identifiers an event's profile is found by, how they are spelled, and which addresses are believed."""

from __future__ import annotations

import json
from typing import Any

import pytest

from stream.core.identity import identifiers, routes
from stream.resolve import in_calls
from tracker.contract.events import decode_event_head
from tracker.contract.ids import ID_TYPES, OLD_VN_PREFIXES, Identifier, limits, normal, usable
from tracker.contract.loading import SettingsError, load
from tracker.contract.settings import PHONE_COUNTRIES


def ids_of(**fields: Any) -> tuple[Identifier, ...]:
    event = {"site": "s", "type": "track", "messageId": "m", "receivedAtMs": 5, "timestampMs": 5, **fields}
    value = json.dumps(event).encode()
    return identifiers(value, decode_event_head(value), "VN")


@pytest.mark.parametrize(
    "value",
    ["", " ", "null", "None", '"null"', "NaN", "guest", "anonymous", "undefined", "0", "000", "0-0", "-1", "---",
     "[object Object]", "true", "x" * 201, "0000000000", "Test@test.com", "`null`", "\u201cnull\u201d"],
)  # fmt: skip
def test_a_value_that_everybody_sends_means_nobody(value: str) -> None:
    assert usable(value) is None
    for id_type in ID_TYPES:
        assert normal(id_type.name, value, "VN") is None


@pytest.mark.parametrize(
    "value", ["u1", "a@shop.example", "00000000-0000-4000-8000-00000000000a", "x" * 200, "nullable"]
)
def test_an_ordinary_value_is_kept_as_it_is(value: str) -> None:
    assert usable(value) == value
    assert normal("user_id", value, "VN") == value


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (" Lan.Tran+shop@Gmail.COM ", "lan.tran+shop@gmail.com"),
        ("lan@shop", None),
        ("@shop.example", None),
        ("lan@@shop.example", None),
        ("lan tran@shop.example", None),
        ("lan@shop..example", None),
        ("\u200blan@shop.example\ufeff", "lan@shop.example"),
        ("mailto:lan@shop.example", None),
        ("Lan <lan@shop.example>", None),
        ("lan@shop.example,", None),
        ("lan@shop.example;mai@shop.example", None),
        (12, None),
        (["lan@shop.example"], None),
    ],
)
def test_an_email_is_trimmed_and_in_lower_case_and_nothing_else_is_folded(value: Any, expected: str | None) -> None:
    assert normal("email", value, "VN") == expected


@pytest.mark.parametrize(
    ("value", "country", "expected"),
    [
        ("0901234567", "VN", "+84901234567"),
        ("901234567", "VN", "+84901234567"),
        (901234567, "VN", "+84901234567"),
        ("+84 901 234 567", "VN", "+84901234567"),
        ("84901234567", "VN", "+84901234567"),
        ("0084.901.234.567", "TH", "+84901234567"),
        ("(+84) 0 901-234-567", "VN", "+84901234567"),
        ("024 3823 4567", "VN", "+842438234567"),
        ("1900 1234", "VN", "+8419001234"),
        ("0401234567", "VN", None),  # no such prefix
        ("090123456", "VN", None),
        ("09012345678", "VN", None),
        ("0901x34567", "VN", None),
        ("081 234 5678", "TH", "+66812345678"),
        ("(415) 555-0100", "US", "+14155550100"),
        ("+33 6 12 34 56 78", "VN", "+33612345678"),
        ("1111111111", "TH", None),
        ("+1234567890123456", "VN", None),
        ("+0901234567", "VN", None),
        ("+84 (0)901 234 567", "VN", "+84901234567"),
        ("+44 (0)20 7946 0958", "VN", "+442079460958"),
        ("+44 020 7946 0958", "VN", "+442079460958"),
        ("(0)901234567", "VN", "+84901234567"),
        ("tel:+84901234567", "VN", "+84901234567"),
        ("\u202a+84 901 234 567\u202c", "VN", "+84901234567"),  # copied out of a list of contacts
        ("0901\u2011234\u2013567", "VN", "+84901234567"),
        ("\uff10\uff19\uff10\uff11\uff12\uff13\uff14\uff15\uff16\uff17", "VN", "+84901234567"),
        ("'0901,234,567", "VN", "+84901234567"),
        (84901234567.0, "VN", "+84901234567"),
        (8490.5, "VN", None),
        ("0999999999", "VN", None),
        ("0901234567 / 0912345678", "VN", None),
        ("hotline", "VN", None),
    ],
)
def test_a_phone_number_is_spelled_as_e164(value: Any, country: str, expected: str | None) -> None:
    assert normal("phone", value, country) == expected


def test_vietnams_numbers_of_before_2018_are_the_ones_they_have_become() -> None:
    assert normal("phone", "0162 999 9999", "VN") == "+84329999999"
    for old, new in OLD_VN_PREFIXES.items():
        assert (
            normal("phone", f"+84{old}1234567", "VN") == normal("phone", f"0{new}1234567", "VN") == f"+84{new}1234567"
        )


def test_an_unknown_country_is_refused_with_the_known_ones() -> None:
    with pytest.raises(SettingsError, match="phone_country: 'XX' is none of VN, "):
        load({}, phone_country="XX")
    assert load({}).phone_country in PHONE_COUNTRIES


def test_every_type_has_its_limit_in_the_settings() -> None:
    found = limits(load({}, id_limit_phone=0))
    assert [(name, limit) for name, limit, _ in found] == [
        ("user_id", 1), ("email", 5), ("phone", 0), ("zalo_id", 2), ("viber_id", 2), ("push_token", 5),
        ("anonymous_id", 5),
    ]  # fmt: skip
    assert {name: window // 86_400_000 for name, _, window in found if window} == {
        "email": 365, "phone": 365, "anonymous_id": 30
    }  # fmt: skip


# -- what an event says ----------------------------------------------------------------------------------------------

LAN = {"email": "Lan@shop.example", "phone": "0901234567"}
USER, ANONYMOUS = ("user_id", "u1"), ("anonymous_id", "a1")
EMAIL, PHONE = ("email", "lan@shop.example"), ("phone", "+84901234567")


def test_the_stronger_identifier_goes_first() -> None:
    assert ids_of(anonymousId="a1", userId="u1") == (USER, ANONYMOUS)
    assert ids_of(anonymousId="a1", userId="null") == (ANONYMOUS,)
    assert ids_of(anonymousId="guest", userId="null") == ()


def test_alias_says_that_the_previous_id_is_the_same_person() -> None:
    assert ids_of(type="alias", previousId="a0", userId="u1") == (USER, ("anonymous_id", "a0"))
    assert ids_of(type="alias", previousId="a0", userId="u1", anonymousId="a1") == (
        USER, ANONYMOUS, ("anonymous_id", "a0"),
    )  # fmt: skip
    assert ids_of(type="alias", previousId="null", userId="u1") == (USER,)
    assert ids_of(type="track", previousId="a0", userId="u1") == (USER,)


@pytest.mark.parametrize("where", [{"traits": LAN}, {"context": {"traits": LAN}}])
def test_who_logs_in_has_the_addresses_of_the_account(where: dict[str, Any]) -> None:
    assert ids_of(type="identify", anonymousId="a1", userId="u1", **where) == (USER, EMAIL, PHONE, ANONYMOUS)


@pytest.mark.parametrize(
    "fields",
    [
        {"type": "identify", "traits": LAN},
        {"type": "identify", "traits": LAN, "userId": "null"},
        {"type": "track", "event": "Form Submitted", "userId": "u1", "properties": LAN, "context": {"traits": LAN}},
        {"type": "page", "userId": "u1", "context": {"traits": LAN}},
        {"type": "track", "event": "Email Link Clicked", "properties": LAN},
        {"type": "track", "event": "Email Verified", "properties": LAN},
        {"type": "identify", "context": {"externalIds": [{"type": "email", "id": "lan@shop.example"}]}},
    ],
)
def test_an_address_that_anybody_may_type_links_nobody(fields: dict[str, Any]) -> None:
    assert {type for type, _ in ids_of(anonymousId="a1", **fields)} <= {"user_id", "anonymous_id"}


@pytest.mark.parametrize(
    ("event", "source", "expected"),
    [
        ("Order Completed", "client", (EMAIL, PHONE, ANONYMOUS)),
        ("Email Verified", "import", (EMAIL, ANONYMOUS)),
        ("Phone Verified", "import", (PHONE, ANONYMOUS)),
        ("Email Link Clicked", "import", (EMAIL, ANONYMOUS)),
        ("Email Opened", "import", (ANONYMOUS,)),
    ],
)
def test_an_address_is_believed_where_it_was_shown_to_be_the_persons_own(
    event: str, source: str, expected: tuple[Identifier, ...]
) -> None:
    for where in ({"properties": LAN}, {"traits": LAN}, {"context": {"traits": LAN}}):
        assert ids_of(event=event, source=source, anonymousId="a1", **where) == expected


def test_what_a_server_reports_of_an_address_alone_is_of_whoever_has_it() -> None:
    assert ids_of(event="Email Delivered", source="import", properties=LAN) == (EMAIL, PHONE)
    assert ids_of(event="Email Delivered", source="client", properties=LAN) == ()


def test_a_zalo_id_is_one_of_its_official_account() -> None:
    given = [
        {"type": "zalo_id", "id": "77", "collection": "oa1"},
        {"type": "zalo_id", "id": "78"},
        {"type": "viber_id", "id": "v=1", "collection": "bot"},
        {"type": "user_id", "id": "u9"},
        {"type": ["email"], "id": "x"},
        "nonsense",
    ]
    expected = (("zalo_id", "oa1/77"), ("viber_id", "bot/v=1"), ANONYMOUS)
    for kind in ("Email Verified", "Order Completed"):
        assert ids_of(event=kind, source="import", anonymousId="a1", context={"externalIds": given}) == expected
    assert ids_of(event="Message Seen", source="import", context={"externalIds": given}) == expected[:2]


def test_a_device_has_its_push_token() -> None:
    device = {"device": {"token": "tok-1"}}
    assert ids_of(type="identify", userId="u1", context=device) == (USER, ("push_token", "tok-1"))


@pytest.mark.parametrize("broken", [None, 5, "x", [], {"email": {"a": 1}, "phone": [1]}, {"traits": 7, "device": 3}])
def test_nothing_that_a_client_sends_makes_it_raise(broken: Any) -> None:
    fields = {"traits": broken, "context": broken, "properties": broken}
    assert ids_of(type="identify", userId="u1", source="import", **fields) == (USER,)
    assert ids_of(event="Order Completed", anonymousId="a1", **fields) == (ANONYMOUS,)


def purchase_of(event: str | None = "Order Completed", **properties: Any) -> tuple[Identifier, ...]:
    said = {"site": "s", "type": "track", "messageId": "m", "receivedAtMs": 5, "event": event, "properties": properties}
    value = json.dumps(said).encode()
    return routes(value, decode_event_head(value))


def test_an_event_of_a_purchase_says_which_the_most_telling_first() -> None:
    assert purchase_of(cart_id="c1", order_id=" 1001 ", revenue=3) == (("order_id", "1001"), ("cart_id", "c1"))
    assert purchase_of("Checkout Started", checkout_id=7) == (("checkout_id", "7"),)
    assert purchase_of(order_id=1001.0, cart_id=1e300) == (("order_id", "1001"), ("cart_id", "1e+300"))
    assert purchase_of(revenue=3) == ()
    assert purchase_of(note="order_id", products=[{"order_id": "o1"}]) == ()
    assert purchase_of("Product Viewed", order_id="o1") == ()
    assert purchase_of(None, order_id="o1") == ()


@pytest.mark.parametrize("value", [None, "", "null", "0", "000", "undefined", "-1", "x" * 201, True, [1], {"a": 1}])
def test_a_purchase_that_everybody_names_is_none(value: Any) -> None:
    assert purchase_of(order_id=value) == ()


def test_what_one_call_of_the_script_may_merge_is_bounded() -> None:
    assert list(in_calls([])) == []
    assert list(in_calls([1] * 450)) == [(0, 200), (200, 400), (400, 450)]
    assert list(in_calls([10] * 50)) == [(0, 20), (20, 40), (40, 50)]
    assert list(in_calls([150, 500, 1, 190, 10])) == [(0, 1), (1, 2), (2, 4), (4, 5)]
