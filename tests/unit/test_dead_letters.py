"""Letters there and back, without Kafka: what is kept, what is bounded, what is refused again."""

from __future__ import annotations

import json
from typing import Any

import msgspec
import pytest
from msgspec import UNSET, Raw

from tracker.contract.loading import load
from tracker.contract.topics import EVENTS, REPLAY_PREFIX, DeadLetter, Replay
from tracker.dead_letters import MAX_SHARED_BYTES, Redo, letter_of, redo
from tracker.intake import Call, Policy, take
from tracker.rejections import MISSING_EVENT, refuse

T0 = 1_795_000_000_000
SETTINGS = load({"TRACKER_DEMO": "1"})
EVENT = b'{"type":"track","event":"A","userId":"u"}'


def call(**fields: Any) -> Call:
    return Call("demo", "client", T0, lambda: "made", 32 * 1024, **fields)


def letter(original: bytes, call: Call, index: int = 0) -> DeadLetter:
    return msgspec.json.decode(letter_of(original, index, refuse(MISSING_EVENT), call), type=DeadLetter)


@pytest.mark.parametrize(
    "came",
    [
        call(message_id="b"), call(message_id="b", type="track"), call(message_id="b", sent_at="2026-11-18T12:00:05Z"),
        call(message_id="b", context=Raw(b'{"library":{"name":"x"},"locale":"vi"}')),
        call(message_id="b", integrations=Raw(b'{"All":false}')),
        call(message_id="b", user_agent="Mozilla/5.0 (Windows NT 10.0; Win64; x64) Chrome/120.0 Safari/537.36"),
        call(message_id="b", ip="203.0.113.77"),
    ],
    ids=["plain", "type", "sentAt", "context", "integrations", "user agent", "address"],
)  # fmt: skip
def test_a_replay_gives_what_the_endpoint_would_have_given(came: Call) -> None:
    original = b'{"type":"track","event":"A","userId":"u","timestamp":"2026-11-18T12:00:00Z"}'
    draft, refusal = take(original, came, 4)
    assert refusal is None
    again = redo(letter(original, came, 4), 9, SETTINGS)
    assert isinstance(again, Redo)
    assert (again.topic, again.key, again.value(1, 2)) == (EVENTS, b"u", draft.value)


def test_an_address_is_kept_as_far_as_the_site_lets_it() -> None:
    for keep, kept in (("truncate", "203.0.113.0"), ("keep", "203.0.113.77"), ("drop", "")):
        assert letter(EVENT, call(ip="203.0.113.77", policy=Policy(ip=keep))).ip == kept


def test_what_a_batch_shares_is_bounded_and_what_is_not_whole_is_not_replayed() -> None:
    large = Raw(json.dumps({"x": "y" * MAX_SHARED_BYTES}).encode())
    for came, original, missing in (
        (call(context=large), EVENT, len(bytes(large))),
        (call(message_id="m" * 5000), EVENT, 5000),
        (call(), EVENT + b" " * 32 * 1024, len(EVENT)),
    ):
        found = letter(original, came)
        assert found.missing_bytes == missing
        assert len(found.original) <= 32 * 1024
        assert (found.context, found.message_id) == (UNSET, None)
        assert redo(found, 1, SETTINGS) == ("incomplete", f"{missing} bytes of it were too large to be kept")


def test_an_id_that_is_missing_is_made_from_the_letters_place() -> None:
    ids = []
    for offset in (7, 7, 8):
        again = redo(letter(EVENT, call()), offset, SETTINGS)
        assert isinstance(again, Redo)
        ids.append(json.loads(again.value(0, 0))["messageId"])
    assert ids[0] == ids[1] != ids[2]


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ({"stage": "endpoint", "site": "gone"}, "unknown_site"), ({"stage": "endpoint", "site": None}, "unknown_site"),
        ({"stage": "endpoint", "site": "demo", "original": b"{"}, "invalid_json"),
        ({"stage": "resolve", "topic": EVENTS, "partition": 64}, "unknown_partition"),
        ({"stage": "resolve", "topic": EVENTS, "partition": 0}, "not_an_event"),
        ({"stage": "resolve", "topic": "else", "partition": 0}, "unknown_stage"),
    ],
)  # fmt: skip
def test_what_is_still_bad_stays_dead_with_its_reason(fields: dict[str, Any], reason: str) -> None:
    dead = DeadLetter(**{"reason": "x", "detail": "", "at_ms": T0, "original": EVENT, **fields})
    outcome = redo(dead, 1, SETTINGS)
    assert isinstance(outcome, tuple)
    assert outcome[0] == reason
    assert outcome[1]


def test_a_letter_and_a_replay_are_told_apart_by_their_beginning() -> None:
    assert msgspec.json.encode(Replay(replay="begun", at_ms=1, letters=[1])).startswith(REPLAY_PREFIX)
    assert not letter_of(EVENT, 0, refuse(MISSING_EVENT), call()).startswith(REPLAY_PREFIX)


def test_a_letter_of_an_earlier_version_is_read() -> None:
    old = {"reason": "x", "detail": "", "stage": "endpoint", "atMs": T0, "original": "e30=", "site": "demo"}
    found = msgspec.json.decode(json.dumps(old), type=DeadLetter)
    assert (found.source, found.index, found.missing_bytes) == ("client", 0, 0)
    assert isinstance(redo(found, 1, SETTINGS), tuple)
