"""Channel, campaign and traffic class: by what way a visitor came and an event happened."""

from __future__ import annotations

import time
from typing import Any

import pytest

from tests.unit.intake import taken, track
from tracker.contract.events import CHANNELS, CLICK_IDS, Campaign, Event
from tracker.intake.channel import LISTS, PREFIXES, TRAFFIC

# -- channel


@pytest.mark.parametrize(
    ("fields", "channel"),
    [
        ({}, "site"),
        ({"context": {"channel": "Email"}}, "email"),
        ({"properties": {"channel": "zalo"}}, "zalo"),
        ({"properties": {"channel": "zalo"}, "context": {"channel": "sms"}}, "sms"),
        ({"properties": {"channel": "fax"}}, "other"),
        ({"properties": {"channel": 7}}, "site"),
        ({"properties": {"channel": ""}}, "site"),
        ({"properties": {"note": '"channel"'}}, "site"),
        ({"event": "Popup Viewed"}, "popup"),
        ({"event": "Popup Viewed", "properties": {"channel": "site"}}, "site"),
        ({"event": "Email Opened"}, "email"),
        ({"event": "Push Notification Tapped"}, "webpush"),
        ({"event": "Web Push Shown"}, "webpush"),
        ({"event": "Emailed"}, "site"),
    ],
)
def test_the_channel_is_what_the_event_says_and_else_what_its_name_says(fields: dict[str, Any], channel: str) -> None:
    assert taken(track(**fields)).channel == channel


def test_channels_are_a_closed_set() -> None:
    assert {channel for _, channel in PREFIXES} <= set(CHANNELS)


def test_a_name_goes_before_the_campaign_and_what_is_said_before_both() -> None:
    campaign = {"campaign": {"source": "zalo"}}
    assert taken(track(context=campaign)).channel == "zalo"
    assert taken(track(event="Popup Viewed", context=campaign)).channel == "popup"
    assert taken(track(event="Message Seen", context=campaign)).channel == "zalo"
    assert taken(track(context={**campaign, "channel": "sms"})).channel == "sms"


@pytest.mark.parametrize("key", ['"channel"', '"\\u0063hannel"'])
def test_what_is_read_of_a_key_that_comes_twice_is_what_is_written(key: str) -> None:
    """A reader that took the first one would see another channel than the one that was counted."""
    for part in ("properties", "context"):
        raw = f'{{"event":"A","userId":"u","{part}":{{"channel":"email",{key}:"sms"}}}}'
        event = taken(raw.encode())
        assert event.channel == "sms"
        assert bytes(getattr(event, part)) == b'{"channel":"sms"}'


# -- campaign


def page(url: str = "https://shop.example/", referrer: str = "", **context: Any) -> Event:
    about = {"page": {"url": url, "referrer": referrer}, **context}
    return taken({"userId": "u", "context": about}, type="page")


def test_a_campaign_is_what_the_context_says() -> None:
    event = page(
        "https://shop.example/?utm_source=other&utm_medium=cpc",
        campaign={"source": "FB", "name": "tet", "id": 7, "x": "y"},
    )
    assert event.campaign == Campaign(source="FB", name="tet")


def test_a_campaign_is_else_what_the_address_says() -> None:
    query = (
        "utm_source=newsletter&utm_medium=email&utm_campaign=T%E1%BA%BFt&utm_term=a+b&utm_content=c&utm_id=9&utm_x=1"
    )
    expected = Campaign(source="newsletter", medium="email", name="Tết", term="a b", content="c", id="9")
    assert page(f"https://shop.example/p?{query}#frag").campaign == expected
    assert taken(track(context={"page": {"search": f"?{query}"}})).campaign == expected


def test_a_page_call_of_a_server_names_its_page_in_the_properties() -> None:
    properties = {"url": "https://shop.example/?utm_source=zalo&gclid=g", "referrer": "https://google.com/"}
    event = taken({"userId": "u", "properties": properties}, type="page")
    assert (event.campaign, event.click_ids, event.traffic) == (Campaign(source="zalo"), {"gclid": "g"}, "zalo")
    assert taken(track(properties=properties)).campaign is None  # of another call it is the product's, or whatever


def test_what_the_context_and_the_properties_say_of_a_page_complete_each_other() -> None:
    google = "https://google.com/"
    assert taken({"userId": "u", "properties": {"referrer": google, "path": "/"}}, type="page").traffic == "search"
    about = {"page": {"referrer": google}}
    properties = {"url": "https://shop.example/"}
    assert taken({"userId": "u", "properties": properties, "context": about}, type="page").traffic == "search"
    properties = {"search": "?utm_source=zalo"}
    assert taken({"userId": "u", "properties": properties, "context": about}, type="page").traffic == "zalo"


def test_a_host_of_thousands_of_labels_costs_no_more_than_another() -> None:
    referrer = f"https://{'a.' * 2000}mail.google.com/"
    started_s = time.process_time()
    for i in range(20):
        assert page("https://shop.example/", f"https://{i}.{referrer[8:]}").traffic == "email"
    assert time.process_time() - started_s < 0.1  # 0.4 s where each end of it is looked up


def test_click_ids_are_kept_and_cut() -> None:
    event = page("https://shop.example/?gclid=abc&fbclid=" + "x" * 2000 + "&clid=1&GBRAID=b")
    assert event.click_ids == {"gclid": "abc", "fbclid": "x" * 256, "gbraid": "b"}
    assert event.campaign is None


def test_no_campaign_is_no_field() -> None:
    for url in ("https://shop.example/", "https://shop.example/?q=1", "https://shop.example/?utm_source=", "??==&&"):
        event = page(url)
        assert event.campaign is None
        assert event.click_ids is None


@pytest.mark.parametrize(
    "url", ["http://[bad", "https://a.example/?" + "&".join(["a=1"] * 5000), "\x00?utm_source", "?"]
)
def test_any_address_is_read(url: str) -> None:
    assert page(url).traffic in TRAFFIC


# -- traffic class (A422)


@pytest.mark.parametrize(
    ("query", "referrer", "traffic"),
    [
        # The vectors of A422.
        ("", "", "direct"),
        ("utm_medium=email", "https://www.facebook.com/", "email"),
        # Its order: click ids and utm before the referrer, messages before paid before lists.
        ("utm_source=zalo&utm_medium=cpc", "", "zalo"),
        ("utm_source=facebook&utm_medium=sms", "", "sms"),
        ("utm_medium=viber&gclid=1", "", "viber"),
        ("utm_medium=e-mail", "", "email"),
        ("utm_source=web_push", "", "webpush"),
        ("zarsrc=1303", "https://google.com/", "zalo"),
        ("utm_source=google&utm_medium=cpc", "https://google.com/", "paid"),
        ("utm_source=facebook&utm_medium=paid_social", "", "paid"),
        ("utm_medium=paidsearch", "", "paid"),
        ("gclid=1", "https://google.com/", "paid"),
        ("msclkid=1", "", "paid"),
        ("gclid=1&utm_source=facebook", "", "paid"),
        ("fbclid=1", "", "social"),
        ("fbclid=1&utm_medium=cpc", "", "paid"),
        ("utm_source=ig", "", "social"),
        ("utm_source=x", "", "social"),
        ("utm_medium=social", "https://google.com/", "social"),
        ("utm_source=google", "", "search"),
        ("utm_medium=organic", "", "search"),
        ("utm_source=coccoc.com", "", "search"),
        # Of a campaign that nothing knows the referrer tells, and if there is none, it was a link.
        ("utm_source=partner", "https://m.facebook.com/", "social"),
        ("utm_source=partner", "", "referral"),
        ("utm_source=partner.example", "", "referral"),
        ("utm_source=badsite", "", "referral"),  # no word of it is "ads"
        # The lists, by host.
        ("", "https://www.google.com.vn/", "search"),
        ("", "https://l.facebook.com/l.php", "social"),
        ("", "https://www.tiktok.com/@x", "social"),
        ("", "https://coccoc.com/search?query=x", "search"),
        ("", "https://search.yahoo.co.jp/", "search"),
        ("", "https://mail.google.com/", "email"),
        ("", "android-app://com.google.android.gm/", "email"),
        ("", "android-app://com.zing.zalo/", "zalo"),
        ("", "https://chat.zalo.me/", "zalo"),
        ("", "https://T.CO/abc", "social"),
        ("", "https://blog.example/post", "referral"),
        ("", "https://facebook.com.evil.example/", "referral"),
        ("", "https://google.evil.example/", "referral"),
        ("", "https://notfacebook.com/", "referral"),
        ("", "http://user@192.0.2.7:8080/", "referral"),
        ("", "https://SHOP.example:443/other", "internal"),
        ("", "about:blank", "direct"),
        ("", "no address", "direct"),
    ],
)
def test_traffic_is_classified_in_the_order_of_the_rules(query: str, referrer: str, traffic: str) -> None:
    assert page(f"https://shop.example/?{query}", referrer).traffic == traffic


def test_only_pages_and_screens_have_a_traffic_class() -> None:
    about = {"page": {"url": "https://shop.example/?utm_source=zalo", "referrer": "https://google.com/"}}
    assert taken(track(context=about)).traffic is None
    assert taken({"userId": "u"}, type="screen").traffic == "direct"


@pytest.mark.parametrize(
    ("query", "channel"),
    [("utm_medium=email", "email"), ("gclid=1", "ads"), ("utm_source=tiktok", "social"), ("utm_source=google", "site"),
     ("utm_source=partner", "site"), ("", "site")],
)  # fmt: skip
def test_a_campaign_tells_the_channel_and_a_referrer_does_not(query: str, channel: str) -> None:
    assert page(f"https://shop.example/?{query}", "https://www.facebook.com/").channel == channel


def test_every_class_of_a_campaign_has_a_channel_of_the_closed_set() -> None:
    for name, listed in LISTS:
        for word in listed:
            assert page(f"https://shop.example/?utm_source={word}").channel == name
            assert name in CHANNELS


def test_every_click_id_has_a_class() -> None:
    for name, kind in CLICK_IDS.items():
        assert page(f"https://shop.example/?{name}=1").traffic == kind
