"""An event's context, read once for all steps: who acts with what, from which page, and what they consented to.

The events of a page view have the same context, byte for byte, so what comes again is kept by its bytes. What is
read is what is written: a context is decoded whole and encoded anew, which leaves each key once, spelled one way; the
address is taken out of it, as tracker/intake/privacy.py decides what becomes of that.
"""

from __future__ import annotations

from typing import Any, Final

import msgspec
from msgspec import Raw

from tracker.intake import json_rules
from tracker.intake.draft import Context, Draft
from tracker.rejections import Refusal, refuse

MAX_KEPT_BYTES: Final = 2048
"""Longer contexts are read anew each time, so that those that are kept stay below 10 MB or so."""
MAX_KEPT: Final = 2048
SLOTS: Final = 4096
"""A context is kept when it comes again while its slot has no other's hash."""
MAX_CHARS: Final = 512
"""So much of a user agent, and of a campaign's value, is looked at."""
MAX_URL_CHARS: Final = 4096
OTHERS: Final = ""
"""Stands for the categories of consent that nothing is said of."""

_encode = msgspec.json.Encoder().encode

PAGES: Final = frozenset(("page", "screen"))
CAMPAIGN_FIELDS: Final = ("source", "medium", "name", "term", "content", "id")


def read_context(raw: bytes) -> Context | Refusal:
    try:
        return _kept.get(raw) or _read(raw)
    except json_rules.Bad as e:
        return refuse(e.rejection, e.detail and f"{e.detail} in context")


def read_page(draft: Draft, context: Context) -> Context:
    """A page call names its page in the properties where there is none in the context."""
    if not any(name in draft.properties for name in (b'"url"', b'"search"', b'"referrer"')):
        return context
    page = read_properties(draft)
    return msgspec.structs.replace(
        context,
        url=_text(page.get("url"), MAX_URL_CHARS),
        search=_text(page.get("search"), MAX_URL_CHARS) or context.search,
        referrer=_text(page.get("referrer"), MAX_URL_CHARS) or context.referrer,
    )


def read_properties(draft: Draft) -> dict[str, Any]:
    """The properties, for a step that looks into them: from then on what is read is what is written."""
    found = json_rules.object_of(draft.properties)
    draft.properties = _encode(found)
    draft.wire.properties = Raw(draft.properties)
    return found


def context_of(raw: bytes) -> Context:
    """Raises json_rules.Bad."""
    said = json_rules.object_of(raw)
    get = said.get
    page, campaign, ip = get("page"), get("campaign"), said.pop("ip", None)
    if page.__class__ is not dict:
        page = _NOTHING
    return Context(
        Raw(_encode(said)),
        _channel(get("channel")),
        _text(get("userAgent"), MAX_CHARS),
        "" if ip is None else _text(ip, MAX_CHARS),
        _text(page.get("url"), MAX_URL_CHARS),
        _text(page.get("search"), MAX_URL_CHARS),
        _text(page.get("referrer"), MAX_URL_CHARS),
        () if campaign.__class__ is not dict else _campaign(campaign),
        None if _CONSENT.isdisjoint(said) else _consent(said),
        get("webdriver") is True,
    )


def _read(raw: bytes) -> Context:
    """Read it, and keep what has come before: most contexts of a page come once, and to keep them all and forget them
    again takes as long as reading them."""
    context = context_of(raw)
    mark = hash(raw)
    if _marks[mark % SLOTS] != mark:
        _marks[mark % SLOTS] = mark
    elif len(raw) <= MAX_KEPT_BYTES:
        if len(_kept) >= MAX_KEPT:
            _kept.clear()
        _kept[raw] = context
    return context


_NOTHING: Final[dict[str, Any]] = {}
_kept: Final[dict[bytes, Context]] = {}
_marks: Final = [0] * SLOTS


def _text(value: Any, most: int) -> str:
    return value[:most] if value.__class__ is str else ""


def _channel(value: Any) -> str | None:
    return None if value is None else _text(value, MAX_CHARS).strip().lower() or None


def _campaign(said: dict[str, Any]) -> tuple[tuple[str, str], ...]:
    return tuple((name, text) for name in CAMPAIGN_FIELDS if (text := _text(said.get(name), MAX_CHARS).strip()))


_SIGNALS: Final = ("gpc", "globalPrivacyControl", "doNotTrack")
_CONSENT: Final = frozenset(("consent", "consentManagement", *_SIGNALS))
_WORDS: Final = {
    "granted": True, "allow": True, "yes": True, "true": True, "denied": False, "deny": False, "no": False,
    "false": False,
}  # fmt: skip


def _consent(said: dict[str, Any]) -> bool | tuple[tuple[str, bool], ...] | None:
    """Of these forms, in this order:

    Segment    consent: {categoryPreferences: {analytics: false}}
    RudderStack  consentManagement: {allowedConsentIds: [...], deniedConsentIds: [...]}
    Google's consent mode  consent: {analytics_storage: "denied"}; `_storage` is left out of the name
    plainly    consent: false or "denied"
    a browser's signal  gpc, globalPrivacyControl, doNotTrack: true; true is a no, anything else says nothing
    """
    consent, manager = said.get("consent"), said.get("consentManagement")
    found: dict[str, bool] = {}
    if isinstance(consent, dict):
        given = consent.get("categoryPreferences")
        for name, value in (given if isinstance(given, dict) else consent).items():
            verdict = _verdict(value)
            if verdict is not None:
                found[name.lower().removesuffix("_storage")] = verdict
    for name, verdict in (("allowedConsentIds", True), ("deniedConsentIds", False)):
        listed = manager.get(name) if isinstance(manager, dict) else None
        for category in listed if isinstance(listed, list) else ():
            if isinstance(category, str):
                found[category.lower()] = verdict
    plain = _verdict(consent)
    if plain is None and any(said.get(name) in (True, 1, "1", "yes") for name in _SIGNALS):
        plain = False
    if found:
        return tuple(found.items()) if plain is None else ((OTHERS, plain), *found.items())
    return plain


def _verdict(value: Any) -> bool | None:
    return value if isinstance(value, bool) else _WORDS.get(value.lower()) if isinstance(value, str) else None
