"""Feedback: answers to surveys (NPS, CSAT, CES), ratings, tickets, chats and calls, as numbers of a site by channel,
campaign, product and agent; and the reasons that people give (domain: A009, A010, A031, A109, A113, A462, A474).

An answer that is no number of its scale is rejected, and counted as that. Programs' events count nothing.
"""

from __future__ import annotations

from typing import Any, Final

import msgspec
from msgspec import Struct

from stream.core import feedback
from stream.core.feedback import Answer, Case, Feedback, Whose
from stream.core.parts import read_part
from stream.signals import shop
from stream.signals.base import Context, Result, Signal
from tracker.contract import events as ev
from tracker.contract.events import CHANNELS, ProfileEvent
from tracker.contract.keys import survey_reason_field
from tracker.contract.triggers import rfc3339

CASES: Final[dict[str, tuple[str, str]]] = {
    ev.TICKET_OPENED: ("ticket", "opened_ms"),
    ev.TICKET_ANSWERED: ("ticket", "answered_ms"),
    ev.TICKET_RESOLVED: ("ticket", "resolved_ms"),
    ev.CHAT_STARTED: ("chat", "opened_ms"),
    ev.CHAT_MESSAGE_RECEIVED: ("chat", "answered_ms"),
    ev.CHAT_ENDED: ("chat", "resolved_ms"),
}
"""Event -> (kind of support case, which of its times it tells). A chat's message is received by the customer."""
ASKED: Final = ("nps", "csat", "ces")
SURVEYS: Final = (*ASKED, "churn", "cancellation", "exit", "cart", "checkout", "product")
"""Types of surveys by which reasons are counted; others together are `other`."""
SUBSCRIPTION_CANCELLED: Final = "Subscription Cancelled"
CSAT_SCALES: Final = (2, 3, 5, 7)
CES_SCALES: Final = (5, 7)
THUMBS: Final[dict[str, int]] = {"true": 2, "1": 2, "up": 2, "yes": 2, "false": 1, "0": 1, "down": 1, "no": 1}
"""What is said with scale `thumbs`: 2 is up."""
MAX_REASON_CHARS: Final = 40
_CHANNELS: Final = frozenset(CHANNELS)
_NEW: Final = Feedback()


class _Said(Struct):
    type: Any = None
    score: Any = None
    scale: Any = None
    inverted: Any = None
    rating: Any = None
    reason: Any = None
    survey_id: Any = None
    survey: Any = None
    product_id: Any = None
    agent_id: Any = None
    ticket_id: Any = None
    conversation_id: Any = None
    id: Any = None


_said: Final = msgspec.json.Decoder(_Said)


class FeedbackSignal(Signal[Feedback]):
    name = "feedback"
    state_type = Feedback
    events: frozenset[str] | None = frozenset(
        (*CASES, ev.SURVEY_RESPONSE_RECEIVED, ev.PRODUCT_REVIEWED, ev.CALL_LOGGED, SUBSCRIPTION_CANCELLED)
    )
    settings: frozenset[str] = frozenset()

    def fold(self, state: Feedback | None, event: ProfileEvent, ctx: Context) -> Result:
        if event.bot is not None:
            return Result(state=state)
        p = read_part(_said, event.properties) or _Said()
        whose = _whose(event, p)
        if event.event in CASES:
            return _case(state, event, p, whose)
        if event.event == ev.SURVEY_RESPONSE_RECEIVED:
            return _survey(state, event, p, whose)
        found: list[str] = []
        if event.event == ev.CALL_LOGGED:
            found += feedback.fields("support", "call", whose)
        elif event.event == ev.PRODUCT_REVIEWED:
            found += feedback.fields("review", "received", whose)
            if p.rating is not None:
                rating = shop.number(p.rating, 5)
                is_one = rating is not None and rating >= 1
                value = ("rating", f"{rating:.1f}".removesuffix(".0")) if is_one else ("rejected", "rating")
                found += feedback.fields(*value, whose)
        elif (reason := _text(p.reason)) is not None:
            found.append(survey_reason_field("cancellation", reason))
        return Result(state=state, counts=tuple((field, 1) for field in found))

    def explain(self, state: Feedback, now_ms: int, ctx: Context) -> dict[str, Any]:
        """The latest answer to each NPS survey, and the support cases."""
        return {
            "nps": [
                {"survey": survey or None, "score": answer.score, "time": rfc3339(answer.ms)}
                for survey, answer in sorted(state.nps.items())
            ],
            "cases": [
                {
                    "case": id,
                    "opened": rfc3339(case.opened_ms) if case.opened_ms else None,
                    "answered": rfc3339(case.answered_ms) if case.answered_ms else None,
                    "resolved": rfc3339(case.resolved_ms) if case.resolved_ms else None,
                }
                for id, case in sorted(state.cases.items())
            ],
        }

    def merge(self, one: Feedback, other: Feedback, now_ms: int, ctx: Context) -> Result:
        after = feedback.merged(one, other)
        return Result(state=after, counts_at=tuple(feedback.difference(after, one, other)))


def _survey(state: Feedback | None, event: ProfileEvent, p: _Said, whose: Whose) -> Result:
    type = p.type.strip().casefold() if isinstance(p.type, str) else ""
    counts: list[str] = []
    if (reason := _text(p.reason)) is not None:
        counts.append(survey_reason_field(type if type in SURVEYS else "other", reason))
    if type not in ASKED:
        return Result(state=state, counts=tuple((field, 1) for field in counts))
    value = {"nps": _nps, "csat": _csat, "ces": _ces}[type](p)
    if value is None:
        counts += feedback.fields("rejected", type, whose)
    elif type != "nps":
        counts += feedback.fields(type, value, whose)
    else:
        before = state or _NEW
        survey = shop.text(p.survey_id, shop.MAX_ID_CHARS) or shop.text(p.survey, shop.MAX_ID_CHARS) or ""
        after = feedback.answered(before, survey, Answer(event.timestamp_ms, int(value), whose))
        at = tuple(feedback.difference(after, before))
        return Result(state=after, counts=tuple((field, 1) for field in counts), counts_at=at)
    return Result(state=state, counts=tuple((field, 1) for field in counts))


def _case(state: Feedback | None, event: ProfileEvent, p: _Said, whose: Whose) -> Result:
    kind, time = CASES[event.event or ""]
    id = next((t for v in (p.ticket_id, p.conversation_id, p.id) if (t := shop.text(v, shop.MAX_ID_CHARS))), None)
    case = Case(**{time: event.timestamp_ms}, whose=whose)
    if id is None:  # It is counted, but nobody knows what it began or ended.
        alone = feedback.noted(_NEW, kind, case)
        return Result(state=state, counts_at=tuple(feedback.difference(alone)))
    before = state or _NEW
    after = feedback.noted(before, f"{kind} {id}", case)
    return Result(state=after, counts_at=tuple(feedback.difference(after, before)))


def _whose(event: ProfileEvent, p: _Said) -> Whose:
    return Whose(
        event.channel if event.channel in _CHANNELS else "other",
        shop.campaign(shop.properties(event.properties)) or "",
        shop.text(p.product_id, shop.MAX_ID_CHARS) or "",
        shop.text(p.agent_id, shop.MAX_ID_CHARS) or "",
    )


def _whole(value: object, least: int, most: int) -> int | None:
    number = shop.number(value, most)
    return int(number) if number is not None and number >= least and number == int(number) else None


def _nps(p: _Said) -> str | None:
    score = _whole(p.score, 0, 10)
    return None if score is None else str(score)


def _csat(p: _Said) -> str | None:
    """SCALE:SCORE."""
    if isinstance(p.scale, str) and p.scale.strip().casefold() == "thumbs":
        up = THUMBS.get(str(p.score).strip().casefold()) if isinstance(p.score, str | int) else None
        return None if up is None else f"2:{up}"
    scale = 5 if p.scale is None else _whole(p.scale, 2, 7)
    score = _whole(p.score, 1, scale) if scale in CSAT_SCALES and scale is not None else None
    return None if score is None else f"{scale}:{score}"


def _ces(p: _Said) -> str | None:
    """On a scale of 7, on which 7 is very easy."""
    scale = 7 if p.scale is None else _whole(p.scale, 5, 7)
    score = _whole(p.score, 1, scale) if scale in CES_SCALES and scale is not None else None
    if score is None or scale is None:
        return None
    easy = scale + 1 - score if p.inverted is True else score
    return f"{1 + 6 * (easy - 1) / (scale - 1):g}"


def _text(value: object) -> str | None:
    text = shop.text(value, MAX_REASON_CHARS)
    return None if text is None else text.casefold()
