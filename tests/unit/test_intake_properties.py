"""Whatever comes in: an Event that every reader decodes and that says what was validated, or a named refusal.

Longer: HYPOTHESIS_EXAMPLES=20000 pytest tests/unit/test_intake_properties.py
"""

from __future__ import annotations

import gzip
import json
import math
import os
from typing import Any

import cramjam
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from tests.unit.intake import NOW_MS, call, decode_event
from tracker.contract import events
from tracker.contract.events import CHANNELS, EVENT_TYPES, Event
from tracker.intake import Draft, Policy, take
from tracker.intake.body import inflate, read_batch, read_key, read_text
from tracker.intake.channel import TRAFFIC
from tracker.intake.decode import read_event
from tracker.intake.json_rules import MAX_DEPTH, MAX_INT, MIN_INT
from tracker.intake.names import EVENTS
from tracker.intake.time import MAX_FUTURE_MS, MAX_PAST_MS
from tracker.rejections import REJECTIONS, Refusal

fuzzed = settings(
    max_examples=int(os.environ.get("HYPOTHESIS_EXAMPLES", "40")),
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)

# -- JSON as texts: what json.dumps never writes is what is looked for

NUMBERS = (
    "0", "-0", "1", "1.50", "1e5", "1E+2", "1e-400", "1e400", "-1E+400", "12e309", "9223372036854775807",
    "9223372036854775808", "-9223372036854775809", "1" * 40, "1" * 400, "0." + "1" * 30, "01", "NaN", "Infinity", "1.",
)  # fmt: skip
KEYS = (
    "type", "event", "name", "category", "userId", "anonymousId", "groupId", "previousId", "messageId", "timestamp",
    "originalTimestamp", "sentAt", "properties", "traits", "context", "integrations", "channel", "page", "url",
    "search", "referrer", "campaign", "source", "medium", "ip", "userAgent", "consent", "categoryPreferences", "gpc",
    "analytics", "consentManagement", "deniedConsentIds", "webdriver", "items", "products", "item_id", "site",
    "writeKey", "value", "mergeProperties",
)  # fmt: skip
TEXTS = (
    "", " ", "u", "track", "merge", "Product Viewed", "view_item", "purchase", "transaction", "email", "ZALO",
    "granted", "denied", "2026-11-22T06:49:52.123Z", "0001-01-01T00:00:00Z", "https://shop.example/?utm_source=zalo&gclid=1",
    "https://www.google.com/", "203.0.113.77", "0.0.0.0", "::ffff:1.2.3.4", "Googlebot/2.1", "x" * 250, "\x00",
    "\ufeff", "\u2028", "😀", "1e400", "1" * 30, '{"', "\\", "%00%ff", "http://[::1", "__proto__", "null",
)  # fmt: skip


@st.composite
def strings(draw: st.DrawFn, of: st.SearchStrategy[str]) -> str:
    """A text as JSON, perhaps with escapes that say the same; a half surrogate pair is one always."""
    text = draw(of)
    spelled = json.dumps(text, ensure_ascii=draw(st.booleans()))
    if draw(st.integers(0, 9)) == 0 and text[:1].isalnum():
        spelled = f'"\\u{ord(text[0]):04x}' + spelled[2:] if ord(text[0]) < 128 else spelled
    return spelled.encode("utf-8", "surrogatepass").decode("utf-8", "backslashreplace").replace("\\xed", "\\ud83d")


keys = strings(st.sampled_from(KEYS) | st.text(max_size=5))
plain = (
    st.sampled_from(("null", "true", "false", "[]", "{}"))
    | st.sampled_from(NUMBERS)
    | strings(st.sampled_from(TEXTS) | st.text(st.characters(), max_size=20))
)


def objects(values: st.SearchStrategy[str]) -> st.SearchStrategy[str]:
    """Lists of pairs, so that a key may come twice."""
    blank = st.sampled_from(("", "", " ", "\n\t"))
    pairs = st.lists(st.tuples(keys, blank, values, blank), max_size=6)
    return pairs.map(lambda found: "{" + ",".join(f"{k}{a}:{b}{v}{a}" for k, a, v, b in found) + "}")


anything = st.recursive(
    plain,
    lambda inner: objects(inner) | st.lists(inner, max_size=4).map(lambda found: "[" + ", ".join(found) + "]"),
    max_leaves=8,
)
part = objects(anything) | anything
messages = st.lists(
    st.tuples(st.sampled_from(("properties", "traits", "context", "context", "integrations")), part)
    | st.tuples(st.sampled_from(KEYS), plain),
    max_size=7,
).map(lambda found: '{"userId":"u","event":"A",' + "".join(f'"{k}":{v},' for k, v in found) + '"_":0}')
policies = st.builds(
    Policy,
    ip=st.sampled_from(("keep", "truncate", "drop")),
    bots=st.sampled_from(("flag", "drop")),
    consent=st.sampled_from(("ignore", "optional", "required")),
    without_consent=st.sampled_from(("drop", "anonymous")),
    salt=st.just(b"salt"),
)
types = st.sampled_from([None, *EVENT_TYPES])


def event_of(draft: Draft, refusal: Refusal | None) -> Event | None:
    """What became of it, after what always holds."""
    if refusal is not None:
        assert refusal.rejection in REJECTIONS
        assert draft.value == b""
        return None
    event = decode_event(draft.value)
    events.decode_event_head(draft.value)
    record = events.with_profile(draft.value, events.profile_prefix(b"p", 0), 1, 0)
    assert events.decode_profile_event(record).message_id == event.message_id
    written = json.loads(draft.value, object_pairs_hook=unique_at_top)
    assert written["type"] == event.type
    assert event.user_id or event.anonymous_id
    assert event.type in EVENT_TYPES
    assert event.channel in (*CHANNELS, "other")
    assert event.traffic in (*TRAFFIC, None)
    assert event.message_id
    assert 0 <= event.timestamp_ms <= NOW_MS + MAX_FUTURE_MS
    assert event.source == "import" or event.timestamp_ms >= NOW_MS - MAX_PAST_MS
    assert draft.key == (event.anonymous_id or event.user_id or "").encode()
    for name in ("properties", "traits", "context", "integrations"):
        sound(written.get(name, {}))
    assert "ip" not in written.get("context", {})
    return event


def unique_at_top(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    if any(key == "receivedAtMs" for key, _ in pairs):
        assert len({key for key, _ in pairs}) == len(pairs)
    return dict(pairs)


def sound(value: Any, depth: int = 2) -> None:
    """No reader stumbles over it."""
    assert depth <= MAX_DEPTH + 1
    if isinstance(value, dict | list):
        for inner in value.values() if isinstance(value, dict) else value:
            sound(inner, depth + 1)
    elif isinstance(value, float):
        assert math.isfinite(value)
    elif isinstance(value, int):
        assert MIN_INT <= value <= MAX_INT
    elif isinstance(value, str):
        value.encode()  # no half surrogate pair


@fuzzed
@given(st.binary(max_size=200), types)
@example(b"", "track")
@example(b"{}", None)
@example(b"null", "track")
@example(b'{"userId":' + b"[" * 5000, "track")
@example(b'{"type":"track","event":"A","userId":"u","context":' + b'{"a":' * 500 + b"1" + b"}" * 501, None)
@example(b'{"type":"merge","mergeProperties":[{"type":"userId","value":' + b"9" * 400 + b"}]}", None)
@example(b'{"event":"A","userId":"u","properties":{"a":"\xed\xa0\x80"}}', "track")
@example(b'{"event":"A","userId":"u","properties":{"a":1e400}}', "track")
@example(b'{"event":"A","userId":"u"}\x00', "track")
@example(b'\xef\xbb\xbf{"event":"A","userId":"u"}', "track")
@example('{"event":"A","userId":"u"}'.encode("utf-16"), "track")
@example('{"event":"A","userId":"u"}'.encode("utf-16-le"), "track")
def test_any_bytes_are_an_event_or_a_named_refusal(raw: bytes, type_: str | None) -> None:
    text = read_text(raw)
    if isinstance(text, bytes):
        read_key(text)
        event_of(*take(text, call(type=type_)))
        batch = read_batch(text, 1000, 1000, 2500)
        if isinstance(batch, Refusal):
            return
        for i, event in enumerate(batch.events):
            assert event == read_event(batch.original(i), 1000)  # decoded in one go or one by one
            event_of(*take(event, call(type=None)))


@fuzzed
@given(messages, types, policies, st.sampled_from(("client", "import")), st.sampled_from(("", "203.0.113.9", "x")))
def test_any_json_is_an_event_or_a_named_refusal(
    message: str, type_: str | None, policy: Policy, source: str, ip: str
) -> None:
    text = read_text(message.encode())
    assert isinstance(text, bytes)
    about = {"policy": policy, "source": source, "ip": ip, "user_agent": "Mozilla/5.0 Firefox/140.0"}
    event_of(*take(text, call(type=type_, **about)))


@fuzzed
@given(messages)
def test_what_is_written_is_what_was_read(message: str) -> None:
    """By json.loads, of which the last of two equal keys stands: another parser than the intake's."""
    text = read_text(message.encode())
    assert isinstance(text, bytes)
    event = event_of(*(taken := take(text, call(policy=Policy(consent="ignore")))))
    if event is None:
        return
    sent, written = json.loads(text), json.loads(taken[0].value)
    if sent["event"] in EVENTS:
        assert event.event == EVENTS[sent["event"]]
        sent.pop("properties", None)
        written.pop("properties", None)
    else:
        assert event.event == sent["event"]
    for name in ("properties", "traits", "context", "integrations"):
        part = sent.get(name)
        if isinstance(part, dict) and name == "context":
            part.pop("ip", None)
        assert written.get(name) == part
    for name, value in (("userId", event.user_id), ("anonymousId", event.anonymous_id), ("groupId", event.group_id)):
        given = sent.get(name)
        assert value == (None if given in (None, "") else str(given))
    said = next(
        (part["channel"].strip().lower() for name in ("context", "properties")
         if isinstance(part := written.get(name), dict) and isinstance(part.get("channel"), str)
         and part["channel"].strip()), None,
    )  # fmt: skip
    if said is not None:
        assert event.channel == (said if said in CHANNELS else "other")


@fuzzed
@given(messages)
def test_an_event_that_is_sent_again_is_the_same_but_for_time_and_address(message: str) -> None:
    text = read_text(message.encode())
    assert isinstance(text, bytes)
    about = call(policy=Policy(consent="ignore"))
    first, refusal = take(text, about)
    if refusal is not None:
        return
    again, refusal = take(first.value, about)
    assert refusal is None
    once, twice = json.loads(first.value), json.loads(again.value)
    for found in (once, twice):
        found.pop("timestampMs")
        found.pop("ip", None)
    assert once == twice


@fuzzed
@given(st.binary(max_size=300), st.sampled_from(("", "gzip", "deflate", "br", "zstd")), st.integers(0, 300))
def test_any_body_is_inflated_or_refused(body: bytes, encoding: str, cut: int) -> None:
    packed = (gzip.compress(body), bytes(cramjam.brotli.compress(body)), bytes(cramjam.zstd.compress(body)))
    for data in (body, *packed, *(whole[:cut] for whole in packed), *(whole[cut:] + whole for whole in packed)):
        result = inflate(data, encoding, 100)
        assert isinstance(result, Refusal) or len(result) <= max(100, len(data))
