"""What of JSON is taken: at most 32 levels deep, integers of 64 bits, numbers that a double can hold.

msgspec sees to the grammar, but leaves the numbers and the depth of what is passed through (Raw) alone.
"""

from __future__ import annotations

import json
import math
import re
from typing import Any, Final

import msgspec

from tracker.rejections import BAD_NUMBER, INVALID_JSON, TOO_DEEP, Rejection

MAX_DEPTH: Final = 32
MAX_INT: Final = 2**63 - 1
MIN_INT: Final = -(2**63)

_any = msgspec.json.Decoder()
_string = re.compile(rb'"(?:[^"\\]|\\.)*"', re.DOTALL)
_bracket = re.compile(rb"[\[\]{}]")
_shapes = bytes(0x30 if 0x30 <= i <= 0x39 or i == 0x2B else 0x65 if i in b"eE" else 0x20 for i in range(256))
"""Digits and the plus become 0, an exponent's letter e, anything else a blank."""
_LONG_INTEGER: Final = b"0" * 19
_LONG_EXPONENT: Final = b"e000"
_suspect = re.compile(rb"[:,\[\s]-?(?:[0-9]{19}|[0-9][0-9.]*[eE])").search
_OPENING: Final = 0x7B  # {
_LIST: Final = 0x5B  # [


class Bad(ValueError):
    """JSON that is not taken."""

    def __init__(self, rejection: Rejection, detail: str = "") -> None:
        super().__init__(rejection.name, detail)
        self.rejection = rejection
        self.detail = detail


def object_of(raw: bytes) -> dict[str, Any]:
    """A JSON object, decoded whole; of a key that occurs twice the last value. Raises Bad."""
    check(raw)
    try:
        found: dict[str, Any] = _any.decode(raw)
    except (msgspec.DecodeError, UnicodeDecodeError) as e:
        raise Bad(INVALID_JSON, str(e)) from None
    return found


def check(raw: bytes) -> None:
    """Raise Bad for a part of an event that is valid JSON and not taken: nested too deeply (the event around it is a
    level, too), an integer beyond 64 bits or a number beyond a double, which the next reader would change or refuse.

    Such an integer has 19 digits in a row, such an exponent three. Most parts are flat and have neither, which is told
    in 0.3 us for 200 bytes. (`rfind` takes a third of the time of `in` where there is nothing to find.)
    """
    if raw.rfind(_OPENING) > 0 or _LIST in raw:
        _check_depth(raw)
    shapes = raw.translate(_shapes)
    if shapes.rfind(_LONG_INTEGER) >= 0 or shapes.rfind(_LONG_EXPONENT) >= 0:
        _check_numbers(raw)


def _check_depth(raw: bytes) -> None:
    brackets = raw.count(_OPENING)
    if _LIST in raw:  # looking for one is a tenth of counting them
        brackets += raw.count(_LIST)
    if brackets >= MAX_DEPTH and (levels := 1 + depth(raw)) > MAX_DEPTH:
        raise Bad(TOO_DEEP, f"{levels} levels")


def _check_numbers(raw: bytes) -> None:
    if _suspect(raw) is not None:  # not only within a text
        try:
            json.loads(raw, parse_int=_int, parse_float=_float)
        except RecursionError:
            raise Bad(TOO_DEEP) from None


def _int(text: str) -> int:
    if len(text) > 20 or not MIN_INT <= int(text) <= MAX_INT:
        raise Bad(BAD_NUMBER, f"{text[:40]} is no 64-bit integer")
    return 0


def _float(text: str) -> float:
    if not math.isfinite(float(text)):
        raise Bad(BAD_NUMBER, f"{text[:40]} is beyond what a double holds")
    return 0.0


def depth(raw: bytes) -> int:
    """How deeply a valid JSON text is nested."""
    depth = deepest = 0
    for bracket in _bracket.findall(_string.sub(b"", raw)):
        if bracket in b"{[":
            depth += 1
            deepest = max(deepest, depth)
        else:
            depth -= 1
    return deepest
