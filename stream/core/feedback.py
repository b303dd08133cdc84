"""What people say of a site in numbers (NPS, CSAT, CES, ratings), and how long its support takes. Pure.

Most of it is counted as it comes. Two things are kept of a profile, for what comes later changes what was counted: the
answer to each NPS survey, of which the latest counts (domain: A031), and the support cases, whose times are differences
between events. What is counted of them is `items`, and the difference of two of these is what is to be counted.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from typing import Final

from msgspec import Struct

from tracker.contract import keys
from tracker.contract.spans import bucket

MAX_SURVEYS: Final = 16
MAX_CASES: Final = 16

Item = tuple[str, int]
"""(field, when it is counted, ms)."""


class Whose(Struct, frozen=True, array_like=True, omit_defaults=True):
    """What a number is counted by, besides the channel; '': not said."""

    channel: str = "other"
    campaign: str = ""
    product: str = ""
    agent: str = ""


class Answer(Struct, frozen=True, array_like=True, order=True):
    """To an NPS survey."""

    ms: int
    score: int
    whose: Whose


class Case(Struct, frozen=True, array_like=True, order=True):
    """A ticket or a chat. Times in ms; 0: not yet, or nobody said."""

    opened_ms: int = 0
    answered_ms: int = 0
    """First."""
    resolved_ms: int = 0
    """Last."""
    whose: Whose = Whose()


class Feedback(Struct, frozen=True, omit_defaults=True):
    """The state of the signal `feedback`."""

    nps: dict[str, Answer] = {}
    """Survey ('': of none that is named) -> the answer, of the latest ones."""
    cases: dict[str, Case] = {}
    """KIND ID -> the latest cases."""


def answered(state: Feedback, survey: str, answer: Answer) -> Feedback:
    """With an answer to an NPS survey; an older one than is known changes nothing."""
    known = state.nps.get(survey)
    if known is not None and _rank(known) >= _rank(answer):
        return state
    return _bounded(Feedback({**state.nps, survey: answer}, state.cases))


def noted(state: Feedback, id: str, case: Case) -> Feedback:
    """With something that became of a support case."""
    known = state.cases.get(id)
    after = case if known is None else _both(known, case)
    return state if after == known else _bounded(Feedback(state.nps, {**state.cases, id: after}))


def merged(one: Feedback, other: Feedback) -> Feedback:
    nps, cases = dict(one.nps), dict(one.cases)
    for survey, answer in other.nps.items():
        nps[survey] = max(nps.get(survey, answer), answer, key=_rank)
    for id, case in other.cases.items():
        cases[id] = _both(cases[id], case) if id in cases else case
    return _bounded(Feedback(nps, cases))


def difference(after: Feedback, *before: Feedback) -> list[tuple[str, int, int]]:
    """(field, n, ms): what is to be counted of the change. What was dropped, for there is too much, stays counted."""
    sums: Counter[Item] = Counter()
    for sign, states in ((1, (after,)), (-1, before)):
        for state in states:
            for survey, answer in state.nps.items():
                if survey in after.nps:
                    for item, n in _of_answer(answer):
                        sums[item] += sign * n
            for id, case in state.cases.items():
                if id in after.cases:
                    for item, n in _of_case(id, case):
                        sums[item] += sign * n
    return [(field if n > 0 else keys.undone_field(field), abs(n), ms) for (field, ms), n in sorted(sums.items()) if n]


def fields(metric: str, value: str, whose: Whose) -> Iterator[str]:
    """The counters of a number: by channel, and by what else it names."""
    yield keys.feedback_field(metric, value, whose.channel)
    for by, name in (("campaign", whose.campaign), ("product", whose.product), ("agent", whose.agent)):
        if name:
            yield keys.feedback_by_field(by, metric, value, name)


def _of_answer(answer: Answer) -> Iterator[tuple[Item, int]]:
    for field in fields("nps", str(answer.score), answer.whose):
        yield (field, answer.ms), 1


def _of_case(id: str, case: Case) -> Iterator[tuple[Item, int]]:
    kind, _, _ = id.partition(" ")
    found: list[tuple[str, str, int, int]] = []
    if case.opened_ms:
        found.append(("support", kind, 1, case.opened_ms))
    if case.resolved_ms:
        found.append(("support", "resolved", 1, case.resolved_ms))
    for metric, until_ms in (("response", case.answered_ms), ("resolution", case.resolved_ms)):
        took_ms = until_ms - case.opened_ms
        if case.opened_ms and until_ms and took_ms >= 0:
            found.append((metric, str(bucket(took_ms)), 1, until_ms))
            if took_ms:
                found.append((metric, "ms", took_ms, until_ms))
    for metric, value, n, ms in found:
        for field in fields(metric, value, case.whose):
            yield (field, ms), n


def _both(one: Case, other: Case) -> Case:
    """It is of the channel in which it was opened, and of the agent who is named (of several the last by name)."""
    whose = max(one, other, key=lambda c: (c.opened_ms > 0, -c.opened_ms, _names(c.whose))).whose
    return Case(
        _first(one.opened_ms, other.opened_ms),
        _first(one.answered_ms, other.answered_ms),
        max(one.resolved_ms, other.resolved_ms),
        Whose(whose.channel, whose.campaign, whose.product, max(one.whose.agent, other.whose.agent)),
    )


def _names(whose: Whose) -> tuple[str, ...]:
    return (whose.channel, whose.campaign, whose.product, whose.agent)


def _first(one: int, other: int) -> int:
    return min(one, other) if one and other else one or other


def _rank(answer: Answer) -> tuple[int, int, tuple[str, ...]]:
    return (answer.ms, answer.score, _names(answer.whose))


def _bounded(state: Feedback) -> Feedback:
    if len(state.nps) <= MAX_SURVEYS and len(state.cases) <= MAX_CASES:
        return state
    nps = sorted(state.nps, key=lambda survey: (state.nps[survey].ms, survey))[-MAX_SURVEYS:]
    cases = sorted(state.cases, key=lambda id: (_last_ms(state.cases[id]), id))[-MAX_CASES:]
    return Feedback({s: state.nps[s] for s in nps}, {id: state.cases[id] for id in cases})


def _last_ms(case: Case) -> int:
    return max(case.opened_ms, case.answered_ms, case.resolved_ms)
