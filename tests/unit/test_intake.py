"""Intake: any bytes become an Event or a named refusal; what an Event says is what the client meant."""

from __future__ import annotations

import contextlib
import gzip
import itertools
import json
import zlib
from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tracker.contract.events import CHANNELS, EVENT_TYPES, MAX_ID_CHARS, Event
from tracker.intake import Call, take
from tracker.intake.body import Batch, inflate, mend, read_batch, read_key, read_text
from tracker.intake.channel import PREFIXES
from tracker.intake.json_rules import MAX_DEPTH, MAX_INT, MIN_INT
from tracker.intake.time import MAX_FUTURE_MS, MAX_PAST_MS, parse_ms
from tracker.rejections import REJECTIONS, Refusal

NOW_MS = 1_795_323_600_000
MAX_EVENT_BYTES = 32 * 1024
CAP = 100_000

_event = msgspec.json.Decoder(Event)


def call(**fields: Any) -> Call:
    ids = itertools.count()
    defaults = {
        "site": "shop", "source": "client", "now_ms": NOW_MS, "make_id": lambda: f"made-{next(ids)}",
        "max_event_bytes": MAX_EVENT_BYTES, "type": "track",
    }  # fmt: skip
    return Call(**{**defaults, **fields})


def taken(message: dict[str, Any], **fields: Any) -> Event:
    draft, refusal = take(json.dumps(message).encode(), call(**fields))
    assert refusal is None, refusal
    return _event.decode(draft.value)


def refused(message: dict[str, Any] | bytes, **fields: Any) -> str:
    raw = message if isinstance(message, bytes) else json.dumps(message).encode()
    _, refusal = take(raw, call(**fields))
    assert refusal is not None
    return refusal.rejection.name


def track(**fields: Any) -> dict[str, Any]:
    return {"event": "Product Viewed", "userId": "u1", **fields}


def iso(ms: int) -> str:
    return datetime.fromtimestamp(ms / 1000, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


# -- what is taken


def test_an_event_keeps_what_the_client_sent() -> None:
    event = taken(
        track(
            anonymousId="a1", messageId="m1", properties={"price": 1.5, "tên": "Áo"}, context={"locale": "vi"},
            category="c", name="n", groupId="g", previousId="p", traits={"x": [1, None]}, integrations={"All": True},
        )
    )  # fmt: skip
    assert (event.site, event.type, event.event, event.message_id) == ("shop", "track", "Product Viewed", "m1")
    assert (event.user_id, event.anonymous_id, event.group_id, event.previous_id) == ("u1", "a1", "g", "p")
    assert (event.received_at_ms, event.timestamp_ms, event.source, event.channel) == (NOW_MS, NOW_MS, "client", "site")
    assert json.loads(bytes(event.properties)) == {"price": 1.5, "tên": "Áo"}  # type: ignore[arg-type]
    assert json.loads(bytes(event.traits)) == {"x": [1, None]}  # type: ignore[arg-type]
    assert json.loads(bytes(event.context)) == {"locale": "vi"}  # type: ignore[arg-type]


def test_numbers_in_properties_pass_through_digit_by_digit() -> None:
    draft, refusal = take(b'{"event":"A","userId":"u","properties":{"n":12345678901234567890123.450}}', call())
    assert refusal is None
    assert b'"n":12345678901234567890123.450' in draft.value


def test_the_key_is_the_anonymous_id_and_else_the_user_id() -> None:
    both, _ = take(json.dumps(track(anonymousId="a1")).encode(), call())
    known, _ = take(json.dumps(track()).encode(), call())
    assert (both.key, known.key) == (b"a1", b"u1")


def test_a_number_as_an_id_becomes_text() -> None:
    event = taken({"event": "A", "userId": 42, "anonymousId": None})
    assert (event.user_id, event.anonymous_id) == ("42", None)


def test_an_empty_id_is_no_id() -> None:
    assert taken({"event": "A", "userId": "", "anonymousId": "a"}).user_id is None
    assert refused({"event": "A", "userId": "", "anonymousId": ""}) == "missing_id"


def test_null_objects_are_absent() -> None:
    event = taken(track(properties=None, traits=None, context=None))
    assert event.properties is msgspec.UNSET
    assert event.traits is msgspec.UNSET
    assert event.context is msgspec.UNSET


def test_the_path_decides_the_type_and_else_the_event_does() -> None:
    assert taken(track(type="page"), type="track").type == "track"
    assert taken({"type": "page", "userId": "u"}, type=None).type == "page"
    assert refused({"userId": "u"}, type=None) == "unknown_type"
    assert refused({"userId": "u", "type": "merged"}, type=None) == "unknown_type"


def test_a_name_on_another_call_is_not_counted_as_a_track_event() -> None:
    assert taken({"type": "page", "event": "Order Completed", "userId": "u"}, type=None).event is None


def test_a_message_id_is_made_where_there_is_none() -> None:
    assert taken(track()).message_id == "made-0"
    assert taken(track(messageId="")).message_id == "made-0"
    assert taken(track(), message_id="batch-7").message_id == "batch-7-0"


def test_a_batch_lends_its_context_and_the_event_has_the_last_word() -> None:
    context = msgspec.Raw(b'{"locale":"vi","zone":"0"}')
    assert json.loads(bytes(taken(track(), context=context).context)) == {"locale": "vi", "zone": "0"}  # type: ignore[arg-type]
    merged = taken(track(context={"locale": "en", "app": {"v": 1}}), context=context).context
    assert json.loads(bytes(merged)) == {"locale": "en", "zone": "0", "app": {"v": 1}}  # type: ignore[arg-type]


# -- what is refused


@pytest.mark.parametrize(
    ("message", "name"),
    [
        ({"event": "A"}, "missing_id"),
        ({"userId": "u"}, "missing_event"),
        ({"userId": "u", "event": "  "}, "missing_event"),
        ({"userId": "u" * (MAX_ID_CHARS + 1), "event": "A"}, "field_too_long"),
        ({"userId": 10**250, "event": "A"}, "bad_number"),
        ({"userId": "u", "event": "e" * (MAX_ID_CHARS + 1)}, "field_too_long"),
        ({"userId": "u", "event": "A", "messageId": "m" * (MAX_ID_CHARS + 1)}, "field_too_long"),
        ({"userId": "u", "event": "A", "properties": [1]}, "wrong_type"),
        ({"userId": "u", "event": "A", "context": "x"}, "wrong_type"),
        ({"userId": "u", "event": "A", "traits": 1}, "wrong_type"),
        ({"userId": ["u"], "event": "A"}, "wrong_type"),
        ({"userId": "u", "event": 1}, "wrong_type"),
        ({"userId": "u", "event": "A", "timestamp": "yesterday"}, "bad_timestamp"),
        ({"userId": "u", "event": "A", "sentAt": "now"}, "bad_timestamp"),
        ({"userId": "u", "event": "A", "properties": {"x": "y" * MAX_EVENT_BYTES}}, "event_too_large"),
        (b"[]", "wrong_type"),
        (b"", "invalid_json"),
        (b'{"userId":"u"', "invalid_json"),
        (b'{"userId":"u","event":"A","properties":{"x":NaN}}', "invalid_json"),
        (b'{"userId":"u","event":"A","properties":{"x":01}}', "invalid_json"),
        (b"\xff\xfe", "invalid_json"),
    ],
)  # fmt: skip
def test_bad_input_has_a_name(message: dict[str, Any] | bytes, name: str) -> None:
    assert refused(message) == name


def test_an_id_of_the_longest_length_is_taken() -> None:
    assert taken(track(userId="u" * MAX_ID_CHARS)).user_id == "u" * MAX_ID_CHARS


@pytest.mark.parametrize("bracket", ["{", "["])
def test_json_deeper_than_the_limit_is_refused(bracket: str) -> None:
    def nested(levels: int) -> bytes:
        inner = '{"a":' * levels + "1" + "}" * levels if bracket == "{" else "[" * levels + "]" * levels
        return f'{{"event":"A","userId":"u","properties":{{"x":{inner}}}}}'.encode()

    _, refusal = take(nested(MAX_DEPTH - 2), call())
    assert refusal is None
    assert refused(nested(MAX_DEPTH - 1)) == "too_deep"
    assert refused(nested(3000)) == "too_deep"


def test_brackets_in_texts_are_no_depth() -> None:
    assert taken(track(properties={"x": '[{"\\' * 100, "y": [{"z": 1}] * 100})).event == "Product Viewed"


def test_every_refusal_has_a_name_of_its_own_and_says_what_to_do() -> None:
    names = [row.name for row in REJECTIONS]
    assert len(names) == len(set(names)) >= 20
    for row in REJECTIONS:
        assert row.name.replace("_", "").isalpha()
        assert row.status == 200 or 400 <= row.status < 600
        assert row.message.endswith(".")
        assert row.hint.endswith(".")


# -- time


def test_the_clients_clock_is_taken_out_of_the_time() -> None:
    # Its clock is an hour ahead; the event happened 2 s before it was sent.
    hour = 3_600_000
    event = taken(track(timestamp=iso(NOW_MS + hour - 2000), sentAt=iso(NOW_MS + hour)))
    assert event.timestamp_ms == NOW_MS - 2000


def test_the_original_timestamp_goes_before_the_timestamp() -> None:
    times = {"timestamp": iso(NOW_MS - 500_000), "originalTimestamp": iso(NOW_MS - 9000), "sentAt": iso(NOW_MS)}
    assert taken(track(**times)).timestamp_ms == NOW_MS - 9000


def test_without_sent_at_the_time_is_as_it_is_said() -> None:
    assert taken(track(timestamp=iso(NOW_MS - 86_400_000))).timestamp_ms == NOW_MS - 86_400_000


def test_a_batch_lends_its_sent_at() -> None:
    assert taken(track(timestamp=iso(NOW_MS + 58_000)), sent_at=iso(NOW_MS + 60_000)).timestamp_ms == NOW_MS - 2000
    assert refused(track(timestamp=iso(NOW_MS)), sent_at="?") == "bad_timestamp"


@pytest.mark.parametrize(
    ("off_ms", "kept"),
    [
        (-MAX_PAST_MS, True), (-MAX_PAST_MS - 1, False), (MAX_FUTURE_MS, True), (MAX_FUTURE_MS + 1, False), (0, True),
    ],
)  # fmt: skip
def test_an_impossible_time_becomes_the_time_of_receipt_and_is_told(off_ms: int, kept: bool) -> None:
    draft, refusal = take(json.dumps(track(timestamp=iso(NOW_MS + off_ms))).encode(), call())
    assert refusal is None
    assert draft.timestamp_ms == (NOW_MS + off_ms if kept else NOW_MS)
    assert draft.clamped is not kept


def test_imports_keep_any_past_time_but_no_future_one() -> None:
    past = iso(NOW_MS - 900 * 86_400_000)
    event = taken(track(timestamp=past), source="import")
    assert (event.timestamp_ms, event.source) == (NOW_MS - 900 * 86_400_000, "import")
    assert taken(track(timestamp=iso(NOW_MS + MAX_FUTURE_MS + 1)), source="import").timestamp_ms == NOW_MS


def test_the_year_1_means_not_set() -> None:
    assert taken(track(timestamp="0001-01-01T00:00:00Z"), source="import").timestamp_ms == NOW_MS


@pytest.mark.parametrize(
    ("text", "ms"),
    [
        ("2026-01-02T03:04:05Z", 1767323045000),
        ("2026-01-02T03:04:05.678Z", 1767323045678),
        ("2026-01-02T03:04:05.678901+00:00", 1767323045679),
        ("2026-01-02T03:04:05.678123456Z", 1767323045678),
        ("2026-01-02T10:04:05.678+07:00", 1767323045678),
        ("2026-01-02T03:04:05", 1767323045000),
        ("2026-01-02 03:04:05Z", 1767323045000),
        ("2026-01-02", 1767312000000),
    ],
)
def test_the_dates_of_real_clients_are_read(text: str, ms: int) -> None:
    assert parse_ms(text) == ms


@given(
    st.datetimes(datetime(1970, 1, 2), datetime(2099, 1, 1)),
    st.integers(-14 * 60, 14 * 60).map(lambda minutes: timezone(timedelta(minutes=minutes))),
)
def test_a_date_in_any_zone_is_the_same_moment(moment: datetime, zone: timezone) -> None:
    moment = moment.replace(tzinfo=UTC)
    assert parse_ms(moment.astimezone(zone).isoformat()) == round(moment.timestamp() * 1000)


@given(st.text(max_size=40))
def test_any_text_as_a_time_is_read_or_refused(text: str) -> None:
    with contextlib.suppress(ValueError):
        assert isinstance(parse_ms(text), int)


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


# -- the body


def test_gzip_is_known_by_its_first_bytes_whatever_it_is_called() -> None:
    body = b'{"a":1}' * 1000
    for encoding in ("gzip", "", "br"):
        assert inflate(gzip.compress(body), encoding, CAP) == body
    assert inflate(body, "gzip", CAP) == body  # inflated by a proxy that left the header


def test_deflate_is_read_with_and_without_its_wrapper() -> None:
    body = b'{"a":1}' * 1000
    bare = zlib.compressobj(wbits=-15)
    assert inflate(zlib.compress(body), "deflate", CAP) == body
    assert inflate(bare.compress(body) + bare.flush(), "deflate", CAP) == body


@pytest.mark.parametrize(("size", "fits"), [(CAP, True), (CAP + 1, False), (100_000_000, False)])
def test_a_bomb_is_cut_at_the_cap(size: int, fits: bool) -> None:
    packer = zlib.compressobj(wbits=31)
    packed = b"".join(packer.compress(b"\0" * min(1 << 20, size - i)) for i in range(0, size, 1 << 20)) + packer.flush()
    result = inflate(packed, "gzip", CAP)
    if fits:
        assert result == b"\0" * size
    else:
        assert isinstance(result, Refusal)
        assert result.rejection.name == "request_too_large"


@pytest.mark.parametrize(
    ("body", "encoding", "name"),
    [
        (gzip.compress(b"x" * 1000)[:-4], "gzip", "bad_compression"),
        (gzip.compress(b"x" * 1000)[:30] + b"garbage" * 9, "gzip", "bad_compression"),
        (gzip.compress(b"x") + b"more", "gzip", "bad_compression"),
        (b"\x1f\x8b", "gzip", "bad_compression"),
        (b"xx", "deflate", "bad_compression"),
        (b"", "deflate", "bad_compression"),
        (b"{}", "compress", "unsupported_encoding"),
    ],
)
def test_damaged_compression_is_refused(body: bytes, encoding: str, name: str) -> None:
    result = inflate(body, encoding, CAP)
    assert isinstance(result, Refusal)
    assert result.rejection.name == name


def test_half_a_surrogate_pair_does_not_cost_the_batch() -> None:
    # JSON.stringify("\u{1F600}".slice(0, 1)): a text cut in the middle of an emoji.
    body = rb'{"batch":[{"x":"a\ud83d"},{"x":"\ude00"},{"x":"\ud83d\ude00 \\ud83d \uD83Dx"}]}'
    text = mend(body)
    assert json.loads(text)["batch"] == [{"x": "a\ufffd"}, {"x": "\ufffd"}, {"x": "😀 \\ud83d \ufffdx"}]
    assert isinstance(read_batch(text), Batch)


def test_text_that_is_no_utf_8_is_refused() -> None:
    result = read_text(b'{"x":"\xe9"}')
    assert isinstance(result, Refusal)
    assert result.rejection.name == "invalid_json"
    assert read_text("\ufeff{}".encode()) == b"{}"


def test_a_batch_is_an_object_with_a_list() -> None:
    for body, name in ((b"[]", "invalid_batch"), (b"{}", "invalid_batch"), (b'{"batch":1}', "invalid_batch"),
                       (b'{"batch":[],"context":[]}', "invalid_batch"), (b"{", "invalid_json"),
                       (b'{"batch":[' + b"[" * 5000, "too_deep")):  # fmt: skip
        result = read_batch(body)
        assert isinstance(result, Refusal)
        assert result.rejection.name == name
    batch = read_batch(b'{"batch":[1,{"a":[2]}],"sentAt":"x","context":null,"writeKey":"k"}')
    assert isinstance(batch, Batch)
    assert [bytes(item) for item in batch.batch] == [b"1", b'{"a":[2]}']
    assert (batch.sent_at, batch.context, batch.write_key) == ("x", msgspec.UNSET, "k")


def test_the_key_in_a_body_is_found() -> None:
    assert read_key(b'{"event":"A","writeKey":"k"}') == "k"
    for body in (b'{"writeKey":1}', b'{"writeKey":', b'["writeKey"]', b"{}", b""):
        assert read_key(body) is None


# -- properties

texts = st.text(st.characters())  # with half surrogate pairs, unlike st.text()
json_values = st.recursive(
    st.none() | st.booleans() | st.integers(MIN_INT, MAX_INT) | st.floats(allow_nan=False, allow_infinity=False) | texts,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(texts, inner, max_size=4),
    max_leaves=12,
)
FIELDS = (
    "type", "event", "name", "userId", "anonymousId", "groupId", "previousId", "messageId", "timestamp",
    "originalTimestamp", "sentAt", "properties", "traits", "context", "channel",
)  # fmt: skip


def check_anything(raw: bytes, type_: str | None) -> None:
    """Any bytes: an Event that every reader can decode, or a named refusal; never an exception."""
    draft, refusal = take(raw, call(type=type_))
    if refusal is not None:
        assert refusal.rejection in REJECTIONS
        assert draft.value == b""
        return
    event = _event.decode(draft.value)
    json.loads(draft.value)
    assert event.user_id or event.anonymous_id
    assert event.type in EVENT_TYPES
    assert event.channel in (*CHANNELS, "other")
    assert event.message_id
    assert NOW_MS - MAX_PAST_MS <= event.timestamp_ms <= NOW_MS + MAX_FUTURE_MS
    assert draft.key == (event.anonymous_id or event.user_id or "").encode()


@given(st.binary(max_size=200), st.sampled_from([None, *EVENT_TYPES]))
def test_any_bytes_are_an_event_or_a_named_refusal(raw: bytes, type_: str | None) -> None:
    check_anything(raw, type_)


@given(st.dictionaries(st.sampled_from(FIELDS), json_values), st.sampled_from([None, *EVENT_TYPES]))
def test_any_json_in_the_fields_is_an_event_or_a_named_refusal(message: dict[str, Any], type_: str | None) -> None:
    text = read_text(json.dumps(message).encode())
    assert isinstance(text, bytes)
    check_anything(text, type_)


@given(st.dictionaries(texts, json_values, max_size=5), st.text(min_size=1, max_size=50))
def test_what_a_client_sends_in_properties_arrives_as_it_is(properties: dict[str, Any], user: str) -> None:
    sent = json.dumps({"event": "A", "userId": user, "properties": properties}, ensure_ascii=False)
    try:
        body = sent.encode()
    except UnicodeEncodeError:
        body = json.dumps({"event": "A", "userId": user, "properties": properties}).encode()
    text = read_text(body)
    assert isinstance(text, bytes)
    draft, refusal = take(text, call())
    assert refusal is None
    assert json.loads(draft.value)["properties"] == json.loads(text)["properties"]


@given(st.binary(max_size=300), st.sampled_from(["", "gzip", "deflate"]))
def test_any_body_is_inflated_or_refused(body: bytes, encoding: str) -> None:
    for data in (body, gzip.compress(body), gzip.compress(body)[:-3]):
        result = inflate(data, encoding, 100)
        assert isinstance(result, Refusal) or len(result) <= max(100, len(data))
        if isinstance(result, bytes) and isinstance(text := read_text(result), bytes):
            read_batch(text)
            read_key(text)
