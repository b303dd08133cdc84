"""How much of something an event tells: for indicators of the score that add up amounts (tracker/contract/scoring.py).

Nothing in properties is trusted, nothing raises: what is no number above 0 is no amount.
"""

from __future__ import annotations

from typing import Any, Final

import msgspec
from msgspec import Struct

from stream.core.parts import read_part
from stream.signals import shop
from tracker.contract.durations import MINUTE_MS
from tracker.contract.events import ProfileEvent
from tracker.contract.scoring import ACTIVE_MINUTES, MARKS

BEAT_MS: Final = 15_000
"""Of a Page Engaged that does not say how long."""
MOST_BEAT_MS: Final = 30_000
"""So much of one counts at most (domain: A107)."""
SCALES: Final = (3, 5, 7)
"""Of CSAT (domain: A009)."""
MAX_AMOUNT: Final = 1e12


class _Engaged(Struct):
    engaged_ms: Any = None


class _Answer(Struct):
    type: Any = None
    score: Any = None
    scale: Any = None


_engaged: Final = msgspec.json.Decoder(_Engaged)
_answer: Final = msgspec.json.Decoder(_Answer)
_properties: Final = msgspec.json.Decoder(dict[str, Any])


def amount(event: ProfileEvent, indicator: str, property: str) -> float | None:
    """What the event adds to the indicator; None: nothing. `property`: where an indicator of a site's own has it."""
    if property:
        said = read_part(_properties, event.properties) or {}
        found = shop.number(said.get(property), MAX_AMOUNT)
    elif indicator == ACTIVE_MINUTES:
        found = active_ms(event) / MINUTE_MS
    elif indicator in MARKS:
        found = _mark(event, indicator)
    else:
        return 1
    return found or None


def active_ms(event: ProfileEvent) -> int:
    """Of a Page Engaged: the time since the last one."""
    p = read_part(_engaged, event.properties)
    given = None if p is None else p.engaged_ms
    if isinstance(given, bool) or not isinstance(given, int | float):
        return BEAT_MS
    return int(min(max(given, 0), MOST_BEAT_MS)) if given == given else BEAT_MS


def _mark(event: ProfileEvent, indicator: str) -> float | None:
    """The mark of an answer, where it is one of this kind: of CSAT on a scale to 5, of the others as it is."""
    said = read_part(_answer, event.properties)
    if said is None or not isinstance(said.type, str) or said.type.strip().casefold() != indicator:
        return None
    least, most = MARKS[indicator]
    if indicator == "csat" and said.scale is not None:
        scale, score = shop.number(said.scale, SCALES[-1]), shop.number(said.score, SCALES[-1])
        if score is None or scale is None or scale not in SCALES or not least <= score <= scale:
            return None
        return most * score / scale
    score = shop.number(said.score, most)
    if score is None or score < least or (indicator == "nps" and score != int(score)):
        return None
    return score
