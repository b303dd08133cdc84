"""What the snippet's stub sends where the snippet itself never came (blocked, too slow): the calls as they were made.

    [address of the page, its referrer, [[time, method, ...arguments], ...], time of sending]      times in ms

The stub has no room to make messages of them, so that is done here; the signatures are Segment's.
"""

from __future__ import annotations

from typing import Any, Final
from urllib.parse import urlsplit

import msgspec
from msgspec import Raw

from tracker.contract.events import MAX_TIME_MS
from tracker.contract.triggers import rfc3339
from tracker.rejections import INVALID_BATCH, INVALID_JSON, TOO_DEEP, Refusal, refuse

MAX_TEXTS: Final = 2
FIELDS: Final[dict[str, tuple[tuple[str, ...], str]]] = {
    "track": (("event",), "properties"),
    "page": (("name",), "properties"),
    "identify": (("userId",), "traits"),
    "group": (("groupId",), "traits"),
    "alias": (("userId", "previousId"), ""),
}
"""Method -> (where its texts go, in order; where its object goes). Other methods say nothing to the endpoint."""

_decode = msgspec.json.Decoder(tuple[str, str, list[list[Raw]], float]).decode
_text = msgspec.json.Decoder(str | int).decode
_encode = msgspec.json.Encoder().encode


def batch_of_calls(body: bytes, anonymous_id: str) -> bytes | Refusal:
    """The same as the body of a /v1/batch."""
    try:
        url, referrer, calls, sent_ms = _decode(body)
        page = {"url": url, "path": urlsplit(url).path, "referrer": referrer}
        batch = [message for call in calls if (message := _message(call, anonymous_id)) is not None]
    except msgspec.ValidationError as e:
        return refuse(INVALID_BATCH, str(e))
    except (msgspec.DecodeError, UnicodeDecodeError) as e:
        return refuse(INVALID_JSON, str(e))
    except ValueError as e:  # a call without time and method, a time that is none, an address that is none
        return refuse(INVALID_BATCH, str(e))
    except RecursionError:
        return refuse(TOO_DEEP)
    for message in batch:
        if message["type"] == "page":
            message.setdefault("properties", page)
    library = {"name": "tracker.stub.js"}
    return _encode({"sentAt": _time(sent_ms), "context": {"page": page, "library": library}, "batch": batch})


def _message(call: list[Raw], anonymous_id: str) -> dict[str, Any] | None:
    at, method, *arguments = call
    kind = _text(method)
    if kind not in FIELDS:
        return None
    names, holder = FIELDS[str(kind)]
    message: dict[str, Any] = {"type": kind, "timestamp": _time(float(bytes(at))), "anonymousId": anonymous_id}
    texts: list[str] = []
    while arguments and len(texts) < MAX_TEXTS and bytes(arguments[0])[:1] not in (b"{", b"["):
        text = bytes(arguments.pop(0))
        texts += [str(_text(text))] if text != b"null" else []
    if kind == "page" and len(texts) == MAX_TEXTS:
        names = ("category", "name")
    message |= zip(names, texts, strict=False)
    if kind == "alias":
        message.setdefault("previousId", anonymous_id)
    if holder and arguments and bytes(arguments[0])[:1] == b"{":
        message[holder] = arguments[0]
    return message


def _time(ms: float) -> str:
    return rfc3339(int(min(max(ms, 0), MAX_TIME_MS)))
