"""What the snippet's stub sends where the snippet itself never came (blocked, too slow): the calls as they were made.

    [address of the page, its referrer, [[time, method, ...arguments], ...], time of sending, calls that left before]

Times are in ms. The stub has no room to make messages of them, so that is done here, as the snippet does it: the
signatures are Segment's, a no to being tracked takes back what was called before it, and a call that means nothing
costs the others nothing.
"""

from __future__ import annotations

import re
from typing import Any, Final, NamedTuple
from urllib.parse import urlsplit

import msgspec
from msgspec import Raw, Struct

from tracker.contract.events import ECOMMERCE, MAX_TIME_MS
from tracker.contract.triggers import rfc3339
from tracker.intake.time import parse_ms
from tracker.rejections import INVALID_BATCH, INVALID_JSON, TOO_DEEP, Refusal, refuse


class Signature(NamedTuple):
    """What a call's arguments are, in order: texts, an object, options."""

    texts: tuple[str, ...]
    holder: str
    """Where its object goes; '': it takes none."""
    required: bool = False
    """Whether it means nothing without the first text."""


SIGNATURES: Final[dict[str, Signature]] = {
    "track": Signature(("event",), "properties", True),
    "page": Signature(("category", "name"), "properties"),
    "screen": Signature(("category", "name"), "properties"),
    "identify": Signature(("userId",), "traits"),
    "group": Signature(("groupId",), "traits", True),
    "alias": Signature(("userId", "previousId"), "", True),
}
"""By method. Others say nothing to the endpoint, but consent and optOut, and `ecommerce`, whose next argument is the
rest of the method's name."""
OF_ECOMMERCE: Final[dict[str, str]] = {
    name[0].lower() + re.sub(" (.)", lambda m: m[1].upper(), name[1:]): name for name in ECOMMERCE
}
"""productAdded -> Product Added"""
OPTIONS: Final = ("messageId", "anonymousId", "integrations")
"""Of a call's options, what is the message's as it is."""

_NULL: Final = Raw(b"null")


class Sent(Struct, array_like=True):
    """What the stub sends: all calls of the page so far."""

    url: str
    referrer: str
    calls: list[Raw]
    sent_ms: float
    left: int = 0
    """How many of the calls an earlier beacon had; they say what the person agrees to, and give nothing more."""


_decode = msgspec.json.Decoder(Sent).decode
_list = msgspec.json.Decoder(list[Raw]).decode
_object = msgspec.json.Decoder(dict[str, Raw]).decode
_encode = msgspec.json.Encoder().encode


class Said(NamedTuple):
    """What the person has said to being tracked, so far."""

    no: bool = False
    consent: Any = None
    """A yes, as events say it: `granted`, or the categories."""


def batch_of_calls(body: bytes, anonymous_id: str) -> bytes | Refusal:
    """The same as the body of a /v1/batch."""
    try:
        sent = _decode(body)
        page = {"url": sent.url, "path": urlsplit(sent.url).path, "referrer": sent.referrer}
        batch = _messages(sent.calls, sent.left, anonymous_id, page)
    except msgspec.ValidationError as e:
        return refuse(INVALID_BATCH, str(e))
    except (msgspec.DecodeError, UnicodeDecodeError) as e:
        return refuse(INVALID_JSON, str(e))
    except ValueError as e:  # an address that is none
        return refuse(INVALID_BATCH, str(e))
    except RecursionError:
        return refuse(TOO_DEEP)
    library = {"name": "tracker.stub.js"}
    return _encode({"sentAt": _time(sent.sent_ms), "context": {"page": page, "library": library}, "batch": batch})


def _messages(calls: list[Raw], left: int, anonymous_id: str, page: dict[str, str]) -> list[dict[str, Any]]:
    batch: list[dict[str, Any]] = []
    said = Said()
    for i, call in enumerate(calls):
        try:
            at, name, *arguments = _list(call)
            at_ms, method = float(bytes(at)), _text(name)
        except ValueError:  # msgspec's errors, too: no list, no method, a time that is none
            continue
        if method in ("consent", "optOut"):
            said = _consent(arguments[0] if method == "consent" and arguments else _NULL)
            if said.no:
                batch.clear()
        elif (
            i >= left
            and not said.no
            and (message := _message(method, arguments, at_ms, anonymous_id, page)) is not None
        ):
            if said.consent is not None:
                message["context"] = {"consent": said.consent, **message.get("context", {})}
            batch.append(message)
    return batch


def _message(
    method: str, arguments: list[Raw], at_ms: float, anonymous_id: str, page: dict[str, str]
) -> dict[str, Any] | None:
    if method == "ecommerce" and arguments:
        event = OF_ECOMMERCE.get(_text(arguments[0]), "")
        method, arguments = "track", [Raw(_encode(event)), *arguments[1:]]
    signature = SIGNATURES.get(method)
    if signature is None:
        return None
    texts, given, options = split(arguments, len(signature.texts))
    if not signature.holder:
        options = given
    names = signature.texts[-1:] if len(texts) == 1 and not signature.required else signature.texts
    texts_by_name = {name: text for name, text in zip(names, texts, strict=False) if text}
    if signature.required and signature.texts[0] not in texts_by_name:
        return None
    message: dict[str, Any] = {"type": method, "timestamp": _given_time(options, at_ms), "anonymousId": anonymous_id}
    message |= texts_by_name
    if method == "alias":
        message.setdefault("previousId", anonymous_id)
    if signature.holder:
        message[signature.holder] = {**page, **given} if method == "page" else given
    message |= {name: options[name] for name in OPTIONS if not _is_null(options.get(name, _NULL))}
    if context := _fields(options.get("context", _NULL)):
        message["context"] = context
    return message


def split(arguments: list[Raw], most: int) -> tuple[list[str], dict[str, Raw], dict[str, Raw]]:
    """As core/split.ts: up to `most` leading texts, null where one is left out; then the object and the options."""
    head = 0
    while head < min(most, len(arguments)) and bytes(arguments[head])[:1] not in (b"{", b"["):
        head += 1
    texts = [_text(argument) for argument in arguments[:head] if not _is_null(argument)]
    given, options, *_ = [*arguments[head:], _NULL, _NULL]
    return texts, _fields(given), _fields(options)


def _consent(choice: Raw) -> Said:
    """By category, `analytics` decides. What is no yes is a no."""
    categories = _fields(choice)
    word = bytes(categories.get("analytics", choice))
    if word not in (b"true", b'"granted"'):
        return Said(no=True)
    return Said(consent=categories or "granted")


def _given_time(options: dict[str, Raw], at_ms: float) -> str:
    given = options.get("timestamp", _NULL)
    try:
        return _time(float(bytes(given))) if bytes(given)[:1] != b'"' else _time(parse_ms(_text(given)))
    except ValueError:
        return _time(at_ms)


def _fields(value: Raw) -> dict[str, Raw]:
    return _object(value) if bytes(value)[:1] == b"{" else {}


def _text(value: Raw) -> str:
    """A number, true and false are their JSON."""
    text = bytes(value)
    return msgspec.json.decode(text, type=str) if text[:1] == b'"' else text.decode()


def _is_null(value: Raw) -> bool:
    return bytes(value) == b"null"


def _time(ms: float) -> str:
    return rfc3339(int(min(max(ms, 0), MAX_TIME_MS)))
