"""Who acts: devices, bots, addresses, and what is left of somebody who has not consented."""

from __future__ import annotations

import json
from typing import Any

import msgspec
import pytest

from tests.unit.intake import NOW_MS, call, draft_of, inside, refused, taken, track
from tracker.contract import events
from tracker.contract.events import Device, profile_prefix, with_profile
from tracker.contract.loading import load
from tracker.contract.sites import Site
from tracker.intake import Policy, device, policy_of, take
from tracker.intake.context import MAX_CHARS, MAX_KEPT, read_context

CHROME = "Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/140.0.0.0 Safari/537.36"
GOOGLEBOT = "Mozilla/5.0 (compatible; Googlebot/2.1; +http://www.google.com/bot.html)"
IPHONE = "Mozilla/5.0 (iPhone; CPU iPhone OS 18_1 like Mac OS X) AppleWebKit/605.1.15 (KHTML, like Gecko)"
ANDROID = "Mozilla/5.0 (Linux; Android 14; SM-S918B) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/129.0.0.0"


def by(agent: str, **fields: Any) -> events.Event:
    return taken(track(context={"userAgent": agent}), **fields)


# -- device


@pytest.mark.parametrize(
    ("user_agent", "expected"),
    [
        (CHROME, Device(type="desktop", browser="Chrome", browser_version="140", os="Linux")),
        (
            IPHONE + " Version/18.1 Mobile/15E148 Safari/604.1",
            Device(type="mobile", browser="Mobile Safari", browser_version="18", os="iOS", os_version="18.1",
                   brand="Apple", model="iPhone"),
        ),
        (
            ANDROID + " Mobile Safari/537.36",
            Device(type="mobile", browser="Chrome Mobile", browser_version="129", os="Android", os_version="14",
                   brand="Samsung", model="SM-S918B"),
        ),
        (
            "Mozilla/5.0 (Windows NT 10.0; Win64; x64) AppleWebKit/537.36 (KHTML, like Gecko) coc_coc_browser/120.0.0"
            " Chrome/114.0.0.0 Safari/537.36",
            Device(type="desktop", browser="Coc Coc", browser_version="120", os="Windows", os_version="10"),
        ),
    ],
)  # fmt: skip
def test_a_device_is_what_the_user_agent_tells(user_agent: str, expected: Device) -> None:
    assert by(user_agent).device == expected


@pytest.mark.parametrize(
    ("user_agent", "form"),
    [
        ("Mozilla/5.0 (iPad; CPU OS 17_4 like Mac OS X) AppleWebKit/605.1.15 Version/17.4 Mobile/15E148", "tablet"),
        (ANDROID.replace("SM-S918B", "SM-X700") + " Safari/537.36", "tablet"),
        ("Mozilla/5.0 (SMART-TV; Linux; Tizen 6.0) AppleWebKit/537.36 Version/6.0 TV Safari/537.36", "tv"),
        ("Mozilla/5.0 (Macintosh; Intel Mac OS X 10_15_7) AppleWebKit/605.1.15 Version/17 Safari/605.1.15", "desktop"),
        ("Dalvik/2.1.0 (Linux; U; Android 13; Pixel 7 Build/TQ3A)", "mobile"),
        (GOOGLEBOT, "bot"),
    ],
)
def test_a_device_has_a_form(user_agent: str, form: str) -> None:
    found = by(user_agent).device
    assert found is not None
    assert found.type == form


def test_a_user_agent_that_tells_nothing_is_no_device() -> None:
    for user_agent in ("", "x" * 2000, "\x00", "analytics-python/2.3.2"):
        assert by(user_agent).device is None


def test_the_headers_user_agent_is_the_visitors_where_the_context_has_none_and_the_key_is_no_servers() -> None:
    assert taken(track(), user_agent=CHROME).device == by(CHROME).device
    assert by(IPHONE, user_agent=CHROME).device == by(IPHONE).device
    assert taken(track(), user_agent=CHROME, source="import").device is None


def test_new_user_agents_are_parsed_within_a_bound_and_known_ones_always() -> None:
    about = call(user_agents_left=2)
    found = []
    for n in (1, 2, 3, 1):
        draft, refusal = take(json.dumps(track(context={"userAgent": f"{CHROME} test/{n}"})).encode(), about)
        assert refusal is None
        found.append(bool(draft.visitor.device))
    assert found == [True, True, False, True]


def test_the_memory_of_user_agents_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(device, "MAX_KEPT", len(device._agents) + 3)
    for n in range(8):
        by(f"{CHROME} bound/{n}")
    assert len(device._agents) <= device.MAX_KEPT
    taken(track(), user_agent=f"Mozilla/5.0 {'x' * 20_000}")
    assert max(map(len, device._agents)) <= MAX_CHARS


# -- bots


@pytest.mark.parametrize(
    ("user_agent", "bot"),
    [
        (GOOGLEBOT, "spider"),
        ("facebookexternalhit/1.1", "spider"),
        ("Mozilla/5.0 (compatible; coccocbot-web/1.0; +http://help.coccoc.com/searchengine)", "spider"),
        ("Mozilla/5.0 AppleWebKit/537.36 (KHTML, like Gecko; compatible; GPTBot/1.1; +https://openai.com)", "spider"),
        ("Mediapartners-Google", "spider"),
        (CHROME + " (compatible; GoogleOther)", "spider"),
        (CHROME + " (compatible; Bytespider; spider-feedback@bytedance.com)", "spider"),
        ("meta-externalagent/1.1 (+https://developers.facebook.com/docs/sharing/webmasters/crawler)", "spider"),
        (CHROME + "; compatible; ChatGPT-User/1.0; +https://openai.com/bot", "spider"),
        ("Mozilla/5.0 (Linux; Android 10; CUBOT NOTE 20) AppleWebKit/537.36 Chrome/120.0 Mobile Safari/537.36", None),
        (CHROME.replace("Chrome", "HeadlessChrome"), "headless"),
        (CHROME + " Chrome-Lighthouse", "headless"),
        (CHROME, None),
        ("Go-http-client/1.1", None),  # a server's own, as any library's: not a visitor
        ("", None),
    ],
)
def test_bots_are_flagged_not_dropped(user_agent: str, bot: str | None) -> None:
    assert by(user_agent).bot == bot


def test_a_browser_that_says_it_is_driven_is_flagged() -> None:
    assert taken(track(context={"webdriver": True, "userAgent": CHROME})).bot == "webdriver"
    assert taken(track(context={"webdriver": False, "userAgent": CHROME})).bot is None


def test_a_site_can_drop_bots() -> None:
    drop = Policy(bots="drop")
    assert refused(track(context={"userAgent": GOOGLEBOT}), policy=drop) == "bot"
    assert refused(track(context={"webdriver": True}), policy=drop) == "bot"
    assert by(CHROME, policy=drop).bot is None


# -- address


@pytest.mark.parametrize(
    ("ip", "truncated", "kept"),
    [
        ("203.0.113.77", "203.0.113.0", "203.0.113.77"),
        ("2001:db8:1:2:3:4:5:6", "2001:db8:1::", "2001:db8:1:2:3:4:5:6"),
        ("::ffff:203.0.113.77", "203.0.113.0", "203.0.113.77"),
        ("fe80::1%eth0", "fe80::", "fe80::1"),
        (" 203.0.113.77 ", "203.0.113.0", "203.0.113.77"),
        ("0.0.0.0", None, None),
        ("::", None, None),
        ("203.0.113", None, None),
        ("203.0.113.77:80", None, None),
        ("unknown", None, None),
        ("", None, None),
    ],
)
def test_addresses_are_cut_to_their_network(ip: str, truncated: str | None, kept: str | None) -> None:
    for message, about in ((track(context={"ip": ip}), {}), (track(), {"ip": ip})):
        assert taken(message, **about).ip == truncated
        assert taken(message, **about, policy=Policy(ip="keep")).ip == kept
        assert taken(message, **about, policy=Policy(ip="drop")).ip is None


@pytest.mark.parametrize("key", ['"ip"', '"\\u0069p"', '"ip":"203.0.113.78","ip"'])
def test_no_whole_address_reaches_kafka(key: str) -> None:
    raw = f'{{"event":"A","userId":"u","context":{{{key}:"203.0.113.77","locale":"vi"}}}}'.encode()
    draft, refusal = draft_of(raw, ip="198.51.100.9")
    assert refusal is None
    assert b"203.0.113.7" not in draft.value
    assert b"198.51" not in draft.value
    assert b'"ip":"203.0.113.0"' in draft.value
    assert b'"locale":"vi"' in draft.value


def test_a_contexts_address_goes_before_the_requests_and_a_servers_is_not_the_visitors() -> None:
    assert taken(track(context={"ip": "203.0.113.77"}), ip="198.51.100.9").ip == "203.0.113.0"
    assert taken(track(), ip="198.51.100.9", source="import").ip is None


# -- consent

NO = {"consent": {"categoryPreferences": {"Analytics": False, "Advertising": True}}}
YES = {"consent": {"categoryPreferences": {"Analytics": True, "Advertising": False}}}
OTHER = {"consent": {"categoryPreferences": {"Advertising": False}}}


@pytest.mark.parametrize(
    ("context", "verdict"),
    [
        (NO, False),
        (YES, True),
        (OTHER, None),
        ({}, None),
        ({"consent": {}}, None),
        ({"consent": None}, None),
        ({"consent": True}, True),
        ({"consent": "denied"}, False),
        ({"consent": "granted"}, True),
        ({"consent": "maybe"}, None),
        ({"consent": {"analytics_storage": "denied", "ad_storage": "granted"}}, False),
        ({"consentManagement": {"allowedConsentIds": ["analytics"], "deniedConsentIds": ["ads"]}}, True),
        ({"consentManagement": {"allowedConsentIds": [], "deniedConsentIds": ["analytics"]}}, False),
        ({"consentManagement": {"deniedConsentIds": "analytics"}}, None),
        ({"gpc": True}, False),
        ({"globalPrivacyControl": "1"}, False),
        ({"doNotTrack": 1}, False),
        ({"doNotTrack": False}, None),
        ({"consent": {"categoryPreferences": {"Analytics": "false"}}}, False),
        ({"consent": "true"}, True),
        ({**OTHER, "gpc": True}, False),  # the answer was to something else
        (
            {
                "consentManagement": {
                    "allowedConsentIds": [*"abcdefghijklmnopqrstuvwxyz0123456789"],
                    "deniedConsentIds": ["analytics"],
                }
            },
            False,
        ),
        ({**YES, "gpc": True}, True),  # an answer to the site itself goes before a general wish
    ],
)
def test_consent_is_read_in_its_forms(context: dict[str, Any], verdict: bool | None) -> None:
    message = track(context=context)
    optional = Policy(consent="optional")
    if verdict is False:
        assert refused(message, policy=optional) == "no_consent"
    else:
        assert taken(message, policy=optional).consent == ("granted" if verdict else None)
    required = Policy(consent="required")
    if verdict:
        assert taken(message, policy=required).consent == "granted"
    else:
        assert refused(message, policy=required) == "no_consent"
    assert taken(message, policy=Policy(consent="ignore")).consent is None


def test_silence_of_a_server_is_no_denial() -> None:
    required = Policy(consent="required")
    assert taken(track(), policy=required, source="import").user_id == "u1"
    assert refused(track(context=NO), policy=required, source="import") == "no_consent"


def test_a_site_names_the_category_that_counts() -> None:
    assert refused(track(context=OTHER), policy=Policy(consent_category="advertising")) == "no_consent"


ANONYMOUS = Policy(without_consent="anonymous", salt=b"salt")


def nobody(**fields: Any) -> events.Event:
    message = {
        "event": "Product Added", "userId": "lan@example.com", "anonymousId": "a-secret", "groupId": "g-secret",
        "previousId": "p-secret", "traits": {"email": "lan@example.com"}, "properties": {"product_id": "sku-1"},
        "context": {
            **NO, "ip": "203.0.113.77", "userAgent": CHROME, "traits": {"phone": "0901-secret"}, "locale": "vi",
            "device": {"id": "d-secret"}, "campaign": {"source": "zalo"},
            "page": {"url": "https://a.example/?gclid=secret", "path": "/p", "title": "T", "search": "?gclid=secret"},
        },
    }  # fmt: skip
    message["context"] |= fields.pop("context", {})
    return taken(message, **{"policy": ANONYMOUS, **fields})


def test_without_consent_what_happened_stays_and_who_it_was_does_not() -> None:
    event = nobody()
    written = msgspec.json.encode(event)
    for secret in (b"secret", b"lan@", b"203.0.113", b"Mozilla"):
        assert secret not in written
    assert event.consent == "denied"
    assert (event.user_id, event.group_id, event.previous_id, event.ip, event.click_ids) == (None,) * 5
    assert event.traits is msgspec.UNSET
    assert inside(event.properties) == {"product_id": "sku-1"}
    assert inside(event.context) == {"locale": "vi", "page": {"path": "/p", "title": "T"}}
    assert (event.event, event.channel, event.campaign) == ("Product Added", "zalo", events.Campaign(source="zalo"))


def test_without_consent_a_page_calls_own_addresses_and_what_is_for_others_go_too() -> None:
    said = {
        "path": "/p", "title": "T", "url": "https://a.example/p?gclid=secret&email=lan@example.com",
        "search": "?gclid=secret",
        "referrer": "https://b.example/?q=secret", "initial_referrer": "https://b.example/secret", "tab_url": "secret",
    }  # fmt: skip
    for kind in ("page", "screen"):
        message = {"userId": "u", "properties": said, "context": NO, "integrations": {"GA4": {"clientId": "secret"}}}
        event = taken(message, type=kind, policy=ANONYMOUS)
        assert inside(event.properties) == {"path": "/p", "title": "T"}
        assert (event.integrations, event.channel, event.traffic) == (msgspec.UNSET, "ads", "paid")


def test_somebody_without_consent_has_an_id_of_the_day() -> None:
    same = nobody().anonymous_id
    assert same is not None
    assert same.startswith("daily-")
    assert nobody().anonymous_id == same
    assert nobody(now_ms=NOW_MS + 86_400_000).anonymous_id != same
    assert nobody(context={"ip": "203.0.113.78"}).anonymous_id != same
    assert nobody(site="other").anonymous_id != same
    assert nobody(policy=Policy(without_consent="anonymous", salt=b"another")).anonymous_id != same


def test_calls_about_the_person_alone_are_dropped_without_consent() -> None:
    for kind in ("identify", "group", "alias"):
        assert refused({"userId": "u", "previousId": "p", "context": NO}, type=kind, policy=ANONYMOUS) == "no_consent"


# -- policy


def test_a_policy_is_the_sites() -> None:
    site = Site(write_key="w" * 8, secret_key="s" * 8, ip="drop", bots="drop", consent="required",
                consent_category="Ads", without_consent="anonymous")  # fmt: skip
    policy = policy_of(site)
    assert (policy.ip, policy.bots, policy.consent, policy.consent_category) == ("drop", "drop", "required", "ads")
    assert policy.without_consent == "anonymous"
    assert policy.salt
    assert policy.salt != policy_of(Site(write_key="w" * 8, secret_key="t" * 8)).salt


def test_a_site_without_a_word_on_it_truncates_flags_and_respects_a_no() -> None:
    assert policy_of(Site(write_key="w" * 8, secret_key="s" * 8)) == Policy(
        ip="truncate", bots="flag", consent="optional", consent_category="analytics", without_consent="drop",
        salt=policy_of(Site(write_key="w" * 8, secret_key="s" * 8)).salt,
    )  # fmt: skip


def test_a_policy_of_a_wrong_word_is_refused(tmp_path: Any) -> None:
    toml = tmp_path / "tracker.toml"
    toml.write_text('[sites.a]\nwrite_key = "wwwwwwww"\nsecret_key = "ssssssss"\nip = "hide"\n')
    with pytest.raises(ValueError, match="hide"):
        load({}, toml)


# -- what later signals find


def test_a_profile_event_has_campaign_clicks_traffic_and_bot() -> None:
    about = {"page": {"url": "https://shop.example/?utm_source=zalo&gclid=g"}, "userAgent": GOOGLEBOT}
    draft, refusal = draft_of({"userId": "u", "context": about}, type="page")
    assert refusal is None
    event = events.decode_profile_event(with_profile(draft.value, profile_prefix(b"p", 0), 1, 0))
    assert inside(event.campaign) == {"source": "zalo"}
    assert inside(event.click_ids) == {"gclid": "g"}
    assert (event.traffic, event.bot, event.channel) == ("zalo", "spider", "zalo")


def test_a_context_that_comes_again_is_kept_whatever_comes_once_between() -> None:
    often = b'{"locale":"vi","page":{"path":"/often"}}'
    read_context(often)
    kept = read_context(often)
    for n in range(3 * MAX_KEPT):
        read_context(b'{"page":{"path":"/once/%d"}}' % n)
    assert read_context(often) is kept
    for n in range(MAX_KEPT + 1):  # more come again than are kept
        read_context(b'{"page":{"path":"/twice/%d"}}' % n)
        read_context(b'{"page":{"path":"/twice/%d"}}' % n)
    again = read_context(often)
    assert again is not kept
    assert again == kept
