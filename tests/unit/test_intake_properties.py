"""Whatever comes in: an Event that every reader decodes and that says what was validated, or a named refusal."""

from __future__ import annotations

import gzip
import json
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from tests.unit.intake import NOW_MS, call, decode_event
from tracker.contract.events import CHANNELS, EVENT_TYPES
from tracker.intake import take
from tracker.intake.body import inflate, read_batch, read_key, read_text
from tracker.intake.json_rules import MAX_INT, MIN_INT
from tracker.intake.time import MAX_FUTURE_MS, MAX_PAST_MS
from tracker.rejections import REJECTIONS, Refusal

numbers = st.integers(MIN_INT, MAX_INT) | st.floats(allow_nan=False, allow_infinity=False)
texts = st.text(st.characters())  # with half surrogate pairs, unlike st.text()
json_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(MIN_INT, MAX_INT)
    | st.floats(allow_nan=False, allow_infinity=False)
    | texts,
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
    event = decode_event(draft.value)
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
            read_batch(text, 1000)
            read_key(text)
