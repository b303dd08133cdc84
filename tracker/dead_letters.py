"""Dead letters, there and back: what is kept of an event that was refused, and what becomes of a letter on its replay.

An endpoint's letter holds what its event came with: whose key, when, and its batch's sentAt, context and messageId. So
the intake can be asked again as if it were that moment. A worker's letter goes back to its topic once a worker can
read it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

import msgspec
from msgspec import UNSET, Raw, Struct

from tracker.contract.codec import partition_of
from tracker.contract.events import MAX_ID_CHARS, REPLAYS, decode_event_head, decode_profile_event
from tracker.contract.settings import Settings
from tracker.contract.topics import EVENTS, PROFILE_EVENTS, DeadLetter
from tracker.intake import Call, Draft, take
from tracker.post import MAX_DETAIL_CHARS
from tracker.rejections import Refusal

MAX_CONTEXT_BYTES: Final = 4096
"""A batch's context stands in each of its letters: one of a few hundred bytes is usual, a large one would multiply."""

_encode = msgspec.json.Encoder().encode
_object = msgspec.json.Decoder(dict[str, Raw])


def letter_of(draft: Draft, refusal: Refusal, call: Call) -> bytes:
    """The dead letter of an event that the intake refused; at most call.max_event_bytes of the event, and a little."""
    rejection, original, context = refusal.rejection, draft.original, call.context
    detail, missing_bytes = f"{rejection.message} {refusal.detail}".strip(), 0
    if len(original) > call.max_event_bytes:  # a record of Kafka has a limit, too
        detail += f"; kept: the first {call.max_event_bytes} of {len(original)} bytes"
        missing_bytes = len(original) - call.max_event_bytes
        original = original[: call.max_event_bytes]
    if context is not UNSET and len(bytes(context)) > MAX_CONTEXT_BYTES:
        missing_bytes += len(bytes(context))
        context = UNSET
    texts = [call.sent_at, call.message_id]
    for i, text in enumerate(texts):
        if text is not None and len(text) > MAX_ID_CHARS:
            missing_bytes += len(text)
            texts[i] = None
    return _encode(
        DeadLetter(
            reason=rejection.name, detail=detail[:MAX_DETAIL_CHARS], stage="endpoint", at_ms=call.now_ms,
            original=original, site=call.site, source=call.source, type=call.type, index=draft.index,
            sent_at=texts[0], message_id=texts[1], context=context, missing_bytes=missing_bytes,
        )
    )  # fmt: skip


class Redo(Struct, frozen=True):
    """What to publish for a letter."""

    topic: str
    partition: int
    key: bytes | None
    value: Callable[[int, int], bytes]
    """(offset of the Replay that says begun, place in its letters) -> the record's value. The same for the same."""


def redo(letter: DeadLetter, offset: int, settings: Settings) -> Redo | tuple[str, str]:
    """What to publish for the letter at this offset; or (reason, detail) why it stays dead."""
    if letter.missing_bytes:
        return "incomplete", f"{letter.missing_bytes} bytes of it were too large to be kept"
    if letter.stage == "endpoint":
        return _redo_event(letter, offset, settings)
    if letter.topic not in (EVENTS, PROFILE_EVENTS) or letter.partition is None:
        return "unknown_stage", f"'{letter.stage}', topic {letter.topic}"
    if letter.partition >= settings.partitions:
        return (
            "unknown_partition",
            f"it came from {letter.partition}, and there are {settings.partitions}",
        )
    return _redo_record(letter)


def _redo_event(letter: DeadLetter, offset: int, settings: Settings) -> Redo | tuple[str, str]:
    """Through the intake, at the time it came: that is what the client's clock is compared with."""
    if letter.site not in settings.sites:
        return "unknown_site", f"tracker.toml has no site '{letter.site}'"
    call = Call(
        site=letter.site, source=letter.source, now_ms=letter.at_ms, type=letter.type, sent_at=letter.sent_at,
        context=letter.context, message_id=letter.message_id, max_event_bytes=settings.max_event_bytes,
        # The same at every try: should a replay be repeated after a crash, the stream knows the event by it.
        make_id=lambda: f"dead-letter-{letter.at_ms:x}-{offset}",
    )  # fmt: skip
    draft, refusal = take(letter.original, call, letter.index)
    if refusal is not None:
        return refusal.rejection.name, f"{refusal.rejection.message} {refusal.detail}".strip()
    value = draft.value
    return Redo(EVENTS, partition_of(draft.key, settings.partitions), draft.key, lambda *_: value)


def _redo_record(letter: DeadLetter) -> Redo | tuple[str, str]:
    """As it was, to where it was; of a profile event all but `src`: behind its old one others have been applied."""
    from stream.resolve import identifiers  # the worker's rule, and 1 s to import: only here is it needed

    assert letter.topic is not None
    assert letter.partition is not None
    original = letter.original
    try:
        if letter.topic == EVENTS:
            head = decode_event_head(original)
            if identifiers(head) == (None, None):
                return "no_identity", "no usable userId or anonymousId"
            key = letter.key or str(head.anonymous_id or head.user_id).encode()
            return Redo(EVENTS, letter.partition, key, lambda *_: original)
        profile_id = decode_profile_event(original).profile_id
        fields = _object.decode(original)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as e:
        return "not_an_event", str(e)
    if letter.reason == "fold_failed":
        fields["counted"] = Raw(b"true")

    def value(begun: int, place: int) -> bytes:
        return _encode(fields | {"src": (REPLAYS, begun, place)})

    return Redo(PROFILE_EVENTS, letter.partition, letter.key or profile_id.encode(), value)
