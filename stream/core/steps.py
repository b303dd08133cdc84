"""At which of the 14 steps somebody has been when (tracker/contract/steps.py). Pure.

Kept are moves: the kind of what was done, and when, where it is another kind than before it; a step follows from the
kinds in their order, so an order that comes late changes what those after it were. A late event is put where it belongs
by time, and what is counted is the difference. (Of a run of one kind the first and, within an hour, the last are kept:
of more than these a late event that divides the run knows nothing.)
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Final

from msgspec import Struct
from msgspec.structs import replace

from tracker.contract.durations import HOUR_MS
from tracker.contract.spans import bucket
from tracker.contract.steps import KINDS

MAX_MOVES: Final = 40
NOTED_MS: Final = HOUR_MS
"""A step that goes on is noted again after so long: a write an hour, not one an event."""
ORDER, USED = "order", "use"
_RANK: Final = {kind: i for i, kind in enumerate(KINDS)}
"""Of what happens in one millisecond, as a page and the product on it do, the step that comes first goes first."""

Move = tuple[int, str]
"""(ms, kind)."""
Transition = tuple[int, int, int, int]
"""(from, to, bucket of the time between, ms of the move); from 0: the first of all."""
Difference = Mapping[Transition, int]
"""Transition -> how many more of it."""


class Steps(Struct, frozen=True, omit_defaults=True):
    """The state of the signal `steps`."""

    moves: tuple[Move, ...] = ()
    """Sorted by time: the latest."""
    more: int = 0
    """Moves before those."""
    step: int = 0
    """The step that these led to."""
    ordered: bool = False
    """An order is among these;"""
    used: bool = False
    """a use."""
    day: int = -1
    """The latest local day with a visit."""

    def had_ordered(self, ms: int) -> bool:
        """Whether there was an order before."""
        return self.ordered or any(kind == ORDER and at < ms for at, kind in self.moves)


def steps_of(state: Steps) -> list[tuple[int, int]]:
    """(ms, step), where it changes; from 1 on."""
    step, ordered, used = state.step, state.ordered, state.used
    out: list[tuple[int, int]] = []
    for ms, kind in state.moves:
        before, after = KINDS[kind]
        to = after if (used if kind == USED else ordered) else before
        ordered, used = ordered or kind == ORDER, used or kind == USED
        if to and to != step:
            out.append((ms, to))
            step = to
    return out


def is_known(state: Steps, ms: int, kind: str) -> bool:
    """Whether it is at the latest step anyway, and that was noted within the hour: asked of most events."""
    if not state.moves:
        return False
    last_ms, last = state.moves[-1]
    if last != kind or not last_ms <= ms < last_ms + NOTED_MS:
        return False
    if kind == ORDER:
        return state.ordered or _count(state, kind) > 1
    return kind != USED or state.used or _count(state, kind) > 1


def _count(state: Steps, kind: str) -> int:
    n = 0
    for _, of in state.moves:
        n += of == kind
    return n


def moved(state: Steps, ms: int, *kinds: str) -> tuple[Steps, Difference]:
    """(with something more that was done, the transitions that there are more, or with n < 0 fewer)."""
    last = state.moves[-1] if state.moves else None
    if len(kinds) == 1 and (last is None or (last[1] != kinds[0] and _place(last) < _place((ms, kinds[0])))):
        return _appended(state, ms, kinds[0])
    moves = _runs((*state.moves, *((ms, kind) for kind in kinds)), state)
    if moves == state.moves or (state.more and moves[0] != state.moves[0]):
        return state, {}  # within a run, or before all that is kept
    whole = replace(state, moves=moves)
    return _bounded(whole), _difference(whole, state)


def _appended(state: Steps, ms: int, kind: str) -> tuple[Steps, Difference]:
    """The same for by far the most: something new, in its order. One walk, as `steps_of` without the list."""
    last, ordered, used = state.step, state.ordered, state.used
    since_ms: int | None = None
    for move_ms, of in state.moves:
        before, after = KINDS[of]
        to = after if (used if of == USED else ordered) else before
        if of == ORDER:
            ordered = True
        elif of == USED:
            used = True
        if to and to != last:
            since_ms, last = move_ms, to
    before, after = KINDS[kind]
    to = after if (used if kind == USED else ordered) else before
    moves = (*state.moves, (ms, kind))
    whole = Steps(moves, state.more, state.step, state.ordered, state.used, state.day)
    if len(moves) > MAX_MOVES:
        whole = _bounded(whole)
    if not to or to == last:
        return whole, {}
    if since_ms is not None:
        return whole, {(last, to, bucket(ms - since_ms), ms): 1}
    return whole, {} if state.more else {(0, to, 0, ms): 1}


def merged(one: Steps, other: Steps) -> tuple[Steps, Difference]:
    """Both as one person's. What was dropped of either counts as before all that is kept."""
    base = max(one, other, key=lambda s: (s.more, s.step))
    start = Steps(
        (), one.more + other.more, base.step, one.ordered or other.ordered, one.used or other.used,
        max(one.day, other.day),
    )  # fmt: skip
    whole = replace(start, moves=_runs(dict.fromkeys((*one.moves, *other.moves)), start))
    return _bounded(whole), _difference(whole, one, other)


def transitions(state: Steps) -> Counter[Transition]:
    found: Counter[Transition] = Counter()
    before, before_ms = 0, None
    for ms, step in steps_of(state):
        if before_ms is not None:
            found[before, step, bucket(ms - before_ms), ms] += 1
        elif not state.more:
            found[0, step, 0, ms] += 1
        before, before_ms = step, ms
    return found


def _difference(after: Steps, *before: Steps) -> Difference:
    found = transitions(after)
    for state in before:
        found.subtract(transitions(state))
    return {transition: n for transition, n in found.items() if n}


def _bounded(state: Steps) -> Steps:
    """The oldest of too many moves as what they have led to."""
    n = len(state.moves) - MAX_MOVES
    if n <= 0:
        return state
    gone, kinds = replace(state, moves=state.moves[:n]), {kind for _, kind in state.moves[:n]}
    steps = steps_of(gone)
    return Steps(
        state.moves[n:], state.more + n, steps[-1][1] if steps else state.step, state.ordered or ORDER in kinds,
        state.used or USED in kinds, state.day,
    )  # fmt: skip


def _place(move: Move) -> tuple[int, int]:
    ms, kind = move
    return ms, _RANK[kind]


def _runs(moves: Iterable[Move], state: Steps) -> tuple[Move, ...]:
    """Sorted, of each run of one kind the first and the last; of orders and use the second of all, too: it is another
    step than the first."""
    out: list[Move] = []
    seen = {ORDER: 2 * state.ordered, USED: 2 * state.used}
    at_will = False
    """Whether the last one goes when another of its kind follows."""
    for ms, kind in sorted(moves, key=_place):
        n = seen.get(kind, 2)
        if not out or out[-1][1] != kind:
            at_will = False
        elif at_will:
            out.pop()
        else:
            at_will = n >= 2
        seen[kind] = n + 1
        out.append((ms, kind))
    return tuple(out)
