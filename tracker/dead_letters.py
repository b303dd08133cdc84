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
from tracker.contract.events import REPLAYS, decode_event_head, decode_profile_event
from tracker.contract.settings import DEMO_SITE, Settings
from tracker.contract.topics import EVENTS, PROFILE_EVENTS, WEBHOOK_REPLAYS, DeadLetter
from tracker.contract.triggers import decode_trigger
from tracker.intake import Call, policy_of, take
from tracker.intake.privacy import written_ip
from tracker.post import MAX_DETAIL_CHARS
from tracker.rejections import Refusal

MAX_SHARED_BYTES: Final = 4096
"""What a batch says for all of its events stands in each of its letters: a large context would multiply. Beyond it is
left out."""
MAX_AGENT_CHARS: Final = 512

_encode = msgspec.json.Encoder().encode
_object = msgspec.json.Decoder(dict[str, Raw])


def letter_of(original: bytes, index: int, refusal: Refusal, call: Call) -> bytes:
    """The dead letter of an event that the intake refused: at most call.max_event_bytes of it, and a little."""
    rejection = refusal.rejection
    letter = DeadLetter(
        reason=rejection.name, detail=f"{rejection.message} {refusal.detail}".strip(), stage="endpoint",
        at_ms=call.now_ms, original=original, site=call.site, source=call.source, type=call.type, index=index,
        sent_at=call.sent_at, message_id=call.message_id, context=call.context, integrations=call.integrations,
        ip=written_ip(call.ip, call.policy.ip)[6:-2].decode(), user_agent=call.user_agent[:MAX_AGENT_CHARS],
    )  # fmt: skip
    if len(original) > call.max_event_bytes:  # a record of Kafka has a limit, too
        letter.detail += f"; kept: the first {call.max_event_bytes} of {len(original)} bytes"
        letter.original = original[: call.max_event_bytes]
        letter.missing_bytes = len(original) - call.max_event_bytes
    texts = (call.sent_at or "", call.message_id or "")
    parts = [bytes(part) for part in (call.context, call.integrations) if part is not UNSET]
    if (size := sum(map(len, texts)) + sum(map(len, parts))) > MAX_SHARED_BYTES:
        letter.sent_at = letter.message_id = None
        letter.context = letter.integrations = UNSET
        letter.missing_bytes += size
    letter.detail = letter.detail[:MAX_DETAIL_CHARS]
    return _encode(letter)


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
    if letter.stage == "webhooks":
        return _redo_delivery(letter, settings)
    if letter.topic not in (EVENTS, PROFILE_EVENTS) or letter.partition is None:
        return "unknown_stage", f"'{letter.stage}', topic {letter.topic}"
    if letter.partition >= settings.partitions:
        return "unknown_partition", f"it came from {letter.partition}, and there are {settings.partitions}"
    return _redo_record(letter, settings)


def _redo_event(letter: DeadLetter, offset: int, settings: Settings) -> Redo | tuple[str, str]:
    """Through the intake, at the time it came: that is what the client's clock is compared with."""
    if letter.site is None or letter.site not in settings.sites:
        demo = ", which needs TRACKER_DEMO=1" if letter.site == DEMO_SITE else ""
        return "unknown_site", f"tracker.toml has no site '{letter.site}'{demo}"
    call = Call(
        site=letter.site, source=letter.source, now_ms=letter.at_ms, type=letter.type, sent_at=letter.sent_at,
        context=letter.context, integrations=letter.integrations, message_id=letter.message_id,
        ip=letter.ip, user_agent=letter.user_agent, policy=policy_of(settings.sites[letter.site]),
        max_event_bytes=settings.max_event_bytes,
        # The same at every try: should a replay be repeated after a crash, the stream knows the event by it.
        make_id=lambda: f"dead-letter-{letter.at_ms:x}-{offset}",
    )  # fmt: skip
    draft, refusal = take(letter.original, call, letter.index)
    if refusal is not None:
        return refusal.rejection.name, f"{refusal.rejection.message} {refusal.detail}".strip()
    value = draft.value
    return Redo(EVENTS, partition_of(draft.key, settings.partitions), draft.key, lambda *_: value)


def _redo_delivery(letter: DeadLetter, settings: Settings) -> Redo | tuple[str, str]:
    """To that webhook alone, not to the topic of the trigger: whoever else subscribes to it has had it."""
    endpoint, original = letter.endpoint or "", letter.original
    if endpoint not in [hook.name for hook in settings.webhooks]:
        return "unknown_endpoint", f"tracker.toml has no webhook '{endpoint}'"
    try:
        decode_trigger(original)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as e:
        return "not_a_trigger", str(e)
    return Redo(WEBHOOK_REPLAYS, 0, endpoint.encode(), lambda *_: original)


def _redo_record(letter: DeadLetter, settings: Settings) -> Redo | tuple[str, str]:
    """As it was, to where it was; of a profile event all but `src`: behind its old one others have been applied."""
    from stream.core.identity import identifiers  # the worker's rule: only here is it needed

    assert letter.topic is not None
    assert letter.partition is not None
    original = letter.original
    try:
        if letter.topic == EVENTS:
            head = decode_event_head(original)
            if not identifiers(original, head, settings.phone_country):
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
