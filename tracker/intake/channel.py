"""By which channel an event happened, and how a page's visitor came to it.

The channel (domain: H) is what the event says itself, else what its name says, else what its campaign says, else
`site`. The traffic class (domain: A422) is of page and screen calls alone and looks at the referrer, too.
"""

from __future__ import annotations

import re
from functools import lru_cache
from typing import Any, Final

import msgspec
from msgspec import Struct

from tracker.contract.events import CHANNELS, CLICK_IDS, MESSAGE_ACTIONS
from tracker.intake.context import PAGES, read_properties
from tracker.intake.draft import NO_CAMPAIGN, Call, Campaign, Draft

OTHER: Final = "other"

PREFIXES: Final[tuple[tuple[str, str], ...]] = (
    ("Popup ", "popup"),
    ("Web Push ", "webpush"),
    ("Push Notification ", "webpush"),
    ("Email ", "email"),
    ("SMS ", "sms"),
    ("Zalo ", "zalo"),
    ("Viber ", "viber"),
    ("Social ", "social"),
    ("Ad ", "ads"),
    ("Store ", "store"),
    ("Call ", "call"),
    ("Form ", "form"),
)
"""Start of a track event's name -> channel."""

_BY_NAME: Final = {name: channel for name, (channel, _) in MESSAGE_ACTIONS.items() if channel is not None}
_CLOSED: Final = frozenset(CHANNELS)

SOCIAL: Final = frozenset((
    "facebook", "fb", "instagram", "ig", "threads", "tiktok", "youtube", "twitter", "linkedin", "pinterest", "reddit",
    "snapchat", "telegram", "whatsapp", "messenger", "discord", "quora", "tumblr", "vk", "weibo", "kakao",
))  # fmt: skip
"""Words of a campaign's source, and hosts of referrers without their domain: of facebook.com, m.facebook.com, ..."""
SEARCH: Final = frozenset((
    "google", "bing", "yahoo", "duckduckgo", "baidu", "yandex", "coccoc", "ecosia", "qwant", "naver", "daum", "seznam",
    "brave", "startpage", "ask", "aol", "sogou",
))  # fmt: skip
HOSTS: Final[dict[str, str]] = {
    "t.co": "social",
    "fb.me": "social",
    "lnkd.in": "social",
    "youtu.be": "social",
    "t.me": "social",
    "x.com": "social",
    "line.me": "social",
    "mail.google.com": "email",
    "mail.yahoo.com": "email",
    "mail.yandex.com": "email",
    "outlook.live.com": "email",
    "outlook.office.com": "email",
    "com.google.android.gm": "email",
    "com.zing.zalo": "zalo",
    "zalo.me": "zalo",
    "zaloapp.com": "zalo",
    "viber.com": "viber",
    "com.viber.voip": "viber",
    "com.google.android.googlequicksearchbox": "search",
    "com.facebook.katana": "social",
    "com.instagram.android": "social",
    "docs.google.com": "referral",
    "sites.google.com": "referral",
}
"""Hosts of referrers that the lists do not tell, with their subdomains; Android apps come as android-app://NAME."""
MAX_LABELS: Final = 4
"""So many, from its end, of a host's labels are looked at: no host of HOSTS has more."""

_words = re.compile(r"e-mail|[^\W_]+").findall
_PAID: Final = re.compile(
    r"(?:cp[acimpv]|ppc|ads?|paid\w*|sem|display|banner|interstitial|retargeting|remarketing|programmatic|sponsored)"
).fullmatch
LISTS: Final[tuple[tuple[str, frozenset[str]], ...]] = (
    ("email", frozenset(("email", "e-mail", "newsletter", "edm", "mailchimp", "klaviyo", "sendgrid", "mailgun"))),
    ("sms", frozenset(("sms", "mms", "brandname"))),
    ("zalo", frozenset(("zalo", "zaloapp", "zalooa", "zns"))),
    ("viber", frozenset(("viber",))),
    ("webpush", frozenset(("webpush", "push"))),
)
"""Words of a campaign's source or medium -> traffic class."""
_ALSO_SOCIAL: Final = frozenset(("social", "x", "line", "meta"))
"""Whole sources or media; as words of longer ones they may be anything."""
_SAFE: Final = re.compile(r"[a-z][a-z0-9+.-]*://(?:[^/?#@]*@)?\[?([^/?#@:\]]+)", re.IGNORECASE).match
_OWNER: Final = re.compile(r"([a-z0-9-]+)\.(?:(?:com|co|net|org)\.)?[a-z]{2,}").fullmatch

TRAFFIC: Final[tuple[str, ...]] = (
    "email", "sms", "zalo", "viber", "webpush", "paid", "social", "search", "referral", "direct", "internal",
)  # fmt: skip
_WRITTEN: Final = {name: b'"traffic":"%s",' % name.encode() for name in TRAFFIC}
_CHANNEL_OF: Final[dict[str | None, str]] = {
    **{name: name for name, _ in LISTS}, "paid": "ads", "social": "social",
}  # fmt: skip
"""Traffic class of a campaign -> the channel of the event; of other classes it is `site`."""


_ESCAPE: Final = 0x5C
"""A backslash: a name may be spelled with escapes."""


class _Said(Struct):
    channel: Any = None


_said = msgspec.json.Decoder(_Said)


def put_channel(draft: Draft, call: Call) -> None:
    wire, visitor = draft.wire, draft.visitor
    context, campaign = visitor.context, visitor.campaign
    by_campaign = None if campaign is NO_CAMPAIGN else class_of_campaign(campaign)
    said = context.channel
    if said is None and ((raw := draft.properties).rfind(b'"channel"') >= 0 or _ESCAPE in raw):
        said = _channel_of_properties(draft)
    if said is not None:
        draft.channel = said if said in _CLOSED else OTHER
    else:
        named = None if wire.event is None else _by_name(wire.event)
        draft.channel = named or _CHANNEL_OF.get(by_campaign, "site")
    if wire.type in PAGES:
        traffic = by_campaign or class_of_referrer(context.referrer, context.url)
        if traffic == "direct" and campaign is not NO_CAMPAIGN:
            traffic = "referral"  # there was a link, of a kind that is not known here
        draft.traffic = _WRITTEN[traffic]


def _channel_of_properties(draft: Draft) -> str | None:
    if not draft.properties or _said.decode(draft.properties).channel is None:
        return None
    said = read_properties(draft).get("channel")
    return said.strip().lower() or None if isinstance(said, str) else None


@lru_cache(1024)
def _by_name(event: str) -> str | None:
    if (channel := _BY_NAME.get(event)) is not None:
        return channel
    for prefix, channel in PREFIXES:
        if event.startswith(prefix):
            return channel
    return None


@lru_cache(4096)
def class_of_campaign(campaign: Campaign) -> str | None:
    """A422's order, as far as source, medium and click ids tell; None: they do not."""
    source, media = campaign.source, _words(campaign.medium)
    words = {*_words(source), *media}
    clicks = {CLICK_IDS[name] for name in campaign.clicks}
    for name, listed in LISTS:
        if name in clicks or not listed.isdisjoint(words):
            return name
    if "paid" in clicks or any(_PAID(word) for word in words):
        return "paid"
    if "social" in clicks or not SOCIAL.isdisjoint(words) or not _ALSO_SOCIAL.isdisjoint((source, *media)):
        return "social"
    if "organic" in words or not SEARCH.isdisjoint(words):
        return "search"
    return class_of_host(source) if "." in source else None


@lru_cache(4096)
def class_of_referrer(referrer: str, url: str) -> str:
    """The rest of A422's order: what the page before tells. Coming from a page of the same host is `internal`."""
    host = host_of(referrer)
    if not host:
        return "direct"
    return "internal" if host == host_of(url) else class_of_host(host)


def class_of_host(host: str) -> str:
    if host.startswith("www."):
        host = host[4:]
    labels = host.rsplit(".", MAX_LABELS)[-MAX_LABELS:]
    for i in range(len(labels) - 1):
        if (known := HOSTS.get(".".join(labels[i:]))) is not None:
            return known
    if (owner := _OWNER(".".join(labels)) or _OWNER(".".join(labels[-3:])) or _OWNER(".".join(labels[-2:]))) is None:
        return "referral"
    return "social" if owner[1] in SOCIAL else "search" if owner[1] in SEARCH else "referral"


def host_of(url: str) -> str:
    """Lower case, without port and user; '' when there is none."""
    found = _SAFE(url)
    return found[1].lower().rstrip(".") if found else ""
