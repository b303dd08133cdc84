"""Which campaign brought the visitor: what the context says of it, else the utm_ parameters of the page's address; and
the ids that advertisers add to their links.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Final
from urllib.parse import parse_qsl

import msgspec

from tracker.contract.events import CLICK_IDS
from tracker.intake.context import MAX_CHARS
from tracker.intake.draft import NO_BYTES, NO_CAMPAIGN, Call, Campaign, Visitor

UTM: Final[dict[str, str]] = {
    "utm_source": "source",
    "utm_medium": "medium",
    "utm_campaign": "name",
    "utm_term": "term",
    "utm_content": "content",
    "utm_id": "id",
}
"""Parameter of an address -> field of a campaign."""
MAX_PARAMETERS: Final = 100
MAX_CLICK_ID_CHARS: Final = 256

_encode = msgspec.json.Encoder().encode


def put_campaign(visitor: Visitor, call: Call) -> None:
    context = visitor.context
    if context.campaign or "=" in context.search or "?" in context.url:
        visitor.campaign = campaign_of(context.campaign, context.search or context.url)


@lru_cache(4096)
def campaign_of(said: tuple[tuple[str, str], ...], address: str) -> Campaign:
    """`address`: an URL, or its query alone."""
    query = address.partition("?")[2] if "?" in address else address
    fields = dict(said)
    clicks: dict[str, str] = {}
    try:
        pairs = parse_qsl(query.partition("#")[0], max_num_fields=MAX_PARAMETERS)
    except ValueError:  # too many of them
        pairs = []
    for name, value in pairs:
        name = name.lower()
        if name in CLICK_IDS:
            clicks.setdefault(name, value[:MAX_CLICK_ID_CHARS])
        elif not said and (field := UTM.get(name)) is not None and (text := value.strip()):
            fields.setdefault(field, text[:MAX_CHARS])
    if not fields and not clicks:
        return NO_CAMPAIGN
    return Campaign(
        source=fields.get("source", "").lower(),
        medium=fields.get("medium", "").lower(),
        clicks=tuple(clicks),
        written=b'"campaign":%s,' % _encode(fields) if fields else NO_BYTES,
        clicks_written=b'"clickIds":%s,' % _encode(clicks) if clicks else NO_BYTES,
    )
