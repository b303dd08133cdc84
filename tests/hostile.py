"""Records that nobody means well with: events as extreme as the endpoint lets through, and bytes that only something
else than the endpoint can have written to a topic."""

from __future__ import annotations

from typing import Any, Final

import msgspec
from hypothesis import strategies as st

from tracker.contract import events as ev
from tracker.contract.events import (
    CONTENT_ACTIONS,
    ECOMMERCE,
    MESSAGE_ACTIONS,
    POPUP_ACTIONS,
    ProfileEvent,
    encode_clock,
)
from tracker.contract.loading import load

Json = dict[str, Any]
SETTINGS: Final = load({"TRACKER_DEMO": "1"})
T0: Final = 1_795_000_000_000
HUGE: Final = (0, 1, -1, 1e12, 1e-9, 1e308, -1e308, 2**53, 2**63 - 1, -(2**63), "1e999", "NaN", "9" * 40, "-0", 0.1)
"""Numbers of JSON that the endpoint lets through: finite, integers within 64 bits."""
NAMES: Final = sorted(
    {*ECOMMERCE, *MESSAGE_ACTIONS, *POPUP_ACTIONS, *CONTENT_ACTIONS, *ev.VERIFIED, *ev.CONSENT_ACTIONS,
     *ev.USAGE_EVENTS, *ev.SUBSCRIPTION_EVENTS, *ev.SERVER_EVENTS, ev.PAYMENT_FAILED, ev.SURVEY_ANSWERED}
)  # fmt: skip
FIELDS: Final = (
    "product_id", "sku", "name", "price", "quantity", "currency", "order_id", "cart_id", "checkout_id", "revenue",
    "total", "value", "campaign_id", "popup_id", "score", "scale", "rating", "visits", "type", "channel", "level",
    "duration_s", "engaged_ms", "seconds", "until", "expires_at", "ends_at", "path", "url", "email", "phone", "reason",
    "step", "ticket_id", "stage", "topics", "status", "sg_machine_open",
)  # fmt: skip

_scalar = st.one_of(
    st.sampled_from(HUGE), st.none(), st.booleans(), st.text(max_size=6), st.just("x" * 300),
    st.sampled_from(["usd", "KWD", "vnd", "a@shop.example", "0901234567", "null", "2099-12-31T00:00:00Z", "{}:*\0"]),
)  # fmt: skip
_json = st.recursive(
    _scalar,
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(st.text(max_size=4), inner, max_size=3)),
    max_leaves=5,
)
_product = st.dictionaries(st.sampled_from(FIELDS), _json, max_size=6)
_properties = st.dictionaries(st.sampled_from(FIELDS), _json, max_size=8).flatmap(
    lambda p: st.one_of(st.just(p), st.lists(_product, max_size=4).map(lambda products: {**p, "products": products}))
)
_times = st.sampled_from([0, 1, T0 - 10**11, T0, T0 + 60_000, T0 + 86_400_000, ev.MAX_TIME_MS])
_ids = st.sampled_from(["a1", "a2", "u1", "x" * 200, "a:b*{}", "ß" * 100])


def _event(name: str | None, type: str, ids: Json, ms: int, more: Json, n: int) -> bytes:
    event: Json = {
        "site": "demo", "type": type, "messageId": f"m{n}", "timestampMs": ms, "receivedAtMs": max(ms, T0),
        "channel": "site", "source": "client", **ids, **more,
    }  # fmt: skip
    return msgspec.json.encode(event | ({"event": name} if type == "track" else {}))


_names = st.one_of(st.text(max_size=5), st.sampled_from(FIELDS))
_said = st.one_of(
    st.tuples(st.sampled_from(NAMES), st.just("track"), _properties.map(lambda p: {"properties": p})),
    st.tuples(
        st.none(), st.sampled_from(["page", "screen"]), _properties.map(lambda p: {"properties": p, "name": "N"})
    ),
    st.tuples(
        st.none(), st.sampled_from(["identify", "group", "alias"]),
        st.tuples(st.dictionaries(_names, _json, max_size=5), _ids).map(
            lambda x: {"traits": x[0], "groupId": x[1], "previousId": x[1]}
        ),
    ),
)  # fmt: skip
_who = st.one_of(
    _ids.map(lambda id: {"anonymousId": id}), st.tuples(_ids, _ids).map(lambda x: {"anonymousId": x[0], "userId": x[1]})
)
_valid = st.tuples(_said, _who, _times, st.integers(0, 10**6)).map(
    lambda x: _event(x[0][0], x[0][1], x[1], x[2], x[0][2], x[3])
)
records: Final = st.lists(_valid, min_size=1, max_size=8, unique_by=lambda value: value)
"""Events as the endpoint writes them, with all that a client may say."""


def _broken(value: bytes, field: str, bad: bytes) -> bytes:
    """With something else as one field's value; the field is added where there is none."""
    fields = msgspec.json.decode(value, type=dict[str, msgspec.Raw])
    return (
        b"{"
        + b",".join(b'"%s":%s' % (k.encode(), bytes(v)) for k, v in fields.items() if k != field)
        + (b',"%s":%s}' % (field.encode(), bad))
    )


BAD: Final = (
    b'"\xff"', b'{"\xff":1}', b'{"a":"\xff"}', b"[" * 3000 + b"]" * 3000, b"[" * 600 + b"]" * 600, b"1e400",
    b"9" * 400, b"-1", b"null", b"{}", b"[]", b'""', b"true", b'"\xed\xa0\x80"', b'"\\ud800"', b"9007199254740993",
    b'[{"type":"zalo_id","id":"\xff"}]', b'{"traits":{"email":"\xff"},"externalIds":[1],"device":{"token":"\xff"}}',
)  # fmt: skip
"""What is no value of most fields: no UTF-8, too deep, no number of 64 bits, of another type."""
EVENT_FIELDS: Final = tuple(sorted({f.encode_name for f in msgspec.structs.fields(ProfileEvent)} | {"previousId", "x"}))
_broken_event = st.tuples(_valid, st.sampled_from(EVENT_FIELDS), st.sampled_from(BAD)).map(lambda x: _broken(*x))

_P, _Q = "1b4e28ba-2fa1-51d2-883f-0016d3cca427", "2b4e28ba-2fa1-51d2-883f-0016d3cca427"
_OTHERS: Final = tuple(
    msgspec.json.encode(record)
    for record in (
        {"mergeId": "m", "site": "demo", "winner": _P, "loser": _Q, "rule": "r", "messageId": "i", "atMs": T0},
        {"unmergeId": "m", "site": "demo", "profileId": _P, "newProfileId": _Q, "ids": [["user_id", "u1"]], "atMs": T0},
        {"handover": "m", "src": [2049, 1, 0], "site": "demo", "profileId": _P, "loser": _Q,
         "fields": {"about": {"first_seen_ms": 1, "last_seen_ms": 2}, "visit": {}}},
        {"handover": "m", "src": [2049, 2, 0], "site": "demo", "profileId": _P, "loser": _Q, "fields": {},
         "piece": {"name": "cart", "text": "{", "last": True}},
        {"modelSite": "demo", "signal": "visit"},
    )
)  # fmt: skip
_OTHER_FIELDS: Final = (
    "mergeId", "winner", "loser", "site", "atMs", "hops", "ids", "newProfileId", "profileId", "src", "fields", "piece",
    "handover",
)  # fmt: skip
_state = st.tuples(
    st.sampled_from(
        ["about", "arriving", "merged", "cart", "visit", "purchase", "score", "gate", "browse", "usage", "x"]
    ),
    st.sampled_from(BAD),
).map(
    lambda x: (
        b'{"handover":"m","src":[2050,%d,0],"site":"demo","profileId":"%s","loser":"%s","fields":{"%s":%s}}'
        % (abs(hash(x)) % 10**9, _P.encode(), _Q.encode(), x[0].encode(), x[1])
    )
)
_broken_other = st.tuples(st.sampled_from(_OTHERS), st.sampled_from(_OTHER_FIELDS), st.sampled_from(BAD)).map(
    lambda x: _broken_first(*x)
)


def _broken_first(value: bytes, field: str, bad: bytes) -> bytes:
    """As _broken, but the fields keep their order: readers go by the first."""
    fields = msgspec.json.decode(value, type=dict[str, msgspec.Raw])
    fields[field] = msgspec.Raw(bad)
    return b"{" + b",".join(b'"%s":%s' % (k.encode(), bytes(v)) for k, v in fields.items()) + b"}"


_noise = st.one_of(
    st.binary(max_size=12),
    st.sampled_from([b"", b"\xff\xfe", b"[]", b"{", b"null", b'{"clockMs":9e99}', b'{"clockMs":"\xff"}', *_OTHERS]),
    _times.map(encode_clock), _valid.map(lambda value: b" \n" + value),
)  # fmt: skip
chunks: Final = st.lists(st.one_of(_valid, _broken_event, _broken_other, _state, _noise), min_size=1, max_size=10)
"""Anything at all, as the values of a topic's records."""


def extreme_event(n: int, name: str, properties: Json, ms: int = T0) -> Json:
    type = {} if name == "page" else {"event": name}
    return {
        "profileId": _P, "src": [3, n, 0], "site": "demo", "type": "track" if type else name, "messageId": f"e{n}",
        "timestampMs": ms, "receivedAtMs": ms, "channel": "site", "anonymousId": "a1", **type, "properties": properties,
    }  # fmt: skip


def extreme_carts() -> list[list[bytes | None]]:
    """Chunks: a cart as dear as one can be, abandoned, then ordered without a total; in the currency with the smallest
    parts."""
    lines = [{"product_id": f"p{i}", "price": 1e12, "quantity": 1e6} for i in range(100)]
    idle_ms = int(SETTINGS.cart_idle_s * 1000) + 1000
    cart, order = ({"currency": "KWD", "products": lines} | more for more in ({}, {"order_id": "o1"}))
    return [
        [msgspec.json.encode(extreme_event(1, "Cart Viewed", cart))],
        [encode_clock(T0 + idle_ms)],
        [msgspec.json.encode(extreme_event(2, "Order Completed", order, T0 + idle_ms + 1000))],
    ]


def _head(**more: bytes) -> bytes:
    fields = {"site": b'"demo"', "type": b'"identify"', "messageId": b'"m"', "receivedAtMs": b"%d" % T0, **more}
    return b"{" + b",".join(b'"%s":%s' % (k.encode(), v) for k, v in fields.items()) + b"}"


POISON_OF_HOP_1: Final[tuple[bytes, ...]] = (
    _head(type=b'"alias"', previousId=b'"\xff"', anonymousId=b'"a1"'),
    _head(source=b'"\xff"', anonymousId=b'"a1"'),
    _head(type=b'"track"', event=b'"Order Completed"', previousId=b'"\xff"', userId=b'"u1"'),
    _head(userId=b'"u1"', traits=b'{"email":"\xff"}', context=b'{"traits":{"email":"\xff"}}'),
    _head(userId=b'"u1"', context=b"[" * 3000 + b"]" * 3000),
    _head(userId=b'"u1"', properties=b"[" * 980 + b"]" * 980),
    b" \t\r\n" + _head(anonymousId=b'"a1"'),
    _head(anonymousId=b'"\xed\xa0\x80"'), _head(receivedAtMs=b"9" * 5000), b"", b"\xff", b"[]",
)  # fmt: skip
POISON_OF_HOP_2: Final[tuple[bytes, ...]] = (
    _broken(msgspec.json.encode({"profileId": _P, "src": [3, 1, 0], "timestampMs": T0} | extreme_event(1, "page", {})),
            "traits", b'{"a":"\xff"}').replace(b'"type":"page"', b'"type":"identify"'),
    b'{"handover":"m","src":[2050,1,0],"site":"demo","profileId":"p","loser":"l","fields":{"about":1}}',
    b'{"handover":"m","src":[2050,1,0],"site":"demo","profileId":"p","loser":"l","fields":{"arriving":{"a":1}}}',
    b'{"handover":"m","src":[2050,1,0],"site":"demo","profileId":"p","loser":"l","fields":{"cart":"\xff"}}',
    b'{"mergeId":"m","site":"demo","winner":"w","loser":"w","rule":"r","messageId":"i","atMs":1}',
    b'{"clockMs":"\xff"}',
)  # fmt: skip
