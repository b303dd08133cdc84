"""What of a person is not passed on: the address, and without consent whatever says who it was."""

from __future__ import annotations

from functools import lru_cache
from hashlib import blake2b
from ipaddress import IPv6Address, ip_address, ip_network
from typing import Final

import msgspec
from msgspec import UNSET, Raw

from tracker.contract.durations import DAY_MS
from tracker.intake import json_rules
from tracker.intake.context import OTHERS, PAGES, read_properties
from tracker.intake.draft import NO_BYTES, Call, Draft, Visitor
from tracker.rejections import NO_CONSENT, Refusal, refuse

KEPT_OF_CONTEXT: Final[tuple[str, ...]] = ("channel", "locale", "timezone", "library")
"""What is left of the context of somebody who has not consented; of the page the path and the title, too."""
PERSONAL_CALLS: Final = frozenset(("identify", "group", "alias"))
"""Calls that say nothing without the person."""

ADDRESSES: Final = frozenset((
    "url", "search", "referrer", "referring_domain", "initial_referrer", "initial_referring_domain", "tab_url",
))  # fmt: skip
"""Properties of page calls that carry what the context's page is left without."""

_encode = msgspec.json.Encoder().encode
_GRANTED: Final = b'"consent":"granted",'
_DENIED: Final = b'"consent":"denied",'


def put_ip(visitor: Visitor, call: Call) -> None:
    ip = visitor.context.ip
    if not ip and call.source == "client":
        ip = call.ip
    if ip:
        visitor.ip = written_ip(ip, call.policy.ip)


@lru_cache(4096)
def written_ip(text: str, keep: str) -> bytes:
    """`keep`: keep, truncate (to the /24, of IPv6 to the /48) or drop. 0.0.0.0, as some clients send, says nothing."""
    try:
        ip = ip_address(text.strip())
    except ValueError:
        return NO_BYTES
    if isinstance(ip, IPv6Address) and ip.ipv4_mapped is not None:
        ip = ip.ipv4_mapped
    if keep == "drop" or ip.is_unspecified:
        return NO_BYTES
    if keep == "truncate":
        ip = ip_network((int(ip), 24 if ip.version == 4 else 48), strict=False).network_address
    return b'"ip":"%s",' % str(ip).partition("%")[0].encode()


def apply_consent(visitor: Visitor, call: Call) -> Refusal | None:
    policy, said = call.policy, visitor.context.consent
    if policy.consent == "ignore":
        return None
    verdict = said
    if isinstance(said, tuple):
        by_category = dict(said)
        verdict = by_category.get(policy.consent_category, by_category.get(OTHERS))
    if verdict is None and policy.consent == "required" and call.source == "client":
        verdict = False
    if verdict is None:
        return None
    if verdict:
        visitor.consent = _GRANTED
        return None
    if policy.without_consent == "drop":
        return refuse(NO_CONSENT)
    _forget(visitor, call)
    return None


def forget(draft: Draft) -> Refusal | None:
    """Take off an event of somebody who has not consented what says who it was, and what is for others alone."""
    wire = draft.wire
    if wire.type in PERSONAL_CALLS:
        return refuse(NO_CONSENT)
    wire.anonymous_id, wire.user_id, wire.previous_id, wire.group_id = draft.visitor.daily_id, None, None, None
    wire.traits = wire.integrations = UNSET
    if wire.type in PAGES and draft.properties:
        said = read_properties(draft)
        draft.properties = _encode({name: value for name, value in said.items() if name not in ADDRESSES})
        wire.properties = Raw(draft.properties)
    return None


def _forget(visitor: Visitor, call: Call) -> None:
    """Leave what happened, take off who it was. The visitor gets an id of the day that nothing else leads to."""
    context = visitor.context
    header = ("", "") if call.source == "import" else (call.ip, call.user_agent)
    ip, agent = context.ip or header[0], context.user_agent or header[1]
    seen = f"{call.site}\0{call.now_ms // DAY_MS}\0{ip}\0{agent}".encode("utf-8", "replace")
    visitor.daily_id = "daily-" + blake2b(seen, digest_size=12, key=call.policy.salt).hexdigest()
    visitor.campaign = msgspec.structs.replace(visitor.campaign, clicks_written=NO_BYTES)
    visitor.ip, visitor.consent = NO_BYTES, _DENIED
    if context.raw is UNSET:
        return
    said = json_rules.object_of(bytes(context.raw))
    kept = {name: said[name] for name in KEPT_OF_CONTEXT if name in said}
    page = said.get("page")
    if isinstance(page, dict):
        kept["page"] = {name: page[name] for name in ("path", "title") if name in page}
    visitor.written_context = Raw(_encode(kept)) if kept else UNSET
