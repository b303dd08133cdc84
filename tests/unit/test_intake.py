"""Intake: what an Event says is what the client meant; what can't be used has a name."""

from __future__ import annotations

import contextlib
import json
from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import fields

from tests.unit.intake import MAX_EVENT_BYTES, NOW_MS, call, decode_event, draft_of, inside, iso, refused, taken, track
from tracker.contract import events, examples
from tracker.contract.events import MAX_ID_CHARS, Message, ProfileEvent
from tracker.intake import take
from tracker.intake.body import Batch, read_batch
from tracker.intake.json_rules import MAX_DEPTH
from tracker.intake.time import MAX_FUTURE_MS, MAX_PAST_MS, parse_ms
from tracker.rejections import REJECTIONS

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
    assert taken(track(timestamp=iso(NOW_MS - 5), sentAt=""), sent_at="").timestamp_ms == NOW_MS - 5
    assert taken(track(timestamp="", originalTimestamp="", sentAt=iso(NOW_MS))).timestamp_ms == NOW_MS
    assert refused(track(timestamp="2026-01-02T03:04:05." + "0" * 100)) == "bad_timestamp"


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
    assert abs(parse_ms(moment.astimezone(zone).isoformat()) - moment.timestamp() * 1000) < 0.501  # half a ms is either


@given(st.text(max_size=40))
def test_any_text_as_a_time_is_read_or_refused(text: str) -> None:
    with contextlib.suppress(ValueError):
        assert isinstance(parse_ms(text), int)


# -- JSON


@pytest.mark.parametrize(
    "number",
    ["9223372036854775808", "-9223372036854775809", "1e400", "-1E400", "1e+400", "1.5E+0400", "12e309", "1" * 400,
     "123456789012345678901.0e300"],
)  # fmt: skip
@pytest.mark.parametrize("part", ["properties", "traits", "context", "integrations"])
@pytest.mark.parametrize(
    "form", ['{{"x":{}}}', '{{"x": {} }}', '{{"a":[1,{}]}}', '{{"a":[ {}]}}', '{{"a":{{"b":\n{}}}}}']
)
def test_numbers_that_the_next_reader_would_change_are_refused(part: str, number: str, form: str) -> None:
    raw = f'{{"event":"A","userId":"u","{part}":{form.format(number)}}}'.encode()
    assert refused(raw) == "bad_number"


@pytest.mark.parametrize(
    "number",
    ["9223372036854775807", "-9223372036854775808", "1e308", "1E+2", "1e-400", "0.12345678901234567890123", "-0",
     "12345678901234567890.5", "1e000000000000000000002"],
)  # fmt: skip
@pytest.mark.parametrize("part", ["properties", "traits"])
def test_other_numbers_pass_through_as_they_are_written(part: str, number: str) -> None:
    event = taken(f'{{"event":"A","userId":"u","{part}":{{"x":{number}}}}}'.encode())
    assert bytes(getattr(event, part)) == b'{"x":%s}' % number.encode()


def test_digits_and_exponents_in_texts_are_no_numbers() -> None:
    texts = {
        "a": "1" * 400,
        "b": "1e400",
        ":1e400": "x, 5e999 [1E+400",
        "uuid": "0e000000-1e999-4e12-9e+1",
        "é": ": 1e400",
    }
    assert inside(taken(track(properties=texts, traits=texts)).properties) == texts


@pytest.mark.parametrize("name", ["userId", "anonymousId", "groupId", "previousId"])
def test_an_id_is_a_64_bit_integer_or_a_text(name: str) -> None:
    assert taken({"event": "A", "userId": "u", name: 2**63 - 1})
    assert refused({"event": "A", "userId": "u", name: 2**63}) == "bad_number"


def test_a_key_that_comes_twice_is_written_once_where_it_is_read() -> None:
    raw = b'{"event":"A","event":"B","userId":"u","userId":"v","site":"x","context":{"a":1},"context":{"b":2}}'
    draft, refusal = take(raw, call())
    assert refusal is None
    for key in (b'"event":', b'"userId":', b'"context":', b'"site":'):
        assert draft.value.count(key) == 1
    event = decode_event(draft.value)
    assert (event.event, event.user_id, event.site, event.channel) == ("B", "v", "shop", "site")
    assert inside(event.context) == {"b": 2}


def test_what_the_endpoint_finds_can_not_be_said_by_the_client() -> None:
    ours = {
        "site": "other", "channel": "ads", "timestampMs": 1, "receivedAtMs": 2, "source": "import", "traffic": "paid",
        "bot": "spider", "ip": "203.0.113.77", "device": {"type": "tv"}, "clickIds": {"gclid": "g"},
        "campaign": {"source": "x"}, "consent": "granted", "profileId": "p", "src": [0, 0, 0],
        "counted": True, "hops": 64, "clockMs": 1, "mergeId": "m", "unmergeId": "u", "handover": "h", "modelSite": "s",
    }  # fmt: skip
    assert {f.encode_name for f in fields(ProfileEvent)} - {f.encode_name for f in fields(Message)} <= ours.keys()
    draft, refusal = draft_of({**track(), **ours})
    plain, _ = draft_of(track())
    assert refusal is None
    assert draft.value == plain.value


def test_a_batchs_context_can_not_make_small_events_large() -> None:
    context = msgspec.Raw(json.dumps({"x": "y" * (MAX_EVENT_BYTES - 100)}).encode())
    assert inside(taken(track(), context=context).context)
    assert refused(track(context={"z": "z" * 6000}), context=context) == "event_too_large"
    assert refused(track(), context=msgspec.Raw(b'{"x":"%s"}' % (b"y" * (MAX_EVENT_BYTES + 5000)))) == "event_too_large"


def test_an_event_of_the_greatest_size_is_taken_with_all_that_is_found() -> None:
    about = {"page": {"url": "https://shop.example/?utm_source=" + "s" * 600}, "userAgent": "Mozilla/5.0 Googlebot/2.1"}
    message = track(context=about, properties={"x": ""})
    room = MAX_EVENT_BYTES - len(json.dumps(message, ensure_ascii=False).encode())
    message["properties"]["x"] = "y" * room
    assert taken(message).campaign
    message["properties"]["x"] += "y"
    assert refused(message) == "event_too_large"


def test_integrations_are_passed_on_and_a_batch_lends_its_own() -> None:
    assert inside(taken(track(integrations={"All": False})).integrations) == {"All": False}
    lent = msgspec.Raw(b'{"All":true}')
    assert inside(taken(track(), integrations=lent).integrations) == {"All": True}
    own = track(integrations={"All": False, "A": 1})
    assert inside(taken(own, integrations=msgspec.Raw(b'{"All":true,"B":2}')).integrations) == {
        "All": False, "A": 1, "B": 2,
    }  # fmt: skip
    assert refused(track(integrations=[1])) == "wrong_type"


@pytest.mark.parametrize("context", [b"{", b'{"a":1e400}', b"{" + b'"a":{' * 40 + b"}" * 41])
def test_a_batchs_context_keeps_to_the_same_rules(context: bytes) -> None:
    batch = read_batch(
        b'{"batch":[{"event":"A","userId":"u","type":"track"}],"context":%s}' % context,
        MAX_EVENT_BYTES,
        MAX_EVENT_BYTES,
        1,
    )
    if isinstance(batch, Batch):
        assert refused(track(), context=batch.around.context) in ("bad_number", "too_deep")
    else:
        assert batch.rejection.name == "invalid_json"


# -- versions


def test_readers_take_a_record_of_a_future_version() -> None:
    draft, _ = draft_of(track(anonymousId="a", context={"userAgent": "x"}))
    future = b'{"version":9,"geo":{"city":"Hu\xe1\xba\xbf"},"list":[1,{"a":null}],' + draft.value[1:]
    future = future.replace(b'"type":"track"', b'"type":"video"')
    head = events.decode_event_head(future)
    assert (head.anonymous_id, head.type) == ("a", "video")
    event = events.decode_profile_event(events.with_profile(future, events.profile_prefix(b"p", 0), 1, 0))
    assert (event.event, event.type) == ("Product Viewed", "video")


@pytest.mark.parametrize("name", examples.MESSAGES)
def test_the_golden_examples_are_what_the_intake_makes_of_them(name: str) -> None:
    message = examples.MESSAGES[name]
    at_ms = parse_ms(message["timestamp"])
    draft, refusal = draft_of(message, site=examples.SITE, now_ms=at_ms + 250, type=None)
    assert refusal is None
    assert json.loads(draft.value) == json.loads(examples.event(name))
