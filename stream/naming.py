"""Which campaign, page, product, promotion or form an event tells of: fields of the counters of the families `campaign`
and `content`. Names are the Segment Spec's; nothing in properties is trusted, nothing raises.

    campaign   of a message event (email, push, SMS, ...) the message's: campaign_id, campaign, campaign_name,
               template_id; of others what brought the visitor: campaign.name (utm_campaign), else .id, else .source
    page       of a page call: properties.path, else the path of properties.url, else its name
    screen     of a screen call: its name
    product    product_id, else sku, else name; of an order each of its lines
    promotion  promotion_id, else id, else name
    form       form_id, else id, else name
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from typing import Any, Final

import msgspec
from msgspec import UNSET, Struct

from stream.core.parts import UNREADABLE, read_part
from stream.signals import shop
from tracker.contract import keys
from tracker.contract.events import CONTENT_ACTIONS, MESSAGE_ACTIONS, ProfileEvent

MAX_NAME_CHARS: Final = 120
"""So much of a name is kept: it stands in a bucket of each tier."""
MAX_ORDER_LINES: Final = 20
"""Lines of an order that are counted by name; the others are counted under no name, which bounds what an event adds."""

Fields = tuple[tuple[str, int], ...]
NONE: Final[Fields] = ()


class _Page(Struct, gc=False):
    path: Any = None
    url: Any = None


class _Item(Struct, gc=False):
    product_id: Any = None
    sku: Any = None
    promotion_id: Any = None
    form_id: Any = None
    id: Any = None
    name: Any = None


_page = msgspec.json.Decoder(_Page)
_item = msgspec.json.Decoder(_Item)
_campaign = msgspec.json.Decoder(dict[str, Any])

IDS: Final[dict[str, Callable[[_Item], tuple[Any, ...]]]] = {
    "product": lambda p: (p.product_id, p.sku, p.name),
    "promotion": lambda p: (p.promotion_id, p.id, p.name),
    "form": lambda p: (p.form_id, p.id, p.name),
}
"""Kind -> what it goes by, the first that is given."""


def campaign(event: ProfileEvent) -> Fields:
    """The event's field of the family `campaign`, if any."""
    if event.event in MESSAGE_ACTIONS and (name := shop.campaign(shop.properties(event.properties))) is not None:
        return ((keys.campaign_field(name), 1),)
    return _campaign_of(bytes(event.campaign)) if event.campaign is not UNSET else NONE


def brought_by(event: ProfileEvent) -> str | None:
    """The campaign that brought the visitor, as it is counted."""
    found = _campaign_of(bytes(event.campaign)) if event.campaign is not UNSET else NONE
    return found[0][0].partition("|")[2] if found else None


def content(event: ProfileEvent) -> Fields:
    """The event's fields of the family `content`."""
    name = event.event
    if name is None:
        if event.type == "page":
            return _page_of(event)
        if event.type == "screen":
            return ((keys.screen_field(_cut(event.name)), 1),) if event.name else NONE
        return NONE
    what = CONTENT_ACTIONS.get(name)
    if what is None:
        return NONE
    kind, action = what
    if action == "ordered":
        return _order_of(event, kind, action)
    p = read_part(_item, event.properties)
    if p is not None:
        for given in IDS[kind](p):
            if given is not None and (id := shop.text(given, MAX_NAME_CHARS)) is not None:
                return ((keys.item_field(kind, action, id), 1),)
    return NONE


def _page_of(event: ProfileEvent) -> Fields:
    p = read_part(_page, event.properties)
    if p is not None:
        for given in (p.path, p.url):
            if given.__class__ is str and given and (path := path_of(given)):
                return ((keys.page_field(path), 1),)
    return ((keys.page_field(_cut(event.name)), 1),) if event.name else NONE


def _order_of(event: ProfileEvent, kind: str, action: str) -> Fields:
    p = shop.properties(event.properties)
    lines = shop.listed(p) or ((shop.single(p, 1),) if (p.product_id or p.sku) is not None else ())
    products = list(dict.fromkeys(line.id for line in lines))  # several variants of one are one
    named = tuple((keys.item_field(kind, action, _cut(id)), 1) for id in products[:MAX_ORDER_LINES])
    more = len(products) - len(named)
    return (*named, (keys.unnamed_field(kind), more)) if more else named


@lru_cache(4096)
def path_of(address: str) -> str:
    """The path of an URL or a path, without query and without a slash at its end; '' when there is none."""
    if not address.startswith("/"):
        _, found, rest = address.partition("://")
        if not found:
            return ""
        host, _, rest = rest.partition("/")
        address = "/" + rest if "?" not in host and "#" not in host else "/"
    path = address.partition("?")[0].partition("#")[0]
    return _cut(path.rstrip("/") or "/")


@lru_cache(4096)
def _campaign_of(raw: bytes) -> Fields:
    try:
        said = _campaign.decode(raw)
    except UNREADABLE:
        return NONE
    for given in (said.get("name"), said.get("id"), said.get("source")):
        if (name := shop.text(given, MAX_NAME_CHARS)) is not None:
            return ((keys.campaign_field(name), 1),)
    return NONE


def _cut(text: str) -> str:
    return text[:MAX_NAME_CHARS]
