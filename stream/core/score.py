"""How engaged is a person? A sum of weighted events, each of which halves in value every half-life.

Forward decay (Cormode, Shkapenyuk, Srivastava, Xu 2009): an event at time t is worth 2^((t - L0)/h), counted from a
fixed landmark L0, and the sum of these is kept as its logarithm. So an event is one addition, whenever it comes; late
ones need no special case; two persons' sums add up; nothing ever needs to be rewritten as time passes, and nothing
overflows (ten years are 521 for h = 7 days). What it is worth at a later time is one power:

    log <- log2(2^log + 2^((t - L0)/h))          value(t) = 2^(log - (t - L0)/h)

One such sum is kept for each indicator, unweighted. Weights come in when a score is read, so that changing them needs
no event again.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from math import exp2, expm1, floor, fsum, inf, log, log1p, log2
from typing import Final

from msgspec import Struct
from msgspec.structs import replace

from stream.core.activity import joined as joined_sessions
from stream.core.activity import united
from tracker.contract.durations import DAY_MS, HOUR_MS, MINUTE_MS
from tracker.contract.scoring import SESSION, Adds, ScoreRules, adds_of, weights_of

LANDMARK_MS: Final = 1_577_836_800_000
"""2020-01-01T00:00Z."""
WEEK_MS: Final = 7 * DAY_MS
MARKED_MS: Final = 8 * DAY_MS
E50: Final = 20.0
"""Of a site without active visitors."""
_LN2: Final = log(2.0)
_SURELY: Final = 2e-10
"""Part of a threshold by which a score is past it for every comparison: more than stream/core/lead.py's DIGITS."""
LOOK_AGAIN_MS: Final = HOUR_MS
_MOST: Final = 1000.0
"""Largest exponent: times before the events are no use, and must not overflow."""

Part = tuple[str, float, float]
"""(indicator, half-life in days, log2): what an event adds to a person's sum of an indicator, or takes from it."""
Mark = tuple[float, ...]
"""What a score was before the first event of an hour: (the event's minute since the epoch, half-life, score, half-life,
score, ...)."""


class Tally(Struct, frozen=True, array_like=True):
    """What is kept of one indicator; in JSON [log, half_life_d, n, day, today]."""

    log: float
    """log2 of the sum of its events' values, counted from the landmark."""
    half_life_d: float
    """In which `log` counts: that of the settings when its last event came."""
    n: int | float
    """How many events there were, also beyond the day's cap; the sum of their amounts, of an indicator of amounts."""
    day: int
    """The latest local day with one, since the epoch."""
    today: int
    """How many on that day count."""


Tallies = Mapping[str, Tally]


class Rules(Struct, frozen=True):
    """A site's `score` settings, complete."""

    weights: dict[str, float]
    log_weights: dict[str, float]
    """log2 of those above 0."""
    half_lives_d: dict[str, float]
    longest_d: float
    cap: int
    active: float
    floor: bool
    """A score is never below 0."""
    adds: dict[str, tuple[Adds, ...]]
    sessions: bool
    """They have a weight."""


def rules_of(score: ScoreRules) -> Rules:
    weights = weights_of(score)
    half_lives_d = {name: score.half_lives_d.get(name, score.half_life_d) for name in weights}
    log_weights = {name: log2(weight) for name, weight in weights.items() if weight > 0}
    longest_d = max(half_lives_d.values())
    return Rules(
        weights, log_weights, half_lives_d, longest_d, score.daily_cap, score.active, score.floor, adds_of(score),
        bool(weights[SESSION]),
    )  # fmt: skip


# -- one sum ---------------------------------------------------------------------------------------------------------


def position(at_ms: int, half_life_d: float) -> float:
    """(t - L0)/h: log2 of what an event at this time is worth, counted from the landmark."""
    return (at_ms - LANDMARK_MS) / (half_life_d * DAY_MS)


def log_add(a: float, b: float) -> float:
    """log2(2^a + 2^b); -inf is the empty sum. The same whichever comes first."""
    if a < b:
        a, b = b, a
    return a if b == -inf else a + log1p(exp2(b - a)) / _LN2


def log_sum(logs: Sequence[float]) -> float:
    """log2 of the sum of 2^each, of one or more. The same in any order."""
    most = max(logs)
    return most + log2(fsum([exp2(each - most) for each in logs]))


def value(tally: Tally, at_ms: int) -> float:
    """The sum's worth at this time: the number of its events, each halved every half-life."""
    return exp2(min(_MOST, tally.log - position(at_ms, tally.half_life_d)))


def counted(tally: Tally | None, at_ms: int, day: int, half_life_d: float, cap: int, last_ms: int) -> Tally | None:
    """With one event more; None when it is over the day's cap. `last_ms`: the latest event of any kind before.

    Days are told apart by the latest one only: a late event of a former day counts, however many it has had.
    """
    at = (at_ms - LANDMARK_MS) / (half_life_d * DAY_MS)  # `position` and, below, `log_add`: this is every event's way
    if tally is None:
        return Tally(at, half_life_d, 1, day, 1)
    latest, today = tally.day, tally.today
    if day >= latest:
        today = today + 1 if day == latest else 1
        if today > cap:
            return None
        latest = day
    if tally.half_life_d != half_life_d:
        tally = converted(tally, half_life_d, max(at_ms, last_ms))
    log = tally.log
    more, less = (log, at) if log > at else (at, log)
    return Tally(more + log1p(exp2(less - more)) / _LN2, half_life_d, tally.n + 1, latest, today)


def beyond(tally: Tally) -> Tally:
    """With one event more that is over the day's cap: it is only told."""
    return Tally(tally.log, tally.half_life_d, tally.n + 1, tally.day, tally.today)


def added(
    tally: Tally | None, at_ms: int, day: int, half_life_d: float, amount: float, capped: bool, cap: int, last_ms: int
) -> Tally | None:
    """With an amount more; None when it is `capped` and over the day's cap."""
    log = position(at_ms, half_life_d) + log2(amount)
    n = int(amount) if amount == int(amount) else amount
    if tally is None:
        return Tally(log, half_life_d, n, day, 1)
    latest, today = tally.day, tally.today
    if day >= latest:
        today = today + 1 if day == latest else 1
        if capped and today > cap:
            return None
        latest = day
    tally = converted(tally, half_life_d, max(at_ms, last_ms))
    return Tally(log_add(tally.log, log), half_life_d, tally.n + n, latest, today)


def converted(tally: Tally, half_life_d: float, at_ms: int) -> Tally:
    """The half-life was changed: what the sum is worth now stays, and halves in the new time from now on."""
    if tally.half_life_d == half_life_d:
        return tally
    log = tally.log - position(at_ms, tally.half_life_d) + position(at_ms, half_life_d)
    return replace(tally, log=log, half_life_d=half_life_d)


def joined(one: Tally, other: Tally, half_life_d: float, at_ms: int) -> Tally:
    """Two persons' sums as one; the caps are not applied again."""
    a, b = converted(one, half_life_d, at_ms), converted(other, half_life_d, at_ms)
    day = max(a.day, b.day)
    today = sum(t.today for t in (a, b) if t.day == day)
    return Tally(log_add(a.log, b.log), half_life_d, a.n + b.n, day, today)


# -- all of a person -------------------------------------------------------------------------------------------------


def merged(one: Tallies, other: Tallies, rules: Rules, at_ms: int) -> dict[str, Tally]:
    """Two persons' sums as one's, the same whichever comes first. (What an order or a session of both is: it is made
    anew, see stream/core/score_orders.py and `merged_sessions`.)"""
    out: dict[str, Tally] = {}
    for name in sorted({*one, *other}):
        a, b = one.get(name), other.get(name)
        if a is not None and b is not None:
            out[name] = joined(a, b, rules.half_lives_d.get(name, 7.0), at_ms)
        else:
            out[name] = a or b  # type: ignore[assignment]  # one of them has it
    return out


# -- sessions --------------------------------------------------------------------------------------------------------


class Sessions(Struct, frozen=True, array_like=True):
    """What a late event may still change: it may join two sessions, or let one begin earlier. So the indicator is made
    anew of these, and comes out the same in whatever order events come."""

    latest: tuple[tuple[int, int], ...]
    """(first event, last event), ms, sorted."""
    past: Tally | None = None
    """Of those before, which are only counted."""


Starts = tuple[int, ...]
"""When sessions began, ms."""


def visited(sessions: Sessions | None, ms: int, half_life_d: float, last_ms: int) -> tuple[Sessions, Starts, Starts]:
    """With an event of a visit, the same one where it changes nothing; what began with it, and what did not begin after
    all: a late event may join two, or let one begin earlier."""
    if sessions is None:
        return Sessions(((ms, ms),)), (ms,), ()
    n = int(sessions.past.n) if sessions.past is not None else 0
    latest, more = joined_sessions(sessions.latest, n, ms, ms)
    if latest is sessions.latest:
        return sessions, (), ()
    past, before, after = sessions.past, [s for s, _ in sessions.latest], [s for s, _ in latest]
    if more > n:
        oldest = min(ms, before[0])
        past = with_one(past, oldest, half_life_d, last_ms)
        after.append(oldest)
    return Sessions(latest, past), *_moved(before, after)


def _moved(before: list[int], after: list[int]) -> tuple[Starts, Starts]:
    if before == after:
        return (), ()
    old, new = Counter(before), Counter(after)
    return tuple((new - old).elements()), tuple((old - new).elements())


def session_parts(starts: Starts, half_life_d: float) -> tuple[Part, ...]:
    return tuple((SESSION, half_life_d, position(ms, half_life_d)) for ms in starts)


def merged_sessions(
    one: Sessions, other: Sessions, half_life_d: float, last_ms: int
) -> tuple[Sessions, Starts, Starts]:
    """Two persons' as one's, the same whichever comes first; what began, and what did not after all (see `visited`)."""
    gone, latest = united(one.latest, other.latest)
    pasts = [part.past for part in (one, other) if part.past is not None]
    past = joined(pasts[0], pasts[1], half_life_d, last_ms) if len(pasts) == 2 else pasts[0] if pasts else None
    for start, _ in gone:
        past = with_one(past, start, half_life_d, last_ms)
    starts = [[s for s, _ in of] for of in ((*one.latest, *other.latest), (*gone, *latest))]
    return Sessions(latest, past), *_moved(*starts)


def revised_sessions(sessions: Sessions, half_life_d: float, at_ms: int) -> Sessions:
    """Under another half-life."""
    past = sessions.past
    return sessions if past is None else replace(sessions, past=converted(past, half_life_d, at_ms))


def with_one(past: Tally | None, ms: int, half_life_d: float, last_ms: int) -> Tally:
    """A sum of what is only counted, with one more."""
    one = Tally(position(ms, half_life_d), half_life_d, 1, 0, 0)
    return one if past is None else joined(past, one, half_life_d, last_ms)


def tally_of(sessions: Sessions, half_life_d: float, utc_offset_ms: int, last_ms: int) -> Tally:
    """The indicator: each session counts when it began. There is no cap."""
    starts, past = [first for first, _ in sessions.latest], sessions.past
    logs = [position(ms, half_life_d) for ms in starts]
    if past is not None:
        logs.append(converted(past, half_life_d, last_ms).log)
    days = [(ms + utc_offset_ms) // DAY_MS for ms in starts]
    n = len(starts) + (past.n if past is not None else 0)
    return Tally(log_sum(logs), half_life_d, n, days[-1], days.count(days[-1]))


def weighted(tallies: Tallies, weights: Mapping[str, float], at_ms: int) -> dict[str, float]:
    """Indicator -> what it gives to the score at this time."""
    return {name: weights.get(name, 0.0) * value(tally, at_ms) for name, tally in tallies.items()}


def score(tallies: Tallies, weights: Mapping[str, float], at_ms: int) -> float:
    """E = sum of w_i n_i(t). Below 0 where what counts against it outweighs the rest."""
    return fsum([weights.get(name, 0.0) * value(tally, at_ms) for name, tally in tallies.items()])


def score_of(tallies: Tallies, rules: Rules, at_ms: int) -> float:
    """The score by a site's rules."""
    found = score(tallies, rules.weights, at_ms)
    return max(0.0, found) if rules.floor else found


def site_total(parts: Iterable[Part], back: Iterable[Part], weights: Mapping[str, float], at_ms: int) -> float:
    """E of all persons together, by the site's sums and what was taken back from them. No sum is below 0: where a
    half-life was changed, what is taken back decays otherwise than what it is taken from."""
    sums: dict[str, float] = {}
    for sign, each in ((1, parts), (-1, back)):
        for name, half_life_d, its_log in each:
            worth = value(Tally(its_log, half_life_d, 0, 0, 0), at_ms)
            sums[name] = sums.get(name, 0.0) + sign * worth
    return fsum([weights.get(name, 0.0) * max(0.0, worth) for name, worth in sums.items()])


def raw(tallies: Tallies, weights: Mapping[str, float]) -> float:
    """E without any decay: the sum of w_i n_i over all time."""
    return fsum([weights.get(name, 0.0) * tally.n for name, tally in tallies.items()])


def contributions(tallies: Tallies, weights: Mapping[str, float], at_ms: int) -> dict[str, float]:
    """Indicator -> w_i n_i/E, largest first; together 1. Empty when E is 0, but for its last digits."""
    parts = weighted(tallies, weights, at_ms)
    total = fsum(parts.values())
    # Of equal parts the name decides, not the last digit, which depends on the order of the events.
    ranked = sorted(parts.items(), key=lambda item: (-float(f"{abs(item[1]):.9g}"), item[0]))
    if abs(total) <= 1e-9 * fsum(abs(part) for part in parts.values()):
        return {}
    return {name: part / total for name, part in ranked if part}


def display(score: float, e50: float) -> float:
    """0..100; 50 = as engaged as the median of the active visitors."""
    return -100.0 * expm1(-_LN2 * score / e50) if score > 0 else 0.0


def rank(tallies: Tallies, rules: Rules, last_ms: int) -> float | None:
    """What orders persons by their score at any time: log2 of the score, counted from the landmark. None: no score.

    Exact where all half-lives are equal and no weight is negative. Else a bound that no score after `last_ms` exceeds:
    what counts against is left out, and all decays as slowly as the slowest.
    """
    longest, log_weights = rules.longest_d, rules.log_weights
    at = (last_ms - LANDMARK_MS) / DAY_MS
    logs = [
        log_weights[name] + t.log + (0.0 if t.half_life_d == longest else at / longest - at / t.half_life_d)
        for name, t in tallies.items() if name in log_weights
    ]  # fmt: skip
    return log_sum(logs) if logs else None


def bound(least: float, rules: Rules, at_ms: int) -> float:
    """Whose score is at least so much at this time has at least this rank."""
    return log2(least) + position(at_ms, rules.longest_d)


def of_rank(rank: float, rules: Rules, at_ms: int) -> float:
    """The score at this time that a rank stands for."""
    return exp2(min(_MOST, rank - position(at_ms, rules.longest_d)))


def falls_below(tallies: Tallies, weights: Mapping[str, float], least: float, from_ms: int) -> int | None:
    """The first millisecond from `from_ms` on at which the score is below `least`, if nothing happens; None: never.

    With one half-life t = L0 + h (log - log2 least); with several it is searched for.
    """
    if least <= 0:
        return None
    now = score(tallies, weights, from_ms)
    if now < least:
        return from_ms
    slowest = max(t.half_life_d for t in tallies.values())
    if all(t.half_life_d == slowest for t in tallies.values()):
        return from_ms + floor(slowest * DAY_MS * log2(now / least)) + 1
    positive = fsum(x for x in weighted(tallies, weights, from_ms).values() if x > 0)
    low, high = from_ms, from_ms + floor(slowest * DAY_MS * log2(positive / least)) + 2
    while high - low > 1:
        mid = (low + high) // 2
        if score(tallies, weights, mid) < least:
            high = mid
        else:
            low = mid
    return high


class Outlook(Struct, frozen=True):
    """A score at a time, and what decides how it goes on when nothing happens."""

    at_ms: int
    score: float
    half_life_d: float | None
    """None: of its sums they differ."""
    least_part: float
    largest: float
    """No later score is further from 0."""
    weights: Mapping[str, float]


def outlook(tallies: Tallies, weights: Mapping[str, float], at_ms: int) -> Outlook:
    parts = [weights.get(name, 0.0) * value(tally, at_ms) for name, tally in tallies.items()]
    half_lives = {t.half_life_d for t in tallies.values()}
    return Outlook(
        at_ms,
        fsum(parts),
        half_lives.pop() if len(half_lives) == 1 else None,
        min(parts, default=0.0),
        fsum([abs(part) for part in parts]),
        weights,
    )


def crosses(now: Outlook, tallies: Tallies, bar: float) -> int | None:
    """When the score may come to the other side of `bar`, if nothing happens; None: never. It is exact to a
    millisecond, but with several half-lives and something that counts against it, where it is a time to look again."""
    least = bar * (1 - _SURELY)
    if bar == 0 or now.largest <= abs(least):
        return None
    if now.half_life_d is not None:
        if now.score * bar <= 0 or abs(now.score) <= abs(least):
            return None
        return now.at_ms + floor(now.half_life_d * DAY_MS * (log2(now.score / bar) + 2 * _SURELY)) + 1
    if now.least_part >= 0:
        return falls_below(tallies, now.weights, least, now.at_ms) if bar > 0 else None
    return now.at_ms + LOOK_AGAIN_MS


# -- what it was -----------------------------------------------------------------------------------------------------


def marked(marks: tuple[Mark, ...], tallies: Tallies, weights: Mapping[str, float], minute: int) -> tuple[Mark, ...]:
    """With what the score is at this minute, if that is in a later hour than the last mark; eight days are kept."""
    if marks and marks[-1][0] // 60 >= minute // 60:
        return marks
    oldest = minute - MARKED_MS // MINUTE_MS
    return (*(m for m in marks if m[0] >= oldest), _mark(minute, _by_half_life(tallies, weights, minute * MINUTE_MS)))


def earlier(tallies: Tallies, marks: tuple[Mark, ...], weights: Mapping[str, float], at_ms: int) -> float:
    """What the score was, at most eight days ago, as it was known then. Exact but for what came later in its hour."""
    return fsum(_values_at(tallies, marks, weights, at_ms).values())


def week_ago(tallies: Tallies, marks: tuple[Mark, ...], rules: Rules, now_ms: int) -> float:
    """What the score was seven days ago: change_7d is from there."""
    then = earlier(tallies, marks, rules.weights, now_ms - WEEK_MS)
    return max(0.0, then) if rules.floor else then


def merged_marks(
    one: tuple[Tallies, tuple[Mark, ...]],
    other: tuple[Tallies, tuple[Mark, ...]],
    weights: Mapping[str, float],
    parts: Iterable[Part],
    back: Iterable[Part],
) -> tuple[Mark, ...]:
    """Two persons' as one's: scores add up, but for what of one person counts otherwise than of two (`parts` and what
    they replace). Of an hour the first is kept."""
    others = [(sign * weights.get(each[0], 0.0), each) for sign, of in ((1, parts), (-1, back)) for each in of]
    starts = sorted({int(m[0]) for _, marks in (one, other) for m in marks})
    out: list[Mark] = []
    for start in starts:
        if start < starts[-1] - MARKED_MS // MINUTE_MS or (out and out[-1][0] // 60 == start // 60):
            continue
        sums: dict[float, float] = {}
        for tallies, marks in (one, other):
            for h, v in _values_at(tallies, marks, weights, start * MINUTE_MS).items():
                sums[h] = sums.get(h, 0.0) + v
        for weight, (_, h, its_log) in others:
            ago = its_log - position(start * MINUTE_MS, h)
            if ago <= 0:  # it had happened
                sums[h] = sums.get(h, 0.0) + weight * exp2(ago)
        out.append(_mark(start, sums))
    return tuple(out)


def _values_at(
    tallies: Tallies, marks: tuple[Mark, ...], weights: Mapping[str, float], at_ms: int
) -> dict[float, float]:
    """Half-life -> score. Between a time and the next mark nothing happened, so it decayed to what the mark says."""
    for start, *values in marks:
        if start * MINUTE_MS >= at_ms:
            ago_d = (start * MINUTE_MS - at_ms) / DAY_MS
            pairs = zip(values[::2], values[1::2], strict=True)
            return {h: v * exp2(min(_MOST, ago_d / h)) for h, v in pairs}
    return _by_half_life(tallies, weights, at_ms)


def _by_half_life(tallies: Tallies, weights: Mapping[str, float], at_ms: int) -> dict[float, float]:
    parts: dict[float, list[float]] = {}
    for name, tally in tallies.items():
        parts.setdefault(tally.half_life_d, []).append(weights.get(name, 0.0) * value(tally, at_ms))
    return {h: fsum(each) for h, each in parts.items()}


def _mark(start: int, values: Mapping[float, float]) -> Mark:
    flat: Iterable[float] = (x for h in sorted(values) for x in (h, float(f"{values[h]:.6g}")) if values[h])
    return (start, *flat)
