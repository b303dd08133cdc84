"""Contacts and consent: stream/core/contact.py and its signal."""

from __future__ import annotations

from itertools import permutations
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from stream.core import contact
from stream.core.contact import ALL, Address, Contacts, Statement, channels, merged, preferred
from stream.signals.contact import ContactSignal
from tests.unit.shop_events import T0_MS, context, event
from tracker.contract.durations import DAY_MS
from tracker.contract.events import ProfileEvent

CTX = context()
EMAIL, PHONE = "lan@example.com", "+84901234567"
raw = msgspec.json.encode


def said(name: str, at_s: float, properties: Any = None, **fields: Any) -> ProfileEvent:
    given = {"anonymous_id": "a1", **fields}
    return msgspec.structs.replace(event(name, at_s, properties), **given)


def identify(at_s: float, traits: Any, **fields: Any) -> ProfileEvent:
    return msgspec.structs.replace(
        event("x", at_s), type="identify", event=None, traits=msgspec.Raw(raw(traits)), **fields
    )


def after(*events: ProfileEvent) -> Contacts:
    state = Contacts()
    for e in events:
        state = ContactSignal().fold(state, e, CTX).state
    return state


def shown(state: Contacts, policy: str = "optional") -> dict[str, str]:
    return {c.channel: c.consent + ("" if c.usable else " -") for c in channels(state, policy)}


def test_a_login_names_verified_addresses_and_a_form_claims() -> None:
    state = after(
        identify(0, {"email": " Lan@Example.com", "phone": "0901 234 567"}, user_id="u1"),
        said("Form Submitted", 1, {"email": "other@example.com"}),
    )
    assert [(a.type, a.value, a.verified) for a in state.addresses] == [
        ("email", EMAIL, True), ("email", "other@example.com", False), ("phone", PHONE, True),
    ]  # fmt: skip
    assert [c.channel for c in channels(state, "optional")] == ["email", "email", "sms", "zns"]


def test_a_login_of_nobody_is_none() -> None:
    state = after(identify(0, {"email": EMAIL}, user_id="null", anonymous_id="a"))
    assert [(a.value, a.verified) for a in state.addresses] == [(EMAIL, False)]


def test_ids_at_a_messenger_are_a_servers_to_say() -> None:
    ids = {"externalIds": [{"type": "zalo_id", "id": "u77", "collection": "oa1"}]}
    e = said("Message Delivered", 0, {"channel": "zalo"}, context=msgspec.Raw(raw(ids)))
    assert channels(after(e), "optional") == []
    (way,) = channels(after(msgspec.structs.replace(e, source="import")), "optional")
    assert (way.channel, way.address, way.account, way.verified) == ("zalo", "u77", "oa1", True)


def test_silence_is_a_yes_on_email_alone() -> None:
    state = after(identify(0, {"email": EMAIL, "phone": PHONE}))
    assert shown(state) == {"email": "unknown", "sms": "unknown -", "zns": "unknown -"}
    assert shown(state, "required") == {"email": "unknown -", "sms": "unknown -", "zns": "unknown -"}
    assert shown(state, "ignore") == {"email": "unknown", "sms": "unknown", "zns": "unknown"}


@pytest.mark.parametrize(
    ("name", "properties", "expected"),
    [
        ("Consent Updated", {"channel": "zns", "consent": "granted"}, {"zns": "granted"}),
        ("Consent Updated", {"channel": "email", "granted": False}, {"email": "denied -"}),
        ("Consent Updated", {"channels": {"email": "opted-out", "sms": True}}, {"email": "denied -", "sms": "granted"}),
        ("Consent Updated", {"consents": [{"channel": "sms", "status": "subscribed"}]}, {"sms": "granted"}),
        ("Consent Updated", {"consent": {"email": {"consent": "denied"}}}, {"email": "denied -"}),
        ("Consent Updated", {"consent": False}, {"email": "denied -", "sms": "denied -", "zns": "denied -"}),
        ("Consent Updated", {"channel": "email", "consent": "perhaps"}, {}),
        ("Consent Updated", {"channel": "whatsapp", "consent": True}, {}),  # not a yes to all others
        ("Consent Updated", {"channel": "whatsapp", "consent": False}, {}),
        ("Consent Updated", {"channels": ["email", "sms"], "granted": False}, {"email": "denied -", "sms": "denied -"}),
        ("Consent Updated", {"channel": ["sms", "fax"], "consent": "on"}, {"sms": "granted"}),
        ("Consent Updated", {"channel": "email, sms", "opt_in": True}, {"email": "granted", "sms": "granted"}),
        ("Consent Updated", {"email": False, "sms": True, "source": "form"}, {"email": "denied -", "sms": "granted"}),
        ("Consent Updated", {"channel": "email", "consent": {"granted": False}}, {"email": "denied -"}),
        ("Consent Updated", {"type": "sms", "consent": "y"}, {"sms": "granted"}),
        ("Subscribed", {"channel": "messenger"}, {}),
        ("Subscribed", {"channels": ["sms", "zns"]}, {"sms": "granted", "zns": "granted"}),
        ("Unsubscribed", {"channel": "messenger"}, {}),
        ("Message Replied", {"channel": "sms", "text": "TC QC"}, {"sms": "denied -"}),
        ("Subscribed", {"list": "newsletter"}, {"email": "granted"}),
        ("Subscribed", {"phone": "0901234567"}, {"sms": "granted", "zns": "granted"}),
        ("Unsubscribed", {}, {"email": "denied -", "sms": "denied -", "zns": "denied -"}),
        ("Unsubscribed", {"channel": "sms"}, {"sms": "denied -"}),
        ("Unsubscribed", {"email": "somebody@else.example"}, {}),
        ("Email Unsubscribed", {}, {"email": "denied -"}),
        ("Email Marked as Spam", {"email": EMAIL}, {"email": "denied -"}),
        ("Message Replied", {"channel": "sms", "text": " Stop. "}, {"sms": "denied -"}),
        ("Message Replied", {"channel": "sms", "text": "Từ chối"}, {"sms": "denied -"}),
        ("Message Replied", {"channel": "sms", "text": "please don't stop"}, {}),
        ("Message Failed", {"channel": "sms", "error_code": 21610}, {"sms": "denied -"}),
    ],
)
def test_a_yes_or_no_is_about_the_channel_that_it_names(name: str, properties: Any, expected: dict[str, str]) -> None:
    silent = after(identify(0, {"email": EMAIL, "phone": PHONE}))
    state = ContactSignal().fold(silent, said(name, 1, properties), CTX).state
    assert shown(state) == {**shown(silent), **expected}


def test_of_a_channel_and_its_address_the_latest_word_counts_in_any_order_of_arrival() -> None:
    events = [
        identify(0, {"email": EMAIL}),
        said("Unsubscribed", 10, {"channel": "email"}),
        said("Subscribed", 20, {"email": EMAIL}),
        said("Email Unsubscribed", 30, {"email": "other@example.com"}),
    ]
    states = [after(*order) for order in permutations(events)]
    assert all(s == states[0] for s in states)
    assert shown(states[0])["email"] == "granted"


def test_at_the_same_time_a_no_wins() -> None:
    yes, no = said("Subscribed", 5, {"email": EMAIL}), said("Email Unsubscribed", 5, {"email": EMAIL})
    known = identify(0, {"email": EMAIL})
    assert shown(after(known, yes, no)) == shown(after(known, no, yes)) == {"email": "denied -"}


def test_what_bounced_for_good_is_undeliverable_until_a_message_arrives() -> None:
    known = identify(0, {"email": EMAIL})
    hard = said("Email Bounced", 1, {"email": EMAIL, "bounce_type": "HardBounce"})
    assert [(c.undeliverable, c.usable) for c in channels(after(known, hard), "ignore")] == [(True, False)]
    soft = said("Email Bounced", 1, {"email": EMAIL, "bounce_type": "soft"})
    assert [c.undeliverable for c in channels(after(known, soft), "ignore")] == [False]
    arrived = said("Email Delivered", 2, {"email": EMAIL})
    for order in permutations((known, hard, arrived)):
        assert [c.undeliverable for c in channels(after(*order), "ignore")] == [False]


def sends(channel: str, delivered: int, clicked: int, at_s: float = 0) -> list[ProfileEvent]:
    d = [said("Message Delivered", at_s + n, {"channel": channel}) for n in range(delivered)]
    return d + [said("Message Link Clicked", at_s + n, {"channel": channel}) for n in range(clicked)]


def test_the_preferred_channel_is_the_one_that_is_answered_best() -> None:
    state = after(*sends("email", 10, 2), *sends("zalo", 10, 3))
    assert preferred(state, T0_MS) == "zalo"
    assert preferred(Contacts(), T0_MS) is None
    assert preferred(after(*sends("sms", 0, 3)), T0_MS) is None
    assert preferred(state, T0_MS + 91 * DAY_MS) is None
    assert preferred(after(*sends("email", 10, 2), *sends("zalo", 10, 3), said("Zalo Unfollowed", 9)), T0_MS) == "email"


def test_the_days_of_a_channel_are_bounded() -> None:
    day = 86_400
    state = after(*(e for n in range(200) for e in sends("email", 1, 0, n * day)))
    assert len(state.sends["email"]) == contact.KEPT_DAYS
    assert state.sends["email"][-1].day == (T0_MS + 199 * day * 1000) // DAY_MS


def test_a_no_of_either_stays_one_when_two_become_one_person() -> None:
    known = identify(0, {"email": EMAIL})
    one = after(known, said("Email Unsubscribed", 10, {"email": EMAIL}))
    other = after(known, said("Subscribed", 20, {"email": EMAIL}))
    whole = after(said("Unsubscribed", 10))
    assert shown(merged(one, other)) == shown(merged(other, one)) == {"email": "denied -"}
    assert shown(merged(whole, other)) == shown(merged(other, whole)) == {"email": "denied -"}
    again = ContactSignal().fold(merged(one, other), said("Subscribed", 21, {"email": EMAIL}), CTX).state
    assert shown(again) == {"email": "granted"}
    assert shown(merged(after(known), other)) == {"email": "granted"}


def test_addresses_and_statements_are_bounded_and_a_no_is_kept_before_a_yes() -> None:
    state = Contacts()
    for n in range(30):
        state = contact.with_address(state, Address("email", f"a{n}@example.com", n, verified=n == 0))
    assert [a.value for a in state.addresses] == ["a0@example.com", *(f"a{n}@example.com" for n in (29, 28, 27, 26))]
    no = [Statement("email", f"no{n}@example.com", False, n) for n in range(40)]
    yes = [Statement("email", f"yes{n}@example.com", True, 100 + n) for n in range(40)]
    state = contact.with_consent(state, (*no, *yes, Statement(ALL, "", False, 1)))
    assert len(state.consents) == contact.MAX_STATEMENTS
    assert sum(not s.yes for s in state.consents) == 41


statements = st.lists(
    st.builds(
        Statement, st.sampled_from(["email", "sms", ALL]), st.sampled_from(["", EMAIL, PHONE]), st.booleans(),
        st.integers(0, 5), st.sampled_from(["a", "b"]),
    ), max_size=8,
)  # fmt: skip


@given(one=statements, other=statements)
def test_no_merge_makes_a_yes_of_a_no(one: list[Statement], other: list[Statement]) -> None:
    first, second = contact.put((), one), contact.put((), other)
    state = merged(Contacts(consents=first), Contacts(consents=second))
    assert state == merged(Contacts(consents=second), Contacts(consents=first))
    for channel in ("email", "sms"):
        for address in (EMAIL, PHONE, ""):
            before = [s for side in (first, second) if (s := contact.consent(side, channel, address)) is not None]
            now = contact.consent(state.consents, channel, address)
            assert (now is None) == (not before)
            assert now is None or not now.yes or all(s.yes for s in before)
